//! Softmax.

use super::infer::unary;
use super::{Add, Cost, Expand, Mul, NoGradient, Operator, ReduceMean, Reference, ShapeError};
use crate::ir::{Dim, Shape, Tensor, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// Softmax or its logarithm over the last axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {
    /// Whether the result is the logarithm.
    pub log: bool,
}

/// The logarithm of the softmax of `row`.
pub(super) fn log_softmax(row: &[f64]) -> Vec<f64> {
    let peak = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total = row.iter().map(|x| (x - peak).exp()).sum::<f64>().ln();
    row.iter().map(|x| x - peak - total).collect()
}

impl Operator for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let x = unary(self.name(), inputs)?;
        if !matches!(x.0.last(), Some(Dim::Fixed(1..))) {
            return Err(ShapeError::new(format!("softmax of {x}"), "its last axis must be the classes"));
        }
        Ok(vec![x.clone()])
    }

    /// With s the sum over the row: y * (dy - s(dy * y)); for the logarithm dy - exp(y) * s(dy).
    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let Some(dy) = gradients[0] else { return Ok(vec![None]) };
        let shape = builder.shape(dy).clone();
        let axis = shape.rank() - 1;
        let probability = if self.log { builder.add(Softmax { log: false }, &[builder.input(0)])[0] } else { builder.outputs()[0] };
        let weighted = if self.log { dy } else { builder.add(Mul {}, &[dy, probability])[0] };
        let mean = builder.add(ReduceMean { axes: vec![axis], keep_dims: true }, &[weighted])[0];
        let classes = shape.elements() / builder.shape(mean).elements();
        let minus = builder.constant(Tensor { dims: vec![], values: vec![-(classes as f32)] });
        let negated = builder.add(Mul {}, &[mean, minus])[0];
        let spread = builder.add(Expand { shape }, &[negated])[0];
        let dx = if self.log {
            let pull = builder.add(Mul {}, &[spread, probability])[0];
            builder.add(Add {}, &[dy, pull])[0]
        } else {
            let difference = builder.add(Add {}, &[dy, spread])[0];
            builder.add(Mul {}, &[difference, probability])[0]
        };
        Ok(vec![Some(dx)])
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(12.0, outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let x = inputs[0];
        let classes = x.dims[x.dims.len() - 1];
        let log = Reference { dims: x.dims.clone(), values: x.values.chunks_exact(classes).flat_map(log_softmax).collect() };
        vec![if self.log { log } else { log.map(f64::exp) }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_distributions_whatever_their_size() {
        let x = Reference { dims: vec![2, 2], values: vec![0.0, 3f64.ln(), 1000.0, 1000.0] };
        let y = Softmax { log: false }.evaluate(&[&x]).remove(0);
        let wanted = [0.25, 0.75, 0.5, 0.5];
        assert!(y.values.iter().zip(wanted).all(|(y, w)| (y - w).abs() < 1e-15), "{y:?}");
        let log = Softmax { log: true }.evaluate(&[&x]).remove(0);
        assert!((log.values[3] + 2f64.ln()).abs() < 1e-15);
    }
}
