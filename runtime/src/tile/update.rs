//! Update rules, operation by operation as PyTorch orders them.

use super::random_mask::seed_and_step;
use super::{Adagrad, AdagradNarrow, Adam, AdamNarrow, ClipScale, Sgd, SgdMomentum, SgdMomentumNarrow, SumSquares};
#[cfg(not(feature = "std"))]
use crate::float::Float as _;
use crate::lanes::Lanes;
use crate::lanes::math::{narrowed_stochastically, widened};
use crate::optim::Hyper;
use crate::random::{Purpose, bits, scrambled};
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
        let range = part_of(*count as usize * shape.unit_elements, part, shape.parts);
        move_by_momentum::<L>(Weights { range, value, gradient }, hyper, shape.nesterov == 1, momentum);
    }
}

/// See [`SgdMomentumNarrow`].
#[inline(always)]
pub unsafe fn sgd_momentum_narrow<L: Lanes>(
    shape: &SgdMomentumNarrow,
    part: usize,
    count: *const u32,
    hyper: *const f32,
    value: *mut f32,
    gradient: *const f32,
    momentum: *mut u16,
    seed: *const u32,
    parameter: *const f32,
) {
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let range = part_of(*count as usize * shape.unit_elements, part, shape.parts);
        widened_by_chunks(
            Weights { range, value, gradient },
            [momentum],
            rounding_key(seed, parameter),
            #[inline(always)]
            |weights, [momentum]| move_by_momentum::<L>(weights, hyper, shape.nesterov == 1, momentum),
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
        let range = part_of(*count as usize * shape.unit_elements, part, shape.parts);
        move_by_adam::<L>(Weights { range, value, gradient }, AdamTerms::new(hyper, shape.decoupled == 1), first, second);
    }
}

/// See [`AdamNarrow`].
#[inline(always)]
pub unsafe fn adam_narrow<L: Lanes>(
    shape: &AdamNarrow,
    part: usize,
    count: *const u32,
    hyper: *const f32,
    value: *mut f32,
    gradient: *const f32,
    first: *mut u16,
    second: *mut u16,
    seed: *const u32,
    parameter: *const f32,
) {
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let range = part_of(*count as usize * shape.unit_elements, part, shape.parts);
        let terms = AdamTerms::new(hyper, shape.decoupled == 1);
        widened_by_chunks(
            Weights { range, value, gradient },
            [first, second],
            rounding_key(seed, parameter),
            #[inline(always)]
            |weights, [first, second]| move_by_adam::<L>(weights, terms, first, second),
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
        let range = part_of(*count as usize * shape.unit_elements, part, shape.parts);
        move_by_adagrad::<L>(Weights { range, value, gradient }, hyper, squares);
    }
}

/// See [`AdagradNarrow`].
#[inline(always)]
pub unsafe fn adagrad_narrow<L: Lanes>(
    shape: &AdagradNarrow,
    part: usize,
    count: *const u32,
    hyper: *const f32,
    value: *mut f32,
    gradient: *const f32,
    squares: *mut u16,
    seed: *const u32,
    parameter: *const f32,
) {
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let range = part_of(*count as usize * shape.unit_elements, part, shape.parts);
        widened_by_chunks(
            Weights { range, value, gradient },
            [squares],
            rounding_key(seed, parameter),
            #[inline(always)]
            |weights, [squares]| move_by_adagrad::<L>(weights, hyper, squares),
        );
    }
}

/// What rules work on: the live elements `range` of a parameter.
struct Weights {
    range: Range<usize>,
    value: *mut f32,
    gradient: *const f32,
}

/// Elements whose moments are wide at a time: they stay in the first-level cache, and are too many for the compiler to unroll the loops over them
/// instead of making vectors of them.
const CHUNK: usize = 128;

/// What elements of a parameter are rounded by in a step: the key of [`scrambled`].
#[inline(always)]
unsafe fn rounding_key(seed: *const u32, parameter: *const f32) -> u64 {
    // SAFETY: the caller's slots hold a seed, a step and the number of a parameter.
    let ((seed, step), parameter) = unsafe { (seed_and_step(seed), *parameter as u64) };
    bits(seed, Purpose::Rounding, step, parameter)
}

/// Calls `rule` with chunk after chunk of `weights` and N moments of them, widened from `moments`, where it rounds what the rule makes of them.
///
/// Rounding to the nearest would lose every change below half a unit in the last place for ever, and so most of what a second moment grows and
/// decays by; rounded stochastically, it arrives in the mean.
#[inline(always)]
unsafe fn widened_by_chunks<const N: usize>(weights: Weights, moments: [*mut u16; N], key: u64, rule: impl Fn(Weights, [*mut f32; N])) {
    const { assert!(N <= 2, "a draw has bits for two moments") };
    let Weights { range, value, gradient } = weights;
    let (mut wide, mut draws) = ([[0.0; CHUNK]; N], [0; CHUNK]);
    for first in range.clone().step_by(CHUNK) {
        let count = (range.end - first).min(CHUNK);
        // SAFETY: the caller's arrays reach to the end of the range, a chunk's to that of the chunk.
        unsafe {
            for (wide, from) in wide.iter_mut().zip(moments) {
                widen(wide, from.add(first), count);
            }
            let mut pointers = [core::ptr::null_mut(); N];
            pointers.iter_mut().zip(&mut wide).for_each(|(pointer, wide)| *pointer = wide.as_mut_ptr());
            rule(Weights { range: 0..count, value: value.add(first), gradient: gradient.add(first) }, pointers);
            for (i, draw) in draws.iter_mut().enumerate() {
                *draw = scrambled(key, (first as u32).wrapping_add(i as u32));
            }
            for (number, (wide, to)) in wide.iter().zip(moments).enumerate() {
                if number > 0 {
                    draws.iter_mut().for_each(|draw| *draw >>= 16);
                }
                round(to.add(first), wide, &draws, count);
            }
        }
    }
}

/// `wide[i] = from[i]` for the first `count` elements.
#[inline(always)]
unsafe fn widen(wide: &mut [f32; CHUNK], from: *const u16, count: usize) {
    // SAFETY: the caller vouches for `count` halves.
    let halves = unsafe { core::slice::from_raw_parts(from, count) };
    wide.iter_mut().zip(halves).for_each(|(wide, half)| *wide = widened(*half));
}

/// `to[i]` becomes `wide[i]`, rounded by the lower half of `draws[i]`, for the first `count` elements.
#[inline(always)]
unsafe fn round(to: *mut u16, wide: &[f32; CHUNK], draws: &[u32; CHUNK], count: usize) {
    // SAFETY: as in `widen`; nothing else points there.
    let halves = unsafe { core::slice::from_raw_parts_mut(to, count) };
    for ((half, wide), draw) in halves.iter_mut().zip(wide).zip(draws) {
        *half = narrowed_stochastically(*wide, *draw as u16);
    }
}

/// The rule of [`SgdMomentum`].
#[inline(always)]
unsafe fn move_by_momentum<L: Lanes>(weights: Weights, hyper: *const f32, nesterov: bool, momentum: *mut f32) {
    let Weights { range, value, gradient } = weights;
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let rate = L::splat(-*hyper.add(Hyper::LEARNING_RATE));
        let mu = L::splat(*hyper.add(Hyper::MOMENTUM));
        each_vector::<L>(
            range,
            #[inline(always)]
            |at| {
                let w = at.load(value);
                let g = decayed::<L>(hyper, at.load(gradient), w);
                let m = L::fma(mu, at.load(momentum), g);
                at.store(momentum, m);
                let direction = if nesterov { L::fma(mu, m, g) } else { m };
                at.store(value, L::fma(rate, direction, w));
            },
        );
    }
}

/// What the rule of [`Adam`] takes of the hyper-parameters.
#[derive(Clone, Copy)]
struct AdamTerms {
    hyper: *const f32,
    /// Whether weight decay is apart from the gradient.
    decoupled: bool,
    /// What values are multiplied with then.
    shrink: f32,
    /// Root of the second moment's correction.
    correction2: f32,
    /// Minus the learning rate, by the first moment's correction.
    step: f32,
}

impl AdamTerms {
    #[inline(always)]
    unsafe fn new(hyper: *const f32, decoupled: bool) -> Self {
        // SAFETY: the caller vouches for the hyper-parameters.
        unsafe {
            let rate = *hyper.add(Hyper::LEARNING_RATE);
            AdamTerms {
                hyper,
                decoupled,
                shrink: 1.0 - rate * *hyper.add(Hyper::WEIGHT_DECAY),
                correction2: (*hyper.add(Hyper::BIAS_CORRECTION2)).sqrt(),
                step: -(rate / *hyper.add(Hyper::BIAS_CORRECTION1)),
            }
        }
    }
}

/// The rule of [`Adam`].
#[inline(always)]
unsafe fn move_by_adam<L: Lanes>(weights: Weights, terms: AdamTerms, first: *mut f32, second: *mut f32) {
    let Weights { range, value, gradient } = weights;
    let AdamTerms { hyper, decoupled, .. } = terms;
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let new1 = L::splat(1.0 - *hyper.add(Hyper::BETA1));
        let (old2, new2) = (L::splat(*hyper.add(Hyper::BETA2)), L::splat(1.0 - *hyper.add(Hyper::BETA2)));
        let (shrink, correction2, step) = (L::splat(terms.shrink), L::splat(terms.correction2), L::splat(terms.step));
        let epsilon = L::splat(*hyper.add(Hyper::EPSILON));
        let scale = L::splat(*hyper.add(Hyper::GRADIENT_SCALE));
        each_vector::<L>(
            range,
            #[inline(always)]
            |at| {
                let w = at.load(value);
                let g = at.load(gradient);
                let (w, g) = if decoupled { (L::mul(w, shrink), L::mul(g, scale)) } else { (w, decayed::<L>(hyper, g, w)) };
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

/// The rule of [`Adagrad`].
#[inline(always)]
unsafe fn move_by_adagrad<L: Lanes>(weights: Weights, hyper: *const f32, squares: *mut f32) {
    let Weights { range, value, gradient } = weights;
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let rate = L::splat(-*hyper.add(Hyper::LEARNING_RATE));
        let epsilon = L::splat(*hyper.add(Hyper::EPSILON));
        each_vector::<L>(
            range,
            #[inline(always)]
            |at| {
                let w = at.load(value);
                let g = decayed::<L>(hyper, at.load(gradient), w);
                let sum = L::fma(g, g, at.load(squares));
                at.store(squares, sum);
                at.store(value, L::fma(rate, L::div(g, L::add(L::sqrt(sum), epsilon)), w));
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
