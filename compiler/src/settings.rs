//! What to compile a model for, from the recipe of a run or from a recorded trace.

use crate::engine::replay;
use crate::pass::annotate_sparsity::{LayerRequest, SparsityRequest};
use crate::pass::attach_loss::Loss;
use crate::pipeline::{Levers, Settings};
use crate::program::lower::PeakDensity;
use crate::trace::{LossKind, Trace};
use mest_runtime::data::Dataset;
use mest_runtime::manifest::Patterns;
use mest_runtime::recipe::{self, Distribution, Recipe};
use mest_runtime::sparse::Scheme;
use std::collections::BTreeMap;

/// Metadata key under which a model keeps the normalisation of its inputs.
pub const NORMALIZE_KEY: &str = "mest.normalize";

/// Threads of a run: as many as the recipe says, or as the machine has.
pub fn threads(recipe: &Recipe) -> usize {
    recipe.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// Settings for a training of `recipe`. With its data, the normalisation becomes part of the exported model.
pub fn of_recipe(recipe: &Recipe, data: Option<&Dataset>) -> Settings {
    let loss = match recipe.loss {
        recipe::Loss::CrossEntropy => Loss::CrossEntropy { smoothing: recipe.label_smoothing as f32 },
        recipe::Loss::Mse => Loss::MeanSquaredError,
    };
    let frozen = recipe.layers.iter().filter(|(_, layer)| layer.frozen == Some(true)).map(|(name, _)| name.clone());
    let dense = recipe.policy.0.name() == "dense";
    let asked = recipe.layers.iter().map(|(name, layer)| {
        let cut = LayerRequest { channel_blocks: layer.channel_blocks, ..LayerRequest::default() };
        let sparsity = LayerRequest { density: layer.density, scheme: layer.scheme, dense: layer.dense, ..cut.clone() };
        (name.clone(), if dense { cut } else { sparsity })
    });
    let layers = asked.filter(|(_, request)| *request != LayerRequest::default()).collect();
    let normalization = data.map(|data| recipe.normalization(data)).or(recipe.normalize.as_ref());
    Settings {
        batch: recipe.batch,
        loss,
        optimizer: recipe.update_rule(),
        clip_norm: recipe.clip_norm.is_some(),
        sparsity: SparsityRequest {
            density: recipe.density(),
            distribution: recipe.distribution,
            scheme: recipe.scheme,
            // A library that isn't one has been refused with the recipe.
            patterns: recipe.patterns().unwrap_or_default(),
            layers,
            masks: BTreeMap::new(),
        },
        keep_gradients: recipe.mutation().reads_gradients(),
        peak: PeakDensity::Mutation(recipe.mutation()),
        threads: threads(recipe),
        frozen: frozen.collect(),
        levers: Levers::default(),
        metadata: normalization.map(|normalization| (NORMALIZE_KEY.to_owned(), normalization.to_json())).into_iter().collect(),
    }
}

/// Settings for replaying `trace`: its batch, its loss, its optimiser, its masks, and no mutation.
pub fn of_trace(trace: &Trace, threads: usize) -> Settings {
    let loss = match trace.loss {
        LossKind::CrossEntropy => Loss::CrossEntropy { smoothing: trace.optimizer.label_smoothing as f32 },
        LossKind::MeanSquaredError => Loss::MeanSquaredError,
    };
    let masks = trace.masks.iter().map(|(name, mask)| (name.clone(), mask.live.clone())).collect();
    Settings {
        batch: trace.batch(),
        loss,
        optimizer: replay::optimizer(trace.optimizer.rule),
        clip_norm: false,
        sparsity: SparsityRequest {
            density: 1.0,
            distribution: Distribution::Uniform,
            scheme: Scheme::Unstructured,
            patterns: Patterns::default(),
            layers: BTreeMap::new(),
            masks,
        },
        keep_gradients: true,
        peak: PeakDensity::Budget,
        threads,
        frozen: vec![],
        levers: Levers::default(),
        metadata: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(flags: &[(&str, &str)]) -> Recipe {
        Recipe::default().with(flags.iter().copied()).unwrap()
    }

    #[test]
    fn a_recipe_decides_what_is_compiled() {
        let mut recipe =
            recipe(&[("density", "0.2"), ("scheme", "block:4x1"), ("label-smoothing", "0.25"), ("clip-norm", "1"), ("threads", "3")]);
        recipe.layers.insert("fc.weight".to_owned(), recipe::LayerRecipe { dense: Some(true), ..Default::default() });
        let settings = of_recipe(&recipe, None);
        assert_eq!((settings.batch, settings.threads, settings.clip_norm), (64, 3, true));
        assert_eq!(settings.loss, Loss::CrossEntropy { smoothing: 0.25 });
        assert_eq!((settings.sparsity.density, settings.sparsity.scheme), (0.2, Scheme::Block { rows: 4, columns: 1 }));
        assert_eq!(settings.sparsity.layers["fc.weight"].dense, Some(true));
        assert_eq!(settings.metadata, vec![], "nothing is known of the inputs");
    }

    #[test]
    fn the_dense_policy_leaves_no_layer_sparse() {
        let mut recipe = recipe(&[("policy", "dense"), ("loss", "mse")]);
        recipe.layers.insert("fc.weight".to_owned(), recipe::LayerRecipe { density: Some(0.5), ..Default::default() });
        let settings = of_recipe(&recipe, None);
        assert_eq!((settings.sparsity.density, settings.sparsity.layers.len()), (1.0, 0));
        assert_eq!(settings.loss, Loss::MeanSquaredError);
    }

    #[test]
    fn the_normalisation_goes_with_the_model() {
        let data = Dataset::load("digits").unwrap();
        let settings = of_recipe(&Recipe::default(), Some(&data));
        assert_eq!(settings.metadata, [(NORMALIZE_KEY.to_owned(), data.normalization.to_json())]);
        let given = of_recipe(&recipe(&[("normalize", "0.5:0.25")]), Some(&data));
        assert_eq!(given.metadata[0].1, r#"{"mean":[0.5],"std":[0.25]}"#);
    }
}
