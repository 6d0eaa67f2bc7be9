use mest_macros::sparse_train;

#[sparse_train(model = "model.onnx")]
struct Net {
    weights: Vec<f32>,
}

#[sparse_train(model = "model.onnx")]
struct Generic<T>;

fn main() {}
