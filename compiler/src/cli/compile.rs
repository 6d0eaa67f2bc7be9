//! `mestc compile`: what the compiler makes of a model, as text or as a crate.

use super::failure::Failure;
use super::flags::RecipeFlags;
use super::output::Output;
use super::{engine, model, settle};
use crate::engine::jit::Jit;
use crate::engine::rust::package::{self, RuntimeSource};
use crate::engine::rust::{self, EmitOptions};
use crate::explain::explain;
use crate::ir;
use crate::onnx::Imported;
use crate::pass::annotate_sparsity::annotate;
use crate::pipeline::{self, Pass};
use crate::settings;
use mest_runtime::recipe::Recipe;
use std::path::PathBuf;

/// Compiles a model: to a Rust crate, or to the text of one of the compiler's forms.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mestc compile model.onnx -o net\n  mestc compile model.onnx --emit ir --after differentiate")]
pub(crate) struct Args {
    /// An ONNX file.
    model: PathBuf,
    /// What to write.
    #[arg(long, value_enum, default_value_t = Emit::Rust)]
    emit: Emit,
    /// The folder of the crate, or the file of the text [default: standard output, for text].
    #[arg(short, long, value_name = "DIR|FILE")]
    output: Option<PathBuf>,
    /// The pass after which --emit ir or dot shows the graph [default: differentiate].
    #[arg(long, value_enum, value_name = "PASS")]
    after: Option<After>,
    /// Says why each layer is sparse or dense, and what it is computed by; on standard error.
    #[arg(long)]
    explain: bool,
    /// Where the crate's runtime comes from: vendored, path:DIR, or a version of mest-runtime.
    #[arg(long, value_name = "SOURCE", default_value = "vendored")]
    runtime: RuntimeSource,
    #[command(flatten)]
    recipe: RecipeFlags,
}

/// A form that the compiler can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Emit {
    /// A crate with the training step.
    Rust,
    /// The graph as text.
    Ir,
    /// Kernels, slots and schedule as text.
    Program,
    /// Cranelift's code for every kernel.
    Clif,
    /// The graph for Graphviz.
    Dot,
}

/// A pass over the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum After {
    /// ONNX, read.
    Import,
    /// Training and inference told apart.
    Specialize,
    /// The loss at the end.
    AttachLoss,
    /// Gradients.
    Differentiate,
}

impl From<After> for Pass {
    fn from(after: After) -> Pass {
        match after {
            After::Import => Pass::Import,
            After::Specialize => Pass::Specialize,
            After::AttachLoss => Pass::AttachLoss,
            After::Differentiate => Pass::Differentiate,
        }
    }
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let recipe = args.recipe.recipe(&Recipe::default())?;
    if args.after.is_some() && !matches!(args.emit, Emit::Ir | Emit::Dot) {
        return Err(Failure::refused("--after shows the graph after a pass: it goes with --emit ir or --emit dot"));
    }
    let imported = model::import_for(&args.model, &recipe)?;
    let (recipe, measured) = settle::settle(&imported, &recipe, None)?;
    if args.explain {
        measured.lines().for_each(|line| model::say(format_args!("{line}\n")));
        // The compiled form may be on standard output.
        model::say(explain(&model::compile(&imported, &recipe, None)?));
    }
    let text = match args.emit {
        Emit::Rust => return emit_rust(args, &imported, &recipe, output),
        Emit::Ir | Emit::Dot => graph_text(args, &imported, &recipe)?,
        Emit::Program => model::compile(&imported, &recipe, None)?.program.to_string(),
        Emit::Clif => {
            let isa = engine::isa(recipe.isa)?;
            Jit::clif(&model::compile(&imported, &recipe, None)?.program, isa).map_err(Failure::refused)?
        }
    };
    match &args.output {
        Some(path) => std::fs::write(path, text).map_err(|error| Failure::unwritable(path, &error)),
        None => output.text(&text),
    }
}

/// Writes a crate.
fn emit_rust(args: &Args, imported: &Imported, recipe: &Recipe, output: &mut Output) -> Result<(), Failure> {
    let Some(folder) = &args.output else {
        return Err(Failure::refused("--emit rust writes a crate: name its folder with -o DIR"));
    };
    let name = crate_name(&model::name(&args.model));
    let options = EmitOptions {
        source: args.model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        made_by: format!("mestc {} compile", env!("CARGO_PKG_VERSION")),
        ..EmitOptions::new(recipe)
    };
    let generated = rust::emit(&model::compile(imported, recipe, None)?.program, &options).map_err(Failure::refused)?;
    package::write_crate(folder, &name, &generated, &args.runtime).map_err(Failure::refused)?;
    output.line(format!("{}: crate {name}", folder.display()))
}

/// A name that cargo accepts, as close to `name` as can be.
fn crate_name(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(allowed).collect();
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) { name } else { format!("net-{name}") }
}

fn graph_text(args: &Args, imported: &Imported, recipe: &Recipe) -> Result<String, Failure> {
    let after = args.after.map_or(Pass::Differentiate, Pass::from);
    let settings = settings::of_recipe(recipe, None);
    let graph = pipeline::graph_after(&imported.graph, settings.loss, after).map_err(Failure::refused)?;
    if args.emit == Emit::Ir {
        return Ok(ir::text::print(&graph));
    }
    let sparsity =
        annotate(&graph, &settings.sparsity).map_err(|errors| Failure::refused_all("the recipe doesn't fit the model:", &errors))?;
    Ok(ir::dot::print(&graph, Some(&sparsity)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_have_names_that_cargo_accepts() {
        for (name, expected) in
            [("resnet8", "resnet8"), ("My Net.v2", "my-net-v2"), ("8-bit", "net-8-bit"), ("", "net-"), ("\u{e9}t\u{e9}", "net--t-")]
        {
            assert_eq!(crate_name(name), expected);
        }
    }
}
