//! Copies: rows into scratch, examples into lanes.

use super::{Clear, Pack, PackLabels, StageRows};
use crate::lanes::{Buffer, Lanes};

/// Fills `count` vectors.
#[inline(always)]
unsafe fn fill<L: Lanes>(target: *mut f32, value: L::V, count: usize) {
    for i in 0..count {
        // SAFETY: the caller vouches for `count` vectors.
        unsafe { L::store(target.add(i * L::LANES), value) };
    }
}

/// See [`StageRows`].
#[inline(always)]
pub unsafe fn stage_rows<L: Lanes>(shape: &StageRows, source: *const f32, first_row: isize, target: *mut f32) {
    let &StageRows { rows, channels, width, left, right, rows_in_plane, plane_channels, fill: padding } = shape;
    let padded = (left + width + right) * L::LANES;
    // SAFETY: the tile's contract (see the parent module); rows outside of the plane are not read.
    unsafe {
        let padding = L::splat(padding);
        for r in 0..rows {
            let row = first_row + r as isize;
            let mut to = target.add(r * channels * padded);
            if row < 0 || row as usize >= rows_in_plane {
                fill::<L>(to, padding, channels * (left + width + right));
                continue;
            }
            let mut from = source.add(row as usize * plane_channels * width * L::LANES);
            for _ in 0..channels {
                fill::<L>(to, padding, left);
                let middle = to.add(left * L::LANES);
                for x in 0..width {
                    L::store(middle.add(x * L::LANES), L::load(from.add(x * L::LANES)));
                }
                fill::<L>(middle.add(width * L::LANES), padding, right);
                from = from.add(width * L::LANES);
                to = to.add(padded);
            }
        }
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
