//! Tiles: the compute-bound inner pieces that kernels call, each written once, generic over [`Lanes`].
//!
//! The `tiles!` table below is the only list of tiles. It defines each tile's shape (constants of a call), its operands, the
//! symbol the JIT calls for each instruction set, and what the Rust engine prints.
//!
//! Units: a *vector* is one lane group, `L::LANES` consecutive `f32`, one example a lane. Every stride and offset of a shape counts
//! vectors unless its name ends in `_elements`. Activations lie `[group][y][channel][x][lane]`; `plane` is one group of them.
//!
//! Safety, for every tile: operands point to memory that the shape's extents and strides stay inside of, aligned to 64 bytes for
//! vectors, and written by nobody else meanwhile. The compiler's memory plan is what guarantees it.
//!
//! Tiles allocate nothing and take no lock. All are `#[inline(always)]`: call them from `Lanes::vectorize`, or their
//! instances in [`out_of_line`], or `Tile::symbol`.
#![allow(clippy::missing_safety_doc)] // Stated above, once for all tiles.

#[macro_use]
mod table;
pub mod convolution;
pub mod data_movement;
pub mod embedding;
pub mod loss;
pub mod matrix_product;
pub mod normalization;
pub mod pooling;
pub mod random_mask;
pub mod reduction;
#[cfg(feature = "std")]
pub mod reference;
pub mod update;

#[cfg(all(feature = "symbols", not(test)))]
use crate::lanes;
use crate::lanes::Isa;
#[cfg(all(feature = "symbols", not(test)))]
use crate::lanes::Lanes;
use crate::prelude::*;

tiles! {
    // ---- data_movement ------------------------------------------------------------------------------------------------

    /// Copies rows of a plane into a padded scratch ring: `target[r][c][left + x] = source[first_row + r][c][x]`, `fill` elsewhere.
    /// `source` is `[rows_in_plane][plane_channels][width]`, already moved to the first channel; `target` is
    /// `[rows][channels][left + width + right]`. `first_row` may be negative or reach past the plane: those rows are `fill`.
    data_movement::stage_rows(StageRows {
        rows: usize, channels: usize, width: usize, left: usize, right: usize, rows_in_plane: usize, plane_channels: usize, fill: f32
    }; source: *const f32, first_row: isize, target: *mut f32);

    /// As [`StageRows`] with padding of 0, of the ReLU of `x * factor[c] + shift[c]`, a fused multiply-add. `x` is a plane.
    data_movement::stage_normalized(StageNormalized {
        rows: usize, channels: usize, width: usize, left: usize, right: usize, rows_in_plane: usize
    }; x: *const f32, factor: *const f32, shift: *const f32, first_row: isize, target: *mut f32);

    /// As [`StageRows`] with padding of 0, of the gradient through batch normalization, computed on the way:
    /// `gradient * factor[c] + (x * slope[c] + offset[c])`, a fused multiply-add each, times `live[lane]`. `gradient` and `x` are planes.
    data_movement::stage_normalize_backward(StageNormalizeBackward {
        rows: usize, channels: usize, width: usize, left: usize, right: usize, rows_in_plane: usize
    }; gradient: *const f32, x: *const f32, live: *const f32, factor: *const f32, slope: *const f32, offset: *const f32,
        first_row: isize, target: *mut f32);

    /// Transposes a group's examples into a plane: `target[y][c][x][lane] = source[example[lane]][c][y][x]`.
    /// `source` is the whole batch in ONNX order; `example` has one batch index a lane (dead lanes repeat a live example).
    data_movement::pack(Pack { channels: usize, rows: usize, width: usize };
        source: *const f32, example: *const u32, target: *mut f32);

    /// `target[lane] = source[example[lane]]` for one group of class indices.
    data_movement::pack_labels(PackLabels {}; source: *const u32, example: *const u32, target: *mut u32);

    /// Writes zeros to `vectors` vectors.
    data_movement::clear(Clear { vectors: usize }; target: *mut f32);

    // ---- convolution: products with a sparse matrix whose structure is a stream of offsets -----------------------------

    /// SpMM. For each block row b and pixel p: `y[b R + r][p] = bias + sum over units u of b, c < C: w[u][r][c] * x[offset[u] + c x_channel + p x_pixel]`.
    /// Units of block row b in the k-th of `channel_blocks` blocks of input channels are `starts[b channel_blocks + k]..starts[b channel_blocks + k + 1]`:
    /// one block's pixels stay in the first-level cache while all rows pass by. `values` is `[unit][R][C]`; `bias` is one a row, or null for zero.
    /// R (`rows_per_block`) in 1, 2, 4, 8, 16 and C (`columns_per_block`) in 1, 2, 4. Sums run in stream order, one fused multiply-add each.
    convolution::spmm(Spmm {
        block_rows: usize, channel_blocks: usize, rows_per_block: usize, columns_per_block: usize, pixels: usize,
        x_pixel: usize, x_channel: usize, y_pixel: usize, y_channel: usize
    }; x: *const f32, y: *mut f32, starts: *const u32, offsets: *const u32, values: *const f32, bias: *const f32);

    /// SpMM-T and SDDMM in one sweep. For each block column b, c < C and pixel p, with channel i = b C + c:
    /// `dx[i][p] = sum over units u of b, r < R: w[u][r][c] * dy[offset[u] + r dy_channel + p dy_pixel]` and
    /// `dw[u][r][c] += sum over p and lanes: x[i][p] * dy[...]`. `dx` is overwritten, also where a column has no unit; `dw` is added to.
    /// Where `factor` is not null, the input is not `x` but the ReLU of `x * factor[i] + shift[i]`, a fused multiply-add.
    /// `x` and `dx` share their strides and may be the same memory; `values` and `dw` are `[unit][R][C]` in the stream's order.
    convolution::backward_sweep(BackwardSweep {
        block_columns: usize, rows_per_block: usize, columns_per_block: usize, pixels: usize,
        x_pixel: usize, x_channel: usize, dy_pixel: usize, dy_channel: usize
    }; x: *const f32, factor: *const f32, shift: *const f32, dx: *mut f32, dy: *const f32,
        starts: *const u32, offsets: *const u32, values: *const f32, dw: *mut f32);

    /// SDDMM alone: as [`BackwardSweep`] without `dx`.
    convolution::weight_gradient(WeightGradient {
        block_columns: usize, rows_per_block: usize, columns_per_block: usize, pixels: usize,
        x_pixel: usize, x_channel: usize, dy_pixel: usize, dy_channel: usize
    }; x: *const f32, factor: *const f32, shift: *const f32, dy: *const f32, starts: *const u32, offsets: *const u32, dw: *mut f32);

    /// Zeros `dw` over the units of `block_columns` columns: `starts[0]..starts[block_columns]`, `unit_elements` floats each.
    convolution::clear_units(ClearUnits { block_columns: usize, unit_elements: usize }; starts: *const u32, dw: *mut f32);

    /// Sums partial weight gradients in order of partial and puts them in mask order:
    /// `gradient[source[u]][e] = sum over p: partials[p partial_stride_elements + u unit_elements + e]`, for the `part`-th of `parts` equal
    /// ranges of the `count[0]` units.
    convolution::gather_gradient(GatherGradient { partials: usize, partial_stride_elements: usize, unit_elements: usize, parts: usize };
        part: usize, partials_in: *const f32, source: *const u32, count: *const u32, gradient: *mut f32);

    /// Puts values in a stream's order: `stream[u][e] = values[source[u]][e]`, for the `part`-th of `parts` ranges of `count[0]` units.
    convolution::gather_values(GatherValues { unit_elements: usize, parts: usize };
        part: usize, values: *const f32, source: *const u32, count: *const u32, stream: *mut f32);

    // ---- products and tables of each lane's own ------------------------------------------------------------------------------

    /// `y[i][j] = sum over k < depth: a[i][k] * b[k][j]` for i < `rows` and j < `columns`, a product of each lane's own matrices. Sums run
    /// in order of k, one fused multiply-add each.
    matrix_product::matrix_product(MatrixProduct {
        rows: usize, columns: usize, depth: usize,
        a_row: usize, a_inner: usize, b_inner: usize, b_column: usize, y_row: usize, y_column: usize
    }; a: *const f32, b: *const f32, y: *mut f32);

    /// `y[p][d] = table[index[p]][d]` for each of `positions` indices of a lane; NaN where the index is no row of the table.
    embedding::embedding(Embedding { positions: usize, embedding_width: usize, table_rows: usize };
        index: *const f32, table: *const f32, y: *mut f32);

    /// Zeros the `part`-th of `parts` ranges of each row's elements of `dtable`, then adds `dy[g][p][d]` of every group, position and lane, in
    /// this order, to row `index[g][p]`, if that is one.
    embedding::embedding_gradient(EmbeddingGradient {
        groups: usize, positions: usize, embedding_width: usize, table_rows: usize, parts: usize
    }; part: usize, index: *const f32, dy: *const f32, dtable: *mut f32);

    // ---- normalization ----------------------------------------------------------------------------------------------------

    /// Mean and sum of squared deviations of each channel over one group: `out[c] = (mean, m2)` over the lanes where `live` is 1 and all
    /// `rows` x `width` positions. Two passes, never E[x^2] - mean^2. A group without a live lane gives (0, 0).
    normalization::moments(Moments { rows: usize, channels: usize, width: usize }; x: *const f32, live: *const f32, out: *mut f32);

    /// Merges the groups' moments in group order (Chan) into `mean[c]` and the biased `variance[c]`, for `channels` channels.
    /// `partials` is `[group][partial_channels][2]`, moved to the first channel; a group's weight is its live lanes times `positions`.
    normalization::merge_moments(MergeMoments { groups: usize, channels: usize, partial_channels: usize, positions: usize };
        partials: *const f32, live: *const f32, mean: *mut f32, variance: *mut f32);

    // ---- reduction ---------------------------------------------------------------------------------------------------------

    /// `out[i] = sum over p in order, then lanes in a fixed tree: partials[p][i][lane]`, for `elements` elements.
    reduction::sum_partials(SumPartials { partials: usize, partial_stride: usize, elements: usize }; partials_in: *const f32, out: *mut f32);

    // ---- pooling: whole planes, windows clipped at the border ------------------------------------------------------------------

    /// `y[oy][c][ox] = max over the window`; padding never wins. NaN wins.
    pooling::max_pool(MaxPool {
        channels: usize, rows: usize, width: usize, out_rows: usize, out_width: usize, plane_channels: usize,
        kernel_rows: usize, kernel_width: usize, stride_rows: usize, stride_width: usize,
        dilation_rows: usize, dilation_width: usize, top: usize, left: usize
    }; x: *const f32, y: *mut f32);

    /// Zeros `dx`, then adds each window's `dy` to its first largest element, in row-major order of the window.
    pooling::max_pool_backward(MaxPoolBackward {
        channels: usize, rows: usize, width: usize, out_rows: usize, out_width: usize, plane_channels: usize,
        kernel_rows: usize, kernel_width: usize, stride_rows: usize, stride_width: usize,
        dilation_rows: usize, dilation_width: usize, top: usize, left: usize
    }; x: *const f32, dy: *const f32, dx: *mut f32);

    /// Mean of each window; the divisor is the window's elements inside the plane, or, with `include_padding` = 1, those inside the padded
    /// plane (`rows + top + bottom` by `width + left + right`: ONNX's ceil_mode does not count what lies past it).
    pooling::average_pool(AveragePool {
        channels: usize, rows: usize, width: usize, out_rows: usize, out_width: usize, plane_channels: usize,
        kernel_rows: usize, kernel_width: usize, stride_rows: usize, stride_width: usize,
        dilation_rows: usize, dilation_width: usize, top: usize, left: usize, bottom: usize, right: usize, include_padding: usize
    }; x: *const f32, y: *mut f32);

    /// Zeros `dx`, then spreads each `dy` over its window by the same divisor.
    pooling::average_pool_backward(AveragePoolBackward {
        channels: usize, rows: usize, width: usize, out_rows: usize, out_width: usize, plane_channels: usize,
        kernel_rows: usize, kernel_width: usize, stride_rows: usize, stride_width: usize,
        dilation_rows: usize, dilation_width: usize, top: usize, left: usize, bottom: usize, right: usize, include_padding: usize
    }; dy: *const f32, dx: *mut f32);

    // ---- loss: one group at a time ------------------------------------------------------------------------------------------------

    /// Cross-entropy of a softmax: `logits` is `[class][lane]`, `target` one class a lane. Writes `loss[lane]`, `correct[lane]`
    /// (1 where the first largest logit is the target) and `gradient[class][lane] = live * inverse_count[0] * (softmax - smoothed one-hot)`.
    /// `smoothing` is label smoothing as PyTorch defines it.
    loss::softmax_cross_entropy(SoftmaxCrossEntropy { classes: usize, smoothing: f32 };
        logits: *const f32, target: *const u32, live: *const f32, inverse_count: *const f32,
        loss: *mut f32, correct: *mut f32, gradient: *mut f32);

    /// Mean of squared differences: `prediction` and `target` are `[element][lane]`; `loss[lane]` is the example's mean;
    /// `gradient = live * inverse_count[0] * 2 (prediction - target) / elements`; `correct` is 0.
    loss::mean_squared_error(MeanSquaredError { elements: usize };
        prediction: *const f32, target: *const f32, live: *const f32, inverse_count: *const f32,
        loss: *mut f32, correct: *mut f32, gradient: *mut f32);

    /// Softmax over `classes` for each of `rows` rows `[row][class][lane]`; its logarithm where `log` is 1.
    loss::softmax(Softmax { rows: usize, classes: usize, log: usize }; x: *const f32, y: *mut f32);

    // ---- random_mask ------------------------------------------------------------------------------------------------------------------

    /// Dropout mask: `out[i][lane]` is 0 with probability `ratio`, else 1 / (1 - ratio), for `vectors` vectors of the group that begins at
    /// vector `first`; drawn by counter from (`seed[0..2]`, `seed[2..4]` the step, `node`, first + i, lane).
    random_mask::dropout_mask(DropoutMask { vectors: usize, node: usize, ratio: f32 }; first: usize, seed: *const u32, out: *mut f32);

    // ---- update: live weights only; the `part`-th of `parts` ranges of count[0] * unit_elements elements ---------------------------------------

    /// PyTorch's SGD without momentum. `hyper` is laid out by [`crate::optim::Hyper`].
    update::sgd(Sgd { unit_elements: usize, parts: usize };
        part: usize, count: *const u32, hyper: *const f32, value: *mut f32, gradient: *const f32);

    /// PyTorch's SGD with momentum (dampening 0), Nesterov's where `nesterov` is 1.
    update::sgd_momentum(SgdMomentum { unit_elements: usize, parts: usize, nesterov: usize };
        part: usize, count: *const u32, hyper: *const f32, value: *mut f32, gradient: *const f32, momentum: *mut f32);

    /// PyTorch's Adam, or AdamW where `decoupled` is 1.
    update::adam(Adam { unit_elements: usize, parts: usize, decoupled: usize };
        part: usize, count: *const u32, hyper: *const f32, value: *mut f32, gradient: *const f32, first: *mut f32, second: *mut f32);

    /// PyTorch's Adagrad (no decay of the learning rate): `squares` sums the gradient's.
    update::adagrad(Adagrad { unit_elements: usize, parts: usize };
        part: usize, count: *const u32, hyper: *const f32, value: *mut f32, gradient: *const f32, squares: *mut f32);

    // As above, with moments in half of the bits: widened, moved in f32, and rounded stochastically as they are stored (`math::narrowed_stochastically`), by bits
    // drawn by counter from (`seed[0..2]`, `seed[2..4]` the step, `parameter[0]`, element).

    /// As [`SgdMomentum`], the momentum in half of the bits.
    update::sgd_momentum_narrow(SgdMomentumNarrow { unit_elements: usize, parts: usize, nesterov: usize };
        part: usize, count: *const u32, hyper: *const f32, value: *mut f32, gradient: *const f32, momentum: *mut u16,
        seed: *const u32, parameter: *const f32);

    /// As [`Adam`], both moments in half of the bits.
    update::adam_narrow(AdamNarrow { unit_elements: usize, parts: usize, decoupled: usize };
        part: usize, count: *const u32, hyper: *const f32, value: *mut f32, gradient: *const f32, first: *mut u16, second: *mut u16,
        seed: *const u32, parameter: *const f32);

    /// As [`Adagrad`], the sum in half of the bits.
    update::adagrad_narrow(AdagradNarrow { unit_elements: usize, parts: usize };
        part: usize, count: *const u32, hyper: *const f32, value: *mut f32, gradient: *const f32, squares: *mut u16,
        seed: *const u32, parameter: *const f32);

    /// `out[part] = sum of squares` of the range, for clipping by the global norm.
    update::sum_squares(SumSquares { unit_elements: usize, parts: usize };
        part: usize, count: *const u32, gradient: *const f32, out: *mut f32);

    /// From `partials` sums of squares in order: `hyper`'s gradient scale = min(1, max_norm / (norm + 1e-6)), as PyTorch clips.
    update::clip_scale(ClipScale { partials: usize }; sums: *const f32, hyper: *mut f32);
}

pub use table::{OperandKind, ShapeField};
