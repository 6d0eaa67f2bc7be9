//! What the compiler makes of small networks, kept as text: one network for every scheme, one for every pass. Program, CLIF and Rust show what they have
//! beside the networks before them. What changes is to be looked at, and blessed with `INSTA_UPDATE=always cargo test --workspace --lib golden`.

use super::jit::Jit;
use super::rust::package::{self, RuntimeSource};
use super::rust::{EmitOptions, Generated, emit_included};
use crate::describe::vocabulary::{Argument, Arguments, layer};
use crate::describe::{Binary, Description, Tensor};
use crate::ir::text;
use crate::onnx::{Imported, import_bytes};
use crate::pass::attach_loss::Loss;
use crate::pipeline::{self, Compiled, Levers, Pass, Prepared};
use crate::settings;
use mest_runtime::data::Dataset;
use mest_runtime::lanes::Isa;
use mest_runtime::mutation::{self, Mutator, POLICIES, Progress};
use mest_runtime::network::{self, Network, Phase, Target};
use mest_runtime::recipe::Recipe;
use mest_runtime::sparse::{Scheme, state};
use mest_runtime::train;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

const STEPS: usize = 4;

/// A network compiled in some way.
struct Golden {
    name: &'static str,
    model: fn() -> Vec<u8>,
    recipe: &'static [(&'static str, &'static str)],
    memory: Memory,
}

/// What is given for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// Nothing.
    Plenty,
    /// Time: as few activations are kept as can be.
    Recomputed,
    /// Precision: some are kept as bf16.
    Narrow,
    /// A batch is computed in two parts.
    Parts,
    /// Precision: moments are stored as bf16.
    NarrowMoments,
}

/// The schemes, each at a density that it can have; then what else changes the program.
const GOLDENS: [Golden; 16] = [
    scheme("unstructured", &[("scheme", "unstructured"), ("density", "0.3")]),
    scheme("block_4x1", &[("scheme", "block:4x1"), ("density", "0.3")]),
    scheme("pattern", &[("scheme", "pattern"), ("density", "0.3")]),
    scheme("channel", &[("scheme", "channel"), ("density", "0.5")]),
    scheme("channel_out", &[("scheme", "channel:out"), ("density", "0.5")]),
    scheme("nm_2_4", &[("scheme", "nm:2:4"), ("density", "0.5")]),
    scheme("fanin", &[("scheme", "fanin"), ("density", "0.3")]),
    scheme("dense", &[("policy", "dense")]),
    Golden {
        name: "residual",
        model: residual,
        recipe: &[("optimizer", "adam"), ("lr", "0.01"), ("policy", "rigl")],
        memory: Memory::Plenty,
    },
    Golden { name: "frozen", model: residual, recipe: &[("clip-norm", "1")], memory: Memory::Plenty },
    Golden { name: "rematerialized", model: chain, recipe: &[("momentum", "0")], memory: Memory::Recomputed },
    Golden { name: "narrow", model: convolutions, recipe: &[("momentum", "0"), ("policy", "dense")], memory: Memory::Narrow },
    Golden { name: "micro_batches", model: perceptron, recipe: &[("batch", "20")], memory: Memory::Parts },
    Golden {
        name: "regression",
        model: regression,
        recipe: &[("loss", "mse"), ("optimizer", "adamw"), ("lr", "0.01")],
        memory: Memory::Plenty,
    },
    Golden { name: "narrow_momentum", model: perceptron, recipe: &[("importance-lambda", "0.1")], memory: Memory::NarrowMoments },
    Golden {
        name: "narrow_adam",
        model: convolution,
        recipe: &[("optimizer", "adam"), ("lr", "0.01"), ("importance-lambda", "0.1")],
        memory: Memory::NarrowMoments,
    },
];

const fn scheme(name: &'static str, recipe: &'static [(&'static str, &'static str)]) -> Golden {
    Golden { name, model: convolution, recipe, memory: Memory::Plenty }
}

/// The golden of a scheme; `auto` is one of the others once it is chosen.
fn of_scheme(scheme: Scheme) -> Option<&'static str> {
    match scheme {
        Scheme::Unstructured => Some("unstructured"),
        Scheme::Block { .. } => Some("block_4x1"),
        Scheme::Pattern => Some("pattern"),
        Scheme::InputChannel => Some("channel"),
        Scheme::OutputChannel => Some("channel_out"),
        Scheme::NOfM { .. } => Some("nm_2_4"),
        Scheme::FanIn => Some("fanin"),
        Scheme::Auto => None,
    }
}

/// Files of `pass/`, and `hoist` and `in_place` of `program/`: where to see what each does.
const PASSES: [(&str, &str); 9] = [
    ("specialize", "after_specialize"),
    ("attach_loss", "after_attach_loss"),
    ("differentiate", "after_differentiate"),
    ("freeze", "after_frozen"),
    ("rematerialize", "after_rematerialized"),
    ("annotate_sparsity", "unstructured.program"),
    ("fuse", "residual.program"),
    ("hoist", "unstructured.program"),
    ("in_place", "unstructured.program"),
];
/// Files of `pass/` that are parts of other passes.
const NO_PASSES: [&str; 3] = ["mod", "erk", "weight_view"];

fn apply(network: &mut Description, name: &str, x: &Tensor, given: &[(&'static str, Argument)]) -> Tensor {
    let layer = layer(name).expect("a layer of that name");
    let arguments = Arguments::new(layer, given.iter().cloned()).expect("arguments of the right kind");
    network.apply(layer, std::slice::from_ref(x), &arguments).expect("they fit")
}

fn convolve(network: &mut Description, x: &Tensor) -> Tensor {
    apply(network, "conv", x, &[("channels", Argument::Integer(4)), ("kernel", Argument::Integer(3)), ("bias", Argument::Flag(false))])
}

fn begin(dims: &[usize]) -> (Description, Tensor) {
    Description::new("golden", dims, 3).expect("a network may read that")
}

fn classify(mut network: Description, x: &Tensor) -> Vec<u8> {
    let y = apply(&mut network, "linear", x, &[("units", Argument::Integer(2))]);
    network.finish(&y).expect("it has layers")
}

/// A convolution between layers that stay dense.
fn convolution() -> Vec<u8> {
    let (mut network, x) = begin(&[4, 4, 4]);
    let h = convolve(&mut network, &x);
    let h = apply(&mut network, "relu", &h, &[]);
    let h = convolve(&mut network, &h);
    let h = apply(&mut network, "global_avg_pool", &h, &[]);
    classify(network, &h)
}

/// Enough in a row to compute again.
fn chain() -> Vec<u8> {
    let (mut network, mut h) = begin(&[4, 4, 4]);
    for _ in 0..4 {
        h = convolve(&mut network, &h);
        h = apply(&mut network, "tanh", &h, &[]);
    }
    let h = apply(&mut network, "global_avg_pool", &h, &[]);
    classify(network, &h)
}

/// Nothing that would cost less to compute again than to keep narrow.
fn convolutions() -> Vec<u8> {
    let (mut network, mut h) = begin(&[4, 4, 4]);
    for _ in 0..3 {
        h = convolve(&mut network, &h);
    }
    let h = apply(&mut network, "global_avg_pool", &h, &[]);
    classify(network, &h)
}

/// What batch normalization, dropout and a residual add.
fn residual() -> Vec<u8> {
    let (mut network, x) = begin(&[4, 4, 4]);
    let h = convolve(&mut network, &x);
    let h = apply(&mut network, "batch_norm", &h, &[]);
    let h = apply(&mut network, "relu", &h, &[]);
    let h = apply(&mut network, "dropout", &h, &[("share", Argument::Number(0.25))]);
    let y = convolve(&mut network, &h);
    let h = network.binary(Binary::Add, &y, &x).expect("one shape");
    let h = apply(&mut network, "global_avg_pool", &h, &[]);
    classify(network, &h)
}

/// One linear layer.
fn perceptron() -> Vec<u8> {
    let (network, x) = begin(&[8]);
    classify(network, &x)
}

/// Two linear layers.
fn regression() -> Vec<u8> {
    let (mut network, x) = begin(&[8]);
    let h = apply(&mut network, "linear", &x, &[("units", Argument::Integer(8))]);
    let h = apply(&mut network, "tanh", &h, &[]);
    classify(network, &h)
}

impl Golden {
    fn recipe(&self) -> Recipe {
        // The plan counts threads.
        let fixed = [("batch", "3"), ("threads", "2"), ("seed", "7"), ("epochs", "8"), ("lr", "0.05"), ("importance-lambda", "0")];
        let mut recipe = Recipe::default().with(fixed.into_iter().chain(self.recipe.iter().copied())).expect("a sound recipe");
        if self.name == "frozen" {
            recipe.layers.entry("conv1.weight".to_owned()).or_default().frozen = Some(true);
        }
        recipe
    }

    fn imported(&self) -> Imported {
        import_bytes(&(self.model)(), None).expect("it imports")
    }

    fn compiled(&self) -> Compiled {
        let (imported, settings) = (self.imported(), settings::of_recipe(&self.recipe(), None));
        let prepared = Prepared::new(&imported, &settings).expect("it is trainable");
        let (fewest, most) = prepared.kept_bytes_range(false).expect("there is a choice");
        let with = |levers| prepared.compile(levers).expect("it compiles");
        match self.memory {
            Memory::Plenty => with(Levers::default()),
            Memory::Recomputed => with(Levers { kept_bytes: Some(fewest), ..Levers::default() }),
            Memory::Narrow => {
                let bytes = (1..=16).map(|part| most - (most - fewest) * part / 16);
                let mut tried = bytes.map(|bytes| with(Levers { kept_bytes: Some(bytes), narrow: true, ..Levers::default() }));
                tried.find(|compiled| !compiled.recomputation.narrow.is_empty()).expect("something is kept narrow")
            }
            Memory::Parts => with(Levers { micro_batches: 2, ..Levers::default() }),
            Memory::NarrowMoments => with(Levers { narrow_moments: true, ..Levers::default() }),
        }
    }

    /// Whether it comes close to values, instead of naming classes.
    fn learns_values(&self) -> bool {
        self.recipe.contains(&("loss", "mse"))
    }

    /// Whether it shows a scheme: then constants matter, too.
    fn is_of_scheme(&self) -> bool {
        self.recipe.iter().any(|(key, _)| *key == "scheme")
    }

    fn generated(&self, compiled: &Compiled) -> Generated {
        let options =
            EmitOptions { source: format!("{}.onnx", self.name), made_by: "a test".to_owned(), ..EmitOptions::new(&self.recipe()) };
        emit_included(&compiled.program, &options, &format!("{}.onnx", self.name)).expect("it is sound")
    }
}

/// Compares with the golden file, or replaces it; where there is nothing to show, there is none.
fn check(name: &str, text: &str) {
    if text.is_empty() {
        return;
    }
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true, snapshot_path => "goldens" }, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn golden_graphs() {
    let graph = Golden { name: "", model: residual, recipe: &[], memory: Memory::Plenty }.imported().graph;
    let loss = Loss::CrossEntropy { smoothing: 0.0 };
    let passes = [
        (Pass::Import, "import"),
        (Pass::Specialize, "specialize"),
        (Pass::AttachLoss, "attach_loss"),
        (Pass::Differentiate, "differentiate"),
    ];
    for (pass, name) in passes {
        let after = pipeline::graph_after(&graph, loss, pass).expect("it is trainable");
        check(&format!("after_{name}"), &text::print(&after));
    }
    for golden in GOLDENS.iter().filter(|golden| ["frozen", "rematerialized", "narrow"].contains(&golden.name)) {
        check(&format!("after_{}", golden.name), &text::print(&golden.compiled().training));
    }
}

/// What goldens have shown already.
#[derive(Default)]
struct Known(BTreeSet<String>);

impl Known {
    /// The paragraphs of `text` that none has shown; where not `exact`, none but for numbers. Names are no difference: lines that begin so are left out.
    fn new_parts(&mut self, text: &str, names: &str, exact: bool) -> String {
        let mut new = Vec::new();
        for part in text.split("\n\n").map(|part| part.trim_matches('\n')).filter(|part| !part.is_empty()) {
            let code: String = part.lines().filter(|line| !line.starts_with(names)).collect();
            let shape = code.replace(|c: char| c.is_ascii_digit(), "");
            let [code, shape] = [self.0.insert(code), self.0.insert(shape)];
            if if exact { code } else { shape } {
                new.push(part);
            }
        }
        new.join("\n\n")
    }
}

#[test]
fn golden_programs() {
    let mut known = Known::default();
    for golden in &GOLDENS {
        check(&format!("{}.program", golden.name), &known.new_parts(&golden.compiled().program.to_string(), "program", true));
    }
}

/// Items that say what the Program's schedules and slots do: one network's are enough, and parameters where a scheme shows.
const PLACES: [&str; 5] = ["unsafe fn train<", "unsafe fn evaluate<", "mod slots {", "static STREAMS", "static MANIFEST"];

#[test]
fn golden_rust() {
    let mut known = Known::default();
    for (number, golden) in GOLDENS.iter().enumerate() {
        let exact = golden.is_of_scheme();
        let shown =
            |part: &&str| number == 0 || PLACES.iter().all(|place| !part.contains(place)) && (exact || !part.contains("static PARAMETERS"));
        let source = golden.generated(&golden.compiled()).lib_rs;
        let source: Vec<&str> = source.split("\n\n").filter(shown).collect();
        check(&format!("{}.rs", golden.name), &known.new_parts(&source.join("\n\n"), "/// Launched by", exact));
    }
}

#[test]
fn golden_clif() {
    let mut known = Known::default();
    for golden in &GOLDENS {
        let functions = Jit::clif(&golden.compiled().program, Isa::Portable).expect("it compiles");
        // One paragraph a function.
        let functions = functions.replace("\n\nblock", "\nblock");
        check(&format!("{}.clif", golden.name), &known.new_parts(&functions, "function %", false));
    }
}

#[test]
fn golden_networks_are_what_their_names_say() {
    for golden in &GOLDENS {
        let compiled = golden.compiled();
        let sparse = compiled.sparsity.layers.iter().find_map(|layer| Some(layer.units.scheme(layer.density?)));
        if golden.is_of_scheme() {
            assert_eq!(sparse.and_then(of_scheme), Some(golden.name));
        } else {
            assert!(sparse.is_none() || golden.name != "dense");
        }
        let given = &compiled.recomputation;
        assert!(golden.memory == Memory::Narrow || given.stretches.is_empty() != (golden.memory == Memory::Recomputed), "{}", golden.name);
        assert_eq!(!given.narrow.is_empty(), golden.memory == Memory::Narrow, "{}", golden.name);
        assert_eq!(given.micro_batches == 2, golden.memory == Memory::Parts, "{}", golden.name);
        assert_eq!(given.moment_share.is_some(), golden.memory == Memory::NarrowMoments, "{}", golden.name);
    }
}

#[test]
fn every_pass_has_a_golden() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in std::fs::read_dir(sources.join("pass")).expect("the compiler's own sources") {
        let name = file.expect("a file of it").path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let known = NO_PASSES.contains(&name.as_str()) || PASSES.iter().any(|(pass, _)| *pass == name);
        assert!(known, "pass/{name}.rs: add a network to GOLDENS that shows what it does, and a line to PASSES");
    }
    for (pass, golden) in PASSES {
        assert!(sources.join(format!("engine/goldens/{golden}.snap")).is_file(), "{pass}: there is no golden {golden}");
    }
}

include!("goldens/batch.rs");

/// The JIT over a golden network at the start of its training.
fn jit(golden: &Golden, threads: usize) -> Jit {
    let mut net = Jit::new(golden.compiled().program, Isa::best(), threads).expect("it compiles");
    train::initialize(&mut net, &golden.recipe()).expect("its own masks fit");
    net
}

fn hash_of(net: &Jit) -> u64 {
    hash(&state::export(net.manifest(), net.arena()))
}

/// The hash of the model that the JIT has trained.
fn trained_by_jit(golden: &Golden, threads: usize) -> u64 {
    let (recipe, mut net) = (golden.recipe(), jit(golden, threads));
    let mut mutator = Mutator::new(net.manifest(), recipe.mutation(), recipe.seed);
    for step in 0..STEPS {
        let progress = Progress { epoch: step, epochs: 8, iteration: step, iterations: 8 };
        let examples = examples(step, net.manifest().batch, net.manifest().io.input_dims.iter().product());
        let target = if golden.learns_values() { Target::Values(&examples.values) } else { Target::Labels(&examples.labels) };
        network::load_batch(&mut net, &examples.input, target, examples.labels.len()).expect("it fits");
        let load_step = |net: &mut Jit| network::load_step(net, &EmitOptions::new(&recipe).rule, recipe.seed, step as u64 + 1);
        if mutator.due(&progress) {
            for _ in 0..mutator.gradient_batches(&progress) {
                load_step(&mut net);
                mutation::read_gradients(&mut net, &mut mutator, &progress);
            }
        }
        mutation::mutate(&mut net, &mut mutator, &progress);
        load_step(&mut net);
        net.run(Phase::Train);
    }
    hash_of(&net)
}

/// A program over all golden networks: see `goldens/driver.rs`.
fn main_rs() -> String {
    let mut text = "//! Trains every network.\n#![deny(warnings)]\n\ninclude!(\"driver.rs\");\n\n".to_owned();
    GOLDENS.iter().for_each(|golden| writeln!(text, "mod {};", golden.name).expect("a string takes all"));
    text += "\nfn main() {\n    for threads in [1, 3] {\n";
    for golden in &GOLDENS {
        let target = if golden.learns_values() { "values" } else { "labels" };
        writeln!(text, "        train!({}, {target}, {STEPS}, threads);", golden.name).expect("a string takes all");
    }
    text + "    }\n    fit_in_steps();\n    count_allocations();\n}\n"
}

/// What it prints if the generated code does as the JIT does.
fn expected() -> String {
    let line = |threads: usize| move |golden: &Golden| format!("{} {threads} {:016x}\n", golden.name, trained_by_jit(golden, threads));
    let mut text: String = [1, 3].into_iter().flat_map(|threads| GOLDENS.iter().map(line(threads))).collect();
    let golden = GOLDENS.iter().find(|golden| golden.name == "residual").expect("it is there");
    let (mut net, data) = (jit(golden, 1), Dataset::load("synthetic:4x4x4:2:12").expect("it is made up"));
    train::fit(&mut net, &data, &golden.recipe(), None, false, &mut ()).expect("it trains");
    writeln!(text, "fit {0:016x}\nsteps {0:016x}", hash_of(&net)).expect("a string takes all");
    POLICIES.iter().for_each(|policy| writeln!(text, "{} allocates 0", policy.name()).expect("a string takes all"));
    text
}

/// All golden networks built by cargo in one crate: only where `MEST_TEST_CARGO` names a folder to build in.
#[test]
fn golden_rust_computes_the_bits_of_the_jit() {
    let Some(folder) = std::env::var_os("MEST_TEST_CARGO").map(std::path::PathBuf::from) else {
        eprintln!("skipped: MEST_TEST_CARGO names no folder to build generated crates in");
        return;
    };
    let dir = folder.join("goldens");
    let runtime = RuntimeSource::Path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime"));
    package::write_crate(&dir, "goldens", &Generated { lib_rs: String::new(), files: vec![] }, &runtime)
        .expect("the folder can be written");
    let write = |path: &str, contents: &[u8]| package::write(&dir.join("src").join(path), contents).expect("the folder can be written");
    for golden in &GOLDENS {
        let Generated { lib_rs, files } = golden.generated(&golden.compiled());
        write(&format!("{}.rs", golden.name), format!("#![allow(dead_code)]\n{lib_rs}").as_bytes());
        files.iter().for_each(|(path, contents)| write(path, contents));
    }
    write("batch.rs", include_bytes!("goldens/batch.rs"));
    write("driver.rs", include_bytes!("goldens/driver.rs"));
    write("counting/mod.rs", include_bytes!("../../tests/counting/mod.rs"));
    write("main.rs", main_rs().as_bytes());
    let mut cargo = Command::new("cargo");
    cargo
        .args(["run", "--release", "--quiet", "--manifest-path"])
        .arg(dir.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(folder.join("target"));
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected());
}
