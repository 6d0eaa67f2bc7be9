//! MEST+EM: elastic mutation within the memory budget.

use super::{Events, Intensity, Policy, Update, exchange};
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

    fn events(&self) -> Events {
        Events::Recurring
    }

    fn update(&self, units: &Units, budget: f64, intensity: Intensity) -> Update {
        exchange(units, budget, intensity)
    }

    fn density(&self, budget: f64, _grown: f64) -> f64 {
        budget
    }
}
