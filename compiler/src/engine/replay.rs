//! Drives a compiled network through a recorded training, so that `trace::verify` can compare it.

use crate::trace::{self, Batch, Replay, ReplayError, Rule, Target};
use mest_runtime::network::{self, Network, Phase};
use mest_runtime::optim::{Hyper, Optimizer};
use mest_runtime::sparse::state::{self, InitialMasks};
use std::collections::BTreeMap;

/// The runtime's update rule for a trace's.
pub fn optimizer(rule: Rule) -> Optimizer {
    match rule {
        Rule::Sgd { momentum, nesterov } => Optimizer::Sgd { momentum, nesterov },
        Rule::Adam { betas, epsilon } => Optimizer::Adam { betas, eps: epsilon },
        Rule::AdamW { betas, epsilon } => Optimizer::AdamW { betas, eps: epsilon },
        Rule::Adagrad { epsilon } => Optimizer::Adagrad { eps: epsilon },
    }
}

/// A compiled network following a trace.
pub struct NetworkReplay<'n> {
    network: &'n mut dyn Network,
    optimizer: trace::Optimizer,
    masks: BTreeMap<String, Vec<bool>>,
    steps: u64,
}

impl<'n> NetworkReplay<'n> {
    /// `network` was compiled for the trace's batch, with its optimiser.
    pub fn new(network: &'n mut dyn Network, optimizer: trace::Optimizer) -> Self {
        NetworkReplay { network, optimizer, masks: BTreeMap::new(), steps: 0 }
    }

    fn index(&self, name: &str) -> Result<usize, ReplayError> {
        let position = self.network.manifest().parameters.iter().position(|p| p.name == name);
        position.ok_or_else(|| format!("the model has no parameter '{name}'").into())
    }
}

impl Replay for NetworkReplay<'_> {
    fn mask(&mut self, name: &str, live: &[bool]) -> Result<(), ReplayError> {
        self.index(name)?;
        self.masks.insert(name.to_owned(), live.to_vec());
        Ok(())
    }

    fn step(&mut self, batch: Batch<'_>) -> Result<f64, ReplayError> {
        let manifest = self.network.manifest().clone();
        if self.steps == 0 {
            let masks = InitialMasks::Given(std::mem::take(&mut self.masks));
            state::initialize(&manifest, self.network.arena_mut(), &masks, 0)?;
        }
        self.steps += 1;
        let rule = optimizer(self.optimizer.rule);
        let hyper = self.network.arena_mut().floats_mut(manifest.io.hyper);
        Hyper::write(hyper, &rule, self.optimizer.learning_rate, self.optimizer.weight_decay, None, self.steps);
        let target = match batch.target {
            Target::Classes(classes) => network::Target::Labels(classes),
            Target::Values(tensor) => network::Target::Values(&tensor.values),
        };
        let examples = batch.input.dims.first().copied().unwrap_or(0);
        network::load_batch(self.network, &batch.input.values, target, examples)?;
        self.network.run(Phase::Train);
        Ok(network::report(self.network).loss)
    }

    fn output(&self) -> Result<Vec<f64>, ReplayError> {
        Ok(network::output(self.network).into_iter().map(f64::from).collect())
    }

    fn gradient(&self, name: &str) -> Result<Vec<f64>, ReplayError> {
        let index = self.index(name)?;
        let gradient = state::read_gradient(self.network.manifest(), self.network.arena(), index);
        let gradient = gradient.ok_or_else(|| format!("'{name}' has no gradient"))?;
        Ok(gradient.into_iter().map(f64::from).collect())
    }

    fn parameter(&self, name: &str) -> Result<Vec<f64>, ReplayError> {
        let index = self.index(name)?;
        Ok(state::read(self.network.manifest(), self.network.arena(), index).into_iter().map(f64::from).collect())
    }
}
