//! onnx's own tests of operations and optimisers, and the models that come with it, through the interpreter and the JIT.
//!
//! `tests/onnx/write_cases.py` writes them; `MEST_ONNX_CASES` names the folder. Without it there is nothing to test. What the compiler refuses is
//! counted by reason; what it accepts must be right. docs/onnx.md has the counts. Of a test with several activations there is a second form, with all of
//! them cut out of one input.
#![cfg(feature = "jit")]

use mest_runtime::lanes::Isa;
use mest_runtime::network::{self, Network, Phase, Target};
use mest_runtime::optim::Optimizer;
use mest_runtime::recipe::Distribution;
use mest_runtime::sparse::Scheme;
use mest_runtime::sparse::state::{self, InitialMasks};
use mestc::engine::interp::{Interpreter, Sources};
use mestc::engine::jit::Jit;

use mestc::onnx;
use mestc::op::{Op, Reference};
use mestc::pass::annotate_sparsity::SparsityRequest;
use mestc::pass::attach_loss::Loss;
use mestc::pipeline::{self, Levers, Settings};
use mestc::program::lower::PeakDensity;
use safetensors::SafeTensors;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

fn cases(kind: &str) -> Vec<PathBuf> {
    let Some(root) = std::env::var_os("MEST_ONNX_CASES") else {
        eprintln!("nothing is tested: MEST_ONNX_CASES names no folder; tests/onnx/write_cases.py writes one");
        return vec![];
    };
    let folder = Path::new(&root).join(kind);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    cases.sort();
    cases
}

/// The tensors of a case, and its metadata.
struct Recorded {
    tensors: HashMap<String, (Vec<usize>, Vec<f32>)>,
    metadata: HashMap<String, String>,
}

impl Recorded {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).expect("a case has tensors");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("they are safetensors");
        let tensors = SafeTensors::deserialize(&bytes).expect("they are safetensors");
        let values = |name: &str| {
            let view = tensors.tensor(name).expect("it is listed");
            (view.shape().to_vec(), view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
        };
        let tensors = tensors.names().into_iter().map(|name| (name.to_owned(), values(name))).collect();
        Recorded { tensors, metadata: header.metadata().clone().unwrap_or_default() }
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.metadata.get(key).and_then(|text| text.parse().ok())
    }

    /// What differs, if anything does by more than the case allows.
    fn difference(&self, what: &str, got: &[f64]) -> Option<String> {
        let wanted = &self.tensors["output"].1;
        let (relative, absolute) = (self.number("rtol").unwrap_or(1e-3), self.number("atol").unwrap_or(1e-7).max(2e-6));
        if got.len() != wanted.len() {
            return Some(format!("{what} has {} elements, not {}", got.len(), wanted.len()));
        }
        let same = |got: f64, wanted: f64| {
            got == wanted || (got.is_nan() && wanted.is_nan()) || (got - wanted).abs() <= absolute + relative * wanted.abs()
        };
        let wrong = got.iter().zip(wanted).position(|(&got, &wanted)| !same(got, f64::from(wanted)))?;
        Some(format!("{what}[{wrong}] is {}, not {}", got[wrong], wanted[wrong]))
    }
}

/// The words of a refusal that are the same for all refusals of its kind.
fn reason(why: &str) -> String {
    let words = why.split("; ").next().unwrap_or(why);
    let kept = |c: char| if c.is_ascii_digit() { '#' } else { c };
    words.chars().map(kept).collect::<String>().split('\'').step_by(2).collect::<Vec<_>>().join("..")
}

fn settings(batch: usize) -> Settings {
    Settings {
        batch,
        loss: Loss::MeanSquaredError,
        optimizer: Optimizer::Sgd { momentum: 0.0, nesterov: false },
        clip_norm: false,
        sparsity: SparsityRequest {
            density: 1.0,
            distribution: Distribution::Uniform,
            scheme: Scheme::Unstructured,
            patterns: Default::default(),
            layers: BTreeMap::new(),
            masks: BTreeMap::new(),
        },
        keep_gradients: true,
        peak: PeakDensity::Budget,
        frozen: vec![],
        threads: 1,
        levers: Levers::default(),
        metadata: vec![],
    }
}

/// Runs a case in the first of its forms that is accepted; why it is not run, or what is wrong.
fn run(folder: &Path) -> Result<Vec<String>, String> {
    let result = run_form(&folder.join("model.onnx"), &Recorded::read(&folder.join("case.safetensors")));
    let packed = folder.join("packed.onnx");
    if result.is_err() && packed.exists() {
        return run_form(&packed, &Recorded::read(&folder.join("packed.safetensors")));
    }
    result
}

/// Runs a model in both engines.
fn run_form(model: &Path, case: &Recorded) -> Result<Vec<String>, String> {
    let (dims, input) = &case.tensors["input"];
    let imported = onnx::import(model).map_err(|report| reason(&report.problems[0].why))?;
    let output = imported.graph.output.ok_or("there is no output")?;
    if imported.graph.shape(output).rank() < 2 {
        return Err("an example gives a single number".to_owned());
    }
    let compiled = pipeline::compile(&imported, &settings(dims[0])).map_err(|error| reason(&error.to_string()))?;
    let mut wrong = Vec::new();

    let graph = &compiled.inference;
    let mut sources = Sources::new();
    for id in graph.ids() {
        match &graph.node(id).op {
            Op::Input(_) => {
                drop(sources.insert(id, Reference { dims: dims.clone(), values: input.iter().map(|&v| f64::from(v)).collect() }))
            }
            Op::Parameter(_) => {
                let initial = pipeline::initial(&imported.graph, &graph.node(id).outputs[0].name).ok_or("a parameter has no value")?;
                let values = initial.values.iter().map(|&v| f64::from(v)).collect();
                sources.insert(id, Reference { dims: initial.dims.clone(), values });
            }
            _ => {}
        }
    }
    let interpreter = Interpreter::new(graph).expect("a compiled graph has no cycle");
    let results = interpreter.evaluate(&sources, &[graph.output.expect("it has one")]).map_err(|error| reason(&error.to_string()))?;
    wrong.extend(case.difference("interp", &results[0].values));

    let elements = results[0].values.len();
    let mut net = Jit::new(compiled.program, Isa::best(), 1).map_err(|error| error.to_string())?;
    let manifest = net.manifest().clone();
    state::initialize(&manifest, net.arena_mut(), &InitialMasks::Given(BTreeMap::new()), 0).map_err(|error| error.to_string())?;
    network::load_batch(&mut net, input, Target::Values(&vec![0.0; elements]), dims[0]).map_err(|error| error.to_string())?;
    net.run(Phase::Evaluate);
    let got: Vec<f64> = network::output(&net).into_iter().map(f64::from).collect();
    wrong.extend(case.difference("jit", &got));
    Ok(wrong)
}

/// Runs every case of a kind; prints what is left out, fails on what is wrong.
fn check(kind: &str) {
    let (mut passed, mut left, mut wrong) = (0, BTreeMap::<String, usize>::new(), Vec::new());
    let folders = cases(kind);
    for folder in &folders {
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match run(folder) {
            Ok(differences) if differences.is_empty() => passed += 1,
            Ok(differences) => wrong.push(format!("{name}: {}", differences.join(", "))),
            Err(reason) => {
                if std::env::var_os("MEST_ONNX_VERBOSE").is_some() {
                    println!("{name}: {reason}");
                }
                *left.entry(reason).or_default() += 1;
            }
        }
    }
    println!("{kind}: {passed} of {} pass, {} are left out, {} are wrong", folders.len(), left.values().sum::<usize>(), wrong.len());
    let mut reasons: Vec<_> = left.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    reasons.iter().for_each(|(reason, count)| println!("  {count:4}  {reason}"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn node_tests_give_what_onnx_says() {
    check("node");
}

#[test]
fn models_in_data_light_give_what_the_reference_gives() {
    check("light");
}
