//! Decoded images, kept in a file of the folder that they come from, so that the next run reads instead of decoding.
//!
//! The file holds for the same images only: it begins with a key of their paths, sizes and times of change, and of the extents asked for. It can be
//! removed at any time; where it can't be written nothing is kept, and where it is damaged images are decoded again.

use super::images::Listed;
use flate2::Crc;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// What the file begins with.
const MAGIC: &[u8; 8] = b"mestimg1";
/// Magic, key, three extents, checksum of the pixels.
const HEADER_BYTES: usize = 8 + 8 + 12 + 4;

/// The place of a folder's decoded images.
pub(super) struct Cache {
    path: PathBuf,
    key: u64,
    images: usize,
}

impl Cache {
    /// Of `images`, all of them in `folder`, brought to `asked` extents; `None` where the system doesn't tell a file's size or time.
    pub(super) fn of<'a>(folder: &Path, asked: Option<[usize; 3]>, images: impl Iterator<Item = &'a Listed>) -> Option<Cache> {
        let (mut names, mut states, mut count) = (Crc::new(), Crc::new(), 0);
        asked.into_iter().flatten().for_each(|extent| states.update(&extent.to_le_bytes()));
        for image in images {
            let metadata = std::fs::metadata(&image.path).ok()?;
            let changed = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
            names.update(image.path.strip_prefix(folder).unwrap_or(&image.path).as_os_str().as_encoded_bytes());
            names.update(&[0]);
            states.update(&image.label.to_le_bytes());
            states.update(&metadata.len().to_le_bytes());
            states.update(&changed.as_nanos().to_le_bytes());
            count += 1;
        }
        let name = asked.map_or_else(String::new, |[channels, rows, width]| format!("-{channels}x{rows}x{width}"));
        let key = u64::from(names.sum()) << 32 | u64::from(states.sum());
        Some(Cache { path: folder.join(format!(".mest-images{name}")), key, images: count })
    }

    /// Extents and pixels of all images, if they are there.
    pub(super) fn read(&self) -> Option<([usize; 3], Vec<u8>)> {
        let mut bytes = std::fs::read(&self.path).ok()?;
        let header = bytes.get(..HEADER_BYTES)?;
        let word = |at: usize| header[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        let key = u64::from(word(8)?) | u64::from(word(12)?) << 32;
        let (dims, sum) = ([word(16)? as usize, word(20)? as usize, word(24)? as usize], word(28)?);
        if !header.starts_with(MAGIC) || key != self.key {
            return None;
        }
        let elements = dims.iter().try_fold(self.images, |all, &extent| all.checked_mul(extent))?;
        bytes.drain(..HEADER_BYTES);
        (bytes.len() == elements && checksum(&bytes) == sum).then_some((dims, bytes))
    }

    /// Keeps extents and pixels of all images, where the folder can be written to.
    pub(super) fn write(&self, dims: [usize; 3], pixels: [&[u8]; 2]) {
        let whole = [pixels[0], pixels[1]].concat();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + whole.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.key.to_le_bytes());
        dims.iter().for_each(|&extent| bytes.extend_from_slice(&(extent as u32).to_le_bytes()));
        bytes.extend_from_slice(&checksum(&whole).to_le_bytes());
        bytes.extend_from_slice(&whole);
        let part = self.path.with_extension(format!("{}.part", std::process::id()));
        let kept = std::fs::write(&part, &bytes).and_then(|()| std::fs::rename(&part, &self.path));
        if kept.is_err() {
            // Nothing depends on the file: the next run decodes again.
            let _ = std::fs::remove_file(&part);
        }
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = Crc::new();
    sum.update(bytes);
    sum.sum()
}
