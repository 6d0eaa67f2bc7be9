use super::super::mock::{Linear, Shape};
use super::*;
use crate::network::Network;
use crate::sparse::fixture::{Builder, Geometry};

const SMALL: Shape = Shape { inputs: 3, classes: 2, batch: 4, density: 0.5, momentum: true, values: false };

fn capture(net: &Linear, recipe: &Recipe) -> Checkpoint {
    let metrics = [EpochMetrics { epoch: 1, train_loss: 0.25, ..EpochMetrics::default() }];
    let position = Position { recipe, epoch: 1, iteration: 7, data_hash: 5, wall_s: 1.5, metrics: &metrics, sampling: None };
    Checkpoint::capture(net.manifest(), net.arena(), position)
}

fn restore(checkpoint: &Checkpoint, net: &mut Linear) -> Result<(), CheckpointError> {
    let manifest = net.manifest().clone();
    checkpoint.restore(&manifest, net.arena_mut())
}

/// A network whose state is nothing like its initial one, with values that a text would lose.
fn disturbed(shape: Shape) -> Linear {
    let mut net = Linear::new(shape);
    let manifest = net.manifest().clone();
    state::set_mask(&manifest, net.arena_mut(), 0, &[0, 4]).unwrap();
    let odd = [f32::from_bits(0x7fc0_1234), -0.0, f32::MIN_POSITIVE / 4.0, 1.0 / 3.0];
    for parameter in manifest.parameters.iter() {
        for slot in std::iter::once(&parameter.value).chain(parameter.moments.iter()) {
            for (target, value) in net.arena_mut().floats_mut(*slot).iter_mut().zip(odd).take(2) {
                *target = value;
            }
        }
    }
    net
}

#[test]
fn every_bit_comes_back_through_a_file() {
    for momentum in [true, false] {
        let shape = Shape { momentum, ..SMALL };
        let (net, folder) = (disturbed(shape), tempfile::tempdir().unwrap());
        let path = folder.path().join("checkpoint.mest");
        let written = capture(&net, &Recipe::default());
        written.write(&path).unwrap();
        let read = Checkpoint::read(&path).unwrap();
        assert_eq!((read.epoch, read.iteration, read.seed, read.wall_s, read.metrics.clone()), (1, 7, 0, 1.5, written.metrics.clone()));
        let mut fresh = Linear::new(shape);
        assert_ne!(fresh.state(), net.state());
        restore(&read, &mut fresh).unwrap();
        assert_eq!(fresh.state(), net.state());
        assert!(read.check_run(&path, &Recipe::default(), "digits", 5).is_ok());
    }
}

/// A sparse layer and a bias, their moments halves where `narrow`, and every one of them another.
fn with_moments(narrow: bool) -> (Manifest, Arena) {
    let layer = Geometry::three_by_three(8, 8, [4, 1]);
    let (manifest, mut arena) = Builder::with_moments(narrow).convolution("weight", layer, Some(0.2), 0.4, 2).plain("bias", 7, 2).build();
    state::initialize(&manifest, &mut arena, &state::InitialMasks::Random, 4).unwrap();
    for (index, parameter) in manifest.parameters.iter().enumerate() {
        for moment in 0..2 {
            let numbers = (0..state::element_count(parameter)).map(|i| (1 + i + moment) as f32 * 0.003).collect::<Vec<_>>();
            state::write_moment(&manifest, &mut arena, index, moment, &numbers).unwrap();
        }
    }
    (manifest, arena)
}

fn moments(manifest: &Manifest, arena: &Arena) -> Vec<Vec<f32>> {
    let of = |index| [0, 1].map(|moment| state::read_moment(manifest, arena, index, moment).unwrap());
    (0..manifest.parameters.len()).flat_map(of).collect()
}

#[test]
fn moments_are_saved_as_they_are_stored() {
    let recipe = Recipe::default();
    let position = || Position { recipe: &recipe, epoch: 1, iteration: 7, data_hash: 5, wall_s: 1.5, metrics: &[], sampling: None };
    let ((manifest, arena), (wide_manifest, wide_arena)) = (with_moments(true), with_moments(false));
    let narrow = Checkpoint::capture(&manifest, &arena, position());
    let wide = Checkpoint::capture(&wide_manifest, &wide_arena, position());
    assert!(narrow.to_bytes().len() < wide.to_bytes().len());
    let written = Checkpoint::from_bytes(Path::new("checkpoint.mest"), &narrow.to_bytes()).unwrap();
    let mut fresh = Arena::new(manifest.arena_bytes);
    written.restore(&manifest, &mut fresh).unwrap();
    assert_eq!(moments(&manifest, &fresh), moments(&manifest, &arena));
    // Into the other storage: halves are floats, and floats are rounded to the nearest.
    let mut fresh = Arena::new(wide_manifest.arena_bytes);
    written.restore(&wide_manifest, &mut fresh).unwrap();
    assert_eq!(moments(&wide_manifest, &fresh), moments(&manifest, &arena));
    let mut fresh = Arena::new(manifest.arena_bytes);
    wide.restore(&manifest, &mut fresh).unwrap();
    assert_eq!(moments(&manifest, &fresh), moments(&manifest, &arena), "they were written rounded to the nearest");
    let mut shorter = written;
    shorter.parameters[1].moments[0].halves.truncate(12);
    let error = shorter.restore(&manifest, &mut fresh).unwrap_err().to_string();
    assert!(error.contains("`bias` has 6 values where its mask has 7"), "{error}");
}

#[test]
fn truncation_is_told_at_every_length() {
    let (bytes, path) = (capture(&disturbed(SMALL), &Recipe::default()).to_bytes(), Path::new("run/checkpoint.mest"));
    assert!(Checkpoint::from_bytes(path, &bytes).is_ok());
    for length in 0..bytes.len() {
        let error = Checkpoint::from_bytes(path, &bytes[..length]).unwrap_err();
        assert!(matches!(error, CheckpointError::Truncated { .. }), "{length}: {error}");
        assert!(error.to_string().contains("run/checkpoint.mest") && error.to_string().contains(&format!("{length} of")));
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(Checkpoint::from_bytes(path, &longer).unwrap_err().to_string().contains("corrupted"));
}

#[test]
fn any_flipped_bit_is_noticed() {
    let (bytes, path) = (capture(&disturbed(SMALL), &Recipe::default()).to_bytes(), Path::new("checkpoint.mest"));
    for position in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[position] ^= 1 << bit;
            let error = Checkpoint::from_bytes(path, &flipped).unwrap_err();
            let expected = match position {
                0..8 => matches!(error, CheckpointError::Foreign { .. }),
                8..12 => matches!(error, CheckpointError::Version { .. }),
                16..24 => matches!(error, CheckpointError::Truncated { .. } | CheckpointError::Corrupted { .. }),
                _ => matches!(error, CheckpointError::Corrupted { .. }),
            };
            assert!(expected, "byte {position}, bit {bit}: {error}");
        }
    }
}

#[test]
fn other_files_are_refused_by_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, b"\x08\x07onnx").unwrap();
    assert!(matches!(Checkpoint::read(&path), Err(CheckpointError::Foreign { .. })));
    assert!(matches!(Checkpoint::read(&folder.path().join("absent")), Err(CheckpointError::Io { .. })));
    let mut bytes = capture(&disturbed(SMALL), &Recipe::default()).to_bytes();
    bytes[8] = 9;
    let error = Checkpoint::from_bytes(&path, &bytes).unwrap_err().to_string();
    assert!(error.contains("version 9"), "{error}");
}

#[test]
fn another_model_is_refused_by_its_first_difference() {
    let checkpoint = capture(&disturbed(SMALL), &Recipe::default());
    let refuse = |checkpoint: &Checkpoint, shape: Shape| restore(checkpoint, &mut Linear::new(shape)).unwrap_err().to_string();
    assert!(refuse(&checkpoint, Shape { inputs: 4, ..SMALL }).contains("`fc.weight` is [2, 3], not [2, 4]"));
    assert!(refuse(&checkpoint, Shape { momentum: false, ..SMALL }).contains("1 moments, not 0"));
    let with = |change: &dyn Fn(&mut Checkpoint)| {
        let mut changed = checkpoint.clone();
        change(&mut changed);
        refuse(&changed, SMALL)
    };
    assert!(with(&|c| c.parameters[1].name = "other".to_owned()).contains("`other` where this has `fc.bias`"));
    assert!(with(&|c| c.parameters[0].block = vec![4, 1]).contains("blocks of [4, 1]"));
    assert!(with(&|c| c.parameters.truncate(1)).contains("1 parameters, not 2"));
    assert!(with(&|c| c.model_hash ^= 1).contains("another graph"));
    assert!(with(&|c| c.parameters[0].values.truncate(1)).contains("`fc.weight` has 1 values where its mask has 2"));
    assert!(with(&|c| c.parameters[0].units = vec![4, 0]).contains("fc.weight"));
    assert!(with(&|c| c.parameters[0].units = vec![0, 99]).contains("fc.weight"));
}

#[test]
fn hashes_are_those_of_fowler_noll_and_vo() {
    let mut hash = Fnv::default();
    hash.write(b"foobar");
    assert_eq!(hash.finish(), 0x85944171f73967e8);
}
