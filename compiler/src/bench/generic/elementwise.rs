//! Element-wise operations, their broadcasting, and sums that undo it.

use super::loops::{Part, Threads, map, sum_of, sum_partials, zip};
use super::nest::{Nest, row};

/// y = f(x), element by element.
#[inline(always)]
pub(super) fn unary(threads: &Threads, y: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32 + Sync) {
    threads.each(
        y.len(),
        [y],
        &mut [],
        #[inline(always)]
        |Part { items, outputs: [y], .. }| map(y, &x[items], &f),
    );
}

/// y = f(a, b), element by element, of equal shapes.
#[inline(always)]
pub(super) fn binary(threads: &Threads, y: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    threads.each(
        y.len(),
        [y],
        &mut [],
        #[inline(always)]
        |Part { items, outputs: [y], .. }| zip(y, &a[items.clone()], &b[items], &f),
    );
}

/// y = f(a, b) with broadcasting; `examples` is 1 where y is uniform.
#[inline(always)]
pub(super) fn broadcast(
    threads: &Threads,
    nest: &Nest<2>,
    examples: usize,
    y: &mut [f32],
    [a, b]: [&[f32]; 2],
    f: impl Fn(f32, f32) -> f32 + Sync,
) {
    let per_example = y.len() / examples;
    threads.each(
        examples,
        [y],
        &mut [],
        #[inline(always)]
        |Part { items, outputs: [y], .. }| {
            for (example, y) in items.zip(y.chunks_exact_mut(per_example)) {
                let (a, b) = (&a[example * nest.example[0]..], &b[example * nest.example[1]..]);
                nest.rows(
                    #[inline(always)]
                    |start, [from_a, from_b], len, [step_a, step_b]| {
                        let y = &mut y[start..][..len];
                        match (row(a, from_a, len, step_a), row(b, from_b, len, step_b)) {
                            (&[a], &[b]) => y.fill(f(a, b)),
                            (&[a], b) => map(y, b, |b| f(a, b)),
                            (a, &[b]) => map(y, a, |a| f(a, b)),
                            (a, b) => zip(y, a, b, &f),
                        }
                    },
                );
            }
        },
    );
}

/// y = x, broadcast.
pub(super) fn expand(threads: &Threads, nest: &Nest<1>, examples: usize, y: &mut [f32], x: &[f32]) {
    let per_example = y.len() / examples;
    threads.each(
        examples,
        [y],
        &mut [],
        #[inline(always)]
        |Part { items, outputs: [y], .. }| {
            for (example, y) in items.zip(y.chunks_exact_mut(per_example)) {
                let x = &x[example * nest.example[0]..];
                nest.rows(
                    #[inline(always)]
                    |start, [from], len, [step]| match row(x, from, len, step) {
                        &[x] => y[start..][..len].fill(x),
                        x => y[start..][..len].copy_from_slice(x),
                    },
                );
            }
        },
    );
}

/// Adds an example of x to `sums`, which broadcast to it.
#[inline(always)]
fn accumulate(nest: &Nest<1>, sums: &mut [f32], x: &[f32]) {
    nest.rows(
        #[inline(always)]
        |start, [to], len, [step]| {
            let x = &x[start..][..len];
            if step == 0 {
                sums[to] += sum_of(x, |x| x);
            } else {
                for (sum, &x) in sums[to..][..len].iter_mut().zip(x) {
                    *sum += x;
                }
            }
        },
    );
}

/// y = factor * the sums of x; the nest goes over x's example, with y as its operand. `examples` are x's; `partials` has a y for each
/// thread where the batch vanishes.
pub(super) fn sum_to(threads: &Threads, nest: &Nest<1>, examples: usize, factor: f32, y: &mut [f32], x: &[f32], partials: &mut [f32]) {
    let per_example = x.len() / examples;
    if partials.is_empty() {
        let sums = y.len() / examples;
        threads.each(
            examples,
            [&mut *y],
            &mut [],
            #[inline(always)]
            |Part { items, outputs: [y], .. }| {
                y.fill(0.0);
                for (example, y) in items.zip(y.chunks_exact_mut(sums)) {
                    accumulate(nest, y, &x[example * per_example..][..per_example]);
                }
            },
        );
    } else {
        threads.each(
            examples,
            [],
            partials,
            #[inline(always)]
            |Part { items, partial, .. }| {
                partial.fill(0.0);
                for example in items {
                    accumulate(nest, partial, &x[example * per_example..][..per_example]);
                }
            },
        );
        sum_partials(partials, y);
    }
    if factor != 1.0 {
        y.iter_mut().for_each(|y| *y *= factor);
    }
}
