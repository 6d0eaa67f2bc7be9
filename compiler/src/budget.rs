//! Memory budgets: whether a plan stays within what a recipe allows, and what would bring it there.

use crate::onnx::Imported;
use crate::pipeline::{self, CompileError, Compiled, Settings};
use crate::program::Program;
use crate::program::lower::STAGE_BYTES;
use crate::settings;
use mest_runtime::data::Dataset;
use mest_runtime::recipe::{ByteSize, Recipe};
use std::fmt;

/// Ways out that are named, at most.
const WAYS_OUT: usize = 3;

/// Programs that the search for one within a budget compiles, at most.
const ATTEMPTS: usize = 8;

/// Programs compiled in search of the smallest.
const SAMPLES: usize = 8;

/// No program, or none within what the recipe allows.
#[derive(Clone, Debug, PartialEq)]
pub enum BudgetError {
    /// The model cannot be compiled at all.
    Compile(CompileError),
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
            BudgetError::Compile(error) => error.fmt(f),
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

impl From<CompileError> for BudgetError {
    fn from(error: CompileError) -> Self {
        BudgetError::Compile(error)
    }
}

/// Bytes of the arena and of all workers' scratch.
pub fn planned_bytes(program: &Program) -> usize {
    program.manifest.arena_bytes + program.manifest.scratch_bytes * program.manifest.threads
}

/// Compiles `imported` for `recipe`: what takes least time among what stays within the recipe's `memory`. Activations that do not fit are
/// computed again in the backward pass. The same recipe gives the same program on any machine.
///
/// # Errors
/// What the compiler refuses; nothing fits `memory`, with changes to the recipe that would, each compiled to know; `assert-peak` is
/// exceeded.
pub fn compile(imported: &Imported, recipe: &Recipe, data: Option<&Dataset>) -> Result<Compiled, BudgetError> {
    if let (Some(memory), Some(machine)) = (recipe.memory, machine_bytes())
        && memory.0 > machine as u64
    {
        return Err(BudgetError::Machine { memory, machine });
    }
    let settings = settings::of_recipe(recipe, data);
    let mut compiled = pipeline::compile(imported, &settings)?;
    if let Some(memory) = recipe.memory.filter(|memory| exceeds(&compiled, *memory)) {
        compiled = match within(imported, &settings, memory)? {
            Search::Fits(compiled) => *compiled,
            Search::Least(least) => {
                let needed = planned_bytes(&compiled.program).min(least);
                return Err(ways_out(imported, recipe, data, memory, needed));
            }
        };
    }
    match recipe.assert_peak {
        Some(peak) if exceeds(&compiled, peak) => Err(BudgetError::AssertedPeak { needed: planned_bytes(&compiled.program), peak }),
        _ => Ok(compiled),
    }
}

fn exceeds(compiled: &Compiled, limit: ByteSize) -> bool {
    planned_bytes(&compiled.program) as u64 > limit.0
}

/// What a search for a program within a budget came to.
enum Search {
    /// A program that fits.
    Fits(Box<Compiled>),
    /// None does; bytes of the smallest.
    Least(usize),
}

/// The program within `memory` that computes least again, given that keeping everything does not fit. Rows are staged in less scratch only
/// where that alone does not do.
fn within(imported: &Imported, settings: &Settings, memory: ByteSize) -> Result<Search, CompileError> {
    let mut least = usize::MAX;
    for stage_bytes in [STAGE_BYTES, STAGE_BYTES / 4, STAGE_BYTES / 16] {
        let frugal = Settings { stage_bytes, ..settings.clone() };
        let smallest = Smallest::of(imported, &frugal)?;
        if !exceeds(&smallest.compiled, memory) {
            return Ok(Search::Fits(Box::new(smallest.enlarged(imported, &frugal, memory)?)));
        }
        least = least.min(planned_bytes(&smallest.compiled.program));
    }
    Ok(Search::Least(least))
}

fn keeping(imported: &Imported, settings: &Settings, bytes: usize) -> Result<Compiled, CompileError> {
    pipeline::compile(imported, &Settings { kept_bytes: Some(bytes), ..settings.clone() })
}

/// The program that takes least memory, of some that keep little.
struct Smallest {
    compiled: Compiled,
    /// The [`Settings::kept_bytes`] that it was compiled for.
    kept: usize,
    /// As many as keep everything.
    most: usize,
}

impl Smallest {
    fn of(imported: &Imported, settings: &Settings) -> Result<Self, CompileError> {
        let (fewest, most) = pipeline::kept_bytes_range(imported, settings)?;
        // What the search for stretches counts is not all that lives: the fewest kept bytes are not always the smallest plan.
        let mut smallest: Option<Smallest> = None;
        for part in 0..SAMPLES {
            let kept = fewest + fewest * part / SAMPLES;
            let compiled = keeping(imported, settings, kept)?;
            let bytes = |compiled: &Compiled| planned_bytes(&compiled.program);
            if smallest.as_ref().is_none_or(|smallest| bytes(&compiled) < bytes(&smallest.compiled)) {
                smallest = Some(Smallest { compiled, kept, most });
            }
        }
        Ok(smallest.expect("there is a first sample"))
    }

    /// The program within `memory` that computes least again of those found by keeping ever more.
    fn enlarged(self, imported: &Imported, settings: &Settings, memory: ByteSize) -> Result<Compiled, CompileError> {
        let Smallest { compiled: mut best, kept: mut fits, most: mut too_many } = self;
        for _ in 0..ATTEMPTS {
            // What is not activations changes little: the bytes left over are what more could be kept.
            let left = memory.0 as usize - planned_bytes(&best.program);
            let more = (left / settings.batch).clamp(1, (too_many - fits).max(2) / 2);
            if fits + more >= too_many || more * settings.batch < memory.0 as usize / 256 {
                break;
            }
            let compiled = keeping(imported, settings, fits + more)?;
            if exceeds(&compiled, memory) {
                too_many = fits + more;
            } else {
                fits += more;
                if compiled.recomputation.share <= best.recomputation.share {
                    best = compiled;
                }
            }
        }
        Ok(best)
    }
}

/// The refusal of a budget that nothing fits, `needed` being the least.
fn ways_out(imported: &Imported, recipe: &Recipe, data: Option<&Dataset>, memory: ByteSize, needed: usize) -> BudgetError {
    let mut tried = smaller(imported, recipe, data);
    tried.retain(|(_, bytes)| *bytes < needed);
    let closest = tried.iter().min_by_key(|(_, bytes)| *bytes).cloned();
    let fits = |(_, bytes): &&(String, usize)| *bytes as u64 <= memory.0;
    let ways_out = tried.iter().filter(fits).take(WAYS_OUT).cloned().collect();
    BudgetError::Memory { needed, memory, ways_out, closest }
}

/// Changes that take less memory as a rule, and the least bytes that each can do with; smallest change first.
fn smaller(imported: &Imported, recipe: &Recipe, data: Option<&Dataset>) -> Vec<(String, usize)> {
    let density = recipe.density();
    let mut changes = vec![("threads", "1".to_owned()), ("scheme", "block:4x1".to_owned())];
    changes.extend((1..=4).map(|halvings| ("batch", (recipe.batch >> halvings).to_string())));
    changes.push(("sparsity", format!("{}", 1.0 - density / 2.0)));
    let measure = |(key, value): (&str, String)| {
        let changed = recipe.with([(key, value.as_str())]).ok()?;
        let settings = settings::of_recipe(&changed, data);
        let smallest = Smallest::of(imported, &Settings { stage_bytes: STAGE_BYTES / 16, ..settings }).ok()?;
        Some((format!("{key} {value}"), planned_bytes(&smallest.compiled.program)))
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
        compile(&model, &recipe, None).map(|_| ())
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
    fn what_does_not_fit_is_computed_again() {
        let model = import_bytes(&zoo::build("resnet20", &ZooOptions::default()).expect("a built-in model"), None).expect("it imports");
        let recipe = Recipe::default().with([("batch", "32"), ("threads", "2")]).expect("a recipe");
        let all = planned_bytes(&compile(&model, &recipe, None).expect("it compiles").program);
        let mut share = 0.0;
        for percent in [80, 50] {
            let memory = all * percent / 100;
            let within = recipe.with([("memory", format!("{memory}B").as_str())]).expect("a recipe");
            let compiled = compile(&model, &within, None).expect("it fits");
            assert!(planned_bytes(&compiled.program) <= memory, "{percent} %");
            assert!(compiled.recomputation.share > share, "{percent} %: less memory takes more arithmetic");
            share = compiled.recomputation.share;
        }
        assert!(share < 1.0, "nothing is computed more than once again");
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
