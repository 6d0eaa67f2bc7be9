//! Operators between numbers.

use super::value::Value;
use mestc::describe::Binary;
use syn::BinOp;

/// The operation on values of the network that `operator` is; `+=` is as `+`.
pub(super) fn operation(operator: &BinOp) -> Option<Binary> {
    match operator {
        BinOp::Add(_) | BinOp::AddAssign(_) => Some(Binary::Add),
        BinOp::Sub(_) | BinOp::SubAssign(_) => Some(Binary::Sub),
        BinOp::Mul(_) | BinOp::MulAssign(_) => Some(Binary::Mul),
        BinOp::Div(_) | BinOp::DivAssign(_) => Some(Binary::Div),
        _ => None,
    }
}

/// Whether `operator` changes its left side.
pub(super) fn assigns(operator: &BinOp) -> bool {
    matches!(operator, BinOp::AddAssign(_) | BinOp::SubAssign(_) | BinOp::MulAssign(_) | BinOp::DivAssign(_))
}

/// `a operator b`, of numbers or flags.
///
/// # Errors
/// What does not go together, or has no result.
pub(super) fn numbers(operator: &BinOp, a: &Value, b: &Value) -> Result<Value, String> {
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => integers(operator, *a, *b),
        (Value::Integer(a), Value::Number(b)) => floats(operator, *a as f64, *b),
        (Value::Number(a), Value::Integer(b)) => floats(operator, *a, *b as f64),
        (Value::Number(a), Value::Number(b)) => floats(operator, *a, *b),
        (Value::Flag(a), Value::Flag(b)) => match operator {
            BinOp::And(_) => Ok(Value::Flag(*a && *b)),
            BinOp::Or(_) => Ok(Value::Flag(*a || *b)),
            BinOp::Eq(_) => Ok(Value::Flag(a == b)),
            BinOp::Ne(_) | BinOp::BitXor(_) => Ok(Value::Flag(a != b)),
            _ => Err("flags are combined by `&&`, `||`, `==` and `!=`".to_owned()),
        },
        _ => Err(format!("{} and {} can't be computed with; write values of the network, or numbers", a.kind(), b.kind())),
    }
}

fn integers(operator: &BinOp, a: i64, b: i64) -> Result<Value, String> {
    let shift = u32::try_from(b).ok();
    let result = match operator {
        BinOp::Add(_) | BinOp::AddAssign(_) => a.checked_add(b),
        BinOp::Sub(_) | BinOp::SubAssign(_) => a.checked_sub(b),
        BinOp::Mul(_) | BinOp::MulAssign(_) => a.checked_mul(b),
        BinOp::Div(_) | BinOp::DivAssign(_) => a.checked_div(b),
        BinOp::Rem(_) => a.checked_rem(b),
        BinOp::Shl(_) => shift.and_then(|shift| 1_i64.checked_shl(shift)).and_then(|factor| a.checked_mul(factor)),
        BinOp::Shr(_) => shift.and_then(|shift| a.checked_shr(shift)),
        _ => return compare(operator, a.partial_cmp(&b)),
    };
    result.map(Value::Integer).ok_or_else(|| "this has no result: it divides by 0, or does not fit 64 bits; write other numbers".to_owned())
}

fn floats(operator: &BinOp, a: f64, b: f64) -> Result<Value, String> {
    let result = match operator {
        BinOp::Add(_) | BinOp::AddAssign(_) => a + b,
        BinOp::Sub(_) | BinOp::SubAssign(_) => a - b,
        BinOp::Mul(_) | BinOp::MulAssign(_) => a * b,
        BinOp::Div(_) | BinOp::DivAssign(_) => a / b,
        BinOp::Rem(_) => a % b,
        _ => return compare(operator, a.partial_cmp(&b)),
    };
    if result.is_finite() { Ok(Value::Number(result)) } else { Err("this is no finite number".to_owned()) }
}

fn compare(operator: &BinOp, ordering: Option<std::cmp::Ordering>) -> Result<Value, String> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let flag = match operator {
        BinOp::Eq(_) => ordering == Some(Equal),
        BinOp::Ne(_) => ordering != Some(Equal),
        BinOp::Lt(_) => ordering == Some(Less),
        BinOp::Le(_) => matches!(ordering, Some(Less | Equal)),
        BinOp::Gt(_) => ordering == Some(Greater),
        BinOp::Ge(_) => matches!(ordering, Some(Greater | Equal)),
        _ => return Err("write +, -, *, /, %, <<, >> or a comparison".to_owned()),
    };
    Ok(Value::Flag(flag))
}
