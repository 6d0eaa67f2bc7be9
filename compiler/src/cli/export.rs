//! `mestc export`: the trained model out of a run's folder.

use super::failure::Failure;
use super::output::Output;
use crate::onnx;
use std::path::PathBuf;

/// Writes a run's trained model: as ONNX, dense with zeros or with sparse initialisers, or as safetensors.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mestc export runs/resnet8-1 -o resnet8.onnx --sparse\n  mestc export runs/resnet8-1 -o resnet8.safetensors"
)]
pub(crate) struct Args {
    /// A run's folder.
    run_dir: PathBuf,
    /// The file to write; one that ends in .safetensors holds weights and masks.
    #[arg(short, long, value_name = "FILE")]
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
    let safetensors = args.output.extension().is_some_and(|ending| ending == "safetensors");
    if safetensors && args.sparse {
        return Err(Failure::refused(
            "--sparse is a form of ONNX files: leave it out for .safetensors, which has the masks beside the weights",
        ));
    }
    let model = match (safetensors, args.sparse) {
        (true, _) => onnx::safetensors(&model).map_err(Failure::refused)?,
        (false, true) => onnx::sparse_initializers(&model).map_err(Failure::refused)?,
        (false, false) => model,
    };
    std::fs::write(&args.output, &model).map_err(|error| Failure::unwritable(&args.output, &error))?;
    output.line(format!("{}: {} bytes", args.output.display(), model.len()))
}
