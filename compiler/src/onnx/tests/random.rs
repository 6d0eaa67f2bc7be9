//! Stochastic depth and its like: what they become, what they do in a step, what is exported, what is refused.

use super::*;
use crate::onnx::template;
use crate::zoo::builder::{Attribute, Fill};

/// A draw of `op` for each example of `input`, `[N, 4]`; extents as exporters compute them.
fn drawn(m: &mut ModelBuilder, op: &str) {
    m.list("first", &[0]);
    m.list("one", &[1]);
    m.node("Shape", "shape", &["input"], &[]);
    m.node("Gather", "batch", &["shape", "first"], &[]);
    m.node("Concat", "extents", &["batch", "one"], &[("axis", Attribute::Int(0))]);
    m.node("ConstantOfShape", "empty", &["extents"], &[]);
    m.node(op, "draw", &["empty"], &[]);
}

/// Behind a truth value: what multiplies the input by it, and a layer.
fn applied(m: &mut ModelBuilder, keep: &str, switch: &str) {
    m.node("Div", "scaled", &[switch, keep], &[]);
    m.node("Mul", "kept", &["input", "scaled"], &[]);
    let identity: Vec<f32> = (0..16).map(|i| f32::from(u8::from(i % 5 == 0))).collect();
    m.tensor("w", &[4, 4], &identity);
    m.node("MatMul", "output", &["kept", "w"], &[]);
}

/// Rows of the input dropped a quarter of the time: torchvision's way (timm's), or that of Hugging Face.
fn stochastic_depth(floor: bool) -> ModelBuilder {
    model(&[4], |m| {
        drawn(m, "RandomUniformLike");
        m.tensor("onnx::keep", &[], &[0.75]);
        if floor {
            m.node("Add", "sum", &["draw", "onnx::keep"], &[]);
            m.node("Floor", "switch", &["sum"], &[]);
        } else {
            m.node("Less", "truth", &["draw", "onnx::keep"], &[]);
            m.node("Cast", "switch", &["truth"], &[("to", Attribute::Int(1))]);
        }
        applied(m, "onnx::keep", "switch");
    })
}

#[test]
fn a_draw_that_is_compared_or_rounded_is_a_switch() {
    for floor in [false, true] {
        let graph = imported(stochastic_depth(floor)).graph;
        assert_eq!(operations(&graph)[0], "bernoulli");
        let switch = graph.ids().into_iter().find(|&id| graph.node(id).op.operator().name() == "bernoulli").unwrap();
        let crate::op::Op::Bernoulli(op) = &graph.node(switch).op else { panic!("it is one") };
        assert_eq!((op.probability, op.shape.clone()), (0.75, crate::ir::Shape::batched(&[1])));
    }
    let above = model(&[4], |m| {
        drawn(m, "RandomUniformLike");
        m.tensor("onnx::rate", &[], &[0.25]);
        m.tensor("onnx::keep", &[], &[0.75]);
        m.node("Greater", "truth", &["draw", "onnx::rate"], &[]);
        m.node("Cast", "switch", &["truth"], &[("to", Attribute::Int(1))]);
        applied(m, "onnx::keep", "switch");
    });
    assert_eq!(operations(&imported(above).graph)[0], "bernoulli");
}

#[test]
fn a_tensor_of_probabilities_is_drawn_by_bernoulli() {
    let builder = model(&[4], |m| {
        m.list("one", &[1]);
        m.list("first", &[0]);
        m.node("Shape", "shape", &["input"], &[]);
        m.node("Gather", "batch", &["shape", "first"], &[]);
        m.node("Concat", "extents", &["batch", "one"], &[("axis", Attribute::Int(0))]);
        m.tensor("onnx::keep", &[], &[0.5]);
        m.node("Expand", "probabilities", &["onnx::keep", "extents"], &[]);
        m.node("Bernoulli", "switch", &["probabilities"], &[]);
        applied(m, "onnx::keep", "switch");
    });
    assert_eq!(operations(&imported(builder).graph)[0], "bernoulli");
}

#[test]
fn the_exported_model_holds_the_probability() {
    for floor in [false, true] {
        let first = imported(stochastic_depth(floor));
        let made = template::template(&first.source, &first.graph, &first.graph.parameters(), &[]).unwrap();
        let file = super::super::import::parse(&made.bytes).unwrap();
        let ops: Vec<&str> = file.graph.node.iter().map(|node| node.op_type.as_str()).collect();
        assert!(!ops.iter().any(|op| op.starts_with("Random") || matches!(*op, "Shape" | "Less" | "Floor")), "{ops:?}");
        let again = import_bytes(&made.bytes, None).unwrap();
        assert!(!operations(&again.graph).contains(&"bernoulli"));
        assert_eq!(first.graph.initial.values().collect::<Vec<_>>(), again.graph.initial.values().collect::<Vec<_>>());
    }
}

#[test]
fn what_is_no_switch_is_refused() {
    let whole_batch = model(&[4], |m| {
        m.tensor("onnx::like", &[1, 1], &[0.0]);
        m.tensor("onnx::keep", &[], &[0.75]);
        m.node("RandomUniformLike", "draw", &["onnx::like"], &[]);
        m.node("Less", "truth", &["draw", "onnx::keep"], &[]);
        m.node("Cast", "switch", &["truth"], &[("to", Attribute::Int(1))]);
        applied(m, "onnx::keep", "switch");
    });
    assert_refused(whole_batch, Kind::Unsupported, &["'truth' (Less)", "for all examples of a batch", "mode=\"row\""]);
    let noise = model(&[4], |m| {
        m.node("RandomUniformLike", "draw", &["input"], &[]);
        m.node("Add", "output", &["input", "draw"], &[]);
    });
    assert_refused(noise, Kind::Unsupported, &["'output' (Add)", "otherwise than as a switch"]);
    let chosen = model(&[4], |m| {
        drawn(m, "RandomUniformLike");
        m.tensor("onnx::keep", &[], &[0.75]);
        m.node("Less", "truth", &["draw", "onnx::keep"], &[]);
        m.parameter("other", &[4], Fill::Normal(1.0));
        m.node("Where", "output", &["truth", "input", "other"], &[]);
    });
    assert_refused(chosen, Kind::Unsupported, &["'truth' (Less)", "read by 'output'", "cast it"]);
    let never = model(&[4], |m| {
        drawn(m, "RandomUniformLike");
        m.tensor("onnx::keep", &[], &[0.0]);
        m.node("Less", "truth", &["draw", "onnx::keep"], &[]);
        m.node("Cast", "output", &["truth"], &[("to", Attribute::Int(1))]);
    });
    assert_refused(never, Kind::Unsupported, &["with probability 0"]);
}

#[cfg(feature = "jit")]
#[test]
fn a_step_drops_whole_examples_and_an_evaluation_none() {
    use crate::engine::jit::Jit;
    use crate::pipeline;
    use mest_runtime::lanes::Isa;
    use mest_runtime::network::{self, Network, Phase, Target};
    use mest_runtime::recipe::{Loss, Recipe};
    use mest_runtime::sparse::state::{self, InitialMasks};

    const BATCH: usize = 256;
    let mut settings = crate::settings::of_recipe(&Recipe { batch: BATCH, loss: Loss::Mse, ..Recipe::default() }, None);
    settings.sparsity.density = 1.0;
    let compiled = pipeline::compile(&imported(stochastic_depth(false)), &settings).unwrap();
    let mut outputs = Vec::new();
    for threads in [1, 2] {
        let mut net = Jit::new(compiled.program.clone(), Isa::best(), threads).unwrap();
        let manifest = net.manifest().clone();
        state::initialize(&manifest, net.arena_mut(), &InitialMasks::Given(Default::default()), 5).unwrap();
        let input: Vec<f32> = (0..BATCH * 4).map(|i| 1.0 + i as f32).collect();
        let wanted = vec![0.0; BATCH * 4];
        network::load_batch(&mut net, &input, Target::Values(&wanted), BATCH).unwrap();
        net.run(Phase::Evaluate);
        assert_eq!(network::output(&net), input);
        net.run(Phase::Train);
        let output = network::output(&net);
        let mut dropped = 0;
        for (got, x) in output.chunks(4).zip(input.chunks(4)) {
            let scaled: Vec<f32> = x.iter().map(|x| x / 0.75).collect();
            let close = got.iter().zip(&scaled).all(|(got, wanted)| (got - wanted).abs() <= 1e-6 * wanted);
            assert!(close || got == [0.0; 4], "{got:?} of {x:?}");
            dropped += usize::from(!close);
        }
        // 64 of 256 expected, within four standard deviations.
        assert!((36..=92).contains(&dropped), "{dropped} of {BATCH} are dropped");
        outputs.push(output);
    }
    assert_eq!(outputs[0], outputs[1]);
}
