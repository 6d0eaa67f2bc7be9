//! Normalization within an example, as means, roots and products.

use super::attributes;
use super::import::{Call, Importer};
use super::report::{Kind, Refusal};
use super::tensor::Folded;
use crate::ir::{Dim, Shape, Value};
use crate::op::{Add, Div, Function, Mul, ReduceMean, Resample, Reshape, SumTo, Unary};

/// (x - mean) / sqrt(variance + epsilon), the statistics being those over `axes`.
fn standardize<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Value, axes: Vec<usize>) -> Result<Value, Refusal> {
    let centre = importer.add(call, ReduceMean { axes: axes.clone(), keep_dims: true }, &[x], "mean")?;
    let minus = importer.new_constant(&format!("{}.minus", call.output()?), Folded::scalar(-1.0))?;
    let minus_centre = importer.add(call, Mul {}, &[centre, minus], "minus_mean")?;
    let centred = importer.add(call, Add {}, &[x, minus_centre], "centred")?;
    let square = importer.add(call, Mul {}, &[centred, centred], "square")?;
    divide_by_root(importer, call, centred, square, axes)
}

/// x / sqrt(mean of `square` over `axes` + epsilon)
fn divide_by_root<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Value, square: Value, axes: Vec<usize>) -> Result<Value, Refusal> {
    let epsilon = attributes::float(call.node, "epsilon")?.unwrap_or(1e-5);
    if epsilon < 0.0 {
        return Err(Refusal::new(Kind::Attribute, format!("epsilon is {epsilon}"), "it must not be negative"));
    }
    let variance = importer.add(call, ReduceMean { axes, keep_dims: true }, &[square], "variance")?;
    let epsilon = importer.new_constant(&format!("{}.epsilon", call.output()?), Folded::scalar(epsilon))?;
    let positive = importer.add(call, Add {}, &[variance, epsilon], "positive")?;
    let deviation = importer.add(call, Unary { function: Function::Sqrt }, &[positive], "deviation")?;
    let factor = importer.add(call, Unary { function: Function::Reciprocal }, &[deviation], "factor")?;
    importer.add(call, Mul {}, &[x, factor], "normalized")
}

/// Refuses statistics that are read.
fn only_first_output(importer: &Importer<'_>, call: &Call<'_>) -> Result<(), Refusal> {
    match call.node.output.iter().skip(1).find(|o| !o.is_empty() && importer.readers(o) > 0) {
        Some(used) => Err(Refusal::unsupported(format!("its statistics '{used}' are read"), "only its first output may be used")),
        None => Ok(()),
    }
}

/// normalized * scale + shift
fn finish_affine<'m>(
    importer: &mut Importer<'m>,
    call: &Call<'m>,
    normalized: Value,
    scale: Value,
    shift: Option<Value>,
) -> Result<(), Refusal> {
    let Some(shift) = shift else { return importer.finish(call, Mul {}, &[normalized, scale]) };
    let scaled = importer.add(call, Mul {}, &[normalized, scale], "scaled")?;
    importer.finish(call, Add {}, &[scaled, shift])
}

/// Over the axes from `axis` on (opset 17).
pub(super) fn layer_normalization<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    only_first_output(importer, call)?;
    let x = importer.operand(call, 0)?;
    let scale = importer.operand(call, 1)?;
    let shift = call.optional(2).map(|_| importer.operand(call, 2)).transpose()?;
    let axes = normalized_axes(importer, call, x)?;
    let normalized = standardize(importer, call, x, axes)?;
    finish_affine(importer, call, normalized, scale, shift)
}

/// The axes from the attribute `axis` on, the last one by default.
fn normalized_axes(importer: &Importer<'_>, call: &Call<'_>, x: Value) -> Result<Vec<usize>, Refusal> {
    let shape = importer.graph.shape(x);
    let axis = importer.own_axis(attributes::int(call.node, "axis")?.unwrap_or(-1), x)?;
    if !shape.is_batched() || axis == 0 {
        return Err(Refusal::unsupported(format!("normalizes {shape} from axis {axis} on"), "the examples must stay apart"));
    }
    Ok((axis..shape.rank()).collect())
}

/// x / sqrt(mean of squares + epsilon) * scale, over the axes from `axis` on (opset 23).
pub(super) fn rms_normalization<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (x, scale) = (importer.operand(call, 0)?, importer.operand(call, 1)?);
    let axes = normalized_axes(importer, call, x)?;
    let square = importer.add(call, Mul {}, &[x, x], "square")?;
    let normalized = divide_by_root(importer, call, x, square, axes)?;
    finish_affine(importer, call, normalized, scale, None)
}

/// `[C]` as `[C, 1, ..]`, so that it broadcasts over the positions of `[N, C, ..]`.
fn by_channel<'m>(importer: &mut Importer<'m>, call: &Call<'m>, slot: usize, rank: usize) -> Result<Value, Refusal> {
    let value = importer.operand(call, slot)?;
    let mut dims = importer.graph.shape(value).fixed();
    dims.resize(rank.saturating_sub(1).max(dims.len()), 1);
    importer.add(call, Reshape { shape: Shape::uniform(&dims) }, &[value], if slot == 1 { "scale" } else { "shift" })
}

/// The input `[N, C, ..]` and its shape.
fn channels<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(Value, Shape, usize), Refusal> {
    let x = importer.operand(call, 0)?;
    let shape = importer.graph.shape(x).clone();
    match shape.0[..] {
        [Dim::Batch, Dim::Fixed(channels), _, ..] => Ok((x, shape, channels)),
        _ => Err(Refusal::unsupported(format!("normalizes {shape}"), "[N, C, ..] is needed")),
    }
}

pub(super) fn instance_normalization<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (x, shape, _) = channels(importer, call)?;
    let (scale, shift) = (by_channel(importer, call, 1, shape.rank())?, by_channel(importer, call, 2, shape.rank())?);
    let axes: Vec<usize> = (2..shape.rank()).collect();
    let normalized = standardize(importer, call, x, axes)?;
    finish_affine(importer, call, normalized, scale, Some(shift))
}

/// Opset 18 scales by group, opset 21 by channel.
pub(super) fn group_normalization<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (x, shape, channels) = channels(importer, call)?;
    let groups = attributes::int(call.node, "num_groups")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    if groups == 0 || !channels.is_multiple_of(groups) {
        let why = format!("normalizes {channels} channels in {groups} groups");
        return Err(Refusal::new(Kind::Attribute, why, "num_groups must divide the channels"));
    }
    let grouped = Shape::batched(&[groups, shape.elements() / groups]);
    let split = importer.add(call, Reshape { shape: grouped }, &[x], "grouped")?;
    let normalized = standardize(importer, call, split, vec![2])?;
    if importer.opset >= 21 {
        let (scale, shift) = (by_channel(importer, call, 1, shape.rank())?, by_channel(importer, call, 2, shape.rank())?);
        let joined = importer.add(call, Reshape { shape }, &[normalized], "joined")?;
        return finish_affine(importer, call, joined, scale, Some(shift));
    }
    let (scale, shift) = (by_channel(importer, call, 1, 3)?, by_channel(importer, call, 2, 3)?);
    let scaled = importer.add(call, Mul {}, &[normalized, scale], "scaled")?;
    let shifted = importer.add(call, Add {}, &[scaled, shift], "shifted")?;
    importer.finish(call, Reshape { shape }, &[shifted])
}

/// x / (bias + alpha / size * sum of squares of the `size` channels around)^beta
pub(super) fn local_response<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (x, _, channels) = channels(importer, call)?;
    let number = |name: &str, default: f32| Ok::<_, Refusal>(attributes::float(call.node, name)?.unwrap_or(default));
    let (alpha, beta, bias) = (number("alpha", 1e-4)?, number("beta", 0.75)?, number("bias", 1.0)?);
    let size = attributes::int(call.node, "size")?.and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0);
    let size = size.ok_or_else(|| Refusal::new(Kind::Attribute, "size is missing or not positive", "export the model again"))?;
    if bias <= 0.0 || alpha < 0.0 {
        let why = format!("bias is {bias}, alpha {alpha}");
        return Err(Refusal::new(Kind::Attribute, why, "bias must be positive and alpha not negative: what is divided by is a power"));
    }
    let (before, after) = ((size - 1) / 2, size / 2);
    let around =
        |channel: usize| (channel.saturating_sub(before)..channels.min(channel + after + 1)).map(|c| (c, alpha / size as f32)).collect();
    let square = importer.add(call, Mul {}, &[x, x], "square")?;
    let sum = importer.add(call, Resample { axis: 1, taps: (0..channels).map(around).collect() }, &[square], "around")?;
    let bias = importer.new_constant(&format!("{}.bias", call.output()?), Folded::scalar(bias))?;
    let positive = importer.add(call, Add {}, &[sum, bias], "positive")?;
    let logarithm = importer.add(call, Unary { function: Function::Log }, &[positive], "logarithm")?;
    let exponent = importer.new_constant(&format!("{}.exponent", call.output()?), Folded::scalar(-beta))?;
    let scaled = importer.add(call, Mul {}, &[logarithm, exponent], "scaled")?;
    let factor = importer.add(call, Unary { function: Function::Exp }, &[scaled], "factor")?;
    importer.finish(call, Mul {}, &[x, factor])
}

/// x divided by its norm along an axis.
pub(super) fn lp_normalization<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let shape = importer.graph.shape(x).clone();
    let axis = importer.own_axis(attributes::int(call.node, "axis")?.unwrap_or(-1), x)?;
    if !shape.is_batched() || axis == 0 {
        return Err(Refusal::unsupported(format!("normalizes {shape} along axis {axis}"), "the examples must stay apart"));
    }
    let mut kept = shape;
    kept.0[axis] = Dim::Fixed(1);
    let norm = match attributes::int(call.node, "p")?.unwrap_or(2) {
        1 => {
            let size = importer.add(call, Unary { function: Function::Abs }, &[x], "size")?;
            importer.add(call, SumTo { shape: kept }, &[size], "norm")?
        }
        2 => {
            let square = importer.add(call, Mul {}, &[x, x], "square")?;
            let sum = importer.add(call, SumTo { shape: kept }, &[square], "sum")?;
            importer.add(call, Unary { function: Function::Sqrt }, &[sum], "norm")?
        }
        other => return Err(Refusal::new(Kind::Attribute, format!("p is {other}"), "1 or 2")),
    };
    importer.finish(call, Div {}, &[x, norm])
}
