//! Choosing units where not every set of them may live: clusters instead of units, a quota for each group of clusters.
//!
//! | structure | cluster | group |
//! |---|---|---|
//! | free | a unit | all |
//! | spans (N:M) | a unit | M consecutive blocks of input channels at one output block and kernel position |
//! | fan-in | a unit | an output block |
//! | patterns | the cells of a kernel's pattern | an output |
//! | inputs, outputs | an input channel, an output | a group of the convolution |
//!
//! At the budget every group has as many live clusters as the next, its quota. Dropping keeps no more of a group than its quota while there
//! are others; growing fills every group to its quota first, and spreads what a soft bound allows above it evenly.

use super::mask::{self, Units};
use crate::manifest::{Patterns, Structure};
use crate::prelude::*;
use crate::random::Stream;

/// How dead clusters are chosen to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// Of this many times as many as grow, drawn at random, those of largest gradient; 1 asks for no gradient.
    Random(usize),
    /// Those of largest gradient of all.
    Gradient,
}

impl Growth {
    /// Whether it reads gradients of dead units.
    pub fn reads_gradients(self) -> bool {
        self != Growth::Random(1)
    }
}

/// A cluster: its group, its number there and, where it may have one of several patterns, which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cluster {
    group: u32,
    number: u32,
    /// Live cells; 0 stands for all.
    pattern: u16,
}

/// Dead clusters of one group, of which `take` are to grow.
#[derive(Clone, Debug, PartialEq)]
struct Lot {
    take: usize,
    clusters: Vec<Cluster>,
}

/// What may grow in one layer, group by group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidates(Vec<Lot>);

impl Patterns {
    /// The patterns of a library, none of them empty.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().copied().take_while(|&pattern| pattern != 0)
    }

    /// Live cells of each.
    pub fn cells(&self) -> usize {
        self.0[0].count_ones() as usize
    }
}

impl Units {
    /// Groups of clusters.
    fn groups(&self) -> usize {
        match self.structure {
            Structure::Free => 1,
            Structure::Spans { length } => self.count() / length.max(1),
            Structure::FanIn | Structure::Patterns(_) => self.output_blocks(),
            Structure::Inputs | Structure::Outputs => self.matrix.groups,
        }
    }

    /// Clusters of a group.
    fn group_size(&self) -> usize {
        match self.structure {
            Structure::Free => self.count(),
            Structure::Spans { length } => length,
            Structure::FanIn => self.input_blocks() * self.kernel_positions(),
            Structure::Patterns(_) | Structure::Inputs => self.input_blocks(),
            Structure::Outputs => self.output_blocks() / self.matrix.groups,
        }
    }

    /// The library that this weight's kernels are of, if they have patterns.
    fn library(&self) -> Option<Patterns> {
        match self.structure {
            Structure::Patterns(patterns) if self.matrix.kernel_rows == 3 && self.matrix.kernel_width == 3 => Some(patterns),
            _ => None,
        }
    }

    /// Units of a live cluster.
    pub fn cluster_units(&self) -> usize {
        match self.structure {
            Structure::Free | Structure::Spans { .. } | Structure::FanIn => 1,
            Structure::Patterns(_) => self.library().map_or(self.kernel_positions(), |library| library.cells()),
            Structure::Inputs => self.output_blocks() / self.matrix.groups * self.kernel_positions(),
            Structure::Outputs => self.input_blocks() * self.kernel_positions(),
        }
    }

    /// Live clusters of each group at density `density`: at least one, at most all.
    fn quota(&self, density: f64) -> usize {
        let wanted = density * self.weights() as f64 / (self.elements() * self.groups() * self.cluster_units()).max(1) as f64;
        (wanted.round() as usize).clamp(1, self.group_size().max(1))
    }

    /// Live units at budgeted density `density`: as many clusters in each group, to the nearest; at least one, at most all. Where any set of
    /// units may live: `density` times the weights, to the nearest unit.
    pub fn budget(&self, density: f64) -> usize {
        self.quota(density) * self.groups() * self.cluster_units()
    }

    /// Live units at density `density` where groups need not be alike, as above a soft bound: to the nearest cluster. All units at density 1.
    pub fn grown(&self, density: f64) -> usize {
        if density >= 1.0 {
            return self.count();
        }
        let clusters = (density * self.weights() as f64 / (self.elements() * self.cluster_units()) as f64).round() as usize;
        clusters.clamp(1, self.groups() * self.group_size()) * self.cluster_units()
    }

    /// The largest density below 1 that the structure allows: patterns leave cells of every kernel dead.
    pub fn largest_density(&self) -> f64 {
        self.budget(1.0) as f64 / self.count().max(1) as f64
    }

    /// Group and number of the cluster that `unit` is in.
    fn place(&self, unit: u32) -> (usize, usize) {
        let position = self.position(unit);
        let in_group = |blocks: usize| position.output_block % (blocks / self.matrix.groups);
        match self.structure {
            Structure::Free => (0, unit as usize),
            Structure::Spans { length } => {
                let spans = self.input_blocks() / length;
                let span = position.output_block * spans + position.input_block / length;
                (span * self.kernel_positions() + position.kernel, position.input_block % length)
            }
            Structure::FanIn => (position.output_block, position.input_block * self.kernel_positions() + position.kernel),
            Structure::Patterns(_) => (position.output_block, position.input_block),
            Structure::Inputs => (self.group(position.output_block), position.input_block),
            Structure::Outputs => (self.group(position.output_block), in_group(self.output_blocks())),
        }
    }

    /// The units of a cluster, ascending.
    fn members(&self, cluster: Cluster) -> impl Iterator<Item = u32> + use<> {
        let (inputs, kernel) = (self.input_blocks(), self.kernel_positions());
        let (group, number) = (cluster.group as usize, cluster.number as usize);
        let blocks = self.output_blocks() / self.matrix.groups;
        // First unit, units in a row, rows, units between rows.
        let (first, run, rows, stride) = match self.structure {
            Structure::Free => (number, 1, 1, 0),
            Structure::Spans { length } => {
                let spans = inputs / length;
                let (span, position) = (group / kernel, group % kernel);
                let input = span % spans * length + number;
                ((span / spans * inputs + input) * kernel + position, 1, 1, 0)
            }
            Structure::FanIn => (group * inputs * kernel + number, 1, 1, 0),
            Structure::Patterns(_) => ((group * inputs + number) * kernel, kernel, 1, 0),
            Structure::Inputs => ((group * blocks * inputs + number) * kernel, kernel, blocks, inputs * kernel),
            Structure::Outputs => ((group * blocks + number) * inputs * kernel, inputs * kernel, 1, 0),
        };
        let whole = (0..rows).flat_map(move |row| (0..run).map(move |unit| (row * stride, unit)));
        let lives = move |&(_, unit): &(usize, usize)| cluster.pattern == 0 || cluster.pattern >> unit & 1 == 1;
        whole.filter(lives).map(move |(row, unit)| (first + row + unit) as u32)
    }

    /// Every pattern that a cluster may have.
    fn patterns(&self) -> Vec<u16> {
        self.library().map_or_else(|| vec![0], |library| library.iter().collect())
    }

    /// The `keep` units that stay of `live`, ascending: the most important clusters, no more of a group than its share of `budget` while others
    /// have fewer. `scores` has one entry a live unit; a cluster's is the L2 norm of its units'. A kernel with more live cells than a pattern takes the pattern of
    /// most importance.
    pub fn keep_best(&self, live: &[u32], scores: &[f64], keep: usize, budget: usize) -> Vec<u32> {
        if self.structure == Structure::Free {
            return mask::keep_best(live, scores, keep);
        }
        let mut squares = vec![f64::NAN; self.count()];
        live.iter().zip(scores).for_each(|(&unit, score)| squares[unit as usize] = score * score);
        let (clusters, quota) = (self.live_clusters(live, &squares), budget / (self.cluster_units() * self.groups()).max(1));
        let mut ranked: Vec<(bool, f64, Cluster)> = Vec::with_capacity(clusters.len());
        for group in clusters.chunk_by(|a, b| a.1.group == b.1.group) {
            let mut group = group.to_vec();
            group.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            ranked.extend(group.into_iter().enumerate().map(|(rank, (score, cluster))| (rank >= quota, score, cluster)));
        }
        ranked.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
        ranked.truncate((keep as f64 / self.cluster_units() as f64).round().max(1.0) as usize);
        let mut kept: Vec<u32> =
            ranked.into_iter().flat_map(|(_, _, cluster)| self.members(cluster)).filter(|&unit| !squares[unit as usize].is_nan()).collect();
        kept.sort_unstable();
        kept
    }

    /// The clusters with live units, ascending, and the score of each; `squares` is not-a-number for dead units.
    fn live_clusters(&self, live: &[u32], squares: &[f64]) -> Vec<(f64, Cluster)> {
        let mut places: Vec<(usize, usize)> = live.iter().map(|&unit| self.place(unit)).collect();
        places.sort_unstable();
        places.dedup();
        let patterns = self.patterns();
        let scored = |(group, number): (usize, usize)| {
            let clusters = patterns.iter().map(|&pattern| Cluster { group: group as u32, number: number as u32, pattern });
            // More live cells first: a kernel in a pattern stays in it.
            let score = |cluster: Cluster| {
                let of_live = self.members(cluster).map(|unit| squares[unit as usize]).filter(|square| !square.is_nan());
                let (cells, sum) = of_live.fold((0, 0.0), |(cells, sum), square| (cells + 1, sum + square));
                (cells, sum, cluster)
            };
            let best = clusters.map(score).max_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(b.2.cmp(&a.2)));
            best.map(|(_, sum, cluster)| (sum.sqrt(), cluster))
        };
        places.into_iter().filter_map(scored).collect()
    }

    /// Dead clusters that may grow so that `kept` becomes `grow_to` units: every group comes to its share of `budget` first, what is above is
    /// spread evenly.
    pub fn candidates(&self, kept: &[u32], grow_to: usize, budget: usize, growth: Growth, draws: &mut Stream) -> Candidates {
        let (groups, size) = (self.groups(), self.group_size());
        let mut places: Vec<(usize, usize)> = kept.iter().map(|&unit| self.place(unit)).collect();
        places.sort_unstable();
        places.dedup();
        let (patterns, quota) = (self.patterns(), budget / (self.cluster_units() * groups).max(1));
        let total = grow_to / self.cluster_units();
        let mut live: Vec<Vec<u32>> = vec![vec![]; groups];
        places.into_iter().for_each(|(group, number)| live[group].push(number as u32));
        let targets = self.targets(&live.iter().map(Vec::len).collect::<Vec<_>>(), quota, total, draws);
        let lot = |(group, (live, target)): (usize, (Vec<u32>, usize))| {
            let take = target - live.len();
            let numbers = match growth {
                Growth::Gradient => mask::dead(&live, size),
                Growth::Random(times) => mask::grow(&live, size, take.saturating_mul(times), draws),
            };
            let cluster = |number: u32, pattern: u16| Cluster { group: group as u32, number, pattern };
            let clusters = match (growth, patterns.as_slice()) {
                (_, &[pattern]) => numbers.into_iter().map(|number| cluster(number, pattern)).collect(),
                (Growth::Gradient, _) => {
                    numbers.iter().flat_map(|&number| patterns.iter().map(move |&pattern| cluster(number, pattern))).collect()
                }
                (Growth::Random(_), _) => {
                    numbers.into_iter().map(|number| cluster(number, patterns[draws.below(patterns.len())])).collect()
                }
            };
            Lot { take, clusters }
        };
        Candidates(live.into_iter().zip(targets).enumerate().map(lot).filter(|lot| lot.take > 0).collect())
    }

    /// Live clusters that each group is to have: `quota`, and of the `total` what is left evenly, the remainder at random.
    fn targets(&self, live: &[usize], quota: usize, total: usize, draws: &mut Stream) -> Vec<usize> {
        let (groups, size) = (live.len(), self.group_size());
        let mut targets: Vec<usize> = live.iter().map(|&live| live.max(quota).min(size)).collect();
        let mut left = total.saturating_sub(targets.iter().sum());
        // No more than the total, where groups lack more than that together.
        let mut over = targets.iter().sum::<usize>().saturating_sub(total);
        for (target, &live) in targets.iter_mut().zip(live).rev() {
            let less = over.min(*target - live);
            *target -= less;
            over -= less;
        }
        while left > 0 {
            let open: Vec<usize> = (0..groups).filter(|&group| targets[group] < size).collect();
            let each = left / open.len().max(1);
            match (open.is_empty(), each) {
                (true, _) => break,
                (false, 0) => {
                    let chosen = mask::grow(&[], open.len(), left, draws);
                    chosen.into_iter().for_each(|index| targets[open[index as usize]] += 1);
                    left = 0;
                }
                (false, each) => {
                    for group in open {
                        let more = each.min(size - targets[group]);
                        targets[group] += more;
                        left -= more;
                    }
                }
            }
        }
        targets
    }

    /// Every unit of the candidates, ascending.
    pub fn units_of(&self, candidates: &Candidates) -> Vec<u32> {
        let clusters = candidates.0.iter().flat_map(|lot| &lot.clusters);
        let mut units: Vec<u32> = clusters.flat_map(|&cluster| self.members(cluster)).collect();
        units.sort_unstable();
        units.dedup();
        units
    }

    /// The units that grow, ascending: in each group those candidates of largest `gradient`, `[unit][element]` for all units; an empty one counts as zero.
    pub fn steepest(&self, candidates: &Candidates, gradient: &[f32]) -> Vec<u32> {
        let mut units: Vec<u32> =
            candidates.0.iter().flat_map(|lot| self.steepest_of(lot, gradient)).flat_map(|c| self.members(c)).collect();
        units.sort_unstable();
        units
    }

    fn steepest_of(&self, lot: &Lot, gradient: &[f32]) -> Vec<Cluster> {
        if lot.clusters.len() <= lot.take {
            return lot.clusters.clone();
        }
        let elements = self.elements();
        let square = |unit: u32| {
            let of_unit = gradient.get(unit as usize * elements..(unit as usize + 1) * elements).unwrap_or(&[]);
            of_unit.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>()
        };
        let norm = |cluster: Cluster| {
            let sum: f64 = self.members(cluster).map(square).sum();
            if sum.is_nan() { f64::INFINITY } else { sum }
        };
        let mut ranked: Vec<(f64, Cluster)> = lot.clusters.iter().map(|&cluster| (norm(cluster), cluster)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut chosen: Vec<Cluster> = Vec::with_capacity(lot.take);
        if self.patterns().len() == 1 {
            chosen.extend(ranked.into_iter().take(lot.take).map(|(_, cluster)| cluster));
            return chosen;
        }
        // A kernel takes one of its patterns, the steepest.
        for (_, cluster) in ranked {
            if chosen.len() < lot.take && chosen.iter().all(|other| other.number != cluster.number) {
                chosen.push(cluster);
            }
        }
        chosen
    }

    /// Whether `live` is a mask that the structure allows, with as many clusters in every group if `balanced`.
    pub fn allows(&self, live: &[u32], balanced: bool) -> bool {
        if self.structure == Structure::Free {
            return true;
        }
        let mut squares = vec![f64::NAN; self.count()];
        live.iter().for_each(|&unit| squares[unit as usize] = 1.0);
        let clusters = self.live_clusters(live, &squares);
        let mut units: Vec<u32> = clusters.iter().flat_map(|&(_, cluster)| self.members(cluster)).collect();
        units.sort_unstable();
        let mut held = vec![0usize; self.groups()];
        clusters.iter().for_each(|(_, cluster)| held[cluster.group as usize] += 1);
        units == live && (!balanced || held.iter().all(|&count| count == held[0]))
    }
}

#[cfg(test)]
#[path = "structure_tests.rs"]
mod tests;
