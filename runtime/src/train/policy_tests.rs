//! Trainings under every policy.

use super::mock::{Linear, Shape};
use super::*;
use crate::arena::Arena;
use crate::data::{Dataset, loader::Batch, loader::Loader};
use crate::manifest::Manifest;
use crate::mutation::{DenseGradients, LayerReport, Mutator, POLICIES, Progress};
use crate::network::{self, Network, Phase, Target, UpdateRule};
use crate::recipe::Recipe;
use crate::sampling::{Sampling, Uniform};
use crate::sparse::{Bump, mask, state};
use std::ops::ControlFlow;

fn recipe(policy: &str) -> Recipe {
    let density = if policy == "dense" { "1" } else { "0.3" };
    let flags = [("batch", "50"), ("epochs", "8"), ("density", density), ("lr", "0.1"), ("seed", "3"), ("policy", policy)];
    Recipe::default().with(flags).unwrap()
}

/// Sparse enough that dead weights take several passes to probe.
fn shape(policy: &str) -> Shape {
    match policy {
        "snip" | "grasp" => Shape { density: 0.5, ..Shape::DIGITS },
        "dense" => Shape { density: 1.0, ..Shape::DIGITS },
        _ => Shape { density: 0.3, ..Shape::DIGITS },
    }
}

fn initialized(recipe: &Recipe) -> Linear {
    let mut net = Linear::new(shape(recipe.policy.0.name()));
    initialize(&mut net, recipe).unwrap();
    net
}

fn parts<T>(net: &mut Linear, act: impl FnOnce(&Manifest, &mut Arena) -> T) -> T {
    network::with_parts(net, act)
}

/// Hands `net` batch `number` of epoch 0, at learning rate 0.
fn load(net: &mut Linear, data: &Dataset, recipe: &Recipe, number: usize) {
    let loader = Loader::new(data, &data.train, 50, recipe.normalization(data), recipe.augmentations(data), recipe.seed).unwrap();
    let (order, mut batch) = (Uniform::new(0..data.train.len() as u32, recipe.seed).order(0), Batch::default());
    loader.fill(0, &order[number * 50..][..50], &mut batch);
    network::load_batch(net, &batch.input, Target::Labels(&batch.labels), 50).unwrap();
    let rule = UpdateRule { optimizer: recipe.update_rule(), learning_rate: 0.0, weight_decay: 1e-4, max_norm: None };
    network::load_step(net, &rule, recipe.seed, 1);
}

#[derive(Default)]
struct Events {
    stop_after: Option<usize>,
    seen: Vec<(u64, Vec<LayerReport>)>,
}

impl Observer for Events {
    fn mutation(&mut self, iteration: u64, layers: &[LayerReport]) {
        self.seen.push((iteration, layers.to_vec()));
    }

    fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()> {
        if self.stop_after == Some(metrics.epoch as usize) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn every_policy_learns_within_its_budget() {
    let data = Dataset::load("digits").unwrap();
    for policy in POLICIES {
        let recipe = recipe(policy.name());
        let (mut net, mut events) = (initialized(&recipe), Events::default());
        let report = fit(&mut net, &data, &recipe, None, false, &mut events).unwrap();
        let density = shape(policy.name()).density;
        assert!(report.test_accuracy > 0.7, "{}: {}", policy.name(), report.test_accuracy);
        assert!((report.epochs[7].density - density).abs() < 1e-3, "{}: {report:?}", policy.name());
        let expected = match policy.name() {
            "static" | "static-random" | "dense" => 0,
            "snip" | "grasp" => 1,
            _ => 8,
        };
        assert_eq!(events.seen.len(), expected, "{}", policy.name());
    }
}

#[test]
fn every_policy_survives_an_interruption() {
    let data = Dataset::load("digits").unwrap();
    for policy in POLICIES {
        let recipe = recipe(policy.name());
        let run = |stops: &[usize]| {
            let folder = tempfile::tempdir().unwrap();
            for &stop in stops {
                let mut events = Events { stop_after: Some(stop), ..Events::default() };
                fit(&mut initialized(&recipe), &data, &recipe, Some(folder.path()), true, &mut events).unwrap();
            }
            let mut net = initialized(&recipe);
            fit(&mut net, &data, &recipe, Some(folder.path()), true, &mut ()).unwrap();
            net.state()
        };
        assert!(run(&[]) == run(&[1, 2, 5]), "{}", policy.name());
    }
}

#[test]
fn probed_gradients_are_those_of_the_dense_network() {
    let (data, recipe) = (Dataset::load("digits").unwrap(), recipe("rigl"));
    let mut net = initialized(&recipe);
    fit(&mut net, &data, &recipe, None, false, &mut ()).unwrap();
    let (before, mut sums) = (net.state(), DenseGradients::default());
    let mut mutator = Mutator::new(net.manifest(), recipe.mutation(), recipe.seed);
    let progress = Progress { epoch: 0, epochs: 1, iteration: 0, iterations: 1 };
    for batch in 0..2 {
        load(&mut net, &data, &recipe, batch);
        mutator.read_gradients(&mut net, &progress, &mut sums);
    }
    assert!(net.state() == before, "probing leaves no trace");
    let trained = net.trained;

    let mut dense = Linear::new(Shape { density: 1.0, ..Shape::DIGITS });
    let mut expected = vec![0.0; 640];
    for batch in 0..2 {
        for parameter in 0..2 {
            let values = state::read(net.manifest(), net.arena(), parameter);
            parts(&mut dense, |manifest, arena| state::write(manifest, arena, parameter, &values)).unwrap();
        }
        load(&mut dense, &data, &recipe, batch);
        dense.run(Phase::Train);
        let gradient = state::read_gradient(dense.manifest(), dense.arena(), 0).unwrap();
        expected.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value);
    }
    assert_eq!(sums.of(0), expected);
    // 192 live units in room for 384: 448 dead ones take three passes, after 8 epochs of 29 steps and the 6 events that drop something.
    assert_eq!(trained - 8 * 29, (6 + 2) * 3);
}

#[test]
fn a_single_shot_keeps_the_most_salient_of_a_few_batches() {
    let (data, recipe) = (Dataset::load("digits").unwrap(), recipe("snip"));
    let mut dense = initialized(&recipe);
    let weights = state::read(dense.manifest(), dense.arena(), 0);
    let mut sums = vec![0.0f32; weights.len()];
    for batch in 0..4 {
        load(&mut dense, &data, &recipe, batch);
        dense.run(Phase::Train);
        let gradient = state::read_gradient(dense.manifest(), dense.arena(), 0).unwrap();
        sums.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value);
    }
    let saliency: Vec<f64> = weights.iter().zip(&sums).map(|(weight, gradient)| f64::from((weight * gradient).abs())).collect();
    let bump = Bump::new();
    let expected = mask::keep_best(&bump, &(0..640).collect::<Vec<_>>(), &saliency, 320);
    let mut net = initialized(&recipe);
    fit(&mut net, &data, &recipe, None, false, &mut Events { stop_after: Some(1), ..Events::default() }).unwrap();
    assert_eq!(state::mask(net.manifest(), net.arena(), 0), expected);
}

/// The gradient of the dense weight on batch `number`.
fn dense_gradient(net: &mut Linear, data: &Dataset, recipe: &Recipe, number: usize) -> Vec<f32> {
    load(net, data, recipe, number);
    net.run(Phase::Train);
    state::read_gradient(net.manifest(), net.arena(), 0).unwrap()
}

#[test]
fn gradient_flow_is_weight_times_hessian_times_gradient() {
    let (data, recipe) = (Dataset::load("digits").unwrap(), recipe("grasp"));
    let mut dense = initialized(&recipe);
    let weights = state::read(dense.manifest(), dense.arena(), 0);
    let mut flows = vec![0.0f64; weights.len()];
    for batch in 0..4 {
        let gradient = dense_gradient(&mut dense, &data, &recipe, batch);
        let mut moved = |times: f32| {
            let there: Vec<f32> = weights.iter().zip(&gradient).map(|(weight, gradient)| weight + times * gradient).collect();
            parts(&mut dense, |manifest, arena| state::write(manifest, arena, 0, &there)).unwrap();
            dense_gradient(&mut dense, &data, &recipe, batch)
        };
        let (ahead, behind) = (moved(0.01), moved(-0.01));
        flows.iter_mut().zip(ahead.iter().zip(&behind)).for_each(|(flow, (a, b))| *flow += f64::from(a - b) / 0.02);
        parts(&mut dense, |manifest, arena| state::write(manifest, arena, 0, &weights)).unwrap();
    }
    let saliency: Vec<f64> = weights.iter().zip(&flows).map(|(&weight, flow)| f64::from(weight) * flow).collect();
    let mut ranked = saliency.clone();
    ranked.sort_by(f64::total_cmp);
    let mut net = initialized(&recipe);
    fit(&mut net, &data, &recipe, None, false, &mut Events { stop_after: Some(1), ..Events::default() }).unwrap();
    let kept = state::mask(net.manifest(), net.arena(), 0);
    // The two differences are not the same to the last digit, so near the middle either may stay.
    let (surely, never) = (ranked[340], ranked[300]);
    assert_eq!(kept.len(), 320);
    for unit in 0..640u32 {
        let (value, kept) = (saliency[unit as usize], kept.binary_search(&unit).is_ok());
        assert!(kept || value <= surely, "{unit} of {value} is among the best");
        assert!(!kept || value >= never, "{unit} of {value} is not");
    }
}

#[test]
fn candidates_are_probed_where_units_were_dropped() {
    let data = Dataset::load("digits").unwrap();
    let recipe = recipe("mest-em").with([("grow", "random:3")]).unwrap();
    let mut net = initialized(&recipe);
    fit(&mut net, &data, &recipe, None, false, &mut ()).unwrap();
    assert_eq!(state::mask(net.manifest(), net.arena(), 0).len(), 192);
    // Six of the eight events grow something, and there is room for their candidates in one pass.
    assert_eq!(net.trained - 8 * 29, 6);
    let (before, mut sums) = (net.state(), DenseGradients::default());
    let mut mutator = Mutator::new(net.manifest(), recipe.mutation(), recipe.seed);
    load(&mut net, &data, &recipe, 0);
    mutator.read_gradients(&mut net, &Progress { epoch: 0, epochs: 8, iteration: 0, iterations: 8 * 29 }, &mut sums);
    assert!(net.state() == before, "probing leaves no trace");
    let probed = sums.of(0).iter().filter(|&&gradient| gradient != 0.0).count();
    assert!(probed <= 192 - 38 + 3 * 38, "no dense gradient: {probed}");
}

#[test]
fn a_network_without_room_for_gradients_is_refused() {
    let data = Dataset::load("digits").unwrap();
    let error = fit(&mut Linear::new(shape("set")), &data, &recipe("snip"), None, false, &mut ()).unwrap_err();
    assert!(error.is_refusal());
    let text = error.to_string();
    assert!(text.contains("policy = snip") && text.contains("`fc.weight` has room for 384 live units, 640 are needed"), "{text}");
}
