//! Augmentations: where each pixel of an example comes from, drawn by counter from (seed, epoch, example).

use crate::random::{Purpose, bits};
use crate::recipe::choice::choice;

choice! {
    /// A random change of a training example.
    pub enum Augmentation ("augmentation") {
        /// Four zeros around the example, then a crop of its extents at a random place.
        Crop4 = "crop4",
        /// Left and right exchanged, half of the time.
        HorizontalFlip = "hflip",
    }
}

const PADDING: i32 = 4;

/// A drawn augmentation: a pixel at (row, column) is the example's pixel at (row + rows, column + columns), columns counted from the right where
/// `flip`; zero outside of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift {
    /// Rows downwards.
    pub rows: i32,
    /// Columns to the right, before the flip.
    pub columns: i32,
    /// Whether columns are mirrored.
    pub flip: bool,
}

impl Shift {
    /// Draws for one example; an augmentation draws the same whichever others there are.
    pub fn draw(augmentations: &[Augmentation], seed: u64, epoch: usize, example: u32) -> Self {
        let drawn = bits(seed, Purpose::Augment, epoch as u64, example.into());
        let offset = |part: u64| (((part & 0xff_ffff) * (2 * PADDING as u64 + 1)) >> 24) as i32 - PADDING;
        let mut shift = Shift::default();
        for augmentation in augmentations {
            match augmentation {
                Augmentation::Crop4 => (shift.rows, shift.columns) = (offset(drawn), offset(drawn >> 24)),
                Augmentation::HorizontalFlip => shift.flip = drawn >> 63 == 1,
            }
        }
        shift
    }

    /// The source of (`row`, `column`) in a plane of `rows` x `width`, if it lies inside.
    pub fn source(self, row: usize, column: usize, rows: usize, width: usize) -> Option<usize> {
        let column = if self.flip { width - 1 - column } else { column };
        let row = row.checked_add_signed(self.rows as isize).filter(|&row| row < rows)?;
        let column = column.checked_add_signed(self.columns as isize).filter(|&column| column < width)?;
        Some(row * width + column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Augmentation; 2] = [Augmentation::Crop4, Augmentation::HorizontalFlip];

    #[test]
    fn the_same_key_draws_the_same_and_others_differ() {
        let draw = |seed, epoch| (0..64).map(|example| Shift::draw(&BOTH, seed, epoch, example)).collect::<Vec<_>>();
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn every_crop_and_flip_is_about_as_frequent() {
        let mut counts = std::collections::HashMap::new();
        for example in 0..16_200 {
            let shift = Shift::draw(&BOTH, 3, 0, example);
            *counts.entry((shift.rows, shift.columns, shift.flip)).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 162);
        assert!(counts.values().all(|&count| (50..=160).contains(&count)), "{counts:?}");
        assert!(counts.keys().all(|&(rows, columns, _)| rows.abs() <= 4 && columns.abs() <= 4));
    }

    #[test]
    fn what_is_not_asked_for_does_not_happen() {
        assert!((0..100).all(|example| Shift::draw(&[], 0, 0, example) == Shift::default()));
        assert!((0..100).all(|example| !Shift::draw(&[Augmentation::Crop4], 0, 0, example).flip));
    }

    #[test]
    fn sources_shift_mirror_and_fall_outside() {
        let shift = Shift { rows: 1, columns: -1, flip: true };
        // Width 4: column 0 mirrors to 3, then moves to 2; row 0 reads row 1.
        assert_eq!(shift.source(0, 0, 3, 4), Some(4 + 2));
        assert_eq!(shift.source(0, 3, 3, 4), None);
        assert_eq!(shift.source(2, 0, 3, 4), None);
    }
}
