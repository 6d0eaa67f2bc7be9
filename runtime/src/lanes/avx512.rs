//! AVX-512F: sixteen lanes in one register. Eight and four lanes are AVX2's, as registers of 512 bits would be half empty.

use super::Lanes;
use super::avx2::{add_to, array, one_register, sum_eights, vectorize_with};
use core::arch::x86_64::*;

/// 16 lanes in one 512-bit register.
#[derive(Clone, Copy, Debug)]
pub struct Avx512x16;

impl Lanes for Avx512x16 {
    const LANES: usize = 16;
    const ACCUMULATORS: usize = 16;
    const PIXELS: usize = 8;
    const BACKWARD_PIXELS: usize = 8;
    const FUSED: bool = true;

    type V = __m512;
    type Folded = __m256;

    one_register!(
        __m512,
        _mm512_load_ps,
        _mm512_loadu_ps,
        _mm512_store_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_setzero_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_div_ps,
        _mm512_fmadd_ps,
        _mm512_sqrt_ps
    );

    #[inline(always)]
    unsafe fn select_less(a: __m512, b: __m512, c: __m512, d: __m512) -> __m512 {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), d, c) }
    }

    #[inline(always)]
    unsafe fn fold(v: __m512) -> __m256 {
        // SAFETY: the caller vouches for AVX-512F. The extraction by pairs of doubles needs no AVX-512DQ.
        unsafe {
            let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)));
            _mm256_add_ps(_mm512_castps512_ps256(v), upper)
        }
    }

    #[inline(always)]
    unsafe fn unfold(folded: __m256) -> __m512 {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe { _mm512_zextps256_ps512(folded) }
    }

    #[inline(always)]
    unsafe fn sums(parts: [__m256; 4]) -> [f32; 4] {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe { array(sum_eights(parts)) }
    }

    #[inline(always)]
    unsafe fn add_sums(to: *mut f32, parts: [__m256; 4]) {
        // SAFETY: the caller vouches for AVX-512F and four floats.
        unsafe { add_to(to, sum_eights(parts)) }
    }

    vectorize_with!("avx512f,avx2,fma");
}
