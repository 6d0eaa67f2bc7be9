//! Functions of each element: ONNX's own operations, and the forms in which exporters write those that older operator sets lack.

use super::attributes;
use super::import::{Call, Importer};
use super::report::{Kind, Refusal};
use super::tensor::Folded;
use crate::ir::Value;
use crate::op::{Add, Constant, Div, Function, Mul, Op, Unary};
use std::f32::consts::FRAC_1_SQRT_2;

/// Largest exponent that becomes products and roots.
const LARGEST_EXPONENT: f32 = 8.0;

fn finish<'m>(importer: &mut Importer<'m>, call: &Call<'m>, function: Function) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    importer.finish(call, Unary { function }, &[x])
}

/// The function of an operation without attributes.
pub(super) fn function_of(op: &str) -> Option<Function> {
    Some(match op {
        "Abs" => Function::Abs,
        "Atan" => Function::Atan,
        "Cos" => Function::Cos,
        "Erf" => Function::Erf,
        "Exp" => Function::Exp,
        "Log" => Function::Log,
        "Mish" => Function::Mish,
        "Reciprocal" => Function::Reciprocal,
        "Sigmoid" => Function::Sigmoid,
        "Sin" => Function::Sin,
        "Softplus" => Function::Softplus,
        "Sqrt" => Function::Sqrt,
        "Tanh" => Function::Tanh,
        _ => return None,
    })
}

pub(super) fn plain<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    match function_of(&call.node.op_type) {
        Some(function) => finish(importer, call, function),
        None => Err(Refusal::unsupported("is no function of one element", "`mestc ops` lists what can be trained")),
    }
}

pub(super) fn elu<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let alpha = attributes::float(call.node, "alpha")?.unwrap_or(1.0);
    finish(importer, call, Function::Elu { alpha })
}

/// gamma * elu(x)
pub(super) fn selu<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let alpha = attributes::float(call.node, "alpha")?.unwrap_or(1.673_263_2);
    let gamma = attributes::float(call.node, "gamma")?.unwrap_or(1.050_701);
    let x = importer.operand(call, 0)?;
    let elu = importer.add(call, Unary { function: Function::Elu { alpha } }, &[x], "elu")?;
    let gamma = importer.new_constant(&format!("{}.gamma", call.output()?), Folded::scalar(gamma))?;
    importer.finish(call, Mul {}, &[elu, gamma])
}

/// alpha * elu(x / alpha)
pub(super) fn celu<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let alpha = attributes::float(call.node, "alpha")?.unwrap_or(1.0);
    if alpha <= 0.0 {
        return Err(Refusal::new(Kind::Attribute, format!("alpha is {alpha}"), "it must be positive"));
    }
    if alpha == 1.0 {
        return finish(importer, call, Function::Elu { alpha });
    }
    let x = importer.operand(call, 0)?;
    let share = importer.new_constant(&format!("{}.share", call.output()?), Folded::scalar(1.0 / alpha))?;
    let scaled = importer.add(call, Mul {}, &[x, share], "scaled")?;
    let elu = importer.add(call, Unary { function: Function::Elu { alpha: 1.0 } }, &[scaled], "elu")?;
    let alpha = importer.new_constant(&format!("{}.alpha", call.output()?), Folded::scalar(alpha))?;
    importer.finish(call, Mul {}, &[elu, alpha])
}

/// x / (1 + |x|)
pub(super) fn softsign<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let size = importer.add(call, Unary { function: Function::Abs }, &[x], "size")?;
    let one = importer.new_constant(&format!("{}.one", call.output()?), Folded::scalar(1.0))?;
    let sum = importer.add(call, Add {}, &[size, one], "sum")?;
    importer.finish(call, Div {}, &[x, sum])
}

pub(super) fn gelu<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    match attributes::string(call.node, "approximate")?.unwrap_or("none") {
        "none" => finish(importer, call, Function::Gelu),
        "tanh" => finish(importer, call, Function::GeluTanh),
        other => Err(Refusal::new(Kind::Attribute, format!("approximate is '{other}'"), "none or tanh")),
    }
}

/// x * sigmoid(alpha * x)
pub(super) fn swish<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let alpha = attributes::float(call.node, "alpha")?.unwrap_or(1.0);
    if alpha == 1.0 {
        return finish(importer, call, Function::Silu);
    }
    let x = importer.operand(call, 0)?;
    let alpha = importer.new_constant(&format!("{}.alpha", call.output()?), Folded::scalar(alpha))?;
    let scaled = importer.add(call, Mul {}, &[x, alpha], "scaled")?;
    let gate = importer.add(call, Unary { function: Function::Sigmoid }, &[scaled], "gate")?;
    importer.finish(call, Mul {}, &[x, gate])
}

/// Powers: products, a root and a reciprocal where the exponent is a constant multiple of 1/2, else exp(exponent * log x), for x above 0.
pub(super) fn pow<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let exponent = importer.setting(call, 1).ok().flatten().and_then(|folded| folded.single());
    let halves = exponent.map_or(0.0, |exponent| exponent.abs() * 2.0);
    let (Some(exponent), true) = (exponent, halves.fract() == 0.0 && (1.0..=2.0 * LARGEST_EXPONENT).contains(&halves)) else {
        let (x, exponent) = (importer.operand(call, 0)?, importer.number_operand(call, 1)?);
        let logarithm = importer.add(call, Unary { function: Function::Log }, &[x], "logarithm")?;
        let product = importer.add(call, Mul {}, &[exponent, logarithm], "product")?;
        return importer.finish(call, Unary { function: Function::Exp }, &[product]);
    };
    let x = importer.operand(call, 0)?;
    let halves = halves as usize;
    let mut factors = vec![x; halves / 2];
    if halves % 2 == 1 {
        factors.push(if halves == 1 && exponent > 0.0 {
            return importer.finish(call, Unary { function: Function::Sqrt }, &[x]);
        } else {
            importer.add(call, Unary { function: Function::Sqrt }, &[x], "root")?
        });
    }
    let mut factors = factors.into_iter();
    let Some(mut product) = factors.next() else { return Ok(()) };
    let mut rest: Vec<Value> = factors.collect();
    let last = if exponent > 0.0 { rest.pop() } else { None };
    for factor in rest {
        product = importer.add(call, Mul {}, &[product, factor], "power")?;
    }
    match last {
        Some(factor) => importer.finish(call, Mul {}, &[product, factor]),
        None if exponent < 0.0 => importer.finish(call, Unary { function: Function::Reciprocal }, &[product]),
        None => {
            importer.bind(call.output()?, product);
            Ok(())
        }
    }
}

/// The function that the product of `a` and `b` is, and of what: silu where exporters write x * Sigmoid(x), GELU where they write
/// x / 2 * (1 + Erf(x / sqrt 2)) in any order.
pub(super) fn product(importer: &Importer<'_>, a: Value, b: Value) -> Option<(Function, Value)> {
    let gate = |x: Value, gate: Value| (computed(importer, gate, Function::Sigmoid) == Some(x)).then_some((Function::Silu, x));
    gate(a, b).or_else(|| gate(b, a)).or_else(|| gelu_product(importer, a, b))
}

fn gelu_product(importer: &Importer<'_>, a: Value, b: Value) -> Option<(Function, Value)> {
    let (mut scale, mut factors, mut open) = (1.0, Vec::new(), vec![a, b]);
    while let Some(value) = open.pop() {
        match (scalar(importer, value), &importer.graph.node(value.node).op) {
            (Some(constant), _) => scale *= constant,
            (None, Op::Mul(_)) if factors.len() + open.len() < 4 => open.extend(importer.graph.inputs(value.node)),
            _ => factors.push(value),
        }
    }
    let [p, q] = factors[..] else { return None };
    let of = |x: Value, share: Value| {
        let Op::Add(_) = importer.graph.node(share.node).op else { return None };
        let (erf, one) = split(importer, share)?;
        let argument = computed(importer, erf, Function::Erf)?;
        let Op::Mul(_) = importer.graph.node(argument.node).op else { return None };
        let (inner, factor) = split(importer, argument)?;
        let near = |a: f32, b: f32| (a - b).abs() <= 1e-6;
        (inner == x && near(one, 1.0) && near(factor, FRAC_1_SQRT_2) && near(scale, 0.5)).then_some((Function::Gelu, x))
    };
    of(p, q).or_else(|| of(q, p))
}

/// What `value` is `function` of.
fn computed(importer: &Importer<'_>, value: Value, function: Function) -> Option<Value> {
    match &importer.graph.node(value.node).op {
        Op::Unary(unary) if unary.function == function => importer.graph.inputs(value.node).first().copied(),
        _ => None,
    }
}

/// The two operands of a node of which one is a constant number.
fn split(importer: &Importer<'_>, value: Value) -> Option<(Value, f32)> {
    let inputs = importer.graph.inputs(value.node);
    let &[a, b] = &inputs[..] else { return None };
    scalar(importer, b).map(|number| (a, number)).or_else(|| scalar(importer, a).map(|number| (b, number)))
}

fn scalar(importer: &Importer<'_>, value: Value) -> Option<f32> {
    match &importer.graph.node(value.node).op {
        Op::Constant(Constant { value }) if value.values.len() == 1 => Some(value.values[0]),
        _ => None,
    }
}
