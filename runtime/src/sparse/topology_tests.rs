//! Walking the streams must visit exactly what the definition of convolution says: every triple (output pixel, input pixel, weight), once.

use super::fixture::{Builder, Geometry};
use super::mask::grow;
use super::{Bump, state};
use crate::arena::Arena;
use crate::manifest::{Manifest, StreamOrder, Structure};
use crate::random::{Purpose, Stream};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// (output channel, row, column), (input channel, row, column), index into the ONNX tensor.
type Triple = ([usize; 3], [usize; 3], usize);

/// The definition: every weight of every live unit at every output pixel whose input lies inside the plane.
fn by_definition(g: &Geometry, live: &[u32]) -> BTreeMap<Triple, usize> {
    let units = g.units();
    let alive: std::collections::BTreeSet<usize> = live.iter().flat_map(|&unit| units.onnx_indices(unit)).collect();
    let (kernel, mut triples) = (g.kernel[0] * g.kernel[1], BTreeMap::new());
    for &weight in &alive {
        let (o, i) = (weight / (g.inputs_per_group * kernel), weight / kernel % g.inputs_per_group);
        let (ky, kx) = (weight % kernel / g.kernel[1], weight % g.kernel[1]);
        let channel = o / (g.outputs / g.groups) * g.inputs_per_group + i;
        for (oy, ox) in (0..g.output(0)).flat_map(|oy| (0..g.output(1)).map(move |ox| (oy, ox))) {
            let y = (oy * g.stride[0] + ky * g.dilation[0]).checked_sub(g.padding[0]).filter(|&y| y < g.input[0]);
            let x = (ox * g.stride[1] + kx * g.dilation[1]).checked_sub(g.padding[1]).filter(|&x| x < g.input[1]);
            if let (Some(y), Some(x)) = (y, x) {
                *triples.entry(([o, oy, ox], [channel, y, x], weight)).or_insert(0) += 1;
            }
        }
    }
    triples
}

/// As the forward tile walks: lists are block rows, offsets reach into the padded input from the output pixel's corner.
fn by_forward_stream(g: &Geometry, manifest: &Manifest, arena: &Arena) -> BTreeMap<Triple, usize> {
    let stream = &manifest.streams[0];
    let (starts, offsets, live) = (arena.words(stream.starts), arena.words(stream.offsets), state::mask(manifest, arena, 0));
    let (units, width, mut triples) = (g.units(), g.staged_width(), BTreeMap::new());
    let lists = (starts.len() - 1) / units.output_blocks();
    for (list, range) in starts.windows(2).enumerate().map(|(list, range)| (list / lists, range)) {
        for position in range[0] as usize..range[1] as usize {
            for (element, weight) in units.onnx_indices(live[position]).enumerate() {
                let (row, column) = (element / g.block[1], element % g.block[1]);
                for (oy, ox) in (0..g.output(0)).flat_map(|oy| (0..g.output(1)).map(move |ox| (oy, ox))) {
                    let corner = (oy * g.stride[0] * g.channels()) * width + ox * g.stride[1];
                    let address = corner + offsets[position] as usize + column * width;
                    let (y, channel, x) = (address / (width * g.channels()), address / width % g.channels(), address % width);
                    let inside = |at: usize, axis: usize| at.checked_sub(g.padding[axis]).filter(|&at| at < g.input[axis]);
                    if let (Some(y), Some(x)) = (inside(y, 0), inside(x, 1)) {
                        *triples.entry(([list * g.block[0] + row, oy, ox], [channel, y, x], weight)).or_insert(0) += 1;
                    }
                }
            }
        }
    }
    triples
}

/// As the backward sweep walks: lists are (parity class, block column), offsets reach into the staged output gradient.
fn by_backward_stream(g: &Geometry, manifest: &Manifest, arena: &Arena) -> BTreeMap<Triple, usize> {
    let stream = &manifest.streams[1];
    let StreamOrder::Backward { first, row, channel, .. } = stream.order else { panic!("the second stream is the backward one") };
    let (starts, offsets) = (arena.words(stream.starts), arena.words(stream.offsets));
    let (source, live) = (arena.words(stream.source.expect("permuted")), state::mask(manifest, arena, 0));
    let (units, blocks, mut triples) = (g.units(), g.channels() / g.block[1], BTreeMap::new());
    for (list, range) in starts.windows(2).enumerate() {
        let (class, block) = (list / blocks, list % blocks);
        for position in range[0] as usize..range[1] as usize {
            for (element, weight) in units.onnx_indices(live[source[position] as usize]).enumerate() {
                let (r, c) = (element / g.block[1], element % g.block[1]);
                let offset = offsets[position] as usize + r * channel;
                let output = offset % row / channel;
                let delta = [(offset / row) as isize + first[0], (offset % channel) as isize + first[1]];
                let classes = [class / g.stride[1], class % g.stride[1]];
                for (y, x) in (0..g.input[0]).flat_map(|y| (0..g.input[1]).map(move |x| (y, x))) {
                    let meets = |at: usize, axis: usize| {
                        let j = (at % g.stride[axis] == classes[axis]).then_some((at / g.stride[axis]) as isize)?;
                        usize::try_from(j + delta[axis]).ok().filter(|&out| out < g.output(axis))
                    };
                    if let (Some(oy), Some(ox)) = (meets(y, 0), meets(x, 1)) {
                        *triples.entry(([output, oy, ox], [block * g.block[1] + c, y, x], weight)).or_insert(0) += 1;
                    }
                }
            }
        }
    }
    triples
}

fn geometry() -> impl Strategy<Value = Geometry> {
    let pair = |low: usize, high: usize| [low..high, low..high];
    let shape = (1usize..4, 1usize..4, 1usize..3, pair(1, 4), pair(1, 5), pair(1, 3));
    (shape, [0usize..3, 0..3, 0..3, 0..3], pair(1, 6), (0usize..3, 0usize..2)).prop_map(
        |((groups, outputs, inputs, kernel, stride, dilation), padding, extra, (rows, columns))| {
            let block = [1 << rows, 1 << columns];
            let reach = |axis: usize| dilation[axis] * (kernel[axis] - 1) + extra[axis];
            Geometry {
                groups,
                outputs: groups * outputs * block[0],
                inputs_per_group: inputs * block[1],
                kernel,
                stride,
                dilation,
                padding,
                input: [reach(0), reach(1)],
                block,
                structure: Structure::Free,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn streams_reproduce_the_convolution(g in geometry(), density in 0.05f64..1.0, seed: u64) {
        let (manifest, mut arena) = Builder::default().convolution("w", g, Some(density), density, 1).build();
        state::initialize(&manifest, &mut arena, &state::InitialMasks::Random, seed).expect("fits");
        let live = state::mask(&manifest, &arena, 0);
        prop_assert_eq!(live.len(), g.units().budget(density));
        let expected = by_definition(&g, &live);
        prop_assert!(expected.values().all(|&times| times == 1));
        prop_assert!(by_forward_stream(&g, &manifest, &arena) == expected);
        prop_assert!(by_backward_stream(&g, &manifest, &arena) == expected);
    }

    #[test]
    fn streams_are_sorted_and_carry_values(g in geometry(), density in 0.05f64..1.0, seed: u64) {
        let (manifest, mut arena) = Builder::default().convolution("w", g, Some(density), 1.0, 0).build();
        state::initialize(&manifest, &mut arena, &state::InitialMasks::Magnitude, seed).expect("fits");
        let units = g.units();
        let bump = Bump::new();
        let live = grow(&bump, &[], units.count(), units.budget(density) / 2 + 1, &mut Stream::new(seed, Purpose::Growth, 0));
        state::set_mask(&manifest, &mut arena, 0, live).expect("fits");
        let (forward, backward) = (&manifest.streams[0], &manifest.streams[1]);
        prop_assert_eq!(arena.words(forward.starts).last().copied(), Some(live.len() as u32));
        prop_assert_eq!(arena.words(backward.starts).last().copied(), Some(live.len() as u32));
        let (starts, offsets) = (arena.words(backward.starts), arena.words(backward.offsets));
        let sorted = |list: &[u32]| offsets[list[0] as usize..list[1] as usize].windows(2).all(|pair| pair[0] < pair[1]);
        prop_assert!(starts.windows(2).all(sorted));
        let (source, elements) = (arena.words(backward.source.expect("permuted")), units.elements());
        let (values, copies) = (arena.floats(manifest.parameters[0].value), arena.floats(backward.values.expect("copied")));
        for (position, &unit) in source[..live.len()].iter().enumerate() {
            let unit = unit as usize;
            prop_assert_eq!(&copies[position * elements..][..elements], &values[unit * elements..][..elements]);
        }
        prop_assert!(copies[live.len() * elements..].iter().all(|&copy| copy == 0.0));
    }
}
