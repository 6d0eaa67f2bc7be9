//! Scaled dot-product attention (opset 23), taken apart as its definition does.

use super::attributes;
use super::import::{Call, Importer};
use super::report::{Kind, Refusal};
use super::tensor::{Elements, Folded};
use crate::ir::{Dim, Shape, Value};
use crate::op::{Add, Function, MatrixProduct, Mul, Reshape, SelectLess, Softmax, Transpose, Unary};

/// softmax(q k^T * scale + mask) v of each head: `[N, heads, T, D]`, or `[N, T, heads D]`.
pub(super) fn convert<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    refuse_caches(importer, call)?;
    let heads = |name: &str| attributes::int(call.node, name).map(|n| n.and_then(|n| usize::try_from(n).ok()).unwrap_or(0));
    let (q_heads, kv_heads) = (heads("q_num_heads")?, heads("kv_num_heads")?);
    let queries = heads_operand(importer, call, 0)?;
    let joined = importer.graph.shape(queries).rank() == 3;
    let q = split_heads(importer, call, 0, q_heads)?;
    let k = split_heads(importer, call, 1, kv_heads)?;
    let v = split_heads(importer, call, 2, kv_heads)?;
    let [of_q, of_k] = [q, k].map(|value| importer.graph.shape(value).fixed());
    if of_q[0] != of_k[0] {
        let why = format!("{} heads of queries share {} heads of keys", of_q[0], of_k[0]);
        return Err(Refusal::unsupported(why, "repeat keys and values before exporting: both must have as many heads"));
    }
    let (rows, columns, width) = (of_q[1], of_k[1], of_q[2]);
    let scale = match attributes::float(call.node, "scale")? {
        Some(scale) if scale != 0.0 => scale,
        _ => (1.0 / (width as f64).sqrt()) as f32,
    };
    let scale = importer.new_constant(&format!("{}.scale", call.output()?), Folded::scalar(scale))?;
    let product = importer.add(call, MatrixProduct { transpose_a: false, transpose_b: true }, &[q, k], "product")?;
    let mut scores = importer.add(call, Mul {}, &[product, scale], "scores")?;
    scores = softcap(importer, call, scores)?;
    if attributes::int(call.node, "is_causal")?.unwrap_or(0) != 0 {
        importer.charge(rows.saturating_mul(columns))?;
        let below = (0..rows * columns).map(|i| if i % columns > i / columns { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Folded { dims: vec![rows, columns], elements: Elements::Floats(below) };
        let mask = importer.new_constant(&format!("{}.causal", call.output()?), mask)?;
        scores = importer.add(call, Add {}, &[scores, mask], "causal_scores")?;
    }
    if call.optional(3).is_some() {
        scores = masked(importer, call, scores)?;
    }
    let shares = importer.add(call, Softmax { log: false }, &[scores], "shares")?;
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

/// Adds the mask, or takes minus infinity where a mask of truth values does not hold.
fn masked<'m>(importer: &mut Importer<'m>, call: &Call<'m>, scores: Value) -> Result<Value, Refusal> {
    let truths = importer.setting(call, 3).ok().flatten().is_some_and(|folded| matches!(folded.elements, Elements::Integers(_)));
    let mask = importer.number_operand(call, 3)?;
    if !truths {
        return importer.add(call, Add {}, &[scores, mask], "masked");
    }
    let zero = importer.new_constant(&format!("{}.false", call.output()?), Folded::scalar(0.0))?;
    let never = importer.new_constant(&format!("{}.never", call.output()?), Folded::scalar(f32::NEG_INFINITY))?;
    importer.add(call, SelectLess {}, &[zero, mask, scores, never], "masked")
}
