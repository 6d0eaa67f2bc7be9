//! Building one kernel: arguments, domain, body; and the arithmetic of addresses.

use super::super::{Address, Affine, Base, Kernel, Launch, Map, MapOperand, Operand, SlotId, Statement};
use mest_runtime::manifest::Element;
use mest_runtime::tile::Tile;

impl Affine {
    /// The constant `value`.
    pub(super) fn constant(value: isize) -> Self {
        Affine { constant: value, terms: Vec::new() }
    }

    /// `self + coefficient * variable`
    #[must_use]
    pub(super) fn plus(mut self, variable: usize, coefficient: usize) -> Self {
        if coefficient != 0 {
            match self.terms.binary_search_by_key(&variable, |(v, _)| *v) {
                Ok(at) => self.terms[at].1 += coefficient as isize,
                Err(at) => self.terms.insert(at, (variable, coefficient as isize)),
            }
        }
        self
    }
}

/// Where a value lies: a slot, and elements from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The slot.
    pub(super) slot: SlotId,
    /// Elements from its start.
    pub(super) offset: usize,
}

impl From<SlotId> for Place {
    fn from(slot: SlotId) -> Self {
        Place { slot, offset: 0 }
    }
}

/// A kernel in the making, with what its first launch is bound to.
#[derive(Debug)]
pub(super) struct KernelBuilder {
    name: String,
    arguments: Vec<(String, Element)>,
    bindings: Vec<(SlotId, usize)>,
    writes: Vec<bool>,
    domain: Vec<usize>,
    body: Vec<Statement>,
    scratch: usize,
}

impl KernelBuilder {
    /// A kernel called `name` over `domain`.
    pub(super) fn new(name: impl Into<String>, domain: &[usize]) -> Self {
        KernelBuilder {
            name: name.into(),
            arguments: vec![],
            bindings: vec![],
            writes: vec![],
            domain: domain.to_vec(),
            body: vec![],
            scratch: 0,
        }
    }

    /// An argument of `element`.
    pub(super) fn argument(&mut self, name: &str, place: Place, element: Element, write: bool) -> Base {
        self.arguments.push((name.to_owned(), element));
        self.bindings.push((place.slot, place.offset));
        self.writes.push(write);
        Base::Argument(self.arguments.len() - 1)
    }

    /// An argument of floats that is read.
    pub(super) fn read(&mut self, name: &str, place: impl Into<Place>) -> Base {
        self.argument(name, place.into(), Element::F32, false)
    }

    /// An argument of floats that is written.
    pub(super) fn write(&mut self, name: &str, place: impl Into<Place>) -> Base {
        self.argument(name, place.into(), Element::F32, true)
    }

    /// An argument of indices that is read.
    pub(super) fn words(&mut self, name: &str, place: impl Into<Place>) -> Base {
        self.argument(name, place.into(), Element::U32, false)
    }

    /// An argument of indices that is written.
    pub(super) fn write_words(&mut self, name: &str, place: impl Into<Place>) -> Base {
        self.argument(name, place.into(), Element::U32, true)
    }

    /// Makes the scratch hold at least `elements`.
    pub(super) fn scratch(&mut self, elements: usize) -> Base {
        self.scratch = self.scratch.max(elements);
        Base::Scratch
    }

    /// Appends a statement.
    pub(super) fn push(&mut self, statement: Statement) {
        self.body.push(statement);
    }

    /// Appends a tile call.
    pub(super) fn tile(&mut self, tile: impl Into<Tile>, operands: Vec<Operand>) {
        self.push(call(tile, operands));
    }

    /// Appends a map.
    pub(super) fn map(&mut self, map: Map) {
        self.push(Statement::Map(map));
    }

    /// The kernel, and a launch of it for the node `label`; the kernel's index is filled in by whoever keeps the kernels.
    pub(super) fn finish(self, label: &str) -> (Kernel, Launch) {
        let KernelBuilder { name, arguments, bindings, writes, domain, body, scratch } = self;
        let kernel = Kernel { name, arguments, domain, body, scratch };
        (kernel, Launch { kernel: usize::MAX, arguments: bindings, writes, label: label.to_owned() })
    }
}

/// A tile call.
pub(super) fn call(tile: impl Into<Tile>, operands: Vec<Operand>) -> Statement {
    Statement::Tile { tile: tile.into(), operands }
}

/// A loop of `count` rounds; none at all if it is zero.
pub(super) fn repeat(count: usize, body: Vec<Statement>) -> Option<Statement> {
    (count > 0).then_some(Statement::Loop { count, body })
}

/// `base + offset`, in elements.
pub(super) fn at(base: Base, offset: Affine) -> Operand {
    Operand::Address(Address { base, offset })
}

/// `base` itself.
pub(super) fn start(base: Base) -> Operand {
    at(base, Affine::default())
}

/// No memory: a null pointer.
pub(super) fn null() -> Operand {
    start(Base::Null)
}

/// An integer operand.
pub(super) fn integer(value: Affine) -> Operand {
    Operand::Integer(value)
}

/// A map operand.
pub(super) fn visit(base: Base, offset: Affine, strides: Vec<usize>, splat: bool) -> MapOperand {
    MapOperand { address: Address { base, offset }, strides, splat }
}

/// The largest divisor of `n` that is at most `wanted`: how many equal parts work is cut into.
pub(super) fn parts(n: usize, wanted: usize) -> usize {
    (1..=wanted.min(n).max(1)).rev().find(|p| n.is_multiple_of(*p)).unwrap_or(1)
}
