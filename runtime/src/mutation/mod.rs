//! Mutation: how masks move while the weights train. MEST (Yuan et al., NeurIPS 2021) removes the least important weights, then grows dead
//! ones at random; growth never looks at a gradient, so no dense gradient is ever needed. What it is compared with stands beside it; policies that
//! do look at gradients of dead weights have them from probing passes.
//!
//! A [`Policy`] says how many units a layer keeps and grows to; [`schedule`] says when, and how strongly; [`Mutator`] carries it out.

mod config;
mod dense;
mod elastic;
mod elastic_soft;
mod fixed;
mod mutator;
mod probe;
mod rigl;
pub mod schedule;
mod set;
mod snip;

pub use config::{MutationConfig, MutationError};
pub use mutator::{LayerReport, Mutator};
pub use probe::DenseGradients;
pub use schedule::{Decay, Intensity, MutationSchedule, Span};

use crate::network::{self, Network};
use crate::prelude::*;
use crate::sparse::state::InitialMasks;
use crate::sparse::{Growth, Units};
use core::fmt::Debug;

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

/// When masks change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// Never.
    Never,
    /// Before the first step alone.
    Once,
    /// Before the first step and from period to period.
    Recurring,
}

/// What a look at the dense network before training keeps, measured on a few batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saliency {
    /// Units of largest |w g|: SNIP, single-shot network pruning (Lee et al., ICLR 2019).
    Connection,
    /// Units whose removal would lower the gradient's norm most, of largest w (H g): GraSP, gradient signal preservation (Wang et al., ICLR 2020).
    /// The products with the Hessian are differences of gradients, batch by batch.
    GradientFlow,
}

/// How masks come about and change.
pub trait Policy: Debug + Sync {
    /// Its name in recipes and on the command line.
    fn name(&self) -> &'static str;

    /// The masks of the first step.
    fn initial_masks(&self) -> InitialMasks;

    /// When masks change.
    fn events(&self) -> Events {
        Events::Recurring
    }

    /// What an event does to a layer of budgeted density `budget`: by default, drops a share of the live units and grows back to the budget, never a
    /// unit above it.
    fn update(&self, units: &Units, budget: f64, intensity: Intensity) -> Update {
        let budget = units.budget(budget);
        let dropped = (intensity.drop * budget as f64).round() as usize;
        Update { keep: budget.saturating_sub(dropped).max(1), grow_to: budget }
    }

    /// Density that a layer of budgeted density `budget` has after an event whose schedule grows to `grown`.
    fn density(&self, budget: f64, _grown: f64) -> f64 {
        budget
    }

    /// Density that a layer of budgeted density `budget` needs room for, even if it never trains at it.
    fn capacity(&self, budget: f64) -> f64 {
        budget
    }

    /// What is kept before the first step, where that takes gradients of the dense network.
    fn saliency(&self) -> Option<Saliency> {
        None
    }

    /// How dead units are chosen to grow, unless given.
    fn default_growth(&self) -> Growth {
        Growth::Random(1)
    }

    /// Weight of the first moment in the importance of a weight, where `asked` is the recipe's.
    fn lambda(&self, asked: f64) -> f64 {
        asked
    }

    /// Share of live weights dropped in the first stage, unless given.
    fn default_drop(&self) -> f64 {
        0.2
    }

    /// How the drop goes down, unless given.
    fn default_decay(&self) -> Decay {
        Decay::Step
    }

    /// Whether masks change while the weights train.
    fn mutates(&self) -> bool {
        self.events() == Events::Recurring
    }
}

/// Changes the masks of `net` if an event is due at `progress`, and says what it did to each layer: nothing if none was. Policies that grow, or keep, by
/// gradients of dead weights do so by those that [`read_gradients`] has read since the last event; where none were read, growth is random and the largest
/// weights are kept.
pub fn mutate<'m>(net: &mut dyn Network, mutator: &'m mut Mutator, progress: &Progress) -> &'m [LayerReport] {
    if !mutator.due(progress) {
        return &[];
    }
    network::with_parts(net, move |manifest, arena| mutator.event_by_remembered(manifest, arena, progress))
}

/// Reads what the event at `progress` wants to know of the batch and the step that `net` has loaded, for [`mutate`]: for as many batches as
/// [`Mutator::gradient_batches`] says, when [`Mutator::due`] does. The training state is afterwards what it was.
pub fn read_gradients(net: &mut dyn Network, mutator: &mut Mutator, progress: &Progress) {
    mutator.remember_gradients(net, progress);
}

/// Every policy; the first is the default.
pub static POLICIES: [&dyn Policy; 9] = [
    &elastic_soft::ElasticMutationSoftBound,
    &elastic::ElasticMutation,
    &set::SparseEvolution,
    &rigl::RiggedLottery,
    &snip::SingleShot { saliency: Saliency::Connection },
    &snip::SingleShot { saliency: Saliency::GradientFlow },
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
