//! `mestc report`: a run as a page.

use super::failure::Failure;
use super::output::Output;
use super::train::run_dir::RunFile;
use super::{engine, model};
use crate::bench::measure::Subject;
use crate::engine::jit::Jit;
use crate::pipeline::Compiled;
use crate::report::history::{self, Change};
use crate::report::{KernelShare, Metrics, Report};
use crate::settings;
use mest_runtime::recipe::{EngineName, Recipe};
use mest_runtime::train::{METRICS_JSON, write_atomically};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The page's name in a run's folder.
pub(crate) const FILE: &str = "report.html";
/// Training steps that kernels are timed over.
const STEPS: usize = 5;

/// Writes the page that shows a run: curves, masks, memory, time.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mestc report runs/resnet8-1")]
pub(crate) struct Args {
    /// A run's folder.
    run_dir: PathBuf,
    /// Where to write the page [default: report.html in the run's folder].
    #[arg(short, long, value_name = "FILE.html")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let folder = &args.run_dir;
    let Some(run) = RunFile::read(folder)? else {
        let path = folder.join("run.toml");
        return Err(Failure::refused(format!("{}: no such file; the folder of a `mestc train` is needed", path.display())));
    };
    let (imported, data) = super::train::load(&run)?;
    let compiled = model::compile(&imported, &run.recipe, Some(&data))?;
    let path = args.output.clone().unwrap_or_else(|| folder.join(FILE));
    write(folder, &path, &run, &compiled)?;
    output.line(path.display())
}

/// Writes the page of the run in `folder` to `path`.
///
/// # Errors
/// A run without metrics, or a page that can't be written.
pub(crate) fn write(folder: &Path, path: &Path, run: &RunFile, compiled: &Compiled) -> Result<(), Failure> {
    let metrics: Metrics = {
        let path = folder.join(METRICS_JSON);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Failure::refused(format!("{}: {error}; train for an epoch at least", path.display())))?;
        serde_json::from_str(&text).map_err(|error| damaged(&path, &error))?
    };
    let report = Report {
        title: folder.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned()),
        metrics: &metrics,
        changes: &changes(folder)?,
        sparsity: &compiled.sparsity,
        program: &compiled.program,
        kernels: &kernels(compiled, &run.recipe)?,
        recipe: &run.to_toml()?,
    };
    write_atomically(path, report.html().as_bytes()).map_err(Failure::failed)
}

fn damaged(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::refused(format!("{}: {why}; the file is damaged: remove it, or train again", path.display()))
}

/// What mutation did; nothing where masks never changed.
fn changes(folder: &Path) -> Result<Vec<Change>, Failure> {
    let path = folder.join(history::FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => history::read(&text).map_err(|why| damaged(&path, &why)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(damaged(&path, &error)),
    }
}

/// Time by kernel of a training step on random examples; none where another engine than the JIT ran.
fn kernels(compiled: &Compiled, recipe: &Recipe) -> Result<Vec<KernelShare>, Failure> {
    if recipe.engine != EngineName::Jit {
        return Ok(Vec::new());
    }
    let mut jit = Jit::new(compiled.program.clone(), engine::isa(recipe.isa)?, settings::threads(recipe)).map_err(Failure::refused)?;
    let subject = Subject::new(recipe, STEPS);
    subject.prepare(&mut jit).map_err(Failure::refused)?;
    let mut shares: BTreeMap<String, KernelShare> = BTreeMap::new();
    for time in subject.kernels(&mut jit) {
        let share = shares.entry(time.kernel.clone()).or_insert(KernelShare { kernel: time.kernel, launches: 0, ms: 0.0 });
        share.launches += 1;
        share.ms += time.ms;
    }
    Ok(shares.into_values().collect())
}
