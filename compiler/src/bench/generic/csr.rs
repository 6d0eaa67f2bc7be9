//! Weights as compressed sparse rows, and the convolutions and linear layers that walk them.
//!
//! A row is an output channel, an entry an input channel and a kernel position. A convolution visits the entries of a row and adds scaled
//! planes of the padded input to a plane of the output; backward, it adds scaled planes of the output's gradient to the input's and takes dot products
//! for the weights, of live weights alone. A linear layer does so over columns of examples. No shape is known beforehand.

use super::loops::{Part, Threads, add_scaled, dot, sum_partials};
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

/// Where a convolution's elements lie once its planes are padded.
///
/// An example's input is copied into planes with their padding, one for each phase of the strides. What a weight reads is then one run of such a plane,
/// the rows of an output plane of the same pitch one after the other; what lies between two of them is computed, too, and left out.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    /// Rows and columns of the input.
    x: [usize; 2],
    /// Rows and columns of the output.
    y: [usize; 2],
    strides: [usize; 2],
    before: [usize; 2],
    /// Rows and columns of a padded plane.
    padded: [usize; 2],
    /// Where the run of each kernel position begins in the planes of a channel.
    taps: Vec<usize>,
}

impl Geometry {
    /// For x `[C, H, W]`, a kernel of `kernel`, and y `[O, H', W']`.
    pub(super) fn new(op: &Convolution, x: &[usize], kernel: [usize; 2], y: &[usize]) -> Self {
        let axes = op.axes([x[1], x[2]], kernel);
        let y = [y[1], y[2]];
        let padded = [0, 1].map(|i| ((y[i] - 1) * axes[i].stride + axes[i].reach()).div_ceil(axes[i].stride));
        let strides = axes.map(|axis| axis.stride);
        let tap = |tap: usize| {
            let at = [tap / kernel[1] * axes[0].dilation, tap % kernel[1] * axes[1].dilation];
            let phase = at[0] % strides[0] * strides[1] + at[1] % strides[1];
            (phase * padded[0] + at[0] / strides[0]) * padded[1] + at[1] / strides[1]
        };
        let taps = (0..kernel[0] * kernel[1]).map(tap).collect();
        Geometry { x: [x[1], x[2]], y, strides, before: axes.map(|axis| axis.before), padded, taps }
    }

    fn x_plane(&self) -> usize {
        self.x[0] * self.x[1]
    }

    fn y_plane(&self) -> usize {
        self.y[0] * self.y[1]
    }

    /// Elements of all padded planes of a channel.
    fn planes(&self) -> usize {
        self.strides[0] * self.strides[1] * self.padded[0] * self.padded[1]
    }

    /// Elements of an output plane, from the first to the last, at the pitch of the padded planes.
    fn run(&self) -> usize {
        (self.y[0] - 1) * self.padded[1] + self.y[1]
    }

    /// Calls `f(place of a row of x, place of its first element in the padded planes, elements, step in the row)` for what is read of each row and
    /// phase of an input plane.
    #[inline(always)]
    fn each_row(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        let [vertical, horizontal] = self.strides;
        for row in 0..self.x[0] {
            let down = row + self.before[0];
            let to_row = down / vertical;
            if to_row >= self.padded[0] {
                break;
            }
            for phase in 0..horizontal {
                // The first column of the phase, and where it goes.
                let first = (phase + horizontal - self.before[1] % horizontal) % horizontal;
                let to = (first + self.before[1]) / horizontal;
                let len = self.x[1].saturating_sub(first).div_ceil(horizontal).min(self.padded[1].saturating_sub(to));
                let plane = down % vertical * horizontal + phase;
                // A stride may be wider than the image.
                if len > 0 {
                    f(row * self.x[1] + first, (plane * self.padded[0] + to_row) * self.padded[1] + to, len, horizontal);
                }
            }
        }
    }

    /// Copies the planes of an input into padded ones, whose padding is left as it is.
    #[inline(always)]
    fn pad(&self, x: &[f32], padded: &mut [f32]) {
        for (x, padded) in x.chunks_exact(self.x_plane()).zip(padded.chunks_exact_mut(self.planes())) {
            self.each_row(
                #[inline(always)]
                |from, to, len, step| match step {
                    1 => padded[to..to + len].copy_from_slice(&x[from..from + len]),
                    _ => padded[to..to + len].iter_mut().zip(x[from..].iter().step_by(step)).for_each(|(to, from)| *to = *from),
                },
            );
        }
    }

    /// Copies padded planes back; elements that no weight reads are zero.
    #[inline(always)]
    fn crop(&self, padded: &[f32], x: &mut [f32]) {
        x.fill(0.0);
        for (x, padded) in x.chunks_exact_mut(self.x_plane()).zip(padded.chunks_exact(self.planes())) {
            self.each_row(
                #[inline(always)]
                |to, from, len, step| match step {
                    1 => x[to..to + len].copy_from_slice(&padded[from..from + len]),
                    _ => x[to..].iter_mut().step_by(step).zip(&padded[from..from + len]).for_each(|(to, from)| *to = *from),
                },
            );
        }
    }
}

/// y = w * x + bias over a batch.
pub(super) fn convolve(threads: &Threads, csr: &Csr, g: &Geometry, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let batch = y.len() / (csr.outputs * g.y_plane());
    let (x_example, fused) = (x.len() / batch, threads.fused());
    let (padded_len, run) = (x_example / g.x_plane() * g.planes(), g.run());
    threads.each(
        batch,
        [y],
        &mut [],
        #[inline(always)]
        |Part { items, outputs: [y], scratch, .. }| {
            let (padded, sums) = zeroed(scratch, padded_len + run).split_at_mut(padded_len);
            for (example, y) in items.zip(y.chunks_exact_mut(csr.outputs * g.y_plane())) {
                g.pad(&x[example * x_example..][..x_example], padded);
                for (output, y) in y.chunks_exact_mut(g.y_plane()).enumerate() {
                    sums.fill(bias.map_or(0.0, |bias| bias[output]));
                    for (entry, channel, tap) in csr.row(output) {
                        add_scaled(fused, sums, w[entry], &padded[channel * g.planes() + g.taps[tap]..][..run]);
                    }
                    for (y, sums) in y.chunks_exact_mut(g.y[1]).zip(sums.chunks(g.padded[1])) {
                        y.copy_from_slice(&sums[..g.y[1]]);
                    }
                }
            }
        },
    );
}

/// `len` zeros of a worker's own memory.
#[inline(always)]
fn zeroed(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    scratch.clear();
    scratch.resize(len, 0.0);
    scratch
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
    let batch = dy.len() / (csr.outputs * g.y_plane());
    let (x_example, y_example, fused) = (x.len() / batch, csr.outputs * g.y_plane(), threads.fused());
    let (padded_len, run) = (x_example / g.x_plane() * g.planes(), g.run());
    let both = dx.is_some();
    threads.each(
        batch,
        [dx.unwrap_or_default()],
        partials,
        #[inline(always)]
        |Part { items, outputs: [dx], partial, scratch }| {
            partial.fill(0.0);
            let (padded, rest) = zeroed(scratch, 2 * padded_len + run).split_at_mut(padded_len);
            let (padded_dx, gradient) = rest.split_at_mut(padded_len);
            let first = items.start;
            for example in items {
                g.pad(&x[example * x_example..][..x_example], padded);
                padded_dx.fill(0.0);
                for (output, dy) in dy[example * y_example..][..y_example].chunks_exact(g.y_plane()).enumerate() {
                    // What lies between two rows stays zero.
                    for (to, dy) in gradient.chunks_mut(g.padded[1]).zip(dy.chunks_exact(g.y[1])) {
                        to[..g.y[1]].copy_from_slice(dy);
                    }
                    for (entry, channel, tap) in csr.row(output) {
                        let place = channel * g.planes() + g.taps[tap];
                        partial[entry] += dot(fused, &padded[place..][..run], gradient);
                        if both {
                            add_scaled(fused, &mut padded_dx[place..][..run], w[entry], gradient);
                        }
                    }
                }
                if both {
                    g.crop(padded_dx, &mut dx[(example - first) * x_example..][..x_example]);
                }
            }
        },
    );
    sum_partials(partials, dw);
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
                    partial[entry] = dot(fused, &columns[input * rows..][..rows], dy);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Padded planes of an input whose elements are their places, counted from 1.
    fn padded(x: [usize; 2], kernel: [usize; 2], strides: [usize; 2], pads: [usize; 4]) -> (Geometry, Vec<f32>, Vec<f32>) {
        let op = Convolution { strides, pads, dilations: [1, 1], groups: 1 };
        let y = op.axes(x, kernel).map(|axis| axis.outputs("Conv", false).unwrap());
        let g = Geometry::new(&op, &[1, x[0], x[1]], kernel, &[1, y[0], y[1]]);
        let input: Vec<f32> = (1..=x[0] * x[1]).map(|place| place as f32).collect();
        let mut planes = vec![0.0; g.planes()];
        g.pad(&input, &mut planes);
        (g, input, planes)
    }

    #[test]
    fn a_tap_reads_the_input_that_it_means() {
        for (x, kernel, strides, pads) in [
            ([4, 5], [3, 3], [1, 1], [1, 1, 1, 1]),
            ([5, 4], [3, 2], [2, 3], [0, 2, 1, 0]),
            ([3, 1], [1, 1], [2, 4], [0, 0, 0, 0]),
            ([1, 1], [3, 3], [3, 3], [1, 1, 1, 1]),
            ([7, 7], [1, 1], [2, 2], [0, 0, 0, 0]),
        ] {
            let (g, input, planes) = padded(x, kernel, strides, pads);
            for (tap, &first) in g.taps.iter().enumerate() {
                for (row, column) in (0..g.y[0]).flat_map(|row| (0..g.y[1]).map(move |column| (row, column))) {
                    let at = |i: usize, output: usize, k: usize| (output * strides[i] + k).checked_sub(pads[i]).filter(|&at| at < x[i]);
                    let place = at(0, row, tap / kernel[1]).zip(at(1, column, tap % kernel[1]));
                    let wanted = place.map_or(0.0, |(row, column)| input[row * x[1] + column]);
                    assert_eq!(planes[first + row * g.padded[1] + column], wanted, "{x:?} {kernel:?} {strides:?} tap {tap}");
                }
                assert!(first + g.run() <= g.planes());
            }
            let mut back = vec![-1.0; input.len()];
            g.crop(&planes, &mut back);
            assert!(back.iter().zip(&input).all(|(&back, &x)| back == x || back == 0.0), "{back:?}");
        }
    }
}
