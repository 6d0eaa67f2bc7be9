//! The program: kernels over the slots of one arena, and the order they run in. Engines consume this and nothing else.
//!
//! A kernel is a nest: a *domain* of independent work items (the unit of threading), and for each item a body of constant loops, calls of
//! runtime tiles, and element-wise maps. Everything that depends on shapes is a constant here; everything that depends on the mask is
//! data in slots. Bands, ranges and parts follow from shapes alone, never from the number of threads.
//!
//! [`text`] prints a program; ARCHITECTURE.md shows convolution, batch normalization and ReLU in that form.

pub mod bounds;
pub mod hoist;
pub mod in_place;
pub mod layout;
pub mod lower;
pub mod memory;
pub mod nest;
#[cfg(test)]
pub(crate) mod samples;
pub mod text;

use mest_runtime::manifest::Element;
use mest_runtime::tile::Tile;

/// Index of a slot in [`Program::slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub usize);

/// What a slot is for: the line of the memory plan it counts under, and how long it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Parameter values.
    Weights,
    /// Weight gradients, partial ones included.
    Gradients,
    /// Momentum and moments.
    Optimizer,
    /// Live units of each mask.
    Masks,
    /// Offset streams and the values in their order.
    Topology,
    /// Activations and their gradients.
    Activations,
    /// Running statistics.
    State,
    /// Inputs, targets, results, hyper-parameters.
    Data,
}

impl Class {
    /// Name in the memory plan.
    pub fn name(self) -> &'static str {
        match self {
            Class::Weights => "weights",
            Class::Gradients => "gradients",
            Class::Optimizer => "optimizer",
            Class::Masks => "masks",
            Class::Topology => "topology",
            Class::Activations => "activations",
            Class::State => "state",
            Class::Data => "data",
        }
    }
}

/// A region of the arena.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The value it holds.
    pub name: String,
    /// What it is for.
    pub class: Class,
    /// What its elements are.
    pub element: Element,
    /// Number of elements.
    pub len: usize,
    /// Whether it keeps its contents from step to step; others live from their first to their last launch.
    pub persistent: bool,
    /// Bytes from the arena's start; set by [`memory::plan`].
    pub offset: usize,
    /// The slot whose memory it takes over; set by [`in_place::merge`]'s caller.
    pub in_place_of: Option<SlotId>,
}

impl Slot {
    /// Its size.
    pub fn bytes(&self) -> usize {
        self.len * self.element.bytes()
    }
}

/// `constant + sum of coefficient * variable`; variable v is the v-th of the kernel's domain and enclosing loops, outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Affine {
    /// The constant.
    pub constant: isize,
    /// (variable, coefficient), ascending by variable, no coefficient zero.
    pub terms: Vec<(usize, isize)>,
}

/// A place that a kernel reads or writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Where it starts.
    pub base: Base,
    /// Elements from there (not vectors).
    pub offset: Affine,
}

/// What an address is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// The kernel's n-th argument.
    Argument(usize),
    /// The worker's scratch.
    Scratch,
    /// Nothing: a null pointer.
    Null,
}

/// An operand of a tile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// A pointer.
    Address(Address),
    /// An integer.
    Integer(Affine),
}

/// A statement of a kernel's body.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// Runs the body `count` times; the loop's variable is the next free one.
    Loop {
        /// Trip count.
        count: usize,
        /// What is repeated.
        body: Vec<Statement>,
    },
    /// Calls a tile.
    Tile {
        /// Which, with its shape.
        tile: Tile,
        /// Its operands, in the tile's order.
        operands: Vec<Operand>,
    },
    /// Runs an element-wise chain.
    Map(Map),
}

/// What one iteration of a map works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// A vector of the program's lanes.
    Lanes,
    /// One element: uniform values.
    Scalar,
}

/// A place that a map visits: `address + sum of stride[d] * index[d]`, in elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MapOperand {
    /// Where the first iteration is.
    pub address: Address,
    /// One stride a dimension of the map, in elements.
    pub strides: Vec<usize>,
    /// One element for all lanes (a uniform operand of a map over lanes).
    pub splat: bool,
}

/// An element-wise chain over a rectangular space: loads, operations, stores and sums, all in one pass. Vectors of halves are widened as they
/// are loaded, rounded to the nearest as they are stored, and never summed. What it writes must not overlap what
/// else it reads or writes, save that a store may overwrite a load of the very same place: engines keep sums and repeated loads in registers.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// Vector or scalar.
    pub width: Width,
    /// Extents, outermost first.
    pub extents: Vec<usize>,
    /// What is read; load i is chain value i.
    pub loads: Vec<MapOperand>,
    /// What is computed; operation j is chain value `loads.len() + j`.
    pub operations: Vec<ChainOp>,
    /// What is written: (where, chain value).
    pub stores: Vec<(MapOperand, usize)>,
    /// What is added to memory: (where, chain value); a stride of 0 along a dimension sums over it.
    pub sums: Vec<(MapOperand, usize)>,
}

/// One operation on chain values. Each is one IEEE operation a lane, or one rearrangement of a float's bits, so engines agree bit for bit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ChainOp {
    /// A constant.
    Constant(f32),
    /// a + b
    Add(usize, usize),
    /// a - b
    Sub(usize, usize),
    /// a * b
    Mul(usize, usize),
    /// a / b
    Div(usize, usize),
    /// a * b + c: fused on instruction sets that fuse, two roundings on those that do not.
    Fma(usize, usize, usize),
    /// The square root.
    Sqrt(usize),
    /// `if a < b { c } else { d }` (false when unordered)
    SelectLess(usize, usize, usize, usize),
    /// 2^a for integral a from -126 to 127: [`mest_runtime::lanes::math::power_of_two`].
    PowerOfTwo(usize),
    /// The e of a positive normal float m 2^e with m from sqrt(1/2) to sqrt(2): [`mest_runtime::lanes::math::exponent`].
    Exponent(usize),
    /// That m: [`mest_runtime::lanes::math::significand`].
    Significand(usize),
}

/// A kernel: distinct by its shape, shared by all launches that have it.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// An identifier: family and shape.
    pub name: String,
    /// Names and elements of its arguments.
    pub arguments: Vec<(String, Element)>,
    /// Extents of the work items, outermost first; item i of the product is decoded into the first variables.
    pub domain: Vec<usize>,
    /// What an item does.
    pub body: Vec<Statement>,
    /// Scratch it needs, in elements.
    pub scratch: usize,
}

/// One run of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Index into [`Program::kernels`].
    pub kernel: usize,
    /// What it works on: a slot and an element offset into it, for each argument.
    pub arguments: Vec<(SlotId, usize)>,
    /// Which arguments it writes.
    pub writes: Vec<bool>,
    /// The graph node it comes from.
    pub label: String,
}

/// What one phase runs, in order; launches are separated by barriers.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Which phase.
    pub phase: mest_runtime::network::Phase,
    /// In order.
    pub launches: Vec<Launch>,
    /// Numbers of the launches before which a forward pass and its loss are over: one a micro-batch.
    pub turns: Vec<usize>,
}

/// A compiled network.
#[derive(Clone, Debug)]
pub struct Program {
    /// The model's name.
    pub name: String,
    /// Slots of the arena.
    pub slots: Vec<Slot>,
    /// Distinct kernels.
    pub kernels: Vec<Kernel>,
    /// Phases.
    pub schedules: Vec<Schedule>,
    /// What the runtime is told; its slots are final once memory is planned.
    pub manifest: mest_runtime::manifest::Manifest,
}
