//! Losses and their gradients.

use crate::{Floats, Numbers, assert_near, call, targets};
use mest_runtime::tile::reference;
use proptest::prelude::*;

/// One lane of `[element][lane]`.
fn lane_of(values: &[f32], lanes: usize, lane: usize) -> Vec<f64> {
    values.iter().skip(lane).step_by(lanes).map(|v| f64::from(*v)).collect()
}

/// The same of results.
fn results_of(values: &[f32], lanes: usize, lane: usize) -> Vec<f32> {
    values.iter().skip(lane).step_by(lanes).copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn cross_entropy_is_its_definition(
        classes in 1..40_usize, smoothing in prop::sample::select(vec![0.0_f32, 0.1, 0.5]), scale in prop::sample::select(vec![1.0_f32, 30.0]),
        ties in any::<bool>(), seed in any::<u64>()
    ) {
        let mut numbers = Numbers(seed);
        for target in targets() {
            let lanes = target.1;
            let mut logits = numbers.floats(classes * lanes);
            logits.iter_mut().for_each(|v| *v = if ties { (*v * 2.0).round() } else { *v * scale });
            let labels: Vec<u32> = (0..lanes).map(|_| numbers.below(classes) as u32).collect();
            let live = Floats::new(&(0..lanes).map(|lane| f32::from(u8::from(lane % 3 > 0))).collect::<Vec<_>>());
            let (mut loss, mut correct) = (Floats::filled(lanes, 9.0), Floats::filled(lanes, 9.0));
            let mut gradient = Floats::filled(classes * lanes, 9.0);
            call!(
                SoftmaxCrossEntropy { classes, smoothing }, target,
                (logits.as_ptr(), *const f32), (labels.as_ptr(), *const u32), (live.as_ptr(), *const f32), ([0.125_f32].as_ptr(), *const f32),
                (loss.as_mut_ptr(), *mut f32), (correct.as_mut_ptr(), *mut f32), (gradient.as_mut_ptr(), *mut f32)
            );
            let (mut y, mut log_y) = (Floats::filled(classes * lanes, 9.0), Floats::filled(classes * lanes, 9.0));
            call!(Softmax { rows: 1, classes, log: 0 }, target, (logits.as_ptr(), *const f32), (y.as_mut_ptr(), *mut f32));
            call!(Softmax { rows: 1, classes, log: 1 }, target, (logits.as_ptr(), *const f32), (log_y.as_mut_ptr(), *mut f32));
            for lane in 0..lanes {
                let of_lane = lane_of(&logits, lanes, lane);
                let (value, right, mut slope) = reference::cross_entropy(&of_lane, labels[lane] as usize, f64::from(smoothing));
                slope.iter_mut().for_each(|v| *v *= f64::from(live[lane]) * 0.125);
                // Logits up to 30 apart round by 2e-6 before anything else happens.
                assert_near("loss", &[loss[lane]], &[value], 1e-5);
                prop_assert_eq!(correct[lane], f32::from(u8::from(right)));
                assert_near("gradient", &results_of(&gradient, lanes, lane), &slope, 2e-6);
                let logarithms = reference::log_softmax(&of_lane);
                assert_near("logarithm", &results_of(&log_y, lanes, lane), &logarithms, 1e-5);
                let shares: Vec<f64> = logarithms.iter().map(|v| v.exp()).collect();
                assert_near("softmax", &results_of(&y, lanes, lane), &shares, 5e-6);
            }
        }
    }

    #[test]
    fn softmax_takes_rows_apart(rows in 1..4_usize, classes in 1..6_usize, log in 0..2_usize, seed in any::<u64>()) {
        for target in targets() {
            let x = Numbers(seed).floats(rows * classes * target.1);
            let (mut whole, mut single) = (Floats::filled(x.len(), 9.0), Floats::filled(x.len(), 9.0));
            call!(Softmax { rows, classes, log }, target, (x.as_ptr(), *const f32), (whole.as_mut_ptr(), *mut f32));
            for r in 0..rows {
                let at = r * classes * target.1;
                call!(Softmax { rows: 1, classes, log }, target, (x[at..].as_ptr(), *const f32), (single[at..].as_mut_ptr(), *mut f32));
            }
            prop_assert_eq!(&whole[..], &single[..]);
        }
    }

    #[test]
    fn squared_error_is_its_definition(elements in 1..30_usize, seed in any::<u64>()) {
        let mut numbers = Numbers(seed);
        for target in targets() {
            let lanes = target.1;
            let (prediction, wanted) = (numbers.floats(elements * lanes), numbers.floats(elements * lanes));
            let live = Floats::new(&(0..lanes).map(|lane| f32::from(u8::from(lane != 1))).collect::<Vec<_>>());
            let (mut loss, mut correct) = (Floats::filled(lanes, 9.0), Floats::filled(lanes, 9.0));
            let mut gradient = Floats::filled(elements * lanes, 9.0);
            call!(
                MeanSquaredError { elements }, target,
                (prediction.as_ptr(), *const f32), (wanted.as_ptr(), *const f32), (live.as_ptr(), *const f32), ([0.2_f32].as_ptr(), *const f32),
                (loss.as_mut_ptr(), *mut f32), (correct.as_mut_ptr(), *mut f32), (gradient.as_mut_ptr(), *mut f32)
            );
            for lane in 0..lanes {
                let (value, mut slope) = reference::mean_squared_error(&lane_of(&prediction, lanes, lane), &lane_of(&wanted, lanes, lane));
                slope.iter_mut().for_each(|v| *v *= f64::from(live[lane]) * f64::from(0.2_f32));
                assert_near("loss", &[loss[lane]], &[value], 1e-5);
                assert_near("gradient", &results_of(&gradient, lanes, lane), &slope, 1e-6);
                prop_assert_eq!(correct[lane], 0.0);
            }
        }
    }
}

#[test]
fn an_infinitely_unlikely_class_leaves_the_loss_finite() {
    for target in targets() {
        let lanes = target.1;
        let logits = Floats::new(&[vec![1.0; lanes], vec![f32::NEG_INFINITY; lanes]].concat());
        let (labels, live) = (vec![0_u32; lanes], Floats::filled(lanes, 1.0));
        let (mut loss, mut correct, mut gradient) =
            (Floats::filled(lanes, 9.0), Floats::filled(lanes, 9.0), Floats::filled(2 * lanes, 9.0));
        call!(
            SoftmaxCrossEntropy { classes: 2, smoothing: 0.0 },
            target,
            (logits.as_ptr(), *const f32),
            (labels.as_ptr(), *const u32),
            (live.as_ptr(), *const f32),
            ([1.0_f32].as_ptr(), *const f32),
            (loss.as_mut_ptr(), *mut f32),
            (correct.as_mut_ptr(), *mut f32),
            (gradient.as_mut_ptr(), *mut f32)
        );
        assert!(loss.iter().all(|v| *v == 0.0) && gradient.iter().all(|v| *v == 0.0) && correct.iter().all(|v| *v == 1.0));
    }
}
