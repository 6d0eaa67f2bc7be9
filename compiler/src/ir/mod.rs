//! The intermediate representation: a graph of tensor operations over one example batch.
//!
//! Read [`graph`] first; [`validate`] lists every invariant; [`text`] and [`dot`] print it.

#[cfg(test)]
pub(crate) mod arbitrary;
pub mod dot;
pub mod graph;
pub mod names;
pub mod shape;
pub mod tensor;
pub mod text;
pub mod validate;

pub use graph::{Graph, NodeId, Value, ValueInfo};
pub use names::Names;
pub use shape::{Dim, Shape};
pub use tensor::Tensor;
