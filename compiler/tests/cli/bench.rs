//! `mestc bench`: what it reports, not how fast it is.

use crate::{command, fail, json, succeed, text, workshop};

const RECIPE: [&str; 8] = ["--batch", "8", "--threads", "2", "--sparsity", "0.5", "--steps", "2"];

fn bench(flags: &[&str]) -> String {
    succeed(workshop().path(), &[&["bench", "convnet.onnx"], &RECIPE[..], flags].concat())
}

#[test]
fn every_layer_is_timed_in_every_way() {
    let report = json(&bench(&["--json", "--profile"]));
    assert_eq!((report["machine"]["threads"].as_u64(), report["machine"]["isa"].is_string()), (Some(2), true));
    let peak = report["machine"]["peak_gflops"].as_f64().unwrap();
    let layers = report["layers"].as_array().unwrap();
    let passes: Vec<_> = layers.iter().map(|layer| (layer["name"].as_str().unwrap(), layer["pass"].as_str().unwrap())).collect();
    assert!(passes.contains(&("body.weight", "forward")) && passes.contains(&("body.weight", "backward")), "{passes:?}");
    assert_eq!(passes.len(), 6, "three layers, two passes");
    for layer in layers {
        for key in ["generated_ms", "generic_ms", "dense_ms", "gflops", "share_of_peak"] {
            assert!(layer[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {layer}");
        }
        let rate = layer["share_of_peak"].as_f64().unwrap() * peak;
        assert!((rate / layer["gflops"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{layer}");
    }
    let body = layers.iter().find(|layer| layer["name"] == "body.weight").unwrap();
    assert_eq!((body["scheme"].as_str(), body["density"].as_f64()), (Some("unstructured"), Some(0.5)));
    // 8x8 outputs of 8 channels, each of 8x8x3x3 weights, half of them live, 8 examples, 2 operations each.
    let flops = body["gflops"].as_f64().unwrap() * body["generated_ms"].as_f64().unwrap() * 1e6;
    assert!((flops / (2.0 * 8.0 * 64.0 * 576.0 * 0.5) - 1.0).abs() < 1e-9, "{flops}");
    assert!(report["kernels"].as_array().unwrap().iter().any(|time| time["kernel"].as_str().unwrap().starts_with("convolution")));
}

#[test]
fn the_step_alone_has_all_three_variants_and_no_layers() {
    let report = json(&bench(&["--json", "--step-only"]));
    assert_eq!(report["layers"].as_array().map(Vec::len), Some(0));
    let step = &report["step"];
    let keys = ["images_per_s", "dense_images_per_s", "generic_images_per_s", "arena_bytes", "compile_ms", "mutation_ms"];
    for key in keys.into_iter().chain(["convolution_ms", "step_ms", "grown_images_per_s", "mean_images_per_s"]) {
        assert!(step[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {step}");
    }
    assert!(step["grown_density"].as_f64() > step["mean_density"].as_f64() && step["mean_density"].as_f64() > Some(0.5), "{step}");
    if cfg!(target_os = "linux") {
        assert!(step["peak_rss_bytes"].as_u64() > step["arena_bytes"].as_u64(), "{step}");
    }
}

#[test]
fn tables_name_layers_kernels_and_variants() {
    let text = bench(&["--profile"]);
    for expected in ["body.weight", "backward", "generated ms", "launches", "generic", "dense", "GFLOP/s", "import to engine ready"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_runs() {
    let folder = workshop();
    assert!(fail(folder.path(), &["bench", "none.onnx"], 2).contains("none.onnx"));
    assert!(fail(folder.path(), &["bench", "mlp.onnx", "--engine", "rust"], 2).contains("--step-only"));
    assert!(fail(folder.path(), &["bench", "mlp.onnx", "--steps", "0"], 2).contains("--steps"));
    assert!(fail(folder.path(), &["bench", "mlp.onnx", "--sparsity", "2"], 2).contains("sparsity"));
}

/// What `mestc bench --engine rust` says, with this variable set.
fn bench_rust(variable: (&str, &std::ffi::OsStr)) -> std::process::Output {
    let folder = workshop();
    let arguments = [&["bench", "mlp.onnx"], &RECIPE[..], &["--engine", "rust", "--step-only", "--json"]].concat();
    command(folder.path(), &arguments).env(variable.0, variable.1).output().expect("mestc starts")
}

/// Builds with cargo, which takes a minute: only where `MEST_TEST_CARGO` names a folder to build in.
#[test]
fn generated_rust_is_timed_where_it_runs() {
    let Some(folder) = std::env::var_os("MEST_TEST_CARGO") else {
        eprintln!("skipped: MEST_TEST_CARGO names no folder to build generated crates in");
        return;
    };
    let output = bench_rust(("XDG_CACHE_HOME", &folder));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = json(&text(&output.stdout));
    for key in ["step_ms", "dense_step_ms", "generic_step_ms", "peak_rss_bytes", "mutation_ms"] {
        assert!(report["step"][key].as_f64().is_some_and(|value| value > 0.0), "{key}: {report}");
    }
}

#[test]
fn without_cargo_the_rust_engine_says_so() {
    let output = bench_rust(("CARGO", "no-such-program".as_ref()));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("cargo can't be run") && text(&output.stderr).contains("--engine jit"),
        "{}",
        text(&output.stderr)
    );
}
