//! Names and order: every name defined once, every use defined, no cycle; then the nodes that the output needs, in order.

use super::prepare::{name_of, place_of};
use super::report::{Kind, Place, Problem};
use onnx_protobuf::GraphProto;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

fn problem(kind: Kind, place: Place, why: String, hint: &str) -> Problem {
    Problem { kind, place, why, hint: hint.to_owned() }
}

/// Indices of the nodes that the outputs depend on: producers first, otherwise in the file's order.
pub(super) fn needed_nodes(graph: &GraphProto) -> Result<Vec<usize>, Vec<Problem>> {
    let producers = producers(graph)?;
    let needed = needed(graph, &producers);
    let defined: HashSet<&str> =
        graph.input.iter().map(|i| i.name.as_str()).chain(graph.initializer.iter().map(|t| t.name.as_str())).collect();
    let mut problems = Vec::new();
    let mut waiting: HashMap<usize, usize> = HashMap::new();
    let mut readers: HashMap<usize, Vec<usize>> = HashMap::new();
    for &index in &needed {
        let node = &graph.node[index];
        waiting.insert(index, 0);
        for input in node.input.iter().filter(|i| !i.is_empty()) {
            if let Some(&producer) = producers.get(input.as_str()) {
                *waiting.entry(index).or_default() += 1;
                readers.entry(producer).or_default().push(index);
            } else if !defined.contains(input.as_str()) {
                let why = format!("reads '{input}', which nothing defines");
                problems.push(problem(Kind::Name, place_of(node), why, "an initialiser is missing from the file; export it again"));
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut ready: BinaryHeap<Reverse<usize>> = needed.iter().copied().filter(|i| waiting[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(needed.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for reader in readers.remove(&index).unwrap_or_default() {
            let left = waiting.entry(reader).or_default();
            *left -= 1;
            if *left == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    if order.len() < needed.len() {
        let mut stuck: Vec<usize> = needed.into_iter().filter(|i| waiting[i] > 0).collect();
        stuck.sort_unstable();
        let names: Vec<_> = stuck.iter().take(8).map(|&i| format!("'{}'", name_of(&graph.node[i]))).collect();
        let why = format!("depends on itself; in or behind the cycle: {}", names.join(", "));
        return Err(vec![problem(Kind::Cycle, place_of(&graph.node[stuck[0]]), why, "an ONNX graph must be acyclic")]);
    }
    Ok(order)
}

/// Which node makes each value; every name must be defined once.
fn producers(graph: &GraphProto) -> Result<HashMap<&str, usize>, Vec<Problem>> {
    const HINT: &str = "give every value its own name; onnx.checker shows where";
    let mut problems = Vec::new();
    let mut sources = HashSet::new();
    for tensor in &graph.initializer {
        if !sources.insert(tensor.name.as_str()) {
            problems.push(problem(Kind::Name, Place::Initializer(tensor.name.clone()), "is defined twice".into(), HINT));
        } else if tensor.name.is_empty() {
            problems.push(problem(Kind::Name, Place::Initializer(String::new()), "has no name".into(), HINT));
        }
    }
    let mut inputs = HashSet::new();
    for input in &graph.input {
        if !inputs.insert(input.name.as_str()) {
            problems.push(problem(Kind::Name, Place::Input(input.name.clone()), "is defined twice".into(), HINT));
        }
    }
    let mut producers = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            let again = sources.contains(output.as_str()) || inputs.contains(output.as_str());
            if producers.insert(output.as_str(), index).is_some() || again {
                problems.push(problem(Kind::Name, place_of(node), format!("defines '{output}', which is defined already"), HINT));
            }
        }
    }
    if problems.is_empty() { Ok(producers) } else { Err(problems) }
}

/// The nodes that the outputs depend on, in no particular order.
fn needed(graph: &GraphProto, producers: &HashMap<&str, usize>) -> HashSet<usize> {
    let mut needed = HashSet::new();
    let mut open: Vec<usize> = graph.output.iter().filter_map(|o| producers.get(o.name.as_str()).copied()).collect();
    while let Some(index) = open.pop() {
        if needed.insert(index) {
            open.extend(graph.node[index].input.iter().filter_map(|i| producers.get(i.as_str()).copied()));
        }
    }
    needed
}
