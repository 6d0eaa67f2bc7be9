//! Products of each lane's own matrices, and rows of tables that each lane chooses.

use crate::{Floats, Numbers, assert_admitted, call, targets};
use mest_runtime::tile::{self, reference};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn products_are_their_definition(
        rows in 1..11_usize, columns in 1..11_usize, depth in 0..9_usize, transposed in any::<[bool; 3]>(), seed in any::<u64>()
    ) {
        let strides = |turned: bool, [outer, inner]: [usize; 2]| if turned { (1, outer) } else { (inner, 1) };
        let ((a_row, a_inner), (b_inner, b_column)) = (strides(transposed[0], [rows, depth]), strides(transposed[1], [depth, columns]));
        let (y_row, y_column) = strides(transposed[2], [rows, columns]);
        let mut numbers = Numbers(seed);
        for target in targets() {
            let lanes = target.1;
            let (a, b) = (numbers.floats(rows * depth * lanes), numbers.floats(depth * columns * lanes));
            let mut y = Floats::filled(rows * columns * lanes, 9.0);
            call!(
                MatrixProduct { rows, columns, depth, a_row, a_inner, b_inner, b_column, y_row, y_column }, target,
                (a.as_ptr(), *const f32), (b.as_ptr(), *const f32), (y.as_mut_ptr(), *mut f32)
            );
            let shape = tile::MatrixProduct { rows, columns, depth, a_row, a_inner, b_inner, b_column, y_row, y_column };
            let at = |i: usize| {
                let (lane, column, row) = (i % lanes, i / lanes % columns, i / lanes / columns);
                &y[(row * y_row + column * y_column) * lanes + lane]
            };
            assert_admitted("y", (0..rows * columns * lanes).map(at), &reference::matrix_product(&shape, lanes, &a, &b));
        }
    }

    #[test]
    fn tables_are_read_and_their_gradients_summed_by_row(
        groups in 1..4_usize, positions in 1..6_usize, width in 1..9_usize, rows in 1..7_usize, parts in 1..4_usize, seed in any::<u64>()
    ) {
        let mut numbers = Numbers(seed);
        for target in targets() {
            let lanes = target.1;
            let index: Vec<f32> = (0..groups * positions * lanes).map(|_| numbers.below(rows) as f32).collect();
            let (index, table) = (Floats::new(&index), numbers.floats(rows * width));
            let dy = numbers.floats(groups * positions * width * lanes);
            let mut sums = vec![reference::Exact::default(); rows * width];
            let mut y = Floats::filled(positions * width * lanes, 9.0);
            for group in 0..groups {
                let own = &index[group * positions * lanes..][..positions * lanes];
                call!(
                    Embedding { positions, embedding_width: width, table_rows: rows }, target,
                    (own.as_ptr(), *const f32), (table.as_ptr(), *const f32), (y.as_mut_ptr(), *mut f32)
                );
                for (i, &value) in y.iter().enumerate() {
                    let (lane, element, position) = (i % lanes, i / lanes % width, i / lanes / width);
                    let chosen = own[position * lanes + lane] as usize * width + element;
                    prop_assert_eq!(value, table[chosen]);
                    sums[chosen].add(f64::from(dy[group * y.len() + i]));
                }
            }
            let mut gradient = Floats::filled(rows * width, 9.0);
            for part in 0..parts {
                call!(
                    EmbeddingGradient { groups, positions, embedding_width: width, table_rows: rows, parts }, target,
                    (part, usize), (index.as_ptr(), *const f32), (dy.as_ptr(), *const f32), (gradient.as_mut_ptr(), *mut f32)
                );
            }
            assert_admitted("dtable", gradient.iter(), &sums);
        }
    }
}

#[test]
fn indices_that_are_no_rows_read_nothing() {
    for target in targets() {
        let lanes = target.1;
        let wrong = [-1.0, 2.0, 0.5, f32::NAN, f32::INFINITY, 1e20];
        let index = Floats::new(&(0..lanes).map(|lane| wrong[lane % wrong.len()]).collect::<Vec<_>>());
        let (table, mut y) = (Floats::filled(6, 1.0), Floats::filled(3 * lanes, 9.0));
        call!(
            Embedding { positions: 1, embedding_width: 3, table_rows: 2 },
            target,
            (index.as_ptr(), *const f32),
            (table.as_ptr(), *const f32),
            (y.as_mut_ptr(), *mut f32)
        );
        assert!(y.iter().all(|v| v.is_nan()));
        let mut gradient = Floats::filled(6, 9.0);
        call!(
            EmbeddingGradient { groups: 1, positions: 1, embedding_width: 3, table_rows: 2, parts: 1 },
            target,
            (0, usize),
            (index.as_ptr(), *const f32),
            (y.as_ptr(), *const f32),
            (gradient.as_mut_ptr(), *mut f32)
        );
        assert!(gradient.iter().all(|v| *v == 0.0));
    }
}
