//! Convolution: rows are staged into a padded ring in the worker's scratch, then products with the sparse matrix run over them.
//!
//! Forward, an item is a group and a band of output rows; backward, a group and a range of input channels. Vertical and horizontal
//! strides split the backward pass into parity classes, each with its own list of units.

use super::kernel::{KernelBuilder, at, call, null, parts, repeat, start};
use super::normalization::{NormalizedGradient, NormalizedValue};
use super::parameters::MatrixDraft;
use super::staging::{PlaneSource, StagedPlane, Staging};
use super::{Class, LowerError, PhaseLowering};
use crate::ir::{NodeId, Value};
use crate::op::{Convolution, Op};
use crate::program::{Affine, Base, Operand, Statement};
use mest_runtime::manifest::StreamOrder;
use mest_runtime::tile::{BackwardSweep, ClearUnits, Spmm, Tile, WeightGradient};

/// Extents and geometry of one convolution, forward.
#[derive(Clone, Copy, Debug)]
struct Extents {
    channels: usize,
    rows: usize,
    width: usize,
    outputs: usize,
    out_rows: usize,
    out_width: usize,
    kernel: [usize; 2],
}

/// Bands of output rows, one kernel's domain.
struct Band {
    /// First row of the first band.
    first: usize,
    /// How many bands.
    bands: usize,
    /// Rows of each.
    rows: usize,
    /// Input rows that an output row reads, from the first to the last.
    window: usize,
    /// Lists of the stream for each block row.
    channel_blocks: usize,
}

impl PhaseLowering<'_, '_> {
    fn extents(&self, id: NodeId, y: Value, matrix: &MatrixDraft) -> Result<Extents, LowerError> {
        let x = self.graph.inputs(id)[0];
        let [channels, rows, width] = self.image(x);
        let [outputs, out_rows, out_width] = self.image(y);
        if self.shape(x).rank() != 4 {
            return Err(self.unsupported(id, format!("a convolution over {} has no kernel; 2-d images only", self.shape(x))));
        }
        Ok(Extents { channels, rows, width, outputs, out_rows, out_width, kernel: [matrix.matrix.kernel_rows, matrix.matrix.kernel_width] })
    }

    pub(super) fn convolution(&mut self, id: NodeId, op: &Convolution) -> Result<(), LowerError> {
        let (parameter, matrix) = self.weight(id, 1)?;
        let y = self.value(id, 0);
        let e = self.extents(id, y, &matrix)?;
        let lanes = self.lanes();
        let pixel_width = (e.kernel[1] - 1) * op.dilations[1] + 1;
        let needed = (e.out_width - 1) * op.strides[1] + pixel_width;
        let staging = Staging::new(op.pads[1], e.width, needed);
        let window = (e.kernel[0] - 1) * op.dilations[0] + 1;
        let span = |n: usize| (n - 1) * op.strides[0] + window;
        let direct = is_direct(op);
        let most = e.out_rows.div_ceil(4usize.div_ceil(self.groups()));
        let band = Staging::band(e.out_rows, most, e.channels * staging.pitch * lanes, self.shared.options.stage_bytes, span);
        let tile_width = (matrix.tile_pixels(lanes) - 1) * op.strides[1] + pixel_width;
        let channel_blocks = matrix.channel_blocks(e.kernel[0] * tile_width * lanes * 4);
        let order = StreamOrder::Forward {
            channel: staging.pitch,
            kernel_row: op.dilations[0] * e.channels * staging.pitch,
            kernel_column: op.dilations[1],
            channel_blocks,
        };
        let stream = self.shared.stream(parameter, order, false);
        let full = e.out_rows / band;
        for (first, bands, rows) in [(0, full, band), (full * band, 1, e.out_rows - full * band)] {
            if bands > 0 && rows > 0 {
                self.convolution_band(id, op, &e, &matrix, staging, stream, direct, &Band { first, bands, rows, window, channel_blocks })?;
            }
        }
        Ok(())
    }

    /// One kernel over bands of output rows. Rows are staged as they are needed, so that those a row reads are in the second-level cache.
    fn convolution_band(
        &mut self,
        id: NodeId,
        op: &Convolution,
        e: &Extents,
        matrix: &MatrixDraft,
        staging: Staging,
        stream: usize,
        direct: bool,
        &Band { first, bands, rows, window, channel_blocks }: &Band,
    ) -> Result<(), LowerError> {
        let (lanes, groups) = (self.lanes(), self.groups());
        let (x, y) = (self.graph.inputs(id)[0], self.value(id, 0));
        let (y_place, bias) = (self.define(y), self.bias_place(id, 2)?);
        let (x_group, y_group) = (self.group_stride(x), self.group_stride(y));
        let stream = self.shared.streams[stream].clone();
        let value = self.shared.parameters[stream.parameter].value;
        let name = format!(
            "convolution_{}x{}x{}x{}_s{}x{}_at_{}x{}_rows_{rows}",
            e.outputs, e.channels, e.kernel[0], e.kernel[1], op.strides[0], op.strides[1], e.rows, e.width
        );
        let mut kernel = KernelBuilder::new(name, &[groups, bands]);
        let source = self.input_source(x, &mut kernel)?;
        let target = kernel.write("y", y_place);
        let starts = kernel.words("starts", stream.starts);
        let offsets = kernel.words("offsets", stream.offsets);
        let values = kernel.read("values", value);
        let bias = bias.map(|place| kernel.read("bias", place));
        let row_pitch = e.channels * staging.pitch * lanes;
        let band_rows = rows * op.strides[0];
        let mut body = Vec::new();
        let (rows_base, rows_offset) = if let (true, PlaneSource::Value(x)) = (direct, source) {
            let offset = (first * op.strides[0] * row_pitch) as isize;
            (x, Affine::constant(offset).plus(0, x_group).plus(1, band_rows * row_pitch))
        } else {
            let scratch = kernel.scratch(((rows - 1) * op.strides[0] + window) * row_pitch);
            let first_row = Affine::constant((first * op.strides[0]) as isize - op.pads[0] as isize).plus(1, band_rows);
            let plane =
                StagedPlane { channels: e.channels, width: e.width, rows: e.rows, staging, lanes, source, group: x_group, first_row };
            let ahead = window.saturating_sub(op.strides[0]);
            plane.stage(ahead, 0, None).into_iter().for_each(|statement| kernel.push(statement));
            body.extend(plane.stage(window - ahead, ahead, Some((2, op.strides[0]))));
            (scratch, Affine::default())
        };
        let out_pitch = e.outputs * e.out_width * lanes;
        let shape = Spmm {
            block_rows: e.outputs / matrix.block.rows,
            channel_blocks,
            rows_per_block: matrix.block.rows,
            columns_per_block: matrix.block.columns,
            pixels: e.out_width,
            x_pixel: op.strides[1],
            x_channel: staging.pitch,
            y_pixel: 1,
            y_channel: e.out_width,
        };
        let y_offset = Affine::constant((first * out_pitch) as isize).plus(0, y_group).plus(1, rows * out_pitch).plus(2, out_pitch);
        let operands = vec![
            at(rows_base, rows_offset.plus(2, op.strides[0] * row_pitch)),
            at(target, y_offset),
            start(starts),
            start(offsets),
            start(values),
            bias.map_or_else(null, start),
        ];
        body.push(call(Tile::Spmm(shape), operands));
        repeat(rows, body).into_iter().for_each(|statement| kernel.push(statement));
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    /// Whether everything that reads `y` beside the ReLU's gradient is a convolution, either pass, that can take it normalized on the way.
    pub(super) fn is_normalized_input(&self, y: Value) -> Result<bool, LowerError> {
        if self.places.contains_key(&y) {
            return Ok(false);
        }
        let mut convolutions = 0;
        for (reader, operand) in self.graph.uses(y) {
            match (&self.graph.node(reader).op, operand) {
                (Op::Convolution(op), 0) if !is_direct(op) => convolutions += 1,
                (Op::ConvolutionBackward(_) | Op::ConvolutionWeightGradient(_), 0) => convolutions += 1,
                (Op::ReluGradient(_), 1) if self.reads_what_was_normalized(reader) => {}
                _ => return Ok(false),
            }
        }
        Ok(convolutions > 0)
    }

    /// What a convolution stages for its input `x`: itself, or what it is computed from.
    fn input_source(&self, x: Value, kernel: &mut KernelBuilder) -> Result<PlaneSource, LowerError> {
        let Some(&NormalizedValue { x, coefficients: [factor, shift] }) = self.normalized_values.get(&x) else {
            return Ok(PlaneSource::Value(kernel.read("x", self.place(x)?)));
        };
        let x = kernel.read("x", x);
        Ok(PlaneSource::Normalized { x, coefficients: [kernel.read("factor", factor), kernel.read("shift", shift)] })
    }

    /// Whether the one reader of `dy` is a convolution's backward pass that stages it.
    pub(super) fn is_staged_gradient(&self, dy: Value) -> Result<bool, LowerError> {
        let [(reader, 2)] = self.graph.uses(dy)[..] else { return Ok(false) };
        let op = match &self.graph.node(reader).op {
            Op::ConvolutionBackward(op) => &op.forward,
            Op::ConvolutionWeightGradient(op) => &op.forward,
            _ => return Ok(false),
        };
        let (_, matrix) = self.weight(reader, 1)?;
        let e = self.extents(reader, dy, &matrix)?;
        Ok(!Sweep::new(op, &e, self.lanes(), self.shared.options.stage_bytes).direct)
    }

    /// What a backward pass stages for `dy`: itself, or what it is computed from.
    fn gradient_source(&self, dy: Value, kernel: &mut KernelBuilder) -> Result<PlaneSource, LowerError> {
        let Some(&NormalizedGradient { gradient, x, coefficients }) = self.normalized_gradients.get(&dy) else {
            return Ok(PlaneSource::Value(kernel.read("dy", self.place(dy)?)));
        };
        let [factor, slope, offset] = coefficients;
        Ok(PlaneSource::NormalizeBackward {
            gradient: kernel.read("gradient", gradient),
            x: kernel.read("normalized", x),
            live: kernel.read("live", self.own_lanes(self.shared.io.live)),
            coefficients: [kernel.read("factor", factor), kernel.read("slope", slope), kernel.read("offset", offset)],
        })
    }

    /// Both gradients in one sweep, or the weight's alone.
    pub(super) fn convolution_backward(&mut self, id: NodeId, op: &Convolution, both: bool) -> Result<(), LowerError> {
        let (parameter, matrix) = self.weight(id, 1)?;
        let inputs = self.graph.inputs(id);
        let (x, dy) = (inputs[0], inputs[2]);
        let e = self.extents(id, dy, &matrix)?;
        let sweep = Sweep::new(op, &e, self.lanes(), self.shared.options.stage_bytes);
        let stream = self.shared.stream(parameter, sweep.order(op, &e), both);
        let (unit, capacity) = self.shared.parameters[parameter].extent();
        let groups = self.groups();
        let partials = self.shared.transient(&format!("{}.partials", self.label(id)), Class::Gradients, groups * unit * capacity);
        let dw = self.value(id, usize::from(both));
        let (x_place, coefficients) = match self.normalized_values.get(&x) {
            Some(normalized) => (normalized.x, Some(normalized.coefficients)),
            None => (self.place(x)?, None),
        };
        let dx = both.then(|| self.value(id, 0)).map(|dx| self.define(dx));

        let columns = e.channels / matrix.block.columns;
        let ranges = parts(columns, 4usize.div_ceil(groups));
        let name = format!(
            "{}_{}x{}x{}x{}_s{}x{}_at_{}x{}",
            self.operator_name(id),
            e.outputs,
            e.channels,
            e.kernel[0],
            e.kernel[1],
            op.strides[0],
            op.strides[1],
            e.rows,
            e.width
        );
        let mut kernel = KernelBuilder::new(name, &[groups, ranges]);
        let draft = self.shared.streams[stream].clone();
        let memory = SweepMemory {
            x: kernel.read("x", x_place),
            coefficients: coefficients.map(|[factor, shift]| [kernel.read("factor_of_x", factor), kernel.read("shift_of_x", shift)]),
            dx: dx.map(|place| kernel.write("dx", place)),
            dy: self.gradient_source(dy, &mut kernel)?,
            starts: kernel.words("starts", draft.starts),
            offsets: kernel.words("offsets", draft.offsets),
            values: draft.values.map(|values| kernel.read("values", values)),
            dw: kernel.write("dw", partials),
            x_group: self.group_stride(x),
            dy_group: self.group_stride(dy),
            dw_group: unit * capacity,
            columns,
            range: columns / ranges,
        };
        sweep.emit(&mut kernel, op, &e, &matrix, &memory);
        self.shared.launch(kernel, self.label(id));
        self.gather_gradient(stream, partials, groups, dw, self.label(id))
    }
}

/// Whether the forward kernel reads its input from the arena: there is no padding to stage.
fn is_direct(op: &Convolution) -> bool {
    op.pads == [0; 4]
}

/// Arguments of a backward kernel.
struct SweepMemory {
    x: Base,
    /// Factor and shift of each channel, where the input is the ReLU of a normalized `x`.
    coefficients: Option<[Base; 2]>,
    dx: Option<Base>,
    dy: PlaneSource,
    starts: Base,
    offsets: Base,
    values: Option<Base>,
    dw: Base,
    x_group: usize,
    dy_group: usize,
    dw_group: usize,
    /// Block columns in all, and in one item's range.
    columns: usize,
    range: usize,
}

/// The backward nest: how the output gradient is staged, in how many bands of input rows (counted in strides).
#[derive(Debug)]
struct Sweep {
    first: [isize; 2],
    staging: Staging,
    lanes: usize,
    /// Staged rows for a band of n.
    halo: usize,
    band: usize,
    bands: usize,
    tail_first: usize,
    direct: bool,
}

impl Sweep {
    fn new(op: &Convolution, e: &Extents, lanes: usize, stage_bytes: usize) -> Self {
        let (first_row, last_row) = deltas(op.strides[0], op.pads[0], op.dilations[0], e.kernel[0]);
        let (first_column, last_column) = deltas(op.strides[1], op.pads[1], op.dilations[1], e.kernel[1]);
        let reach = (e.width.div_ceil(op.strides[1]) as isize + last_column - first_column) as usize;
        let staging = Staging::new(first_column.unsigned_abs(), e.out_width, reach);
        let halo = (last_row - first_row) as usize;
        let whole = e.rows / op.strides[0];
        let band = Staging::band(whole, whole, e.outputs * staging.pitch * lanes, stage_bytes, |n| n + halo);
        let bands = whole / band;
        let all_rows = e.rows.div_ceil(op.strides[0]);
        let inside = first_row == 0 && halo == 0 && all_rows <= e.out_rows;
        let direct = inside && first_column == 0 && staging.pitch == e.out_width;
        Sweep { first: [first_row, first_column], staging, lanes, halo, band, bands, tail_first: bands * band, direct }
    }

    fn order(&self, op: &Convolution, e: &Extents) -> StreamOrder {
        StreamOrder::Backward {
            stride: op.strides,
            dilation: op.dilations,
            padding: [op.pads[0], op.pads[1]],
            first: self.first,
            row: e.outputs * self.staging.pitch,
            channel: self.staging.pitch,
        }
    }

    fn emit(&self, kernel: &mut KernelBuilder, op: &Convolution, e: &Extents, matrix: &MatrixDraft, memory: &SweepMemory) {
        let classes = op.strides[0] * op.strides[1];
        let unit_elements = matrix.unit_elements();
        for class in 0..classes {
            let starts = Affine::constant((class * memory.columns) as isize).plus(1, memory.range);
            let shape = ClearUnits { block_columns: memory.range, unit_elements };
            kernel
                .tile(Tile::ClearUnits(shape), vec![at(memory.starts, starts), at(memory.dw, Affine::default().plus(0, memory.dw_group))]);
        }
        let full = |_: usize| self.band;
        let mut body = Vec::new();
        self.band_body(kernel, &mut body, op, e, matrix, memory, BandStart { first: 0, variable: Some(2) }, &full);
        if let Some(bands) = repeat(self.bands, body) {
            kernel.push(bands);
        }
        let rest = |class: usize| (e.rows - class.min(e.rows)).div_ceil(op.strides[0]).saturating_sub(self.tail_first);
        if rest(0) > 0 {
            let mut body = Vec::new();
            self.band_body(kernel, &mut body, op, e, matrix, memory, BandStart { first: self.tail_first, variable: None }, &rest);
            body.into_iter().for_each(|statement| kernel.push(statement));
        }
    }

    /// Stages the output gradient for one band of input rows, row by row, and sweeps over each class's rows in it.
    fn band_body(
        &self,
        kernel: &mut KernelBuilder,
        body: &mut Vec<Statement>,
        op: &Convolution,
        e: &Extents,
        matrix: &MatrixDraft,
        memory: &SweepMemory,
        band: BandStart,
        rows: &dyn Fn(usize) -> usize,
    ) {
        let row_pitch = e.outputs * self.staging.pitch * self.lanes;
        let row_variable = 2 + usize::from(band.variable.is_some());
        let plane = StagedPlane {
            channels: e.outputs,
            width: e.out_width,
            rows: e.out_rows,
            staging: self.staging,
            lanes: self.lanes,
            source: memory.dy,
            group: memory.dy_group,
            first_row: {
                let mut first_row = band.scaled(1, self.band);
                first_row.constant += self.first[0];
                first_row
            },
        };
        let (base, offset) = match memory.dy {
            PlaneSource::Value(dy) if self.direct => (dy, band.scaled(row_pitch, self.band).plus(0, memory.dy_group)),
            _ => {
                body.extend(plane.stage(self.halo, 0, None));
                (kernel.scratch((rows(0) + self.halo) * row_pitch), Affine::default())
            }
        };
        let sweeps = |row_classes: usize, row: Option<usize>| {
            let mut statements = Vec::new();
            if !self.direct {
                let round = row.is_none().then_some((row_variable, 1));
                statements.extend(plane.stage(1, self.halo + row.unwrap_or(0), round));
            }
            // A row of the loop, or the one row after it.
            let moved = |affine: Affine, by: usize| match row {
                None => affine.plus(row_variable, by),
                Some(row) => Affine { constant: affine.constant + (row * by) as isize, ..affine },
            };
            let (input_row, channel) = (e.channels * e.width * self.lanes, e.width * self.lanes);
            for row_class in 0..row_classes {
                for column_class in 0..op.strides[1].min(e.width) {
                    let mut x = band.scaled(op.strides[0] * input_row, self.band);
                    x.constant += (row_class * input_row + column_class * self.lanes) as isize;
                    let x = x.plus(0, memory.x_group).plus(1, memory.range * matrix.block.columns * channel);
                    let class = row_class * op.strides[1] + column_class;
                    let starts = Affine::constant((class * memory.columns) as isize).plus(1, memory.range);
                    let pixels = (e.width - column_class).div_ceil(op.strides[1]);
                    let dy = at(base, moved(offset.clone(), row_pitch));
                    statements.push(self.sweep(op, e, matrix, memory, pixels, moved(x, op.strides[0] * input_row), dy, starts));
                }
            }
            statements
        };
        // Later classes may have one row less.
        let whole = rows(op.strides[0] - 1);
        body.extend(repeat(whole, sweeps(op.strides[0], None)));
        if rows(0) > whole {
            let classes = (0..op.strides[0]).filter(|&class| rows(class) > whole).count();
            body.extend(sweeps(classes, Some(whole)));
        }
    }

    fn sweep(
        &self,
        op: &Convolution,
        e: &Extents,
        matrix: &MatrixDraft,
        memory: &SweepMemory,
        pixels: usize,
        x: Affine,
        dy: Operand,
        starts: Affine,
    ) -> Statement {
        let dw = at(memory.dw, Affine::default().plus(0, memory.dw_group));
        let (starts, offsets) = (at(memory.starts, starts), start(memory.offsets));
        let (block_columns, rows_per_block, columns_per_block) = (memory.range, matrix.block.rows, matrix.block.columns);
        let (x_pixel, x_channel, dy_pixel, dy_channel) = (op.strides[1], e.width, 1, self.staging.pitch);
        let coefficient = |base| at(base, Affine::default().plus(1, memory.range * columns_per_block));
        let [factor, shift] = memory.coefficients.map_or_else(|| [null(), null()], |bases| bases.map(coefficient));
        match (memory.dx, memory.values) {
            (Some(dx), Some(values)) => call(
                Tile::BackwardSweep(BackwardSweep {
                    block_columns,
                    rows_per_block,
                    columns_per_block,
                    pixels,
                    x_pixel,
                    x_channel,
                    dy_pixel,
                    dy_channel,
                }),
                vec![at(memory.x, x.clone()), factor, shift, at(dx, x), dy, starts, offsets, start(values), dw],
            ),
            _ => call(
                Tile::WeightGradient(WeightGradient {
                    block_columns,
                    rows_per_block,
                    columns_per_block,
                    pixels,
                    x_pixel,
                    x_channel,
                    dy_pixel,
                    dy_channel,
                }),
                vec![at(memory.x, x), factor, shift, dy, starts, offsets, dw],
            ),
        }
    }
}

/// Where a band begins: at a constant row, or at a loop's variable times the band.
#[derive(Clone, Copy)]
struct BandStart {
    first: usize,
    variable: Option<usize>,
}

impl BandStart {
    fn scaled(&self, by: usize, band: usize) -> Affine {
        let affine = Affine::constant((self.first * by) as isize);
        self.variable.map_or(affine.clone(), |variable| affine.plus(variable, band * by))
    }
}

/// Smallest and largest `(class + pad - k * dilation) / stride` over the classes and kernel positions where it is whole;
/// the smallest is at most 0, so that staging never begins inside the plane.
fn deltas(stride: usize, pad: usize, dilation: usize, kernel: usize) -> (isize, isize) {
    let (stride, pad, dilation) = (stride as isize, pad as isize, dilation as isize);
    let all = (0..stride).flat_map(|class| (0..kernel as isize).map(move |k| class + pad - k * dilation));
    let whole: Vec<isize> = all.filter(|d| d.rem_euclid(stride) == 0).map(|d| d.div_euclid(stride)).collect();
    let smallest = whole.iter().copied().min().unwrap_or(0).min(0);
    (smallest, whole.iter().copied().max().unwrap_or(0).max(0))
}

#[cfg(test)]
mod tests {
    use super::deltas;

    #[test]
    fn deltas_cover_every_kernel_position() {
        assert_eq!(deltas(1, 1, 1, 3), (-1, 1));
        assert_eq!(deltas(2, 1, 1, 3), (0, 1)); // classes 0 and 1 meet rows j and j + 1
        assert_eq!(deltas(2, 0, 1, 1), (0, 0));
        assert_eq!(deltas(1, 0, 2, 3), (-4, 0));
    }
}
