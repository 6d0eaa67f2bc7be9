//! What can be wrong with data.

use std::io;
use std::path::PathBuf;

/// A problem of a SPEC or of a data set's files.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The SPEC begins with no known format.
    #[error("data `{spec}` has no known format: did you mean {nearest}? Known: {known}")]
    Format {
        /// As given.
        spec: String,
        /// The usage of the format nearest to it.
        nearest: &'static str,
        /// Usage of every format.
        known: String,
    },
    /// The format is known, its argument isn't understood.
    #[error("data `{spec}`: {why}; write {usage}")]
    Spec {
        /// As given.
        spec: String,
        /// What is wrong.
        why: String,
        /// How it is written.
        usage: &'static str,
    },
    /// The program was built without a format.
    #[error("data `{format}`: this program was built without the format; build it with the feature `{feature}` of mest-runtime")]
    Feature {
        /// The format.
        format: &'static str,
        /// What it is built with.
        feature: &'static str,
    },
    /// Several problems at once.
    #[error("{path}: {count} problems{}", shown(problems), path = path.display(), count = problems.len())]
    Several {
        /// The folder or file.
        path: PathBuf,
        /// All of them.
        problems: Vec<DataError>,
    },
    /// A file is absent.
    #[error("{path}: no such file{or}; {fix}", path = path.display())]
    Missing {
        /// The file that was looked for.
        path: PathBuf,
        /// Other names that were looked for.
        or: String,
        /// Where to get it.
        fix: String,
    },
    /// The operating system refused.
    #[error("{path}: {source}; check that the file can be read", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// The file ends early or its compression is damaged.
    #[error("{path}: {why}; the file is truncated or damaged: fetch it again", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The file is whole, and something else than expected.
    #[error("{path}: {why}; {fix}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
        /// What to do.
        fix: String,
    },
    /// The recipe's normalisation doesn't fit the data.
    #[error("normalize has {given} values where `{data}` has {channels} channels; give one value, or {channels}")]
    Channels {
        /// The data set.
        data: String,
        /// Its channels.
        channels: usize,
        /// Values given.
        given: usize,
    },
}

/// Problems beyond this are only counted.
const MOST_SHOWN: usize = 20;

/// A problem a line.
fn shown(problems: &[DataError]) -> String {
    let mut text: String = problems.iter().take(MOST_SHOWN).map(|problem| format!("\n  {problem}")).collect();
    if problems.len() > MOST_SHOWN {
        text += &format!("\n  and {} more", problems.len() - MOST_SHOWN);
    }
    text
}

impl DataError {
    /// Nothing, the one problem, or all of them together.
    #[cfg(any(feature = "arrays", feature = "images"))]
    pub(super) fn all(path: &std::path::Path, mut problems: Vec<DataError>) -> Result<(), DataError> {
        match problems.len() {
            0 => Ok(()),
            1 => Err(problems.remove(0)),
            _ => Err(DataError::Several { path: path.to_owned(), problems }),
        }
    }
}
