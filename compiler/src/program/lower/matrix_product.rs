//! Products of computed matrices, where every lane has matrices of its own, and maxima over axes.

use super::kernel::{KernelBuilder, at, parts, visit};
use super::map::{merge_axes, storage_axes, storage_extents};
use super::{LowerError, PARTS, PhaseLowering};
use crate::ir::{NodeId, Shape, Value};
use crate::op::{MatrixProduct, Op};
use crate::program::{Affine, ChainOp, Map, Statement, Width, layout};
use mest_runtime::tile::{MatrixProduct as MatrixProductTile, Tile};

impl PhaseLowering<'_, '_> {
    /// An item is a group, one of its products and a range of rows.
    pub(super) fn matrix_product(&mut self, id: NodeId, op: &MatrixProduct) -> Result<(), LowerError> {
        let (inputs, y) = (self.graph.inputs(id), self.value(id, 0));
        let (a, b) = (inputs[0], inputs[1]);
        let (a_place, b_place, y_place) = (self.place(a)?, self.place(b)?, self.define(y));
        let fixed = [a, b].map(|value| self.shape(value).fixed());
        let Some(extents) = op.extents(&fixed[0], &fixed[1]) else { return Err(self.internal(id, "its operands do not fit")) };
        let lead = fixed[0].len() - 2;
        let strides = |value: Value, transposed: bool| {
            let mut strides = layout::strides(self.shape(value));
            if transposed {
                strides.swap(lead, lead + 1);
            }
            strides
        };
        let (of_a, of_b, of_y) = (strides(a, op.transpose_a), strides(b, op.transpose_b), strides(y, false));
        let ranges = parts(extents.rows, PARTS.div_ceil(self.groups() * extents.products));
        let rows = extents.rows / ranges;
        let domain = [&[self.groups()], &fixed[0][..lead], &[ranges]].concat();
        let text: Vec<String> = self.shape(y).fixed().iter().map(ToString::to_string).collect();
        let mut kernel = KernelBuilder::new(format!("matrix_product_{}_{}", text.join("x"), extents.depth), &domain);
        let lanes = self.lanes();
        let product = |value: Value, own: &[usize]| {
            let group = Affine::default().plus(0, self.group_stride(value));
            (0..lead).fold(group, |offset, axis| offset.plus(1 + axis, own[axis] * lanes))
        };
        let range = |offset: Affine, own: &[usize]| offset.plus(1 + lead, rows * own[lead] * lanes);
        let operands = vec![
            at(kernel.read("a", a_place), range(product(a, &of_a), &of_a)),
            at(kernel.read("b", b_place), product(b, &of_b)),
            at(kernel.write("y", y_place), range(product(y, &of_y), &of_y)),
        ];
        let tile = MatrixProductTile {
            rows,
            columns: extents.columns,
            depth: extents.depth,
            a_row: of_a[lead],
            a_inner: of_a[lead + 1],
            b_inner: of_b[lead],
            b_column: of_b[lead + 1],
            y_row: of_y[lead],
            y_column: of_y[lead + 1],
        };
        kernel.tile(Tile::MatrixProduct(tile), operands);
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    /// The largest over `axes`: begins with the first element of each, then takes every other that is larger.
    pub(super) fn reduce_max(&mut self, id: NodeId, axes: &[usize]) -> Result<(), LowerError> {
        let (x, y) = (self.graph.inputs(id)[0], self.value(id, 0));
        let (x_place, y_place) = (self.place(x)?, self.define(y));
        let (space, batched) = (self.shape(x).clone(), self.shape(x).is_batched());
        let scale = if batched { self.lanes() } else { 1 };
        let own: Vec<usize> = layout::strides(&space).iter().map(|s| s * scale).collect();
        let first = usize::from(batched);
        let reduced: Vec<usize> = axes.iter().map(|a| a - first).collect();
        let kept = Shape(space.0.iter().enumerate().map(|(i, &d)| if axes.contains(&i) { crate::ir::Dim::Fixed(1) } else { d }).collect());
        let out = self.kept_strides(id, y, &reduced, own.len(), scale);
        let order = storage_axes(&kept);
        let walk = |strides: &[usize]| order.iter().map(|&a| if reduced.contains(&a) { 0 } else { strides[a] }).collect::<Vec<_>>();
        let group = |value: Value| if batched { Affine::default().plus(0, self.group_stride(value)) } else { Affine::default() };
        let text: Vec<String> = space.fixed().iter().map(ToString::to_string).collect();
        let mut kernel = KernelBuilder::new(format!("reduce_max_{}", text.join("x")), &[if batched { self.groups() } else { 1 }]);
        let (source, target) = (kernel.read("x", x_place), kernel.write("y", y_place));
        let width = if batched { Width::Lanes } else { Width::Scalar };
        let store = || visit(target, group(y), walk(&out), false);
        let extents = storage_extents(&kept);
        let loads = vec![visit(source, group(x), walk(&own), false)];
        let copy = Map { width, extents: extents.clone(), loads, operations: vec![], stores: vec![(store(), 0)], sums: vec![] };
        kernel.map(merge_axes(copy));
        let offset = reduced.iter().enumerate().fold(group(x), |offset, (i, &axis)| offset.plus(i + 1, own[axis]));
        let loads = vec![visit(source, offset, walk(&own), false), store()];
        let operations = vec![ChainOp::SelectLess(1, 0, 0, 1)];
        let larger = merge_axes(Map { width, extents, loads, operations, stores: vec![(store(), 2)], sums: vec![] });
        let all = space.fixed();
        let around = |body, &axis: &usize| Statement::Loop { count: all[axis], body: vec![body] };
        kernel.push(reduced.iter().rev().fold(Statement::Map(larger), around));
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    /// Strides of a reduction's result by the operand's fixed axes; 0 along those that are reduced.
    fn kept_strides(&self, id: NodeId, y: Value, reduced: &[usize], axes: usize, scale: usize) -> Vec<usize> {
        let own = layout::strides(self.shape(y));
        let keeps = matches!(&self.graph.node(id).op, Op::ReduceMax(op) if op.keep_dims);
        let mut next = 0;
        let stride = |axis| {
            let gone = reduced.contains(&axis);
            let stride = if gone { 0 } else { own[next] * scale };
            next += usize::from(keeps || !gone);
            stride
        };
        (0..axes).map(stride).collect()
    }
}
