//! Built-in architectures, written as ONNX: what the tools run on when there is no model at hand.
//!
//! Everything is built from scratch with weights drawn from a seed: same options, same bytes.

mod architectures;
pub(crate) mod builder;
pub mod layer;
mod vision_transformer;

use architectures::{ds_cnn, mlp, mobilenet_v2, resnet};
use vision_transformer::vit;

/// What an architecture is built for.
#[derive(Clone, Debug, PartialEq)]
pub struct ZooOptions {
    /// Channels, rows and columns of an example; the architecture's own unless given.
    pub input: Option<[usize; 3]>,
    /// Number of classes; the architecture's own unless given.
    pub classes: Option<usize>,
    /// Multiplies the channels of every stage, or the hidden units.
    pub width: usize,
    /// What the weights are drawn from.
    pub seed: u64,
}

impl Default for ZooOptions {
    fn default() -> Self {
        ZooOptions { input: None, classes: None, width: 1, seed: 0 }
    }
}

/// An architecture cannot be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ZooError {
    /// There is none of that name.
    #[error("no architecture is called '{name}'; there are {}", NAMES.map(|(name, _)| name).join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// An option makes no sense.
    #[error("{option} is {value}; it must lie between 1 and {largest}")]
    Option {
        /// Which.
        option: &'static str,
        /// Its value.
        value: usize,
        /// The largest that is accepted.
        largest: usize,
    },
}

/// Names of the architectures, and what each is.
pub const NAMES: [(&str, &str); 7] = [
    ("mlp", "784-300-100-10 perceptron with ReLU"),
    ("resnet8", "CIFAR ResNet with one block a stage; 1x1 convolution and batch normalization as shortcut"),
    ("resnet20", "CIFAR ResNet with three blocks a stage"),
    ("resnet32", "CIFAR ResNet with five blocks a stage; --width 2 is the one of the MEST paper"),
    ("mobilenetv2", "MobileNetV2 for images of 32x32"),
    ("dscnn", "MLPerf Tiny's DS-CNN for keyword spotting, 1x49x10"),
    ("vit", "vision transformer of four blocks over patches of 4x4, for images of 32x32"),
];

/// Writes architecture `name` as an ONNX file with a symbolic batch.
///
/// # Errors
/// An unknown name, or extents of 0 or beyond reason.
pub fn build(name: &str, options: &ZooOptions) -> Result<Vec<u8>, ZooError> {
    let (input, classes) = match name {
        "mlp" => ([1, 28, 28], 10),
        "resnet8" | "resnet20" | "resnet32" | "mobilenetv2" | "vit" => ([3, 32, 32], 10),
        "dscnn" => ([1, 49, 10], 12),
        _ => return Err(ZooError::Unknown { name: name.to_owned() }),
    };
    let (input, classes) = (options.input.unwrap_or(input), options.classes.unwrap_or(classes));
    let [channels, rows, columns] = input;
    let limits = [
        ("the number of channels", channels, 1 << 12),
        ("the number of rows", rows, 1 << 12),
        ("the number of columns", columns, 1 << 12),
        ("the number of classes", classes, 1 << 16),
        ("the width", options.width, 64),
    ];
    for (option, value, largest) in limits {
        if value == 0 || value > largest {
            return Err(ZooError::Option { option, value, largest });
        }
    }
    let model = match name {
        "mlp" => mlp(input, classes, options),
        "resnet8" => resnet(name, 1, input, classes, options),
        "resnet20" => resnet(name, 3, input, classes, options),
        "resnet32" => resnet(name, 5, input, classes, options),
        "mobilenetv2" => mobilenet_v2(input, classes, options),
        "vit" => vit(input, classes, options),
        _ => ds_cnn(input, classes, options),
    };
    Ok(model.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Shape;
    use crate::onnx::import_bytes;

    fn parameters(name: &str, options: &ZooOptions) -> usize {
        let imported = import_bytes(&build(name, options).unwrap(), None).unwrap();
        let graph = &imported.graph;
        assert_eq!(
            *graph.shape(graph.output.unwrap()),
            Shape::batched(&[options.classes.unwrap_or(if name == "dscnn" { 12 } else { 10 })])
        );
        let trainable = |id| matches!(&graph.node(id).op, crate::op::Op::Parameter(p) if p.role == crate::ir::graph::Role::Trainable);
        graph.parameters().into_iter().filter(|&id| trainable(id)).map(|id| graph.initial[&id].values.len()).sum()
    }

    #[test]
    fn sizes_are_the_published_ones() {
        assert_eq!(parameters("mlp", &ZooOptions::default()), 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10);
        // The ResNet-32 (2x) of the MEST and GraSP code.
        assert_eq!(parameters("resnet32", &ZooOptions { width: 2, ..Default::default() }), 1_860_522);
        assert_eq!(parameters("resnet32", &ZooOptions { width: 2, classes: Some(100), ..Default::default() }), 1_872_132);
        assert_eq!(parameters("mobilenetv2", &ZooOptions::default()), 2_236_682);
        // Of each block: attention 4 w^2 + 4 w, the MLP 4 w^2 + 3 w, two normalizations 4 w; then patches, tokens, positions, head.
        let (width, blocks) = (64, 4 * (8 * 64 * 64 + 11 * 64));
        assert_eq!(
            parameters("vit", &ZooOptions::default()),
            blocks + (48 + 1) * width + width + 65 * width + 2 * width + (width + 1) * 10
        );
        // MLPerf Tiny's counts biases before batch normalization too: 64 for each of nine convolutions.
        assert_eq!(parameters("dscnn", &ZooOptions::default()), 23_756 - 9 * 64);
    }

    #[test]
    fn same_options_give_the_same_bytes() {
        let options = ZooOptions { seed: 7, ..Default::default() };
        assert_eq!(build("resnet8", &options), build("resnet8", &options));
        assert_ne!(build("resnet8", &options), build("resnet8", &ZooOptions::default()));
    }

    #[test]
    fn small_images_pass_through_every_stage() {
        let options = ZooOptions { input: Some([1, 8, 8]), classes: Some(3), ..Default::default() };
        for (name, _) in NAMES {
            assert!(parameters(name, &options) > 0, "{name}");
        }
    }

    #[test]
    fn weights_have_the_spread_of_their_scheme() {
        let imported = import_bytes(&build("resnet8", &ZooOptions::default()).unwrap(), None).unwrap();
        let graph = &imported.graph;
        let id = graph.parameters().into_iter().find(|&id| graph.node(id).name == "layer3.0.conv2.weight").unwrap();
        let values = &graph.initial[&id].values;
        let variance = values.iter().map(|v| f64::from(v * v)).sum::<f64>() / values.len() as f64;
        let expected = 2.0 / (64.0 * 9.0);
        assert!((variance / expected - 1.0).abs() < 0.03, "{variance} is not {expected}");
    }

    #[test]
    fn mistakes_are_named() {
        assert!(build("resnet9", &ZooOptions::default()).unwrap_err().to_string().contains("resnet8"));
        let error = build("mlp", &ZooOptions { width: 0, ..Default::default() }).unwrap_err();
        assert_eq!(error, ZooError::Option { option: "the width", value: 0, largest: 64 });
    }
}
