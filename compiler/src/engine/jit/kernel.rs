//! A kernel as Cranelift IR: `fn(arguments: *const *mut u8, scratch: *mut u8, first_item: i64, last_item: i64)`.
//!
//! Loops test before each turn: a value that flows to both sides of a branch at the loop's end counts as used twice, and then no load
//! folds into the instruction that uses it. Instructions come in the order in which they shall run: with `opt_level = none` nothing moves them.

use super::JitError;
use super::map::MapEmitter;
use crate::program::{Address, Affine, Base, Kernel, Operand, Statement};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{AbiParam, Block, BlockArg, FuncRef, InstBuilder, MemFlagsData, Signature, Value};
use cranelift_frontend::FunctionBuilder;
use cranelift_module::{Linkage, Module};
use mest_runtime::lanes::Isa;
use mest_runtime::manifest::Element;
use mest_runtime::tile::Tile;
use std::collections::HashMap;

/// What code is generated for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Whose tiles are called, and whether multiply-adds are fused.
    pub(super) isa: Isa,
    /// Lanes of a vector.
    pub(super) lanes: usize,
    /// Whether [`crate::program::ChainOp::Fma`] is one instruction.
    pub(super) fused: bool,
}

/// The signature of every kernel.
pub(super) fn signature(module: &dyn Module) -> Signature {
    let mut signature = module.make_signature();
    signature.params.extend([AbiParam::new(I64); 4]);
    signature
}

/// Writes `kernel` into the builder's function.
pub(super) fn translate(kernel: &Kernel, target: Target, module: &mut dyn Module, builder: FunctionBuilder<'_>) -> Result<(), JitError> {
    let config = module.target_config();
    let mut emitter = KernelEmitter {
        builder,
        module,
        target,
        arguments: Vec::new(),
        elements: kernel.arguments.iter().map(|(_, element)| *element).collect(),
        scratch: Value::from_u32(0),
        variables: Vec::new(),
        tiles: HashMap::new(),
    };
    emitter.function(kernel)?;
    emitter.builder.seal_all_blocks();
    emitter.builder.finalize(config);
    Ok(())
}

/// The state of one translation.
pub(super) struct KernelEmitter<'a, 'f> {
    pub(super) builder: FunctionBuilder<'f>,
    module: &'a mut dyn Module,
    pub(super) target: Target,
    arguments: Vec<Value>,
    elements: Vec<Element>,
    scratch: Value,
    /// Values of the domain's and the loops' variables in scope.
    variables: Vec<Value>,
    /// Tiles already imported into this function.
    tiles: HashMap<String, FuncRef>,
}

/// A loop that has been opened: its counter and what it carries, as they are at the start of a turn.
pub(super) struct Turn {
    header: Block,
    exit: Block,
    pub(super) counter: Value,
    pub(super) carried: Vec<Value>,
}

impl KernelEmitter<'_, '_> {
    fn function(&mut self, kernel: &Kernel) -> Result<(), JitError> {
        let entry = self.builder.create_block();
        self.builder.append_block_params_for_function_params(entry);
        self.builder.switch_to_block(entry);
        let &[table, scratch, first, last] = self.builder.block_params(entry) else {
            return Err(JitError::Host { problem: "a kernel's signature lost its parameters".to_owned() });
        };
        self.scratch = scratch;
        for index in 0..kernel.arguments.len() {
            let argument = self.builder.ins().load(I64, MemFlagsData::trusted(), table, (index * 8) as i32);
            self.arguments.push(argument);
        }
        let turn = self.open_loop(first, last, &[]);
        self.decode(turn.counter, &kernel.domain);
        self.statements(&kernel.body)?;
        self.close_loop(turn, 1, &[]);
        self.builder.ins().return_(&[]);
        Ok(())
    }

    /// Item -> the domain's variables, the last one fastest.
    fn decode(&mut self, item: Value, domain: &[usize]) {
        let mut rest = item;
        let mut variables = Vec::with_capacity(domain.len());
        for (index, &extent) in domain.iter().enumerate().rev() {
            if index == 0 {
                variables.push(rest);
            } else {
                let extent = self.constant(extent as i64);
                variables.push(self.builder.ins().urem(rest, extent));
                rest = self.builder.ins().udiv(rest, extent);
            }
        }
        variables.reverse();
        self.variables = variables;
    }

    fn statements(&mut self, body: &[Statement]) -> Result<(), JitError> {
        body.iter().try_for_each(|statement| match statement {
            Statement::Loop { count, body } => {
                let (zero, end) = (self.constant(0), self.constant(*count as i64));
                let turn = self.open_loop(zero, end, &[]);
                self.variables.push(turn.counter);
                self.statements(body)?;
                self.variables.pop();
                self.close_loop(turn, 1, &[]);
                Ok(())
            }
            Statement::Tile { tile, operands } => self.tile(tile, operands),
            Statement::Map(map) => {
                MapEmitter::emit(self, map);
                Ok(())
            }
        })
    }

    fn tile(&mut self, tile: &Tile, operands: &[Operand]) -> Result<(), JitError> {
        let function = self.import(tile, operands.len())?;
        let mut values = vec![self.constant(tile.shape_pointer() as i64)];
        for operand in operands {
            values.push(match operand {
                Operand::Address(address) => self.pointer(address),
                Operand::Integer(value) => self.affine(value, 1),
            });
        }
        self.builder.ins().call(function, &values);
        Ok(())
    }

    fn import(&mut self, tile: &Tile, operands: usize) -> Result<FuncRef, JitError> {
        let symbol = tile.symbol_name(self.target.isa, self.target.lanes);
        if let Some(function) = self.tiles.get(&symbol) {
            return Ok(*function);
        }
        let mut signature = self.module.make_signature();
        signature.params.resize(operands + 1, AbiParam::new(I64));
        let id = self
            .module
            .declare_function(&symbol, Linkage::Import, &signature)
            .map_err(|error| JitError::Host { problem: format!("tile {symbol} can't be imported: {error}") })?;
        let function = self.module.declare_func_in_func(id, self.builder.func);
        self.tiles.insert(symbol, function);
        Ok(function)
    }

    /// What lies at the address.
    pub(super) fn element(&self, address: &Address) -> Element {
        match address.base {
            Base::Argument(index) => self.elements[index],
            Base::Scratch | Base::Null => Element::F32,
        }
    }

    /// The address in bytes.
    pub(super) fn pointer(&mut self, address: &Address) -> Value {
        let base = match address.base {
            Base::Argument(index) => self.arguments[index],
            Base::Scratch => self.scratch,
            Base::Null => return self.constant(0),
        };
        if address.offset == Affine::default() {
            return base;
        }
        let offset = self.affine(&address.offset, self.element(address).bytes() as i64);
        self.builder.ins().iadd(base, offset)
    }

    /// The expression's value times `scale`.
    fn affine(&mut self, affine: &Affine, scale: i64) -> Value {
        let mut sum = None;
        for &(variable, coefficient) in &affine.terms {
            let variable = self.variables[variable];
            let factor = self.constant(coefficient as i64 * scale);
            let term = self.builder.ins().imul(variable, factor);
            sum = Some(sum.map_or(term, |sum| self.builder.ins().iadd(sum, term)));
        }
        match (sum, affine.constant as i64 * scale) {
            (Some(sum), 0) => sum,
            (Some(sum), constant) => self.builder.ins().iadd_imm_s(sum, constant),
            (None, constant) => self.constant(constant),
        }
    }

    pub(super) fn constant(&mut self, value: i64) -> Value {
        self.builder.ins().iconst(I64, value)
    }

    /// Opens `while counter < end`; what follows is its body until [`Self::close_loop`].
    pub(super) fn open_loop(&mut self, start: Value, end: Value, carried: &[Value]) -> Turn {
        let (header, body, exit) = (self.builder.create_block(), self.builder.create_block(), self.builder.create_block());
        let counter = self.builder.append_block_param(header, I64);
        let inside = carried
            .iter()
            .map(|value| {
                let of = self.builder.func.dfg.value_type(*value);
                self.builder.append_block_param(header, of)
            })
            .collect();
        let entering: Vec<BlockArg> = std::iter::once(&start).chain(carried).map(|value| BlockArg::from(*value)).collect();
        self.builder.ins().jump(header, &entering);
        self.builder.switch_to_block(header);
        let more = self.builder.ins().icmp(IntCC::SignedLessThan, counter, end);
        self.builder.ins().brif(more, body, &[], exit, &[]);
        self.builder.switch_to_block(body);
        Turn { header, exit, counter, carried: inside }
    }

    /// Ends a turn with the counter moved by `step` and with new carried values; after the loop the header's hold the last ones.
    pub(super) fn close_loop(&mut self, turn: Turn, step: i64, carried: &[Value]) -> Vec<Value> {
        let next = self.builder.ins().iadd_imm_s(turn.counter, step);
        let again: Vec<BlockArg> = std::iter::once(&next).chain(carried).map(|value| BlockArg::from(*value)).collect();
        self.builder.ins().jump(turn.header, &again);
        self.builder.switch_to_block(turn.exit);
        turn.carried
    }
}
