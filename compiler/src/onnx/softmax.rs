//! Softmax at the model's end: its input is what the loss reads.

use super::attributes;
use super::import::{Call, Importer};
use super::report::Refusal;
use super::shapes::normalize_axis;
use crate::op::Softmax;

pub(super) fn softmax<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    end_in(importer, call, false)
}

pub(super) fn log_softmax<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    end_in(importer, call, true)
}

fn end_in<'m>(importer: &mut Importer<'m>, call: &Call<'m>, log: bool) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let shape = importer.graph.shape(x);
    let default = if importer.opset < 13 { 1 } else { -1 };
    let axis = normalize_axis(attributes::int(call.node, "axis")?.unwrap_or(default), shape.rank())?;
    if shape.rank() != 2 || axis != 1 || !shape.is_batched() {
        return Err(Refusal::unsupported(
            format!("is taken of {shape} along axis {axis}"),
            "only over the classes of [N, classes] can it be trained",
        ));
    }
    let output = call.output()?;
    let ends = importer.model.output.iter().any(|o| o.name == output);
    if !ends || importer.readers(output) > 1 {
        return Err(Refusal::unsupported("lies inside the model", "only at the model's end can it be trained"));
    }
    importer.finish(call, Softmax { log }, &[x])
}
