//! Attaches a loss to a model: a target to compare with, and a node that gives each example's loss and the gradient of their mean.
//!
//! The loss reads `logits`, not `output`: a classifier that ends in a softmax has the softmax inside its loss, where it is stable, and keeps
//! the one at its end for whoever reads the output. Loss and gradient are one node because they share the exponentials.

use crate::ir::{Graph, NodeId, Shape, Value, ValueInfo};
use crate::op::{MeanSquaredError, Op, SoftmaxCrossEntropy, Target};

/// What training minimises: the mean over the batch of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Cross-entropy of a softmax over classes.
    CrossEntropy {
        /// Share of the target's probability spread evenly over all classes, in `[0, 1)`.
        smoothing: f32,
    },
    /// Mean of squared differences over all elements.
    MeanSquaredError,
}

/// A loss does not fit the model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LossError {
    /// The graph does not say what to compare with the target.
    #[error("model '{model}' has no output for a loss to read; give the ONNX graph an output")]
    NoOutput {
        /// The model.
        model: String,
    },
    /// There is a loss already.
    #[error("model '{model}' already has a loss, node '{node}'; a model takes one")]
    Twice {
        /// The model.
        model: String,
        /// The loss that is there.
        node: String,
    },
    /// Cross-entropy of something other than one row of classes an example.
    #[error(
        "cross-entropy needs an output of shape [N, classes], and output '{output}' is {shape}; flatten it in the model, or train with --loss mse"
    )]
    NotClasses {
        /// The output's name.
        output: String,
        /// Its shape.
        shape: Shape,
    },
    /// The output does not depend on the examples.
    #[error("output '{output}' is {shape}, without a batch axis: it does not depend on the model's input")]
    NotBatched {
        /// The output's name.
        output: String,
        /// Its shape.
        shape: Shape,
    },
    /// A smoothing outside of its range.
    #[error("label smoothing is {smoothing}; it must be at least 0 and less than 1")]
    Smoothing {
        /// What was asked for.
        smoothing: f32,
    },
}

/// Adds a target and the loss of `logits` against it; returns the loss node.
///
/// Its outputs are each example's loss `[N]`, whether the prediction was right `[N]`, and the gradient of the mean loss by the logits.
///
/// # Errors
/// The model has no logits or a loss already, or its logits do not fit the loss. The graph is unchanged then.
pub fn attach_loss(graph: &mut Graph, loss: Loss) -> Result<NodeId, LossError> {
    let Some(logits) = graph.logits else { return Err(LossError::NoOutput { model: graph.name.clone() }) };
    let is_loss = |op: &Op| matches!(op, Op::SoftmaxCrossEntropy(_) | Op::MeanSquaredError(_));
    if let Some(there) = graph.ids().into_iter().find(|&id| is_loss(&graph.node(id).op)) {
        return Err(LossError::Twice { model: graph.name.clone(), node: graph.node(there).name.clone() });
    }
    let (output, shape) = (graph.info(logits).name.clone(), graph.shape(logits).clone());
    if !shape.is_batched() {
        return Err(LossError::NotBatched { output, shape });
    }
    let examples = Shape::batched(&[]);
    let (op, target) = match loss {
        Loss::CrossEntropy { smoothing } if !(0.0..1.0).contains(&smoothing) => return Err(LossError::Smoothing { smoothing }),
        Loss::CrossEntropy { .. } if shape.rank() != 2 => return Err(LossError::NotClasses { output, shape }),
        Loss::CrossEntropy { smoothing } => (Op::from(SoftmaxCrossEntropy { smoothing }), examples.clone()),
        Loss::MeanSquaredError => (Op::from(MeanSquaredError {}), shape.clone()),
    };
    let info = ValueInfo { name: graph.fresh_name("target"), shape: target.clone() };
    let target = graph.add("target", Op::from(Target { shape: target }), &[], vec![info]);
    let outputs = [("loss", examples.clone()), ("correct", examples), ("loss.gradient", shape)]
        .map(|(name, shape)| ValueInfo { name: graph.fresh_name(name), shape });
    Ok(graph.add("loss", op, &[logits, Value { node: target, output: 0 }], outputs.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::{parse, print};

    fn model(end: &str) -> Graph {
        parse(&format!("graph \"m\"\n%x = input() {{\"shape\":[\"N\",4]}} : [N, 4]\n{end}")).unwrap()
    }

    #[test]
    fn cross_entropy_reads_what_comes_before_the_softmax() {
        let mut graph = model("%y = relu(%x) : [N, 4]\n%p = softmax(%y) {\"log\":false} : [N, 4]\noutput %p\nlogits %y\n");
        attach_loss(&mut graph, Loss::CrossEntropy { smoothing: 0.5 }).unwrap();
        assert_eq!(
            print(&graph),
            r#"graph "m"
%x = input() {"shape":["N",4]} : [N, 4]
%y = relu(%x) : [N, 4]
%p = softmax(%y) {"log":false} : [N, 4]
%target = target() {"shape":["N"]} : [N]
%loss, %correct, %loss.gradient = softmax_cross_entropy(%y, %target) {"smoothing":0.5} : [N], [N], [N, 4]
output %p
logits %y
"#
        );
    }

    #[test]
    fn mean_squared_error_takes_a_target_of_any_shape() {
        let mut graph =
            parse("%target = input() {\"shape\":[\"N\",2,3]} : [N, 2, 3]\n%y = relu(%target) : [N, 2, 3]\nlogits %y\noutput %y").unwrap();
        let loss = attach_loss(&mut graph, Loss::MeanSquaredError).unwrap();
        let inputs = graph.inputs(loss);
        assert_eq!(graph.info(inputs[1]), &ValueInfo { name: "target.1".into(), shape: Shape::batched(&[2, 3]) });
        assert_eq!(graph.outputs(loss).into_iter().map(|v| graph.shape(v).to_string()).collect::<Vec<_>>(), ["[N]", "[N]", "[N, 2, 3]"]);
    }

    #[test]
    fn refuses_what_does_not_fit_and_leaves_the_graph_alone() {
        let entropy = Loss::CrossEntropy { smoothing: 0.0 };
        for (end, loss, message) in [
            ("", entropy, "has no output"),
            ("%y = reshape(%x) {\"shape\":[\"N\",2,2]} : [N, 2, 2]\nlogits %y", entropy, "output 'y' is [N, 2, 2]"),
            ("%y = sum_to(%x) {\"shape\":[4]} : [4]\nlogits %y", Loss::MeanSquaredError, "without a batch axis"),
            ("logits %x", Loss::CrossEntropy { smoothing: 1.0 }, "smoothing is 1"),
            ("logits %x", Loss::CrossEntropy { smoothing: f32::NAN }, "smoothing is NaN"),
        ] {
            let mut graph = model(end);
            let before = print(&graph);
            let error = attach_loss(&mut graph, loss).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert_eq!(print(&graph), before);
        }
        let mut graph = model("logits %x");
        attach_loss(&mut graph, entropy).unwrap();
        assert!(attach_loss(&mut graph, entropy).unwrap_err().to_string().contains("already has a loss, node 'loss'"));
    }
}
