//! Vectors for machines without an instruction set of their own here, and to compare the others with: quads of lanes.
//!
//! A quad is a register of SSE, which every x86-64 has, or an array that LLVM makes one of elsewhere. Multiply and add round apart.

use super::quads::lanes_of_quads;

/// `QUADS` times four lanes, for any architecture.
#[derive(Clone, Copy, Debug)]
pub struct Portable<const QUADS: usize>;

/// 16 lanes.
pub type Portablex16 = Portable<4>;
/// 8 lanes.
pub type Portablex8 = Portable<2>;
/// 4 lanes.
pub type Portablex4 = Portable<1>;

#[cfg(target_arch = "x86_64")]
mod register {
    use core::arch::x86_64::*;

    pub(super) use core::arch::x86_64::{
        __m128 as Quad, _mm_add_ps as add, _mm_div_ps as div, _mm_loadu_ps as load, _mm_mul_ps as mul, _mm_set1_ps as splat,
        _mm_sqrt_ps as sqrt, _mm_storeu_ps as store, _mm_sub_ps as sub,
    };

    #[inline(always)]
    pub(super) unsafe fn select_less(a: Quad, b: Quad, c: Quad, d: Quad) -> Quad {
        // SAFETY: SSE is part of x86-64.
        unsafe {
            let less = _mm_cmplt_ps(a, b);
            _mm_or_ps(_mm_and_ps(less, c), _mm_andnot_ps(less, d))
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod register {
    pub(super) type Quad = [f32; 4];

    #[inline(always)]
    pub(super) unsafe fn load(from: *const f32) -> Quad {
        // SAFETY: the caller vouches for four floats; an array needs no more alignment than its elements.
        unsafe { from.cast::<Quad>().read() }
    }

    #[inline(always)]
    pub(super) unsafe fn store(to: *mut f32, v: Quad) {
        // SAFETY: as in `load`.
        unsafe { to.cast::<Quad>().write(v) }
    }

    #[inline(always)]
    pub(super) unsafe fn splat(value: f32) -> Quad {
        [value; 4]
    }

    #[inline(always)]
    pub(super) unsafe fn add(a: Quad, b: Quad) -> Quad {
        [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]
    }

    #[inline(always)]
    pub(super) unsafe fn sub(a: Quad, b: Quad) -> Quad {
        [a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]]
    }

    #[inline(always)]
    pub(super) unsafe fn mul(a: Quad, b: Quad) -> Quad {
        [a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]]
    }

    #[inline(always)]
    pub(super) unsafe fn div(a: Quad, b: Quad) -> Quad {
        [a[0] / b[0], a[1] / b[1], a[2] / b[2], a[3] / b[3]]
    }

    #[inline(always)]
    pub(super) unsafe fn sqrt(a: Quad) -> Quad {
        a.map(super::super::math::sqrt)
    }

    #[inline(always)]
    pub(super) unsafe fn select_less(a: Quad, b: Quad, c: Quad, d: Quad) -> Quad {
        let lane = |i: usize| if a[i] < b[i] { c[i] } else { d[i] };
        [lane(0), lane(1), lane(2), lane(3)]
    }
}

mod quad {
    pub(super) use super::register::*;

    #[inline(always)]
    pub(super) unsafe fn fma(a: Quad, b: Quad, c: Quad) -> Quad {
        // SAFETY: a register is for every machine of its architecture.
        unsafe { add(mul(a, b), c) }
    }

    #[inline(always)]
    pub(super) unsafe fn sum(v: Quad) -> f32 {
        let mut lanes = [0.0; 4];
        // SAFETY: the array has four floats.
        unsafe { store(lanes.as_mut_ptr(), v) };
        (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])
    }
}

lanes_of_quads!(Portable { ACCUMULATORS: if QUADS == 4 { 2 } else { 4 }, BACKWARD_PIXELS: if QUADS == 1 { 4 } else { 2 }, FUSED: false });
