//! Compiles an ONNX model into a sparse-training program.
//!
//! [`pipeline`] is the path from an imported model to a [`program`]; [`ir`] and [`op`] say what a model means, [`pass`] turns it into a
//! training graph, [`engine`] runs it.

pub mod accounting;
#[cfg(feature = "jit")]
pub mod bench;
pub mod budget;
pub mod build;
mod caches;
#[cfg(feature = "cli")]
pub mod cli;
pub mod describe;
pub mod engine;
pub mod explain;
pub mod inspect;
pub mod ir;
pub mod onnx;
pub mod op;
pub mod pass;
pub mod pipeline;
pub mod program;
pub mod report;
pub mod settings;
pub mod trace;
pub mod zoo;
