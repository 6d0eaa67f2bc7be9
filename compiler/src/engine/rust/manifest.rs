//! The manifest as constants.

use super::map;
use mest_runtime::arena::ALIGNMENT;
use mest_runtime::manifest::{
    BatchedSlot, Block, ClassBytes, Constant, Element, Io, Manifest, Parameter, Patterns, Role, Slot, Storage, Stream, StreamOrder,
    Structure, WeightMatrix,
};
use proc_macro2::TokenStream;
use quote::quote;

/// `static MANIFEST` and what it borrows; the template's bytes are the expression `template`.
pub(super) fn items(manifest: &Manifest, template: &TokenStream) -> TokenStream {
    let Manifest { name, batch, lanes, groups, classes, arena_bytes, scratch_bytes, threads, .. } = manifest;
    let Manifest { io, parameters, streams, constants, plan, template: holes, .. } = manifest;
    let (parameter_count, stream_count) = (parameters.len(), streams.len());
    let parameters = parameters.iter().map(parameter);
    let streams = streams.iter().map(stream);
    let plan = plan.iter().map(|ClassBytes { class, bytes }| quote!(manifest::ClassBytes { class: Cow::Borrowed(#class), bytes: #bytes }));
    let constants = constants.iter().map(|Constant { slot: at, values }| {
        let (at, values) = (slot(at), values.iter().map(|value| map::constant(*value)));
        quote!(manifest::Constant { slot: #at, values: Cow::Borrowed(&[#(#values),*]) })
    });
    let memory_bytes = arena_bytes.next_multiple_of(ALIGNMENT) + scratch_bytes + ALIGNMENT;
    let (io, offsets) = (self::io(io), numbers(&holes.offsets));
    quote! {
        /// Bytes of the whole training state.
        pub const ARENA_BYTES: usize = #arena_bytes;

        const MEMORY_BYTES: usize = #memory_bytes;

        static TEMPLATE: &[u8] = #template;

        static PARAMETERS: [manifest::Parameter; #parameter_count] = [#(#parameters),*];

        static STREAMS: [manifest::Stream; #stream_count] = [#(#streams),*];

        /// What the runtime is told: parameters, topologies, inputs and results, and where they lie in the arena.
        pub static MANIFEST: Manifest = Manifest {
            name: Cow::Borrowed(#name),
            batch: #batch,
            lanes: #lanes,
            groups: #groups,
            classes: #classes,
            arena_bytes: ARENA_BYTES,
            scratch_bytes: #scratch_bytes,
            threads: #threads,
            io: #io,
            parameters: Cow::Borrowed(&PARAMETERS),
            streams: Cow::Borrowed(&STREAMS),
            constants: Cow::Borrowed(&[#(#constants),*]),
            plan: Cow::Borrowed(&[#(#plan),*]),
            template: manifest::Template { bytes: Cow::Borrowed(TEMPLATE), offsets: #offsets },
        };

        const fn floats(offset: usize, len: usize) -> manifest::Slot {
            manifest::Slot { offset, len, element: manifest::Element::F32 }
        }

        const fn words(offset: usize, len: usize) -> manifest::Slot {
            manifest::Slot { offset, len, element: manifest::Element::U32 }
        }
    }
}

fn slot(&Slot { offset, len, element }: &Slot) -> TokenStream {
    match element {
        Element::F32 => quote!(floats(#offset, #len)),
        Element::U32 => quote!(words(#offset, #len)),
        Element::Bf16 => quote!(manifest::Slot { offset: #offset, len: #len, element: manifest::Element::Bf16 }),
    }
}

fn optional(of: &Option<Slot>) -> TokenStream {
    match of {
        Some(of) => {
            let of = slot(of);
            quote!(Some(#of))
        }
        None => quote!(None),
    }
}

fn numbers<T: quote::ToTokens>(values: &[T]) -> TokenStream {
    let values = values.iter();
    quote!(Cow::Borrowed(&[#(#values),*]))
}

fn io(io: &Io) -> TokenStream {
    let Io { input, input_name, input_dims, input_rows, target, example, live, count, output, loss, correct, hyper, seed } = io;
    let (input, target, example, live, count) = (slot(input), slot(target), slot(example), slot(live), slot(count));
    let (loss, correct, hyper, seed) = (slot(loss), slot(correct), slot(hyper), slot(seed));
    let (input_dims, output) = (numbers(input_dims), batched(output));
    quote!(manifest::Io {
        input: #input,
        input_name: Cow::Borrowed(#input_name),
        input_dims: #input_dims,
        input_rows: #input_rows,
        target: #target,
        example: #example,
        live: #live,
        count: #count,
        output: #output,
        loss: #loss,
        correct: #correct,
        hyper: #hyper,
        seed: #seed,
    })
}

fn batched(BatchedSlot { name, dims, order, slot: at }: &BatchedSlot) -> TokenStream {
    let (dims, order, at) = (numbers(dims), numbers(order), slot(at));
    quote!(manifest::BatchedSlot { name: Cow::Borrowed(#name), dims: #dims, order: #order, slot: #at })
}

fn parameter(Parameter { name, dims, role, storage, count, value, gradient, moments }: &Parameter) -> TokenStream {
    let role = match role {
        Role::Trainable => quote!(Trainable),
        Role::Frozen => quote!(Frozen),
        Role::State => quote!(State),
    };
    let (dims, storage, count, value) = (numbers(dims), self::storage(storage), slot(count), slot(value));
    let (gradient, moments) = (optional(gradient), moments.iter().map(slot));
    quote!(manifest::Parameter {
        name: Cow::Borrowed(#name),
        dims: #dims,
        role: manifest::Role::#role,
        storage: #storage,
        count: #count,
        value: #value,
        gradient: #gradient,
        moments: Cow::Borrowed(&[#(#moments),*]),
    })
}

fn storage(storage: &Storage) -> TokenStream {
    match storage {
        Storage::Plain => quote!(manifest::Storage::Plain),
        Storage::Matrix { matrix, block: Block { rows, columns }, structure, capacity, units, density } => {
            let (matrix, structure, units) = (weight_matrix(matrix), self::structure(structure), slot(units));
            let density = match density {
                Some(density) => quote!(Some(#density)),
                None => quote!(None),
            };
            quote!(manifest::Storage::Matrix {
                matrix: #matrix,
                block: manifest::Block { rows: #rows, columns: #columns },
                structure: manifest::Structure::#structure,
                capacity: #capacity,
                units: #units,
                density: #density,
            })
        }
    }
}

/// A variant of [`Structure`].
fn structure(structure: &Structure) -> TokenStream {
    match structure {
        Structure::Free => quote!(Free),
        Structure::Spans { length } => quote!(Spans { length: #length }),
        Structure::FanIn => quote!(FanIn),
        Structure::Patterns(Patterns(library)) => quote!(Patterns(manifest::Patterns([#(#library),*]))),
        Structure::Inputs => quote!(Inputs),
        Structure::Outputs => quote!(Outputs),
    }
}

fn weight_matrix(matrix: &WeightMatrix) -> TokenStream {
    let WeightMatrix {
        groups,
        outputs,
        inputs_per_group,
        kernel_rows,
        kernel_width,
        group_stride,
        output_stride,
        input_stride,
        kernel_stride,
    } = matrix;
    quote!(manifest::WeightMatrix {
        groups: #groups,
        outputs: #outputs,
        inputs_per_group: #inputs_per_group,
        kernel_rows: #kernel_rows,
        kernel_width: #kernel_width,
        group_stride: #group_stride,
        output_stride: #output_stride,
        input_stride: #input_stride,
        kernel_stride: #kernel_stride,
    })
}

fn stream(Stream { parameter, order, starts, offsets, source, values }: &Stream) -> TokenStream {
    let order = match order {
        StreamOrder::Forward { channel, kernel_row, kernel_column, channel_blocks } => {
            quote!(manifest::StreamOrder::Forward {
                channel: #channel, kernel_row: #kernel_row, kernel_column: #kernel_column, channel_blocks: #channel_blocks
            })
        }
        StreamOrder::Backward { stride, dilation, padding, first, row, channel } => {
            let pair = |[a, b]: [usize; 2]| quote!([#a, #b]);
            let (stride, dilation, padding, [first_row, first_column]) = (pair(*stride), pair(*dilation), pair(*padding), *first);
            quote!(manifest::StreamOrder::Backward {
                stride: #stride,
                dilation: #dilation,
                padding: #padding,
                first: [#first_row, #first_column],
                row: #row,
                channel: #channel,
            })
        }
    };
    let (starts, offsets, source, values) = (slot(starts), slot(offsets), optional(source), optional(values));
    quote!(manifest::Stream {
        parameter: #parameter,
        order: #order,
        starts: #starts,
        offsets: #offsets,
        source: #source,
        values: #values,
    })
}
