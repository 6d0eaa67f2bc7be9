//! The instruction sets that kernels are built for.

use super::Lanes;
use crate::prelude::*;
use core::fmt;
use core::str::FromStr;

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// x86-64 with AVX-512F, AVX2 and FMA: vectors of 512 bits.
    Avx512,
    /// x86-64 with AVX2 and FMA: vectors of 256 bits.
    Avx2,
    /// 64-bit ARM with its vectors of 128 bits.
    Neon,
    /// What every machine has; never fuses multiply and add.
    Portable,
}

/// A name that is no instruction set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("isa `{name}` is not known: use avx512, avx2, neon or portable")]
pub struct UnknownIsa {
    /// What was given.
    pub name: String,
}

impl Isa {
    /// All of them, the best first.
    pub const ALL: [Isa; 4] = [Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable];

    /// Whether this machine has it.
    pub fn available(self) -> bool {
        match self {
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Isa::Avx512 => is_x86_feature_detected!("avx512f") && Isa::Avx2.available(),
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            // Without an operating system to ask, what the program is compiled for.
            #[cfg(all(target_arch = "x86_64", not(feature = "std")))]
            Isa::Avx512 => cfg!(all(target_feature = "avx512f", target_feature = "avx2", target_feature = "fma")),
            #[cfg(all(target_arch = "x86_64", not(feature = "std")))]
            Isa::Avx2 => cfg!(all(target_feature = "avx2", target_feature = "fma")),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512 | Isa::Avx2 => false,
            Isa::Neon => cfg!(target_arch = "aarch64"),
            Isa::Portable => true,
        }
    }

    /// The best that this machine has.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().find(|isa| isa.available()).unwrap_or(Isa::Portable)
    }

    /// Whether `a * b + c` is rounded once.
    pub fn is_fused(&self) -> bool {
        match self {
            Isa::Avx512 | Isa::Avx2 | Isa::Neon => true,
            Isa::Portable => false,
        }
    }

    /// Runs `f` in a function that enables the instruction set, so that plain loops in it are vectorised with it. `f` and what it calls
    /// should be `#[inline(always)]`.
    ///
    /// # Panics
    /// The machine does not have it.
    #[inline(always)]
    pub fn vectorize<F: FnOnce() -> R, R>(self, f: F) -> R {
        assert!(self.available(), "this machine does not have {self}");
        match self {
            // SAFETY: asserted above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { super::Avx512x16::vectorize(f) },
            // SAFETY: asserted above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { super::Avx2x8::vectorize(f) },
            // SAFETY: asserted above.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { super::Neonx4::vectorize(f) },
            _ => f(),
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }
}

/// The best instruction set that this machine has.
pub fn detect() -> Isa {
    Isa::best()
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| UnknownIsa { name: name.to_owned() })
    }
}
