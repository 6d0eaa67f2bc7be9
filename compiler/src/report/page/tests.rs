//! Pages of made-up runs: what they show, and that names cannot break them.

use super::super::{KernelShare, Metrics};
use super::*;
use crate::onnx::import_bytes;
use crate::pipeline::{self, Compiled};
use crate::settings;
use crate::zoo::{self, ZooOptions};
use mest_runtime::recipe::Recipe;

fn compiled() -> Compiled {
    let imported = import_bytes(&zoo::build("resnet8", &ZooOptions::default()).unwrap(), None).unwrap();
    pipeline::compile(&imported, &settings::of_recipe(&Recipe { batch: 16, ..Recipe::default() }, None)).unwrap()
}

fn metrics() -> Metrics {
    let epoch = |epoch: u32| Epoch { epoch, train_loss: 1.0 / f64::from(epoch), density: 0.1, examples: 100, ..Default::default() };
    Metrics { epochs: (1..=5).map(epoch).collect(), test_accuracy: 0.75, ..Default::default() }
}

fn report<'a>(compiled: &'a Compiled, metrics: &'a Metrics, changes: &'a [Change], kernels: &'a [KernelShare]) -> Report<'a> {
    let (sparsity, program) = (&compiled.sparsity, &compiled.program);
    Report { title: "runs/<b>".to_owned(), metrics, changes, sparsity, program, kernels, recipe: "epochs = 5 # <i>" }
}

#[test]
fn a_page_stands_alone_and_shows_every_section() {
    let (compiled, mut metrics) = (compiled(), metrics());
    metrics.epochs[4].removed = 40;
    metrics.epochs.iter_mut().for_each(|epoch| epoch.validation_loss = Some(0.3));
    let layer = compiled.sparsity.layers.iter().find(|layer| layer.density.is_some()).unwrap().name.clone();
    let change = |epoch, iteration| Change { epoch, iteration, before: 100, dropped: 20, grown: 30, after: 110, layer: layer.clone() };
    let kernels: Vec<KernelShare> =
        (0..20).map(|n| KernelShare { kernel: format!("map_scale_{n}x8"), launches: 1 + n, ms: n as f64 }).collect();
    let text = report(&compiled, &metrics, &[change(1, 0), change(3, 40)], &kernels).html();
    for expected in ["Learning", "Sparsity", "Memory", "Time", "Data", "Recipe", "validation", "75.00 %", "longest, of 20", "left out"] {
        assert!(text.contains(expected), "{expected}");
    }
    assert!(text.contains(&format!("{layer}, epoch 3, iteration 40: 20 dropped, 30 grown, 110 live")));
    for foreign in ["http://", "https://", "<script", "<link", "@import", "url("] {
        assert!(!text.replace("http://www.w3.org/2000/svg", "").contains(foreign), "{foreign}");
    }
    assert!(text.contains("runs/&lt;b&gt;") && text.contains("# &lt;i&gt;") && !text.contains("<b>\""));
    for line in compiled.program.manifest.plan.iter().filter(|line| line.bytes > 0) {
        assert!(text.contains(&format!(".m-{}{{", line.class)), "{} has no colour", line.class);
    }
    for element in ["section", "figure", "svg", "table", "div", "details"] {
        assert_eq!(text.matches(&format!("<{element}")).count(), text.matches(&format!("</{element}>")).count(), "{element}");
    }
}

#[test]
fn kernels_are_grouped_by_what_they_do() {
    for (kernel, expected) in [("convolution_backward_16x16", "convolution_backward"), ("map_sum_8", "map_sum"), ("clear", "clear")] {
        assert_eq!(family(kernel), expected);
    }
}

#[test]
fn what_did_not_happen_is_not_shown() {
    let (compiled, metrics) = (compiled(), metrics());
    let text = report(&compiled, &metrics, &[], &[]).html();
    for absent in ["<h2>Data", "Mask changes", "by kernel", "validation", "NaN", "inf"] {
        assert!(!text.contains(absent), "{absent}");
    }
    let empty = Metrics::default();
    assert!(report(&compiled, &empty, &[], &[]).html().contains("<h2>Memory"));
}
