//! What runs a network. The interpreter evaluates the graph and shares nothing with the others, which run the program that lowering
//! makes of it.

#[cfg(all(test, feature = "jit"))]
mod golden_tests;
pub mod interp;
#[cfg(feature = "jit")]
pub mod jit;
pub mod replay;
pub mod rust;
