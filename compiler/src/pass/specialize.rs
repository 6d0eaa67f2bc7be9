//! Takes apart the operations that mean one thing in training and another in inference: batch normalization, dropout, random switches.
//!
//! ONNX has one node for both meanings. Differentiation and lowering want nodes that mean one thing each, and the memory plan wants to see
//! batch statistics as values with a life of their own, so a graph is specialised before anything else happens to it:
//!
//! | imported           | [`training`]                                                              | [`inference`]                   |
//! |--------------------|---------------------------------------------------------------------------|---------------------------------|
//! | BatchNormalization | BatchMoments, Normalize; RunningAverage becomes the statistics' new value | Normalize by running statistics |
//! | Dropout            | DropoutMask, Mul (nothing at ratio 0)                                     | nothing                         |
//! | Bernoulli          | DropoutMask, Mul by the probability                                       | the same, with nothing dropped  |
//!
//! A batch normalization whose scale and shift are frozen keeps to its running statistics in training, too, which then do not move.
//!
//! The new value of a running statistic is `momentum * old + (1 - momentum) * batch`, with the batch's biased variance: ONNX's rule, not
//! PyTorch's. What a rewritten node computed keeps its name and its node, so tables by name hold across the rewrite. A parameter that
//! nobody reads any more stays in the graph: it is part of the exported model.

use crate::ir::graph::Role;
use crate::ir::{Graph, NodeId, Shape, Tensor, Value, ValueInfo};
use crate::op::{BatchMoments, Bernoulli, Constant, DropoutMask, Mul, Normalize, Op, RunningAverage};

/// The graph of a training step: statistics of the batch, dropout at work.
pub fn training(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    for id in graph.topological().unwrap_or_else(|_| graph.ids()) {
        match graph.node(id).op.clone() {
            Op::BatchNormalization(op) if is_frozen(&graph, id) => normalize_by_running_statistics(&mut graph, id, op.epsilon),
            Op::BatchNormalization(op) => normalize_by_batch(&mut graph, id, op.epsilon, op.momentum),
            Op::Dropout(op) if op.ratio > 0.0 => mask(&mut graph, id, op.ratio),
            Op::Dropout(_) => bypass(&mut graph, id),
            Op::Bernoulli(op) => draw(&mut graph, id, &op, 1.0 - op.probability),
            _ => {}
        }
    }
    graph
}

/// The graph of an evaluation: running statistics, no dropout.
pub fn inference(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    for id in graph.topological().unwrap_or_else(|_| graph.ids()) {
        match graph.node(id).op.clone() {
            Op::BatchNormalization(op) => normalize_by_running_statistics(&mut graph, id, op.epsilon),
            Op::Dropout(_) => bypass(&mut graph, id),
            Op::Bernoulli(op) => draw(&mut graph, id, &op, 0.0),
            _ => {}
        }
    }
    graph
}

/// Whether scale and shift of a batch normalization stay as they are.
fn is_frozen(graph: &Graph, id: NodeId) -> bool {
    let frozen = |value: &Value| matches!(&graph.node(value.node).op, Op::Parameter(parameter) if parameter.role == Role::Frozen);
    graph.inputs(id).get(1..3).is_some_and(|coefficients| coefficients.iter().all(frozen))
}

fn normalize_by_running_statistics(graph: &mut Graph, id: NodeId, epsilon: f64) {
    if let [_, scale, shift, mean, variance] = graph.inputs(id)[..] {
        normalize(graph, id, epsilon, [mean, variance, scale, shift]);
    }
}

fn normalize_by_batch(graph: &mut Graph, id: NodeId, epsilon: f64, momentum: f64) {
    let [x, scale, shift, mean, variance] = graph.inputs(id)[..] else { return };
    let statistics = Shape::uniform(&graph.shape(mean).fixed());
    let name = graph.node(id).name.clone();
    let result = graph.info(Value { node: id, output: 0 }).name.clone();
    let outputs =
        ["mean", "variance"].map(|what| ValueInfo { name: graph.fresh_name(&format!("{result}.{what}")), shape: statistics.clone() });
    let moments = graph.add(format!("{name}.moments"), Op::from(BatchMoments {}), &[x], outputs.into());
    let [batch_mean, batch_variance] = [0, 1].map(|output| Value { node: moments, output });
    normalize(graph, id, epsilon, [batch_mean, batch_variance, scale, shift]);
    follow(graph, mean, batch_mean, momentum);
    follow(graph, variance, batch_variance, momentum);
}

/// Turns a batch normalization into a [`Normalize`] of its input with these statistics, scale and shift.
fn normalize(graph: &mut Graph, id: NodeId, epsilon: f64, operands: [Value; 4]) {
    graph.node_mut(id).op = Op::from(Normalize { epsilon });
    for (position, value) in (1..).zip(operands) {
        graph.set_input(id, position, value);
    }
}

/// Makes the running statistic `running` follow `batch`. One that several normalizations share follows each of them in turn.
fn follow(graph: &mut Graph, running: Value, batch: Value, momentum: f64) {
    let node = graph.node(running.node);
    if !matches!(&node.op, Op::Parameter(parameter) if parameter.role == Role::State) {
        return;
    }
    let name = format!("{}.next", node.name);
    let info = ValueInfo { name: graph.fresh_name(&format!("{}.next", graph.info(running).name)), shape: graph.shape(running).clone() };
    let old = graph.state_updates.get(&running.node).copied().unwrap_or(running);
    let next = graph.add(name, Op::from(RunningAverage { momentum }), &[old, batch], vec![info]);
    graph.state_updates.insert(running.node, Value { node: next, output: 0 });
}

/// Turns a dropout into the product of its input and a random mask.
fn mask(graph: &mut Graph, id: NodeId, ratio: f32) {
    let Some(&x) = graph.inputs(id).first() else { return };
    let name = graph.node(id).name.clone();
    let result = graph.info(Value { node: id, output: 0 });
    let shape = result.shape.clone();
    let info = ValueInfo { name: graph.fresh_name(&format!("{}.mask", result.name)), shape: shape.clone() };
    let mask = graph.add(format!("{name}.mask"), Op::from(DropoutMask { ratio, shape }), &[x], vec![info]);
    graph.node_mut(id).op = Op::from(Mul {});
    graph.set_input(id, 1, Value { node: mask, output: 0 });
}

/// Turns a random switch into the product of its probability and a mask that drops `ratio`: what is left of the probability is 1.
fn draw(graph: &mut Graph, id: NodeId, op: &Bernoulli, ratio: f32) {
    let Some(&x) = graph.inputs(id).first() else { return };
    let name = graph.node(id).name.clone();
    let result = graph.info(Value { node: id, output: 0 }).name.clone();
    let info = ValueInfo { name: graph.fresh_name(&format!("{result}.mask")), shape: op.shape.clone() };
    let mask = Op::from(DropoutMask { ratio, shape: op.shape.clone() });
    let mask = graph.add(format!("{name}.mask"), mask, &[x], vec![info]);
    let info = ValueInfo { name: graph.fresh_name(&format!("{result}.probability")), shape: Shape::uniform(&[]) };
    let value = Tensor { dims: vec![], values: vec![op.probability] };
    let probability = graph.add(format!("{name}.probability"), Op::from(Constant { value }), &[], vec![info]);
    graph.node_mut(id).op = Op::from(Mul {});
    graph.set_input(id, 0, Value { node: mask, output: 0 });
    graph.set_input(id, 1, Value { node: probability, output: 0 });
}

/// Removes a node that passes its input on.
fn bypass(graph: &mut Graph, id: NodeId) {
    let Some(&x) = graph.inputs(id).first() else { return };
    let result = Value { node: id, output: 0 };
    let name = graph.info(result).name.clone();
    let leaves = graph.output == Some(result);
    graph.replace(result, x);
    graph.remove(id);
    // The model's output keeps its ONNX name; a source keeps its own, under which the world outside knows it.
    let is_source = graph.inputs(x.node).is_empty();
    if leaves && !is_source {
        graph.node_mut(x.node).outputs[x.output].name = name;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::{parse, print};

    const STATISTICS: &str = r#"
%x = input() {"shape":["N",4,2,2]} : [N, 4, 2, 2]
%scale = parameter() {"dims":[4],"role":"Trainable"} : [4]
%shift = parameter() {"dims":[4],"role":"Trainable"} : [4]
%running_mean = parameter() {"dims":[4],"role":"State"} : [4]
%running_var = parameter() {"dims":[4],"role":"State"} : [4]
"#;

    fn body(graph: &Graph) -> String {
        let lines: Vec<_> = print(graph).lines().map(|line| line.split("  # ").next().unwrap_or_default().to_owned()).collect();
        lines.into_iter().filter(|line| !line.contains("input()") && !line.contains("parameter()")).collect::<Vec<_>>().join("\n")
    }

    fn model(lines: &str) -> Graph {
        parse(&format!("graph \"m\"\n{STATISTICS}{lines}")).unwrap()
    }

    const NORMALIZED: &str = r#"%y = batch_normalization(%x, %scale, %shift, %running_mean, %running_var) {"epsilon":0.001,"momentum":0.9} : [N, 4, 2, 2]  @"bn"
output %y
logits %y
"#;

    #[test]
    fn training_takes_statistics_from_the_batch() {
        assert_eq!(
            body(&training(&model(NORMALIZED))),
            r#"graph "m"
%y.mean, %y.variance = batch_moments(%x) : [4], [4]  @"bn.moments"
%y = normalize(%x, %y.mean, %y.variance, %scale, %shift) {"epsilon":0.001} : [N, 4, 2, 2]  @"bn"
%running_mean.next = running_average(%running_mean, %y.mean) {"momentum":0.9} : [4]
%running_var.next = running_average(%running_var, %y.variance) {"momentum":0.9} : [4]
output %y
logits %y
update %running_mean = %running_mean.next
update %running_var = %running_var.next"#
        );
    }

    #[test]
    fn inference_takes_the_running_statistics() {
        assert_eq!(
            body(&inference(&model(NORMALIZED))),
            r#"graph "m"
%y = normalize(%x, %running_mean, %running_var, %scale, %shift) {"epsilon":0.001} : [N, 4, 2, 2]  @"bn"
output %y
logits %y"#
        );
    }

    #[test]
    fn shared_statistics_follow_both_batches_in_turn() {
        let graph = training(&model(
            r#"%a = batch_normalization(%x, %scale, %shift, %running_mean, %running_var) {"epsilon":0.1,"momentum":0.9} : [N, 4, 2, 2]
%b = batch_normalization(%a, %scale, %shift, %running_mean, %running_var) {"epsilon":0.1,"momentum":0.5} : [N, 4, 2, 2]
"#,
        ));
        let text = body(&graph);
        assert!(text.contains("%running_mean.next.1 = running_average(%running_mean.next, %b.mean) {\"momentum\":0.5}"), "{text}");
        assert!(text.contains("update %running_mean = %running_mean.next.1"), "{text}");
    }

    #[test]
    fn dropout_becomes_a_masked_product_or_nothing() {
        let lines = |ratio: &str| {
            model(&format!("%d = dropout(%x) {{\"ratio\":{ratio}}} : [N, 4, 2, 2]\n%y = relu(%d) : [N, 4, 2, 2]\noutput %y\nlogits %y\n"))
        };
        let nothing = "graph \"m\"\n%y = relu(%x) : [N, 4, 2, 2]\noutput %y\nlogits %y";
        assert_eq!(
            body(&training(&lines("0.25"))),
            r#"graph "m"
%d.mask = dropout_mask(%x) {"ratio":0.25,"shape":["N",4,2,2]} : [N, 4, 2, 2]
%d = mul(%x, %d.mask) : [N, 4, 2, 2]
%y = relu(%d) : [N, 4, 2, 2]
output %y
logits %y"#
        );
        assert_eq!(body(&training(&lines("0.0"))), nothing);
        assert_eq!(body(&inference(&lines("0.25"))), nothing);
    }

    #[test]
    fn a_random_switch_is_its_probability_where_nothing_is_dropped() {
        let graph = model(
            "%k = bernoulli(%x) {\"probability\":0.75,\"shape\":[\"N\",1,1,1]} : [N, 1, 1, 1]\n%y = mul(%x, %k) : [N, 4, 2, 2]\noutput %y\nlogits %y\n",
        );
        let wanted = |ratio: &str| {
            format!(
                r#"graph "m"
%k.mask = dropout_mask(%x) {{"ratio":{ratio},"shape":["N",1,1,1]}} : [N, 1, 1, 1]
%k.probability = constant() {{"value":{{"dims":[],"values":[0.75]}}}} : []
%k = mul(%k.mask, %k.probability) : [N, 1, 1, 1]
%y = mul(%x, %k) : [N, 4, 2, 2]
output %y
logits %y"#
            )
        };
        assert_eq!(body(&training(&graph)), wanted("0.25"));
        assert_eq!(body(&inference(&graph)), wanted("0.0"));
    }

    #[test]
    fn an_output_keeps_its_name_when_its_dropout_goes() {
        let graph = model("%y = relu(%x) : [N, 4, 2, 2]\n%out = dropout(%y) {\"ratio\":0.5} : [N, 4, 2, 2]\noutput %out\nlogits %out\n");
        assert_eq!(body(&inference(&graph)), "graph \"m\"\n%out = relu(%x) : [N, 4, 2, 2]  @\"y\"\noutput %out\nlogits %out");
        let identity = model("%out = dropout(%x) {\"ratio\":0.5} : [N, 4, 2, 2]\noutput %out\nlogits %out\n");
        assert_eq!(body(&inference(&identity)), "graph \"m\"\noutput %x\nlogits %x");
    }

    #[test]
    fn statistics_that_nothing_reads_stay_in_the_model() {
        let graph = training(&model(""));
        assert_eq!(graph.parameters().len(), 4);
    }
}
