//! Elements under other extents: parts, copies and rearrangements of what is known.

use super::super::attributes;
use super::super::import::{Call, Importer};
use super::super::report::{Kind, Refusal};
use super::super::shapes::{axes_of, normalize_axis, unsqueezed_axes};
use super::super::tensor::{self, Elements, Extent, Folded};
use super::{alike_for_all, within_limit};
use crate::op::reference::{broadcast_dims, broadcast_offsets};

/// What the node makes of its inputs; `None` if it moves nothing, or moves it where import does not follow.
pub(super) fn evaluate(importer: &Importer<'_>, call: &Call<'_>, inputs: &[Option<Folded>]) -> Result<Option<Folded>, Refusal> {
    let given: Vec<&Folded> = inputs.iter().flatten().collect();
    let Some(&first) = given.first() else { return Ok(None) };
    let second = inputs.get(1).and_then(Option::as_ref);
    let rank = first.dims.len();
    let axis = |default: i64| normalize_axis(attributes::int(call.node, "axis")?.unwrap_or(default), rank);
    Ok(match (call.node.op_type.as_str(), second) {
        ("Identity", _) => Some(first.clone()),
        ("Gather", Some(indices)) => Some(gather(first, indices, axis(0)?)?),
        ("GatherND", Some(indices)) if attributes::int(call.node, "batch_dims")?.unwrap_or(0) == 0 => Some(gather_nd(first, indices)?),
        ("ScatterND", Some(indices)) => match given[..] {
            [_, _, updates] if attributes::string(call.node, "reduction")?.is_none_or(|reduction| reduction == "none") => {
                scatter_nd(first, indices, updates)?
            }
            _ => None,
        },
        ("Concat", _) => concat(&given, axis(0)?)?,
        ("Squeeze", _) => {
            let axes = axes_of(importer, call, rank)?;
            let kept = |(axis, &extent): (usize, &usize)| (axes.as_ref().map_or(extent != 1, |a| !a.contains(&axis))).then_some(extent);
            with_dims(first, first.dims.iter().enumerate().filter_map(kept).collect())
        }
        ("Unsqueeze", _) => {
            let axes = unsqueezed_axes(importer, call)?;
            let rank = rank + axes.len();
            let axes = axes.into_iter().map(|axis| normalize_axis(axis, rank)).collect::<Result<Vec<_>, _>>()?;
            let mut old = first.dims.iter();
            let dims = (0..rank).map(|axis| if axes.contains(&axis) { 1 } else { old.next().copied().unwrap_or(1) }).collect();
            with_dims(first, dims)
        }
        ("Slice", _) => slice(importer, call, first)?,
        ("Transpose", _) => transpose(call, first)?,
        ("Reshape", Some(target)) => reshape(first, target),
        ("Flatten", _) => {
            let axis = attributes::int(call.node, "axis")?.unwrap_or(1);
            let axis = if axis == rank as i64 { rank } else { normalize_axis(axis, rank)? };
            let (rows, columns) = first.dims.split_at(axis);
            with_dims(first, vec![rows.iter().product(), columns.iter().product()])
        }
        ("Expand", Some(target)) if matches!(first.elements, Elements::Floats(_)) => expand(first, &alike_for_all(target.clone()))?,
        ("Expand", Some(target)) => expand(first, target)?,
        ("Tile", Some(repeats)) => tile(first, repeats)?,
        ("Range", Some(limit)) => match given[..] {
            [_, _, step] => range(first, limit, step)?,
            _ => None,
        },
        ("Trilu", _) => trilu(call, first, second)?,
        _ => None,
    })
}

fn with_dims(source: &Folded, dims: Vec<usize>) -> Option<Folded> {
    (dims.iter().product::<usize>() == source.len()).then(|| Folded { dims, elements: source.elements.clone() })
}

fn beyond() -> Refusal {
    Refusal::new(Kind::Shape, "gathers beyond the end of a constant", "the file is damaged; export it again")
}

fn known_indices(indices: &Folded) -> Result<Vec<i64>, Refusal> {
    indices.integers().ok_or_else(|| Refusal::unsupported("gathers by the batch", "compute it before exporting"))
}

/// An index counted from either end.
fn within(index: i64, extent: usize) -> Result<usize, Refusal> {
    let from_start = if index < 0 { index.checked_add(extent as i64) } else { Some(index) };
    from_start.and_then(|i| usize::try_from(i).ok()).filter(|&i| i < extent).ok_or_else(beyond)
}

fn gather(source: &Folded, indices: &Folded, axis: usize) -> Result<Folded, Refusal> {
    let extent = source.dims[axis];
    let rows = known_indices(indices)?.into_iter().map(|index| within(index, extent)).collect::<Result<Vec<_>, _>>()?;
    let (outer, inner) = (source.dims[..axis].iter().product::<usize>(), source.dims[axis + 1..].iter().product::<usize>());
    within_limit(outer.saturating_mul(inner).saturating_mul(rows.len()))?;
    let row = |o: usize, row: usize| (0..inner).map(move |i| (o * extent + row) * inner + i);
    let positions: Vec<usize> = (0..outer).flat_map(|o| rows.iter().flat_map(move |&r| row(o, r))).collect();
    let dims = [&source.dims[..axis], &indices.dims, &source.dims[axis + 1..]].concat();
    Ok(source.pick(dims, &positions))
}

/// Where the tuples of `indices` begin in a tensor of `dims`, and how many elements follow each.
fn tuples(dims: &[usize], indices: &Folded) -> Result<(Vec<usize>, usize), Refusal> {
    let depth = indices.dims.last().copied().filter(|&depth| (1..=dims.len()).contains(&depth)).ok_or_else(beyond)?;
    let inner: usize = dims[depth..].iter().product();
    let start = |tuple: &[i64]| {
        let place = tuple.iter().zip(dims).try_fold(0usize, |at, (&index, &extent)| Ok(at * extent + within(index, extent)?));
        place.map(|at| at * inner)
    };
    let starts = known_indices(indices)?.chunks(depth).map(start).collect::<Result<Vec<_>, _>>()?;
    Ok((starts, inner))
}

fn gather_nd(source: &Folded, indices: &Folded) -> Result<Folded, Refusal> {
    let (starts, inner) = tuples(&source.dims, indices)?;
    within_limit(starts.len().saturating_mul(inner))?;
    let positions: Vec<usize> = starts.into_iter().flat_map(|start| start..start + inner).collect();
    let depth = indices.dims[indices.dims.len() - 1];
    let dims = [&indices.dims[..indices.dims.len() - 1], &source.dims[depth..]].concat();
    Ok(source.pick(dims, &positions))
}

fn scatter_nd(source: &Folded, indices: &Folded, updates: &Folded) -> Result<Option<Folded>, Refusal> {
    let (starts, inner) = tuples(&source.dims, indices)?;
    if updates.len() != starts.len() * inner {
        return Err(Refusal::new(Kind::Shape, "scatters updates of other extents than its indices", "export the model again"));
    }
    let targets = starts.iter().flat_map(|&start| start..start + inner);
    let mut result = source.clone();
    match (&mut result.elements, &updates.elements) {
        (Elements::Floats(values), Elements::Floats(new)) => targets.zip(new).for_each(|(at, &v)| values[at] = v),
        (Elements::Integers(values), Elements::Integers(new)) => targets.zip(new).for_each(|(at, &v)| values[at] = v),
        _ => return Ok(None),
    }
    Ok(Some(result))
}

fn concat(inputs: &[&Folded], axis: usize) -> Result<Option<Folded>, Refusal> {
    let first = inputs[0];
    let like = |other: &&Folded| {
        let pairs = first.dims.iter().zip(&other.dims).enumerate();
        other.dims.len() == first.dims.len() && pairs.filter(|(i, _)| *i != axis).all(|(_, (a, b))| a == b)
    };
    if !inputs.iter().all(like) {
        return Ok(None);
    }
    let mut dims = first.dims.clone();
    dims[axis] = inputs.iter().map(|folded| folded.dims[axis]).sum();
    within_limit(dims.iter().product())?;
    let outer: usize = dims[..axis].iter().product();
    let rows = |o: usize| {
        inputs.iter().enumerate().flat_map(move |(input, folded)| {
            let width: usize = folded.dims[axis..].iter().product();
            (o * width..(o + 1) * width).map(move |at| (input, at))
        })
    };
    let places = (0..outer).flat_map(rows);
    let elements = if inputs.iter().all(|folded| matches!(folded.elements, Elements::Floats(_))) {
        let floats: Option<Vec<_>> = inputs.iter().map(|folded| folded.to_floats()).collect();
        let Some(floats) = floats else { return Ok(None) };
        Elements::Floats(places.map(|(input, at)| floats[input][at]).collect())
    } else {
        let integers = |folded: &&Folded| if let Elements::Integers(values) = &folded.elements { Some(values.clone()) } else { None };
        let Some(integers) = inputs.iter().map(integers).collect::<Option<Vec<_>>>() else { return Ok(None) };
        Elements::Integers(places.map(|(input, at)| integers[input][at]).collect())
    };
    Ok(Some(Folded { dims, elements }))
}

fn slice(importer: &Importer<'_>, call: &Call<'_>, source: &Folded) -> Result<Option<Folded>, Refusal> {
    let list = |name: &str, slot: usize| -> Result<Option<Vec<i64>>, Refusal> {
        if let Some(values) = attributes::ints(call.node, name)? {
            return Ok(Some(values.to_vec()));
        }
        Ok(importer.setting(call, slot)?.and_then(|folded| folded.integers()))
    };
    let (Some(starts), Some(ends)) = (list("starts", 1)?, list("ends", 2)?) else { return Ok(None) };
    let axes = list("axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list("steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()].iter().any(|&len| len != starts.len()) {
        return Ok(None);
    }
    let mut result = source.clone();
    for (i, &axis) in axes.iter().enumerate() {
        let axis = normalize_axis(axis, source.dims.len())?;
        let Some(rows) = sliced(source.dims[axis], starts[i], ends[i], steps[i]) else { return Ok(None) };
        let indices = Elements::Integers(rows.iter().map(|&row| Extent::Known(row as i64)).collect());
        result = gather(&result, &Folded { dims: vec![rows.len()], elements: indices }, axis)?;
    }
    Ok(Some(result))
}

/// The rows that ONNX's Slice keeps of an axis; `None` for a step of 0.
pub(in super::super) fn sliced(extent: usize, start: i64, end: i64, step: i64) -> Option<Vec<usize>> {
    let count = extent as i64;
    let bound = |value: i64, low: i64, high: i64| (if value < 0 { value.saturating_add(count) } else { value }).clamp(low, high);
    let stride = usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX);
    match step {
        0 => None,
        1.. => Some((bound(start, 0, count)..bound(end, 0, count)).step_by(stride).map(|row| row as usize).collect()),
        _ => {
            let (start, end) = (bound(start, -1, count - 1), bound(end, -1, count - 1));
            Some((end + 1..=start).rev().step_by(stride).map(|row| row as usize).collect())
        }
    }
}

fn transpose(call: &Call<'_>, source: &Folded) -> Result<Option<Folded>, Refusal> {
    let rank = source.dims.len();
    let perm = match attributes::ints(call.node, "perm")? {
        Some(perm) => perm.iter().map(|&axis| normalize_axis(axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).rev().collect(),
    };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..rank) {
        return Ok(None);
    }
    let stride = |axis: usize| source.dims[axis + 1..].iter().product::<usize>();
    let mut positions = vec![0];
    for &axis in &perm {
        positions = positions.iter().flat_map(|&at| (0..source.dims[axis]).map(move |i| at + i * stride(axis))).collect();
    }
    Ok(Some(source.pick(perm.iter().map(|&axis| source.dims[axis]).collect(), &positions)))
}

fn reshape(source: &Folded, target: &Folded) -> Option<Folded> {
    let target = target.integers()?;
    let extent = |(axis, &t): (usize, &i64)| if t == 0 { source.dims.get(axis).copied() } else { usize::try_from(t).ok() };
    let fixed = target.iter().enumerate().filter(|(_, t)| **t != -1);
    let rest = fixed.map(extent).try_fold(1usize, |product, extent| product.checked_mul(extent?))?;
    let resolve = |(axis, t): (usize, &i64)| if *t == -1 { source.len().checked_div(rest) } else { extent((axis, t)) };
    let dims = target.iter().enumerate().map(resolve).collect::<Option<Vec<_>>>()?;
    (target.iter().filter(|&&t| t == -1).count() <= 1).then(|| with_dims(source, dims))?
}

fn expand(source: &Folded, target: &Folded) -> Result<Option<Folded>, Refusal> {
    let Some(target) = target.integers() else { return Ok(None) };
    let (wanted, _) = tensor::extents(&target)?;
    let dims = broadcast_dims(&source.dims, &wanted);
    let fits = source.dims.iter().rev().zip(dims.iter().rev()).all(|(&own, &all)| own == all || own == 1);
    if !fits {
        return Ok(None);
    }
    within_limit(dims.iter().try_fold(1usize, |product, &d| product.checked_mul(d)).unwrap_or(usize::MAX))?;
    let positions = broadcast_offsets(&source.dims, &dims);
    Ok(Some(source.pick(dims, &positions)))
}

fn tile(source: &Folded, repeats: &Folded) -> Result<Option<Folded>, Refusal> {
    let Some(repeats) = repeats.integers().filter(|repeats| repeats.len() == source.dims.len()) else { return Ok(None) };
    let (repeats, _) = tensor::extents(&repeats)?;
    let mut result = source.clone();
    for (axis, &count) in repeats.iter().enumerate() {
        let extent = source.dims[axis];
        within_limit(result.len().saturating_mul(count))?;
        let rows = (0..count * extent).map(|row| Extent::Known((row % extent) as i64)).collect();
        result = gather(&result, &Folded { dims: vec![count * extent], elements: Elements::Integers(rows) }, axis)?;
    }
    Ok(Some(result))
}

fn range(start: &Folded, limit: &Folded, step: &Folded) -> Result<Option<Folded>, Refusal> {
    let elements = match (start.integers().as_deref(), limit.integers().as_deref(), step.integers().as_deref()) {
        (Some(&[start]), Some(&[limit]), Some(&[step])) if step != 0 => {
            let span = i128::from(limit) - i128::from(start);
            let count = if (span > 0) == (step > 0) { span.unsigned_abs().div_ceil(u128::from(step.unsigned_abs())) } else { 0 };
            let count = within_limit(usize::try_from(count).unwrap_or(usize::MAX))?;
            Elements::Integers((0..count as i64).map(|i| Extent::Known(start + i * step)).collect())
        }
        _ => match (start.single(), limit.single(), step.single()) {
            (Some(start), Some(limit), Some(step)) if step != 0.0 && [start, limit, step].iter().all(|v| v.is_finite()) => {
                let count = within_limit(((f64::from(limit) - f64::from(start)) / f64::from(step)).ceil().max(0.0) as usize)?;
                Elements::Floats((0..count).map(|i| start + i as f32 * step).collect())
            }
            _ => return Ok(None),
        },
    };
    let count = match &elements {
        Elements::Floats(values) => values.len(),
        Elements::Integers(values) => values.len(),
    };
    Ok(Some(Folded { dims: vec![count], elements }))
}

/// What lies above or below a diagonal of the last two axes; 0 elsewhere.
fn trilu(call: &Call<'_>, source: &Folded, diagonal: Option<&Folded>) -> Result<Option<Folded>, Refusal> {
    let upper = attributes::int(call.node, "upper")?.unwrap_or(1) != 0;
    let k = diagonal.and_then(Folded::integers).and_then(|k| k.first().copied()).unwrap_or(0);
    let Some(&[rows, columns]) = source.dims.last_chunk::<2>() else { return Ok(None) };
    let kept = |at: usize| {
        let (row, column) = ((at / columns % rows) as i64, (at % columns) as i64);
        if upper { column - row >= k } else { column - row <= k }
    };
    let elements = match &source.elements {
        Elements::Floats(values) => Elements::Floats(values.iter().enumerate().map(|(i, &v)| if kept(i) { v } else { 0.0 }).collect()),
        Elements::Integers(values) => {
            Elements::Integers(values.iter().enumerate().map(|(i, &v)| if kept(i) { v } else { Extent::Known(0) }).collect())
        }
    };
    Ok(Some(Folded { dims: source.dims.clone(), elements }))
}
