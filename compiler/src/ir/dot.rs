//! Graphviz: one box a node, one arrow an operand; parameters are lines in the boxes of their readers.

use super::graph::{Graph, NodeId, Value};
use crate::op::Op;
use crate::pass::annotate_sparsity::SparsityTable;
use std::fmt::Write;

/// Prints `graph` for `dot`, top to bottom in topological order (insertion order, if there is a cycle).
///
/// With a `sparsity` table, nodes that multiply by a weight say how it is stored: scheme, density, weights budgeted of all.
pub fn print(graph: &Graph, sparsity: Option<&SparsityTable>) -> String {
    let order = graph.topological().unwrap_or_else(|_| graph.ids());
    let shown: Vec<NodeId> = order.into_iter().filter(|&id| !is_parameter(graph, id)).collect();
    let mut text = format!("digraph {} {{\n  node [shape=box, fontname=\"monospace\"];\n", quote(&graph.name));
    for (index, &id) in shown.iter().enumerate() {
        let fill = if graph.inputs(id).is_empty() { ", style=filled, fillcolor=lightgrey" } else { "" };
        let _ = writeln!(text, "  n{index} [label={}{fill}];", quote(&label(graph, id, sparsity).join("\n")));
    }
    for (index, &id) in shown.iter().enumerate() {
        for value in graph.inputs(id) {
            // Arrows come only from boxes: a parameter has none, nor has a node that was removed.
            if let Some(producer) = shown.iter().position(|&shown| shown == value.node) {
                let output =
                    if graph.node(value.node).outputs.len() > 1 { format!(" [label=\"{}\"]", value.output) } else { String::new() };
                let _ = writeln!(text, "  n{producer} -> n{index}{output};");
            }
        }
    }
    text.push_str("}\n");
    text
}

fn is_parameter(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.node(id).op, Op::Parameter(_))
}

/// The lines of a box: operation, outputs, parameters, sparsity, what the graph's results are.
fn label(graph: &Graph, id: NodeId, sparsity: Option<&SparsityTable>) -> Vec<String> {
    let node = graph.node(id);
    let mut lines = vec![format!("{} '{}'", node.op.operator().name(), node.name)];
    lines.extend(node.outputs.iter().map(|output| format!("{}: {}", output.name, output.shape)));
    for value in graph.inputs(id).into_iter().filter(|value| graph.contains(*value) && is_parameter(graph, value.node)) {
        lines.push(format!("reads {}: {}", graph.info(value).name, graph.shape(value)));
    }
    if let Some(layer) = sparsity.and_then(|table| table.of_user(id)) {
        let density = layer.density.map_or(String::new(), |density| format!(", density {density}"));
        lines.push(format!("{}{density}: {} of {} weights", layer.scheme_name(), layer.nnz(), layer.units.weights()));
    }
    lines.extend(graph.outputs(id).into_iter().flat_map(|value| results(graph, value)));
    lines
}

/// What a value is to the graph.
fn results(graph: &Graph, value: Value) -> Vec<String> {
    let mut lines = vec![];
    if graph.output == Some(value) {
        lines.push("is the output".to_owned());
    }
    if graph.logits == Some(value) && graph.output != Some(value) {
        lines.push("is the logits".to_owned());
    }
    for (what, results) in [("gradient", &graph.gradients), ("new value", &graph.state_updates)] {
        for (&parameter, _) in results.iter().filter(|(_, result)| **result == value) {
            lines.push(format!("is the {what} of {}", graph.info(Value { node: parameter, output: 0 }).name));
        }
    }
    lines
}

/// A DOT string: quotes and backslashes escaped, line ends as left-aligned breaks.
fn quote(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    let breaks = if escaped.contains('\n') { escaped.replace('\n', "\\l") + "\\l" } else { escaped };
    format!("\"{breaks}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::arbitrary::graphs;
    use crate::ir::text::parse;
    use crate::pass::annotate_sparsity::{SparsityRequest, annotate};
    use mest_runtime::recipe::Distribution;
    use mest_runtime::sparse::Scheme;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn weighted_nodes_show_their_sparsity() {
        let graph = parse(
            r#"graph "a \"model\""
%x = input() {"shape":["N",8]} : [N, 8]
%w = parameter() {"dims":[8,4],"role":"Trainable"} : [8, 4]
%v = parameter() {"dims":[4,2],"role":"Trainable"} : [4, 2]
%h = linear(%x, %w) : [N, 4]  @"fc1"
%y = linear(%h, %v) : [N, 2]  @"fc2"
output %y
logits %y
gradient %w = %w
"#,
        )
        .unwrap();
        let (layers, masks) = (BTreeMap::new(), BTreeMap::new());
        let table = annotate(
            &graph,
            &SparsityRequest {
                density: 0.25,
                distribution: Distribution::Uniform,
                scheme: Scheme::Unstructured,
                patterns: Default::default(),
                layers,
                masks,
            },
        )
        .unwrap();
        let expected = r#"digraph "a \"model\"" {
  node [shape=box, fontname="monospace"];
  n0 [label="input 'x'\lx: [N, 8]\l", style=filled, fillcolor=lightgrey];
  n1 [label="linear 'fc1'\lh: [N, 4]\lreads w: [8, 4]\lunstructured, density 0.25: 8 of 32 weights\l"];
  n2 [label="linear 'fc2'\ly: [N, 2]\lreads v: [4, 2]\ldense: 8 of 8 weights\lis the output\l"];
  n0 -> n1;
  n1 -> n2;
}
"#;
        assert_eq!(print(&graph, Some(&table)), expected);
        assert!(!print(&graph, None).contains("weights"));
    }

    proptest! {
        #[test]
        fn every_operand_but_parameters_is_an_arrow_between_boxes(graph in graphs()) {
            let text = print(&graph, None);
            let (arrows, boxes): (Vec<_>, Vec<_>) = text.lines().filter(|line| line.starts_with("  n") && !line.starts_with("  node")).partition(|line| line.contains(" -> n"));
            prop_assert_eq!(boxes.len(), graph.len() - graph.parameters().len());
            let operands = graph.ids().into_iter().flat_map(|id| graph.inputs(id));
            prop_assert_eq!(arrows.len(), operands.filter(|value| !is_parameter(&graph, value.node)).count());
            for end in arrows.iter().flat_map(|line| line.split(" -> ")) {
                let index: String = end.trim().trim_start_matches('n').chars().take_while(char::is_ascii_digit).collect();
                prop_assert!(index.parse::<usize>().unwrap() < boxes.len());
            }
        }
    }
}
