use super::*;
use crate::ir::graph::Role;
use crate::ir::{Dim, Shape};
use crate::onnx::{append_metadata, template};
use crate::op::{Clip, Convolution, Function, Op, Reshape};
use crate::zoo::builder::{Attribute, Fill};
use crate::zoo::{self, ZooOptions};
use onnx_protobuf::tensor_shape_proto::dimension::Value as DimValue;
use onnx_protobuf::{Message, ModelProto, type_proto};

fn fix_batch(graph: &mut GraphProto, batch: i64) {
    for value in [&mut graph.input[0], &mut graph.output[0]] {
        if let Some(type_proto::Value::TensorType(tensor)) = value.type_.as_mut().unwrap().value.as_mut() {
            tensor.shape.as_mut().unwrap().dim[0].value = Some(DimValue::DimValue(batch));
        }
    }
}

fn norm(m: &mut ModelBuilder, inputs: &[&str], output: &str, training: bool) {
    let mode = [("training_mode", Attribute::Int(1))];
    m.node("BatchNormalization", output, inputs, if training { &mode } else { &[] });
}

#[test]
fn gemm_becomes_linear_over_a_view_of_the_weight() {
    let builder = model(&[4], |m| {
        m.parameter("w", &[3, 4], Fill::Normal(1.0));
        m.parameter("b", &[3], Fill::Normal(1.0));
        m.node("Gemm", "output", &["input", "w", "b"], &[("transB", Attribute::Int(1))]);
    });
    let graph = imported(builder).graph;
    assert_eq!(operations(&graph), ["transpose", "linear"]);
    assert_eq!(parameter_names(&graph), ["w", "b"]);
    assert_eq!(*graph.shape(graph.output.unwrap()), Shape::batched(&[3]));
}

#[test]
fn gemm_with_factors_scales() {
    let builder = model(&[4], |m| {
        m.parameter("w", &[4, 3], Fill::Normal(1.0));
        m.parameter("b", &[3], Fill::Normal(1.0));
        m.node("Gemm", "output", &["input", "w", "b"], &[("alpha", Attribute::Float(0.5)), ("beta", Attribute::Float(2.0))]);
    });
    assert_eq!(operations(&imported(builder).graph), ["linear", "mul", "mul", "add"]);
    let transposed = model(&[4], |m| {
        m.parameter("w", &[4, 3], Fill::Normal(1.0));
        m.node("Gemm", "output", &["input", "w"], &[("transA", Attribute::Int(1))]);
    });
    assert_refused(transposed, Kind::Unsupported, &["transA must be 0"]);
}

#[test]
fn equal_vectors_are_untied_and_equal_matrices_stay_tied() {
    let builder = model(&[4], |m| {
        m.parameter("w", &[4, 4], Fill::Normal(1.0));
        m.tensor("zeros", &[4], &[0.0; 4]);
        m.tensor("ones", &[4], &[1.0; 4]);
        m.tensor("ones.1", &[4], &[1.0; 4]);
        m.node("Gemm", "a", &["input", "w", "zeros"], &[]);
        norm(m, &["a", "ones", "zeros", "zeros", "ones"], "b", false);
        m.node("Mul", "d", &["b", "ones.1"], &[]);
        m.node("Gemm", "output", &["d", "w", "zeros"], &[]);
    });
    let imported = imported(builder);
    let graph = &imported.graph;
    assert_eq!(parameter_names(graph), ["w", "zeros", "ones", "zeros.1", "zeros.2", "ones.2", "ones.1", "zeros.3"]);
    let role = |name: &str| match &graph.node(named(graph, name)).op {
        Op::Parameter(parameter) => parameter.role,
        other => panic!("{name} is {other:?}"),
    };
    assert_eq!(["ones", "zeros.1", "zeros.2", "ones.2"].map(role), [Role::Trainable, Role::Trainable, Role::State, Role::State]);
    let offsets = template(&imported.source, graph, &graph.parameters(), &[]).unwrap().offsets;
    let mut distinct = offsets.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 8);
}

#[test]
fn a_constant_matrix_used_twice_is_untied() {
    let builder = model(&[4], |m| {
        m.parameter("w", &[4, 4], Fill::Constant(0.0));
        m.node("MatMul", "a", &["input", "w"], &[]);
        m.node("MatMul", "output", &["a", "w"], &[]);
    });
    assert_eq!(parameter_names(&imported(builder).graph), ["w", "w.1"]);
}

#[test]
fn identities_of_merged_vectors_are_parameters_of_their_own() {
    let builder = model(&[4], |m| {
        m.tensor("a.bias", &[4], &[0.0; 4]);
        m.node("Identity", "b.bias", &["a.bias"], &[]);
        m.node("Add", "a", &["input", "a.bias"], &[]);
        m.node("Add", "output", &["a", "b.bias"], &[]);
    });
    assert_eq!(parameter_names(&imported(builder).graph), ["a.bias", "b.bias"]);
}

#[test]
fn made_up_names_are_constants() {
    let builder = model(&[4], |m| {
        m.tensor("val_3", &[], &[0.5]);
        m.tensor("scale", &[4], &[2.0; 4]);
        m.node("Mul", "a", &["input", "val_3"], &[]);
        m.node("Mul", "output", &["a", "scale"], &[]);
    });
    let graph = imported(builder).graph;
    assert_eq!(parameter_names(&graph), ["scale"]);
    assert!(matches!(graph.node(named(&graph, "val_3")).op, Op::Constant(_)));
}

#[test]
fn the_zeros_of_a_layer_without_bias_are_no_bias() {
    let builder = model(&[1, 4, 4], |m| {
        m.parameter("w", &[2, 1, 3, 3], Fill::Normal(1.0));
        m.tensor("val_8", &[2], &[0.0; 2]);
        m.node("Conv", "output", &["input", "w", "val_8"], &[]);
    });
    assert_eq!(parameter_names(&imported(builder).graph), ["w"]);
}

#[test]
fn automatic_padding_is_resolved() {
    let conv = |mode: &str| {
        let builder = model(&[1, 5, 6], |m| {
            m.parameter("w", &[1, 1, 3, 4], Fill::Normal(1.0));
            m.node("Conv", "output", &["input", "w"], &[("auto_pad", Attribute::Text(mode)), ("strides", Attribute::Ints(&[2, 2]))]);
        });
        let graph = imported(builder).graph;
        let output = graph.output.unwrap();
        match &graph.node(output.node).op {
            Op::Convolution(Convolution { pads, .. }) => (*pads, graph.shape(output).fixed()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(conv("SAME_UPPER"), ([1, 1, 1, 1], vec![1, 3, 3]));
    assert_eq!(conv("SAME_LOWER"), ([1, 1, 1, 1], vec![1, 3, 3]));
    assert_eq!(conv("VALID"), ([0, 0, 0, 0], vec![1, 2, 2]));
}

#[test]
fn clips_take_bounds_from_attributes_and_inputs() {
    let old = model(&[4], |m| {
        m.model.opset_import[0].version = 10;
        m.node("Clip", "output", &["input"], &[("min", Attribute::Float(0.0)), ("max", Attribute::Float(6.0))]);
    });
    let new = model(&[4], |m| {
        m.tensor("high", &[], &[6.0]);
        m.node("Clip", "output", &["input", "", "high"], &[]);
    });
    let clip = |builder| {
        let graph = imported(builder).graph;
        graph.node(graph.output.unwrap().node).op.clone()
    };
    assert_eq!(clip(old), Op::Clip(Clip { low: 0.0, high: 6.0 }));
    assert_eq!(clip(new), Op::Clip(Clip { low: f32::NEG_INFINITY, high: 6.0 }));
    let computed = model(&[4], |m| {
        m.node("Relu", "a", &["input"], &[]);
        m.node("Clip", "output", &["input", "a"], &[]);
    });
    assert_refused(computed, Kind::Unsupported, &["must be a constant"]);
}

#[test]
fn arithmetic_around_a_reshape_is_folded() {
    let builder = model(&[2, 3, 4], |m| {
        m.node("Shape", "shape", &["input"], &[]);
        m.list("zero", &[0]);
        m.list("minus", &[-1]);
        m.node("Gather", "n", &["shape", "zero"], &[("axis", Attribute::Int(0))]);
        m.node("Concat", "target", &["n", "minus"], &[("axis", Attribute::Int(0))]);
        m.node("Reshape", "flat", &["input", "target"], &[]);
        m.node("Relu", "output", &["flat"], &[]);
    });
    let graph = imported(builder).graph;
    assert_eq!(operations(&graph), ["reshape", "relu"]);
    assert_eq!(*graph.shape(graph.output.unwrap()), Shape::batched(&[24]));
}

#[test]
fn a_fixed_batch_becomes_symbolic_in_graph_and_template() {
    let build = |target: &[i64]| {
        let builder = model(&[2, 3], |m| {
            m.list("target", target);
            m.parameter("w", &[6, 1], Fill::Normal(1.0));
            m.node("Reshape", "flat", &["input", "target"], &[]);
            m.node("MatMul", "output", &["flat", "w"], &[]);
        });
        corrupt(builder, |graph| fix_batch(graph, 8))
    };
    for target in [[8, 6], [8, -1], [-1, 6], [0, -1]] {
        let imported = imported(build(&target));
        assert_eq!(imported.graph.shape(imported.graph.output.unwrap()).0, [Dim::Batch, Dim::Fixed(1)]);
        assert!(imported.warnings[0].contains("batch of 8"));
        let bytes = template(&imported.source, &imported.graph, &[], &[]).unwrap().bytes;
        let again = import_bytes(&bytes, None).unwrap();
        assert_eq!(again.warnings, Vec::<String>::new());
        assert_eq!(operations(&again.graph), ["reshape", "linear"]);
    }
    assert_refused(build(&[4, 12]), Kind::Unsupported, &["node 'flat'", "between examples"]);
    assert_refused(build(&[1, 48]), Kind::Unsupported, &["node 'output'", "examples lie along axis 1"]);
    assert_refused(build(&[-1, 3]), Kind::Shape, &["node 'output'", "[N, 2, 3]"]);
}

#[test]
fn the_loss_reads_what_comes_before_a_softmax_at_the_end() {
    let builder = model(&[4], |m| {
        m.parameter("w", &[4, 3], Fill::Normal(1.0));
        m.node("MatMul", "scores", &["input", "w"], &[]);
        m.node("LogSoftmax", "output", &["scores"], &[("axis", Attribute::Int(-1))]);
    });
    let graph = imported(builder).graph;
    assert_eq!(graph.info(graph.output.unwrap()).name, "output");
    assert_eq!(graph.info(graph.logits.unwrap()).name, "scores");
    let inside = model(&[3, 4], |m| {
        m.node("Softmax", "a", &["input"], &[("axis", Attribute::Int(1))]);
        m.node("Relu", "output", &["a"], &[]);
    });
    let graph = imported(inside).graph;
    assert_eq!(operations(&graph), ["transpose", "softmax", "transpose", "relu"]);
    assert_eq!(graph.output, graph.logits);
    let mixing = model(&[3, 4], |m| {
        m.node("Softmax", "output", &["input"], &[("axis", Attribute::Int(0))]);
    });
    assert_refused(mixing, Kind::Unsupported, &["along axis 0", "examples must stay apart"]);
}

#[test]
fn softmax_of_old_operator_sets_is_over_all_axes_from_one_on() {
    let builder = corrupt_opset(12, &[3, 4], |m| {
        m.node("Softmax", "a", &["input"], &[]);
        m.node("Relu", "output", &["a"], &[]);
    });
    let graph = imported(builder).graph;
    assert_eq!(operations(&graph), ["reshape", "softmax", "reshape", "relu"]);
}

/// A model of another operator set.
fn corrupt_opset(version: i64, dims: &[usize], write: impl FnOnce(&mut ModelBuilder)) -> ModelBuilder {
    let mut builder = model(dims, write);
    builder.model.opset_import[0].version = version;
    builder
}

#[test]
fn convolutions_whose_normalization_was_folded_are_pointed_out() {
    let builder = model(&[1, 4, 4], |m| {
        m.parameter("w", &[2, 1, 3, 3], Fill::Normal(1.0));
        m.parameter("b", &[2], Fill::Normal(1.0));
        m.node("Conv", "output", &["input", "w", "b"], &[]);
    });
    assert!(imported(builder).warnings[0].contains("--insert-bn"));
}

#[test]
fn sparse_initialisers_are_read() {
    let builder = corrupt(
        model(&[2], |m| {
            m.tensor("values", &[2], &[5.0, 7.0]);
            m.list("indices", &[1, 2]);
            m.node("MatMul", "output", &["input", "values"], &[]);
        }),
        |graph| {
            let indices = graph.initializer.pop();
            let values = graph.initializer.pop();
            let sparse =
                onnx_protobuf::SparseTensorProto { values: values.into(), indices: indices.into(), dims: vec![2, 2], ..Default::default() };
            graph.sparse_initializer.push(sparse);
        },
    );
    assert_eq!(imported(builder).graph.initial.values().next().unwrap().values, [0.0, 5.0, 7.0, 0.0]);
}

#[test]
fn the_template_is_for_inference_and_knows_its_offsets() {
    let builder = model(&[2, 4, 4], |m| {
        for name in ["scale", "shift", "mean", "var"] {
            m.parameter(name, &[2], Fill::Normal(1.0));
        }
        norm(m, &["input", "scale", "shift", "mean", "var"], "a", true);
        m.tensor("ratio", &[], &[0.25]);
        m.node("Dropout", "output", &["a", "ratio", "train"], &[]);
        m.tensor("train", &[], &[1.0]);
    });
    let builder = corrupt(builder, |graph| {
        graph.node[0].output.extend(["new_mean".into(), "new_var".into()]);
        graph.node[1].output.push("mask".into());
    });
    let imported = imported(builder);
    let graph = &imported.graph;
    assert_eq!(operations(graph), ["batch_normalization", "dropout"]);
    let order: Vec<_> = graph.parameters().into_iter().rev().collect();
    let made = template(&imported.source, graph, &order, &[("mest.a".into(), "1".into())]).unwrap();
    for (id, &offset) in order.iter().zip(made.offsets.iter()) {
        let values = graph.initial[id].values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        assert_eq!(made.bytes[offset..offset + values.len()], values);
    }
    let mut bytes = made.bytes.into_owned();
    append_metadata(&mut bytes, "mest.normalize", &"x".repeat(300));
    let model = ModelProto::parse_from_bytes(&bytes).unwrap();
    let metadata: Vec<_> = model.metadata_props.iter().map(|e| (e.key.as_str(), e.value.len())).collect();
    assert_eq!(metadata, [("mest.a", 1), ("mest.normalize", 300)]);
    let [norm, dropout] = &model.graph.node[..] else { panic!("two nodes") };
    assert!(norm.attribute.iter().all(|a| a.name != "training_mode"));
    assert_eq!((norm.output.len(), dropout.output.len(), dropout.input.len()), (1, 1, 2));
}

#[test]
fn templates_of_the_zoo_import_again_to_the_same_graph() {
    for (name, _) in zoo::NAMES {
        let first = import_bytes(&zoo::build(name, &ZooOptions::default()).unwrap(), None).unwrap();
        let made = template(&first.source, &first.graph, &first.graph.parameters(), &[]).unwrap();
        let again = import_bytes(&made.bytes, None).unwrap();
        assert_eq!(operations(&first.graph), operations(&again.graph), "{name}");
        assert_eq!(first.graph.initial, again.graph.initial, "{name}");
    }
}

#[test]
fn views_of_parameters_stay_views() {
    let builder = model(&[4], |m| {
        m.parameter("w", &[3, 2, 2], Fill::Normal(1.0));
        m.list("target", &[3, 4]);
        m.node("Reshape", "matrix", &["w", "target"], &[]);
        m.node("Transpose", "turned", &["matrix"], &[("perm", Attribute::Ints(&[1, 0]))]);
        m.node("MatMul", "output", &["input", "turned"], &[]);
    });
    let graph = imported(builder).graph;
    assert_eq!(operations(&graph), ["reshape", "transpose", "linear"]);
    assert_eq!(graph.node(named(&graph, "matrix")).op, Op::Reshape(Reshape { shape: Shape::uniform(&[3, 4]) }));
    assert_eq!(graph.initial[&named(&graph, "w")].dims, [3, 2, 2]);
}

#[test]
fn zeros_around_an_image_become_padding_of_the_convolution() {
    let builder = |reader: &str| {
        model(&[1, 4, 4], |m| {
            m.list("amounts", &[0, 0, 1, 2, 0, 0, 3, 0]);
            m.parameter("w", &[1, 1, 3, 3], Fill::Normal(1.0));
            m.node("Pad", "padded", &["input", "amounts"], &[]);
            m.node(reader, "output", if reader == "Conv" { &["padded", "w"] } else { &["padded"] }, &[]);
        })
    };
    let graph = imported(builder("Conv")).graph;
    let output = graph.output.unwrap();
    assert!(matches!(graph.node(output.node).op, Op::Convolution(Convolution { pads: [1, 2, 3, 0], .. })));
    assert_eq!(*graph.shape(output), Shape::batched(&[1, 6, 4]));
    assert_eq!(operations(&imported(builder("Relu")).graph), ["pad", "pad", "relu"]);
}

#[test]
fn constants_that_are_weights_or_statistics_become_initialisers() {
    let builder = model(&[4], |m| {
        m.list("shape", &[4, 4]);
        m.list("channels", &[4]);
        m.node("ConstantOfShape", "w", &["shape"], &[]);
        m.node("ConstantOfShape", "mean", &["channels"], &[]);
        m.node("Constant", "var", &[], &[("value_floats", Attribute::Floats(&[1.0; 4]))]);
        m.tensor("scale", &[4], &[1.0; 4]);
        m.tensor("shift", &[4], &[0.0; 4]);
        m.node("MatMul", "a", &["input", "w"], &[]);
        norm(m, &["a", "scale", "shift", "mean", "var"], "output", false);
    });
    let imported = imported(builder);
    assert_eq!(parameter_names(&imported.graph), ["w", "scale", "shift", "mean", "var"]);
    template(&imported.source, &imported.graph, &imported.graph.parameters(), &[]).unwrap();
}

/// Traces recorded with both PyTorch exporters: what they leave in a file.
#[test]
fn recorded_models_import_with_every_parameter_the_trace_has() {
    let traces = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/traces");
    let expected: [(&str, &[&str]); 5] = [
        ("mlp_small", &["reshape", "linear", "relu", "linear", "relu", "linear"]),
        (
            "residual_small",
            &[
                "convolution",
                "batch_normalization",
                "relu",
                "convolution",
                "batch_normalization",
                "convolution",
                "batch_normalization",
                "add",
                "relu",
                "convolution",
                "batch_normalization",
                "add",
                "relu",
                "reduce_mean",
                "reshape",
                "linear",
            ],
        ),
        (
            "depthwise_small",
            &[
                "convolution",
                "batch_normalization",
                "clip",
                "convolution",
                "batch_normalization",
                "clip",
                "convolution",
                "batch_normalization",
                "convolution",
                "mul",
                "reduce_mean",
                "linear",
            ],
        ),
        (
            "pooling_small",
            &["convolution", "relu", "max_pool", "convolution", "relu", "average_pool", "average_pool", "reshape", "dropout", "linear"],
        ),
        (
            "scaled_small",
            &["add", "mul", "linear", "relu", "clip", "mul", "add", "mul", "linear", "mul", "add", "clip", "mul", "mul", "linear"],
        ),
    ];
    for (name, wanted) in expected {
        let imported = crate::onnx::import(&traces.join(name).join("model.onnx")).unwrap();
        let mut found = operations(&imported.graph);
        found.retain(|op| *op != "transpose");
        found.sort_unstable();
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{name}");
        let bytes = std::fs::read(traces.join(name).join("trace.safetensors")).unwrap();
        let trace = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut recorded: Vec<_> = trace.names().into_iter().filter_map(|n| n.strip_prefix("after.")).collect();
        let graph = &imported.graph;
        let trainable = |name: &&str| matches!(&graph.node(named(graph, name)).op, Op::Parameter(p) if p.role == Role::Trainable);
        let mut ours: Vec<_> = parameter_names(graph).into_iter().filter(trainable).collect();
        recorded.sort_unstable();
        ours.sort_unstable();
        assert_eq!(ours, recorded, "{name}");
    }
}

fn functions(graph: &Graph) -> Vec<Function> {
    let of = |id| if let Op::Unary(unary) = &graph.node(id).op { Some(unary.function) } else { None };
    graph.topological().unwrap().into_iter().filter_map(of).collect()
}

#[test]
fn activations_are_recognised_in_the_forms_of_older_exporters() {
    let silu = model(&[4], |m| {
        m.node("Sigmoid", "s", &["input"], &[]);
        m.node("Mul", "output", &["s", "input"], &[]);
    });
    let graph = imported(silu).graph;
    assert_eq!((operations(&graph), functions(&graph)), (vec!["unary"], vec![Function::Silu]));
    for (first, second) in [("sum", "input"), ("input", "sum")] {
        let gelu = model(&[4], |m| {
            m.tensor("val_1", &[], &[std::f32::consts::SQRT_2]);
            m.tensor("val_2", &[], &[1.0]);
            m.node("Constant", "half", &[], &[("value_float", Attribute::Float(0.5))]);
            m.node("Div", "scaled", &["input", "val_1"], &[]);
            m.node("Erf", "erf", &["scaled"], &[]);
            m.node("Add", "sum", &["erf", "val_2"], &[]);
            m.node("Mul", "product", &[first, "half"], &[]);
            m.node("Mul", "output", &["product", second], &[]);
        });
        let graph = imported(gelu).graph;
        assert_eq!((operations(&graph), functions(&graph)), (vec!["unary"], vec![Function::Gelu]), "{first} first");
    }
}

#[test]
fn functions_have_their_attributes() {
    let one = |op: &str, attributes: &[(&str, Attribute)]| {
        let builder = model(&[4], |m| {
            m.node(op, "output", &["input"], attributes);
        });
        functions(&imported(builder).graph)
    };
    assert_eq!(one("Gelu", &[("approximate", Attribute::Text("tanh"))]), [Function::GeluTanh]);
    assert_eq!(one("Elu", &[("alpha", Attribute::Float(0.5))]), [Function::Elu { alpha: 0.5 }]);
    assert_eq!(one("Celu", &[("alpha", Attribute::Float(2.0))]), [Function::Elu { alpha: 1.0 }]);
    assert_eq!(one("Softsign", &[]), [Function::Abs]);
    assert_eq!(one("Tanh", &[]), [Function::Tanh]);
    let wrong = model(&[4], |m| {
        m.node("Gelu", "output", &["input"], &[("approximate", Attribute::Text("erf"))]);
    });
    assert_refused(wrong, Kind::Attribute, &["Gelu", "'erf'", "none or tanh"]);
}

#[test]
fn powers_become_products_and_roots() {
    let power = |exponent: f32| {
        model(&[4], |m| {
            m.tensor("val_1", &[], &[exponent]);
            m.node("Pow", "output", &["input", "val_1"], &[]);
        })
    };
    assert_eq!(operations(&imported(power(2.0)).graph), ["mul"]);
    assert_eq!(operations(&imported(power(3.0)).graph), ["mul", "mul"]);
    assert_eq!(operations(&imported(power(0.5)).graph), ["unary"]);
    assert_eq!(operations(&imported(power(1.5)).graph), ["unary", "mul"]);
    assert_eq!(operations(&imported(power(-2.0)).graph), ["mul", "unary"]);
    assert_eq!(operations(&imported(power(-0.5)).graph), ["unary", "unary"]);
    assert_eq!(operations(&imported(power(0.3)).graph), ["unary", "mul", "unary"]);
    let computed = model(&[4], |m| {
        m.node("Pow", "output", &["input", "input"], &[]);
    });
    assert_eq!(operations(&imported(computed).graph), ["unary", "mul", "unary"]);
}

#[test]
fn extrema_of_activations() {
    let builder = model(&[4], |m| {
        m.node("Neg", "n", &["input"], &[]);
        m.node("Exp", "e", &["input"], &[]);
        m.node("Max", "a", &["input", "n", "e"], &[]);
        m.node("Min", "b", &["a", "input"], &[]);
        m.node("Div", "output", &["b", "e"], &[]);
    });
    assert_eq!(operations(&imported(builder).graph), ["mul", "unary", "max", "max", "min", "div"]);
}

#[test]
fn examples_may_lie_along_another_axis_in_between() {
    let builder = model(&[5, 12], |m| {
        m.list("heads", &[0, 5, 3, 2, 2]);
        m.list("zero", &[0]);
        m.list("one", &[1]);
        m.node("Reshape", "split", &["input", "heads"], &[]);
        m.node("Transpose", "qkv", &["split"], &[("perm", Attribute::Ints(&[2, 0, 3, 1, 4]))]);
        m.node("Slice", "q_part", &["qkv", "zero", "one", "zero"], &[]);
        m.node("Squeeze", "q", &["q_part", "zero"], &[]);
        m.node("Constant", "index", &[], &[("value_int", Attribute::Int(2))]);
        m.node("Gather", "k", &["qkv", "index"], &[("axis", Attribute::Int(0))]);
        m.node("Transpose", "k_turned", &["k"], &[("perm", Attribute::Ints(&[0, 1, 3, 2]))]);
        m.node("MatMul", "output", &["q", "k_turned"], &[]);
    });
    let graph = imported(builder).graph;
    assert_eq!(operations(&graph), ["reshape", "transpose", "slice", "reshape", "slice", "reshape", "matrix_product"]);
    assert_eq!(*graph.shape(graph.output.unwrap()), Shape::batched(&[2, 5, 5]));
    let left = model(&[5, 3], |m| {
        m.node("Transpose", "turned", &["input"], &[("perm", Attribute::Ints(&[1, 0, 2]))]);
        m.node("Relu", "output", &["turned"], &[]);
    });
    assert_refused(left, Kind::Unsupported, &["'output'", "axis 1", "come first"]);
}

#[test]
fn splits_slices_and_gathers() {
    let builder = model(&[6, 4], |m| {
        m.list("sizes", &[2, 4]);
        m.list("rows", &[0, 2, 3]);
        m.list("from", &[-3, 1]);
        m.list("to", &[i64::MAX, 4]);
        m.list("axes", &[1, 2]);
        m.list("steps", &[2, 1]);
        m.node("Split", "a", &["input", "sizes"], &[("axis", Attribute::Int(1))]);
        m.node("Gather", "c", &["b", "rows"], &[("axis", Attribute::Int(1))]);
        m.node("Concat", "d", &["a", "c"], &[("axis", Attribute::Int(-2))]);
        m.node("Slice", "output", &["d", "from", "to", "axes", "steps"], &[]);
    });
    let builder = corrupt(builder, |graph| {
        let split = graph.node.iter_mut().find(|node| node.op_type == "Split").unwrap();
        split.output.push("b".into());
    });
    let graph = imported(builder).graph;
    assert_eq!(*graph.shape(graph.output.unwrap()), Shape::batched(&[2, 3]));
    let backwards = model(&[6], |m| {
        m.list("from", &[5]);
        m.list("to", &[0]);
        m.list("axes", &[1]);
        m.list("steps", &[-1]);
        m.node("Slice", "output", &["input", "from", "to", "axes", "steps"], &[]);
    });
    let graph = imported(backwards).graph;
    assert_eq!(operations(&graph), ["resample"]);
    assert_eq!(*graph.shape(graph.output.unwrap()), Shape::batched(&[5]));
    let beyond = model(&[6], |m| {
        m.list("rows", &[6]);
        m.node("Gather", "output", &["input", "rows"], &[("axis", Attribute::Int(1))]);
    });
    assert_refused(beyond, Kind::Shape, &["beyond the extent 6"]);
}

#[test]
fn a_class_token_is_repeated_for_every_example() {
    let builder = model(&[5, 4], |m| {
        m.parameter("class", &[1, 1, 4], Fill::Normal(1.0));
        m.list("ones", &[1]);
        m.list("minus", &[-1]);
        m.node("Shape", "shape", &["input"], &[("end", Attribute::Int(1))]);
        m.node("Concat", "extents", &["shape", "ones", "ones"], &[("axis", Attribute::Int(0))]);
        m.node("Equal", "free", &["extents", "minus"], &[]);
        m.node("Where", "target", &["free", "ones", "extents"], &[]);
        m.node("Expand", "classes", &["class", "target"], &[]);
        m.node("Concat", "output", &["classes", "input"], &[("axis", Attribute::Int(1))]);
    });
    let graph = imported(builder).graph;
    assert_eq!(parameter_names(&graph), ["class"]);
    assert_eq!(operations(&graph), ["concat"]);
    assert_eq!(*graph.shape(graph.output.unwrap()), Shape::batched(&[6, 4]));
}

#[test]
fn normalization_within_an_example_is_taken_apart() {
    let layer = model(&[5, 4], |m| {
        m.parameter("scale", &[4], Fill::Normal(1.0));
        m.node("LayerNormalization", "output", &["input", "scale"], &[("epsilon", Attribute::Float(0.1))]);
    });
    let graph = imported(layer).graph;
    assert_eq!(operations(&graph), ["reduce_mean", "mul", "add", "mul", "reduce_mean", "add", "unary", "unary", "mul", "mul"]);
    let root = model(&[5, 4], |m| {
        m.parameter("scale", &[4], Fill::Normal(1.0));
        m.node("RMSNormalization", "output", &["input", "scale"], &[]);
    });
    assert_eq!(operations(&imported(root).graph), ["mul", "reduce_mean", "add", "unary", "unary", "mul", "mul"]);
    for (opset, scales) in [(18, 2), (21, 6)] {
        let group = corrupt_opset(opset, &[6, 3, 3], |m| {
            m.parameter("scale", &[scales], Fill::Normal(1.0));
            m.parameter("shift", &[scales], Fill::Normal(1.0));
            m.node("GroupNormalization", "output", &["input", "scale", "shift"], &[("num_groups", Attribute::Int(2))]);
        });
        let graph = imported(group).graph;
        assert_eq!(*graph.shape(graph.output.unwrap()), Shape::batched(&[6, 3, 3]));
    }
    let instance = model(&[6, 3, 3], |m| {
        m.parameter("scale", &[6], Fill::Normal(1.0));
        m.parameter("shift", &[6], Fill::Normal(1.0));
        m.node("InstanceNormalization", "output", &["input", "scale", "shift"], &[]);
    });
    assert_eq!(parameter_names(&imported(instance).graph), ["scale", "shift"]);
}

#[test]
fn a_line_is_an_image_of_one_row() {
    let builder = model(&[2, 9], |m| {
        m.parameter("w", &[4, 2, 3], Fill::Normal(1.0));
        m.node("Conv", "a", &["input", "w"], &[("pads", Attribute::Ints(&[1, 0])), ("strides", Attribute::Ints(&[2]))]);
        m.node("MaxPool", "b", &["a"], &[("kernel_shape", Attribute::Ints(&[2]))]);
        m.node("GlobalAveragePool", "output", &["b"], &[]);
    });
    let graph = imported(builder).graph;
    assert_eq!(*graph.shape(graph.output.unwrap()), Shape::batched(&[4, 1]));
    assert!(operations(&graph).contains(&"convolution"));
}

#[test]
fn reductions_of_every_kind() {
    for (op, found) in [
        ("ReduceSum", vec!["sum_to", "reshape"]),
        ("ReduceMax", vec!["reduce_max"]),
        ("ReduceMin", vec!["mul", "reduce_max", "mul"]),
        ("ReduceL1", vec!["unary", "sum_to", "reshape"]),
        ("ReduceL2", vec!["mul", "sum_to", "reshape", "unary"]),
        ("ReduceSumSquare", vec!["mul", "sum_to", "reshape"]),
    ] {
        let reduce = |axes: &[i64]| {
            model(&[3, 4], |m| {
                m.list("axes", axes);
                m.node(op, "output", &["input", "axes"], &[("keepdims", Attribute::Int(0))]);
            })
        };
        let graph = imported(reduce(&[-1])).graph;
        assert_eq!(operations(&graph), found, "{op}");
        assert_eq!(*graph.shape(graph.output.unwrap()), Shape::batched(&[3]));
        assert_refused(reduce(&[0, 1]), Kind::Unsupported, &[op, "axes [0, 1]"]);
    }
}

#[test]
fn padding_with_constants_becomes_nodes() {
    let builder = model(&[5], |m| {
        m.list("amounts", &[0, -1, 0, 2]);
        m.tensor("val_1", &[], &[1.5]);
        m.node("Pad", "output", &["input", "amounts", "val_1"], &[]);
    });
    let graph = imported(builder).graph;
    assert_eq!(operations(&graph), ["slice", "pad"]);
    assert_eq!(*graph.shape(graph.output.unwrap()), Shape::batched(&[6]));
    let batch = model(&[5], |m| {
        m.list("amounts", &[1, 0, 0, 0]);
        m.node("Pad", "output", &["input", "amounts"], &[]);
    });
    assert_refused(batch, Kind::Unsupported, &["takes examples of [N, 5] apart"]);
}

#[test]
fn casts_between_floats_are_nothing() {
    let cast = |to: i64| {
        model(&[5], |m| {
            m.node("Cast", "a", &["input"], &[("to", Attribute::Int(to))]);
            m.node("CastLike", "b", &["a", "input"], &[]);
            m.node("Relu", "output", &["b"], &[]);
        })
    };
    assert_eq!(operations(&imported(cast(11)).graph), ["relu"]);
    assert_refused(cast(10), Kind::ElementType, &["Cast", "float16", "float32 and float64"]);
}

#[test]
fn blocks_move_between_depth_and_space() {
    let builder = model(&[8, 3, 5], |m| {
        m.node("DepthToSpace", "a", &["input"], &[("blocksize", Attribute::Int(2)), ("mode", Attribute::Text("CRD"))]);
        m.node("SpaceToDepth", "output", &["a"], &[("blocksize", Attribute::Int(2))]);
    });
    let graph = imported(builder).graph;
    assert_eq!(*graph.shape(graph.output.unwrap()), Shape::batched(&[8, 3, 5]));
    let uneven = model(&[6, 3, 5], |m| {
        m.node("DepthToSpace", "output", &["input"], &[("blocksize", Attribute::Int(2))]);
    });
    assert_refused(uneven, Kind::Shape, &["blocks of 2 of 6 channels"]);
}
