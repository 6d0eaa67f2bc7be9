//! Augmentations: where each pixel of an example comes from and what becomes of its value, drawn by counter from (seed, epoch, example).

use crate::random::{Purpose, bits};
use crate::recipe::choice::choice;

choice! {
    /// A random change of a training example. What moves pixels comes before what changes values, erasing last, in whatever order they are named.
    pub enum Augmentation ("augmentation") {
        /// Four zeros around the example, then a crop of its extents at a random place.
        Crop4 = "crop4",
        /// Left and right exchanged, half of the time.
        HorizontalFlip = "hflip",
        /// Top and bottom exchanged, half of the time.
        VerticalFlip = "vflip",
        /// Turned about its centre by up to 15 degrees either way; zeros where nothing was.
        Rotate15 = "rotate15",
        /// Values times 0.6 to 1.4.
        Brightness = "brightness",
        /// Differences from the example's mean times 0.6 to 1.4.
        Contrast = "contrast",
        /// A rectangle set to zero, half of the time: an eighth to a half of the rows by an eighth to a half of the columns.
        Erase = "erase",
    }
}

const PADDING: i32 = 4;
/// 15 degrees.
const LARGEST_ANGLE: f32 = 0.261_799_4;
/// Most by which brightness and contrast differ from 1.
const LARGEST_CHANGE: f32 = 0.4;
/// Parts of the unit interval that are drawn from.
const STEPS: f32 = (1 << 24) as f32;

/// A drawn change of place: a pixel at (row, column) is the example's pixel at (row + rows, column + columns), columns counted from the right where
/// `flip`, rows from below where `upside_down`; zero outside of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift {
    /// Rows downwards.
    pub rows: i32,
    /// Columns to the right, before the flip.
    pub columns: i32,
    /// Whether columns are mirrored.
    pub flip: bool,
    /// Whether rows are.
    pub upside_down: bool,
}

impl Shift {
    /// The source of (`row`, `column`) in a plane of `rows` x `width`, if it lies inside.
    pub fn source(self, row: usize, column: usize, rows: usize, width: usize) -> Option<usize> {
        let (row, column) = self.mirrored(row, column, rows, width);
        let row = row.checked_add_signed(self.rows as isize).filter(|&row| row < rows)?;
        let column = column.checked_add_signed(self.columns as isize).filter(|&column| column < width)?;
        Some(row * width + column)
    }

    fn mirrored(self, row: usize, column: usize, rows: usize, width: usize) -> (usize, usize) {
        (if self.upside_down { rows - 1 - row } else { row }, if self.flip { width - 1 - column } else { column })
    }
}

/// What is drawn for one example of one epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Crop and flips.
    pub shift: Shift,
    /// Radians, from rows to columns; 0 for none.
    pub angle: f32,
    /// Factor of values; 1 for none.
    pub brightness: f32,
    /// Factor of differences from the mean; 1 for none.
    pub contrast: f32,
    /// Height, width and place of what is erased, as shares of the extents (of what is left of them, for the place); `None` for nothing.
    pub erased: Option<[f32; 4]>,
}

impl Default for Change {
    fn default() -> Self {
        Change { shift: Shift::default(), angle: 0.0, brightness: 1.0, contrast: 1.0, erased: None }
    }
}

impl Change {
    /// Draws for one example; an augmentation draws the same whichever others there are.
    pub fn draw(augmentations: &[Augmentation], seed: u64, epoch: usize, example: u32) -> Self {
        // Draw 0 belongs to crop and horizontal flip, draw n to the n-th other augmentation.
        let drawn = |number: u64| bits(seed, Purpose::Augment, epoch as u64, u64::from(example) | number << 32);
        let offset = |part: u64| (((part & 0xff_ffff) * (2 * PADDING as u64 + 1)) >> 24) as i32 - PADDING;
        // Each part of a draw gives a number from 0 to below 1.
        let uniform = |part: u64| (part & 0xff_ffff) as f32 / STEPS;
        let factor = |number: u64| 1.0 + LARGEST_CHANGE * (2.0 * uniform(drawn(number)) - 1.0);
        let mut change = Change::default();
        for augmentation in augmentations {
            match augmentation {
                Augmentation::Crop4 => (change.shift.rows, change.shift.columns) = (offset(drawn(0)), offset(drawn(0) >> 24)),
                Augmentation::HorizontalFlip => change.shift.flip = drawn(0) >> 63 == 1,
                Augmentation::VerticalFlip => change.shift.upside_down = drawn(1) >> 63 == 1,
                Augmentation::Rotate15 => change.angle = LARGEST_ANGLE * (2.0 * uniform(drawn(2)) - 1.0),
                Augmentation::Brightness => change.brightness = factor(3),
                Augmentation::Contrast => change.contrast = factor(4),
                Augmentation::Erase => {
                    let (extents, place) = (drawn(5), drawn(6));
                    let share = |part: u64| 0.125 + 0.375 * uniform(part);
                    let rectangle = [share(extents), share(extents >> 24), uniform(place), uniform(place >> 24)];
                    change.erased = (extents >> 63 == 1).then_some(rectangle);
                }
            }
        }
        change
    }

    /// Whether every pixel is one of the example's as it was, or zero.
    pub fn only_moves(&self) -> bool {
        *self == Change { shift: self.shift, ..Change::default() }
    }

    /// Changes the planes of an example, `[channel][row][column]` each of `rows` x `width`, into `target`. Values are limited to 0 ..= `limit`, where
    /// there is one, as stored bytes are.
    pub fn apply(&self, source: &[f32], target: &mut [f32], [rows, width]: [usize; 2], limit: Option<f32>) {
        let area = rows * width;
        let (sine, cosine) = (sine(self.angle), cosine(self.angle));
        for (source, target) in source.chunks_exact(area).zip(target.chunks_exact_mut(area)) {
            for (position, target) in target.iter_mut().enumerate() {
                let (row, column) = (position / width, position % width);
                *target = if self.angle == 0.0 {
                    self.shift.source(row, column, rows, width).map_or(0.0, |from| source[from])
                } else {
                    let (row, column) = self.shift.mirrored(row, column, rows, width);
                    let (centre_row, centre_column) = ((rows - 1) as f32 / 2.0, (width - 1) as f32 / 2.0);
                    let (down, right) = (row as f32 - centre_row, column as f32 - centre_column);
                    let row = centre_row + cosine * down + sine * right + self.shift.rows as f32;
                    let column = centre_column - sine * down + cosine * right + self.shift.columns as f32;
                    between(source, row, column, rows, width)
                };
            }
        }
        if self.brightness != 1.0 {
            target.iter_mut().for_each(|value| *value *= self.brightness);
        }
        if self.contrast != 1.0 {
            let mean = (target.iter().map(|&value| f64::from(value)).sum::<f64>() / target.len().max(1) as f64) as f32;
            target.iter_mut().for_each(|value| *value = mean + self.contrast * (*value - mean));
        }
        if let Some(limit) = limit {
            target.iter_mut().for_each(|value| *value = value.clamp(0.0, limit));
        }
        if let Some([height, breadth, top, left]) = self.erased {
            let span = |extent: usize, share: f32, at: f32| {
                let length = ((extent as f32 * share) as usize).clamp(1, extent);
                let start = ((extent - length + 1) as f32 * at) as usize;
                start..start + length
            };
            let (down, right) = (span(rows, height, top), span(width, breadth, left));
            for plane in target.chunks_exact_mut(area) {
                down.clone().for_each(|row| plane[row * width..][right.clone()].fill(0.0));
            }
        }
    }
}

/// The value between the four pixels around a place; those outside are zero.
fn between(plane: &[f32], row: f32, column: f32, rows: usize, width: usize) -> f32 {
    let (top, left) = (row.floor(), column.floor());
    let (down, right) = (row - top, column - left);
    let pixel = |row: f32, column: f32| {
        let inside = row >= 0.0 && column >= 0.0 && row < rows as f32 && column < width as f32;
        if inside { plane[row as usize * width + column as usize] } else { 0.0 }
    };
    let upper = pixel(top, left) + right * (pixel(top, left + 1.0) - pixel(top, left));
    let lower = pixel(top + 1.0, left) + right * (pixel(top + 1.0, left + 1.0) - pixel(top + 1.0, left));
    upper + down * (lower - upper)
}

// A system's own sine may differ from another's in the last bit; these are exact enough up to 15 degrees, and the same everywhere.

fn sine(x: f32) -> f32 {
    let square = x * x;
    x * (1.0 - square / 6.0 * (1.0 - square / 20.0 * (1.0 - square / 42.0)))
}

fn cosine(x: f32) -> f32 {
    let square = x * x;
    1.0 - square / 2.0 * (1.0 - square / 12.0 * (1.0 - square / 30.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Augmentation; 2] = [Augmentation::Crop4, Augmentation::HorizontalFlip];

    fn all() -> Vec<Augmentation> {
        Augmentation::NAMES.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn the_same_key_draws_the_same_and_others_differ() {
        let draw = |seed, epoch| (0..64).map(|example| Change::draw(&all(), seed, epoch, example)).collect::<Vec<_>>();
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn every_crop_and_flip_is_about_as_frequent() {
        let mut counts = std::collections::HashMap::new();
        for example in 0..16_200 {
            let shift = Change::draw(&BOTH, 3, 0, example).shift;
            *counts.entry((shift.rows, shift.columns, shift.flip)).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 162);
        assert!(counts.values().all(|&count| (50..=160).contains(&count)), "{counts:?}");
        assert!(counts.keys().all(|&(rows, columns, _)| rows.abs() <= 4 && columns.abs() <= 4));
    }

    #[test]
    fn what_is_not_asked_for_does_not_happen() {
        assert!((0..100).all(|example| Change::draw(&[], 0, 0, example) == Change::default()));
        for (i, one) in all().into_iter().enumerate() {
            for example in 0..20 {
                let (alone, together) = (Change::draw(&[one], 0, 0, example), Change::draw(&all(), 0, 0, example));
                let neutral = Change::default();
                let kept = match i {
                    0 => (alone.shift.rows, alone.shift.columns) == (together.shift.rows, together.shift.columns),
                    1 => alone.shift.flip == together.shift.flip,
                    2 => alone.shift.upside_down == together.shift.upside_down,
                    3 => alone.angle == together.angle,
                    4 => alone.brightness == together.brightness,
                    5 => alone.contrast == together.contrast,
                    _ => alone.erased == together.erased,
                };
                assert!(kept && (i == 4 || alone.brightness == neutral.brightness) && (i == 6 || alone.erased.is_none()), "{one}");
            }
        }
    }

    #[test]
    fn draws_fill_their_ranges() {
        let changes: Vec<Change> = (0..4000).map(|example| Change::draw(&all(), 9, 1, example)).collect();
        let range = |of: fn(&Change) -> f32| {
            changes.iter().map(of).fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
        };
        for ((low, high), (least, most)) in [
            (range(|c| c.angle), (-LARGEST_ANGLE, LARGEST_ANGLE)),
            (range(|c| c.brightness), (0.6, 1.4)),
            (range(|c| c.contrast), (0.6, 1.4)),
        ] {
            let slack = (most - least) / 100.0;
            assert!(low >= least && low < least + slack && high <= most && high > most - slack, "{low} to {high}");
        }
        for happened in [|c: &Change| c.erased.is_some(), |c: &Change| c.shift.upside_down] {
            let count = changes.iter().filter(|change| happened(change)).count();
            assert!((1870..=2130).contains(&count), "{count}");
        }
    }

    #[test]
    fn sources_shift_mirror_and_fall_outside() {
        let shift = Shift { rows: 1, columns: -1, flip: true, upside_down: false };
        // Width 4: column 0 mirrors to 3, then moves to 2; row 0 reads row 1.
        assert_eq!(shift.source(0, 0, 3, 4), Some(4 + 2));
        assert_eq!(shift.source(0, 3, 3, 4), None);
        assert_eq!(shift.source(2, 0, 3, 4), None);
        let turned = Shift { rows: 0, columns: 0, flip: false, upside_down: true };
        assert_eq!(turned.source(0, 1, 3, 4), Some(2 * 4 + 1));
    }

    #[test]
    fn a_quarter_of_a_turn_would_exchange_rows_and_columns() {
        // The polynomials hold beyond 15 degrees to a few digits: enough to see the direction.
        let change = Change { angle: std::f32::consts::FRAC_PI_2, ..Change::default() };
        let plane: Vec<f32> = (0..9).map(|i| i as f32).collect();
        let mut turned = vec![0.0; 9];
        change.apply(&plane, &mut turned, [3, 3], None);
        for (position, got) in turned.iter().enumerate() {
            let wanted = plane[(position % 3) * 3 + (2 - position / 3)];
            assert!((got - wanted).abs() < 0.05, "{turned:?}");
        }
        assert!((sine(0.2) - 0.2f32.sin()).abs() < 1e-7 && (cosine(0.2) - 0.2f32.cos()).abs() < 1e-7);
    }

    #[test]
    fn values_are_scaled_limited_and_erased() {
        let plane = [0.0, 100.0, 200.0, 100.0];
        let changed = |change: Change, limit| {
            let mut target = [0.0; 4];
            change.apply(&plane, &mut target, [2, 2], limit);
            target
        };
        assert_eq!(changed(Change { brightness: 1.4, ..Change::default() }, Some(255.0)), [0.0, 140.0, 255.0, 140.0]);
        assert_eq!(changed(Change { brightness: 1.5, ..Change::default() }, None), [0.0, 150.0, 300.0, 150.0]);
        assert_eq!(changed(Change { contrast: 0.5, ..Change::default() }, None), [50.0, 100.0, 150.0, 100.0]);
        assert_eq!(changed(Change { erased: Some([0.5, 0.5, 0.99, 0.0]), ..Change::default() }, None), [0.0, 100.0, 0.0, 100.0]);
    }
}
