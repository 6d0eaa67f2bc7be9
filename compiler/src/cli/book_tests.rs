//! The commands and recipes that the book shows are understood.

use super::Cli;
use super::sweep::grid::Grid;
use clap::CommandFactory;
use mest_runtime::recipe::{Recipe, RecipeError};
use serde_json::{Map, Value};

/// The pages, by name.
const PAGES: [(&str, &str); 8] = [
    ("getting-started", include_str!("../../../docs/getting-started.md")),
    ("own-model", include_str!("../../../docs/own-model.md")),
    ("recipes", include_str!("../../../docs/recipes.md")),
    ("data", include_str!("../../../docs/data.md")),
    ("watching", include_str!("../../../docs/watching.md")),
    ("memory", include_str!("../../../docs/memory.md")),
    ("speed", include_str!("../../../docs/speed.md")),
    ("faq", include_str!("../../../docs/faq.md")),
];

/// The words of a line of code, up to what explains it or what reads its output.
fn words(line: &str) -> Vec<&str> {
    let words = line.split_whitespace().take_while(|word| !["#", "|", ">"].contains(word));
    words.map(|word| word.trim_matches('\'')).collect()
}

/// Indented lines that call `mestc`, or are flags of it.
fn commands(page: &str) -> Vec<Vec<&str>> {
    let code = page.lines().filter_map(|line| line.strip_prefix("    "));
    code.filter_map(|line| {
        if line.starts_with("mestc ") || line.starts_with("target/release/mestc ") {
            let mut words = words(line.split("   ").next().unwrap_or(line));
            words[0] = "mestc";
            Some(words)
        } else if line.starts_with("--") {
            let flags = line.split("   ").next().unwrap_or(line);
            Some([vec!["mestc", "train"], words(flags)].concat())
        } else {
            None
        }
    })
    .collect()
}

#[test]
fn commands_are_understood() {
    let mut count = 0;
    for (page, text) in PAGES {
        for words in commands(text) {
            if let Err(error) = Cli::command().try_get_matches_from(&words) {
                let help = matches!(error.kind(), clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion);
                assert!(help, "{page}: {words:?}: {error}");
            }
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}

#[test]
fn recipes_are_valid() {
    let mut count = 0;
    for (page, text) in PAGES {
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            let map: Map<String, Value> = toml::from_str(block).unwrap_or_else(|error| panic!("{page}: {error}"));
            let words = |errors: Vec<RecipeError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
            let valid = if map.contains_key("grid") {
                Grid::of(map, &[]).map(|_| ())
            } else {
                Recipe::from_map(map).and_then(|recipe| recipe.validate()).map_err(words)
            };
            assert_eq!(valid, Ok(()), "{page}");
            count += 1;
        }
    }
    assert_eq!(count, 6);
}
