//! Which buffer holds which value: memory is used again once the last reader has run, as libraries do.

use super::GenericError;
use super::csr::Csr;
use super::kernel::Kernel;
use crate::ir::{Graph, NodeId, Value};
use crate::op::Op;
use crate::pass::annotate_sparsity::SparsityTable;
use std::collections::{BTreeSet, HashMap};

/// One node's computation and where it works.
#[derive(Debug)]
pub(super) struct Step {
    /// The node.
    pub(super) node: NodeId,
    /// The weight matrix that it multiplies by.
    pub(super) layer: Option<usize>,
    pub(super) kernel: Kernel,
    /// Buffers.
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<usize>,
}

/// The order of a training step.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// Length of each buffer.
    pub(super) lens: Vec<usize>,
    /// Where each value lies.
    pub(super) buffers: HashMap<Value, usize>,
}

/// What is known of a graph's values before they have a place.
struct Values<'g> {
    graph: &'g Graph,
    batch: usize,
    csrs: &'g [Csr],
    /// The value whose memory another one shares.
    roots: HashMap<Value, Value>,
    /// Values that lie like the live entries of a weight matrix: weights and their gradients.
    matrices: HashMap<Value, usize>,
}

impl Values<'_> {
    fn root(&self, value: Value) -> Value {
        self.roots.get(&value).copied().unwrap_or(value)
    }

    fn len(&self, value: Value) -> usize {
        match self.matrices.get(&value) {
            Some(&layer) => self.csrs[layer].len(),
            None => self.graph.shape(value).concrete(self.batch).iter().product(),
        }
    }

    /// Notes what `id`'s outputs share and how they lie; its operands are known. Returns the layer that it multiplies by.
    fn note(&mut self, id: NodeId, table: &SparsityTable) -> Option<usize> {
        let inputs = self.graph.inputs(id);
        let output = |output| Value { node: id, output };
        let op = &self.graph.node(id).op;
        let matrix = inputs.first().and_then(|input| self.matrices.get(input)).copied();
        match op {
            Op::Parameter(_) => {
                let layer = table.layers.iter().position(|layer| layer.parameter == id)?;
                self.matrices.insert(output(0), layer);
                None
            }
            Op::Reshape(_) | Op::Transpose(_) | Op::Add(_) => {
                if matches!(op, Op::Reshape(_)) || matches!(op, Op::Transpose(_)) && matrix.is_some() {
                    self.roots.insert(output(0), self.root(inputs[0]));
                }
                self.matrices.extend(matrix.map(|layer| (output(0), layer)));
                None
            }
            Op::Convolution(_) | Op::Linear(_) => self.matrices.get(&inputs[1]).copied(),
            Op::ConvolutionBackward(_) | Op::LinearBackward(_) | Op::ConvolutionWeightGradient(_) | Op::LinearWeightGradient(_) => {
                let layer = self.matrices.get(&inputs[1]).copied()?;
                let both = matches!(op, Op::ConvolutionBackward(_) | Op::LinearBackward(_));
                self.matrices.insert(output(usize::from(both)), layer);
                Some(layer)
            }
            _ => None,
        }
    }
}

impl Plan {
    /// For a differentiated training graph.
    pub(super) fn new(graph: &Graph, table: &SparsityTable, csrs: &[Csr], batch: usize) -> Result<Plan, GenericError> {
        let order = graph.topological().map_err(|cycle| GenericError::Cycle(cycle.node))?;
        let mut values = Values { graph, batch, csrs, roots: HashMap::new(), matrices: HashMap::new() };
        let layers: Vec<Option<usize>> = order.iter().map(|&id| values.note(id, table)).collect();
        let last = last_uses(&values, &order);
        let mut plan = Plan::default();
        let mut free: HashMap<usize, Vec<usize>> = HashMap::new();
        for (position, (&node, &layer)) in order.iter().zip(&layers).enumerate() {
            let operands = graph.inputs(node);
            let matrix = operands.first().is_some_and(|operand| values.matrices.contains_key(operand));
            let kernel = Kernel::of(graph, node, layer, matrix)?;
            for value in graph.outputs(node) {
                let root = values.root(value);
                let buffer = match plan.buffers.get(&root) {
                    Some(&buffer) => buffer,
                    None => plan.allocate(values.len(value), &mut free),
                };
                plan.buffers.insert(value, buffer);
            }
            let place = |values: Vec<Value>| values.iter().map(|value| plan.buffers[value]).collect::<Vec<_>>();
            let (inputs, outputs) = (place(operands.clone()), place(graph.outputs(node)));
            let touched: BTreeSet<Value> = operands.into_iter().chain(graph.outputs(node)).map(|value| values.root(value)).collect();
            for root in touched.into_iter().filter(|root| last.get(root) == Some(&position)) {
                free.entry(values.len(root)).or_default().push(plan.buffers[&root]);
            }
            plan.steps.push(Step { node, layer, kernel, inputs, outputs });
        }
        Ok(plan)
    }

    fn allocate(&mut self, len: usize, free: &mut HashMap<usize, Vec<usize>>) -> usize {
        free.get_mut(&len).and_then(Vec::pop).unwrap_or_else(|| {
            self.lens.push(len);
            self.lens.len() - 1
        })
    }
}

/// The position after which each root is read no more; none for those that outlive the step.
fn last_uses(values: &Values<'_>, order: &[NodeId]) -> HashMap<Value, usize> {
    let graph = values.graph;
    let mut last = HashMap::new();
    for (position, &id) in order.iter().enumerate() {
        for value in graph.inputs(id).into_iter().chain(graph.outputs(id)) {
            last.insert(values.root(value), position);
        }
    }
    let source = |id: &&NodeId| matches!(graph.node(**id).op, Op::Input(_) | Op::Target(_) | Op::Parameter(_) | Op::Constant(_));
    let loss = |id: &&NodeId| matches!(graph.node(**id).op, Op::SoftmaxCrossEntropy(_) | Op::MeanSquaredError(_));
    let kept = order.iter().filter(|id| source(id) || loss(id)).map(|&node| Value { node, output: 0 });
    for value in kept.chain(graph.output).chain(graph.gradients.values().copied()).chain(graph.state_updates.values().copied()) {
        last.remove(&values.root(value));
    }
    last
}
