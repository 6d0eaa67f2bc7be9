//! What a node can compute. One file a family; one trait, [`Operator`], without defaults.
//!
//! Everything an operation means is said here: its shape, its gradient, its cost, its f64 reference.
//! Lowering (in `program`) matches on [`Op`] exhaustively, so a new operation shows where it must be handled.

pub mod comparison;
pub mod convolution;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
mod infer;
pub mod linear;
pub mod loss;
pub mod matrix_product;
pub mod narrow;
pub mod normalization;
pub mod pooling;
pub mod reduction;
pub(crate) mod reference;
pub mod resample;
pub mod shape_ops;
pub mod slicing;
pub mod softmax;
pub mod source;
pub(crate) mod spatial;
pub mod unary;

#[cfg(test)]
mod gradient_tests;

use crate::ir::{Shape, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

pub use comparison::{Max, Min, SelectLess};
pub use convolution::{Convolution, ConvolutionBackward, ConvolutionWeightGradient};
pub use dropout::{Bernoulli, Dropout, DropoutMask};
pub use elementwise::{Add, Clip, ClipGradient, Div, Mul, Relu, ReluGradient};
pub use embedding::{Embedding, EmbeddingGradient};
pub use linear::{Linear, LinearBackward, LinearWeightGradient};
pub use loss::{MeanSquaredError, SoftmaxCrossEntropy};
pub use matrix_product::MatrixProduct;
pub use narrow::{Narrow, Widen};
pub use normalization::{BatchMoments, BatchNormalization, Normalize, NormalizeBackward, NormalizeSums, RunningAverage};
pub use pooling::{AveragePool, AveragePoolGradient, MaxPool, MaxPoolGradient};
pub use reduction::{Expand, ReduceMax, ReduceMean, SumTo};
pub use resample::Resample;
pub use shape_ops::{Reshape, Transpose};
pub use slicing::{Concat, Pad, Slice};
pub use softmax::Softmax;
pub use source::{Constant, Input, Parameter, Target};
pub use unary::{Function, Unary, UnaryGradient};

/// A tensor of `f64` with every extent known: what references compute on. Row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// Extents, outermost first; the batch is a number here.
    pub dims: Vec<usize>,
    /// `dims.product()` values.
    pub values: Vec<f64>,
}

/// The inputs of a node do not fit it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{what}; {hint}")]
pub struct ShapeError {
    /// What does not fit, with the shapes.
    pub what: String,
    /// What would.
    pub hint: String,
}

impl ShapeError {
    /// An error from its two halves.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        ShapeError { what: what.into(), hint: hint.into() }
    }
}

/// Arithmetic and traffic of one node, for one example (uniform work counts once, in `fixed_flops`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations an example; a multiply-add is two.
    pub flops: f64,
    /// Floating-point operations a step, whatever the batch.
    pub fixed_flops: f64,
}

impl Cost {
    /// `operations` for each element of `shape`: an example's if it is batched, the step's if not.
    pub fn per_element(operations: f64, shape: &Shape) -> Self {
        let flops = operations * shape.elements() as f64;
        if shape.is_batched() { Cost { flops, fixed_flops: 0.0 } } else { Cost { flops: 0.0, fixed_flops: flops } }
    }
}

/// Why a node has no gradient.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("'{op}' has no gradient: {why}")]
pub struct NoGradient {
    /// The operation.
    pub op: &'static str,
    /// The reason.
    pub why: String,
}

impl NoGradient {
    /// The reason of operations that are part of a gradient themselves.
    fn second_order(op: &'static str) -> Self {
        NoGradient { op, why: "it is part of a gradient already, and a graph is differentiated once".to_owned() }
    }
}

/// The meaning of an operation.
pub trait Operator {
    /// Name in the text form and in messages: lower case, words joined by `_`.
    fn name(&self) -> &'static str;

    /// Shapes of the outputs for inputs of `inputs`.
    ///
    /// # Errors
    /// Inputs that do not fit, saying what would.
    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError>;

    /// Adds the nodes that compute the gradient of each input, given those of the outputs.
    ///
    /// `gradients[i]` is the gradient of output `i`, `None` where nothing depends on it. The result has one entry an
    /// input, `None` where the gradient is zero or [`GradientBuilder::wants`] says that nobody needs it.
    ///
    /// # Errors
    /// The operation cannot be differentiated.
    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient>;

    /// Arithmetic of the node.
    fn cost(&self, inputs: &[&Shape], outputs: &[&Shape]) -> Cost;

    /// What the node computes, in f64, straight from the definition.
    ///
    /// Inputs have the shapes that `infer` accepted, with the batch as a number.
    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference>;
}

macro_rules! operators {
    ($($(#[$doc:meta])* $variant:ident),* $(,)?) => {
        /// Every operation.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Op {
            $($(#[$doc])* $variant($variant),)*
        }

        impl Op {
            /// The operation behind the variant.
            pub fn operator(&self) -> &dyn Operator {
                match self { $(Op::$variant(op) => op,)* }
            }
        }

        $(impl From<$variant> for Op {
            fn from(op: $variant) -> Op { Op::$variant(op) }
        })*
    };
}

operators! {
    // Sources
    /// The examples of a step.
    Input,
    /// What the loss compares with: class indices `[N]` or values of the output's shape.
    Target,
    /// A learned tensor or a running statistic.
    Parameter,
    /// A fixed tensor.
    Constant,
    // Layers with a weight matrix
    /// 2-d convolution: x `[N, C, H, W]`, w `[O, C/g, kh, kw]`, optional bias `[O]`.
    Convolution,
    /// (x, w, dy) -> (dx, dw): both gradients in one sweep.
    ConvolutionBackward,
    /// (x, w, dy) -> dw, where nobody needs dx.
    ConvolutionWeightGradient,
    /// y = x w + b over the last axis: x `[N, .., I]`, w `[I, O]`, optional bias `[O]`.
    Linear,
    /// (x, w, dy) -> (dx, dw).
    LinearBackward,
    /// (x, w, dy) -> dw.
    LinearWeightGradient,
    /// Product of two computed matrices an example: a `[N, .., M, K]`, b `[N, .., K, P]`.
    MatrixProduct,
    /// Rows of a learned table: table `[V, D]`, indices `[N, T]`.
    Embedding,
    /// (indices, dy) -> dtable
    EmbeddingGradient,
    // Normalization
    /// As imported; `pass::specialize` splits it before anything is differentiated or lowered.
    BatchNormalization,
    /// x -> (mean, variance) over batch and positions, `[C]` each; the variance is biased.
    BatchMoments,
    /// (x, mean, variance, scale, shift) -> (x - mean) / sqrt(variance + eps) * scale + shift.
    Normalize,
    /// (dy, x, mean, variance) -> (sum of dy * normalized x, sum of dy), `[C]` each: gradients of scale and shift.
    NormalizeSums,
    /// (dy, x, mean, variance, scale, dscale, dshift) -> dx, through the statistics.
    NormalizeBackward,
    /// (running, new) -> momentum * running + (1 - momentum) * new.
    RunningAverage,
    // Element by element, with numpy's broadcasting
    /// a + b
    Add,
    /// a * b
    Mul,
    /// a / b
    Div,
    /// The larger of a and b.
    Max,
    /// The smaller of a and b.
    Min,
    /// (a, b, c, d) -> c where a < b, else d
    SelectLess,
    /// f(x) for one of the functions of [`Function`].
    Unary,
    /// (dy, x or y) -> dy * f'(x)
    UnaryGradient,
    /// max(x, 0)
    Relu,
    /// (dy, y) -> dy where y > 0, else 0
    ReluGradient,
    /// min(max(x, low), high)
    Clip,
    /// (dy, x) -> dy where low <= x <= high, else 0
    ClipGradient,
    // Storage
    /// x -> x as bf16: rounded, in half the bytes.
    Narrow,
    /// bf16 -> f32
    Widen,
    // Dropout
    /// As imported; `pass::specialize` makes it a mask and a product, or nothing.
    Dropout,
    /// x -> a mask for each example: 0 with probability `ratio`, else 1 / (1 - ratio).
    DropoutMask,
    /// As imported: 1 with some probability, else 0; `pass::specialize` makes it a mask times the probability.
    Bernoulli,
    // Pooling
    /// The largest of each window.
    MaxPool,
    /// (x, dy) -> dx: each window's gradient goes to its first largest element.
    MaxPoolGradient,
    /// The mean of each window.
    AveragePool,
    /// dy -> dx
    AveragePoolGradient,
    // Reductions and their transposes
    /// Mean over axes other than the batch.
    ReduceMean,
    /// The largest over axes other than the batch.
    ReduceMax,
    /// Broadcast to a shape.
    Expand,
    /// Sum down to a shape: the transpose of broadcasting; the batch may vanish.
    SumTo,
    // Shapes
    /// Same elements, other axes; the batch stays first.
    Reshape,
    /// Axes permuted; the batch stays first.
    Transpose,
    /// Every so many-th element of an axis.
    Slice,
    /// Elements of an axis, moved apart or away from its ends.
    Pad,
    /// One after the other along an axis.
    Concat,
    /// Weighted sums of elements along an axis.
    Resample,
    /// Softmax or its logarithm over the last axis.
    Softmax,
    // Losses: (prediction, target) -> (loss of each example, correct or not, gradient of the mean loss by prediction)
    /// Cross-entropy of a softmax over classes.
    SoftmaxCrossEntropy,
    /// Mean of squared differences over all elements.
    MeanSquaredError,
}

impl Op {
    /// Whether this is what training minimises.
    pub fn is_loss(&self) -> bool {
        matches!(self, Op::SoftmaxCrossEntropy(_) | Op::MeanSquaredError(_))
    }

    /// Whether each output element depends on one element of each operand (after broadcasting): what fusion may chain.
    pub fn is_elementwise(&self) -> bool {
        matches!(
            self,
            Op::Add(_)
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
                | Op::Normalize(_)
                | Op::NormalizeBackward(_)
                | Op::RunningAverage(_)
                | Op::Expand(_)
                | Op::Narrow(_)
                | Op::Widen(_)
        )
    }
}
