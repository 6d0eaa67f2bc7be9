//! What a user may say about mutation, the defaults of what is left out, and what is refused.

use super::schedule::{Period, falling};
use super::{Decay, MutationSchedule, Policy, Progress, Span};
use crate::prelude::*;
use crate::sparse::Growth;

/// How masks mutate. `None` leaves a default that follows the length of the run.
#[derive(Clone, Debug)]
pub struct MutationConfig {
    /// The policy, see [`super::policy`].
    pub policy: &'static dyn Policy,
    /// Between events. Default: 1/32 of the epochs, at least one; of the iterations in runs of fewer than 8 epochs.
    pub every: Option<Span>,
    /// When each stage after the first begins. Default: 9/16 and 12/16 of the run.
    pub stages: Option<Vec<Span>>,
    /// Share of live weights dropped, one a stage, 0 in the last; read by mest-em, set and rigl. Default: the policy's, falling evenly to 0.
    pub drop: Option<Vec<f64>>,
    /// Density grown to, one a stage, the budget in the last; read by mest-ems. Default: budget + min(0.05, budget), falling evenly to the budget.
    pub grow_to: Option<Vec<f64>>,
    /// How both go down.
    pub decay: Decay,
    /// How dead units are chosen to grow.
    pub growth: Growth,
    /// Weight of the gradient term (the first moment) in the importance of a weight.
    pub lambda: f64,
}

/// A value that cannot work.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{key} = {value}: {why}; the nearest that works: {nearest}")]
pub struct MutationError {
    /// Key of the recipe.
    pub key: &'static str,
    /// What it was.
    pub value: String,
    /// What is wrong with it.
    pub why: String,
    /// What would do.
    pub nearest: String,
}

/// Weight of the gradient term, unless given.
const DEFAULT_LAMBDA: f64 = 0.01;
/// Events a run, unless a period is given.
const DEFAULT_EVENTS: usize = 32;
/// Runs of fewer epochs count their periods in iterations.
const FEW_EPOCHS: usize = 8;
/// When the second and third stage begin, unless given.
const DEFAULT_STAGES: [Span; 2] = [Span::Share(9.0 / 16.0), Span::Share(12.0 / 16.0)];
/// Density of dead weights that one probing pass makes room for, at least: about ten passes an event.
const PROBED_DENSITY: f64 = 0.1;
/// Densities closer than this are one.
const SAME_DENSITY: f64 = 1e-9;

impl MutationConfig {
    /// `policy`, and defaults.
    pub fn new(policy: &'static dyn Policy) -> Self {
        MutationConfig {
            policy,
            every: None,
            stages: None,
            drop: None,
            grow_to: None,
            decay: policy.default_decay(),
            growth: policy.default_growth(),
            lambda: DEFAULT_LAMBDA,
        }
    }

    /// The period, for a run of `epochs` epochs and `iterations` iterations.
    pub fn period(&self, epochs: usize, iterations: usize) -> Period {
        let part = |whole: usize, share: f64| ((whole as f64 * share) as usize).max(1);
        match self.every {
            Some(Span::Epochs(every)) => Period::Epochs(every as usize),
            Some(Span::Iterations(every)) => Period::Iterations(every as usize),
            Some(Span::Share(share)) if epochs as f64 * share >= 1.0 => Period::Epochs(part(epochs, share)),
            Some(Span::Share(share)) => Period::Iterations(part(iterations, share)),
            None if epochs < FEW_EPOCHS => Period::Iterations((iterations / DEFAULT_EVENTS).max(1)),
            None => Period::Epochs((epochs / DEFAULT_EVENTS).max(1)),
        }
    }

    /// The schedule, for a run of `epochs` epochs and `iterations` iterations. Lists of the wrong length, which [`Self::validate`]
    /// refuses, are cut or continued with their last value.
    pub fn schedule(&self, epochs: usize, iterations: usize) -> MutationSchedule {
        let stages = self.stages();
        let last = stages.len();
        let fitted = |list: &Vec<f64>, filler: f64| {
            let mut list = list.clone();
            list.resize(last + 1, list.last().copied().unwrap_or(filler));
            list
        };
        MutationSchedule {
            period: self.period(epochs, iterations),
            drop: match &self.drop {
                Some(drop) => fitted(drop, 0.0),
                None => (0..=last).map(|stage| self.policy.default_drop() * falling(stage, last)).collect(),
            },
            grow_to: self.grow_to.as_ref().filter(|list| !list.is_empty()).map(|list| fitted(list, 1.0)),
            decay: self.decay,
            stages,
        }
    }

    fn stages(&self) -> Vec<Span> {
        self.stages.clone().unwrap_or_else(|| DEFAULT_STAGES.to_vec())
    }

    /// Density that a layer of budgeted density `target` needs room for: the largest that it ever has, or that probing it takes.
    pub fn capacity_density(&self, target: f64) -> f64 {
        let peak = self.peak_density(target);
        // Gradients of every dead unit take room beyond the live ones; those of candidates fit where units were dropped.
        let probed = if self.probes_all() { peak + peak.max(PROBED_DENSITY) } else { peak };
        probed.max(self.policy.capacity(target)).min(1.0)
    }

    /// Whether events read gradients of every dead unit.
    fn probes_all(&self) -> bool {
        self.policy.mutates() && self.growth == Growth::Gradient
    }

    /// Whether events read gradients of weights that are not live.
    pub fn reads_gradients(&self) -> bool {
        self.policy.saliency().is_some() || self.policy.mutates() && self.growth.reads_gradients()
    }

    /// Largest density that a layer of budgeted density `target` ever trains at.
    pub fn peak_density(&self, target: f64) -> f64 {
        // Stages and what they grow to do not depend on the length of the run.
        self.policy.density(target, self.schedule(1, 1).peak(target))
    }

    /// Density of a layer of budgeted density `target` at the beginning of each stage, in a run of `epochs` epochs and `iterations`
    /// iterations; one entry where masks never change size.
    pub fn density_by_stage(&self, target: f64, epochs: usize, iterations: usize) -> Vec<f64> {
        let grown = self.schedule(epochs, iterations).grown_by_stage(target, epochs, iterations);
        let mut densities: Vec<f64> = grown.into_iter().map(|grown| self.policy.density(target, grown)).collect();
        if densities.iter().all(|&density| density == target) {
            densities.truncate(1);
        }
        densities
    }

    /// Density at `progress` of a layer of budgeted density `target`, an event that is due counted as done.
    pub fn density_at(&self, target: f64, progress: &Progress) -> f64 {
        let schedule = self.schedule(progress.epochs, progress.iterations);
        let event = schedule.period.last_event(progress);
        self.policy.density(target, schedule.intensity(target, &event).grown)
    }

    /// Mean over a run of the density of a layer of budgeted density `target`.
    pub fn mean_density(&self, target: f64, epochs: usize, iterations: usize) -> f64 {
        let schedule = self.schedule(epochs, iterations);
        let total = match schedule.period {
            Period::Epochs(_) => epochs,
            Period::Iterations(_) => iterations,
        };
        let held = |count: usize| {
            let now = match schedule.period {
                Period::Epochs(_) => Progress { epoch: count, epochs, iteration: count * iterations / epochs.max(1), iterations },
                Period::Iterations(_) => Progress { epoch: count * epochs / iterations.max(1), epochs, iteration: count, iterations },
            };
            let until = total.min(count + schedule.period.length());
            (until - count) as f64 * self.policy.density(target, schedule.intensity(target, &now).grown)
        };
        (0..total).step_by(schedule.period.length()).map(held).sum::<f64>() / total.max(1) as f64
    }

    /// Checks everything against the model's budgeted density and the length of the run.
    ///
    /// # Errors
    /// Every value that cannot work, each with its key and the nearest that does.
    pub fn validate(&self, density: f64, epochs: usize, iterations: usize) -> Result<(), Vec<MutationError>> {
        let mut errors = Vec::new();
        self.check_period(epochs, &mut errors);
        self.check_stages(epochs, iterations, &mut errors);
        self.check_drop(&mut errors);
        self.check_grow_to(density, &mut errors);
        if !(self.lambda >= 0.0 && self.lambda.is_finite()) {
            let why = "the weight of the gradient term is a number, at least 0".into();
            errors.push(MutationError {
                key: "importance-lambda",
                value: self.lambda.to_string(),
                why,
                nearest: if self.lambda < 0.0 { 0.0 } else { DEFAULT_LAMBDA }.to_string(),
            });
        }
        if errors.is_empty() {
            errors.extend(self.check_end(density, epochs, iterations).err());
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn check_period(&self, epochs: usize, errors: &mut Vec<MutationError>) {
        let Some(every) = self.every else { return };
        let (valid, nearest) = match every {
            Span::Epochs(length) => (length > 0, Span::Epochs(1)),
            Span::Iterations(length) => (length > 0, Span::Iterations(1)),
            Span::Share(share) if share > 1.0 => (false, Span::Epochs(epochs as u64)),
            Span::Share(share) => (share > 0.0, Span::Epochs(1)),
        };
        if !valid {
            let why = "mutations must be at least one epoch or iteration, and at most the run, apart".into();
            errors.push(MutationError { key: "mutate-every", value: every.to_string(), why, nearest: nearest.to_string() });
        }
    }

    fn check_stages(&self, epochs: usize, iterations: usize, errors: &mut Vec<MutationError>) {
        let Some(stages) = &self.stages else { return };
        let share = |span: Span| match span {
            Span::Epochs(epoch) => epoch as f64 / epochs.max(1) as f64,
            Span::Iterations(iteration) => iteration as f64 / iterations.max(1) as f64,
            Span::Share(share) => share,
        };
        let mut error = |why: &str, nearest: &[Span]| {
            errors.push(MutationError { key: "stages", value: list(stages), why: why.into(), nearest: list(nearest) });
        };
        let inside: Vec<Span> = stages.iter().copied().filter(|&span| share(span) > 0.0 && share(span) < 1.0).collect();
        if inside.len() < stages.len() {
            let nearest = if inside.is_empty() { &DEFAULT_STAGES[..] } else { &inside };
            return error("each stage begins after the run's beginning and before its end", nearest);
        }
        if !stages.is_sorted_by(|&a, &b| share(a) < share(b)) {
            let mut sorted = inside;
            sorted.sort_by(|&a, &b| share(a).total_cmp(&share(b)));
            sorted.dedup_by(|a, b| share(*a) == share(*b));
            error("stages follow one another", &sorted);
        }
    }

    fn check_drop(&self, errors: &mut Vec<MutationError>) {
        let Some(drop) = &self.drop else { return };
        let stages = self.stages().len() + 1;
        let mut nearest: Vec<f64> = drop.iter().map(|&share| if share >= 0.0 { share.min(0.9) } else { 0.0 }).collect();
        nearest.resize(stages, 0.0);
        nearest[stages - 1] = 0.0;
        let why = if drop.len() != stages {
            format!("{} shares for {stages} stages", drop.len())
        } else if drop.iter().any(|share| !(0.0..1.0).contains(share)) {
            "a share of the live weights is at least 0 and below 1".into()
        } else if drop[stages - 1] != 0.0 {
            "the last stage drops nothing, so that what grew can train".into()
        } else {
            return;
        };
        errors.push(MutationError { key: "drop", value: list(drop), why, nearest: list(&nearest) });
    }

    fn check_grow_to(&self, density: f64, errors: &mut Vec<MutationError>) {
        let Some(grow_to) = &self.grow_to else { return };
        let stages = self.stages().len() + 1;
        let mut nearest: Vec<f64> = grow_to.iter().map(|grown| grown.clamp(density, 1.0)).collect();
        nearest.resize(stages, density);
        nearest[stages - 1] = density;
        let why = if grow_to.len() != stages {
            format!("{} densities for {stages} stages", grow_to.len())
        } else if grow_to.iter().any(|&grown| grown < density - SAME_DENSITY) {
            format!("it falls below the budgeted density {density}")
        } else if grow_to.iter().any(|&grown| grown.is_nan() || grown > 1.0) {
            "a density is at most 1".into()
        } else if (grow_to[stages - 1] - density).abs() > SAME_DENSITY {
            format!("the run must end at the budgeted density {density}")
        } else {
            return;
        };
        errors.push(MutationError { key: "grow-to", value: list(grow_to), why, nearest: list(&nearest) });
    }

    /// Whether the last event of the run brings the density to the budget.
    fn check_end(&self, density: f64, epochs: usize, iterations: usize) -> Result<(), MutationError> {
        let ends = |config: &MutationConfig| {
            let end = Progress { epoch: epochs.max(1) - 1, epochs, iteration: iterations.max(1) - 1, iterations };
            config.density_at(density, &end) <= density + SAME_DENSITY
        };
        if !self.policy.mutates() || ends(self) {
            return Ok(());
        }
        let period = self.period(epochs, iterations);
        let span = |length: usize| match period {
            Period::Epochs(_) => Span::Epochs(length as u64),
            Period::Iterations(_) => Span::Iterations(length as u64),
        };
        let why =
            format!("no mutation comes after the last stage begins, so a run of {epochs} epochs would end above the density {density}");
        let with_every = |length: usize| MutationConfig { every: Some(span(length)), ..self.clone() };
        let shorter = (1..period.length()).rev().find(|&length| ends(&with_every(length)));
        if let Some(length) = shorter {
            return Err(MutationError {
                key: "mutate-every",
                value: span(period.length()).to_string(),
                why,
                nearest: span(length).to_string(),
            });
        }
        let total = if matches!(period, Period::Epochs(_)) { epochs } else { iterations };
        let count = self.stages().len();
        if total <= count {
            let longer = |&longer: &usize| {
                let config = MutationConfig { every: Some(Span::Iterations(1)), ..self.clone() };
                let end = longer * iterations / epochs.max(1);
                let end = Progress { epoch: longer - 1, epochs: longer, iteration: end.max(1) - 1, iterations: end };
                config.density_at(density, &end) <= density + SAME_DENSITY
            };
            let enough = (epochs + 1..epochs + 1000).find(longer).unwrap_or(FEW_EPOCHS);
            return Err(MutationError { key: "epochs", value: epochs.to_string(), why, nearest: enough.to_string() });
        }
        // Even a mutation every epoch (or iteration) comes too late: the last stage itself must begin earlier.
        let last = (total - 1) / period.length() * period.length();
        let last = if last < count { total - 1 } else { last };
        let nearest: Vec<Span> = (1..=count).map(|stage| span(last * stage / count)).collect();
        Err(MutationError { key: "stages", value: list(&self.stages()), why, nearest: list(&nearest) })
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
