//! Statistics of batch normalization.

use super::{MergeMoments, Moments};
use crate::lanes::Lanes;

/// Sum over a channel's positions of `term(x)`, lanes apart. Four sums in turn hide the latency of addition; the first gets what is left.
#[inline(always)]
unsafe fn sum_channel<L: Lanes>(shape: &Moments, x: *const f32, term: impl Fn(L::V) -> L::V) -> L::V {
    let row = shape.channels * shape.width * L::LANES;
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let mut sums = [L::zero(); 4];
        for r in 0..shape.rows {
            let from = x.add(r * row);
            let mut i = 0;
            while i + 4 <= shape.width {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = L::add(*sum, term(L::load(from.add((i + j) * L::LANES))));
                }
                i += 4;
            }
            while i < shape.width {
                sums[0] = L::add(sums[0], term(L::load(from.add(i * L::LANES))));
                i += 1;
            }
        }
        L::add(L::add(sums[0], sums[2]), L::add(sums[1], sums[3]))
    }
}

/// See [`Moments`].
#[inline(always)]
pub unsafe fn moments<L: Lanes>(shape: &Moments, x: *const f32, live: *const f32, out: *mut f32) {
    // SAFETY: the tile's contract (see the parent module); `out` need not be aligned to a vector.
    unsafe {
        let live = L::load(live);
        let half = L::splat(0.5);
        let count = L::sum(live) * (shape.rows * shape.width) as f32;
        for c in 0..shape.channels {
            if count == 0.0 {
                *out.add(2 * c) = 0.0;
                *out.add(2 * c + 1) = 0.0;
                continue;
            }
            let from = x.add(c * shape.width * L::LANES);
            let total = sum_channel::<L>(
                shape,
                from,
                #[inline(always)]
                |v| v,
            );
            // Selected rather than multiplied, so that nothing of a dead lane gets through.
            let mean = L::sum(L::select_less(half, live, total, L::zero())) / count;
            let center = L::splat(mean);
            let deviations = sum_channel::<L>(
                shape,
                from,
                #[inline(always)]
                |v| {
                    let d = L::sub(v, center);
                    L::mul(d, d)
                },
            );
            *out.add(2 * c) = mean;
            *out.add(2 * c + 1) = L::sum(L::select_less(half, live, deviations, L::zero()));
        }
    }
}

/// See [`MergeMoments`].
#[inline(always)]
pub unsafe fn merge_moments<L: Lanes>(shape: &MergeMoments, partials: *const f32, live: *const f32, mean: *mut f32, variance: *mut f32) {
    let &MergeMoments { groups, channels, partial_channels, positions } = shape;
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        for c in 0..channels {
            // A handful of scalars a channel: double precision costs nothing here.
            let (mut count, mut center, mut squares) = (0.0_f64, 0.0_f64, 0.0_f64);
            for g in 0..groups {
                let weight = f64::from(L::sum(L::load(live.add(g * L::LANES)))) * positions as f64;
                if weight == 0.0 {
                    continue;
                }
                let partial = partials.add(2 * (g * partial_channels + c));
                let (group_mean, group_squares) = (f64::from(*partial), f64::from(*partial.add(1)));
                let delta = group_mean - center;
                let total = count + weight;
                squares += group_squares + delta * delta * (count * weight / total);
                center += delta * (weight / total);
                count = total;
            }
            *mean.add(c) = center as f32;
            *variance.add(c) = if count > 0.0 { (squares / count) as f32 } else { 0.0 };
        }
    }
}
