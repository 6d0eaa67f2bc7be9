//! Counter-based randomness: every draw is a pure function of (seed, purpose, step, index), so that a run repeats bit for bit whatever the
//! number of threads, resumed or not.
//!
//! The generator is Philox 2x64 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The seed is its
//! key; index, step and purpose are its counter.

#[cfg(not(feature = "std"))]
use crate::float::Float as _;

/// What randomness is drawn for. Draws for different purposes are independent. The numbers are part of the format of runs: never change one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// Which dead units grow.
    Growth = 0,
    /// Random masks before the first step.
    InitialMask = 1,
    /// Order of the examples of an epoch.
    Shuffle = 2,
    /// Crops, flips.
    Augment = 3,
    /// Dropout masks.
    Dropout = 4,
    /// Which examples are held out.
    Split = 5,
    /// Synthetic data sets.
    Synthetic = 6,
    /// Initial weights.
    Initialization = 7,
    /// Which examples leave and enter the training set.
    Sieve = 8,
    /// To which side moments stored as halves are rounded.
    Rounding = 9,
}

const MULTIPLIER: u64 = 0xD2B7_4407_B1CE_6E93;
const WEYL: u64 = 0x9E37_79B9_7F4A_7C15;
const ROUNDS: usize = 10;

/// Bits of a step that enter the counter; the purpose takes the rest.
const STEP_BITS: u32 = 56;

fn philox(mut counter: [u64; 2], mut key: u64) -> [u64; 2] {
    for _ in 0..ROUNDS {
        let product = u128::from(MULTIPLIER) * u128::from(counter[0]);
        counter = [(product >> 64) as u64 ^ key ^ counter[1], product as u64];
        key = key.wrapping_add(WEYL);
    }
    counter
}

/// 64 random bits. `step` counts modulo 2^56.
pub fn bits(seed: u64, purpose: Purpose, step: u64, index: u64) -> u64 {
    let step = step & ((1 << STEP_BITS) - 1);
    philox([index, step | (purpose as u64) << STEP_BITS], seed)[0]
}

/// 32 random bits an index, all from one `key` drawn by [`bits`]: for loops over vectors, where ten rounds an index would cost more than what
/// they are drawn for. A bijection of the index (Wellons' lowbias32), into which half of the key enters before each multiplication.
#[inline(always)]
pub fn scrambled(key: u64, index: u32) -> u32 {
    let mut x = index ^ key as u32;
    x = (x ^ x >> 16).wrapping_mul(0x7feb_352d) ^ (key >> 32) as u32;
    x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
    x ^ x >> 16
}

/// The draws of one (seed, purpose, step), in order of index.
#[derive(Clone, Debug)]
pub struct Stream {
    seed: u64,
    purpose: Purpose,
    step: u64,
    index: u64,
}

impl Stream {
    /// The stream from index 0.
    pub fn new(seed: u64, purpose: Purpose, step: u64) -> Self {
        Stream { seed, purpose, step, index: 0 }
    }

    /// The part of it that belongs to `item`: 2^32 draws that no other item shares.
    pub fn of_item(seed: u64, purpose: Purpose, step: u64, item: u32) -> Self {
        Stream { seed, purpose, step, index: u64::from(item) << 32 }
    }

    /// The next 64 bits: `bits(seed, purpose, step, index)`.
    pub fn next_u64(&mut self) -> u64 {
        let drawn = bits(self.seed, self.purpose, self.step, self.index);
        self.index = self.index.wrapping_add(1);
        drawn
    }

    /// A number below `n`, all equally likely (Lemire's multiplication with rejection); 0 where `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        if n == 0 {
            return 0;
        }
        // 2^64 mod n products would make small results likelier; they are drawn again.
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= threshold {
                return (product >> 64) as usize;
            }
        }
    }

    /// A number in [0, 1), a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A standard normal deviate (Marsaglia's polar method), from IEEE operations alone: the same bits on every platform.
    pub fn normal(&mut self) -> f64 {
        loop {
            let x = 2.0 * self.uniform() - 1.0;
            let y = 2.0 * self.uniform() - 1.0;
            let s = x * x + y * y;
            if s > 0.0 && s < 1.0 {
                return x * (-2.0 * natural_logarithm(s) / s).sqrt();
            }
        }
    }

    /// Permutes `items`, every order equally likely (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

impl Iterator for Stream {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        Some(self.next_u64())
    }
}

/// ln of a positive normal number. The platform's own may differ in its last bit from one C library to the next.
fn natural_logarithm(x: f64) -> f64 {
    let raw = x.to_bits();
    let mut exponent = (raw >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits((raw & ((1 << 52) - 1)) | 1023 << 52);
    if mantissa > core::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln m = 2 artanh z with |z| < 0.172: the terms past z^23 are below 2^-60 of the sum.
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let square = z * z;
    let series = (0..12).rev().fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    exponent as f64 * core::f64::consts::LN_2 + 2.0 * z * series
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the authors' library, Random123.
    #[test]
    fn philox_matches_published_vectors() {
        assert_eq!(philox([0, 0], 0), [0xca00_a045_9843_d731, 0x66c2_4222_c9a8_45b5]);
        assert_eq!(philox([u64::MAX; 2], u64::MAX), [0x65b0_21d6_0cd8_310f, 0x4d02_f322_2f86_df20]);
        assert_eq!(
            philox([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344], 0xa409_3822_299f_31d0),
            [0x0a5e_742c_2997_341c, 0xb0f8_83d3_8000_de5d]
        );
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let base = bits(1, Purpose::Growth, 2, 3);
        assert_eq!(base, bits(1, Purpose::Growth, 2, 3));
        for other in [
            bits(2, Purpose::Growth, 2, 3),
            bits(1, Purpose::Shuffle, 2, 3),
            bits(1, Purpose::Growth, 3, 3),
            bits(1, Purpose::Growth, 2, 4),
        ] {
            assert_ne!(base, other);
        }
        assert_eq!(Stream::new(9, Purpose::Split, 4).nth(7), Some(bits(9, Purpose::Split, 4, 7)));
        assert_eq!(Stream::of_item(9, Purpose::Split, 4, 2).next_u64(), bits(9, Purpose::Split, 4, 2 << 32));
    }

    #[test]
    fn half_of_the_bits_change_with_any_one_of_the_key() {
        let mut changed = 0;
        for bit in 0..48 {
            for index in 0..50u64 {
                changed += (bits(5, Purpose::Augment, 6, index) ^ bits(5 ^ 1 << bit, Purpose::Augment, 6, index)).count_ones();
                changed += (bits(5, Purpose::Augment, 6, index) ^ bits(5, Purpose::Augment, 6 ^ 1 << bit, index)).count_ones();
                changed += (bits(5, Purpose::Augment, 6, index) ^ bits(5, Purpose::Augment, 6, index ^ 1 << bit)).count_ones();
            }
        }
        let share = f64::from(changed) / (48.0 * 50.0 * 3.0 * 64.0);
        assert!((share - 0.5).abs() < 0.003, "{share}");
    }

    /// Chi-square of `counts`, all of which are as likely.
    fn chi_square(counts: &[u32]) -> f64 {
        let expected = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
        counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum()
    }

    #[test]
    fn scrambled_bits_are_uniform_and_change_with_every_bit_of_key_and_index() {
        let key = bits(5, Purpose::Rounding, 6, 7);
        for shift in [0, 8, 16, 24] {
            // Of one key over indices, and of one index over the keys of steps: 255 degrees of freedom, 99.999 % below 363.
            let (mut indices, mut steps) = ([0; 256], [0; 256]);
            for i in 0..50_000 {
                indices[(scrambled(key, i) >> shift & 255) as usize] += 1;
                steps[(scrambled(bits(5, Purpose::Rounding, u64::from(i), 7), 3) >> shift & 255) as usize] += 1;
            }
            assert!(chi_square(&indices) < 363.0 && chi_square(&steps) < 363.0, "{shift}");
        }
        for bit in 0..64 {
            let changed = |other: &dyn Fn(u32) -> u32| (0..1000).map(|i| (scrambled(key, i) ^ other(i)).count_ones()).sum::<u32>();
            let by_key = changed(&|i| scrambled(key ^ 1 << bit, i));
            let by_index = changed(&|i| scrambled(key, i ^ 1 << (bit % 32)));
            assert!([by_key, by_index].iter().all(|changed| (12_000..20_000).contains(changed)), "{bit}: {by_key}, {by_index}");
        }
    }

    #[test]
    fn below_is_uniform() {
        let (n, draws) = (37, 100_000);
        let mut stream = Stream::new(3, Purpose::Synthetic, 0);
        let mut seen = vec![0u32; n];
        for _ in 0..draws {
            seen[stream.below(n)] += 1;
        }
        // 36 degrees of freedom: 99.999 % below 89.
        assert!(chi_square(&seen) < 89.0, "{}", chi_square(&seen));
        assert_eq!((stream.below(1), stream.below(0)), (0, 0));
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let mut stream = Stream::new(11, Purpose::Initialization, 1);
        let n = 100_000;
        let uniform: Vec<f64> = (0..n).map(|_| stream.uniform()).collect();
        assert!(uniform.iter().all(|u| (0.0..1.0).contains(u)));
        assert!((uniform.iter().sum::<f64>() / n as f64 - 0.5).abs() < 0.004);
        let normal: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
        let moment = |power: i32| normal.iter().map(|x| x.powi(power)).sum::<f64>() / n as f64;
        assert!(moment(1).abs() < 0.015, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.02, "{}", moment(2));
        assert!(moment(3).abs() < 0.06, "{}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.15, "{}", moment(4));
    }

    #[test]
    fn shuffle_reaches_every_order_equally() {
        let mut seen = std::collections::HashMap::new();
        for step in 0..24_000 {
            let mut items = [0, 1, 2, 3];
            Stream::new(2, Purpose::Shuffle, step).shuffle(&mut items);
            *seen.entry(items).or_insert(0u32) += 1;
        }
        assert_eq!(seen.len(), 24);
        assert!(seen.values().all(|&times| (850..1150).contains(&times)), "{seen:?}");
    }

    #[test]
    fn logarithm_is_accurate() {
        let mut stream = Stream::new(4, Purpose::Synthetic, 2);
        for _ in 0..10_000 {
            let x = stream.uniform() + 1e-12;
            assert!((natural_logarithm(x) - x.ln()).abs() <= 4e-16 * x.ln().abs().max(1e-3), "{x}");
        }
    }

    /// Masks, orders and crops of published runs depend on these.
    #[test]
    fn golden() {
        let mut stream = Stream::new(42, Purpose::Shuffle, 7);
        let mut items: Vec<u8> = (0..10).collect();
        stream.shuffle(&mut items);
        assert_eq!(items, GOLDEN_ORDER);
        assert_eq!(bits(42, Purpose::Growth, 0, 0), GOLDEN_BITS);
        assert_eq!(scrambled(GOLDEN_BITS, 42), GOLDEN_SCRAMBLED);
        assert_eq!(Stream::new(42, Purpose::Initialization, 0).normal().to_bits(), GOLDEN_NORMAL);
    }

    const GOLDEN_ORDER: [u8; 10] = [3, 4, 8, 0, 5, 6, 1, 9, 2, 7];
    const GOLDEN_BITS: u64 = 0xf5f3_0512_9c19_8e00;
    const GOLDEN_SCRAMBLED: u32 = 0x9ed0_7a78;
    const GOLDEN_NORMAL: u64 = 0x4000_bdfb_2d32_4169; // 2.0927642374955906
}
