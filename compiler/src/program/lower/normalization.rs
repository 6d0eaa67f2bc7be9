//! Batch normalization: moments in two passes and a merge over groups; normalizing is a fused multiply-add by coefficients a channel.

use super::kernel::{KernelBuilder, Place, at, start, visit};
use super::map::{Access, AccessLayout, Chain, Link, LinkOp, Total};
use super::{Class, LowerError, PhaseLowering};
use crate::ir::{NodeId, Value};
use crate::op::Op;
use crate::pass::fuse::Cluster;
use crate::program::{Affine, ChainOp, Map, Width};
use mest_runtime::tile::{MergeMoments, Moments, Tile};
use std::collections::HashMap;

/// The ReLU of a normalized value, as convolutions compute it while they read it.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormalizedValue {
    /// What is normalized.
    pub(super) x: Place,
    /// Factor and shift of each channel.
    pub(super) coefficients: [Place; 2],
}

/// x * a + b, of one a and b for each channel.
fn apply_coefficients(x: Link, [a, b]: [Place; 2], chain: &mut Chain) -> Link {
    let [a, b] = [a, b].map(|place| chain.load(Access { place, layout: AccessLayout::Channel }));
    chain.op(LinkOp::Fma(x, a, b))
}

/// The gradient through a batch normalization, as the convolution before it computes it while staging.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormalizedGradient {
    /// The gradient that comes in.
    pub(super) gradient: Place,
    /// What was normalized.
    pub(super) x: Place,
    /// a, k1 and k0 of each channel.
    pub(super) coefficients: [Place; 3],
}

impl PhaseLowering<'_, '_> {
    pub(super) fn batch_moments(&mut self, id: NodeId) -> Result<(), LowerError> {
        let x = self.graph.inputs(id)[0];
        let [channels, rows, width] = self.image(x);
        let (x_place, groups, lanes) = (self.place(x)?, self.groups(), self.lanes());
        let (mean, variance) = (self.define(self.value(id, 0)), self.define(self.value(id, 1)));
        let partials = self.shared.transient(&format!("{}.moments", self.label(id)), Class::Activations, groups * channels * 2);
        let live = self.own_lanes(self.shared.io.live);

        let mut kernel = KernelBuilder::new(format!("moments_{channels}x{rows}x{width}"), &[groups]);
        let operands = vec![
            at(kernel.read("x", x_place), Affine::default().plus(0, self.group_stride(x))),
            at(kernel.read("live", live), Affine::default().plus(0, lanes)),
            at(kernel.write("out", partials), Affine::default().plus(0, channels * 2)),
        ];
        kernel.tile(Tile::Moments(Moments { rows, channels, width }), operands);
        self.shared.launch(kernel, self.label(id));

        let mut kernel = KernelBuilder::new(format!("merge_moments_{channels}x{rows}x{width}"), &[1]);
        let operands = vec![
            start(kernel.read("partials", partials)),
            start(kernel.read("live", live)),
            start(kernel.write("mean", mean)),
            start(kernel.write("variance", variance)),
        ];
        let shape = MergeMoments { groups, channels, partial_channels: channels, positions: rows * width };
        kernel.tile(Tile::MergeMoments(shape), operands);
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    /// Launches a map over channels that computes coefficients from uniform operands. `build` gets the chain values of the operands and
    /// pushes operations; it returns what each result is.
    fn coefficients(
        &mut self,
        id: NodeId,
        name: &str,
        channels: usize,
        operands: &[(Place, bool)],
        results: &[Place],
        build: impl FnOnce(&mut Vec<ChainOp>, usize) -> Vec<usize>,
    ) {
        let mut kernel = KernelBuilder::new(format!("{name}_{channels}"), &[1]);
        let loads = operands
            .iter()
            .enumerate()
            .map(|(i, (place, scalar))| visit(kernel.read(&format!("in{i}"), *place), Affine::default(), vec![usize::from(!scalar)], false))
            .collect();
        let mut operations = Vec::new();
        let values = build(&mut operations, operands.len());
        let stores = results
            .iter()
            .enumerate()
            .map(|(i, place)| (visit(kernel.write(&format!("out{i}"), *place), Affine::default(), vec![1], false), values[i]))
            .collect();
        kernel.map(Map { width: Width::Scalar, extents: vec![channels], loads, operations, stores, sums: vec![] });
        self.shared.launch(kernel, self.label(id));
    }

    /// One over the live examples that batch statistics are of.
    fn inverse_count(&mut self, id: NodeId) -> Place {
        if self.shared.options.micro_batches == 1 {
            return Place { slot: self.shared.io.count, offset: 1 };
        }
        if let Some(place) = self.part_count {
            return place;
        }
        let place = self.shared.transient("micro_batch_count", Class::State, 2);
        let mut kernel = KernelBuilder::new("micro_batch_count", &[1]);
        let (live, count) = (kernel.read("live", self.own_lanes(self.shared.io.live)), kernel.write("count", place));
        let at = |base, offset, stride| visit(base, Affine::constant(offset), vec![stride], false);
        let map =
            |extent, loads, operations, stores, sums| Map { width: Width::Scalar, extents: vec![extent], loads, operations, stores, sums };
        kernel.map(map(1, vec![], vec![ChainOp::Constant(0.0)], vec![(at(count, 0, 0), 0)], vec![]));
        kernel.map(map(self.groups() * self.lanes(), vec![at(live, 0, 1)], vec![], vec![], vec![(at(count, 0, 0), 0)]));
        // Where no example is live, nothing is read of it.
        let operations = vec![ChainOp::Constant(1.0), ChainOp::SelectLess(0, 1, 1, 0), ChainOp::Div(1, 2)];
        kernel.map(map(1, vec![at(count, 0, 0)], operations, vec![(at(count, 1, 0), 3)], vec![]));
        self.shared.launch(kernel, self.label(id));
        let inverse = Place { slot: place.slot, offset: 1 };
        self.part_count = Some(inverse);
        inverse
    }

    fn channel_slot(&mut self, id: NodeId, what: &str, channels: usize) -> Place {
        self.shared.transient(&format!("{}.{what}", self.label(id)), Class::State, channels)
    }

    /// y = x * a + b with a = scale / sqrt(variance + epsilon), b = shift - mean * a.
    pub(super) fn chain_normalize(
        &mut self,
        id: NodeId,
        epsilon: f64,
        chain: &mut Chain,
        links: &HashMap<Value, Link>,
    ) -> Result<Link, LowerError> {
        let coefficients = self.normalize_coefficients(id, epsilon)?;
        let x = self.link(self.graph.inputs(id)[0], chain, links)?;
        Ok(apply_coefficients(x, coefficients, chain))
    }

    /// A normalization and its ReLU in a cluster.
    fn normalized_in(&self, cluster: &Cluster) -> Option<(NodeId, NodeId)> {
        let relu = |id: &&NodeId| matches!(self.graph.node(**id).op, Op::Relu(_));
        let pair = |&relu: &NodeId| (self.graph.inputs(relu)[0].node, relu);
        let normalize = |(id, _): &(NodeId, NodeId)| cluster.nodes.contains(id) && matches!(self.graph.node(*id).op, Op::Normalize(_));
        cluster.nodes.iter().filter(relu).map(pair).find(normalize)
    }

    /// What is left of `cluster` if its normalization and ReLU are left to the convolutions that read the result; `None` unless those are all
    /// who do.
    pub(super) fn beside_normalize(&self, cluster: &Cluster) -> Result<Option<Cluster>, LowerError> {
        let Some((normalize, relu)) = self.normalized_in(cluster) else { return Ok(None) };
        let (v, y) = (self.value(normalize, 0), self.value(relu, 0));
        let read_inside = self.graph.uses(y).into_iter().any(|(reader, _)| cluster.nodes.contains(&reader));
        if self.graph.uses(v).len() != 1 || read_inside || !self.is_normalized_input(y)? {
            return Ok(None);
        }
        let mut rest = cluster.clone();
        rest.nodes.retain(|&id| id != normalize && id != relu);
        rest.stored.retain(|value| *value != y);
        let x = self.graph.inputs(normalize)[0];
        if rest.nodes.contains(&x.node) && !rest.stored.contains(&x) {
            rest.stored.push(x);
        }
        Ok(Some(rest))
    }

    /// Leaves the normalization and the ReLU of `cluster` to the convolutions, once what is beside them has been computed.
    pub(super) fn leave_normalize(&mut self, cluster: &Cluster) -> Result<(), LowerError> {
        let Some((normalize, relu)) = self.normalized_in(cluster) else { return Ok(()) };
        let Op::Normalize(op) = &self.graph.node(normalize).op else { return Ok(()) };
        let coefficients = self.normalize_coefficients(normalize, op.epsilon)?;
        let x = self.place(self.graph.inputs(normalize)[0])?;
        self.normalized_values.insert(self.value(relu, 0), NormalizedValue { x, coefficients });
        Ok(())
    }

    /// Computes a and b of [`Self::chain_normalize`].
    fn normalize_coefficients(&mut self, id: NodeId, epsilon: f64) -> Result<[Place; 2], LowerError> {
        let inputs = self.graph.inputs(id);
        let channels = self.shape(inputs[1]).elements();
        let places = ["factor", "offset"].map(|what| self.channel_slot(id, what, channels));
        let operands: Vec<(Place, bool)> = inputs[1..].iter().map(|&v| Ok((self.place(v)?, false))).collect::<Result<_, LowerError>>()?;
        self.coefficients(id, "normalize_coefficients", channels, &operands, &places, |ops, first| {
            // 0 mean, 1 variance, 2 scale, 3 shift
            ops.extend([
                ChainOp::Constant(epsilon as f32),
                ChainOp::Add(1, first),
                ChainOp::Sqrt(first + 1),
                ChainOp::Div(2, first + 2),
                ChainOp::Mul(0, first + 3),
                ChainOp::Sub(3, first + 4),
            ]);
            vec![first + 3, first + 5]
        });
        self.normalize_coefficients.insert(id, places);
        Ok(places)
    }

    /// Whether the cluster of the gradient `id` of a ReLU reads what the normalization before that ReLU read.
    pub(super) fn reads_what_was_normalized(&self, id: NodeId) -> bool {
        let relu = self.graph.inputs(id)[1].node;
        let Some(&v) = self.graph.inputs(relu).first() else { return false };
        let (Op::Relu(_), Op::Normalize(_)) = (&self.graph.node(relu).op, &self.graph.node(v.node).op) else { return false };
        let x = self.graph.inputs(v.node)[0];
        self.graph
            .uses(self.value(id, 0))
            .into_iter()
            .any(|(reader, _)| matches!(self.graph.node(reader).op, Op::NormalizeSums(_)) && self.graph.inputs(reader)[1] == x)
    }

    /// What the ReLU behind the gradient `id` read, if that was normalized: computed again from what the gradient's cluster reads anyway.
    /// Its sign is the sign of the ReLU's result, which need not be fetched then.
    pub(super) fn normalized_again(&self, id: NodeId, chain: &mut Chain, links: &HashMap<Value, Link>) -> Result<Option<Link>, LowerError> {
        if !self.reads_what_was_normalized(id) {
            return Ok(None);
        }
        let normalize = self.graph.inputs(self.graph.inputs(id)[1].node)[0].node;
        let Some(&coefficients) = self.normalize_coefficients.get(&normalize) else { return Ok(None) };
        let x = self.link(self.graph.inputs(normalize)[0], chain, links)?;
        Ok(Some(apply_coefficients(x, coefficients, chain)))
    }

    /// Sums of dy and of dy * (x - mean); [`Self::after_sums`] scales the latter.
    pub(super) fn chain_normalize_sums(
        &mut self,
        id: NodeId,
        chain: &mut Chain,
        links: &HashMap<Value, Link>,
        totals: &mut Vec<Total>,
    ) -> Result<(), LowerError> {
        let inputs = self.graph.inputs(id);
        let (dy, x) = (self.link(inputs[0], chain, links)?, self.link(inputs[1], chain, links)?);
        let mean = chain.load(Access { place: self.place(inputs[2])?, layout: AccessLayout::Channel });
        let centred = chain.op(LinkOp::Sub(x, mean));
        let product = chain.op(LinkOp::Mul(dy, centred));
        self.chain_sum(self.value(id, 0), product, chain, totals)?;
        self.chain_sum(self.value(id, 1), dy, chain, totals)
    }

    /// What remains to be done once a cluster's sums are totals: the gradient of the scale is divided by the standard deviation.
    pub(super) fn after_sums(&mut self, id: NodeId) -> Result<(), LowerError> {
        let Op::NormalizeSums(op) = &self.graph.node(id).op else { return Ok(()) };
        let inputs = self.graph.inputs(id);
        let channels = self.shape(inputs[2]).elements();
        let (sum, variance) = (self.place(self.value(id, 0))?, self.place(inputs[3])?);
        self.coefficients(id, "scale_gradient", channels, &[(sum, false), (variance, false)], &[sum], |ops, first| {
            ops.extend([
                ChainOp::Constant(op.epsilon as f32),
                ChainOp::Add(1, first),
                ChainOp::Sqrt(first + 1),
                ChainOp::Div(0, first + 2),
            ]);
            vec![first + 3]
        });
        Ok(())
    }

    /// dx = live * (dy * a + (x * k1 + k0)), with n the live elements a channel, r = 1 / sqrt(variance + epsilon), a = scale * r,
    /// k1 = -a * r * dscale / n, k0 = -a * dshift / n - mean * k1.
    pub(super) fn chain_normalize_backward(
        &mut self,
        id: NodeId,
        epsilon: f64,
        chain: &mut Chain,
        links: &HashMap<Value, Link>,
    ) -> Result<Link, LowerError> {
        let inputs = self.graph.inputs(id);
        let slots = self.normalize_backward_coefficients(id, epsilon)?;
        let (dy, x) = (self.link(inputs[0], chain, links)?, self.link(inputs[1], chain, links)?);
        let [a, k1, k0] = slots.map(|place| chain.load(Access { place, layout: AccessLayout::Channel }));
        let live = chain.load(Access { place: self.own_lanes(self.shared.io.live), layout: AccessLayout::Live });
        let through_statistics = chain.op(LinkOp::Fma(x, k1, k0));
        let dx = chain.op(LinkOp::Fma(dy, a, through_statistics));
        Ok(chain.op(LinkOp::Mul(dx, live)))
    }

    /// Leaves the gradient to the convolution that stages it, if there is one; says whether it did.
    pub(super) fn leave_normalize_backward(&mut self, nodes: &[NodeId]) -> Result<bool, LowerError> {
        let [id] = *nodes else { return Ok(false) };
        let Op::NormalizeBackward(op) = &self.graph.node(id).op else { return Ok(false) };
        let dx = self.value(id, 0);
        if !self.is_staged_gradient(dx)? {
            return Ok(false);
        }
        let inputs = self.graph.inputs(id);
        let (gradient, x) = (self.place(inputs[0])?, self.place(inputs[1])?);
        let coefficients = self.normalize_backward_coefficients(id, op.epsilon)?;
        self.normalized_gradients.insert(dx, NormalizedGradient { gradient, x, coefficients });
        Ok(true)
    }

    /// Computes a, k1 and k0 of [`Self::chain_normalize_backward`].
    fn normalize_backward_coefficients(&mut self, id: NodeId, epsilon: f64) -> Result<[Place; 3], LowerError> {
        let inputs = self.graph.inputs(id);
        let channels = self.shape(inputs[2]).elements();
        let positions = self.shape(inputs[1]).elements() / channels.max(1);
        let slots = ["factor", "slope", "offset"].map(|what| self.channel_slot(id, what, channels));
        let mut operands: Vec<(Place, bool)> =
            inputs[2..].iter().map(|&v| Ok((self.place(v)?, false))).collect::<Result<_, LowerError>>()?;
        operands.push((self.inverse_count(id), true));
        self.coefficients(id, &format!("normalize_backward_coefficients_{positions}"), channels, &operands, &slots, |ops, first| {
            // 0 mean, 1 variance, 2 scale, 3 dscale, 4 dshift, 5 one over the live examples
            ops.extend([
                ChainOp::Constant(epsilon as f32),
                ChainOp::Add(1, first),
                ChainOp::Sqrt(first + 1),
                ChainOp::Div(2, first + 2), // a
                ChainOp::Constant(-1.0 / positions as f32),
                ChainOp::Mul(5, first + 4),         // -1 / n
                ChainOp::Mul(first + 3, first + 5), // -a / n
                ChainOp::Mul(first + 6, 3),
                ChainOp::Div(first + 7, first + 2), // k1
                ChainOp::Mul(first + 6, 4),
                ChainOp::Mul(0, first + 8),
                ChainOp::Sub(first + 9, first + 10), // k0
            ]);
            vec![first + 3, first + 8, first + 11]
        });
        Ok(slots)
    }
}
