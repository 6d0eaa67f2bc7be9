//! `mestc train`: from a model and data to a trained model, in a folder of its own.

mod progress;
mod record;
mod result;
pub(crate) mod run_dir;

use super::engine;
use super::failure::Failure;
use super::flags::RecipeFlags;
use super::model::BUILT_IN;
use super::output::Output;
use super::{model, plan, report as page, settle};
use crate::onnx::Imported;
use crate::zoo::ZooOptions;
use mest_runtime::data::Dataset;
use mest_runtime::network::Network;
use mest_runtime::recipe::{List, Recipe};
use mest_runtime::sparse::state;
use mest_runtime::train::{self, FitReport, TrainError};
use progress::Progress;
use record::{Both, Record};
use run_dir::{Existing, RunFile};
use std::path::{Path, PathBuf};

/// The data where neither model nor data are named.
const BUILT_IN_DATA: &str = "digits";
/// Epochs of the job that names neither.
const BUILT_IN_EPOCHS: usize = 30;

/// How far densities may be apart and still be one.
const SAME_DENSITY: f64 = 1e-9;

/// Trains a model; with neither MODEL nor --data, a small ResNet on the embedded digits.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mestc train\n  mestc train model.onnx --data cifar10:cifar-10-binary.tar.gz --sparsity 0.9 -o runs/first"
)]
pub(crate) struct Args {
    /// An ONNX file, or a built-in architecture (`mestc zoo`) in the data's shape [default: resnet8].
    model: Option<PathBuf>,
    /// The run's folder [default: runs/MODEL-NUMBER].
    #[arg(short, long, value_name = "RUN_DIR")]
    output: Option<PathBuf>,
    /// Go on with the run that is there.
    #[arg(long, conflicts_with = "force")]
    resume: bool,
    /// Begin anew in place of the run that is there.
    #[arg(long)]
    force: bool,
    /// Says why each layer is sparse or dense, and what it is computed by.
    #[arg(long)]
    explain: bool,
    /// The result as JSON, in place of tables.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    recipe: RecipeFlags,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let mut job = Job::new(args)?;
    let (imported, data) = load(&job.run)?;
    let (recipe, measured) = settle::settle(&imported, &settled(&job.run.recipe, &data), None)?;
    job.run.recipe = recipe;
    let compiled = model::compile(&imported, &job.run.recipe, Some(&data))?;
    drop(imported);
    let mut net = engine::network(compiled.program.clone(), &job.run.recipe)?;
    let named = |error: TrainError| Failure::refused(error.with_data(job.run.recipe.data.as_deref()));
    train::check(net.manifest(), &data, &job.run.recipe).map_err(named)?;
    // Nothing is written before everything is understood.
    run_dir::prepare(&job.folder, job.existing)?;
    job.run.write(&job.folder)?;
    if !args.json {
        plan::print(&compiled, output)?;
        if args.explain {
            measured.print(output)?;
            plan::print_explanation(&compiled, output)?;
        }
        output.line(format!("\nrun {}", job.folder.display()))?;
    }
    train::initialize(&mut *net, &job.run.recipe).map_err(Failure::refused)?;
    let report = fit(&mut *net, &data, &job)?;
    let path = job.folder.join("model.onnx");
    train::write_atomically(&path, &state::export(net.manifest(), net.arena())).map_err(Failure::failed)?;
    if args.json { output.json(&report) } else { result::print(&*net, &report, &path, output) }?;
    // Two networks at once would take the memory of two.
    drop(net);
    let shown = job.folder.join(page::FILE);
    page::write(&job.folder, &shown, &job.run, &compiled)?;
    if args.json { Ok(()) } else { output.line(format!("report                    {}", shown.display())) }
}

fn fit(net: &mut dyn Network, data: &Dataset, job: &Job) -> Result<FitReport, Failure> {
    let mut watch = Both(Progress::new(), Record::new(&job.folder));
    let report = train::fit(net, data, &job.run.recipe, Some(&job.folder), job.existing == Existing::Resume, &mut watch);
    let Both(progress, record) = watch;
    progress.finish();
    if let Some(problem) = record.problem() {
        model::warn(problem);
    }
    report.map_err(|error: TrainError| if error.is_refusal() { Failure::refused(error) } else { Failure::failed(error) })
}

/// What is to be trained, and where.
#[derive(Debug)]
struct Job {
    folder: PathBuf,
    existing: Existing,
    run: RunFile,
}

impl Job {
    fn new(args: &Args) -> Result<Self, Failure> {
        let existing = match (args.resume, args.force) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Replace,
            _ => Existing::Refuse,
        };
        let model = args.model.clone().or(args.recipe.model()?);
        let name = model.as_deref().map_or_else(|| BUILT_IN.to_owned(), model::name);
        let folder = run_dir::choose(args.output.as_deref(), &name, existing)?;
        let earlier = if existing == Existing::Resume { RunFile::read(&folder)? } else { None };
        let run = match earlier {
            Some(earlier) => resumed(args, earlier, &folder)?,
            None => fresh(args, model)?,
        };
        Ok(Job { folder, existing, run })
    }
}

/// Model and data of a run, each in the other's shape where it has none of its own; the share that is validated on is held out.
pub(crate) fn load(run: &RunFile) -> Result<(Imported, Dataset), Failure> {
    let given = given_model(run)?;
    let data = load_data(run, given.as_ref())?;
    Ok((model_for(run, given, &data)?, data))
}

/// The model of a run that names a file.
pub(super) fn given_model(run: &RunFile) -> Result<Option<Imported>, Failure> {
    let file = run.model.as_deref().filter(|path| model::architecture(Some(path)).is_none());
    file.map(|path| model::import_for(path, &run.recipe)).transpose()
}

/// The data of a run; the share that is validated on is held out.
pub(super) fn load_data(run: &RunFile, given: Option<&Imported>) -> Result<Dataset, Failure> {
    let recipe = &run.recipe;
    let mut data = model::data(recipe.data.as_deref().unwrap_or(BUILT_IN_DATA), given)?;
    if let Some(share) = recipe.validation {
        data.hold_out(share, recipe.seed);
    }
    Ok(data)
}

/// The given model, or the built-in one that the run names in the shape of its data.
pub(super) fn model_for(run: &RunFile, given: Option<Imported>, data: &Dataset) -> Result<Imported, Failure> {
    given.map_or_else(
        || {
            let options = ZooOptions { input: Some(data.dims), classes: Some(data.classes), seed: run.recipe.seed, ..Default::default() };
            model::built_in(model::architecture(run.model.as_deref()).unwrap_or(BUILT_IN), &options)
        },
        Ok,
    )
}

/// What recipes lie over: the defaults, and the built-in job where neither model nor data are named.
pub(super) fn base(names_model: bool, names_data: bool) -> Recipe {
    let built_in = Recipe { data: Some(BUILT_IN_DATA.to_owned()), epochs: BUILT_IN_EPOCHS, ..Recipe::default() };
    if names_model || names_data { Recipe::default() } else { built_in }
}

/// A run from its beginning.
fn fresh(args: &Args, model: Option<PathBuf>) -> Result<RunFile, Failure> {
    let recipe = args.recipe.recipe(&base(model.is_some(), args.recipe.given()?.contains_key("data")))?;
    if recipe.data.is_none() {
        return Err(Failure::refused("a MODEL needs data to train on: name it with --data SPEC, such as --data cifar10:FILE_OR_DIR"));
    }
    Ok(RunFile { recipe, model })
}

/// The recipe with the defaults that follow from data and policy written out, so that `run.toml` says them.
pub(super) fn settled(recipe: &Recipe, data: &Dataset) -> Recipe {
    let mut settled = recipe.clone();
    settled.lr = Some(recipe.learning_rate());
    settled.normalize = Some(recipe.normalization(data).clone());
    settled.augment = Some(List(recipe.augmentations(data).to_vec()));
    if recipe.sparsity.is_none() && recipe.density.is_none() && recipe.policy.0.name() != "dense" {
        settled.density = Some(recipe.density());
    }
    settled
}

/// A run that goes on: nothing that its results depend on may change.
fn resumed(args: &Args, earlier: RunFile, folder: &Path) -> Result<RunFile, Failure> {
    let path = folder.join("run.toml");
    let mut recipe = settle::as_measured(&args.recipe.recipe(&earlier.recipe)?, &earlier.recipe);
    if (recipe.density() - earlier.recipe.density()).abs() < SAME_DENSITY {
        // The same, said as a sparsity or as a density.
        (recipe.density, recipe.sparsity) = (earlier.recipe.density, earlier.recipe.sparsity);
    }
    let mut differences: Vec<String> = earlier
        .recipe
        .differences(&recipe)
        .into_iter()
        .map(|difference| format!("{} = {} contradicts {}", difference.key, difference.theirs, difference.ours))
        .collect();
    if let Some(model) = args.model.as_ref().filter(|model| Some(*model) != earlier.model.as_ref()) {
        let before = earlier.model.as_ref().map_or_else(|| format!("the built-in {BUILT_IN}"), |path| path.display().to_string());
        differences.push(format!("MODEL {} contradicts {before}", model.display()));
    }
    if differences.is_empty() {
        return Ok(RunFile { recipe, model: earlier.model });
    }
    differences.push("leave them out to go on, or begin anew with --force or another -o".to_owned());
    Err(Failure::refused_all(format!("{}: the run can't be resumed with other settings:", path.display()), &differences))
}
