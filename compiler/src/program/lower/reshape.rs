//! Views and copies: what enters, reshapes, transposes, and running statistics going back to their slots.

use super::kernel::{KernelBuilder, Place, at, start, visit};
use super::{Class, LowerError, PhaseLowering, same_memory};
use crate::ir::{NodeId, Shape, Value};
use crate::op::Op;
use crate::program::{Affine, Map, Width, layout};
use mest_runtime::manifest::Element;
use mest_runtime::tile::{Pack, PackLabels, Tile};

impl PhaseLowering<'_, '_> {
    /// Transposes the host's examples into lanes.
    pub(super) fn input(&mut self, id: NodeId) -> Result<(), LowerError> {
        let slot = self.shared.io.input;
        self.pack(id, slot.into())
    }

    fn pack(&mut self, id: NodeId, source: Place) -> Result<(), LowerError> {
        let value = self.value(id, 0);
        let target = self.define(value);
        let [channels, rows, width] = self.image(value);
        let example = self.own_lanes(self.shared.io.example);
        let mut kernel = KernelBuilder::new(format!("pack_{channels}x{rows}x{width}"), &[self.groups()]);
        let operands = vec![
            start(kernel.read("source", source)),
            at(kernel.words("example", example), Affine::default().plus(0, self.lanes())),
            at(kernel.write("target", target), Affine::default().plus(0, self.group_stride(value))),
        ];
        kernel.tile(Tile::Pack(Pack { channels, rows, width }), operands);
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    /// Class indices, or values in the output's layout.
    pub(super) fn target(&mut self, id: NodeId) -> Result<(), LowerError> {
        let value = self.value(id, 0);
        let source = self.shared.io.target;
        if self.shape(value).rank() > 1 {
            return self.pack(id, source.into());
        }
        let len = self.groups() * self.lanes();
        let target = self.shared.slot("labels", Class::Activations, Element::U32, len, false);
        self.places.insert(value, target.into());
        let example = self.own_lanes(self.shared.io.example);
        let mut kernel = KernelBuilder::new("pack_labels", &[self.groups()]);
        let lanes = Affine::default().plus(0, self.lanes());
        let operands = vec![
            start(kernel.words("source", source)),
            at(kernel.words("example", example), lanes.clone()),
            at(kernel.write_words("target", target), lanes),
        ];
        kernel.tile(Tile::PackLabels(PackLabels {}), operands);
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    /// A constant that no chain holds as an immediate lies in a slot that the runtime fills before the first step.
    pub(super) fn constant(&mut self, id: NodeId) -> Result<(), LowerError> {
        let Op::Constant(constant) = &self.graph.node(id).op else { return Err(self.internal(id, "it is not a constant")) };
        let value = self.value(id, 0);
        // Normalization reads its operands by channel, from memory.
        let by_channel = |op: &Op| matches!(op, Op::Normalize(_) | Op::NormalizeBackward(_));
        let in_chain = |op: &Op| op.is_elementwise() && !by_channel(op);
        let in_chains = self.graph.uses(value).iter().all(|(reader, _)| in_chain(&self.graph.node(*reader).op));
        if self.immediate(value).is_some() && in_chains {
            return Ok(());
        }
        let values = &constant.value.values;
        let slot = self.shared.constant_slots.get(&id).copied().unwrap_or_else(|| {
            let slot = self.shared.slot(&self.graph.info(value).name, Class::Data, Element::F32, values.len(), true);
            self.shared.constants.push((slot, values.clone()));
            self.shared.constant_slots.insert(id, slot);
            slot
        });
        self.places.insert(value, slot.into());
        Ok(())
    }

    /// The one number that a constant is everywhere.
    pub(super) fn immediate(&self, value: Value) -> Option<f32> {
        let Op::Constant(constant) = &self.graph.node(value.node).op else { return None };
        let first = *constant.value.values.first()?;
        constant.value.values.iter().all(|v| v.to_bits() == first.to_bits()).then_some(first)
    }

    pub(super) fn reshape(&mut self, id: NodeId) -> Result<(), LowerError> {
        let (x, y) = (self.graph.inputs(id)[0], self.value(id, 0));
        if self.matrix_values.contains_key(&y) {
            let place = self.place(x)?; // placed with its view where it is a final gradient
            self.places.entry(y).or_insert(place);
            return Ok(());
        }
        let from = self.place(x)?;
        let (source, target) = (self.shape(x).clone(), self.shape(y).clone());
        let free = !source.is_batched() || same_memory(&source, &target);
        match (free, self.places.get(&y).copied()) {
            (true, None) => drop(self.places.insert(y, from)),
            (true, Some(to)) => self.copy_natural(id, from, to, &Shape::batched(&[source.elements()]), source.is_batched(), false),
            (false, _) => self.reorder(id, from, &source, &target),
        }
        Ok(())
    }

    /// Copies from `source`'s layout to `target`'s, through ONNX's order where neither is in it.
    fn reorder(&mut self, id: NodeId, from: Place, source: &Shape, target: &Shape) {
        let to = self.define(self.value(id, 0));
        match (layout::is_natural(source), layout::is_natural(target)) {
            (false, true) => self.copy_natural(id, from, to, source, true, false),
            (true, _) => self.copy_natural(id, from, to, target, true, true),
            (false, false) => {
                let len = self.groups() * self.shared.group_elements(source);
                let between = self.shared.transient(&format!("{}.flat", self.label(id)), Class::Activations, len);
                self.copy_natural(id, from, between, source, true, false);
                self.copy_natural(id, between, to, target, true, true);
            }
        }
    }

    /// Copies between the layout of `shape` and ONNX's order; `from_natural` says which side is which.
    fn copy_natural(&mut self, id: NodeId, from: Place, to: Place, shape: &Shape, batched: bool, from_natural: bool) {
        let lanes = if batched { self.lanes() } else { 1 };
        let extents = shape.fixed();
        let stored: Vec<usize> = layout::strides(shape).iter().map(|s| s * lanes).collect();
        let mut natural = vec![lanes; extents.len()];
        for axis in (1..extents.len()).rev() {
            natural[axis - 1] = natural[axis] * extents[axis];
        }
        let (load, store) = if from_natural { (natural, stored) } else { (stored, natural) };
        let group = Affine::default().plus(0, shape.elements() * lanes);
        let text: Vec<String> = extents.iter().map(ToString::to_string).collect();
        let domain = if batched { self.groups() } else { 1 };
        let mut kernel = KernelBuilder::new(format!("reorder_{}", text.join("x")), &[domain]);
        let loads = vec![visit(kernel.read("from", from), group.clone(), load, false)];
        let stores = vec![(visit(kernel.write("to", to), group, store, false), 0)];
        let width = if batched { Width::Lanes } else { Width::Scalar };
        kernel.map(super::map::merge_axes(Map { width, extents, loads, operations: vec![], stores, sums: vec![] }));
        self.shared.launch(kernel, self.label(id));
    }

    /// A transposed value; of a weight it is a view.
    pub(super) fn transpose(&mut self, id: NodeId, perm: &[usize]) -> Result<(), LowerError> {
        let (x, y) = (self.graph.inputs(id)[0], self.value(id, 0));
        let parameter = self.parameter_behind(y);
        let is_weight = parameter.is_some_and(|p| self.shared.parameters[p].matrix.is_some());
        if self.matrix_values.contains_key(&y) || is_weight {
            return self.reshape(id);
        }
        let (from, shape) = (self.place(x)?, self.shape(x).clone());
        let to = self.define(y);
        let batched = shape.is_batched();
        let (width, groups, scale) = if batched { (Width::Lanes, self.groups(), self.lanes()) } else { (Width::Scalar, 1, 1) };
        let group = if batched { Affine::default().plus(0, self.group_stride(x)) } else { Affine::default() };
        let scaled = |shape: &Shape| layout::strides(shape).iter().map(|s| s * scale).collect::<Vec<_>>();
        let (source, target) = (scaled(&shape), scaled(self.shape(y)));
        // The batch is axis 0 on both sides and has no stride.
        let first = usize::from(batched);
        let moved: Vec<usize> = perm[first..].iter().map(|&axis| source[axis - first]).collect();
        let order = super::map::storage_axes(self.shape(y));
        let extents = super::map::storage_extents(self.shape(y));
        let along = |strides: &[usize]| order.iter().map(|&axis| strides[axis]).collect::<Vec<_>>();
        let text: Vec<String> = self.shape(y).fixed().iter().map(ToString::to_string).collect();
        let mut kernel = KernelBuilder::new(format!("transpose_{}", text.join("x")), &[groups]);
        let loads = vec![visit(kernel.read("from", from), group.clone(), along(&moved), false)];
        let stores = vec![(visit(kernel.write("to", to), group, along(&target), false), 0)];
        kernel.map(super::map::merge_axes(Map { width, extents, loads, operations: vec![], stores, sums: vec![] }));
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    /// Copies the new running statistics over the old ones, after everything that reads the old.
    pub(super) fn copy_states(&mut self) -> Result<(), LowerError> {
        for (&id, &update) in &self.graph.state_updates {
            let Some(parameter) = self.parameter_behind(self.value(id, 0)) else { continue };
            let (from, to) = (self.place(update)?, self.shared.parameters[parameter].value);
            let (_, elements) = self.shared.parameters[parameter].extent();
            self.copy_flat("copy", from, to.into(), elements, self.label(id));
        }
        Ok(())
    }
}
