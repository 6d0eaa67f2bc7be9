//! `mestc bench`: generated kernels against generic and dense ones.
//!
//! Sparse, generic and dense each run in a process of their own - this program again, with a hidden flag - so that its peak memory means
//! something.

use super::engine;
use super::failure::Failure;
use super::flags::RecipeFlags;
use super::model;
use super::output::{Align, Output, Table, bytes};
use super::settle;
use crate::bench::generic::Generic;
use crate::bench::machine::Machine;
use crate::bench::measure::{self, LayerTime, Measurement, RandomBatch, Subject};
use crate::engine::jit::Jit;
use crate::pass::annotate_sparsity::annotate;
use crate::pipeline::{self, Compiled};
use crate::settings;
use mest_runtime::network::Network;
use mest_runtime::recipe::{EngineName, Recipe};
use mest_runtime::sparse::Scheme;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// Times generated kernels against generic and dense ones, layer by layer and as a whole training step, on random data.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mestc bench model.onnx --sparsity 0.9 --batch 64 --threads 1\n\n\
    generic is a baseline that knows no shape: compressed sparse rows over NCHW. dense is this compiler at density 1. A backward pass is both \
    gradients.")]
pub(crate) struct Args {
    /// An ONNX file.
    model: PathBuf,
    /// Steps that a median is taken of.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// The whole step alone, no layers.
    #[arg(long)]
    step_only: bool,
    /// Time by kernel of the generated step, too.
    #[arg(long, conflicts_with = "step_only")]
    profile: bool,
    #[command(flatten)]
    recipe: RecipeFlags,
    /// Machine-readable.
    #[arg(long)]
    json: bool,
    /// Measures one variant and prints it as JSON: what the command runs itself with.
    #[arg(long, hide = true)]
    variant: Option<Variant>,
}

/// What is measured in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Variant {
    Sparse,
    Generic,
    Dense,
}

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Variant::Sparse => "sparse",
            Variant::Generic => "generic",
            Variant::Dense => "dense",
        }
    }
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let recipe = args.recipe.recipe(&Recipe::default())?;
    if let Some(variant) = args.variant {
        return output.json(&measure_one(args, &recipe, variant)?);
    }
    let is_open = |scheme: Scheme| scheme == Scheme::Auto;
    if is_open(recipe.scheme) || recipe.layers.values().filter_map(|layer| layer.scheme).any(is_open) {
        return Err(Failure::refused(
            "scheme = auto is chosen by measurement, and each variant would measure for itself: `mestc plan MODEL --scheme auto --explain` says \
             what is chosen; name that here",
        ));
    }
    if recipe.engine != EngineName::Jit && !args.step_only {
        return Err(Failure::refused("only --engine jit can time single launches; add --step-only, or leave --engine out"));
    }
    let isa = engine::isa(recipe.isa)?;
    // Whatever is wrong with the model or the recipe is said once, before anything is measured.
    let imported = model::import_for(&args.model, &recipe)?;
    model::compile(&imported, &settle::settle(&imported, &recipe, None)?.0, None)?;
    drop(imported);
    if cfg!(debug_assertions) {
        model::warn("this mestc was built without optimisation: build it with --release before comparing anything");
    }
    let machine = Machine::measure(isa, settings::threads(&recipe));
    let report = Report {
        batch: recipe.batch,
        machine,
        sparse: measure_apart(Variant::Sparse)?,
        generic: measure_apart(Variant::Generic)?,
        dense: measure_apart(Variant::Dense)?,
    };
    if args.json { output.json(&report.to_json(args.profile)) } else { report.print(args, output) }
}

/// Runs this program again for one variant.
fn measure_apart(variant: Variant) -> Result<Measurement, Failure> {
    let fail = |why: &dyn std::fmt::Display| Failure::failed(format!("measuring the {} step: {why}", variant.name()));
    let program = std::env::current_exe().map_err(|error| fail(&error))?;
    let output = Command::new(program)
        .args(std::env::args_os().skip(1))
        .args(["--variant", variant.name()])
        .output()
        .map_err(|error| fail(&error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(fail(&format_args!("its process ended with {}: {}", output.status, said.trim())));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| fail(&error))
}

fn measure_one(args: &Args, recipe: &Recipe, variant: Variant) -> Result<Measurement, Failure> {
    match variant {
        Variant::Sparse => {
            // What the recipe leaves to timing has been timed, and is remembered.
            let (settled, _) = settle::settle(&model::import_for(&args.model, recipe)?, recipe, None)?;
            measure_compiled(args, &settled, true)
        }
        Variant::Generic => measure_generic(args, recipe),
        Variant::Dense => {
            let dense = recipe.with([("policy", "dense"), ("autotune", "false")]);
            measure_compiled(args, &dense.map_err(|errors| Failure::refused_all("the recipe can't be used:", &errors))?, false)
        }
    }
}

fn measure_compiled(args: &Args, recipe: &Recipe, sparse: bool) -> Result<Measurement, Failure> {
    let start = Instant::now();
    let compiled = model::compile(&model::import_for(&args.model, recipe)?, recipe, None)?;
    let subject = Subject::new(recipe, args.steps as usize);
    let mut measured = Measurement { arena_bytes: Some(compiled.program.manifest.arena_bytes), ..Measurement::default() };
    if recipe.engine != EngineName::Jit {
        let mut net = engine::network(compiled.program, recipe)?;
        measured.compile_ms = Some(start.elapsed().as_secs_f64() * 1e3);
        measure_step(&subject, &mut *net, &mut measured)?;
        if sparse {
            measure_mutation(recipe, &subject, &mut *net, &mut measured)?
        }
        return Ok(measured);
    }
    let Compiled { program, training, sparsity, .. } = compiled;
    let mut jit = Jit::new(program, engine::isa(recipe.isa)?, settings::threads(recipe)).map_err(Failure::refused)?;
    measured.compile_ms = Some(start.elapsed().as_secs_f64() * 1e3);
    measure_step(&subject, &mut jit, &mut measured)?;
    measured.kernels = subject.kernels(&mut jit);
    measured.convolution_ms = Some(measure::convolution_ms(&measured.kernels));
    if !args.step_only {
        measured.layers = measure::generated_layers(&training, &sparsity, recipe.batch, &measured.kernels);
    }
    if sparse {
        measure_mutation(recipe, &subject, &mut jit, &mut measured)?
    }
    Ok(measured)
}

fn measure_step(subject: &Subject<'_>, net: &mut dyn Network, measured: &mut Measurement) -> Result<(), Failure> {
    subject.prepare(net).map_err(Failure::refused)?;
    (measured.step_ms, measured.peak_rss_bytes) = subject.step(net);
    Ok(())
}

/// The densities that mutation leads through, lowest first, and a mutation at the highest.
fn measure_mutation(recipe: &Recipe, subject: &Subject<'_>, net: &mut dyn Network, measured: &mut Measurement) -> Result<(), Failure> {
    let config = recipe.mutation();
    if config.policy.mutates() {
        // Of a run that counts in epochs; without data an epoch has no known number of iterations, so that one stands for each.
        let mean = |budget| config.mean_density(budget, recipe.epochs, recipe.epochs);
        measured.mean = Some(subject.step_ms_at(net, mean).map_err(Failure::failed)?);
        measured.grown = Some(subject.step_ms_at(net, |budget| config.peak_density(budget)).map_err(Failure::failed)?);
    }
    measured.mutation_ms = subject.mutation_ms(net);
    Ok(())
}

fn measure_generic(args: &Args, recipe: &Recipe) -> Result<Measurement, Failure> {
    let imported = model::import_for(&args.model, recipe)?;
    let settings = settings::of_recipe(recipe, None);
    let (training, _) = pipeline::graphs(&imported.graph, settings.loss).map_err(Failure::refused)?;
    let refuse = |errors: Vec<_>| Failure::refused_all("the layers can't be made sparse as asked:", &errors);
    let table = annotate(&training, &settings.sparsity).map_err(refuse)?;
    let (isa, threads) = (engine::isa(recipe.isa)?, settings::threads(recipe));
    let batch = RandomBatch::of_graph(&training, recipe.batch, recipe.seed);
    let net = Generic::new(training.clone(), &table, &BTreeMap::new(), recipe.batch, measure::rule(recipe), isa, threads);
    let mut net = net.map_err(Failure::failed)?;
    Ok(measure::generic(&mut net, &training, &table, &batch, args.steps as usize, !args.step_only))
}

/// What was measured, all together.
struct Report {
    batch: usize,
    machine: Machine,
    sparse: Measurement,
    generic: Measurement,
    dense: Measurement,
}

impl Report {
    fn images_per_s(&self, step_ms: f64) -> f64 {
        self.batch as f64 / step_ms * 1e3
    }

    /// GFLOP/s of a generated pass, and its share of the peak.
    fn rate(&self, layer: &LayerTime) -> (f64, f64) {
        let gflops = layer.flops / (layer.ms * 1e6);
        (gflops, gflops / self.machine.peak_gflops)
    }

    /// Rows of layers: the generated pass, and the milliseconds of the generic and the dense one.
    fn rows(&self) -> impl Iterator<Item = (&LayerTime, Option<f64>, Option<f64>)> {
        let of = |layers: &[LayerTime], row: &LayerTime| {
            layers.iter().find(|layer| layer.name == row.name && layer.pass == row.pass).map(|layer| layer.ms)
        };
        self.sparse.layers.iter().map(move |row| (row, of(&self.generic.layers, row), of(&self.dense.layers, row)))
    }

    fn to_json(&self, profile: bool) -> Value {
        let (sparse, generic, dense) = (&self.sparse, &self.generic, &self.dense);
        let layer = |(row, generic, dense): (&LayerTime, Option<f64>, Option<f64>)| {
            let (gflops, share) = self.rate(row);
            json!({ "name": row.name, "pass": row.pass, "scheme": row.scheme, "density": row.density, "generated_ms": row.ms,
                "generic_ms": generic, "dense_ms": dense, "gflops": gflops, "share_of_peak": share })
        };
        let at = |time: Option<measure::DensityTime>| time.map(|time| self.images_per_s(time.step_ms));
        let mut report = json!({
            "machine": self.machine,
            "batch": self.batch,
            "layers": self.rows().map(layer).collect::<Vec<_>>(),
            "step": {
                "images_per_s": self.images_per_s(sparse.step_ms),
                "dense_images_per_s": self.images_per_s(dense.step_ms),
                "generic_images_per_s": self.images_per_s(generic.step_ms),
                "arena_bytes": sparse.arena_bytes,
                "peak_rss_bytes": sparse.peak_rss_bytes,
                "compile_ms": sparse.compile_ms,
                // A static mask costs no time to change.
                "mutation_ms": sparse.mutation_ms.unwrap_or(0.0),
                "convolution_ms": sparse.convolution_ms,
                "step_ms": sparse.step_ms,
                "dense_step_ms": dense.step_ms,
                "generic_step_ms": generic.step_ms,
                "dense_arena_bytes": dense.arena_bytes,
                "dense_peak_rss_bytes": dense.peak_rss_bytes,
                "generic_peak_rss_bytes": generic.peak_rss_bytes,
                "dense_compile_ms": dense.compile_ms,
                "dense_convolution_ms": dense.convolution_ms,
                "grown_density": sparse.grown.map(|time| time.density),
                "grown_images_per_s": at(sparse.grown),
                "mean_density": sparse.mean.map(|time| time.density),
                "mean_images_per_s": at(sparse.mean),
            },
        });
        if profile {
            report["kernels"] = json!(sparse.kernels);
        }
        report
    }

    fn print(&self, args: &Args, output: &mut Output) -> Result<(), Failure> {
        let Machine { isa, threads, peak_gflops, core_gflops } = &self.machine;
        output.heading(format!("{}, batch {}", model::name(&args.model), self.batch))?;
        output.line(format!("{isa}, threads {threads}, peak {peak_gflops:.1} GFLOP/s ({core_gflops:.1} a core)"))?;
        output.text("\n")?;
        if !args.step_only {
            self.print_layers(output)?;
            output.text("\n")?;
        }
        if args.profile {
            self.print_kernels(output)?;
            output.text("\n")?;
        }
        self.print_step(output)
    }

    fn print_layers(&self, output: &mut Output) -> Result<(), Failure> {
        use Align::{Left, Right};
        let mut table = Table::new(&[
            ("layer", Left),
            ("pass", Left),
            ("scheme", Left),
            ("density", Right),
            ("generated ms", Right),
            ("generic ms", Right),
            ("dense ms", Right),
            ("GFLOP/s", Right),
            ("of peak", Right),
        ]);
        let ms = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.4}"));
        for (row, generic, dense) in self.rows() {
            let (gflops, share) = self.rate(row);
            let pass = match row.pass {
                measure::Pass::Forward => "forward",
                measure::Pass::Backward => "backward",
            };
            let density = format!("{:.3}", row.density);
            let (generated, rate, share) = (ms(Some(row.ms)), format!("{gflops:.2}"), format!("{:.1} %", share * 100.0));
            table.row([row.name.clone(), pass.into(), row.scheme.clone(), density, generated, ms(generic), ms(dense), rate, share]);
        }
        output.table(&table)
    }

    /// Launches by kernel, the most expensive first.
    fn print_kernels(&self, output: &mut Output) -> Result<(), Failure> {
        let mut kernels: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
        for time in &self.sparse.kernels {
            let (launches, ms) = kernels.entry(&time.kernel).or_default();
            *launches += 1;
            *ms += time.ms;
        }
        let total: f64 = self.sparse.kernels.iter().map(|time| time.ms).sum();
        let mut kernels: Vec<_> = kernels.into_iter().collect();
        kernels.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
        let mut table = Table::new(&[("kernel", Align::Left), ("launches", Align::Right), ("ms", Align::Right), ("share", Align::Right)]);
        for (kernel, (launches, ms)) in kernels {
            table.row([kernel.to_owned(), launches.to_string(), format!("{ms:.4}"), format!("{:.1} %", ms / total * 100.0)]);
        }
        output.table(&table)
    }

    fn print_step(&self, output: &mut Output) -> Result<(), Failure> {
        let columns = [("training step", Align::Left), ("images/s", Align::Right), ("ms", Align::Right), ("peak RSS", Align::Right)];
        let mut table = Table::new(&columns);
        let mut row = |name: String, ms: f64, peak: Option<u64>| {
            let peak = peak.map_or_else(String::new, |peak| bytes(peak as usize));
            table.row([name, format!("{:.1}", self.images_per_s(ms)), format!("{ms:.3}"), peak]);
        };
        row("sparse".to_owned(), self.sparse.step_ms, self.sparse.peak_rss_bytes);
        for (what, time) in [("mean", self.sparse.mean), ("grown", self.sparse.grown)] {
            if let Some(time) = time {
                row(format!("sparse, {what} density {:.3}", time.density), time.step_ms, None);
            }
        }
        row("generic".to_owned(), self.generic.step_ms, self.generic.peak_rss_bytes);
        row("dense".to_owned(), self.dense.step_ms, self.dense.peak_rss_bytes);
        output.table(&table)?;
        output.text("\n")?;
        let mut table = Table::new(&[("", Align::Left), ("", Align::Right)]);
        let ms = |value: Option<f64>| value.map(|ms| format!("{ms:.3} ms"));
        let facts = [
            ("arena", self.sparse.arena_bytes.map(bytes)),
            ("import to engine ready", ms(self.sparse.compile_ms)),
            ("a mutation of all masks", ms(self.sparse.mutation_ms)),
            ("convolutions of a step", ms(self.sparse.convolution_ms)),
        ];
        facts.into_iter().filter_map(|(what, value)| value.map(|value| (what, value))).for_each(|(what, value)| {
            table.row([what.to_owned(), value]);
        });
        output.table(&table)
    }
}
