//! A team of worker threads that runs one job at a time, all members at once.
//!
//! Kernels last microseconds, so members meet by spinning; they yield when that takes long, so that a machine with fewer cores than
//! members makes progress, and between jobs they sleep after a while.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Iterations of spinning before a member yields: some ten microseconds.
const SPINS: usize = 500;
/// Yields before a member that has no job sleeps.
const YIELDS: usize = 200;

type Job = dyn Fn(&Worker) + Sync;

/// A pointer to the job of the moment, published by `generation` and taken back before `run` returns.
struct JobCell(UnsafeCell<Option<*const Job>>);

// SAFETY: written by `run` alone, before the release of `generation` that makes members read it and after all have finished.
unsafe impl Sync for JobCell {}
// SAFETY: the pointer is to a job that is `Sync`.
unsafe impl Send for JobCell {}

/// One counter a cache line: members spin on some while others write the rest.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared {
    count: usize,
    /// Spinning only delays whoever is waited for where there are fewer cores than members.
    spins: usize,
    job: JobCell,
    generation: Padded<AtomicUsize>,
    finished: Padded<AtomicUsize>,
    arrived: Padded<AtomicUsize>,
    barriers: Padded<AtomicUsize>,
    poisoned: AtomicBool,
    stop: AtomicBool,
    asleep: AtomicUsize,
    bed: Mutex<()>,
    wake: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// What a member throws when another one has panicked; `run` throws the other's.
struct Abandoned;

thread_local! {
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spins, then yields, until `done`; gives up after `yields` yields and says whether it did not.
fn wait(spins: usize, yields: usize, done: impl Fn() -> bool) -> bool {
    for _ in 0..spins {
        if done() {
            return true;
        }
        spin_loop();
    }
    let mut yielded = 0;
    while !done() {
        if yielded == yields {
            return false;
        }
        thread::yield_now();
        yielded = if yields == usize::MAX { 0 } else { yielded + 1 };
    }
    true
}

impl Shared {
    /// Runs the job as `worker`, keeping the first panic of all members.
    fn work(&self, job: &(dyn Fn(&Worker) + Sync), worker: &Worker) {
        BUSY.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| job(worker)));
        BUSY.set(false);
        if let Err(payload) = result {
            if !payload.is::<Abandoned>() {
                lock(&self.panic).get_or_insert(payload);
            }
            self.poisoned.store(true, Ordering::Release);
        }
    }

    /// Waits for a generation other than `seen`, asleep if it takes long.
    fn next_generation(&self, seen: usize) -> usize {
        let current = || self.generation.0.load(Ordering::SeqCst);
        if !wait(self.spins, YIELDS, || current() != seen) {
            let mut bed = lock(&self.bed);
            self.asleep.fetch_add(1, Ordering::SeqCst);
            while current() == seen {
                bed = self.wake.wait(bed).unwrap_or_else(PoisonError::into_inner);
            }
            self.asleep.fetch_sub(1, Ordering::SeqCst);
        }
        current()
    }

    /// Starts a generation.
    fn announce(&self) {
        self.generation.0.fetch_add(1, Ordering::SeqCst);
        // A member counts itself asleep before it last looks at the generation: either it sees this one, or it is seen here.
        if self.asleep.load(Ordering::SeqCst) > 0 {
            let _bed = lock(&self.bed);
            self.wake.notify_all();
        }
    }

    fn serve(&self, worker: &Worker) {
        let mut seen = 0;
        loop {
            seen = self.next_generation(seen);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            // SAFETY: the generation was announced after the job was written, and `run` waits for all members before it ends.
            if let Some(job) = unsafe { *self.job.0.get() } {
                // SAFETY: as above: the job outlives this call.
                self.work(unsafe { &*job }, worker);
            }
            self.finished.0.fetch_add(1, Ordering::Release);
        }
    }
}

/// A member of a team, as the job sees it.
pub struct Worker {
    /// Which member, from 0; 0 is the thread that called [`Team::run`].
    pub index: usize,
    /// Members of the team.
    pub count: usize,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Worker {} of {}", self.index, self.count)
    }
}

impl Worker {
    /// Waits until every member is here. What members wrote before, all see after.
    ///
    /// # Panics
    /// Another member has panicked: this one is abandoned, and [`Team::run`] passes on the other's panic.
    pub fn barrier(&self) {
        let shared = &*self.shared;
        if shared.count == 1 {
            return;
        }
        let seen = shared.barriers.0.load(Ordering::Acquire);
        if shared.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == shared.count {
            shared.arrived.0.store(0, Ordering::Relaxed);
            shared.barriers.0.fetch_add(1, Ordering::Release);
            return;
        }
        let released = || shared.barriers.0.load(Ordering::Acquire) != seen;
        wait(shared.spins, usize::MAX, || released() || shared.poisoned.load(Ordering::Acquire));
        if !released() {
            // Not `panic!`: the first panic has been reported already.
            resume_unwind(Box::new(Abandoned));
        }
    }

    /// This member's share of `0..n`: contiguous, a function of `n`, `index` and `count` alone, shares differing by one item at most.
    pub fn items(&self, n: usize) -> Range<usize> {
        let (each, more) = (n / self.count, n % self.count);
        let start = self.index * each + self.index.min(more);
        start..start + each + usize::from(self.index < more)
    }
}

/// A team of threads: the caller and `count - 1` more that wait for it.
pub struct Team {
    first: Worker,
    threads: Vec<JoinHandle<()>>,
    running: Mutex<()>,
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Team of {}", self.count())
    }
}

impl Team {
    /// A team of `count` members (at least one), fewer if the system refuses threads: results never depend on how many there are.
    pub fn new(count: usize) -> Self {
        let mut count = count.max(1);
        loop {
            match Self::spawn(count) {
                Ok(team) => return team,
                Err(spawned) => count = spawned,
            }
        }
    }

    /// A team of exactly `count`, or how many the system allows.
    fn spawn(count: usize) -> Result<Self, usize> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            count,
            spins: if count <= cores { SPINS } else { 0 },
            job: JobCell(UnsafeCell::new(None)),
            generation: Padded(AtomicUsize::new(0)),
            finished: Padded(AtomicUsize::new(0)),
            arrived: Padded(AtomicUsize::new(0)),
            barriers: Padded(AtomicUsize::new(0)),
            poisoned: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asleep: AtomicUsize::new(0),
            bed: Mutex::new(()),
            wake: Condvar::new(),
            panic: Mutex::new(None),
        });
        let member = |index| Worker { index, count, shared: Arc::clone(&shared) };
        let mut team = Team { first: member(0), threads: Vec::with_capacity(count - 1), running: Mutex::new(()) };
        for index in 1..count {
            let worker = member(index);
            let thread = thread::Builder::new().name(format!("mest-{index}"));
            match thread.spawn(move || worker.shared.serve(&worker)) {
                Ok(thread) => team.threads.push(thread),
                Err(_) => return Err(index),
            }
        }
        Ok(team)
    }

    /// Members, the caller included.
    pub fn count(&self) -> usize {
        self.first.count
    }

    /// Runs `job` on every member at once and returns when all have finished.
    ///
    /// # Panics
    /// With the first panic of a member, after all have stopped; or when called from inside of a job.
    pub fn run(&self, job: &(dyn Fn(&Worker) + Sync)) {
        assert!(!BUSY.get(), "a job cannot run another one");
        let _running = lock(&self.running);
        let shared = &*self.first.shared;
        shared.finished.0.store(0, Ordering::Relaxed);
        // SAFETY: only the lifetime is forgotten; all members have finished with the job before this function returns.
        let forgotten = unsafe { std::mem::transmute::<&(dyn Fn(&Worker) + Sync), &'static Job>(job) };
        // SAFETY: no member reads it until the generation is announced.
        unsafe { *shared.job.0.get() = Some(forgotten) };
        if shared.count > 1 {
            shared.announce();
        }
        shared.work(job, &self.first);
        wait(shared.spins, usize::MAX, || shared.finished.0.load(Ordering::Acquire) == shared.count - 1);
        // SAFETY: all members have finished.
        unsafe { *shared.job.0.get() = None };
        if shared.poisoned.swap(false, Ordering::AcqRel) {
            shared.arrived.0.store(0, Ordering::Relaxed);
            match lock(&shared.panic).take() {
                Some(payload) => resume_unwind(payload),
                None => panic_any("a member of the team was abandoned"),
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.first.shared.stop.store(true, Ordering::Release);
        self.first.shared.announce();
        for thread in self.threads.drain(..) {
            // A member catches its job's panics; one that died otherwise has nothing left to say.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const COUNTS: [usize; 5] = [1, 2, 3, 5, 9];

    #[test]
    fn every_member_runs_every_job_once() {
        for count in COUNTS {
            let team = Team::new(count);
            let runs: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..300 {
                team.run(&|worker| {
                    assert_eq!(worker.count, count);
                    runs[worker.index].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(runs.iter().all(|r| r.load(Ordering::Relaxed) == 300), "{count} members");
        }
    }

    #[test]
    fn barriers_separate_writes_from_reads() {
        for count in COUNTS {
            let team = Team::new(count);
            let cells: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            team.run(&|worker| {
                for round in 1..200 {
                    cells[worker.index].store(round, Ordering::Relaxed);
                    worker.barrier();
                    assert!(cells.iter().all(|c| c.load(Ordering::Relaxed) == round));
                    worker.barrier();
                }
            });
        }
    }

    #[test]
    fn items_cover_everything_once_and_evenly() {
        for count in COUNTS {
            let team = Team::new(count);
            for n in [0, 1, 2, 7, 9, 100] {
                let ranges = Mutex::new(vec![0..0; count]);
                team.run(&|worker| lock(&ranges)[worker.index] = worker.items(n));
                let ranges = ranges.into_inner().unwrap();
                assert!(ranges.iter().all(|r| r.len().abs_diff(n / count) <= 1));
                assert_eq!(ranges.into_iter().flatten().collect::<Vec<_>>(), (0..n).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_survives_it() {
        for count in COUNTS {
            let team = Team::new(count);
            for guilty in 0..count {
                let job = |worker: &Worker| {
                    worker.barrier();
                    if worker.index == guilty {
                        resume_unwind(Box::new(guilty));
                    }
                    worker.barrier();
                };
                let caught = catch_unwind(AssertUnwindSafe(|| team.run(&job))).unwrap_err();
                assert_eq!(caught.downcast_ref(), Some(&guilty));
                let sum = AtomicUsize::new(0);
                team.run(&|worker| {
                    worker.barrier();
                    sum.fetch_add(worker.index, Ordering::Relaxed);
                });
                assert_eq!(sum.into_inner(), count * (count - 1) / 2);
            }
        }
    }

    #[test]
    fn members_wake_from_sleep() {
        let team = Team::new(4);
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(20));
            let sum = AtomicUsize::new(0);
            team.run(&|worker| {
                sum.fetch_add(worker.index, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 6);
        }
    }

    #[test]
    fn a_job_inside_of_a_job_is_refused() {
        let team = Team::new(2);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            team.run(&|worker| {
                if worker.index == 0 {
                    team.run(&|_| ());
                }
            });
        }));
        let message = outcome.unwrap_err();
        assert_eq!(message.downcast_ref::<&str>(), Some(&"a job cannot run another one"));
    }
}
