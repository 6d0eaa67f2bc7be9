//! Generated code as a crate on disk: outside any workspace, and by default with the runtime's sources in it, so that it builds anywhere.

use super::Generated;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};
use toml::{Table, Value};

include!(concat!(env!("OUT_DIR"), "/runtime.rs"));

/// Where the generated crate finds `mest-runtime`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RuntimeSource {
    /// In its own folder `runtime`: written from the sources that this compiler carries.
    #[default]
    Vendored,
    /// In a folder of the machine.
    Path(PathBuf),
    /// In the registry, by version.
    Version(String),
}

impl std::str::FromStr for RuntimeSource {
    type Err = std::convert::Infallible;

    /// `vendored`, `path:DIR` or a version.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.strip_prefix("path:") {
            Some(path) => RuntimeSource::Path(path.into()),
            None if text == "vendored" => RuntimeSource::Vendored,
            None => RuntimeSource::Version(text.to_owned()),
        })
    }
}

/// Why a crate can't be written.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file or folder can't be written.
    #[error("{path}: {error}; choose another folder with -o, or make room there")]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Not a package name.
    #[error("`{name}` can't be the name of a crate: use letters, digits, `-` and `_`, and begin with a letter")]
    Name {
        /// The name.
        name: String,
    },
    /// The runtime's manifest does not say what a crate needs.
    #[error("internal error: the runtime's Cargo.toml can't be carried over: {problem}; please report it")]
    Runtime {
        /// What is wrong.
        problem: String,
    },
}

/// Writes the crate `name` into `dir`, which is made if it does not exist: `Cargo.toml`, `src/lib.rs`, what it includes, and the runtime.
/// Files that are there already are overwritten.
///
/// # Errors
/// [`PackageError`] with the path that can't be written.
pub fn write_crate(dir: &Path, name: &str, generated: &Generated, runtime: &RuntimeSource) -> Result<(), PackageError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(allowed) {
        return Err(PackageError::Name { name: name.to_owned() });
    }
    if *runtime == RuntimeSource::Vendored {
        let folder = dir.join("runtime");
        write(&folder.join("Cargo.toml"), vendored_manifest()?.as_bytes())?;
        FILES.iter().try_for_each(|(path, contents)| write(&folder.join(path), contents))?;
    }
    write(&dir.join("Cargo.toml"), manifest(name, runtime).as_bytes())?;
    write(&dir.join("src/lib.rs"), generated.lib_rs.as_bytes())?;
    generated.files.iter().try_for_each(|(path, contents)| write(&dir.join("src").join(path), contents))
}

pub(in crate::engine) fn write(path: &Path, contents: &[u8]) -> Result<(), PackageError> {
    let error = |error| PackageError::Write { path: path.to_owned(), error };
    // Untouched where nothing changes: cargo builds by time stamps.
    if fs::read(path).is_ok_and(|old| old == contents) {
        return Ok(());
    }
    path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(path, contents)).map_err(error)
}

fn manifest(name: &str, runtime: &RuntimeSource) -> String {
    let quoted = |text: &str| Value::String(text.to_owned()).to_string();
    let runtime = match runtime {
        RuntimeSource::Vendored => "path = \"runtime\"".to_owned(),
        RuntimeSource::Path(path) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            format!("path = {}", quoted(&path.to_string_lossy()))
        }
        RuntimeSource::Version(version) => format!("version = {}", quoted(version)),
    };
    let mut text = String::new();
    let _ = writeln!(text, "[package]\nname = {}\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n", quoted(name));
    text += "[features]\ndefault = [\"std\"]\n# Threads, files, data sets and the training loop; the step remains without.\nstd = [\"mest-runtime/std\"]\n\n";
    let _ = writeln!(text, "[dependencies]\nmest-runtime = {{ {runtime}, default-features = false }}\n");
    text += "# A workspace of its own, wherever it lies.\n[workspace]\n\n";
    text += "# Training without optimisation takes hours.\n[profile.dev]\nopt-level = 3\n";
    text
}

/// The runtime's `Cargo.toml` with what it inherits from its workspace written out, and without what its own tests need.
fn vendored_manifest() -> Result<String, PackageError> {
    let problem = |problem: String| PackageError::Runtime { problem };
    let parse = |text: &str| text.parse::<Table>().map_err(|error| problem(error.to_string()));
    let (mut manifest, workspace) = (parse(MANIFEST)?, parse(WORKSPACE)?);
    manifest.remove("dev-dependencies");
    manifest.remove("lints");
    manifest.remove("bench");
    manifest.remove("test");
    for (section, inherited) in [("package", "package"), ("dependencies", "dependencies")] {
        let Some(Value::Table(keys)) = manifest.get_mut(section) else { continue };
        for (key, value) in keys.iter_mut() {
            let Value::Table(table) = value else { continue };
            if table.remove("workspace") != Some(Value::Boolean(true)) {
                continue;
            }
            let inherited = workspace.get("workspace").and_then(|workspace| workspace.get(inherited)).and_then(|table| table.get(key));
            let inherited = inherited.ok_or_else(|| problem(format!("the workspace has no {section}.{key}")))?;
            *value = merged(inherited, std::mem::take(table));
        }
    }
    toml::to_string(&manifest).map_err(|error| problem(error.to_string()))
}

/// An inherited value with what the member adds to it: `features` and `optional` of a dependency.
fn merged(inherited: &Value, added: Table) -> Value {
    if added.is_empty() {
        return inherited.clone();
    }
    let mut table = match inherited {
        Value::Table(table) => table.clone(),
        version => Table::from_iter([("version".to_owned(), version.clone())]),
    };
    table.extend(added);
    Value::Table(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendored_manifest_stands_alone() {
        let text = vendored_manifest().expect("it resolves");
        let manifest: Table = text.parse().expect("it is TOML");
        assert!(!text.contains("workspace") && !text.contains("[[test]]"), "{text}");
        assert_eq!(manifest["package"]["edition"].as_str(), Some("2024"));
        assert_eq!(manifest["package"]["name"].as_str(), Some("mest-runtime"));
        assert!(manifest["dependencies"].as_table().is_some_and(|dependencies| dependencies.contains_key("thiserror")), "{text}");
        assert!(FILES.iter().any(|(path, _)| *path == "src/lib.rs"));
    }

    #[test]
    fn runtime_sources_are_named_as_on_the_command_line() {
        assert_eq!("vendored".parse(), Ok(RuntimeSource::Vendored));
        assert_eq!("path:../runtime".parse(), Ok(RuntimeSource::Path("../runtime".into())));
        assert_eq!("0.1".parse(), Ok(RuntimeSource::Version("0.1".to_owned())));
    }

    #[test]
    fn manifests_name_their_runtime() {
        let text = manifest("net", &RuntimeSource::Version("0.1".to_owned()));
        assert!(text.contains("mest-runtime = { version = \"0.1\", default-features = false }\n"), "{text}");
        let table: Table = manifest("net", &RuntimeSource::Path("/a \"b\"".into())).parse().expect("it is TOML");
        assert_eq!(table["dependencies"]["mest-runtime"]["path"].as_str(), Some("/a \"b\""));
        assert!(table.contains_key("workspace"));
    }

    #[test]
    fn names_of_crates_are_checked() {
        let generated = Generated { lib_rs: String::new(), files: vec![] };
        for name in ["", "../net", "9net", "a b"] {
            let refused = write_crate(Path::new("unused"), name, &generated, &RuntimeSource::Vendored);
            assert!(matches!(refused, Err(PackageError::Name { .. })), "{name}");
        }
    }
}
