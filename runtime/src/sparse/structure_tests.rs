use super::*;
use crate::manifest::{Block, WeightMatrix};
use crate::random::Purpose;
use crate::sparse::Scheme;
use crate::sparse::mask::union;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn matrix(groups: usize, outputs: usize, inputs: usize, kernel: usize) -> WeightMatrix {
    WeightMatrix {
        groups,
        outputs: groups * outputs,
        inputs_per_group: inputs,
        kernel_rows: kernel,
        kernel_width: kernel,
        group_stride: outputs * inputs * kernel * kernel,
        output_stride: inputs * kernel * kernel,
        input_stride: kernel * kernel,
        kernel_stride: 1,
    }
}

fn every_scheme() -> Vec<Scheme> {
    ["unstructured", "block:4x1", "block:2x2", "pattern", "channel", "channel:out", "nm:2:4", "nm:1:8", "fanin"]
        .map(|text| text.parse().unwrap())
        .to_vec()
}

/// Units of any scheme on any shape that it fits, and a density that it can have.
fn units() -> impl Strategy<Value = (Units, f64)> {
    let shape = (1usize..3, 1usize..5, 1usize..4, prop::sample::select(vec![1usize, 3, 5]));
    (shape, prop::sample::select(every_scheme()), 0.02f64..0.7).prop_map(|((groups, outputs, inputs, kernel), scheme, density)| {
        let units = scheme.fit(&matrix(groups, 4 * outputs, 8 * inputs, kernel), Patterns::default()).expect("multiples of 4 and 8");
        (units, scheme.density().unwrap_or(density.min(units.largest_density())))
    })
}

fn scores(units: &Units, seed: u64) -> Vec<f64> {
    let mut draws = Stream::new(seed, Purpose::Synthetic, 1);
    (0..units.count()).map(|_| draws.uniform()).collect()
}

fn of(live: &[u32], scores: &[f64]) -> Vec<f64> {
    live.iter().map(|&unit| scores[unit as usize]).collect()
}

/// Live clusters of each group.
fn held(units: &Units, live: &[u32]) -> Vec<usize> {
    let places: BTreeSet<_> = live.iter().map(|&unit| units.place(unit)).collect();
    let mut held = vec![0; units.groups()];
    places.iter().for_each(|(group, _)| held[*group] += 1);
    held
}

#[test]
fn budgets_are_those_of_the_definition() {
    let units = |scheme: &str, kernel| scheme.parse::<Scheme>().unwrap().fit(&matrix(1, 16, 32, kernel), Patterns::default()).unwrap();
    // 4608 weights: a tenth is 7.2 kernels of 4 cells for each of 16 filters.
    assert_eq!(units("pattern", 3).budget(0.1), 16 * 7 * 4);
    assert_eq!(units("pattern", 3).largest_density(), 4.0 / 9.0);
    assert_eq!((units("pattern", 5).budget(0.1), units("pattern", 5).largest_density()), (16 * 3 * 25, 1.0));
    assert_eq!(units("fanin", 3).budget(0.1), 16 * 29);
    assert_eq!(units("nm:2:4", 3).budget(0.5), 2304);
    // 3.2 channels of 16 x 9 weights, in blocks of 4x1; 1.6 filters of 32 x 9 weights, in blocks of 1x4.
    assert_eq!((units("channel", 3).budget(0.1), units("channel", 3).elements()), (3 * 4 * 9, 4));
    assert_eq!((units("channel:out", 3).budget(0.1), units("channel:out", 3).elements()), (2 * 8 * 9, 4));
    assert_eq!((units("fanin", 3).budget(0.0), units("fanin", 3).budget(1.0)), (16, 4608));
    assert_eq!(units("pattern", 3).grown(1.0), 4608);
}

#[test]
fn a_kernel_takes_the_pattern_of_most_importance_and_stays_in_it() {
    let bump = &Bump::new();
    let units = Scheme::Pattern.fit(&matrix(1, 1, 2, 3), Patterns::default()).unwrap();
    // The first kernel's weight lies in its lower right, the second's in an upward T.
    let mut scores = vec![0.1; 18];
    [4, 5, 7, 8].into_iter().for_each(|cell| scores[cell] = 1.0);
    [1, 3, 4, 5].into_iter().for_each(|cell| scores[9 + cell] = 2.0);
    let all: Vec<u32> = (0..18).collect();
    assert_eq!(units.keep_best(bump, &all, &scores, 8, 8), [4, 5, 7, 8, 10, 12, 13, 14]);
    let first = units.keep_best(bump, &all, &scores, 4, 4);
    assert_eq!(first, [10, 12, 13, 14], "the more important kernel");
    assert_eq!(units.keep_best(bump, first, &[0.0, 0.0, 0.0, 9.0], 4, 4), first);
}

#[test]
fn importance_of_a_channel_is_that_of_its_weights_together() {
    let bump = &Bump::new();
    let units = Scheme::InputChannel.fit(&matrix(1, 4, 8, 1), Patterns::default()).unwrap();
    let all: Vec<u32> = (0..8).collect();
    assert_eq!(units.keep_best(bump, &all, &[1.0, 5.0, 2.0, 8.0, 0.0, 3.0, 7.0, 4.0], 3, 3), [1, 3, 6]);
}

#[test]
fn the_steepest_grow_in_each_group() {
    let bump = &Bump::new();
    let gradient: Vec<f32> = (0..32u8).map(|unit| f32::from(unit.wrapping_mul(37) % 32)).collect();
    let units = Scheme::FanIn.fit(&matrix(1, 4, 8, 1), Patterns::default()).unwrap();
    let kept = [0, 9, 18, 27];
    let mut draws = Stream::new(1, Purpose::Growth, 0);
    let grown = units.steepest(bump, &units.candidates(bump, &kept, 12, 12, Growth::Gradient, &mut draws), &gradient);
    for group in 0..4u32 {
        let mut dead: Vec<u32> = (group * 8..group * 8 + 8).filter(|unit| !kept.contains(unit)).collect();
        dead.sort_by(|&a, &b| gradient[b as usize].total_cmp(&gradient[a as usize]));
        let mut expected = dead[..2].to_vec();
        expected.sort_unstable();
        assert_eq!(grown.iter().copied().filter(|unit| unit / 8 == group).collect::<Vec<_>>(), expected);
    }
    let patterns = Scheme::Pattern.fit(&matrix(1, 1, 4, 3), Patterns::default()).unwrap();
    let mut gradient = vec![0.0; 36];
    [0, 1, 3, 4].into_iter().for_each(|cell| gradient[18 + cell] = 3.0);
    [9 + 3, 9 + 4, 9 + 5, 9 + 7].into_iter().for_each(|cell| gradient[cell] = 2.0);
    let grown = patterns.steepest(bump, &patterns.candidates(bump, &[], 8, 8, Growth::Gradient, &mut draws), &gradient);
    assert_eq!(grown, [12, 13, 14, 16, 18, 19, 21, 22], "a T and an upper left corner");
}

#[test]
fn drawn_candidates_are_as_many_times_as_many() {
    let bump = &Bump::new();
    let units = Scheme::FanIn.fit(&matrix(1, 4, 16, 1), Patterns::default()).unwrap();
    let kept = [0, 16, 32, 48];
    let mut draws = Stream::new(1, Purpose::Growth, 0);
    let candidates = units.candidates(bump, &kept, 12, 12, Growth::Random(3), &mut draws);
    assert_eq!(units.units_of(bump, &candidates).len(), 4 * 2 * 3);
    assert!(units.units_of(bump, &candidates).iter().all(|unit| !kept.contains(unit)));
    let gradient: Vec<f32> = (0..64u8).map(f32::from).collect();
    let grown = units.steepest(bump, &candidates, &gradient);
    assert_eq!(held(&units, grown), [2; 4]);
    let of_group =
        |group: u32| units.units_of(bump, &candidates).iter().copied().filter(move |unit| unit / 16 == group).collect::<Vec<_>>();
    assert!((0..4).all(|group| of_group(group)[4..].iter().all(|unit| grown.contains(unit))), "those of largest gradient");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn clusters_partition_the_units((units, _) in units()) {
        let clusters = (0..units.groups()).flat_map(|group| (0..units.group_size()).map(move |number| (group, number)));
        let mut all = vec![];
        for (group, number) in clusters {
            let members: Vec<u32> = units.members(Cluster { group: group as u32, number: number as u32, pattern: 0 }).collect();
            prop_assert!(members.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(members.iter().all(|&unit| units.place(unit) == (group, number)));
            prop_assert!(units.library().is_some() || members.len() == units.cluster_units());
            all.extend(members);
        }
        all.sort_unstable();
        prop_assert_eq!(all, (0..units.count() as u32).collect::<Vec<_>>());
    }

    #[test]
    fn masks_obey_their_scheme_whatever_happens((units, density) in units(), drop in 0.0f64..0.9, excess in 0.0f64..0.3, seed: u64, times in 1usize..4) {
        let bump = &Bump::new();
        let (budget, scores) = (units.budget(density), scores(&units, seed));
        let mut draws = Stream::new(seed, Purpose::Growth, 0);
        let all: Vec<u32> = (0..units.count() as u32).collect();
        let by_magnitude = units.keep_best(bump, &all, &scores, budget, budget);
        let at_random = units.units_of(bump, &units.candidates(bump, &[], budget, budget, Growth::Random(1), &mut draws));
        for live in [by_magnitude, at_random] {
            prop_assert_eq!(live.len(), budget);
            prop_assert!(units.allows(live, true));
            // Within the budget.
            let keep = budget - (drop * budget as f64) as usize;
            let kept = units.keep_best(bump, live, &of(live, &scores), keep, budget);
            prop_assert!(kept.iter().all(|unit| live.contains(unit)) && units.allows(kept, false));
            prop_assert!(kept.len().abs_diff(keep) <= units.cluster_units());
            let candidates = units.candidates(bump, kept, budget, budget, Growth::Random(times), &mut draws);
            let gradient: Vec<f32> = scores.iter().flat_map(|&score| std::iter::repeat_n(score as f32, units.elements())).collect();
            let grown = units.steepest(bump, &candidates, &gradient);
            prop_assert!(grown.iter().all(|unit| !kept.contains(unit)));
            let whole = union(bump, kept, grown);
            prop_assert_eq!(whole.len(), budget);
            prop_assert!(units.allows(whole, true));
            // Above it, and back.
            let soft = units.grown(density + excess).max(budget);
            let grown = units.steepest(bump, &units.candidates(bump, whole, soft, budget, Growth::Random(1), &mut draws), &[]);
            let above = union(bump, whole, grown);
            prop_assert!(units.allows(above, false) && above.len() <= soft);
            let counts = held(&units, above);
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "evenly");
            let back = units.keep_best(bump, above, &of(above, &scores), budget, budget);
            prop_assert_eq!(back.len(), budget);
            prop_assert!(units.allows(back, true));
        }
    }

    #[test]
    fn what_a_scheme_forbids_is_told((units, density) in units(), seed: u64) {
        let bump = &Bump::new();
        prop_assume!(units.structure != Structure::Free && units.cluster_units() > 1);
        let mut draws = Stream::new(seed, Purpose::Growth, 0);
        let budget = units.budget(density);
        let mut live = units.units_of(bump, &units.candidates(bump, &[], budget, budget, Growth::Random(1), &mut draws)).to_vec();
        live.remove(draws.below(live.len()));
        prop_assert!(!units.allows(&live, false), "half a cluster");
    }
}

#[test]
fn blocks_of_channels_are_those_that_tiles_compute() {
    let block = |scheme: Scheme, outputs, inputs| scheme.fit(&matrix(1, outputs, inputs, 3), Patterns::default()).unwrap().block;
    assert_eq!(block(Scheme::InputChannel, 8, 3), Block { rows: 4, columns: 1 });
    assert_eq!(block(Scheme::InputChannel, 7, 4), Block { rows: 1, columns: 1 });
    assert_eq!(block(Scheme::OutputChannel, 7, 6), Block { rows: 1, columns: 2 });
}
