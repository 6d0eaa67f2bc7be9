//! NEON, which every 64-bit ARM has: thirty-two registers of four lanes.

use super::quads::lanes_of_quads;

/// `QUADS` registers of four lanes.
#[derive(Clone, Copy, Debug)]
pub struct Neon<const QUADS: usize>;

/// 16 lanes.
pub type Neonx16 = Neon<4>;
/// 8 lanes.
pub type Neonx8 = Neon<2>;
/// 4 lanes.
pub type Neonx4 = Neon<1>;

mod quad {
    use core::arch::aarch64::*;

    pub(super) use core::arch::aarch64::{
        float32x4_t as Quad, vaddq_f32 as add, vdivq_f32 as div, vdupq_n_f32 as splat, vld1q_f32 as load, vmulq_f32 as mul,
        vsqrtq_f32 as sqrt, vst1q_f32 as store, vsubq_f32 as sub,
    };

    #[inline(always)]
    pub(super) unsafe fn fma(a: Quad, b: Quad, c: Quad) -> Quad {
        // SAFETY: NEON is part of the architecture; so below.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    pub(super) unsafe fn select_less(a: Quad, b: Quad, c: Quad, d: Quad) -> Quad {
        // SAFETY: see `fma`.
        unsafe { vbslq_f32(vcltq_f32(a, b), c, d) }
    }

    #[inline(always)]
    pub(super) unsafe fn sum(v: Quad) -> f32 {
        // SAFETY: see `fma`.
        unsafe {
            let pairs = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(pairs) + vget_lane_f32::<1>(pairs)
        }
    }
}

lanes_of_quads!(Neon { ACCUMULATORS: if QUADS == 4 { 4 } else { 8 }, BACKWARD_PIXELS: if QUADS == 4 { 2 } else { 4 }, FUSED: true });
