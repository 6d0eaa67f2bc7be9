//! Lanes of registers of 128 bits: what is the same for every instruction set that has these and no wider ones.

/// [`super::Lanes`] for `$name<QUADS>`, made of what the module `quad` beside the call does to one register: `load`, `store`, `splat`, `add`,
/// `sub`, `mul`, `div`, `sqrt`, `fma`, `select_less` and `sum`, the last by the tree of [`super`]. Loads and stores take any address of an `f32`.
macro_rules! lanes_of_quads {
    ($name:ident {
        ACCUMULATORS: $accumulators:expr,
        BACKWARD_PIXELS: $backward_pixels:expr,
        FUSED: $fused:expr $(,)?
    }) => {
        $crate::lanes::quads::lanes_of_quads!(@impl $name, $accumulators, $backward_pixels, $fused,
            add(a, b); sub(a, b); mul(a, b); div(a, b); sqrt(a); fma(a, b, c); select_less(a, b, c, d););
    };
    (@impl $name:ident, $accumulators:expr, $backward_pixels:expr, $fused:expr,
        $($method:ident($first:ident $(, $operand:ident)*);)*
    ) => {
        impl<const QUADS: usize> $crate::lanes::Lanes for $name<QUADS> {
            const LANES: usize = 4 * QUADS;
            const ACCUMULATORS: usize = $accumulators;
            const PIXELS: usize = Self::ACCUMULATORS;
            const BACKWARD_PIXELS: usize = $backward_pixels;
            const FUSED: bool = $fused;

            type V = [quad::Quad; QUADS];
            type Folded = [quad::Quad; QUADS];

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self::V {
                // SAFETY: the caller's contract; so below.
                unsafe { Self::load_unaligned(from) }
            }

            #[inline(always)]
            unsafe fn load_unaligned(from: *const f32) -> Self::V {
                // SAFETY: see `load`.
                unsafe {
                    let mut result = Self::zero();
                    for (i, quad) in result.iter_mut().enumerate() {
                        *quad = quad::load(from.add(4 * i));
                    }
                    result
                }
            }

            #[inline(always)]
            unsafe fn store(to: *mut f32, v: Self::V) {
                // SAFETY: see `load`.
                unsafe { Self::store_unaligned(to, v) }
            }

            #[inline(always)]
            unsafe fn store_unaligned(to: *mut f32, v: Self::V) {
                for (i, quad) in v.into_iter().enumerate() {
                    // SAFETY: see `load`.
                    unsafe { quad::store(to.add(4 * i), quad) };
                }
            }

            #[inline(always)]
            unsafe fn splat(value: f32) -> Self::V {
                // SAFETY: see `load`.
                unsafe { [quad::splat(value); QUADS] }
            }

            #[inline(always)]
            unsafe fn zero() -> Self::V {
                // SAFETY: see `load`.
                unsafe { Self::splat(0.0) }
            }

            $(
                #[inline(always)]
                unsafe fn $method($first: Self::V $(, $operand: Self::V)*) -> Self::V {
                    let mut result = $first;
                    for i in 0..QUADS {
                        // SAFETY: see `load`.
                        result[i] = unsafe { quad::$method($first[i] $(, $operand[i])*) };
                    }
                    result
                }
            )*

            #[inline(always)]
            unsafe fn fold(mut v: Self::V) -> Self::V {
                if QUADS == 4 {
                    // SAFETY: see `load`.
                    unsafe {
                        v[0] = quad::add(v[0], v[2]);
                        v[1] = quad::add(v[1], v[3]);
                    }
                }
                v
            }

            #[inline(always)]
            unsafe fn unfold(folded: Self::Folded) -> Self::V {
                // SAFETY: see `load`.
                let mut result = unsafe { Self::zero() };
                let quads = QUADS.min(2);
                result[..quads].copy_from_slice(&folded[..quads]);
                result
            }

            #[inline(always)]
            unsafe fn sums(parts: [Self::Folded; 4]) -> [f32; 4] {
                parts.map(
                    #[inline(always)]
                    |part| {
                        // SAFETY: see `load`.
                        unsafe { if QUADS == 1 { quad::sum(part[0]) } else { quad::sum(part[0]) + quad::sum(part[1]) } }
                    },
                )
            }

            #[inline(always)]
            unsafe fn add_sums(to: *mut f32, parts: [Self::Folded; 4]) {
                // SAFETY: the caller vouches for four floats.
                unsafe {
                    for (i, sum) in Self::sums(parts).into_iter().enumerate() {
                        *to.add(i) += sum;
                    }
                }
            }

            #[inline(always)]
            unsafe fn vectorize<F: FnOnce() -> R, R>(f: F) -> R {
                f()
            }
        }
    };
}
pub(super) use lanes_of_quads;
