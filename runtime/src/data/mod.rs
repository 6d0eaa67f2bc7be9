//! Data sets: one file a format, and the table of [`FORMATS`] that turns a SPEC into a [`Dataset`].
//!
//! Examples stay as they are stored (bytes, mostly); [`loader`] augments and normalises them one batch ahead of the step.

#[cfg(feature = "arrays")]
mod arrays;
pub mod augment;
mod cifar;
mod digits;
mod error;
mod file;
mod idx;
#[cfg(feature = "images")]
mod image_cache;
#[cfg(feature = "images")]
mod images;
pub mod loader;
mod normalization;
mod synthetic;

pub use augment::Augmentation;
pub use error::DataError;
pub use normalization::{Normalization, ParseNormalizationError};

use crate::random::{Purpose, Stream};
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

    /// Moves the marked examples, of `elements` values each, into a split of their own; both keep their order.
    fn extract(&mut self, marked: &[bool], elements: usize) -> Split {
        fn part<T: Copy>(values: &mut Vec<T>, marked: &[bool], elements: usize) -> Vec<T> {
            let (mut taken, mut kept) = (Vec::new(), 0);
            for (example, &marked) in marked.iter().enumerate() {
                let range = example * elements..(example + 1) * elements;
                if marked {
                    taken.extend_from_slice(&values[range]);
                } else {
                    values.copy_within(range, kept);
                    kept += elements;
                }
            }
            values.truncate(kept);
            values.shrink_to_fit();
            taken
        }
        let pixels = match &mut self.pixels {
            Pixels::U8(bytes) => Pixels::U8(part(bytes, marked, elements)),
            Pixels::F32(values) => Pixels::F32(part(values, marked, elements)),
        };
        Split { pixels, labels: part(&mut self.labels, marked, 1) }
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
    /// What [`Dataset::hold_out`] has taken from it.
    pub validation: Option<Split>,
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
    load: Load,
}

type Load = fn(&str) -> Result<Dataset, DataError>;

#[cfg(feature = "images")]
const IMAGES: Load = images::load;
#[cfg(not(feature = "images"))]
const IMAGES: Load = |_| Err(DataError::Feature { format: "images", feature: "images" });
#[cfg(feature = "arrays")]
const ARRAYS: [Load; 2] = [arrays::load_npz, arrays::load_safetensors];
#[cfg(not(feature = "arrays"))]
const ARRAYS: [Load; 2] = [
    |_| Err(DataError::Feature { format: "npz", feature: "arrays" }),
    |_| Err(DataError::Feature { format: "safetensors", feature: "arrays" }),
];

/// Every format there is.
pub const FORMATS: &[Format] = &[
    Format { prefix: "digits", usage: "digits", load: digits::load },
    Format { prefix: "idx", usage: "idx:DIR", load: idx::load },
    Format { prefix: "cifar10", usage: "cifar10:FILE_OR_DIR", load: cifar::load_cifar10 },
    Format { prefix: "cifar100", usage: "cifar100:FILE_OR_DIR", load: cifar::load_cifar100 },
    Format { prefix: "images", usage: "images:DIR[:CxHxW]", load: IMAGES },
    Format { prefix: "npz", usage: "npz:FILE", load: ARRAYS[0] },
    Format { prefix: "safetensors", usage: "safetensors:FILE", load: ARRAYS[1] },
    Format { prefix: "synthetic", usage: "synthetic:CxHxW:CLASSES:N", load: synthetic::load },
];

/// A SPEC, with the extents that a model takes where it names examples that can be brought to any: a folder of images.
///
/// ```
/// # use mest_runtime::data::sized;
/// assert_eq!(sized("images:photos:3x32x32", [3, 64, 64]), "images:photos:3x32x32");
/// assert_eq!(sized("digits", [3, 64, 64]), "digits");
/// ```
pub fn sized(spec: &str, dims: [usize; 3]) -> String {
    #[cfg(feature = "images")]
    return images::sized(spec, dims);
    #[cfg(not(feature = "images"))]
    {
        let _ = dims;
        spec.to_owned()
    }
}

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

    /// Takes a share of every class out of the training split, to be measured on while training; which examples follows from the seed alone.
    /// A class keeps an example to train on, if it has any.
    pub fn hold_out(&mut self, share: f64, seed: u64) {
        let labels = &self.train.labels;
        let mut held = vec![false; labels.len()];
        for class in 0..self.classes as u32 {
            let mut members: Vec<usize> = (0..labels.len()).filter(|&example| labels[example] == class).collect();
            Stream::new(seed, Purpose::Split, class.into()).shuffle(&mut members);
            let count = (members.len() as f64 * share).round() as usize;
            members.iter().take(count.min(members.len().saturating_sub(1))).for_each(|&example| held[example] = true);
        }
        let elements = self.elements();
        self.validation = Some(self.train.extract(&held, elements));
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
    fn what_is_held_out_is_a_share_of_every_class_and_nothing_is_lost() {
        let whole = Dataset::load("digits").unwrap();
        let mut data = whole.clone();
        data.hold_out(0.1, 7);
        let validation = data.validation.clone().unwrap();
        assert_eq!(data.train.len() + validation.len(), whole.train.len());
        for class in 0..10 {
            let count = |split: &Split| split.labels.iter().filter(|&&label| label == class).count() as f64;
            assert!((count(&validation) / count(&whole.train) - 0.1).abs() < 0.01, "class {class}");
        }
        let examples = |split: &Split| -> Vec<(Vec<u8>, u32)> {
            let Pixels::U8(bytes) = &split.pixels else { panic!("digits are bytes") };
            bytes.chunks(64).map(<[u8]>::to_vec).zip(split.labels.iter().copied()).collect()
        };
        let (mut together, mut before) = ([examples(&data.train), examples(&validation)].concat(), examples(&whole.train));
        together.sort();
        before.sort();
        assert_eq!(together, before);
        let mut again = whole.clone();
        again.hold_out(0.1, 7);
        assert_eq!(again, data);
        again = whole;
        again.hold_out(0.1, 8);
        assert_ne!(again.validation, data.validation);
    }

    #[test]
    fn a_missing_path_is_asked_for() {
        for spec in ["idx", "cifar10:", "cifar100"] {
            let error = Dataset::load(spec).unwrap_err().to_string();
            assert!(error.contains("path"), "{spec}: {error}");
        }
    }
}
