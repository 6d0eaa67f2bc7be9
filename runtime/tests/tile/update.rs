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
