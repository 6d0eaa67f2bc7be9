//! What a core can compute at most: multiply-adds that never leave the registers.

use super::{Isa, Lanes};
use core::hint::black_box;

/// Chains of dependent operations: enough to hide the latency of a multiply-add on two ports, few enough for sixteen registers.
const CHAINS: usize = 10;

/// Multiplies and adds in registers for `rounds` rounds, in the widest vectors of `isa`; returns the floating-point operations done, a
/// multiply-add being two.
///
/// # Panics
/// The machine does not have the instruction set.
pub fn multiply_add_in_registers(isa: Isa, rounds: u64) -> u64 {
    assert!(isa.available(), "this machine does not have {isa}");
    match isa {
        // SAFETY: asserted above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { run::<super::Avx512x16>(rounds) },
        // SAFETY: asserted above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { run::<super::Avx2x8>(rounds) },
        // SAFETY: asserted above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { run::<super::Neonx8>(rounds) },
        // SAFETY: every machine has it.
        _ => unsafe { run::<super::Portablex4>(rounds) },
    }
}

/// # Safety
/// The machine has the instruction set.
unsafe fn run<L: Lanes>(rounds: u64) -> u64 {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        L::vectorize(
            #[inline(always)]
            || {
                // Values stay near 1: neither denormal nor infinite, which some machines compute slower.
                let (factor, addend) = (L::splat(black_box(0.5)), L::splat(black_box(0.5)));
                let mut chains = [L::splat(black_box(1.0)); CHAINS];
                for _ in 0..rounds {
                    for chain in &mut chains {
                        *chain = L::fma(*chain, factor, addend);
                    }
                }
                let total = chains.into_iter().fold(
                    L::zero(),
                    #[inline(always)]
                    |a, b| L::add(a, b),
                );
                black_box(L::sum(total));
            },
        );
    }
    rounds * (CHAINS * L::LANES * 2) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let once = multiply_add_in_registers(isa, 1);
            assert_eq!(multiply_add_in_registers(isa, 7), 7 * once, "{isa}");
            assert!(once.is_multiple_of(2 * CHAINS as u64) && once > 0, "{isa}");
        }
    }
}
