use super::*;
use crate::program::samples::{all, at, bits, elementwise, evaluate, fill, halves, scalars, tiles};
use crate::program::{ChainOp, Statement};
use mest_runtime::manifest::{Element, Slot};

fn run(program: &Program, isa: Isa, threads: usize) -> Vec<f32> {
    let mut jit = Jit::new(program.clone(), isa, threads).expect("the sample compiles");
    let everything = all(program.manifest.arena_bytes);
    fill(jit.arena_mut().floats_mut(everything));
    jit.run(Phase::Train);
    jit.arena().floats(everything).to_vec()
}

fn sets() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

#[test]
fn maps_over_lanes_mean_what_the_oracle_says() {
    for (lanes, isa) in [4, 8, 16].into_iter().flat_map(|lanes| sets().map(move |isa| (lanes, isa))) {
        let program = elementwise(lanes);
        let expected = bits(&evaluate(&program, isa));
        for threads in 1..=4 {
            assert_eq!(bits(&run(&program, isa, threads)), expected, "{isa}, {lanes} lanes, {threads} threads");
        }
    }
}

#[test]
fn maps_over_scalars_mean_what_the_oracle_says() {
    let program = scalars();
    for isa in sets() {
        let expected = bits(&evaluate(&program, isa));
        for threads in 1..=4 {
            assert_eq!(bits(&run(&program, isa, threads)), expected, "{isa}, {threads} threads");
        }
    }
}

#[test]
fn halves_mean_what_the_oracle_says() {
    for (lanes, isa) in [4, 8, 16].into_iter().flat_map(|lanes| sets().map(move |isa| (lanes, isa))) {
        let program = halves(lanes);
        let expected = bits(&evaluate(&program, isa));
        for threads in 1..=3 {
            assert_eq!(bits(&run(&program, isa, threads)), expected, "{isa}, {lanes} lanes, {threads} threads");
        }
    }
}

#[test]
fn only_vectors_of_halves_are_read_and_nothing_is_summed_in_them() {
    let refusal = |change: fn(&mut Program)| {
        let mut program = halves(8);
        change(&mut program);
        Jit::new(program, Isa::Portable, 1).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(refusal(|program| program.kernels[1].arguments[3].1 = Element::Bf16).contains("a map sums up halves"));
    let scalar = refusal(|program| {
        if let Statement::Map(map) = &mut program.kernels[1].body[0] {
            map.width = crate::program::Width::Scalar;
        }
    });
    assert!(scalar.contains("single elements of argument `halves`"), "{scalar}");
}

#[test]
fn tiles_get_halves_only_where_they_take_them() {
    let mut program = tiles();
    program.kernels[0].arguments[0].1 = Element::Bf16;
    program.slots[0].element = Element::Bf16;
    let error = Jit::new(program, Isa::Portable, 1).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("operand `source` of tile pack: argument `input` is of bf16; what the tile takes is not"), "{error}");
}

#[test]
fn fusing_shows() {
    let program = elementwise(8);
    assert_ne!(bits(&evaluate(&program, Isa::Avx2)), bits(&evaluate(&program, Isa::Portable)), "the sample must tell them apart");
}

#[test]
fn tiles_get_their_shapes_and_operands() {
    let program = tiles();
    let slot = |index: usize| {
        let slot = &program.slots[index];
        Slot { offset: slot.offset, len: slot.len, element: slot.element }
    };
    for (isa, threads) in sets().flat_map(|isa| [(isa, 1), (isa, 2)]) {
        let mut jit = Jit::new(program.clone(), isa, threads).expect("the sample compiles");
        for (i, value) in jit.arena_mut().floats_mut(slot(0)).iter_mut().enumerate() {
            *value = i as f32;
        }
        jit.arena_mut().words_mut(slot(1)).copy_from_slice(&[7, 6, 5, 4, 3, 2, 1, 1]);
        jit.run(Phase::Train);
        let y = jit.arena().floats(slot(3));
        // [group][centre row][staged row][channel][1 + width + 1][lane]
        for (i, &value) in y.iter().enumerate() {
            let (lane, x, channel, row) = (i % 4, (i / 4) % 6, (i / 24) % 2, (i / 48) % 3);
            let (centre, group) = ((i / 144) % 3, i / 432);
            let example = [7, 6, 5, 4, 3, 2, 1, 1][group * 4 + lane];
            let row = (centre + row).wrapping_sub(1);
            let inside = row < 3 && (1..5).contains(&x);
            let expected = if inside { (example * 24 + channel * 12 + row * 4 + x - 1) as f32 } else { -1.0 };
            assert_eq!(value, 2.0 * expected, "element {i}");
        }
    }
}

#[test]
fn a_replaced_arena_is_found() {
    let program = elementwise(4);
    let expected = bits(&evaluate(&program, Isa::Portable));
    let mut jit = Jit::new(program.clone(), Isa::Portable, 2).expect("the sample compiles");
    let mut other = Arena::new(program.manifest.arena_bytes);
    fill(other.floats_mut(all(program.manifest.arena_bytes)));
    let first = std::mem::replace(jit.arena_mut(), other);
    jit.run(Phase::Train);
    assert_eq!(bits(jit.arena().floats(all(program.manifest.arena_bytes))), expected);
    assert!(first.floats(all(program.manifest.arena_bytes)).iter().all(|value| *value == 0.0), "the first arena is left alone");
}

#[test]
fn a_phase_without_launches_does_nothing() {
    let program = scalars();
    let mut jit = Jit::new(program.clone(), Isa::Portable, 1).expect("the sample compiles");
    jit.run(Phase::Evaluate);
    assert!(jit.arena().floats(all(program.manifest.arena_bytes)).iter().all(|value| *value == 0.0));
}

fn refusal(change: impl FnOnce(&mut Program)) -> String {
    let mut program = elementwise(8);
    change(&mut program);
    match Jit::new(program, Isa::Portable, 1) {
        Err(JitError::Program(problem)) => format!("{}: {}", problem.place, problem.problem),
        other => panic!("expected a refusal, found {other:?}"),
    }
}

fn first_map(program: &mut Program) -> &mut crate::program::Map {
    match &mut program.kernels[0].body[0] {
        Statement::Map(map) => map,
        other => panic!("the sample begins with a map, not {other:?}"),
    }
}

#[test]
fn addresses_outside_their_slot_are_refused() {
    let launched = "kernel `elementwise_3x4x5` launched by `node 0`";
    let within = "kernel `elementwise_3x4x5`";
    let far = refusal(|program| first_map(program).loads[0].strides[0] += 8);
    assert_eq!(far, format!("{launched}: argument `x` reaches elements 0..976 of slot `x`, which has 960"));
    let before = refusal(|program| first_map(program).loads[0].address = at(0, -8, &[(0, 480)]));
    assert_eq!(before, format!("{launched}: argument `x` reaches elements -8..960 of slot `x`, which has 960"));
    let skewed = refusal(|program| first_map(program).loads[0].address = at(0, 4, &[(0, 472)]));
    assert_eq!(skewed, format!("{within}: a vector at 472*i0 + 4 by [160, 40, 8] is not aligned to 8 lanes"));
    let launch = refusal(|program| program.schedules[0].launches[0].arguments[2].1 = 4);
    assert_eq!(launch, format!("{launched}: argument `live` reaches elements 4..20 of slot `live`, which has 16"));
    let scope = refusal(|program| first_map(program).loads[0].address = at(0, 0, &[(1, 8)]));
    assert_eq!(scope, format!("{within}: variable i1 is not in scope in 8*i1"));
    let early = refusal(|program| first_map(program).operations[0] = ChainOp::Add(0, 4));
    assert_eq!(early, format!("{within}: operation `v0 + v4` reads a value that comes after it"));
    let element = refusal(|program| program.slots[1].element = Element::U32);
    assert_eq!(element, format!("{launched}: argument `scale` is F32, slot `scale` holds U32"));
    let arena = refusal(|program| program.manifest.arena_bytes -= 64);
    assert_eq!(arena, "slot `bits`: 3840 elements at byte 12160 leave the arena of 27456 bytes");
}

#[test]
fn clif_is_one_function_a_kernel() {
    let text = Jit::clif(&tiles(), Isa::Portable).expect("the sample compiles");
    assert_eq!(text.matches("function %pack(").count(), 1, "{text}");
    assert_eq!(text.matches("function %stage(").count(), 1, "{text}");
    assert_eq!(text.matches("call fn0").count(), 2, "{text}");
    assert!(text.contains("fn0 = %mest_stage_rows_portable_4 "), "{text}");
    assert!(!text.contains("0x"), "an address in {text}");
}
