//! RigL: rigging the lottery (Evci et al., ICML 2020).

use super::{Decay, Events, GradientUse, Intensity, Policy, Update, exchange};
use crate::sparse::Units;
use crate::sparse::state::InitialMasks;

/// Starts from random masks, drops the weights of smallest magnitude and grows the dead ones of largest gradient. What is dropped may grow
/// again in the same event, from 0: the original lets it keep its value.
#[derive(Debug)]
pub(super) struct RiggedLottery;

/// Density of dead weights that one probing pass makes room for, at least: about ten passes an event.
const PROBED_DENSITY: f64 = 0.1;

impl Policy for RiggedLottery {
    fn name(&self) -> &'static str {
        "rigl"
    }

    fn initial_masks(&self) -> InitialMasks {
        InitialMasks::Random
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

    fn capacity(&self, budget: f64) -> f64 {
        (budget + budget.max(PROBED_DENSITY)).min(1.0)
    }

    fn gradients(&self) -> GradientUse {
        GradientUse::Growth
    }

    fn lambda(&self, _asked: f64) -> f64 {
        0.0
    }

    fn default_drop(&self) -> f64 {
        0.3
    }

    fn default_decay(&self) -> Decay {
        Decay::Cosine
    }
}
