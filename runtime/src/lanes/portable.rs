//! Vectors for machines without an instruction set of their own here, and to compare the others with: quads of lanes.
//!
//! A quad is a register of SSE, which every x86-64 has, or an array that LLVM makes one of elsewhere. Multiply and add round apart.

use super::Lanes;

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
mod quad {
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
mod quad {
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

use quad::Quad;

/// A method that is the same on every quad.
macro_rules! each_quad {
    ($($name:ident($first:ident $(, $operand:ident)*);)*) => { $(
        #[inline(always)]
        unsafe fn $name($first: [Quad; QUADS] $(, $operand: [Quad; QUADS])*) -> [Quad; QUADS] {
            let mut result = $first;
            for i in 0..QUADS {
                // SAFETY: quads are for every machine.
                result[i] = unsafe { quad::$name($first[i] $(, $operand[i])*) };
            }
            result
        }
    )* };
}

/// Sum of a quad's lanes as the tree of [`super`] has it.
#[inline(always)]
unsafe fn sum_quad(v: Quad) -> f32 {
    let mut lanes = [0.0; 4];
    // SAFETY: the array has four floats.
    unsafe { quad::store(lanes.as_mut_ptr(), v) };
    (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])
}

/// Reads a vector from any address of an `f32`.
#[inline(always)]
unsafe fn load<const QUADS: usize>(from: *const f32) -> [Quad; QUADS] {
    // SAFETY: the caller vouches for all lanes.
    unsafe {
        let mut result = [quad::splat(0.0); QUADS];
        for (i, quad) in result.iter_mut().enumerate() {
            *quad = quad::load(from.add(4 * i));
        }
        result
    }
}

/// Writes a vector to any address of an `f32`.
#[inline(always)]
unsafe fn store<const QUADS: usize>(to: *mut f32, v: [Quad; QUADS]) {
    for (i, quad) in v.into_iter().enumerate() {
        // SAFETY: the caller vouches for all lanes.
        unsafe { quad::store(to.add(4 * i), quad) };
    }
}

impl<const QUADS: usize> Lanes for Portable<QUADS> {
    const LANES: usize = 4 * QUADS;
    const ACCUMULATORS: usize = if QUADS == 4 { 2 } else { 4 };
    const PIXELS: usize = Self::ACCUMULATORS;
    const BACKWARD_PIXELS: usize = if QUADS == 1 { 4 } else { 2 };
    const FUSED: bool = false;

    type V = [Quad; QUADS];
    type Folded = [Quad; QUADS];

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's contract; so below.
        unsafe { load(from) }
    }

    #[inline(always)]
    unsafe fn load_unaligned(from: *const f32) -> Self::V {
        // SAFETY: see `load`.
        unsafe { load(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: see `load`.
        unsafe { store(to, v) }
    }

    #[inline(always)]
    unsafe fn store_unaligned(to: *mut f32, v: Self::V) {
        // SAFETY: see `load`.
        unsafe { store(to, v) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        // SAFETY: quads are for every machine; so below.
        unsafe { [quad::splat(value); QUADS] }
    }

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        // SAFETY: see `splat`.
        unsafe { [quad::splat(0.0); QUADS] }
    }

    each_quad! {
        add(a, b); sub(a, b); mul(a, b); div(a, b); sqrt(a); select_less(a, b, c, d);
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { Self::add(Self::mul(a, b), c) }
    }

    #[inline(always)]
    unsafe fn fold(mut v: Self::V) -> Self::V {
        if QUADS == 4 {
            // SAFETY: see `splat`.
            unsafe {
                v[0] = quad::add(v[0], v[2]);
                v[1] = quad::add(v[1], v[3]);
            }
        }
        v
    }

    #[inline(always)]
    unsafe fn sums(parts: [Self::Folded; 4]) -> [f32; 4] {
        parts.map(
            #[inline(always)]
            |part| {
                // SAFETY: see `splat`.
                unsafe { if QUADS == 1 { sum_quad(part[0]) } else { sum_quad(part[0]) + sum_quad(part[1]) } }
            },
        )
    }

    #[inline(always)]
    unsafe fn add_sums(to: *mut f32, parts: [Self::Folded; 4]) {
        // SAFETY: the caller vouches for four floats.
        unsafe {
            for (i, sum) in Self::sums(parts).into_iter().enumerate() {
                *to.add(i) += sum;
            }
        }
    }

    #[inline(always)]
    unsafe fn vectorize<F: FnOnce() -> R, R>(f: F) -> R {
        f()
    }
}
