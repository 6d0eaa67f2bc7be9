//! Losses: (prediction, target) -> (loss of each example `[N]`, correct or not `[N]`, gradient of the batch's mean loss by the prediction).

use super::infer::{expect, operand_count};
use super::softmax::log_softmax;
use super::{Cost, NoGradient, Operator, Reference, ShapeError};
use crate::ir::{Dim, Shape, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// Cross-entropy of a softmax: prediction `[N, classes]`, target class indices `[N]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SoftmaxCrossEntropy {
    /// Share of the target's probability that is spread evenly over all classes.
    pub smoothing: f32,
}

/// Mean of squared differences over all elements: prediction and target of one shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeanSquaredError {}

/// The outputs of a loss over `prediction`.
fn outputs(prediction: &Shape) -> Vec<Shape> {
    vec![Shape::batched(&[]), Shape::batched(&[]), prediction.clone()]
}

fn no_gradient(op: &'static str) -> NoGradient {
    NoGradient { op, why: "differentiation begins at it; nothing may depend on it".to_owned() }
}

impl Operator for SoftmaxCrossEntropy {
    fn name(&self) -> &'static str {
        "softmax_cross_entropy"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let [prediction, target] = inputs else { return Err(operand_count(self.name(), "(prediction, target)", inputs)) };
        if !(0.0..=1.0).contains(&self.smoothing) {
            return Err(ShapeError::new(format!("label smoothing of {}", self.smoothing), "it must be between 0 and 1"));
        }
        let [Dim::Batch, Dim::Fixed(1..)] = prediction.0[..] else {
            return Err(ShapeError::new(format!("softmax_cross_entropy: the prediction is {prediction}"), "it must be [N, classes]"));
        };
        expect(self.name(), "the target", target, &Shape::batched(&[]))?;
        Ok(outputs(prediction))
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(no_gradient(self.name()))
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::per_element(15.0, inputs[0])
    }

    /// An example is right if no class scores higher than its target, and none before it as high.
    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let [prediction, target] = [inputs[0], inputs[1]];
        let [batch, classes] = [prediction.dims[0], prediction.dims[1]];
        let smoothing = f64::from(self.smoothing);
        let (mut loss, mut correct) = (Reference::full(&[batch], 0.0), Reference::full(&[batch], 0.0));
        let mut gradient = Reference::full(&prediction.dims, 0.0);
        for (example, row) in prediction.values.chunks_exact(classes).enumerate() {
            let log = log_softmax(row);
            let wanted = target.values[example] as usize;
            let best = (0..classes).fold(0, |best, c| if row[c] > row[best] { c } else { best });
            correct.values[example] = f64::from(u8::from(best == wanted));
            for (class, (log, gradient)) in log.into_iter().zip(&mut gradient.values[example * classes..]).enumerate() {
                let share = smoothing / classes as f64 + if class == wanted { 1.0 - smoothing } else { 0.0 };
                loss.values[example] -= share * log;
                *gradient = (log.exp() - share) / batch as f64;
            }
        }
        vec![loss, correct, gradient]
    }
}

impl Operator for MeanSquaredError {
    fn name(&self) -> &'static str {
        "mean_squared_error"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let [prediction, target] = inputs else { return Err(operand_count(self.name(), "(prediction, target)", inputs)) };
        if prediction.0.first() != Some(&Dim::Batch) || prediction.elements() == 0 {
            return Err(ShapeError::new(format!("mean_squared_error: the prediction is {prediction}"), "it must be [N, ..]"));
        }
        expect(self.name(), "the target", target, prediction)?;
        Ok(outputs(prediction))
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(no_gradient(self.name()))
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::per_element(4.0, inputs[0])
    }

    /// The loss of an example is the mean over its elements. Values are never simply right: `correct` is 0.
    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let [prediction, target] = [inputs[0], inputs[1]];
        let batch = prediction.dims[0];
        let elements = prediction.values.len() / batch;
        let difference = prediction.zip(target, |p, t| p - t);
        let squares = |row: &[f64]| row.iter().map(|d| d * d).sum::<f64>() / elements as f64;
        let loss = Reference { dims: vec![batch], values: difference.values.chunks_exact(elements).map(squares).collect() };
        let gradient = difference.map(|d| 2.0 * d / (elements * batch) as f64);
        vec![loss, Reference::full(&[batch], 0.0), gradient]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &Reference, b: &[f64]) -> bool {
        a.values.len() == b.len() && a.values.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12)
    }

    #[test]
    fn cross_entropy_by_hand() {
        let prediction = Reference { dims: vec![2, 2], values: vec![0.0, 3f64.ln(), 5.0, 5.0] };
        let target = Reference { dims: vec![2], values: vec![1.0, 1.0] };
        let [loss, correct, gradient] = SoftmaxCrossEntropy { smoothing: 0.0 }.evaluate(&[&prediction, &target]).try_into().unwrap();
        assert!(close(&loss, &[-(0.75f64.ln()), 2f64.ln()]));
        assert!(close(&correct, &[1.0, 0.0]), "a tie goes to the first class");
        assert!(close(&gradient, &[0.125, -0.125, 0.25, -0.25]));
    }

    #[test]
    fn smoothing_spreads_the_target() {
        let prediction = Reference { dims: vec![1, 2], values: vec![0.0, 3f64.ln()] };
        let target = Reference { dims: vec![1], values: vec![1.0] };
        let [loss, _, gradient] = SoftmaxCrossEntropy { smoothing: 0.5 }.evaluate(&[&prediction, &target]).try_into().unwrap();
        assert!(close(&loss, &[-0.75 * 0.75f64.ln() - 0.25 * 0.25f64.ln()]));
        assert!(close(&gradient, &[0.0, 0.0]));
    }

    #[test]
    fn squared_error_by_hand() {
        let prediction = Reference { dims: vec![2, 2], values: vec![1.0, 2.0, 3.0, 4.0] };
        let target = Reference { dims: vec![2, 2], values: vec![1.0, 0.0, 0.0, 0.0] };
        let [loss, _, gradient] = MeanSquaredError {}.evaluate(&[&prediction, &target]).try_into().unwrap();
        assert!(close(&loss, &[2.0, 12.5]));
        assert!(close(&gradient, &[0.0, 1.0, 1.5, 2.0]));
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let prediction = Shape::batched(&[10]);
        let op = SoftmaxCrossEntropy { smoothing: 0.1 };
        assert!(op.infer(&[&prediction, &Shape::batched(&[])]).is_ok());
        assert!(op.infer(&[&prediction, &prediction]).is_err());
        assert!(op.infer(&[&Shape::batched(&[10, 2]), &Shape::batched(&[])]).is_err());
        assert!(SoftmaxCrossEntropy { smoothing: 1.5 }.infer(&[&prediction, &Shape::batched(&[])]).is_err());
        assert!(MeanSquaredError {}.infer(&[&prediction, &Shape::batched(&[1])]).is_err());
    }
}
