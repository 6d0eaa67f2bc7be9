//! Update rules, as the host sees them: which rule, its hyper-parameters, and the learning rate over a run. The arithmetic is in
//! [`crate::tile`].

pub mod schedule;

pub use schedule::{LearningRate, Schedule};

use serde::{Deserialize, Serialize};

/// An update rule, with PyTorch's meaning. In JSON and TOML: `kind` is `sgd`, `adam`, `adamw` or `adagrad`; what is left out has its default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Optimizer {
    /// Gradient descent.
    Sgd {
        /// Share of the velocity that lives on; 0 keeps none.
        #[serde(default)]
        momentum: f64,
        /// Nesterov's look-ahead.
        #[serde(default)]
        nesterov: bool,
    },
    /// Adam; weight decay is part of the gradient.
    Adam {
        /// Decay of the first and second moment.
        #[serde(default = "default_betas")]
        betas: [f64; 2],
        /// Added to the root of the second moment.
        #[serde(default = "default_eps")]
        eps: f64,
    },
    /// Adam with decoupled weight decay.
    AdamW {
        /// Decay of the first and second moment.
        #[serde(default = "default_betas")]
        betas: [f64; 2],
        /// Added to the root of the second moment.
        #[serde(default = "default_eps")]
        eps: f64,
    },
    /// Adagrad: steps shrink with the sum of all squared gradients; weight decay is part of the gradient.
    Adagrad {
        /// Added to the root of the sum.
        #[serde(default = "default_eps")]
        eps: f64,
    },
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_eps() -> f64 {
    1e-8
}

impl Default for Optimizer {
    fn default() -> Self {
        Optimizer::Sgd { momentum: 0.9, nesterov: false }
    }
}

impl Optimizer {
    /// Tensors of optimiser state a parameter: 0, 1 or 2.
    pub fn moments(&self) -> usize {
        match self {
            Optimizer::Sgd { momentum, .. } if *momentum == 0.0 => 0,
            Optimizer::Sgd { .. } | Optimizer::Adagrad { .. } => 1,
            Optimizer::Adam { .. } | Optimizer::AdamW { .. } => 2,
        }
    }

    /// Whether the first tensor of state follows the gradient, so that it says where the weight is going.
    pub fn has_direction(&self) -> bool {
        !matches!(self, Optimizer::Adagrad { .. })
    }

    /// The learning rate where none is given: 0.1 for gradient descent, 1e-2 for Adagrad, 1e-3 for Adam.
    pub fn default_learning_rate(&self) -> f64 {
        match self {
            Optimizer::Sgd { .. } => 0.1,
            Optimizer::Adagrad { .. } => 1e-2,
            Optimizer::Adam { .. } | Optimizer::AdamW { .. } => 1e-3,
        }
    }

    /// Checks the hyper-parameters.
    ///
    /// # Errors
    /// One out of its range; the message names it and the range.
    pub fn validate(&self) -> Result<(), OptimizerError> {
        let above = |eps: f64| eps > 0.0 && eps.is_finite();
        let check = |key, value: f64, valid: bool, range| if valid { Ok(()) } else { Err(OptimizerError { key, value, range }) };
        match *self {
            Optimizer::Sgd { momentum, nesterov } => {
                check("momentum", momentum, (0.0..1.0).contains(&momentum), "at least 0 and below 1")?;
                check("momentum", momentum, !nesterov || momentum > 0.0, "above 0 where nesterov is on, 0.9 say")
            }
            Optimizer::Adam { betas, eps } | Optimizer::AdamW { betas, eps } => {
                for beta in betas {
                    check("betas", beta, (0.0..1.0).contains(&beta), "at least 0 and below 1")?;
                }
                check("eps", eps, above(eps), "above 0, 1e-8 say")
            }
            Optimizer::Adagrad { eps } => check("eps", eps, above(eps), "above 0, 1e-8 say"),
        }
    }
}

/// A hyper-parameter out of its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{key} = {value}: must be {range}")]
pub struct OptimizerError {
    /// The key.
    pub key: &'static str,
    /// What was given.
    pub value: f64,
    /// What is valid.
    pub range: &'static str,
}

/// Layout of [`crate::manifest::Io::hyper`], `f32[Hyper::LEN]`: what update tiles read.
#[derive(Clone, Copy, Debug)]
pub struct Hyper;

impl Hyper {
    /// Learning rate of the step.
    pub const LEARNING_RATE: usize = 0;
    /// Weight decay.
    pub const WEIGHT_DECAY: usize = 1;
    /// Momentum of gradient descent.
    pub const MOMENTUM: usize = 2;
    /// Decay of Adam's first moment.
    pub const BETA1: usize = 3;
    /// Decay of Adam's second moment.
    pub const BETA2: usize = 4;
    /// Added to the root of Adam's second moment, or of Adagrad's sum.
    pub const EPSILON: usize = 5;
    /// 1 - beta1^t.
    pub const BIAS_CORRECTION1: usize = 6;
    /// 1 - beta2^t.
    pub const BIAS_CORRECTION2: usize = 7;
    /// Norm that the whole gradient is clipped to; infinite where it is not.
    pub const MAX_NORM: usize = 8;
    /// What gradients are multiplied with before anything else: 1, until the program clips.
    pub const GRADIENT_SCALE: usize = 9;
    /// Elements.
    pub const LEN: usize = 10;

    /// Fills `hyper` (at least [`Hyper::LEN`] floats) for step `step`, the first being 1. Computed in f64, then rounded.
    pub fn write(hyper: &mut [f32], optimizer: &Optimizer, learning_rate: f64, weight_decay: f64, max_norm: Option<f64>, step: u64) {
        let (momentum, betas, eps) = match *optimizer {
            Optimizer::Sgd { momentum, .. } => (momentum, [0.0; 2], 0.0),
            Optimizer::Adam { betas, eps } | Optimizer::AdamW { betas, eps } => (0.0, betas, eps),
            Optimizer::Adagrad { eps } => (0.0, [0.0; 2], eps),
        };
        hyper[Self::LEARNING_RATE] = learning_rate as f32;
        hyper[Self::WEIGHT_DECAY] = weight_decay as f32;
        hyper[Self::MOMENTUM] = momentum as f32;
        hyper[Self::BETA1] = betas[0] as f32;
        hyper[Self::BETA2] = betas[1] as f32;
        hyper[Self::EPSILON] = eps as f32;
        hyper[Self::BIAS_CORRECTION1] = (1.0 - power(betas[0], step)) as f32;
        hyper[Self::BIAS_CORRECTION2] = (1.0 - power(betas[1], step)) as f32;
        hyper[Self::MAX_NORM] = max_norm.unwrap_or(f64::INFINITY) as f32;
        hyper[Self::GRADIENT_SCALE] = 1.0;
    }
}

/// base^exponent by squaring: the same bits on every platform, which the C library's pow does not promise.
fn power(base: f64, exponent: u64) -> f64 {
    let (mut result, mut square, mut rest) = (1.0, base, exponent);
    while rest > 0 {
        if rest & 1 == 1 {
            result *= square;
        }
        square *= square;
        rest >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_as_traces_write_it() {
        let parse = |text: &str| serde_json::from_str::<Optimizer>(text).expect(text);
        let sgd = parse(r#"{"kind": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0001, "nesterov": true}"#);
        assert_eq!(sgd, Optimizer::Sgd { momentum: 0.9, nesterov: true });
        assert_eq!(parse(r#"{"kind": "sgd"}"#).moments(), 0);
        let adamw = parse(r#"{"kind": "adamw", "betas": [0.8, 0.99]}"#);
        assert_eq!(adamw, Optimizer::AdamW { betas: [0.8, 0.99], eps: 1e-8 });
        assert_eq!(parse(&serde_json::to_string(&adamw).expect("serialises")), adamw);
        let adagrad = parse(r#"{"kind": "adagrad", "eps": 1e-10}"#);
        assert_eq!(adagrad, Optimizer::Adagrad { eps: 1e-10 });
        assert_eq!((sgd.moments(), adamw.moments(), adagrad.moments()), (1, 2, 1));
        assert!(adamw.has_direction() && !adagrad.has_direction());
        assert!(serde_json::from_str::<Optimizer>(r#"{"kind": "lion"}"#).is_err());
    }

    #[test]
    fn hyper_holds_every_term() {
        let mut hyper = [f32::NAN; Hyper::LEN];
        let adam = Optimizer::Adam { betas: [0.9, 0.999], eps: 1e-8 };
        Hyper::write(&mut hyper, &adam, 1e-3, 0.05, None, 3);
        assert_eq!(hyper, [1e-3, 0.05, 0.0, 0.9, 0.999, 1e-8, (1.0f64 - 0.729) as f32, 0.002_997_001, f32::INFINITY, 1.0]);
        Hyper::write(&mut hyper, &Optimizer::default(), 0.1, 0.0, Some(2.0), 1);
        assert_eq!(hyper, [0.1, 0.0, 0.9, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 1.0]);
    }

    #[test]
    fn power_agrees_with_the_library() {
        for (base, exponent) in [(0.9, 1), (0.999, 12_345), (0.5, 10), (0.0, 3), (0.7, 0)] {
            let expected = f64::powf(base, exponent as f64);
            assert!((power(base, exponent) - expected).abs() <= 1e-12 * expected, "{base}^{exponent}");
        }
    }

    #[test]
    fn ranges_are_checked_by_key() {
        let message = |optimizer: Optimizer| optimizer.validate().expect_err("out of range").to_string();
        assert!(message(Optimizer::Sgd { momentum: 1.0, nesterov: false }).starts_with("momentum = 1"));
        assert!(message(Optimizer::Sgd { momentum: 0.0, nesterov: true }).contains("nesterov"));
        assert!(message(Optimizer::Adam { betas: [0.9, 1.5], eps: 1e-8 }).starts_with("betas = 1.5"));
        assert!(message(Optimizer::AdamW { betas: [0.9, 0.999], eps: 0.0 }).starts_with("eps = 0"));
        assert!(message(Optimizer::Adagrad { eps: -1.0 }).starts_with("eps = -1"));
        assert_eq!(Optimizer::default().validate(), Ok(()));
    }
}
