//! `mestc ops`: which ONNX operations can be trained.

use super::failure::Failure;
use super::output::{Align, Output, Table};
use crate::onnx::OPSETS;
use crate::onnx::table::TABLE;
use serde_json::json;

/// Lists supported ONNX operations: opsets, attributes, gradient.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mestc ops --json")]
pub(crate) struct Args {
    /// Machine-readable.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let (first, last) = OPSETS;
    if args.json {
        let ops = TABLE
            .iter()
            .map(|row| json!({ "op": row.onnx, "attributes": row.attributes, "gradient": row.gradient, "becomes": row.becomes }));
        return output.json(&json!({ "opsets": [first, last], "ops": ops.collect::<Vec<_>>() }));
    }
    output.heading(format!("ONNX operations, opsets {first} to {last}"))?;
    let mut table = Table::new(&[("op", Align::Left), ("gradient", Align::Left), ("becomes", Align::Left), ("attributes", Align::Left)]);
    for row in TABLE {
        let gradient = if row.gradient { "yes" } else { "-" };
        table.row([row.onnx.to_owned(), gradient.to_owned(), row.becomes.to_owned(), row.attributes.join(", ")]);
    }
    output.table(&table)
}
