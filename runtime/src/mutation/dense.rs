//! No masks at all.

use super::{Events, Policy};
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

    fn density(&self, _budget: f64, _grown: f64) -> f64 {
        1.0
    }
}
