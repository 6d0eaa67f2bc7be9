//! The backward sweep: input and weight gradient from one pass over the output's gradient.
//!
//! Per input channel the tile of X and the sums of dX live in registers; every (unit, row) loads its dY once for two multiply-adds. The
//! partial weight gradients of four of them are summed over lanes together.

use crate::lanes::Lanes;
use crate::tile::{BackwardSweep, WeightGradient};

#[derive(Clone, Copy)]
struct Sweep {
    shape: BackwardSweep,
    x: *const f32,
    /// Null where X is `x` itself, as is `shift`.
    factor: *const f32,
    shift: *const f32,
    /// Null where only the weight gradient is wanted, as are `values`.
    dx: *mut f32,
    dy: *const f32,
    starts: *const u32,
    offsets: *const u32,
    values: *const f32,
    dw: *mut f32,
}

/// See [`BackwardSweep`].
#[inline(always)]
pub unsafe fn backward_sweep<L: Lanes>(
    shape: &BackwardSweep,
    x: *const f32,
    factor: *const f32,
    shift: *const f32,
    dx: *mut f32,
    dy: *const f32,
    starts: *const u32,
    offsets: *const u32,
    values: *const f32,
    dw: *mut f32,
) {
    // SAFETY: the tile's contract (see the grandparent module).
    unsafe { sweep::<L, true>(Sweep { shape: *shape, x, factor, shift, dx, dy, starts, offsets, values, dw }) }
}

/// See [`WeightGradient`].
#[inline(always)]
pub unsafe fn weight_gradient<L: Lanes>(
    shape: &WeightGradient,
    x: *const f32,
    factor: *const f32,
    shift: *const f32,
    dy: *const f32,
    starts: *const u32,
    offsets: *const u32,
    dw: *mut f32,
) {
    let &WeightGradient { block_columns, rows_per_block, columns_per_block, pixels, x_pixel, x_channel, dy_pixel, dy_channel } = shape;
    let shape = BackwardSweep { block_columns, rows_per_block, columns_per_block, pixels, x_pixel, x_channel, dy_pixel, dy_channel };
    let (dx, values) = (core::ptr::null_mut(), core::ptr::null());
    // SAFETY: the tile's contract; without dX neither `dx` nor `values` is touched.
    unsafe { sweep::<L, false>(Sweep { shape, x, factor, shift, dx, dy, starts, offsets, values, dw }) }
}

#[inline(always)]
unsafe fn sweep<L: Lanes, const DX: bool>(call: Sweep) {
    // SAFETY: the tile's contract.
    unsafe {
        let BackwardSweep { dy_pixel, rows_per_block: rows, columns_per_block: columns, .. } = call.shape;
        match (dy_pixel, rows, columns) {
            (1, 1, 1) => sweep_units::<L, DX, 1, true>(call),
            (1, 2, 1) => sweep_units::<L, DX, 2, true>(call),
            (1, _, 1) if rows.is_multiple_of(4) => sweep_units::<L, DX, 4, true>(call),
            (1, 1, _) => sweep_units::<L, DX, 1, false>(call),
            (1, 2, _) => sweep_units::<L, DX, 2, false>(call),
            (1, _, _) if rows.is_multiple_of(4) => sweep_units::<L, DX, 4, false>(call),
            // No layer that is lowered today gets here.
            _ => sweep_units::<L, DX, 0, false>(call),
        }
    }
}

/// `ROWS`: rows of a unit, a multiple of 4 being 4, where the gradient's pixels are neighbours; 0 for anything else.
/// `SINGLE`: units have one column. Both are constants because a branch between a tile's multiply-adds makes LLVM move those of dX
/// behind it, and every dY loaded meanwhile is spilled.
#[inline(always)]
unsafe fn sweep_units<L: Lanes, const DX: bool, const ROWS: usize, const SINGLE: bool>(call: Sweep) {
    // SAFETY: the tile's contract; the machine has the instruction set that the caller runs with.
    unsafe {
        L::vectorize(
            #[inline(always)]
            || sweep_pixels::<L, DX, ROWS, SINGLE>(call),
        )
    }
}

/// All pixels: tiles as large as the registers hold, then what is left in halves. Without dX twice as many fit.
#[inline(always)]
unsafe fn sweep_pixels<L: Lanes, const DX: bool, const ROWS: usize, const SINGLE: bool>(call: Sweep) {
    let fit = if DX { L::BACKWARD_PIXELS } else { 2 * L::BACKWARD_PIXELS };
    let pixels = call.shape.pixels;
    let mut done = 0;
    // SAFETY: the tile's contract; `done` plus a tile's pixels is at most `pixels`.
    unsafe {
        if fit >= 8 {
            while pixels - done >= 8 {
                sweep_tile::<L, DX, ROWS, SINGLE, 8>(&call, done);
                done += 8;
            }
        }
        if fit >= 4 {
            while pixels - done >= 4 {
                sweep_tile::<L, DX, ROWS, SINGLE, 4>(&call, done);
                done += 4;
            }
        }
        while pixels - done >= 2 {
            sweep_tile::<L, DX, ROWS, SINGLE, 2>(&call, done);
            done += 2;
        }
        if done < pixels {
            sweep_tile::<L, DX, ROWS, SINGLE, 1>(&call, done);
        }
    }
}

/// All channels of `N` pixels from `pixel`.
#[inline(always)]
unsafe fn sweep_tile<L: Lanes, const DX: bool, const ROWS: usize, const SINGLE: bool, const N: usize>(call: &Sweep, pixel: usize) {
    let shape = &call.shape;
    let dy_pixel = if ROWS > 0 { L::LANES } else { shape.dy_pixel * L::LANES };
    let (x_pixel, x_channel) = (shape.x_pixel * L::LANES, shape.x_channel * L::LANES);
    // SAFETY: the tile's contract.
    unsafe {
        let dy = call.dy.add(pixel * dy_pixel);
        let mut place = pixel * x_pixel;
        let mut first = *call.starts as usize;
        for block in 0..shape.block_columns {
            let end = *call.starts.add(block + 1) as usize;
            for column in 0..if SINGLE { 1 } else { shape.columns_per_block } {
                let mut channel: Channel<L, N> = Channel { x: [L::zero(); N], dx: [L::zero(); N], dy_pixel };
                for p in 0..N {
                    channel.x[p] = L::load(call.x.add(place + p * x_pixel));
                }
                if !call.factor.is_null() {
                    let index = block * if SINGLE { 1 } else { shape.columns_per_block } + column;
                    let (factor, shift) = (L::splat(*call.factor.add(index)), L::splat(*call.shift.add(index)));
                    for x in &mut channel.x {
                        let normalized = L::fma(*x, factor, shift);
                        *x = L::select_less(normalized, L::zero(), L::zero(), normalized);
                    }
                }
                channel.stream::<DX, ROWS, SINGLE>(call, dy, first, end, column);
                if DX {
                    for p in 0..N {
                        L::store(call.dx.add(place + p * x_pixel), channel.dx[p]);
                    }
                }
                place += x_channel;
            }
            first = end;
        }
    }
}

/// What of one input channel lives in registers.
struct Channel<L: Lanes, const N: usize> {
    x: [L::V; N],
    dx: [L::V; N],
    dy_pixel: usize,
}

impl<L: Lanes, const N: usize> Channel<L, N> {
    /// Units `first..end` of the channel's block, of which it is the `column`-th.
    #[inline(always)]
    unsafe fn stream<const DX: bool, const ROWS: usize, const SINGLE: bool>(
        &mut self,
        call: &Sweep,
        dy: *const f32,
        first: usize,
        end: usize,
        column: usize,
    ) {
        let rows = if ROWS == 1 || ROWS == 2 { ROWS } else { call.shape.rows_per_block };
        let columns = if SINGLE { 1 } else { call.shape.columns_per_block };
        let dy_channel = call.shape.dy_channel * L::LANES;
        let mut unit = first;
        // SAFETY: the tile's contract.
        unsafe {
            if ROWS == 1 || ROWS == 2 {
                while unit + 4 / ROWS <= end {
                    self.units::<DX, ROWS, SINGLE, 4>(call, dy, unit, column);
                    unit += 4 / ROWS;
                }
                match (end - unit) * ROWS {
                    1 => self.units::<DX, ROWS, SINGLE, 1>(call, dy, unit, column),
                    2 => self.units::<DX, ROWS, SINGLE, 2>(call, dy, unit, column),
                    3 => self.units::<DX, ROWS, SINGLE, 3>(call, dy, unit, column),
                    _ => {}
                }
                return;
            }
            while unit < end {
                let mut from = dy.add(*call.offsets.add(unit) as usize * L::LANES);
                let mut element = unit * rows * columns + column;
                if ROWS == 4 {
                    for _ in 0..rows / 4 {
                        let next = from.add(2 * dy_channel);
                        self.weights::<DX, SINGLE, 4>(call, [from, from.add(dy_channel), next, next.add(dy_channel)], element);
                        from = next.add(2 * dy_channel);
                        element += 4 * columns;
                    }
                } else {
                    for _ in 0..rows {
                        self.weights::<DX, SINGLE, 1>(call, [from; 4], element);
                        from = from.add(dy_channel);
                        element += columns;
                    }
                }
                unit += 1;
            }
        }
    }

    /// `COUNT` rows of units, each `ROWS` high, from `unit` on.
    #[inline(always)]
    unsafe fn units<const DX: bool, const ROWS: usize, const SINGLE: bool, const COUNT: usize>(
        &mut self,
        call: &Sweep,
        dy: *const f32,
        unit: usize,
        column: usize,
    ) {
        let columns = if SINGLE { 1 } else { call.shape.columns_per_block };
        let dy_channel = call.shape.dy_channel * L::LANES;
        let mut from = [dy; 4];
        // SAFETY: the tile's contract.
        unsafe {
            for (i, from) in from.iter_mut().enumerate().take(COUNT) {
                *from = dy.add(*call.offsets.add(unit + i / ROWS) as usize * L::LANES + (i % ROWS) * dy_channel);
            }
            self.weights::<DX, SINGLE, COUNT>(call, from, unit * ROWS * columns + column);
        }
    }

    /// `COUNT` weights, at most four, from `element` on, a unit's row apart; their gradients are summed over lanes together.
    #[inline(always)]
    unsafe fn weights<const DX: bool, const SINGLE: bool, const COUNT: usize>(
        &mut self,
        call: &Sweep,
        from: [*const f32; 4],
        element: usize,
    ) {
        let columns = if SINGLE { 1 } else { call.shape.columns_per_block };
        // SAFETY: the tile's contract.
        unsafe {
            let first = self.item::<DX>(call, from[0], element);
            let mut parts = [first; 4];
            for (i, part) in parts.iter_mut().enumerate().take(COUNT).skip(1) {
                *part = self.item::<DX>(call, from[i], element + i * columns);
            }
            if SINGLE && COUNT == 4 {
                L::add_sums(call.dw.add(element), parts);
            } else {
                for (i, sum) in L::sums(parts).into_iter().enumerate().take(COUNT) {
                    *call.dw.add(element + i * columns) += sum;
                }
            }
        }
    }

    /// One weight: its product with dY joins dX; its gradient over the tile's pixels is returned, lanes not yet summed.
    #[inline(always)]
    unsafe fn item<const DX: bool>(&mut self, call: &Sweep, from: *const f32, element: usize) -> L::Folded {
        // SAFETY: the tile's contract.
        unsafe {
            let weight = if DX { L::splat(*call.values.add(element)) } else { L::zero() };
            let (mut even, mut odd) = (L::zero(), L::zero());
            for p in 0..N {
                let dy = L::load(from.add(p * self.dy_pixel));
                if DX {
                    self.dx[p] = L::fma(weight, dy, self.dx[p]);
                }
                match p {
                    0 => even = L::mul(self.x[0], dy),
                    1 if N >= 4 => odd = L::mul(self.x[1], dy),
                    // Two chains halve the latency where a tile is long enough.
                    p if N >= 4 && p % 2 == 1 => odd = L::fma(self.x[p], dy, odd),
                    p => even = L::fma(self.x[p], dy, even),
                }
            }
            L::fold(if N >= 4 { L::add(even, odd) } else { even })
        }
    }
}
