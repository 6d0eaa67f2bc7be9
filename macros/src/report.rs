//! Errors, all of them.

use quote::ToTokens;
use std::collections::HashSet;
use std::fmt::Display;
use syn::Error;

/// Combines errors, so that all are reported, each once.
#[derive(Default)]
pub(crate) struct Report {
    errors: Option<Error>,
    seen: HashSet<String>,
}

impl Report {
    /// Adds one, unless it was said of the same place before: code in a loop is read more than once.
    pub(crate) fn push(&mut self, error: Error) {
        if !self.seen.insert(format!("{:?} {error}", error.span())) {
            return;
        }
        match &mut self.errors {
            Some(first) => first.combine(error),
            None => self.errors = Some(error),
        }
    }

    /// Adds one on these tokens.
    pub(crate) fn at(&mut self, tokens: impl ToTokens, what: impl Display) {
        self.push(Error::new_spanned(tokens, what));
    }

    /// All of them, if any.
    pub(crate) fn finish(self) -> syn::Result<()> {
        self.errors.map_or(Ok(()), Err)
    }
}
