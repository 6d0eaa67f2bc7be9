//! Recurrent layers against their definition, computed step by step; the forms exporters give weights; refusals.

use super::*;
use crate::engine::interp::{Interpreter, Sources};
use crate::op::{Op, Reference};
use crate::zoo::builder::{Attribute, Fill};

const STEPS: usize = 3;
const FEATURES: usize = 2;
const HIDDEN: usize = 4;

fn gates(op: &str) -> usize {
    match op {
        "RNN" => 1,
        "GRU" => 3,
        _ => 4,
    }
}

/// A layer whose states at all steps are the output, `[N, steps, directions, hidden]`.
fn layer(op: &str, direction: &str, mut attributes: Vec<(&'static str, Attribute<'static>)>) -> ModelBuilder {
    let directions = if direction == "bidirectional" { 2 } else { 1 };
    let rows = gates(op) * HIDDEN;
    model(&[STEPS, FEATURES], |m| {
        m.parameter("w", &[directions, rows, FEATURES], Fill::Normal(0.7));
        m.parameter("r", &[directions, rows, HIDDEN], Fill::Normal(0.7));
        m.parameter("b", &[directions, 2 * rows], Fill::Normal(0.7));
        attributes.extend([("layout", Attribute::Int(1)), ("hidden_size", Attribute::Int(HIDDEN as i64))]);
        let name: &'static str = match direction {
            "forward" => "forward",
            "reverse" => "reverse",
            _ => "bidirectional",
        };
        attributes.push(("direction", Attribute::Text(name)));
        m.node(op, "output", &["input", "w", "r", "b"], &attributes);
    })
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The state after a step, as ONNX defines it; `c` is an LSTM's.
fn stepped(op: &str, after_product: bool, w: &[f64], r: &[f64], b: &[f64], x: &[f64], h: &[f64], c: &mut [f64]) -> Vec<f64> {
    let rows = gates(op) * HIDDEN;
    let product = |matrix: &[f64], columns: &[f64], row: usize| -> f64 {
        columns.iter().enumerate().map(|(i, value)| matrix[row * columns.len() + i] * value).sum()
    };
    let of_input = |gate: usize, i: usize| product(w, x, gate * HIDDEN + i) + b[gate * HIDDEN + i];
    let of_state = |gate: usize, i: usize, h: &[f64]| product(r, h, gate * HIDDEN + i) + b[rows + gate * HIDDEN + i];
    let both = |gate: usize, i: usize| of_input(gate, i) + of_state(gate, i, h);
    let each = |f: &dyn Fn(usize) -> f64| (0..HIDDEN).map(f).collect::<Vec<f64>>();
    match op {
        "RNN" => each(&|i| both(0, i).tanh()),
        "GRU" => {
            let reset = each(&|i| sigmoid(both(1, i)));
            let kept: Vec<f64> = h.iter().zip(&reset).map(|(h, reset)| h * reset).collect();
            each(&|i| {
                let own = if after_product { reset[i] * of_state(2, i, h) } else { of_state(2, i, &kept) };
                let (z, candidate) = (sigmoid(both(0, i)), (of_input(2, i) + own).tanh());
                (1.0 - z) * candidate + z * h[i]
            })
        }
        _ => {
            for (i, c) in c.iter_mut().enumerate() {
                *c = sigmoid(both(2, i)) * *c + sigmoid(both(0, i)) * both(3, i).tanh();
            }
            each(&|i| sigmoid(both(1, i)) * c[i].tanh())
        }
    }
}

/// Compares a layer with its definition for two examples.
fn check(op: &str, direction: &str, after_product: bool) {
    let attributes = if op == "GRU" { vec![("linear_before_reset", Attribute::Int(i64::from(after_product)))] } else { vec![] };
    let imported = imported(layer(op, direction, attributes));
    let graph = &imported.graph;
    let x: Vec<f64> = (0..2 * STEPS * FEATURES).map(|i| (i as f64 * 1.3).sin()).collect();
    let mut sources = Sources::new();
    let mut stored = std::collections::BTreeMap::new();
    for id in graph.ids() {
        match &graph.node(id).op {
            Op::Input(_) => drop(sources.insert(id, Reference { dims: vec![2, STEPS, FEATURES], values: x.clone() })),
            Op::Parameter(_) => {
                let initial = &graph.initial[&id];
                let values: Vec<f64> = initial.values.iter().map(|&v| f64::from(v)).collect();
                stored.insert(graph.node(id).outputs[0].name.clone(), values.clone());
                sources.insert(id, Reference { dims: initial.dims.clone(), values });
            }
            _ => {}
        }
    }
    let got = Interpreter::new(graph).unwrap().evaluate(&sources, &[graph.output.unwrap()]).unwrap().remove(0);
    let directions: &[&str] = if direction == "bidirectional" { &["forward", "reverse"] } else { &[direction] };
    assert_eq!(got.dims, [2, STEPS, directions.len(), HIDDEN]);
    let rows = gates(op) * HIDDEN;
    for (d, own) in directions.iter().enumerate() {
        let of = |name: &str| stored.get(name).or_else(|| stored.get(&format!("{name}.{own}"))).unwrap();
        let b = &of("b")[d * 2 * rows..][..2 * rows];
        for example in 0..2 {
            let (mut h, mut c) = (vec![0.0; HIDDEN], vec![0.0; HIDDEN]);
            for i in 0..STEPS {
                let step = if *own == "reverse" { STEPS - 1 - i } else { i };
                let x = &x[(example * STEPS + step) * FEATURES..][..FEATURES];
                h = stepped(op, after_product, of("w"), of("r"), b, x, &h, &mut c);
                let at = ((example * STEPS + step) * directions.len() + d) * HIDDEN;
                for (got, wanted) in got.values[at..at + HIDDEN].iter().zip(&h) {
                    assert!((got - wanted).abs() < 1e-12, "{op} {direction} at step {step}: {got}, not {wanted}");
                }
            }
        }
    }
}

#[test]
fn layers_compute_what_onnx_defines() {
    for direction in ["forward", "reverse", "bidirectional"] {
        check("RNN", direction, false);
        check("GRU", direction, false);
        check("GRU", direction, true);
        check("LSTM", direction, false);
    }
}

#[test]
fn gates_in_another_order_are_followed_to_the_parameter() {
    // PyTorch keeps update, reset, candidate as reset, update, candidate.
    let builder = model(&[STEPS, FEATURES], |m| {
        for (name, columns) in [("w", FEATURES), ("r", HIDDEN)] {
            m.parameter(name, &[3 * HIDDEN, columns], Fill::Normal(1.0));
            for (i, [start, end]) in [[0, 4], [4, 8], [8, 12]].into_iter().enumerate() {
                m.list(&format!("{name}.start{i}"), &[start]);
                m.list(&format!("{name}.end{i}"), &[end]);
                let gate = format!("{name}.gate{i}");
                m.node("Slice", &gate, &[name, &format!("{name}.start{i}"), &format!("{name}.end{i}"), "zero"], &[]);
            }
            let parts = [1, 0, 2].map(|gate| format!("{name}.gate{gate}"));
            m.node("Concat", &format!("{name}.onnx"), &parts.each_ref().map(String::as_str), &[("axis", Attribute::Int(0))]);
            m.node("Unsqueeze", &format!("{name}.whole"), &[&format!("{name}.onnx"), "zero"], &[]);
        }
        m.list("zero", &[0]);
        let attributes = [("layout", Attribute::Int(1)), ("linear_before_reset", Attribute::Int(1))];
        m.node("GRU", "output", &["input", "w.whole", "r.whole"], &attributes);
    });
    let graph = imported(builder).graph;
    assert_eq!(parameter_names(&graph), ["w", "r"]);
    // The update gate is the second block of what w gives.
    let update = graph.ids().into_iter().find_map(|id| match &graph.node(id).op {
        Op::Slice(slice) if slice.count == HIDDEN => Some(slice.start),
        _ => None,
    });
    assert_eq!(update, Some(HIDDEN));
    assert!(operations(&graph).iter().filter(|op| **op == "linear").count() == 2 * STEPS - 1);
}

#[test]
fn what_cannot_be_unrolled_is_refused() {
    let along_examples = model(&[STEPS, FEATURES], |m| {
        m.parameter("w", &[1, 4 * HIDDEN, FEATURES], Fill::Normal(1.0));
        m.parameter("r", &[1, 4 * HIDDEN, HIDDEN], Fill::Normal(1.0));
        m.node("LSTM", "output", &["input", "w", "r"], &[]);
    });
    assert_refused(along_examples, Kind::Unsupported, &["'output' (LSTM)", "along the axis of the examples", "batch_first"]);
    let lengths = model(&[STEPS, FEATURES], |m| {
        m.parameter("w", &[1, 4 * HIDDEN, FEATURES], Fill::Normal(1.0));
        m.parameter("r", &[1, 4 * HIDDEN, HIDDEN], Fill::Normal(1.0));
        m.list("lengths", &[2, 3]);
        m.node("LSTM", "output", &["input", "w", "r", "", "lengths"], &[("layout", Attribute::Int(1))]);
    });
    assert_refused(lengths, Kind::Unsupported, &["lengths of its sequences"]);
    let clipped = layer("GRU", "forward", vec![("clip", Attribute::Float(1.0))]);
    assert_refused(clipped, Kind::Attribute, &["'clip' of 'output'"]);
}
