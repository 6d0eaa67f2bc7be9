//! What is done to the parsed file before it is read as a graph: afterwards every learned tensor is a dense, inline float32
//! initialiser of its own name, in the file as in the graph. The exported template is this same prepared model.

use super::attributes;
use super::external::ExternalData;
use super::report::{Kind, Place, Problem, Refusal};
use super::tensor::{self, Elements, Extent, Folded};
use onnx_protobuf::{GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// First and last version of ONNX's operator set that is understood.
pub const OPSETS: (i64, i64) = (7, 28);

/// A constant computed at import may have this many elements more than the file backs.
pub(super) const FOLD_LIMIT: usize = 1 << 22;

/// Elements of all weights that a file gives as the constants they begin with, instead of storing them.
const WEIGHT_LIMIT: usize = 1 << 28;

/// Names an exporter made up: a tensor so named is no learned one, except as the weight of a layer.
pub(super) fn is_generated(name: &str) -> bool {
    let numbered = name.strip_prefix("val_").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit() || b == b'_'));
    numbered || name.starts_with("onnx::") || name.contains("Constant")
}

/// What an initialiser is when input `slot` of an `op` reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// The weight or bias of a layer, whatever its name.
    Weight,
    /// Learned, unless its name says that an exporter made it up.
    Operand,
    /// A running statistic.
    Statistic,
    /// Not a parameter: extents, bounds, ratios.
    Setting,
}

pub(super) fn use_of(op: &str, slot: usize) -> Use {
    match (op, slot) {
        ("Conv" | "ConvTranspose" | "Gemm", 1 | 2) | ("MatMul", _) => Use::Weight,
        (op, 1..=3) if super::recurrent::is_recurrent(op) => Use::Weight,
        ("Transpose" | "Reshape" | "Identity" | "Flatten" | "Squeeze" | "Unsqueeze", 0) => Use::Weight,
        ("BatchNormalization", 3 | 4) => Use::Statistic,
        (
            "BatchNormalization" | "PRelu" | "LayerNormalization" | "RMSNormalization" | "GroupNormalization" | "InstanceNormalization",
            1 | 2,
        ) => Use::Operand,
        ("Concat", _) | ("Expand" | "Slice" | "Split" | "Gather" | "GatherND" | "Pad" | "Tile", 0) | ("Where", 1 | 2) => Use::Operand,
        ("Add" | "Sub" | "Mul" | "Div" | "Sum", _) => Use::Operand,
        (op, 0) if op == "Pow" || super::activations::function_of(op).is_some() => Use::Operand,
        _ => Use::Setting,
    }
}

/// The version of ONNX's own operator set.
pub(super) fn opset(model: &ModelProto) -> Result<i64, Refusal> {
    if model.ir_version < 3 {
        let why = format!("IR version {} is not one of a model with named operator sets", model.ir_version);
        return Err(Refusal::new(Kind::Version, why, "convert it with onnx.version_converter to IR 3 or later"));
    }
    let version = model.opset_import.iter().find(|o| is_onnx(&o.domain)).map(|o| o.version);
    let Some(version) = version else {
        return Err(Refusal::new(Kind::Version, "no version of the ONNX operator set is named", "the file is damaged; export it again"));
    };
    if version < OPSETS.0 || version > OPSETS.1 {
        let why = format!("operator set {version} is outside {} to {}", OPSETS.0, OPSETS.1);
        return Err(Refusal::new(Kind::Version, why, "export with opset_version=20, or use onnx.version_converter"));
    }
    Ok(version)
}

/// Whether a domain is ONNX's own.
pub(super) fn is_onnx(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// Brings `graph` into the form described above; returns what stands in the way.
pub(super) fn prepare(graph: &mut GraphProto, folder: Option<&Path>, file_bytes: usize) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut external = ExternalData::new(folder);
    for tensor in &mut graph.initializer {
        if let Err(refusal) = external.bring_inline(tensor) {
            problems.push(refusal.at(Place::Initializer(tensor.name.clone())));
        }
    }
    for node in &mut graph.node {
        let place = place_of(node);
        for tensor in node.attribute.iter_mut().filter_map(|a| a.t.as_mut()) {
            if let Err(refusal) = external.bring_inline(tensor) {
                problems.push(refusal.at(place.clone()));
            }
        }
    }
    let mut budget = file_bytes.saturating_mul(64).max(FOLD_LIMIT);
    for sparse in std::mem::take(&mut graph.sparse_initializer) {
        let name = sparse.values.name.clone();
        match dense(&sparse, &mut budget) {
            Ok(tensor) => graph.initializer.push(tensor),
            Err(refusal) => problems.push(refusal.at(Place::Initializer(name))),
        }
    }
    hoist_weights(graph);
    if problems.is_empty() {
        super::recurrent::separate_directions(graph);
        separate_identities(graph);
    }
    problems
}

/// Where a node is, for messages; a nameless one is called after its operation and output.
pub(super) fn place_of(node: &NodeProto) -> Place {
    let op = if is_onnx(&node.domain) { node.op_type.clone() } else { format!("{}.{}", node.domain, node.op_type) };
    Place::Node { op, name: name_of(node) }
}

/// A node's name, or one derived from its operation and first output.
pub(super) fn name_of(node: &NodeProto) -> String {
    match node.output.first() {
        _ if !node.name.is_empty() => node.name.clone(),
        Some(output) => format!("{}:{output}", node.op_type),
        None => node.op_type.clone(),
    }
}

/// A sparse initialiser as a dense one; `budget` is what all of them may take, in elements.
fn dense(sparse: &SparseTensorProto, budget: &mut usize) -> Result<TensorProto, Refusal> {
    let malformed = |why: String| Refusal::new(Kind::Malformed, why, "export the model again with dense initialisers");
    let (dims, count) = tensor::extents(&sparse.dims)?;
    *budget = budget.checked_sub(count).ok_or_else(|| {
        Refusal::new(
            Kind::Size,
            format!("sparse extents {dims:?} are far larger than the file"),
            "export the model with dense initialisers",
        )
    })?;
    let (_, values) = tensor::float32(&sparse.values)?;
    let indices = tensor::folded(&sparse.indices)?;
    let flat = indices.integers().ok_or_else(|| malformed("the indices of a sparse tensor are not integers".into()))?;
    let linear = match indices.dims[..] {
        [n] if n == values.len() => flat,
        [n, rank] if n == values.len() && rank == dims.len() && rank > 0 => {
            let along = |index: &[i64]| {
                index.iter().zip(&dims).try_fold(0i64, |at, (&i, &d)| {
                    let inside = (0..d as i64).contains(&i);
                    if inside { at.checked_mul(d as i64)?.checked_add(i) } else { None }
                })
            };
            flat.chunks(rank).map(along).collect::<Option<_>>().ok_or_else(|| malformed(format!("an index lies outside {dims:?}")))?
        }
        _ => return Err(malformed(format!("{} values with indices of extents {:?}", values.len(), indices.dims))),
    };
    let mut all = vec![0.0; count];
    for (&at, value) in linear.iter().zip(values) {
        let slot = usize::try_from(at).ok().and_then(|at| all.get_mut(at));
        *slot.ok_or_else(|| malformed(format!("index {at} lies outside {dims:?}")))? = value;
    }
    Ok(tensor::encode(&sparse.values.name, &dims, &all))
}

/// Makes initialisers of the constants that layers use as weights, scales and running statistics.
fn hoist_weights(graph: &mut GraphProto) {
    let needs_initializer = |op: &str, slot: usize| match op {
        "Conv" | "ConvTranspose" | "Gemm" => slot == 1,
        "MatMul" => slot <= 1,
        "BatchNormalization" => slot >= 1,
        _ => false,
    };
    let mut weights: HashSet<&str> = graph
        .node
        .iter()
        .flat_map(|n| n.input.iter().enumerate().filter(|(slot, _)| needs_initializer(&n.op_type, *slot)))
        .map(|(_, input)| input.as_str())
        .collect();
    // Backward, as nodes come in order: a layer may read its weight through a view.
    for view in graph.node.iter().rev().filter(|n| matches!(n.op_type.as_str(), "Reshape" | "Transpose" | "Flatten" | "Identity")) {
        if let (Some(input), true) = (view.input.first(), view.output.iter().any(|output| weights.contains(output.as_str()))) {
            weights.insert(input);
        }
    }
    let lists: HashMap<&str, Folded> = graph
        .initializer
        .iter()
        .filter(|t| t.data_type == tensor::INT64)
        .filter_map(|t| Some((t.name.as_str(), tensor::folded(t).ok()?)))
        .collect();
    let mut budget = WEIGHT_LIMIT;
    let hoisted: Vec<(usize, TensorProto)> = (0..graph.node.len())
        .filter(|&i| graph.node[i].output.first().is_some_and(|o| weights.contains(o.as_str())))
        .filter_map(|i| {
            let node = &graph.node[i];
            let constant = match node.op_type.as_str() {
                "Constant" => constant(node).ok()?,
                "ConstantOfShape" => constant_of_shape(node, lists.get(node.input.first()?.as_str())?, &mut budget).ok()?,
                _ => return None,
            };
            let Elements::Floats(values) = constant.elements else { return None };
            Some((i, tensor::encode(&node.output[0], &constant.dims, &values)))
        })
        .collect();
    for (index, tensor) in hoisted.into_iter().rev() {
        graph.node.remove(index);
        graph.initializer.push(tensor);
    }
}

/// The value of a `Constant` node.
pub(super) fn constant(node: &NodeProto) -> Result<Folded, Refusal> {
    let known = |values: &[i64]| Elements::Integers(values.iter().map(|&v| Extent::Known(v)).collect());
    if let Some(value) = attributes::tensor(node, "value")? {
        return tensor::folded(value);
    }
    if let Some(value) = attributes::float(node, "value_float")? {
        return Ok(Folded::scalar(value));
    }
    if let Some(values) = attributes::floats(node, "value_floats")? {
        return Ok(Folded { dims: vec![values.len()], elements: Elements::Floats(values.to_vec()) });
    }
    if let Some(value) = attributes::int(node, "value_int")? {
        return Ok(Folded { dims: vec![], elements: known(&[value]) });
    }
    if let Some(values) = attributes::ints(node, "value_ints")? {
        return Ok(Folded { dims: vec![values.len()], elements: known(values) });
    }
    Err(Refusal::unsupported("is a constant of text or of a sparse tensor", "only dense numbers can be used"))
}

/// The value of a `ConstantOfShape` node, whose elements are taken off `budget`.
pub(super) fn constant_of_shape(node: &NodeProto, shape: &Folded, budget: &mut usize) -> Result<Folded, Refusal> {
    let extents = shape.integers().ok_or_else(|| Refusal::unsupported("its shape depends on the batch", "compute it before exporting"))?;
    let (dims, count) = tensor::extents(&extents)?;
    *budget = budget
        .checked_sub(count)
        .ok_or_else(|| Refusal::new(Kind::Size, format!("makes a constant of {count} elements"), "store it as an initialiser"))?;
    let fill = attributes::tensor(node, "value")?.map(tensor::folded).transpose()?.unwrap_or(Folded::scalar(0.0));
    let elements = match &fill.elements {
        Elements::Floats(v) if v.len() == 1 => Elements::Floats(vec![v[0]; count]),
        Elements::Integers(v) if v.len() == 1 => Elements::Integers(vec![v[0]; count]),
        _ => return Err(Refusal::new(Kind::Attribute, "attribute 'value' must hold one element", "the file is damaged")),
    };
    Ok(Folded { dims, elements })
}

/// One-dimensional or constant-valued tensors: an exporter merges them because they happen to be equal, not because they are shared.
pub(super) fn equal_by_chance(tensor: &TensorProto) -> bool {
    if tensor.data_type != tensor::FLOAT {
        return false;
    }
    let Ok((dims, values)) = tensor::float32(tensor) else { return false };
    dims.len() <= 1 || values.windows(2).all(|pair| pair[0] == pair[1])
}

/// `b = Identity(a)` of tensors that an exporter merged by value: `b` becomes an initialiser again.
fn separate_identities(graph: &mut GraphProto) {
    let chance: HashMap<&str, usize> =
        graph.initializer.iter().enumerate().filter(|(_, t)| equal_by_chance(t)).map(|(i, t)| (t.name.as_str(), i)).collect();
    let outputs: HashSet<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
    let separated: Vec<(usize, usize)> = (0..graph.node.len())
        .filter(|&i| graph.node[i].op_type == "Identity" && is_onnx(&graph.node[i].domain) && graph.node[i].output.len() == 1)
        .filter(|&i| !outputs.contains(graph.node[i].output[0].as_str()))
        .filter_map(|i| Some((i, *chance.get(graph.node[i].input.first()?.as_str())?)))
        .collect();
    let mut budget = FOLD_LIMIT;
    for (node, tensor) in separated.into_iter().rev() {
        let size = graph.initializer[tensor].raw_data.len().max(graph.initializer[tensor].float_data.len() * 4);
        let Some(left) = budget.checked_sub(size) else { return };
        budget = left;
        let identity = graph.node.remove(node);
        let copy = TensorProto { name: identity.output[0].clone(), ..graph.initializer[tensor].clone() };
        graph.initializer.push(copy);
    }
}
