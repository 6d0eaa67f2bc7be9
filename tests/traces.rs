//! Trainings recorded in PyTorch, followed by the interpreter and by the JIT on every instruction set and any number of threads.
//!
//! `tests/traces` has small ones (`record.py` there made them); the folder that `MEST_TRACES` names may hold more: one folder a model, with
//! `model.onnx` and `trace.safetensors` in it.

use mest::compiler::engine::interp::Training;
use mest::compiler::engine::jit::Jit;
use mest::compiler::engine::replay::NetworkReplay;
use mest::compiler::trace::{Trace, Verification, verify};
use mest::compiler::{onnx, pipeline, settings};
use mest::runtime::lanes::Isa;
use std::path::{Path, PathBuf};

/// What rounding the record to f32 may cost the f64 interpreter.
const INTERP_TOLERANCE: f64 = 1e-5;

/// What f32 arithmetic may cost.
const JIT_TOLERANCE: f64 = 1e-3;

fn folders() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let more = std::env::var_os("MEST_TRACES").map(PathBuf::from);
    if more.is_none() {
        eprintln!("only the small traces: MEST_TRACES names no folder of others");
    }
    let mut folders: Vec<PathBuf> = std::iter::once(own)
        .chain(more)
        .flat_map(|root| std::fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display())))
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.join("trace.safetensors").exists())
        .collect();
    folders.sort();
    folders
}

struct Recorded {
    name: String,
    trace: Trace,
    imported: onnx::Imported,
}

/// Every trace whose model is supported; the small ones all are.
fn recorded() -> Vec<Recorded> {
    let mut all = Vec::new();
    for folder in folders() {
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let trace = Trace::read(&folder.join("trace.safetensors")).unwrap_or_else(|error| panic!("{name}: {error}"));
        match onnx::import(&folder.join("model.onnx")) {
            Ok(imported) => all.push(Recorded { name, trace, imported }),
            Err(report) => {
                assert!(!name.ends_with("_small") && report.only_unsupported(), "{name}: {report}");
                eprintln!("{name} is skipped: {report}");
            }
        }
    }
    assert!(all.len() >= 5, "the repository has five traces");
    all
}

fn assert_close(what: &str, verification: &Verification, tolerance: f64) {
    let off: Vec<String> = verification
        .tensors
        .iter()
        .filter(|tensor| tensor.relative_error.is_nan() || tensor.relative_error > tolerance)
        .map(|tensor| format!("{} is off by {:.2e}", tensor.name, tensor.relative_error))
        .collect();
    assert!(off.is_empty(), "{what}: {}", off.join(", "));
}

#[test]
fn the_interpreter_trains_as_pytorch_did() {
    for Recorded { name, trace, imported } in recorded() {
        let (training, _) = pipeline::graphs(&imported.graph, settings::of_trace(&trace, 1).loss).expect("the model is trainable");
        let mut oracle = Training::new(training, trace.optimizer).expect("the graph is complete");
        assert_close(&name, &verify(&trace, &mut oracle).expect("the trace is one of this model"), INTERP_TOLERANCE);
    }
}

fn jit(recorded: &Recorded, isa: Isa, threads: usize) -> Verification {
    let compiled = pipeline::compile(&recorded.imported, &settings::of_trace(&recorded.trace, threads)).expect("the model compiles");
    let mut net = Jit::new(compiled.program, isa, threads).expect("the program compiles");
    verify(&recorded.trace, &mut NetworkReplay::new(&mut net, recorded.trace.optimizer)).expect("the trace is one of this model")
}

#[test]
fn the_jit_trains_as_pytorch_did_with_the_same_bits_on_any_number_of_threads() {
    for recorded in recorded() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let what = format!("{} on {isa}", recorded.name);
            let one = jit(&recorded, isa, 1);
            assert_close(&what, &one, JIT_TOLERANCE);
            let hashes = |verification: &Verification| verification.tensors.iter().map(|t| (t.name.clone(), t.hash)).collect::<Vec<_>>();
            for threads in 2..=4 {
                assert_eq!(hashes(&one), hashes(&jit(&recorded, isa, threads)), "{what} on {threads} threads");
            }
        }
    }
}
