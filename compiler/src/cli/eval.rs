//! `mestc eval`: loss and accuracy of a model on a test split.

use super::engine;
use super::failure::Failure;
use super::flags::RecipeFlags;
use super::model;
use super::output::{Align, Output, Table};
use super::train::run_dir::RunFile;
use crate::onnx::Imported;
use crate::settings::NORMALIZE_KEY;
use mest_runtime::recipe::Recipe;
use mest_runtime::sparse::state::{self, InitialMasks};
use mest_runtime::train::{Evaluation, evaluate};
use npyz::WriterBuilder;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Measures loss and accuracy of a model on the test split of a data set.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mestc eval runs/resnet8-1 --data digits --predictions predictions.npz")]
pub(crate) struct Args {
    /// An ONNX file, or the folder of a run.
    model: PathBuf,
    /// Where to write `logits` [N, classes] and `labels`, in test order.
    #[arg(long, value_name = "FILE.npz")]
    predictions: Option<PathBuf>,
    #[command(flatten)]
    recipe: RecipeFlags,
    /// Machine-readable.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let (path, mut recipe) = subject(args)?;
    let Some(spec) = recipe.data.clone() else {
        return Err(Failure::refused("no data to evaluate on: name it with --data SPEC, such as --data digits"));
    };
    let imported = model::import(&path)?;
    if recipe.normalize.is_none() {
        recipe.normalize = normalization(&imported, &path)?;
    }
    let data = model::data(&spec, Some(&imported))?;
    // A trained model's zeros are values like others: everything is computed densely.
    let recipe = recipe.with([("policy", "dense")]).map_err(|errors| Failure::refused_all("the recipe can't be used:", &errors))?;
    let compiled = model::compile(&imported, &recipe, Some(&data))?;
    let mut net = engine::network(compiled.program, &recipe)?;
    let manifest = net.manifest().clone();
    state::initialize(&manifest, net.arena_mut(), &InitialMasks::Magnitude, recipe.seed).map_err(Failure::refused)?;
    let evaluation = evaluate(&mut *net, &data, &data.test, &recipe).map_err(Failure::refused)?;
    if let Some(file) = &args.predictions {
        write_predictions(file, &evaluation, &data.test.labels).map_err(|error| Failure::unwritable(file, &error))?;
    }
    report(&evaluation, data.test.len(), args.json, output)
}

/// The model's file, and the recipe to evaluate with: a run's own where a run is named.
fn subject(args: &Args) -> Result<(PathBuf, Recipe), Failure> {
    if !args.model.is_dir() {
        return Ok((args.model.clone(), args.recipe.recipe(&Recipe::default())?));
    }
    let base = RunFile::read(&args.model)?.map(|run| run.recipe).unwrap_or_default();
    // What a run was trained with says how its model is fed; how it was made sparse is of no concern here.
    let base = Recipe { data: base.data, normalize: base.normalize, batch: base.batch, loss: base.loss, ..Recipe::default() };
    Ok((args.model.join("model.onnx"), args.recipe.recipe(&base)?))
}

/// The normalisation in a model's metadata.
fn normalization(imported: &Imported, path: &Path) -> Result<Option<mest_runtime::data::Normalization>, Failure> {
    let Some(text) = imported.source.metadata(NORMALIZE_KEY) else { return Ok(None) };
    let parsed = serde_json::from_str::<MeanAndStd>(text).map_err(|error| error.to_string()).and_then(|values| {
        let list = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        format!("{}:{}", list(&values.mean), list(&values.std)).parse().map_err(|error| format!("{error}"))
    });
    parsed.map(Some).map_err(|why| {
        Failure::refused(format!("{}: metadata {NORMALIZE_KEY} = {text}: {why}; override it with --normalize MEAN:STD", path.display()))
    })
}

#[derive(serde::Deserialize)]
struct MeanAndStd {
    mean: Vec<f64>,
    std: Vec<f64>,
}

/// An npz archive of `logits` (`[examples, classes]`, f32) and `labels` (`[examples]`, i64).
fn write_predictions(path: &Path, evaluation: &Evaluation, labels: &[u32]) -> std::io::Result<()> {
    let classes = evaluation.logits.len() / labels.len().max(1);
    let mut archive = zip::ZipWriter::new(BufWriter::new(File::create(path)?));
    let shape = [labels.len() as u64, classes as u64];
    write_array(&mut archive, "logits", &shape, evaluation.logits.iter().copied())?;
    write_array(&mut archive, "labels", &shape[..1], labels.iter().map(|&label| i64::from(label)))?;
    archive.finish()?.flush()
}

fn write_array<T: npyz::AutoSerialize>(
    archive: &mut zip::ZipWriter<BufWriter<File>>,
    name: &str,
    shape: &[u64],
    values: impl Iterator<Item = T>,
) -> std::io::Result<()> {
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored).large_file(true);
    archive.start_file(format!("{name}.npy"), stored)?;
    let mut array = npyz::WriteOptions::new().default_dtype().shape(shape).writer(archive).begin_nd()?;
    array.extend(values)?;
    array.finish()
}

fn report(evaluation: &Evaluation, examples: usize, json: bool, output: &mut Output) -> Result<(), Failure> {
    if json {
        let (loss, accuracy) = (evaluation.loss, evaluation.accuracy);
        return output.json(&serde_json::json!({ "loss": loss, "accuracy": accuracy, "examples": examples }));
    }
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right)]);
    table.row(["examples".to_owned(), examples.to_string()]);
    table.row(["loss".to_owned(), format!("{:.4}", evaluation.loss)]);
    table.row(["accuracy".to_owned(), format!("{:.4}", evaluation.accuracy)]);
    output.table(&table)
}
