//! Carrying out topology updates.

use super::probe::{self, Part, ProbeMemory};
use super::{DenseGradients, Events, MutationConfig, MutationSchedule, Progress, Saliency, Update};
use crate::arena::Arena;
use crate::lanes::math::widened;
use crate::manifest::{Element, Manifest, Parameter, Role, Storage};
use crate::network::Network;
use crate::prelude::*;
use crate::random::{Purpose, Stream};
use crate::sparse::structure::Candidates;
use crate::sparse::{Bump, Growth, Units, mask, state, topology};
use core::mem;

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

/// Mutates masks when they are due. Which units grow at random depends on the seed, the epoch (or iteration) and the parameter alone. What events
/// take of memory is there from the beginning.
#[derive(Debug)]
pub struct Mutator {
    config: MutationConfig,
    seed: u64,
    /// Parameters whose masks move.
    layers: Vec<usize>,
    /// Epoch or iteration of the last event.
    last: Option<usize>,
    /// For a run of so many epochs and iterations.
    schedule: ((usize, usize), MutationSchedule),
    /// What an event takes while it is at one layer.
    bump: Bump,
    probing: ProbeMemory,
    /// What has been read for the next event of [`super::mutate`], and of how many batches.
    gradients: DenseGradients,
    batches: usize,
    /// Of the last event, layer by layer.
    reports: Vec<LayerReport>,
}

impl Mutator {
    /// For the trainable parameters of `manifest` that have a density budget.
    pub fn new(manifest: &Manifest, config: MutationConfig, seed: u64) -> Self {
        let moves = |parameter: &Parameter| {
            parameter.role == Role::Trainable && matches!(parameter.storage, Storage::Matrix { density: Some(_), .. })
        };
        let layers: Vec<usize> = (0..manifest.parameters.len()).filter(|&index| moves(&manifest.parameters[index])).collect();
        let begins = |&index: &usize| {
            let name = manifest.parameters[index].name.to_string();
            LayerReport { name, before: 0, dropped: 0, grown: 0, after: 0 }
        };
        let acts = config.policy.events() != Events::Never;
        let largest = layers.iter().map(|&index| event_bytes(manifest, &config, index)).max().filter(|_| acts).unwrap_or(0);
        Mutator {
            seed,
            last: None,
            schedule: ((0, 0), config.schedule(0, 0)),
            bump: Bump::with_capacity(largest),
            probing: ProbeMemory::new(manifest, if config.reads_gradients() { &layers } else { &[] }),
            gradients: DenseGradients::default(),
            batches: 0,
            reports: layers.iter().map(begins).collect(),
            config,
            layers,
        }
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
    pub fn gradient_batches(&mut self, progress: &Progress) -> usize {
        self.follow(progress);
        match self.config.policy.saliency() {
            Some(_) => SALIENCY_BATCHES,
            None => usize::from(self.config.reads_gradients() && self.schedule.1.intensity(1.0, progress).drop > 0.0),
        }
    }

    /// Adds what an event at `progress` reads of the batch and the step that `net` has loaded: gradients of all weights, dead ones included, or of
    /// candidates to grow. The training state is afterwards what it was.
    pub fn read_gradients(&mut self, net: &mut dyn Network, progress: &Progress, sums: &mut DenseGradients) {
        self.follow(progress);
        let mut memory = mem::take(&mut self.probing);
        match (self.config.policy.saliency(), self.config.growth) {
            (Some(Saliency::GradientFlow), _) => sums.add_gradient_flow(&mut memory, net, &self.layers),
            (None, Growth::Random(_)) => {
                let mut bump = mem::take(&mut self.bump);
                let (event, pass) = memory.begin();
                let candidates = |parameter: &usize| {
                    bump.reset();
                    self.part(&bump, event, net, *parameter, progress)
                };
                let parts = probe::collect(event, self.layers.len(), self.layers.iter().filter_map(candidates));
                sums.add_parts(pass, event, net, parts);
                self.bump = bump;
            }
            _ => sums.add(&mut memory, net, &self.layers),
        }
        self.probing = memory;
    }

    /// As [`Mutator::read_gradients`], for the next event of [`super::mutate`].
    pub(super) fn remember_gradients(&mut self, net: &mut dyn Network, progress: &Progress) {
        let mut gradients = mem::take(&mut self.gradients);
        if self.batches == 0 {
            gradients.clear();
        }
        self.read_gradients(net, progress, &mut gradients);
        self.gradients = gradients;
        self.batches += 1;
    }

    /// The event at `progress`, by the gradients that were remembered for it, if any were.
    pub(super) fn event_by_remembered(&mut self, manifest: &Manifest, arena: &mut Arena, progress: &Progress) -> &[LayerReport] {
        let (gradients, batches) = (mem::take(&mut self.gradients), mem::take(&mut self.batches));
        self.event(manifest, arena, progress, Some(&gradients).filter(|_| batches > 0));
        self.gradients = gradients;
        &self.reports
    }

    /// What of a parameter is probed where candidates are drawn.
    fn part<'b>(&self, bump: &Bump, event: &'b Bump, net: &dyn Network, index: usize, progress: &Progress) -> Option<Part<'b>> {
        let (manifest, arena) = (net.manifest(), net.arena());
        let parameter = &manifest.parameters[index];
        let layer = Layer::new(self, bump, manifest, arena, index, progress)?;
        let kept = layer.kept(self, bump, arena, parameter, &[]);
        let candidates = self.candidates(bump, &layer, kept, index, progress, self.config.growth);
        let dead = event.alloc_slice_copy(layer.units.units_of(bump, &candidates));
        Some(Part { parameter: index, base: event.alloc_slice_copy(kept), dead })
    }

    /// Updates every mask: the least important units go, then dead ones grow, by `gradients` that were read for this event or else at random. What grew
    /// starts at 0, in value and in optimiser state, also where a unit was dropped in the same event. Growth stops at a layer's capacity. Says what it did to
    /// each layer.
    ///
    /// Importance takes its gradient term from the first moment, which lives anyway; without one it is magnitude alone.
    pub fn event(
        &mut self,
        manifest: &Manifest,
        arena: &mut Arena,
        progress: &Progress,
        gradients: Option<&DenseGradients>,
    ) -> &[LayerReport] {
        self.follow(progress);
        self.last = Some(self.moment(progress));
        let (mut bump, mut reports) = (mem::take(&mut self.bump), mem::take(&mut self.reports));
        // Nothing ranks candidates without gradients: as many are drawn as grow.
        let growth = if gradients.is_some() { self.config.growth } else { Growth::Random(1) };
        for (&index, report) in self.layers.iter().zip(&mut reports) {
            bump.reset();
            let parameter = &manifest.parameters[index];
            let Some(layer) = Layer::new(self, &bump, manifest, arena, index, progress) else { continue };
            let gradient = gradients.map_or(&[][..], |gradients| gradients.of(index));
            let kept = layer.kept(self, &bump, arena, parameter, gradient);
            let grown = layer.units.steepest(&bump, &self.candidates(&bump, &layer, kept, index, progress, growth), gradient);
            // Two moves: what the first drops is gone, even if the second grows there.
            for mask in [kept, mask::union(&bump, kept, grown)] {
                state::remap(&bump, manifest, arena, index, mask).expect("a mask made of existing units, within the capacity");
            }
            topology::rebuild_within(&bump, manifest, arena, index);
            let weights = |count: usize| count * layer.units.elements();
            report.before = weights(layer.live.len());
            report.dropped = weights(layer.live.len() - kept.len());
            report.grown = weights(grown.len());
            report.after = weights(kept.len() + grown.len());
        }
        (self.bump, self.reports) = (bump, reports);
        &self.reports
    }

    /// Takes the schedule of the run that `progress` is of.
    fn follow(&mut self, progress: &Progress) {
        let length = (progress.epochs, progress.iterations);
        if self.schedule.0 != length {
            self.schedule = (length, self.config.schedule(progress.epochs, progress.iterations));
        }
    }

    /// What the event at `progress` is counted by: its epoch or iteration.
    fn moment(&self, progress: &Progress) -> usize {
        self.schedule.1.period.count(progress)
    }

    /// What may grow in a layer; the same whenever it is asked for one event.
    fn candidates<'b>(
        &self,
        bump: &'b Bump,
        layer: &Layer<'_>,
        kept: &[u32],
        index: usize,
        progress: &Progress,
        growth: Growth,
    ) -> Candidates<'b> {
        let mut draws = Stream::of_item(self.seed, Purpose::Growth, self.moment(progress) as u64, index as u32);
        let grow_to = layer.update.grow_to.min(layer.capacity).max(kept.len());
        layer.units.candidates(bump, kept, grow_to, layer.budget, growth, &mut draws)
    }

    /// Importance of the live units.
    fn scores<'b>(&self, bump: &'b Bump, arena: &Arena, parameter: &Parameter, layer: &Layer<'_>, gradient: &[f32]) -> &'b [f64] {
        let elements = layer.units.elements();
        let values = &arena.floats(parameter.value)[..layer.live.len() * elements];
        let of = |place: usize| gradient[layer.live[place / elements] as usize * elements + place % elements];
        match self.config.policy.saliency() {
            Some(Saliency::Connection) if !gradient.is_empty() => {
                let products = bump.alloc_slice_fill_with(values.len(), |place| values[place] * of(place));
                mask::importance(bump, products, &[], 0.0, elements)
            }
            Some(Saliency::GradientFlow) if !gradient.is_empty() => {
                let products = bump.alloc_slice_fill_with(values.len(), |place| f64::from(values[place]) * f64::from(of(place)));
                flows(bump, products, elements)
            }
            _ => {
                let moments = parameter.moments.first().map_or(&[][..], |&slot| match slot.element {
                    Element::Bf16 => &*bump.alloc_slice_fill_iter(arena.halves(slot)[..values.len()].iter().map(|&half| widened(half))),
                    Element::F32 | Element::U32 => &arena.floats(slot)[..values.len()],
                });
                mask::importance(bump, values, moments, self.config.policy.lambda(self.config.lambda), elements)
            }
        }
    }
}

/// Bytes that an event takes while it is at parameter `index`, at most.
fn event_bytes(manifest: &Manifest, config: &MutationConfig, index: usize) -> usize {
    let parameter = &manifest.parameters[index];
    let Storage::Matrix { matrix, block, structure, capacity, .. } = parameter.storage else { return 0 };
    let units = Units::new(matrix, block).structured(structure);
    let products = if config.policy.saliency().is_some() { 8 * units.elements() } else { 0 };
    let is_narrow = parameter.moments.first().is_some_and(|slot| slot.element == Element::Bf16);
    let widened = if is_narrow { 4 * units.elements() } else { 0 };
    // Two moves: where each unit comes from.
    let moved = 2 * size_of::<Option<u32>>();
    units.choice_bytes(capacity, config.growth) + (products + widened + moved) * capacity + topology::rebuild_bytes(manifest, index)
}

/// Sums over units of signed `products`, raised so that none is negative: scores are compared, and squared where units make up clusters.
fn flows<'b>(bump: &'b Bump, products: &[f64], elements: usize) -> &'b [f64] {
    let sums = bump.alloc_slice_fill_iter(products.chunks(elements).map(|unit| unit.iter().sum::<f64>()));
    let least = sums.iter().copied().fold(f64::INFINITY, f64::min);
    sums.iter_mut().for_each(|sum| *sum = if sum.is_nan() { f64::INFINITY } else { *sum - least });
    sums
}

/// One layer before an event.
struct Layer<'b> {
    units: Units,
    live: &'b [u32],
    update: Update,
    /// Units at the budgeted density.
    budget: usize,
    capacity: usize,
}

impl<'b> Layer<'b> {
    fn new(mutator: &Mutator, bump: &'b Bump, manifest: &Manifest, arena: &Arena, index: usize, progress: &Progress) -> Option<Self> {
        let Storage::Matrix { matrix, block, structure, capacity, density: Some(density), .. } = manifest.parameters[index].storage else {
            return None;
        };
        let units = Units::new(matrix, block).structured(structure);
        let update = mutator.config.policy.update(&units, density, mutator.schedule.1.intensity(density, progress));
        let live = bump.alloc_slice_copy(state::live_units(manifest, arena, index));
        Some(Layer { units, live, update, budget: units.budget(density), capacity })
    }

    /// The units that stay.
    fn kept(&self, mutator: &Mutator, bump: &'b Bump, arena: &Arena, parameter: &Parameter, gradient: &[f32]) -> &'b [u32] {
        let scores = mutator.scores(bump, arena, parameter, self, gradient);
        self.units.keep_best(bump, self.live, scores, self.update.keep, self.budget)
    }
}

#[cfg(test)]
#[path = "mutator_tests.rs"]
mod tests;
