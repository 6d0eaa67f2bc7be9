//! MEST+EM&S: elastic mutation with a soft memory bound.

use super::{Intensity, Policy, Update};
use crate::sparse::Units;
use crate::sparse::state::InitialMasks;

/// Drops down to the budget, then grows above it: newcomers train beside the old weights, and the next event chooses among both. What is
/// grown above the budget shrinks with the schedule and ends at nothing.
#[derive(Debug)]
pub(super) struct ElasticMutationSoftBound;

impl Policy for ElasticMutationSoftBound {
    fn name(&self) -> &'static str {
        "mest-ems"
    }

    fn initial_masks(&self) -> InitialMasks {
        InitialMasks::Magnitude
    }

    fn update(&self, units: &Units, budget: f64, intensity: Intensity) -> Update {
        let keep = units.budget(budget);
        // The budget itself may lie below the density, where every group holds as many.
        let grow_to = if intensity.grown > budget { units.grown(intensity.grown).max(keep) } else { keep };
        Update { keep, grow_to }
    }

    fn density(&self, budget: f64, grown: f64) -> f64 {
        grown.max(budget)
    }
}
