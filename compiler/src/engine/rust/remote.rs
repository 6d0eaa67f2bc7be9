//! A program run as compiled Rust, in a process of its own: what `--engine rust` means.
//!
//! The generated crate and a driver for it are written into a cache folder and built by cargo; the driver answers on its standard streams
//! (see [`mest_runtime::serve`]). The arena here is the state between phases, so that all code over [`Network`] works unchanged.

use super::package::{self, PackageError, RuntimeSource};
use super::{EmitOptions, emit};
use crate::program::Program;
use crate::program::bounds::InvalidProgram;
use mest_runtime::arena::Arena;
use mest_runtime::lanes::Isa;
use mest_runtime::manifest::Manifest;
use mest_runtime::network::{Network, Phase, Timing};
use mest_runtime::serve;
use quote::{format_ident, quote};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Why a program can't be run as compiled Rust.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The program breaks a rule.
    #[error(transparent)]
    Program(#[from] InvalidProgram),
    /// The crate can't be written.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// No cargo.
    #[error("cargo can't be run: {error}; the rust engine needs a Rust toolchain (rustup.rs), --engine jit needs none")]
    Cargo {
        /// What the system says.
        error: io::Error,
    },
    /// The generated crate does not build.
    #[error("the generated crate in {} does not build:\n{output}", dir.display())]
    Build {
        /// Where it is.
        dir: PathBuf,
        /// What cargo says.
        output: String,
    },
    /// The driver can't be started.
    #[error("{}: {error}", path.display())]
    Start {
        /// The driver.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// A network that another process computes.
#[derive(Debug)]
pub struct Remote {
    manifest: Manifest,
    arena: Arena,
    process: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Remote {
    /// Emits `program`, builds it under `cache` (kept between calls, which makes later builds short) and starts it on `threads` threads.
    /// The arena is zero: initialise it.
    ///
    /// # Errors
    /// [`RemoteError`]: no toolchain, or the crate does not build.
    pub fn start(program: &Program, options: &EmitOptions, isa: Isa, threads: usize, cache: &Path) -> Result<Remote, RemoteError> {
        let options = EmitOptions { runtime: quote!(::mest_runtime), net: format_ident!("Net"), ..options.clone() };
        let generated = emit(program, &options)?;
        let mut hasher = DefaultHasher::new();
        generated.hash(&mut hasher);
        let name = format!("mest-net-{:016x}", hasher.finish());
        // One folder for all programs: they share the built runtime.
        package::write_crate(cache, &name, &generated, &RuntimeSource::Vendored)?;
        package::write(&cache.join("src/main.rs"), driver(&name).as_bytes())?;
        let binary = build(cache, &name)?;
        let start = |error| RemoteError::Start { path: binary.clone(), error };
        let mut command = Command::new(&binary);
        command.args([isa.name(), &threads.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(start)?;
        let streams = process.stdin.take().zip(process.stdout.take());
        let (requests, answers) = streams.ok_or_else(|| start(io::Error::other("its standard streams are not there")))?;
        let arena = Arena::new(program.manifest.arena_bytes);
        Ok(Remote { manifest: program.manifest.clone(), arena, process, requests: Some(requests), answers: BufReader::new(answers) })
    }

    /// Where [`Remote::start`] may keep what it builds: `$XDG_CACHE_HOME/mest/engine`, under the home folder, or among temporary files.
    pub fn default_cache() -> PathBuf {
        crate::caches::folder().join("engine")
    }
}

/// `src/main.rs` of the crate `name`.
fn driver(name: &str) -> String {
    let library = format_ident!("{}", name.replace('-', "_"));
    let tokens = quote! {
        use mest_runtime::network::NetError;
        use std::error::Error;
        use std::io;

        fn main() -> Result<(), Box<dyn Error>> {
            let mut arguments = std::env::args().skip(1);
            let isa = arguments.next().ok_or("usage: ISA THREADS")?.parse()?;
            let threads = arguments.next().ok_or("usage: ISA THREADS")?.parse()?;
            let mut net = #library::Net::with(0, isa, threads).map_err(|error: NetError| error.to_string())?;
            mest_runtime::serve::serve(&mut net, &mut io::stdin().lock(), &mut io::stdout().lock())?;
            Ok(())
        }
    };
    match syn::parse2(tokens) {
        Ok(file) => format!("//! Answers requests over the standard streams.\n\n{}", prettyplease::unparse(&file)),
        Err(error) => unreachable!("the driver is Rust: {error}"),
    }
}

/// Builds the crate in `dir`; the path of its binary.
fn build(dir: &Path, name: &str) -> Result<PathBuf, RemoteError> {
    let target = dir.join("target");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--quiet", "--manifest-path"]).arg(dir.join("Cargo.toml")).arg("--target-dir").arg(&target);
    let output = command.output().map_err(|error| RemoteError::Cargo { error })?;
    if !output.status.success() {
        return Err(RemoteError::Build { dir: dir.to_owned(), output: String::from_utf8_lossy(&output.stderr).into_owned() });
    }
    Ok(target.join("release").join(format!("{name}{}", std::env::consts::EXE_SUFFIX)))
}

impl Network for Remote {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn arena_mut(&mut self) -> &mut Arena {
        &mut self.arena
    }

    /// # Panics
    /// The process has ended: it crashed, or somebody ended it.
    fn run(&mut self, phase: Phase) {
        let Some(requests) = &mut self.requests else { unreachable!("closed by drop alone") };
        if let Err(error) = serve::request(phase, &mut self.arena, requests, &mut self.answers) {
            panic!("the process that runs the compiled network is gone: {error}");
        }
    }

    /// # Panics
    /// As [`Network::run`].
    fn time(&mut self, phase: Phase, rounds: usize) -> Timing {
        let Some(requests) = &mut self.requests else { unreachable!("closed by drop alone") };
        match serve::request_times(phase, rounds as u32, &mut self.arena, requests, &mut self.answers) {
            Ok(timing) => timing,
            Err(error) => panic!("the process that runs the compiled network is gone: {error}"),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // The end of its input is what ends it.
        self.requests = None;
        let _ = self.process.wait();
    }
}
