//! What the machine can do at most.

use mest_runtime::lanes::{Isa, multiply_add_in_registers};
use serde::Serialize;
use std::time::Instant;

/// Shortest time that a peak is measured over, in seconds.
const LONG_ENOUGH: f64 = 0.02;
/// Measurements of which the best counts: a peak is what nothing disturbed.
const ATTEMPTS: usize = 5;

/// The machine as a run uses it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Instruction set.
    pub isa: String,
    /// Threads.
    pub threads: usize,
    /// Multiply-adds in registers: GFLOP/s of one core times threads, a multiply-add being two operations.
    pub peak_gflops: f64,
    /// Of one core.
    pub core_gflops: f64,
}

impl Machine {
    /// Measures this machine.
    ///
    /// # Panics
    /// It does not have `isa`.
    pub fn measure(isa: Isa, threads: usize) -> Self {
        let core_gflops = core_gflops(isa);
        Machine { isa: isa.to_string(), threads, peak_gflops: core_gflops * threads as f64, core_gflops }
    }
}

fn core_gflops(isa: Isa) -> f64 {
    let timed = |rounds| {
        let start = Instant::now();
        let operations = multiply_add_in_registers(isa, rounds);
        (operations as f64 / 1e9, start.elapsed().as_secs_f64())
    };
    let mut rounds = 1 << 12;
    while timed(rounds).1 < LONG_ENOUGH {
        rounds *= 2;
    }
    (0..ATTEMPTS).map(|_| timed(rounds)).map(|(operations, seconds)| operations / seconds).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_one_core_times_threads() {
        let machine = Machine::measure(Isa::best(), 3);
        assert_eq!(machine.peak_gflops, machine.core_gflops * 3.0);
        // Slower than any machine with an FPU, faster than any core that will be built soon.
        assert!((0.01..10_000.0).contains(&machine.core_gflops), "{machine:?}");
    }
}
