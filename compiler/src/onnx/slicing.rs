//! Parts of activations and what is put together of them: slices, splits, gathered rows, concatenation, padding, broadcasting.

use super::attributes;
use super::fold::sliced;
use super::frame::{Turned, arrange};
use super::import::{Call, Importer};
use super::report::{Kind, Refusal};
use super::shapes::normalize_axis;
use super::tensor::{Elements, Extent};
use crate::ir::{Dim, Shape};
use crate::op::{Concat, Expand, Op, Pad, Resample, Reshape, Slice};

/// Elements that one gather may choose along an axis.
const LARGEST_GATHER: usize = 1 << 16;

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
    let rank = x.rank(&importer.graph);
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
        let kept = sliced(extent, starts[i], ends[i], steps[i])
            .ok_or_else(|| Refusal::new(Kind::Attribute, format!("slices axis {axis} in steps of 0"), "export the model again"))?;
        ops.extend(chosen(own, extent, &kept));
    }
    finish_chain(importer, call, x, ops, 0)
}

/// What takes these elements of an axis, in this order: nothing where they are all, a slice where they are evenly apart.
pub(super) fn chosen(axis: usize, extent: usize, rows: &[usize]) -> Option<Op> {
    let step = if let [first, second, ..] = rows { second.wrapping_sub(*first) } else { 1 };
    let even = (1..=extent).contains(&step) && rows.windows(2).all(|pair| pair[0].checked_add(step) == Some(pair[1]));
    match rows {
        _ if even && step == 1 && rows.len() == extent => None,
        [] => Some(Op::from(Slice { axis, start: 0, step: 1, count: 0 })),
        [start, ..] if even => Some(Op::from(Slice { axis, start: *start, step, count: rows.len() })),
        _ => Some(Op::from(Resample::gather(axis, rows))),
    }
}

pub(super) fn split<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.turned_operand(call, 0)?;
    let axis = normalize_axis(attributes::int(call.node, "axis")?.unwrap_or(0), x.rank(&importer.graph))?;
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
    let known = importer.setting(call, 1).ok().flatten().and_then(|folded| Some((folded.dims.clone(), folded.integers()?)));
    let Some((dims, indices)) = known else { return super::layers::embedding(importer, call) };
    let x = importer.turned_operand(call, 0)?;
    let rank = x.rank(&importer.graph);
    let axis = normalize_axis(attributes::int(call.node, "axis")?.unwrap_or(0), rank)?;
    let (own, extent) = fixed_axis(importer, x, axis)?;
    let rows = within(&indices, extent)?;
    gather_rows(importer, call, x, axis, own, &rows, &dims)
}

/// Gathers whole rows by constant tuples of indices: one axis after the other has been joined to the first.
pub(super) fn gather_nd<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let batched = attributes::int(call.node, "batch_dims")?.unwrap_or(0) != 0;
    let known = importer.setting(call, 1).ok().flatten().and_then(|folded| Some((folded.dims.clone(), folded.integers()?)));
    let x = importer.operand(call, 0)?;
    let shape = importer.graph.shape(x).fixed();
    let unknown = || {
        Refusal::unsupported(
            "gathers by indices that are not known at import, or from examples",
            "gather by constant indices from parameters",
        )
    };
    let Some((dims, indices)) = known.filter(|_| !batched && !importer.graph.shape(x).is_batched()) else { return Err(unknown()) };
    let depth = dims.last().copied().filter(|depth| (1..=shape.len()).contains(depth)).ok_or_else(unknown)?;
    let mut rows = vec![0; indices.len() / depth];
    for (place, &extent) in shape[..depth].iter().enumerate() {
        let along: Vec<i64> = indices.iter().skip(place).step_by(depth).copied().collect();
        rows = rows.into_iter().zip(within(&along, extent)?).map(|(row, index)| row * extent + index).collect();
    }
    let joined = [&[shape[..depth].iter().product()], &shape[depth..]].concat();
    let x = match depth {
        1 => x,
        _ => importer.add(call, Reshape { shape: Shape::uniform(&joined) }, &[x], "joined")?,
    };
    gather_rows(importer, call, Turned::plain(x), 0, 0, &rows, &dims[..dims.len() - 1])
}

/// Indices counted from either end of an axis.
fn within(indices: &[i64], extent: usize) -> Result<Vec<usize>, Refusal> {
    let index = |&i: &i64| usize::try_from(if i < 0 { i.saturating_add(extent as i64) } else { i }).ok().filter(|&i| i < extent);
    let rows = indices.iter().map(index).collect::<Option<Vec<_>>>().filter(|rows| !rows.is_empty());
    let outside =
        || Refusal::new(Kind::Shape, format!("gathers beyond the extent {extent} of an axis"), "the file is damaged; export it again");
    rows.filter(|rows| rows.len() <= LARGEST_GATHER).ok_or_else(outside)
}

/// Rows of an axis, which becomes axes of `dims`.
fn gather_rows<'m>(
    importer: &mut Importer<'m>,
    call: &Call<'m>,
    x: Turned,
    axis: usize,
    own: usize,
    rows: &[usize],
    dims: &[usize],
) -> Result<(), Refusal> {
    let shape = importer.graph.shape(x.value).clone();
    let Dim::Fixed(extent) = shape.0[own] else { return Ok(()) };
    let mut ops: Vec<Op> = chosen(own, extent, rows).into_iter().collect();
    if dims.len() == 1 {
        return finish_chain(importer, call, x, ops, 0);
    }
    let mut target = shape;
    target.0.splice(own..=own, dims.iter().map(|&d| Dim::Fixed(d)));
    ops.push(Op::from(Reshape { shape: target }));
    // Other axes before the batch move the batch.
    let batch = if axis < x.batch { x.batch + dims.len() - 1 } else { x.batch };
    finish_chain(importer, call, Turned { batch, ..x }, ops, 0)
}

/// Repetitions of axes.
pub(super) fn tile<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.turned_operand(call, 0)?;
    let repeats = integers(importer, call, "repeats", 1)?;
    let rank = x.rank(&importer.graph);
    let Some(repeats) = repeats.filter(|repeats| repeats.len() == rank && repeats.iter().all(|&r| (1..=LARGEST_PAD).contains(&r))) else {
        return Err(Refusal::unsupported(
            "its repetitions are not known at import",
            format!("one positive number of at most {LARGEST_PAD} an axis is needed"),
        ));
    };
    let mut ops = Vec::new();
    for (axis, &count) in repeats.iter().enumerate().filter(|(_, count)| **count > 1) {
        let (own, extent) = fixed_axis(importer, x, axis)?;
        let all = extent.saturating_mul(count as usize);
        if all > LARGEST_GATHER {
            return Err(Refusal::new(
                Kind::Size,
                format!("repeats axis {axis} to {all} elements"),
                format!("at most {LARGEST_GATHER} can be trained with"),
            ));
        }
        let rows: Vec<usize> = (0..all).map(|row| row % extent).collect();
        ops.push(Op::from(Resample::gather(own, &rows)));
    }
    finish_chain(importer, call, x, ops, 0)
}

pub(super) fn concat<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let inputs = (0..call.node.input.len()).map(|slot| importer.operand(call, slot)).collect::<Result<Vec<_>, _>>()?;
    let axis = attributes::int(call.node, "axis")?;
    let axis = axis.ok_or_else(|| Refusal::new(Kind::Attribute, "axis is missing", "the exporter wrote an invalid node"))?;
    let Some(&longest) = inputs.iter().max_by_key(|&&x| importer.graph.shape(x).rank()) else { return Ok(()) };
    let axis = importer.own_axis(axis, longest)?;
    importer.finish(call, Concat { axis }, &inputs)
}

/// Constants around rows and columns. Zeros around an image are padding of the convolutions that read it, and nodes of their own for others.
pub(super) fn pad<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let mode = attributes::string(call.node, "mode")?.unwrap_or("constant");
    let fill = match importer.setting(call, 2)? {
        Some(folded) => folded.single(),
        None => Some(attributes::float(call.node, "value")?.unwrap_or(0.0)),
    };
    let Some(fill) = fill else {
        return Err(Refusal::unsupported("pads with a value that is computed", "only padding with a constant number can be trained"));
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
    let image = shape.rank() == 4 && shape.is_batched() && fill == 0.0 && mode == "constant";
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
    let x = Turned::plain(importer.operand(call, 0)?);
    let mut ops = Vec::new();
    for (axis, before, after) in sides.into_iter().filter(|side| (side.1, side.2) != (0, 0)) {
        let (own, extent) = fixed_axis(importer, x, axis)?;
        let padded = match mode {
            "constant" => padding(own, extent, [before, after], fill),
            _ => mirrored(mode, extent, [before, after]).map(|rows| vec![Op::from(Resample::gather(own, &rows))]),
        };
        ops.extend(padded.ok_or_else(|| {
            let why = format!("pads the {extent} elements of axis {axis} by {before} and {after} in mode '{mode}'");
            Refusal::new(Kind::Shape, why, "modes are constant, edge, reflect (by less than the extent) and wrap; something must be left")
        })?);
    }
    finish_chain(importer, call, x, ops, 0)
}

/// Which element of an axis each of the padded axis repeats; `None` for a mode that is not known, or padding that it cannot make.
fn mirrored(mode: &str, extent: usize, [before, after]: [i64; 2]) -> Option<Vec<usize>> {
    let last = extent as i64 - 1;
    let element = |at: i64| match mode {
        "edge" => Some(at.clamp(0, last)),
        "wrap" => Some(at.rem_euclid(last + 1)),
        "reflect" => Some(if at < 0 { -at } else { last - (at - last).abs() }).filter(|at| (0..=last).contains(at)),
        _ => None,
    };
    let rows = (-before..=last + after).map(|at| element(at).and_then(|at| usize::try_from(at).ok())).collect::<Option<Vec<_>>>()?;
    (!rows.is_empty()).then_some(rows)
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
    let x = importer.turned_operand(call, 0)?;
    let Some(Elements::Integers(target)) = importer.setting(call, 1)?.map(|folded| folded.elements) else {
        return Err(Refusal::unsupported("its target shape is not known at import", "use constants and the extents of inputs"));
    };
    let own = x.extents(&importer.graph);
    let wrong =
        || Refusal::new(Kind::Shape, format!("expands {} axes to a shape of {}", own.len(), target.len()), "axes must be equal or 1");
    let rank = target.len().max(own.len());
    let mut extents = Vec::with_capacity(rank);
    for axis in 0..rank {
        let from = (axis + own.len()).checked_sub(rank).map_or(Extent::Known(1), |i| own[i]);
        let wanted = (axis + target.len()).checked_sub(rank).map_or(Extent::Known(1), |i| target[i]);
        let fixed_batch = importer.fixed_batch.and_then(|n| i64::try_from(n).ok());
        extents.push(match (from, wanted) {
            (from, wanted) if from == wanted => from,
            (from, Extent::Known(1)) => from,
            (Extent::Batch(m), Extent::Known(n)) if fixed_batch.and_then(|batch| batch.checked_mul(m)) == Some(n) => Extent::Batch(m),
            (Extent::Known(1), Extent::Batch(1)) if axis == 0 => Extent::Known(1),
            (Extent::Known(1), Extent::Known(n)) if n > 0 => Extent::Known(n),
            _ => return Err(wrong()),
        });
    }
    if extents == own {
        importer.bind_turned(call.output()?, x);
        return Ok(());
    }
    if importer.graph.shape(x.value).is_batched() {
        let (shape, batch, merged) = arrange(&extents, x.outer(&importer.graph)).filter(|_| rank == own.len()).ok_or_else(wrong)?;
        let value = importer.finish_as(call, call.output()?, Expand { shape }, &[x.value])?;
        importer.bind_turned(call.output()?, Turned { value, batch, merged });
        return Ok(());
    }
    let dim = |extent: &Extent| if let Extent::Known(n) = *extent { Dim::Fixed(n as usize) } else { Dim::Batch };
    importer.finish(call, Expand { shape: Shape(extents.iter().map(dim).collect()) }, &[x.value])
}
