//! Shapes: the batch axis is symbolic, every other extent is known.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The extent of one axis.
///
/// Serialised as the number, or as `"N"` for the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Spelling", into = "Spelling")]
pub enum Dim {
    /// The examples of a step; its extent is chosen when the graph is lowered or evaluated.
    Batch,
    /// A known extent.
    Fixed(usize),
}

/// How a [`Dim`] is written in attributes.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Spelling {
    Fixed(usize),
    Batch(Letter),
}

#[derive(Serialize, Deserialize)]
enum Letter {
    N,
}

impl From<Spelling> for Dim {
    fn from(spelling: Spelling) -> Dim {
        match spelling {
            Spelling::Fixed(n) => Dim::Fixed(n),
            Spelling::Batch(Letter::N) => Dim::Batch,
        }
    }
}

impl From<Dim> for Spelling {
    fn from(dim: Dim) -> Spelling {
        match dim {
            Dim::Fixed(n) => Spelling::Fixed(n),
            Dim::Batch => Spelling::Batch(Letter::N),
        }
    }
}

/// The axes of a value, outermost first, in ONNX's order.
///
/// A value with a [`Dim::Batch`] axis is *batched* (one tensor an example), one without is *uniform*
/// (parameters, their gradients, statistics).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// `[Batch, dims...]`
    pub fn batched(dims: &[usize]) -> Self {
        Shape(std::iter::once(Dim::Batch).chain(dims.iter().map(|&d| Dim::Fixed(d))).collect())
    }

    /// `[dims...]`, no batch axis.
    pub fn uniform(dims: &[usize]) -> Self {
        Shape(dims.iter().map(|&d| Dim::Fixed(d)).collect())
    }

    /// Number of axes, the batch included.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Whether an axis is the batch.
    pub fn is_batched(&self) -> bool {
        self.0.contains(&Dim::Batch)
    }

    /// The fixed extents in order, the batch axis left out.
    pub fn fixed(&self) -> Vec<usize> {
        self.0.iter().filter_map(|d| if let Dim::Fixed(n) = d { Some(*n) } else { None }).collect()
    }

    /// Elements of one example (of the whole value, if uniform).
    pub fn elements(&self) -> usize {
        self.fixed().iter().product()
    }

    /// Every extent as a number, for a batch of `batch` examples.
    pub fn concrete(&self, batch: usize) -> Vec<usize> {
        self.0.iter().map(|d| if let Dim::Fixed(n) = d { *n } else { batch }).collect()
    }

    /// The shape that numpy's broadcasting gives for `self` and `other`; `None` if they do not agree.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let axis = |s: &Shape, i: usize| (i + s.rank()).checked_sub(rank).map_or(Dim::Fixed(1), |j| s.0[j]);
        (0..rank)
            .map(|i| match (axis(self, i), axis(other, i)) {
                (a, b) if a == b => Some(a),
                (Dim::Fixed(1), b) => Some(b),
                (a, Dim::Fixed(1)) => Some(a),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .map(Shape)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            match dim {
                Dim::Batch => f.write_str("N")?,
                Dim::Fixed(n) => write!(f, "{n}")?,
            }
        }
        f.write_str("]")
    }
}
