//! Moments and sums of partial results.

use crate::{Floats, Numbers, assert_admitted, assert_near, call, targets};
use mest_runtime::tile::{MergeMoments, Moments, SumPartials, reference};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn moments_are_those_of_live_lanes(
        rows in 1..6_usize, channels in 1..4_usize, width in 1..11_usize, alive in 0..17_usize, offset in -100.0..100.0_f32, seed in any::<u64>()
    ) {
        let mut numbers = Numbers(seed);
        for target in targets() {
            let lanes = target.1;
            let live = Floats::new(&(0..lanes).map(|lane| f32::from(u8::from(lane < alive))).collect::<Vec<_>>());
            let mut x = numbers.floats(rows * channels * width * lanes);
            // A dead lane's values must not matter, whatever they are.
            x.iter_mut().enumerate().for_each(|(i, v)| *v = if live[i % lanes] == 1.0 { *v + offset } else { f32::NAN });
            let shape = Moments { rows, channels, width };
            let mut out = Floats::filled(2 * channels, 9.0);
            call!(Moments { ..shape }, target, (x.as_ptr(), *const f32), (live.as_ptr(), *const f32), (out.as_mut_ptr(), *mut f32));
            let count = (rows * width * alive.min(lanes)) as f64;
            for (c, (mean, squares)) in reference::moments(&shape, lanes, &x, &live).into_iter().enumerate() {
                let rounding = (count + 2.0) * f64::from(f32::EPSILON) * (f64::from(offset.abs()) + 1.0);
                prop_assert!((f64::from(out[2 * c]) - mean).abs() <= rounding, "mean {} of {mean}", out[2 * c]);
                // A shifted center adds count times its square; the rest is rounding of the sum.
                let bound = count * rounding * rounding + (count + 4.0) * f64::from(f32::EPSILON) * (squares + 2.0 * rounding * count);
                prop_assert!((f64::from(out[2 * c + 1]) - squares).abs() <= bound, "squares {} of {squares}", out[2 * c + 1]);
            }
        }
    }

    #[test]
    fn merged_moments_are_those_of_the_batch(
        groups in 1..6_usize, channels in 1..5_usize, more in 0..3_usize, positions in 1..50_usize, seed in any::<u64>()
    ) {
        let mut numbers = Numbers(seed);
        for target in targets() {
            let lanes = target.1;
            let live = Floats::new(&(0..groups * lanes).map(|_| f32::from(u8::from(numbers.below(3) > 0))).collect::<Vec<_>>());
            let mut partials = numbers.floats(groups * (channels + more) * 2);
            partials.iter_mut().for_each(|v| *v = v.abs());
            let shape = MergeMoments { groups, channels, partial_channels: channels + more, positions };
            let (mut mean, mut variance) = (Floats::filled(channels, 9.0), Floats::filled(channels, 9.0));
            let first = partials[2 * more..].as_ptr();
            call!(
                MergeMoments { ..shape }, target,
                (first, *const f32), (live.as_ptr(), *const f32), (mean.as_mut_ptr(), *mut f32), (variance.as_mut_ptr(), *mut f32)
            );
            let (means, variances): (Vec<f64>, Vec<f64>) = reference::merge_moments(&shape, lanes, &partials[2 * more..], &live).into_iter().unzip();
            assert_near("mean", &mean, &means, 1e-6);
            assert_near("variance", &variance, &variances, 1e-6);
        }
    }

    #[test]
    fn partials_sum_over_lanes(partials in 0..6_usize, elements in 0..9_usize, more in 0..3_usize, seed in any::<u64>()) {
        let mut numbers = Numbers(seed);
        for target in targets() {
            let shape = SumPartials { partials, partial_stride: elements + more, elements };
            let input = numbers.floats(partials * (elements + more) * target.1);
            let mut out = Floats::filled(elements, 9.0);
            call!(SumPartials { ..shape }, target, (input.as_ptr(), *const f32), (out.as_mut_ptr(), *mut f32));
            assert_admitted("sum", out.iter(), &reference::sum_partials(&shape, target.1, &input));
        }
    }
}
