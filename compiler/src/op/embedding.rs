//! Rows of a learned table, chosen by the data.

use super::infer::{expect, operand_count};
use super::{Cost, NoGradient, Operator, Reference, ShapeError};
use crate::ir::{Dim, Shape, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// (table `[V, D]`, indices `[N, T]`) -> rows `[N, T, D]`. Indices are whole numbers from 0 to V - 1, held as floats; others make NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embedding {}

/// (indices `[N, T]`, dy `[N, T, D]`) -> the table's gradient `[V, D]`: each row the sum of the gradients of where it was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingGradient {
    /// V, the rows of the table.
    pub rows: usize,
}

/// The row that an index names, if it is one.
fn row_of(index: f64, rows: usize) -> Option<usize> {
    (index >= 0.0 && index.fract() == 0.0 && index < rows as f64).then_some(index as usize)
}

impl Operator for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let [table, indices] = inputs else { return Err(operand_count(self.name(), "(table, indices)", inputs)) };
        match (&table.0[..], &indices.0[..]) {
            (&[Dim::Fixed(_), width @ Dim::Fixed(_)], &[Dim::Batch, positions]) => Ok(vec![Shape(vec![Dim::Batch, positions, width])]),
            _ => Err(ShapeError::new(
                format!("{}: the table is {table}, indices are {indices}", self.name()),
                "they must be [rows, elements] and [N, positions]",
            )),
        }
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let (table, indices) = (builder.input(0), builder.input(1));
        let rows = builder.shape(table).fixed()[0];
        let wanted = gradients[0].filter(|_| builder.wants(0));
        Ok(vec![wanted.map(|dy| builder.add(EmbeddingGradient { rows }, &[indices, dy])[0]), None])
    }

    fn cost(&self, _inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::default()
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let [table, indices] = [inputs[0], inputs[1]];
        let [rows, width] = [table.dims[0], table.dims[1]];
        let row = |&index: &f64| match row_of(index, rows) {
            Some(row) => table.values[row * width..][..width].to_vec(),
            None => vec![f64::NAN; width],
        };
        let dims = [&indices.dims[..], &[width]].concat();
        vec![Reference { dims, values: indices.values.iter().flat_map(row).collect() }]
    }
}

impl Operator for EmbeddingGradient {
    fn name(&self) -> &'static str {
        "embedding_gradient"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let [indices, dy] = inputs else { return Err(operand_count(self.name(), "(indices, dy)", inputs)) };
        let width = dy.0.last().copied();
        let Some(Dim::Fixed(width)) = width.filter(|_| indices.rank() == 2 && indices.is_batched()) else {
            return Err(ShapeError::new(format!("{}: indices are {indices}, dy is {dy}", self.name()), "indices must be [N, positions]"));
        };
        expect(self.name(), "dy", dy, &Shape(vec![Dim::Batch, indices.0[1], Dim::Fixed(width)]))?;
        Ok(vec![Shape::uniform(&[self.rows, width])])
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient::second_order(self.name()))
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::per_element(1.0, inputs[1])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let [indices, dy] = [inputs[0], inputs[1]];
        let width = dy.dims[dy.dims.len() - 1];
        let mut table = Reference::full(&[self.rows, width], 0.0);
        for (&index, dy) in indices.values.iter().zip(dy.values.chunks_exact(width)) {
            if let Some(row) = row_of(index, self.rows) {
                table.values[row * width..][..width].iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
            }
        }
        vec![table]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_and_their_gradients_summed() {
        let table = Reference { dims: vec![3, 2], values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] };
        let indices = Reference { dims: vec![1, 3], values: vec![2.0, 0.0, 2.0] };
        let y = Embedding {}.evaluate(&[&table, &indices]).remove(0);
        assert_eq!(y, Reference { dims: vec![1, 3, 2], values: vec![5.0, 6.0, 1.0, 2.0, 5.0, 6.0] });
        let gradient = EmbeddingGradient { rows: 3 }.evaluate(&[&indices, &y]).remove(0);
        assert_eq!(gradient.values, [1.0, 2.0, 0.0, 0.0, 10.0, 12.0]);
        let wrong = Reference { dims: vec![1, 3], values: vec![-1.0, 3.0, 0.5] };
        assert!(Embedding {}.evaluate(&[&table, &wrong]).remove(0).values.iter().all(|v| v.is_nan()));
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let (table, indices) = (Shape::uniform(&[7, 4]), Shape::batched(&[5]));
        assert_eq!(Embedding {}.infer(&[&table, &indices]).unwrap(), [Shape::batched(&[5, 4])]);
        assert!(Embedding {}.infer(&[&table, &Shape::batched(&[5, 2])]).is_err());
        assert!(Embedding {}.infer(&[&Shape::uniform(&[7]), &indices]).is_err());
        let op = EmbeddingGradient { rows: 7 };
        assert_eq!(op.infer(&[&indices, &Shape::batched(&[5, 4])]).unwrap(), [table]);
        assert!(op.infer(&[&indices, &Shape::batched(&[4, 4])]).is_err());
    }
}
