//! Lowering: from graphs and tables to kernels and slots. One file a family of operations.
//!
//! The training graph and the inference graph share parameters by name. Each node (or fusion cluster) becomes one or a few launches, in
//! topological order; each value becomes a slot, or lies in another value's slot where the memory is the same.

mod convolution;
mod embedding;
mod function;
mod kernel;
mod linear;
mod loss;
mod map;
mod matrix_product;
mod normalization;
mod parameters;
mod pooling;
mod resample;
mod reshape;
mod slicing;
mod staging;
mod update;

use super::layout;
use super::{Class, Kernel, Launch, Program, Schedule, Slot, SlotId, hoist, in_place, memory};
use crate::ir::{Graph, NodeId, Shape, Value};
use crate::op::{Op, Operator};
use crate::pass::annotate_sparsity::SparsityTable;
use crate::pass::fuse::{self, FusionTable, Unit};
use kernel::{KernelBuilder, Place};
use mest_runtime::manifest::{Element, StreamOrder, Template};
use mest_runtime::network::Phase;
use mest_runtime::optim::Optimizer;
use normalization::{NormalizedGradient, NormalizedValue};
use parameters::ParameterDraft;
use std::collections::HashMap;

/// Scratch a band of staged rows may take, in bytes, where memory is not short. The rows that one row of output reads are what should stay
/// in the second-level cache; the fewer the bands, the fewer the rows that two of them stage.
pub const STAGE_BYTES: usize = 1 << 20;

/// Parts that work on one array is cut into, at most; a constant, so that results do not depend on threads.
const PARTS: usize = 8;

/// What lowering needs to know beside the graphs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Examples of a full step.
    pub batch: usize,
    /// Examples a vector: 16, 8 or 4.
    pub lanes: usize,
    /// Update rule.
    pub optimizer: Optimizer,
    /// Whether gradients are clipped by their global norm.
    pub clip_norm: bool,
    /// How far above its budget mutation grows a layer: what slots are sized for.
    pub peak: PeakDensity,
    /// Workers whose scratch the plan counts.
    pub threads: usize,
    /// Whether gradients are read after the step. Otherwise each lives until its parameter is updated.
    pub keep_gradients: bool,
    /// Scratch a band of staged rows may take, in bytes; a band has at least one row.
    pub stage_bytes: usize,
    /// Parts of a batch, one computed after the other; a divisor of the groups of lanes. Gradients are summed over them, and each has batch
    /// statistics of its own.
    pub micro_batches: usize,
    /// Whether the optimiser's state is stored as bf16.
    pub narrow_moments: bool,
}

/// The largest density that mutation grows a layer to.
#[derive(Clone, Debug)]
pub enum PeakDensity {
    /// The budgeted density itself.
    Budget,
    /// What the mutation configuration says.
    Mutation(mest_runtime::mutation::MutationConfig),
}

/// The graph cannot be lowered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LowerError {
    /// A node in a form that no kernel covers.
    #[error("node '{node}': {why}")]
    Unsupported {
        /// The node.
        node: String,
        /// What is missing.
        why: String,
    },
    /// The compiler broke one of its own rules.
    #[error("internal error while lowering '{node}': {why}")]
    Internal {
        /// The node.
        node: String,
        /// The rule.
        why: String,
    },
}

/// A stream whose slots are not placed yet.
#[derive(Clone, Debug, PartialEq)]
struct StreamDraft {
    parameter: usize,
    order: StreamOrder,
    starts: SlotId,
    offsets: SlotId,
    source: Option<SlotId>,
    values: Option<SlotId>,
}

/// Slots that the host writes and reads.
#[derive(Clone, Copy, Debug)]
struct IoSlots {
    input: SlotId,
    target: SlotId,
    example: SlotId,
    live: SlotId,
    count: SlotId,
    output: SlotId,
    loss: SlotId,
    correct: SlotId,
    hyper: SlotId,
    seed: SlotId,
}

/// The program in the making.
struct Lowering<'a> {
    options: &'a Options,
    /// Groups of lanes of a micro-batch.
    groups: usize,
    slots: Vec<Slot>,
    kernels: Vec<Kernel>,
    launches: Vec<Launch>,
    parameters: Vec<ParameterDraft>,
    parameter_of: HashMap<String, usize>,
    streams: Vec<StreamDraft>,
    constants: Vec<(SlotId, Vec<f32>)>,
    /// The slots of this phase's constants.
    constant_slots: HashMap<NodeId, SlotId>,
    /// Where each parameter's number lies, one after the other; there where moments are stored as bf16.
    numbers: Option<SlotId>,
    io: IoSlots,
}

/// One graph being lowered into the launches of one phase.
struct PhaseLowering<'a, 'b> {
    shared: &'b mut Lowering<'a>,
    graph: &'a Graph,
    /// Which micro-batch.
    part: usize,
    /// Examples of the micro-batch and the inverse of that, once something reads them.
    part_count: Option<Place>,
    places: HashMap<Value, Place>,
    /// Values stored like the units of a matrix parameter: its gradients.
    matrix_values: HashMap<Value, usize>,
    /// Factor and offset of each normalization, by channel.
    normalize_coefficients: HashMap<NodeId, [Place; 2]>,
    /// Activations that convolutions compute while they read them.
    normalized_values: HashMap<Value, NormalizedValue>,
    /// Gradients that a convolution computes while it stages them.
    normalized_gradients: HashMap<Value, NormalizedGradient>,
}

/// Lowers the differentiated training graph and the inference graph (with its loss) to a program with a planned arena.
///
/// # Errors
/// A node that no kernel covers, by name.
pub fn lower(
    training: &Graph,
    inference: &Graph,
    sparsity: &SparsityTable,
    options: &Options,
    template: Template,
) -> Result<Program, LowerError> {
    let mut lowering = Lowering::new(training, options)?;
    lowering.declare_parameters(training, sparsity)?;
    let mut schedules = vec![lowering.phase(training, Phase::Train)?, lowering.phase(inference, Phase::Evaluate)?];
    let shared = in_place::merge(&lowering.slots, &lowering.kernels, &mut schedules);
    let arena_bytes = memory::plan(&mut lowering.slots, &schedules);
    for (later, mut earlier) in &shared {
        while let Some(next) = shared.get(earlier) {
            earlier = next;
        }
        lowering.slots[later.0].offset = lowering.slots[earlier.0].offset;
        lowering.slots[later.0].in_place_of = Some(*earlier);
    }
    let manifest = lowering.manifest(training, template, arena_bytes, &schedules);
    let Lowering { slots, kernels, .. } = lowering;
    Ok(Program { name: training.name.clone(), slots, kernels, schedules, manifest })
}

impl<'a> Lowering<'a> {
    fn new(graph: &Graph, options: &'a Options) -> Result<Self, LowerError> {
        let mut this = Lowering {
            options,
            groups: options.batch.div_ceil(options.lanes) / options.micro_batches,
            slots: vec![],
            kernels: vec![],
            launches: vec![],
            parameters: vec![],
            parameter_of: HashMap::new(),
            streams: vec![],
            constants: vec![],
            constant_slots: HashMap::new(),
            numbers: None,
            io: IoSlots {
                input: SlotId(0),
                target: SlotId(0),
                example: SlotId(0),
                live: SlotId(0),
                count: SlotId(0),
                output: SlotId(0),
                loss: SlotId(0),
                correct: SlotId(0),
                hyper: SlotId(0),
                seed: SlotId(0),
            },
        };
        let source = |wanted: fn(&Op) -> bool| {
            graph.ids().into_iter().find(|&id| wanted(&graph.node(id).op)).map(|id| graph.node(id).outputs[0].shape.clone())
        };
        let missing = |what: &str| LowerError::Internal { node: graph.name.clone(), why: format!("the graph has no {what}") };
        let input = source(|op| matches!(op, Op::Input(_))).ok_or_else(|| missing("input"))?;
        let target = source(|op| matches!(op, Op::Target(_))).ok_or_else(|| missing("target"))?;
        let output = graph.output.map(|value| graph.shape(value)).ok_or_else(|| missing("output"))?;
        let lanes = options.batch.next_multiple_of(options.lanes);
        let mut data = |name: &str, element, len| this.slot(name, Class::Data, element, len, true);
        this.io = IoSlots {
            input: data("input", Element::F32, options.batch * input.elements()),
            target: data("target", if target.rank() == 1 { Element::U32 } else { Element::F32 }, options.batch * target.elements()),
            example: data("example", Element::U32, lanes),
            live: data("live", Element::F32, lanes),
            count: data("live_count", Element::F32, 2),
            output: data("output", Element::F32, lanes * output.elements()),
            loss: data("loss", Element::F32, lanes),
            correct: data("correct", Element::F32, lanes),
            hyper: data("hyper", Element::F32, mest_runtime::optim::Hyper::LEN),
            seed: data("seed", Element::U32, 4),
        };
        Ok(this)
    }

    fn slot(&mut self, name: &str, class: Class, element: Element, len: usize, persistent: bool) -> SlotId {
        self.slots.push(Slot { name: name.to_owned(), class, element, len, persistent, offset: 0, in_place_of: None });
        SlotId(self.slots.len() - 1)
    }

    /// Floats that live from their first to their last launch.
    fn transient(&mut self, name: &str, class: Class, len: usize) -> Place {
        self.slot(name, class, Element::F32, len, false).into()
    }

    /// Elements of one group of a batched value of `shape`.
    fn group_elements(&self, shape: &Shape) -> usize {
        shape.elements() * self.options.lanes
    }

    /// Keeps the kernel (or finds the equal one) and appends its launch.
    fn launch(&mut self, builder: KernelBuilder, label: &str) {
        let (mut kernel, mut launch) = builder.finish(label);
        let same = |k: &Kernel| {
            k.domain == kernel.domain && k.scratch == kernel.scratch && k.arguments == kernel.arguments && k.body == kernel.body
        };
        launch.kernel = self.kernels.iter().position(same).unwrap_or_else(|| {
            let taken = self.kernels.iter().filter(|k| k.name == kernel.name || k.name.starts_with(&format!("{}__", kernel.name))).count();
            if taken > 0 {
                kernel.name = format!("{}__{}", kernel.name, taken + 1);
            }
            self.kernels.push(kernel);
            self.kernels.len() - 1
        });
        self.launches.push(launch);
    }

    fn phase(&mut self, graph: &'a Graph, phase: Phase) -> Result<Schedule, LowerError> {
        let order = graph.topological().map_err(|e| LowerError::Internal { node: e.node.clone(), why: e.to_string() })?;
        let fusion = fuse::fuse(graph, &order);
        self.constant_slots.clear();
        let mut turns = Vec::new();
        for part in 0..self.options.micro_batches {
            let turn = self.micro_batch(graph, &fusion, phase, part)?;
            turns.push(turn.unwrap_or(self.launches.len()));
        }
        if phase == Phase::Train {
            let first = self.launches.len();
            self.update();
            hoist::hoist(&mut self.launches, first);
        }
        Ok(Schedule { phase, turns, launches: std::mem::take(&mut self.launches) })
    }

    /// One pass over a part of the batch; returns the number of the launch that backward begins with.
    fn micro_batch(&mut self, graph: &'a Graph, fusion: &FusionTable, phase: Phase, part: usize) -> Result<Option<usize>, LowerError> {
        let mut lowering = PhaseLowering {
            shared: self,
            graph,
            part,
            part_count: None,
            places: HashMap::new(),
            matrix_values: HashMap::new(),
            normalize_coefficients: HashMap::new(),
            normalized_values: HashMap::new(),
            normalized_gradients: HashMap::new(),
        };
        lowering.place_parameters();
        let output = graph.output.map(|output| (output, lowering.own_part(lowering.shared.io.output, lowering.group_stride(output))));
        lowering.places.extend(output);
        if phase == Phase::Train {
            lowering.place_gradients();
        }
        let mut turn = None;
        for unit in &fusion.sequence {
            match unit {
                Unit::Node(id) => lowering.node(*id)?,
                Unit::Cluster(cluster) => lowering.cluster(&fusion.clusters[*cluster])?,
            }
            if matches!(unit, Unit::Node(id) if graph.node(*id).op.is_loss()) {
                turn = Some(lowering.shared.launches.len());
            }
        }
        lowering.copy_states()?;
        if phase == Phase::Train {
            lowering.finish_gradients()?;
        }
        Ok(turn)
    }
}

impl<'a> PhaseLowering<'a, '_> {
    /// Lowers one node that is in no cluster.
    fn node(&mut self, id: NodeId) -> Result<(), LowerError> {
        let node = self.graph.node(id);
        match &node.op {
            Op::Input(_) => self.input(id),
            Op::Target(_) => self.target(id),
            Op::Parameter(_) => Ok(()),
            Op::Constant(_) => self.constant(id),
            Op::Convolution(op) => self.convolution(id, op),
            Op::ConvolutionBackward(op) => self.convolution_backward(id, &op.forward, true),
            Op::ConvolutionWeightGradient(op) => self.convolution_backward(id, &op.forward, false),
            Op::Linear(_) => self.linear(id),
            Op::LinearBackward(_) => self.linear_backward(id, true),
            Op::LinearWeightGradient(_) => self.linear_weight_gradient(id),
            Op::Embedding(_) => self.embedding(id),
            Op::EmbeddingGradient(_) => self.embedding_gradient(id),
            Op::Resample(op) => self.resample(id, op),
            Op::BatchMoments(_) => self.batch_moments(id),
            Op::DropoutMask(op) => self.dropout_mask(id, op.ratio),
            Op::MaxPool(op) => self.max_pool(id, &op.window),
            Op::MaxPoolGradient(op) => self.max_pool_gradient(id, &op.window),
            Op::AveragePool(op) => self.average_pool(id, op),
            Op::AveragePoolGradient(op) => self.average_pool_gradient(id, op),
            Op::MatrixProduct(op) => self.matrix_product(id, op),
            Op::ReduceMean(op) => self.reduce_mean(id, &op.axes),
            Op::ReduceMax(op) => self.reduce_max(id, &op.axes),
            Op::Slice(op) => self.slice(id, op),
            Op::Pad(op) => self.pad(id, op),
            Op::Concat(op) => self.concat(id, op),
            Op::Reshape(_) => self.reshape(id),
            Op::Transpose(op) => self.transpose(id, &op.perm),
            Op::Softmax(op) => self.softmax(id, op.log),
            Op::SoftmaxCrossEntropy(op) => self.softmax_cross_entropy(id, op.smoothing),
            Op::MeanSquaredError(_) => self.mean_squared_error(id),
            Op::NormalizeSums(_)
            | Op::SumTo(_)
            | Op::Normalize(_)
            | Op::NormalizeBackward(_)
            | Op::RunningAverage(_)
            | Op::Add(_)
            | Op::Mul(_)
            | Op::Div(_)
            | Op::Max(_)
            | Op::Min(_)
            | Op::SelectLess(_)
            | Op::Unary(_)
            | Op::UnaryGradient(_)
            | Op::Relu(_)
            | Op::ReluGradient(_)
            | Op::Clip(_)
            | Op::ClipGradient(_)
            | Op::Narrow(_)
            | Op::Widen(_)
            | Op::Expand(_) => Err(self.internal(id, "fusion left it out")),
            Op::BatchNormalization(_) | Op::Dropout(_) | Op::Bernoulli(_) => Err(self.internal(id, "it should have been specialized")),
        }
    }

    fn internal(&self, id: NodeId, why: &str) -> LowerError {
        LowerError::Internal { node: self.graph.node(id).name.clone(), why: why.to_owned() }
    }

    fn unsupported(&self, id: NodeId, why: impl Into<String>) -> LowerError {
        LowerError::Unsupported { node: self.graph.node(id).name.clone(), why: why.into() }
    }

    fn label(&self, id: NodeId) -> &'a str {
        &self.graph.node(id).name
    }

    fn shape(&self, value: Value) -> &'a Shape {
        self.graph.shape(value)
    }

    fn operator_name(&self, id: NodeId) -> &'static str {
        let op: &dyn Operator = self.graph.node(id).op.operator();
        op.name()
    }

    /// Where a computed value lies.
    fn place(&self, value: Value) -> Result<Place, LowerError> {
        self.places.get(&value).copied().ok_or_else(|| self.internal(value.node, "its result is read before it is computed"))
    }

    /// A slot for a value about to be computed, unless it already has a place.
    fn define(&mut self, value: Value) -> Place {
        if let Some(place) = self.places.get(&value) {
            return *place;
        }
        let info = self.graph.info(value);
        let shared = &mut *self.shared;
        let len = if info.shape.is_batched() { shared.groups * shared.group_elements(&info.shape) } else { info.shape.elements() };
        let class = if info.shape.is_batched() { Class::Activations } else { Class::State };
        let element = if matches!(self.graph.node(value.node).op, Op::Narrow(_)) { Element::Bf16 } else { Element::F32 };
        let place = shared.slot(&info.name, class, element, len, false).into();
        self.places.insert(value, place);
        place
    }

    fn value(&self, id: NodeId, output: usize) -> Value {
        Value { node: id, output }
    }

    fn lanes(&self) -> usize {
        self.shared.options.lanes
    }

    fn groups(&self) -> usize {
        self.shared.groups
    }

    /// Where the micro-batch's part of `slot` begins, which has `stride` elements a group.
    fn own_part(&self, slot: SlotId, stride: usize) -> Place {
        Place { slot, offset: self.part * self.groups() * stride }
    }

    /// Its part of a slot of one element a lane.
    fn own_lanes(&self, slot: SlotId) -> Place {
        self.own_part(slot, self.lanes())
    }

    /// Elements between groups of a batched value.
    fn group_stride(&self, value: Value) -> usize {
        self.shared.group_elements(self.shape(value))
    }

    /// `[channels, rows, width]` of a batched value, for kernels that see images: lower ranks have one row.
    fn image(&self, value: Value) -> [usize; 3] {
        match self.shape(value).fixed()[..] {
            [c, h, w] => [c, h, w],
            [c, w] => [c, 1, w],
            [c] => [c, 1, 1],
            _ => [1, 1, self.shape(value).elements()],
        }
    }
}

/// Whether both shapes describe the same memory.
fn same_memory(a: &Shape, b: &Shape) -> bool {
    a == b || (layout::is_natural(a) && layout::is_natural(b))
}
