use super::*;
use crate::engine::jit::Jit;
use crate::onnx::import_bytes;
use crate::pipeline;
use crate::zoo::{self, ZooOptions};
use mest_runtime::network::{Network, Phase};

fn model() -> Imported {
    import_bytes(&zoo::build("resnet8", &ZooOptions { input: Some([3, 8, 8]), ..ZooOptions::default() }).unwrap(), None).unwrap()
}

fn recipe() -> Recipe {
    Recipe::default().with([("autotune", "true"), ("batch", "16"), ("sparsity", "0.5"), ("threads", "1")]).unwrap()
}

fn open(layer: &str, modelled: usize, most: usize) -> OpenLayer {
    OpenLayer { layer: layer.to_owned(), weight: layer.to_owned(), kind: layer.to_owned(), modelled, most, passes: &[Pass::Forward] }
}

#[test]
fn candidates_lie_around_what_is_modelled() {
    assert_eq!(open("a", 4, 64).candidates(), [4, 2, 8, 1, 16]);
    assert_eq!(open("a", 1, 3).candidates(), [1, 2, 3]);
    assert_eq!(open("a", 3, 3).candidates(), [3, 2, 1]);
}

#[test]
fn the_model_stands_unless_another_is_faster_by_more_than_noise() {
    let of = |ms: &[(usize, f64)]| Fastest::of(ms.iter().copied().collect(), 2).channel_blocks;
    assert_eq!(of(&[(1, 0.98), (2, 1.0), (4, 1.2)]), 2);
    assert_eq!(of(&[(1, 0.95), (2, 1.0), (4, 0.9)]), 4);
    assert_eq!(of(&[]), 2);
}

#[test]
fn every_layer_is_timed_once_and_remembered() {
    let (imported, recipe) = (model(), recipe());
    let mut timings = Timings::new();
    let tunings = channel_blocks(&imported, &recipe, Isa::best(), &mut timings).unwrap();
    assert!(tunings.len() >= 7, "{tunings:?}");
    for tuning in &tunings {
        let ms = &tuning.fastest.ms;
        assert!(ms.len() >= 2 && ms.contains_key(&tuning.modelled) && ms.values().all(|&ms| ms > 0.0), "{tuning}");
    }
    // What is remembered is taken as it is: no machine finds this.
    let odd = Fastest { channel_blocks: 5, ms: BTreeMap::from([(5, 0.5)]) };
    let second = open_layers(&imported, &recipe, Isa::best()).unwrap().swap_remove(1);
    timings.put(second.kind, odd.clone());
    let again = channel_blocks(&imported, &recipe, Isa::best(), &mut timings).unwrap();
    assert_eq!(again[1].fastest, odd);
    assert_eq!(again[0], tunings[0]);
    let settled = with_tunings(&recipe, &again);
    assert_eq!(settled.layers[&again[1].layer].channel_blocks, Some(5));
    assert!(!settled.autotune);
    let left = open_layers(&imported, &settled, Isa::best()).unwrap();
    assert!(left.iter().all(|layer| layer.layer != again[1].layer), "what the recipe says stays");
}

#[test]
fn blocks_change_the_order_of_sums_and_nothing_else() {
    let imported = model();
    let layers = open_layers(&imported, &recipe(), Isa::best()).unwrap();
    let step = |asked: Option<usize>| {
        let mut recipe = Recipe { autotune: false, ..recipe() };
        for layer in &layers {
            recipe.layers.entry(layer.layer.clone()).or_default().channel_blocks = asked.map(|asked| asked.min(layer.most));
        }
        let compiled = pipeline::compile(&imported, &settings::of_recipe(&recipe, None)).unwrap();
        let blocks = modelled(&compiled.program.manifest, &layers[3].weight);
        let mut jit = Jit::new(compiled.program, Isa::best(), 1).unwrap();
        crate::bench::measure::Subject::new(&recipe, 1).prepare(&mut jit).unwrap();
        jit.run(Phase::Train);
        let logits = jit.manifest().io.output.slot;
        (blocks, jit.arena().floats(logits).to_vec())
    };
    let (_, reference) = step(None);
    for asked in [1, 2, 3, 7, 16] {
        let (blocks, logits) = step(Some(asked));
        assert_eq!(blocks, Some(asked));
        let far = reference.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-4 && logits.iter().any(|&x| x != 0.0), "{asked}: {far}");
    }
}

#[test]
fn timings_are_kept_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache/mest/timings.json");
    assert_eq!(Timings::read(&path).unwrap(), Timings::new());
    let fastest = |channel_blocks| Fastest { channel_blocks, ms: BTreeMap::from([(1, 0.25), (channel_blocks, 0.125)]) };
    for (kind, blocks) in [("a", 2), ("b", 4)] {
        let mut timings = Timings::new();
        timings.put(kind.to_owned(), fastest(blocks));
        timings.add_to(&path).unwrap();
    }
    let read = Timings::read(&path).unwrap();
    assert_eq!((read.get("a"), read.get("b"), read.get("c")), (Some(&fastest(2)), Some(&fastest(4)), None));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(env!("CARGO_PKG_VERSION"), "0.0.0")).unwrap();
    assert_eq!(Timings::read(&path).unwrap(), Timings::new(), "another version has other kernels");
    std::fs::write(&path, "{").unwrap();
    assert!(Timings::read(&path).unwrap_err().to_string().contains("delete it"));
    assert!(Timings::read(folder.path()).unwrap_err().to_string().contains(&folder.path().display().to_string()));
}

#[test]
fn a_recipe_that_leaves_blocks_to_time_is_not_compiled_as_it_is() {
    let error = crate::budget::compile(&model(), &recipe(), None).unwrap_err().to_string();
    assert!(error.contains("mestc plan MODEL --autotune --explain"), "{error}");
}
