//! What imported operations compute, by the interpreter.

use super::*;
use crate::engine::interp::{Interpreter, Sources};
use crate::op::{Op, Reference};
use crate::zoo::builder::{Attribute, Fill};

/// The output for a batch of one, `x` its elements; parameters as the file has them.
fn evaluate(builder: ModelBuilder, x: &[f64]) -> Reference {
    let graph = imported(builder).graph;
    let mut sources = Sources::new();
    for id in graph.ids() {
        match &graph.node(id).op {
            Op::Input(input) => {
                let dims = [vec![1], input.shape.fixed()].concat();
                sources.insert(id, Reference { dims, values: x.to_vec() });
            }
            Op::Parameter(parameter) => {
                let values = graph.initial[&id].values.iter().map(|&value| f64::from(value)).collect();
                sources.insert(id, Reference { dims: parameter.dims.clone(), values });
            }
            _ => {}
        }
    }
    let output = graph.output.unwrap();
    Interpreter::new(&graph).unwrap().evaluate(&sources, &[output]).unwrap().remove(0)
}

#[track_caller]
fn assert_near(found: &[f64], wanted: &[f64], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let worst = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-5, "{what}: {found:?}, not {wanted:?}");
}

/// Windows of `kernel` over a volume, by definition: the elements each holds, and its positions within the padding.
fn windows(extents: [usize; 3], kernel: usize, stride: usize, pad: usize, ceil: bool) -> Vec<(Vec<usize>, usize)> {
    let outputs = extents.map(|extent| {
        let room = extent + 2 * pad - kernel;
        let floor = room / stride + 1;
        if ceil && !room.is_multiple_of(stride) && floor * stride < extent + pad { floor + 1 } else { floor }
    });
    let axis = |i: usize, o: usize| -> (Vec<usize>, usize) {
        let places = (0..kernel).map(|k| o * stride + k).filter(|&place| place < extents[i] + 2 * pad);
        let inside = places.clone().filter_map(|place| place.checked_sub(pad)).filter(|&place| place < extents[i]);
        (inside.collect(), places.count())
    };
    let mut all = Vec::new();
    for d in 0..outputs[0] {
        for h in 0..outputs[1] {
            for w in 0..outputs[2] {
                let [(ds, in_d), (hs, in_h), (ws, in_w)] = [axis(0, d), axis(1, h), axis(2, w)];
                let mut elements = Vec::new();
                for &d in &ds {
                    elements.extend(hs.iter().flat_map(|&h| ws.iter().map(move |&w| (d * extents[1] + h) * extents[2] + w)));
                }
                all.push((elements, in_d * in_h * in_w));
            }
        }
    }
    all
}

#[test]
fn volumes_are_pooled_as_defined() {
    let extents = [4, 5, 6];
    let x: Vec<f64> = (0..120).map(|i| f64::from((i * 37) % 61) / 10.0 - 3.0).collect();
    for (kernel, stride, pad, ceil) in [(2, 1, 0, false), (3, 2, 1, false), (3, 2, 1, true), (2, 3, 0, true)] {
        let found = |op: &str, more: Option<(&str, i64)>| {
            let (kernel, stride, pads) = ([kernel as i64; 3], [stride as i64; 3], [pad as i64; 6]);
            let mut attributes =
                vec![("kernel_shape", Attribute::Ints(&kernel)), ("strides", Attribute::Ints(&stride)), ("pads", Attribute::Ints(&pads))];
            attributes.push(("ceil_mode", Attribute::Int(i64::from(ceil))));
            attributes.extend(more.map(|(name, value)| (name, Attribute::Int(value))));
            evaluate(
                model(&[1, 4, 5, 6], |m| {
                    m.node(op, "output", &["input"], &attributes);
                }),
                &x,
            )
            .values
        };
        let windows = windows(extents, kernel, stride, pad, ceil);
        let each = |f: &dyn Fn(&[f64], usize) -> f64| -> Vec<f64> {
            windows.iter().map(|(at, padded)| f(&at.iter().map(|&i| x[i]).collect::<Vec<_>>(), *padded)).collect()
        };
        let what = format!("kernel {kernel}, stride {stride}, pad {pad}, ceil {ceil}");
        assert_near(&found("MaxPool", None), &each(&|x, _| x.iter().copied().fold(f64::MIN, f64::max)), &what);
        assert_near(&found("AveragePool", None), &each(&|x, _| x.iter().sum::<f64>() / x.len() as f64), &what);
        let counted = found("AveragePool", Some(("count_include_pad", 1)));
        assert_near(&counted, &each(&|x, padded| x.iter().sum::<f64>() / padded as f64), &what);
        for p in [1, 2, 3] {
            let norm = each(&|x, _| x.iter().map(|x| x.abs().powi(p)).sum::<f64>().powf(1.0 / f64::from(p)));
            assert_near(&found("LpPool", Some(("p", i64::from(p)))), &norm, &format!("{what}, p {p}"));
        }
    }
}

#[test]
fn pooling_refuses_what_it_cannot_be() {
    let pool = |dims: &[usize], kernel: &[i64], p: i64| {
        let attributes = [("kernel_shape", Attribute::Ints(kernel)), ("p", Attribute::Int(p))];
        model(dims, |m| {
            m.node("LpPool", "output", &["input"], &attributes);
        })
    };
    assert_refused(pool(&[2, 4], &[2], 9), Kind::Attribute, &["p is 9", "between 1 and 8"]);
    assert_refused(pool(&[2, 4], &[2, 2], 2), Kind::Attribute, &["kernel_shape", "1 numbers are needed"]);
    assert_refused(pool(&[4], &[2], 2), Kind::Unsupported, &["runs over [N, 4]"]);
}

/// Two positions of two heads of two features; values equal keys equal queries unless said otherwise.
fn attention(mask: impl FnOnce(&mut ModelBuilder) -> bool, attributes: &[(&str, Attribute)]) -> ModelBuilder {
    model(&[2, 2, 2], |m| {
        m.model.opset_import[0].version = 23;
        let masked = mask(m);
        m.node("Attention", "output", if masked { &["input", "input", "input", "mask"] } else { &["input", "input", "input"] }, attributes);
    })
}

const HEADS: [f64; 8] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];

#[test]
fn what_masks_leave_nothing_of_is_zero() {
    // The second position is hidden from the first, which leaves it alone, and the first row of the mask hides the first.
    let causal = [("is_causal", Attribute::Int(1))];
    let found = evaluate(attention(|_| false, &causal), &HEADS).values;
    assert_near(&[found[0], found[1], found[4], found[5]], &[1.0, 2.0, 5.0, 6.0], "causal");
    let never = f32::NEG_INFINITY;
    let masked = |m: &mut ModelBuilder| {
        m.tensor("val_1", &[2, 2], &[never, 0.0, 0.0, never]);
        m.node("Identity", "mask", &["val_1"], &[]);
        true
    };
    let found = evaluate(attention(masked, &causal), &HEADS).values;
    assert_near(&found, &[0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 5.0, 6.0], "causal and masked");
    // Truth values that the model computes: positions with a positive feature may be seen; none has one.
    let computed = |m: &mut ModelBuilder| {
        m.tensor("val_1", &[], &[100.0]);
        m.node("Slice", "first", &["input", "from", "to", "axis"], &[]);
        m.list("from", &[0]);
        m.list("to", &[1]);
        m.list("axis", &[3]);
        m.node("Greater", "large", &["first", "val_1"], &[]);
        m.node("Transpose", "mask", &["large"], &[("perm", Attribute::Ints(&[0, 1, 3, 2]))]);
        true
    };
    assert_near(&evaluate(attention(computed, &[]), &HEADS).values, &[0.0; 8], "computed");
    let wrong = |m: &mut ModelBuilder| {
        m.tensor("val_1", &[3, 2], &[0.0; 6]);
        m.node("Identity", "mask", &["val_1"], &[]);
        true
    };
    assert_refused(attention(wrong, &causal), Kind::Shape, &["masks 2 x 2 scores by [3, 2]"]);
}

#[test]
fn heads_of_queries_share_heads_of_keys() {
    let builder = |shared: bool| {
        model(&[4, 2, 2], |m| {
            m.model.opset_import[0].version = 23;
            m.list("start", &[0]);
            m.list("end", &[2]);
            m.list("axis", &[1]);
            m.list("twice", &[0, 0, 1, 1]);
            m.node("Slice", "few", &["input", "start", "end", "axis"], &[]);
            m.node("Gather", "all", &["few", "twice"], &[("axis", Attribute::Int(1))]);
            let keys = if shared { "few" } else { "all" };
            m.node("Attention", "output", &["input", keys, keys], &[]);
        })
    };
    let x: Vec<f64> = (0..16).map(|i| f64::from(i % 7) / 3.0).collect();
    assert_near(&evaluate(builder(true), &x).values, &evaluate(builder(false), &x).values, "grouped");
    let uneven = model(&[4, 2, 2], |m| {
        m.model.opset_import[0].version = 23;
        m.list("start", &[0]);
        m.list("end", &[3]);
        m.list("axis", &[1]);
        m.node("Slice", "few", &["input", "start", "end", "axis"], &[]);
        m.node("Attention", "output", &["input", "few", "few"], &[]);
    });
    assert_refused(uneven, Kind::Attribute, &["4 heads of queries share 3 heads"]);
}

#[test]
fn constants_are_reduced_at_import() {
    for (op, wanted) in [("ReduceMax", [3.0, 6.0]), ("ReduceMin", [1.0, 4.0]), ("ReduceSum", [6.0, 15.0]), ("ReduceMean", [2.0, 5.0])] {
        let builder = model(&[2], |m| {
            m.model.opset_import[0].version = 18;
            m.node("Constant", "numbers", &[], &[("value_floats", Attribute::Floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))]);
            m.list("extents", &[2, 3]);
            m.list("axis", &[-1]);
            m.node("Reshape", "constant", &["numbers", "extents"], &[]);
            m.node(op, "reduced", &["constant", "axis"], &[("keepdims", Attribute::Int(0))]);
            m.node("Add", "output", &["input", "reduced"], &[]);
        });
        assert_near(&evaluate(builder, &[0.0, 0.0]).values, &wanted, op);
    }
}

#[test]
fn weights_that_begin_as_constants_may_be_seen_through_a_view() {
    let builder = model(&[4], |m| {
        m.list("extents", &[1, 8]);
        m.list("matrix", &[2, 4]);
        m.node("ConstantOfShape", "w", &["extents"], &[]);
        m.node("Reshape", "view", &["w", "matrix"], &[]);
        m.parameter("b", &[2], Fill::Normal(1.0));
        m.node("Gemm", "output", &["input", "view", "b"], &[("transB", Attribute::Int(1))]);
    });
    assert_eq!(parameter_names(&imported(builder).graph), ["w", "b"]);
}
