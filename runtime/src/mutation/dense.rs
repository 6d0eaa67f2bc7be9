//! No masks at all.

use super::{Events, Intensity, Policy, Update};
use crate::sparse::Units;
use crate::sparse::state::InitialMasks;

/// Every weight, always.
#[derive(Debug)]
pub(super) struct Dense;

impl Policy for Dense {
    fn name(&self) -> &'static str {
        "dense"
    }

    fn initial_masks(&self) -> InitialMasks {
        InitialMasks::Magnitude
    }

    fn events(&self) -> Events {
        Events::Never
    }

    fn update(&self, units: &Units, _budget: f64, _intensity: Intensity) -> Update {
        Update { keep: units.count(), grow_to: units.count() }
    }

    fn density(&self, _budget: f64, _grown: f64) -> f64 {
        1.0
    }
}
