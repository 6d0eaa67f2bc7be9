//! Products of two computed matrices: every lane has matrices of its own, so that what registers save is loads.

use super::MatrixProduct;
use crate::lanes::Lanes;

#[derive(Clone, Copy)]
struct Call {
    shape: MatrixProduct,
    a: *const f32,
    b: *const f32,
    y: *mut f32,
}

/// See [`MatrixProduct`].
#[inline(always)]
pub unsafe fn matrix_product<L: Lanes>(shape: &MatrixProduct, a: *const f32, b: *const f32, y: *mut f32) {
    let call = Call { shape: *shape, a, b, y };
    // SAFETY: the tile's contract (see the parent module).
    unsafe {
        match L::ACCUMULATORS {
            16.. => all_rows::<L, 4, 4>(&call),
            8..16 => all_rows::<L, 2, 4>(&call),
            _ => all_rows::<L, 2, 2>(&call),
        }
    }
}

/// Blocks of `ROWS` by `COLUMNS` elements, then what is left over row by row.
#[inline(always)]
unsafe fn all_rows<L: Lanes, const ROWS: usize, const COLUMNS: usize>(call: &Call) {
    let rows = call.shape.rows;
    let mut row = 0;
    // SAFETY: the tile's contract; a block ends before `rows`.
    unsafe {
        while rows - row >= ROWS {
            all_columns::<L, ROWS, COLUMNS>(call, row);
            row += ROWS;
        }
        while row < rows {
            all_columns::<L, 1, COLUMNS>(call, row);
            row += 1;
        }
    }
}

#[inline(always)]
unsafe fn all_columns<L: Lanes, const ROWS: usize, const COLUMNS: usize>(call: &Call, row: usize) {
    let columns = call.shape.columns;
    let mut column = 0;
    // SAFETY: the tile's contract; a block ends before `columns`.
    unsafe {
        while columns - column >= COLUMNS {
            block::<L, ROWS, COLUMNS>(call, row, column);
            column += COLUMNS;
        }
        while column < columns {
            block::<L, ROWS, 1>(call, row, column);
            column += 1;
        }
    }
}

/// One block: sums stay in registers while the inner axis passes by.
#[inline(always)]
unsafe fn block<L: Lanes, const ROWS: usize, const COLUMNS: usize>(call: &Call, row: usize, column: usize) {
    let shape = call.shape;
    // SAFETY: the tile's contract.
    unsafe {
        let mut a = call.a.add(row * shape.a_row * L::LANES);
        let mut b = call.b.add(column * shape.b_column * L::LANES);
        let mut sums = [[L::zero(); COLUMNS]; ROWS];
        for _ in 0..shape.depth {
            let mut right = [L::zero(); COLUMNS];
            for (j, right) in right.iter_mut().enumerate() {
                *right = L::load(b.add(j * shape.b_column * L::LANES));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let left = L::load(a.add(i * shape.a_row * L::LANES));
                for (sum, &right) in sums.iter_mut().zip(&right) {
                    *sum = L::fma(left, right, *sum);
                }
            }
            a = a.add(shape.a_inner * L::LANES);
            b = b.add(shape.b_inner * L::LANES);
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (j, sum) in sums.into_iter().enumerate() {
                L::store(call.y.add(((row + i) * shape.y_row + (column + j) * shape.y_column) * L::LANES), sum);
            }
        }
    }
}
