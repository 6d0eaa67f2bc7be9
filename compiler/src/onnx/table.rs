//! The table of ONNX operations: attributes, what becomes of them, and whether a gradient flows.

use super::import::{Call, Importer};
use super::prepare::{is_onnx, name_of};
use super::report::{Kind, Refusal};
use super::{
    activations, attention, convolution_transpose, elementary, layers, logic, normalization, places, pointwise, pooling, random, recurrent,
    reduction, resize, shapes, slicing, softmax,
};
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
    "Abs" [] true activations::plain: "unary";
    "Acos" [] true elementary::convert: "div, unary atan, add";
    "Acosh" [] true elementary::convert: "unary sqrt and log, add";
    "Add" [] true pointwise::add: "add, with broadcasting";
    "And" [] true logic::combine: "mul, of truth values";
    "Asin" [] true elementary::convert: "div, unary atan";
    "Asinh" [] true elementary::convert: "unary sqrt and log, add, mul";
    "Atan" [] true activations::plain: "unary";
    "Atanh" [] true elementary::convert: "div, unary log, mul";
    "Attention" ["is_causal", "kv_num_heads", "q_num_heads", "qk_matmul_output_mode", "scale", "softcap", "softmax_precision"]
        true attention::convert: "mul, matrix_product, add, softmax, matrix_product; without past and present";
    "AveragePool" ["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"] true pooling::average_pool:
        "average_pool; 1-d, 2-d and 3-d, by planes and depth";
    "BatchNormalization" ["epsilon", "momentum", "spatial", "training_mode"] true layers::batch_normalization:
        "batch_normalization, trained whether or not training_mode is set";
    "Bernoulli" ["dtype", "seed"] true random::not_followed: "bernoulli, drawn for each example in training, the probability in inference";
    "Cast" ["to", "saturate", "round_mode"] true shapes::cast: "its input; of constants computed at import";
    "CastLike" ["saturate", "round_mode"] true shapes::cast_like: "its input; of constants computed at import";
    "Ceil" [] false shapes::not_folded: "computed at import, of constants only";
    "Celu" ["alpha"] true activations::celu: "unary elu, scaled";
    "Clip" ["min", "max"] true pointwise::clip: "clip; bounds must be constant";
    "Concat" ["axis"] true slicing::concat: "concat; of shapes computed at import";
    "Constant" ["value", "value_float", "value_floats", "value_int", "value_ints"] false shapes::not_folded: "constant";
    "ConstantOfShape" ["value"] false shapes::not_folded: "constant";
    "Conv" ["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"] true layers::conv: "convolution, 1-d and 2-d, grouped";
    "ConvTranspose" ["auto_pad", "dilations", "group", "kernel_shape", "output_padding", "output_shape", "pads", "strides"]
        true convolution_transpose::convert: "resample, convolution, resample; 1-d and 2-d, grouped";
    "Cos" [] true activations::plain: "unary; for angles up to some thousands";
    "Cosh" [] true elementary::convert: "unary exp, add, mul";
    "CumSum" ["exclusive", "reverse"] true reduction::cumulative_sum: "resample; along another axis than the batch, up to 1024 elements";
    "DepthToSpace" ["blocksize", "mode"] true shapes::depth_to_space: "reshape, transpose, reshape";
    "Div" [] true pointwise::div: "div, with broadcasting; mul by the reciprocal of a constant";
    "Dropout" ["ratio", "seed"] true layers::dropout: "dropout; its mask may not be used";
    "Elu" ["alpha"] true activations::elu: "unary";
    "Equal" [] true logic::compare: "select_less; no gradient";
    "Erf" [] true activations::plain: "unary";
    "Exp" [] true activations::plain: "unary";
    "Expand" [] true slicing::expand: "expand; of constants computed at import";
    "Flatten" ["axis"] true shapes::flatten: "reshape";
    "Floor" [] false shapes::not_folded: "computed at import, of constants only";
    "Gather" ["axis"] true slicing::gather:
        "slice or resample by constant indices; embedding of a learned table by the input's; of constants computed at import";
    "GatherND" ["batch_dims"] true slicing::gather_nd: "resample, of a parameter by constant indices; of constants computed at import";
    "Gelu" ["approximate"] true activations::gelu: "unary; so is its Erf form in older models";
    "Gemm" ["alpha", "beta", "transA", "transB"] true layers::gemm: "linear; transA = 0";
    "GlobalAveragePool" [] true pooling::global_average_pool: "reduce_mean";
    "GlobalMaxPool" [] true pooling::global_max_pool: "max_pool; 1-d, 2-d and 3-d";
    "Greater" [] true logic::compare: "select_less; no gradient";
    "GreaterOrEqual" [] true logic::compare: "select_less; no gradient";
    "GroupNormalization" ["epsilon", "num_groups", "stash_type"] true normalization::group_normalization:
        "reduce_mean, unary, mul, add";
    "GRU" ["activations", "direction", "hidden_size", "layout", "linear_before_reset"] true recurrent::convert:
        "linear, unary, mul, add, step by step; without lengths of sequences";
    "HardSigmoid" ["alpha", "beta"] true pointwise::hard_sigmoid: "mul, add, clip";
    "HardSwish" [] true pointwise::hard_swish: "mul, add, clip, mul";
    "Identity" [] true shapes::identity: "its input";
    "InstanceNormalization" ["epsilon"] true normalization::instance_normalization: "reduce_mean, unary, mul, add";
    "IsNaN" [] true logic::is_nan: "select_less; no gradient";
    "LayerNormalization" ["axis", "epsilon", "stash_type"] true normalization::layer_normalization:
        "reduce_mean, unary, mul, add; its statistics may not be used";
    "LeakyRelu" ["alpha"] true pointwise::leaky_relu: "relu, clip, mul, add";
    "Less" [] true logic::compare: "select_less; no gradient";
    "LessOrEqual" [] true logic::compare: "select_less; no gradient";
    "Log" [] true activations::plain: "unary";
    "LogSoftmax" ["axis"] true softmax::log_softmax: "softmax; at the model's end the loss is taken before it";
    "LpNormalization" ["axis", "p"] true normalization::lp_normalization: "sum_to, unary, div; along another axis than the batch";
    "LpPool" ["auto_pad", "ceil_mode", "dilations", "kernel_shape", "p", "pads", "strides"] true pooling::lp_pool:
        "mul, average_pool, mul, unary sqrt; 1-d, 2-d and 3-d, p up to 8";
    "LRN" ["alpha", "beta", "bias", "size"] true normalization::local_response: "mul, resample, unary log and exp";
    "LSTM" ["activations", "direction", "hidden_size", "input_forget", "layout"] true recurrent::convert:
        "linear, unary, mul, add, step by step; without lengths of sequences and peepholes";
    "MatMul" [] true layers::mat_mul: "linear, the second operand a learned matrix; matrix_product, both computed";
    "Max" [] true pointwise::max: "max, with broadcasting; clip by a constant";
    "MaxPool" ["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"] true pooling::max_pool:
        "max_pool; 1-d, 2-d and 3-d, by planes and depth; its indices may not be used";
    "Mean" [] true elementary::mean: "add, mul";
    "Min" [] true pointwise::min: "min, with broadcasting; clip by a constant";
    "Mish" [] true activations::plain: "unary";
    "Mod" ["fmod"] false shapes::not_folded: "computed at import, of integers only";
    "Mul" [] true pointwise::mul: "mul, with broadcasting";
    "Neg" [] true pointwise::neg: "mul by -1";
    "Not" [] true logic::not: "select_less; no gradient";
    "Or" [] true logic::combine: "max, of truth values";
    "Pad" ["mode", "pads", "value"] true slicing::pad: "padding of the convolution behind it, pad, or resample";
    "Pow" [] true activations::pow: "mul, unary sqrt and reciprocal; by other exponents than multiples of 0.5, exp of a product with log";
    "PRelu" [] true pointwise::p_relu: "relu, clip, mul, add";
    "RandomUniform" ["dtype", "high", "low", "seed", "shape"] true random::not_followed: "bernoulli, as RandomUniformLike";
    "RandomUniformLike" ["dtype", "high", "low", "seed"] true random::not_followed:
        "bernoulli, where it is compared with a number or rounded down to 0 or 1: stochastic depth, dropout of channels";
    "Range" [] false shapes::not_folded: "computed at import; over the batch, in indices that stay within an example";
    "Reciprocal" [] true activations::plain: "unary";
    "ReduceL1" ["axes", "keepdims", "noop_with_empty_axes"] true reduction::l1: "unary abs, sum_to";
    "ReduceL2" ["axes", "keepdims", "noop_with_empty_axes"] true reduction::l2: "mul, sum_to, unary sqrt";
    "ReduceLogSum" ["axes", "keepdims", "noop_with_empty_axes"] true reduction::log_sum: "sum_to, unary log";
    "ReduceLogSumExp" ["axes", "keepdims", "noop_with_empty_axes"] true reduction::log_sum_exp:
        "reduce_max, unary exp and log, sum_to, add";
    "ReduceMax" ["axes", "keepdims", "noop_with_empty_axes"] true reduction::max: "reduce_max; over other axes than the batch";
    "ReduceMean" ["axes", "keepdims", "noop_with_empty_axes"] true reduction::mean: "reduce_mean; over other axes than the batch";
    "ReduceMin" ["axes", "keepdims", "noop_with_empty_axes"] true reduction::min: "mul, reduce_max, mul";
    "ReduceProd" ["axes", "keepdims", "noop_with_empty_axes"] false shapes::not_folded: "computed at import, of shapes only";
    "ReduceSum" ["axes", "keepdims", "noop_with_empty_axes"] true reduction::sum: "sum_to; over other axes than the batch";
    "ReduceSumSquare" ["axes", "keepdims", "noop_with_empty_axes"] true reduction::sum_square: "mul, sum_to";
    "Relu" [] true pointwise::relu: "relu";
    "Reshape" ["allowzero"] true shapes::reshape: "reshape; the batch may be merged with the axes around it until it is first again";
    "Resize" ["antialias", "axes", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "extrapolation_value",
        "keep_aspect_ratio_policy", "mode", "nearest_mode"] true resize::resize: "resample: nearest, linear, cubic; scales or sizes constant";
    "RMSNormalization" ["axis", "epsilon", "stash_type"] true normalization::rms_normalization: "mul, reduce_mean, unary";
    "RNN" ["activations", "direction", "hidden_size", "layout"] true recurrent::convert:
        "linear, unary or relu, add, step by step; without lengths of sequences";
    "Round" [] false shapes::not_folded: "computed at import, of constants only";
    "ScatterND" ["reduction"] false shapes::not_folded: "computed at import, of constants only";
    "Selu" ["alpha", "gamma"] true activations::selu: "unary elu, mul";
    "SequenceAt" [] true places::sequence_at: "a part that SplitToSequence made";
    "Shape" ["end", "start"] false shapes::not_folded: "computed at import";
    "Shrink" ["bias", "lambd"] true elementary::shrink: "add, select_less";
    "Sigmoid" [] true activations::plain: "unary; x * Sigmoid(x) is silu";
    "Sign" [] true elementary::sign: "select_less; no gradient";
    "Sin" [] true activations::plain: "unary; for angles up to some thousands";
    "Sinh" [] true elementary::convert: "unary exp, add, mul";
    "Size" [] false shapes::not_folded: "computed at import";
    "Slice" ["axes", "ends", "starts"] true slicing::slice: "slice, or resample backward; of constants computed at import";
    "Softmax" ["axis"] true softmax::softmax: "softmax; at the model's end the loss is taken before it";
    "Softplus" [] true activations::plain: "unary";
    "Softsign" [] true activations::softsign: "unary abs, add, div";
    "SpaceToDepth" ["blocksize", "mode"] true shapes::space_to_depth: "reshape, transpose, reshape";
    "Split" ["axis", "num_outputs", "split"] true slicing::split: "slice";
    "SplitToSequence" ["axis", "keepdims"] true places::split: "slice; read by SequenceAt only";
    "Sqrt" [] true activations::plain: "unary";
    "Squeeze" ["axes"] true shapes::squeeze: "reshape";
    "Sub" [] true pointwise::sub: "add of the negative";
    "Sum" [] true pointwise::sum: "add";
    "Swish" ["alpha"] true activations::swish: "unary silu";
    "Tan" [] true elementary::convert: "unary sin and cos, div";
    "Tanh" [] true activations::plain: "unary";
    "ThresholdedRelu" ["alpha"] true elementary::thresholded_relu: "select_less";
    "Tile" [] true slicing::tile: "resample; of constants computed at import";
    "Transpose" ["perm"] true shapes::transpose: "transpose; the examples may lie along another axis until they are first again";
    "Trilu" ["upper"] false shapes::not_folded: "computed at import, of constants only";
    "Unsqueeze" ["axes"] true shapes::unsqueeze: "reshape";
    "Upsample" ["mode", "scales"] true resize::resize: "resample: nearest, linear";
    "Where" [] true logic::choose: "select_less; of constants computed at import";
    "Xor" [] true logic::combine: "select_less, of truth values";
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
