//! Carrying out topology updates.

use super::{DenseGradients, Events, GradientUse, MutationConfig, Progress};
use crate::arena::Arena;
use crate::manifest::{Manifest, Parameter, Role, Storage};
use crate::network::Network;
use crate::random::{Purpose, Stream};
use crate::sparse::{Units, mask, state, topology};

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

    /// Batches whose dense gradients an event at `progress` wants, added up by [`Mutator::read_gradients`]; mostly 0.
    pub fn gradient_batches(&self, progress: &Progress) -> usize {
        let drops = || self.config.schedule(progress.epochs, progress.iterations).intensity(1.0, progress).drop > 0.0;
        match self.config.policy.gradients() {
            GradientUse::Unread => 0,
            GradientUse::Growth => usize::from(drops()),
            GradientUse::Saliency => SALIENCY_BATCHES,
        }
    }

    /// Adds the gradients of all weights, dead ones included, for the batch and the step that `net` has loaded. The training state
    /// is afterwards what it was.
    pub fn read_gradients(&self, net: &mut dyn Network, sums: &mut DenseGradients) {
        sums.add(net, &self.layers);
    }

    /// Updates every mask: the least important units go, then dead ones grow, at random unless the policy reads `gradients`. What grew starts at 0,
    /// in value and in optimiser state, also where a unit was dropped in the same event. Growth stops at a layer's capacity.
    ///
    /// Importance takes its gradient term from the first moment, which lives anyway; without one it is magnitude alone.
    pub fn event(
        &mut self,
        manifest: &Manifest,
        arena: &mut Arena,
        progress: &Progress,
        gradients: Option<&DenseGradients>,
    ) -> Vec<LayerReport> {
        let schedule = self.config.schedule(progress.epochs, progress.iterations);
        let moment = schedule.period.count(progress);
        self.last = Some(moment);
        let mut reports = Vec::with_capacity(self.layers.len());
        for &index in &self.layers {
            let parameter = &manifest.parameters[index];
            let Storage::Matrix { matrix, block, capacity, density: Some(budget), .. } = parameter.storage else { continue };
            let units = Units::new(matrix, block);
            let gradient = gradients.map_or(&[][..], |gradients| gradients.of(index));
            let update = self.config.policy.update(&units, budget, schedule.intensity(budget, progress));
            let live = state::mask(manifest, arena, index);
            let kept = mask::keep_best(&live, &self.scores(arena, parameter, &units, &live, gradient), update.keep);
            let room = update.grow_to.min(capacity).saturating_sub(kept.len());
            let grown = if self.config.policy.gradients() == GradientUse::Growth && !gradient.is_empty() {
                steepest(&mask::dead(&kept, units.count()), gradient, &units, room)
            } else {
                let mut draws = Stream::of_item(self.seed, Purpose::Growth, moment as u64, index as u32);
                mask::grow(&kept, units.count(), room, &mut draws)
            };
            // Two moves: what the first drops is gone, even if the second grows there.
            for mask in [&kept, &mask::union(&kept, &grown)] {
                state::remap(manifest, arena, index, mask).expect("a mask made of existing units, within the capacity");
            }
            topology::rebuild_with(&mut self.scratch, manifest, arena, index);
            let weights = |count: usize| count * units.elements();
            reports.push(LayerReport {
                name: parameter.name.to_string(),
                before: weights(live.len()),
                dropped: weights(live.len() - kept.len()),
                grown: weights(grown.len()),
                after: weights(kept.len() + grown.len()),
            });
        }
        reports
    }

    /// Importance of the live units.
    fn scores(&self, arena: &Arena, parameter: &Parameter, units: &Units, live: &[u32], gradient: &[f32]) -> Vec<f64> {
        let elements = units.elements();
        let values = &arena.floats(parameter.value)[..live.len() * elements];
        if self.config.policy.gradients() == GradientUse::Saliency && !gradient.is_empty() {
            let of_live = live.iter().flat_map(|&unit| &gradient[unit as usize * elements..][..elements]);
            let products: Vec<f32> = values.iter().zip(of_live).map(|(value, gradient)| value * gradient).collect();
            return mask::importance(&products, &[], 0.0, elements);
        }
        let moments = parameter.moments.first().map_or(&[][..], |&slot| &arena.floats(slot)[..values.len()]);
        mask::importance(values, moments, self.config.policy.lambda(self.config.lambda), elements)
    }
}

/// The `grow` of `dead` units with the largest gradient.
fn steepest(dead: &[u32], gradient: &[f32], units: &Units, grow: usize) -> Vec<u32> {
    let elements = units.elements();
    let of_dead: Vec<f32> = dead.iter().flat_map(|&unit| &gradient[unit as usize * elements..][..elements]).copied().collect();
    mask::keep_best(dead, &mask::importance(&of_dead, &[], 0.0, elements), grow)
}

#[cfg(test)]
#[path = "mutator_tests.rs"]
mod tests;
