//! Sparse training of neural networks on small machines.
//!
//! `mest` compiles an ONNX model into a training program in which the weights are sparse from the first step to the last, and trains it
//! with MEST (Yuan et al., NeurIPS 2021): elastic mutation of the masks under a soft memory bound.
//!
//! Three ways in, one pipeline:
//!
//! - the command `mestc train model.onnx --data ...`;
//! - [`sparse_train`] on a unit struct: the network is compiled while your program is built;
//! - [`compiler`] as a library: import, compile, run in a JIT (see `examples/jit_quickstart.rs`).

pub use mest_macros::sparse_train;
pub use mest_runtime as runtime;
pub use mestc as compiler;
