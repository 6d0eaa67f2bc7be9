//! CIFAR-10 and CIFAR-100 in the published binary layout: records of one or two label bytes and 3x32x32 pixels.

use super::{Augmentation, DataError, Dataset, Normalization, Pixels, Split, file};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

const PIXELS: usize = 3 * 32 * 32;
/// A file of more records is not one of these data sets.
const MOST_RECORDS: usize = 60_000;

/// What tells the two data sets apart.
struct Layout {
    name: &'static str,
    usage: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    /// Bytes before the pixels; the last one is the (fine) label.
    label_bytes: usize,
    classes: usize,
    folder: &'static str,
    archive: &'static str,
    mean: [f64; 3],
    std: [f64; 3],
}

const CIFAR10: Layout = Layout {
    name: "cifar10",
    usage: "cifar10:FILE_OR_DIR",
    train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test: "test_batch.bin",
    label_bytes: 1,
    classes: 10,
    folder: "cifar-10-batches-bin",
    archive: "cifar-10-binary.tar.gz",
    mean: [0.4914, 0.4822, 0.4465],
    std: [0.2023, 0.1994, 0.2010],
};

const CIFAR100: Layout = Layout {
    name: "cifar100",
    usage: "cifar100:FILE_OR_DIR",
    train: &["train.bin"],
    test: "test.bin",
    label_bytes: 2,
    classes: 100,
    folder: "cifar-100-binary",
    archive: "cifar-100-binary.tar.gz",
    mean: [0.5071, 0.4867, 0.4408],
    std: [0.2675, 0.2565, 0.2761],
};

pub(super) fn load_cifar10(argument: &str) -> Result<Dataset, DataError> {
    CIFAR10.load(argument)
}

pub(super) fn load_cifar100(argument: &str) -> Result<Dataset, DataError> {
    CIFAR100.load(argument)
}

impl Layout {
    fn load(&self, argument: &str) -> Result<Dataset, DataError> {
        if argument.is_empty() {
            let why = format!("the path of {} or of its unpacked folder is missing", self.archive);
            return Err(DataError::Spec { spec: self.name.to_owned(), why, usage: self.usage });
        }
        let path = Path::new(argument);
        let mut files = if path.is_dir() { self.read_folder(path)? } else { self.read_archive(path)? };
        let mut split = |names: &[&str]| -> Result<Split, DataError> {
            let (mut pixels, mut labels) = (Vec::new(), Vec::new());
            for &name in names {
                let (origin, bytes) = files.remove(name).ok_or_else(|| self.missing(path, name))?;
                self.parse(&origin, &bytes, &mut pixels, &mut labels)?;
            }
            Ok(Split { pixels: Pixels::U8(pixels), labels })
        };
        Ok(Dataset {
            name: self.name.to_owned(),
            dims: [3, 32, 32],
            classes: self.classes,
            train: split(self.train)?,
            validation: None,
            test: split(&[self.test])?,
            normalization: Normalization::new(self.mean.to_vec(), self.std.to_vec()),
            augmentations: &[Augmentation::Crop4, Augmentation::HorizontalFlip],
        })
    }

    fn files(&self) -> impl Iterator<Item = &'static str> {
        self.train.iter().copied().chain([self.test])
    }

    fn missing(&self, path: &Path, name: &str) -> DataError {
        let fix =
            format!("give the published {} (the binary version, not Python's or Matlab's) or the folder unpacked from it", self.archive);
        DataError::Missing { path: path.join(name), or: String::new(), fix }
    }

    /// Bytes of a file that a split can have at most, and one more to notice that there are more.
    fn limit(&self) -> u64 {
        (MOST_RECORDS * (self.label_bytes + PIXELS)) as u64 + 1
    }

    /// Each file's origin and bytes, by name.
    fn read_folder(&self, path: &Path) -> Result<HashMap<String, (PathBuf, Vec<u8>)>, DataError> {
        let inner = path.join(self.folder);
        let folder = if inner.is_dir() { &inner } else { path };
        let mut files = HashMap::new();
        for name in self.files() {
            let origin = folder.join(name);
            if !origin.is_file() {
                return Err(self.missing(folder, name));
            }
            let bytes = file::read(&origin, &mut file::open(&origin)?, self.limit())?;
            files.insert(name.to_owned(), (origin, bytes));
        }
        Ok(files)
    }

    /// The same out of a tar archive, gzipped or not.
    fn read_archive(&self, path: &Path) -> Result<HashMap<String, (PathBuf, Vec<u8>)>, DataError> {
        if !path.exists() {
            let fix = format!("give the published {} or the folder unpacked from it", self.archive);
            return Err(DataError::Missing { path: path.to_owned(), or: String::new(), fix });
        }
        let mut files = HashMap::new();
        let mut archive = tar::Archive::new(file::open(path)?);
        for entry in archive.entries().map_err(|error| file::failure(path, error))? {
            let mut entry = entry.map_err(|error| file::failure(path, error))?;
            let inside = entry.path().map_err(|error| file::failure(path, error))?.into_owned();
            let name = inside.file_name().and_then(|name| name.to_str());
            if let Some(name) = name.and_then(|name| self.files().find(|&known| known == name)) {
                let claimed = entry.size();
                let origin = path.join(&inside);
                let bytes = file::read(&origin, &mut entry, self.limit())?;
                if (bytes.len() as u64) < claimed.min(self.limit()) {
                    let why = format!("ends inside of {}", inside.display());
                    return Err(DataError::Damaged { path: path.to_owned(), why });
                }
                files.insert(name.to_owned(), (origin, bytes));
            }
        }
        let mut rest = archive.into_inner();
        std::io::copy(&mut rest.by_ref().take(file::TRAILER), &mut std::io::sink()).map_err(|error| file::failure(path, error))?;
        Ok(files)
    }

    fn parse(&self, origin: &Path, bytes: &[u8], pixels: &mut Vec<u8>, labels: &mut Vec<u32>) -> Result<(), DataError> {
        let record = self.label_bytes + PIXELS;
        let (records, rest) = (bytes.len() / record, bytes.len() % record);
        if rest != 0 || records == 0 {
            let why = format!("{} bytes are not a whole number of records of {record}", bytes.len());
            return Err(DataError::Damaged { path: origin.to_owned(), why });
        }
        if records > MOST_RECORDS {
            let (why, fix) = (format!("more than {MOST_RECORDS} records"), format!("give the published {}", self.archive));
            return Err(DataError::Content { path: origin.to_owned(), why, fix });
        }
        for (index, record) in bytes.chunks_exact(record).enumerate() {
            let (head, image) = record.split_at(self.label_bytes);
            let label = head[self.label_bytes - 1];
            if usize::from(label) >= self.classes {
                let why = format!("record {index} has label {label}, the largest is {}", self.classes - 1);
                let fix = format!("give the published {}; cifar10 and cifar100 are not alike", self.archive);
                return Err(DataError::Content { path: origin.to_owned(), why, fix });
            }
            labels.push(label.into());
            pixels.extend_from_slice(image);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::fs;

    fn record(label: &[u8], pixel: u8) -> Vec<u8> {
        [label, &[pixel; PIXELS]].concat()
    }

    fn contents(layout: &Layout) -> Vec<(&'static str, Vec<u8>)> {
        let label: &[u8] = if layout.label_bytes == 2 { &[1, 7] } else { &[7] };
        layout.files().enumerate().map(|(index, name)| (name, [record(label, index as u8), record(label, 100)].concat())).collect()
    }

    fn pack(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, format!("published/{name}"), bytes.as_slice()).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    fn load_bytes(layout: &Layout, archive: &[u8]) -> Result<Dataset, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cifar.tar.gz");
        fs::write(&path, archive).unwrap();
        layout.load(path.to_str().unwrap())
    }

    #[test]
    fn archives_and_folders_hold_the_same() {
        for layout in [&CIFAR10, &CIFAR100] {
            let files = contents(layout);
            let packed = load_bytes(layout, &pack(&files)).unwrap();
            assert_eq!((packed.train.len(), packed.test.len()), (2 * layout.train.len(), 2));
            assert!(packed.train.labels.iter().all(|&label| label == 7), "the fine label counts");
            let Pixels::U8(pixels) = &packed.test.pixels else { panic!("CIFAR is bytes") };
            assert_eq!((pixels[0], pixels[PIXELS]), (layout.train.len() as u8, 100));

            let folder = tempfile::tempdir().unwrap();
            for inner in ["", layout.folder] {
                let target = folder.path().join(inner);
                fs::create_dir_all(&target).unwrap();
                for (name, bytes) in &files {
                    fs::write(target.join(name), bytes).unwrap();
                }
                assert_eq!(layout.load(folder.path().to_str().unwrap()).unwrap(), packed);
            }
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let error = CIFAR10.load("/nowhere/cifar.tar.gz").unwrap_err().to_string();
        assert!(error.contains("/nowhere/cifar.tar.gz") && error.contains("cifar-10-binary.tar.gz"), "{error}");
        let mut files = contents(&CIFAR10);
        files[0].1[0] = 10;
        let error = load_bytes(&CIFAR10, &pack(&files)).unwrap_err().to_string();
        assert!(error.contains("data_batch_1.bin") && error.contains("label 10"), "{error}");
        let mut files = contents(&CIFAR10);
        files[5].1.pop();
        let error = load_bytes(&CIFAR10, &pack(&files)).unwrap_err().to_string();
        assert!(error.contains("test_batch.bin") && error.contains("records of 3073"), "{error}");
        let error = load_bytes(&CIFAR100, &pack(&contents(&CIFAR10))).unwrap_err().to_string();
        assert!(error.contains("train.bin") && error.contains("binary version"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let error = CIFAR10.load(folder.path().to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("data_batch_1.bin"), "{error}");
    }

    #[test]
    fn an_archive_cut_short_anywhere_is_an_error() {
        let whole = pack(&contents(&CIFAR10));
        for length in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
            let error = load_bytes(&CIFAR10, &whole[..length]).unwrap_err().to_string();
            assert!(error.contains("cifar.tar.gz"), "{length}: {error}");
        }
        assert!(load_bytes(&CIFAR10, b"no archive at all").is_err());
    }

    #[test]
    fn a_claimed_size_is_not_believed() {
        let mut header = tar::Header::new_gnu();
        header.set_path("x/data_batch_1.bin").unwrap();
        header.set_size(1 << 40);
        header.set_cksum();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cifar.tar");
        fs::write(&path, [header.as_bytes().as_slice(), &[0; 1024]].concat()).unwrap();
        let error = CIFAR10.load(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("truncated"), "{error}");
    }

    #[test]
    fn cifar10_as_published() {
        let Ok(root) = std::env::var("MEST_DATA") else {
            eprintln!("skipped: set MEST_DATA to the folder of the data sets");
            return;
        };
        let data = load_cifar10(&format!("{root}/cifar-10-binary.tar.gz")).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (50_000, 10_000));
        for class in 0..10 {
            assert_eq!(data.train.labels.iter().filter(|&&label| label == class).count(), 5_000);
            assert_eq!(data.test.labels.iter().filter(|&&label| label == class).count(), 1_000);
        }
        let measured = Normalization::measure(&data.train.pixels, data.dims);
        for channel in 0..3 {
            assert!((measured.mean[channel] - CIFAR10.mean[channel]).abs() < 1e-3, "{measured}");
        }
    }
}
