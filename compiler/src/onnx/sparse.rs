//! Weights that are mostly zeros as ONNX `sparse_initializer`.

use super::import::parse;
use super::report::{ImportReport, Place};
use super::tensor::FLOAT;
use onnx_protobuf::{Message, SparseTensorProto, TensorProto};
use protobuf::MessageField;

/// ONNX's number for int64.
const INT64: i32 = 7;

/// The model file `bytes` with each float32 initialiser in sparse form where that is smaller. Its zeros are those of the file: a live
/// weight that is exactly 0 is left out too, which changes no result.
///
/// # Errors
/// The bytes are no model.
pub fn sparse_initializers(bytes: &[u8]) -> Result<Vec<u8>, ImportReport> {
    let report = |refusal: super::report::Refusal| ImportReport { file: "the model".to_owned(), problems: vec![refusal.at(Place::Model)] };
    let mut model = parse(bytes).map_err(report)?;
    let graph = model.graph.mut_or_insert_default();
    let (sparse, dense): (Vec<_>, Vec<_>) = std::mem::take(&mut graph.initializer).into_iter().map(to_sparse).partition(Result::is_ok);
    graph.sparse_initializer.extend(sparse.into_iter().flatten());
    graph.initializer = dense.into_iter().filter_map(Result::err).map(|tensor| *tensor).collect();
    model
        .write_to_bytes()
        .map_err(|error| report(super::report::Refusal::new(super::report::Kind::Malformed, error.to_string(), "train the model again")))
}

/// The sparse form of a weight, or the tensor itself: where that is smaller, where it is not plain float32, and biases, which may begin at
/// zero without being sparse.
fn to_sparse(tensor: TensorProto) -> Result<SparseTensorProto, Box<TensorProto>> {
    let count: i64 = tensor.dims.iter().product();
    let (values, rest) = tensor.raw_data.as_chunks::<4>();
    if tensor.data_type != FLOAT || !rest.is_empty() || values.len() as i64 != count || tensor.dims.len() < 2 {
        return Err(Box::new(tensor));
    }
    // -0 is a zero too.
    let live: Vec<(i64, [u8; 4])> = (0..).zip(values.iter().copied()).filter(|(_, bytes)| f32::from_le_bytes(*bytes) != 0.0).collect();
    // A value with its place takes 12 bytes, against 4 without.
    if live.len() * 3 >= values.len() {
        return Err(Box::new(tensor));
    }
    let nnz = live.len() as i64;
    let mut stored = TensorProto { name: tensor.name.clone(), dims: vec![nnz], data_type: FLOAT, ..Default::default() };
    stored.raw_data = live.iter().flat_map(|(_, bytes)| *bytes).collect();
    let mut indices = TensorProto { dims: vec![nnz], data_type: INT64, ..Default::default() };
    indices.raw_data = live.iter().flat_map(|(index, _)| index.to_le_bytes()).collect();
    let (values, indices) = (MessageField::some(stored), MessageField::some(indices));
    Ok(SparseTensorProto { values, indices, dims: tensor.dims, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::{self, ZooOptions};

    /// The built-in perceptron with all but every tenth weight of its first layer at zero.
    fn pruned() -> onnx_protobuf::ModelProto {
        let mut model = parse(&zoo::build("mlp", &ZooOptions::default()).unwrap()).unwrap();
        let weight = &mut model.graph.mut_or_insert_default().initializer[0];
        for (index, value) in weight.raw_data.chunks_exact_mut(4).enumerate() {
            if index % 10 != 0 {
                value.copy_from_slice(&(-0.0_f32).to_le_bytes());
            }
        }
        model
    }

    #[test]
    fn zeros_are_left_out_and_everything_else_stays() {
        let model = pruned();
        let bytes = model.write_to_bytes().unwrap();
        let sparse = sparse_initializers(&bytes).unwrap();
        assert!(sparse.len() < bytes.len() / 2, "{} of {}", sparse.len(), bytes.len());
        let back = parse(&sparse).unwrap();
        let (graph, back) = (&model.graph, &back.graph);
        assert_eq!(back.sparse_initializer.len(), 1);
        assert_eq!(back.initializer[..], graph.initializer[1..]);
        let (stored, original) = (&back.sparse_initializer[0], &graph.initializer[0]);
        assert_eq!((&stored.values.name, &stored.dims), (&original.name, &original.dims));
        let mut dense = vec![0.0_f32; original.raw_data.len() / 4];
        let indices = stored.indices.raw_data.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b) as usize);
        for (index, &bytes) in indices.zip(stored.values.raw_data.as_chunks::<4>().0) {
            dense[index] = f32::from_le_bytes(bytes);
        }
        let expected: Vec<f32> = original.raw_data.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        assert_eq!(dense, expected);
    }

    #[test]
    fn a_network_of_which_a_tenth_lives_takes_less_than_two_fifths() {
        let mut model = parse(&zoo::build("mlp", &ZooOptions { input: Some([1, 28, 28]), ..ZooOptions::default() }).unwrap()).unwrap();
        let weights = model.graph.mut_or_insert_default().initializer.iter_mut().filter(|tensor| tensor.dims.len() > 1);
        for weight in weights.filter(|weight| weight.dims[0] > 10) {
            let dead = weight.raw_data.chunks_exact_mut(4).enumerate().filter(|(index, _)| index % 10 != 3);
            dead.for_each(|(_, value)| value.fill(0));
        }
        let bytes = model.write_to_bytes().unwrap();
        let sparse = sparse_initializers(&bytes).unwrap();
        assert!(5 * sparse.len() < 2 * bytes.len(), "{} of {}", sparse.len(), bytes.len());
    }

    #[test]
    fn a_dense_model_stays_as_it_is() {
        let bytes = zoo::build("mlp", &ZooOptions::default()).unwrap();
        let back = parse(&sparse_initializers(&bytes).unwrap()).unwrap();
        assert_eq!(back, parse(&bytes).unwrap(), "not even the biases, which begin at zero, are sparse");
    }

    #[test]
    fn what_is_no_model_is_refused() {
        assert!(sparse_initializers(b"no model").is_err());
    }
}
