//! Copies: rows into scratch, examples into lanes.

use super::{Clear, Pack, PackLabels, StageNormalizeBackward, StageNormalized, StageRows};
use crate::lanes::{Buffer, Lanes};

/// Fills `count` vectors.
#[inline(always)]
unsafe fn fill<L: Lanes>(target: *mut f32, value: L::V, count: usize) {
    for i in 0..count {
        // SAFETY: the caller vouches for `count` vectors.
        unsafe { L::store(target.add(i * L::LANES), value) };
    }
}

/// Where rows are staged, and what surrounds them there.
#[derive(Clone, Copy)]
struct Target {
    rows: usize,
    channels: usize,
    width: usize,
    left: usize,
    right: usize,
    rows_in_plane: usize,
    padding: f32,
}

/// Stages rows from `first_row` on; `copy(to, row, channel)` writes the vectors of one channel of a row of the plane.
#[inline(always)]
unsafe fn stage<L: Lanes>(shape: Target, first_row: isize, target: *mut f32, copy: impl Fn(*mut f32, usize, usize)) {
    let Target { rows, channels, width, left, right, rows_in_plane, padding } = shape;
    let pitch = left + width + right;
    // SAFETY: the tile's contract (see the parent module); rows outside of the plane are not read.
    unsafe {
        let padding = L::splat(padding);
        for r in 0..rows {
            let row = first_row + r as isize;
            let mut to = target.add(r * channels * pitch * L::LANES);
            if row < 0 || row as usize >= rows_in_plane {
                fill::<L>(to, padding, channels * pitch);
                continue;
            }
            for channel in 0..channels {
                fill::<L>(to, padding, left);
                let middle = to.add(left * L::LANES);
                copy(middle, row as usize, channel);
                fill::<L>(middle.add(width * L::LANES), padding, right);
                to = to.add(pitch * L::LANES);
            }
        }
    }
}

/// See [`StageRows`].
#[inline(always)]
pub unsafe fn stage_rows<L: Lanes>(shape: &StageRows, source: *const f32, first_row: isize, target: *mut f32) {
    let &StageRows { rows, channels, width, left, right, rows_in_plane, plane_channels, fill: padding } = shape;
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        stage::<L>(
            Target { rows, channels, width, left, right, rows_in_plane, padding },
            first_row,
            target,
            #[inline(always)]
            |to, row, channel| {
                let from = source.add((row * plane_channels + channel) * width * L::LANES);
                for x in 0..width {
                    L::store(to.add(x * L::LANES), L::load(from.add(x * L::LANES)));
                }
            },
        );
    }
}

/// See [`StageNormalized`].
#[inline(always)]
pub unsafe fn stage_normalized<L: Lanes>(
    shape: &StageNormalized,
    x: *const f32,
    factor: *const f32,
    shift: *const f32,
    first_row: isize,
    target: *mut f32,
) {
    let &StageNormalized { rows, channels, width, left, right, rows_in_plane } = shape;
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        stage::<L>(
            Target { rows, channels, width, left, right, rows_in_plane, padding: 0.0 },
            first_row,
            target,
            #[inline(always)]
            |to, row, channel| {
                let from = x.add((row * channels + channel) * width * L::LANES);
                let (factor, shift, zero) = (L::splat(*factor.add(channel)), L::splat(*shift.add(channel)), L::zero());
                for i in 0..width {
                    let normalized = L::fma(L::load(from.add(i * L::LANES)), factor, shift);
                    L::store(to.add(i * L::LANES), L::select_less(normalized, zero, zero, normalized));
                }
            },
        );
    }
}

/// See [`StageNormalizeBackward`].
#[inline(always)]
pub unsafe fn stage_normalize_backward<L: Lanes>(
    shape: &StageNormalizeBackward,
    gradient: *const f32,
    x: *const f32,
    live: *const f32,
    factor: *const f32,
    slope: *const f32,
    offset: *const f32,
    first_row: isize,
    target: *mut f32,
) {
    let &StageNormalizeBackward { rows, channels, width, left, right, rows_in_plane } = shape;
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let live = L::load(live);
        stage::<L>(
            Target { rows, channels, width, left, right, rows_in_plane, padding: 0.0 },
            first_row,
            target,
            #[inline(always)]
            |to, row, channel| {
                let from = (row * channels + channel) * width * L::LANES;
                let (gradient, x) = (gradient.add(from), x.add(from));
                let [a, k1, k0] = [factor, slope, offset].map(
                    #[inline(always)]
                    |coefficients| L::splat(*coefficients.add(channel)),
                );
                for i in 0..width {
                    let through_statistics = L::fma(L::load(x.add(i * L::LANES)), k1, k0);
                    let sum = L::fma(L::load(gradient.add(i * L::LANES)), a, through_statistics);
                    L::store(to.add(i * L::LANES), L::mul(sum, live));
                }
            },
        );
    }
}

/// See [`Pack`].
#[inline(always)]
pub unsafe fn pack<L: Lanes>(shape: &Pack, source: *const f32, example: *const u32, target: *mut f32) {
    let &Pack { channels, rows, width } = shape;
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        let mut from = [source; 16];
        for (lane, from) in from[..L::LANES].iter_mut().enumerate() {
            *from = source.add(*example.add(lane) as usize * channels * rows * width);
        }
        for y in 0..rows {
            for c in 0..channels {
                let line = (c * rows + y) * width;
                for x in 0..width {
                    let mut vector = Buffer::ZERO;
                    for (value, from) in vector.0.iter_mut().zip(&from[..L::LANES]) {
                        *value = *from.add(line + x);
                    }
                    L::store(target.add(((y * channels + c) * width + x) * L::LANES), L::from_buffer(&vector));
                }
            }
        }
    }
}

/// See [`PackLabels`].
#[inline(always)]
pub unsafe fn pack_labels<L: Lanes>(_shape: &PackLabels, source: *const u32, example: *const u32, target: *mut u32) {
    for lane in 0..L::LANES {
        // SAFETY: the tile's contract (see the parent module).
        unsafe { *target.add(lane) = *source.add(*example.add(lane) as usize) };
    }
}

/// See [`Clear`].
#[inline(always)]
pub unsafe fn clear<L: Lanes>(shape: &Clear, target: *mut f32) {
    // SAFETY: the tile's contract (see the parent module).
    unsafe { fill::<L>(target, L::zero(), shape.vectors) }
}
