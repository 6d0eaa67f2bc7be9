//! Which examples an epoch trains on, and in which order.

mod forgetting;
mod selective;
mod uniform;

pub use forgetting::ForgettingLog;
pub use selective::{Removal, RemovalMoment, Rule, Selective};
pub use uniform::Uniform;

/// Decides the order of every epoch. What it decides is a function of its state and the epoch alone, so that a continued run goes on in the same order.
pub trait Sampling: Send {
    /// Epoch `epoch` (counted from 0) is about to run: decides which examples it trains on.
    fn begin(&mut self, epoch: usize);

    /// Examples of the training split to train on in `epoch`, in order; none twice.
    fn order(&self, epoch: usize) -> Vec<u32>;

    /// An example was trained on, and predicted rightly or wrongly before that step's update.
    fn record(&mut self, example: u32, correct: bool);

    /// Every example of the epoch has been recorded.
    fn end(&mut self);

    /// Examples that the epoch leaves out.
    fn removed(&self) -> usize;

    /// Examples that were learned and never forgotten since they are counted; `None` where nobody counts.
    fn unforgettable(&self) -> Option<usize>;

    /// What a checkpoint keeps after an epoch; `None` where there is nothing to keep.
    fn state(&self) -> Option<SamplingState>;

    /// Takes the state back that [`Sampling::state`] gave.
    ///
    /// # Errors
    /// A state that isn't one of this split; nothing has changed then. The text says what is wrong with it.
    fn restore(&mut self, state: Option<&SamplingState>) -> Result<(), String>;
}

/// What a sampling remembers between epochs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SamplingState {
    /// A byte an example, as [`ForgettingLog::bytes`] has it.
    #[prost(bytes = "vec", tag = "1")]
    pub log: Vec<u8>,
    /// Examples that are left out, the earliest removed first.
    #[prost(uint32, repeated, tag = "2")]
    pub removed: Vec<u32>,
    /// Unforgettable examples after each epoch.
    #[prost(uint32, repeated, tag = "3")]
    pub unforgettable: Vec<u32>,
}
