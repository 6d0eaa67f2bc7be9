//! The memory plan: an offset for every slot of the one arena.
//!
//! Persistent slots lie first, one after the other. Each phase's transient slots then share the rest: a slot lives from its first to its
//! last launch, and each is placed at the lowest offset free of slots that live at the same time; of some orders to do that in, the one that ends
//! lowest is taken. Phases never run together, so each plans from the same start; the arena ends where the largest of them does.

use super::{Class, Schedule, Slot};
use mest_runtime::arena::ALIGNMENT;
use std::collections::BTreeMap;

/// First and last launch of each transient slot that a schedule touches, by slot.
pub fn live_ranges(slots: &[Slot], schedule: &Schedule) -> BTreeMap<usize, (usize, usize)> {
    let mut ranges = BTreeMap::new();
    for (time, launch) in schedule.launches.iter().enumerate() {
        for (slot, _) in launch.arguments.iter().filter(|(slot, _)| !slots[slot.0].persistent) {
            let range = ranges.entry(slot.0).or_insert((time, time));
            range.1 = time;
        }
    }
    ranges
}

/// What lives at the launch where most does.
#[derive(Clone, Debug, PartialEq)]
pub struct Peak {
    /// Index of the launch.
    pub launch: usize,
    /// Bytes by class, all classes: those of [`super::Class`], but activations that backward reads as `activations`, all other values on the way as
    /// `transient`.
    pub bytes: BTreeMap<&'static str, usize>,
}

/// Persistent slots, and the transient ones that live at the launch of a schedule where those take most.
pub fn at_peak(slots: &[Slot], schedule: &Schedule) -> Peak {
    let ranges = live_ranges(slots, schedule);
    let live = live_bytes(slots, &ranges);
    let launch = (0..live.len()).max_by_key(|&time| live[time]).unwrap_or(0);
    let classes = ["weights", "gradients", "optimizer", "masks", "topology", "activations", "transient", "state", "data"];
    let mut peak = Peak { launch, bytes: classes.map(|class| (class, 0)).into() };
    for slot in slots.iter().filter(|slot| slot.persistent) {
        *peak.bytes.entry(slot.class.name()).or_default() += slot.bytes();
    }
    for (&slot, &(first, last)) in ranges.iter().filter(|(_, (first, last))| (*first..=*last).contains(&launch)) {
        let kept = schedule.turns.iter().any(|turn| (first + 1..=last).contains(turn));
        let class = if slots[slot].class == Class::Activations && !kept { "transient" } else { slots[slot].class.name() };
        *peak.bytes.entry(class).or_default() += slots[slot].bytes();
    }
    peak
}

/// Largest sum of bytes that live at the same time, persistent ones included: no plan can do with less.
pub fn lower_bound(slots: &[Slot], schedule: &Schedule) -> usize {
    let live = live_bytes(slots, &live_ranges(slots, schedule));
    let persistent: usize = slots.iter().filter(|slot| slot.persistent).map(bytes).sum();
    persistent + live.into_iter().max().unwrap_or(0)
}

/// Bytes of the arena that a schedule needs, once planned: its persistent slots, and the end of its last transient one.
pub fn peak(slots: &[Slot], schedule: &Schedule) -> usize {
    let persistent = slots.iter().enumerate().filter(|(_, slot)| slot.persistent).map(|(index, _)| index);
    let used = persistent.chain(live_ranges(slots, schedule).into_keys());
    used.map(|index| slots[index].offset + bytes(&slots[index])).max().unwrap_or(0)
}

fn bytes(slot: &Slot) -> usize {
    slot.bytes().next_multiple_of(ALIGNMENT)
}

/// Sets every slot's offset and returns the arena's size in bytes.
pub fn plan(slots: &mut [Slot], schedules: &[Schedule]) -> usize {
    let mut next = 0;
    for slot in slots.iter_mut().filter(|s| s.persistent) {
        slot.offset = next;
        next += bytes(slot);
    }
    let mut end = next;
    for schedule in schedules {
        let ranges = live_ranges(slots, schedule);
        let (offsets, phase_end) = pack(slots, &ranges, next);
        for (slot, offset) in offsets {
            slots[slot].offset = offset;
        }
        end = end.max(phase_end);
    }
    end
}

/// Attempts from each order of slots to place them, at most.
const PROMOTIONS: usize = 8;

/// A plan within this part of what it takes at least is looked at no further.
const CLOSE_ENOUGH: usize = 100;

/// Offsets from `start` on for slots that live in `ranges`, and where the last ends: the best of some orders to place them in.
fn pack(slots: &[Slot], ranges: &BTreeMap<usize, (usize, usize)>, start: usize) -> (Vec<(usize, usize)>, usize) {
    let lifetime = |slot: usize| ranges[&slot].1 - ranges[&slot].0 + 1;
    let live = live_bytes(slots, ranges);
    let orders: [&dyn Fn(usize) -> usize; 4] = [
        &|slot| bytes(&slots[slot]),
        &|slot| bytes(&slots[slot]) * lifetime(slot),
        &|slot| lifetime(slot),
        // What lives where most does first, the largest of it first.
        &|slot| live[ranges[&slot].0..=ranges[&slot].1].iter().copied().max().unwrap_or(0),
    ];
    let least = start + live.iter().copied().max().unwrap_or(0);
    let mut best: (Vec<(usize, usize)>, usize) = (vec![], usize::MAX);
    for weight in orders {
        let mut order: Vec<usize> = ranges.keys().copied().collect();
        order.sort_by_cached_key(|&slot| (std::cmp::Reverse(weight(slot)), std::cmp::Reverse(bytes(&slots[slot])), slot));
        for _ in 0..PROMOTIONS {
            let (placed, end) = place(slots, ranges, &order, start);
            // What ended up on top of everything goes first next time.
            let highest = placed.iter().position(|&(slot, offset)| offset + bytes(&slots[slot]) == end).unwrap_or(0);
            if end < best.1 {
                best = (placed, end);
            }
            if best.1 <= least + least / CLOSE_ENOUGH || order.is_empty() {
                return best;
            }
            order[..=highest].rotate_right(1);
        }
    }
    best
}

/// Bytes that live at each launch.
fn live_bytes(slots: &[Slot], ranges: &BTreeMap<usize, (usize, usize)>) -> Vec<usize> {
    let launches = ranges.values().map(|range| range.1 + 1).max().unwrap_or(0);
    let mut live = vec![0; launches];
    for (&slot, &(first, last)) in ranges {
        live[first..=last].iter_mut().for_each(|sum| *sum += bytes(&slots[slot]));
    }
    live
}

/// A slot that has its place.
struct Placed {
    offset: usize,
    end: usize,
    first: usize,
    last: usize,
}

/// Places slots in `order`, each at the lowest offset free of slots that live at the same time.
fn place(slots: &[Slot], ranges: &BTreeMap<usize, (usize, usize)>, order: &[usize], start: usize) -> (Vec<(usize, usize)>, usize) {
    // By offset: of a network with thousands of launches, most slots fit below most others.
    let mut placed: Vec<Placed> = Vec::with_capacity(order.len());
    let mut offsets = Vec::with_capacity(order.len());
    let mut highest = start;
    for &slot in order {
        let ((first, last), size) = (ranges[&slot], bytes(&slots[slot]));
        let mut offset = start;
        for other in placed.iter().filter(|other| other.first <= last && first <= other.last) {
            if offset + size <= other.offset {
                break;
            }
            offset = offset.max(other.end);
        }
        let end = offset + size;
        highest = highest.max(end);
        let position = placed.partition_point(|other| (other.offset, other.end) < (offset, end));
        placed.insert(position, Placed { offset, end, first, last });
        offsets.push((slot, offset));
    }
    (offsets, highest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::import_bytes;
    use crate::program::Program;
    use crate::zoo::{self, ZooOptions};
    use crate::{pipeline, settings};
    use mest_runtime::network::Phase;
    use mest_runtime::recipe::Recipe;

    fn compiled(model: &str) -> Program {
        let options = ZooOptions { input: (model == "mlp").then_some([1, 28, 28]), ..ZooOptions::default() };
        let model = import_bytes(&zoo::build(model, &options).expect("a built-in model"), None).expect("it imports");
        pipeline::compile(&model, &settings::of_recipe(&Recipe::default(), None)).expect("it compiles").program
    }

    #[test]
    fn plans_are_within_three_percent_of_the_lower_bound() {
        for (model, _) in zoo::NAMES {
            let program = compiled(model);
            for schedule in &program.schedules {
                let (peak, bound) = (peak(&program.slots, schedule), lower_bound(&program.slots, schedule));
                assert!(bound <= peak && peak as f64 <= bound as f64 * 1.03, "{model} {:?}: {peak} of at least {bound}", schedule.phase);
            }
        }
    }

    #[test]
    fn classes_add_up_to_the_plan() {
        let program = compiled("resnet8");
        let manifest = &program.manifest;
        let planned = manifest.arena_bytes + manifest.scratch_bytes * manifest.threads;
        assert_eq!(manifest.plan.iter().map(|line| line.bytes).sum::<usize>(), planned);
        let train = program.schedules.iter().find(|schedule| schedule.phase == Phase::Train).expect("it trains");
        let bytes = at_peak(&program.slots, train).bytes;
        assert!(bytes["activations"] > bytes["transient"], "{bytes:?}");
    }
}
