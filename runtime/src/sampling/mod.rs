//! Which examples an epoch trains on, and in which order.

mod uniform;

pub use uniform::Uniform;

/// Decides the order of every epoch. What it decides is a function of its state and the epoch alone, so that a continued run goes on in the same order.
pub trait Sampling: Send {
    /// Examples of the training split to train on in `epoch`, in order; none twice.
    fn order(&self, epoch: usize) -> Vec<u32>;
}
