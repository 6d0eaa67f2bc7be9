//! Pooling and means; and where windows lie, which convolution shares.

use super::attributes;
use super::import::{Call, Importer};
use super::report::{Kind, Refusal};
use super::shapes::axes_of;
use crate::ir::Value;
use crate::op::pooling::Window;
use crate::op::{AveragePool, MaxPool, ReduceMean};
use onnx_protobuf::NodeProto;

const LARGEST_EXTENT: i64 = 1 << 16;

/// Strides, dilations and padding, `auto_pad` resolved.
pub(super) struct Spatial {
    pub(super) strides: [usize; 2],
    pub(super) dilations: [usize; 2],
    pub(super) pads: [usize; 4],
}

/// An attribute of `N` sizes, each at least `least`.
pub(super) fn sizes<const N: usize>(node: &NodeProto, name: &str, least: i64) -> Result<Option<[usize; N]>, Refusal> {
    let Some(values) = attributes::ints(node, name)? else { return Ok(None) };
    let bad = |hint: String| Refusal::new(Kind::Attribute, format!("attribute '{name}' is {values:?}"), hint);
    if values.len() != N {
        return Err(bad(format!("{N} numbers are needed: only 2-d windows can be trained")));
    }
    if values.iter().any(|&v| v < least || v > LARGEST_EXTENT) {
        return Err(bad(format!("each must lie between {least} and {LARGEST_EXTENT}")));
    }
    Ok(Some(std::array::from_fn(|i| values[i] as usize)))
}

/// Where windows of `kernel` lie on an image of `extents`.
pub(super) fn spatial(node: &NodeProto, extents: [usize; 2], kernel: [usize; 2]) -> Result<Spatial, Refusal> {
    if kernel.iter().any(|&k| k == 0 || k as i64 > LARGEST_EXTENT) {
        return Err(Refusal::new(
            Kind::Size,
            format!("a kernel of {kernel:?}"),
            format!("each extent must lie between 1 and {LARGEST_EXTENT}"),
        ));
    }
    let strides = sizes(node, "strides", 1)?.unwrap_or([1, 1]);
    let dilations = sizes(node, "dilations", 1)?.unwrap_or([1, 1]);
    let explicit = sizes::<4>(node, "pads", 0)?;
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

/// The input and its rows and columns.
fn image<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(Value, [usize; 2]), Refusal> {
    let x = importer.operand(call, 0)?;
    let shape = importer.graph.shape(x);
    match shape.fixed()[..] {
        [_, rows, columns] if shape.is_batched() => Ok((x, [rows, columns])),
        _ => Err(Refusal::unsupported(format!("pools {shape}"), "only 2-d pooling of [N, C, H, W] can be trained")),
    }
}

fn window(call: &Call<'_>, extents: [usize; 2]) -> Result<Window, Refusal> {
    let kernel = sizes(call.node, "kernel_shape", 1)?;
    let kernel = kernel.ok_or_else(|| Refusal::new(Kind::Attribute, "kernel_shape is missing", "the exporter wrote an invalid node"))?;
    let Spatial { strides, dilations, pads } = spatial(call.node, extents, kernel)?;
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
    let (x, extents) = image(importer, call)?;
    let window = window(call, extents)?;
    importer.finish(call, MaxPool { window }, &[x])
}

pub(super) fn average_pool<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (x, extents) = image(importer, call)?;
    let window = window(call, extents)?;
    let include_padding = attributes::int(call.node, "count_include_pad")?.unwrap_or(0) != 0;
    importer.finish(call, AveragePool { window, include_padding }, &[x])
}

pub(super) fn global_max_pool<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (x, kernel) = image(importer, call)?;
    let window = Window { kernel, strides: [1, 1], pads: [0; 4], dilations: [1, 1], ceil: false };
    importer.finish(call, MaxPool { window }, &[x])
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

pub(super) fn reduce_mean<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let rank = importer.graph.shape(x).rank();
    let noop = attributes::int(call.node, "noop_with_empty_axes")?.unwrap_or(0) != 0;
    let axes = axes_of(importer, call, rank)?.unwrap_or_default();
    if axes.is_empty() && noop {
        let output = call.output()?;
        importer.bind(output, x);
        return Ok(());
    }
    let mut axes = if axes.is_empty() { (0..rank).collect() } else { axes };
    axes.sort_unstable();
    axes.dedup();
    let shape = importer.graph.shape(x);
    if !shape.is_batched() || axes.contains(&0) {
        return Err(Refusal::unsupported(
            format!("takes the mean of {shape} over axes {axes:?}"),
            "only means within an example can be trained",
        ));
    }
    let keep_dims = attributes::int(call.node, "keepdims")?.unwrap_or(1) != 0;
    importer.finish(call, ReduceMean { axes, keep_dims }, &[x])
}

/// Zeros around rows and columns: nothing by itself, padding of the convolutions that read it.
pub(super) fn pad<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let mode = attributes::string(call.node, "mode")?.unwrap_or("constant");
    let fill = match importer.setting(call, 2)? {
        Some(folded) => folded.single(),
        None => Some(attributes::float(call.node, "value")?.unwrap_or(0.0)),
    };
    if mode != "constant" || fill != Some(0.0) {
        return Err(Refusal::unsupported(format!("pads in mode '{mode}', not with zeros"), "only zeros can be trained with"));
    }
    let amounts = match attributes::ints(call.node, "pads")? {
        Some(amounts) => Some(amounts.to_vec()),
        None => importer.setting(call, 1)?.and_then(|folded| folded.integers()),
    };
    let amounts = amounts.ok_or_else(|| Refusal::unsupported("its amounts are not known at import", "use constants"))?;
    let (x, inner) = importer.padded_operand(call, 0)?;
    let rank = importer.graph.shape(x).rank();
    let axes = match importer.setting(call, 3)?.and_then(|folded| folded.integers()) {
        Some(axes) => axes.into_iter().map(|axis| super::shapes::normalize_axis(axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    let wrong = || Refusal::unsupported(format!("pads {} by {amounts:?}", importer.graph.shape(x)), "only rows and columns can be padded");
    if amounts.len() != 2 * axes.len() || rank != 4 || !importer.graph.shape(x).is_batched() {
        return Err(wrong());
    }
    let mut frame = inner;
    for (i, &axis) in axes.iter().enumerate() {
        for (side, amount) in [(0, amounts[i]), (2, amounts[i + axes.len()])] {
            match amount {
                0 => {}
                1..=LARGEST_EXTENT if axis >= 2 && frame[axis - 2 + side] < LARGEST_EXTENT as usize => {
                    frame[axis - 2 + side] += amount as usize
                }
                _ => return Err(wrong()),
            }
        }
    }
    let output = call.output()?;
    if frame == [0; 4] {
        importer.bind(output, x)
    } else {
        importer.bind_padded(output, x, frame)
    }
    Ok(())
}
