//! Each layer's cache blocks by measured time, as `--autotune` asks.
//!
//! The forward pass goes through a layer's input channels in blocks, as many as keep what a tile reads in the first-level cache: that is a model of a
//! cache of fixed size, and this machine's may be another. So candidates around the model's choice are timed, in the training step of the whole
//! model, and what was fastest is remembered beside what it was fastest for.

mod timings;

pub use timings::{Timings, TimingsError};

use super::choose::{self, ChooseError};
use super::measure::{LayerTime, Pass};
use crate::ir::{Graph, NodeId};
use crate::onnx::Imported;
use crate::op::Op;
use crate::pass::annotate_sparsity::{LayerSparsity, SparsityTable, annotate};
use crate::pipeline::CompileError;
use crate::settings;
use mest_runtime::lanes::Isa;
use mest_runtime::manifest::{Manifest, StreamOrder};
use mest_runtime::recipe::Recipe;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Times that each candidate is measured; the fastest counts, others take turns in between.
const ROUNDS: usize = 2;

/// The model's choice stands unless another takes at most this share of its time.
const WORTHWHILE: f64 = 0.97;

/// Multiples of the model's choice that are timed.
const MULTIPLES: [(usize, usize); 5] = [(1, 1), (1, 2), (2, 1), (1, 4), (4, 1)];

/// What was fastest for layers of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fastest {
    /// Blocks of input channels.
    pub channel_blocks: usize,
    /// Milliseconds of what was timed, by blocks.
    pub ms: BTreeMap<usize, f64>,
}

impl Fastest {
    /// Of `ms` by blocks, the model's choice being `modelled`.
    fn of(ms: BTreeMap<usize, f64>, modelled: usize) -> Self {
        let time = |blocks: usize| ms.get(&blocks).copied().unwrap_or(f64::INFINITY);
        let best = ms.keys().copied().min_by(|&a, &b| time(a).total_cmp(&time(b))).unwrap_or(modelled);
        let channel_blocks = if time(best) <= time(modelled) * WORTHWHILE { best } else { modelled };
        Fastest { channel_blocks, ms }
    }
}

/// What a layer gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuning {
    /// The layer, by the name that the recipe has for it or that of its weight.
    pub layer: String,
    /// The model's choice.
    pub modelled: usize,
    /// What was fastest.
    pub fastest: Fastest,
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times: Vec<String> = self.fastest.ms.iter().map(|(blocks, ms)| format!("{blocks} {ms:.4}")).collect();
        let (layer, blocks) = (&self.layer, self.fastest.channel_blocks);
        write!(f, "{layer}: channel-blocks {blocks} (ms a step of all such layers: {}; modelled: {})", times.join(", "), self.modelled)
    }
}

/// A layer whose blocks are left to choose.
struct OpenLayer {
    /// As the recipe calls it.
    layer: String,
    /// Its weight.
    weight: String,
    /// What decides how fast it is.
    kind: String,
    /// The model's choice.
    modelled: usize,
    /// As many blocks as there can be.
    most: usize,
    /// The passes that go by the lists of the blocks: forward, and where a linear layer needs its weight's gradient alone, backward.
    passes: &'static [Pass],
}

impl OpenLayer {
    /// Blocks to time, the model's choice first.
    fn candidates(&self) -> Vec<usize> {
        let mut candidates: Vec<usize> = vec![];
        for (times, over) in MULTIPLES {
            let blocks = (self.modelled * times).div_ceil(over).clamp(1, self.most);
            if !candidates.contains(&blocks) {
                candidates.push(blocks);
            }
        }
        candidates
    }
}

/// Chooses for every layer that has no `channel-blocks` of its own; what `timings` do not have is measured and put there.
///
/// # Errors
/// The model can't be compiled or run.
pub fn channel_blocks(imported: &Imported, recipe: &Recipe, isa: Isa, timings: &mut Timings) -> Result<Vec<Tuning>, ChooseError> {
    let open = open_layers(imported, recipe, isa)?;
    let unknown: Vec<&OpenLayer> = open.iter().filter(|layer| timings.get(&layer.kind).is_none()).collect();
    for (kind, fastest) in measure(imported, recipe, isa, &unknown)? {
        timings.put(kind, fastest);
    }
    let tuned = open.into_iter().filter_map(|OpenLayer { layer, kind, modelled, .. }| {
        let fastest = timings.get(&kind)?.clone();
        Some(Tuning { layer, modelled, fastest })
    });
    Ok(tuned.collect())
}

/// `recipe` with what was fastest where it is not the model's choice, and nothing left to choose.
pub fn with_tunings(recipe: &Recipe, tunings: &[Tuning]) -> Recipe {
    let mut settled = Recipe { autotune: false, ..recipe.clone() };
    for tuning in tunings.iter().filter(|tuning| tuning.fastest.channel_blocks != tuning.modelled) {
        settled.layers.entry(tuning.layer.clone()).or_default().channel_blocks = Some(tuning.fastest.channel_blocks);
    }
    settled
}

/// The layers that the recipe leaves to choose, with the model's choice for each.
fn open_layers(imported: &Imported, recipe: &Recipe, isa: Isa) -> Result<Vec<OpenLayer>, ChooseError> {
    let settings = settings::of_recipe(recipe, None);
    let graph = &imported.graph;
    let table: SparsityTable = annotate(graph, &settings.sparsity).map_err(CompileError::Sparsity)?;
    let manifest = crate::pipeline::compile(imported, &settings)?.program.manifest;
    let machine = format!("{}, {isa}, {} threads, batch {}", processor(), settings.threads, settings.batch);
    let is_linear = |&user: &NodeId| matches!(graph.node(user).op, Op::Linear(_));
    let open = table.layers.iter().filter_map(|layer| {
        let bears = |name: &String| *name == layer.name || layer.users.iter().any(|&user| graph.node(user).name == *name);
        let name = recipe.layers.keys().find(|name| bears(name)).unwrap_or(&layer.name).clone();
        let (most, modelled) = (layer.most_channel_blocks(), modelled(&manifest, &layer.name)?);
        (layer.channel_blocks.is_none() && most > 1).then(|| OpenLayer {
            layer: name,
            weight: layer.name.clone(),
            kind: format!("{machine}: {}", kind(graph, layer)),
            modelled,
            most,
            passes: if layer.users.iter().all(is_linear) { &[Pass::Forward, Pass::Backward] } else { &[Pass::Forward] },
        })
    });
    Ok(open.collect())
}

/// Blocks of the forward pass over a weight.
fn modelled(manifest: &Manifest, weight: &str) -> Option<usize> {
    manifest.streams.iter().filter(|stream| manifest.parameters[stream.parameter].name == weight).find_map(|stream| match stream.order {
        StreamOrder::Forward { channel_blocks, .. } => Some(channel_blocks),
        StreamOrder::Backward { .. } => None,
    })
}

/// What decides how fast a layer is, beside the machine.
fn kind(graph: &Graph, layer: &LayerSparsity) -> String {
    let users: Vec<String> = layer.users.iter().map(|&user| product(graph, user)).collect();
    let density = layer.nnz() as f64 / layer.units.weights() as f64;
    format!("{} {density:.4}, {}", layer.scheme_name(), users.join(", "))
}

/// A product with a weight: its extents and geometry.
fn product(graph: &Graph, user: NodeId) -> String {
    let [x, weight] = [0, 1].map(|operand| graph.shape(graph.inputs(user)[operand]));
    match &graph.node(user).op {
        Op::Convolution(op) => {
            format!(
                "convolution of {weight} over {x}, strides {:?}, pads {:?}, dilations {:?}, groups {}",
                op.strides, op.pads, op.dilations, op.groups
            )
        }
        _ => format!("linear {weight} over {x}"),
    }
}

/// The processor, as the system names it.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == "model name");
    named.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// Times every kind of layer with each of its candidates: a step has one candidate of each kind.
fn measure(imported: &Imported, recipe: &Recipe, isa: Isa, layers: &[&OpenLayer]) -> Result<BTreeMap<String, Fastest>, ChooseError> {
    let turns = layers.iter().map(|layer| layer.candidates().len()).max().unwrap_or(0);
    let mut times: BTreeMap<String, BTreeMap<usize, f64>> = BTreeMap::new();
    for turn in (0..ROUNDS).flat_map(|_| 0..turns) {
        let tried = |layer: &OpenLayer| layer.candidates().get(turn).copied();
        let mut trial = recipe.clone();
        for layer in layers {
            trial.layers.entry(layer.layer.clone()).or_default().channel_blocks = tried(layer);
        }
        for (kind, (blocks, ms)) in times_of_kinds(&choose::times(imported, &trial, isa)?, layers, tried) {
            let best = times.entry(kind).or_default().entry(blocks).or_insert(f64::INFINITY);
            *best = best.min(ms);
        }
    }
    let modelled: BTreeMap<&str, usize> = layers.iter().map(|layer| (layer.kind.as_str(), layer.modelled)).collect();
    Ok(times.into_iter().map(|(kind, ms)| (kind.clone(), Fastest::of(ms, modelled[kind.as_str()]))).collect())
}

/// Milliseconds in all layers of each kind that a trial has a candidate for.
fn times_of_kinds(
    timed: &[LayerTime],
    layers: &[&OpenLayer],
    tried: impl Fn(&OpenLayer) -> Option<usize>,
) -> BTreeMap<String, (usize, f64)> {
    let mut times: BTreeMap<String, (usize, f64)> = BTreeMap::new();
    for (layer, blocks) in layers.iter().filter_map(|layer| Some((layer, tried(layer)?))) {
        let own = timed.iter().filter(|time| time.name == layer.weight && layer.passes.contains(&time.pass));
        let ms: f64 = own.map(|time| time.ms).sum();
        times.entry(layer.kind.clone()).or_insert((blocks, 0.0)).1 += ms;
    }
    times
}

#[cfg(test)]
mod tests;
