//! `mestc plan`: memory, before anything runs.

use super::failure::Failure;
use super::flags::RecipeFlags;
use super::output::{Align, Output, Table, bytes, count};
use super::{model, settle};
use crate::accounting;
use crate::budget::planned_bytes;
use crate::explain::explain;
use crate::pipeline::Compiled;
use crate::program::{Program, memory};
use crate::report::live_ranges;
use mest_runtime::network::Phase;
use mest_runtime::recipe::Recipe;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Shows what every layer keeps, the memory of a training run by class, and its peak by phase.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mestc plan model.onnx --sparsity 0.9 --batch 32")]
pub(crate) struct Args {
    /// An ONNX file.
    model: PathBuf,
    /// Draws what lies where in the arena over a training step.
    #[arg(long, value_name = "FILE.svg")]
    picture: Option<PathBuf>,
    /// Says why each layer is sparse or dense, and what it is computed by.
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    recipe: RecipeFlags,
    /// Machine-readable.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let recipe = args.recipe.recipe(&Default::default())?;
    let imported = model::import_for(&args.model, &recipe)?;
    let (recipe, measured) = settle::settle(&imported, &recipe, None)?;
    let compiled = model::compile(&imported, &recipe, None)?;
    if let Some(path) = &args.picture {
        std::fs::write(path, live_ranges::file(&compiled.program)).map_err(|error| Failure::unwritable(path, &error))?;
    }
    if args.json {
        return output.json(&to_json(&compiled, &recipe));
    }
    print(&compiled, output)?;
    if !args.explain {
        return Ok(());
    }
    measured.print(output)?;
    print_explanation(&compiled, output)
}

/// Why the compiler did what it did.
pub(crate) fn print_explanation(compiled: &Compiled, output: &mut Output) -> Result<(), Failure> {
    output.text("\n")?;
    output.heading("Choices")?;
    output.text(&explain(compiled))
}

/// The peak of a phase.
struct PhasePeak<'a> {
    phase: &'static str,
    /// Bytes of the arena that it uses, and of all workers' scratch.
    bytes: usize,
    /// The kernel that runs when most is live, and the node that it is of.
    kernel: &'a str,
    node: &'a str,
}

fn peaks(program: &Program) -> Vec<PhasePeak<'_>> {
    let scratch = program.manifest.scratch_bytes * program.manifest.threads;
    let mut peaks = Vec::new();
    for schedule in &program.schedules {
        let phase = match schedule.phase {
            Phase::Train => "train",
            Phase::Evaluate => "evaluate",
        };
        let launch = schedule.launches.get(memory::at_peak(&program.slots, schedule).launch);
        peaks.push(PhasePeak {
            phase,
            bytes: memory::peak(&program.slots, schedule) + scratch,
            kernel: launch.map_or("", |launch| &program.kernels[launch.kernel].name),
            node: launch.map_or("", |launch| &launch.label),
        });
    }
    peaks
}

fn to_json(compiled: &Compiled, recipe: &Recipe) -> Value {
    let program = &compiled.program;
    let manifest = &program.manifest;
    let layers = compiled.sparsity.layers.iter().map(|layer| {
        json!({
            "name": layer.name,
            "scheme": layer.scheme_name(),
            "weights": layer.units.weights(),
            "nnz": layer.nnz(),
            "density": layer.nnz() as f64 / layer.units.weights() as f64,
            "reason": layer.reason,
        })
    });
    let by_class: Map<String, Value> = manifest.plan.iter().map(|line| (line.class.to_string(), json!(line.bytes))).collect();
    let phase = |peak: PhasePeak<'_>| json!({ "name": peak.phase, "peak_bytes": peak.bytes, "kernel": peak.kernel, "node": peak.node });
    let phases = peaks(program).into_iter().map(phase);
    let recomputation = &compiled.recomputation;
    json!({
        "arena_bytes": manifest.arena_bytes,
        "scratch_bytes": manifest.scratch_bytes * manifest.threads,
        "total_bytes": planned_bytes(program),
        "by_class": by_class,
        "phases": phases.collect::<Vec<_>>(),
        "recomputed": { "stretches": recomputation.stretches, "share_of_forward": recomputation.share },
        "narrow": { "values": recomputation.narrow, "share_of_forward": recomputation.narrow_share },
        "micro_batches": recomputation.micro_batches,
        "moments": { "bf16": recomputation.moment_share.is_some(), "share_of_forward": recomputation.moment_share.unwrap_or(0.0) },
        "published_bytes": accounting::of(compiled, &recipe.mutation(), recipe.epochs, recipe.epochs).published_peak,
        "budget_bytes": recipe.memory.and_then(|memory| memory.total).map(|total| total.0),
        "layers": layers.collect::<Vec<_>>(),
        "batch": manifest.batch,
        "threads": manifest.threads,
    })
}

/// What every layer keeps, at its budget, and of the sparse ones together.
fn print_layers(compiled: &Compiled, output: &mut Output) -> Result<(), Failure> {
    let numbers = [("weights", Align::Right), ("nnz", Align::Right), ("density", Align::Right)];
    let mut table = Table::new(&[&[("layer", Align::Left), ("scheme", Align::Left)], &numbers[..], &[("", Align::Left)]].concat());
    let mut row = |name: &str, scheme: String, weights: usize, nnz: usize, reason: &str| {
        let density = format!("{:.4}", nnz as f64 / weights.max(1) as f64);
        table.row([name.to_owned(), scheme, count(weights as u64), count(nnz as u64), density, reason.to_owned()]);
    };
    let (mut weights, mut nnz) = (0, 0);
    for layer in &compiled.sparsity.layers {
        row(&layer.name, layer.scheme_name(), layer.units.weights(), layer.nnz(), &layer.reason);
        if layer.density.is_some() {
            weights += layer.units.weights();
            nnz += layer.nnz();
        }
    }
    row("sparse layers", String::new(), weights, nnz, "");
    output.heading("Layers")?;
    output.table(&table)?;
    output.text("\n")
}

/// Prints the plan as tables.
pub(crate) fn print(compiled: &Compiled, output: &mut Output) -> Result<(), Failure> {
    print_layers(compiled, output)?;
    let program = &compiled.program;
    let manifest = &program.manifest;
    output.heading(format!("Memory of {}, batch {}, threads {}", manifest.name, manifest.batch, manifest.threads))?;
    let mut table = Table::new(&[("class", Align::Left), ("bytes", Align::Right), ("", Align::Right)]);
    for line in manifest.plan.iter() {
        table.row([line.class.to_string(), line.bytes.to_string(), bytes(line.bytes)]);
    }
    table.row(["total".to_owned(), planned_bytes(program).to_string(), bytes(planned_bytes(program))]);
    output.table(&table)?;
    let numbers = [("peak bytes", Align::Right), ("", Align::Right)];
    let mut table = Table::new(&[&[("phase", Align::Left)], &numbers[..], &[("at", Align::Left)]].concat());
    for peak in peaks(program) {
        table.row([peak.phase.to_owned(), peak.bytes.to_string(), bytes(peak.bytes), format!("{} of {}", peak.kernel, peak.node)]);
    }
    output.text("\n")?;
    output.table(&table)?;
    print_recomputation(compiled, output)
}

/// What backward computes again, and what that costs.
fn print_recomputation(compiled: &Compiled, output: &mut Output) -> Result<(), Failure> {
    let recomputation = &compiled.recomputation;
    if let Some(share) = recomputation.moment_share {
        let percent = share * 100.0;
        output.text(&format!(
            "\nThe optimiser's state is stored as bf16, rounded stochastically, at about {percent:.0} % of the forward pass.\n"
        ))?;
    }
    if recomputation.micro_batches > 1 {
        let (parts, percent) = (recomputation.micro_batches, recomputation.micro_batch_share() * 100.0);
        output.text(&format!(
            "\nA batch is computed in {parts} parts, their gradients summed, at about {percent:.0} % of the forward pass.\n"
        ))?;
    }
    if !recomputation.narrow.is_empty() {
        let (count, percent) = (recomputation.narrow.len(), recomputation.narrow_share * 100.0);
        output.text(&format!(
            "\nKept as bf16 for the backward pass, at about {percent:.0} % of the forward pass: what {count} parts of it end with\n"
        ))?;
        output.text(&format!("  {}\n", recomputation.narrow.join(", ")))?;
    }
    if recomputation.stretches.is_empty() {
        return Ok(());
    }
    let percent = recomputation.share * 100.0;
    output.text(&format!("\nComputed again in the backward pass, at about {percent:.0} % of the forward pass:\n"))?;
    for stretch in &recomputation.stretches {
        let ends = [stretch.first(), stretch.last()].map(|name| name.map_or("", String::as_str));
        output.text(&format!("  {} nodes, {} to {}\n", stretch.len(), ends[0], ends[1]))?;
    }
    Ok(())
}
