//! Element-wise chains: one pass over memory for each fusion cluster.
//!
//! A cluster's iteration space is the fixed axes of its batched shape in storage order; an item is a group and a band of the outermost
//! axis. Operands broadcast by stride 0. Axes that every operand walks contiguously are merged, so a plain ReLU is one run. Sums end a
//! chain: each item adds lane vectors into a partial of its own, which `sum_partials` then reduces in a fixed order.

use super::kernel::{KernelBuilder, Place, at, parts, start, visit};
use super::{Class, LowerError, PhaseLowering};
use crate::ir::{NodeId, Shape, Value};
use crate::op::{Op, ReluGradient};
use crate::pass::fuse::Cluster;
use crate::program::{Affine, ChainOp, Map, MapOperand, Width, layout};
use mest_runtime::tile::{Clear, SumPartials, Tile};
use std::collections::HashMap;

/// A value inside a chain being built: loads and operations are numbered apart until the chain is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Link {
    Load(usize),
    Operation(usize),
}

/// An operation on links, in the shape of [`ChainOp`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum LinkOp {
    Constant(f32),
    Add(Link, Link),
    Sub(Link, Link),
    Mul(Link, Link),
    Div(Link, Link),
    Fma(Link, Link, Link),
    Sqrt(Link),
    SelectLess(Link, Link, Link, Link),
    PowerOfTwo(Link),
    Exponent(Link),
    Significand(Link),
}

/// What a chain reads or writes, before it is laid over the iteration space.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Access {
    pub(super) place: Place,
    /// How the elements lie.
    pub(super) layout: AccessLayout,
}

/// How the elements of an access follow the iteration space.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum AccessLayout {
    /// A value of the graph, broadcast by its shape.
    Value(Value),
    /// One scalar for each index of the channel axis (the first fixed axis).
    Channel,
    /// The live mask: a vector a group.
    Live,
    /// A partial sum of an item, reduced to the value's shape.
    Partial(Value),
}

/// A chain being built.
#[derive(Debug, Default)]
pub(super) struct Chain {
    loads: Vec<Access>,
    operations: Vec<LinkOp>,
    stores: Vec<(Access, Link)>,
    sums: Vec<(Access, Link)>,
}

impl Chain {
    pub(super) fn load(&mut self, access: Access) -> Link {
        let found = self.loads.iter().position(|l| *l == access);
        Link::Load(found.unwrap_or_else(|| {
            self.loads.push(access);
            self.loads.len() - 1
        }))
    }

    pub(super) fn op(&mut self, op: LinkOp) -> Link {
        let found = self.operations.iter().position(|o| *o == op);
        Link::Operation(found.unwrap_or_else(|| {
            self.operations.push(op);
            self.operations.len() - 1
        }))
    }

    pub(super) fn constant(&mut self, value: f32) -> Link {
        self.op(LinkOp::Constant(value))
    }

    pub(super) fn store(&mut self, access: Access, link: Link) {
        self.stores.push((access, link));
    }

    pub(super) fn number(&self, link: Link) -> usize {
        match link {
            Link::Load(load) => load,
            Link::Operation(operation) => self.loads.len() + operation,
        }
    }

    pub(super) fn chain_ops(&self) -> Vec<ChainOp> {
        let n = |link| self.number(link);
        let op = |op: &LinkOp| match *op {
            LinkOp::Constant(value) => ChainOp::Constant(value),
            LinkOp::Add(a, b) => ChainOp::Add(n(a), n(b)),
            LinkOp::Sub(a, b) => ChainOp::Sub(n(a), n(b)),
            LinkOp::Mul(a, b) => ChainOp::Mul(n(a), n(b)),
            LinkOp::Div(a, b) => ChainOp::Div(n(a), n(b)),
            LinkOp::Fma(a, b, c) => ChainOp::Fma(n(a), n(b), n(c)),
            LinkOp::Sqrt(a) => ChainOp::Sqrt(n(a)),
            LinkOp::PowerOfTwo(a) => ChainOp::PowerOfTwo(n(a)),
            LinkOp::Exponent(a) => ChainOp::Exponent(n(a)),
            LinkOp::Significand(a) => ChainOp::Significand(n(a)),
            LinkOp::SelectLess(a, b, c, d) => ChainOp::SelectLess(n(a), n(b), n(c), n(d)),
        };
        self.operations.iter().map(op).collect()
    }
}

/// A sum that ends a chain: what it is a partial of, and what is made of the total.
pub(super) struct Total {
    value: Value,
    place: Place,
}

impl PhaseLowering<'_, '_> {
    /// Lowers a cluster to one map (and what its sums need after it).
    pub(super) fn cluster(&mut self, cluster: &Cluster) -> Result<(), LowerError> {
        let matrices: Vec<_> =
            cluster.nodes.iter().filter_map(|&id| self.matrix_values.get(&self.value(id, 0)).map(|&p| (id, p))).collect();
        if !matrices.is_empty() {
            return matrices.into_iter().try_for_each(|(id, parameter)| self.add_matrices(id, parameter));
        }
        if let Some(rest) = self.beside_normalize(cluster)? {
            if !rest.nodes.is_empty() {
                self.cluster(&rest)?;
            }
            return self.leave_normalize(cluster);
        }
        if self.leave_normalize_backward(&cluster.nodes)? {
            return Ok(());
        }
        let mut chain = Chain::default();
        let mut links = HashMap::new();
        let mut totals = Vec::new();
        for &id in &cluster.nodes {
            self.chain_node(id, &mut chain, &mut links, &mut totals)?;
        }
        for &value in &cluster.stored {
            if let Some(&link) = links.get(&value) {
                let place = self.define(value);
                chain.store(Access { place, layout: AccessLayout::Value(value) }, link);
            }
        }
        let last = cluster.nodes[cluster.nodes.len() - 1];
        self.emit_chain(last, &cluster.shape, chain, &totals);
        for &id in &cluster.nodes {
            self.after_sums(id)?;
        }
        Ok(())
    }

    /// The link of an operand: computed in this chain, a number, or loaded.
    pub(super) fn link(&self, value: Value, chain: &mut Chain, links: &HashMap<Value, Link>) -> Result<Link, LowerError> {
        match (links.get(&value), self.immediate(value)) {
            (Some(link), _) => Ok(*link),
            (None, Some(number)) => Ok(chain.constant(number)),
            (None, None) => Ok(chain.load(Access { place: self.place(value)?, layout: AccessLayout::Value(value) })),
        }
    }

    /// Adds one node to the chain.
    fn chain_node(
        &mut self,
        id: NodeId,
        chain: &mut Chain,
        links: &mut HashMap<Value, Link>,
        totals: &mut Vec<Total>,
    ) -> Result<(), LowerError> {
        let inputs = self.graph.inputs(id);
        let result = match self.graph.node(id).op.clone() {
            Op::NormalizeSums(_) => return self.chain_normalize_sums(id, chain, links, totals),
            Op::SumTo(_) => {
                let link = self.link(inputs[0], chain, links)?;
                let value = self.value(id, 0);
                return self.chain_sum(value, link, chain, totals);
            }
            Op::Normalize(op) => self.chain_normalize(id, op.epsilon, chain, links)?,
            Op::NormalizeBackward(op) => self.chain_normalize_backward(id, op.epsilon, chain, links)?,
            // What is narrow in memory is wide in registers.
            Op::Expand(_) | Op::Narrow(_) | Op::Widen(_) => self.link(inputs[0], chain, links)?,
            Op::ReluGradient(_) => {
                let dy = self.link(inputs[0], chain, links)?;
                let y = match self.normalized_again(id, chain, links)? {
                    Some(before_relu) => before_relu,
                    None => self.link(inputs[1], chain, links)?,
                };
                self.chain_arithmetic(id, &Op::ReluGradient(ReluGradient {}), &[dy, y], chain)?
            }
            op => {
                let operands: Vec<Link> = inputs.iter().map(|&v| self.link(v, chain, links)).collect::<Result<_, _>>()?;
                self.chain_arithmetic(id, &op, &operands, chain)?
            }
        };
        links.insert(self.value(id, 0), result);
        Ok(())
    }

    fn chain_arithmetic(&self, id: NodeId, op: &Op, x: &[Link], chain: &mut Chain) -> Result<Link, LowerError> {
        Ok(match op {
            Op::Add(_) => chain.op(LinkOp::Add(x[0], x[1])),
            Op::Mul(_) => chain.op(LinkOp::Mul(x[0], x[1])),
            Op::Div(_) => chain.op(LinkOp::Div(x[0], x[1])),
            Op::Max(_) => chain.op(LinkOp::SelectLess(x[0], x[1], x[1], x[0])),
            Op::Min(_) => chain.op(LinkOp::SelectLess(x[1], x[0], x[1], x[0])),
            Op::SelectLess(_) => chain.op(LinkOp::SelectLess(x[0], x[1], x[2], x[3])),
            Op::Unary(unary) => chain.function(unary.function, x[0]),
            Op::UnaryGradient(unary) => {
                let slope = chain.derivative(unary.function, x[1]);
                chain.op(LinkOp::Mul(x[0], slope))
            }
            Op::Relu(_) => {
                let zero = chain.constant(0.0);
                chain.op(LinkOp::SelectLess(x[0], zero, zero, x[0]))
            }
            Op::ReluGradient(_) => {
                let zero = chain.constant(0.0);
                chain.op(LinkOp::SelectLess(zero, x[1], x[0], zero))
            }
            Op::Clip(clip) => {
                let (low, high) = (chain.constant(clip.low), chain.constant(clip.high));
                let raised = chain.op(LinkOp::SelectLess(x[0], low, low, x[0]));
                chain.op(LinkOp::SelectLess(high, raised, high, raised))
            }
            Op::ClipGradient(clip) => {
                let (low, high, zero) = (chain.constant(clip.low), chain.constant(clip.high), chain.constant(0.0));
                let below_high = chain.op(LinkOp::SelectLess(high, x[1], zero, x[0]));
                chain.op(LinkOp::SelectLess(x[1], low, zero, below_high))
            }
            Op::RunningAverage(average) => {
                let (old, new) = (chain.constant(average.momentum as f32), chain.constant((1.0 - average.momentum) as f32));
                let (kept, added) = (chain.op(LinkOp::Mul(x[0], old)), chain.op(LinkOp::Mul(x[1], new)));
                chain.op(LinkOp::Add(kept, added))
            }
            _ => return Err(self.internal(id, "it is not element-wise")),
        })
    }

    /// Ends the chain in a sum of `link` down to the shape of `value`.
    pub(super) fn chain_sum(&mut self, value: Value, link: Link, chain: &mut Chain, totals: &mut Vec<Total>) -> Result<(), LowerError> {
        let place = self.define(value);
        totals.push(Total { value, place });
        // The place is the total's; `emit_chain` puts the partial's in its stead once the number of items is known.
        chain.sums.push((Access { place, layout: AccessLayout::Partial(value) }, link));
        Ok(())
    }

    /// Lays a chain over `space` and launches it, its sums reduced to their totals.
    fn emit_chain(&mut self, id: NodeId, space: &Shape, mut chain: Chain, totals: &[Total]) {
        let batched = space.is_batched();
        let extents = storage_extents(space);
        let to_batched = totals.iter().any(|t| self.shape(t.value).is_batched());
        let bands = if batched && !to_batched { self.bands(&extents) } else { 1 };
        let groups = if batched { self.groups() } else { 1 };
        let items = groups * bands;
        let mut reductions = Vec::new();
        for ((access, _), total) in chain.sums.iter_mut().zip(totals) {
            if batched && !self.shape(total.value).is_batched() {
                let elements = self.shape(total.value).elements();
                access.place = self.shared.transient("partials", Class::Activations, items * elements * self.lanes());
                reductions.push((access.place, total.place, elements));
            }
        }
        self.launch_chain(id, space, &extents, &chain, (groups, bands));
        for (partials, out, elements) in reductions {
            self.reduce_partials(id, partials, out, items, elements);
        }
    }

    /// Bands of the outermost axis: enough work items, none too small.
    fn bands(&self, extents: &[usize]) -> usize {
        let vectors: usize = extents.iter().product();
        parts(extents.first().copied().unwrap_or(1), (vectors / 256).clamp(1, 4))
    }

    fn launch_chain(&mut self, id: NodeId, space: &Shape, extents: &[usize], chain: &Chain, (groups, bands): (usize, usize)) {
        let width = if space.is_batched() { Width::Lanes } else { Width::Scalar };
        let shape: Vec<String> = extents.iter().map(ToString::to_string).collect();
        let mut kernel = KernelBuilder::new(format!("map_{}_{}", self.operator_name(id), shape.join("x")), &[groups, bands]);
        let mut own = extents.to_vec();
        if let Some(first) = own.first_mut() {
            *first /= bands;
        }
        let operand = |access: &Access, write: bool, name: &str, kernel: &mut KernelBuilder| {
            let base = kernel.argument(name, access.place, self.shared.slots[access.place.slot.0].element, write);
            let (group, strides, splat) = self.walk(access, space, bands);
            let outer = strides.first().copied().unwrap_or(0) * own.first().copied().unwrap_or(1);
            // Each band of a uniform sum has a partial of its own, in which it fills the part that the sum keeps of its rows.
            let own_partial = matches!(access.layout, AccessLayout::Partial(v) if !self.shape(v).is_batched());
            let band = if own_partial { group / bands + outer } else { outer };
            visit(base, Affine::default().plus(0, group).plus(1, band), strides, splat)
        };
        let loads: Vec<MapOperand> =
            chain.loads.iter().enumerate().map(|(i, a)| operand(a, false, &format!("in{i}"), &mut kernel)).collect();
        let stores: Vec<(MapOperand, usize)> = chain
            .stores
            .iter()
            .enumerate()
            .map(|(i, (a, l))| (operand(a, true, &format!("out{i}"), &mut kernel), chain.number(*l)))
            .collect();
        let sums: Vec<(MapOperand, usize)> = chain
            .sums
            .iter()
            .enumerate()
            .map(|(i, (a, l))| (operand(a, true, &format!("sum{i}"), &mut kernel), chain.number(*l)))
            .collect();
        for ((sum, _), (access, _)) in sums.iter().zip(&chain.sums) {
            let AccessLayout::Partial(value) = access.layout else { continue };
            let elements = self.shape(value).elements();
            if space.is_batched() {
                let group = self.walk(access, space, bands).0;
                let band = if self.shape(value).is_batched() { 0 } else { group / bands };
                let whole = at(sum.address.base, Affine::default().plus(0, group).plus(1, band));
                kernel.tile(Tile::Clear(Clear { vectors: elements }), vec![whole]);
            } else {
                let stores = vec![(visit(sum.address.base, sum.address.offset.clone(), vec![1], false), 0)];
                let operations = vec![ChainOp::Constant(0.0)];
                kernel.map(Map { width, extents: vec![elements], loads: vec![], operations, stores, sums: vec![] });
            }
        }
        let map = Map { width, extents: own, loads, operations: chain.chain_ops(), stores, sums };
        kernel.map(merge_axes(map));
        self.shared.launch(kernel, self.label(id));
    }

    /// Elements between groups, strides along the space's storage order in elements, and whether it is a splat.
    fn walk(&self, access: &Access, space: &Shape, bands: usize) -> (usize, Vec<usize>, bool) {
        let axes = storage_axes(space);
        let lanes = if space.is_batched() { self.lanes() } else { 1 };
        let none = vec![0; axes.len()];
        match access.layout {
            AccessLayout::Value(value) => {
                let shape = self.shape(value);
                let scale = if shape.is_batched() { lanes } else { 1 };
                let strides = layout::strides_in(shape, space);
                let group = if shape.is_batched() { self.group_stride(value) } else { 0 };
                (group, axes.iter().map(|&a| strides[a] * scale).collect(), space.is_batched() && !shape.is_batched())
            }
            AccessLayout::Channel => {
                let strides = channel_strides(axes.len());
                (0, axes.iter().map(|&a| strides[a]).collect(), space.is_batched())
            }
            AccessLayout::Live => (lanes, none, false),
            AccessLayout::Partial(value) => {
                let shape = self.shape(value);
                let per_channel = matches!(self.graph.node(value.node).op, Op::NormalizeSums(_));
                let strides = if per_channel { channel_strides(axes.len()) } else { layout::strides_in(shape, space) };
                let elements = shape.elements() * lanes;
                let group = if shape.is_batched() { elements } else { elements * bands };
                (group, axes.iter().map(|&a| strides[a] * lanes).collect(), false)
            }
        }
    }

    fn reduce_partials(&mut self, id: NodeId, partials: Place, out: Place, items: usize, elements: usize) {
        let mut kernel = KernelBuilder::new(format!("sum_partials_{items}x{elements}"), &[1]);
        let operands = vec![start(kernel.read("partials", partials)), start(kernel.write("out", out))];
        kernel.tile(Tile::SumPartials(SumPartials { partials: items, partial_stride: elements, elements }), operands);
        self.shared.launch(kernel, self.label(id));
    }

    /// Sum of two gradients of one matrix parameter, stored as units.
    fn add_matrices(&mut self, id: NodeId, parameter: usize) -> Result<(), LowerError> {
        let (unit, capacity) = self.shared.parameters[parameter].extent();
        let inputs = self.graph.inputs(id);
        let (a, b) = (self.place(inputs[0])?, self.place(inputs[1])?);
        let value = self.value(id, 0);
        let out = match self.places.get(&value) {
            Some(place) => *place,
            None => self.shared.transient(&self.graph.info(value).name.clone(), Class::Gradients, unit * capacity),
        };
        self.places.insert(value, out);
        let elements = unit * capacity;
        let mut kernel = KernelBuilder::new(format!("add_units_{elements}"), &[1]);
        let operand = |base| visit(base, Affine::default(), vec![1], false);
        let loads = vec![operand(kernel.read("a", a)), operand(kernel.read("b", b))];
        let stores = vec![(operand(kernel.write("sum", out)), 2)];
        kernel.map(Map {
            width: Width::Scalar,
            extents: vec![elements],
            loads,
            operations: vec![ChainOp::Add(0, 1)],
            stores,
            sums: vec![],
        });
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    /// Copies `elements` uniform elements.
    pub(super) fn copy_flat(&mut self, name: &str, from: Place, to: Place, elements: usize, label: &str) {
        let mut kernel = KernelBuilder::new(format!("{name}_{elements}"), &[1]);
        let load = visit(kernel.read("from", from), Affine::default(), vec![1], false);
        let store = visit(kernel.write("to", to), Affine::default(), vec![1], false);
        let (loads, stores) = (vec![load], vec![(store, 0)]);
        kernel.map(Map { width: Width::Scalar, extents: vec![elements], loads, operations: vec![], stores, sums: vec![] });
        self.shared.launch(kernel, label);
    }

    /// Adds `elements` uniform elements to what lies at `sum`.
    pub(super) fn accumulate(&mut self, from: Place, sum: Place, elements: usize, label: &str) {
        let items = parts(elements, 8);
        let mut kernel = KernelBuilder::new(format!("accumulate_{elements}"), &[items]);
        let (term, sum) = (kernel.read("term", from), kernel.write("sum", sum));
        let own = |base| visit(base, Affine::default().plus(0, elements / items), vec![1], false);
        let (loads, stores) = (vec![own(sum), own(term)], vec![(own(sum), 2)]);
        let operations = vec![ChainOp::Add(0, 1)];
        kernel.map(Map { width: Width::Scalar, extents: vec![elements / items], loads, operations, stores, sums: vec![] });
        self.shared.launch(kernel, label);
    }

    /// Mean over `axes`: a sum into the (smaller) batched result, then a scaling of it, group by group.
    pub(super) fn reduce_mean(&mut self, id: NodeId, axes: &[usize]) -> Result<(), LowerError> {
        let (x, y) = (self.graph.inputs(id)[0], self.value(id, 0));
        let space = self.shape(x).clone();
        if !space.is_batched() {
            return Err(self.unsupported(id, "a mean of a value without a batch has no kernel"));
        }
        let (x_place, y_place) = (self.place(x)?, self.define(y));
        let order = storage_axes(&space);
        let (lanes, strides) = (self.lanes(), layout::strides(&space));
        let own = layout::strides(self.shape(y));
        let keeps = self.shape(y).rank() == space.rank();
        let mut kept = 0;
        // The batch is axis 0 and never reduced, so fixed axis a is axis a + 1; what is not kept as an axis of 1 closes up.
        let out_strides: Vec<usize> = (0..space.fixed().len())
            .map(|axis| {
                let reduced = axes.contains(&(axis + 1));
                let stride = if reduced { 0 } else { own[kept] };
                kept += usize::from(keeps || !reduced);
                stride
            })
            .collect();
        let extents = storage_extents(&space);
        let count: usize = axes.iter().map(|&a| space.concrete(1)[a]).product();
        let shape: Vec<String> = extents.iter().map(ToString::to_string).collect();
        let mut kernel = KernelBuilder::new(format!("mean_{}", shape.join("x")), &[self.groups()]);
        let input = kernel.read("x", x_place);
        let output = kernel.write("y", y_place);
        let out_group = Affine::default().plus(0, self.group_stride(y));
        let elements = self.shape(y).elements();
        kernel.tile(Tile::Clear(Clear { vectors: elements }), vec![at(output, out_group.clone())]);
        let load =
            visit(input, Affine::default().plus(0, self.group_stride(x)), order.iter().map(|&a| strides[a] * lanes).collect(), false);
        let sum = visit(output, out_group.clone(), order.iter().map(|&a| out_strides[a] * lanes).collect(), false);
        let sums = vec![(sum, 0)];
        kernel.map(merge_axes(Map { width: Width::Lanes, extents, loads: vec![load], operations: vec![], stores: vec![], sums }));
        let own = || visit(output, out_group.clone(), vec![lanes], false);
        let operations = vec![ChainOp::Constant(1.0 / count as f32), ChainOp::Mul(0, 1)];
        let stores = vec![(own(), 2)];
        kernel.map(Map { width: Width::Lanes, extents: vec![elements], loads: vec![own()], operations, stores, sums: vec![] });
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }
}

/// Strides of one element for each index of the channel axis, the first of `axes`.
fn channel_strides(axes: usize) -> Vec<usize> {
    (0..axes).map(|axis| usize::from(axis == 0)).collect()
}

/// Fixed axes of `space` in storage order.
pub(super) fn storage_axes(space: &Shape) -> Vec<usize> {
    let axes = space.fixed().len();
    if space.is_batched() { layout::storage_order(axes) } else { (0..axes).collect() }
}

/// Extents of `space` in storage order.
pub(super) fn storage_extents(space: &Shape) -> Vec<usize> {
    let extents = space.fixed();
    storage_axes(space).iter().map(|&a| extents[a]).collect()
}

/// Merges neighbouring axes that every operand walks as one, and drops axes of extent 1.
pub(super) fn merge_axes(mut map: Map) -> Map {
    if map.extents.is_empty() {
        map.extents.push(1);
        operands_mut(&mut map).for_each(|o| o.strides.push(0));
    }
    let mut axis = 0;
    while axis < map.extents.len() && map.extents.len() > 1 {
        if map.extents[axis] == 1 {
            map.extents.remove(axis);
            operands_mut(&mut map).for_each(|o| {
                o.strides.remove(axis);
            });
            continue;
        }
        let inner = axis + 1;
        let contiguous = inner < map.extents.len() && {
            let extent = map.extents[inner];
            map.extents[inner] > 1 && operands_mut(&mut map).all(|o| o.strides[axis] == o.strides[inner] * extent)
        };
        if contiguous {
            map.extents[inner] *= map.extents[axis];
            map.extents.remove(axis);
            operands_mut(&mut map).for_each(|o| {
                o.strides.remove(axis);
            });
            axis = axis.saturating_sub(1);
            continue;
        }
        axis += 1;
    }
    map
}

fn operands_mut(map: &mut Map) -> impl Iterator<Item = &mut MapOperand> {
    map.loads.iter_mut().chain(map.stores.iter_mut().map(|(o, _)| o)).chain(map.sums.iter_mut().map(|(o, _)| o))
}
