//! SET: sparse evolutionary training (Mocanu et al., Nature Communications 2018).

use super::{Decay, Policy};
use crate::sparse::state::InitialMasks;

/// Starts from random masks, drops the weights of smallest magnitude and grows as many at random.
#[derive(Debug)]
pub(super) struct SparseEvolution;

impl Policy for SparseEvolution {
    fn name(&self) -> &'static str {
        "set"
    }

    fn initial_masks(&self) -> InitialMasks {
        InitialMasks::Random
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
