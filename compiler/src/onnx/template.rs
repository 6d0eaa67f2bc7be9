//! From a prepared file back to a finished one, with a known place for each parameter's values.
//!
//! The runtime copies trained values to those places and parses nothing. The file is the imported one - same graph, names and unknown
//! fields - in its form for inference: batch normalization reads its running statistics, dropout passes through, a random switch is its probability, the batch
//! is symbolic.

use super::import::Source;
use super::tensor;
use super::{prepare, random, untie, wire};
use crate::ir::{Graph, NodeId};
use mest_runtime::manifest::Template;
use onnx_protobuf::tensor_shape_proto::dimension;
use onnx_protobuf::{GraphProto, Message, NodeProto, StringStringEntryProto, ValueInfoProto, type_proto};
use std::collections::{HashMap, HashSet};

/// A template cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A parameter of the graph is not one of the file.
    #[error("parameter '{name}' of {dims:?} is not an initialiser of the imported file; passes may rename no parameter")]
    Unknown {
        /// The parameter's name.
        name: String,
        /// Its extents.
        dims: Vec<usize>,
    },
    /// The model does not serialise.
    #[error("the model cannot be written: {0}")]
    Write(String),
}

impl Source {
    /// Stores every parameter of `graph` as raw float32, which the template needs.
    pub(super) fn store_parameters(&mut self, graph: &Graph) {
        let parameters: HashMap<&str, NodeId> =
            graph.parameters().into_iter().map(|id| (graph.node(id).outputs[0].name.as_str(), id)).collect();
        for initializer in &mut self.model.graph.mut_or_insert_default().initializer {
            let value = parameters.get(initializer.name.as_str()).and_then(|id| graph.initial.get(id));
            if let Some(value) = value.filter(|_| initializer.raw_data.is_empty()) {
                initializer.raw_data = tensor::encode("", &value.dims, &value.values).raw_data;
                initializer.float_data.clear();
            }
        }
    }

    /// The model's own metadata under `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.model.metadata_props.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }
}

/// The finished file, holding initial values, and the byte offset of each parameter of `order` in it.
///
/// `metadata` is added to the file's own; an entry with the same key replaces it.
///
/// # Errors
/// A parameter that the imported file does not have.
pub fn template(source: &Source, graph: &Graph, order: &[NodeId], metadata: &[(String, String)]) -> Result<Template, TemplateError> {
    let mut model = source.model.clone();
    let ir_version = model.ir_version;
    model.metadata_props.retain(|entry| metadata.iter().all(|(key, _)| *key != entry.key));
    for (key, value) in metadata {
        model.metadata_props.push(StringStringEntryProto { key: key.clone(), value: value.clone(), ..Default::default() });
    }
    let file = model.graph.mut_or_insert_default();
    if source.fixed_batch {
        free_batch(file, &source.targets, ir_version);
    }
    random::for_inference(file, &source.switches, ir_version);
    file.node.iter_mut().filter(|n| prepare::is_onnx(&n.domain)).for_each(for_inference);
    forget_removed_values(file);
    let bytes = model.write_to_bytes().map_err(|e| TemplateError::Write(e.to_string()))?;
    let places = wire::raw_data(&bytes).map_err(|e| TemplateError::Write(e.to_string()))?;
    let offset = |&id: &NodeId| {
        let name = &graph.node(id).outputs[0].name;
        let elements = graph.node(id).outputs[0].shape.elements();
        let place = places.get(name).filter(|place| place.len() == 4 * elements);
        place.map(|p| p.start).ok_or_else(|| TemplateError::Unknown { name: name.clone(), dims: graph.node(id).outputs[0].shape.fixed() })
    };
    let offsets = order.iter().map(offset).collect::<Result<Vec<_>, _>>()?;
    Ok(Template { bytes: bytes.into(), offsets: offsets.into() })
}

/// Adds an entry to the metadata of a serialised model; offsets into it stay as they are. The model must not have the key yet.
pub fn append_metadata(model: &mut Vec<u8>, key: &str, value: &str) {
    const METADATA: u8 = 14 << 3 | 2;
    let entry = StringStringEntryProto { key: key.to_owned(), value: value.to_owned(), ..Default::default() };
    let Ok(payload) = entry.write_to_bytes() else { return };
    model.push(METADATA);
    let mut length = payload.len();
    while length >= 0x80 {
        model.push(length as u8 | 0x80);
        length >>= 7;
    }
    model.push(length as u8);
    model.extend_from_slice(&payload);
}

/// The form of a node that neither learns nor drops.
fn for_inference(node: &mut NodeProto) {
    match node.op_type.as_str() {
        "BatchNormalization" => {
            node.attribute.retain(|a| a.name != "training_mode");
            node.output.truncate(1);
        }
        "Dropout" => {
            node.input.truncate(2);
            node.output.truncate(1);
        }
        _ => {}
    }
}

/// Undoes what ties a file to one batch: declared extents, and targets of Reshape.
fn free_batch(file: &mut GraphProto, targets: &[(usize, Vec<i64>)], ir_version: i64) {
    let parameters: HashSet<String> = file.initializer.iter().map(|t| t.name.clone()).collect();
    file.value_info.clear();
    let inputs = file.input.iter_mut().filter(|i| !parameters.contains(&i.name));
    inputs.chain(&mut file.output).for_each(free_first_axis);
    let mut taken = untie::names(file);
    for (index, target) in targets {
        let name = format!("{}.target", file.node[*index].output[0]);
        let name = add_list(file, &mut taken, &name, target, ir_version);
        let node = &mut file.node[*index];
        node.attribute.retain(|a| a.name != "allowzero" && a.name != "shape");
        node.input.truncate(1);
        node.input.push(name);
    }
}

/// Adds an initialiser of integers under `name`, or one like it that is not `taken`; returns its name.
pub(super) fn add_list(file: &mut GraphProto, taken: &mut HashSet<String>, name: &str, values: &[i64], ir_version: i64) -> String {
    let mut name = name.to_owned();
    while !taken.insert(name.clone()) {
        name.push('_');
    }
    if ir_version < 4 {
        file.input.push(list_input(&name, values.len()));
    }
    file.initializer.push(tensor::encode_list(&name, values));
    name
}

fn free_first_axis(value: &mut ValueInfoProto) {
    let tensor = match value.type_.as_mut().and_then(|t| t.value.as_mut()) {
        Some(type_proto::Value::TensorType(tensor)) => tensor,
        _ => return,
    };
    if let Some(first) = tensor.shape.as_mut().and_then(|s| s.dim.first_mut()) {
        first.value = Some(dimension::Value::DimParam("batch".to_owned()));
    }
}

fn list_input(name: &str, length: usize) -> ValueInfoProto {
    let mut tensor = type_proto::Tensor { elem_type: tensor::INT64, ..Default::default() };
    let extent =
        onnx_protobuf::tensor_shape_proto::Dimension { value: Some(dimension::Value::DimValue(length as i64)), ..Default::default() };
    tensor.shape.mut_or_insert_default().dim.push(extent);
    let mut value = ValueInfoProto { name: name.to_owned(), ..Default::default() };
    value.type_.mut_or_insert_default().value = Some(type_proto::Value::TensorType(tensor));
    value
}

/// Type information must not speak of values that no node makes any more.
fn forget_removed_values(file: &mut GraphProto) {
    let made: HashSet<&str> = file.node.iter().flat_map(|n| n.output.iter().map(String::as_str)).collect();
    let known: HashSet<&str> = file.initializer.iter().map(|t| t.name.as_str()).chain(file.input.iter().map(|i| i.name.as_str())).collect();
    file.value_info.retain(|v| made.contains(v.name.as_str()) || known.contains(v.name.as_str()));
}
