//! Names of which none is given twice.

use std::collections::{HashMap, HashSet};

/// Names that are taken.
#[derive(Clone, Debug, Default)]
pub struct Names {
    taken: HashSet<String>,
    /// By base, the number that is tried next: all below are taken.
    next: HashMap<String, usize>,
}

impl Names {
    /// `base`, or the first of `base.1`, `base.2`, .. that is free; taken from now on.
    pub fn claim(&mut self, base: &str) -> String {
        if self.taken.insert(base.to_owned()) {
            return base.to_owned();
        }
        let number = self.next.entry(base.to_owned()).or_insert(1);
        loop {
            let name = format!("{base}.{number}");
            *number += 1;
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }

    /// Gives a name back.
    pub fn release(&mut self, name: &str) {
        self.taken.remove(name);
        let numbered = name.rsplit_once('.').and_then(|(base, number)| Some((base, number.parse::<usize>().ok()?)));
        if let Some((base, number)) = numbered
            && let Some(next) = self.next.get_mut(base)
        {
            *next = number.min(*next);
        }
    }
}

impl FromIterator<String> for Names {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Names { taken: names.into_iter().collect(), next: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_from_the_first_that_is_free() {
        let mut names: Names = ["a", "a.2"].map(str::to_owned).into_iter().collect();
        let claimed: Vec<String> = ["a", "a", "b", "a", "b"].into_iter().map(|base| names.claim(base)).collect();
        assert_eq!(claimed, ["a.1", "a.3", "b", "a.4", "b.1"]);
        names.release("a.3");
        names.release("b");
        let claimed: Vec<String> = ["a", "a", "b"].into_iter().map(|base| names.claim(base)).collect();
        assert_eq!(claimed, ["a.3", "a.5", "b"]);
    }
}
