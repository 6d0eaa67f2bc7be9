//! The memory plan: an offset for every slot of the one arena.
//!
//! Persistent slots lie first, one after the other. Each phase's transient slots then share the rest: a slot lives from its first to its
//! last launch, the largest are placed first, each at the lowest offset free of slots that live at the same time. Phases never run
//! together, so each plans from the same start; the arena ends where the largest of them does.

use super::{Schedule, Slot};
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

/// Largest sum of bytes that live at the same time: no plan can do with less.
pub fn lower_bound(slots: &[Slot], schedule: &Schedule) -> usize {
    let ranges = live_ranges(slots, schedule);
    let at =
        |time: usize| ranges.iter().filter(|(_, (first, last))| (*first..=*last).contains(&time)).map(|(s, _)| bytes(&slots[*s])).sum();
    (0..schedule.launches.len()).map(at).max().unwrap_or(0)
}

/// Bytes of the arena that a schedule needs, once planned: its persistent slots, and the end of its last transient one.
pub fn peak(slots: &[Slot], schedule: &Schedule) -> usize {
    let persistent = slots.iter().enumerate().filter(|(_, slot)| slot.persistent).map(|(index, _)| index);
    let used = persistent.chain(live_ranges(slots, schedule).into_keys());
    used.map(|index| slots[index].offset + bytes(&slots[index])).max().unwrap_or(0)
}

fn bytes(slot: &Slot) -> usize {
    (slot.len * 4).next_multiple_of(ALIGNMENT)
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
        let mut order: Vec<usize> = ranges.keys().copied().collect();
        order.sort_by_key(|&s| (std::cmp::Reverse(bytes(&slots[s])), s));
        let mut placed: Vec<usize> = Vec::new();
        for slot in order {
            let (first, last) = ranges[&slot];
            let overlaps = |other: &&usize| ranges[*other].0 <= last && first <= ranges[*other].1;
            let mut busy: Vec<(usize, usize)> =
                placed.iter().filter(overlaps).map(|&o| (slots[o].offset, slots[o].offset + bytes(&slots[o]))).collect();
            busy.sort_unstable();
            let mut offset = next;
            for (from, to) in busy {
                if offset + bytes(&slots[slot]) <= from {
                    break;
                }
                offset = offset.max(to);
            }
            slots[slot].offset = offset;
            end = end.max(offset + bytes(&slots[slot]));
            placed.push(slot);
        }
    }
    end
}
