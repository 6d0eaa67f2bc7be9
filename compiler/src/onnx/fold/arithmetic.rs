//! Element by element, with numpy's broadcasting.

use super::super::report::Refusal;
use super::super::tensor::{Elements, Extent, Folded};
use super::within_limit;
use crate::op::reference::{broadcast_dims, broadcast_offsets};

/// Extents that several operands broadcast to, and for each element of those the element of each operand.
type Aligned<const N: usize> = (Vec<usize>, [Vec<usize>; N]);

/// `None` where the extents do not fit.
fn aligned<const N: usize>(operands: [&Folded; N]) -> Result<Option<Aligned<N>>, Refusal> {
    let dims = operands.iter().fold(vec![], |dims, operand| broadcast_dims(&dims, &operand.dims));
    let fits = |operand: &&Folded| operand.dims.iter().rev().zip(dims.iter().rev()).all(|(&own, &all)| own == all || own == 1);
    if !operands.iter().all(fits) {
        return Ok(None);
    }
    within_limit(dims.iter().try_fold(1usize, |product, &d| product.checked_mul(d)).unwrap_or(usize::MAX))?;
    let offsets = operands.map(|operand| broadcast_offsets(&operand.dims, &dims));
    Ok(Some((dims, offsets)))
}

/// `op` of two tensors; `None` if it is no arithmetic, or says nothing without knowing the batch.
pub(super) fn binary(op: &str, a: &Folded, b: &Folded) -> Result<Option<Folded>, Refusal> {
    let Some((dims, [from_a, from_b])) = aligned([a, b])? else { return Ok(None) };
    let elements = match (&a.elements, &b.elements) {
        (Elements::Floats(x), Elements::Floats(y)) => {
            let pairs = || from_a.iter().zip(&from_b).map(|(&i, &j)| (x[i], y[j]));
            if let Some(compare) = comparison(op) {
                Elements::Integers(pairs().map(|(x, y)| Extent::Known(i64::from(x.partial_cmp(&y).is_some_and(compare)))).collect())
            } else {
                let Some(compute) = of_two_floats(op) else { return Ok(None) };
                Elements::Floats(pairs().map(|(x, y)| compute(x, y)).collect())
            }
        }
        (Elements::Integers(_), Elements::Floats(_)) | (Elements::Floats(_), Elements::Integers(_)) => {
            // The batch as a float, with a whole number.
            let (Some(x), Some(y)) = (whole(a), whole(b)) else { return Ok(None) };
            return binary(op, &x, &y);
        }
        (Elements::Integers(x), Elements::Integers(y)) => {
            let pairs = from_a.iter().zip(&from_b).map(|(&i, &j)| of_two_extents(op, x[i], y[j]));
            let Some(extents) = pairs.collect() else { return Ok(None) };
            Elements::Integers(extents)
        }
    };
    Ok(Some(Folded { dims, elements }))
}

/// Floats reduced along `axes`, or along all where there is none.
pub(super) fn reduced(op: &str, source: &Folded, axes: &[usize], keep_dims: bool) -> Option<Folded> {
    let Elements::Floats(values) = &source.elements else { return None };
    let goes = |axis: &usize| axes.is_empty() || axes.contains(axis);
    let kept: Vec<usize> = source.dims.iter().enumerate().map(|(axis, &extent)| if goes(&axis) { 1 } else { extent }).collect();
    let combine = match op {
        "ReduceMax" => f64::max,
        "ReduceMin" => f64::min,
        "ReduceSum" | "ReduceMean" => |sum: f64, value: f64| sum + value,
        _ => return None,
    };
    let mut results: Vec<Option<f64>> = vec![None; kept.iter().product()];
    for (&value, to) in values.iter().zip(broadcast_offsets(&kept, &source.dims)) {
        let value = f64::from(value);
        results[to] = Some(results[to].map_or(value, |result| combine(result, value)));
    }
    let count = if op == "ReduceMean" { (values.len() / results.len().max(1)) as f64 } else { 1.0 };
    let elements = results.into_iter().map(|result| result.map(|result| (result / count) as f32)).collect::<Option<Vec<_>>>()?;
    let all = |axis: &usize| keep_dims || !goes(axis);
    let dims = kept.iter().enumerate().filter(|(axis, _)| all(axis)).map(|(_, &extent)| extent).collect();
    Some(Folded { dims, elements: Elements::Floats(elements) })
}

/// Floats that are whole numbers as integers.
fn whole(folded: &Folded) -> Option<Folded> {
    let elements = match &folded.elements {
        Elements::Integers(values) => values.clone(),
        Elements::Floats(values) => {
            let integer = |&v: &f32| (v.fract() == 0.0 && v.abs() < 1e15).then_some(Extent::Known(v as i64));
            values.iter().map(integer).collect::<Option<_>>()?
        }
    };
    Some(Folded { dims: folded.dims.clone(), elements: Elements::Integers(elements) })
}

fn comparison(op: &str) -> Option<fn(std::cmp::Ordering) -> bool> {
    Some(match op {
        "Equal" => std::cmp::Ordering::is_eq,
        "Less" => std::cmp::Ordering::is_lt,
        "LessOrEqual" => std::cmp::Ordering::is_le,
        "Greater" => std::cmp::Ordering::is_gt,
        "GreaterOrEqual" => std::cmp::Ordering::is_ge,
        _ => return None,
    })
}

fn of_two_floats(op: &str) -> Option<fn(f32, f32) -> f32> {
    Some(match op {
        "Add" | "Sum" => |x, y| x + y,
        "Sub" => |x, y| x - y,
        "Mul" => |x, y| x * y,
        "Div" => |x, y| x / y,
        "Pow" => f32::powf,
        "Max" => f32::max,
        "Min" => f32::min,
        _ => return None,
    })
}

/// Comparisons hold for any number of examples, or are left open.
fn of_two_extents(op: &str, x: Extent, y: Extent) -> Option<Extent> {
    use Extent::{Batch, Known};
    let truth = |holds: bool| Some(Known(i64::from(holds)));
    if let Some(compare) = comparison(op) {
        return order(x, y).and_then(|ordering| truth(compare(ordering)));
    }
    let positive = |extent: Option<i64>| extent.filter(|&n| n > 0).map(Batch);
    match (op, x, y) {
        ("And", Known(x), Known(y)) => truth(x != 0 && y != 0),
        ("Or", Known(x), Known(y)) => truth(x != 0 || y != 0),
        ("Xor", Known(x), Known(y)) => truth((x != 0) != (y != 0)),
        ("Max", ..) => order(x, y).map(|ordering| if ordering.is_lt() { y } else { x }),
        ("Min", ..) => order(x, y).map(|ordering| if ordering.is_gt() { y } else { x }),
        ("Add" | "Sum", Known(x), Known(y)) => x.checked_add(y).map(Known),
        ("Sub", Known(x), Known(y)) => x.checked_sub(y).map(Known),
        ("Mul", Known(x), Known(y)) => x.checked_mul(y).map(Known),
        ("Div", Known(x), Known(y)) => x.checked_div(y).map(Known),
        ("Mod", Known(x), Known(y)) => {
            x.checked_rem(y).and_then(|rest| if rest != 0 && (rest < 0) != (y < 0) { rest.checked_add(y) } else { Some(rest) }).map(Known)
        }
        ("Pow", Known(x), Known(y)) => u32::try_from(y).ok().and_then(|y| x.checked_pow(y)).map(Known),
        ("Add" | "Sum", Batch(n), Known(0)) | ("Add" | "Sum", Known(0), Batch(n)) | ("Sub", Batch(n), Known(0)) => Some(Batch(n)),
        ("Add" | "Sum", Batch(x), Batch(y)) => positive(x.checked_add(y)),
        ("Sub", Batch(x), Batch(y)) if x == y => Some(Known(0)),
        ("Sub", Batch(x), Batch(y)) => positive(x.checked_sub(y)),
        ("Mul", Batch(n), Known(k)) | ("Mul", Known(k), Batch(n)) if k == 0 => {
            let _ = n;
            Some(Known(0))
        }
        ("Mul", Batch(n), Known(k)) | ("Mul", Known(k), Batch(n)) => positive(n.checked_mul(k)),
        ("Div", Batch(n), Known(k)) if k > 0 && n % k == 0 => Some(Batch(n / k)),
        ("Div", Batch(n), Batch(k)) if n % k == 0 => Some(Known(n / k)),
        ("Mod", Batch(n), Known(k)) if k > 0 && n % k == 0 => Some(Known(0)),
        ("Mod", Batch(n), Batch(k)) if n % k == 0 => Some(Known(0)),
        _ => None,
    }
}

/// How two extents compare whatever the batch is, which is at least 1.
fn order(x: Extent, y: Extent) -> Option<std::cmp::Ordering> {
    use std::cmp::Ordering::{Greater, Less};
    match (x, y) {
        (Extent::Known(x), Extent::Known(y)) | (Extent::Batch(x), Extent::Batch(y)) => Some(x.cmp(&y)),
        (Extent::Batch(n), Extent::Known(k)) => (n > k).then_some(Greater),
        (Extent::Known(k), Extent::Batch(n)) => (n > k).then_some(Less),
    }
}

/// `yes` where `condition` is not 0, else `no`.
pub(super) fn choose(condition: &Folded, yes: &Folded, no: &Folded) -> Result<Option<Folded>, Refusal> {
    let (Some(conditions), Some((dims, [at, from_yes, from_no]))) = (condition.integers(), aligned([condition, yes, no])?) else {
        return Ok(None);
    };
    let pick = |i: usize| if conditions[at[i]] != 0 { (true, from_yes[i]) } else { (false, from_no[i]) };
    let elements = match (&yes.elements, &no.elements) {
        (Elements::Floats(yes), Elements::Floats(no)) => {
            Elements::Floats((0..at.len()).map(pick).map(|(taken, i)| if taken { yes[i] } else { no[i] }).collect())
        }
        (Elements::Integers(yes), Elements::Integers(no)) => {
            Elements::Integers((0..at.len()).map(pick).map(|(taken, i)| if taken { yes[i] } else { no[i] }).collect())
        }
        _ => return Ok(None),
    };
    Ok(Some(Folded { dims, elements }))
}

/// `f` of each float.
pub(super) fn of_floats(source: &Folded, f: impl Fn(f32) -> f32) -> Option<Folded> {
    let Elements::Floats(values) = &source.elements else { return None };
    Some(Folded { dims: source.dims.clone(), elements: Elements::Floats(values.iter().map(|&v| f(v)).collect()) })
}

/// Functions of one element. Rounding leaves the batch as it is: it is whole.
pub(super) fn unary(op: &str, source: &Folded) -> Option<Folded> {
    let Elements::Integers(values) = &source.elements else {
        let f: fn(f32) -> f32 = match op {
            "Neg" => |x| -x,
            "Abs" => f32::abs,
            "Sign" => |x| if x == 0.0 { 0.0 } else { x.signum() },
            "Floor" => f32::floor,
            "Ceil" => f32::ceil,
            "Round" => f32::round_ties_even,
            _ => return None,
        };
        return of_floats(source, f);
    };
    let of = |extent: &Extent| match (op, *extent) {
        ("Floor" | "Ceil" | "Round" | "Abs", Extent::Batch(n)) => Some(Extent::Batch(n)),
        ("Floor" | "Ceil" | "Round", known) => Some(known),
        ("Abs", Extent::Known(n)) => n.checked_abs().map(Extent::Known),
        ("Neg", Extent::Known(n)) => n.checked_neg().map(Extent::Known),
        ("Sign", Extent::Known(n)) => Some(Extent::Known(n.signum())),
        ("Not", Extent::Known(n)) => Some(Extent::Known(i64::from(n == 0))),
        _ => None,
    };
    let elements = values.iter().map(of).collect::<Option<_>>()?;
    Some(Folded { dims: source.dims.clone(), elements: Elements::Integers(elements) })
}

/// The product of all integers.
pub(super) fn product(source: &Folded) -> Option<Folded> {
    let Elements::Integers(values) = &source.elements else { return None };
    let product = values.iter().try_fold(Extent::Known(1), |product, &extent| of_two_extents("Mul", product, extent))?;
    Some(Folded { dims: vec![], elements: Elements::Integers(vec![product]) })
}
