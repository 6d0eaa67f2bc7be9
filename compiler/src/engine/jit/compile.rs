//! The Cranelift module: set up for this machine, filled with a program's kernels, freed at the end.

use super::JitError;
use super::kernel::{self, Target};
use crate::program::{Kernel, Program, Statement};
use cranelift_codegen::Context;
use cranelift_codegen::ir::function::{Function, FunctionStencil};
use cranelift_codegen::ir::{ExternalName, InstructionData, Opcode, UserFuncName};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module, default_libcall_names};
use mest_runtime::lanes::Isa;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A kernel's machine code: `(arguments, scratch, first item, last item)`.
pub(super) type KernelFunction = unsafe extern "C" fn(*const *mut u8, *mut u8, i64, i64);

/// The machine code of a program.
pub(super) struct Code {
    /// Taken only to be freed.
    module: Option<JITModule>,
    functions: Vec<KernelFunction>,
    bytes: usize,
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Code").field("kernels", &self.functions.len()).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Code {
    /// Compiles every kernel of a program that passed [`crate::program::bounds::check`].
    pub(super) fn compile(program: &Program, isa: Isa) -> Result<Code, JitError> {
        let (module, target) = module(program, isa)?;
        // In `Code` from here on, so that errors free what was mapped.
        let mut code = Code { module: Some(module), functions: Vec::new(), bytes: 0 };
        let Some(module) = &mut code.module else { return Ok(code) };
        let mut context = module.make_context();
        let mut frontend = FunctionBuilderContext::new();
        let mut ids = Vec::with_capacity(program.kernels.len());
        for (index, kernel) in program.kernels.iter().enumerate() {
            let id = declare(module, index, kernel, &mut context)?;
            kernel::translate(kernel, target, module, FunctionBuilder::new(&mut context.func, &mut frontend))?;
            module.define_function(id, &mut context).map_err(|error| fault(kernel, &format!("{error:?}")))?;
            code.bytes += context.compiled_code().map_or(0, |compiled| compiled.code_buffer().len());
            module.clear_context(&mut context);
            ids.push(id);
        }
        module.finalize_definitions().map_err(|error| JitError::Host { problem: error.to_string() })?;
        for id in ids {
            let address = module.get_finalized_function(id);
            // SAFETY: the function was defined with `kernel::signature`, four words in the C calling convention, nothing returned.
            code.functions.push(unsafe { std::mem::transmute::<*const u8, KernelFunction>(address) });
        }
        Ok(code)
    }

    pub(super) fn function(&self, kernel: usize) -> KernelFunction {
        self.functions[kernel]
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: the functions are reached only through this `Code` and the launches of the `Jit` that owns it, and both end here;
            // no phase runs, since running borrows the `Jit`.
            unsafe { module.free_memory() };
        }
    }
}

/// The IR of every kernel, each under its name; a shape's address is given as the call's number. One text for a program, whatever the process.
pub(super) fn clif(program: &Program, isa: Isa) -> Result<String, JitError> {
    let (mut module, target) = module(program, isa)?;
    let mut context = module.make_context();
    let mut frontend = FunctionBuilderContext::new();
    let mut text = String::new();
    for (index, kernel) in program.kernels.iter().enumerate() {
        declare(&mut module, index, kernel, &mut context)?;
        kernel::translate(kernel, target, &mut module, FunctionBuilder::new(&mut context.func, &mut frontend))?;
        make_readable(&mut context.func, &kernel.name, &module);
        let separator = if index == 0 { "" } else { "\n" };
        let _ = write!(text, "{separator}{}", context.func.display());
        module.clear_context(&mut context);
    }
    // SAFETY: nothing was defined in this module, so nothing of it can run.
    unsafe { module.free_memory() };
    Ok(text)
}

/// Names in place of numbers, and numbers in place of addresses.
fn make_readable(function: &mut Function, name: &str, module: &JITModule) {
    function.name = UserFuncName::testcase(name);
    let names = function.params.user_named_funcs();
    for tile in function.stencil.dfg.ext_funcs.values_mut() {
        if let ExternalName::User(reference) = tile.name {
            let declaration = module.declarations().get_function_decl(FuncId::from_u32(names[reference].index));
            tile.name = ExternalName::testcase(declaration.name.as_deref().unwrap_or_default());
        }
    }
    let FunctionStencil { dfg, layout, .. } = &mut function.stencil;
    let calls = layout.blocks().flat_map(|block| layout.block_insts(block)).filter(|&inst| dfg.insts[inst].opcode() == Opcode::Call);
    let shapes: Vec<_> = calls.filter_map(|call| dfg.value_def(dfg.inst_args(call)[0]).inst()).collect();
    for (number, shape) in shapes.into_iter().enumerate() {
        dfg.insts[shape] = InstructionData::UnaryImm { opcode: Opcode::Iconst, imm: (number as i64).into() };
    }
}

fn declare(module: &mut JITModule, index: usize, kernel: &Kernel, context: &mut Context) -> Result<FuncId, JitError> {
    context.func.signature = kernel::signature(module);
    context.func.name = UserFuncName::user(0, index as u32);
    // Numbered: names are for people and need not be unique.
    let name = format!("{index}_{}", kernel.name);
    module.declare_function(&name, Linkage::Local, &context.func.signature).map_err(|error| fault(kernel, &error.to_string()))
}

fn fault(kernel: &Kernel, problem: &str) -> JitError {
    JitError::Kernel { kernel: kernel.name.clone(), problem: problem.to_owned() }
}

/// An empty module that knows the symbols of the program's tiles.
fn module(program: &Program, isa: Isa) -> Result<(JITModule, Target), JitError> {
    if !isa.available() {
        return Err(JitError::Isa { isa });
    }
    let host = host()?;
    let lanes = program.manifest.lanes;
    let fused = isa.is_fused();
    // Without the instruction Cranelift would call a function for each lane.
    if fused && cfg!(target_arch = "x86_64") && !has_flag(&host, "has_fma") {
        return Err(JitError::Isa { isa });
    }
    let mut builder = JITBuilder::with_isa(host, default_libcall_names());
    let mut symbols = BTreeMap::new();
    program.kernels.iter().for_each(|kernel| collect_tiles(&kernel.body, isa, lanes, &mut symbols));
    for (name, address) in symbols {
        builder.symbol(name, address);
    }
    Ok((JITModule::new(builder), Target { isa, lanes, fused }))
}

fn collect_tiles(body: &[Statement], isa: Isa, lanes: usize, symbols: &mut BTreeMap<String, *const u8>) {
    for statement in body {
        match statement {
            Statement::Loop { body, .. } => collect_tiles(body, isa, lanes, symbols),
            Statement::Tile { tile, .. } => {
                symbols.insert(tile.symbol_name(isa, lanes), tile.symbol(isa, lanes));
            }
            Statement::Map(_) => {}
        }
    }
}

fn host() -> Result<OwnedTargetIsa, JitError> {
    let host = |problem: &dyn std::fmt::Display| JitError::Host { problem: problem.to_string() };
    let mut flags = settings::builder();
    let verify = if cfg!(debug_assertions) { "true" } else { "false" };
    for (name, value) in [
        ("use_colocated_libcalls", "false"),
        ("is_pic", "false"),
        // Higher levels sink pure operations to their uses, which spills: the order we emit is the order we want.
        ("opt_level", "none"),
        ("enable_verifier", verify),
    ] {
        flags.set(name, value).map_err(|error| host(&error))?;
    }
    let builder = cranelift_native::builder().map_err(|problem| host(&problem))?;
    builder.finish(settings::Flags::new(flags)).map_err(|error| host(&error))
}

fn has_flag(isa: &OwnedTargetIsa, name: &str) -> bool {
    isa.isa_flags().iter().any(|flag| flag.name == name && flag.as_bool() == Some(true))
}
