//! What tiles mean, in f64 and straight from the table's definitions: slow, obvious, and sharing no code with them.
//!
//! Arrays are indexed as the tiles index memory. Sums come with what an error bound needs, see [`Exact`].

use super::*;
use crate::optim::Hyper;

/// A sum of products as it should be, and what bounds the error of computing it in f32 in any order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exact {
    /// The sum.
    pub value: f64,
    /// The sum of its terms' magnitudes.
    pub magnitude: f64,
    /// How many terms.
    pub terms: usize,
}

impl Exact {
    /// Adds a term.
    pub fn add(&mut self, term: f64) {
        self.value += term;
        self.magnitude += term.abs();
        self.terms += 1;
    }

    /// The largest error that n roundings of an f32 sum can make: each of at most half a unit in the last place of the magnitude.
    pub fn tolerance(&self) -> f64 {
        (self.terms + 2) as f64 * f64::from(f32::EPSILON) * self.magnitude + f64::from(f32::MIN_POSITIVE)
    }

    /// Whether `got` is this sum but for rounding.
    pub fn admits(&self, got: f32) -> bool {
        (f64::from(got) - self.value).abs() <= self.tolerance()
    }
}

/// `y[row][pixel][lane]` of [`Spmm`], without strides.
pub fn spmm(shape: &Spmm, lanes: usize, x: &[f32], starts: &[u32], offsets: &[u32], values: &[f32], bias: Option<&[f32]>) -> Vec<Exact> {
    let (rows, columns) = (shape.rows_per_block, shape.columns_per_block);
    let mut y = vec![Exact::default(); shape.block_rows * rows * shape.pixels * lanes];
    for (i, sum) in y.iter_mut().enumerate() {
        let (lane, pixel, row) = (i % lanes, i / lanes % shape.pixels, i / lanes / shape.pixels);
        if let Some(bias) = bias {
            sum.add(f64::from(bias[row]));
        }
        let list = row / rows * shape.channel_blocks;
        for unit in starts[list] as usize..starts[list + shape.channel_blocks] as usize {
            for c in 0..columns {
                let weight = values[(unit * rows + row % rows) * columns + c];
                let at = offsets[unit] as usize + c * shape.x_channel + pixel * shape.x_pixel;
                sum.add(f64::from(weight) * f64::from(x[at * lanes + lane]));
            }
        }
    }
    y
}

/// `y[row][column][lane]` of [`MatrixProduct`], without strides.
pub fn matrix_product(shape: &MatrixProduct, lanes: usize, a: &[f32], b: &[f32]) -> Vec<Exact> {
    let mut y = vec![Exact::default(); shape.rows * shape.columns * lanes];
    for (i, sum) in y.iter_mut().enumerate() {
        let (lane, column, row) = (i % lanes, i / lanes % shape.columns, i / lanes / shape.columns);
        for k in 0..shape.depth {
            let left = a[(row * shape.a_row + k * shape.a_inner) * lanes + lane];
            sum.add(f64::from(left) * f64::from(b[(k * shape.b_inner + column * shape.b_column) * lanes + lane]));
        }
    }
    y
}

/// `dx[channel][pixel][lane]`, without strides, and the increments of `dw[unit][r][c]` of [`BackwardSweep`].
pub fn backward_sweep(
    shape: &BackwardSweep,
    lanes: usize,
    x: &[f32],
    dy: &[f32],
    starts: &[u32],
    offsets: &[u32],
    values: &[f32],
) -> (Vec<Exact>, Vec<Exact>) {
    let (rows, columns) = (shape.rows_per_block, shape.columns_per_block);
    let mut dx = vec![Exact::default(); shape.block_columns * columns * shape.pixels * lanes];
    let mut dw = vec![Exact::default(); values.len()];
    for (i, sum) in dx.iter_mut().enumerate() {
        let (lane, pixel, channel) = (i % lanes, i / lanes % shape.pixels, i / lanes / shape.pixels);
        let x = f64::from(x[(channel * shape.x_channel + pixel * shape.x_pixel) * lanes + lane]);
        let units = starts[channel / columns] as usize..starts[channel / columns + 1] as usize;
        for (unit, &offset) in units.clone().zip(&offsets[units]) {
            for r in 0..rows {
                let element = (unit * rows + r) * columns + channel % columns;
                let at = offset as usize + r * shape.dy_channel + pixel * shape.dy_pixel;
                let dy = f64::from(dy[at * lanes + lane]);
                sum.add(f64::from(values[element]) * dy);
                dw[element].add(x * dy);
            }
        }
    }
    (dx, dw)
}

/// (mean, squared deviations) of each channel, as [`Moments`].
pub fn moments(shape: &Moments, lanes: usize, x: &[f32], live: &[f32]) -> Vec<(f64, f64)> {
    let of_channel = |c: usize| -> Vec<f64> {
        let all = (0..shape.rows * shape.width * lanes).filter(|i| live[i % lanes] == 1.0);
        all.map(|i| {
            let (lane, column, row) = (i % lanes, i / lanes % shape.width, i / lanes / shape.width);
            f64::from(x[((row * shape.channels + c) * shape.width + column) * lanes + lane])
        })
        .collect()
    };
    (0..shape.channels)
        .map(|c| {
            let values = of_channel(c);
            let mean = values.iter().sum::<f64>() / (values.len().max(1) as f64);
            (mean, values.iter().map(|v| (v - mean).powi(2)).sum())
        })
        .collect()
}

/// (mean, variance) of each channel, as [`MergeMoments`].
pub fn merge_moments(shape: &MergeMoments, lanes: usize, partials: &[f32], live: &[f32]) -> Vec<(f64, f64)> {
    let weight = |g: usize| f64::from(live[g * lanes..][..lanes].iter().sum::<f32>()) * shape.positions as f64;
    let total = (0..shape.groups).map(weight).sum::<f64>().max(f64::MIN_POSITIVE);
    (0..shape.channels)
        .map(|c| {
            let partial = |g: usize, which: usize| f64::from(partials[2 * (g * shape.partial_channels + c) + which]);
            let mean = (0..shape.groups).map(|g| weight(g) * partial(g, 0)).sum::<f64>() / total;
            let squares: f64 =
                (0..shape.groups).filter(|&g| weight(g) > 0.0).map(|g| partial(g, 1) + weight(g) * (partial(g, 0) - mean).powi(2)).sum();
            (mean, squares / total)
        })
        .collect()
}

/// `out[i]` of [`SumPartials`].
pub fn sum_partials(shape: &SumPartials, lanes: usize, partials: &[f32]) -> Vec<Exact> {
    let mut out = vec![Exact::default(); shape.elements];
    for (i, sum) in out.iter_mut().enumerate() {
        for p in 0..shape.partials {
            partials[(p * shape.partial_stride + i) * lanes..][..lanes].iter().for_each(|&v| sum.add(f64::from(v)));
        }
    }
    out
}

/// The inputs of a window that are inside of the plane, in row-major order, as vectors; and how many are inside of the padded plane.
pub fn window(shape: &AveragePool, oy: usize, c: usize, ox: usize) -> (Vec<usize>, usize) {
    let (mut inside, mut padded) = (Vec::new(), 0);
    for ky in 0..shape.kernel_rows {
        for kx in 0..shape.kernel_width {
            // Positions in the padded plane.
            let (y, x) = (oy * shape.stride_rows + ky * shape.dilation_rows, ox * shape.stride_width + kx * shape.dilation_width);
            padded += usize::from(y < shape.top + shape.rows + shape.bottom && x < shape.left + shape.width + shape.right);
            if (shape.top..shape.top + shape.rows).contains(&y) && (shape.left..shape.left + shape.width).contains(&x) {
                inside.push(((y - shape.top) * shape.plane_channels + c) * shape.width + x - shape.left);
            }
        }
    }
    (inside, padded)
}

/// Every output of a pooling: its vector, and its window as [`window`] gives it.
fn windows(shape: &AveragePool) -> Vec<(usize, Vec<usize>, usize)> {
    let mut all = Vec::new();
    for oy in 0..shape.out_rows {
        for c in 0..shape.channels {
            for ox in 0..shape.out_width {
                let (inside, padded) = window(shape, oy, c, ox);
                let divisor = if shape.include_padding == 1 { padded } else { inside.len() };
                all.push(((oy * shape.plane_channels + c) * shape.out_width + ox, inside, divisor));
            }
        }
    }
    all
}

/// The first largest element of a window in one lane, a NaN being larger than anything.
fn largest(inside: &[usize], lanes: usize, lane: usize, x: &[f32]) -> usize {
    let mut best = inside[0];
    for &i in inside {
        let (v, b) = (x[i * lanes + lane], x[best * lanes + lane]);
        if v > b || v.is_nan() && !b.is_nan() {
            best = i;
        }
    }
    best
}

/// `y` of max pooling; `shape` holds the geometry. Elements that it does not write are zero, here and below.
pub fn max_pool(shape: &AveragePool, lanes: usize, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; shape.out_rows * shape.plane_channels * shape.out_width * lanes];
    for (out, inside, _) in windows(shape) {
        for lane in 0..lanes {
            y[out * lanes + lane] = x[largest(&inside, lanes, lane, x) * lanes + lane];
        }
    }
    y
}

/// `dx` of max pooling.
pub fn max_pool_backward(shape: &AveragePool, lanes: usize, x: &[f32], dy: &[f32]) -> Vec<Exact> {
    let mut dx = vec![Exact::default(); shape.rows * shape.plane_channels * shape.width * lanes];
    for (out, inside, _) in windows(shape) {
        for lane in 0..lanes {
            dx[largest(&inside, lanes, lane, x) * lanes + lane].add(f64::from(dy[out * lanes + lane]));
        }
    }
    dx
}

/// `y` of average pooling.
pub fn average_pool(shape: &AveragePool, lanes: usize, x: &[f32]) -> Vec<Exact> {
    let mut y = vec![Exact::default(); shape.out_rows * shape.plane_channels * shape.out_width * lanes];
    for (out, inside, divisor) in windows(shape) {
        for lane in 0..lanes {
            inside.iter().for_each(|i| y[out * lanes + lane].add(f64::from(x[i * lanes + lane]) / divisor as f64));
        }
    }
    y
}

/// `dx` of average pooling.
pub fn average_pool_backward(shape: &AveragePool, lanes: usize, dy: &[f32]) -> Vec<Exact> {
    let mut dx = vec![Exact::default(); shape.rows * shape.plane_channels * shape.width * lanes];
    for (out, inside, divisor) in windows(shape) {
        for lane in 0..lanes {
            inside.iter().for_each(|i| dx[i * lanes + lane].add(f64::from(dy[out * lanes + lane]) / divisor as f64));
        }
    }
    dx
}

/// Logarithms of the softmax of one example.
pub fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|v| (v - largest).exp()).sum();
    logits.iter().map(|v| v - largest - sum.ln()).collect()
}

/// (loss, whether the first largest logit is the target, gradient before the mean) of one example, with PyTorch's label smoothing.
pub fn cross_entropy(logits: &[f64], target: usize, smoothing: f64) -> (f64, bool, Vec<f64>) {
    let logarithms = log_softmax(logits);
    let wanted: Vec<f64> =
        (0..logits.len()).map(|c| smoothing / logits.len() as f64 + if c == target { 1.0 - smoothing } else { 0.0 }).collect();
    let loss = -wanted.iter().zip(&logarithms).filter(|(w, _)| **w != 0.0).map(|(w, l)| w * l).sum::<f64>();
    let first = (0..logits.len()).fold(0, |best, c| if logits[c] > logits[best] { c } else { best });
    (loss, first == target, logarithms.iter().zip(&wanted).map(|(l, w)| l.exp() - w).collect())
}

/// (loss, gradient before the mean over examples) of one example.
pub fn mean_squared_error(prediction: &[f64], target: &[f64]) -> (f64, Vec<f64>) {
    let n = prediction.len() as f64;
    let differences: Vec<f64> = prediction.iter().zip(target).map(|(p, t)| p - t).collect();
    (differences.iter().map(|d| d * d).sum::<f64>() / n, differences.iter().map(|d| 2.0 * d / n).collect())
}

/// Hyper-parameters and state of one weight: (value, first moment, second moment).
pub type Weight = (f64, f64, f64);

/// One step of SGD; `momentum` is `None` without, else whether it is Nesterov's.
pub fn sgd(hyper: &[f32], (value, moment, second): Weight, gradient: f64, momentum: Option<bool>) -> Weight {
    let h = |i: usize| f64::from(hyper[i]);
    let gradient = gradient * h(Hyper::GRADIENT_SCALE) + h(Hyper::WEIGHT_DECAY) * value;
    let (direction, moment) = match momentum {
        None => (gradient, moment),
        Some(nesterov) => {
            let moment = h(Hyper::MOMENTUM) * moment + gradient;
            (if nesterov { gradient + h(Hyper::MOMENTUM) * moment } else { moment }, moment)
        }
    };
    (value - h(Hyper::LEARNING_RATE) * direction, moment, second)
}

/// One step of Adam, or of AdamW where `decoupled`.
pub fn adam(hyper: &[f32], (mut value, first, second): Weight, gradient: f64, decoupled: bool) -> Weight {
    let h = |i: usize| f64::from(hyper[i]);
    let mut gradient = gradient * h(Hyper::GRADIENT_SCALE);
    if decoupled {
        value *= 1.0 - h(Hyper::LEARNING_RATE) * h(Hyper::WEIGHT_DECAY);
    } else {
        gradient += h(Hyper::WEIGHT_DECAY) * value;
    }
    let first = h(Hyper::BETA1) * first + (1.0 - h(Hyper::BETA1)) * gradient;
    let second = h(Hyper::BETA2) * second + (1.0 - h(Hyper::BETA2)) * gradient * gradient;
    let denominator = second.sqrt() / h(Hyper::BIAS_CORRECTION2).sqrt() + h(Hyper::EPSILON);
    (value - h(Hyper::LEARNING_RATE) / h(Hyper::BIAS_CORRECTION1) * first / denominator, first, second)
}

/// One step of Adagrad; the first moment is the sum of squares.
pub fn adagrad(hyper: &[f32], (value, squares, second): Weight, gradient: f64) -> Weight {
    let h = |i: usize| f64::from(hyper[i]);
    let gradient = gradient * h(Hyper::GRADIENT_SCALE) + h(Hyper::WEIGHT_DECAY) * value;
    let squares = squares + gradient * gradient;
    (value - h(Hyper::LEARNING_RATE) * gradient / (squares.sqrt() + h(Hyper::EPSILON)), squares, second)
}

/// `x` rounded to a float of 8 leading bits by `draw`, which all 2^16 of are as likely: away from zero where it and the part of 2^16 by which `x` lies
/// above the smaller neighbour add up to 2^16 or more; never beyond the largest finite one.
pub fn narrowed_stochastically(x: f32, draw: u16) -> f64 {
    let magnitude = f64::from(x).abs();
    let largest = (2.0 - 2.0_f64.powi(-7)) * 2.0_f64.powi(127);
    if magnitude.is_nan() || magnitude >= largest {
        return if x.is_finite() { largest.copysign(f64::from(x)) } else { f64::from(x) };
    }
    let exponent = (-126..=127).rev().find(|&e| 2.0_f64.powi(e) <= magnitude).unwrap_or(-126);
    let unit = 2.0_f64.powi(exponent - 7);
    let below = (magnitude / unit).floor();
    let up = (magnitude / unit - below) * 65536.0 + f64::from(draw) >= 65536.0;
    ((below + f64::from(u8::from(up))) * unit).copysign(f64::from(x))
}
