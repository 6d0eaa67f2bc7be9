use super::*;
use crate::lanes::math::narrowed;
use crate::manifest::Patterns;
use crate::mutation::{Decay, Span, policy};
use crate::sparse::Scheme;
use crate::sparse::fixture::{Builder, Geometry};
use proptest::prelude::*;
use std::collections::BTreeSet;

const EPOCHS: usize = 16;
const LAYERS: [&str; 2] = ["a.weight", "b.weight"];

fn at(epoch: usize) -> Progress {
    Progress { epoch, epochs: EPOCHS, iteration: epoch * 10, iterations: EPOCHS * 10 }
}

fn config(name: &str) -> MutationConfig {
    MutationConfig::new(policy(name).expect("exists"))
}

/// Two sparse layers beside a dense one and a bias, initialised as the policy says.
fn network(config: &MutationConfig, block: [usize; 2], density: f64, moments: usize, seed: u64) -> (Manifest, Arena) {
    network_of(Builder::default(), config, block, density, moments, seed)
}

fn network_of(builder: Builder, config: &MutationConfig, block: [usize; 2], density: f64, moments: usize, seed: u64) -> (Manifest, Arena) {
    let layer = |inputs, outputs| Geometry::three_by_three(inputs, outputs, block);
    let peak = config.capacity_density(density);
    let (manifest, mut arena) = builder
        .convolution("stem.weight", layer(4, 8), None, 1.0, moments)
        .convolution(LAYERS[0], layer(8, 16), Some(density), peak, moments)
        .plain("bias", 16, moments)
        .convolution(LAYERS[1], layer(16, 16), Some(density), peak, moments)
        .build();
    state::initialize(&manifest, &mut arena, &config.policy.initial_masks(), seed).expect("fits");
    (manifest, arena)
}

/// Stands for training: new values and moments for every live weight.
fn train(manifest: &Manifest, arena: &mut Arena, epoch: usize) {
    train_by(manifest, arena, epoch, 1.0);
}

/// As [`train`], with steps that may be large beside what weights begin with.
fn train_by(manifest: &Manifest, arena: &mut Arena, epoch: usize, step: f32) {
    for (index, parameter) in manifest.parameters.iter().enumerate() {
        let mut draws = Stream::of_item(99, Purpose::Synthetic, epoch as u64, index as u32);
        let live = match parameter.storage {
            Storage::Plain => parameter.value.len,
            Storage::Matrix { block, .. } => arena.words(parameter.count)[0] as usize * block.rows * block.columns,
        };
        for slot in std::iter::once(&parameter.value).chain(parameter.moments.iter()) {
            let mut change = || step * (draws.uniform() as f32 - 0.5);
            match slot.element {
                Element::Bf16 => arena.halves_mut(*slot)[..live].iter_mut().for_each(|half| *half = narrowed(widened(*half) + change())),
                _ => arena.floats_mut(*slot)[..live].iter_mut().for_each(|value| *value += change()),
            }
        }
    }
}

/// Stands for gradients of all weights of both layers.
fn gradients(manifest: &Manifest, epoch: usize) -> DenseGradients {
    let of = |index: usize| {
        let mut draws = Stream::of_item(98, Purpose::Synthetic, epoch as u64, index as u32);
        let weights = manifest.parameters[index].dims.iter().product();
        (index, (0..weights).map(|_| draws.uniform() as f32 - 0.5).collect())
    };
    DenseGradients { layers: vec![of(1), of(3)] }
}

/// Two layers of a scheme, initialised as the policy says.
fn schemed(config: &MutationConfig, scheme: Scheme, density: f64, seed: u64) -> (Manifest, Arena) {
    let layer = |inputs, outputs| {
        let plain = Geometry::three_by_three(inputs, outputs, [1, 1]);
        let Units { block, structure, .. } = scheme.fit(&plain.units().matrix, Patterns::default()).expect("it fits");
        Geometry { block: [block.rows, block.columns], structure, ..plain }
    };
    let peak = config.capacity_density(density);
    let builder = Builder::default().convolution(LAYERS[0], layer(8, 16), Some(density), peak, 1);
    let (manifest, mut arena) = builder.convolution(LAYERS[1], layer(16, 8), Some(density), peak, 1).build();
    state::initialize(&manifest, &mut arena, &config.policy.initial_masks(), seed).expect("fits");
    (manifest, arena)
}

/// The schemes beside those that leave every set of units free, and a density that each can have.
const STRUCTURED: [(&str, f64); 6] =
    [("pattern", 0.2), ("channel", 0.3), ("channel:out", 0.3), ("nm:2:8", 0.25), ("nm:1:4", 0.25), ("fanin", 0.1)];

fn units_of(parameter: &Parameter) -> Units {
    let Storage::Matrix { matrix, block, structure, .. } = parameter.storage else { unreachable!("a weight") };
    Units::new(matrix, block).structured(structure)
}

/// Stands for gradients of all weights of all sparse layers.
fn gradients_of(manifest: &Manifest, layers: &[usize], epoch: usize) -> DenseGradients {
    let of = |&index: &usize| {
        let mut draws = Stream::of_item(98, Purpose::Synthetic, epoch as u64, index as u32);
        (index, (0..units_of(&manifest.parameters[index]).weights()).map(|_| draws.uniform() as f32 - 0.5).collect())
    };
    DenseGradients { layers: layers.iter().map(of).collect() }
}

struct Snapshot {
    mask: BTreeSet<u32>,
    tensors: Vec<Vec<f32>>,
}

fn snapshot(manifest: &Manifest, arena: &Arena, index: usize) -> Snapshot {
    let moments = (0..).map_while(|moment| state::read_moment(manifest, arena, index, moment));
    let tensors = std::iter::once(state::read(manifest, arena, index)).chain(moments).collect();
    Snapshot { mask: state::mask(manifest, arena, index).into_iter().collect(), tensors }
}

/// What every event must leave behind, whatever the policy: kept units untouched, everything else of value and moments exactly 0.
fn check_event(units: &Units, before: &Snapshot, after: &Snapshot, report: &LayerReport) -> Result<(), TestCaseError> {
    let weights = |count: usize| count * units.elements();
    prop_assert_eq!((report.before, report.after), (weights(before.mask.len()), weights(after.mask.len())));
    prop_assert_eq!(report.before - report.dropped + report.grown, report.after);
    let mut reset = 0;
    for unit in 0..units.count() as u32 {
        let elements: Vec<usize> = units.onnx_indices(unit).collect();
        let same = |(new, old): (&Vec<f32>, &Vec<f32>)| elements.iter().all(|&e| new[e] == old[e]);
        let kept = before.mask.contains(&unit) && after.mask.contains(&unit) && after.tensors.iter().zip(&before.tensors).all(same);
        if !kept {
            prop_assert!(after.tensors.iter().all(|tensor| elements.iter().all(|&e| tensor[e] == 0.0)));
            reset += usize::from(after.mask.contains(&unit));
        }
    }
    prop_assert_eq!(weights(reset), report.grown);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn recurring_events_keep_their_promises(
        name in prop::sample::select(vec!["mest-em", "mest-ems", "set", "rigl"]), wide: bool, moments in 0usize..3, narrow: bool, density in 0.03f64..0.6,
        seed: u64,
        decay in prop::sample::select(vec![Decay::Step, Decay::Cosine, Decay::Sigmoid])
    ) {
        let (soft, config) = (name == "mest-ems", MutationConfig { decay, ..config(name) });
        config.validate(density, EPOCHS, EPOCHS * 10).expect("defaults fit");
        let block = if wide { [4, 2] } else { [1, 1] };
        let (manifest, mut arena) = network_of(Builder::with_moments(narrow), &config, block, density, moments, seed);
        let mut mutator = Mutator::new(&manifest, config.clone(), seed);
        for epoch in 0..EPOCHS {
            prop_assert!(mutator.due(&at(epoch)));
            let before: Vec<Snapshot> = (0..4).map(|index| snapshot(&manifest, &arena, index)).collect();
            let reports = mutator.event(&manifest, &mut arena, &at(epoch), Some(&gradients(&manifest, epoch))).to_vec();
            prop_assert!(!mutator.due(&at(epoch)), "once an epoch");
            prop_assert_eq!(reports.iter().map(|report| report.name.as_str()).collect::<Vec<_>>(), LAYERS);
            let schedule = config.schedule(EPOCHS, EPOCHS * 10);
            for (report, index) in reports.iter().zip([1, 3]) {
                let Storage::Matrix { matrix, block, .. } = manifest.parameters[index].storage else { unreachable!("a weight") };
                let units = Units::new(matrix, block);
                check_event(&units, &before[index], &snapshot(&manifest, &arena, index), report)?;
                let budget = units.budget(density);
                let expected = units.budget(config.density_at(density, &at(epoch)));
                prop_assert_eq!(report.after, expected * units.elements());
                prop_assert!(soft || expected == budget, "only the soft bound leaves the budget");
                prop_assert!(expected <= units.budget(config.peak_density(density)));
                prop_assert!(schedule.stage(&at(epoch)) < 2 || expected == budget, "back at the budget in the last stage");
                if !soft {
                    let drop = schedule.intensity(density, &at(epoch)).drop;
                    let dropped = ((drop * budget as f64).round() as usize).min(budget - 1);
                    prop_assert_eq!(report.dropped, dropped * units.elements());
                }
            }
            for index in [0, 2] {
                prop_assert_eq!(&before[index].tensors, &snapshot(&manifest, &arena, index).tensors, "no mask, no mutation");
            }
            train(&manifest, &mut arena, epoch);
        }
        let exact: usize = [(8, 16), (16, 16)].map(|(i, o)| {
            let units = Geometry::three_by_three(i, o, block).units();
            units.budget(density) * units.elements()
        }).iter().sum();
        prop_assert_eq!(state::density(&manifest, &arena), exact as f64 / (9.0 * (8.0 + 16.0) * 16.0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_scheme_keeps_its_promises(
        name in prop::sample::select(vec!["mest-em", "mest-ems", "set", "rigl"]), (scheme, density) in prop::sample::select(STRUCTURED.to_vec()),
        growth in prop::sample::select(vec![Growth::Random(1), Growth::Random(3), Growth::Gradient]), seed: u64
    ) {
        let config = MutationConfig { growth, ..config(name) };
        let (manifest, mut arena) = schemed(&config, scheme.parse().expect("a scheme"), density, seed);
        let mut mutator = Mutator::new(&manifest, config.clone(), seed);
        for epoch in 0..EPOCHS {
            let before: Vec<Snapshot> = (0..2).map(|index| snapshot(&manifest, &arena, index)).collect();
            let reports = mutator.event(&manifest, &mut arena, &at(epoch), Some(&gradients_of(&manifest, &[0, 1], epoch)));
            for (index, report) in reports.iter().enumerate() {
                let units = units_of(&manifest.parameters[index]);
                check_event(&units, &before[index], &snapshot(&manifest, &arena, index), report)?;
                let grown = config.density_at(density, &at(epoch));
                let live = state::mask(&manifest, &arena, index);
                if grown > density {
                    prop_assert!(units.allows(&live, false) && (units.budget(density)..=units.grown(grown).max(units.budget(density))).contains(&live.len()));
                } else {
                    prop_assert_eq!(live.len(), units.budget(density));
                    prop_assert!(units.allows(&live, true), "{} in epoch {}", scheme, epoch);
                }
            }
            train(&manifest, &mut arena, epoch);
        }
    }
}

#[test]
fn every_policy_begins_in_its_scheme() {
    for (scheme, density) in STRUCTURED {
        for policy in super::super::POLICIES {
            let config = config(policy.name());
            let (manifest, mut arena) = schemed(&config, scheme.parse().expect("a scheme"), density, 3);
            let mut mutator = Mutator::new(&manifest, config, 3);
            if policy.events() == Events::Once {
                mutator.event(&manifest, &mut arena, &at(0), Some(&gradients_of(&manifest, &[0, 1], 0)));
            }
            for index in 0..2 {
                let (units, live) = (units_of(&manifest.parameters[index]), state::mask(&manifest, &arena, index));
                assert!(live.len() == units.budget(density) && units.allows(&live, true), "{} {scheme}", policy.name());
            }
        }
    }
}

#[test]
fn the_least_important_go_and_the_gradient_counts() {
    let drop_half = |lambda, narrow| {
        let config = MutationConfig { lambda, drop: Some(vec![0.5, 0.1, 0.0]), ..config("mest-em") };
        let (manifest, mut arena) = network_of(Builder::with_moments(narrow), &config, [1, 1], 0.1, 1, 3);
        let parameter = &manifest.parameters[1];
        let live = arena.words(parameter.count)[0] as usize;
        // Magnitude falls with the position, the moment rises more steeply.
        for position in 0..live {
            arena.floats_mut(parameter.value)[position] = 1.0 - position as f32 / 1000.0;
        }
        let moment: Vec<f32> = (0..live).map(|position| -(position as f32) / 100.0).collect();
        state::store(&mut arena, parameter.moments[0], &moment);
        let before = state::mask(&manifest, &arena, 1);
        Mutator::new(&manifest, config, 3).event(&manifest, &mut arena, &at(0), None);
        let values = state::read(&manifest, &arena, 1);
        let survived: Vec<bool> = before.iter().map(|&unit| values[unit as usize] != 0.0).collect();
        assert_eq!(survived.len(), live);
        survived
    };
    let (by_magnitude, by_both) = (drop_half(0.0, false), drop_half(1.0, false));
    assert_eq!(
        (drop_half(0.0, true), drop_half(1.0, true)),
        (by_magnitude.clone(), by_both.clone()),
        "the same with moments of half of the bits"
    );
    let kept = by_magnitude.iter().filter(|&&kept| kept).count();
    assert!(by_magnitude[..kept].iter().all(|&kept| kept) && kept == by_magnitude.len() / 2);
    assert!(by_both[by_both.len() - kept..].iter().all(|&kept| kept) && by_both.iter().filter(|&&kept| kept).count() == kept);
}

#[test]
fn dead_weights_of_largest_gradient_grow() {
    for block in [[1, 1], [4, 2]] {
        let config = config("rigl");
        let (manifest, mut arena) = network(&config, block, 0.2, 1, 3);
        let (sums, before) = (gradients(&manifest, 0), state::mask(&manifest, &arena, 1));
        let values = state::read(&manifest, &arena, 1);
        Mutator::new(&manifest, config, 3).event(&manifest, &mut arena, &at(0), Some(&sums));
        let Storage::Matrix { matrix, block, .. } = manifest.parameters[1].storage else { unreachable!("a weight") };
        let units = Units::new(matrix, block);
        let norm = |values: Vec<f32>| values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        let magnitude = |unit: u32| norm(units.onnx_indices(unit).map(|element| values[element]).collect());
        let steepness = |unit: u32| norm(sums.of(1)[unit as usize * units.elements()..][..units.elements()].to_vec());
        let mut by_magnitude = before.clone();
        by_magnitude.sort_by(|&a, &b| magnitude(b).total_cmp(&magnitude(a)));
        let dropped = (0.3 * before.len() as f64).round() as usize;
        let kept = &by_magnitude[..before.len() - dropped];
        let mut dead: Vec<u32> = (0..units.count() as u32).filter(|unit| !kept.contains(unit)).collect();
        dead.sort_by(|&a, &b| steepness(b).total_cmp(&steepness(a)));
        let expected: BTreeSet<u32> = kept.iter().chain(&dead[..dropped]).copied().collect();
        assert_eq!(snapshot(&manifest, &arena, 1).mask, expected);
    }
}

#[test]
fn without_gradients_growth_is_random() {
    let mut drawn = config("mest-em");
    drawn.growth = Growth::Random(4);
    for config in [config("rigl"), drawn] {
        let grown = |seed: u64| {
            let (manifest, mut arena) = network(&config, [1, 1], 0.2, 1, 3);
            let before: BTreeSet<u32> = state::mask(&manifest, &arena, 1).into_iter().collect();
            let _ = Mutator::new(&manifest, config.clone(), seed).event(&manifest, &mut arena, &at(0), None);
            let grown: Vec<u32> = state::mask(&manifest, &arena, 1).into_iter().filter(|unit| !before.contains(unit)).collect();
            let Storage::Matrix { matrix, block, .. } = manifest.parameters[1].storage else { unreachable!("a weight") };
            let (units, count) = (Units::new(matrix, block).count(), grown.len());
            // A quarter of those that grow lies in each quarter of the weight, give or take four deviations.
            for quarter in 0..4 {
                let inside = grown.iter().filter(|&&unit| unit as usize * 4 / units == quarter).count();
                let off = (inside as f64 - count as f64 / 4.0).abs();
                assert!(count > 40 && off < 4.0 * (count as f64 * 3.0 / 16.0).sqrt(), "{inside} of {count} in quarter {quarter}");
            }
            grown
        };
        assert_ne!(grown(3), grown(4), "the seed says which");
    }
}

#[test]
fn the_gradient_term_is_elastic_mutations_alone() {
    for (name, lambda) in [("mest-em", 0.5), ("mest-ems", 0.5), ("set", 0.0), ("rigl", 0.0)] {
        assert_eq!(config(name).policy.lambda(0.5), lambda, "{name}");
    }
}

#[test]
fn a_single_shot_prunes_once_by_saliency() {
    let config = config("snip");
    let (manifest, mut arena) = network(&config, [1, 1], 0.1, 1, 3);
    assert_eq!(state::density(&manifest, &arena), 1.0, "dense before the first step");
    let (sums, values) = (gradients(&manifest, 0), state::read(&manifest, &arena, 3));
    let mut mutator = Mutator::new(&manifest, config.clone(), 3);
    assert!(mutator.due(&at(0)) && !mutator.due(&at(1)));
    let reports = mutator.event(&manifest, &mut arena, &at(0), Some(&sums)).to_vec();
    assert!(!mutator.due(&at(0)));
    assert_eq!(reports.iter().map(|report| (report.grown, report.after)).collect::<Vec<_>>(), [(0, 115), (0, 230)]);
    let saliency = |unit: u32| (values[unit as usize] * sums.of(3)[unit as usize]).abs();
    let live = state::mask(&manifest, &arena, 3);
    let least = live.iter().map(|&unit| saliency(unit)).fold(f32::INFINITY, f32::min);
    let others = (0..values.len() as u32).filter(|unit| live.binary_search(unit).is_err());
    assert!(others.map(saliency).all(|other| other <= least));
    assert!(!Mutator::new(&manifest, config, 3).due(&at(5)), "a resumed run prunes no more");
}

#[test]
fn fixed_masks_have_no_events() {
    for name in ["static", "static-random", "dense"] {
        let config = config(name);
        let (manifest, arena) = network(&config, [1, 1], 0.1, 1, 0);
        let mutator = Mutator::new(&manifest, config, 0);
        assert!((0..EPOCHS).all(|epoch| !mutator.due(&at(epoch))), "{name}");
        let dense = state::read(&manifest, &arena, 1).iter().filter(|&&value| value != 0.0).count();
        assert_eq!(dense, 115, "{name}: the budget of the layer");
    }
}

#[test]
fn events_come_at_the_beginning_of_their_period() {
    let by = |every| {
        let config = MutationConfig { every: Some(every), ..config("mest-em") };
        let (manifest, mut arena) = network(&config, [1, 1], 0.1, 0, 0);
        let mut mutator = Mutator::new(&manifest, config, 0);
        let mut events = Vec::new();
        for iteration in 0..160 {
            let progress = Progress { epoch: iteration / 10, epochs: 16, iteration, iterations: 160 };
            if mutator.due(&progress) {
                mutator.event(&manifest, &mut arena, &progress, None);
                events.push(iteration);
            }
        }
        events
    };
    assert_eq!(by(Span::Epochs(5)), [0, 50, 100, 150]);
    assert_eq!(by(Span::Iterations(45)), [0, 45, 90, 135]);
    assert_eq!(by(Span::Share(0.25)), [0, 40, 80, 120]);
}

#[test]
fn a_resumed_run_mutates_alike() {
    let config = config("mest-ems");
    let masks = |resume: bool| {
        let (manifest, mut arena) = network(&config, [1, 1], 0.1, 1, 5);
        let mut mutator = Mutator::new(&manifest, config.clone(), 5);
        for epoch in 0..EPOCHS {
            if resume && epoch == 6 {
                mutator = Mutator::new(&manifest, config.clone(), 5);
            }
            if mutator.due(&at(epoch)) {
                mutator.event(&manifest, &mut arena, &at(epoch), None);
            }
            train(&manifest, &mut arena, epoch);
        }
        (state::mask(&manifest, &arena, 1), state::mask(&manifest, &arena, 3))
    };
    assert_eq!(masks(true), masks(false));
}

/// FNV-1a over the masks of both layers.
fn fingerprint(manifest: &Manifest, arena: &Arena) -> u32 {
    fingerprint_of(manifest, arena, &[1, 3])
}

fn fingerprint_of(manifest: &Manifest, arena: &Arena, layers: &[usize]) -> u32 {
    let units = layers.iter().flat_map(|&index| state::mask(manifest, arena, index));
    units.flat_map(u32::to_le_bytes).fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The history of masks that a seed has always had: (epoch, dropped, grown, live, fingerprint) of both layers together.
#[test]
fn golden_history() {
    let history = |name: &str, epochs: &[usize]| -> Vec<Event> {
        let config = config(name);
        let (manifest, mut arena) = network(&config, [1, 1], 0.1, 1, 42);
        let mut mutator = Mutator::new(&manifest, config, 42);
        let mut event = |&epoch: &usize| {
            let reports = mutator.event(&manifest, &mut arena, &at(epoch), Some(&gradients(&manifest, epoch)));
            train(&manifest, &mut arena, epoch);
            let sum = |field: fn(&LayerReport) -> usize| reports.iter().map(field).sum();
            (epoch, sum(|r| r.dropped), sum(|r| r.grown), sum(|r| r.after), fingerprint(&manifest, &arena))
        };
        epochs.iter().map(&mut event).collect()
    };
    let initial = |name: &str| {
        let (manifest, arena) = network(&config(name), [1, 1], 0.1, 1, 42);
        fingerprint(&manifest, &arena)
    };
    let all = [0, 1, 8, 9, 11, 12, 15];
    assert_eq!(history("mest-em", &all), GOLDEN_ELASTIC);
    assert_eq!(history("mest-ems", &all), GOLDEN_SOFT);
    let others = (history("set", &all), history("rigl", &all), history("snip", &[0]), ["static", "static-random"].map(initial));
    assert_eq!(others, (GOLDEN_EVOLUTION.to_vec(), GOLDEN_LOTTERY.to_vec(), GOLDEN_SINGLE_SHOT.to_vec(), GOLDEN_FIXED));
}

/// EM&S where what grows can learn more than what was there: it ends at the budget with another mask than it began with.
#[test]
fn golden_history_of_a_soft_run_that_replaces_weights() {
    let config = config("mest-ems");
    let (manifest, mut arena) = network(&config, [1, 1], 0.1, 1, 42);
    let initial = fingerprint(&manifest, &arena);
    let mut mutator = Mutator::new(&manifest, config, 42);
    let mut history = Vec::new();
    for epoch in 0..EPOCHS {
        let reports = mutator.event(&manifest, &mut arena, &at(epoch), None);
        train_by(&manifest, &mut arena, epoch, 400.0);
        let sum = |field: fn(&LayerReport) -> usize| reports.iter().map(field).sum();
        history.push((epoch, sum(|r| r.dropped), sum(|r| r.grown), sum(|r| r.after), fingerprint(&manifest, &arena)));
    }
    assert_eq!(history, GOLDEN_REPLACING);
    assert_ne!(history[EPOCHS - 1].4, initial, "GOLDEN_SOFT ends with the mask that it began with");
}

/// The masks that a seed has always had in each scheme, after all events of MEST+EM and of MEST+EM&S: dropped and grown weights, live ones,
/// fingerprint.
#[test]
fn golden_histories_of_schemes() {
    let history = |policy: &str, growth: Growth, scheme: &str, density: f64| {
        let config = MutationConfig { growth, ..config(policy) };
        let (manifest, mut arena) = schemed(&config, scheme.parse().expect("a scheme"), density, 42);
        let mut mutator = Mutator::new(&manifest, config, 42);
        let (mut dropped, mut grown) = (0, 0);
        for epoch in 0..EPOCHS {
            for report in mutator.event(&manifest, &mut arena, &at(epoch), Some(&gradients_of(&manifest, &[0, 1], epoch))) {
                (dropped, grown) = (dropped + report.dropped, grown + report.grown);
            }
            train(&manifest, &mut arena, epoch);
        }
        let live = (0..2).map(|index| state::mask(&manifest, &arena, index).len() * units_of(&manifest.parameters[index]).elements()).sum();
        (dropped, grown, live, fingerprint_of(&manifest, &arena, &[0, 1]))
    };
    let of = |(scheme, density): (&'static str, f64)| {
        let random = Growth::Random(1);
        (scheme, history("mest-em", random, scheme, density), history("mest-ems", random, scheme, density))
    };
    assert_eq!(STRUCTURED.map(of), GOLDEN_SCHEMES);
    assert_eq!(history("mest-em", Growth::Random(4), "unstructured", 0.1), GOLDEN_CANDIDATES);
}

/// Dropped, grown and live weights, fingerprint.
type Totals = (usize, usize, usize, u32);
const GOLDEN_SCHEMES: [(&str, Totals, Totals); 6] = [
    ("pattern", (996, 996, 480, 563028731), (984, 984, 480, 4034848391)),
    ("channel", (648, 648, 648, 1779024533), (2376, 2376, 648, 1379445637)),
    ("channel:out", (648, 648, 648, 3585532148), (2376, 2376, 648, 323908724)),
    ("nm:2:8", (1218, 1218, 576, 3778616937), (1218, 1218, 576, 829038357)),
    ("nm:1:4", (1218, 1218, 576, 3840093475), (1218, 1218, 576, 4253998525)),
    ("fanin", (462, 462, 224, 2014140538), (1290, 1290, 224, 2213023273)),
];
const GOLDEN_CANDIDATES: Totals = (486, 486, 230, 2406791864);

type Event = (usize, usize, usize, usize, u32);
const GOLDEN_ELASTIC: [Event; 7] = [
    (0, 69, 69, 345, 3595230429),
    (1, 69, 69, 345, 74652171),
    (8, 69, 69, 345, 764968866),
    (9, 35, 35, 345, 2333895296),
    (11, 35, 35, 345, 248380724),
    (12, 0, 0, 345, 248380724),
    (15, 0, 0, 345, 248380724),
];
const GOLDEN_SOFT: [Event; 7] = [
    (0, 0, 174, 519, 2412233726),
    (1, 174, 174, 519, 531005412),
    (8, 174, 174, 519, 3201316484),
    (9, 174, 87, 432, 1558330812),
    (11, 87, 87, 432, 3157782513),
    (12, 87, 0, 345, 2069237367),
    (15, 0, 0, 345, 2069237367),
];
const GOLDEN_REPLACING: [Event; EPOCHS] = [
    (0, 0, 174, 519, 2412233726),
    (1, 174, 174, 519, 254925305),
    (2, 174, 174, 519, 2955151485),
    (3, 174, 174, 519, 1661521911),
    (4, 174, 174, 519, 3155598932),
    (5, 174, 174, 519, 2797742877),
    (6, 174, 174, 519, 1404188133),
    (7, 174, 174, 519, 642883443),
    (8, 174, 174, 519, 3611885814),
    (9, 174, 87, 432, 12489472),
    (10, 87, 87, 432, 3008446711),
    (11, 87, 87, 432, 3440003912),
    (12, 87, 0, 345, 3212998953),
    (13, 0, 0, 345, 3212998953),
    (14, 0, 0, 345, 3212998953),
    (15, 0, 0, 345, 3212998953),
];
const GOLDEN_EVOLUTION: [Event; 7] = [
    (0, 104, 104, 345, 2563567477),
    (1, 102, 102, 345, 3041435385),
    (8, 26, 26, 345, 1743221714),
    (9, 15, 15, 345, 1773831999),
    (11, 2, 2, 345, 4144832218),
    (12, 0, 0, 345, 4144832218),
    (15, 0, 0, 345, 4144832218),
];
const GOLDEN_LOTTERY: [Event; 7] = [
    (0, 104, 104, 345, 1169673002),
    (1, 102, 102, 345, 1686179734),
    (8, 26, 26, 345, 689308193),
    (9, 15, 15, 345, 3492504542),
    (11, 2, 2, 345, 2186274728),
    (12, 0, 0, 345, 2186274728),
    (15, 0, 0, 345, 2186274728),
];
const GOLDEN_SINGLE_SHOT: [Event; 1] = [(0, 3111, 0, 345, 2031334485)];
const GOLDEN_FIXED: [u32; 2] = [2069237367, 2740452642];
