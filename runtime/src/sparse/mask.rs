//! Masks: arithmetic of units, and the two choices that a topology update makes - which units to drop, which to grow - where any set of units
//! may live; [`super::structure`] makes them elsewhere.
//!
//! A mask is the ascending list of its live units. Choices are made, and live, in memory that the caller hands in and reuses.

#[cfg(not(feature = "std"))]
use crate::float::Float as _;
use crate::manifest::{Block, Structure, WeightMatrix};
use crate::random::Stream;
use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;

/// The units of a weight matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    /// The weight.
    pub matrix: WeightMatrix,
    /// Extents of a unit.
    pub block: Block,
    /// Which sets of them a mask may hold.
    pub structure: Structure,
}

/// Where a unit lies in its weight matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitPosition {
    /// Block of outputs, counted over all groups.
    pub output_block: usize,
    /// Block of input channels, within its group.
    pub input_block: usize,
    /// Kernel position: ky * kernel_width + kx.
    pub kernel: usize,
}

impl Units {
    /// The units of `matrix` with extents `block`, which must divide it (see [`super::Scheme::fit`]).
    pub fn new(matrix: WeightMatrix, block: Block) -> Self {
        Units { matrix, block, structure: Structure::Free }
    }

    /// The same units, in masks of this structure.
    pub fn structured(self, structure: Structure) -> Self {
        Units { structure, ..self }
    }

    /// Weights of the matrix.
    pub fn weights(&self) -> usize {
        self.matrix.outputs * self.matrix.inputs_per_group * self.kernel_positions()
    }

    /// Weights of a unit.
    pub fn elements(&self) -> usize {
        self.block.rows * self.block.columns
    }

    /// Units of the matrix.
    pub fn count(&self) -> usize {
        self.weights() / self.elements()
    }

    /// Positions of the kernel.
    pub fn kernel_positions(&self) -> usize {
        self.matrix.kernel_rows * self.matrix.kernel_width
    }

    /// Blocks of outputs, over all groups.
    pub fn output_blocks(&self) -> usize {
        self.matrix.outputs / self.block.rows
    }

    /// Blocks of input channels that one output sees.
    pub fn input_blocks(&self) -> usize {
        self.matrix.inputs_per_group / self.block.columns
    }

    /// Where `unit` lies.
    pub fn position(&self, unit: u32) -> UnitPosition {
        let unit = unit as usize;
        let (blocks, kernel) = (unit / self.kernel_positions(), unit % self.kernel_positions());
        UnitPosition { output_block: blocks / self.input_blocks(), input_block: blocks % self.input_blocks(), kernel }
    }

    /// The group that an output block belongs to.
    pub fn group(&self, output_block: usize) -> usize {
        output_block / (self.output_blocks() / self.matrix.groups)
    }

    /// Indices into the ONNX tensor of `unit`'s weights, in the order of its values: `[R][C]`.
    pub fn onnx_indices(&self, unit: u32) -> impl Iterator<Item = usize> + use<> {
        let UnitPosition { output_block, input_block, kernel } = self.position(unit);
        let (matrix, block) = (self.matrix, self.block);
        let per_group = self.output_blocks() / matrix.groups;
        let first = output_block / per_group * matrix.group_stride
            + output_block % per_group * block.rows * matrix.output_stride
            + input_block * block.columns * matrix.input_stride
            + kernel * matrix.kernel_stride;
        (0..block.rows)
            .flat_map(move |row| (0..block.columns).map(move |column| first + row * matrix.output_stride + column * matrix.input_stride))
    }
}

/// Importance of each unit: |w| + lambda |g| of a single weight, the L2 norm of those of a block.
///
/// `values` and `gradients` are `[unit][element]`; an empty `gradients` counts as zero. Not-a-number counts as most important: it must
/// surface in the loss, not vanish from the mask.
pub fn importance<'b>(bump: &'b Bump, values: &[f32], gradients: &[f32], lambda: f64, elements: usize) -> &'b [f64] {
    let score = |index: usize| {
        let gradient = gradients.get(index).map_or(0.0, |&g| f64::from(g.abs()));
        f64::from(values[index].abs()) + lambda * gradient
    };
    let of_unit = |unit: usize| match elements {
        1 => score(unit),
        _ => (unit * elements..(unit + 1) * elements).map(|i| score(i) * score(i)).sum::<f64>().sqrt(),
    };
    let finite = |unit: usize| Some(of_unit(unit)).filter(|score| !score.is_nan()).unwrap_or(f64::INFINITY);
    bump.alloc_slice_fill_with(values.len() / elements, finite)
}

/// The `keep` most important of `live` units, ascending; of equals the one with the smaller index stays. `scores` has one entry a live unit.
pub fn keep_best<'b>(bump: &'b Bump, live: &[u32], scores: &[f64], keep: usize) -> &'b [u32] {
    if keep >= live.len() {
        return bump.alloc_slice_copy(live);
    }
    let ranked = bump.alloc_slice_fill_with(live.len(), |position| position as u32);
    if keep > 0 {
        ranked.select_nth_unstable_by(keep - 1, |&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)));
    }
    let kept = &mut ranked[..keep];
    kept.sort_unstable();
    kept.iter_mut().for_each(|position| *position = live[*position as usize]);
    kept
}

/// The units below `count` that are not in `live`, ascending.
pub fn dead<'b>(bump: &'b Bump, live: &[u32], count: usize) -> &'b [u32] {
    let mut dead = BumpVec::with_capacity_in(count - live.len(), bump);
    let mut next = 0;
    for &unit in live {
        dead.extend(next..unit);
        next = unit + 1;
    }
    dead.extend(next..count as u32);
    dead.into_bump_slice()
}

/// `grow` of the units below `count` that are not in `live`, every subset equally likely (all of them if fewer are dead), ascending.
///
/// Floyd's algorithm over ranks among the dead: one draw a unit, whatever the density, and one bit of memory a dead unit.
pub fn grow<'b>(bump: &'b Bump, live: &[u32], count: usize, grow: usize, stream: &mut Stream) -> &'b [u32] {
    let dead = count - live.len();
    let grow = grow.min(dead);
    let chosen = bump.alloc_slice_fill_copy(dead.div_ceil(64), 0u64);
    for last in dead - grow..dead {
        let rank = stream.below(last + 1);
        let taken = chosen[rank / 64] >> (rank % 64) & 1 == 1;
        let rank = if taken { last } else { rank };
        chosen[rank / 64] |= 1 << (rank % 64);
    }
    let mut grown = BumpVec::with_capacity_in(grow, bump);
    let mut before = 0;
    for (word, &mut bits) in chosen.iter_mut().enumerate() {
        let mut bits = bits;
        while bits != 0 {
            let rank = word * 64 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            // The unit of rank r is r plus the number of live units before it.
            while before < live.len() && live[before] as usize <= rank + before {
                before += 1;
            }
            grown.push((rank + before) as u32);
        }
    }
    grown.into_bump_slice()
}

/// The units of either of two disjoint ascending lists, ascending.
pub fn union<'b>(bump: &'b Bump, a: &[u32], b: &[u32]) -> &'b [u32] {
    let mut merged = BumpVec::with_capacity_in(a.len() + b.len(), bump);
    let (mut left, mut right) = (a.iter().peekable(), b.iter().peekable());
    while let (Some(&&x), Some(&&y)) = (left.peek(), right.peek()) {
        merged.push(x.min(y));
        if x < y {
            left.next();
        } else {
            right.next();
        }
    }
    merged.extend(left);
    merged.extend(right);
    merged.into_bump_slice()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn units(groups: usize, outputs: usize, inputs: usize, kernel: [usize; 2], block: [usize; 2]) -> Units {
        let positions = kernel[0] * kernel[1];
        let matrix = WeightMatrix {
            groups,
            outputs,
            inputs_per_group: inputs,
            kernel_rows: kernel[0],
            kernel_width: kernel[1],
            group_stride: outputs / groups * inputs * positions,
            output_stride: inputs * positions,
            input_stride: positions,
            kernel_stride: 1,
        };
        Units::new(matrix, Block { rows: block[0], columns: block[1] })
    }

    #[test]
    fn indices_of_a_block() {
        // 8 outputs in 2 groups, 4 inputs a group, 1x3 kernel, 2x2 blocks.
        let units = units(2, 8, 4, [1, 3], [2, 2]);
        assert_eq!((units.weights(), units.elements(), units.count()), (96, 4, 24));
        let unit = (3 * 2 + 1) * 3 + 2;
        assert_eq!(units.position(unit), UnitPosition { output_block: 3, input_block: 1, kernel: 2 });
        assert_eq!(units.group(3), 1);
        assert_eq!(units.onnx_indices(unit).collect::<Vec<_>>(), [80, 83, 92, 95]);
    }

    #[test]
    fn budget_is_exact() {
        let plain = units(1, 128, 128, [3, 3], [1, 1]);
        assert_eq!(plain.budget(0.1), 14746, "147456 weights");
        assert_eq!(units(1, 128, 128, [3, 3], [4, 1]).budget(0.1), 3686);
        assert_eq!((plain.budget(0.0), plain.budget(1.0), plain.budget(7.0)), (1, 147_456, 147_456));
    }

    #[test]
    fn importance_by_scheme() {
        let bump = &Bump::new();
        assert_eq!(importance(bump, &[-3.0, 2.0], &[1.0, -4.0], 0.5, 1), [3.5, 4.0]);
        assert_eq!(importance(bump, &[3.0, -4.0, 0.0, 1.0], &[], 9.0, 2), [5.0, 1.0]);
        assert_eq!(importance(bump, &[f32::NAN, 1.0], &[], 0.0, 1), [f64::INFINITY, 1.0]);
    }

    #[test]
    fn ties_are_broken_by_index() {
        let bump = &Bump::new();
        assert_eq!(keep_best(bump, &[2, 5, 7, 9], &[1.0, 3.0, 1.0, 1.0], 2), [2, 5]);
        assert_eq!(keep_best(bump, &[2, 5], &[0.0, 0.0], 0), [0u32; 0]);
        assert_eq!(keep_best(bump, &[2, 5], &[0.0, 0.0], 8), [2, 5]);
    }

    #[test]
    fn growth_is_uniform_over_the_dead() {
        let live = [0, 3, 4, 10, 63, 64, 99];
        let (count, take, events) = (100, 13, 20_000);
        let mut grown = vec![0u32; count];
        let mut bump = Bump::new();
        for event in 0..events {
            bump.reset();
            for &unit in grow(&bump, &live, count, take, &mut Stream::new(1, Purpose::Growth, event)) {
                grown[unit as usize] += 1;
            }
        }
        assert!(live.iter().all(|&unit| grown[unit as usize] == 0));
        let expected = f64::from(take as u32) * events as f64 / (count - live.len()) as f64;
        let chi_square: f64 = grown.iter().filter(|&&g| g > 0).map(|&g| (f64::from(g) - expected).powi(2) / expected).sum();
        // 92 degrees of freedom, less variance for drawing without replacement: 99.999 % below 164.
        assert!(chi_square < 164.0, "{chi_square}");
        assert!(grown.iter().filter(|&&g| g > 0).count() == count - live.len());
    }

    proptest! {
        #[test]
        fn units_partition_the_tensor(groups in 1usize..4, o in 1usize..4, i in 1usize..4, ky in 1usize..4, kx in 1usize..4, r in 0usize..3, c in 0usize..3) {
            let block = [1 << r, 1 << c];
            let units = units(groups, groups * o * block[0], i * block[1], [ky, kx], block);
            let mut indices: Vec<usize> = (0..units.count() as u32).flat_map(|unit| units.onnx_indices(unit)).collect();
            indices.sort_unstable();
            prop_assert_eq!(indices, (0..units.weights()).collect::<Vec<_>>());
        }

        #[test]
        fn grown_units_were_dead(live in prop::collection::btree_set(0u32..300, 0..300), extra in 0usize..320, seed: u64) {
            let live: Vec<u32> = live.into_iter().collect();
            let bump = &Bump::new();
            let grown = grow(bump, &live, 300, extra, &mut Stream::new(seed, Purpose::Growth, 0));
            prop_assert_eq!(grown.len(), extra.min(300 - live.len()));
            let merged = union(bump, &live, grown);
            prop_assert!(merged.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(merged.len(), live.len() + grown.len());
            prop_assert!(merged.iter().all(|&unit| unit < 300));
            prop_assert_eq!(union(bump, &live, dead(bump, &live, 300)), (0..300).collect::<Vec<_>>());
        }

        #[test]
        fn kept_units_are_the_best(scores in prop::collection::vec(0u8..6, 1..60), keep in 0usize..70) {
            let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
            let live: Vec<u32> = (0..scores.len() as u32).map(|unit| unit * 3).collect();
            let kept: BTreeSet<u32> = keep_best(&Bump::new(), &live, &scores, keep).iter().copied().collect();
            prop_assert_eq!(kept.len(), keep.min(live.len()));
            for (a, unit) in live.iter().enumerate().filter(|(_, unit)| kept.contains(unit)) {
                for (b, other) in live.iter().enumerate().filter(|(_, unit)| !kept.contains(unit)) {
                    prop_assert!(scores[a] > scores[b] || (scores[a] == scores[b] && unit < other));
                }
            }
        }
    }
}
