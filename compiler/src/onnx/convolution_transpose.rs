//! Transposed convolution as a convolution: of x with zeros between its elements, seen from the far end, so that the kernel need not be turned.
//!
//! With f the reversal of rows and columns, y = f(convolve(f(spread(x)), w)): [`Resample`] spreads and reverses in one pass an axis, and another
//! reverses what comes out and takes the part that the padding leaves.

use super::attributes;
use super::import::{Call, Importer};
use super::layers::bias;
use super::pooling::{as_image, by_axis};
use super::report::{Kind, Refusal};
use crate::ir::{Dim, Shape, Value};
use crate::op::{Add, Convolution, Op, Resample, Reshape, Transpose};

/// Elements of an axis that zeros between may make.
const LARGEST_EXTENT: usize = 1 << 16;

/// One spatial axis.
struct Axis {
    input: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    before: usize,
    output: usize,
}

impl Axis {
    /// Elements of x with zeros between them, and of everything they reach.
    fn spread(&self) -> usize {
        (self.input - 1) * self.stride + 1
    }

    fn reach(&self) -> usize {
        self.spread() + (self.kernel - 1) * self.dilation
    }

    /// x from its end on, zeros between.
    fn taps_in(&self) -> Vec<Vec<(usize, f32)>> {
        let tap = |to: usize| {
            let at = self.spread() - 1 - to;
            if at.is_multiple_of(self.stride) { vec![(at / self.stride, 1.0)] } else { vec![] }
        };
        (0..self.spread()).map(tap).collect()
    }

    /// The part that is left of what comes out reversed; zeros past its end.
    fn taps_out(&self) -> Vec<Vec<(usize, f32)>> {
        let last = self.reach() - 1;
        (0..self.output).map(|to| last.checked_sub(to + self.before).map_or_else(Vec::new, |from| vec![(from, 1.0)])).collect()
    }
}

pub(super) fn convert<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let (x, w) = (importer.operand(call, 0)?, importer.operand(call, 1)?);
    let w_shape = importer.graph.shape(w).clone();
    let shape = importer.graph.shape(x).clone();
    let (x, extents, line) = as_image(importer, call, x)?;
    let (w, [inputs, per_group, kernel_rows, kernel_width]) = match w_shape.0[..] {
        [Dim::Fixed(c), Dim::Fixed(o), Dim::Fixed(kh), Dim::Fixed(kw)] if !line => (w, [c, o, kh, kw]),
        [Dim::Fixed(c), Dim::Fixed(o), Dim::Fixed(k)] if line => {
            let kernel = Reshape { shape: Shape::uniform(&[c, o, 1, k]) };
            (importer.add(call, kernel, &[w], "kernel")?, [c, o, 1, k])
        }
        _ => {
            return Err(Refusal::unsupported(
                format!("transposes the convolution of {shape} by {w_shape}"),
                "only 1-d and 2-d can be trained",
            ));
        }
    };
    let groups = attributes::int(call.node, "group")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(1).max(1);
    if !inputs.is_multiple_of(groups) {
        let why = format!("has {groups} groups of {inputs} input channels");
        return Err(Refusal::new(Kind::Attribute, why, "the groups must divide the channels"));
    }
    let axes = geometry(call, extents, [kernel_rows, kernel_width], line)?;
    let w = turned(importer, call, w, [groups, inputs / groups, per_group, kernel_rows, kernel_width])?;
    let mut value = x;
    for (i, axis) in axes.iter().enumerate() {
        let taps = axis.taps_in();
        if taps != [[(0, 1.0)]] {
            value = importer.add(call, Resample { axis: i + 2, taps }, &[value], "spread")?;
        }
    }
    let margins = axes.each_ref().map(|axis| (axis.kernel - 1) * axis.dilation);
    let op = Convolution {
        strides: [1, 1],
        dilations: axes.each_ref().map(|axis| axis.dilation),
        pads: [margins[0], margins[1], margins[0], margins[1]],
        groups,
    };
    value = importer.add(call, op, &[value, w], "reversed")?;
    let mut last: Vec<Op> = Vec::new();
    for (i, axis) in axes.iter().enumerate() {
        let taps = axis.taps_out();
        if taps != [[(0, 1.0)]] {
            last.push(Resample { axis: i + 2, taps }.into());
        }
    }
    let outputs = groups * per_group;
    if line {
        last.push(Reshape { shape: Shape::batched(&[outputs, axes[1].output]) }.into());
    }
    let bias = bias(importer, call)?;
    let Some(bias) = bias else { return finish(importer, call, value, last) };
    for op in last {
        value = importer.add(call, op, &[value], "part")?;
    }
    let by_channel = if line { vec![outputs, 1] } else { vec![outputs, 1, 1] };
    let bias = importer.add(call, Reshape { shape: Shape::uniform(&by_channel) }, &[bias], "bias")?;
    importer.finish(call, Add {}, &[value, bias])
}

/// The weight `[g c, o, kh, kw]` of g groups as `[g o, c, kh, kw]`: a view of it.
fn turned<'m>(importer: &mut Importer<'m>, call: &Call<'m>, w: Value, [g, c, o, kh, kw]: [usize; 5]) -> Result<Value, Refusal> {
    if g == 1 {
        return importer.add(call, Transpose { perm: vec![1, 0, 2, 3] }, &[w], "turned");
    }
    let mut w = w;
    if c > 1 {
        let grouped = importer.add(call, Reshape { shape: Shape::uniform(&[g, c, o, kh, kw]) }, &[w], "grouped")?;
        w = importer.add(call, Transpose { perm: vec![0, 2, 1, 3, 4] }, &[grouped], "turned_groups")?;
    }
    importer.add(call, Reshape { shape: Shape::uniform(&[g * o, c, kh, kw]) }, &[w], "turned")
}

fn finish<'m>(importer: &mut Importer<'m>, call: &Call<'m>, mut value: Value, mut ops: Vec<Op>) -> Result<(), Refusal> {
    let last = ops.pop();
    for op in ops {
        value = importer.add(call, op, &[value], "part")?;
    }
    match last {
        Some(op) => importer.finish(call, op, &[value]),
        None => {
            importer.bind(call.output()?, value);
            Ok(())
        }
    }
}

/// Both axes as the attributes describe them.
fn geometry(call: &Call<'_>, extents: [usize; 2], kernel: [usize; 2], line: bool) -> Result<[Axis; 2], Refusal> {
    let strides = by_axis(call.node, "strides", line)?.unwrap_or([1, 1]);
    let dilations = by_axis(call.node, "dilations", line)?.unwrap_or([1, 1]);
    let list = |name: &str| attributes::ints(call.node, name).map(|values| values.map(<[i64]>::to_vec));
    let both = |values: Option<Vec<i64>>, default: i64| -> Result<[i64; 2], Refusal> {
        match values.as_deref() {
            None => Ok([default; 2]),
            Some(&[columns]) if line => Ok([default, columns]),
            Some(&[rows, columns]) if !line => Ok([rows, columns]),
            Some(other) => Err(Refusal::new(Kind::Attribute, format!("{other:?} is not one number an axis"), "export the model again")),
        }
    };
    let extra = both(list("output_padding")?, 0)?;
    let wanted = both(list("output_shape")?, -1)?;
    let pads = match list("pads")?.as_deref() {
        None => [0; 4],
        Some(&[before, after]) if line => [0, before, 0, after],
        Some(&[top, left, bottom, right]) if !line => [top, left, bottom, right],
        Some(other) => return Err(Refusal::new(Kind::Attribute, format!("pads are {other:?}"), "two numbers an axis are needed")),
    };
    let auto = attributes::string(call.node, "auto_pad")?.unwrap_or("NOTSET");
    let axis = |i: usize| -> Result<Axis, Refusal> {
        let wrong = |why: String| Refusal::new(Kind::Attribute, why, "export the model again");
        let mut axis = Axis { input: extents[i], kernel: kernel[i], stride: strides[i], dilation: dilations[i], before: 0, output: 0 };
        if axis.kernel == 0 {
            return Err(wrong("its kernel is empty".to_owned()));
        }
        let whole = i64::try_from(axis.reach())
            .ok()
            .and_then(|reach| reach.checked_add(extra[i]))
            .ok_or_else(|| wrong("it is too large".to_owned()))?;
        let same = auto.starts_with("SAME").then(|| (axis.input * axis.stride) as i64);
        let (before, output) = match (wanted[i], same) {
            (-1, None) if auto == "VALID" => (0, whole),
            (-1, None) => (pads[i], whole - pads[i] - pads[i + 2]),
            (wanted, same) => {
                let wanted = if wanted == -1 { same.unwrap_or(whole) } else { wanted };
                let total = (whole - wanted).max(0);
                (if auto == "SAME_UPPER" { total / 2 } else { total - total / 2 }, wanted)
            }
        };
        axis.before = usize::try_from(before).map_err(|_| wrong(format!("pads are {pads:?}")))?;
        if axis.reach() > LARGEST_EXTENT || output > LARGEST_EXTENT as i64 {
            return Err(Refusal::new(
                Kind::Size,
                format!("reaches {} elements along an axis", axis.reach()),
                format!("at most {LARGEST_EXTENT} can be trained"),
            ));
        }
        axis.output = usize::try_from(output)
            .ok()
            .filter(|&n| n > 0)
            .ok_or_else(|| wrong(format!("its result has {output} elements along an axis")))?;
        Ok(axis)
    };
    Ok([axis(0)?, axis(1)?])
}
