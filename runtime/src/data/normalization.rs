//! Centring and scaling of channels.

use super::{DataError, Pixels};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `(x - mean) / std` for each channel, where a byte `b` is `x = b / 255`. One value serves every channel.
///
/// Written `MEAN:STD`, a comma between channels: `0.5:0.25`, or `0.49,0.48,0.45:0.2,0.2,0.2`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Normalization {
    /// Centre of each channel, or of all.
    pub mean: Vec<f64>,
    /// Scale of each channel, or of all; positive.
    pub std: Vec<f64>,
}

/// Text that isn't `MEAN:STD`.
#[derive(Debug, thiserror::Error)]
#[error("`{given}` is not MEAN:STD ({why}); write for example 0.5:0.25, or a value a channel as in 0.49,0.48,0.45:0.2,0.2,0.2")]
pub struct ParseNormalizationError {
    given: String,
    why: &'static str,
}

/// Normalised values, ready to be looked up.
#[derive(Clone, Debug)]
pub(super) struct Table {
    bytes: Vec<[f32; 256]>,
    mean: Vec<f64>,
    std: Vec<f64>,
}

impl Table {
    /// The normalised value of byte `value` in `channel`.
    pub(super) fn byte(&self, channel: usize, value: u8) -> f32 {
        self.bytes[channel][usize::from(value)]
    }

    /// The normalised value of `value` in `channel`.
    pub(super) fn float(&self, channel: usize, value: f32) -> f32 {
        ((f64::from(value) - self.mean[channel]) / self.std[channel]) as f32
    }
}

impl Normalization {
    /// With one mean and one deviation, or one of each a channel.
    pub fn new(mean: Vec<f64>, std: Vec<f64>) -> Self {
        Normalization { mean, std }
    }

    /// Measures the channels of `pixels`; a channel that never varies is only centred.
    pub(super) fn measure(pixels: &Pixels, dims: [usize; 3]) -> Self {
        let [channels, rows, columns] = dims;
        let area = rows * columns;
        let (mean, std) = (0..channels)
            .map(|channel| {
                let (mean, variance) = match pixels {
                    Pixels::U8(bytes) => byte_moments(planes(bytes, channels, area, channel)),
                    Pixels::F32(values) => float_moments(|| planes(values, channels, area, channel).map(f64::from)),
                };
                (mean, if variance > 0.0 { variance.sqrt() } else { 1.0 })
            })
            .unzip();
        Normalization { mean, std }
    }

    /// The same for `channels` channels, as a table; `None` where the number of values is neither that nor one.
    pub(super) fn table(&self, channels: usize) -> Option<Table> {
        let spread = |values: &[f64]| match values.len() {
            1 => Some(vec![values[0]; channels]),
            len if len == channels => Some(values.to_vec()),
            _ => None,
        };
        let (mean, std) = (spread(&self.mean)?, spread(&self.std)?);
        let of = |channel: usize| std::array::from_fn(|byte| ((byte as f64 / 255.0 - mean[channel]) / std[channel]) as f32);
        Some(Table { bytes: (0..channels).map(of).collect(), mean: mean.clone(), std: std.clone() })
    }

    /// Whether it suits the channels of `data`.
    pub(super) fn fit(&self, data: &str, channels: usize) -> Result<Table, DataError> {
        let given = if [1, channels].contains(&self.mean.len()) { self.std.len() } else { self.mean.len() };
        self.table(channels).ok_or_else(|| DataError::Channels { data: data.to_owned(), channels, given })
    }

    /// As a model's metadata keeps it: `{"mean":[..],"std":[..]}`.
    pub fn to_json(&self) -> String {
        serde_json::json!({ "mean": self.mean, "std": self.std }).to_string()
    }
}

/// The values of one channel, plane by plane.
fn planes<T: Copy>(values: &[T], channels: usize, area: usize, channel: usize) -> impl Iterator<Item = T> {
    values.chunks_exact((channels * area).max(1)).flat_map(move |example| example[channel * area..(channel + 1) * area].iter().copied())
}

/// Mean and variance of bytes over 255, exact until the division: a constant channel has variance 0.
fn byte_moments(bytes: impl Iterator<Item = u8>) -> (f64, f64) {
    let (mut count, mut sum, mut squares) = (0u128, 0u128, 0u128);
    for byte in bytes {
        count += 1;
        sum += u128::from(byte);
        squares += u128::from(byte) * u128::from(byte);
    }
    let scale = 255.0 * count.max(1) as f64;
    (sum as f64 / scale, (count * squares - sum * sum) as f64 / (scale * scale))
}

fn float_moments<I: Iterator<Item = f64>>(values: impl Fn() -> I) -> (f64, f64) {
    let count = values().count().max(1) as f64;
    let mean = values().sum::<f64>() / count;
    (mean, values().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count)
}

impl fmt::Display for Normalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        write!(f, "{}:{}", list(&self.mean), list(&self.std))
    }
}

impl FromStr for Normalization {
    type Err = ParseNormalizationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why| ParseNormalizationError { given: text.to_owned(), why };
        let list = |part: &str| -> Option<Vec<f64>> {
            part.split(',').map(|value| value.trim().parse().ok().filter(|value: &f64| value.is_finite())).collect()
        };
        let (mean, std) = text.split_once(':').ok_or_else(|| wrong("no colon"))?;
        let mean = list(mean).ok_or_else(|| wrong("a mean is not a number"))?;
        let std = list(std).ok_or_else(|| wrong("a deviation is not a number"))?;
        if std.iter().any(|&value| value <= 0.0) {
            return Err(wrong("a deviation is not positive"));
        }
        if mean.len() != std.len() && mean.len() != 1 && std.len() != 1 {
            return Err(wrong("as many means as deviations are needed"));
        }
        Ok(Normalization { mean, std })
    }
}

impl TryFrom<String> for Normalization {
    type Error = ParseNormalizationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Normalization> for String {
    fn from(normalization: Normalization) -> Self {
        normalization.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_channel_by_channel() {
        let pixels = Pixels::U8(vec![0, 255, 51, 51, 0, 255, 51, 51]);
        let measured = Normalization::measure(&pixels, [2, 1, 2]);
        assert!((measured.mean[0] - 0.5).abs() < 1e-12 && (measured.std[0] - 0.5).abs() < 1e-12);
        assert!((measured.mean[1] - 0.2).abs() < 1e-12 && measured.std[1] == 1.0);
        let floats = Normalization::measure(&Pixels::F32(vec![1.0, 3.0]), [1, 1, 2]);
        assert_eq!((floats.mean, floats.std), (vec![2.0], vec![1.0]));
    }

    #[test]
    fn text_round_trips_and_mistakes_are_told() {
        for text in ["0.5:0.25", "0.49,0.48,0.45:0.2,0.2,0.2"] {
            assert_eq!(text.parse::<Normalization>().unwrap().to_string(), text);
        }
        for (text, why) in [("1", "colon"), ("a:1", "mean"), ("1:NaN", "deviation"), ("0:0", "positive"), ("1,2:1,2,3", "as many")] {
            let error = text.parse::<Normalization>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn one_value_serves_every_channel_and_a_wrong_number_is_refused() {
        let one: Normalization = "0.5:0.5".parse().unwrap();
        assert_eq!(one.table(3).unwrap().byte(2, 255), 1.0);
        let two: Normalization = "0,0:1,1".parse().unwrap();
        let error = two.fit("cifar10", 3).unwrap_err().to_string();
        assert!(error.contains("2 values") && error.contains("3 channels"), "{error}");
    }
}
