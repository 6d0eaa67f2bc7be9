//! The table that ends a training.

use crate::cli::failure::Failure;
use crate::cli::output::{Align, Output, Table, bytes, count};
use mest_runtime::manifest::Storage;
use mest_runtime::network::Network;
use mest_runtime::sparse::state;
use mest_runtime::train::FitReport;
use std::path::Path;

/// Live and all weights of the sparse layers.
fn sparse_weights(net: &dyn Network) -> (usize, usize) {
    let (manifest, arena) = (net.manifest(), net.arena());
    let layers = manifest.parameters.iter().enumerate().filter_map(|(index, parameter)| match &parameter.storage {
        Storage::Matrix { block, density: Some(_), .. } => {
            Some((state::mask(manifest, arena, index).len() * block.rows * block.columns, parameter.dims.iter().product()))
        }
        _ => None,
    });
    layers.fold((0, 0), |(live, all), (layer_live, layer_all): (usize, usize)| (live + layer_live, all + layer_all))
}

/// Prints what the run has come to.
pub(crate) fn print(net: &dyn Network, report: &FitReport, model: &Path, output: &mut Output) -> Result<(), Failure> {
    let (live, all) = sparse_weights(net);
    let density = if all == 0 { "dense".to_owned() } else { format!("{:.4}", live as f64 / all as f64) };
    let last = report.epochs.last();
    let mean = |value: fn(&mest_runtime::train::EpochMetrics) -> f64| {
        report.epochs.iter().map(value).sum::<f64>() / report.epochs.len().max(1) as f64
    };
    let saved = match report.examples_saved {
        0.0 => String::new(),
        saved => format!("{}, {:.1} % of the run saved", count(u64::from(report.examples_removed)), saved * 100.0),
    };
    let kept = match report.kept_epoch {
        kept if last.is_some_and(|last| last.epoch != kept) => format!("{kept} of {}, the smallest validation loss", report.epochs.len()),
        _ => String::new(),
    };
    let rows = [
        ("test accuracy", format!("{:.4}", report.test_accuracy)),
        ("best test accuracy", format!("{:.4}", report.best_test_accuracy)),
        ("epoch kept", kept),
        ("train loss", last.map_or_else(|| "-".to_owned(), |epoch| format!("{:.4}", epoch.train_loss))),
        ("density of sparse layers", density),
        ("nnz of sparse layers", format!("{} of {}", count(live as u64), count(all as u64))),
        ("examples left out", saved),
        ("planned peak memory", bytes(report.planned_bytes)),
        ("measured peak memory", report.peak_rss_bytes.map_or_else(|| "-".to_owned(), |peak| bytes(peak as usize))),
        ("images/s", format!("{:.0}", mean(|epoch| epoch.images_per_s))),
        ("time", format!("{:.1} s", report.wall_s)),
        ("model", model.display().to_string()),
    ];
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
        table.row([name.to_owned(), value]);
    }
    output.text("\n")?;
    output.heading("Result")?;
    output.table(&table)
}
