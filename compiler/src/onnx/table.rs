//! The table of ONNX operations: attributes, what becomes of them, and whether a gradient flows.

use super::import::{Call, Importer};
use super::prepare::{is_onnx, name_of};
use super::report::{Kind, Refusal};
use super::{layers, pointwise, pooling, shapes, softmax};
use onnx_protobuf::NodeProto;

/// One ONNX operation that import understands.
pub struct Mapping {
    /// Its ONNX name.
    pub onnx: &'static str,
    /// Attributes that are understood; any other is refused.
    pub attributes: &'static [&'static str],
    /// What it becomes, and what is refused.
    pub becomes: &'static str,
    /// Whether gradients flow through it; `false` where it is computed at import.
    pub gradient: bool,
    pub(super) convert: Convert,
}

pub(super) type Convert = for<'m> fn(&mut Importer<'m>, &Call<'m>) -> Result<(), Refusal>;

macro_rules! table {
    ($($name:literal [$($attribute:literal),*] $gradient:literal $convert:path: $becomes:literal;)*) => {
        /// Every operation that import understands, by name.
        pub static TABLE: &[Mapping] = &[$(Mapping {
            onnx: $name, attributes: &[$($attribute),*], becomes: $becomes, gradient: $gradient, convert: $convert,
        }),*];
    };
}

table! {
    "Add" [] true pointwise::add: "add, with broadcasting";
    "AveragePool" ["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"] true pooling::average_pool:
        "average_pool, 2-d";
    "BatchNormalization" ["epsilon", "momentum", "spatial", "training_mode"] true layers::batch_normalization:
        "batch_normalization, trained whether or not training_mode is set";
    "Cast" ["to", "saturate", "round_mode"] false shapes::not_folded: "computed at import";
    "CastLike" ["saturate", "round_mode"] false shapes::not_folded: "computed at import";
    "Clip" ["min", "max"] true pointwise::clip: "clip; bounds must be constant";
    "Concat" ["axis"] false shapes::not_folded: "computed at import, of shapes only";
    "Constant" ["value", "value_float", "value_floats", "value_int", "value_ints"] false shapes::not_folded: "constant";
    "ConstantOfShape" ["value"] false shapes::not_folded: "constant";
    "Conv" ["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"] true layers::conv: "convolution, 2-d, grouped";
    "Div" [] true pointwise::div: "mul by the reciprocal; the divisor must be constant";
    "Dropout" ["ratio", "seed"] true layers::dropout: "dropout; its mask may not be used";
    "Expand" [] false shapes::not_folded: "computed at import, of constants only";
    "Flatten" ["axis"] true shapes::flatten: "reshape; axis 1";
    "Gather" ["axis"] false shapes::not_folded: "computed at import, of shapes only";
    "Gemm" ["alpha", "beta", "transA", "transB"] true layers::gemm: "linear; transA = 0";
    "GlobalAveragePool" [] true pooling::global_average_pool: "reduce_mean";
    "GlobalMaxPool" [] true pooling::global_max_pool: "max_pool, 2-d";
    "HardSigmoid" ["alpha", "beta"] true pointwise::hard_sigmoid: "mul, add, clip";
    "HardSwish" [] true pointwise::hard_swish: "mul, add, clip, mul";
    "Identity" [] true shapes::identity: "its input";
    "LeakyRelu" ["alpha"] true pointwise::leaky_relu: "relu, clip, mul, add";
    "LogSoftmax" ["axis"] true softmax::log_softmax: "softmax, at the model's end; the loss is taken before it";
    "MatMul" [] true layers::mat_mul: "linear; the second operand a learned matrix";
    "Max" [] true pointwise::max: "clip; one operand constant";
    "MaxPool" ["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"] true pooling::max_pool:
        "max_pool, 2-d; its indices may not be used";
    "Min" [] true pointwise::min: "clip; one operand constant";
    "Mul" [] true pointwise::mul: "mul, with broadcasting";
    "Neg" [] true pointwise::neg: "mul by -1";
    "Pad" ["mode", "pads", "value"] true pooling::pad: "padding of the convolution behind it; zeros, around rows and columns";
    "PRelu" [] true pointwise::p_relu: "relu, clip, mul, add";
    "ReduceMean" ["axes", "keepdims", "noop_with_empty_axes"] true pooling::reduce_mean: "reduce_mean; over other axes than the batch";
    "Relu" [] true pointwise::relu: "relu";
    "Reshape" ["allowzero"] true shapes::reshape: "reshape; the batch stays first";
    "Shape" ["end", "start"] false shapes::not_folded: "computed at import";
    "Slice" ["axes", "ends", "starts"] false shapes::not_folded: "computed at import, of shapes only";
    "Softmax" ["axis"] true softmax::softmax: "softmax, at the model's end; the loss is taken before it";
    "Squeeze" ["axes"] true shapes::squeeze: "reshape";
    "Sub" [] true pointwise::sub: "add of the negative";
    "Sum" [] true pointwise::sum: "add";
    "Transpose" ["perm"] true shapes::transpose: "transpose of a parameter; of activations only where no element moves";
    "Unsqueeze" ["axes"] true shapes::unsqueeze: "reshape";
}

/// The row of a node's operation.
pub(super) fn find(node: &NodeProto) -> Result<&'static Mapping, Refusal> {
    if !is_onnx(&node.domain) {
        let why = format!("is of domain '{}'", node.domain);
        return Err(Refusal::unsupported(why, "only ONNX's own operations are known; export without custom or model-local functions"));
    }
    TABLE.iter().find(|m| m.onnx == node.op_type).ok_or_else(|| {
        let why = if node.op_type.is_empty() { "names no operation" } else { "is not among the operations that can be trained" };
        Refusal::unsupported(why, "`mestc ops` lists them")
    })
}

/// Refuses attributes that the row does not know, and references to a function's parameters.
pub(super) fn check_attributes(mapping: &Mapping, node: &NodeProto) -> Result<(), Refusal> {
    for attribute in &node.attribute {
        if !attribute.ref_attr_name.is_empty() {
            let why = format!("attribute '{}' refers to a function's parameter", attribute.name);
            return Err(Refusal::new(Kind::Attribute, why, "inline the functions (onnx.inliner)"));
        }
        let known = mapping.attributes.contains(&attribute.name.as_str());
        let obsolete = attribute.name == "consumed_inputs";
        if !known && !obsolete {
            let why = format!("attribute '{}' of '{}' is not known", attribute.name, name_of(node));
            return Err(Refusal::new(Kind::Attribute, why, "`mestc ops` lists what each operation may have"));
        }
    }
    Ok(())
}
