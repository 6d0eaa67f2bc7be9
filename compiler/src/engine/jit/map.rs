//! Element-wise maps as loops of 128-bit registers: what Cranelift has on every machine. A vector of 16 lanes is four of them, and the whole
//! chain runs for one before the next begins, so that few values are alive at once.

use super::kernel::KernelEmitter;
use crate::program::nest::{self, Nest};
use crate::program::{ChainOp, Map, MapOperand, Width};
use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::types::{F32, F32X4, I32, I32X4, I64X2};
use cranelift_codegen::ir::{Endianness, InstBuilder, MemFlagsData, Type, Value};
use mest_runtime::lanes::math;
use mest_runtime::manifest::Element;

/// Scales strides by the size of what they count.
fn in_bytes<'m>(strides: &mut [Vec<usize>], operands: impl IntoIterator<Item = &'m MapOperand>, kernel: &KernelEmitter<'_, '_>) {
    for (strides, operand) in strides.iter_mut().zip(operands) {
        let bytes = kernel.element(&operand.address).bytes();
        strides.iter_mut().for_each(|stride| *stride *= bytes);
    }
}

/// A chain value as far as it has been computed.
#[derive(Clone, Debug)]
enum Chain {
    /// The same in every lane: one register for all parts.
    Uniform(Value),
    /// One register for each part of the vector so far.
    Parts(Vec<Value>),
}

/// The state of one map's translation.
pub(super) struct MapEmitter<'e, 'a, 'f, 'm> {
    kernel: &'e mut KernelEmitter<'a, 'f>,
    map: &'m Map,
    /// Its strides are in bytes.
    nest: Nest,
    /// F32X4 over lanes, F32 over elements.
    register: Type,
    /// Registers a vector.
    parts: usize,
    values: Vec<Chain>,
    /// Sums that are in registers: one for each part.
    sums: Vec<Option<Vec<Value>>>,
}

/// Where the operands are at some depth of the nest.
#[derive(Clone, Debug)]
struct Places {
    loads: Vec<Value>,
    stores: Vec<Value>,
    sums: Vec<Value>,
}

impl<'e, 'a, 'f, 'm> MapEmitter<'e, 'a, 'f, 'm> {
    /// Writes the loops of `map` at the kernel's current place.
    pub(super) fn emit(kernel: &'e mut KernelEmitter<'a, 'f>, map: &'m Map) {
        let Some(mut nest) = Nest::of(map) else { return };
        in_bytes(&mut nest.loads, &map.loads, kernel);
        in_bytes(&mut nest.stores, map.stores.iter().map(|(operand, _)| operand), kernel);
        in_bytes(&mut nest.sums, map.sums.iter().map(|(operand, _)| operand), kernel);
        let (register, parts) = match map.width {
            Width::Lanes => (F32X4, kernel.target.lanes / 4),
            Width::Scalar => (F32, 1),
        };
        let mut start = |operand: &MapOperand| kernel.pointer(&operand.address);
        let places = Places {
            loads: map.loads.iter().map(&mut start).collect(),
            stores: map.stores.iter().map(|(operand, _)| start(operand)).collect(),
            sums: map.sums.iter().map(|(operand, _)| start(operand)).collect(),
        };
        let values = vec![Chain::Parts(Vec::new()); nest.value_depths.len()];
        let mut emitter = MapEmitter { kernel, map, nest, register, parts, values, sums: vec![None; map.sums.len()] };
        emitter.enter(0, &places);
    }

    /// What happens inside `depth` loops.
    fn enter(&mut self, depth: usize, places: &Places) {
        if depth == self.nest.extents.len() {
            (0..self.parts).for_each(|part| self.innermost(part, places));
            return;
        }
        for value in self.nest.values_at(depth).collect::<Vec<_>>() {
            (0..self.parts).for_each(|part| self.compute(value, part, places));
        }
        let registered: Vec<usize> = (0..self.sums.len()).filter(|&sum| self.nest.sum_depths[sum] == depth).collect();
        for &sum in &registered {
            let loaded = (0..self.parts).map(|part| self.load(places.sums[sum], part)).collect();
            self.sums[sum] = Some(loaded);
        }
        self.turns(depth, places);
        for sum in registered {
            for (part, value) in self.sums[sum].take().into_iter().flatten().enumerate() {
                self.store(value, places.sums[sum], part);
            }
        }
    }

    /// The loop at `depth`: one byte offset for each distinct stride; the first of them is also the counter.
    fn turns(&mut self, depth: usize, places: &Places) {
        let strides = self.distinct_strides(depth);
        let extent = self.nest.extents[depth] as i64;
        let step = strides.first().map_or(1, |stride| *stride as i64);
        let (zero, end) = (self.kernel.constant(0), self.kernel.constant(extent * step));
        let others = strides.len().saturating_sub(1);
        let mut carried = vec![zero; others];
        carried.extend(self.sums.iter().flatten().flatten());
        let turn = self.kernel.open_loop(zero, end, &carried);

        let (others_inside, sums_inside) = turn.carried.split_at(others);
        self.replace_sums(sums_inside);
        let offsets: Vec<Value> = std::iter::once(turn.counter).chain(others_inside.iter().copied()).collect();
        let inner = self.moved(depth, places, &strides, &offsets);
        self.enter(depth + 1, &inner);

        let mut next: Vec<Value> = Vec::with_capacity(carried.len());
        for (offset, stride) in offsets.iter().zip(&strides).skip(1) {
            next.push(self.kernel.builder.ins().iadd_imm_s(*offset, *stride as i64));
        }
        next.extend(self.sums.iter().flatten().flatten());
        let after = self.kernel.close_loop(turn, step, &next);
        self.replace_sums(&after[others..]);
    }

    fn replace_sums(&mut self, values: &[Value]) {
        self.sums.iter_mut().flatten().flatten().zip(values).for_each(|(sum, value)| *sum = *value);
    }

    fn distinct_strides(&self, depth: usize) -> Vec<usize> {
        let mut strides = Vec::new();
        for operand in self.nest.loads.iter().chain(&self.nest.stores).chain(&self.nest.sums) {
            if operand[depth] != 0 && !strides.contains(&operand[depth]) {
                strides.push(operand[depth]);
            }
        }
        strides
    }

    fn moved(&mut self, depth: usize, places: &Places, strides: &[usize], offsets: &[Value]) -> Places {
        let mut shift = |places: &[Value], of: &[Vec<usize>]| -> Vec<Value> {
            let moved = places.iter().zip(of).map(|(&place, operand)| match strides.iter().position(|s| *s == operand[depth]) {
                Some(which) => self.kernel.builder.ins().iadd(place, offsets[which]),
                None => place,
            });
            moved.collect()
        };
        Places {
            loads: shift(&places.loads, &self.nest.loads),
            stores: shift(&places.stores, &self.nest.stores),
            sums: shift(&places.sums, &self.nest.sums),
        }
    }

    /// One part of one iteration.
    fn innermost(&mut self, part: usize, places: &Places) {
        for value in self.nest.values_at(self.nest.extents.len()).collect::<Vec<_>>() {
            self.compute(value, part, places);
        }
        for (index, (operand, value)) in self.map.stores.iter().enumerate() {
            let value = self.value(*value, part);
            if self.is_narrow(operand) {
                self.store_narrow(value, places.stores[index], part);
            } else {
                self.store(value, places.stores[index], part);
            }
        }
        for (index, (_, value)) in self.map.sums.iter().enumerate() {
            let value = self.value(*value, part);
            match self.sums[index].as_ref().map(|parts| parts[part]) {
                Some(sum) => {
                    let sum = self.kernel.builder.ins().fadd(sum, value);
                    if let Some(parts) = &mut self.sums[index] {
                        parts[part] = sum;
                    }
                }
                None => {
                    let old = self.load(places.sums[index], part);
                    let sum = self.kernel.builder.ins().fadd(old, value);
                    self.store(sum, places.sums[index], part);
                }
            }
        }
    }

    /// Computes a chain value for one part; a uniform one only for the first.
    fn compute(&mut self, value: usize, part: usize, places: &Places) {
        let loads = self.map.loads.len();
        let uniform = match value.checked_sub(loads) {
            None => self.register == F32X4 && self.map.loads[value].splat,
            Some(operation) => {
                let mut operands = nest::operands(&self.map.operations[operation]).into_iter();
                self.register == F32X4 && operands.all(|operand| matches!(self.values[operand], Chain::Uniform(_)))
            }
        };
        if uniform && part > 0 {
            return;
        }
        let result = match value.checked_sub(loads) {
            None if uniform => {
                let element = self.kernel.builder.ins().load(F32, MemFlagsData::trusted(), places.loads[value], 0);
                self.kernel.builder.ins().splat(F32X4, element)
            }
            None if self.is_narrow(&self.map.loads[value]) => self.load_narrow(places.loads[value], part),
            None => self.load(places.loads[value], part),
            Some(operation) => self.operation(self.map.operations[operation], part),
        };
        match &mut self.values[value] {
            chain if uniform => *chain = Chain::Uniform(result),
            Chain::Parts(parts) => parts.push(result),
            Chain::Uniform(_) => {}
        }
    }

    fn value(&self, value: usize, part: usize) -> Value {
        match &self.values[value] {
            Chain::Uniform(value) => *value,
            Chain::Parts(parts) => parts[part],
        }
    }

    fn operation(&mut self, operation: ChainOp, part: usize) -> Value {
        let at = |value| self.value(value, part);
        match operation {
            ChainOp::Constant(constant) => self.constant(constant),
            ChainOp::Add(a, b) => {
                let (a, b) = (at(a), at(b));
                self.kernel.builder.ins().fadd(a, b)
            }
            ChainOp::Sub(a, b) => {
                let (a, b) = (at(a), at(b));
                self.kernel.builder.ins().fsub(a, b)
            }
            ChainOp::Mul(a, b) => {
                let (a, b) = (at(a), at(b));
                self.kernel.builder.ins().fmul(a, b)
            }
            ChainOp::Div(a, b) => {
                let (a, b) = (at(a), at(b));
                self.kernel.builder.ins().fdiv(a, b)
            }
            ChainOp::Fma(a, b, c) => {
                let (a, b, c) = (at(a), at(b), at(c));
                if self.kernel.target.fused {
                    return self.kernel.builder.ins().fma(a, b, c);
                }
                let product = self.kernel.builder.ins().fmul(a, b);
                self.kernel.builder.ins().fadd(product, c)
            }
            ChainOp::Sqrt(a) => {
                let a = at(a);
                self.kernel.builder.ins().sqrt(a)
            }
            ChainOp::SelectLess(a, b, c, d) => {
                let (a, b, c, d) = (at(a), at(b), at(c), at(d));
                self.select_less(a, b, c, d)
            }
            ChainOp::PowerOfTwo(a) => {
                let a = at(a);
                self.power_of_two(a)
            }
            ChainOp::Exponent(a) => {
                let a = at(a);
                let exponent = self.exponent_from(a).1;
                let register = self.register;
                self.kernel.builder.ins().fcvt_from_sint(register, exponent)
            }
            ChainOp::Significand(a) => {
                let a = at(a);
                let (bits, exponent) = self.exponent_from(a);
                let field = self.exponent_field();
                let shifted = self.kernel.builder.ins().ishl(exponent, field);
                let significand = self.kernel.builder.ins().isub(bits, shifted);
                self.as_floats(significand)
            }
        }
    }

    fn constant(&mut self, value: f32) -> Value {
        let element = self.kernel.builder.ins().f32const(value);
        if self.register == F32X4 { self.kernel.builder.ins().splat(F32X4, element) } else { element }
    }

    /// The register's bits as integers.
    fn as_integers(&mut self, value: Value) -> Value {
        let integers = if self.register == F32X4 { I32X4 } else { I32 };
        self.kernel.builder.ins().bitcast(integers, MemFlagsData::new(), value)
    }

    fn as_floats(&mut self, value: Value) -> Value {
        self.kernel.builder.ins().bitcast(self.register, MemFlagsData::new(), value)
    }

    /// See [`math::power_of_two`].
    fn power_of_two(&mut self, value: Value) -> Value {
        let biased = self.constant(math::EXPONENT);
        let sum = self.kernel.builder.ins().fadd(value, biased);
        let bits = self.as_integers(sum);
        let field = self.exponent_field();
        let shifted = self.kernel.builder.ins().ishl(bits, field);
        self.as_floats(shifted)
    }

    /// The bits of a float, and the exponent that [`math::exponent`] gives as an integer.
    fn exponent_from(&mut self, value: Value) -> (Value, Value) {
        let bits = self.as_integers(value);
        let origin = self.constant(f32::from_bits(math::SQRT_HALF_BITS));
        let origin = self.as_integers(origin);
        let distance = self.kernel.builder.ins().isub(bits, origin);
        let field = self.exponent_field();
        (bits, self.kernel.builder.ins().sshr(distance, field))
    }

    /// Bits below a float's exponent.
    fn exponent_field(&mut self) -> Value {
        self.kernel.builder.ins().iconst(I32, 23)
    }

    fn select_less(&mut self, a: Value, b: Value, c: Value, d: Value) -> Value {
        let less = self.kernel.builder.ins().fcmp(FloatCC::LessThan, a, b);
        if self.register == F32 {
            return self.kernel.builder.ins().select(less, c, d);
        }
        let mask = self.kernel.builder.ins().bitcast(F32X4, MemFlagsData::new(), less);
        self.kernel.builder.ins().bitselect(mask, c, d)
    }

    fn is_narrow(&self, operand: &MapOperand) -> bool {
        self.kernel.element(&operand.address) == Element::Bf16
    }

    /// See [`math::widened`].
    fn load_narrow(&mut self, from: Value, part: usize) -> Value {
        let halves = self.kernel.builder.ins().uload16x4(MemFlagsData::trusted(), from, (part * 8) as i32);
        let half = self.kernel.builder.ins().iconst(I32, 16);
        let bits = self.kernel.builder.ins().ishl(halves, half);
        self.as_floats(bits)
    }

    /// See [`math::narrowed`]. The shift back keeps the sign, so that narrowing with saturation changes nothing.
    fn store_narrow(&mut self, value: Value, to: Value, part: usize) {
        let bits = self.as_integers(value);
        let half = self.kernel.builder.ins().iconst(I32, 16);
        let upper = self.kernel.builder.ins().ushr(bits, half);
        let mut splat = |value: i64| {
            let element = self.kernel.builder.ins().iconst(I32, value);
            self.kernel.builder.ins().splat(I32X4, element)
        };
        let (one, below) = (splat(1), splat(i64::from(math::HALF_BELOW)));
        let odd = self.kernel.builder.ins().band(upper, one);
        let up = self.kernel.builder.ins().iadd(odd, below);
        let rounded = self.kernel.builder.ins().iadd(bits, up);
        let upper = self.kernel.builder.ins().sshr(rounded, half);
        let halves = self.kernel.builder.ins().snarrow(upper, upper);
        let pairs = self.kernel.builder.ins().bitcast(I64X2, MemFlagsData::new().with_endianness(Endianness::Little), halves);
        let packed = self.kernel.builder.ins().extractlane(pairs, 0);
        self.kernel.builder.ins().store(MemFlagsData::trusted(), packed, to, (part * 8) as i32);
    }

    fn load(&mut self, from: Value, part: usize) -> Value {
        self.kernel.builder.ins().load(self.register, MemFlagsData::trusted(), from, (part * 16) as i32)
    }

    fn store(&mut self, value: Value, to: Value, part: usize) {
        self.kernel.builder.ins().store(MemFlagsData::trusted(), value, to, (part * 16) as i32);
    }
}
