//! Small networks built node by node, for tests that compare engines.

use mest_runtime::random::{Purpose, Stream};
use mest_runtime::recipe::Distribution;
use mest_runtime::sparse::Scheme;
use mestc::ir::graph::Role;
use mestc::ir::{Graph, Shape, Tensor, Value, ValueInfo};
use mestc::op::pooling::Window;
use mestc::op::*;
use mestc::pass::annotate_sparsity::SparsityRequest;
use mestc::pass::attach_loss::Loss;
use mestc::trace::{Optimizer, Rule, Target};
use std::collections::BTreeMap;

/// A network, what it is trained with, and on what.
pub(crate) struct Case {
    /// What it is there for.
    pub(crate) name: &'static str,
    /// The model, as imported.
    pub(crate) graph: Graph,
    /// What is minimised.
    pub(crate) loss: Loss,
    /// How.
    pub(crate) optimizer: Optimizer,
    /// Examples a step.
    pub(crate) batch: usize,
    /// Live elements of sparse parameters.
    pub(crate) masks: BTreeMap<String, Vec<bool>>,
}

impl Case {
    /// The examples and targets of a step.
    pub(crate) fn batch(&self, step: usize) -> (Tensor, Target) {
        let mut stream = Stream::new(7, Purpose::Synthetic, step as u64);
        let of = |wanted: fn(&Op) -> bool| {
            let id = self.graph.ids().into_iter().find(|&id| wanted(&self.graph.node(id).op)).expect("it exists");
            self.graph.node(id).outputs[0].shape.concrete(self.batch)
        };
        let dims = of(|op| matches!(op, Op::Input(_)));
        let input = Tensor { values: (0..dims.iter().product()).map(|_| stream.normal() as f32).collect(), dims };
        let output = self.graph.shape(self.graph.output.expect("it has an output")).concrete(self.batch);
        let target = match self.loss {
            Loss::CrossEntropy { .. } => Target::Classes((0..self.batch).map(|_| stream.below(output[1]) as u32).collect()),
            Loss::MeanSquaredError => {
                Target::Values(Tensor { values: (0..output.iter().product()).map(|_| stream.normal() as f32).collect(), dims: output })
            }
        };
        (input, target)
    }

    /// Sparsity as the masks say, everything else dense.
    pub(crate) fn request(&self) -> SparsityRequest {
        SparsityRequest {
            density: 1.0,
            distribution: Distribution::Uniform,
            scheme: Scheme::Unstructured,
            patterns: Default::default(),
            layers: BTreeMap::new(),
            masks: self.masks.clone(),
        }
    }
}

/// Builds a graph; each layer is named by its number.
struct Builder {
    graph: Graph,
    random: Stream,
    layers: usize,
}

impl Builder {
    fn new(name: &str, dims: &[usize]) -> (Self, Value) {
        let mut this = Builder { graph: Graph::new(name), random: Stream::new(3, Purpose::Initialization, 0), layers: 0 };
        let x = this.add("input", Input { shape: Shape::batched(dims) }, &[]);
        (this, x)
    }

    fn add(&mut self, name: &str, op: impl Into<Op>, inputs: &[Value]) -> Value {
        let op = op.into();
        let shapes: Vec<&Shape> = inputs.iter().map(|&v| self.graph.shape(v)).collect();
        let shapes = op.operator().infer(&shapes).expect("the layer fits");
        let outputs: Vec<ValueInfo> = shapes
            .into_iter()
            .enumerate()
            .map(|(i, shape)| ValueInfo {
                name: self.graph.fresh_name(&if i == 0 { name.to_owned() } else { format!("{name}:{i}") }),
                shape,
            })
            .collect();
        Value { node: self.graph.add(name, op, inputs, outputs), output: 0 }
    }

    fn next(&mut self, kind: &str) -> String {
        self.layers += 1;
        format!("{kind}{}", self.layers)
    }

    fn parameter(&mut self, name: &str, dims: &[usize], role: Role, draw: impl Fn(&mut Stream) -> f64) -> Value {
        let value = self.add(name, Parameter { dims: dims.to_vec(), role }, &[]);
        let values = (0..dims.iter().product()).map(|_| draw(&mut self.random) as f32).collect();
        self.graph.initial.insert(value.node, Tensor { dims: dims.to_vec(), values }.into());
        value
    }

    fn convolution(&mut self, x: Value, outputs: usize, kernel: [usize; 2], op: Convolution, bias: bool) -> Value {
        let name = self.next("conv");
        let channels = self.graph.shape(x).fixed()[0];
        let fan = (channels / op.groups * kernel[0] * kernel[1]) as f64;
        let dims = [outputs, channels / op.groups, kernel[0], kernel[1]];
        let w = self.parameter(&format!("{name}.weight"), &dims, Role::Trainable, |s| s.normal() * (2.0 / fan).sqrt());
        let mut inputs = vec![x, w];
        if bias {
            inputs.push(self.parameter(&format!("{name}.bias"), &[outputs], Role::Trainable, |s| 0.1 * s.normal()));
        }
        self.add(&name, op, &inputs)
    }

    fn batch_norm(&mut self, x: Value) -> Value {
        let name = self.next("bn");
        let channels = self.graph.shape(x).fixed()[0];
        let scale = self.parameter(&format!("{name}.scale"), &[channels], Role::Trainable, |s| 1.0 + 0.2 * s.normal());
        let shift = self.parameter(&format!("{name}.shift"), &[channels], Role::Trainable, |s| 0.2 * s.normal());
        let mean = self.parameter(&format!("{name}.mean"), &[channels], Role::State, |s| 0.1 * s.normal());
        let variance = self.parameter(&format!("{name}.variance"), &[channels], Role::State, |s| 1.0 + s.uniform());
        self.add(&name, BatchNormalization { epsilon: 1e-5, momentum: 0.9 }, &[x, scale, shift, mean, variance])
    }

    fn relu(&mut self, x: Value) -> Value {
        let name = self.next("relu");
        self.add(&name, Relu {}, &[x])
    }

    /// y = x w^T + b with w `[outputs, inputs]`, as Gemm with transB.
    fn linear(&mut self, x: Value, outputs: usize) -> Value {
        let name = self.next("linear");
        let inputs = *self.graph.shape(x).fixed().last().expect("it has features");
        let scale = (2.0 / inputs as f64).sqrt();
        let w = self.parameter(&format!("{name}.weight"), &[outputs, inputs], Role::Trainable, |s| s.normal() * scale);
        let b = self.parameter(&format!("{name}.bias"), &[outputs], Role::Trainable, |s| 0.1 * s.normal());
        let w = self.add(&format!("{name}.transposed"), Transpose { perm: vec![1, 0] }, &[w]);
        self.add(&name, Linear {}, &[x, w, b])
    }

    fn flatten(&mut self, x: Value) -> Value {
        let name = self.next("flatten");
        let elements = self.graph.shape(x).elements();
        self.add(&name, Reshape { shape: Shape::batched(&[elements]) }, &[x])
    }

    fn global_pool(&mut self, x: Value) -> Value {
        let name = self.next("pool");
        self.add(&name, ReduceMean { axes: vec![2, 3], keep_dims: true }, &[x])
    }

    /// The finished case; `densities` makes the weights of layers sparse.
    fn finish(mut self, name: &'static str, output: Value, batch: usize, optimizer: Optimizer, densities: &[(&str, f64)]) -> Case {
        self.graph.output = Some(output);
        self.graph.logits = Some(output);
        let mut masks = BTreeMap::new();
        for (layer, density) in densities {
            let parameter = format!("{layer}.weight");
            let id =
                self.graph.parameters().into_iter().find(|&id| self.graph.node(id).outputs[0].name == parameter).expect("the layer exists");
            let live = (0..self.graph.initial[&id].values.len()).map(|_| self.random.uniform() < *density).collect();
            masks.insert(parameter, live);
        }
        Case { name, graph: self.graph, loss: Loss::CrossEntropy { smoothing: 0.0 }, optimizer, batch, masks }
    }
}

fn sgd(momentum: f64, nesterov: bool) -> Optimizer {
    Optimizer { rule: Rule::Sgd { momentum, nesterov }, learning_rate: 0.05, weight_decay: 1e-3, label_smoothing: 0.0 }
}

fn plain(strides: [usize; 2], pads: [usize; 4]) -> Convolution {
    Convolution { strides, dilations: [1, 1], pads, groups: 1 }
}

/// Every case.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = convolutional();
    cases.extend([functions(), parts(), resampled(), attention()]);
    cases
}

/// Networks of the operations that the shape-agnostic baseline has, too.
pub(crate) fn convolutional() -> Vec<Case> {
    vec![perceptron(), residual(), mobile(), pooled(), odd_geometry(), regression(), gated()]
}

fn perceptron() -> Case {
    let (mut b, x) = Builder::new("perceptron", &[1, 5, 7]);
    let x = b.flatten(x);
    let x = b.linear(x, 24);
    let x = b.relu(x);
    let x = b.linear(x, 13);
    let x = b.relu(x);
    let y = b.linear(x, 5);
    b.finish("perceptron", y, 21, sgd(0.9, false), &[("linear2", 0.3), ("linear4", 0.5)])
}

fn residual() -> Case {
    let (mut b, x) = Builder::new("residual", &[3, 9, 8]);
    let x = b.convolution(x, 8, [3, 3], plain([1, 1], [1, 1, 1, 1]), false);
    let x = b.batch_norm(x);
    let x = b.relu(x);
    let y = b.convolution(x, 12, [3, 3], plain([2, 2], [1, 1, 1, 1]), false);
    let y = b.batch_norm(y);
    let y = b.relu(y);
    let y = b.convolution(y, 12, [3, 3], plain([1, 1], [1, 1, 1, 1]), false);
    let y = b.batch_norm(y);
    let s = b.convolution(x, 12, [1, 1], plain([2, 2], [0, 0, 0, 0]), false);
    let s = b.batch_norm(s);
    let sum = b.add("add", Add {}, &[y, s]);
    let x = b.relu(sum);
    let x = b.global_pool(x);
    let x = b.flatten(x);
    let y = b.linear(x, 4);
    b.finish("residual", y, 35, sgd(0.9, true), &[("conv4", 0.2), ("conv7", 0.4)])
}

fn mobile() -> Case {
    let (mut b, x) = Builder::new("mobile", &[2, 8, 8]);
    let x = b.convolution(x, 6, [1, 1], plain([1, 1], [0; 4]), false);
    let x = b.batch_norm(x);
    let x = b.add("clip", Clip { low: 0.0, high: 1.5 }, &[x]);
    let x = b.convolution(x, 6, [3, 3], Convolution { strides: [2, 1], dilations: [1, 1], pads: [1, 1, 1, 1], groups: 6 }, false);
    let x = b.batch_norm(x);
    let x = b.add("clip_again", Clip { low: -0.5, high: 1.0 }, &[x]);
    let x = b.convolution(x, 8, [3, 2], Convolution { strides: [1, 2], dilations: [1, 2], pads: [0, 1, 2, 0], groups: 2 }, true);
    let x = b.relu(x);
    let x = b.global_pool(x);
    let x = b.flatten(x);
    let y = b.linear(x, 3);
    let adam = Rule::Adam { betas: [0.9, 0.99], epsilon: 1e-3 };
    let optimizer = Optimizer { rule: adam, learning_rate: 0.01, weight_decay: 1e-2, label_smoothing: 0.0 };
    b.finish("mobile", y, 6, optimizer, &[("conv1", 0.7), ("conv5", 0.4)])
}

fn pooled() -> Case {
    let (mut b, x) = Builder::new("pooled", &[2, 11, 10]);
    let x = b.convolution(x, 5, [3, 3], plain([1, 1], [1, 0, 0, 1]), true);
    let x = b.relu(x);
    let window = Window { kernel: [3, 2], strides: [2, 2], pads: [1, 0, 1, 0], dilations: [1, 1], ceil: false };
    let x = b.add("max", MaxPool { window }, &[x]);
    let x = b.convolution(x, 7, [3, 3], plain([1, 1], [1, 1, 1, 1]), true);
    let window = Window { kernel: [2, 3], strides: [1, 2], pads: [0, 1, 1, 1], dilations: [1, 1], ceil: true };
    let x = b.add("average", AveragePool { window, include_padding: false }, &[x]);
    let x = b.relu(x);
    let x = b.flatten(x);
    let y = b.linear(x, 6);
    let adamw = Rule::AdamW { betas: [0.8, 0.95], epsilon: 1e-3 };
    let optimizer = Optimizer { rule: adamw, learning_rate: 0.01, weight_decay: 0.1, label_smoothing: 0.0 };
    let mut case = b.finish("pooled", y, 3, optimizer, &[("conv3", 0.3), ("linear6", 0.2)]);
    case.loss = Loss::CrossEntropy { smoothing: 0.1 };
    case
}

fn odd_geometry() -> Case {
    let (mut b, x) = Builder::new("odd geometry", &[4, 13, 5]);
    let x = b.convolution(x, 4, [5, 1], Convolution { strides: [3, 1], dilations: [2, 1], pads: [4, 0, 3, 0], groups: 1 }, false);
    let x = b.batch_norm(x);
    let x = b.relu(x);
    let x = b.convolution(x, 9, [2, 3], Convolution { strides: [1, 4], dilations: [1, 1], pads: [0, 2, 1, 2], groups: 1 }, false);
    let x = b.batch_norm(x);
    let x = b.flatten(x);
    let y = b.linear(x, 11);
    b.finish("odd geometry", y, 17, sgd(0.0, false), &[("conv1", 0.5), ("conv4", 0.05), ("linear7", 0.6)])
}

fn regression() -> Case {
    let (mut b, x) = Builder::new("regression", &[10]);
    let x = b.linear(x, 16);
    let x = b.batch_norm(x);
    let x = b.relu(x);
    let y = b.linear(x, 3);
    let mut case = b.finish("regression", y, 10, sgd(0.5, false), &[("linear1", 0.4)]);
    case.loss = Loss::MeanSquaredError;
    case
}

/// A channel gate: a broadcast product whose small operand is computed from the large one.
fn gated() -> Case {
    let (mut b, x) = Builder::new("gated", &[3, 6, 6]);
    let x = b.convolution(x, 8, [3, 3], plain([1, 1], [1, 1, 1, 1]), false);
    let x = b.batch_norm(x);
    let x = b.relu(x);
    let gate = b.global_pool(x);
    let gate = b.convolution(gate, 8, [1, 1], plain([1, 1], [0; 4]), true);
    let gate = b.relu(gate);
    let x = b.add("gated", Mul {}, &[x, gate]);
    let offset = b.parameter("offset", &[8, 1, 6], Role::Trainable, |s| s.normal());
    let x = b.add("shifted", Add {}, &[offset, x]);
    let ramp = Tensor { dims: vec![8, 1, 1], values: (0..8).map(|i| 0.5 + 0.125 * i as f32).collect() };
    let ramp = b.add("ramp", Constant { value: ramp }, &[]);
    let x = b.add("scaled", Mul {}, &[x, ramp]);
    let x = b.convolution(x, 4, [3, 3], plain([2, 2], [0, 0, 1, 1]), false);
    let x = b.add("mean", ReduceMean { axes: vec![3], keep_dims: false }, &[x]);
    let x = b.flatten(x);
    let y = b.linear(x, 5);
    b.finish("gated", y, 16, sgd(0.9, false), &[("conv1", 0.6), ("conv7", 0.3)])
}

/// Every function of one element, quotients and choices, over images and over rows.
fn functions() -> Case {
    let (mut b, x) = Builder::new("functions", &[3, 5, 4]);
    let x = b.convolution(x, 6, [3, 3], plain([1, 1], [1, 1, 1, 1]), true);
    let gate = b.parameter("gate", &[6, 1, 1], Role::Trainable, |s| s.normal());
    let gate = b.add("gate_sigmoid", Unary { function: Function::Sigmoid }, &[gate]);
    let gated = b.add("gated", Mul {}, &[x, gate]);
    let larger = b.add("larger", Max {}, &[gated, x]);
    let smaller = b.add("smaller", Min {}, &[gated, x]);
    let bounded = [
        Function::Abs,
        Function::Atan,
        Function::Cos,
        Function::Sin,
        Function::Tanh,
        Function::Erf,
        Function::Softplus,
        Function::Elu { alpha: 1.5 },
    ];
    let mut sum = smaller;
    for (i, function) in bounded.into_iter().enumerate() {
        let y = b.add(&format!("bounded{i}"), Unary { function }, &[larger]);
        sum = b.add(&format!("sum{i}"), Add {}, &[sum, y]);
    }
    let exponential = b.add("exponential", Unary { function: Function::Exp }, &[gated]);
    let mut product = exponential;
    for (i, function) in [Function::Sqrt, Function::Reciprocal, Function::Log].into_iter().enumerate() {
        let y = b.add(&format!("positive{i}"), Unary { function }, &[exponential]);
        product = b.add(&format!("product{i}"), Add {}, &[product, y]);
    }
    let softplus = b.add("softplus", Unary { function: Function::Softplus }, &[product]);
    let x = b.add("quotient", Div {}, &[sum, softplus]);
    let x = b.convolution(x, 4, [3, 3], plain([2, 2], [0, 0, 1, 1]), false);
    let x = b.flatten(x);
    let mut x = b.linear(x, 12);
    for (i, function) in [Function::Gelu, Function::GeluTanh, Function::Silu, Function::Mish].into_iter().enumerate() {
        x = b.add(&format!("activation{i}"), Unary { function }, &[x]);
        x = b.linear(x, 12);
    }
    let zero = b.add("zero", Constant { value: Tensor { dims: vec![], values: vec![0.25] } }, &[]);
    let slope = b.parameter("slope", &[12], Role::Trainable, |s| s.normal());
    let tone = b.parameter("tone", &[1], Role::Trainable, |s| s.normal());
    let slope = b.add("toned", Mul {}, &[slope, tone]);
    let leak = b.add("leak", Mul {}, &[x, slope]);
    let x = b.add("selected", SelectLess {}, &[zero, x, x, leak]);
    let y = b.linear(x, 5);
    b.finish("functions", y, 19, sgd(0.9, false), &[("conv1", 0.6)])
}

/// Slices, padding, concatenation, transposes and maxima, of images and of uniform values.
fn parts() -> Case {
    let (mut b, x) = Builder::new("parts", &[3, 8, 6]);
    let x = b.convolution(x, 6, [3, 3], plain([1, 1], [1, 1, 1, 1]), true);
    let odd = b.add("odd", Slice { axis: 2, start: 1, step: 2, count: 3 }, &[x]);
    let wide = b.add("wide", Pad { axis: 2, start: 1, step: 2, extent: 8, fill: 0.25 }, &[odd]);
    let border = b.parameter("border", &[1, 2, 8, 6], Role::Trainable, |s| s.normal());
    let joined = b.add("joined", Concat { axis: 1 }, &[wide, border, x]);
    // Large enough for its gradient to be summed in bands.
    let plane = b.parameter("plane", &[14, 8, 6], Role::Trainable, |s| s.normal());
    let joined = b.add("shifted", Add {}, &[joined, plane]);
    let x = b.convolution(joined, 5, [1, 1], plain([1, 1], [0; 4]), false);
    let turned = b.add("turned", Transpose { perm: vec![0, 3, 1, 2] }, &[x]);
    let columns = b.add("columns", ReduceMax { axes: vec![2], keep_dims: true }, &[turned]);
    let rest = b.add("rest", Add {}, &[turned, columns]);
    let largest = b.add("largest", ReduceMax { axes: vec![1, 3], keep_dims: false }, &[rest]);
    let (first, second) =
        (b.parameter("first", &[2], Role::Trainable, |s| s.normal()), b.parameter("second", &[4], Role::Trainable, |s| s.normal()));
    let both = b.add("both", Concat { axis: 0 }, &[first, second]);
    let some = b.add("some", Slice { axis: 0, start: 0, step: 1, count: 5 }, &[both]);
    let x = b.add("scaled", Mul {}, &[largest, some]);
    let y = b.linear(x, 4);
    let adagrad = Rule::Adagrad { epsilon: 1e-3 };
    let optimizer = Optimizer { rule: adagrad, learning_rate: 0.01, weight_decay: 1e-3, label_smoothing: 0.0 };
    b.finish("parts", y, 18, optimizer, &[("conv1", 0.5)])
}

/// Interpolation, reflection and repetition of images, rows and uniform values; a table read by computed indices.
fn resampled() -> Case {
    let (mut b, x) = Builder::new("resampled", &[2, 5, 6]);
    let x = b.convolution(x, 4, [3, 3], plain([1, 1], [1, 1, 1, 1]), true);
    // As transposed convolutions have it: two groups of two inputs and three outputs.
    let turned = b.parameter("turned.weight", &[4, 3, 2, 2], Role::Trainable, |s| 0.3 * s.normal());
    let turned = b.add("by_group", Reshape { shape: Shape::uniform(&[2, 2, 3, 2, 2]) }, &[turned]);
    let turned = b.add("by_output", Transpose { perm: vec![0, 2, 1, 3, 4] }, &[turned]);
    let turned = b.add("as_matrix", Reshape { shape: Shape::uniform(&[6, 2, 2, 2]) }, &[turned]);
    let grouped = Convolution { groups: 2, ..plain([1, 1], [1, 1, 0, 0]) };
    let x = b.add("turned", grouped, &[x, turned]);
    let doubled = (0..12).map(|to| if to % 2 == 0 { vec![(to / 2, 1.0)] } else { vec![(to / 2, 0.75), ((to / 2 + 1).min(5), 0.25)] });
    let x = b.add("doubled", Resample { axis: 3, taps: doubled.collect() }, &[x]);
    let x = b.add("reflected", Resample::gather(2, &[2, 1, 0, 1, 2, 3, 4, 3]), &[x]);
    let mixed = vec![vec![(3, 1.0), (0, -0.5), (1, 0.25)], vec![(5, 0.5), (4, 0.5)], vec![(0, 1.0), (2, -1.0)]];
    let x = b.add("mixed", Resample { axis: 1, taps: mixed }, &[x]);
    let border = b.parameter("border", &[3, 2, 4], Role::Trainable, |s| s.normal());
    let border = b.add("border_rows", Resample::gather(1, &[1, 0, 0, 1, 1, 0, 1, 0]), &[border]);
    let border = b.add("border_columns", Resample::gather(2, &[3, 2, 1, 0, 0, 1, 2, 3, 3, 3, 3, 0]), &[border]);
    let x = b.add("bordered", Add {}, &[x, border]);
    let rows = b.add("rows", ReduceMean { axes: vec![3], keep_dims: false }, &[x]);
    let rows = b.flatten(rows);
    let [zero, one] =
        [0.0, 1.0].map(|value| b.add(&format!("number{value}"), Constant { value: Tensor { dims: vec![], values: vec![value] } }, &[]));
    let positive = b.add("positive", SelectLess {}, &[zero, rows, one, zero]);
    let large = b.add("large", SelectLess {}, &[one, rows, one, zero]);
    let index = b.add("index", Add {}, &[positive, large]);
    let table = b.parameter("table", &[3, 5], Role::Trainable, |s| s.normal());
    let x = b.add("embedded", Embedding {}, &[table, index]);
    let weighted = b.add("as_rows", Reshape { shape: Shape::batched(&[24, 1]) }, &[rows]);
    let x = b.add("weighted", Mul {}, &[x, weighted]);
    let x = b.flatten(x);
    let y = b.linear(x, 4);
    b.finish("resampled", y, 21, sgd(0.9, false), &[("conv1", 0.6), ("turned", 0.5)])
}

/// A transformer's block over patches with a class token.
fn attention() -> Case {
    let (mut b, x) = Builder::new("attention", &[2, 6, 6]);
    let x = b.convolution(x, 8, [2, 2], plain([2, 2], [0; 4]), true);
    let x = b.add("patches", Reshape { shape: Shape::batched(&[8, 9]) }, &[x]);
    let x = b.add("tokens", Transpose { perm: vec![0, 2, 1] }, &[x]);
    let position = b.parameter("position", &[1, 9, 8], Role::Trainable, |s| s.normal());
    let x = b.add("placed", Add {}, &[x, position]);
    let class = b.parameter("class", &[1, 1, 8], Role::Trainable, |s| s.normal());
    let x = b.add("with_class", Concat { axis: 1 }, &[class, x]);
    let mean = b.add("mean", ReduceMean { axes: vec![2], keep_dims: true }, &[x]);
    let gain = b.parameter("gain", &[8], Role::Trainable, |s| 1.0 + 0.2 * s.normal());
    let x = b.add("centred", Add {}, &[x, mean]);
    let x = b.add("scaled", Mul {}, &[x, gain]);
    let qkv = b.linear(x, 24);
    let qkv = b.add("heads", Reshape { shape: Shape::batched(&[10, 3, 2, 4]) }, &[qkv]);
    let qkv = b.add("qkv", Transpose { perm: vec![0, 2, 3, 1, 4] }, &[qkv]);
    let [q, k, v] = ["q", "k", "v"].map(|name| {
        let start = ["q", "k", "v"].iter().position(|n| *n == name).unwrap_or(0);
        let part = b.add(&format!("{name}_part"), Slice { axis: 1, start, step: 1, count: 1 }, &[qkv]);
        b.add(name, Reshape { shape: Shape::batched(&[2, 10, 4]) }, &[part])
    });
    let scores = b.add("scores", MatrixProduct { transpose_a: false, transpose_b: true }, &[q, k]);
    let shares = b.add("shares", Softmax { log: false }, &[scores]);
    let mixed = b.add("mixed", MatrixProduct { transpose_a: false, transpose_b: false }, &[shares, v]);
    let mixed = b.add("mixed_tokens", Transpose { perm: vec![0, 2, 1, 3] }, &[mixed]);
    let mixed = b.add("mixed_flat", Reshape { shape: Shape::batched(&[10, 8]) }, &[mixed]);
    let y = b.linear(mixed, 8);
    let x = b.add("residual", Add {}, &[x, y]);
    let x = b.add("gelu", Unary { function: Function::Gelu }, &[x]);
    let x = b.add("class_part", Slice { axis: 1, start: 0, step: 1, count: 1 }, &[x]);
    let x = b.flatten(x);
    let y = b.linear(x, 5);
    b.finish("attention", y, 20, sgd(0.9, false), &[("linear2", 0.4)])
}
