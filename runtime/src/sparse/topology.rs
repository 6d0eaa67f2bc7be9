//! Topologies: the offset streams that kernels follow, rebuilt from the live units whenever a mask changes.
//!
//! What lists and offsets mean is said at [`StreamOrder`]. Both orders have one form: a unit's list depends on its blocks and class, its offset is
//! `channel * stride + tap`, where class and tap depend on the kernel position alone. So a rebuild is a table of kernel positions and one
//! counting sort.

use super::mask::Units;
use super::state;
use crate::arena::Arena;
use crate::manifest::{Manifest, Storage, Stream, StreamOrder};
use bumpalo::Bump;

/// What a kernel position contributes to list and offset.
#[derive(Clone, Copy, Debug)]
struct Tap {
    class: usize,
    offset: usize,
}

/// Rebuilds every stream of parameter `parameter` from its live units: starts, offsets, source and values.
pub fn rebuild(manifest: &Manifest, arena: &mut Arena, parameter: usize) {
    rebuild_within(&Bump::new(), manifest, arena, parameter);
}

/// [`rebuild`], in memory that is reused.
///
/// # Panics
/// Slots of a stream are too small for the parameter's capacity: the manifest contradicts itself.
pub(crate) fn rebuild_within(bump: &Bump, manifest: &Manifest, arena: &mut Arena, parameter: usize) {
    let Storage::Matrix { matrix, block, .. } = manifest.parameters[parameter].storage else { return };
    let units = Units::new(matrix, block);
    for stream in manifest.streams.iter().filter(|stream| stream.parameter == parameter) {
        let (starts, entries) = lists(bump, &units, state::live_units(manifest, arena, parameter), stream.order);
        assert_eq!(stream.starts.len, starts.len(), "a stream's starts do not match its lists");
        arena.words_mut(stream.starts).copy_from_slice(starts);
        overwrite(arena.words_mut(stream.offsets), entries.iter().map(|entry| entry.0), 0);
        if let Some(source) = stream.source {
            overwrite(arena.words_mut(source), entries.iter().map(|entry| entry.1), 0);
        }
    }
    refresh_values_within(bump, manifest, arena, parameter);
}

/// Bytes that rebuilding the streams of parameter `parameter` takes at most.
pub(crate) fn rebuild_bytes(manifest: &Manifest, parameter: usize) -> usize {
    let Storage::Matrix { matrix, block, capacity, .. } = manifest.parameters[parameter].storage else { return 0 };
    let units = Units::new(matrix, block);
    let of_stream = |stream: &Stream| {
        let values = if stream.values.is_some() { 4 * capacity * units.elements() } else { 0 };
        size_of::<Tap>() * units.kernel_positions() + 4 * stream.starts.len + size_of::<(u32, u32)>() * capacity + values + 64
    };
    manifest.streams.iter().filter(|stream| stream.parameter == parameter).map(of_stream).sum()
}

/// Copies the values of parameter `parameter` into each of its streams that keeps its own: after a change from outside the program.
pub fn refresh_values(manifest: &Manifest, arena: &mut Arena, parameter: usize) {
    refresh_values_within(&Bump::new(), manifest, arena, parameter);
}

/// [`refresh_values`], in memory that is reused.
pub(crate) fn refresh_values_within(bump: &Bump, manifest: &Manifest, arena: &mut Arena, parameter: usize) {
    let Storage::Matrix { matrix, block, .. } = manifest.parameters[parameter].storage else { return };
    let elements = Units::new(matrix, block).elements();
    let live = state::live_units(manifest, arena, parameter).len();
    for stream in manifest.streams.iter().filter(|stream| stream.parameter == parameter) {
        let Some(target) = stream.values else { continue };
        let values = arena.floats(manifest.parameters[parameter].value);
        let ordered = match stream.source {
            Some(source) => {
                let ordered = bump.alloc_slice_fill_copy(live * elements, 0.0);
                for (unit, &from) in ordered.chunks_exact_mut(elements).zip(arena.words(source)) {
                    unit.copy_from_slice(&values[from as usize * elements..][..elements]);
                }
                ordered
            }
            None => bump.alloc_slice_copy(&values[..live * elements]),
        };
        overwrite(arena.floats_mut(target), ordered.iter().copied(), 0.0);
    }
}

/// What each kernel position contributes.
fn tabulate<'b>(bump: &'b Bump, units: &Units, order: StreamOrder) -> &'b [Tap] {
    let width = units.matrix.kernel_width;
    bump.alloc_slice_fill_with(units.kernel_positions(), |position| {
        let (ky, kx) = (position / width, position % width);
        match order {
            StreamOrder::Forward { kernel_row, kernel_column, .. } => Tap { class: 0, offset: ky * kernel_row + kx * kernel_column },
            StreamOrder::Backward { stride, dilation, padding, first, row, .. } => {
                let [(row_class, delta_row), (column_class, delta_column)] =
                    [(0, ky), (1, kx)].map(|(axis, k)| meet(k, stride[axis], dilation[axis], padding[axis]));
                let offset = (delta_row - first[0]) * row as isize + (delta_column - first[1]);
                debug_assert!(offset >= 0, "`first` is not the smallest delta");
                Tap { class: row_class * stride[1] + column_class, offset: offset as usize }
            }
        }
    })
}

/// Starts of the lists, and (offset, position in mask order) of the live units, list after list; within one by offset (backward) or in mask
/// order (forward).
fn lists<'b>(bump: &'b Bump, units: &Units, live: &[u32], order: StreamOrder) -> (&'b [u32], &'b [(u32, u32)]) {
    let taps = tabulate(bump, units, order);
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
    let starts = bump.alloc_slice_fill_copy(list_count(units, order) + 1, 0u32);
    for &unit in live {
        starts[place(unit).0 + 1] += 1;
    }
    for list in 1..starts.len() {
        starts[list] += starts[list - 1];
    }
    let entries = bump.alloc_slice_fill_copy(live.len(), (0u32, 0u32));
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
    (starts, entries)
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
fn overwrite<T: Copy>(slot: &mut [T], values: impl ExactSizeIterator<Item = T>, rest: T) {
    let (front, back) = slot.split_at_mut(values.len());
    for (place, value) in front.iter_mut().zip(values) {
        *place = value;
    }
    back.fill(rest);
}
