//! Resizing by interpolation: a weighted sum along each axis whose extent changes.

use super::attributes;
use super::import::{Call, Importer};
use super::report::{Kind, Refusal};
use super::shapes::normalize_axis;
use super::tensor::{Elements, Extent, Folded};
use crate::ir::Dim;
use crate::op::{Op, Resample};
use onnx_protobuf::NodeProto;

/// Elements of an axis that interpolation may make.
const LARGEST_EXTENT: f64 = 65536.0;

/// How one axis changes.
struct Axis {
    from: usize,
    to: usize,
    /// As the file says; the coordinates follow it, not the extents.
    scale: f64,
}

pub(super) fn resize<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.operand(call, 0)?;
    let shape = importer.graph.shape(x).clone();
    if !shape.is_batched() {
        return Err(Refusal::unsupported("resizes what is no activation", "resize it before exporting"));
    }
    if attributes::int(call.node, "antialias")?.unwrap_or(0) != 0 {
        return Err(Refusal::unsupported("blurs what it makes smaller (antialias = 1)", "export without antialias"));
    }
    let mut ops = Vec::new();
    for (axis, change) in changes(importer, call, &shape.0)?.into_iter().enumerate() {
        let Some(change) = change.filter(|change| change.to != change.from || change.scale != 1.0) else { continue };
        ops.push(Op::from(Resample { axis, taps: taps(call.node, &change)? }));
    }
    let Some(last) = ops.pop() else {
        importer.bind(call.output()?, x);
        return Ok(());
    };
    let mut value = x;
    for op in ops {
        value = importer.add(call, op, &[value], "axis")?;
    }
    importer.finish(call, last, &[value])
}

/// Scales or sizes; `None` for the number of examples.
fn numbers(folded: &Folded) -> Vec<Option<f64>> {
    match &folded.elements {
        Elements::Floats(values) => values.iter().map(|&v| Some(f64::from(v))).collect(),
        Elements::Integers(values) => {
            values.iter().map(|extent| if let Extent::Known(n) = extent { Some(*n as f64) } else { None }).collect()
        }
    }
}

/// What becomes of each axis; `None` for the batch.
fn changes(importer: &Importer<'_>, call: &Call<'_>, dims: &[Dim]) -> Result<Vec<Option<Axis>>, Refusal> {
    let numbers = |slot: usize| Ok::<_, Refusal>(importer.setting(call, slot)?.map(|folded| numbers(&folded)).filter(|v| !v.is_empty()));
    // Opset 10 and Upsample have no regions: scales come second.
    let old = call.node.op_type == "Upsample" || importer.opset < 11;
    let scales = match attributes::floats(call.node, "scales")? {
        Some(scales) => Some(scales.iter().map(|&scale| Some(f64::from(scale))).collect()),
        None => numbers(if old { 1 } else { 2 })?,
    };
    let sizes = if old { None } else { numbers(3)? };
    let axes = match attributes::ints(call.node, "axes")? {
        Some(axes) => axes.iter().map(|&axis| normalize_axis(axis, dims.len())).collect::<Result<Vec<_>, _>>()?,
        None => (0..dims.len()).collect(),
    };
    if attributes::string(call.node, "keep_aspect_ratio_policy")?.is_some_and(|policy| policy != "stretch") && sizes.is_some() {
        return Err(Refusal::unsupported("keeps an aspect ratio", "name scales, or the sizes themselves"));
    }
    let given = scales.as_ref().or(sizes.as_ref()).filter(|values| values.len() == axes.len());
    let given = given.ok_or_else(|| Refusal::unsupported("its scales or sizes are not known at import", "one number an axis is needed"))?;
    let mut changes: Vec<Option<Axis>> =
        dims.iter().map(|dim| if let Dim::Fixed(n) = *dim { Some(Axis { from: n, to: n, scale: 1.0 }) } else { None }).collect();
    for (&axis, &number) in axes.iter().zip(given) {
        let Some(change) = &mut changes[axis] else {
            let same = if scales.is_some() { number == Some(1.0) } else { number.is_none_or(|n| n > 0.0) };
            if !same {
                return Err(Refusal::unsupported("resizes the batch", "the examples must stay apart"));
            }
            continue;
        };
        let Some(number) = number else {
            return Err(Refusal::unsupported(format!("resizes axis {axis} to the number of examples"), "use constants"));
        };
        let to = if scales.is_some() { (change.from as f64 * number).floor() } else { number };
        if !(1.0..=LARGEST_EXTENT).contains(&to) {
            return Err(Refusal::new(
                Kind::Size,
                format!("resizes axis {axis} of extent {} to {to}", change.from),
                "check its scales or sizes",
            ));
        }
        change.to = to as usize;
        change.scale = if scales.is_some() { number } else { to / change.from as f64 };
    }
    Ok(changes)
}

/// The weights of each element of the result.
fn taps(node: &NodeProto, axis: &Axis) -> Result<Vec<Vec<(usize, f32)>>, Refusal> {
    let unknown = |what: &str, value: &str| {
        Refusal::unsupported(format!("{what} is '{value}'"), "`mestc ops` and docs/onnx.md list what can be trained")
    };
    let mode = attributes::string(node, "mode")?.unwrap_or("nearest");
    let default = if node.op_type == "Upsample" { "asymmetric" } else { "half_pixel" };
    let transformation = attributes::string(node, "coordinate_transformation_mode")?.unwrap_or(default);
    let rounding =
        attributes::string(node, "nearest_mode")?.unwrap_or(if node.op_type == "Upsample" { "floor" } else { "round_prefer_floor" });
    let cubic = f64::from(attributes::float(node, "cubic_coeff_a")?.unwrap_or(-0.75));
    let excludes = attributes::int(node, "exclude_outside")?.unwrap_or(0) != 0;
    let last = axis.from as f64 - 1.0;
    let source = |to: usize| -> Result<f64, Refusal> {
        let to = to as f64;
        Ok(match transformation {
            "half_pixel" => (to + 0.5) / axis.scale - 0.5,
            "half_pixel_symmetric" => {
                let adjusted = axis.to as f64 / (axis.scale * axis.from as f64);
                axis.from as f64 / 2.0 * (1.0 - adjusted) + (to + 0.5) / axis.scale - 0.5
            }
            "pytorch_half_pixel" if axis.to == 1 => 0.0,
            "pytorch_half_pixel" => (to + 0.5) / axis.scale - 0.5,
            "align_corners" if axis.to == 1 => 0.0,
            "align_corners" => to * last / (axis.from as f64 * axis.scale - 1.0),
            "asymmetric" => to / axis.scale,
            other => return Err(unknown("coordinate_transformation_mode", other)),
        })
    };
    let element = |at: f64| at.clamp(0.0, last) as usize;
    let weights = |at: f64| -> Result<Vec<(f64, f64)>, Refusal> {
        Ok(match mode {
            "nearest" => {
                let at = match rounding {
                    "round_prefer_floor" => (at - 0.5).ceil(),
                    "round_prefer_ceil" => (at + 0.5).floor(),
                    "floor" => at.floor(),
                    "ceil" => at.ceil(),
                    other => return Err(unknown("nearest_mode", other)),
                };
                vec![(at, 1.0)]
            }
            "linear" => vec![(at.floor(), 1.0 - at.fract().rem_euclid(1.0)), (at.floor() + 1.0, at.fract().rem_euclid(1.0))],
            "cubic" => (-1..=2).map(|i| (at.floor() + f64::from(i), cubic_weight(at - at.floor() - f64::from(i), cubic))).collect(),
            other => return Err(unknown("mode", other)),
        })
    };
    let row = |to: usize| -> Result<Vec<(usize, f32)>, Refusal> {
        let mut own = weights(source(to)?)?;
        if excludes {
            own.retain(|&(at, _)| (0.0..=last).contains(&at));
            let total: f64 = own.iter().map(|(_, weight)| weight).sum();
            own.iter_mut().for_each(|(_, weight)| *weight /= total);
        }
        let mut merged: Vec<(usize, f64)> = Vec::new();
        for (at, weight) in own.into_iter().filter(|(_, weight)| *weight != 0.0) {
            match merged.iter_mut().find(|(from, _)| *from == element(at)) {
                Some((_, sum)) => *sum += weight,
                None => merged.push((element(at), weight)),
            }
        }
        Ok(merged.into_iter().map(|(from, weight)| (from, weight as f32)).collect())
    };
    (0..axis.to).map(row).collect()
}

/// Keys' cubic convolution.
fn cubic_weight(distance: f64, a: f64) -> f64 {
    let d = distance.abs();
    match d {
        _ if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
        _ if d < 2.0 => (((d - 5.0) * d + 8.0) * d - 4.0) * a,
        _ => 0.0,
    }
}
