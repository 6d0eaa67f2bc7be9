//! Reverse-mode differentiation: adds the nodes that compute the gradient of the batch's mean loss by every trainable parameter.
//!
//! It runs after `specialize` and `attach_loss`. The loss node yields the gradient by the prediction itself; from there
//! each node is asked for the gradients of its operands, in reverse topological order, and only along paths that lead to
//! a trainable parameter. Several contributions to one value are summed in the order in which they arise.

use crate::ir::graph::{Cycle, Role};
use crate::ir::{Dim, Graph, Names, NodeId, Shape, Tensor, Value, ValueInfo};
use crate::op::{Add, Concat, Constant, NoGradient, Op, SumTo};
use std::collections::{HashMap, HashSet};

/// Why a graph cannot be differentiated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DifferentiateError {
    /// Nothing to differentiate.
    #[error("the graph has no loss; attach one to its logits first")]
    NoLoss,
    /// More than one thing to differentiate.
    #[error("the graph has several losses ({}); keep one", names.join(", "))]
    SeveralLosses {
        /// Names of the loss nodes.
        names: Vec<String>,
    },
    /// The graph is not in order.
    #[error(transparent)]
    Cycle(#[from] Cycle),
    /// A node on the way to a trainable parameter has no gradient.
    #[error("node '{node}': {source}; freeze the parameters before it, or replace it")]
    NoGradient {
        /// The node.
        node: String,
        /// Its operation's reason.
        source: NoGradient,
    },
}

/// What an operation uses to add the nodes of its gradient.
pub struct GradientBuilder<'a> {
    graph: &'a mut Graph,
    node: NodeId,
    inputs: Vec<Value>,
    learning: &'a HashSet<NodeId>,
    names: &'a mut Names,
    /// Nodes added so far.
    added: Vec<NodeId>,
}

impl GradientBuilder<'_> {
    /// The operands of the node being differentiated.
    pub fn inputs(&self) -> &[Value] {
        &self.inputs
    }

    /// Its outputs.
    pub fn outputs(&self) -> Vec<Value> {
        self.graph.outputs(self.node)
    }

    /// Operand `i` of it.
    pub fn input(&self, i: usize) -> Value {
        self.inputs[i]
    }

    /// Shape of any value.
    pub fn shape(&self, value: Value) -> &Shape {
        self.graph.shape(value)
    }

    /// The operation that computes `value`, and its operands.
    pub fn producer(&self, value: Value) -> (&Op, Vec<Value>) {
        (&self.graph.node(value.node).op, self.graph.inputs(value.node))
    }

    /// Whether operand `i` depends on a trainable parameter, so that its gradient is needed.
    pub fn wants(&self, i: usize) -> bool {
        self.learning.contains(&self.inputs[i].node)
    }

    /// Adds a node and returns its outputs. Names derive from the node being differentiated.
    ///
    /// # Panics
    /// If `inputs` do not fit `op`: an error in the gradient of the operation, as its own inputs were accepted.
    pub fn add(&mut self, op: impl Into<Op>, inputs: &[Value]) -> Vec<Value> {
        let op = op.into();
        let shapes: Vec<&Shape> = inputs.iter().map(|&v| self.graph.shape(v)).collect();
        let base = format!("{}.gradient", self.graph.node(self.node).name);
        let shapes = op.operator().infer(&shapes).unwrap_or_else(|e| panic!("{base}: {e}"));
        let outputs = shapes.into_iter().map(|shape| ValueInfo { name: self.names.claim(&base), shape }).collect();
        let id = self.graph.add(base, op, inputs, outputs);
        self.added.push(id);
        self.graph.outputs(id)
    }

    /// Adds a constant.
    pub fn constant(&mut self, value: Tensor) -> Value {
        self.add(Constant { value }, &[])[0]
    }

    /// `value` summed down to `shape`; itself if it has that shape.
    pub fn sum_to(&mut self, value: Value, shape: &Shape) -> Value {
        if self.shape(value) == shape { value } else { self.add(SumTo { shape: shape.clone() }, &[value])[0] }
    }
}

/// Adds the gradients of the mean loss by the trainable parameters and enters them in [`Graph::gradients`].
///
/// A trainable parameter that the loss does not depend on gets no gradient.
///
/// # Errors
/// There is not exactly one loss, or an operation on the way cannot be differentiated.
pub fn differentiate(graph: &mut Graph) -> Result<(), DifferentiateError> {
    let order = graph.topological()?;
    let loss = loss_node(graph)?;
    let learning = learning_nodes(graph, &order);
    let mut names = graph.names();
    let mut contributions: HashMap<Value, Vec<Value>> = HashMap::new();
    let prediction = graph.inputs(loss)[0];
    if learning.contains(&prediction.node) {
        contributions.insert(prediction, vec![Value { node: loss, output: 2 }]);
    }
    for &id in order.iter().rev() {
        if id == loss || !learning.contains(&id) {
            continue;
        }
        let gradients: Vec<Option<Value>> = graph
            .outputs(id)
            .into_iter()
            .map(|value| contributions.remove(&value).map(|parts| sum(graph, &mut names, value, parts)))
            .collect();
        if gradients.iter().all(Option::is_none) {
            continue;
        }
        if matches!(graph.node(id).op, Op::Parameter(_)) {
            graph.gradients.extend(gradients[0].map(|gradient| (id, gradient)));
            continue;
        }
        for (input, gradient) in operand_gradients(graph, id, &gradients, &learning, &mut names)? {
            contributions.entry(input).or_default().push(gradient);
        }
    }
    remove_unread_pads(graph, &order);
    Ok(())
}

/// Removes contributions of slices that [`sum`] put together, where nobody else reads them.
fn remove_unread_pads(graph: &mut Graph, forward: &[NodeId]) {
    let forward: HashSet<NodeId> = forward.iter().copied().collect();
    let gradients: HashSet<Value> = graph.gradients.values().copied().collect();
    for id in graph.ids() {
        let pad = Value { node: id, output: 0 };
        let added = !forward.contains(&id) && matches!(graph.node(id).op, Op::Pad(_));
        if added && !gradients.contains(&pad) && graph.uses(pad).is_empty() {
            graph.remove(id);
        }
    }
}

/// The one node of the graph that computes a loss.
///
/// # Errors
/// There is none, or several.
pub fn loss_node(graph: &Graph) -> Result<NodeId, DifferentiateError> {
    let is_loss = |id: &NodeId| graph.node(*id).op.is_loss();
    let losses: Vec<NodeId> = graph.ids().into_iter().filter(is_loss).collect();
    match losses[..] {
        [] => Err(DifferentiateError::NoLoss),
        [loss] => Ok(loss),
        _ => Err(DifferentiateError::SeveralLosses { names: losses.iter().map(|&id| graph.node(id).name.clone()).collect() }),
    }
}

/// The trainable parameters, and every node that depends on one.
fn learning_nodes(graph: &Graph, order: &[NodeId]) -> HashSet<NodeId> {
    let mut learning = HashSet::new();
    for &id in order {
        let learns = match &graph.node(id).op {
            Op::Parameter(parameter) => parameter.role == Role::Trainable,
            // A mask reads its operand's shape, never its values.
            Op::DropoutMask(_) => false,
            _ => graph.inputs(id).iter().any(|input| learning.contains(&input.node)),
        };
        if learns {
            learning.insert(id);
        }
    }
    learning
}

/// (operand, gradient) of every operand of `id` that needs one.
fn operand_gradients(
    graph: &mut Graph,
    id: NodeId,
    gradients: &[Option<Value>],
    learning: &HashSet<NodeId>,
    names: &mut Names,
) -> Result<Vec<(Value, Value)>, DifferentiateError> {
    let (op, inputs) = (graph.node(id).op.clone(), graph.inputs(id));
    let mut builder = GradientBuilder { graph, node: id, inputs: inputs.clone(), learning, names, added: vec![] };
    let results = op.operator().gradient(&mut builder, gradients);
    let mut unnamed: HashSet<NodeId> = builder.added.into_iter().collect();
    let results = results.map_err(|source| DifferentiateError::NoGradient { node: graph.node(id).name.clone(), source })?;
    let mut pairs = Vec::new();
    for (input, gradient) in inputs.into_iter().zip(results) {
        let Some(gradient) = gradient.filter(|_| learning.contains(&input.node)) else { continue };
        debug_assert_eq!(graph.shape(gradient), graph.shape(input), "gradient of '{}'", graph.info(input).name);
        // A gradient passed on unchanged keeps the name it got where it was computed.
        if unnamed.contains(&gradient.node) {
            let name = names.claim(&format!("{}.gradient", graph.info(input).name));
            names.release(&graph.info(gradient).name);
            graph.node_mut(gradient.node).outputs[gradient.output].name = name;
            if graph.node(gradient.node).outputs.len() == 1 {
                unnamed.remove(&gradient.node);
            }
        }
        pairs.push((input, gradient));
    }
    Ok(pairs)
}

/// If `parts` are what [`Pad`] made of parts that lie one after the other along an axis and leave nothing out: the axis, and those parts.
fn tiles(graph: &Graph, parts: &[Value]) -> Option<(usize, Vec<Value>)> {
    let mut placed = Vec::with_capacity(parts.len());
    for &part in parts {
        let Op::Pad(pad) = &graph.node(part.node).op else { return None };
        let source = *graph.inputs(part.node).first()?;
        let Dim::Fixed(count) = graph.shape(source).0[pad.axis] else { return None };
        if pad.step != 1 || pad.fill != 0.0 {
            return None;
        }
        placed.push((pad.start, pad.axis, count, pad.extent, source));
    }
    placed.sort_by_key(|&(start, ..)| start);
    let &(_, axis, _, extent, _) = placed.first()?;
    let mut end = 0;
    for &(start, own, count, ..) in &placed {
        if (start, own) != (end, axis) {
            return None;
        }
        end += count;
    }
    (end == extent && placed.len() > 1).then(|| (axis, placed.into_iter().map(|(.., source)| source).collect()))
}

/// The sum of the contributions `parts` to the gradient of `of`. Those of slices that tile it are put together instead.
fn sum(graph: &mut Graph, names: &mut Names, of: Value, parts: Vec<Value>) -> Value {
    let base = format!("{}.gradient", graph.info(of).name);
    let shape = graph.shape(of).clone();
    if let Some((axis, sources)) = tiles(graph, &parts) {
        let name = names.claim(&base);
        let output = ValueInfo { name: name.clone(), shape };
        return Value { node: graph.add(name, Concat { axis }.into(), &sources, vec![output]), output: 0 };
    }
    let mut parts = parts.into_iter();
    let first = parts.next().expect("a value in the table has a contribution");
    parts.fold(first, |total, part| {
        let name = names.claim(&base);
        let output = ValueInfo { name: name.clone(), shape: shape.clone() };
        Value { node: graph.add(name, Add {}.into(), &[total, part], vec![output]), output: 0 }
    })
}
