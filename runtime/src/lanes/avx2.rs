//! AVX2 with FMA: sixteen lanes in two registers, eight in one, four in half of one.

use super::Lanes;
use core::arch::x86_64::*;

/// 16 lanes in two 256-bit registers.
#[derive(Clone, Copy, Debug)]
pub struct Avx2x16;

/// 8 lanes in one 256-bit register.
#[derive(Clone, Copy, Debug)]
pub struct Avx2x8;

/// 4 lanes in one 128-bit register.
#[derive(Clone, Copy, Debug)]
pub struct Avx2x4;

/// The methods that are one instruction on one register.
macro_rules! one_register {
    (
        $v:ty, $load:ident, $load_unaligned:ident, $store:ident, $store_unaligned:ident, $splat:ident, $zero:ident,
        $add:ident, $sub:ident, $mul:ident, $div:ident, $fma:ident, $sqrt:ident
    ) => {
        #[inline(always)]
        unsafe fn load(from: *const f32) -> $v {
            // SAFETY: the caller vouches for the instruction set and the address; so below.
            unsafe { $load(from) }
        }

        #[inline(always)]
        unsafe fn load_unaligned(from: *const f32) -> $v {
            // SAFETY: see `load`.
            unsafe { $load_unaligned(from) }
        }

        #[inline(always)]
        unsafe fn store(to: *mut f32, v: $v) {
            // SAFETY: see `load`.
            unsafe { $store(to, v) }
        }

        #[inline(always)]
        unsafe fn store_unaligned(to: *mut f32, v: $v) {
            // SAFETY: see `load`.
            unsafe { $store_unaligned(to, v) }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> $v {
            // SAFETY: see `load`.
            unsafe { $splat(value) }
        }

        #[inline(always)]
        unsafe fn zero() -> $v {
            // SAFETY: see `load`.
            unsafe { $zero() }
        }

        #[inline(always)]
        unsafe fn add(a: $v, b: $v) -> $v {
            // SAFETY: see `load`.
            unsafe { $add(a, b) }
        }

        #[inline(always)]
        unsafe fn sub(a: $v, b: $v) -> $v {
            // SAFETY: see `load`.
            unsafe { $sub(a, b) }
        }

        #[inline(always)]
        unsafe fn mul(a: $v, b: $v) -> $v {
            // SAFETY: see `load`.
            unsafe { $mul(a, b) }
        }

        #[inline(always)]
        unsafe fn div(a: $v, b: $v) -> $v {
            // SAFETY: see `load`.
            unsafe { $div(a, b) }
        }

        #[inline(always)]
        unsafe fn fma(a: $v, b: $v, c: $v) -> $v {
            // SAFETY: see `load`.
            unsafe { $fma(a, b, c) }
        }

        #[inline(always)]
        unsafe fn sqrt(a: $v) -> $v {
            // SAFETY: see `load`.
            unsafe { $sqrt(a) }
        }
    };
}
pub(super) use one_register;

/// `Lanes::vectorize` for a set of target features.
macro_rules! vectorize_with {
    ($features:literal) => {
        #[inline(always)]
        unsafe fn vectorize<F: FnOnce() -> R, R>(f: F) -> R {
            #[target_feature(enable = $features)]
            fn inner<F: FnOnce() -> R, R>(f: F) -> R {
                f()
            }
            // SAFETY: the caller vouches for the instruction set.
            unsafe { inner(f) }
        }
    };
}
pub(super) use vectorize_with;

/// The quads of four vectors of four lanes, by the tree of [`super`]: lane i of the result is the sum of part i.
#[inline(always)]
unsafe fn quads(parts: [__m128; 4]) -> __m128 {
    let [a, b, c, d] = parts;
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
        _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab))
    }
}

/// The sums of four vectors of eight lanes, by the tree of [`super`].
#[inline(always)]
pub(super) unsafe fn sum_eights(parts: [__m256; 4]) -> __m128 {
    let [a, b, c, d] = parts;
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let (ab, cd) = (_mm256_castps_pd(ab), _mm256_castps_pd(cd));
        let even = _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd));
        let odd = _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd));
        let quads = _mm256_add_ps(even, odd);
        _mm_add_ps(_mm256_castps256_ps128(quads), _mm256_extractf128_ps::<1>(quads))
    }
}

/// Four lanes as an array.
#[inline(always)]
pub(super) unsafe fn array(v: __m128) -> [f32; 4] {
    let mut result = [0.0; 4];
    // SAFETY: the caller vouches for AVX2; the array holds four floats.
    unsafe { _mm_storeu_ps(result.as_mut_ptr(), v) };
    result
}

/// Adds four lanes to memory.
#[inline(always)]
pub(super) unsafe fn add_to(to: *mut f32, v: __m128) {
    // SAFETY: the caller vouches for AVX2 and four floats.
    unsafe { _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), v)) }
}

impl Lanes for Avx2x8 {
    const LANES: usize = 8;
    const ACCUMULATORS: usize = 8;
    const PIXELS: usize = 8;
    const BACKWARD_PIXELS: usize = 4;
    const FUSED: bool = true;

    type V = __m256;
    type Folded = __m256;

    one_register!(
        __m256,
        _mm256_load_ps,
        _mm256_loadu_ps,
        _mm256_store_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_setzero_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_div_ps,
        _mm256_fmadd_ps,
        _mm256_sqrt_ps
    );

    #[inline(always)]
    unsafe fn select_less(a: __m256, b: __m256, c: __m256, d: __m256) -> __m256 {
        // SAFETY: the caller vouches for AVX2.
        unsafe { _mm256_blendv_ps(d, c, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }

    #[inline(always)]
    unsafe fn fold(v: __m256) -> __m256 {
        v
    }

    #[inline(always)]
    unsafe fn unfold(folded: __m256) -> __m256 {
        folded
    }

    #[inline(always)]
    unsafe fn sums(parts: [__m256; 4]) -> [f32; 4] {
        // SAFETY: the caller vouches for AVX2.
        unsafe { array(sum_eights(parts)) }
    }

    #[inline(always)]
    unsafe fn add_sums(to: *mut f32, parts: [__m256; 4]) {
        // SAFETY: the caller vouches for AVX2 and four floats.
        unsafe { add_to(to, sum_eights(parts)) }
    }

    vectorize_with!("avx2,fma");
}

impl Lanes for Avx2x4 {
    const LANES: usize = 4;
    const ACCUMULATORS: usize = 8;
    const PIXELS: usize = 8;
    const BACKWARD_PIXELS: usize = 4;
    const FUSED: bool = true;

    type V = __m128;
    type Folded = __m128;

    one_register!(
        __m128,
        _mm_load_ps,
        _mm_loadu_ps,
        _mm_store_ps,
        _mm_storeu_ps,
        _mm_set1_ps,
        _mm_setzero_ps,
        _mm_add_ps,
        _mm_sub_ps,
        _mm_mul_ps,
        _mm_div_ps,
        _mm_fmadd_ps,
        _mm_sqrt_ps
    );

    #[inline(always)]
    unsafe fn select_less(a: __m128, b: __m128, c: __m128, d: __m128) -> __m128 {
        // SAFETY: the caller vouches for AVX2.
        unsafe { _mm_blendv_ps(d, c, _mm_cmplt_ps(a, b)) }
    }

    #[inline(always)]
    unsafe fn fold(v: __m128) -> __m128 {
        v
    }

    #[inline(always)]
    unsafe fn unfold(folded: __m128) -> __m128 {
        folded
    }

    #[inline(always)]
    unsafe fn sums(parts: [__m128; 4]) -> [f32; 4] {
        // SAFETY: the caller vouches for AVX2.
        unsafe { array(quads(parts)) }
    }

    #[inline(always)]
    unsafe fn add_sums(to: *mut f32, parts: [__m128; 4]) {
        // SAFETY: the caller vouches for AVX2 and four floats.
        unsafe { add_to(to, quads(parts)) }
    }

    vectorize_with!("avx2,fma");
}

/// A method of [`Avx2x16`] that is the same on both halves.
macro_rules! both_halves {
    ($($name:ident($($operand:ident),*);)*) => { $(
        #[inline(always)]
        unsafe fn $name($($operand: [__m256; 2]),*) -> [__m256; 2] {
            // SAFETY: the caller vouches for AVX2.
            unsafe { [Avx2x8::$name($($operand[0]),*), Avx2x8::$name($($operand[1]),*)] }
        }
    )* };
}

impl Lanes for Avx2x16 {
    const LANES: usize = 16;
    const ACCUMULATORS: usize = 4;
    const PIXELS: usize = 4;
    const BACKWARD_PIXELS: usize = 2;
    const FUSED: bool = true;

    type V = [__m256; 2];
    type Folded = __m256;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [__m256; 2] {
        // SAFETY: the caller vouches for AVX2 and sixteen floats; so below.
        unsafe { [Avx2x8::load(from), Avx2x8::load(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn load_unaligned(from: *const f32) -> [__m256; 2] {
        // SAFETY: see `load`.
        unsafe { [Avx2x8::load_unaligned(from), Avx2x8::load_unaligned(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [__m256; 2]) {
        // SAFETY: see `load`.
        unsafe {
            Avx2x8::store(to, v[0]);
            Avx2x8::store(to.add(8), v[1]);
        }
    }

    #[inline(always)]
    unsafe fn store_unaligned(to: *mut f32, v: [__m256; 2]) {
        // SAFETY: see `load`.
        unsafe {
            Avx2x8::store_unaligned(to, v[0]);
            Avx2x8::store_unaligned(to.add(8), v[1]);
        }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> [__m256; 2] {
        // SAFETY: see `load`.
        unsafe { [Avx2x8::splat(value); 2] }
    }

    both_halves! {
        zero(); add(a, b); sub(a, b); mul(a, b); div(a, b); fma(a, b, c); sqrt(a); select_less(a, b, c, d);
    }

    #[inline(always)]
    unsafe fn fold(v: [__m256; 2]) -> __m256 {
        // SAFETY: see `load`.
        unsafe { _mm256_add_ps(v[0], v[1]) }
    }

    #[inline(always)]
    unsafe fn unfold(folded: __m256) -> [__m256; 2] {
        // SAFETY: see `load`.
        unsafe { [folded, _mm256_setzero_ps()] }
    }

    #[inline(always)]
    unsafe fn sums(parts: [__m256; 4]) -> [f32; 4] {
        // SAFETY: see `load`.
        unsafe { array(sum_eights(parts)) }
    }

    #[inline(always)]
    unsafe fn add_sums(to: *mut f32, parts: [__m256; 4]) {
        // SAFETY: see `load`.
        unsafe { add_to(to, sum_eights(parts)) }
    }

    vectorize_with!("avx2,fma");
}
