//! `mestc verify`: replays a recorded training trace and compares every tensor.

use super::engine;
use super::failure::Failure;
use super::model;
use super::output::{Align, Output, Style, Table, paint};
use crate::engine::interp::Training;
use crate::engine::replay::NetworkReplay;
use crate::onnx::Imported;
use crate::pipeline;
use crate::settings;
use crate::trace::{Trace, Verification, verify};
use mest_runtime::recipe::{EngineName, IsaName, Recipe};
use serde_json::json;
use std::num::NonZero;
use std::path::PathBuf;

/// Largest relative error allowed of engines that compute in f32.
const TOLERANCE: f64 = 1e-3;
/// Largest relative error allowed of the f64 interpreter.
const INTERP_TOLERANCE: f64 = 1e-5;

/// Replays a training trace recorded elsewhere and compares gradients, parameters, outputs and losses.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mestc verify model.onnx trace.safetensors --engine interp")]
pub(crate) struct Args {
    /// An ONNX file.
    model: PathBuf,
    /// A trace of the same model, in the format mest-trace-1.
    trace: PathBuf,
    /// What runs the program: jit, interp, rust.
    #[arg(long, value_name = "NAME", default_value = "jit")]
    engine: EngineName,
    /// Vector instructions: auto, avx512, avx2, neon, portable.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    isa: IsaName,
    /// Threads; results do not depend on it [default: all that the machine has].
    #[arg(long, value_name = "N")]
    threads: Option<NonZero<usize>>,
    /// Largest relative error that passes [default: 1e-3; 1e-5 for interp].
    #[arg(long, value_name = "R", value_parser = tolerance)]
    tolerance: Option<f64>,
    /// Machine-readable.
    #[arg(long)]
    json: bool,
}

fn tolerance(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "a number is needed, such as 1e-3".to_owned())?;
    if value >= 0.0 && value.is_finite() { Ok(value) } else { Err("a number of at least 0 is needed, such as 1e-3".to_owned()) }
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let imported = model::import(&args.model)?;
    let trace = Trace::read(&args.trace).map_err(|error| {
        Failure::refused(format!("{}: {error}; TRACE is a safetensors file in the format mest-trace-1", args.trace.display()))
    })?;
    let verification = replay(args, &imported, &trace)?;
    let default = if args.engine == EngineName::Interp { INTERP_TOLERANCE } else { TOLERANCE };
    let tolerance = args.tolerance.unwrap_or(default);
    if args.json {
        output.json(&to_json(&verification, tolerance))?
    } else {
        print(&verification, tolerance, output)?
    }
    if verification.passed(tolerance) {
        return Ok(());
    }
    let worst = verification.tensors.iter().max_by(|a, b| a.relative_error.total_cmp(&b.relative_error));
    let name = worst.map_or("", |tensor| &tensor.name);
    Err(Failure::failed(format!("{name} differs by {:.3e}, more than the tolerance {tolerance:e}", verification.worst())))
}

/// Follows the trace with the engine that was asked for.
fn replay(args: &Args, imported: &Imported, trace: &Trace) -> Result<Verification, Failure> {
    // An instruction set that the machine lacks is refused whatever engine would have used it.
    engine::isa(args.isa)?;
    let refuse = |error| Failure::refused(format!("{}: {error}", args.trace.display()));
    let recipe = Recipe { engine: args.engine, isa: args.isa, threads: args.threads.map(NonZero::get), ..Recipe::default() };
    let settings = settings::of_trace(trace, settings::threads(&recipe));
    if args.engine == EngineName::Interp {
        let (training, _) = pipeline::graphs(&imported.graph, settings.loss).map_err(Failure::refused)?;
        let mut training = Training::new(training, trace.optimizer).map_err(Failure::refused)?;
        return verify(trace, &mut training).map_err(refuse);
    }
    let compiled = pipeline::compile(imported, &settings).map_err(Failure::refused)?;
    let mut net = engine::network(compiled.program, &recipe)?;
    verify(trace, &mut NetworkReplay::new(&mut *net, trace.optimizer)).map_err(refuse)
}

fn to_json(verification: &Verification, tolerance: f64) -> serde_json::Value {
    let tensors = verification.tensors.iter().map(
        |tensor| json!({ "name": tensor.name, "relative_error": number(tensor.relative_error), "hash": format!("{:016x}", tensor.hash) }),
    );
    json!({
        "passed": verification.passed(tolerance),
        "tolerance": tolerance,
        "worst": number(verification.worst()),
        "tensors": tensors.collect::<Vec<_>>(),
    })
}

/// JSON has no infinity: where a run had NaN, the largest number stands for it.
fn number(error: f64) -> f64 {
    error.min(f64::MAX)
}

fn print(verification: &Verification, tolerance: f64, output: &mut Output) -> Result<(), Failure> {
    let mut table = Table::new(&[("tensor", Align::Left), ("relative error", Align::Right), ("hash", Align::Left), ("", Align::Left)]);
    for tensor in &verification.tensors {
        let mark = if tensor.relative_error <= tolerance { "" } else { "above tolerance" };
        table.row([tensor.name.clone(), format!("{:.3e}", tensor.relative_error), format!("{:016x}", tensor.hash), mark.to_owned()]);
    }
    output.table(&table)?;
    let (style, word) = if verification.passed(tolerance) { (Style::Green, "passed") } else { (Style::Red, "failed") };
    let word = paint(output.color(), style, word);
    output.line(format!("{word}: worst {:.3e}, tolerance {tolerance:e}", verification.worst()))
}
