//! The command line, run as a program: exit codes, messages, files.

mod bench;
mod errors;
mod fine_tuning;
mod models;
mod own_data;
mod reports;
mod seeing;
mod sweep;
mod training;

use std::path::Path;
use std::process::{Command, Output};

/// `mestc` with `arguments`, in `folder`.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mestc"));
    command.args(arguments).current_dir(folder).env_remove("NO_COLOR");
    command
}

/// What `mestc` with `arguments` does in `folder`.
fn mestc(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("mestc starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output of a command that ends with 0.
fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = mestc(folder, arguments);
    assert!(output.status.success(), "mestc {arguments:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Standard error of a command that ends with `code`; it neither panics nor is killed.
fn fail(folder: &Path, arguments: &[&str], code: i32) -> String {
    let output = mestc(folder, arguments);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "mestc {arguments:?}: {}\n{}{errors}", output.status, text(&output.stdout));
    assert!(!errors.contains("panicked"), "mestc {arguments:?}: {errors}");
    errors
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A folder with `mlp.onnx` and `convnet.onnx` in it.
fn workshop() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, model) in [("mlp.onnx", models::mlp()), ("convnet.onnx", models::convnet())] {
        std::fs::write(folder.path().join(name), models::bytes(&model)).expect("the folder can be written");
    }
    folder
}
