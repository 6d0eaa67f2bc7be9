//! The JIT engine: a program as machine code, in this process.
//!
//! Kernels become functions of one Cranelift module; launches become a table of function, arguments and items, which a team of threads
//! walks with a barrier after each. Cranelift's vectors stop at 128 bits on x86-64, so what is compute-bound is not generated: kernels call
//! the runtime's tiles, and only control and element-wise maps are Cranelift's own.

mod compile;
mod kernel;
mod map;
#[cfg(test)]
mod tests;

use crate::program::bounds::{self, InvalidProgram};
use crate::program::{Launch, Program, Schedule};
use compile::{Code, KernelFunction};
use mest_runtime::arena::Arena;
use mest_runtime::lanes::Isa;
use mest_runtime::manifest::Manifest;
use mest_runtime::network::{Network, Phase};
use mest_runtime::team::{Team, Worker};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Why a program can't be compiled or run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JitError {
    /// The machine does not have the instruction set.
    #[error("this machine does not have the instruction set {isa}; leave --isa at auto, or name one that it has")]
    Isa {
        /// The one asked for.
        isa: Isa,
    },
    /// Cranelift has no code generator for this machine.
    #[error("no machine code can be generated here: {problem}; compile to Rust instead (--emit rust)")]
    Host {
        /// What it says.
        problem: String,
    },
    /// The program breaks a rule.
    #[error(transparent)]
    Program(#[from] InvalidProgram),
    /// A kernel can't be compiled.
    #[error("internal error: kernel `{kernel}` can't be compiled: {problem}; please report it")]
    Kernel {
        /// Its name.
        kernel: String,
        /// What Cranelift says.
        problem: String,
    },
}

/// A program compiled into this process, with its memory and its threads.
pub struct Jit {
    /// Freed when dropped; nothing runs then. Its code holds addresses of the tiles' shapes in `program`.
    code: Code,
    program: Program,
    arena: Arena,
    scratch: Arena,
    team: Team,
    train: Vec<BoundLaunch>,
    evaluate: Vec<BoundLaunch>,
    /// What the arguments of bound launches point into.
    bound_to: *mut u8,
}

/// Time of one launch.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchTime {
    /// The graph node it comes from.
    pub label: String,
    /// Its kernel.
    pub kernel: String,
    /// From the barrier before it to the barrier after it, in seconds, one a round.
    pub seconds: Vec<f64>,
}

/// A launch with the addresses of its arguments.
struct BoundLaunch {
    function: KernelFunction,
    arguments: Vec<*mut u8>,
    items: usize,
}

// SAFETY: the pointers lead into the arena that the same `Jit` owns; which worker writes what is settled by the program's work items.
unsafe impl Sync for BoundLaunch {}
// SAFETY: as above; nothing here belongs to the thread that made it.
unsafe impl Send for BoundLaunch {}

impl std::fmt::Debug for Jit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let launches = (self.train.len(), self.evaluate.len());
        f.debug_struct("Jit")
            .field("program", &self.program.name)
            .field("code", &self.code)
            .field("launches", &launches)
            .finish_non_exhaustive()
    }
}

impl Jit {
    /// Checks `program`, compiles it for `isa`, and gives it an arena of zeros and `threads` threads (at least one).
    ///
    /// # Errors
    /// [`JitError`] where the machine lacks the instruction set or a code generator, or the program breaks a rule.
    pub fn new(program: Program, isa: Isa, threads: usize) -> Result<Jit, JitError> {
        bounds::check(&program)?;
        let code = Code::compile(&program, isa)?;
        let threads = threads.max(1);
        let arena = Arena::new(program.manifest.arena_bytes);
        let scratch = Arena::new(program.manifest.scratch_bytes * threads);
        let bound_to = arena.base();
        let bind = |phase| {
            let launches = program.schedules.iter().filter(|schedule: &&Schedule| schedule.phase == phase).flat_map(|s| &s.launches);
            launches.map(|launch| BoundLaunch::new(&program, &code, launch, bound_to)).collect()
        };
        let (train, evaluate) = (bind(Phase::Train), bind(Phase::Evaluate));
        Ok(Jit { train, evaluate, code, program, arena, scratch, team: Team::new(threads), bound_to })
    }

    /// The program that was compiled.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The Cranelift IR of every kernel.
    ///
    /// # Errors
    /// As [`Jit::new`].
    pub fn clif(program: &Program, isa: Isa) -> Result<String, JitError> {
        bounds::check(program)?;
        compile::clif(program, isa)
    }

    /// Bytes of machine code.
    pub fn code_bytes(&self) -> usize {
        self.code.bytes()
    }

    /// Runs a phase `rounds` times over what `Io` holds, as [`Network::run`] does, and times each of its launches.
    pub fn profile(&mut self, phase: Phase, rounds: usize) -> Vec<LaunchTime> {
        self.rebind();
        let launches = match phase {
            Phase::Train => &self.train,
            Phase::Evaluate => &self.evaluate,
        };
        let (scratch, scratch_bytes) = (&self.scratch, self.program.manifest.scratch_bytes);
        let times = Mutex::new(vec![Vec::with_capacity(rounds); launches.len()]);
        self.team.run(&|worker: &Worker| {
            // The first member keeps the clock: what it sees between two barriers is what all took.
            let mut times = (worker.index == 0).then(|| times.lock().unwrap_or_else(PoisonError::into_inner));
            for _ in 0..rounds {
                for (index, launch) in launches.iter().enumerate() {
                    worker.barrier();
                    let start = Instant::now();
                    launch.run(worker, scratch.part(worker.index, scratch_bytes));
                    worker.barrier();
                    if let Some(times) = &mut times {
                        times[index].push(start.elapsed().as_secs_f64());
                    }
                }
            }
        });
        let times = times.into_inner().unwrap_or_else(PoisonError::into_inner);
        let launches = self.program.schedules.iter().filter(|schedule| schedule.phase == phase).flat_map(|s| &s.launches);
        let named = |(launch, seconds): (&Launch, Vec<f64>)| LaunchTime {
            label: launch.label.clone(),
            kernel: self.program.kernels[launch.kernel].name.clone(),
            seconds,
        };
        launches.zip(times).map(named).collect()
    }

    /// Points the launches into the arena, should the caller have put another in its place.
    fn rebind(&mut self) {
        assert!(self.arena.bytes() >= self.program.manifest.arena_bytes, "the arena was replaced by a smaller one");
        let base = self.arena.base();
        if base == self.bound_to {
            return;
        }
        for launch in self.train.iter_mut().chain(&mut self.evaluate) {
            for argument in &mut launch.arguments {
                *argument = base.wrapping_add(argument.addr() - self.bound_to.addr());
            }
        }
        self.bound_to = base;
    }
}

impl BoundLaunch {
    fn new(program: &Program, code: &Code, launch: &Launch, base: *mut u8) -> BoundLaunch {
        let address = |&(slot, offset): &(crate::program::SlotId, usize)| {
            let slot = &program.slots[slot.0];
            base.wrapping_add(slot.offset + offset * slot.element.bytes())
        };
        BoundLaunch {
            function: code.function(launch.kernel),
            arguments: launch.arguments.iter().map(address).collect(),
            items: program.kernels[launch.kernel].domain.iter().product(),
        }
    }

    fn run(&self, worker: &Worker, scratch: *mut u8) {
        let items = worker.items(self.items);
        if items.is_empty() {
            return;
        }
        // SAFETY: `bounds::check` kept every address of the kernel inside the slot that each argument points to and inside the scratch;
        // the slots lie in the arena; the code lives as long as the `Jit`; workers have distinct items and distinct scratch.
        unsafe { (self.function)(self.arguments.as_ptr(), scratch, items.start as i64, items.end as i64) }
    }
}

impl Network for Jit {
    fn manifest(&self) -> &Manifest {
        &self.program.manifest
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn arena_mut(&mut self) -> &mut Arena {
        &mut self.arena
    }

    fn run(&mut self, phase: Phase) {
        self.rebind();
        let launches = match phase {
            Phase::Train => &self.train,
            Phase::Evaluate => &self.evaluate,
        };
        let (scratch, scratch_bytes) = (&self.scratch, self.program.manifest.scratch_bytes);
        self.team.run(&|worker: &Worker| {
            for launch in launches {
                launch.run(worker, scratch.part(worker.index, scratch_bytes));
                worker.barrier();
            }
        });
    }
}
