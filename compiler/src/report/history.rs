//! `mutations.csv`: what every topology update did to every layer.

use std::fmt::Write;

/// Its name in a run's folder.
pub const FILE: &str = "mutations.csv";
const HEADER: &str = "epoch,iteration,before,dropped,grown,after,layer";

/// A topology update of one layer, in weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The epoch it fell into, counted from 1.
    pub epoch: usize,
    /// Iterations of the run before it.
    pub iteration: u64,
    /// Live weights before.
    pub before: usize,
    /// Weights that were dropped.
    pub dropped: usize,
    /// Weights that grew.
    pub grown: usize,
    /// Live weights after.
    pub after: usize,
    /// The parameter.
    pub layer: String,
}

/// A header, and a line a change; the name comes last, so that commas in it do no harm.
pub fn write(changes: &[Change]) -> String {
    let mut text = format!("{HEADER}\n");
    for Change { epoch, iteration, before, dropped, grown, after, layer } in changes {
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "{epoch},{iteration},{before},{dropped},{grown},{after},{layer}");
    }
    text
}

/// Reads what [`write()`] has written.
///
/// # Errors
/// The first line that is no change, by number.
pub fn read(text: &str) -> Result<Vec<Change>, String> {
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Err(format!("line 1 is not `{HEADER}`"));
    }
    lines.enumerate().map(|(index, line)| parse(line).ok_or_else(|| format!("line {}: no change of a layer: {line}", index + 2))).collect()
}

fn parse(line: &str) -> Option<Change> {
    let mut fields = line.splitn(7, ',');
    let mut number = || fields.next()?.parse::<u64>().ok();
    let (epoch, iteration) = (number()?, number()?);
    let (before, dropped, grown, after) = (number()?, number()?, number()?, number()?);
    let layer = fields.next()?.to_owned();
    let size = |value: u64| usize::try_from(value).ok();
    Some(Change {
        epoch: size(epoch)?,
        iteration,
        before: size(before)?,
        dropped: size(dropped)?,
        grown: size(grown)?,
        after: size(after)?,
        layer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_round_trip_and_broken_lines_are_named() {
        let change = Change { epoch: 3, iteration: 40, before: 10, dropped: 2, grown: 3, after: 11, layer: "a,b \"c\"".to_owned() };
        let changes = [change.clone(), Change { epoch: 4, layer: "fc.weight".to_owned(), ..change }];
        assert_eq!(read(&write(&changes)).unwrap(), changes);
        assert!(read("").unwrap_err().contains("line 1"));
        let error = read(&format!("{HEADER}\n1,2,3,4,5,6,ok\n1,2,x,4,5,6,fc\n")).unwrap_err();
        assert!(error.contains("line 3"), "{error}");
    }
}
