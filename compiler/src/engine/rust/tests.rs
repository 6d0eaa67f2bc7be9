use super::package::RuntimeSource;
use super::remote::Remote;
use super::*;
use crate::program::samples::{all, bits, elementwise, evaluate, fill, halves, scalars, tiles};
use mest_runtime::lanes::Isa;
use mest_runtime::network::{Network, Phase};
use std::path::Path;

fn options() -> EmitOptions {
    EmitOptions {
        runtime: quote!(::mest_runtime),
        net: format_ident!("Net"),
        source: "sample.onnx".to_owned(),
        made_by: "mestc compile sample.onnx".to_owned(),
        rule: UpdateRule {
            optimizer: Optimizer::AdamW { betas: [0.9, 0.999], eps: 1e-8 },
            learning_rate: 0.1,
            weight_decay: 1e-4,
            max_norm: Some(1.0),
        },
        initial_masks: InitialMasks::Magnitude,
        recipe: Recipe::default(),
        std: StdItems::Present,
    }
}

/// The text from the line that holds `first` to the next empty line.
fn paragraph<'t>(text: &'t str, first: &str) -> &'t str {
    let at = text.find(first).unwrap_or_else(|| panic!("no `{first}` in\n{text}"));
    let text = &text[text[..at].rfind("\n\n").map_or(0, |before| before + 2)..];
    &text[..text.find("\n\n").unwrap_or(text.len())]
}

#[test]
fn kernels_are_loops_over_constants() {
    let generated = emit(&scalars(), &options()).expect("the sample is sound");
    insta::assert_snapshot!(paragraph(&generated.lib_rs, "unsafe fn scalars"), @r#"
    /// Work items: 2 x 1 x 3.
    /// Launched by `node 0`.
    #[allow(clippy::approx_constant)]
    unsafe fn scalars<L: Lanes>(
        x: *mut f32,
        y: *mut f32,
        sums: *mut f32,
        items: Range<usize>,
    ) {
        // SAFETY: the compiler checked every address against its slot; items write to distinct places.
        unsafe {
            L::vectorize(
                #[inline(always)]
                || {
                    for item in items {
                        let i0 = (item / 3) as isize;
                        let i2 = (item % 3) as isize;
                        for i3 in 0..2 {
                            // Element-wise, 4 x 1 x 3.
                            {
                                let v0 = *x.offset(-48 * i0 - 16 * i2 - 3 * i3 + 95);
                                let v2 = -0.75f32;
                                let mut s0 = *sums.offset(6 * i0 + 2 * i2 + i3);
                                let mut s1 = *sums.offset(3 * i0 + i2 + 12);
                                for d0 in 0..12 {
                                    let v1 = *x.offset(36 * i0 + 12 * i2 + d0);
                                    let v3 = if v0 < v1 { v2 } else { v0 };
                                    let v4 = lanes::math::multiply_add::<L>(v1, v3, v2);
                                    let v5 = v4 / v0;
                                    *y.offset(72 * i0 + 24 * i2 + 12 * i3 + d0) = v5;
                                    s0 += v4;
                                    s1 += v3;
                                }
                                *sums.offset(6 * i0 + 2 * i2 + i3) = s0;
                                *sums.offset(3 * i0 + i2 + 12) = s1;
                            }
                        }
                    }
                },
            );
        }
    }
    "#);
}

#[test]
fn tiles_are_called_by_name() {
    let generated = emit(&tiles(), &options()).expect("the sample is sound");
    insta::assert_snapshot!(paragraph(&generated.lib_rs, "unsafe fn stage"), @r#"
    /// Work items: 2; scratch: 144 elements.
    /// Launched by `node 1`.
    unsafe fn stage<L: Lanes>(
        x: *mut f32,
        y: *mut f32,
        scratch: *mut f32,
        items: Range<usize>,
    ) {
        // SAFETY: the compiler checked every address against its slot; items write to distinct places.
        unsafe {
            L::vectorize(
                #[inline(always)]
                || {
                    for item in items {
                        let i0 = item as isize;
                        for i1 in 0..3 {
                            out_of_line::stage_rows::<L>(
                                &tile::StageRows {
                                    rows: 3,
                                    channels: 2,
                                    width: 4,
                                    left: 1,
                                    right: 1,
                                    rows_in_plane: 3,
                                    plane_channels: 2,
                                    fill: -1.0,
                                },
                                x.offset(96 * i0),
                                i1 - 1,
                                scratch,
                            );
                            // Element-wise, 36.
                            {
                                for d0 in 0..36 {
                                    let v0 = L::load(scratch.offset(4 * d0));
                                    let v1 = L::add(v0, v0);
                                    L::store(y.offset(432 * i0 + 144 * i1 + 4 * d0), v1);
                                }
                            }
                        }
                    }
                },
            );
        }
    }
    "#);
}

#[test]
fn phases_launch_kernels_between_barriers() {
    let generated = emit(&tiles(), &options()).expect("the sample is sound");
    insta::assert_snapshot!(paragraph(&generated.lib_rs, "unsafe fn train"), @r#"
    /// One step on one worker of the team: every launch, each followed by a barrier.
    unsafe fn train<L: Lanes>(worker: &Worker, arena: *mut u8, scratch: *mut f32) {
        // SAFETY: the caller passes this network's arena and the worker's own scratch.
        unsafe {
            // node 0
            pack::<L>(
                at(arena, slots::INPUT),
                at(arena, slots::EXAMPLE),
                at(arena, slots::X),
                worker.items(2),
            );
            worker.barrier();
            // node 1
            stage::<L>(at(arena, slots::X), at(arena, slots::Y), scratch, worker.items(2));
            worker.barrier();
        }
    }
    "#);
}

#[test]
fn crates_begin_with_their_origin() {
    let generated = emit(&tiles(), &options()).expect("the sample is sound");
    insta::assert_snapshot!(paragraph(&generated.lib_rs, "//! Sparse training"), @r#"
    //! Sparse training of `sample`, compiled from `sample.onnx` by mestc 0.1.0.
    //!
    //! Made by `mestc compile sample.onnx`. Change the model or the recipe and make it again; do not edit it.
    //!
    //! A step takes up to 8 examples, 4 a vector, and runs 2 kernels; an evaluation runs 0.
    //! The whole training state is 5056 bytes, and 576 more for each thread.
    "#);
}

#[test]
fn items_are_the_crate_without_comments_and_files() {
    let items: syn::File = syn::parse2(emit_items(&elementwise(8), &options()).expect("the sample is sound")).expect("items are Rust");
    let generated = emit(&elementwise(8), &options()).expect("the sample is sound");
    let source = syn::parse_file(&generated.lib_rs).expect("a crate is Rust");
    assert_eq!(items.items.len(), source.items.len());
    assert_eq!(generated.files, [("model.onnx".to_owned(), vec![])]);
}

#[test]
fn unsound_programs_are_refused() {
    let mut program = scalars();
    program.slots[0].len = 8;
    assert!(emit(&program, &options()).is_err());
}

/// Builds with cargo, which takes a minute and the registry: only where `MEST_TEST_CARGO` names a folder to build in.
fn cargo_folder() -> Option<std::path::PathBuf> {
    let folder = std::env::var_os("MEST_TEST_CARGO").map(std::path::PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: MEST_TEST_CARGO names no folder to build generated crates in");
    }
    folder
}

#[test]
fn compiled_rust_computes_the_bits_of_the_oracle() {
    let Some(folder) = cargo_folder() else { return };
    for program in [elementwise(4), elementwise(8), elementwise(16), halves(4), halves(16), scalars()] {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let expected = bits(&evaluate(&program, isa));
            for threads in [1, 3] {
                let mut net = Remote::start(&program, &options(), isa, threads, &folder.join("remote")).expect("the crate builds");
                let everything = all(program.manifest.arena_bytes);
                fill(net.arena_mut().floats_mut(everything));
                net.run(Phase::Train);
                assert_eq!(bits(net.arena().floats(everything)), expected, "{isa}, {threads} threads");
            }
        }
    }
}

#[test]
fn generated_crates_pass_clippy() {
    let Some(folder) = cargo_folder() else { return };
    for (name, program) in [("elementwise", elementwise(16)), ("halves", halves(8)), ("scalars", scalars()), ("tiles", tiles())] {
        let dir = folder.join(name);
        let runtime = RuntimeSource::Path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime"));
        let generated = emit(&program, &options()).expect("the sample is sound");
        package::write_crate(&dir, name, &generated, &runtime).expect("the folder can be written");
        let mut clippy = std::process::Command::new("cargo");
        clippy.args(["clippy", "--quiet", "--manifest-path"]).arg(dir.join("Cargo.toml")).arg("--target-dir").arg(folder.join("target"));
        let output = clippy.args(["--", "-D", "warnings"]).output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A program without `std`: it trains in a static array, and fails if a step or a mutation allocates or nothing is learned.
const BARE: &str = r#"
#![no_std]
#![no_main]
#![allow(missing_docs)]

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering};
use mest_runtime::lanes::Isa;
use mest_runtime::mutation::{MutationConfig, Mutator, POLICIES, Progress};
use mest_runtime::network::Network;
use net::Net;

/// Hands out a static array from its beginning, and counts.
struct Bump;

static USED: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);
static mut HEAP: [u8; 1 << 26] = [0; 1 << 26];
static mut MEMORY: [u8; Net::MEMORY_BYTES] = [0; Net::MEMORY_BYTES];

unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        let start = USED.load(Ordering::Relaxed).next_multiple_of(layout.align());
        USED.store(start + layout.size(), Ordering::Relaxed);
        if start + layout.size() > 1 << 26 {
            return core::ptr::null_mut();
        }
        unsafe { (&raw mut HEAP).cast::<u8>().add(start) }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Bump = Bump;

// Its start-up code and memset.
#[link(name = "c")]
unsafe extern "C" {
    fn abort() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    unsafe { abort() }
}

/// What the precompiled `alloc` refers to and `panic = "abort"` never calls.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    let memory = unsafe { &mut *(&raw mut MEMORY) };
    let Ok(mut net) = Net::over(memory, 0, Isa::best()) else { return 2 };
    let (mut input, labels) = ([0.0_f32; 4 * 16], [0, 1, 2, 3]);
    for (i, value) in input.iter_mut().enumerate() {
        *value = if i / 16 == i % 4 { 1.0 } else { 0.0 };
    }
    let first = net.step(&input, &labels).loss;
    let calls = CALLS.load(Ordering::Relaxed);
    let mut last = first;
    for _ in 0..20 {
        last = net.step(&input, &labels).loss;
    }
    if CALLS.load(Ordering::Relaxed) != calls {
        return 3;
    }
    if last >= first {
        return 4;
    }
    for policy in POLICIES {
        let mut mutator = Mutator::new(net.manifest(), MutationConfig::new(policy), 0);
        let mut calls = 0;
        for step in 0..20 {
            let progress = Progress { epoch: step, epochs: 20, iteration: step, iterations: 20 };
            let batches = if mutator.due(&progress) { mutator.gradient_batches(&progress) } else { 0 };
            for _ in 0..batches {
                if net.read_gradients(&mut mutator, &progress, &input, &labels).is_err() {
                    return 5;
                }
            }
            net.mutate(&mut mutator, &progress);
            net.step(&input, &labels);
            if step == 0 {
                calls = CALLS.load(Ordering::Relaxed);
            }
        }
        if CALLS.load(Ordering::Relaxed) != calls {
            return 6;
        }
    }
    0
}
"#;

#[test]
fn generated_crates_train_without_std() {
    let Some(folder) = cargo_folder() else { return };
    let dir = folder.join("bare");
    let model = crate::zoo::build("mlp", &crate::zoo::ZooOptions { input: Some([1, 4, 4]), classes: Some(4), ..Default::default() });
    let imported = crate::onnx::import_bytes(&model.expect("a built-in model"), None).expect("it imports");
    let recipe = Recipe::default().with([("batch", "4"), ("lr", "0.01")]).expect("a recipe");
    let compiled = crate::pipeline::compile(&imported, &crate::settings::of_recipe(&recipe, None)).expect("it compiles");
    let generated = emit(&compiled.program, &EmitOptions::new(&recipe)).expect("it is sound");
    package::write_crate(&folder.join("bare-net"), "net", &generated, &RuntimeSource::Vendored).expect("the folder can be written");
    let manifest = "[package]\nname = \"bare\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n\
        net = { path = \"../bare-net\", default-features = false }\nmest-runtime = { path = \"../bare-net/runtime\", default-features = false }\n\n\
        [workspace]\n\n[profile.release]\npanic = \"abort\"\n";
    package::write(&dir.join("Cargo.toml"), manifest.as_bytes()).expect("the folder can be written");
    package::write(&dir.join("src/main.rs"), BARE.as_bytes()).expect("the folder can be written");
    let mut cargo = std::process::Command::new("cargo");
    cargo
        .args(["build", "--release", "--quiet", "--manifest-path"])
        .arg(dir.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(folder.join("target"));
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let status = std::process::Command::new(folder.join("target/release/bare")).status().expect("it starts");
    assert_eq!(
        status.code(),
        Some(0),
        "2: it did not begin, 3: a step allocated, 4: it did not learn, 5: no gradients, 6: a mutation allocated"
    );
}
