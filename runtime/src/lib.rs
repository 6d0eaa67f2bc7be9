//! What a compiled sparse-training program links to.
//!
//! The compiler decides everything that depends on the model: shapes, layouts, the memory plan, the order of kernels. This crate
//! holds what does not: vector [`lanes`], compute [`tile`]s, [`sparse`] structure, [`mutation`] of masks, update rules,
//! data sets and the training loop. It knows neither graphs nor ONNX.
//!
//! Without its default feature `std` - on a device without an operating system, say - there remain the step, the mutation of masks, and what they need:
//! no threads, no files, no data sets, no training loop. An allocator is needed for setting up and for mutation, not for the step.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

pub mod arena;
#[cfg(feature = "std")]
pub mod data;
#[cfg(not(feature = "std"))]
mod float;
pub mod lanes;
pub mod manifest;
pub mod mutation;
pub mod network;
pub mod optim;
mod prelude;
pub mod random;
#[cfg(feature = "std")]
pub mod recipe;
#[cfg(feature = "std")]
pub mod sampling;
#[cfg(feature = "std")]
pub mod serve;
pub mod sparse;
#[cfg_attr(not(feature = "std"), path = "alone.rs")]
pub mod team;
pub mod tile;
#[cfg(feature = "std")]
pub mod train;
