//! Equal initialisers that an exporter merged become separate ones again; a matrix used twice stays tied.

use super::prepare::{FOLD_LIMIT, Use, equal_by_chance, is_generated, place_of, use_of};
use super::report::{Kind, Problem, Refusal};
use onnx_protobuf::{GraphProto, TensorProto, ValueInfoProto};
use std::collections::{HashMap, HashSet};

/// The zeros that an exporter supplies to a layer without bias.
pub(super) fn is_absent_bias(op: &str, slot: usize, tensor: &TensorProto) -> bool {
    matches!((op, slot), ("Conv" | "ConvTranspose" | "Gemm", 2))
        && tensor.name.starts_with("val_")
        && is_generated(&tensor.name)
        && super::tensor::float32(tensor).is_ok_and(|(_, values)| values.iter().all(|&v| v == 0.0))
}

/// Whether input `slot` of an `op` that reads `tensor` makes it a parameter.
pub(super) fn is_parameter(op: &str, slot: usize, tensor: &TensorProto) -> bool {
    match use_of(op, slot) {
        Use::Weight => !is_absent_bias(op, slot, tensor),
        Use::Statistic => true,
        Use::Operand => !is_generated(&tensor.name),
        Use::Setting => false,
    }
}

/// Gives every user of a merged initialiser its own: the first in `order` keeps the name, the others get NAME.1, NAME.2, ...
pub(super) fn untie(graph: &mut GraphProto, order: &[usize], ir_version: i64, file_bytes: usize) -> Result<(), Problem> {
    let by_name: HashMap<&str, usize> = graph.initializer.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
    let mut seen = HashSet::new();
    let mut copies: Vec<(usize, usize, usize)> = Vec::new();
    for &node in order {
        let op = graph.node[node].op_type.as_str();
        for (slot, input) in graph.node[node].input.iter().enumerate() {
            let Some(&tensor) = by_name.get(input.as_str()) else { continue };
            let source = &graph.initializer[tensor];
            // What is sliced is one tensor in parts, as the bias of a recurrent layer.
            if is_parameter(op, slot, source) && !seen.insert(tensor) && equal_by_chance(source) && op != "Slice" {
                copies.push((node, slot, tensor));
            }
        }
    }
    let mut budget = file_bytes.saturating_add(FOLD_LIMIT);
    let mut taken: HashSet<String> = names(graph);
    let mut counters: HashMap<usize, usize> = HashMap::new();
    for (node, slot, tensor) in copies {
        let source = graph.initializer[tensor].clone();
        let size = source.raw_data.len() + 4 * source.float_data.len();
        budget = budget.checked_sub(size).ok_or_else(|| {
            let why = format!("initialiser '{}' is shared so often that separate copies exceed the file many times", source.name);
            Refusal::new(Kind::Size, why, "give the layers initialisers of their own").at(place_of(&graph.node[node]))
        })?;
        let counter = counters.entry(tensor).or_default();
        let name = loop {
            *counter += 1;
            let name = format!("{}.{counter}", source.name);
            if taken.insert(name.clone()) {
                break name;
            }
        };
        if ir_version < 4
            && let Some(declared) = graph.input.iter().find(|i| i.name == source.name)
        {
            let declared = ValueInfoProto { name: name.clone(), ..declared.clone() };
            graph.input.push(declared);
        }
        graph.node[node].input[slot] = name.clone();
        graph.initializer.push(TensorProto { name, ..source });
    }
    Ok(())
}

/// Every name of the graph.
pub(super) fn names(graph: &GraphProto) -> HashSet<String> {
    let sources = graph.initializer.iter().map(|t| &t.name).chain(graph.input.iter().map(|i| &i.name));
    sources.chain(graph.node.iter().flat_map(|n| &n.output)).cloned().collect()
}
