//! Broadcasting: one walk over the elements of a result and of the operands that broadcast to it.

use crate::ir::{Dim, Shape};

/// Extents of a result's example, outermost first, with a stride for each operand; 0 where it is broadcast. Axes that lie like one are one.
#[derive(Clone, Debug)]
pub(super) struct Nest<const K: usize> {
    dims: Vec<usize>,
    strides: Vec<[usize; K]>,
    /// Elements from example to example, by operand; 0 for uniform ones.
    pub(super) example: [usize; K],
}

/// Extents of one example, without a batch axis or the axis of extent 1 that stands for it.
fn extents(shape: &Shape, rank: usize) -> Vec<usize> {
    let dims: Vec<usize> = shape.0.iter().filter_map(|dim| if let Dim::Fixed(n) = dim { Some(*n) } else { None }).collect();
    // Aligned at the last axis; what is left over at the front has extent 1.
    let skip = dims.len().saturating_sub(rank);
    std::iter::repeat_n(1, rank.saturating_sub(dims.len())).chain(dims[skip..].iter().copied()).collect()
}

impl<const K: usize> Nest<K> {
    /// Over `result`, for operands that broadcast to it.
    pub(super) fn new(result: &Shape, operands: [&Shape; K]) -> Self {
        let dims = result.fixed();
        let all = operands.map(|shape| {
            let own = extents(shape, dims.len());
            let mut stride = 1;
            let mut strides = vec![0; own.len()];
            for axis in (0..own.len()).rev() {
                strides[axis] = if own[axis] == 1 { 0 } else { stride };
                stride *= own[axis];
            }
            strides
        });
        let mut nest = Nest { dims: vec![], strides: vec![], example: operands.map(|s| if s.is_batched() { s.elements() } else { 0 }) };
        for (axis, &extent) in dims.iter().enumerate().filter(|(_, extent)| **extent != 1) {
            let strides: [usize; K] = std::array::from_fn(|k| all[k][axis]);
            match (nest.dims.last_mut(), nest.strides.last_mut()) {
                (Some(last), Some(outer)) if (0..K).all(|k| outer[k] == strides[k] * extent) => {
                    *last *= extent;
                    *outer = strides;
                }
                _ => {
                    nest.dims.push(extent);
                    nest.strides.push(strides);
                }
            }
        }
        nest
    }

    /// Calls `f(result offset, operand offsets, length, operand strides)` for each innermost row of an example.
    #[inline(always)]
    pub(super) fn rows(&self, mut f: impl FnMut(usize, [usize; K], usize, [usize; K])) {
        let (Some((&len, outer)), Some((&inner, strides))) = (self.dims.split_last(), self.strides.split_last()) else {
            return f(0, [0; K], 1, [0; K]);
        };
        let mut index = vec![0; outer.len()];
        let mut offsets = [0; K];
        for row in 0..outer.iter().product() {
            f(row * len, offsets, len, inner);
            for axis in (0..outer.len()).rev() {
                index[axis] += 1;
                (0..K).for_each(|k| offsets[k] += strides[axis][k]);
                if index[axis] < outer[axis] {
                    break;
                }
                (0..K).for_each(|k| offsets[k] -= strides[axis][k] * outer[axis]);
                index[axis] = 0;
            }
        }
    }
}

/// The part of an operand that a row reads: `len` elements, or the one that is broadcast. Rows of any other stride do not occur: the
/// innermost axis of a tensor has stride 1.
#[inline(always)]
pub(super) fn row(x: &[f32], offset: usize, len: usize, stride: usize) -> &[f32] {
    if stride == 0 { &x[offset..=offset] } else { &x[offset..][..len] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_lie_like_one_are_one() {
        let (x, bias) = (Shape::batched(&[3, 4, 5]), Shape::uniform(&[1, 3, 1, 1]));
        let nest = Nest::new(&x, [&x, &bias]);
        assert_eq!((nest.dims, nest.strides, nest.example), (vec![3, 20], vec![[20, 1], [1, 0]], [60, 0]));
        let same = Nest::new(&x, [&x]);
        assert_eq!((same.dims, same.strides), (vec![60], vec![[1]]));
    }

    #[test]
    fn rows_walk_every_element() {
        let (x, gate) = (Shape::batched(&[2, 3, 2]), Shape::batched(&[1, 3, 1]));
        let mut seen = vec![];
        Nest::new(&x, [&x, &gate]).rows(|y, [a, b], len, [_, stride]| {
            assert_eq!((y, len, stride), (a, 2, 0));
            seen.push((a, b));
        });
        assert_eq!(seen, [(0, 0), (2, 1), (4, 2), (6, 0), (8, 1), (10, 2)]);
        let mut scalar = vec![];
        Nest::new(&Shape::batched(&[]), [&Shape::batched(&[])]).rows(|y, x, len, _| scalar.push((y, x, len)));
        assert_eq!(scalar, [(0, [0], 1)]);
    }
}
