//! The architectures, each a function that writes its nodes in order.

use super::ZooOptions;
use super::builder::{Attribute, Fill, ModelBuilder};

/// A convolution without bias, drawn as He et al. do for ReLU, by fan-out.
pub(super) struct Conv {
    outputs: usize,
    inputs: usize,
    kernel: [usize; 2],
    stride: usize,
    pads: [usize; 4],
    groups: usize,
}

impl Conv {
    pub(super) fn square(inputs: usize, outputs: usize, kernel: usize, stride: usize) -> Self {
        Conv { outputs, inputs, kernel: [kernel; 2], stride, pads: [kernel / 2; 4], groups: 1 }
    }

    fn depthwise(channels: usize, stride: usize) -> Self {
        Conv { groups: channels, ..Conv::square(channels, channels, 3, stride) }
    }

    pub(super) fn add(&self, model: &mut ModelBuilder, name: &str, x: &str) -> String {
        let [rows, columns] = self.kernel;
        let deviation = (2.0 / (self.outputs * rows * columns) as f64).sqrt();
        let dims = [self.outputs, self.inputs / self.groups, rows, columns];
        let weight = model.parameter(&format!("{name}.weight"), &dims, Fill::Normal(deviation));
        let stride = self.stride as i64;
        let attributes = [
            ("dilations", Attribute::Ints(&[1, 1])),
            ("group", Attribute::Int(self.groups as i64)),
            ("kernel_shape", Attribute::Ints(&self.kernel.map(|k| k as i64))),
            ("pads", Attribute::Ints(&self.pads.map(|p| p as i64))),
            ("strides", Attribute::Ints(&[stride, stride])),
        ];
        model.node("Conv", &format!("{name}.output"), &[x, &weight], &attributes)
    }
}

fn batch_norm(model: &mut ModelBuilder, name: &str, channels: usize, x: &str) -> String {
    let fills = [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)];
    let [scale, shift, mean, variance] =
        fills.map(|(suffix, value)| model.parameter(&format!("{name}.{suffix}"), &[channels], Fill::Constant(value)));
    model.node("BatchNormalization", &format!("{name}.output"), &[x, &scale, &shift, &mean, &variance], &[])
}

fn relu(model: &mut ModelBuilder, name: &str, x: &str) -> String {
    model.node("Relu", name, &[x], &[])
}

pub(super) fn linear(model: &mut ModelBuilder, name: &str, [inputs, outputs]: [usize; 2], deviation: f64, [x, y]: [&str; 2]) -> String {
    let weight = model.parameter(&format!("{name}.weight"), &[outputs, inputs], Fill::Normal(deviation));
    let bias = model.parameter(&format!("{name}.bias"), &[outputs], Fill::Constant(0.0));
    model.node("Gemm", y, &[x, &weight, &bias], &[("transB", Attribute::Int(1))])
}

/// Global average, then the classifier.
pub(super) fn head(mut model: ModelBuilder, channels: usize, classes: usize, x: &str) -> ModelBuilder {
    let pooled = model.node("GlobalAveragePool", "pool.output", &[x], &[]);
    let flat = model.node("Flatten", "flatten.output", &[&pooled], &[("axis", Attribute::Int(1))]);
    linear(&mut model, "linear", [channels, classes], 0.01, [&flat, "output"]);
    model.output("output", &[classes])
}

pub(super) fn mlp(input: [usize; 3], classes: usize, options: &ZooOptions) -> ModelBuilder {
    let mut model = ModelBuilder::new("mlp", &input, options.seed);
    let sizes = [input.iter().product(), 300 * options.width, 100 * options.width, classes];
    let mut x = model.node("Flatten", "flatten.output", &["input"], &[("axis", Attribute::Int(1))]);
    for (i, pair) in sizes.windows(2).enumerate() {
        let last = i + 2 == sizes.len();
        let y = if last { "output".to_owned() } else { format!("fc{}.output", i + 1) };
        let deviation = (2.0 / pair[0] as f64).sqrt();
        x = linear(&mut model, &format!("fc{}", i + 1), [pair[0], pair[1]], deviation, [&x, &y]);
        if !last {
            x = relu(&mut model, &format!("relu{}.output", i + 1), &x);
        }
    }
    model.output("output", &[classes])
}

pub(super) fn resnet(name: &str, blocks: usize, input: [usize; 3], classes: usize, options: &ZooOptions) -> ModelBuilder {
    let mut model = ModelBuilder::new(name, &input, options.seed);
    let mut channels = 16 * options.width;
    let x = Conv::square(input[0], channels, 3, 1).add(&mut model, "conv1", "input");
    let x = batch_norm(&mut model, "bn1", channels, &x);
    let mut x = relu(&mut model, "relu1.output", &x);
    for (stage, factor) in [1, 2, 4].into_iter().enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let outputs = 16 * factor * options.width;
            x = basic_block(&mut model, &format!("layer{}.{block}", stage + 1), [channels, outputs], stride, &x);
            channels = outputs;
        }
    }
    head(model, channels, classes, &x)
}

fn basic_block(model: &mut ModelBuilder, name: &str, [inputs, outputs]: [usize; 2], stride: usize, x: &str) -> String {
    let y = Conv::square(inputs, outputs, 3, stride).add(model, &format!("{name}.conv1"), x);
    let y = batch_norm(model, &format!("{name}.bn1"), outputs, &y);
    let y = relu(model, &format!("{name}.relu1.output"), &y);
    let y = Conv::square(outputs, outputs, 3, 1).add(model, &format!("{name}.conv2"), &y);
    let y = batch_norm(model, &format!("{name}.bn2"), outputs, &y);
    let mut shortcut = x.to_owned();
    if stride != 1 || inputs != outputs {
        shortcut = Conv::square(inputs, outputs, 1, stride).add(model, &format!("{name}.shortcut.0"), x);
        shortcut = batch_norm(model, &format!("{name}.shortcut.1"), outputs, &shortcut);
    }
    let sum = model.node("Add", &format!("{name}.add.output"), &[&y, &shortcut], &[]);
    relu(model, &format!("{name}.relu2.output"), &sum)
}

pub(super) fn mobilenet_v2(input: [usize; 3], classes: usize, options: &ZooOptions) -> ModelBuilder {
    // (expansion, outputs, blocks, stride of the first), with the strides of images of 32x32.
    const STAGES: [(usize, usize, usize, usize); 7] =
        [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];
    let mut model = ModelBuilder::new("mobilenetv2", &input, options.seed);
    model.tensor("relu6.low", &[], &[0.0]);
    model.tensor("relu6.high", &[], &[6.0]);
    let mut channels = 32 * options.width;
    let mut x = conv_bn_relu6(&mut model, "stem", &Conv::square(input[0], channels, 3, 1), "input");
    let mut number = 0;
    for (expansion, outputs, blocks, first_stride) in STAGES {
        for block in 0..blocks {
            let stride = if block == 0 { first_stride } else { 1 };
            let outputs = outputs * options.width;
            x = inverted_residual(&mut model, &format!("block{number}"), [channels, expansion, outputs], stride, &x);
            channels = outputs;
            number += 1;
        }
    }
    let last = 1280 * options.width;
    let x = conv_bn_relu6(&mut model, "last", &Conv::square(channels, last, 1, 1), &x);
    head(model, last, classes, &x)
}

fn conv_bn_relu6(model: &mut ModelBuilder, name: &str, conv: &Conv, x: &str) -> String {
    let y = conv.add(model, &format!("{name}.conv"), x);
    let y = batch_norm(model, &format!("{name}.bn"), conv.outputs, &y);
    model.node("Clip", &format!("{name}.relu6.output"), &[&y, "relu6.low", "relu6.high"], &[])
}

fn inverted_residual(model: &mut ModelBuilder, name: &str, [inputs, expansion, outputs]: [usize; 3], stride: usize, x: &str) -> String {
    let hidden = inputs * expansion;
    let mut y = x.to_owned();
    if expansion != 1 {
        y = conv_bn_relu6(model, &format!("{name}.expand"), &Conv::square(inputs, hidden, 1, 1), &y);
    }
    y = conv_bn_relu6(model, &format!("{name}.depthwise"), &Conv::depthwise(hidden, stride), &y);
    y = Conv::square(hidden, outputs, 1, 1).add(model, &format!("{name}.project.conv"), &y);
    y = batch_norm(model, &format!("{name}.project.bn"), outputs, &y);
    if stride == 1 && inputs == outputs {
        y = model.node("Add", &format!("{name}.add.output"), &[x, &y], &[]);
    }
    y
}

/// MLPerf Tiny's keyword spotter: a 10x4 convolution with stride 2 and TensorFlow's "same" padding, then four separable ones.
pub(super) fn ds_cnn(input: [usize; 3], classes: usize, options: &ZooOptions) -> ModelBuilder {
    let mut model = ModelBuilder::new("dscnn", &input, options.seed);
    let channels = 64 * options.width;
    let same = |extent: usize, kernel: usize| (extent.div_ceil(2) - 1).saturating_mul(2).saturating_add(kernel).saturating_sub(extent);
    let total = [same(input[1], 10), same(input[2], 4)];
    let pads = [total[0] / 2, total[1] / 2, total[0].div_ceil(2), total[1].div_ceil(2)];
    let first = Conv { outputs: channels, inputs: input[0], kernel: [10, 4], stride: 2, pads, groups: 1 };
    let mut x = conv_bn_relu(&mut model, "conv1", &first, "input");
    for block in 1..=4 {
        x = conv_bn_relu(&mut model, &format!("block{block}.depthwise"), &Conv::depthwise(channels, 1), &x);
        x = conv_bn_relu(&mut model, &format!("block{block}.pointwise"), &Conv::square(channels, channels, 1, 1), &x);
    }
    head(model, channels, classes, &x)
}

fn conv_bn_relu(model: &mut ModelBuilder, name: &str, conv: &Conv, x: &str) -> String {
    let y = conv.add(model, &format!("{name}.conv"), x);
    let y = batch_norm(model, &format!("{name}.bn"), conv.outputs, &y);
    relu(model, &format!("{name}.relu.output"), &y)
}
