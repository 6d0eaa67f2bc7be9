//! The macro behind the tile table.

use crate::prelude::*;

/// Types that may appear in a tile's shape.
pub trait ShapeField: Copy {
    /// The value as Rust source.
    fn literal(self) -> String;
}

impl ShapeField for usize {
    fn literal(self) -> String {
        self.to_string()
    }
}

impl ShapeField for f32 {
    fn literal(self) -> String {
        if self.is_nan() {
            "f32::NAN".to_owned()
        } else if self.is_infinite() {
            if self > 0.0 { "f32::INFINITY".to_owned() } else { "f32::NEG_INFINITY".to_owned() }
        } else {
            format!("{self:?}")
        }
    }
}

/// How an operand of a tile is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperandKind {
    /// A pointer into the arena or the scratch, to floats or indices.
    Pointer,
    /// A pointer to floats of half the bits ([`crate::manifest::Element::Bf16`]).
    Halves,
    /// A `usize` or `isize`, passed in a register.
    Integer,
}

/// Types that may be an operand of a tile.
pub(super) trait OperandType {
    const KIND: OperandKind;
}

macro_rules! operand_kinds {
    ($($kind:ident: $($operand_type:ty),*;)*) => {
        $($(impl OperandType for $operand_type {
            const KIND: OperandKind = OperandKind::$kind;
        })*)*
    };
}

operand_kinds! {
    Integer: usize, isize;
    Pointer: *const f32, *mut f32, *const u32, *mut u32;
    Halves: *mut u16;
}

/// What each field of a shape means: one meaning a name, in all tiles.
#[rustfmt::skip]
macro_rules! field_meaning {
    (rows) => { "Rows (of the input, for windows)." };
    (channels) => { "Channels that the call computes." };
    (width) => { "Vectors in a row of one channel (of the input, for windows)." };
    (left) => { "Padding to the left, in vectors." };
    (right) => { "Padding to the right, in vectors." };
    (top) => { "Padding rows above." };
    (bottom) => { "Padding rows below." };
    (rows_in_plane) => { "Rows that the plane has." };
    (plane_channels) => { "Channels that a row of the plane has." };
    (fill) => { "What padding holds." };
    (vectors) => { "Vectors." };
    (block_rows) => { "Block rows of the sparse matrix." };
    (channel_blocks) => { "Blocks of input channels that are computed one after the other." };
    (block_columns) => { "Block columns of the sparse matrix." };
    (rows_per_block) => { "R: rows of a unit." };
    (columns_per_block) => { "C: columns of a unit." };
    (pixels) => { "Pixels (columns of the dense operand) that the call computes." };
    (x_pixel) => { "Vectors between pixels of the input." };
    (x_channel) => { "Vectors between channels of the input." };
    (y_pixel) => { "Vectors between pixels of the output." };
    (y_channel) => { "Vectors between channels of the output." };
    (dy_pixel) => { "Vectors between pixels of the output's gradient." };
    (dy_channel) => { "Vectors between channels of the output's gradient." };
    (columns) => { "Columns of the product." };
    (depth) => { "Terms of each sum." };
    (a_row) => { "Vectors between rows of the left operand." };
    (a_inner) => { "Vectors between terms of the left operand." };
    (b_inner) => { "Vectors between terms of the right operand." };
    (b_column) => { "Vectors between columns of the right operand." };
    (y_row) => { "Vectors between rows of the product." };
    (y_column) => { "Vectors between columns of the product." };
    (embedding_width) => { "Elements of a row of the table." };
    (table_rows) => { "Rows of the table." };
    (unit_elements) => { "Floats of a unit." };
    (partials) => { "Partial results to be summed." };
    (partial_stride) => { "Vectors between partial results." };
    (partial_stride_elements) => { "Floats between partial results." };
    (partial_channels) => { "Channels of a group's partial result." };
    (parts) => { "Ranges that the work is split into." };
    (groups) => { "Lane groups of the batch." };
    (positions) => { "Positions a channel has in one example." };
    (elements) => { "Elements." };
    (out_rows) => { "Rows of the output." };
    (out_width) => { "Vectors in a row of one channel of the output." };
    (kernel_rows) => { "Rows of the window." };
    (kernel_width) => { "Columns of the window." };
    (stride_rows) => { "Rows between windows." };
    (stride_width) => { "Columns between windows." };
    (dilation_rows) => { "Rows between a window's elements." };
    (dilation_width) => { "Columns between a window's elements." };
    (include_padding) => { "1 where padding counts in the divisor." };
    (classes) => { "Classes." };
    (smoothing) => { "Label smoothing." };
    (log) => { "1 for the logarithm." };
    (node) => { "What tells this mask from others." };
    (ratio) => { "Probability of zero." };
    (nesterov) => { "1 for Nesterov's momentum." };
    (decoupled) => { "1 for AdamW: weight decay apart from the gradient." };
}

/// From the table: a struct a shape, the enum [`super::Tile`] over all of them, and what the compiler asks of it.
macro_rules! tiles {
    ($(
        $(#[doc = $doc:literal])*
        $family:ident :: $name:ident ($shape:ident { $($field:ident : $field_type:ty),* $(,)? }; $($operand:ident : $operand_type:ty),* $(,)?);
    )*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Clone, Copy, Debug, PartialEq)]
            #[repr(C)]
            pub struct $shape {
                $(#[doc = field_meaning!($field)] pub $field: $field_type,)*
            }
        )*

        /// The tiles as functions that are not inlined, one instance a vector type: generated Rust calls these, so that a program's compile
        /// time grows with the tiles it uses, not with its kernels. (The JIT calls the same bodies through symbols, as fast.)
        pub mod out_of_line {
            $(
                #[doc = concat!("See [`", stringify!($shape), "`](super::", stringify!($shape), ").")]
                #[inline(never)]
                pub unsafe fn $name<L: $crate::lanes::Lanes>(shape: &super::$shape $(, $operand: $operand_type)*) {
                    // SAFETY: the tile's contract; the machine has the instruction set that the caller runs with.
                    unsafe {
                        L::vectorize(
                            #[inline(always)]
                            || super::$family::$name::<L>(shape $(, $operand)*),
                        )
                    }
                }
            )*
        }

        /// A tile with the constants of its call.
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[allow(missing_docs)] // Each variant is documented by the shape it holds.
        pub enum Tile {
            $($shape($shape),)*
        }

        impl Tile {
            /// The names of all tiles, in the table's order.
            pub const ALL_NAMES: &'static [&'static str] = &[$(stringify!($name),)*];

            /// Name of the Rust function.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Tile::$shape(_) => stringify!($name),)*
                }
            }

            /// Name of the shape's struct within `mest_runtime::tile`.
            pub fn shape_name(&self) -> &'static str {
                match self {
                    $(Tile::$shape(_) => stringify!($shape),)*
                }
            }

            /// The shape's fields in order: name, and value as Rust source.
            pub fn fields(&self) -> Vec<(&'static str, String)> {
                match self {
                    $(Tile::$shape(_shape) => vec![$((stringify!($field), ShapeField::literal(_shape.$field)),)*],)*
                }
            }

            /// Name and kind of each operand, in order.
            pub fn operands(&self) -> &'static [(&'static str, OperandKind)] {
                match self {
                    $(Tile::$shape(_) => &[$((stringify!($operand), <$operand_type as table::OperandType>::KIND),)*],)*
                }
            }

            /// The Rust type of each operand, in order.
            pub fn operand_types(&self) -> &'static [&'static str] {
                match self {
                    $(Tile::$shape(_) => &[$(stringify!($operand_type),)*],)*
                }
            }

            /// Address of the shape inside `self`: the first argument of [`Tile::symbol`]'s function.
            pub fn shape_pointer(&self) -> *const u8 {
                match self {
                    $(Tile::$shape(shape) => core::ptr::from_ref(shape).cast(),)*
                }
            }

            /// The name that generated code imports [`Tile::symbol`] by.
            pub fn symbol_name(&self, isa: Isa, lanes: usize) -> String {
                format!("mest_{}_{isa}_{lanes}", self.name())
            }

            /// The tile as `unsafe extern "C" fn(shape: *const Shape, operands...)` for an instruction set and 16, 8 or 4 lanes.
            /// AVX-512 has sixteen lanes of its own and AVX2's eight and four.
            ///
            /// # Panics
            /// There are no other lane counts, nor instruction sets of another architecture.
            #[cfg(all(feature = "symbols", not(test)))]
            pub fn symbol(&self, isa: Isa, lanes: usize) -> *const u8 {
                match self {
                    $(Tile::$shape(_) => {
                        type Symbol = unsafe extern "C" fn(*const $shape $(, $operand_type)*);

                        unsafe extern "C" fn baseline<L: Lanes>(shape: *const $shape $(, $operand: $operand_type)*) {
                            // SAFETY: the caller passes a shape that outlives the call and operands by the tile's contract.
                            unsafe { $family::$name::<L>(&*shape $(, $operand)*) }
                        }

                        #[cfg(target_arch = "x86_64")]
                        #[target_feature(enable = "avx2,fma")]
                        unsafe extern "C" fn avx2<L: Lanes>(shape: *const $shape $(, $operand: $operand_type)*) {
                            // SAFETY: see `baseline`.
                            unsafe { $family::$name::<L>(&*shape $(, $operand)*) }
                        }

                        #[cfg(target_arch = "x86_64")]
                        #[target_feature(enable = "avx512f,avx2,fma")]
                        unsafe extern "C" fn avx512<L: Lanes>(shape: *const $shape $(, $operand: $operand_type)*) {
                            // SAFETY: see `baseline`.
                            unsafe { $family::$name::<L>(&*shape $(, $operand)*) }
                        }

                        let symbol: Symbol = match (isa, lanes) {
                            #[cfg(target_arch = "x86_64")]
                            (Isa::Avx512, 16) => avx512::<lanes::Avx512x16>,
                            #[cfg(target_arch = "x86_64")]
                            (Isa::Avx2, 16) => avx2::<lanes::Avx2x16>,
                            #[cfg(target_arch = "x86_64")]
                            (Isa::Avx512 | Isa::Avx2, 8) => avx2::<lanes::Avx2x8>,
                            #[cfg(target_arch = "x86_64")]
                            (Isa::Avx512 | Isa::Avx2, 4) => avx2::<lanes::Avx2x4>,
                            #[cfg(target_arch = "aarch64")]
                            (Isa::Neon, 16) => baseline::<lanes::Neonx16>,
                            #[cfg(target_arch = "aarch64")]
                            (Isa::Neon, 8) => baseline::<lanes::Neonx8>,
                            #[cfg(target_arch = "aarch64")]
                            (Isa::Neon, 4) => baseline::<lanes::Neonx4>,
                            (Isa::Portable, 16) => baseline::<lanes::Portablex16>,
                            (Isa::Portable, 8) => baseline::<lanes::Portablex8>,
                            (Isa::Portable, 4) => baseline::<lanes::Portablex4>,
                            _ => panic!("no tile is built for {isa} with {lanes} lanes"),
                        };
                        symbol as *const u8
                    })*
                }
            }
        }
    };
}
