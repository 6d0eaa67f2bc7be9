//! Pooling over windows clipped at the border.

use super::{AveragePool, AveragePoolBackward, MaxPool, MaxPoolBackward};
use crate::lanes::Lanes;
use core::ops::Range;

/// The window along one axis.
#[derive(Clone, Copy)]
struct Axis {
    extent: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    before: usize,
    after: usize,
}

impl Axis {
    /// Which of the window's elements lie inside of `0..self.extent + more`, for the output's position `o`, as kernel positions.
    #[inline(always)]
    fn inside(self, o: usize, padding: bool) -> Range<usize> {
        let start = (o * self.stride) as isize - self.before as isize;
        let (low, high) = if padding { (-(self.before as isize), (self.extent + self.after) as isize) } else { (0, self.extent as isize) };
        let dilation = self.dilation as isize;
        let first = if start >= low { 0 } else { (low - start + dilation - 1) / dilation };
        let end = if high > start { (high - start + dilation - 1) / dilation } else { 0 };
        let end = end.min(self.kernel as isize);
        first as usize..end.max(first) as usize
    }

    /// The input's position of kernel position `k`, which is inside.
    #[inline(always)]
    fn at(self, o: usize, k: usize) -> usize {
        o * self.stride + k * self.dilation - self.before
    }
}

/// Geometry that the four tiles share.
#[derive(Clone, Copy)]
struct Windows {
    rows: Axis,
    width: Axis,
    channels: usize,
    plane_channels: usize,
    out_rows: usize,
    out_width: usize,
}

/// The fields that max pooling's shapes have in common with average pooling's; `$bottom` and `$right` are what they have not.
macro_rules! windows {
    ($shape:expr, $bottom:expr, $right:expr) => {{
        let s = $shape;
        Windows {
            rows: Axis {
                extent: s.rows,
                kernel: s.kernel_rows,
                stride: s.stride_rows,
                dilation: s.dilation_rows,
                before: s.top,
                after: $bottom,
            },
            width: Axis {
                extent: s.width,
                kernel: s.kernel_width,
                stride: s.stride_width,
                dilation: s.dilation_width,
                before: s.left,
                after: $right,
            },
            channels: s.channels,
            plane_channels: s.plane_channels,
            out_rows: s.out_rows,
            out_width: s.out_width,
        }
    }};
}

impl Windows {
    /// Calls `body` with every output's position: (row, channel, column).
    #[inline(always)]
    fn each(self, mut body: impl FnMut(usize, usize, usize)) {
        for oy in 0..self.out_rows {
            for c in 0..self.channels {
                for ox in 0..self.out_width {
                    body(oy, c, ox);
                }
            }
        }
    }

    /// Element offset of an output.
    #[inline(always)]
    fn output<L: Lanes>(self, oy: usize, c: usize, ox: usize) -> usize {
        ((oy * self.plane_channels + c) * self.out_width + ox) * L::LANES
    }

    /// Calls `body` with the element offset of each input of a window, in row-major order, and its number among them.
    #[inline(always)]
    fn window<L: Lanes>(self, oy: usize, c: usize, ox: usize, mut body: impl FnMut(usize, usize)) {
        let columns = self.width.inside(ox, false);
        let mut number = 0;
        for ky in self.rows.inside(oy, false) {
            let line = (self.rows.at(oy, ky) * self.plane_channels + c) * self.width.extent;
            for kx in columns.clone() {
                body((line + self.width.at(ox, kx)) * L::LANES, number);
                number += 1;
            }
        }
    }

    /// What a window's sum is divided by.
    #[inline(always)]
    fn divisor(self, oy: usize, ox: usize, include_padding: bool) -> f32 {
        (self.rows.inside(oy, include_padding).len() * self.width.inside(ox, include_padding).len()) as f32
    }

    /// Zeros the input's gradient.
    #[inline(always)]
    unsafe fn clear<L: Lanes>(self, dx: *mut f32) {
        for y in 0..self.rows.extent {
            for i in 0..self.channels * self.width.extent {
                // SAFETY: the tile's contract (see the parent module).
                unsafe { L::store(dx.add((y * self.plane_channels * self.width.extent + i) * L::LANES), L::zero()) };
            }
        }
    }
}

/// See [`MaxPool`].
#[inline(always)]
pub unsafe fn max_pool<L: Lanes>(shape: &MaxPool, x: *const f32, y: *mut f32) {
    let windows = windows!(shape, 0, 0);
    windows.each(
        #[inline(always)]
        |oy, c, ox| {
            // SAFETY: the tile's contract (see the parent module); `window` yields offsets inside of the plane.
            unsafe {
                let mut largest = L::splat(f32::NEG_INFINITY);
                windows.window::<L>(
                    oy,
                    c,
                    ox,
                    #[inline(always)]
                    |at, _| largest = L::max(largest, L::load(x.add(at))),
                );
                L::store(y.add(windows.output::<L>(oy, c, ox)), largest);
            }
        },
    );
}

/// See [`MaxPoolBackward`].
#[inline(always)]
pub unsafe fn max_pool_backward<L: Lanes>(shape: &MaxPoolBackward, x: *const f32, dy: *const f32, dx: *mut f32) {
    let windows = windows!(shape, 0, 0);
    // SAFETY: the tile's contract (see the parent module).
    unsafe { windows.clear::<L>(dx) };
    windows.each(
        #[inline(always)]
        |oy, c, ox| {
            // SAFETY: the tile's contract (see the parent module); `window` yields offsets inside of the plane.
            unsafe {
                let (mut largest, mut winner) = (L::splat(f32::NEG_INFINITY), L::zero());
                windows.window::<L>(
                    oy,
                    c,
                    ox,
                    #[inline(always)]
                    |at, number| {
                        let v = L::load(x.add(at));
                        let number = L::splat(number as f32);
                        let beats = L::select_less(largest, v, number, winner);
                        // A NaN is neither below 1 nor above 0; the first one wins and stays, as nothing compares above it.
                        let not_nan = L::select_less(v, L::splat(1.0), beats, L::select_less(L::zero(), v, beats, number));
                        let ordered = L::select_less(largest, L::splat(1.0), not_nan, L::select_less(L::zero(), largest, not_nan, winner));
                        winner = ordered;
                        largest = L::max(largest, v);
                    },
                );
                let gradient = L::load(dy.add(windows.output::<L>(oy, c, ox)));
                windows.window::<L>(
                    oy,
                    c,
                    ox,
                    #[inline(always)]
                    |at, number| {
                        let share = L::select_equal(winner, L::splat(number as f32), gradient, L::zero());
                        L::store(dx.add(at), L::add(L::load(dx.add(at)), share));
                    },
                );
            }
        },
    );
}

/// See [`AveragePool`].
#[inline(always)]
pub unsafe fn average_pool<L: Lanes>(shape: &AveragePool, x: *const f32, y: *mut f32) {
    let windows = windows!(shape, shape.bottom, shape.right);
    windows.each(
        #[inline(always)]
        |oy, c, ox| {
            // SAFETY: the tile's contract (see the parent module); `window` yields offsets inside of the plane.
            unsafe {
                let mut sum = L::zero();
                windows.window::<L>(
                    oy,
                    c,
                    ox,
                    #[inline(always)]
                    |at, _| sum = L::add(sum, L::load(x.add(at))),
                );
                let divisor = windows.divisor(oy, ox, shape.include_padding == 1);
                L::store(y.add(windows.output::<L>(oy, c, ox)), L::div(sum, L::splat(divisor)));
            }
        },
    );
}

/// See [`AveragePoolBackward`].
#[inline(always)]
pub unsafe fn average_pool_backward<L: Lanes>(shape: &AveragePoolBackward, dy: *const f32, dx: *mut f32) {
    let windows = windows!(shape, shape.bottom, shape.right);
    // SAFETY: the tile's contract (see the parent module).
    unsafe { windows.clear::<L>(dx) };
    windows.each(
        #[inline(always)]
        |oy, c, ox| {
            // SAFETY: the tile's contract (see the parent module); `window` yields offsets inside of the plane.
            unsafe {
                let divisor = windows.divisor(oy, ox, shape.include_padding == 1);
                let share = L::div(L::load(dy.add(windows.output::<L>(oy, c, ox))), L::splat(divisor));
                windows.window::<L>(
                    oy,
                    c,
                    ox,
                    #[inline(always)]
                    |at, _| L::store(dx.add(at), L::add(L::load(dx.add(at)), share)),
                );
            }
        },
    );
}
