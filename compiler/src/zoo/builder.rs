//! Writes ONNX models node by node.

use mest_runtime::random::{Purpose, Stream};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{AttributeProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto, type_proto};

const FLOAT: i32 = 1;
const INT64: i32 = 7;

/// The value of an attribute.
pub(crate) enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Float(f32),
    #[cfg(test)]
    Floats(&'a [f32]),
    #[cfg(test)]
    Text(&'a str),
}

/// How a tensor is filled.
#[derive(Clone, Copy)]
pub(crate) enum Fill {
    /// The same number everywhere.
    Constant(f32),
    /// Normal deviates of this standard deviation.
    Normal(f64),
}

/// A model in the making.
pub(crate) struct ModelBuilder {
    pub(crate) model: ModelProto,
    seed: u64,
    drawn: u64,
}

impl ModelBuilder {
    /// A model with one input `[batch, dims..]`, named `input`.
    pub(crate) fn new(name: &str, dims: &[usize], seed: u64) -> Self {
        let mut model = ModelProto { ir_version: 8, producer_name: "mest".into(), ..Default::default() };
        model.opset_import.push(OperatorSetIdProto { version: 17, ..Default::default() });
        let graph = model.graph.mut_or_insert_default();
        graph.name = name.to_owned();
        graph.input.push(batched("input", dims));
        ModelBuilder { model, seed, drawn: 0 }
    }

    /// Declares the operator set; 17 unless told.
    pub(crate) fn set_opset(&mut self, version: i64) {
        self.model.opset_import[0].version = version;
    }

    /// Calls a value `new` wherever it stands.
    pub(crate) fn rename(&mut self, old: &str, new: &str) {
        for node in &mut self.model.graph.mut_or_insert_default().node {
            for name in node.input.iter_mut().chain(&mut node.output).filter(|name| *name == old) {
                new.clone_into(name);
            }
        }
    }

    /// Adds a node with one output, which is returned; the node is named after it.
    pub(crate) fn node(&mut self, op: &str, output: &str, inputs: &[&str], attributes: &[(&str, Attribute<'_>)]) -> String {
        let node = NodeProto {
            op_type: op.to_owned(),
            name: output.to_owned(),
            input: inputs.iter().map(|&i| i.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute: attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
            ..Default::default()
        };
        self.model.graph.mut_or_insert_default().node.push(node);
        output.to_owned()
    }

    /// Adds a float32 initialiser with the given values.
    pub(crate) fn tensor(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.raw(name, FLOAT, dims, raw)
    }

    /// Adds an int64 number.
    pub(crate) fn index(&mut self, name: &str, value: i64) -> String {
        self.raw(name, INT64, &[], value.to_le_bytes().to_vec())
    }

    /// Adds an int64 list.
    pub(crate) fn list(&mut self, name: &str, values: &[i64]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.raw(name, INT64, &[values.len()], raw)
    }

    fn raw(&mut self, name: &str, data_type: i32, dims: &[usize], raw_data: Vec<u8>) -> String {
        let dims = dims.iter().map(|&d| d as i64).collect();
        let tensor = TensorProto { name: name.to_owned(), data_type, dims, raw_data, ..Default::default() };
        self.model.graph.mut_or_insert_default().initializer.push(tensor);
        name.to_owned()
    }

    /// Adds a float32 initialiser that is filled by a rule; each tensor draws from a stream of its own.
    pub(crate) fn parameter(&mut self, name: &str, dims: &[usize], fill: Fill) -> String {
        let count = dims.iter().product();
        let values: Vec<f32> = match fill {
            Fill::Constant(value) => vec![value; count],
            Fill::Normal(deviation) => {
                let mut stream = Stream::new(self.seed, Purpose::Initialization, self.drawn);
                (0..count).map(|_| (stream.normal() * deviation) as f32).collect()
            }
        };
        self.drawn += 1;
        self.tensor(name, dims, &values)
    }

    /// Declares the output `[batch, dims..]`.
    pub(crate) fn output(mut self, name: &str, dims: &[usize]) -> Self {
        self.model.graph.mut_or_insert_default().output.push(batched(name, dims));
        self
    }

    /// The file.
    pub(crate) fn finish(self) -> Vec<u8> {
        // Writing into memory fails only where a required field is missing, and ONNX has none.
        self.model.write_to_bytes().unwrap_or_default()
    }
}

fn attribute(name: &str, value: &Attribute<'_>) -> AttributeProto {
    let mut attribute = AttributeProto { name: name.to_owned(), ..Default::default() };
    let kind = match value {
        Attribute::Int(i) => {
            attribute.i = *i;
            AttributeType::INT
        }
        Attribute::Ints(ints) => {
            attribute.ints = ints.to_vec();
            AttributeType::INTS
        }
        #[cfg(test)]
        Attribute::Floats(floats) => {
            attribute.floats = floats.to_vec();
            AttributeType::FLOATS
        }
        Attribute::Float(f) => {
            attribute.f = *f;
            AttributeType::FLOAT
        }
        #[cfg(test)]
        Attribute::Text(text) => {
            attribute.s = text.as_bytes().to_vec();
            AttributeType::STRING
        }
    };
    attribute.type_ = kind.into();
    attribute
}

fn batched(name: &str, dims: &[usize]) -> ValueInfoProto {
    let mut tensor = type_proto::Tensor { elem_type: FLOAT, ..Default::default() };
    let batch = Dimension { value: Some(dimension::Value::DimParam("batch".to_owned())), ..Default::default() };
    let fixed = |&d: &usize| Dimension { value: Some(dimension::Value::DimValue(d as i64)), ..Default::default() };
    tensor.shape.mut_or_insert_default().dim = std::iter::once(batch).chain(dims.iter().map(fixed)).collect();
    let mut value = ValueInfoProto { name: name.to_owned(), ..Default::default() };
    value.type_.mut_or_insert_default().value = Some(type_proto::Value::TensorType(tensor));
    value
}
