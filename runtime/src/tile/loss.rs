//! Losses with their gradients, and softmax.

use super::{MeanSquaredError, Softmax, SoftmaxCrossEntropy};
use crate::lanes::{Buffer, Lanes};

/// One class index a lane, as floats: exact for every class count that fits in memory.
#[inline(always)]
unsafe fn classes_of<L: Lanes>(target: *const u32) -> L::V {
    let mut vector = Buffer::ZERO;
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        for lane in 0..L::LANES {
            vector.0[lane] = *target.add(lane) as f32;
        }
        L::from_buffer(&vector)
    }
}

/// See [`SoftmaxCrossEntropy`].
#[inline(always)]
pub unsafe fn softmax_cross_entropy<L: Lanes>(
    shape: &SoftmaxCrossEntropy,
    logits: *const f32,
    target: *const u32,
    live: *const f32,
    inverse_count: *const f32,
    loss: *mut f32,
    correct: *mut f32,
    gradient: *mut f32,
) {
    let &SoftmaxCrossEntropy { classes, smoothing } = shape;
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let target = classes_of::<L>(target);
        let (zero, one) = (L::zero(), L::splat(1.0));
        let mut largest = L::load(logits);
        let mut first_largest = zero;
        for c in 1..classes {
            let v = L::load(logits.add(c * L::LANES));
            first_largest = L::select_less(largest, v, L::splat(c as f32), first_largest);
            largest = L::select_less(largest, v, v, largest);
        }
        L::store(correct, L::select_equal(first_largest, target, one, zero));

        let (mut sum, mut of_target, mut of_all) = (zero, zero, zero);
        for c in 0..classes {
            let z = L::sub(L::load(logits.add(c * L::LANES)), largest);
            let e = L::exp(z);
            sum = L::add(sum, e);
            of_all = L::add(of_all, z);
            of_target = L::select_equal(target, L::splat(c as f32), z, of_target);
            L::store(gradient.add(c * L::LANES), e);
        }
        let share = smoothing / classes as f32;
        let mut expected = of_target;
        // Without smoothing an infinite logit of another class must not meet a factor of zero.
        if smoothing != 0.0 {
            expected = L::add(L::mul(L::splat(1.0 - smoothing), of_target), L::mul(L::splat(share), of_all));
        }
        L::store(loss, L::sub(L::log(sum), expected));

        let scale = L::mul(L::load(live), L::splat(*inverse_count));
        let (of_right, of_wrong) = (L::splat(1.0 - smoothing + share), L::splat(share));
        for c in 0..classes {
            let to = gradient.add(c * L::LANES);
            let probability = L::div(L::load(to), sum);
            let wanted = L::select_equal(target, L::splat(c as f32), of_right, of_wrong);
            L::store(to, L::mul(scale, L::sub(probability, wanted)));
        }
    }
}

/// See [`MeanSquaredError`].
#[inline(always)]
pub unsafe fn mean_squared_error<L: Lanes>(
    shape: &MeanSquaredError,
    prediction: *const f32,
    target: *const f32,
    live: *const f32,
    inverse_count: *const f32,
    loss: *mut f32,
    correct: *mut f32,
    gradient: *mut f32,
) {
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let elements = L::splat(shape.elements as f32);
        let scale = L::div(L::mul(L::load(live), L::splat(*inverse_count * 2.0)), elements);
        let mut sum = L::zero();
        for i in 0..shape.elements {
            let at = i * L::LANES;
            let difference = L::sub(L::load(prediction.add(at)), L::load(target.add(at)));
            sum = L::add(sum, L::mul(difference, difference));
            L::store(gradient.add(at), L::mul(scale, difference));
        }
        L::store(loss, L::div(sum, elements));
        L::store(correct, L::zero());
    }
}

/// See [`Softmax`].
#[inline(always)]
pub unsafe fn softmax<L: Lanes>(shape: &Softmax, x: *const f32, y: *mut f32) {
    let &Softmax { rows, classes, log } = shape;
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        for r in 0..rows {
            let from = x.add(r * classes * L::LANES);
            let to = y.add(r * classes * L::LANES);
            let mut largest = L::splat(f32::NEG_INFINITY);
            for c in 0..classes {
                let v = L::load(from.add(c * L::LANES));
                largest = L::select_less(largest, v, v, largest);
            }
            let mut sum = L::zero();
            for c in 0..classes {
                let z = L::sub(L::load(from.add(c * L::LANES)), largest);
                let e = L::exp(z);
                sum = L::add(sum, e);
                L::store(to.add(c * L::LANES), if log == 1 { z } else { e });
            }
            let logarithm = L::log(sum);
            for c in 0..classes {
                let to = to.add(c * L::LANES);
                let v = L::load(to);
                L::store(to, if log == 1 { L::sub(v, logarithm) } else { L::div(v, sum) });
            }
        }
    }
}
