//! Products of computed matrices, and maxima over axes: loops around maps, since every lane has matrices of its own.

use super::kernel::{KernelBuilder, visit};
use super::map::{merge_axes, storage_axes, storage_extents};
use super::{LowerError, PhaseLowering};
use crate::ir::{NodeId, Shape, Value};
use crate::op::{MatrixProduct, Op};
use crate::program::{Affine, ChainOp, Map, Statement, Width, layout};

impl PhaseLowering<'_, '_> {
    /// An item is a group and a row of each of its products; sums over the inner axis stay in registers.
    pub(super) fn matrix_product(&mut self, id: NodeId, op: &MatrixProduct) -> Result<(), LowerError> {
        let (inputs, y) = (self.graph.inputs(id), self.value(id, 0));
        let (a, b) = (inputs[0], inputs[1]);
        let (a_place, b_place, y_place) = (self.place(a)?, self.place(b)?, self.define(y));
        let fixed = [a, b].map(|value| self.shape(value).fixed());
        let Some(extents) = op.extents(&fixed[0], &fixed[1]) else { return Err(self.internal(id, "its operands do not fit")) };
        let lead = fixed[0].len() - 2;
        let strides = |value: Value, transposed: bool| {
            let mut strides: Vec<usize> = layout::strides(self.shape(value)).iter().map(|s| s * self.lanes()).collect();
            if transposed {
                strides.swap(lead, lead + 1);
            }
            strides
        };
        let (sa, sb, sy) = (strides(a, op.transpose_a), strides(b, op.transpose_b), strides(y, false));
        let shape: Vec<String> = self.shape(y).fixed().iter().map(ToString::to_string).collect();
        let mut kernel =
            KernelBuilder::new(format!("matrix_product_{}_{}", shape.join("x"), extents.depth), &[self.groups(), extents.rows]);
        let along = |own: &[usize], column: usize, inner: usize| {
            let mut strides = own[..lead].to_vec();
            strides.extend([column, inner]);
            strides
        };
        let start = |value: Value, row: usize| Affine::default().plus(0, self.group_stride(value)).plus(1, row);
        let x = visit(kernel.read("a", a_place), start(a, sa[lead]), along(&sa, 0, sa[lead + 1]), false);
        let w = visit(kernel.read("b", b_place), start(b, 0), along(&sb, sb[lead + 1], sb[lead]), false);
        let target = kernel.write("y", y_place);
        let sum = visit(target, start(y, sy[lead]), along(&sy, sy[lead + 1], 0), false);
        let row = visit(target, start(y, sy[lead]), along(&sy, sy[lead + 1], 0)[..=lead].to_vec(), false);
        let mut space = fixed[0][..lead].to_vec();
        space.push(extents.columns);
        let operations = vec![ChainOp::Constant(0.0)];
        kernel.map(Map { width: Width::Lanes, extents: space.clone(), loads: vec![], operations, stores: vec![(row, 0)], sums: vec![] });
        space.push(extents.depth);
        let operations = vec![ChainOp::Mul(0, 1)];
        kernel.map(Map { width: Width::Lanes, extents: space, loads: vec![x, w], operations, stores: vec![], sums: vec![(sum, 2)] });
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
