//! The shape-agnostic baseline against the f64 interpreter, on networks that engines are compared with, too: a comparison with it means
//! nothing unless it computes the same.
#![cfg(feature = "jit")]

mod networks;

use mest_runtime::lanes::Isa;
use mest_runtime::network::UpdateRule;
use mestc::bench::generic::{Generic, GenericError};
use mestc::engine::interp::Training;
use mestc::engine::replay;
use mestc::ir::Graph;
use mestc::pass::annotate_sparsity::annotate;
use mestc::pipeline;
use mestc::trace::{Batch, Replay, Target, relative_error};
use networks::{Case, all, convolutional};

/// Steps that each network trains.
const STEPS: usize = 3;

/// What f32 may be off by, relative to the largest value of a kind.
const TOLERANCE: f64 = 2e-4;

fn agree(case: &Case, what: &str, got: &[f32], wanted: &[f64], largest: f64) {
    let got: Vec<f64> = got.iter().map(|&value| f64::from(value)).collect();
    assert_eq!(got.len(), wanted.len(), "{}: {what}", case.name);
    let error = relative_error(&got, wanted, largest);
    assert!(error < TOLERANCE, "{}: {what} is off by {error:.2e}", case.name);
}

fn largest<'v>(values: impl Iterator<Item = &'v Vec<f64>>) -> f64 {
    values.flatten().fold(0.0, |m: f64, v| m.max(v.abs()))
}

fn baseline(case: &Case, graph: &Graph, isa: Isa, threads: usize) -> Result<Generic, GenericError> {
    let table = annotate(graph, &case.request()).expect("the request fits");
    let (learning_rate, weight_decay) = (case.optimizer.learning_rate, case.optimizer.weight_decay);
    let rule = UpdateRule { optimizer: replay::optimizer(case.optimizer.rule), learning_rate, weight_decay, max_norm: None };
    Generic::new(graph.clone(), &table, &case.masks, case.batch, rule, isa, threads)
}

fn compare(case: &Case, isa: Isa, threads: usize) {
    let (graph, _) = pipeline::graphs(&case.graph, case.loss).expect("the network is trainable");
    let names: Vec<String> = graph.parameters().iter().map(|&id| graph.node(id).outputs[0].name.clone()).collect();
    let mut generic = baseline(case, &graph, isa, threads).expect("every node is covered");
    let mut oracle = Training::new(graph, case.optimizer).expect("the graph is complete");
    for (name, live) in &case.masks {
        oracle.set_mask(name, live).expect("the mask fits");
    }
    for step in 0..STEPS {
        let (input, target) = case.batch(step);
        let wanted = oracle.step(Batch { input: &input, target: &target }).expect("the batch fits");
        match &target {
            Target::Classes(classes) => generic.load(&input.values, &classes.iter().map(|&class| class as f32).collect::<Vec<_>>()),
            Target::Values(values) => generic.load(&input.values, &values.values),
        }
        let got = generic.step();
        assert!((got - wanted).abs() <= TOLERANCE * wanted.abs().max(1.0), "{}: loss of step {step}: {got}, not {wanted}", case.name);
        if step == 0 {
            let output = oracle.output().expect("there was a step");
            agree(case, "the output", generic.output(), &output, largest([&output].into_iter()));
            let gradients: Vec<_> = names.iter().filter_map(|name| oracle.gradient(name).ok().map(|gradient| (name, gradient))).collect();
            let most = largest(gradients.iter().map(|(_, gradient)| gradient));
            for (name, wanted) in &gradients {
                agree(case, &format!("gradient of '{name}'"), &generic.gradient(name).expect("it is trained"), wanted, most);
            }
        }
    }
    let parameters: Vec<_> = names.iter().map(|name| (name, oracle.parameter(name).expect("it exists"))).collect();
    let most = largest(parameters.iter().map(|(_, values)| values));
    for (name, wanted) in &parameters {
        agree(case, &format!("'{name}' after training"), &generic.parameter(name).expect("it exists"), wanted, most);
    }
}

#[test]
fn the_baseline_computes_what_the_graph_means() {
    for case in convolutional() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            compare(&case, isa, 2);
        }
        compare(&case, Isa::best(), 3);
    }
}

#[test]
fn what_the_baseline_lacks_is_refused_by_name() {
    let covered = convolutional().len();
    for case in all().into_iter().skip(covered) {
        let (graph, _) = pipeline::graphs(&case.graph, case.loss).expect("the network is trainable");
        let Err(GenericError::Unsupported { node, .. }) = baseline(&case, &graph, Isa::Portable, 1) else {
            panic!("{} is covered: compare it", case.name)
        };
        assert!(graph.ids().iter().any(|&id| graph.node(id).name == node), "{node}");
    }
}
