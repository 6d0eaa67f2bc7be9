//! What a recipe leaves to measurement - `--scheme auto`, `--autotune` - is measured once, and part of the recipe from then on.

use super::engine;
use super::failure::Failure;
use super::model;
use super::output::Output;
use crate::bench::choose::{self, Choice};
use crate::bench::tune::{self, Timings, Tuning};
use crate::onnx::Imported;
use mest_runtime::recipe::Recipe;
use mest_runtime::sparse::Scheme;

/// What was chosen, and by which figures.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    schemes: Vec<Choice>,
    tunings: Vec<Tuning>,
}

impl Measured {
    /// A line for each choice.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.schemes.iter().map(ToString::to_string).chain(self.tunings.iter().map(ToString::to_string))
    }

    /// Says what was chosen, under headings.
    pub(crate) fn print(&self, output: &mut Output) -> Result<(), Failure> {
        section("Schemes chosen", &self.schemes, output)?;
        section("Cache blocks timed", &self.tunings, output)
    }
}

fn section(heading: &str, lines: &[impl ToString], output: &mut Output) -> Result<(), Failure> {
    if lines.is_empty() {
        return Ok(());
    }
    output.text("\n")?;
    output.heading(heading)?;
    lines.iter().try_for_each(|line| output.line(line.to_string()))
}

/// Whether `recipe` leaves a scheme to choose.
fn is_open(recipe: &Recipe) -> bool {
    let own = recipe.layers.values().filter_map(|layer| layer.scheme);
    own.chain([recipe.scheme]).any(|scheme| scheme == Scheme::Auto)
}

/// `recipe` with nothing left to measure, and what was. A run that has measured already, `earlier`, keeps to it.
///
/// # Errors
/// The model can't be compiled or run; what was timed before can't be read.
pub(crate) fn settle(imported: &Imported, recipe: &Recipe, earlier: Option<&Recipe>) -> Result<(Recipe, Measured), Failure> {
    if let Some(earlier) = earlier {
        return Ok((as_measured(recipe, earlier), Measured::default()));
    }
    let (mut settled, mut measured) = (recipe.clone(), Measured::default());
    if is_open(&settled) {
        measured.schemes = choose::schemes(imported, &settled, engine::isa(recipe.isa)?).map_err(Failure::refused)?;
        let chosen = measured.schemes.iter().map(|choice| (choice.layer.clone(), choice.scheme)).collect();
        settled = choose::with_schemes(&settled, &chosen);
    }
    if settled.autotune {
        measured.tunings = tunings(imported, &settled)?;
        settled = tune::with_tunings(&settled, &measured.tunings);
    }
    Ok((settled, measured))
}

/// What was fastest for each layer; what is not remembered is timed.
fn tunings(imported: &Imported, recipe: &Recipe) -> Result<Vec<Tuning>, Failure> {
    let path = Timings::default_path();
    let known = Timings::read(&path).map_err(Failure::refused)?;
    let mut timings = known.clone();
    let tunings = tune::channel_blocks(imported, recipe, engine::isa(recipe.isa)?, &mut timings).map_err(Failure::refused)?;
    if timings != known
        && let Err(error) = timings.add_to(&path)
    {
        model::warn(error);
    }
    Ok(tunings)
}

/// `recipe` with what was measured for `earlier` where it leaves that open.
pub(crate) fn as_measured(recipe: &Recipe, earlier: &Recipe) -> Recipe {
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
    if recipe.autotune {
        settled.autotune = false;
        for (name, layer) in earlier.layers.iter().filter(|(_, layer)| layer.channel_blocks.is_some()) {
            settled.layers.entry(name.clone()).or_default().channel_blocks = layer.channel_blocks;
        }
    }
    settled
}
