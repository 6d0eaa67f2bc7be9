//! Checkpoints: the whole training state in one file.
//!
//! Layout, little-endian: `MESTCKPT`, version (u32), CRC-32 of the content (u32), bytes of the content (u64), then the content, a protobuf message.

use super::{EpochMetrics, TrainError, file::write_atomically};
use crate::arena::Arena;
use crate::lanes::math::widened;
use crate::manifest::{Element, Manifest, Parameter, Slot, Storage};
use crate::network::{self, Network};
use crate::recipe::{Difference, Recipe};
use crate::sampling::SamplingState;
use crate::sparse::state::{self, StateError};
use crate::sparse::topology;
use prost::Message;
use std::hash::Hasher;
use std::io;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"MESTCKPT";
/// Of the layout above and the messages below.
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;

/// A training's state after whole epochs.
#[derive(Clone, PartialEq, Message)]
pub struct Checkpoint {
    /// The model's name.
    #[prost(string, tag = "1")]
    pub model: String,
    /// Identifies the model: parameters, their storage, the file that it was compiled from.
    #[prost(fixed64, tag = "2")]
    pub model_hash: u64,
    /// The recipe as JSON.
    #[prost(string, tag = "3")]
    pub recipe: String,
    /// The recipe's seed.
    #[prost(uint64, tag = "4")]
    pub seed: u64,
    /// Epochs done.
    #[prost(uint32, tag = "5")]
    pub epoch: u32,
    /// Iterations done.
    #[prost(uint64, tag = "6")]
    pub iteration: u64,
    /// Identifies the training data.
    #[prost(fixed64, tag = "7")]
    pub data_hash: u64,
    /// Seconds of training so far.
    #[prost(double, tag = "8")]
    pub wall_s: f64,
    /// Measurements so far.
    #[prost(message, repeated, tag = "9")]
    pub metrics: Vec<EpochMetrics>,
    /// In the order of the manifest.
    #[prost(message, repeated, tag = "10")]
    pub parameters: Vec<ParameterState>,
    /// Which examples are left out and what decides that; absent where all are trained on.
    #[prost(message, optional, tag = "11")]
    pub sampling: Option<SamplingState>,
}

/// One parameter with its training state. Values and moments are in storage order.
#[derive(Clone, PartialEq, Message)]
pub struct ParameterState {
    /// Its ONNX initialiser's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its ONNX extents.
    #[prost(uint64, repeated, tag = "2")]
    pub dims: Vec<u64>,
    /// Outputs and input channels of a unit; none for plain storage.
    #[prost(uint32, repeated, tag = "3")]
    pub block: Vec<u32>,
    /// The live units, ascending; none for plain storage.
    #[prost(uint32, repeated, tag = "4")]
    pub units: Vec<u32>,
    /// Values of the live units, or all.
    #[prost(float, repeated, tag = "5")]
    pub values: Vec<f32>,
    /// Optimiser state.
    #[prost(message, repeated, tag = "6")]
    pub moments: Vec<Floats>,
}

/// Values of one slot, in storage order: as floats or as halves.
#[derive(Clone, PartialEq, Message)]
pub struct Floats {
    /// Those of a slot of floats.
    #[prost(float, repeated, tag = "1")]
    pub values: Vec<f32>,
    /// Those of a slot of halves ([`Element::Bf16`]), two bytes each.
    #[prost(bytes = "vec", tag = "2")]
    pub halves: Vec<u8>,
}

impl Floats {
    /// The first `count` elements of a slot.
    fn capture(arena: &Arena, slot: Slot, count: usize) -> Self {
        match slot.element {
            Element::Bf16 => {
                Floats { values: vec![], halves: arena.halves(slot)[..count].iter().flat_map(|half| half.to_le_bytes()).collect() }
            }
            Element::F32 | Element::U32 => Floats { values: arena.floats(slot)[..count].to_vec(), halves: vec![] },
        }
    }

    /// Puts them to the front of a slot: as they are, or rounded to the nearest where it holds halves and they are floats.
    fn restore(&self, arena: &mut Arena, slot: Slot) {
        let halves = self.halves.as_chunks::<2>().0.iter().map(|&half| widened(u16::from_le_bytes(half)));
        state::store(arena, slot, &self.values.iter().copied().chain(halves).collect::<Vec<_>>());
    }

    fn len(&self) -> usize {
        self.values.len() + self.halves.len().div_ceil(2)
    }
}

/// Why a checkpoint can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refused.
    #[error("{path}: {source}; check that the checkpoint can be read", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Not a checkpoint.
    #[error("{path}: not a checkpoint of mest; give the folder of a run", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A version that this program doesn't know.
    #[error("{path}: checkpoint version {found}, this mest reads {VERSION}; use the mest that wrote it, or train again", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file ends early.
    #[error("{path}: the checkpoint is truncated, {found} of {expected} bytes; restore it from a copy, or train again with --force", path = path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        found: u64,
        /// Bytes that it should have.
        expected: u64,
    },
    /// The content isn't what was written.
    #[error("{path}: the checkpoint is corrupted ({why}); restore it from a copy, or train again with --force", path = path.display())]
    Corrupted {
        /// The file.
        path: PathBuf,
        /// How that was noticed.
        why: String,
    },
    /// Of another model.
    #[error("the checkpoint is of model `{theirs}`, this one is `{ours}`: {why}; resume with the model that the run began with")]
    Model {
        /// The checkpoint's.
        theirs: String,
        /// The network's.
        ours: String,
        /// The first difference.
        why: String,
    },
    /// A mask that the network can't hold.
    #[error("the checkpoint doesn't fit the compiled network: {0}")]
    State(#[from] StateError),
    /// Of a run with another recipe.
    #[error("the run began with {}; resume without changing them", .0.iter().map(show).collect::<Vec<_>>().join(", "))]
    Recipe(Vec<Difference>),
    /// Of a run on other data.
    #[error("the run began on other data than `{data}`; resume with the same files")]
    Data {
        /// What was given.
        data: String,
    },
}

fn show(difference: &Difference) -> String {
    format!("{} = {} where now it is {}", difference.key, difference.ours, difference.theirs)
}

/// The position of a run, and what it was made of.
#[derive(Clone, Debug)]
pub struct Position<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// Epochs done.
    pub epoch: usize,
    /// Iterations done.
    pub iteration: u64,
    /// Identifies the training data.
    pub data_hash: u64,
    /// Seconds of training so far.
    pub wall_s: f64,
    /// Measurements so far.
    pub metrics: &'a [EpochMetrics],
    /// Which examples are left out.
    pub sampling: Option<SamplingState>,
}

/// Writes the state of a network that is stepped by hand, `iterations` steps so far.
///
/// # Errors
/// [`TrainError::Write`].
pub fn save(net: &dyn Network, recipe: &Recipe, iterations: u64, path: &Path) -> Result<(), TrainError> {
    let position = Position { recipe, epoch: 0, iteration: iterations, data_hash: 0, wall_s: 0.0, metrics: &[], sampling: None };
    Checkpoint::capture(net.manifest(), net.arena(), position).write(path)
}

/// Puts the state of the checkpoint at `path` into `net`; the iterations that led to it.
///
/// # Errors
/// Every [`CheckpointError`] but those of a mismatching run.
pub fn load(net: &mut dyn Network, path: &Path) -> Result<u64, TrainError> {
    let checkpoint = Checkpoint::read(path)?;
    network::with_parts(net, |manifest, arena| checkpoint.restore(manifest, arena))?;
    Ok(checkpoint.iteration)
}

impl Checkpoint {
    /// The state of a network at a position of its run.
    pub fn capture(manifest: &Manifest, arena: &Arena, position: Position<'_>) -> Self {
        let parameters = manifest.parameters.iter().enumerate();
        Checkpoint {
            model: manifest.name.to_string(),
            model_hash: model_hash(manifest),
            recipe: serde_json::Value::Object(position.recipe.to_map()).to_string(),
            seed: position.recipe.seed,
            epoch: position.epoch as u32,
            iteration: position.iteration,
            data_hash: position.data_hash,
            wall_s: position.wall_s,
            metrics: position.metrics.to_vec(),
            sampling: position.sampling,
            parameters: parameters.map(|(index, parameter)| ParameterState::capture(manifest, arena, index, parameter)).collect(),
        }
    }

    /// Puts the state back. Everything else in the arena follows from it.
    ///
    /// # Errors
    /// [`CheckpointError::Model`] or [`CheckpointError::State`]; what fits has been put back then.
    pub fn restore(&self, manifest: &Manifest, arena: &mut Arena) -> Result<(), CheckpointError> {
        self.check_model(manifest)?;
        for (index, (state, parameter)) in self.parameters.iter().zip(manifest.parameters.iter()).enumerate() {
            if matches!(parameter.storage, Storage::Matrix { .. }) {
                state::set_mask(manifest, arena, index, &state.units)?;
            } else {
                arena.words_mut(parameter.count)[0] = state.values.len() as u32;
            }
            arena.floats_mut(parameter.value)[..state.values.len()].copy_from_slice(&state.values);
            for (slot, moment) in parameter.moments.iter().zip(&state.moments) {
                moment.restore(arena, *slot);
            }
            topology::refresh_values(manifest, arena, index);
        }
        Ok(())
    }

    fn check_model(&self, manifest: &Manifest) -> Result<(), CheckpointError> {
        let differs = |why: String| Err(CheckpointError::Model { theirs: self.model.clone(), ours: manifest.name.to_string(), why });
        if self.parameters.len() != manifest.parameters.len() {
            return differs(format!("{} parameters, not {}", self.parameters.len(), manifest.parameters.len()));
        }
        for (state, parameter) in self.parameters.iter().zip(manifest.parameters.iter()) {
            if let Some(why) = state.difference(parameter) {
                return differs(why);
            }
        }
        if self.model_hash != model_hash(manifest) {
            return differs("the same parameters, but another graph or other initial values".to_owned());
        }
        Ok(())
    }

    /// Whether the run may go on with `recipe` on data identified by `data_hash`.
    ///
    /// # Errors
    /// [`CheckpointError::Recipe`] with every key that differs, or [`CheckpointError::Data`].
    pub fn check_run(&self, path: &Path, recipe: &Recipe, data_name: &str, data_hash: u64) -> Result<(), CheckpointError> {
        let corrupted = |error: serde_json::Error| CheckpointError::Corrupted { path: path.to_owned(), why: error.to_string() };
        let theirs: Recipe = serde_json::from_str(&self.recipe).map_err(corrupted)?;
        let differences = theirs.differences(recipe);
        if !differences.is_empty() {
            return Err(CheckpointError::Recipe(differences));
        }
        if self.data_hash != data_hash {
            return Err(CheckpointError::Data { data: data_name.to_owned() });
        }
        Ok(())
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let content = self.encode_to_vec();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + content.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&checksum(&content).to_le_bytes());
        bytes.extend_from_slice(&(content.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&content);
        bytes
    }

    /// Writes it to `path`; a crash leaves the old file or the new one.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        write_atomically(path, &self.to_bytes())
    }

    /// Reads the file at `path` and checks that it is what was written.
    ///
    /// # Errors
    /// Every [`CheckpointError`] but those of a mismatching network or run.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let bytes = std::fs::read(path).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
        Checkpoint::from_bytes(path, &bytes)
    }

    fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let truncated = |expected: u64| CheckpointError::Truncated { path: path.to_owned(), found: bytes.len() as u64, expected };
        if !bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) {
            return Err(CheckpointError::Foreign { path: path.to_owned() });
        }
        let Some((header, content)) = bytes.split_at_checked(HEADER_BYTES) else { return Err(truncated(HEADER_BYTES as u64)) };
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if word(8) != VERSION {
            return Err(CheckpointError::Version { path: path.to_owned(), found: word(8) });
        }
        let length = u64::from(word(16)) | u64::from(word(20)) << 32;
        if (content.len() as u64) < length {
            return Err(truncated(length.saturating_add(HEADER_BYTES as u64)));
        }
        let corrupted = |why: String| CheckpointError::Corrupted { path: path.to_owned(), why };
        if content.len() as u64 > length {
            return Err(corrupted(format!("it goes on for {} bytes after its end", content.len() as u64 - length)));
        }
        if checksum(content) != word(12) {
            return Err(corrupted("its checksum doesn't match".to_owned()));
        }
        Checkpoint::decode(content).map_err(|error| corrupted(error.to_string()))
    }
}

impl ParameterState {
    fn capture(manifest: &Manifest, arena: &Arena, index: usize, parameter: &Parameter) -> Self {
        let units = state::mask(manifest, arena, index);
        let stored = stored_elements(parameter, units.len());
        ParameterState {
            name: parameter.name.to_string(),
            dims: parameter.dims.iter().map(|&extent| extent as u64).collect(),
            block: block(parameter),
            units,
            values: arena.floats(parameter.value)[..stored].to_vec(),
            moments: parameter.moments.iter().map(|&slot| Floats::capture(arena, slot, stored)).collect(),
        }
    }

    /// What keeps it from being the state of `parameter`.
    fn difference(&self, parameter: &Parameter) -> Option<String> {
        let name = &self.name;
        if *name != parameter.name {
            return Some(format!("parameter `{name}` where this has `{}`", parameter.name));
        }
        if !self.dims.iter().copied().eq(parameter.dims.iter().map(|&extent| extent as u64)) {
            return Some(format!("parameter `{name}` is {:?}, not {:?}", self.dims, parameter.dims));
        }
        if self.block != block(parameter) {
            return Some(format!("parameter `{name}` is stored in blocks of {:?}, not {:?}", self.block, block(parameter)));
        }
        if self.moments.len() != parameter.moments.len() {
            return Some(format!("parameter `{name}` has {} moments, not {}", self.moments.len(), parameter.moments.len()));
        }
        let stored = stored_elements(parameter, self.units.len());
        let mut lengths = std::iter::once(self.values.len()).chain(self.moments.iter().map(Floats::len));
        let wrong = lengths.find(|&length| length != stored)?;
        Some(format!("parameter `{name}` has {wrong} values where its mask has {stored}"))
    }
}

/// Extents of a unit; empty for plain storage.
fn block(parameter: &Parameter) -> Vec<u32> {
    match parameter.storage {
        Storage::Matrix { block, .. } => vec![block.rows as u32, block.columns as u32],
        Storage::Plain => Vec::new(),
    }
}

/// Elements that are stored with `units` live units.
fn stored_elements(parameter: &Parameter, units: usize) -> usize {
    match parameter.storage {
        Storage::Matrix { block, .. } => units * block.rows * block.columns,
        Storage::Plain => state::element_count(parameter),
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Fowler, Noll and Vo's hash (1a), the same everywhere and for ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Identifies a model: what it computes, not how it was compiled.
fn model_hash(manifest: &Manifest) -> u64 {
    let mut hash = Fnv::default();
    hash.write(&manifest.template.bytes);
    for parameter in manifest.parameters.iter() {
        hash.write(parameter.name.as_bytes());
        hash.write(&[0, parameter.role as u8]);
    }
    hash.finish()
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
