//! Training from end to end, on data small enough for tests.

use crate::{command, fail, json, succeed, text, workshop};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const DATA: &str = "synthetic:1x8x8:10:160";

/// A short training of `convnet.onnx` into `run`, with `flags`.
fn train<'a>(run: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["train", "convnet.onnx", "--data", DATA, "--epochs", "4", "--batch", "16", "--lr", "0.05", "-o", run];
    [&fixed, flags].concat()
}

fn model(folder: &Path, run: &str) -> Vec<u8> {
    std::fs::read(folder.join(run).join("model.onnx")).expect("a trained model")
}

#[test]
fn a_run_leaves_everything_that_it_promises() {
    let folder = workshop();
    let shown = succeed(folder.path(), &train("run", &["--density", "0.25"]));
    for word in ["activations", "test accuracy", "density", "nnz", "planned peak memory", "measured peak memory", "images/s"] {
        assert!(shown.contains(word), "no `{word}` in {shown}");
    }
    let run = folder.path().join("run");
    let metrics = json(&std::fs::read_to_string(run.join("metrics.json")).unwrap());
    assert_eq!(metrics["epochs"].as_array().unwrap().len(), 4);
    let end = &metrics["epochs"][3];
    assert!((end["density"].as_f64().unwrap() - 0.25).abs() < 0.01, "the run ends at its budget: {end}");
    assert_eq!(metrics["test_accuracy"], end["test_accuracy"]);
    assert_eq!(std::fs::read_to_string(run.join("metrics.csv")).unwrap().lines().count(), 5);
    assert!(run.join("checkpoint.mest").is_file());
    let recipe = std::fs::read_to_string(run.join("run.toml")).unwrap();
    assert!(recipe.contains("epochs = 4") && recipe.contains("density = 0.25") && recipe.contains("convnet.onnx"), "{recipe}");
    let before = std::fs::read(folder.path().join("convnet.onnx")).unwrap();
    assert_ne!(model(folder.path(), "run"), before);
    fail(folder.path(), &train("run", &[]), 2);
}

#[test]
fn a_run_can_be_repeated_from_its_run_toml() {
    let folder = workshop();
    succeed(folder.path(), &train("first", &["--seed", "3"]));
    succeed(folder.path(), &["train", "--recipe", "first/run.toml", "-o", "second"]);
    assert_eq!(model(folder.path(), "first"), model(folder.path(), "second"));
    succeed(folder.path(), &["train", "--recipe", "first/run.toml", "--seed", "4", "-o", "third"]);
    assert_ne!(model(folder.path(), "first"), model(folder.path(), "third"));
}

#[test]
fn cache_blocks_are_timed_once_and_the_run_keeps_to_them() {
    let folder = workshop();
    let tuned = |arguments: &[&str]| {
        let run = command(folder.path(), arguments).env("XDG_CACHE_HOME", folder.path().join("caches")).output().unwrap();
        assert!(run.status.success(), "{}", text(&run.stderr));
        text(&run.stdout)
    };
    let shown = tuned(&train("first", &["--autotune", "--explain"]));
    assert!(shown.contains("Cache blocks timed") && shown.contains("channel-blocks"), "{shown}");
    let recipe = std::fs::read_to_string(folder.path().join("first/run.toml")).unwrap();
    assert!(recipe.contains("autotune = false"), "{recipe}");
    let timings = folder.path().join("caches/mest/timings.json");
    let before = std::fs::read(&timings).unwrap();
    tuned(&train("second", &["--autotune"]));
    assert_eq!(std::fs::read(&timings).unwrap(), before, "nothing is timed twice");
    tuned(&["train", "--recipe", "first/run.toml", "-o", "third"]);
    assert_eq!(model(folder.path(), "first"), model(folder.path(), "second"));
    assert_eq!(model(folder.path(), "first"), model(folder.path(), "third"));
    std::fs::write(&timings, "[]").unwrap();
    let refused =
        command(folder.path(), &["plan", "convnet.onnx", "--autotune"]).env("XDG_CACHE_HOME", folder.path().join("caches")).output();
    let refused = refused.unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("timings.json: no timings of mestc"), "{}", text(&refused.stderr));
    let wrong = ["plan", "convnet.onnx", "--recipe", "blocks.toml"];
    std::fs::write(folder.path().join("blocks.toml"), "[layers.\"body.weight\"]\nchannel-blocks = 99\n").unwrap();
    let error = fail(folder.path(), &wrong, 2);
    assert!(error.contains("channel-blocks = 99") && error.contains("the nearest is"), "{error}");
}

#[test]
fn schemes_are_chosen_once_and_the_run_keeps_to_them() {
    let folder = workshop();
    let shown = succeed(folder.path(), &train("first", &["--scheme", "auto", "--density", "0.25", "--explain"]));
    assert!(shown.contains("Schemes chosen") && shown.contains("ms a step: unstructured"), "{shown}");
    let recipe = std::fs::read_to_string(folder.path().join("first/run.toml")).unwrap();
    assert!(!recipe.contains("scheme = \"auto\"") && recipe.contains("[layers."), "{recipe}");
    succeed(folder.path(), &["train", "--recipe", "first/run.toml", "-o", "second"]);
    assert_eq!(model(folder.path(), "first"), model(folder.path(), "second"));
    let resumed = ["train", "--resume", "--scheme", "auto", "-o", "first"];
    succeed(folder.path(), &resumed);
    let told = fail(folder.path(), &["bench", "convnet.onnx", "--scheme", "auto"], 2);
    assert!(told.contains("mestc plan MODEL --scheme auto --explain"), "{told}");
}

#[test]
fn examples_are_left_out_once_they_are_known() {
    let folder = workshop();
    let fewer = ["--data-efficiency", "forgetting", "--remove-at", "2", "--remove", "40"];
    let shown = succeed(folder.path(), &train("run", &fewer));
    assert!(shown.contains("examples left out") && shown.contains("12.5 % of the run saved"), "{shown}");
    let metrics = json(&std::fs::read_to_string(folder.path().join("run/metrics.json")).unwrap());
    let column = |key: &str| metrics["epochs"].as_array().unwrap().iter().map(|epoch| epoch[key].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!((column("examples"), column("removed")), (vec![160, 160, 120, 120], vec![0, 0, 40, 40]));
    assert_eq!((metrics["examples_trained"].as_u64(), metrics["examples_removed"].as_u64()), (Some(560), Some(40)));
    let recipe = std::fs::read_to_string(folder.path().join("run/run.toml")).unwrap();
    assert!(recipe.contains("data-efficiency = \"forgetting\"") && recipe.contains("remove-at = \"2ep\""), "{recipe}");
    for (flags, expected) in [
        (["--remove", "150"], "remove = 150: leaves no batch of 16 of 160 training examples; the nearest that works is 144"),
        (["--remove-at", "9"], "remove-at = 9ep"),
        (["--remove", "most"], "unforgettable:2"),
    ] {
        let told = fail(folder.path(), &train("wrong", &[&["--data-efficiency", "forgetting"][..], &flags].concat()), 2);
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn threads_change_no_bit() {
    let folder = workshop();
    for (run, threads) in [("one", "1"), ("two", "2"), ("three", "3")] {
        succeed(folder.path(), &train(run, &["--threads", threads]));
    }
    let one = model(folder.path(), "one");
    assert!(one == model(folder.path(), "two") && one == model(folder.path(), "three"));
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    let folder = workshop();
    let long = |run| ["train", "convnet.onnx", "--data", DATA, "--epochs", "60", "--batch", "16", "-o", run];
    succeed(folder.path(), &long("whole"));
    let mut child = command(folder.path(), &long("killed")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let checkpoint = folder.path().join("killed/checkpoint.mest");
    let patience = Instant::now() + Duration::from_secs(120);
    while !checkpoint.exists() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
    // On Unix this is SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(checkpoint.exists() && !folder.path().join("killed/model.onnx").exists(), "it was killed in the middle");
    succeed(folder.path(), &["train", "-o", "killed", "--resume"]);
    assert!(model(folder.path(), "whole") == model(folder.path(), "killed"));
    let metrics = json(&std::fs::read_to_string(folder.path().join("killed/metrics.json")).unwrap());
    assert_eq!(metrics["epochs"].as_array().unwrap().len(), 60);
}

#[test]
fn resuming_starts_afresh_goes_on_or_has_nothing_to_do() {
    let folder = workshop();
    succeed(folder.path(), &train("run", &["--resume"]));
    let once = model(folder.path(), "run");
    succeed(folder.path(), &train("run", &["--resume"]));
    // Defaults written out, and the density said otherwise, contradict nothing.
    succeed(folder.path(), &["train", "-o", "run", "--resume", "--threads", "2", "--sparsity", "0.9", "--optimizer", "sgd"]);
    assert_eq!(once, model(folder.path(), "run"));
    let errors = fail(folder.path(), &["train", "-o", "run", "--resume", "--lr", "0.01"], 2);
    assert!(errors.contains("lr") && errors.contains("0.05") && errors.contains("run.toml"), "{errors}");
    let errors = fail(folder.path(), &["train", "mlp.onnx", "--data", DATA, "-o", "run", "--resume"], 2);
    assert!(errors.contains("mlp.onnx") && errors.contains("convnet.onnx"), "{errors}");
    assert_eq!(once, model(folder.path(), "run"), "a refusal leaves the run as it is");
    succeed(folder.path(), &train("run", &["--force", "--seed", "9"]));
    assert_ne!(once, model(folder.path(), "run"));
}

#[test]
fn runs_are_numbered_by_model() {
    let folder = workshop();
    let flags = ["train", "mlp.onnx", "--data", DATA, "--epochs", "2", "--batch", "32"];
    for _ in 0..2 {
        succeed(folder.path(), &flags);
    }
    assert!(folder.path().join("runs/mlp-1/model.onnx").exists() && folder.path().join("runs/mlp-2/model.onnx").exists());
    succeed(folder.path(), &[&flags[..], &["--resume"]].concat());
    assert!(!folder.path().join("runs/mlp-3").exists(), "resuming goes on with the last");
}

#[test]
fn a_diverging_run_fails_with_advice() {
    let folder = workshop();
    let flags = ["train", "convnet.onnx", "--data", DATA, "--batch", "16", "--lr", "1e30", "--lr-schedule", "constant", "-o", "run"];
    let errors = fail(folder.path(), &flags, 1);
    assert!(errors.contains("loss") && errors.contains("lower lr"), "{errors}");
}

/// The arrays of a file that numpy would read.
fn arrays(path: &Path) -> (Vec<u64>, Vec<f32>, Vec<i64>) {
    let mut archive = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let logits = npyz::NpyFile::new(archive.by_name("logits.npy").unwrap()).unwrap();
    let shape = logits.shape().to_vec();
    let logits = logits.into_vec().unwrap();
    (shape, logits, npyz::NpyFile::new(archive.by_name("labels.npy").unwrap()).unwrap().into_vec().unwrap())
}

#[test]
fn eval_agrees_with_the_training_and_writes_predictions() {
    let folder = workshop();
    succeed(folder.path(), &train("run", &["--normalize", "0.25:0.5"]));
    let metrics = json(&std::fs::read_to_string(folder.path().join("run/metrics.json")).unwrap());
    let trained = metrics["test_accuracy"].as_f64().unwrap();
    // The normalisation is in the model: neither needs to be told.
    let by_folder = json(&succeed(folder.path(), &["eval", "run", "--data", DATA, "--json", "--predictions", "p.npz"]));
    let by_file = json(&succeed(folder.path(), &["eval", "run/model.onnx", "--data", DATA, "--json"]));
    for report in [&by_folder, &by_file] {
        assert_eq!(report["accuracy"].as_f64(), Some(trained), "{report}");
    }
    let (shape, logits, labels) = arrays(&folder.path().join("p.npz"));
    let examples = by_folder["examples"].as_u64().unwrap();
    assert_eq!((shape, labels.len() as u64), (vec![examples, 10], examples));
    let right = logits.chunks(10).zip(&labels).filter(|(row, label)| {
        let best = (1..10).fold(0, |best, class| if row[class] > row[best] { class } else { best });
        best as i64 == **label
    });
    assert_eq!(right.count() as f64 / examples as f64, trained);
    let other = json(&succeed(folder.path(), &["eval", "run", "--data", DATA, "--json", "--normalize", "0:1"]));
    assert_ne!(other["loss"], by_folder["loss"], "a flag overrides the model's own");
}

#[test]
fn exports_hold_the_same_network() {
    let folder = workshop();
    succeed(folder.path(), &train("run", &["--density", "0.1"]));
    succeed(folder.path(), &["export", "run", "-o", "dense.onnx"]);
    succeed(folder.path(), &["export", "run", "-o", "sparse.onnx", "--sparse"]);
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert_eq!(read("dense.onnx"), model(folder.path(), "run"));
    assert!(read("sparse.onnx").len() < read("dense.onnx").len());
    let loss = |name: &str| json(&succeed(folder.path(), &["eval", name, "--data", DATA, "--json"]))["loss"].as_f64();
    assert_eq!(loss("dense.onnx"), loss("sparse.onnx"));
    let errors = fail(folder.path(), &["export", "run", "-o", "absent/x.onnx"], 2);
    assert!(errors.contains("absent/x.onnx"), "{errors}");
}

#[test]
fn nothing_named_is_the_built_in_job() {
    let folder = workshop();
    let shown = succeed(folder.path(), &["train", "--epochs", "2", "--json"]);
    assert!(json(&shown)["test_accuracy"].as_f64().unwrap() > 0.5, "{shown}");
    let recipe = std::fs::read_to_string(folder.path().join("runs/resnet8-1/run.toml")).unwrap();
    for key in ["data = \"digits\"", "lr = 0.1", "density = 0.1", "normalize = \"0:"] {
        assert!(recipe.contains(key), "no `{key}` in {recipe}");
    }
    let output = command(folder.path(), &["train", "--data", DATA, "--epochs", "1", "--batch", "32"]).output().unwrap();
    assert_eq!(text(&output.stderr), "", "quiet where nobody looks");
    assert!(folder.path().join("runs/resnet8-2/model.onnx").exists());
}
