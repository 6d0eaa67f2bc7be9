//! Arrays: `x_train`, `y_train`, `x_test` and `y_test` in an npz archive (NumPy) or a safetensors file.
//!
//! `x` is `[N, C, H, W]`, `[N, H, W]` or `[N, D]`: bytes, which stand for x / 255; floats; or integers of 32 or 64 bits, such as tokens, which are
//! taken as they are. `y` is `[N]` (or `[N, 1]`), integers from 0.

use super::{DataError, Dataset, Normalization, Pixels, Split};
use npyz::{NpyFile, Order, TypeChar};
use safetensors::{Dtype, SafeTensors};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Every array of a file, in the order that problems are told in.
const NAMES: [&str; 4] = ["x_train", "y_train", "x_test", "y_test"];
/// Integers up to this are exact as 32-bit floats.
const EXACT: i64 = 1 << 24;

/// Elements of an array, widened to one of three kinds.
enum Elements {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

/// An array as read.
struct Array {
    shape: Vec<usize>,
    elements: Elements,
}

/// What a file must hold, for messages.
const HOLDS: &str = "the file must hold x_train, y_train, x_test and y_test";

pub(super) fn load_npz(argument: &str) -> Result<Dataset, DataError> {
    let path = file("npz", "npz:FILE.npz", argument)?;
    let source = File::open(&path).map_err(|source| DataError::Io { path: path.clone(), source })?;
    let damaged = |error: zip::result::ZipError| DataError::Damaged { path: path.clone(), why: format!("no npz archive: {error}") };
    let mut archive = zip::ZipArchive::new(BufReader::new(source)).map_err(damaged)?;
    load("npz", &path, |name| {
        let entry = match archive.by_name(&format!("{name}.npy")) {
            Ok(entry) => entry,
            Err(zip::result::ZipError::FileNotFound) => return Err(missing(&path, name)),
            Err(error) => return Err(damaged(error)),
        };
        read_npy(&path, name, entry)
    })
}

pub(super) fn load_safetensors(argument: &str) -> Result<Dataset, DataError> {
    let path = file("safetensors", "safetensors:FILE.safetensors", argument)?;
    let bytes = std::fs::read(&path).map_err(|source| DataError::Io { path: path.clone(), source })?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|error| DataError::Damaged { path: path.clone(), why: format!("no safetensors file: {error}") })?;
    load("safetensors", &path, |name| {
        let tensor = tensors.tensor(name).map_err(|_| missing(&path, name))?;
        let data = tensor.data();
        let elements = match tensor.dtype() {
            Dtype::U8 => Elements::Bytes(data.to_vec()),
            Dtype::F32 => Elements::Floats(data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()),
            Dtype::F64 => Elements::Floats(data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect()),
            Dtype::I32 => Elements::Integers(data.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect()),
            Dtype::I64 => Elements::Integers(data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect()),
            other => return Err(element_type(&path, name, &format!("{other:?}"))),
        };
        Ok(Array { shape: tensor.shape().to_vec(), elements })
    })
}

fn file(format: &str, usage: &'static str, argument: &str) -> Result<PathBuf, DataError> {
    let path = PathBuf::from(argument);
    if argument.is_empty() {
        return Err(DataError::Spec { spec: format.to_owned(), why: "the path of a file is missing".to_owned(), usage });
    }
    if !path.is_file() {
        return Err(DataError::Missing { path, or: String::new(), fix: HOLDS.to_owned() });
    }
    Ok(path)
}

fn content(path: &Path, why: impl Into<String>, fix: impl Into<String>) -> DataError {
    DataError::Content { path: path.to_owned(), why: why.into(), fix: fix.into() }
}

fn missing(path: &Path, name: &str) -> DataError {
    content(path, format!("there is no array `{name}`"), HOLDS)
}

fn element_type(path: &Path, name: &str, found: &str) -> DataError {
    let why = format!("`{name}` has elements of type {found}");
    content(path, why, "store it as uint8, int32, int64, float32 or float64")
}

/// An array of an npz archive.
fn read_npy(path: &Path, name: &str, entry: impl Read) -> Result<Array, DataError> {
    let damaged = |error: std::io::Error| DataError::Damaged { path: path.to_owned(), why: format!("`{name}`: {error}") };
    let array = NpyFile::new(entry).map_err(damaged)?;
    let shape: Vec<usize> = array.shape().iter().map(|&extent| extent as usize).collect();
    if array.order() == Order::Fortran && shape.len() > 1 {
        let fix = "store it in C order: numpy.ascontiguousarray";
        return Err(content(path, format!("`{name}` is stored in Fortran order"), fix));
    }
    let kind = match array.dtype() {
        npyz::DType::Plain(kind) => kind,
        other => return Err(element_type(path, name, &other.descr())),
    };
    // Elements are taken as they come: a claimed length allocates nothing.
    macro_rules! elements {
        ($T:ty, $Kind:ident, $convert:expr) => {{
            let data = array.data::<$T>().map_err(|error| element_type(path, name, &error.to_string()))?;
            Elements::$Kind(data.map(|value| value.map($convert)).collect::<Result<Vec<_>, _>>().map_err(damaged)?)
        }};
    }
    let elements = match (kind.type_char(), kind.size_field()) {
        (TypeChar::Uint, 1) => elements!(u8, Bytes, |value| value),
        (TypeChar::Int, 4) => elements!(i32, Integers, i64::from),
        (TypeChar::Int, 8) => elements!(i64, Integers, |value| value),
        (TypeChar::Float, 4) => elements!(f32, Floats, |value| value),
        (TypeChar::Float, 8) => elements!(f64, Floats, |value| value as f32),
        _ => return Err(element_type(path, name, &kind.to_string())),
    };
    Ok(Array { shape, elements })
}

/// Reads the four arrays and tells everything that is wrong with them at once.
fn load(format: &str, path: &Path, mut read: impl FnMut(&str) -> Result<Array, DataError>) -> Result<Dataset, DataError> {
    let mut problems = Vec::new();
    let mut arrays = NAMES.map(|name| read(name).map_err(|problem| problems.push(problem)).ok());
    let [x_train, y_train, x_test, y_test] = &mut arrays;
    let mut examples = |x: &mut Option<Array>, name| x.take().and_then(|array| inputs(path, name, array, &mut problems));
    let (train_inputs, test_inputs) = (examples(x_train, NAMES[0]), examples(x_test, NAMES[2]));
    let mut targets = |y: &mut Option<Array>, name| y.take().and_then(|array| labels(path, name, &array, &mut problems));
    let (train_labels, test_labels) = (targets(y_train, NAMES[1]), targets(y_test, NAMES[3]));
    let pairs = [(&train_inputs, &train_labels, NAMES[0], NAMES[1]), (&test_inputs, &test_labels, NAMES[2], NAMES[3])];
    for (inputs, labels, x, y) in pairs {
        if let (Some(inputs), Some(labels)) = (inputs, labels)
            && inputs.examples != labels.len()
        {
            let why = format!("`{y}` has {} labels for the {} examples of `{x}`", labels.len(), inputs.examples);
            problems.push(content(path, why, "one label an example is needed"));
        }
    }
    if let (Some(train), Some(test)) = (&train_inputs, &test_inputs)
        && train.dims != test.dims
    {
        let why = format!("examples of `x_test` are {:?}, those of `x_train` {:?}", test.dims, train.dims);
        problems.push(content(path, why, "both need the same extents"));
    }
    let classes = train_labels.as_ref().and_then(|labels| labels.iter().max()).map_or(0, |&label| label as usize + 1);
    if let Some(position) = test_labels.as_ref().and_then(|labels| labels.iter().position(|&label| label as usize >= classes))
        && train_labels.is_some()
    {
        let why = format!(
            "`y_test`[{position}] is {}, but the labels of `y_train` end at {}",
            test_labels.iter().flatten().nth(position).unwrap_or(&0),
            classes.saturating_sub(1)
        );
        problems.push(content(path, why, "every class must be trained on"));
    }
    DataError::all(path, problems)?;
    let (Some(train), Some(test), Some(train_labels), Some(test_labels)) = (train_inputs, test_inputs, train_labels, test_labels) else {
        return Err(missing(path, NAMES[0]));
    };
    let dims = train.dims;
    // Tokens and other integers mean what they are.
    let normalization = if train.integers { Normalization::new(vec![0.0], vec![1.0]) } else { Normalization::measure(&train.pixels, dims) };
    Ok(Dataset {
        name: format.to_owned(),
        dims,
        classes,
        train: Split { pixels: train.pixels, labels: train_labels },
        validation: None,
        test: Split { pixels: test.pixels, labels: test_labels },
        normalization,
        augmentations: &[],
    })
}

/// Examples of a split.
struct Inputs {
    examples: usize,
    dims: [usize; 3],
    pixels: Pixels,
    integers: bool,
}

fn inputs(path: &Path, name: &str, array: Array, problems: &mut Vec<DataError>) -> Option<Inputs> {
    let dims = match array.shape[..] {
        [_, channels, rows, width] => [channels, rows, width],
        [_, rows, width] => [1, rows, width],
        [_, features] => [1, 1, features],
        _ => {
            let why = format!("`{name}` is {:?}", array.shape);
            problems.push(content(path, why, "[N, C, H, W], [N, H, W] or [N, D] is needed"));
            return None;
        }
    };
    let examples = array.shape[0];
    if array.shape.contains(&0) || u32::try_from(examples).is_err() {
        problems.push(content(path, format!("`{name}` is {:?}", array.shape), "at least one example, and fewer than 2^32, are needed"));
        return None;
    }
    let (pixels, integers) = match array.elements {
        Elements::Bytes(bytes) => (Pixels::U8(bytes), false),
        Elements::Floats(values) => {
            if let Some(position) = values.iter().position(|value| !value.is_finite()) {
                let why = format!("`{name}`{:?} is {}", index(&array.shape, position), values[position]);
                problems.push(content(path, why, "every value must be a finite number"));
                return None;
            }
            (Pixels::F32(values), false)
        }
        Elements::Integers(values) => {
            if let Some(position) = values.iter().position(|&value| value.abs() > EXACT) {
                let why = format!("`{name}`{:?} is {}", index(&array.shape, position), values[position]);
                problems.push(content(path, why, format!("integers up to {EXACT} are taken")));
                return None;
            }
            (Pixels::F32(values.into_iter().map(|value| value as f32).collect()), true)
        }
    };
    Some(Inputs { examples, dims, pixels, integers })
}

/// Where element `position` of an array of `shape` stands.
fn index(shape: &[usize], mut position: usize) -> Vec<usize> {
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&extent| {
            let place = position % extent;
            position /= extent;
            place
        })
        .collect();
    index.reverse();
    index
}

fn labels(path: &Path, name: &str, array: &Array, problems: &mut Vec<DataError>) -> Option<Vec<u32>> {
    if !matches!(array.shape[..], [_] | [_, 1]) {
        problems.push(content(path, format!("`{name}` is {:?}", array.shape), "[N] is needed: a class index an example"));
        return None;
    }
    let values: Vec<i64> = match &array.elements {
        Elements::Bytes(bytes) => bytes.iter().map(|&label| label.into()).collect(),
        Elements::Integers(values) => values.clone(),
        Elements::Floats(_) => {
            problems.push(content(path, format!("`{name}` holds floats"), "store class indices as integers"));
            return None;
        }
    };
    if let Some(position) = values.iter().position(|&label| !(0..EXACT).contains(&label)) {
        let why = format!("`{name}`[{position}] is {}", values[position]);
        problems.push(content(path, why, "labels are class indices from 0"));
        return None;
    }
    Some(values.into_iter().map(|label| label as u32).collect())
}

#[cfg(test)]
mod tests;
