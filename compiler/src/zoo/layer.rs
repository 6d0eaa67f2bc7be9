//! A model around one layer, to time that layer alone.

use super::architectures::{Conv, head, linear};
use super::builder::{Fill, ModelBuilder};
use std::fmt;

/// The name of the layer's weight in its model.
pub const WEIGHT: &str = "layer.weight";

/// A layer by its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A convolution with a square kernel over square images, padded by half the kernel.
    Convolution {
        /// Input channels.
        inputs: usize,
        /// Output channels.
        outputs: usize,
        /// Rows, and columns, of the input.
        extent: usize,
        /// Rows, and columns, of the kernel.
        kernel: usize,
        /// Both strides.
        stride: usize,
    },
    /// A linear layer.
    Linear {
        /// Inputs.
        inputs: usize,
        /// Outputs.
        outputs: usize,
    },
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layer::Convolution { inputs, outputs, extent, kernel, stride } => {
                write!(f, "conv{kernel}x{kernel} {inputs}->{outputs} @{extent} s{stride}")
            }
            Layer::Linear { inputs, outputs } => write!(f, "linear {inputs}->{outputs}"),
        }
    }
}

impl Layer {
    /// A model as ONNX: a trainable shift, so that the layer has both gradients to compute, the layer, and a classifier of ten classes.
    pub fn model(&self) -> Vec<u8> {
        match *self {
            Layer::Convolution { inputs, outputs, extent, kernel, stride } => {
                let (mut model, x) = shifted(&[inputs, extent, extent], &[inputs, 1, 1]);
                let y = Conv::square(inputs, outputs, kernel, stride).add(&mut model, "layer", &x);
                head(model, outputs, 10, &y)
            }
            Layer::Linear { inputs, outputs } => {
                let (mut model, x) = shifted(&[inputs], &[inputs]);
                let y = linear(&mut model, "layer", [inputs, outputs], (1.0 / inputs as f64).sqrt(), [&x, "layer.output"]);
                linear(&mut model, "classifier", [outputs, 10], 0.01, [&y, "output"]);
                model.output("output", &[10])
            }
        }
        .finish()
    }
}

/// A model that has added a parameter of `shift` to its input.
fn shifted(input: &[usize], shift: &[usize]) -> (ModelBuilder, String) {
    let mut model = ModelBuilder::new("layer", input, 0);
    let shift = model.parameter("shift", shift, Fill::Constant(0.5));
    let x = model.node("Add", "shifted", &["input", &shift], &[]);
    (model, x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Op;
    use crate::pipeline::{self, Compiled};
    use crate::settings;
    use mest_runtime::recipe::Recipe;

    #[test]
    fn a_layer_has_both_gradients_and_the_asked_density() {
        let square = Layer::Convolution { inputs: 8, outputs: 12, extent: 6, kernel: 3, stride: 2 };
        for (layer, name) in [(square, "conv3x3 8->12 @6 s2"), (Layer::Linear { inputs: 20, outputs: 30 }, "linear 20->30")] {
            assert_eq!(layer.to_string(), name);
            let imported = crate::onnx::import_bytes(&layer.model(), None).unwrap();
            let mut recipe = Recipe::default();
            recipe.layers.entry(WEIGHT.to_owned()).or_default().density = Some(0.25);
            let Compiled { training, sparsity, .. } = pipeline::compile(&imported, &settings::of_recipe(&recipe, None)).unwrap();
            let both = |op: &Op| matches!(op, Op::ConvolutionBackward(_) | Op::LinearBackward(_));
            assert!(training.ids().into_iter().any(|id| both(&training.node(id).op)), "{layer}: no input gradient");
            let found = sparsity.layers.iter().find(|found| found.name == WEIGHT).unwrap();
            assert_eq!(found.nnz() * 4, found.units.weights(), "{layer}");
        }
    }
}
