//! A small vision transformer for images of 32x32: four blocks over patches of 4x4 and a class token, normalization first.

use super::ZooOptions;
use super::builder::{Attribute, Fill, ModelBuilder};

/// Blocks, heads of each, and rows and columns of a patch at most.
const BLOCKS: usize = 4;
const HEADS: usize = 4;
const PATCH: usize = 4;

/// Standard deviation of projections, as Dosovitskiy et al. draw them.
const DEVIATION: f64 = 0.02;

pub(super) fn vit(input: [usize; 3], classes: usize, options: &ZooOptions) -> ModelBuilder {
    let mut model = ModelBuilder::new("vit", &input, options.seed);
    let [channels, rows, columns] = input;
    let patch = PATCH.min(rows).min(columns);
    let (width, tokens) = (64 * options.width, (rows / patch) * (columns / patch) + 1);
    constants(&mut model, width);
    let fan = (channels * patch * patch) as f64;
    let weight = model.parameter("patches.weight", &[width, channels, patch, patch], Fill::Normal((1.0 / fan).sqrt()));
    let bias = model.parameter("patches.bias", &[width], Fill::Constant(0.0));
    let stride = patch as i64;
    let x = model.node("Conv", "patches.output", &["input", &weight, &bias], &[("strides", Attribute::Ints(&[stride, stride]))]);
    let x = model.node("Reshape", "patches.flat", &[&x, "patches.extents"], &[]);
    let x = model.node("Transpose", "patches.tokens", &[&x], &[("perm", Attribute::Ints(&[0, 2, 1]))]);
    let class = model.parameter("class_token", &[1, 1, width], Fill::Normal(DEVIATION));
    let shape = model.node("Shape", "batch", &["input"], &[("start", Attribute::Int(0)), ("end", Attribute::Int(1))]);
    let target = model.node("Concat", "class_token.extents", &[&shape, "one", "one"], &[("axis", Attribute::Int(0))]);
    let class = model.node("Expand", "class_token.output", &[&class, &target], &[]);
    let x = model.node("Concat", "tokens.output", &[&class, &x], &[("axis", Attribute::Int(1))]);
    let position = model.parameter("position", &[1, tokens, width], Fill::Normal(DEVIATION));
    let mut x = model.node("Add", "position.output", &[&x, &position], &[]);
    for number in 0..BLOCKS {
        x = block(&mut model, &format!("block{number}"), width, &x);
    }
    let x = layer_norm(&mut model, "norm", width, &x);
    let x = model.node("Gather", "class.output", &[&x, "first"], &[("axis", Attribute::Int(1))]);
    let weight = model.parameter("head.weight", &[classes, width], Fill::Normal(0.01));
    let bias = model.parameter("head.bias", &[classes], Fill::Constant(0.0));
    model.node("Gemm", "output", &[&x, &weight, &bias], &[("transB", Attribute::Int(1))]);
    model.output("output", &[classes])
}

/// What the nodes read beside learned tensors.
fn constants(model: &mut ModelBuilder, width: usize) {
    let (width, heads) = (width as i64, HEADS as i64);
    model.list("patches.extents", &[0, width, -1]);
    model.list("one", &[1]);
    model.list("heads.extents", &[0, -1, 3, heads, width / heads]);
    model.list("joined.extents", &[0, -1, width]);
    model.list("q.index", &[0]);
    model.list("k.index", &[1]);
    model.list("v.index", &[2]);
    model.index("first", 0);
    model.tensor("Constant.scale", &[], &[1.0 / ((width / heads) as f32).sqrt()]);
    model.tensor("Constant.sqrt_half", &[], &[std::f32::consts::FRAC_1_SQRT_2]);
    model.tensor("Constant.one", &[], &[1.0]);
    model.tensor("Constant.half", &[], &[0.5]);
}

fn layer_norm(model: &mut ModelBuilder, name: &str, width: usize, x: &str) -> String {
    let scale = model.parameter(&format!("{name}.weight"), &[width], Fill::Constant(1.0));
    let shift = model.parameter(&format!("{name}.bias"), &[width], Fill::Constant(0.0));
    model.node("LayerNormalization", &format!("{name}.output"), &[x, &scale, &shift], &[("axis", Attribute::Int(-1))])
}

fn projection(model: &mut ModelBuilder, name: &str, [inputs, outputs]: [usize; 2], x: &str) -> String {
    let weight = model.parameter(&format!("{name}.weight"), &[inputs, outputs], Fill::Normal(DEVIATION));
    let bias = model.parameter(&format!("{name}.bias"), &[outputs], Fill::Constant(0.0));
    let product = model.node("MatMul", &format!("{name}.product"), &[x, &weight], &[]);
    model.node("Add", &format!("{name}.output"), &[&product, &bias], &[])
}

/// x + attention(norm(x)), then that + mlp(norm(that)).
fn block(model: &mut ModelBuilder, name: &str, width: usize, x: &str) -> String {
    let normed = layer_norm(model, &format!("{name}.norm1"), width, x);
    let mixed = attention(model, &format!("{name}.attention"), width, &normed);
    let x = model.node("Add", &format!("{name}.add1.output"), &[x, &mixed], &[]);
    let normed = layer_norm(model, &format!("{name}.norm2"), width, &x);
    let hidden = projection(model, &format!("{name}.mlp.0"), [width, 2 * width], &normed);
    let hidden = gelu(model, &format!("{name}.mlp.gelu"), &hidden);
    let y = projection(model, &format!("{name}.mlp.1"), [2 * width, width], &hidden);
    model.node("Add", &format!("{name}.add2.output"), &[&x, &y], &[])
}

fn attention(model: &mut ModelBuilder, name: &str, width: usize, x: &str) -> String {
    let all = projection(model, &format!("{name}.qkv"), [width, 3 * width], x);
    let split = model.node("Reshape", &format!("{name}.heads"), &[&all, "heads.extents"], &[]);
    let by_kind = model.node("Transpose", &format!("{name}.by_kind"), &[&split], &[("perm", Attribute::Ints(&[2, 0, 3, 1, 4]))]);
    let [q, k, v] = ["q", "k", "v"].map(|kind| {
        let index = format!("{kind}.index");
        let part = model.node("Gather", &format!("{name}.{kind}_part"), &[&by_kind, &index], &[("axis", Attribute::Int(0))]);
        model.node("Squeeze", &format!("{name}.{kind}"), &[&part, "q.index"], &[])
    });
    let turned = model.node("Transpose", &format!("{name}.k_turned"), &[&k], &[("perm", Attribute::Ints(&[0, 1, 3, 2]))]);
    let product = model.node("MatMul", &format!("{name}.product"), &[&q, &turned], &[]);
    let scores = model.node("Mul", &format!("{name}.scores"), &[&product, "Constant.scale"], &[]);
    let shares = model.node("Softmax", &format!("{name}.shares"), &[&scores], &[("axis", Attribute::Int(-1))]);
    let mixed = model.node("MatMul", &format!("{name}.mixed"), &[&shares, &v], &[]);
    let by_token = model.node("Transpose", &format!("{name}.by_token"), &[&mixed], &[("perm", Attribute::Ints(&[0, 2, 1, 3]))]);
    let joined = model.node("Reshape", &format!("{name}.joined"), &[&by_token, "joined.extents"], &[]);
    projection(model, &format!("{name}.proj"), [width, width], &joined)
}

/// In the form of operator sets before 20.
fn gelu(model: &mut ModelBuilder, name: &str, x: &str) -> String {
    let scaled = model.node("Mul", &format!("{name}.scaled"), &[x, "Constant.sqrt_half"], &[]);
    let erf = model.node("Erf", &format!("{name}.erf"), &[&scaled], &[]);
    let share = model.node("Add", &format!("{name}.share"), &[&erf, "Constant.one"], &[]);
    let product = model.node("Mul", &format!("{name}.product"), &[x, &share], &[]);
    model.node("Mul", &format!("{name}.output"), &[&product, "Constant.half"], &[])
}
