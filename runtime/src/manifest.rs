//! What the compiler tells the runtime about one compiled network: parameters, streams, inputs, results, and where they lie in the arena.
//!
//! Everything can be built in a `const`: generated Rust prints it as one.

use alloc::borrow::Cow;

/// Element of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 32-bit unsigned integer: indices, offsets, labels.
    U32,
    /// The upper half of a 32-bit float: its sign, exponent and 7 bits of its significand.
    Bf16,
}

impl Element {
    /// Bytes of one.
    pub const fn bytes(self) -> usize {
        match self {
            Element::F32 | Element::U32 => 4,
            Element::Bf16 => 2,
        }
    }
}

/// A region of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Bytes from the arena's start; a multiple of 64.
    pub offset: usize,
    /// Elements.
    pub len: usize,
    /// What they are.
    pub element: Element,
}

/// Whether gradient descent changes a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Learned by gradient descent.
    Trainable,
    /// Learned elsewhere and kept as it is: no gradient, no optimiser state.
    Frozen,
    /// Follows the data without a gradient: running statistics.
    State,
}

/// A weight seen as a matrix of `groups * outputs_per_group` rows: element (g, o, i, k) of it, o within its group, is element
/// `g * group_stride + o * output_stride + i * input_stride + k * kernel_stride` of the ONNX tensor; k = ky * kernel_width + kx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightMatrix {
    /// Groups of the convolution; 1 for a linear layer.
    pub groups: usize,
    /// Output channels, of all groups.
    pub outputs: usize,
    /// Input channels that one output sees.
    pub inputs_per_group: usize,
    /// Kernel height.
    pub kernel_rows: usize,
    /// Kernel width.
    pub kernel_width: usize,
    /// Elements between groups.
    pub group_stride: usize,
    /// Elements between outputs of a group.
    pub output_stride: usize,
    /// Elements between input channels.
    pub input_stride: usize,
    /// Elements between kernel positions.
    pub kernel_stride: usize,
}

/// R consecutive outputs by C consecutive input channels at one kernel position: what a mask keeps or drops as one. 1x1 is unstructured.
///
/// Unit index: `(output_block * input_blocks + input_block) * kernel_positions + kernel_position`, with `input_block` within the
/// output's group. A unit's values are `[R][C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// R: outputs; divides `outputs / groups`.
    pub rows: usize,
    /// C: input channels; divides `inputs_per_group`.
    pub columns: usize,
}

/// Which sets of units a mask may hold, beyond single ones. *Clusters* of units live and die together; *groups* of clusters hold the same number
/// of live ones at the budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Structure {
    /// Any units.
    #[default]
    Free,
    /// N of M: as many in each `length` consecutive blocks of input channels, at one output block and kernel position.
    Spans {
        /// M; divides the blocks of input channels.
        length: usize,
    },
    /// As many for each output block.
    FanIn,
    /// Kernels of 3x3 hold a pattern of a library or nothing, others are whole or nothing; as many kernels for each output.
    Patterns(Patterns),
    /// Whole input channels, as many in each group of the convolution.
    Inputs,
    /// Whole outputs (filters), as many in each group of the convolution.
    Outputs,
}

/// Largest number of patterns in a library.
pub const LARGEST_LIBRARY: usize = 16;

/// A library of kernel patterns: bit `3 * row + column` is a live cell; all have as many. Behind the last one, zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Patterns(pub [u16; LARGEST_LIBRARY]);

/// How the values of a parameter are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Storage {
    /// Every element, in ONNX order.
    Plain,
    /// The live units of a weight matrix, ascending by unit index (*mask order*), each `[R][C]`.
    Matrix {
        /// How units map to the ONNX tensor.
        matrix: WeightMatrix,
        /// The unit's extents.
        block: Block,
        /// Which sets of units a mask may hold.
        structure: Structure,
        /// Live units at most: what the slots are sized for.
        capacity: usize,
        /// `u32[capacity]`: the live units.
        units: Slot,
        /// Density the mask is budgeted at; `None` for a layer that is computed densely, with every unit live.
        density: Option<f64>,
    },
}

/// A parameter and its training state. Value, gradient and moments have the same storage.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its ONNX initialiser's name.
    pub name: Cow<'static, str>,
    /// Its ONNX extents.
    pub dims: Cow<'static, [usize]>,
    /// Whether it is learned.
    pub role: Role,
    /// How values are stored.
    pub storage: Storage,
    /// `u32[1]`: live units ([`Storage::Matrix`]) or elements ([`Storage::Plain`]).
    pub count: Slot,
    /// Values.
    pub value: Slot,
    /// Gradient of the last step; absent unless trainable and kept.
    pub gradient: Option<Slot>,
    /// Optimiser state: none, momentum, or Adam's first and second moment; floats, or [`Element::Bf16`].
    pub moments: Cow<'static, [Slot]>,
}

/// Which order a stream visits a weight's units in, and what its offsets mean (all in vectors).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamOrder {
    /// By output block, in mask order (so values need no copy), cut into `channel_blocks` lists of input blocks:
    /// list `output_block * channel_blocks + k` has the k-th `input_blocks.div_ceil(channel_blocks)` of those an output sees;
    /// `offset = input_channel * channel + ky * kernel_row + kx * kernel_column`, `input_channel` being the unit's first, counted over all groups.
    Forward {
        /// Between input channels.
        channel: usize,
        /// Between kernel rows (dilation included).
        kernel_row: usize,
        /// Between kernel columns (dilation included).
        kernel_column: usize,
        /// Lists for each output block.
        channel_blocks: usize,
    },
    /// By parity class (`row_class * stride_width + column_class`), then by input block (over all groups), then by offset.
    ///
    /// Input row `stride_rows * j + row_class` meets output row `j + delta` through ky exactly when
    /// `row_class + top - ky * dilation_rows = stride_rows * delta`; columns alike. Then
    /// `offset = (delta_row - first_row) * row + output_channel * channel + (delta_column - first_column)`.
    Backward {
        /// Vertical and horizontal stride of the convolution.
        stride: [usize; 2],
        /// Vertical and horizontal dilation.
        dilation: [usize; 2],
        /// Padding above and to the left.
        padding: [usize; 2],
        /// Smallest delta of rows and columns over all kernel positions: what the staged gradient begins with.
        first: [isize; 2],
        /// Between rows of the staged output gradient.
        row: usize,
        /// Between its channels.
        channel: usize,
    },
}

/// The topology of one use of a weight: offsets for every live unit, in the order a kernel visits them.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// Index of the parameter.
    pub parameter: usize,
    /// Order and meaning of the offsets.
    pub order: StreamOrder,
    /// `u32[lists + 1]`: where each block row and channel block (forward) or class and block column (backward) begins.
    pub starts: Slot,
    /// `u32[capacity]`: offsets in vectors.
    pub offsets: Slot,
    /// `u32[capacity]`: position of each unit in mask order; absent where the stream is in mask order.
    pub source: Option<Slot>,
    /// Values in stream order; absent where the stream is in mask order or reads none.
    pub values: Option<Slot>,
}

/// A batched value that the host reads, `[group][element][lane]`.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchedSlot {
    /// Its ONNX name.
    pub name: Cow<'static, str>,
    /// Extents of one example.
    pub dims: Cow<'static, [usize]>,
    /// For each element in ONNX order: its vector within the group. Empty: the same order.
    pub order: Cow<'static, [u32]>,
    /// Where it lies.
    pub slot: Slot,
}

/// What the host writes before a step and reads after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Io {
    /// `f32[batch][example elements]`, ONNX order.
    pub input: Slot,
    /// Name of the model's input.
    pub input_name: Cow<'static, str>,
    /// Extents of one example.
    pub input_dims: Cow<'static, [usize]>,
    /// Rows of the smallest table that values of the input choose from; 0 where they are no tokens.
    pub input_rows: usize,
    /// Class indices `u32[batch]`, or values `f32[batch][elements]`.
    pub target: Slot,
    /// `u32[groups * lanes]`: which example of the batch each lane computes; dead lanes repeat a live one.
    pub example: Slot,
    /// `f32[groups * lanes]`: 1 for a live lane, 0 for a dead one.
    pub live: Slot,
    /// `f32[2]`: live examples, and 1 / live examples.
    pub count: Slot,
    /// The model's output after an evaluation phase, and after the forward half of a step.
    pub output: BatchedSlot,
    /// `f32[groups * lanes]`: each example's loss.
    pub loss: Slot,
    /// `f32[groups * lanes]`: 1 where the prediction is right.
    pub correct: Slot,
    /// Learning rate and its companions, see [`crate::optim::Hyper`].
    pub hyper: Slot,
    /// `u32[4]`: seed and step, low word first.
    pub seed: Slot,
}

/// A tensor that never changes, written before the first step.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Where it lies.
    pub slot: Slot,
    /// What it holds.
    pub values: Cow<'static, [f32]>,
}

/// One line of the memory plan.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassBytes {
    /// `weights`, `gradients`, `optimizer`, `masks`, `topology`, `activations` (kept for the backward pass), `transient`, `state`, `data`,
    /// `scratch`, `padding`.
    pub class: Cow<'static, str>,
    /// Bytes at the peak.
    pub bytes: usize,
}

/// A compiled network, as the runtime sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The model's name.
    pub name: Cow<'static, str>,
    /// Examples of a full step.
    pub batch: usize,
    /// Examples a vector: 16, 8 or 4.
    pub lanes: usize,
    /// Lane groups: `batch` over `lanes`, rounded up.
    pub groups: usize,
    /// Classes of a classifier; 0 where the target is values.
    pub classes: usize,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Bytes of scratch of each worker.
    pub scratch_bytes: usize,
    /// Largest threads count the plan was made for; results do not depend on it.
    pub threads: usize,
    /// What enters and leaves.
    pub io: Io,
    /// Learned tensors and running statistics.
    pub parameters: Cow<'static, [Parameter]>,
    /// Topologies.
    pub streams: Cow<'static, [Stream]>,
    /// Tensors that never change.
    pub constants: Cow<'static, [Constant]>,
    /// Bytes by class at the peak of the whole program; they add up to arena and scratch.
    pub plan: Cow<'static, [ClassBytes]>,
    /// A finished ONNX file with the parameters' places in it: `template[offset..]` holds parameter i as little-endian f32, ONNX order.
    pub template: Template,
}

/// The model file, with holes where the parameters are.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// The file, holding the initial values.
    pub bytes: Cow<'static, [u8]>,
    /// Byte offset of each parameter's values, in the order of [`Manifest::parameters`].
    pub offsets: Cow<'static, [usize]>,
}
