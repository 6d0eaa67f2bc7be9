//! Typed reading of a node's attributes, from the raw fields: a malformed attribute is a [`Refusal`], never a panic.

use super::report::{Kind, Refusal};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, NodeProto, TensorProto};

fn find<'n>(node: &'n NodeProto, name: &str, wanted: AttributeType) -> Result<Option<&'n AttributeProto>, Refusal> {
    let Some(attribute) = node.attribute.iter().find(|a| a.name == name) else { return Ok(None) };
    match attribute.type_.enum_value() {
        Ok(found) if found == wanted => Ok(Some(attribute)),
        found => {
            let found = found.map_or_else(|n| format!("type {n}"), |t| format!("{t:?}"));
            let why = format!("attribute '{name}' has type {found}, {wanted:?} is expected");
            Err(Refusal::new(Kind::Attribute, why, "the exporter wrote an invalid node; check it with onnx.checker"))
        }
    }
}

pub(super) fn int(node: &NodeProto, name: &str) -> Result<Option<i64>, Refusal> {
    find(node, name, AttributeType::INT).map(|a| a.map(|a| a.i))
}

pub(super) fn float(node: &NodeProto, name: &str) -> Result<Option<f32>, Refusal> {
    match find(node, name, AttributeType::FLOAT)? {
        Some(a) if !a.f.is_finite() => {
            let why = format!("attribute '{name}' is {}", a.f);
            Err(Refusal::new(Kind::Attribute, why, "a finite number is needed"))
        }
        found => Ok(found.map(|a| a.f)),
    }
}

pub(super) fn ints<'n>(node: &'n NodeProto, name: &str) -> Result<Option<&'n [i64]>, Refusal> {
    find(node, name, AttributeType::INTS).map(|a| a.map(|a| a.ints.as_slice()))
}

pub(super) fn floats<'n>(node: &'n NodeProto, name: &str) -> Result<Option<&'n [f32]>, Refusal> {
    find(node, name, AttributeType::FLOATS).map(|a| a.map(|a| a.floats.as_slice()))
}

pub(super) fn string<'n>(node: &'n NodeProto, name: &str) -> Result<Option<&'n str>, Refusal> {
    let Some(attribute) = find(node, name, AttributeType::STRING)? else { return Ok(None) };
    match std::str::from_utf8(&attribute.s) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(Refusal::new(Kind::Attribute, format!("attribute '{name}' is not UTF-8 text"), "the file is damaged")),
    }
}

pub(super) fn tensor<'n>(node: &'n NodeProto, name: &str) -> Result<Option<&'n TensorProto>, Refusal> {
    let Some(attribute) = find(node, name, AttributeType::TENSOR)? else { return Ok(None) };
    match attribute.t.as_ref() {
        Some(tensor) => Ok(Some(tensor)),
        None => Err(Refusal::new(Kind::Attribute, format!("attribute '{name}' has no tensor in it"), "the file is damaged")),
    }
}
