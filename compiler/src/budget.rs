//! Memory budgets: whether a plan stays within what a recipe allows, and what would bring it there.

use crate::onnx::Imported;
use crate::pipeline::{self, Compiled};
use crate::program::Program;
use crate::settings;
use mest_runtime::data::Dataset;
use mest_runtime::recipe::{ByteSize, Recipe};
use std::fmt;

/// Ways out that are named, at most.
const WAYS_OUT: usize = 3;

/// A plan beyond what the recipe allows.
#[derive(Clone, Debug, PartialEq)]
pub enum BudgetError {
    /// More than the machine has.
    Machine {
        /// As asked for.
        memory: ByteSize,
        /// What there is, in bytes.
        machine: usize,
    },
    /// More than `memory`.
    Memory {
        /// Planned bytes.
        needed: usize,
        /// As asked for.
        memory: ByteSize,
        /// Changes that would fit, and the bytes they take; the smallest change first.
        ways_out: Vec<(String, usize)>,
        /// The change of those tried that takes least, where none fits.
        closest: Option<(String, usize)>,
    },
    /// More than `assert-peak`.
    AssertedPeak {
        /// Planned bytes.
        needed: usize,
        /// As asserted.
        peak: ByteSize,
    },
}

/// Bytes, in the unit that suits them.
pub(crate) fn bytes(count: usize) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", count as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", count as f64 / 1_073_741_824.0),
    }
}

impl fmt::Display for BudgetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = |(change, taken): &(String, usize)| format!("{change}: {}", bytes(*taken));
        match self {
            BudgetError::Machine { memory, machine } => {
                write!(f, "memory = {memory}: this machine has {}; ask for less", bytes(*machine))
            }
            BudgetError::Memory { needed, memory, ways_out, closest } => {
                write!(f, "memory = {memory}: the training state takes {}; ", bytes(*needed))?;
                match (ways_out.as_slice(), closest) {
                    ([], Some(closest)) => write!(f, "nothing that was tried fits, the closest being {}", way(closest)),
                    ([], None) => write!(f, "raise it"),
                    (ways, _) => write!(f, "ways out: {}", ways.iter().map(way).collect::<Vec<_>>().join("; ")),
                }
            }
            BudgetError::AssertedPeak { needed, peak } => {
                write!(f, "assert-peak = {peak}: the plan takes {} ({needed} bytes)", bytes(*needed))
            }
        }
    }
}

impl std::error::Error for BudgetError {}

/// Bytes of the arena and of all workers' scratch.
pub fn planned_bytes(program: &Program) -> usize {
    program.manifest.arena_bytes + program.manifest.scratch_bytes * program.manifest.threads
}

/// Checks the plan of `compiled` against the recipe's `memory` and `assert-peak`.
///
/// # Errors
/// [`BudgetError`], for `memory` with changes to the recipe that would fit, each compiled to know.
pub fn check(imported: &Imported, recipe: &Recipe, data: Option<&Dataset>, compiled: &Compiled) -> Result<(), BudgetError> {
    let needed = planned_bytes(&compiled.program);
    let exceeds = |limit: ByteSize| needed as u64 > limit.0;
    if let Some(memory) = recipe.memory {
        if let Some(machine) = machine_bytes().filter(|machine| memory.0 > *machine as u64) {
            return Err(BudgetError::Machine { memory, machine });
        }
        if exceeds(memory) {
            let mut tried = smaller(imported, recipe, data);
            tried.retain(|(_, bytes)| *bytes < needed);
            let closest = tried.iter().min_by_key(|(_, bytes)| *bytes).cloned();
            let fits = |(_, bytes): &&(String, usize)| *bytes as u64 <= memory.0;
            let ways_out = tried.iter().filter(fits).take(WAYS_OUT).cloned().collect();
            return Err(BudgetError::Memory { needed, memory, ways_out, closest });
        }
    }
    match recipe.assert_peak {
        Some(peak) if exceeds(peak) => Err(BudgetError::AssertedPeak { needed, peak }),
        _ => Ok(()),
    }
}

/// Changes that take less memory as a rule, and the bytes that each takes; smallest change first.
fn smaller(imported: &Imported, recipe: &Recipe, data: Option<&Dataset>) -> Vec<(String, usize)> {
    let density = recipe.density();
    let mut changes = vec![("threads", "1".to_owned()), ("scheme", "block:4x1".to_owned())];
    changes.extend((1..=4).map(|halvings| ("batch", (recipe.batch >> halvings).to_string())));
    changes.push(("sparsity", format!("{}", 1.0 - density / 2.0)));
    let measure = |(key, value): (&str, String)| {
        let changed = recipe.with([(key, value.as_str())]).ok()?;
        let compiled = pipeline::compile(imported, &settings::of_recipe(&changed, data)).ok()?;
        Some((format!("{key} {value}"), planned_bytes(&compiled.program)))
    };
    changes.into_iter().filter_map(measure).collect()
}

/// The machine's memory in bytes, where the system says.
fn machine_bytes() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: usize = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::import_bytes;
    use crate::zoo::{self, ZooOptions};

    fn checked(values: &[(&str, &str)]) -> Result<(), BudgetError> {
        let options = ZooOptions { input: Some([1, 28, 28]), ..ZooOptions::default() };
        let model = import_bytes(&zoo::build("mlp", &options).expect("a built-in model"), None).expect("it imports");
        let recipe = Recipe::default().with([("batch", "64"), ("threads", "2")]).expect("a recipe");
        let recipe = recipe.with(values.iter().copied()).expect("a recipe");
        let compiled = pipeline::compile(&model, &settings::of_recipe(&recipe, None)).expect("it compiles");
        check(&model, &recipe, None, &compiled)
    }

    #[test]
    fn what_fits_passes() {
        assert_eq!(checked(&[]), Ok(()));
        assert_eq!(checked(&[("memory", "64MiB"), ("assert-peak", "64MiB")]), Ok(()));
    }

    #[test]
    fn ways_out_fit() {
        let Err(BudgetError::Memory { needed, closest: Some((_, least)), .. }) = checked(&[("memory", "1KiB")]) else {
            panic!("it does not fit")
        };
        assert!(least < needed, "{least} of {needed}");
        let Err(BudgetError::Memory { ways_out, .. }) = checked(&[("memory", &format!("{least}B"))]) else { panic!("it does not fit") };
        assert!(!ways_out.is_empty() && ways_out.iter().all(|(_, bytes)| *bytes <= least), "{ways_out:?}");
    }

    #[test]
    fn where_nothing_fits_the_closest_is_named() {
        let error = checked(&[("memory", "1KiB")]).expect_err("it does not fit");
        assert!(error.to_string().contains("the closest being"), "{error}");
    }

    #[test]
    fn more_than_the_machine_has_is_refused() {
        if machine_bytes().is_some() {
            assert!(matches!(checked(&[("memory", "1000000GiB")]), Err(BudgetError::Machine { .. })));
        }
    }

    #[test]
    fn asserted_peaks_are_compared() {
        let error = checked(&[("assert-peak", "10KiB")]).expect_err("it takes more");
        assert!(matches!(error, BudgetError::AssertedPeak { .. }), "{error}");
    }
}
