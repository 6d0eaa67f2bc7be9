//! The training loop: epochs, mutation, metrics and checkpoints around a compiled network.
//!
//! Everything that a run does follows from the recipe's seed, the epoch and the iteration, and from the state that a checkpoint holds. So a run that
//! was interrupted goes on as if it had not been.

pub mod checkpoint;
mod error;
mod evaluate;
mod file;
mod fit;
mod metrics;
mod observer;
mod plan;

pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use file::write_atomically;
pub use fit::{check, fit, initialize};
pub use metrics::{EpochMetrics, FitReport, peak_rss_bytes};
pub use observer::{Observer, Step};
pub use plan::Plan;

/// The checkpoint's name in a run's folder.
pub const CHECKPOINT: &str = "checkpoint.mest";
/// The name of the checkpoint of the epoch with the smallest validation loss, where `early-stop` asks for one.
pub const BEST_CHECKPOINT: &str = "best.mest";
/// The name of the metrics as a table, a row an epoch.
pub const METRICS_CSV: &str = "metrics.csv";
/// The name of the metrics as one JSON object.
pub const METRICS_JSON: &str = "metrics.json";

#[cfg(test)]
mod mock;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;
