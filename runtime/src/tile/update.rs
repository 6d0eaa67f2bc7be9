//! Update rules, operation by operation as PyTorch orders them.

use super::{Adagrad, Adam, ClipScale, Sgd, SgdMomentum, SumSquares};
#[cfg(not(feature = "std"))]
use crate::float::Float as _;
use crate::lanes::Lanes;
use crate::optim::Hyper;
use core::ops::Range;

/// The `part`-th of `parts` ranges of `elements`; ranges begin at multiples of 16, so vectors stay aligned whatever the lanes.
#[inline(always)]
fn part_of(elements: usize, part: usize, parts: usize) -> Range<usize> {
    let each = elements.div_ceil(parts).next_multiple_of(16);
    (part * each).min(elements)..((part + 1) * each).min(elements)
}

/// Calls `body(load, store)` for every vector of `range`, the last of which may be partial.
#[inline(always)]
unsafe fn each_vector<L: Lanes>(range: Range<usize>, mut body: impl FnMut(Access<L>)) {
    let mut at = range.start;
    while at < range.end {
        let count = (range.end - at).min(L::LANES);
        body(Access { at, count, lanes: core::marker::PhantomData });
        at += L::LANES;
    }
}

/// A vector, maybe partial, at the same place of several arrays.
#[derive(Clone, Copy)]
struct Access<L> {
    at: usize,
    count: usize,
    lanes: core::marker::PhantomData<L>,
}

impl<L: Lanes> Access<L> {
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> L::V {
        // SAFETY: the caller's arrays reach to `at + count`.
        unsafe {
            let from = from.add(self.at);
            if self.count == L::LANES { L::load_unaligned(from) } else { L::load_partial(from, self.count) }
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: L::V) {
        // SAFETY: the caller's arrays reach to `at + count`.
        unsafe {
            let to = to.add(self.at);
            if self.count == L::LANES { L::store_unaligned(to, v) } else { L::store_partial(to, v, self.count) }
        }
    }
}

/// The gradient, scaled, plus weight decay.
#[inline(always)]
unsafe fn decayed<L: Lanes>(hyper: *const f32, gradient: L::V, value: L::V) -> L::V {
    // SAFETY: the caller vouches for the hyper-parameters and the instruction set.
    unsafe {
        let scaled = L::mul(gradient, L::splat(*hyper.add(Hyper::GRADIENT_SCALE)));
        L::fma(L::splat(*hyper.add(Hyper::WEIGHT_DECAY)), value, scaled)
    }
}

/// See [`Sgd`].
#[inline(always)]
pub unsafe fn sgd<L: Lanes>(shape: &Sgd, part: usize, count: *const u32, hyper: *const f32, value: *mut f32, gradient: *const f32) {
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let rate = L::splat(-*hyper.add(Hyper::LEARNING_RATE));
        each_vector::<L>(
            part_of(*count as usize * shape.unit_elements, part, shape.parts),
            #[inline(always)]
            |v| {
                let w = v.load(value);
                let g = decayed::<L>(hyper, v.load(gradient), w);
                v.store(value, L::fma(rate, g, w));
            },
        );
    }
}

/// See [`SgdMomentum`].
#[inline(always)]
pub unsafe fn sgd_momentum<L: Lanes>(
    shape: &SgdMomentum,
    part: usize,
    count: *const u32,
    hyper: *const f32,
    value: *mut f32,
    gradient: *const f32,
    momentum: *mut f32,
) {
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let rate = L::splat(-*hyper.add(Hyper::LEARNING_RATE));
        let mu = L::splat(*hyper.add(Hyper::MOMENTUM));
        each_vector::<L>(
            part_of(*count as usize * shape.unit_elements, part, shape.parts),
            #[inline(always)]
            |v| {
                let w = v.load(value);
                let g = decayed::<L>(hyper, v.load(gradient), w);
                let m = L::fma(mu, v.load(momentum), g);
                v.store(momentum, m);
                let direction = if shape.nesterov == 1 { L::fma(mu, m, g) } else { m };
                v.store(value, L::fma(rate, direction, w));
            },
        );
    }
}

/// See [`Adam`].
#[inline(always)]
pub unsafe fn adam<L: Lanes>(
    shape: &Adam,
    part: usize,
    count: *const u32,
    hyper: *const f32,
    value: *mut f32,
    gradient: *const f32,
    first: *mut f32,
    second: *mut f32,
) {
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let rate = *hyper.add(Hyper::LEARNING_RATE);
        let shrink = L::splat(1.0 - rate * *hyper.add(Hyper::WEIGHT_DECAY));
        let new1 = L::splat(1.0 - *hyper.add(Hyper::BETA1));
        let (old2, new2) = (L::splat(*hyper.add(Hyper::BETA2)), L::splat(1.0 - *hyper.add(Hyper::BETA2)));
        let correction2 = L::splat((*hyper.add(Hyper::BIAS_CORRECTION2)).sqrt());
        let step = L::splat(-(rate / *hyper.add(Hyper::BIAS_CORRECTION1)));
        let epsilon = L::splat(*hyper.add(Hyper::EPSILON));
        let scale = L::splat(*hyper.add(Hyper::GRADIENT_SCALE));
        each_vector::<L>(
            part_of(*count as usize * shape.unit_elements, part, shape.parts),
            #[inline(always)]
            |at| {
                let w = at.load(value);
                let g = at.load(gradient);
                let (w, g) = if shape.decoupled == 1 { (L::mul(w, shrink), L::mul(g, scale)) } else { (w, decayed::<L>(hyper, g, w)) };
                let m = at.load(first);
                let m = L::fma(new1, L::sub(g, m), m);
                let v = L::fma(new2, L::mul(g, g), L::mul(at.load(second), old2));
                at.store(first, m);
                at.store(second, v);
                let denominator = L::add(L::div(L::sqrt(v), correction2), epsilon);
                at.store(value, L::fma(step, L::div(m, denominator), w));
            },
        );
    }
}

/// See [`Adagrad`].
#[inline(always)]
pub unsafe fn adagrad<L: Lanes>(
    shape: &Adagrad,
    part: usize,
    count: *const u32,
    hyper: *const f32,
    value: *mut f32,
    gradient: *const f32,
    squares: *mut f32,
) {
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let rate = L::splat(-*hyper.add(Hyper::LEARNING_RATE));
        let epsilon = L::splat(*hyper.add(Hyper::EPSILON));
        each_vector::<L>(
            part_of(*count as usize * shape.unit_elements, part, shape.parts),
            #[inline(always)]
            |v| {
                let w = v.load(value);
                let g = decayed::<L>(hyper, v.load(gradient), w);
                let sum = L::fma(g, g, v.load(squares));
                v.store(squares, sum);
                v.store(value, L::fma(rate, L::div(g, L::add(L::sqrt(sum), epsilon)), w));
            },
        );
    }
}

/// See [`SumSquares`].
#[inline(always)]
pub unsafe fn sum_squares<L: Lanes>(shape: &SumSquares, part: usize, count: *const u32, gradient: *const f32, out: *mut f32) {
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let mut sum = L::zero();
        each_vector::<L>(
            part_of(*count as usize * shape.unit_elements, part, shape.parts),
            #[inline(always)]
            |v| {
                let g = v.load(gradient);
                sum = L::fma(g, g, sum);
            },
        );
        *out.add(part) = L::sum(sum);
    }
}

/// See [`ClipScale`].
#[inline(always)]
pub unsafe fn clip_scale<L: Lanes>(shape: &ClipScale, sums: *const f32, hyper: *mut f32) {
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let mut total = 0.0_f32;
        for i in 0..shape.partials {
            total += *sums.add(i);
        }
        let scale = *hyper.add(Hyper::MAX_NORM) / (total.sqrt() + 1e-6);
        // Not `min`, which would turn a NaN into 1: a diverged step has to show.
        *hyper.add(Hyper::GRADIENT_SCALE) = if scale > 1.0 { 1.0 } else { scale };
    }
}
