//! Copies between parts of values: slices, padding, concatenation.

use super::kernel::{KernelBuilder, visit};
use super::map::{merge_axes, storage_axes, storage_extents};
use super::{LowerError, PhaseLowering};
use crate::ir::{NodeId, Shape, Value};
use crate::op::{Concat, Pad, Slice};
use crate::program::{Affine, Base, ChainOp, Map, Width, layout};

/// Which elements of an axis a copy reads or writes.
#[derive(Clone, Copy)]
struct Along {
    axis: usize,
    start: usize,
    step: usize,
}

impl PhaseLowering<'_, '_> {
    pub(super) fn slice(&mut self, id: NodeId, op: &Slice) -> Result<(), LowerError> {
        let (x, y) = (self.graph.inputs(id)[0], self.value(id, 0));
        let (from, to) = (self.place(x)?, self.define(y));
        let mut kernel = self.copy_kernel(id, y);
        let (source, target) = (kernel.read("from", from), kernel.write("to", to));
        let all = Along { axis: op.axis, start: 0, step: 1 };
        let part = Along { start: op.start, step: op.step, ..all };
        kernel.map(self.copy_part(self.shape(y), (source, x, part), (target, y, all)));
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    pub(super) fn pad(&mut self, id: NodeId, op: &Pad) -> Result<(), LowerError> {
        let (x, y) = (self.graph.inputs(id)[0], self.value(id, 0));
        let (from, to) = (self.place(x)?, self.define(y));
        let mut kernel = self.copy_kernel(id, y);
        let (source, target) = (kernel.read("from", from), kernel.write("to", to));
        let (width, group, step) = self.copy_width(y);
        let extents = vec![self.shape(y).elements()];
        let stores = vec![(visit(target, group, vec![step], false), 0)];
        kernel.map(Map { width, extents, loads: vec![], operations: vec![ChainOp::Constant(op.fill)], stores, sums: vec![] });
        let all = Along { axis: op.axis, start: 0, step: 1 };
        let part = Along { start: op.start, step: op.step, ..all };
        kernel.map(self.copy_part(self.shape(x), (source, x, all), (target, y, part)));
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    pub(super) fn concat(&mut self, id: NodeId, op: &Concat) -> Result<(), LowerError> {
        let (inputs, y) = (self.graph.inputs(id), self.value(id, 0));
        let places = inputs.iter().map(|&x| self.place(x)).collect::<Result<Vec<_>, _>>()?;
        let to = self.define(y);
        let starts = op.starts(&inputs.iter().map(|&x| self.shape(x)).collect::<Vec<_>>());
        let mut kernel = self.copy_kernel(id, y);
        let target = kernel.write("to", to);
        let all = Along { axis: op.axis, start: 0, step: 1 };
        for (i, (&x, place)) in inputs.iter().zip(places).enumerate() {
            let source = kernel.read(&format!("from{i}"), place);
            let mut space = self.shape(x).clone();
            space.0[0] = self.shape(y).0[0];
            if op.axis == 0 {
                space.0[0] = self.shape(x).0[0];
            }
            kernel.map(self.copy_part(&space, (source, x, all), (target, y, Along { start: starts[i], ..all })));
        }
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    /// A kernel over the groups of `y`, named after it.
    pub(super) fn copy_kernel(&self, id: NodeId, y: Value) -> KernelBuilder {
        let extents: Vec<String> = self.shape(y).fixed().iter().map(ToString::to_string).collect();
        let groups = if self.shape(y).is_batched() { self.groups() } else { 1 };
        KernelBuilder::new(format!("{}_{}", self.operator_name(id), extents.join("x")), &[groups])
    }

    /// What an iteration over `value` works on, where its group lies, and elements from one to the next.
    pub(super) fn copy_width(&self, value: Value) -> (Width, Affine, usize) {
        if self.shape(value).is_batched() {
            (Width::Lanes, Affine::default().plus(0, self.group_stride(value)), self.lanes())
        } else {
            (Width::Scalar, Affine::default(), 1)
        }
    }

    /// Copies the elements of `space`, which lie in both values where their `Along`s say.
    fn copy_part(&self, space: &Shape, from: (Base, Value, Along), to: (Base, Value, Along)) -> Map {
        let order = storage_axes(space);
        let operand = |(base, value, along): (Base, Value, Along)| {
            let (_, mut offset, scale) = self.copy_width(value);
            let shape = self.shape(value);
            let repeated = space.is_batched() && !shape.is_batched();
            let mut strides: Vec<usize> = layout::strides(shape).iter().map(|s| s * scale).collect();
            if repeated {
                strides.remove(0);
            }
            let axis = if space.is_batched() { along.axis - 1 } else { along.axis };
            offset.constant += (along.start * strides[axis]) as isize;
            strides[axis] *= along.step;
            visit(base, offset, order.iter().map(|&a| strides[a]).collect(), repeated)
        };
        let width = if space.is_batched() { Width::Lanes } else { Width::Scalar };
        let (loads, stores) = (vec![operand(from)], vec![(operand(to), 0)]);
        merge_axes(Map { width, extents: storage_extents(space), loads, operations: vec![], stores, sums: vec![] })
    }
}
