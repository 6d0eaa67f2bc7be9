//! Folders of images: `DIR/train/CLASS/*.{png,jpg,jpeg}` and `DIR/test/CLASS/*`, decoded in parallel and kept as bytes, in memory
//! and in a file beside them.

use super::image_cache::Cache;
use super::{DataError, Dataset, Normalization, Pixels, Split};
use image::{ColorType, DynamicImage, ImageDecoder, ImageReader, imageops::FilterType};
use std::path::{Path, PathBuf};

const USAGE: &str = "images:DIR, or images:DIR:CxHxW to bring all images to one size";
const ENDINGS: [&str; 3] = ["png", "jpg", "jpeg"];
/// Channels of colour.
const COLORS: usize = 3;
/// Decoded bytes beyond which a data set is refused: all of it is kept in memory.
const MOST_BYTES: u64 = 16 << 30;

/// An image and its class.
pub(super) struct Listed {
    pub(super) path: PathBuf,
    pub(super) label: u32,
}

pub(super) fn load(argument: &str) -> Result<Dataset, DataError> {
    let (folder, asked) = extents(argument);
    if folder.is_empty() {
        let why = "the path of a folder is missing".to_owned();
        return Err(DataError::Spec { spec: format!("images:{argument}"), why, usage: USAGE });
    }
    if let Some(dims) = asked.filter(|dims| ![1, COLORS].contains(&dims[0]) || dims.contains(&0)) {
        let why = format!("{}x{}x{} is no image: 1 channel or 3, and at least one pixel, are", dims[0], dims[1], dims[2]);
        return Err(DataError::Spec { spec: format!("images:{argument}"), why, usage: USAGE });
    }
    let folder = Path::new(folder);
    let mut problems = Vec::new();
    let classes = listing(&folder.join("train"), true, &mut problems);
    let train = members(&folder.join("train"), &classes, &mut problems);
    let test = members(&folder.join("test"), &classes, &mut problems);
    for class in listing(&folder.join("test"), true, &mut problems).into_iter().filter(|class| !classes.contains(class)) {
        let fix = format!("add {} or remove it", folder.join("train").join(&class).display());
        problems.push(DataError::Content {
            path: folder.join("test").join(&class),
            why: "a class without training images".to_owned(),
            fix,
        });
    }
    DataError::all(folder, std::mem::take(&mut problems))?;
    let cache = Cache::of(folder, asked, train.iter().chain(&test));
    if let Some((dims, mut pixels)) = cache.as_ref().and_then(Cache::read) {
        let tested = pixels.split_off(train.len() * dims.iter().product::<usize>());
        return Ok(dataset(dims, classes.len(), split(&train, pixels), split(&test, tested)));
    }
    let dims = match asked {
        Some(dims) => dims,
        None => common_extents(folder, train.iter().chain(&test), &mut problems),
    };
    let bytes = dims.iter().product::<usize>() as u64 * (train.len() + test.len()) as u64;
    if bytes > MOST_BYTES {
        let why = format!("{} images of {dims:?} take {} GiB of memory", train.len() + test.len(), bytes >> 30);
        return Err(DataError::Content { path: folder.to_owned(), why, fix: "name a smaller size: images:DIR:CxHxW".to_owned() });
    }
    let (trained, unreadable) = decode(&train, dims);
    problems.extend(unreadable);
    let (tested, unreadable) = decode(&test, dims);
    problems.extend(unreadable);
    DataError::all(folder, problems)?;
    if let Some(cache) = cache {
        cache.write(dims, [&trained, &tested]);
    }
    Ok(dataset(dims, classes.len(), split(&train, trained), split(&test, tested)))
}

fn split(images: &[Listed], pixels: Vec<u8>) -> Split {
    Split { pixels: Pixels::U8(pixels), labels: images.iter().map(|image| image.label).collect() }
}

fn dataset(dims: [usize; 3], classes: usize, train: Split, test: Split) -> Dataset {
    let normalization = Normalization::measure(&train.pixels, dims);
    Dataset { name: "images".to_owned(), dims, classes, train, validation: None, test, normalization, augmentations: &[] }
}

/// `images:DIR` with `dims` behind it; any other SPEC, and one that has extents, as it is.
pub(super) fn sized(spec: &str, dims: [usize; 3]) -> String {
    match spec.strip_prefix("images:") {
        Some(argument) if extents(argument).1.is_none() && !argument.is_empty() => format!("{spec}:{}x{}x{}", dims[0], dims[1], dims[2]),
        _ => spec.to_owned(),
    }
}

/// The folder, and the extents behind it where there are any.
fn extents(argument: &str) -> (&str, Option<[usize; 3]>) {
    let parsed = argument.rsplit_once(':').and_then(|(folder, shape)| {
        let extents: Vec<usize> = shape.split('x').map(|extent| extent.parse().ok()).collect::<Option<_>>()?;
        Some((folder, Some(extents.try_into().ok()?)))
    });
    parsed.unwrap_or((argument, None))
}

/// Names in a folder, sorted: its folders, or its images.
fn listing(folder: &Path, folders: bool, problems: &mut Vec<DataError>) -> Vec<String> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
            let fix = "the images of each class belong in DIR/train/CLASS and DIR/test/CLASS".to_owned();
            problems.push(DataError::Missing { path: folder.to_owned(), or: String::new(), fix });
            return Vec::new();
        }
        Err(source) => {
            problems.push(DataError::Io { path: folder.to_owned(), source });
            return Vec::new();
        }
    };
    let image = |path: &Path| {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
    };
    let wanted = |path: &PathBuf| if folders { path.is_dir() } else { path.is_file() && image(path) };
    let paths = entries.flatten().map(|entry| entry.path()).filter(wanted);
    let names = paths.filter_map(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()));
    // Hidden ones are the system's, not the user's.
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// The images of a split, class by class; a class without any is a problem.
fn members(split: &Path, classes: &[String], problems: &mut Vec<DataError>) -> Vec<Listed> {
    if !split.is_dir() {
        return Vec::new();
    }
    if classes.is_empty() && problems.is_empty() {
        let fix = "the images of each class belong in a folder of its own: train/CLASS/*.png".to_owned();
        problems.push(DataError::Content { path: split.to_owned(), why: "no class folder".to_owned(), fix });
    }
    let mut images = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let folder = split.join(class);
        let before = problems.len();
        let names = listing(&folder, false, problems);
        if names.is_empty() && problems.len() == before {
            let fix = format!("put images ({}) there, or remove the class", ENDINGS.map(|ending| format!("*.{ending}")).join(", "));
            problems.push(DataError::Content { path: folder.clone(), why: "an empty class folder".to_owned(), fix });
        }
        images.extend(names.into_iter().map(|name| Listed { path: folder.join(name), label: label as u32 }));
    }
    images
}

/// The extents that all readable images have, from their headers; colour if any has. One of another size is a problem, one that can't be read
/// is left to [`decode`].
fn common_extents<'a>(folder: &Path, images: impl Iterator<Item = &'a Listed>, problems: &mut Vec<DataError>) -> [usize; 3] {
    let headers: Vec<(&Path, [usize; 2], bool)> =
        images.filter_map(|image| header(&image.path).ok().map(|(extents, color)| (image.path.as_path(), extents, color))).collect();
    let channels = if headers.iter().any(|(_, _, color)| *color) { COLORS } else { 1 };
    let Some(&(first, [rows, width], _)) = headers.first() else { return [1, 1, 1] };
    for (path, [other_rows, other_width], _) in headers {
        if [other_rows, other_width] != [rows, width] {
            let why = format!("{other_rows}x{other_width} pixels (rows x columns), {} has {rows}x{width}", first.display());
            let fix = format!("name the size that all are brought to: images:{}:{channels}x{rows}x{width}", folder.display());
            problems.push(DataError::Content { path: path.to_owned(), why, fix });
        }
    }
    [channels, rows, width]
}

/// Rows and columns of an image, and whether it has colours.
fn header(path: &Path) -> Result<([usize; 2], bool), DataError> {
    let reader = open(path)?;
    let decoder = reader.into_decoder().map_err(|error| unreadable(path, &error))?;
    let (width, rows) = decoder.dimensions();
    let gray = matches!(decoder.color_type(), ColorType::L8 | ColorType::L16 | ColorType::La8 | ColorType::La16);
    Ok(([rows as usize, width as usize], !gray))
}

/// By its content, whatever its name ends in.
fn open(path: &Path) -> Result<ImageReader<std::io::BufReader<std::fs::File>>, DataError> {
    let at = |source| DataError::Io { path: path.to_owned(), source };
    ImageReader::open(path).map_err(at)?.with_guessed_format().map_err(at)
}

fn unreadable(path: &Path, error: &image::ImageError) -> DataError {
    let fix = "replace it by a PNG or JPEG file, or remove it".to_owned();
    DataError::Content { path: path.to_owned(), why: format!("an image that can't be read ({error})"), fix }
}

/// One image as `dims` bytes, `[channel][row][column]`: scaled to cover the extents, its middle kept.
fn pixels(path: &Path, [channels, rows, width]: [usize; 3], target: &mut [u8]) -> Result<(), DataError> {
    let image = open(path)?.decode().map_err(|error| unreadable(path, &error))?;
    let fits = (image.width(), image.height()) == (width as u32, rows as u32);
    let image = if fits { image } else { image.resize_to_fill(width as u32, rows as u32, FilterType::Triangle) };
    let image = if channels == 1 { DynamicImage::ImageLuma8(image.into_luma8()) } else { DynamicImage::ImageRgb8(image.into_rgb8()) };
    for (pixel, values) in image.as_bytes().chunks_exact(channels).enumerate() {
        for (channel, value) in values.iter().enumerate() {
            target[channel * rows * width + pixel] = *value;
        }
    }
    Ok(())
}

/// All images, in order, on all cores; and those that can't be read.
fn decode(images: &[Listed], dims: [usize; 3]) -> (Vec<u8>, Vec<DataError>) {
    let elements: usize = dims.iter().product();
    let mut bytes = vec![0; elements * images.len()];
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = images.len().div_ceil(workers).max(1);
    let part = |(images, bytes): (&[Listed], &mut [u8])| -> Vec<DataError> {
        let targets = bytes.chunks_exact_mut(elements);
        images.iter().zip(targets).filter_map(|(image, target)| pixels(&image.path, dims, target).err()).collect()
    };
    let problems = std::thread::scope(|scope| {
        let parts = images.chunks(share).zip(bytes.chunks_mut(share * elements));
        let threads: Vec<_> = parts.map(|part_of| scope.spawn(move || part(part_of))).collect();
        // A worker that panicked is a bug of the decoder; its images stay black, which nobody must take for data.
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    (bytes, problems)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma, Rgb, RgbImage};
    use std::fs;

    /// Two classes of 4x4 colours, two images of each to train on and one to test on; image i of class c is `[10 c, i, 255]`.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (split, images) in [("train", 2), ("test", 1)] {
            for (class, name) in ["cat", "dog"].into_iter().enumerate() {
                let target = folder.path().join(split).join(name);
                fs::create_dir_all(&target).unwrap();
                for index in 0..images {
                    let image = RgbImage::from_pixel(4, 4, Rgb([10 * class as u8, index, 255]));
                    image.save(target.join(format!("{index}.png"))).unwrap();
                }
            }
        }
        folder
    }

    fn error(folder: &Path) -> String {
        load(folder.to_str().unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn classes_are_folders_in_order_and_channels_are_planes() {
        let folder = folder();
        fs::write(folder.path().join("train/cat/notes.txt"), "no image").unwrap();
        let data = load(folder.path().to_str().unwrap()).unwrap();
        assert_eq!((data.dims, data.classes, data.train.labels.as_slice()), ([3, 4, 4], 2, [0, 0, 1, 1].as_slice()));
        let Pixels::U8(bytes) = &data.train.pixels else { panic!("images are bytes") };
        let third: Vec<u8> = [10, 0, 255].into_iter().flat_map(|value| [value; 16]).collect();
        assert_eq!(bytes[2 * 48..3 * 48], third);
        assert_eq!(data.normalization.mean[2], 1.0);
    }

    #[test]
    fn sizes_are_unified_when_asked_for() {
        let folder = folder();
        RgbImage::from_pixel(9, 6, Rgb([7, 7, 7])).save(folder.path().join("train/dog/wide.JPG")).unwrap();
        let refused = error(folder.path());
        assert!(refused.contains("wide.JPG") && refused.contains("6x9 pixels") && refused.contains(":3x4x4"), "{refused}");
        let data = load(&format!("{}:1x2x3", folder.path().display())).unwrap();
        assert_eq!((data.dims, data.train.len()), ([1, 2, 3], 5));
        let Pixels::U8(bytes) = &data.train.pixels else { panic!("images are bytes") };
        assert!(bytes[4 * 6..].iter().all(|&value| (6..=8).contains(&value)), "{bytes:?}");
    }

    #[test]
    fn gray_images_have_one_channel() {
        let folder = folder();
        for entry in ["train/cat/0", "train/cat/1", "train/dog/0", "train/dog/1", "test/cat/0", "test/dog/0"] {
            GrayImage::from_pixel(4, 4, Luma([3])).save(folder.path().join(format!("{entry}.png"))).unwrap();
        }
        assert_eq!(load(folder.path().to_str().unwrap()).unwrap().dims, [1, 4, 4]);
    }

    #[test]
    fn every_problem_is_named_with_its_file_and_all_at_once() {
        let folder = folder();
        fs::create_dir(folder.path().join("train/eel")).unwrap();
        fs::create_dir(folder.path().join("test/owl")).unwrap();
        let text = error(folder.path());
        for expected in ["train/eel: an empty class folder", "test/eel: no such file", "test/owl: a class without training images"] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        let folder = self::folder();
        for broken in ["train/cat/0.png", "test/dog/0.png"] {
            let path = folder.path().join(broken);
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        }
        fs::write(folder.path().join("train/dog/0.png"), "no image").unwrap();
        for argument in [folder.path().display().to_string(), format!("{}:3x4x4", folder.path().display())] {
            let text = load(&argument).unwrap_err().to_string();
            for broken in ["train/cat/0.png", "test/dog/0.png", "train/dog/0.png"] {
                assert!(text.contains(&format!("{broken}: an image that can't be read")), "{broken}: {text}");
            }
        }
    }

    #[test]
    fn images_are_decoded_again_only_where_one_has_changed() {
        let folder = folder();
        let spec = folder.path().display().to_string();
        let (image, kept) = (folder.path().join("train/dog/1.png"), folder.path().join(".mest-images"));
        // Zeros behind an image are no part of it: all files can have one size.
        let padded = |path: &Path| {
            let mut bytes = fs::read(path).unwrap();
            bytes.resize(1000, 0);
            bytes
        };
        fs::write(&image, padded(&image)).unwrap();
        let first = load(&spec).unwrap();
        let changed = fs::metadata(&image).unwrap().modified().unwrap();
        let touch = |at| fs::File::options().append(true).open(&image).unwrap().set_modified(at).unwrap();
        // Another image in a file of the same size and time: what was decoded before is read.
        fs::write(&image, padded(&folder.path().join("train/cat/0.png"))).unwrap();
        touch(changed);
        assert_eq!(load(&spec).unwrap(), first);
        touch(changed + std::time::Duration::from_secs(1));
        let second = load(&spec).unwrap();
        assert_ne!(second, first);
        assert_eq!(load(&spec).unwrap(), second);
        // A damaged file is as good as none, and so is that of other extents.
        let mut damaged = fs::read(&kept).unwrap();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&kept, &damaged).unwrap();
        assert_eq!(load(&spec).unwrap(), second);
        fs::write(&kept, &damaged[..20]).unwrap();
        assert_eq!(load(&spec).unwrap(), second);
        assert_eq!(load(&format!("{spec}:1x2x2")).unwrap().dims, [1, 2, 2]);
        assert_eq!(load(&spec).unwrap(), second);
        fs::remove_file(&image).unwrap();
        assert_eq!(load(&spec).unwrap().train.len(), first.train.len() - 1);
    }

    #[test]
    fn folders_without_the_layout_are_refused() {
        let empty = tempfile::tempdir().unwrap();
        let text = error(empty.path());
        assert!(text.contains("/train: no such file") && text.contains("DIR/train/CLASS"), "{text}");
        fs::create_dir_all(empty.path().join("train")).unwrap();
        fs::create_dir_all(empty.path().join("test")).unwrap();
        assert!(error(empty.path()).contains("no class folder"));
        for (argument, why) in [("", "path of a folder"), ("x:2x4x4", "no image"), ("x:3x0x4", "no image")] {
            let text = load(argument).unwrap_err().to_string();
            assert!(text.contains(why) && text.contains("images:DIR"), "{argument}: {text}");
        }
    }

    #[test]
    fn the_models_extents_go_into_the_spec_unless_it_has_some() {
        assert_eq!(sized("images:a", [3, 8, 8]), "images:a:3x8x8");
        assert_eq!(sized("images:a:1x2x2", [3, 8, 8]), "images:a:1x2x2");
        assert_eq!(sized("digits", [3, 8, 8]), "digits");
    }
}
