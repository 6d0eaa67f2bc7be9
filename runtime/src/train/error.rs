//! Why a training stops.

use super::checkpoint::CheckpointError;
use crate::data::DataError;
use crate::network::BatchError;
use crate::recipe::RecipeError;
use crate::sparse::state::StateError;
use std::io;
use std::path::PathBuf;

/// Why a training didn't start or didn't finish.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Mistakes in the recipe, one a line.
    #[error("{}", .0.iter().map(RecipeError::to_string).collect::<Vec<_>>().join("\n"))]
    Recipe(Vec<RecipeError>),
    /// Data that doesn't fit the network, or doesn't suit the recipe.
    #[error("data `{data}`: {why}; {fix}")]
    Unfit {
        /// The data set.
        data: String,
        /// What doesn't fit.
        why: String,
        /// What to do.
        fix: String,
    },
    /// A normalisation that doesn't fit the data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A batch that doesn't fit the network.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A state that doesn't fit the network.
    #[error(transparent)]
    State(#[from] StateError),
    /// A network without room for what the policy needs.
    #[error(
        "policy = {policy}: parameter `{name}` has room for {capacity} live units, {needed} are needed; compile the network with the same recipe"
    )]
    Capacity {
        /// The recipe's.
        policy: &'static str,
        /// The parameter.
        name: String,
        /// Live units that fit.
        capacity: usize,
        /// Live units that gradients are measured with.
        needed: usize,
    },
    /// The loss is no number any more.
    #[error(
        "the loss is {loss} in epoch {epoch}, iteration {iteration}, at a learning rate of {learning_rate}: lower lr, or add warmup = 5 or \
         clip-norm = 1; {kept}"
    )]
    Diverged {
        /// The loss of the batch.
        loss: f64,
        /// Counted from 1.
        epoch: usize,
        /// Counted from 1, over the whole run.
        iteration: u64,
        /// In that iteration.
        learning_rate: f64,
        /// What is left of the run.
        kept: String,
    },
    /// A checkpoint that can't be gone on from.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file of the run's folder that can't be written.
    #[error("{path}: {source}; make room or choose another folder, what was there before is whole", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl TrainError {
    /// The same of data that was given as `spec`.
    #[must_use]
    pub fn with_data(mut self, spec: Option<&str>) -> Self {
        if let (TrainError::Unfit { data, .. }, Some(spec)) = (&mut self, spec) {
            spec.clone_into(data);
        }
        self
    }

    /// Whether the run was refused before its first step, rather than failing in it.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, TrainError::Diverged { .. } | TrainError::Write { .. })
    }
}
