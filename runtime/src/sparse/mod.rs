//! Sparse structure: which units of a weight are live, and everything that follows from it.
//!
//! The mask is the only source of structure; nothing is ever inferred from a value being zero. [`scheme`] says what a mask may look like,
//! [`mask`] and [`structure`] select units, [`topology`] turns them into the offset streams that kernels follow, [`state`] moves values between the arena
//! and the outside.

#[cfg(test)]
pub(crate) mod fixture;
pub mod mask;
pub mod scheme;
pub mod state;
pub mod structure;
pub mod topology;
#[cfg(test)]
mod topology_tests;

/// Memory that is handed back all at once and used again: what choosing a mask takes meanwhile.
pub use bumpalo::Bump;
pub use mask::Units;
pub use scheme::Scheme;
pub use structure::Growth;
