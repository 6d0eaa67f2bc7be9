//! What every engine offers: a compiled network that can be run.

use crate::arena::Arena;
use crate::lanes::Isa;
use crate::manifest::{Element, Manifest};
use crate::optim::{Hyper, Optimizer};
use crate::prelude::*;
use crate::sparse::state::StateError;

/// A phase of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Forward, loss, backward and update of one batch.
    Train,
    /// Forward with running statistics, and the loss.
    Evaluate,
}

/// A compiled network with its memory and its threads.
pub trait Network {
    /// Its description.
    fn manifest(&self) -> &Manifest;
    /// Its memory, to be read.
    fn arena(&self) -> &Arena;
    /// Its memory, to be written between phases.
    fn arena_mut(&mut self) -> &mut Arena;
    /// Runs one phase over what `Io` holds.
    fn run(&mut self, phase: Phase);

    /// Runs one phase `rounds` times, and says how long each took where it ran.
    #[cfg(feature = "std")]
    fn time(&mut self, phase: Phase, rounds: usize) -> Timing {
        let round = |_| {
            let start = std::time::Instant::now();
            self.run(phase);
            start.elapsed().as_secs_f64()
        };
        Timing { seconds: (0..rounds).map(round).collect(), peak_rss_bytes: crate::train::peak_rss_bytes() }
    }
}

/// What [`Network::time`] measured.
#[cfg(feature = "std")]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timing {
    /// Seconds of each round.
    pub seconds: Vec<f64>,
    /// The largest memory so far of the process that the phase ran in, where the system tells.
    pub peak_rss_bytes: Option<u64>,
}

/// Lends description and memory at once: the arena leaves the network meanwhile.
pub(crate) fn with_parts<T>(net: &mut dyn Network, act: impl FnOnce(&Manifest, &mut Arena) -> T) -> T {
    let mut arena = core::mem::replace(net.arena_mut(), Arena::empty());
    let result = act(net.manifest(), &mut arena);
    *net.arena_mut() = arena;
    result
}

/// What a batch is to be answered with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target<'a> {
    /// One class an example.
    Labels(&'a [u32]),
    /// `[example][element]`: values to come close to.
    Values(&'a [f32]),
}

/// Why a batch can't be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// No example, or more than the network was compiled for.
    #[error("a batch of {examples} examples for a network compiled for 1 to {batch}; split it, or compile with a larger --batch")]
    Examples {
        /// How many were given.
        examples: usize,
        /// How many fit.
        batch: usize,
    },
    /// A slice of the wrong length.
    #[error("the {what} of {examples} examples has {found} elements; the network takes {expected}")]
    Length {
        /// `input` or `target`.
        what: &'static str,
        /// Examples of the batch.
        examples: usize,
        /// Elements given.
        found: usize,
        /// Elements needed.
        expected: usize,
    },
    /// Labels for a regression, or values for a classifier.
    #[error("the network's target is {expected}, not {found}")]
    Kind {
        /// What was given.
        found: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// A label that is no class.
    #[error("example {example} has label {label}; the model has {classes} classes, from 0")]
    Label {
        /// Index within the batch.
        example: usize,
        /// The label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
}

/// Why a network can't be set up.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NetError {
    /// The machine does not have the instruction set.
    #[error("this machine does not have the instruction set {isa}; it has {}", Isa::best())]
    Isa {
        /// The one asked for.
        isa: Isa,
    },
    /// Too little memory was handed in.
    #[error("the network needs {needed} bytes, and {found} were handed in; hand in MEMORY_BYTES")]
    Memory {
        /// Bytes that it needs, aligned.
        needed: usize,
        /// Bytes that there are.
        found: usize,
    },
    /// Its initial state can't be written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// How a step changes the parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateRule {
    /// The rule; the program was compiled for its kind.
    pub optimizer: Optimizer,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Norm that the whole gradient is clipped to.
    pub max_norm: Option<f64>,
}

/// What a phase computed for the batch it ran over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Mean loss of the live examples.
    pub loss: f64,
    /// Right predictions; 0 where the target is values.
    pub correct: usize,
    /// Live examples.
    pub examples: usize,
}

/// Writes a batch of `examples` into the network: inputs `[example][element]` in ONNX order, targets, and which lane computes which
/// example. Lanes past the last example repeat it and count for nothing.
///
/// # Errors
/// [`BatchError`] if the batch does not fit the network; nothing is written then.
pub fn load_batch(net: &mut dyn Network, input: &[f32], target: Target<'_>, examples: usize) -> Result<(), BatchError> {
    let manifest = net.manifest();
    check_batch(manifest, input, target, examples)?;
    let io = &manifest.io;
    let (input_slot, target_slot, example_slot, live_slot, count_slot) = (io.input, io.target, io.example, io.live, io.count);
    let arena = net.arena_mut();
    arena.floats_mut(input_slot)[..input.len()].copy_from_slice(input);
    match target {
        Target::Labels(labels) => arena.words_mut(target_slot)[..labels.len()].copy_from_slice(labels),
        Target::Values(values) => arena.floats_mut(target_slot)[..values.len()].copy_from_slice(values),
    }
    for (lane, example) in arena.words_mut(example_slot).iter_mut().enumerate() {
        *example = lane.min(examples - 1) as u32;
    }
    for (lane, live) in arena.floats_mut(live_slot).iter_mut().enumerate() {
        *live = if lane < examples { 1.0 } else { 0.0 };
    }
    arena.floats_mut(count_slot).copy_from_slice(&[examples as f32, (1.0 / examples as f64) as f32]);
    Ok(())
}

fn check_batch(manifest: &Manifest, input: &[f32], target: Target<'_>, examples: usize) -> Result<(), BatchError> {
    if examples == 0 || examples > manifest.batch {
        return Err(BatchError::Examples { examples, batch: manifest.batch });
    }
    let check = |what, found, per_example| {
        let expected = examples * per_example;
        if found == expected { Ok(()) } else { Err(BatchError::Length { what, examples, found, expected }) }
    };
    check("input", input.len(), manifest.io.input.len / manifest.batch)?;
    match (target, manifest.io.target.element) {
        (Target::Labels(labels), Element::U32) => {
            check("target", labels.len(), 1)?;
            let classes = manifest.classes;
            match labels.iter().position(|&label| label as usize >= classes) {
                Some(example) => Err(BatchError::Label { example, label: labels[example], classes }),
                None => Ok(()),
            }
        }
        (Target::Values(values), Element::F32) => check("target", values.len(), manifest.io.target.len / manifest.batch),
        (Target::Labels(_), _) => Err(BatchError::Kind { found: "labels", expected: "values" }),
        (Target::Values(_), _) => Err(BatchError::Kind { found: "values", expected: "labels" }),
    }
}

/// Writes what a step takes besides its batch: the hyper-parameters of step `step`, the first being 1, and what its randomness is keyed by: the
/// seed and the steps before it.
pub fn load_step(net: &mut dyn Network, rule: &UpdateRule, seed: u64, step: u64) {
    let (hyper_slot, seed_slot) = (net.manifest().io.hyper, net.manifest().io.seed);
    let arena = net.arena_mut();
    let UpdateRule { optimizer, learning_rate, weight_decay, max_norm } = rule;
    Hyper::write(arena.floats_mut(hyper_slot), optimizer, *learning_rate, *weight_decay, *max_norm, step);
    let before = step.saturating_sub(1);
    let words = [seed as u32, (seed >> 32) as u32, before as u32, (before >> 32) as u32];
    arena.words_mut(seed_slot).copy_from_slice(&words);
}

/// The loss and the hits of the batch that the last phase ran over, summed in lane order.
pub fn report(net: &dyn Network) -> StepReport {
    let (io, arena) = (&net.manifest().io, net.arena());
    let live = arena.floats(io.live);
    let sum = |slot| -> f64 {
        // Selected, not multiplied: a dead lane's loss may be infinite.
        arena.floats(slot).iter().zip(live).filter(|(_, live)| **live != 0.0).map(|(value, _)| f64::from(*value)).sum()
    };
    let examples = live.iter().filter(|live| **live != 0.0).count();
    StepReport { loss: sum(io.loss) / examples.max(1) as f64, correct: sum(io.correct) as usize, examples }
}

/// The model's output for each live example, `[example][element]` in ONNX order.
pub fn output(net: &dyn Network) -> Vec<f32> {
    let manifest = net.manifest();
    let io = &manifest.io;
    let elements: usize = io.output.dims.iter().product();
    let lanes = manifest.lanes;
    let values = net.arena().floats(io.output.slot);
    let live = net.arena().floats(io.live).iter().filter(|live| **live != 0.0).count();
    let vector = |element: usize| io.output.order.get(element).map_or(element, |vector| *vector as usize);
    (0..live)
        .flat_map(|example| {
            let group = (example / lanes) * elements;
            (0..elements).map(move |element| values[(group + vector(element)) * lanes + example % lanes])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{BatchedSlot, Io, Slot, Template};
    use std::borrow::Cow;

    /// Remembers nothing but its slots: batches are loaded and read without running.
    struct Slots {
        manifest: Manifest,
        arena: Arena,
    }

    impl Network for Slots {
        fn manifest(&self) -> &Manifest {
            &self.manifest
        }
        fn arena(&self) -> &Arena {
            &self.arena
        }
        fn arena_mut(&mut self) -> &mut Arena {
            &mut self.arena
        }
        fn run(&mut self, _: Phase) {}
    }

    fn slots(target: Element) -> Slots {
        let mut bytes = 0;
        let mut slot = |len, element| {
            let slot = Slot { offset: bytes, len, element };
            bytes += (len * 4_usize).next_multiple_of(64);
            slot
        };
        let io = Io {
            input: slot(12, Element::F32),
            input_name: "x".into(),
            input_dims: vec![2].into(),
            input_rows: 0,
            target: slot(6, target),
            example: slot(8, Element::U32),
            live: slot(8, Element::F32),
            count: slot(2, Element::F32),
            output: BatchedSlot { name: "y".into(), dims: vec![2].into(), order: vec![1, 0].into(), slot: slot(16, Element::F32) },
            loss: slot(8, Element::F32),
            correct: slot(8, Element::F32),
            hyper: slot(10, Element::F32),
            seed: slot(4, Element::U32),
        };
        let template = Template { bytes: Cow::Borrowed(&[]), offsets: Cow::Borrowed(&[]) };
        let manifest = Manifest {
            name: "slots".into(),
            batch: 6,
            lanes: 4,
            groups: 2,
            classes: if target == Element::U32 { 3 } else { 0 },
            arena_bytes: bytes,
            scratch_bytes: 0,
            threads: 1,
            io,
            parameters: Cow::Borrowed(&[]),
            streams: Cow::Borrowed(&[]),
            plan: Cow::Borrowed(&[]),
            template,
            constants: Cow::Borrowed(&[]),
        };
        Slots { manifest, arena: Arena::new(bytes) }
    }

    #[test]
    fn dead_lanes_repeat_the_last_example() {
        let mut net = slots(Element::U32);
        let input: Vec<f32> = (0..10).map(|i| i as f32).collect();
        load_batch(&mut net, &input, Target::Labels(&[0, 1, 2, 0, 1]), 5).expect("a batch that fits");
        let io = net.manifest.io.clone();
        assert_eq!(net.arena.floats(io.input)[..10], input);
        assert_eq!(net.arena.words(io.target)[..5], [0, 1, 2, 0, 1]);
        assert_eq!(net.arena.words(io.example), [0, 1, 2, 3, 4, 4, 4, 4]);
        assert_eq!(net.arena.floats(io.live), [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(net.arena.floats(io.count), [5.0, 0.2]);
    }

    #[test]
    fn reports_count_live_lanes_alone() {
        let mut net = slots(Element::F32);
        load_batch(&mut net, &[0.0; 10], Target::Values(&[0.0; 5]), 5).expect("a batch that fits");
        let io = net.manifest.io.clone();
        net.arena.floats_mut(io.loss).copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0, f32::INFINITY, f32::NAN, 9.0]);
        net.arena.floats_mut(io.correct).copy_from_slice(&[1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(report(&net), StepReport { loss: 3.0, correct: 3, examples: 5 });
    }

    #[test]
    fn steps_are_keyed_by_seed_and_number() {
        let mut net = slots(Element::U32);
        let optimizer = Optimizer::Sgd { momentum: 0.5, nesterov: false };
        let rule = UpdateRule { optimizer, learning_rate: 0.25, weight_decay: 0.125, max_norm: Some(2.0) };
        load_step(&mut net, &rule, 0x1_0000_0002, 0x3_0000_0004);
        let io = net.manifest.io.clone();
        assert_eq!(net.arena.words(io.seed), [2, 1, 3, 3]);
        let hyper = net.arena.floats(io.hyper);
        let written = [Hyper::LEARNING_RATE, Hyper::WEIGHT_DECAY, Hyper::MOMENTUM, Hyper::MAX_NORM].map(|index| hyper[index]);
        assert_eq!(written, [0.25, 0.125, 0.5, 2.0]);
    }

    #[test]
    fn outputs_come_in_onnx_order() {
        let mut net = slots(Element::U32);
        load_batch(&mut net, &[0.0; 10], Target::Labels(&[0; 5]), 5).expect("a batch that fits");
        let slot = net.manifest.io.output.slot;
        for (i, value) in net.arena.floats_mut(slot).iter_mut().enumerate() {
            *value = i as f32;
        }
        assert_eq!(output(&net), [4.0, 0.0, 5.0, 1.0, 6.0, 2.0, 7.0, 3.0, 12.0, 8.0]);
    }

    #[test]
    fn batches_that_do_not_fit_are_refused() {
        let mut net = slots(Element::U32);
        let mut refuse = |input: &[f32], target, examples| load_batch(&mut net, input, target, examples).expect_err("does not fit");
        assert_eq!(refuse(&[], Target::Labels(&[]), 0), BatchError::Examples { examples: 0, batch: 6 });
        assert_eq!(refuse(&[0.0; 14], Target::Labels(&[0; 7]), 7), BatchError::Examples { examples: 7, batch: 6 });
        assert_eq!(refuse(&[0.0; 3], Target::Labels(&[0; 2]), 2), BatchError::Length { what: "input", examples: 2, found: 3, expected: 4 });
        assert_eq!(refuse(&[0.0; 4], Target::Values(&[0.0; 2]), 2), BatchError::Kind { found: "values", expected: "labels" });
        assert_eq!(refuse(&[0.0; 4], Target::Labels(&[0, 3]), 2), BatchError::Label { example: 1, label: 3, classes: 3 });
    }
}
