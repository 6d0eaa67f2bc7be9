//! Recurrent layers, unrolled: RNN, GRU and LSTM over a sequence of fixed length become a matrix product for the input and one for the state at
//! each step, with the same two weights throughout, and arithmetic on their results.
//!
//! PyTorch keeps a layer's gates in another order than ONNX, so exporters take weights apart and put them together again before the layer. The
//! graph multiplies by the parameter as it is stored; which rows are which gate is followed through those nodes and applied to the results.

use super::attributes;
use super::frame::{Merged, Turned};
use super::import::{Call, Importer};
use super::report::{Kind, Refusal};
use super::tensor::{Elements, Folded};
use super::{prepare, tensor, untie};
use crate::ir::{Dim, Shape, Value};
use crate::op::{Add, Concat, Function, Linear, Mul, Op, Relu, Reshape, Slice, Transpose, Unary};
use onnx_protobuf::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType};

/// Steps of a sequence: every one has nodes of its own.
const LONGEST_SEQUENCE: usize = 256;

/// Nodes between a weight as stored and as ONNX wants it.
const DEEPEST_CHAIN: usize = 16;

const AS_PYTORCH: &str = "what PyTorch's nn.RNN, nn.GRU and nn.LSTM are can be trained";

/// Which layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    /// h' = f(x W + h R + b), f = tanh or max(., 0)
    Rnn { relu: bool },
    /// Gates z, r and the candidate, in ONNX's order.
    Gru { reset_after_product: bool },
    /// Gates i, o, f and the candidate, in ONNX's order.
    Lstm,
}

impl Cell {
    fn gates(self) -> usize {
        match self {
            Cell::Rnn { .. } => 1,
            Cell::Gru { .. } => 3,
            Cell::Lstm => 4,
        }
    }
}

/// A weight as a matrix of the graph, and where ONNX's gates are among its columns.
struct Weight {
    /// `[inputs, gates * hidden]`
    matrix: Value,
    /// For each gate in ONNX's order: which block of columns it is.
    gates: Vec<usize>,
}

/// One direction of a layer.
struct Direction {
    input: Weight,
    state: Weight,
    /// Of the products with input and state, `[gates * hidden]` in ONNX's order.
    biases: Option<[Value; 2]>,
    hidden: usize,
}

/// h, and c of an LSTM: `[N, hidden]`; `None` while they are zero.
#[derive(Clone, Copy, Default)]
struct State {
    h: Option<Value>,
    c: Option<Value>,
}

pub(super) fn convert<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let cell = cell(call)?;
    let batch_first = attributes::int(call.node, "layout")?.unwrap_or(0) != 0;
    let (reversed, count) = match attributes::string(call.node, "direction")?.unwrap_or("forward") {
        "forward" => (false, 1),
        "reverse" => (true, 1),
        "bidirectional" => (false, 2),
        other => return Err(Refusal::new(Kind::Attribute, format!("direction is '{other}'"), "export the model again")),
    };
    if call.optional(4).is_some() {
        return Err(Refusal::unsupported("has lengths of its sequences", "train on sequences of one length, padded"));
    }
    if call.optional(7).is_some() {
        return Err(Refusal::unsupported("has peepholes", AS_PYTORCH));
    }
    let x = importer.turned_operand(call, 0)?;
    let shape = importer.graph.shape(x.value).clone();
    let [Dim::Batch, Dim::Fixed(steps), Dim::Fixed(inputs)] = shape.0[..] else {
        return Err(Refusal::unsupported(
            format!("reads {shape}"),
            "it must be [steps, N, features], or [N, steps, features] with layout = 1",
        ));
    };
    if x.batch != usize::from(!batch_first) || x.merged != Merged::default() {
        return Err(Refusal::unsupported(
            "has its steps along the axis of the examples",
            "export with batch_first=True and examples along the first axis of the input",
        ));
    }
    if steps > LONGEST_SEQUENCE {
        return Err(Refusal::new(Kind::Size, format!("has {steps} steps"), format!("at most {LONGEST_SEQUENCE} can be unrolled")));
    }
    let initial = [5, 6].map(|slot| initial_state(importer, call, slot, batch_first));
    let [h, c] = initial;
    let (h, c) = (h?, c?);
    let directions = (0..count).map(|d| direction(importer, call, cell, [d, count], inputs)).collect::<Result<Vec<_>, _>>()?;
    let inputs = (0..steps).map(|step| at_step(importer, call, x.value, step)).collect::<Result<Vec<_>, _>>()?;
    let mut results = Vec::with_capacity(count);
    for (d, direction) in directions.iter().enumerate() {
        let mut state = State {
            h: h.map(|h| part(importer, call, h, 1, [d, count])).transpose()?,
            c: c.map(|c| part(importer, call, c, 1, [d, count])).transpose()?,
        };
        let mut outputs = vec![None; steps];
        for i in 0..steps {
            let step = if reversed || d == 1 { steps - 1 - i } else { i };
            state = direction.step(importer, call, cell, inputs[step], state)?;
            outputs[step] = state.h;
        }
        results.push((outputs.into_iter().flatten().collect::<Vec<_>>(), state));
    }
    finish(importer, call, &results, directions[0].hidden, batch_first)
}

/// Which layer the node is; refuses what changes its formulas.
fn cell(call: &Call<'_>) -> Result<Cell, Refusal> {
    let unsupported = |why: &str| Err(Refusal::unsupported(why, AS_PYTORCH));
    if attributes::float(call.node, "clip")?.is_some() || attributes::int(call.node, "input_forget")?.unwrap_or(0) != 0 {
        return unsupported("clips its gates or couples them");
    }
    let activations = call.node.attribute.iter().find(|attribute| attribute.name == "activations");
    let activations: Vec<String> =
        activations.map_or_else(Vec::new, |a| a.strings.iter().map(|text| String::from_utf8_lossy(text).to_lowercase()).collect());
    let all = |usual: &[&str]| activations.chunks(usual.len()).all(|names| names == usual);
    match call.node.op_type.as_str() {
        "LSTM" if all(&["sigmoid", "tanh", "tanh"]) => Ok(Cell::Lstm),
        "GRU" if all(&["sigmoid", "tanh"]) => {
            Ok(Cell::Gru { reset_after_product: attributes::int(call.node, "linear_before_reset")?.unwrap_or(0) != 0 })
        }
        "RNN" if all(&["tanh"]) => Ok(Cell::Rnn { relu: false }),
        "RNN" if all(&["relu"]) => Ok(Cell::Rnn { relu: true }),
        _ => unsupported("has other activations than usual"),
    }
}

/// Input `slot`, a state before the first step, as `[N, directions, hidden]`; `None` if it is zero or not given.
fn initial_state<'m>(importer: &mut Importer<'m>, call: &Call<'m>, slot: usize, batch_first: bool) -> Result<Option<Value>, Refusal> {
    let Some(name) = call.optional(slot) else { return Ok(None) };
    let zeros = |folded: &Folded| matches!(&folded.elements, Elements::Floats(values) if values.iter().all(|&value| value == 0.0));
    let known = importer.setting(call, slot).ok().flatten();
    let state = match known {
        Some(folded) if zeros(&folded) => return Ok(None),
        _ => importer.turned_operand(call, slot)?,
    };
    if !importer.graph.shape(state.value).is_batched() {
        let why = format!("begins at '{name}', which is the same for all examples and not zero");
        return Err(Refusal::unsupported(why, "let the state begin at zero, or compute it from the input"));
    }
    if state.batch != usize::from(!batch_first) || state.merged != Merged::default() {
        return Err(Refusal::unsupported(format!("begins at '{name}', which has {state}"), "states are [directions, N, hidden]"));
    }
    Ok(Some(state.value))
}

/// Part `which[0]` of `which[1]` equal ones along `axis` of what has no other axes but the last, without that axis.
fn part<'m>(importer: &mut Importer<'m>, call: &Call<'m>, value: Value, axis: usize, which: [usize; 2]) -> Result<Value, Refusal> {
    let shape = importer.graph.shape(value).clone();
    let extents = shape.fixed();
    let Some(&last) = extents.last() else { return Ok(value) };
    let mut value = value;
    if which[1] > 1 {
        value = importer.add_near(call, Slice { axis, start: which[0], step: 1, count: 1 }, &[value], "part")?;
    }
    let flat = if shape.is_batched() { Shape::batched(&[last]) } else { Shape::uniform(&[last]) };
    importer.add_near(call, Reshape { shape: flat }, &[value], "part")
}

/// Step `step` of `[N, steps, features]`. What was put together of steps is not taken apart again.
fn at_step<'m>(importer: &mut Importer<'m>, call: &Call<'m>, x: Value, step: usize) -> Result<Value, Refusal> {
    let extents = importer.graph.shape(x).fixed();
    let (steps, features) = (extents[0], extents[1]);
    let mut whole = x;
    while let (Op::Reshape(_), Some(&source)) = (&importer.graph.node(whole.node).op, importer.graph.inputs(whole.node).first())
        && importer.graph.shape(source).0.get(1) == Some(&Dim::Fixed(steps))
    {
        whole = source;
    }
    let value = match &importer.graph.node(whole.node).op {
        Op::Concat(Concat { axis: 1 }) if importer.graph.inputs(whole.node).len() == steps => importer.graph.inputs(whole.node)[step],
        _ if steps == 1 => x,
        _ => importer.add_near(call, Slice { axis: 1, start: step, step: 1, count: 1 }, &[x], "step")?,
    };
    importer.add_near(call, Reshape { shape: Shape::batched(&[features]) }, &[value], "step")
}

/// The weights of direction `which[0]` of `which[1]`.
fn direction<'m>(importer: &mut Importer<'m>, call: &Call<'m>, cell: Cell, which: [usize; 2], inputs: usize) -> Result<Direction, Refusal> {
    let state = rows(importer, call.input(2)?, 0)?;
    let hidden = state.len() / (cell.gates() * which[1]);
    if hidden == 0 || attributes::int(call.node, "hidden_size")?.is_some_and(|size| size != hidden as i64) {
        return Err(Refusal::new(
            Kind::Shape,
            format!("its state's weight has {} rows", state.len()),
            "gates times hidden_size are needed",
        ));
    }
    let state = weight(importer, call, &state, which, [hidden, hidden])?;
    let input = rows(importer, call.input(1)?, 0)?;
    let input = weight(importer, call, &input, which, [inputs, hidden])?;
    let biases = match call.optional(3) {
        None => None,
        Some(_) => {
            let all = importer.unaligned_operand(call, 3)?;
            let all = part(importer, call, all, 0, which)?;
            let width = cell.gates() * hidden;
            let half = |importer: &mut Importer<'m>, i: usize| {
                importer.add_near(call, Slice { axis: 0, start: i * width, step: 1, count: width }, &[all], "bias")
            };
            Some([half(importer, 0)?, half(importer, 1)?])
        }
    };
    Ok(Direction { input, state, biases, hidden })
}

/// (initialiser, row) for each row of a weight, whatever axes lie before rows.
type Rows = Vec<(usize, usize)>;

/// Follows a weight back to the rows of initialisers that it is put together of.
fn rows(importer: &Importer<'_>, name: &str, depth: usize) -> Result<Rows, Refusal> {
    let computed = || {
        let why = format!("its weight '{name}' is not made of rows of parameters");
        Refusal::unsupported(why, "weights may be sliced and concatenated along their first axis, nothing else")
    };
    if let Some(index) = importer.model.initializer.iter().position(|tensor| tensor.name == name) {
        let dims = &importer.model.initializer[index].dims;
        let count: i64 = dims[..dims.len().saturating_sub(1)].iter().product();
        return Ok((0..usize::try_from(count).map_err(|_| computed())?).map(|row| (index, row)).collect());
    }
    let node = importer.model.node.iter().find(|node| node.output.iter().any(|output| output == name)).ok_or_else(computed)?;
    if depth > DEEPEST_CHAIN || !prepare::is_onnx(&node.domain) {
        return Err(computed());
    }
    let call = Call { node, index: 0, name: prepare::name_of(node) };
    let integers = |slot: usize| Ok::<_, Refusal>(importer.setting(&call, slot)?.and_then(|folded| folded.integers()));
    match node.op_type.as_str() {
        "Identity" | "Unsqueeze" => rows(importer, call.input(0)?, depth + 1),
        "Concat" if attributes::int(node, "axis")? == Some(0) => {
            let mut all = Rows::new();
            for input in &node.input {
                all.extend(rows(importer, input, depth + 1)?);
            }
            Ok(all)
        }
        "Slice" => {
            let source = rows(importer, call.input(0)?, depth + 1)?;
            let first_axis = integers(3)?.is_none_or(|axes| axes == [0]) && integers(4)?.is_none_or(|steps| steps == [1]);
            match (integers(1)?.as_deref(), integers(2)?.as_deref()) {
                (Some(&[start]), Some(&[end])) if first_axis => {
                    let bound = |at: i64| (if at < 0 { at.saturating_add(source.len() as i64) } else { at }).clamp(0, source.len() as i64);
                    let (start, end) = (bound(start) as usize, bound(end) as usize);
                    source.get(start..end).map(<[_]>::to_vec).ok_or_else(computed)
                }
                _ => Err(computed()),
            }
        }
        _ => Err(computed()),
    }
}

/// The weight of a direction, `[inputs, hidden]` a gate, of the parameter whose rows it is made of.
fn weight<'m>(
    importer: &mut Importer<'m>,
    call: &Call<'m>,
    rows: &[(usize, usize)],
    which: [usize; 2],
    [inputs, hidden]: [usize; 2],
) -> Result<Weight, Refusal> {
    let apart = || {
        let why = "its weight is not one parameter whose rows are gates, one after the other";
        Refusal::unsupported(why, "export nn.RNN, nn.GRU or nn.LSTM as it is")
    };
    let own = rows.chunks(rows.len() / which[1]).nth(which[0]).ok_or_else(apart)?;
    let &(tensor, _) = own.first().ok_or_else(apart)?;
    let initializer: &'m TensorProto = &importer.model.initializer[tensor];
    let elements: i64 = initializer.dims.iter().product();
    let mut gates = Vec::new();
    for gate in own.chunks(hidden) {
        let block = gate[0].1 / hidden;
        if gate.iter().enumerate().any(|(i, &row)| row != (tensor, block * hidden + i)) || gates.contains(&block) {
            return Err(apart());
        }
        gates.push(block);
    }
    if elements != (own.len() * inputs) as i64 {
        return Err(apart());
    }
    let parameter = importer.weight_parameter(&initializer.name)?;
    let mut matrix = parameter;
    if importer.graph.shape(parameter).rank() != 2 {
        matrix = importer.add_near(call, Reshape { shape: Shape::uniform(&[own.len(), inputs]) }, &[parameter], "weight")?;
    }
    let matrix = importer.add_near(call, Transpose { perm: vec![1, 0] }, &[matrix], "weight")?;
    Ok(Weight { matrix, gates })
}

impl Direction {
    /// The products of input and state with their weights, biases added, gate by gate in ONNX's order: `[N, hidden]` each.
    fn products<'m>(&self, importer: &mut Importer<'m>, call: &Call<'m>, x: Value, h: Option<Value>) -> Result<[Vec<Gate>; 2], Refusal> {
        let x = importer.add_near(call, Linear {}, &[x, self.input.matrix], "input")?;
        let h = h.map(|h| importer.add_near(call, Linear {}, &[h, self.state.matrix], "state")).transpose()?;
        let mut products = [vec![], vec![]];
        for gate in 0..self.input.gates.len() {
            products[0].push(Gate { product: Some((x, self.input.gates[gate])), bias: self.biases.map(|b| (b[0], gate)) });
            products[1].push(Gate { product: h.map(|h| (h, self.state.gates[gate])), bias: self.biases.map(|b| (b[1], gate)) });
        }
        Ok(products)
    }

    /// The terms of gates, added up; `None` if there are none.
    fn sum<'m>(&self, importer: &mut Importer<'m>, call: &Call<'m>, gates: &[Gate]) -> Result<Option<Value>, Refusal> {
        let block = |importer: &mut Importer<'m>, (value, block): (Value, usize)| {
            let axis = importer.graph.shape(value).rank() - 1;
            let whole = importer.graph.shape(value).0[axis] == Dim::Fixed(self.hidden);
            let op = Slice { axis, start: block * self.hidden, step: 1, count: self.hidden };
            if whole { Ok(value) } else { importer.add_near(call, op, &[value], "gate") }
        };
        let mut total = None;
        for term in gates.iter().filter_map(|gate| gate.product).chain(gates.iter().filter_map(|gate| gate.bias)) {
            let term = block(importer, term)?;
            total = Some(match total {
                Some(total) => importer.add_near(call, Add {}, &[total, term], "gate")?,
                None => term,
            });
        }
        Ok(total)
    }

    /// The state after one step with input `x`, `[N, inputs]`.
    fn step<'m>(&self, importer: &mut Importer<'m>, call: &Call<'m>, cell: Cell, x: Value, state: State) -> Result<State, Refusal> {
        let [inputs, states] = self.products(importer, call, x, state.h)?;
        let activated = |importer: &mut Importer<'m>, gate: usize, function: Function| {
            let sum = self.sum(importer, call, &[inputs[gate], states[gate]])?.ok_or_else(nothing)?;
            importer.add_near(call, Unary { function }, &[sum], "gate")
        };
        match cell {
            Cell::Rnn { relu } => {
                let sum = self.sum(importer, call, &[inputs[0], states[0]])?.ok_or_else(nothing)?;
                let op = if relu { Op::from(Relu {}) } else { Unary { function: Function::Tanh }.into() };
                Ok(State { h: Some(importer.add_near(call, op, &[sum], "h")?), c: None })
            }
            Cell::Lstm => {
                let [input, output, forget] = [0, 1, 2].map(|gate| (gate != 2 || state.c.is_some()).then_some(gate));
                let input = activated(importer, input.unwrap_or(0), Function::Sigmoid)?;
                let output = activated(importer, output.unwrap_or(1), Function::Sigmoid)?;
                let candidate = activated(importer, 3, Function::Tanh)?;
                let mut c = importer.add_near(call, Mul {}, &[input, candidate], "c")?;
                if let (Some(gate), Some(before)) = (forget, state.c) {
                    let forget = activated(importer, gate, Function::Sigmoid)?;
                    let kept = importer.add_near(call, Mul {}, &[forget, before], "kept")?;
                    c = importer.add_near(call, Add {}, &[kept, c], "c")?;
                }
                let bounded = importer.add_near(call, Unary { function: Function::Tanh }, &[c], "h")?;
                Ok(State { h: Some(importer.add_near(call, Mul {}, &[output, bounded], "h")?), c: Some(c) })
            }
            Cell::Gru { reset_after_product } => {
                let update = activated(importer, 0, Function::Sigmoid)?;
                let reset = activated(importer, 1, Function::Sigmoid)?;
                let mut own = states[2];
                if let (false, Some(h)) = (reset_after_product, state.h) {
                    let kept = importer.add_near(call, Mul {}, &[reset, h], "reset")?;
                    let product = importer.add_near(call, Linear {}, &[kept, self.state.matrix], "reset")?;
                    own.product = Some((product, self.state.gates[2]));
                }
                let own = self.sum(importer, call, &[own])?;
                let mut candidate = self.sum(importer, call, &[inputs[2]])?.ok_or_else(nothing)?;
                if let Some(mut own) = own {
                    if reset_after_product {
                        own = importer.add_near(call, Mul {}, &[reset, own], "reset")?;
                    }
                    candidate = importer.add_near(call, Add {}, &[candidate, own], "candidate")?;
                }
                let candidate = importer.add_near(call, Unary { function: Function::Tanh }, &[candidate], "candidate")?;
                // (1 - z) candidate + z h = candidate + z (h - candidate)
                let minus = importer.new_constant(&format!("{}.minus", call.name), Folded::scalar(-1.0))?;
                let mut change = importer.add_near(call, Mul {}, &[candidate, minus], "change")?;
                if let Some(h) = state.h {
                    change = importer.add_near(call, Add {}, &[h, change], "change")?;
                }
                let change = importer.add_near(call, Mul {}, &[update, change], "change")?;
                Ok(State { h: Some(importer.add_near(call, Add {}, &[candidate, change], "h")?), c: None })
            }
        }
    }
}

/// Terms of a gate: a block of columns of a product, a block of a bias.
#[derive(Clone, Copy)]
struct Gate {
    product: Option<(Value, usize)>,
    bias: Option<(Value, usize)>,
}

/// The input's product is always there.
fn nothing() -> Refusal {
    Refusal::new(Kind::Malformed, "computes nothing", "export the model again")
}

/// Binds all outputs that are read: states at all steps, `[N, steps, directions, hidden]`, and last states, `[N, directions, hidden]`.
fn finish<'m>(
    importer: &mut Importer<'m>,
    call: &Call<'m>,
    results: &[(Vec<Value>, State)],
    hidden: usize,
    batch_first: bool,
) -> Result<(), Refusal> {
    let read = |importer: &Importer<'m>, slot: usize| {
        call.node.output.get(slot).map(String::as_str).filter(|name| !name.is_empty() && importer.readers(name) > 0)
    };
    if let Some(name) = read(importer, 0) {
        let mut steps = Vec::new();
        for step in 0..results[0].0.len() {
            let parts: Vec<Value> = results.iter().map(|(outputs, _)| outputs[step]).collect();
            steps.push(together(importer, call, &parts, &[1, 1, hidden], 2)?);
        }
        let value = if steps.len() == 1 { steps[0] } else { importer.add_near(call, Concat { axis: 1 }, &steps, "all")? };
        importer.bind_turned(name, Turned { value, batch: if batch_first { 0 } else { 2 }, merged: Merged::default() });
    }
    for (slot, of) in [(1, (|state| state.h) as fn(&State) -> Option<Value>), (2, |state| state.c)] {
        if let Some(name) = read(importer, slot) {
            let parts: Vec<Value> = results.iter().filter_map(|(_, state)| of(state)).collect();
            let value = together(importer, call, &parts, &[1, hidden], 1)?;
            importer.bind_turned(name, Turned { value, batch: usize::from(!batch_first), merged: Merged::default() });
        }
    }
    Ok(())
}

/// Values `[N, hidden]` with the axes of `dims`, one after the other along `axis`.
fn together<'m>(importer: &mut Importer<'m>, call: &Call<'m>, parts: &[Value], dims: &[usize], axis: usize) -> Result<Value, Refusal> {
    let shaped =
        |importer: &mut Importer<'m>, &part: &Value| importer.add_near(call, Reshape { shape: Shape::batched(dims) }, &[part], "output");
    let parts = parts.iter().map(|part| shaped(importer, part)).collect::<Result<Vec<_>, _>>()?;
    match parts[..] {
        [only] => Ok(only),
        _ => importer.add_near(call, Concat { axis }, &parts, "output"),
    }
}

/// Gives each direction of a layer weights of its own: an initialiser with both becomes two, NAME.forward and NAME.reverse, which a Concat puts
/// together again.
pub(super) fn separate_directions(graph: &mut GraphProto) {
    let mut taken = untie::names(graph);
    let mut joints: Vec<NodeProto> = Vec::new();
    for index in 0..graph.node.len() {
        if !is_recurrent(&graph.node[index].op_type) || !prepare::is_onnx(&graph.node[index].domain) {
            continue;
        }
        for slot in 1..3 {
            let Some(name) = graph.node[index].input.get(slot).cloned() else { continue };
            let readers = graph.node.iter().flat_map(|node| &node.input).filter(|input| **input == name).count();
            let Some(tensor) = graph.initializer.iter().position(|tensor| tensor.name == name).filter(|_| readers == 1) else { continue };
            let Ok((dims, values)) = tensor::float32(&graph.initializer[tensor]) else { continue };
            let [2, rows, columns] = dims[..] else { continue };
            let mut halves = Vec::new();
            for (direction, values) in ["forward", "reverse"].iter().zip(values.chunks(rows * columns)) {
                let mut own = format!("{name}.{direction}");
                while !taken.insert(own.clone()) {
                    own.push('_');
                }
                graph.initializer.push(tensor::encode(&own, &[1, rows, columns], values));
                halves.push(own);
            }
            graph.initializer.remove(tensor);
            graph.input.retain(|input| input.name != name);
            let axis = AttributeProto { name: "axis".to_owned(), type_: AttributeType::INT.into(), ..Default::default() };
            joints.push(NodeProto {
                op_type: "Concat".to_owned(),
                name: format!("{name}.directions"),
                input: halves,
                output: vec![name],
                attribute: vec![axis],
                ..Default::default()
            });
        }
    }
    joints.append(&mut graph.node);
    graph.node = joints;
}

/// Whether an operation is a recurrent layer.
pub(super) fn is_recurrent(op: &str) -> bool {
    matches!(op, "RNN" | "GRU" | "LSTM")
}
