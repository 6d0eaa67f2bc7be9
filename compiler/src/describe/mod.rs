//! Networks described layer by layer instead of by an ONNX file.
//!
//! A [`Description`] writes the ONNX model as the layers of [`vocabulary::LAYERS`] are applied, so everything after it is what any other
//! model goes through. It knows the shape of each value, and says which argument of which layer is wrong.

mod layers;
mod node;
#[cfg(test)]
mod tests;
pub mod vocabulary;

use crate::zoo::builder::{Attribute, Fill, ModelBuilder};
use std::collections::{BTreeMap, BTreeSet};
use vocabulary::{Arguments, Layer};

/// Layers that a network may have; more is a loop gone wrong.
pub const MOST_LAYERS: usize = 10_000;
/// Elements that an example of a value, or a weight, may have.
const MOST_ELEMENTS: usize = 1 << 30;
/// LayerNormalization, GroupNormalization and Gelu are ONNX's own from here on.
const OPSET: i64 = 21;

/// A value of a network under description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    name: String,
    dims: Vec<usize>,
}

impl Tensor {
    /// Extents of one example: `[channels, rows, columns]` of an image, `[elements]` of a vector.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Its type as in a function's signature: `Image<1, 28, 28>`, `Vector<10>`.
    pub fn type_name(&self) -> String {
        let extents = self.dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        if self.dims.len() == 1 { format!("Vector<{extents}>") } else { format!("Image<{extents}>") }
    }

    fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// How a weight is filled before training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with variance 2 / fan-in (He et al., 2015): for what ReLU follows.
    He,
    /// Normal with variance 2 / (fan-in + fan-out) (Glorot and Bengio, 2010).
    Xavier,
    /// Normal with this standard deviation.
    Normal(f64),
    /// Zero everywhere.
    Zeros,
}

/// Why a layer can't be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{why}; {hint}")]
pub struct Mistake {
    /// Which argument is wrong, by name; `x` is the layer's input. `None` is the layer as a whole.
    pub argument: Option<&'static str>,
    /// What is wrong.
    pub why: String,
    /// What would be right.
    pub hint: String,
}

impl Mistake {
    fn of(argument: &'static str, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Mistake { argument: Some(argument), why: why.into(), hint: hint.into() }
    }
}

/// An operation between two values, or a value and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
}

impl Binary {
    fn onnx(self) -> &'static str {
        match self {
            Binary::Add => "Add",
            Binary::Sub => "Sub",
            Binary::Mul => "Mul",
            Binary::Div => "Div",
        }
    }
}

/// A network under description.
pub struct Description {
    model: ModelBuilder,
    /// Nodes of each kind so far, from which the next one's name follows.
    counts: BTreeMap<&'static str, usize>,
    names: BTreeSet<String>,
    layers: usize,
}

impl Description {
    /// A network named `name`, its weights drawn from `seed`, that reads examples of `dims`; and what it reads.
    ///
    /// # Errors
    /// No extent, an extent of 0, or too many elements.
    pub fn new(name: &str, dims: &[usize], seed: u64) -> Result<(Self, Tensor), Mistake> {
        checked("x", dims)?;
        let mut model = ModelBuilder::new(name, dims, seed);
        model.set_opset(OPSET);
        let names = BTreeSet::from(["input".to_owned(), "output".to_owned()]);
        let description = Description { model, counts: BTreeMap::new(), names, layers: 0 };
        Ok((description, Tensor { name: "input".to_owned(), dims: dims.to_vec() }))
    }

    /// Applies `layer` to `inputs`.
    ///
    /// # Errors
    /// Arguments that do not fit what the layer reads. Weights are drawn in the order in which layers are applied.
    pub fn apply(&mut self, layer: &Layer, inputs: &[Tensor], arguments: &Arguments) -> Result<Tensor, Mistake> {
        self.count_layer()?;
        (layer.build)(self, inputs, arguments)
    }

    /// `a` and `b` element by element. They have one shape, or one of them is a vector with an element for each channel of the other.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn binary(&mut self, operation: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor, Mistake> {
        self.count_layer()?;
        let (a, b, dims) = match (&a.dims[..], &b.dims[..]) {
            (left, right) if left == right => (a.clone(), b.clone(), left.to_vec()),
            (&[channels, _, _], &[elements]) if channels == elements => (a.clone(), self.per_channel(b), a.dims.clone()),
            (&[elements], &[channels, _, _]) if channels == elements => (self.per_channel(a), b.clone(), b.dims.clone()),
            _ => {
                let why = format!("{} and {} have different shapes", a.type_name(), b.type_name());
                let hint = "bring one to the other's shape, with conv(x, channels, 1, stride = 2) say";
                return Err(Mistake { argument: None, why, hint: hint.to_owned() });
            }
        };
        Ok(self.node(operation.onnx(), &[&a.name, &b.name], &[], dims))
    }

    /// `x` and a number, element by element.
    ///
    /// # Errors
    /// A number that float32 does not have.
    pub fn scalar(&mut self, operation: Binary, x: &Tensor, number: f64, number_first: bool) -> Result<Tensor, Mistake> {
        self.count_layer()?;
        let value = number as f32;
        if !value.is_finite() || (operation == Binary::Div && !number_first && value == 0.0) {
            let why = format!("{number} can't be computed with");
            return Err(Mistake { argument: None, why, hint: "write a number that float32 has, not 0 as a divisor".to_owned() });
        }
        let constant = self.node("Constant", &[], &[("value_float", Attribute::Float(value))], vec![]);
        let operands = if number_first { [&*constant.name, &*x.name] } else { [&*x.name, &*constant.name] };
        Ok(self.node(operation.onnx(), &operands, &[], x.dims.clone()))
    }

    /// The model as an ONNX file, whose output is `output`.
    ///
    /// # Errors
    /// The output is the input.
    pub fn finish(mut self, output: &Tensor) -> Result<Vec<u8>, Mistake> {
        if output.name == "input" {
            let why = "the network gives back what it is given".to_owned();
            return Err(Mistake { argument: None, why, hint: "apply a layer: linear(x, 10), say".to_owned() });
        }
        self.model.rename(&output.name, "output");
        Ok(self.model.output("output", &output.dims).finish())
    }

    /// Whether a layer was refused because there were too many.
    pub fn is_full(&self) -> bool {
        self.layers > MOST_LAYERS
    }

    fn count_layer(&mut self) -> Result<(), Mistake> {
        self.layers += 1;
        if self.is_full() {
            let why = format!("the network has more than {MOST_LAYERS} layers");
            return Err(Mistake { argument: None, why, hint: "check the bounds of the loops".to_owned() });
        }
        Ok(())
    }
}

/// Refuses extents that nothing could hold; the number of elements.
fn checked(argument: &'static str, dims: &[usize]) -> Result<usize, Mistake> {
    let elements = dims.iter().try_fold(1_usize, |product, &extent| product.checked_mul(extent));
    match elements {
        Some(1..=MOST_ELEMENTS) if !dims.is_empty() => Ok(elements.unwrap_or(0)),
        _ => {
            let why = format!("{dims:?} elements");
            Err(Mistake::of(argument, why, format!("each extent must be at least 1, and all together at most {MOST_ELEMENTS}")))
        }
    }
}

impl Init {
    /// The rule for a weight that `fan_in` inputs reach each output through, and `fan_out` outputs each input.
    fn fill(self, [fan_in, fan_out]: [usize; 2]) -> Fill {
        match self {
            Init::He => Fill::Normal((2.0 / fan_in as f64).sqrt()),
            Init::Xavier => Fill::Normal((2.0 / (fan_in + fan_out) as f64).sqrt()),
            Init::Normal(deviation) => Fill::Normal(deviation),
            Init::Zeros => Fill::Constant(0.0),
        }
    }
}
