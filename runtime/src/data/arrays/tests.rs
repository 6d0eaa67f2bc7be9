//! Archives written by the crates that others use for them, whole and broken.

use super::*;
use npyz::{AutoSerialize, WriterBuilder};
use safetensors::tensor::TensorView;
use std::fs;
use std::io::Write;

/// An npy file of `shape`.
fn npy<T: AutoSerialize + Clone>(shape: &[u64], values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd().unwrap();
    writer.extend(values.iter().cloned()).unwrap();
    writer.finish().unwrap();
    bytes
}

fn write_npz(arrays: &[(&str, Vec<u8>)], method: zip::CompressionMethod) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.npz");
    let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
    for (name, bytes) in arrays {
        archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default().compression_method(method)).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
    let name = path.display().to_string();
    (folder, name)
}

/// Three examples of 1x2x2 bytes to train on, one to test on.
fn arrays() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("x_train", npy::<u8>(&[3, 1, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255])),
        ("y_train", npy::<i64>(&[3], &[1, 0, 1])),
        ("x_test", npy::<u8>(&[1, 1, 2, 2], &[9, 8, 7, 6])),
        ("y_test", npy::<i64>(&[1], &[1])),
    ]
}

fn error(arrays: &[(&str, Vec<u8>)]) -> String {
    let (_folder, path) = write_npz(arrays, zip::CompressionMethod::Stored);
    load_npz(&path).unwrap_err().to_string()
}

#[test]
fn archives_are_read_compressed_or_not() {
    for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
        let (_folder, path) = write_npz(&arrays(), method);
        let data = load_npz(&path).unwrap();
        assert_eq!((data.dims, data.classes, data.train.labels.as_slice()), ([1, 2, 2], 2, [1, 0, 1].as_slice()));
        assert_eq!(data.test, Split { pixels: Pixels::U8(vec![9, 8, 7, 6]), labels: vec![1] });
    }
}

#[test]
fn tokens_stay_what_they_are() {
    let mut arrays = arrays();
    arrays[0].1 = npy::<i64>(&[3, 2], &[5, 0, 1, 49_999, 2, 3]);
    arrays[2].1 = npy::<i64>(&[1, 2], &[7, 8]);
    let (_folder, path) = write_npz(&arrays, zip::CompressionMethod::Stored);
    let data = load_npz(&path).unwrap();
    assert_eq!((data.dims, data.train.pixels), ([1, 1, 2], Pixels::F32(vec![5.0, 0.0, 1.0, 49_999.0, 2.0, 3.0])));
    assert_eq!(data.normalization, Normalization::new(vec![0.0], vec![1.0]));
}

#[test]
fn safetensors_hold_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.safetensors");
    let floats: Vec<u8> = [0.5_f32, 1.5, -1.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let labels: Vec<u8> = [0_i32, 1].iter().flat_map(|label| label.to_le_bytes()).collect();
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let tensors = [
        ("x_train", view(Dtype::F32, &[2, 2], &floats)),
        ("y_train", view(Dtype::I32, &[2, 1], &labels)),
        ("x_test", view(Dtype::F32, &[2, 2], &floats)),
        ("y_test", view(Dtype::I32, &[2], &labels)),
    ];
    fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let data = load_safetensors(path.to_str().unwrap()).unwrap();
    assert_eq!((data.dims, data.classes, &data.train), ([1, 1, 2], 2, &data.test));
    assert_eq!((data.normalization.mean.as_slice(), data.train.labels.as_slice()), ([1.0].as_slice(), [0, 1].as_slice()));
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let text = load_safetensors(path.to_str().unwrap()).unwrap_err().to_string();
    assert!(text.contains("set.safetensors") && text.contains("damaged"), "{text}");
}

/// Which array is replaced by what, and what the message says of it.
type Case = (usize, Vec<u8>, &'static str);

#[test]
fn every_mistake_is_named_with_file_array_and_place() {
    let cases: [Case; 11] = [
        (0, npy::<f32>(&[3, 1, 1, 2], &[0.0, 1.0, 2.0, f32::NAN, 4.0, 5.0]), "`x_train`[1, 0, 0, 1] is NaN"),
        (0, npy::<i64>(&[3, 1], &[0, 1 << 40, 2]), "`x_train`[1, 0] is 1099511627776"),
        (0, npy::<u8>(&[3], &[1, 2, 3]), "`x_train` is [3]"),
        (0, npy::<u8>(&[0, 4], &[]), "at least one example"),
        (0, npy::<u16>(&[3, 1], &[1, 2, 3]), "elements of type"),
        (0, npy::<u8>(&[3, 4], &[0; 12]), "examples of `x_test` are [1, 2, 2]"),
        (1, npy::<i64>(&[3], &[1, -1, 0]), "`y_train`[1] is -1"),
        (1, npy::<f32>(&[3], &[1.0, 0.0, 0.0]), "`y_train` holds floats"),
        (1, npy::<i64>(&[3, 2], &[1; 6]), "`y_train` is [3, 2]"),
        (1, npy::<i64>(&[2], &[1, 0]), "2 labels for the 3 examples"),
        (3, npy::<u8>(&[1], &[2]), "`y_test`[0] is 2, but the labels of `y_train` end at 1"),
    ];
    for (place, bytes, why) in cases {
        let mut arrays = arrays();
        arrays[place].1 = bytes;
        let text = error(&arrays);
        assert!(text.contains("set.npz") && text.contains(why), "{why}: {text}");
    }
}

#[test]
fn all_mistakes_come_at_once() {
    let mut arrays = arrays();
    arrays[0].1 = npy::<f32>(&[3, 1], &[0.0, f32::INFINITY, 2.0]);
    arrays[1].1 = npy::<i64>(&[3], &[0, 1, -7]);
    arrays.remove(3);
    let text = error(&arrays);
    for expected in ["`x_train`[1, 0] is inf", "`y_train`[2] is -7", "no array `y_test`"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn broken_archives_are_refused() {
    let (_folder, path) = write_npz(&arrays(), zip::CompressionMethod::Deflated);
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(13) {
        fs::write(&path, &whole[..length]).unwrap();
        let text = load_npz(&path).unwrap_err().to_string();
        assert!(text.contains("set.npz"), "{length}: {text}");
    }
    let mut arrays = arrays();
    let whole = arrays[0].1.len();
    arrays[0].1.truncate(whole - 3);
    assert!(error(&arrays).contains("`x_train`"));
    assert!(load_npz("/nowhere/x.npz").unwrap_err().to_string().contains("no such file"));
    assert!(load_npz("").unwrap_err().to_string().contains("path of a file"));
}
