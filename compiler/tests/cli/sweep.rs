//! Sweeps: a grid to the end, gone on with, reported.

use crate::{fail, json, succeed, workshop};
use std::path::Path;

const RECIPE: &str = r#"
model = "convnet.onnx"
data = "synthetic:1x8x8:10:160"
epochs = 4
batch = 16
lr = 0.05

[grid]
policy = ["mest-ems", "dense"]
sparsity = [0.75]
seed = [0, 1]
"#;

fn read(folder: &Path, file: &str) -> String {
    std::fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn a_sweep_runs_its_grid_reports_and_goes_on() {
    let folder = workshop();
    let folder = folder.path();
    std::fs::write(folder.join("grid.toml"), RECIPE).unwrap();
    let groups = json(&succeed(folder, &["sweep", "grid.toml", "--json"]));
    assert_eq!(groups.as_array().unwrap().len(), 2, "{groups}");
    for group in groups.as_array().unwrap() {
        assert!(group["runs"] == 2 && group["test_accuracy"]["deviation"].is_number(), "{group}");
    }
    assert_eq!(groups[0]["memory"]["stages"].as_array().unwrap().len(), 3);
    let sweep = folder.join("sweeps/grid");
    let csv = read(&sweep, "results.csv");
    assert_eq!(csv.lines().count(), 1 + 4, "{csv}");
    assert!(read(&sweep, "results.md").contains("| mest-ems | 0.75 | 2 |"));
    for file in ["accuracy-sparsity.svg", "accuracy-time.svg", "accuracy-memory.svg"] {
        assert!(read(&sweep, file).starts_with("<svg"), "{file}");
    }

    // One run has lost its result, another everything: those two alone are run again, to the same end.
    let (cut, lost) = ("policy-mest-ems_sparsity-0.75_seed-0", "policy-dense_seed-1");
    let modified = |run: &str| std::fs::metadata(sweep.join(run).join("model.onnx")).unwrap().modified().unwrap();
    let kept = modified("policy-dense_seed-0");
    std::fs::remove_file(sweep.join(cut).join("metrics.json")).unwrap();
    std::fs::remove_dir_all(sweep.join(lost)).unwrap();
    let partial = json(&succeed(folder, &["sweep", "grid.toml", "--json", "--report-only"]));
    assert_eq!([&partial[0]["runs"], &partial[1]["runs"]], [1, 1]);
    let shown = succeed(folder, &["sweep", "grid.toml"]);
    assert!(shown.contains(cut) && shown.contains(lost) && !shown.contains("dense_seed-0"), "{shown}");
    assert_eq!(modified("policy-dense_seed-0"), kept);
    let accuracies = |csv: &str| csv.lines().map(|line| line.split(',').nth(6).unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(accuracies(&read(&sweep, "results.csv")), accuracies(&csv));

    std::fs::write(folder.join("grid.toml"), RECIPE.replace("0.05", "0.1")).unwrap();
    let error = fail(folder, &["sweep", "grid.toml"], 2);
    assert!(error.contains("lr = 0.1 was 0.05") && error.contains("-o"), "{error}");
}

#[test]
fn what_cannot_run_is_refused_before_anything_runs() {
    let folder = workshop();
    let folder = folder.path();
    let refuse = |text: String, expected: &str| {
        std::fs::write(folder.join("grid.toml"), text).unwrap();
        let error = fail(folder, &["sweep", "grid.toml"], 2);
        assert!(error.contains(expected), "no `{expected}` in {error}");
    };
    refuse("epochs = 3".to_owned(), "[grid]");
    refuse(RECIPE.replace("0.75", "1.0"), "sparsity = 1");
    refuse(format!("{RECIPE}scheme = [\"block:16x4\"]"), "block:16x4");
    refuse(RECIPE.replace("synthetic:1x8x8", "synthetic:3x8x8"), "examples are [3, 8, 8]");
    assert!(!folder.join("sweeps").exists());
}

#[test]
fn a_failed_run_leaves_the_others_alone() {
    let folder = workshop();
    let folder = folder.path();
    std::fs::write(folder.join("grid.toml"), "model = \"convnet.onnx\"\ndata = \"synthetic:1x8x8:10:160\"\nepochs = 4\nbatch = 16\n[grid]\npolicy = [\"static\"]\nlr = [1e30, 0.05]\n")
        .unwrap();
    let error = fail(folder, &["sweep", "grid.toml"], 1);
    assert!(error.contains("1 runs failed") && error.contains("lr-1e+30"), "{error}");
    assert_eq!(read(&folder.join("sweeps/grid"), "results.csv").lines().count(), 2);
}

#[test]
fn architectures_are_trained_by_name() {
    let folder = workshop();
    let run = ["train", "mlp", "--data", "digits", "--epochs", "3", "--policy", "static", "--seed"];
    succeed(folder.path(), &[&run[..], &["1", "-o", "a"]].concat());
    succeed(folder.path(), &[&run[..], &["1", "-o", "b"]].concat());
    let model = |run: &str| std::fs::read(folder.path().join(run).join("model.onnx")).unwrap();
    assert_eq!(model("a"), model("b"));
    assert!(read(folder.path(), "a/run.toml").contains("model = \"mlp\""));
}
