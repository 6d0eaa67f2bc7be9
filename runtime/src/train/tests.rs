//! Whole trainings of a network that is computed on the host.

use super::mock::{Linear, Shape};
use super::*;
use crate::data::{Dataset, Pixels};
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
fn a_run_ends_when_what_is_held_out_is_not_learned_better() {
    let flags =
        [("validation", "0.2"), ("early-stop", "2"), ("epochs", "400"), ("policy", "static"), ("lr", "1"), ("lr-schedule", "constant")];
    let (mut data, recipe) = (digits(), recipe(&flags));
    let mut net = Linear::new(Shape::DIGITS);
    let refused = fit(&mut net, &data, &recipe, None, false, &mut ()).unwrap_err();
    assert!(refused.is_refusal() && refused.to_string().contains("hold_out"), "{refused}");
    data.hold_out(0.2, recipe.seed);
    let folder = tempfile::tempdir().unwrap();
    initialize(&mut net, &recipe).unwrap();
    let report = fit(&mut net, &data, &recipe, Some(folder.path()), false, &mut ()).unwrap();
    let losses: Vec<f64> = report.epochs.iter().map(|epoch| epoch.validation_loss.unwrap()).collect();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(report.finished && losses.len() < 400, "{}", losses.len());
    assert_eq!(losses.iter().position(|&loss| loss == best), Some(losses.len() - 3), "{losses:?}");
    assert!(report.epochs.iter().all(|epoch| epoch.validation_accuracy.is_some_and(|accuracy| accuracy > 0.5)));
    let resumed = fit(&mut net, &data, &recipe, Some(folder.path()), true, &mut ()).unwrap();
    assert_eq!(resumed.epochs, report.epochs, "a run that has ended early stays ended");
    // What is left is the best epoch, not the last: in the run that ended, in the one that came back to it, and where it ends by its length.
    let kept = losses.len() - 2;
    let mut again = Linear::new(Shape::DIGITS);
    let reread = fit(&mut again, &data, &recipe, Some(folder.path()), true, &mut ()).unwrap();
    for (net, report) in [(&mut net, report), (&mut again, reread)] {
        assert_eq!(report.kept_epoch as usize, kept);
        assert_eq!(evaluate(net, &data, data.validation.as_ref().unwrap(), &recipe).unwrap().loss, best);
    }
    let whole = Recipe { epochs: losses.len() - 1, ..recipe };
    initialize(&mut net, &whole).unwrap();
    let report = fit(&mut net, &data, &whole, None, false, &mut ()).unwrap();
    assert_eq!((report.epochs.len(), report.kept_epoch as usize), (losses.len() - 1, kept));
}

#[test]
fn tokens_that_are_no_rows_of_the_table_are_named_before_the_first_step() {
    let (mut data, recipe) = (digits(), recipe(&[("augment", "")]));
    let mut net = Linear::new(Shape::DIGITS);
    net.manifest.io.input_rows = 17;
    let bytes = fit(&mut net, &data, &recipe, None, false, &mut ()).unwrap_err();
    assert!(bytes.is_refusal() && bytes.to_string().contains("store tokens as int32"), "{bytes}");
    for split in [&mut data.train, &mut data.test] {
        let Pixels::U8(pixels) = &split.pixels else { panic!("digits are bytes") };
        split.pixels = Pixels::F32(pixels.iter().map(|&pixel| pixel.into()).collect());
    }
    check(net.manifest(), &data, &recipe).unwrap();
    for wrong in [17.0, -1.0, 0.5, f32::NAN] {
        let mut broken = data.clone();
        let Pixels::F32(pixels) = &mut broken.test.pixels else { panic!("they are floats now") };
        pixels[3 * 64 + 5] = wrong;
        let text = check(net.manifest(), &broken, &recipe).unwrap_err().to_string();
        assert!(text.contains(&format!("test example 3 has {wrong} at position 5")) && text.contains("17 rows"), "{text}");
    }
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

/// Flags of runs that leave examples out.
const FEWER: [&[(&str, &str)]; 4] = [
    &[("remove-at", "2"), ("remove", "unforgettable"), ("policy", "mest-em")],
    &[("remove-at", "1"), ("remove", "0.4"), ("policy", "mest-ems"), ("mutate-every", "7it")],
    &[("sieve", "0.3"), ("policy", "static"), ("mutate-every", "1ep")],
    &[("sieve", "0.6"), ("policy", "dense"), ("density", "1"), ("mutate-every", "40it")],
];

fn fewer(flags: &[(&'static str, &'static str)]) -> Recipe {
    let base = [("data-efficiency", "forgetting"), ("epochs", "6"), ("policy", "mest-em")];
    let base = base.into_iter().filter(|(key, _)| flags.iter().all(|(other, _)| other != key));
    recipe(&base.chain(flags.iter().copied()).collect::<Vec<_>>())
}

#[test]
fn a_removal_shrinks_the_epochs_that_follow() {
    let (data, recipe) = (digits(), fewer(FEWER[0]));
    let all = data.train.len();
    let (mut net, mut watch) = (Linear::new(Shape::DIGITS), Watch::default());
    initialize(&mut net, &recipe).unwrap();
    let report = fit(&mut net, &data, &recipe, None, false, &mut watch).unwrap();
    let removed = report.epochs[1].unforgettable.expect("counted") as usize;
    assert!(removed > all / 4 && removed < all, "{removed}");
    for (epoch, metrics) in report.epochs.iter().enumerate() {
        let out = if epoch < 2 { 0 } else { removed };
        assert_eq!((metrics.examples as usize, metrics.removed as usize), (all - out, out), "epoch {epoch}");
        let steps: Vec<&Step> = watch.steps.iter().filter(|step| step.epoch == epoch + 1).collect();
        assert_eq!((steps.len(), steps[0].iterations), ((all - out).div_ceil(50), steps.len()));
    }
    assert_eq!(report.examples_trained as usize, 6 * all - 4 * removed);
    assert_eq!(report.examples_removed as usize, removed);
    assert!((report.examples_saved - 4.0 * removed as f64 / (6 * all) as f64).abs() < 1e-12);
    assert!(report.test_accuracy > 0.7, "{report:?}");
    // Every epoch has the learning rates of its epoch, however many steps it takes.
    let whole = Plan::new(&recipe, all).unwrap();
    for step in watch.steps.iter().filter(|step| step.iteration == 1) {
        assert_eq!(step.learning_rate, whole.learning_rate.at(&whole.progress((step.epoch - 1) * whole.per_epoch)));
    }
}

#[test]
fn forgetting_events_are_those_of_the_steps() {
    /// Learns to predict from a scripted network: what the log must count is known.
    struct Scripted {
        net: Linear,
        batches: Vec<(Vec<u32>, Vec<f32>)>,
    }
    impl Network for Scripted {
        fn manifest(&self) -> &crate::manifest::Manifest {
            self.net.manifest()
        }
        fn arena(&self) -> &crate::arena::Arena {
            self.net.arena()
        }
        fn arena_mut(&mut self) -> &mut crate::arena::Arena {
            self.net.arena_mut()
        }
        fn run(&mut self, phase: crate::network::Phase) {
            self.net.run(phase);
            if phase == crate::network::Phase::Train {
                let (io, arena) = (&self.net.manifest().io, self.net.arena());
                let live = arena.floats(io.count)[0] as usize;
                self.batches.push((arena.words(io.target)[..live].to_vec(), arena.floats(io.correct)[..live].to_vec()));
            }
        }
    }
    let (data, recipe) = (digits(), fewer(&[("remove-at", "5"), ("remove", "1"), ("lr", "1.5")]));
    let folder = tempfile::tempdir().unwrap();
    let mut net = Scripted { net: Linear::new(Shape::DIGITS), batches: Vec::new() };
    let mut watch = Watch { stop_after: Some(4), ..Watch::default() };
    fit(&mut net, &data, &recipe, Some(folder.path()), false, &mut watch).unwrap();
    let mut log = crate::sampling::ForgettingLog::new(data.train.len());
    let mut batches = net.batches.iter();
    for epoch in 0..4 {
        let order = crate::sampling::Sampling::order(&crate::sampling::Uniform::new(0..data.train.len() as u32, recipe.seed), epoch);
        for examples in order.chunks(50) {
            let (labels, correct) = batches.next().unwrap();
            assert!(examples.iter().zip(labels).all(|(&example, &label)| data.train.labels[example as usize] == label));
            examples.iter().zip(correct).for_each(|(&example, &correct)| log.record(example, correct != 0.0));
        }
    }
    let kept = checkpoint::Checkpoint::read(&folder.path().join(CHECKPOINT)).unwrap().sampling.unwrap();
    assert!(kept.log == log.bytes() && log.at_most(0) < log.at_most(3), "something was forgotten");
}

#[test]
fn an_interrupted_run_leaves_the_same_examples_out() {
    for flags in FEWER {
        let recipe = fewer(flags);
        let shape = if recipe.density() == 1.0 { Shape { density: 1.0, ..Shape::DIGITS } } else { Shape::DIGITS };
        let folders: [tempfile::TempDir; 2] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
        let (whole, report) = train(shape, &recipe, folders[0].path(), &[]);
        let (resumed, resumed_report) = train(shape, &recipe, folders[1].path(), &[1, 2, 4]);
        assert!(whole == resumed, "{flags:?}: the state after resuming differs");
        let kept = |report: &FitReport| report.epochs.iter().map(|epoch| (epoch.examples, epoch.unforgettable)).collect::<Vec<_>>();
        assert_eq!(kept(&report), kept(&resumed_report));
        assert!(report.epochs[5].removed > 0, "{flags:?}");
        let [ours, theirs] = folders.map(|folder| checkpoint::Checkpoint::read(&folder.path().join(CHECKPOINT)).unwrap());
        assert_eq!((ours.sampling, ours.iteration), (theirs.sampling, theirs.iteration));
    }
}

#[test]
fn mutations_by_iteration_come_as_often_in_shorter_epochs() {
    let events = |flags: &[(&'static str, &'static str)]| {
        let mut watch = Watch::default();
        fit(&mut Linear::new(Shape::DIGITS), &digits(), &fewer(flags), None, false, &mut watch).unwrap();
        watch.mutations.len()
    };
    let every = ("mutate-every", "7it");
    assert_eq!(events(&[every, ("remove-at", "1"), ("remove", "0.4")]), events(&[every, ("remove-at", "1"), ("remove", "1")]));
}

#[test]
fn a_checkpoint_without_its_log_is_refused() {
    let (recipe, folder) = (fewer(FEWER[2]), tempfile::tempdir().unwrap());
    let path = folder.path().join(CHECKPOINT);
    let stop = || Watch { stop_after: Some(1), ..Watch::default() };
    let resume = || fit(&mut Linear::new(Shape::DIGITS), &digits(), &recipe, Some(folder.path()), true, &mut stop());
    resume().unwrap();
    let mut damaged = checkpoint::Checkpoint::read(&path).unwrap();
    damaged.sampling = None;
    damaged.write(&path).unwrap();
    let error = resume().unwrap_err().to_string();
    assert!(error.contains("corrupted") && error.contains("forgetting events"), "{error}");
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
    let none_left = refuse(&recipe(&[("data-efficiency", "forgetting"), ("remove", "1400")]), Shape::DIGITS);
    assert!(none_left.contains("remove = 1400") && none_left.contains("is 1388"), "{none_left}");
    assert!(refuse(&recipe(&[("batch", "64")]), Shape::DIGITS).contains("batches of 50"));
    assert!(refuse(&recipe(&[("normalize", "0,0:1,1")]), Shape::DIGITS).contains("normalize"));
}
