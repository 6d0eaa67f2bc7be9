//! Where a run's files go, and what is told from those that are there.

use crate::cli::failure::Failure;
use crate::cli::flags::MODEL;
use mest_runtime::recipe::Recipe;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Where runs go unless told otherwise.
const RUNS: &str = "runs";
/// Everything that a run writes.
const FILES: &[&str] = &[
    "model.onnx",
    "checkpoint.mest",
    "best.mest",
    "metrics.csv",
    "metrics.json",
    "run.toml",
    crate::report::history::FILE,
    crate::cli::report::FILE,
];

/// What to do with a run that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Refuse.
    Refuse,
    /// Go on with it.
    Resume,
    /// Begin anew in its place.
    Replace,
}

/// The run's folder: `given`, or the next free `runs/MODEL-NUMBER` (the last one, to resume).
///
/// # Errors
/// A folder that holds a run, where those are refused, or that holds something else.
pub(crate) fn choose(given: Option<&Path>, model: &str, existing: Existing) -> Result<PathBuf, Failure> {
    let Some(given) = given else {
        let last = last_number(Path::new(RUNS), model);
        let number = if existing == Existing::Resume { last.max(1) } else { last + 1 };
        return Ok(Path::new(RUNS).join(format!("{model}-{number}")));
    };
    let shown = given.display();
    let occupied = match std::fs::read_dir(given) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(Failure::refused(format!("{shown}: can't hold a run: {error}; name another folder with -o"))),
        Ok(mut entries) => entries.next().is_some(),
    };
    if occupied && existing == Existing::Refuse {
        let hint = "--resume goes on with it, --force begins anew in its place, -o names another";
        return Err(Failure::refused(format!("{shown}: the folder exists and is not empty; {hint}")));
    }
    Ok(given.to_owned())
}

/// The largest NUMBER among `runs/MODEL-NUMBER`; 0 where there is none.
fn last_number(runs: &Path, model: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(runs) else { return 0 };
    let number = |name: &str| name.strip_prefix(model)?.strip_prefix('-')?.parse().ok();
    entries.flatten().filter_map(|entry| entry.file_name().to_str().and_then(number)).max().unwrap_or(0)
}

/// Makes the folder, checks that it can be written, and clears it of an old run's files if it is to be replaced.
///
/// # Errors
/// A folder that can't be made or written.
pub(crate) fn prepare(folder: &Path, existing: Existing) -> Result<(), Failure> {
    let hint = "name a folder that can be written with -o";
    let refuse = |path: &Path, error: std::io::Error| Failure::refused(format!("{}: {error}; {hint}", path.display()));
    std::fs::create_dir_all(folder).map_err(|error| refuse(folder, error))?;
    let probe = folder.join(".writable");
    std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe)).map_err(|error| refuse(folder, error))?;
    if existing == Existing::Replace {
        let entries = std::fs::read_dir(folder).map_err(|error| refuse(folder, error))?.flatten();
        let written = |name: &str| FILES.contains(&name) || name.starts_with(crate::report::events::PREFIX);
        for file in entries.filter(|entry| entry.file_name().to_str().is_some_and(written)).map(|entry| entry.path()) {
            std::fs::remove_file(&file).map_err(|error| refuse(&file, error))?;
        }
    }
    Ok(())
}

/// A run's `run.toml`: its recipe, and the model it began with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunFile {
    /// The whole recipe.
    pub(crate) recipe: Recipe,
    /// The model's file; `None` for the built-in one.
    pub(crate) model: Option<PathBuf>,
}

impl RunFile {
    /// Reads `run.toml` of `folder`; `None` where there is none.
    ///
    /// # Errors
    /// A file that can't be read or says nothing sensible.
    pub(crate) fn read(folder: &Path) -> Result<Option<RunFile>, Failure> {
        let path = folder.join("run.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::refused(format!("{}: {error}; check that it can be read", path.display()))),
        };
        let damaged = |why: String| Failure::refused(format!("{}: {why}; restore it, or begin anew with --force", path.display()));
        let mut map: Map<String, Value> = toml::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        let model = map.remove(MODEL).and_then(|value| value.as_str().map(PathBuf::from));
        let recipe =
            Recipe::from_map(map).map_err(|errors| damaged(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
        Ok(Some(RunFile { recipe, model }))
    }

    /// As `run.toml` says it.
    ///
    /// # Errors
    /// A recipe that TOML can't hold.
    pub(crate) fn to_toml(&self) -> Result<String, Failure> {
        let mut map = self.recipe.to_map();
        if let Some(model) = &self.model {
            map.insert(MODEL.to_owned(), Value::String(model.display().to_string()));
        }
        let text = toml::to_string(&map).map_err(|error| Failure::failed(format!("internal error: run.toml: {error}")))?;
        Ok(format!("# Repeats this run: mestc train --recipe run.toml\n{text}"))
    }

    /// Writes `run.toml` into `folder`, whole or not at all.
    ///
    /// # Errors
    /// The folder can't be written.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Failure> {
        let (path, partial) = (folder.join("run.toml"), folder.join(".run.toml"));
        let written = std::fs::write(&partial, self.to_toml()?).and_then(|()| std::fs::rename(&partial, &path));
        written.map_err(|error| Failure::unwritable(&path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_and_other_models_do_not_count() {
        let runs = tempfile::tempdir().unwrap();
        for name in ["mlp-1", "mlp-7", "mlp-x", "other-9", "mlp-2-3"] {
            std::fs::create_dir(runs.path().join(name)).unwrap();
        }
        assert_eq!((last_number(runs.path(), "mlp"), last_number(runs.path(), "none")), (7, 0));
        assert_eq!(last_number(&runs.path().join("absent"), "mlp"), 0);
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused_unless_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = Some(folder.path());
        assert!(choose(path, "m", Existing::Refuse).is_ok(), "an empty folder holds no run");
        std::fs::write(folder.path().join("model.onnx"), b"x").unwrap();
        std::fs::write(folder.path().join("notes.txt"), b"x").unwrap();
        let error = choose(path, "m", Existing::Refuse).unwrap_err();
        assert!(error.code() == 2 && error.to_string().contains("--resume"), "{error}");
        assert!(choose(path, "m", Existing::Resume).is_ok());
        prepare(folder.path(), Existing::Replace).unwrap();
        assert!(!folder.path().join("model.onnx").exists() && folder.path().join("notes.txt").exists());
        let error = choose(Some(&folder.path().join("notes.txt")), "m", Existing::Resume).unwrap_err();
        assert!(error.to_string().contains("notes.txt"), "{error}");
    }

    #[test]
    fn run_files_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(RunFile::read(folder.path()).unwrap(), None);
        let recipe =
            Recipe::default().with([("data", "digits"), ("stages", "0.5"), ("grow-to", "0.2,0.1"), ("normalize", "0.5:0.25")]).unwrap();
        let run = RunFile { recipe, model: Some("a b.onnx".into()) };
        run.write(folder.path()).unwrap();
        assert_eq!(RunFile::read(folder.path()).unwrap(), Some(run));
        std::fs::write(folder.path().join("run.toml"), "sparcity = 1").unwrap();
        let error = RunFile::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("run.toml") && error.contains("--force"), "{error}");
    }
}
