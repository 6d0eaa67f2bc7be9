//! Sees a weight operand as strides into the parameter behind it.
//!
//! Exporters put Transpose, Reshape and Flatten between an initialiser and the node that multiplies by it. Such a chain never moves data
//! here: it is folded into the strides of the weight matrix, so that masks, values and gradients all live in the parameter's own layout.

use crate::ir::{Graph, NodeId, Value};
use crate::op::Op;
use mest_runtime::manifest::WeightMatrix;

/// One axis of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Axis {
    extent: usize,
    stride: usize,
}

/// A parameter's elements under other axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// The parameter.
    pub(super) parameter: NodeId,
    axes: Vec<Axis>,
}

/// Why a weight operand is no weight matrix.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum NoMatrix {
    /// This value is computed from something.
    Computed(Value),
    /// No strides lead from this value to the parameter.
    Scattered(Value),
}

impl View {
    /// The view that `value` is.
    pub(super) fn of(graph: &Graph, value: Value) -> Result<View, NoMatrix> {
        let mut chain = vec![];
        let mut source = value;
        while let (Op::Reshape(_) | Op::Transpose(_), Some(&next)) = (&graph.node(source.node).op, graph.inputs(source.node).first()) {
            chain.push(source);
            source = next;
        }
        let Op::Parameter(parameter) = &graph.node(source.node).op else { return Err(NoMatrix::Computed(source)) };
        let mut view = View { parameter: source.node, axes: contiguous(&parameter.dims) };
        for step in chain.into_iter().rev() {
            let axes = match &graph.node(step.node).op {
                Op::Transpose(transpose) => transpose.perm.iter().map(|&axis| view.axes.get(axis).copied()).collect(),
                _ => view.reshaped(&graph.shape(step).fixed()),
            };
            view.axes = axes.ok_or(NoMatrix::Scattered(step))?;
        }
        Ok(view)
    }

    /// The axes after a reshape to `dims`; `None` where an axis would have no single stride.
    fn reshaped(&self, dims: &[usize]) -> Option<Vec<Axis>> {
        // Runs of axes that lie like one: (elements, stride of the innermost).
        let mut runs: Vec<Axis> = vec![];
        for axis in self.axes.iter().filter(|axis| axis.extent != 1) {
            match runs.last_mut() {
                Some(run) if run.stride == axis.extent * axis.stride => *run = Axis { extent: run.extent * axis.extent, ..*axis },
                _ => runs.push(*axis),
            }
        }
        let mut axes: Vec<_> = dims.iter().map(|&extent| Axis { extent, stride: 1 }).collect();
        let mut open = axes.iter_mut().rev();
        for run in runs.iter().rev() {
            let mut covered = 1;
            while covered < run.extent {
                let axis = open.next()?;
                axis.stride = run.stride * covered;
                covered *= axis.extent;
            }
            if covered != run.extent {
                return None;
            }
        }
        open.all(|axis| axis.extent == 1).then_some(axes)
    }

    /// As the weight `[O, C/g, kh, kw]` of a convolution; `None` if kernel positions have no single stride.
    pub(super) fn convolution(&self, groups: usize) -> Option<WeightMatrix> {
        let [output, input, row, column] = self.axes[..] else { return None };
        let kernel_stride = match (row.extent, column.extent) {
            (1, 1) => 1,
            (1, _) => column.stride,
            (_, 1) => row.stride,
            _ if row.stride == column.extent * column.stride => column.stride,
            _ => return None,
        };
        Some(WeightMatrix {
            groups,
            outputs: output.extent,
            inputs_per_group: input.extent,
            kernel_rows: row.extent,
            kernel_width: column.extent,
            output_stride: output.stride,
            input_stride: input.stride,
            kernel_stride,
        })
    }

    /// As the weight `[I, O]` of a linear layer.
    pub(super) fn linear(&self) -> Option<WeightMatrix> {
        let [input, output] = self.axes[..] else { return None };
        Some(WeightMatrix {
            groups: 1,
            outputs: output.extent,
            inputs_per_group: input.extent,
            kernel_rows: 1,
            kernel_width: 1,
            output_stride: output.stride,
            input_stride: input.stride,
            kernel_stride: 1,
        })
    }
}

/// Row-major axes.
fn contiguous(dims: &[usize]) -> Vec<Axis> {
    let mut axes: Vec<_> = dims.iter().map(|&extent| Axis { extent, stride: 1 }).collect();
    for inner in (1..axes.len()).rev() {
        axes[inner - 1].stride = axes[inner].extent * axes[inner].stride;
    }
    axes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;
    use proptest::prelude::*;

    fn view(dims: &str, steps: &str) -> Result<View, NoMatrix> {
        let graph = parse(&format!("%w = parameter() {{\"dims\":{dims},\"role\":\"Trainable\"}} : {dims}\n{steps}")).unwrap();
        let last = *graph.topological().unwrap().last().unwrap();
        View::of(&graph, Value { node: last, output: 0 })
    }

    fn strides(view: &View) -> Vec<(usize, usize)> {
        view.axes.iter().map(|axis| (axis.extent, axis.stride)).collect()
    }

    #[test]
    fn folds_transposes_and_reshapes() {
        assert_eq!(strides(&view("[2,3,4]", "").unwrap()), [(2, 12), (3, 4), (4, 1)]);
        assert_eq!(strides(&view("[2,3,4]", "%t = transpose(%w) {\"perm\":[2,0,1]} : [4, 2, 3]").unwrap()), [(4, 1), (2, 12), (3, 4)]);
        let reshaped = "%t = transpose(%w) {\"perm\":[2,0,1]} : [4, 2, 3]\n%r = reshape(%t) {\"shape\":[2,2,1,6]} : [2, 2, 1, 6]";
        assert_eq!(strides(&view("[2,3,4]", reshaped).unwrap()), [(2, 2), (2, 1), (1, 1), (6, 4)]);
    }

    #[test]
    fn a_reshape_across_a_transpose_has_no_strides() {
        let across = "%t = transpose(%w) {\"perm\":[1,0]} : [3, 2]\n%r = reshape(%t) {\"shape\":[6]} : [6]";
        assert!(matches!(view("[2,3]", across), Err(NoMatrix::Scattered(_))));
    }

    #[test]
    fn kernel_positions_need_one_stride() {
        let swapped = "%t = transpose(%w) {\"perm\":[0,1,3,2]} : [2, 2, 3, 3]";
        assert_eq!(view("[2,2,3,3]", swapped).unwrap().convolution(1), None);
        let column = "%t = transpose(%w) {\"perm\":[0,1,3,2]} : [2, 2, 3, 1]";
        assert_eq!(view("[2,2,1,3]", column).unwrap().convolution(1).map(|matrix| matrix.kernel_stride), Some(1));
    }

    proptest! {
        /// Whatever the reshape, element i of the view in row-major order is element i of what was reshaped.
        #[test]
        fn reshapes_keep_the_order_of_elements(dims in prop::collection::vec(1..4_usize, 1..4), split in 0..4_usize, swap in any::<bool>()) {
            let mut axes = contiguous(&dims);
            if swap {
                axes.reverse();
            }
            let graph = parse("%w = parameter() {\"dims\":[1],\"role\":\"State\"} : [1]").unwrap();
            let view = View { parameter: graph.parameters()[0], axes };
            let extents: Vec<usize> = view.axes.iter().map(|axis| axis.extent).collect();
            let (left, right) = extents.split_at(split.min(extents.len()));
            let wanted = [left.iter().product(), 1, right.iter().product()];
            if let Some(axes) = view.reshaped(&wanted) {
                prop_assert_eq!(elements(&axes), elements(&view.axes));
            } else {
                prop_assert!(swap, "row-major axes always reshape");
            }
        }
    }

    fn elements(axes: &[Axis]) -> Vec<usize> {
        axes.iter().fold(vec![0], |starts, axis| {
            starts.iter().flat_map(|start| (0..axis.extent).map(move |index| start + index * axis.stride)).collect()
        })
    }
}
