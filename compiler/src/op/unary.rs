//! Functions of one element, and their derivatives.

use super::infer::{expect, operand_count, unary};
use super::{Cost, NoGradient, Operator, Reference, ShapeError};
use crate::ir::{Shape, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// x -> f(x)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unary {
    /// f
    pub function: Function,
}

/// (dy, v) -> dy * f'(x), with v = f(x) where [`Function::derivative_reads_result`], else x
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnaryGradient {
    /// f
    pub function: Function,
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// |x|; its derivative at 0 is 0
    Abs,
    /// The inverse of the tangent, between -pi/2 and pi/2.
    Atan,
    /// The cosine of x in radians; engines compute it for |x| up to some thousands.
    Cos,
    /// x where x > 0, else alpha * (exp(x) - 1)
    Elu {
        /// Minus the limit at minus infinity.
        alpha: f32,
    },
    /// The error function.
    Erf,
    /// e to the power of x
    Exp,
    /// x times the share of a standard normal distribution below x
    Gelu,
    /// The approximation of [`Function::Gelu`] by tanh.
    GeluTanh,
    /// The natural logarithm.
    Log,
    /// x * tanh(log(1 + exp(x)))
    Mish,
    /// 1 / x
    Reciprocal,
    /// 1 / (1 + exp(-x))
    Sigmoid,
    /// x * sigmoid(x)
    Silu,
    /// The sine, as [`Function::Cos`].
    Sin,
    /// log(1 + exp(x))
    Softplus,
    /// The square root.
    Sqrt,
    /// The hyperbolic tangent.
    Tanh,
}

impl Function {
    /// Whether the derivative is cheaper from f(x) than from x: f(x) is then what the backward pass keeps.
    pub fn derivative_reads_result(self) -> bool {
        matches!(self, Function::Exp | Function::Reciprocal | Function::Sigmoid | Function::Sqrt | Function::Tanh)
    }

    /// Floating-point operations of f, about; those of the derivative are as many.
    fn operations(self) -> f64 {
        match self {
            Function::Abs | Function::Reciprocal | Function::Sqrt => 1.0,
            Function::Elu { .. } | Function::Exp | Function::Log | Function::Sigmoid => 20.0,
            Function::Atan | Function::Cos | Function::Sin => 25.0,
            Function::Erf | Function::Silu | Function::Tanh => 25.0,
            Function::Gelu | Function::GeluTanh | Function::Mish => 30.0,
            Function::Softplus => 50.0,
        }
    }

    /// f(x)
    pub(crate) fn of(self, x: f64) -> f64 {
        match self {
            Function::Abs => x.abs(),
            Function::Atan => x.atan(),
            Function::Cos => x.cos(),
            Function::Sin => x.sin(),
            Function::Elu { alpha } => {
                if x > 0.0 {
                    x
                } else {
                    f64::from(alpha) * x.exp_m1()
                }
            }
            Function::Erf => erf(x),
            Function::Exp => x.exp(),
            Function::Gelu => x * normal_share(x),
            Function::GeluTanh => 0.5 * x * (1.0 + gelu_argument(x).tanh()),
            Function::Log => x.ln(),
            Function::Mish => x * softplus(x).tanh(),
            Function::Reciprocal => 1.0 / x,
            Function::Sigmoid => sigmoid(x),
            Function::Silu => x * sigmoid(x),
            Function::Softplus => softplus(x),
            Function::Sqrt => x.sqrt(),
            Function::Tanh => x.tanh(),
        }
    }

    /// f'(x), from what [`Function::derivative_reads_result`] says.
    pub(crate) fn derivative(self, v: f64) -> f64 {
        match self {
            Function::Abs if v == 0.0 => 0.0,
            Function::Abs => v.signum(),
            Function::Atan => 1.0 / (1.0 + v * v),
            Function::Cos => -v.sin(),
            Function::Sin => v.cos(),
            Function::Elu { alpha } => {
                if v > 0.0 {
                    1.0
                } else {
                    f64::from(alpha) * v.exp()
                }
            }
            Function::Erf => FRAC_2_SQRT_PI * (-v * v).exp(),
            Function::Exp => v,
            Function::Gelu => normal_share(v) + v * 0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * (-0.5 * v * v).exp(),
            Function::GeluTanh => {
                let tanh = gelu_argument(v).tanh();
                let slope = 0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * 2.0 * (1.0 + 3.0 * GELU_CUBE * v * v);
                0.5 * (1.0 + tanh) + 0.5 * v * (1.0 - tanh * tanh) * slope
            }
            Function::Log => 1.0 / v,
            Function::Mish => {
                let gate = softplus(v).tanh();
                gate + v * (1.0 - gate * gate) * sigmoid(v)
            }
            Function::Reciprocal => -v * v,
            Function::Sigmoid => v * (1.0 - v),
            Function::Silu => sigmoid(v) * (1.0 + v * (1.0 - sigmoid(v))),
            Function::Softplus => sigmoid(v),
            Function::Sqrt => 0.5 / v,
            Function::Tanh => 1.0 - v * v,
        }
    }
}

/// The cubic term of the argument that GELU's approximation gives tanh.
const GELU_CUBE: f64 = 0.044_715;

fn gelu_argument(x: f64) -> f64 {
    // sqrt(2 / pi)
    FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * (x + GELU_CUBE * x * x * x)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn normal_share(x: f64) -> f64 {
    0.5 * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// exp(-x^2) times a series of positive terms: nothing cancels.
fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while (term / sum).abs() > 1e-17 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

impl Operator for Unary {
    fn name(&self) -> &'static str {
        "unary"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![unary(self.name(), inputs)?.clone()])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let kept = if self.function.derivative_reads_result() { builder.outputs()[0] } else { builder.input(0) };
        let op = UnaryGradient { function: self.function };
        Ok(vec![gradients[0].map(|dy| builder.add(op, &[dy, kept])[0])])
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(self.function.operations(), outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![inputs[0].map(|x| self.function.of(x))]
    }
}

impl Operator for UnaryGradient {
    fn name(&self) -> &'static str {
        "unary_gradient"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let [dy, kept] = inputs else { return Err(operand_count(self.name(), "(dy, x or y)", inputs)) };
        expect(self.name(), "dy", dy, kept)?;
        Ok(vec![(*dy).clone()])
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient::second_order(self.name()))
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(self.function.operations() + 2.0, outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![inputs[0].zip(inputs[1], |dy, v| dy * self.function.derivative(v))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_known() {
        let known = [
            (Function::Erf, 0.5, 0.520_499_877_813_046_5),
            (Function::Erf, -2.5, -0.999_593_047_982_555),
            (Function::Gelu, 1.0, 0.841_344_746_068_542_9),
            (Function::GeluTanh, 1.0, 0.841_191_990_608_276),
            (Function::Mish, 1.0, 0.865_098_388_267_310_3),
            (Function::Silu, -1.0, -0.268_941_421_369_995_1),
            (Function::Softplus, 800.0, 800.0),
            (Function::Elu { alpha: 2.0 }, -1.0, -1.264_241_117_657_115_3),
        ];
        for (function, x, wanted) in known {
            assert!((function.of(x) - wanted).abs() < 1e-14 * wanted.abs().max(1.0), "{function:?} of {x}: {}", function.of(x));
        }
        assert_eq!((erf(0.0), erf(7.0), erf(-9.0)), (0.0, 1.0, -1.0));
    }

    #[test]
    fn spelled_by_name() {
        let op = Unary { function: Function::GeluTanh };
        assert_eq!(serde_json::to_string(&op).unwrap(), r#"{"function":"gelu_tanh"}"#);
        let shape = Shape::batched(&[3]);
        assert!(op.infer(&[&shape, &shape]).is_err());
        assert!(UnaryGradient { function: Function::Exp }.infer(&[&shape, &Shape::batched(&[4])]).is_err());
    }
}
