//! What a run leaves for people to look at: `report.html`, one file that needs no other, and TensorBoard's events.

#[cfg(feature = "cli")]
pub mod events;
pub mod history;
pub mod live_ranges;
mod page;
mod svg;

use crate::pass::annotate_sparsity::SparsityTable;
use crate::program::Program;
use history::Change;

/// An epoch, as `metrics.json` has it.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: u32,
    /// Mean loss in training.
    pub train_loss: f64,
    /// Share of right predictions in training.
    pub train_accuracy: f64,
    /// Mean loss on the test split.
    pub test_loss: f64,
    /// Share of right predictions there.
    pub test_accuracy: f64,
    /// Mean loss on what is held out.
    pub validation_loss: Option<f64>,
    /// Share of right predictions there.
    pub validation_accuracy: Option<f64>,
    /// Share of live weights in the sparse layers.
    pub density: f64,
    /// In the last step.
    pub learning_rate: f64,
    /// Training speed.
    pub images_per_s: f64,
    /// Examples trained on.
    pub examples: u32,
    /// Examples left out.
    pub removed: u32,
}

/// `metrics.json`.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// In order.
    pub epochs: Vec<Epoch>,
    /// After the last epoch.
    pub test_accuracy: f64,
    /// The best of all epochs.
    pub best_test_accuracy: f64,
    /// Bytes of the memory plan.
    pub planned_bytes: usize,
    /// Largest resident memory.
    pub peak_rss_bytes: Option<u64>,
    /// Seconds of training.
    pub wall_s: f64,
}

/// Milliseconds of all launches of one kernel in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelShare {
    /// The kernel.
    pub kernel: String,
    /// How often a step launches it.
    pub launches: usize,
    /// Together.
    pub ms: f64,
}

/// Everything that a report shows.
#[derive(Debug)]
pub struct Report<'a> {
    /// The run's name.
    pub title: String,
    /// What was measured.
    pub metrics: &'a Metrics,
    /// What mutation did.
    pub changes: &'a [Change],
    /// What was sparse, and why.
    pub sparsity: &'a SparsityTable,
    /// What ran.
    pub program: &'a Program,
    /// Time by kernel; empty where it wasn't measured.
    pub kernels: &'a [KernelShare],
    /// `run.toml`.
    pub recipe: &'a str,
}

impl Report<'_> {
    /// The page.
    pub fn html(&self) -> String {
        page::page(self)
    }
}
