//! Manifests built by hand, for tests of what reads them.

use super::mask::Units;
use super::topology::{list_count, meet};
use crate::arena::{ALIGNMENT, Arena};
use crate::manifest::*;
use crate::random::{Purpose, Stream as Draws};
use std::borrow::Cow;

/// A convolution's shape, and the layouts that its streams refer to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) groups: usize,
    pub(crate) outputs: usize,
    pub(crate) inputs_per_group: usize,
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: [usize; 2],
    pub(crate) dilation: [usize; 2],
    /// Top, left, bottom, right.
    pub(crate) padding: [usize; 4],
    pub(crate) input: [usize; 2],
    pub(crate) block: [usize; 2],
    pub(crate) structure: Structure,
}

impl Geometry {
    /// A dense-looking 3x3 convolution with padding 1.
    pub(crate) fn three_by_three(inputs: usize, outputs: usize, block: [usize; 2]) -> Self {
        let one = [1, 1];
        let (kernel, padding, input) = ([3, 3], [1; 4], [6, 6]);
        Geometry {
            groups: 1,
            outputs,
            inputs_per_group: inputs,
            kernel,
            stride: one,
            dilation: one,
            padding,
            input,
            block,
            structure: Structure::Free,
        }
    }

    pub(crate) fn units(&self) -> Units {
        let positions = self.kernel[0] * self.kernel[1];
        let matrix = WeightMatrix {
            groups: self.groups,
            outputs: self.outputs,
            inputs_per_group: self.inputs_per_group,
            kernel_rows: self.kernel[0],
            kernel_width: self.kernel[1],
            group_stride: self.outputs / self.groups * self.inputs_per_group * positions,
            output_stride: self.inputs_per_group * positions,
            input_stride: positions,
            kernel_stride: 1,
        };
        Units::new(matrix, Block { rows: self.block[0], columns: self.block[1] }).structured(self.structure)
    }

    pub(crate) fn output(&self, axis: usize) -> usize {
        let reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
        (self.input[axis] + self.padding[axis] + self.padding[axis + 2] - reach) / self.stride[axis] + 1
    }

    pub(crate) fn channels(&self) -> usize {
        self.groups * self.inputs_per_group
    }

    /// Columns of the padded input.
    pub(crate) fn staged_width(&self) -> usize {
        self.input[1] + self.padding[1] + self.padding[3]
    }

    pub(crate) fn forward(&self) -> StreamOrder {
        let channel = self.staged_width();
        StreamOrder::Forward {
            channel,
            kernel_row: self.dilation[0] * self.channels() * channel,
            kernel_column: self.dilation[1],
            channel_blocks: 1 + self.inputs_per_group / self.block[1] / 2,
        }
    }

    pub(crate) fn backward(&self) -> StreamOrder {
        let smallest = |axis: usize| {
            (0..self.kernel[axis]).map(|k| meet(k, self.stride[axis], self.dilation[axis], self.padding[axis]).1).min().unwrap_or(0)
        };
        // Wide enough that offset -> (row, channel, column) is one to one.
        let channel = 64;
        StreamOrder::Backward {
            stride: self.stride,
            dilation: self.dilation,
            padding: [self.padding[0], self.padding[1]],
            first: [smallest(0), smallest(1)],
            row: self.outputs * channel,
            channel,
        }
    }
}

/// Lays slots out one after another.
#[derive(Default)]
pub(crate) struct Builder {
    bytes: usize,
    parameters: Vec<Parameter>,
    streams: Vec<Stream>,
    template: Vec<u8>,
    offsets: Vec<usize>,
    narrow_moments: bool,
}

impl Builder {
    /// Whose moments are halves where `narrow`.
    pub(crate) fn with_moments(narrow: bool) -> Self {
        Builder { narrow_moments: narrow, ..Builder::default() }
    }

    fn moments(&mut self, count: usize, len: usize) -> Cow<'static, [Slot]> {
        let element = if self.narrow_moments { Element::Bf16 } else { Element::F32 };
        (0..count).map(|_| self.slot(len, element)).collect()
    }

    fn slot(&mut self, len: usize, element: Element) -> Slot {
        let slot = Slot { offset: self.bytes, len, element };
        self.bytes += (len * 4).next_multiple_of(ALIGNMENT);
        slot
    }

    /// Writes normal initial values, after a few bytes of something else.
    fn initial(&mut self, len: usize) {
        self.template.extend_from_slice(b"header");
        self.offsets.push(self.template.len());
        let mut draws = Draws::new(77, Purpose::Initialization, self.offsets.len() as u64);
        self.template.extend((0..len).flat_map(|_| (draws.normal() as f32).to_le_bytes()));
    }

    pub(crate) fn plain(mut self, name: &'static str, len: usize, moments: usize) -> Self {
        self.initial(len);
        let parameter = Parameter {
            name: Cow::Borrowed(name),
            dims: Cow::Owned(vec![len]),
            role: Role::Trainable,
            storage: Storage::Plain,
            count: self.slot(1, Element::U32),
            value: self.slot(len, Element::F32),
            gradient: Some(self.slot(len, Element::F32)),
            moments: self.moments(moments, len),
        };
        self.parameters.push(parameter);
        self
    }

    /// A weight with a forward and a backward stream. `peak` sizes its slots.
    pub(crate) fn convolution(mut self, name: &'static str, geometry: Geometry, density: Option<f64>, peak: f64, moments: usize) -> Self {
        let units = geometry.units();
        let capacity = if density.is_some() { units.budget(peak).max(units.grown(peak)) } else { units.count() };
        let len = capacity * units.elements();
        self.initial(units.weights());
        let storage = Storage::Matrix {
            matrix: units.matrix,
            block: units.block,
            structure: units.structure,
            capacity,
            units: self.slot(capacity, Element::U32),
            density,
        };
        let parameter = Parameter {
            name: Cow::Borrowed(name),
            dims: Cow::Owned(vec![geometry.outputs, geometry.inputs_per_group, geometry.kernel[0], geometry.kernel[1]]),
            role: Role::Trainable,
            storage,
            count: self.slot(1, Element::U32),
            value: self.slot(len, Element::F32),
            gradient: Some(self.slot(len, Element::F32)),
            moments: self.moments(moments, len),
        };
        for order in [geometry.forward(), geometry.backward()] {
            let backward = matches!(order, StreamOrder::Backward { .. });
            let stream = Stream {
                parameter: self.parameters.len(),
                order,
                starts: self.slot(list_count(&units, order) + 1, Element::U32),
                offsets: self.slot(capacity, Element::U32),
                source: backward.then(|| self.slot(capacity, Element::U32)),
                values: backward.then(|| self.slot(len, Element::F32)),
            };
            self.streams.push(stream);
        }
        self.parameters.push(parameter);
        self
    }

    pub(crate) fn build(mut self) -> (Manifest, Arena) {
        let nothing = self.slot(0, Element::F32);
        let batched = BatchedSlot { name: "y".into(), dims: Cow::Borrowed(&[]), order: Cow::Borrowed(&[]), slot: nothing };
        let io = Io {
            input: nothing,
            input_name: "x".into(),
            input_dims: Cow::Borrowed(&[]),
            input_rows: 0,
            target: nothing,
            example: nothing,
            live: nothing,
            count: nothing,
            output: batched,
            loss: nothing,
            correct: nothing,
            hyper: nothing,
            seed: nothing,
        };
        self.template.extend_from_slice(b"trailer");
        let manifest = Manifest {
            name: "fixture".into(),
            batch: 16,
            lanes: 16,
            groups: 1,
            classes: 0,
            arena_bytes: self.bytes,
            scratch_bytes: 0,
            threads: 1,
            io,
            parameters: Cow::Owned(self.parameters),
            streams: Cow::Owned(self.streams),
            constants: Cow::Borrowed(&[]),
            plan: Cow::Borrowed(&[]),
            template: Template { bytes: Cow::Owned(self.template), offsets: Cow::Owned(self.offsets) },
        };
        let arena = Arena::new(self.bytes);
        (manifest, arena)
    }
}
