//! Passes over the graph: a rewrite takes `&mut Graph`, an analysis returns a table.

pub mod annotate_sparsity;
pub mod attach_loss;
pub mod differentiate;
mod erk;
pub mod freeze;
pub mod fuse;
pub mod rematerialize;
pub mod specialize;
mod weight_view;
