//! Every way in which a file can be wrong, each with its message; and what good files become.

mod forms;
mod malformed;
mod models;
mod random;
mod recurrent;
mod values;

use super::report::{ImportReport, Kind};
use super::{Imported, import_bytes};
use crate::ir::{Graph, NodeId};
use crate::zoo::builder::ModelBuilder;
use onnx_protobuf::GraphProto;

/// A model of one input `[N, dims..]` that ends in `output`.
fn model(dims: &[usize], write: impl FnOnce(&mut ModelBuilder)) -> ModelBuilder {
    let mut builder = ModelBuilder::new("test", dims, 0);
    write(&mut builder);
    builder.output("output", &[1])
}

/// Changes the graph behind a builder, as no exporter would.
fn corrupt(mut builder: ModelBuilder, change: impl FnOnce(&mut GraphProto)) -> ModelBuilder {
    change(builder.model.graph.as_mut().unwrap());
    builder
}

fn imported(builder: ModelBuilder) -> Imported {
    import_bytes(&builder.finish(), None).unwrap()
}

fn refused(builder: ModelBuilder) -> ImportReport {
    import_bytes(&builder.finish(), None).unwrap_err()
}

/// The import fails with one problem of `kind` whose text has all of `words`.
#[track_caller]
fn assert_refused(builder: ModelBuilder, kind: Kind, words: &[&str]) {
    assert_report(&refused(builder), kind, words);
}

#[track_caller]
fn assert_report(report: &ImportReport, kind: Kind, words: &[&str]) {
    let text = report.to_string();
    assert_eq!(report.problems.iter().map(|p| p.kind).collect::<Vec<_>>(), [kind], "{text}");
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

fn parameter_names(graph: &Graph) -> Vec<&str> {
    graph.parameters().into_iter().map(|id| graph.node(id).outputs[0].name.as_str()).collect()
}

fn named(graph: &Graph, value: &str) -> NodeId {
    graph.ids().into_iter().find(|&id| graph.node(id).outputs[0].name == value).unwrap()
}

/// Names of operations in topological order, sources left out.
fn operations(graph: &Graph) -> Vec<&'static str> {
    let names = graph.topological().unwrap().into_iter().map(|id| graph.node(id).op.operator().name());
    names.filter(|name| !matches!(*name, "input" | "parameter" | "constant")).collect()
}
