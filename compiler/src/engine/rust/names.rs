//! Rust identifiers from the names of a model.

use proc_macro2::{Ident, Span};
use std::collections::HashSet;

/// The identifiers of one scope.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    taken: HashSet<String>,
}

impl Names {
    /// A scope in which `reserved` are taken.
    pub(super) fn reserving(reserved: &[&str]) -> Names {
        Names { taken: reserved.iter().map(|name| (*name).to_owned()).collect() }
    }

    /// A `snake_case` identifier like `name` that nothing else in the scope has.
    pub(super) fn value(&mut self, name: &str) -> Ident {
        self.claim(snake(name))
    }

    /// A `SCREAMING_CASE` identifier like `name` that nothing else in the scope has.
    pub(super) fn constant(&mut self, name: &str) -> Ident {
        self.claim(snake(name).to_uppercase())
    }

    fn claim(&mut self, wanted: String) -> Ident {
        let mut name = wanted.clone();
        let mut number = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{wanted}_{number}");
            number += 1;
        }
        Ident::new(&name, Span::call_site())
    }
}

/// Lower-case words joined by underscores: an identifier that is no keyword and not one of the generated `i0`, `d0`, `v0`, `s0`.
pub(super) fn snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            snake.push(c.to_ascii_lowercase());
        } else if !snake.is_empty() && !snake.ends_with('_') {
            snake.push('_');
        }
    }
    let mut snake = snake.trim_end_matches('_').to_owned();
    if snake.is_empty() || snake.starts_with(|c: char| c.is_ascii_digit()) {
        snake.insert(0, 'n');
    }
    let numbered =
        |letter| snake.strip_prefix(letter).is_some_and(|rest: &str| rest.bytes().all(|b| b.is_ascii_digit()) && !rest.is_empty());
    if syn::parse_str::<Ident>(&snake).is_err() || ['i', 'd', 'v', 's'].into_iter().any(numbered) {
        snake.push('_');
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_become_identifiers() {
        for (name, expected) in [
            ("layer1.0.conv1.weight", "layer1_0_conv1_weight"),
            ("/features/Conv::2/", "features_conv_2"),
            ("match", "match_"),
            ("3x3", "n3x3"),
            ("", "n"),
            ("v12", "v12_"),
            ("größe", "gr_e"),
        ] {
            assert_eq!(snake(name), expected, "{name}");
        }
    }

    #[test]
    fn a_scope_has_each_name_once() {
        let mut names = Names::reserving(&["scratch"]);
        let claimed: Vec<String> = ["x", "X", "x", "scratch"].iter().map(|name| names.value(name).to_string()).collect();
        assert_eq!(claimed, ["x", "x_2", "x_3", "scratch_2"]);
        assert_eq!(names.constant("conv.weight").to_string(), "CONV_WEIGHT");
    }
}
