// What the program that is built of all golden networks does with them.

mod counting;

use mest_runtime::data::Dataset;
use mest_runtime::data::loader::{Batch, Loader};
use mest_runtime::lanes::Isa;
use mest_runtime::mutation::{MutationConfig, Mutator, POLICIES, Progress};
use mest_runtime::network::Network;
use mest_runtime::sampling::{Sampling, Uniform};
use mest_runtime::train::{self, Plan};

include!("batch.rs");

/// The moment before step `step`.
fn before(step: usize) -> Progress {
    Progress { epoch: step, epochs: 8, iteration: step, iterations: 8 }
}

/// Trains a network for a few steps; prints the hash of its model.
macro_rules! train {
    ($network:ident, $target:ident, $steps:literal, $threads:ident) => {{
        let mut net = $network::Net::with(7, Isa::best(), $threads).expect("the machine's own");
        let mut mutator = net.mutator();
        for step in 0..$steps {
            let Examples { input, $target, .. } = examples(step, net.manifest().batch, net.manifest().io.input_dims.iter().product());
            learn!(net, mutator, &before(step), &input, &$target);
        }
        println!("{} {} {:016x}", stringify!($network), $threads, hash(&net.export_onnx()));
    }};
}

/// A step, with the mutation before it.
macro_rules! learn {
    ($net:ident, $mutator:ident, $progress:expr, $input:expr, $target:expr) => {
        if $mutator.due($progress) {
            for _ in 0..$mutator.gradient_batches($progress) {
                $net.read_gradients(&mut $mutator, $progress, $input, $target).expect("it fits");
            }
        }
        $net.mutate(&mut $mutator, $progress);
        $net.step($input, $target);
    };
}

/// A run of `train::fit`, and the same run step by step: the same masks of dropout, the same events.
fn fit_in_steps() {
    let recipe = residual::Net::recipe();
    let data = Dataset::load("synthetic:4x4x4:2:12").expect("it is made up");
    let start = || residual::Net::with(recipe.seed, Isa::best(), 2).expect("the machine's own");
    let mut net = start();
    train::fit(&mut net, &data, &recipe, None, false, &mut ()).expect("it trains");
    println!("fit {:016x}", hash(&net.export_onnx()));
    net = start();
    let mut mutator = net.mutator();
    let plan = Plan::new(&recipe, data.train.len()).expect("a sound recipe");
    let loader = Loader::new(&data, &data.train, recipe.batch, recipe.normalization(&data), recipe.augmentations(&data), recipe.seed);
    let (loader, mut batch) = (loader.expect("it fits"), Batch::default());
    let mut sampling = Uniform::new(0..data.train.len() as u32, recipe.seed);
    for epoch in 0..recipe.epochs {
        sampling.begin(epoch);
        for (number, examples) in sampling.order(epoch).chunks(recipe.batch).enumerate() {
            let progress = plan.progress(epoch * plan.per_epoch + number);
            loader.fill(epoch, examples, &mut batch);
            net.set_learning_rate(plan.learning_rate.at(&progress));
            learn!(net, mutator, &progress, &batch.input, &batch.labels);
        }
    }
    println!("steps {:016x}", hash(&net.export_onnx()));
}

/// Prints how often steps and mutations allocate once they have run.
fn count_allocations() {
    for policy in POLICIES {
        let mut net = unstructured::Net::with(7, Isa::best(), 2).expect("the machine's own");
        let mut mutator = Mutator::new(net.manifest(), MutationConfig::new(policy), 7);
        let Examples { input, labels, .. } = examples(0, net.manifest().batch, net.manifest().io.input_dims.iter().product());
        let mut before_all = 0;
        for step in 0..8 {
            learn!(net, mutator, &before(step), &input, &labels);
            if step == 0 {
                before_all = counting::allocations();
            }
        }
        println!("{} allocates {}", policy.name(), counting::allocations() - before_all);
    }
}
