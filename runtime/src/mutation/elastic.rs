//! MEST+EM: elastic mutation within the memory budget.

use super::Policy;
use crate::sparse::state::InitialMasks;

/// Drops a share of the live units, then grows back to the budget: never a unit above it.
#[derive(Debug)]
pub(super) struct ElasticMutation;

impl Policy for ElasticMutation {
    fn name(&self) -> &'static str {
        "mest-em"
    }

    fn initial_masks(&self) -> InitialMasks {
        InitialMasks::Magnitude
    }
}
