//! Gradients of dead weights without a dense gradient.
//!
//! A dead unit that is made live at value 0 changes neither the outputs nor any other gradient, and its own gradient is then computed like
//! that of any live unit. So the room that a layer has beyond its live units probes its dead ones, a part of them a pass, in all layers at once.
//! A pass is a training step at learning rate 0; what it changes all the same is put back afterwards.

use crate::arena::Arena;
use crate::manifest::{Manifest, Role, Slot, Storage};
use crate::network::{self, Network, Phase};
use crate::optim::Hyper;
use crate::prelude::*;
use crate::sparse::{Bump, Units, mask, state, topology};
use bumpalo::collections::Vec as BumpVec;

/// Gradients of all units of some parameters, live or dead, summed over batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DenseGradients {
    /// A parameter's index and its gradient, `[unit][element]`.
    pub(super) layers: Vec<(usize, Vec<f32>)>,
}

impl DenseGradients {
    /// The gradient of a parameter, `[unit][element]`; nothing where it was not probed.
    pub fn of(&self, parameter: usize) -> &[f32] {
        self.layers.iter().find(|(index, _)| *index == parameter).map_or(&[], |(_, gradient)| gradient)
    }

    /// Makes every sum 0, in the memory that is there.
    pub fn clear(&mut self) {
        self.layers.iter_mut().for_each(|(_, gradient)| gradient.fill(0.0));
    }

    /// Adds those of `parameters` for the batch and the step that `net` has loaded. Units that there is no room to probe add 0.
    pub(super) fn add(&mut self, memory: &mut ProbeMemory, net: &mut dyn Network, parameters: &[usize]) {
        let (event, pass) = memory.begin();
        let whole = |&index: &usize| {
            let (manifest, arena) = (net.manifest(), net.arena());
            let Storage::Matrix { matrix, block, .. } = manifest.parameters[index].storage else { return None };
            let base = event.alloc_slice_copy(state::live_units(manifest, arena, index));
            let dead = mask::dead(event, base, Units::new(matrix, block).count());
            Some(Part { parameter: index, base, dead })
        };
        let parts = collect(event, parameters.len(), parameters.iter().filter_map(whole));
        self.add_parts(pass, event, net, parts);
    }

    /// Adds those of some units of some parameters, in the network that has each parameter's base alone live. `event` keeps what is needed until
    /// the end, `pass` what a pass over one layer takes.
    pub(super) fn add_parts(&mut self, pass: &mut Bump, event: &Bump, net: &mut dyn Network, parts: &[Part<'_>]) {
        let (probes, kept) = network::with_parts(net, |manifest, arena| {
            let mut probes = BumpVec::with_capacity_in(parts.len(), event);
            probes.extend(parts.iter().filter_map(|part| Probe::new(event, manifest, arena, part)));
            (probes, Kept::new(event, manifest, arena))
        });
        self.make_room(&probes);
        let hyper = net.manifest().io.hyper;
        net.arena_mut().floats_mut(hyper)[Hyper::LEARNING_RATE] = 0.0;
        let passes = probes.iter().map(Probe::passes).max().unwrap_or(0);
        for number in 0..passes {
            network::with_parts(net, |manifest, arena| probes.iter().for_each(|probe| probe.place(pass, manifest, arena, number)));
            net.run(Phase::Train);
            for (probe, (_, sums)) in probes.iter().zip(&mut self.layers) {
                network::with_parts(net, |manifest, arena| probe.read(pass, manifest, arena, number, sums));
            }
        }
        network::with_parts(net, |manifest, arena| {
            for probe in &probes {
                pass.reset();
                probe.set(pass, manifest, arena, probe.before);
            }
            kept.restore(pass, manifest, arena);
        });
    }

    /// Adds products of the Hessian and the gradient, for all live weights of `parameters`: the difference of the gradients at the weights
    /// and a small step along the gradient of these parameters from them, over that step.
    pub(super) fn add_gradient_flow(&mut self, memory: &mut ProbeMemory, net: &mut dyn Network, parameters: &[usize]) {
        let (mut here, mut there) = (DenseGradients::default(), DenseGradients::default());
        here.add(memory, net, parameters);
        let norm = |of: &mut dyn Iterator<Item = f32>| of.map(|value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
        let weights = |index: usize| net.arena().floats(net.manifest().parameters[index].value).to_vec();
        let values: Vec<(usize, Vec<f32>)> = parameters.iter().map(|&index| (index, weights(index))).collect();
        let (of_values, of_gradients) = (
            norm(&mut values.iter().flat_map(|(_, values)| values.iter().copied())),
            norm(&mut here.layers.iter().flat_map(|(_, gradient)| gradient.iter().copied())),
        );
        let step = if of_gradients > 0.0 { FLOW_STEP * of_values / of_gradients } else { 1.0 };
        network::with_parts(net, |manifest, arena| {
            for (index, gradient) in &here.layers {
                let Some(probe) = Along::new(manifest, arena, *index) else { continue };
                probe.move_by(manifest, arena, gradient, step as f32);
            }
        });
        there.add(memory, net, parameters);
        network::with_parts(net, |manifest, arena| {
            for (index, values) in &values {
                arena.floats_mut(manifest.parameters[*index].value).copy_from_slice(values);
                topology::refresh_values(manifest, arena, *index);
            }
        });
        if self.layers.is_empty() {
            self.layers = here.layers.iter().map(|(index, gradient)| (*index, vec![0.0; gradient.len()])).collect();
        }
        for ((_, sums), ((_, there), (_, here))) in self.layers.iter_mut().zip(there.layers.iter().zip(&here.layers)) {
            for (sum, (there, here)) in sums.iter_mut().zip(there.iter().zip(here)) {
                *sum += ((f64::from(*there) - f64::from(*here)) / step) as f32;
            }
        }
    }

    fn make_room(&mut self, probes: &[Probe<'_>]) {
        if self.layers.is_empty() {
            self.layers = probes.iter().map(|probe| (probe.part.parameter, vec![0.0; probe.units.weights()])).collect();
        }
    }
}

/// Length of the step that a product with the Hessian is measured over, of that of the weights.
const FLOW_STEP: f64 = 1e-3;

/// Live weights that move along a gradient.
struct Along {
    parameter: usize,
    units: Units,
    live: Vec<u32>,
}

impl Along {
    fn new(manifest: &Manifest, arena: &Arena, parameter: usize) -> Option<Self> {
        let Storage::Matrix { matrix, block, .. } = manifest.parameters[parameter].storage else { return None };
        Some(Along { parameter, units: Units::new(matrix, block), live: state::mask(manifest, arena, parameter) })
    }

    fn move_by(&self, manifest: &Manifest, arena: &mut Arena, gradient: &[f32], step: f32) {
        let elements = self.units.elements();
        let of_live = self.live.iter().flat_map(|&unit| &gradient[unit as usize * elements..][..elements]);
        let values = arena.floats_mut(manifest.parameters[self.parameter].value);
        values.iter_mut().zip(of_live).for_each(|(value, gradient)| *value += step * gradient);
        topology::refresh_values(manifest, arena, self.parameter);
    }
}

/// What probing takes of memory, over and over.
#[derive(Debug, Default)]
pub(super) struct ProbeMemory {
    /// Kept from the first pass to the last.
    event: Bump,
    /// For one layer in one pass.
    pass: Bump,
}

impl ProbeMemory {
    /// Enough to probe `layers`.
    pub(super) fn new(manifest: &Manifest, layers: &[usize]) -> Self {
        let (mut event, mut pass) = (0, 0);
        for &index in layers {
            let Storage::Matrix { matrix, block, capacity, .. } = manifest.parameters[index].storage else { continue };
            // What is live, before and meanwhile, and what is dead; the union, its old positions, and the streams.
            event += 4 * (2 * capacity + Units::new(matrix, block).count()) + size_of::<Part<'_>>() + size_of::<Probe<'_>>() + 64;
            pass = pass.max((4 + size_of::<Option<u32>>()) * capacity + topology::rebuild_bytes(manifest, index) + 64);
        }
        if !layers.is_empty() {
            event += Kept::bytes(manifest);
            let streams = (0..manifest.parameters.len()).map(|index| topology::rebuild_bytes(manifest, index));
            pass = pass.max(streams.max().unwrap_or(0));
        }
        ProbeMemory { event: Bump::with_capacity(event), pass: Bump::with_capacity(pass) }
    }

    /// For an event and for a pass of it, what was kept before handed back.
    pub(super) fn begin(&mut self) -> (&Bump, &mut Bump) {
        self.event.reset();
        (&self.event, &mut self.pass)
    }
}

/// At most `count` parts in a row.
pub(super) fn collect<'b>(event: &'b Bump, count: usize, parts: impl Iterator<Item = Part<'b>>) -> &'b [Part<'b>] {
    let mut collected = BumpVec::with_capacity_in(count, event);
    collected.extend(parts);
    collected.into_bump_slice()
}

/// Units of a parameter whose gradients are wanted, while `base` is live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'b> {
    /// The parameter.
    pub(super) parameter: usize,
    /// Live meanwhile.
    pub(super) base: &'b [u32],
    /// Those that are wanted beside the base's own.
    pub(super) dead: &'b [u32],
}

/// A layer that is probed.
struct Probe<'b> {
    part: &'b Part<'b>,
    units: Units,
    /// Live units before and afterwards.
    before: &'b [u32],
    /// Dead units a pass.
    room: usize,
}

impl<'b> Probe<'b> {
    fn new(bump: &'b Bump, manifest: &Manifest, arena: &Arena, part: &'b Part<'b>) -> Option<Self> {
        let Storage::Matrix { matrix, block, capacity, .. } = manifest.parameters[part.parameter].storage else { return None };
        let before = bump.alloc_slice_copy(state::live_units(manifest, arena, part.parameter));
        Some(Probe { part, units: Units::new(matrix, block), before, room: capacity.saturating_sub(part.base.len()) })
    }

    fn passes(&self) -> usize {
        // The first pass is for the live units, too.
        if self.room == 0 { 1 } else { self.part.dead.len().div_ceil(self.room).max(1) }
    }

    /// The dead units that are probed in a pass.
    fn probed(&self, pass: usize) -> &'b [u32] {
        let (dead, begin) = (self.part.dead, (pass * self.room).min(self.part.dead.len()));
        &dead[begin..(begin + self.room).min(dead.len())]
    }

    fn place(&self, bump: &mut Bump, manifest: &Manifest, arena: &mut Arena, pass: usize) {
        let probed = self.probed(pass);
        if pass == 0 || !probed.is_empty() {
            bump.reset();
            self.set(bump, manifest, arena, mask::union(bump, self.part.base, probed));
        }
    }

    fn set(&self, bump: &Bump, manifest: &Manifest, arena: &mut Arena, mask: &[u32]) {
        let set = state::set_mask_within(bump, manifest, arena, self.part.parameter, mask);
        set.expect("a mask made of existing units, within the capacity");
    }

    /// Adds the gradients of the units that a pass computes for the first time.
    fn read(&self, bump: &mut Bump, manifest: &Manifest, arena: &Arena, pass: usize, sums: &mut [f32]) {
        let probed = self.probed(pass);
        let Some(slot) = manifest.parameters[self.part.parameter].gradient.filter(|_| pass == 0 || !probed.is_empty()) else { return };
        let (elements, gradient) = (self.units.elements(), arena.floats(slot));
        bump.reset();
        for (position, &unit) in mask::union(bump, self.part.base, probed).iter().enumerate() {
            if pass == 0 || probed.binary_search(&unit).is_ok() {
                let sums = &mut sums[unit as usize * elements..][..elements];
                sums.iter_mut().zip(&gradient[position * elements..]).for_each(|(sum, value)| *sum += value);
            }
        }
    }
}

/// What a pass changes and must not: moments, running statistics, and values if a gradient isn't finite.
struct Kept<'b>(&'b [(Slot, &'b [u8])], &'b [f32]);

impl<'b> Kept<'b> {
    fn new(bump: &'b Bump, manifest: &Manifest, arena: &Arena) -> Self {
        let mut kept = BumpVec::with_capacity_in(Self::slots(manifest).count(), bump);
        kept.extend(Self::slots(manifest).map(|slot| (slot, &*bump.alloc_slice_copy(arena.bytes_of(slot)))));
        Kept(kept.into_bump_slice(), bump.alloc_slice_copy(arena.floats(manifest.io.hyper)))
    }

    /// The slots that are kept beside the hyper-parameters.
    fn slots(manifest: &Manifest) -> impl Iterator<Item = Slot> {
        let changes = manifest.parameters.iter().filter(|parameter| parameter.role != Role::Frozen);
        changes.flat_map(|parameter| core::iter::once(parameter.value).chain(parameter.moments.iter().copied()))
    }

    fn bytes(manifest: &Manifest) -> usize {
        let of_slot = |slot: Slot| slot.len * slot.element.bytes() + size_of::<(Slot, &[u8])>() + 8;
        Self::slots(manifest).map(of_slot).sum::<usize>() + 4 * manifest.io.hyper.len + 64
    }

    fn restore(&self, bump: &mut Bump, manifest: &Manifest, arena: &mut Arena) {
        let Kept(slots, hyper) = self;
        slots.iter().for_each(|(slot, bytes)| arena.bytes_of_mut(*slot).copy_from_slice(bytes));
        arena.floats_mut(manifest.io.hyper).copy_from_slice(hyper);
        for index in 0..manifest.parameters.len() {
            bump.reset();
            topology::refresh_values_within(bump, manifest, arena, index);
        }
    }
}
