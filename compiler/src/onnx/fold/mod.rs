//! Arithmetic on what is known at import: the chains that exporters leave around Reshape, masks and indices, and constants.
//!
//! The batch takes part as a symbol: it may be gathered, sliced, concatenated, multiplied and divided by what divides it, not more.

mod arithmetic;
mod movement;

pub(super) use movement::sliced;

use super::import::{Binding, Call, Importer, in_initializer};
use super::prepare::{FOLD_LIMIT, constant, constant_of_shape, is_generated};
use super::report::{Kind, Refusal};
use super::tensor::{self, BOOL, DOUBLE, Elements, Extent, FLOAT, Folded, INT32, INT64};
use super::{activations, attributes};
use crate::ir::{Dim, Shape};

/// Value of the node, if everything it needs is known.
pub(super) fn fold<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<Option<Folded>, Refusal> {
    let folded = match call.node.op_type.as_str() {
        "Constant" => return constant(call.node).map(Some),
        "Shape" => shape(importer, call)?,
        "Size" => shape(importer, call)?.and_then(|extents| arithmetic::product(&extents)),
        "CastLike" => cast_like(importer, call)?,
        "Cast" => match known(importer, call, 0)? {
            Some(source) => cast(source, attributes::int(call.node, "to")?.unwrap_or(0)),
            None => None,
        },
        "ConstantOfShape" => match known(importer, call, 0)? {
            Some(extents) => Some(constant_of_shape(call.node, &alike_for_all(extents), &mut { FOLD_LIMIT })?),
            None => None,
        },
        _ => match inputs(importer, call)? {
            Some(inputs) => evaluate(importer, call, &inputs)?,
            None => None,
        },
    };
    if let Some(folded) = &folded {
        importer.charge(folded.len())?;
    }
    Ok(folded)
}

/// Every input that is given, if all of them are known.
fn inputs(importer: &Importer<'_>, call: &Call<'_>) -> Result<Option<Vec<Option<Folded>>>, Refusal> {
    let mut inputs = Vec::with_capacity(call.node.input.len());
    for slot in 0..call.node.input.len() {
        let input = known(importer, call, slot)?;
        if input.is_none() && call.optional(slot).is_some() {
            return Ok(None);
        }
        inputs.push(input);
    }
    Ok(Some(inputs))
}

/// Input `slot`, if it is known and no parameter.
fn known(importer: &Importer<'_>, call: &Call<'_>, slot: usize) -> Result<Option<Folded>, Refusal> {
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
        _ => Ok(None),
    }
}

fn evaluate(importer: &Importer<'_>, call: &Call<'_>, inputs: &[Option<Folded>]) -> Result<Option<Folded>, Refusal> {
    let op = call.node.op_type.as_str();
    let Some(Some(first)) = inputs.first() else { return Ok(None) };
    let second = inputs.get(1).and_then(Option::as_ref);
    let third = inputs.get(2).and_then(Option::as_ref);
    if let Some(moved) = movement::evaluate(importer, call, inputs)? {
        return Ok(Some(moved));
    }
    Ok(match (op, second, third) {
        ("Where", Some(yes), Some(no)) => arithmetic::choose(first, yes, no)?,
        ("Not" | "Neg" | "Abs" | "Sign" | "Floor" | "Ceil" | "Round", ..) => arithmetic::unary(op, first),
        ("ReduceProd", ..) if first.dims.len() <= 1 => {
            let kept = attributes::int(call.node, "keepdims")?.unwrap_or(1) != 0;
            arithmetic::product(first).map(|product| Folded { dims: vec![1; if kept { first.dims.len() } else { 0 }], ..product })
        }
        ("ReduceMax" | "ReduceMin" | "ReduceSum" | "ReduceMean", ..) if matches!(first.elements, Elements::Floats(_)) => {
            let axes = super::shapes::axes_of(importer, call, first.dims.len())?.unwrap_or_default();
            if axes.is_empty() && attributes::int(call.node, "noop_with_empty_axes")?.unwrap_or(0) != 0 {
                return Ok(Some(first.clone()));
            }
            arithmetic::reduced(op, first, &axes, attributes::int(call.node, "keepdims")?.unwrap_or(1) != 0)
        }
        ("Mod", ..) if attributes::int(call.node, "fmod")?.unwrap_or(0) != 0 => None,
        (_, Some(second), None) => arithmetic::binary(op, first, second)?,
        (_, None, None) => activations::function_of(op)
            .and_then(|function| arithmetic::of_floats(first, |x| function.of(f64::from(x)) as f32))
            .or_else(|| matches!(op, "Max" | "Min" | "Sum").then(|| first.clone())),
        ("Max" | "Min" | "Sum", Some(_), Some(_)) => {
            let mut result = Some(first.clone());
            for next in inputs[1..].iter().flatten() {
                result = match result {
                    Some(sum) => arithmetic::binary(op, &sum, next)?,
                    None => None,
                };
            }
            result
        }
        _ => None,
    })
}

/// Extents with 1 for the examples: what is the same for all of them broadcasts.
fn alike_for_all(mut extents: Folded) -> Folded {
    if let Elements::Integers(extents) = &mut extents.elements {
        extents.iter_mut().filter(|extent| matches!(extent, Extent::Batch(_))).for_each(|extent| *extent = Extent::Known(1));
    }
    extents
}

/// Extents of a value of the graph or of an initialiser.
fn shape(importer: &Importer<'_>, call: &Call<'_>) -> Result<Option<Folded>, Refusal> {
    let known = |shape: &Shape| -> Vec<Extent> {
        let extent = |dim: &Dim| match *dim {
            Dim::Batch => Extent::Batch(1),
            Dim::Fixed(n) => Extent::Known(n as i64),
        };
        shape.0.iter().map(extent).collect()
    };
    let extents = match importer.binding(call.input(0)?) {
        Binding::Value(value) => known(importer.graph.shape(*value)),
        Binding::Initializer(index) => known(&Shape::uniform(&tensor::extents(&importer.model.initializer[*index].dims)?.0)),
        Binding::Folded(folded) => known(&Shape::uniform(&folded.dims)),
        Binding::Turned(turned) => turned.extents(&importer.graph),
        Binding::Padded(value, frame) => {
            let mut extents = known(importer.graph.shape(*value));
            for (side, axis) in [2, 3].into_iter().enumerate() {
                if let Some(Extent::Known(extent)) = extents.get_mut(axis) {
                    *extent += (frame[side] + frame[side + 2]) as i64;
                }
            }
            extents
        }
        Binding::Places(_) | Binding::Draw(_) | Binding::Sequence(_) | Binding::Refused => return Ok(None),
    };
    let rank = extents.len() as i64;
    let bound = |value: i64| (if value < 0 { value.saturating_add(rank) } else { value }).clamp(0, rank) as usize;
    let start = bound(attributes::int(call.node, "start")?.unwrap_or(0));
    let end = bound(attributes::int(call.node, "end")?.unwrap_or(rank));
    Ok(Some(Folded::list(extents.get(start..end.max(start)).unwrap_or_default().to_vec())))
}

/// To another type of number; `None` where that is neither float, integer nor bool.
fn cast(source: Folded, to: i64) -> Option<Folded> {
    let to_type = i32::try_from(to).ok()?;
    let elements = match (source.elements, to_type) {
        (Elements::Floats(values), FLOAT | DOUBLE) => Elements::Floats(values),
        (Elements::Floats(values), INT32 | INT64) => Elements::Integers(values.into_iter().map(|v| Extent::Known(v as i64)).collect()),
        (Elements::Floats(values), BOOL) => Elements::Integers(values.into_iter().map(|v| Extent::Known(i64::from(v != 0.0))).collect()),
        (Elements::Integers(values), FLOAT | DOUBLE) => {
            let known: Option<Vec<_>> = values.iter().map(|e| if let Extent::Known(n) = e { Some(*n as f32) } else { None }).collect();
            // The batch as a float: divided, rounded and cast back, it is what it would be as an integer.
            known.map_or(Elements::Integers(values), Elements::Floats)
        }
        (Elements::Integers(values), INT32 | INT64) => Elements::Integers(values),
        (Elements::Integers(values), BOOL) => {
            Elements::Integers(values.into_iter().map(|e| Extent::Known(i64::from(e != Extent::Known(0)))).collect())
        }
        _ => return None,
    };
    Some(Folded { dims: source.dims, elements })
}

/// To the type of the second input: float, if that is computed.
fn cast_like(importer: &Importer<'_>, call: &Call<'_>) -> Result<Option<Folded>, Refusal> {
    let Some(source) = known(importer, call, 0)? else { return Ok(None) };
    let floats = match importer.binding(call.input(1)?) {
        Binding::Folded(like) => matches!(like.elements, Elements::Floats(_)),
        Binding::Initializer(index) => matches!(importer.model.initializer[*index].data_type, FLOAT | DOUBLE),
        Binding::Value(_) | Binding::Padded(..) | Binding::Turned(_) => true,
        Binding::Places(_) | Binding::Draw(_) | Binding::Sequence(_) | Binding::Refused => return Ok(None),
    };
    Ok(cast(source, i64::from(if floats { FLOAT } else { INT64 })))
}

/// Refuses a result that a small file must not unfold into.
fn within_limit(elements: usize) -> Result<usize, Refusal> {
    if elements <= FOLD_LIMIT {
        return Ok(elements);
    }
    Err(Refusal::new(Kind::Size, format!("makes a constant of {elements} elements"), "store it as an initialiser"))
}
