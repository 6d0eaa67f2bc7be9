//! Carrying out topology updates.

use super::{DenseGradients, Events, MutationConfig, Progress, Saliency, Update};
use crate::arena::Arena;
use crate::manifest::{Manifest, Parameter, Role, Storage};
use crate::network::Network;
use crate::prelude::*;
use crate::random::{Purpose, Stream};
use crate::sparse::structure::Candidates;
use crate::sparse::{Growth, Units, mask, state, topology};

/// What an event did to one layer, in weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerReport {
    /// The parameter.
    pub name: String,
    /// Live weights before.
    pub before: usize,
    /// Weights that were dropped.
    pub dropped: usize,
    /// Weights that grew, some of them where others had just been dropped.
    pub grown: usize,
    /// Live weights after.
    pub after: usize,
}

/// Batches that a saliency is measured on.
const SALIENCY_BATCHES: usize = 4;

/// Mutates masks when they are due. Which units grow at random depends on the seed, the epoch (or iteration) and the parameter alone.
#[derive(Debug)]
pub struct Mutator {
    config: MutationConfig,
    seed: u64,
    /// Parameters whose masks move.
    layers: Vec<usize>,
    /// Epoch or iteration of the last event.
    last: Option<usize>,
    scratch: topology::Scratch,
}

impl Mutator {
    /// For the trainable parameters of `manifest` that have a density budget.
    pub fn new(manifest: &Manifest, config: MutationConfig, seed: u64) -> Self {
        let moves = |parameter: &Parameter| {
            parameter.role == Role::Trainable && matches!(parameter.storage, Storage::Matrix { density: Some(_), .. })
        };
        let layers = (0..manifest.parameters.len()).filter(|&index| moves(&manifest.parameters[index])).collect();
        Mutator { config, seed, layers, last: None, scratch: topology::Scratch::default() }
    }

    /// What it follows.
    pub fn config(&self) -> &MutationConfig {
        &self.config
    }

    /// Whether an event comes now, before the step at `progress`. Asked before every step, it says so until the event has happened. A
    /// checkpoint written at the end of an epoch holds the masks from before the next one's event, so a resumed run has that event too.
    pub fn due(&self, progress: &Progress) -> bool {
        let recurs = || {
            let period = self.config.period(progress.epochs, progress.iterations);
            let count = period.count(progress);
            count.is_multiple_of(period.length()) && self.last != Some(count)
        };
        let due = match self.config.policy.events() {
            Events::Never => false,
            Events::Once => progress.iteration == 0 && self.last.is_none(),
            Events::Recurring => recurs(),
        };
        due && !self.layers.is_empty()
    }

    /// Batches whose gradients an event at `progress` wants, added up by [`Mutator::read_gradients`]; mostly 0.
    pub fn gradient_batches(&self, progress: &Progress) -> usize {
        let drops = || self.config.schedule(progress.epochs, progress.iterations).intensity(1.0, progress).drop > 0.0;
        match self.config.policy.saliency() {
            Some(_) => SALIENCY_BATCHES,
            None => usize::from(self.config.reads_gradients() && drops()),
        }
    }

    /// Adds what an event at `progress` reads of the batch and the step that `net` has loaded: gradients of all weights, dead ones included, or of
    /// candidates to grow. The training state is afterwards what it was.
    pub fn read_gradients(&self, net: &mut dyn Network, progress: &Progress, sums: &mut DenseGradients) {
        match (self.config.policy.saliency(), self.config.growth) {
            (Some(Saliency::GradientFlow), _) => sums.add_gradient_flow(net, &self.layers),
            (None, Growth::Random(_)) => {
                let draws = |index: &usize| {
                    let (manifest, arena) = (net.manifest(), net.arena());
                    let parameter = &manifest.parameters[*index];
                    let layer = Layer::new(self, manifest, arena, *index, progress)?;
                    let kept = layer.kept(self, arena, parameter, &[]);
                    let candidates = self.candidates(&layer, &kept, *index, progress);
                    Some(super::probe::Part { parameter: *index, base: kept, dead: layer.units.units_of(&candidates) })
                };
                let parts: Vec<_> = self.layers.iter().filter_map(draws).collect();
                sums.add_parts(net, &parts);
            }
            _ => sums.add(net, &self.layers),
        }
    }

    /// Updates every mask: the least important units go, then dead ones grow, at random or by `gradients` that were read for this event. What grew
    /// starts at 0, in value and in optimiser state, also where a unit was dropped in the same event. Growth stops at a layer's capacity.
    ///
    /// Importance takes its gradient term from the first moment, which lives anyway; without one it is magnitude alone.
    pub fn event(
        &mut self,
        manifest: &Manifest,
        arena: &mut Arena,
        progress: &Progress,
        gradients: Option<&DenseGradients>,
    ) -> Vec<LayerReport> {
        self.last = Some(self.moment(progress));
        let mut reports = Vec::with_capacity(self.layers.len());
        for &index in &self.layers {
            let parameter = &manifest.parameters[index];
            let Some(layer) = Layer::new(self, manifest, arena, index, progress) else { continue };
            let gradient = gradients.map_or(&[][..], |gradients| gradients.of(index));
            let kept = layer.kept(self, arena, parameter, gradient);
            let grown = layer.units.steepest(&self.candidates(&layer, &kept, index, progress), gradient);
            // Two moves: what the first drops is gone, even if the second grows there.
            for mask in [&kept, &mask::union(&kept, &grown)] {
                state::remap(manifest, arena, index, mask).expect("a mask made of existing units, within the capacity");
            }
            topology::rebuild_with(&mut self.scratch, manifest, arena, index);
            let weights = |count: usize| count * layer.units.elements();
            reports.push(LayerReport {
                name: parameter.name.to_string(),
                before: weights(layer.live.len()),
                dropped: weights(layer.live.len() - kept.len()),
                grown: weights(grown.len()),
                after: weights(kept.len() + grown.len()),
            });
        }
        reports
    }

    /// What the event at `progress` is counted by: its epoch or iteration.
    fn moment(&self, progress: &Progress) -> usize {
        self.config.schedule(progress.epochs, progress.iterations).period.count(progress)
    }

    /// What may grow in a layer; the same whenever it is asked for one event.
    fn candidates(&self, layer: &Layer, kept: &[u32], index: usize, progress: &Progress) -> Candidates {
        let mut draws = Stream::of_item(self.seed, Purpose::Growth, self.moment(progress) as u64, index as u32);
        let grow_to = layer.update.grow_to.min(layer.capacity).max(kept.len());
        layer.units.candidates(kept, grow_to, layer.budget, self.config.growth, &mut draws)
    }

    /// Importance of the live units.
    fn scores(&self, arena: &Arena, parameter: &Parameter, units: &Units, live: &[u32], gradient: &[f32]) -> Vec<f64> {
        let elements = units.elements();
        let values = &arena.floats(parameter.value)[..live.len() * elements];
        let of_live = || live.iter().flat_map(|&unit| &gradient[unit as usize * elements..][..elements]);
        match self.config.policy.saliency() {
            Some(Saliency::Connection) if !gradient.is_empty() => {
                let products: Vec<f32> = values.iter().zip(of_live()).map(|(value, gradient)| value * gradient).collect();
                mask::importance(&products, &[], 0.0, elements)
            }
            Some(Saliency::GradientFlow) if !gradient.is_empty() => {
                let products: Vec<f64> = values.iter().zip(of_live()).map(|(&value, &flow)| f64::from(value) * f64::from(flow)).collect();
                flows(&products, elements)
            }
            _ => {
                let moments = parameter.moments.first().map_or(&[][..], |&slot| &arena.floats(slot)[..values.len()]);
                mask::importance(values, moments, self.config.policy.lambda(self.config.lambda), elements)
            }
        }
    }
}

/// Sums over units of signed `products`, raised so that none is negative: scores are compared, and squared where units make up clusters.
fn flows(products: &[f64], elements: usize) -> Vec<f64> {
    let sums: Vec<f64> = products.chunks(elements).map(|unit| unit.iter().sum()).collect();
    let least = sums.iter().copied().fold(f64::INFINITY, f64::min);
    sums.into_iter().map(|sum| if sum.is_nan() { f64::INFINITY } else { sum - least }).collect()
}

/// One layer before an event.
struct Layer {
    units: Units,
    live: Vec<u32>,
    update: Update,
    /// Units at the budgeted density.
    budget: usize,
    capacity: usize,
}

impl Layer {
    fn new(mutator: &Mutator, manifest: &Manifest, arena: &Arena, index: usize, progress: &Progress) -> Option<Self> {
        let Storage::Matrix { matrix, block, structure, capacity, density: Some(density), .. } = manifest.parameters[index].storage else {
            return None;
        };
        let units = Units::new(matrix, block).structured(structure);
        let config = &mutator.config;
        let intensity = config.schedule(progress.epochs, progress.iterations).intensity(density, progress);
        let update = config.policy.update(&units, density, intensity);
        Some(Layer { units, live: state::mask(manifest, arena, index), update, budget: units.budget(density), capacity })
    }

    /// The units that stay.
    fn kept(&self, mutator: &Mutator, arena: &Arena, parameter: &Parameter, gradient: &[f32]) -> Vec<u32> {
        let scores = mutator.scores(arena, parameter, &self.units, &self.live, gradient);
        self.units.keep_best(&self.live, &scores, self.update.keep, self.budget)
    }
}

#[cfg(test)]
#[path = "mutator_tests.rs"]
mod tests;
