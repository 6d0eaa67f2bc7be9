//! ONNX is known in this folder and nowhere else.
//!
//! [`import`] turns a model file, as both PyTorch exporters write them, into a [`Graph`](crate::ir::Graph); [`template`](template::template)
//! turns it back into a finished file with a known place for each parameter's values. In between, the file is first *prepared*
//! (module `prepare`): whatever import decides about names - merged initialisers that become separate ones, constants that are weights -
//! is done to the model itself, so graph and template cannot disagree. [`table`] maps each ONNX operation to what it becomes.

mod activations;
mod adapt;
mod attention;
mod attributes;
mod convolution_transpose;
mod elementary;
mod external;
mod fold;
mod frame;
mod import;
mod layers;
mod logic;
mod normalization;
mod order;
mod places;
mod pointwise;
mod pooling;
mod prepare;
mod random;
mod recurrent;
mod reduction;
pub mod report;
mod resize;
mod shapes;
mod slicing;
mod softmax;
mod sparse;
pub mod table;
pub mod template;
mod tensor;
#[cfg(test)]
mod tests;
mod untie;
mod weights;
mod wire;

pub use adapt::Adaptation;
pub(crate) use import::summarize;
pub use import::{Imported, Source, import, import_adapted, import_bytes, import_bytes_adapted};
pub use prepare::OPSETS;
pub use report::{ImportReport, Kind, Place, Problem};
pub use sparse::sparse_initializers;
pub use template::{TemplateError, append_metadata, template};
pub use weights::{LayerMetadata, SPARSITY_KEY, safetensors, sparsity_metadata};
