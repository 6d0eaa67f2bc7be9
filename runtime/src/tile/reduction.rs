//! Sums of partial results over groups and lanes.

use super::SumPartials;
use crate::lanes::Lanes;

/// See [`SumPartials`].
#[inline(always)]
pub unsafe fn sum_partials<L: Lanes>(shape: &SumPartials, partials_in: *const f32, out: *mut f32) {
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        for i in 0..shape.elements {
            let mut sum = L::zero();
            for p in 0..shape.partials {
                sum = L::add(sum, L::load(partials_in.add((p * shape.partial_stride + i) * L::LANES)));
            }
            *out.add(i) = L::sum(sum);
        }
    }
}
