//! Carrying out topology updates.

use super::{MutationConfig, Progress};
use crate::arena::Arena;
use crate::manifest::{Manifest, Parameter, Role, Storage};
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

/// Mutates masks when they are due. Which units grow depends on the seed, the epoch (or iteration) and the parameter alone.
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
        let period = self.config.period(progress.epochs, progress.iterations);
        let count = period.count(progress);
        self.config.policy.mutates() && !self.layers.is_empty() && count.is_multiple_of(period.length()) && self.last != Some(count)
    }

    /// Updates every mask: the least important units go, then dead ones grow at random. What grew starts at 0, in value and in optimiser
    /// state, also where a unit was dropped in the same event. Growth stops at a layer's capacity.
    ///
    /// Importance takes its gradient term from the first moment, which lives anyway; without one it is magnitude alone.
    pub fn event(&mut self, manifest: &Manifest, arena: &mut Arena, progress: &Progress) -> Vec<LayerReport> {
        let schedule = self.config.schedule(progress.epochs, progress.iterations);
        let moment = schedule.period.count(progress);
        self.last = Some(moment);
        let mut reports = Vec::with_capacity(self.layers.len());
        for &index in &self.layers {
            let parameter = &manifest.parameters[index];
            let Storage::Matrix { matrix, block, capacity, density: Some(budget), .. } = parameter.storage else { continue };
            let units = Units::new(matrix, block);
            let update = self.config.policy.update(&units, budget, schedule.intensity(budget, progress));
            let live = state::mask(manifest, arena, index);
            let kept = mask::keep_best(&live, &scores(arena, parameter, &units, live.len(), self.config.lambda), update.keep);
            let room = update.grow_to.min(capacity).saturating_sub(kept.len());
            let mut draws = Stream::of_item(self.seed, Purpose::Growth, moment as u64, index as u32);
            let grown = mask::grow(&kept, units.count(), room, &mut draws);
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
}

fn scores(arena: &Arena, parameter: &Parameter, units: &Units, live: usize, lambda: f64) -> Vec<f64> {
    let len = live * units.elements();
    let gradients = parameter.moments.first().map_or(&[][..], |&slot| &arena.floats(slot)[..len]);
    mask::importance(&arena.floats(parameter.value)[..len], gradients, lambda, units.elements())
}

#[cfg(test)]
#[path = "mutator_tests.rs"]
mod tests;
