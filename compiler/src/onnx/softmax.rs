//! Softmax and its logarithm. At the model's end over classes, its input is what the loss reads.

use super::attributes;
use super::import::{Call, Importer};
use super::report::Refusal;
use crate::ir::{Dim, Shape};
use crate::op::{Op, Reshape, Softmax, Transpose};

pub(super) fn softmax<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    over_axis(importer, call, false)
}

pub(super) fn log_softmax<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    over_axis(importer, call, true)
}

/// Softmax or its logarithm of `[N, ..]`: over one axis since opset 13; before, over all axes from one on.
fn over_axis<'m>(importer: &mut Importer<'m>, call: &Call<'m>, log: bool) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let shape = importer.graph.shape(x).clone();
    let flattens = importer.opset < 13;
    let axis = importer.own_axis(attributes::int(call.node, "axis")?.unwrap_or(if flattens { 1 } else { -1 }), x)?;
    if !shape.is_batched() || axis == 0 {
        return Err(Refusal::unsupported(format!("is taken of {shape} along axis {axis}"), "the examples must stay apart"));
    }
    let last = shape.rank() - 1;
    if axis == last {
        return importer.finish(call, Softmax { log }, &[x]);
    }
    let (there, back) = if flattens {
        let mut flat = shape.clone();
        let classes = Shape(flat.0.split_off(axis)).elements();
        flat.0.push(Dim::Fixed(classes));
        (Op::from(Reshape { shape: flat }), Op::from(Reshape { shape }))
    } else {
        let mut perm: Vec<usize> = (0..=last).collect();
        perm.swap(axis, last);
        (Op::from(Transpose { perm: perm.clone() }), Op::from(Transpose { perm }))
    };
    let rows = importer.add(call, there, &[x], "rows")?;
    let result = importer.add(call, Softmax { log }, &[rows], "softmax")?;
    importer.finish(call, back, &[result])
}
