//! Data sets: one file a format, and the table of [`FORMATS`] that turns a SPEC into a [`Dataset`].
//!
//! Examples stay as they are stored (bytes, mostly); [`loader`] augments and normalises them one batch ahead of the step.

pub mod augment;
mod cifar;
mod digits;
mod error;
mod file;
mod idx;
pub mod loader;
mod normalization;
mod synthetic;

pub use augment::Augmentation;
pub use error::DataError;
pub use normalization::{Normalization, ParseNormalizationError};

use crate::recipe::nearest;

/// Values of examples, `[example][channel][row][column]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Pixels {
    /// Bytes; a byte `x` stands for `x / 255`.
    U8(Vec<u8>),
    /// Values as they are.
    F32(Vec<f32>),
}

/// Examples and their classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Their values.
    pub pixels: Pixels,
    /// A class index an example.
    pub labels: Vec<u32>,
}

impl Split {
    /// Number of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Tells its content from any other: the CRC-32 of the values and that of the labels.
    pub fn fingerprint(&self) -> u64 {
        let (mut values, mut labels) = (flate2::Crc::new(), flate2::Crc::new());
        match &self.pixels {
            Pixels::U8(bytes) => values.update(bytes),
            Pixels::F32(floats) => floats.iter().for_each(|value| values.update(&value.to_le_bytes())),
        }
        self.labels.iter().for_each(|label| labels.update(&label.to_le_bytes()));
        u64::from(values.sum()) << 32 | u64::from(labels.sum())
    }
}

/// A training and a test split of labelled examples that share their extents.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The SPEC's name: `digits`, `cifar10`, ...
    pub name: String,
    /// Channels, rows and columns of an example.
    pub dims: [usize; 3],
    /// Number of classes; every label is below it.
    pub classes: usize,
    /// What is learned from.
    pub train: Split,
    /// What accuracy is measured on, in the order of its file.
    pub test: Split,
    /// Used unless the recipe says otherwise.
    pub normalization: Normalization,
    /// Used unless the recipe says otherwise.
    pub augmentations: &'static [Augmentation],
}

/// One way to write a SPEC: `prefix` alone, or `prefix:argument`.
#[derive(Debug)]
pub struct Format {
    /// What the SPEC begins with.
    pub prefix: &'static str,
    /// The SPEC in full, for help texts.
    pub usage: &'static str,
    load: fn(&str) -> Result<Dataset, DataError>,
}

/// Every format there is.
pub const FORMATS: &[Format] = &[
    Format { prefix: "digits", usage: "digits", load: digits::load },
    Format { prefix: "idx", usage: "idx:DIR", load: idx::load },
    Format { prefix: "cifar10", usage: "cifar10:FILE_OR_DIR", load: cifar::load_cifar10 },
    Format { prefix: "cifar100", usage: "cifar100:FILE_OR_DIR", load: cifar::load_cifar100 },
    Format { prefix: "synthetic", usage: "synthetic:CxHxW:CLASSES:N", load: synthetic::load },
];

/// The format of a SPEC and its argument (empty where there is none).
///
/// # Errors
/// [`DataError::Format`] names the nearest format where the SPEC has none.
pub fn format(spec: &str) -> Result<(&'static Format, &str), DataError> {
    let (prefix, argument) = spec.split_once(':').unwrap_or((spec, ""));
    match FORMATS.iter().find(|format| format.prefix == prefix) {
        Some(format) => Ok((format, argument)),
        None => {
            let nearest = nearest::nearest(prefix, FORMATS.iter().map(|format| format.prefix));
            let usage = FORMATS.iter().find(|format| Some(format.prefix) == nearest).map_or("digits", |format| format.usage);
            let known = FORMATS.iter().map(|format| format.usage).collect::<Vec<_>>().join(", ");
            Err(DataError::Format { spec: spec.to_owned(), nearest: usage, known })
        }
    }
}

impl Dataset {
    /// Loads the data set that a SPEC names, such as `digits` or `idx:data/mnist`.
    ///
    /// # Errors
    /// Every problem of SPEC or files, naming the file and the way out.
    ///
    /// ```
    /// let digits = mest_runtime::data::Dataset::load("digits")?;
    /// assert_eq!((digits.dims, digits.classes), ([1, 8, 8], 10));
    /// # Ok::<(), mest_runtime::data::DataError>(())
    /// ```
    pub fn load(spec: &str) -> Result<Self, DataError> {
        let (format, argument) = format(spec)?;
        (format.load)(argument)
    }

    /// Values of one example.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_format_names_the_nearest() {
        let error = Dataset::load("cifar-10:x").unwrap_err().to_string();
        assert!(error.contains("cifar-10:x") && error.contains("did you mean cifar10:FILE_OR_DIR"), "{error}");
        assert!(error.contains("idx:DIR") && error.contains("synthetic:"), "{error}");
    }

    #[test]
    fn a_missing_path_is_asked_for() {
        for spec in ["idx", "cifar10:", "cifar100"] {
            let error = Dataset::load(spec).unwrap_err().to_string();
            assert!(error.contains("path"), "{spec}: {error}");
        }
    }
}
