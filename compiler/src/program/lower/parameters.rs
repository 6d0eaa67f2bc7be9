//! Parameters: their slots, their streams, and what the runtime is told of them.

use super::kernel::{Place, start};
use super::{Class, LowerError, Lowering, PARTS, PeakDensity, PhaseLowering, StreamDraft};
use crate::ir::graph::Role as GraphRole;
use crate::ir::{Graph, NodeId, Shape, Value};
use crate::op::Op;
use crate::pass::annotate_sparsity::SparsityTable;
use crate::program::{Schedule, SlotId, layout, memory};
use mest_runtime::manifest::{
    BatchedSlot, Block, ClassBytes, Constant, Element, Io, Manifest, Parameter, Role, Slot, Storage, Stream, StreamOrder, Structure,
    Template, WeightMatrix,
};
use mest_runtime::sparse::Units;
use std::borrow::Cow;

/// Sums of a forward tile, in elements: between AVX2's 64 and AVX-512's 128.
const TILE_SUMS: usize = 64;

/// Bytes of pixels that stay in a first-level cache of 32 KiB while offsets, values and sums stream by.
const TILE_BYTES: usize = 36 << 10;

/// Units that a list of a forward stream should have, on average.
const LIST_UNITS: f64 = 8.0;

/// How a parameter's values are stored, before slots are placed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct MatrixDraft {
    pub(super) matrix: WeightMatrix,
    pub(super) block: Block,
    pub(super) structure: Structure,
    pub(super) capacity: usize,
    pub(super) units: SlotId,
    pub(super) density: Option<f64>,
    /// Blocks of input channels that are asked for.
    pub(super) channel_blocks: Option<usize>,
}

impl MatrixDraft {
    /// Rows of a block that share a load in a forward tile.
    fn shared_rows(&self) -> usize {
        [4, 2].into_iter().find(|&rows| self.block.rows.is_multiple_of(rows)).unwrap_or(1)
    }

    /// Pixels of a forward tile: its sums fill the registers.
    pub(super) fn tile_pixels(&self, lanes: usize) -> usize {
        (TILE_SUMS / lanes).min(8) / self.shared_rows()
    }

    /// Into how many blocks a forward kernel cuts the input channels, a tile's pixels of each of which take `bytes`: as many channels as stay
    /// in the first-level cache while all rows pass by (more where rows share what leaves it), but enough for a list's units to pay for
    /// reading and writing its sums. Unless it is asked otherwise.
    pub(super) fn channel_blocks(&self, bytes: usize) -> usize {
        if let Some(asked) = self.channel_blocks {
            return asked;
        }
        let blocks = (self.matrix.inputs_per_group / self.block.columns).max(1);
        let units = (self.matrix.kernel_rows * self.matrix.kernel_width) as f64 * self.density.unwrap_or(1.0);
        let fit = TILE_BYTES * self.shared_rows() / (bytes * self.block.columns).max(1);
        let worthwhile = (LIST_UNITS / units).ceil() as usize;
        blocks.div_ceil(fit.max(worthwhile).clamp(1, blocks))
    }

    /// Elements of one unit.
    pub(super) fn unit_elements(&self) -> usize {
        self.block.rows * self.block.columns
    }
}

/// A parameter whose slots are not placed yet.
#[derive(Clone, Debug)]
pub(super) struct ParameterDraft {
    pub(super) name: String,
    pub(super) dims: Vec<usize>,
    pub(super) role: Role,
    pub(super) matrix: Option<MatrixDraft>,
    pub(super) count: SlotId,
    pub(super) value: SlotId,
    pub(super) gradient: Option<SlotId>,
    pub(super) moments: Vec<SlotId>,
}

impl ParameterDraft {
    /// Elements of a unit, and units (or elements) at most.
    pub(super) fn extent(&self) -> (usize, usize) {
        match &self.matrix {
            Some(matrix) => (matrix.unit_elements(), matrix.capacity),
            None => (1, self.dims.iter().product()),
        }
    }

    /// Parts that work on its values is cut into.
    pub(super) fn parts(&self) -> usize {
        let (unit, count) = self.extent();
        (unit * count).div_ceil(4096).clamp(1, PARTS)
    }
}

impl Lowering<'_> {
    /// Declares every parameter of the training graph, in the order it was imported.
    pub(super) fn declare_parameters(&mut self, graph: &Graph, sparsity: &SparsityTable) -> Result<(), LowerError> {
        for id in graph.parameters() {
            let node = graph.node(id);
            let Op::Parameter(parameter) = &node.op else { continue };
            let name = node.outputs[0].name.clone();
            let role = match parameter.role {
                GraphRole::State => Role::State,
                GraphRole::Trainable if graph.gradients.contains_key(&id) => Role::Trainable,
                GraphRole::Trainable | GraphRole::Frozen => Role::Frozen,
            };
            let matrix = sparsity.of_parameter(id).map(|layer| {
                let peak = match (&self.options.peak, layer.density) {
                    (PeakDensity::Mutation(config), Some(density)) => layer.units.grown(config.capacity_density(density)),
                    _ => 0,
                };
                let capacity = layer.live.max(peak);
                let units = self.slot(&format!("{name}.units"), Class::Masks, Element::U32, capacity, true);
                let Units { matrix, block, structure } = layer.units;
                MatrixDraft { matrix, block, structure, capacity, units, density: layer.density, channel_blocks: layer.channel_blocks }
            });
            let draft = self.declare(name, parameter.dims.clone(), role, matrix);
            self.parameter_of.insert(draft.name.clone(), self.parameters.len());
            self.parameters.push(draft);
        }
        if self.options.narrow_moments && self.options.optimizer.moments() > 0 {
            // Numbers are data, not constants of kernels: so parameters of one shape share theirs.
            let numbers: Vec<f32> = (0..self.parameters.len()).map(|number| number as f32).collect();
            let slot = self.slot("parameter_numbers", Class::Data, Element::F32, numbers.len(), true);
            self.constants.push((slot, numbers));
            self.numbers = Some(slot);
        }
        Ok(())
    }

    fn declare(&mut self, name: String, dims: Vec<usize>, role: Role, matrix: Option<MatrixDraft>) -> ParameterDraft {
        let elements = matrix.as_ref().map_or(dims.iter().product(), |m| m.capacity * m.unit_elements());
        let class = if role == Role::State { Class::State } else { Class::Weights };
        let count = self.slot(&format!("{name}.count"), Class::Masks, Element::U32, 1, true);
        let value = self.slot(&name, class, Element::F32, elements, true);
        let (trainable, keep) = (role == Role::Trainable, self.options.keep_gradients);
        let gradient = trainable.then(|| self.slot(&format!("{name}.grad"), Class::Gradients, Element::F32, elements, keep));
        let moments = if trainable { self.options.optimizer.moments() } else { 0 };
        let element = if self.options.narrow_moments { Element::Bf16 } else { Element::F32 };
        let moments = (0..moments).map(|m| self.slot(&format!("{name}.moment{m}"), Class::Optimizer, element, elements, true)).collect();
        ParameterDraft { name, dims, role, matrix, count, value, gradient, moments }
    }

    /// The stream of `order` over a parameter, found or declared. Streams in mask order need no `source`; `values` says whether the
    /// stream carries a copy of them.
    pub(super) fn stream(&mut self, parameter: usize, order: StreamOrder, values: bool) -> usize {
        let found = self.streams.iter().position(|s| s.parameter == parameter && s.order == order && s.values.is_some() == values);
        if let Some(found) = found {
            return found;
        }
        let draft = &self.parameters[parameter];
        let Some(matrix) = draft.matrix else { return usize::MAX };
        let name = draft.name.clone();
        let (lists, kind, forward) = match order {
            StreamOrder::Forward { channel_blocks, .. } => (matrix.matrix.outputs / matrix.block.rows * channel_blocks, "forward", true),
            StreamOrder::Backward { stride, .. } => {
                let inputs = matrix.matrix.groups * matrix.matrix.inputs_per_group;
                (stride[0] * stride[1] * inputs / matrix.block.columns, "backward", false)
            }
        };
        let mut topology = |what: &str, element, len| self.slot(&format!("{name}.{kind}.{what}"), Class::Topology, element, len, true);
        let starts = topology("starts", Element::U32, lists + 1);
        let offsets = topology("offsets", Element::U32, matrix.capacity);
        let source = (!forward).then(|| topology("source", Element::U32, matrix.capacity));
        let values = (values && !forward).then(|| topology("values", Element::F32, matrix.capacity * matrix.unit_elements()));
        self.streams.push(StreamDraft { parameter, order, starts, offsets, source, values });
        self.streams.len() - 1
    }

    fn resolve(&self, id: SlotId) -> Slot {
        let slot = &self.slots[id.0];
        Slot { offset: slot.offset, len: slot.len, element: slot.element }
    }

    /// What the runtime is told, once slots are placed.
    pub(super) fn manifest(&self, graph: &Graph, template: Template, arena_bytes: usize, schedules: &[Schedule]) -> Manifest {
        let input = graph.ids().into_iter().find(|&id| matches!(graph.node(id).op, Op::Input(_)));
        let input = input.map(|id| graph.node(id).outputs[0].clone());
        let classes = graph.logits.filter(|_| self.slots[self.io.target.0].element == Element::U32);
        let scratch = self.kernels.iter().map(|k| k.scratch * 4).max().unwrap_or(0);
        let scratch = scratch.next_multiple_of(mest_runtime::arena::ALIGNMENT);
        Manifest {
            name: graph.name.clone().into(),
            batch: self.options.batch,
            lanes: self.options.lanes,
            groups: self.groups,
            classes: classes.map_or(0, |v| graph.shape(v).elements()),
            arena_bytes,
            scratch_bytes: scratch,
            threads: self.options.threads,
            io: Io {
                input: self.resolve(self.io.input),
                input_name: input.as_ref().map(|i| i.name.clone()).unwrap_or_default().into(),
                input_dims: input.map(|i| i.shape.fixed()).unwrap_or_default().into(),
                input_rows: table_rows(graph),
                target: self.resolve(self.io.target),
                example: self.resolve(self.io.example),
                live: self.resolve(self.io.live),
                count: self.resolve(self.io.count),
                output: self.output(graph),
                loss: self.resolve(self.io.loss),
                correct: self.resolve(self.io.correct),
                hyper: self.resolve(self.io.hyper),
                seed: self.resolve(self.io.seed),
            },
            parameters: self.parameters.iter().map(|p| self.parameter(p)).collect::<Vec<_>>().into(),
            streams: self.streams.iter().map(|s| self.stream_of(s)).collect::<Vec<_>>().into(),
            constants: self
                .constants
                .iter()
                .map(|(slot, values)| Constant { slot: self.resolve(*slot), values: values.clone().into() })
                .collect(),
            plan: self.plan(schedules, arena_bytes, scratch * self.options.threads).into(),
            template,
        }
    }

    fn output(&self, graph: &Graph) -> BatchedSlot {
        let info = graph.output.map(|v| graph.info(v).clone());
        let shape = info.as_ref().map_or(Shape(vec![]), |i| i.shape.clone());
        BatchedSlot {
            name: info.map(|i| i.name).unwrap_or_default().into(),
            dims: shape.fixed().into(),
            order: layout::element_order(&shape).into(),
            slot: self.resolve(self.io.output),
        }
    }

    fn parameter(&self, draft: &ParameterDraft) -> Parameter {
        let storage = draft.matrix.map_or(Storage::Plain, |m| Storage::Matrix {
            matrix: m.matrix,
            block: m.block,
            structure: m.structure,
            capacity: m.capacity,
            units: self.resolve(m.units),
            density: m.density,
        });
        Parameter {
            name: draft.name.clone().into(),
            dims: draft.dims.clone().into(),
            role: draft.role,
            storage,
            count: self.resolve(draft.count),
            value: self.resolve(draft.value),
            gradient: draft.gradient.filter(|_| self.options.keep_gradients).map(|g| self.resolve(g)),
            moments: draft.moments.iter().map(|&m| self.resolve(m)).collect::<Vec<_>>().into(),
        }
    }

    fn stream_of(&self, draft: &StreamDraft) -> Stream {
        Stream {
            parameter: draft.parameter,
            order: draft.order,
            starts: self.resolve(draft.starts),
            offsets: self.resolve(draft.offsets),
            source: draft.source.map(|s| self.resolve(s)),
            values: draft.values.map(|v| self.resolve(v)),
        }
    }

    /// Bytes by class at the peak of the largest phase; what of the arena is not live then, alignment included, is padding.
    fn plan(&self, schedules: &[Schedule], arena_bytes: usize, scratch_bytes: usize) -> Vec<ClassBytes> {
        let peaks = schedules.iter().map(|schedule| memory::at_peak(&self.slots, schedule));
        let mut bytes = peaks.max_by_key(|peak| peak.bytes.values().sum::<usize>()).map(|peak| peak.bytes).unwrap_or_default();
        let counted: usize = bytes.values().sum();
        bytes.insert("scratch", scratch_bytes);
        bytes.insert("padding", arena_bytes - counted);
        bytes.into_iter().map(|(class, bytes)| ClassBytes { class: Cow::Borrowed(class), bytes }).collect()
    }
}

impl PhaseLowering<'_, '_> {
    /// Gives every parameter's value its place.
    pub(super) fn place_parameters(&mut self) {
        for id in self.graph.parameters() {
            let value = self.value(id, 0);
            if let Some(&parameter) = self.shared.parameter_of.get(&self.graph.info(value).name) {
                self.places.insert(value, self.shared.parameters[parameter].value.into());
            }
        }
    }

    /// Gives every gradient the place of its parameter's gradient, and marks those stored as units. After the first micro-batch they have
    /// places of their own, to be added.
    pub(super) fn place_gradients(&mut self) {
        for (&id, &gradient) in &self.graph.gradients {
            let Some(parameter) = self.parameter_behind(self.value(id, 0)) else { continue };
            let draft = &self.shared.parameters[parameter];
            let Some(slot) = draft.gradient else { continue };
            if draft.matrix.is_some() {
                self.mark_matrix(gradient, parameter, (self.part == 0).then(|| slot.into()));
            } else if self.part == 0 {
                self.places.entry(gradient).or_insert_with(|| slot.into());
            }
        }
    }

    /// A matrix gradient, and what it is a view or a sum of, is stored as units. A view is the same memory as what it views.
    fn mark_matrix(&mut self, value: Value, parameter: usize, place: Option<Place>) {
        if let Some(place) = place {
            self.places.entry(value).or_insert(place);
        }
        let known = self.matrix_values.insert(value, parameter).is_some();
        let through = match self.graph.node(value.node).op {
            Op::Reshape(_) | Op::Transpose(_) => place,
            Op::Add(_) => None,
            _ => return,
        };
        if !known {
            for input in self.graph.inputs(value.node) {
                self.mark_matrix(input, parameter, through);
            }
        }
    }

    /// Where two parameters have the same gradient, the second gets a copy. After the first micro-batch, gradients are added.
    pub(super) fn finish_gradients(&mut self) -> Result<(), LowerError> {
        for (&id, &gradient) in &self.graph.gradients {
            let Some(parameter) = self.parameter_behind(self.value(id, 0)) else { continue };
            let Some(slot) = self.shared.parameters[parameter].gradient else { continue };
            let place = self.place(gradient)?;
            let (unit, count) = self.shared.parameters[parameter].extent();
            if self.part > 0 {
                self.accumulate(place, slot.into(), unit * count, self.label(id));
            } else if place != slot.into() {
                self.copy_flat("copy", place, slot.into(), unit * count, self.label(id));
            }
        }
        Ok(())
    }

    /// The parameter that `value` is, or is a view of.
    pub(super) fn parameter_behind(&self, value: Value) -> Option<usize> {
        match &self.graph.node(value.node).op {
            Op::Parameter(_) => self.shared.parameter_of.get(&self.graph.info(value).name).copied(),
            Op::Reshape(_) | Op::Transpose(_) => self.parameter_behind(*self.graph.inputs(value.node).first()?),
            _ => None,
        }
    }

    /// The weight matrix behind operand `position` of a convolution or linear layer.
    pub(super) fn weight(&self, id: NodeId, position: usize) -> Result<(usize, MatrixDraft), LowerError> {
        let inputs = self.graph.inputs(id);
        let value = inputs.get(position).copied().ok_or_else(|| self.internal(id, "it has no weight"))?;
        let parameter = self.parameter_behind(value).ok_or_else(|| {
            self.unsupported(id, "its weight is computed, not a parameter; only an initialiser or a view of one can be trained")
        })?;
        let matrix = self.shared.parameters[parameter].matrix.ok_or_else(|| self.internal(id, "its weight has no annotation"))?;
        Ok((parameter, matrix))
    }

    /// The operand for a bias: its place, or null.
    pub(super) fn bias_place(&self, id: NodeId, position: usize) -> Result<Option<Place>, LowerError> {
        self.graph.inputs(id).get(position).map(|&bias| self.place(bias)).transpose()
    }

    /// Sums partial weight gradients of stream `stream` into the place of `gradient`.
    pub(super) fn gather_gradient(
        &mut self,
        stream: usize,
        partials: Place,
        count: usize,
        gradient: Value,
        label: &str,
    ) -> Result<(), LowerError> {
        let draft = self.shared.streams[stream].clone();
        let parameter = &self.shared.parameters[draft.parameter];
        let ((unit, capacity), parts) = (parameter.extent(), parameter.parts());
        let units = parameter.count;
        let place = self.define_matrix(gradient, unit * capacity);
        let source = draft.source.ok_or_else(|| self.internal(gradient.node, "its stream has no order"))?;
        let mut kernel = super::KernelBuilder::new(format!("gather_gradient_{count}x{}", unit * capacity), &[parts]);
        let operands = vec![
            super::kernel::integer(crate::program::Affine::default().plus(0, 1)),
            start(kernel.read("partials", partials)),
            start(kernel.words("source", source)),
            start(kernel.words("count", units)),
            start(kernel.write("gradient", place)),
        ];
        let tile =
            mest_runtime::tile::GatherGradient { partials: count, partial_stride_elements: unit * capacity, unit_elements: unit, parts };
        kernel.tile(mest_runtime::tile::Tile::GatherGradient(tile), operands);
        self.shared.launch(kernel, label);
        Ok(())
    }

    /// A slot for a matrix gradient that is not a parameter's final one.
    pub(super) fn define_matrix(&mut self, value: Value, elements: usize) -> Place {
        if let Some(place) = self.places.get(&value) {
            return *place;
        }
        let name = self.graph.info(value).name.clone();
        let place = self.shared.transient(&name, Class::Gradients, elements);
        self.places.insert(value, place);
        place
    }
}
/// Rows of the smallest table that the model's input chooses from; 0 if it chooses from none.
fn table_rows(graph: &Graph) -> usize {
    let from_input = |mut value: Value| {
        while let Op::Slice(_) | Op::Reshape(_) | Op::Transpose(_) = graph.node(value.node).op {
            let Some(&source) = graph.inputs(value.node).first() else { return false };
            value = source;
        }
        matches!(graph.node(value.node).op, Op::Input(_))
    };
    let rows = |id: NodeId| match (&graph.node(id).op, &graph.inputs(id)[..]) {
        (Op::Embedding(_), &[table, indices]) if from_input(indices) => graph.shape(table).fixed().first().copied(),
        _ => None,
    };
    graph.ids().into_iter().filter_map(rows).min().unwrap_or(0)
}
