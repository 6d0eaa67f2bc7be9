//! Sparse products, over odd shapes and all densities.

use crate::{Floats, Numbers, assert_admitted, call, targets};
use mest_runtime::tile::{BackwardSweep, Spmm, reference};
use proptest::prelude::*;

/// A random matrix as a stream: `lists` block rows or columns of up to `most` units, some of them empty.
struct Matrix {
    starts: Vec<u32>,
    offsets: Vec<u32>,
    values: Floats,
}

fn matrix(numbers: &mut Numbers, lists: usize, most: usize, reach: usize, unit_elements: usize) -> Matrix {
    let mut starts = vec![0];
    for _ in 0..lists {
        let units = if numbers.below(4) == 0 { 0 } else { numbers.below(most + 1) };
        starts.push(starts[starts.len() - 1] + units as u32);
    }
    let units = starts[lists] as usize;
    let offsets = (0..units).map(|_| numbers.below(reach) as u32).collect();
    Matrix { starts, offsets, values: numbers.floats(units * unit_elements) }
}

fn blocks() -> impl Strategy<Value = (usize, usize)> {
    (prop::sample::select(vec![1_usize, 2, 3, 4, 8, 16]), prop::sample::select(vec![1_usize, 2, 4]))
}

#[derive(Debug, Clone)]
struct Case {
    block: (usize, usize),
    lists: usize,
    most: usize,
    pixels: usize,
    pixel: usize,
    other_pixel: usize,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    // Now and then more units, and pixels, than a backward sweep takes at a time.
    let most = prop_oneof![7 => 0..12_usize, 1 => 240..300_usize];
    let pixels = prop_oneof![7 => 1..21_usize, 1 => 30..150_usize];
    (blocks(), 1..5_usize, most, pixels, 1..3_usize, 1..3_usize, any::<u64>())
        .prop_map(|(block, lists, most, pixels, pixel, other_pixel, seed)| Case { block, lists, most, pixels, pixel, other_pixel, seed })
}

fn check_spmm(case: &Case, target: (mest_runtime::lanes::Isa, usize)) {
    let (lanes, mut numbers) = (target.1, Numbers(case.seed));
    let (rows, columns) = case.block;
    let (x_channel, y_channel) = (case.pixels * case.pixel + 3, case.pixels * case.other_pixel + 1);
    let channel_blocks = 1 + case.seed as usize % 3;
    let matrix = matrix(&mut numbers, case.lists * channel_blocks, case.most, 3 * x_channel, rows * columns);
    let x = numbers.floats((4 + columns) * x_channel * lanes);
    let bias = (!case.seed.is_multiple_of(3)).then(|| numbers.floats(case.lists * rows));
    let mut y = Floats::filled(case.lists * rows * y_channel * lanes, 9.0);
    let shape = Spmm {
        block_rows: case.lists,
        channel_blocks,
        rows_per_block: rows,
        columns_per_block: columns,
        pixels: case.pixels,
        x_pixel: case.pixel,
        x_channel,
        y_pixel: case.other_pixel,
        y_channel,
    };
    call!(
        Spmm { ..shape },
        target,
        (x.as_ptr(), *const f32),
        (y.as_mut_ptr(), *mut f32),
        (matrix.starts.as_ptr(), *const u32),
        (matrix.offsets.as_ptr(), *const u32),
        (matrix.values.as_ptr(), *const f32),
        (bias.as_ref().map_or(std::ptr::null(), |b| b.as_ptr()), *const f32)
    );
    let expected = reference::spmm(&shape, lanes, &x, &matrix.starts, &matrix.offsets, &matrix.values, bias.as_deref());
    let computed =
        |i: usize| i / lanes % y_channel < case.pixels * case.other_pixel && (i / lanes % y_channel).is_multiple_of(case.other_pixel);
    let (written, kept): (Vec<_>, Vec<_>) = y.iter().enumerate().partition(|(i, _)| computed(*i));
    assert_admitted("y", written.into_iter().map(|(_, v)| v), &expected);
    assert!(kept.iter().all(|(_, v)| **v == 9.0), "wrote between pixels or channels");
}

fn check_backward(case: &Case, target: (mest_runtime::lanes::Isa, usize)) {
    let (lanes, mut numbers) = (target.1, Numbers(case.seed));
    let (rows, columns) = case.block;
    let (dy_channel, x_channel) = (case.pixels * case.pixel + 2, case.pixels * case.other_pixel + 1);
    let matrix = matrix(&mut numbers, case.lists, case.most, 2 * dy_channel, rows * columns);
    let dy = numbers.floats((3 + rows) * dy_channel * lanes);
    let x = numbers.floats(case.lists * columns * x_channel * lanes);
    let coefficients = case.seed.is_multiple_of(2).then(|| [0; 2].map(|_| numbers.floats(case.lists * columns)));
    let [factor, shift] = coefficients.as_ref().map_or([std::ptr::null(); 2], |coefficients| coefficients.each_ref().map(|c| c.as_ptr()));
    let mut dx = Floats::filled(x.len(), 9.0);
    let before = numbers.floats(matrix.values.len());
    let mut dw = before.clone();
    let shape = BackwardSweep {
        block_columns: case.lists,
        rows_per_block: rows,
        columns_per_block: columns,
        pixels: case.pixels,
        x_pixel: case.other_pixel,
        x_channel,
        dy_pixel: case.pixel,
        dy_channel,
    };
    call!(
        BackwardSweep { ..shape },
        target,
        (x.as_ptr(), *const f32),
        (factor, *const f32),
        (shift, *const f32),
        (dx.as_mut_ptr(), *mut f32),
        (dy.as_ptr(), *const f32),
        (matrix.starts.as_ptr(), *const u32),
        (matrix.offsets.as_ptr(), *const u32),
        (matrix.values.as_ptr(), *const f32),
        (dw.as_mut_ptr(), *mut f32)
    );
    let (mut own, mut own_dw) = (x.clone(), before.clone());
    call!(
        BackwardSweep { ..shape },
        target,
        (own.as_ptr(), *const f32),
        (factor, *const f32),
        (shift, *const f32),
        (own.as_mut_ptr(), *mut f32),
        (dy.as_ptr(), *const f32),
        (matrix.starts.as_ptr(), *const u32),
        (matrix.offsets.as_ptr(), *const u32),
        (matrix.values.as_ptr(), *const f32),
        (own_dw.as_mut_ptr(), *mut f32)
    );
    let bits = |floats: &Floats| floats.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&own_dw), bits(&dw), "dW where dX takes the place of X");
    let kept =
        |i: usize| i / lanes % x_channel >= case.pixels * case.other_pixel || !(i / lanes % x_channel).is_multiple_of(case.other_pixel);
    assert!((0..x.len()).all(|i| own[i].to_bits() == if kept(i) { x[i] } else { dx[i] }.to_bits()), "dX in the place of X");

    let activated = coefficients.as_ref().map(|[factor, shift]| {
        let channel = |i: usize| i / lanes / x_channel;
        let normalized = x.iter().enumerate().map(|(i, &x)| match target.0 {
            mest_runtime::lanes::Isa::Portable => x * factor[channel(i)] + shift[channel(i)],
            _ => x.mul_add(factor[channel(i)], shift[channel(i)]),
        });
        normalized.map(|x| x.max(0.0)).collect::<Vec<_>>()
    });
    let input = activated.as_deref().unwrap_or(&x);
    let (expected_dx, mut expected_dw) =
        reference::backward_sweep(&shape, lanes, input, &dy, &matrix.starts, &matrix.offsets, &matrix.values);
    expected_dw.iter_mut().zip(before.iter()).for_each(|(sum, v)| sum.add(f64::from(*v)));
    let computed =
        |i: usize| i / lanes % x_channel < case.pixels * case.other_pixel && (i / lanes % x_channel).is_multiple_of(case.other_pixel);
    let (written, kept): (Vec<_>, Vec<_>) = dx.iter().enumerate().partition(|(i, _)| computed(*i));
    assert_admitted("dx", written.into_iter().map(|(_, v)| v), &expected_dx);
    assert!(kept.iter().all(|(_, v)| **v == 9.0), "wrote between pixels or channels");
    assert_admitted("dw", dw.iter(), &expected_dw);

    let mut alone = before.clone();
    let BackwardSweep { block_columns, rows_per_block, columns_per_block, pixels, x_pixel, x_channel, dy_pixel, dy_channel } = shape;
    call!(
        WeightGradient { block_columns, rows_per_block, columns_per_block, pixels, x_pixel, x_channel, dy_pixel, dy_channel },
        target,
        (x.as_ptr(), *const f32),
        (factor, *const f32),
        (shift, *const f32),
        (dy.as_ptr(), *const f32),
        (matrix.starts.as_ptr(), *const u32),
        (matrix.offsets.as_ptr(), *const u32),
        (alone.as_mut_ptr(), *mut f32)
    );
    assert_admitted("dw alone", alone.iter(), &expected_dw);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn spmm_is_its_definition(case in cases()) {
        targets().into_iter().for_each(|target| check_spmm(&case, target));
    }

    #[test]
    fn backward_sweep_is_its_definition(case in cases()) {
        targets().into_iter().for_each(|target| check_backward(&case, target));
    }

    #[test]
    fn gathers_undo_the_permutation(units in 0..40_usize, unit_elements in 1..9_usize, parts in 1..6_usize, partials in 1..5_usize, seed in any::<u64>()) {
        let mut numbers = Numbers(seed);
        let source = numbers.permutation(units);
        let count = [units as u32];
        let stride = units * unit_elements + 5;
        let inputs = numbers.floats(partials * stride);
        let values = numbers.floats(units * unit_elements);
        for target in targets() {
            let (mut gradient, mut stream) = (Floats::filled(units * unit_elements + 1, 9.0), Floats::filled(units * unit_elements + 1, 9.0));
            for part in 0..parts {
                call!(
                    GatherGradient { partials, partial_stride_elements: stride, unit_elements, parts }, target,
                    (part, usize), (inputs.as_ptr(), *const f32), (source.as_ptr(), *const u32), (count.as_ptr(), *const u32),
                    (gradient.as_mut_ptr(), *mut f32)
                );
                call!(
                    GatherValues { unit_elements, parts }, target,
                    (part, usize), (values.as_ptr(), *const f32), (source.as_ptr(), *const u32), (count.as_ptr(), *const u32),
                    (stream.as_mut_ptr(), *mut f32)
                );
            }
            for unit in 0..units {
                let home = source[unit] as usize;
                for e in 0..unit_elements {
                    let sum = (0..partials).fold(0.0, |sum, p| sum + inputs[p * stride + unit * unit_elements + e]);
                    prop_assert_eq!(gradient[home * unit_elements + e], sum);
                    prop_assert_eq!(stream[unit * unit_elements + e], values[home * unit_elements + e]);
                }
            }
            prop_assert_eq!((gradient[units * unit_elements], stream[units * unit_elements]), (9.0, 9.0));
        }
    }
}

#[test]
fn clear_units_zeros_its_columns_alone() {
    for target in targets() {
        let mut dw = Floats::filled(30, 1.0);
        let starts = [2_u32, 4, 4, 7, 9];
        call!(ClearUnits { block_columns: 3, unit_elements: 3 }, target, (starts.as_ptr(), *const u32), (dw.as_mut_ptr(), *mut f32));
        assert!((0..30).all(|i| dw[i] == if (6..21).contains(&i) { 0.0 } else { 1.0 }));
    }
}

/// The order of a sum must not depend on how pixels are split into calls' tiles: outputs of one pixel at a time have the same bits.
#[test]
fn forward_sums_do_not_depend_on_the_tile() {
    for target in targets() {
        let (lanes, mut numbers) = (target.1, Numbers(3));
        let matrix = matrix(&mut numbers, 4, 30, 100, 4);
        let x = numbers.floats(200 * lanes);
        let run = |pixels: usize, first: usize, y: &mut Floats| {
            call!(
                Spmm {
                    block_rows: 4,
                    channel_blocks: 1,
                    rows_per_block: 4,
                    columns_per_block: 1,
                    pixels,
                    x_pixel: 1,
                    x_channel: 20,
                    y_pixel: 1,
                    y_channel: 15
                },
                target,
                (x[first * lanes..].as_ptr(), *const f32),
                (y[first * lanes..].as_mut_ptr(), *mut f32),
                (matrix.starts.as_ptr(), *const u32),
                (matrix.offsets.as_ptr(), *const u32),
                (matrix.values.as_ptr(), *const f32),
                (std::ptr::null(), *const f32)
            );
        };
        let (mut whole, mut single) = (Floats::filled(16 * 15 * lanes, 0.0), Floats::filled(16 * 15 * lanes, 0.0));
        run(15, 0, &mut whole);
        (0..15).for_each(|p| run(1, p, &mut single));
        assert_eq!(whole[..], single[..]);
    }
}
