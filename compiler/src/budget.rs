//! Memory budgets: whether a plan stays within what a recipe allows, and what would bring it there.

use crate::onnx::Imported;
use crate::pipeline::{CompileError, Compiled, Levers, Prepared};
use crate::program::Program;
use crate::program::lower::STAGE_BYTES;
use crate::settings;
use mest_runtime::data::Dataset;
use mest_runtime::recipe::{Allowance, Budget, ByteSize, Recipe};
use std::fmt;

/// Ways out that are named, at most.
const WAYS_OUT: usize = 3;

/// Programs that the search for one within a budget compiles, at most.
const ATTEMPTS: usize = 8;

/// Programs compiled in search of the smallest.
const SAMPLES: usize = 8;

/// As many for each change that is tried where nothing fits.
const SAMPLES_OF_A_CHANGE: usize = 3;

/// Parts of a batch, at most: beyond, weights take what activations leave.
const MOST_MICRO_BATCHES: usize = 16;

/// No program, or none within what the recipe allows.
#[derive(Clone, Debug, PartialEq)]
pub enum BudgetError {
    /// The model cannot be compiled at all.
    Compile(CompileError),
    /// More than the machine has.
    Machine {
        /// The limit.
        key: &'static str,
        /// As asked for.
        memory: ByteSize,
        /// What there is, in bytes.
        machine: usize,
    },
    /// More than `memory`.
    Memory {
        /// Planned bytes of what the limit is on.
        needed: usize,
        /// The limit that is exceeded.
        key: &'static str,
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
            BudgetError::Machine { key, memory, machine } => {
                write!(f, "{key} = {memory}: this machine has {}; ask for less", bytes(*machine))
            }
            BudgetError::Memory { needed, key, memory, ways_out, closest } => {
                let what = key.strip_prefix("memory.").map_or("the training state takes".to_owned(), |class| format!("{class} take"));
                write!(f, "{key} = {memory}: {what} {}; ", bytes(*needed))?;
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
/// computed again in the backward pass, or kept narrow where `allow` says so, as it may say of the optimiser's state. The same recipe gives the same
/// program on any machine.
///
/// # Errors
/// What the compiler refuses; nothing fits `memory`, with changes to the recipe that would, each compiled to know; `assert-peak` is
/// exceeded.
pub fn compile(imported: &Imported, recipe: &Recipe, data: Option<&Dataset>) -> Result<Compiled, BudgetError> {
    let limits = || recipe.memory.iter().flat_map(Budget::limits).chain(recipe.assert_peak.map(|peak| ("assert-peak", peak)));
    if let Some(machine) = machine_bytes()
        && let Some((key, memory)) = limits().find(|(_, limit)| limit.0 > machine as u64)
    {
        return Err(BudgetError::Machine { key, memory, machine });
    }
    if recipe.autotune {
        return Err(CompileError::Autotune.into());
    }
    let settings = settings::of_recipe(recipe, data);
    let prepared = Prepared::new(imported, &settings)?;
    let mut compiled = prepared.compile(Levers::default())?;
    if let Some(budget) = recipe.memory.filter(|budget| exceeded(&compiled.program, budget).is_some()) {
        compiled = match within(&prepared, recipe, &budget)? {
            Search::Fits(compiled) => *compiled,
            Search::Least(least) => return Err(ways_out(imported, recipe, data, &budget, &least.program)),
        };
    }
    match recipe.assert_peak {
        Some(peak) if planned_bytes(&compiled.program) as u64 > peak.0 => {
            Err(BudgetError::AssertedPeak { needed: planned_bytes(&compiled.program), peak })
        }
        _ => Ok(compiled),
    }
}

/// Classes of the plan that `memory.weights` is on, and `memory.activations`.
const WEIGHTS: [&str; 5] = ["weights", "gradients", "optimizer", "masks", "topology"];
const ACTIVATIONS: [&str; 2] = ["activations", "transient"];

/// Planned bytes of what the limit `key` is on.
fn bytes_of(program: &Program, key: &str) -> usize {
    let classes: &[&str] = match key {
        "memory.weights" => &WEIGHTS,
        "memory.activations" => &ACTIVATIONS,
        _ => return planned_bytes(program),
    };
    program.manifest.plan.iter().filter(|line| classes.contains(&line.class.as_ref())).map(|line| line.bytes).sum()
}

/// The first limit that a program does not stay within, and by how much.
fn exceeded(program: &Program, budget: &Budget) -> Option<(&'static str, ByteSize)> {
    budget.limits().find(|(key, limit)| bytes_of(program, key) as u64 > limit.0)
}

/// Bytes of activations that a program within `budget` could take more.
fn left(program: &Program, budget: &Budget) -> usize {
    let limits = budget.limits().filter(|(key, _)| *key != "memory.weights");
    limits.map(|(key, limit)| (limit.0 as usize).saturating_sub(bytes_of(program, key))).min().unwrap_or(0)
}

/// What a search for a program within a budget came to.
enum Search {
    /// A program that fits.
    Fits(Box<Compiled>),
    /// None does; the smallest.
    Least(Box<Compiled>),
}

/// The program within `budget` that takes least time, as far as is estimated, given that keeping everything does not fit. Rows are staged in
/// less scratch only where nothing else does.
fn within(prepared: &Prepared<'_>, recipe: &Recipe, budget: &Budget) -> Result<Search, CompileError> {
    let mut least: Option<Compiled> = None;
    for stage_bytes in [STAGE_BYTES, STAGE_BYTES / 4, STAGE_BYTES / 16] {
        let mut best: Option<Compiled> = None;
        for narrow_moments in narrow_moments(recipe) {
            for micro_batches in micro_batches(prepared, recipe) {
                let narrow = recipe.allows(Allowance::Bf16);
                let levers = Levers { stage_bytes, micro_batches, narrow, narrow_moments, ..Levers::default() };
                let whole = prepared.compile(levers)?;
                let cost = |compiled: &Compiled| compiled.recomputation.cost();
                let cheaper = |compiled: &Compiled| best.as_ref().is_none_or(|best| cost(compiled) < cost(best));
                if !cheaper(&whole) {
                    break;
                }
                let found = if exceeded(&whole.program, budget).is_none() {
                    whole
                } else {
                    let smallest = Smallest::of(prepared, levers, SAMPLES)?;
                    if exceeded(&smallest.compiled.program, budget).is_some() {
                        let bytes = |compiled: &Compiled| planned_bytes(&compiled.program);
                        if least.as_ref().is_none_or(|least| bytes(&smallest.compiled) < bytes(least)) {
                            least = Some(smallest.compiled);
                        }
                        continue;
                    }
                    smallest.enlarged(prepared, levers, budget)?
                };
                if cheaper(&found) {
                    best = Some(found);
                }
            }
        }
        if let Some(best) = best {
            return Ok(Search::Fits(Box::new(best)));
        }
    }
    Ok(Search::Least(Box::new(least.expect("the first that is tried is the cheapest so far, and fits or is the least"))))
}

/// How the optimiser's state may be stored: as f32, and where there is some and the recipe allows it, as bf16.
fn narrow_moments(recipe: &Recipe) -> impl Iterator<Item = bool> {
    let may = recipe.allows(Allowance::Bf16Momentum) && recipe.update_rule().moments() > 0;
    [false, true].into_iter().take(if may { 2 } else { 1 })
}

/// How many parts a batch may be computed in, fewest first: whatever divides it where examples do not influence each other, or may be kept from it.
fn micro_batches(prepared: &Prepared<'_>, recipe: &Recipe) -> Vec<usize> {
    let groups = prepared.groups();
    let most = if prepared.has_batch_statistics() && !recipe.allows(Allowance::SplitBn) { 1 } else { groups.min(MOST_MICRO_BATCHES) };
    (1..=most).filter(|&parts| groups.is_multiple_of(parts)).collect()
}

/// The program that takes least memory, of some that keep little.
struct Smallest {
    compiled: Compiled,
    /// The [`Levers::kept_bytes`] that it was compiled for.
    kept: usize,
    /// As many as keep everything.
    most: usize,
}

impl Smallest {
    fn of(prepared: &Prepared<'_>, levers: Levers, samples: usize) -> Result<Self, CompileError> {
        let (fewest, most) = prepared.kept_bytes_range(levers.narrow)?;
        // What the search for stretches counts is not all that lives: the fewest kept bytes are not always the smallest plan.
        let mut smallest: Option<Smallest> = None;
        for part in 0..samples {
            let kept = fewest + fewest * part / samples;
            let compiled = prepared.compile(Levers { kept_bytes: Some(kept), ..levers })?;
            let bytes = |compiled: &Compiled| planned_bytes(&compiled.program);
            if smallest.as_ref().is_none_or(|smallest| bytes(&compiled) < bytes(&smallest.compiled)) {
                smallest = Some(Smallest { compiled, kept, most });
            }
        }
        Ok(smallest.expect("there is a first sample"))
    }

    /// The program within `budget` that takes least time of those found by keeping ever more.
    fn enlarged(self, prepared: &Prepared<'_>, levers: Levers, budget: &Budget) -> Result<Compiled, CompileError> {
        let examples = self.compiled.program.manifest.batch / levers.micro_batches;
        let Smallest { compiled: mut best, kept: mut fits, most: mut too_many } = self;
        for _ in 0..ATTEMPTS {
            // What is not activations changes little: the bytes left over are what more could be kept.
            let more = (left(&best.program, budget) / examples).clamp(1, (too_many - fits).max(2) / 2);
            if fits + more >= too_many || more * examples < planned_bytes(&best.program) / 256 {
                break;
            }
            let compiled = prepared.compile(Levers { kept_bytes: Some(fits + more), ..levers })?;
            if exceeded(&compiled.program, budget).is_some() {
                too_many = fits + more;
            } else {
                fits += more;
                if compiled.recomputation.cost() <= best.recomputation.cost() {
                    best = compiled;
                }
            }
        }
        Ok(best)
    }
}

/// The refusal of a budget that nothing fits, `least` being the smallest program.
fn ways_out(imported: &Imported, recipe: &Recipe, data: Option<&Dataset>, budget: &Budget, least: &Program) -> BudgetError {
    let Some((key, memory)) = exceeded(least, budget) else { unreachable!("it would have been taken") };
    let needed = bytes_of(least, key);
    let tried = smaller(imported, recipe, data);
    let size = |(change, program): &(String, Program)| (change.clone(), bytes_of(program, key));
    let fits = |(_, program): &&(String, Program)| exceeded(program, budget).is_none();
    let ways_out = tried.iter().filter(fits).map(size).take(WAYS_OUT).collect();
    let closest = tried.iter().map(size).filter(|(_, bytes)| *bytes < needed).min_by_key(|(_, bytes)| *bytes);
    BudgetError::Memory { needed, key, memory, ways_out, closest }
}

/// Changes that take less memory as a rule, and the smallest program that each leads to; smallest change first.
fn smaller(imported: &Imported, recipe: &Recipe, data: Option<&Dataset>) -> Vec<(String, Program)> {
    let density = recipe.density();
    let allowed = |also: Allowance| {
        let names = Allowance::NAMES
            .iter()
            .copied()
            .filter(|&name| name == also.name() || recipe.allow.iter().any(|allow| allow.iter().any(|a| a.name() == name)));
        names.collect::<Vec<_>>().join(",")
    };
    let mut changes = vec![("threads", "1".to_owned())];
    let missing = [Allowance::Bf16Momentum, Allowance::Bf16, Allowance::SplitBn].into_iter().filter(|&allowance| !recipe.allows(allowance));
    changes.extend(missing.map(|allowance| ("allow", allowed(allowance))));
    changes.push(("scheme", "block:4x1".to_owned()));
    changes.extend((1..=4).map(|halvings| ("batch", (recipe.batch >> halvings).to_string())));
    changes.push(("sparsity", format!("{}", 1.0 - density / 2.0)));
    let measure = |(key, value): (&str, String)| {
        let changed = recipe.with([(key, value.as_str())]).ok()?;
        let settings = settings::of_recipe(&changed, data);
        let prepared = Prepared::new(imported, &settings).ok()?;
        let micro_batches = micro_batches(&prepared, &changed).last().copied()?;
        let (narrow, narrow_moments) = (changed.allows(Allowance::Bf16), changed.allows(Allowance::Bf16Momentum));
        let levers = Levers { stage_bytes: STAGE_BYTES / 16, narrow, micro_batches, narrow_moments, ..Levers::default() };
        let smallest = Smallest::of(&prepared, levers, SAMPLES_OF_A_CHANGE).ok()?;
        Some((format!("{key} {value}"), smallest.compiled.program))
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
    fn narrow_activations_cost_less_than_computing_again() {
        let model = import_bytes(&zoo::build("resnet20", &ZooOptions::default()).expect("a built-in model"), None).expect("it imports");
        let recipe = Recipe::default().with([("batch", "32"), ("threads", "2")]).expect("a recipe");
        let all = planned_bytes(&compile(&model, &recipe, None).expect("it compiles").program);
        let memory = format!("{}B", all * 6 / 10);
        let of = |flags: &[(&str, &str)]| {
            let recipe = recipe.with(flags.iter().copied()).expect("a recipe");
            compile(&model, &recipe, None).expect("it fits")
        };
        let (wide, narrow) = (of(&[("memory", &memory)]), of(&[("memory", &memory), ("allow", "bf16")]));
        assert!(planned_bytes(&narrow.program) <= all * 6 / 10);
        assert!(wide.recomputation.narrow.is_empty() && !narrow.recomputation.narrow.is_empty());
        assert!(narrow.recomputation.cost() < wide.recomputation.cost(), "{:?} {:?}", narrow.recomputation, wide.recomputation);
        let unlimited = of(&[("allow", "bf16")]);
        assert!(unlimited.recomputation.narrow.is_empty(), "nothing is rounded without need");
    }

    /// A recipe of `memory` for 784-300-100-10 at batch 16.
    fn perceptron(memory: &str, more: &[(&str, &str)]) -> Result<Compiled, BudgetError> {
        let options = ZooOptions { input: Some([1, 28, 28]), ..ZooOptions::default() };
        let model = import_bytes(&zoo::build("mlp", &options).expect("a built-in model"), None).expect("it imports");
        let base = [("batch", "16"), ("threads", "2"), ("policy", "mest-em"), ("memory", memory)];
        let recipe = Recipe::default().with(base.into_iter().chain(more.iter().copied())).expect("a recipe");
        compile(&model, &recipe, None)
    }

    #[test]
    fn the_optimisers_state_is_rounded_where_that_is_needed() {
        let optimizer = |compiled: &Compiled| {
            let line = compiled.program.manifest.plan.iter().find(|line| line.class == "optimizer");
            line.map(|line| line.bytes).unwrap_or_default()
        };
        let allow = ("allow", "bf16-momentum");
        let wide = perceptron("64MiB", &[allow]).expect("it fits");
        assert_eq!(wide.recomputation.moment_share, None, "nothing is rounded without need");
        let narrow = perceptron("640KiB", &[allow]).expect("it fits");
        assert!(planned_bytes(&narrow.program) <= 640 << 10 && narrow.recomputation.moment_share.is_some());
        assert_eq!(2 * optimizer(&narrow), optimizer(&wide));
        let adam = perceptron("704KiB", &[allow, ("optimizer", "adam")]).expect("it fits");
        assert_eq!(2 * optimizer(&adam), 2 * optimizer(&wide), "two moments of half of the bits");
        let Err(BudgetError::Memory { ways_out, .. }) = perceptron("640KiB", &[]) else { panic!("it does not fit") };
        assert!(ways_out.iter().any(|(change, _)| change == "allow bf16-momentum"), "{ways_out:?}");
        // There is nothing to round: the same as without.
        assert!(perceptron("512KiB", &[allow, ("momentum", "0")]).is_err());
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
