//! Training steps of two built-in networks, one of linear layers and one of convolutions: sparse in both engines, dense, and the shape-agnostic
//! baseline.
//!
//! `cargo bench --bench layers`; `mestc bench` tells more of one model.

use criterion::{Criterion, criterion_group, criterion_main};
use mest::compiler::bench::generic::Generic;
use mest::compiler::bench::measure::{RandomBatch, Subject, rule};
use mest::compiler::engine::jit::Jit;
use mest::compiler::engine::rust::EmitOptions;
use mest::compiler::engine::rust::remote::Remote;
use mest::compiler::onnx::import_bytes;
use mest::compiler::zoo::{self, ZooOptions};
use mest::compiler::{pipeline, settings};
use mest::runtime::lanes::Isa;
use mest::runtime::network::{Network, Phase};
use mest::runtime::recipe::Recipe;
use std::collections::BTreeMap;
use std::time::Duration;

const THREADS: usize = 1;

fn steps(criterion: &mut Criterion) {
    for (name, input) in [("mlp", [1, 28, 28]), ("resnet8", [3, 16, 16])] {
        let model = zoo::build(name, &ZooOptions { input: Some(input), ..ZooOptions::default() }).expect("a built-in model");
        let imported = import_bytes(&model, None).expect("it imports");
        let mut group = criterion.benchmark_group(name);
        for (variant, sparsity) in [("sparse", 0.9), ("dense", 0.0)] {
            let recipe = Recipe { sparsity: Some(sparsity), threads: Some(THREADS), ..Recipe::default() };
            let compiled = pipeline::compile(&imported, &settings::of_recipe(&recipe, None)).expect("it compiles");
            let mut jit = Jit::new(compiled.program.clone(), Isa::best(), THREADS).expect("the JIT runs here");
            Subject::new(&recipe, 1).prepare(&mut jit).expect("its initial values fit");
            group.bench_function(variant, |bencher| bencher.iter(|| jit.run(Phase::Train)));
            if variant == "sparse" {
                let mut rust = Remote::start(&compiled.program, &EmitOptions::new(&recipe), Isa::best(), THREADS, &Remote::default_cache())
                    .expect("the crate builds");
                Subject::new(&recipe, 1).prepare(&mut rust).expect("its initial values fit");
                group.bench_function("generated Rust", |bencher| {
                    bencher.iter_custom(|rounds| {
                        let timing = rust.time(Phase::Train, rounds as usize);
                        Duration::from_secs_f64(timing.seconds.iter().sum())
                    });
                });
                let mut generic = generic(&compiled.training, &compiled.sparsity, &recipe);
                group.bench_function("generic", |bencher| bencher.iter(|| generic.step()));
            }
        }
        group.finish();
    }
}

/// The baseline for the same graph, loaded with the same batch.
fn generic(graph: &mest::compiler::ir::Graph, table: &mest::compiler::pass::annotate_sparsity::SparsityTable, recipe: &Recipe) -> Generic {
    let net = Generic::new(graph.clone(), table, &BTreeMap::new(), recipe.batch, rule(recipe), Isa::best(), THREADS);
    let mut net = net.expect("every node is covered");
    let batch = RandomBatch::of_graph(graph, recipe.batch, recipe.seed);
    net.load(&batch.input, &batch.target_floats());
    net
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = steps
}
criterion_main!(benches);
