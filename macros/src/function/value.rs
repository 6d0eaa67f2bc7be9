//! What expressions of a description are worth.

use super::evaluate::Scope;
use mestc::describe::Tensor;
use std::rc::Rc;
use syn::{Expr, Pat};

/// The value of an expression at expansion.
#[derive(Clone)]
pub(super) enum Value {
    /// A value of the network.
    Tensor(Tensor),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Number(f64),
    /// `true` or `false`.
    Flag(bool),
    /// A name in quotes.
    Text(String),
    /// `(a, b)`
    Tuple(Vec<Value>),
    /// `[a, b]`
    Array(Vec<Value>),
    /// A closure: a part of the network that is used more than once.
    Block(Rc<Block>),
    /// Nothing.
    Unit,
    /// Something that was refused already.
    Unknown,
}

/// A closure, and what it sees.
pub(super) struct Block {
    pub(super) parameters: Vec<Pat>,
    pub(super) body: Expr,
    pub(super) outside: Vec<Scope>,
}

impl Value {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> String {
        match self {
            Value::Tensor(tensor) => tensor.type_name(),
            Value::Integer(value) => format!("the whole number {value}"),
            Value::Number(value) => format!("the number {value}"),
            Value::Flag(flag) => flag.to_string(),
            Value::Text(_) => "a text".to_owned(),
            Value::Tuple(_) => "a tuple".to_owned(),
            Value::Array(_) => "an array".to_owned(),
            Value::Block(_) => "a block of layers".to_owned(),
            Value::Unit | Value::Unknown => "nothing".to_owned(),
        }
    }

    /// Whether a variable that holds `self` may be given `other`.
    pub(super) fn may_become(&self, other: &Value) -> bool {
        matches!(self, Value::Unknown) || matches!(other, Value::Unknown) || std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}
