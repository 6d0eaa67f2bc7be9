//! Rows of a learned table, chosen by each example's indices.

use super::{Embedding, EmbeddingGradient};
use crate::lanes::{Buffer, Lanes};

/// The row that `index` names, if it is one of `rows`: a whole number from 0 on.
#[inline(always)]
fn row_of(index: f32, rows: usize) -> Option<usize> {
    let row = index as usize;
    (row < rows && row as f32 == index).then_some(row)
}

/// The row that each lane of `indices` names.
#[inline(always)]
unsafe fn rows_of<L: Lanes>(indices: *const f32, rows: usize) -> [Option<usize>; 16] {
    // SAFETY: the caller vouches for a vector.
    let indices = unsafe { L::to_buffer(L::load(indices)) };
    let mut found = [None; 16];
    for (found, &index) in found.iter_mut().zip(&indices.0[..L::LANES]) {
        *found = row_of(index, rows);
    }
    found
}

/// See [`Embedding`].
#[inline(always)]
pub unsafe fn embedding<L: Lanes>(shape: &Embedding, index: *const f32, table: *const f32, y: *mut f32) {
    let &Embedding { positions, embedding_width: width, table_rows } = shape;
    // SAFETY: the tile's contract (see the parent module); only rows of the table are read.
    unsafe {
        for position in 0..positions {
            let rows = rows_of::<L>(index.add(position * L::LANES), table_rows);
            for element in 0..width {
                let mut vector = Buffer::ZERO;
                for (value, row) in vector.0.iter_mut().zip(&rows[..L::LANES]) {
                    *value = row.map_or(f32::NAN, |row| *table.add(row * width + element));
                }
                L::store(y.add((position * width + element) * L::LANES), L::from_buffer(&vector));
            }
        }
    }
}

/// See [`EmbeddingGradient`].
#[inline(always)]
pub unsafe fn embedding_gradient<L: Lanes>(shape: &EmbeddingGradient, part: usize, index: *const f32, dy: *const f32, dtable: *mut f32) {
    let &EmbeddingGradient { groups, positions, embedding_width: width, table_rows, parts } = shape;
    let elements = part * width / parts..(part + 1) * width / parts;
    // SAFETY: the tile's contract (see the parent module); a part touches its own elements of the table's rows.
    unsafe {
        for row in 0..table_rows {
            core::ptr::write_bytes(dtable.add(row * width + elements.start), 0, elements.len());
        }
        for position in 0..groups * positions {
            let rows = rows_of::<L>(index.add(position * L::LANES), table_rows);
            for element in elements.clone() {
                let gradient = L::to_buffer(L::load(dy.add((position * width + element) * L::LANES)));
                for (row, gradient) in rows[..L::LANES].iter().zip(gradient.0) {
                    if let Some(row) = row {
                        *dtable.add(row * width + element) += gradient;
                    }
                }
            }
        }
    }
}
