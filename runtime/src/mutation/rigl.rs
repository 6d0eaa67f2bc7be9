//! RigL: rigging the lottery (Evci et al., ICML 2020).

use super::{Decay, Policy};
use crate::sparse::Growth;
use crate::sparse::state::InitialMasks;

/// Starts from random masks, drops the weights of smallest magnitude and grows the dead ones of largest gradient. What is dropped may grow
/// again in the same event, from 0: the original lets it keep its value.
#[derive(Debug)]
pub(super) struct RiggedLottery;

impl Policy for RiggedLottery {
    fn name(&self) -> &'static str {
        "rigl"
    }

    fn initial_masks(&self) -> InitialMasks {
        InitialMasks::Random
    }

    fn default_growth(&self) -> Growth {
        Growth::Gradient
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
