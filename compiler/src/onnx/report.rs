//! What an import says when it refuses: every problem of the file at once, each with its place and a way out.

use serde::Serialize;
use std::fmt;

/// What sort of mistake a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The file cannot be read.
    Io,
    /// The bytes are not an ONNX model, or contradict themselves.
    Malformed,
    /// The operator set or the format version is outside what is known.
    Version,
    /// An operation, or a way to use it, that cannot be trained here.
    Unsupported,
    /// An attribute has the wrong type or a value that makes no sense.
    Attribute,
    /// An element type other than the one needed.
    ElementType,
    /// Extents that do not fit.
    Shape,
    /// A name that is missing, defined twice or not defined.
    Name,
    /// Data outside the file that may not or cannot be read.
    ExternalData,
    /// Nodes that depend on themselves.
    Cycle,
    /// Sizes that no memory could hold, or that the file cannot back.
    Size,
}

/// Where in the model a problem is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The file or the model as a whole.
    Model,
    /// A graph input.
    Input(String),
    /// A graph output.
    Output(String),
    /// An initialiser.
    Initializer(String),
    /// A node.
    Node {
        /// Its operation, with its domain unless that is ONNX's own.
        op: String,
        /// Its name, or one derived from its first output.
        name: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Model => f.write_str("model"),
            Place::Input(name) => write!(f, "input '{name}'"),
            Place::Output(name) => write!(f, "output '{name}'"),
            Place::Initializer(name) => write!(f, "initialiser '{name}'"),
            Place::Node { op, name } => write!(f, "node '{name}' ({op})"),
        }
    }
}

/// One reason why a model cannot be imported.
#[derive(Clone, Debug, PartialEq, Serialize, thiserror::Error)]
#[error("{place}: {why}; {hint}")]
pub struct Problem {
    /// What sort of mistake it is.
    pub kind: Kind,
    /// Where it is.
    pub place: Place,
    /// What is wrong.
    pub why: String,
    /// How to fix it.
    pub hint: String,
}

/// All reasons why a model cannot be imported, in the order they were found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImportReport {
    /// The file, or a word for bytes that have none.
    pub file: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl ImportReport {
    /// Whether every problem is a node that cannot be trained: the file itself is sound.
    pub fn only_unsupported(&self) -> bool {
        self.problems.iter().all(|p| p.kind == Kind::Unsupported)
    }
}

impl std::error::Error for ImportReport {}

impl fmt::Display for ImportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "cannot import {}: {count} problem{}", self.file, if count == 1 { "" } else { "s" })?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// A problem whose place the caller knows.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) kind: Kind,
    pub(super) why: String,
    pub(super) hint: String,
}

impl Refusal {
    pub(super) fn new(kind: Kind, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Refusal { kind, why: why.into(), hint: hint.into() }
    }

    pub(super) fn unsupported(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, why, hint)
    }

    pub(super) fn at(self, place: Place) -> Problem {
        Problem { kind: self.kind, place, why: self.why, hint: self.hint }
    }
}
