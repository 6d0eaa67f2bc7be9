//! Groups element-wise nodes into clusters, each computed in one pass over memory.
//!
//! Element-wise nodes do a few operations for each element they load, so their cost is memory traffic. A cluster loads every outside
//! operand once, keeps what lies between its nodes in registers, and stores only what somebody outside reads.
//!
//! What may share a cluster: nodes that iterate over the same shape. That of an element-wise node is its output's; that of a reduction
//! ([`Op::NormalizeSums`], [`Op::SumTo`]) its first operand's, so a reduction sums up a chain as the chain is computed. A reduction's result
//! is known only after the whole pass: nothing reads it inside of its cluster. Nor what a cluster narrows, or it would never be rounded. Shapes being equal, uniform nodes never join batched ones.
//!
//! Method: greedy along the given order. A node starts a cluster of its own, then merges with the cluster of each operand's
//! producer, in operand order, where that is allowed:
//!
//! - shapes agree, and neither reads a reduction of the other;
//! - no path leads from one to the other through a third unit: contracted to one node, the cluster would depend on itself.
//!   This is also what keeps the forward and the backward pass apart: a backward node that reads a forward value reads a gradient too,
//!   which came from that value through the loss;
//! - together they load at most [`LARGEST_LOADS`] values, so that everything stays in registers.
//!
//! Contracting keeps the graph acyclic by induction: a node without readers closes no cycle, and merging two units closes one only if
//! a path connects them through a third. Nodes are never computed twice; a value with readers in two clusters is stored.

use crate::ir::{Graph, NodeId, Shape, Value};
use crate::op::Op;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Values that a cluster loads at most.
pub const LARGEST_LOADS: usize = 12;

/// Element-wise nodes computed in one pass over `shape`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its nodes in the order given to [`fuse`]; a producer comes before its readers.
    pub nodes: Vec<NodeId>,
    /// What the pass iterates over.
    pub shape: Shape,
    /// Values it reads from elsewhere, each once, in order of first use.
    pub inputs: Vec<Value>,
    /// Values read elsewhere or among the graph's results; all others live only inside.
    pub stored: Vec<Value>,
}

/// One thing to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// A node that is not element-wise.
    Node(NodeId),
    /// Index of a cluster.
    Cluster(usize),
}

/// Every element-wise node's cluster, and the order of everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FusionTable {
    /// In the order of their first nodes.
    pub clusters: Vec<Cluster>,
    /// Every node of the order once, alone or in its cluster; producers before readers.
    pub sequence: Vec<Unit>,
    of: BTreeMap<NodeId, usize>,
}

impl FusionTable {
    /// Index of the cluster that computes `node`; `None` for a node that is not element-wise.
    pub fn cluster_of(&self, node: NodeId) -> Option<usize> {
        self.of.get(&node).copied()
    }
}

/// Clusters the nodes of `order`, which lists producers before consumers; nodes it leaves out do not count as readers.
pub fn fuse(graph: &Graph, order: &[NodeId]) -> FusionTable {
    let mut contraction = Contraction::new(graph, order);
    for node in 0..order.len() {
        let Some(shape) = contraction.shapes[node].clone() else { continue };
        for producer in contraction.producers[node].clone() {
            if contraction.shapes[producer].as_ref() == Some(&shape) {
                contraction.merge(contraction.unit[producer], contraction.unit[node], node);
            }
        }
    }
    contraction.join_narrow();
    contraction.table()
}

/// Whether `op` ends a chain with sums over it.
fn is_reduction(op: &Op) -> bool {
    matches!(op, Op::NormalizeSums(_) | Op::SumTo(_))
}

/// What the nodes of a cluster iterate over; `None` if `id` belongs in none.
fn iteration_shape(graph: &Graph, id: NodeId) -> Option<Shape> {
    let op = &graph.node(id).op;
    if is_reduction(op) {
        return graph.inputs(id).first().map(|&chain| graph.shape(chain).clone());
    }
    op.is_elementwise().then(|| graph.shape(Value { node: id, output: 0 }).clone())
}

/// The graph with clusters contracted. Nodes are named by their position in the order, a unit by its first node.
struct Contraction<'a> {
    graph: &'a Graph,
    order: &'a [NodeId],
    position: HashMap<NodeId, usize>,
    shapes: Vec<Option<Shape>>,
    producers: Vec<Vec<usize>>,
    readers: Vec<Vec<usize>>,
    /// The unit of each node.
    unit: Vec<usize>,
    /// The nodes of each unit, ascending; empty for units that were merged into another.
    members: Vec<Vec<usize>>,
}

impl<'a> Contraction<'a> {
    fn new(graph: &'a Graph, order: &'a [NodeId]) -> Self {
        let position: HashMap<_, _> = order.iter().enumerate().map(|(position, &id)| (id, position)).collect();
        let mut readers = vec![vec![]; order.len()];
        let mut producers = vec![vec![]; order.len()];
        for (node, &id) in order.iter().enumerate() {
            for producer in graph.inputs(id).into_iter().filter_map(|value| position.get(&value.node).copied()) {
                producers[node].push(producer);
                readers[producer].push(node);
            }
        }
        Contraction {
            graph,
            order,
            position,
            shapes: order.iter().map(|&id| iteration_shape(graph, id)).collect(),
            producers,
            readers,
            unit: (0..order.len()).collect(),
            members: (0..order.len()).map(|node| vec![node]).collect(),
        }
    }

    /// Lets each narrowing of what is not computed element by element share the pass of somebody else who reads that.
    fn join_narrow(&mut self) {
        let newest = self.order.len().saturating_sub(1);
        for node in 0..self.order.len() {
            if !matches!(self.graph.node(self.order[node]).op, Op::Narrow(_)) || self.members[self.unit[node]].len() > 1 {
                continue;
            }
            let readers: Vec<usize> = self.producers[node].iter().flat_map(|&producer| &self.readers[producer]).copied().collect();
            for reader in readers {
                if self.shapes[reader] == self.shapes[node] && self.members[self.unit[node]] == [node] {
                    self.merge(self.unit[reader], self.unit[node], newest);
                }
            }
        }
    }

    /// Merges two units, if that is allowed, while nodes up to `newest` have been placed.
    fn merge(&mut self, a: usize, b: usize, newest: usize) {
        if a == b || self.reads_reduction(a, b) || self.reads_reduction(b, a) {
            return;
        }
        let mut together: Vec<_> = self.members[a].iter().chain(&self.members[b]).copied().collect();
        together.sort_unstable();
        if self.loads(&together).len() > LARGEST_LOADS || self.detour(a, b, newest) || self.detour(b, a, newest) {
            return;
        }
        let (kept, gone) = (a.min(b), a.max(b));
        for &node in &together {
            self.unit[node] = kept;
        }
        self.members[gone].clear();
        self.members[kept] = together;
    }

    /// Whether `reader` reads the result of a reduction in `unit`, or what is narrow there.
    fn reads_reduction(&self, reader: usize, unit: usize) -> bool {
        let ends = |op: &Op| is_reduction(op) || matches!(op, Op::Narrow(_));
        let reductions = self.members[unit].iter().filter(|&&node| ends(&self.graph.node(self.order[node]).op));
        reductions.flat_map(|&node| &self.readers[node]).any(|&node| self.unit[node] == reader)
    }

    /// Distinct values that `nodes` read from elsewhere, in order of first use.
    fn loads(&self, nodes: &[usize]) -> Vec<Value> {
        let mut loads = vec![];
        for value in nodes.iter().flat_map(|&node| self.graph.inputs(self.order[node])) {
            let inside = self.position.get(&value.node).is_some_and(|producer| nodes.binary_search(producer).is_ok());
            if !inside && !loads.contains(&value) {
                loads.push(value);
            }
        }
        loads
    }

    /// Whether a path leads from unit `from` to unit `to` through a third. Nodes after `newest` are still alone and read nothing back.
    fn detour(&self, from: usize, to: usize, newest: usize) -> bool {
        let mut seen = BTreeSet::from([from, to]);
        let mut open = vec![from];
        while let Some(unit) = open.pop() {
            for &reader in self.members[unit].iter().flat_map(|&node| &self.readers[node]).filter(|&&reader| reader <= newest) {
                let next = self.unit[reader];
                if next == to && unit != from {
                    return true;
                }
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        false
    }

    fn table(self) -> FusionTable {
        let mut table = FusionTable::default();
        let results: BTreeSet<Value> = (self.graph.output.iter().chain(&self.graph.logits))
            .chain(self.graph.gradients.values())
            .chain(self.graph.state_updates.values())
            .copied()
            .collect();
        let mut units = BTreeMap::new();
        for (unit, members) in self.members.iter().enumerate().filter(|(_, members)| !members.is_empty()) {
            let Some(shape) = &self.shapes[unit] else {
                units.insert(unit, Unit::Node(self.order[unit]));
                continue;
            };
            let nodes: Vec<_> = members.iter().map(|&node| self.order[node]).collect();
            units.insert(unit, Unit::Cluster(table.clusters.len()));
            table.of.extend(nodes.iter().map(|&id| (id, table.clusters.len())));
            let leaves = |value: &Value| {
                let read_elsewhere = |(reader, _): (NodeId, usize)| self.position.get(&reader).is_some_and(|&node| self.unit[node] != unit);
                results.contains(value) || self.graph.uses(*value).into_iter().any(read_elsewhere)
            };
            let stored = nodes.iter().flat_map(|&id| self.graph.outputs(id)).filter(leaves).collect();
            table.clusters.push(Cluster { nodes, shape: shape.clone(), inputs: self.loads(members), stored });
        }
        table.sequence = self.sequence().into_iter().map(|unit| units[&unit]).collect();
        table
    }

    /// Units, producers first, otherwise each as early as its last node stands in the order.
    fn sequence(&self) -> Vec<usize> {
        let before = |unit: usize| -> BTreeSet<usize> {
            let producers = self.members[unit].iter().flat_map(|&node| &self.producers[node]).map(|&producer| self.unit[producer]);
            producers.filter(|&producer| producer != unit).collect()
        };
        let units = (0..self.order.len()).filter(|&unit| !self.members[unit].is_empty());
        let mut waiting: BTreeMap<usize, usize> = units.map(|unit| (unit, before(unit).len())).collect();
        let priority = |unit: usize| (self.members[unit].last().copied(), unit);
        let mut ready: BTreeSet<_> = waiting.iter().filter(|(_, count)| **count == 0).map(|(&unit, _)| priority(unit)).collect();
        let mut sequence = vec![];
        while let Some((_, unit)) = ready.pop_first() {
            sequence.push(unit);
            let readers = self.members[unit].iter().flat_map(|&node| &self.readers[node]).map(|&reader| self.unit[reader]);
            for reader in readers.filter(|&reader| reader != unit).collect::<BTreeSet<_>>() {
                if let Some(count) = waiting.get_mut(&reader) {
                    *count -= 1;
                    if *count == 0 {
                        ready.insert(priority(reader));
                    }
                }
            }
        }
        sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::arbitrary::graphs;
    use crate::ir::text::parse;
    use proptest::prelude::*;

    const SOURCES: &str = r#"
%x = input() {"shape":["N",4]} : [N, 4]
%w = parameter() {"dims":[4,4],"role":"Trainable"} : [4, 4]
%u = parameter() {"dims":[4],"role":"State"} : [4]
"#;

    fn model(lines: &str) -> Graph {
        parse(&format!("{SOURCES}{lines}")).unwrap()
    }

    fn fused(graph: &Graph) -> FusionTable {
        fuse(graph, &graph.topological().unwrap())
    }

    fn names(graph: &Graph, values: &[Value]) -> String {
        values.iter().map(|&value| graph.info(value).name.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// Clusters as `nodes <- inputs -> stored`.
    fn clusters(graph: &Graph) -> Vec<String> {
        let describe = |cluster: &Cluster| {
            let nodes: Vec<_> = cluster.nodes.iter().map(|&id| graph.node(id).name.as_str()).collect();
            format!("{} <- {} -> {}", nodes.join(" "), names(graph, &cluster.inputs), names(graph, &cluster.stored))
        };
        fused(graph).clusters.iter().map(describe).collect()
    }

    #[test]
    fn normalization_relu_and_sum_are_one_cluster() {
        let graph = model(
            r#"%c = linear(%x, %w) : [N, 4]
%mean, %variance = batch_moments(%c) : [4], [4]
%n = normalize(%c, %mean, %variance, %u, %u) {"epsilon":0.001} : [N, 4]
%s = add(%n, %x) : [N, 4]
%y = relu(%s) : [N, 4]
output %y
"#,
        );
        assert_eq!(clusters(&graph), ["n s y <- c mean variance u x -> y"]);
    }

    #[test]
    fn a_diamond_is_one_cluster() {
        let graph = model(
            r#"%a = relu(%x) : [N, 4]
%b = clip(%a) {"low":0.0,"high":6.0} : [N, 4]
%c = mul(%a, %u) : [N, 4]
%d = add(%b, %c) : [N, 4]
output %d
"#,
        );
        assert_eq!(clusters(&graph), ["a b c d <- x u -> d"]);
    }

    #[test]
    fn two_chains_meet_in_one_cluster() {
        let graph = model(
            r#"%p = linear(%x, %w) : [N, 4]
%a = relu(%x) : [N, 4]
%b = relu(%p) : [N, 4]
%c = add(%b, %a) : [N, 4]
output %c
"#,
        );
        assert_eq!(clusters(&graph), ["a b c <- x p -> c"]);
    }

    #[test]
    fn a_path_out_and_back_in_is_not_fused() {
        let graph = model(
            r#"%a = relu(%x) : [N, 4]
%p = linear(%a, %w) : [N, 4]
%b = add(%p, %a) : [N, 4]
output %b
"#,
        );
        assert_eq!(clusters(&graph), ["a <- x -> a", "b <- p a -> b"]);
    }

    #[test]
    fn a_path_back_in_through_another_cluster_is_not_fused() {
        // b joins a; d would join c, but c's cluster reads b through the linear node, and a's cluster would then read c.
        let graph = model(
            r#"%a = relu(%x) : [N, 4]
%p = linear(%a, %w) : [N, 4]
%c = relu(%p) : [N, 4]
%b = clip(%a) {"low":0.0,"high":6.0} : [N, 4]
%d = add(%b, %c) : [N, 4]
output %d
"#,
        );
        assert_eq!(clusters(&graph), ["a b <- x -> a b", "c d <- p b -> d"]);
    }

    #[test]
    fn reductions_end_a_cluster() {
        let graph = model(
            r#"%g = relu_gradient(%x, %x) : [N, 4]
%dscale, %dshift = normalize_sums(%g, %x, %u, %u) {"epsilon":0.001} : [4], [4]
%db = sum_to(%g) {"shape":[4]} : [4]
%dx = normalize_backward(%g, %x, %u, %u, %u, %dscale, %dshift) {"epsilon":0.001} : [N, 4]
output %dx
update %u = %db
"#,
        );
        let clusters = clusters(&graph);
        assert_eq!(clusters[0], "g dscale db <- x u -> g dscale dshift db");
        assert_eq!(clusters[1], "dx <- g x u dscale dshift -> dx");
    }

    #[test]
    fn forward_and_backward_do_not_mix() {
        let graph = model(
            r#"%target = target() {"shape":["N",4]} : [N, 4]
%c = linear(%x, %w) : [N, 4]
%y = relu(%c) : [N, 4]
%loss, %correct, %dy = mean_squared_error(%y, %target) : [N], [N], [N, 4]
%dc = relu_gradient(%dy, %y) : [N, 4]
%dw = linear_weight_gradient(%x, %w, %dc) : [4, 4]
output %y
gradient %w = %dw
"#,
        );
        assert_eq!(clusters(&graph), ["y <- c -> y", "dc <- dy y -> dc"]);
    }

    #[test]
    fn uniform_nodes_never_join_batched_ones() {
        let graph = model(
            r#"%v = add(%u, %u) : [4]
%q = relu(%v) : [4]
%e = mul(%q, %x) : [N, 4]
%y = relu(%e) : [N, 4]
output %y
"#,
        );
        assert_eq!(clusters(&graph), ["v q <- u -> q", "e y <- q x -> y"]);
    }

    #[test]
    fn a_cluster_loads_at_most_so_many_values() {
        let count = 20;
        let mut lines = String::new();
        for i in 0..count {
            lines += &format!("%p{i} = linear(%x, %w) : [N, 4]\n");
        }
        lines += "%s0 = relu(%p0) : [N, 4]\n";
        for i in 1..count {
            lines += &format!("%s{i} = add(%s{}, %p{i}) : [N, 4]\n", i - 1);
        }
        let table = fused(&model(&format!("{lines}output %s{}", count - 1)));
        assert_eq!(table.clusters.iter().map(|cluster| cluster.inputs.len()).collect::<Vec<_>>(), [LARGEST_LOADS, 9]);
    }

    #[test]
    fn nodes_left_out_of_the_order_read_nothing() {
        let graph = model("%a = relu(%x) : [N, 4]\n%b = relu(%a) : [N, 4]\n%c = linear(%a, %w) : [N, 4]\noutput %b\n");
        let order: Vec<_> = graph.topological().unwrap().into_iter().filter(|&id| graph.node(id).name != "c").collect();
        let table = fuse(&graph, &order);
        assert_eq!(names(&graph, &table.clusters[0].stored), "b");
    }

    proptest! {
        #[test]
        fn clusters_run_one_after_the_other(graph in graphs()) {
            let order = graph.topological().unwrap();
            let table = fuse(&graph, &order);
            let mut known = BTreeSet::new();
            let mut done = 0;
            for unit in &table.sequence {
                let (nodes, inputs, outputs) = match *unit {
                    Unit::Node(id) => (vec![id], graph.inputs(id), graph.outputs(id)),
                    Unit::Cluster(index) => {
                        let cluster = &table.clusters[index];
                        (cluster.nodes.clone(), cluster.inputs.clone(), cluster.stored.clone())
                    }
                };
                for input in inputs {
                    prop_assert!(known.contains(&input), "{} is read before it is stored", graph.info(input).name);
                }
                known.extend(outputs);
                done += nodes.len();
            }
            prop_assert_eq!(done, order.len());
        }

        #[test]
        fn clusters_are_of_one_shape_and_read_no_reduction_of_their_own(graph in graphs()) {
            let table = fuse(&graph, &graph.topological().unwrap());
            for cluster in &table.clusters {
                prop_assert!(cluster.inputs.len() <= LARGEST_LOADS);
                for &id in &cluster.nodes {
                    prop_assert_eq!(iteration_shape(&graph, id), Some(cluster.shape.clone()));
                    for value in graph.inputs(id).into_iter().filter(|value| cluster.nodes.contains(&value.node)) {
                        prop_assert!(!is_reduction(&graph.node(value.node).op));
                    }
                }
            }
        }
    }
}
