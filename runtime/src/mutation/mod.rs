//! Mutation: how masks move while the weights train. MEST (Yuan et al., NeurIPS 2021) removes the least important weights, then grows dead
//! ones at random; growth never looks at a gradient, so no dense gradient is ever needed.
//!
//! A [`Policy`] says how many units a layer keeps and grows to; [`schedule`] says when, and how strongly; [`Mutator`] carries it out.

mod config;
mod dense;
mod elastic;
mod elastic_soft;
mod fixed;
mod mutator;
pub mod schedule;

pub use config::{MutationConfig, MutationError};
pub use mutator::{LayerReport, Mutator};
pub use schedule::{Decay, Intensity, MutationSchedule, Span};

use crate::sparse::Units;
use crate::sparse::state::InitialMasks;
use std::fmt::Debug;

/// How far a run is. Numbers count from 0 and mean what is about to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The epoch.
    pub epoch: usize,
    /// Epochs of the run.
    pub epochs: usize,
    /// The iteration, counted from the beginning of the run.
    pub iteration: usize,
    /// Iterations of the run, as planned.
    pub iterations: usize,
}

/// What an event does to a layer, in units: the least important go until `keep` are left, then dead ones come until there are `grow_to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// Units that stay.
    pub keep: usize,
    /// Units afterwards.
    pub grow_to: usize,
}

/// How masks come about and change.
pub trait Policy: Debug + Sync {
    /// Its name in recipes and on the command line.
    fn name(&self) -> &'static str;

    /// The masks of the first step.
    fn initial_masks(&self) -> InitialMasks;

    /// Whether masks change at all.
    fn mutates(&self) -> bool;

    /// What an event does to a layer of budgeted density `budget`.
    fn update(&self, units: &Units, budget: f64, intensity: Intensity) -> Update;

    /// Density that a layer of budgeted density `budget` has after an event whose schedule grows to `grown`.
    fn density(&self, budget: f64, grown: f64) -> f64;
}

/// Every policy; the first is the default.
pub static POLICIES: [&dyn Policy; 5] = [
    &elastic_soft::ElasticMutationSoftBound,
    &elastic::ElasticMutation,
    &fixed::Fixed { random: false },
    &fixed::Fixed { random: true },
    &dense::Dense,
];

/// The policy of this name.
///
/// # Errors
/// There is none; the message lists those there are.
pub fn policy(name: &str) -> Result<&'static dyn Policy, UnknownPolicy> {
    POLICIES.into_iter().find(|policy| policy.name() == name).ok_or_else(|| UnknownPolicy { name: name.into() })
}

/// Not a policy's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy = '{name}' is unknown; there are: {}", POLICIES.map(|policy| policy.name()).join(", "))]
pub struct UnknownPolicy {
    /// What was written.
    pub name: String,
}
