//! What training takes by method: the accounting that papers on sparse training compare with, beside our own plan.
//!
//! The published figure (MEST's tables and those of its rivals) counts weights, weight gradients and indices in 32-bit values, without
//! optimiser state and activations: `2 nnz` values, an index a live weight, and a start a row. SNIP begins with the dense network, RigL
//! computes a dense gradient at each mutation; a soft memory bound adds what it grows. The plan counts everything, at its peak.

use crate::budget::planned_bytes;
use crate::pipeline::Compiled;
use mest_runtime::manifest::{Manifest, Parameter, Role, Storage, Structure};
use mest_runtime::mutation::MutationConfig;
use mest_runtime::sparse::{Growth, Units};
use serde::Serialize;

/// Bytes of a value.
const VALUE: usize = 4;
/// Bytes of a row's start.
const START: usize = 4;

/// Memory of a training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accounting {
    /// Stage by stage; one where masks never change size.
    pub stages: Vec<StageMemory>,
    /// Published figure at its peak, what a method needs before training or while masks change included. Bytes.
    pub published_peak: usize,
    /// Arena and all workers' scratch: everything there is, at its peak. Bytes.
    pub planned: usize,
}

/// Memory of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StageMemory {
    /// Live weights of all layers.
    pub live: usize,
    /// Weights, weight gradients and indices as papers count them. Bytes.
    pub published: usize,
    /// What the plan has in use: all of it but the room of weights that are not live in this stage. Bytes.
    pub in_use: usize,
}

/// Memory of a training of `compiled` under `mutation`, `epochs` epochs of `iterations` iterations in all.
pub fn of(compiled: &Compiled, mutation: &MutationConfig, epochs: usize, iterations: usize) -> Accounting {
    let manifest = &compiled.program.manifest;
    let planned = planned_bytes(&compiled.program);
    let stages = manifest.parameters.iter().map(|parameter| stage_count(parameter, mutation, epochs, iterations)).max().unwrap_or(1);
    let at = |stage: usize| {
        let (mut live, mut indices, mut idle) = (0, 0, 0);
        for (index, parameter) in manifest.parameters.iter().enumerate().filter(|(_, parameter)| parameter.role == Role::Trainable) {
            let elements: usize = parameter.dims.iter().product();
            let Storage::Matrix { matrix, block, structure, capacity, density: Some(density), .. } = parameter.storage else {
                live += elements;
                continue;
            };
            let units = Units::new(matrix, block).structured(structure);
            let densities = mutation.density_by_stage(density, epochs, iterations);
            let grown = densities[stage.min(densities.len() - 1)];
            let count = if grown > density { units.grown(grown) } else { units.budget(density) };
            live += count * units.elements();
            indices += index_bytes(&units, count);
            idle += capacity.saturating_sub(count) * unit_bytes(manifest, index);
        }
        StageMemory { live, published: 2 * VALUE * live + indices, in_use: planned - idle }
    };
    let stages: Vec<StageMemory> = (0..stages).map(at).collect();
    let trainable = manifest.parameters.iter().filter(|parameter| parameter.role == Role::Trainable);
    let dense: usize = trainable.map(|parameter| parameter.dims.iter().product::<usize>()).sum();
    let largest = stages.iter().map(|stage| stage.published).max().unwrap_or(0);
    let published_peak = match (mutation.policy.saliency(), mutation.growth) {
        (Some(_), _) => 2 * VALUE * dense,
        // The gradient of every weight in place of that of the live ones.
        (None, Growth::Gradient) if mutation.policy.mutates() => largest + VALUE * (dense - stages[0].live),
        _ => largest,
    };
    Accounting { stages, published_peak, planned }
}

fn stage_count(parameter: &Parameter, mutation: &MutationConfig, epochs: usize, iterations: usize) -> usize {
    match parameter.storage {
        Storage::Matrix { density: Some(density), .. } => mutation.density_by_stage(density, epochs, iterations).len(),
        _ => 1,
    }
}

/// Compressed rows of units: an index a live unit, a start a block of rows and one more. Where every row has as many, no starts; of N in M, the
/// bits of a place among M; of kernels with patterns, those of an input channel and of a pattern; of channels, an index each.
fn index_bytes(units: &Units, live: usize) -> usize {
    let columns = units.input_blocks() * units.kernel_positions();
    let index = if columns <= 1 << 16 { 2 } else { 4 };
    let bits = |values: usize| values.next_power_of_two().ilog2() as usize;
    let clusters = live / units.cluster_units();
    match units.structure {
        Structure::Free => live * index + (units.output_blocks() + 1) * START,
        Structure::Spans { length } => (live * bits(length)).div_ceil(8),
        Structure::FanIn => live * index,
        Structure::Patterns(library) => (clusters * (bits(units.input_blocks()) + bits(library.iter().count()))).div_ceil(8),
        Structure::Inputs | Structure::Outputs => clusters * index,
    }
}

/// Bytes that our plan keeps for each unit of parameter `index` from step to step: its values, moments, number, and places in streams.
fn unit_bytes(manifest: &Manifest, index: usize) -> usize {
    let parameter = &manifest.parameters[index];
    let Storage::Matrix { block, .. } = parameter.storage else { return 0 };
    let elements = block.rows * block.columns;
    let streams = manifest.streams.iter().filter(|stream| stream.parameter == index);
    let of_streams = streams.map(|stream| 1 + usize::from(stream.source.is_some()) + stream.values.map_or(0, |_| elements));
    let of_moments: usize = parameter.moments.iter().map(|slot| slot.element.bytes() * elements).sum();
    VALUE * (elements + 1 + of_streams.sum::<usize>()) + of_moments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::{self, ZooOptions};
    use crate::{onnx, pipeline, settings};
    use mest_runtime::recipe::Recipe;

    /// MEST's network, ResNet-32 of width 2, for CIFAR-10.
    fn paper(flags: &[(&str, &str)]) -> Accounting {
        let base = [("batch", "16"), ("threads", "1"), ("epochs", "160")];
        let recipe = Recipe::default().with(base.into_iter().chain(flags.iter().copied())).unwrap();
        let model = zoo::build("resnet32", &ZooOptions { width: 2, ..Default::default() }).unwrap();
        let imported = onnx::import_bytes(&model, None).unwrap();
        let compiled = pipeline::compile(&imported, &settings::of_recipe(&recipe, None)).unwrap();
        of(&compiled, &recipe.mutation(), recipe.epochs, recipe.epochs * 782)
    }

    fn megabytes(bytes: usize) -> f64 {
        (bytes as f64 / 1e4).round() / 100.0
    }

    #[test]
    fn the_papers_network_takes_what_the_definition_says() {
        let dense = paper(&[("policy", "dense")]);
        assert_eq!((dense.stages.len(), megabytes(dense.published_peak)), (1, 14.88));
        let elastic = paper(&[("policy", "mest-em")]);
        assert_eq!((elastic.stages.len(), elastic.published_peak), (1, elastic.stages[0].published));
        assert_eq!(megabytes(elastic.published_peak), 1.99);
        assert_eq!(megabytes(paper(&[("policy", "set"), ("sparsity", "0.98")]).published_peak), 0.52);
        let block = paper(&[("policy", "mest-em"), ("scheme", "block:4x1")]);
        assert_eq!(megabytes(block.published_peak), 1.71);
        // Rounded to whole kernels in each filter: 7, 14 and 29 of 32, 64 and 128.
        let pattern = paper(&[("policy", "mest-em"), ("scheme", "pattern")]);
        assert!((1.66..1.70).contains(&megabytes(pattern.published_peak)), "{pattern:?}");
        assert_eq!(megabytes(paper(&[("policy", "snip")]).published_peak), 14.88);
        assert_eq!(megabytes(paper(&[("policy", "rigl")]).published_peak), 8.63);
    }

    #[test]
    fn a_soft_bound_falls_from_stage_to_stage_to_the_bound() {
        let soft = paper(&[("policy", "mest-ems"), ("grow-to", "0.15,0.125,0.1"), ("stages", "90,120")]);
        let published: Vec<f64> = soft.stages.iter().map(|stage| megabytes(stage.published)).collect();
        assert_eq!((published, megabytes(soft.published_peak)), (vec![2.91, 2.45, 1.99], 2.91));
        assert_eq!(soft.stages[0].in_use, soft.planned);
        assert!(soft.stages.windows(2).all(|pair| pair[0].in_use > pair[1].in_use));
        let fixed = paper(&[("policy", "mest-em")]);
        assert_eq!(soft.stages[2].live, fixed.stages[0].live);
    }
}
