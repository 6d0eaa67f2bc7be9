//! A network computed on the host from the arena alone: a sparse linear layer and softmax cross-entropy, trained by gradient descent with momentum.

use crate::arena::Arena;
use crate::manifest::*;
use crate::network::{Network, Phase};
use crate::optim::Hyper;
use crate::random::{Purpose, Stream as Draws};
use crate::sparse::state;

const LANES: usize = 8;

/// What the mock looks like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) inputs: usize,
    pub(super) classes: usize,
    pub(super) batch: usize,
    /// Of the weight; the capacity is twice that.
    pub(super) density: f64,
    pub(super) momentum: bool,
    /// Whether the target is values, whose mean squared error is minimised.
    pub(super) values: bool,
}

impl Shape {
    pub(super) const DIGITS: Shape = Shape { inputs: 64, classes: 10, batch: 50, density: 0.5, momentum: true, values: false };
}

pub(super) struct Linear {
    pub(super) manifest: Manifest,
    arena: Arena,
    shape: Shape,
    /// Sabotage: the train phase, counted from 0, whose loss becomes NaN.
    pub(super) fails_at: Option<usize>,
    pub(super) trained: usize,
}

/// Hands out slots one after the other.
#[derive(Default)]
struct Layout {
    bytes: usize,
}

impl Layout {
    fn slot(&mut self, len: usize, element: Element) -> Slot {
        let slot = Slot { offset: self.bytes, len, element };
        self.bytes += (len * 4).next_multiple_of(64);
        slot
    }

    fn floats(&mut self, len: usize) -> Slot {
        self.slot(len, Element::F32)
    }

    fn words(&mut self, len: usize) -> Slot {
        self.slot(len, Element::U32)
    }

    fn parameter(&mut self, name: &'static str, dims: Vec<usize>, storage: Storage, momentum: bool) -> Parameter {
        let stored = match storage {
            Storage::Matrix { capacity, .. } => capacity,
            Storage::Plain => dims.iter().product(),
        };
        Parameter {
            name: name.into(),
            dims: dims.into(),
            role: Role::Trainable,
            storage,
            count: self.words(1),
            value: self.floats(stored),
            gradient: Some(self.floats(stored)),
            moments: if momentum { vec![self.floats(stored)].into() } else { Vec::new().into() },
        }
    }

    fn io(&mut self, shape: Shape, groups: usize) -> Io {
        let lanes = groups * LANES;
        let target = if shape.values { self.floats(shape.batch * shape.classes) } else { self.words(shape.batch) };
        Io {
            input: self.floats(shape.batch * shape.inputs),
            input_name: "x".into(),
            input_dims: vec![shape.inputs].into(),
            input_rows: 0,
            target,
            example: self.words(lanes),
            live: self.floats(lanes),
            count: self.floats(2),
            output: BatchedSlot {
                name: "y".into(),
                dims: vec![shape.classes].into(),
                order: vec![].into(),
                slot: self.floats(lanes * shape.classes),
            },
            loss: self.floats(lanes),
            correct: self.floats(lanes),
            hyper: self.floats(Hyper::LEN),
            seed: self.words(4),
        }
    }
}

impl Linear {
    /// Initialised with small random weights and a mask by magnitude.
    pub(super) fn new(shape: Shape) -> Self {
        let (mut layout, elements, groups) = (Layout::default(), shape.inputs * shape.classes, shape.batch.div_ceil(LANES));
        let matrix = WeightMatrix {
            groups: 1,
            outputs: shape.classes,
            inputs_per_group: shape.inputs,
            kernel_rows: 1,
            kernel_width: 1,
            group_stride: elements,
            output_stride: shape.inputs,
            input_stride: 1,
            kernel_stride: 1,
        };
        let capacity = ((elements as f64 * shape.density * 2.0) as usize).min(elements);
        let (block, units) = (Block { rows: 1, columns: 1 }, layout.words(capacity));
        let storage = Storage::Matrix { matrix, block, structure: Structure::Free, capacity, units, density: Some(shape.density) };
        let weight = layout.parameter("fc.weight", vec![shape.classes, shape.inputs], storage, shape.momentum);
        let bias = layout.parameter("fc.bias", vec![shape.classes], Storage::Plain, shape.momentum);
        let io = layout.io(shape, groups);
        let mut draws = Draws::new(1, Purpose::Initialization, 0);
        let initial = (0..elements).map(|_| 0.1 * draws.normal() as f32).chain(std::iter::repeat_n(0.0, shape.classes));
        let template = initial.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        let manifest = Manifest {
            name: "linear".into(),
            batch: shape.batch,
            lanes: LANES,
            groups,
            classes: if shape.values { 0 } else { shape.classes },
            arena_bytes: layout.bytes,
            scratch_bytes: 0,
            threads: 1,
            io,
            parameters: vec![weight, bias].into(),
            streams: vec![].into(),
            constants: std::borrow::Cow::Borrowed(&[]),
            plan: vec![ClassBytes { class: "weights".into(), bytes: layout.bytes }].into(),
            template: Template { bytes: template.into(), offsets: vec![0, elements * 4].into() },
        };
        let arena = Arena::new(layout.bytes);
        let mut net = Linear { manifest, arena, shape, fails_at: None, trained: 0 };
        state::initialize(&net.manifest, &mut net.arena, &state::InitialMasks::Magnitude, 0).expect("the template is whole");
        net
    }

    /// Every bit of the training state: counts, units, values, moments.
    pub(super) fn state(&self) -> Vec<u32> {
        let bits = |slot| self.arena.floats(slot).iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let of = |(index, parameter): (usize, &Parameter)| {
            let mut all = self.arena.words(parameter.count).to_vec();
            all.extend(state::mask(&self.manifest, &self.arena, index));
            all.extend(bits(parameter.value));
            all.extend(parameter.moments.iter().flat_map(|&slot| bits(slot)));
            all
        };
        self.manifest.parameters.iter().enumerate().flat_map(of).collect()
    }

    /// Outputs of the example in `lane`.
    fn outputs(&self, lane: usize) -> Vec<f32> {
        let example = self.arena.words(self.manifest.io.example)[lane] as usize;
        let input = &self.arena.floats(self.manifest.io.input)[example * self.shape.inputs..][..self.shape.inputs];
        let mut outputs = state::read(&self.manifest, &self.arena, 1);
        let values = self.arena.floats(self.manifest.parameters[0].value);
        for (&unit, value) in state::mask(&self.manifest, &self.arena, 0).iter().zip(values) {
            outputs[unit as usize / self.shape.inputs] += value * input[unit as usize % self.shape.inputs];
        }
        outputs
    }

    /// Loss, and its gradient by output, of the example in `lane`.
    fn loss(&self, lane: usize, outputs: &[f32]) -> (f32, Vec<f32>) {
        let io = &self.manifest.io;
        let example = self.arena.words(io.example)[lane] as usize;
        if self.shape.values {
            let target = &self.arena.floats(io.target)[example * self.shape.classes..][..self.shape.classes];
            let difference = outputs.iter().zip(target).map(|(output, target)| output - target);
            let scale = self.shape.classes as f32;
            return (difference.clone().map(|d| d * d).sum::<f32>() / scale, difference.map(|d| 2.0 * d / scale).collect());
        }
        let target = self.arena.words(io.target)[example] as usize;
        let largest = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exponentials: Vec<f32> = outputs.iter().map(|output| (output - largest).exp()).collect();
        let sum: f32 = exponentials.iter().sum();
        let mut gradient: Vec<f32> = exponentials.iter().map(|exponential| exponential / sum).collect();
        let loss = -gradient[target].max(f32::MIN_POSITIVE).ln();
        gradient[target] -= 1.0;
        (loss, gradient)
    }

    /// The forward half; gradients by output, `[lane][class]`, zero in dead lanes.
    fn forward(&mut self) -> Vec<Vec<f32>> {
        let io = self.manifest.io.clone();
        let mut gradients = Vec::new();
        for lane in 0..self.manifest.groups * LANES {
            let outputs = self.outputs(lane);
            let (loss, mut gradient) = self.loss(lane, &outputs);
            let live = self.arena.floats(io.live)[lane];
            let weight = live * self.arena.floats(io.count)[1];
            gradient.iter_mut().for_each(|value| *value *= weight);
            gradients.push(gradient);
            for (class, output) in outputs.iter().enumerate() {
                let group = lane / LANES * self.shape.classes;
                self.arena.floats_mut(io.output.slot)[(group + class) * LANES + lane % LANES] = *output;
            }
            self.arena.floats_mut(io.loss)[lane] = loss;
            if !self.shape.values {
                let target = self.arena.words(io.target)[self.arena.words(io.example)[lane] as usize] as usize;
                let right = outputs.iter().all(|&output| output <= outputs[target]);
                self.arena.floats_mut(io.correct)[lane] = if right { 1.0 } else { 0.0 };
            }
        }
        gradients
    }

    fn backward(&mut self, gradients: &[Vec<f32>]) {
        let units = state::mask(&self.manifest, &self.arena, 0);
        let mut weight = vec![0.0; units.len()];
        let mut bias = vec![0.0; self.shape.classes];
        for (lane, gradient) in gradients.iter().enumerate() {
            let example = self.arena.words(self.manifest.io.example)[lane] as usize;
            let input = &self.arena.floats(self.manifest.io.input)[example * self.shape.inputs..][..self.shape.inputs];
            for (sum, &unit) in weight.iter_mut().zip(&units) {
                *sum += gradient[unit as usize / self.shape.inputs] * input[unit as usize % self.shape.inputs];
            }
            bias.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value);
        }
        for (index, gradient) in [weight, bias].into_iter().enumerate() {
            self.update(index, &gradient);
        }
    }

    fn update(&mut self, index: usize, gradient: &[f32]) {
        let parameter = self.manifest.parameters[index].clone();
        let hyper = self.arena.floats(self.manifest.io.hyper).to_vec();
        if let Some(slot) = parameter.gradient {
            self.arena.floats_mut(slot)[..gradient.len()].copy_from_slice(gradient);
        }
        for (position, gradient) in gradient.iter().enumerate() {
            let value = self.arena.floats(parameter.value)[position];
            let mut step = gradient * hyper[Hyper::GRADIENT_SCALE] + hyper[Hyper::WEIGHT_DECAY] * value;
            if let Some(&slot) = parameter.moments.first() {
                let momentum = &mut self.arena.floats_mut(slot)[position];
                *momentum = hyper[Hyper::MOMENTUM] * *momentum + step;
                step = *momentum;
            }
            self.arena.floats_mut(parameter.value)[position] = value - hyper[Hyper::LEARNING_RATE] * step;
        }
    }
}

impl Network for Linear {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn arena_mut(&mut self) -> &mut Arena {
        &mut self.arena
    }

    fn run(&mut self, phase: Phase) {
        let gradients = self.forward();
        if phase == Phase::Train {
            self.backward(&gradients);
            if self.fails_at == Some(self.trained) {
                self.arena.floats_mut(self.manifest.io.loss)[0] = f32::NAN;
            }
            self.trained += 1;
        }
    }
}
