//! The layers that sparse kernels are compared on, each alone, forward and backward (both gradients); then training steps of two built-in networks, one
//! of linear layers and one of convolutions: sparse in both engines, dense, and the shape-agnostic baseline.
//!
//! `cargo bench --bench layers`, or `cargo bench --bench layers -- 'conv3x3 64->64'`; `mestc bench` tells more of one model.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mest::compiler::bench::generic::Generic;
use mest::compiler::bench::measure::{Pass, RandomBatch, Subject, generated_layers, rule};
use mest::compiler::engine::jit::Jit;
use mest::compiler::engine::rust::EmitOptions;
use mest::compiler::engine::rust::remote::Remote;
use mest::compiler::onnx::import_bytes;
use mest::compiler::pipeline::{self, Compiled};
use mest::compiler::settings;
use mest::compiler::zoo::layer::{self, Layer};
use mest::compiler::zoo::{self, ZooOptions};
use mest::runtime::lanes::Isa;
use mest::runtime::network::{Network, Phase};
use mest::runtime::recipe::Recipe;
use std::collections::BTreeMap;
use std::time::Duration;

const THREADS: usize = 1;

/// Examples of a layer's batch.
const BATCH: usize = 64;

/// Shapes of CIFAR ResNets, width 1 and 2, of a ResNet-50's projections, and of perceptrons.
const LAYERS: [Layer; 15] = [
    square(16, 16, 32, 1),
    square(16, 32, 32, 2),
    square(32, 32, 16, 1),
    square(32, 64, 16, 2),
    square(64, 64, 8, 1),
    square(32, 32, 32, 1),
    square(32, 64, 32, 2),
    square(64, 64, 16, 1),
    square(64, 128, 16, 2),
    square(128, 128, 8, 1),
    Layer::Convolution { inputs: 256, outputs: 64, extent: 14, kernel: 1, stride: 1 },
    Layer::Convolution { inputs: 64, outputs: 256, extent: 14, kernel: 1, stride: 1 },
    Layer::Linear { inputs: 784, outputs: 300 },
    Layer::Linear { inputs: 512, outputs: 512 },
    Layer::Linear { inputs: 2048, outputs: 2048 },
];

const fn square(inputs: usize, outputs: usize, extent: usize, stride: usize) -> Layer {
    Layer::Convolution { inputs, outputs, extent, kernel: 3, stride }
}

/// Each layer at three densities, in a step of a model around it; throughput is operations on live weights.
fn layers(criterion: &mut Criterion) {
    for layer in LAYERS {
        let imported = import_bytes(&layer.model(), None).expect("it imports");
        let mut group = criterion.benchmark_group(layer.to_string());
        for density in [0.2, 0.1, 0.05] {
            let mut recipe = Recipe { batch: BATCH, threads: Some(THREADS), ..Recipe::default() };
            recipe.layers.entry(layer::WEIGHT.to_owned()).or_default().density = Some(density);
            let compiled = pipeline::compile(&imported, &settings::of_recipe(&recipe, None)).expect("it compiles");
            let Compiled { program, training, sparsity, .. } = compiled;
            let mut jit = Jit::new(program, Isa::best(), THREADS).expect("the JIT runs here");
            Subject::new(&recipe, 1).prepare(&mut jit).expect("its initial values fit");
            let mut time = |pass: Pass, rounds: usize| {
                let kernels = Subject::new(&recipe, rounds).kernels(&mut jit);
                let times = generated_layers(&training, &sparsity, BATCH, &kernels);
                times.into_iter().find(|time| time.name == layer::WEIGHT && time.pass == pass).expect("the layer is timed")
            };
            for (pass, name) in [(Pass::Forward, "forward"), (Pass::Backward, "backward")] {
                group.throughput(Throughput::Elements(time(pass, 1).flops as u64));
                group.bench_function(BenchmarkId::new(name, density), |bencher| {
                    bencher.iter_custom(|rounds| Duration::from_secs_f64(time(pass, rounds as usize).ms * 1e-3 * rounds as f64));
                });
            }
        }
        group.finish();
    }
}

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
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    targets = layers, steps
}
criterion_main!(benches);
