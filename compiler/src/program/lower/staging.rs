//! Staging: rows of a plane, copied into the worker's scratch with the padding that a convolution sees around them.

use super::kernel::{at, call, integer, start};
use crate::program::{Affine, Base, Operand, Statement};
use mest_runtime::tile::{StageNormalizeBackward, StageNormalized, StageRows, Tile};

/// Rows of a plane staged into scratch: what lies left and right of them, and how many fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staging {
    pub(super) left: usize,
    pub(super) right: usize,
    /// Width with padding.
    pub(super) pitch: usize,
}

impl Staging {
    /// Staging `width` columns so that `needed` columns from `left` before the first exist.
    pub(super) fn new(left: usize, width: usize, needed: usize) -> Self {
        let right = needed.saturating_sub(left + width);
        Staging { left, right, pitch: left + width + right }
    }

    /// Bands of at most as many rows as `bytes` hold, given that `n` rows of work need `rows(n)` staged rows of `row` elements.
    pub(super) fn band(total: usize, most: usize, row: usize, bytes: usize, rows: impl Fn(usize) -> usize) -> usize {
        let fits = |n: usize| rows(n) * row * 4 <= bytes;
        let largest = (1..=total.min(most).max(1)).rev().find(|&n| fits(n)).unwrap_or(1);
        total.max(1).div_ceil(total.max(1).div_ceil(largest))
    }
}

/// What is staged.
#[derive(Clone, Copy, Debug)]
pub(super) enum PlaneSource {
    /// A value, as it lies.
    Value(Base),
    /// The ReLU of a normalized value, computed while it is staged.
    Normalized {
        /// What is normalized.
        x: Base,
        /// Factor and shift of each channel.
        coefficients: [Base; 2],
    },
    /// The gradient through batch normalization, computed while it is staged: it never lies in the arena.
    NormalizeBackward {
        /// The gradient that comes in.
        gradient: Base,
        /// What was normalized.
        x: Base,
        /// The live mask.
        live: Base,
        /// Coefficients of each channel: factor, slope and offset.
        coefficients: [Base; 3],
    },
}

/// A band's input, staged row by row into the scratch.
pub(super) struct StagedPlane {
    pub(super) channels: usize,
    pub(super) width: usize,
    /// Rows that the plane has.
    pub(super) rows: usize,
    pub(super) staging: Staging,
    pub(super) lanes: usize,
    pub(super) source: PlaneSource,
    /// Elements between the groups of the source, by variable 0.
    pub(super) group: usize,
    /// Row of the plane that lies first in the scratch.
    pub(super) first_row: Affine,
}

impl StagedPlane {
    /// Elements of a staged row.
    pub(super) fn row(&self) -> usize {
        self.channels * self.staging.pitch * self.lanes
    }

    /// Stages `count` rows into the scratch from its row `slot` on, both moved by a loop's (variable, rows a round).
    pub(super) fn stage(&self, count: usize, slot: usize, round: Option<(usize, usize)>) -> Option<Statement> {
        let &StagedPlane { channels, width, rows: rows_in_plane, staging: Staging { left, right, .. }, .. } = self;
        let (mut first_row, mut target) = (self.first_row.clone(), Affine::constant((slot * self.row()) as isize));
        first_row.constant += slot as isize;
        if let Some((variable, rows)) = round {
            (first_row, target) = (first_row.plus(variable, rows), target.plus(variable, rows * self.row()));
        }
        let group = |base| at(base, Affine::default().plus(0, self.group));
        let place = |tile: Tile, sources: Vec<Operand>| {
            call(tile, sources.into_iter().chain([integer(first_row), at(Base::Scratch, target)]).collect())
        };
        let statement = match self.source {
            PlaneSource::Value(value) => {
                let shape = StageRows { rows: count, channels, width, left, right, rows_in_plane, plane_channels: channels, fill: 0.0 };
                place(Tile::StageRows(shape), vec![group(value)])
            }
            PlaneSource::Normalized { x, coefficients } => {
                let shape = StageNormalized { rows: count, channels, width, left, right, rows_in_plane };
                place(Tile::StageNormalized(shape), [group(x)].into_iter().chain(coefficients.map(start)).collect())
            }
            PlaneSource::NormalizeBackward { gradient, x, live, coefficients } => {
                let shape = StageNormalizeBackward { rows: count, channels, width, left, right, rows_in_plane };
                let live = at(live, Affine::default().plus(0, self.lanes));
                let sources = [group(gradient), group(x), live].into_iter().chain(coefficients.map(start));
                place(Tile::StageNormalizeBackward(shape), sources.collect())
            }
        };
        (count > 0).then_some(statement)
    }
}

#[cfg(test)]
mod tests {
    use crate::onnx::import_bytes;
    use crate::program::{Program, Statement};
    use crate::zoo::{self, ZooOptions};
    use crate::{pipeline, settings};
    use mest_runtime::network::Phase;
    use mest_runtime::recipe::Recipe;
    use std::collections::BTreeSet;

    fn has_tile(body: &[Statement], name: &str) -> bool {
        body.iter().any(|statement| match statement {
            Statement::Loop { body, .. } => has_tile(body, name),
            Statement::Tile { tile, .. } => tile.name() == name,
            Statement::Map(_) => false,
        })
    }

    /// Nodes whose launches call the tile `name` in `phase`.
    fn users(program: &Program, phase: Phase, name: &str) -> usize {
        let launches = program.schedules.iter().filter(|schedule| schedule.phase == phase).flat_map(|schedule| &schedule.launches);
        let users = launches.filter(|launch| has_tile(&program.kernels[launch.kernel].body, name));
        users.map(|launch| launch.label.as_str()).collect::<BTreeSet<_>>().len()
    }

    #[test]
    fn what_one_convolution_reads_is_computed_while_it_stages() {
        let model = zoo::build("resnet8", &ZooOptions::default()).expect("a built-in model");
        let imported = import_bytes(&model, None).expect("it imports");
        let program = pipeline::compile(&imported, &settings::of_recipe(&Recipe::default(), None)).expect("it compiles").program;
        // Three blocks, each with one activation between its convolutions; nine convolutions, two of them without padding.
        for phase in [Phase::Train, Phase::Evaluate] {
            assert_eq!(users(&program, phase, "stage_normalized"), 3);
        }
        assert_eq!(users(&program, Phase::Train, "stage_normalize_backward"), 7);
    }
}
