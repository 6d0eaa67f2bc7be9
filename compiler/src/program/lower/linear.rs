//! Linear layers: one position an example, so groups take the place of pixels and an item is a range of outputs (or inputs, backward).

use super::kernel::{KernelBuilder, at, call, null, parts, repeat, start};
use super::parameters::MatrixDraft;
use super::{Class, LowerError, PARTS, PhaseLowering};
use crate::ir::NodeId;
use crate::program::Affine;
use mest_runtime::manifest::StreamOrder;
use mest_runtime::tile::{BackwardSweep, ClearUnits, Spmm, Tile, WeightGradient};

const ORDER_BACKWARD: StreamOrder =
    StreamOrder::Backward { stride: [1, 1], dilation: [1, 1], padding: [0, 0], first: [0, 0], row: 0, channel: 1 };

/// Columns that a unit of a backward tile has, at most.
const LARGEST_COLUMNS: usize = 4;

fn order_forward(channel_blocks: usize) -> StreamOrder {
    StreamOrder::Forward { channel: 1, kernel_row: 0, kernel_column: 0, channel_blocks }
}

impl PhaseLowering<'_, '_> {
    /// `[positions, features]` of an operand: the axes between the batch and the last one are positions.
    fn positions(&self, id: NodeId, value: crate::ir::Value) -> Result<[usize; 2], LowerError> {
        match self.shape(value).fixed()[..] {
            [features] => Ok([1, features]),
            [positions, features] => Ok([positions, features]),
            _ => Err(self.unsupported(
                id,
                format!("a linear layer over {} has no kernel; reshape it to [N, positions, features]", self.shape(value)),
            )),
        }
    }

    /// Lists of the forward stream for each block row.
    fn channel_blocks(&self, matrix: &MatrixDraft) -> usize {
        matrix.channel_blocks(matrix.tile_pixels(self.lanes()).min(self.groups()) * self.lanes() * 4)
    }

    pub(super) fn linear(&mut self, id: NodeId) -> Result<(), LowerError> {
        let (parameter, matrix) = self.weight(id, 1)?;
        let (x, y) = (self.graph.inputs(id)[0], self.value(id, 0));
        let ([positions, inputs], [_, outputs]) = (self.positions(id, x)?, self.positions(id, y)?);
        let channel_blocks = self.channel_blocks(&matrix);
        let stream = self.shared.stream(parameter, order_forward(channel_blocks), false);
        let (x_place, y_place, bias) = (self.place(x)?, self.define(y), self.bias_place(id, 2)?);
        let stream = self.shared.streams[stream].clone();
        let (lanes, groups) = (self.lanes(), self.groups());
        let block_rows = outputs / matrix.block.rows;
        let ranges = parts(block_rows, PARTS);
        let range = block_rows / ranges;
        let mut kernel = KernelBuilder::new(format!("linear_{outputs}x{inputs}"), &[positions, ranges]);
        let x = kernel.read("x", x_place);
        let y = kernel.write("y", y_place);
        let starts = kernel.words("starts", stream.starts);
        let offsets = kernel.words("offsets", stream.offsets);
        let values = kernel.read("values", self.shared.parameters[parameter].value);
        let bias = bias.map(|place| kernel.read("bias", place));
        let outputs_in_range = range * matrix.block.rows;
        let shape = Spmm {
            block_rows: range,
            channel_blocks,
            rows_per_block: matrix.block.rows,
            columns_per_block: matrix.block.columns,
            pixels: groups,
            x_pixel: positions * inputs,
            x_channel: 1,
            y_pixel: positions * outputs,
            y_channel: 1,
        };
        let operands = vec![
            at(x, Affine::default().plus(0, inputs * lanes)),
            at(y, Affine::default().plus(0, outputs * lanes).plus(1, outputs_in_range * lanes)),
            at(starts, Affine::default().plus(1, range * channel_blocks)),
            start(offsets),
            start(values),
            bias.map_or_else(null, |bias| at(bias, Affine::default().plus(1, outputs_in_range))),
        ];
        kernel.tile(Tile::Spmm(shape), operands);
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    /// The weight's gradient alone. Where a unit is one row or one column, the forward stream will do for it, with the roles of the input
    /// and the output's gradient exchanged: sums come in mask order, and neither a second stream nor partial sums take memory.
    pub(super) fn linear_weight_gradient(&mut self, id: NodeId) -> Result<(), LowerError> {
        let (parameter, matrix) = self.weight(id, 1)?;
        let (rows, columns) = (matrix.block.rows, matrix.block.columns);
        if rows > LARGEST_COLUMNS || (rows > 1 && columns > 1) {
            return self.linear_backward(id, false);
        }
        let operands = self.graph.inputs(id);
        let (x, dy) = (operands[0], operands[2]);
        let ([positions, inputs], [_, outputs]) = (self.positions(id, x)?, self.positions(id, dy)?);
        let channel_blocks = self.channel_blocks(&matrix);
        let stream = self.shared.stream(parameter, order_forward(channel_blocks), false);
        let stream = self.shared.streams[stream].clone();
        let (unit, capacity) = self.shared.parameters[parameter].extent();
        let (x_place, dy_place) = (self.place(x)?, self.place(dy)?);
        let gradient = self.define_matrix(self.value(id, 0), unit * capacity);
        let (lanes, groups) = (self.lanes(), self.groups());
        let block_rows = outputs / rows;
        let ranges = parts(block_rows, PARTS);
        let range = block_rows / ranges;
        let mut kernel = KernelBuilder::new(format!("{}_{outputs}x{inputs}", self.operator_name(id)), &[ranges]);
        let x = kernel.read("x", x_place);
        let dy = kernel.read("dy", dy_place);
        let starts = kernel.words("starts", stream.starts);
        let offsets = kernel.words("offsets", stream.offsets);
        let dw = kernel.write("dw", gradient);
        let lists = Affine::default().plus(0, range * channel_blocks);
        let clear = ClearUnits { block_columns: range * channel_blocks, unit_elements: unit };
        kernel.tile(Tile::ClearUnits(clear), vec![at(starts, lists.clone()), start(dw)]);
        let shape = WeightGradient {
            block_columns: 1,
            rows_per_block: columns,
            columns_per_block: rows,
            pixels: groups,
            x_pixel: positions * outputs,
            x_channel: 1,
            dy_pixel: positions * inputs,
            dy_channel: 1,
        };
        // Variables: the range, a position, a block row, a block of input channels.
        let own = Affine::default().plus(0, range * rows * lanes).plus(1, outputs * lanes).plus(2, rows * lanes);
        let operands = vec![
            at(dy, own),
            null(),
            null(),
            at(x, Affine::default().plus(1, inputs * lanes)),
            at(starts, lists.plus(2, channel_blocks).plus(3, 1)),
            start(offsets),
            start(dw),
        ];
        let row = repeat(channel_blocks, vec![call(Tile::WeightGradient(shape), operands)]);
        let position = repeat(range, row.into_iter().collect());
        if let Some(all) = repeat(positions, position.into_iter().collect()) {
            kernel.push(all);
        }
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    /// Both gradients, or the weight's alone.
    pub(super) fn linear_backward(&mut self, id: NodeId, both: bool) -> Result<(), LowerError> {
        let (parameter, matrix) = self.weight(id, 1)?;
        let operands = self.graph.inputs(id);
        let (x, dy) = (operands[0], operands[2]);
        let ([positions, inputs], [_, outputs]) = (self.positions(id, x)?, self.positions(id, dy)?);
        let stream = self.shared.stream(parameter, ORDER_BACKWARD, both);
        let (unit, capacity) = self.shared.parameters[parameter].extent();
        let partials = self.shared.transient(&format!("{}.partials", self.label(id)), Class::Gradients, unit * capacity);
        let dw = self.value(id, usize::from(both));
        let (x_place, dy_place) = (self.place(x)?, self.place(dy)?);
        let dx_place = both.then(|| self.value(id, 0)).map(|dx| self.define(dx));
        let (lanes, groups) = (self.lanes(), self.groups());
        let block_columns = inputs / matrix.block.columns;
        let ranges = parts(block_columns, PARTS);
        let range = block_columns / ranges;
        let draft = self.shared.streams[stream].clone();
        let mut kernel = KernelBuilder::new(format!("{}_{outputs}x{inputs}", self.operator_name(id)), &[ranges]);
        let x = kernel.read("x", x_place);
        let dx = dx_place.map(|place| kernel.write("dx", place));
        let dy = kernel.read("dy", dy_place);
        let starts = kernel.words("starts", draft.starts);
        let offsets = kernel.words("offsets", draft.offsets);
        let values = draft.values.map(|values| kernel.read("values", values));
        let sums = kernel.write("dw", partials);
        let own_starts = at(starts, Affine::default().plus(0, range));
        kernel.tile(Tile::ClearUnits(ClearUnits { block_columns: range, unit_elements: unit }), vec![own_starts.clone(), start(sums)]);
        let own = Affine::default().plus(0, range * matrix.block.columns * lanes).plus(1, inputs * lanes);
        let dy = at(dy, Affine::default().plus(1, outputs * lanes));
        let (rows_per_block, columns_per_block, pixels) = (matrix.block.rows, matrix.block.columns, groups);
        let (x_pixel, x_channel, dy_pixel, dy_channel) = (positions * inputs, 1, positions * outputs, 1);
        let sweep = match (dx, values) {
            (Some(dx), Some(values)) => call(
                Tile::BackwardSweep(BackwardSweep {
                    block_columns: range,
                    rows_per_block,
                    columns_per_block,
                    pixels,
                    x_pixel,
                    x_channel,
                    dy_pixel,
                    dy_channel,
                }),
                vec![at(x, own.clone()), null(), null(), at(dx, own), dy, own_starts, start(offsets), start(values), start(sums)],
            ),
            _ => call(
                Tile::WeightGradient(WeightGradient {
                    block_columns: range,
                    rows_per_block,
                    columns_per_block,
                    pixels,
                    x_pixel,
                    x_channel,
                    dy_pixel,
                    dy_channel,
                }),
                vec![at(x, own), null(), null(), dy, own_starts, start(offsets), start(sums)],
            ),
        };
        if let Some(positions) = repeat(positions, vec![sweep]) {
            kernel.push(positions);
        }
        self.shared.launch(kernel, self.label(id));
        self.gather_gradient(stream, partials, 1, dw, self.label(id))
    }
}
