//! Tensor data in files beside the model: read inline, from the model's folder and nowhere else.

use super::report::{Kind, Refusal};
use super::tensor::{element_bytes, extents, type_name};
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{GraphProto, TensorProto};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// Reads external data; what it hands out in all never exceeds the files it comes from.
pub(super) struct ExternalData<'a> {
    folder: Option<&'a Path>,
    files: HashMap<PathBuf, u64>,
    handed_out: u64,
}

fn refuse(why: impl Into<String>, hint: &str) -> Refusal {
    Refusal::new(Kind::ExternalData, why, hint)
}

const RE_EXPORT: &str = "export the model again, or save it as one file (onnx.save with save_as_external_data=False)";

/// The files that tensors of `graph` lie in, each once.
pub(super) fn files(graph: &GraphProto, folder: &Path) -> Vec<PathBuf> {
    let attributes = graph.node.iter().flat_map(|node| &node.attribute).filter_map(|attribute| attribute.t.as_ref());
    let entries = graph.initializer.iter().chain(attributes).flat_map(|tensor| &tensor.external_data);
    let locations: BTreeSet<&str> = entries.filter(|entry| entry.key == "location").map(|entry| entry.value.as_str()).collect();
    locations.into_iter().map(|location| folder.join(location)).collect()
}

impl<'a> ExternalData<'a> {
    /// `folder` is the model's own; without one, external data is refused.
    pub(super) fn new(folder: Option<&'a Path>) -> Self {
        ExternalData { folder, files: HashMap::new(), handed_out: 0 }
    }

    /// Brings the data of `tensor` inline, if it lies elsewhere.
    pub(super) fn bring_inline(&mut self, tensor: &mut TensorProto) -> Result<(), Refusal> {
        match tensor.data_location.enum_value() {
            Ok(DataLocation::DEFAULT) => return Ok(()),
            Ok(DataLocation::EXTERNAL) => {}
            Err(other) => return Err(Refusal::new(Kind::Malformed, format!("data location {other} is not known"), RE_EXPORT)),
        }
        let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str| {
            let parse = |text: &str| text.parse::<u64>().map_err(|_| refuse(format!("external {key} '{text}' is not a number"), RE_EXPORT));
            entry(key).map(parse).transpose()
        };
        let location = entry("location").ok_or_else(|| refuse("external data without a location", RE_EXPORT))?;
        let (_, count) = extents(&tensor.dims)?;
        let size = element_bytes(tensor.data_type).ok_or_else(|| {
            let why = format!("has element type {}, which is not read from external data", type_name(tensor.data_type));
            Refusal::new(Kind::ElementType, why, "convert the model to float32 before exporting")
        })?;
        let needed = (count as u64).checked_mul(size as u64).ok_or_else(|| refuse("is larger than any file", RE_EXPORT))?;
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(needed));
        if length != needed {
            let why = format!("extents {:?} need {needed} bytes, external length is {length}", tensor.dims);
            return Err(refuse(why, RE_EXPORT));
        }
        tensor.raw_data = self.read(location, offset, needed)?;
        tensor.external_data.clear();
        tensor.data_location = DataLocation::DEFAULT.into();
        Ok(())
    }

    fn read(&mut self, location: &str, offset: u64, length: u64) -> Result<Vec<u8>, Refusal> {
        let path = self.resolve(location)?;
        let failed = |e: std::io::Error| refuse(format!("external data '{location}': {e}"), "put the data file beside the model");
        let mut file = File::open(&path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        self.files.insert(path, size);
        if offset.checked_add(length).is_none_or(|end| end > size) {
            let why = format!("external data '{location}' has {size} bytes, {length} from byte {offset} are asked for");
            return Err(refuse(why, RE_EXPORT));
        }
        self.handed_out += length;
        if self.handed_out > self.files.values().sum() {
            return Err(Refusal::new(Kind::Size, "external tensors overlap: together they exceed their files", RE_EXPORT));
        }
        let mut data = vec![0; length as usize];
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut data)).map_err(failed)?;
        Ok(data)
    }

    /// The file that `location` names, if it is a plain one inside the model's folder, symbolic links followed.
    fn resolve(&self, location: &str) -> Result<PathBuf, Refusal> {
        let inside = "external data must lie in the model's folder";
        let folder =
            self.folder.ok_or_else(|| refuse(format!("needs external data '{location}', and the model has no folder"), RE_EXPORT))?;
        let relative = Path::new(location);
        let plain = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if location.is_empty() || !plain || location.contains('\\') {
            return Err(refuse(format!("external data '{location}' is not a path inside the model's folder"), inside));
        }
        let failed = |e: std::io::Error| refuse(format!("external data '{location}': {e}"), "put the data file beside the model");
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let folder = folder.canonicalize().map_err(failed)?;
        let path = folder.join(relative).canonicalize().map_err(failed)?;
        if !path.starts_with(&folder) {
            return Err(refuse(format!("external data '{location}' leads out of the model's folder through a symbolic link"), inside));
        }
        if !path.is_file() {
            return Err(refuse(format!("external data '{location}' is not a file"), inside));
        }
        Ok(path)
    }
}
