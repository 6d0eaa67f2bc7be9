//! Random switches as exporters leave them: stochastic depth, dropout of whole channels, dropout written out.
//!
//! A uniform draw that is compared with a number, or rounded down to 0 or 1, and ONNX's Bernoulli are all [`Bernoulli`]: 1 with some probability
//! for each element of each example. In inference, and in the exported model, the probability itself stands there, which is what the draw is on
//! average; what exporters do behind it is to divide by it.

use super::attributes;
use super::frame::{Merged, Turned, arrange};
use super::import::{Binding, Call, Importer};
use super::report::{Kind, Refusal};
use super::tensor::{self, Elements, Extent, FLOAT, Folded};
use super::{order, prepare, template, untie};
use crate::ir::Value;
use crate::op::{Bernoulli, Constant, Op};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, GraphProto, NodeProto};
use std::collections::HashSet;

/// Numbers drawn evenly from `low` to `high`, one for each of these extents.
#[derive(Clone, Debug)]
pub(super) struct Draw {
    low: f64,
    high: f64,
    extents: Vec<Extent>,
}

/// A node of the file whose output is drawn in training, and what it is in inference.
#[derive(Clone, Debug)]
pub(super) struct Switch {
    node: usize,
    probability: f32,
    /// 1 along the examples.
    dims: Vec<i64>,
}

/// Reads the node if it draws, or reads what was drawn; `false` if not.
pub(super) fn follow<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<bool, Refusal> {
    let op = call.node.op_type.as_str();
    if matches!(op, "RandomUniform" | "RandomUniformLike") {
        let bound = |name: &str, default: f32| Ok::<_, Refusal>(f64::from(attributes::float(call.node, name)?.unwrap_or(default)));
        let (low, high) = (bound("low", 0.0)?, bound("high", 1.0)?);
        if low >= high {
            let why = format!("draws from {low} to {high}");
            return Err(Refusal::new(Kind::Attribute, why, "the lower bound must be below the upper one"));
        }
        let extents = match op {
            "RandomUniform" => attributes::ints(call.node, "shape")?.unwrap_or_default().iter().map(|&n| Extent::Known(n)).collect(),
            _ => extents(importer, call)?,
        };
        importer.bind_draw(call.output()?, Draw { low, high, extents });
        return Ok(true);
    }
    if op == "Bernoulli" {
        let probability = uniform_value(importer, call, 0)?;
        let extents = extents(importer, call)?;
        finish(importer, call, &extents, probability)?;
        return Ok(true);
    }
    let drawn = |slot: usize| match call.optional(slot).map(|name| importer.binding(name)) {
        Some(Binding::Draw(draw)) => Some(draw.clone()),
        _ => None,
    };
    match (drawn(0), drawn(1)) {
        (Some(draw), None) => follow_draw(importer, call, draw, 1).map(|()| true),
        (None, Some(draw)) => follow_draw(importer, call, draw, 0).map(|()| true),
        (None, None) => Ok(false),
        (Some(_), Some(_)) => Err(unknown()),
    }
}

/// Where nothing else is read of a draw, [`follow`] has done everything.
pub(super) fn not_followed<'m>(_importer: &mut Importer<'m>, _call: &Call<'m>) -> Result<(), Refusal> {
    Err(unknown())
}

/// What is refused where random numbers become something else than a switch.
pub(super) fn unknown() -> Refusal {
    Refusal::unsupported(
        "reads random numbers otherwise than as a switch",
        "what may follow them is a comparison with a number, or Floor of the sum with a probability; else export with that probability 0",
    )
}

/// A node that reads a draw, and a number in its other input, `slot`.
fn follow_draw<'m>(importer: &mut Importer<'m>, call: &Call<'m>, draw: Draw, slot: usize) -> Result<(), Refusal> {
    let number = |importer: &Importer<'m>| uniform_value(importer, call, slot).map_err(|_| unknown()).map(f64::from);
    let below = |bound: f64| ((bound - draw.low) / (draw.high - draw.low)).clamp(0.0, 1.0);
    let probability = match (call.node.op_type.as_str(), slot) {
        ("Identity", _) => {
            importer.bind_draw(call.output()?, draw);
            return Ok(());
        }
        ("Cast", _) if attributes::int(call.node, "to")? == Some(i64::from(FLOAT)) => {
            importer.bind_draw(call.output()?, draw);
            return Ok(());
        }
        ("Add", _) => {
            let term = number(importer)?;
            importer.bind_draw(call.output()?, Draw { low: draw.low + term, high: draw.high + term, ..draw });
            return Ok(());
        }
        ("Floor", _) if draw.low >= 0.0 && draw.high <= 2.0 => 1.0 - below(1.0),
        ("Less" | "LessOrEqual", 1) | ("Greater" | "GreaterOrEqual", 0) => below(number(importer)?),
        ("Less" | "LessOrEqual", _) | ("Greater" | "GreaterOrEqual", _) => 1.0 - below(number(importer)?),
        _ => return Err(unknown()),
    };
    if call.node.op_type != "Floor" {
        let output = call.output()?;
        let reads = |node: &&NodeProto| node.input.iter().any(|input| input == output);
        for reader in importer.model.node.iter().filter(reads) {
            if reader.op_type != "Cast" || attributes::int(reader, "to")? != Some(i64::from(FLOAT)) {
                let why = format!("its truth value is read by '{}'", prepare::name_of(reader));
                return Err(Refusal::unsupported(why, "cast it to float32 and multiply by it, which has a mean for inference"));
            }
        }
    }
    finish(importer, call, &draw.extents, probability as f32)
}

/// The one number that input `slot` holds everywhere.
fn uniform_value(importer: &Importer<'_>, call: &Call<'_>, slot: usize) -> Result<f32, Refusal> {
    let varies = || Refusal::unsupported("draws with a probability that is not one number", "use one probability for all elements");
    let folded = match importer.binding(call.input(slot)?) {
        Binding::Value(value) => match (&importer.graph.node(value.node).op, importer.graph.inputs(value.node).first()) {
            (Op::Expand(_), Some(source)) => match &importer.graph.node(source.node).op {
                Op::Constant(Constant { value }) => {
                    Some(Folded { dims: value.dims.clone(), elements: Elements::Floats(value.values.clone()) })
                }
                _ => None,
            },
            _ => importer.setting(call, slot).ok().flatten(),
        },
        _ => importer.setting(call, slot)?,
    };
    match folded.as_ref().and_then(Folded::to_floats).as_deref() {
        Some([first, rest @ ..]) if rest.iter().all(|value| value == first) => Ok(*first),
        _ => Err(varies()),
    }
}

/// Extents of the first input. What exporters expanded to one element an example has lost the examples in import, but not in the file.
fn extents(importer: &Importer<'_>, call: &Call<'_>) -> Result<Vec<Extent>, Refusal> {
    let name = call.input(0)?;
    let producer = importer.model.node.iter().find(|node| node.output.iter().any(|output| output == name));
    if let Some(node) = producer
        && let Some(slot) = ["ConstantOfShape", "Expand"].iter().position(|op| node.op_type == *op)
    {
        let producer = Call { node, index: 0, name: prepare::name_of(node) };
        if let Some(Elements::Integers(target)) = importer.setting(&producer, slot)?.map(|folded| folded.elements) {
            return Ok(target);
        }
    }
    Ok(match importer.binding(name) {
        Binding::Turned(turned) => turned.extents(&importer.graph),
        Binding::Value(value) | Binding::Padded(value, _) => Turned::plain(*value).extents(&importer.graph),
        Binding::Folded(folded) => folded.dims.iter().map(|&n| Extent::Known(n as i64)).collect(),
        Binding::Initializer(index) => importer.model.initializer[*index].dims.iter().map(|&n| Extent::Known(n)).collect(),
        _ => {
            return Err(Refusal::unsupported(format!("draws in the shape of '{name}', which is not known"), "draw in that of activations"));
        }
    })
}

/// Binds the output to switches of these extents that are 1 with `probability`.
fn finish<'m>(importer: &mut Importer<'m>, call: &Call<'m>, extents: &[Extent], probability: f32) -> Result<(), Refusal> {
    if probability.is_nan() || probability <= 0.0 || probability > 1.0 {
        let why = format!("is 1 with probability {probability}");
        return Err(Refusal::unsupported(why, "it must be above 0 and at most 1; export with another rate"));
    }
    let mut extents = extents.to_vec();
    let batch = importer.fixed_batch.and_then(|batch| i64::try_from(batch).ok());
    if let Some(first) = extents.first_mut().filter(|first| batch.is_some_and(|batch| **first == Extent::Known(batch))) {
        *first = Extent::Batch(1);
    }
    let Some((shape, axis, merged)) = arrange(&extents, 1) else {
        return Err(Refusal::unsupported(
            "draws one number for all examples of a batch",
            "draw one for each (torchvision's StochasticDepth: mode=\"row\"), or export with probability 0",
        ));
    };
    if merged != Merged::default() {
        return Err(Refusal::unsupported("draws along an axis that merges examples with others", "draw before they are merged"));
    }
    let dims = extents.iter().map(|extent| if let Extent::Known(n) = *extent { n } else { 1 }).collect();
    importer.switches.push(Switch { node: call.index, probability, dims });
    let examples = importer.graph.ids().into_iter().find(|&id| matches!(importer.graph.node(id).op, Op::Input(_)));
    let examples = examples.map(|node| Value { node, output: 0 });
    let value = importer.finish_as(call, call.output()?, Bernoulli { probability, shape }, examples.as_slice())?;
    importer.bind_turned(call.output()?, Turned { value, batch: axis, merged });
    Ok(())
}

/// Puts probabilities in the place of what is drawn, and removes what only a draw has read.
pub(super) fn for_inference(file: &mut GraphProto, switches: &[Switch], ir_version: i64) {
    if switches.is_empty() {
        return;
    }
    let mut taken = untie::names(file);
    for switch in switches {
        let extents =
            template::add_list(file, &mut taken, &format!("{}.extents", file.node[switch.node].output[0]), &switch.dims, ir_version);
        let node = &mut file.node[switch.node];
        node.op_type = "ConstantOfShape".to_owned();
        node.input = vec![extents];
        let value = AttributeProto {
            name: "value".to_owned(),
            type_: AttributeType::TENSOR.into(),
            t: Some(tensor::encode("", &[1], &[switch.probability])).into(),
            ..Default::default()
        };
        node.attribute = vec![value];
    }
    if let Ok(needed) = order::needed_nodes(file) {
        let needed: HashSet<usize> = needed.into_iter().collect();
        let mut index = 0..;
        file.node.retain(|_| index.next().is_some_and(|index| needed.contains(&index)));
    }
}
