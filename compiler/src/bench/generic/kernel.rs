//! What each node runs, with everything that follows from its shapes.

use super::GenericError;
use super::csr::{self, Csr, Geometry};
use super::elementwise::{binary, broadcast, expand, sum_to, unary};
use super::layers::{self, Windows};
use super::loops::Threads;
use super::nest::Nest;
use crate::ir::{Dim, Graph, NodeId, Shape, Value};
use crate::op::pooling::Window;
use crate::op::{Convolution, Op};
use mest_runtime::random::{self, Purpose};

/// A node's computation.
#[derive(Clone, Debug)]
pub(super) enum Kernel {
    /// Nothing: a source, or the same elements under other axes.
    Nothing,
    Convolve {
        layer: usize,
        geometry: Geometry,
    },
    ConvolveBackward {
        layer: usize,
        geometry: Geometry,
        both: bool,
    },
    Linear {
        layer: usize,
        inputs: usize,
    },
    LinearBackward {
        layer: usize,
        inputs: usize,
        both: bool,
    },
    Moments,
    Normalize(f64),
    NormalizeSums(f64),
    NormalizeBackward(f64),
    RunningAverage(f32),
    /// Of equal shapes.
    Sum,
    Add(Nest<2>),
    Mul(Nest<2>),
    Relu,
    ReluGradient,
    Clip(f32, f32),
    ClipGradient(f32, f32),
    DropoutMask(f32),
    MaxPool(Windows),
    MaxPoolGradient(Windows),
    AveragePool(Windows),
    AveragePoolGradient(Windows),
    /// Sums times a factor, over x's examples; `vanishes` where the batch is summed, too.
    SumTo {
        nest: Nest<1>,
        batched: bool,
        vanishes: bool,
        factor: f32,
    },
    Expand(Nest<1>),
    /// Place of each element of the result in the operand.
    Permute(Vec<usize>),
    Softmax {
        classes: usize,
        log: bool,
    },
    CrossEntropy(f32),
    SquaredError,
}

/// What a kernel runs in.
pub(super) struct Surroundings<'a> {
    pub(super) threads: &'a Threads,
    pub(super) csrs: &'a [Csr],
    pub(super) batch: usize,
    /// Seed and number of the step, and the node's own number: what randomness is keyed by.
    pub(super) draw: [u64; 3],
    /// Memory for a partial result a thread.
    pub(super) partials: &'a mut Vec<f32>,
}

impl Kernel {
    /// What `id` runs. `layer` is the weight matrix that it multiplies by, `matrix` whether its operands lie like one.
    pub(super) fn of(graph: &Graph, id: NodeId, layer: Option<usize>, matrix: bool) -> Result<Kernel, GenericError> {
        let inputs = graph.inputs(id);
        let fixed = |i: usize| graph.shape(inputs[i]).fixed();
        let shape = |i: usize| graph.shape(inputs[i]);
        let result = graph.shape(Value { node: id, output: 0 });
        let unsupported = || GenericError::Unsupported { node: graph.node(id).name.clone(), op: graph.node(id).op.operator().name() };
        let layer = || layer.ok_or_else(unsupported);
        let windows = |window: &Window, x: [usize; 2], y: Vec<usize>, include| Windows::new(window.axes(x), [y[1], y[2]], include);
        Ok(match &graph.node(id).op {
            Op::Input(_) | Op::Target(_) | Op::Parameter(_) | Op::Constant(_) | Op::Reshape(_) => Kernel::Nothing,
            Op::Transpose(_) if matrix => Kernel::Nothing,
            Op::Transpose(_) if result.is_batched() => return Err(unsupported()),
            Op::Transpose(op) => Kernel::Permute(permutation(&fixed(0), &op.perm)),
            Op::Convolution(op) => Kernel::Convolve { layer: layer()?, geometry: geometry(op, &fixed(0), &fixed(1), &result.fixed()) },
            Op::ConvolutionBackward(op) => {
                Kernel::ConvolveBackward { layer: layer()?, geometry: geometry(&op.forward, &fixed(0), &fixed(1), &fixed(2)), both: true }
            }
            Op::ConvolutionWeightGradient(op) => {
                Kernel::ConvolveBackward { layer: layer()?, geometry: geometry(&op.forward, &fixed(0), &fixed(1), &fixed(2)), both: false }
            }
            Op::Linear(_) => Kernel::Linear { layer: layer()?, inputs: fixed(1)[0] },
            Op::LinearBackward(_) => Kernel::LinearBackward { layer: layer()?, inputs: fixed(1)[0], both: true },
            Op::LinearWeightGradient(_) => Kernel::LinearBackward { layer: layer()?, inputs: fixed(1)[0], both: false },
            Op::BatchMoments(_) => Kernel::Moments,
            Op::Normalize(op) => Kernel::Normalize(op.epsilon),
            Op::NormalizeSums(op) => Kernel::NormalizeSums(op.epsilon),
            Op::NormalizeBackward(op) => Kernel::NormalizeBackward(op.epsilon),
            Op::RunningAverage(op) => Kernel::RunningAverage(op.momentum as f32),
            Op::Add(_) if matrix => Kernel::Sum,
            Op::Add(_) => Kernel::Add(Nest::new(result, [shape(0), shape(1)])),
            Op::Mul(_) => Kernel::Mul(Nest::new(result, [shape(0), shape(1)])),
            Op::Relu(_) => Kernel::Relu,
            Op::ReluGradient(_) => Kernel::ReluGradient,
            Op::Clip(op) => Kernel::Clip(op.low, op.high),
            Op::ClipGradient(op) => Kernel::ClipGradient(op.low, op.high),
            Op::DropoutMask(op) => Kernel::DropoutMask(op.ratio),
            Op::MaxPool(op) => Kernel::MaxPool(windows(&op.window, image(&fixed(0)), result.fixed(), false)),
            Op::MaxPoolGradient(op) => Kernel::MaxPoolGradient(windows(&op.window, image(&fixed(0)), fixed(1), false)),
            Op::AveragePool(op) => Kernel::AveragePool(windows(&op.window, image(&fixed(0)), result.fixed(), op.include_padding)),
            Op::AveragePoolGradient(op) => {
                Kernel::AveragePoolGradient(windows(&op.window, [op.rows, op.width], fixed(0), op.include_padding))
            }
            Op::ReduceMean(op) => {
                let kept = |(i, &dim): (usize, &Dim)| if op.axes.contains(&i) { Dim::Fixed(1) } else { dim };
                let kept = Shape(shape(0).0.iter().enumerate().map(kept).collect());
                let factor = kept.elements() as f32 / shape(0).elements() as f32;
                Kernel::SumTo { nest: Nest::new(shape(0), [&kept]), batched: shape(0).is_batched(), vanishes: false, factor }
            }
            Op::SumTo(op) => {
                let (batched, vanishes) = (shape(0).is_batched(), shape(0).is_batched() && !op.shape.is_batched());
                Kernel::SumTo { nest: Nest::new(shape(0), [&op.shape]), batched, vanishes, factor: 1.0 }
            }
            Op::Expand(_) => Kernel::Expand(Nest::new(result, [shape(0)])),
            Op::Softmax(op) => Kernel::Softmax { classes: *fixed(0).last().ok_or_else(unsupported)?, log: op.log },
            Op::SoftmaxCrossEntropy(op) => Kernel::CrossEntropy(op.smoothing),
            Op::MeanSquaredError(_) => Kernel::SquaredError,
            Op::Div(_) | Op::Max(_) | Op::Min(_) | Op::SelectLess(_) | Op::Unary(_) | Op::UnaryGradient(_) => return Err(unsupported()),
            Op::MatrixProduct(_) | Op::ReduceMax(_) | Op::Slice(_) | Op::Pad(_) | Op::Concat(_) => return Err(unsupported()),
            Op::Embedding(_) | Op::EmbeddingGradient(_) | Op::Resample(_) | Op::Narrow(_) | Op::Widen(_) => return Err(unsupported()),
            Op::BatchNormalization(_) | Op::Dropout(_) | Op::Bernoulli(_) => return Err(unsupported()),
        })
    }

    /// Computes `outputs` of `inputs`.
    pub(super) fn run(&self, around: Surroundings<'_>, inputs: &[&[f32]], outputs: &mut [Vec<f32>]) {
        let Surroundings { threads, csrs, batch, draw, partials } = around;
        match self {
            Kernel::Nothing => {}
            Kernel::Convolve { layer, geometry } => {
                csr::convolve(threads, &csrs[*layer], geometry, inputs[0], inputs[1], inputs.get(2).copied(), &mut outputs[0]);
            }
            Kernel::ConvolveBackward { layer, geometry, both } => {
                let (dx, dw) = gradients(outputs, *both);
                let partials = share(partials, threads, dw.len());
                csr::convolve_backward(threads, &csrs[*layer], geometry, [inputs[0], inputs[1], inputs[2]], dx, dw, partials);
            }
            Kernel::Linear { layer, inputs: features } => {
                csr::linear(threads, &csrs[*layer], *features, inputs[0], inputs[1], inputs.get(2).copied(), &mut outputs[0]);
            }
            Kernel::LinearBackward { layer, inputs: features, both } => {
                let (dx, dw) = gradients(outputs, *both);
                let partials = share(partials, threads, dw.len());
                csr::linear_backward(threads, &csrs[*layer], *features, [inputs[0], inputs[1], inputs[2]], dx, dw, partials);
            }
            Kernel::SumTo { nest, batched, vanishes, factor } => {
                let partials = if *vanishes { share(partials, threads, outputs[0].len()) } else { &mut [] };
                sum_to(threads, nest, if *batched { batch } else { 1 }, *factor, &mut outputs[0], inputs[0], partials);
            }
            Kernel::DropoutMask(ratio) => drop_out(threads, *ratio, draw, &mut outputs[0]),
            Kernel::Permute(places) => outputs[0].iter_mut().zip(places).for_each(|(y, &place)| *y = inputs[0][place]),
            Kernel::Moments | Kernel::Normalize(_) | Kernel::NormalizeSums(_) | Kernel::NormalizeBackward(_) => {
                self.normalization(threads, batch, inputs, outputs);
            }
            Kernel::MaxPool(_) | Kernel::MaxPoolGradient(_) | Kernel::AveragePool(_) | Kernel::AveragePoolGradient(_) => {
                self.pooling(threads, inputs, &mut outputs[0]);
            }
            Kernel::Softmax { classes, log } => layers::softmax(threads, *classes, *log, inputs[0], &mut outputs[0]),
            Kernel::CrossEntropy(smoothing) => layers::cross_entropy(threads, *smoothing, inputs[0], inputs[1], three(outputs)),
            Kernel::SquaredError => layers::squared_error(batch, inputs[0], inputs[1], three(outputs)),
            _ => self.elementwise(threads, batch, inputs, &mut outputs[0]),
        }
    }

    fn normalization(&self, threads: &Threads, batch: usize, inputs: &[&[f32]], outputs: &mut [Vec<f32>]) {
        let (first, rest) = outputs.split_at_mut(1);
        let (first, operands) = (&mut first[0], |i: usize| inputs[i]);
        match self {
            Kernel::Normalize(epsilon) => layers::normalize(threads, batch, *epsilon, std::array::from_fn(operands), first),
            Kernel::NormalizeBackward(epsilon) => {
                layers::normalize_backward(threads, batch, *epsilon, std::array::from_fn(operands), first);
            }
            Kernel::NormalizeSums(epsilon) => {
                layers::normalize_sums(threads, batch, *epsilon, std::array::from_fn(operands), first, &mut rest[0]);
            }
            _ => layers::moments(threads, batch, inputs[0], first, &mut rest[0]),
        }
    }

    fn pooling(&self, threads: &Threads, inputs: &[&[f32]], y: &mut [f32]) {
        match self {
            Kernel::MaxPool(windows) => layers::max_pool(threads, windows, inputs[0], y),
            Kernel::MaxPoolGradient(windows) => layers::max_pool_gradient(threads, windows, inputs[0], inputs[1], y),
            Kernel::AveragePool(windows) => layers::average_pool(threads, windows, inputs[0], y),
            Kernel::AveragePoolGradient(windows) => layers::average_pool_gradient(threads, windows, inputs[0], y),
            _ => {}
        }
    }

    fn elementwise(&self, threads: &Threads, batch: usize, inputs: &[&[f32]], y: &mut [f32]) {
        // Only a batched result has more examples than one; a uniform one has no batched operand.
        let examples = |example: &[usize]| if example.iter().any(|&stride| stride != 0) { batch } else { 1 };
        match *self {
            Kernel::Add(ref nest) => broadcast(threads, nest, examples(&nest.example), y, [inputs[0], inputs[1]], |a, b| a + b),
            Kernel::Mul(ref nest) => broadcast(threads, nest, examples(&nest.example), y, [inputs[0], inputs[1]], |a, b| a * b),
            Kernel::Expand(ref nest) => expand(threads, nest, examples(&nest.example), y, inputs[0]),
            Kernel::Sum => binary(threads, y, inputs[0], inputs[1], |a, b| a + b),
            Kernel::RunningAverage(momentum) => {
                binary(threads, y, inputs[0], inputs[1], |old, new| momentum * old + (1.0 - momentum) * new);
            }
            Kernel::Relu => unary(threads, y, inputs[0], |x| if x < 0.0 { 0.0 } else { x }),
            Kernel::ReluGradient => binary(threads, y, inputs[0], inputs[1], |dy, y| if y > 0.0 { dy } else { 0.0 }),
            Kernel::Clip(low, high) => {
                let clip = |x| if x > high { high } else { x };
                unary(threads, y, inputs[0], |x| if x < low { low } else { clip(x) });
            }
            Kernel::ClipGradient(low, high) => {
                binary(threads, y, inputs[0], inputs[1], |dy, x| if low <= x && x <= high { dy } else { 0.0 });
            }
            _ => {}
        }
    }
}

fn geometry(op: &Convolution, x: &[usize], w: &[usize], y: &[usize]) -> Geometry {
    Geometry::new(op, x, [w[2], w[3]], y)
}

fn image(x: &[usize]) -> [usize; 2] {
    [x[1], x[2]]
}

/// For each element of the result, in order: the operand's.
fn permutation(dims: &[usize], perm: &[usize]) -> Vec<usize> {
    let stride = |axis: usize| dims[axis + 1..].iter().product::<usize>();
    perm.iter().fold(vec![0], |places, &axis| {
        places.iter().flat_map(|&place| (0..dims[axis]).map(move |i| (place, i))).map(|(place, i)| place + i * stride(axis)).collect()
    })
}

fn drop_out(threads: &Threads, ratio: f32, [seed, step, node]: [u64; 3], y: &mut [f32]) {
    let kept = 1.0 / (1.0 - ratio);
    threads.each(y.len(), [y], &mut [], |part| {
        for (index, y) in part.items.zip(part.outputs[0].iter_mut()) {
            let uniform = (random::bits(seed, Purpose::Dropout, step, node << 40 | index as u64) >> 40) as f32 / (1u64 << 24) as f32;
            *y = if uniform < ratio { 0.0 } else { kept };
        }
    });
}

/// dx, if it is computed, and dw.
fn gradients(outputs: &mut [Vec<f32>], both: bool) -> (Option<&mut [f32]>, &mut [f32]) {
    let (dx, dw) = outputs.split_at_mut(usize::from(both));
    (dx.first_mut().map(Vec::as_mut_slice), &mut dw[0])
}

fn three(outputs: &mut [Vec<f32>]) -> [&mut [f32]; 3] {
    let mut outputs = outputs.iter_mut().map(Vec::as_mut_slice);
    std::array::from_fn(|_| outputs.next().unwrap_or_default())
}

/// `len` floats for each thread.
fn share<'p>(partials: &'p mut Vec<f32>, threads: &Threads, len: usize) -> &'p mut [f32] {
    let wanted = len * threads.count();
    if partials.len() < wanted {
        partials.resize(wanted, 0.0);
    }
    &mut partials[..wanted]
}
