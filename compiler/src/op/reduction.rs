//! Reductions and their transposes.

use super::infer::unary;
use super::{Cost, Div, Mul, NoGradient, Operator, Reference, Reshape, SelectLess, ShapeError};
use crate::ir::{Dim, Shape, Tensor, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// Mean over axes other than the batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReduceMean {
    /// Axes of the input, ascending.
    pub axes: Vec<usize>,
    /// Whether they stay, with extent 1.
    pub keep_dims: bool,
}

/// The largest over axes other than the batch. Its gradient goes in equal parts to the elements that are it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReduceMax {
    /// Axes of the input, ascending.
    pub axes: Vec<usize>,
    /// Whether they stay, with extent 1.
    pub keep_dims: bool,
}

/// Broadcasts to a shape, as numpy does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expand {
    /// The result's axes.
    pub shape: Shape,
}

/// Sums down to a shape that broadcasts to the input's; the batch may vanish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SumTo {
    /// The result's axes.
    pub shape: Shape,
}

/// The axes of x if the reduced ones stay with extent 1.
fn kept(x: &Shape, axes: &[usize]) -> Shape {
    Shape(x.0.iter().enumerate().map(|(i, &d)| if axes.contains(&i) { Dim::Fixed(1) } else { d }).collect())
}

/// The shape of a reduction of x.
fn reduced(op: &str, x: &Shape, axes: &[usize], keep_dims: bool) -> Result<Shape, ShapeError> {
    let wrong = |hint: &str| ShapeError::new(format!("{op} of {x} over axes {axes:?}"), hint);
    if !axes.is_sorted_by(|a, b| a < b) || axes.last().is_some_and(|&a| a >= x.rank()) {
        return Err(wrong("axes must be ascending and below the rank"));
    }
    if axes.iter().any(|&a| !matches!(x.0[a], Dim::Fixed(1..))) {
        return Err(wrong("a reduction over the batch, or over nothing, is not supported"));
    }
    if keep_dims {
        return Ok(kept(x, axes));
    }
    Ok(Shape(x.0.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &d)| d).collect()))
}

/// Extents of a reduction's result.
fn reduced_dims(dims: &[usize], axes: &[usize], keep_dims: bool) -> Vec<usize> {
    let extent = |(i, &d): (usize, &usize)| if axes.contains(&i) { keep_dims.then_some(1) } else { Some(d) };
    dims.iter().enumerate().filter_map(extent).collect()
}

impl Operator for ReduceMean {
    fn name(&self) -> &'static str {
        "reduce_mean"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![reduced(self.name(), unary(self.name(), inputs)?, &self.axes, self.keep_dims)?])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let Some(mut dy) = gradients[0] else { return Ok(vec![None]) };
        let x = builder.shape(builder.input(0)).clone();
        let kept = kept(&x, &self.axes);
        let count = x.elements() / kept.elements().max(1);
        if !self.keep_dims {
            dy = builder.add(Reshape { shape: kept }, &[dy])[0];
        }
        let share = builder.constant(Tensor { dims: vec![], values: vec![1.0 / count as f32] });
        let scaled = builder.add(Mul {}, &[dy, share])[0];
        Ok(vec![Some(builder.add(Expand { shape: x }, &[scaled])[0])])
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::per_element(1.0, inputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let x = inputs[0];
        let count: usize = self.axes.iter().map(|&a| x.dims[a]).product();
        let mean = x.sum_to(&reduced_dims(&x.dims, &self.axes, true)).map(|sum| sum / count as f64);
        vec![Reference { dims: reduced_dims(&x.dims, &self.axes, self.keep_dims), values: mean.values }]
    }
}

impl Operator for ReduceMax {
    fn name(&self) -> &'static str {
        "reduce_max"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![reduced(self.name(), unary(self.name(), inputs)?, &self.axes, self.keep_dims)?])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let Some(mut dy) = gradients[0] else { return Ok(vec![None]) };
        let (x, mut y) = (builder.input(0), builder.outputs()[0]);
        let kept = kept(builder.shape(x), &self.axes);
        if !self.keep_dims {
            [dy, y] = [dy, y].map(|value| builder.add(Reshape { shape: kept.clone() }, &[value])[0]);
        }
        let [zero, one] = [0.0, 1.0].map(|number| builder.constant(Tensor { dims: vec![], values: vec![number] }));
        let largest = builder.add(SelectLess {}, &[x, y, zero, one])[0];
        let count = builder.sum_to(largest, &kept);
        let share = builder.add(Div {}, &[dy, count])[0];
        Ok(vec![Some(builder.add(Mul {}, &[largest, share])[0])])
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::per_element(1.0, inputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let x = inputs[0];
        let largest = x.fold_to(&reduced_dims(&x.dims, &self.axes, true), f64::NEG_INFINITY, f64::max);
        vec![Reference { dims: reduced_dims(&x.dims, &self.axes, self.keep_dims), values: largest.values }]
    }
}

impl Operator for Expand {
    fn name(&self) -> &'static str {
        "expand"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let x = unary(self.name(), inputs)?;
        let wrong = |hint: &str| ShapeError::new(format!("expand of {x} to {}", self.shape), hint);
        if x.broadcast(&self.shape).as_ref() != Some(&self.shape) {
            return Err(wrong("axes, aligned at the last, must be equal to the result's, or 1"));
        }
        if x.is_batched() != self.shape.is_batched() {
            return Err(wrong("it cannot make a batch: broadcasting in the operation that reads it can"));
        }
        Ok(vec![self.shape.clone()])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let x = builder.shape(builder.input(0)).clone();
        Ok(vec![gradients[0].map(|dy| builder.sum_to(dy, &x))])
    }

    fn cost(&self, _inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::default()
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let batch = inputs[0].dims.first().copied().unwrap_or(1);
        vec![inputs[0].expand(&self.shape.concrete(batch))]
    }
}

impl Operator for SumTo {
    fn name(&self) -> &'static str {
        "sum_to"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let x = unary(self.name(), inputs)?;
        if self.shape.broadcast(x).as_ref() != Some(x) {
            return Err(ShapeError::new(
                format!("sum of {x} to {}", self.shape),
                "axes of the result, aligned at the last, must be equal to the operand's, or 1",
            ));
        }
        Ok(vec![self.shape.clone()])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let shape = builder.shape(builder.input(0)).clone();
        if shape.is_batched() != self.shape.is_batched() {
            return Err(NoGradient {
                op: self.name(),
                why: "it sums over the batch, and examples must stay apart before the loss".to_owned(),
            });
        }
        Ok(vec![gradients[0].map(|dy| builder.add(Expand { shape }, &[dy])[0])])
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::per_element(1.0, inputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let batch = inputs[0].dims.first().copied().unwrap_or(1);
        vec![inputs[0].sum_to(&self.shape.concrete(batch))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_with_and_without_their_axes() {
        let x = Reference { dims: vec![2, 2, 3], values: (1..=12).map(f64::from).collect() };
        let mean = |axes: &[usize], keep_dims| ReduceMean { axes: axes.to_vec(), keep_dims }.evaluate(&[&x]).remove(0);
        assert_eq!(mean(&[2], false), Reference { dims: vec![2, 2], values: vec![2.0, 5.0, 8.0, 11.0] });
        assert_eq!(mean(&[1, 2], true), Reference { dims: vec![2, 1, 1], values: vec![3.5, 9.5] });
        assert_eq!(mean(&[1], false), Reference { dims: vec![2, 3], values: vec![2.5, 3.5, 4.5, 8.5, 9.5, 10.5] });
        let largest = ReduceMax { axes: vec![1], keep_dims: false }.evaluate(&[&x]).remove(0);
        assert_eq!(largest, Reference { dims: vec![2, 3], values: vec![4.0, 5.0, 6.0, 10.0, 11.0, 12.0] });
    }

    #[test]
    fn shapes_agree_with_references() {
        let x = Shape::batched(&[4, 5]);
        let op = ReduceMean { axes: vec![2], keep_dims: false };
        assert_eq!(op.infer(&[&x]).unwrap(), [Shape::batched(&[4])]);
        assert_eq!(ReduceMean { keep_dims: true, ..op }.infer(&[&x]).unwrap(), [Shape::batched(&[4, 1])]);
        for axes in [vec![0], vec![3], vec![2, 1], vec![1, 1]] {
            assert!(ReduceMean { axes, keep_dims: true }.infer(&[&x]).is_err());
        }
        assert!(Expand { shape: x.clone() }.infer(&[&Shape::batched(&[4, 1])]).is_ok());
        assert!(Expand { shape: x.clone() }.infer(&[&Shape::uniform(&[5])]).is_err());
        assert!(Expand { shape: Shape::batched(&[5]) }.infer(&[&x]).is_err());
        assert!(SumTo { shape: Shape::uniform(&[1, 5]) }.infer(&[&x]).is_ok());
        assert!(SumTo { shape: Shape::uniform(&[4]) }.infer(&[&x]).is_err());
    }
}
