//! The scheme of each layer by measured speed, as `--scheme auto` asks.
//!
//! Blocks are computed faster than single weights and cost accuracy, more of both the larger they are. So a layer gets the finest scheme whose passes
//! are about as fast as those of the fastest, each measured in the training step of the whole model on this machine.

use super::measure::{self, LayerTime, MeasureError, Subject};
use crate::engine::jit::{Jit, JitError};
use crate::onnx::Imported;
use crate::pass::annotate_sparsity::{LayerRequest, LayerSparsity, annotate};
use crate::pipeline::{self, CompileError, Compiled};
use crate::settings;
use mest_runtime::lanes::Isa;
use mest_runtime::recipe::Recipe;
use mest_runtime::sparse::Scheme;
use std::collections::BTreeMap;
use std::fmt;

/// What is measured, finest first.
pub const CANDIDATES: [Scheme; 6] = [
    Scheme::Unstructured,
    Scheme::Block { rows: 4, columns: 1 },
    Scheme::Block { rows: 8, columns: 1 },
    Scheme::Block { rows: 16, columns: 1 },
    Scheme::Block { rows: 4, columns: 4 },
    Scheme::Block { rows: 16, columns: 4 },
];

/// A finer scheme is taken if its time is at most this many times the fastest one's.
const AS_FAST: f64 = 1.1;

/// Steps that a launch is timed over.
const STEPS: usize = 8;

/// Why nothing could be chosen.
#[derive(Debug, thiserror::Error)]
pub enum ChooseError {
    /// The model can't be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// There is no code for this machine.
    #[error(transparent)]
    Jit(#[from] JitError),
    /// The step can't be run.
    #[error(transparent)]
    Measure(#[from] MeasureError),
}

/// What was measured of a layer, and what follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The layer, by the name that the recipe has for it or that of its weight.
    pub layer: String,
    /// What it gets.
    pub scheme: Scheme,
    /// Milliseconds of a step in forward and backward passes over the layer, by scheme that fits it, finest first.
    pub measured: Vec<(Scheme, f64)>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times: Vec<String> = self.measured.iter().map(|(scheme, ms)| format!("{scheme} {ms:.4}")).collect();
        write!(f, "{}: {} (ms a step: {})", self.layer, self.scheme, times.join(", "))
    }
}

/// The finest scheme that is about as fast as the fastest; unstructured where nothing was measured.
fn choose(measured: &[(Scheme, f64)]) -> Scheme {
    let fastest = measured.iter().map(|&(_, ms)| ms).fold(f64::INFINITY, f64::min);
    measured.iter().find(|&&(_, ms)| ms <= fastest * AS_FAST).map_or(Scheme::Unstructured, |&(scheme, _)| scheme)
}

/// Chooses for every sparse layer that `recipe` leaves to choose.
///
/// # Errors
/// The model can't be compiled or run.
pub fn schemes(imported: &Imported, recipe: &Recipe, isa: Isa) -> Result<Vec<Choice>, ChooseError> {
    let open = open_layers(imported, recipe)?;
    let mut choices: Vec<Choice> =
        open.keys().map(|layer| Choice { layer: layer.clone(), scheme: Scheme::Unstructured, measured: vec![] }).collect();
    for candidate in CANDIDATES {
        let fitting: BTreeMap<String, Scheme> = open
            .iter()
            .map(|(name, layer)| (name.clone(), if fits(layer, candidate) { candidate } else { Scheme::Unstructured }))
            .collect();
        if !fitting.values().any(|scheme| *scheme == candidate) {
            continue;
        }
        let mut ms = BTreeMap::new();
        for layer in times(imported, &with_schemes(recipe, &fitting), isa)? {
            *ms.entry(layer.name).or_insert(0.0) += layer.ms;
        }
        for choice in choices.iter_mut().filter(|choice| fitting[&choice.layer] == candidate) {
            if let Some(&ms) = ms.get(&open[&choice.layer].name) {
                choice.measured.push((candidate, ms));
            }
        }
    }
    choices.iter_mut().for_each(|choice| choice.scheme = choose(&choice.measured));
    Ok(choices)
}

fn fits(layer: &LayerSparsity, scheme: Scheme) -> bool {
    scheme.fit(&layer.units.matrix, Default::default()).is_ok()
}

/// `recipe` with these schemes, and nothing left to choose.
pub fn with_schemes(recipe: &Recipe, schemes: &BTreeMap<String, Scheme>) -> Recipe {
    let mut settled = recipe.clone();
    if settled.scheme == Scheme::Auto {
        settled.scheme = Scheme::Unstructured;
    }
    for (layer, &scheme) in schemes {
        settled.layers.entry(layer.clone()).or_default().scheme = Some(scheme);
    }
    settled
}

/// The sparse layers whose scheme is left to choose, by the recipe's name for them.
fn open_layers(imported: &Imported, recipe: &Recipe) -> Result<BTreeMap<String, LayerSparsity>, ChooseError> {
    // Whether a layer is sparse at all doesn't depend on its scheme.
    let mut request = settings::of_recipe(recipe, None).sparsity;
    let is_open = |own: Option<Scheme>| own.unwrap_or(recipe.scheme) == Scheme::Auto;
    request.scheme = Scheme::Unstructured;
    for LayerRequest { scheme, .. } in request.layers.values_mut() {
        *scheme = None;
    }
    let graph = &imported.graph;
    let table = annotate(graph, &request).map_err(CompileError::Sparsity)?;
    let mut open = BTreeMap::new();
    for layer in table.layers.into_iter().filter(|layer| layer.density.is_some()) {
        let bears = |name: &String| *name == layer.name || layer.users.iter().any(|&user| graph.node(user).name == *name);
        let asked = recipe.layers.iter().find(|(name, _)| bears(name));
        if is_open(asked.and_then(|(_, asked)| asked.scheme)) {
            let name = asked.map_or_else(|| layer.name.clone(), |(name, _)| name.clone());
            open.insert(name, layer);
        }
    }
    Ok(open)
}

/// The passes over each weight, in training steps of `recipe`.
pub(super) fn times(imported: &Imported, recipe: &Recipe, isa: Isa) -> Result<Vec<LayerTime>, ChooseError> {
    let Compiled { program, training, sparsity, .. } = pipeline::compile(imported, &settings::of_recipe(recipe, None))?;
    let mut jit = Jit::new(program, isa, settings::threads(recipe))?;
    let subject = Subject::new(recipe, STEPS);
    subject.prepare(&mut jit)?;
    let kernels = subject.kernels(&mut jit);
    Ok(measure::generated_layers(&training, &sparsity, recipe.batch, &kernels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::import_bytes;
    use crate::zoo::{self, ZooOptions};

    #[test]
    fn the_finest_scheme_that_is_about_as_fast_is_chosen() {
        let [unstructured, tall, taller, ..] = CANDIDATES;
        assert_eq!(choose(&[(unstructured, 1.0), (tall, 0.95), (taller, 0.92)]), unstructured);
        assert_eq!(choose(&[(unstructured, 2.0), (tall, 1.05), (taller, 1.0)]), tall);
        assert_eq!(choose(&[(unstructured, 2.0), (tall, 1.5), (taller, 1.0)]), taller);
        assert_eq!(choose(&[]), unstructured);
    }

    #[test]
    fn every_sparse_layer_gets_a_scheme_that_fits_and_what_is_said_stays() {
        let imported = import_bytes(&zoo::build("resnet8", &ZooOptions::default()).unwrap(), None).unwrap();
        let mut recipe = Recipe::default().with([("scheme", "auto"), ("batch", "4"), ("sparsity", "0.8")]).unwrap();
        let own = "layer2.0.conv1.weight";
        recipe.layers.entry(own.to_owned()).or_default().scheme = Some(Scheme::FanIn);
        let choices = schemes(&imported, &recipe, Isa::best()).unwrap();
        assert!(choices.len() >= 5 && choices.iter().all(|choice| choice.layer != own), "{choices:?}");
        assert!(choices.iter().all(|choice| choice.measured.len() >= 2 && choice.measured.iter().all(|(_, ms)| *ms > 0.0)), "{choices:?}");
        let chosen: BTreeMap<String, Scheme> = choices.iter().map(|choice| (choice.layer.clone(), choice.scheme)).collect();
        let settled = with_schemes(&recipe, &chosen);
        assert_eq!(settled.layers[own].scheme, Some(Scheme::FanIn));
        assert!(pipeline::compile(&imported, &settings::of_recipe(&settled, None)).is_ok());
        assert!(schemes(&imported, &settled, Isa::best()).unwrap().is_empty(), "nothing is left to choose");
        let open = pipeline::compile(&imported, &settings::of_recipe(&recipe, None)).unwrap_err().to_string();
        assert!(open.contains("'auto'"), "{open}");
    }
}
