//! Update rules: several steps, against f64, in all splits.

use crate::{Floats, Numbers, assert_near, call, targets};
use mest_runtime::optim::Hyper;
use mest_runtime::tile::reference;
use proptest::prelude::*;

/// The slot at step `t`.
fn hyper(t: i32) -> Floats {
    let mut hyper = Floats::new(&[0.1, 0.05, 0.9, 0.9, 0.99, 1e-8, 0.0, 0.0, 1.5, 0.5]);
    hyper[Hyper::BIAS_CORRECTION1] = 1.0 - hyper[Hyper::BETA1].powi(t);
    hyper[Hyper::BIAS_CORRECTION2] = 1.0 - 0.99_f32.powi(t);
    hyper
}

type Rule<'a> = &'a dyn Fn((mest_runtime::lanes::Isa, usize), usize, &Floats, &mut [Floats; 3], &Floats);
type Truth<'a> = &'a dyn Fn(&[f32], reference::Weight, f64) -> reference::Weight;

/// Five steps by the tile, in `parts` ranges, and by the reference.
fn check(elements: usize, parts: usize, seed: u64, rule: Rule<'_>, truth: Truth<'_>) {
    for target in targets() {
        let mut numbers = Numbers(seed);
        // One more element than is live, which must stay.
        let mut state = [numbers.floats(elements + 1), Floats::filled(elements + 1, 0.0), Floats::filled(elements + 1, 0.0)];
        let mut expected: Vec<reference::Weight> = (0..elements).map(|i| (f64::from(state[0][i]), 0.0, 0.0)).collect();
        let last = state[0][elements];
        for t in 1..6 {
            let (hyper, gradient) = (hyper(t), numbers.floats(elements + 1));
            (0..parts).for_each(|part| rule(target, part, &hyper, &mut state, &gradient));
            expected.iter_mut().zip(gradient.iter()).for_each(|(w, g)| *w = truth(&hyper, *w, f64::from(*g)));
        }
        assert_near("value", &state[0][..elements], &expected.iter().map(|w| w.0).collect::<Vec<_>>(), 1e-5);
        assert_near("first moment", &state[1][..elements], &expected.iter().map(|w| w.1).collect::<Vec<_>>(), 1e-5);
        assert_near("second moment", &state[2][..elements], &expected.iter().map(|w| w.2).collect::<Vec<_>>(), 1e-5);
        assert_eq!((state[0][elements], state[1][elements], state[2][elements]), (last, 0.0, 0.0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn sgd_is_pytorchs(units in 0..30_usize, unit_elements in 1..5_usize, parts in 1..5_usize, seed in any::<u64>()) {
        let count = [units as u32];
        check(
            units * unit_elements, parts, seed,
            &|target, part, hyper, state, gradient| call!(
                Sgd { unit_elements, parts }, target,
                (part, usize), (count.as_ptr(), *const u32), (hyper.as_ptr(), *const f32), (state[0].as_mut_ptr(), *mut f32),
                (gradient.as_ptr(), *const f32)
            ),
            &|hyper, w, g| reference::sgd(hyper, w, g, None),
        );
    }

    #[test]
    fn momentum_is_pytorchs(units in 0..30_usize, unit_elements in 1..5_usize, parts in 1..5_usize, nesterov in 0..2_usize, seed in any::<u64>()) {
        let count = [units as u32];
        check(
            units * unit_elements, parts, seed,
            &|target, part, hyper, state, gradient| call!(
                SgdMomentum { unit_elements, parts, nesterov }, target,
                (part, usize), (count.as_ptr(), *const u32), (hyper.as_ptr(), *const f32), (state[0].as_mut_ptr(), *mut f32),
                (gradient.as_ptr(), *const f32), (state[1].as_mut_ptr(), *mut f32)
            ),
            &|hyper, w, g| reference::sgd(hyper, w, g, Some(nesterov == 1)),
        );
    }

    #[test]
    fn adam_is_pytorchs(units in 0..30_usize, unit_elements in 1..5_usize, parts in 1..5_usize, decoupled in 0..2_usize, seed in any::<u64>()) {
        let count = [units as u32];
        check(
            units * unit_elements, parts, seed,
            &|target, part, hyper, state, gradient| {
                let [value, first, second] = state;
                call!(
                    Adam { unit_elements, parts, decoupled }, target,
                    (part, usize), (count.as_ptr(), *const u32), (hyper.as_ptr(), *const f32), (value.as_mut_ptr(), *mut f32),
                    (gradient.as_ptr(), *const f32), (first.as_mut_ptr(), *mut f32), (second.as_mut_ptr(), *mut f32)
                );
            },
            &|hyper, w, g| reference::adam(hyper, w, g, decoupled == 1),
        );
    }

    #[test]
    fn adagrad_is_pytorchs(units in 0..30_usize, unit_elements in 1..5_usize, parts in 1..5_usize, seed in any::<u64>()) {
        let count = [units as u32];
        check(
            units * unit_elements, parts, seed,
            &|target, part, hyper, state, gradient| call!(
                Adagrad { unit_elements, parts }, target,
                (part, usize), (count.as_ptr(), *const u32), (hyper.as_ptr(), *const f32), (state[0].as_mut_ptr(), *mut f32),
                (gradient.as_ptr(), *const f32), (state[1].as_mut_ptr(), *mut f32)
            ),
            &reference::adagrad,
        );
    }

    #[test]
    fn clipping_bounds_the_global_norm(units in 0..60_usize, parts in 1..5_usize, size in prop::sample::select(vec![0.01_f32, 10.0]), seed in any::<u64>()) {
        for target in targets() {
            let mut gradient = Numbers(seed).floats(units * 2);
            gradient.iter_mut().for_each(|g| *g *= size);
            let mut sums = Floats::filled(parts, 9.0);
            for part in 0..parts {
                call!(
                    SumSquares { unit_elements: 2, parts }, target,
                    (part, usize), ([units as u32].as_ptr(), *const u32), (gradient.as_ptr(), *const f32), (sums.as_mut_ptr(), *mut f32)
                );
            }
            let mut slot = hyper(1);
            call!(ClipScale { partials: parts }, target, (sums.as_ptr(), *const f32), (slot.as_mut_ptr(), *mut f32));
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let expected = (f64::from(slot[Hyper::MAX_NORM]) / (norm + 1e-6)).min(1.0);
            assert_near("scale", &[slot[Hyper::GRADIENT_SCALE]], &[expected], 1e-5);
        }
    }
}

#[test]
fn a_diverged_norm_shows() {
    for target in targets() {
        let mut slot = hyper(1);
        call!(ClipScale { partials: 1 }, target, ([f32::NAN].as_ptr(), *const f32), (slot.as_mut_ptr(), *mut f32));
        assert!(slot[Hyper::GRADIENT_SCALE].is_nan());
    }
}

#[test]
fn the_slot_is_laid_out_as_documented() {
    assert_eq!((Hyper::LEARNING_RATE, Hyper::LEN, hyper(1).len()), (0, 10, 10));
}

/// A step of an onnx node test: settings (rate, decay, alpha, beta, epsilon), value, gradient, moments before, and value and moments after.
struct OnnxStep<'a> {
    settings: [f32; 5],
    value: &'a [f32],
    gradient: &'a [f32],
    moments: [&'a [f32]; 2],
    expected: [&'a [f64]; 3],
}

/// Runs the step with the rule that ONNX's operator stands for, at step 0: nothing is corrected for bias.
fn check_onnx(step: &OnnxStep<'_>, rule: impl Fn((mest_runtime::lanes::Isa, usize), &Floats, &mut [Floats; 3], &Floats)) {
    for target in targets() {
        let [rate, decay, alpha, beta, epsilon] = step.settings;
        let hyper = Floats::new(&[rate, decay, alpha, alpha, beta, epsilon, 1.0, 1.0, f32::INFINITY, 1.0]);
        let gradient = Floats::new(step.gradient);
        let mut state = [Floats::new(step.value), Floats::new(step.moments[0]), Floats::new(step.moments[1])];
        rule(target, &hyper, &mut state, &gradient);
        for (what, (got, expected)) in ["value", "first moment", "second moment"].into_iter().zip(state.iter().zip(step.expected)) {
            assert_near(what, got, expected, 2e-6);
        }
    }
}

/// test_momentum, test_momentum_multiple and test_nesterov_momentum of onnx 1.23.
#[test]
fn momentum_is_onnxs() {
    let none: &[f32] = &[];
    let step = |settings, value, gradient, moment, expected: [&'static [f64]; 2]| {
        let [after, moved] = expected;
        OnnxStep { settings, value, gradient, moments: [moment, none], expected: [after, moved, &[]] }
    };
    let (x, g, v): (&[f32], &[f32], &[f32]) = (&[1.2, 2.8], &[-0.94, -2.5], &[1.7, 3.6]);
    let standard = [0.1, 0.001, 0.95, 0.0, 0.0];
    let cases = [
        (0, step(standard, x, g, v, [&[1.132_38, 2.707_72], &[0.676_2, 0.922_8]])),
        (0, step(standard, &[1.0], &[-1.0], &[2.0], [&[0.909_9], &[0.901]])),
        (0, step(standard, &[1.0, 2.0], &[-1.0, -3.0], &[4.0, 1.0], [&[0.719_9, 2.204_8], &[2.801, -2.048]])),
        (1, step([0.1, 0.01, 0.95, 0.0, 0.0], x, g, v, [&[1.227_535, 2.957_14], &[0.687, 0.948]])),
    ];
    for (nesterov, step) in cases {
        let count = [step.value.len() as u32];
        check_onnx(&step, |target, hyper, state, gradient| {
            let [value, moment, _] = state;
            call!(
                SgdMomentum { unit_elements: 1, parts: 1, nesterov },
                target,
                (0, usize),
                (count.as_ptr(), *const u32),
                (hyper.as_ptr(), *const f32),
                (value.as_mut_ptr(), *mut f32),
                (gradient.as_ptr(), *const f32),
                (moment.as_mut_ptr(), *mut f32)
            );
        });
    }
}

/// test_adagrad and test_adagrad_multiple of onnx 1.23.
#[test]
fn adagrad_is_onnxs() {
    let none: &[f32] = &[];
    let settings = [0.1, 0.001, 0.0, 0.0, 1e-5];
    let step = |value, gradient, squares, [after, summed]: [&'static [f64]; 2]| OnnxStep {
        settings,
        value,
        gradient,
        moments: [squares, none],
        expected: [after, summed, &[]],
    };
    let cases = [
        step(&[1.0], &[-1.0], &[2.0], [&[1.0576962], &[2.9980011]]),
        step(&[1.0], &[-1.0], &[2.0], [&[1.0576962], &[2.9980011]]),
        step(&[1.0, 2.0], &[-1.0, -3.0], &[4.0, 1.0], [&[1.0446854, 2.0948617], &[4.9980011, 9.9880037]]),
    ];
    for step in cases {
        let count = [step.value.len() as u32];
        check_onnx(&step, |target, hyper, state, gradient| {
            let [value, squares, _] = state;
            call!(
                Adagrad { unit_elements: 1, parts: 1 },
                target,
                (0, usize),
                (count.as_ptr(), *const u32),
                (hyper.as_ptr(), *const f32),
                (value.as_mut_ptr(), *mut f32),
                (gradient.as_ptr(), *const f32),
                (squares.as_mut_ptr(), *mut f32)
            );
        });
    }
}

/// test_adam and test_adam_multiple of onnx 1.23.
#[test]
fn adam_is_onnxs() {
    let multiple = [0.1, 0.001, 0.95, 0.85, 1e-2];
    let cases = [
        OnnxStep {
            settings: [0.1, 0.001, 0.95, 0.1, 1e-7],
            value: &[1.2, 2.8],
            gradient: &[-0.94, -2.5],
            moments: [&[1.7, 3.6], &[0.1, 0.1]],
            expected: [&[1.025_036_3, 2.661_032_7], &[1.568_06, 3.295_14], &[0.803_210_8, 5.622_407]],
        },
        OnnxStep {
            settings: multiple,
            value: &[1.0],
            gradient: &[-1.0],
            moments: [&[2.0], &[0.5]],
            expected: [&[0.759_136_3], &[1.850_05], &[0.574_700_2]],
        },
        OnnxStep {
            settings: multiple,
            value: &[1.0, 2.0],
            gradient: &[-1.0, -3.0],
            moments: [&[4.0, 1.0], &[1.0, 10.0]],
            expected: [&[0.628_652_8, 1.974_585_3], &[3.750_05, 0.800_1], &[0.999_700_2, 9.848_201]],
        },
    ];
    for step in cases {
        let count = [step.value.len() as u32];
        check_onnx(&step, |target, hyper, state, gradient| {
            let [value, first, second] = state;
            call!(
                Adam { unit_elements: 1, parts: 1, decoupled: 0 },
                target,
                (0, usize),
                (count.as_ptr(), *const u32),
                (hyper.as_ptr(), *const f32),
                (value.as_mut_ptr(), *mut f32),
                (gradient.as_ptr(), *const f32),
                (first.as_mut_ptr(), *mut f32),
                (second.as_mut_ptr(), *mut f32)
            );
        });
    }
}
