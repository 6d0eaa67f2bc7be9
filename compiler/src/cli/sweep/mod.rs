//! `mestc sweep`: a grid of runs to the end, and the tables and plots that compare them.

pub(super) mod grid;
mod plot;
mod table;

use super::failure::Failure;
use super::output::{Output, bytes};
use super::train::{
    self,
    run_dir::{self, Existing, RunFile},
};
use super::{model, settle};
use crate::accounting::{self, Accounting};
use crate::onnx::Imported;
use grid::{Cell, Grid};
use mest_runtime::data::Dataset;
use mest_runtime::train::{check, write_atomically};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use table::{Group, Run};

/// Where sweeps go unless told otherwise.
const SWEEPS: &str = "sweeps";
const METRICS: &str = "metrics.json";

/// Trains every recipe of a grid and compares them: accuracy, time, memory; run again, it goes on where it was.
///
/// RECIPE.toml is a recipe with a table [grid] of keys, each with a list of values. Runs that differ in the seed alone are averaged. RUN_DIR gets a
/// folder a run (as `mestc train` leaves it), results.csv (a line a run), results.md (a line a combination) and plots of the accuracy after the last
/// epoch over sparsity, training time and memory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mestc sweep examples/recipes/digits.toml -o sweeps/digits")]
pub(crate) struct Args {
    /// The recipe with the grid.
    #[arg(value_name = "RECIPE.toml")]
    grid: PathBuf,
    /// The sweep's folder [default: sweeps/RECIPE].
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Data in place of the recipe's.
    #[arg(long, value_name = "SPEC")]
    data: Option<String>,
    /// Threads of each run; results do not depend on it.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Run nothing: report on what is finished.
    #[arg(long)]
    report_only: bool,
    /// The comparison as JSON, in place of a table.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let overrides = [("data", args.data.clone()), ("threads", args.threads.map(|threads| threads.to_string()))];
    let overrides: Vec<(&str, String)> = overrides.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let grid = Grid::read(&args.grid, &overrides)?;
    let folder = args.output.clone().unwrap_or_else(|| Path::new(SWEEPS).join(model::name(&args.grid)));
    let sweep = Sweep::new(grid, folder)?;
    let failed = if args.report_only { vec![] } else { sweep.train(args.json, output)? };
    let groups = sweep.report()?;
    if args.json {
        output.json(&groups.iter().map(Group::to_json).collect::<Vec<_>>())?
    } else {
        table::print(&groups, &sweep.grid.keys, output)?
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::failed(format!("{} runs failed: {}", failed.len(), failed.join(", ")))) }
}

/// A grid, ready to run.
struct Sweep {
    grid: Grid,
    folder: PathBuf,
    /// One for each cell.
    memory: Vec<Accounting>,
}

impl Sweep {
    /// Compiles every cell: nothing is trained before everything is understood.
    fn new(mut grid: Grid, folder: PathBuf) -> Result<Self, Failure> {
        let (mut data, mut memory, mut errors) = (Shared::default(), Vec::new(), Vec::new());
        for cell in &mut grid.cells {
            if cell.recipe.data.is_none() {
                return Err(Failure::refused("the recipe needs data: data = \"digits\", say, or --data SPEC"));
            }
            let mut run = RunFile { recipe: cell.recipe.clone(), model: grid.model.clone() };
            match account(&mut run, &mut data, &folder.join(&cell.name)) {
                Ok(accounting) => memory.push(accounting),
                Err(error) => errors.push(format!("{}: {error}", cell.name)),
            }
            cell.recipe = run.recipe;
        }
        if errors.is_empty() { Ok(Sweep { grid, folder, memory }) } else { Err(Failure::refused_all("the sweep can't be run:", &errors)) }
    }

    fn path(&self, cell: &Cell) -> PathBuf {
        self.folder.join(&cell.name)
    }

    /// Trains what isn't finished; the names of runs that failed.
    fn train(&self, quiet: bool, output: &mut Output) -> Result<Vec<String>, Failure> {
        let mut failed = vec![];
        let count = self.grid.cells.len();
        for (index, cell) in self.grid.cells.iter().enumerate() {
            let folder = self.path(cell);
            self.prepare(cell, &folder)?;
            if self.finished(cell)?.is_some() {
                continue;
            }
            let done = train_in(&folder)?;
            let Some(run) = self.finished(cell)?.filter(|_| done) else {
                failed.push(cell.name.clone());
                continue;
            };
            self.report()?;
            if !quiet {
                let (accuracy, seconds) = (run.accuracy * 100.0, run.seconds);
                output.line(format!(
                    "{}/{count} {}: {accuracy:.2} %, {seconds:.1} s, {}",
                    index + 1,
                    cell.name,
                    bytes(run.memory.planned)
                ))?;
            }
        }
        Ok(failed)
    }

    /// Puts the run's recipe into its folder, or checks that it is the one that is there.
    fn prepare(&self, cell: &Cell, folder: &Path) -> Result<(), Failure> {
        let run = RunFile { recipe: cell.recipe.clone(), model: self.grid.model.clone() };
        let Some(there) = RunFile::read(folder)? else {
            run_dir::prepare(folder, Existing::Resume)?;
            return run.write(folder);
        };
        let mut differences: Vec<String> =
            there.recipe.differences(&run.recipe).iter().map(|d| format!("{} = {} was {}", d.key, d.theirs, d.ours)).collect();
        if there.model != run.model {
            differences.push("model is another".to_owned());
        }
        if differences.is_empty() {
            return Ok(());
        }
        differences.push("name another folder with -o, or remove this one".to_owned());
        Err(Failure::refused_all(format!("{}: an earlier sweep ran it with other settings:", folder.display()), &differences))
    }

    /// What a run has come to, if it is finished.
    fn finished(&self, cell: &Cell) -> Result<Option<Run>, Failure> {
        let path = self.path(cell).join(METRICS);
        let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
        let damaged = |why: &str| Failure::refused(format!("{}: {why}; remove the run's folder to train it again", path.display()));
        let metrics: Value = serde_json::from_str(&text).map_err(|error| damaged(&error.to_string()))?;
        let index = self.grid.cells.iter().position(|other| other.name == cell.name).unwrap_or_default();
        let run = Run::new(cell, &metrics, self.memory[index].clone()).ok_or_else(|| damaged("it says no accuracy"))?;
        // The trained model comes last, and is there too where training stopped early.
        let ended = run.epochs >= cell.recipe.epochs || self.path(cell).join("model.onnx").exists();
        Ok(ended.then_some(run))
    }

    /// Writes tables and plots of what is finished.
    fn report(&self) -> Result<Vec<Group>, Failure> {
        let runs: Vec<Run> =
            self.grid.cells.iter().map(|cell| self.finished(cell)).filter_map(Result::transpose).collect::<Result<_, _>>()?;
        let groups = table::groups(&runs);
        let keys = &self.grid.keys;
        let mut files = vec![("results.csv", table::csv(&runs, keys)), ("results.md", table::markdown(&groups, keys))];
        files.extend(plot::Axis::ALL.map(|axis| (axis.file(), plot::svg(&groups, axis))));
        std::fs::create_dir_all(&self.folder).map_err(|error| Failure::unwritable(&self.folder, &error))?;
        for (name, text) in files {
            write_atomically(&self.folder.join(name), text.as_bytes()).map_err(Failure::failed)?;
        }
        Ok(groups)
    }
}

/// The data of the last run that was looked at.
#[derive(Default)]
struct Shared(Option<(DataKey, Dataset)>);

/// What data was loaded for: its SPEC and, where a share is held out, the share's bits and the seed.
type DataKey = (Option<String>, Option<(u64, u64)>);

impl Shared {
    fn load(&mut self, run: &RunFile, given: Option<&Imported>) -> Result<&Dataset, Failure> {
        let recipe = &run.recipe;
        let key = (recipe.data.clone(), recipe.validation.map(|share| (share.to_bits(), recipe.seed)));
        let data = match self.0.take() {
            Some((known, data)) if known == key => data,
            _ => train::load_data(run, given)?,
        };
        Ok(&self.0.insert((key, data)).1)
    }
}

/// Compiles the run of `folder`, checks that it can be trained, and takes its memory; its recipe is then settled.
fn account(run: &mut RunFile, data: &mut Shared, folder: &Path) -> Result<Accounting, Failure> {
    let given = train::given_model(run)?;
    let data = data.load(run, given.as_ref())?;
    let imported = train::model_for(run, given, data)?;
    let earlier = RunFile::read(folder)?.map(|earlier| earlier.recipe);
    (run.recipe, _) = settle::settle(&imported, &train::settled(&run.recipe, data), earlier.as_ref())?;
    let compiled = model::compile(&imported, &run.recipe, Some(data))?;
    let plan = check(&compiled.program.manifest, data, &run.recipe).map_err(Failure::refused)?;
    Ok(accounting::of(&compiled, &plan.mutation, plan.epochs, plan.epochs * plan.per_epoch))
}

/// Trains the run whose recipe lies in `folder`, or goes on with it, in a process of its own: peak memory is a process's, and a run that
/// fails leaves the others alone. Whether it came to its end.
fn train_in(folder: &Path) -> Result<bool, Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("mestc can't be started: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(["train", "--resume", "--json", "-o"]).arg(folder).stdout(Stdio::null());
    Ok(command.status().map_err(failed)?.success())
}
