//! What is measured, epoch by epoch, and the files that keep it.

use super::{METRICS_CSV, METRICS_JSON, TrainError, file::write_atomically};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// Measurements of one epoch.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct EpochMetrics {
    /// Counted from 1.
    #[prost(uint32, tag = "1")]
    pub epoch: u32,
    /// Mean over the training examples, each in the step that it was trained in.
    #[prost(double, tag = "2")]
    pub train_loss: f64,
    /// Share of right predictions, counted alike.
    #[prost(double, tag = "3")]
    pub train_accuracy: f64,
    /// Mean over the test split, after the epoch.
    #[prost(double, tag = "4")]
    pub test_loss: f64,
    /// Share of right predictions on the test split, after the epoch.
    #[prost(double, tag = "5")]
    pub test_accuracy: f64,
    /// Share of live weights in the sparse layers, after the epoch.
    #[prost(double, tag = "6")]
    pub density: f64,
    /// In the epoch's last step.
    #[prost(double, tag = "7")]
    pub learning_rate: f64,
    /// Training examples a second, mutation included and evaluation not.
    #[prost(double, tag = "8")]
    pub images_per_s: f64,
    /// Training examples.
    #[prost(uint32, tag = "9")]
    pub examples: u32,
    /// Examples of the training split that were left out.
    #[prost(uint32, tag = "10")]
    pub removed: u32,
    /// Examples learned and never forgotten so far (with `sieve`, since the last change); `None` where that is not counted.
    #[prost(uint32, optional, tag = "11")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unforgettable: Option<u32>,
    /// Mean loss over what is held out, after the epoch; `None` where nothing is.
    #[prost(double, optional, tag = "12")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// Share of right predictions there.
    #[prost(double, optional, tag = "13")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_accuracy: Option<f64>,
    /// Seconds of the epoch's iterations, mutation included and evaluation not.
    #[prost(double, tag = "14")]
    pub train_s: f64,
    /// Processor time of all threads in that time, in seconds; `None` where the system doesn't tell it.
    #[prost(double, optional, tag = "15")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_processor_s: Option<f64>,
}

/// What a training has come to; `metrics.json` is this.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FitReport {
    /// Every epoch, those before an interruption included.
    pub epochs: Vec<EpochMetrics>,
    /// After the last epoch.
    pub test_accuracy: f64,
    /// The best of all epochs.
    pub best_test_accuracy: f64,
    /// The epoch whose weights the network has: with `early-stop` that of the smallest validation loss, else the last.
    pub kept_epoch: u32,
    /// Examples trained on, counted once an epoch.
    pub examples_trained: u64,
    /// Examples that the last epoch left out.
    pub examples_removed: u32,
    /// Share of the examples of all epochs that were left out.
    pub examples_saved: f64,
    /// Bytes of the memory plan.
    pub planned_bytes: usize,
    /// Largest resident memory of the process, where the system tells it.
    pub peak_rss_bytes: Option<u64>,
    /// Seconds of training, those before an interruption included.
    pub wall_s: f64,
    /// Whether every epoch is done.
    #[serde(skip)]
    pub finished: bool,
}

impl FitReport {
    /// Sums up `epochs`.
    pub(super) fn new(epochs: &[EpochMetrics], planned_bytes: usize, wall_s: f64, finished: bool) -> Self {
        let sum = |count: fn(&EpochMetrics) -> u32| epochs.iter().map(|epoch| u64::from(count(epoch))).sum::<u64>();
        let (trained, removed) = (sum(|epoch| epoch.examples), sum(|epoch| epoch.removed));
        FitReport {
            examples_trained: trained,
            examples_removed: epochs.last().map_or(0, |epoch| epoch.removed),
            examples_saved: removed as f64 / (trained + removed).max(1) as f64,
            test_accuracy: epochs.last().map_or(0.0, |epoch| epoch.test_accuracy),
            kept_epoch: epochs.last().map_or(0, |epoch| epoch.epoch),
            best_test_accuracy: epochs.iter().map(|epoch| epoch.test_accuracy).fold(0.0, f64::max),
            epochs: epochs.to_vec(),
            planned_bytes,
            peak_rss_bytes: peak_rss_bytes(),
            wall_s,
            finished,
        }
    }

    /// Writes `metrics.csv` and `metrics.json` into `folder`.
    pub(super) fn write(&self, folder: &Path) -> Result<(), TrainError> {
        write_atomically(&folder.join(METRICS_CSV), self.csv().as_bytes())?;
        let path = folder.join(METRICS_JSON);
        let text = serde_json::to_string_pretty(self).map_err(|error| TrainError::Write { path: path.clone(), source: error.into() })?;
        write_atomically(&path, text.as_bytes())
    }

    fn csv(&self) -> String {
        let mut text = String::from(
            "epoch,train_loss,train_accuracy,test_loss,test_accuracy,density,learning_rate,images_per_s,examples,removed,validation_loss,validation_accuracy,train_s,train_processor_s\n",
        );
        for e in &self.epochs {
            let losses = [e.train_loss, e.train_accuracy, e.test_loss, e.test_accuracy, e.density, e.learning_rate, e.images_per_s];
            let values = losses.map(|value| value.to_string()).join(",");
            let optional = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
            let (loss, accuracy) = (optional(e.validation_loss), optional(e.validation_accuracy));
            // Writing to a string doesn't fail.
            let _ = writeln!(
                text,
                "{},{values},{},{},{loss},{accuracy},{},{}",
                e.epoch,
                e.examples,
                e.removed,
                e.train_s,
                optional(e.train_processor_s)
            );
        }
        text
    }
}

/// Ticks of the processor time in `/proc`, a second: the same in every Linux there is.
const TICKS: f64 = 100.0;

/// Processor time that this process has taken so far, in seconds; `None` where `/proc` doesn't tell.
pub(super) fn processor_s() -> Option<f64> {
    processor_time(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// User and system time of a line of `stat`, its 14th and 15th field. The second, the program's name, may hold anything.
fn processor_time(stat: &str) -> Option<f64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / TICKS)
}

/// The largest resident memory that this process has had, in bytes; `None` where `/proc` doesn't tell.
pub fn peak_rss_bytes() -> Option<u64> {
    high_water_mark(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn high_water_mark(status: &str) -> Option<u64> {
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(kibibytes.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> FitReport {
        let epoch = |epoch, test_accuracy| EpochMetrics { epoch, test_accuracy, train_loss: 0.5, examples: 10, ..Default::default() };
        FitReport::new(&[epoch(1, 0.9), epoch(2, 0.8)], 1000, 2.5, true)
    }

    #[test]
    fn the_last_epoch_counts_and_the_best_is_beside_it() {
        let report = report();
        assert_eq!((report.test_accuracy, report.best_test_accuracy), (0.8, 0.9));
    }

    #[test]
    fn processor_time_is_read_behind_the_programs_name() {
        let stat = "42 (a) b 1 (c) R 1 42 42 0 -1 4194304 90 0 0 0 123 77 0 0 20 0 1 0 100 1000 50";
        assert_eq!(processor_time(stat), Some(2.0));
        assert_eq!(processor_time("42 (cut off) R 1"), None);
    }

    #[test]
    fn files_hold_what_scripts_rely_on() {
        let folder = tempfile::tempdir().unwrap();
        report().write(folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join(METRICS_JSON)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for key in ["examples_trained", "examples_removed", "examples_saved"] {
            assert!(json[key].is_number(), "{key}");
        }
        for key in ["epochs", "test_accuracy", "best_test_accuracy", "planned_bytes", "peak_rss_bytes", "wall_s"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        for key in ["epoch", "train_loss", "test_accuracy", "density", "images_per_s", "examples", "train_s"] {
            assert!(json["epochs"][1][key].is_number(), "{key}");
        }
        let csv = std::fs::read_to_string(folder.path().join(METRICS_CSV)).unwrap();
        let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [14, 14, 14]);
        assert!(csv.lines().nth(2).unwrap().starts_with("2,0.5,"), "{csv}");
    }

    #[test]
    fn the_high_water_mark_is_in_kibibytes() {
        assert_eq!(high_water_mark("VmPeak:\t 9 kB\nVmHWM:\t  2048 kB\n"), Some(2 << 20));
        assert_eq!(high_water_mark("VmHWM: many\n"), None);
        if cfg!(target_os = "linux") {
            assert!(peak_rss_bytes().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
