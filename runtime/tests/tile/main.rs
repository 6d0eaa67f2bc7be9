//! Every tile, through the symbols that the JIT calls, against `mest_runtime::tile::reference`: on all instruction sets of the machine and all lane
//! counts.

mod convolution;
mod loss;
mod movement;
mod own_operands;
mod statistics;
mod table;
mod update;

use mest_runtime::lanes::{Buffer, Isa};

/// Every way to run a tile on this machine.
fn targets() -> Vec<(Isa, usize)> {
    let isas = Isa::ALL.into_iter().filter(|isa| isa.available());
    isas.flat_map(|isa| [16, 8, 4].map(|lanes| (isa, lanes))).collect()
}

/// Floats aligned as the arena aligns them.
#[derive(Clone)]
struct Floats {
    memory: Vec<Buffer>,
    len: usize,
}

impl Floats {
    fn new(values: &[f32]) -> Self {
        let mut floats = Floats { memory: vec![Buffer::ZERO; values.len().div_ceil(16)], len: values.len() };
        floats.copy_from_slice(values);
        floats
    }

    fn filled(len: usize, value: f32) -> Self {
        Floats::new(&vec![value; len])
    }
}

impl std::ops::Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the buffers are contiguous arrays of sixteen floats, at least `len` in all.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }
}

impl std::ops::DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above; borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }
}

/// Numbers for tests: a linear congruence, its upper bits.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    /// In [-1, 1).
    fn float(&mut self) -> f32 {
        (self.next() % (1 << 24)) as f32 / (1 << 23) as f32 - 1.0
    }

    fn floats(&mut self, len: usize) -> Floats {
        Floats::new(&(0..len).map(|_| self.float()).collect::<Vec<_>>())
    }

    /// Distinct numbers below `n`, all of them, in random order.
    fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut all: Vec<u32> = (0..n as u32).collect();
        (1..n).for_each(|i| all.swap(i, self.below(i + 1)));
        all
    }
}

/// Calls a tile's symbol: `call!(Shape { .. }, target, (operand: type), ...)`.
macro_rules! call {
    ($shape:ident $fields:tt, $target:expr, $(($operand:expr, $type:ty)),*) => {{
        let tile = mest_runtime::tile::Tile::$shape(mest_runtime::tile::$shape $fields);
        let (isa, lanes) = $target;
        // SAFETY: the operands have the types that the table gives, as each test checks by its results, and are in bounds.
        unsafe {
            let symbol: unsafe extern "C" fn(*const u8 $(, $type)*) = std::mem::transmute(tile.symbol(isa, lanes));
            symbol(tile.shape_pointer() $(, $operand)*);
        }
    }};
}
use call;

/// Element by element within each sum's tolerance.
fn assert_admitted<'a>(what: &str, got: impl IntoIterator<Item = &'a f32>, expected: &[mest_runtime::tile::reference::Exact]) {
    let got: Vec<f32> = got.into_iter().copied().collect();
    assert_eq!(got.len(), expected.len(), "{what}: how many");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(expected.admits(*got), "{what} {i}: {got}, not {} +- {}", expected.value, expected.tolerance());
    }
}

/// Element by element within `tolerance`, relative to the expected value or to 1.
fn assert_near(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: how many");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(got) - expected).abs() <= tolerance * expected.abs().max(1.0), "{what} {i}: {got}, not {expected}");
    }
}
