//! TensorBoard's event files: records of a protobuf message, framed with masked CRC-32C sums.
//!
//! A record is its length (u64), the masked sum of those eight bytes (u32), the bytes of an `Event`, and their masked sum; all little-endian
//! (tensorflow/core/lib/io/record_writer.h). Only scalars are written; the numbers of the fields are those of tensorflow/core/util/event.proto
//! and tensorflow/core/framework/summary.proto.

use prost::Message;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What the name of an event file begins with.
pub const PREFIX: &str = "events.out.tfevents.";

/// One record.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    /// In the first record of a file alone.
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// Values of one step.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// A named number.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// An event file that is being written.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// A new one in `folder`: a run that goes on writes another, which TensorBoard shows as one with those before.
    ///
    /// # Errors
    /// It can't be written.
    pub fn create(folder: &Path) -> io::Result<Self> {
        let time = now();
        // Two files of one second must not be one.
        let path = folder.join(format!("{PREFIX}{:010}.{:09}.mest", time as u64, (time.fract() * 1e9) as u64));
        let mut events = EventFile { file: File::create(&path)?, path };
        events.append(&Event { wall_time: time, file_version: Some("brain.Event:2".to_owned()), ..Default::default() })?;
        Ok(events)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds the values of a step.
    ///
    /// # Errors
    /// It can't be written.
    pub fn scalars<'a>(&mut self, step: u64, values: impl IntoIterator<Item = (&'a str, f64)>) -> io::Result<()> {
        let value = values.into_iter().map(|(tag, value)| Scalar { tag: tag.to_owned(), simple_value: value as f32 }).collect();
        self.append(&Event { wall_time: now(), step: step as i64, summary: Some(Summary { value }), ..Default::default() })
    }

    fn append(&mut self, event: &Event) -> io::Result<()> {
        self.file.write_all(&record(&event.encode_to_vec()))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(crc32c(&length)).to_le_bytes(), data, &masked(crc32c(data)).to_le_bytes()].concat()
}

/// A sum that may itself be summed without coming out as a constant.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The Castagnoli polynomial, its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| crc >> 8 ^ TABLE[((crc ^ u32::from(byte)) & 0xff) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_the_published_ones() {
        // RFC 3720, B.4, and the check value of CRC-32C.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked(0), 0xa282_ead8);
    }

    #[test]
    fn records_can_be_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path()).unwrap();
        events.scalars(3, [("loss/train", 0.5), ("density", 0.1)]).unwrap();
        let name = events.path().file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("events.out.tfevents."), "{name}");
        let bytes = std::fs::read(events.path()).unwrap();
        let mut rest = &bytes[..];
        let mut read = Vec::new();
        while let Some((header, after)) = rest.split_first_chunk::<12>() {
            let length = u64::from_le_bytes(header[..8].try_into().unwrap()) as usize;
            assert_eq!(header[8..], masked(crc32c(&header[..8])).to_le_bytes());
            let (data, after) = after.split_at(length);
            let (sum, after) = after.split_first_chunk::<4>().unwrap();
            assert_eq!(*sum, masked(crc32c(data)).to_le_bytes());
            read.push(Event::decode(data).unwrap());
            rest = after;
        }
        assert_eq!((read.len(), read[0].file_version.as_deref(), read[1].step), (2, Some("brain.Event:2"), 3));
        let values = &read[1].summary.as_ref().unwrap().value;
        assert_eq!((values[0].tag.as_str(), values[0].simple_value, values[1].simple_value), ("loss/train", 0.5, 0.1));
    }
}
