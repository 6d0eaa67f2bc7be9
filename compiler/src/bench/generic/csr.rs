//! Weights as compressed sparse rows, and the convolutions and linear layers that walk them.
//!
//! A row is an output channel, an entry an input channel and a kernel position. A convolution visits the entries of a row and adds scaled
//! rows of the input to rows of the output; backward, it adds scaled rows of the output's gradient to the input's and takes dot products
//! for the weights, of live weights alone. A linear layer does so over columns of examples. No shape is known beforehand.

use super::loops::{Part, Sums, Threads, add_products, add_scaled, multiply_add, sum_partials};
use crate::op::Convolution;
use mest_runtime::sparse::Units;

/// Which entries of a weight matrix are live.
#[derive(Clone, Debug)]
pub(super) struct Csr {
    /// Outputs, over all groups.
    pub(super) outputs: usize,
    /// Weights of the matrix, dead ones included.
    pub(super) weights: usize,
    /// Where each row begins.
    starts: Vec<usize>,
    /// Input channel, over all groups, of each entry.
    inputs: Vec<u32>,
    /// Kernel position of each entry.
    taps: Vec<u32>,
    /// Place in the ONNX tensor of each entry.
    pub(super) places: Vec<u32>,
}

impl Csr {
    /// The entries of the live units.
    pub(super) fn new(units: &Units, live: &[u32]) -> Self {
        let (matrix, block) = (units.matrix, units.block);
        let outputs_per_group = matrix.outputs / matrix.groups;
        let mut entries = Vec::with_capacity(live.len() * units.elements());
        for &unit in live {
            let position = units.position(unit);
            for (element, place) in units.onnx_indices(unit).enumerate() {
                let output = position.output_block * block.rows + element / block.columns;
                let input = position.input_block * block.columns + element % block.columns;
                let first = output / outputs_per_group * matrix.inputs_per_group;
                entries.push((output, (first + input) as u32, position.kernel as u32, place as u32));
            }
        }
        entries.sort_unstable();
        let starts = (0..=matrix.outputs).map(|output| entries.partition_point(|entry| entry.0 < output)).collect();
        let column = |f: fn(&(usize, u32, u32, u32)) -> u32| entries.iter().map(f).collect::<Vec<u32>>();
        let (inputs, taps, places) = (column(|e| e.1), column(|e| e.2), column(|e| e.3));
        Csr { outputs: matrix.outputs, weights: units.weights(), starts, inputs, taps, places }
    }

    /// Live entries.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Entries of one output: (index, input channel, kernel position).
    #[inline(always)]
    fn row(&self, output: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let range = self.starts[output]..self.starts[output + 1];
        let entries = self.inputs[range.clone()].iter().zip(&self.taps[range.clone()]);
        range.zip(entries).map(|(index, (&input, &tap))| (index, input as usize, tap as usize))
    }
}

/// The rows of an output plane that one kernel position contributes to, and the rows of the input plane that it reads for them.
#[derive(Clone, Copy, Debug)]
struct Rows {
    count: usize,
    x: usize,
    x_pitch: usize,
    y: usize,
    y_pitch: usize,
    len: usize,
}

/// Where a convolution's rows lie.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    x_plane: usize,
    y_plane: usize,
    stride: usize,
    taps: Vec<Rows>,
}

impl Geometry {
    /// For x `[C, H, W]`, a kernel of `kernel`, and y `[O, H', W']`.
    pub(super) fn new(op: &Convolution, x: &[usize], kernel: [usize; 2], y: &[usize]) -> Self {
        let [vertical, horizontal] = op.axes([x[1], x[2]], kernel);
        let rows = |tap: usize| {
            let (ky, kx) = (tap / kernel[1], tap % kernel[1]);
            let (rows, columns) = (vertical.span(ky, y[1]), horizontal.span(kx, y[2]));
            if rows.is_empty() || columns.is_empty() {
                return Rows { count: 0, x: 0, x_pitch: 0, y: 0, y_pitch: 0, len: 0 };
            }
            let first = vertical.position(rows.start, ky) * x[2] + horizontal.position(columns.start, kx);
            let y_first = rows.start * y[2] + columns.start;
            // Whole rows of one pitch follow each other: they are one row.
            if op.strides == [1, 1] && columns.len() == x[2] && x[2] == y[2] {
                return Rows { count: 1, x: first, x_pitch: 0, y: y_first, y_pitch: 0, len: rows.len() * y[2] };
            }
            Rows { count: rows.len(), x: first, x_pitch: op.strides[0] * x[2], y: y_first, y_pitch: y[2], len: columns.len() }
        };
        let taps = (0..kernel[0] * kernel[1]).map(rows).collect();
        Geometry { x_plane: x[1] * x[2], y_plane: y[1] * y[2], stride: op.strides[1], taps }
    }
}

/// Elements of a row of the input that `len` outputs read.
#[inline(always)]
fn reach(len: usize, stride: usize) -> usize {
    (len - 1) * stride + 1
}

/// y = w * x + bias over a batch.
pub(super) fn convolve(threads: &Threads, csr: &Csr, g: &Geometry, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let batch = y.len() / (csr.outputs * g.y_plane);
    let (x_example, fused) = (x.len() / batch, threads.fused());
    threads.each(
        batch,
        [y],
        &mut [],
        #[inline(always)]
        |Part { items, outputs: [y], .. }| {
            for (example, y) in items.zip(y.chunks_exact_mut(csr.outputs * g.y_plane)) {
                let x = &x[example * x_example..][..x_example];
                for (output, y) in y.chunks_exact_mut(g.y_plane).enumerate() {
                    y.fill(bias.map_or(0.0, |bias| bias[output]));
                    for (entry, channel, tap) in csr.row(output) {
                        let (x, rows) = (&x[channel * g.x_plane..][..g.x_plane], g.taps[tap]);
                        for i in 0..rows.count {
                            let y = &mut y[rows.y + i * rows.y_pitch..][..rows.len];
                            let x = &x[rows.x + i * rows.x_pitch..][..reach(rows.len, g.stride)];
                            if g.stride == 1 {
                                add_scaled(fused, y, w[entry], x);
                            } else {
                                for (y, &x) in y.iter_mut().zip(x.iter().step_by(g.stride)) {
                                    *y = multiply_add(fused, w[entry], x, *y);
                                }
                            }
                        }
                    }
                }
            }
        },
    );
}

/// dw of the live entries, and dx unless nobody needs it. `partials` has a dw for each thread.
pub(super) fn convolve_backward(
    threads: &Threads,
    csr: &Csr,
    g: &Geometry,
    [x, w, dy]: [&[f32]; 3],
    dx: Option<&mut [f32]>,
    dw: &mut [f32],
    partials: &mut [f32],
) {
    let batch = dy.len() / (csr.outputs * g.y_plane);
    let (x_example, y_example, fused) = (x.len() / batch, csr.outputs * g.y_plane, threads.fused());
    let both = dx.is_some();
    threads.each(
        batch,
        [dx.unwrap_or_default()],
        partials,
        #[inline(always)]
        |Part { items, outputs: [dx], partial, .. }| {
            partial.fill(0.0);
            dx.fill(0.0);
            let first = items.start;
            for example in items {
                let (x, dy) = (&x[example * x_example..][..x_example], &dy[example * y_example..][..y_example]);
                let dx = if both { &mut dx[(example - first) * x_example..][..x_example] } else { &mut [] };
                for (output, dy) in dy.chunks_exact(g.y_plane).enumerate() {
                    for (entry, channel, tap) in csr.row(output) {
                        let plane = channel * g.x_plane..(channel + 1) * g.x_plane;
                        partial[entry] += products(fused, g, tap, &x[plane.clone()], dy);
                        if both {
                            spread(fused, g, tap, &mut dx[plane], w[entry], dy);
                        }
                    }
                }
            }
        },
    );
    sum_partials(partials, dw);
}

/// The gradient of one weight from one example.
#[inline(always)]
fn products(fused: bool, g: &Geometry, tap: usize, x: &[f32], dy: &[f32]) -> f32 {
    let rows = g.taps[tap];
    let mut sums: Sums = Default::default();
    for i in 0..rows.count {
        let dy = &dy[rows.y + i * rows.y_pitch..][..rows.len];
        let x = &x[rows.x + i * rows.x_pitch..][..reach(rows.len, g.stride)];
        if g.stride == 1 {
            add_products(fused, &mut sums, x, dy);
        } else {
            for (&x, &dy) in x.iter().step_by(g.stride).zip(dy) {
                sums[0] = multiply_add(fused, x, dy, sums[0]);
            }
        }
    }
    sums.iter().sum()
}

/// What one weight passes back to the input's gradient.
#[inline(always)]
fn spread(fused: bool, g: &Geometry, tap: usize, dx: &mut [f32], weight: f32, dy: &[f32]) {
    let rows = g.taps[tap];
    for i in 0..rows.count {
        let dy = &dy[rows.y + i * rows.y_pitch..][..rows.len];
        let dx = &mut dx[rows.x + i * rows.x_pitch..][..reach(rows.len, g.stride)];
        if g.stride == 1 {
            add_scaled(fused, dx, weight, dy);
        } else {
            for (dx, &dy) in dx.iter_mut().step_by(g.stride).zip(dy) {
                *dx = multiply_add(fused, weight, dy, *dx);
            }
        }
    }
}

/// Rows of features as columns: `to[feature][row]`.
#[inline(always)]
fn transpose(from: &[f32], features: usize, to: &mut [f32]) {
    let rows = from.len() / features;
    for (feature, to) in to.chunks_exact_mut(rows).enumerate() {
        for (to, from) in to.iter_mut().zip(from.iter().skip(feature).step_by(features)) {
            *to = *from;
        }
    }
}

/// y = x w + bias for each row of `inputs` features.
pub(super) fn linear(threads: &Threads, csr: &Csr, inputs: usize, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let (rows, outputs, fused) = (x.len() / inputs, csr.outputs, threads.fused());
    threads.each(
        rows,
        [y],
        &mut [],
        #[inline(always)]
        |Part { items, outputs: [y], scratch, .. }| {
            let rows = items.len();
            if rows == 0 {
                return;
            }
            scratch.resize(rows * (inputs + outputs), 0.0);
            let (columns, results) = scratch.split_at_mut(rows * inputs);
            transpose(&x[items.start * inputs..items.end * inputs], inputs, columns);
            for (output, y) in results.chunks_exact_mut(rows).enumerate() {
                y.fill(bias.map_or(0.0, |bias| bias[output]));
                for (entry, input, _) in csr.row(output) {
                    add_scaled(fused, y, w[entry], &columns[input * rows..][..rows]);
                }
            }
            transpose(results, rows, y);
        },
    );
}

/// dw of the live entries, and dx unless nobody needs it. `partials` has a dw for each thread.
pub(super) fn linear_backward(
    threads: &Threads,
    csr: &Csr,
    inputs: usize,
    [x, w, dy]: [&[f32]; 3],
    dx: Option<&mut [f32]>,
    dw: &mut [f32],
    partials: &mut [f32],
) {
    let (rows, outputs, fused) = (x.len() / inputs, csr.outputs, threads.fused());
    let both = dx.is_some();
    threads.each(
        rows,
        [dx.unwrap_or_default()],
        partials,
        #[inline(always)]
        |Part { items, outputs: [dx], partial, scratch }| {
            partial.fill(0.0);
            let rows = items.len();
            if rows == 0 {
                return;
            }
            scratch.resize(rows * (2 * inputs + outputs), 0.0);
            let (columns, rest) = scratch.split_at_mut(rows * inputs);
            let (gradients, results) = rest.split_at_mut(rows * outputs);
            transpose(&x[items.start * inputs..items.end * inputs], inputs, columns);
            transpose(&dy[items.start * outputs..items.end * outputs], outputs, gradients);
            results.fill(0.0);
            for (output, dy) in gradients.chunks_exact(rows).enumerate() {
                for (entry, input, _) in csr.row(output) {
                    let mut sums: Sums = Default::default();
                    add_products(fused, &mut sums, &columns[input * rows..][..rows], dy);
                    partial[entry] = sums.iter().sum();
                    if both {
                        add_scaled(fused, &mut results[input * rows..][..rows], w[entry], dy);
                    }
                }
            }
            if both {
                transpose(results, rows, dx);
            }
        },
    );
    sum_partials(partials, dw);
}
