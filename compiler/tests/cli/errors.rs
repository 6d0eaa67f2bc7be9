//! Everything that is refused, with its exit code and a message that says what, where and how to fix it.

use crate::{command, fail, models, text, workshop};
use std::process::Stdio;

/// Data small enough for tests, of the models' shape.
const DATA: &str = "synthetic:1x8x8:10:64";

#[test]
fn broken_models_are_refused_by_every_command() {
    let folder = workshop();
    let path = folder.path().join("broken.onnx");
    for (what, bytes, words) in models::broken() {
        std::fs::write(&path, bytes).unwrap();
        let commands: [&[&str]; 4] = [
            &["plan", "broken.onnx"],
            &["compile", "broken.onnx", "--emit", "program"],
            &["train", "broken.onnx", "--data", DATA, "-o", "run"],
            &["inspect", "broken.onnx"],
        ];
        for arguments in commands {
            // Inspect lists what can't be trained, and ends well.
            if ["unknown op", "several inputs"].contains(&what) && arguments[0] == "inspect" {
                continue;
            }
            let errors = fail(folder.path(), arguments, 2);
            assert!(errors.contains("broken.onnx"), "{what}: {errors}");
            for word in words {
                assert!(errors.contains(word), "{what}: no `{word}` in {errors}");
            }
        }
        assert!(!folder.path().join("run").exists(), "{what}: nothing is written before the model is understood");
    }
}

#[test]
fn usage_is_checked_before_anything_runs() {
    let folder = workshop();
    let cases: &[(&[&str], &[&str])] = &[
        (&["trian"], &["trian", "train"]),
        (&["train", "mlp.onnx"], &["--data"]),
        (&["train", "--data", "cifar-10:x"], &["cifar-10", "cifar10:FILE_OR_DIR"]),
        (&["train", "--batch", "0"], &["batch = 0", "at least 1"]),
        (&["train", "--sparsity", "1.5", "--epochs", "0"], &["sparsity = 1.5", "epochs = 0"]),
        (&["train", "--recipe", "absent.toml"], &["absent.toml"]),
        (&["train", "--scheme", "block:3x1"], &["block:3x1", "block:"]),
        (&["train", "--isa", "neon"], &["neon"]),
        (&["train", "--engine", "interp", "-o", "x"], &["interp", "jit"]),
        (&["plan", "absent.onnx"], &["absent.onnx"]),
        (
            &["plan", "mlp.onnx", "--allow", "bf16-moment"],
            &["bf16-moment", "did you mean `bf16-momentum`", "bf16, bf16-momentum, split-bn"],
        ),
        (&["plan", "mlp.onnx", "--batch", "100000"], &["100000"]),
        (&["compile", "mlp.onnx"], &["-o"]),
        (&["compile", "mlp.onnx", "--emit", "clif", "--after", "import"], &["--after"]),
        (&["eval", "mlp.onnx"], &["--data"]),
        (&["export", "absent", "-o", "x.onnx"], &["absent"]),
        (&["verify", "mlp.onnx", "absent.safetensors"], &["absent.safetensors"]),
        (&["verify", "mlp.onnx", "mlp.onnx"], &["mlp.onnx"]),
        (&["zoo", "resnet9", "-o", "x.onnx"], &["resnet9", "resnet8"]),
        (&["zoo", "mlp", "--input", "3x3", "-o", "x.onnx"], &["3x32x32"]),
    ];
    for (arguments, words) in cases {
        let errors = fail(folder.path(), arguments, 2);
        for word in *words {
            assert!(errors.contains(word), "mestc {arguments:?}: no `{word}` in {errors}");
        }
    }
    assert!(!folder.path().join("runs").exists() && !folder.path().join("x").exists(), "nothing was written");
}

#[test]
fn data_that_cannot_be_used_is_refused() {
    let folder = workshop();
    std::fs::write(folder.path().join("empty"), b"").unwrap();
    let archive = folder.path().join("truncated.tar.gz");
    std::fs::write(&archive, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2]).unwrap();
    let cases = [
        ("idx:nowhere", "nowhere"),
        ("idx:empty", "empty"),
        ("cifar10:nowhere", "nowhere"),
        ("cifar10:truncated.tar.gz", "truncated.tar.gz"),
        ("synthetic:1x8x8:10:0", "synthetic"),
        ("synthetic:1x9x9:10:64", "9, 9"),
        ("synthetic:1x8x8:11:64", "11 classes"),
    ];
    for (spec, word) in cases {
        let errors = fail(folder.path(), &["train", "mlp.onnx", "--data", spec, "-o", "run", "--batch", "16", "--epochs", "2"], 2);
        assert!(errors.contains(word), "{spec}: {errors}");
        assert!(!folder.path().join("run").exists(), "{spec}: nothing is written");
    }
}

#[test]
fn a_scheme_that_does_not_fit_names_the_layer() {
    let folder = workshop();
    let errors = fail(folder.path(), &["plan", "mlp.onnx", "--scheme", "block:16x1"], 2);
    assert!(errors.contains("first.weight") && errors.contains("block:8x1"), "{errors}");
}

#[test]
fn a_run_folder_that_cannot_be_written_is_refused() {
    let folder = workshop();
    std::fs::write(folder.path().join("file"), b"").unwrap();
    for run in ["file", "file/run"] {
        let errors = fail(folder.path(), &["train", "mlp.onnx", "--data", DATA, "--epochs", "2", "-o", run], 2);
        assert!(errors.contains("file") && errors.contains("-o"), "{run}: {errors}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_failure_that_names_the_file() {
    let folder = workshop();
    let errors = fail(folder.path(), &["zoo", "mlp", "-o", "/dev/full"], 1);
    assert!(errors.contains("/dev/full"), "{errors}");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = command(folder.path(), &["ops"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("standard output"), "{}", text(&output.stderr));
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_does_no_harm() {
    let folder = workshop();
    for arguments in [&["compile", "convnet.onnx", "--emit", "program"][..], &["completions", "bash"], &["inspect", "mlp.onnx", "--json"]] {
        let mut child = command(folder.path(), arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn colour_is_for_terminals_and_those_who_ask() {
    let folder = workshop();
    let plain = command(folder.path(), &["plan", "absent.onnx"]).output().unwrap();
    assert!(!plain.stderr.contains(&0x1b));
    let asked = command(folder.path(), &["plan", "absent.onnx", "--color", "always"]).output().unwrap();
    assert!(asked.stderr.contains(&0x1b));
}
