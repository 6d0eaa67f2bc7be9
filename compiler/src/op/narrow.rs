//! Storage in half the bytes: what is kept for backward may be rounded, and is wide again wherever it is computed with.

use super::infer::unary;
use super::{Cost, NoGradient, Operator, Reference, ShapeError};
use crate::ir::{Shape, Value};
use crate::pass::differentiate::GradientBuilder;
use mest_runtime::lanes::math;
use serde::{Deserialize, Serialize};

/// x -> x as bf16: the 8 leading bits of its significand, rounded to nearest, ties to even. Nothing but [`Widen`] reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Narrow {}

/// What was narrowed -> the same numbers as f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Widen {}

impl Operator for Narrow {
    fn name(&self) -> &'static str {
        "narrow"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![unary(self.name(), inputs)?.clone()])
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient::second_order(self.name()))
    }

    fn cost(&self, _inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::default()
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![inputs[0].map(|x| f64::from(math::widened(math::narrowed(x as f32))))]
    }
}

impl Operator for Widen {
    fn name(&self) -> &'static str {
        "widen"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![unary(self.name(), inputs)?.clone()])
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient::second_order(self.name()))
    }

    fn cost(&self, _inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::default()
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![inputs[0].clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bits_are_left_of_a_significand() {
        let x = Reference { dims: vec![4], values: vec![1.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -3.2] };
        let narrow = Narrow {}.evaluate(&[&x]).remove(0);
        assert_eq!(narrow.values[..3], [1.0, 1.0, 1.0 + 4.0 / 256.0], "ties go to the even one");
        assert!((narrow.values[3] + 3.2).abs() < 3.2 / 256.0 && narrow.values[3] != -3.2);
        assert_eq!(Widen {}.evaluate(&[&narrow]), [narrow]);
    }
}
