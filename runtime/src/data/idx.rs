//! MNIST's IDX files, as published: big-endian magic and extents, then bytes.

use super::{DataError, Dataset, Normalization, Pixels, Split, file};
use std::io::Read;
use std::path::{Path, PathBuf};

const IMAGES: u32 = 0x0803;
const LABELS: u32 = 0x0801;
/// What a digit or a piece of clothing is one of; more where the labels say so.
const LEAST_CLASSES: usize = 10;

pub(super) fn load(argument: &str) -> Result<Dataset, DataError> {
    if argument.is_empty() {
        let why = "the path of a folder is missing".to_owned();
        return Err(DataError::Spec { spec: "idx".to_owned(), why, usage: "idx:DIR" });
    }
    let folder = Path::new(argument);
    let (train_extents, train) = load_split(folder, "train")?;
    let (test_extents, test) = load_split(folder, "t10k")?;
    if train_extents != test_extents {
        let why = format!("images are {test_extents:?}, those of the training split {train_extents:?}");
        return Err(DataError::Content { path: folder.join("t10k-images-idx3-ubyte"), why, fix: "take both from one data set".to_owned() });
    }
    let seen = train.labels.iter().max().map_or(0, |&label| label as usize + 1);
    let classes = seen.max(LEAST_CLASSES);
    if let Some(position) = test.labels.iter().position(|&label| label as usize >= classes) {
        let why = format!("label {position} is {}, but the training split's end at {}", test.labels[position], classes - 1);
        return Err(DataError::Content { path: folder.join("t10k-labels-idx1-ubyte"), why, fix: "take both from one data set".to_owned() });
    }
    let dims = [1, train_extents[0], train_extents[1]];
    let normalization = Normalization::measure(&train.pixels, dims);
    Ok(Dataset { name: "idx".to_owned(), dims, classes, train, validation: None, test, normalization, augmentations: &[] })
}

/// Rows and columns, and the examples, of the files that begin with `prefix`.
fn load_split(folder: &Path, prefix: &str) -> Result<([usize; 2], Split), DataError> {
    let images = find(folder, &format!("{prefix}-images"), "idx3-ubyte")?;
    let labels = find(folder, &format!("{prefix}-labels"), "idx1-ubyte")?;
    let ([count, rows, columns], pixels) = read::<3>(&images, IMAGES)?;
    let ([labelled], classes) = read::<1>(&labels, LABELS)?;
    if count != labelled {
        let why = format!("{labelled} labels for the {count} images of {}", images.display());
        return Err(DataError::Content { path: labels, why, fix: "take both from one data set".to_owned() });
    }
    if count * rows * columns == 0 {
        let why = format!("{count} images of {rows}x{columns} hold nothing");
        return Err(DataError::Content { path: images, why, fix: "at least one image is needed".to_owned() });
    }
    Ok(([rows, columns], Split { pixels: Pixels::U8(pixels), labels: classes.into_iter().map(u32::from).collect() }))
}

/// The file as it is published, or unpacked, or with a dot in its name as some tools write it.
fn find(folder: &Path, stem: &str, kind: &str) -> Result<PathBuf, DataError> {
    let names = [format!("{stem}-{kind}"), format!("{stem}-{kind}.gz"), format!("{stem}.{kind}"), format!("{stem}.{kind}.gz")];
    let found = names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| DataError::Missing {
        path: folder.join(&names[0]),
        or: format!(" (nor {})", names[1..].join(", ")),
        fix: "put the four published files of the data set there".to_owned(),
    })
}

/// Extents and bytes of an IDX file of `N` extents.
fn read<const N: usize>(path: &Path, magic: u32) -> Result<([usize; N], Vec<u8>), DataError> {
    let mut source = file::open(path)?;
    let mut word = || -> Result<u32, DataError> {
        let mut bytes = [0; 4];
        source.read_exact(&mut bytes).map_err(|error| file::failure(path, error))?;
        Ok(u32::from_be_bytes(bytes))
    };
    let found = word()?;
    if found != magic {
        let why = format!("begins with {found:#010x}, not {magic:#010x}");
        let fix = format!("it must be an IDX file of bytes with {N} extents, gzipped only where its name ends in .gz");
        return Err(DataError::Content { path: path.to_owned(), why, fix });
    }
    let mut extents = [0; N];
    for extent in &mut extents {
        *extent = word()? as usize;
    }
    let claimed = extents.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
    let backed = claimed.filter(|&bytes| bytes as u64 <= source.most).ok_or_else(|| DataError::Damaged {
        path: path.to_owned(),
        why: format!("claims {extents:?} bytes, more than the file can hold"),
    })?;
    let bytes = file::read(path, &mut source, backed as u64)?;
    if bytes.len() != backed {
        let why = format!("holds {} of the {backed} bytes of {extents:?}", bytes.len());
        return Err(DataError::Damaged { path: path.to_owned(), why });
    }
    if !file::read(path, &mut source, 1)?.is_empty() {
        let why = format!("goes on after the {backed} bytes of {extents:?}");
        return Err(DataError::Damaged { path: path.to_owned(), why });
    }
    Ok((extents, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::fs;
    use std::io::Write;

    fn idx(magic: u32, extents: &[u32], bytes: &[u8]) -> Vec<u8> {
        let words = std::iter::once(&magic).chain(extents);
        words.flat_map(|word| word.to_be_bytes()).chain(bytes.iter().copied()).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Three images of 2x2 to train on (raw), one to test on (gzipped).
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: Vec<u8>| fs::write(folder.path().join(name), bytes).unwrap();
        put("train-images-idx3-ubyte", idx(IMAGES, &[3, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255]));
        put("train-labels-idx1-ubyte", idx(LABELS, &[3], &[4, 0, 9]));
        put("t10k-images-idx3-ubyte.gz", gzip(&idx(IMAGES, &[1, 2, 2], &[9, 8, 7, 6])));
        put("t10k-labels-idx1-ubyte.gz", gzip(&idx(LABELS, &[1], &[7])));
        folder
    }

    fn error(folder: &Path) -> String {
        load(folder.to_str().unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn raw_and_gzipped_files_are_read() {
        let folder = folder();
        let data = load(folder.path().to_str().unwrap()).unwrap();
        assert_eq!((data.dims, data.classes, data.train.len(), data.test.len()), ([1, 2, 2], 10, 3, 1));
        assert_eq!(data.train.labels, [4, 0, 9]);
        assert_eq!(data.test, Split { pixels: Pixels::U8(vec![9, 8, 7, 6]), labels: vec![7] });
        assert!((data.normalization.mean[0] - 310.0 / 12.0 / 255.0).abs() < 1e-12);
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = folder();
        fs::remove_file(folder.path().join("t10k-labels-idx1-ubyte.gz")).unwrap();
        let error = error(folder.path());
        assert!(error.contains("t10k-labels-idx1-ubyte") && error.contains("no such file"), "{error}");
    }

    #[test]
    fn broken_files_are_named_with_what_is_wrong() {
        let images = "train-images-idx3-ubyte";
        let labels = "train-labels-idx1-ubyte";
        let whole = idx(IMAGES, &[3, 2, 2], &[1; 12]);
        let cases: [(&str, Vec<u8>, &str); 9] = [
            (images, idx(LABELS, &[3, 2, 2], &[1; 12]), "begins with 0x00000801"),
            (images, whole[..10].to_vec(), "truncated"),
            (images, whole[..20].to_vec(), "holds 4 of the 12 bytes"),
            (images, [&whole[..], &[0]].concat(), "goes on"),
            (images, idx(IMAGES, &[u32::MAX, u32::MAX, u32::MAX], &[1; 12]), "more than the file can hold"),
            (images, idx(IMAGES, &[0, 2, 2], &[]), "labels for the 0 images"),
            (labels, idx(LABELS, &[2], &[1, 2]), "2 labels for the 3 images"),
            (labels, Vec::new(), "truncated"),
            (images, gzip(&whole), "begins with 0x1f8b"),
        ];
        for (name, bytes, why) in cases {
            let folder = folder();
            fs::write(folder.path().join(name), bytes).unwrap();
            let error = error(folder.path());
            assert!(error.contains(name) && error.contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn a_gzip_stream_is_checked_to_its_end() {
        let whole = gzip(&idx(IMAGES, &[1, 2, 2], &[9, 8, 7, 6]));
        for length in 0..whole.len() {
            let folder = folder();
            fs::write(folder.path().join("t10k-images-idx3-ubyte.gz"), &whole[..length]).unwrap();
            let error = error(folder.path());
            assert!(error.contains("t10k-images-idx3-ubyte.gz") && error.contains("truncated"), "{length}: {error}");
        }
    }

    #[test]
    fn splits_must_agree() {
        let folder = folder();
        fs::write(folder.path().join("t10k-labels-idx1-ubyte"), idx(LABELS, &[1], &[10])).unwrap();
        assert!(error(folder.path()).contains("label 0 is 10"));
        let folder = self::folder();
        fs::write(folder.path().join("t10k-images-idx3-ubyte"), idx(IMAGES, &[1, 1, 4], &[0; 4])).unwrap();
        assert!(error(folder.path()).contains("[1, 4]"));
    }

    #[test]
    fn fashion_mnist_as_published() {
        let Ok(root) = std::env::var("MEST_DATA") else {
            eprintln!("skipped: set MEST_DATA to the folder of the data sets");
            return;
        };
        let data = load(&format!("{root}/fashion-mnist")).unwrap();
        assert_eq!((data.train.len(), data.test.len(), data.dims, data.classes), (60_000, 10_000, [1, 28, 28], 10));
        assert!((data.normalization.mean[0] - 0.2860).abs() < 2e-3 && (data.normalization.std[0] - 0.3530).abs() < 2e-3);
        for class in 0..10 {
            assert_eq!(data.train.labels.iter().filter(|&&label| label == class).count(), 6_000);
        }
    }
}
