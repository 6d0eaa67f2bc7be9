//! Plots of accuracy as SVG: a line for each combination of everything but the sparsity.

use super::table::Group;
use std::fmt::Write;

/// Colours that stay apart for everybody (Okabe and Ito).
const COLORS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d1f"];
/// Extents of the picture.
const SIZE: [f64; 2] = [760.0, 440.0];
/// What surrounds the plot: left, top, right, bottom.
const MARGIN: [f64; 4] = [64.0, 20.0, 230.0, 52.0];
/// Ticks of an axis, about.
const TICKS: f64 = 5.0;

/// What accuracy is plotted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    Sparsity,
    Time,
    Memory,
}

impl Axis {
    pub(super) const ALL: [Axis; 3] = [Axis::Sparsity, Axis::Time, Axis::Memory];

    /// The plot's file.
    pub(super) fn file(self) -> &'static str {
        match self {
            Axis::Sparsity => "accuracy-sparsity.svg",
            Axis::Time => "accuracy-time.svg",
            Axis::Memory => "accuracy-memory.svg",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Axis::Sparsity => "sparsity %",
            Axis::Time => "training time s",
            Axis::Memory => "planned training state MB",
        }
    }

    fn of(self, group: &Group) -> f64 {
        match self {
            Axis::Sparsity => group.sparsity * 100.0,
            Axis::Time => group.seconds.mean,
            Axis::Memory => group.memory.planned as f64 / 1e6,
        }
    }
}

/// A range of values and where it lies in the picture.
struct Scale {
    values: [f64; 2],
    pixels: [f64; 2],
}

impl Scale {
    /// Around `values`, widened to whole ticks.
    fn around(values: impl Iterator<Item = f64> + Clone, pixels: [f64; 2]) -> Self {
        let (low, high) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max));
        let (low, high) = if low.is_finite() { (low, high) } else { (0.0, 1.0) };
        let spread = if high > low { high - low } else { low.abs().max(1.0) * 0.1 };
        let step = step(spread);
        Scale { values: [((low - spread * 0.04) / step).floor() * step, ((high + spread * 0.04) / step).ceil() * step], pixels }
    }

    fn at(&self, value: f64) -> f64 {
        let [low, high] = self.values;
        self.pixels[0] + (value - low) / (high - low) * (self.pixels[1] - self.pixels[0])
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        let [low, high] = self.values;
        let step = step(high - low);
        let first = (low / step).ceil();
        (0..).map(move |tick| (first + f64::from(tick)) * step).take_while(move |&tick| tick <= high + step * 1e-6)
    }
}

/// 1, 2 or 5 times a power of ten: about a fifth of `spread`.
fn step(spread: f64) -> f64 {
    let rough = spread / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|&step| step >= rough * (1.0 - 1e-9)).unwrap_or(rough)
}

fn tick_label(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// What a line is called: the values of everything but the sparsity.
fn series(group: &Group) -> String {
    let words: Vec<&str> = ["policy", "scheme"].iter().filter_map(|key| group.values.get(*key)).map(String::as_str).collect();
    let rest = group.values.iter().filter(|(key, _)| !["policy", "scheme", "sparsity", "density"].contains(&key.as_str()));
    let rest: Vec<String> = rest.map(|(key, value)| format!("{key} {value}")).collect();
    let name = [words.join(" "), rest.join(" ")].join(" ");
    if name.trim().is_empty() { "accuracy".to_owned() } else { name.trim().to_owned() }
}

/// The plot of accuracy over `axis`; bars are standard deviations over seeds.
pub(super) fn svg(groups: &[Group], axis: Axis) -> String {
    let [width, height] = SIZE;
    let [left, top, right, bottom] = MARGIN;
    let percent = |group: &Group, times: f64| (group.accuracy.mean + times * group.accuracy.deviation.unwrap_or(0.0)) * 100.0;
    let x = Scale::around(groups.iter().map(|group| axis.of(group)), [left, width - right]);
    let y = Scale::around(groups.iter().flat_map(|group| [percent(group, -1.0), percent(group, 1.0)]), [height - bottom, top]);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    axes(&mut text, &x, &y, axis);
    let mut names: Vec<String> = vec![];
    for group in groups {
        let name = series(group);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for (index, name) in names.iter().enumerate() {
        let mut points: Vec<(f64, [f64; 3])> = groups
            .iter()
            .filter(|group| series(group) == *name)
            .map(|group| (x.at(axis.of(group)), [-1.0, 0.0, 1.0].map(|times| y.at(percent(group, times)))))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        line(&mut text, &points, COLORS[index % COLORS.len()], index / COLORS.len());
        legend(&mut text, name, index, COLORS[index % COLORS.len()]);
    }
    text.push_str("</svg>\n");
    text
}

fn axes(text: &mut String, x: &Scale, y: &Scale, axis: Axis) {
    let ([x0, x1], [y0, y1]) = (x.pixels, y.pixels);
    // Writing to a string doesn't fail, here and below.
    for tick in y.ticks() {
        let at = y.at(tick);
        let _ = writeln!(text, "<path d=\"M{x0} {at:.1}H{x1}\" stroke=\"#ddd\"/>");
        let _ = writeln!(text, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", x0 - 6.0, at + 4.0, tick_label(tick));
    }
    for tick in x.ticks() {
        let at = x.at(tick);
        let _ = writeln!(text, "<path d=\"M{at:.1} {y0}v5\" stroke=\"#000\"/>");
        let _ = writeln!(text, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", y0 + 18.0, tick_label(tick));
    }
    let _ = writeln!(text, "<path d=\"M{x0} {y1}V{y0}H{x1}\" fill=\"none\" stroke=\"#000\"/>");
    let (middle_x, middle_y) = (f64::midpoint(x0, x1), f64::midpoint(y0, y1));
    let _ = writeln!(text, "<text x=\"{middle_x}\" y=\"{}\" text-anchor=\"middle\">{}</text>", y0 + 40.0, axis.label());
    let _ = writeln!(text, "<text transform=\"translate(16 {middle_y}) rotate(-90)\" text-anchor=\"middle\">test accuracy %</text>");
}

/// A line through points with a bar each; `repeats` tells lines of one colour apart.
fn line(text: &mut String, points: &[(f64, [f64; 3])], color: &str, repeats: usize) {
    let path: Vec<String> = points.iter().map(|(x, [_, y, _])| format!("{x:.1} {y:.1}")).collect();
    let dashes = if repeats > 0 { format!(" stroke-dasharray=\"{} 3\"", 6 * repeats) } else { String::new() };
    let _ = writeln!(text, "<path d=\"M{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"{dashes}/>", path.join("L"));
    for (x, [low, y, high]) in points {
        let _ = writeln!(text, "<path d=\"M{x:.1} {low:.1}V{high:.1}\" stroke=\"{color}\"/>");
        let _ = writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>");
    }
}

fn legend(text: &mut String, name: &str, index: usize, color: &str) {
    let (x, y) = (SIZE[0] - MARGIN[2] + 16.0, MARGIN[1] + 8.0 + 18.0 * index as f64);
    let _ = writeln!(text, "<circle cx=\"{x}\" cy=\"{y}\" r=\"4\" fill=\"{color}\"/>");
    let _ = writeln!(text, "<text x=\"{}\" y=\"{}\">{}</text>", x + 10.0, y + 4.0, escape(name));
}

#[cfg(test)]
mod tests {
    use super::super::table::{groups, tests::run};
    use super::*;

    #[test]
    fn every_group_is_a_point_and_every_series_a_line() {
        let runs = [run("set", 0.9, 0, 0.5), run("set", 0.9, 1, 0.6), run("set", 0.95, 0, 0.4), run("dense", 0.0, 0, 0.9)];
        for axis in Axis::ALL {
            let text = svg(&groups(&runs), axis);
            assert_eq!(text.matches("r=\"3\"").count(), 3, "{axis:?}");
            assert!(text.contains(">set</text>") && text.contains(">dense</text>") && text.contains(axis.label()));
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }

    #[test]
    fn scales_hold_their_values_and_tick_evenly() {
        for values in [vec![0.9, 0.95, 0.98], vec![3.0], vec![0.0], vec![], vec![1e-3, 5e6]] {
            let scale = Scale::around(values.iter().copied(), [100.0, 200.0]);
            assert!(values.iter().all(|&value| (100.0..=200.0).contains(&scale.at(value))), "{values:?}");
            let ticks: Vec<f64> = scale.ticks().collect();
            assert!((2..=12).contains(&ticks.len()), "{values:?} {ticks:?}");
        }
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape("a<b>&c"), "a&lt;b&gt;&amp;c");
    }
}
