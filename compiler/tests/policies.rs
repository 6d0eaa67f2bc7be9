//! Mutation policies on compiled networks: histories of their masks, and the gradients that some of them read.
#![cfg(feature = "jit")]

mod counting;

use counting::allocations;
use mest_runtime::data::Dataset;
use mest_runtime::data::loader::{Batch, Loader};
use mest_runtime::lanes::Isa;
use mest_runtime::manifest::Storage;
use mest_runtime::mutation::{DenseGradients, LayerReport, Mutator, POLICIES, Progress};
use mest_runtime::network::{self, Network, Phase, Target, UpdateRule};
use mest_runtime::random::{Purpose, Stream};
use mest_runtime::recipe::Recipe;
use mest_runtime::sparse::Units;
use mest_runtime::sparse::state::{self, InitialMasks};
use mest_runtime::train::{self, EpochMetrics, Observer};
use mestc::engine::interp::Training;
use mestc::engine::jit::Jit;
use mestc::engine::replay::NetworkReplay;
use mestc::ir::Tensor;
use mestc::onnx::Imported;
use mestc::pass::attach_loss::Loss;
use mestc::pipeline::{Levers, Settings};
use mestc::trace::{self, Optimizer, Replay, Rule, relative_error};
use mestc::{onnx, pipeline, settings, zoo};
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::Path;

const BATCH: usize = 16;

/// Before the first step.
const START: Progress = Progress { epoch: 0, epochs: 8, iteration: 0, iterations: 32 };

fn recipe(policy: &str, flags: &[(&str, &str)]) -> Recipe {
    let base = [("policy", policy), ("batch", "16"), ("epochs", "8"), ("lr", "0.02"), ("seed", "7")];
    Recipe::default().with(base.into_iter().chain(flags.iter().copied())).expect("a sound recipe")
}

fn data() -> Dataset {
    Dataset::load("synthetic:1x8x8:10:64").expect("it is made up")
}

/// A small ResNet.
fn imported() -> Imported {
    let options = zoo::ZooOptions { input: Some([1, 8, 8]), classes: Some(10), ..Default::default() };
    onnx::import_bytes(&zoo::build("resnet8", &options).expect("a built-in"), None).expect("it is sound")
}

/// It, initialised as the recipe says.
fn compile(recipe: &Recipe) -> Jit {
    compile_for(recipe, 1)
}

fn compile_for(recipe: &Recipe, threads: usize) -> Jit {
    compile_with(recipe, threads, Levers::default())
}

/// It, with moments in half of the bits.
fn compile_narrow(recipe: &Recipe, threads: usize) -> Jit {
    compile_with(recipe, threads, Levers { narrow_moments: true, ..Levers::default() })
}

fn compile_with(recipe: &Recipe, threads: usize, levers: Levers) -> Jit {
    let settings = Settings { levers, ..settings::of_recipe(recipe, Some(&data())) };
    let compiled = pipeline::compile(&imported(), &settings).expect("it can be trained");
    let mut net = Jit::new(compiled.program, Isa::best(), threads).expect("the machine has its own instruction set");
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
    grasp: begins with nnz 73728
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

/// The schemes, each at a density that it can have.
const SCHEMES: [(&str, &str); 8] = [
    ("unstructured", "0.1"),
    ("block:4x1", "0.1"),
    ("pattern", "0.2"),
    ("channel", "0.25"),
    ("channel:out", "0.25"),
    ("nm:2:8", "0.25"),
    ("nm:1:4", "0.25"),
    ("fanin", "0.1"),
];

/// FNV-1a over the live units of all sparse layers.
fn fingerprint(net: &dyn Network) -> u32 {
    let sparse = |index: &usize| matches!(net.manifest().parameters[*index].storage, Storage::Matrix { density: Some(_), .. });
    let layers = (0..net.manifest().parameters.len()).filter(sparse);
    let units = layers.flat_map(|index| state::mask(net.manifest(), net.arena(), index));
    units.flat_map(u32::to_le_bytes).fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[test]
fn masks_stay_in_their_scheme_from_the_first_step_to_the_last() {
    let data = data();
    for (scheme, density) in SCHEMES {
        for policy in POLICIES {
            let recipe = recipe(policy.name(), &[("scheme", scheme), ("density", density), ("importance-lambda", "0")]);
            let mut net = compile(&recipe);
            train::fit(&mut net, &data, &recipe, None, false, &mut ()).expect("it trains");
            let (manifest, arena) = (net.manifest(), net.arena());
            for (index, parameter) in manifest.parameters.iter().enumerate() {
                let Storage::Matrix { matrix, block, structure, density: Some(budget), .. } = parameter.storage else { continue };
                let (units, live) = (Units::new(matrix, block).structured(structure), state::mask(manifest, arena, index));
                assert!(live.len() == units.budget(budget) && units.allows(&live, true), "{scheme} {} {}", policy.name(), parameter.name);
            }
        }
    }
}

#[test]
fn every_scheme_has_the_history_that_its_seed_has_always_had() {
    let (data, mut text) = (data(), String::new());
    for (scheme, density) in SCHEMES {
        for (policy, grow) in [("mest-em", "random"), ("mest-em", "random:4"), ("mest-ems", "random")] {
            let recipe = recipe(policy, &[("scheme", scheme), ("density", density), ("importance-lambda", "0"), ("grow", grow)]);
            let mut net = compile(&recipe);
            let begins = (nnz(&net), fingerprint(&net));
            train::fit(&mut net, &data, &recipe, None, false, &mut ()).expect("it trains");
            writeln!(text, "{scheme} {policy} {grow}: {begins:?} to {:?}", (nnz(&net), fingerprint(&net))).expect("a string takes all");
        }
    }
    insta::assert_snapshot!(text, @"
    unstructured mest-em random: (7372, 3226938605) to (7372, 3699056146)
    unstructured mest-em random:4: (7372, 3226938605) to (7372, 3082363116)
    unstructured mest-ems random: (7372, 3226938605) to (7372, 3226938605)
    block:4x1 mest-em random: (7376, 1753145459) to (7376, 3379127318)
    block:4x1 mest-em random:4: (7376, 1753145459) to (7376, 3938324102)
    block:4x1 mest-ems random: (7376, 1753145459) to (7376, 1753145459)
    pattern mest-em random: (14592, 3331420508) to (14592, 712033431)
    pattern mest-em random:4: (14592, 3331420508) to (14592, 322589761)
    pattern mest-ems random: (14592, 3331420508) to (14592, 3331420508)
    channel mest-em random: (18432, 1547552241) to (18432, 3096610010)
    channel mest-em random:4: (18432, 1547552241) to (18432, 668766992)
    channel mest-ems random: (18432, 1547552241) to (18432, 1547552241)
    channel:out mest-em random: (18432, 429057249) to (18432, 3127621609)
    channel:out mest-em random:4: (18432, 429057249) to (18432, 1423415709)
    channel:out mest-ems random: (18432, 429057249) to (18432, 429057249)
    nm:2:8 mest-em random: (18432, 4098181593) to (18432, 2923318414)
    nm:2:8 mest-em random:4: (18432, 4098181593) to (18432, 2985104887)
    nm:2:8 mest-ems random: (18432, 4098181593) to (18432, 4098181593)
    nm:1:4 mest-em random: (18432, 3999854323) to (18432, 404152196)
    nm:1:4 mest-em random:4: (18432, 3999854323) to (18432, 1054456179)
    nm:1:4 mest-ems random: (18432, 3999854323) to (18432, 3999854323)
    fanin mest-em random: (7392, 3911591344) to (7392, 1230375919)
    fanin mest-em random:4: (7392, 3911591344) to (7392, 3555376885)
    fanin mest-ems random: (7392, 3911591344) to (7392, 3911591344)
    ");
}

/// A run of several events a stage: it holds each stage's density, and ends at its bound.
#[test]
fn a_longer_run_with_a_soft_bound_keeps_to_its_stages() {
    let data = data();
    let flags =
        [("epochs", "24"), ("lr", "0.3"), ("stages", "10,16"), ("grow-to", "0.3,0.2,0.1"), ("density", "0.1"), ("mutate-every", "2ep")];
    let recipe = recipe("mest-ems", &flags);
    let (mut net, mut history) = (compile(&recipe), History::default());
    train::fit(&mut net, &data, &recipe, None, false, &mut history).expect("it trains");
    insta::assert_snapshot!(history.0, @"
      iteration 0: dropped 0, grown 14746, nnz 22118
      iteration 8: dropped 14746, grown 14746, nnz 22118
      iteration 16: dropped 14746, grown 14746, nnz 22118
      iteration 24: dropped 14746, grown 14746, nnz 22118
      iteration 32: dropped 14746, grown 14746, nnz 22118
      iteration 40: dropped 14746, grown 7374, nnz 14746
      iteration 48: dropped 7374, grown 7374, nnz 14746
      iteration 56: dropped 7374, grown 7374, nnz 14746
      iteration 64: dropped 7374, grown 0, nnz 7372
      iteration 72: dropped 0, grown 0, nnz 7372
      iteration 80: dropped 0, grown 0, nnz 7372
      iteration 88: dropped 0, grown 0, nnz 7372
    ");
    assert_eq!(nnz(&net), 7372);
}

/// Three steps of each scheme's masks against the f64 interpreter of the graph.
#[test]
fn schemes_compute_what_their_masks_mean() {
    for (scheme, density) in SCHEMES {
        let mut net = compile(&recipe("mest-em", &[("scheme", scheme), ("density", density)]));
        let rule = Rule::Sgd { momentum: 0.9, nesterov: false };
        let optimizer = Optimizer { rule, learning_rate: 0.02, weight_decay: 1e-4, label_smoothing: 0.0 };
        let (training, _) = pipeline::graphs(&imported().graph, Loss::CrossEntropy { smoothing: 0.0 }).expect("it is trainable");
        let mut oracle = Training::new(training, optimizer).expect("the graph is complete");
        let masks: Vec<(String, Vec<bool>)> = (0..net.manifest().parameters.len()).filter_map(|index| live_elements(&net, index)).collect();
        let sparse: Vec<String> = masks.iter().map(|(name, _)| name.clone()).collect();
        let mut ours = NetworkReplay::new(&mut net, optimizer);
        for (name, live) in &masks {
            ours.mask(name, live).and_then(|()| oracle.mask(name, live)).expect("the mask fits");
        }
        for step in 0..3 {
            let mut draws = Stream::new(7, Purpose::Synthetic, step);
            let input = Tensor { dims: vec![BATCH, 1, 8, 8], values: (0..BATCH * 64).map(|_| draws.normal() as f32).collect() };
            let target = trace::Target::Classes((0..BATCH).map(|_| draws.below(10) as u32).collect());
            let batch = || trace::Batch { input: &input, target: &target };
            let (loss, wanted) = (ours.step(batch()).expect("it fits"), oracle.step(batch()).expect("it fits"));
            assert!((loss - wanted).abs() < 2e-4 * wanted, "{scheme}, step {step}: {loss} and not {wanted}");
        }
        for name in &sparse {
            let (got, wanted) = (ours.parameter(name).expect("it exists"), oracle.parameter(name).expect("it exists"));
            let error = relative_error(&got, &wanted, 1.0);
            assert!(error < 2e-4, "{scheme}: {name} is off by {error:.2e}");
        }
        assert!(sparse.len() > 3);
    }
}

/// Whether each element of a sparse parameter is live, with its name.
fn live_elements(net: &Jit, index: usize) -> Option<(String, Vec<bool>)> {
    let parameter = &net.manifest().parameters[index];
    let Storage::Matrix { matrix, block, density: Some(_), .. } = parameter.storage else { return None };
    let units = Units::new(matrix, block);
    let mut live = vec![false; units.weights()];
    let mask = state::mask(net.manifest(), net.arena(), index);
    mask.into_iter().flat_map(|unit| units.onnx_indices(unit)).for_each(|element| live[element] = true);
    Some((parameter.name.to_string(), live))
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
        let mut net = if scheme == "unstructured" { compile(&recipe) } else { compile_narrow(&recipe, 1) };
        train::fit(&mut net, &data, &recipe, None, false, &mut ()).expect("it trains");
        load(&mut net, &data, &recipe);
        let mut probed = DenseGradients::default();
        let before: Vec<Vec<f32>> = values(&net);
        Mutator::new(net.manifest(), recipe.mutation(), recipe.seed).read_gradients(&mut net, &START, &mut probed);
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
    let moments = |index| (0..).map_while(move |moment| state::read_moment(manifest, arena, index, moment));
    let of = |index| std::iter::once(state::read(manifest, arena, index)).chain(moments(index));
    (0..manifest.parameters.len()).flat_map(of).collect()
}

/// Ends a run after some epochs.
struct Until(usize);

impl Observer for Until {
    fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()> {
        if metrics.epoch as usize == self.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Moments in half of the bits, and the importance that reads them: a run in one go, and one that is stopped twice, each time on another number of threads.
#[test]
fn a_run_that_rounds_its_moments_ends_in_the_same_bits_however_it_is_interrupted() {
    let data = data();
    for (policy, optimizer, grow) in [("mest-em", "sgd", "random"), ("mest-ems", "adam", "random"), ("mest-em", "adagrad", "random:4")] {
        let recipe = recipe(policy, &[("optimizer", optimizer), ("importance-lambda", "0.05"), ("grow", grow)]);
        let train = |folder: &Path, stops: &[usize]| {
            for (threads, &stop) in stops.iter().enumerate() {
                let mut net = compile_narrow(&recipe, 2 + threads);
                train::fit(&mut net, &data, &recipe, Some(folder), true, &mut Until(stop)).expect("it trains");
            }
            let mut net = compile_narrow(&recipe, 1);
            train::fit(&mut net, &data, &recipe, Some(folder), true, &mut ()).expect("it trains");
            values(&net)
        };
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("the system has room"));
        let whole = train(folders[0].path(), &[]);
        assert!(train(folders[1].path(), &[3, 5]) == whole, "{policy}, {optimizer}");
        let mut wide = compile(&recipe);
        train::fit(&mut wide, &data, &recipe, None, false, &mut ()).expect("it trains");
        assert!(values(&wide) != whole, "{policy}, {optimizer}: nothing was rounded");
    }
}

/// Steps, with a mutation before every one, of which the first alone may allocate: on one thread every allocation is counted, on two those of the calling one.
#[test]
fn neither_steps_nor_mutations_allocate() {
    let data = data();
    let loader = |recipe: &Recipe| Loader::new(&data, &data.train, BATCH, recipe.normalization(&data), &[], recipe.seed).expect("it fits");
    let growths = ["random", "random:4", "gradient"];
    // Every policy in the first scheme, with moments of both kinds, and one of them in every scheme.
    let policies = POLICIES.into_iter().flat_map(|policy| [false, true].map(|narrow| (SCHEMES[0], policy.name(), narrow)));
    let cases = policies.chain(SCHEMES.map(|scheme| (scheme, "mest-ems", false)));
    for (((scheme, density), policy, narrow), growth) in cases.flat_map(|case| growths.map(|growth| (case, growth))) {
        let lambda = if narrow { "0.01" } else { "0" };
        let flags = [("scheme", scheme), ("density", density), ("importance-lambda", lambda), ("grow", growth), ("mutate-every", "1it")];
        let recipe = recipe(policy, &flags);
        let levers = Levers { narrow_moments: narrow, ..Levers::default() };
        let mut net = compile_with(&recipe, if growth == "random" { 2 } else { 1 }, levers);
        let (manifest, mut batch, mut gradients) = (net.manifest().clone(), Batch::default(), DenseGradients::default());
        let order: Vec<u32> = (0..BATCH as u32).collect();
        loader(&recipe).fill(0, &order, &mut batch);
        let mut mutator = Mutator::new(&manifest, recipe.mutation(), recipe.seed);
        let rule = UpdateRule { optimizer: recipe.update_rule(), learning_rate: 0.02, weight_decay: 1e-4, max_norm: None };
        for step in 0..16 {
            let before = allocations();
            let progress = Progress { epoch: step / 2, epochs: 8, iteration: step, iterations: 16 };
            network::load_batch(&mut net, &batch.input, Target::Labels(&batch.labels), BATCH).expect("it fits");
            network::load_step(&mut net, &rule, recipe.seed, step as u64 + 1);
            if mutator.due(&progress) {
                gradients.clear();
                let batches = mutator.gradient_batches(&progress);
                (0..batches).for_each(|_| mutator.read_gradients(&mut net, &progress, &mut gradients));
                mutator.event(&manifest, net.arena_mut(), &progress, Some(&gradients).filter(|_| batches > 0));
            }
            net.run(Phase::Train);
            let loss = network::report(&net).loss;
            let allocated = allocations() - before;
            assert!(loss.is_finite() && (step == 0 || allocated == 0), "{scheme} {policy} {growth}, step {step}: {allocated}");
        }
    }
}
