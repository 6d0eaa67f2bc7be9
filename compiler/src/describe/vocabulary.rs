//! The layers that networks are described with: names, arguments, defaults, an example each.

use super::{Description, Init, Mistake, Tensor, layers};
use std::collections::BTreeMap;

/// The value of an argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// A whole number.
    Integer(i64),
    /// Any number.
    Number(f64),
    /// `true` or `false`.
    Flag(bool),
    /// `(rows, columns)`.
    Pair([i64; 2]),
    /// How a weight is filled.
    Init(Init),
    /// A name.
    Text(String),
}

/// What an argument may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number of at least 1.
    Count,
    /// A whole number of at least this, or a pair of them: rows and columns.
    Extents(i64),
    /// A number.
    Number,
    /// A number above 0.
    Positive,
    /// A number from 0 up to, not including, 1.
    Share,
    /// `true` or `false`.
    Flag,
    /// `he`, `xavier`, `normal(deviation)` or `zeros`.
    Init,
    /// A name in quotes.
    Name,
}

/// What an argument is where it is not given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Preset {
    /// It must be given.
    Required,
    /// A value.
    Integer(i64),
    /// A value.
    Number(f64),
    /// A value.
    Flag(bool),
    /// A value.
    Init(Init),
    /// It follows from the others, as the sentence says.
    Derived(&'static str),
}

/// An argument of a layer after its input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    /// Its name. Those that must be given come first, by position; the rest are named: `stride = 2`.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it is unless given.
    pub default: Preset,
}

/// How many values a layer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// One.
    One,
    /// Two or more.
    Several,
}

type Build = fn(&mut Description, &[Tensor], &Arguments) -> Result<Tensor, Mistake>;

/// A layer.
pub struct Layer {
    /// Its name.
    pub name: &'static str,
    /// How many values it reads; they come before its arguments.
    pub inputs: Inputs,
    /// Its arguments.
    pub parameters: &'static [Parameter],
    /// What it computes.
    pub meaning: &'static str,
    /// One way to write it.
    pub example: &'static str,
    pub(super) build: Build,
}

const fn required(name: &'static str, kind: Kind) -> Parameter {
    Parameter { name, kind, default: Preset::Required }
}

const fn optional(name: &'static str, kind: Kind, default: Preset) -> Parameter {
    Parameter { name, kind, default }
}

const NAME: Parameter = optional("name", Kind::Name, Preset::Derived("the layer's kind and number"));
const INIT: Parameter = optional("init", Kind::Init, Preset::Init(Init::He));
const BIAS: Parameter = optional("bias", Kind::Flag, Preset::Flag(true));
const KERNEL: Parameter = required("kernel", Kind::Extents(1));
const STRIDE: Parameter = optional("stride", Kind::Extents(1), Preset::Integer(1));
const SAME: Parameter =
    optional("padding", Kind::Extents(0), Preset::Derived("half of the kernel's reach, which keeps the size at stride 1"));
const DILATION: Parameter = optional("dilation", Kind::Extents(1), Preset::Integer(1));
const EPS: Parameter = optional("eps", Kind::Positive, Preset::Number(1e-5));
const WINDOW: &[Parameter] = &[
    KERNEL,
    optional("stride", Kind::Extents(1), Preset::Derived("the kernel")),
    optional("padding", Kind::Extents(0), Preset::Integer(0)),
];

macro_rules! layers {
    ($($name:ident($inputs:ident, $parameters:expr): $meaning:literal, $example:literal;)*) => {
        /// Every layer, by name.
        pub static LAYERS: &[Layer] = &[$(Layer {
            name: stringify!($name),
            inputs: Inputs::$inputs,
            parameters: $parameters,
            meaning: $meaning,
            example: $example,
            build: layers::$name,
        }),*];
    };
}

layers! {
    avg_pool(One, WINDOW): "the mean of each window, padding left out", "avg_pool(x, 2)";
    batch_norm(One, &[optional("momentum", Kind::Share, Preset::Number(0.1)), EPS, NAME]):
        "batch normalization: over the batch in training, by running statistics otherwise", "batch_norm(x, momentum = 0.05)";
    clip(One, &[required("low", Kind::Number), required("high", Kind::Number)]): "what lies outside moves to the nearest bound", "clip(x, -1.0, 1.0)";
    concat(Several, &[]): "channels, or elements, one after the other", "concat(x, conv(x, 8, 3))";
    conv(One, &[required("channels", Kind::Count), KERNEL, STRIDE, SAME, DILATION, optional("groups", Kind::Count, Preset::Integer(1)), BIAS, INIT, NAME]):
        "a convolution", "conv(x, 32, 3, stride = 2, bias = false)";
    depthwise(One, &[KERNEL, STRIDE, SAME, DILATION, BIAS, INIT, NAME]): "a convolution of each channel by itself", "depthwise(x, (3, 5), padding = (1, 2))";
    dropout(One, &[required("share", Kind::Share)]): "in training, leaves out this share of the elements", "dropout(x, 0.1)";
    flatten(One, &[]): "all elements as a vector", "flatten(x)";
    gelu(One, &[]): "x times the normal distribution's function", "gelu(x)";
    global_avg_pool(One, &[]): "the mean of each channel: a vector", "global_avg_pool(x)";
    global_max_pool(One, &[]): "the maximum of each channel: a vector", "global_max_pool(x)";
    group_norm(One, &[required("groups", Kind::Count), EPS, NAME]): "normalization over groups of channels of one example", "group_norm(x, 4)";
    hard_sigmoid(One, &[]): "x / 6 + 1/2, within 0 and 1", "hard_sigmoid(x)";
    hard_swish(One, &[]): "x * hard_sigmoid(x)", "hard_swish(x)";
    layer_norm(One, &[EPS, NAME]): "normalization over all elements of one example", "layer_norm(x)";
    leaky_relu(One, &[optional("slope", Kind::Number, Preset::Number(0.01))]): "x above 0, slope * x below", "leaky_relu(x, slope = 0.2)";
    linear(One, &[required("units", Kind::Count), BIAS, INIT, NAME]): "a matrix product over all elements", "linear(x, 10, init = normal(0.01), name = \"head\")";
    max_pool(One, WINDOW): "the maximum of each window", "max_pool(x, 3, stride = 2, padding = 1)";
    relu(One, &[]): "x above 0, 0 below", "relu(x)";
    relu6(One, &[]): "x within 0 and 6", "relu6(x)";
    sigmoid(One, &[]): "1 / (1 + exp(-x))", "sigmoid(x)";
    silu(One, &[]): "x * sigmoid(x)", "silu(x)";
    tanh(One, &[]): "the hyperbolic tangent", "tanh(x)";
}

/// The layer called `name`.
pub fn layer(name: &str) -> Option<&'static Layer> {
    LAYERS.iter().find(|layer| layer.name == name)
}

impl Kind {
    /// What is to be written.
    pub fn meaning(self) -> String {
        match self {
            Kind::Count => "a whole number of at least 1".to_owned(),
            Kind::Extents(least) => format!("a whole number of at least {least}, or (rows, columns)"),
            Kind::Number => "a number".to_owned(),
            Kind::Positive => "a number above 0".to_owned(),
            Kind::Share => "a number from 0 up to, not including, 1".to_owned(),
            Kind::Flag => "true or false".to_owned(),
            Kind::Init => "he, xavier, normal(0.01) or zeros".to_owned(),
            Kind::Name => "a name in quotes".to_owned(),
        }
    }

    /// Whether `argument` is of this kind.
    pub fn accepts(self, argument: &Argument) -> bool {
        let number = |value: f64| match self {
            Kind::Number => value.is_finite(),
            Kind::Positive => value.is_finite() && value > 0.0,
            Kind::Share => (0.0..1.0).contains(&value),
            _ => false,
        };
        match (self, argument) {
            (Kind::Count, Argument::Integer(value)) => *value >= 1,
            (Kind::Extents(least), Argument::Integer(value)) => *value >= least,
            (Kind::Extents(least), Argument::Pair(pair)) => pair.iter().all(|value| *value >= least),
            (_, Argument::Integer(value)) => number(*value as f64),
            (_, Argument::Number(value)) => number(*value),
            (Kind::Init, Argument::Init(Init::Normal(deviation))) => deviation.is_finite() && *deviation >= 0.0,
            (Kind::Flag, Argument::Flag(_)) | (Kind::Init, Argument::Init(_)) | (Kind::Name, Argument::Text(_)) => true,
            _ => false,
        }
    }
}

/// The arguments of one use of a layer, each of its kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Arguments {
    parameters: &'static [Parameter],
    given: BTreeMap<&'static str, Argument>,
}

impl Arguments {
    /// Checks `given` against what `layer` takes.
    ///
    /// # Errors
    /// Every argument that is missing, unknown, or not of its kind.
    pub fn new(layer: &Layer, given: impl IntoIterator<Item = (&'static str, Argument)>) -> Result<Self, Vec<Mistake>> {
        let given: BTreeMap<_, _> = given.into_iter().collect();
        let parameter = |name: &str| layer.parameters.iter().find(|parameter| parameter.name == name);
        let mut mistakes = Vec::new();
        for (&name, argument) in &given {
            match parameter(name) {
                None => mistakes.push(Mistake::of(name, format!("{} takes no `{name}`", layer.name), layer.usage())),
                Some(parameter) if !parameter.kind.accepts(argument) => {
                    mistakes.push(Mistake::of(
                        name,
                        format!("this can't be {name} of {}", layer.name),
                        format!("write {}", parameter.kind.meaning()),
                    ));
                }
                Some(_) => {}
            }
        }
        for parameter in layer.parameters {
            if parameter.default == Preset::Required && !given.contains_key(parameter.name) {
                let why = format!("{} needs `{}`, {}", layer.name, parameter.name, parameter.kind.meaning());
                mistakes.push(Mistake { argument: None, why, hint: layer.usage() });
            }
        }
        if mistakes.is_empty() { Ok(Arguments { parameters: layer.parameters, given }) } else { Err(mistakes) }
    }

    fn get(&self, name: &str) -> Option<Argument> {
        let default = || {
            let parameter = self.parameters.iter().find(|parameter| parameter.name == name)?;
            match parameter.default {
                Preset::Integer(value) => Some(Argument::Integer(value)),
                Preset::Number(value) => Some(Argument::Number(value)),
                Preset::Flag(flag) => Some(Argument::Flag(flag)),
                Preset::Init(init) => Some(Argument::Init(init)),
                Preset::Required | Preset::Derived(_) => None,
            }
        };
        self.given.get(name).cloned().or_else(default)
    }

    pub(super) fn count(&self, name: &str) -> usize {
        match self.get(name) {
            Some(Argument::Integer(value)) => usize::try_from(value).unwrap_or(0),
            _ => 0,
        }
    }

    /// Rows and columns; `None` where they follow from other arguments.
    pub(super) fn extents(&self, name: &str) -> Option<[usize; 2]> {
        let extent = |value: i64| usize::try_from(value).unwrap_or(0);
        match self.get(name)? {
            Argument::Integer(value) => Some([extent(value); 2]),
            Argument::Pair(pair) => Some(pair.map(extent)),
            _ => None,
        }
    }

    pub(super) fn number(&self, name: &str) -> f64 {
        match self.get(name) {
            Some(Argument::Number(value)) => value,
            Some(Argument::Integer(value)) => value as f64,
            _ => 0.0,
        }
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name) == Some(Argument::Flag(true))
    }

    pub(super) fn init(&self) -> Init {
        match self.get("init") {
            Some(Argument::Init(init)) => init,
            _ => Init::He,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.given.get(name) {
            Some(Argument::Text(text)) => Some(text),
            _ => None,
        }
    }
}

impl Layer {
    /// `it is written conv(x, channels, kernel, stride = ..)`
    pub fn usage(&self) -> String {
        let inputs = if self.inputs == Inputs::One { "x" } else { "x, y, .." };
        let parameters = self.parameters.iter().map(|parameter| match parameter.default {
            Preset::Required => format!(", {}", parameter.name),
            _ => format!(", {} = ..", parameter.name),
        });
        format!("it is written {}({inputs}{})", self.name, parameters.collect::<String>())
    }
}
