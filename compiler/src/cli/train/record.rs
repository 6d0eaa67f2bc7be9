//! What a run leaves while it goes on, beside checkpoint and metrics: its mask changes, and TensorBoard's events.

use crate::report::events::EventFile;
use crate::report::history::{self, Change};
use mest_runtime::mutation::LayerReport;
use mest_runtime::train::{EpochMetrics, Observer, Step, write_atomically};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Watches a training and keeps what it sees in the run's folder.
#[derive(Debug)]
pub(super) struct Record {
    folder: PathBuf,
    events: Option<EventFile>,
    changes: Vec<Change>,
    /// Epochs done.
    done: usize,
    /// What couldn't be written: the training goes on, its result does not depend on it.
    problem: Option<String>,
}

impl Record {
    /// For a run in `folder`; a run that goes on goes on with what is there.
    pub(super) fn new(folder: &Path) -> Self {
        Record { folder: folder.to_owned(), events: None, changes: Vec::new(), done: 0, problem: None }
    }

    /// What couldn't be written, if anything.
    pub(super) fn problem(self) -> Option<String> {
        self.problem
    }

    fn check<T>(&mut self, what: &str, result: Result<T, impl std::fmt::Display>) -> Option<T> {
        result.map_err(|error| _ = self.problem.get_or_insert_with(|| format!("{what}: {error}; the run is complete without it"))).ok()
    }

    fn write_scalars(&mut self, step: u64, values: &[(String, f64)]) {
        let Some(mut events) = self.events.take() else { return };
        let written = events.scalars(step, values.iter().map(|(tag, value)| (tag.as_str(), *value)));
        if self.check(&events.path().display().to_string(), written).is_some() {
            self.events = Some(events);
        }
    }
}

impl Observer for Record {
    fn begin(&mut self, done: usize, epochs: usize) {
        self.done = done;
        if done > 0 {
            // A file of an older run, or none: what came before stays unknown.
            let earlier = std::fs::read_to_string(self.folder.join(history::FILE)).ok().and_then(|text| history::read(&text).ok());
            self.changes = earlier.unwrap_or_default();
            // After an interruption in the middle of an epoch, that epoch's changes come again.
            self.changes.retain(|change| change.epoch <= done);
        }
        if done < epochs {
            let created = EventFile::create(&self.folder);
            self.events = self.check(&self.folder.display().to_string(), created);
        }
    }

    fn step(&mut self, _step: &Step) {}

    fn mutation(&mut self, iteration: u64, layers: &[LayerReport]) {
        let epoch = self.done + 1;
        let change = |layer: &LayerReport| Change {
            epoch,
            iteration,
            before: layer.before,
            dropped: layer.dropped,
            grown: layer.grown,
            after: layer.after,
            layer: layer.name.clone(),
        };
        self.changes.extend(layers.iter().map(change));
        let values: Vec<(String, f64)> = layers
            .iter()
            .flat_map(|layer| {
                let of = |count: usize| count as f64 / layer.before.max(1) as f64;
                let name = &layer.name;
                [
                    (format!("live/{name}"), layer.after as f64),
                    (format!("dropped/{name}"), of(layer.dropped)),
                    (format!("grown/{name}"), of(layer.grown)),
                ]
            })
            .collect();
        self.write_scalars(iteration, &values);
    }

    fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()> {
        self.done = metrics.epoch as usize;
        let optional = [("loss/validation", metrics.validation_loss), ("accuracy/validation", metrics.validation_accuracy)];
        let values = [
            ("loss/train", metrics.train_loss),
            ("loss/test", metrics.test_loss),
            ("accuracy/train", metrics.train_accuracy),
            ("accuracy/test", metrics.test_accuracy),
            ("density", metrics.density),
            ("learning_rate", metrics.learning_rate),
            ("examples_per_s", metrics.images_per_s),
            ("examples_left_out", f64::from(metrics.removed)),
        ];
        let values = values.into_iter().chain(optional.into_iter().filter_map(|(tag, value)| Some((tag, value?))));
        let values: Vec<(String, f64)> = values.map(|(tag, value)| (tag.to_owned(), value)).collect();
        self.write_scalars(u64::from(metrics.epoch), &values);
        let written = write_atomically(&self.folder.join(history::FILE), history::write(&self.changes).as_bytes());
        self.check(history::FILE, written);
        ControlFlow::Continue(())
    }
}

/// Several that watch the same training.
#[derive(Debug)]
pub(super) struct Both<A, B>(pub(super) A, pub(super) B);

impl<A: Observer, B: Observer> Observer for Both<A, B> {
    fn begin(&mut self, done: usize, epochs: usize) {
        self.0.begin(done, epochs);
        self.1.begin(done, epochs);
    }

    fn step(&mut self, step: &Step) {
        self.0.step(step);
        self.1.step(step);
    }

    fn mutation(&mut self, iteration: u64, layers: &[LayerReport]) {
        self.0.mutation(iteration, layers);
        self.1.mutation(iteration, layers);
    }

    fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()> {
        let (first, second) = (self.0.epoch(metrics), self.1.epoch(metrics));
        if first.is_break() { first } else { second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(after: usize) -> Vec<LayerReport> {
        vec![LayerReport { name: "fc.weight".to_owned(), before: 10, dropped: 2, grown: 3, after }]
    }

    #[test]
    fn changes_of_an_interrupted_epoch_are_not_kept_twice() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = Record::new(folder.path());
        record.begin(0, 4);
        for epoch in 1..=2 {
            record.mutation(u64::from(epoch) * 10, &layers(epoch as usize));
            _ = record.epoch(&EpochMetrics { epoch, validation_loss: Some(0.5), ..Default::default() });
        }
        assert_eq!(record.problem(), None);
        let mut resumed = Record::new(folder.path());
        resumed.begin(1, 4);
        resumed.mutation(20, &layers(7));
        _ = resumed.epoch(&EpochMetrics { epoch: 2, ..Default::default() });
        let kept = history::read(&std::fs::read_to_string(folder.path().join(history::FILE)).unwrap()).unwrap();
        assert_eq!(kept.iter().map(|change| (change.epoch, change.after)).collect::<Vec<_>>(), [(1, 1), (2, 7)]);
        let events = std::fs::read_dir(folder.path()).unwrap().flatten();
        let names = events.filter(|entry| entry.file_name().to_string_lossy().starts_with(crate::report::events::PREFIX));
        assert_eq!(names.count(), 2, "a file a process");
    }

    #[test]
    fn what_cannot_be_written_is_told_once_and_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = Record::new(&folder.path().join("absent"));
        record.begin(0, 1);
        record.mutation(0, &layers(5));
        assert!(record.epoch(&EpochMetrics { epoch: 1, ..Default::default() }).is_continue());
        let problem = record.problem().unwrap();
        assert!(problem.contains("absent"), "{problem}");
    }
}
