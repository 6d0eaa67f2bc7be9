//! Times one variant of one model: its whole step, its layers, its kernels, a mutation.

use super::generic::{Generic, NodeTime};
use crate::engine::jit::Jit;
use crate::ir::graph::NodeId;
use crate::ir::{Graph, Shape, Value};
use crate::op::Op;
use crate::pass::annotate_sparsity::{LayerSparsity, SparsityTable};
use mest_runtime::manifest::{Element, Manifest, Storage};
use mest_runtime::mutation::{DenseGradients, Events, Mutator, Progress};
use mest_runtime::network::{self, BatchError, Network, Phase, Target, Timing, UpdateRule};
use mest_runtime::random::{Purpose, Stream};
use mest_runtime::recipe::Recipe;
use mest_runtime::sparse::state::{self, InitialMasks, StateError};
use mest_runtime::sparse::{Bump, Growth, Units, mask};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

/// Steps before the first that counts.
const WARM_UP: usize = 2;
/// Topology updates of which the median counts.
const MUTATIONS: usize = 5;

/// A pass over a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    /// The layer's output.
    Forward,
    /// Both gradients, or the weight's alone where nobody needs the other.
    Backward,
}

/// Time of a pass over one weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerTime {
    /// The weight.
    pub name: String,
    /// Which pass.
    pub pass: Pass,
    /// The scheme, as the command line spells it; `dense` for a dense layer.
    pub scheme: String,
    /// Share of live weights.
    pub density: f64,
    /// Milliseconds.
    pub ms: f64,
    /// Operations on live weights of a whole batch, a multiply-add being two; what reads padding counts.
    pub flops: f64,
}

/// Time of one launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelTime {
    /// The graph node it comes from.
    pub label: String,
    /// The kernel.
    pub kernel: String,
    /// Milliseconds.
    pub ms: f64,
}

/// A step at some density.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DensityTime {
    /// Share of live weights of the layers made sparse, as the recipe has it for those without a density of their own.
    pub density: f64,
    /// Milliseconds.
    pub step_ms: f64,
}

/// What was measured of one variant; `None` where it has no such thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Milliseconds of a training step.
    pub step_ms: f64,
    /// The largest memory of the process, after the steps.
    pub peak_rss_bytes: Option<u64>,
    /// The arena.
    pub arena_bytes: Option<usize>,
    /// Import to engine ready, in milliseconds.
    pub compile_ms: Option<f64>,
    /// A topology update of all layers, in milliseconds.
    pub mutation_ms: Option<f64>,
    /// In convolutions' kernels, a step, in milliseconds.
    pub convolution_ms: Option<f64>,
    /// A step at the density that mutation grows to.
    pub grown: Option<DensityTime>,
    /// A step at the mean density of the run.
    pub mean: Option<DensityTime>,
    /// Layers.
    pub layers: Vec<LayerTime>,
    /// Launches of a step, in order.
    pub kernels: Vec<KernelTime>,
}

/// The middle of `times`; 0 of none.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

/// Median time of `step` in milliseconds, over `steps` runs after some to warm up.
pub fn time_steps(steps: usize, mut step: impl FnMut()) -> f64 {
    (0..WARM_UP).for_each(|_| step());
    let timed = (0..steps.max(1)).map(|_| {
        let start = Instant::now();
        step();
        start.elapsed().as_secs_f64() * 1e3
    });
    median(timed.collect())
}

/// The update rule of a recipe. Nothing is learned: values stay what they are, however many steps are timed.
pub fn rule(recipe: &Recipe) -> UpdateRule {
    let (optimizer, weight_decay, max_norm) = (recipe.update_rule(), recipe.weight_decay, recipe.clip_norm);
    UpdateRule { optimizer, learning_rate: 0.0, weight_decay, max_norm }
}

/// A batch of random examples: normal inputs, uniform classes or normal values.
#[derive(Clone, Debug)]
pub struct RandomBatch {
    /// Inputs.
    pub input: Vec<f32>,
    /// Classes; empty where the target is values.
    pub classes: Vec<u32>,
    /// Values; empty where the target is classes.
    pub values: Vec<f32>,
}

impl RandomBatch {
    /// `input` elements and `targets` of `classes`, or values where `classes` is 0.
    pub fn new(input: usize, targets: usize, classes: usize, seed: u64) -> Self {
        let mut stream = Stream::new(seed, Purpose::Synthetic, 0);
        let input = (0..input).map(|_| stream.normal() as f32).collect();
        let mut batch = RandomBatch { input, classes: vec![], values: vec![] };
        match classes {
            0 => batch.values = (0..targets).map(|_| stream.normal() as f32).collect(),
            _ => batch.classes = (0..targets).map(|_| stream.below(classes) as u32).collect(),
        }
        batch
    }

    /// For a compiled network.
    pub fn of_manifest(manifest: &Manifest, seed: u64) -> Self {
        let classes = if manifest.io.target.element == Element::U32 { manifest.classes.max(1) } else { 0 };
        RandomBatch::new(manifest.io.input.len, manifest.io.target.len, classes, seed)
    }

    /// For a training graph.
    pub fn of_graph(graph: &Graph, batch: usize, seed: u64) -> Self {
        let len = |wanted: fn(&Op) -> bool| {
            let found = graph.ids().into_iter().find(|&id| wanted(&graph.node(id).op));
            found.map_or(0, |node| graph.shape(Value { node, output: 0 }).elements() * batch)
        };
        let squared = graph.ids().into_iter().any(|id| matches!(graph.node(id).op, Op::MeanSquaredError(_)));
        let classes = graph.logits.map_or(1, |logits| graph.shape(logits).elements());
        let [input, target] = [len(|op| matches!(op, Op::Input(_))), len(|op| matches!(op, Op::Target(_)))];
        RandomBatch::new(input, target, if squared { 0 } else { classes }, seed)
    }

    /// The targets as floats: values, or class indices.
    pub fn target_floats(&self) -> Vec<f32> {
        if self.classes.is_empty() { self.values.clone() } else { self.classes.iter().map(|&class| class as f32).collect() }
    }

    fn target(&self) -> Target<'_> {
        if self.classes.is_empty() { Target::Values(&self.values) } else { Target::Labels(&self.classes) }
    }
}

/// Initial values and a random batch cannot be put into a network.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// Initial values.
    #[error(transparent)]
    State(#[from] StateError),
    /// The batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// A compiled network, ready to be timed.
pub struct Subject<'a> {
    recipe: &'a Recipe,
    rule: UpdateRule,
    steps: usize,
}

impl std::fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl<'a> Subject<'a> {
    /// What `recipe` trains, over `steps` steps a measurement.
    pub fn new(recipe: &'a Recipe, steps: usize) -> Self {
        Subject { recipe, rule: rule(recipe), steps }
    }

    /// Initial state and a random batch; then the step.
    ///
    /// # Errors
    /// A parameter's initial state does not fit.
    pub fn prepare(&self, net: &mut dyn Network) -> Result<(), MeasureError> {
        let manifest = net.manifest().clone();
        let masks = match self.recipe.policy.0.events() {
            // What such a policy prunes to is measured, not what it begins with.
            Events::Once => InitialMasks::Magnitude,
            Events::Never | Events::Recurring => self.recipe.policy.0.initial_masks(),
        };
        state::initialize(&manifest, net.arena_mut(), &masks, self.recipe.seed)?;
        let batch = RandomBatch::of_manifest(&manifest, self.recipe.seed);
        network::load_batch(net, &batch.input, batch.target(), manifest.batch)?;
        network::load_step(net, &self.rule, self.recipe.seed, 1);
        Ok(())
    }

    /// Milliseconds of a step.
    pub fn step_ms(&self, net: &mut dyn Network) -> f64 {
        self.step(net).0
    }

    /// Milliseconds of a step, and the largest memory of the process that it runs in.
    pub fn step(&self, net: &mut dyn Network) -> (f64, Option<u64>) {
        let Timing { seconds, peak_rss_bytes } = net.time(Phase::Train, WARM_UP + self.steps.max(1));
        (median(seconds[WARM_UP..].to_vec()) * 1e3, peak_rss_bytes)
    }

    /// Every launch of a training step.
    pub fn kernels(&self, jit: &mut Jit) -> Vec<KernelTime> {
        let times = jit.profile(Phase::Train, self.steps.max(1));
        times.into_iter().map(|time| KernelTime { label: time.label, kernel: time.kernel, ms: median(time.seconds) * 1e3 }).collect()
    }

    /// Grows every sparse layer to `density` of its budgeted density and times a step there. Density never shrinks here.
    ///
    /// # Errors
    /// A mask does not fit.
    pub fn step_ms_at(&self, net: &mut dyn Network, density: impl Fn(f64) -> f64) -> Result<DensityTime, MeasureError> {
        let manifest = net.manifest().clone();
        for (index, parameter) in manifest.parameters.iter().enumerate() {
            let Storage::Matrix { matrix, block, structure, capacity, density: Some(budget), .. } = parameter.storage else { continue };
            let units = Units::new(matrix, block).structured(structure);
            let live = state::mask(&manifest, net.arena(), index);
            let grow_to = units.grown(density(budget)).min(capacity).max(live.len());
            let mut draws = Stream::of_item(self.recipe.seed, Purpose::Growth, 0, index as u32);
            let bump = &Bump::new();
            let candidates = units.candidates(bump, &live, grow_to, units.budget(budget), Growth::Random(1), &mut draws);
            let grown = mask::union(bump, &live, units.units_of(bump, &candidates));
            state::set_mask(&manifest, net.arena_mut(), index, grown)?;
        }
        Ok(DensityTime { density: density(self.recipe.density()), step_ms: self.step_ms(net) })
    }

    /// Milliseconds of one topology update of every sparse layer; `None` where masks do not change.
    pub fn mutation_ms(&self, net: &mut dyn Network) -> Option<f64> {
        let (manifest, config) = (net.manifest().clone(), self.recipe.mutation());
        if !config.policy.mutates() {
            return None;
        }
        let mut mutator = Mutator::new(&manifest, config, self.recipe.seed);
        let epochs = self.recipe.epochs;
        let event = |epoch| {
            let start = Instant::now();
            let progress = Progress { epoch, epochs, iteration: epoch, iterations: epochs };
            let mut gradients = DenseGradients::default();
            (0..mutator.gradient_batches(&progress)).for_each(|_| mutator.read_gradients(net, &progress, &mut gradients));
            mutator.event(&manifest, net.arena_mut(), &progress, Some(&gradients));
            start.elapsed().as_secs_f64() * 1e3
        };
        // All in the first stage, where the most units move.
        Some(median((0..MUTATIONS.min(epochs.max(1))).map(event).collect()))
    }
}

/// Milliseconds in the kernels of convolutions.
pub fn convolution_ms(kernels: &[KernelTime]) -> f64 {
    kernels.iter().filter(|time| time.kernel.starts_with("convolution")).map(|time| time.ms).sum()
}

/// A node that multiplies by a weight.
struct User<'g> {
    node: NodeId,
    name: &'g str,
    pass: Pass,
    flops: f64,
}

/// The nodes of each layer, forward and backward, in the table's order.
fn users<'g>(graph: &'g Graph, table: &SparsityTable, batch: usize) -> Vec<Vec<User<'g>>> {
    let backward = |op: &Op| {
        matches!(op, Op::ConvolutionBackward(_) | Op::ConvolutionWeightGradient(_) | Op::LinearBackward(_) | Op::LinearWeightGradient(_))
    };
    let of_layer = |layer: &LayerSparsity| {
        let weights: Vec<Value> = layer.users.iter().map(|&user| graph.inputs(user)[1]).collect();
        let node = |id: NodeId| {
            let op = &graph.node(id).op;
            let pass = if layer.users.contains(&id) { Pass::Forward } else { Pass::Backward };
            if pass == Pass::Backward && !(backward(op) && weights.contains(&graph.inputs(id)[1])) {
                return None;
            }
            let shapes = |values: Vec<Value>| values.into_iter().map(|value| graph.shape(value)).collect::<Vec<&Shape>>();
            let cost = op.operator().cost(&shapes(graph.inputs(id)), &shapes(graph.outputs(id)));
            let density = layer.nnz() as f64 / layer.units.weights() as f64;
            Some(User { node: id, name: &graph.node(id).name, pass, flops: cost.flops * batch as f64 * density })
        };
        graph.ids().into_iter().filter_map(node).collect()
    };
    table.layers.iter().map(of_layer).collect()
}

/// Sums by layer and pass what `ms` says of each node; `extra` is added to backward passes.
fn by_layer(
    graph: &Graph,
    table: &SparsityTable,
    batch: usize,
    ms: impl Fn(&User<'_>) -> f64,
    extra: impl Fn(&LayerSparsity) -> f64,
) -> Vec<LayerTime> {
    let mut rows = Vec::new();
    for (layer, users) in table.layers.iter().zip(users(graph, table, batch)) {
        let mut passes: BTreeMap<Pass, (f64, f64)> = BTreeMap::new();
        for user in &users {
            let (time, flops) =
                passes.entry(user.pass).or_insert_with(|| (if user.pass == Pass::Backward { extra(layer) } else { 0.0 }, 0.0));
            *time += ms(user);
            *flops += user.flops;
        }
        rows.extend(passes.into_iter().map(|(pass, (ms, flops))| LayerTime {
            name: layer.name.clone(),
            pass,
            scheme: layer.scheme_name(),
            density: layer.nnz() as f64 / layer.units.weights() as f64,
            ms,
            flops,
        }));
    }
    rows
}

/// The layers' share of the launches. A backward pass includes the reduction of partial gradients and the refresh of the backward
/// stream's values: whoever has no streams needs neither.
pub fn generated_layers(graph: &Graph, table: &SparsityTable, batch: usize, kernels: &[KernelTime]) -> Vec<LayerTime> {
    let sum = |wanted: &dyn Fn(&KernelTime) -> bool| kernels.iter().filter(|time| wanted(time)).map(|time| time.ms).sum::<f64>();
    let of_node = |time: &KernelTime| ["convolution", "linear", "gather_gradient"].iter().any(|family| time.kernel.starts_with(family));
    let ms = |user: &User<'_>| sum(&|time| time.label == user.name && of_node(time));
    let refresh = |layer: &LayerSparsity| sum(&|time| time.label == layer.name && time.kernel.starts_with("gather_values"));
    by_layer(graph, table, batch, ms, refresh)
}

/// The layers' share of the baseline's nodes.
pub fn generic_layers(graph: &Graph, table: &SparsityTable, batch: usize, nodes: &[NodeTime]) -> Vec<LayerTime> {
    let ms = |user: &User<'_>| nodes.iter().filter(|time| time.node == user.node).map(|time| time.seconds * 1e3).sum();
    by_layer(graph, table, batch, ms, |_| 0.0)
}

/// Times the baseline: its step, and its layers if `layers`.
pub fn generic(
    generic: &mut Generic,
    graph: &Graph,
    table: &SparsityTable,
    batch: &RandomBatch,
    steps: usize,
    layers: bool,
) -> Measurement {
    generic.load(&batch.input, &batch.target_floats());
    let step_ms = time_steps(steps, || {
        generic.step();
    });
    let peak_rss_bytes = mest_runtime::train::peak_rss_bytes();
    let rows = if layers { generic_layers(graph, table, generic.batch(), &generic.profile(steps.max(1))) } else { vec![] };
    Measurement { step_ms, peak_rss_bytes, layers: rows, ..Measurement::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_no_mean() {
        assert_eq!(median(vec![3.0, 100.0, 1.0]), 3.0);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn random_batches_fit_their_targets() {
        let batch = RandomBatch::new(12, 3, 5, 7);
        assert_eq!((batch.input.len(), batch.classes.len(), batch.values.len()), (12, 3, 0));
        assert!(batch.classes.iter().all(|&class| class < 5));
        assert_eq!(batch.target_floats().len(), 3);
        assert_eq!(RandomBatch::new(1, 4, 0, 7).target_floats().len(), 4);
    }
}
