//! The backward sweep: input and weight gradient from one pass over the output's gradient.
//!
//! One input channel after the other, and of it one tile of pixels: its X and the sums of dX live in registers; every (unit, row) loads its dY
//! once for two multiply-adds. What a tile adds to a weight's gradient stays a vector, in a buffer beside those of other weights, until the
//! channel's tiles are through: sums over lanes between the multiply-adds cost a third of them (benches/NOTES.md).

use super::part_of;
use crate::lanes::{Lanes, prefetch};
use crate::tile::{BackwardSweep, WeightGradient};
use core::mem::MaybeUninit;
use core::ops::Range;

/// Tiles of pixels that share the sums over lanes.
const TILES: usize = 16;

/// Pixels in so many of the largest tiles of any instruction set.
const MOST_PIXELS: usize = TILES * 16;

/// Weights whose gradients are in the buffer at once: a fraction of the first-level cache, yet most channels' lists.
const CHUNK: usize = 256;

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
    let BackwardSweep { dy_pixel, rows_per_block, columns_per_block, .. } = call.shape;
    // SAFETY: the tile's contract.
    unsafe {
        match (dy_pixel, rows_per_block, columns_per_block) {
            (1, 1, 1) => sweep_channels::<L, DX, true, 1>(call),
            (1, 4, 1) => sweep_channels::<L, DX, true, 4>(call),
            (1, _, _) => sweep_channels::<L, DX, true, 0>(call),
            (_, 1, 1) => sweep_channels::<L, DX, false, 1>(call),
            (_, _, _) => sweep_channels::<L, DX, false, 0>(call),
        }
    }
}

/// All input channels. `PLAIN`: the gradient's pixels are neighbours. `ROWS`: of a unit that has one column; 0 for any unit.
#[inline(always)]
unsafe fn sweep_channels<L: Lanes, const DX: bool, const PLAIN: bool, const ROWS: usize>(call: Sweep) {
    // SAFETY: the tile's contract; the machine has the instruction set that the caller runs with.
    unsafe {
        L::vectorize(
            #[inline(always)]
            || {
                let columns = if ROWS > 0 { 1 } else { call.shape.columns_per_block };
                let mut units = 0..*call.starts as usize;
                let mut buffers = Buffers { x: [MaybeUninit::uninit(); MOST_PIXELS], partial: [L::fold(L::zero()); CHUNK] };
                for index in 0..call.shape.block_columns * columns {
                    if index % columns == 0 {
                        units = units.end..*call.starts.add(index / columns + 1) as usize;
                    }
                    Channel::<L> { call: &call, index, buffers: &mut buffers }.sweep::<DX, PLAIN, ROWS>(&units);
                }
            },
        )
    }
}

/// What is kept of a channel while it meets its units.
struct Buffers<L: Lanes> {
    /// X of the pixels at work. A copy: dX may take its place in memory before all units have seen it.
    x: [MaybeUninit<L::V>; MOST_PIXELS],
    /// Gradients of the weights at work, lanes not yet summed; zero in between.
    partial: [L::Folded; CHUNK],
}

/// An input channel on its way through its units.
struct Channel<'a, L: Lanes> {
    call: &'a Sweep,
    index: usize,
    buffers: &'a mut Buffers<L>,
}

impl<L: Lanes> Channel<'_, L> {
    /// Rows of a unit.
    #[inline(always)]
    fn rows<const ROWS: usize>(&self) -> usize {
        if ROWS > 0 { ROWS } else { self.call.shape.rows_per_block }
    }

    /// Columns of a unit.
    #[inline(always)]
    fn columns<const ROWS: usize>(&self) -> usize {
        if ROWS > 0 { 1 } else { self.call.shape.columns_per_block }
    }

    /// The channel's units, a chunk at a time, for as many pixels at a time as share sums over lanes.
    #[inline(always)]
    unsafe fn sweep<const DX: bool, const PLAIN: bool, const ROWS: usize>(&mut self, units: &Range<usize>) {
        let shape = &self.call.shape;
        if units.is_empty() {
            // A class of a strided convolution that no kernel position meets, most often.
            if DX {
                // SAFETY: the tile's contract.
                unsafe { self.clear_dx() };
            }
            return;
        }
        let most = TILES * if DX { L::BACKWARD_PIXELS } else { 2 * L::BACKWARD_PIXELS };
        let chunks = units.len().div_ceil((CHUNK / self.rows::<ROWS>()).max(1));
        let mut done = 0;
        while done < shape.pixels {
            let pixels = done..shape.pixels.min(done + most);
            // SAFETY: the tile's contract; `most` pixels are at most `MOST_PIXELS`, and a chunk has at most `CHUNK` weights.
            unsafe {
                self.read_x(&pixels);
                self.prefetch_x(&pixels);
                for chunk in 0..chunks {
                    let part = part_of(units.len(), chunk, chunks);
                    let part = units.start + part.start..units.start + part.end;
                    self.sweep_pixels::<DX, PLAIN, ROWS>(&part, &pixels, chunk == 0);
                    self.add_sums::<ROWS>(&part);
                }
            }
            done = pixels.end;
        }
    }

    /// dX of a channel without units.
    #[inline(always)]
    unsafe fn clear_dx(&self) {
        let (call, shape) = (self.call, &self.call.shape);
        // SAFETY: the tile's contract.
        unsafe {
            let dx = call.dx.add(self.index * shape.x_channel * L::LANES);
            for pixel in 0..shape.pixels {
                L::store(dx.add(pixel * shape.x_pixel * L::LANES), L::zero());
            }
        }
    }

    /// Keeps X of `pixels`.
    #[inline(always)]
    unsafe fn read_x(&mut self, pixels: &Range<usize>) {
        let (call, shape) = (self.call, &self.call.shape);
        // SAFETY: the tile's contract.
        unsafe {
            let mut from = call.x.add((self.index * shape.x_channel + pixels.start * shape.x_pixel) * L::LANES);
            for x in &mut self.buffers.x[..pixels.len()] {
                x.write(L::load(from));
                from = from.wrapping_add(shape.x_pixel * L::LANES);
            }
            if call.factor.is_null() {
                return;
            }
            let (factor, shift) = (L::splat(*call.factor.add(self.index)), L::splat(*call.shift.add(self.index)));
            for x in &mut self.buffers.x[..pixels.len()] {
                let normalized = L::fma(x.assume_init(), factor, shift);
                x.write(L::select_less(normalized, L::zero(), L::zero(), normalized));
            }
        }
    }

    /// Asks for X of `pixels` of the next channel, which takes as long to come from memory as many units take.
    #[inline(always)]
    unsafe fn prefetch_x(&self, pixels: &Range<usize>) {
        let shape = &self.call.shape;
        let next = ((self.index + 1) * shape.x_channel + pixels.start * shape.x_pixel) * L::LANES;
        for pixel in 0..pixels.len() {
            prefetch(self.call.x.wrapping_add(next + pixel * shape.x_pixel * L::LANES));
        }
    }

    /// All of `pixels`: tiles as large as the registers hold, then what is left in halves. Without dX twice as many fit.
    #[inline(always)]
    unsafe fn sweep_pixels<const DX: bool, const PLAIN: bool, const ROWS: usize>(
        &mut self,
        units: &Range<usize>,
        pixels: &Range<usize>,
        first: bool,
    ) {
        let fit = if DX { L::BACKWARD_PIXELS } else { 2 * L::BACKWARD_PIXELS };
        let mut left = pixels.clone();
        // SAFETY: the tile's contract; a tile's pixels are among those left.
        unsafe {
            if fit >= 8 {
                while left.len() >= 8 {
                    self.tile::<DX, PLAIN, ROWS, 8>(units, left.start, pixels.start, first);
                    left.start += 8;
                }
            }
            if fit >= 4 {
                while left.len() >= 4 {
                    self.tile::<DX, PLAIN, ROWS, 4>(units, left.start, pixels.start, first);
                    left.start += 4;
                }
            }
            while left.len() >= 2 {
                self.tile::<DX, PLAIN, ROWS, 2>(units, left.start, pixels.start, first);
                left.start += 2;
            }
            if !left.is_empty() {
                self.tile::<DX, PLAIN, ROWS, 1>(units, left.start, pixels.start, first);
            }
        }
    }

    /// `N` pixels from `pixel` on. `kept`: the first one whose X is kept. `first`: no other units have contributed to dX.
    #[inline(always)]
    unsafe fn tile<const DX: bool, const PLAIN: bool, const ROWS: usize, const N: usize>(
        &mut self,
        units: &Range<usize>,
        pixel: usize,
        kept: usize,
        first: bool,
    ) {
        let (call, shape) = (self.call, &self.call.shape);
        let (rows, columns) = (self.rows::<ROWS>(), self.columns::<ROWS>());
        let x_pixel = shape.x_pixel * L::LANES;
        let (dy_pixel, dy_channel) = (if PLAIN { 1 } else { shape.dy_pixel } * L::LANES, shape.dy_channel * L::LANES);
        // SAFETY: the tile's contract; `read_x` has written X of these pixels.
        unsafe {
            let mut tile = PixelTile::<L, N> { x: [L::zero(); N], dx: [L::zero(); N] };
            for (p, x) in tile.x.iter_mut().enumerate() {
                *x = self.buffers.x[pixel - kept + p].assume_init();
            }
            let to = call.dx.wrapping_add((self.index * shape.x_channel + pixel * shape.x_pixel) * L::LANES);
            if DX && !first {
                for (p, dx) in tile.dx.iter_mut().enumerate() {
                    *dx = L::load(to.add(p * x_pixel));
                }
            }
            let dy = call.dy.add(pixel * dy_pixel);
            let element = units.start * rows * columns + self.index % columns;
            let mut stream = StreamPosition {
                offset: call.offsets.add(units.start),
                value: call.values.wrapping_add(element),
                partial: self.buffers.partial.as_mut_ptr(),
            };
            let mut left = units.len();
            // Two a turn where they are small: the turn's own instructions cost as much as a load.
            while ROWS == 1 && left >= 2 {
                stream = tile.unit::<DX>(stream, dy, [dy_pixel, dy_channel], [rows, columns]);
                stream = tile.unit::<DX>(stream, dy, [dy_pixel, dy_channel], [rows, columns]);
                left -= 2;
            }
            while left > 0 {
                stream = tile.unit::<DX>(stream, dy, [dy_pixel, dy_channel], [rows, columns]);
                left -= 1;
            }
            if DX {
                for (p, dx) in tile.dx.into_iter().enumerate() {
                    L::store(to.add(p * x_pixel), dx);
                }
            }
        }
    }

    /// Adds the gradients of `units`, summed over lanes, to dW, and zeros them.
    #[inline(always)]
    unsafe fn add_sums<const ROWS: usize>(&mut self, units: &Range<usize>) {
        let (rows, columns) = (self.rows::<ROWS>(), self.columns::<ROWS>());
        let mut to = self.call.dw.wrapping_add(units.start * rows * columns + self.index % columns);
        let count = units.len() * rows;
        // SAFETY: the tile's contract.
        unsafe {
            let zero = L::fold(L::zero());
            let mut fours = self.buffers.partial[..count].chunks_exact_mut(4);
            for four in &mut fours {
                let parts = [four[0], four[1], four[2], four[3]];
                four.fill(zero);
                if columns == 1 {
                    L::add_sums(to, parts);
                } else {
                    for (k, sum) in L::sums(parts).into_iter().enumerate() {
                        *to.add(k * columns) += sum;
                    }
                }
                to = to.wrapping_add(4 * columns);
            }
            for part in fours.into_remainder() {
                *to += L::sums([*part; 4])[0];
                *part = zero;
                to = to.wrapping_add(columns);
            }
        }
    }
}

/// Where a tile is in its channel's stream.
struct StreamPosition<F> {
    offset: *const u32,
    /// Null where only the weight gradient is wanted.
    value: *const f32,
    partial: *mut F,
}

/// What of a tile lives in registers.
struct PixelTile<L: Lanes, const N: usize> {
    x: [L::V; N],
    dx: [L::V; N],
}

impl<L: Lanes, const N: usize> PixelTile<L, N> {
    /// One weight: its product with dY joins dX; its gradient over the tile's pixels, lanes not yet summed, joins `partial`.
    #[inline(always)]
    unsafe fn products<const DX: bool>(&mut self, dy: *const f32, dy_pixel: usize, weight: L::V, partial: &mut L::Folded) {
        // SAFETY: the tile's contract.
        unsafe {
            let (mut even, mut odd) = (L::unfold(*partial), L::zero());
            for p in 0..N {
                let dy = L::load(dy.add(p * dy_pixel));
                if DX {
                    self.dx[p] = L::fma(weight, dy, self.dx[p]);
                }
                match p {
                    1 if N >= 4 => odd = L::mul(self.x[1], dy),
                    // Two chains halve the latency where a tile is long enough.
                    p if N >= 4 && p % 2 == 1 => odd = L::fma(self.x[p], dy, odd),
                    p => even = L::fma(self.x[p], dy, even),
                }
            }
            *partial = L::fold(if N >= 4 { L::add(even, odd) } else { even });
        }
    }

    /// One unit of `rows` x `columns` weights, of which the tile's channel meets one column.
    #[inline(always)]
    unsafe fn unit<const DX: bool>(
        &mut self,
        at: StreamPosition<L::Folded>,
        dy: *const f32,
        [dy_pixel, dy_channel]: [usize; 2],
        [rows, columns]: [usize; 2],
    ) -> StreamPosition<L::Folded> {
        let StreamPosition { offset, mut value, mut partial } = at;
        // SAFETY: the tile's contract.
        unsafe {
            let mut from = dy.add(*offset as usize * L::LANES);
            for _ in 0..rows {
                let weight = if DX { L::splat(*value) } else { L::zero() };
                self.products::<DX>(from, dy_pixel, weight, &mut *partial);
                partial = partial.add(1);
                from = from.wrapping_add(dy_channel);
                value = value.wrapping_add(columns);
            }
            StreamPosition { offset: offset.add(1), value, partial }
        }
    }
}
