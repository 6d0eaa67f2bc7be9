//! Pooling and means; and where windows lie, which convolution shares.

use super::attributes;
use super::import::{Call, Importer};
use super::report::{Kind, Refusal};
use crate::ir::{Shape, Value};
use crate::op::pooling::Window;
use crate::op::{AveragePool, MaxPool, Op, ReduceMean, Reshape};
use onnx_protobuf::NodeProto;

const LARGEST_EXTENT: i64 = 1 << 16;

/// Strides, dilations and padding, `auto_pad` resolved.
pub(super) struct Spatial {
    pub(super) strides: [usize; 2],
    pub(super) dilations: [usize; 2],
    pub(super) pads: [usize; 4],
}

/// An attribute of `N` sizes, each at least `least`.
fn sizes<const N: usize>(node: &NodeProto, name: &str, least: i64) -> Result<Option<[usize; N]>, Refusal> {
    let Some(values) = attributes::ints(node, name)? else { return Ok(None) };
    let bad = |hint: String| Refusal::new(Kind::Attribute, format!("attribute '{name}' is {values:?}"), hint);
    if values.len() != N {
        return Err(bad(format!("{N} numbers are needed: only 1-d and 2-d windows can be trained")));
    }
    if values.iter().any(|&v| v < least || v > LARGEST_EXTENT) {
        return Err(bad(format!("each must lie between {least} and {LARGEST_EXTENT}")));
    }
    Ok(Some(std::array::from_fn(|i| values[i] as usize)))
}

/// An attribute of one size an axis; of one axis, it is that of the columns of an image with one row.
pub(super) fn by_axis(node: &NodeProto, name: &str, line: bool) -> Result<Option<[usize; 2]>, Refusal> {
    if line { Ok(sizes::<1>(node, name, 1)?.map(|[columns]| [1, columns])) } else { sizes::<2>(node, name, 1) }
}

/// Activations as an image `[N, C, H, W]`; `[N, C, L]` as one with a row.
pub(super) fn as_image<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Value) -> Result<(Value, [usize; 2], bool), Refusal> {
    let shape = importer.graph.shape(x);
    match shape.fixed()[..] {
        [_, rows, columns] if shape.is_batched() => Ok((x, [rows, columns], false)),
        [channels, columns] if shape.is_batched() => {
            let image = importer.add(call, Reshape { shape: Shape::batched(&[channels, 1, columns]) }, &[x], "image")?;
            Ok((image, [1, columns], true))
        }
        _ => Err(Refusal::unsupported(format!("runs over {shape}"), "only [N, C, H, W] and [N, C, L] can be trained")),
    }
}

/// Adds the operation on an image that the node is; of one row, the row goes again.
pub(super) fn finish_image<'m>(importer: &mut Importer<'m>, call: &Call<'m>, op: Op, inputs: &[Value], line: bool) -> Result<(), Refusal> {
    if !line {
        return importer.finish(call, op, inputs);
    }
    let image = importer.add(call, op, inputs, "row")?;
    let extents = importer.graph.shape(image).fixed();
    importer.finish(call, Reshape { shape: Shape::batched(&[extents[0], extents[2]]) }, &[image])
}

/// Where windows of `kernel` lie on an image of `extents`.
pub(super) fn spatial(node: &NodeProto, extents: [usize; 2], kernel: [usize; 2], line: bool) -> Result<Spatial, Refusal> {
    if kernel.iter().any(|&k| k == 0 || k as i64 > LARGEST_EXTENT) {
        return Err(Refusal::new(
            Kind::Size,
            format!("a kernel of {kernel:?}"),
            format!("each extent must lie between 1 and {LARGEST_EXTENT}"),
        ));
    }
    let strides = by_axis(node, "strides", line)?.unwrap_or([1, 1]);
    let dilations = by_axis(node, "dilations", line)?.unwrap_or([1, 1]);
    let explicit =
        if line { sizes::<2>(node, "pads", 0)?.map(|[before, after]| [0, before, 0, after]) } else { sizes::<4>(node, "pads", 0)? };
    let pads = match attributes::string(node, "auto_pad")?.unwrap_or("NOTSET") {
        "NOTSET" | "" => explicit.unwrap_or([0; 4]),
        "VALID" => [0; 4],
        same @ ("SAME_UPPER" | "SAME_LOWER") => {
            let total: [usize; 2] = std::array::from_fn(|i| {
                let outputs = extents[i].div_ceil(strides[i]);
                let reach = (outputs - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1;
                reach.saturating_sub(extents[i])
            });
            let less = total.map(|t| t / 2);
            let more = [total[0] - less[0], total[1] - less[1]];
            let (before, after) = if same == "SAME_UPPER" { (less, more) } else { (more, less) };
            [before[0], before[1], after[0], after[1]]
        }
        other => return Err(Refusal::new(Kind::Attribute, format!("auto_pad is '{other}'"), "NOTSET, VALID, SAME_UPPER or SAME_LOWER")),
    };
    Ok(Spatial { strides, dilations, pads })
}

fn window(call: &Call<'_>, extents: [usize; 2], line: bool) -> Result<Window, Refusal> {
    let kernel = by_axis(call.node, "kernel_shape", line)?;
    let kernel = kernel.ok_or_else(|| Refusal::new(Kind::Attribute, "kernel_shape is missing", "the exporter wrote an invalid node"))?;
    let Spatial { strides, dilations, pads } = spatial(call.node, extents, kernel, line)?;
    let ceil = attributes::int(call.node, "ceil_mode")?.unwrap_or(0) != 0;
    if pads[0].max(pads[2]) >= kernel[0] * dilations[0] || pads[1].max(pads[3]) >= kernel[1] * dilations[1] {
        let why = format!("pads {pads:?} reach beyond a kernel of {kernel:?}");
        return Err(Refusal::new(Kind::Attribute, why, "a window must see at least one element"));
    }
    Ok(Window { kernel, strides, pads, dilations, ceil })
}

pub(super) fn max_pool<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    if call.node.output.get(1).is_some_and(|o| !o.is_empty() && importer.readers(o) > 0) {
        return Err(Refusal::unsupported("its indices are read", "only its first output may be used"));
    }
    let x = importer.operand(call, 0)?;
    let (x, extents, line) = as_image(importer, call, x)?;
    let window = window(call, extents, line)?;
    finish_image(importer, call, MaxPool { window }.into(), &[x], line)
}

pub(super) fn average_pool<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let (x, extents, line) = as_image(importer, call, x)?;
    let window = window(call, extents, line)?;
    let include_padding = attributes::int(call.node, "count_include_pad")?.unwrap_or(0) != 0;
    finish_image(importer, call, AveragePool { window, include_padding }.into(), &[x], line)
}

pub(super) fn global_max_pool<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let (x, kernel, line) = as_image(importer, call, x)?;
    let window = Window { kernel, strides: [1, 1], pads: [0; 4], dilations: [1, 1], ceil: false };
    finish_image(importer, call, MaxPool { window }.into(), &[x], line)
}

pub(super) fn global_average_pool<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let shape = importer.graph.shape(x);
    if !shape.is_batched() || shape.rank() < 3 {
        return Err(Refusal::unsupported(format!("pools {shape}"), "[N, C, ..] is needed"));
    }
    let axes = (2..shape.rank()).collect();
    importer.finish(call, ReduceMean { axes, keep_dims: true }, &[x])
}
