//! The learned tensors of a model file as safetensors: values under their ONNX names, and a mask of each sparse one.

use super::import::parse;
use super::report::{ImportReport, Kind, Place, Refusal};
use super::tensor::FLOAT;
use crate::pass::annotate_sparsity::SparsityTable;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::collections::{BTreeMap, HashMap};

/// Metadata key under which a model keeps the scheme and the density of its sparse layers.
pub const SPARSITY_KEY: &str = "mest.sparsity";

/// A layer's entry there.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LayerMetadata {
    /// As the command line spells it.
    pub scheme: String,
    /// Share of weights that the mask is budgeted.
    pub density: f64,
}

/// `{"NAME":{"scheme":..,"density":..},..}` of the sparse layers; `None` where there is none.
pub fn sparsity_metadata(table: &SparsityTable) -> Option<String> {
    let entry = |layer: &crate::pass::annotate_sparsity::LayerSparsity| {
        Some((layer.name.clone(), LayerMetadata { scheme: layer.scheme_name(), density: layer.density? }))
    };
    let entries: BTreeMap<String, LayerMetadata> = table.layers.iter().filter_map(entry).collect();
    if entries.is_empty() { None } else { serde_json::to_string(&entries).ok() }
}

/// The float32 initialisers of the model file `bytes` as a safetensors file; `mask.NAME` (u8) of each layer that the metadata calls sparse says
/// which weights are not zero. The model's `mest.` metadata goes with them.
///
/// # Errors
/// The bytes are no model.
pub fn safetensors(bytes: &[u8]) -> Result<Vec<u8>, ImportReport> {
    let report = |refusal: Refusal| ImportReport { file: "the model".to_owned(), problems: vec![refusal.at(Place::Model)] };
    let model = parse(bytes).map_err(report)?;
    let metadata: HashMap<String, String> = model
        .metadata_props
        .iter()
        .filter(|entry| entry.key.starts_with("mest."))
        .map(|entry| (entry.key.clone(), entry.value.clone()))
        .collect();
    let sparse: BTreeMap<String, LayerMetadata> =
        metadata.get(SPARSITY_KEY).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let weights = || model.graph.initializer.iter().filter(|tensor| tensor.data_type == FLOAT && !tensor.raw_data.is_empty());
    let masks: Vec<(String, Vec<usize>, Vec<u8>)> = weights()
        .filter(|tensor| sparse.contains_key(&tensor.name))
        .map(|tensor| {
            let live = tensor.raw_data.as_chunks().0.iter().map(|&value| u8::from(f32::from_le_bytes(value) != 0.0));
            (format!("mask.{}", tensor.name), extents(&tensor.dims), live.collect())
        })
        .collect();
    let values = weights().map(|tensor| (tensor.name.clone(), Dtype::F32, extents(&tensor.dims), tensor.raw_data.as_slice()));
    let masks = masks.iter().map(|(name, dims, live)| (name.clone(), Dtype::U8, dims.clone(), live.as_slice()));
    let views = values
        .chain(masks)
        .map(|(name, kind, dims, data)| Ok::<_, safetensors::SafeTensorError>((name, TensorView::new(kind, dims, data)?)));
    let written = views.collect::<Result<Vec<_>, _>>().and_then(|views| safetensors::serialize(views, Some(metadata)));
    written.map_err(|error| report(Refusal::new(Kind::Malformed, error.to_string(), "train the model again")))
}

fn extents(dims: &[i64]) -> Vec<usize> {
    dims.iter().map(|&extent| extent.max(0) as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{append_metadata, import_bytes};
    use crate::zoo::{self, ZooOptions};
    use crate::{pipeline, settings};
    use mest_runtime::recipe::Recipe;
    use safetensors::SafeTensors;

    #[test]
    fn weights_masks_and_metadata_can_be_read_back() {
        let mut bytes = zoo::build("mlp", &ZooOptions::default()).unwrap();
        let imported = import_bytes(&bytes, None).unwrap();
        let compiled = pipeline::compile(&imported, &settings::of_recipe(&Recipe::default(), None)).unwrap();
        let metadata = sparsity_metadata(&compiled.sparsity).unwrap();
        append_metadata(&mut bytes, SPARSITY_KEY, &metadata);
        let file = safetensors(&bytes).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let sparse = compiled.sparsity.layers.iter().filter(|layer| layer.density.is_some());
        let (mut masks, mut names) = (0, vec![]);
        for layer in sparse {
            let (mask, value) = (tensors.tensor(&format!("mask.{}", layer.name)).unwrap(), tensors.tensor(&layer.name).unwrap());
            assert_eq!((mask.dtype(), mask.shape()), (Dtype::U8, value.shape()));
            masks += 1;
            names.push(layer.name.clone());
        }
        assert!(masks > 0 && names.iter().all(|name| metadata.contains(name.as_str())), "{metadata}");
        assert_eq!(tensors.len(), compiled.training.parameters().len() + masks);
        let (_, header) = SafeTensors::read_metadata(&file).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()[SPARSITY_KEY], metadata);
    }

    #[test]
    fn a_dense_model_has_no_masks() {
        let bytes = zoo::build("mlp", &ZooOptions::default()).unwrap();
        let file = safetensors(&bytes).unwrap();
        assert!(SafeTensors::deserialize(&file).unwrap().names().iter().all(|name| !name.starts_with("mask.")));
        assert!(safetensors(b"no model").is_err());
    }
}
