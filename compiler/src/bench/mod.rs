//! Measurements: generated kernels against shape-agnostic ones and dense ones, layer by layer and as a whole training step.
//!
//! [`generic`] is the baseline: compressed sparse rows over NCHW, as a library ships them. [`machine`] says what the machine could do at
//! most, [`measure`] times one variant of one model, [`choose`] takes the scheme of each layer from such times, [`tune`] its cache blocks.

pub mod choose;
pub mod generic;
pub mod machine;
pub mod measure;
pub mod tune;
