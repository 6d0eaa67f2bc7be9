//! The JIT against the f64 interpreter on small networks of every shape: odd extents, strides, groups, dilation, padding, residuals,
//! batches that fill no group, every optimiser; and against itself on any number of threads.
#![cfg(feature = "jit")]

mod networks;

use mest_runtime::lanes::Isa;
use mest_runtime::manifest::Template;
use mestc::engine::interp::Training;
use mestc::engine::jit::Jit;
use mestc::engine::replay::{self, NetworkReplay};
use mestc::ir::validate::{Stage, validate};
use mestc::ir::{Graph, NodeId};
use mestc::pass::annotate_sparsity::annotate;
use mestc::pass::rematerialize::{Chain, rematerialize};
use mestc::pipeline;
use mestc::program::Program;
use mestc::program::lower::{Options, PeakDensity, STAGE_BYTES, lower};
use mestc::trace::{Batch, Replay, relative_error};
use networks::{Case, all};
use std::collections::BTreeMap;

/// Steps that each network trains.
const STEPS: usize = 3;

/// What f32 may be off by, relative to the largest value of a kind: thousands of roundings, some amplified by batch normalization.
const TOLERANCE: f64 = 2e-4;

struct Outcome {
    losses: Vec<f64>,
    output: Vec<f64>,
    gradients: BTreeMap<String, Vec<f64>>,
    parameters: BTreeMap<String, Vec<f64>>,
}

fn follow(case: &Case, graph: &Graph, replay: &mut dyn Replay) -> Outcome {
    for (name, live) in &case.masks {
        replay.mask(name, live).expect("the mask fits");
    }
    let names: Vec<String> = graph.parameters().iter().map(|&id| graph.node(id).outputs[0].name.clone()).collect();
    let mut outcome = Outcome { losses: vec![], output: vec![], gradients: BTreeMap::new(), parameters: BTreeMap::new() };
    for step in 0..STEPS {
        let (input, target) = case.batch(step);
        outcome.losses.push(replay.step(Batch { input: &input, target: &target }).expect("the batch fits"));
        if step == 0 {
            outcome.output = replay.output().expect("there was a step");
            let trained = names.iter().filter_map(|name| replay.gradient(name).ok().map(|gradient| (name.clone(), gradient)));
            outcome.gradients = trained.collect();
        }
    }
    outcome.parameters = names.iter().map(|name| (name.clone(), replay.parameter(name).expect("it exists"))).collect();
    outcome
}

/// Raw values, one parameter after the other: a model file for networks that never were one.
fn template(graph: &Graph, parameters: &[NodeId]) -> Template {
    let mut bytes = Vec::new();
    let mut offsets = Vec::new();
    for id in parameters {
        offsets.push(bytes.len());
        bytes.extend(graph.initial[id].values.iter().flat_map(|v| v.to_le_bytes()));
    }
    Template { bytes: bytes.into(), offsets: offsets.into() }
}

fn program(case: &Case, threads: usize) -> (Program, Graph) {
    let (training, inference) = pipeline::graphs(&case.graph, case.loss).expect("the network is trainable");
    lowered(case, training, &inference, threads, STAGE_BYTES)
}

/// A program that keeps as few activations and stages as few rows as can be; `None` where there is nothing to compute again.
fn frugal_program(case: &Case) -> Option<(Program, Graph)> {
    let (mut training, inference) = pipeline::graphs(&case.graph, case.loss).expect("the network is trainable");
    let chain = Chain::of(&training, |_| 1.0).expect("it has a loss");
    let stretches = (1..).find_map(|bytes| chain.choose(bytes * 16)).filter(|stretches| !stretches.is_empty())?;
    rematerialize(&mut training, &chain, &stretches).expect("it has a loss");
    validate(&training, Stage::Differentiated).expect("the graph is valid");
    Some(lowered(case, training, &inference, 2, 0))
}

fn lowered(case: &Case, training: Graph, inference: &Graph, threads: usize, stage_bytes: usize) -> (Program, Graph) {
    let sparsity = annotate(&training, &case.request()).expect("the request fits");
    let parameters = training.parameters();
    let template = template(&training, &parameters);
    let options = Options {
        batch: case.batch,
        lanes: pipeline::lanes(case.batch),
        optimizer: replay::optimizer(case.optimizer.rule),
        clip_norm: false,
        peak: PeakDensity::Budget,
        threads,
        stage_bytes,
    };
    let program = lower(&training, inference, &sparsity, &options, template).expect("every node has a kernel");
    (program, training)
}

fn jit(case: &Case, isa: Isa, threads: usize) -> Outcome {
    let (program, training) = program(case, threads);
    let mut jit = Jit::new(program, isa, threads).expect("the program compiles");
    follow(case, &training, &mut NetworkReplay::new(&mut jit, case.optimizer))
}

fn largest(values: &BTreeMap<String, Vec<f64>>) -> f64 {
    values.values().flatten().fold(0.0, |m: f64, v| m.max(v.abs()))
}

/// Everything that is further off than it may be, in words.
fn differences(got: &Outcome, wanted: &Outcome) -> Vec<String> {
    let mut differences = Vec::new();
    for (step, (a, b)) in got.losses.iter().zip(&wanted.losses).enumerate() {
        if (a - b).abs() > TOLERANCE * b.abs().max(1.0) {
            differences.push(format!("the loss of step {step} is {a}, not {b}"));
        }
    }
    let output = relative_error(&got.output, &wanted.output, wanted.output.iter().fold(0.0, |m: f64, v| m.max(v.abs())));
    if output > TOLERANCE {
        differences.push(format!("the output is off by {output:.2e}"));
    }
    for (what, got, wanted) in [("gradient", &got.gradients, &wanted.gradients), ("trained value", &got.parameters, &wanted.parameters)] {
        let (ours, theirs): (Vec<_>, Vec<_>) = (got.keys().collect(), wanted.keys().collect());
        if ours != theirs {
            differences.push(format!("{what}s exist of {ours:?}, not of {theirs:?}"));
        }
        for (name, values) in wanted.iter().filter(|(name, _)| got.contains_key(*name)) {
            let error = relative_error(&got[name], values, largest(wanted));
            if error > TOLERANCE {
                differences.push(format!("the {what} of '{name}' is off by {error:.2e}"));
            }
        }
    }
    differences
}

#[test]
fn the_jit_computes_what_the_graph_means() {
    let mut wrong = Vec::new();
    for case in all() {
        let (_, training) = program(&case, 1);
        let mut oracle = Training::new(training.clone(), case.optimizer).expect("the graph is complete");
        let wanted = follow(&case, &training, &mut oracle);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let got = jit(&case, isa, 2);
            wrong.extend(differences(&got, &wanted).into_iter().map(|what| format!("{} on {isa}: {what}", case.name)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for case in all() {
        let one = jit(&case, Isa::best(), 1);
        for threads in 2..=4 {
            let more = jit(&case, Isa::best(), threads);
            assert_eq!(one.losses, more.losses, "{} on {threads} threads", case.name);
            assert_eq!(one.gradients, more.gradients, "{} on {threads} threads", case.name);
            assert_eq!(one.parameters, more.parameters, "{} on {threads} threads", case.name);
        }
    }
}

#[test]
fn activations_computed_again_have_the_same_bits() {
    let isa = Isa::best();
    let mut again = 0;
    for case in all() {
        let Some((program, training)) = frugal_program(&case) else { continue };
        again += 1;
        let mut frugal = Jit::new(program, isa, 2).expect("the program compiles");
        let frugal = follow(&case, &training, &mut NetworkReplay::new(&mut frugal, case.optimizer));
        let keeping = jit(&case, isa, 2);
        assert_eq!((&frugal.losses, &frugal.output), (&keeping.losses, &keeping.output), "{}", case.name);
        assert_eq!(frugal.gradients, keeping.gradients, "{}", case.name);
        assert_eq!(frugal.parameters, keeping.parameters, "{}", case.name);
    }
    assert!(again >= 5, "only {again} networks compute anything again");
}
