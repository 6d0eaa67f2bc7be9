//! From what the command line names to a compiled model.

use super::failure::Failure;
use crate::budget::{self, BudgetError};
use crate::ir::Graph;
use crate::onnx::{self, Adaptation, ImportReport, Imported};
use crate::op::Op;
use crate::pipeline::Compiled;
use crate::zoo::{self, ZooOptions};
use mest_runtime::data::{self, Dataset};
use mest_runtime::recipe::Recipe;
use std::path::Path;

/// Imports a model file and passes its warnings on.
///
/// # Errors
/// Everything that is wrong with the file.
pub(crate) fn import(path: &Path) -> Result<Imported, Failure> {
    with_warnings(path, onnx::import(path))
}

/// Imports a model file to train it by `recipe`, which may ask for a new last layer or for batch normalization.
///
/// # Errors
/// Everything that is wrong with the file, and what can't be changed in it.
pub(crate) fn import_for(path: &Path, recipe: &Recipe) -> Result<Imported, Failure> {
    with_warnings(path, onnx::import_adapted(path, &Adaptation::of_recipe(recipe)))
}

fn with_warnings(path: &Path, imported: Result<Imported, ImportReport>) -> Result<Imported, Failure> {
    let imported = imported.map_err(Failure::refused)?;
    for warning in &imported.warnings {
        warn(format_args!("{}: {warning}", path.display()));
    }
    Ok(imported)
}

/// Loads the data of a SPEC for a model; a folder of images is brought to the extents that the model takes.
///
/// # Errors
/// Everything that is wrong with SPEC and files.
pub(crate) fn data(spec: &str, imported: Option<&Imported>) -> Result<Dataset, Failure> {
    let spec = match imported.and_then(|imported| input_dims(&imported.graph)) {
        Some(dims) => data::sized(spec, dims),
        None => spec.to_owned(),
    };
    Dataset::load(&spec).map_err(Failure::refused)
}

/// Extents of one example, where there are three.
fn input_dims(graph: &Graph) -> Option<[usize; 3]> {
    let input = graph.ids().into_iter().find(|&id| matches!(graph.node(id).op, Op::Input(_)))?;
    graph.node(input).outputs[0].shape.fixed().try_into().ok()
}

/// What is trained where nothing is named.
pub(crate) const BUILT_IN: &str = "resnet8";

/// The built-in architecture that `model` names, if it names no file: `BUILT_IN` where there is nothing.
pub(crate) fn architecture(model: Option<&Path>) -> Option<&str> {
    let Some(model) = model else { return Some(BUILT_IN) };
    let named = zoo::NAMES.iter().any(|(name, _)| Path::new(name) == model);
    model.to_str().filter(|_| named && !model.exists())
}

/// A built-in architecture.
///
/// # Errors
/// Options that it can't be built for.
pub(crate) fn built_in(name: &str, options: &ZooOptions) -> Result<Imported, Failure> {
    let bytes = zoo::build(name, options).map_err(Failure::refused)?;
    onnx::import_bytes(&bytes, None).map_err(Failure::refused)
}

/// A warning on standard error.
pub(crate) fn warn(text: impl std::fmt::Display) {
    use std::io::Write;
    // Nobody left to warn is no reason to stop.
    let _ = writeln!(std::io::stderr(), "warning: {text}");
}

/// Text on standard error.
pub(crate) fn say(text: impl std::fmt::Display) {
    use std::io::Write;
    // Nobody left to read it is no reason to stop.
    let _ = write!(std::io::stderr(), "{text}");
}

/// Compiles a model for `recipe`; with data, its normalisation becomes part of the exported model.
///
/// # Errors
/// What the compiler refuses.
pub(crate) fn compile(imported: &Imported, recipe: &Recipe, data: Option<&Dataset>) -> Result<Compiled, Failure> {
    budget::compile(imported, recipe, data).map_err(|error| match error {
        BudgetError::AssertedPeak { .. } | BudgetError::Memory { .. } => Failure::failed(error),
        _ => Failure::refused(error),
    })
}

/// A model's name: its file's, without folder and ending.
pub(crate) fn name(path: &Path) -> String {
    path.file_stem().map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned())
}
