//! Dropout, and random switches.

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

/// x -> a mask, 0 with probability `ratio`, else 1 / (1 - ratio). Of x only the number of examples matters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DropoutMask {
    /// Probability that an element is dropped.
    pub ratio: f32,
    /// Of the mask, the batch first.
    pub shape: Shape,
}

/// x -> 1 with `probability`, else 0; in inference the probability itself. Of x only the number of examples matters. As imported:
/// `pass::specialize` makes it a mask times the probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bernoulli {
    /// Of a 1; above 0.
    pub probability: f32,
    /// Of the result, the batch first.
    pub shape: Shape,
}

/// Refuses a ratio that leaves nothing.
fn check_ratio(op: &str, ratio: f32) -> Result<(), ShapeError> {
    if (0.0..1.0).contains(&ratio) {
        return Ok(());
    }
    Err(ShapeError::new(format!("{op} with ratio {ratio}"), "the ratio must be at least 0 and below 1"))
}

/// The shape of what is drawn for each example of the only operand.
fn infer_drawn(op: &str, shape: &Shape, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
    let x = unary(op, inputs)?;
    if x.is_batched() && shape.is_batched() {
        return Ok(vec![shape.clone()]);
    }
    Err(ShapeError::new(format!("{op} of {shape} for the examples of {x}"), "both must have a batch"))
}

/// `value` everywhere, for the examples of `x`.
fn everywhere(shape: &Shape, x: &Reference, value: f64) -> Vec<Reference> {
    vec![Reference::full(&shape.concrete(x.dims[0]), value)]
}

impl Operator for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        check_ratio(self.name(), self.ratio)?;
        Ok(vec![unary(self.name(), inputs)?.clone()])
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
        check_ratio(self.name(), self.ratio)?;
        infer_drawn(self.name(), &self.shape, inputs)
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
        everywhere(&self.shape, inputs[0], 1.0)
    }
}

impl Operator for Bernoulli {
    fn name(&self) -> &'static str {
        "bernoulli"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        check_ratio(self.name(), 1.0 - self.probability)?;
        infer_drawn(self.name(), &self.shape, inputs)
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient { op: self.name(), why: "it must be specialized to training or inference first".to_owned() })
    }

    fn cost(&self, _inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::default()
    }

    /// The inference form: the probability.
    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        everywhere(&self.shape, inputs[0], f64::from(self.probability))
    }
}
