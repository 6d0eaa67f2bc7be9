//! Linear maps along an axis with constant, sparse coefficients: interpolation, gathering, repetition, reflection.

use super::infer::unary;
use super::{Cost, NoGradient, Operator, Reference, ShapeError};
use crate::ir::{Dim, Shape, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// Each element along an axis is a weighted sum of x's elements along it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resample {
    /// An axis other than the batch.
    pub axis: usize,
    /// For each element of the result: elements of x and their weights. None at all make 0.
    pub taps: Vec<Vec<(usize, f32)>>,
}

impl Resample {
    /// Takes these elements of the axis, in this order.
    pub fn gather(axis: usize, rows: &[usize]) -> Self {
        Resample { axis, taps: rows.iter().map(|&row| vec![(row, 1.0)]).collect() }
    }

    /// The map whose matrix is the transpose, for x of `extent` along the axis.
    fn transposed(&self, extent: usize) -> Self {
        let mut taps = vec![vec![]; extent];
        for (row, own) in self.taps.iter().enumerate() {
            for &(from, weight) in own {
                taps[from].push((row, weight));
            }
        }
        Resample { axis: self.axis, taps }
    }

    /// Weights in all.
    fn count(&self) -> usize {
        self.taps.iter().map(Vec::len).sum()
    }
}

impl Operator for Resample {
    fn name(&self) -> &'static str {
        "resample"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let x = unary(self.name(), inputs)?;
        let Some(&Dim::Fixed(extent)) = x.0.get(self.axis) else {
            return Err(ShapeError::new(format!("resampling {x} along axis {}", self.axis), "it must be an axis of x, and not the batch"));
        };
        if self.taps.is_empty() || self.taps.iter().flatten().any(|&(from, _)| from >= extent) {
            return Err(ShapeError::new(
                format!("resampling {x} along axis {} to {} elements", self.axis, self.taps.len()),
                "at least one element is needed, and all must come from elements of x",
            ));
        }
        let mut shape = x.clone();
        shape.0[self.axis] = Dim::Fixed(self.taps.len());
        Ok(vec![shape])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let Dim::Fixed(extent) = builder.shape(builder.input(0)).0[self.axis] else { return Ok(vec![None]) };
        Ok(vec![gradients[0].map(|dy| builder.add(self.transposed(extent), &[dy])[0])])
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        let Some(&Dim::Fixed(extent)) = inputs[0].0.get(self.axis) else { return Cost::default() };
        let each = 2.0 * self.count() as f64 / extent as f64;
        Cost::per_element(each, inputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let x = inputs[0];
        let mut dims = x.dims.clone();
        dims[self.axis] = self.taps.len();
        let outer: usize = x.dims[..self.axis].iter().product();
        let inner: usize = x.dims[self.axis + 1..].iter().product();
        let mut y = Reference::full(&dims, 0.0);
        for o in 0..outer {
            for (row, taps) in self.taps.iter().enumerate() {
                let to = (o * self.taps.len() + row) * inner;
                for &(from, weight) in taps {
                    let from = (o * x.dims[self.axis] + from) * inner;
                    for i in 0..inner {
                        y.values[to + i] += f64::from(weight) * x.values[from + i];
                    }
                }
            }
        }
        vec![y]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_and_weights_rows() {
        let x = Reference { dims: vec![1, 3, 2], values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] };
        let gathered = Resample::gather(1, &[2, 0, 2, 2]).evaluate(&[&x]).remove(0);
        assert_eq!(gathered, Reference { dims: vec![1, 4, 2], values: vec![5.0, 6.0, 1.0, 2.0, 5.0, 6.0, 5.0, 6.0] });
        let between = Resample { axis: 2, taps: vec![vec![(0, 0.25), (1, 0.75)], vec![]] };
        assert_eq!(between.evaluate(&[&x]).remove(0).values, [1.75, 0.0, 3.75, 0.0, 5.75, 0.0]);
    }

    #[test]
    fn transposing_twice_changes_nothing() {
        let op = Resample { axis: 1, taps: vec![vec![(0, 0.5), (2, 2.0)], vec![], vec![(2, 1.0)], vec![(1, 3.0)]] };
        assert_eq!(op.transposed(3).transposed(4), op);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let x = Shape::batched(&[3, 2]);
        assert_eq!(Resample::gather(1, &[2; 5]).infer(&[&x]).unwrap(), [Shape::batched(&[5, 2])]);
        for (axis, rows) in [(0, vec![0]), (3, vec![0]), (1, vec![3]), (1, vec![])] {
            assert!(Resample::gather(axis, &rows).infer(&[&x]).is_err());
        }
    }
}
