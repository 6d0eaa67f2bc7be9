//! `TensorProto` to values: extents and data are held against each other before anything is allocated.

use super::report::{Kind, Refusal};
use onnx_protobuf::TensorProto;

/// ONNX's number for `float32`.
pub(super) const FLOAT: i32 = 1;
pub(super) const INT32: i32 = 6;
pub(super) const INT64: i32 = 7;
pub(super) const BOOL: i32 = 9;
pub(super) const DOUBLE: i32 = 11;

/// One number of a tensor that import computes with: shapes and their like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Extent {
    /// So many times the number of examples, whatever that will be; at least once.
    Batch(i64),
    /// A known number.
    Known(i64),
}

/// Elements of a folded tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Elements {
    /// float32 and float64.
    Floats(Vec<f32>),
    /// int64, int32 and bool.
    Integers(Vec<Extent>),
}

/// A tensor known at import.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Folded {
    pub(super) dims: Vec<usize>,
    pub(super) elements: Elements,
}

impl Folded {
    pub(super) fn scalar(value: f32) -> Self {
        Folded { dims: vec![], elements: Elements::Floats(vec![value]) }
    }

    pub(super) fn list(extents: Vec<Extent>) -> Self {
        Folded { dims: vec![extents.len()], elements: Elements::Integers(extents) }
    }

    /// The integers, if every one is known.
    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        let Elements::Integers(extents) = &self.elements else { return None };
        extents.iter().map(|e| if let Extent::Known(n) = e { Some(*n) } else { None }).collect()
    }

    /// The elements at `positions`, under other extents.
    pub(super) fn pick(&self, dims: Vec<usize>, positions: &[usize]) -> Folded {
        let elements = match &self.elements {
            Elements::Floats(values) => Elements::Floats(positions.iter().map(|&i| values[i]).collect()),
            Elements::Integers(values) => Elements::Integers(positions.iter().map(|&i| values[i]).collect()),
        };
        Folded { dims, elements }
    }

    /// How many elements there are.
    pub(super) fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// The elements as floats; `None` if the batch is among them.
    pub(super) fn to_floats(&self) -> Option<Vec<f32>> {
        match &self.elements {
            Elements::Floats(values) => Some(values.clone()),
            Elements::Integers(_) => self.integers().map(|values| values.into_iter().map(|v| v as f32).collect()),
        }
    }

    /// The only element, as a float.
    pub(super) fn single(&self) -> Option<f32> {
        match &self.elements {
            Elements::Floats(values) if values.len() == 1 => Some(values[0]),
            Elements::Integers(values) if values.len() == 1 => match values[0] {
                Extent::Known(n) => Some(n as f32),
                Extent::Batch(_) => None,
            },
            _ => None,
        }
    }
}

/// Name of an ONNX element type.
pub(super) fn type_name(data_type: i32) -> String {
    use onnx_protobuf::tensor_proto::DataType;
    use protobuf::Enum;
    match DataType::from_i32(data_type) {
        Some(known) => format!("{known:?}").to_lowercase(),
        None => format!("element type {data_type}"),
    }
}

/// Bytes of an element in `raw_data`, for the types that are read.
pub(super) fn element_bytes(data_type: i32) -> Option<usize> {
    match data_type {
        FLOAT | INT32 => Some(4),
        INT64 | DOUBLE => Some(8),
        BOOL => Some(1),
        _ => None,
    }
}

/// The extents as sizes, and their product. A zero extent is allowed: an empty list of axes has one.
pub(super) fn extents(dims: &[i64]) -> Result<(Vec<usize>, usize), Refusal> {
    let mut product = 1usize;
    let mut sizes = Vec::with_capacity(dims.len());
    for &dim in dims {
        let size = usize::try_from(dim)
            .map_err(|_| Refusal::new(Kind::Shape, format!("extents {dims:?} hold a negative one"), "export the model again"))?;
        product = product.checked_mul(size).filter(|&p| p <= isize::MAX as usize / 8).ok_or_else(|| {
            Refusal::new(Kind::Size, format!("extents {dims:?} multiply to more than memory can hold"), "the file is damaged or hostile")
        })?;
        sizes.push(size);
    }
    Ok((sizes, product))
}

fn mismatch(tensor: &TensorProto, what: &str, found: usize, expected: usize) -> Refusal {
    Refusal::new(
        Kind::Size,
        format!("extents {:?} of {} need {expected} {what}, the file has {found}", tensor.dims, type_name(tensor.data_type)),
        "the file is damaged; export the model again",
    )
}

fn wrong_type(tensor: &TensorProto, wanted: &str) -> Refusal {
    Refusal::new(
        Kind::ElementType,
        format!("has element type {}, {wanted} is needed", type_name(tensor.data_type)),
        "convert the model to float32 before exporting (in PyTorch: model.float())",
    )
}

/// The values of `tensor`, one a element, from `raw_data` or the typed field that belongs to its type.
fn numbers<T: Copy, const BYTES: usize>(
    tensor: &TensorProto,
    typed: Option<&[T]>,
    decode: impl Fn([u8; BYTES]) -> T,
) -> Result<(Vec<usize>, Vec<T>), Refusal> {
    let (dims, count) = extents(&tensor.dims)?;
    if tensor.segment.is_some() {
        return Err(Refusal::new(Kind::Malformed, "is stored in segments", "export the model again with whole tensors"));
    }
    let raw = tensor.raw_data.as_slice();
    if let Some(typed) = typed.filter(|t| raw.is_empty() && !t.is_empty()) {
        let values = if typed.len() == count { typed.to_vec() } else { return Err(mismatch(tensor, "elements", typed.len(), count)) };
        return Ok((dims, values));
    }
    if count.checked_mul(BYTES) != Some(raw.len()) {
        return Err(mismatch(tensor, "bytes", raw.len(), count * BYTES));
    }
    Ok((dims, raw.as_chunks::<BYTES>().0.iter().map(|&bytes| decode(bytes)).collect()))
}

/// A float32 tensor with no empty axis: what can be learned.
pub(super) fn float32(tensor: &TensorProto) -> Result<(Vec<usize>, Vec<f32>), Refusal> {
    if tensor.data_type != FLOAT {
        return Err(wrong_type(tensor, "float32"));
    }
    let (dims, values) = numbers(tensor, Some(&tensor.float_data), f32::from_le_bytes)?;
    if values.is_empty() {
        return Err(Refusal::new(Kind::Shape, format!("extents {dims:?} hold no element"), "remove the empty layer"));
    }
    Ok((dims, values))
}

/// Any tensor that import can compute with.
pub(super) fn folded(tensor: &TensorProto) -> Result<Folded, Refusal> {
    let known = |values: Vec<i64>| Elements::Integers(values.into_iter().map(Extent::Known).collect());
    let (dims, elements) = match tensor.data_type {
        FLOAT => numbers(tensor, Some(&tensor.float_data), f32::from_le_bytes).map(|(d, v)| (d, Elements::Floats(v)))?,
        DOUBLE => numbers(tensor, Some(&tensor.double_data), f64::from_le_bytes)
            .map(|(d, v)| (d, Elements::Floats(v.into_iter().map(|x| x as f32).collect())))?,
        INT64 => numbers(tensor, Some(&tensor.int64_data), i64::from_le_bytes).map(|(d, v)| (d, known(v)))?,
        INT32 => numbers(tensor, Some(&tensor.int32_data), i32::from_le_bytes)
            .map(|(d, v)| (d, known(v.into_iter().map(i64::from).collect())))?,
        BOOL => numbers(tensor, Some(&tensor.int32_data), |[byte]: [u8; 1]| i32::from(byte))
            .map(|(d, v)| (d, known(v.into_iter().map(|b| i64::from(b != 0)).collect())))?,
        _ => return Err(wrong_type(tensor, "float32, float64, int64, int32 or bool")),
    };
    Ok(Folded { dims, elements })
}

/// A float32 initialiser.
pub(super) fn encode(name: &str, dims: &[usize], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: FLOAT,
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..TensorProto::default()
    }
}

/// An int64 list as an initialiser.
pub(super) fn encode_list(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: vec![values.len() as i64],
        data_type: INT64,
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..TensorProto::default()
    }
}
