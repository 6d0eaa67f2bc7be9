//! The oracle: evaluates a graph in f64, node by node, with each operation's reference, and trains with it.
//!
//! It shares nothing with lowering. Sums run in the order of the definition, on one thread.

use crate::ir::graph::Cycle;
use crate::ir::{Dim, Graph, NodeId, Value};
use crate::op::{Op, Reference};
use crate::pass::differentiate::{DifferentiateError, loss_node};
use crate::trace::{Batch, Optimizer, Replay, ReplayError, Rule, Target};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

/// Values of inputs, targets and parameters, by node. A drawn dropout mask may be given, too.
pub type Sources = BTreeMap<NodeId, Reference>;

/// Why a graph could not be evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InterpretError {
    /// The graph has no order.
    #[error(transparent)]
    Cycle(#[from] Cycle),
    /// There is nothing to train towards.
    #[error(transparent)]
    Loss(#[from] DifferentiateError),
    /// The graph lacks a result.
    #[error("the graph has no {what}; {hint}")]
    Incomplete {
        /// What it lacks.
        what: &'static str,
        /// What would help.
        hint: &'static str,
    },
    /// A source without a value.
    #[error("'{name}' has no value; give one for every input, target and parameter that the results depend on")]
    MissingSource {
        /// The source.
        name: String,
    },
    /// A source with a value of the wrong shape.
    #[error("'{name}' is {wanted} (N = {batch}), but its value has extents {got:?} and {values} elements")]
    WrongShape {
        /// The source.
        name: String,
        /// Its shape in the graph.
        wanted: String,
        /// Examples of this evaluation.
        batch: usize,
        /// Extents of the value.
        got: Vec<usize>,
        /// Elements of the value.
        values: usize,
    },
    /// A parameter that is not in the graph, or has no such property.
    #[error("the model has no {what} '{name}'; it has: {known}")]
    Unknown {
        /// Parameter, or gradient.
        what: &'static str,
        /// Its name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A mask that does not fit its parameter.
    #[error("the mask of '{name}' has {got} elements; the parameter has {wanted}")]
    WrongMask {
        /// The parameter.
        name: String,
        /// Elements of the mask.
        got: usize,
        /// Elements of the parameter.
        wanted: usize,
    },
}

/// Evaluates one graph.
#[derive(Clone, Debug)]
pub struct Interpreter<'g> {
    graph: &'g Graph,
    order: Vec<NodeId>,
}

impl<'g> Interpreter<'g> {
    /// Prepares to evaluate `graph`.
    ///
    /// # Errors
    /// The graph has a cycle.
    pub fn new(graph: &'g Graph) -> Result<Self, Cycle> {
        Ok(Interpreter { graph, order: graph.topological()? })
    }

    /// The values `wanted`, in that order. Only what they depend on is computed, and kept no longer than it is read.
    ///
    /// # Errors
    /// A source that is needed has no value, or one that does not fit its shape.
    pub fn evaluate(&self, sources: &Sources, wanted: &[Value]) -> Result<Vec<Reference>, InterpretError> {
        let batch = self.batch(sources);
        let mut readers = self.readers(sources, wanted);
        let mut values: HashMap<Value, Cow<'_, Reference>> = HashMap::new();
        for &id in &self.order {
            if !self.graph.outputs(id).iter().any(|v| readers.contains_key(v)) {
                continue;
            }
            if let Some(source) = sources.get(&id) {
                self.check(id, source, batch)?;
                values.insert(Value { node: id, output: 0 }, Cow::Borrowed(source));
                continue;
            }
            let results = match &self.graph.node(id).op {
                Op::Constant(constant) => vec![Reference::from(&constant.value)],
                Op::Input(_) | Op::Target(_) | Op::Parameter(_) => {
                    return Err(InterpretError::MissingSource { name: self.graph.node(id).outputs[0].name.clone() });
                }
                op => {
                    let inputs = self.graph.inputs(id);
                    let operands: Vec<&Reference> = inputs.iter().map(|v| values[v].as_ref()).collect();
                    let results = op.operator().evaluate(&operands);
                    release(&mut values, &mut readers, &inputs);
                    results
                }
            };
            for (value, result) in self.graph.outputs(id).into_iter().zip(results) {
                debug_assert_eq!(result.dims, self.graph.shape(value).concrete(batch), "'{}'", self.graph.info(value).name);
                if readers.contains_key(&value) {
                    values.insert(value, Cow::Owned(result));
                }
            }
        }
        Ok(wanted.iter().map(|value| values[value].as_ref().clone()).collect())
    }

    /// How many operands read each value that is needed; what is wanted counts as read once more.
    fn readers(&self, sources: &Sources, wanted: &[Value]) -> HashMap<Value, usize> {
        let mut readers = HashMap::new();
        for &value in wanted {
            *readers.entry(value).or_insert(0) += 1;
        }
        for &id in self.order.iter().rev() {
            let needed = self.graph.outputs(id).iter().any(|v| readers.contains_key(v));
            if needed && !sources.contains_key(&id) {
                for value in self.graph.inputs(id) {
                    *readers.entry(value).or_insert(0) += 1;
                }
            }
        }
        readers
    }

    /// Examples of the evaluation, as the first batched source has it.
    fn batch(&self, sources: &Sources) -> usize {
        let extent = |(id, source): (&NodeId, &Reference)| {
            let axis = self.graph.node(*id).outputs[0].shape.0.iter().position(|d| *d == Dim::Batch)?;
            source.dims.get(axis).copied()
        };
        sources.iter().find_map(extent).unwrap_or(1)
    }

    fn check(&self, id: NodeId, source: &Reference, batch: usize) -> Result<(), InterpretError> {
        let info = &self.graph.node(id).outputs[0];
        let wanted = info.shape.concrete(batch);
        if source.dims == wanted && source.values.len() == wanted.iter().product::<usize>() {
            return Ok(());
        }
        Err(InterpretError::WrongShape {
            name: info.name.clone(),
            wanted: info.shape.to_string(),
            batch,
            got: source.dims.clone(),
            values: source.values.len(),
        })
    }
}

fn release(values: &mut HashMap<Value, Cow<'_, Reference>>, readers: &mut HashMap<Value, usize>, inputs: &[Value]) {
    for input in inputs {
        if let Some(count) = readers.get_mut(input) {
            *count -= 1;
            if *count == 0 {
                values.remove(input);
            }
        }
    }
}

/// A differentiated graph in training: parameters, masks and optimiser state in f64. Dropout masks take their expectation.
#[derive(Clone, Debug)]
pub struct Training {
    graph: Graph,
    optimizer: Optimizer,
    parameters: Sources,
    masks: BTreeMap<NodeId, Vec<bool>>,
    moments: BTreeMap<NodeId, [Vec<f64>; 2]>,
    gradients: BTreeMap<NodeId, Reference>,
    output: Option<Reference>,
    steps: i32,
}

impl Training {
    /// Training of `graph`, which has a loss and gradients, from its initial values.
    ///
    /// # Errors
    /// The graph lacks a loss, an output, or the initial value of a parameter.
    pub fn new(graph: Graph, optimizer: Optimizer) -> Result<Self, InterpretError> {
        loss_node(&graph)?;
        if graph.output.is_none() {
            return Err(InterpretError::Incomplete { what: "output", hint: "name the value that the model yields" });
        }
        let mut parameters = Sources::new();
        for id in graph.parameters() {
            let missing = || InterpretError::MissingSource { name: graph.node(id).outputs[0].name.clone() };
            parameters.insert(id, Reference::from(graph.initial.get(&id).ok_or_else(missing)?.as_ref()));
        }
        let (masks, moments, gradients) = Default::default();
        Ok(Training { graph, optimizer, parameters, masks, moments, gradients, output: None, steps: 0 })
    }

    /// Keeps the elements of a parameter where `live` is false at 0 from now on.
    ///
    /// # Errors
    /// There is no such parameter, or it has another number of elements.
    pub fn set_mask(&mut self, name: &str, live: &[bool]) -> Result<(), InterpretError> {
        let id = self.find(name)?;
        let parameter = self.parameters.entry(id).or_insert_with(|| Reference::full(&[], 0.0));
        if parameter.values.len() != live.len() {
            return Err(InterpretError::WrongMask { name: name.to_owned(), got: live.len(), wanted: parameter.values.len() });
        }
        apply_mask(&mut parameter.values, live);
        self.masks.insert(id, live.to_vec());
        Ok(())
    }

    /// One step; returns the mean loss of the batch before it.
    ///
    /// # Errors
    /// `input` or `target` does not fit the graph.
    pub fn train(&mut self, input: Reference, target: Reference) -> Result<f64, InterpretError> {
        let loss = Value { node: loss_node(&self.graph)?, output: 0 };
        let output =
            self.graph.output.ok_or(InterpretError::Incomplete { what: "output", hint: "name the value that the model yields" })?;
        let learned: Vec<(NodeId, Value)> = self.graph.gradients.iter().map(|(&id, &value)| (id, value)).collect();
        let followed: Vec<(NodeId, Value)> = self.graph.state_updates.iter().map(|(&id, &value)| (id, value)).collect();
        let mut sources = std::mem::take(&mut self.parameters);
        self.enter(&mut sources, input, target);
        let wanted: Vec<Value> = [loss, output].into_iter().chain(learned.iter().chain(&followed).map(|(_, value)| *value)).collect();
        let results = Interpreter::new(&self.graph)?.evaluate(&sources, &wanted);
        sources.retain(|&id, _| matches!(self.graph.node(id).op, Op::Parameter(_)));
        self.parameters = sources;
        let mut results = results?.into_iter();
        let losses = results.next().map(|r| r.values).unwrap_or_default();
        self.output = results.next();
        self.steps += 1;
        for ((id, _), mut gradient) in learned.into_iter().zip(results.by_ref()) {
            if let Some(live) = self.masks.get(&id) {
                apply_mask(&mut gradient.values, live);
            }
            self.update(id, &gradient.values);
            self.gradients.insert(id, gradient);
        }
        self.parameters.extend(followed.into_iter().map(|(id, _)| id).zip(results));
        Ok(losses.iter().sum::<f64>() / losses.len() as f64)
    }

    /// Names of all parameters, in the order of the graph.
    pub fn names(&self) -> Vec<&str> {
        self.graph.parameters().into_iter().map(|id| self.graph.node(id).outputs[0].name.as_str()).collect()
    }

    fn enter(&self, sources: &mut Sources, input: Reference, target: Reference) {
        for id in self.graph.ids() {
            match self.graph.node(id).op {
                Op::Input(_) => sources.insert(id, input.clone()),
                Op::Target(_) => sources.insert(id, target.clone()),
                _ => None,
            };
        }
    }

    fn find(&self, name: &str) -> Result<NodeId, InterpretError> {
        self.graph.parameters().into_iter().find(|&id| self.graph.node(id).outputs[0].name == name).ok_or_else(|| InterpretError::Unknown {
            what: "parameter",
            name: name.to_owned(),
            known: self.names().join(", "),
        })
    }

    /// PyTorch's update of one parameter; `steps` already counts this step.
    fn update(&mut self, id: NodeId, gradient: &[f64]) {
        let Some(parameter) = self.parameters.get_mut(&id) else { return };
        let [first, second] = self.moments.entry(id).or_insert_with(|| [vec![0.0; gradient.len()], vec![0.0; gradient.len()]]);
        let Optimizer { learning_rate, weight_decay, .. } = self.optimizer;
        for (i, (value, &gradient)) in parameter.values.iter_mut().zip(gradient).enumerate() {
            match self.optimizer.rule {
                Rule::Sgd { momentum, nesterov } => {
                    let gradient = gradient + weight_decay * *value;
                    first[i] = momentum * first[i] + gradient;
                    *value -= learning_rate * if nesterov { gradient + momentum * first[i] } else { first[i] };
                }
                Rule::Adagrad { epsilon } => {
                    let gradient = gradient + weight_decay * *value;
                    first[i] += gradient * gradient;
                    *value -= learning_rate * gradient / (first[i].sqrt() + epsilon);
                }
                Rule::Adam { betas, epsilon } | Rule::AdamW { betas, epsilon } => {
                    let decoupled = matches!(self.optimizer.rule, Rule::AdamW { .. });
                    let gradient = if decoupled { gradient } else { gradient + weight_decay * *value };
                    if decoupled {
                        *value *= 1.0 - learning_rate * weight_decay;
                    }
                    first[i] = betas[0] * first[i] + (1.0 - betas[0]) * gradient;
                    second[i] = betas[1] * second[i] + (1.0 - betas[1]) * gradient * gradient;
                    let [correction, correction2] = betas.map(|beta| 1.0 - beta.powi(self.steps));
                    *value -= learning_rate / correction * first[i] / ((second[i] / correction2).sqrt() + epsilon);
                }
            }
        }
        if let Some(live) = self.masks.get(&id) {
            apply_mask(&mut parameter.values, live);
        }
    }
}

fn apply_mask(values: &mut [f64], live: &[bool]) {
    values.iter_mut().zip(live).filter(|(_, live)| !**live).for_each(|(value, _)| *value = 0.0);
}

impl Replay for Training {
    fn mask(&mut self, name: &str, live: &[bool]) -> Result<(), ReplayError> {
        Ok(self.set_mask(name, live)?)
    }

    fn step(&mut self, batch: Batch<'_>) -> Result<f64, ReplayError> {
        let target = match batch.target {
            Target::Classes(classes) => Reference { dims: vec![classes.len()], values: classes.iter().map(|&c| f64::from(c)).collect() },
            Target::Values(values) => Reference::from(values),
        };
        Ok(self.train(Reference::from(batch.input), target)?)
    }

    fn output(&self) -> Result<Vec<f64>, ReplayError> {
        let before = InterpretError::Incomplete { what: "output yet", hint: "run a step first" };
        Ok(self.output.as_ref().ok_or(before)?.values.clone())
    }

    fn gradient(&self, name: &str) -> Result<Vec<f64>, ReplayError> {
        let id = self.find(name)?;
        let known = || self.gradients.keys().map(|&id| self.graph.node(id).outputs[0].name.as_str()).collect::<Vec<_>>().join(", ");
        let unknown = || InterpretError::Unknown { what: "gradient of", name: name.to_owned(), known: known() };
        Ok(self.gradients.get(&id).ok_or_else(unknown)?.values.clone())
    }

    fn parameter(&self, name: &str) -> Result<Vec<f64>, ReplayError> {
        let id = self.find(name)?;
        Ok(self.parameters.get(&id).map(|p| p.values.clone()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::graph::Role;
    use crate::ir::{Shape, Tensor, ValueInfo};
    use crate::op::{Add, Input, Linear, MeanSquaredError, Mul, Parameter, RunningAverage, Target as TargetOp};
    use crate::pass::differentiate::differentiate;

    fn node(graph: &mut Graph, name: &str, op: impl Into<Op>, inputs: &[Value]) -> Value {
        let op = op.into();
        let shapes: Vec<_> = inputs.iter().map(|&v| graph.shape(v).clone()).collect();
        let outputs = op.operator().infer(&shapes.iter().collect::<Vec<_>>()).unwrap();
        let outputs = outputs.into_iter().enumerate().map(|(i, shape)| ValueInfo { name: format!("{name}{}", ["", "b", "c"][i]), shape });
        let outputs = outputs.collect();
        Value { node: graph.add(name, op, inputs, outputs), output: 0 }
    }

    /// y = x w with x = 2, w = 3, target 0: dL/dw = 2 * 6 * 2 = 24.
    fn product() -> Graph {
        let mut graph = Graph::new("product");
        let x = node(&mut graph, "x", Input { shape: Shape::batched(&[1]) }, &[]);
        let target = node(&mut graph, "t", TargetOp { shape: Shape::batched(&[1]) }, &[]);
        let w = node(&mut graph, "w", Parameter { dims: vec![1, 1], role: Role::Trainable }, &[]);
        graph.initial.insert(w.node, Tensor::full(&[1, 1], 3.0).into());
        let y = node(&mut graph, "y", Linear {}, &[x, w]);
        node(&mut graph, "loss", MeanSquaredError {}, &[y, target]);
        graph.output = Some(y);
        differentiate(&mut graph).unwrap();
        graph
    }

    fn scalar(value: f64) -> Reference {
        Reference { dims: vec![1, 1], values: vec![value] }
    }

    /// The weight after two steps: the second gradient is 8 w.
    fn two_steps(rule: Rule, weight_decay: f64) -> f64 {
        let optimizer = Optimizer { rule, learning_rate: 0.01, weight_decay, label_smoothing: 0.0 };
        let mut training = Training::new(product(), optimizer).unwrap();
        assert_eq!(training.train(scalar(2.0), scalar(0.0)).unwrap(), 36.0);
        assert_eq!(training.gradient("w").unwrap(), [24.0]);
        training.train(scalar(2.0), scalar(0.0)).unwrap();
        training.parameter("w").unwrap()[0]
    }

    #[test]
    fn gradient_descent_with_momentum() {
        let first = 3.0 - 0.01 * 24.0;
        let plain = two_steps(Rule::Sgd { momentum: 0.0, nesterov: false }, 0.0);
        assert!((plain - (first - 0.01 * 8.0 * first)).abs() < 1e-12);
        let momentum = two_steps(Rule::Sgd { momentum: 0.5, nesterov: false }, 0.0);
        assert!((momentum - (first - 0.01 * (8.0 * first + 12.0))).abs() < 1e-12);
        let decayed = two_steps(Rule::Sgd { momentum: 0.0, nesterov: false }, 1.0);
        let first = 3.0 - 0.01 * 27.0;
        assert!((decayed - (first - 0.01 * 9.0 * first)).abs() < 1e-12);
        let nesterov = two_steps(Rule::Sgd { momentum: 0.5, nesterov: true }, 0.0);
        let first = 3.0 - 0.01 * 36.0;
        assert!((nesterov - (first - 0.01 * (8.0 * first + 0.5 * (8.0 * first + 12.0)))).abs() < 1e-12);
    }

    #[test]
    fn adagrad_divides_by_the_root_of_all_squares() {
        let w: f64 = 3.0 - 0.01;
        let adagrad = two_steps(Rule::Adagrad { epsilon: 0.0 }, 0.0);
        assert!((adagrad - (w - 0.01 * 8.0 * w / (24.0_f64.powi(2) + (8.0 * w).powi(2)).sqrt())).abs() < 1e-12);
        let w: f64 = 3.0 - 0.01 * 27.0 / 28.0;
        let decayed = two_steps(Rule::Adagrad { epsilon: 1.0 }, 1.0);
        assert!((decayed - (w - 0.01 * 9.0 * w / ((27.0_f64.powi(2) + (9.0 * w).powi(2)).sqrt() + 1.0))).abs() < 1e-12);
    }

    #[test]
    fn adam_moves_by_the_learning_rate_at_first() {
        let (betas, epsilon) = ([0.9, 0.99], 1e-8);
        let second = |first: f64, w: f64, g0: f64| {
            let (m, v) = (0.9 * 0.1 * g0 + 0.1 * first, 0.99 * 0.01 * g0 * g0 + 0.01 * first * first);
            w - 0.01 / (1.0 - 0.81) * m / ((v / (1.0 - 0.9801)).sqrt() + epsilon)
        };
        let adam = two_steps(Rule::Adam { betas, epsilon }, 0.0);
        assert!((adam - second(8.0 * 2.99, 2.99, 24.0)).abs() < 1e-9);
        let coupled = two_steps(Rule::Adam { betas, epsilon }, 1.0);
        assert!((coupled - second(9.0 * 2.99, 2.99, 27.0)).abs() < 1e-9);
        let decoupled = two_steps(Rule::AdamW { betas, epsilon }, 1.0);
        let w = 3.0 * 0.99 - 0.01;
        let kept = second(8.0 * w, w * 0.99, 24.0);
        assert!((decoupled - kept).abs() < 1e-9, "{decoupled} {kept}");
    }

    #[test]
    fn a_mask_keeps_weight_and_gradient_at_zero() {
        let optimizer =
            Optimizer { rule: Rule::Sgd { momentum: 0.9, nesterov: false }, learning_rate: 0.1, weight_decay: 0.0, label_smoothing: 0.0 };
        let mut training = Training::new(product(), optimizer).unwrap();
        assert!(matches!(training.set_mask("w", &[true, false]), Err(InterpretError::WrongMask { .. })));
        assert!(matches!(training.set_mask("v", &[true]), Err(InterpretError::Unknown { .. })));
        training.set_mask("w", &[false]).unwrap();
        assert_eq!(training.train(scalar(2.0), scalar(1.0)).unwrap(), 1.0);
        assert_eq!((training.gradient("w").unwrap(), training.parameter("w").unwrap()), (vec![0.0], vec![0.0]));
    }

    #[test]
    fn states_follow_the_data() {
        let mut graph = product();
        let running = node(&mut graph, "running", Parameter { dims: vec![1, 1], role: Role::State }, &[]);
        graph.initial.insert(running.node, Tensor::full(&[1, 1], 8.0).into());
        let w = Value { node: graph.parameters()[0], output: 0 };
        let new = node(&mut graph, "new", RunningAverage { momentum: 0.5 }, &[running, w]);
        graph.state_updates.insert(running.node, new);
        let optimizer =
            Optimizer { rule: Rule::Sgd { momentum: 0.0, nesterov: false }, learning_rate: 0.1, weight_decay: 0.0, label_smoothing: 0.0 };
        let mut training = Training::new(graph, optimizer).unwrap();
        training.train(scalar(0.0), scalar(0.0)).unwrap();
        assert_eq!(training.parameter("running").unwrap(), [5.5]);
    }

    #[test]
    fn what_is_not_needed_is_not_asked_for() {
        let mut graph = Graph::new("parts");
        let a = node(&mut graph, "a", Input { shape: Shape::batched(&[2]) }, &[]);
        let b = node(&mut graph, "b", Parameter { dims: vec![2], role: Role::Trainable }, &[]);
        let square = node(&mut graph, "square", Mul {}, &[a, a]);
        let sum = node(&mut graph, "sum", Add {}, &[square, b]);
        let interpreter = Interpreter::new(&graph).unwrap();
        let mut sources = Sources::from([(a.node, Reference { dims: vec![1, 2], values: vec![2.0, 3.0] })]);
        assert_eq!(interpreter.evaluate(&sources, &[square, a]).unwrap()[0].values, [4.0, 9.0]);
        assert_eq!(interpreter.evaluate(&sources, &[sum]), Err(InterpretError::MissingSource { name: "b".into() }));
        sources.insert(b.node, Reference { dims: vec![3], values: vec![0.0; 3] });
        let error = interpreter.evaluate(&sources, &[sum]).unwrap_err();
        assert!(error.to_string().contains("'b' is [2]"), "{error}");
    }
}
