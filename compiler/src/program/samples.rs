//! Small programs for the tests of engines, and what they mean, evaluated one element at a time.

use super::*;
use mest_runtime::arena::Arena;
use mest_runtime::lanes::{Isa, math};
use mest_runtime::manifest::{self, BatchedSlot, Io, Manifest, Template};
use mest_runtime::network::Phase;
use mest_runtime::tile::{Pack, StageRows, Tile};
use std::borrow::Cow;

/// A program of the train phase over slots `(name, element, len)`; launches are (kernel, (slot, offset) of each argument).
pub(crate) fn program(
    lanes: usize,
    slots: &[(&str, Element, usize)],
    kernels: Vec<Kernel>,
    launches: &[(usize, &[(usize, usize)])],
) -> Program {
    let mut end = 0;
    let slots: Vec<Slot> = slots
        .iter()
        .map(|&(name, element, len)| {
            let offset = end;
            end += (len * element.bytes()).next_multiple_of(64);
            Slot { name: name.to_owned(), class: Class::Activations, element, len, persistent: name == "x", offset, in_place_of: None }
        })
        .collect();
    let scratch = kernels.iter().map(|kernel| kernel.scratch * 4).max().unwrap_or(0);
    let launches: Vec<_> = launches
        .iter()
        .map(|&(kernel, arguments)| Launch {
            kernel,
            arguments: arguments.iter().map(|&(slot, offset)| (SlotId(slot), offset)).collect(),
            writes: (0..arguments.len()).map(|i| i + 1 == arguments.len()).collect(),
            label: format!("node {kernel}"),
        })
        .collect();
    Program {
        name: "sample".to_owned(),
        slots,
        kernels,
        schedules: vec![Schedule { phase: Phase::Train, turns: vec![launches.len()], launches }],
        manifest: manifest(lanes, end, scratch),
    }
}

fn manifest(lanes: usize, arena_bytes: usize, scratch_bytes: usize) -> Manifest {
    let slot = manifest::Slot { offset: 0, len: 1, element: Element::F32 };
    let word = manifest::Slot { element: Element::U32, ..slot };
    let io = Io {
        input: slot,
        input_name: "x".into(),
        input_dims: vec![1].into(),
        input_rows: 0,
        target: word,
        example: word,
        live: slot,
        count: slot,
        output: BatchedSlot { name: "y".into(), dims: vec![1].into(), order: Cow::Borrowed(&[]), slot },
        loss: slot,
        correct: slot,
        hyper: slot,
        seed: word,
    };
    Manifest {
        name: "sample".into(),
        batch: 2 * lanes,
        lanes,
        groups: 2,
        classes: 2,
        arena_bytes,
        scratch_bytes,
        threads: 4,
        io,
        parameters: Cow::Borrowed(&[]),
        streams: Cow::Borrowed(&[]),
        plan: Cow::Borrowed(&[]),
        template: Template { bytes: Cow::Borrowed(&[]), offsets: Cow::Borrowed(&[]) },
        constants: Cow::Borrowed(&[]),
    }
}

pub(crate) fn affine(constant: isize, terms: &[(usize, isize)]) -> Affine {
    Affine { constant, terms: terms.to_vec() }
}

pub(crate) fn at(argument: usize, constant: isize, terms: &[(usize, isize)]) -> Address {
    Address { base: Base::Argument(argument), offset: affine(constant, terms) }
}

fn moved(address: Address, strides: &[usize]) -> MapOperand {
    MapOperand { address, strides: strides.to_vec(), splat: false }
}

fn splat(address: Address, strides: &[usize]) -> MapOperand {
    MapOperand { splat: true, ..moved(address, strides) }
}

fn floats(names: &[&str]) -> Vec<(String, Element)> {
    names.iter().map(|name| ((*name).to_owned(), Element::F32)).collect()
}

/// Every operation over `[2 groups][3][4][5][lane]`, splats, a lane mask, sums that stay in registers for one, two and three loops.
pub(crate) fn elementwise(lanes: usize) -> Program {
    let l = lanes;
    let (plane, strides) = (60 * l as isize, [20 * l, 5 * l, l]);
    let x = || at(0, 0, &[(0, plane)]);
    let chain = Map {
        width: Width::Lanes,
        extents: vec![3, 4, 5],
        loads: vec![
            moved(x(), &strides),
            splat(at(1, 0, &[]), &[0, 1, 0]),
            splat(at(1, 4, &[]), &[0, 1, 0]),
            moved(at(2, 0, &[(0, l as isize)]), &[0, 0, 0]),
        ],
        operations: vec![
            ChainOp::Fma(0, 1, 2),
            ChainOp::Constant(0.0),
            ChainOp::SelectLess(5, 4, 4, 5),
            ChainOp::Mul(6, 3),
            ChainOp::Sqrt(6),
            ChainOp::Constant(1.5),
            ChainOp::Add(8, 9),
            ChainOp::Div(7, 10),
            ChainOp::Sub(11, 0),
            ChainOp::Mul(1, 9),
            ChainOp::Fma(12, 13, 0),
        ],
        stores: vec![(moved(at(3, 0, &[(0, plane)]), &strides), 14)],
        sums: vec![
            (moved(at(4, 0, &[(0, 5 * l as isize)]), &[0, l, 0]), 6),
            (moved(at(4, 4 * l as isize, &[(0, 5 * l as isize)]), &[0, 0, 0]), 11),
            // Behind the planes.
            (moved(at(3, 2 * plane, &[(0, 3 * l as isize)]), &[l, 0, 0]), 13),
        ],
    };
    let copy = Map {
        width: Width::Lanes,
        extents: vec![3, 4, 5],
        loads: vec![moved(x(), &strides)],
        operations: vec![ChainOp::Add(0, 0)],
        stores: vec![(moved(at(5, 0, &[(0, plane)]), &strides), 1)],
        sums: vec![],
    };
    let bits = |width, extents: Vec<usize>, step: usize, first: isize| {
        let place = |argument, constant| moved(at(argument, constant, &[(0, plane)]), &[step]);
        let operations = vec![ChainOp::Exponent(0), ChainOp::Significand(0), ChainOp::PowerOfTwo(0), ChainOp::Mul(2, 3)];
        let stores = vec![(place(6, first), 1), (place(6, first + 2 * plane), 4)];
        Statement::Map(Map { width, extents, loads: vec![place(0, 0)], operations, stores, sums: vec![] })
    };
    let bits = [bits(Width::Lanes, vec![60], l, 0), bits(Width::Scalar, vec![60 * l], 1, 4 * plane)];
    let kernel = Kernel {
        name: "elementwise_3x4x5".to_owned(),
        arguments: floats(&["x", "scale", "live", "y", "sums", "doubled", "bits"]),
        domain: vec![2],
        body: [Statement::Map(chain), Statement::Map(copy)].into_iter().chain(bits).collect(),
        scratch: 0,
    };
    let f = Element::F32;
    let slots = [
        ("x", f, 120 * l),
        ("scale", f, 8 + l),
        ("live", f, 2 * l),
        ("y", f, 126 * l),
        ("sums", f, 10 * l),
        ("doubled", f, 120 * l),
        ("bits", f, 480 * l),
    ];
    program(l, &slots, vec![kernel], &[(0, &[(0, 0), (1, 3), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0)])])
}

/// Scalars over a domain with an extent of 1, a loop, an index that runs backwards, a sum per item, two launches that follow each other.
pub(crate) fn scalars() -> Program {
    let map = Map {
        width: Width::Scalar,
        extents: vec![4, 1, 3],
        loads: vec![moved(at(0, 95, &[(0, -48), (2, -16), (3, -3)]), &[0, 5, 0]), moved(at(0, 0, &[(0, 36), (2, 12)]), &[3, 7, 1])],
        operations: vec![ChainOp::Constant(-0.75), ChainOp::SelectLess(0, 1, 2, 0), ChainOp::Fma(1, 3, 2), ChainOp::Div(4, 0)],
        stores: vec![(moved(at(1, 0, &[(0, 72), (2, 24), (3, 12)]), &[3, 0, 1]), 5)],
        sums: vec![(moved(at(2, 0, &[(0, 6), (2, 2), (3, 1)]), &[0, 0, 0]), 4), (moved(at(2, 12, &[(0, 3), (2, 1)]), &[0, 0, 0]), 3)],
    };
    let kernel = Kernel {
        name: "scalars".to_owned(),
        arguments: floats(&["x", "y", "sums"]),
        domain: vec![2, 1, 3],
        body: vec![Statement::Loop { count: 2, body: vec![Statement::Map(map)] }],
        scratch: 0,
    };
    let f = Element::F32;
    let slots = [("x", f, 240), ("y", f, 144), ("z", f, 144), ("sums", f, 48)];
    program(4, &slots, vec![kernel], &[(0, &[(0, 0), (1, 0), (3, 0)]), (0, &[(1, 0), (2, 0), (3, 18)])])
}

/// Vectors rounded to halves on their way into a slot, read back from it, and both in one map with a wide operand; halves in a sum of f32.
pub(crate) fn halves(lanes: usize) -> Program {
    let l = lanes;
    let walk = |argument: usize| moved(at(argument, 0, &[(0, 12 * l as isize)]), &[4 * l, l]);
    let map =
        |loads, operations, stores, sums| Statement::Map(Map { width: Width::Lanes, extents: vec![3, 4], loads, operations, stores, sums });
    let kernel = |name: &str, arguments: &[(&str, Element)], body| Kernel {
        name: name.to_owned(),
        arguments: arguments.iter().map(|(name, element)| ((*name).to_owned(), *element)).collect(),
        domain: vec![2],
        body: vec![body],
        scratch: 0,
    };
    let (f, h) = (Element::F32, Element::Bf16);
    let narrow = map(vec![walk(0)], vec![ChainOp::Add(0, 0)], vec![(walk(1), 0), (walk(2), 1)], vec![]);
    let row_sum = moved(at(3, 0, &[(0, 3 * l as isize)]), &[l, 0]);
    let widen = map(vec![walk(0), walk(1)], vec![ChainOp::Sub(0, 1)], vec![(walk(2), 2)], vec![(row_sum, 1)]);
    let kernels = vec![
        kernel("narrow", &[("x", f), ("halves", h), ("doubled", f)], narrow),
        kernel("widen", &[("x", f), ("halves", h), ("error", f), ("sums", f)], widen),
    ];
    // The halves are bound in the middle of their slot: offsets count elements.
    let slots = [("x", f, 24 * l), ("halves", h, 25 * l), ("doubled", f, 24 * l), ("error", f, 24 * l), ("sums", f, 6 * l)];
    program(l, &slots, kernels, &[(0, &[(0, 0), (1, l), (2, 0)]), (1, &[(0, 0), (1, l), (3, 0), (4, 0)])])
}

/// Tiles: packs `[8 examples][2][3][4]` into planes, then stages each row with its neighbours in scratch and doubles what was staged.
pub(crate) fn tiles() -> Program {
    let lanes = 4;
    let pack = Kernel {
        name: "pack".to_owned(),
        arguments: vec![("input".into(), Element::F32), ("example".into(), Element::U32), ("x".into(), Element::F32)],
        domain: vec![2],
        body: vec![Statement::Tile {
            tile: Tile::Pack(Pack { channels: 2, rows: 3, width: 4 }),
            operands: vec![Operand::Address(at(0, 0, &[])), Operand::Address(at(1, 0, &[(0, 4)])), Operand::Address(at(2, 0, &[(0, 96)]))],
        }],
        scratch: 0,
    };
    let staged = Address { base: Base::Scratch, offset: affine(0, &[]) };
    let stage = StageRows { rows: 3, channels: 2, width: 4, left: 1, right: 1, rows_in_plane: 3, plane_channels: 2, fill: -1.0 };
    let double = Map {
        width: Width::Lanes,
        extents: vec![36],
        loads: vec![moved(staged.clone(), &[4])],
        operations: vec![ChainOp::Add(0, 0)],
        stores: vec![(moved(at(1, 0, &[(0, 432), (1, 144)]), &[4]), 1)],
        sums: vec![],
    };
    let stage = Kernel {
        name: "stage".to_owned(),
        arguments: floats(&["x", "y"]),
        domain: vec![2],
        body: vec![Statement::Loop {
            count: 3,
            body: vec![
                Statement::Tile {
                    tile: Tile::StageRows(stage),
                    operands: vec![
                        Operand::Address(at(0, 0, &[(0, 96)])),
                        Operand::Integer(affine(-1, &[(1, 1)])),
                        Operand::Address(staged),
                    ],
                },
                Statement::Map(double),
            ],
        }],
        scratch: 144,
    };
    let slots = [("input", Element::F32, 192), ("example", Element::U32, 8), ("x", Element::F32, 192), ("y", Element::F32, 864)];
    program(lanes, &slots, vec![pack, stage], &[(0, &[(0, 0), (1, 0), (2, 0)]), (1, &[(2, 0), (3, 0)])])
}

/// Numbers of both signs, some of them awkward.
pub(crate) fn fill(values: &mut [f32]) {
    let mut state = 0x2545_f491_u32;
    for (i, value) in values.iter_mut().enumerate() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *value = match i % 61 {
            17 => -0.0,
            29 => f32::INFINITY,
            41 => 1e-40,
            _ => (state >> 8) as f32 / (1 << 23) as f32 - 1.0,
        };
    }
}

/// The whole arena as floats.
pub(crate) fn all(bytes: usize) -> manifest::Slot {
    manifest::Slot { offset: 0, len: bytes / 4, element: Element::F32 }
}

/// What the program's train phase leaves in an arena that `fill` filled: one lane of one iteration of one item after the other.
pub(crate) fn evaluate(program: &Program, isa: Isa) -> Vec<f32> {
    let mut memory = Arena::new(program.manifest.arena_bytes);
    let memory = memory.floats_mut(all(program.manifest.arena_bytes));
    fill(memory);
    for launch in program.schedules.iter().flat_map(|schedule| &schedule.launches) {
        let kernel = &program.kernels[launch.kernel];
        let start = |&(slot, offset): &(SlotId, usize)| program.slots[slot.0].offset / program.slots[slot.0].element.bytes() + offset;
        let starts = launch.arguments.iter().map(start).collect();
        let elements = kernel.arguments.iter().map(|(_, element)| *element).collect();
        let mut oracle = Oracle { memory, starts, elements, lanes: program.manifest.lanes, fused: isa.is_fused() };
        for item in indices(&kernel.domain) {
            oracle.statements(&kernel.body, &item);
        }
    }
    memory.to_vec()
}

struct Oracle<'a> {
    memory: &'a mut [f32],
    /// Where each argument starts, counted in its elements.
    starts: Vec<usize>,
    elements: Vec<Element>,
    lanes: usize,
    fused: bool,
}

/// All index tuples, the last index fastest.
fn indices(extents: &[usize]) -> Vec<Vec<usize>> {
    let extended = |all: Vec<Vec<usize>>, extent: &usize| {
        let all = all.into_iter().flat_map(|index| (0..*extent).map(move |last| [index.as_slice(), &[last]].concat()));
        all.collect()
    };
    extents.iter().fold(vec![vec![]], extended)
}

impl Oracle<'_> {
    fn statements(&mut self, body: &[Statement], variables: &[usize]) {
        for statement in body {
            match statement {
                Statement::Loop { count, body } => (0..*count).for_each(|turn| self.statements(body, &[variables, &[turn]].concat())),
                Statement::Map(map) => indices(&map.extents).iter().for_each(|index| self.iteration(map, variables, index)),
                Statement::Tile { tile, .. } => panic!("the oracle has no tile {}", tile.name()),
            }
        }
    }

    fn place(&self, operand: &MapOperand, variables: &[usize], index: &[usize], lane: usize) -> usize {
        let Base::Argument(argument) = operand.address.base else { panic!("the oracle has no scratch") };
        let offset = &operand.address.offset;
        let start: isize = offset.constant + offset.terms.iter().map(|&(v, c)| c * variables[v] as isize).sum::<isize>();
        let moved: usize = operand.strides.iter().zip(index).map(|(stride, index)| stride * index).sum();
        (self.starts[argument] as isize + start) as usize + moved + if operand.splat { 0 } else { lane }
    }

    fn is_narrow(&self, operand: &MapOperand) -> bool {
        matches!(operand.address.base, Base::Argument(argument) if self.elements[argument] == Element::Bf16)
    }

    /// The half at `place`, counted in halves, lies in the lower or upper bits of a float's.
    fn read(&self, operand: &MapOperand, place: usize) -> f32 {
        if !self.is_narrow(operand) {
            return self.memory[place];
        }
        math::widened((self.memory[place / 2].to_bits() >> (16 * (place % 2))) as u16)
    }

    fn write(&mut self, operand: &MapOperand, place: usize, value: f32) {
        if !self.is_narrow(operand) {
            self.memory[place] = value;
            return;
        }
        let (word, shift) = (&mut self.memory[place / 2], 16 * (place % 2));
        let half = u32::from(math::narrowed(value)) << shift;
        *word = f32::from_bits(word.to_bits() & !(0xffff << shift) | half);
    }

    fn iteration(&mut self, map: &Map, variables: &[usize], index: &[usize]) {
        let lanes = if map.width == Width::Lanes { self.lanes } else { 1 };
        for lane in 0..lanes {
            let mut v: Vec<f32> = map.loads.iter().map(|load| self.read(load, self.place(load, variables, index, lane))).collect();
            for operation in &map.operations {
                v.push(match *operation {
                    ChainOp::Constant(constant) => constant,
                    ChainOp::Add(a, b) => v[a] + v[b],
                    ChainOp::Sub(a, b) => v[a] - v[b],
                    ChainOp::Mul(a, b) => v[a] * v[b],
                    ChainOp::Div(a, b) => v[a] / v[b],
                    ChainOp::Fma(a, b, c) if self.fused => v[a].mul_add(v[b], v[c]),
                    ChainOp::Fma(a, b, c) => v[a] * v[b] + v[c],
                    ChainOp::Sqrt(a) => v[a].sqrt(),
                    ChainOp::PowerOfTwo(a) => math::power_of_two(v[a]),
                    ChainOp::Exponent(a) => math::exponent(v[a]),
                    ChainOp::Significand(a) => math::significand(v[a]),
                    ChainOp::SelectLess(a, b, c, d) => {
                        if v[a] < v[b] {
                            v[c]
                        } else {
                            v[d]
                        }
                    }
                });
            }
            for (store, value) in &map.stores {
                let place = self.place(store, variables, index, lane);
                self.write(store, place, v[*value]);
            }
            for (sum, value) in &map.sums {
                let place = self.place(sum, variables, index, lane);
                self.memory[place] += v[*value];
            }
        }
    }
}

/// Bits to compare by; one NaN for all, since which operand's payload survives is the compiler's choice.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
}
