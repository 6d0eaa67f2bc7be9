//! `mestc inspect`: what a model is made of, and what of it can be trained sparse.

use super::failure::Failure;
use super::output::{Align, Output, Table, count};
use crate::inspect::{InspectReport, inspect};
use crate::ir::graph::Role;
use std::path::PathBuf;

/// Shows a model's operations, shapes, parameters and FLOPs, what can be sparse, and what is unsupported.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mestc inspect model.onnx")]
pub(crate) struct Args {
    /// An ONNX file.
    model: PathBuf,
    /// Machine-readable.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let report = inspect(&args.model).map_err(Failure::refused)?;
    if args.json { output.json(&report) } else { print(&report, output) }
}

fn print(report: &InspectReport, output: &mut Output) -> Result<(), Failure> {
    output.heading(&report.name)?;
    let mut facts = Table::new(&[("", Align::Left), ("", Align::Left)]);
    for (what, value) in [("input", &report.input), ("output", &report.output)] {
        if let Some((name, shape)) = value {
            facts.row([what.to_owned(), format!("{name} {shape}")]);
        }
    }
    facts.row(["parameters".to_owned(), count(report.parameters as u64)]);
    facts.row(["can be sparse".to_owned(), count(report.sparse_candidates as u64)]);
    facts.row(["FLOPs per example".to_owned(), count(report.flops_per_example as u64)]);
    output.table(&facts)?;
    output.text("\n")?;
    let mut ops = Table::new(&[("op", Align::Left), ("count", Align::Right)]);
    for (op, number) in &report.ops {
        ops.row([op.clone(), number.to_string()]);
    }
    output.table(&ops)?;
    print_parameters(report, output)?;
    print_unsupported(report, output)?;
    report.warnings.iter().try_for_each(|warning| output.line(format!("\nwarning: {warning}")))
}

fn print_parameters(report: &InspectReport, output: &mut Output) -> Result<(), Failure> {
    if report.table.is_empty() {
        return Ok(());
    }
    let columns = [
        ("parameter", Align::Left),
        ("shape", Align::Left),
        ("elements", Align::Right),
        ("layer", Align::Left),
        ("", Align::Left),
        ("FLOPs", Align::Right),
    ];
    let mut table = Table::new(&columns);
    for row in &report.table {
        let shape = row.dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let note = match (row.can_be_sparse, row.role) {
            (true, _) => "can be sparse",
            (false, Role::State) => "running statistic",
            (false, Role::Trainable | Role::Frozen) => "",
        };
        let flops = if row.flops > 0.0 { count(row.flops as u64) } else { String::new() };
        table.row([row.name.clone(), shape, count(row.elements as u64), row.layer.unwrap_or_default().to_owned(), note.to_owned(), flops]);
    }
    output.text("\n")?;
    output.table(&table)
}

fn print_unsupported(report: &InspectReport, output: &mut Output) -> Result<(), Failure> {
    if report.unsupported.is_empty() {
        return output.line("\nEvery node can be trained.");
    }
    let mut table = Table::new(&[("unsupported", Align::Left), ("node", Align::Left), ("why", Align::Left)]);
    for node in &report.unsupported {
        table.row([node.op.clone(), node.node.clone(), node.why.clone()]);
    }
    output.text("\n")?;
    output.table(&table)
}
