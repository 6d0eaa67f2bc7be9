//! Parts of axes, and axes put together of parts.

use super::infer::unary;
use super::{Cost, NoGradient, Operator, Reference, ShapeError};
use crate::ir::{Dim, Shape, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// Elements `start`, `start + step`, .. of one axis, `count` of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// An axis other than the batch.
    pub axis: usize,
    /// The first element that is kept.
    pub start: usize,
    /// From one kept element to the next.
    pub step: usize,
    /// How many are kept.
    pub count: usize,
}

/// Places x at `start`, `start + step`, .. of an axis of `extent`, with `fill` elsewhere: the transpose of [`Slice`] where `fill` is 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pad {
    /// An axis other than the batch.
    pub axis: usize,
    /// Where the first element of x goes.
    pub start: usize,
    /// From one element of x to the next.
    pub step: usize,
    /// The axis' new extent.
    pub extent: usize,
    /// What lies between.
    #[serde(with = "crate::ir::text::bound")]
    pub fill: f32,
}

/// Operands one after the other along an axis. A uniform operand among batched ones is repeated for every example: its first axis is 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Concat {
    /// An axis other than the batch.
    pub axis: usize,
}

/// The extent of an axis that is not the batch.
fn fixed(op: &str, x: &Shape, axis: usize) -> Result<usize, ShapeError> {
    match x.0.get(axis) {
        Some(&Dim::Fixed(extent)) => Ok(extent),
        _ => Err(ShapeError::new(format!("{op} of {x} along axis {axis}"), "it must be an axis of x, and not the batch")),
    }
}

fn with_extent(x: &Shape, axis: usize, extent: usize) -> Shape {
    let mut shape = x.clone();
    shape.0[axis] = Dim::Fixed(extent);
    shape
}

/// Copies `count` rows of `from` to `to`, whose extents differ along `axis` only: from `first[0]` on in steps of `step[0]`, likewise in `to`.
fn copy(from: &Reference, to: &mut Reference, axis: usize, count: usize, first: [usize; 2], step: [usize; 2]) {
    let outer: usize = from.dims[..axis].iter().product();
    let inner: usize = from.dims[axis + 1..].iter().product();
    for o in 0..outer {
        for i in 0..count {
            let row = |side: usize, extent: usize| (o * extent + first[side] + i * step[side]) * inner;
            let (source, target) = (row(0, from.dims[axis]), row(1, to.dims[axis]));
            to.values[target..target + inner].copy_from_slice(&from.values[source..source + inner]);
        }
    }
}

impl Operator for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let x = unary(self.name(), inputs)?;
        let extent = fixed(self.name(), x, self.axis)?;
        let last = self.count.checked_sub(1).and_then(|n| n.checked_mul(self.step)).and_then(|n| n.checked_add(self.start));
        if self.step == 0 || last.is_none_or(|last| last >= extent) {
            let what = format!("slice of {} elements of {x} along axis {} from {} by {}", self.count, self.axis, self.start, self.step);
            return Err(ShapeError::new(what, "at least one element is kept, and all lie inside the axis"));
        }
        Ok(vec![with_extent(x, self.axis, self.count)])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let Dim::Fixed(extent) = builder.shape(builder.input(0)).0[self.axis] else { return Ok(vec![None]) };
        let op = Pad { axis: self.axis, start: self.start, step: self.step, extent, fill: 0.0 };
        Ok(vec![gradients[0].map(|dy| builder.add(op, &[dy])[0])])
    }

    fn cost(&self, _inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::default()
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let mut dims = inputs[0].dims.clone();
        dims[self.axis] = self.count;
        let mut y = Reference::full(&dims, 0.0);
        copy(inputs[0], &mut y, self.axis, self.count, [self.start, 0], [self.step, 1]);
        vec![y]
    }
}

impl Operator for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let x = unary(self.name(), inputs)?;
        let count = fixed(self.name(), x, self.axis)?;
        let last = count.checked_sub(1).and_then(|n| n.checked_mul(self.step)).and_then(|n| n.checked_add(self.start));
        if self.step == 0 || last.is_none_or(|last| last >= self.extent) {
            let what = format!("pad of {x} along axis {} to {} from {} by {}", self.axis, self.extent, self.start, self.step);
            return Err(ShapeError::new(what, "all elements of x must lie inside the new extent"));
        }
        Ok(vec![with_extent(x, self.axis, self.extent)])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let Dim::Fixed(count) = builder.shape(builder.input(0)).0[self.axis] else { return Ok(vec![None]) };
        let op = Slice { axis: self.axis, start: self.start, step: self.step, count };
        Ok(vec![gradients[0].map(|dy| builder.add(op, &[dy])[0])])
    }

    fn cost(&self, _inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::default()
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let mut dims = inputs[0].dims.clone();
        let count = dims[self.axis];
        dims[self.axis] = self.extent;
        let mut y = Reference::full(&dims, f64::from(self.fill));
        copy(inputs[0], &mut y, self.axis, count, [0, self.start], [1, self.step]);
        vec![y]
    }
}

impl Concat {
    /// Where each operand begins along the axis.
    pub(crate) fn starts(&self, inputs: &[&Shape]) -> Vec<usize> {
        let mut end = 0;
        let start = |shape: &&Shape| {
            let start = end;
            end += if let Some(Dim::Fixed(extent)) = shape.0.get(self.axis) { *extent } else { 0 };
            start
        };
        inputs.iter().map(start).collect()
    }
}

impl Operator for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let Some(&first) = inputs.iter().find(|x| x.is_batched()).or(inputs.first()) else {
            return Err(ShapeError::new("concat of nothing", "it takes at least one operand"));
        };
        let mut total = 0usize;
        for x in inputs {
            let mut like = (*x).clone();
            if first.is_batched() && x.0.first() == Some(&Dim::Fixed(1)) {
                like.0[0] = Dim::Batch;
            }
            let extent = fixed(self.name(), &like, self.axis)?;
            if x.rank() != first.rank() || with_extent(&like, self.axis, 1) != with_extent(first, self.axis, 1) {
                let what = format!("concat of {first} and {x} along axis {}", self.axis);
                return Err(ShapeError::new(what, "all other axes must be equal"));
            }
            total = total.saturating_add(extent);
        }
        Ok(vec![with_extent(first, self.axis, total)])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let shapes: Vec<Shape> = builder.inputs().iter().map(|&x| builder.shape(x).clone()).collect();
        let Some(dy) = gradients[0] else { return Ok(vec![None; shapes.len()]) };
        let starts = self.starts(&shapes.iter().collect::<Vec<_>>());
        let part = |(i, shape): (usize, &Shape)| {
            let Dim::Fixed(count) = shape.0[self.axis] else { return None };
            builder.wants(i).then(|| {
                let own = builder.add(Slice { axis: self.axis, start: starts[i], step: 1, count }, &[dy])[0];
                builder.sum_to(own, shape)
            })
        };
        Ok(shapes.iter().enumerate().map(part).collect())
    }

    fn cost(&self, _inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::default()
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let mut dims = inputs[0].dims.clone();
        dims[0] = inputs.iter().map(|x| x.dims[0]).max().unwrap_or(1);
        dims[self.axis] = inputs.iter().map(|x| x.dims[self.axis]).sum();
        let mut y = Reference::full(&dims, 0.0);
        let mut start = 0;
        for x in inputs {
            let mut own = dims.clone();
            own[self.axis] = x.dims[self.axis];
            copy(&x.expand(&own), &mut y, self.axis, own[self.axis], [0, start], [1, 1]);
            start += own[self.axis];
        }
        vec![y]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(dims: &[usize]) -> Reference {
        Reference { dims: dims.to_vec(), values: (0..dims.iter().product::<usize>()).map(|i| i as f64).collect() }
    }

    #[test]
    fn slices_and_pads_undo_each_other() {
        let x = counted(&[1, 5, 2]);
        let slice = Slice { axis: 1, start: 1, step: 3, count: 2 };
        let part = slice.evaluate(&[&x]).remove(0);
        assert_eq!(part, Reference { dims: vec![1, 2, 2], values: vec![2.0, 3.0, 8.0, 9.0] });
        let padded = Pad { axis: 1, start: 1, step: 3, extent: 5, fill: 7.0 }.evaluate(&[&part]).remove(0);
        assert_eq!(padded.values, [7.0, 7.0, 2.0, 3.0, 7.0, 7.0, 7.0, 7.0, 8.0, 9.0]);
    }

    #[test]
    fn concatenation_repeats_what_has_no_batch() {
        let (x, token) = (counted(&[2, 1, 2]), Reference { dims: vec![1, 1, 2], values: vec![8.0, 9.0] });
        let y = Concat { axis: 1 }.evaluate(&[&token, &x]).remove(0);
        assert_eq!(y, Reference { dims: vec![2, 2, 2], values: vec![8.0, 9.0, 0.0, 1.0, 8.0, 9.0, 2.0, 3.0] });
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let x = Shape::batched(&[5, 2]);
        let slice = |axis, start, step, count| Slice { axis, start, step, count }.infer(&[&x]);
        assert_eq!(slice(1, 4, 9, 1).unwrap(), [Shape::batched(&[1, 2])]);
        for (axis, start, step, count) in [(0, 0, 1, 1), (3, 0, 1, 1), (1, 0, 1, 0), (1, 0, 0, 1), (1, 1, 2, 3), (1, 9, usize::MAX, 3)] {
            assert!(slice(axis, start, step, count).is_err());
        }
        let pad = |start, step, extent| Pad { axis: 2, start, step, extent, fill: 0.0 }.infer(&[&x]);
        assert_eq!(pad(1, 3, 5).unwrap(), [Shape::batched(&[5, 5])]);
        assert!(pad(1, 3, 4).is_err() && pad(0, 0, 4).is_err());
        let concat = |axis, other: &Shape| Concat { axis }.infer(&[&x, other]);
        assert_eq!(concat(1, &Shape::uniform(&[1, 3, 2])).unwrap(), [Shape::batched(&[8, 2])]);
        assert!(concat(1, &Shape::uniform(&[3, 2])).is_err());
        assert!(concat(0, &x).is_err() && concat(1, &Shape::batched(&[3, 3])).is_err());
        assert!(Concat { axis: 0 }.infer(&[]).is_err());
    }
}
