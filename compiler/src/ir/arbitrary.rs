//! Random graphs for property tests: valid ones, of `[N, 4]` and `[4]` values, with names that need quoting.

use super::graph::{Graph, Role, Value, ValueInfo};
use super::{Shape, Tensor};
use crate::op::{Add, BatchMoments, Clip, Expand, Input, Linear, Mul, Normalize, Op, Parameter, Relu, RunningAverage, SumTo};
use proptest::prelude::*;

const WIDTH: usize = 4;

struct Grower {
    graph: Graph,
    batched: Vec<Value>,
    uniform: Vec<Value>,
}

impl Grower {
    fn add(&mut self, op: impl Into<Op>, inputs: &[Value], batched: &[bool]) {
        const ODD: [&str; 4] = ["v", "/layer 1/out:", "\"%é\\", "a#b, "];
        let index = self.graph.len();
        let shape = |batched: bool| if batched { Shape::batched(&[WIDTH]) } else { Shape::uniform(&[WIDTH]) };
        let info = |(i, &b): (usize, &bool)| ValueInfo { name: format!("{}{index}.{i}", ODD[index % ODD.len()]), shape: shape(b) };
        let id = self.graph.add(format!("node {index}"), op.into(), inputs, batched.iter().enumerate().map(info).collect());
        for (value, &batched) in self.graph.outputs(id).into_iter().zip(batched) {
            if batched { self.batched.push(value) } else { self.uniform.push(value) }
        }
    }

    fn parameter(&mut self, dims: &[usize], role: Role) -> Value {
        let name = format!("parameter.{}", self.graph.len());
        let info = ValueInfo { name: name.clone(), shape: Shape::uniform(dims) };
        let id = self.graph.add(name, Op::from(Parameter { dims: dims.to_vec(), role }), &[], vec![info]);
        self.graph.initial.insert(id, Tensor::full(dims, 0.0).into());
        Value { node: id, output: 0 }
    }

    fn step(&mut self, (kind, a, b): (u8, usize, usize)) {
        let (x, y) = (self.batched[a % self.batched.len()], self.batched[b % self.batched.len()]);
        let (u, v) = (self.uniform[a % self.uniform.len()], self.uniform[b % self.uniform.len()]);
        match kind {
            0 | 1 => self.add(Relu {}, &[x], &[true]),
            2 | 3 => self.add(Add {}, &[x, y], &[true]),
            4 => self.add(Mul {}, &[x, v], &[true]),
            5 => self.add(Clip { low: -0.1, high: 6.0 }, &[x], &[true]),
            6 => {
                let weight = self.parameter(&[WIDTH, WIDTH], Role::Trainable);
                self.add(Linear {}, &[x, weight], &[true]);
            }
            7 => self.add(SumTo { shape: Shape::uniform(&[WIDTH]) }, &[x], &[false]),
            8 => self.add(BatchMoments {}, &[x], &[false, false]),
            9 => self.add(Normalize { epsilon: 1e-5_f32.into() }, &[x, u, v, u, v], &[true]),
            10 => self.add(RunningAverage { momentum: 0.9 }, &[u, v], &[false]),
            _ => self.add(Expand { shape: Shape::batched(&[WIDTH]) }, &[x], &[true]),
        }
    }
}

/// Graphs of up to 40 nodes and some; the last batched value is the output.
pub(crate) fn graphs() -> impl Strategy<Value = Graph> {
    prop::collection::vec((0..12_u8, any::<usize>(), any::<usize>()), 1..40).prop_map(|steps| {
        let mut grower = Grower { graph: Graph::new("random \"graph\""), batched: vec![], uniform: vec![] };
        grower.add(Input { shape: Shape::batched(&[WIDTH]) }, &[], &[true]);
        let state = grower.parameter(&[WIDTH], Role::State);
        grower.uniform.push(state);
        steps.into_iter().for_each(|step| grower.step(step));
        let mut graph = grower.graph;
        graph.output = grower.batched.last().copied();
        graph.logits = graph.output;
        if let Some(&last) = grower.uniform.last().filter(|&&last| last != state) {
            graph.state_updates.insert(state.node, last);
        }
        graph
    })
}
