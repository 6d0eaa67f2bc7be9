//! Where the elements of a value lie: a function of its shape alone, so that every kernel agrees without being told.
//!
//! Batched values: `[group][...][lane]`, and within a group `[y][channel][x]` for `[N, C, H, W]`, ONNX's order for any other rank.
//! Uniform values: ONNX's order.

use crate::ir::{Dim, Shape};

/// Order in which the fixed axes of a batched value of `rank` fixed axes are stored, outermost first.
pub fn storage_order(fixed_axes: usize) -> Vec<usize> {
    if fixed_axes == 3 { vec![1, 0, 2] } else { (0..fixed_axes).collect() }
}

/// Stride of each fixed axis: in vectors for a batched value (within its group), in elements for a uniform one.
pub fn strides(shape: &Shape) -> Vec<usize> {
    let extents = shape.fixed();
    let order = if shape.is_batched() { storage_order(extents.len()) } else { (0..extents.len()).collect() };
    let mut strides = vec![0; extents.len()];
    let mut next = 1;
    for &axis in order.iter().rev() {
        strides[axis] = next;
        next *= extents[axis];
    }
    strides
}

/// Strides of `operand` along the axes of `space` (both aligned at the last axis), 0 where it broadcasts.
///
/// Both shapes' batch axes are left out: a batched operand's group is addressed apart.
pub fn strides_in(operand: &Shape, space: &Shape) -> Vec<usize> {
    let own = strides(operand);
    let (space_rank, operand_rank) = (space.rank(), operand.rank());
    let mut result = Vec::new();
    for (axis, dim) in space.0.iter().enumerate() {
        if *dim == Dim::Batch {
            continue;
        }
        let stride = (axis + operand_rank).checked_sub(space_rank).map_or(0, |own_axis| match operand.0[own_axis] {
            Dim::Fixed(1) | Dim::Batch => 0,
            Dim::Fixed(_) => own[own_axis - operand.0[..own_axis].iter().filter(|d| **d == Dim::Batch).count()],
        });
        result.push(stride);
    }
    result
}

/// Whether a batched value of `shape` lies in ONNX's order: a reshape to any other such shape costs nothing.
pub fn is_natural(shape: &Shape) -> bool {
    let extents = shape.fixed();
    let mut natural = vec![0; extents.len()];
    let mut next = 1;
    for axis in (0..extents.len()).rev() {
        natural[axis] = next;
        next *= extents[axis];
    }
    strides(shape).iter().zip(&natural).zip(&extents).all(|((own, natural), extent)| *extent == 1 || own == natural)
}

/// For each element of one example in ONNX's order, its vector within the group; empty if that is the same order.
pub fn element_order(shape: &Shape) -> Vec<u32> {
    if is_natural(shape) {
        return Vec::new();
    }
    let (extents, strides) = (shape.fixed(), strides(shape));
    (0..shape.elements())
        .map(|element| {
            let mut rest = element;
            let mut vector = 0;
            for axis in (0..extents.len()).rev() {
                vector += rest % extents[axis] * strides[axis];
                rest /= extents[axis];
            }
            vector as u32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_stored_by_row_channel_column() {
        assert_eq!(strides(&Shape::batched(&[3, 5, 7])), [7, 21, 1]);
        assert_eq!(strides(&Shape::uniform(&[3, 5, 7])), [35, 7, 1]);
        assert_eq!(strides_in(&Shape::uniform(&[3, 1, 1]), &Shape::batched(&[3, 5, 7])), [1, 0, 0]);
        assert_eq!(strides_in(&Shape::batched(&[3, 1, 1]), &Shape::batched(&[3, 5, 7])), [1, 0, 0]);
        assert_eq!(strides_in(&Shape::uniform(&[7]), &Shape::batched(&[3, 5, 7])), [0, 0, 1]);
    }

    #[test]
    fn unit_extents_do_not_matter_to_the_order() {
        assert!(is_natural(&Shape::batched(&[64, 1, 1])));
        assert!(is_natural(&Shape::batched(&[1, 28, 28])));
        assert!(!is_natural(&Shape::batched(&[2, 3, 3])));
        assert_eq!(element_order(&Shape::batched(&[2, 2, 1])), [0, 2, 1, 3]);
    }
}
