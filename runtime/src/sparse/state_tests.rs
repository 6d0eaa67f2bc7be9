use super::*;
use crate::sparse::fixture::{Builder, Geometry};
use proptest::prelude::*;

fn network(block: [usize; 2], moments: usize) -> (Manifest, Arena) {
    network_of(Builder::default(), block, moments)
}

fn network_of(builder: Builder, block: [usize; 2], moments: usize) -> (Manifest, Arena) {
    builder
        .convolution("dense.weight", Geometry::three_by_three(2, 8, [4, 1]), None, 1.0, moments)
        .plain("bias", 8, moments)
        .convolution("sparse.weight", Geometry::three_by_three(8, 8, block), Some(0.2), 0.4, moments)
        .build()
}

fn given(name: &str, mask: Vec<bool>) -> InitialMasks {
    InitialMasks::Given(BTreeMap::from([(name.to_string(), mask)]))
}

#[test]
fn initial_state_is_the_template_under_the_mask() {
    let (manifest, mut arena) = network([1, 1], 2);
    initialize(&manifest, &mut arena, &InitialMasks::Magnitude, 1).expect("fits");
    for index in [0, 1] {
        assert_eq!(read(&manifest, &arena, index), template_values(&manifest, index).expect("long enough"), "computed densely");
    }
    let (dense, masked) = (template_values(&manifest, 2).expect("long enough"), read(&manifest, &arena, 2));
    let live = mask(&manifest, &arena, 2);
    assert_eq!(live.len(), 115, "0.2 of 576");
    let smallest = live.iter().map(|&unit| dense[unit as usize].abs()).fold(f32::INFINITY, f32::min);
    for (element, (&before, &after)) in dense.iter().zip(&masked).enumerate() {
        let alive = live.binary_search(&(element as u32)).is_ok();
        assert_eq!(after, if alive { before } else { 0.0 });
        assert!(alive || before.abs() <= smallest);
    }
    assert_eq!(density(&manifest, &arena), 115.0 / 576.0);
    assert!(read_gradient(&manifest, &arena, 2).expect("trainable").iter().all(|&g| g == 0.0));
    assert_eq!(read_moment(&manifest, &arena, 2, 2), None);
}

#[test]
fn random_masks_follow_the_seed_and_differ_between_layers() {
    let masks = |seed| {
        let layer = Geometry::three_by_three(8, 8, [1, 1]);
        let two = Builder::default().convolution("a", layer, Some(0.2), 0.2, 0).convolution("b", layer, Some(0.2), 0.2, 0);
        let (manifest, mut arena) = two.build();
        initialize(&manifest, &mut arena, &InitialMasks::Random, seed).expect("fits");
        (mask(&manifest, &arena, 0), mask(&manifest, &arena, 1))
    };
    assert_eq!(masks(3), masks(3));
    assert_ne!(masks(3).0, masks(4).0);
    assert_ne!(masks(3).0, masks(3).1);
}

#[test]
fn given_masks_are_obeyed_or_refused_by_name() {
    let (manifest, mut arena) = network([4, 1], 1);
    let units = Geometry::three_by_three(8, 8, [4, 1]).units();
    let mut by_element = vec![false; 576];
    for element in [3u32, 50, 143].iter().flat_map(|&unit| units.onnx_indices(unit)) {
        by_element[element] = true;
    }
    initialize(&manifest, &mut arena, &given("sparse.weight", by_element.clone()), 0).expect("whole blocks");
    assert_eq!(mask(&manifest, &arena, 2), [3, 50, 143]);

    let cut = units.onnx_indices(50).nth(2).expect("four elements");
    by_element[cut] = false;
    let mut refuse = |masks: InitialMasks| initialize(&manifest, &mut arena, &masks, 0).expect_err("does not fit");
    assert_eq!(
        refuse(given("sparse.weight", by_element)),
        StateError::CutsUnit { name: "sparse.weight".into(), rows: 4, columns: 1, element: cut }
    );
    assert!(matches!(refuse(given("sparse.weight", vec![true; 7])), StateError::Length { got: 7, expected: 576, .. }));
    assert!(matches!(refuse(given("sparse.weight", vec![true; 576])), StateError::Capacity { live: 144, capacity: 58, .. }));
    assert!(matches!(refuse(given("dense.weight", vec![false; 144])), StateError::Dense { .. }));
    assert!(matches!(refuse(given("bias", vec![false; 8])), StateError::Dense { .. }));
    assert!(refuse(given("nobody", vec![])).to_string().contains("sparse.weight"));
    initialize(&manifest, &mut arena, &given("dense.weight", vec![true; 144]), 0).expect("a full mask changes nothing");
}

#[test]
fn impossible_masks_change_nothing() {
    let (manifest, mut arena) = network([1, 1], 1);
    initialize(&manifest, &mut arena, &InitialMasks::Magnitude, 1).expect("fits");
    let before = (mask(&manifest, &arena, 2), read(&manifest, &arena, 2));
    for units in [vec![4, 4], vec![5, 3], vec![576], (0..500).collect()] {
        assert!(set_mask(&manifest, &mut arena, 2, &units).is_err());
    }
    assert!(set_mask(&manifest, &mut arena, 1, &[0]).is_err(), "plain storage has no mask");
    assert_eq!((mask(&manifest, &arena, 2), read(&manifest, &arena, 2)), before);
}

#[test]
fn export_fills_the_template() {
    let (manifest, mut arena) = network([1, 1], 0);
    initialize(&manifest, &mut arena, &InitialMasks::Magnitude, 1).expect("fits");
    let bias = [0.5, -1.0, 2.0, 0.0, 1.0, 3.0, -4.0, 8.0];
    write(&manifest, &mut arena, 1, &bias).expect("eight values");
    assert!(matches!(write(&manifest, &mut arena, 1, &bias[1..]), Err(StateError::Length { got: 7, expected: 8, .. })));
    let file = export(&manifest, &arena);
    assert_eq!(file.len(), manifest.template.bytes.len());
    let offsets = &manifest.template.offsets;
    assert_eq!(file[offsets[1]..offsets[1] + 32], bias.map(f32::to_le_bytes).concat());
    assert_eq!(file[offsets[1] + 32..offsets[2]], *b"header");
    assert!(file.ends_with(b"trailer"));
    let sparse: Vec<f32> = file[offsets[2]..][..576 * 4].as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
    assert_eq!(sparse, read(&manifest, &arena, 2));
}

#[test]
fn a_truncated_template_is_refused() {
    let (mut manifest, mut arena) = network([1, 1], 0);
    manifest.template.bytes.to_mut().truncate(700);
    let error = initialize(&manifest, &mut arena, &InitialMasks::Magnitude, 1).expect_err("too short");
    assert_eq!(error, StateError::Template { name: "sparse.weight".into(), end: 700 });
}

#[test]
fn moments_in_half_of_the_bits_are_rounded_where_they_are_written() {
    let (manifest, mut arena) = network_of(Builder::with_moments(true), [4, 1], 1);
    initialize(&manifest, &mut arena, &InitialMasks::Magnitude, 1).expect("fits");
    for index in [1, 2] {
        let dense: Vec<f32> = (0..element_count(&manifest.parameters[index])).map(|i| 1.0 + i as f32 / 700.0).collect();
        write_moment(&manifest, &mut arena, index, 0, &dense).expect("fits");
        let live = read(&manifest, &arena, index);
        let moment = read_moment(&manifest, &arena, index, 0).expect("there is one");
        for ((&given, &got), &value) in dense.iter().zip(&moment).zip(&live) {
            let expected = if index == 1 || value != 0.0 { widened(narrowed(given)) } else { 0.0 };
            assert_eq!(got, expected);
        }
        assert!(moment != dense);
    }
    initialize(&manifest, &mut arena, &InitialMasks::Magnitude, 1).expect("fits");
    assert!(read_moment(&manifest, &arena, 1, 0).expect("there is one").iter().all(|&moment| moment == 0.0));
}

proptest! {
    /// A dense simulation: values and moments as dense tensors, multiplied by the new mask.
    #[test]
    fn remap_agrees_with_dense_masking(
        masks in prop::collection::vec(prop::collection::btree_set(0u32..144, 0..58), 1..5), moments in 0usize..3, narrow: bool, seed: u64
    ) {
        let (manifest, mut arena) = network_of(Builder::with_moments(narrow), [4, 1], moments);
        initialize(&manifest, &mut arena, &InitialMasks::Random, seed).expect("fits");
        let units = Geometry::three_by_three(8, 8, [4, 1]).units();
        let mut draws = Stream::new(seed, Purpose::Synthetic, 0);
        let random: Vec<Vec<f32>> = (0..=moments).map(|_| (0..576).map(|_| draws.normal() as f32).collect()).collect();
        write(&manifest, &mut arena, 2, &random[0]).expect("fits");
        for moment in 0..moments {
            write_moment(&manifest, &mut arena, 2, moment, &random[moment + 1]).expect("fits");
        }
        let snapshot = |arena: &Arena| -> Vec<Vec<f32>> {
            let moments = (0..moments).map(|moment| read_moment(&manifest, arena, 2, moment).expect("kept"));
            std::iter::once(read(&manifest, arena, 2)).chain(moments).collect()
        };
        let mut simulated = snapshot(&arena);
        for live in masks {
            let live: Vec<u32> = live.into_iter().collect();
            set_mask(&manifest, &mut arena, 2, &live).expect("fits");
            for unit in (0..144).filter(|unit| live.binary_search(unit).is_err()) {
                for element in units.onnx_indices(unit) {
                    simulated.iter_mut().for_each(|tensor| tensor[element] = 0.0);
                }
            }
            prop_assert_eq!(mask(&manifest, &arena, 2), live);
            prop_assert_eq!(&snapshot(&arena), &simulated);
        }
    }
}
