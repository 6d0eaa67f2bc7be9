//! Dropout.

use super::infer::unary;
use super::{Cost, NoGradient, Operator, Reference, ShapeError};
use crate::ir::{Shape, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// x -> y, as imported: `pass::specialize` makes it a mask and a product, or nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    /// Probability that an element is dropped.
    pub ratio: f32,
}

/// x -> a mask of x's shape: 0 with probability `ratio`, else 1 / (1 - ratio).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DropoutMask {
    /// Probability that an element is dropped.
    pub ratio: f32,
}

fn infer_ratio(op: &str, ratio: f32, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
    if !(0.0..1.0).contains(&ratio) {
        return Err(ShapeError::new(format!("{op} with ratio {ratio}"), "the ratio must be at least 0 and below 1"));
    }
    Ok(vec![unary(op, inputs)?.clone()])
}

impl Operator for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        infer_ratio(self.name(), self.ratio, inputs)
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient { op: self.name(), why: "it must be specialized to training or inference first".to_owned() })
    }

    fn cost(&self, _inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::default()
    }

    /// The inference form: x itself.
    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![inputs[0].clone()]
    }
}

impl Operator for DropoutMask {
    fn name(&self) -> &'static str {
        "dropout_mask"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        infer_ratio(self.name(), self.ratio, inputs)
    }

    /// A mask does not depend on the values of x.
    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Ok(vec![None])
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(8.0, outputs[0])
    }

    /// The expectation of the mask, 1 everywhere; the interpreter takes a drawn mask as a source.
    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![Reference::full(&inputs[0].dims, 1.0)]
    }
}
