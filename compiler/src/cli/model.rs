//! From what the command line names to a compiled model.

use super::failure::Failure;
use crate::budget::{self, BudgetError};
use crate::onnx::{self, Imported};
use crate::pipeline::{self, Compiled};
use crate::settings;
use crate::zoo::{self, ZooOptions};
use mest_runtime::data::Dataset;
use mest_runtime::recipe::Recipe;
use std::path::Path;

/// Imports a model file and passes its warnings on.
///
/// # Errors
/// Everything that is wrong with the file.
pub(crate) fn import(path: &Path) -> Result<Imported, Failure> {
    let imported = onnx::import(path).map_err(Failure::refused)?;
    for warning in &imported.warnings {
        warn(format_args!("{}: {warning}", path.display()));
    }
    Ok(imported)
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

/// Compiles a model for `recipe`; with data, its normalisation becomes part of the exported model.
///
/// # Errors
/// What the compiler refuses.
pub(crate) fn compile(imported: &Imported, recipe: &Recipe, data: Option<&Dataset>) -> Result<Compiled, Failure> {
    let compiled = pipeline::compile(imported, &settings::of_recipe(recipe, data)).map_err(Failure::refused)?;
    budget::check(imported, recipe, data, &compiled).map_err(|error| match error {
        BudgetError::AssertedPeak { .. } => Failure::failed(error),
        _ => Failure::refused(error),
    })?;
    Ok(compiled)
}

/// A model's name: its file's, without folder and ending.
pub(crate) fn name(path: &Path) -> String {
    path.file_stem().map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned())
}
