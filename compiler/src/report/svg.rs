//! Pictures: SVG elements as text, coloured by classes that the page's style defines.

use std::fmt::Write;

/// Text with the characters that HTML and SVG give a meaning escaped.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number as short as a picture needs it.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let trimmed = text.trim_end_matches('0').trim_end_matches('.');
    if trimmed == "-0" { "0".to_owned() } else { trimmed.to_owned() }
}

/// A value for people: enough digits, no more.
pub(super) fn readable(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-3..1e5).contains(&size) => format!("{value:.1e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => number(value),
        _ => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

/// An SVG in the making.
#[derive(Debug)]
pub(super) struct Picture {
    width: f64,
    height: f64,
    body: String,
}

impl Picture {
    /// Of a size in pixels; it scales with the page.
    pub(super) fn new(width: f64, height: f64) -> Self {
        Picture { width, height, body: String::new() }
    }

    /// A rectangle; `class` colours it, `title` is shown under the pointer.
    pub(super) fn rectangle(&mut self, [x, y, width, height]: [f64; 4], class: &str, title: &str) {
        let [x, y, width, height] = [x, y, width, height].map(number);
        let title = if title.is_empty() { String::new() } else { format!("<title>{}</title>", escape(title)) };
        let _ = writeln!(self.body, r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" class="{class}">{title}</rect>"#);
    }

    /// A rectangle as full as `opacity` says.
    pub(super) fn shade(&mut self, [x, y, width, height]: [f64; 4], class: &str, opacity: f64, title: &str) {
        let [x, y, width, height, opacity] = [x, y, width, height, opacity].map(number);
        let title = escape(title);
        let _ = writeln!(
            self.body,
            r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" class="{class}" fill-opacity="{opacity}"><title>{title}</title></rect>"#
        );
    }

    /// A straight line.
    pub(super) fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], class: &str) {
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(number);
        let _ = writeln!(self.body, r#"<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="{class}"/>"#);
    }

    /// A line through points.
    pub(super) fn path(&mut self, points: &[(f64, f64)], class: &str, title: &str) {
        let points: Vec<String> = points.iter().map(|&(x, y)| format!("{},{}", number(x), number(y))).collect();
        let (points, title) = (points.join(" "), escape(title));
        let _ = writeln!(self.body, r#"<polyline points="{points}" class="{class}"><title>{title}</title></polyline>"#);
    }

    /// A point.
    pub(super) fn dot(&mut self, (x, y): (f64, f64), class: &str, title: &str) {
        let (x, y, title) = (number(x), number(y), escape(title));
        let _ = writeln!(self.body, r#"<circle cx="{x}" cy="{y}" r="5" class="{class}"><title>{title}</title></circle>"#);
    }

    /// Words; `anchor` is `start`, `middle` or `end`.
    pub(super) fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let (x, y, text) = (number(x), number(y), escape(text));
        let _ = writeln!(self.body, r#"<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>"#);
    }

    /// The element.
    pub(super) fn finish(self, label: &str) -> String {
        let (width, height, label) = (number(self.width), number(self.height), escape(label));
        let body = self.body;
        format!(r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">"#)
            + "\n"
            + &body
            + "</svg>\n"
    }
}

/// Round numbers from `low` to `high`, about `count` of them.
pub(super) fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let raw = (high - low) / count.max(1) as f64;
    if !(raw > 0.0 && raw.is_finite()) {
        return vec![low];
    }
    let magnitude = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * magnitude).find(|&step| step >= raw).unwrap_or(raw);
    let first = (low / step).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|index| index as f64 * step).collect()
}

/// One line of a chart.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// As the legend has it.
    pub(super) name: String,
    /// (x, y), ascending by x.
    pub(super) points: Vec<(f64, f64)>,
}

/// How a chart is drawn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scale {
    /// What the x axis counts.
    pub(super) x: &'static str,
    /// Where the y axis begins, at the latest; the data decide where this is `None`.
    pub(super) from: Option<f64>,
    /// Where it ends, at the least.
    pub(super) to: Option<f64>,
    /// Whether values hold until the next one.
    pub(super) steps: bool,
}

const SIZE: [f64; 2] = [560.0, 250.0];
const MARGIN: [f64; 4] = [12.0, 14.0, 34.0, 52.0]; // top, right, bottom, left
/// Lines are coloured by turns.
const COLORS: usize = 8;

/// Lines over a common axis, with a legend; nothing where there is no point.
pub(super) fn chart(label: &str, series: &[Series], scale: Scale) -> String {
    let points = || series.iter().flat_map(|series| series.points.iter().copied()).filter(|(_, y)| y.is_finite());
    if points().next().is_none() {
        return String::new();
    }
    let range = |values: &mut dyn Iterator<Item = f64>| values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
    let (first, last) = range(&mut points().map(|(x, _)| x));
    let (low, high) = range(&mut points().map(|(_, y)| y));
    let (low, high) = (scale.from.map_or(low, |from| from.min(low)), scale.to.map_or(high, |to| to.max(high)));
    let (span, width) = (if high > low { high - low } else { high.abs().max(1e-9) }, (last - first).max(1e-9));
    let [top, right, bottom, left] = MARGIN;
    let (inner_width, inner_height) = (SIZE[0] - left - right, SIZE[1] - top - bottom);
    let at = |(x, y): (f64, f64)| (left + (x - first) / width * inner_width, top + (1.0 - (y - low) / span) * inner_height);
    let mut picture = Picture::new(SIZE[0], SIZE[1]);
    for tick in ticks(low, low + span, 5) {
        let (_, y) = at((first, tick));
        picture.line([left, y, SIZE[0] - right, y], "grid");
        picture.text(left - 6.0, y + 4.0, "end", &readable(tick));
    }
    for tick in ticks(first, last, 8).into_iter().filter(|tick| tick.fract() == 0.0) {
        picture.text(at((tick, low)).0, SIZE[1] - bottom + 16.0, "middle", &readable(tick));
    }
    picture.text(left + inner_width / 2.0, SIZE[1] - 4.0, "middle", scale.x);
    for (index, series) in series.iter().enumerate() {
        let points: Vec<(f64, f64)> = series.points.iter().copied().filter(|(_, y)| y.is_finite()).collect();
        let mut drawn: Vec<(f64, f64)> = Vec::with_capacity(2 * points.len());
        for (position, &point) in points.iter().enumerate() {
            if scale.steps && position > 0 {
                drawn.push(at((point.0, points[position - 1].1)));
            }
            drawn.push(at(point));
        }
        picture.path(&drawn, &format!("line c{}", index % COLORS), &series.name);
        // Above a few hundred, points under the pointer would weigh more than the rest of the page.
        if points.len() <= 200 {
            for &(x, y) in &points {
                picture.dot(
                    at((x, y)),
                    &format!("point c{}", index % COLORS),
                    &format!("{}, {} {}: {}", series.name, scale.x, readable(x), readable(y)),
                );
            }
        }
    }
    let legend: String = series
        .iter()
        .enumerate()
        .filter(|(_, series)| !series.points.is_empty())
        .map(|(index, series)| format!(r#"<span><i class="c{}"></i>{}</span>"#, index % COLORS, escape(&series.name)))
        .collect();
    format!("<figure><figcaption>{}</figcaption>\n{}<div class=\"legend\">{legend}</div></figure>\n", escape(label), picture.finish(label))
}

/// A bar of a list of bars.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    /// What it is of.
    pub(super) name: String,
    /// Its length.
    pub(super) value: f64,
    /// The value as text, and what else there is to say.
    pub(super) note: String,
    /// What colours it.
    pub(super) class: String,
}

/// Bars side by side as a table, the longest as long as the column.
pub(super) fn bars(label: &str, bars: &[Bar]) -> String {
    let longest = bars.iter().map(|bar| bar.value).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let rows: String = bars
        .iter()
        .map(|bar| {
            let (name, note, share, class) = (escape(&bar.name), escape(&bar.note), number(bar.value / longest * 100.0), &bar.class);
            format!(
                r#"<tr><td class="name" title="{name}">{name}</td><td class="bar"><b class="{class}" style="width:{share}%"></b></td><td class="note">{note}</td></tr>"#
            ) + "\n"
        })
        .collect();
    format!("<figure><figcaption>{}</figcaption>\n<table class=\"bars\">{rows}</table></figure>\n", escape(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 1.0, 5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(1.0, 30.0, 8), [5.0, 10.0, 15.0, 20.0, 25.0, 30.0]);
        assert_eq!(ticks(2.0, 2.0, 5), [2.0]);
        assert_eq!(ticks(0.0, f64::NAN, 5), [0.0]);
    }

    #[test]
    fn names_cannot_become_markup() {
        let series = [Series { name: "<script>\"&".to_owned(), points: vec![(1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0)] }];
        let text = chart("a < b", &series, Scale::default());
        assert!(!text.contains("<script>") && text.contains("&lt;script&gt;&quot;&amp;") && !text.contains("NaN"), "{text}");
    }

    #[test]
    fn a_chart_without_points_is_nothing() {
        assert_eq!(chart("x", &[Series { name: "a".to_owned(), points: vec![] }], Scale::default()), "");
    }

    #[test]
    fn values_hold_until_the_next_where_asked() {
        let series = [Series { name: "a".to_owned(), points: vec![(0.0, 0.0), (1.0, 1.0)] }];
        let text = chart("x", &series, Scale { steps: true, ..Scale::default() });
        assert_eq!(text.matches("polyline points").count(), 1);
        assert!(text.contains("52,216 546,216 546,12"), "{text}");
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [(0.0, "0"), (0.5, "0.5"), (0.12345, "0.1235"), (1234.0, "1234"), (2.5e7, "2.5e7"), (1e-5, "1.0e-5")] {
            assert_eq!(readable(value), expected);
        }
    }
}
