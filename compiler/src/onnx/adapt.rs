//! Changes to a model before it is trained further: a new last layer, batch normalization where there is none.
//!
//! They are made to the prepared file itself, so the graph that trains and the model that is exported have them alike.

use super::report::{Kind, Place, Problem, Refusal};
use super::{prepare, tensor, untie};
use mest_runtime::random::{Purpose, Stream};
use mest_runtime::recipe::Recipe;
use onnx_protobuf::tensor_shape_proto::dimension;
use onnx_protobuf::{GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use std::collections::HashSet;

/// What is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adaptation {
    /// Outputs of a new last layer.
    pub head: Option<usize>,
    /// Whether convolutions that no batch normalization follows get one.
    pub insert_normalization: bool,
    /// What the new layer's weights follow from.
    pub seed: u64,
}

impl Adaptation {
    /// As the recipe says.
    pub fn of_recipe(recipe: &Recipe) -> Self {
        Adaptation { head: recipe.reset_head, insert_normalization: recipe.insert_bn, seed: recipe.seed }
    }

    /// Makes the changes.
    pub(super) fn apply(&self, graph: &mut GraphProto, ir_version: i64) -> Result<(), Problem> {
        if *self == (Adaptation { seed: self.seed, ..Default::default() }) {
            return Ok(());
        }
        if ir_version < 4 {
            let why = format!("IR version {ir_version} declares every parameter as an input, too, and can't take new ones");
            let hint = "convert it with onnx.version_converter to IR 4 or later, or leave reset-head and insert-bn out";
            return Err(Refusal::new(Kind::Version, why, hint).at(Place::Model));
        }
        // What exporters say of shapes in between would no longer hold.
        graph.value_info.clear();
        if let Some(outputs) = self.head {
            reset_head(graph, outputs, self.seed)?;
        }
        if self.insert_normalization {
            insert_normalization(graph);
        }
        Ok(())
    }
}

fn producer<'g>(graph: &'g GraphProto, value: &str) -> Option<(usize, &'g NodeProto)> {
    graph.node.iter().enumerate().find(|(_, node)| node.output.iter().any(|output| output == value))
}

fn initializer<'g>(graph: &'g GraphProto, name: &str) -> Option<(usize, &'g TensorProto)> {
    graph.initializer.iter().enumerate().find(|(_, tensor)| tensor.name == name)
}

/// The last layer: the index of its weight and the axis of its outputs, and its bias.
struct Head {
    weight: usize,
    axis: usize,
    bias: Option<usize>,
}

/// Follows the model's output back to the layer whose outputs are the classes.
fn find_head(graph: &GraphProto) -> Result<Head, Problem> {
    let missing = |why: String, place: Place| {
        let hint = "leave reset-head out and export the model with the outputs that you need";
        Refusal::unsupported(why, hint).at(place)
    };
    let output = graph.output.first().map(|output| output.name.clone()).unwrap_or_default();
    let (mut value, mut bias) = (output.clone(), None);
    loop {
        let Some((_, node)) = producer(graph, &value) else {
            let why = "no Gemm or MatMul computes it, so no last layer can be replaced".to_owned();
            return Err(missing(why, Place::Output(output)));
        };
        let input = |slot: usize| node.input.get(slot).map(String::as_str).unwrap_or_default();
        let follow = match node.op_type.as_str() {
            "Softmax" | "LogSoftmax" | "Identity" | "Dropout" | "Sigmoid" => input(0).to_owned(),
            "Add" if bias.is_none() => match (initializer(graph, input(0)), initializer(graph, input(1))) {
                (Some((index, _)), None) => {
                    bias = Some(index);
                    input(1).to_owned()
                }
                (None, Some((index, _))) => {
                    bias = Some(index);
                    input(0).to_owned()
                }
                _ => return Err(missing("it adds no bias to a last layer".to_owned(), prepare::place_of(node))),
            },
            "Gemm" | "MatMul" => {
                let transposed = node.attribute.iter().any(|a| a.name == "transB" && a.i != 0);
                if let Some((index, _)) = initializer(graph, input(2)) {
                    bias = Some(index);
                }
                return match weight(graph, input(1), if transposed { 0 } else { 1 }) {
                    Some((weight, axis)) => Ok(Head { weight, axis, bias }),
                    None => Err(missing("its weight is no parameter of two axes".to_owned(), prepare::place_of(node))),
                };
            }
            _ => return Err(missing("the last layer, as far as it can be seen, is no Gemm or MatMul".to_owned(), prepare::place_of(node))),
        };
        value = follow;
    }
}

/// The matrix behind `name`, perhaps transposed, and its axis of outputs.
fn weight(graph: &GraphProto, name: &str, axis: usize) -> Option<(usize, usize)> {
    let (name, axis) = match producer(graph, name) {
        Some((_, node)) if node.op_type == "Transpose" => (node.input.first()?.as_str(), 1 - axis),
        Some(_) => return None,
        None => (name, axis),
    };
    let (index, tensor) = initializer(graph, name)?;
    let readers = graph.node.iter().flat_map(|node| &node.input).filter(|input| *input == name).count();
    (tensor.dims.len() == 2 && readers == 1).then_some((index, axis))
}

/// Gives the last layer `outputs` outputs: normal weights of variance 1 / inputs, a bias of zeros.
fn reset_head(graph: &mut GraphProto, outputs: usize, seed: u64) -> Result<(), Problem> {
    let head = find_head(graph)?;
    let tensor = &mut graph.initializer[head.weight];
    let mut dims: Vec<usize> = tensor.dims.iter().map(|&extent| extent as usize).collect();
    dims[head.axis] = outputs;
    let deviation = (1.0 / dims[1 - head.axis].max(1) as f64).sqrt();
    let mut stream = Stream::new(seed, Purpose::Initialization, head.weight as u64);
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| (stream.normal() * deviation) as f32).collect();
    *tensor = tensor::encode(&tensor.name, &dims, &values);
    if let Some(bias) = head.bias {
        let tensor = &mut graph.initializer[bias];
        let mut dims: Vec<usize> = tensor.dims.iter().map(|&extent| extent as usize).collect();
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        *tensor = tensor::encode(&tensor.name, &dims, &vec![0.0; dims.iter().product()]);
    }
    graph.output.iter_mut().for_each(|output| declare_outputs(output, outputs));
    Ok(())
}

fn declare_outputs(output: &mut ValueInfoProto, outputs: usize) {
    if let Some(type_proto::Value::TensorType(tensor)) = output.type_.as_mut().and_then(|kind| kind.value.as_mut())
        && let Some(last) = tensor.shape.as_mut().and_then(|shape| shape.dim.last_mut())
    {
        last.value = Some(dimension::Value::DimValue(outputs as i64));
    }
}

/// Puts a batch normalization behind every convolution that none follows; what the convolution computed keeps its name behind it.
fn insert_normalization(graph: &mut GraphProto) {
    let mut taken = untie::names(graph);
    let mut fresh = |base: String| {
        let mut name = base;
        while !taken.insert(name.clone()) {
            name.push('_');
        }
        name
    };
    let is_normalization = |node: &&NodeProto| node.op_type == "BatchNormalization";
    let normalized: HashSet<String> = graph.node.iter().filter(is_normalization).filter_map(|node| node.input.first().cloned()).collect();
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node) {
        let convolution = node.op_type == "Conv" && prepare::is_onnx(&node.domain);
        let weight = node.input.get(1).and_then(|name| graph.initializer.iter().find(|tensor| tensor.name == *name));
        let channels = weight.and_then(|weight| weight.dims.first()).map(|&channels| channels as usize);
        let result = node.output.first().filter(|result| !normalized.contains(*result)).cloned();
        let (true, Some(channels), Some(result)) = (convolution, channels, result) else {
            nodes.push(node);
            continue;
        };
        let base = if node.name.is_empty() { result.clone() } else { node.name.clone() };
        let initial = [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)];
        let parameters = initial.map(|(what, value)| (fresh(format!("{base}.bn.{what}")), value));
        let raw = fresh(format!("{result}.raw"));
        node.output[0] = raw.clone();
        let input = std::iter::once(raw).chain(parameters.iter().map(|(name, _)| name.clone())).collect();
        let normalization = NodeProto {
            op_type: "BatchNormalization".to_owned(),
            name: format!("{base}.bn"),
            input,
            output: vec![result],
            ..Default::default()
        };
        graph.initializer.extend(parameters.iter().map(|(name, value)| tensor::encode(name, &[channels], &vec![*value; channels])));
        nodes.extend([node, normalization]);
    }
    graph.node = nodes;
}

#[cfg(test)]
mod tests {
    use super::super::{import_bytes, import_bytes_adapted};
    use super::*;
    use crate::zoo::builder::{Attribute, Fill, ModelBuilder};
    use crate::zoo::{self, ZooOptions};

    fn adapted(bytes: &[u8], adaptation: &Adaptation) -> Result<super::super::Imported, super::super::ImportReport> {
        import_bytes_adapted(bytes, None, adaptation)
    }

    #[test]
    fn a_new_head_has_the_outputs_that_were_asked_for_and_the_rest_stays() {
        for name in ["mlp", "resnet8"] {
            let bytes = zoo::build(name, &ZooOptions::default()).unwrap();
            let before = import_bytes(&bytes, None).unwrap();
            let after = adapted(&bytes, &Adaptation { head: Some(7), seed: 3, ..Default::default() }).unwrap();
            let logits = after.graph.logits.unwrap();
            assert_eq!(after.graph.shape(logits).fixed(), [7], "{name}");
            let values = |imported: &super::super::Imported| -> std::collections::BTreeMap<String, Vec<f32>> {
                let graph = &imported.graph;
                graph.parameters().iter().map(|id| (graph.node(*id).outputs[0].name.clone(), graph.initial[id].values.clone())).collect()
            };
            let (before, after) = (values(&before), values(&after));
            let changed: Vec<&String> = before.keys().filter(|key| before[*key] != after[*key]).collect();
            assert_eq!(changed.len(), 2, "{name}: {changed:?}");
            let again = adapted(&bytes, &Adaptation { head: Some(7), seed: 3, ..Default::default() }).unwrap();
            assert_eq!(values(&again), after, "the seed decides");
        }
    }

    #[test]
    fn a_model_without_a_last_layer_is_refused() {
        let mut model = ModelBuilder::new("m", &[2, 4, 4], 0);
        let weight = model.parameter("w", &[3, 2, 1, 1], Fill::Normal(1.0));
        let y = model.node("Conv", "y", &["input", &weight], &[("kernel_shape", Attribute::Ints(&[1, 1]))]);
        let pooled = model.node("GlobalAveragePool", "p", &[&y], &[]);
        let flat = model.node("Flatten", "f", &[&pooled], &[]);
        let bytes = model.output(&flat, &[3]).finish();
        let error = adapted(&bytes, &Adaptation { head: Some(7), ..Default::default() }).unwrap_err().to_string();
        assert!(error.contains("node 'f' (Flatten)") && error.contains("reset-head"), "{error}");
    }

    #[test]
    fn convolutions_get_batch_normalization_where_none_follows() {
        let mut model = ModelBuilder::new("m", &[2, 4, 4], 0);
        let first = model.parameter("first.weight", &[3, 2, 1, 1], Fill::Normal(1.0));
        let second = model.parameter("second.weight", &[4, 3, 1, 1], Fill::Normal(1.0));
        let kernel = [1, 1];
        let x = model.node("Conv", "first", &["input", &first], &[("kernel_shape", Attribute::Ints(&kernel))]);
        let x = model.node("Relu", "relu", &[&x], &[]);
        let x = model.node("Conv", "second", &[&x, &second], &[("kernel_shape", Attribute::Ints(&kernel))]);
        let scale = model.parameter("scale", &[4], Fill::Constant(2.0));
        let shift = model.parameter("shift", &[4], Fill::Constant(0.0));
        let mean = model.parameter("mean", &[4], Fill::Constant(0.0));
        let variance = model.parameter("variance", &[4], Fill::Constant(1.0));
        let x = model.node("BatchNormalization", "own", &[&x, &scale, &shift, &mean, &variance], &[]);
        let x = model.node("GlobalAveragePool", "p", &[&x], &[]);
        let x = model.node("Flatten", "f", &[&x], &[]);
        let bytes = model.output(&x, &[4]).finish();
        let imported = adapted(&bytes, &Adaptation { insert_normalization: true, ..Default::default() }).unwrap();
        let names: Vec<&str> = imported.graph.ids().into_iter().map(|id| imported.graph.node(id).op.operator().name()).collect();
        assert_eq!(names.iter().filter(|name| **name == "batch_normalization").count(), 2, "{names:?}");
        let parameters: Vec<String> =
            imported.graph.parameters().into_iter().map(|id| imported.graph.node(id).outputs[0].name.clone()).collect();
        assert!(parameters.contains(&"first.bn.weight".to_owned()), "{parameters:?}");
        assert!(!parameters.iter().any(|name| name.starts_with("second.bn")), "{parameters:?}");
    }
}
