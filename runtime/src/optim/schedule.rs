//! The learning rate over a run.

use crate::mutation::Progress;
use crate::prelude::*;
use serde::{Deserialize, Serialize};

/// How the rate falls once warm-up is over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine, from the base to the floor.
    #[default]
    Cosine,
    /// Multiplied by `gamma` at each milestone.
    Step {
        /// Epochs, ascending.
        milestones: Vec<f64>,
        /// The factor.
        gamma: f64,
    },
    /// The base, always.
    Constant,
}

/// A learning-rate schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LearningRate {
    /// The rate after warm-up.
    pub base: f64,
    /// How it falls.
    pub schedule: Schedule,
    /// What it never falls below.
    pub floor: f64,
    /// Epochs over which it first rises, linearly, to the base; 0 for none.
    pub warmup: f64,
    /// Whether it changes with every iteration; otherwise with every epoch.
    pub per_iteration: bool,
}

impl Default for LearningRate {
    fn default() -> Self {
        LearningRate { base: 0.1, schedule: Schedule::Cosine, floor: 0.0, warmup: 0.0, per_iteration: false }
    }
}

impl LearningRate {
    /// The rate at `progress`.
    ///
    /// Warm-up rises from `base / n` at the first of its n epochs (or iterations) to `base` at the last. A cosine then spans what is left
    /// of the run: `floor + (base - floor) (1 + cos(pi t / T)) / 2`, PyTorch's `CosineAnnealingLR` where there is no warm-up.
    pub fn at(&self, progress: &Progress) -> f64 {
        // Everything in steps: epochs, or iterations.
        let (step, steps, steps_per_epoch) = if self.per_iteration {
            (progress.iteration as f64, progress.iterations as f64, progress.iterations as f64 / progress.epochs.max(1) as f64)
        } else {
            (progress.epoch as f64, progress.epochs as f64, 1.0)
        };
        let warmup = self.warmup * steps_per_epoch;
        if step < warmup {
            return self.base * ((step + 1.0) / warmup).min(1.0);
        }
        let rate = match &self.schedule {
            Schedule::Constant => self.base,
            Schedule::Step { milestones, gamma } => {
                let passed = milestones.iter().filter(|&&milestone| step >= milestone * steps_per_epoch).count();
                self.base * gamma.powi(passed as i32)
            }
            Schedule::Cosine => {
                let share = (step - warmup) / (steps - warmup).max(1.0);
                self.floor + (self.base - self.floor) * 0.5 * (1.0 + (core::f64::consts::PI * share).cos())
            }
        };
        rate.max(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rate: &LearningRate, epoch: usize, iteration: usize) -> f64 {
        rate.at(&Progress { epoch, epochs: 160, iteration, iterations: 1600 })
    }

    #[test]
    fn cosine_matches_pytorch() {
        let rate = LearningRate { floor: 4e-8, ..LearningRate::default() };
        // torch.optim.lr_scheduler.CosineAnnealingLR(lr=0.1, T_max=160, eta_min=4e-8)
        for (epoch, expected) in [(0, 0.1), (40, 0.085_355_344_917_191_75), (80, 0.050_000_02), (159, 9.677_972_041_568_717e-6)] {
            let got = at(&rate, epoch, 0);
            assert!((got - expected).abs() < 1e-12, "epoch {epoch}: {got}");
        }
        assert_eq!(at(&rate, 40, 409), at(&rate, 40, 400), "by epoch");
        let smooth = LearningRate { per_iteration: true, ..rate };
        assert!(at(&smooth, 40, 409) < at(&smooth, 40, 400));
        assert_eq!(at(&smooth, 40, 400), at(&LearningRate { per_iteration: false, ..smooth.clone() }, 40, 400));
    }

    #[test]
    fn milestones_and_warmup() {
        let schedule = Schedule::Step { milestones: vec![80.0, 120.0], gamma: 0.1 };
        let rate = LearningRate { base: 1.0, schedule, warmup: 4.0, floor: 0.05, ..LearningRate::default() };
        let rates: Vec<f64> = [0, 1, 3, 4, 79, 80, 120].map(|epoch| at(&rate, epoch, 0)).to_vec();
        assert_eq!(rates, [0.25, 0.5, 1.0, 1.0, 1.0, 0.1, 0.05]);
        let smooth = LearningRate { per_iteration: true, ..rate };
        assert_eq!([at(&smooth, 0, 0), at(&smooth, 3, 39), at(&smooth, 79, 799), at(&smooth, 80, 800)], [0.025, 1.0, 1.0, 0.1]);
    }

    #[test]
    fn cosine_spans_what_warmup_leaves() {
        let rate = LearningRate { warmup: 10.0, ..LearningRate::default() };
        assert_eq!(at(&rate, 9, 0), 0.1);
        assert_eq!(at(&rate, 10, 0), 0.1);
        assert!((at(&rate, 85, 0) - 0.05).abs() < 1e-12);
        let constant = LearningRate { schedule: Schedule::Constant, ..LearningRate::default() };
        assert_eq!(at(&constant, 159, 1599), 0.1);
    }

    #[test]
    fn serde_round_trips() {
        let rate = LearningRate { schedule: Schedule::Step { milestones: vec![3.0], gamma: 0.5 }, ..LearningRate::default() };
        let text = serde_json::to_string(&rate).expect("serialises");
        assert_eq!(serde_json::from_str::<LearningRate>(&text).expect("parses"), rate);
        assert_eq!(serde_json::from_str::<LearningRate>("{}").expect("parses"), LearningRate::default());
    }
}
