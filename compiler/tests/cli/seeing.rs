//! What a run and a plan show: the page, TensorBoard's events, pictures, explanations, exported weights.

use crate::{fail, json, succeed, workshop};
use safetensors::SafeTensors;
use std::path::Path;

const TRAIN: [&str; 12] =
    ["train", "convnet.onnx", "--data", "synthetic:1x8x8:10:160", "--epochs", "4", "--batch", "16", "--density", "0.25", "-o", "run"];

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn a_run_leaves_a_page_and_events_and_the_page_can_be_written_again() {
    let folder = workshop();
    let shown = succeed(folder.path(), &TRAIN);
    assert!(shown.contains("report.html"), "{shown}");
    let page = read(folder.path(), "run/report.html");
    for expected in ["<h2>Learning", "<h2>Sparsity", "<h2>Memory", "<h2>Time", "Mask changes", "body.weight, epoch 1", "kind of kernel"] {
        assert!(page.contains(expected), "no {expected}");
    }
    let events = std::fs::read_dir(folder.path().join("run")).unwrap().flatten();
    assert_eq!(events.filter(|entry| entry.file_name().to_string_lossy().starts_with("events.out.tfevents.")).count(), 1);
    let mutations = read(folder.path(), "run/mutations.csv");
    assert!(mutations.lines().count() > 3 && mutations.lines().nth(1).is_some_and(|line| line.starts_with("1,0,")), "{mutations}");
    succeed(folder.path(), &["report", "run", "-o", "again.html"]);
    // Times differ; everything before them follows from the run.
    let before = |page: &str| page.split("<h2>Time").next().unwrap_or_default().replace("again", "run");
    assert_eq!(before(&read(folder.path(), "again.html")), before(&page));
    std::fs::write(folder.path().join("run/mutations.csv"), "nonsense").unwrap();
    let said = fail(folder.path(), &["report", "run"], 2);
    assert!(said.contains("mutations.csv") && said.contains("line 1"), "{said}");
    let said = fail(folder.path(), &["report", "absent"], 2);
    assert!(said.contains("run.toml"), "{said}");
}

#[test]
fn a_forced_run_leaves_nothing_of_the_one_before() {
    let folder = workshop();
    succeed(folder.path(), &TRAIN);
    let events = || -> Vec<std::ffi::OsString> {
        let entries = std::fs::read_dir(folder.path().join("run")).unwrap().flatten().map(|entry| entry.file_name());
        entries.filter(|name| name.to_string_lossy().starts_with("events.")).collect()
    };
    let first = events();
    succeed(folder.path(), &[&TRAIN[..], &["--force", "--policy", "static"]].concat());
    let second = events();
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first, second);
    assert_eq!(read(folder.path(), "run/mutations.csv").lines().count(), 1, "a static mask does not change");
}

#[test]
fn choices_are_explained_and_the_plan_is_drawn() {
    let folder = workshop();
    let shown = succeed(folder.path(), &["plan", "convnet.onnx", "--batch", "16", "--explain", "--picture", "plan.svg"]);
    for expected in
        ["stem.weight: dense", "the first convolution", "body.weight: unstructured", "forward", "backward", "work items", "step:"]
    {
        assert!(shown.contains(expected), "no {expected} in {shown}");
    }
    let picture = read(folder.path(), "plan.svg");
    assert!(picture.starts_with("<svg ") && picture.contains("body.weight (weights)"), "{picture}");
    let graph = succeed(folder.path(), &["compile", "convnet.onnx", "--emit", "dot"]);
    assert!(graph.starts_with("digraph ") && graph.contains("node_body"), "{graph}");
}

#[test]
fn weights_and_masks_are_exported() {
    let folder = workshop();
    succeed(folder.path(), &TRAIN);
    succeed(folder.path(), &["export", "run", "-o", "weights.safetensors"]);
    let bytes = std::fs::read(folder.path().join("weights.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (weight, mask) = (tensors.tensor("body.weight").unwrap(), tensors.tensor("mask.body.weight").unwrap());
    assert_eq!(mask.data().iter().map(|&live| usize::from(live)).sum::<usize>(), 144, "a quarter of 576");
    for (value, &live) in weight.data().chunks(4).zip(mask.data()) {
        assert_eq!(value != [0; 4], live == 1);
    }
    assert!(tensors.tensor("mask.stem.weight").is_err(), "the first convolution is dense");
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let sparsity = json(&header.metadata().as_ref().unwrap()["mest.sparsity"]);
    assert_eq!(sparsity["body.weight"], serde_json::json!({ "scheme": "unstructured", "density": 0.25 }));
    let said = fail(folder.path(), &["export", "run", "--sparse", "-o", "x.safetensors"], 2);
    assert!(said.contains("--sparse"), "{said}");
}
