//! Training on a user's own files, and what is said of files that can't be trained on.

use crate::{fail, json, succeed, workshop};
use image::{GrayImage, Luma};
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

/// `set/{train,test}/{dark,light}/*.png`, 12x12 pixels of gray.
fn images(folder: &Path) {
    for (split, count) in [("train", 12_u8), ("test", 4)] {
        for (class, base) in [("dark", 20_u8), ("light", 200)] {
            let target = folder.join("set").join(split).join(class);
            std::fs::create_dir_all(&target).unwrap();
            for index in 0..count {
                let pixel = |x: u32, y: u32| Luma([base.wrapping_add(((x * 7 + y * 3 + u32::from(index)) % 30) as u8)]);
                GrayImage::from_fn(12, 12, pixel).save(target.join(format!("{index:02}.png"))).unwrap();
            }
        }
    }
}

/// A safetensors file of `[n, 1, 8, 8]` floats with these labels, the same to train and to test on.
fn arrays(path: &Path, labels: &[i64], spoilt: Option<f32>) {
    let mut values: Vec<f32> = (0..labels.len() * 64).map(|index| (index % 97) as f32 / 97.0).collect();
    if let Some(spoilt) = spoilt {
        values[70] = spoilt;
    }
    let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let classes: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
    let x = || TensorView::new(Dtype::F32, vec![labels.len(), 1, 8, 8], &values).unwrap();
    let y = || TensorView::new(Dtype::I64, vec![labels.len()], &classes).unwrap();
    let file = safetensors::serialize([("x_train", x()), ("y_train", y()), ("x_test", x()), ("y_test", y())], None).unwrap();
    std::fs::write(path, file).unwrap();
}

#[test]
fn a_folder_of_images_is_brought_to_the_models_size() {
    let folder = workshop();
    images(folder.path());
    let flags = ["--epochs", "4", "--batch", "8", "--lr", "0.05", "--density", "0.5", "--validation", "0.25"];
    let train = |run: &'static str| [&["train", "convnet.onnx", "--data", "images:set", "-o", run][..], &flags].concat();
    succeed(folder.path(), &train("run"));
    let metrics = json(&std::fs::read_to_string(folder.path().join("run/metrics.json")).unwrap());
    let last = &metrics["epochs"][3];
    assert_eq!((last["examples"].as_u64(), last["test_accuracy"].as_f64()), (Some(18), Some(1.0)), "dark and light are learned: {metrics}");
    assert!(last["validation_loss"].is_number() && last["validation_accuracy"].is_number(), "{last}");
    let evaluated = json(&succeed(folder.path(), &["eval", "run", "--json"]));
    assert_eq!((evaluated["examples"].as_u64(), &evaluated["accuracy"]), (Some(8), &last["test_accuracy"]));
    succeed(folder.path(), &train("again"));
    let model = |run: &str| std::fs::read(folder.path().join(run).join("model.onnx")).unwrap();
    assert_eq!(model("run"), model("again"));
}

#[test]
fn arrays_are_trained_on() {
    let folder = workshop();
    arrays(&folder.path().join("set.safetensors"), &[0, 1, 2, 9, 4, 5, 6, 7], None);
    let flags = ["--epochs", "3", "--batch", "4", "--policy", "static"];
    succeed(folder.path(), &[&["train", "convnet.onnx", "--data", "safetensors:set.safetensors", "-o", "run"][..], &flags].concat());
    // Without a model, a ResNet in the data's shape.
    succeed(folder.path(), &[&["train", "--data", "safetensors:set.safetensors", "-o", "own"][..], &flags].concat());
}

#[test]
fn everything_that_is_wrong_with_files_is_told_before_anything_is_written() {
    let folder = workshop();
    images(folder.path());
    let set = folder.path().join("set");
    std::fs::create_dir(set.join("train/empty")).unwrap();
    std::fs::write(set.join("test/dark/00.png"), "no image").unwrap();
    let train = |spec: &'static str| ["train", "convnet.onnx", "--data", spec, "-o", "run"];
    let said = fail(folder.path(), &train("images:set"), 2);
    assert!(said.contains("train/empty: an empty class folder") && said.contains("test/empty: no such file"), "{said}");
    std::fs::remove_dir(set.join("train/empty")).unwrap();
    let said = fail(folder.path(), &train("images:set"), 2);
    assert!(said.contains("test/dark/00.png: an image that can't be read"), "{said}");
    arrays(&folder.path().join("nan.safetensors"), &[0, 1, -2], Some(f32::NAN));
    let said = fail(folder.path(), &train("safetensors:nan.safetensors"), 2);
    assert!(
        said.contains("nan.safetensors") && said.contains("`x_train`[1, 0, 0, 6] is NaN") && said.contains("`y_train`[2] is -2"),
        "{said}"
    );
    arrays(&folder.path().join("many.safetensors"), &[0, 1, 12], None);
    let said = fail(folder.path(), &train("safetensors:many.safetensors"), 2);
    for expected in ["safetensors:many.safetensors", "it has 13 classes (training example 2 is of class 12)", "has 10"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!folder.path().join("run").exists());
}

#[test]
fn a_run_ends_early_when_the_validation_loss_does_not_fall() {
    let folder = workshop();
    // Labels that nothing explains: what is held out is not learned.
    let train = ["train", "convnet.onnx", "--data", "synthetic:1x8x8:10:160", "--epochs", "60", "--batch", "16", "--lr", "0.05"];
    let early = ["--policy", "static", "--validation", "0.2", "--early-stop", "2", "-o", "run"];
    succeed(folder.path(), &[&train[..], &early].concat());
    let metrics = json(&std::fs::read_to_string(folder.path().join("run/metrics.json")).unwrap());
    assert!(metrics["epochs"].as_array().unwrap().len() < 60);
    let said = fail(folder.path(), &[&train[..], &["--early-stop", "2", "-o", "other"]].concat(), 2);
    assert!(said.contains("early-stop = 2") && said.contains("validation"), "{said}");
}
