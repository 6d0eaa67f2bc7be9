//! Element by element, with numpy's broadcasting.

use super::infer::{broadcast, expect, operand_count, unary};
use super::{Cost, NoGradient, Operator, Reference, ShapeError};
use crate::ir::{Shape, Tensor, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// (a, b) -> a + b
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Add {}

/// (a, b) -> a * b
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mul {}

/// (a, b) -> a / b
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Div {}

/// x -> max(x, 0)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relu {}

/// (dy, y) -> dy where y > 0, else 0
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReluGradient {}

/// x -> min(max(x, low), high)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clip {
    /// Smallest result.
    #[serde(with = "crate::ir::text::bound")]
    pub low: f32,
    /// Largest result.
    #[serde(with = "crate::ir::text::bound")]
    pub high: f32,
}

/// (dy, x) -> dy where low <= x <= high, else 0
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipGradient {
    /// Smallest x that passes the gradient.
    #[serde(with = "crate::ir::text::bound")]
    pub low: f32,
    /// Largest x that passes the gradient.
    #[serde(with = "crate::ir::text::bound")]
    pub high: f32,
}

fn infer_binary(op: &str, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
    let [a, b] = inputs else { return Err(operand_count(op, "(a, b)", inputs)) };
    Ok(vec![broadcast(op, a, b)?])
}

fn infer_gated(op: &str, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
    let [dy, gate] = inputs else { return Err(operand_count(op, "(dy, the value that decides)", inputs)) };
    expect(op, "dy", dy, gate)?;
    Ok(vec![(*dy).clone()])
}

impl Operator for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        infer_binary(self.name(), inputs)
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let Some(dy) = gradients[0] else { return Ok(vec![None; 2]) };
        let side = |i: usize| {
            let shape = builder.shape(builder.input(i)).clone();
            builder.wants(i).then(|| builder.sum_to(dy, &shape))
        };
        Ok([0, 1].map(side).to_vec())
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(1.0, outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![inputs[0].zip(inputs[1], |a, b| a + b)]
    }
}

impl Operator for Mul {
    fn name(&self) -> &'static str {
        "mul"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        infer_binary(self.name(), inputs)
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let Some(dy) = gradients[0] else { return Ok(vec![None; 2]) };
        let side = |i: usize| {
            let (shape, other) = (builder.shape(builder.input(i)).clone(), builder.input(1 - i));
            builder.wants(i).then(|| {
                let product = builder.add(Mul {}, &[dy, other])[0];
                builder.sum_to(product, &shape)
            })
        };
        Ok([0, 1].map(side).to_vec())
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(1.0, outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![inputs[0].zip(inputs[1], |a, b| a * b)]
    }
}

impl Operator for Div {
    fn name(&self) -> &'static str {
        "div"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        infer_binary(self.name(), inputs)
    }

    /// With y the quotient: da = dy / b, db = -y da.
    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let Some(dy) = gradients[0] else { return Ok(vec![None; 2]) };
        let shapes = [0, 1].map(|i| builder.shape(builder.input(i)).clone());
        let share = builder.add(Div {}, &[dy, builder.input(1)])[0];
        let da = builder.wants(0).then(|| builder.sum_to(share, &shapes[0]));
        let db = builder.wants(1).then(|| {
            let product = builder.add(Mul {}, &[share, builder.outputs()[0]])[0];
            let minus = builder.constant(Tensor { dims: vec![], values: vec![-1.0] });
            let negative = builder.add(Mul {}, &[product, minus])[0];
            builder.sum_to(negative, &shapes[1])
        });
        Ok(vec![da, db])
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(1.0, outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![inputs[0].zip(inputs[1], |a, b| a / b)]
    }
}

impl Operator for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![unary(self.name(), inputs)?.clone()])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let y = builder.outputs()[0];
        Ok(vec![gradients[0].map(|dy| builder.add(ReluGradient {}, &[dy, y])[0])])
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(1.0, outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![inputs[0].map(|x| if x < 0.0 { 0.0 } else { x })]
    }
}

impl Operator for ReluGradient {
    fn name(&self) -> &'static str {
        "relu_gradient"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        infer_gated(self.name(), inputs)
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient::second_order(self.name()))
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(1.0, outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![inputs[0].zip(inputs[1], |dy, y| if y > 0.0 { dy } else { 0.0 })]
    }
}

impl Operator for Clip {
    fn name(&self) -> &'static str {
        "clip"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        if self.low > self.high || self.low.is_nan() || self.high.is_nan() {
            return Err(ShapeError::new(format!("clip to [{}, {}]", self.low, self.high), "low must not exceed high"));
        }
        Ok(vec![unary(self.name(), inputs)?.clone()])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let x = builder.input(0);
        let op = ClipGradient { low: self.low, high: self.high };
        Ok(vec![gradients[0].map(|dy| builder.add(op, &[dy, x])[0])])
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(2.0, outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        vec![inputs[0].map(|x| {
            if x < low {
                low
            } else if x > high {
                high
            } else {
                x
            }
        })]
    }
}

impl Operator for ClipGradient {
    fn name(&self) -> &'static str {
        "clip_gradient"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        infer_gated(self.name(), inputs)
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient::second_order(self.name()))
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(2.0, outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let inside = f64::from(self.low)..=f64::from(self.high);
        vec![inputs[0].zip(inputs[1], |dy, x| if inside.contains(&x) { dy } else { 0.0 })]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[f64]) -> Reference {
        Reference { dims: vec![1, values.len()], values: values.to_vec() }
    }

    #[test]
    fn rectifying_and_clipping() {
        let x = row(&[-1.0, 0.0, 3.0, 6.0, 7.0]);
        assert_eq!(Relu {}.evaluate(&[&x])[0].values, [0.0, 0.0, 3.0, 6.0, 7.0]);
        assert_eq!(Clip { low: 0.0, high: 6.0 }.evaluate(&[&x])[0].values, [0.0, 0.0, 3.0, 6.0, 6.0]);
        let dy = row(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(ReluGradient {}.evaluate(&[&dy, &x])[0].values, [0.0, 0.0, 3.0, 4.0, 5.0]);
        assert_eq!(ClipGradient { low: 0.0, high: 6.0 }.evaluate(&[&dy, &x])[0].values, [0.0, 2.0, 3.0, 4.0, 0.0]);
        assert!(Relu {}.evaluate(&[&row(&[f64::NAN])])[0].values[0].is_nan());
    }

    #[test]
    fn the_batch_stays_first() {
        let x = Shape::batched(&[3, 4]);
        assert_eq!(Add {}.infer(&[&x, &Shape::uniform(&[1, 4])]).unwrap(), std::slice::from_ref(&x));
        assert_eq!(Mul {}.infer(&[&Shape::uniform(&[1, 3, 1]), &x]).unwrap(), std::slice::from_ref(&x));
        assert!(Add {}.infer(&[&x, &Shape::uniform(&[1, 1, 3, 4])]).is_err());
        assert!(Add {}.infer(&[&x, &Shape::uniform(&[2, 3, 4])]).is_err());
        assert!(Clip { low: 1.0, high: 0.0 }.infer(&[&x]).is_err());
    }
}
