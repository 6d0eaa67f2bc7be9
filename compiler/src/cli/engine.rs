//! The engine that a recipe names.

use super::failure::Failure;
use crate::engine::jit::Jit;
use crate::engine::rust::EmitOptions;
use crate::engine::rust::remote::Remote;
use crate::program::Program;
use crate::settings;
use mest_runtime::lanes::Isa;
use mest_runtime::network::Network;
use mest_runtime::recipe::{EngineName, IsaName, Recipe};

/// The instruction set that a recipe names.
///
/// # Errors
/// One that this machine lacks.
pub(crate) fn isa(name: IsaName) -> Result<Isa, Failure> {
    let isa = match name {
        IsaName::Auto => return Ok(Isa::best()),
        IsaName::Avx512 => Isa::Avx512,
        IsaName::Avx2 => Isa::Avx2,
        IsaName::Portable => Isa::Portable,
        IsaName::Neon => Isa::Neon,
    };
    if isa.available() { Ok(isa) } else { Err(lacking(isa.name())) }
}

fn lacking(name: &str) -> Failure {
    let has: Vec<&str> = Isa::ALL.into_iter().filter(|isa| isa.available()).map(Isa::name).collect();
    Failure::refused(format!("--isa {name}: this machine doesn't have it; it has {}, and --isa auto takes the best", has.join(", ")))
}

/// A network that runs `program` as the recipe's engine, isa and threads say.
///
/// # Errors
/// An engine that can't run here, or an instruction set that the machine lacks.
pub(crate) fn network(program: Program, recipe: &Recipe) -> Result<Box<dyn Network>, Failure> {
    let (isa, threads) = (isa(recipe.isa)?, settings::threads(recipe));
    match recipe.engine {
        EngineName::Jit => Ok(Box::new(Jit::new(program, isa, threads).map_err(Failure::refused)?)),
        EngineName::Rust => {
            let remote = Remote::start(&program, &EmitOptions::new(recipe), isa, threads, &Remote::default_cache());
            Ok(Box::new(remote.map_err(Failure::failed)?))
        }
        EngineName::Interp => Err(Failure::refused(
            "--engine interp: the f64 interpreter replays traces and doesn't train; use it with `mestc verify`, and --engine jit here",
        )),
    }
}
