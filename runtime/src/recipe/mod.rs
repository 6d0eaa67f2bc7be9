//! The recipe: everything that decides a run beside the model, one key each, the same in TOML files and as flags.

pub mod choice;
mod error;
pub mod nearest;
mod read;
mod validate;
mod values;

pub use crate::mutation::{Decay, Span};
pub use crate::sampling::Removal;
pub use choice::ChoiceError;
pub use error::RecipeError;
pub use read::Difference;
pub use values::{
    Allowance, Budget, ByteSize, DataEfficiency, Distribution, EngineName, IsaName, List, Loss, OptimizerName, ParseGrowthError,
    ParseRemovalError, ParseSpanError, PatternRecipe, PolicyName, RemoveAt, ScheduleName,
};

use crate::data::{Augmentation, Dataset, Normalization};
use crate::manifest::Patterns;
use crate::mutation::{MutationConfig, schedule::Period};
use crate::optim::Optimizer;
use crate::sampling::{RemovalMoment, Rule};
use crate::sparse::{Growth, Scheme, scheme::SchemeError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Density where neither it nor the sparsity is given.
const DEFAULT_DENSITY: f64 = 0.1;
/// When examples are removed unless told: epoch 70 of 160, as MEST.
const DEFAULT_REMOVE_AT: RemoveAt = RemoveAt::Moment(Span::Share(7.0 / 16.0));

/// How to train. Keys are written with `-` (or `_`) in files, and are the flags of the command line; `None` leaves the default, which may depend on
/// other keys or on the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Recipe {
    /// The data set's SPEC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Share of zeros in the layers made sparse; 0.9 where neither it nor `density` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<f64>,
    /// Share of live weights in the layers made sparse: 1 - sparsity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub density: Option<f64>,
    /// What a mask keeps or drops as one.
    pub scheme: Scheme,
    /// How the density is spread over layers.
    pub distribution: Distribution,
    /// How masks come about and change.
    pub policy: PolicyName,
    /// Between mutations; the default is 1/32 of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mutate_every: Option<Span>,
    /// Share of live weights dropped, by stage; the last is 0. For `mest-em`, `set` and `rigl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop: Option<List<f64>>,
    /// Density grown to, by stage; the last is the density itself. For `mest-ems`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grow_to: Option<List<f64>>,
    /// When each stage after the first begins; the default is 9/16 and 12/16 of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<List<Span>>,
    /// How dead weights are chosen to grow; by default `gradient` for `rigl`, `random` for the others that mutate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grow: Option<Growth>,
    /// Patterns of the scheme `pattern`, in place of the default ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<PatternRecipe>,
    /// Weight of the gradient beside the magnitude in the importance score; for `mest-em` and `mest-ems`.
    pub importance_lambda: f64,
    /// How drop and growth go down; by default `step` for `mest-em` and `mest-ems`, `cosine` for `set` and `rigl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay: Option<Decay>,
    /// How training does with fewer examples.
    pub data_efficiency: DataEfficiency,
    /// When examples are removed; the default is 7/16 of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove_at: Option<RemoveAt>,
    /// Which examples are removed; the unforgettable ones by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove: Option<Removal>,
    /// Share of the examples that is out at a time, and comes back; the period is that of the mutations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sieve: Option<f64>,
    /// Share of the training examples, of every class alike, that is held out to measure on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<f64>,
    /// Epochs without a smaller loss on what is held out, after which training ends; counted once the masks have their final density.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<usize>,
    /// Outputs of a new, untrained last layer, in place of the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_head: Option<usize>,
    /// Whether convolutions that no batch normalization follows get one.
    pub insert_bn: bool,
    /// What is minimised.
    pub loss: Loss,
    /// Share of the target given to all classes alike.
    pub label_smoothing: f64,
    /// Examples a step.
    pub batch: usize,
    /// Times that the training split is gone through.
    pub epochs: usize,
    /// The update rule.
    pub optimizer: OptimizerName,
    /// The learning rate; by default 0.1 for sgd, 0.001 for adam and adamw, 0.01 for adagrad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// How it goes on.
    pub lr_schedule: ScheduleName,
    /// Where `step` multiplies it by gamma.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milestones: Option<List<Span>>,
    /// What `step` multiplies it by.
    pub gamma: f64,
    /// What `cosine` ends at.
    pub floor: f64,
    /// Over which the learning rate rises from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Span>,
    /// Of sgd.
    pub momentum: f64,
    /// Whether sgd looks ahead.
    pub nesterov: bool,
    /// Of adam and adamw.
    pub betas: List<f64>,
    /// Of adam, adamw and adagrad.
    pub eps: f64,
    /// L2 penalty, or AdamW's decay.
    pub weight_decay: f64,
    /// Largest norm of the whole gradient; unlimited by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Random changes of training examples; by default those of the data set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augment: Option<List<Augmentation>>,
    /// Centring and scaling; by default that of the data set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize: Option<Normalization>,
    /// What all randomness follows from.
    pub seed: u64,
    /// What the planned training state may take, in all or by class; unlimited by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Budget>,
    /// Which changes of the numbers may bring it there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<List<Allowance>>,
    /// What the plan is asserted to stay within.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assert_peak: Option<ByteSize>,
    /// Threads; by default all that the machine has. Results do not depend on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Vector instructions.
    pub isa: IsaName,
    /// What runs the program.
    pub engine: EngineName,
    /// Whether each layer's `channel-blocks` is chosen by timing candidates on this machine, once; what was chosen is part of the recipe from then on.
    pub autotune: bool,
    /// What single layers do differently, by name of their weight or node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub layers: BTreeMap<String, LayerRecipe>,
}

/// What one layer does differently.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct LayerRecipe {
    /// Its share of live weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub density: Option<f64>,
    /// Its scheme.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// Whether it is computed densely (`true`), or is sparse even if it wouldn't be (`false`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<bool>,
    /// Whether it stays as it is: no gradient, no optimiser state; its batch normalization keeps to its running statistics. A `*` in the layer's
    /// name stands for any text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen: Option<bool>,
    /// Blocks of input channels that its forward pass goes through one after the other; by default as many as keep a block in the first-level
    /// cache. The order of its sums follows from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_blocks: Option<usize>,
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            data: None,
            sparsity: None,
            density: None,
            scheme: Scheme::Unstructured,
            distribution: Distribution::Uniform,
            policy: PolicyName::default(),
            mutate_every: None,
            drop: None,
            grow_to: None,
            stages: None,
            grow: None,
            pattern: None,
            importance_lambda: 0.01,
            decay: None,
            data_efficiency: DataEfficiency::Off,
            remove_at: None,
            remove: None,
            sieve: None,
            validation: None,
            early_stop: None,
            reset_head: None,
            insert_bn: false,
            loss: Loss::CrossEntropy,
            label_smoothing: 0.0,
            batch: 64,
            epochs: 160,
            optimizer: OptimizerName::Sgd,
            lr: None,
            lr_schedule: ScheduleName::Cosine,
            milestones: None,
            gamma: 0.1,
            floor: 0.0,
            warmup: None,
            momentum: 0.9,
            nesterov: false,
            betas: List(vec![0.9, 0.999]),
            eps: 1e-8,
            weight_decay: 1e-4,
            clip_norm: None,
            augment: None,
            normalize: None,
            seed: 0,
            memory: None,
            allow: None,
            assert_peak: None,
            threads: None,
            isa: IsaName::Auto,
            engine: EngineName::Jit,
            autotune: false,
            layers: BTreeMap::new(),
        }
    }
}

impl Recipe {
    /// Share of live weights in a sparse layer that has no density of its own, as the budget has it; 1 for the policy `dense`.
    pub fn density(&self) -> f64 {
        let budget = match (self.density, self.sparsity) {
            (Some(density), _) => density,
            // Without the noise of a subtraction from 1.
            (None, Some(sparsity)) => ((1.0 - sparsity) * 1e12).round() / 1e12,
            (None, None) => self.scheme.density().unwrap_or(DEFAULT_DENSITY),
        };
        self.policy.0.density(budget, budget)
    }

    /// When and how masks change.
    pub fn mutation(&self) -> MutationConfig {
        MutationConfig {
            policy: self.policy.0,
            every: self.mutate_every,
            stages: self.stages.as_ref().map(|stages| stages.to_vec()),
            drop: self.drop.as_ref().map(|drop| drop.to_vec()),
            grow_to: self.grow_to.as_ref().map(|grow_to| grow_to.to_vec()),
            decay: self.decay.unwrap_or_else(|| self.policy.0.default_decay()),
            growth: self.grow.unwrap_or_else(|| self.policy.0.default_growth()),
            // A sum of squares says nothing of where a weight is going.
            lambda: if self.update_rule().has_direction() { self.importance_lambda } else { 0.0 },
        }
    }

    /// The patterns of the scheme `pattern`.
    ///
    /// # Errors
    /// A library that isn't one.
    pub fn patterns(&self) -> Result<Patterns, SchemeError> {
        self.pattern.as_ref().map_or_else(|| Ok(Patterns::default()), |pattern| Patterns::new(&pattern.library))
    }

    /// How examples are left out, in a run of `iterations_per_epoch` iterations an epoch; `None` where all are trained on.
    pub fn examples_rule(&self, iterations_per_epoch: usize) -> Option<Rule> {
        if self.data_efficiency == DataEfficiency::Off {
            return None;
        }
        if let Some(share) = self.sieve {
            let every = match self.mutation().period(self.epochs, self.epochs.saturating_mul(iterations_per_epoch)) {
                Period::Epochs(epochs) => epochs,
                Period::Iterations(iterations) => iterations.div_ceil(iterations_per_epoch.max(1)),
            };
            return Some(Rule::Sieve { share, every: every.max(1) });
        }
        let moment = match self.remove_at.unwrap_or(DEFAULT_REMOVE_AT) {
            RemoveAt::Settled => RemovalMoment::Settled,
            RemoveAt::Moment(Span::Epochs(epoch)) => RemovalMoment::Epoch(epoch as usize),
            RemoveAt::Moment(Span::Iterations(iteration)) => RemovalMoment::Epoch(iteration as usize / iterations_per_epoch.max(1)),
            RemoveAt::Moment(Span::Share(share)) => RemovalMoment::Epoch(((self.epochs as f64 * share) as usize).max(1)),
        };
        Some(Rule::Remove(self.remove.unwrap_or(Removal::Unforgettable(0)), moment))
    }

    /// Whether a memory budget may make this change.
    pub fn allows(&self, allowance: Allowance) -> bool {
        self.allow.as_ref().is_some_and(|allow| allow.contains(&allowance))
    }

    /// The update rule with its hyper-parameters.
    pub fn update_rule(&self) -> Optimizer {
        let betas = [self.betas.first().copied().unwrap_or(0.9), self.betas.get(1).copied().unwrap_or(0.999)];
        match self.optimizer {
            OptimizerName::Sgd => Optimizer::Sgd { momentum: self.momentum, nesterov: self.nesterov },
            OptimizerName::Adam => Optimizer::Adam { betas, eps: self.eps },
            OptimizerName::AdamW => Optimizer::AdamW { betas, eps: self.eps },
            OptimizerName::Adagrad => Optimizer::Adagrad { eps: self.eps },
        }
    }

    /// The learning rate that the schedule begins with.
    pub fn learning_rate(&self) -> f64 {
        self.lr.unwrap_or_else(|| self.update_rule().default_learning_rate())
    }

    /// The augmentations of a training on `data`.
    pub fn augmentations<'a>(&'a self, data: &'a Dataset) -> &'a [Augmentation] {
        self.augment.as_deref().unwrap_or(data.augmentations)
    }

    /// The normalisation of `data`.
    pub fn normalization<'a>(&'a self, data: &'a Dataset) -> &'a Normalization {
        self.normalize.as_ref().unwrap_or(&data.normalization)
    }
}
