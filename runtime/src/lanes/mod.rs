//! Vectors of examples: one trait, one file an instruction set.
//!
//! A kernel is written once over [`Lanes`] and runs a scalar program for [`Lanes::LANES`] examples at a time. Every operation is one IEEE
//! operation a lane (`fma` two on instruction sets that do not fuse), so what a kernel computes depends on the instruction set only
//! through [`Lanes::FUSED`] and the order in which tiles visit pixels.
//!
//! Everything here is `#[inline(always)]` and must be reached from a function that enables the instruction set: a closure given to
//! [`Lanes::vectorize`], or one of the tiles' extern symbols. Called from elsewhere it is correct but slow.
//!
//! # The order of horizontal sums
//!
//! One tree on all instruction sets, whatever their registers: sixteen lanes are folded to eight (`v[i] + v[i + 8]`); in each quad of
//! lanes `(v[0] + v[2]) + (v[1] + v[3])`; then the first quad's sum plus the second's.
#![allow(clippy::missing_safety_doc)] // The trait states one contract for all its methods.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod isa;
pub mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod peak;
mod portable;
mod quads;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
pub use avx2::{Avx2x4, Avx2x8, Avx2x16};
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512x16;
pub use isa::{Isa, UnknownIsa, detect};
#[cfg(target_arch = "aarch64")]
pub use neon::{Neon, Neonx4, Neonx8, Neonx16};
pub use peak::multiply_add_in_registers;
pub use portable::{Portable, Portablex4, Portablex8, Portablex16};

/// Memory for one vector of any width.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Buffer(pub [f32; 16]);

impl Buffer {
    /// All zeros.
    pub const ZERO: Buffer = Buffer([0.0; 16]);
}

/// Asks for the cache line at `address`, which need not exist, where the instruction set has an instruction for it.
#[inline(always)]
pub fn prefetch(address: *const f32) {
    // SAFETY: every x86-64 has the instruction, and it reads nothing that a program could see.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// A vector of `f32`, one example a lane.
///
/// # Safety
/// Of every method: the machine has the instruction set, and pointers are valid for [`Lanes::LANES`] floats, aligned to the vector's size
/// up to 64 bytes unless the name says `unaligned`.
pub trait Lanes: Copy + 'static {
    /// Examples a vector: 16, 8 or 4.
    const LANES: usize;
    /// Vectors of sums that the forward tile keeps in registers, rows times pixels.
    const ACCUMULATORS: usize;
    /// Pixels of a forward tile that computes one row.
    const PIXELS: usize;
    /// Pixels of a backward tile: twice as many vectors live in registers.
    const BACKWARD_PIXELS: usize;
    /// Whether [`Lanes::fma`] rounds once.
    const FUSED: bool;

    /// The vector.
    type V: Copy;
    /// A vector after the first step of the horizontal sum: at most eight lanes.
    type Folded: Copy;

    /// Reads a vector.
    unsafe fn load(from: *const f32) -> Self::V;
    /// Reads a vector from any address of an `f32`.
    unsafe fn load_unaligned(from: *const f32) -> Self::V;
    /// Writes a vector.
    unsafe fn store(to: *mut f32, v: Self::V);
    /// Writes a vector to any address of an `f32`.
    unsafe fn store_unaligned(to: *mut f32, v: Self::V);
    /// The same number in all lanes.
    unsafe fn splat(value: f32) -> Self::V;
    /// Zero in all lanes.
    unsafe fn zero() -> Self::V;
    /// a + b
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// a - b
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// a * b
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a / b
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c: rounded once where [`Lanes::FUSED`], after each operation elsewhere.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The square root.
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// `if a < b { c } else { d }` a lane; d where unordered.
    unsafe fn select_less(a: Self::V, b: Self::V, c: Self::V, d: Self::V) -> Self::V;
    /// The first step of the horizontal sum.
    unsafe fn fold(v: Self::V) -> Self::Folded;
    /// A vector that [`Lanes::fold`] makes `folded` of: the lanes added last are zero.
    unsafe fn unfold(folded: Self::Folded) -> Self::V;
    /// The sums of four folded vectors, each by the fixed tree.
    unsafe fn sums(parts: [Self::Folded; 4]) -> [f32; 4];
    /// Adds the sums of four folded vectors to four consecutive floats, aligned to nothing.
    unsafe fn add_sums(to: *mut f32, parts: [Self::Folded; 4]);
    /// Runs `f` in a function that enables the instruction set. `f` should be `#[inline(always)]`.
    unsafe fn vectorize<F: FnOnce() -> R, R>(f: F) -> R;

    /// The sum of all lanes by the fixed tree (see the module).
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let folded = Self::fold(v);
            Self::sums([folded; 4])[0]
        }
    }

    /// The lanes, in the first [`Lanes::LANES`] places.
    #[inline(always)]
    unsafe fn to_buffer(v: Self::V) -> Buffer {
        let mut buffer = Buffer::ZERO;
        // SAFETY: a buffer holds the widest vector and has its alignment.
        unsafe { Self::store(buffer.0.as_mut_ptr(), v) };
        buffer
    }

    /// The first [`Lanes::LANES`] places of `buffer`.
    #[inline(always)]
    unsafe fn from_buffer(buffer: &Buffer) -> Self::V {
        // SAFETY: as in `to_buffer`.
        unsafe { Self::load(buffer.0.as_ptr()) }
    }

    /// The first `count` lanes from memory, zero in the others.
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self::V {
        let mut buffer = Buffer::ZERO;
        // SAFETY: the caller vouches for `count` floats, fewer than a buffer has.
        unsafe {
            core::ptr::copy_nonoverlapping(from, buffer.0.as_mut_ptr(), count);
            Self::from_buffer(&buffer)
        }
    }

    /// Writes the first `count` lanes.
    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, v: Self::V, count: usize) {
        // SAFETY: as in `load_partial`.
        unsafe {
            let buffer = Self::to_buffer(v);
            core::ptr::copy_nonoverlapping(buffer.0.as_ptr(), to, count);
        }
    }

    /// Reads a vector of halves: [`math::widened`] of each.
    #[inline(always)]
    unsafe fn load_narrow(from: *const u16) -> Self::V {
        let mut buffer = Buffer::ZERO;
        // SAFETY: the caller vouches for as many halves as there are lanes.
        unsafe {
            for (lane, wide) in buffer.0[..Self::LANES].iter_mut().enumerate() {
                *wide = math::widened(*from.add(lane));
            }
            Self::from_buffer(&buffer)
        }
    }

    /// Writes a vector as halves: [`math::narrowed`] of each.
    #[inline(always)]
    unsafe fn store_narrow(to: *mut u16, v: Self::V) {
        // SAFETY: as in `load_narrow`.
        unsafe {
            let buffer = Self::to_buffer(v);
            for (lane, wide) in buffer.0[..Self::LANES].iter().enumerate() {
                *to.add(lane) = math::narrowed(*wide);
            }
        }
    }

    /// `if a == b { c } else { d }` a lane; c where unordered.
    #[inline(always)]
    unsafe fn select_equal(a: Self::V, b: Self::V, c: Self::V, d: Self::V) -> Self::V {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { Self::select_less(a, b, d, Self::select_less(b, a, d, c)) }
    }

    /// The larger of both; NaN where either is.
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let larger = Self::select_less(a, b, b, a);
            // `a` wins every unordered comparison, so only a NaN in `b` is left to pass on: it is neither below 1 nor above 0.
            Self::select_less(b, Self::splat(1.0), larger, Self::select_less(Self::zero(), b, larger, b))
        }
    }

    /// [`math::power_of_two`] of each lane.
    #[inline(always)]
    unsafe fn power_of_two(v: Self::V) -> Self::V {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { math::lane_by_lane::<Self>(v, math::power_of_two) }
    }

    /// [`math::exponent`] of each lane.
    #[inline(always)]
    unsafe fn exponent(v: Self::V) -> Self::V {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { math::lane_by_lane::<Self>(v, math::exponent) }
    }

    /// [`math::significand`] of each lane.
    #[inline(always)]
    unsafe fn significand(v: Self::V) -> Self::V {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { math::lane_by_lane::<Self>(v, math::significand) }
    }

    /// e to the power of `v`: within 2 ulp, gradual underflow, 0 at -inf, inf above 88.73, NaN at NaN.
    #[inline(always)]
    unsafe fn exp(v: Self::V) -> Self::V {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { math::exp::<Self>(v) }
    }

    /// The natural logarithm: within 2 ulp, -inf at zero, NaN below, inf at inf, NaN at NaN.
    #[inline(always)]
    unsafe fn log(v: Self::V) -> Self::V {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { math::log::<Self>(v) }
    }
}
