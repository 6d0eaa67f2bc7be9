//! Operations on each element.

use super::import::{Call, Importer};
use super::report::{Kind, Refusal};
use super::tensor::{Elements, Folded};
use super::{activations, attributes};
use crate::ir::Value;
use crate::op::{Add, Clip, Constant, Div, Max, Min, Mul, Op, Relu, Unary};

pub(super) fn add<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (a, b) = (importer.operand(call, 0)?, importer.operand(call, 1)?);
    importer.finish(call, Add {}, &[a, b])
}

pub(super) fn mul<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (a, b) = (importer.operand(call, 0)?, importer.operand(call, 1)?);
    match activations::product(importer, a, b) {
        Some((function, x)) => importer.finish(call, Unary { function }, &[x]),
        None => importer.finish(call, Mul {}, &[a, b]),
    }
}

pub(super) fn sum<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    all_operands(importer, call, &Op::from(Add {}))
}

/// `op` of the first two operands, of that and the third, and so on.
fn all_operands<'m>(importer: &mut Importer<'m>, call: &Call<'m>, op: &Op) -> Result<(), Refusal> {
    let mut result = importer.operand(call, 0)?;
    let count = call.node.input.len();
    for slot in 1..count {
        let next = importer.operand(call, slot)?;
        if slot + 1 == count {
            return importer.finish(call, op.clone(), &[result, next]);
        }
        result = importer.add(call, op.clone(), &[result, next], "partial")?;
    }
    importer.bind(call.output()?, result);
    Ok(())
}

/// `f` of each element of a constant; `None` if `value` is none.
fn map_constant<'m>(
    importer: &mut Importer<'m>,
    call: &Call<'m>,
    value: Value,
    suffix: &str,
    f: impl Fn(f32) -> f32,
) -> Result<Option<Value>, Refusal> {
    let Op::Constant(Constant { value }) = &importer.graph.node(value.node).op else { return Ok(None) };
    let values = value.values.iter().map(|&v| f(v)).collect();
    let mapped = Folded { dims: value.dims.clone(), elements: Elements::Floats(values) };
    let name = format!("{}.{suffix}", call.output()?);
    importer.new_constant(&name, mapped).map(Some)
}

fn times<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Value, factor: f32, suffix: &str) -> Result<Value, Refusal> {
    let factor = importer.new_constant(&format!("{}.{suffix}_factor", call.output()?), Folded::scalar(factor))?;
    importer.add(call, Mul {}, &[x, factor], suffix)
}

pub(super) fn neg<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let minus = importer.new_constant(&format!("{}.factor", call.output()?), Folded::scalar(-1.0))?;
    importer.finish(call, Mul {}, &[x, minus])
}

pub(super) fn sub<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (a, b) = (importer.operand(call, 0)?, importer.operand(call, 1)?);
    let negative = match map_constant(importer, call, b, "subtrahend", |v| -v)? {
        Some(constant) => constant,
        None => times(importer, call, b, -1.0, "subtrahend")?,
    };
    importer.finish(call, Add {}, &[a, negative])
}

pub(super) fn div<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (a, b) = (importer.operand(call, 0)?, importer.operand(call, 1)?);
    if let Op::Constant(Constant { value }) = &importer.graph.node(b.node).op
        && value.values.contains(&0.0)
    {
        return Err(Refusal::new(Kind::Shape, "divides by zero", "the constant divisor has a zero in it"));
    }
    match map_constant(importer, call, b, "reciprocal", |v| 1.0 / v)? {
        Some(reciprocal) => importer.finish(call, Mul {}, &[a, reciprocal]),
        None => importer.finish(call, Div {}, &[a, b]),
    }
}

pub(super) fn relu<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    importer.finish(call, Relu {}, &[x])
}

pub(super) fn clip<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let bound = |name: &str, slot: usize| match attributes::float(call.node, name)? {
        Some(bound) => Ok(Some(bound)),
        None => match importer.setting(call, slot)? {
            Some(folded) => folded.single().map(Some).ok_or_else(|| Refusal::unsupported("its bound is no scalar", "use one number")),
            None => Ok(None),
        },
    };
    let (low, high) = (bound("min", 1)?.unwrap_or(f32::NEG_INFINITY), bound("max", 2)?.unwrap_or(f32::INFINITY));
    finish_clip(importer, call, x, low, high)
}

fn finish_clip<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Value, low: f32, high: f32) -> Result<(), Refusal> {
    if low > high || low.is_nan() || high.is_nan() {
        return Err(Refusal::new(Kind::Attribute, format!("clips to {low}..{high}"), "the lower bound must not exceed the upper one"));
    }
    importer.finish(call, Clip { low, high }, &[x])
}

pub(super) fn max<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    match bounded(importer, call)? {
        Some((x, bound)) => finish_clip(importer, call, x, bound, f32::INFINITY),
        None => all_operands(importer, call, &Op::from(Max {})),
    }
}

pub(super) fn min<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    match bounded(importer, call)? {
        Some((x, bound)) => finish_clip(importer, call, x, f32::NEG_INFINITY, bound),
        None => all_operands(importer, call, &Op::from(Min {})),
    }
}

/// The operand of Min or Max that varies, and the constant number that bounds it; `None` if that is not what they are.
fn bounded<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<Option<(Value, f32)>, Refusal> {
    for slot in 0..2 {
        let constant = importer.setting(call, 1 - slot).ok().flatten().and_then(|folded| folded.single());
        if let (Some(bound), 2) = (constant, call.node.input.len()) {
            return Ok(Some((importer.operand(call, slot)?, bound)));
        }
    }
    Ok(None)
}

pub(super) fn leaky_relu<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let slope = attributes::float(call.node, "alpha")?.unwrap_or(0.01);
    let x = importer.operand(call, 0)?;
    let slope = importer.new_constant(&format!("{}.slope", call.output()?), Folded::scalar(slope))?;
    finish_leaky(importer, call, x, slope)
}

pub(super) fn p_relu<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (x, slope) = (importer.operand(call, 0)?, importer.operand(call, 1)?);
    finish_leaky(importer, call, x, slope)
}

/// max(x, 0) + slope * min(x, 0)
fn finish_leaky<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Value, slope: Value) -> Result<(), Refusal> {
    let positive = importer.add(call, Relu {}, &[x], "positive")?;
    let negative = importer.add(call, Clip { low: f32::NEG_INFINITY, high: 0.0 }, &[x], "negative")?;
    let leak = importer.add(call, Mul {}, &[negative, slope], "leak")?;
    importer.finish(call, Add {}, &[positive, leak])
}

pub(super) fn hard_sigmoid<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (alpha, beta) = (attributes::float(call.node, "alpha")?.unwrap_or(0.2), attributes::float(call.node, "beta")?.unwrap_or(0.5));
    let x = importer.operand(call, 0)?;
    let line = line(importer, call, x, alpha, beta)?;
    importer.finish(call, Clip { low: 0.0, high: 1.0 }, &[line])
}

pub(super) fn hard_swish<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let line = line(importer, call, x, 1.0 / 6.0, 0.5)?;
    let gate = importer.add(call, Clip { low: 0.0, high: 1.0 }, &[line], "gate")?;
    importer.finish(call, Mul {}, &[x, gate])
}

/// slope * x + offset
fn line<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Value, slope: f32, offset: f32) -> Result<Value, Refusal> {
    let scaled = times(importer, call, x, slope, "scaled")?;
    let offset = importer.new_constant(&format!("{}.offset", call.output()?), Folded::scalar(offset))?;
    importer.add(call, Add {}, &[scaled, offset], "line")
}
