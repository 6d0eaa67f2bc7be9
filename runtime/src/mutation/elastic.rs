//! MEST+EM: elastic mutation within the memory budget.

use super::{Intensity, Policy, Update};
use crate::sparse::Units;
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

    fn mutates(&self) -> bool {
        true
    }

    fn update(&self, units: &Units, budget: f64, intensity: Intensity) -> Update {
        let budget = units.budget(budget);
        let dropped = (intensity.drop * budget as f64).round() as usize;
        Update { keep: budget.saturating_sub(dropped).max(1), grow_to: budget }
    }

    fn density(&self, budget: f64, _grown: f64) -> f64 {
        budget
    }
}
