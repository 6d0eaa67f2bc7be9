//! Masks that never move: what mutation is compared with.

use super::{Events, Policy};
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
}
