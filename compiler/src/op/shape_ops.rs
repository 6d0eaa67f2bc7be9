//! Same elements, other axes.

use super::infer::unary;
use super::{Cost, NoGradient, Operator, Reference, ShapeError};
use crate::ir::{Dim, Shape, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// Same elements in the same order under other axes; the batch stays first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reshape {
    /// The result's axes.
    pub shape: Shape,
}

/// Axes permuted; the batch stays first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transpose {
    /// Axis i of the result is axis `perm[i]` of the input.
    pub perm: Vec<usize>,
}

impl Operator for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let x = unary(self.name(), inputs)?;
        let wrong = |hint: &str| ShapeError::new(format!("reshape of {x} to {}", self.shape), hint);
        let batch_first = |s: &Shape| s.0.first() == Some(&Dim::Batch);
        if x.is_batched() != self.shape.is_batched() || x.is_batched() && !(batch_first(x) && batch_first(&self.shape)) {
            return Err(wrong("the batch must stay the first axis"));
        }
        if x.elements() != self.shape.elements() {
            return Err(wrong("both must have as many elements"));
        }
        Ok(vec![self.shape.clone()])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let shape = builder.shape(builder.input(0)).clone();
        Ok(vec![gradients[0].map(|dy| builder.add(Reshape { shape }, &[dy])[0])])
    }

    fn cost(&self, _inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::default()
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let batch = inputs[0].dims.first().copied().unwrap_or(1);
        vec![Reference { dims: self.shape.concrete(batch), values: inputs[0].values.clone() }]
    }
}

impl Operator for Transpose {
    fn name(&self) -> &'static str {
        "transpose"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let x = unary(self.name(), inputs)?;
        let wrong = |hint: &str| ShapeError::new(format!("transpose of {x} by {:?}", self.perm), hint);
        let mut axes = self.perm.clone();
        axes.sort_unstable();
        if !axes.iter().copied().eq(0..x.rank()) {
            return Err(wrong("the permutation must name every axis once"));
        }
        if x.is_batched() && self.perm[0] != 0 {
            return Err(wrong("the batch must stay the first axis"));
        }
        Ok(vec![Shape(self.perm.iter().map(|&axis| x.0[axis]).collect())])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let perm = (0..self.perm.len()).filter_map(|axis| self.perm.iter().position(|&p| p == axis)).collect();
        Ok(vec![gradients[0].map(|dy| builder.add(Transpose { perm }, &[dy])[0])])
    }

    fn cost(&self, _inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::default()
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let x = inputs[0];
        let stride = |axis: usize| x.dims[axis + 1..].iter().product::<usize>();
        let mut offsets = vec![0];
        for &axis in &self.perm {
            offsets = offsets.iter().flat_map(|&o| (0..x.dims[axis]).map(move |i| (o, i))).map(|(o, i)| o + i * stride(axis)).collect();
        }
        let dims = self.perm.iter().map(|&axis| x.dims[axis]).collect();
        vec![Reference { dims, values: offsets.into_iter().map(|o| x.values[o]).collect() }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transpose_moves_axes() {
        let x = Reference { dims: vec![2, 1, 3], values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] };
        let y = Transpose { perm: vec![2, 0, 1] }.evaluate(&[&x]).remove(0);
        assert_eq!(y, Reference { dims: vec![3, 2, 1], values: vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0] });
        assert_eq!(Transpose { perm: vec![1, 2, 0] }.evaluate(&[&y]).remove(0), x);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let x = Shape::batched(&[2, 6]);
        assert!(Reshape { shape: Shape::batched(&[12]) }.infer(&[&x]).is_ok());
        assert!(Reshape { shape: Shape::batched(&[13]) }.infer(&[&x]).is_err());
        assert!(Reshape { shape: Shape::uniform(&[12]) }.infer(&[&x]).is_err());
        assert!(Reshape { shape: Shape(vec![Dim::Fixed(12), Dim::Batch]) }.infer(&[&x]).is_err());
        assert_eq!(Transpose { perm: vec![0, 2, 1] }.infer(&[&x]).unwrap(), [Shape::batched(&[6, 2])]);
        assert!(Transpose { perm: vec![1, 0, 2] }.infer(&[&x]).is_err());
        let w = Shape::uniform(&[2, 6]);
        assert_eq!(Transpose { perm: vec![1, 0] }.infer(&[&w]).unwrap(), [Shape::uniform(&[6, 2])]);
        assert!(Transpose { perm: vec![1, 1] }.infer(&[&w]).is_err());
    }
}
