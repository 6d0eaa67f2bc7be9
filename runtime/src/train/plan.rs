//! A recipe, applied to a number of examples: everything counted in iterations.

use crate::mutation::{MutationConfig, Progress};
use crate::optim::{LearningRate, Optimizer, Schedule};
use crate::recipe::{Recipe, RecipeError, ScheduleName, Span};
use std::ops::Range;

/// The length of a run and what changes over it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Epochs of the run.
    pub epochs: usize,
    /// Iterations of an epoch: batches that the training split makes, the last one partial.
    pub per_epoch: usize,
    /// The update rule.
    pub optimizer: Optimizer,
    /// The learning rate over the run.
    pub learning_rate: LearningRate,
    /// When and how masks change.
    pub mutation: MutationConfig,
    /// What the sparse layers' density ends at.
    pub density: f64,
}

impl Plan {
    /// Of a recipe and `examples` training examples.
    ///
    /// # Errors
    /// All mistakes of the recipe, those that only the number of examples shows included.
    pub fn new(recipe: &Recipe, examples: usize) -> Result<Self, Vec<RecipeError>> {
        recipe.validate()?;
        let per_epoch = examples.div_ceil(recipe.batch).max(1);
        recipe.validate_length(per_epoch)?;
        recipe.validate_examples(examples)?;
        Ok(Plan {
            epochs: recipe.epochs,
            per_epoch,
            optimizer: recipe.update_rule(),
            learning_rate: learning_rate(recipe, per_epoch),
            mutation: recipe.mutation(),
            density: recipe.density(),
        })
    }

    /// The moment before iteration `iteration` of the run, counted from 0.
    pub fn progress(&self, iteration: usize) -> Progress {
        let iterations = self.epochs * self.per_epoch;
        Progress { epoch: iteration / self.per_epoch, epochs: self.epochs, iteration, iterations }
    }

    /// The epoch, counted from 0, from which on masks have the density that the run ends at.
    pub fn settled_epoch(&self) -> usize {
        let ends_at = |epoch: usize| self.mutation.density_at(self.density, &self.progress((epoch + 1) * self.per_epoch - 1));
        let settled = |&epoch: &usize| ends_at(epoch) <= self.density * (1.0 + 1e-9);
        (0..self.epochs).rev().take_while(settled).last().unwrap_or(self.epochs)
    }

    /// Iterations of the plan that iteration `iteration` of the `of` of epoch `epoch` stands for: itself, unless examples are left out.
    /// Schedules are stated by epoch, so a shorter epoch passes through all that was planned for it, in larger steps.
    pub fn planned(&self, epoch: usize, iteration: usize, of: usize) -> Range<usize> {
        let at = |iteration: usize| epoch * self.per_epoch + iteration * self.per_epoch / of.max(1);
        at(iteration)..at(iteration + 1)
    }
}

fn learning_rate(recipe: &Recipe, per_epoch: usize) -> LearningRate {
    let epochs = |span: Span| match span {
        Span::Epochs(epochs) => epochs as f64,
        Span::Iterations(iterations) => iterations as f64 / per_epoch as f64,
        Span::Share(share) => share * recipe.epochs as f64,
    };
    let schedule = match recipe.lr_schedule {
        ScheduleName::Cosine => Schedule::Cosine,
        ScheduleName::Constant => Schedule::Constant,
        ScheduleName::Step => {
            let milestones = recipe.milestones.iter().flat_map(|milestones| milestones.iter());
            Schedule::Step { milestones: milestones.map(|&span| epochs(span)).collect(), gamma: recipe.gamma }
        }
    };
    let warmup = recipe.warmup.map_or(0.0, epochs);
    LearningRate { base: recipe.learning_rate(), schedule, floor: recipe.floor, warmup, per_iteration: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_batch_is_an_iteration() {
        let recipe = Recipe { batch: 64, epochs: 3, ..Recipe::default() };
        let plan = Plan::new(&recipe, 1437).unwrap();
        assert_eq!(plan.per_epoch, 23);
        let progress = plan.progress(24);
        assert_eq!((progress.epoch, progress.epochs, progress.iteration, progress.iterations), (1, 3, 24, 69));
    }

    #[test]
    fn a_shorter_epoch_passes_through_the_whole_plan() {
        let plan = Plan::new(&Recipe { batch: 64, epochs: 3, ..Recipe::default() }, 1437).unwrap();
        for of in 1..=23 {
            let spans: Vec<_> = (0..of).map(|iteration| plan.planned(2, iteration, of)).collect();
            assert_eq!((spans[0].start, spans[of - 1].end), (46, 69), "{of}");
            assert!(spans.windows(2).all(|pair| pair[0].end == pair[1].start) && spans.iter().all(|span| !span.is_empty()));
        }
        assert_eq!(plan.planned(1, 5, 23), 28..29);
    }

    #[test]
    fn masks_settle_with_the_last_stage() {
        let plan = |flags: &[(&str, &str)]| Plan::new(&Recipe::default().with(flags.iter().copied()).unwrap(), 640).unwrap();
        assert_eq!(plan(&[]).settled_epoch(), 120);
        assert_eq!(plan(&[("policy", "set")]).settled_epoch(), 0);
        assert_eq!(plan(&[("epochs", "16"), ("stages", "4,8")]).settled_epoch(), 8);
    }

    #[test]
    fn spans_of_the_schedule_are_epochs() {
        let flags = [("lr-schedule", "step"), ("milestones", "10,0.5,1380it"), ("warmup", "46it"), ("epochs", "40"), ("gamma", "0.5")];
        let plan = Plan::new(&Recipe::default().with(flags).unwrap(), 1437).unwrap();
        assert_eq!(plan.learning_rate.schedule, Schedule::Step { milestones: vec![10.0, 20.0, 60.0], gamma: 0.5 });
        assert_eq!((plan.learning_rate.warmup, plan.learning_rate.base), (2.0, 0.1));
    }

    #[test]
    fn every_optimizer_has_its_rule() {
        let rule = |flags: &[(&str, &str)]| Recipe::default().with(flags.iter().copied()).unwrap().update_rule();
        assert_eq!(rule(&[("nesterov", "true")]), Optimizer::Sgd { momentum: 0.9, nesterov: true });
        assert_eq!(rule(&[("optimizer", "adam"), ("betas", "0.8,0.9")]), Optimizer::Adam { betas: [0.8, 0.9], eps: 1e-8 });
        assert_eq!(rule(&[("optimizer", "adamw"), ("eps", "1e-6")]), Optimizer::AdamW { betas: [0.9, 0.999], eps: 1e-6 });
    }
}
