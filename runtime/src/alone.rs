//! A team of one: the caller, where there are no threads.

use core::ops::Range;

/// The member of the team, as the job sees it.
#[derive(Debug)]
pub struct Worker {
    /// Which member: 0.
    pub index: usize,
    /// Members of the team: 1.
    pub count: usize,
}

impl Worker {
    /// Every member is here.
    pub fn barrier(&self) {}

    /// All of `0..n`.
    pub fn items(&self, n: usize) -> Range<usize> {
        0..n
    }
}

/// A team of the caller alone.
#[derive(Debug)]
pub struct Team {
    only: Worker,
}

impl Team {
    /// A team of one, whatever `count` says: results never depend on how many there are.
    pub fn new(_count: usize) -> Self {
        Team { only: Worker { index: 0, count: 1 } }
    }

    /// Members, the caller included.
    pub fn count(&self) -> usize {
        1
    }

    /// Runs `job`.
    pub fn run(&self, job: &(dyn Fn(&Worker) + Sync)) {
        job(&self.only);
    }
}
