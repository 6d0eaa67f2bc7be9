//! Sources: values that no node computes.

use super::{Cost, NoGradient, Operator, Reference, ShapeError};
use crate::ir::graph::Role;
use crate::ir::{Shape, Tensor, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// The examples of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Axes, the batch first.
    pub shape: Shape,
}

/// What the loss compares the output with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// `[N]` for class indices, else the output's shape.
    pub shape: Shape,
}

/// A learned tensor or a running statistic; its initial value is in [`crate::ir::Graph::initial`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// Extents, as in the ONNX file.
    pub dims: Vec<usize>,
    /// What it is kept for.
    pub role: Role,
}

/// A fixed tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Constant {
    /// Its value.
    pub value: Tensor,
}

macro_rules! source {
    ($name:ident, $text:literal, |$self:ident| $shape:expr) => {
        impl Operator for $name {
            fn name(&self) -> &'static str {
                $text
            }
            fn infer(&$self, _inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
                Ok(vec![$shape])
            }
            fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
                Ok(vec![])
            }
            fn cost(&self, _inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
                Cost::default()
            }
            fn evaluate(&self, _inputs: &[&Reference]) -> Vec<Reference> {
                vec![] // the interpreter supplies the values of sources
            }
        }
    };
}

source!(Input, "input", |self| self.shape.clone());
source!(Target, "target", |self| self.shape.clone());
source!(Parameter, "parameter", |self| Shape::uniform(&self.dims));
source!(Constant, "constant", |self| Shape::uniform(&self.value.dims));
