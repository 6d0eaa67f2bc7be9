//! Operations that only rearrange: on activations they keep the batch first, whatever axis ONNX has it on; on parameters they are a view.

use super::attributes;
use super::fold::unsqueeze_rank;
use super::import::{Binding, Call, Importer, Turned};
use super::report::{Kind, Refusal};
use super::tensor::{DOUBLE, Elements, Extent, FLOAT, type_name};
use crate::ir::{Dim, Shape, Value};
use crate::op::{Reshape, Transpose};

const KEEP_FIRST: &str = "the examples must stay along the first axis";

/// Reached only where the inputs are not known at import.
pub(super) fn not_folded<'m>(_importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let why = format!("{} can be computed at import only, and its inputs are not known then", call.node.op_type);
    Err(Refusal::unsupported(why, "it is understood in the arithmetic of shapes and on constants"))
}

pub(super) fn normalize_axis(axis: i64, rank: usize) -> Result<usize, Refusal> {
    let from_start = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    let found = from_start.and_then(|a| usize::try_from(a).ok()).filter(|&a| a < rank);
    found.ok_or_else(|| Refusal::new(Kind::Attribute, format!("axis {axis} of a value with {rank} axes"), "export the model again"))
}

/// The attribute or second input `axes`, counted from 0; `None` if absent.
pub(super) fn axes_of(importer: &Importer<'_>, call: &Call<'_>, rank: usize) -> Result<Option<Vec<usize>>, Refusal> {
    let axes = match attributes::ints(call.node, "axes")? {
        Some(axes) => Some(axes.to_vec()),
        None => match importer.setting(call, 1)? {
            Some(folded) => Some(folded.integers().ok_or_else(|| Refusal::unsupported("its axes are not integers", "export it again"))?),
            None => None,
        },
    };
    axes.map(|axes| axes.into_iter().map(|axis| normalize_axis(axis, rank)).collect()).transpose()
}

/// Of activations, which are float32 whatever the file says of them: nothing.
pub(super) fn cast<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let to = attributes::int(call.node, "to")?;
    let exact = to.is_none_or(|to| to == i64::from(FLOAT) || to == i64::from(DOUBLE));
    if exact {
        return identity(importer, call);
    }
    let name = type_name(i32::try_from(to.unwrap_or_default()).unwrap_or_default());
    Err(Refusal::new(Kind::ElementType, format!("casts activations to {name}"), "only float32 and float64 keep them as they are"))
}

/// To the type of another value, which is float32 if that is computed.
pub(super) fn cast_like<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    importer.operand(call, 1)?;
    identity(importer, call)
}

pub(super) fn identity<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.turned_operand(call, 0)?;
    importer.bind_turned(call.output()?, x);
    Ok(())
}

pub(super) fn flatten<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let shape = importer.graph.shape(x).clone();
    let axis = attributes::int(call.node, "axis")?.unwrap_or(1);
    let axis = if axis == shape.rank() as i64 { shape.rank() } else { normalize_axis(axis, shape.rank())? };
    if !shape.is_batched() {
        let dims = shape.fixed();
        let (rows, columns) = dims.split_at(axis);
        return finish_reshape(importer, call, x, Shape::uniform(&[rows.iter().product(), columns.iter().product()]));
    }
    let ones = shape.fixed().iter().take(axis.saturating_sub(1)).all(|&d| d == 1);
    if axis == 0 || !ones {
        return Err(Refusal::unsupported(format!("flattens {shape} at axis {axis}"), "flatten at axis 1: the examples must stay apart"));
    }
    finish_reshape(importer, call, x, Shape::batched(&[shape.elements()]))
}

pub(super) fn reshape<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let target = match attributes::ints(call.node, "shape")? {
        Some(target) => target.iter().map(|&t| Extent::Known(t)).collect(),
        None => match importer.setting(call, 1)?.map(|folded| folded.elements) {
            Some(Elements::Integers(target)) => target,
            _ => return Err(Refusal::unsupported("its target shape is not known at import", "use constants and the extents of inputs")),
        },
    };
    let keep_zero = attributes::int(call.node, "allowzero")?.unwrap_or(0) != 0;
    let shape = importer.graph.shape(x).clone();
    let resolved = if shape.is_batched() {
        resolve_batched(&shape, &target, keep_zero, importer.fixed_batch)?
    } else {
        resolve_uniform(&shape.fixed(), &target, keep_zero)?
    };
    if importer.fixed_batch.is_some() && shape.is_batched() {
        let rest = resolved.fixed().into_iter().map(|d| d as i64);
        importer.targets.push((call.index, std::iter::once(0).chain(rest).collect()));
    }
    finish_reshape(importer, call, x, resolved)
}

fn mismatch(shape: &Shape, target: &[Extent]) -> Refusal {
    Refusal::new(Kind::Shape, format!("{shape} cannot be reshaped to {}", spell(target)), "the numbers of elements must agree")
}

fn spell(target: &[Extent]) -> String {
    let words: Vec<_> = target.iter().map(|t| if let Extent::Known(n) = t { n.to_string() } else { "N".into() }).collect();
    format!("[{}]", words.join(", "))
}

/// A target shape for `dims`, 0 and -1 resolved.
fn resolve_uniform(dims: &[usize], target: &[Extent], keep_zero: bool) -> Result<Shape, Refusal> {
    let fail = || mismatch(&Shape::uniform(dims), target);
    let count: usize = dims.iter().product();
    let mut free = None;
    let mut resolved = Vec::with_capacity(target.len());
    for (axis, extent) in target.iter().enumerate() {
        resolved.push(match extent {
            Extent::Known(-1) if free.is_none() => {
                free = Some(axis);
                1
            }
            Extent::Known(0) if !keep_zero => *dims.get(axis).ok_or_else(fail)?,
            Extent::Known(n) if *n > 0 => *n as usize,
            _ => return Err(fail()),
        });
    }
    let product = resolved.iter().try_fold(1usize, |p, &d| p.checked_mul(d)).ok_or_else(fail)?;
    match free {
        Some(axis) if count.is_multiple_of(product) => resolved[axis] = count / product,
        None if product == count => {}
        _ => return Err(fail()),
    }
    Ok(Shape::uniform(&resolved))
}

/// As [`resolve_uniform`] for one example; the first extent of the target must be the batch in some spelling.
fn resolve_batched(shape: &Shape, target: &[Extent], keep_zero: bool, fixed_batch: Option<usize>) -> Result<Shape, Refusal> {
    let moves = || {
        let why = format!("reshapes {shape} to {}, which moves elements between examples", spell(target));
        Refusal::unsupported(why, format!("{KEEP_FIRST}: start the target with 0 or -1"))
    };
    let (first, rest) = target.split_first().ok_or_else(moves)?;
    let is_batch = match first {
        Extent::Batch | Extent::Known(-1) => true,
        Extent::Known(0) => !keep_zero,
        Extent::Known(n) => fixed_batch.is_some_and(|batch| i64::try_from(batch) == Ok(*n)),
    };
    if !is_batch || rest.contains(&Extent::Batch) {
        return Err(moves());
    }
    // Zeros copy the extent of the same axis, which is one further on once the batch is set aside.
    let example = resolve_uniform(&shape.fixed(), rest, keep_zero);
    let free_batch = *first == Extent::Known(-1);
    match example {
        Ok(example) if !(free_batch && rest.contains(&Extent::Known(-1))) => Ok(Shape::batched(&example.fixed())),
        _ if free_batch => Err(moves()),
        _ => Err(mismatch(shape, target)),
    }
}

pub(super) fn squeeze<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.turned_operand(call, 0)?;
    let dims = x.dims(&importer.graph);
    let shape = Shape(dims.clone());
    let axes = match axes_of(importer, call, dims.len())? {
        Some(axes) => axes,
        None if importer.fixed_batch == Some(1) && shape.is_batched() => {
            return Err(Refusal::unsupported(
                "squeezes every axis of extent 1, the batch too",
                "name its axes, or export with a symbolic batch",
            ));
        }
        None => (0..dims.len()).filter(|&a| dims[a] == Dim::Fixed(1)).collect(),
    };
    if let Some(&axis) = axes.iter().find(|&&a| dims[a] != Dim::Fixed(1)) {
        let why = format!("squeezes axis {axis} of {shape}");
        return Err(Refusal::new(Kind::Shape, why, "only axes of extent 1 can go; the examples must stay apart"));
    }
    let kept = (0..dims.len()).filter(|a| !axes.contains(a)).map(|a| dims[a]).collect();
    finish_turned(importer, call, x.value, kept)
}

pub(super) fn unsqueeze<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.turned_operand(call, 0)?;
    let dims = x.dims(&importer.graph);
    let axes = unsqueeze_rank(importer, call, dims.len())?;
    let mut old = dims.iter().copied();
    let axis = |a: usize| if axes.contains(&a) { Dim::Fixed(1) } else { old.next().unwrap_or(Dim::Fixed(1)) };
    let resolved = (0..dims.len() + axes.len()).map(axis).collect();
    finish_turned(importer, call, x.value, resolved)
}

/// A reshape to what ONNX calls `dims`; the graph's value has the examples first.
fn finish_turned<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Value, dims: Vec<Dim>) -> Result<(), Refusal> {
    let batch = dims.iter().position(|&d| d == Dim::Batch).unwrap_or(0);
    let mut shape = Shape(dims);
    if shape.is_batched() {
        let examples = shape.0.remove(batch);
        shape.0.insert(0, examples);
    }
    finish_reshape(importer, call, x, shape)?;
    turn(importer, call, batch)
}

/// Notes that ONNX has the examples of the node's output along `batch`.
fn turn<'m>(importer: &mut Importer<'m>, call: &Call<'m>, batch: usize) -> Result<(), Refusal> {
    let name = call.output()?;
    if let (1.., &Binding::Value(value)) = (batch, importer.binding(name)) {
        importer.bind_turned(name, Turned { value, batch });
    }
    Ok(())
}

pub(super) fn transpose<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.turned_operand(call, 0)?;
    let shape = importer.graph.shape(x.value).clone();
    let rank = shape.rank();
    let perm = match attributes::ints(call.node, "perm")? {
        Some(perm) => perm.iter().map(|&axis| normalize_axis(axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).rev().collect(),
    };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if sorted != (0..rank).collect::<Vec<_>>() {
        return Err(Refusal::new(Kind::Attribute, format!("perm {perm:?} is no permutation of {rank} axes"), "export the model again"));
    }
    if !shape.is_batched() {
        return importer.finish(call, Transpose { perm }, &[x.value]);
    }
    let batch = perm.iter().position(|&axis| axis == x.batch).unwrap_or(0);
    let others = perm.iter().filter(|&&axis| axis != x.batch).map(|&axis| x.axis(axis));
    let perm: Vec<usize> = std::iter::once(0).chain(others).collect();
    let order: Vec<_> = perm.iter().filter(|&&axis| shape.0[axis] != Dim::Fixed(1)).collect();
    if order.is_sorted() {
        finish_reshape(importer, call, x.value, Shape(perm.iter().map(|&axis| shape.0[axis]).collect()))?;
    } else {
        importer.finish(call, Transpose { perm }, &[x.value])?;
    }
    turn(importer, call, batch)
}

/// The image `[N, C, H, W]` and the attribute `blocksize`.
fn blocks<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(Value, [usize; 3], usize), Refusal> {
    let x = importer.operand(call, 0)?;
    let shape = importer.graph.shape(x);
    let size = attributes::int(call.node, "blocksize")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    match shape.fixed()[..] {
        [c, h, w] if shape.is_batched() && (1..=1 << 16).contains(&size) => Ok((x, [c, h, w], size)),
        _ => {
            Err(Refusal::new(Kind::Shape, format!("moves blocks of {size} in {shape}"), "[N, C, H, W] and a positive blocksize are needed"))
        }
    }
}

/// x under other axes, those permuted, and what that is reshaped to.
fn rearrange<'m>(
    importer: &mut Importer<'m>,
    call: &Call<'m>,
    x: Value,
    split: [usize; 5],
    perm: [usize; 6],
    joined: [usize; 3],
) -> Result<(), Refusal> {
    let split = importer.add(call, Reshape { shape: Shape::batched(&split) }, &[x], "split")?;
    let moved = importer.add(call, Transpose { perm: perm.to_vec() }, &[split], "moved")?;
    importer.finish(call, Reshape { shape: Shape::batched(&joined) }, &[moved])
}

pub(super) fn depth_to_space<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (x, [c, h, w], b) = blocks(importer, call)?;
    let mode = attributes::string(call.node, "mode")?.unwrap_or("DCR");
    let depth = c / (b * b);
    if depth * b * b != c {
        return Err(Refusal::new(
            Kind::Shape,
            format!("makes blocks of {b} of {c} channels"),
            "blocksize squared must divide the channels",
        ));
    }
    let joined = [depth, h * b, w * b];
    match mode {
        "DCR" => rearrange(importer, call, x, [b, b, depth, h, w], [0, 3, 4, 1, 5, 2], joined),
        "CRD" => rearrange(importer, call, x, [depth, b, b, h, w], [0, 1, 4, 2, 5, 3], joined),
        other => Err(Refusal::new(Kind::Attribute, format!("mode is '{other}'"), "DCR or CRD")),
    }
}

pub(super) fn space_to_depth<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (x, [c, h, w], b) = blocks(importer, call)?;
    if !h.is_multiple_of(b) || !w.is_multiple_of(b) {
        return Err(Refusal::new(Kind::Shape, format!("cuts {h} x {w} into blocks of {b}"), "blocksize must divide rows and columns"));
    }
    rearrange(importer, call, x, [c, h / b, b, w / b, b], [0, 3, 5, 1, 2, 4], [c * b * b, h / b, w / b])
}

fn finish_reshape<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Value, shape: Shape) -> Result<(), Refusal> {
    if *importer.graph.shape(x) == shape {
        importer.bind(call.output()?, x);
        return Ok(());
    }
    importer.finish(call, Reshape { shape }, &[x])
}
