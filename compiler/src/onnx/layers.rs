//! Layers with learned tensors: convolution, linear, batch normalization; and dropout.

use super::attributes;
use super::import::{Binding, Call, Importer};
use super::pooling::{as_image, by_axis, finish_image, spatial};
use super::report::{Kind, Refusal};
use super::tensor::Folded;
use super::untie::is_absent_bias;
use crate::ir::{Dim, Shape, Value};
use crate::op::{Add, BatchNormalization, Convolution, Dropout, Embedding, Linear, MatrixProduct, Mul, Op, Reshape};

const LARGEST_EXTENT: i64 = 1 << 16;

pub(super) fn conv<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (x, frame) = importer.padded_operand(call, 0)?;
    let w = importer.operand(call, 1)?;
    let w_shape = importer.graph.shape(w).clone();
    let (kernel, axes) = match w_shape.0[..] {
        [_, _, Dim::Fixed(kh), Dim::Fixed(kw)] => ([kh, kw], 4),
        [_, _, Dim::Fixed(k)] => ([1, k], 3),
        _ => ([0, 0], 0),
    };
    let x_shape = importer.graph.shape(x).clone();
    if x_shape.rank() != axes || !x_shape.is_batched() {
        let why = format!("convolves {x_shape} with {w_shape}");
        return Err(Refusal::unsupported(why, "only 1-d and 2-d convolutions of [N, C, H, W] with [O, C, kh, kw] can be trained"));
    }
    let (x, [rows, columns], line) = as_image(importer, call, x)?;
    if let Some(declared) = by_axis(call.node, "kernel_shape", line)?
        && declared != kernel
    {
        let why = format!("kernel_shape {declared:?} differs from the weight's {kernel:?}");
        return Err(Refusal::new(Kind::Shape, why, "the file is damaged; export it again"));
    }
    let w = if line {
        let image = [w_shape.fixed()[0], w_shape.fixed()[1], 1, kernel[1]];
        importer.add(call, Reshape { shape: Shape::uniform(&image) }, &[w], "kernel")?
    } else {
        w
    };
    let groups = attributes::int(call.node, "group")?.unwrap_or(1);
    if !(1..=LARGEST_EXTENT).contains(&groups) {
        return Err(Refusal::new(Kind::Attribute, format!("group is {groups}"), "it must be positive and divide the channels"));
    }
    let padded = [rows + frame[0] + frame[2], columns + frame[1] + frame[3]];
    let place = spatial(call.node, padded, kernel, line)?;
    let pads = std::array::from_fn(|side| place.pads[side] + frame[side]);
    let op = Convolution { strides: place.strides, dilations: place.dilations, pads, groups: groups as usize };
    let mut inputs = vec![x, w];
    inputs.extend(bias(importer, call)?);
    finish_image(importer, call, op.into(), &inputs, line)
}

/// The third input, unless it is absent or the zeros that an exporter puts in its place.
pub(super) fn bias<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<Option<Value>, Refusal> {
    let Some(name) = call.optional(2) else { return Ok(None) };
    let absent = match importer.binding(name) {
        Binding::Initializer(index) => is_absent_bias(&call.node.op_type, 2, &importer.model.initializer[*index]),
        Binding::Folded(Folded { elements: super::tensor::Elements::Floats(values), .. }) => values.iter().all(|&v| v == 0.0),
        _ => false,
    };
    if absent { Ok(None) } else { importer.operand(call, 2).map(Some) }
}

pub(super) fn gemm<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let flag = |name| attributes::int(call.node, name).map(|f| f.unwrap_or(0) != 0);
    if flag("transA")? {
        return Err(Refusal::unsupported("transposes its first operand, the activations", "transA must be 0: the examples stay first"));
    }
    let (alpha, beta) = (attributes::float(call.node, "alpha")?.unwrap_or(1.0), attributes::float(call.node, "beta")?.unwrap_or(1.0));
    let x = importer.operand(call, 0)?;
    let mut w = importer.unaligned_operand(call, 1)?;
    check_linear(importer, x, w)?;
    if flag("transB")? {
        w = importer.transposed(call, w)?;
    }
    let bias = if beta == 0.0 { None } else { bias(importer, call)? };
    let outputs = importer.graph.shape(w).0[1];
    if let Some(c) = bias.filter(|&c| alpha == 1.0 && beta == 1.0 && importer.graph.shape(c) == &Shape(vec![outputs])) {
        return importer.finish(call, Linear {}, &[x, w, c]);
    }
    if alpha == 1.0 && bias.is_none() {
        return importer.finish(call, Linear {}, &[x, w]);
    }
    let mut y = importer.add(call, Linear {}, &[x, w], "product")?;
    if alpha != 1.0 {
        let alpha = importer.new_constant(&format!("{}.alpha", call.output()?), Folded::scalar(alpha))?;
        if bias.is_none() {
            return importer.finish(call, Mul {}, &[y, alpha]);
        }
        y = importer.add(call, Mul {}, &[y, alpha], "scaled")?;
    }
    let Some(mut c) = bias else { return Ok(()) };
    if beta != 1.0 {
        let beta = importer.new_constant(&format!("{}.beta", call.output()?), Folded::scalar(beta))?;
        c = importer.add(call, Mul {}, &[c, beta], "bias")?;
    }
    importer.finish(call, Add {}, &[y, c])
}

pub(super) fn mat_mul<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (a, b) = (importer.unaligned_operand(call, 0)?, importer.unaligned_operand(call, 1)?);
    let both = importer.graph.shape(a).is_batched() && importer.graph.shape(b).is_batched();
    if let Some(frame) = importer.frame.filter(|frame| frame.batch + if both { 2 } else { 1 } >= frame.rank) {
        let why = format!("multiplies matrices whose examples lie along axis {}", frame.batch);
        return Err(Refusal::unsupported(why, "the examples must lie before the matrices"));
    }
    if both {
        let ((a, transpose_a), (b, transpose_b)) = (untransposed(importer, a), untransposed(importer, b));
        return importer.finish(call, MatrixProduct { transpose_a, transpose_b }, &[a, b]);
    }
    check_linear(importer, a, b)?;
    let shape = importer.graph.shape(a).clone();
    let Some((&features, positions)) =
        shape.fixed().split_last().filter(|(_, positions)| positions.len() > 1).map(|(f, p)| (f, p.to_vec()))
    else {
        return importer.finish(call, Linear {}, &[a, b]);
    };
    let rows = importer.add(call, Reshape { shape: Shape::batched(&[positions.iter().product(), features]) }, &[a], "rows")?;
    let product = importer.add(call, Linear {}, &[rows, b], "product")?;
    let outputs = importer.graph.shape(b).fixed()[1];
    let extents: Vec<usize> = positions.into_iter().chain([outputs]).collect();
    importer.finish(call, Reshape { shape: Shape::batched(&extents) }, &[product])
}

/// Rows of a learned table, chosen by whole numbers among the examples.
pub(super) fn embedding<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    if let Binding::Places(places) = importer.binding(call.input(1)?).clone() {
        return places.gather(importer, call);
    }
    let (table, indices) = (importer.operand(call, 0)?, importer.operand(call, 1)?);
    let (table_shape, shape) = (importer.graph.shape(table).clone(), importer.graph.shape(indices).clone());
    let axis = attributes::int(call.node, "axis")?.unwrap_or(0);
    let (&[_, Dim::Fixed(width)], true, 0 | -2) = (&table_shape.0[..], shape.is_batched(), axis) else {
        let why = format!("gathers from {table_shape} along axis {axis} by {shape}");
        return Err(Refusal::unsupported(why, "indices must be constants, or the input's into the rows of a learned table [V, D]"));
    };
    let positions = shape.elements();
    let flat = match shape.rank() {
        2 => indices,
        _ => importer.add(call, Reshape { shape: Shape::batched(&[positions]) }, &[indices], "indices")?,
    };
    if shape.rank() == 2 {
        return importer.finish(call, Embedding {}, &[table, flat]);
    }
    let rows = importer.add(call, Embedding {}, &[table, flat], "rows")?;
    let extents = [shape.fixed(), vec![width]].concat();
    importer.finish(call, Reshape { shape: Shape::batched(&extents) }, &[rows])
}

/// What a swap of the last two axes is made of, and whether `value` is one.
fn untransposed(importer: &Importer<'_>, value: Value) -> (Value, bool) {
    let Op::Transpose(transpose) = &importer.graph.node(value.node).op else { return (value, false) };
    let mut perm: Vec<usize> = (0..transpose.perm.len()).collect();
    let rank = perm.len();
    if rank > 2 {
        perm.swap(rank - 2, rank - 1);
    }
    match importer.graph.inputs(value.node).first() {
        Some(&source) if rank > 2 && perm == transpose.perm => (source, true),
        _ => (value, false),
    }
}

fn check_linear(importer: &Importer<'_>, x: Value, w: Value) -> Result<(), Refusal> {
    let (x, w) = (importer.graph.shape(x), importer.graph.shape(w));
    if x.is_batched() && x.rank() >= 2 && w.rank() == 2 && !w.is_batched() {
        return Ok(());
    }
    Err(Refusal::unsupported(
        format!("multiplies {x} by {w}"),
        "the first operand must be activations [N, .., I], the second a learned matrix or activations too",
    ))
}

pub(super) fn batch_normalization<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    if attributes::int(call.node, "spatial")?.unwrap_or(1) == 0 {
        return Err(Refusal::unsupported("normalizes every position by itself (spatial = 0)", "use statistics by channel"));
    }
    if let Some(used) = call.node.output.iter().skip(1).find(|o| !o.is_empty() && importer.readers(o) > 0) {
        return Err(Refusal::unsupported(format!("its statistics '{used}' are read"), "only its first output may be used"));
    }
    let inputs = (0..5).map(|slot| importer.operand(call, slot)).collect::<Result<Vec<_>, _>>()?;
    for &statistic in &inputs[3..] {
        let node = importer.graph.node(statistic.node);
        let state = matches!(&node.op, Op::Parameter(p) if p.role == crate::ir::graph::Role::State);
        if !state {
            let why = format!("its running statistic '{}' is not an initialiser of its own", node.name);
            return Err(Refusal::unsupported(why, "store running mean and variance as initialisers"));
        }
    }
    let momentum = decimal(attributes::float(call.node, "momentum")?.unwrap_or(0.9));
    let epsilon = decimal(attributes::float(call.node, "epsilon")?.unwrap_or(1e-5));
    if !(0.0..=1.0).contains(&momentum) || epsilon < 0.0 {
        let why = format!("momentum is {momentum}, epsilon {epsilon}");
        return Err(Refusal::new(Kind::Attribute, why, "momentum lies between 0 and 1, epsilon is not negative"));
    }
    importer.finish(call, BatchNormalization { epsilon, momentum }, &inputs)
}

/// The shortest decimal that rounds to `value`: 1e-5 was meant where the file's float32 says 9.99999974e-6.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

pub(super) fn dropout<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    if let Some(mask) = call.node.output.get(1).filter(|o| !o.is_empty() && importer.readers(o) > 0) {
        return Err(Refusal::unsupported(format!("its mask '{mask}' is read"), "only its first output may be used"));
    }
    let ratio = match attributes::float(call.node, "ratio")? {
        Some(ratio) => ratio,
        None => match importer.setting(call, 1)? {
            Some(folded) => folded.single().ok_or_else(|| Refusal::new(Kind::Shape, "its ratio is no scalar", "export it again"))?,
            None => 0.5,
        },
    };
    if !(0.0..1.0).contains(&ratio) {
        return Err(Refusal::new(Kind::Attribute, format!("ratio is {ratio}"), "it must be at least 0 and below 1"));
    }
    let x = importer.operand(call, 0)?;
    importer.finish(call, Dropout { ratio }, &[x])
}
