//! Pooling and means; and where windows lie, which convolution shares.

use super::attributes;
use super::import::{Call, Importer};
use super::report::{Kind, Refusal};
use super::tensor::Folded;
use crate::ir::{Shape, Value};
use crate::op::pooling::Window;
use crate::op::spatial::Axis;
use crate::op::{AveragePool, Function, MaxPool, Mul, Op, ReduceMean, Reshape, Unary};
use onnx_protobuf::NodeProto;

const LARGEST_EXTENT: i64 = 1 << 16;
/// Larger powers of float32 values are infinite or nothing.
const LARGEST_POWER: i64 = 8;

/// Strides, dilations and padding, `auto_pad` resolved.
pub(super) struct Spatial {
    pub(super) strides: [usize; 2],
    pub(super) dilations: [usize; 2],
    pub(super) pads: [usize; 4],
}

/// An attribute of `count` sizes, each at least `least`.
fn sizes(node: &NodeProto, name: &str, least: i64, count: usize) -> Result<Option<Vec<usize>>, Refusal> {
    let Some(values) = attributes::ints(node, name)? else { return Ok(None) };
    let bad = |hint: String| Refusal::new(Kind::Attribute, format!("attribute '{name}' is {values:?}"), hint);
    if values.len() != count {
        return Err(bad(format!("{count} numbers are needed, for the axes behind the channels")));
    }
    if values.iter().any(|&v| v < least || v > LARGEST_EXTENT) {
        return Err(bad(format!("each must lie between {least} and {LARGEST_EXTENT}")));
    }
    Ok(Some(values.iter().map(|&v| v as usize).collect()))
}

/// An attribute of one size an axis; of one axis, it is that of the columns of an image with one row.
pub(super) fn by_axis(node: &NodeProto, name: &str, line: bool) -> Result<Option<[usize; 2]>, Refusal> {
    let sizes = sizes(node, name, 1, if line { 1 } else { 2 })?;
    Ok(sizes.map(|sizes| if line { [1, sizes[0]] } else { [sizes[0], sizes[1]] }))
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

/// Where windows of `kernel` lie along axes of `extents`.
fn windows(node: &NodeProto, extents: &[usize], kernel: &[usize]) -> Result<Vec<Axis>, Refusal> {
    if kernel.iter().any(|&k| k == 0 || k as i64 > LARGEST_EXTENT) {
        return Err(Refusal::new(
            Kind::Size,
            format!("a kernel of {kernel:?}"),
            format!("each extent must lie between 1 and {LARGEST_EXTENT}"),
        ));
    }
    let count = extents.len();
    let strides = sizes(node, "strides", 1, count)?.unwrap_or_else(|| vec![1; count]);
    let dilations = sizes(node, "dilations", 1, count)?.unwrap_or_else(|| vec![1; count]);
    let explicit = sizes(node, "pads", 0, 2 * count)?;
    let axis = |i: usize, before: usize, after: usize| Axis {
        input: extents[i],
        kernel: kernel[i],
        stride: strides[i],
        dilation: dilations[i],
        before,
        after,
    };
    let same = |i: usize| {
        let reach = (extents[i].div_ceil(strides[i]) - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1;
        let total = reach.saturating_sub(extents[i]);
        (total / 2, total - total / 2)
    };
    let padded: Box<dyn Fn(usize) -> (usize, usize)> = match attributes::string(node, "auto_pad")?.unwrap_or("NOTSET") {
        "NOTSET" | "" => Box::new(|i| explicit.as_ref().map_or((0, 0), |pads| (pads[i], pads[count + i]))),
        "VALID" => Box::new(|_| (0, 0)),
        "SAME_UPPER" => Box::new(same),
        "SAME_LOWER" => Box::new(|i| {
            let (less, more) = same(i);
            (more, less)
        }),
        other => return Err(Refusal::new(Kind::Attribute, format!("auto_pad is '{other}'"), "NOTSET, VALID, SAME_UPPER or SAME_LOWER")),
    };
    let place = |i: usize| {
        let (before, after) = padded(i);
        axis(i, before, after)
    };
    Ok((0..count).map(place).collect())
}

/// Where windows of `kernel` lie on an image of `extents`, of one row if it is a line.
pub(super) fn spatial(node: &NodeProto, extents: [usize; 2], kernel: [usize; 2], line: bool) -> Result<Spatial, Refusal> {
    let given = usize::from(line);
    let mut axes = windows(node, &extents[given..], &kernel[given..])?;
    if line {
        axes.insert(0, Axis { input: extents[0], kernel: kernel[0], stride: 1, dilation: 1, before: 0, after: 0 });
    }
    let Window { strides, dilations, pads, .. } = window([axes[0], axes[1]], false);
    Ok(Spatial { strides, dilations, pads })
}

fn window(axes: [Axis; 2], ceil: bool) -> Window {
    let [rows, columns] = axes;
    Window {
        kernel: [rows.kernel, columns.kernel],
        strides: [rows.stride, columns.stride],
        pads: [rows.before, columns.before, rows.after, columns.after],
        dilations: [rows.dilation, columns.dilation],
        ceil,
    }
}

/// The windows of a pooling of `[N, C, ..]`, and whether a last one may reach beyond the padding.
fn pooling_windows(call: &Call<'_>, shape: &Shape) -> Result<(Vec<Axis>, bool), Refusal> {
    let [_, extents @ ..] = &shape.fixed()[..] else { return Err(unpoolable(shape)) };
    if !shape.is_batched() || !(1..=3).contains(&extents.len()) {
        return Err(unpoolable(shape));
    }
    let kernel = sizes(call.node, "kernel_shape", 1, extents.len())?;
    let kernel = kernel.ok_or_else(|| Refusal::new(Kind::Attribute, "kernel_shape is missing", "the exporter wrote an invalid node"))?;
    let axes = windows(call.node, extents, &kernel)?;
    if let Some(axis) = axes.iter().find(|axis| axis.before.max(axis.after) >= axis.kernel * axis.dilation) {
        let why = format!("pads {} and {} reach beyond a kernel of {}", axis.before, axis.after, axis.kernel);
        return Err(Refusal::new(Kind::Attribute, why, "a window must see at least one element"));
    }
    Ok((axes, attributes::int(call.node, "ceil_mode")?.unwrap_or(0) != 0))
}

fn unpoolable(shape: &Shape) -> Refusal {
    Refusal::unsupported(format!("runs over {shape}"), "only [N, C, L], [N, C, H, W] and [N, C, D, H, W] can be pooled")
}

/// The last of the operations that pool x over windows along one, two or three axes, and what it reads; of three, planes are pooled first and
/// then what is left of the depth.
fn pooled<'m>(
    importer: &mut Importer<'m>,
    call: &Call<'m>,
    x: Value,
    (axes, ceil): (&[Axis], bool),
    op: &dyn Fn(Window) -> Op,
) -> Result<(Op, Value), Refusal> {
    let extents = importer.graph.shape(x).fixed();
    let whole = |input| Axis { input, kernel: 1, stride: 1, dilation: 1, before: 0, after: 0 };
    let reshape = |extents: &[usize]| Op::from(Reshape { shape: Shape::batched(extents) });
    match *axes {
        [columns] => {
            let image = importer.add(call, reshape(&[extents[0], 1, extents[1]]), &[x], "image")?;
            let row = importer.add(call, op(window([whole(1), columns], ceil)), &[image], "row")?;
            let columns = importer.graph.shape(row).fixed()[2];
            Ok((reshape(&[extents[0], columns]), row))
        }
        [rows, columns] => Ok((op(window([rows, columns], ceil)), x)),
        [depth, rows, columns] => {
            let planes = importer.add(call, reshape(&[extents[0] * extents[1], extents[2], extents[3]]), &[x], "planes")?;
            let planes = importer.add(call, op(window([rows, columns], ceil)), &[planes], "of_planes")?;
            let [_, rows, columns] = importer.graph.shape(planes).fixed()[..] else { return Err(unpoolable(importer.graph.shape(planes))) };
            let stack = importer.add(call, reshape(&[extents[0], extents[1], rows * columns]), &[planes], "stack")?;
            let stack = importer.add(call, op(window([depth, whole(rows * columns)], ceil)), &[stack], "of_stack")?;
            let depth = importer.graph.shape(stack).fixed()[1];
            Ok((reshape(&[extents[0], depth, rows, columns]), stack))
        }
        _ => Err(unpoolable(importer.graph.shape(x))),
    }
}

pub(super) fn max_pool<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    if call.node.output.get(1).is_some_and(|o| !o.is_empty() && importer.readers(o) > 0) {
        return Err(Refusal::unsupported("its indices are read", "only its first output may be used"));
    }
    let x = importer.operand(call, 0)?;
    let (axes, ceil) = pooling_windows(call, importer.graph.shape(x))?;
    let (op, of) = pooled(importer, call, x, (&axes, ceil), &|window| MaxPool { window }.into())?;
    importer.finish(call, op, &[of])
}

pub(super) fn average_pool<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let (axes, ceil) = pooling_windows(call, importer.graph.shape(x))?;
    let include_padding = attributes::int(call.node, "count_include_pad")?.unwrap_or(0) != 0;
    let (op, of) = pooled(importer, call, x, (&axes, ceil), &|window| AveragePool { window, include_padding }.into())?;
    importer.finish(call, op, &[of])
}

/// The p-norm of each window: the root of the mean of powers, times the elements of a window.
pub(super) fn lp_pool<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let p = attributes::int(call.node, "p")?.unwrap_or(2);
    if !(1..=LARGEST_POWER).contains(&p) {
        return Err(Refusal::new(Kind::Attribute, format!("p is {p}"), format!("it must lie between 1 and {LARGEST_POWER}")));
    }
    let x = importer.operand(call, 0)?;
    let (mut axes, ceil) = pooling_windows(call, importer.graph.shape(x))?;
    for axis in axes.iter_mut().filter(|_| ceil) {
        // Zeros that a last window reaches count as padding does, so that every window has as many elements.
        let outputs = axis.outputs("LpPool", true).map_err(|error| Refusal::new(Kind::Shape, error.what, error.hint))?;
        axis.after = axis.after.max(((outputs - 1) * axis.stride + axis.reach()).saturating_sub(axis.input + axis.before));
    }
    let base = if p % 2 == 1 { importer.add(call, Unary { function: Function::Abs }, &[x], "size")? } else { x };
    let mut power = base;
    for _ in 1..p {
        power = importer.add(call, Mul {}, &[power, base], "power")?;
    }
    let (op, of) = pooled(importer, call, power, (&axes, false), &|window| AveragePool { window, include_padding: true }.into())?;
    let mean = importer.add(call, op, &[of], "mean")?;
    let elements: usize = axes.iter().map(|axis| axis.kernel).product();
    let elements = importer.new_constant(&format!("{}.elements", call.output()?), Folded::scalar(elements as f32))?;
    if p == 1 {
        return importer.finish(call, Mul {}, &[mean, elements]);
    }
    let sum = importer.add(call, Mul {}, &[mean, elements], "sum")?;
    if p == 2 {
        return importer.finish(call, Unary { function: Function::Sqrt }, &[sum]);
    }
    let logarithm = importer.add(call, Unary { function: Function::Log }, &[sum], "logarithm")?;
    let exponent = importer.new_constant(&format!("{}.exponent", call.output()?), Folded::scalar(1.0 / p as f32))?;
    let scaled = importer.add(call, Mul {}, &[logarithm, exponent], "scaled")?;
    importer.finish(call, Unary { function: Function::Exp }, &[scaled])
}

pub(super) fn global_max_pool<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let shape = importer.graph.shape(x);
    let extents = if shape.is_batched() { shape.fixed() } else { vec![] };
    let axis = |&input: &usize| Axis { input, kernel: input, stride: 1, dilation: 1, before: 0, after: 0 };
    let axes: Vec<Axis> = extents.iter().skip(1).map(axis).collect();
    let (op, of) = pooled(importer, call, x, (&axes, false), &|window| MaxPool { window }.into())?;
    importer.finish(call, op, &[of])
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
