//! Update rules: several steps, against f64, in all splits.

use crate::{Floats, Numbers, assert_near, call, targets};
use mest_runtime::lanes::math::{narrowed_stochastically, widened};
use mest_runtime::optim::Hyper;
use mest_runtime::random::{Purpose, bits, scrambled};
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

/// Weights with their moments in half of the bits, and what rounds those.
struct Narrow {
    value: Floats,
    moments: [Vec<u16>; 2],
    /// The seed and the step, low word first.
    seed: [u32; 4],
    /// The parameter's number.
    number: f32,
}

impl Narrow {
    /// What a moment of `element` is rounded by.
    fn draw(&self, element: usize, moment: usize) -> u16 {
        let [seed, step] = [0, 2].map(|i| u64::from(self.seed[i]) | u64::from(self.seed[i + 1]) << 32);
        (scrambled(bits(seed, Purpose::Rounding, step, self.number as u64), element as u32) >> (16 * moment)) as u16
    }
}

type NarrowRule<'a> = &'a dyn Fn((mest_runtime::lanes::Isa, usize), usize, &Floats, &mut Narrow, &Floats);

/// Five steps by a tile on halves, in `parts` ranges, each against the tile on floats from the same moments: the same values, and the moments that it
/// has, rounded.
fn check_narrow(elements: usize, parts: usize, seed: u64, rule: Rule<'_>, narrow_rule: NarrowRule<'_>) {
    for target in targets() {
        let mut numbers = Numbers(seed);
        // One more element than is live, which must stay.
        let mut narrow = Narrow {
            value: numbers.floats(elements + 1),
            moments: [vec![0; elements + 1], vec![0; elements + 1]],
            seed: [seed as u32, (seed >> 32) as u32, 0, 9],
            number: (seed % 70) as f32,
        };
        for t in 1..6 {
            let (hyper, gradient) = (hyper(t), numbers.floats(elements + 1));
            let [first, second] = narrow.moments.each_ref().map(|moment| moment.iter().map(|&half| widened(half)).collect::<Vec<_>>());
            let mut wide = [narrow.value.clone(), Floats::new(&first), Floats::new(&second)];
            narrow.seed[2] = t as u32;
            for part in 0..parts {
                rule(target, part, &hyper, &mut wide, &gradient);
                narrow_rule(target, part, &hyper, &mut narrow, &gradient);
            }
            assert_eq!(narrow.value[..], wide[0][..]);
            for (number, moment) in narrow.moments.iter().enumerate() {
                let rounded =
                    |i: usize| if i < elements { narrowed_stochastically(wide[number + 1][i], narrow.draw(i, number)) } else { 0 };
                assert!(moment.iter().enumerate().all(|(i, &half)| half == rounded(i)), "moment {number} of step {t}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn narrow_momentum_moves_as_wide_and_is_rounded(
        units in 0..30_usize, unit_elements in 1..5_usize, parts in 1..5_usize, nesterov in 0..2_usize, seed in any::<u64>()
    ) {
        let count = [units as u32];
        check_narrow(
            units * unit_elements, parts, seed,
            &|target, part, hyper, state, gradient| call!(
                SgdMomentum { unit_elements, parts, nesterov }, target,
                (part, usize), (count.as_ptr(), *const u32), (hyper.as_ptr(), *const f32), (state[0].as_mut_ptr(), *mut f32),
                (gradient.as_ptr(), *const f32), (state[1].as_mut_ptr(), *mut f32)
            ),
            &|target, part, hyper, narrow, gradient| call!(
                SgdMomentumNarrow { unit_elements, parts, nesterov }, target,
                (part, usize), (count.as_ptr(), *const u32), (hyper.as_ptr(), *const f32), (narrow.value.as_mut_ptr(), *mut f32),
                (gradient.as_ptr(), *const f32), (narrow.moments[0].as_mut_ptr(), *mut u16), (narrow.seed.as_ptr(), *const u32),
                (&raw const narrow.number, *const f32)
            ),
        );
    }

    #[test]
    fn narrow_adam_moves_as_wide_and_is_rounded(
        units in 0..30_usize, unit_elements in 1..5_usize, parts in 1..5_usize, decoupled in 0..2_usize, seed in any::<u64>()
    ) {
        let count = [units as u32];
        check_narrow(
            units * unit_elements, parts, seed,
            &|target, part, hyper, state, gradient| {
                let [value, first, second] = state;
                call!(
                    Adam { unit_elements, parts, decoupled }, target,
                    (part, usize), (count.as_ptr(), *const u32), (hyper.as_ptr(), *const f32), (value.as_mut_ptr(), *mut f32),
                    (gradient.as_ptr(), *const f32), (first.as_mut_ptr(), *mut f32), (second.as_mut_ptr(), *mut f32)
                );
            },
            &|target, part, hyper, narrow, gradient| {
                let [first, second] = &mut narrow.moments;
                call!(
                    AdamNarrow { unit_elements, parts, decoupled }, target,
                    (part, usize), (count.as_ptr(), *const u32), (hyper.as_ptr(), *const f32), (narrow.value.as_mut_ptr(), *mut f32),
                    (gradient.as_ptr(), *const f32), (first.as_mut_ptr(), *mut u16), (second.as_mut_ptr(), *mut u16),
                    (narrow.seed.as_ptr(), *const u32), (&raw const narrow.number, *const f32)
                );
            },
        );
    }

    #[test]
    fn narrow_adagrad_moves_as_wide_and_is_rounded(
        units in 0..30_usize, unit_elements in 1..5_usize, parts in 1..5_usize, seed in any::<u64>()
    ) {
        let count = [units as u32];
        check_narrow(
            units * unit_elements, parts, seed,
            &|target, part, hyper, state, gradient| call!(
                Adagrad { unit_elements, parts }, target,
                (part, usize), (count.as_ptr(), *const u32), (hyper.as_ptr(), *const f32), (state[0].as_mut_ptr(), *mut f32),
                (gradient.as_ptr(), *const f32), (state[1].as_mut_ptr(), *mut f32)
            ),
            &|target, part, hyper, narrow, gradient| call!(
                AdagradNarrow { unit_elements, parts }, target,
                (part, usize), (count.as_ptr(), *const u32), (hyper.as_ptr(), *const f32), (narrow.value.as_mut_ptr(), *mut f32),
                (gradient.as_ptr(), *const f32), (narrow.moments[0].as_mut_ptr(), *mut u16), (narrow.seed.as_ptr(), *const u32),
                (&raw const narrow.number, *const f32)
            ),
        );
    }

    /// Any pattern of bits, by any draw: what the definition says, one of the two neighbours.
    #[test]
    fn stochastic_rounding_is_its_definition(pattern in any::<u32>(), draw in any::<u16>()) {
        let x = f32::from_bits(pattern);
        let (got, expected) = (f64::from(widened(narrowed_stochastically(x, draw))), reference::narrowed_stochastically(x, draw));
        prop_assert!(got == expected && got.is_sign_negative() == x.is_sign_negative() || got.is_nan() && x.is_nan(), "{x}: {got}, not {expected}");
    }

    /// The mean over all draws is the number itself, exactly.
    #[test]
    fn stochastic_rounding_is_unbiased(x in prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL) {
        prop_assume!(x.abs() < f32::from_bits(0x7f7f_0000));
        let sum: f64 = (0..=u16::MAX).map(|draw| f64::from(widened(narrowed_stochastically(x, draw)))).sum();
        prop_assert_eq!(sum / 65536.0, f64::from(x));
    }

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

#[test]
fn stochastic_rounding_leaves_what_has_no_neighbour() {
    for draw in [0, 1, 0x7fff, 0x8000, u16::MAX] {
        let back = |bits: u32| widened(narrowed_stochastically(f32::from_bits(bits), draw));
        for exact in [0.0, -0.0, 1.0, -3.5, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(back(exact.to_bits()).to_bits(), exact.to_bits());
        }
        // Every NaN, those whose payload lies in the lower half included.
        assert!([0x7fc0_0000, 0x7f80_0001, 0xff80_ffff, 0x7fff_ffff, u32::MAX].iter().all(|&nan| back(nan).is_nan()));
        assert_eq!([f32::MAX, -f32::MAX].map(|x| back(x.to_bits())), [f32::from_bits(0x7f7f_0000), f32::from_bits(0xff7f_0000)]);
    }
}

/// Adagrad's sum grows by a tenth of half a unit in its last place at each step: rounded to the nearest, it would stay for ever.
#[test]
fn what_is_too_small_for_half_of_the_bits_arrives_in_the_mean() {
    const ELEMENTS: usize = 2048;
    const STEPS: u32 = 400;
    let (start, gradient) = (1.0, 0.02_f32);
    let target = targets()[0];
    let settings = Floats::new(&[0.0, 0.0, 0.0, 0.0, 0.0, 1e-8, 1.0, 1.0, f32::INFINITY, 1.0]);
    let gradients = Floats::filled(ELEMENTS, gradient);
    let (mut value, mut squares) = (Floats::filled(ELEMENTS, 0.0), vec![narrowed_stochastically(start, 0); ELEMENTS]);
    for step in 0..STEPS {
        call!(
            AdagradNarrow { unit_elements: 1, parts: 1 },
            target,
            (0, usize),
            ([ELEMENTS as u32].as_ptr(), *const u32),
            (settings.as_ptr(), *const f32),
            (value.as_mut_ptr(), *mut f32),
            (gradients.as_ptr(), *const f32),
            (squares.as_mut_ptr(), *mut u16),
            ([5, 0, step, 0].as_ptr(), *const u32),
            ([3.0].as_ptr(), *const f32)
        );
    }
    let added = squares.iter().map(|&half| f64::from(widened(half) - start)).collect::<Vec<_>>();
    let mean = added.iter().sum::<f64>() / ELEMENTS as f64;
    let (expected, unit) = (f64::from(gradient).powi(2) * f64::from(STEPS), 2.0_f64.powi(-7));
    // A step up comes with probability p = expected / (STEPS unit): a binomial for each element, and six standard deviations of their mean.
    let p = expected / (f64::from(STEPS) * unit);
    let variance = f64::from(STEPS) * p * (1.0 - p) * unit * unit;
    assert!((mean - expected).abs() < 6.0 * (variance / ELEMENTS as f64).sqrt(), "{mean}, not {expected}");
    // Elements are rounded independently of each other, and steps of each other.
    let spread = added.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / ELEMENTS as f64;
    assert!((0.8..1.25).contains(&(spread / variance)), "{spread}, not {variance}");
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
