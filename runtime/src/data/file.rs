//! Reads files without trusting the sizes that they claim.

use super::DataError;
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// Deflate's best: a byte expands to at most this many.
const MAX_EXPANSION: u64 = 1032;

/// What may follow the last entry of an archive and still be read to find its checksum: padding, not data.
pub(super) const TRAILER: u64 = 1 << 20;

/// An open file, decompressed on the way where its name ends in `.gz` or `.tgz`.
pub(super) struct Source {
    reader: Box<dyn Read>,
    /// Bytes that it can yield at most.
    pub(super) most: u64,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// Opens `path`.
pub(super) fn open(path: &Path) -> Result<Source, DataError> {
    let at = |source| DataError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(at)?;
    let bytes = file.metadata().map_err(at)?.len();
    let compressed = path.extension().is_some_and(|extension| extension == "gz" || extension == "tgz");
    Ok(if compressed {
        Source { reader: Box::new(GzDecoder::new(BufReader::new(file))), most: bytes.saturating_mul(MAX_EXPANSION) }
    } else {
        Source { reader: Box::new(BufReader::new(file)), most: bytes }
    })
}

/// Reads at most `limit` bytes, allocating as they come.
pub(super) fn read(path: &Path, source: &mut dyn Read, limit: u64) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    source.take(limit).read_to_end(&mut bytes).map_err(|error| failure(path, error))?;
    Ok(bytes)
}

/// A read that failed: damage where the content is to blame, else the system.
pub(super) fn failure(path: &Path, error: io::Error) -> DataError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
            DataError::Damaged { path: path.to_owned(), why: error.to_string() }
        }
        _ => DataError::Io { path: path.to_owned(), source: error },
    }
}
