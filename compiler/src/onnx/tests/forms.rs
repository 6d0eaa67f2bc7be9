//! Forms that exporters write: merged examples, computed masks, tokens; and operations made of others.

use super::*;
use crate::ir::Shape;
use crate::op::Op;
use crate::zoo::builder::{Attribute, Fill};
use onnx_protobuf::type_proto;

#[test]
fn examples_may_be_merged_with_heads() {
    let builder = model(&[5, 12], |m| {
        m.node("Shape", "shape", &["input"], &[]);
        for (name, value) in [("zero", 0), ("three", 3), ("five", 5)] {
            m.node("Constant", name, &[], &[("value_int", Attribute::Int(value))]);
        }
        m.list("first", &[0]);
        m.list("four", &[4]);
        m.list("joined", &[5, -1, 12]);
        m.node("Gather", "n", &["shape", "zero"], &[]);
        m.node("Mul", "heads", &["n", "three"], &[]);
        m.node("Unsqueeze", "heads_list", &["heads", "first"], &[]);
        m.node("Unsqueeze", "five_list", &["five", "first"], &[]);
        m.node("Concat", "split", &["five_list", "heads_list", "four"], &[("axis", Attribute::Int(0))]);
        m.node("Transpose", "turned", &["input"], &[("perm", Attribute::Ints(&[1, 0, 2]))]);
        m.parameter("bias", &[12], Fill::Normal(1.0));
        m.node("Add", "biased", &["turned", "bias"], &[]);
        m.node("Reshape", "by_head", &["biased", "split"], &[]);
        m.node("Transpose", "q", &["by_head"], &[("perm", Attribute::Ints(&[1, 0, 2]))]);
        m.node("Transpose", "k", &["by_head"], &[("perm", Attribute::Ints(&[1, 2, 0]))]);
        m.node("MatMul", "scores", &["q", "k"], &[]);
        m.node("Softmax", "shares", &["scores"], &[("axis", Attribute::Int(2))]);
        m.node("MatMul", "mixed", &["shares", "q"], &[]);
        m.node("Transpose", "back", &["mixed"], &[("perm", Attribute::Ints(&[1, 0, 2]))]);
        m.node("Reshape", "flat", &["back", "joined"], &[]);
        m.node("Transpose", "output", &["flat"], &[("perm", Attribute::Ints(&[1, 0, 2]))]);
    });
    let graph = imported(builder).graph;
    assert_eq!(*graph.shape(graph.output.unwrap()), Shape::batched(&[5, 12]));
    let found = operations(&graph);
    assert_eq!(found.iter().filter(|op| **op == "matrix_product").count(), 2, "{found:?}");
    let between = model(&[6, 4], |m| {
        m.list("across", &[3, -1, 8]);
        m.node("Reshape", "output", &["input", "across"], &[]);
    });
    assert_refused(between, Kind::Unsupported, &["between examples"]);
}

#[test]
fn masks_and_indices_are_computed_at_import() {
    let builder = model(&[4, 6], |m| {
        for (name, value) in [("zero", 0), ("one", 1), ("four", 4)] {
            m.node("Constant", name, &[], &[("value_int", Attribute::Int(value))]);
        }
        m.list("columns", &[4, 1]);
        m.list("all", &[4, 4]);
        m.list("cell", &[1, 2]);
        m.list("set", &[1]);
        m.list("corner", &[0, 3]);
        m.node("Range", "positions", &["zero", "four", "one"], &[]);
        m.node("Reshape", "column", &["positions", "columns"], &[]);
        m.node("Expand", "rows", &["column", "all"], &[]);
        m.node("LessOrEqual", "below", &["positions", "rows"], &[]);
        m.node("Not", "above", &["below"], &[]);
        m.node("Reshape", "index", &["corner", "cell"], &[]);
        m.node("ScatterND", "mask", &["above", "index", "set"], &[]);
        m.tensor("val_1", &[], &[-1.0]);
        m.tensor("val_2", &[], &[2.0]);
        m.node("Where", "bias", &["mask", "val_1", "val_2"], &[]);
        m.node("MatMul", "scores", &["input", "w"], &[]);
        m.parameter("w", &[6, 4], Fill::Normal(1.0));
        m.node("Add", "output", &["scores", "bias"], &[]);
    });
    let graph = imported(builder).graph;
    assert_eq!(operations(&graph), ["linear", "add"]);
    let constant =
        graph.ids().into_iter().find_map(|id| if let Op::Constant(c) = &graph.node(id).op { Some(c.value.clone()) } else { None });
    let wanted: Vec<f32> = (0..16).map(|i| if i % 4 > i / 4 { -1.0 } else { 2.0 }).collect();
    assert_eq!(constant.unwrap().values, wanted);
}

#[test]
fn comparisons_choose_between_activations() {
    let builder = model(&[4], |m| {
        m.tensor("val_1", &[], &[0.5]);
        m.node("Neg", "n", &["input"], &[]);
        m.node("Greater", "large", &["input", "val_1"], &[]);
        m.node("IsNaN", "none", &["n"], &[]);
        m.node("Or", "either", &["large", "none"], &[]);
        m.node("Where", "output", &["either", "input", "n"], &[]);
    });
    assert_eq!(operations(&imported(builder).graph), ["mul", "select_less", "select_less", "select_less", "max", "select_less"]);
}

#[test]
fn images_are_resized_axis_by_axis() {
    let resize = |attributes: &[(&str, Attribute)], scales: &[f32]| {
        model(&[1, 2, 3], |m| {
            m.tensor("val_1", &[scales.len()], scales);
            m.node("Resize", "output", &["input", "", "val_1"], attributes);
        })
    };
    let taps = |builder| {
        let graph = imported(builder).graph;
        match &graph.node(graph.output.unwrap().node).op {
            Op::Resample(op) => (op.axis, op.taps.clone()),
            other => panic!("{other:?}"),
        }
    };
    let nearest = resize(
        &[("mode", Attribute::Text("nearest")), ("coordinate_transformation_mode", Attribute::Text("asymmetric"))],
        &[1.0, 1.0, 1.0, 2.0],
    );
    let rows: Vec<Vec<(usize, f32)>> = [0, 0, 1, 1, 2, 2].map(|row| vec![(row, 1.0)]).into();
    assert_eq!(taps(nearest), (3, rows));
    let linear = resize(&[("mode", Attribute::Text("linear"))], &[1.0, 1.0, 2.0, 1.0]);
    let wanted = vec![vec![(0, 1.0)], vec![(0, 0.75), (1, 0.25)], vec![(0, 0.25), (1, 0.75)], vec![(1, 1.0)]];
    assert_eq!(taps(linear), (2, wanted));
    assert_refused(resize(&[("mode", Attribute::Text("sinc"))], &[1.0, 1.0, 2.0, 1.0]), Kind::Unsupported, &["mode is 'sinc'"]);
    assert_refused(resize(&[], &[2.0, 1.0, 1.0, 1.0]), Kind::Unsupported, &["resizes the batch"]);
}

#[test]
fn tokens_choose_rows_of_a_table() {
    let builder = model(&[7], |m| {
        m.parameter("embedding.weight", &[10, 4], Fill::Normal(1.0));
        m.node("Gather", "output", &["embedding.weight", "input"], &[]);
    });
    let builder = corrupt(builder, |graph| {
        if let Some(type_proto::Value::TensorType(tensor)) = graph.input[0].type_.as_mut().unwrap().value.as_mut() {
            tensor.elem_type = 7;
        }
    });
    let graph = imported(builder).graph;
    assert_eq!(operations(&graph), ["embedding"]);
    assert_eq!(*graph.shape(graph.output.unwrap()), Shape::batched(&[7, 4]));
}

#[test]
fn transposed_convolutions_have_the_extents_of_their_definition() {
    let transposed = |w: &[usize], group: i64, mut attributes: Vec<(&'static str, Attribute<'static>)>| {
        attributes.push(("group", Attribute::Int(group)));
        model(&[4, 3, 5], |m| {
            m.parameter("w", w, Fill::Normal(1.0));
            m.parameter("b", &[w[1] * group as usize], Fill::Normal(1.0));
            m.node("ConvTranspose", "output", &["input", "w", "b"], &attributes);
        })
    };
    let extents = |builder| {
        let graph = imported(builder).graph;
        graph.shape(graph.output.unwrap()).fixed()
    };
    assert_eq!(extents(transposed(&[4, 6, 3, 3], 1, vec![])), [6, 5, 7]);
    let (strides, pads) = (("strides", Attribute::Ints(&[2, 3])), ("pads", Attribute::Ints(&[1, 0, 1, 2])));
    let strided = vec![strides, pads, ("output_padding", Attribute::Ints(&[1, 0]))];
    assert_eq!(extents(transposed(&[4, 6, 3, 2], 1, strided)), [6, 6, 12]);
    assert_eq!(extents(transposed(&[4, 2, 2, 2], 4, vec![("strides", Attribute::Ints(&[2, 2]))])), [8, 6, 10]);
    assert_eq!(extents(transposed(&[4, 3, 2, 2], 2, vec![])), [6, 4, 6]);
    assert_refused(transposed(&[4, 2, 2, 2], 3, vec![]), Kind::Attribute, &["3 groups of 4 input channels", "must divide"]);
}

#[test]
fn attention_is_taken_apart() {
    let builder = model(&[6, 8], |m| {
        m.model.opset_import[0].version = 23;
        let heads = [("q_num_heads", Attribute::Int(2)), ("kv_num_heads", Attribute::Int(2)), ("is_causal", Attribute::Int(1))];
        m.node("Attention", "output", &["input", "input", "input"], &heads);
    });
    let graph = imported(builder).graph;
    assert_eq!(*graph.shape(graph.output.unwrap()), Shape::batched(&[6, 8]));
    assert!(operations(&graph).ends_with(&["matrix_product", "mul", "add", "softmax", "matrix_product", "transpose", "reshape"]));
}
