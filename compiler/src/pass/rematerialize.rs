//! Rematerialization: activations that backward reads are computed again, just before it reads them, where keeping them takes too much memory;
//! or they are kept rounded to half of their bytes, where that is allowed.
//!
//! The forward pass is seen as a chain of *links*. A link ends with a value that is all that later forward nodes read of what came
//! before: any value of a plain network, the sums of a residual one. [`Chain::choose`] cuts the chain into stretches that are kept, wide or
//! narrow, and stretches that are computed again from the link before them; [`rematerialize`] adds the nodes that do it.
//!
//! On a chain the choice is optimal for the costs it is given: a dynamic program over (link, bytes kept so far), in the manner of the
//! optimal checkpointing of Beaumont et al. (2020), with one level of recomputation. In a network that is no chain, links hold what lies
//! between two narrow places.
//!
//! Only forward nodes are repeated, on the same operands, so a step has the same bits as without. Uniform values (statistics, parameters) and
//! dropout masks are always kept as they are. What is narrow is rounded for backward alone: the forward pass, and so the loss, is that of f32.

use crate::ir::{Graph, Names, NodeId, Value, ValueInfo};
use crate::op::{Narrow, Op, Widen};
use crate::pass::differentiate::{DifferentiateError, loss_node};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Rates of one core, to weigh arithmetic against traffic; only their ratio matters.
const FLOPS_PER_SECOND: f64 = 5e10;
const BYTES_PER_SECOND: f64 = 1e10;

/// Links that one stretch computes again, at most; it bounds the search, and such a stretch would hold as much as it saves.
const LONGEST_STRETCH: usize = 64;

/// Steps that bytes are counted in by the search.
const BUCKETS: usize = 1024;

/// What lies between two narrow places of the forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Its nodes in forward order, the producer of `end` included.
    pub nodes: Vec<NodeId>,
    /// All that later forward nodes read of it.
    pub end: Value,
    /// Bytes of `end`, an example.
    pub end_bytes: usize,
    /// Bytes of what backward reads of its other values, an example.
    pub inner_bytes: usize,
    /// Of `end_bytes` and `inner_bytes`: what may be narrow.
    pub narrowable: [usize; 2],
    /// Bytes of the largest of its values, an example.
    pub largest_bytes: usize,
    /// Seconds an example to compute again what backward reads inside of it.
    pub inner_seconds: f64,
    /// As `inner_seconds`, and `end` as well.
    pub seconds: f64,
}

/// The forward pass of a differentiated graph, as links.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// In forward order.
    pub links: Vec<Link>,
    /// Seconds an example of the whole forward pass.
    pub seconds: f64,
}

/// A stretch of a [`Chain`] that is computed again: links `first..=last`, but for the end of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Its first link.
    pub first: usize,
    /// Its last link.
    pub last: usize,
}

/// What becomes of the links of a [`Chain`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// What is computed again.
    pub stretches: Vec<Stretch>,
    /// Links of which backward reads narrow values, ascending: all that are kept of each, in a stretch its end.
    pub narrow: Vec<usize>,
}

impl Choice {
    /// Whether everything is kept as it is.
    pub fn is_empty(&self) -> bool {
        self.stretches.is_empty() && self.narrow.is_empty()
    }
}

impl Chain {
    /// The links of `graph`; `density` is that of the weight a node multiplies by.
    ///
    /// # Errors
    /// The graph has no loss, or a cycle.
    pub fn of(graph: &Graph, density: impl Fn(NodeId) -> f64) -> Result<Self, DifferentiateError> {
        let forward = Forward::of(graph)?;
        let mut chain = Chain::default();
        let mut nodes = Vec::new();
        // The last position that reads a value of the nodes so far.
        let mut reach = 0;
        for (position, &id) in forward.order.iter().enumerate() {
            chain.seconds += seconds(graph, id, density(id));
            nodes.push(id);
            if let Some(end) = forward.batched(id).next().filter(|&end| reach <= position && forward.is_kept_at(end)) {
                chain.links.push(forward.link(std::mem::take(&mut nodes), end, &density));
            }
            reach = forward.batched(id).map(|value| forward.last_reader(value)).fold(reach, usize::max);
        }
        Ok(chain)
    }

    /// Bytes an example that are kept if nothing is computed again.
    pub fn kept_bytes(&self) -> usize {
        self.links.iter().map(|link| link.inner_bytes + link.end_bytes).sum()
    }

    /// The cheapest choice such that what is kept and what is computed again at any time is at most `bytes` an example; `None` where even the
    /// least takes more. `narrow` says whether values may be kept narrow.
    pub fn choose(&self, bytes: usize, narrow: bool) -> Option<Choice> {
        let bucket = bytes.div_ceil(BUCKETS).max(1);
        let mut search = Search { best: vec![vec![None; BUCKETS + 1]; self.links.len() + 1] };
        search.best[0][0] = Some(Step { seconds: 0.0, before: (0, 0), again: false, narrow: false });
        let storages: &[bool] = if narrow { &[false, true] } else { &[false] };
        for first in 0..self.links.len() {
            for kept in 0..=BUCKETS {
                let Some(so_far) = search.best[first][kept].map(|step| step.seconds) else { continue };
                let link = &self.links[first];
                for &narrow in storages {
                    let saved = if narrow { (link.narrowable[0] + link.narrowable[1]) / 2 } else { 0 };
                    let whole = kept + (link.inner_bytes + link.end_bytes - saved).div_ceil(bucket);
                    if whole + (2 * link.largest_bytes).div_ceil(bucket) <= BUCKETS {
                        let seconds = so_far + narrowing_seconds(saved);
                        search.improve(first + 1, whole, Step { seconds, before: (first, kept), again: false, narrow });
                    }
                }
                let (mut inside, mut seconds, mut largest) = (0, so_far, 0);
                for last in first..self.links.len().min(first + LONGEST_STRETCH) {
                    let link = &self.links[last];
                    largest = largest.max(link.largest_bytes);
                    inside += link.inner_bytes;
                    let mut fits = false;
                    for &narrow in storages {
                        let saved = if narrow { link.narrowable[0] / 2 } else { 0 };
                        let held = kept + (link.end_bytes - saved).div_ceil(bucket);
                        if held + (inside + 2 * largest).div_ceil(bucket) <= BUCKETS {
                            fits = true;
                            let seconds = seconds + link.inner_seconds + narrowing_seconds(saved);
                            search.improve(last + 1, held, Step { seconds, before: (first, kept), again: true, narrow });
                        }
                    }
                    if !fits {
                        break;
                    }
                    inside += link.end_bytes;
                    seconds += link.seconds;
                }
            }
        }
        search.choice(self.links.len())
    }

    /// What computing stretches again adds to the forward pass, and what narrowing and widening does, as shares of it.
    pub fn shares(&self, choice: &Choice) -> [f64; 2] {
        let of = |stretch: &Stretch| {
            let before: f64 = self.links[stretch.first..stretch.last].iter().map(|link| link.seconds).sum();
            before + self.links[stretch.last].inner_seconds
        };
        let narrow = choice.narrow.iter().map(|&link| {
            let [end, inner] = self.links[link].narrowable;
            let kept = if choice.stretches.iter().any(|stretch| stretch.last == link) { end } else { end + inner };
            narrowing_seconds(kept / 2)
        });
        [choice.stretches.iter().map(of).sum::<f64>(), narrow.sum()].map(|seconds| seconds / self.seconds.max(f64::MIN_POSITIVE))
    }
}

/// Seconds to write narrow what `saved` bytes less are kept of, and to read it and write it wide again: ten bytes of traffic for two saved.
fn narrowing_seconds(saved: usize) -> f64 {
    saved as f64 * 5.0 / BYTES_PER_SECOND
}

/// The best way known to some (link, bytes kept).
#[derive(Clone, Copy)]
struct Step {
    seconds: f64,
    before: (usize, usize),
    /// Whether the links since `before` are computed again.
    again: bool,
    /// Whether what is kept of them is narrow.
    narrow: bool,
}

struct Search {
    best: Vec<Vec<Option<Step>>>,
}

impl Search {
    fn improve(&mut self, link: usize, kept: usize, step: Step) {
        let best = &mut self.best[link][kept];
        if best.is_none_or(|best| step.seconds < best.seconds) {
            *best = Some(step);
        }
    }

    fn choice(&self, links: usize) -> Option<Choice> {
        let cost = |kept: &usize| self.best[links][*kept].map_or(f64::INFINITY, |step| step.seconds);
        let end = (0..=BUCKETS).min_by(|a, b| cost(a).total_cmp(&cost(b)))?;
        let mut at = (links, end);
        let mut choice = Choice::default();
        self.best[links][end]?;
        while let Some(step) = self.best[at.0][at.1].filter(|_| at.0 > 0) {
            if step.again {
                choice.stretches.push(Stretch { first: step.before.0, last: at.0 - 1 });
            }
            if step.narrow {
                choice.narrow.push(at.0 - 1);
            }
            at = step.before;
        }
        choice.stretches.reverse();
        choice.narrow.reverse();
        Some(choice)
    }
}

/// The forward nodes of a differentiated graph.
struct Forward<'a> {
    graph: &'a Graph,
    /// Those that compute a batched value or statistics of one, in order; sources and the loss are not among them.
    order: Vec<NodeId>,
    position: HashMap<NodeId, usize>,
}

impl<'a> Forward<'a> {
    fn of(graph: &'a Graph) -> Result<Self, DifferentiateError> {
        let loss = loss_node(graph)?;
        let mut ancestors = BTreeSet::from([loss]);
        let order = graph.topological()?;
        for &id in order.iter().rev().filter(|id| !ancestors.contains(id)).collect::<Vec<_>>() {
            if graph.outputs(id).into_iter().any(|value| graph.uses(value).iter().any(|(reader, _)| ancestors.contains(reader))) {
                ancestors.insert(id);
            }
        }
        let computes = |id: &NodeId| *id != loss && ancestors.contains(id) && reads_batched(graph, *id);
        let order: Vec<NodeId> = order.into_iter().filter(computes).collect();
        let position = order.iter().enumerate().map(|(position, &id)| (id, position)).collect();
        Ok(Forward { graph, order, position })
    }

    /// The forward nodes that read `value`.
    fn readers(&self, value: Value) -> impl Iterator<Item = NodeId> {
        self.graph.uses(value).into_iter().map(|(reader, _)| reader).filter(|reader| self.position.contains_key(reader))
    }

    /// Whether a node that is neither part of the forward pass nor the loss reads `value`.
    fn read_backward(&self, value: Value) -> bool {
        self.graph.uses(value).iter().any(|(reader, _)| !self.position.contains_key(reader) && !self.graph.node(*reader).op.is_loss())
    }

    /// The batched outputs of `id`.
    fn batched(&self, id: NodeId) -> impl Iterator<Item = Value> {
        self.graph.outputs(id).into_iter().filter(|&value| self.graph.shape(value).is_batched())
    }

    /// Position of the last forward node that reads `value`.
    fn last_reader(&self, value: Value) -> usize {
        self.readers(value).map(|reader| self.position[&reader]).max().unwrap_or(0)
    }

    /// Whether a link may end with `value`: later nodes read it, or the loss does, and it lies in memory.
    fn is_kept_at(&self, value: Value) -> bool {
        self.graph.logits == Some(value) || (self.is_stored(value) && self.readers(value).next().is_some())
    }

    /// Whether fusion leaves `value` in memory: it is no intermediate of a chain, nor the ReLU that convolutions compute while they stage.
    fn is_stored(&self, value: Value) -> bool {
        let graph = self.graph;
        let op = &graph.node(value.node).op;
        if !op.is_elementwise() {
            return true;
        }
        let readers: Vec<_> = graph.uses(value).into_iter().map(|(reader, _)| reader).collect();
        let is_chain = readers.iter().all(|reader| graph.node(*reader).op.is_elementwise() && self.position.contains_key(reader));
        let normalized = || matches!(op, Op::Relu(_)) && matches!(graph.node(graph.inputs(value.node)[0].node).op, Op::Normalize(_));
        let stages = |reader: &NodeId| match &graph.node(*reader).op {
            Op::Convolution(op) => op.pads != [0; 4],
            Op::ConvolutionBackward(_) | Op::ConvolutionWeightGradient(_) | Op::ReluGradient(_) => true,
            _ => false,
        };
        let is_staged = normalized() && readers.iter().all(stages);
        !is_chain && !is_staged
    }

    /// Nodes among `nodes` that compute again what is read of `wanted`, in order.
    fn closure(&self, nodes: &[NodeId], wanted: impl Fn(Value) -> bool) -> Vec<NodeId> {
        let mut needed: BTreeSet<NodeId> = BTreeSet::new();
        for &id in nodes.iter().rev() {
            let read_again = |value: Value| self.readers(value).any(|reader| needed.contains(&reader));
            if is_repeatable(self.graph, id) && self.batched(id).any(|value| wanted(value) || read_again(value)) {
                needed.insert(id);
            }
        }
        nodes.iter().copied().filter(|id| needed.contains(id)).collect()
    }

    /// Whether backward may read `value` rounded: it lies in memory, and is neither the result nor a mask that scales by a constant.
    fn is_narrowable(&self, value: Value) -> bool {
        let is_result = self.graph.logits == Some(value) || self.graph.output == Some(value);
        let is_mask = matches!(self.graph.node(value.node).op, Op::DropoutMask(_));
        !is_result && !is_mask && self.read_backward(value) && self.is_stored(value)
    }

    /// Nodes among `nodes` whose results lie nowhere and are read by backward, or by such nodes, and depend on what is `narrow`; in order.
    fn passing(&self, nodes: &[NodeId], narrow: &BTreeMap<Value, Value>) -> Vec<NodeId> {
        let unstored: Vec<NodeId> = nodes.iter().copied().filter(|&id| self.batched(id).all(|value| !self.is_stored(value))).collect();
        let mut changed: BTreeSet<NodeId> = BTreeSet::new();
        for id in self.closure(&unstored, |value| self.read_backward(value)) {
            if self.graph.inputs(id).iter().any(|value| narrow.contains_key(value) || changed.contains(&value.node)) {
                changed.insert(id);
            }
        }
        nodes.iter().copied().filter(|id| changed.contains(id)).collect()
    }

    fn link(&self, nodes: Vec<NodeId>, end: Value, density: &impl Fn(NodeId) -> f64) -> Link {
        let graph = self.graph;
        let values = || nodes.iter().flat_map(|&id| self.batched(id));
        let inner = |value: Value| value != end && self.read_backward(value);
        let cost = |nodes: Vec<NodeId>| nodes.into_iter().map(|id| seconds(graph, id, density(id))).sum();
        Link {
            end,
            end_bytes: bytes(graph, end),
            inner_bytes: values().filter(|&value| inner(value) && self.is_stored(value)).map(|value| bytes(graph, value)).sum(),
            narrowable: [vec![end], values().filter(|&value| inner(value)).collect()]
                .map(|values| values.into_iter().filter(|&value| self.is_narrowable(value)).map(|value| bytes(graph, value)).sum()),
            largest_bytes: values().map(|value| bytes(graph, value)).max().unwrap_or(0),
            inner_seconds: cost(self.closure(&nodes, inner)),
            seconds: cost(self.closure(&nodes, |value| value == end || inner(value))),
            nodes,
        }
    }
}

fn reads_batched(graph: &Graph, id: NodeId) -> bool {
    graph.inputs(id).into_iter().any(|value| graph.shape(value).is_batched())
}

/// Whether a node may run twice: masks are numbered by their node, and uniform results are kept.
fn is_repeatable(graph: &Graph, id: NodeId) -> bool {
    !matches!(graph.node(id).op, Op::DropoutMask(_)) && graph.node(id).outputs.iter().any(|output| output.shape.is_batched())
}

/// Bytes of a value, an example.
fn bytes(graph: &Graph, value: Value) -> usize {
    graph.shape(value).elements() * 4
}

/// Seconds that a node takes, an example.
fn seconds(graph: &Graph, id: NodeId, density: f64) -> f64 {
    let inputs = graph.inputs(id);
    let inputs: Vec<_> = inputs.iter().map(|&value| graph.shape(value)).collect();
    let outputs: Vec<_> = graph.node(id).outputs.iter().map(|output| &output.shape).collect();
    let flops = graph.node(id).op.operator().cost(&inputs, &outputs).flops * density;
    let batched = inputs.iter().chain(&outputs).filter(|shape| shape.is_batched());
    flops / FLOPS_PER_SECOND + batched.map(|shape| shape.elements() as f64 * 4.0).sum::<f64>() / BYTES_PER_SECOND
}

/// Adds nodes that compute stretches of `chain` again, narrow what `choice` says and widen it, and makes backward read those. They are added
/// in the order that backward comes to them, after all others: an order that prefers earlier nodes runs them as late as it can.
///
/// Returns each repeated node with the one that repeats it.
///
/// # Errors
/// The graph has no loss, or a cycle.
pub fn rematerialize(graph: &mut Graph, chain: &Chain, choice: &Choice) -> Result<Vec<(NodeId, NodeId)>, DifferentiateError> {
    let forward = Forward::of(graph)?;
    let steps = forward.steps(chain, choice);
    let mut pass = Repetition {
        is_forward: forward.order.iter().copied().collect(),
        ends: choice.stretches.iter().map(|stretch| chain.links[stretch.last].end).collect(),
        wide: BTreeMap::new(),
        repeated: Vec::new(),
        names: graph.names(),
        graph,
    };
    for step in steps {
        step.narrow.into_iter().for_each(|value| pass.narrow(value));
        pass.repeat(&step.nodes);
    }
    Ok(pass.repeated)
}

/// What is added for a stretch, or for a link that is kept.
struct Addition {
    /// Values that backward reads narrow from here on.
    narrow: Vec<Value>,
    /// Nodes that are repeated.
    nodes: Vec<NodeId>,
}

impl Forward<'_> {
    /// What `choice` adds, from the last link to the first.
    fn steps(&self, chain: &Chain, choice: &Choice) -> Vec<Addition> {
        let is_narrow = |link: usize| choice.narrow.binary_search(&link).is_ok();
        let narrowable = |value: &Value| self.is_narrowable(*value);
        let kept = |link: usize| -> Vec<Value> {
            let values = chain.links[link].nodes.iter().rev().flat_map(|&id| self.batched(id));
            if is_narrow(link) { values.filter(narrowable).collect() } else { vec![] }
        };
        let end = |link: usize| Some(chain.links[link].end).filter(|value| is_narrow(link) && narrowable(value));
        // Which values are narrow has to be known before what passes them on; to whom they are widened doesn't.
        let mut narrow: BTreeMap<Value, Value> = BTreeMap::new();
        let mut steps = Vec::new();
        let stretch_of = |link: usize| choice.stretches.iter().find(|stretch| (stretch.first..=stretch.last).contains(&link));
        let mut link = chain.links.len();
        while link > 0 {
            let stretch = stretch_of(link - 1).copied();
            let first = stretch.map_or(link - 1, |stretch| stretch.first);
            let mut own: Vec<Value> = stretch.map_or_else(|| kept(link - 1), |stretch| end(stretch.last).into_iter().collect());
            // What this reads of the link before.
            own.extend(first.checked_sub(1).and_then(end));
            narrow.extend(own.iter().map(|value| (*value, *value)));
            let nodes: Vec<NodeId> = chain.links[first..link].iter().flat_map(|link| &link.nodes).copied().collect();
            let nodes = match stretch {
                Some(stretch) => self.closure(&nodes, |value| value != chain.links[stretch.last].end && self.read_backward(value)),
                None => self.passing(&nodes, &narrow),
            };
            steps.push(Addition { narrow: own, nodes });
            link = first;
        }
        steps
    }
}

/// The graph while forward nodes are repeated for backward.
struct Repetition<'g> {
    graph: &'g mut Graph,
    is_forward: BTreeSet<NodeId>,
    /// Ends of stretches: kept.
    ends: BTreeSet<Value>,
    /// For each value that is kept narrow: what backward reads.
    wide: BTreeMap<Value, Value>,
    repeated: Vec<(NodeId, NodeId)>,
    names: Names,
}

impl Repetition<'_> {
    /// Readers of `value` that are neither part of the forward pass nor the loss, and the positions at which they read it.
    fn backward_readers(&self, value: Value) -> Vec<(NodeId, usize)> {
        let graph = &*self.graph;
        let backward = |(reader, _): &(NodeId, usize)| !self.is_forward.contains(reader) && !graph.node(*reader).op.is_loss();
        graph.uses(value).into_iter().filter(backward).collect()
    }

    fn add(&mut self, like: Value, suffix: &str, op: Op, input: Value) -> Value {
        let ValueInfo { name, shape } = self.graph.info(like).clone();
        let info = ValueInfo { name: self.names.claim(&format!("{name}.{suffix}")), shape };
        let node = self.graph.add(info.name.clone(), op, &[input], vec![info]);
        Value { node, output: 0 }
    }

    /// Makes backward read `value` through half of its bytes.
    fn narrow(&mut self, value: Value) {
        if self.wide.contains_key(&value) {
            return;
        }
        let readers = self.backward_readers(value);
        let narrow = self.add(value, "narrow", Narrow {}.into(), value);
        let wide = self.add(value, "wide", Widen {}.into(), narrow);
        readers.into_iter().for_each(|(reader, position)| self.graph.set_input(reader, position, wide));
        self.wide.insert(value, wide);
    }

    /// Adds a copy of each of `nodes`, which read each other's copies and what is wide again, and moves what is not forward to the copies.
    fn repeat(&mut self, nodes: &[NodeId]) {
        let mut copies: BTreeMap<Value, Value> = BTreeMap::new();
        for &id in nodes {
            let read = |value: &Value| copies.get(value).or_else(|| self.wide.get(value)).copied().unwrap_or(*value);
            let inputs: Vec<Value> = self.graph.inputs(id).iter().map(read).collect();
            let node = self.graph.node(id).clone();
            let mut again = |output: &ValueInfo| ValueInfo { name: self.names.claim(&format!("{}.again", output.name)), ..output.clone() };
            let outputs: Vec<ValueInfo> = node.outputs.iter().map(&mut again).collect();
            let copy = self.graph.add(format!("{}.again", node.name), node.op, &inputs, outputs);
            self.repeated.push((id, copy));
            let pairs = self.graph.outputs(id).into_iter().zip(self.graph.outputs(copy));
            let is_repeated = |value: &Value| self.graph.shape(*value).is_batched() && !self.ends.contains(value);
            copies.extend(pairs.filter(|(value, _)| is_repeated(value)));
        }
        let repeated: BTreeSet<NodeId> = copies.values().map(|copy| copy.node).collect();
        for (&value, &copy) in &copies {
            for (reader, position) in self.backward_readers(value) {
                if !repeated.contains(&reader) {
                    self.graph.set_input(reader, position, copy);
                }
            }
        }
    }
}
