//! Epochs of iterations, from the recipe to the report.

use super::checkpoint::{Checkpoint, CheckpointError, Position};
use super::evaluate::{Targets, check_fit, check_tokens, evaluate, right};
use super::metrics::processor_s;
use super::{BEST_CHECKPOINT, CHECKPOINT, EpochMetrics, FitReport, Observer, Plan, Step, TrainError};
use crate::data::{Dataset, Split, loader::Batch, loader::Loader};
use crate::manifest::{Element, Manifest, Storage};
use crate::mutation::{DenseGradients, Mutator, Progress};
use crate::network::{self, Network, Phase, StepReport, UpdateRule, with_parts};
use crate::recipe::Recipe;
use crate::sampling::{Sampling, Selective, Uniform};
use crate::sparse::Units;
use crate::sparse::state::{self, StateError};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Puts a network into the state that a run of `recipe` begins with: the model's weights under initial masks, no moments.
///
/// # Errors
/// A model that doesn't hold what its description says.
pub fn initialize(net: &mut dyn Network, recipe: &Recipe) -> Result<(), StateError> {
    let masks = recipe.policy.0.initial_masks();
    with_parts(net, |manifest, arena| state::initialize(manifest, arena, &masks, recipe.seed))
}

/// Trains `net`, which has been initialised (see [`initialize`]), on `data` as `recipe` says.
///
/// In `run_dir`, created if absent, every epoch leaves a checkpoint and the metrics so far. With `resume`, a checkpoint that is there is gone on from,
/// whatever state `net` is in, and the result is the same bit for bit as that of a run that was never interrupted; without a checkpoint the run begins.
///
/// # Errors
/// [`TrainError::is_refusal`] tells what was refused before the first step from what failed later; the last checkpoint stays in either case.
pub fn fit(
    net: &mut dyn Network,
    data: &Dataset,
    recipe: &Recipe,
    run_dir: Option<&Path>,
    resume: bool,
    observer: &mut dyn Observer,
) -> Result<FitReport, TrainError> {
    let mut run = Run::new(net, data, recipe, run_dir)?;
    if resume {
        run.resume()?;
    }
    observer.begin(run.done, recipe.epochs);
    while run.done < recipe.epochs && !run.stopped_early() {
        let metrics = run.epoch(observer)?;
        if observer.epoch(&metrics).is_break() {
            break;
        }
    }
    run.keep_best()?;
    Ok(run.report())
}

/// Whether `recipe` can train the network of `manifest` on `data`: what [`fit`] refuses, before anything is written.
///
/// # Errors
/// All mistakes of the recipe, or data that doesn't fit the network.
pub fn check(manifest: &Manifest, data: &Dataset, recipe: &Recipe) -> Result<Plan, TrainError> {
    let plan = Plan::new(recipe, data.train.len()).map_err(TrainError::Recipe)?;
    check_fit(manifest, data)?;
    check_data(manifest, data, recipe)?;
    check_vocabulary(manifest, data, recipe)?;
    check_capacity(manifest, &plan)?;
    Ok(plan)
}

/// Sums over the examples of an epoch, in their order.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    loss: f64,
    correct: usize,
    examples: usize,
}

impl Totals {
    fn add(&mut self, report: StepReport) {
        self.loss += report.loss * report.examples as f64;
        self.correct += report.correct;
        self.examples += report.examples;
    }

    fn loss(&self) -> f64 {
        self.loss / self.examples.max(1) as f64
    }

    fn accuracy(&self) -> f64 {
        self.correct as f64 / self.examples.max(1) as f64
    }
}

/// A training under way.
struct Run<'a> {
    net: &'a mut dyn Network,
    data: &'a Dataset,
    recipe: &'a Recipe,
    run_dir: Option<&'a Path>,
    plan: Plan,
    mutator: Mutator,
    /// What events read, and the batch they read it of.
    gradients: DenseGradients,
    probed: Batch,
    sampling: Box<dyn Sampling>,
    targets: Targets,
    data_hash: u64,
    /// Epochs done.
    done: usize,
    /// Iterations done.
    iterations: usize,
    metrics: Vec<EpochMetrics>,
    began: Instant,
    /// Seconds before this process.
    earlier_s: f64,
    /// With `early-stop`: the state after the epoch that it keeps.
    best: Option<Checkpoint>,
    /// The epoch whose weights the network has.
    kept_epoch: usize,
}

impl<'a> Run<'a> {
    fn new(net: &'a mut dyn Network, data: &'a Dataset, recipe: &'a Recipe, run_dir: Option<&'a Path>) -> Result<Self, TrainError> {
        let began = Instant::now();
        let plan = check(net.manifest(), data, recipe)?;
        if let Some(folder) = run_dir {
            let failed = |source| TrainError::Write { path: folder.to_owned(), source };
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mutator = Mutator::new(net.manifest(), plan.mutation.clone(), recipe.seed);
        let examples = data.train.len();
        let sampling: Box<dyn Sampling> = match recipe.examples_rule(plan.per_epoch) {
            Some(rule) => Box::new(Selective::new(rule, examples, recipe.batch, recipe.seed)),
            None => Box::new(Uniform::new(0..examples as u32, recipe.seed)),
        };
        Ok(Run {
            mutator,
            gradients: DenseGradients::default(),
            probed: Batch::default(),
            plan,
            sampling,
            targets: Targets::new(data.classes),
            data_hash: data.train.fingerprint(),
            done: 0,
            iterations: 0,
            metrics: Vec::new(),
            earlier_s: 0.0,
            best: None,
            kept_epoch: 0,
            net,
            data,
            recipe,
            run_dir,
            began,
        })
    }

    /// Whether what is held out has not been learned better for as many epochs as the recipe waits.
    fn stopped_early(&self) -> bool {
        let Some(patience) = self.recipe.early_stop else { return false };
        self.best_epoch().is_some_and(|best| self.metrics.len() >= best + patience)
    }

    /// The epoch of the smallest validation loss, counted from 1, of those whose masks have their final density: before the last stage they may be
    /// denser than the run may end at.
    fn best_epoch(&self) -> Option<usize> {
        let losses = self.metrics.iter().enumerate().skip(self.plan.settled_epoch());
        let losses = losses.filter_map(|(epoch, metrics)| Some((epoch + 1, metrics.validation_loss?)));
        losses.reduce(|best, next| if next.1 < best.1 { next } else { best }).map(|(epoch, _)| epoch)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.run_dir.map(|folder| folder.join(name))
    }

    /// Keeps the state, if no epoch has been better.
    fn remember_best(&mut self) -> Result<(), TrainError> {
        if self.recipe.early_stop.is_none() || self.best_epoch() != Some(self.done) {
            return Ok(());
        }
        let checkpoint = self.capture();
        if let Some(path) = self.path(BEST_CHECKPOINT) {
            checkpoint.write(&path)?;
        }
        self.best = Some(checkpoint);
        Ok(())
    }

    /// Puts the network back into the state of the best epoch, once the run has ended.
    fn keep_best(&mut self) -> Result<(), TrainError> {
        self.kept_epoch = self.done;
        let ended = self.done >= self.recipe.epochs || self.stopped_early();
        if let Some(best) = self.best.take().filter(|_| ended) {
            with_parts(self.net, |manifest, arena| best.restore(manifest, arena))?;
            self.kept_epoch = best.epoch as usize;
            self.write_metrics()?;
        }
        Ok(())
    }

    fn checkpoint_path(&self) -> Option<PathBuf> {
        self.path(CHECKPOINT)
    }

    /// Takes the state of the checkpoint, if there is one.
    fn resume(&mut self) -> Result<(), TrainError> {
        let Some(path) = self.checkpoint_path().filter(|path| path.exists()) else { return Ok(()) };
        let checkpoint = Checkpoint::read(&path)?;
        checkpoint.check_run(&path, self.recipe, &self.data.name, self.data_hash)?;
        self.sampling.restore(checkpoint.sampling.as_ref()).map_err(|why| CheckpointError::Corrupted { path: path.clone(), why })?;
        with_parts(self.net, |manifest, arena| checkpoint.restore(manifest, arena))?;
        self.done = checkpoint.epoch as usize;
        self.iterations = checkpoint.iteration as usize;
        self.metrics = checkpoint.metrics;
        self.earlier_s = checkpoint.wall_s;
        if let Some(path) = self.path(BEST_CHECKPOINT).filter(|path| self.best_epoch().is_some() && path.exists()) {
            self.best = Some(Checkpoint::read(&path)?).filter(|best| self.best_epoch() == Some(best.epoch as usize));
        }
        self.write_metrics()
    }

    fn epoch(&mut self, observer: &mut dyn Observer) -> Result<EpochMetrics, TrainError> {
        let (data, recipe, epoch) = (self.data, self.recipe, self.done);
        let batch = self.net.manifest().batch;
        let loader = Loader::new(data, &data.train, batch, recipe.normalization(data), recipe.augmentations(data), recipe.seed)?;
        self.sampling.begin(epoch);
        let order = self.sampling.order(epoch);
        let (began, processor_began, batches) = (Instant::now(), processor_s(), loader.batches(order.len()));
        let (mut totals, mut iteration, mut learning_rate) = (Totals::default(), 0, 0.0);
        loader.for_each(epoch, &order, |batch| -> Result<(), TrainError> {
            let planned = self.plan.planned(epoch, iteration, batches);
            learning_rate = self.plan.learning_rate.at(&self.plan.progress(planned.start));
            self.mutate(planned, &loader, epoch, &order[iteration * recipe.batch..], observer)?;
            totals.add(self.step(batch, learning_rate)?);
            iteration += 1;
            observer.step(&Step {
                epoch: epoch + 1,
                epochs: self.plan.epochs,
                iteration,
                iterations: batches,
                examples: batch.labels.len(),
                loss: totals.loss(),
                accuracy: totals.accuracy(),
                learning_rate,
            });
            Ok(())
        })?;
        self.sampling.end();
        let seconds = began.elapsed().as_secs_f64();
        let processor = processor_began.zip(processor_s()).map(|(began, now)| now - began);
        let validated = data.validation.as_ref().map(|split| evaluate(self.net, data, split, recipe)).transpose()?;
        let tested = evaluate(self.net, data, &data.test, recipe)?;
        let metrics = EpochMetrics {
            epoch: epoch as u32 + 1,
            train_loss: totals.loss(),
            train_accuracy: totals.accuracy(),
            test_loss: tested.loss,
            test_accuracy: tested.accuracy,
            density: state::density(self.net.manifest(), self.net.arena()),
            learning_rate,
            images_per_s: totals.examples as f64 / seconds.max(f64::MIN_POSITIVE),
            examples: totals.examples as u32,
            removed: self.sampling.removed() as u32,
            unforgettable: self.sampling.unforgettable().map(|count| count as u32),
            validation_loss: validated.as_ref().map(|validated| validated.loss),
            validation_accuracy: validated.as_ref().map(|validated| validated.accuracy),
            train_s: seconds,
            train_processor_s: processor,
        };
        self.metrics.push(metrics.clone());
        self.done += 1;
        self.kept_epoch = self.done;
        // Before the checkpoint that says so: a run that is interrupted in between does the epoch again.
        self.remember_best()?;
        self.write_checkpoint()?;
        self.write_metrics()?;
        Ok(metrics)
    }

    /// Changes the masks if it is time, once for all the iterations of the plan that the next one stands for. `order` is what the
    /// epoch has still to come.
    fn mutate(
        &mut self,
        planned: Range<usize>,
        loader: &Loader<'_>,
        epoch: usize,
        order: &[u32],
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let mut moments = planned.map(|iteration| self.plan.progress(iteration));
        if let Some(progress) = moments.find(|progress| self.mutator.due(progress)) {
            let batches = self.mutator.gradient_batches(&progress);
            let examples = &order[..order.len().min(batches * self.recipe.batch)];
            self.read_gradients(loader, epoch, examples, &progress)?;
            let (mutator, gradients) = (&mut self.mutator, Some(&self.gradients).filter(|_| !examples.is_empty()));
            let layers = with_parts(self.net, |manifest, arena| mutator.event(manifest, arena, &progress, gradients));
            observer.mutation(self.iterations as u64, layers);
        }
        Ok(())
    }

    /// Reads of `examples` what an event at `progress` wants.
    fn read_gradients(&mut self, loader: &Loader<'_>, epoch: usize, examples: &[u32], progress: &Progress) -> Result<(), TrainError> {
        self.gradients.clear();
        let mut batch = std::mem::take(&mut self.probed);
        for examples in examples.chunks(self.recipe.batch) {
            loader.fill(epoch, examples, &mut batch);
            self.load(&batch, 0.0)?;
            self.mutator.read_gradients(self.net, progress, &mut self.gradients);
        }
        self.probed = batch;
        Ok(())
    }

    /// Hands the network a batch and what its step takes besides.
    fn load(&mut self, batch: &Batch, learning_rate: f64) -> Result<(), TrainError> {
        self.targets.load(self.net, batch)?;
        let Recipe { weight_decay, clip_norm: max_norm, seed, .. } = *self.recipe;
        let rule = UpdateRule { optimizer: self.plan.optimizer, learning_rate, weight_decay, max_norm };
        network::load_step(self.net, &rule, seed, self.iterations as u64 + 1);
        Ok(())
    }

    /// One iteration: forward, backward, update.
    fn step(&mut self, batch: &Batch, learning_rate: f64) -> Result<StepReport, TrainError> {
        self.load(batch, learning_rate)?;
        self.net.run(Phase::Train);
        let mut report = network::report(self.net);
        if !report.loss.is_finite() {
            return Err(self.diverged(report.loss, learning_rate));
        }
        report.correct = self.record(batch);
        self.iterations += 1;
        Ok(report)
    }

    /// Tells the sampling which examples of the batch were right; their number.
    fn record(&mut self, batch: &Batch) -> usize {
        let io = &self.net.manifest().io;
        let mut hits = 0;
        let mut record = |&example: &u32, correct: bool| {
            hits += usize::from(correct);
            self.sampling.record(example, correct);
        };
        match io.target.element {
            // Example i of a batch is lane i.
            Element::U32 => {
                batch
                    .examples
                    .iter()
                    .zip(self.net.arena().floats(io.correct))
                    .for_each(|(example, &correct)| record(example, correct != 0.0));
            }
            Element::F32 | Element::Bf16 => {
                batch
                    .examples
                    .iter()
                    .zip(right(&network::output(self.net), &batch.labels))
                    .for_each(|(example, right)| record(example, right));
            }
        }
        hits
    }

    fn diverged(&self, loss: f64, learning_rate: f64) -> TrainError {
        let kept = match (self.checkpoint_path(), self.done) {
            (Some(path), done) if done > 0 => format!("{} keeps the state after epoch {done}", path.display()),
            _ => "no epoch was finished before".to_owned(),
        };
        TrainError::Diverged { loss, epoch: self.done + 1, iteration: self.iterations as u64 + 1, learning_rate, kept }
    }

    fn wall_s(&self) -> f64 {
        self.earlier_s + self.began.elapsed().as_secs_f64()
    }

    fn write_checkpoint(&self) -> Result<(), TrainError> {
        self.checkpoint_path().map_or(Ok(()), |path| self.capture().write(&path))
    }

    fn capture(&self) -> Checkpoint {
        let position = Position {
            recipe: self.recipe,
            epoch: self.done,
            iteration: self.iterations as u64,
            data_hash: self.data_hash,
            wall_s: self.wall_s(),
            metrics: &self.metrics,
            sampling: self.sampling.state(),
        };
        Checkpoint::capture(self.net.manifest(), self.net.arena(), position)
    }

    fn write_metrics(&self) -> Result<(), TrainError> {
        self.run_dir.map_or(Ok(()), |folder| self.report().write(folder))
    }

    fn report(&self) -> FitReport {
        let planned = self.net.manifest().plan.iter().map(|line| line.bytes).sum();
        let finished = self.done >= self.recipe.epochs || self.stopped_early();
        FitReport { kept_epoch: self.kept_epoch as u32, ..FitReport::new(&self.metrics, planned, self.wall_s(), finished) }
    }
}

/// Whether there is something to train and test on, in the batch that the network was compiled for.
fn check_data(manifest: &Manifest, data: &Dataset, recipe: &Recipe) -> Result<(), TrainError> {
    let unfit = |why: String, fix: &str| Err(TrainError::Unfit { data: data.name.clone(), why, fix: fix.to_owned() });
    if data.train.is_empty() || data.test.is_empty() {
        let why = format!("{} training and {} test examples", data.train.len(), data.test.len());
        return unfit(why, "both are needed");
    }
    if recipe.validation.is_some() && data.validation.as_ref().is_none_or(Split::is_empty) {
        let why = "nothing is held out of it to validate on".to_owned();
        return unfit(why, "call Dataset::hold_out before training, with a share that takes an example of a class at least");
    }
    if manifest.batch != recipe.batch {
        let why = format!("the network was compiled for batches of {}, the recipe says batch = {}", manifest.batch, recipe.batch);
        return unfit(why, "compile it with the same recipe");
    }
    Ok(())
}

/// Whether tokens, if the network takes some, are rows of its tables; they can't be moved or mixed.
fn check_vocabulary(manifest: &Manifest, data: &Dataset, recipe: &Recipe) -> Result<(), TrainError> {
    check_tokens(manifest, data, &data.train, "training")?;
    if let Some(validation) = &data.validation {
        check_tokens(manifest, data, validation, "validation")?;
    }
    check_tokens(manifest, data, &data.test, "test")?;
    if manifest.io.input_rows > 0 && !recipe.augmentations(data).is_empty() {
        let why = "augment changes images, and the model takes tokens".to_owned();
        return Err(TrainError::Unfit { data: data.name.clone(), why, fix: "leave augment out".to_owned() });
    }
    Ok(())
}

/// Whether there is room for what a policy that reads gradients of dead weights makes live meanwhile.
fn check_capacity(manifest: &Manifest, plan: &Plan) -> Result<(), TrainError> {
    if !plan.mutation.reads_gradients() {
        return Ok(());
    }
    for parameter in manifest.parameters.iter() {
        let Storage::Matrix { matrix, block, structure, capacity, density: Some(budget), .. } = parameter.storage else { continue };
        let needed = Units::new(matrix, block).structured(structure).grown(plan.mutation.capacity_density(budget));
        if capacity < needed {
            let (policy, name) = (plan.mutation.policy.name(), parameter.name.to_string());
            return Err(TrainError::Capacity { policy, name, capacity, needed });
        }
    }
    Ok(())
}
