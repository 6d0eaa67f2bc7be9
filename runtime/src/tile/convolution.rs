//! Products with a sparse matrix whose structure is a stream of offsets: the tiles where training spends its time.
//!
//! A pixel tile is the outermost loop, units are the innermost: sums stay in registers while a row's units stream by. The bodies are
//! specialised by the rows that share a load, by the pixels of a tile, and for the common pixel step of 1; they sit behind
//! [`Lanes::vectorize`], so that a call with a constant shape keeps one of them.

mod backward;

pub use backward::{backward_sweep, weight_gradient};

use super::{ClearUnits, GatherGradient, GatherValues, Spmm};
use crate::lanes::Lanes;
use core::ops::Range;

/// The `part`-th of `parts` ranges of `count`.
#[inline(always)]
fn part_of(count: usize, part: usize, parts: usize) -> Range<usize> {
    part * count / parts..(part + 1) * count / parts
}

#[derive(Clone, Copy)]
struct SpmmCall {
    shape: Spmm,
    x: *const f32,
    y: *mut f32,
    starts: *const u32,
    offsets: *const u32,
    values: *const f32,
    bias: *const f32,
}

/// See [`Spmm`].
#[inline(always)]
pub unsafe fn spmm<L: Lanes>(
    shape: &Spmm,
    x: *const f32,
    y: *mut f32,
    starts: *const u32,
    offsets: *const u32,
    values: *const f32,
    bias: *const f32,
) {
    let call = SpmmCall { shape: *shape, x, y, starts, offsets, values, bias };
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        if shape.rows_per_block.is_multiple_of(4) {
            spmm_rows::<L, 4>(call);
        } else if shape.rows_per_block.is_multiple_of(2) {
            spmm_rows::<L, 2>(call);
        } else {
            spmm_rows::<L, 1>(call);
        }
    }
}

#[inline(always)]
unsafe fn spmm_rows<L: Lanes, const ROWS: usize>(call: SpmmCall) {
    // SAFETY: the tile's contract; the machine has the instruction set that the caller runs with.
    unsafe {
        if (call.shape.x_pixel, call.shape.columns_per_block) == (1, 1) {
            L::vectorize(
                #[inline(always)]
                || spmm_pixels::<L, ROWS, true>(call),
            )
        } else {
            L::vectorize(
                #[inline(always)]
                || spmm_pixels::<L, ROWS, false>(call),
            )
        }
    }
}

/// All pixels: tiles as large as the registers hold, then what is left in halves.
#[inline(always)]
unsafe fn spmm_pixels<L: Lanes, const ROWS: usize, const PLAIN: bool>(call: SpmmCall) {
    let fit = L::ACCUMULATORS / ROWS;
    let pixels = call.shape.pixels;
    let mut done = 0;
    // SAFETY: the tile's contract; `done` plus a tile's pixels is at most `pixels`.
    unsafe {
        if fit >= 8 {
            while pixels - done >= 8 {
                spmm_tile::<L, ROWS, PLAIN, 8>(&call, done);
                done += 8;
            }
        }
        if fit >= 4 {
            while pixels - done >= 4 {
                spmm_tile::<L, ROWS, PLAIN, 4>(&call, done);
                done += 4;
            }
        }
        if fit >= 2 {
            while pixels - done >= 2 {
                spmm_tile::<L, ROWS, PLAIN, 2>(&call, done);
                done += 2;
            }
        }
        while done < pixels {
            spmm_tile::<L, ROWS, PLAIN, 1>(&call, done);
            done += 1;
        }
    }
}

/// All block rows of `N` pixels from `pixel`, one block of channels after the other. `PLAIN`: pixels are neighbours and units have one column.
#[inline(always)]
unsafe fn spmm_tile<L: Lanes, const ROWS: usize, const PLAIN: bool, const N: usize>(call: &SpmmCall, pixel: usize) {
    let shape = call.shape;
    let (y_pixel, y_channel) = (shape.y_pixel * L::LANES, shape.y_channel * L::LANES);
    // SAFETY: the tile's contract.
    unsafe {
        let x = call.x.add(pixel * if PLAIN { 1 } else { shape.x_pixel } * L::LANES);
        for block in 0..shape.channel_blocks {
            let mut y = call.y.add(pixel * y_pixel);
            let mut bias = call.bias;
            for row in 0..shape.block_rows {
                let list = call.starts.add(row * shape.channel_blocks + block);
                let units = *list as usize..*list.add(1) as usize;
                for chunk in 0..shape.rows_per_block / ROWS {
                    let mut sums = [[L::zero(); N]; ROWS];
                    if block > 0 {
                        if units.is_empty() {
                            y = y.add(ROWS * y_channel);
                            continue;
                        }
                        for (r, sums) in sums.iter_mut().enumerate() {
                            for (p, sum) in sums.iter_mut().enumerate() {
                                *sum = L::load(y.add(r * y_channel + p * y_pixel));
                            }
                        }
                    } else if !bias.is_null() {
                        for sums in &mut sums {
                            *sums = [L::splat(*bias); N];
                            bias = bias.add(1);
                        }
                    }
                    add_units::<L, ROWS, PLAIN, N>(call, x, &units, chunk, &mut sums);
                    for sums in sums {
                        for (p, sum) in sums.into_iter().enumerate() {
                            L::store(y.add(p * y_pixel), sum);
                        }
                        y = y.add(y_channel);
                    }
                }
            }
        }
    }
}

/// Adds the products of `units` with the pixels from `x` on to the sums of rows `chunk` * `ROWS` and following of their block row.
#[inline(always)]
unsafe fn add_units<L: Lanes, const ROWS: usize, const PLAIN: bool, const N: usize>(
    call: &SpmmCall,
    x: *const f32,
    units: &Range<usize>,
    chunk: usize,
    sums: &mut [[L::V; N]; ROWS],
) {
    let shape = call.shape;
    let columns = if PLAIN { 1 } else { shape.columns_per_block };
    let unit_elements = shape.rows_per_block * columns;
    // SAFETY: the tile's contract.
    unsafe {
        let mut w = call.values.add(units.start * unit_elements + chunk * ROWS * columns);
        let mut offset = call.offsets.add(units.start);
        let mut left = units.len();
        // Four a turn where they are small: the turn's own instructions cost as much as a load.
        while ROWS == 1 && PLAIN && left >= 4 {
            for k in 0..4 {
                add_unit::<L, ROWS, PLAIN, N>(&shape, x.add(*offset.add(k) as usize * L::LANES), w.add(k * unit_elements), sums);
            }
            (offset, w, left) = (offset.add(4), w.add(4 * unit_elements), left - 4);
        }
        while left > 0 {
            add_unit::<L, ROWS, PLAIN, N>(&shape, x.add(*offset as usize * L::LANES), w, sums);
            (offset, w, left) = (offset.add(1), w.add(unit_elements), left - 1);
        }
    }
}

/// Adds the products of one unit.
#[inline(always)]
unsafe fn add_unit<L: Lanes, const ROWS: usize, const PLAIN: bool, const N: usize>(
    shape: &Spmm,
    mut x: *const f32,
    w: *const f32,
    sums: &mut [[L::V; N]; ROWS],
) {
    let x_pixel = if PLAIN { L::LANES } else { shape.x_pixel * L::LANES };
    let columns = if PLAIN { 1 } else { shape.columns_per_block };
    // SAFETY: the tile's contract.
    unsafe {
        for c in 0..columns {
            let mut weights = [L::zero(); ROWS];
            for (r, weight) in weights.iter_mut().enumerate() {
                *weight = L::splat(*w.add(r * columns + c));
            }
            for p in 0..N {
                let v = L::load(x.add(p * x_pixel));
                for (sums, &weight) in sums.iter_mut().zip(&weights) {
                    sums[p] = L::fma(weight, v, sums[p]);
                }
            }
            x = x.add(shape.x_channel * L::LANES);
        }
    }
}

/// See [`ClearUnits`].
#[inline(always)]
pub unsafe fn clear_units<L: Lanes>(shape: &ClearUnits, starts: *const u32, dw: *mut f32) {
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let first = *starts as usize * shape.unit_elements;
        let end = *starts.add(shape.block_columns) as usize * shape.unit_elements;
        core::ptr::write_bytes(dw.add(first), 0, end - first);
    }
}

/// See [`GatherGradient`].
#[inline(always)]
pub unsafe fn gather_gradient<L: Lanes>(
    shape: &GatherGradient,
    part: usize,
    partials_in: *const f32,
    source: *const u32,
    count: *const u32,
    gradient: *mut f32,
) {
    let &GatherGradient { partials, partial_stride_elements, unit_elements, parts } = shape;
    // SAFETY: the tile's contract (see the parent module); no element past the range is touched.
    unsafe {
        let units = part_of(*count as usize, part, parts);
        let end = units.end * unit_elements;
        let mut next = units.start * unit_elements;
        let (mut unit, mut element) = (units.start, 0);
        while next < end {
            let lanes = (end - next).min(L::LANES);
            let mut sum = L::zero();
            for p in 0..partials {
                let from = partials_in.add(p * partial_stride_elements + next);
                sum = L::add(sum, if lanes == L::LANES { L::load_unaligned(from) } else { L::load_partial(from, lanes) });
            }
            let sums = L::to_buffer(sum);
            for &sum in &sums.0[..lanes] {
                *gradient.add(*source.add(unit) as usize * unit_elements + element) = sum;
                element += 1;
                if element == unit_elements {
                    (unit, element) = (unit + 1, 0);
                }
            }
            next += lanes;
        }
    }
}

/// See [`GatherValues`].
#[inline(always)]
pub unsafe fn gather_values<L: Lanes>(
    shape: &GatherValues,
    part: usize,
    values: *const f32,
    source: *const u32,
    count: *const u32,
    stream: *mut f32,
) {
    let &GatherValues { unit_elements, parts } = shape;
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        for unit in part_of(*count as usize, part, parts) {
            let from = values.add(*source.add(unit) as usize * unit_elements);
            let to = stream.add(unit * unit_elements);
            for e in 0..unit_elements {
                *to.add(e) = *from.add(e);
            }
        }
    }
}
