//! Finds what somebody probably meant.

/// The candidate of smallest edit distance to `given`, among those that begin with it if any do; the first one of several.
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates.into_iter().min_by_key(|candidate| (!candidate.starts_with(given), distance(given, candidate)))
}

/// Insertions, deletions and replacements between two texts (Levenshtein); case counts as nothing.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, character) in from.to_lowercase().chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], above + 1);
        for column in 0..to.len() {
            let replaced = diagonal + usize::from(character != to[column]);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (from, to, expected) in [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("LR", "lr", 0)] {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn the_nearest_is_found() {
        assert_eq!(nearest("sparcity", ["density", "sparsity", "seed"]), Some("sparsity"));
        assert_eq!(nearest("mest", ["set", "mest-ems", "mest-em"]), Some("mest-em"), "begun and not ended, though set is nearer");
        assert_eq!(nearest("x", []), None);
    }
}
