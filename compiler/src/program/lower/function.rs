//! Elementary functions as chains of the operations that every engine computes alike.
//!
//! exp and log follow [`mest_runtime::lanes::math`] step by step; tanh and erf are the rational approximations of Eigen. A function is a few
//! dozen operations in the chain it stands in, so that it costs no pass over memory of its own.

use super::map::{Chain, Link, LinkOp};
use crate::op::Function;
use mest_runtime::lanes::math;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_PI, FRAC_2_SQRT_PI, FRAC_PI_2, FRAC_PI_4, LOG2_E};

/// Numerator (odd powers, highest first) and denominator (even powers) of tanh, and where it is 1.
const TANH: ([f32; 7], [f32; 4], f32) = (
    [-2.760_768_5e-16, 2.000_188e-13, -8.604_672e-11, 5.122_297e-8, 1.485_722_4e-5, 6.372_619_3e-4, 4.893_524_6e-3],
    [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3],
    7.905_311,
);

/// The same of erf.
const ERF: ([f32; 7], [f32; 5], f32) = (
    [-2.726_142_3e-10, 2.770_681_5e-8, -2.101_024e-6, -5.692_506_5e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_3e-2],
    [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2],
    3.92,
);

/// pi/2 in three parts, the first two so short that whole numbers of them are exact.
const HALF_PI: [f32; 3] = [1.570_312_5, 4.837_513e-4, 7.549_79e-8];
/// Of sine (behind x) and cosine (behind 1 - x^2 / 2) between -pi/4 and pi/4, in powers of x^2, highest first.
const SIN: [f32; 3] = [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1];
const COS: [f32; 3] = [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2];
/// Of the inverse tangent (behind x), up to tan(pi/8).
const ATAN: [f32; 4] = [8.053_744_5e-2, -1.387_768_6e-1, 1.997_771_1e-1, -3.333_295e-1];

/// The cubic term of the argument that GELU gives tanh, and the factor of the whole.
const GELU_CUBE: f32 = 0.044_715;
const GELU_FACTOR: f32 = 0.797_884_6;

impl Chain {
    fn add(&mut self, a: Link, b: Link) -> Link {
        self.op(LinkOp::Add(a, b))
    }

    fn sub(&mut self, a: Link, b: Link) -> Link {
        self.op(LinkOp::Sub(a, b))
    }

    fn mul(&mut self, a: Link, b: Link) -> Link {
        self.op(LinkOp::Mul(a, b))
    }

    fn div(&mut self, a: Link, b: Link) -> Link {
        self.op(LinkOp::Div(a, b))
    }

    fn fma(&mut self, a: Link, b: Link, c: Link) -> Link {
        self.op(LinkOp::Fma(a, b, c))
    }

    fn times(&mut self, a: Link, factor: f32) -> Link {
        let factor = self.constant(factor);
        self.mul(a, factor)
    }

    fn plus(&mut self, a: Link, term: f32) -> Link {
        let term = self.constant(term);
        self.add(a, term)
    }

    /// factor * a + term
    fn line(&mut self, factor: f32, a: Link, term: f32) -> Link {
        let (factor, term) = (self.constant(factor), self.constant(term));
        self.fma(a, factor, term)
    }

    fn reciprocal(&mut self, a: Link) -> Link {
        let one = self.constant(1.0);
        self.div(one, a)
    }

    /// min(max(a, low), high); a NaN passes.
    fn clamp(&mut self, a: Link, low: f32, high: f32) -> Link {
        let (low, high) = (self.constant(low), self.constant(high));
        let raised = self.op(LinkOp::SelectLess(a, low, low, a));
        self.op(LinkOp::SelectLess(high, raised, high, raised))
    }

    /// min(a, high); a NaN passes.
    fn at_most(&mut self, a: Link, high: f32) -> Link {
        let high = self.constant(high);
        self.op(LinkOp::SelectLess(high, a, high, a))
    }

    /// Horner's scheme, highest power first.
    fn polynomial(&mut self, x: Link, coefficients: &[f32]) -> Link {
        let (first, rest) = (coefficients.first().copied().unwrap_or(0.0), coefficients.get(1..).unwrap_or_default());
        let first = self.constant(first);
        rest.iter().fold(first, |sum, &c| {
            let c = self.constant(c);
            self.fma(sum, x, c)
        })
    }

    /// x p(x^2) / q(x^2); beyond the limit exactly 1 or -1, so that what is left of 1 is nothing, however large its factor.
    fn odd_rational(&mut self, x: Link, (numerator, denominator, limit): (&[f32], &[f32], f32)) -> Link {
        let inner = self.clamp(x, -limit, limit);
        let square = self.mul(inner, inner);
        let above = self.polynomial(square, numerator);
        let (above, below) = (self.mul(inner, above), self.polynomial(square, denominator));
        let quotient = self.div(above, below);
        let [low, high, least, most] = [-limit, limit, -1.0, 1.0].map(|number| self.constant(number));
        let raised = self.op(LinkOp::SelectLess(x, low, least, quotient));
        self.op(LinkOp::SelectLess(high, x, most, raised))
    }

    /// See [`mest_runtime::lanes::Lanes::exp`].
    fn exp(&mut self, x: Link) -> Link {
        let x = self.clamp(x, -104.0, 89.0);
        let round = self.constant(math::ROUND);
        let scaled = self.line(LOG2_E, x, math::ROUND);
        let n = self.sub(scaled, round);
        let (high, low) = (self.times(n, math::LN2_HIGH), self.times(n, math::LN2_LOW));
        let r = self.sub(x, high);
        let r = self.sub(r, low);
        let (inner, square) = (self.polynomial(r, &math::EXP), self.mul(r, r));
        let tail = self.fma(inner, square, r);
        let mantissa = self.plus(tail, 1.0);
        let half = self.line(0.5, n, math::ROUND);
        let half = self.sub(half, round);
        let other = self.sub(n, half);
        let (first, second) = (self.op(LinkOp::PowerOfTwo(half)), self.op(LinkOp::PowerOfTwo(other)));
        let scaled = self.mul(mantissa, first);
        self.mul(scaled, second)
    }

    /// See [`mest_runtime::lanes::Lanes::log`].
    fn log(&mut self, v: Link) -> Link {
        let (tiny, zero, shift) = (self.constant(f32::MIN_POSITIVE), self.constant(0.0), self.constant(25.0));
        let scaled = self.times(v, 33_554_432.0);
        let x = self.op(LinkOp::SelectLess(v, tiny, scaled, v));
        let shift = self.op(LinkOp::SelectLess(v, tiny, shift, zero));
        let (e, m) = (self.op(LinkOp::Exponent(x)), self.op(LinkOp::Significand(x)));
        let (e, f) = (self.sub(e, shift), self.plus(m, -1.0));
        let square = self.mul(f, f);
        let inner = self.polynomial(f, &math::LOG);
        let inner = self.mul(inner, f);
        let tail = self.mul(inner, square);
        let (low, high, half) = (self.constant(math::LN2_LOW), self.constant(math::LN2_HIGH), self.constant(-0.5));
        let tail = self.fma(e, low, tail);
        let tail = self.fma(square, half, tail);
        let sum = self.add(f, tail);
        let result = self.fma(e, high, sum);
        let (infinity, least, nan) = (self.constant(f32::INFINITY), self.constant(f32::NEG_INFINITY), self.constant(f32::NAN));
        // What the bits of zero, negatives, infinity and NaN gave is replaced.
        let of_zero = self.op(LinkOp::SelectLess(v, zero, nan, least));
        let positive = self.op(LinkOp::SelectLess(zero, v, result, of_zero));
        self.op(LinkOp::SelectLess(v, infinity, positive, v))
    }

    fn tanh(&mut self, x: Link) -> Link {
        self.odd_rational(x, (&TANH.0, &TANH.1, TANH.2))
    }

    fn erf(&mut self, x: Link) -> Link {
        self.odd_rational(x, (&ERF.0, &ERF.1, ERF.2))
    }

    /// sin(x + quadrant * pi/2)
    fn sine(&mut self, x: Link, quadrant: f32) -> Link {
        let round = self.constant(math::ROUND);
        let scaled = self.line(FRAC_2_PI, x, math::ROUND);
        let n = self.sub(scaled, round);
        let r = HALF_PI.iter().fold(x, |r, &part| {
            let part = self.constant(-part);
            self.fma(n, part, r)
        });
        let square = self.mul(r, r);
        let (sine, cube) = (self.polynomial(square, &SIN), self.mul(square, r));
        let sine = self.fma(sine, cube, r);
        let (cosine, fourth) = (self.polynomial(square, &COS), self.mul(square, square));
        let start = self.line(-0.5, square, 1.0);
        let cosine = self.fma(cosine, fourth, start);
        // Quarter turns beyond whole ones: -2 to 2. An odd one exchanges sine and cosine; its own sign, or that of 1 - q^2 / 2, is the result's.
        let quarters = self.plus(n, quadrant);
        let turns = self.line(0.25, quarters, math::ROUND);
        let turns = self.sub(turns, round);
        let q = self.constant(-4.0);
        let q = self.fma(turns, q, quarters);
        let q_square = self.mul(q, q);
        let (half, two) = (self.constant(0.5), self.constant(2.0));
        let even_sign = self.line(-0.5, q_square, 1.0);
        let choose = |chain: &mut Self, odd: Link, even: Link| {
            let below_two = chain.op(LinkOp::SelectLess(q_square, two, odd, even));
            chain.op(LinkOp::SelectLess(half, q_square, below_two, even))
        };
        let (size, sign) = (choose(self, cosine, sine), choose(self, q, even_sign));
        self.mul(size, sign)
    }

    /// Of |x|: itself, or turned by an eighth or a quarter of a turn, so that little is left.
    fn atan(&mut self, x: Link) -> Link {
        let size = self.function(Function::Abs, x);
        let [zero, one, low, high] = [0.0, 1.0, 0.414_213_57, 2.414_213_7].map(|number| self.constant(number));
        let (less, more) = (self.plus(size, -1.0), self.plus(size, 1.0));
        let middle = self.div(less, more);
        let inverse = self.reciprocal(size);
        let inverse = self.times(inverse, -1.0);
        let [eighth, quarter] = [FRAC_PI_4, FRAC_PI_2].map(|angle| self.constant(angle));
        let choose = |chain: &mut Self, [small, medium, large]: [Link; 3]| {
            let not_small = chain.op(LinkOp::SelectLess(high, size, large, medium));
            chain.op(LinkOp::SelectLess(low, size, not_small, small))
        };
        let (r, turn) = (choose(self, [size, middle, inverse]), choose(self, [zero, eighth, quarter]));
        let square = self.mul(r, r);
        let (tail, cube) = (self.polynomial(square, &ATAN), self.mul(square, r));
        let angle = self.fma(tail, cube, r);
        let angle = self.add(angle, turn);
        let minus = self.constant(-1.0);
        let sign = self.op(LinkOp::SelectLess(x, zero, minus, one));
        self.mul(angle, sign)
    }

    fn sigmoid(&mut self, x: Link) -> Link {
        let negative = self.times(x, -1.0);
        let e = self.exp(negative);
        let sum = self.plus(e, 1.0);
        self.reciprocal(sum)
    }

    /// max(x, 0) + log(1 + exp(-|x|)), which overflows nowhere.
    fn softplus(&mut self, x: Link) -> Link {
        let zero = self.constant(0.0);
        let negative = self.times(x, -1.0);
        let minus_size = self.op(LinkOp::SelectLess(x, negative, x, negative));
        let e = self.exp(minus_size);
        let sum = self.plus(e, 1.0);
        let (log, positive) = (self.log(sum), self.op(LinkOp::SelectLess(x, zero, zero, x)));
        self.add(positive, log)
    }

    /// tanh(softplus(x)) with e = exp(x): (e^2 + 2 e) / (e^2 + 2 e + 2); 1 in f32 long before e^2 overflows.
    fn tanh_softplus(&mut self, x: Link) -> Link {
        let x = self.at_most(x, 20.0);
        let e = self.exp(x);
        let plus_two = self.plus(e, 2.0);
        let above = self.mul(e, plus_two);
        let below = self.plus(above, 2.0);
        self.div(above, below)
    }

    /// The share of a normal distribution below x.
    fn normal_share(&mut self, x: Link) -> Link {
        let scaled = self.times(x, FRAC_1_SQRT_2);
        let erf = self.erf(scaled);
        self.line(0.5, erf, 0.5)
    }

    /// tanh of the cubic in GELU's approximation.
    fn gelu_tanh(&mut self, x: Link) -> Link {
        let square = self.mul(x, x);
        let cubic = self.line(GELU_FACTOR * GELU_CUBE, square, GELU_FACTOR);
        let argument = self.mul(x, cubic);
        self.tanh(argument)
    }

    /// exp(-factor * x^2)
    fn bell(&mut self, x: Link, factor: f32) -> Link {
        let square = self.mul(x, x);
        let exponent = self.times(square, -factor);
        self.exp(exponent)
    }

    /// f(x)
    pub(super) fn function(&mut self, function: Function, x: Link) -> Link {
        match function {
            Function::Abs => {
                let negative = self.times(x, -1.0);
                self.op(LinkOp::SelectLess(x, negative, negative, x))
            }
            Function::Atan => self.atan(x),
            Function::Cos => self.sine(x, 1.0),
            Function::Sin => self.sine(x, 0.0),
            Function::Elu { alpha } => {
                let (zero, low) = (self.constant(0.0), self.at_most(x, 0.0));
                let e = self.exp(low);
                let below = self.line(alpha, e, -alpha);
                self.op(LinkOp::SelectLess(zero, x, x, below))
            }
            Function::Erf => self.erf(x),
            Function::Exp => self.exp(x),
            Function::Gelu => {
                let share = self.normal_share(x);
                self.mul(x, share)
            }
            Function::GeluTanh => {
                let tanh = self.gelu_tanh(x);
                let share = self.line(0.5, tanh, 0.5);
                self.mul(x, share)
            }
            Function::Log => self.log(x),
            Function::Mish => {
                let gate = self.tanh_softplus(x);
                self.mul(x, gate)
            }
            Function::Reciprocal => self.reciprocal(x),
            Function::Sigmoid => self.sigmoid(x),
            Function::Silu => {
                let gate = self.sigmoid(x);
                self.mul(x, gate)
            }
            Function::Softplus => self.softplus(x),
            Function::Sqrt => self.op(LinkOp::Sqrt(x)),
            Function::Tanh => self.tanh(x),
        }
    }

    /// f'(x), from x or from y = f(x) as [`Function::derivative_reads_result`] says.
    pub(super) fn derivative(&mut self, function: Function, v: Link) -> Link {
        match function {
            Function::Abs => {
                let (zero, up, down) = (self.constant(0.0), self.constant(1.0), self.constant(-1.0));
                let positive = self.op(LinkOp::SelectLess(zero, v, up, zero));
                self.op(LinkOp::SelectLess(v, zero, down, positive))
            }
            Function::Atan => {
                let square = self.mul(v, v);
                let sum = self.plus(square, 1.0);
                self.reciprocal(sum)
            }
            Function::Cos => self.sine(v, 2.0),
            Function::Sin => self.sine(v, 1.0),
            Function::Elu { alpha } => {
                let (zero, one, low) = (self.constant(0.0), self.constant(1.0), self.at_most(v, 0.0));
                let e = self.exp(low);
                let below = self.times(e, alpha);
                self.op(LinkOp::SelectLess(zero, v, one, below))
            }
            Function::Erf => {
                let bell = self.bell(v, 1.0);
                self.times(bell, FRAC_2_SQRT_PI)
            }
            Function::Exp => v,
            Function::Gelu => {
                let (share, bell) = (self.normal_share(v), self.bell(v, 0.5));
                let density = self.times(bell, FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * 0.5);
                self.fma(v, density, share)
            }
            Function::GeluTanh => self.gelu_tanh_derivative(v),
            Function::Log => self.reciprocal(v),
            Function::Mish => {
                let (gate, sigmoid) = (self.tanh_softplus(v), self.sigmoid(v));
                let slope = self.gate_slope(gate);
                let slope = self.mul(slope, sigmoid);
                self.fma(v, slope, gate)
            }
            Function::Reciprocal => {
                let square = self.mul(v, v);
                self.times(square, -1.0)
            }
            Function::Sigmoid => self.logistic_slope(v),
            Function::Silu => {
                let gate = self.sigmoid(v);
                let slope = self.logistic_slope(gate);
                self.fma(v, slope, gate)
            }
            Function::Softplus => self.sigmoid(v),
            Function::Sqrt => {
                let half = self.constant(0.5);
                self.div(half, v)
            }
            Function::Tanh => self.gate_slope(v),
        }
    }

    fn gelu_tanh_derivative(&mut self, x: Link) -> Link {
        let (tanh, square) = (self.gelu_tanh(x), self.mul(x, x));
        let share = self.line(0.5, tanh, 0.5);
        let inner = self.line(1.5 * GELU_FACTOR * GELU_CUBE, square, 0.5 * GELU_FACTOR);
        let slope = self.gate_slope(tanh);
        let slope = self.mul(slope, inner);
        self.fma(x, slope, share)
    }

    /// 1 - y^2
    fn gate_slope(&mut self, y: Link) -> Link {
        let (negative, one) = (self.times(y, -1.0), self.constant(1.0));
        self.fma(negative, y, one)
    }

    /// y (1 - y)
    fn logistic_slope(&mut self, y: Link) -> Link {
        let one = self.constant(1.0);
        let rest = self.sub(one, y);
        self.mul(y, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::lower::kernel::Place;
    use crate::program::lower::map::{Access, AccessLayout};
    use crate::program::{ChainOp, SlotId};

    /// What the chain makes of `x` on a machine that fuses multiply-adds.
    fn evaluate(chain: &Chain, result: Link, x: f32) -> f32 {
        let mut v = vec![x];
        for op in chain.chain_ops() {
            v.push(match op {
                ChainOp::Constant(constant) => constant,
                ChainOp::Add(a, b) => v[a] + v[b],
                ChainOp::Sub(a, b) => v[a] - v[b],
                ChainOp::Mul(a, b) => v[a] * v[b],
                ChainOp::Div(a, b) => v[a] / v[b],
                ChainOp::Fma(a, b, c) => v[a].mul_add(v[b], v[c]),
                ChainOp::Sqrt(a) => v[a].sqrt(),
                ChainOp::SelectLess(a, b, c, d) => v[if v[a] < v[b] { c } else { d }],
                ChainOp::PowerOfTwo(a) => math::power_of_two(v[a]),
                ChainOp::Exponent(a) => math::exponent(v[a]),
                ChainOp::Significand(a) => math::significand(v[a]),
            });
        }
        v[chain.number(result)]
    }

    /// f or its derivative as a chain of one load.
    fn chain(build: impl Fn(&mut Chain, Link) -> Link) -> (Chain, Link) {
        let mut chain = Chain::default();
        let x = chain.load(Access { place: Place::from(SlotId(0)), layout: AccessLayout::Channel });
        let result = build(&mut chain, x);
        (chain, result)
    }

    const ALL: [Function; 17] = [
        Function::Abs,
        Function::Atan,
        Function::Cos,
        Function::Sin,
        Function::Elu { alpha: 0.75 },
        Function::Erf,
        Function::Exp,
        Function::Gelu,
        Function::GeluTanh,
        Function::Log,
        Function::Mish,
        Function::Reciprocal,
        Function::Sigmoid,
        Function::Silu,
        Function::Softplus,
        Function::Sqrt,
        Function::Tanh,
    ];

    #[test]
    fn chains_compute_functions_and_derivatives() {
        for function in ALL {
            let positive = matches!(function, Function::Log | Function::Sqrt | Function::Reciprocal);
            let (value, y) = chain(|chain, x| chain.function(function, x));
            let (slope, dy) = chain(|chain, x| chain.derivative(function, x));
            for i in -4000..=4000 {
                let x = if positive { (i as f32 / 100.0).exp() } else { i as f32 / 50.0 };
                // What is left of 1 beside erf and tanh is rounded, and then multiplied by x.
                let size = f64::from(1.0 + x.abs());
                let wanted = function.of(f64::from(x));
                let got = f64::from(evaluate(&value, y, x));
                assert!((got - wanted).abs() <= 1e-6 * wanted.abs() + 3e-7 * size, "{function:?} of {x}: {got}, not {wanted}");
                let from = if function.derivative_reads_result() { wanted as f32 } else { x };
                let wanted = function.derivative(f64::from(from));
                let got = f64::from(evaluate(&slope, dy, from));
                assert!((got - wanted).abs() <= 2e-6 * wanted.abs() + 1e-6 * size, "{function:?}' from {from}: {got}, not {wanted}");
            }
        }
    }

    #[test]
    fn exp_and_log_keep_their_limits() {
        let of = |function, x| {
            let (chain, y) = chain(|chain, x| chain.function(function, x));
            evaluate(&chain, y, x)
        };
        assert_eq!([f32::NEG_INFINITY, -200.0, 0.0, 90.0].map(|x| of(Function::Exp, x)), [0.0, 0.0, 1.0, f32::INFINITY]);
        assert_eq!([0.0, 1.0, f32::INFINITY].map(|x| of(Function::Log, x)), [f32::NEG_INFINITY, 0.0, f32::INFINITY]);
        for x in [-1.0, f32::NAN, f32::NEG_INFINITY] {
            assert!(of(Function::Log, x).is_nan());
        }
        assert!(of(Function::Exp, f32::NAN).is_nan() && of(Function::Tanh, f32::NAN).is_nan());
        assert_eq!([-1e30, 1e30].map(|x| of(Function::Sigmoid, x)), [0.0, 1.0]);
        assert_eq!(of(Function::Softplus, 1e30), 1e30);
        assert!((of(Function::Sin, 3000.0) - 3000f32.sin()).abs() < 1e-6 && of(Function::Cos, f32::INFINITY).is_nan());
        assert_eq!([f32::NEG_INFINITY, f32::INFINITY].map(|x| of(Function::Atan, x)), [-FRAC_PI_2, FRAC_PI_2]);
    }
}
