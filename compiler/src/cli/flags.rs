//! Recipe flags: every key of a recipe is one, and they lie over the file that `--recipe` names.

use super::failure::Failure;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use mest_runtime::recipe::Recipe;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What `run.toml` has beside the recipe: the model's file.
pub(crate) const MODEL: &str = "model";

/// A key of the recipe on the command line.
struct Flag {
    key: &'static str,
    value: &'static str,
    help: &'static str,
    /// Whether it stands alone, for `true`.
    switch: bool,
}

const fn flag(key: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { key, value, help, switch: false }
}

const fn switch(key: &'static str, help: &'static str) -> Flag {
    Flag { key, value: "BOOL", help, switch: true }
}

/// All keys but `layers` and `pattern`, which are tables and stand in recipe files alone.
const FLAGS: &[Flag] = &[
    flag(
        "data",
        "SPEC",
        "Data set: digits, idx:DIR, cifar10:FILE_OR_DIR, cifar100:FILE_OR_DIR, images:DIR, npz:FILE, safetensors:FILE, synthetic:CxHxW:CLASSES:N",
    ),
    flag("sparsity", "SHARE", "Share of zeros in the layers made sparse [default: 0.9]"),
    flag("density", "SHARE", "Share of live weights in the layers made sparse: 1 - sparsity"),
    flag(
        "scheme",
        "SCHEME",
        "What a mask keeps or drops as one: unstructured, block:RxC, pattern, channel, channel:out, nm:N:M, fanin; auto measures and chooses by layer [default: unstructured]",
    ),
    flag("distribution", "NAME", "How the density is spread over layers: uniform, erk [default: uniform]"),
    flag("policy", "NAME", "How masks change: mest-ems, mest-em, set, rigl, snip, grasp, static, static-random, dense [default: mest-ems]"),
    flag("mutate-every", "SPAN", "Between mutations: 5ep, 1000it [default: 1/32 of the run]"),
    flag("drop", "SHARES", "Share of live weights dropped by stage, for mest-em, set and rigl: 0.2,0.1,0"),
    flag("grow-to", "DENSITIES", "Density grown to by stage, for mest-ems: 0.15,0.125,0.1"),
    flag("stages", "SPANS", "When each stage after the first begins: 90,120 [default: 9/16 and 12/16 of the run]"),
    flag("grow", "HOW", "How dead weights are chosen to grow: random, random:C, gradient [default: random; gradient for rigl]"),
    flag("importance-lambda", "X", "Weight of the gradient beside the magnitude in the importance score [default: 0.01]"),
    flag("decay", "NAME", "How drop and growth go down: step, cosine, sigmoid [default: step; cosine for set and rigl]"),
    flag("data-efficiency", "NAME", "How training does with fewer examples: off, forgetting [default: off]"),
    flag("remove-at", "EPOCH", "When examples are removed: 70, 0.5, settled [default: 7/16 of the run]"),
    flag("remove", "N", "Which are removed: 12000, 0.24, unforgettable, unforgettable:2 [default: unforgettable]"),
    flag("sieve", "SHARE", "Share of the examples that is out, changing with --mutate-every, in place of a removal"),
    flag("validation", "SHARE", "Share of the training examples that is held out to measure on"),
    flag("early-stop", "N", "Epochs without a smaller validation loss that end the run, once the masks have their final density"),
    flag("reset-head", "N", "A new, untrained last layer of N outputs in place of the model's"),
    switch("insert-bn", "Whether convolutions that no batch normalization follows get one"),
    flag("loss", "NAME", "What is minimised: cross-entropy, mse [default: cross-entropy]"),
    flag("label-smoothing", "SHARE", "Share of the target given to all classes alike [default: 0]"),
    flag("batch", "N", "Examples a step [default: 64]"),
    flag("epochs", "N", "Times that the training split is gone through [default: 160; 30 for the built-in job]"),
    flag("optimizer", "NAME", "Update rule: sgd, adam, adamw, adagrad [default: sgd]"),
    flag("lr", "X", "Learning rate [default: 0.1 for sgd, 0.001 for adam and adamw, 0.01 for adagrad]"),
    flag("lr-schedule", "NAME", "How it goes on: cosine, step, constant [default: cosine]"),
    flag("milestones", "SPANS", "Where step multiplies it by gamma: 80,120"),
    flag("gamma", "X", "What step multiplies it by [default: 0.1]"),
    flag("floor", "X", "What cosine ends at [default: 0]"),
    flag("warmup", "SPAN", "Over which the learning rate rises from 0"),
    flag("momentum", "X", "Of sgd [default: 0.9]"),
    switch("nesterov", "Whether sgd looks ahead"),
    flag("betas", "X,X", "Of adam and adamw [default: 0.9,0.999]"),
    flag("eps", "X", "Of adam, adamw and adagrad [default: 1e-8]"),
    flag("weight-decay", "X", "L2 penalty, or AdamW's decay [default: 1e-4]"),
    flag("clip-norm", "X", "Largest norm of the whole gradient"),
    flag(
        "augment",
        "NAMES",
        "Random changes of training examples, of crop4,hflip,vflip,rotate15,brightness,contrast,erase [default: crop4,hflip for cifar, else none]",
    ),
    flag("normalize", "MEAN:STD", "Centring and scaling, a value a channel or one for all [default: that of the data set]"),
    flag("seed", "N", "What all randomness follows from [default: 0]"),
    flag("memory", "BYTES", "What the planned training state may take: 24MiB, 768KiB; refused with ways out where it takes more"),
    flag(
        "allow",
        "NAMES",
        "Which changes of the numbers may bring it there: bf16 (activations rounded while they wait for backward), bf16-momentum (the optimiser's state stored as bf16, rounded stochastically), split-bn (batch statistics of parts of a batch)",
    ),
    flag("assert-peak", "BYTES", "Fail where the plan takes more"),
    flag("threads", "N", "Threads; results do not depend on it [default: all that the machine has]"),
    flag("isa", "NAME", "Vector instructions: auto, avx512, avx2, neon, portable [default: auto]"),
    flag("engine", "NAME", "What runs the program: jit, interp, rust [default: jit]"),
    switch("autotune", "Time each layer's channel-blocks on this machine, once, and remember what was fastest"),
];

/// What the command line says of the recipe.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RecipeFlags {
    file: Option<PathBuf>,
    values: Vec<(&'static str, String)>,
}

impl RecipeFlags {
    /// The text of a flag, if it was given.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str())
    }

    /// The model that the recipe file names, as the `run.toml` of a run does.
    ///
    /// # Errors
    /// A file that can't be read.
    pub(crate) fn model(&self) -> Result<Option<PathBuf>, Failure> {
        let Some(path) = &self.file else { return Ok(None) };
        Ok(read_toml(path)?.get(MODEL).and_then(Value::as_str).map(PathBuf::from))
    }

    /// Keys that the file or the flags set.
    ///
    /// # Errors
    /// As [`RecipeFlags::recipe`].
    pub(crate) fn given(&self) -> Result<Map<String, Value>, Failure> {
        let mut given = self.file_map()?;
        let flags = Recipe::default().with(self.values.iter().map(|(key, value)| (*key, value.as_str())));
        let flags = flags.map_err(|errors| Failure::refused_all("the recipe flags can't be used:", &errors))?.to_map();
        self.make_room(&mut given);
        given.extend(self.values.iter().filter_map(|(key, _)| flags.get(*key).map(|value| ((*key).to_owned(), value.clone()))));
        Ok(given)
    }

    /// `base`, with the recipe file over it and the flags over both; checked as a whole.
    ///
    /// # Errors
    /// A file that can't be read, and everything that is wrong with the recipe at once.
    pub(crate) fn recipe(&self, base: &Recipe) -> Result<Recipe, Failure> {
        let mut map = base.to_map();
        let given = self.given()?;
        remove_other_density(&mut map, &given);
        map.extend(given);
        let refuse = |errors: Vec<_>| Failure::refused_all("the recipe can't be used:", &errors);
        let recipe = Recipe::from_map(map).map_err(refuse)?;
        recipe.validate().map_err(refuse)?;
        Ok(recipe)
    }

    /// A density replaces the file's sparsity and the other way round.
    fn make_room(&self, file: &mut Map<String, Value>) {
        if self.get("density").or(self.get("sparsity")).is_some() {
            file.remove("density");
            file.remove("sparsity");
        }
    }

    /// What the recipe file says, keys spelled with `-`.
    fn file_map(&self) -> Result<Map<String, Value>, Failure> {
        let Some(path) = &self.file else { return Ok(Map::new()) };
        let mut map = read_toml(path)?;
        map.remove(MODEL);
        let refuse = |errors: Vec<_>| Failure::refused_all(format!("{}: the recipe can't be used:", path.display()), &errors);
        Recipe::from_map(map.clone()).map_err(refuse)?;
        Ok(map.into_iter().map(|(key, value)| (key.replace('_', "-"), value)).collect())
    }
}

fn read_toml(path: &Path) -> Result<Map<String, Value>, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::refused(format!("{shown}: the recipe can't be read: {error}; check the path")))?;
    toml::from_str(&text).map_err(|error| Failure::refused(format!("{shown}: no valid TOML: {error}")))
}

fn remove_other_density(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    if over.contains_key("density") || over.contains_key("sparsity") {
        base.remove("density");
        base.remove("sparsity");
    }
}

impl clap::FromArgMatches for RecipeFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |flag: &Flag| matches.get_one::<String>(flag.key).map(|value| (flag.key, value.clone()));
        Ok(RecipeFlags { file: matches.get_one::<PathBuf>("recipe").cloned(), values: FLAGS.iter().filter_map(value).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for RecipeFlags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("recipe").long("recipe").value_name("FILE.toml").value_parser(value_parser!(PathBuf));
        let file = file.help("Recipe to begin with; flags override it").help_heading("Recipe");
        command.arg(file).args(FLAGS.iter().map(|flag| {
            let arg = Arg::new(flag.key).long(flag.key).value_name(flag.value).help(flag.help).help_heading("Recipe");
            let arg = arg.action(ArgAction::Set).allow_negative_numbers(true);
            if flag.switch { arg.num_args(0..=1).require_equals(true).default_missing_value("true") } else { arg }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};

    fn parse(words: &[&str]) -> RecipeFlags {
        let command = RecipeFlags::augment_args(Command::new("test"));
        RecipeFlags::from_arg_matches(&command.try_get_matches_from([&["test"], words].concat()).unwrap()).unwrap()
    }

    #[test]
    fn every_key_is_a_flag_and_every_flag_a_key() {
        let flags: Vec<&str> = FLAGS.iter().map(|flag| flag.key).collect();
        let keys: Vec<&str> = Recipe::keys().filter(|key| !["layers", "pattern"].contains(key)).collect();
        assert_eq!(flags, keys);
    }

    #[test]
    fn flags_lie_over_the_file_and_the_file_over_the_base() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        std::fs::write(&path, "sparsity = 0.8\nweight_decay = 0.5\nepochs = 5\n[layers.\"fc.weight\"]\ndense = true\n").unwrap();
        let flags = parse(&["--recipe", path.to_str().unwrap(), "--density", "0.3", "--epochs=7", "--nesterov"]);
        let base = Recipe { batch: 32, epochs: 30, ..Recipe::default() };
        let recipe = flags.recipe(&base).unwrap();
        assert_eq!((recipe.density(), recipe.sparsity, recipe.epochs, recipe.batch), (0.3, None, 7, 32));
        assert_eq!((recipe.weight_decay, recipe.nesterov, recipe.layers["fc.weight"].dense), (0.5, true, Some(true)));
        let given = flags.given().unwrap();
        assert_eq!(given.keys().collect::<Vec<_>>(), ["density", "epochs", "layers", "nesterov", "weight-decay"]);
    }

    #[test]
    fn mistakes_in_files_and_flags_are_refused_with_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        let file = parse(&["--recipe", path.to_str().unwrap()]);
        for (text, expected) in [("sparcity = 1", "did you mean `sparsity`"), ("epochs = ", "no valid TOML"), ("batch = 0", "batch = 0")] {
            std::fs::write(&path, text).unwrap();
            let error = file.recipe(&Recipe::default()).unwrap_err();
            assert!(error.code() == 2 && error.to_string().contains(expected), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(file.recipe(&Recipe::default()).unwrap_err().to_string().contains("recipe.toml"));
        let error = parse(&["--lr", "-1", "--batch", "x"]).recipe(&Recipe::default()).unwrap_err();
        assert!(error.to_string().contains("batch = x"), "{error}");
    }
}
