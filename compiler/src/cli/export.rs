//! `mestc export`: the trained model out of a run's folder.

use super::failure::Failure;
use super::output::Output;
use crate::onnx;
use std::path::PathBuf;

/// Writes a run's trained model: dense with zeros, or with sparse initialisers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mestc export runs/resnet8-1 -o resnet8.onnx --sparse")]
pub(crate) struct Args {
    /// A run's folder.
    run_dir: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE.onnx")]
    output: PathBuf,
    /// Weights as ONNX sparse_initializer, where that is smaller.
    #[arg(long)]
    sparse: bool,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let path = args.run_dir.join("model.onnx");
    let model = std::fs::read(&path)
        .map_err(|error| Failure::refused(format!("{}: {error}; the folder of a finished `mestc train` is needed", path.display())))?;
    // A damaged file is told from here, not by whoever reads the copy.
    onnx::import(&path).map_err(Failure::refused)?;
    let model = if args.sparse { onnx::sparse_initializers(&model).map_err(Failure::refused)? } else { model };
    std::fs::write(&args.output, &model).map_err(|error| Failure::unwritable(&args.output, &error))?;
    output.line(format!("{}: {} bytes", args.output.display(), model.len()))
}
