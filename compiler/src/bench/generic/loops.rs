//! Loops over contiguous rows that LLVM vectorises, and their distribution over threads.
//!
//! Everything is `#[inline(always)]`: [`Threads::each`] calls it in a function that enables the instruction set.

use mest_runtime::lanes::Isa;
use mest_runtime::team::{Team, Worker};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Partial sums of a long sum: they fill vectors and hide the latency of additions.
const SUMS: usize = 32;

/// y += a x
#[inline(always)]
pub(super) fn add_scaled(fused: bool, y: &mut [f32], a: f32, x: &[f32]) {
    // A loop for each: LLVM vectorises neither where the choice is inside.
    if fused {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = a.mul_add(x, *y));
    } else {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y += a * x);
    }
}

/// The sum of the products of `a` and `b`.
#[inline(always)]
pub(super) fn dot(fused: bool, a: &[f32], b: &[f32]) -> f32 {
    if fused {
        sum_of_pairs(
            a,
            b,
            #[inline(always)]
            |a, b, sum| a.mul_add(b, sum),
        )
    } else {
        sum_of_pairs(
            a,
            b,
            #[inline(always)]
            |a, b, sum| a * b + sum,
        )
    }
}

/// A sum over pairs of elements of `a` and `b`, to which `f(a, b, sum)` adds one.
#[inline(always)]
pub(super) fn sum_of_pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut sums = [0.0; SUMS];
    let ((wide_a, a), (wide_b, b)) = (a.as_chunks::<SUMS>(), b.as_chunks::<SUMS>());
    for (a, b) in wide_a.iter().zip(wide_b) {
        for i in 0..SUMS {
            sums[i] = f(a[i], b[i], sums[i]);
        }
    }
    let rest = a.iter().zip(b).fold(0.0, |sum, (&a, &b)| f(a, b, sum));
    rest + sums.iter().sum::<f32>()
}

/// The sum of `f` over `x`.
#[inline(always)]
pub(super) fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; SUMS];
    let (wide, rest) = x.as_chunks::<SUMS>();
    for x in wide {
        for i in 0..SUMS {
            sums[i] += f(x[i]);
        }
    }
    rest.iter().fold(0.0, |sum, &x| sum + f(x)) + sums.iter().sum::<f32>()
}

/// y = f(x)
#[inline(always)]
pub(super) fn map(y: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = f(x);
    }
}

/// y = f(a, b)
#[inline(always)]
pub(super) fn zip(y: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
    for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
        *y = f(a, b);
    }
}

/// A worker's share of a loop.
pub(super) struct Part<'o, const K: usize> {
    /// Which items.
    pub(super) items: Range<usize>,
    /// The items' elements of each output.
    pub(super) outputs: [&'o mut [f32]; K],
    /// The worker's own partial results.
    pub(super) partial: &'o mut [f32],
    /// Memory that the worker keeps from loop to loop.
    pub(super) scratch: &'o mut Vec<f32>,
}

/// A team of threads, and the instruction set that it computes with.
#[derive(Debug)]
pub(super) struct Threads {
    team: Team,
    isa: Isa,
    scratch: Vec<Mutex<Vec<f32>>>,
}

impl Threads {
    /// `count` threads that compute with `isa`, which the machine must have.
    pub(super) fn new(isa: Isa, count: usize) -> Self {
        let team = Team::new(count);
        let scratch = (0..team.count()).map(|_| Mutex::default()).collect();
        Threads { team, isa, scratch }
    }

    /// Number of threads.
    pub(super) fn count(&self) -> usize {
        self.scratch.len()
    }

    /// Whether a multiply and an add are one instruction.
    pub(super) fn fused(&self) -> bool {
        self.isa.is_fused()
    }

    /// Splits `0..items` over the threads; each gets its items' share of every output, an equal number of elements an item, and its share
    /// of `partials`, an equal number of elements a thread.
    #[inline(always)]
    pub(super) fn each<const K: usize>(
        &self,
        items: usize,
        mut outputs: [&mut [f32]; K],
        mut partials: &mut [f32],
        f: impl Fn(Part<'_, K>) + Sync,
    ) {
        let count = self.count();
        let per_item = outputs.each_ref().map(|output| output.len() / items);
        let per_thread = partials.len() / count;
        let mut first = 0;
        let mut shares = Vec::with_capacity(count);
        for index in 0..count {
            let range = first..first + items / count + usize::from(index < items % count);
            first = range.end;
            let own = std::array::from_fn::<_, K, _>(|k| take(&mut outputs[k], range.len() * per_item[k]));
            shares.push(Mutex::new(Some((range, own, take(&mut partials, per_thread)))));
        }
        self.team.run(&|worker: &Worker| {
            let share = lock(&shares[worker.index]).take();
            let Some((items, outputs, partial)) = share else { return };
            let scratch = &mut *lock(&self.scratch[worker.index]);
            self.isa.vectorize(
                #[inline(always)]
                || f(Part { items, outputs, partial, scratch }),
            );
        });
    }
}

/// The first `len` elements of what is left.
fn take<'o>(rest: &mut &'o mut [f32], len: usize) -> &'o mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds the shares of all threads up, in their order.
pub(super) fn sum_partials(partials: &[f32], total: &mut [f32]) {
    total.fill(0.0);
    for partial in partials.chunks_exact(total.len().max(1)) {
        for (total, &partial) in total.iter_mut().zip(partial) {
            *total += partial;
        }
    }
}
