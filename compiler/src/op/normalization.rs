//! Batch normalization, taken apart into moments, normalization and their gradients. Channels are axis 1.

use super::infer::{channels, expect, operand_count, unary};
use super::{Cost, NoGradient, Op, Operator, Reference, ShapeError};
use crate::ir::{Shape, Tensor, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// (x, scale, shift, mean, variance) -> y, as imported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNormalization {
    /// Added to the variance.
    pub epsilon: f64,
    /// Share of the running statistics that a step keeps (ONNX's meaning).
    pub momentum: f64,
}

/// x -> (mean, variance) over batch and positions, `[C]` each; the variance is biased.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchMoments {}

/// (x, mean, variance, scale, shift) -> (x - mean) / sqrt(variance + epsilon) * scale + shift.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalize {
    /// Added to the variance.
    pub epsilon: f64,
}

/// (dy, x, mean, variance) -> (sum of dy * normalized x, sum of dy), `[C]` each: gradients of scale and shift.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NormalizeSums {
    /// Added to the variance.
    pub epsilon: f64,
}

/// (dy, x, mean, variance, scale, dscale, dshift) -> dx, through the statistics of x.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NormalizeBackward {
    /// Added to the variance.
    pub epsilon: f64,
}

/// (running, new) -> momentum * running + (1 - momentum) * new.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningAverage {
    /// Share of the old value that is kept.
    pub momentum: f64,
}

/// Checks that `vectors` are `[C]` for the channels of `x`.
fn expect_vectors(op: &str, x: &Shape, vectors: &[(&str, &Shape)]) -> Result<Shape, ShapeError> {
    let vector = Shape::uniform(&[channels(op, "x", x)?]);
    vectors.iter().try_for_each(|(what, shape)| expect(op, what, shape, &vector))?;
    Ok(vector)
}

/// Checks (x, mean, variance, scale, shift), in any order of the last four.
fn infer_normalized(op: &str, inputs: &[&Shape], names: [&str; 4]) -> Result<Vec<Shape>, ShapeError> {
    let [x, vectors @ ..] = inputs else { return Err(operand_count(op, &format!("(x, {})", names.join(", ")), inputs)) };
    if vectors.len() != names.len() {
        return Err(operand_count(op, &format!("(x, {})", names.join(", ")), inputs));
    }
    let named: Vec<_> = names.into_iter().zip(vectors.iter().copied()).collect();
    expect_vectors(op, x, &named)?;
    Ok(vec![(*x).clone()])
}

fn normalize(x: &Reference, mean: &Reference, variance: &Reference, scale: &Reference, shift: &Reference, epsilon: f64) -> Reference {
    let mut y = x.clone();
    x.each_plane(|c, plane| {
        let factor = scale.values[c] / (variance.values[c] + epsilon).sqrt();
        y.values[plane].iter_mut().for_each(|y| *y = (*y - mean.values[c]) * factor + shift.values[c]);
    });
    y
}

impl Operator for BatchNormalization {
    fn name(&self) -> &'static str {
        "batch_normalization"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        infer_normalized(self.name(), inputs, ["scale", "shift", "mean", "variance"])
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient { op: self.name(), why: "it must be specialized to training or inference first".to_owned() })
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(2.0, outputs[0])
    }

    /// The inference form: statistics are the operands.
    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![normalize(inputs[0], inputs[3], inputs[4], inputs[1], inputs[2], self.epsilon)]
    }
}

impl Operator for BatchMoments {
    fn name(&self) -> &'static str {
        "batch_moments"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let vector = expect_vectors(self.name(), unary(self.name(), inputs)?, &[])?;
        Ok(vec![vector.clone(), vector])
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient { op: self.name(), why: "only the normalization of the same x carries it".to_owned() })
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::per_element(4.0, inputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let x = inputs[0];
        let count = (x.dims[0] * x.plane()) as f64;
        let mut mean = Reference::full(&x.dims[1..2], 0.0);
        x.each_plane(|c, plane| mean.values[c] += x.values[plane].iter().sum::<f64>());
        mean.values.iter_mut().for_each(|m| *m /= count);
        let mut variance = Reference::full(&x.dims[1..2], 0.0);
        x.each_plane(|c, plane| variance.values[c] += x.values[plane].iter().map(|x| (x - mean.values[c]).powi(2)).sum::<f64>());
        variance.values.iter_mut().for_each(|v| *v /= count);
        vec![mean, variance]
    }
}

impl Normalize {
    /// Whether mean and variance are the moments of the x that is normalized: then they pass the gradient on to x. Else they must be
    /// constants to it.
    fn normalizes_its_own(&self, builder: &GradientBuilder<'_>) -> Result<bool, NoGradient> {
        let [x, mean, variance] = [builder.input(0), builder.input(1), builder.input(2)];
        let (producer, operands) = builder.producer(mean);
        if matches!(producer, Op::BatchMoments(_)) && operands == [x] && variance == (Value { output: 1, ..mean }) && mean.output == 0 {
            return Ok(true);
        }
        if builder.wants(1) || builder.wants(2) {
            return Err(NoGradient { op: self.name(), why: "its mean and variance are learned, or moments of another value".to_owned() });
        }
        Ok(false)
    }
}

impl Operator for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        infer_normalized(self.name(), inputs, ["mean", "variance", "scale", "shift"])
    }

    /// With statistics of x itself dx goes through them; with any other statistics y is linear in x.
    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let mut results = vec![None; 5];
        let Some(dy) = gradients[0] else { return Ok(results) };
        let own = self.normalizes_its_own(builder)?;
        let epsilon = self.epsilon;
        let [x, mean, variance, scale] = [0, 1, 2, 3].map(|i| builder.input(i));
        let learned = [builder.wants(3), builder.wants(4)];
        let through_statistics = own && builder.wants(0);
        if through_statistics || learned != [false; 2] {
            let sums = builder.add(NormalizeSums { epsilon }, &[dy, x, mean, variance]);
            results[3] = learned[0].then_some(sums[0]);
            results[4] = learned[1].then_some(sums[1]);
            if through_statistics {
                let operands = [dy, x, mean, variance, scale, sums[0], sums[1]];
                results[0] = Some(builder.add(NormalizeBackward { epsilon }, &operands)[0]);
            }
        }
        if !own && builder.wants(0) {
            let zero = Tensor::full(&builder.shape(mean).fixed(), 0.0);
            let zero = builder.constant(zero);
            results[0] = Some(builder.add(self.clone(), &[dy, zero, variance, scale, zero])[0]);
        }
        Ok(results)
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(2.0, outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![normalize(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], self.epsilon)]
    }
}

impl Operator for NormalizeSums {
    fn name(&self) -> &'static str {
        "normalize_sums"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let [dy, x, mean, variance] = inputs else { return Err(operand_count(self.name(), "(dy, x, mean, variance)", inputs)) };
        expect(self.name(), "dy", dy, x)?;
        let vector = expect_vectors(self.name(), x, &[("mean", mean), ("variance", variance)])?;
        Ok(vec![vector.clone(), vector])
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient::second_order(self.name()))
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::per_element(5.0, inputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let [dy, x, mean, variance] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        let (mut dscale, mut dshift) = (Reference::full(&mean.dims, 0.0), Reference::full(&mean.dims, 0.0));
        x.each_plane(|c, plane| {
            let deviation = (variance.values[c] + self.epsilon).sqrt();
            for (dy, x) in dy.values[plane.clone()].iter().zip(&x.values[plane]) {
                dscale.values[c] += dy * (x - mean.values[c]) / deviation;
                dshift.values[c] += dy;
            }
        });
        vec![dscale, dshift]
    }
}

impl Operator for NormalizeBackward {
    fn name(&self) -> &'static str {
        "normalize_backward"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let [dy, x, vectors @ ..] = inputs else {
            return Err(operand_count(self.name(), "(dy, x, mean, variance, scale, dscale, dshift)", inputs));
        };
        let names = ["mean", "variance", "scale", "dscale", "dshift"];
        if vectors.len() != names.len() {
            return Err(operand_count(self.name(), "(dy, x, mean, variance, scale, dscale, dshift)", inputs));
        }
        expect(self.name(), "dy", dy, x)?;
        let named: Vec<_> = names.into_iter().zip(vectors.iter().copied()).collect();
        expect_vectors(self.name(), x, &named)?;
        Ok(vec![(*x).clone()])
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient::second_order(self.name()))
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::per_element(6.0, inputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let [dy, x, mean, variance, scale, dscale, dshift] = [0, 1, 2, 3, 4, 5, 6].map(|i| inputs[i]);
        let count = (x.dims[0] * x.plane()) as f64;
        let mut dx = dy.clone();
        x.each_plane(|c, plane| {
            let deviation = (variance.values[c] + self.epsilon).sqrt();
            for (dx, x) in dx.values[plane.clone()].iter_mut().zip(&x.values[plane]) {
                let normalized = (x - mean.values[c]) / deviation;
                *dx = scale.values[c] / deviation * (*dx - (dshift.values[c] + normalized * dscale.values[c]) / count);
            }
        });
        vec![dx]
    }
}

impl Operator for RunningAverage {
    fn name(&self) -> &'static str {
        "running_average"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let [running, new] = inputs else { return Err(operand_count(self.name(), "(running, new)", inputs)) };
        expect(self.name(), "the new value", new, running)?;
        Ok(vec![(*running).clone()])
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient { op: self.name(), why: "running statistics follow the data without a gradient".to_owned() })
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(3.0, outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![inputs[0].zip(inputs[1], |running, new| self.momentum * running + (1.0 - self.momentum) * new)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(values: &[f64]) -> Reference {
        Reference { dims: vec![values.len()], values: values.to_vec() }
    }

    #[test]
    fn moments_are_over_batch_and_positions() {
        let x = Reference { dims: vec![2, 2, 2], values: vec![1.0, 2.0, 10.0, 10.0, 3.0, 6.0, 10.0, 14.0] };
        let [mean, variance] = BatchMoments {}.evaluate(&[&x]).try_into().unwrap();
        assert_eq!(mean.values, [3.0, 11.0]);
        assert_eq!(variance.values, [3.5, 3.0]);
    }

    #[test]
    fn normalizing_uses_the_operands_in_their_order() {
        let x = Reference { dims: vec![1, 2], values: vec![5.0, 9.0] };
        let [mean, variance, scale, shift] = [vector(&[1.0, 3.0]), vector(&[3.0, 8.0]), vector(&[2.0, 10.0]), vector(&[0.5, 0.25])];
        let y = Normalize { epsilon: 1.0 }.evaluate(&[&x, &mean, &variance, &scale, &shift]).remove(0);
        assert_eq!(y.values, [4.5, 20.25]);
        let imported = BatchNormalization { epsilon: 1.0, momentum: 0.9 }.evaluate(&[&x, &scale, &shift, &mean, &variance]).remove(0);
        assert_eq!(imported, y);
    }

    #[test]
    fn a_running_average_keeps_momentum_of_the_old() {
        let average = RunningAverage { momentum: 0.75 }.evaluate(&[&vector(&[4.0]), &vector(&[8.0])]).remove(0);
        assert_eq!(average.values, [5.0]);
    }

    #[test]
    fn vectors_of_another_length_are_refused() {
        let (x, c, wrong) = (Shape::batched(&[3, 2, 2]), Shape::uniform(&[3]), Shape::uniform(&[2]));
        let op = Normalize { epsilon: 1e-5 };
        assert_eq!(op.infer(&[&x, &c, &c, &c, &c]).unwrap(), std::slice::from_ref(&x));
        assert!(op.infer(&[&x, &c, &c, &c]).is_err());
        let error = op.infer(&[&x, &c, &c, &wrong, &c]).unwrap_err();
        assert!(error.to_string().contains("scale"), "{error}");
        assert!(BatchMoments {}.infer(&[&Shape::uniform(&[3, 2])]).is_err());
    }
}
