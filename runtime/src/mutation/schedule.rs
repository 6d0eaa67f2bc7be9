//! When masks mutate, and how strongly: a period, stages, and what each stage drops and grows to.

use super::Progress;
use crate::prelude::*;
use core::fmt;
use serde::{Deserialize, Serialize};

/// A length or a moment of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Span {
    /// Epochs.
    Epochs(u64),
    /// Iterations.
    Iterations(u64),
    /// A share of the run, between 0 and 1.
    Share(f64),
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Span::Epochs(epochs) => write!(f, "{epochs}ep"),
            Span::Iterations(iterations) => write!(f, "{iterations}it"),
            Span::Share(share) => write!(f, "{share:?}"),
        }
    }
}

/// How drop share and excess density go down from the first stage to the last, where they are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Stage by stage, as MEST.
    #[default]
    Step,
    /// Along half a cosine, from the first stage's value.
    Cosine,
    /// Along a logistic curve, from the first stage's value.
    Sigmoid,
}

/// Steepness of the logistic curve: it spans -5 to 5.
const SIGMOID_REACH: f64 = 5.0;

impl Decay {
    /// The factor that is left after the share `x` of the way to the last stage: 1 at 0, 0 from 1 on. Not for [`Decay::Step`], which
    /// reads each stage's own value.
    fn left(self, x: f64) -> f64 {
        if x >= 1.0 {
            return 0.0;
        }
        match self {
            Decay::Step => 1.0,
            Decay::Cosine => 0.5 * (1.0 + (core::f64::consts::PI * x).cos()),
            Decay::Sigmoid => {
                let logistic = |x: f64| 1.0 / (1.0 + (SIGMOID_REACH * (2.0 * x - 1.0)).exp());
                (logistic(x) - logistic(1.0)) / (logistic(0.0) - logistic(1.0))
            }
        }
    }
}

/// How strongly one event acts on one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Intensity {
    /// Share of the live weights to drop.
    pub drop: f64,
    /// Density to grow to.
    pub grown: f64,
}

/// Between events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// Epochs: events come when they begin.
    Epochs(usize),
    /// Iterations: events come before them.
    Iterations(usize),
}

impl Period {
    /// What it counts, at `progress`.
    pub fn count(self, progress: &Progress) -> usize {
        match self {
            Period::Epochs(_) => progress.epoch,
            Period::Iterations(_) => progress.iteration,
        }
    }

    /// How long it is, in what it counts; at least 1.
    pub fn length(self) -> usize {
        match self {
            Period::Epochs(length) | Period::Iterations(length) => length.max(1),
        }
    }

    /// The last event at or before `progress`, with the iterations of an epoch taken as equal.
    pub fn last_event(self, progress: &Progress) -> Progress {
        let count = self.count(progress) / self.length() * self.length();
        match self {
            Period::Epochs(_) => Progress { epoch: count, iteration: count * progress.iterations / progress.epochs.max(1), ..*progress },
            Period::Iterations(_) => {
                Progress { epoch: count * progress.epochs / progress.iterations.max(1), iteration: count, ..*progress }
            }
        }
    }
}

/// A schedule whose defaults are resolved for one length of run.
#[derive(Clone, Debug, PartialEq)]
pub struct MutationSchedule {
    /// Between events; the first comes before the first step.
    pub period: Period,
    /// When each stage after the first begins, ascending.
    pub stages: Vec<Span>,
    /// Share of live weights to drop, one a stage.
    pub drop: Vec<f64>,
    /// Density to grow to, one a stage, the last being the budget; `None` for budget + min(0.05, budget) in the first stage, falling
    /// evenly to the budget in the last.
    pub grow_to: Option<Vec<f64>>,
    /// How values go down from stage to stage.
    pub decay: Decay,
}

/// Excess density of the first stage, unless given.
const DEFAULT_EXCESS: f64 = 0.05;

impl MutationSchedule {
    /// How far `moment` lies in what the period counts: (count, moment), both in one unit.
    fn compare(&self, progress: &Progress, moment: Span) -> (f64, f64) {
        match (moment, self.period) {
            (Span::Epochs(epoch), _) => (progress.epoch as f64, epoch as f64),
            (Span::Iterations(iteration), _) => (progress.iteration as f64, iteration as f64),
            (Span::Share(share), Period::Epochs(_)) => (progress.epoch as f64, share * progress.epochs as f64),
            (Span::Share(share), Period::Iterations(_)) => (progress.iteration as f64, share * progress.iterations as f64),
        }
    }

    /// The stage at `progress`, from 0.
    pub fn stage(&self, progress: &Progress) -> usize {
        // 0.7 of 10 epochs is epoch 7, whatever its last bit.
        let begun = |&&moment: &&Span| {
            let (now, begins) = self.compare(progress, moment);
            now >= begins - 1e-9
        };
        self.stages.iter().filter(begun).count()
    }

    /// The way from the run's beginning to the last stage, as a share.
    fn way(&self, progress: &Progress) -> f64 {
        match self.stages.last() {
            Some(_) if self.stage(progress) == self.stages.len() => 1.0,
            Some(&last) => {
                let (now, begins) = self.compare(progress, last);
                now / begins
            }
            None => 1.0,
        }
    }

    /// How strongly an event at `progress` acts on a layer of budgeted density `budget`.
    pub fn intensity(&self, budget: f64, progress: &Progress) -> Intensity {
        let last = self.stages.len();
        let (stage, left) = match self.decay {
            Decay::Step => (self.stage(progress), 1.0),
            smooth => (0, smooth.left(self.way(progress))),
        };
        Intensity { drop: self.drop[stage.min(last)] * left, grown: budget + self.excess(budget, stage.min(last)) * left }
    }

    /// Density that stage `stage` grows to above `budget`.
    fn excess(&self, budget: f64, stage: usize) -> f64 {
        let last = self.stages.len();
        let excess = match &self.grow_to {
            // The list is written for the model's density; a layer with one of its own grows in proportion.
            Some(grow_to) if grow_to[last] == budget => grow_to[stage] - budget,
            Some(grow_to) => (grow_to[stage] - grow_to[last]) * budget / grow_to[last],
            None => DEFAULT_EXCESS.min(budget) * falling(stage, last),
        };
        excess.min(1.0 - budget)
    }

    /// Density that a layer of budgeted density `budget` grows to at the beginning of each stage, in a run of `epochs` epochs and
    /// `iterations` iterations.
    pub fn grown_by_stage(&self, budget: f64, epochs: usize, iterations: usize) -> Vec<f64> {
        let share = |moment: Span| match moment {
            Span::Epochs(epoch) => epoch as f64 / epochs.max(1) as f64,
            Span::Iterations(iteration) => iteration as f64 / iterations.max(1) as f64,
            Span::Share(share) => share,
        };
        let at = |share: f64| {
            let of = |count: usize| (share * count as f64 - 1e-9).ceil() as usize;
            Progress { epoch: of(epochs), epochs, iteration: of(iterations), iterations }
        };
        let begins = core::iter::once(0.0).chain(self.stages.iter().map(|&moment| share(moment)));
        begins.map(|share| self.intensity(budget, &at(share)).grown).collect()
    }

    /// Largest density that any stage grows to, for a layer of budgeted density `budget`.
    pub fn peak(&self, budget: f64) -> f64 {
        (0..=self.stages.len()).map(|stage| budget + self.excess(budget, stage)).fold(budget, f64::max)
    }
}

/// 1 in the first stage, evenly down to 0 in the last.
pub(super) fn falling(stage: usize, last: usize) -> f64 {
    if last == 0 { 0.0 } else { (last - stage) as f64 / last as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smooth_decays_fall_from_one_to_nothing() {
        for decay in [Decay::Cosine, Decay::Sigmoid] {
            let curve: Vec<f64> = (0..=20).map(|i| decay.left(f64::from(i) / 20.0)).collect();
            assert_eq!((curve[0], curve[20]), (1.0, 0.0));
            assert!(curve.windows(2).all(|pair| pair[0] > pair[1]), "{decay:?}");
            assert!((curve[10] - 0.5).abs() < 1e-12, "{decay:?}");
            assert_eq!(decay.left(1.5), 0.0);
        }
        assert!(Decay::Sigmoid.left(0.25) > Decay::Cosine.left(0.25));
    }

    #[test]
    fn densities_by_stage_fall_to_the_budget() {
        for (stages, every) in [([Span::Share(9.0 / 16.0), Span::Share(0.75)], 5), ([Span::Epochs(90), Span::Iterations(1200)], 1)] {
            let grow_to = Some(vec![0.15, 0.125, 0.1]);
            let schedule = |decay| MutationSchedule {
                period: Period::Epochs(every),
                stages: stages.to_vec(),
                drop: vec![0.0; 3],
                grow_to: grow_to.clone(),
                decay,
            };
            assert_eq!(schedule(Decay::Step).grown_by_stage(0.1, 160, 1600), [0.15, 0.125, 0.1]);
            let smooth = schedule(Decay::Cosine).grown_by_stage(0.1, 160, 1600);
            assert!(smooth[0] == 0.15 && smooth[1] < 0.125 && smooth[2] == 0.1, "{smooth:?}");
        }
    }

    #[test]
    fn the_last_event_before_a_moment() {
        let progress = Progress { epoch: 13, epochs: 20, iteration: 137, iterations: 200 };
        let expected = Progress { epoch: 10, iteration: 100, ..progress };
        assert_eq!(Period::Epochs(5).last_event(&progress), expected);
        assert_eq!(Period::Iterations(50).last_event(&progress), expected);
    }
}
