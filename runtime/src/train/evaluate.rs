//! Loss and accuracy over a split.

use super::TrainError;
use crate::data::{Dataset, Pixels, Split, loader::Batch, loader::Loader};
use crate::manifest::{Element, Manifest};
use crate::network::{self, Network, Phase, Target};
use crate::recipe::Recipe;

/// What a network makes of a split.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean over the examples.
    pub loss: f64,
    /// Share of examples whose first largest output is their class.
    pub accuracy: f64,
    /// The network's output, `[example][class]`, in the split's order.
    pub logits: Vec<f32>,
}

/// Runs `net` over `split`, a split of `data`, in its order, without augmentation; running statistics stand in for those of the batch.
///
/// # Errors
/// Data that doesn't fit the network.
pub fn evaluate(net: &mut dyn Network, data: &Dataset, split: &Split, recipe: &Recipe) -> Result<Evaluation, TrainError> {
    check_fit(net.manifest(), data)?;
    check_tokens(net.manifest(), data, split, "evaluated")?;
    let loader = Loader::new(data, split, net.manifest().batch, recipe.normalization(data), &[], recipe.seed)?;
    let order: Vec<u32> = (0..split.len() as u32).collect();
    let (mut loss, mut correct, mut logits) = (0.0, 0, Vec::new());
    let mut targets = Targets::new(data.classes);
    loader.for_each(0, &order, |batch| -> Result<(), TrainError> {
        targets.load(net, batch)?;
        net.run(Phase::Evaluate);
        let report = network::report(net);
        loss += report.loss * report.examples as f64;
        let output = network::output(net);
        correct += hits(&output, &batch.labels);
        logits.extend(output);
        Ok(())
    })?;
    let examples = split.len().max(1) as f64;
    Ok(Evaluation { loss: loss / examples, accuracy: correct as f64 / examples, logits })
}

/// Whether the first largest output of each example is its label.
pub(super) fn right<'a>(output: &'a [f32], labels: &'a [u32]) -> impl Iterator<Item = bool> + 'a {
    // A network without outputs is never right.
    let elements = (output.len() / labels.len().max(1)).max(1);
    let first_largest = |row: &[f32]| (1..row.len()).fold(0, |best, index| if row[index] > row[best] { index } else { best });
    output.chunks_exact(elements).zip(labels).map(move |(row, &label)| first_largest(row) == label as usize)
}

/// Examples whose first largest output is their label.
fn hits(output: &[f32], labels: &[u32]) -> usize {
    right(output, labels).filter(|&right| right).count()
}

/// Whether the network takes the examples and classes of `data`.
pub(super) fn check_fit(manifest: &Manifest, data: &Dataset) -> Result<(), TrainError> {
    let unfit = |why: String, fix: &str| Err(TrainError::Unfit { data: data.name.clone(), why, fix: fix.to_owned() });
    let io = &manifest.io;
    let taken: usize = io.input_dims.iter().product();
    if taken != data.elements() {
        let why = format!("examples are {:?}, the model's input `{}` takes {:?}", data.dims, io.input_name, io.input_dims);
        return unfit(why, "take a model of that shape, or other data");
    }
    let outputs = match io.target.element {
        Element::U32 => manifest.classes,
        Element::F32 | Element::Bf16 => io.target.len / manifest.batch.max(1),
    };
    let fits = match io.target.element {
        Element::U32 => outputs >= data.classes,
        Element::F32 | Element::Bf16 => outputs == data.classes,
    };
    if !fits {
        let of = |split: &Split| split.labels.iter().position(|&label| label as usize + 1 == data.classes);
        let example =
            of(&data.train).map_or(String::new(), |example| format!(" (training example {example} is of class {})", data.classes - 1));
        let why = format!("it has {} classes{example}, the model's output `{}` has {outputs}", data.classes, io.output.name);
        return unfit(why, "take a model with as many outputs, or other data");
    }
    Ok(())
}

/// Whether every value of a split is a row of the tables that the network's input chooses from, if it does.
pub(super) fn check_tokens(manifest: &Manifest, data: &Dataset, split: &Split, which: &str) -> Result<(), TrainError> {
    let rows = manifest.io.input_rows;
    if rows == 0 {
        return Ok(());
    }
    let unfit = |why: String, fix: &str| Err(TrainError::Unfit { data: data.name.clone(), why, fix: fix.to_owned() });
    let values = match &split.pixels {
        Pixels::F32(values) => values,
        Pixels::U8(_) => {
            let why =
                format!("its examples are bytes, which stand for x / 255, and the model's input `{}` takes tokens", manifest.io.input_name);
            return unfit(why, "store tokens as int32 or int64");
        }
    };
    let is_row = |value: f32| value >= 0.0 && value < rows as f32 && value.fract() == 0.0;
    let Some(wrong) = values.iter().position(|&value| !is_row(value)) else { return Ok(()) };
    let (example, at) = (wrong / data.elements(), wrong % data.elements());
    let why = format!("{which} example {example} has {} at position {at}, the table that it chooses from has {rows} rows", values[wrong]);
    unfit(why, "tokens are whole numbers from 0 to below the rows; map others to one that stands for the unknown")
}

/// Loads batches into networks whose target is a class, or the class as values (1 at its place).
pub(super) struct Targets {
    classes: usize,
    values: Vec<f32>,
}

impl Targets {
    pub(super) fn new(classes: usize) -> Self {
        Targets { classes, values: Vec::new() }
    }

    pub(super) fn load(&mut self, net: &mut dyn Network, batch: &Batch) -> Result<(), TrainError> {
        let examples = batch.labels.len();
        let target = match net.manifest().io.target.element {
            Element::U32 => Target::Labels(&batch.labels),
            Element::F32 | Element::Bf16 => {
                self.values.clear();
                self.values.resize(examples * self.classes, 0.0);
                for (row, &label) in self.values.chunks_exact_mut(self.classes).zip(&batch.labels) {
                    row[label as usize] = 1.0;
                }
                Target::Values(&self.values)
            }
        };
        Ok(network::load_batch(net, &batch.input, target, examples)?)
    }
}
