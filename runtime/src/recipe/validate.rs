//! What makes sense and what doesn't, all of it at once.

use super::{DataEfficiency, List, Loss, OptimizerName, Recipe, RecipeError, Removal, RemoveAt, ScheduleName, Span};
use crate::sampling::Rule;
use crate::sparse::Scheme;
use std::fmt::Display;

/// How far two densities may be apart and still be the same.
const SAME_DENSITY: f64 = 1e-9;
/// Iterations of an epoch, before the data tells their number: more than any small data set makes.
const MANY_ITERATIONS: usize = 1 << 20;
/// Largest seed that TOML can hold.
const LARGEST_SEED: u64 = i64::MAX as u64;

/// Collects mistakes.
#[derive(Default)]
struct Report(Vec<RecipeError>);

impl Report {
    fn add(&mut self, key: impl Into<String>, value: impl Display, why: impl Into<String>, nearest: impl Display) {
        self.0.push(RecipeError::Value { key: key.into(), value: value.to_string(), why: why.into(), nearest: nearest.to_string() });
    }

    /// From `low` to `high`, both included.
    fn within(&mut self, key: &str, value: f64, low: f64, high: f64) {
        if !(low..=high).contains(&value) {
            let nearest = if value > high { high } else { low };
            self.add(key, value, format!("must be from {low} to {high}"), nearest);
        }
    }

    /// Above `low` (excluded) and at most `high`; `near` is offered where it is too small.
    fn above(&mut self, key: &str, value: f64, low: f64, high: f64, near: f64) {
        if !(value > low && value <= high) {
            let range =
                if high == f64::MAX { format!("must be a number above {low}") } else { format!("must be above {low} and at most {high}") };
            self.add(key, value, range, if value > high { high } else { near });
        }
    }

    /// At least 0 and below 1.
    fn below_one(&mut self, key: &str, value: f64, near: f64) {
        if !(0.0..1.0).contains(&value) {
            self.add(key, value, "must be at least 0 and below 1", if value >= 1.0 { near } else { 0.0 });
        }
    }

    fn at_least_one(&mut self, key: &str, value: usize) {
        if value == 0 {
            self.add(key, value, "must be at least 1", 1);
        }
    }

    /// Refuses a key that another key leaves without effect.
    fn idle(&mut self, key: &str, value: Option<impl Display>, works: bool, condition: &str) {
        if let (Some(value), false) = (value, works) {
            self.add(key, value, format!("has an effect only with {condition}"), format!("leaving {key} out"));
        }
    }
}

impl Recipe {
    /// Whether every value makes sense, by itself and with the others.
    ///
    /// # Errors
    /// All mistakes, each naming its key, its value and the nearest one that works.
    pub fn validate(&self) -> Result<(), Vec<RecipeError>> {
        let mut report = Report::default();
        self.validate_density(&mut report);
        self.validate_mutation(&mut report);
        self.validate_data_efficiency(&mut report);
        self.validate_validation(&mut report);
        self.validate_objective(&mut report);
        self.validate_optimizer(&mut report);
        self.validate_schedule(&mut report);
        self.validate_run(&mut report);
        if report.0.is_empty() { Ok(()) } else { Err(report.0) }
    }

    fn validate_density(&self, report: &mut Report) {
        if let Some(density) = self.density {
            report.above("density", density, 0.0, 1.0, 0.01);
        }
        if let Some(sparsity) = self.sparsity {
            report.below_one("sparsity", sparsity, 0.99);
        }
        if let (Some(density), Some(sparsity)) = (self.density, self.sparsity)
            && (density + sparsity - 1.0).abs() > SAME_DENSITY
        {
            let why = format!("contradicts sparsity = {sparsity}; give one of them");
            report.add("density", density, why, round(1.0 - sparsity));
        }
        self.validate_scheme(report);
        for (name, layer) in &self.layers {
            let table = format!("layers.\"{name}\"");
            if let Some(density) = layer.density {
                report.above(&format!("{table}.density"), density, 0.0, 1.0, 0.01);
            }
            let shaped = layer.density.is_some() || layer.scheme.is_some();
            if layer.dense == Some(true) && shaped {
                report.add(format!("{table}.dense"), true, "contradicts the density or scheme beside it", false);
            }
        }
    }

    /// Whether the densities are ones that the schemes can have.
    fn validate_scheme(&self, report: &mut Report) {
        if let Err(error) = self.patterns() {
            let value = self.pattern.as_ref().map_or_else(String::new, |pattern| format!("{:?}", pattern.library));
            report.0.push(RecipeError::Kind { key: "pattern.library".to_owned(), value, why: error.to_string() });
        }
        let contradicts = |scheme: Scheme, density: f64| scheme.density().filter(|own| (own - density).abs() > SAME_DENSITY);
        let why = |scheme: Scheme| format!("contradicts scheme = {scheme}, which decides it");
        if self.policy.0.name() != "dense"
            && let Some(own) = contradicts(self.scheme, self.density())
        {
            match (self.density, self.sparsity) {
                (Some(density), _) => report.add("density", density, why(self.scheme), own),
                (_, sparsity) => report.add("sparsity", sparsity.unwrap_or_default(), why(self.scheme), round(1.0 - own)),
            }
        }
        for (name, layer) in &self.layers {
            let scheme = layer.scheme.unwrap_or(self.scheme);
            if let Some((density, own)) = layer.density.and_then(|density| Some((density, contradicts(scheme, density)?))) {
                report.add(format!("layers.\"{name}\".density"), density, why(scheme), own);
            }
        }
    }

    fn validate_mutation(&self, report: &mut Report) {
        let (soft, mutates) = (self.policy.0.name() == "mest-ems", self.policy.0.mutates());
        report.idle("drop", self.drop.as_ref(), mutates && !soft, "policy = mest-em, set or rigl");
        report.idle("grow-to", self.grow_to.as_ref(), soft, "policy = mest-ems");
        report.idle("stages", self.stages.as_ref(), mutates, "a policy that mutates");
        report.idle("grow", self.grow, mutates, "a policy that mutates");
        report.idle("mutate-every", self.mutate_every, mutates || self.sieve.is_some(), "a policy that mutates, or sieve");
        let density = self.density();
        let counts_iterations = self.stages.iter().flat_map(|stages| stages.iter()).chain(&self.mutate_every);
        let told = !counts_iterations.into_iter().any(|span| matches!(span, Span::Iterations(_)));
        if mutates && told && density > 0.0 && density <= 1.0 && self.epochs > 0 {
            let iterations = self.epochs.saturating_mul(MANY_ITERATIONS);
            let mistakes = self.mutation().validate(density, self.epochs, iterations).err();
            report.0.extend(mistakes.into_iter().flatten().map(RecipeError::from));
        }
    }

    /// What [`Recipe::validate`] can't tell before the data is known: whether mutations, stages and the end of the run come in iterations
    /// that there are.
    ///
    /// # Errors
    /// All mistakes, as in [`Recipe::validate`].
    pub fn validate_length(&self, iterations_per_epoch: usize) -> Result<(), Vec<RecipeError>> {
        let iterations = self.epochs.saturating_mul(iterations_per_epoch);
        let mut report = Report::default();
        if let Some(Span::Iterations(every)) = self.mutate_every
            && every as u128 > iterations as u128
        {
            report.add("mutate-every", Span::Iterations(every), format!("is more than the run's {iterations} iterations"), Span::Epochs(1));
        } else if self.policy.0.mutates() {
            let mistakes = self.mutation().validate(self.density(), self.epochs, iterations).err();
            report.0.extend(mistakes.into_iter().flatten().map(RecipeError::from));
        }
        if report.0.is_empty() { Ok(()) } else { Err(report.0) }
    }

    fn validate_validation(&self, report: &mut Report) {
        if let Some(share) = self.validation {
            report.above("validation", share, 0.0, 0.9, 0.1);
        }
        report.idle("early-stop", self.early_stop, self.validation.is_some(), "validation");
        if let Some(epochs) = self.early_stop {
            report.at_least_one("early-stop", epochs);
        }
        if let Some(outputs) = self.reset_head {
            report.at_least_one("reset-head", outputs);
        }
    }

    fn validate_data_efficiency(&self, report: &mut Report) {
        let (on, removes) = (self.data_efficiency == DataEfficiency::Forgetting, self.sieve.is_none());
        report.idle("sieve", self.sieve, on, "data-efficiency = forgetting");
        for (key, value) in [("remove-at", self.remove_at.map(|at| at.to_string())), ("remove", self.remove.map(|it| it.to_string()))] {
            report.idle(key, value, on && removes, if on { "a removal, not with sieve" } else { "data-efficiency = forgetting" });
        }
        if let Some(share) = self.sieve {
            report.above("sieve", share, 0.0, 0.99, 0.2);
        }
        if self.remove == Some(Removal::Number(0)) {
            report.add("remove", 0, "must be at least 1", 1);
        }
        if !on || !removes || self.epochs == 0 {
            return;
        }
        let last = self.epochs - 1;
        if last == 0 {
            report.add("epochs", 1, "data-efficiency = forgetting counts for an epoch at least before it removes", 2);
            return;
        }
        match self.remove_at {
            Some(at @ RemoveAt::Moment(Span::Epochs(epoch))) if epoch == 0 || epoch > last as u64 => {
                let why = format!("examples are removed before an epoch that has one before it, of {}", self.epochs);
                report.add("remove-at", at, why, Span::Epochs(epoch.clamp(1, last as u64)));
            }
            Some(at @ RemoveAt::Moment(Span::Share(share))) if !(share > 0.0 && share < 1.0) => {
                report.add(
                    "remove-at",
                    at,
                    "must lie within the run",
                    if share > 0.0 { last as f64 / self.epochs as f64 } else { 7.0 / 16.0 },
                );
            }
            Some(at @ RemoveAt::Moment(Span::Iterations(_))) => {
                report.add("remove-at", at, "examples are removed between epochs", Span::Epochs((self.epochs * 7 / 16).max(1) as u64));
            }
            _ => {}
        }
    }

    /// What only the number of training examples shows: whether a removal leaves a batch to train on.
    ///
    /// # Errors
    /// The mistake, as in [`Recipe::validate`].
    pub fn validate_examples(&self, examples: usize) -> Result<(), Vec<RecipeError>> {
        let most = examples.saturating_sub(self.batch);
        let mut report = Report::default();
        if let Some(Rule::Remove(Removal::Number(number), _)) = self.examples_rule(1)
            && number > most
        {
            let nearest = if most > 0 { most.to_string() } else { "a batch below the number of examples".to_owned() };
            report.add("remove", number, format!("leaves no batch of {} of {examples} training examples", self.batch), nearest);
        }
        if report.0.is_empty() { Ok(()) } else { Err(report.0) }
    }

    fn validate_objective(&self, report: &mut Report) {
        report.below_one("label-smoothing", self.label_smoothing, 0.9);
        if self.loss == Loss::Mse && self.label_smoothing != 0.0 {
            report.add("label-smoothing", self.label_smoothing, "has an effect only with loss = cross-entropy", 0);
        }
    }

    fn validate_optimizer(&self, report: &mut Report) {
        report.above("lr", self.learning_rate(), 0.0, f64::MAX, if self.optimizer == OptimizerName::Sgd { 0.1 } else { 1e-3 });
        report.below_one("momentum", self.momentum, 0.99);
        if self.nesterov && (self.momentum == 0.0 || self.optimizer != OptimizerName::Sgd) {
            report.add("nesterov", true, "needs optimizer = sgd with momentum", false);
        }
        if self.betas.len() != 2 {
            report.add("betas", &self.betas, "two values are needed", "0.9,0.999");
        }
        for &beta in self.betas.iter() {
            report.below_one("betas", beta, 0.999);
        }
        report.above("eps", self.eps, 0.0, f64::MAX, 1e-8);
        report.within("weight-decay", self.weight_decay, 0.0, f64::MAX);
        if let Some(norm) = self.clip_norm {
            report.above("clip-norm", norm, 0.0, f64::MAX, 1.0);
        }
    }

    fn validate_schedule(&self, report: &mut Report) {
        let step = self.lr_schedule == ScheduleName::Step;
        report.idle("milestones", self.milestones.as_ref(), step, "lr-schedule = step");
        match &self.milestones {
            Some(milestones) => self.validate_moments(report, "milestones", milestones),
            None if step => report.add("lr-schedule", "step", "needs milestones", "milestones = 0.5,0.75 beside it"),
            None => {}
        }
        report.above("gamma", self.gamma, 0.0, 1.0, 0.1);
        report.within("floor", self.floor, 0.0, self.learning_rate());
        if let Some(warmup) = self.warmup
            && self.part_of_run(warmup).is_some_and(|share| share >= 1.0)
        {
            report.add(
                "warmup",
                warmup,
                format!("leaves nothing of {} epochs", self.epochs),
                Span::Epochs(self.epochs.saturating_sub(1) as u64),
            );
        }
    }

    fn validate_run(&self, report: &mut Report) {
        report.at_least_one("batch", self.batch);
        report.at_least_one("epochs", self.epochs);
        if let Some(threads) = self.threads {
            report.at_least_one("threads", threads);
        }
        if self.seed > LARGEST_SEED {
            report.add("seed", self.seed, "is more than a TOML file can hold", LARGEST_SEED);
        }
        if let Some(Err(error)) = self.data.as_deref().map(crate::data::format) {
            let (key, value) = ("data".to_owned(), self.data.clone().unwrap_or_default());
            report.0.push(RecipeError::Kind { key, value, why: error.to_string() });
        }
    }

    /// How much of the run has passed at a moment, where that can be told before the data is known.
    fn part_of_run(&self, moment: Span) -> Option<f64> {
        match moment {
            Span::Epochs(epochs) => Some(epochs as f64 / self.epochs.max(1) as f64),
            Span::Share(share) => Some(share),
            Span::Iterations(_) => None,
        }
    }

    /// Moments must come in order and before the end.
    fn validate_moments(&self, report: &mut Report, key: &str, moments: &List<Span>) {
        let parts: Vec<f64> = moments.iter().filter_map(|&moment| self.part_of_run(moment)).collect();
        if let Some(&late) = parts.iter().find(|&&part| part >= 1.0) {
            let why = format!("one lies at or after the end of {} epochs", self.epochs);
            report.add(
                key,
                moments,
                why,
                format!("{} or earlier in place of {}", self.epochs.saturating_sub(1), late * self.epochs as f64),
            );
        }
        let counts: Vec<u64> =
            moments.iter().filter_map(|moment| if let Span::Iterations(count) = moment { Some(*count) } else { None }).collect();
        if !parts.is_sorted_by(|a, b| a < b) || !counts.is_sorted_by(|a, b| a < b) {
            report.add(key, moments, "must ascend", "the same in ascending order");
        }
    }
}

/// Without the noise of a subtraction from 1.
fn round(density: f64) -> f64 {
    (density * 1e9).round() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::RemovalMoment;

    fn mistakes(flags: &[(&str, &str)]) -> Vec<String> {
        let recipe = Recipe::default().with(flags.iter().copied()).unwrap();
        recipe.validate().err().unwrap_or_default().iter().map(RecipeError::to_string).collect()
    }

    /// Flags, what one message begins with, and what it offers.
    type Case = (&'static [(&'static str, &'static str)], &'static str, &'static str);

    #[test]
    fn the_default_and_the_published_recipes_are_valid() {
        let em: &[(&str, &str)] = &[("policy", "mest-em"), ("drop", "0.2,0.1,0"), ("stages", "90,120"), ("mutate-every", "5ep")];
        let ems: &[(&str, &str)] = &[("sparsity", "0.9"), ("grow-to", "0.15,0.125,0.1"), ("stages", "90,120")];
        let step: &[(&str, &str)] = &[("lr-schedule", "step"), ("milestones", "80,120"), ("data", "cifar10:x"), ("warmup", "8")];
        let fewer: &[(&str, &str)] = &[("data-efficiency", "forgetting"), ("remove-at", "70"), ("remove", "12000")];
        let sieve: &[(&str, &str)] = &[("data-efficiency", "forgetting"), ("sieve", "0.2"), ("policy", "static"), ("mutate-every", "5")];
        for flags in [&[][..], em, ems, step, fewer, sieve] {
            assert_eq!(mistakes(flags), Vec::<String>::new(), "{flags:?}");
        }
    }

    #[test]
    fn each_mistake_names_key_value_and_a_way_out() {
        let cases: &[Case] = &[
            (&[("density", "0")], "density = 0:", "0.01"),
            (&[("density", "1.5")], "density = 1.5:", "is 1"),
            (&[("sparsity", "1")], "sparsity = 1:", "0.99"),
            (&[("density", "0.2"), ("sparsity", "0.9")], "density = 0.2: contradicts sparsity = 0.9", "is 0.1"),
            (&[("batch", "0")], "batch = 0:", "is 1"),
            (&[("epochs", "0")], "epochs = 0:", "is 1"),
            (&[("threads", "0")], "threads = 0:", "is 1"),
            (&[("lr", "0")], "lr = 0:", "0.1"),
            (&[("lr", "-1"), ("optimizer", "adam")], "lr = -1:", "0.001"),
            (&[("momentum", "1")], "momentum = 1:", "0.99"),
            (&[("momentum", "0"), ("nesterov", "true")], "nesterov = true:", "false"),
            (&[("betas", "0.9")], "betas = 0.9:", "0.9,0.999"),
            (&[("betas", "0.9,1")], "betas = 1:", "0.999"),
            (&[("eps", "0")], "eps = 0:", "0.00000001"),
            (&[("weight-decay", "-0.1")], "weight-decay = -0.1:", "is 0"),
            (&[("clip-norm", "0")], "clip-norm = 0:", "is 1"),
            (&[("label-smoothing", "1")], "label-smoothing = 1:", "0.9"),
            (&[("label-smoothing", "0.1"), ("loss", "mse")], "label-smoothing = 0.1:", "is 0"),
            (&[("gamma", "2")], "gamma = 2:", "is 1"),
            (&[("floor", "0.5")], "floor = 0.5:", "0.1"),
            (&[("warmup", "160")], "warmup = 160ep:", "159ep"),
            (&[("lr-schedule", "step")], "lr-schedule = step:", "milestones"),
            (&[("milestones", "3")], "milestones = 3ep:", "leaving milestones out"),
            (&[("lr-schedule", "step"), ("milestones", "90,80")], "milestones = 90ep,80ep:", "ascending"),
            (&[("stages", "90,160")], "stages = 90ep,160ep:", "90ep"),
            (&[("stages", "160,200")], "stages = 160ep,200ep:", "0.5625,0.75"),
            (&[("stages", "90,120"), ("grow-to", "0.2,0.1")], "grow-to = 0.2,0.1: 2 densities", "0.2,0.1,0.1"),
            (&[("grow-to", "0.2,0.15,0.12")], "grow-to = 0.2,0.15,0.12:", "0.2,0.15,0.1"),
            (&[("grow-to", "0.05,0.2,0.1")], "grow-to = 0.05,0.2,0.1:", "0.1,0.2,0.1"),
            (&[("policy", "mest-em"), ("drop", "0.2,0.1,0.1")], "drop = 0.2,0.1,0.1:", "0.2,0.1,0"),
            (&[("mutate-every", "100")], "mutate-every = 100ep:", "ep"),
            (&[("drop", "0.2,0.1,0")], "drop = 0.2,0.1,0: has an effect only with policy = mest-em, set or rigl", "leaving drop out"),
            (&[("policy", "snip"), ("stages", "90,120")], "stages = 90ep,120ep:", "leaving stages out"),
            (&[("scheme", "nm:2:4"), ("sparsity", "0.9")], "sparsity = 0.9: contradicts scheme = nm:2:4", "is 0.5"),
            (&[("scheme", "nm:1:4"), ("density", "0.5")], "density = 0.5: contradicts scheme = nm:1:4", "is 0.25"),
            (&[("policy", "static"), ("grow", "random:4")], "grow = random:4: has an effect only with", "leaving grow out"),
            (&[("mutate-every", "0ep")], "mutate-every = 0ep:", "1ep"),
            (&[("seed", "9300000000000000000")], "seed = 9300000000000000000:", "9223372036854775807"),
            (&[("remove", "10")], "remove = 10: has an effect only with data-efficiency = forgetting", "leaving remove out"),
            (&[("sieve", "0.2")], "sieve = 0.2: has an effect only with data-efficiency = forgetting", "leaving sieve out"),
            (&[("data-efficiency", "forgetting"), ("sieve", "1.5")], "sieve = 1.5:", "0.99"),
            (&[("data-efficiency", "forgetting"), ("sieve", "0.2"), ("remove", "9")], "remove = 9:", "leaving remove out"),
            (&[("data-efficiency", "forgetting"), ("remove", "0")], "remove = 0:", "is 1"),
            (&[("data-efficiency", "forgetting"), ("remove-at", "0")], "remove-at = 0ep:", "1ep"),
            (&[("data-efficiency", "forgetting"), ("remove-at", "160")], "remove-at = 160ep:", "159ep"),
            (&[("data-efficiency", "forgetting"), ("remove-at", "1.0")], "remove-at = 1.0:", "0.99"),
            (&[("data-efficiency", "forgetting"), ("remove-at", "100it")], "remove-at = 100it:", "70ep"),
            (&[("data-efficiency", "forgetting"), ("epochs", "1"), ("policy", "static")], "epochs = 1:", "is 2"),
            (&[("validation", "1")], "validation = 1:", "is 0.9"),
            (&[("early-stop", "3")], "early-stop = 3: has an effect only with validation", "leaving early-stop out"),
            (&[("validation", "0.1"), ("early-stop", "0")], "early-stop = 0:", "is 1"),
            (&[("reset-head", "0")], "reset-head = 0:", "is 1"),
            (&[("data", "cifar:x")], "data = cifar:x:", "did you mean cifar10"),
        ];
        for (flags, start, offer) in cases {
            let found = mistakes(flags);
            assert!(found.iter().any(|text| text.starts_with(start) && text.contains(offer)), "{flags:?}: {found:?}");
        }
    }

    #[test]
    fn a_scheme_that_decides_its_density_needs_none() {
        let recipe = |flags: &[(&str, &str)]| Recipe::default().with(flags.iter().copied()).unwrap();
        assert_eq!(recipe(&[("scheme", "nm:2:4")]).density(), 0.5);
        for flags in
            [&[("scheme", "nm:2:4")][..], &[("scheme", "nm:2:8"), ("sparsity", "0.75")], &[("scheme", "nm:2:4"), ("policy", "dense")]]
        {
            assert_eq!(recipe(flags).validate(), Ok(()), "{flags:?}");
        }
        let mut layers = recipe(&[("scheme", "nm:2:4")]);
        layers.layers.insert("fc".to_owned(), super::super::LayerRecipe { density: Some(0.2), ..Default::default() });
        let found = layers.validate().unwrap_err();
        assert!(found[0].to_string().starts_with("layers.\"fc\".density = 0.2: contradicts scheme = nm:2:4"), "{found:?}");
        let library =
            |library: &[u16]| Recipe { pattern: Some(super::super::PatternRecipe { library: library.to_vec() }), ..Recipe::default() };
        assert_eq!(library(&[27, 54]).validate(), Ok(()));
        let found = library(&[27, 1]).validate().unwrap_err();
        assert!(found[0].to_string().contains("pattern.library = [27, 1]") && found[0].to_string().contains("432"), "{found:?}");
    }

    #[test]
    fn iterations_are_checked_once_their_number_is_known() {
        let with = |flags: &[(&str, &str)]| Recipe::default().with(flags.iter().copied()).unwrap();
        let sound = with(&[("mutate-every", "100it"), ("stages", "1000it,2000it")]);
        assert!(sound.validate().is_ok() && sound.validate_length(100).is_ok());
        let late = sound.validate_length(10).unwrap_err();
        assert!(late[0].to_string().starts_with("stages = 1000it,2000it:"), "{late:?}");
        let rare = with(&[("mutate-every", "999999999999999it")]).validate_length(10).unwrap_err();
        assert!(rare[0].to_string().contains("the run's 1600 iterations"), "{rare:?}");
        assert!(with(&[("mutate-every", "0it")]).validate_length(10).is_err());
        assert!(with(&[("epochs", "1")]).validate_length(2).is_err(), "no room for three stages");
    }

    #[test]
    fn the_rule_for_examples_follows_the_run() {
        let rule = |flags: &[(&str, &str)]| {
            let flags = [("data-efficiency", "forgetting")].into_iter().chain(flags.iter().copied());
            Recipe::default().with(flags).unwrap().examples_rule(100)
        };
        assert_eq!(Recipe::default().examples_rule(100), None);
        assert_eq!(rule(&[]), Some(Rule::Remove(Removal::Unforgettable(0), RemovalMoment::Epoch(70))));
        assert_eq!(rule(&[("remove-at", "settled"), ("remove", "0.2")]), Some(Rule::Remove(Removal::Share(0.2), RemovalMoment::Settled)));
        assert_eq!(rule(&[("sieve", "0.2")]), Some(Rule::Sieve { share: 0.2, every: 5 }));
        assert_eq!(rule(&[("sieve", "0.2"), ("mutate-every", "250it")]), Some(Rule::Sieve { share: 0.2, every: 3 }));
        let many = Recipe::default().with([("data-efficiency", "forgetting"), ("remove", "1400")]).unwrap();
        assert!(many.validate_examples(1464).is_ok());
        let error = many.validate_examples(1437).unwrap_err();
        assert!(error[0].to_string().starts_with("remove = 1400:") && error[0].to_string().ends_with("is 1373"), "{error:?}");
    }

    #[test]
    fn all_mistakes_come_at_once() {
        let mut recipe = Recipe { batch: 0, lr: Some(f64::NAN), momentum: f64::NAN, eps: f64::INFINITY, ..Recipe::default() };
        let layer = super::super::LayerRecipe { density: Some(2.0), dense: Some(true), ..Default::default() };
        recipe.layers.insert("fc.weight".to_owned(), layer);
        let found = recipe.validate().unwrap_err();
        let text = found.iter().map(RecipeError::to_string).collect::<Vec<_>>().join("\n");
        for key in ["batch", "lr", "momentum", "eps", "layers.\"fc.weight\".density", "layers.\"fc.weight\".dense"] {
            assert!(text.contains(&format!("{key} = ")), "{key}: {text}");
        }
    }
}
