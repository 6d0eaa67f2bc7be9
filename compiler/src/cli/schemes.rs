//! `--scheme auto`: the choice is made once, and is part of the recipe from then on.

use super::engine;
use super::failure::Failure;
use super::output::Output;
use crate::bench::choose::{self, Choice};
use crate::onnx::Imported;
use mest_runtime::recipe::Recipe;
use mest_runtime::sparse::Scheme;

/// Whether `recipe` leaves a scheme to choose.
fn is_open(recipe: &Recipe) -> bool {
    let own = recipe.layers.values().filter_map(|layer| layer.scheme);
    own.chain([recipe.scheme]).any(|scheme| scheme == Scheme::Auto)
}

/// `recipe` with a scheme for every layer, and what it was chosen by. A run that has chosen already, `earlier`, keeps to it.
///
/// # Errors
/// The model can't be compiled or run.
pub(crate) fn settle(imported: &Imported, recipe: &Recipe, earlier: Option<&Recipe>) -> Result<(Recipe, Vec<Choice>), Failure> {
    if !is_open(recipe) {
        return Ok((recipe.clone(), vec![]));
    }
    if let Some(earlier) = earlier {
        return Ok((as_chosen(recipe, earlier), vec![]));
    }
    let choices = choose::schemes(imported, recipe, engine::isa(recipe.isa)?).map_err(Failure::refused)?;
    let chosen = choices.iter().map(|choice| (choice.layer.clone(), choice.scheme)).collect();
    Ok((choose::with_schemes(recipe, &chosen), choices))
}

/// `recipe` with the schemes of `earlier` where it leaves them open.
pub(crate) fn as_chosen(recipe: &Recipe, earlier: &Recipe) -> Recipe {
    let mut settled = recipe.clone();
    if is_open(recipe) {
        settled.scheme = if recipe.scheme == Scheme::Auto { earlier.scheme } else { recipe.scheme };
        for (name, layer) in &earlier.layers {
            let own = settled.layers.entry(name.clone()).or_default();
            if own.scheme.is_none_or(|scheme| scheme == Scheme::Auto) {
                own.scheme = layer.scheme;
            }
        }
    }
    settled
}

/// Says what was chosen, and by which figures.
pub(crate) fn print(choices: &[Choice], output: &mut Output) -> Result<(), Failure> {
    if choices.is_empty() {
        return Ok(());
    }
    output.text("\n")?;
    output.heading("Schemes chosen")?;
    choices.iter().try_for_each(|choice| output.line(choice.to_string()))
}
