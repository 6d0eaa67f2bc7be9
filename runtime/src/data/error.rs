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
