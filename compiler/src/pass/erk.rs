//! Erdos-Renyi-Kernel: small layers are kept denser than large ones (Evci et al., "Rigging the lottery", ICML 2020).
//!
//! A layer's density is in proportion to the sum of its extents over their product, at most 1; the total is that of one density for all.

use super::annotate_sparsity::{LayerSparsity, SparsityTable, dense_block};
use crate::ir::Graph;
use crate::op::Op;
use mest_runtime::sparse::Units;

/// Spreads `density` over some layers of the table; those that get all their weights become dense.
pub(super) fn share(graph: &Graph, table: &mut SparsityTable, sharing: &[usize], density: f64) {
    let extent = |&index: &usize| {
        let LayerSparsity { units, users, .. } = &table.layers[index];
        let matrix = &units.matrix;
        // A linear layer has no kernel, not one of 1x1.
        let is_linear = users.iter().any(|&user| matches!(graph.node(user).op, Op::Linear(_)));
        let kernel = if is_linear { 0 } else { matrix.kernel_rows + matrix.kernel_width };
        Extent { units: *units, sum: matrix.inputs_per_group + matrix.outputs + kernel }
    };
    let live = live_units(&sharing.iter().map(extent).collect::<Vec<_>>(), density);
    for (&index, live) in sharing.iter().zip(live) {
        let layer = &mut table.layers[index];
        if live == layer.units.count() {
            layer.units = Units::new(layer.units.matrix, dense_block(&layer.units.matrix));
            layer.density = None;
            layer.live = layer.units.count();
            layer.reason = "its share of an Erdos-Renyi-Kernel distribution is all".to_owned();
        } else {
            // Where groups hold as many each, the share is that to the nearest.
            let density = (live as f64 / layer.units.count() as f64).min(layer.units.largest_density());
            layer.density = Some(density);
            layer.live = layer.units.budget(density);
        }
    }
}

/// What the distribution knows of a layer.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// The layer's weights and how they divide into units.
    units: Units,
    /// Sum of the weight's extents: channels that go in and out, and a convolution's kernel.
    sum: usize,
}

/// Live units of each layer, one at least. Together they hold `density` of all weights: exactly where units are single weights, to the nearest
/// unit otherwise.
fn live_units(layers: &[Extent], density: f64) -> Vec<usize> {
    let total = (density * layers.iter().map(|layer| layer.units.weights()).sum::<usize>() as f64).round();
    let wanted: Vec<f64> = weights(layers, total).iter().zip(layers).map(|(w, layer)| w / layer.units.elements() as f64).collect();
    let mut live: Vec<usize> = wanted.iter().zip(layers).map(|(&units, layer)| (units as usize).clamp(1, layer.units.count())).collect();
    let mut left = total as i64 - layers.iter().zip(&live).map(|(layer, live)| (layer.units.elements() * live) as i64).sum::<i64>();
    // Rounding down leaves less than a unit a layer; layers raised to their one unit may have taken too much.
    loop {
        let moved = if left > 0 { raise(layers, &wanted, &mut live, left) } else { lower(layers, &wanted, &mut live, -left) };
        match moved {
            0 => return live,
            elements => left -= elements,
        }
    }
}

/// Weights wanted of each layer: in proportion to the sum of its extents, capped at all of them, `total` together.
fn weights(layers: &[Extent], total: f64) -> Vec<f64> {
    let mut capped = vec![false; layers.len()];
    loop {
        let of =
            |capped_layers: bool| layers.iter().zip(&capped).filter(move |(_, capped)| **capped == capped_layers).map(|(layer, _)| layer);
        let full: usize = of(true).map(|layer| layer.units.weights()).sum();
        let sums: usize = of(false).map(|layer| layer.sum).sum();
        let factor = (total - full as f64) / sums.max(1) as f64;
        let over: Vec<usize> =
            (0..layers.len()).filter(|&i| !capped[i] && factor * layers[i].sum as f64 > layers[i].units.weights() as f64).collect();
        if over.is_empty() {
            let wanted = |(layer, &capped): (&Extent, &bool)| if capped { layer.units.weights() as f64 } else { factor * layer.sum as f64 };
            return layers.iter().zip(&capped).map(wanted).collect();
        }
        over.into_iter().for_each(|layer| capped[layer] = true);
    }
}

/// Gives a unit to the layer that lacks most of one, if that comes closer to the total; weights given.
fn raise(layers: &[Extent], wanted: &[f64], live: &mut [usize], left: i64) -> i64 {
    let fits = |&i: &usize| live[i] < layers[i].units.count() && (layers[i].units.elements() as i64) < 2 * left;
    let lack = |i: usize| wanted[i] - live[i] as f64;
    let Some(layer) = (0..layers.len()).filter(fits).max_by(|&a, &b| lack(a).total_cmp(&lack(b)).then(b.cmp(&a))) else { return 0 };
    live[layer] += 1;
    layers[layer].units.elements() as i64
}

/// Takes a unit from the layer that has most above what it wants, if that comes closer to the total; weights given (negative).
fn lower(layers: &[Extent], wanted: &[f64], live: &mut [usize], excess: i64) -> i64 {
    let fits = |&i: &usize| live[i] > 1 && (layers[i].units.elements() as i64) < 2 * excess;
    let above = |i: usize| live[i] as f64 - wanted[i];
    let Some(layer) = (0..layers.len()).filter(fits).max_by(|&a, &b| above(a).total_cmp(&above(b)).then(b.cmp(&a))) else { return 0 };
    live[layer] -= 1;
    -(layers[layer].units.elements() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mest_runtime::manifest::{Block, WeightMatrix};
    use proptest::prelude::*;

    fn layer(outputs: usize, inputs: usize, kernel: usize, rows: usize) -> Extent {
        let matrix = WeightMatrix {
            groups: 1,
            outputs,
            inputs_per_group: inputs,
            kernel_rows: kernel,
            kernel_width: kernel,
            group_stride: outputs * inputs * kernel * kernel,
            output_stride: inputs * kernel * kernel,
            input_stride: kernel * kernel,
            kernel_stride: 1,
        };
        Extent { units: Units::new(matrix, Block { rows, columns: 1 }), sum: outputs + inputs + 2 * kernel }
    }

    #[test]
    fn densities_are_those_of_the_definition() {
        // 16x16x3x3, 32x16x3x3, 64x64x3x3: sums 38, 54 and 134 of 43776 weights, 4378 of them live.
        let layers = [layer(16, 16, 3, 1), layer(32, 16, 3, 1), layer(64, 64, 3, 1)];
        let factor = 4378.0 / 226.0;
        let live = live_units(&layers, 0.1);
        assert_eq!(live.iter().sum::<usize>(), 4378);
        for (live, sum) in live.iter().zip([38.0, 54.0, 134.0]) {
            assert!((*live as f64 - factor * sum).abs() < 1.0, "{live} of {}", factor * sum);
        }
    }

    #[test]
    fn small_layers_are_full_and_the_others_share_the_rest() {
        let layers = [layer(4, 4, 1, 1), layer(64, 64, 3, 1), layer(128, 64, 3, 1)];
        let live = live_units(&layers, 0.2);
        assert_eq!((live[0], live.iter().sum::<usize>()), (16, (0.2f64 * 110_608.0).round() as usize));
        let share = (live[1] as f64 / 134.0) / (live[2] as f64 / 198.0);
        assert!((share - 1.0).abs() < 1e-3, "{share}");
    }

    proptest! {
        #[test]
        fn the_total_is_exact_whatever_the_layers(
            sizes in prop::collection::vec((1usize..40, 1usize..40, 1usize..4), 1..12), density in 0.0f64..=1.0
        ) {
            let layers: Vec<Extent> = sizes.iter().map(|&(outputs, inputs, kernel)| layer(outputs, inputs, kernel, 1)).collect();
            let live = live_units(&layers, density);
            let all: usize = layers.iter().map(|layer| layer.units.weights()).sum();
            prop_assert_eq!(live.iter().sum::<usize>(), ((density * all as f64).round() as usize).max(layers.len()));
            prop_assert!(live.iter().zip(&layers).all(|(&live, layer)| (1..=layer.units.count()).contains(&live)));
        }

        #[test]
        fn blocks_come_as_near_as_they_can(
            sizes in prop::collection::vec((1usize..10, 1usize..40, 1usize..4), 1..12), density in 0.05f64..=1.0
        ) {
            let layers: Vec<Extent> = sizes.iter().map(|&(outputs, inputs, kernel)| layer(4 * outputs, inputs, kernel, 4)).collect();
            let live: usize = live_units(&layers, density).iter().map(|live| 4 * live).sum();
            let all: usize = layers.iter().map(|layer| layer.units.weights()).sum();
            prop_assert!((live as f64 - (density * all as f64).max(4.0 * layers.len() as f64)).abs() <= 2.5, "{live}");
        }
    }
}
