//! `mestc zoo`: built-in architectures, listed or written.

use super::failure::Failure;
use super::output::{Align, Output, Table};
use crate::zoo::{self, ZooOptions};
use serde_json::json;
use std::path::PathBuf;

/// Lists the built-in architectures, or writes one as an ONNX file with He-initialised weights.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mestc zoo\n  mestc zoo resnet32 --width 2 --input 3x32x32 --classes 100 -o resnet32.onnx")]
pub(crate) struct Args {
    /// The architecture; without it, all are listed.
    #[arg(requires = "output")]
    name: Option<String>,
    /// The file to write.
    #[arg(short, long, value_name = "FILE.onnx", requires = "name")]
    output: Option<PathBuf>,
    /// Channels, rows and columns of an example [default: the architecture's own].
    #[arg(long, value_name = "CxHxW", value_parser = extents)]
    input: Option<[usize; 3]>,
    /// Number of classes [default: the architecture's own].
    #[arg(long, value_name = "N")]
    classes: Option<usize>,
    /// Multiplies the channels of every stage, or the hidden units.
    #[arg(long, value_name = "N", default_value_t = 1)]
    width: usize,
    /// What the weights are drawn from.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The list, machine-readable.
    #[arg(long, conflicts_with = "name")]
    json: bool,
}

fn extents(text: &str) -> Result<[usize; 3], String> {
    let extents: Vec<usize> = text.split('x').filter_map(|extent| extent.parse().ok()).collect();
    let whole = text.split('x').count() == 3;
    extents.try_into().ok().filter(|_| whole).ok_or_else(|| "write CxHxW, such as 3x32x32".to_owned())
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let (Some(name), Some(path)) = (&args.name, &args.output) else { return list(args.json, output) };
    let options = ZooOptions { input: args.input, classes: args.classes, width: args.width, seed: args.seed };
    let model = zoo::build(name, &options).map_err(Failure::refused)?;
    std::fs::write(path, &model).map_err(|error| Failure::unwritable(path, &error))?;
    output.line(format!("{}: {} bytes", path.display(), model.len()))
}

fn list(as_json: bool, output: &mut Output) -> Result<(), Failure> {
    if as_json {
        let rows: Vec<_> = zoo::NAMES.iter().map(|(name, what)| json!({ "name": name, "what": what })).collect();
        return output.json(&rows);
    }
    let mut table = Table::new(&[("name", Align::Left), ("architecture", Align::Left)]);
    for (name, what) in zoo::NAMES {
        table.row([name.to_owned(), what.to_owned()]);
    }
    output.table(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_three_numbers() {
        assert_eq!(extents("3x32x16"), Ok([3, 32, 16]));
        for wrong in ["", "3x32", "3x32x", "3x-1x2", "1x2x3x4", "1xax2x3"] {
            assert!(extents(wrong).unwrap_err().contains("3x32x32"), "{wrong}");
        }
    }
}
