//! Random bytes in the shape of a data set, for benchmarks.

use super::{DataError, Dataset, Normalization, Pixels, Split};
use crate::random::{Purpose, Stream};

const USAGE: &str = "synthetic:CxHxW:CLASSES:N, as in synthetic:3x32x32:10:512";
/// More bytes than this are no benchmark of a small machine.
const MOST_BYTES: usize = 1 << 32;
/// A test example for each so many training examples.
const TRAIN_TO_TEST: usize = 5;
const SEED: u64 = 0;

pub(super) fn load(argument: &str) -> Result<Dataset, DataError> {
    let wrong = |why: String| DataError::Spec { spec: format!("synthetic:{argument}"), why, usage: USAGE };
    let parts: Vec<&str> = argument.split(':').collect();
    let [shape, classes, examples] = parts[..] else {
        return Err(wrong(format!("{} parts where a shape, classes and examples are needed", parts.len())));
    };
    let number = |what: &str, text: &str| match text.parse::<usize>() {
        Ok(value) if value > 0 && u32::try_from(value).is_ok() => Ok(value),
        _ => Err(wrong(format!("{what} `{text}` is not a positive number"))),
    };
    let extents = shape.split('x').map(|extent| number("extent", extent)).collect::<Result<Vec<_>, _>>()?;
    let dims: [usize; 3] = extents.try_into().map_err(|_| wrong(format!("shape `{shape}` has not three extents")))?;
    let (classes, examples) = (number("number of classes", classes)?, number("number of examples", examples)?);
    let tested = examples.div_ceil(TRAIN_TO_TEST);
    let bytes = dims.iter().try_fold(examples + tested, |product, &extent| product.checked_mul(extent));
    if bytes.is_none_or(|bytes| bytes > MOST_BYTES) {
        return Err(wrong(format!("it would take more than {} GiB", MOST_BYTES >> 30)));
    }
    let split = |examples: usize, part: u64| {
        let mut stream = Stream::new(SEED, Purpose::Synthetic, part);
        let elements = examples * dims.iter().product::<usize>();
        let pixels = (0..elements.div_ceil(8)).flat_map(|_| stream.next_u64().to_le_bytes()).take(elements).collect();
        let labels = (0..examples).map(|_| stream.below(classes) as u32).collect();
        Split { pixels: Pixels::U8(pixels), labels }
    };
    // A uniform byte over 255 has mean 1/2 and variance (256^2 - 1) / 12 / 255^2.
    let deviation = (65_535.0_f64 / 12.0).sqrt() / 255.0;
    Ok(Dataset {
        name: "synthetic".to_owned(),
        dims,
        classes,
        train: split(examples, 0),
        validation: None,
        test: split(tested, 1),
        normalization: Normalization::new(vec![0.5], vec![deviation]),
        augmentations: &[],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_shape_that_was_asked_for_and_uniform_bytes() {
        let data = load("3x5x7:4:200").unwrap();
        assert_eq!((data.dims, data.classes, data.train.len(), data.test.len()), ([3, 5, 7], 4, 200, 40));
        assert_eq!(data, load("3x5x7:4:200").unwrap());
        assert!((0..4).all(|class| data.train.labels.contains(&class)) && data.train.labels.iter().all(|&label| label < 4));
        let measured = Normalization::measure(&data.train.pixels, data.dims);
        for channel in 0..3 {
            assert!((measured.mean[channel] - 0.5).abs() < 0.02 && (measured.std[channel] - data.normalization.std[0]).abs() < 0.02);
        }
    }

    #[test]
    fn mistakes_are_told() {
        let cases = [
            ("", "1 parts"),
            ("3x32:10:5", "three extents"),
            ("3x32x0:10:5", "extent `0`"),
            ("1x1x1:0:5", "classes `0`"),
            ("1x1x1:2:x", "examples `x`"),
            ("4000000000x4000000000x4000000000:2:9", "GiB"),
            ("3x1000x1000:2:4000", "GiB"),
        ];
        for (argument, why) in cases {
            let error = load(argument).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("synthetic:CxHxW:CLASSES:N"), "{argument}: {error}");
        }
    }
}
