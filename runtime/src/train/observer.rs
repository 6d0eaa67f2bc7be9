//! What a training tells while it runs.

use super::EpochMetrics;
use crate::mutation::LayerReport;
use std::ops::ControlFlow;

/// One iteration that has been done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// Epochs of the run.
    pub epochs: usize,
    /// The iteration within the epoch, counted from 1.
    pub iteration: usize,
    /// Iterations of the epoch.
    pub iterations: usize,
    /// Examples of the batch.
    pub examples: usize,
    /// Mean loss of the epoch so far.
    pub loss: f64,
    /// Share of right predictions in the epoch so far.
    pub accuracy: f64,
    /// In this iteration.
    pub learning_rate: f64,
}

/// Watches a training: progress bars, logs. Every callback does nothing unless written.
pub trait Observer {
    /// The run begins, or goes on after `done` of `epochs` epochs.
    fn begin(&mut self, done: usize, epochs: usize) {
        let _ = (done, epochs);
    }

    /// An iteration is done.
    fn step(&mut self, step: &Step) {
        let _ = step;
    }

    /// Masks have changed, before iteration `iteration` of the run (counted from 0).
    fn mutation(&mut self, iteration: u64, layers: &[LayerReport]) {
        let _ = (iteration, layers);
    }

    /// An epoch is done, its checkpoint and metrics written. `Break` ends the training; it can be resumed from here.
    fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()> {
        let _ = metrics;
        ControlFlow::Continue(())
    }
}

/// Watches nothing.
impl Observer for () {}
