//! Data efficiency: examples that training does not need are left out, chosen by how often the network forgets them.

use super::{ForgettingLog, Sampling, SamplingState};
use crate::random::{Purpose, Stream, bits};

/// Which examples go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Removal {
    /// So many, the least forgotten.
    Number(usize),
    /// This share of the training split, the least forgotten.
    Share(f64),
    /// All that were learned and since forgotten at most so many times.
    Unforgettable(u8),
}

/// When they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalMoment {
    /// Before this epoch, counted from 0.
    Epoch(usize),
    /// As soon as the number of unforgettable examples has moved by less than 1 % of the split in each of three epochs.
    Settled,
}

/// How examples are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Once and for good, as MEST.
    Remove(Removal, RemovalMoment),
    /// A share is always out (SpFDE, Yuan et al., NeurIPS 2022): random examples at first; every `every` epochs as many of the
    /// least forgotten as are out change places with them, the earliest removed first, and counting begins again.
    Sieve {
        /// Share that is out.
        share: f64,
        /// Epochs between changes.
        every: usize,
    },
}

/// Epochs that the number of unforgettable examples has to keep still.
const SETTLED_EPOCHS: usize = 3;
/// Share of the split that it may move by in each of them.
const SETTLED_SHARE: f64 = 0.01;

/// Counts forgetting events, leaves examples out by a [`Rule`], and shuffles the others anew each epoch.
#[derive(Clone, Debug)]
pub struct Selective {
    rule: Rule,
    seed: u64,
    /// Examples that stay whatever the rule says.
    least: usize,
    log: ForgettingLog,
    /// In the order of their removal.
    removed: Vec<u32>,
    /// After each epoch.
    unforgettable: Vec<u32>,
}

impl Selective {
    /// Over a split of `examples` examples, of which a batch of `batch` is kept always.
    pub fn new(rule: Rule, examples: usize, batch: usize, seed: u64) -> Self {
        let log = ForgettingLog::new(examples);
        Selective { rule, seed, least: batch.min(examples), log, removed: Vec::new(), unforgettable: Vec::new() }
    }

    /// Examples of a share of the split, as many as may go.
    fn part(&self, share: f64) -> usize {
        ((share * self.log.len() as f64).round() as usize).min(self.log.len() - self.least)
    }

    /// Examples that are in, ascending.
    fn included(&self) -> Vec<u32> {
        let mut out = vec![false; self.log.len()];
        self.removed.iter().for_each(|&example| out[example as usize] = true);
        (0..self.log.len() as u32).filter(|&example| !out[example as usize]).collect()
    }

    /// Examples that are in, the least forgotten first and those never learned last. Equals come in random order: the file's order may be
    /// that of the classes.
    fn least_forgotten(&self, epoch: usize) -> Vec<u32> {
        let mut included = self.included();
        let times = |example: u32| self.log.forgotten(example).map_or(u16::MAX, u16::from);
        included
            .sort_by_cached_key(|&example| (times(example), bits(self.seed, Purpose::Sieve, epoch as u64, u64::from(example)), example));
        included
    }

    fn remove(&mut self, removal: Removal, epoch: usize) {
        let number = match removal {
            Removal::Number(number) => number.min(self.log.len() - self.least),
            Removal::Share(share) => self.part(share),
            Removal::Unforgettable(times) => self.log.at_most(times).min(self.log.len() - self.least),
        };
        self.removed = self.least_forgotten(epoch);
        self.removed.truncate(number);
    }

    /// Whether the number of unforgettable examples, of which there are some, keeps still.
    fn settled(&self) -> bool {
        let still = SETTLED_SHARE * self.log.len() as f64;
        let Some(last) = self.unforgettable.len().checked_sub(SETTLED_EPOCHS + 1) else { return false };
        let moves = self.unforgettable[last..].windows(2).map(|pair| f64::from(pair[0].abs_diff(pair[1])));
        self.unforgettable.last().is_some_and(|&count| count > 0) && moves.into_iter().all(|moved| moved < still)
    }

    fn sieve(&mut self, share: f64, epoch: usize) {
        if epoch == 0 {
            let mut all = self.included();
            Stream::new(self.seed, Purpose::Sieve, 0).shuffle(&mut all);
            all.truncate(self.part(share));
            self.removed = all;
            return;
        }
        let leaving = self.least_forgotten(epoch);
        let number = self.removed.len().min(leaving.len());
        self.removed.drain(..number);
        self.removed.extend(&leaving[..number]);
        self.log.reset();
    }
}

impl Sampling for Selective {
    fn begin(&mut self, epoch: usize) {
        match self.rule {
            Rule::Remove(removal, RemovalMoment::Epoch(at)) if at == epoch => self.remove(removal, epoch),
            Rule::Remove(removal, RemovalMoment::Settled) if self.removed.is_empty() && self.settled() => self.remove(removal, epoch),
            Rule::Sieve { share, every } if epoch.is_multiple_of(every.max(1)) => self.sieve(share, epoch),
            Rule::Remove(..) | Rule::Sieve { .. } => {}
        }
    }

    fn order(&self, epoch: usize) -> Vec<u32> {
        let mut order = self.included();
        Stream::new(self.seed, Purpose::Shuffle, epoch as u64).shuffle(&mut order);
        order
    }

    fn record(&mut self, example: u32, correct: bool) {
        self.log.record(example, correct);
    }

    fn end(&mut self) {
        self.unforgettable.push(self.log.at_most(0) as u32);
    }

    fn removed(&self) -> usize {
        self.removed.len()
    }

    fn unforgettable(&self) -> Option<usize> {
        Some(self.log.at_most(0))
    }

    fn state(&self) -> Option<SamplingState> {
        let (log, removed) = (self.log.bytes().to_vec(), self.removed.clone());
        Some(SamplingState { log, removed, unforgettable: self.unforgettable.clone() })
    }

    fn restore(&mut self, state: Option<&SamplingState>) -> Result<(), String> {
        let state = state.ok_or("it has no forgetting events")?;
        let examples = self.log.len();
        if state.log.len() != examples {
            return Err(format!("it counts the forgetting events of {} examples where there are {examples}", state.log.len()));
        }
        let mut sorted = state.removed.clone();
        sorted.sort_unstable();
        if !sorted.is_sorted_by(|a, b| a < b) || sorted.last().is_some_and(|&last| last as usize >= examples) {
            return Err("the examples that it leaves out are no examples of the split".to_owned());
        }
        self.log = ForgettingLog::from_bytes(&state.log);
        self.removed.clone_from(&state.removed);
        self.unforgettable.clone_from(&state.unforgettable);
        Ok(())
    }
}

#[cfg(test)]
#[path = "selective_tests.rs"]
mod tests;
