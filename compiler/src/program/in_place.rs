//! Results in place: a value that a kernel writes where it has just read another one for the last time takes that one's memory.
//!
//! It saves the memory, and the traffic of fetching cache lines only to overwrite them. A result and an operand qualify if the kernel
//! accesses both alike, element for element, before it moves on: the stores and loads of a map, and dX and X of a backward sweep.

use super::{Address, Base, Kernel, Map, Operand, Schedule, Slot, SlotId, Statement, memory};
use mest_runtime::tile::Tile;
use std::collections::{BTreeMap, BTreeSet};

/// Merges the slots of each schedule where its launches allow it: launches name the earlier slot afterwards. Returns, for each later slot,
/// the one whose memory it shares.
pub fn merge(slots: &[Slot], kernels: &[Kernel], schedules: &mut [Schedule]) -> BTreeMap<SlotId, SlotId> {
    let mut shared = BTreeMap::new();
    for index in 0..schedules.len() {
        let others = schedules.iter().enumerate().filter(|(other, _)| *other != index).flat_map(|(_, schedule)| &schedule.launches);
        let elsewhere: BTreeSet<usize> = others.flat_map(|launch| launch.arguments.iter().map(|(slot, _)| slot.0)).collect();
        let mut ranges = memory::live_ranges(slots, &schedules[index]);
        ranges.retain(|slot, _| !elsewhere.contains(slot));
        let merged = merges(slots, kernels, &schedules[index], ranges);
        for (slot, _) in schedules[index].launches.iter_mut().flat_map(|launch| &mut launch.arguments) {
            while let Some(earlier) = merged.get(slot) {
                *slot = *earlier;
            }
        }
        shared.extend(merged);
    }
    shared
}

/// Slots that are to lie where earlier ones lie, each with the earlier one.
fn merges(
    slots: &[Slot],
    kernels: &[Kernel],
    schedule: &Schedule,
    mut ranges: BTreeMap<usize, (usize, usize)>,
) -> BTreeMap<SlotId, SlotId> {
    let mut merged = BTreeMap::new();
    for (time, launch) in schedule.launches.iter().enumerate() {
        for (result, operand) in pairs(&kernels[launch.kernel]) {
            let [(new, new_offset), (old, old_offset)] = [result, operand].map(|argument| launch.arguments[argument]);
            let bound_once = |slot| launch.arguments.iter().filter(|(bound, _)| *bound == slot).count() == 1;
            let (Some(&(first, last)), Some(&(_, end))) = (ranges.get(&new.0), ranges.get(&old.0)) else { continue };
            let alike = |slot: SlotId| (slots[slot.0].len, slots[slot.0].element, slots[slot.0].class);
            let fits = new_offset == old_offset && alike(new) == alike(old);
            if fits && first == time && end == time && bound_once(new) && bound_once(old) {
                merged.insert(new, old);
                // The earlier slot lives on as the later one, under whose name launches still ask for it.
                ranges.remove(&old.0);
                ranges.insert(new.0, (first, last));
            }
        }
    }
    merged
}

/// (result, operand) arguments of a kernel that may share their memory.
fn pairs(kernel: &Kernel) -> Vec<(usize, usize)> {
    let mut accesses = Accesses::default();
    accesses.statements(&kernel.body);
    let Accesses { counts, pairs } = accesses;
    let never_apart = |pair: &&(usize, usize)| {
        let together = pairs.iter().filter(|other| other == pair).count();
        [pair.0, pair.1].iter().all(|argument| counts.get(argument) == Some(&together))
    };
    pairs.iter().filter(never_apart).copied().collect()
}

/// What a kernel's body does with its arguments.
#[derive(Default)]
struct Accesses {
    /// Operands that name an argument.
    counts: BTreeMap<usize, usize>,
    pairs: Vec<(usize, usize)>,
}

impl Accesses {
    fn statements(&mut self, body: &[Statement]) {
        for statement in body {
            match statement {
                Statement::Loop { body, .. } => self.statements(body),
                Statement::Tile { tile, operands } => self.tile(tile, operands),
                Statement::Map(map) => self.map(map),
            }
        }
    }

    fn count(&mut self, address: &Address) {
        if let Base::Argument(argument) = address.base {
            *self.counts.entry(argument).or_default() += 1;
        }
    }

    fn tile(&mut self, tile: &Tile, operands: &[Operand]) {
        for operand in operands {
            if let Operand::Address(address) = operand {
                self.count(address);
            }
        }
        if let (Tile::BackwardSweep(_), [Operand::Address(x), _, _, Operand::Address(dx), ..]) = (tile, operands) {
            self.pair(dx, x);
        }
    }

    fn map(&mut self, map: &Map) {
        let written = map.stores.iter().chain(&map.sums).map(|(operand, _)| operand);
        map.loads.iter().chain(written).for_each(|operand| self.count(&operand.address));
        for (store, _) in &map.stores {
            for load in map.loads.iter().filter(|load| load.strides == store.strides && load.splat == store.splat) {
                self.pair(&store.address, &load.address);
            }
        }
    }

    fn pair(&mut self, result: &Address, operand: &Address) {
        if let (Base::Argument(result_argument), Base::Argument(operand_argument)) = (result.base, operand.base)
            && result.offset == operand.offset
        {
            self.pairs.push((result_argument, operand_argument));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Affine, Class, Launch, MapOperand, Width};
    use mest_runtime::manifest::Element;
    use mest_runtime::network::Phase;
    use mest_runtime::tile::BackwardSweep;

    fn address(argument: usize, offset: isize) -> Address {
        Address { base: Base::Argument(argument), offset: Affine { constant: offset, terms: vec![(0, 64)] } }
    }

    fn kernel(arguments: usize, body: Vec<Statement>) -> Kernel {
        let arguments = (0..arguments).map(|i| (format!("a{i}"), Element::F32)).collect();
        Kernel { name: "kernel".to_owned(), arguments, domain: vec![2], body, scratch: 0 }
    }

    /// Stores argument 1 where it loads argument 0, the store moved by `offset` and walked by `stride`.
    fn copy(offset: isize, stride: usize) -> Kernel {
        let visit = |argument, offset, stride| MapOperand { address: address(argument, offset), strides: vec![stride], splat: false };
        let map = Map {
            width: Width::Lanes,
            extents: vec![4],
            loads: vec![visit(0, 0, 16)],
            operations: vec![],
            stores: vec![(visit(1, offset, stride), 0)],
            sums: vec![],
        };
        kernel(2, vec![Statement::Map(map)])
    }

    /// A backward sweep whose X is argument 0 and whose dX is argument 1, and which stages argument 0 too where `twice`.
    fn sweep(twice: bool) -> Kernel {
        let shape = BackwardSweep {
            block_columns: 1,
            rows_per_block: 1,
            columns_per_block: 1,
            pixels: 4,
            x_pixel: 1,
            x_channel: 4,
            dy_pixel: 1,
            dy_channel: 4,
        };
        let arguments = [0, 3, 3, 1, if twice { 0 } else { 2 }, 3, 3, 3, 3];
        let operands = arguments.map(|argument| Operand::Address(address(argument, 0))).to_vec();
        kernel(4, vec![Statement::Tile { tile: Tile::BackwardSweep(shape), operands }])
    }

    /// What [`merge`] does to launches of `kernels`, each of its own with the slots given.
    fn merged(kernels: &[Kernel], launches: &[&[usize]]) -> Vec<Vec<usize>> {
        let slot = |i: usize| Slot {
            name: format!("s{i}"),
            class: Class::Activations,
            element: Element::F32,
            len: 128,
            persistent: i >= 8,
            offset: 0,
            in_place_of: None,
        };
        let slots: Vec<Slot> = (0..10).map(slot).collect();
        let launch = |(kernel, slots): (usize, &&[usize])| Launch {
            kernel,
            arguments: slots.iter().map(|&slot| (SlotId(slot), 0)).collect(),
            writes: vec![false; slots.len()],
            label: String::new(),
        };
        let launches: Vec<_> = launches.iter().enumerate().map(launch).collect();
        let mut schedules = [Schedule { phase: Phase::Train, turns: vec![launches.len()], launches }];
        merge(&slots, kernels, &mut schedules);
        schedules[0].launches.iter().map(|launch| launch.arguments.iter().map(|(slot, _)| slot.0).collect()).collect()
    }

    #[test]
    fn a_chain_of_maps_stays_in_one_place() {
        assert_eq!(merged(&[copy(0, 16), copy(0, 16)], &[&[0, 1], &[1, 2]]), [[0, 0], [0, 0]]);
    }

    #[test]
    fn what_is_read_again_is_kept() {
        assert_eq!(merged(&[copy(0, 16), copy(0, 16)], &[&[0, 1], &[0, 2]]), [[0, 1], [0, 0]]);
    }

    #[test]
    fn what_is_accessed_otherwise_is_kept() {
        assert_eq!(merged(&[copy(64, 16)], &[&[0, 1]]), [[0, 1]]);
        assert_eq!(merged(&[copy(0, 32)], &[&[0, 1]]), [[0, 1]]);
    }

    #[test]
    fn what_lives_between_steps_is_kept() {
        assert_eq!(merged(&[copy(0, 16)], &[&[8, 1]]), [[8, 1]]);
        assert_eq!(merged(&[copy(0, 16)], &[&[0, 9]]), [[0, 9]]);
    }

    #[test]
    fn sweeps_write_gradients_over_their_input() {
        assert_eq!(merged(&[sweep(false)], &[&[0, 1, 2, 8]]), [[0, 0, 2, 8]]);
        assert_eq!(merged(&[sweep(true)], &[&[0, 1, 2, 8]]), [[0, 1, 2, 8]]);
    }
}
