//! How both code generators run a map: which loops it takes, and how far out each value and each sum can stay.
//!
//! Extents of 1 vanish and neighbouring dimensions that every operand walks alike become one, so the innermost loop is as long as it can
//! be. The order of iterations, and with it every rounding, stays that of [`Map`]. Because a load that a loop does not move is read before
//! that loop, and a sum that it does not move is kept in a register across it, a map's sums and stores must not overlap its other
//! operands, save that a store may overwrite a load of the very same place.

use super::{ChainOp, Map, MapOperand};

/// The loops of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nest {
    /// Trip counts, outermost first, all above 1.
    pub extents: Vec<usize>,
    /// Strides of each load, one a loop.
    pub loads: Vec<Vec<usize>>,
    /// Strides of each store.
    pub stores: Vec<Vec<usize>>,
    /// Strides of each sum.
    pub sums: Vec<Vec<usize>>,
    /// For each chain value: how many loops it is inside of. The rest it is constant in.
    pub value_depths: Vec<usize>,
    /// For each sum: how many loops its place depends on. It stays in a register across the rest.
    pub sum_depths: Vec<usize>,
}

impl Nest {
    /// The nest of `map`, or nothing where an extent is 0 and it has no iteration.
    pub fn of(map: &Map) -> Option<Nest> {
        if map.extents.contains(&0) {
            return None;
        }
        let strides = |operand: &MapOperand| operand.strides.clone();
        let mut nest = Nest {
            extents: map.extents.clone(),
            loads: map.loads.iter().map(strides).collect(),
            stores: map.stores.iter().map(|(operand, _)| strides(operand)).collect(),
            sums: map.sums.iter().map(|(operand, _)| strides(operand)).collect(),
            value_depths: Vec::new(),
            sum_depths: Vec::new(),
        };
        nest.drop_units();
        nest.merge();
        nest.value_depths = nest.loads.iter().map(|strides| depth(strides)).collect();
        for operation in &map.operations {
            let depth = operands(operation).iter().map(|&value| nest.value_depths[value]).max().unwrap_or(0);
            nest.value_depths.push(depth);
        }
        nest.sum_depths = nest.sums.iter().map(|strides| depth(strides)).collect();
        Some(nest)
    }

    /// Values of this depth: what is computed when the outer `depth` loops have been entered, operands before users.
    pub fn values_at(&self, depth: usize) -> impl Iterator<Item = usize> + '_ {
        self.value_depths.iter().enumerate().filter(move |(_, d)| **d == depth).map(|(value, _)| value)
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Vec<usize>> {
        self.loads.iter_mut().chain(&mut self.stores).chain(&mut self.sums)
    }

    fn drop_units(&mut self) {
        let keep: Vec<bool> = self.extents.iter().map(|extent| *extent != 1).collect();
        let kept = |of: &mut Vec<usize>| {
            let mut keep = keep.iter();
            of.retain(|_| keep.next() == Some(&true));
        };
        kept(&mut self.extents);
        self.all().for_each(kept);
    }

    fn merge(&mut self) {
        for outer in (0..self.extents.len().saturating_sub(1)).rev() {
            let inner = outer + 1;
            let extent = self.extents[inner];
            if self.all().all(|strides| strides[outer] == strides[inner] * extent) {
                self.extents[outer] *= extent;
                self.extents.remove(inner);
                self.all().for_each(|strides| {
                    strides.remove(outer);
                });
            }
        }
    }
}

/// Loops that an operand with these strides moves in: up to the innermost that moves it.
fn depth(strides: &[usize]) -> usize {
    strides.iter().rposition(|stride| *stride != 0).map_or(0, |innermost| innermost + 1)
}

/// The chain values that an operation reads.
pub fn operands(operation: &ChainOp) -> Vec<usize> {
    match *operation {
        ChainOp::Constant(_) => vec![],
        ChainOp::Sqrt(a) | ChainOp::PowerOfTwo(a) | ChainOp::Exponent(a) | ChainOp::Significand(a) => vec![a],
        ChainOp::Add(a, b) | ChainOp::Sub(a, b) | ChainOp::Mul(a, b) | ChainOp::Div(a, b) => vec![a, b],
        ChainOp::Fma(a, b, c) => vec![a, b, c],
        ChainOp::SelectLess(a, b, c, d) => vec![a, b, c, d],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Address, Affine, Base, Width};

    fn operand(argument: usize, strides: &[usize]) -> MapOperand {
        let address = Address { base: Base::Argument(argument), offset: Affine::default() };
        MapOperand { address, strides: strides.to_vec(), splat: false }
    }

    #[test]
    fn dimensions_walked_alike_become_one() {
        let map = Map {
            width: Width::Lanes,
            extents: vec![2, 1, 3, 5],
            loads: vec![operand(0, &[240, 7, 80, 16]), operand(1, &[1, 9, 0, 0])],
            operations: vec![ChainOp::Mul(0, 1), ChainOp::Mul(1, 1)],
            stores: vec![(operand(2, &[240, 0, 80, 16]), 2)],
            sums: vec![(operand(3, &[16, 0, 0, 0]), 2), (operand(4, &[0, 0, 0, 0]), 2)],
        };
        let nest = Nest::of(&map).expect("it has iterations");
        assert_eq!(nest.extents, [2, 15], "the splat keeps the outer dimension apart");
        assert_eq!(nest.loads, [[240, 16], [1, 0]]);
        assert_eq!(nest.stores, [[240, 16]]);
        assert_eq!(nest.value_depths, [2, 1, 2, 1], "a product of invariants is invariant");
        assert_eq!(nest.sum_depths, [1, 0]);
    }

    #[test]
    fn an_empty_extent_has_no_nest() {
        let map = Map { width: Width::Scalar, extents: vec![4, 0], loads: vec![], operations: vec![], stores: vec![], sums: vec![] };
        assert_eq!(Nest::of(&map), None);
    }
}
