//! Values of a recipe that have a notation of their own.

use super::choice::{ChoiceError, choice};
use super::nearest::nearest;
use crate::mutation::{POLICIES, Policy, Span};
use crate::sampling::Removal;
use crate::sparse::Growth;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::fmt;
use std::str::FromStr;

choice! {
    /// How the density is spread over the sparse layers.
    pub enum Distribution ("distribution") {
        /// The same density for each of them.
        Uniform = "uniform",
        /// Erdos-Renyi-Kernel: denser where extents are small, the same number of live weights together.
        Erk = "erk",
    }
}

choice! {
    /// How training does with fewer examples.
    pub enum DataEfficiency ("data-efficiency") {
        /// Every example, every epoch.
        Off = "off",
        /// Examples that are never or seldom forgotten are left out.
        Forgetting = "forgetting",
    }
}

choice! {
    /// What is minimised.
    pub enum Loss ("loss") {
        /// Cross-entropy of the softmax, mean over the batch.
        CrossEntropy = "cross-entropy",
        /// Mean of squared differences, over all elements.
        Mse = "mse",
    }
}

choice! {
    /// Changes of the numbers that a memory budget may make.
    pub enum Allowance ("allowance") {
        /// Activations may be rounded to bf16 while they wait for the backward pass.
        Bf16 = "bf16",
        /// The optimiser's state may be stored as bf16, rounded stochastically.
        Bf16Momentum = "bf16-momentum",
        /// A batch may be computed in parts, each with batch statistics of its own.
        SplitBn = "split-bn",
    }
}

choice! {
    /// The update rule.
    pub enum OptimizerName ("optimizer") {
        /// Gradient descent, with momentum unless that is 0.
        Sgd = "sgd",
        /// Adam, weight decay added to the gradient.
        Adam = "adam",
        /// Adam, weight decay apart from the gradient.
        AdamW = "adamw",
        /// Adagrad, weight decay added to the gradient.
        Adagrad = "adagrad",
    }
}

choice! {
    /// How the learning rate goes on after the warm-up.
    pub enum ScheduleName ("lr-schedule") {
        /// Half a cosine down to the floor.
        Cosine = "cosine",
        /// Times gamma at each milestone.
        Step = "step",
        /// As it is.
        Constant = "constant",
    }
}

choice! {
    /// Vector instructions.
    pub enum IsaName ("isa") {
        /// The best that the machine has.
        Auto = "auto",
        /// AVX-512.
        Avx512 = "avx512",
        /// AVX2 and FMA.
        Avx2 = "avx2",
        /// NEON.
        Neon = "neon",
        /// Whatever there is.
        Portable = "portable",
    }
}

choice! {
    /// What runs the program.
    pub enum EngineName ("engine") {
        /// Compiled in memory.
        Jit = "jit",
        /// Evaluated in f64: the oracle.
        Interp = "interp",
        /// Rust source, built by cargo.
        Rust = "rust",
    }
}

/// One of the [`POLICIES`], by its name.
#[derive(Clone, Copy, Debug)]
pub struct PolicyName(pub &'static dyn Policy);

impl Default for PolicyName {
    fn default() -> Self {
        PolicyName(POLICIES[0])
    }
}

impl PartialEq for PolicyName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.name())
    }
}

impl FromStr for PolicyName {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = || POLICIES.iter().map(|policy| policy.name());
        let found = POLICIES.into_iter().find(|policy| policy.name() == text).map(PolicyName);
        found.ok_or_else(|| ChoiceError {
            what: "policy",
            given: text.to_owned(),
            nearest: nearest(text, names()).unwrap_or_default(),
            known: names().collect::<Vec<_>>().join(", "),
        })
    }
}

impl Serialize for PolicyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name())
    }
}

impl<'de> Deserialize<'de> for PolicyName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Text that is no [`Span`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no length of training: write epochs as 90 or 90ep, iterations as 1000it, or a share of the run as 0.5")]
pub struct ParseSpanError(String);

impl FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseSpanError(text.to_owned());
        let count = |digits: &str| digits.trim().parse::<u64>().map_err(|_| wrong());
        if let Some(iterations) = text.strip_suffix("it") {
            return count(iterations).map(Span::Iterations);
        }
        if let Some(epochs) = text.strip_suffix("ep") {
            return count(epochs).map(Span::Epochs);
        }
        if let Ok(epochs) = text.parse::<u64>() {
            return Ok(Span::Epochs(epochs));
        }
        text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).map(Span::Share).ok_or_else(wrong)
    }
}

/// Text that is no [`Removal`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no number of examples: write how many as 12000, a share of the training split as 0.24, all that are never forgotten as \
     unforgettable, or those forgotten at most twice as unforgettable:2"
)]
pub struct ParseRemovalError(String);

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Removal::Number(number) => write!(f, "{number}"),
            Removal::Share(share) => write!(f, "{share:?}"),
            Removal::Unforgettable(0) => write!(f, "unforgettable"),
            Removal::Unforgettable(times) => write!(f, "unforgettable:{times}"),
        }
    }
}

impl FromStr for Removal {
    type Err = ParseRemovalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseRemovalError(text.to_owned());
        if let Some(times) = text.strip_prefix("unforgettable") {
            let times = if times.is_empty() { Some(0) } else { times.strip_prefix(':').and_then(|times| times.parse().ok()) };
            // A count stops at 127: more would be everything that was ever learned.
            return times.filter(|&times| times < 127).map(Removal::Unforgettable).ok_or_else(wrong);
        }
        if let Ok(number) = text.parse() {
            return Ok(Removal::Number(number));
        }
        text.parse().ok().filter(|share| *share > 0.0 && *share < 1.0).map(Removal::Share).ok_or_else(wrong)
    }
}

/// Text that is no [`Growth`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no way to grow: write random, random:C for the steepest of C times as many drawn at random, or gradient for the steepest of all"
)]
pub struct ParseGrowthError(String);

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Growth::Random(1) => f.write_str("random"),
            Growth::Random(times) => write!(f, "random:{times}"),
            Growth::Gradient => f.write_str("gradient"),
        }
    }
}

impl FromStr for Growth {
    type Err = ParseGrowthError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("random:").map(str::parse::<usize>)) {
            ("random", _) => Ok(Growth::Random(1)),
            ("gradient", _) => Ok(Growth::Gradient),
            (_, Some(Ok(times))) if times > 0 => Ok(Growth::Random(times)),
            _ => Err(ParseGrowthError(text.to_owned())),
        }
    }
}

/// Patterns of 3x3 kernels, as the table `[pattern]` has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PatternRecipe {
    /// Bit `3 * row + column` is a live cell; all with as many.
    pub library: Vec<u16>,
}

/// When examples are removed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RemoveAt {
    /// Before the epoch that this moment lies in.
    Moment(Span),
    /// Once the number of unforgettable examples has settled.
    Settled,
}

impl fmt::Display for RemoveAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RemoveAt::Moment(moment) => moment.fmt(f),
            RemoveAt::Settled => f.write_str("settled"),
        }
    }
}

impl FromStr for RemoveAt {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "settled" { Ok(RemoveAt::Settled) } else { text.parse().map(RemoveAt::Moment) }
    }
}

/// An amount of memory: `24MiB`, `768KiB`, `1.5GiB`, or a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Units of [`ByteSize`], largest first.
const BYTE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Not an amount of memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no amount of memory: write a number and a unit, such as 24MiB, 768KiB or 1.5GiB")]
pub struct ParseByteSizeError(String);

impl fmt::Display for ByteSize {
    /// In the largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let divides = |(_, bytes): &(&str, u64)| self.0.is_multiple_of(*bytes);
        let (unit, bytes) = BYTE_UNITS.into_iter().find(divides).unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / bytes)
    }
}

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseByteSizeError(text.to_owned());
        let number = text.trim_end_matches(char::is_alphabetic);
        let unit = match &text[number.len()..] {
            "" => 1,
            unit => BYTE_UNITS.into_iter().find(|(name, _)| *name == unit).map(|(_, bytes)| bytes).ok_or_else(wrong)?,
        };
        let bytes = number.trim().parse::<f64>().ok().map(|number| number * unit as f64);
        let bytes = bytes.filter(|bytes| (1.0..u64::MAX as f64).contains(bytes)).ok_or_else(wrong)?;
        Ok(ByteSize(bytes as u64))
    }
}

/// What the planned training state may take: in all, and classes of it. One of them, at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Everything.
    pub total: Option<ByteSize>,
    /// What is kept of weights from step to step: values, gradients, optimiser state, masks and topologies.
    pub weights: Option<ByteSize>,
    /// Activations and their gradients, at their peak.
    pub activations: Option<ByteSize>,
}

/// [`Budget`] as the table `[memory]` has it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
#[derive(Default)]
struct BudgetTable {
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    activations: Option<ByteSize>,
}

impl From<ByteSize> for Budget {
    fn from(total: ByteSize) -> Self {
        Budget { total: Some(total), ..Budget::default() }
    }
}

impl Budget {
    /// Its limits by name.
    pub fn limits(&self) -> impl Iterator<Item = (&'static str, ByteSize)> {
        let limits = [("memory", self.total), ("memory.weights", self.weights), ("memory.activations", self.activations)];
        limits.into_iter().filter_map(|(name, limit)| limit.map(|limit| (name, limit)))
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits: Vec<String> = self.limits().map(|(name, limit)| format!("{name} = {limit}")).collect();
        f.write_str(&limits.join(", "))
    }
}

impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let &Budget { total, weights, activations } = self;
        match total {
            Some(total) if weights.is_none() && activations.is_none() => total.serialize(serializer),
            _ => BudgetTable { total, weights, activations }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if !value.is_object() {
            return serde_json::from_value::<ByteSize>(value).map(Budget::from).map_err(D::Error::custom);
        }
        let BudgetTable { total, weights, activations } = serde_json::from_value(value).map_err(D::Error::custom)?;
        let budget = Budget { total, weights, activations };
        if budget == Budget::default() {
            return Err(D::Error::custom("it limits nothing: give total, weights or activations"));
        }
        Ok(budget)
    }
}

/// As text in files, where a number may stand for itself.
macro_rules! as_text {
    ($($Name:ty),+) => { $(
        impl Serialize for $Name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $Name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = match Value::deserialize(deserializer)? {
                    Value::String(text) => text,
                    value => value.to_string(),
                };
                text.parse().map_err(D::Error::custom)
            }
        }
    )+ };
}
as_text!(Span, Growth, Removal, RemoveAt, ByteSize);

/// Several values: `[1, 2]`, or `1,2` as text, or one alone. Empty text is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List<T>(pub Vec<T>);

impl<T> std::ops::Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: fmt::Display> fmt::Display for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(T::to_string).collect::<Vec<_>>().join(","))
    }
}

impl<T: Serialize> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for List<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = |value: Value| match value {
            Value::String(text) => text,
            value => value.to_string(),
        };
        let items: Vec<String> = match Value::deserialize(deserializer)? {
            Value::Array(values) => values.into_iter().map(text).collect(),
            value => text(value).split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect(),
        };
        let parse = |item: String| item.parse().map_err(|error| D::Error::custom(format!("`{item}`: {error}")));
        items.into_iter().map(parse).collect::<Result<_, _>>().map(List)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn spans_are_read_from_text_and_numbers() {
        let cases = [
            (json!("90"), Span::Epochs(90)),
            (json!(90), Span::Epochs(90)),
            (json!("5ep"), Span::Epochs(5)),
            (json!("1000it"), Span::Iterations(1000)),
            (json!(0.5), Span::Share(0.5)),
            (json!("1.0"), Span::Share(1.0)),
        ];
        for (value, expected) in cases {
            let span: Span = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(span, expected, "{value}");
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
        for wrong in ["", "-1", "1.5", "xep", "1.5it", "NaN"] {
            assert!(wrong.parse::<Span>().unwrap_err().to_string().contains("1000it"), "{wrong}");
        }
    }

    #[test]
    fn removals_are_read_from_text_and_numbers() {
        let cases = [
            (json!(12000), Removal::Number(12000)),
            (json!("0.24"), Removal::Share(0.24)),
            (json!("unforgettable"), Removal::Unforgettable(0)),
            (json!("unforgettable:2"), Removal::Unforgettable(2)),
        ];
        for (value, expected) in cases {
            let removal: Removal = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(removal, expected, "{value}");
            assert_eq!(removal.to_string().parse::<Removal>().unwrap(), removal);
        }
        for wrong in ["", "-1", "1.0", "0.0", "unforgettable:", "unforgettable:x", "unforgettable:127", "all", "NaN"] {
            assert!(wrong.parse::<Removal>().unwrap_err().to_string().contains("unforgettable:2"), "{wrong}");
        }
        assert_eq!(serde_json::from_value::<RemoveAt>(json!(70)).unwrap(), RemoveAt::Moment(Span::Epochs(70)));
        assert_eq!("settled".parse::<RemoveAt>().unwrap().to_string(), "settled");
    }

    #[test]
    fn policies_go_by_their_names() {
        for policy in POLICIES {
            let name: PolicyName = policy.name().parse().unwrap();
            assert_eq!(serde_json::from_value::<PolicyName>(json!(name.to_string())).unwrap(), name);
        }
        assert_eq!(PolicyName::default().to_string(), "mest-ems");
        assert!("mest-ens".parse::<PolicyName>().unwrap_err().to_string().contains("did you mean `mest-ems`? Known: mest-ems, mest-em,"));
    }

    #[test]
    fn lists_are_arrays_or_text() {
        let read = |value| serde_json::from_value::<List<f64>>(value).map(|list| list.0).map_err(|error| error.to_string());
        assert_eq!(read(json!([0.2, 0])), Ok(vec![0.2, 0.0]));
        assert_eq!(read(json!("0.2, 0.1,0")), Ok(vec![0.2, 0.1, 0.0]));
        assert_eq!(read(json!(0.5)), Ok(vec![0.5]));
        assert_eq!(read(json!("")), Ok(vec![]));
        assert!(read(json!("0.2,x")).unwrap_err().contains("`x`"));
    }

    #[test]
    fn budgets_are_amounts_or_tables() {
        let read = |value: Value| serde_json::from_value::<Budget>(value).map_err(|error| error.to_string());
        let total = read(serde_json::json!("24MiB")).unwrap();
        assert_eq!((total, serde_json::to_value(total).unwrap()), (ByteSize(24 << 20).into(), serde_json::json!("24MiB")));
        let table = serde_json::json!({ "weights": "1MiB", "activations": "768KiB" });
        let classes = read(table.clone()).unwrap();
        assert_eq!((classes.total, classes.weights, classes.activations), (None, Some(ByteSize(1 << 20)), Some(ByteSize(768 << 10))));
        assert_eq!(serde_json::to_value(classes).unwrap(), table);
        assert_eq!(classes.to_string(), "memory.weights = 1MiB, memory.activations = 768KiB");
        assert!(read(serde_json::json!({})).unwrap_err().contains("limits nothing"));
        assert!(read(serde_json::json!({ "weihgts": "1MiB" })).unwrap_err().contains("unknown field `weihgts`"));
        for nonsense in ["0", "-1MiB", "much", "24 parsecs", "nan"] {
            assert!(read(serde_json::json!(nonsense)).unwrap_err().contains(nonsense), "{nonsense}");
        }
    }

    #[test]
    fn amounts_of_memory_are_read_with_their_unit() {
        let cases =
            [("24MiB", 24 << 20, "24MiB"), ("1.5GiB", 3 << 29, "1536MiB"), ("768 KiB", 768 << 10, "768KiB"), ("1000", 1000, "1000B")];
        for (text, bytes, shown) in cases {
            let size: ByteSize = text.parse().expect("an amount");
            assert_eq!((size, size.to_string()), (ByteSize(bytes), shown.to_owned()));
            assert_eq!(shown.parse(), Ok(size));
        }
        for text in ["", "0", "0MiB", "MiB", "12 apples", "-3MiB", "1e30GiB", "24MB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
