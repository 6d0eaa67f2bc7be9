//! Weighted sums along an axis. Their coefficients are constants, mostly periodic, so that a few maps with a stride cover the axis: one for each
//! run of elements that read at even distances with one weight.

use super::kernel::{repeat, visit};
use super::map::{merge_axes, storage_axes, storage_extents};
use super::{LowerError, PhaseLowering};
use crate::ir::{Dim, NodeId};
use crate::op::Resample;
use crate::program::{ChainOp, Map, Statement, layout};

/// Elements of the result between two that read alike, at most.
const LARGEST_PERIOD: usize = 64;

/// Elements `to`, `to + to_step`, .. of the result, `count` of them, read `from`, `from + from_step`, .. with one weight.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Run {
    to: usize,
    to_step: usize,
    from: usize,
    from_step: isize,
    count: usize,
    weight: f32,
}

impl Run {
    /// Grows by one element, if it continues the run.
    fn extend(&mut self, to: usize, from: usize, weight: f32) -> bool {
        let step = from as isize - (self.from as isize + self.from_step * (self.count as isize - 1));
        let continues = to == self.to + self.to_step * self.count && weight.to_bits() == self.weight.to_bits();
        if !continues || (self.count > 1 && step != self.from_step) {
            return false;
        }
        self.from_step = step;
        self.count += 1;
        true
    }
}

/// Runs that cover `taps` (element of the result, of x, weight; ascending), by the period that needs the fewest.
fn runs(taps: &[(usize, usize, f32)]) -> Vec<Run> {
    let by_period = |period: usize| {
        let mut runs: Vec<Run> = Vec::new();
        for class in 0..period {
            let mut open: Option<Run> = None;
            for &(to, from, weight) in taps.iter().filter(|tap| tap.0 % period == class) {
                if !open.as_mut().is_some_and(|run| run.extend(to, from, weight)) {
                    runs.extend(open.replace(Run { to, to_step: period, from, from_step: 0, count: 1, weight }));
                }
            }
            runs.extend(open);
        }
        runs
    };
    (1..=LARGEST_PERIOD).map(by_period).min_by_key(Vec::len).unwrap_or_default()
}

impl PhaseLowering<'_, '_> {
    /// The first tap of every element stores, the others add to it.
    pub(super) fn resample(&mut self, id: NodeId, op: &Resample) -> Result<(), LowerError> {
        let (x, y) = (self.graph.inputs(id)[0], self.value(id, 0));
        let (from, to) = (self.place(x)?, self.define(y));
        let mut kernel = self.copy_kernel(id, y);
        let (source, target) = (kernel.read("from", from), kernel.write("to", to));
        let (width, group_x, scale) = self.copy_width(x);
        let (_, group_y, _) = self.copy_width(y);
        let fixed_axis = op.axis - usize::from(self.shape(y).is_batched());
        let [strides_x, strides_y] = [x, y].map(|value| layout::strides(self.shape(value)).iter().map(|s| s * scale).collect::<Vec<_>>());
        let order = storage_axes(self.shape(y));
        let layers = op.taps.iter().map(Vec::len).max().unwrap_or(0).max(1);
        for layer in 0..layers {
            let mut taps = Vec::new();
            for (row, own) in op.taps.iter().enumerate() {
                match own.get(layer) {
                    Some(&(from, weight)) => taps.push((row, from, weight)),
                    None if layer == 0 => taps.push((row, 0, 0.0)),
                    None => {}
                }
            }
            for run in runs(&taps) {
                let mut space = self.shape(y).clone();
                // A map's strides point forward: what is read backward takes a loop around the map.
                let backward = run.from_step < 0;
                space.0[op.axis] = Dim::Fixed(if backward { 1 } else { run.count });
                let (mut at_x, mut at_y) = (group_x.clone(), group_y.clone());
                at_x.constant += (run.from * strides_x[fixed_axis]) as isize;
                at_y.constant += (run.to * strides_y[fixed_axis]) as isize;
                if backward {
                    at_x.terms.push((1, run.from_step * strides_x[fixed_axis] as isize));
                    at_y = at_y.plus(1, run.to_step * strides_y[fixed_axis]);
                }
                let (mut own_x, mut own_y) = (strides_x.clone(), strides_y.clone());
                own_x[fixed_axis] *= run.from_step.unsigned_abs();
                own_y[fixed_axis] *= run.to_step;
                let walk = |strides: &[usize]| order.iter().map(|&axis| strides[axis]).collect::<Vec<_>>();
                let load = visit(source, at_x, walk(&own_x), false);
                let store = || visit(target, at_y.clone(), walk(&own_y), false);
                let (loads, operations, result) = match (layer, run.weight) {
                    (0, 0.0) => (vec![], vec![ChainOp::Constant(0.0)], 0),
                    (0, 1.0) => (vec![load], vec![], 0),
                    (0, weight) => (vec![load], vec![ChainOp::Constant(weight), ChainOp::Mul(0, 1)], 2),
                    (_, 1.0) => (vec![load, store()], vec![ChainOp::Add(1, 0)], 2),
                    (_, weight) => (vec![load, store()], vec![ChainOp::Constant(weight), ChainOp::Fma(0, 2, 1)], 3),
                };
                let stores = vec![(store(), result)];
                let map = merge_axes(Map { width, extents: storage_extents(&space), loads, operations, stores, sums: vec![] });
                match repeat(run.count, vec![Statement::Map(map.clone())]).filter(|_| backward) {
                    Some(around) => kernel.push(around),
                    None => kernel.map(map),
                }
            }
        }
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Run, runs};

    #[test]
    fn doubling_takes_two_runs_and_reflection_one_more() {
        let doubled: Vec<_> = (0..10).map(|to| (to, to / 2, 1.0)).collect();
        let run = |to, to_step, from, from_step, count| Run { to, to_step, from, from_step, count, weight: 1.0 };
        assert_eq!(runs(&doubled), [run(0, 2, 0, 1, 5), run(1, 2, 0, 1, 5)]);
        let mirrored: Vec<_> = [2, 1, 0, 1, 2, 3].into_iter().enumerate().map(|(to, from)| (to, from, 1.0)).collect();
        assert_eq!(runs(&mirrored), [run(0, 1, 2, -1, 3), run(3, 1, 1, 1, 3)]);
    }

    #[test]
    fn a_change_of_weight_ends_a_run() {
        let taps = [(0, 0, 0.5), (1, 1, 0.5), (2, 2, 0.25)];
        assert_eq!(runs(&taps).len(), 2);
    }
}
