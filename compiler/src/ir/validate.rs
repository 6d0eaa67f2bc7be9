//! Every invariant of a [`Graph`], and the check of all of them. A pass may rely on these and must keep them.
//!
//! Structure
//! - [`Invariant::Operands`]: a node's operands are numbered 0, 1, 2, .. without gaps, and each is an output of a node in the graph.
//! - [`Invariant::Acyclic`]: no node depends on itself.
//! - [`Invariant::Names`]: every value has a name, and no other value has the same.
//! - [`Invariant::Sources`]: inputs, targets, parameters and constants read nothing.
//! - [`Invariant::OneInput`]: there is exactly one input, and at most one target.
//!
//! Shapes
//! - [`Invariant::Inferred`]: the outputs of a node, at least one, have the shapes that its operation gives for its operands.
//! - [`Invariant::BatchFirst`]: a batched value's batch axis is its first and only one.
//! - [`Invariant::Extents`]: no extent is 0.
//! - [`Invariant::BatchedSources`]: inputs and targets are batched.
//!
//! Values
//! - [`Invariant::Initial`]: a parameter, and nothing else, has an initial value, of its extents.
//! - [`Invariant::Tensor`]: a tensor has as many values as its extents say.
//! - [`Invariant::Finite`]: initial values and constants are finite, attributes are numbers.
//!
//! Results
//! - [`Invariant::Results`]: `output` and `logits` are set, exist and are batched.
//! - [`Invariant::Gradients`]: a gradient belongs to a trainable parameter and has its shape; there are none before differentiation.
//! - [`Invariant::StateUpdates`]: a new value belongs to a state parameter and has its shape; there are none as imported.
//!
//! Operations
//! - [`Invariant::Loss`]: there is at most one loss, exactly one once differentiated; it compares `logits` with the target; nothing reads
//!   it but the backward pass, which begins at its gradient.
//! - [`Invariant::Softmax`]: of a model that ends in a softmax over classes, the loss reads what comes before it.
//! - [`Invariant::Narrow`]: what is narrow is only widened, and nothing else is.
//! - [`Invariant::Specialized`]: batch normalization, dropout and random switches are taken apart once specialised.

use super::graph::Role;
use super::text::spell;
use super::{Dim, Graph, NodeId, Shape, Tensor, Value};
use crate::op::Op;
use std::collections::{BTreeSet, HashMap};

/// How far a graph has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// As it came from ONNX.
    Imported,
    /// For training or for inference, perhaps with a loss.
    Specialized,
    /// With the backward pass.
    Differentiated,
}

/// One of the rules at the head of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the module's head says what each demands
pub enum Invariant {
    Operands,
    Acyclic,
    Names,
    Sources,
    OneInput,
    Inferred,
    BatchFirst,
    Extents,
    BatchedSources,
    Initial,
    Tensor,
    Finite,
    Results,
    Gradients,
    StateUpdates,
    Loss,
    Softmax,
    Narrow,
    Specialized,
}

/// A rule that a graph breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{at}': {what}")]
pub struct Violation {
    /// The rule.
    pub invariant: Invariant,
    /// The node or value that breaks it.
    pub at: String,
    /// How.
    pub what: String,
}

/// Checks every invariant of `graph` at `stage`.
///
/// # Errors
/// Everything that is broken. Where structure is, what builds on it is not looked at.
pub fn validate(graph: &Graph, stage: Stage) -> Result<(), Vec<Violation>> {
    let mut check = Check { graph, stage, violations: vec![] };
    check.structure();
    if check.violations.is_empty() {
        for id in graph.ids() {
            check.shapes(id);
            check.values(id);
            check.operation(id);
        }
        check.results();
        check.losses();
    }
    if check.violations.is_empty() { Ok(()) } else { Err(check.violations) }
}

struct Check<'a> {
    graph: &'a Graph,
    stage: Stage,
    violations: Vec<Violation>,
}

fn is_source(op: &Op) -> bool {
    matches!(op, Op::Input(_) | Op::Target(_) | Op::Parameter(_) | Op::Constant(_))
}

fn is_loss(op: &Op) -> bool {
    matches!(op, Op::SoftmaxCrossEntropy(_) | Op::MeanSquaredError(_))
}

impl Check<'_> {
    fn broken(&mut self, invariant: Invariant, at: impl Into<String>, what: impl Into<String>) {
        self.violations.push(Violation { invariant, at: at.into(), what: what.into() });
    }

    /// The name of the first output; the node's, if it has none.
    fn name(&self, id: NodeId) -> String {
        self.graph.node(id).outputs.first().map_or_else(|| self.graph.node(id).name.clone(), |output| output.name.clone())
    }

    fn structure(&mut self) {
        let graph = self.graph;
        let mut producers: HashMap<&str, &str> = HashMap::new();
        for id in graph.ids() {
            let node = graph.node(id);
            for (wanted, (position, value)) in graph.operands(id).into_iter().enumerate() {
                if position != wanted {
                    self.broken(Invariant::Operands, &node.name, format!("operand {position} stands where operand {wanted} belongs"));
                }
                if !graph.contains(value) {
                    self.broken(Invariant::Operands, &node.name, format!("operand {position} is no output of '{}'", self.name(value.node)));
                }
            }
            if is_source(&node.op) && !graph.inputs(id).is_empty() {
                self.broken(Invariant::Sources, &node.name, format!("a source ({}) reads nothing", node.op.operator().name()));
            }
            for output in &node.outputs {
                if output.name.is_empty() {
                    self.broken(Invariant::Names, &node.name, "an output has no name");
                } else if let Some(other) = producers.insert(&output.name, &node.name) {
                    self.broken(Invariant::Names, &output.name, format!("nodes '{other}' and '{}' both compute it", node.name));
                }
            }
        }
        if let Err(cycle) = graph.topological() {
            self.broken(Invariant::Acyclic, cycle.node, "it depends on itself");
        }
        let count = |is: fn(&Op) -> bool| graph.ids().into_iter().filter(|&id| is(&graph.node(id).op)).count();
        let (inputs, targets) = (count(|op| matches!(op, Op::Input(_))), count(|op| matches!(op, Op::Target(_))));
        if inputs != 1 || targets > 1 {
            let what = format!("{inputs} inputs and {targets} targets; a model has one input and at most one target");
            self.broken(Invariant::OneInput, &graph.name, what);
        }
    }

    fn shapes(&mut self, id: NodeId) {
        let (graph, node) = (self.graph, self.graph.node(id));
        let operands = graph.inputs(id);
        let inputs: Vec<&Shape> = operands.iter().map(|&value| graph.shape(value)).collect();
        match node.op.operator().infer(&inputs) {
            Err(error) => self.broken(Invariant::Inferred, &node.name, error.to_string()),
            Ok(shapes) if shapes.is_empty() || !shapes.iter().eq(node.outputs.iter().map(|output| &output.shape)) => {
                let list = |shapes: Vec<&Shape>| shapes.into_iter().map(Shape::to_string).collect::<Vec<_>>().join(", ");
                let (has, gives) = (list(node.outputs.iter().map(|output| &output.shape).collect()), list(shapes.iter().collect()));
                self.broken(
                    Invariant::Inferred,
                    self.name(id),
                    format!("its shape is {has}, but {} gives {gives}", node.op.operator().name()),
                );
            }
            Ok(_) => {}
        }
        for output in &node.outputs {
            let shape = &output.shape;
            if shape.0.iter().skip(1).any(|&dim| dim == Dim::Batch) {
                self.broken(Invariant::BatchFirst, &output.name, format!("{shape}: the batch must be the first axis and only there"));
            }
            if shape.0.contains(&Dim::Fixed(0)) {
                self.broken(Invariant::Extents, &output.name, format!("{shape}: an axis without elements"));
            }
            if matches!(node.op, Op::Input(_) | Op::Target(_)) && !shape.is_batched() {
                self.broken(Invariant::BatchedSources, &output.name, format!("{shape}: it needs a batch axis"));
            }
        }
    }

    fn values(&mut self, id: NodeId) {
        let (node, name) = (self.graph.node(id), self.name(id));
        match (&node.op, self.graph.initial.get(&id)) {
            (Op::Parameter(parameter), Some(initial)) if parameter.dims != initial.dims => {
                let what = format!("its extents are {:?}, its initial value's {:?}", parameter.dims, initial.dims);
                self.broken(Invariant::Initial, name, what);
            }
            (Op::Parameter(_), Some(initial)) => self.tensor(name, initial),
            (Op::Parameter(_), None) => self.broken(Invariant::Initial, name, "a parameter without an initial value"),
            (_, Some(_)) => self.broken(Invariant::Initial, name, "an initial value, but this is no parameter"),
            (Op::Constant(constant), None) => self.tensor(name, &constant.value),
            // JSON writes what is not a number as null, and nothing else in a payload is null.
            (op, None) if spell(op).1.contains("null") => self.broken(Invariant::Finite, name, format!("attributes {}", spell(op).1)),
            _ => {}
        }
    }

    fn tensor(&mut self, name: String, tensor: &Tensor) {
        let elements = tensor.dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        if elements != Some(tensor.values.len()) {
            self.broken(Invariant::Tensor, name, format!("{} values for extents {:?}", tensor.values.len(), tensor.dims));
        } else if let Some(index) = tensor.values.iter().position(|value| !value.is_finite()) {
            self.broken(Invariant::Finite, name, format!("element {index} is {}", tensor.values[index]));
        }
    }

    fn operation(&mut self, id: NodeId) {
        let (graph, name) = (self.graph, self.name(id));
        match &graph.node(id).op {
            op @ (Op::BatchNormalization(_) | Op::Dropout(_) | Op::Bernoulli(_)) if self.stage >= Stage::Specialized => {
                self.broken(Invariant::Specialized, name, format!("{} is left over; specialise the graph first", op.operator().name()));
            }
            Op::Narrow(_) => {
                let uses = graph.uses(Value { node: id, output: 0 });
                if let Some((reader, _)) = uses.into_iter().find(|(reader, _)| !matches!(graph.node(*reader).op, Op::Widen(_))) {
                    let reader = graph.node(reader).name.clone();
                    self.broken(Invariant::Narrow, name, format!("'{reader}' reads it as it is; widen it first"));
                }
            }
            Op::Widen(_) if !graph.inputs(id).iter().any(|value| matches!(graph.node(value.node).op, Op::Narrow(_))) => {
                self.broken(Invariant::Narrow, name, "it widens what is not narrow");
            }
            Op::Softmax(_) => {
                let result = Value { node: id, output: 0 };
                if graph.output == Some(result) && graph.logits == Some(result) && graph.shape(result).rank() == 2 {
                    self.broken(Invariant::Softmax, name, "it is the model's output, so what it reads must be the logits");
                }
            }
            _ => {}
        }
    }

    fn results(&mut self) {
        let graph = self.graph;
        for (what, result) in [("output", graph.output), ("logits", graph.logits)] {
            match result.filter(|&value| graph.contains(value)) {
                None => self.broken(Invariant::Results, &graph.name, format!("the graph's {what} is not set, or its node is gone")),
                Some(value) if !graph.shape(value).is_batched() => {
                    let name = graph.info(value).name.clone();
                    self.broken(Invariant::Results, name, format!("the graph's {what} is {}; it must be batched", graph.shape(value)));
                }
                Some(_) => {}
            }
        }
        let kinds = [
            (Invariant::Gradients, "gradient", Role::Trainable, &graph.gradients, Stage::Differentiated),
            (Invariant::StateUpdates, "new value", Role::State, &graph.state_updates, Stage::Specialized),
        ];
        for (invariant, kind, role, results, earliest) in kinds {
            for (&parameter, &value) in results {
                let owner = Value { node: parameter, output: 0 };
                if !graph.contains(owner) || !graph.contains(value) {
                    self.broken(invariant, &graph.name, format!("a {kind} whose node, or whose parameter, is gone"));
                    continue;
                }
                let (name, shape) = (self.name(parameter), graph.shape(value));
                if !matches!(&graph.node(parameter).op, Op::Parameter(p) if p.role == role) {
                    self.broken(invariant, name, format!("it has a {kind} but is no {role:?} parameter"));
                } else if shape != graph.shape(owner) {
                    self.broken(invariant, name, format!("it is {}, its {kind} {shape}", graph.shape(owner)));
                } else if self.stage < earliest {
                    self.broken(invariant, name, format!("it has a {kind}, but the graph is only {:?}", self.stage));
                }
            }
        }
    }

    fn losses(&mut self) {
        let graph = self.graph;
        let losses: Vec<_> = graph.ids().into_iter().filter(|&id| is_loss(&graph.node(id).op)).collect();
        if losses.len() > 1 || (losses.is_empty() && self.stage == Stage::Differentiated) {
            let what = format!("{} losses; {:?} graphs have one", losses.len(), self.stage);
            self.broken(Invariant::Loss, &graph.name, what);
        }
        for loss in losses {
            let inputs = graph.inputs(loss);
            let target = inputs.get(1).is_some_and(|target| matches!(graph.node(target.node).op, Op::Target(_)));
            if inputs.first().copied() != graph.logits || !target {
                self.broken(Invariant::Loss, self.name(loss), "a loss compares the graph's logits with the target");
            }
            let backward = self.stage == Stage::Differentiated;
            let forbidden = graph.outputs(loss).into_iter().filter(|value| !(backward && value.output == 2));
            let readers: BTreeSet<NodeId> = forbidden.flat_map(|value| graph.uses(value)).map(|(reader, _)| reader).collect();
            for reader in readers {
                let what = format!("'{}' reads it; only the backward pass may, and only the gradient", graph.node(reader).name);
                self.broken(Invariant::Loss, self.name(loss), what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::arbitrary::graphs;
    use crate::ir::text::{parse, print};
    use crate::op::{BatchNormalization, Clip, Dropout, Relu};
    use crate::pass::attach_loss::{Loss, attach_loss};
    use crate::pass::specialize::training;
    use proptest::prelude::*;

    const MODEL: &str = r#"graph "m"
%x = input() {"shape":["N",4]} : [N, 4]
%w = parameter() {"dims":[4,4],"role":"Trainable"} : [4, 4]
%s = parameter() {"dims":[4],"role":"State"} : [4]
%h = linear(%x, %w) : [N, 4]
%n = batch_normalization(%h, %s, %s, %s, %s) {"epsilon":0.1,"momentum":0.9} : [N, 4]
%y = relu(%n) : [N, 4]
%p = softmax(%y) {"log":false} : [N, 4]
output %p
logits %y
"#;

    fn model() -> Graph {
        parse(MODEL).unwrap()
    }

    fn node(graph: &Graph, name: &str) -> NodeId {
        graph.ids().into_iter().find(|&id| graph.node(id).name == name).unwrap()
    }

    fn value(graph: &Graph, name: &str) -> Value {
        Value { node: node(graph, name), output: 0 }
    }

    fn lossy() -> Graph {
        let mut graph = training(&model());
        attach_loss(&mut graph, Loss::CrossEntropy { smoothing: 0.0 }).unwrap();
        graph
    }

    /// The graph breaks this rule, at this place, and no other.
    #[track_caller]
    fn breaks(graph: &Graph, stage: Stage, invariant: Invariant, at: &str, what: &str) {
        let violations = validate(graph, stage).unwrap_err();
        assert!(violations.iter().all(|v| v.invariant == invariant), "{violations:?}");
        let messages: Vec<String> = violations.iter().map(Violation::to_string).collect();
        assert!(messages.iter().any(|message| message.starts_with(&format!("'{at}'")) && message.contains(what)), "{messages:?}");
    }

    #[test]
    fn valid_graphs_pass_at_every_stage() {
        assert_eq!(validate(&model(), Stage::Imported), Ok(()));
        assert_eq!(validate(&training(&model()), Stage::Specialized), Ok(()));
        assert_eq!(validate(&lossy(), Stage::Specialized), Ok(()));
        let mut graph = lossy();
        crate::pass::differentiate::differentiate(&mut graph).unwrap();
        assert_eq!(validate(&graph, Stage::Differentiated), Ok(()));
        let read = parse(&print(&graph)).unwrap();
        assert_eq!(validate(&read, Stage::Differentiated), Ok(()));
        assert_eq!(print(&read), print(&graph), "parameters are zero here, so that hashes agree, too");
    }

    proptest! {
        #[test]
        fn random_graphs_are_valid(graph in graphs()) {
            prop_assert_eq!(validate(&graph, Stage::Specialized), Ok(()));
        }
    }

    #[test]
    fn operands_are_complete_and_exist() {
        let mut graph = model();
        let x = value(&graph, "x");
        let y = node(&graph, "y");
        graph.set_input(y, 2, x);
        breaks(&graph, Stage::Imported, Invariant::Operands, "y", "operand 2 stands where operand 1");
        let mut graph = model();
        graph.set_input(y, 0, Value { output: 1, ..x });
        breaks(&graph, Stage::Imported, Invariant::Operands, "y", "operand 0 is no output of 'x'");
        let mut graph = model();
        graph.remove(x.node);
        assert!(validate(&graph, Stage::Imported).unwrap_err().iter().any(|v| v.invariant == Invariant::Operands));
    }

    #[test]
    fn no_cycles() {
        let mut graph = model();
        let (h, y) = (node(&graph, "h"), value(&graph, "y"));
        graph.set_input(h, 0, y);
        breaks(&graph, Stage::Imported, Invariant::Acyclic, "h", "depends on itself");
    }

    #[test]
    fn names_are_unique_and_there() {
        let mut graph = model();
        let y = node(&graph, "y");
        graph.node_mut(y).outputs[0].name = "h".into();
        breaks(&graph, Stage::Imported, Invariant::Names, "h", "'h' and 'y' both compute it");
        graph.node_mut(y).outputs[0].name.clear();
        breaks(&graph, Stage::Imported, Invariant::Names, "y", "no name");
    }

    #[test]
    fn sources_read_nothing() {
        let mut graph = model();
        let (w, x) = (node(&graph, "w"), value(&graph, "x"));
        graph.set_input(w, 0, x);
        breaks(&graph, Stage::Imported, Invariant::Sources, "w", "(parameter) reads nothing");
    }

    #[test]
    fn one_input_and_one_target() {
        let more = |line: &str| parse(&MODEL.replace("output %p", &format!("{line}\noutput %p"))).unwrap();
        breaks(&more(r#"%z = input() {"shape":["N"]} : [N]"#), Stage::Imported, Invariant::OneInput, "m", "2 inputs and 0 targets");
        let targets = "%t = target() {\"shape\":[\"N\"]} : [N]\n%u = target() {\"shape\":[\"N\"]} : [N]";
        breaks(&more(targets), Stage::Imported, Invariant::OneInput, "m", "1 inputs and 2 targets");
    }

    #[test]
    fn shapes_are_those_of_the_operation() {
        let mut graph = model();
        let y = node(&graph, "y");
        graph.node_mut(y).outputs[0].shape = Shape::batched(&[5]);
        let violations = validate(&graph, Stage::Imported).unwrap_err();
        assert!(violations.iter().all(|v| v.invariant == Invariant::Inferred), "{violations:?}");
        assert_eq!(violations[0].to_string(), "'y': its shape is [N, 5], but relu gives [N, 4]");
        let mut graph = model();
        let (h, s) = (node(&graph, "h"), value(&graph, "s"));
        graph.set_input(h, 1, s);
        assert_eq!(validate(&graph, Stage::Imported).unwrap_err()[0].invariant, Invariant::Inferred);
        let mut graph = model();
        graph.add("nothing", Op::from(Relu {}), &[s], vec![]);
        breaks(&graph, Stage::Imported, Invariant::Inferred, "nothing", "relu gives [4]");
    }

    #[test]
    fn extents_and_batch_axes() {
        let input = |shape: &str, printed: &str| {
            let graph = parse(&format!(
                "graph \"m\"\n%x = input() {{\"shape\":{shape}}} : {printed}\n%y = relu(%x) : {printed}\noutput %y\nlogits %y"
            ));
            graph.unwrap()
        };
        breaks(&input(r#"[4,"N"]"#, "[4, N]"), Stage::Imported, Invariant::BatchFirst, "x", "[4, N]");
        breaks(&input(r#"["N","N"]"#, "[N, N]"), Stage::Imported, Invariant::BatchFirst, "x", "[N, N]");
        breaks(&input(r#"["N",0]"#, "[N, 0]"), Stage::Imported, Invariant::Extents, "x", "without elements");
        let violations = validate(&input("[4]", "[4]"), Stage::Imported).unwrap_err();
        assert_eq!((violations[0].invariant, violations[0].at.as_str()), (Invariant::BatchedSources, "x"));
    }

    #[test]
    fn parameters_have_an_initial_value_of_their_extents() {
        let mut graph = model();
        let w = node(&graph, "w");
        graph.initial.insert(w, Tensor::full(&[2, 8], 0.0).into());
        breaks(&graph, Stage::Imported, Invariant::Initial, "w", "[2, 8]");
        graph.initial.remove(&w);
        breaks(&graph, Stage::Imported, Invariant::Initial, "w", "without an initial value");
        let mut graph = model();
        let h = node(&graph, "h");
        graph.initial.insert(h, Tensor::full(&[], 0.0).into());
        breaks(&graph, Stage::Imported, Invariant::Initial, "h", "no parameter");
    }

    #[test]
    fn tensors_are_complete_and_finite() {
        let mut graph = model();
        let w = node(&graph, "w");
        std::sync::Arc::make_mut(graph.initial.get_mut(&w).unwrap()).values[3] = f32::NAN;
        breaks(&graph, Stage::Imported, Invariant::Finite, "w", "element 3 is NaN");
        std::sync::Arc::make_mut(graph.initial.get_mut(&w).unwrap()).values.pop();
        breaks(&graph, Stage::Imported, Invariant::Tensor, "w", "15 values");
        let mut graph = model();
        let y = node(&graph, "y");
        graph.node_mut(y).op = Op::from(Clip { low: 0.0, high: f32::INFINITY });
        assert_eq!(validate(&graph, Stage::Imported), Ok(()));
        let n = node(&graph, "n");
        graph.node_mut(n).op = Op::from(BatchNormalization { epsilon: 0.1, momentum: f64::NAN });
        breaks(&graph, Stage::Imported, Invariant::Finite, "n", "\"momentum\":null");
    }

    #[test]
    fn results_exist_and_are_batched() {
        let mut graph = model();
        graph.logits = None;
        let violations = validate(&graph, Stage::Imported).unwrap_err();
        assert!(violations[0].what.contains("logits is not set"), "{violations:?}");
        let mut graph = model();
        let p = node(&graph, "p");
        graph.remove(p);
        breaks(&graph, Stage::Imported, Invariant::Results, "m", "output is not set");
        graph.output = Some(value(&graph, "w"));
        breaks(&graph, Stage::Imported, Invariant::Results, "w", "must be batched");
    }

    #[test]
    fn gradients_fit_trainable_parameters() {
        let mut graph = lossy();
        let (w, s) = (value(&graph, "w"), value(&graph, "s"));
        graph.gradients.insert(w.node, w);
        breaks(&graph, Stage::Specialized, Invariant::Gradients, "w", "only Specialized");
        assert_eq!(validate(&graph, Stage::Differentiated), Ok(()));
        graph.gradients.insert(w.node, s);
        breaks(&graph, Stage::Differentiated, Invariant::Gradients, "w", "it is [4, 4], its gradient [4]");
        graph.gradients.clear();
        graph.gradients.insert(s.node, s);
        breaks(&graph, Stage::Differentiated, Invariant::Gradients, "s", "no Trainable parameter");
    }

    #[test]
    fn state_updates_fit_state_parameters() {
        let mut graph = model();
        let (w, s) = (value(&graph, "w"), value(&graph, "s"));
        graph.state_updates.insert(s.node, s);
        breaks(&graph, Stage::Imported, Invariant::StateUpdates, "s", "only Imported");
        graph.state_updates.insert(s.node, w);
        breaks(&graph, Stage::Imported, Invariant::StateUpdates, "s", "its new value [4, 4]");
        graph.state_updates.clear();
        graph.state_updates.insert(w.node, w);
        breaks(&graph, Stage::Imported, Invariant::StateUpdates, "w", "no State parameter");
    }

    #[test]
    fn the_loss_comes_last() {
        breaks(&training(&model()), Stage::Differentiated, Invariant::Loss, "m", "0 losses");
        let mut graph = lossy();
        let gradient = Value { output: 2, ..value(&graph, "loss") };
        let info = super::super::ValueInfo { name: "dy".into(), shape: graph.shape(gradient).clone() };
        graph.add("dy", Op::from(Relu {}), &[gradient], vec![info]);
        breaks(&graph, Stage::Specialized, Invariant::Loss, "loss", "'dy' reads it");
        assert_eq!(validate(&graph, Stage::Differentiated), Ok(()));
        let mut graph = lossy();
        graph.logits = Some(value(&graph, "h"));
        breaks(&graph, Stage::Specialized, Invariant::Loss, "loss", "compares the graph's logits");
    }

    #[test]
    fn the_loss_reads_what_comes_before_a_softmax() {
        let mut graph = model();
        let p = value(&graph, "p");
        graph.logits = Some(p);
        breaks(&graph, Stage::Imported, Invariant::Softmax, "p", "what it reads must be the logits");
    }

    #[test]
    fn nothing_imported_is_left_once_specialised() {
        breaks(&model(), Stage::Specialized, Invariant::Specialized, "n", "batch_normalization is left over");
        let mut graph = training(&model());
        let y = node(&graph, "y");
        graph.node_mut(y).op = Op::from(Dropout { ratio: 0.5 });
        breaks(&graph, Stage::Specialized, Invariant::Specialized, "y", "dropout is left over");
    }
}
