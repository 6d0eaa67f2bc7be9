//! Commands that only tell: their tables, their JSON, the files they write.

use crate::{command, fail, json, mestc, models, succeed, text, workshop};
use serde_json::Value;

#[test]
fn help_has_an_example_and_exits_with_0() {
    let folder = workshop();
    for command in ["train", "compile", "plan", "inspect", "verify", "eval", "export", "zoo", "ops", "bench", "completions", "report"] {
        let help = succeed(folder.path(), &[command, "--help"]);
        assert!(help.contains("Example") && help.contains(&format!("mestc {command}")), "{command}: {help}");
    }
    assert!(succeed(folder.path(), &["--version"]).starts_with("mestc "));
}

#[test]
fn inspect_counts_what_is_in_the_model() {
    let folder = workshop();
    let report = json(&succeed(folder.path(), &["inspect", "convnet.onnx", "--json"]));
    assert_eq!((report["ops"]["Conv"].as_u64(), report["ops"]["Gemm"].as_u64()), (Some(2), Some(1)));
    assert_eq!(report["unsupported"], Value::Array(vec![]));
    assert_eq!(report["parameters"].as_u64(), Some(72 + 576 + 16 + 80 + 10));
    let convolutions = 2.0 * 64.0 * (72.0 + 576.0);
    assert!(report["flops_per_example"].as_f64().unwrap() > convolutions, "{report}");
    let table = succeed(folder.path(), &["inspect", "convnet.onnx"]);
    assert!(table.contains("body.weight") && table.contains("8x8x3x3"), "{table}");
}

#[test]
fn inspect_lists_what_is_unsupported_and_exits_with_0() {
    let folder = workshop();
    let (_, bytes, _) = models::broken().into_iter().find(|(what, ..)| *what == "unknown op").unwrap();
    std::fs::write(folder.path().join("odd.onnx"), bytes).unwrap();
    let report = json(&succeed(folder.path(), &["inspect", "odd.onnx", "--json"]));
    let node = &report["unsupported"][0];
    assert_eq!((node["op"].as_str(), node["node"].as_str()), (Some("Frobnicate"), Some("node_active")));
    assert!(node["why"].is_string());
    assert!(succeed(folder.path(), &["inspect", "odd.onnx"]).contains("Frobnicate"));
}

#[test]
fn budgets_are_kept_or_refused_with_ways_out() {
    let folder = workshop();
    let plan = |flags: &[&'static str]| [&["plan", "mlp.onnx", "--threads", "1"], flags].concat();
    let fits = json(&succeed(folder.path(), &plan(&["--memory", "64MiB", "--assert-peak", "64MiB", "--json"])));
    assert_eq!(fits["budget_bytes"].as_u64(), Some(64 << 20));
    let said = fail(folder.path(), &plan(&["--memory", "1KiB"]), 1);
    assert!(said.contains("memory = 1KiB") && said.contains("closest"), "{said}");
    let said = fail(folder.path(), &plan(&["--assert-peak", "1KiB"]), 1);
    assert!(said.contains("assert-peak = 1KiB"), "{said}");
    for nonsense in ["0", "plenty", "1000000GiB"] {
        let said = fail(folder.path(), &[&plan(&["--memory"])[..], &[nonsense]].concat(), 2);
        assert!(said.contains("memory"), "{nonsense}: {said}");
    }
}

#[test]
fn plans_add_up_and_follow_the_recipe() {
    let folder = workshop();
    let plan = |flags: &[&str]| json(&succeed(folder.path(), &[&["plan", "mlp.onnx", "--json", "--threads", "2"], flags].concat()));
    let sparse = plan(&["--sparsity", "0.9"]);
    let classes = sparse["by_class"].as_object().unwrap();
    for class in ["weights", "gradients", "optimizer", "topology", "activations", "scratch"] {
        assert!(classes.contains_key(class), "{class}: {sparse}");
    }
    let sum: u64 = classes.values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(sum, sparse["arena_bytes"].as_u64().unwrap() + sparse["scratch_bytes"].as_u64().unwrap());
    assert!(sparse["budget_bytes"].is_null());
    let phases = sparse["phases"].as_array().unwrap();
    let peak = phases.iter().map(|phase| phase["peak_bytes"].as_u64().unwrap()).max().unwrap();
    assert_eq!(peak, sum, "the largest phase is what the arena was made for");
    let dense = plan(&["--policy", "dense"]);
    assert!(dense["by_class"]["weights"].as_u64() > sparse["by_class"]["weights"].as_u64());
    assert!(plan(&["--optimizer", "adam"])["by_class"]["optimizer"].as_u64() > sparse["by_class"]["optimizer"].as_u64());
    assert!(plan(&["--policy", "snip"])["by_class"]["weights"].as_u64() >= dense["by_class"]["weights"].as_u64(), "dense to begin with");
    let table = succeed(folder.path(), &["plan", "mlp.onnx"]);
    assert!(table.contains("sparse layers") && table.contains("nnz"), "{table}");
    assert!(table.contains("activations") && table.contains("evaluate"), "{table}");
}

#[test]
fn plans_show_how_the_density_is_spread() {
    let folder = workshop();
    succeed(folder.path(), &["zoo", "mlp", "-o", "zoo.onnx"]);
    let live = |flags: &[&str]| {
        let plan = json(&succeed(folder.path(), &[&["plan", "zoo.onnx", "--json"], flags].concat()));
        let layers = plan["layers"].as_array().unwrap().iter().filter(|layer| layer["scheme"] != "dense");
        layers.map(|layer| layer["nnz"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    // 784x300 and 300x100 weights: the sums of their extents are 1084 and 400 of 1484.
    assert_eq!(live(&["--sparsity", "0.9"]), [23520, 3000]);
    assert_eq!(live(&["--sparsity", "0.9", "--distribution", "erk"]), [19372, 7148]);
    let told = fail(folder.path(), &["plan", "zoo.onnx", "--distribution", "erks"], 2);
    assert!(told.contains("did you mean `erk`") && told.contains("uniform, erk"), "{told}");
    let table = succeed(folder.path(), &["plan", "zoo.onnx", "--distribution", "erk"]);
    assert!(table.contains("19 372") && table.contains("26 520"), "{table}");
}

#[test]
fn compile_shows_every_form() {
    let folder = workshop();
    let emit = |form: &[&str]| succeed(folder.path(), &[&["compile", "convnet.onnx", "--emit"], form].concat());
    assert!(emit(&["ir", "--after", "import"]).contains("batch_normalization"));
    let specialized = emit(&["ir", "--after", "specialize"]);
    assert!(specialized.contains("batch_moments") && !specialized.contains("softmax_cross_entropy"));
    assert!(!emit(&["ir", "--after", "attach-loss"]).contains("convolution_backward"));
    assert!(emit(&["ir"]).contains("convolution_backward"));
    assert!(emit(&["dot"]).starts_with("digraph"));
    assert!(emit(&["program"]).contains("convolution"));
    assert!(emit(&["clif"]).contains("function"));
    assert_eq!(emit(&["program", "-o", "program.txt"]), "");
    assert_eq!(std::fs::read_to_string(folder.path().join("program.txt")).unwrap(), emit(&["program"]));
}

#[test]
fn compile_writes_a_crate() {
    let folder = workshop();
    succeed(folder.path(), &["compile", "mlp.onnx", "-o", "net", "--density", "0.2"]);
    for file in ["Cargo.toml", "src/lib.rs", "src/model.onnx", "runtime/Cargo.toml", "runtime/src/lib.rs"] {
        assert!(folder.path().join("net").join(file).is_file(), "{file}");
    }
    let source = std::fs::read_to_string(folder.path().join("net/src/lib.rs")).unwrap();
    assert!(source.contains("mlp.onnx") && source.contains(r#"\"density\":0.2"#));
    succeed(folder.path(), &["compile", "mlp.onnx", "-o", "slim", "--runtime", "path:../runtime"]);
    assert!(!folder.path().join("slim/runtime").exists());
    let manifest = std::fs::read_to_string(folder.path().join("slim/Cargo.toml")).unwrap();
    assert!(manifest.contains("../runtime"), "{manifest}");
}

#[test]
fn the_zoo_is_listed_and_written() {
    let folder = workshop();
    let list = succeed(folder.path(), &["zoo"]);
    for name in ["mlp", "resnet8", "resnet20", "resnet32", "mobilenetv2", "dscnn", "vit"] {
        assert!(list.contains(name), "{list}");
    }
    let zoo = ["zoo", "resnet8", "--input", "1x8x8", "--classes", "7", "-o", "a.onnx"];
    succeed(folder.path(), &zoo);
    succeed(folder.path(), &[&zoo[..6], &["-o", "b.onnx", "--seed", "1"]].concat());
    let [a, b] = ["a.onnx", "b.onnx"].map(|name| std::fs::read(folder.path().join(name)).unwrap());
    assert_ne!(a, b, "another seed, other weights");
    let report = json(&succeed(folder.path(), &["inspect", "a.onnx", "--json"]));
    assert!(report["input"][1].as_str().unwrap().contains("1, 8, 8"), "{report}");
    fail(folder.path(), &["zoo", "mlp"], 2);
}

#[test]
fn ops_lists_gradients_and_attributes() {
    let folder = workshop();
    let ops = json(&succeed(folder.path(), &["ops", "--json"]));
    let conv = ops["ops"].as_array().unwrap().iter().find(|op| op["op"] == "Conv").unwrap();
    assert_eq!(conv["gradient"], true);
    assert!(conv["attributes"].as_array().unwrap().iter().any(|name| name == "strides"));
    assert!(succeed(folder.path(), &["ops"]).contains("BatchNormalization"));
}

#[test]
fn completions_know_commands_and_flags() {
    let folder = workshop();
    for shell in ["bash", "zsh", "fish"] {
        let script = succeed(folder.path(), &["completions", shell]);
        assert!(script.contains("verify") && script.contains("sparsity"), "{shell}");
    }
}

/// A trace of one step on an empty image, with a loss and a weight that no training has: neither can agree with it.
fn impossible_trace() -> Vec<u8> {
    use safetensors::tensor::{Dtype, TensorView, serialize};
    let input = vec![0_u8; 4 * 64 * 4];
    let (output, labels) = (vec![0_u8; 4 * 10 * 4], vec![0_u8; 4 * 8]);
    let loss = 1e-3_f64.to_le_bytes();
    let after = 1e-3_f32.to_le_bytes().repeat(10 * 24);
    let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data).unwrap();
    let tensors = [
        ("input.0", view(Dtype::F32, &[4, 1, 8, 8], &input)),
        ("target.0", view(Dtype::I64, &[4], &labels)),
        ("output.0", view(Dtype::F32, &[4, 10], &output)),
        ("loss", view(Dtype::F64, &[1], &loss)),
        ("after.last.weight", view(Dtype::F32, &[10, 24], &after)),
    ];
    let pairs = [("format", "mest-trace-1"), ("steps", "1"), ("loss", "cross_entropy"), ("optimizer", r#"{"kind":"sgd","lr":0.1}"#)];
    let metadata = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
    serialize(tensors, Some(metadata)).unwrap()
}

#[test]
fn verify_ends_with_1_above_tolerance_and_says_where() {
    let folder = workshop();
    std::fs::write(folder.path().join("trace.safetensors"), impossible_trace()).unwrap();
    for engine in ["interp", "jit"] {
        let arguments = ["verify", "mlp.onnx", "trace.safetensors", "--engine", engine, "--json"];
        let output = mestc(folder.path(), &arguments);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("after.last.weight") || text(&output.stderr).contains("loss"), "{}", text(&output.stderr));
        let report = json(&text(&output.stdout));
        assert_eq!(report["passed"], false);
        assert_eq!(report["tolerance"].as_f64(), Some(if engine == "interp" { 1e-5 } else { 1e-3 }));
        let tensors = report["tensors"].as_array().unwrap();
        assert_eq!(tensors.len(), 3);
        assert!(tensors.iter().all(|tensor| tensor["hash"].as_str().is_some_and(|hash| hash.len() == 16)));
        assert!(report["worst"].as_f64().unwrap() > 0.5);
    }
    let arguments = ["verify", "mlp.onnx", "trace.safetensors", "--engine", "rust"];
    let without_cargo = command(folder.path(), &arguments).env("CARGO", "no-such-program").output().unwrap();
    assert_eq!(without_cargo.status.code(), Some(1));
    assert!(text(&without_cargo.stderr).contains("cargo can't be run"), "{}", text(&without_cargo.stderr));
    let lax = succeed(folder.path(), &["verify", "mlp.onnx", "trace.safetensors", "--tolerance", "1e300"]);
    assert!(lax.contains("passed") && lax.contains("output.0"), "{lax}");
}
