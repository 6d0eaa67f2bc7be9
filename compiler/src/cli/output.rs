//! What goes to standard output: lines, tables, JSON. A reader that goes away (`| head`) silences it and changes nothing else.

use super::failure::Failure;
pub(crate) use crate::budget::bytes;
use serde::Serialize;
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether a stream is coloured.
    pub(crate) fn applies(self, stream: &impl IsTerminal) -> bool {
        match self {
            Color::Auto => stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            Color::Always => true,
            Color::Never => false,
        }
    }
}

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Headings.
    Bold,
    /// Good news.
    Green,
    /// Bad news.
    Red,
}

/// `text` in `style`, where `color` holds.
pub(crate) fn paint(color: bool, style: Style, text: impl Display) -> String {
    let code = match style {
        Style::Bold => 1,
        Style::Green => 32,
        Style::Red => 31,
    };
    if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
}

/// Standard output.
#[derive(Debug)]
pub(crate) struct Output {
    color: bool,
    closed: bool,
}

impl Output {
    /// Coloured as `color` says.
    pub(crate) fn new(color: Color) -> Self {
        Output { color: color.applies(&std::io::stdout()), closed: false }
    }

    /// Whether it is coloured.
    pub(crate) fn color(&self) -> bool {
        self.color
    }

    /// Text as it is.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(error) => Err(Failure::failed(format!("standard output can't be written: {error}"))),
        }
    }

    /// Text and a line's end.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        self.text(&format!("{text}\n"))
    }

    /// A heading.
    pub(crate) fn heading(&mut self, text: impl Display) -> Result<(), Failure> {
        let text = paint(self.color, Style::Bold, text);
        self.line(text)
    }

    /// One JSON document.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Failure::failed(format!("internal error: no JSON: {error}")))?;
        self.line(text)
    }

    /// A table.
    pub(crate) fn table(&mut self, table: &Table) -> Result<(), Failure> {
        let text = table.render(self.color);
        self.text(&text)
    }
}

/// Columns that line up.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

impl Table {
    /// Without rows.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        Table { columns: columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect(), rows: vec![] }
    }

    /// Adds a row, one cell a column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn render(&self, color: bool) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).chain([&self.columns[column].0]);
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let cells = cells.iter().zip(&self.columns).zip(&widths).map(|((cell, (_, align)), &width)| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let names: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let mut text = if names.iter().all(String::is_empty) { String::new() } else { paint(color, Style::Bold, line(&names)) + "\n" };
        for row in &self.rows {
            text.push_str(&line(row));
            text.push('\n');
        }
        text
    }
}

/// A count with a space between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!((bytes(1023), bytes(1536), bytes(24 << 20)), ("1023 B".into(), "1.5 KiB".into(), "24.0 MiB".into()));
        assert_eq!((count(999), count(1000), count(1_234_567)), ("999".into(), "1 000".into(), "1 234 567".into()));
    }

    #[test]
    fn tables_line_up_and_end_without_spaces() {
        let mut table = Table::new(&[("name", Align::Left), ("n", Align::Right)]);
        table.row(["a".to_owned(), "100".to_owned()]);
        table.row(["longer".to_owned(), "5".to_owned()]);
        assert_eq!(table.render(false), "name      n\na       100\nlonger    5\n");
        let mut plain = Table::new(&[("", Align::Left), ("", Align::Left)]);
        plain.row(["a".to_owned(), String::new()]);
        assert_eq!(plain.render(true), "a\n");
    }
}
