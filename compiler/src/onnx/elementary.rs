//! Elementary functions that are made of others: trigonometric, hyperbolic, their inverses, and what is piecewise linear.

use super::attributes;
use super::import::{Call, Importer};
use super::report::{Kind, Refusal};
use super::tensor::Folded;
use crate::ir::Value;
use crate::op::{Add, Div, Function, Mul, Op, SelectLess, Unary};
use std::f32::consts::FRAC_PI_2;

/// Writes nodes under the output's name.
struct Writer<'i, 'm> {
    importer: &'i mut Importer<'m>,
    call: &'i Call<'m>,
}

impl Writer<'_, '_> {
    fn constant(&mut self, value: f32) -> Result<Value, Refusal> {
        let name = format!("{}.number", self.call.output()?);
        self.importer.new_constant(&name, Folded::scalar(value))
    }

    fn add_op(&mut self, op: impl Into<Op>, inputs: &[Value]) -> Result<Value, Refusal> {
        self.importer.add(self.call, op, inputs, "part")
    }

    fn function(&mut self, function: Function, x: Value) -> Result<Value, Refusal> {
        self.add_op(Unary { function }, &[x])
    }

    fn mul(&mut self, a: Value, b: Value) -> Result<Value, Refusal> {
        self.add_op(Mul {}, &[a, b])
    }

    fn add(&mut self, a: Value, b: Value) -> Result<Value, Refusal> {
        self.add_op(Add {}, &[a, b])
    }

    fn times(&mut self, x: Value, factor: f32) -> Result<Value, Refusal> {
        let factor = self.constant(factor)?;
        self.mul(x, factor)
    }

    fn plus(&mut self, x: Value, term: f32) -> Result<Value, Refusal> {
        let term = self.constant(term)?;
        self.add(x, term)
    }

    /// 1, 0 or -1.
    fn sign(&mut self, x: Value) -> Result<Value, Refusal> {
        let [least, zero, most] = [self.constant(-1.0)?, self.constant(0.0)?, self.constant(1.0)?];
        let positive = self.add_op(SelectLess {}, &[zero, x, most, zero])?;
        self.add_op(SelectLess {}, &[x, zero, least, positive])
    }

    /// The root of factor * x^2 + term.
    fn root(&mut self, x: Value, factor: f32, term: f32) -> Result<Value, Refusal> {
        let square = self.mul(x, x)?;
        let scaled = if factor == 1.0 { square } else { self.times(square, factor)? };
        let sum = self.plus(scaled, term)?;
        self.function(Function::Sqrt, sum)
    }

    /// e^x and e^-x.
    fn exponentials(&mut self, x: Value) -> Result<[Value; 2], Refusal> {
        let minus = self.times(x, -1.0)?;
        Ok([self.function(Function::Exp, x)?, self.function(Function::Exp, minus)?])
    }

    /// The last operation of `op` of x.
    fn of(&mut self, op: &str, x: Value) -> Result<(Op, Vec<Value>), Refusal> {
        Ok(match op {
            "Tan" => (Div {}.into(), vec![self.function(Function::Sin, x)?, self.function(Function::Cos, x)?]),
            "Asin" | "Acos" => {
                let root = self.root(x, -1.0, 1.0)?;
                let ratio = self.add_op(Div {}, &[x, root])?;
                if op == "Asin" {
                    return Ok((Unary { function: Function::Atan }.into(), vec![ratio]));
                }
                let sine = self.function(Function::Atan, ratio)?;
                (Add {}.into(), vec![self.times(sine, -1.0)?, self.constant(FRAC_PI_2)?])
            }
            "Sinh" | "Cosh" => {
                let [up, down] = self.exponentials(x)?;
                let down = if op == "Cosh" { down } else { self.times(down, -1.0)? };
                (Mul {}.into(), vec![self.add(up, down)?, self.constant(0.5)?])
            }
            "Asinh" => {
                // Of |x|, where nothing cancels.
                let size = self.function(Function::Abs, x)?;
                let root = self.root(x, 1.0, 1.0)?;
                let sum = self.add(size, root)?;
                (Mul {}.into(), vec![self.function(Function::Log, sum)?, self.sign(x)?])
            }
            "Acosh" => {
                let root = self.root(x, 1.0, -1.0)?;
                (Unary { function: Function::Log }.into(), vec![self.add(x, root)?])
            }
            "Atanh" => {
                let minus = self.times(x, -1.0)?;
                let (above, below) = (self.plus(x, 1.0)?, self.plus(minus, 1.0)?);
                let ratio = self.add_op(Div {}, &[above, below])?;
                (Mul {}.into(), vec![self.function(Function::Log, ratio)?, self.constant(0.5)?])
            }
            _ => return Err(Refusal::unsupported("is no function of one element", "`mestc ops` lists what can be trained")),
        })
    }
}

/// Tan, Asin, Acos, Sinh, Cosh, Asinh, Acosh, Atanh.
pub(super) fn convert<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let (op, operands) = Writer { importer, call }.of(&call.node.op_type, x)?;
    importer.finish(call, op, &operands)
}

/// 1, 0 or -1: no gradient flows.
pub(super) fn sign<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let mut writer = Writer { importer, call };
    let [least, zero, most] = [writer.constant(-1.0)?, writer.constant(0.0)?, writer.constant(1.0)?];
    let positive = writer.add_op(SelectLess {}, &[zero, x, most, zero])?;
    importer.finish(call, SelectLess {}, &[x, zero, least, positive])
}

/// x where it is above alpha, else 0.
pub(super) fn thresholded_relu<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let alpha = attributes::float(call.node, "alpha")?.unwrap_or(1.0);
    let x = importer.operand(call, 0)?;
    let mut writer = Writer { importer, call };
    let (alpha, zero) = (writer.constant(alpha)?, writer.constant(0.0)?);
    importer.finish(call, SelectLess {}, &[alpha, x, x, zero])
}

/// x + bias below -lambd, x - bias above lambd, else 0.
pub(super) fn shrink<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let lambda = attributes::float(call.node, "lambd")?.unwrap_or(0.5);
    let bias = attributes::float(call.node, "bias")?.unwrap_or(0.0);
    if lambda < 0.0 {
        return Err(Refusal::new(Kind::Attribute, format!("lambd is {lambda}"), "it must not be negative"));
    }
    let x = importer.operand(call, 0)?;
    let mut writer = Writer { importer, call };
    let (low, high, zero) = (writer.constant(-lambda)?, writer.constant(lambda)?, writer.constant(0.0)?);
    let (raised, lowered) = (writer.plus(x, bias)?, writer.plus(x, -bias)?);
    let above = writer.add_op(SelectLess {}, &[high, x, lowered, zero])?;
    importer.finish(call, SelectLess {}, &[x, low, raised, above])
}

/// The mean of the operands.
pub(super) fn mean<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let mut sum = importer.operand(call, 0)?;
    for slot in 1..call.node.input.len() {
        let next = importer.operand(call, slot)?;
        sum = importer.add(call, Add {}, &[sum, next], "sum")?;
    }
    let share = Writer { importer, call }.constant(1.0 / call.node.input.len() as f32)?;
    importer.finish(call, Mul {}, &[sum, share])
}
