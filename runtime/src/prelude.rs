//! What `std` has in its prelude and `core` does not.

pub(crate) use alloc::borrow::ToOwned;
pub(crate) use alloc::string::{String, ToString};
pub(crate) use alloc::vec::Vec;
pub(crate) use alloc::{format, vec};

#[cfg(not(feature = "std"))]
pub(crate) use crate::float::Float;
