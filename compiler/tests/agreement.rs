//! The JIT against the f64 interpreter on small networks of every shape: odd extents, strides, groups, dilation, padding, residuals,
//! batches that fill no group, every optimiser; and against itself on any number of threads.
#![cfg(feature = "jit")]

mod networks;

use mest_runtime::lanes::Isa;
use mest_runtime::manifest::{Element, Template};
use mestc::engine::interp::Training;
use mestc::engine::jit::Jit;
use mestc::engine::replay::{self, NetworkReplay};
use mestc::ir::validate::{Stage, validate};
use mestc::ir::{Graph, NodeId, Tensor};
use mestc::op::Op;
use mestc::pass::annotate_sparsity::annotate;
use mestc::pass::rematerialize::{Chain, Choice, rematerialize};
use mestc::pipeline::{self, Levers};
use mestc::program::Program;
use mestc::program::lower::{Options, PeakDensity, lower};
use mestc::trace::{Batch, Replay, Target, relative_error};
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
    lowered(case, training, &inference, threads, Levers::default())
}

/// A program that keeps as few activations and stages as few rows as can be, in half the bytes where `narrow`; `None` where there is nothing to compute again.
fn frugal_program(case: &Case, narrow: bool) -> Option<(Program, Graph)> {
    let (mut training, inference) = pipeline::graphs(&case.graph, case.loss).expect("the network is trainable");
    let chain = Chain::of(&training, |_| 1.0).expect("it has a loss");
    let choice = (1..).find_map(|bytes| chain.choose(bytes * 16, narrow)).filter(|choice| !choice.is_empty())?;
    rematerialize(&mut training, &chain, &choice).expect("it has a loss");
    validate(&training, Stage::Differentiated).expect("the graph is valid");
    Some(lowered(case, training, &inference, 2, Levers { stage_bytes: 0, ..Levers::default() }))
}

fn lowered(case: &Case, training: Graph, inference: &Graph, threads: usize, levers: Levers) -> (Program, Graph) {
    let sparsity = annotate(&training, &case.request()).expect("the request fits");
    let parameters = training.parameters();
    let template = template(&training, &parameters);
    let options = Options {
        batch: case.batch,
        lanes: pipeline::lanes(case.batch),
        optimizer: replay::optimizer(case.optimizer.rule),
        clip_norm: false,
        keep_gradients: true,
        peak: PeakDensity::Budget,
        threads,
        stage_bytes: levers.stage_bytes,
        micro_batches: levers.micro_batches,
        narrow_moments: levers.narrow_moments,
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
        let Some((program, training)) = frugal_program(&case, false) else { continue };
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

/// The graph with everything narrow that backward reads and that may be, nothing computed again, and its program.
fn narrow_program(case: &Case) -> Option<(Program, Graph)> {
    let (mut training, inference) = pipeline::graphs(&case.graph, case.loss).expect("the network is trainable");
    let chain = Chain::of(&training, |_| 1.0).expect("it has a loss");
    let choice = Choice { stretches: vec![], narrow: (0..chain.links.len()).collect() };
    rematerialize(&mut training, &chain, &choice).expect("it has a loss");
    validate(&training, Stage::Differentiated).expect("the graph is valid");
    let any = training.ids().into_iter().any(|id| matches!(training.node(id).op, Op::Narrow(_)));
    any.then(|| lowered(case, training, &inference, 2, Levers::default()))
}

/// What rounding activations to 8 bits of significand may change in a gradient, relative to the largest of its kind: each is off by at most
/// 1 / 512, and sums of them by less, save where batch normalization takes most of a gradient away.
const NARROW_TOLERANCE: f64 = 0.05;

#[test]
fn narrow_activations_change_gradients_by_their_rounding_alone() {
    let isa = Isa::best();
    let mut narrower = 0;
    for case in all() {
        for program in [narrow_program(&case), frugal_program(&case, true)] {
            let Some((program, training)) = program else { continue };
            narrower += usize::from(training.ids().into_iter().any(|id| matches!(training.node(id).op, Op::Narrow(_))));
            let mut one = Jit::new(program.clone(), isa, 1).expect("the program compiles");
            let one = follow(&case, &training, &mut NetworkReplay::new(&mut one, case.optimizer));
            let mut three = Jit::new(program, isa, 3).expect("the program compiles");
            let three = follow(&case, &training, &mut NetworkReplay::new(&mut three, case.optimizer));
            assert_eq!((&one.losses, &one.gradients), (&three.losses, &three.gradients), "{} on three threads", case.name);
            let wide = jit(&case, isa, 2);
            assert_eq!((one.losses[0], &one.output), (wide.losses[0], &wide.output), "{}: forward is as wide as ever", case.name);
            let scale = largest(&wide.gradients);
            for (name, values) in &wide.gradients {
                let error = relative_error(&one.gradients[name], values, scale);
                assert!(error < NARROW_TOLERANCE, "{}: the gradient of '{name}' is off by {error:.2e}", case.name);
            }
        }
    }
    assert!(narrower >= 8, "only {narrower} programs keep anything narrow");
}

#[test]
fn the_oracle_rounds_what_is_narrow_as_the_jit_does() {
    for case in all() {
        let Some((program, training)) = narrow_program(&case) else { continue };
        let mut oracle = Training::new(training.clone(), case.optimizer).expect("the graph is complete");
        let wanted = follow(&case, &training, &mut oracle);
        let mut jit = Jit::new(program, Isa::best(), 2).expect("the program compiles");
        let got = follow(&case, &training, &mut NetworkReplay::new(&mut jit, case.optimizer));
        let scale = largest(&wanted.gradients);
        for (name, values) in &wanted.gradients {
            // Where f32 and f64 round to different halves, one of many terms is off by 1 / 256.
            let error = relative_error(&got.gradients[name], values, scale);
            assert!(error < NARROW_TOLERANCE / 2.0, "{}: the gradient of '{name}' is off by {error:.2e}", case.name);
        }
    }
}

/// What rounding moments to 8 bits of significand may change in a weight over a few steps, relative to the largest: each step is off by at most 1 / 128
/// of itself.
const ROUNDED_TOLERANCE: f64 = 2e-3;

#[test]
fn moments_in_half_of_the_bits_change_steps_by_their_rounding_alone() {
    let isa = Isa::best();
    let mut rounded = 0;
    for case in all() {
        let (training, inference) = pipeline::graphs(&case.graph, case.loss).expect("the network is trainable");
        let (program, training) = lowered(&case, training, &inference, 2, Levers { narrow_moments: true, ..Levers::default() });
        let mut slots = program.manifest.parameters.iter().flat_map(|parameter| parameter.moments.iter());
        assert!(slots.all(|slot| slot.element == Element::Bf16), "{}", case.name);
        let on = |isa: Isa, threads: usize| {
            let mut jit = Jit::new(program.clone(), isa, threads).expect("the program compiles");
            follow(&case, &training, &mut NetworkReplay::new(&mut jit, case.optimizer))
        };
        let (one, wide) = (on(isa, 1), jit(&case, isa, 2));
        for threads in [2, 3] {
            let more = on(isa, threads);
            assert_eq!((&one.losses, &one.parameters), (&more.losses, &more.parameters), "{} on {threads} threads", case.name);
        }
        // The first step begins with moments of 0, and moves by what they become before they are rounded.
        assert_eq!((&one.losses[..2], &one.gradients), (&wide.losses[..2], &wide.gradients), "{}", case.name);
        rounded += usize::from(one.parameters != wide.parameters);
        let mut oracle = Training::new(training.clone(), case.optimizer).expect("the graph is complete");
        let oracle = follow(&case, &training, &mut oracle);
        let scale = largest(&oracle.parameters);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let got = on(isa, 2);
            for (name, values) in &oracle.parameters {
                let error = relative_error(&got.parameters[name], values, scale);
                assert!(error < ROUNDED_TOLERANCE, "{} on {isa}: '{name}' is off by {error:.2e}", case.name);
            }
        }
    }
    assert!(rounded >= 9, "only {rounded} networks have moments");
}

/// Examples `range` of a tensor.
fn examples(tensor: &Tensor, range: std::ops::Range<usize>) -> Tensor {
    let each: usize = tensor.dims[1..].iter().product();
    let dims = std::iter::once(range.len()).chain(tensor.dims[1..].iter().copied()).collect();
    Tensor { values: tensor.values[range.start * each..range.end * each].to_vec(), dims }
}

#[test]
fn gradients_of_micro_batches_are_summed() {
    let isa = Isa::best();
    let mut split = 0;
    for case in all() {
        let lanes = pipeline::lanes(case.batch);
        let micro_batches = case.batch.div_ceil(lanes);
        if micro_batches == 1 {
            continue;
        }
        split += 1;
        let (training, inference) = pipeline::graphs(&case.graph, case.loss).expect("the network is trainable");
        let (program, training) = lowered(&case, training, &inference, 2, Levers { micro_batches, ..Levers::default() });
        let (input, target) = case.batch(0);
        let mut wanted: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for first in (0..case.batch).step_by(lanes) {
            // Each part as a batch of its own, in the oracle; a part of the mean over all.
            let part = first..case.batch.min(first + lanes);
            let share = part.len() as f64 / case.batch as f64;
            let mut oracle = Training::new(training.clone(), case.optimizer).expect("the graph is complete");
            case.masks.iter().for_each(|(name, live)| oracle.mask(name, live).expect("the mask fits"));
            let target = match &target {
                Target::Classes(classes) => Target::Classes(classes[part.clone()].to_vec()),
                Target::Values(values) => Target::Values(examples(values, part.clone())),
            };
            oracle.step(Batch { input: &examples(&input, part), target: &target }).expect("the batch fits");
            for &id in training.gradients.keys() {
                let name = &training.node(id).outputs[0].name;
                let gradient = oracle.gradient(name).expect("it is trained");
                let sum = wanted.entry(name.clone()).or_insert_with(|| vec![0.0; gradient.len()]);
                sum.iter_mut().zip(gradient).for_each(|(sum, term)| *sum += share * term);
            }
        }
        let mut one = Jit::new(program.clone(), isa, 1).expect("the program compiles");
        let one = follow(&case, &training, &mut NetworkReplay::new(&mut one, case.optimizer));
        for (name, values) in &wanted {
            let error = relative_error(&one.gradients[name], values, largest(&wanted));
            assert!(error < TOLERANCE, "{}: the gradient of '{name}' is off by {error:.2e}", case.name);
        }
        let mut three = Jit::new(program, isa, 3).expect("the program compiles");
        let three = follow(&case, &training, &mut NetworkReplay::new(&mut three, case.optimizer));
        assert_eq!((&one.losses, &one.parameters), (&three.losses, &three.parameters), "{} on three threads", case.name);
    }
    assert!(split >= 4, "only {split} networks have batches that can be split");
}
