//! Networks compiled by a build script.
//!
//! `build.rs`, with `mestc` among the build dependencies (`default-features = false` leaves out JIT and command line):
//!
//! ```no_run
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     mestc::build::Config::new("models/digits.onnx").recipe("digits.toml").key("sparsity", 0.9).compile()?;
//!     Ok(())
//! }
//! ```
//!
//! and in the crate, with `mest-runtime` among the dependencies:
//!
//! ```ignore
//! mod digits {
//!     include!(concat!(env!("OUT_DIR"), "/digits.rs"));
//! }
//!
//! let mut net = digits::Net::new(0);
//! ```

use crate::budget::{self, BudgetError};
use crate::engine::rust::{EmitOptions, emit_included};
use crate::onnx::{self, Adaptation, ImportReport};
use crate::program::bounds::InvalidProgram;
use mest_runtime::recipe::{Recipe, RecipeError};
use serde_json::{Map, Value};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// What a build script compiles, and where to.
#[derive(Clone, Debug)]
pub struct Config {
    model: PathBuf,
    recipe: Option<PathBuf>,
    keys: Vec<(String, String)>,
    net: String,
    runtime: String,
    out_dir: Option<PathBuf>,
}

/// Why nothing was compiled.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file can't be read or written.
    #[error("{}: {error}; check the path, which is relative to the crate's Cargo.toml", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The recipe's file is no TOML.
    #[error("{}: no valid TOML: {error}", path.display())]
    Toml {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<toml::de::Error>,
    },
    /// Mistakes in the recipe, all of them.
    #[error("the recipe can't be used:\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Recipe(Vec<RecipeError>),
    /// The model can't be imported.
    #[error(transparent)]
    Import(#[from] ImportReport),
    /// The model can't be compiled as the recipe says, or its plan exceeds the recipe's memory.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The compiler made a program that breaks a rule.
    #[error(transparent)]
    Program(#[from] InvalidProgram),
    /// The name of the network's type, or the path of the runtime, is no Rust.
    #[error("{what} = {text}: write {expected}")]
    Name {
        /// `net` or `runtime`.
        what: &'static str,
        /// As given.
        text: String,
        /// What would do.
        expected: &'static str,
    },
    /// Not run by cargo.
    #[error("OUT_DIR is not set: call it from a build script, or name a folder with out_dir")]
    OutDir,
}

impl Config {
    /// Compiles the ONNX file at `model`, a path relative to the crate's `Cargo.toml`.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        let (net, runtime) = ("Net".to_owned(), "::mest_runtime".to_owned());
        Config { model: model.into(), recipe: None, keys: vec![], net, runtime, out_dir: None }
    }

    /// Takes the recipe from a TOML file, as `mestc train --recipe` does.
    pub fn recipe(mut self, file: impl Into<PathBuf>) -> Self {
        self.recipe = Some(file.into());
        self
    }

    /// Sets one of the recipe's keys, over what its file says; lists are written with commas.
    pub fn key(mut self, key: &str, value: impl Display) -> Self {
        self.keys.push((key.to_owned(), value.to_string()));
        self
    }

    /// Names the network's type; `Net` unless told.
    pub fn net(mut self, name: &str) -> Self {
        name.clone_into(&mut self.net);
        self
    }

    /// Names the path of the runtime crate; `::mest_runtime` unless told.
    pub fn runtime(mut self, path: &str) -> Self {
        path.clone_into(&mut self.runtime);
        self
    }

    /// Writes into `folder` instead of cargo's `OUT_DIR`.
    pub fn out_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.out_dir = Some(folder.into());
        self
    }

    /// Compiles; the path of the file to be included, named after the model's. Cargo runs the script again when the model, data
    /// beside it, or the recipe's file changes.
    ///
    /// # Errors
    /// [`BuildError`]: everything that is wrong with the model or with the recipe.
    pub fn compile(&self) -> Result<PathBuf, BuildError> {
        // Said first: what is missing now may be there the next time.
        std::iter::once(&self.model).chain(&self.recipe).for_each(|path| rerun_if_changed(path));
        let recipe = self.read_recipe()?;
        let imported = onnx::import_adapted(&self.model, &Adaptation::of_recipe(&recipe))?;
        imported.external.iter().for_each(|path| rerun_if_changed(path));
        let compiled = budget::compile(&imported, &recipe, None)?;
        let name = |what, text: &str, expected| BuildError::Name { what, text: text.to_owned(), expected };
        let options = EmitOptions {
            runtime: self.runtime.parse().map_err(|_| name("runtime", &self.runtime, "a path: ::mest_runtime, say"))?,
            net: syn::parse_str(&self.net).map_err(|_| name("net", &self.net, "a type's name: Net, say"))?,
            source: self.model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            made_by: "a build script".to_owned(),
            ..EmitOptions::new(&recipe)
        };
        let stem = self.model.file_stem().map_or_else(|| "net".to_owned(), |stem| stem.to_string_lossy().into_owned());
        let generated = emit_included(&compiled.program, &options, &format!("{stem}.onnx"))?;
        let folder = self.out_dir.clone().or_else(|| env::var_os("OUT_DIR").map(PathBuf::from)).ok_or(BuildError::OutDir)?;
        let source = folder.join(format!("{stem}.rs"));
        write(&source, generated.lib_rs.as_bytes())?;
        generated.files.iter().try_for_each(|(path, contents)| write(&folder.join(path), contents))?;
        Ok(source)
    }

    fn read_recipe(&self) -> Result<Recipe, BuildError> {
        let map = match &self.recipe {
            None => Map::new(),
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|error| BuildError::File { path: path.clone(), error })?;
                let toml = |error| BuildError::Toml { path: path.clone(), error: Box::new(error) };
                toml::from_str::<Map<String, Value>>(&text).map_err(toml)?
            }
        };
        let recipe = Recipe::from_map(map).and_then(|recipe| recipe.with(self.keys.iter().map(|(key, value)| (&**key, &**value))));
        recipe.and_then(|recipe| recipe.validate().map(|()| recipe)).map_err(BuildError::Recipe)
    }
}

fn rerun_if_changed(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

/// Writes a file, unless it says that already: cargo builds by time stamps.
fn write(path: &Path, contents: &[u8]) -> Result<(), BuildError> {
    if fs::read(path).is_ok_and(|old| old == contents) {
        return Ok(());
    }
    fs::write(path, contents).map_err(|error| BuildError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a model of the zoo, `mlp.onnx`.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("temporary files can be made");
        let options = crate::zoo::ZooOptions { input: Some([1, 4, 4]), ..Default::default() };
        fs::write(folder.path().join("mlp.onnx"), crate::zoo::build("mlp", &options).expect("a built-in model"))
            .expect("it can be written");
        folder
    }

    #[test]
    fn the_file_stands_beside_its_weights() {
        let folder = folder();
        fs::write(folder.path().join("recipe.toml"), "sparsity = 0.5\nbatch = 4\n").expect("it can be written");
        let config = Config::new(folder.path().join("mlp.onnx")).recipe(folder.path().join("recipe.toml")).out_dir(folder.path());
        let source = config.key("batch", 8).net("Mlp").compile().expect("it compiles");
        assert_eq!(source, folder.path().join("mlp.rs"));
        let text = fs::read_to_string(&source).expect("it is there");
        let file = syn::parse_file(&text).expect("it is Rust");
        assert!(file.attrs.is_empty(), "what is included has no inner attributes");
        assert!(text.contains("pub struct Mlp") && text.contains("include_bytes!(\"mlp.onnx\")"), "{}", &text[..400]);
        assert!(text.contains("batch: 8usize") && text.contains("\\\"sparsity\\\":0.5"), "{text}");
    }

    #[test]
    fn mistakes_name_what_is_wrong() {
        let folder = folder();
        let config = Config::new(folder.path().join("mlp.onnx")).out_dir(folder.path());
        let refused = |config: Config| config.compile().expect_err("it is refused").to_string();
        assert!(refused(Config::new("no/such.onnx")).contains("no/such.onnx"));
        assert!(refused(config.clone().recipe("no/such.toml")).contains("no/such.toml"));
        let several = refused(config.clone().key("sparcity", 0.9).key("momentum", "much"));
        assert!(several.contains("did you mean `sparsity`"), "{several}");
        assert!(refused(config.clone().key("memory", "1KiB")).contains("memory = 1KiB"));
        assert!(refused(config.clone().net("a b")).contains("net = a b"));
        fs::write(folder.path().join("recipe.toml"), "batch =").expect("it can be written");
        assert!(refused(config.recipe(folder.path().join("recipe.toml"))).contains("no valid TOML"));
    }
}
