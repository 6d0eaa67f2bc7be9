//! Going on from a trained model: frozen layers, a new last layer, batch normalization where there is none.

use crate::{fail, json, succeed, workshop};
use mestc::onnx;
use std::collections::BTreeMap;
use std::path::Path;

const DATA: [&str; 4] = ["--data", "synthetic:1x8x8:7:96", "--batch", "16"];

/// Learned values by name.
fn values(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let imported = onnx::import(path).expect("a model");
    let graph = &imported.graph;
    graph.parameters().iter().map(|id| (graph.node(*id).outputs[0].name.clone(), graph.initial[id].values.clone())).collect()
}

fn recipe(folder: &Path, text: &str) {
    std::fs::write(folder.join("recipe.toml"), text).unwrap();
}

#[test]
fn frozen_layers_keep_their_weights_and_take_no_memory_for_training() {
    let folder = workshop();
    // A parameter, a node, and whatever a pattern fits: all but the last layer.
    let names = ["stem.weight", "node_body", "norm.*"];
    recipe(folder.path(), &(names.map(|name| format!("[layers.\"{name}\"]\nfrozen = true\n")).concat()));
    let before = values(&folder.path().join("convnet.onnx"));
    let train = [&["train", "convnet.onnx", "--recipe", "recipe.toml", "--epochs", "2", "-o", "run"][..], &DATA].concat();
    succeed(folder.path(), &train);
    let after = values(&folder.path().join("run/model.onnx"));
    for (name, value) in &before {
        // A frozen batch normalization keeps its statistics, too.
        assert_eq!(*value == after[name], !name.starts_with("head"), "{name}");
    }
    let bytes = |flags: &[&'static str]| {
        let plan = json(&succeed(folder.path(), &[&["plan", "convnet.onnx", "--json", "--policy", "dense"][..], flags].concat()));
        ["optimizer", "activations"].map(|class| plan["by_class"][class].as_u64().unwrap())
    };
    let (all, some) = (bytes(&[]), bytes(&["--recipe", "recipe.toml"]));
    assert!((0..2).all(|class| some[class] < all[class]), "{some:?} of {all:?}");
    recipe(folder.path(), "[layers.\"bodies\"]\nfrozen = true\n");
    let said = fail(folder.path(), &["plan", "convnet.onnx", "--recipe", "recipe.toml"], 2);
    assert!(said.contains("layers.\"bodies\".frozen") && said.contains("nearest"), "{said}");
}

#[test]
fn a_new_last_layer_fits_other_classes_and_the_rest_goes_on() {
    let folder = workshop();
    let train = [&["train", "convnet.onnx", "--reset-head", "7", "--epochs", "1", "--policy", "static", "-o", "run"][..], &DATA].concat();
    succeed(folder.path(), &train);
    let imported = onnx::import(&folder.path().join("run/model.onnx")).unwrap();
    assert_eq!(imported.graph.shape(imported.graph.logits.unwrap()).fixed(), [7]);
    let evaluated = json(&succeed(folder.path(), &["eval", "run", "--json"]));
    assert_eq!(evaluated["examples"].as_u64(), Some(20));
    // The mask that a run begins with keeps what is largest in the model that it begins with.
    let (before, after) = (values(&folder.path().join("convnet.onnx")), values(&folder.path().join("run/model.onnx")));
    let (before, after) = (&before["body.weight"], &after["body.weight"]);
    let kept: Vec<bool> = after.iter().map(|&value| value != 0.0).collect();
    let least_kept = before.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(value, _)| value.abs()).fold(f32::MAX, f32::min);
    let most_dropped = before.iter().zip(&kept).filter(|(_, kept)| !**kept).map(|(value, _)| value.abs()).fold(0.0, f32::max);
    assert!(least_kept >= most_dropped, "{least_kept} {most_dropped}");
}

#[test]
fn convolutions_get_batch_normalization() {
    let folder = workshop();
    let count = |path: &Path| onnx::import(path).unwrap().operations.get("BatchNormalization").copied().unwrap_or(0);
    let before = count(&folder.path().join("convnet.onnx"));
    succeed(folder.path(), &[&["train", "convnet.onnx", "--insert-bn", "--epochs", "1", "-o", "run"][..], &DATA].concat());
    assert_eq!((before, count(&folder.path().join("run/model.onnx"))), (1, 2));
}
