//! What can be wrong with a recipe.

use crate::mutation::MutationError;

/// One mistake in a recipe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// There is no such key.
    #[error("`{key}` is no key of a recipe: did you mean `{nearest}`?")]
    Unknown {
        /// As given, in its table.
        key: String,
        /// The nearest key.
        nearest: &'static str,
    },
    /// A key was given in both spellings.
    #[error("`{key}` is given twice, with - and with _; keep one")]
    Twice {
        /// In its canonical spelling.
        key: String,
    },
    /// A value of another kind than the key's, or a name that isn't known.
    #[error("{key} = {value}: {why}")]
    Kind {
        /// The key.
        key: String,
        /// As given.
        value: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// A value outside of what makes sense.
    #[error("{key} = {value}: {why}; the nearest that works is {nearest}")]
    Value {
        /// The key.
        key: String,
        /// As given.
        value: String,
        /// What is wrong.
        why: String,
        /// The nearest valid value, or what to do instead.
        nearest: String,
    },
}

impl From<MutationError> for RecipeError {
    fn from(MutationError { key, value, why, nearest }: MutationError) -> Self {
        RecipeError::Value { key: key.to_owned(), value, why, nearest }
    }
}
