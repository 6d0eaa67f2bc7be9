//! exp and log of our own, so that no library's version changes the bits. Coefficients are those of Cephes' expf and logf.

use super::{Buffer, Lanes};

/// Adding and subtracting this rounds a float of less than 2^22 to the nearest integer, ties to even.
pub const ROUND: f32 = 12_582_912.0;
/// [`ROUND`] and the bias of a float's exponent.
pub const EXPONENT: f32 = ROUND + 127.0;
/// Subtracting the bits of sqrt(1/2) makes the exponent field of a float count from it.
pub const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
/// ln 2 split so that a small integer times the first part is exact.
pub const LN2_HIGH: f32 = 0.693_359_4;
/// The rest of ln 2.
pub const LN2_LOW: f32 = -2.121_944_4e-4;

/// The largest number of lower bits that rounding to the upper half of a float drops without rounding up.
pub const HALF_BELOW: u32 = 0x7fff;

/// The bits of the largest finite float that half of them hold.
const LARGEST_HALF: u32 = 0x7f7f_0000;
const INFINITY: u32 = 0x7f80_0000;
const SIGN: u32 = 0x8000_0000;
/// The bit that every NaN of arithmetic has.
const QUIET: u32 = 0x0040_0000;

/// Of exp(r) = 1 + r + r^2 p(r).
pub const EXP: [f32; 6] = [1.987_569_2e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
/// Of log(1 + f) = f - f^2 / 2 + f^3 p(f).
pub const LOG: [f32; 9] = [
    7.037_683_6e-2,
    -1.151_461e-1,
    1.167_699_9e-1,
    -1.242_014_1e-1,
    1.424_932_3e-1,
    -1.666_805_8e-1,
    2.000_071_4e-1,
    -2.499_999_4e-1,
    3.333_333e-1,
];

/// The square root, correctly rounded.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    #[cfg(feature = "std")]
    return x.sqrt();
    #[cfg(not(feature = "std"))]
    return libm::sqrtf(x);
}

/// `a * b + c`, rounded as often as the vectors of `L` round it.
#[inline(always)]
pub fn multiply_add<L: Lanes>(a: f32, b: f32, c: f32) -> f32 {
    #[cfg(feature = "std")]
    let fused = |a: f32, b, c| a.mul_add(b, c);
    #[cfg(not(feature = "std"))]
    let fused = libm::fmaf;
    if L::FUSED { fused(a, b, c) } else { a * b + c }
}

/// `x` rounded to the nearest of the floats that half of the bits hold, ties to even: those bits. Of NaNs, those that arithmetic makes stay NaN.
#[inline(always)]
pub fn narrowed(x: f32) -> u16 {
    let bits = x.to_bits();
    (bits.wrapping_add(HALF_BELOW + ((bits >> 16) & 1)) >> 16) as u16
}

/// `x` rounded to one of its two neighbours among the floats that half of the bits hold: away from zero for as large a part of the 2^16 values of
/// `draw` as `x` lies above the smaller one, so that the mean over all of them is `x`. Those bits. What is finite stays finite, and NaN stays NaN.
#[inline(always)]
pub fn narrowed_stochastically(x: f32, draw: u16) -> u16 {
    let bits = x.to_bits();
    let magnitude = bits & !SIGN;
    let up = if magnitude < LARGEST_HALF { u32::from(draw) } else { 0 };
    let quiet = if magnitude > INFINITY { QUIET } else { 0 };
    ((bits.wrapping_add(up) | quiet) >> 16) as u16
}

/// The float whose upper bits `bits` are, the lower ones being 0.
#[inline(always)]
pub fn widened(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Horner's scheme.
#[inline(always)]
unsafe fn polynomial<L: Lanes>(x: L::V, coefficients: &[f32]) -> L::V {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let mut result = L::zero();
        for (i, &c) in coefficients.iter().enumerate() {
            result = if i == 0 { L::splat(c) } else { L::fma(result, x, L::splat(c)) };
        }
        result
    }
}

#[inline(always)]
pub(super) unsafe fn lane_by_lane<L: Lanes>(v: L::V, f: impl Fn(f32) -> f32) -> L::V {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let mut buffer: Buffer = L::to_buffer(v);
        for lane in &mut buffer.0[..L::LANES] {
            *lane = f(*lane);
        }
        L::from_buffer(&buffer)
    }
}

/// 2^n for integral n from -126 to 127. Adding [`EXPONENT`] puts n + 127 into the last bits; the shift makes an exponent of them.
#[inline(always)]
pub fn power_of_two(n: f32) -> f32 {
    f32::from_bits((n + EXPONENT).to_bits() << 23)
}

#[inline(always)]
pub(super) unsafe fn exp<L: Lanes>(v: L::V) -> L::V {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        // Outside of these bounds the result is infinite or zero; a NaN passes both comparisons unchanged.
        let (low, high) = (L::splat(-104.0), L::splat(89.0));
        let v = L::select_less(v, low, low, v);
        let v = L::select_less(high, v, high, v);
        let round = L::splat(ROUND);
        let n = L::sub(L::fma(v, L::splat(core::f32::consts::LOG2_E), round), round);
        let r = L::sub(v, L::mul(n, L::splat(LN2_HIGH)));
        let r = L::sub(r, L::mul(n, L::splat(LN2_LOW)));
        let tail = L::fma(polynomial::<L>(r, &EXP), L::mul(r, r), r);
        let mantissa = L::add(tail, L::splat(1.0));
        // Two factors, since 2^n alone leaves the range of normal floats where the result underflows gradually.
        let half = L::sub(L::fma(n, L::splat(0.5), round), round);
        let scaled = L::mul(mantissa, L::power_of_two(half));
        L::mul(scaled, L::power_of_two(L::sub(n, half)))
    }
}

/// The exponent e of a positive normal float as m 2^e with m in [sqrt(1/2), sqrt(2)).
#[inline(always)]
pub fn exponent(x: f32) -> f32 {
    ((x.to_bits().wrapping_sub(SQRT_HALF_BITS) as i32) >> 23) as f32
}

/// The m of [`exponent`].
#[inline(always)]
pub fn significand(x: f32) -> f32 {
    let e = (x.to_bits().wrapping_sub(SQRT_HALF_BITS) as i32) >> 23;
    f32::from_bits(x.to_bits().wrapping_sub((e << 23) as u32))
}

#[inline(always)]
pub(super) unsafe fn log<L: Lanes>(v: L::V) -> L::V {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let tiny = L::splat(f32::MIN_POSITIVE);
        let scale = L::splat(33_554_432.0);
        let x = L::select_less(v, tiny, L::mul(v, scale), v);
        let shift = L::select_less(v, tiny, L::splat(25.0), L::zero());
        let e = L::sub(L::exponent(x), shift);
        let f = L::sub(L::significand(x), L::splat(1.0));
        let square = L::mul(f, f);
        let tail = L::mul(L::mul(polynomial::<L>(f, &LOG), f), square);
        let tail = L::fma(e, L::splat(LN2_LOW), tail);
        let tail = L::fma(square, L::splat(-0.5), tail);
        let result = L::fma(e, L::splat(LN2_HIGH), L::add(f, tail));
        let (zero, infinity) = (L::zero(), L::splat(f32::INFINITY));
        // What the bits of special values gave is replaced: inf and NaN are not below infinity, zero and negatives not above zero.
        let result = L::select_less(v, infinity, result, v);
        let of_zero = L::select_equal(v, zero, L::splat(f32::NEG_INFINITY), L::splat(f32::NAN));
        let nonpositive = L::select_less(zero, v, result, of_zero);
        // A NaN takes the "equal" branch of the selection above, so it is put back.
        L::select_less(v, infinity, nonpositive, v)
    }
}
