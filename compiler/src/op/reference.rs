//! Arithmetic on [`Reference`] that several operations share: mapping and broadcasting.

use super::Reference;
use crate::ir::Tensor;

impl From<&Tensor> for Reference {
    fn from(tensor: &Tensor) -> Self {
        Reference { dims: tensor.dims.clone(), values: tensor.values.iter().map(|&v| f64::from(v)).collect() }
    }
}

impl Reference {
    /// A tensor of `dims` filled with `value`.
    pub fn full(dims: &[usize], value: f64) -> Self {
        Reference { dims: dims.to_vec(), values: vec![value; dims.iter().product()] }
    }

    /// `f` of every element.
    pub(super) fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Reference { dims: self.dims.clone(), values: self.values.iter().map(|&v| f(v)).collect() }
    }

    /// `f` of every pair of elements, after broadcasting.
    pub(super) fn zip(&self, other: &Reference, f: impl Fn(f64, f64) -> f64) -> Self {
        let dims = broadcast_dims(&self.dims, &other.dims);
        let (a, b) = (self.expand(&dims), other.expand(&dims));
        Reference { values: a.values.iter().zip(&b.values).map(|(&a, &b)| f(a, b)).collect(), dims }
    }

    /// Broadcast to `dims`.
    pub(super) fn expand(&self, dims: &[usize]) -> Self {
        if self.dims == dims {
            return self.clone();
        }
        let values = broadcast_offsets(&self.dims, dims).into_iter().map(|i| self.values[i]).collect();
        Reference { dims: dims.to_vec(), values }
    }

    /// Summed down to `dims`, which broadcasts to its own.
    pub(super) fn sum_to(&self, dims: &[usize]) -> Self {
        if self.dims == dims {
            return self.clone();
        }
        self.fold_to(dims, 0.0, |sum, value| sum + value)
    }

    /// Combined down to `dims`, which broadcasts to its own, beginning with `first`.
    pub(super) fn fold_to(&self, dims: &[usize], first: f64, f: impl Fn(f64, f64) -> f64) -> Self {
        let mut folded = Reference::full(dims, first);
        for (&value, i) in self.values.iter().zip(broadcast_offsets(dims, &self.dims)) {
            folded.values[i] = f(folded.values[i], value);
        }
        folded
    }

    /// Elements of one (example, channel) plane of a tensor `[N, C, ..]`.
    pub(super) fn plane(&self) -> usize {
        self.dims[2..].iter().product()
    }

    /// Calls `f(channel, range of elements)` for every plane of a tensor `[N, C, ..]`.
    pub(super) fn each_plane(&self, mut f: impl FnMut(usize, std::ops::Range<usize>)) {
        let plane = self.plane();
        for i in 0..self.dims[0] * self.dims[1] {
            f(i % self.dims[1], i * plane..(i + 1) * plane);
        }
    }
}

/// Extents that both broadcast to, where that is possible.
pub(crate) fn broadcast_dims(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let axis = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |j| dims[j]);
    (0..rank).map(|i| if axis(a, i) == 1 { axis(b, i) } else { axis(a, i) }).collect()
}

/// For each element of a tensor of `to`, in order: the element of a tensor of `from` that broadcasts to it.
pub(crate) fn broadcast_offsets(from: &[usize], to: &[usize]) -> Vec<usize> {
    let lead = to.len() - from.len();
    let mut strides = vec![0; to.len()];
    let mut stride = 1;
    for axis in (0..from.len()).rev() {
        strides[lead + axis] = if from[axis] == 1 { 0 } else { stride };
        stride *= from[axis];
    }
    let mut offsets = vec![0];
    for (&extent, stride) in to.iter().zip(strides) {
        offsets = offsets.iter().flat_map(|&o| (0..extent).map(move |i| o + i * stride)).collect();
    }
    offsets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expanding_repeats_and_summing_undoes_it() {
        let column = Reference { dims: vec![2, 1], values: vec![1.0, 2.0] };
        let grid = column.expand(&[2, 2, 3]);
        assert_eq!(grid.values, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
        assert_eq!(grid.sum_to(&[2, 1]).values, [6.0, 12.0]);
        assert_eq!(grid.sum_to(&[]).values, [18.0]);
    }

    #[test]
    fn zipping_broadcasts_both_sides() {
        let row = Reference { dims: vec![3], values: vec![1.0, 2.0, 3.0] };
        let column = Reference { dims: vec![2, 1], values: vec![10.0, 20.0] };
        let sum = row.zip(&column, |a, b| a + b);
        assert_eq!(sum.dims, [2, 3]);
        assert_eq!(sum.values, [11.0, 12.0, 13.0, 21.0, 22.0, 23.0]);
    }
}
