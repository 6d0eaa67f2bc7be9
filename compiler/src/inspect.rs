//! What a model is made of, and what of it can be trained sparse: the data behind `mestc inspect`.

use crate::ir::graph::Role;
use crate::ir::{Graph, NodeId};
use crate::onnx::{self, ImportReport, Kind, Place};
use crate::op::Op;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A node that cannot be trained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unsupported {
    /// Its operation.
    pub op: String,
    /// Its name.
    pub node: String,
    /// The reason, and a way out.
    pub why: String,
}

/// A learned tensor or a running statistic.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParameterRow {
    /// Its ONNX initialiser.
    pub name: String,
    /// Extents.
    pub dims: Vec<usize>,
    /// Number of elements.
    pub elements: usize,
    /// Whether it is learned or follows the data.
    pub role: Role,
    /// The operation it is the weight of; none for biases, scales and statistics.
    pub layer: Option<&'static str>,
    /// Whether it has a weight matrix that may be sparse.
    pub can_be_sparse: bool,
    /// Forward operations an example of the layer it is the weight of.
    pub flops: f64,
}

/// What `mestc inspect` shows. The first four fields are the stable ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InspectReport {
    /// How often each ONNX operation occurs.
    pub ops: BTreeMap<String, usize>,
    /// Every node that cannot be trained.
    pub unsupported: Vec<Unsupported>,
    /// Learned elements; where the model cannot be imported, all float elements of the file.
    pub parameters: usize,
    /// Operations of a forward pass of one example, a multiply-add being two; 0 where the model cannot be imported.
    pub flops_per_example: f64,
    /// The model's name.
    pub name: String,
    /// Name and extents of the input.
    pub input: Option<(String, String)>,
    /// Name and extents of the output.
    pub output: Option<(String, String)>,
    /// Each parameter.
    pub table: Vec<ParameterRow>,
    /// Learned elements that may be sparse.
    pub sparse_candidates: usize,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// Looks at a model file. One whose only fault is nodes that cannot be trained is reported on all the same.
///
/// # Errors
/// The file cannot be read or is not sound.
pub fn inspect(path: &Path) -> Result<InspectReport, ImportReport> {
    match onnx::import(path) {
        Ok(imported) => Ok(describe(&imported)),
        Err(report) if report.problems.iter().all(|p| p.kind == Kind::Unsupported) => partial(path, report),
        Err(report) => Err(report),
    }
}

fn describe(imported: &onnx::Imported) -> InspectReport {
    let graph = &imported.graph;
    let weights = weights(graph);
    let row = |id: NodeId| {
        let node = graph.node(id);
        let Op::Parameter(parameter) = &node.op else { return None };
        let layer = weights.get(&id);
        Some(ParameterRow {
            name: node.outputs[0].name.clone(),
            dims: parameter.dims.clone(),
            elements: parameter.dims.iter().product(),
            role: parameter.role,
            layer: layer.map(|l| l.0),
            can_be_sparse: layer.is_some() && parameter.role == Role::Trainable,
            flops: layer.map_or(0.0, |l| l.1),
        })
    };
    let table: Vec<_> = graph.parameters().into_iter().filter_map(row).collect();
    let sum = |keep: &dyn Fn(&ParameterRow) -> bool| table.iter().filter(|r| keep(r)).map(|r| r.elements).sum();
    let named = |value| (graph.info(value).name.clone(), graph.shape(value).to_string());
    let input = graph.ids().into_iter().find(|&id| matches!(graph.node(id).op, Op::Input(_)));
    InspectReport {
        ops: imported.operations.clone(),
        unsupported: vec![],
        parameters: sum(&|r| r.role == Role::Trainable),
        flops_per_example: graph.ids().into_iter().map(|id| flops(graph, id)).sum(),
        name: graph.name.clone(),
        input: input.map(|id| named(graph.outputs(id)[0])),
        output: graph.output.map(named),
        sparse_candidates: sum(&|r| r.can_be_sparse),
        table,
        warnings: imported.warnings.clone(),
    }
}

fn flops(graph: &Graph, id: NodeId) -> f64 {
    let inputs = graph.inputs(id);
    let inputs: Vec<_> = inputs.iter().map(|&v| graph.shape(v)).collect();
    let outputs: Vec<_> = graph.node(id).outputs.iter().map(|o| &o.shape).collect();
    graph.node(id).op.operator().cost(&inputs, &outputs).flops
}

/// The parameters that are weight matrices, seen through views: the operation and its arithmetic, summed where a weight is tied.
fn weights(graph: &Graph) -> HashMap<NodeId, (&'static str, f64)> {
    let mut weights = HashMap::new();
    for id in graph.ids() {
        let op = &graph.node(id).op;
        if !matches!(op, Op::Convolution(_) | Op::Linear(_)) {
            continue;
        }
        let mut source = graph.inputs(id)[1].node;
        while matches!(graph.node(source).op, Op::Transpose(_) | Op::Reshape(_)) {
            source = graph.inputs(source)[0].node;
        }
        if matches!(graph.node(source).op, Op::Parameter(_)) {
            weights.entry(source).or_insert((op.operator().name(), 0.0)).1 += flops(graph, id);
        }
    }
    weights
}

/// What can be said of a model with nodes that cannot be trained.
fn partial(path: &Path, report: ImportReport) -> Result<InspectReport, ImportReport> {
    let summary = onnx::summarize(path)?;
    let unsupported = report.problems.iter().map(|problem| {
        let (op, node) = match &problem.place {
            Place::Node { op, name } => (op.clone(), name.clone()),
            other => (String::new(), other.to_string()),
        };
        Unsupported { op, node, why: format!("{}; {}", problem.why, problem.hint) }
    });
    Ok(InspectReport {
        ops: summary.operations,
        unsupported: unsupported.collect(),
        parameters: summary.float_elements,
        flops_per_example: 0.0,
        name: summary.name,
        input: None,
        output: None,
        table: vec![],
        sparse_candidates: 0,
        warnings: vec![],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::{self, ZooOptions};

    fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn a_perceptron_in_numbers() {
        let file = written(&zoo::build("mlp", &ZooOptions::default()).unwrap());
        let report = inspect(file.path()).unwrap();
        assert_eq!(report.ops, BTreeMap::from([("Flatten".into(), 1), ("Gemm".into(), 3), ("Relu".into(), 2)]));
        let weights = 784 * 300 + 300 * 100 + 100 * 10;
        assert_eq!((report.parameters, report.sparse_candidates), (weights + 410, weights));
        assert!(report.flops_per_example >= 2.0 * weights as f64 && report.flops_per_example < 2.1 * weights as f64);
        assert_eq!(report.table[0].name, "fc1.weight");
        assert_eq!((report.table[0].layer, report.table[1].layer), (Some("linear"), None));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["ops"]["Gemm"], 3);
        assert_eq!(json["parameters"], weights + 410);
    }

    #[test]
    fn unsupported_nodes_are_listed_not_refused() {
        let mut model = zoo::builder::ModelBuilder::new("odd", &[4], 0);
        model.node("NonZero", "a", &["input"], &[]);
        model.node("Det", "b", &["a"], &[]);
        let file = written(&model.output("b", &[4]).finish());
        let report = inspect(file.path()).unwrap();
        let ops: Vec<_> = report.unsupported.iter().map(|u| u.op.as_str()).collect();
        assert_eq!(ops, ["NonZero", "Det"]);
        assert_eq!(report.ops["Det"], 1);
    }

    #[test]
    fn a_file_that_is_no_model_is_refused() {
        let file = written(b"\x00not a model");
        assert_eq!(inspect(file.path()).unwrap_err().problems[0].kind, Kind::Malformed);
        assert_eq!(inspect(Path::new("nowhere/at/all.onnx")).unwrap_err().problems[0].kind, Kind::Io);
    }
}
