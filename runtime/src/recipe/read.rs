//! Reading and overlaying recipes: both spellings of a key, unknown ones refused, all mistakes at once.

use super::{LayerRecipe, Recipe, RecipeError, nearest::nearest};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// A key, and whether it may differ between a run and its continuation.
struct Key {
    name: &'static str,
    /// Whether it concerns the machine alone: results are the same whatever its value.
    machine: bool,
}

const fn key(name: &'static str) -> Key {
    Key { name, machine: false }
}

const fn machine(name: &'static str) -> Key {
    Key { name, machine: true }
}

const KEYS: &[Key] = &[
    key("data"),
    key("sparsity"),
    key("density"),
    key("scheme"),
    key("distribution"),
    key("policy"),
    key("mutate-every"),
    key("drop"),
    key("grow-to"),
    key("stages"),
    key("grow"),
    key("pattern"),
    key("importance-lambda"),
    key("decay"),
    key("data-efficiency"),
    key("remove-at"),
    key("remove"),
    key("sieve"),
    key("validation"),
    key("early-stop"),
    key("reset-head"),
    key("insert-bn"),
    key("loss"),
    key("label-smoothing"),
    key("batch"),
    key("epochs"),
    key("optimizer"),
    key("lr"),
    key("lr-schedule"),
    key("milestones"),
    key("gamma"),
    key("floor"),
    key("warmup"),
    key("momentum"),
    key("nesterov"),
    key("betas"),
    key("eps"),
    key("weight-decay"),
    key("clip-norm"),
    key("augment"),
    key("normalize"),
    key("seed"),
    machine("memory"),
    key("allow"),
    machine("assert-peak"),
    machine("threads"),
    machine("isa"),
    machine("engine"),
    machine("autotune"),
    key("layers"),
];

const LAYER_KEYS: &[&str] = &["density", "scheme", "dense", "frozen", "channel-blocks"];

/// A key that two recipes disagree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: &'static str,
    /// Its value in the first recipe.
    pub ours: String,
    /// Its value in the second.
    pub theirs: String,
}

impl Serialize for Recipe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Recipe::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Recipe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = Map::deserialize(deserializer)?;
        Recipe::from_map(given).map_err(|errors| D::Error::custom(lines(&errors)))
    }
}

/// One error a line.
fn lines(errors: &[RecipeError]) -> String {
    errors.iter().map(RecipeError::to_string).collect::<Vec<_>>().join("\n")
}

/// The value as text, without the quotes of a string.
fn show(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Brings the keys of a table to the spelling with `-`; those that aren't among `known` become errors.
fn canonical(given: Map<String, Value>, table: &str, known: &[&'static str], errors: &mut Vec<RecipeError>) -> Map<String, Value> {
    let mut map = Map::new();
    for (key, value) in given {
        let spelled = key.replace('_', "-");
        if !known.contains(&spelled.as_str()) {
            let nearest = nearest(&spelled, known.iter().copied()).unwrap_or_default();
            errors.push(RecipeError::Unknown { key: format!("{table}{key}"), nearest });
        } else if map.insert(spelled.clone(), value).is_some() {
            errors.push(RecipeError::Twice { key: format!("{table}{spelled}") });
        }
    }
    map
}

/// Whether `value` is understood as `key` of a `T`.
fn check<T: DeserializeOwned>(
    table: &str,
    key: &str,
    value: &Value,
    read: impl Fn(Value) -> Result<T, serde_json::Error>,
) -> Option<RecipeError> {
    let alone = Value::Object(Map::from_iter([(key.to_owned(), value.clone())]));
    let error = read(alone).err()?;
    Some(RecipeError::Kind { key: format!("{table}{key}"), value: show(value), why: why(&error.to_string()) })
}

/// What a deserializer says, in the words of somebody who writes recipes.
fn why(error: &str) -> String {
    let Some((_, expected)) = error.split_once(", expected ").filter(|_| error.starts_with("invalid ")) else { return error.to_owned() };
    let expected = match expected {
        "usize" | "u64" | "u32" => "a whole number of at least 0",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "a text in quotes",
        "a sequence" => "an array",
        other => other,
    };
    format!("write {expected}")
}

impl Recipe {
    /// Every key, with `-`.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        KEYS.iter().map(|key| key.name)
    }

    /// From keys and values as a file has them.
    ///
    /// # Errors
    /// All unknown or repeated keys and all values of a wrong kind; [`Recipe::validate`] has the rest.
    pub fn from_map(given: Map<String, Value>) -> Result<Self, Vec<RecipeError>> {
        let mut errors = Vec::new();
        let known: Vec<_> = Recipe::keys().collect();
        let mut map = canonical(given, "", &known, &mut errors);
        if let Some(Value::Object(layers)) = map.get_mut("layers") {
            for (name, layer) in layers.iter_mut() {
                if let Value::Object(inner) = layer {
                    let table = format!("layers.\"{name}\".");
                    *inner = canonical(std::mem::take(inner), &table, LAYER_KEYS, &mut errors);
                    errors.extend(inner.iter().filter_map(|(key, value)| check(&table, key, value, serde_json::from_value::<LayerRecipe>)));
                }
            }
        }
        if errors.is_empty() {
            errors.extend(map.iter().filter_map(|(key, value)| check("", key, value, |value| Recipe::deserialize(value).map(drop))));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let whole = Recipe::deserialize(Value::Object(map));
        whole.map_err(|error| vec![RecipeError::Kind { key: "recipe".to_owned(), value: String::new(), why: error.to_string() }])
    }

    /// The same with `flags` on top, each a key and its value as text; a density replaces a sparsity that was there and the other way round.
    ///
    /// # Errors
    /// As [`Recipe::from_map`].
    ///
    /// ```
    /// use mest_runtime::recipe::Recipe;
    /// let recipe = Recipe::default().with([("density", "0.2"), ("grow_to", "0.3,0.2"), ("stages", "0.5")]).unwrap();
    /// assert_eq!(recipe.density(), 0.2);
    /// assert!(recipe.validate().is_ok());
    /// ```
    pub fn with<'a>(&self, flags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Vec<RecipeError>> {
        let flags: Vec<(String, Value)> = flags.into_iter().map(|(key, text)| (key.replace('_', "-"), literal(text))).collect();
        let mut map = self.to_map();
        if flags.iter().any(|(key, _)| key == "density" || key == "sparsity") {
            map.remove("density");
            map.remove("sparsity");
        }
        map.extend(flags);
        Recipe::from_map(map)
    }

    /// From one JSON object, as [`Recipe::to_json`] writes it.
    ///
    /// # Errors
    /// Text that is no JSON object, and whatever [`Recipe::from_map`] finds.
    pub fn from_json(text: &str) -> Result<Self, Vec<RecipeError>> {
        let no_object =
            |error: serde_json::Error| RecipeError::Kind { key: "recipe".to_owned(), value: text.to_owned(), why: error.to_string() };
        serde_json::from_str(text).map_err(|error| vec![no_object(error)]).and_then(Recipe::from_map)
    }

    /// One JSON object on one line.
    pub fn to_json(&self) -> String {
        Value::Object(self.to_map()).to_string()
    }

    /// Keys and values, those that are left to their default by `None` absent.
    pub fn to_map(&self) -> Map<String, Value> {
        match Recipe::serialize(self, serde_json::value::Serializer) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }

    /// The keys that this and another recipe disagree on and that results depend on: all but threads, isa and engine.
    pub fn differences(&self, other: &Recipe) -> Vec<Difference> {
        let (ours, theirs) = (self.to_map(), other.to_map());
        let text = |map: &Map<String, Value>, key: &str| map.get(key).map_or_else(|| "(default)".to_owned(), show);
        // A budget changes results where it may change the numbers.
        let is_machine = |key: &Key| key.machine && !(key.name == "memory" && (self.allow.is_some() || other.allow.is_some()));
        let differs = KEYS.iter().filter(|key| !is_machine(key) && ours.get(key.name) != theirs.get(key.name));
        differs.map(|key| Difference { key: key.name, ours: text(&ours, key.name), theirs: text(&theirs, key.name) }).collect()
    }
}

/// What text on a command line stands for: a number, a boolean, or itself.
fn literal(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Recipe, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn every_field_is_a_key_and_every_key_a_field() {
        for key in Recipe::keys() {
            let error = Recipe::deserialize(json!({ key: { "wrong": 1 } })).unwrap_err().to_string();
            assert!(!error.contains(&format!("unknown field `{key}`")), "{key}: {error}");
        }
        let mut written: Vec<String> = Recipe::default().to_map().into_iter().map(|(key, _)| key).collect();
        written.retain(|key| !Recipe::keys().any(|known| known == key));
        assert_eq!(written, Vec::<String>::new());
    }

    #[test]
    fn the_default_round_trips_and_so_does_a_full_recipe() {
        assert_eq!(read(json!({})).unwrap(), Recipe::default());
        let full = r#"{
            "data": "idx:mnist", "density": 0.2, "scheme": "block:4x1", "distribution": "uniform", "policy": "mest-em", "mutate-every": "5ep",
            "drop": [0.2, 0.1, 0.0], "stages": ["90ep", "0.75"], "grow": "random:4", "pattern": { "library": [27, 54] },
            "importance-lambda": 0.0, "decay": "step", "data-efficiency": "forgetting",
            "remove-at": "70ep", "remove": "12000", "sieve": 0.2, "validation": 0.1, "early-stop": 5, "reset-head": 7, "insert-bn": true, "loss": "cross-entropy",
            "label-smoothing": 0.1, "batch": 128, "epochs": 200, "optimizer": "adamw", "lr": 0.01, "lr-schedule": "step",
            "milestones": ["80ep", "1000it"], "gamma": 0.5, "floor": 0.0, "warmup": "8ep", "momentum": 0.8, "nesterov": true,
            "betas": [0.8, 0.99], "eps": 1e-6, "weight-decay": 0.05, "clip-norm": 1.5, "augment": ["hflip"], "normalize": "0.5:0.25", "seed": 914,
            "threads": 2, "isa": "avx2", "engine": "interp", "autotune": true,
            "layers": { "conv_1.weight": { "density": 0.5, "scheme": "unstructured", "channel-blocks": 2 }, "fc": { "dense": true, "frozen": true } }
        }"#;
        let full: Value = serde_json::from_str(full).unwrap();
        let recipe = read(full.clone()).unwrap();
        let written = serde_json::to_value(&recipe).unwrap();
        assert_eq!(written, full);
        assert_eq!(read(written).unwrap(), recipe);
    }

    #[test]
    fn both_spellings_work_and_both_at_once_do_not() {
        assert_eq!(read(json!({ "weight_decay": 0.5 })).unwrap().weight_decay, 0.5);
        let error = read(json!({ "weight_decay": 0.5, "weight-decay": 0.5 })).unwrap_err();
        assert!(error.contains("`weight-decay` is given twice"), "{error}");
        let layers = read(json!({ "layers": { "a_b": { "dense": true } } })).unwrap().layers;
        assert!(layers.contains_key("a_b"), "names of layers stay as they are");
    }

    #[test]
    fn all_unknown_keys_and_wrong_kinds_are_told_at_once() {
        let error = read(json!({ "sparcity": 0.9, "epoch": 3, "layers": { "c": { "densty": 1 } } })).unwrap_err();
        for expected in
            ["`sparcity` is no key", "did you mean `sparsity`", "did you mean `epochs`", "layers.\"c\".densty", "mean `density`"]
        {
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let error = read(json!({ "batch": -1, "policy": "mest", "drop": "0.1,x", "lr": "fast" })).unwrap_err();
        for expected in ["batch = -1", "policy = mest: `mest` is no policy: did you mean `mest-em`", "drop = 0.1,x", "lr = fast"] {
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn flags_overlay_a_file() {
        let file = read(json!({ "sparsity": 0.8, "epochs": 5 })).unwrap();
        let recipe = file.with([("density", "0.3"), ("lr-schedule", "constant"), ("nesterov", "true"), ("stages", "2,0.5")]).unwrap();
        assert_eq!((recipe.density(), recipe.sparsity, recipe.epochs, recipe.nesterov), (0.3, None, 5, true));
        assert_eq!(recipe.stages.unwrap().to_string(), "2ep,0.5");
        let both = file.with([("density", "0.3"), ("sparsity", "0.8")]).unwrap();
        assert!(both.validate().is_err());
    }

    #[test]
    fn differences_leave_the_machine_out() {
        let ours = Recipe::default();
        let theirs = ours.with([("threads", "7"), ("isa", "portable"), ("lr", "0.5"), ("epochs", "3")]).unwrap();
        let differences = ours.differences(&theirs);
        let expected = [("epochs", "160", "3"), ("lr", "(default)", "0.5")];
        assert_eq!(differences.iter().map(|d| (d.key, d.ours.as_str(), d.theirs.as_str())).collect::<Vec<_>>(), expected);
        let budgeted = ours.with([("memory", "96MiB")]).unwrap();
        assert_eq!(ours.differences(&budgeted), []);
        let allowed = |recipe: &Recipe| recipe.with([("allow", "bf16")]).unwrap();
        let keys = |a: &Recipe, b: &Recipe| a.differences(b).iter().map(|difference| difference.key).collect::<Vec<_>>();
        assert_eq!(keys(&allowed(&ours), &allowed(&budgeted)), ["memory"]);
        assert_eq!(keys(&ours, &allowed(&ours)), ["allow"]);
    }
}
