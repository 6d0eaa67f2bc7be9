//! Masks that never move: what mutation is compared with.

use super::{Events, Intensity, Policy, Update};
use crate::sparse::Units;
use crate::sparse::state::InitialMasks;

/// The first masks, kept.
#[derive(Debug)]
pub(super) struct Fixed {
    /// Drawn uniformly, rather than by magnitude.
    pub(super) random: bool,
}

impl Policy for Fixed {
    fn name(&self) -> &'static str {
        if self.random { "static-random" } else { "static" }
    }

    fn initial_masks(&self) -> InitialMasks {
        if self.random { InitialMasks::Random } else { InitialMasks::Magnitude }
    }

    fn events(&self) -> Events {
        Events::Never
    }

    fn update(&self, units: &Units, budget: f64, _intensity: Intensity) -> Update {
        Update { keep: units.budget(budget), grow_to: units.budget(budget) }
    }

    fn density(&self, budget: f64, _grown: f64) -> f64 {
        budget
    }
}
