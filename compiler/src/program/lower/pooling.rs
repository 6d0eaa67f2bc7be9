//! Pooling over whole planes, and dropout masks: an item is a group and a range of channels.

use super::kernel::{KernelBuilder, at, integer, parts, start};
use super::{LowerError, PARTS, PhaseLowering};
use crate::ir::{NodeId, Value};
use crate::op::pooling::Window;
use crate::op::{AveragePool, AveragePoolGradient};
use crate::program::{Affine, Operand};
use mest_runtime::tile::{AveragePool as AveragePoolTile, AveragePoolBackward, DropoutMask, MaxPool, MaxPoolBackward, Tile};

/// A window tile's shape: the planes' extents and the window's geometry, which all of them share, and what one has of its own.
macro_rules! window_shape {
    ($shape:ident, $planes:expr, $window:expr $(, $field:ident: $value:expr)*) => {
        $shape {
            channels: $planes.channels,
            rows: $planes.rows,
            width: $planes.width,
            out_rows: $planes.out_rows,
            out_width: $planes.out_width,
            plane_channels: $planes.plane_channels,
            kernel_rows: $window.kernel[0],
            kernel_width: $window.kernel[1],
            stride_rows: $window.strides[0],
            stride_width: $window.strides[1],
            dilation_rows: $window.dilations[0],
            dilation_width: $window.dilations[1],
            top: $window.pads[0],
            left: $window.pads[1],
            $($field: $value,)*
        }
    };
}

/// Extents of a pooling layer, its input the larger side whichever way it runs.
struct Planes {
    plane_channels: usize,
    channels: usize,
    ranges: usize,
    rows: usize,
    width: usize,
    out_rows: usize,
    out_width: usize,
}

impl PhaseLowering<'_, '_> {
    fn planes(&self, id: NodeId, input: Value, output: Value) -> Result<Planes, LowerError> {
        if self.shape(input).rank() != 4 {
            return Err(self.unsupported(id, format!("pooling over {} has no kernel; 2-d images only", self.shape(input))));
        }
        let ([plane_channels, rows, width], [_, out_rows, out_width]) = (self.image(input), self.image(output));
        let ranges = parts(plane_channels, PARTS.div_ceil(self.groups()));
        Ok(Planes { plane_channels, channels: plane_channels / ranges, ranges, rows, width, out_rows, out_width })
    }

    /// A plane of `value` from the item's first channel on.
    fn plane(&self, base: crate::program::Base, value: Value, planes: &Planes) -> Operand {
        let width = self.image(value)[2];
        at(base, Affine::default().plus(0, self.group_stride(value)).plus(1, planes.channels * width * self.lanes()))
    }

    fn pool(&mut self, id: NodeId, planes: &Planes, reads: &[Value], tile: Tile) -> Result<(), LowerError> {
        let result = self.value(id, 0);
        let places = reads.iter().map(|&v| self.place(v)).collect::<Result<Vec<_>, _>>()?;
        let out = self.define(result);
        let name = format!("{}_{}x{}x{}", tile.name(), planes.plane_channels, planes.rows, planes.width);
        let mut kernel = KernelBuilder::new(name, &[self.groups(), planes.ranges]);
        let mut operands = Vec::new();
        for (i, (&value, place)) in reads.iter().zip(places).enumerate() {
            let base = kernel.read(&format!("in{i}"), place);
            operands.push(self.plane(base, value, planes));
        }
        let base = kernel.write("out", out);
        operands.push(self.plane(base, result, planes));
        kernel.tile(tile, operands);
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    pub(super) fn max_pool(&mut self, id: NodeId, window: &Window) -> Result<(), LowerError> {
        let x = self.graph.inputs(id)[0];
        let p = self.planes(id, x, self.value(id, 0))?;
        let shape = window_shape!(MaxPool, p, window);
        self.pool(id, &p, &[x], Tile::MaxPool(shape))
    }

    pub(super) fn max_pool_gradient(&mut self, id: NodeId, window: &Window) -> Result<(), LowerError> {
        let inputs = self.graph.inputs(id);
        let p = self.planes(id, inputs[0], inputs[1])?;
        let shape = window_shape!(MaxPoolBackward, p, window);
        self.pool(id, &p, &inputs, Tile::MaxPoolBackward(shape))
    }

    pub(super) fn average_pool(&mut self, id: NodeId, op: &AveragePool) -> Result<(), LowerError> {
        let x = self.graph.inputs(id)[0];
        let (p, window) = (self.planes(id, x, self.value(id, 0))?, &op.window);
        let shape = window_shape!(AveragePoolTile, p, window, bottom: window.pads[2], right: window.pads[3], include_padding: usize::from(op.include_padding));
        self.pool(id, &p, &[x], Tile::AveragePool(shape))
    }

    pub(super) fn average_pool_gradient(&mut self, id: NodeId, op: &AveragePoolGradient) -> Result<(), LowerError> {
        let dy = self.graph.inputs(id)[0];
        let (p, window) = (self.planes(id, self.value(id, 0), dy)?, &op.window);
        let shape = window_shape!(AveragePoolBackward, p, window, bottom: window.pads[2], right: window.pads[3], include_padding: usize::from(op.include_padding));
        self.pool(id, &p, &[dy], Tile::AveragePoolBackward(shape))
    }

    /// The mask of a dropout; `node` counts the masks, so that each draws numbers of its own.
    pub(super) fn dropout_mask(&mut self, id: NodeId, ratio: f32) -> Result<(), LowerError> {
        let mask = self.value(id, 0);
        let vectors = self.shape(mask).elements();
        let place = self.define(mask);
        let is_mask = |n: &NodeId| matches!(self.graph.node(*n).op, crate::op::Op::DropoutMask(_));
        let node = self.graph.ids().into_iter().filter(is_mask).position(|n| n == id).unwrap_or(0);
        let mut kernel = KernelBuilder::new(format!("dropout_mask_{node}_{vectors}"), &[self.groups()]);
        let seed = kernel.words("seed", self.shared.io.seed);
        let out = kernel.write("mask", place);
        let operands = vec![
            integer(Affine::constant((self.part * self.groups() * vectors) as isize).plus(0, vectors)),
            start(seed),
            at(out, Affine::default().plus(0, self.group_stride(mask))),
        ];
        kernel.tile(Tile::DropoutMask(DropoutMask { vectors, node, ratio }), operands);
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }
}
