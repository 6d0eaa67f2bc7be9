//! Pruning before training by a single look at the dense network, layer by layer; the masks stay from then on.

use super::{Events, Intensity, Policy, Saliency, Update};
use crate::sparse::Units;
use crate::sparse::state::InitialMasks;

/// Keeps the weights of largest saliency before the first step. Memory is that of the dense network.
#[derive(Debug)]
pub(super) struct SingleShot {
    /// What it keeps.
    pub(super) saliency: Saliency,
}

impl Policy for SingleShot {
    fn name(&self) -> &'static str {
        match self.saliency {
            Saliency::Connection => "snip",
            Saliency::GradientFlow => "grasp",
        }
    }

    fn initial_masks(&self) -> InitialMasks {
        InitialMasks::All
    }

    fn events(&self) -> Events {
        Events::Once
    }

    fn update(&self, units: &Units, budget: f64, _intensity: Intensity) -> Update {
        Update { keep: units.budget(budget), grow_to: units.budget(budget) }
    }

    fn capacity(&self, _budget: f64) -> f64 {
        1.0
    }

    fn saliency(&self) -> Option<Saliency> {
        Some(self.saliency)
    }
}
