//! Finished runs as tables: a line a run, and a line for all seeds of a combination.

use super::grid::Cell;
use crate::accounting::{Accounting, StageMemory};
use crate::cli::failure::Failure;
use crate::cli::output::{Align, Output, Table};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The key that is averaged over.
const SEED: &str = "seed";

/// A finished run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    /// Its folder's name.
    pub(super) name: String,
    /// The grid's keys and this run's values.
    pub(super) values: BTreeMap<String, String>,
    /// Sparsity of the sparse layers at the end; 0 where there are none.
    pub(super) sparsity: f64,
    pub(super) epochs: usize,
    /// On the test split, after the last epoch.
    pub(super) accuracy: f64,
    /// Of training and evaluation.
    pub(super) seconds: f64,
    /// Of all threads in training, where the system says: what other programs on the machine don't change.
    pub(super) processor_seconds: Option<f64>,
    /// Of training, mean over the epochs.
    pub(super) images_per_s: f64,
    pub(super) peak_rss: Option<u64>,
    pub(super) memory: Accounting,
}

impl Run {
    /// From a run's `metrics.json`; `None` where that lacks what is needed.
    pub(super) fn new(cell: &Cell, metrics: &Value, memory: Accounting) -> Option<Self> {
        let epochs = metrics["epochs"].as_array()?;
        let speeds: Vec<f64> = epochs.iter().filter_map(|epoch| epoch["images_per_s"].as_f64()).collect();
        let processor_seconds = epochs.iter().map(|epoch| epoch["train_processor_s"].as_f64()).sum();
        let density = if cell.recipe.policy.0.name() == "dense" {
            1.0
        } else {
            epochs.last().map_or(1.0, |epoch| epoch["density"].as_f64().unwrap_or(1.0))
        };
        Some(Run {
            name: cell.name.clone(),
            values: cell.values.clone(),
            sparsity: 1.0 - density,
            epochs: epochs.len(),
            accuracy: metrics["test_accuracy"].as_f64()?,
            seconds: metrics["wall_s"].as_f64()?,
            processor_seconds,
            images_per_s: Spread::of(speeds).mean,
            peak_rss: metrics["peak_rss_bytes"].as_u64(),
            memory,
        })
    }
}

/// Mean and standard deviation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spread {
    pub(super) mean: f64,
    /// Of the sample (n - 1); `None` of one value.
    pub(super) deviation: Option<f64>,
}

impl Spread {
    pub(super) fn of(values: Vec<f64>) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count.max(1.0);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Spread { mean, deviation: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) }
    }

    fn show(self, scale: f64, decimals: usize) -> String {
        let deviation = self.deviation.map_or_else(String::new, |deviation| format!(" ± {:.decimals$}", deviation * scale));
        format!("{:.decimals$}{deviation}", self.mean * scale)
    }
}

/// Runs that differ in the seed alone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    /// The grid's keys but the seed, and their values.
    pub(super) values: BTreeMap<String, String>,
    pub(super) runs: usize,
    pub(super) sparsity: f64,
    pub(super) accuracy: Spread,
    pub(super) seconds: Spread,
    /// `None` where a run does not know it.
    pub(super) processor_seconds: Option<Spread>,
    pub(super) images_per_s: Spread,
    /// The same for every seed.
    pub(super) memory: Accounting,
}

impl Group {
    pub(super) fn to_json(&self) -> Value {
        let spread = |spread: Spread| json!({ "mean": spread.mean, "deviation": spread.deviation });
        json!({
            "values": self.values, "runs": self.runs, "sparsity": self.sparsity, "test_accuracy": spread(self.accuracy),
            "wall_s": spread(self.seconds), "train_processor_s": self.processor_seconds.map(spread), "images_per_s": spread(self.images_per_s), "memory": self.memory,
        })
    }
}

/// Groups in the order of their first runs.
pub(super) fn groups(runs: &[Run]) -> Vec<Group> {
    let values = |run: &Run| run.values.iter().filter(|(key, _)| *key != SEED).map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut members: Vec<(BTreeMap<String, String>, Vec<&Run>)> = vec![];
    for run in runs {
        let values = values(run);
        match members.iter_mut().find(|(known, _)| *known == values) {
            Some((_, runs)) => runs.push(run),
            None => members.push((values, vec![run])),
        }
    }
    let group = |(values, runs): (BTreeMap<String, String>, Vec<&Run>)| {
        let of = |value: fn(&Run) -> f64| Spread::of(runs.iter().map(|run| value(run)).collect());
        Group {
            values,
            runs: runs.len(),
            sparsity: of(|run| run.sparsity).mean,
            accuracy: of(|run| run.accuracy),
            seconds: of(|run| run.seconds),
            processor_seconds: runs.iter().map(|run| run.processor_seconds).collect::<Option<_>>().map(Spread::of),
            images_per_s: of(|run| run.images_per_s),
            memory: runs[0].memory.clone(),
        }
    };
    members.into_iter().map(group).collect()
}

fn shown(keys: &[String]) -> impl Iterator<Item = &String> {
    keys.iter().filter(|key| *key != SEED)
}

/// Millions of bytes, as papers count them.
fn megabytes(bytes: usize) -> String {
    format!("{:.2}", bytes as f64 / 1e6)
}

fn by_stage(memory: &Accounting, of: fn(&StageMemory) -> usize) -> String {
    memory.stages.iter().map(|stage| megabytes(of(stage))).collect::<Vec<_>>().join(" / ")
}

/// Columns of a comparison behind the grid's keys.
const COLUMNS: [&str; 9] = [
    "runs",
    "accuracy %",
    "time s",
    "training, processor s",
    "images/s",
    "published peak MB",
    "published by stage MB",
    "planned peak MB",
    "planned by stage MB",
];

fn cells(group: &Group, keys: &[String]) -> Vec<String> {
    let mut cells: Vec<String> = shown(keys).map(|key| group.values.get(key).cloned().unwrap_or_else(|| "-".to_owned())).collect();
    cells.extend([
        group.runs.to_string(),
        group.accuracy.show(100.0, 2),
        group.seconds.show(1.0, 1),
        group.processor_seconds.map_or_else(|| "-".to_owned(), |seconds| seconds.show(1.0, 1)),
        group.images_per_s.show(1.0, 0),
        megabytes(group.memory.published_peak),
        by_stage(&group.memory, |stage| stage.published),
        megabytes(group.memory.planned),
        by_stage(&group.memory, |stage| stage.in_use),
    ]);
    cells
}

/// Prints the comparison.
pub(super) fn print(groups: &[Group], keys: &[String], output: &mut Output) -> Result<(), Failure> {
    let columns = shown(keys).map(|key| (key.as_str(), Align::Left)).chain(COLUMNS.map(|name| (name, Align::Right)));
    let mut table = Table::new(&columns.collect::<Vec<_>>());
    groups.iter().for_each(|group| table.row(cells(group, keys)));
    output.table(&table)
}

/// The comparison in Markdown.
pub(super) fn markdown(groups: &[Group], keys: &[String]) -> String {
    let names: Vec<&str> = shown(keys).map(String::as_str).chain(COLUMNS).collect();
    let mut text = format!("| {} |\n|{}\n", names.join(" | "), names.iter().map(|_| "---|").collect::<String>());
    for group in groups {
        text.push_str(&format!("| {} |\n", cells(group, keys).join(" | ")));
    }
    text.push_str(
        "\nAccuracy on the test split after the last epoch; mean ± standard deviation over seeds. Published: 32-bit weights, gradients and \
         indices, as papers count them. Planned: the whole training state, activations included. Stages are those of the mutation schedule.\n",
    );
    text
}

/// A line a run.
pub(super) fn csv(runs: &[Run], keys: &[String]) -> String {
    let quoted = |text: &str| if text.contains(',') { format!("\"{text}\"") } else { text.to_owned() };
    let measured =
        "epochs,final_sparsity,test_accuracy,wall_s,train_processor_s,images_per_s,planned_bytes,published_peak_bytes,peak_rss_bytes";
    let mut text = format!("run,{},{measured}\n", keys.join(","));
    for run in runs {
        let values: Vec<String> = keys.iter().map(|key| quoted(run.values.get(key).map_or("", String::as_str))).collect();
        let memory = &run.memory;
        let rss = run.peak_rss.map_or_else(String::new, |bytes| bytes.to_string());
        let processor_seconds = run.processor_seconds.map_or_else(String::new, |seconds| seconds.to_string());
        // Writing to a string doesn't fail.
        let _ = writeln!(
            text,
            "{},{},{},{:.6},{},{},{processor_seconds},{},{},{},{rss}",
            quoted(&run.name),
            values.join(","),
            run.epochs,
            run.sparsity,
            run.accuracy,
            run.seconds,
            run.images_per_s,
            memory.planned,
            memory.published_peak
        );
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cli::sweep) fn run(policy: &str, sparsity: f64, seed: usize, accuracy: f64) -> Run {
        let mut values: BTreeMap<String, String> = [("policy".to_owned(), policy.to_owned()), (SEED.to_owned(), seed.to_string())].into();
        if sparsity > 0.0 {
            values.insert("sparsity".to_owned(), sparsity.to_string());
        }
        let stage = |live| StageMemory { live, published: 10 * live, in_use: 50 * live };
        let memory = Accounting { stages: vec![stage(200_000), stage(100_000)], published_peak: 2_000_000, planned: 10_000_000 };
        let name = format!("{policy}-{sparsity}-{seed}");
        let (seconds, processor_seconds) = (2.0 + seed as f64, (seed == 0).then_some(1.5));
        Run { name, values, sparsity, epochs: 4, accuracy, seconds, processor_seconds, images_per_s: 100.0, peak_rss: None, memory }
    }

    #[test]
    fn seeds_are_averaged() {
        let runs = [run("set", 0.9, 0, 0.5), run("dense", 0.0, 0, 0.9), run("set", 0.9, 1, 0.6), run("set", 0.95, 0, 0.4)];
        let groups = groups(&runs);
        assert_eq!(groups.iter().map(|group| group.runs).collect::<Vec<_>>(), [2, 1, 1]);
        assert!((groups[0].accuracy.mean - 0.55).abs() < 1e-12);
        assert!((groups[0].accuracy.deviation.unwrap() - 0.005f64.sqrt()).abs() < 1e-12);
        assert_eq!(groups[1].accuracy.deviation, None);
        let keys = ["policy", "sparsity", "seed"].map(str::to_owned);
        let markdown = markdown(&groups, &keys);
        assert!(
            markdown.contains("| set | 0.9 | 2 | 55.00 ± 7.07 | 2.5 ± 0.7 | - | 100 ± 0 | 2.00 | 2.00 / 1.00 | 10.00 | 10.00 / 5.00 |"),
            "{markdown}"
        );
        assert!(markdown.contains("| dense | - | 1 | 90.00 | 2.0 | 1.5 | 100 |"), "{markdown}");
        let csv = csv(&runs, &keys);
        assert!(csv.contains("\nset-0.95-0,set,0.95,0,4,0.950000,0.4,2,1.5,100,10000000,2000000,\n"), "{csv}");
        let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
        assert!(columns.iter().all(|&count| count == columns[0]), "{csv}");
    }
}
