//! Every vector type against scalar arithmetic.

use super::*;

/// Runs a generic check for every vector type that the machine has.
macro_rules! for_all_lanes {
    ($check:ident) => {{
        #[cfg(target_arch = "x86_64")]
        {
            if Isa::Avx512.available() {
                $check::<Avx512x16>();
            }
            if Isa::Avx2.available() {
                $check::<Avx2x16>();
                $check::<Avx2x8>();
                $check::<Avx2x4>();
            }
        }
        $check::<Portablex16>();
        $check::<Portablex8>();
        $check::<Portablex4>();
    }};
}

/// Applies a vector function to sixteen numbers, a vector at a time.
fn apply<L: Lanes>(input: [f32; 16], f: unsafe fn(L::V) -> L::V) -> [f32; 16] {
    let mut out = [0.0; 16];
    // SAFETY: only called for vector types that the machine has; places are in bounds.
    unsafe {
        L::vectorize(
            #[inline(always)]
            || {
                for at in (0..16).step_by(L::LANES) {
                    L::store_unaligned(out.as_mut_ptr().add(at), f(L::load_unaligned(input.as_ptr().add(at))));
                }
            },
        );
    }
    out
}

/// Units in the last place between a result and the truth.
fn ulps(got: f32, truth: f64) -> f64 {
    let rounded = truth as f32;
    if got == rounded || got.is_nan() && truth.is_nan() {
        return 0.0;
    }
    let unit = f64::from(f32::from_bits(rounded.abs().to_bits().max(1) + 1)) - f64::from(f32::from_bits(rounded.abs().to_bits().max(1)));
    ((f64::from(got) - truth) / unit).abs()
}

fn worst<L: Lanes>(inputs: impl Iterator<Item = f32>, f: unsafe fn(L::V) -> L::V, truth: fn(f64) -> f64) -> (f64, f32) {
    let inputs: Vec<f32> = inputs.collect();
    let mut worst = (0.0, 0.0);
    for chunk in inputs.chunks(16) {
        let mut input = [1.0; 16];
        input[..chunk.len()].copy_from_slice(chunk);
        for (x, y) in input.into_iter().zip(apply::<L>(input, f)) {
            let error = ulps(y, truth(f64::from(x)));
            if error > worst.0 || error.is_nan() {
                worst = (error, x);
            }
        }
    }
    worst
}

fn exp_is_accurate<L: Lanes>() {
    let inputs = (0..400_000).map(|i| -104.0 + i as f32 * (193.0 / 400_000.0)).chain((-40..3).map(|i| 2.0_f32.powi(i)));
    let (error, at) = worst::<L>(inputs, L::exp, f64::exp);
    assert!(error <= 2.0, "{error} ulp at {at}");
    let special = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0, -0.0, 88.8, 1e30, -1e30, -103.0, 1.0, 0., 0., 0., 0., 0., 0.];
    let got = apply::<L>(special, L::exp);
    assert_eq!(got[..2], [0.0, f32::INFINITY]);
    assert!(got[2].is_nan());
    assert_eq!(got[3..8], [1.0, 1.0, f32::INFINITY, f32::INFINITY, 0.0]);
    assert_eq!(got[8], f32::from_bits(1), "the smallest subnormal");
}

fn log_is_accurate<L: Lanes>() {
    let wide = (1..0x7f80).map(|i| f32::from_bits(i << 16 | 0x1234));
    let near_one = (0..200_000).map(|i| 0.5 + i as f32 * 1e-5);
    let subnormal = (1..1000).map(|i| f32::from_bits(i * 8000));
    let (error, at) = worst::<L>(wide.chain(near_one).chain(subnormal), L::log, f64::ln);
    assert!(error <= 2.0, "{error} ulp at {at}");
    let special = [0.0, -0.0, -1.0, f32::INFINITY, f32::NAN, f32::NEG_INFINITY, 1.0, 1., 1., 1., 1., 1., 1., 1., 1., 1.];
    let got = apply::<L>(special, L::log);
    assert_eq!(got[..2], [f32::NEG_INFINITY; 2]);
    assert!(got[2].is_nan() && got[4].is_nan() && got[5].is_nan());
    assert_eq!((got[3], got[6]), (f32::INFINITY, 0.0));
}

fn sums_follow_the_documented_tree<L: Lanes>() {
    // Magnitudes so far apart that every other order rounds differently somewhere.
    let v: [[f32; 16]; 4] =
        std::array::from_fn(|k| std::array::from_fn(|i| ((i * 7 + k * 3) % 16) as f32 * 10.0_f32.powi((i * 5 + k) as i32 % 9) + 0.1));
    let expected = v.map(|mut v| {
        if L::LANES == 16 {
            for i in 0..8 {
                v[i] += v[i + 8];
            }
        }
        let quad = |i: usize| (v[i] + v[i + 2]) + (v[i + 1] + v[i + 3]);
        if L::LANES == 4 { quad(0) } else { quad(0) + quad(4) }
    });
    let mut added = [0.25_f32; 5];
    // SAFETY: only called for vector types that the machine has; four floats follow the place given to `add_sums`.
    let (sums, single) = unsafe {
        L::vectorize(
            #[inline(always)]
            || {
                let parts = [0, 1, 2, 3].map(|k: usize| L::fold(L::load_unaligned(v[k].as_ptr())));
                L::add_sums(added.as_mut_ptr().add(1), parts);
                (L::sums(parts), L::sum(L::load_unaligned(v[2].as_ptr())))
            },
        )
    };
    assert_eq!(sums, expected);
    assert_eq!(single, expected[2]);
    assert_eq!(added[1..], expected.map(|e| 0.25 + e));
    assert_eq!(added[0], 0.25);
}

/// Scalar and vector form of each operation, applied to one operand and a third.
fn operations_are_ieee<L: Lanes>() {
    const THIRD: f32 = 1.0 / 3.0;
    let values = [1.5, -2.0, 0.1, 1e30, -0.0, f32::INFINITY, f32::NAN, 3.0, 7.7, -8.25, 1e-40, 0.3, 5.0, -6.0, 0.7, 1e10];
    let check = |name: &str, vector: unsafe fn(L::V) -> L::V, scalar: fn(f32) -> f32| {
        for (x, y) in values.into_iter().zip(apply::<L>(values, vector)) {
            let expected = scalar(x);
            assert!(y.to_bits() == expected.to_bits() || y.is_nan() && expected.is_nan(), "{name} of {x}: {y}, not {expected}");
        }
    };
    // SAFETY: `apply` calls it for vector types that the machine has; so the others.
    check("add", |a| unsafe { L::add(a, L::splat(THIRD)) }, |a| a + THIRD);
    // SAFETY: see `add`.
    check("sub", |a| unsafe { L::sub(a, L::splat(THIRD)) }, |a| a - THIRD);
    // SAFETY: see `add`.
    check("mul", |a| unsafe { L::mul(a, L::splat(THIRD)) }, |a| a * THIRD);
    // SAFETY: see `add`.
    check("div", |a| unsafe { L::div(a, L::splat(THIRD)) }, |a| a / THIRD);
    // SAFETY: see `add`.
    check("sqrt", |a| unsafe { L::sqrt(a) }, f32::sqrt);
    let fused: fn(f32) -> f32 = |a| a.mul_add(THIRD, a);
    let twice: fn(f32) -> f32 = |a| a * THIRD + a;
    // SAFETY: see `add`.
    check("fma", |a| unsafe { L::fma(a, L::splat(THIRD), a) }, if L::FUSED { fused } else { twice });
    // SAFETY: see `add`.
    check("select", |a| unsafe { L::select_less(a, L::splat(0.5), L::splat(7.0), a) }, |a| if a < 0.5 { 7.0 } else { a });
    // SAFETY: see `add`.
    check("equal", |a| unsafe { L::select_equal(a, L::splat(3.0), L::splat(7.0), a) }, |a| if a == 3.0 || a.is_nan() { 7.0 } else { a });
    let larger: fn(f32) -> f32 = |a| if a.is_nan() || a > 0.5 { a } else { 0.5 };
    // SAFETY: see `add`.
    check("max", |a| unsafe { L::max(a, L::splat(0.5)) }, larger);
    // SAFETY: see `add`.
    check("max, other way", |a| unsafe { L::max(L::splat(0.5), a) }, larger);
}

#[test]
fn exp_is_within_two_ulp() {
    for_all_lanes!(exp_is_accurate);
}

#[test]
fn log_is_within_two_ulp() {
    for_all_lanes!(log_is_accurate);
}

#[test]
fn sums_have_one_tree() {
    for_all_lanes!(sums_follow_the_documented_tree);
}

#[test]
fn operations_agree_with_scalars() {
    for_all_lanes!(operations_are_ieee);
}

#[test]
fn names_round_trip() {
    for isa in Isa::ALL {
        assert_eq!(isa.to_string().parse(), Ok(isa));
    }
    let error = "sse9".parse::<Isa>().unwrap_err();
    assert_eq!(error.to_string(), "isa `sse9` is not known: use avx512, avx2, neon or portable");
    assert!(Isa::best().available() && Isa::Portable.available());
}

fn halves_are_rounded_to_the_nearest_and_read_back<L: Lanes>() {
    let mut values = [
        1.0,
        -2.5,
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-40,
        -3.3,
        0.1,
        65535.0,
        0.0,
        0.0,
        0.0,
        0.0,
    ];
    // Halfway between two: the even one. A bit more: the one above.
    values[12] = f32::from_bits(0x3f80_8000);
    values[13] = f32::from_bits(0x3f81_8000);
    values[14] = f32::from_bits(0x3f80_8001);
    values[15] = f32::NAN;
    let (mut halves, mut back) = ([0_u16; 16], [0.0_f32; 16]);
    // SAFETY: only called for vector types that the machine has; places are in bounds.
    unsafe {
        L::vectorize(
            #[inline(always)]
            || {
                for at in (0..16).step_by(L::LANES) {
                    L::store_narrow(halves.as_mut_ptr().add(at), L::load_unaligned(values.as_ptr().add(at)));
                    L::store_unaligned(back.as_mut_ptr().add(at), L::load_narrow(halves.as_ptr().add(at)));
                }
            },
        );
    }
    for (value, back) in values.into_iter().zip(back).take(15).filter(|(value, _)| value.is_finite() && *value < f32::MAX) {
        assert!((value - back).abs() <= value.abs() / 256.0 || value.abs() < 1e-38, "{value} came back as {back}");
    }
    assert_eq!(back[4..7], [f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY]);
    assert_eq!(halves[12..15], [0x3f80, 0x3f82, 0x3f81]);
    assert!(back[15].is_nan());
    assert_eq!((back[2].to_bits(), back[3].to_bits()), (0, 1 << 31));
}

#[test]
fn halves() {
    for_all_lanes!(halves_are_rounded_to_the_nearest_and_read_back);
}
