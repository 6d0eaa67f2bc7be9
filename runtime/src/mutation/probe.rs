//! Gradients of dead weights without a dense gradient.
//!
//! A dead unit that is made live at value 0 changes neither the outputs nor any other gradient, and its own gradient is then computed like
//! that of any live unit. So the room that a layer has beyond its live units probes its dead ones, a part of them a pass, in all layers at once.
//! A pass is a training step at learning rate 0; what it changes all the same is put back afterwards.

use crate::arena::Arena;
use crate::manifest::{Manifest, Role, Slot, Storage};
use crate::network::{self, Network, Phase};
use crate::optim::Hyper;
use crate::sparse::{Units, mask, state, topology};

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

    /// Adds those of `parameters` for the batch and the step that `net` has loaded. Units that there is no room to probe add 0.
    pub(super) fn add(&mut self, net: &mut dyn Network, parameters: &[usize]) {
        let probes = network::with_parts(net, |manifest, arena| {
            parameters.iter().filter_map(|&index| Probe::new(manifest, arena, index)).collect::<Vec<_>>()
        });
        if self.layers.is_empty() {
            self.layers = probes.iter().map(|probe| (probe.parameter, vec![0.0; probe.units.weights()])).collect();
        }
        let hyper = net.manifest().io.hyper;
        let kept = network::with_parts(net, |manifest, arena| Kept::new(manifest, arena));
        net.arena_mut().floats_mut(hyper)[Hyper::LEARNING_RATE] = 0.0;
        let passes = probes.iter().map(Probe::passes).max().unwrap_or(0);
        for pass in 0..passes {
            network::with_parts(net, |manifest, arena| probes.iter().for_each(|probe| probe.place(manifest, arena, pass)));
            net.run(Phase::Train);
            for (probe, (_, sums)) in probes.iter().zip(&mut self.layers) {
                network::with_parts(net, |manifest, arena| probe.read(manifest, arena, pass, sums));
            }
        }
        network::with_parts(net, |manifest, arena| {
            probes.iter().for_each(|probe| probe.set(manifest, arena, &probe.live));
            kept.restore(manifest, arena);
        });
    }
}

/// A layer that is probed.
struct Probe {
    parameter: usize,
    units: Units,
    live: Vec<u32>,
    dead: Vec<u32>,
    /// Dead units a pass.
    room: usize,
}

impl Probe {
    fn new(manifest: &Manifest, arena: &Arena, parameter: usize) -> Option<Self> {
        let Storage::Matrix { matrix, block, capacity, .. } = manifest.parameters[parameter].storage else { return None };
        let (units, live) = (Units::new(matrix, block), state::mask(manifest, arena, parameter));
        let (dead, room) = (mask::dead(&live, units.count()), capacity.saturating_sub(live.len()));
        Some(Probe { parameter, units, live, dead, room })
    }

    fn passes(&self) -> usize {
        // The first pass is for the live units, too.
        if self.room == 0 { 1 } else { self.dead.len().div_ceil(self.room).max(1) }
    }

    /// The dead units that are probed in a pass.
    fn part(&self, pass: usize) -> &[u32] {
        let begin = (pass * self.room).min(self.dead.len());
        &self.dead[begin..(begin + self.room).min(self.dead.len())]
    }

    fn place(&self, manifest: &Manifest, arena: &mut Arena, pass: usize) {
        if pass == 0 || !self.part(pass).is_empty() {
            self.set(manifest, arena, &mask::union(&self.live, self.part(pass)));
        }
    }

    fn set(&self, manifest: &Manifest, arena: &mut Arena, mask: &[u32]) {
        state::set_mask(manifest, arena, self.parameter, mask).expect("a mask made of existing units, within the capacity");
    }

    /// Adds the gradients of the units that a pass computes for the first time.
    fn read(&self, manifest: &Manifest, arena: &Arena, pass: usize, sums: &mut [f32]) {
        let part = self.part(pass);
        let Some(slot) = manifest.parameters[self.parameter].gradient.filter(|_| pass == 0 || !part.is_empty()) else { return };
        let (elements, gradient) = (self.units.elements(), arena.floats(slot));
        for (position, unit) in mask::union(&self.live, part).into_iter().enumerate() {
            if pass == 0 || part.binary_search(&unit).is_ok() {
                let sums = &mut sums[unit as usize * elements..][..elements];
                sums.iter_mut().zip(&gradient[position * elements..]).for_each(|(sum, value)| *sum += value);
            }
        }
    }
}

/// What a pass changes and must not: moments, running statistics, and values if a gradient isn't finite.
struct Kept(Vec<(Slot, Vec<f32>)>, Vec<f32>);

impl Kept {
    fn new(manifest: &Manifest, arena: &Arena) -> Self {
        let changes = manifest.parameters.iter().filter(|parameter| parameter.role != Role::Frozen);
        let slots = changes.flat_map(|parameter| std::iter::once(parameter.value).chain(parameter.moments.iter().copied()));
        Kept(slots.map(|slot| (slot, arena.floats(slot).to_vec())).collect(), arena.floats(manifest.io.hyper).to_vec())
    }

    fn restore(&self, manifest: &Manifest, arena: &mut Arena) {
        let Kept(slots, hyper) = self;
        slots.iter().for_each(|(slot, values)| arena.floats_mut(*slot).copy_from_slice(values));
        arena.floats_mut(manifest.io.hyper).copy_from_slice(hyper);
        for index in 0..manifest.parameters.len() {
            topology::refresh_values(manifest, arena, index);
        }
    }
}
