//! What a compiled sparse-training program links to.
//!
//! The compiler decides everything that depends on the model: shapes, layouts, the memory plan, the order of kernels. This crate
//! holds what does not: vector [`lanes`], compute [`tile`]s, [`sparse`] structure, [`mutation`] of masks, update rules,
//! data sets and the training loop. It knows neither graphs nor ONNX.

pub mod arena;
pub mod data;
pub mod lanes;
pub mod manifest;
pub mod mutation;
pub mod network;
pub mod optim;
pub mod random;
pub mod recipe;
pub mod sampling;
pub mod serve;
pub mod sparse;
pub mod team;
pub mod tile;
pub mod train;
