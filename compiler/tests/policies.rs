//! Mutation policies on compiled networks: histories of their masks, and the gradients that some of them read.
#![cfg(feature = "jit")]

use mest_runtime::data::Dataset;
use mest_runtime::data::loader::{Batch, Loader};
use mest_runtime::lanes::Isa;
use mest_runtime::manifest::Storage;
use mest_runtime::mutation::{DenseGradients, LayerReport, Mutator, POLICIES};
use mest_runtime::network::{self, Network, Phase, Target, UpdateRule};
use mest_runtime::recipe::Recipe;
use mest_runtime::sparse::state::{self, InitialMasks};
use mest_runtime::train::{self, Observer};
use mestc::engine::jit::Jit;
use mestc::{onnx, pipeline, settings, zoo};
use std::fmt::Write;

const BATCH: usize = 16;

fn recipe(policy: &str, flags: &[(&str, &str)]) -> Recipe {
    let base = [("policy", policy), ("batch", "16"), ("epochs", "8"), ("lr", "0.02"), ("seed", "7")];
    Recipe::default().with(base.into_iter().chain(flags.iter().copied())).expect("a sound recipe")
}

fn data() -> Dataset {
    Dataset::load("synthetic:1x8x8:10:64").expect("it is made up")
}

/// A small ResNet, initialised as the recipe says.
fn compile(recipe: &Recipe) -> Jit {
    let options = zoo::ZooOptions { input: Some([1, 8, 8]), classes: Some(10), ..Default::default() };
    let imported = onnx::import_bytes(&zoo::build("resnet8", &options).expect("a built-in"), None).expect("it is sound");
    let compiled = pipeline::compile(&imported, &settings::of_recipe(recipe, Some(&data()))).expect("it can be trained");
    let mut net = Jit::new(compiled.program, Isa::best(), 1).expect("the machine has its own instruction set");
    train::initialize(&mut net, recipe).expect("its own masks fit");
    net
}

/// Sums of dropped, grown and live weights over all layers, a line an event.
#[derive(Default)]
struct History(String);

impl Observer for History {
    fn mutation(&mut self, iteration: u64, layers: &[LayerReport]) {
        let sum = |count: fn(&LayerReport) -> usize| layers.iter().map(count).sum::<usize>();
        let (dropped, grown, nnz) = (sum(|layer| layer.dropped), sum(|layer| layer.grown), sum(|layer| layer.after));
        writeln!(self.0, "  iteration {iteration}: dropped {dropped}, grown {grown}, nnz {nnz}").expect("a string takes all");
    }
}

/// Live weights of all sparse layers.
fn nnz(net: &dyn Network) -> usize {
    let (manifest, arena) = (net.manifest(), net.arena());
    let layers = manifest.parameters.iter().enumerate();
    let live = |(index, storage)| match storage {
        &Storage::Matrix { block, density: Some(_), .. } => state::mask(manifest, arena, index).len() * block.rows * block.columns,
        _ => 0,
    };
    layers.map(|(index, parameter)| live((index, &parameter.storage))).sum()
}

#[test]
fn every_policy_has_the_history_that_its_seed_has_always_had() {
    let (data, mut text) = (data(), String::new());
    for policy in POLICIES {
        let recipe = recipe(policy.name(), &[("distribution", "erk")]);
        let (mut net, mut history) = (compile(&recipe), History::default());
        writeln!(text, "{}: begins with nnz {}", policy.name(), nnz(&net)).expect("a string takes all");
        let report = train::fit(&mut net, &data, &recipe, None, false, &mut history).expect("it trains");
        writeln!(text, "{}  ends with nnz {} of {}", history.0, nnz(&net), (nnz(&net) as f64 / report.epochs[7].density).round())
            .expect("a string takes all");
    }
    insta::assert_snapshot!(text, @"
    mest-ems: begins with nnz 7373
      iteration 0: dropped 0, grown 3686, nnz 11059
      iteration 4: dropped 3686, grown 3686, nnz 11059
      iteration 8: dropped 3686, grown 3686, nnz 11059
      iteration 12: dropped 3686, grown 3686, nnz 11059
      iteration 16: dropped 3686, grown 3686, nnz 11059
      iteration 20: dropped 3686, grown 1844, nnz 9217
      iteration 24: dropped 1844, grown 0, nnz 7373
      iteration 28: dropped 0, grown 0, nnz 7373
      ends with nnz 7373 of 73728
    mest-em: begins with nnz 7373
      iteration 0: dropped 1475, grown 1475, nnz 7373
      iteration 4: dropped 1475, grown 1475, nnz 7373
      iteration 8: dropped 1475, grown 1475, nnz 7373
      iteration 12: dropped 1475, grown 1475, nnz 7373
      iteration 16: dropped 1475, grown 1475, nnz 7373
      iteration 20: dropped 737, grown 737, nnz 7373
      iteration 24: dropped 0, grown 0, nnz 7373
      iteration 28: dropped 0, grown 0, nnz 7373
      ends with nnz 7373 of 73728
    set: begins with nnz 7373
      iteration 0: dropped 2213, grown 2213, nnz 7373
      iteration 4: dropped 2064, grown 2064, nnz 7373
      iteration 8: dropped 1658, grown 1658, nnz 7373
      iteration 12: dropped 1106, grown 1106, nnz 7373
      iteration 16: dropped 552, grown 552, nnz 7373
      iteration 20: dropped 149, grown 149, nnz 7373
      iteration 24: dropped 0, grown 0, nnz 7373
      iteration 28: dropped 0, grown 0, nnz 7373
      ends with nnz 7373 of 73728
    rigl: begins with nnz 7373
      iteration 0: dropped 2213, grown 2213, nnz 7373
      iteration 4: dropped 2064, grown 2064, nnz 7373
      iteration 8: dropped 1658, grown 1658, nnz 7373
      iteration 12: dropped 1106, grown 1106, nnz 7373
      iteration 16: dropped 552, grown 552, nnz 7373
      iteration 20: dropped 149, grown 149, nnz 7373
      iteration 24: dropped 0, grown 0, nnz 7373
      iteration 28: dropped 0, grown 0, nnz 7373
      ends with nnz 7373 of 73728
    snip: begins with nnz 73728
      iteration 0: dropped 66355, grown 0, nnz 7373
      ends with nnz 7373 of 73728
    static: begins with nnz 7373
      ends with nnz 7373 of 73728
    static-random: begins with nnz 7373
      ends with nnz 7373 of 73728
    dense: begins with nnz 0
      ends with nnz 0 of 0
    ");
}

/// Hands `net` the first examples, at learning rate 0.
fn load(net: &mut Jit, data: &Dataset, recipe: &Recipe) {
    let loader = Loader::new(data, &data.train, BATCH, recipe.normalization(data), &[], recipe.seed).expect("it fits");
    let (order, mut batch) = ((0..BATCH as u32).collect::<Vec<_>>(), Batch::default());
    loader.fill(0, &order, &mut batch);
    network::load_batch(net, &batch.input, Target::Labels(&batch.labels), BATCH).expect("it fits");
    let rule = UpdateRule { optimizer: recipe.update_rule(), learning_rate: 0.0, weight_decay: 1e-4, max_norm: None };
    network::load_step(net, &rule, recipe.seed, 1);
}

#[test]
fn probed_gradients_are_those_of_the_network_with_every_weight_live() {
    for scheme in ["unstructured", "block:4x1"] {
        let (data, recipe) = (data(), recipe("rigl", &[("density", "0.15"), ("scheme", scheme)]));
        let mut net = compile(&recipe);
        train::fit(&mut net, &data, &recipe, None, false, &mut ()).expect("it trains");
        load(&mut net, &data, &recipe);
        let mut probed = DenseGradients::default();
        let before: Vec<Vec<f32>> = values(&net);
        Mutator::new(net.manifest(), recipe.mutation(), recipe.seed).read_gradients(&mut net, &mut probed);
        assert!(values(&net) == before, "probing leaves no trace");

        let mut dense = compile(&recipe.with([("policy", "snip")]).expect("a sound recipe"));
        let manifest = dense.manifest().clone();
        state::initialize(&manifest, dense.arena_mut(), &InitialMasks::All, 0).expect("there is room");
        for index in 0..manifest.parameters.len() {
            let values = state::read(net.manifest(), net.arena(), index);
            state::write(&manifest, dense.arena_mut(), index, &values).expect("the same model");
        }
        load(&mut dense, &data, &recipe);
        dense.run(Phase::Train);
        let mut layers = 0;
        for (index, parameter) in manifest.parameters.iter().enumerate() {
            let Storage::Matrix { density: Some(_), .. } = parameter.storage else { continue };
            // Every unit is live: storage order is the order of the units.
            let expected = dense.arena().floats(parameter.gradient.expect("it is trained"));
            let (probed, largest) = (probed.of(index), expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs())));
            assert_eq!(probed.len(), expected.len());
            let worst = probed.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(largest > 0.0 && worst <= 1e-4 * largest, "{scheme} {}: {worst} of {largest}", parameter.name);
            layers += 1;
        }
        assert!(layers > 3);
    }
}

/// Values and moments of all parameters.
fn values(net: &Jit) -> Vec<Vec<f32>> {
    let (manifest, arena) = (net.manifest(), net.arena());
    let of = |index| std::iter::once(state::read(manifest, arena, index)).chain(state::read_moment(manifest, arena, index, 0));
    (0..manifest.parameters.len()).flat_map(of).collect()
}
