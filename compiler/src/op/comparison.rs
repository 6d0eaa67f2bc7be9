//! Choices between elements, with numpy's broadcasting.

use super::infer::{broadcast, operand_count};
use super::{Cost, Mul, NoGradient, Operator, Reference, ShapeError};
use crate::ir::{Shape, Tensor, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// (a, b) -> the larger; a where they are unordered. Its gradient goes to the larger, half to each where they are equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Max {}

/// (a, b) -> the smaller; a where they are unordered. Its gradient goes to the smaller, half to each where they are equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Min {}

/// (a, b, c, d) -> c where a < b, else d
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelectLess {}

/// Gradients of the greater and of the lesser of two operands, the result being the greater: `dy` where it alone is chosen, half of it where both are equal.
fn gradients_of_extremum(
    builder: &mut GradientBuilder<'_>,
    dy: Option<Value>,
    chosen_if_less: impl Fn(usize) -> [usize; 2],
) -> Vec<Option<Value>> {
    let Some(dy) = dy else { return vec![None; 2] };
    let zero = builder.constant(Tensor { dims: vec![], values: vec![0.0] });
    let half = builder.constant(Tensor { dims: vec![], values: vec![0.5] });
    let shared = builder.add(Mul {}, &[dy, half])[0];
    let side = |i: usize| {
        let shape = builder.shape(builder.input(i)).clone();
        builder.wants(i).then(|| {
            // Operand i is chosen where `low` < `high`, the other where it is the other way round.
            let [low, high] = chosen_if_less(i).map(|operand| builder.input(operand));
            let other_or_both = builder.add(SelectLess {}, &[high, low, zero, shared])[0];
            let own = builder.add(SelectLess {}, &[low, high, dy, other_or_both])[0];
            builder.sum_to(own, &shape)
        })
    };
    [0, 1].map(side).to_vec()
}

fn infer_binary(op: &str, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
    let [a, b] = inputs else { return Err(operand_count(op, "(a, b)", inputs)) };
    Ok(vec![broadcast(op, a, b)?])
}

impl Operator for Max {
    fn name(&self) -> &'static str {
        "max"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        infer_binary(self.name(), inputs)
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Ok(gradients_of_extremum(builder, gradients[0], |i| [1 - i, i]))
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(1.0, outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![inputs[0].zip(inputs[1], |a, b| if a < b { b } else { a })]
    }
}

impl Operator for Min {
    fn name(&self) -> &'static str {
        "min"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        infer_binary(self.name(), inputs)
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Ok(gradients_of_extremum(builder, gradients[0], |i| [i, 1 - i]))
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(1.0, outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![inputs[0].zip(inputs[1], |a, b| if b < a { b } else { a })]
    }
}

impl Operator for SelectLess {
    fn name(&self) -> &'static str {
        "select_less"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let [a, b, c, d] = inputs else { return Err(operand_count(self.name(), "(a, b, c, d)", inputs)) };
        let compared = broadcast(self.name(), a, b)?;
        let chosen = broadcast(self.name(), c, d)?;
        Ok(vec![broadcast(self.name(), &compared, &chosen)?])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let Some(dy) = gradients[0] else { return Ok(vec![None; 4]) };
        let zero = builder.constant(Tensor { dims: vec![], values: vec![0.0] });
        let (a, b) = (builder.input(0), builder.input(1));
        let chosen = [[dy, zero], [zero, dy]].into_iter().enumerate().map(|(i, [less, not])| {
            let shape = builder.shape(builder.input(2 + i)).clone();
            builder.wants(2 + i).then(|| {
                let own = builder.add(SelectLess {}, &[a, b, less, not])[0];
                builder.sum_to(own, &shape)
            })
        });
        Ok([None, None].into_iter().chain(chosen).collect())
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(1.0, outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let less = inputs[0].zip(inputs[1], |a, b| if a < b { 1.0 } else { 0.0 });
        let dims = less.zip(&inputs[2].zip(inputs[3], |c, _| c), |less, _| less).dims;
        let [less, c, d] = [&less, inputs[2], inputs[3]].map(|operand| operand.expand(&dims));
        let values = less.values.iter().zip(c.values.iter().zip(&d.values)).map(|(&less, (&c, &d))| if less > 0.0 { c } else { d });
        vec![Reference { values: values.collect(), dims }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_broadcast() {
        let row = Reference { dims: vec![3], values: vec![1.0, 2.0, 3.0] };
        let column = Reference { dims: vec![2, 1], values: vec![2.0, 3.0] };
        assert_eq!(Max {}.evaluate(&[&row, &column])[0].values, [2.0, 2.0, 3.0, 3.0, 3.0, 3.0]);
        assert_eq!(Min {}.evaluate(&[&row, &column])[0].values, [1.0, 2.0, 2.0, 1.0, 2.0, 3.0]);
        let zero = Reference { dims: vec![], values: vec![0.0] };
        let chosen = SelectLess {}.evaluate(&[&zero, &zero, &row, &column]).remove(0);
        assert_eq!(chosen, Reference { dims: vec![2, 3], values: vec![2.0, 2.0, 2.0, 3.0, 3.0, 3.0] });
        let x = Shape::batched(&[3]);
        assert_eq!(SelectLess {}.infer(&[&x, &Shape::uniform(&[]), &Shape::uniform(&[3]), &x]).unwrap(), std::slice::from_ref(&x));
        assert!(SelectLess {}.infer(&[&x, &x, &x, &Shape::uniform(&[2])]).is_err());
        assert!(Max {}.infer(&[&x]).is_err());
    }
}
