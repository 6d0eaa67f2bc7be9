//! Dense tensors of `f32`: initial parameter values and constants.

use serde::{Deserialize, Serialize};

/// A dense tensor in row-major order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// Extents, outermost first; empty for a scalar.
    pub dims: Vec<usize>,
    /// `dims.product()` values.
    pub values: Vec<f32>,
}

impl Tensor {
    /// A tensor of `dims` filled with `value`.
    pub fn full(dims: &[usize], value: f32) -> Self {
        Tensor { dims: dims.to_vec(), values: vec![value; dims.iter().product()] }
    }
}
