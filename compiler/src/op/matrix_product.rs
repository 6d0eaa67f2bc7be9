//! Products of matrices that are both computed.

use super::infer::operand_count;
use super::{Cost, NoGradient, Operator, Reference, ShapeError};
use crate::ir::{Dim, Shape, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// a `[N, .., M, K]`, b `[N, .., K, P]` -> a b `[N, .., M, P]`, each operand's last two axes swapped first where it says so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatrixProduct {
    /// Whether a is `[N, .., K, M]`.
    pub transpose_a: bool,
    /// Whether b is `[N, .., P, K]`.
    pub transpose_b: bool,
}

/// Extents of one product.
pub(crate) struct Extents {
    /// Products an example.
    pub(crate) products: usize,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    pub(crate) columns: usize,
}

impl MatrixProduct {
    /// Rows and columns of an operand after its transposition; they are its last two extents.
    fn matrix(dims: &[usize], transposed: bool) -> Option<[usize; 2]> {
        match *dims.last_chunk::<2>()? {
            [rows, columns] if !transposed => Some([rows, columns]),
            [columns, rows] => Some([rows, columns]),
        }
    }

    /// Of operands with these fixed extents; `None` if they do not fit.
    pub(crate) fn extents(&self, a: &[usize], b: &[usize]) -> Option<Extents> {
        let ([rows, depth], [other, columns]) = (Self::matrix(a, self.transpose_a)?, Self::matrix(b, self.transpose_b)?);
        let (lead, other_lead) = (&a[..a.len() - 2], &b[..b.len() - 2]);
        (depth == other && lead == other_lead).then(|| Extents { products: lead.iter().product(), rows, depth, columns })
    }
}

impl Operator for MatrixProduct {
    fn name(&self) -> &'static str {
        "matrix_product"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let [a, b] = inputs else { return Err(operand_count(self.name(), "(a, b)", inputs)) };
        let extents = (a.is_batched() && b.is_batched()).then(|| self.extents(&a.fixed(), &b.fixed())).flatten();
        let Some(extents) = extents else {
            return Err(ShapeError::new(
                format!("product of matrices {a} and {b}, transposed {} and {}", self.transpose_a, self.transpose_b),
                "they must be [N, .., M, K] and [N, .., K, P], alike in all axes before the last two",
            ));
        };
        let mut shape = (*a).clone();
        let rank = shape.rank();
        shape.0[rank - 2] = Dim::Fixed(extents.rows);
        shape.0[rank - 1] = Dim::Fixed(extents.columns);
        Ok(vec![shape])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let Some(dy) = gradients[0] else { return Ok(vec![None; 2]) };
        let (a, b, ta, tb) = (builder.input(0), builder.input(1), self.transpose_a, self.transpose_b);
        let product = |transpose_a, transpose_b| MatrixProduct { transpose_a, transpose_b };
        let da = builder.wants(0).then(|| match ta {
            false => builder.add(product(false, !tb), &[dy, b])[0],
            true => builder.add(product(tb, true), &[b, dy])[0],
        });
        let db = builder.wants(1).then(|| match tb {
            false => builder.add(product(!ta, false), &[a, dy])[0],
            true => builder.add(product(true, ta), &[dy, a])[0],
        });
        Ok(vec![da, db])
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        let flops = self
            .extents(&inputs[0].fixed(), &inputs[1].fixed())
            .map_or(0.0, |e| 2.0 * e.products as f64 * e.rows as f64 * e.depth as f64 * e.columns as f64);
        Cost { flops, fixed_flops: 0.0 }
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let (a, b) = (inputs[0], inputs[1]);
        let Some(Extents { products, rows, depth, columns }) = self.extents(&a.dims, &b.dims) else { return vec![] };
        let mut dims = a.dims.clone();
        let rank = dims.len();
        (dims[rank - 2], dims[rank - 1]) = (rows, columns);
        let mut y = Reference::full(&dims, 0.0);
        let at =
            |i: usize, j: usize, rows: usize, columns: usize, transposed: bool| if transposed { j * rows + i } else { i * columns + j };
        for p in 0..products {
            for i in 0..rows {
                for j in 0..columns {
                    let term = |k: usize| {
                        let left = a.values[p * rows * depth + at(i, k, rows, depth, self.transpose_a)];
                        left * b.values[p * depth * columns + at(k, j, depth, columns, self.transpose_b)]
                    };
                    y.values[(p * rows + i) * columns + j] = (0..depth).map(term).sum();
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
    fn products_with_and_without_transposition() {
        let a = Reference { dims: vec![1, 2, 3], values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] };
        let b = Reference { dims: vec![1, 3, 1], values: vec![1.0, 10.0, 100.0] };
        let product = |transpose_a, transpose_b, a, b| MatrixProduct { transpose_a, transpose_b }.evaluate(&[a, b]).remove(0);
        assert_eq!(product(false, false, &a, &b), Reference { dims: vec![1, 2, 1], values: vec![321.0, 654.0] });
        let turned = Reference { dims: vec![1, 1, 3], values: b.values.clone() };
        assert_eq!(product(false, true, &a, &turned).values, [321.0, 654.0]);
        assert_eq!(product(true, true, &b, &a).values, [321.0, 654.0]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let op = MatrixProduct { transpose_a: false, transpose_b: true };
        let (a, b) = (Shape::batched(&[4, 2, 3]), Shape::batched(&[4, 5, 3]));
        assert_eq!(op.infer(&[&a, &b]).unwrap(), [Shape::batched(&[4, 2, 5])]);
        for other in [Shape::batched(&[2, 5, 3]), Shape::batched(&[4, 3, 5]), Shape::uniform(&[4, 5, 3]), Shape::batched(&[3])] {
            assert!(op.infer(&[&a, &other]).is_err());
        }
        assert!(op.infer(&[&a]).is_err());
    }
}
