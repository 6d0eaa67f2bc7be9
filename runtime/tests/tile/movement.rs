//! Copies, pooling and random masks.

use crate::{Floats, Numbers, assert_admitted, call, targets};
use mest_runtime::tile::{AveragePool, reference};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn staged_rows_are_the_planes(
        rows in 1..6_usize, channels in 1..4_usize, width in 1..6_usize, left in 0..3_usize, right in 0..3_usize,
        rows_in_plane in 1..5_usize, more in 0..3_usize, first_row in -7..7_isize, seed in any::<u64>()
    ) {
        let (plane_channels, fill, mut numbers) = (channels + more, 0.5, Numbers(seed));
        for target in targets() {
            let lanes = target.1;
            let source = numbers.floats(rows_in_plane * plane_channels * width * lanes);
            let padded = left + width + right;
            let mut out = Floats::filled(rows * channels * padded * lanes, 9.0);
            call!(
                StageRows { rows, channels, width, left, right, rows_in_plane, plane_channels, fill }, target,
                (source[more * width * lanes..].as_ptr(), *const f32), (first_row, isize), (out.as_mut_ptr(), *mut f32)
            );
            for (i, &got) in out.iter().enumerate() {
                let (lane, column, c, r) = (i % lanes, i / lanes % padded, i / lanes / padded % channels, i / lanes / padded / channels);
                let row = first_row + r as isize;
                let inside = (0..rows_in_plane as isize).contains(&row) && (left..left + width).contains(&column);
                let at = |row: usize| ((row * plane_channels + c + more) * width + column - left) * lanes + lane;
                prop_assert_eq!(got, if inside { source[at(row as usize)] } else { fill });
            }
        }
    }

    #[test]
    fn normalized_rows_are_staged(
        rows in 1..5_usize, channels in 1..4_usize, width in 1..6_usize, left in 0..3_usize, right in 0..3_usize,
        rows_in_plane in 1..5_usize, first_row in -6..6_isize, seed in any::<u64>()
    ) {
        let mut numbers = Numbers(seed);
        for target in targets() {
            let (lanes, padded) = (target.1, left + width + right);
            let x = numbers.floats(rows_in_plane * channels * width * lanes);
            let [factor, shift] = [0; 2].map(|_| numbers.floats(channels));
            let mut out = Floats::filled(rows * channels * padded * lanes, 9.0);
            call!(
                StageNormalized { rows, channels, width, left, right, rows_in_plane }, target, (x.as_ptr(), *const f32),
                (factor.as_ptr(), *const f32), (shift.as_ptr(), *const f32), (first_row, isize), (out.as_mut_ptr(), *mut f32)
            );
            for (i, &got) in out.iter().enumerate() {
                let (lane, column, c, r) = (i % lanes, i / lanes % padded, i / lanes / padded % channels, i / lanes / padded / channels);
                let row = first_row + r as isize;
                if !(0..rows_in_plane as isize).contains(&row) || !(left..left + width).contains(&column) {
                    prop_assert_eq!(got, 0.0);
                    continue;
                }
                let x = f64::from(x[((row as usize * channels + c) * width + column - left) * lanes + lane]);
                let (factor, shift) = (f64::from(factor[c]), f64::from(shift[c]));
                let tolerance = 2.0 * f64::from(f32::EPSILON) * ((x * factor).abs() + shift.abs());
                prop_assert!((f64::from(got) - (x * factor + shift).max(0.0)).abs() <= tolerance);
            }
        }
    }

    #[test]
    fn gradients_through_normalization_are_staged(
        rows in 1..5_usize, channels in 1..4_usize, width in 1..6_usize, left in 0..3_usize, right in 0..3_usize,
        rows_in_plane in 1..5_usize, first_row in -6..6_isize, seed in any::<u64>()
    ) {
        let mut numbers = Numbers(seed);
        for target in targets() {
            let (lanes, padded) = (target.1, left + width + right);
            let [gradient, x] = [0; 2].map(|_| numbers.floats(rows_in_plane * channels * width * lanes));
            let [live, factor, slope, offset] = [lanes, channels, channels, channels].map(|len| numbers.floats(len));
            let mut out = Floats::filled(rows * channels * padded * lanes, 9.0);
            call!(
                StageNormalizeBackward { rows, channels, width, left, right, rows_in_plane }, target,
                (gradient.as_ptr(), *const f32), (x.as_ptr(), *const f32), (live.as_ptr(), *const f32), (factor.as_ptr(), *const f32),
                (slope.as_ptr(), *const f32), (offset.as_ptr(), *const f32), (first_row, isize), (out.as_mut_ptr(), *mut f32)
            );
            for (i, &got) in out.iter().enumerate() {
                let (lane, column, c, r) = (i % lanes, i / lanes % padded, i / lanes / padded % channels, i / lanes / padded / channels);
                let row = first_row + r as isize;
                if !(0..rows_in_plane as isize).contains(&row) || !(left..left + width).contains(&column) {
                    prop_assert_eq!(got, 0.0);
                    continue;
                }
                let at = ((row as usize * channels + c) * width + column - left) * lanes + lane;
                let [g, x, live, a, k1, k0] = [gradient[at], x[at], live[lane], factor[c], slope[c], offset[c]].map(f64::from);
                let (expected, scale) = ((g * a + x * k1 + k0) * live, ((g * a).abs() + (x * k1).abs() + k0.abs()) * live.abs());
                prop_assert!((f64::from(got) - expected).abs() <= 4.0 * f64::from(f32::EPSILON) * scale, "{got} for {expected}");
            }
        }
    }

    #[test]
    fn packing_transposes_examples(channels in 1..4_usize, rows in 1..4_usize, width in 1..6_usize, seed in any::<u64>()) {
        let mut numbers = Numbers(seed);
        let elements = channels * rows * width;
        let source = numbers.floats(20 * elements);
        let labels: Vec<u32> = (0..20).map(|_| numbers.below(1000) as u32).collect();
        let example: Vec<u32> = (0..16).map(|_| numbers.below(20) as u32).collect();
        for target in targets() {
            let lanes = target.1;
            let (mut out, mut packed) = (Floats::filled(elements * lanes, 9.0), vec![0_u32; 17]);
            call!(
                Pack { channels, rows, width }, target,
                (source.as_ptr(), *const f32), (example.as_ptr(), *const u32), (out.as_mut_ptr(), *mut f32)
            );
            call!(PackLabels {}, target, (labels.as_ptr(), *const u32), (example.as_ptr(), *const u32), (packed.as_mut_ptr(), *mut u32));
            for (i, &got) in out.iter().enumerate() {
                let (lane, x, c, y) = (i % lanes, i / lanes % width, i / lanes / width % channels, i / lanes / width / channels);
                prop_assert_eq!(got, source[((example[lane] as usize * channels + c) * rows + y) * width + x]);
            }
            assert!((0..17).all(|lane| packed[lane] == if lane < lanes { labels[example[lane] as usize] } else { 0 }));
        }
    }

    #[test]
    fn pooling_is_its_definition(
        (channels, more, rows, width) in (1..3_usize, 0..2_usize, 1..8_usize, 1..8_usize),
        (kernel_rows, kernel_width) in (1..4_usize, 1..4_usize),
        (stride_rows, stride_width, dilation_rows, dilation_width) in (1..4_usize, 1..4_usize, 1..3_usize, 1..3_usize),
        (top, left, bottom, right) in (0..3_usize, 0..3_usize, 0..3_usize, 0..3_usize),
        include_padding in 0..2_usize, special in any::<bool>(), seed in any::<u64>()
    ) {
        let outputs = |extent: usize, kernel: usize, stride: usize, dilation: usize| (extent.checked_sub((kernel - 1) * dilation + 1)).map_or(0, |n| n / stride + 1);
        let shape = AveragePool {
            channels, rows, width, plane_channels: channels + more, kernel_rows, kernel_width, stride_rows, stride_width, dilation_rows,
            dilation_width, top, left, bottom, right, include_padding,
            out_rows: outputs(rows + top + bottom, kernel_rows, stride_rows, dilation_rows),
            out_width: outputs(width + left + right, kernel_width, stride_width, dilation_width),
        };
        let all = (0..shape.out_rows).flat_map(|y| (0..shape.out_width).map(move |x| (y, x)));
        prop_assume!(shape.out_rows * shape.out_width > 0 && all.clone().all(|(y, x)| !reference::window(&shape, y, 0, x).0.is_empty()));
        targets().into_iter().for_each(|target| check_pooling(shape, special, seed, target));
    }

    #[test]
    fn clear_zeros_as_many_as_said(vectors in 0..9_usize) {
        for target in targets() {
            let mut memory = Floats::filled(10 * target.1, 1.0);
            call!(Clear { vectors }, target, (memory.as_mut_ptr(), *mut f32));
            assert!(memory.iter().enumerate().all(|(i, v)| *v == if i < vectors * target.1 { 0.0 } else { 1.0 }));
        }
    }
}

fn check_pooling(shape: AveragePool, special: bool, seed: u64, target: (mest_runtime::lanes::Isa, usize)) {
    let (lanes, mut numbers) = (target.1, Numbers(seed));
    let inputs = shape.rows * shape.plane_channels * shape.width * lanes;
    let outputs = shape.out_rows * shape.plane_channels * shape.out_width * lanes;
    let x = numbers.floats(inputs);
    let dy = numbers.floats(outputs);
    // Few distinct values make ties; some are infinite or not a number.
    let specials = [0.0, 1.0, -1.0, f32::NEG_INFINITY, f32::NAN, 1.0, f32::INFINITY];
    let rough = Floats::new(&x.iter().map(|v| if special { specials[numbers.below(7)] } else { (v * 2.0).round() }).collect::<Vec<_>>());
    let AveragePool { channels, rows, width, out_rows, out_width, plane_channels, top, left, .. } = shape;
    let AveragePool { kernel_rows, kernel_width, stride_rows, stride_width, dilation_rows, dilation_width, .. } = shape;

    let mut y = Floats::filled(outputs, 0.0);
    call!(
        MaxPool {
            channels, rows, width, out_rows, out_width, plane_channels, kernel_rows, kernel_width, stride_rows, stride_width,
            dilation_rows, dilation_width, top, left
        },
        target,
        (rough.as_ptr(), *const f32),
        (y.as_mut_ptr(), *mut f32)
    );
    let same = |a: &f32, b: &f32| a == b || a.is_nan() && b.is_nan();
    assert!(y.iter().zip(&reference::max_pool(&shape, lanes, &rough)).all(|(a, b)| same(a, b)), "max");

    let mut dx = Floats::filled(inputs, 0.0);
    call!(
        MaxPoolBackward {
            channels, rows, width, out_rows, out_width, plane_channels, kernel_rows, kernel_width, stride_rows, stride_width,
            dilation_rows, dilation_width, top, left
        },
        target,
        (rough.as_ptr(), *const f32),
        (dy.as_ptr(), *const f32),
        (dx.as_mut_ptr(), *mut f32)
    );
    assert_admitted("gradient of max", dx.iter(), &reference::max_pool_backward(&shape, lanes, &rough, &dy));

    let mut y = Floats::filled(outputs, 0.0);
    call!(AveragePool { ..shape }, target, (x.as_ptr(), *const f32), (y.as_mut_ptr(), *mut f32));
    assert_admitted("mean", y.iter(), &reference::average_pool(&shape, lanes, &x));

    let mut dx = Floats::filled(inputs, 0.0);
    call!(AveragePoolBackward { ..average_backward(shape) }, target, (dy.as_ptr(), *const f32), (dx.as_mut_ptr(), *mut f32));
    assert_admitted("gradient of mean", dx.iter(), &reference::average_pool_backward(&shape, lanes, &dy));
}

/// The same geometry as the other shape.
fn average_backward(s: AveragePool) -> mest_runtime::tile::AveragePoolBackward {
    mest_runtime::tile::AveragePoolBackward {
        channels: s.channels,
        rows: s.rows,
        width: s.width,
        out_rows: s.out_rows,
        out_width: s.out_width,
        plane_channels: s.plane_channels,
        kernel_rows: s.kernel_rows,
        kernel_width: s.kernel_width,
        stride_rows: s.stride_rows,
        stride_width: s.stride_width,
        dilation_rows: s.dilation_rows,
        dilation_width: s.dilation_width,
        top: s.top,
        left: s.left,
        bottom: s.bottom,
        right: s.right,
        include_padding: s.include_padding,
    }
}

#[test]
fn dropout_has_its_ratio_and_follows_its_counter() {
    let seed = [1_u32, 2, 3, 0];
    for target in targets() {
        let lanes = target.1;
        let draw = |first: usize, vectors: usize, node: usize, ratio: f32, seed: &[u32; 4]| {
            let mut out = Floats::filled(vectors * lanes, 9.0);
            call!(
                DropoutMask { vectors, node, ratio },
                target,
                (first, usize),
                (seed.as_ptr(), *const u32),
                (out.as_mut_ptr(), *mut f32)
            );
            out
        };
        let mask = draw(5, 1000, 7, 0.25, &seed);
        let zeros = mask.iter().filter(|v| **v == 0.0).count() as f64 / mask.len() as f64;
        assert!((zeros - 0.25).abs() < 5.0 * (0.1875 / mask.len() as f64).sqrt(), "{zeros} dropped");
        assert!(mask.iter().all(|v| *v == 0.0 || *v == 1.0 / 0.75));
        assert_eq!(draw(105, 300, 7, 0.25, &seed)[..], mask[100 * lanes..400 * lanes], "a part is a part of the whole");
        for (node, seed) in [(8, seed), (7, [2, 2, 3, 0]), (7, [1, 2, 4, 0]), (7, [1, 2, 3, 1])] {
            assert_ne!(draw(5, 1000, node, 0.25, &seed)[..], mask[..]);
        }
        assert!(draw(0, 100, 0, 0.0, &seed).iter().all(|v| *v == 1.0));
    }
}
