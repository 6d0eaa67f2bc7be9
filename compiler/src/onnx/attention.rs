//! Scaled dot-product attention (opset 23), taken apart as its definition does.

use super::attributes;
use super::import::{Call, Importer};
use super::logic::is_truth;
use super::report::{Kind, Refusal};
use super::slicing::chosen;
use super::tensor::{Elements, Folded};
use crate::ir::{Dim, Shape, Value};
use crate::op::reference::{broadcast_dims, broadcast_offsets};
use crate::op::{Add, Function, MatrixProduct, Mul, Op, ReduceMax, Reshape, SelectLess, Softmax, Transpose, Unary};

/// softmax(q k^T * scale + mask) v of each head: `[N, heads, T, D]`, or `[N, T, heads D]`.
pub(super) fn convert<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    refuse_caches(importer, call)?;
    let heads = |name: &str| attributes::int(call.node, name).map(|n| n.and_then(|n| usize::try_from(n).ok()).unwrap_or(0));
    let (q_heads, kv_heads) = (heads("q_num_heads")?, heads("kv_num_heads")?);
    let queries = heads_operand(importer, call, 0)?;
    let joined = importer.graph.shape(queries).rank() == 3;
    let q = split_heads(importer, call, 0, q_heads)?;
    let heads = importer.graph.shape(q).fixed()[0];
    let mut shared = |slot: usize| {
        let value = split_heads(importer, call, slot, kv_heads)?;
        repeated_heads(importer, call, value, heads)
    };
    let (k, v) = (shared(1)?, shared(2)?);
    let of_q = importer.graph.shape(q).fixed();
    let (rows, width) = (of_q[1], of_q[2]);
    let scale = match attributes::float(call.node, "scale")? {
        Some(scale) if scale != 0.0 => scale,
        _ => (1.0 / (width as f64).sqrt()) as f32,
    };
    let scale = importer.new_constant(&format!("{}.scale", call.output()?), Folded::scalar(scale))?;
    let product = importer.add(call, MatrixProduct { transpose_a: false, transpose_b: true }, &[q, k], "product")?;
    let mut scores = importer.add(call, Mul {}, &[product, scale], "scores")?;
    scores = softcap(importer, call, scores)?;
    let shares = shares(importer, call, scores)?;
    let mixed = MatrixProduct { transpose_a: false, transpose_b: false };
    if !joined {
        return importer.finish(call, mixed, &[shares, v]);
    }
    let mixed = importer.add(call, mixed, &[shares, v], "mixed")?;
    let of_mixed = importer.graph.shape(mixed).fixed();
    let turned = importer.add(call, Transpose { perm: vec![0, 2, 1, 3] }, &[mixed], "turned")?;
    importer.finish(call, Reshape { shape: Shape::batched(&[rows, of_mixed[0] * of_mixed[2]]) }, &[turned])
}

fn heads_operand<'m>(importer: &mut Importer<'m>, call: &Call<'m>, slot: usize) -> Result<Value, Refusal> {
    let value = importer.operand(call, slot)?;
    let shape = importer.graph.shape(value);
    match (shape.is_batched(), shape.rank()) {
        (true, 3 | 4) => Ok(value),
        _ => Err(Refusal::unsupported(format!("attends over {shape}"), "[N, heads, T, D] or [N, T, heads D] is needed")),
    }
}

/// Neither earlier keys nor what lies between may enter or leave.
fn refuse_caches(importer: &Importer<'_>, call: &Call<'_>) -> Result<(), Refusal> {
    let used = call.node.output.iter().skip(1).any(|output| !output.is_empty() && importer.readers(output) > 0);
    if used || (4..call.node.input.len()).any(|slot| call.optional(slot).is_some()) {
        return Err(Refusal::unsupported("reads or writes keys and values of other calls, or its scores", "export without a cache"));
    }
    Ok(())
}

/// `[N, heads, T, D]`.
fn split_heads<'m>(importer: &mut Importer<'m>, call: &Call<'m>, slot: usize, heads: usize) -> Result<Value, Refusal> {
    let value = heads_operand(importer, call, slot)?;
    match importer.graph.shape(value).0[..] {
        [_, Dim::Fixed(positions), Dim::Fixed(width)] if heads > 0 && width % heads == 0 => {
            let shape = Shape::batched(&[positions, heads, width / heads]);
            let split = importer.add(call, Reshape { shape }, &[value], "heads")?;
            importer.add(call, Transpose { perm: vec![0, 2, 1, 3] }, &[split], "by_head")
        }
        [_, _, _] => Err(Refusal::new(
            Kind::Attribute,
            format!("splits {} features into {heads} heads", importer.graph.shape(value)),
            "heads must divide them",
        )),
        _ => Ok(value),
    }
}

/// Heads of keys or values as often as heads of queries share them, one after the other.
fn repeated_heads<'m>(importer: &mut Importer<'m>, call: &Call<'m>, value: Value, heads: usize) -> Result<Value, Refusal> {
    let own = importer.graph.shape(value).fixed()[0];
    if own == 0 || !heads.is_multiple_of(own) {
        let why = format!("{heads} heads of queries share {own} heads of keys and values");
        return Err(Refusal::new(Kind::Attribute, why, "the heads of queries must be a multiple"));
    }
    let rows: Vec<usize> = (0..heads).map(|head| head / (heads / own)).collect();
    match chosen(1, own, &rows) {
        Some(op) => importer.add(call, op, &[value], "shared"),
        None => Ok(value),
    }
}

/// cap * tanh(scores / cap), where there is one.
fn softcap<'m>(importer: &mut Importer<'m>, call: &Call<'m>, scores: Value) -> Result<Value, Refusal> {
    let cap = attributes::float(call.node, "softcap")?.unwrap_or(0.0);
    if cap == 0.0 {
        return Ok(scores);
    }
    let share = importer.new_constant(&format!("{}.share", call.output()?), Folded::scalar(1.0 / cap))?;
    let scaled = importer.add(call, Mul {}, &[scores, share], "shared")?;
    let bounded = importer.add(call, Unary { function: Function::Tanh }, &[scaled], "bounded")?;
    let cap = importer.new_constant(&format!("{}.cap", call.output()?), Folded::scalar(cap))?;
    importer.add(call, Mul {}, &[bounded, cap], "capped")
}

/// Softmax of the scores `[N, heads, rows, columns]` that the masks leave; rows of which they leave nothing are zeros.
fn shares<'m>(importer: &mut Importer<'m>, call: &Call<'m>, scores: Value) -> Result<Value, Refusal> {
    let extents = importer.graph.shape(scores).fixed();
    let causal = attributes::int(call.node, "is_causal")?.unwrap_or(0) != 0;
    let given = if call.optional(3).is_some() { importer.setting(call, 3).ok().flatten() } else { None };
    let computed = call.optional(3).is_some() && given.is_none();
    let (mut scores, mut kept) = (scores, None);
    if causal || given.is_some() {
        let mask = Mask::new(given.as_ref(), [extents[1], extents[2]], causal)?;
        importer.charge(mask.values.len())?;
        kept = mask.kept();
        scores = add_constant(importer, call, scores, mask.added(), "masked", Add {})?;
    }
    if computed {
        scores = computed_mask(importer, call, scores)?;
    }
    let shares = importer.add(call, Softmax { log: false }, &[scores], "shares")?;
    if computed {
        let largest = importer.add(call, ReduceMax { axes: vec![3], keep_dims: true }, &[scores], "largest")?;
        let least = importer.new_constant(&format!("{}.least", call.output()?), Folded::scalar(f32::MIN / 4.0))?;
        let zero = importer.new_constant(&format!("{}.zero", call.output()?), Folded::scalar(0.0))?;
        return importer.add(call, SelectLess {}, &[least, largest, shares, zero], "kept");
    }
    match kept {
        Some(kept) => add_constant(importer, call, shares, kept, "kept", Mul {}),
        None => Ok(shares),
    }
}

/// Adds an operation on `value` and a constant.
fn add_constant<'m>(
    importer: &mut Importer<'m>,
    call: &Call<'m>,
    value: Value,
    constant: Folded,
    suffix: &str,
    op: impl Into<Op>,
) -> Result<Value, Refusal> {
    let mut constant = importer.new_constant(&format!("{}.{suffix}", call.output()?), constant)?;
    if let Some(frame) = importer.frame {
        constant = frame.align(importer, call, constant)?;
    }
    importer.add(call, op, &[value, constant], suffix)
}

/// What is known of masks at import: what is added to scores, minus infinity where they do not count.
struct Mask {
    /// `[.., rows, columns]`
    dims: Vec<usize>,
    values: Vec<f32>,
}

impl Mask {
    /// The mask that the file has, and the one that hides later positions.
    fn new(given: Option<&Folded>, [rows, columns]: [usize; 2], causal: bool) -> Result<Self, Refusal> {
        let all = given.map_or(vec![rows, columns], |mask| broadcast_dims(&mask.dims, &[rows, columns]));
        let mut values = vec![0.0; all.iter().product()];
        if let Some(mask) = given {
            let fits = |(own, all): (&usize, &usize)| own == all || *own == 1;
            if all[all.len() - 2..] != [rows, columns] || !mask.dims.iter().rev().zip(all.iter().rev()).all(fits) {
                let why = format!("masks {rows} x {columns} scores by {:?}", mask.dims);
                return Err(Refusal::new(Kind::Shape, why, "the mask must have as many rows and columns, or one"));
            }
            let numbers = match &mask.elements {
                Elements::Floats(values) => values.clone(),
                Elements::Integers(_) => {
                    let truths = mask.to_floats().unwrap_or_default();
                    truths.into_iter().map(|truth| if truth == 0.0 { f32::NEG_INFINITY } else { 0.0 }).collect()
                }
            };
            for (value, from) in values.iter_mut().zip(broadcast_offsets(&mask.dims, &all)) {
                *value = numbers.get(from).copied().unwrap_or(0.0);
            }
        }
        for (i, value) in values.iter_mut().enumerate().filter(|_| causal) {
            if i % columns > i / columns % rows {
                *value = f32::NEG_INFINITY;
            }
        }
        Ok(Mask { dims: all, values })
    }

    fn added(self) -> Folded {
        Folded { dims: self.dims, elements: Elements::Floats(self.values) }
    }

    /// 0 for each row that nothing is left of, else 1; `None` where all are 1.
    fn kept(&self) -> Option<Folded> {
        let (columns, dims) = self.dims.split_last()?;
        let lives = |row: &[f32]| row.iter().any(|&value| value > f32::MIN);
        let kept: Vec<f32> = self.values.chunks(*columns).map(|row| f32::from(u8::from(lives(row)))).collect();
        let dims = dims.iter().copied().chain([1]).collect();
        if kept.contains(&0.0) { Some(Folded { dims, elements: Elements::Floats(kept) }) } else { None }
    }
}

/// Adds a mask that the model computes, or takes minus infinity where its truth values do not hold.
fn computed_mask<'m>(importer: &mut Importer<'m>, call: &Call<'m>, scores: Value) -> Result<Value, Refusal> {
    let mask = importer.number_operand(call, 3)?;
    if !is_truth(importer, mask) {
        return importer.add(call, Add {}, &[scores, mask], "biased");
    }
    let zero = importer.new_constant(&format!("{}.false", call.output()?), Folded::scalar(0.0))?;
    let never = importer.new_constant(&format!("{}.never", call.output()?), Folded::scalar(f32::NEG_INFINITY))?;
    importer.add(call, SelectLess {}, &[zero, mask, scores, never], "hidden")
}
