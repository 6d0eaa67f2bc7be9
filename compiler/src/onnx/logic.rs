//! Comparisons and choices. A truth value is 1 or 0; no gradient flows through it.

use super::import::{Call, Importer};
use super::report::Refusal;
use super::tensor::Folded;
use crate::ir::Value;
use crate::op::{Max, Mul, Op, SelectLess};

fn number<'m>(importer: &mut Importer<'m>, call: &Call<'m>, value: f32, suffix: &str) -> Result<Value, Refusal> {
    importer.new_constant(&format!("{}.{suffix}", call.output()?), Folded::scalar(value))
}

/// Whether a value holds nothing but 1 and 0, as comparisons and what combines them do.
pub(super) fn is_truth(importer: &Importer<'_>, value: Value) -> bool {
    let inputs = importer.graph.inputs(value.node);
    match &importer.graph.node(value.node).op {
        Op::SelectLess(_) => inputs[2..].iter().all(|&choice| is_truth(importer, choice)),
        Op::Mul(_) | Op::Max(_) => inputs.iter().all(|&operand| is_truth(importer, operand)),
        Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) => inputs.iter().all(|&operand| is_truth(importer, operand)),
        Op::Constant(constant) => constant.value.values.iter().all(|&value| value == 0.0 || value == 1.0),
        _ => false,
    }
}

/// 0 and 1.
fn truths<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<[Value; 2], Refusal> {
    Ok([number(importer, call, 0.0, "false")?, number(importer, call, 1.0, "true")?])
}

pub(super) fn compare<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (a, b) = (importer.number_operand(call, 0)?, importer.number_operand(call, 1)?);
    let [no, yes] = truths(importer, call)?;
    let operands = match call.node.op_type.as_str() {
        "Less" => [a, b, yes, no],
        "Greater" => [b, a, yes, no],
        "LessOrEqual" => [b, a, no, yes],
        "GreaterOrEqual" => [a, b, no, yes],
        _ => {
            let not_above = importer.add(call, SelectLess {}, &[b, a, no, yes], "not_above")?;
            [a, b, no, not_above]
        }
    };
    importer.finish(call, SelectLess {}, &operands)
}

pub(super) fn combine<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (a, b) = (importer.number_operand(call, 0)?, importer.number_operand(call, 1)?);
    match call.node.op_type.as_str() {
        "And" => importer.finish(call, Mul {}, &[a, b]),
        "Or" => importer.finish(call, Max {}, &[a, b]),
        _ => {
            let [no, yes] = truths(importer, call)?;
            let above = importer.add(call, SelectLess {}, &[b, a, yes, no], "above")?;
            importer.finish(call, SelectLess {}, &[a, b, yes, above])
        }
    }
}

pub(super) fn not<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.number_operand(call, 0)?;
    let [no, yes] = truths(importer, call)?;
    importer.finish(call, SelectLess {}, &[no, x, no, yes])
}

/// What is neither below infinity nor above its negative is no number.
pub(super) fn is_nan<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let [no, yes] = truths(importer, call)?;
    let (low, high) = (number(importer, call, f32::NEG_INFINITY, "low")?, number(importer, call, f32::INFINITY, "high")?);
    let not_above = importer.add(call, SelectLess {}, &[low, x, no, yes], "not_above")?;
    importer.finish(call, SelectLess {}, &[x, high, no, not_above])
}

/// (condition, x, y) -> x where the condition holds, else y
pub(super) fn choose<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let condition = importer.number_operand(call, 0)?;
    let (x, y) = (importer.number_operand(call, 1)?, importer.number_operand(call, 2)?);
    let zero = number(importer, call, 0.0, "false")?;
    importer.finish(call, SelectLess {}, &[zero, condition, x, y])
}
