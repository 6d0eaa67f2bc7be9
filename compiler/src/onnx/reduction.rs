//! Reductions within an example.

use super::attributes;
use super::import::{Call, Importer};
use super::report::{Kind, Refusal};
use super::shapes::axes_of;
use super::tensor::Folded;
use crate::ir::{Dim, Shape, Value};
use crate::op::{Add, Function, Mul, Op, ReduceMax, ReduceMean, Resample, Reshape, SumTo, Unary};

/// Elements along an axis that are summed cumulatively: their number squared is what it takes.
const LONGEST_SUM: usize = 1 << 10;

/// What is reduced, the axes, and whether they stay; nothing where no axis is.
type Reduced = Option<(Value, Vec<usize>, bool)>;

fn reduced<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<Reduced, Refusal> {
    let x = importer.operand(call, 0)?;
    let shape = importer.graph.shape(x).clone();
    let noop = attributes::int(call.node, "noop_with_empty_axes")?.unwrap_or(0) != 0;
    let rank = importer.frame.map_or(shape.rank(), |frame| frame.rank);
    let axes = axes_of(importer, call, rank)?.unwrap_or_default();
    if axes.is_empty() && noop {
        return Ok(None);
    }
    let keep_dims = attributes::int(call.node, "keepdims")?.unwrap_or(1) != 0;
    let counted = if axes.is_empty() { (0..rank).collect() } else { axes };
    let mut axes = counted.iter().map(|&axis| importer.own_axis(axis as i64, x)).collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    axes.dedup();
    if !shape.is_batched() || axes.contains(&0) {
        return Err(Refusal::unsupported(format!("reduces {shape} over axes {axes:?}"), "only within an example can it be trained"));
    }
    if let (Some(frame), false) = (&mut importer.frame, keep_dims) {
        frame.remove(&counted);
    }
    Ok(Some((x, axes, keep_dims)))
}

/// With no axis to reduce, each element is reduced by itself: `op` says to what.
fn alone<'m>(importer: &mut Importer<'m>, call: &Call<'m>, op: Option<Op>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    match op {
        None => {
            importer.bind(call.output()?, x);
            Ok(())
        }
        Some(op @ Op::Mul(_)) => importer.finish(call, op, &[x, x]),
        Some(op) => importer.finish(call, op, &[x]),
    }
}

pub(super) fn mean<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let Some((x, axes, keep_dims)) = reduced(importer, call)? else { return alone(importer, call, None) };
    importer.finish(call, ReduceMean { axes, keep_dims }, &[x])
}

pub(super) fn max<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let Some((x, axes, keep_dims)) = reduced(importer, call)? else { return alone(importer, call, None) };
    importer.finish(call, ReduceMax { axes, keep_dims }, &[x])
}

/// -max(-x)
pub(super) fn min<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let Some((x, axes, keep_dims)) = reduced(importer, call)? else { return alone(importer, call, None) };
    let minus = importer.new_constant(&format!("{}.minus", call.output()?), Folded::scalar(-1.0))?;
    let negative = importer.add(call, Mul {}, &[x, minus], "negative")?;
    let largest = importer.add(call, ReduceMax { axes, keep_dims }, &[negative], "largest")?;
    importer.finish(call, Mul {}, &[largest, minus])
}

/// The operations that sum x down, and what becomes of the axes.
fn sum_ops(shape: &Shape, axes: &[usize], keep_dims: bool) -> Vec<Op> {
    let dim = |(i, &d): (usize, &Dim)| if axes.contains(&i) { Dim::Fixed(1) } else { d };
    let kept = Shape(shape.0.iter().enumerate().map(dim).collect());
    let left = Shape(shape.0.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &d)| d).collect());
    let mut ops = vec![Op::from(SumTo { shape: kept })];
    if !keep_dims {
        ops.push(Op::from(Reshape { shape: left }));
    }
    ops
}

fn finish_chain<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Value, ops: Vec<Op>) -> Result<(), Refusal> {
    let mut value = x;
    let last = ops.len().saturating_sub(1);
    for (i, op) in ops.into_iter().enumerate() {
        if i == last {
            return importer.finish(call, op, &[value]);
        }
        value = importer.add(call, op, &[value], "sum")?;
    }
    Ok(())
}

pub(super) fn sum<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let Some((x, axes, keep_dims)) = reduced(importer, call)? else { return alone(importer, call, None) };
    let ops = sum_ops(&importer.graph.shape(x).clone(), &axes, keep_dims);
    finish_chain(importer, call, x, ops)
}

pub(super) fn l1<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let abs = Unary { function: Function::Abs };
    let Some((x, axes, keep_dims)) = reduced(importer, call)? else { return alone(importer, call, Some(abs.into())) };
    let size = importer.add(call, abs, &[x], "size")?;
    let ops = sum_ops(&importer.graph.shape(x).clone(), &axes, keep_dims);
    finish_chain(importer, call, size, ops)
}

pub(super) fn sum_square<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let Some((x, axes, keep_dims)) = reduced(importer, call)? else { return alone(importer, call, Some(Mul {}.into())) };
    let square = importer.add(call, Mul {}, &[x, x], "square")?;
    let ops = sum_ops(&importer.graph.shape(x).clone(), &axes, keep_dims);
    finish_chain(importer, call, square, ops)
}

/// The logarithm of the sum.
pub(super) fn log_sum<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let log = Unary { function: Function::Log };
    let Some((x, axes, keep_dims)) = reduced(importer, call)? else { return alone(importer, call, Some(log.into())) };
    let mut ops = sum_ops(&importer.graph.shape(x).clone(), &axes, keep_dims);
    ops.push(log.into());
    finish_chain(importer, call, x, ops)
}

/// max + log(sum of exp(x - max)): nothing overflows.
pub(super) fn log_sum_exp<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let Some((x, axes, keep_dims)) = reduced(importer, call)? else { return alone(importer, call, None) };
    let largest = importer.add(call, ReduceMax { axes: axes.clone(), keep_dims: true }, &[x], "largest")?;
    let minus = importer.new_constant(&format!("{}.minus", call.output()?), Folded::scalar(-1.0))?;
    let negative = importer.add(call, Mul {}, &[largest, minus], "negative")?;
    let below = importer.add(call, Add {}, &[x, negative], "below")?;
    let mut sum = importer.add(call, Unary { function: Function::Exp }, &[below], "exponential")?;
    let shape = importer.graph.shape(x).clone();
    let mut ops = sum_ops(&shape, &axes, keep_dims).into_iter();
    if let Some(down) = ops.next() {
        sum = importer.add(call, down, &[sum], "sum")?;
    }
    let log = importer.add(call, Unary { function: Function::Log }, &[sum], "logarithm")?;
    match ops.next() {
        None => importer.finish(call, Add {}, &[log, largest]),
        Some(squeeze) => {
            let kept = importer.add(call, Add {}, &[log, largest], "kept")?;
            importer.finish(call, squeeze, &[kept])
        }
    }
}

pub(super) fn l2<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let abs = Unary { function: Function::Abs };
    let Some((x, axes, keep_dims)) = reduced(importer, call)? else { return alone(importer, call, Some(abs.into())) };
    let square = importer.add(call, Mul {}, &[x, x], "square")?;
    let mut ops = sum_ops(&importer.graph.shape(x).clone(), &axes, keep_dims);
    ops.push(Unary { function: Function::Sqrt }.into());
    finish_chain(importer, call, square, ops)
}

/// Sums of all elements before and at each along an axis: a matrix of ones below its diagonal.
pub(super) fn cumulative_sum<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let axis = importer.setting(call, 1)?.and_then(|axis| axis.integers()).and_then(|axis| axis.first().copied());
    let axis = axis.ok_or_else(|| Refusal::unsupported("its axis is not known at import", "use a constant"))?;
    let axis = importer.own_axis(axis, x)?;
    let Some(&Dim::Fixed(extent)) = importer.graph.shape(x).0.get(axis).filter(|_| axis > 0) else {
        return Err(Refusal::unsupported("sums along the examples", "only within an example can it be trained"));
    };
    if extent > LONGEST_SUM {
        return Err(Refusal::new(Kind::Size, format!("sums along {extent} elements"), format!("at most {LONGEST_SUM} can be summed so")));
    }
    let flag = |name: &str| Ok::<_, Refusal>(attributes::int(call.node, name)?.unwrap_or(0) != 0);
    let (exclusive, reverse) = (flag("exclusive")?, flag("reverse")?);
    let taps = |to: usize| {
        let own = usize::from(!exclusive);
        let range = if reverse { to + 1 - own..extent } else { 0..to + own };
        range.map(|from| (from, 1.0)).collect()
    };
    importer.finish(call, Resample { axis, taps: (0..extent).map(taps).collect() }, &[x])
}
