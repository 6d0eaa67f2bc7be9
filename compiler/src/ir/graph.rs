//! The graph. Rules that no type expresses:
//!
//! - A node computes all its outputs from all its inputs at once; there is no control flow and no aliasing.
//! - Sources ([`Op::Input`], [`Op::Target`], [`Op::Parameter`], [`Op::Constant`]) have no inputs.
//! - A value is *batched* or *uniform* (see [`Shape`]); a batched value's batch axis is its first.
//! - A value is read by any number of nodes; a node may read the same value twice.
//! - What a node means is the f64 reference of its [`Op`]; everything after the graph must agree with it.
//! - Names are unique among values. A parameter's value bears its ONNX initialiser's name.
//! - Annotations (sparsity, fusion, liveness) are tables keyed by [`NodeId`] or [`Value`], never fields here.

use super::{Names, Shape, Tensor};
use crate::op::Op;
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A node of one [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(NodeIndex);

/// One output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    /// The node that computes it.
    pub node: NodeId,
    /// Which of the node's outputs.
    pub output: usize,
}

/// What is known of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueInfo {
    /// Unique among the graph's values.
    pub name: String,
    /// Its axes.
    pub shape: Shape,
}

/// An operation and its outputs; its inputs are edges.
#[derive(Clone, Debug)]
pub struct Node {
    /// The ONNX node's name, or one derived from it.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Its outputs, at least one.
    pub outputs: Vec<ValueInfo>,
}

/// petgraph does not order the edges of a node, so each edge says which output feeds which input.
#[derive(Clone, Copy, Debug)]
struct Operand {
    output: usize,
    input: usize,
}

/// What the value of a parameter is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Role {
    /// Learned by gradient descent.
    Trainable,
    /// Kept as it is.
    Frozen,
    /// Follows the data without a gradient: running statistics.
    State,
}

/// A model: nodes, what enters, what leaves.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: StableDiGraph<Node, Operand>,
    /// The model's name.
    pub name: String,
    /// The model's output (logits or prediction), under its ONNX name.
    pub output: Option<Value>,
    /// What the loss reads; it differs from `output` where the model ends in a softmax.
    pub logits: Option<Value>,
    /// Gradient of each trainable parameter, once differentiated; keyed by the parameter's node.
    pub gradients: BTreeMap<NodeId, Value>,
    /// New value of each state parameter after a training step; keyed by the parameter's node.
    pub state_updates: BTreeMap<NodeId, Value>,
    /// Initial value of each parameter; keyed by the parameter's node.
    pub initial: BTreeMap<NodeId, Arc<Tensor>>,
}

/// Cutting a graph into an order failed: some nodes depend on themselves.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the graph has a cycle through node '{node}'; an ONNX graph must be acyclic")]
pub struct Cycle {
    /// A node on the cycle.
    pub node: String,
}

impl Graph {
    /// An empty graph named `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Adds a node; `outputs` pairs a name with a shape.
    pub fn add(&mut self, name: impl Into<String>, op: Op, inputs: &[Value], outputs: Vec<ValueInfo>) -> NodeId {
        let id = NodeId(self.nodes.add_node(Node { name: name.into(), op, outputs }));
        for (input, value) in inputs.iter().enumerate() {
            self.nodes.add_edge(value.node.0, id.0, Operand { output: value.output, input });
        }
        id
    }

    /// The node behind `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// The node behind `id`, to be changed.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0]
    }

    /// Name and shape of `value`.
    pub fn info(&self, value: Value) -> &ValueInfo {
        &self.node(value.node).outputs[value.output]
    }

    /// Shape of `value`.
    pub fn shape(&self, value: Value) -> &Shape {
        &self.info(value).shape
    }

    /// The values `id` reads, in operand order.
    pub fn inputs(&self, id: NodeId) -> Vec<Value> {
        self.operands(id).into_iter().map(|(_, value)| value).collect()
    }

    /// The values `id` reads, each with its operand position: 0, 1, 2, .. in a valid graph.
    pub fn operands(&self, id: NodeId) -> Vec<(usize, Value)> {
        let mut operands: Vec<_> = self
            .nodes
            .edges_directed(id.0, Direction::Incoming)
            .map(|e| (e.weight().input, Value { node: NodeId(e.source()), output: e.weight().output }))
            .collect();
        operands.sort_unstable();
        operands
    }

    /// Whether `value` exists: its node was not removed and has that output.
    pub fn contains(&self, value: Value) -> bool {
        self.nodes.node_weight(value.node.0).is_some_and(|node| value.output < node.outputs.len())
    }

    /// The outputs of `id`, in order.
    pub fn outputs(&self, id: NodeId) -> Vec<Value> {
        (0..self.node(id).outputs.len()).map(|output| Value { node: id, output }).collect()
    }

    /// Every (node, operand position) that reads `value`, in node order.
    pub fn uses(&self, value: Value) -> Vec<(NodeId, usize)> {
        let mut uses: Vec<_> = self
            .nodes
            .edges_directed(value.node.0, Direction::Outgoing)
            .filter(|e| e.weight().output == value.output)
            .map(|e| (NodeId(e.target()), e.weight().input))
            .collect();
        uses.sort_unstable();
        uses
    }

    /// Makes operand `position` of `id` read `value` instead.
    pub fn set_input(&mut self, id: NodeId, position: usize, value: Value) {
        let old = self.nodes.edges_directed(id.0, Direction::Incoming).find(|e| e.weight().input == position).map(|e| e.id());
        if let Some(edge) = old {
            self.nodes.remove_edge(edge);
        }
        self.nodes.add_edge(value.node.0, id.0, Operand { output: value.output, input: position });
    }

    /// Makes every reader of `old` read `new`, the graph's own results included.
    pub fn replace(&mut self, old: Value, new: Value) {
        for (node, position) in self.uses(old) {
            self.set_input(node, position, new);
        }
        let results = self.output.iter_mut().chain(&mut self.logits);
        for result in results.chain(self.gradients.values_mut()).chain(self.state_updates.values_mut()) {
            if *result == old {
                *result = new;
            }
        }
    }

    /// Removes a node that nothing reads.
    pub fn remove(&mut self, id: NodeId) {
        self.nodes.remove_node(id.0);
        self.gradients.remove(&id);
        self.state_updates.remove(&id);
        self.initial.remove(&id);
    }

    /// All nodes in the order they were added.
    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.node_indices().map(NodeId).collect()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.node_count()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All nodes, producers before consumers, ties by insertion: the order goldens and schedules rely on. What makes a value narrow comes as
    /// soon as it can, so that the wide one is not kept for it.
    ///
    /// # Errors
    /// A node that depends on itself.
    pub fn topological(&self) -> Result<Vec<NodeId>, Cycle> {
        let mut waiting: HashMap<NodeIndex, usize> = HashMap::new();
        let mut ready = BTreeSet::new();
        let priority = |node: NodeIndex| (!matches!(self.nodes[node].op, Op::Narrow(_)), node);
        for node in self.nodes.node_indices() {
            let count = self.nodes.edges_directed(node, Direction::Incoming).count();
            waiting.insert(node, count);
            if count == 0 {
                ready.insert(priority(node));
            }
        }
        let mut order = Vec::with_capacity(self.nodes.node_count());
        while let Some((_, node)) = ready.pop_first() {
            order.push(NodeId(node));
            for edge in self.nodes.edges_directed(node, Direction::Outgoing) {
                if let Some(count) = waiting.get_mut(&edge.target()) {
                    *count -= 1;
                    if *count == 0 {
                        ready.insert(priority(edge.target()));
                    }
                }
            }
        }
        match self.nodes.node_indices().find(|n| waiting[n] > 0) {
            Some(stuck) => Err(Cycle { node: self.nodes[stuck].name.clone() }),
            None => Ok(order),
        }
    }

    /// The names of all values.
    pub fn names(&self) -> Names {
        self.nodes.node_weights().flat_map(|node| node.outputs.iter().map(|output| output.name.clone())).collect()
    }

    /// A value name not yet taken: `base`, else `base.1`, `base.2`, ... For one; who needs many keeps [`Graph::names`].
    pub fn fresh_name(&self, base: &str) -> String {
        self.names().claim(base)
    }

    /// Nodes whose op is a parameter, in the order they were added.
    pub fn parameters(&self) -> Vec<NodeId> {
        self.ids().into_iter().filter(|&id| matches!(self.node(id).op, Op::Parameter(_))).collect()
    }
}
