//! Batch normalization, pooling, softmax and losses over NCHW.

use super::loops::{Part, Threads, sum_of, sum_of_pairs};
use crate::op::spatial::Axis;

/// Elements of a channel's plane in `[N, C, ..]`, for `channels` channels.
fn plane(len: usize, batch: usize, channels: usize) -> usize {
    len / (batch * channels)
}

/// Mean and biased variance by channel.
pub(super) fn moments(threads: &Threads, batch: usize, x: &[f32], mean: &mut [f32], variance: &mut [f32]) {
    let channels = mean.len();
    let plane = plane(x.len(), batch, channels);
    let count = (batch * plane) as f32;
    threads.each(
        channels,
        [mean, variance],
        &mut [],
        #[inline(always)]
        |Part { items, outputs: [means, variances], .. }| {
            for ((channel, mean), variance) in items.zip(means).zip(variances) {
                let planes = || (0..batch).map(|example| &x[(example * channels + channel) * plane..][..plane]);
                *mean = planes().map(|x| sum_of(x, |x| x)).sum::<f32>() / count;
                let center = *mean;
                *variance = planes().map(|x| sum_of(x, |x| (x - center) * (x - center))).sum::<f32>() / count;
            }
        },
    );
}

/// y = factor x + slope z + offset by channel, the coefficients by `of`.
#[inline(always)]
fn scale_channels(
    threads: &Threads,
    channels: usize,
    batch: usize,
    y: &mut [f32],
    [x, z]: [&[f32]; 2],
    of: impl Fn(usize) -> [f32; 3] + Sync,
) {
    let plane = plane(y.len(), batch, channels);
    threads.each(
        batch * channels,
        [y],
        &mut [],
        #[inline(always)]
        |Part { items, outputs: [y], .. }| {
            for (item, y) in items.zip(y.chunks_exact_mut(plane)) {
                let [factor, slope, offset] = of(item % channels);
                let x = &x[item * plane..][..plane];
                if z.is_empty() {
                    y.iter_mut().zip(x).for_each(|(y, x)| *y = x * factor + offset);
                } else {
                    let z = &z[item * plane..][..plane];
                    y.iter_mut().zip(x).zip(z).for_each(|((y, x), z)| *y = x * factor + z * slope + offset);
                }
            }
        },
    );
}

/// y = (x - mean) / sqrt(variance + epsilon) * scale + shift, of [x, mean, variance, scale, shift].
pub(super) fn normalize(threads: &Threads, batch: usize, epsilon: f64, inputs: [&[f32]; 5], y: &mut [f32]) {
    let [x, mean, variance, scale, shift] = inputs;
    let epsilon = epsilon as f32;
    scale_channels(threads, mean.len(), batch, y, [x, &[]], |c| {
        let factor = scale[c] / (variance[c] + epsilon).sqrt();
        [factor, 0.0, shift[c] - mean[c] * factor]
    });
}

/// Gradients of scale and shift, of [dy, x, mean, variance].
pub(super) fn normalize_sums(threads: &Threads, batch: usize, epsilon: f64, inputs: [&[f32]; 4], dscale: &mut [f32], dshift: &mut [f32]) {
    let [dy, x, mean, variance] = inputs;
    let channels = mean.len();
    let plane = plane(x.len(), batch, channels);
    threads.each(
        channels,
        [dscale, dshift],
        &mut [],
        #[inline(always)]
        |Part { items, outputs: [dscales, dshifts], .. }| {
            for ((channel, dscale), dshift) in items.zip(dscales).zip(dshifts) {
                let center = mean[channel];
                let (mut products, mut sum) = (0.0, 0.0);
                for example in 0..batch {
                    let start = (example * channels + channel) * plane;
                    let (dy, x) = (&dy[start..][..plane], &x[start..][..plane]);
                    sum += sum_of(dy, |dy| dy);
                    products += sum_of_pairs(dy, x, |dy, x, sum| dy * (x - center) + sum);
                }
                *dscale = products / (variance[channel] + epsilon as f32).sqrt();
                *dshift = sum;
            }
        },
    );
}

/// dx through the statistics of x, of [dy, x, mean, variance, scale, dscale, dshift].
pub(super) fn normalize_backward(threads: &Threads, batch: usize, epsilon: f64, inputs: [&[f32]; 7], dx: &mut [f32]) {
    let [dy, x, mean, variance, scale, dscale, dshift] = inputs;
    let count = (x.len() / mean.len()) as f32;
    scale_channels(threads, mean.len(), batch, dx, [dy, x], |c| {
        let deviation = (variance[c] + epsilon as f32).sqrt();
        let factor = scale[c] / deviation;
        let slope = -factor * dscale[c] / (deviation * count);
        [factor, slope, -factor * dshift[c] / count - mean[c] * slope]
    });
}

/// A pooling's windows, as the inputs that each output row and column reads.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    rows: Vec<Vec<usize>>,
    columns: Vec<Vec<usize>>,
    /// Divisor of a mean, `[row][column]`.
    counts: Vec<f32>,
    x_width: usize,
    x_plane: usize,
}

impl Windows {
    /// For x's `[rows, columns]` and y's; with padding counted in divisors or not.
    pub(super) fn new([vertical, horizontal]: [Axis; 2], y: [usize; 2], include_padding: bool) -> Self {
        let (rows, columns) = (vertical.taps(y[0]), horizontal.taps(y[1]));
        let counts = |axis: &Axis, taps: &[Vec<usize>]| -> Vec<usize> {
            taps.iter().enumerate().map(|(o, taps)| if include_padding { axis.padded_taps(o) } else { taps.len() }).collect()
        };
        let (down, across) = (counts(&vertical, &rows), counts(&horizontal, &columns));
        let counts = down.iter().flat_map(|down| across.iter().map(move |across| (down * across) as f32)).collect();
        Windows { rows, columns, counts, x_width: horizontal.input, x_plane: vertical.input * horizontal.input }
    }

    /// Calls `f(output, inputs of its window)` for each output of a plane.
    #[inline(always)]
    fn each(&self, mut f: impl FnMut(usize, &mut dyn Iterator<Item = usize>)) {
        for (row, rows) in self.rows.iter().enumerate() {
            for (column, columns) in self.columns.iter().enumerate() {
                let mut inputs = rows.iter().flat_map(|row| columns.iter().map(move |column| row * self.x_width + column));
                f(row * self.columns.len() + column, &mut inputs);
            }
        }
    }

    fn y_plane(&self) -> usize {
        self.counts.len()
    }
}

/// The first largest input of a window.
fn largest(x: &[f32], inputs: &mut dyn Iterator<Item = usize>) -> usize {
    let first = inputs.next().unwrap_or(0);
    inputs.fold(first, |best, input| if x[input] > x[best] { input } else { best })
}

/// For each plane of y: `f(plane of y, plane of x)`.
fn each_plane(threads: &Threads, y: &mut [f32], y_plane: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    threads.each(y.len() / y_plane, [y], &mut [], |Part { items, outputs: [y], .. }| {
        items.zip(y.chunks_exact_mut(y_plane)).for_each(|(item, y)| f(item, y));
    });
}

/// The largest of each window.
pub(super) fn max_pool(threads: &Threads, windows: &Windows, x: &[f32], y: &mut [f32]) {
    each_plane(threads, y, windows.y_plane(), |plane, y| {
        let x = &x[plane * windows.x_plane..][..windows.x_plane];
        windows.each(|output, inputs| y[output] = x[largest(x, inputs)]);
    });
}

/// Each window's gradient goes to its first largest element.
pub(super) fn max_pool_gradient(threads: &Threads, windows: &Windows, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    each_plane(threads, dx, windows.x_plane, |plane, dx| {
        let (x, dy) = (&x[plane * windows.x_plane..][..windows.x_plane], &dy[plane * windows.y_plane()..]);
        dx.fill(0.0);
        windows.each(|output, inputs| dx[largest(x, inputs)] += dy[output]);
    });
}

/// The mean of each window.
pub(super) fn average_pool(threads: &Threads, windows: &Windows, x: &[f32], y: &mut [f32]) {
    each_plane(threads, y, windows.y_plane(), |plane, y| {
        let x = &x[plane * windows.x_plane..][..windows.x_plane];
        windows.each(|output, inputs| y[output] = inputs.map(|input| x[input]).sum::<f32>() / windows.counts[output]);
    });
}

/// Each window's gradient is shared out evenly.
pub(super) fn average_pool_gradient(threads: &Threads, windows: &Windows, dy: &[f32], dx: &mut [f32]) {
    each_plane(threads, dx, windows.x_plane, |plane, dx| {
        let dy = &dy[plane * windows.y_plane()..];
        dx.fill(0.0);
        windows.each(|output, inputs| inputs.for_each(|input| dx[input] += dy[output] / windows.counts[output]));
    });
}

/// Logarithms of a row's softmax.
fn log_softmax(row: &[f32], y: &mut [f32]) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total = row.iter().map(|x| (x - most).exp()).sum::<f32>().ln();
    y.iter_mut().zip(row).for_each(|(y, x)| *y = x - most - total);
}

/// Softmax, or its logarithm, of rows of `classes`.
pub(super) fn softmax(threads: &Threads, classes: usize, log: bool, x: &[f32], y: &mut [f32]) {
    each_plane(threads, y, classes, |row, y| {
        log_softmax(&x[row * classes..][..classes], y);
        if !log {
            y.iter_mut().for_each(|y| *y = y.exp());
        }
    });
}

/// (loss, correct, gradient) of logits and class indices.
pub(super) fn cross_entropy(threads: &Threads, smoothing: f32, logits: &[f32], target: &[f32], outputs: [&mut [f32]; 3]) {
    let batch = target.len();
    let classes = logits.len() / batch;
    threads.each(batch, outputs, &mut [], |Part { items, outputs: [loss, correct, gradient], .. }| {
        for (i, example) in items.enumerate() {
            let row = &logits[example * classes..][..classes];
            let gradient = &mut gradient[i * classes..][..classes];
            log_softmax(row, gradient);
            let wanted = target[example] as usize;
            let best = (0..classes).fold(0, |best, c| if row[c] > row[best] { c } else { best });
            correct[i] = f32::from(u8::from(best == wanted));
            loss[i] = 0.0;
            for (class, gradient) in gradient.iter_mut().enumerate() {
                let share = smoothing / classes as f32 + if class == wanted { 1.0 - smoothing } else { 0.0 };
                loss[i] -= share * *gradient;
                *gradient = (gradient.exp() - share) / batch as f32;
            }
        }
    });
}

/// (loss, correct, gradient) of predictions and values.
pub(super) fn squared_error(batch: usize, prediction: &[f32], target: &[f32], outputs: [&mut [f32]; 3]) {
    let [loss, correct, gradient] = outputs;
    let elements = prediction.len() / batch;
    correct.fill(0.0);
    loss.fill(0.0);
    for (i, gradient) in gradient.iter_mut().enumerate() {
        let difference = prediction[i] - target[i];
        loss[i / elements] += difference * difference / elements as f32;
        *gradient = 2.0 * difference / (elements * batch) as f32;
    }
}
