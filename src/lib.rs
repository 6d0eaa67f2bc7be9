//! Sparse training of neural networks on small machines.
//!
//! `mest` compiles an ONNX model into a training program in which the weights are sparse from the first step to the last, and trains it
//! with MEST (Yuan et al., NeurIPS 2021): elastic mutation of the masks under a soft memory bound.
//!
//! Ways in, one pipeline:
//!
//! - the command `mestc train model.onnx --data ...`;
//! - [`sparse_train`] on a unit struct or on a function: the network is compiled while your program is built;
//! - [`compiler`] as a library: import, compile, run in a JIT (see `examples/jit_quickstart.rs`).
//!
//! # A network described in Rust
//!
//! ```
//! use mest::runtime::{data::Dataset, train};
//! use mest::sparse_train;
//!
//! #[sparse_train(sparsity = 0.8, batch = 32, lr = 0.05, epochs = 2)]
//! fn small_net(x: Image<1, 8, 8>) -> Logits<10> {
//!     let h = relu(conv(x, 8, 3));
//!     let h = relu(conv(h, 8, 3) + h);
//!     linear(max_pool(h, 2), 10)
//! }
//!
//! let digits = Dataset::load("digits")?;
//! let mut net = SmallNet::new(0);
//! let report = train::fit(&mut net, &digits, &SmallNet::recipe(), None, false, &mut ())?;
//! assert!(report.test_accuracy > 0.8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A network from an ONNX model
//!
//! ```
//! use mest::sparse_train;
//!
//! #[sparse_train(model = "examples/models/digits_mlp.onnx", sparsity = 0.9, scheme = "block:4x1", batch = 2)]
//! struct Net;
//!
//! let mut net = Net::new(0);
//! let (images, labels) = (vec![0.5; 2 * 64], [3, 8]);
//! let before = net.step(&images, &labels).loss;
//! assert!(net.evaluate(&images, &labels).loss < before);
//! assert!(net.export_onnx().len() > 100_000, "a complete ONNX file");
//! ```

pub use mest_macros::sparse_train;
pub use mest_runtime as runtime;
pub use mestc as compiler;

/// What the book shows of Rust, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../docs/rust.md")]
mod book {}
