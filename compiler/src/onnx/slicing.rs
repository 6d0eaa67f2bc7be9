//! Parts of activations and what is put together of them: slices, splits, gathered rows, concatenation, padding, broadcasting.

use super::attributes;
use super::import::{Call, Importer, Turned};
use super::report::{Kind, Refusal};
use super::shapes::normalize_axis;
use super::tensor::{Elements, Extent};
use crate::ir::{Dim, Shape, Value};
use crate::op::{Concat, Expand, Op, Pad, Reshape, Slice};

/// Slices that one gather may become.
const LARGEST_GATHER: usize = 256;

/// Rows around an activation that padding may add.
const LARGEST_PAD: i64 = 1 << 16;

/// Adds `ops`, each of the one before, and gives the output the last result.
fn finish_chain<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Turned, ops: Vec<Op>, output: usize) -> Result<(), Refusal> {
    let name = call.output_at(output)?;
    let mut value = x.value;
    let last = ops.len().saturating_sub(1);
    for (i, op) in ops.into_iter().enumerate() {
        value = if i == last { importer.finish_as(call, name, op, &[value])? } else { importer.add(call, op, &[value], "part")? };
    }
    importer.bind_turned(name, Turned { value, ..x });
    Ok(())
}

/// Integers from an attribute, or from an input in newer operator sets.
fn integers(importer: &Importer<'_>, call: &Call<'_>, name: &str, slot: usize) -> Result<Option<Vec<i64>>, Refusal> {
    if let Some(values) = attributes::ints(call.node, name)? {
        return Ok(Some(values.to_vec()));
    }
    match importer.setting(call, slot)? {
        None => Ok(None),
        Some(folded) => match folded.integers() {
            Some(values) => Ok(Some(values)),
            None => Err(Refusal::unsupported(format!("its {name} depend on the batch"), "use constants")),
        },
    }
}

/// The extent of an axis that ONNX counts so, with its number in the graph; refuses the batch.
fn fixed_axis(importer: &Importer<'_>, x: Turned, axis: usize) -> Result<(usize, usize), Refusal> {
    let shape = importer.graph.shape(x.value);
    let own = if shape.is_batched() { x.axis(axis) } else { axis };
    match shape.0.get(own) {
        Some(&Dim::Fixed(extent)) => Ok((own, extent)),
        _ => Err(Refusal::unsupported(format!("takes examples of {shape} apart"), "the batch axis must stay whole")),
    }
}

pub(super) fn slice<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.turned_operand(call, 0)?;
    let rank = importer.graph.shape(x.value).rank();
    let missing = || Refusal::unsupported("its bounds are not known at import", "use constants and the extents of inputs");
    let starts = integers(importer, call, "starts", 1)?.ok_or_else(missing)?;
    let ends = integers(importer, call, "ends", 2)?.ok_or_else(missing)?;
    let axes = integers(importer, call, "axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = integers(importer, call, "steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()].iter().any(|&len| len != starts.len()) {
        return Err(Refusal::new(Kind::Shape, "its starts, ends, axes and steps differ in number", "export the model again"));
    }
    let mut ops = Vec::new();
    for (i, &axis) in axes.iter().enumerate() {
        let axis = normalize_axis(axis, rank)?;
        let whole = starts[i] == 0 && steps[i] == 1;
        if importer.graph.shape(x.value).is_batched() && x.axis(axis) == 0 && whole && ends[i] >= i64::from(i32::MAX) {
            continue;
        }
        let (own, extent) = fixed_axis(importer, x, axis)?;
        let step = usize::try_from(steps[i]).ok().filter(|&step| step > 0).ok_or_else(|| {
            Refusal::unsupported(format!("slices axis {axis} in steps of {}", steps[i]), "only positive steps can be trained with")
        })?;
        let count = extent as i64;
        let bound = |value: i64| (if value < 0 { value.saturating_add(count) } else { value }).clamp(0, count) as usize;
        let (start, end) = (bound(starts[i]), bound(ends[i]));
        let kept = end.saturating_sub(start).div_ceil(step);
        if kept < extent {
            ops.push(Op::from(Slice { axis: own, start, step, count: kept }));
        }
    }
    finish_chain(importer, call, x, ops, 0)
}

pub(super) fn split<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.turned_operand(call, 0)?;
    let axis = normalize_axis(attributes::int(call.node, "axis")?.unwrap_or(0), importer.graph.shape(x.value).rank())?;
    let (own, extent) = fixed_axis(importer, x, axis)?;
    let parts = call.node.output.len();
    let sizes = match integers(importer, call, "split", 1)? {
        Some(sizes) => sizes.into_iter().map(|size| usize::try_from(size).unwrap_or(usize::MAX)).collect(),
        None => {
            // The last part of an extent that does not divide is smaller.
            let size = extent.div_ceil(parts.max(1)).max(1);
            (0..parts).map(|part| extent.saturating_sub(part * size).min(size)).collect::<Vec<_>>()
        }
    };
    let total = sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
    if sizes.len() != parts || total != Some(extent) || sizes.contains(&0) {
        let why = format!("splits axis {axis} of extent {extent} into {parts} parts of {sizes:?}");
        return Err(Refusal::new(Kind::Shape, why, "the parts must be positive and add up to the extent"));
    }
    let mut start = 0;
    for (output, count) in sizes.into_iter().enumerate() {
        if call.node.output[output].is_empty() {
            start += count;
            continue;
        }
        let ops = if count == extent { vec![] } else { vec![Op::from(Slice { axis: own, start, step: 1, count })] };
        finish_chain(importer, call, x, ops, output)?;
        start += count;
    }
    Ok(())
}

pub(super) fn gather<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.turned_operand(call, 0)?;
    let shape = importer.graph.shape(x.value).clone();
    let axis = normalize_axis(attributes::int(call.node, "axis")?.unwrap_or(0), shape.rank())?;
    let known = importer.setting(call, 1).ok().flatten();
    let Some((dims, Some(indices))) = known.map(|folded| (folded.dims.clone(), folded.integers())) else {
        return Err(Refusal::unsupported("gathers by indices that are not known at import", "embeddings of the input cannot be trained"));
    };
    let (own, extent) = fixed_axis(importer, x, axis)?;
    let index = |&i: &i64| usize::try_from(if i < 0 { i.saturating_add(extent as i64) } else { i }).ok().filter(|&i| i < extent);
    let indices = indices.iter().map(index).collect::<Option<Vec<_>>>().filter(|indices| !indices.is_empty()).ok_or_else(|| {
        Refusal::new(Kind::Shape, format!("gathers beyond the extent {extent} of axis {axis}"), "the file is damaged; export it again")
    })?;
    if dims.len() > 1 || indices.len() > LARGEST_GATHER {
        let why = format!("gathers by indices of extents {dims:?}");
        return Err(Refusal::unsupported(why, format!("only a number or a list of at most {LARGEST_GATHER} can be trained with")));
    }
    let count = indices.len();
    let step = if count > 1 { indices[1].wrapping_sub(indices[0]) } else { 1 };
    let even = (1..extent).contains(&step) && indices.windows(2).all(|pair| pair[0].checked_add(step) == Some(pair[1]));
    if even || count == 1 {
        let mut ops = Vec::new();
        if count < extent {
            ops.push(Op::from(Slice { axis: own, start: indices[0], step: step.max(1), count }));
        }
        if !dims.is_empty() {
            return finish_chain(importer, call, x, ops, 0);
        }
        let mut kept = shape;
        kept.0.remove(own);
        ops.push(Op::from(Reshape { shape: kept }));
        // One axis less before the batch moves the batch forward.
        let batch = if axis < x.batch { x.batch - 1 } else { x.batch };
        return finish_chain(importer, call, Turned { batch, ..x }, ops, 0);
    }
    let rows = indices.into_iter().map(|start| {
        let op = Slice { axis: own, start, step: 1, count: 1 };
        importer.add(call, op, &[x.value], "row")
    });
    let rows = rows.collect::<Result<Vec<Value>, _>>()?;
    let name = call.output()?;
    let value = importer.finish_as(call, name, Concat { axis: own }, &rows)?;
    importer.bind_turned(name, Turned { value, ..x });
    Ok(())
}

pub(super) fn concat<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let inputs = (0..call.node.input.len()).map(|slot| importer.operand(call, slot)).collect::<Result<Vec<_>, _>>()?;
    let axis = attributes::int(call.node, "axis")?;
    let axis = axis.ok_or_else(|| Refusal::new(Kind::Attribute, "axis is missing", "the exporter wrote an invalid node"))?;
    let rank = inputs.iter().map(|&x| importer.graph.shape(x).rank()).max().unwrap_or(0);
    importer.finish(call, Concat { axis: normalize_axis(axis, rank)? }, &inputs)
}

/// Constants around rows and columns. Zeros around an image are padding of the convolutions that read it, and nodes of their own for others.
pub(super) fn pad<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let mode = attributes::string(call.node, "mode")?.unwrap_or("constant");
    let fill = match importer.setting(call, 2)? {
        Some(folded) => folded.single(),
        None => Some(attributes::float(call.node, "value")?.unwrap_or(0.0)),
    };
    let (Some(fill), "constant") = (fill, mode) else {
        return Err(Refusal::unsupported(format!("pads in mode '{mode}'"), "only padding with a constant number can be trained"));
    };
    let amounts = integers(importer, call, "pads", 1)?;
    let amounts = amounts.ok_or_else(|| Refusal::unsupported("its amounts are not known at import", "use constants"))?;
    let (x, inner) = importer.padded_operand(call, 0)?;
    let shape = importer.graph.shape(x).clone();
    let axes = match importer.setting(call, 3)?.and_then(|folded| folded.integers()) {
        Some(axes) => axes.into_iter().map(|axis| normalize_axis(axis, shape.rank())).collect::<Result<Vec<_>, _>>()?,
        None => (0..shape.rank()).collect(),
    };
    if amounts.len() != 2 * axes.len() || amounts.iter().any(|n| n.abs() > LARGEST_PAD) {
        let why = format!("pads {shape} by {amounts:?}");
        return Err(Refusal::new(Kind::Shape, why, format!("two numbers an axis are needed, at most {LARGEST_PAD} each")));
    }
    let sides: Vec<(usize, i64, i64)> = axes.iter().enumerate().map(|(i, &axis)| (axis, amounts[i], amounts[i + axes.len()])).collect();
    let image = shape.rank() == 4 && shape.is_batched() && fill == 0.0;
    let output = call.output()?;
    if image && sides.iter().all(|&(axis, before, after)| if axis < 2 { before == 0 && after == 0 } else { before >= 0 && after >= 0 }) {
        let mut frame = inner;
        for &(axis, before, after) in sides.iter().filter(|side| side.0 >= 2) {
            frame[axis - 2] += before as usize;
            frame[axis] += after as usize;
        }
        if frame == [0; 4] {
            importer.bind(output, x);
        } else {
            importer.bind_padded(output, x, frame);
        }
        return Ok(());
    }
    let x = importer.operand(call, 0)?;
    let mut ops = Vec::new();
    for (axis, before, after) in sides.into_iter().filter(|side| (side.1, side.2) != (0, 0)) {
        let (own, extent) = fixed_axis(importer, Turned { value: x, batch: 0 }, axis)?;
        ops.extend(padding(own, extent, [before, after], fill).ok_or_else(|| {
            Refusal::new(Kind::Shape, format!("takes {before} and {after} off the {extent} elements of axis {axis}"), "nothing is left")
        })?);
    }
    finish_chain(importer, call, Turned { value: x, batch: 0 }, ops, 0)
}

/// What adds elements before and after an axis, or removes some where the number is negative.
fn padding(axis: usize, extent: usize, [before, after]: [i64; 2], fill: f32) -> Option<Vec<Op>> {
    let mut ops = Vec::new();
    let removed = [before, after].map(|n| n.min(0).unsigned_abs() as usize);
    let kept = extent.checked_sub(removed[0].checked_add(removed[1])?).filter(|&kept| kept > 0)?;
    if kept < extent {
        ops.push(Op::from(Slice { axis, start: removed[0], step: 1, count: kept }));
    }
    let added = [before, after].map(|n| n.max(0) as usize);
    if added != [0, 0] {
        ops.push(Op::from(Pad { axis, start: added[0], step: 1, extent: kept.checked_add(added[0])?.checked_add(added[1])?, fill }));
    }
    Some(ops)
}

/// Broadcasting. What has no batch keeps an axis of 1 where the target has the batch: whoever reads it broadcasts.
pub(super) fn expand<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let Some(Elements::Integers(target)) = importer.setting(call, 1)?.map(|folded| folded.elements) else {
        return Err(Refusal::unsupported("its target shape is not known at import", "use constants and the extents of inputs"));
    };
    let shape = importer.graph.shape(x).clone();
    let wrong = || Refusal::new(Kind::Shape, format!("expands {shape} to a shape of {} axes", target.len()), "axes must be equal or 1");
    let rank = target.len().max(shape.rank());
    let mut dims = Vec::with_capacity(rank);
    for axis in 0..rank {
        let own = (axis + shape.rank()).checked_sub(rank).map_or(Dim::Fixed(1), |i| shape.0[i]);
        let wanted = (axis + target.len()).checked_sub(rank).map_or(Extent::Known(1), |i| target[i]);
        let fixed_batch = importer.fixed_batch.and_then(|n| i64::try_from(n).ok());
        dims.push(match (own, wanted) {
            (Dim::Batch, Extent::Batch | Extent::Known(1)) => Dim::Batch,
            (Dim::Batch, Extent::Known(n)) if Some(n) == fixed_batch => Dim::Batch,
            (Dim::Fixed(1), Extent::Batch) if axis == 0 => Dim::Fixed(1),
            (own, Extent::Known(1)) => own,
            (Dim::Fixed(1), Extent::Known(n)) if n > 0 => Dim::Fixed(n as usize),
            (Dim::Fixed(own), Extent::Known(n)) if i64::try_from(own) == Ok(n) => Dim::Fixed(own),
            _ => return Err(wrong()),
        });
    }
    if dims == shape.0 {
        importer.bind(call.output()?, x);
        return Ok(());
    }
    importer.finish(call, Expand { shape: Shape(dims) }, &[x])
}
