//! The network's struct: its memory, its threads, and the phases that launch kernels.

use super::EmitOptions;
use super::kernel::KernelFunction;
use super::names::Names;
use super::{comment, constructors};
use crate::program::{Launch, Program, SlotId, text};
use mest_runtime::manifest::Element;
use mest_runtime::network::Phase;
use proc_macro2::{Ident, Literal, TokenStream};
use quote::{format_ident, quote};
use std::collections::BTreeMap;

/// Where the slots that launches name lie.
pub(super) struct SlotConstants {
    names: BTreeMap<SlotId, Ident>,
    /// `mod slots` with one constant a slot.
    pub(super) item: TokenStream,
}

/// Names every slot that a launch uses.
pub(super) fn slots(program: &Program) -> SlotConstants {
    let mut names = BTreeMap::new();
    let mut scope = Names::default();
    let launches = program.schedules.iter().flat_map(|schedule| &schedule.launches);
    let mut used: Vec<SlotId> = launches.flat_map(|launch| launch.arguments.iter().map(|(slot, _)| *slot)).collect();
    used.sort_unstable();
    used.dedup();
    let constants = used.into_iter().map(|id| {
        let slot = &program.slots[id.0];
        let name = scope.constant(&slot.name);
        let (element, offset) = (text::element(slot.element), Literal::usize_unsuffixed(slot.offset));
        let doc = format!(" `{element}[{}]`, {}: `{}`.", slot.len, slot.class.name(), slot.name.replace('`', "'"));
        let constant = quote!(#[doc = #doc] pub(super) const #name: usize = #offset;);
        names.insert(id, name);
        constant
    });
    let constants: TokenStream = constants.collect();
    let item = quote! {
        /// Where each value lies: bytes from the arena's start. Values whose lives do not meet share their place.
        mod slots {
            #constants
        }
    };
    SlotConstants { names, item }
}

/// One function a phase: its launches in order, a barrier after each.
pub(super) fn phases(program: &Program, kernels: &[Option<KernelFunction>], slots: &SlotConstants, comments: bool) -> TokenStream {
    let phases = [(Phase::Train, "train", "One step"), (Phase::Evaluate, "evaluate", "One evaluation")];
    let phases = phases.into_iter().map(|(phase, name, what)| {
        let lines: Vec<TokenStream> =
            schedule(program, phase).map(|launch| self::launch(program, launch, kernels, slots, comments)).collect();
        let name = format_ident!("{name}");
        let doc = format!(" {what} on one worker of the team: every launch, each followed by a barrier.");
        let scratch = schedule(program, phase).any(|launch| kernels[launch.kernel].as_ref().is_some_and(|kernel| kernel.takes_scratch));
        let scratch = if scratch { quote!(scratch) } else { quote!(_scratch) };
        let (worker, arena) = if lines.is_empty() { (quote!(_worker), quote!(_arena)) } else { (quote!(worker), quote!(arena)) };
        let safety = comment(comments, "SAFETY: the caller passes this network's arena and the worker's own scratch.");
        let body = if lines.is_empty() { TokenStream::new() } else { quote!(#safety unsafe { #(#lines)* }) };
        quote! {
            #[doc = #doc]
            unsafe fn #name<L: Lanes>(#worker: &Worker, #arena: *mut u8, #scratch: *mut f32) {
                #body
            }
        }
    });
    let at = quote! {
        /// The address `bytes` from the arena's start.
        #[inline(always)]
        unsafe fn at<T>(arena: *mut u8, bytes: usize) -> *mut T {
            unsafe { arena.add(bytes).cast() }
        }
    };
    let any = program.schedules.iter().flat_map(|schedule| &schedule.launches).any(|launch| !launch.arguments.is_empty());
    let at = if any { at } else { TokenStream::new() };
    quote!(#(#phases)* #at)
}

fn schedule(program: &Program, phase: Phase) -> impl Iterator<Item = &Launch> {
    program.schedules.iter().filter(move |schedule| schedule.phase == phase).flat_map(|schedule| &schedule.launches)
}

fn launch(program: &Program, launch: &Launch, kernels: &[Option<KernelFunction>], slots: &SlotConstants, comments: bool) -> TokenStream {
    let Some(kernel) = &kernels[launch.kernel] else { return TokenStream::new() };
    let name = &kernel.name;
    let arguments = launch.arguments.iter().map(|(slot, offset)| {
        let bytes = Literal::usize_unsuffixed(offset * program.slots[slot.0].element.bytes());
        let slot = &slots.names[slot];
        if *offset == 0 { quote!(at(arena, slots::#slot)) } else { quote!(at(arena, slots::#slot + #bytes)) }
    });
    let scratch = kernel.takes_scratch.then(|| quote!(scratch,));
    let items: usize = program.kernels[launch.kernel].domain.iter().product();
    let items = Literal::usize_unsuffixed(items);
    let label = comment(comments, &launch.label);
    quote! {
        #label
        #name::<L>(#(#arguments,)* #scratch worker.items(#items));
        worker.barrier();
    }
}

/// `struct Net`, its `Network` implementation, and its convenient face.
pub(super) fn network(program: &Program, options: &EmitOptions, comments: bool) -> TokenStream {
    let net = &options.net;
    let doc = format!(" `{}` with its memory, its threads, and the code of its steps.", program.manifest.name);
    let safety =
        comment(comments, "SAFETY: the arena and the scratch are as large as the program needs, and the machine has the instruction set.");
    let (face, phases) = (face(program, options, net), dispatch(program.manifest.lanes));
    quote! {
        #[doc = #doc]
        #[derive(Debug)]
        pub struct #net {
            arena: Arena,
            scratch: Arena,
            team: Team,
            isa: Isa,
            rule: UpdateRule,
            seed: u64,
            steps: u64,
        }

        #face

        impl Network for #net {
            fn manifest(&self) -> &Manifest {
                &MANIFEST
            }

            fn arena(&self) -> &Arena {
                &self.arena
            }

            fn arena_mut(&mut self) -> &mut Arena {
                &mut self.arena
            }

            fn run(&mut self, phase: Phase) {
                assert!(self.arena.bytes() >= ARENA_BYTES, "the arena was replaced by a smaller one");
                let (arena, scratch, isa) = (&self.arena, &self.scratch, self.isa);
                self.team.run(&|worker: &Worker| {
                    let (arena, scratch) = (arena.base(), scratch.part(worker.index, MANIFEST.scratch_bytes).cast());
                    #safety
                    #phases
                });
            }
        }
    }
}

/// Calls the phase for the instruction set.
fn dispatch(lanes: usize) -> TokenStream {
    let arm = |architecture: &str, pattern: TokenStream, vector: &str| {
        let vector = format_ident!("{vector}x{lanes}");
        quote! {
            #[cfg(target_arch = #architecture)]
            #pattern => match phase {
                Phase::Train => train::<lanes::#vector>(worker, arena, scratch),
                Phase::Evaluate => evaluate::<lanes::#vector>(worker, arena, scratch),
            },
        }
    };
    let mut vectors = if lanes == 16 {
        let (wide, half) = (arm("x86_64", quote!(Isa::Avx512), "Avx512"), arm("x86_64", quote!(Isa::Avx2), "Avx2"));
        quote!(#wide #half)
    } else {
        arm("x86_64", quote!(Isa::Avx512 | Isa::Avx2), "Avx2")
    };
    vectors.extend(arm("aarch64", quote!(Isa::Neon), "Neon"));
    let portable = format_ident!("Portablex{lanes}");
    quote! {
        unsafe {
            match isa {
                #vectors
                _ => match phase {
                    Phase::Train => train::<lanes::#portable>(worker, arena, scratch),
                    Phase::Evaluate => evaluate::<lanes::#portable>(worker, arena, scratch),
                },
            }
        }
    }
}

fn face(program: &Program, options: &EmitOptions, net: &Ident) -> TokenStream {
    let manifest = &program.manifest;
    let (target, of, kind) = match manifest.io.target.element {
        Element::U32 => (format_ident!("labels"), quote!(u32), quote!(Labels)),
        Element::F32 | Element::Bf16 => (format_ident!("values"), quote!(f32), quote!(Values)),
    };
    let dims: String = manifest.io.input_dims.iter().map(|extent| format!("[{extent}]")).collect();
    let batch_doc = format!(" `input` is `[example]{dims}`, at most {} examples; `{target}` has one for each.", manifest.batch);
    let constructors = constructors(options);
    quote! {
        impl #net {
            /// Bytes of the whole training state.
            pub const ARENA_BYTES: usize = ARENA_BYTES;
            /// Bytes for [`Self::over`]: state and scratch, however the memory is aligned.
            pub const MEMORY_BYTES: usize = MEMORY_BYTES;

            #constructors

            /// One training step over a batch.
            #[doc = #batch_doc]
            ///
            /// # Panics
            /// The batch does not fit; see [`Self::try_step`].
            pub fn step(&mut self, input: &[f32], #target: &[#of]) -> StepReport {
                match self.try_step(input, #target) {
                    Ok(report) => report,
                    Err(error) => panic!("{error}"),
                }
            }

            /// As [`Self::step`].
            ///
            /// # Errors
            /// The batch does not fit; nothing has happened then.
            pub fn try_step(&mut self, input: &[f32], #target: &[#of]) -> Result<StepReport, BatchError> {
                let examples = #target.len() / (MANIFEST.io.target.len / MANIFEST.batch);
                network::load_batch(self, input, Target::#kind(#target), examples)?;
                self.steps += 1;
                let (rule, seed, step) = (self.rule, self.seed, self.steps);
                network::load_step(self, &rule, seed, step);
                self.run(Phase::Train);
                Ok(network::report(self))
            }

            /// Loss and hits of a batch, without learning from it.
            #[doc = #batch_doc]
            ///
            /// # Panics
            /// The batch does not fit; see [`Self::try_evaluate`].
            pub fn evaluate(&mut self, input: &[f32], #target: &[#of]) -> StepReport {
                match self.try_evaluate(input, #target) {
                    Ok(report) => report,
                    Err(error) => panic!("{error}"),
                }
            }

            /// As [`Self::evaluate`].
            ///
            /// # Errors
            /// The batch does not fit.
            pub fn try_evaluate(&mut self, input: &[f32], #target: &[#of]) -> Result<StepReport, BatchError> {
                let examples = #target.len() / (MANIFEST.io.target.len / MANIFEST.batch);
                network::load_batch(self, input, Target::#kind(#target), examples)?;
                self.run(Phase::Evaluate);
                Ok(network::report(self))
            }

            /// Changes the masks if it is time at `progress`: before every step, tell how far the training is. Says what changed in each layer. Where a
            /// policy grows by gradients, it does so by what [`Self::read_gradients`] has read.
            pub fn mutate<'m>(&mut self, mutator: &'m mut Mutator, progress: &Progress) -> &'m [LayerReport] {
                mutation::mutate(self, mutator, progress)
            }

            /// Reads of a batch what the event at `progress` grows or keeps by, and learns nothing from it. For policies that look at gradients of dead
            /// weights: when [`Mutator::due`] says so, of [`Mutator::gradient_batches`] batches, before [`Self::mutate`].
            #[doc = #batch_doc]
            ///
            /// # Errors
            /// The batch does not fit.
            pub fn read_gradients(
                &mut self,
                mutator: &mut Mutator,
                progress: &Progress,
                input: &[f32],
                #target: &[#of],
            ) -> Result<(), BatchError> {
                let examples = #target.len() / (MANIFEST.io.target.len / MANIFEST.batch);
                network::load_batch(self, input, Target::#kind(#target), examples)?;
                let (rule, seed, step) = (self.rule, self.seed, self.steps + 1);
                network::load_step(self, &rule, seed, step);
                mutation::read_gradients(self, mutator, progress);
                Ok(())
            }

            /// The model's output for the batch evaluated last, `[example][element]`.
            pub fn output(&self) -> Vec<f32> {
                network::output(self)
            }

            /// Sets the learning rate of the steps to come.
            pub fn set_learning_rate(&mut self, learning_rate: f64) {
                self.rule.learning_rate = learning_rate;
            }

            /// The model as it is now: a complete ONNX file, zeros where the masks are.
            pub fn export_onnx(&self) -> Vec<u8> {
                state::export(&MANIFEST, &self.arena)
            }
        }
    }
}
