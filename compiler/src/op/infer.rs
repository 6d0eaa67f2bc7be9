//! Checks of operand shapes that several operations share.

use super::ShapeError;
use crate::ir::{Dim, Shape};

/// The error of a node with the wrong number of operands.
pub(super) fn operand_count(op: &str, wanted: &str, inputs: &[&Shape]) -> ShapeError {
    ShapeError::new(format!("{op} got {} operands", inputs.len()), format!("it takes {wanted}"))
}

/// The only operand.
pub(super) fn unary<'s>(op: &str, inputs: &[&'s Shape]) -> Result<&'s Shape, ShapeError> {
    match inputs {
        [x] => Ok(x),
        _ => Err(operand_count(op, "(x)", inputs)),
    }
}

/// Extents of an example `[C, H, W]` of a value `[N, C, H, W]`.
pub(super) fn image(op: &str, what: &str, shape: &Shape) -> Result<[usize; 3], ShapeError> {
    match shape.0[..] {
        [Dim::Batch, Dim::Fixed(c), Dim::Fixed(h), Dim::Fixed(w)] => Ok([c, h, w]),
        _ => Err(ShapeError::new(format!("{op}: {what} is {shape}"), "it must be [N, channels, rows, columns]")),
    }
}

/// Channels of a value `[N, C, ..]`.
pub(super) fn channels(op: &str, what: &str, shape: &Shape) -> Result<usize, ShapeError> {
    match shape.0[..] {
        [Dim::Batch, Dim::Fixed(c), ..] => Ok(c),
        _ => Err(ShapeError::new(format!("{op}: {what} is {shape}"), "it must be [N, channels, ..]")),
    }
}

/// Refuses an operand that is not `wanted`.
pub(super) fn expect(op: &str, what: &str, shape: &Shape, wanted: &Shape) -> Result<(), ShapeError> {
    if shape == wanted { Ok(()) } else { Err(ShapeError::new(format!("{op}: {what} is {shape}"), format!("it must be {wanted}"))) }
}

/// The broadcast of two operands, the batch first.
pub(super) fn broadcast(op: &str, a: &Shape, b: &Shape) -> Result<Shape, ShapeError> {
    let clash = |hint: &str| ShapeError::new(format!("{op} of {a} and {b}"), hint);
    let shape = a.broadcast(b).ok_or_else(|| clash("axes, aligned at the last, must be equal or 1"))?;
    if shape.is_batched() && shape.0[0] != Dim::Batch {
        return Err(clash("the batch must stay the first axis: remove leading axes of extent 1"));
    }
    Ok(shape)
}
