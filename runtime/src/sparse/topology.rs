//! Topologies: the offset streams that kernels follow, rebuilt from the live units whenever a mask changes.
//!
//! What lists and offsets mean is said at [`StreamOrder`]. Both orders have one form: a unit's list depends on its blocks and class, its offset is
//! `channel * stride + tap`, where class and tap depend on the kernel position alone. So a rebuild is a table of kernel positions and one
//! counting sort.

use super::mask::Units;
use crate::arena::Arena;
use crate::manifest::{Manifest, Storage, Stream, StreamOrder};
use crate::prelude::*;

/// Memory that rebuilding reuses from one call to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    units: Vec<u32>,
    taps: Vec<Tap>,
    starts: Vec<u32>,
    /// (offset, position in mask order), list after list.
    entries: Vec<(u32, u32)>,
    values: Vec<f32>,
}

/// What a kernel position contributes to list and offset.
#[derive(Clone, Copy, Debug)]
struct Tap {
    class: usize,
    offset: usize,
}

/// Rebuilds every stream of parameter `parameter` from its live units: starts, offsets, source and values.
pub fn rebuild(manifest: &Manifest, arena: &mut Arena, parameter: usize) {
    rebuild_with(&mut Scratch::default(), manifest, arena, parameter);
}

/// [`rebuild`], in memory that is reused.
///
/// # Panics
/// Slots of a stream are too small for the parameter's capacity: the manifest contradicts itself.
pub fn rebuild_with(scratch: &mut Scratch, manifest: &Manifest, arena: &mut Arena, parameter: usize) {
    let Storage::Matrix { matrix, block, units: slot, .. } = manifest.parameters[parameter].storage else { return };
    let units = Units::new(matrix, block);
    let live = arena.words(manifest.parameters[parameter].count)[0] as usize;
    scratch.units.clear();
    scratch.units.extend_from_slice(&arena.words(slot)[..live]);
    for stream in manifest.streams.iter().filter(|stream| stream.parameter == parameter) {
        scratch.tabulate(&units, stream.order);
        scratch.sort_into_lists(&units, stream.order);
        scratch.store(arena, stream);
    }
    refresh_values_with(scratch, manifest, arena, parameter);
}

/// Copies the values of parameter `parameter` into each of its streams that keeps its own: after a change from outside the program.
pub fn refresh_values(manifest: &Manifest, arena: &mut Arena, parameter: usize) {
    refresh_values_with(&mut Scratch::default(), manifest, arena, parameter);
}

fn refresh_values_with(scratch: &mut Scratch, manifest: &Manifest, arena: &mut Arena, parameter: usize) {
    let Storage::Matrix { matrix, block, .. } = manifest.parameters[parameter].storage else { return };
    let elements = Units::new(matrix, block).elements();
    let live = arena.words(manifest.parameters[parameter].count)[0] as usize;
    for stream in manifest.streams.iter().filter(|stream| stream.parameter == parameter) {
        let Some(target) = stream.values else { continue };
        let values = arena.floats(manifest.parameters[parameter].value);
        scratch.values.clear();
        match stream.source {
            Some(source) => {
                for &unit in &arena.words(source)[..live] {
                    let first = unit as usize * elements;
                    scratch.values.extend_from_slice(&values[first..first + elements]);
                }
            }
            None => scratch.values.extend_from_slice(&values[..live * elements]),
        }
        overwrite(arena.floats_mut(target), &scratch.values, 0.0);
    }
}

impl Scratch {
    /// Fills `taps`, one a kernel position.
    fn tabulate(&mut self, units: &Units, order: StreamOrder) {
        let (rows, width) = (units.matrix.kernel_rows, units.matrix.kernel_width);
        let positions = (0..rows).flat_map(|ky| (0..width).map(move |kx| (ky, kx)));
        self.taps.clear();
        match order {
            StreamOrder::Forward { kernel_row, kernel_column, .. } => {
                self.taps.extend(positions.map(|(ky, kx)| Tap { class: 0, offset: ky * kernel_row + kx * kernel_column }));
            }
            StreamOrder::Backward { stride, dilation, padding, first, row, .. } => {
                self.taps.extend(positions.map(|(ky, kx)| {
                    let [(row_class, delta_row), (column_class, delta_column)] =
                        [(0, ky), (1, kx)].map(|(axis, k)| meet(k, stride[axis], dilation[axis], padding[axis]));
                    let offset = (delta_row - first[0]) * row as isize + (delta_column - first[1]);
                    debug_assert!(offset >= 0, "`first` is not the smallest delta");
                    Tap { class: row_class * stride[1] + column_class, offset: offset as usize }
                }));
            }
        }
    }

    /// Fills `starts` and `entries` with the live units, sorted by list and, within a list, by offset (backward) or in mask order (forward).
    fn sort_into_lists(&mut self, units: &Units, order: StreamOrder) {
        let Scratch { units: live, taps, starts, entries, .. } = self;
        let place = |unit: u32| {
            let position = units.position(unit);
            let tap = taps[position.kernel];
            let group = units.group(position.output_block);
            let (list, channel, stride) = match order {
                StreamOrder::Forward { channel, channel_blocks, .. } => {
                    let input = group * units.matrix.inputs_per_group + position.input_block * units.block.columns;
                    let block = position.input_block / units.input_blocks().div_ceil(channel_blocks);
                    (position.output_block * channel_blocks + block, input, channel)
                }
                StreamOrder::Backward { channel, .. } => {
                    let blocks = units.matrix.groups * units.input_blocks();
                    let block = group * units.input_blocks() + position.input_block;
                    (tap.class * blocks + block, position.output_block * units.block.rows, channel)
                }
            };
            (list, (channel * stride + tap.offset) as u32)
        };
        starts.clear();
        starts.resize(list_count(units, order) + 1, 0);
        for &unit in live.iter() {
            starts[place(unit).0 + 1] += 1;
        }
        for list in 1..starts.len() {
            starts[list] += starts[list - 1];
        }
        entries.clear();
        entries.resize(live.len(), (0, 0));
        for (position, &unit) in live.iter().enumerate() {
            let (list, offset) = place(unit);
            entries[starts[list] as usize] = (offset, position as u32);
            starts[list] += 1;
        }
        // Each start has moved to the end of its list: the start of the next.
        starts.rotate_right(1);
        starts[0] = 0;
        if matches!(order, StreamOrder::Backward { .. }) {
            for list in starts.windows(2) {
                entries[list[0] as usize..list[1] as usize].sort_unstable();
            }
        }
    }

    fn store(&self, arena: &mut Arena, stream: &Stream) {
        assert_eq!(stream.starts.len, self.starts.len(), "a stream's starts do not match its lists");
        arena.words_mut(stream.starts).copy_from_slice(&self.starts);
        overwrite_from(arena.words_mut(stream.offsets), self.entries.iter().map(|entry| entry.0));
        if let Some(source) = stream.source {
            overwrite_from(arena.words_mut(source), self.entries.iter().map(|entry| entry.1));
        }
    }
}

/// Lists of a stream: one less than its starts.
pub fn list_count(units: &Units, order: StreamOrder) -> usize {
    match order {
        StreamOrder::Forward { channel_blocks, .. } => units.output_blocks() * channel_blocks,
        StreamOrder::Backward { stride, .. } => stride[0] * stride[1] * units.matrix.groups * units.input_blocks(),
    }
}

/// Parity class and delta at which kernel index `k` meets an input: `class + padding - k * dilation = stride * delta`.
pub fn meet(k: usize, stride: usize, dilation: usize, padding: usize) -> (usize, isize) {
    let reach = (k * dilation) as isize - padding as isize;
    let class = reach.rem_euclid(stride as isize);
    (class as usize, (class - reach) / stride as isize)
}

/// Copies `values` to the front of `slot` and sets the rest to `rest`.
fn overwrite<T: Copy>(slot: &mut [T], values: &[T], rest: T) {
    let (front, back) = slot.split_at_mut(values.len());
    front.copy_from_slice(values);
    back.fill(rest);
}

/// As [`overwrite`], with zeros, from an iterator.
fn overwrite_from(slot: &mut [u32], values: impl ExactSizeIterator<Item = u32>) {
    let (front, back) = slot.split_at_mut(values.len());
    for (place, value) in front.iter_mut().zip(values) {
        *place = value;
    }
    back.fill(0);
}
