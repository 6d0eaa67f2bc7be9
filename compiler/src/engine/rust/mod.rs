//! The Rust engine: a program as source, to be built into an application by the Rust compiler.
//!
//! What comes out links to `mest-runtime` and to nothing else: one function a kernel, generic over the vector type so that one binary
//! serves every instruction set; one function a phase; the manifest as constants; a struct that implements
//! [`mest_runtime::network::Network`]. It computes the same bits as the JIT.

mod kernel;
mod manifest;
mod map;
mod names;
mod net;
pub mod package;
pub mod remote;
#[cfg(test)]
mod tests;

use crate::program::bounds::{self, InvalidProgram};
use crate::program::{Program, Statement};
use kernel::KernelFunction;
use mest_runtime::network::UpdateRule;
use mest_runtime::optim::Optimizer;
use mest_runtime::recipe::Recipe;
use mest_runtime::sparse::state::InitialMasks;
use names::Names;
use proc_macro2::{Ident, Literal, TokenStream};
use quote::{format_ident, quote};
use syn::{Item, LitStr};

/// How a program is printed.
#[derive(Clone, Debug)]
pub struct EmitOptions {
    /// Path of the runtime crate: `::mest_runtime`, say.
    pub runtime: TokenStream,
    /// Name of the network's struct.
    pub net: Ident,
    /// What the code is made from, for its header: the model's file name.
    pub source: String,
    /// The command that makes it, for its header.
    pub made_by: String,
    /// The update rule of the steps; their learning rate can be changed between them.
    pub rule: UpdateRule,
    /// The masks that training starts from; [`InitialMasks::Given`] counts as [`InitialMasks::Magnitude`].
    pub initial_masks: InitialMasks,
    /// What the network is trained with; `Net::recipe` gives it to [`mest_runtime::train::fit`].
    pub recipe: Recipe,
    /// Where what needs `std` goes.
    pub std: StdItems,
}

/// What becomes of the items that need `std`: threads, files, the recipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StdItems {
    /// They depend on the feature `std` of the crate that the code is in.
    Feature,
    /// They are there.
    #[default]
    Present,
    /// They are left out.
    Absent,
}

impl StdItems {
    /// `items`, each complete, as this says.
    fn keep(self, items: impl IntoIterator<Item = TokenStream>) -> TokenStream {
        items
            .into_iter()
            .map(|item| match self {
                StdItems::Feature => quote!(#[cfg(feature = "std")] #item),
                StdItems::Present => item,
                StdItems::Absent => TokenStream::new(),
            })
            .collect()
    }
}

impl EmitOptions {
    /// A crate's `Net` that trains as `recipe` says.
    pub fn new(recipe: &Recipe) -> Self {
        EmitOptions {
            runtime: quote!(::mest_runtime),
            net: format_ident!("Net"),
            source: String::new(),
            made_by: String::new(),
            rule: UpdateRule {
                optimizer: recipe.update_rule(),
                learning_rate: recipe.learning_rate(),
                weight_decay: recipe.weight_decay,
                max_norm: recipe.clip_norm,
            },
            initial_masks: recipe.policy.0.initial_masks(),
            recipe: recipe.clone(),
            std: StdItems::Present,
        }
    }
}

/// A program as the source of a crate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Generated {
    /// `src/lib.rs`, or the file to be included.
    pub lib_rs: String,
    /// What it includes: path beside it, contents.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Prints `program` as a crate.
///
/// # Errors
/// [`InvalidProgram`] if the program breaks a rule.
pub fn emit(program: &Program, options: &EmitOptions) -> Result<Generated, InvalidProgram> {
    let options = EmitOptions { std: StdItems::Feature, ..options.clone() };
    let tokens = tokens(program, &options, &quote!(include_bytes!("model.onnx")), true)?;
    let no_std = "#![cfg_attr(not(feature = \"std\"), no_std)]";
    let lib_rs = format!("{}\n{no_std}\n\n{}", header(program, &options), layout(tokens));
    Ok(Generated { lib_rs, files: vec![("model.onnx".to_owned(), program.manifest.template.bytes.to_vec())] })
}

/// Prints `program` as a file for `include!`, in a crate with `std`; the model's file lies beside it as `weights`.
///
/// # Errors
/// [`InvalidProgram`] if the program breaks a rule.
pub fn emit_included(program: &Program, options: &EmitOptions, weights: &str) -> Result<Generated, InvalidProgram> {
    let tokens = tokens(program, options, &quote!(include_bytes!(#weights)), true)?;
    let source = format!("{}\n{}", header(program, options).replace("//!", "//"), layout(tokens));
    Ok(Generated { lib_rs: source, files: vec![(weights.to_owned(), program.manifest.template.bytes.to_vec())] })
}

/// Prints `program` as the items of a module, the model file within them: what a macro expands to.
///
/// # Errors
/// [`InvalidProgram`] if the program breaks a rule.
pub fn emit_items(program: &Program, options: &EmitOptions) -> Result<TokenStream, InvalidProgram> {
    let template = Literal::byte_string(&program.manifest.template.bytes);
    tokens(program, options, &quote!(#template), false)
}

fn tokens(program: &Program, options: &EmitOptions, template: &TokenStream, comments: bool) -> Result<TokenStream, InvalidProgram> {
    bounds::check(program)?;
    let kernels = kernels(program, comments);
    let slots = net::slots(program);
    let phases = net::phases(program, &kernels, &slots, comments);
    let imports = imports(program, options);
    let (network, manifest) = (net::network(program, options, comments), manifest::items(&program.manifest, template));
    let (slots, recipe) = (slots.item, options.recipe.to_json());
    let functions = kernels.iter().flatten().map(|kernel| &kernel.item);
    Ok(quote! {
        #imports

        /// The recipe this was compiled for, as JSON.
        pub const RECIPE: &str = #recipe;

        #network
        #phases
        #(#functions)*
        #slots
        #manifest
    })
}

/// One function for each kernel that is launched, at the kernel's index.
fn kernels(program: &Program, comments: bool) -> Vec<Option<KernelFunction>> {
    let mut names = Names::reserving(&["train", "evaluate", "at", "floats", "words"]);
    let functions = program.kernels.iter().enumerate().map(|(index, kernel)| {
        let launches = program.schedules.iter().flat_map(|schedule| &schedule.launches);
        let mut users: Vec<&str> = launches.filter(|launch| launch.kernel == index).map(|launch| launch.label.as_str()).collect();
        users.dedup();
        (!users.is_empty()).then(|| kernel::function(kernel, names.value(&kernel.name), &users, comments))
    });
    functions.collect()
}

fn imports(program: &Program, options: &EmitOptions) -> TokenStream {
    let runtime = &options.runtime;
    let tile = any_statement(program, &|statement| matches!(statement, Statement::Tile { .. }))
        .then(|| quote!(use #runtime::tile::{self, out_of_line};));
    let with_std = options.std.keep([quote!(use #runtime::recipe::Recipe;), quote!(use #runtime::train::{TrainError, checkpoint};)]);
    quote! {
        extern crate alloc;

        use #runtime::arena::Arena;
        use #runtime::lanes::{self, Isa, Lanes};
        use #runtime::manifest::{self, Manifest};
        use #runtime::network::{self, BatchError, NetError, Network, Phase, StepReport, Target, UpdateRule};
        use #runtime::mutation::{self, LayerReport, Mutator, Progress};
        use #runtime::optim::Optimizer;
        use #runtime::sparse::state::{self, InitialMasks};
        use #runtime::team::{Team, Worker};
        #tile
        #with_std
        use alloc::borrow::Cow;
        use alloc::vec::Vec;
        use core::ops::Range;
    }
}

fn any_statement(program: &Program, wanted: &dyn Fn(&Statement) -> bool) -> bool {
    fn any(body: &[Statement], wanted: &dyn Fn(&Statement) -> bool) -> bool {
        body.iter().any(|statement| match statement {
            Statement::Loop { body, .. } => any(body, wanted),
            other => wanted(other),
        })
    }
    program.schedules.iter().flat_map(|schedule| &schedule.launches).any(|launch| any(&program.kernels[launch.kernel].body, wanted))
}

/// What makes a network, and what goes with it to disk.
fn constructors(options: &EmitOptions) -> TokenStream {
    let (masks, how) = match options.initial_masks {
        InitialMasks::Random => ("Random", "random masks"),
        InitialMasks::All => ("All", "every weight live until `train::fit` prunes"),
        InitialMasks::Magnitude | InitialMasks::Given(_) => ("Magnitude", "the weights of largest magnitude live"),
    };
    let (masks, rule) = (format_ident!("{masks}"), rule(&options.rule));
    let with_std = options.std.keep(std_constructors(how).into_iter().chain(checkpoints()));
    quote! {
        #with_std

        /// The network in memory that is handed in, [`Self::MEMORY_BYTES`] at least, on the calling thread alone: nothing is allocated by its steps.
        /// What `seed` leads to is what it leads to on any number of threads.
        ///
        /// # Errors
        /// Too little memory, or the machine does not have the instruction set.
        pub fn over(memory: &'static mut [u8], seed: u64, isa: Isa) -> Result<Self, NetError> {
            let found = memory.len();
            let too_little = NetError::Memory { needed: MEMORY_BYTES, found };
            let Some((arena, rest)) = Arena::within(memory, ARENA_BYTES) else { return Err(too_little) };
            let Some((scratch, _)) = Arena::within(rest, MANIFEST.scratch_bytes) else { return Err(too_little) };
            Self::begin(arena, scratch, seed, isa, 1)
        }

        fn begin(mut arena: Arena, scratch: Arena, seed: u64, isa: Isa, threads: usize) -> Result<Self, NetError> {
            if !isa.available() {
                return Err(NetError::Isa { isa });
            }
            state::initialize(&MANIFEST, &mut arena, &InitialMasks::#masks, seed)?;
            Ok(Self { arena, scratch, team: Team::new(threads), isa, rule: #rule, seed, steps: 0 })
        }
    }
}

/// Constructors over threads, and the recipe.
fn std_constructors(how: &str) -> [TokenStream; 4] {
    let doc = format!(" The network at the start of its training: the model's values, {how}.");
    let recipe = quote! {
        /// The recipe this was compiled for: what `train::fit` takes.
        pub fn recipe() -> Recipe {
            match Recipe::from_json(RECIPE) {
                Ok(recipe) => recipe,
                Err(errors) => unreachable!("the compiler wrote it: {errors:?}"),
            }
        }
    };
    let mutator = quote! {
        /// What mutates the masks as the recipe says: for [`Self::mutate`].
        pub fn mutator(&self) -> Mutator {
            Mutator::new(&MANIFEST, Self::recipe().mutation(), self.seed)
        }
    };
    let new = quote! {
        #[doc = #doc]
        /// It runs on all cores with the best instruction set that the machine has; neither changes what `seed` leads to.
        pub fn new(seed: u64) -> Self {
            let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            match Self::with(seed, Isa::best(), threads) {
                Ok(net) => net,
                Err(error) => unreachable!("the machine has its own instruction set, the template its own values: {error}"),
            }
        }
    };
    let with = quote! {
        /// As [`Self::new`], on `threads` threads (at least one) with an instruction set of the caller's choice.
        ///
        /// # Errors
        /// The machine does not have the instruction set.
        pub fn with(seed: u64, isa: Isa, threads: usize) -> Result<Self, NetError> {
            let threads = threads.max(1);
            Self::begin(Arena::new(ARENA_BYTES), Arena::new(MANIFEST.scratch_bytes * threads), seed, isa, threads)
        }
    };
    [recipe, mutator, new, with]
}

/// `save` and `load`.
fn checkpoints() -> [TokenStream; 2] {
    let save = quote! {
        /// Writes the training state as a checkpoint, the format of `mestc train`.
        ///
        /// # Errors
        /// The file can't be written.
        pub fn save(&self, path: &std::path::Path) -> Result<(), TrainError> {
            checkpoint::save(self, &Self::recipe(), self.steps, path)
        }
    };
    let load = quote! {
        /// Takes the training state of a checkpoint: of [`Self::save`], or of `mestc train` with this model and recipe.
        ///
        /// # Errors
        /// The file can't be read, or is of another network.
        pub fn load(&mut self, path: &std::path::Path) -> Result<(), TrainError> {
            self.steps = checkpoint::load(self, path)?;
            Ok(())
        }
    };
    [save, load]
}

fn rule(rule: &UpdateRule) -> TokenStream {
    let UpdateRule { optimizer, learning_rate, weight_decay, max_norm } = *rule;
    let pair = |[a, b]: [f64; 2]| quote!([#a, #b]);
    let optimizer = match optimizer {
        Optimizer::Sgd { momentum, nesterov } => quote!(Optimizer::Sgd { momentum: #momentum, nesterov: #nesterov }),
        Optimizer::Adam { betas, eps } => {
            let betas = pair(betas);
            quote!(Optimizer::Adam { betas: #betas, eps: #eps })
        }
        Optimizer::AdamW { betas, eps } => {
            let betas = pair(betas);
            quote!(Optimizer::AdamW { betas: #betas, eps: #eps })
        }
        Optimizer::Adagrad { eps } => quote!(Optimizer::Adagrad { eps: #eps }),
    };
    let max_norm = max_norm.map_or(quote!(None), |norm| quote!(Some(#norm)));
    quote!(UpdateRule { optimizer: #optimizer, learning_rate: #learning_rate, weight_decay: #weight_decay, max_norm: #max_norm })
}

/// What the crate is and where it comes from.
fn header(program: &Program, options: &EmitOptions) -> String {
    let m = &program.manifest;
    let launches = |phase| program.schedules.iter().filter(|s| s.phase == phase).map(|s| s.launches.len()).sum::<usize>();
    let (train, evaluate) = (launches(mest_runtime::network::Phase::Train), launches(mest_runtime::network::Phase::Evaluate));
    let lines = [
        format!("Sparse training of `{}`, compiled from `{}` by mestc {}.", m.name, options.source, env!("CARGO_PKG_VERSION")),
        String::new(),
        format!("Made by `{}`. Change the model or the recipe and make it again; do not edit it.", options.made_by),
        String::new(),
        format!("A step takes up to {} examples, {} a vector, and runs {train} kernels; an evaluation runs {evaluate}.", m.batch, m.lanes),
        format!("The whole training state is {} bytes, and {} more for each thread.", m.arena_bytes, m.scratch_bytes),
    ];
    lines
        .iter()
        .map(|line| if line.is_empty() { "//!\n".to_owned() } else { format!("//! {}\n", line.replace(['\n', '\r'], " ")) })
        .collect()
}

/// A comment among generated statements, as a token that [`layout`] turns into one.
fn comment(printed: bool, text: &str) -> TokenStream {
    if printed { quote!(comment!(#text);) } else { TokenStream::new() }
}

/// Source text: a blank line between items and between methods, comments in their places.
fn layout(tokens: TokenStream) -> String {
    let file: syn::File = match syn::parse2(tokens) {
        Ok(file) => file,
        Err(error) => unreachable!("generated items are Rust: {error}"),
    };
    let mut text = String::new();
    let mut previous_is_use = false;
    for item in file.items {
        let (is_use, is_impl) = (matches!(item, Item::Use(_)), matches!(item, Item::Impl(_)));
        let continues_imports = is_use && previous_is_use;
        if !text.is_empty() && !continues_imports {
            text.push('\n');
        }
        previous_is_use = is_use;
        let printed = tidy(&prettyplease::unparse(&syn::File { shebang: None, frontmatter: None, attrs: vec![], items: vec![item] }));
        let mut method_ended = false;
        for line in printed {
            if method_ended && line != "}" {
                text.push('\n');
            }
            method_ended = is_impl && line == "    }";
            text += &uncomment(&line);
            text.push('\n');
        }
    }
    text
}

/// The lines, with comments and `::<L>` that the printer broke in three put together again.
fn tidy(printed: &str) -> Vec<String> {
    let mut tidied: Vec<String> = Vec::new();
    let mut lines = printed.lines();
    while let Some(line) = lines.next() {
        let broken = line.trim_start() == "comment!(" || line.ends_with("::<");
        let mut joined = line.to_owned();
        if broken {
            let rest = lines.by_ref().take(2).map(|part| part.trim().to_owned()).collect::<Vec<_>>();
            joined += &rest.concat().replace("L,>", "L>");
        }
        tidied.push(joined);
    }
    tidied
}

/// `comment!("text");` -> `// text`
fn uncomment(line: &str) -> String {
    let trimmed = line.trim_start();
    let literal = trimmed.strip_prefix("comment!(").and_then(|rest| rest.strip_suffix(");"));
    match literal.and_then(|literal| syn::parse_str::<LitStr>(literal).ok()) {
        Some(text) => format!("{}// {}", &line[..line.len() - trimmed.len()], text.value().replace(['\n', '\r'], " ")),
        None => line.to_owned(),
    }
}
