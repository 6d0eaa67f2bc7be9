//! SNIP: single-shot network pruning (Lee et al., ICLR 2019), layer by layer.

use super::{Events, GradientUse, Intensity, Policy, Update};
use crate::sparse::Units;
use crate::sparse::state::InitialMasks;

/// Keeps the weights of largest |w g|, measured on the dense network before the first step. The masks stay from then on; memory is that of
/// the dense network.
#[derive(Debug)]
pub(super) struct SingleShot;

impl Policy for SingleShot {
    fn name(&self) -> &'static str {
        "snip"
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

    fn density(&self, budget: f64, _grown: f64) -> f64 {
        budget
    }

    fn capacity(&self, _budget: f64) -> f64 {
        1.0
    }

    fn gradients(&self) -> GradientUse {
        GradientUse::Saliency
    }
}
