//! The embedded data set: optical recognition of handwritten digits (E. Alpaydin, C. Kaynak; UCI Machine Learning Repository; CC BY 4.0).

use super::{DataError, Dataset, Normalization, Pixels, Split};
use crate::random::{Purpose, Stream};
use flate2::read::GzDecoder;
use std::io::Read;
use std::path::Path;

const FILE: &[u8] = include_bytes!("../../assets/digits.csv.gz");
const NAME: &str = "assets/digits.csv.gz";
const PIXELS: usize = 64;
const CLASSES: usize = 10;
/// One example in five is tested on, class by class.
const TEST_SHARE: f64 = 0.2;
const SPLIT_SEED: u64 = 0;
/// Largest pixel.
const WHITE: u8 = 16;

pub(super) fn load(argument: &str) -> Result<Dataset, DataError> {
    if !argument.is_empty() {
        let why = "the embedded data set takes no argument".to_owned();
        return Err(DataError::Spec { spec: format!("digits:{argument}"), why, usage: "digits" });
    }
    let (pixels, labels) = parse(&decompress()?)?;
    let tested = tested(&labels);
    let part = |test: bool| {
        let mut split = (Vec::new(), Vec::new());
        for (example, &label) in labels.iter().enumerate().filter(|&(example, _)| tested[example] == test) {
            split.0.extend_from_slice(&pixels[example * PIXELS..(example + 1) * PIXELS]);
            split.1.push(label);
        }
        Split { pixels: Pixels::U8(split.0), labels: split.1 }
    };
    Ok(Dataset {
        name: "digits".to_owned(),
        dims: [1, 8, 8],
        classes: CLASSES,
        train: part(false),
        validation: None,
        test: part(true),
        normalization: Normalization::new(vec![0.0], vec![f64::from(WHITE) / 255.0]),
        augmentations: &[],
    })
}

fn decompress() -> Result<String, DataError> {
    let mut text = String::new();
    GzDecoder::new(FILE).read_to_string(&mut text).map_err(|error| super::file::failure(Path::new(NAME), error))?;
    Ok(text)
}

fn parse(text: &str) -> Result<(Vec<u8>, Vec<u32>), DataError> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for (line, row) in text.lines().enumerate() {
        let values: Vec<u8> = row.split(',').map_while(|value| value.trim().parse().ok()).collect();
        match values.split_last() {
            Some((&label, row)) if row.len() == PIXELS && row.iter().all(|&pixel| pixel <= WHITE) && usize::from(label) < CLASSES => {
                pixels.extend_from_slice(row);
                labels.push(label.into());
            }
            _ => {
                let why = format!("line {} is not {PIXELS} pixels of 0 to {WHITE} and a label", line + 1);
                return Err(DataError::Damaged { path: NAME.into(), why });
            }
        }
    }
    Ok((pixels, labels))
}

/// For each example, whether it is tested on.
fn tested(labels: &[u32]) -> Vec<bool> {
    let mut tested = vec![false; labels.len()];
    for class in 0..CLASSES as u32 {
        let mut members: Vec<usize> = (0..labels.len()).filter(|&example| labels[example] == class).collect();
        Stream::new(SPLIT_SEED, Purpose::Split, class.into()).shuffle(&mut members);
        let share = (members.len() as f64 * TEST_SHARE).round() as usize;
        for &example in &members[..share] {
            tested[example] = true;
        }
    }
    tested
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(split: &Split) -> [usize; CLASSES] {
        split.labels.iter().fold([0; CLASSES], |mut counts, &label| {
            counts[label as usize] += 1;
            counts
        })
    }

    #[test]
    fn both_splits_hold_every_class_in_proportion() {
        let digits = load("").unwrap();
        assert_eq!(digits.train.len() + digits.test.len(), 1797);
        let (train, test) = (counts(&digits.train), counts(&digits.test));
        for class in 0..CLASSES {
            let share = test[class] as f64 / (train[class] + test[class]) as f64;
            assert!((share - 0.2).abs() < 0.003, "class {class}: {share}");
            assert!((174..=183).contains(&(train[class] + test[class])), "class {class}");
        }
    }

    #[test]
    fn the_split_is_the_same_every_time_and_keeps_pixels_with_labels() {
        let digits = load("").unwrap();
        assert_eq!(digits, load("").unwrap());
        let (pixels, labels) = parse(&decompress().unwrap()).unwrap();
        let Pixels::U8(train) = &digits.train.pixels else { panic!("digits are bytes") };
        assert_eq!(train.len(), digits.train.len() * PIXELS);
        let mut source = (0..labels.len()).filter(|&example| !tested(&labels)[example]);
        let third = source.nth(2).unwrap();
        assert_eq!(train[2 * PIXELS..3 * PIXELS], pixels[third * PIXELS..(third + 1) * PIXELS]);
        assert_eq!(digits.train.labels[2], labels[third]);
    }

    #[test]
    fn white_is_one() {
        let table = load("").unwrap().normalization.table(1).unwrap();
        assert_eq!((table.byte(0, 16), table.byte(0, 0), table.byte(0, 5)), (1.0, 0.0, 0.3125));
    }

    #[test]
    fn broken_rows_are_named() {
        let row = vec!["1"; PIXELS].join(",");
        assert!(parse(&format!("{row},9\n")).is_ok());
        for broken in [format!("{row},10"), row.clone(), format!("17,{row}"), format!("{row},x"), "0".to_owned()] {
            let error = parse(&format!("{row},3\n{broken}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{error}");
        }
    }
}
