use super::*;
use safetensors::tensor::serialize;

struct Entry {
    name: String,
    dtype: Dtype,
    dims: Vec<usize>,
    bytes: Vec<u8>,
}

fn floats(name: &str, dims: &[usize], values: &[f32]) -> Entry {
    Entry { name: name.into(), dtype: Dtype::F32, dims: dims.to_vec(), bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
}

fn indices(name: &str, values: &[i64]) -> Entry {
    Entry { name: name.into(), dtype: Dtype::I64, dims: vec![values.len()], bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
}

fn entries() -> Vec<Entry> {
    let losses = [0.5f64, 0.25].iter().flat_map(|v| v.to_le_bytes()).collect();
    vec![
        floats("input.0", &[2, 1], &[1.0, 2.0]),
        floats("input.1", &[1, 1], &[3.0]),
        indices("target.0", &[0, 1]),
        indices("target.1", &[1]),
        floats("output.0", &[2, 2], &[1.0, 0.0, 0.0, 1.0]),
        Entry { name: "loss".into(), dtype: Dtype::F64, dims: vec![2], bytes: losses },
        Entry { name: "mask.w".into(), dtype: Dtype::U8, dims: vec![1, 2], bytes: vec![1, 0] },
        floats("grad.w", &[1, 2], &[4.0, 0.0]),
        floats("grad.b", &[1], &[0.001]),
        floats("after.w", &[1, 2], &[8.0, 0.0]),
    ]
}

fn metadata() -> HashMap<String, String> {
    let pairs =
        [("format", FORMAT), ("steps", "2"), ("loss", "cross_entropy"), ("optimizer", r#"{"kind": "sgd", "lr": 0.1, "momentum": 0}"#)];
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn file(entries: &[Entry], metadata: HashMap<String, String>) -> Vec<u8> {
    let views = entries.iter().map(|e| (e.name.clone(), TensorView::new(e.dtype, e.dims.clone(), &e.bytes).unwrap()));
    serialize(views, Some(metadata)).unwrap()
}

/// Replays the recorded numbers, but for one that is off by `error`.
struct Recorded {
    error: f64,
    steps: usize,
    masked: bool,
}

impl Replay for Recorded {
    fn mask(&mut self, name: &str, live: &[bool]) -> Result<(), ReplayError> {
        assert_eq!((name, live, self.steps), ("w", &[true, false][..], 0));
        self.masked = true;
        Ok(())
    }
    fn step(&mut self, batch: Batch<'_>) -> Result<f64, ReplayError> {
        assert!(self.masked);
        assert_eq!(batch.input.dims[0], [2, 1][self.steps]);
        self.steps += 1;
        Ok([0.5, 0.25][self.steps - 1])
    }
    fn output(&self) -> Result<Vec<f64>, ReplayError> {
        assert_eq!(self.steps, 1);
        Ok(vec![1.0, 0.0, 0.0, 1.0])
    }
    fn gradient(&self, name: &str) -> Result<Vec<f64>, ReplayError> {
        assert_eq!(self.steps, 1);
        Ok(if name == "w" { vec![4.0, 0.0] } else { vec![f64::from(0.001f32) + self.error] })
    }
    fn parameter(&self, _name: &str) -> Result<Vec<f64>, ReplayError> {
        assert_eq!(self.steps, 2);
        Ok(vec![8.0, 0.0])
    }
}

#[test]
fn a_trace_is_read_as_it_was_written() {
    let trace = Trace::parse(&file(&entries(), metadata())).unwrap();
    assert_eq!(trace.loss, LossKind::CrossEntropy);
    assert_eq!((trace.batch(), trace.inputs.len()), (2, 2));
    assert_eq!(trace.targets, [Target::Classes(vec![0, 1]), Target::Classes(vec![1])]);
    assert_eq!(trace.losses, [0.5, 0.25]);
    assert_eq!(trace.masks["w"], Mask { dims: vec![1, 2], live: vec![true, false] });
    assert_eq!(trace.gradients["w"].values, [4.0, 0.0]);
    assert_eq!(trace.optimizer.rule, Rule::Sgd { momentum: 0.0, nesterov: false });
}

#[test]
fn small_tensors_are_measured_against_the_largest_of_their_kind() {
    let trace = Trace::parse(&file(&entries(), metadata())).unwrap();
    let run = |error| verify(&trace, &mut Recorded { error, steps: 0, masked: false }).unwrap();
    let exact = run(0.0);
    assert!(exact.passed(0.0));
    let names: Vec<&str> = exact.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["output.0", "loss", "grad.b", "grad.w", "after.w"]);
    let off = run(0.002);
    assert!((off.worst() - 0.05).abs() < 1e-12, "0.002 / (0.01 * 4)");
    assert!(off.passed(0.0501) && !off.passed(0.0499));
    assert_ne!(off.tensors[2].hash, exact.tensors[2].hash);
    assert_eq!(off.tensors[3].hash, exact.tensors[3].hash);
    assert!(!run(f64::NAN).passed(1e30));
}

#[test]
fn relative_errors_by_hand() {
    assert_eq!(relative_error(&[1.0, 3.0], &[1.0, 2.0], 2.0), 0.5);
    assert_eq!(relative_error(&[0.0], &[0.0], 0.0), 0.0);
    assert_eq!(relative_error(&[1e-9], &[0.0], 0.0), f64::INFINITY);
    assert_eq!(relative_error(&[f64::NAN, 5.0], &[1.0, 5.0], 1.0), f64::INFINITY);
    assert_eq!(hash_bits(&[]), 0xcbf2_9ce4_8422_2325);
    assert_ne!(hash_bits(&[0.0]), hash_bits(&[-0.0]));
}

#[test]
fn optimisers_have_pytorchs_defaults() {
    let adamw = Optimizer::parse(r#"{"kind": "adamw", "lr": 2e-4, "foreach": null}"#).unwrap();
    assert_eq!(adamw.rule, Rule::AdamW { betas: [0.9, 0.999], epsilon: 1e-8 });
    assert_eq!((adamw.learning_rate, adamw.weight_decay, adamw.label_smoothing), (2e-4, 0.01, 0.0));
    let adam = Optimizer::parse(r#"{"kind": "adam", "betas": [0.8, 0.9], "eps": 1e-6, "label_smoothing": 0.1}"#).unwrap();
    assert_eq!(adam.rule, Rule::Adam { betas: [0.8, 0.9], epsilon: 1e-6 });
    assert_eq!((adam.learning_rate, adam.weight_decay, adam.label_smoothing), (1e-3, 0.0, 0.1));
    let adagrad = Optimizer::parse(r#"{"kind": "adagrad", "lr_decay": 0, "initial_accumulator_value": 0}"#).unwrap();
    assert_eq!((adagrad.rule, adagrad.learning_rate, adagrad.weight_decay), (Rule::Adagrad { epsilon: 1e-10 }, 1e-2, 0.0));
    assert!(Optimizer::parse(r#"{"kind": "adagrad", "lr_decay": 0.1}"#).unwrap_err().to_string().contains("lr_decay"));
    for (json, word) in
        [(r#"{"kind": "sgd", "dampening": 0.5}"#, "dampening"), (r#"{"kind": "lion"}"#, "lion"), ("{}", "kind"), ("[", "optimizer")]
    {
        let error = Optimizer::parse(json).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    type Edit = fn(&mut Vec<Entry>, &mut HashMap<String, String>);
    let cases: [(&str, Edit); 9] = [
        ("'format'", |_, m| drop(m.remove("format"))),
        ("'steps'", |_, m| drop(m.insert("steps".into(), "0".into()))),
        ("'loss' is 'hinge'", |_, m| drop(m.insert("loss".into(), "hinge".into()))),
        ("'target.1' is missing", |e, _| e.retain(|t| t.name != "target.1")),
        ("'target.0' has class 2", |e, _| e[2] = indices("target.0", &[0, 2])),
        ("'target.0' is [1]", |e, _| e[2] = indices("target.0", &[1])),
        ("'input.1' is [1, 2]", |e, _| e[1] = floats("input.1", &[1, 2], &[1.0, 2.0])),
        ("'mask.w'", |e, _| e[6].bytes = vec![1, 2]),
        ("'grad.b' is I64", |e, _| e[8] = indices("grad.b", &[1])),
    ];
    for (wanted, edit) in cases {
        let (mut entries, mut metadata) = (entries(), metadata());
        edit(&mut entries, &mut metadata);
        let error = Trace::parse(&file(&entries, metadata)).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}, not {wanted}");
    }
    assert!(matches!(Trace::parse(b"short"), Err(TraceError::Container(_))));
    let missing = Trace::read(Path::new("no/such/trace")).unwrap_err().to_string();
    assert!(missing.contains("no/such/trace"), "{missing}");
}
