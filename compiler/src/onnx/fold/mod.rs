//! Arithmetic on what is known at import: the chains that exporters leave around Reshape, and constants.
//!
//! The batch takes part as a symbol: it may be gathered, sliced and concatenated, not computed with.

use super::import::{Binding, Call, Importer, in_initializer};
use super::prepare::{constant, constant_of_shape, is_generated};
use super::report::{Kind, Refusal};
use super::shapes::{axes_of, normalize_axis};
use super::tensor::{self, Elements, Extent, FLOAT, Folded};
use super::{activations, attributes, tensor::INT64};
use crate::ir::{Dim, Shape};

/// Value of the node, if everything it needs is known.
pub(super) fn fold<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<Option<Folded>, Refusal> {
    let folded = match call.node.op_type.as_str() {
        "Constant" => return constant(call.node).map(Some),
        "Shape" => shape(importer, call)?,
        "CastLike" => known(importer, call, 0)?,
        "Cast" => cast(importer, call)?,
        "ConstantOfShape" => match known(importer, call, 0)? {
            Some(extents) => Some(constant_of_shape(call.node, &extents)?),
            None => None,
        },
        "Identity" | "Gather" | "Concat" | "Unsqueeze" | "Squeeze" | "Slice" | "Transpose" | "Reshape" | "Expand" | "Add" | "Sub"
        | "Mul" | "Div" | "Neg" | "Equal" | "Where" | "Abs" | "Erf" | "Exp" | "Log" | "Pow" | "Reciprocal" | "Sqrt" => {
            let inputs = (0..call.node.input.len()).map(|slot| known(importer, call, slot)).collect::<Result<Option<Vec<_>>, _>>()?;
            match inputs {
                Some(inputs) => evaluate(importer, call, &inputs)?,
                None => None,
            }
        }
        _ => None,
    };
    if let Some(folded) = &folded {
        importer.charge(folded.dims.iter().product())?;
    }
    Ok(folded)
}

/// Input `slot`, if it is known and no parameter.
fn known<'m>(importer: &Importer<'m>, call: &Call<'m>, slot: usize) -> Result<Option<Folded>, Refusal> {
    let Some(name) = call.optional(slot) else { return Ok(None) };
    match importer.binding(name) {
        Binding::Folded(folded) => Ok(Some(folded.clone())),
        Binding::Initializer(index) => {
            let source = &importer.model.initializer[*index];
            let number = source.data_type != FLOAT || (is_generated(name) && source.dims.is_empty());
            if !number {
                return Ok(None);
            }
            tensor::folded(source).map(Some).map_err(|refusal| in_initializer(refusal, name))
        }
        Binding::Value(_) | Binding::Padded(..) | Binding::Turned(_) | Binding::Refused => Ok(None),
    }
}

fn evaluate(importer: &Importer<'_>, call: &Call<'_>, inputs: &[Folded]) -> Result<Option<Folded>, Refusal> {
    let Some(first) = inputs.first() else { return Ok(None) };
    Ok(match call.node.op_type.as_str() {
        "Identity" => Some(first.clone()),
        "Gather" => gather(inputs)?,
        "Concat" => concat(inputs),
        "Squeeze" => {
            let axes = axes_of(importer, call, first.dims.len())?;
            let kept = |(axis, &extent): (usize, &usize)| (axes.as_ref().map_or(extent != 1, |a| !a.contains(&axis))).then_some(extent);
            let dims: Vec<_> = first.dims.iter().enumerate().filter_map(kept).collect();
            with_dims(first, dims)
        }
        "Unsqueeze" => {
            let count = unsqueezed_axes(importer, call)?.len();
            let rank = first.dims.len() + count;
            let axes = axes_of(importer, call, rank)?.unwrap_or_default();
            let mut old = first.dims.iter();
            let dims = (0..rank).map(|axis| if axes.contains(&axis) { 1 } else { old.next().copied().unwrap_or(1) }).collect();
            with_dims(first, dims)
        }
        "Slice" => slice(importer, call, first)?,
        "Transpose" => transpose(call, first)?,
        "Reshape" => reshape(first, inputs.get(1)),
        "Expand" => expand(first, inputs.get(1))?,
        "Neg" => arithmetic("Mul", first, &Folded { dims: vec![], elements: minus_one(first) }),
        "Equal" => inputs.get(1).and_then(|other| elementwise([first, other, first], |[a, b, _]| equal(a, b))),
        "Where" => match inputs {
            [condition, yes, no] => elementwise([condition, yes, no], |[condition, yes, no]| match condition {
                Extent::Known(0) => Some(no),
                Extent::Known(_) => Some(yes),
                Extent::Batch => None,
            }),
            _ => None,
        },
        "Pow" => inputs.get(1).and_then(|exponent| power(first, exponent)),
        op => match activations::function_of(op) {
            Some(function) => of_floats(first, |x| function.of(f64::from(x)) as f32),
            None => inputs.get(1).and_then(|second| arithmetic(op, first, second)),
        },
    })
}

/// Whether two extents are equal, as a number. The batch is no negative number; whether it is a positive one is not known.
fn equal(a: Extent, b: Extent) -> Option<Extent> {
    match (a, b) {
        (Extent::Known(a), Extent::Known(b)) => Some(Extent::Known(i64::from(a == b))),
        (Extent::Batch, Extent::Batch) => Some(Extent::Known(1)),
        (Extent::Batch, Extent::Known(n)) | (Extent::Known(n), Extent::Batch) => (n < 0).then_some(Extent::Known(0)),
    }
}

/// `f` of the elements of three lists of integers, each of one element or as many as the longest.
fn elementwise(operands: [&Folded; 3], f: impl Fn([Extent; 3]) -> Option<Extent>) -> Option<Folded> {
    let integers = |folded: &'_ Folded| if let Elements::Integers(values) = &folded.elements { Some(values.clone()) } else { None };
    let lists = operands.map(integers);
    let [Some(a), Some(b), Some(c)] = lists else { return None };
    let longest = operands.iter().max_by_key(|folded| folded.dims.iter().product::<usize>())?;
    let count: usize = longest.dims.iter().product();
    let at = |list: &[Extent], i: usize| if list.len() == 1 { list.first().copied() } else { list.get(i).copied() };
    if [&a, &b, &c].iter().any(|list| list.len() != 1 && list.len() != count) {
        return None;
    }
    let elements = (0..count).map(|i| f([at(&a, i)?, at(&b, i)?, at(&c, i)?])).collect::<Option<_>>()?;
    Some(Folded { dims: longest.dims.clone(), elements: Elements::Integers(elements) })
}

fn of_floats(source: &Folded, f: impl Fn(f32) -> f32) -> Option<Folded> {
    let Elements::Floats(values) = &source.elements else { return None };
    Some(Folded { dims: source.dims.clone(), elements: Elements::Floats(values.iter().map(|&v| f(v)).collect()) })
}

fn power(base: &Folded, exponent: &Folded) -> Option<Folded> {
    let exponent = exponent.single()?;
    of_floats(base, |x| x.powf(exponent))
}

fn minus_one(like: &Folded) -> Elements {
    match like.elements {
        Elements::Floats(_) => Elements::Floats(vec![-1.0]),
        Elements::Integers(_) => Elements::Integers(vec![Extent::Known(-1)]),
    }
}

fn unsqueezed_axes(importer: &Importer<'_>, call: &Call<'_>) -> Result<Vec<i64>, Refusal> {
    if let Some(axes) = attributes::ints(call.node, "axes")? {
        return Ok(axes.to_vec());
    }
    Ok(importer.setting(call, 1)?.and_then(|axes| axes.integers()).unwrap_or_default())
}

fn with_dims(source: &Folded, dims: Vec<usize>) -> Option<Folded> {
    let same = dims.iter().product::<usize>() == source.dims.iter().product::<usize>();
    same.then(|| Folded { dims, elements: source.elements.clone() })
}

/// Extents of a value of the graph or of an initialiser.
fn shape(importer: &Importer<'_>, call: &Call<'_>) -> Result<Option<Folded>, Refusal> {
    let shape = match importer.binding(call.input(0)?) {
        Binding::Value(value) => importer.graph.shape(*value).clone(),
        Binding::Initializer(index) => Shape::uniform(&tensor::extents(&importer.model.initializer[*index].dims)?.0),
        Binding::Folded(folded) => Shape::uniform(&folded.dims),
        Binding::Turned(turned) => Shape(turned.dims(&importer.graph)),
        Binding::Padded(value, frame) => {
            let mut shape = importer.graph.shape(*value).clone();
            for (side, axis) in [2, 3].into_iter().enumerate() {
                if let Some(Dim::Fixed(extent)) = shape.0.get_mut(axis) {
                    *extent += frame[side] + frame[side + 2];
                }
            }
            shape
        }
        Binding::Refused => return Ok(None),
    };
    let rank = shape.rank() as i64;
    let bound = |value: i64| (if value < 0 { value.saturating_add(rank) } else { value }).clamp(0, rank) as usize;
    let start = bound(attributes::int(call.node, "start")?.unwrap_or(0));
    let end = bound(attributes::int(call.node, "end")?.unwrap_or(rank));
    let extent = |dim: &Dim| match *dim {
        Dim::Batch => Extent::Batch,
        Dim::Fixed(n) => Extent::Known(n as i64),
    };
    Ok(Some(Folded::list(shape.0.get(start..end.max(start)).unwrap_or_default().iter().map(extent).collect())))
}

fn cast(importer: &Importer<'_>, call: &Call<'_>) -> Result<Option<Folded>, Refusal> {
    let Some(source) = known(importer, call, 0)? else { return Ok(None) };
    let to = attributes::int(call.node, "to")?.unwrap_or(0);
    let to_float = to == i64::from(FLOAT) || to == 11;
    let to_integer = to == i64::from(INT64) || to == 6;
    let elements = match source.elements {
        Elements::Integers(values) if to_float => {
            let known: Option<Vec<_>> = values.iter().map(|e| if let Extent::Known(n) = e { Some(*n as f32) } else { None }).collect();
            match known {
                Some(values) => Elements::Floats(values),
                // The batch as a float: nothing can be done with it but to cast it back.
                None => Elements::Integers(values),
            }
        }
        Elements::Floats(values) if to_integer => Elements::Integers(values.into_iter().map(|v| Extent::Known(v as i64)).collect()),
        Elements::Floats(values) if to_float => Elements::Floats(values),
        Elements::Integers(values) if to_integer => Elements::Integers(values),
        _ => return Ok(None),
    };
    Ok(Some(Folded { dims: source.dims, elements }))
}

/// From a list of integers; anything else is left to the graph.
fn gather(inputs: &[Folded]) -> Result<Option<Folded>, Refusal> {
    let outside = || Refusal::new(Kind::Shape, "gathers beyond the end of a shape", "the file is damaged; export it again");
    let [source, indices] = inputs else { return Err(outside()) };
    let (Elements::Integers(values), 1) = (&source.elements, source.dims.len()) else { return Ok(None) };
    let indices_known = indices.integers().ok_or_else(|| Refusal::unsupported("gathers by the batch", "compute it before exporting"))?;
    let pick = |&index: &i64| {
        let index = if index < 0 { index.checked_add(values.len() as i64)? } else { index };
        values.get(usize::try_from(index).ok()?).copied()
    };
    let picked = indices_known.iter().map(pick).collect::<Option<Vec<_>>>().ok_or_else(outside)?;
    Ok(Some(Folded { dims: indices.dims.clone(), elements: Elements::Integers(picked) }))
}

fn concat(inputs: &[Folded]) -> Option<Folded> {
    let mut all = Vec::new();
    for input in inputs {
        match &input.elements {
            Elements::Integers(values) if input.dims.len() == 1 => all.extend_from_slice(values),
            _ => return None,
        }
    }
    Some(Folded::list(all))
}

fn slice(importer: &Importer<'_>, call: &Call<'_>, source: &Folded) -> Result<Option<Folded>, Refusal> {
    let list = |name: &str, slot: usize| -> Result<Option<Vec<i64>>, Refusal> {
        if let Some(values) = attributes::ints(call.node, name)? {
            return Ok(Some(values.to_vec()));
        }
        Ok(importer.setting(call, slot)?.and_then(|folded| folded.integers()))
    };
    let (starts, ends, axes, steps) = (list("starts", 1)?, list("ends", 2)?, list("axes", 3)?, list("steps", 4)?);
    let (Some([start]), Some([end])) = (starts.as_deref(), ends.as_deref()) else { return Ok(None) };
    let along_first = axes.is_none_or(|a| a == [0] || a == [-(source.dims.len() as i64)]);
    let step = match steps.as_deref() {
        None => 1,
        Some(&[step]) if step != 0 => step,
        _ => return Ok(None),
    };
    let (Elements::Integers(values), Some(&rows), true) = (&source.elements, source.dims.first(), along_first) else { return Ok(None) };
    let count = rows as i64;
    let bound = |value: i64, low: i64, high: i64| (if value < 0 { value.saturating_add(count) } else { value }).clamp(low, high);
    let kept: Vec<usize> = if step > 0 {
        let (start, end) = (bound(*start, 0, count), bound(*end, 0, count));
        (start..end).step_by(usize::try_from(step).unwrap_or(usize::MAX)).map(|row| row as usize).collect()
    } else {
        let (start, end) = (bound(*start, -1, count - 1), bound(*end, -1, count - 1));
        let step = usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX);
        (end + 1..=start).rev().step_by(step).map(|row| row as usize).collect()
    };
    let width = values.len().checked_div(rows).unwrap_or(0);
    let mut dims = source.dims.clone();
    dims[0] = kept.len();
    let elements = kept.into_iter().flat_map(|row| values[row * width..][..width].iter().copied()).collect();
    Ok(Some(Folded { dims, elements: Elements::Integers(elements) }))
}

/// Of a matrix of integers: part of the arithmetic around Pad.
fn transpose(call: &Call<'_>, source: &Folded) -> Result<Option<Folded>, Refusal> {
    let swaps = attributes::ints(call.node, "perm")?.is_none_or(|perm| perm == [1, 0]);
    Ok(match (&source.elements, &source.dims[..]) {
        (Elements::Integers(values), &[rows, columns]) if swaps => {
            let elements = (0..rows * columns).map(|i| values[i % rows * columns + i / rows]).collect();
            Some(Folded { dims: vec![columns, rows], elements: Elements::Integers(elements) })
        }
        _ => None,
    })
}

fn reshape(source: &Folded, target: Option<&Folded>) -> Option<Folded> {
    let target = target?.integers()?;
    let count: usize = source.dims.iter().product();
    let rest = target.iter().filter(|&&t| t != -1).try_fold(1usize, |p, &t| p.checked_mul(usize::try_from(t).ok()?))?;
    let dims =
        target.iter().map(|&t| if t == -1 { count.checked_div(rest) } else { usize::try_from(t).ok() }).collect::<Option<Vec<_>>>()?;
    (target.iter().filter(|&&t| t == -1).count() <= 1).then(|| with_dims(source, dims))?
}

/// Broadcasting of a single element; more is left to the graph.
fn expand(source: &Folded, target: Option<&Folded>) -> Result<Option<Folded>, Refusal> {
    let Some(target) = target.and_then(Folded::integers) else { return Ok(None) };
    let (mut dims, count) = tensor::extents(&target)?;
    if source.dims.iter().product::<usize>() != 1 {
        return Ok(None);
    }
    if count > super::prepare::FOLD_LIMIT {
        return Err(Refusal::new(Kind::Size, format!("makes a constant of {count} elements"), "store it as an initialiser"));
    }
    while dims.len() < source.dims.len() {
        dims.insert(0, 1);
    }
    let elements = match &source.elements {
        Elements::Floats(v) => Elements::Floats(vec![v[0]; count]),
        Elements::Integers(v) => Elements::Integers(vec![v[0]; count]),
    };
    Ok(Some(Folded { dims, elements }))
}

/// Element by element, where extents are equal or one operand is a single element.
fn arithmetic(op: &str, a: &Folded, b: &Folded) -> Option<Folded> {
    let (count_a, count_b): (usize, usize) = (a.dims.iter().product(), b.dims.iter().product());
    let dims = match (count_a, count_b) {
        _ if a.dims == b.dims => a.dims.clone(),
        (_, 1) if b.dims.len() <= a.dims.len() => a.dims.clone(),
        (1, _) if a.dims.len() <= b.dims.len() => b.dims.clone(),
        _ => return None,
    };
    let count: usize = dims.iter().product();
    let at = |i: usize, len: usize| if len == 1 { 0 } else { i };
    let elements = match (&a.elements, &b.elements) {
        (Elements::Floats(x), Elements::Floats(y)) => {
            let compute = |x: f32, y: f32| match op {
                "Add" => x + y,
                "Sub" => x - y,
                "Mul" => x * y,
                _ => x / y,
            };
            Elements::Floats((0..count).map(|i| compute(x[at(i, count_a)], y[at(i, count_b)])).collect())
        }
        (Elements::Integers(x), Elements::Integers(y)) => {
            let compute = |x: Extent, y: Extent| match (x, y) {
                (Extent::Known(x), Extent::Known(y)) => match op {
                    "Add" => x.checked_add(y),
                    "Sub" => x.checked_sub(y),
                    "Mul" => x.checked_mul(y),
                    _ => x.checked_div(y),
                }
                .map(Extent::Known),
                (Extent::Batch, Extent::Known(1)) if matches!(op, "Mul" | "Div") => Some(Extent::Batch),
                (Extent::Known(1), Extent::Batch) if op == "Mul" => Some(Extent::Batch),
                _ => None,
            };
            Elements::Integers((0..count).map(|i| compute(x[at(i, count_a)], y[at(i, count_b)])).collect::<Option<_>>()?)
        }
        _ => return None,
    };
    Some(Folded { dims, elements })
}

/// Kept here so that every reading of axes agrees on what a negative one means.
pub(super) fn unsqueeze_rank(importer: &Importer<'_>, call: &Call<'_>, rank: usize) -> Result<Vec<usize>, Refusal> {
    let axes = unsqueezed_axes(importer, call)?;
    let rank = rank + axes.len();
    axes.into_iter().map(|axis| normalize_axis(axis, rank)).collect()
}
