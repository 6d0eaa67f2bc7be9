//! The page: sections of pictures and tables, styled for light and dark screens, without scripts.

use super::history::Change;
use super::svg::{Bar, Picture, Scale, Series, bars, chart, escape, readable};
use super::{Epoch, Report, live_ranges};
use crate::budget::bytes;
use crate::pass::annotate_sparsity::LayerSparsity;
use std::collections::BTreeMap;

const STYLE: &str = include_str!("style.css");
/// Kernels, and kinds of them, that have a bar.
const MOST_KERNELS: usize = 16;
/// Layers with a line of their own in the chart of densities.
const MOST_LINES: usize = 8;

/// The whole page.
pub(super) fn page(report: &Report<'_>) -> String {
    let title = escape(&report.title);
    let sections: String = [
        ("Learning", learning(report)),
        ("Sparsity", sparsity(report)),
        ("Memory", memory(report)),
        ("Time", time(report)),
        ("Data", data(report)),
        ("Recipe", format!("<pre>{}</pre>\n", escape(report.recipe))),
    ]
    .into_iter()
    .filter(|(_, body)| !body.is_empty())
    .map(|(name, body)| format!("<section><h2>{name}</h2>\n{body}</section>\n"))
    .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>\n{STYLE}</style></head><body>\n<header><h1>{title}</h1>\n{}</header>\n{sections}\
         <footer>mestc {}</footer></body></html>\n",
        cards(report),
        env!("CARGO_PKG_VERSION")
    )
}

/// The numbers that matter most.
fn cards(report: &Report<'_>) -> String {
    let metrics = report.metrics;
    let last = metrics.epochs.last();
    let sparse: Vec<&LayerSparsity> = report.sparsity.layers.iter().filter(|layer| layer.density.is_some()).collect();
    let weights: usize = sparse.iter().map(|layer| layer.units.weights()).sum();
    let speed = metrics.epochs.iter().map(|epoch| epoch.images_per_s).sum::<f64>() / metrics.epochs.len().max(1) as f64;
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let mut cards = vec![
        ("test accuracy", percent(metrics.test_accuracy), format!("best {}", percent(metrics.best_test_accuracy))),
        ("epochs", metrics.epochs.len().to_string(), format!("{:.1} s", metrics.wall_s)),
    ];
    if weights > 0 {
        let density = last.map_or(1.0, |epoch| epoch.density);
        cards.push(("sparsity", percent(1.0 - density), format!("{} of {weights} weights live", (density * weights as f64).round())));
    }
    let measured = metrics.peak_rss_bytes.map_or_else(String::new, |peak| format!("process peak {}", bytes(peak as usize)));
    cards.push(("planned memory", bytes(metrics.planned_bytes), measured));
    cards.push(("speed", format!("{speed:.0}/s"), "training examples".to_owned()));
    let card = |(name, value, note): (&str, String, String)| {
        format!("<div class=\"card\"><span>{name}</span><strong>{}</strong><small>{}</small></div>\n", escape(&value), escape(&note))
    };
    format!("<div class=\"cards\">{}</div>\n", cards.into_iter().map(card).collect::<String>())
}

/// A value by epoch.
fn by_epoch(name: &str, epochs: &[Epoch], value: impl Fn(&Epoch) -> Option<f64>) -> Series {
    let points = epochs.iter().filter_map(|epoch| Some((f64::from(epoch.epoch), value(epoch)?))).collect();
    Series { name: name.to_owned(), points }
}

fn learning(report: &Report<'_>) -> String {
    let epochs = &report.metrics.epochs;
    let present = |series: Vec<Series>| -> Vec<Series> { series.into_iter().filter(|series| !series.points.is_empty()).collect() };
    let losses = present(vec![
        by_epoch("train", epochs, |epoch| Some(epoch.train_loss)),
        by_epoch("test", epochs, |epoch| Some(epoch.test_loss)),
        by_epoch("validation", epochs, |epoch| epoch.validation_loss),
    ]);
    let accuracies = present(vec![
        by_epoch("train", epochs, |epoch| Some(epoch.train_accuracy)),
        by_epoch("test", epochs, |epoch| Some(epoch.test_accuracy)),
        by_epoch("validation", epochs, |epoch| epoch.validation_accuracy),
    ]);
    let rates = [by_epoch("learning rate", epochs, |epoch| Some(epoch.learning_rate))];
    let scale = Scale { x: "epoch", ..Scale::default() };
    let pictures = [
        chart("Loss", &losses, Scale { from: Some(0.0), ..scale }),
        chart("Accuracy", &accuracies, Scale { to: Some(1.0), ..scale }),
        chart("Learning rate", &rates, Scale { from: Some(0.0), ..scale }),
    ];
    format!("<div class=\"grid\">{}</div>\n", pictures.concat())
}

fn sparsity(report: &Report<'_>) -> String {
    let layers = &report.sparsity.layers;
    if layers.is_empty() {
        return String::new();
    }
    format!("<div class=\"grid\">{}</div>\n{}{}", densities(report), changes(report), layer_table(layers, &last_change(report.changes)))
}

/// The last change of each layer.
fn last_change(changes: &[Change]) -> BTreeMap<&str, &Change> {
    changes.iter().map(|change| (change.layer.as_str(), change)).collect()
}

/// Live share by epoch: of all sparse layers, and of the largest ones.
fn densities(report: &Report<'_>) -> String {
    let epochs = &report.metrics.epochs;
    let all = [by_epoch("all sparse layers", epochs, |epoch| Some(epoch.density))];
    let mut layers: Vec<&LayerSparsity> = report.sparsity.layers.iter().filter(|layer| layer.density.is_some()).collect();
    layers.sort_by_key(|layer| std::cmp::Reverse(layer.units.weights()));
    let per_layer: Vec<Series> = layers
        .iter()
        .take(MOST_LINES)
        .filter_map(|layer| {
            let weights = layer.units.weights().max(1) as f64;
            let mine: Vec<&Change> = report.changes.iter().filter(|change| change.layer == layer.name).collect();
            let mut points: Vec<(f64, f64)> = mine.iter().map(|change| (change.epoch as f64, change.after as f64 / weights)).collect();
            points.push((epochs.last().map_or(1.0, |epoch| f64::from(epoch.epoch)), points.last()?.1));
            Some(Series { name: layer.name.clone(), points })
        })
        .collect();
    let scale = Scale { x: "epoch", from: Some(0.0), to: None, steps: true };
    let name = if layers.len() > MOST_LINES { "Density of the largest layers" } else { "Density by layer" };
    let overall = chart("Density", &all, scale);
    format!("{overall}{}", chart(name, &per_layer, scale))
}

/// A map of layers by events: the darker, the larger the share of a layer's mask that changed.
fn changes(report: &Report<'_>) -> String {
    let mut events: Vec<u64> = report.changes.iter().map(|change| change.iteration).collect();
    events.sort_unstable();
    events.dedup();
    let mut layers: Vec<&str> = Vec::new();
    for change in report.changes {
        if !layers.contains(&change.layer.as_str()) {
            layers.push(&change.layer);
        }
    }
    if events.is_empty() {
        return String::new();
    }
    const LEFT: f64 = 220.0;
    const ROW: f64 = 18.0;
    let (width, height) = (1120.0, ROW * layers.len() as f64 + 34.0);
    let cell = (width - LEFT) / events.len() as f64;
    let mut picture = Picture::new(width, height);
    for (row, layer) in layers.iter().enumerate() {
        let shown = if layer.chars().count() > 32 {
            format!("..{}", layer.chars().skip(layer.chars().count() - 30).collect::<String>())
        } else {
            (*layer).to_owned()
        };
        picture.text(LEFT - 8.0, row as f64 * ROW + 13.0, "end", &shown);
    }
    let share = |change: &Change| (change.dropped + change.grown) as f64 / change.before.max(1) as f64;
    let most = report.changes.iter().map(share).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    for change in report.changes {
        let (Some(row), Ok(column)) = (layers.iter().position(|layer| *layer == change.layer), events.binary_search(&change.iteration))
        else {
            continue;
        };
        let title = format!(
            "{}, epoch {}, iteration {}: {} dropped, {} grown, {} live",
            change.layer, change.epoch, change.iteration, change.dropped, change.grown, change.after
        );
        let place = [LEFT + column as f64 * cell, row as f64 * ROW, (cell - 1.0).max(cell * 0.8), ROW - 2.0];
        picture.shade(place, "heat", 0.08 + 0.92 * share(change) / most, &title);
    }
    let bottom = ROW * layers.len() as f64 + 14.0;
    for (index, anchor) in [(0, "start"), (events.len() - 1, "end")].into_iter().take(events.len().min(2)) {
        let x = LEFT + (index as f64 + if index > 0 { 1.0 } else { 0.0 }) * cell;
        picture.text(x, bottom, anchor, &format!("iteration {}", events[index]));
    }
    let label = "Mask changes: dropped and grown weights by layer and topology update";
    format!("<figure class=\"wide\"><figcaption>{label}</figcaption>\n{}</figure>\n", picture.finish(label))
}

fn layer_table(layers: &[LayerSparsity], last: &BTreeMap<&str, &Change>) -> String {
    let rows: String = layers
        .iter()
        .map(|layer| {
            let weights = layer.units.weights();
            let live = last.get(layer.name.as_str()).map_or(layer.nnz(), |change| change.after);
            let (name, scheme, reason) = (escape(&layer.name), escape(&layer.scheme_name()), escape(&layer.reason));
            let density = readable(live as f64 / weights.max(1) as f64);
            format!("<tr><td>{name}</td><td>{scheme}</td><td>{weights}</td><td>{live}</td><td>{density}</td><td>{reason}</td></tr>\n")
        })
        .collect();
    format!(
        "<details><summary>Layers ({})</summary><table class=\"data\"><tr><th>layer</th><th>scheme</th><th>weights</th><th>live</th>\
         <th>density</th><th>why</th></tr>\n{rows}</table></details>\n",
        layers.len()
    )
}

fn memory(report: &Report<'_>) -> String {
    let picture = live_ranges::picture(report.program);
    let legend: String =
        live_ranges::classes(report.program).iter().map(|class| format!("<span><i class=\"m-{class}\"></i>{class}</span>")).collect();
    let by_class: Vec<Bar> = report
        .program
        .manifest
        .plan
        .iter()
        .filter(|line| line.bytes > 0)
        .map(|line| Bar {
            name: line.class.to_string(),
            value: line.bytes as f64,
            note: bytes(line.bytes),
            class: format!("m-{}", line.class),
        })
        .collect();
    format!(
        "<figure class=\"wide\"><figcaption>What lies where in the arena over a training step</figcaption>\n{picture}\
         <div class=\"legend\">{legend}</div></figure>\n<div class=\"grid\">{}</div>\n",
        bars("Planned bytes by class, at the peak", &by_class)
    )
}

/// What a kernel does, without the shape that it does it for: its name up to the first number.
fn family(kernel: &str) -> &str {
    let shape = kernel.match_indices('_').find(|(at, _)| kernel[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    shape.map_or(kernel, |(at, _)| &kernel[..at])
}

fn time(report: &Report<'_>) -> String {
    let total: f64 = report.kernels.iter().map(|kernel| kernel.ms).sum();
    let bar = |name: &str, ms: f64, launches: usize, color: usize| {
        let times = if launches == 1 { "once".to_owned() } else { format!("{launches} times") };
        let note = format!("{ms:.3} ms, {:.1} %, {times}", ms / total.max(f64::MIN_POSITIVE) * 100.0);
        Bar { name: name.to_owned(), value: ms, note, class: format!("c{color}") }
    };
    let longest = |mut bars: Vec<Bar>| {
        bars.sort_by(|a, b| b.value.total_cmp(&a.value));
        bars.truncate(MOST_KERNELS);
        bars
    };
    let mut families: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for kernel in report.kernels {
        let family = families.entry(family(&kernel.kernel)).or_default();
        *family = (family.0 + kernel.ms, family.1 + kernel.launches);
    }
    let families = longest(families.into_iter().map(|(name, (ms, launches))| bar(name, ms, launches, 0)).collect());
    let kernels = longest(report.kernels.iter().map(|kernel| bar(&kernel.kernel, kernel.ms, kernel.launches, 5)).collect());
    let mut body = String::new();
    if !kernels.is_empty() {
        let most = format!("The {} kernels that take longest, of {}", kernels.len(), report.kernels.len());
        body = bars(&format!("A training step by kind of kernel: {total:.2} ms"), &families) + &bars(&most, &kernels);
    }
    let epochs = &report.metrics.epochs;
    let speed = chart(
        "Training examples a second, by epoch",
        &[by_epoch("examples a second", epochs, |epoch| Some(epoch.images_per_s))],
        Scale { x: "epoch", from: Some(0.0), ..Scale::default() },
    );
    format!("<div class=\"grid\">{body}{speed}</div>\n")
}

/// Examples left out by epoch, where any were.
fn data(report: &Report<'_>) -> String {
    let epochs = &report.metrics.epochs;
    if epochs.iter().all(|epoch| epoch.removed == 0) {
        return String::new();
    }
    let series = [
        by_epoch("trained on", epochs, |epoch| Some(f64::from(epoch.examples))),
        by_epoch("left out", epochs, |epoch| Some(f64::from(epoch.removed))),
    ];
    let scale = Scale { x: "epoch", from: Some(0.0), to: None, steps: true };
    format!("<div class=\"grid\">{}</div>\n", chart("Training examples by epoch", &series, scale))
}

#[cfg(test)]
mod tests;
