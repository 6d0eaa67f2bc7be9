//! Random masks, drawn by counter: the same for any thread count and any order of work.

use super::DropoutMask;
use crate::lanes::{Buffer, Lanes};
use crate::random::{Purpose, bits};

/// The seed and the step in a slot as [`crate::manifest::Io::seed`] is laid out.
#[inline(always)]
pub(super) unsafe fn seed_and_step(slot: *const u32) -> (u64, u64) {
    // SAFETY: the caller's slot has four words.
    let word = |i: usize| u64::from(unsafe { *slot.add(i) });
    (word(0) | word(1) << 32, word(2) | word(3) << 32)
}

/// See [`DropoutMask`]. The draw's index is the node in the upper 24 bits, `(first + i) * LANES + lane` in the lower 40.
#[inline(always)]
pub unsafe fn dropout_mask<L: Lanes>(shape: &DropoutMask, first: usize, seed: *const u32, out: *mut f32) {
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let (key, step) = seed_and_step(seed);
        let keep = 1.0 / (1.0 - shape.ratio);
        for i in 0..shape.vectors {
            let mut vector = Buffer::ZERO;
            for lane in 0..L::LANES {
                let index = (shape.node as u64) << 40 | ((first + i) * L::LANES + lane) as u64;
                // 24 bits are a float's precision: every outcome is exact.
                let uniform = (bits(key, Purpose::Dropout, step, index) >> 40) as f32 * (1.0 / (1 << 24) as f32);
                vector.0[lane] = if uniform < shape.ratio { 0.0 } else { keep };
            }
            L::store(out.add(i * L::LANES), L::from_buffer(&vector));
        }
    }
}
