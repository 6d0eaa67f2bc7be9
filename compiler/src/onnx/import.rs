//! From a file to a [`Graph`]: reading, preparing, then one node after the other through the [`table`](super::table).

use super::adapt::Adaptation;
use super::frame::{self, Frame, Turned};
use super::places::{self, Places};
use super::random::{self, Draw, Switch};
use super::report::{ImportReport, Kind, Place, Problem, Refusal};
use super::shapes::normalize_axis;
use super::tensor::{self, Elements, FLOAT, Folded};
use super::{external, fold, order, prepare, table, untie, wire};
use crate::ir::graph::Role;
use crate::ir::{Dim, Graph, Names, Shape, Tensor, Value, ValueInfo};
use crate::op::{Constant, Input, Op, Pad, Parameter, Transpose};
use onnx_protobuf::tensor_shape_proto::dimension;
use onnx_protobuf::{GraphProto, Message, ModelProto, NodeProto, ValueInfoProto, type_proto};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Elements of one example that a value may have.
const LARGEST_VALUE: usize = 1 << 36;

/// A model as imported.
#[derive(Debug)]
pub struct Imported {
    /// What it computes. Nodes and values bear their ONNX names; a node added in passing bears that of the one it comes from.
    pub graph: Graph,
    /// The file behind it, for [`template`](super::template()).
    pub source: Source,
    /// What a user should know: one sentence each.
    pub warnings: Vec<String>,
    /// How often each operation occurs in the file.
    pub operations: std::collections::BTreeMap<String, usize>,
    /// The files beside the model that hold data of it.
    pub external: Vec<PathBuf>,
}

/// A model file, prepared: every parameter of the graph is a float32 initialiser of the same name.
#[derive(Clone, Debug)]
pub struct Source {
    pub(super) model: ModelProto,
    /// Reshape nodes and what they must say instead of a fixed batch.
    pub(super) targets: Vec<(usize, Vec<i64>)>,
    /// Whether the file was made for one batch size.
    pub(super) fixed_batch: bool,
    /// What is drawn in training, and what it is in inference.
    pub(super) switches: Vec<Switch>,
}

/// Imports a model file; tensors in files beside it are read too.
///
/// # Errors
/// Everything that keeps the model from being trained, in one report.
pub fn import(path: &Path) -> Result<Imported, ImportReport> {
    import_adapted(path, &Adaptation::default())
}

/// Imports a model file and changes it.
///
/// # Errors
/// As [`import`], and where the model can't be changed so.
pub fn import_adapted(path: &Path, adaptation: &Adaptation) -> Result<Imported, ImportReport> {
    let file = path.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => import_named(&bytes, Some(path.parent().unwrap_or(Path::new("."))), adaptation, file),
        Err(error) => {
            let why = format!("cannot be read: {error}");
            let problem = Problem { kind: Kind::Io, place: Place::Model, why, hint: "check the path".into() };
            Err(ImportReport { file, problems: vec![problem] })
        }
    }
}

/// Imports a model from memory; `folder` is where its external data may lie.
///
/// # Errors
/// As [`import`].
pub fn import_bytes(bytes: &[u8], folder: Option<&Path>) -> Result<Imported, ImportReport> {
    import_bytes_adapted(bytes, folder, &Adaptation::default())
}

/// Imports a model from memory and changes it.
///
/// # Errors
/// As [`import_adapted`].
pub fn import_bytes_adapted(bytes: &[u8], folder: Option<&Path>, adaptation: &Adaptation) -> Result<Imported, ImportReport> {
    import_named(bytes, folder, adaptation, "the model".to_owned())
}

fn import_named(bytes: &[u8], folder: Option<&Path>, adaptation: &Adaptation, file: String) -> Result<Imported, ImportReport> {
    read(bytes, folder, adaptation).map_err(|problems| ImportReport { file, problems })
}

fn read(bytes: &[u8], folder: Option<&Path>, adaptation: &Adaptation) -> Result<Imported, Vec<Problem>> {
    let mut model = parse(bytes).map_err(|refusal| vec![refusal.at(Place::Model)])?;
    let opset = prepare::opset(&model).map_err(|refusal| vec![refusal.at(Place::Model)])?;
    let operations = count_operations(&model.graph);
    let ir_version = model.ir_version;
    let graph = model.graph.mut_or_insert_default();
    let external = folder.map_or_else(Vec::new, |folder| external::files(graph, folder));
    let problems = prepare::prepare(graph, folder, bytes.len());
    if !problems.is_empty() {
        return Err(problems);
    }
    adaptation.apply(graph, ir_version).map_err(|problem| vec![problem])?;
    let order = order::needed_nodes(graph)?;
    untie::untie(graph, &order, ir_version, bytes.len()).map_err(|problem| vec![problem])?;
    let importer = Importer::new(&model.graph, opset)?;
    let Finished { graph, targets, fixed_batch, switches, warnings } = importer.run(&order)?;
    let mut source = Source { model, targets, fixed_batch, switches };
    source.store_parameters(&graph);
    Ok(Imported { graph, source, warnings, operations, external })
}

/// What can be told of a sound file, whether or not it can be trained.
pub(crate) struct Summary {
    pub(crate) name: String,
    pub(crate) operations: std::collections::BTreeMap<String, usize>,
    /// Elements of its float32 initialisers.
    pub(crate) float_elements: usize,
}

/// Reads no more than [`Summary`] needs.
pub(crate) fn summarize(path: &Path) -> Result<Summary, ImportReport> {
    let refuse = |refusal: Refusal| ImportReport { file: path.display().to_string(), problems: vec![refusal.at(Place::Model)] };
    let bytes = std::fs::read(path).map_err(|e| refuse(Refusal::new(Kind::Io, format!("cannot be read: {e}"), "check the path")))?;
    let model = parse(&bytes).map_err(refuse)?;
    let floats = model.graph.initializer.iter().filter(|t| t.data_type == FLOAT);
    let float_elements = floats.filter_map(|t| tensor::extents(&t.dims).ok()).fold(0usize, |sum, (_, count)| sum.saturating_add(count));
    Ok(Summary { name: model.graph.name.clone(), operations: count_operations(&model.graph), float_elements })
}

pub(super) fn parse(bytes: &[u8]) -> Result<ModelProto, Refusal> {
    const HINT: &str = "the file is truncated or is no ONNX model";
    wire::check(bytes).map_err(|e| Refusal::new(Kind::Malformed, e.to_string(), HINT))?;
    let model = ModelProto::parse_from_bytes(bytes).map_err(|e| Refusal::new(Kind::Malformed, e.to_string(), HINT))?;
    if model.graph.is_none() {
        return Err(Refusal::new(Kind::Malformed, "there is no graph in it", HINT));
    }
    Ok(model)
}

/// How often each operation occurs.
fn count_operations(graph: &GraphProto) -> std::collections::BTreeMap<String, usize> {
    let mut counts = std::collections::BTreeMap::new();
    for node in &graph.node {
        if let Place::Node { op, .. } = prepare::place_of(node) {
            *counts.entry(op).or_default() += 1;
        }
    }
    counts
}

/// What a name stands for while nodes are read.
#[derive(Clone, Debug)]
pub(super) enum Binding {
    /// A value of the graph.
    Value(Value),
    /// An initialiser that no node has read as a parameter yet.
    Initializer(usize),
    /// A value of the graph inside a frame of zeros - top, left, bottom, right - which a convolution takes over.
    Padded(Value, [usize; 4]),
    /// A value of the graph whose examples ONNX has along another axis than the first, or merged with the next.
    Turned(Turned),
    /// Computed at import.
    Folded(Folded),
    /// Computed at import but for where each example begins.
    Places(Places),
    /// Random numbers, not yet made a switch.
    Draw(Draw),
    /// Parts of a value.
    Sequence(Vec<Turned>),
    /// The output of a node that was refused, or behind one.
    Refused,
}

/// The node being read.
pub(super) struct Call<'m> {
    pub(super) node: &'m NodeProto,
    pub(super) index: usize,
    pub(super) name: String,
}

impl<'m> Call<'m> {
    /// The name of input `slot`, if it is given.
    pub(super) fn optional(&self, slot: usize) -> Option<&'m str> {
        self.node.input.get(slot).map(String::as_str).filter(|name| !name.is_empty())
    }

    pub(super) fn input(&self, slot: usize) -> Result<&'m str, Refusal> {
        self.optional(slot)
            .ok_or_else(|| Refusal::new(Kind::Malformed, format!("input {slot} is missing"), "the exporter wrote an invalid node"))
    }

    pub(super) fn output(&self) -> Result<&'m str, Refusal> {
        self.output_at(0)
    }

    pub(super) fn output_at(&self, slot: usize) -> Result<&'m str, Refusal> {
        let name = self.node.output.get(slot).map(String::as_str).filter(|name| !name.is_empty());
        name.ok_or_else(|| Refusal::new(Kind::Malformed, "has no output", "the exporter wrote an invalid node"))
    }
}

/// Reads nodes in order and builds the graph.
pub(super) struct Importer<'m> {
    pub(super) model: &'m GraphProto,
    pub(super) opset: i64,
    pub(super) graph: Graph,
    pub(super) targets: Vec<(usize, Vec<i64>)>,
    pub(super) fixed_batch: Option<usize>,
    /// Whether the input holds whole numbers: tokens.
    pub(super) integer_input: bool,
    pub(super) switches: Vec<Switch>,
    pub(super) warnings: Vec<String>,
    bindings: HashMap<&'m str, Binding>,
    materialized: HashMap<String, Value>,
    readers: HashMap<&'m str, usize>,
    taken: Names,
    budget: usize,
    /// How ONNX has the examples of what the node reads, where that is not the graph's way.
    pub(super) frame: Option<Frame>,
}

struct Finished {
    graph: Graph,
    targets: Vec<(usize, Vec<i64>)>,
    fixed_batch: bool,
    switches: Vec<Switch>,
    warnings: Vec<String>,
}

impl<'m> Importer<'m> {
    fn new(model: &'m GraphProto, opset: i64) -> Result<Self, Vec<Problem>> {
        let mut bindings = HashMap::new();
        for (index, tensor) in model.initializer.iter().enumerate() {
            bindings.insert(tensor.name.as_str(), Binding::Initializer(index));
        }
        let mut readers = HashMap::new();
        for name in model.node.iter().flat_map(|n| &n.input).chain(model.output.iter().map(|o| &o.name)) {
            *readers.entry(name.as_str()).or_default() += 1;
        }
        let mut importer = Importer {
            model,
            opset,
            graph: Graph::new(if model.name.is_empty() { "model" } else { &model.name }),
            targets: vec![],
            fixed_batch: None,
            integer_input: false,
            switches: vec![],
            warnings: vec![],
            bindings,
            materialized: HashMap::new(),
            readers,
            taken: untie::names(model).into_iter().collect(),
            budget: prepare::FOLD_LIMIT,
            frame: None,
        };
        importer.read_input()?;
        Ok(importer)
    }

    fn read_input(&mut self) -> Result<(), Vec<Problem>> {
        let model = self.model;
        let inputs: Vec<_> = model.input.iter().filter(|i| !self.bindings.contains_key(i.name.as_str())).collect();
        let [input] = inputs[..] else {
            let why = format!("has {} data inputs: {}", inputs.len(), names(&inputs));
            let refusal = Refusal::unsupported(why, "exactly one is needed, with the examples along its first axis");
            return Err(vec![refusal.at(Place::Model)]);
        };
        let (shape, fixed) = input_shape(input).map_err(|refusal| vec![refusal.at(Place::Input(input.name.clone()))])?;
        self.fixed_batch = fixed;
        self.integer_input =
            matches!(input.type_.as_ref().and_then(|t| t.value.as_ref()), Some(type_proto::Value::TensorType(t)) if t.elem_type != FLOAT);
        if let Some(batch) = fixed {
            self.warnings.push(format!("the model was exported for a batch of {batch}; it is trained with any"));
        }
        let info = ValueInfo { name: input.name.clone(), shape: shape.clone() };
        let node = self.graph.add(&input.name, Op::Input(Input { shape }), &[], vec![info]);
        self.bindings.insert(&input.name, Binding::Value(Value { node, output: 0 }));
        Ok(())
    }

    fn run(mut self, order: &[usize]) -> Result<Finished, Vec<Problem>> {
        let mut problems = Vec::new();
        for &index in order {
            let node = &self.model.node[index];
            let call = Call { node, index, name: prepare::name_of(node) };
            let behind_refused = node.input.iter().any(|i| matches!(self.bindings.get(i.as_str()), Some(Binding::Refused)));
            let result = match table::find(node) {
                Ok(_) if behind_refused => Ok(()),
                Ok(mapping) => table::check_attributes(mapping, node).and_then(|()| self.convert(mapping, &call)),
                Err(refusal) => Err(refusal),
            };
            if behind_refused || result.is_err() {
                for output in &node.output {
                    self.bindings.insert(output, Binding::Refused);
                }
            }
            problems.extend(result.err().map(|refusal| refusal.at(prepare::place_of(node))));
        }
        if problems.is_empty()
            && let Err(problem) = self.read_output()
        {
            problems.push(problem);
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        self.remove_unread();
        self.warn_of_folded_normalization();
        let Importer { graph, targets, fixed_batch, switches, warnings, .. } = self;
        Ok(Finished { graph, targets, fixed_batch: fixed_batch.is_some(), switches, warnings })
    }

    fn convert(&mut self, mapping: &table::Mapping, call: &Call<'m>) -> Result<(), Refusal> {
        match fold::fold(self, call)? {
            Some(folded) => {
                self.bindings.insert(call.output()?, Binding::Folded(folded));
                Ok(())
            }
            None => {
                if let Some(places) = places::follow(self, call)? {
                    self.bindings.insert(call.output()?, Binding::Places(places));
                    return Ok(());
                }
                if random::follow(self, call)? {
                    return Ok(());
                }
                self.frame = frame::of(self, call)?;
                let result = (mapping.convert)(self, call);
                if let (Some(frame), Ok(())) = (self.frame.take(), &result) {
                    self.bind_in_frame(call, frame);
                }
                result
            }
        }
    }

    /// Outputs of a node that computed in `frame` have their examples as it says.
    fn bind_in_frame(&mut self, call: &Call<'m>, frame: Frame) {
        for output in &call.node.output {
            if let Some(&Binding::Value(value)) = self.bindings.get(output.as_str())
                && self.graph.shape(value).is_batched()
            {
                self.bind_turned(output, frame.turned(value));
            }
        }
    }

    fn read_output(&mut self) -> Result<(), Problem> {
        let model = self.model;
        let [output] = &model.output[..] else {
            let why = format!("has {} outputs: {}", model.output.len(), names(&model.output.iter().collect::<Vec<_>>()));
            return Err(Refusal::unsupported(why, "exactly one is needed; remove the others before exporting").at(Place::Model));
        };
        let at = |refusal: Refusal| refusal.at(Place::Output(output.name.clone()));
        let value = match self.bindings.get(output.name.as_str()) {
            Some(&Binding::Value(value)) if self.graph.shape(value).is_batched() => value,
            Some(&Binding::Turned(turned)) => {
                return Err(at(Refusal::unsupported(format!("has {turned}"), "transpose or reshape the output so that they come first")));
            }
            Some(_) => return Err(at(Refusal::new(Kind::Shape, "does not depend on the input", "remove it or connect it"))),
            None => return Err(at(Refusal::new(Kind::Name, "is defined by no node", "export the model again"))),
        };
        if matches!(self.graph.node(value.node).op, Op::Input(_)) {
            return Err(at(Refusal::unsupported("is the input itself", "there is nothing to train")));
        }
        self.graph.node_mut(value.node).outputs[value.output].name.clone_from(&output.name);
        self.graph.output = Some(value);
        self.graph.logits = Some(match self.graph.node(value.node).op {
            Op::Softmax(_) if self.graph.shape(value).rank() == 2 => self.graph.inputs(value.node)[0],
            _ => value,
        });
        Ok(())
    }

    /// Removes constants that were computed with at import and that nothing reads now.
    fn remove_unread(&mut self) {
        let ids = self.graph.ids();
        for id in ids.into_iter().rev() {
            let kept = matches!(self.graph.node(id).op, Op::Input(_)) || self.graph.output.is_some_and(|o| o.node == id);
            if !kept && self.graph.outputs(id).iter().all(|&value| self.graph.uses(value).is_empty()) {
                self.graph.remove(id);
            }
        }
    }

    /// A model whose convolutions have biases and nothing is normalised was probably exported for inference.
    fn warn_of_folded_normalization(&mut self) {
        let nodes: Vec<_> = self.graph.ids();
        let biased =
            nodes.iter().filter(|&&id| matches!(self.graph.node(id).op, Op::Convolution(_)) && self.graph.inputs(id).len() > 2).count();
        let normalized = nodes.iter().any(|&id| matches!(self.graph.node(id).op, Op::BatchNormalization(_)));
        if biased > 0 && !normalized {
            self.warnings.push(format!(
                "{biased} convolutions have a bias and there is no batch normalization: if the exporter folded it away, export in training mode or use --insert-bn"
            ));
        }
    }

    /// What `name` stands for. Names were checked before any node is read.
    pub(super) fn binding(&self, name: &str) -> &Binding {
        self.bindings.get(name).unwrap_or(&Binding::Refused)
    }

    pub(super) fn bind(&mut self, name: &'m str, value: Value) {
        self.bindings.insert(name, Binding::Value(value));
    }

    pub(super) fn bind_draw(&mut self, name: &'m str, draw: Draw) {
        self.bindings.insert(name, Binding::Draw(draw));
    }

    pub(super) fn bind_sequence(&mut self, name: &'m str, parts: Vec<Turned>) {
        self.bindings.insert(name, Binding::Sequence(parts));
    }

    pub(super) fn bind_padded(&mut self, name: &'m str, value: Value, pads: [usize; 4]) {
        self.bindings.insert(name, Binding::Padded(value, pads));
    }

    /// Gives `name` a value whose examples ONNX may have along another axis.
    pub(super) fn bind_turned(&mut self, name: &'m str, turned: Turned) {
        let binding = if turned.is_plain() { Binding::Value(turned.value) } else { Binding::Turned(turned) };
        self.bindings.insert(name, binding);
    }

    /// Input `slot`, whichever axis its examples lie along.
    pub(super) fn turned_operand(&mut self, call: &Call<'m>, slot: usize) -> Result<Turned, Refusal> {
        match *self.binding(call.input(slot)?) {
            Binding::Turned(turned) => Ok(turned),
            _ => self.operand(call, slot).map(Turned::plain),
        }
    }

    /// Input `slot` and the zeros around it.
    pub(super) fn padded_operand(&mut self, call: &Call<'m>, slot: usize) -> Result<(Value, [usize; 4]), Refusal> {
        match *self.binding(call.input(slot)?) {
            Binding::Padded(value, pads) => Ok((value, pads)),
            _ => self.operand(call, slot).map(|value| (value, [0; 4])),
        }
    }

    /// How many nodes and outputs read `name`.
    pub(super) fn readers(&self, name: &str) -> usize {
        self.readers.get(name).copied().unwrap_or(0)
    }

    /// Takes `elements` off what import may compute; a small file must not unfold into a large one.
    pub(super) fn charge(&mut self, elements: usize) -> Result<(), Refusal> {
        self.budget = self.budget.checked_sub(elements).ok_or_else(|| {
            Refusal::new(
                Kind::Size,
                format!("constants computed at import exceed {} elements", prepare::FOLD_LIMIT),
                "store them as initialisers",
            )
        })?;
        Ok(())
    }

    /// A name that no value has, near `base`.
    fn fresh(&mut self, base: &str) -> String {
        self.taken.claim(base)
    }

    /// Input `slot` as a value of the graph: a parameter or a constant, if it is not one yet. Within a frame, what has no batch is brought under
    /// the graph's axes.
    pub(super) fn operand(&mut self, call: &Call<'m>, slot: usize) -> Result<Value, Refusal> {
        let value = self.unaligned_operand(call, slot)?;
        match self.frame {
            Some(frame) if !self.graph.shape(value).is_batched() => frame.align(self, call, value),
            _ => Ok(value),
        }
    }

    /// As [`Importer::operand`], integers and truth values taken for numbers.
    pub(super) fn number_operand(&mut self, call: &Call<'m>, slot: usize) -> Result<Value, Refusal> {
        let name = call.input(slot)?;
        let folded = match self.binding(name) {
            Binding::Folded(folded) => Some(folded.clone()),
            Binding::Initializer(index) if self.model.initializer[*index].data_type != FLOAT => {
                Some(tensor::folded(&self.model.initializer[*index]).map_err(|refusal| in_initializer(refusal, name))?)
            }
            _ => None,
        };
        let Some(values) = folded.as_ref().and_then(Folded::to_floats) else { return self.operand(call, slot) };
        let dims = folded.map(|folded| folded.dims).unwrap_or_default();
        let value = self.materialize(&format!("{name}.number"), Folded { dims, elements: Elements::Floats(values) })?;
        self.frame.map_or(Ok(value), |frame| frame.align(self, call, value))
    }

    /// As [`Importer::operand`]; a matrix that has no batch keeps its own axes.
    pub(super) fn unaligned_operand(&mut self, call: &Call<'m>, slot: usize) -> Result<Value, Refusal> {
        let name = call.input(slot)?;
        match self.binding(name).clone() {
            Binding::Value(value) => Ok(value),
            Binding::Padded(value, frame) => self.framed(call, name, value, frame),
            Binding::Turned(turned) if self.frame.is_some_and(|frame| frame.is_of(turned)) => Ok(turned.value),
            Binding::Turned(turned) => {
                let why = format!("reads '{name}', which has {turned}");
                Err(Refusal::unsupported(why, "transpose, slice or squeeze it so that they come first"))
            }
            Binding::Folded(folded) => self.materialize(name, folded),
            Binding::Draw(_) => Err(random::unknown()),
            Binding::Places(_) | Binding::Sequence(_) => {
                Err(Refusal::unsupported(format!("reads '{name}', which is no tensor of floats"), "`mestc ops` lists what is understood"))
            }
            Binding::Initializer(index) => {
                let source = &self.model.initializer[index];
                if untie::is_parameter(&call.node.op_type, slot, source) {
                    let role = match prepare::use_of(&call.node.op_type, slot) {
                        prepare::Use::Statistic => Role::State,
                        _ => Role::Trainable,
                    };
                    return self.parameter(name, index, role);
                }
                let folded = tensor::folded(source).map_err(|refusal| in_initializer(refusal, name))?;
                if folded.single().is_none() && prepare::is_generated(name) {
                    self.warnings.push(format!("'{name}' is taken for a constant, not a parameter: its name was made up by the exporter"));
                }
                self.materialize(name, folded)
            }
            Binding::Refused => Err(Refusal::new(Kind::Name, format!("'{name}' is not defined"), "export the model again")),
        }
    }

    /// An image inside its frame of zeros, as a value of its own: one for all readers but convolutions.
    fn framed(&mut self, call: &Call<'m>, name: &str, image: Value, frame: [usize; 4]) -> Result<Value, Refusal> {
        if let Some(&value) = self.materialized.get(name) {
            return Ok(value);
        }
        let extents = self.graph.shape(image).fixed();
        let mut value = image;
        for (side, axis) in [2, 3].into_iter().enumerate().filter(|(side, _)| frame[*side] + frame[side + 2] > 0) {
            let extent = extents[axis - 1] + frame[side] + frame[side + 2];
            let named = self.fresh(&format!("{name}.padded"));
            value = self.add_named(call, Pad { axis, start: frame[side], step: 1, extent, fill: 0.0 }.into(), &[value], named)?;
        }
        self.materialized.insert(name.to_owned(), value);
        Ok(value)
    }

    fn parameter(&mut self, name: &'m str, index: usize, role: Role) -> Result<Value, Refusal> {
        if let Some(&constant) = self.materialized.get(name) {
            return Ok(constant);
        }
        let (dims, values) = tensor::float32(&self.model.initializer[index]).map_err(|refusal| in_initializer(refusal, name))?;
        if role == Role::Trainable && values.iter().any(|v| v.is_infinite()) {
            self.warnings.push(format!("'{name}' is taken for a constant, not a parameter: it holds infinities, as a mask does"));
            return self.materialize(name, Folded { dims, elements: Elements::Floats(values) });
        }
        let info = ValueInfo { name: name.to_owned(), shape: Shape::uniform(&dims) };
        let node = self.graph.add(name, Op::Parameter(Parameter { dims: dims.clone(), role }), &[], vec![info]);
        self.graph.initial.insert(node, Tensor { dims, values }.into());
        let value = Value { node, output: 0 };
        self.bind(name, value);
        Ok(value)
    }

    /// A folded tensor as a constant of the graph, one for all its readers.
    fn materialize(&mut self, name: &str, folded: Folded) -> Result<Value, Refusal> {
        if let Some(&value) = self.materialized.get(name) {
            return Ok(value);
        }
        let value = self.constant(name.to_owned(), folded)?;
        self.materialized.insert(name.to_owned(), value);
        Ok(value)
    }

    fn constant(&mut self, name: String, folded: Folded) -> Result<Value, Refusal> {
        let Elements::Floats(values) = folded.elements else {
            let why = format!("computes with '{name}', a tensor of integers");
            return Err(Refusal::new(Kind::ElementType, why, "only float32 values can be trained with"));
        };
        if values.is_empty() || values.iter().any(|v| v.is_nan()) {
            return Err(Refusal::new(Kind::Shape, format!("'{name}' is empty or not a number"), "remove the constant"));
        }
        self.charge(values.len())?;
        // Masks hold infinities; what they are added to is as far below everything at the largest float.
        let values = values.into_iter().map(|v| v.clamp(f32::MIN, f32::MAX)).collect();
        let tensor = Tensor { dims: folded.dims, values };
        let info = ValueInfo { name: name.clone(), shape: Shape::uniform(&tensor.dims) };
        let node = self.graph.add(name, Op::Constant(Constant { value: tensor }), &[], vec![info]);
        Ok(Value { node, output: 0 })
    }

    /// The axis of the graph's `value` that ONNX counts as `axis`, in the frame of the node; 0 for the one with the examples.
    pub(super) fn own_axis(&self, axis: i64, value: Value) -> Result<usize, Refusal> {
        match self.frame {
            Some(frame) => Ok(frame.turned(value).axis(normalize_axis(axis, frame.rank)?)),
            None => normalize_axis(axis, self.graph.shape(value).rank()),
        }
    }

    /// A constant that the file does not have.
    pub(super) fn new_constant(&mut self, base: &str, folded: Folded) -> Result<Value, Refusal> {
        let name = self.fresh(base);
        self.constant(name, folded)
    }

    /// Input `slot` if it is known at import; `None` if it is not given.
    pub(super) fn setting(&self, call: &Call<'m>, slot: usize) -> Result<Option<Folded>, Refusal> {
        let Some(name) = call.optional(slot) else { return Ok(None) };
        match self.binding(name) {
            Binding::Folded(folded) => Ok(Some(folded.clone())),
            Binding::Initializer(index) => {
                tensor::folded(&self.model.initializer[*index]).map(Some).map_err(|refusal| in_initializer(refusal, name))
            }
            Binding::Value(value) => match &self.graph.node(value.node).op {
                Op::Constant(constant) => {
                    Ok(Some(Folded { dims: constant.value.dims.clone(), elements: Elements::Floats(constant.value.values.clone()) }))
                }
                _ => Err(Refusal::unsupported(format!("'{name}' is computed by the model"), "it must be a constant")),
            },
            Binding::Padded(..) | Binding::Turned(_) | Binding::Places(_) | Binding::Draw(_) | Binding::Sequence(_) => {
                Err(Refusal::unsupported(format!("'{name}' is computed by the model"), "it must be a constant"))
            }
            Binding::Refused => Err(Refusal::new(Kind::Name, format!("'{name}' is not defined"), "export the model again")),
        }
    }

    /// Adds an operation under a name of its own.
    pub(super) fn add(&mut self, call: &Call<'m>, op: impl Into<Op>, inputs: &[Value], suffix: &str) -> Result<Value, Refusal> {
        let name = self.fresh(&format!("{}.{suffix}", call.output()?));
        self.add_named(call, op.into(), inputs, name)
    }

    /// As [`Importer::add`], named after the node, whatever outputs it has.
    pub(super) fn add_near(&mut self, call: &Call<'m>, op: impl Into<Op>, inputs: &[Value], suffix: &str) -> Result<Value, Refusal> {
        let name = self.fresh(&format!("{}.{suffix}", call.name));
        self.add_named(call, op.into(), inputs, name)
    }

    /// The initialiser `name` as a learned tensor.
    pub(super) fn weight_parameter(&mut self, name: &'m str) -> Result<Value, Refusal> {
        match *self.binding(name) {
            Binding::Value(value) => Ok(value),
            Binding::Initializer(index) => self.parameter(name, index, Role::Trainable),
            _ => Err(Refusal::unsupported(format!("reads '{name}', which is no parameter"), "export the model again")),
        }
    }

    /// Adds the transpose of a matrix: a view, named after it.
    pub(super) fn transposed(&mut self, call: &Call<'m>, matrix: Value) -> Result<Value, Refusal> {
        let name = self.fresh(&format!("{}.transposed", self.graph.info(matrix).name));
        self.add_named(call, Transpose { perm: vec![1, 0] }.into(), &[matrix], name)
    }

    /// Adds the operation that computes the node's output.
    pub(super) fn finish(&mut self, call: &Call<'m>, op: impl Into<Op>, inputs: &[Value]) -> Result<(), Refusal> {
        let output = call.output()?;
        self.finish_as(call, output, op, inputs)?;
        Ok(())
    }

    /// Adds the operation that computes the output `name` of the node.
    pub(super) fn finish_as(&mut self, call: &Call<'m>, name: &'m str, op: impl Into<Op>, inputs: &[Value]) -> Result<Value, Refusal> {
        let value = self.add_named(call, op.into(), inputs, name.to_owned())?;
        self.bind(name, value);
        Ok(value)
    }

    fn add_named(&mut self, call: &Call<'m>, op: Op, inputs: &[Value], name: String) -> Result<Value, Refusal> {
        let shapes: Vec<_> = inputs.iter().map(|&v| self.graph.shape(v)).collect();
        let mut inferred = op.operator().infer(&shapes).map_err(|e| Refusal::new(Kind::Shape, e.what, e.hint))?;
        let Some(shape) = (inferred.len() == 1).then(|| inferred.pop()).flatten() else {
            return Err(Refusal::unsupported("has several outputs", "only its first may be used"));
        };
        check_shape(&shape)?;
        let node = self.graph.add(&call.name, op, inputs, vec![ValueInfo { name, shape }]);
        Ok(Value { node, output: 0 })
    }
}

pub(super) fn in_initializer(refusal: Refusal, name: &str) -> Refusal {
    Refusal { why: format!("initialiser '{name}' {}", refusal.why), ..refusal }
}

fn check_shape(shape: &Shape) -> Result<(), Refusal> {
    if shape.0.iter().skip(1).any(|d| *d == Dim::Batch) {
        return Err(Refusal::unsupported(format!("its result {shape} has the examples on another axis than the first"), "keep them first"));
    }
    let elements = shape.fixed().into_iter().try_fold(1usize, |product, extent| product.checked_mul(extent));
    match elements {
        Some(0) => Err(Refusal::new(Kind::Shape, format!("its result {shape} is empty"), "the input is too small for the layers before")),
        Some(n) if n <= LARGEST_VALUE => Ok(()),
        _ => Err(Refusal::new(Kind::Size, format!("its result {shape} is larger than memory"), "the file is damaged or hostile")),
    }
}

fn names(values: &[&ValueInfoProto]) -> String {
    let names: Vec<_> = values.iter().map(|v| format!("'{}'", v.name)).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// The input's shape with a symbolic batch, and the batch the file was made for, if any.
fn input_shape(input: &ValueInfoProto) -> Result<(Shape, Option<usize>), Refusal> {
    let tensor = match input.type_.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => tensor,
        Some(_) => return Err(Refusal::new(Kind::ElementType, "is not a tensor", "sequences, maps and optionals cannot be trained on")),
        None => return Err(Refusal::new(Kind::Malformed, "has no type", "export the model again")),
    };
    // Tokens: whole numbers that floats hold exactly up to 2^24.
    if !matches!(tensor.elem_type, FLOAT | tensor::INT64 | tensor::INT32) {
        let why = format!("has element type {}", tensor::type_name(tensor.elem_type));
        return Err(Refusal::new(Kind::ElementType, why, "float32 is needed, or int64 for tokens; convert the model before exporting"));
    }
    let dims = tensor.shape.as_ref().map(|s| s.dim.as_slice()).unwrap_or_default();
    if dims.len() < 2 || dims.len() > 5 {
        let why = format!("has {} axes", dims.len());
        return Err(Refusal::new(Kind::Shape, why, "between 2 and 5 are needed: the examples, then the axes of one example"));
    }
    let fixed = match dims[0].value {
        Some(dimension::Value::DimValue(n)) if n <= 0 => {
            return Err(Refusal::new(Kind::Shape, format!("has a batch of {n}"), "export with a batch axis that is positive or symbolic"));
        }
        Some(dimension::Value::DimValue(n)) => Some(n as usize),
        _ => None,
    };
    let extent = |(axis, dim): (usize, &onnx_protobuf::tensor_shape_proto::Dimension)| match dim.value {
        Some(dimension::Value::DimValue(n)) if n > 0 => Ok(n as usize),
        Some(dimension::Value::DimValue(n)) => Err(Refusal::new(Kind::Shape, format!("axis {axis} has extent {n}"), "it must be positive")),
        _ => Err(Refusal::new(Kind::Shape, format!("axis {axis} has no fixed extent"), "only axis 0, the batch, may be symbolic")),
    };
    let extents = dims.iter().enumerate().skip(1).map(extent).collect::<Result<Vec<_>, _>>()?;
    let shape = Shape::batched(&extents);
    check_shape(&shape)?;
    Ok((shape, fixed))
}
