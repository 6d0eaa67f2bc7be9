//! The linear layer and its gradients.

use super::infer::{expect, operand_count};
use super::{Cost, NoGradient, Operator, Reference, ShapeError};
use crate::ir::{Dim, Shape, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// y = x w + b over the last axis: x `[N, .., I]`, w `[I, O]`, optional bias `[O]` -> y `[N, .., O]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {}

/// (x, w, dy) -> (dx, dw).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearBackward {}

/// (x, w, dy) -> dw, where nobody needs dx.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearWeightGradient {}

/// Shape of y, after checking x and w.
fn infer_output(op: &str, x: &Shape, w: &Shape) -> Result<Shape, ShapeError> {
    let [Dim::Fixed(inputs), outputs] = w.0[..] else {
        return Err(ShapeError::new(format!("{op}: w is {w}"), "it must be [inputs, outputs]"));
    };
    if x.rank() < 2 || x.0[0] != Dim::Batch || x.0[x.rank() - 1] != Dim::Fixed(inputs) {
        return Err(ShapeError::new(format!("{op}: x is {x}, w is {w}"), format!("x must be [N, .., {inputs}]")));
    }
    let mut y = x.clone();
    y.0[x.rank() - 1] = outputs;
    Ok(y)
}

fn infer_gradients(op: &str, inputs: &[&Shape]) -> Result<[Shape; 2], ShapeError> {
    let [x, w, dy] = inputs else { return Err(operand_count(op, "(x, w, dy)", inputs)) };
    expect(op, "dy", dy, &infer_output(op, x, w)?)?;
    Ok([(*x).clone(), (*w).clone()])
}

/// A multiply and an add for each weight and row of x.
fn sweep(w: &Shape, y: &Shape) -> f64 {
    2.0 * y.elements() as f64 * w.fixed()[0] as f64
}

fn evaluate_input_gradient(x: &Reference, w: &Reference, dy: &Reference) -> Reference {
    let [inputs, outputs] = [w.dims[0], w.dims[1]];
    let mut dx = Reference::full(&x.dims, 0.0);
    for (dx, dy) in dx.values.chunks_exact_mut(inputs).zip(dy.values.chunks_exact(outputs)) {
        for (dx, w) in dx.iter_mut().zip(w.values.chunks_exact(outputs)) {
            *dx = w.iter().zip(dy).map(|(w, dy)| w * dy).sum();
        }
    }
    dx
}

fn evaluate_weight_gradient(x: &Reference, w: &[usize], dy: &Reference) -> Reference {
    let mut dw = Reference::full(w, 0.0);
    for (x, dy) in x.values.chunks_exact(w[0]).zip(dy.values.chunks_exact(w[1])) {
        for (x, dw) in x.iter().zip(dw.values.chunks_exact_mut(w[1])) {
            dw.iter_mut().zip(dy).for_each(|(dw, dy)| *dw += x * dy);
        }
    }
    dw
}

impl Operator for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let (x, w, bias) = match inputs {
            [x, w] => (x, w, None),
            [x, w, bias] => (x, w, Some(bias)),
            _ => return Err(operand_count(self.name(), "(x, w) or (x, w, bias)", inputs)),
        };
        let y = infer_output(self.name(), x, w)?;
        if let Some(bias) = bias {
            expect(self.name(), "the bias", bias, &Shape(w.0[1..].to_vec()))?;
        }
        Ok(vec![y])
    }

    /// Where only x needs a gradient (frozen weights), the dw of [`LinearBackward`] is left unread.
    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let mut results = vec![None; builder.inputs().len()];
        let Some(dy) = gradients[0] else { return Ok(results) };
        let operands = [builder.input(0), builder.input(1), dy];
        if builder.wants(0) {
            let both = builder.add(LinearBackward {}, &operands);
            results[0] = Some(both[0]);
            results[1] = builder.wants(1).then_some(both[1]);
        } else if builder.wants(1) {
            results[1] = Some(builder.add(LinearWeightGradient {}, &operands)[0]);
        }
        if results.len() > 2 && builder.wants(2) {
            let bias = builder.shape(builder.input(2)).clone();
            results[2] = Some(builder.sum_to(dy, &bias));
        }
        Ok(results)
    }

    fn cost(&self, inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        let bias = if inputs.len() > 2 { outputs[0].elements() as f64 } else { 0.0 };
        Cost { flops: sweep(inputs[1], outputs[0]) + bias, fixed_flops: 0.0 }
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let [x, w] = [inputs[0], inputs[1]];
        let [features, outputs] = [w.dims[0], w.dims[1]];
        let mut dims = x.dims.clone();
        dims[x.dims.len() - 1] = outputs;
        let mut y = match inputs.get(2) {
            Some(bias) => bias.expand(&dims),
            None => Reference::full(&dims, 0.0),
        };
        for (x, y) in x.values.chunks_exact(features).zip(y.values.chunks_exact_mut(outputs)) {
            for (x, w) in x.iter().zip(w.values.chunks_exact(outputs)) {
                y.iter_mut().zip(w).for_each(|(y, w)| *y += x * w);
            }
        }
        vec![y]
    }
}

impl Operator for LinearBackward {
    fn name(&self) -> &'static str {
        "linear_backward"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        infer_gradients(self.name(), inputs).map(Vec::from)
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient::second_order(self.name()))
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost { flops: 2.0 * sweep(inputs[1], inputs[2]), fixed_flops: 0.0 }
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let [x, w, dy] = [inputs[0], inputs[1], inputs[2]];
        vec![evaluate_input_gradient(x, w, dy), evaluate_weight_gradient(x, &w.dims, dy)]
    }
}

impl Operator for LinearWeightGradient {
    fn name(&self) -> &'static str {
        "linear_weight_gradient"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        infer_gradients(self.name(), inputs).map(|[_, w]| vec![w])
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient::second_order(self.name()))
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost { flops: sweep(inputs[1], inputs[2]), fixed_flops: 0.0 }
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![evaluate_weight_gradient(inputs[0], &inputs[1].dims, inputs[2])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_computed_layer() {
        let x = Reference { dims: vec![2, 2], values: vec![1.0, 2.0, 3.0, 4.0] };
        let w = Reference { dims: vec![2, 3], values: vec![1.0, 10.0, 100.0, 2.0, 20.0, 200.0] };
        let bias = Reference { dims: vec![3], values: vec![0.1, 0.2, 0.3] };
        let y = Linear {}.evaluate(&[&x, &w, &bias]).remove(0);
        assert_eq!((y.dims, y.values), (vec![2, 3], vec![5.1, 50.2, 500.3, 11.1, 110.2, 1100.3]));
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let w = Shape::uniform(&[4, 2]);
        assert_eq!(Linear {}.infer(&[&Shape::batched(&[5, 4]), &w]).unwrap(), [Shape::batched(&[5, 2])]);
        assert!(Linear {}.infer(&[&Shape::batched(&[5]), &w]).is_err());
        assert!(Linear {}.infer(&[&Shape::uniform(&[5, 4]), &w]).is_err());
        assert!(Linear {}.infer(&[&Shape::batched(&[4]), &w, &Shape::uniform(&[4])]).is_err());
        assert!(Linear {}.infer(&[&Shape::batched(&[4])]).is_err());
    }
}
