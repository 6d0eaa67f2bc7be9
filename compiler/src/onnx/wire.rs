//! Protobuf's wire format, walked without building anything.
//!
//! Two uses. Before the parser sees a file, [`check`] refuses what the parser would recurse on without a limit (groups, which ONNX
//! never uses) and finds truncation with its byte offset. After a model is serialised, [`raw_data`] finds where each initialiser's
//! values lie in the file.

use std::collections::HashMap;
use std::ops::Range;

/// Messages nested deeper than this are no model.
const DEPTH: usize = 64;

/// The bytes are not a protobuf message of the expected structure.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("byte {offset}: {what}")]
pub(super) struct WireError {
    /// Where in the file.
    pub(super) offset: usize,
    /// What is wrong there.
    pub(super) what: String,
}

/// A message type of the ONNX schema that contains others.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    ValueInfo,
    Type,
    TensorType,
    ElementType,
    MapType,
    Shape,
    Annotation,
    Training,
    Function,
    /// Scalars and strings only.
    Leaf,
}

impl Message {
    /// The type of field `number`, if it is a message.
    fn child(self, number: u32) -> Option<Message> {
        use Message as M;
        Some(match (self, number) {
            (M::Model, 7) => M::Graph,
            (M::Model, 8 | 14) => M::Leaf,
            (M::Model, 20) => M::Training,
            (M::Model, 25) => M::Function,
            (M::Graph, 1) => M::Node,
            (M::Graph, 5) => M::Tensor,
            (M::Graph, 11..=13) => M::ValueInfo,
            (M::Graph, 14) => M::Annotation,
            (M::Graph, 15) => M::SparseTensor,
            (M::Graph, 16) => M::Leaf,
            (M::Node, 5) => M::Attribute,
            (M::Node, 9) => M::Leaf,
            (M::Attribute, 5 | 10) => M::Tensor,
            (M::Attribute, 6 | 11) => M::Graph,
            (M::Attribute, 14 | 15) => M::Type,
            (M::Attribute, 22 | 23) => M::SparseTensor,
            (M::Tensor, 3 | 13 | 16) => M::Leaf,
            (M::SparseTensor, 1 | 2) => M::Tensor,
            (M::ValueInfo, 2) => M::Type,
            (M::ValueInfo, 4) => M::Leaf,
            (M::Type, 1 | 8) => M::TensorType,
            (M::Type, 4 | 9) => M::ElementType,
            (M::Type, 5) => M::MapType,
            (M::TensorType, 2) => M::Shape,
            (M::ElementType, 1) | (M::MapType, 2) => M::Type,
            (M::Shape, 1) => M::Leaf,
            (M::Annotation, 2) => M::Leaf,
            (M::Training, 1 | 2) => M::Graph,
            (M::Training, 3 | 4) => M::Leaf,
            (M::Function, 7) => M::Node,
            (M::Function, 9 | 14) => M::Leaf,
            (M::Function, 11) => M::Attribute,
            (M::Function, 12) => M::ValueInfo,
            _ => return None,
        })
    }
}

/// A field of a message: its number and, where it has a length, the bytes of its payload.
struct Field {
    number: u32,
    payload: Option<Range<usize>>,
}

/// Steps through the fields of one message.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8], range: Range<usize>) -> Self {
        Fields { bytes, at: range.start, end: range.end }
    }

    fn error(&self, what: impl Into<String>) -> WireError {
        WireError { offset: self.at, what: what.into() }
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.at == self.end {
                return Err(self.error("the message ends inside a number"));
            }
            let byte = self.bytes[self.at];
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.error("a number has more than ten bytes"))
    }

    fn skip(&mut self, count: u64) -> Result<Range<usize>, WireError> {
        let left = self.end - self.at;
        match usize::try_from(count) {
            Ok(count) if count <= left => {
                self.at += count;
                Ok(self.at - count..self.at)
            }
            _ => Err(self.error(format!("a field announces {count} bytes, {left} are left"))),
        }
    }

    fn next(&mut self) -> Result<Option<Field>, WireError> {
        if self.at == self.end {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|&n| n > 0 && n < 1 << 29);
        let number = number.ok_or(WireError { offset: start, what: format!("{tag} is not the tag of a field") })?;
        let payload = match tag & 7 {
            0 => self.varint().map(|_| None)?,
            1 => self.skip(8).map(|_| None)?,
            2 => {
                let length = self.varint()?;
                Some(self.skip(length)?)
            }
            5 => self.skip(4).map(|_| None)?,
            other => {
                return Err(WireError { offset: start, what: format!("field {number} has wire type {other}, which ONNX never uses") });
            }
        };
        Ok(Some(Field { number, payload }))
    }
}

/// Checks that `bytes` are complete messages all the way down, without groups and not nested absurdly.
pub(super) fn check(bytes: &[u8]) -> Result<(), WireError> {
    check_message(bytes, 0..bytes.len(), Message::Model, 0)
}

fn check_message(bytes: &[u8], range: Range<usize>, message: Message, depth: usize) -> Result<(), WireError> {
    if depth > DEPTH {
        return Err(WireError { offset: range.start, what: format!("messages are nested more than {DEPTH} deep") });
    }
    let mut fields = Fields::new(bytes, range);
    while let Some(field) = fields.next()? {
        if let (Some(payload), Some(child)) = (field.payload, message.child(field.number)) {
            check_message(bytes, payload, child, depth + 1)?;
        }
    }
    Ok(())
}

/// Where the `raw_data` of each initialiser of a serialised model lies, by initialiser name.
pub(super) fn raw_data(model: &[u8]) -> Result<HashMap<String, Range<usize>>, WireError> {
    const GRAPH: u32 = 7;
    const INITIALIZER: u32 = 5;
    const NAME: u32 = 8;
    const RAW_DATA: u32 = 9;
    let mut found = HashMap::new();
    for graph in children(model, 0..model.len(), GRAPH)? {
        for tensor in children(model, graph, INITIALIZER)? {
            let name = children(model, tensor.clone(), NAME)?.pop();
            let data = children(model, tensor, RAW_DATA)?.pop();
            if let (Some(name), Some(data)) = (name, data) {
                found.insert(String::from_utf8_lossy(&model[name]).into_owned(), data);
            }
        }
    }
    Ok(found)
}

fn children(bytes: &[u8], range: Range<usize>, number: u32) -> Result<Vec<Range<usize>>, WireError> {
    let mut fields = Fields::new(bytes, range);
    let mut found = Vec::new();
    while let Some(field) = fields.next()? {
        if field.number == number {
            found.extend(field.payload);
        }
    }
    Ok(found)
}
