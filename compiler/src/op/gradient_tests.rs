//! Every gradient against central differences of the mean loss, in f64.

use super::pooling::Window;
use super::*;
use crate::engine::interp::{Interpreter, Sources};
use crate::ir::graph::Role;
use crate::ir::{Dim, Graph, NodeId, ValueInfo};
use crate::pass::differentiate::{DifferentiateError, differentiate};

const BATCH: usize = 3;

/// A small graph and values for its sources.
struct Net {
    graph: Graph,
    sources: Sources,
    random: u64,
}

impl Net {
    fn new() -> Self {
        Net { graph: Graph::new("test"), sources: Sources::new(), random: 1 }
    }

    /// Between -1 and 1.
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn all(&mut self, op: impl Into<Op>, inputs: &[Value]) -> Vec<Value> {
        let op = op.into();
        let shapes: Vec<Shape> = inputs.iter().map(|&v| self.graph.shape(v).clone()).collect();
        let shapes = op.operator().infer(&shapes.iter().collect::<Vec<_>>()).unwrap();
        let name = format!("n{}", self.graph.len());
        let outputs = shapes.into_iter().enumerate().map(|(i, shape)| ValueInfo { name: format!("{name}_{i}"), shape }).collect();
        let id = self.graph.add(name, op, inputs, outputs);
        self.graph.outputs(id)
    }

    fn node(&mut self, op: impl Into<Op>, inputs: &[Value]) -> Value {
        self.all(op, inputs)[0]
    }

    fn source(&mut self, op: impl Into<Op>) -> Value {
        let value = self.node(op, &[]);
        let dims = self.graph.shape(value).concrete(BATCH);
        let values = (0..dims.iter().product()).map(|_| self.draw()).collect();
        self.sources.insert(value.node, Reference { dims, values });
        value
    }

    fn input(&mut self, dims: &[usize]) -> Value {
        self.source(Input { shape: Shape::batched(dims) })
    }

    fn parameter(&mut self, dims: &[usize]) -> Value {
        self.source(Parameter { dims: dims.to_vec(), role: Role::Trainable })
    }

    /// Positive: a variance.
    fn state(&mut self, dims: &[usize]) -> Value {
        let value = self.source(Parameter { dims: dims.to_vec(), role: Role::State });
        self.sources.get_mut(&value.node).unwrap().values.iter_mut().for_each(|v| *v = v.abs() + 0.5);
        value
    }

    /// A batched value that depends on a parameter, differently for every example.
    fn learned(&mut self, dims: &[usize]) -> Value {
        let (x, p) = (self.input(dims), self.parameter(dims));
        self.node(Mul {}, &[x, p])
    }

    /// Ends the net in a loss of `y`, differentiates, and compares the gradient of every parameter with differences.
    fn check(mut self, y: Value) {
        let target = self.source(Target { shape: self.graph.shape(y).clone() });
        let loss = self.node(MeanSquaredError {}, &[y, target]);
        self.check_loss(loss);
    }

    fn check_loss(mut self, loss: Value) {
        differentiate(&mut self.graph).unwrap();
        let trainable = |id: &NodeId| matches!(&self.graph.node(*id).op, Op::Parameter(p) if p.role == Role::Trainable);
        let parameters: Vec<NodeId> = self.graph.parameters().into_iter().filter(trainable).collect();
        assert!(!parameters.is_empty());
        let interpreter = Interpreter::new(&self.graph).unwrap();
        let wanted: Vec<Value> = parameters.iter().map(|id| self.graph.gradients[id]).collect();
        let gradients = interpreter.evaluate(&self.sources, &wanted).unwrap();
        let mut sources = self.sources.clone();
        let mean = |sources: &Sources| interpreter.evaluate(sources, &[loss]).unwrap()[0].values.iter().sum::<f64>() / BATCH as f64;
        for (id, gradient) in parameters.into_iter().zip(gradients) {
            assert_eq!(gradient.dims, sources[&id].dims);
            assert!(gradient.values.iter().any(|g| g.abs() > 1e-6), "the gradient of '{}' vanishes", self.graph.node(id).name);
            for i in 0..gradient.values.len() {
                const STEP: f64 = 1e-5;
                let centre = sources[&id].values[i];
                let mut at = |offset: f64| {
                    sources.get_mut(&id).unwrap().values[i] = centre + offset;
                    mean(&sources)
                };
                let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                at(0.0);
                let error = (gradient.values[i] - difference).abs();
                assert!(
                    error < 1e-7,
                    "'{}'[{i}]: {} by the graph, {difference} by differences",
                    self.graph.node(id).name,
                    gradient.values[i]
                );
            }
        }
    }
}

fn convolve(op: Convolution, x: [usize; 3], outputs: usize, kernel: [usize; 2], bias: bool) {
    let mut net = Net::new();
    let x_value = net.learned(&x);
    let w = net.parameter(&[outputs, x[0] / op.groups, kernel[0], kernel[1]]);
    let mut operands = vec![x_value, w];
    if bias {
        operands.push(net.parameter(&[outputs]));
    }
    let y = net.node(op, &operands);
    net.check(y);
}

#[test]
fn convolution_in_odd_geometries() {
    let plain = Convolution { strides: [1, 1], dilations: [1, 1], pads: [0; 4], groups: 1 };
    convolve(plain.clone(), [2, 4, 5], 3, [3, 2], true);
    convolve(Convolution { pads: [1, 1, 1, 1], ..plain.clone() }, [2, 3, 4], 2, [3, 3], false);
    convolve(Convolution { strides: [2, 3], pads: [0, 2, 1, 0], ..plain.clone() }, [2, 5, 6], 2, [3, 3], true);
    convolve(Convolution { dilations: [2, 1], pads: [2, 0, 0, 1], groups: 2, ..plain.clone() }, [4, 4, 3], 6, [2, 3], true);
    convolve(Convolution { strides: [2, 2], pads: [1; 4], groups: 3, ..plain.clone() }, [3, 5, 5], 3, [3, 3], false);
    convolve(Convolution { strides: [2, 2], ..plain }, [2, 4, 3], 2, [1, 1], false);
}

#[test]
fn convolution_of_data_and_with_frozen_weights() {
    let op = Convolution { strides: [2, 1], dilations: [1, 1], pads: [1, 0, 0, 1], groups: 1 };
    let mut net = Net::new();
    let (x, w) = (net.input(&[2, 4, 3]), net.parameter(&[3, 2, 2, 2]));
    let y = net.node(op.clone(), &[x, w]);
    net.check(y);
    let mut net = Net::new();
    let (x, w) = (net.learned(&[2, 4, 3]), net.state(&[3, 2, 2, 2]));
    let y = net.node(op, &[x, w]);
    net.check(y);
}

#[test]
fn linear_layers_of_two_and_three_axes() {
    for dims in [vec![4], vec![2, 3, 4]] {
        let mut net = Net::new();
        let (x, w, b) = (net.learned(&dims), net.parameter(&[4, 5]), net.parameter(&[5]));
        let y = net.node(Linear {}, &[x, w, b]);
        net.check(y);
    }
    let mut net = Net::new();
    let (x, w) = (net.input(&[4]), net.parameter(&[4, 2]));
    let hidden = net.node(Linear {}, &[x, w]);
    let frozen = net.state(&[2, 3]);
    let y = net.node(Linear {}, &[hidden, frozen]);
    net.check(y);
}

#[test]
fn a_matrix_used_twice_sums_its_gradients() {
    let mut net = Net::new();
    let (x, w) = (net.input(&[3]), net.parameter(&[3, 3]));
    let hidden = net.node(Linear {}, &[x, w]);
    let transposed = net.node(Transpose { perm: vec![1, 0] }, &[w]);
    let y = net.node(Linear {}, &[hidden, transposed]);
    net.check(y);
}

#[test]
fn normalization_through_the_statistics_of_its_own_x() {
    for dims in [vec![2, 3, 2], vec![4]] {
        let mut net = Net::new();
        let x = net.learned(&dims);
        let moments = net.all(BatchMoments {}, &[x]);
        let (scale, shift) = (net.parameter(&dims[..1]), net.parameter(&dims[..1]));
        let y = net.node(Normalize { epsilon: 0.01 }, &[x, moments[0], moments[1], scale, shift]);
        net.check(y);
    }
}

#[test]
fn normalization_with_frozen_statistics_or_frozen_scale() {
    let mut net = Net::new();
    let (x, mean, variance) = (net.learned(&[2, 3, 2]), net.state(&[2]), net.state(&[2]));
    let (scale, shift) = (net.parameter(&[2]), net.parameter(&[2]));
    let y = net.node(Normalize { epsilon: 0.01 }, &[x, mean, variance, scale, shift]);
    net.check(y);
    let mut net = Net::new();
    let x = net.learned(&[2, 3, 2]);
    let moments = net.all(BatchMoments {}, &[x]);
    let (scale, shift) = (net.state(&[2]), net.parameter(&[2]));
    let y = net.node(Normalize { epsilon: 0.01 }, &[x, moments[0], moments[1], scale, shift]);
    net.check(y);
}

#[test]
fn normalization_by_moments_of_another_value_is_refused() {
    let mut net = Net::new();
    let (x, other) = (net.input(&[2, 3, 3]), net.learned(&[2, 3, 3]));
    let moments = net.all(BatchMoments {}, &[other]);
    let (scale, shift) = (net.parameter(&[2]), net.parameter(&[2]));
    let y = net.node(Normalize { epsilon: 0.01 }, &[x, moments[0], moments[1], scale, shift]);
    let target = net.source(Target { shape: net.graph.shape(y).clone() });
    net.node(MeanSquaredError {}, &[y, target]);
    let error = differentiate(&mut net.graph).unwrap_err();
    assert!(matches!(&error, DifferentiateError::NoGradient { source, .. } if source.op == "normalize"), "{error}");
}

#[test]
fn arithmetic_with_broadcasting() {
    for dims in [vec![3, 4], vec![4], vec![1, 4], vec![3, 1], vec![1, 3, 4], vec![1]] {
        let mut net = Net::new();
        let (x, p) = (net.learned(&[3, 4]), net.parameter(&dims));
        let sum = net.node(Add {}, &[p, x]);
        let y = net.node(Mul {}, &[sum, p]);
        net.check(y);
    }
    let mut net = Net::new();
    let (a, b) = (net.learned(&[3, 1]), net.learned(&[1, 4]));
    let sum = net.node(Add {}, &[a, b]);
    let y = net.node(Mul {}, &[sum, b]);
    net.check(y);
    let mut net = Net::new();
    let x = net.learned(&[3]);
    let doubled = net.node(Add {}, &[x, x]);
    let y = net.node(Mul {}, &[doubled, doubled]);
    net.check(y);
}

#[test]
fn activations() {
    for op in [Op::from(Relu {}), Clip { low: -0.1, high: 0.2 }.into(), Softmax { log: false }.into(), Softmax { log: true }.into()] {
        let mut net = Net::new();
        let x = net.learned(&[3, 4]);
        let y = net.node(op, &[x]);
        net.check(y);
    }
}

#[test]
fn functions_of_one_element() {
    let functions = [
        Function::Abs,
        Function::Atan,
        Function::Cos,
        Function::Sin,
        Function::Elu { alpha: 0.7 },
        Function::Erf,
        Function::Exp,
        Function::Gelu,
        Function::GeluTanh,
        Function::Mish,
        Function::Sigmoid,
        Function::Silu,
        Function::Softplus,
        Function::Tanh,
    ];
    for function in functions {
        let mut net = Net::new();
        let x = net.learned(&[3, 4]);
        let y = net.node(Unary { function }, &[x]);
        net.check(y);
    }
    for function in [Function::Log, Function::Reciprocal, Function::Sqrt] {
        let mut net = Net::new();
        let x = net.learned(&[3, 4]);
        let positive = net.node(Unary { function: Function::Exp }, &[x]);
        let y = net.node(Unary { function }, &[positive]);
        net.check(y);
    }
}

#[test]
fn quotients_and_choices_with_broadcasting() {
    for dims in [vec![3, 4], vec![4], vec![3, 1], vec![1]] {
        let mut net = Net::new();
        let (x, p) = (net.learned(&[3, 4]), net.parameter(&dims));
        let divisor = net.node(Unary { function: Function::Exp }, &[p]);
        let quotient = net.node(Div {}, &[x, divisor]);
        let inverse = net.node(Div {}, &[divisor, divisor]);
        let y = net.node(Add {}, &[quotient, inverse]);
        net.check(y);
        for op in [Op::from(Max {}), Min {}.into()] {
            let mut net = Net::new();
            let (x, p) = (net.learned(&[3, 4]), net.parameter(&dims));
            let chosen = net.node(op, &[p, x]);
            let both = net.node(Add {}, &[x, p]);
            let y = net.node(Add {}, &[chosen, both]);
            net.check(y);
        }
        let mut net = Net::new();
        let (a, b, c, d) = (net.input(&[3, 4]), net.input(&[3, 1]), net.learned(&[3, 4]), net.parameter(&dims));
        let chosen = net.node(SelectLess {}, &[a, b, d, c]);
        let both = net.node(Add {}, &[c, d]);
        let y = net.node(Add {}, &[chosen, both]);
        net.check(y);
    }
}

#[test]
fn equal_operands_of_an_extremum_share_its_gradient() {
    for op in [Op::from(Max {}), Min {}.into()] {
        let mut net = Net::new();
        let x = net.learned(&[4]);
        let y = net.node(op, &[x, x]);
        net.check(y);
    }
}

#[test]
fn dropout_passes_what_its_mask_keeps() {
    let mut net = Net::new();
    let x = net.learned(&[4]);
    let mask = net.node(DropoutMask { ratio: 0.5, shape: Shape::batched(&[4]) }, &[x]);
    let drawn = (0..BATCH * 4).map(|i| if i % 3 == 0 { 0.0 } else { 2.0 }).collect();
    net.sources.insert(mask.node, Reference { dims: vec![BATCH, 4], values: drawn });
    let y = net.node(Mul {}, &[x, mask]);
    net.check(y);
}

#[test]
fn pooling_in_odd_geometries() {
    let windows = [
        Window { kernel: [2, 2], strides: [2, 2], pads: [0; 4], dilations: [1, 1], ceil: false },
        Window { kernel: [3, 2], strides: [2, 1], pads: [1, 0, 0, 1], dilations: [1, 1], ceil: true },
        Window { kernel: [2, 2], strides: [1, 3], pads: [0; 4], dilations: [2, 1], ceil: true },
    ];
    for window in windows {
        let ops = [
            Op::from(MaxPool { window: window.clone() }),
            AveragePool { window: window.clone(), include_padding: true }.into(),
            AveragePool { window, include_padding: false }.into(),
        ];
        for op in ops {
            let mut net = Net::new();
            let x = net.learned(&[2, 5, 4]);
            let y = net.node(op, &[x]);
            net.check(y);
        }
    }
}

#[test]
fn reductions_and_their_transposes() {
    for (axes, keep_dims) in [(vec![2, 3], false), (vec![2, 3], true), (vec![1], false), (vec![3], true)] {
        let mut net = Net::new();
        let x = net.learned(&[2, 4, 2]);
        let y = net.node(ReduceMean { axes, keep_dims }, &[x]);
        net.check(y);
    }
    let mut net = Net::new();
    let x = net.learned(&[3, 1]);
    let wide = net.node(Expand { shape: Shape::batched(&[3, 4]) }, &[x]);
    let weights = net.parameter(&[3, 4]);
    let product = net.node(Mul {}, &[wide, weights]);
    let y = net.node(SumTo { shape: Shape(vec![Dim::Batch, Dim::Fixed(1), Dim::Fixed(4)]) }, &[product]);
    net.check(y);
}

#[test]
fn maxima_over_axes() {
    for (axes, keep_dims) in [(vec![2, 3], false), (vec![2, 3], true), (vec![1], false), (vec![3], true)] {
        let mut net = Net::new();
        let x = net.learned(&[2, 4, 2]);
        let y = net.node(ReduceMax { axes, keep_dims }, &[x]);
        net.check(y);
    }
    let mut net = Net::new();
    let x = net.learned(&[2, 1]);
    let twice = net.node(Expand { shape: Shape::batched(&[2, 3]) }, &[x]);
    let y = net.node(ReduceMax { axes: vec![2], keep_dims: false }, &[twice]);
    net.check(y);
}

#[test]
fn parts_of_axes() {
    let ops = [
        Op::from(Slice { axis: 1, start: 1, step: 2, count: 2 }),
        Slice { axis: 3, start: 0, step: 1, count: 1 }.into(),
        Pad { axis: 2, start: 1, step: 3, extent: 6, fill: 0.5 }.into(),
        Transpose { perm: vec![0, 3, 1, 2] }.into(),
    ];
    for op in ops {
        let mut net = Net::new();
        let x = net.learned(&[4, 2, 3]);
        let y = net.node(op, &[x]);
        net.check(y);
    }
    for axis in 1..3 {
        let mut net = Net::new();
        let (x, token) = (net.learned(&[2, 3]), net.parameter(if axis == 1 { &[1, 1, 3] } else { &[1, 2, 1] }));
        let y = net.node(Concat { axis }, &[token, x, x]);
        net.check(y);
    }
    let mut net = Net::new();
    let (x, a, b) = (net.input(&[3, 2]), net.parameter(&[2, 2]), net.parameter(&[1, 2]));
    let joined = net.node(Concat { axis: 0 }, &[a, b]);
    let y = net.node(Mul {}, &[x, joined]);
    net.check(y);
}

#[test]
fn weighted_sums_along_an_axis() {
    let between = vec![vec![(0, 1.0)], vec![(0, 0.25), (1, 0.75)], vec![], vec![(2, 2.0), (1, -1.0), (0, 0.5)]];
    for (axis, dims) in [(1, [3, 2, 4]), (2, [2, 3, 4]), (3, [2, 2, 3])] {
        let mut net = Net::new();
        let x = net.learned(&dims);
        let y = net.node(Resample { axis, taps: between.clone() }, &[x]);
        net.check(y);
    }
    let mut net = Net::new();
    let (x, p) = (net.input(&[4, 2]), net.parameter(&[3, 2]));
    let rows = net.node(Resample::gather(0, &[1, 1, 0, 2]), &[p]);
    let y = net.node(Mul {}, &[x, rows]);
    net.check(y);
}

#[test]
fn rows_of_a_table() {
    let mut net = Net::new();
    let (table, indices) = (net.parameter(&[3, 2]), net.input(&[4]));
    net.sources.insert(indices.node, Reference { dims: vec![BATCH, 4], values: (0..BATCH * 4).map(|i| (i * i % 3) as f64).collect() });
    let wide = net.parameter(&[3, 2]);
    let spread = net.node(Mul {}, &[table, wide]);
    let y = net.node(Embedding {}, &[spread, indices]);
    net.check(y);
}

#[test]
fn products_of_computed_matrices() {
    for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)] {
        for lead in [vec![], vec![2]] {
            let dims = |matrix: [usize; 2], transposed: bool| {
                let matrix = if transposed { [matrix[1], matrix[0]] } else { matrix };
                [lead.as_slice(), matrix.as_slice()].concat()
            };
            let mut net = Net::new();
            let (a, b) = (net.learned(&dims([2, 3], transpose_a)), net.learned(&dims([3, 4], transpose_b)));
            let y = net.node(MatrixProduct { transpose_a, transpose_b }, &[a, b]);
            net.check(y);
        }
    }
    let mut net = Net::new();
    let x = net.learned(&[2, 3]);
    let y = net.node(MatrixProduct { transpose_a: false, transpose_b: true }, &[x, x]);
    net.check(y);
}

#[test]
fn reshapes_and_transposes_of_parameters() {
    let mut net = Net::new();
    let (x, p) = (net.learned(&[2, 3]), net.parameter(&[3, 4, 1]));
    let flat = net.node(Reshape { shape: Shape::batched(&[6]) }, &[x]);
    let turned = net.node(Transpose { perm: vec![2, 0, 1] }, &[p]);
    let matrix = net.node(Reshape { shape: Shape::uniform(&[6, 2]) }, &[turned]);
    let y = net.node(Linear {}, &[flat, matrix]);
    net.check(y);
}

#[test]
fn cross_entropy_with_and_without_smoothing() {
    for smoothing in [0.0, 0.25] {
        let mut net = Net::new();
        let x = net.learned(&[4]);
        let target = net.node(Target { shape: Shape::batched(&[]) }, &[]);
        net.sources.insert(target.node, Reference { dims: vec![BATCH], values: vec![0.0, 3.0, 2.0] });
        let loss = net.node(SoftmaxCrossEntropy { smoothing }, &[x, target]);
        net.check_loss(loss);
    }
}

#[test]
fn parameters_that_nothing_reads_have_no_gradient() {
    let mut net = Net::new();
    let (x, idle) = (net.learned(&[2]), net.parameter(&[2]));
    let target = net.source(Target { shape: Shape::batched(&[2]) });
    net.node(Relu {}, &[idle]);
    net.node(MeanSquaredError {}, &[x, target]);
    differentiate(&mut net.graph).unwrap();
    assert!(!net.graph.gradients.contains_key(&idle.node));
    assert_eq!(net.graph.gradients.len(), 1);
}

#[test]
fn losses_must_be_one() {
    let mut net = Net::new();
    let x = net.learned(&[2]);
    assert_eq!(differentiate(&mut net.graph), Err(DifferentiateError::NoLoss));
    let target = net.source(Target { shape: Shape::batched(&[2]) });
    net.node(MeanSquaredError {}, &[x, target]);
    net.node(MeanSquaredError {}, &[x, target]);
    assert!(matches!(differentiate(&mut net.graph), Err(DifferentiateError::SeveralLosses { names }) if names.len() == 2));
}

#[test]
fn gradients_of_slices_that_tile_a_value_are_put_together() {
    let parts = |ranges: &[[usize; 2]]| {
        let mut net = Net::new();
        let x = net.learned(&[5, 2]);
        let parts: Vec<Value> = ranges.iter().map(|&[start, count]| net.node(Slice { axis: 1, start, step: 1, count }, &[x])).collect();
        let squares: Vec<Value> = parts.iter().map(|&part| net.node(Mul {}, &[part, part])).collect();
        let y = net.node(Concat { axis: 1 }, &squares);
        let target = net.source(Target { shape: net.graph.shape(y).clone() });
        let loss = net.node(MeanSquaredError {}, &[y, target]);
        let mut graph = net.graph.clone();
        differentiate(&mut graph).unwrap();
        net.check_loss(loss);
        graph.ids().into_iter().filter(|&id| matches!(graph.node(id).op, Op::Pad(_))).count()
    };
    assert_eq!(parts(&[[0, 1], [3, 2], [1, 2]]), 0);
    assert_eq!(parts(&[[0, 2], [1, 2], [3, 2]]), 3, "they overlap");
    assert_eq!(parts(&[[0, 2], [3, 2]]), 2, "there is a gap");
}

#[test]
fn imported_forms_have_no_gradient() {
    let mut net = Net::new();
    let x = net.learned(&[2]);
    let dropped = net.node(Dropout { ratio: 0.5 }, &[x]);
    let target = net.source(Target { shape: Shape::batched(&[2]) });
    net.node(MeanSquaredError {}, &[dropped, target]);
    let error = differentiate(&mut net.graph).unwrap_err().to_string();
    assert!(error.contains("dropout") && error.contains("specialized"), "{error}");
}

#[test]
fn names_of_gradients_are_unique_and_follow_their_values() {
    let mut net = Net::new();
    let (x, w, b) = (net.learned(&[4]), net.parameter(&[4, 4]), net.parameter(&[4]));
    let hidden = net.node(Linear {}, &[x, w, b]);
    let y = net.node(Add {}, &[hidden, x]);
    let target = net.source(Target { shape: Shape::batched(&[4]) });
    net.node(MeanSquaredError {}, &[y, target]);
    differentiate(&mut net.graph).unwrap();
    let names: Vec<String> = net.graph.ids().iter().flat_map(|&id| net.graph.node(id).outputs.iter().map(|o| o.name.clone())).collect();
    let distinct: std::collections::HashSet<&String> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
    let weight_gradient = net.graph.info(net.graph.gradients[&w.node]);
    assert_eq!(weight_gradient.name, format!("{}.gradient", net.graph.info(w).name));
    let shapes_agree = |(id, v): (&NodeId, &Value)| *net.graph.shape(*v) == Shape::uniform(&net.sources[id].dims);
    assert!(net.graph.gradients.iter().all(shapes_agree));
}
