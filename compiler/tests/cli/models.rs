//! Small ONNX models, sound and broken, built in memory.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use protobuf::MessageField;

const FLOAT: i32 = 1;
const DOUBLE: i32 = 11;

fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |&extent: &i64| {
        let value = if extent < 0 { dimension::Value::DimParam("N".into()) } else { dimension::Value::DimValue(extent) };
        Dimension { value: Some(value), ..Default::default() }
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect(), ..Default::default() };
    let tensor = type_proto::Tensor { elem_type: FLOAT, shape: MessageField::some(shape), ..Default::default() };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.into(), type_: MessageField::some(kind), ..Default::default() }
}

/// Values that differ and are small, from a fixed sequence.
fn tensor(name: &str, dims: &[i64], scale: f32) -> TensorProto {
    let count = dims.iter().product::<i64>() as usize;
    let seed = name.bytes().fold(17_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let mut state = seed | 1;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * scale
    };
    let raw_data = (0..count).flat_map(|_| draw().to_le_bytes()).collect();
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type: FLOAT, raw_data, ..Default::default() }
}

fn full(name: &str, dims: &[i64], with: f32) -> TensorProto {
    let count = dims.iter().product::<i64>() as usize;
    let raw_data = std::iter::repeat_n(with.to_le_bytes(), count).flatten().collect();
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type: FLOAT, raw_data, ..Default::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), ints: values.to_vec(), type_: AttributeType::INTS.into(), ..Default::default() }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i: value, type_: AttributeType::INT.into(), ..Default::default() }
}

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        name: format!("node_{output}"),
        op_type: op.into(),
        input: inputs.iter().map(|&name| name.into()).collect(),
        output: vec![output.into()],
        attribute,
        ..Default::default()
    }
}

fn model(graph: GraphProto) -> ModelProto {
    let opset = OperatorSetIdProto { version: 17, ..Default::default() };
    ModelProto { ir_version: 8, opset_import: vec![opset], graph: MessageField::some(graph), ..Default::default() }
}

/// The bytes of a model's file.
pub(crate) fn bytes(model: &ModelProto) -> Vec<u8> {
    model.write_to_bytes().expect("a model can be written")
}

/// `[N, 1, 8, 8]` -> flatten, 64 x 24, relu, 24 x 10.
pub(crate) fn mlp() -> ModelProto {
    model(GraphProto {
        name: "mlp".into(),
        input: vec![value("x", &[-1, 1, 8, 8])],
        output: vec![value("y", &[-1, 10])],
        initializer: vec![
            tensor("first.weight", &[24, 64], 0.3),
            full("first.bias", &[24], 0.0),
            tensor("last.weight", &[10, 24], 0.4),
            full("last.bias", &[10], 0.0),
        ],
        node: vec![
            node("Flatten", &["x"], "flat", vec![]),
            node("Gemm", &["flat", "first.weight", "first.bias"], "hidden", vec![int("transB", 1)]),
            node("Relu", &["hidden"], "active", vec![]),
            node("Gemm", &["active", "last.weight", "last.bias"], "y", vec![int("transB", 1)]),
        ],
        ..Default::default()
    })
}

/// `[N, 1, 8, 8]` -> two 3x3 convolutions with batch normalization, mean, 8 x 10.
pub(crate) fn convnet() -> ModelProto {
    let convolution = |x: &str, weight: &str, y: &str| {
        node("Conv", &[x, weight], y, vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1, 1, 1, 1]), ints("strides", &[1, 1])])
    };
    model(GraphProto {
        name: "convnet".into(),
        input: vec![value("x", &[-1, 1, 8, 8])],
        output: vec![value("y", &[-1, 10])],
        initializer: vec![
            tensor("stem.weight", &[8, 1, 3, 3], 1.0),
            tensor("body.weight", &[8, 8, 3, 3], 0.5),
            full("norm.scale", &[8], 1.0),
            full("norm.shift", &[8], 0.0),
            full("norm.mean", &[8], 0.0),
            full("norm.variance", &[8], 1.0),
            tensor("head.weight", &[10, 8], 0.7),
            full("head.bias", &[10], 0.0),
        ],
        node: vec![
            convolution("x", "stem.weight", "stem"),
            node("Relu", &["stem"], "stem_active", vec![]),
            convolution("stem_active", "body.weight", "body"),
            node("BatchNormalization", &["body", "norm.scale", "norm.shift", "norm.mean", "norm.variance"], "normal", vec![]),
            node("Relu", &["normal"], "active", vec![]),
            node("GlobalAveragePool", &["active"], "mean", vec![]),
            node("Flatten", &["mean"], "flat", vec![]),
            node("Gemm", &["flat", "head.weight", "head.bias"], "y", vec![int("transB", 1)]),
        ],
        ..Default::default()
    })
}

fn changed(change: impl FnOnce(&mut GraphProto)) -> Vec<u8> {
    let mut model = mlp();
    change(model.graph.mut_or_insert_default());
    bytes(&model)
}

/// What is wrong, the file, and words that the message must contain.
pub(crate) fn broken() -> Vec<(&'static str, Vec<u8>, &'static [&'static str])> {
    let whole = bytes(&mlp());
    vec![
        ("truncated", whole[..whole.len() / 2].to_vec(), &["truncated"]),
        ("empty", vec![], &["model"]),
        ("not onnx", b"hello, this is no model at all".to_vec(), &["ONNX"]),
        ("hostile sizes", changed(|graph| graph.initializer[0].dims = vec![1 << 40, 1 << 40]), &["first.weight"]),
        ("negative size", changed(|graph| graph.initializer[0].dims = vec![-24, 64]), &["first.weight"]),
        ("cycle", changed(|graph| graph.node[1].input[0] = "y".into()), &["cycl"]),
        ("wrong element type", changed(|graph| graph.initializer[0].data_type = DOUBLE), &["first.weight", "float"]),
        ("missing external data", changed(missing_external), &["first.weight", "absent.bin"]),
        ("shape mismatch", changed(|graph| graph.initializer[2] = tensor("last.weight", &[10, 23], 1.0)), &["node_y", "23"]),
        ("unknown op", changed(|graph| graph.node[2].op_type = "Frobnicate".into()), &["Frobnicate", "node_active"]),
        ("several inputs", changed(|graph| graph.input.push(value("z", &[-1, 4]))), &["inputs", "z"]),
        ("batch of no examples", changed(|graph| graph.input[0] = value("x", &[0, 1, 8, 8])), &["x"]),
    ]
}

fn missing_external(graph: &mut GraphProto) {
    let weight = &mut graph.initializer[0];
    weight.raw_data.clear();
    weight.data_location = DataLocation::EXTERNAL.into();
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into(), ..Default::default() };
    weight.external_data = vec![entry("location", "absent.bin"), entry("offset", "0"), entry("length", "6144")];
}
