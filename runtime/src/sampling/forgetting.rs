//! Forgetting events, counted while training (Toneva et al., "An empirical study of example forgetting", ICLR 2019).

/// For every example: whether its last presentation was predicted rightly, and how often a right prediction was followed by a wrong one.
///
/// One byte an example: the highest bit is the last prediction, the others are the count, which stops at 127. An example with a count
/// was learned once, and so was one whose last prediction is right; all others never were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForgettingLog(Vec<u8>);

const CORRECT: u8 = 0x80;
const COUNT: u8 = 0x7f;

impl ForgettingLog {
    /// Of `examples` examples, none of them seen.
    pub fn new(examples: usize) -> Self {
        ForgettingLog(vec![0; examples])
    }

    /// From [`ForgettingLog::bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Self {
        ForgettingLog(bytes.to_vec())
    }

    /// A byte an example.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes one presentation of `example` (below [`ForgettingLog::len`]).
    pub fn record(&mut self, example: u32, correct: bool) {
        let entry = &mut self.0[example as usize];
        let forgotten = *entry & CORRECT != 0 && !correct;
        let count = (*entry & COUNT).saturating_add(u8::from(forgotten)).min(COUNT);
        *entry = count | if correct { CORRECT } else { 0 };
    }

    /// Forgetting events of `example`; `None` if it never was learned.
    pub fn forgotten(&self, example: u32) -> Option<u8> {
        let entry = self.0[example as usize];
        (entry != 0).then_some(entry & COUNT)
    }

    /// Examples that were learned and forgotten at most `times` times.
    pub fn at_most(&self, times: u8) -> usize {
        (0..self.len() as u32).filter(|&example| self.forgotten(example).is_some_and(|count| count <= times)).count()
    }

    /// Counts from 0 again; the last predictions stay.
    pub fn reset(&mut self) {
        self.0.iter_mut().for_each(|entry| *entry &= CORRECT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Events and whether it was ever learned, from the whole history of an example.
    fn replay(history: &[bool]) -> Option<u8> {
        let events = history.windows(2).filter(|pair| pair[0] && !pair[1]).count();
        history.contains(&true).then_some(events.min(127) as u8)
    }

    proptest! {
        #[test]
        fn counts_are_those_of_the_whole_history(histories in prop::collection::vec(prop::collection::vec(any::<bool>(), 0..300), 1..8)) {
            let mut log = ForgettingLog::new(histories.len());
            let longest = histories.iter().map(Vec::len).max().unwrap_or(0);
            // Interleaved, as epochs present them.
            for time in 0..longest {
                for (example, history) in histories.iter().enumerate().filter(|(_, history)| time < history.len()) {
                    log.record(example as u32, history[time]);
                }
            }
            let expected: Vec<Option<u8>> = histories.iter().map(|history| replay(history)).collect();
            prop_assert_eq!((0..histories.len() as u32).map(|example| log.forgotten(example)).collect::<Vec<_>>(), expected.clone());
            for times in [0, 1, 5, 127] {
                prop_assert_eq!(log.at_most(times), expected.iter().filter(|count| count.is_some_and(|count| count <= times)).count());
            }
            prop_assert_eq!(ForgettingLog::from_bytes(log.bytes()), log);
        }
    }

    #[test]
    fn counts_stop_before_they_overflow() {
        let mut log = ForgettingLog::new(1);
        (0..1000).for_each(|time| log.record(0, time % 2 == 0));
        assert_eq!(log.forgotten(0), Some(127));
    }

    #[test]
    fn a_reset_forgets_counts_and_keeps_the_last_prediction() {
        let mut log = ForgettingLog::new(3);
        for (example, correct) in [(0, true), (0, false), (0, true), (1, true), (1, false)] {
            log.record(example, correct);
        }
        log.reset();
        assert_eq!([0, 1, 2].map(|example| log.forgotten(example)), [Some(0), None, None]);
        log.record(0, false);
        assert_eq!(log.forgotten(0), Some(1), "forgotten across the reset");
    }
}
