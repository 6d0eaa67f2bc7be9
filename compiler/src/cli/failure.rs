//! Why a command ends with something else than 0.

use std::fmt::Display;
use std::path::Path;

/// A command did not do what was asked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Bad usage or bad input: nothing was run. Exit code 2.
    #[error("{0}")]
    Refused(String),
    /// It ran, and a check did not hold or the machine gave up. Exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// Bad usage or bad input.
    pub(crate) fn refused(why: impl Display) -> Self {
        Failure::Refused(why.to_string())
    }

    /// A failure while running.
    pub(crate) fn failed(why: impl Display) -> Self {
        Failure::Failed(why.to_string())
    }

    /// All of `errors`, one a line, as a refusal.
    pub(crate) fn refused_all(what: impl Display, errors: &[impl Display]) -> Self {
        let lines: Vec<String> = errors.iter().map(|error| format!("\n  {error}")).collect();
        Failure::Refused(format!("{what}{}", lines.concat()))
    }

    /// A file that can't be written.
    pub(crate) fn unwritable(path: &Path, error: &std::io::Error) -> Self {
        let hint = match error.kind() {
            std::io::ErrorKind::StorageFull => "free some space, or write elsewhere with -o",
            std::io::ErrorKind::IsADirectory => "it is a folder: name a file",
            _ => "check that its folder exists and can be written, or write elsewhere with -o",
        };
        let text = format!("{}: can't be written: {error}; {hint}", path.display());
        // A full disk shows only while writing; everything else could have been seen before.
        if error.kind() == std::io::ErrorKind::StorageFull { Failure::Failed(text) } else { Failure::Refused(text) }
    }

    /// What the shell sees.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::Refused(_) => 2,
            Failure::Failed(_) => 1,
        }
    }
}
