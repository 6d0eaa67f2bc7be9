//! Operations that only rearrange: on activations they keep the batch first, whatever axis ONNX has it on; on parameters they are a view.

use super::attributes;
use super::frame::{Merged, Turned, arrange};
use super::import::{Binding, Call, Importer};
use super::logic::is_truth;
use super::report::{Kind, Refusal};
use super::tensor::{BOOL, DOUBLE, Elements, Extent, FLOAT, INT32, INT64, type_name};
use crate::ir::{Dim, Shape, Value};
use crate::op::{Op, Reshape, Transpose};

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
    let exact = to.is_none_or(|to| to == i64::from(FLOAT) || to == i64::from(DOUBLE)) || is_whole(importer, call, to)?;
    if exact {
        return identity(importer, call);
    }
    let name = type_name(i32::try_from(to.unwrap_or_default()).unwrap_or_default());
    Err(Refusal::new(Kind::ElementType, format!("casts activations to {name}"), "only float32 and float64 keep them as they are"))
}

/// Whether tokens, the input itself, are cast to another type of whole numbers, or truth values to any type.
fn is_whole<'m>(importer: &mut Importer<'m>, call: &Call<'m>, to: Option<i64>) -> Result<bool, Refusal> {
    let x = importer.turned_operand(call, 0)?.value;
    let whole = to.is_some_and(|to| to == i64::from(INT64) || to == i64::from(INT32));
    let truth = to == Some(i64::from(BOOL));
    Ok(match &importer.graph.node(x.node).op {
        Op::Input(_) => whole && importer.integer_input,
        _ => (whole || truth) && is_truth(importer, x),
    })
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
    let x = importer.turned_operand(call, 0)?;
    let from = x.extents(&importer.graph);
    let axis = attributes::int(call.node, "axis")?.unwrap_or(1);
    let axis = if axis == from.len() as i64 { from.len() } else { normalize_axis(axis, from.len())? };
    let product = |extents: &[Extent]| {
        extents.iter().fold(Extent::Known(1), |product, &extent| match (product, extent) {
            (Extent::Known(a), Extent::Known(b)) => Extent::Known(a.saturating_mul(b)),
            (Extent::Batch(a), Extent::Known(b)) | (Extent::Known(a), Extent::Batch(b)) => Extent::Batch(a.saturating_mul(b)),
            (batch, Extent::Batch(_)) => batch,
        })
    };
    let (before, behind) = from.split_at(axis);
    let target = [product(before), product(behind)];
    finish_as(importer, call, x, &target, false)
}

pub(super) fn reshape<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.turned_operand(call, 0)?;
    let target: Vec<Extent> = match attributes::ints(call.node, "shape")? {
        Some(target) => target.iter().map(|&t| Extent::Known(t)).collect(),
        None => match importer.setting(call, 1)?.map(|folded| folded.elements) {
            Some(Elements::Integers(target)) => target,
            _ => return Err(Refusal::unsupported("its target shape is not known at import", "use constants and the extents of inputs")),
        },
    };
    let keep_zero = attributes::int(call.node, "allowzero")?.unwrap_or(0) != 0;
    finish_as(importer, call, x, &target, keep_zero)
}

/// Finishes with x reshaped to `target`, in which 0 and -1 mean what they mean to ONNX's Reshape.
fn finish_as<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Turned, target: &[Extent], keep_zero: bool) -> Result<(), Refusal> {
    let shape = importer.graph.shape(x.value).clone();
    if !shape.is_batched() {
        let resolved = resolve_uniform(&shape.fixed(), target, keep_zero)?;
        return finish_reshape(importer, call, x.value, resolved);
    }
    let from = x.extents(&importer.graph);
    let outer = x.outer(&importer.graph);
    let resolved = resolve_batched(&from, outer, target, keep_zero, importer.fixed_batch)?;
    if importer.fixed_batch.is_some() && call.node.op_type == "Reshape" {
        let stays = |axis: usize| resolved[axis] == Extent::Batch(1) && from.get(axis) == Some(&Extent::Batch(1));
        let spelled = |(axis, extent): (usize, &Extent)| match *extent {
            Extent::Known(n) => n,
            Extent::Batch(_) if stays(axis) => 0,
            Extent::Batch(_) => -1,
        };
        importer.targets.push((call.index, resolved.iter().enumerate().map(spelled).collect()));
    }
    finish_turned(importer, call, x, &resolved)
}

fn mismatch(from: &str, target: &[Extent]) -> Refusal {
    Refusal::new(Kind::Shape, format!("{from} cannot be reshaped to {}", spell(target)), "the numbers of elements must agree")
}

fn spell(target: &[Extent]) -> String {
    let word = |extent: &Extent| match *extent {
        Extent::Known(n) => n.to_string(),
        Extent::Batch(1) => "N".to_owned(),
        Extent::Batch(m) => format!("{m} N"),
    };
    format!("[{}]", target.iter().map(word).collect::<Vec<_>>().join(", "))
}

/// A target shape for `dims`, 0 and -1 resolved.
fn resolve_uniform(dims: &[usize], target: &[Extent], keep_zero: bool) -> Result<Shape, Refusal> {
    let fail = || mismatch(&Shape::uniform(dims).to_string(), target);
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

/// As [`resolve_uniform`] for batched extents: the batch stays where it is in row-major order, alone or merged with what follows it.
///
/// `outer` elements of an example come before the batch.
fn resolve_batched(
    from: &[Extent],
    outer: i64,
    target: &[Extent],
    keep_zero: bool,
    fixed_batch: Option<usize>,
) -> Result<Vec<Extent>, Refusal> {
    let moves = || {
        let why = format!("reshapes {} to {}, which moves elements between examples", spell(from), spell(target));
        Refusal::unsupported(why, format!("{KEEP_FIRST}: start the target with 0 or -1"))
    };
    let copied = |(axis, extent): (usize, &Extent)| match extent {
        Extent::Known(0) if !keep_zero => from.get(axis).copied().ok_or_else(|| mismatch(&spell(from), target)),
        other => Ok(*other),
    };
    let mut to = target.iter().enumerate().map(copied).collect::<Result<Vec<_>, _>>()?;
    let is_batch = |extent: &Extent| matches!(extent, Extent::Batch(_));
    if !to.iter().any(is_batch)
        && let Some(batch) = fixed_batch.and_then(|batch| i64::try_from(batch).ok())
    {
        // A file for one batch spells it as a number.
        let spelled = |axis: &usize| match to[*axis] {
            Extent::Known(n) if n > 0 && n % batch == 0 => {
                known_product(&to[..*axis]).is_some_and(|before| outer % before == 0 && n / batch % (outer / before) == 0)
            }
            Extent::Known(_) => false,
            Extent::Batch(_) => false,
        };
        if let (Some(axis), false) = ((0..to.len()).find(spelled), to.first() == Some(&Extent::Known(-1)))
            && let Extent::Known(n) = to[axis]
        {
            to[axis] = Extent::Batch(n / batch);
        }
    }
    let free: Vec<usize> = (0..to.len()).filter(|&axis| to[axis] == Extent::Known(-1)).collect();
    let elements = known_product(from);
    let rest = known_product(to.iter().filter(|extent| **extent != Extent::Known(-1)));
    match (&free[..], elements, rest) {
        ([], Some(elements), Some(rest)) if elements == rest => {}
        (&[axis], Some(elements), Some(rest)) if rest > 0 && elements % rest == 0 => {
            let missing = elements / rest;
            to[axis] = if to.iter().any(is_batch) { Extent::Known(missing) } else { Extent::Batch(missing) };
        }
        (&[_], Some(_), Some(_)) if !to.iter().any(is_batch) => return Err(moves()),
        _ if !to.iter().any(is_batch) => return Err(moves()),
        _ => return Err(mismatch(&spell(from), target)),
    }
    if arrange(&to, outer).is_some() { Ok(to) } else { Err(moves()) }
}

/// The product of extents within one example; `None` where one is not positive, or the product is too large.
fn known_product<'e>(extents: impl IntoIterator<Item = &'e Extent>) -> Option<i64> {
    extents.into_iter().try_fold(1i64, |product, extent| {
        let (Extent::Known(n) | Extent::Batch(n)) = *extent;
        if n > 0 { product.checked_mul(n) } else { None }
    })
}

pub(super) fn squeeze<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.turned_operand(call, 0)?;
    let extents = x.extents(&importer.graph);
    let axes = match axes_of(importer, call, extents.len())? {
        Some(axes) => axes,
        None if importer.fixed_batch == Some(1) && importer.graph.shape(x.value).is_batched() => {
            return Err(Refusal::unsupported(
                "squeezes every axis of extent 1, the batch too",
                "name its axes, or export with a symbolic batch",
            ));
        }
        None => (0..extents.len()).filter(|&a| extents[a] == Extent::Known(1)).collect(),
    };
    if let Some(&axis) = axes.iter().find(|&&a| extents[a] != Extent::Known(1)) {
        let why = format!("squeezes axis {axis} of {}", spell(&extents));
        return Err(Refusal::new(Kind::Shape, why, "only axes of extent 1 can go; the examples must stay apart"));
    }
    let kept: Vec<_> = (0..extents.len()).filter(|a| !axes.contains(a)).map(|a| extents[a]).collect();
    finish_turned(importer, call, x, &kept)
}

pub(super) fn unsqueeze<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.turned_operand(call, 0)?;
    let extents = x.extents(&importer.graph);
    let axes = unsqueezed_axes(importer, call)?;
    let rank = extents.len() + axes.len();
    let axes = axes.into_iter().map(|axis| normalize_axis(axis, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut old = extents.iter().copied();
    let axis = |a: usize| if axes.contains(&a) { Extent::Known(1) } else { old.next().unwrap_or(Extent::Known(1)) };
    let resolved: Vec<_> = (0..rank).map(axis).collect();
    finish_turned(importer, call, x, &resolved)
}

/// The axes that Unsqueeze inserts, as the file counts them.
pub(super) fn unsqueezed_axes(importer: &Importer<'_>, call: &Call<'_>) -> Result<Vec<i64>, Refusal> {
    if let Some(axes) = attributes::ints(call.node, "axes")? {
        return Ok(axes.to_vec());
    }
    Ok(importer.setting(call, 1)?.and_then(|axes| axes.integers()).unwrap_or_default())
}

/// A reshape to what ONNX calls `extents`; the graph's value has the examples first and by themselves.
fn finish_turned<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Turned, extents: &[Extent]) -> Result<(), Refusal> {
    if !importer.graph.shape(x.value).is_batched() {
        let dim = |extent: &Extent| match *extent {
            Extent::Known(n) => Dim::Fixed(usize::try_from(n).unwrap_or(0)),
            Extent::Batch(_) => Dim::Batch,
        };
        return finish_reshape(importer, call, x.value, Shape(extents.iter().map(dim).collect()));
    }
    let Some((shape, batch, merged)) = arrange(extents, x.outer(&importer.graph)) else {
        return Err(Refusal::unsupported(format!("makes {}", spell(extents)), KEEP_FIRST));
    };
    finish_reshape(importer, call, x.value, shape)?;
    turn(importer, call, batch, merged)
}

/// Notes that ONNX has the examples of the node's output along `batch`.
fn turn<'m>(importer: &mut Importer<'m>, call: &Call<'m>, batch: usize, merged: Merged) -> Result<(), Refusal> {
    let name = call.output()?;
    if let &Binding::Value(value) = importer.binding(name) {
        importer.bind_turned(name, Turned { value, batch, merged });
    }
    Ok(())
}

pub(super) fn transpose<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.turned_operand(call, 0)?;
    let shape = importer.graph.shape(x.value).clone();
    let rank = x.rank(&importer.graph);
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
    let others = perm.iter().flat_map(|&axis| match axis == x.batch {
        true => x.batch + 1..x.batch + 1 + x.merged.axes(),
        false => x.axis(axis)..x.axis(axis) + 1,
    });
    let perm: Vec<usize> = std::iter::once(0).chain(others).collect();
    let order: Vec<_> = perm.iter().filter(|&&axis| shape.0[axis] != Dim::Fixed(1)).collect();
    if order.is_sorted() {
        finish_reshape(importer, call, x.value, Shape(perm.iter().map(|&axis| shape.0[axis]).collect()))?;
    } else {
        importer.finish(call, Transpose { perm }, &[x.value])?;
    }
    turn(importer, call, batch, x.merged)
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
    let perm = match attributes::string(call.node, "mode")?.unwrap_or("DCR") {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        other => return Err(Refusal::new(Kind::Attribute, format!("mode is '{other}'"), "DCR or CRD")),
    };
    rearrange(importer, call, x, [c, h / b, b, w / b, b], perm, [c * b * b, h / b, w / b])
}

fn finish_reshape<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Value, shape: Shape) -> Result<(), Refusal> {
    if *importer.graph.shape(x) == shape {
        importer.bind(call.output()?, x);
        return Ok(());
    }
    importer.finish(call, Reshape { shape }, &[x])
}
