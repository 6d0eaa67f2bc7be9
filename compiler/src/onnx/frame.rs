//! How ONNX has the examples of a value: along any axis, and perhaps merged with the axes around it, as attention merges examples with heads,
//! windows or positions. The graph has them first and by themselves.

use super::import::{Binding, Call, Importer};
use super::report::{Kind, Refusal};
use super::tensor::Extent;
use crate::ir::{Dim, Graph, Shape, Value};
use crate::op::Reshape;
use std::fmt;

/// A value of the graph, and where ONNX has its examples.
///
/// ONNX's axes are `[before.., p N m, after..]` where the graph's are `[N, before.., p, m, after..]`, without p or m where they are not merged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turned {
    pub(super) value: Value,
    /// ONNX's axis with the examples; 0 for a value without.
    pub(super) batch: usize,
    /// How much of other axes it counts beside the examples.
    pub(super) merged: Merged,
}

/// Which axes of a value ONNX has as one with its examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Merged {
    /// Whether positions come before examples: p.
    pub(super) outer: bool,
    /// Whether an axis comes behind: m.
    pub(super) inner: bool,
}

impl Merged {
    /// How many axes.
    pub(super) fn axes(self) -> usize {
        usize::from(self.outer) + usize::from(self.inner)
    }
}

impl fmt::Display for Turned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its examples along axis {}", self.batch)?;
        if self.merged.axes() > 0 { f.write_str(", merged with another axis") } else { Ok(()) }
    }
}

impl Turned {
    /// A value whose axes are the same in both.
    pub(super) fn plain(value: Value) -> Self {
        Turned { value, batch: 0, merged: Merged::default() }
    }

    pub(super) fn is_plain(self) -> bool {
        self.batch == 0 && self.merged.axes() == 0
    }

    /// Which axis of the graph's batched value ONNX counts as `axis`; 0 for the one with the examples.
    pub(super) fn axis(self, axis: usize) -> usize {
        match axis.cmp(&self.batch) {
            std::cmp::Ordering::Less => axis + 1,
            std::cmp::Ordering::Equal => 0,
            std::cmp::Ordering::Greater => axis + self.merged.axes(),
        }
    }

    /// How many axes ONNX counts.
    pub(super) fn rank(self, graph: &Graph) -> usize {
        graph.shape(self.value).rank() - self.merged.axes()
    }

    /// The extents as ONNX has them.
    pub(super) fn extents(self, graph: &Graph) -> Vec<Extent> {
        let shape = graph.shape(self.value);
        let known = |axis: usize| match shape.0[axis] {
            Dim::Batch => 1,
            Dim::Fixed(n) => n as i64,
        };
        let extent = |axis: usize| match (shape.is_batched(), axis == self.batch) {
            (false, _) => Extent::Known(known(axis)),
            (true, true) => Extent::Batch((1..=self.merged.axes()).map(|i| known(self.batch + i)).product()),
            (true, false) => Extent::Known(known(self.axis(axis))),
        };
        (0..self.rank(graph)).map(extent).collect()
    }

    /// Elements of an example that come before the examples themselves in ONNX's order: what they are counted by most slowly.
    pub(super) fn outer(self, graph: &Graph) -> i64 {
        let dims = &graph.shape(self.value).0[1..][..self.batch + usize::from(self.merged.outer)];
        dims.iter().map(|dim| if let Dim::Fixed(n) = *dim { n as i64 } else { 1 }).product()
    }
}

/// The graph's shape of a value with ONNX's extents, and where its examples lie, of which `outer` elements come before them in order; `None` if they
/// do not, or the batch is not in the extents exactly once.
pub(super) fn arrange(extents: &[Extent], outer: i64) -> Option<(Shape, usize, Merged)> {
    let batches = extents.iter().filter(|extent| matches!(extent, Extent::Batch(_))).count();
    let batch = extents.iter().position(|extent| matches!(extent, Extent::Batch(_))).filter(|_| batches == 1)?;
    let mut dims = vec![Dim::Batch];
    let mut merged = Merged::default();
    let mut before = 1i64;
    for extent in extents {
        match *extent {
            Extent::Known(n) => {
                before = before.saturating_mul(n);
                dims.push(Dim::Fixed(usize::try_from(n).ok()?));
            }
            Extent::Batch(all) => {
                let own = outer.checked_div(before).filter(|own| own * before == outer && *own > 0 && all % own == 0)?;
                merged = Merged { outer: own > 1, inner: all / own > 1 };
                dims.extend([own, all / own].iter().filter(|n| **n > 1).map(|&n| Dim::Fixed(n as usize)));
            }
        }
    }
    Some((Shape(dims), batch, merged))
}

/// Where a node's operands have their examples, if all have them alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) batch: usize,
    merged: Merged,
    /// ONNX's axes.
    pub(super) rank: usize,
}

impl Frame {
    /// `value`, its examples as this frame has them.
    pub(super) fn turned(self, value: Value) -> Turned {
        Turned { value, batch: self.batch, merged: self.merged }
    }

    /// Axes that go, as ONNX counts them.
    pub(super) fn remove(&mut self, axes: &[usize]) {
        self.rank -= axes.len().min(self.rank);
        self.batch -= axes.iter().filter(|&&axis| axis < self.batch).count();
    }

    pub(super) fn is_of(self, turned: Turned) -> bool {
        (self.batch, self.merged) == (turned.batch, turned.merged)
    }

    /// A value without a batch under axes that broadcast in the graph as its own do in ONNX.
    pub(super) fn align<'m>(self, importer: &mut Importer<'m>, call: &Call<'m>, value: Value) -> Result<Value, Refusal> {
        let dims = importer.graph.shape(value).fixed();
        let behind = self.rank - self.batch - 1;
        if dims.len() <= behind {
            return Ok(value);
        }
        let own = dims.len() - behind - 1;
        if dims.len() > self.rank || dims[own] != 1 {
            let why = format!("combines examples along axis {} with a value of extents {dims:?}", self.batch);
            return Err(Refusal::unsupported(why, "what is the same for all examples must have extent 1 along their axis"));
        }
        let mut aligned = vec![1; 1 + self.batch - own];
        aligned.extend(&dims[..own]);
        aligned.extend(vec![1; self.merged.axes()]);
        aligned.extend(&dims[own + 1..]);
        importer.add(call, Reshape { shape: Shape::uniform(&aligned) }, &[value], "aligned")
    }
}

/// Operations that treat what lies along the examples' axis apart, wherever that is: the graph's order of axes is as good to them as ONNX's.
fn is_rowwise(op: &str) -> bool {
    super::activations::function_of(op).is_some()
        || matches!(
            op,
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Sum" | "Neg" | "Where" | "IsNaN" | "And" | "Or" | "Xor" | "Not"
        )
        || matches!(op, "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "Clip" | "Dropout" | "Concat" | "MatMul" | "Gemm")
        || matches!(
            op,
            "Tan" | "Asin" | "Acos" | "Sinh" | "Cosh" | "Asinh" | "Acosh" | "Atanh" | "Sign" | "Shrink" | "ThresholdedRelu" | "Mean"
        )
        || matches!(
            op,
            "Relu" | "LeakyRelu" | "PRelu" | "Elu" | "Selu" | "Celu" | "Gelu" | "HardSigmoid" | "HardSwish" | "Softsign" | "Swish"
        )
        || matches!(op, "Softmax" | "LogSoftmax" | "LayerNormalization" | "RMSNormalization" | "LpNormalization" | "CumSum")
        || op.starts_with("Reduce")
}

/// The frame of a node whose operands have their examples elsewhere than first and by themselves.
pub(super) fn of(importer: &Importer<'_>, call: &Call<'_>) -> Result<Option<Frame>, Refusal> {
    if !is_rowwise(&call.node.op_type) {
        return Ok(None);
    }
    let mut frame: Option<Frame> = None;
    let mut plain = false;
    for slot in 0..call.node.input.len() {
        let Some(name) = call.optional(slot) else { continue };
        match importer.binding(name) {
            Binding::Value(value) => plain |= importer.graph.shape(*value).is_batched(),
            Binding::Padded(..) => plain = true,
            Binding::Turned(turned) => {
                let own = Frame { batch: turned.batch, merged: turned.merged, rank: turned.rank(&importer.graph) };
                if frame.is_some_and(|frame| !frame.is_of(*turned) || frame.rank != own.rank) {
                    return Err(mixed(&own.turned(turned.value)));
                }
                frame = Some(own);
            }
            _ => {}
        }
    }
    match (frame, plain) {
        (Some(frame), true) => Err(Refusal::new(
            Kind::Unsupported,
            format!("combines values of which only some have their examples along axis {}", frame.batch),
            "transpose or reshape them so that they come first in all",
        )),
        _ => Ok(frame),
    }
}

fn mixed(turned: &Turned) -> Refusal {
    Refusal::unsupported(
        format!("combines values of which one has {turned}, another has not"),
        "transpose or reshape them so that they come first in all",
    )
}
