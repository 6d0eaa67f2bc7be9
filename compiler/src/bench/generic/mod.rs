//! The shape-agnostic baseline: a training step as libraries run one, node by node over NCHW, with weights as compressed sparse rows.
//!
//! It evaluates the very graph that the compiler lowers, threaded over the batch and vectorised by LLVM, and knows no shape beforehand.
//! Masks stay what they are at the start; gradients of weights are computed for live entries alone.

mod csr;
mod elementwise;
mod kernel;
mod layers;
mod loops;
mod nest;
mod plan;
mod update;

use crate::ir::{Graph, NodeId, Value};
use crate::op::Op;
use crate::pass::annotate_sparsity::{LayerSparsity, SparsityTable};
use csr::Csr;
use kernel::Surroundings;
use loops::Threads;
use mest_runtime::lanes::Isa;
use mest_runtime::network::UpdateRule;
use mest_runtime::sparse::{Bump, mask};
use plan::Plan;
use std::collections::BTreeMap;
use std::time::Instant;
use update::Moments;

/// A graph that the baseline can't run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenericError {
    /// No order of nodes.
    #[error("the graph has a cycle through node '{0}'")]
    Cycle(String),
    /// A node without an implementation.
    #[error("node '{node}': the generic baseline has no {op} here; measure without it")]
    Unsupported {
        /// The node.
        node: String,
        /// Its operation.
        op: &'static str,
    },
    /// A parameter without a value, or a mask that does not fit its parameter.
    #[error("parameter '{name}': {why}")]
    Parameter {
        /// The parameter.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
}

/// Time of one node of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeTime {
    /// The node.
    pub node: NodeId,
    /// The weight matrix that it multiplies by, an index into the table of sparsity.
    pub layer: Option<usize>,
    /// Median over rounds, in seconds.
    pub seconds: f64,
}

/// A training graph with its memory and its threads.
#[derive(Debug)]
pub struct Generic {
    graph: Graph,
    batch: usize,
    rule: UpdateRule,
    threads: Threads,
    csrs: Vec<Csr>,
    plan: Plan,
    buffers: Vec<Vec<f32>>,
    moments: BTreeMap<NodeId, Moments>,
    partials: Vec<f32>,
    seed: u64,
    steps: u64,
}

impl Generic {
    /// The differentiated `graph` over `batch` examples, from its initial values. Sparse layers begin with the mask given by parameter, one
    /// entry an element in ONNX order, else with the units of largest magnitude.
    ///
    /// # Errors
    /// A node that it does not cover, a parameter without an initial value, or a mask of another length.
    ///
    /// # Panics
    /// The machine does not have `isa`.
    pub fn new(
        graph: Graph,
        table: &SparsityTable,
        masks: &BTreeMap<String, Vec<bool>>,
        batch: usize,
        rule: UpdateRule,
        isa: Isa,
        threads: usize,
    ) -> Result<Self, GenericError> {
        let csrs = table.layers.iter().map(|layer| live_entries(&graph, layer, masks)).collect::<Result<Vec<_>, _>>()?;
        let plan = Plan::new(&graph, table, &csrs, batch)?;
        let buffers = plan.lens.iter().map(|&len| vec![0.0; len]).collect();
        let (threads, moments) = (Threads::new(isa, threads), BTreeMap::new());
        let mut this = Generic { graph, batch, rule, threads, csrs, plan, buffers, moments, partials: vec![], seed: 0, steps: 0 };
        this.fill(table)?;
        Ok(this)
    }

    /// Puts constants and initial values into their buffers, and makes room for optimiser state.
    fn fill(&mut self, table: &SparsityTable) -> Result<(), GenericError> {
        for id in self.graph.ids() {
            let buffer = self.plan.buffers[&Value { node: id, output: 0 }];
            match &self.graph.node(id).op {
                Op::Constant(constant) => self.buffers[buffer].copy_from_slice(&constant.value.values),
                Op::Parameter(_) => {
                    let values = initial(&self.graph, id)?;
                    match table.layers.iter().position(|layer| layer.parameter == id) {
                        None => self.buffers[buffer].copy_from_slice(values),
                        Some(layer) => {
                            let entries = self.buffers[buffer].iter_mut().zip(&self.csrs[layer].places);
                            entries.for_each(|(value, &place)| *value = values[place as usize]);
                        }
                    }
                    if self.graph.gradients.contains_key(&id) {
                        let (len, count) = (self.buffers[buffer].len(), self.rule.optimizer.moments());
                        self.moments.insert(id, [0, 1].map(|i| vec![0.0; if i < count { len } else { 0 }]));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Examples of a step.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Writes a full batch: examples in ONNX order, and class indices or values.
    ///
    /// # Panics
    /// A length is not what the graph takes.
    pub fn load(&mut self, input: &[f32], target: &[f32]) {
        for id in self.graph.ids() {
            let buffer = self.plan.buffers[&Value { node: id, output: 0 }];
            match self.graph.node(id).op {
                Op::Input(_) => self.buffers[buffer].copy_from_slice(input),
                Op::Target(_) => self.buffers[buffer].copy_from_slice(target),
                _ => {}
            }
        }
    }

    /// One training step over what was loaded; returns the mean loss before it.
    pub fn step(&mut self) -> f64 {
        self.steps += 1;
        for position in 0..self.plan.steps.len() {
            self.node(position);
        }
        self.update();
        self.loss()
    }

    /// Runs `rounds` steps and times every node of them.
    pub fn profile(&mut self, rounds: usize) -> Vec<NodeTime> {
        let mut times = vec![Vec::with_capacity(rounds); self.plan.steps.len()];
        for _ in 0..rounds {
            self.steps += 1;
            for (position, times) in times.iter_mut().enumerate() {
                let start = Instant::now();
                self.node(position);
                times.push(start.elapsed().as_secs_f64());
            }
            self.update();
        }
        let steps = self.plan.steps.iter().zip(times);
        steps.map(|(step, times)| NodeTime { node: step.node, layer: step.layer, seconds: super::measure::median(times) }).collect()
    }

    fn node(&mut self, position: usize) {
        let step = &self.plan.steps[position];
        if matches!(step.kernel, kernel::Kernel::Nothing) {
            return;
        }
        let mut outputs: Vec<Vec<f32>> = step.outputs.iter().map(|&buffer| std::mem::take(&mut self.buffers[buffer])).collect();
        let inputs: Vec<&[f32]> = step.inputs.iter().map(|&buffer| self.buffers[buffer].as_slice()).collect();
        let around = Surroundings {
            threads: &self.threads,
            csrs: &self.csrs,
            batch: self.batch,
            draw: [self.seed, self.steps, position as u64],
            partials: &mut self.partials,
        };
        step.kernel.run(around, &inputs, &mut outputs);
        for (&buffer, output) in step.outputs.iter().zip(outputs) {
            self.buffers[buffer] = output;
        }
    }

    fn update(&mut self) {
        let place = |value: Value| self.plan.buffers[&value];
        let gradients = self.graph.gradients.values().map(|&gradient| self.buffers[place(gradient)].as_slice());
        let scale = update::clip_scale(&self.rule, gradients);
        for (&id, &gradient) in &self.graph.gradients {
            let (buffer, gradient) = (place(Value { node: id, output: 0 }), place(gradient));
            let Some(moments) = self.moments.get_mut(&id) else { continue };
            let mut values = std::mem::take(&mut self.buffers[buffer]);
            let step = i32::try_from(self.steps).unwrap_or(i32::MAX);
            update::update(&self.threads, &self.rule, step, scale, &mut values, &self.buffers[gradient], moments);
            self.buffers[buffer] = values;
        }
        for (&id, &new) in &self.graph.state_updates {
            let (buffer, new) = (place(Value { node: id, output: 0 }), place(new));
            let mut values = std::mem::take(&mut self.buffers[buffer]);
            values.copy_from_slice(&self.buffers[new]);
            self.buffers[buffer] = values;
        }
    }

    /// Mean loss of the last step, before its update.
    fn loss(&self) -> f64 {
        let is_loss = |id: &&NodeId| matches!(self.graph.node(**id).op, Op::SoftmaxCrossEntropy(_) | Op::MeanSquaredError(_));
        let Some(&node) = self.graph.ids().iter().find(is_loss) else { return f64::NAN };
        let losses = &self.buffers[self.plan.buffers[&Value { node, output: 0 }]];
        losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / self.batch as f64
    }

    /// The model's output for the last step's batch, in ONNX order; empty for a graph without one.
    pub fn output(&self) -> &[f32] {
        self.graph.output.map_or(&[], |value| &self.buffers[self.plan.buffers[&value]])
    }

    /// A parameter's values in ONNX order, zero where it is masked; `None` if there is no such parameter.
    pub fn parameter(&self, name: &str) -> Option<Vec<f32>> {
        self.find(name).map(|id| self.dense(id, Value { node: id, output: 0 }))
    }

    /// The last step's gradient of a parameter, in ONNX order, zero where it is masked; `None` if there is none.
    pub fn gradient(&self, name: &str) -> Option<Vec<f32>> {
        let id = self.find(name)?;
        self.graph.gradients.get(&id).map(|&gradient| self.dense(id, gradient))
    }

    fn find(&self, name: &str) -> Option<NodeId> {
        self.graph.parameters().into_iter().find(|&id| self.graph.node(id).outputs[0].name == name)
    }

    fn dense(&self, parameter: NodeId, value: Value) -> Vec<f32> {
        let values = &self.buffers[self.plan.buffers[&value]];
        let layer = self.plan.steps.iter().filter_map(|step| step.layer.map(|layer| (step, layer)));
        let own = self.plan.buffers[&Value { node: parameter, output: 0 }];
        let layer = layer.filter(|(step, _)| step.inputs.get(1) == Some(&own)).map(|(_, layer)| layer).next();
        let Some(layer) = layer else { return values.clone() };
        let mut dense = vec![0.0; self.csrs[layer].weights];
        self.csrs[layer].places.iter().zip(values).for_each(|(&place, &value)| dense[place as usize] = value);
        dense
    }
}

fn initial(graph: &Graph, id: NodeId) -> Result<&[f32], GenericError> {
    let name = || graph.node(id).outputs[0].name.clone();
    let tensor = graph.initial.get(&id);
    tensor.map(|tensor| tensor.values.as_slice()).ok_or_else(|| GenericError::Parameter { name: name(), why: "it has no initial value" })
}

/// The entries of a layer that are live at the start.
fn live_entries(graph: &Graph, layer: &LayerSparsity, masks: &BTreeMap<String, Vec<bool>>) -> Result<Csr, GenericError> {
    let units = &layer.units;
    let all: Vec<u32> = (0..units.count() as u32).collect();
    let values = initial(graph, layer.parameter)?;
    let live = match (layer.density, masks.get(&layer.name)) {
        (None, _) => all,
        (Some(_), Some(mask)) if mask.len() != values.len() => {
            return Err(GenericError::Parameter { name: layer.name.clone(), why: "its mask has another number of elements" });
        }
        (Some(_), Some(mask)) => all.into_iter().filter(|&unit| units.onnx_indices(unit).any(|place| mask[place])).collect(),
        (Some(_), None) => {
            let ordered: Vec<f32> = all.iter().flat_map(|&unit| units.onnx_indices(unit)).map(|place| values[place]).collect();
            let bump = &Bump::new();
            mask::keep_best(bump, &all, mask::importance(bump, &ordered, &[], 0.0, units.elements()), layer.live).to_vec()
        }
    };
    Ok(Csr::new(units, &live))
}
