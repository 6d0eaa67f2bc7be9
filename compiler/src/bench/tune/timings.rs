//! What was timed on this machine, remembered between runs of the program.

use super::Fastest;
use mest_runtime::train::{TrainError, write_atomically};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A file of timings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TimingsError {
    /// It can't be read.
    #[error("{}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It holds something else.
    #[error("{}: no timings of mestc ({error}); delete it, and layers are timed again", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        error: serde_json::Error,
    },
    /// It can't be written.
    #[error("what was timed can't be remembered: {0}")]
    Write(#[from] TrainError),
}

/// What was fastest, by kind of layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Of the program that timed: another one has other kernels.
    version: String,
    fastest: BTreeMap<String, Fastest>,
}

impl Timings {
    /// Nothing timed yet.
    pub fn new() -> Self {
        Timings { version: env!("CARGO_PKG_VERSION").to_owned(), fastest: BTreeMap::new() }
    }

    /// Where they are kept: `mest/timings.json` in the user's cache folder.
    pub fn default_path() -> PathBuf {
        crate::caches::folder().join("timings.json")
    }

    /// Those of a file; none where there is no file, or one of another version of the program.
    ///
    /// # Errors
    /// It can't be read, or is something else.
    pub fn read(path: &Path) -> Result<Self, TimingsError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Timings::new()),
            Err(error) => return Err(TimingsError::Read { path: path.to_owned(), error }),
        };
        let read: Timings = serde_json::from_str(&text).map_err(|error| TimingsError::Format { path: path.to_owned(), error })?;
        let new = Timings::new();
        Ok(if read.version == new.version { read } else { new })
    }

    /// Adds these to a file, which another process may have written to in between.
    ///
    /// # Errors
    /// It can't be read or written.
    pub fn add_to(&self, path: &Path) -> Result<(), TimingsError> {
        let mut all = Timings::read(path)?;
        all.fastest.extend(self.fastest.clone());
        let unwritable = |source: io::Error| TrainError::Write { path: path.to_owned(), source };
        let text = serde_json::to_vec_pretty(&all).map_err(|error| unwritable(error.into()))?;
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(unwritable)?;
        Ok(write_atomically(path, &text)?)
    }

    /// What was fastest for layers of a kind, if any was timed.
    pub fn get(&self, kind: &str) -> Option<&Fastest> {
        self.fastest.get(kind)
    }

    /// Remembers what was fastest.
    pub fn put(&mut self, kind: String, fastest: Fastest) {
        self.fastest.insert(kind, fastest);
    }
}
