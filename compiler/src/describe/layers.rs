//! What each layer writes.

use super::vocabulary::Arguments;
use super::{Description, Mistake, Tensor, checked};
use crate::zoo::builder::Attribute;

type Built = Result<Tensor, Mistake>;

/// Where windows lie.
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
}

impl Window {
    /// Rows and columns of the result over an image of `extents`.
    fn results(&self, extents: [usize; 2]) -> Result<[usize; 2], Mistake> {
        let mut results = [0; 2];
        for axis in 0..2 {
            let (Some(reach), Some(extent)) =
                (self.reach(axis), self.padding[axis].checked_mul(2).and_then(|p| p.checked_add(extents[axis])))
            else {
                return Err(Mistake::of("kernel", "the window is too large", "write smaller extents"));
            };
            if reach > extent {
                let axis = ["rows", "columns"][axis];
                let why = format!("a window over {reach} {axis} does not fit {extent} {axis}, padding included");
                return Err(Mistake::of("kernel", why, "write a smaller kernel or more padding"));
            }
            results[axis] = (extent - reach) / self.stride[axis] + 1;
        }
        Ok(results)
    }

    /// Rows, or columns, from the first that a window reads to the last.
    fn reach(&self, axis: usize) -> Option<usize> {
        (self.kernel[axis] - 1).checked_mul(self.dilation[axis])?.checked_add(1)
    }

    /// ONNX's kernel_shape, pads and strides.
    fn attributes(&self) -> [Vec<i64>; 3] {
        let list = |pair: [usize; 2]| pair.map(|value| value as i64).to_vec();
        [list(self.kernel), [list(self.padding), list(self.padding)].concat(), list(self.stride)]
    }
}

fn image(x: &Tensor) -> Result<[usize; 3], Mistake> {
    match x.dims[..] {
        [channels, rows, columns] => Ok([channels, rows, columns]),
        _ => Err(Mistake::of("x", format!("an image is needed, and this is {}", x.type_name()), "vectors go through linear(x, units)")),
    }
}

/// The one value that a layer reads.
fn only(inputs: &[Tensor]) -> Result<&Tensor, Mistake> {
    inputs.first().ok_or_else(|| Mistake::of("x", "a value is needed", "write the layer's input first"))
}

fn convolution(network: &mut Description, x: &Tensor, kind: &'static str, channels: usize, groups: usize, arguments: &Arguments) -> Built {
    let [inputs, rows, columns] = image(x)?;
    for (what, count) in [("input", inputs), ("output", channels)] {
        if count % groups != 0 {
            let why = format!("{count} {what} channels can't be divided into {groups} groups");
            return Err(Mistake::of("groups", why, "write a number that divides both"));
        }
    }
    let kernel = arguments.extents("kernel").unwrap_or([1, 1]);
    let (stride, dilation) = (arguments.extents("stride").unwrap_or([1, 1]), arguments.extents("dilation").unwrap_or([1, 1]));
    let half: [usize; 2] = std::array::from_fn(|axis| (kernel[axis] - 1).saturating_mul(dilation[axis]) / 2);
    let window = Window { kernel, stride, padding: arguments.extents("padding").unwrap_or(half), dilation };
    let [result_rows, result_columns] = window.results([rows, columns])?;
    let dims = vec![channels, result_rows, result_columns];
    checked("channels", &dims)?;
    let name = network.layer_name(kind, arguments)?;
    let taps = checked("kernel", &kernel)?;
    let fans = [inputs / groups * taps, channels / groups * taps];
    let weight = network.weight(&name, &[channels, inputs / groups, kernel[0], kernel[1]], fans, arguments.init())?;
    let bias = arguments.flag("bias").then(|| network.vector(&name, "bias", channels, 0.0));
    let operands: Vec<&str> = [x.name.as_str(), &weight].into_iter().chain(bias.as_deref()).collect();
    let [kernel_shape, pads, strides] = window.attributes();
    let attributes = [
        ("dilations", Attribute::Ints(&window.dilation.map(|value| value as i64))),
        ("group", Attribute::Int(groups as i64)),
        ("kernel_shape", Attribute::Ints(&kernel_shape)),
        ("pads", Attribute::Ints(&pads)),
        ("strides", Attribute::Ints(&strides)),
    ];
    Ok(network.node_named("Conv", &format!("{name}.output"), &operands, &attributes, dims))
}

pub(super) fn conv(network: &mut Description, inputs: &[Tensor], arguments: &Arguments) -> Built {
    convolution(network, only(inputs)?, "conv", arguments.count("channels"), arguments.count("groups"), arguments)
}

pub(super) fn depthwise(network: &mut Description, inputs: &[Tensor], arguments: &Arguments) -> Built {
    let x = only(inputs)?;
    let [channels, ..] = image(x)?;
    convolution(network, x, "depthwise", channels, channels, arguments)
}

pub(super) fn linear(network: &mut Description, inputs: &[Tensor], arguments: &Arguments) -> Built {
    let x = only(inputs)?;
    let x = if x.dims.len() > 1 { flattened(network, x) } else { x.clone() };
    let (elements, units) = (x.elements(), arguments.count("units"));
    checked("units", &[units, elements])?;
    let name = network.layer_name("linear", arguments)?;
    let weight = network.weight(&name, &[units, elements], [elements, units], arguments.init())?;
    let bias = arguments.flag("bias").then(|| network.vector(&name, "bias", units, 0.0));
    let operands: Vec<&str> = [x.name.as_str(), &weight].into_iter().chain(bias.as_deref()).collect();
    Ok(network.node_named("Gemm", &format!("{name}.output"), &operands, &[("transB", Attribute::Int(1))], vec![units]))
}

pub(super) fn batch_norm(network: &mut Description, inputs: &[Tensor], arguments: &Arguments) -> Built {
    let x = only(inputs)?;
    let name = network.layer_name("batch_norm", arguments)?;
    let parameters = [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)]
        .map(|(suffix, value)| network.vector(&name, suffix, x.dims[0], value));
    let [scale, shift, mean, variance] = &parameters;
    // ONNX's momentum is the share that is kept.
    let attributes = [
        ("epsilon", Attribute::Float(arguments.number("eps") as f32)),
        ("momentum", Attribute::Float((1.0 - arguments.number("momentum")) as f32)),
    ];
    let operands = [&*x.name, scale, shift, mean, variance];
    Ok(network.node_named("BatchNormalization", &format!("{name}.output"), &operands, &attributes, x.dims.clone()))
}

pub(super) fn layer_norm(network: &mut Description, inputs: &[Tensor], arguments: &Arguments) -> Built {
    let x = only(inputs)?;
    let name = network.layer_name("layer_norm", arguments)?;
    let parameters = [("weight", 1.0), ("bias", 0.0)].map(|(suffix, value)| network.filled(&format!("{name}.{suffix}"), &x.dims, value));
    let [scale, shift] = &parameters;
    let attributes = [("axis", Attribute::Int(1)), ("epsilon", Attribute::Float(arguments.number("eps") as f32))];
    Ok(network.node_named("LayerNormalization", &format!("{name}.output"), &[&x.name, scale, shift], &attributes, x.dims.clone()))
}

pub(super) fn group_norm(network: &mut Description, inputs: &[Tensor], arguments: &Arguments) -> Built {
    let x = only(inputs)?;
    let ([channels, ..], groups) = (image(x)?, arguments.count("groups"));
    if channels % groups != 0 {
        let why = format!("{channels} channels can't be divided into {groups} groups");
        return Err(Mistake::of("groups", why, "write a number that divides the channels"));
    }
    let name = network.layer_name("group_norm", arguments)?;
    let scale = network.vector(&name, "weight", channels, 1.0);
    let shift = network.vector(&name, "bias", channels, 0.0);
    let attributes = [("epsilon", Attribute::Float(arguments.number("eps") as f32)), ("num_groups", Attribute::Int(groups as i64))];
    Ok(network.node_named("GroupNormalization", &format!("{name}.output"), &[&x.name, &scale, &shift], &attributes, x.dims.clone()))
}

fn pool(network: &mut Description, op: &'static str, inputs: &[Tensor], arguments: &Arguments) -> Built {
    let x = only(inputs)?;
    let [channels, rows, columns] = image(x)?;
    let kernel = arguments.extents("kernel").unwrap_or([1, 1]);
    let stride = arguments.extents("stride").unwrap_or(kernel);
    let window = Window { kernel, stride, padding: arguments.extents("padding").unwrap_or([0, 0]), dilation: [1, 1] };
    if (0..2).any(|axis| window.padding[axis] >= kernel[axis]) {
        return Err(Mistake::of("padding", "a window could lie in the padding alone", "write less padding than kernel"));
    }
    let [result_rows, result_columns] = window.results([rows, columns])?;
    let [kernel_shape, pads, strides] = window.attributes();
    let attributes =
        [("kernel_shape", Attribute::Ints(&kernel_shape)), ("pads", Attribute::Ints(&pads)), ("strides", Attribute::Ints(&strides))];
    Ok(network.node(op, &[&x.name], &attributes, vec![channels, result_rows, result_columns]))
}

pub(super) fn max_pool(network: &mut Description, inputs: &[Tensor], arguments: &Arguments) -> Built {
    pool(network, "MaxPool", inputs, arguments)
}

pub(super) fn avg_pool(network: &mut Description, inputs: &[Tensor], arguments: &Arguments) -> Built {
    pool(network, "AveragePool", inputs, arguments)
}

fn global_pool(network: &mut Description, op: &'static str, inputs: &[Tensor]) -> Built {
    let x = only(inputs)?;
    let [channels, ..] = image(x)?;
    let pooled = network.node(op, &[&x.name], &[], vec![channels, 1, 1]);
    Ok(flattened(network, &pooled))
}

pub(super) fn global_avg_pool(network: &mut Description, inputs: &[Tensor], _: &Arguments) -> Built {
    global_pool(network, "GlobalAveragePool", inputs)
}

pub(super) fn global_max_pool(network: &mut Description, inputs: &[Tensor], _: &Arguments) -> Built {
    global_pool(network, "GlobalMaxPool", inputs)
}

fn flattened(network: &mut Description, x: &Tensor) -> Tensor {
    network.node("Flatten", &[&x.name], &[("axis", Attribute::Int(1))], vec![x.elements()])
}

pub(super) fn flatten(network: &mut Description, inputs: &[Tensor], _: &Arguments) -> Built {
    only(inputs).map(|x| flattened(network, x))
}

pub(super) fn concat(network: &mut Description, inputs: &[Tensor], _: &Arguments) -> Built {
    let first = only(inputs)?;
    if let Some(other) = inputs.iter().find(|other| other.dims.len() != first.dims.len() || other.dims[1..] != first.dims[1..]) {
        let why = format!("{} and {} can't stand one after the other", first.type_name(), other.type_name());
        return Err(Mistake { argument: None, why, hint: "all but the channels must agree".to_owned() });
    }
    let mut dims = first.dims.clone();
    dims[0] = inputs.iter().map(|x| x.dims[0]).sum();
    checked("x", &dims)?;
    let operands: Vec<&str> = inputs.iter().map(|x| x.name.as_str()).collect();
    Ok(network.node("Concat", &operands, &[("axis", Attribute::Int(1))], dims))
}

pub(super) fn dropout(network: &mut Description, inputs: &[Tensor], arguments: &Arguments) -> Built {
    let x = only(inputs)?;
    let share = network.constant("dropout_share", arguments.number("share") as f32);
    Ok(network.node("Dropout", &[&x.name, &share], &[], x.dims.clone()))
}

pub(super) fn clip(network: &mut Description, inputs: &[Tensor], arguments: &Arguments) -> Built {
    let (low, high) = (arguments.number("low"), arguments.number("high"));
    if low >= high {
        return Err(Mistake::of("high", format!("{high} is not above {low}"), "write the lower bound first"));
    }
    clipped(network, inputs, [low as f32, high as f32])
}

fn clipped(network: &mut Description, inputs: &[Tensor], bounds: [f32; 2]) -> Built {
    let x = only(inputs)?;
    let [low, high] = bounds.map(|bound| network.constant("clip_bound", bound));
    Ok(network.node("Clip", &[&x.name, &low, &high], &[], x.dims.clone()))
}

pub(super) fn relu6(network: &mut Description, inputs: &[Tensor], _: &Arguments) -> Built {
    clipped(network, inputs, [0.0, 6.0])
}

pub(super) fn leaky_relu(network: &mut Description, inputs: &[Tensor], arguments: &Arguments) -> Built {
    let x = only(inputs)?;
    Ok(network.node("LeakyRelu", &[&x.name], &[("alpha", Attribute::Float(arguments.number("slope") as f32))], x.dims.clone()))
}

pub(super) fn silu(network: &mut Description, inputs: &[Tensor], _: &Arguments) -> Built {
    let x = only(inputs)?;
    let gate = network.node("Sigmoid", &[&x.name], &[], x.dims.clone());
    Ok(network.node("Mul", &[&x.name, &gate.name], &[], x.dims.clone()))
}

pub(super) fn hard_sigmoid(network: &mut Description, inputs: &[Tensor], _: &Arguments) -> Built {
    let x = only(inputs)?;
    let attributes = [("alpha", Attribute::Float(1.0 / 6.0)), ("beta", Attribute::Float(0.5))];
    Ok(network.node("HardSigmoid", &[&x.name], &attributes, x.dims.clone()))
}

macro_rules! elementwise {
    ($($name:ident: $onnx:literal;)*) => {
        $(pub(super) fn $name(network: &mut Description, inputs: &[Tensor], _: &Arguments) -> Built {
            let x = only(inputs)?;
            Ok(network.node($onnx, &[&x.name], &[], x.dims.clone()))
        })*
    };
}

elementwise! {
    gelu: "Gelu";
    hard_swish: "HardSwish";
    relu: "Relu";
    sigmoid: "Sigmoid";
    tanh: "Tanh";
}
