//! Sees a weight operand as strides into the parameter behind it.
//!
//! Exporters put Transpose, Reshape and Flatten between an initialiser and the node that multiplies by it. Such a chain never moves data
//! here: it is folded into the strides of the weight matrix, so that masks, values and gradients all live in the parameter's own layout.

use crate::ir::{Graph, NodeId, Value};
use crate::op::Op;
use mest_runtime::manifest::WeightMatrix;

/// Elements that lie evenly apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    extent: usize,
    stride: usize,
}

/// One axis of a view: runs of runs, outermost first; none for an extent of 1.
type Axis = Vec<Run>;

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
                Op::Transpose(transpose) => transpose.perm.iter().map(|&axis| view.axes.get(axis).cloned()).collect(),
                _ => view.reshaped(&graph.shape(step).fixed()),
            };
            view.axes = axes.ok_or(NoMatrix::Scattered(step))?;
        }
        Ok(view)
    }

    /// The axes after a reshape to `dims`; `None` where an element of the new axes would take parts of two runs.
    fn reshaped(&self, dims: &[usize]) -> Option<Vec<Axis>> {
        let mut open = joined(self.axes.iter().flatten());
        let mut axes = vec![vec![]; dims.len()];
        for (axis, &extent) in axes.iter_mut().zip(dims).rev() {
            let mut wanted = extent;
            while wanted > 1 {
                let run = open.pop()?;
                let taken = if wanted.is_multiple_of(run.extent) { run.extent } else { wanted };
                if !run.extent.is_multiple_of(taken) {
                    return None;
                }
                axis.insert(0, Run { extent: taken, ..run });
                wanted /= taken;
                if taken < run.extent {
                    open.push(Run { extent: run.extent / taken, stride: run.stride * taken });
                }
            }
        }
        open.is_empty().then_some(axes)
    }

    /// As the weight `[O, C/g, kh, kw]` of a convolution; `None` if its outputs within a group, its inputs or its kernel positions have no single
    /// stride.
    pub(super) fn convolution(&self, groups: usize) -> Option<WeightMatrix> {
        let [output, input, row, column] = &self.axes[..] else { return None };
        let outputs = extent(output);
        let (group, output) = match output[..] {
            [group, output] if group.extent == groups => (group.stride, output.stride),
            _ => {
                let stride = stride([output])?;
                (stride * (outputs / groups), stride)
            }
        };
        Some(WeightMatrix {
            groups,
            outputs,
            inputs_per_group: extent(input),
            kernel_rows: extent(row),
            kernel_width: extent(column),
            group_stride: group,
            output_stride: output,
            input_stride: stride([input])?,
            kernel_stride: stride([row, column])?,
        })
    }

    /// As the weight `[I, O]` of a linear layer; `None` if an axis has no single stride.
    pub(super) fn linear(&self) -> Option<WeightMatrix> {
        let [input, output] = &self.axes[..] else { return None };
        let output_stride = stride([output])?;
        Some(WeightMatrix {
            groups: 1,
            outputs: extent(output),
            inputs_per_group: extent(input),
            kernel_rows: 1,
            kernel_width: 1,
            group_stride: output_stride * extent(output),
            output_stride,
            input_stride: stride([input])?,
            kernel_stride: 1,
        })
    }
}

/// Elements along an axis.
fn extent(axis: &Axis) -> usize {
    axis.iter().map(|run| run.extent).product()
}

/// Runs that lie like one become one.
fn joined<'r>(runs: impl IntoIterator<Item = &'r Run>) -> Vec<Run> {
    let mut joined: Vec<Run> = vec![];
    for run in runs {
        match joined.last_mut() {
            Some(last) if last.stride == run.extent * run.stride => *last = Run { extent: last.extent * run.extent, ..*run },
            _ => joined.push(*run),
        }
    }
    joined
}

/// The one stride of these axes, one after the other; 1 if there is but one element.
fn stride<const N: usize>(axes: [&Axis; N]) -> Option<usize> {
    match joined(axes.into_iter().flatten())[..] {
        [] => Some(1),
        [run] => Some(run.stride),
        _ => None,
    }
}

/// Row-major axes.
fn contiguous(dims: &[usize]) -> Vec<Axis> {
    let mut stride = 1;
    let mut axes = vec![vec![]; dims.len()];
    for (axis, &extent) in axes.iter_mut().zip(dims).rev() {
        if extent != 1 {
            axis.push(Run { extent, stride });
        }
        stride *= extent;
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
        view.axes.iter().map(|axis| (extent(axis), stride([axis]).unwrap())).collect()
    }

    #[test]
    fn folds_transposes_and_reshapes() {
        assert_eq!(strides(&view("[2,3,4]", "").unwrap()), [(2, 12), (3, 4), (4, 1)]);
        assert_eq!(strides(&view("[2,3,4]", "%t = transpose(%w) {\"perm\":[2,0,1]} : [4, 2, 3]").unwrap()), [(4, 1), (2, 12), (3, 4)]);
        let reshaped = "%t = transpose(%w) {\"perm\":[2,0,1]} : [4, 2, 3]\n%r = reshape(%t) {\"shape\":[2,2,1,6]} : [2, 2, 1, 6]";
        assert_eq!(strides(&view("[2,3,4]", reshaped).unwrap()), [(2, 2), (2, 1), (1, 1), (6, 4)]);
    }

    #[test]
    fn a_reshape_across_a_transpose_has_no_single_stride() {
        let across = "%t = transpose(%w) {\"perm\":[1,0,2]} : [3, 2, 4]\n%r = reshape(%t) {\"shape\":[6,4]} : [6, 4]";
        assert_eq!(view("[2,3,4]", across).unwrap().linear(), None);
        let apart = "%t = transpose(%w) {\"perm\":[1,0]} : [4, 6]\n%r = reshape(%t) {\"shape\":[3,8]} : [3, 8]";
        assert!(matches!(view("[6,4]", apart), Err(NoMatrix::Scattered(_))));
    }

    #[test]
    fn groups_may_lie_further_apart_than_their_outputs() {
        // [2 groups of 3 inputs, 4 outputs, 1x5] as transposed convolutions have it.
        let turned = "%s = reshape(%w) {\"shape\":[2,3,4,1,5]} : [2, 3, 4, 1, 5]\n%t = transpose(%s) {\"perm\":[0,2,1,3,4]} : [2, 4, 3, 1, 5]\n\
                      %r = reshape(%t) {\"shape\":[8,3,1,5]} : [8, 3, 1, 5]";
        let matrix = view("[6,4,1,5]", turned).unwrap().convolution(2).unwrap();
        assert_eq!((matrix.outputs, matrix.inputs_per_group, matrix.group_stride), (8, 3, 60));
        assert_eq!((matrix.output_stride, matrix.input_stride, matrix.kernel_stride), (5, 20, 1));
        assert_eq!(view("[6,4,1,5]", turned).unwrap().convolution(4), None);
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
            let extents: Vec<usize> = view.axes.iter().map(extent).collect();
            let (left, right) = extents.split_at(split.min(extents.len()));
            let wanted = [left.iter().product(), 1, right.iter().product()];
            // Whole axes are taken together, in whatever order they lie.
            let axes = view.reshaped(&wanted).unwrap();
            prop_assert_eq!(elements(&axes), elements(&view.axes));
        }
    }

    fn elements(axes: &[Axis]) -> Vec<usize> {
        axes.iter().flatten().fold(vec![0], |starts, run| {
            starts.iter().flat_map(|start| (0..run.extent).map(move |index| start + index * run.stride)).collect()
        })
    }
}
