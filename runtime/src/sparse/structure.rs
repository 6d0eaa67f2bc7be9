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
#[cfg(not(feature = "std"))]
use crate::float::Float as _;
use crate::manifest::{Patterns, Structure};
use crate::random::Stream;
use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;

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
#[derive(Clone, Copy, Debug, PartialEq)]
struct Lot<'b> {
    take: usize,
    clusters: &'b [Cluster],
}

/// What little things and alignment take of the memory of a choice.
const SLACK: usize = 1024;

/// What may grow in one layer, group by group.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Candidates<'b>(&'b [Lot<'b>]);

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
    fn patterns<'b>(&self, bump: &'b Bump) -> &'b [u16] {
        match self.library() {
            Some(library) => BumpVec::from_iter_in(library.iter(), bump).into_bump_slice(),
            None => &[0],
        }
    }

    /// Group and number of the clusters that `units` lie in, ascending, each once.
    fn places<'b>(&self, bump: &'b Bump, units: &[u32]) -> BumpVec<'b, (u32, u32)> {
        let mut places = BumpVec::with_capacity_in(units.len(), bump);
        places.extend(units.iter().map(|&unit| {
            let (group, number) = self.place(unit);
            (group as u32, number as u32)
        }));
        places.sort_unstable();
        places.dedup();
        places
    }

    /// The `keep` units that stay of `live`, ascending: the most important clusters, no more of a group than its share of `budget` while others
    /// have fewer. `scores` has one entry a live unit; a cluster's is the L2 norm of its units'. A kernel with more live cells than a pattern takes the pattern of
    /// most importance.
    pub fn keep_best<'b>(&self, bump: &'b Bump, live: &[u32], scores: &[f64], keep: usize, budget: usize) -> &'b [u32] {
        if self.structure == Structure::Free {
            return mask::keep_best(bump, live, scores, keep);
        }
        let squares = bump.alloc_slice_fill_copy(self.count(), f64::NAN);
        live.iter().zip(scores).for_each(|(&unit, score)| squares[unit as usize] = score * score);
        let (clusters, quota) = (self.live_clusters(bump, live, squares), budget / (self.cluster_units() * self.groups()).max(1));
        let mut ranked = BumpVec::with_capacity_in(clusters.len(), bump);
        for group in clusters.chunk_by_mut(|a, b| a.1.group == b.1.group) {
            group.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            ranked.extend(group.iter().enumerate().map(|(rank, &(score, cluster))| (rank >= quota, score, cluster)));
        }
        ranked.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
        ranked.truncate((keep as f64 / self.cluster_units() as f64).round().max(1.0) as usize);
        let mut kept = BumpVec::with_capacity_in(ranked.len() * self.cluster_units(), bump);
        kept.extend(ranked.iter().flat_map(|&(_, _, cluster)| self.members(cluster)).filter(|&unit| !squares[unit as usize].is_nan()));
        kept.sort_unstable();
        kept.into_bump_slice()
    }

    /// The clusters with live units, ascending, and the score of each; `squares` is not-a-number for dead units.
    fn live_clusters<'b>(&self, bump: &'b Bump, live: &[u32], squares: &[f64]) -> &'b mut [(f64, Cluster)] {
        let (places, patterns) = (self.places(bump, live), self.patterns(bump));
        let scored = |&(group, number): &(u32, u32)| {
            let clusters = patterns.iter().map(|&pattern| Cluster { group, number, pattern });
            // More live cells first: a kernel in a pattern stays in it.
            let score = |cluster: Cluster| {
                let of_live = self.members(cluster).map(|unit| squares[unit as usize]).filter(|square| !square.is_nan());
                let (cells, sum) = of_live.fold((0, 0.0), |(cells, sum), square| (cells + 1, sum + square));
                (cells, sum, cluster)
            };
            let best = clusters.map(score).max_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(b.2.cmp(&a.2)));
            best.map(|(_, sum, cluster)| (sum.sqrt(), cluster))
        };
        let mut clusters = BumpVec::with_capacity_in(places.len(), bump);
        clusters.extend(places.iter().filter_map(scored));
        clusters.into_bump_slice_mut()
    }

    /// Dead clusters that may grow so that `kept` becomes `grow_to` units: every group comes to its share of `budget` first, what is above is
    /// spread evenly.
    pub fn candidates<'b>(
        &self,
        bump: &'b Bump,
        kept: &[u32],
        grow_to: usize,
        budget: usize,
        growth: Growth,
        draws: &mut Stream,
    ) -> Candidates<'b> {
        let groups = self.groups();
        let (quota, total) = (budget / (self.cluster_units() * groups).max(1), grow_to / self.cluster_units());
        let places = self.places(bump, kept);
        let live = bump.alloc_slice_fill_copy(groups, 0usize);
        places.iter().for_each(|&(group, _)| live[group as usize] += 1);
        let targets = self.targets(bump, live, quota, total, draws);
        let mut numbers = &*bump.alloc_slice_fill_with(places.len(), |index| places[index].1);
        let (patterns, mut lots) = (self.patterns(bump), BumpVec::with_capacity_in(groups, bump));
        for (group, (&mut live, &target)) in live.iter_mut().zip(targets).enumerate() {
            let (alive, others) = numbers.split_at(live);
            numbers = others;
            let take = target - live;
            if take > 0 {
                lots.push(Lot { take, clusters: self.lot(bump, group as u32, alive, take, growth, patterns, draws) });
            }
        }
        Candidates(lots.into_bump_slice())
    }

    /// The dead clusters of `group` of which `take` grow; `alive` are the numbers of its live ones.
    fn lot<'b>(
        &self,
        bump: &'b Bump,
        group: u32,
        alive: &[u32],
        take: usize,
        growth: Growth,
        patterns: &[u16],
        draws: &mut Stream,
    ) -> &'b [Cluster] {
        let numbers = match growth {
            Growth::Gradient => mask::dead(bump, alive, self.group_size()),
            Growth::Random(times) => mask::grow(bump, alive, self.group_size(), take.saturating_mul(times), draws),
        };
        let cluster = |number: u32, pattern: u16| Cluster { group, number, pattern };
        match (growth, patterns) {
            (_, &[pattern]) => bump.alloc_slice_fill_with(numbers.len(), |index| cluster(numbers[index], pattern)),
            (Growth::Gradient, _) => {
                let each = patterns.len();
                bump.alloc_slice_fill_with(numbers.len() * each, |index| cluster(numbers[index / each], patterns[index % each]))
            }
            (Growth::Random(_), _) => {
                bump.alloc_slice_fill_with(numbers.len(), |index| cluster(numbers[index], patterns[draws.below(patterns.len())]))
            }
        }
    }

    /// Live clusters that each group is to have: `quota`, and of the `total` what is left evenly, the remainder at random.
    fn targets<'b>(&self, bump: &'b Bump, live: &[usize], quota: usize, total: usize, draws: &mut Stream) -> &'b [usize] {
        let (groups, size) = (live.len(), self.group_size());
        let targets = bump.alloc_slice_fill_with(groups, |group| live[group].max(quota).min(size));
        let mut left = total.saturating_sub(targets.iter().sum());
        // No more than the total, where groups lack more than that together.
        let mut over = targets.iter().sum::<usize>().saturating_sub(total);
        for (target, &live) in targets.iter_mut().zip(live).rev() {
            let less = over.min(*target - live);
            *target -= less;
            over -= less;
        }
        let mut open = BumpVec::with_capacity_in(groups, bump);
        while left > 0 {
            open.clear();
            open.extend((0..groups).filter(|&group| targets[group] < size));
            let each = left / open.len().max(1);
            match (open.is_empty(), each) {
                (true, _) => break,
                (false, 0) => {
                    let chosen = mask::grow(bump, &[], open.len(), left, draws);
                    chosen.iter().for_each(|&index| targets[open[index as usize]] += 1);
                    left = 0;
                }
                (false, each) => {
                    for &group in &open {
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
    pub fn units_of<'b>(&self, bump: &'b Bump, candidates: &Candidates<'_>) -> &'b [u32] {
        let clusters = candidates.0.iter().flat_map(|lot| lot.clusters);
        let mut units = BumpVec::with_capacity_in(clusters.clone().count() * self.cluster_units(), bump);
        units.extend(clusters.flat_map(|&cluster| self.members(cluster)));
        units.sort_unstable();
        units.dedup();
        units.into_bump_slice()
    }

    /// The units that grow, ascending: in each group those candidates of largest `gradient`, `[unit][element]` for all units; an empty one counts as zero.
    pub fn steepest<'b>(&self, bump: &'b Bump, candidates: &Candidates<'b>, gradient: &[f32]) -> &'b [u32] {
        let clusters: usize = candidates.0.iter().map(|lot| lot.take.min(lot.clusters.len())).sum();
        let mut units = BumpVec::with_capacity_in(clusters * self.cluster_units(), bump);
        for lot in candidates.0 {
            units.extend(self.steepest_of(bump, lot, gradient).iter().flat_map(|&cluster| self.members(cluster)));
        }
        units.sort_unstable();
        units.into_bump_slice()
    }

    fn steepest_of<'b>(&self, bump: &'b Bump, lot: &Lot<'b>, gradient: &[f32]) -> &'b [Cluster] {
        if lot.clusters.len() <= lot.take {
            return lot.clusters;
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
        let ranked = bump.alloc_slice_fill_with(lot.clusters.len(), |index| (norm(lot.clusters[index]), lot.clusters[index]));
        ranked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut chosen: BumpVec<'_, Cluster> = BumpVec::with_capacity_in(lot.take, bump);
        if self.library().is_none() {
            chosen.extend(ranked.iter().take(lot.take).map(|&(_, cluster)| cluster));
            return chosen.into_bump_slice();
        }
        // A kernel takes one of its patterns, the steepest.
        for &(_, cluster) in &*ranked {
            if chosen.len() < lot.take && chosen.iter().all(|other| other.number != cluster.number) {
                chosen.push(cluster);
            }
        }
        chosen.into_bump_slice()
    }

    /// Bytes that choosing what to drop and to grow takes at most, where `capacity` units live at most.
    pub(crate) fn choice_bytes(&self, capacity: usize, growth: Growth) -> usize {
        let (groups, clusters) = (self.groups(), self.groups() * self.group_size());
        let patterns = self.library().map_or(1, |library| library.iter().count());
        let candidates = match growth {
            Growth::Gradient => clusters * patterns,
            Growth::Random(times) => capacity.saturating_mul(times).min(clusters),
        };
        let (place, ranked) = (size_of::<(u32, u32)>(), size_of::<(f64, Cluster)>());
        // The mask, its scores, its ranks and what stays; places of what stays; what grows.
        let chosen = if self.structure == Structure::Free { 0 } else { place + ranked + size_of::<(bool, f64, Cluster)>() };
        let by_unit = 4 + 8 + chosen + 2 * 4 + place + 4 + size_of::<Cluster>() + 2 * 4;
        let by_candidate = 4 + size_of::<Cluster>() + ranked + 4;
        // Live clusters, targets, which are open, who gets the remainder; the lot and the ends of its parts.
        let by_group = 4 * 8 + 4 + size_of::<Lot<'_>>() + 8 * 8;
        let squares = if self.structure == Structure::Free { 0 } else { 8 * self.count() };
        squares + by_unit * (capacity + self.cluster_units()) + by_candidate * candidates + by_group * groups + clusters / 8 + SLACK
    }

    /// Whether `live` is a mask that the structure allows, with as many clusters in every group if `balanced`.
    pub fn allows(&self, live: &[u32], balanced: bool) -> bool {
        if self.structure == Structure::Free {
            return true;
        }
        let bump = &Bump::new();
        let squares = bump.alloc_slice_fill_copy(self.count(), f64::NAN);
        live.iter().for_each(|&unit| squares[unit as usize] = 1.0);
        let clusters = self.live_clusters(bump, live, squares);
        let mut units = BumpVec::from_iter_in(clusters.iter().flat_map(|&(_, cluster)| self.members(cluster)), bump);
        units.sort_unstable();
        let held = bump.alloc_slice_fill_copy(self.groups(), 0usize);
        clusters.iter().for_each(|(_, cluster)| held[cluster.group as usize] += 1);
        units == live && (!balanced || held.iter().all(|&count| count == held[0]))
    }
}

#[cfg(test)]
#[path = "structure_tests.rs"]
mod tests;
