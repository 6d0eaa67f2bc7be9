use super::*;
use crate::onnx::import;
use crate::zoo::builder::Attribute;
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{Message, NodeProto, StringStringEntryProto, TensorProto, TypeProto, type_proto};
use std::path::Path;

fn one_relu() -> ModelBuilder {
    model(&[4], |m| {
        m.node("Relu", "output", &["input"], &[]);
    })
}

/// x [N, 4] times a 4x3 matrix `w`.
fn one_product() -> ModelBuilder {
    model(&[4], |m| {
        m.tensor("w", &[4, 3], &[0.5; 12]);
        m.node("MatMul", "output", &["input", "w"], &[]);
    })
}

fn tensor(graph: &mut GraphProto) -> &mut TensorProto {
    &mut graph.initializer[0]
}

#[test]
fn truncation_is_found_with_its_offset() {
    let bytes = one_product().finish();
    for length in [1, bytes.len() / 2, bytes.len() - 1] {
        let report = import_bytes(&bytes[..length], None).unwrap_err();
        assert_eq!(report.problems[0].kind, Kind::Malformed, "{length}: {report}");
    }
    assert_report(&import_bytes(&bytes[..bytes.len() - 1], None).unwrap_err(), Kind::Malformed, &["byte ", "announces", "truncated"]);
    assert_report(&import_bytes(b"", None).unwrap_err(), Kind::Malformed, &["no graph"]);
}

#[test]
fn every_prefix_and_every_flipped_byte_is_survived() {
    let bytes = one_product().finish();
    for end in 0..bytes.len() {
        let _ = import_bytes(&bytes[..end], None);
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[end] ^= flip;
            let _ = import_bytes(&damaged, None);
        }
    }
}

#[test]
fn groups_and_deep_nesting_do_not_exhaust_the_stack() {
    let groups = vec![0x0b; 1 << 20];
    assert_report(&import_bytes(&groups, None).unwrap_err(), Kind::Malformed, &["wire type 3"]);
    let mut nested = NodeProto { op_type: "If".into(), ..Default::default() };
    for _ in 0..60 {
        let mut graph = GraphProto::default();
        graph.node.push(nested);
        let attribute = onnx_protobuf::AttributeProto { name: "g".into(), g: Some(graph).into(), ..Default::default() };
        nested = NodeProto { op_type: "If".into(), attribute: vec![attribute], ..Default::default() };
    }
    let builder = corrupt(one_relu(), |graph| graph.node.push(nested));
    assert_refused(builder, Kind::Malformed, &["nested more than 64 deep"]);
}

#[test]
fn versions_outside_the_range_are_refused() {
    let with = |change: fn(&mut ModelBuilder)| {
        let mut builder = one_relu();
        change(&mut builder);
        builder
    };
    assert_refused(with(|b| b.model.ir_version = 2), Kind::Version, &["IR version 2"]);
    assert_refused(with(|b| b.model.opset_import.clear()), Kind::Version, &["no version"]);
    for version in [6, 29, -1] {
        let mut builder = one_relu();
        builder.model.opset_import[0].version = version;
        assert_refused(builder, Kind::Version, &[&format!("operator set {version}"), "7 to 28"]);
    }
}

#[test]
fn all_unsupported_nodes_are_in_one_report() {
    let builder = model(&[4], |m| {
        m.node("Einsum", "a", &["input"], &[]);
        m.node("Relu", "b", &["a"], &[]);
        m.node("GridSample", "output", &["b"], &[]);
    });
    let builder = corrupt(builder, |graph| {
        graph.node[2].name.clear();
        graph.node[1].domain = "com.example".into();
    });
    let report = refused(builder);
    let text = report.to_string();
    assert_eq!(report.problems.len(), 3);
    assert!(report.only_unsupported());
    for word in ["3 problems", "node 'a' (Einsum)", "'GridSample:output'", "com.example.Relu", "mestc ops"] {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

#[test]
fn names_are_defined_once_and_before_use() {
    let twice = corrupt(one_relu(), |graph| graph.node.push(graph.node[0].clone()));
    assert_refused(twice, Kind::Name, &["defines 'output'", "already"]);
    let shadowed = corrupt(one_product(), |graph| tensor(graph).name = "output".into());
    assert_refused(shadowed, Kind::Name, &["defines 'output'"]);
    let repeated = corrupt(one_product(), |graph| graph.initializer.push(graph.initializer[0].clone()));
    assert_refused(repeated, Kind::Name, &["initialiser 'w'", "twice"]);
    let missing = corrupt(one_product(), |graph| graph.initializer.clear());
    assert_refused(missing, Kind::Name, &["node 'output'", "'w'", "nothing defines"]);
}

#[test]
fn cycles_are_named() {
    let builder = model(&[4], |m| {
        m.node("Add", "a", &["input", "b"], &[]);
        m.node("Relu", "b", &["a"], &[]);
        m.node("Relu", "output", &["b"], &[]);
    });
    assert_refused(builder, Kind::Cycle, &["'a'", "'b'", "acyclic"]);
}

#[test]
fn nodes_out_of_order_are_put_in_order() {
    let builder = corrupt(
        model(&[4], |m| {
            m.node("Relu", "a", &["input"], &[]);
            m.node("Relu", "output", &["a"], &[]);
        }),
        |graph| graph.node.reverse(),
    );
    assert_eq!(operations(&imported(builder).graph), ["relu", "relu"]);
}

#[test]
fn sizes_that_contradict_the_data_are_refused() {
    let with_dims = |dims: &[i64]| {
        let dims = dims.to_vec();
        corrupt(one_product(), move |graph| tensor(graph).dims = dims)
    };
    assert_refused(with_dims(&[4, 4]), Kind::Size, &["initialiser 'w'", "need 64 bytes", "has 48"]);
    assert_refused(with_dims(&[1 << 40, 1 << 40]), Kind::Size, &["more than memory"]);
    assert_refused(with_dims(&[1 << 30, 1 << 28]), Kind::Size, &["the file has 48"]);
    assert_refused(with_dims(&[-4, -3]), Kind::Shape, &["negative"]);
    let empty = corrupt(one_product(), |graph| {
        tensor(graph).dims = vec![4, 0];
        tensor(graph).raw_data.clear();
    });
    assert_refused(empty, Kind::Shape, &["no element"]);
}

#[test]
fn element_types_are_named() {
    for (number, name) in [(10, "float16"), (11, "double"), (16, "bfloat16"), (8, "string"), (99, "99")] {
        let builder = corrupt(one_product(), |graph| tensor(graph).data_type = number);
        assert_refused(builder, Kind::ElementType, &["'w'", name, "float32", "model.float()"]);
    }
}

#[test]
fn inputs_that_cannot_be_trained_on_are_refused() {
    let with_input = |change: fn(&mut GraphProto)| corrupt(one_relu(), change);
    fn tensor_type(graph: &mut GraphProto) -> &mut type_proto::Tensor {
        match graph.input[0].type_.as_mut().unwrap().value.as_mut().unwrap() {
            type_proto::Value::TensorType(tensor) => tensor,
            _ => unreachable!("the builder writes tensors"),
        }
    }
    let without = corrupt(one_product(), |graph| {
        graph.input.clear();
        graph.node[0].input[0] = "w".into();
    });
    assert_refused(without, Kind::Unsupported, &["0 data inputs"]);
    let second = |g: &mut GraphProto| {
        let mut other = g.input[0].clone();
        other.name = "other".into();
        g.input.push(other);
    };
    assert_refused(with_input(second), Kind::Unsupported, &["2 data inputs", "'other'"]);
    assert_refused(with_input(|g| tensor_type(g).elem_type = 8), Kind::ElementType, &["string"]);
    let sequence = |g: &mut GraphProto| {
        let value = Some(type_proto::Value::SequenceType(type_proto::Sequence::default()));
        g.input[0].type_ = Some(TypeProto { value, ..Default::default() }).into();
    };
    assert_refused(with_input(sequence), Kind::ElementType, &["not a tensor"]);
    let set = |axis: usize, extent: i64| {
        corrupt(one_relu(), move |g| {
            tensor_type(g).shape.as_mut().unwrap().dim[axis].value =
                Some(onnx_protobuf::tensor_shape_proto::dimension::Value::DimValue(extent));
        })
    };
    assert_refused(set(0, 0), Kind::Shape, &["batch of 0"]);
    assert_refused(set(1, 0), Kind::Shape, &["axis 1 has extent 0"]);
    assert_refused(set(1, i64::MAX), Kind::Size, &["larger than memory"]);
    assert_refused(with_input(|g| tensor_type(g).shape.as_mut().unwrap().dim[1].value = None), Kind::Shape, &["axis 1", "symbolic"]);
}

#[test]
fn outputs_must_be_one_that_depends_on_the_input() {
    let two = corrupt(one_relu(), |g| g.output.push(g.output[0].clone()));
    assert_refused(two, Kind::Unsupported, &["2 outputs"]);
    let nowhere = corrupt(one_relu(), |g| g.output[0].name = "nowhere".into());
    assert_refused(nowhere, Kind::Name, &["output 'nowhere'", "no node"]);
    let constant = corrupt(one_product(), |g| g.node[0].input[0] = "w".into());
    assert_refused(constant, Kind::Unsupported, &["multiplies"]);
}

#[test]
fn attributes_of_the_wrong_type_are_refused() {
    let conv = |attribute: (&str, Attribute<'_>)| {
        model(&[1, 8, 8], |m| {
            m.tensor("w", &[2, 1, 3, 3], &[1.0; 18]);
            m.node("Conv", "output", &["input", "w"], &[attribute]);
        })
    };
    assert_refused(conv(("strides", Attribute::Float(2.0))), Kind::Attribute, &["'strides'", "FLOAT", "INTS"]);
    assert_refused(conv(("strides", Attribute::Ints(&[0, 1]))), Kind::Attribute, &["strides", "[0, 1]"]);
    assert_refused(conv(("strides", Attribute::Ints(&[1]))), Kind::Attribute, &["2 numbers"]);
    assert_refused(conv(("pads", Attribute::Ints(&[-1, 0, 0, 0]))), Kind::Attribute, &["pads"]);
    assert_refused(conv(("pads", Attribute::Ints(&[i64::MAX, 0, 0, 0]))), Kind::Attribute, &["65536"]);
    assert_refused(conv(("dilations", Attribute::Ints(&[9, 9]))), Kind::Shape, &["node 'output'"]);
    assert_refused(conv(("group", Attribute::Int(3))), Kind::Shape, &["groups"]);
    assert_refused(conv(("group", Attribute::Int(0))), Kind::Attribute, &["group is 0"]);
    assert_refused(conv(("kernel_shape", Attribute::Ints(&[5, 5]))), Kind::Shape, &["[5, 5]", "[3, 3]"]);
    assert_refused(conv(("auto_pad", Attribute::Text("SIDEWAYS"))), Kind::Attribute, &["SIDEWAYS"]);
    assert_refused(conv(("colour", Attribute::Int(1))), Kind::Attribute, &["'colour'", "not known"]);
    let empty = corrupt(
        model(&[4], |m| {
            m.node("Constant", "c", &[], &[("value", Attribute::Int(1))]);
            m.node("Add", "output", &["input", "c"], &[]);
        }),
        |g| g.node[0].attribute[0].type_ = onnx_protobuf::attribute_proto::AttributeType::TENSOR.into(),
    );
    assert_refused(empty, Kind::Attribute, &["no tensor in it"]);
}

#[test]
fn constants_computed_at_import_are_bounded() {
    let builder = model(&[4], |m| {
        m.list("huge", &[1 << 20, 1 << 20]);
        m.node("ConstantOfShape", "c", &["huge"], &[]);
        m.node("Add", "output", &["input", "c"], &[]);
    });
    assert_refused(builder, Kind::Size, &["1099511627776 elements"]);
}

/// A product whose weight lies in `location`, written to a folder of its own with a data file beside it.
fn external(location: &str, entries: &[(&str, &str)], prepare: impl Fn(&Path)) -> Result<Imported, ImportReport> {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    std::fs::create_dir(&models).unwrap();
    std::fs::write(models.join("weights.bin"), [0u8; 64]).unwrap();
    std::fs::write(folder.path().join("secret.bin"), [0u8; 64]).unwrap();
    prepare(folder.path());
    let builder = corrupt(one_product(), |graph| {
        let tensor = tensor(graph);
        tensor.raw_data.clear();
        tensor.data_location = DataLocation::EXTERNAL.into();
        for (key, value) in entries.iter().chain(&[("location", location)]) {
            let entry = StringStringEntryProto { key: (*key).into(), value: (*value).into(), ..Default::default() };
            tensor.external_data.push(entry);
        }
    });
    let path = models.join("model.onnx");
    std::fs::write(&path, builder.model.write_to_bytes().unwrap()).unwrap();
    import(&path)
}

#[test]
fn external_data_is_read_from_the_models_folder() {
    let imported = external("weights.bin", &[("offset", "16"), ("length", "48")], |_| {}).unwrap();
    assert_eq!(imported.graph.initial.values().next().unwrap().values, [0.0; 12]);
}

#[test]
fn external_data_elsewhere_is_refused() {
    let assert = |location: &str, entries: &[(&str, &str)], words: &[&str]| {
        assert_report(&external(location, entries, |_| {}).unwrap_err(), Kind::ExternalData, words);
    };
    assert("../secret.bin", &[], &["initialiser 'w'", "../secret.bin", "inside the model's folder"]);
    assert("/etc/hostname", &[], &["/etc/hostname", "inside"]);
    assert("absent.bin", &[], &["absent.bin", "beside the model"]);
    assert(".", &[], &["not a file"]);
    assert("weights.bin", &[("offset", "17")], &["64 bytes", "48 from byte 17"]);
    assert("weights.bin", &[("offset", "18446744073709551615")], &["asked for"]);
    assert("weights.bin", &[("length", "47")], &["need 48 bytes", "47"]);
    assert("weights.bin", &[("offset", "ten")], &["'ten'"]);
    let without_folder = corrupt(one_product(), |graph| {
        tensor(graph).data_location = DataLocation::EXTERNAL.into();
        let entry = StringStringEntryProto { key: "location".into(), value: "weights.bin".into(), ..Default::default() };
        tensor(graph).external_data.push(entry);
    });
    assert_refused(without_folder, Kind::ExternalData, &["no folder"]);
}

#[cfg(unix)]
#[test]
fn external_data_behind_a_symbolic_link_is_refused() {
    let link = |folder: &Path| std::os::unix::fs::symlink(folder.join("secret.bin"), folder.join("models/link.bin")).unwrap();
    assert_report(&external("link.bin", &[], link).unwrap_err(), Kind::ExternalData, &["link.bin", "symbolic link"]);
}
