//! Training traces recorded elsewhere (`mest-trace-1`, a safetensors file), and the comparison of a run with one.
//!
//! What runs implements [`Replay`]; [`verify`] drives it through the trace and measures every tensor, whatever the engine.

use crate::ir::Tensor;
use crate::op::Reference;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Value of the metadata key `format`.
const FORMAT: &str = "mest-trace-1";

/// Share of the largest tensor of a kind below which a tensor's own size no longer counts.
const FLOOR: f64 = 0.01;

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a safetensors file.
    #[error("not a safetensors file: {0}")]
    Container(#[from] safetensors::SafeTensorError),
    /// A metadata key is absent or wrong.
    #[error("metadata '{key}' {problem}")]
    Metadata {
        /// The key.
        key: &'static str,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// A tensor is absent or wrong.
    #[error("tensor '{name}' {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
}

/// What the recorded training minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossKind {
    /// Cross-entropy of a softmax over classes, mean over the batch.
    CrossEntropy,
    /// Squared error, mean over all elements.
    MeanSquaredError,
}

/// An update rule with PyTorch's meaning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Gradient descent, dampening 0.
    Sgd {
        /// Share of the last update's direction that is kept.
        momentum: f64,
        /// Whether the momentum looks ahead.
        nesterov: bool,
    },
    /// Adam; weight decay is part of the gradient.
    Adam {
        /// Decay of the first and second moment.
        betas: [f64; 2],
        /// Added to the root of the second moment.
        epsilon: f64,
    },
    /// Adam with weight decay apart from the gradient.
    AdamW {
        /// Decay of the first and second moment.
        betas: [f64; 2],
        /// Added to the root of the second moment.
        epsilon: f64,
    },
    /// Adagrad, the learning rate constant; weight decay is part of the gradient.
    Adagrad {
        /// Added to the root of the sum of squares.
        epsilon: f64,
    },
}

/// How the recorded training updated its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optimizer {
    /// Update rule.
    pub rule: Rule,
    /// The same at every step.
    pub learning_rate: f64,
    /// Applied to every parameter.
    pub weight_decay: f64,
    /// Share of the target's probability that is spread evenly over the classes.
    pub label_smoothing: f64,
}

/// The optimiser as the trace's JSON has it; absent keys have PyTorch's defaults.
#[derive(Deserialize)]
struct OptimizerText {
    kind: String,
    lr: Option<f64>,
    weight_decay: Option<f64>,
    #[serde(default)]
    momentum: f64,
    #[serde(default)]
    dampening: f64,
    #[serde(default)]
    nesterov: bool,
    #[serde(default = "default_betas")]
    betas: [f64; 2],
    eps: Option<f64>,
    #[serde(default)]
    lr_decay: f64,
    #[serde(default)]
    initial_accumulator_value: f64,
    #[serde(default)]
    amsgrad: bool,
    #[serde(default)]
    maximize: bool,
    #[serde(default)]
    label_smoothing: f64,
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

impl Optimizer {
    /// Reads the value of the metadata key `optimizer`.
    ///
    /// # Errors
    /// It is not JSON of the form `{"kind": "sgd" | "adam" | "adamw" | "adagrad", "lr": .., ..}`, or asks for what is not supported.
    pub fn parse(json: &str) -> Result<Self, TraceError> {
        let wrong = |problem: String| TraceError::Metadata { key: "optimizer", problem };
        let text: OptimizerText = serde_json::from_str(json).map_err(|e| wrong(format!("is not understood: {e}")))?;
        let unsupported = [
            ("dampening", text.dampening != 0.0),
            ("lr_decay", text.lr_decay != 0.0),
            ("initial_accumulator_value", text.initial_accumulator_value != 0.0),
            ("amsgrad", text.amsgrad),
            ("maximize", text.maximize),
        ];
        if let Some((key, _)) = unsupported.iter().find(|(_, set)| *set) {
            return Err(wrong(format!("sets {key}, which is not supported; record the trace without it")));
        }
        let (betas, epsilon) = (text.betas, text.eps.unwrap_or(if text.kind == "adagrad" { 1e-10 } else { 1e-8 }));
        let (rule, default_decay) = match text.kind.as_str() {
            "sgd" => (Rule::Sgd { momentum: text.momentum, nesterov: text.nesterov }, 0.0),
            "adam" => (Rule::Adam { betas, epsilon }, 0.0),
            "adamw" => (Rule::AdamW { betas, epsilon }, 0.01),
            "adagrad" => (Rule::Adagrad { epsilon }, 0.0),
            other => return Err(wrong(format!("is of kind '{other}'; sgd, adam, adamw and adagrad are supported"))),
        };
        let weight_decay = text.weight_decay.unwrap_or(default_decay);
        let learning_rate = text.lr.unwrap_or(if matches!(rule, Rule::Adagrad { .. }) { 1e-2 } else { 1e-3 });
        Ok(Optimizer { rule, learning_rate, weight_decay, label_smoothing: text.label_smoothing })
    }
}

/// What a step compares the output with.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Class indices, one an example.
    Classes(Vec<u32>),
    /// Values of the output's extents.
    Values(Tensor),
}

/// One step's examples.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'t> {
    /// `[N, ..]`
    pub input: &'t Tensor,
    /// One an example.
    pub target: &'t Target,
}

/// Which elements of a parameter are live.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// Extents of the parameter.
    pub dims: Vec<usize>,
    /// One an element, ONNX order.
    pub live: Vec<bool>,
}

/// A recorded training.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// What was minimised.
    pub loss: LossKind,
    /// How.
    pub optimizer: Optimizer,
    /// Masks of the sparse parameters, by ONNX name.
    pub masks: BTreeMap<String, Mask>,
    /// Inputs of each step, `[N, ..]`.
    pub inputs: Vec<Tensor>,
    /// Targets of each step.
    pub targets: Vec<Target>,
    /// The output at step 0.
    pub output: Reference,
    /// The loss of each step.
    pub losses: Vec<f64>,
    /// Masked gradients at step 0, by ONNX name.
    pub gradients: BTreeMap<String, Reference>,
    /// Parameters after the last step, by ONNX name.
    pub after: BTreeMap<String, Reference>,
    /// The largest relative error of the recording framework itself in float32, if recorded.
    pub float32_error: Option<f64>,
}

impl Trace {
    /// Reads a trace file.
    ///
    /// # Errors
    /// The file cannot be read, or is not a well-formed trace.
    pub fn read(path: &Path) -> Result<Self, TraceError> {
        let bytes = std::fs::read(path).map_err(|source| TraceError::Io { path: path.to_owned(), source })?;
        Trace::parse(&bytes)
    }

    /// Reads a trace from the bytes of its file.
    ///
    /// # Errors
    /// They are not a well-formed trace.
    pub fn parse(bytes: &[u8]) -> Result<Self, TraceError> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let tensors = SafeTensors::deserialize(bytes)?;
        let format = required(&metadata, "format")?;
        if format != FORMAT {
            return Err(TraceError::Metadata { key: "format", problem: format!("is '{format}', not '{FORMAT}'") });
        }
        let loss = match required(&metadata, "loss")? {
            "cross_entropy" => LossKind::CrossEntropy,
            "mse" => LossKind::MeanSquaredError,
            other => return Err(TraceError::Metadata { key: "loss", problem: format!("is '{other}', not cross_entropy or mse") }),
        };
        let steps = required(&metadata, "steps")?;
        let steps: usize = steps
            .parse()
            .ok()
            .filter(|&k| k > 0)
            .ok_or_else(|| TraceError::Metadata { key: "steps", problem: format!("is '{steps}', not a positive number") })?;
        let losses = values(&tensors, "loss")?;
        if losses.dims != [steps] {
            return Err(wrong("loss", format!("is {:?}; the trace has {steps} steps", losses.dims)));
        }
        let output = values(&tensors, "output.0")?;
        let (inputs, targets) = batches(&tensors, loss, steps, &output)?;
        Ok(Trace {
            loss,
            optimizer: Optimizer::parse(required(&metadata, "optimizer")?)?,
            masks: named(&tensors, "mask.", mask)?,
            inputs,
            targets,
            output,
            losses: losses.values,
            gradients: named(&tensors, "grad.", values)?,
            after: named(&tensors, "after.", values)?,
            float32_error: metadata.get("float32_error").and_then(|text| text.parse().ok()),
        })
    }

    /// Examples of the largest step.
    pub fn batch(&self) -> usize {
        self.inputs.iter().map(|input| input.dims[0]).max().unwrap_or(0)
    }
}

fn required<'m>(metadata: &'m HashMap<String, String>, key: &'static str) -> Result<&'m str, TraceError> {
    metadata.get(key).map(String::as_str).ok_or_else(|| TraceError::Metadata { key, problem: "is missing".to_owned() })
}

fn wrong(name: &str, problem: impl Into<String>) -> TraceError {
    TraceError::Tensor { name: name.to_owned(), problem: problem.into() }
}

fn view<'d>(tensors: &SafeTensors<'d>, name: &str) -> Result<TensorView<'d>, TraceError> {
    tensors.tensor(name).map_err(|_| wrong(name, "is missing"))
}

/// A tensor of floats, widened.
fn values(tensors: &SafeTensors<'_>, name: &str) -> Result<Reference, TraceError> {
    let view = view(tensors, name)?;
    let values = match view.dtype() {
        Dtype::F32 => view.data().as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
        Dtype::F64 => view.data().as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
        other => return Err(wrong(name, format!("is {other:?}, not F32 or F64"))),
    };
    Ok(Reference { dims: view.shape().to_vec(), values })
}

fn single(tensors: &SafeTensors<'_>, name: &str) -> Result<Tensor, TraceError> {
    let wide = values(tensors, name)?;
    Ok(Tensor { dims: wide.dims, values: wide.values.into_iter().map(|v| v as f32).collect() })
}

fn mask(tensors: &SafeTensors<'_>, name: &str) -> Result<Mask, TraceError> {
    let view = view(tensors, name)?;
    if !matches!(view.dtype(), Dtype::U8 | Dtype::BOOL) || view.data().iter().any(|&b| b > 1) {
        return Err(wrong(name, format!("is {:?} or has values other than 0 and 1; a mask is U8 of 0 and 1", view.dtype())));
    }
    Ok(Mask { dims: view.shape().to_vec(), live: view.data().iter().map(|&b| b == 1).collect() })
}

fn classes(tensors: &SafeTensors<'_>, name: &str, count: usize) -> Result<Vec<u32>, TraceError> {
    let view = view(tensors, name)?;
    let indices: Vec<i64> = match view.dtype() {
        Dtype::I64 => view.data().as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
        Dtype::I32 => view.data().as_chunks().0.iter().map(|&b| i64::from(i32::from_le_bytes(b))).collect(),
        other => return Err(wrong(name, format!("is {other:?}; class indices are I64 or I32"))),
    };
    let class = |&index: &i64| {
        u32::try_from(index)
            .ok()
            .filter(|&c| (c as usize) < count)
            .ok_or_else(|| wrong(name, format!("has class {index}; the output has {count} classes")))
    };
    indices.iter().map(class).collect()
}

/// All tensors whose name begins with `prefix`, keyed by the rest of it.
fn named<T>(
    tensors: &SafeTensors<'_>,
    prefix: &str,
    read: impl Fn(&SafeTensors<'_>, &str) -> Result<T, TraceError>,
) -> Result<BTreeMap<String, T>, TraceError> {
    let names = tensors.names().into_iter().filter_map(|name| Some((name.strip_prefix(prefix)?, name)));
    names.map(|(short, name)| Ok((short.to_owned(), read(tensors, name)?))).collect()
}

fn batches(tensors: &SafeTensors<'_>, loss: LossKind, steps: usize, output: &Reference) -> Result<(Vec<Tensor>, Vec<Target>), TraceError> {
    let (mut inputs, mut targets): (Vec<Tensor>, Vec<Target>) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let (name, target_name) = (format!("input.{step}"), format!("target.{step}"));
        let input = single(tensors, &name)?;
        if input.dims.first().is_none_or(|&n| n == 0) {
            return Err(wrong(&name, format!("is {:?}; its first axis must be the batch", input.dims)));
        }
        if inputs.first().is_some_and(|first| first.dims[1..] != input.dims[1..]) {
            return Err(wrong(&name, format!("is {:?}; input.0 is {:?}", input.dims, inputs[0].dims)));
        }
        let examples = input.dims[0];
        if step == 0 && output.dims.first() != Some(&examples) {
            return Err(wrong("output.0", format!("is {:?}; input.0 has {examples} examples", output.dims)));
        }
        let (target, dims) = match loss {
            LossKind::CrossEntropy => {
                let classes = classes(tensors, &target_name, output.dims.last().copied().unwrap_or(0))?;
                (Target::Classes(classes), vec![examples])
            }
            LossKind::MeanSquaredError => {
                let dims = [&[examples], output.dims.get(1..).unwrap_or_default()].concat();
                (Target::Values(single(tensors, &target_name)?), dims)
            }
        };
        let got = view(tensors, &target_name)?.shape().to_vec();
        if got != dims {
            return Err(wrong(&target_name, format!("is {got:?}; it must be {dims:?}")));
        }
        inputs.push(input);
        targets.push(target);
    }
    Ok((inputs, targets))
}

/// What an engine reports when it cannot follow a trace.
pub type ReplayError = Box<dyn std::error::Error + Send + Sync>;

/// A network in training that can be driven through a trace. It starts from the model's initial values and has the trace's optimiser.
pub trait Replay {
    /// Multiplies the parameter `name` by a mask (one an element, ONNX order), and keeps value and gradient masked from then on.
    /// Called before the first step.
    ///
    /// # Errors
    /// There is no such parameter, or it cannot have this mask.
    fn mask(&mut self, name: &str, live: &[bool]) -> Result<(), ReplayError>;

    /// Trains one step; returns the batch's mean loss before the update.
    ///
    /// # Errors
    /// The batch does not fit the model.
    fn step(&mut self, batch: Batch<'_>) -> Result<f64, ReplayError>;

    /// The model's output in the last step, `[N, ..]`, before the update.
    ///
    /// # Errors
    /// There has been no step.
    fn output(&self) -> Result<Vec<f64>, ReplayError>;

    /// The masked gradient of a parameter in the last step, dense, ONNX order.
    ///
    /// # Errors
    /// There is no such gradient.
    fn gradient(&self, name: &str) -> Result<Vec<f64>, ReplayError>;

    /// A parameter as it is, dense, ONNX order.
    ///
    /// # Errors
    /// There is no such parameter.
    fn parameter(&self, name: &str) -> Result<Vec<f64>, ReplayError>;
}

/// Why a run could not be compared with a trace.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The engine could not follow.
    #[error("{what}: {source}")]
    Replay {
        /// The tensor or the step.
        what: String,
        /// The engine's reason.
        source: ReplayError,
    },
    /// A tensor has another number of elements than the trace's.
    #[error("'{name}' has {got} elements; the trace has {wanted}: is it a trace of this model?")]
    WrongLength {
        /// The tensor.
        name: String,
        /// Elements of the run's.
        got: usize,
        /// Elements of the trace's.
        wanted: usize,
    },
}

/// One tensor of a run, compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Its name in the trace.
    pub name: String,
    /// See [`relative_error`].
    pub relative_error: f64,
    /// See [`hash_bits`].
    pub hash: u64,
}

/// A run, compared with a trace: `output.0`, `loss`, then gradients and parameters by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Verification {
    /// A line a tensor.
    pub tensors: Vec<Comparison>,
}

impl Verification {
    /// The largest relative error; infinite where the run had NaN.
    pub fn worst(&self) -> f64 {
        self.tensors.iter().map(|t| t.relative_error).fold(0.0, f64::max)
    }

    /// Whether every tensor is within `tolerance`.
    pub fn passed(&self, tolerance: f64) -> bool {
        self.worst() <= tolerance
    }
}

/// Drives `replay` through `trace` and compares every tensor the trace has.
///
/// # Errors
/// The engine refuses a mask, a batch or a name, or a tensor has another size.
pub fn verify(trace: &Trace, replay: &mut dyn Replay) -> Result<Verification, VerifyError> {
    let failed = |what: String| move |source| VerifyError::Replay { what, source };
    for (name, mask) in &trace.masks {
        replay.mask(name, &mask.live).map_err(failed(format!("mask.{name}")))?;
    }
    let mut losses = Vec::new();
    let mut gradients = Vec::new();
    let mut output = Vec::new();
    for (step, (input, target)) in trace.inputs.iter().zip(&trace.targets).enumerate() {
        losses.push(replay.step(Batch { input, target }).map_err(failed(format!("step {step}")))?);
        if step == 0 {
            output = replay.output().map_err(failed("output.0".to_owned()))?;
            for name in trace.gradients.keys() {
                let label = format!("grad.{name}");
                gradients.push((label.clone(), replay.gradient(name).map_err(failed(label))?));
            }
        }
    }
    let mut after = Vec::new();
    for name in trace.after.keys() {
        let label = format!("after.{name}");
        after.push((label.clone(), replay.parameter(name).map_err(failed(label))?));
    }
    let mut tensors = compare_kind(vec![("output.0".to_owned(), output)], &[&trace.output.values])?;
    tensors.extend(compare_kind(vec![("loss".to_owned(), losses)], &[&trace.losses])?);
    for (got, wanted) in [(gradients, &trace.gradients), (after, &trace.after)] {
        let wanted: Vec<&[f64]> = wanted.values().map(|r| r.values.as_slice()).collect();
        tensors.extend(compare_kind(got, &wanted)?);
    }
    Ok(Verification { tensors })
}

/// Compares the tensors of one kind, which share the floor of the relative error.
fn compare_kind(got: Vec<(String, Vec<f64>)>, wanted: &[&[f64]]) -> Result<Vec<Comparison>, VerifyError> {
    let largest = wanted.iter().copied().map(peak).fold(0.0, f64::max);
    let compare = |((name, got), wanted): ((String, Vec<f64>), &&[f64])| {
        if got.len() != wanted.len() {
            return Err(VerifyError::WrongLength { name, got: got.len(), wanted: wanted.len() });
        }
        Ok(Comparison { relative_error: relative_error(&got, wanted, largest), hash: hash_bits(&got), name })
    };
    got.into_iter().zip(wanted).map(compare).collect()
}

fn peak(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |peak, v| f64::max(peak, v.abs()))
}

/// max |got - wanted| / max(max |wanted|, 0.01 `largest`), `largest` being the largest magnitude among the trace's tensors of the
/// kind (output, loss, grad, after). Infinite where anything is not a number.
pub fn relative_error(got: &[f64], wanted: &[f64], largest: f64) -> f64 {
    let differences: Vec<f64> = got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).collect();
    if differences.iter().any(|d| d.is_nan()) {
        return f64::INFINITY;
    }
    let difference = peak(&differences);
    if difference == 0.0 { 0.0 } else { difference / peak(wanted).max(FLOOR * largest) }
}

/// FNV-1a over the bits of `values` as f32, little endian: equal exactly where two runs agree bit for bit.
pub fn hash_bits(values: &[f64]) -> u64 {
    let bytes = values.iter().flat_map(|&v| (v as f32).to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests;
