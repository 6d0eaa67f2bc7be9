//! Whole trainings of a network that is computed on the host.

use super::mock::{Linear, Shape};
use super::*;
use crate::data::Dataset;
use crate::mutation::LayerReport;
use crate::network::Network;
use crate::recipe::Recipe;
use std::ops::ControlFlow;

fn digits() -> Dataset {
    Dataset::load("digits").unwrap()
}

fn recipe(flags: &[(&str, &str)]) -> Recipe {
    let base = [("batch", "50"), ("epochs", "4"), ("density", "0.5"), ("lr", "0.1"), ("augment", "crop4"), ("seed", "3")];
    // Small shifts would cost the linear model its accuracy; tests that want them ask for them.
    let flags = base.into_iter().filter(|(key, _)| *key != "augment").chain(flags.iter().copied());
    Recipe::default().with(flags).unwrap()
}

/// Stops after some epochs, and remembers what it saw.
#[derive(Default)]
struct Watch {
    stop_after: Option<usize>,
    steps: Vec<Step>,
    mutations: Vec<(u64, Vec<LayerReport>)>,
    begun_at: Option<usize>,
}

impl Observer for Watch {
    fn begin(&mut self, done: usize, _: usize) {
        self.begun_at = Some(done);
    }

    fn step(&mut self, step: &Step) {
        self.steps.push(*step);
    }

    fn mutation(&mut self, iteration: u64, layers: &[LayerReport]) {
        self.mutations.push((iteration, layers.to_vec()));
    }

    fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()> {
        if self.stop_after == Some(metrics.epoch as usize) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn a_sparse_linear_classifier_learns_digits() {
    let (data, recipe) = (digits(), recipe(&[]));
    let (mut net, mut watch) = (Linear::new(Shape::DIGITS), Watch::default());
    initialize(&mut net, &recipe).unwrap();
    let report = fit(&mut net, &data, &recipe, None, false, &mut watch).unwrap();
    assert!(report.finished && report.test_accuracy > 0.85, "{report:?}");
    assert!(report.epochs[0].train_loss > report.epochs[3].train_loss);
    assert!((report.epochs[3].density - 0.5).abs() < 1e-3, "{}", report.epochs[3].density);
    assert_eq!(report.planned_bytes, net.manifest().arena_bytes);
    let per_epoch = data.train.len().div_ceil(50);
    assert_eq!(watch.steps.len(), 4 * per_epoch);
    assert_eq!(watch.steps[per_epoch - 1].examples, data.train.len() % 50, "the last batch is partial, not dropped");
    assert!(report.epochs.iter().all(|epoch| epoch.examples as usize == data.train.len()));
    assert!(!watch.mutations.is_empty() && watch.mutations.iter().all(|(_, layers)| layers[0].name == "fc.weight"));
}

#[test]
fn evaluation_is_that_of_the_logits() {
    let (data, recipe) = (digits(), recipe(&[("epochs", "1")]));
    let mut net = Linear::new(Shape::DIGITS);
    let report = fit(&mut net, &data, &recipe, None, false, &mut ()).unwrap();
    let tested = evaluate(&mut net, &data, &data.test, &recipe).unwrap();
    assert_eq!(tested.accuracy, report.test_accuracy);
    assert_eq!(tested.logits.len(), data.test.len() * 10);
    let loss = |(row, &label): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        sum.ln() - f64::from(row[label as usize])
    };
    let expected = tested.logits.chunks(10).zip(&data.test.labels).map(loss).sum::<f64>() / data.test.len() as f64;
    assert!((tested.loss - expected).abs() < 1e-5, "{} {expected}", tested.loss);
}

#[test]
fn values_can_be_the_target() {
    let (data, recipe) = (digits(), recipe(&[("loss", "mse"), ("lr", "0.3"), ("epochs", "6")]));
    let mut net = Linear::new(Shape { values: true, ..Shape::DIGITS });
    let report = fit(&mut net, &data, &recipe, None, false, &mut ()).unwrap();
    assert!(report.test_accuracy > 0.8 && report.epochs[5].train_accuracy > 0.8, "{report:?}");
}

/// Trains to the end in one go, or stopping after each of `stops` epochs in a process of its own; the state and the report.
fn train(shape: Shape, recipe: &Recipe, folder: &std::path::Path, stops: &[usize]) -> (Vec<u32>, FitReport) {
    let data = digits();
    for &stop in stops {
        let mut watch = Watch { stop_after: Some(stop), ..Watch::default() };
        let report = fit(&mut Linear::new(shape), &data, recipe, Some(folder), true, &mut watch).unwrap();
        assert!(!report.finished && report.epochs.len() == stop);
    }
    let mut net = Linear::new(shape);
    let report = fit(&mut net, &data, recipe, Some(folder), true, &mut ()).unwrap();
    (net.state(), report)
}

#[test]
fn an_interrupted_run_ends_in_the_same_bits() {
    let shifted = recipe(&[("augment", "crop4,hflip")]);
    for (shape, recipe) in [(Shape::DIGITS, shifted), (Shape { momentum: false, ..Shape::DIGITS }, recipe(&[("momentum", "0")]))] {
        let folders: [tempfile::TempDir; 2] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
        let (whole, report) = train(shape, &recipe, folders[0].path(), &[]);
        let (resumed, resumed_report) = train(shape, &recipe, folders[1].path(), &[1, 3]);
        assert!(whole == resumed, "the state after resuming differs");
        for (a, b) in report.epochs.iter().zip(&resumed_report.epochs) {
            assert_eq!((a.train_loss, a.test_loss, a.density, a.learning_rate), (b.train_loss, b.test_loss, b.density, b.learning_rate));
        }
        assert_eq!(resumed_report.epochs.len(), 4);
    }
}

#[test]
fn a_failure_within_an_epoch_loses_that_epoch_alone() {
    let (data, recipe, folder) = (digits(), recipe(&[]), tempfile::tempdir().unwrap());
    let mut net = Linear::new(Shape::DIGITS);
    net.fails_at = Some(40);
    let error = fit(&mut net, &data, &recipe, Some(folder.path()), true, &mut ()).unwrap_err();
    let text = error.to_string();
    for part in ["NaN", "epoch 2", "iteration 41", "lower lr", "after epoch 1"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!error.is_refusal());
    let whole = tempfile::tempdir().unwrap();
    assert!(train(Shape::DIGITS, &recipe, folder.path(), &[]).0 == train(Shape::DIGITS, &recipe, whole.path(), &[]).0);
}

#[test]
fn a_finished_run_is_left_as_it_is() {
    let (recipe, folder) = (recipe(&[("epochs", "2")]), tempfile::tempdir().unwrap());
    let (state, report) = train(Shape::DIGITS, &recipe, folder.path(), &[]);
    let mut net = Linear::new(Shape::DIGITS);
    let mut watch = Watch::default();
    let again = fit(&mut net, &digits(), &recipe, Some(folder.path()), true, &mut watch).unwrap();
    assert_eq!((watch.begun_at, watch.steps.len(), again.finished), (Some(2), 0, true));
    assert_eq!(again.epochs, report.epochs);
    assert!(net.state() == state, "the finished state is there");
}

#[test]
fn a_run_leaves_its_files_and_without_resume_begins_anew() {
    let (data, recipe, folder) = (digits(), recipe(&[("epochs", "1")]), tempfile::tempdir().unwrap());
    let target = folder.path().join("runs/first");
    for _ in 0..2 {
        let mut watch = Watch::default();
        fit(&mut Linear::new(Shape::DIGITS), &data, &recipe, Some(&target), false, &mut watch).unwrap();
        assert_eq!(watch.begun_at, Some(0));
    }
    let mut names: Vec<_> = std::fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [CHECKPOINT, METRICS_CSV, METRICS_JSON]);
}

#[test]
fn a_run_is_resumed_only_as_it_began() {
    let (data, folder) = (digits(), tempfile::tempdir().unwrap());
    let resume = |data: &Dataset, recipe: &Recipe, shape: Shape| {
        fit(&mut Linear::new(shape), data, recipe, Some(folder.path()), true, &mut Watch { stop_after: Some(1), ..Watch::default() })
    };
    resume(&data, &recipe(&[]), Shape::DIGITS).unwrap();
    let refused = |result: Result<FitReport, TrainError>| {
        let error = result.unwrap_err();
        assert!(error.is_refusal());
        error.to_string()
    };
    let error = refused(resume(&data, &recipe(&[("epochs", "9"), ("lr", "0.2"), ("threads", "3")]), Shape::DIGITS));
    assert!(error.contains("epochs = 4 where now it is 9") && error.contains("lr = 0.1") && !error.contains("threads"), "{error}");
    let mut other = data.clone();
    other.train.labels.swap(0, 1);
    assert!(refused(resume(&other, &recipe(&[]), Shape::DIGITS)).contains("other data"));
    let error = refused(resume(&data, &recipe(&[]), Shape { momentum: false, ..Shape::DIGITS }));
    assert!(error.contains("fc.weight") && error.contains("moments"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused_before_the_first_step() {
    let data = digits();
    let refuse = |recipe: &Recipe, shape: Shape| {
        let error = fit(&mut Linear::new(shape), &data, recipe, None, false, &mut ()).unwrap_err();
        assert!(error.is_refusal());
        error.to_string()
    };
    let invalid = refuse(&recipe(&[("lr", "-1"), ("momentum", "2")]), Shape::DIGITS);
    assert!(invalid.contains("lr = -1") && invalid.contains("momentum = 2"), "{invalid}");
    assert!(refuse(&recipe(&[]), Shape { inputs: 63, ..Shape::DIGITS }).contains("[63]"));
    assert!(refuse(&recipe(&[]), Shape { classes: 9, ..Shape::DIGITS }).contains("10 classes"));
    assert!(refuse(&recipe(&[("batch", "64")]), Shape::DIGITS).contains("batches of 50"));
    assert!(refuse(&recipe(&[("normalize", "0,0:1,1")]), Shape::DIGITS).contains("normalize"));
}
