use mest_macros::sparse_train;

#[sparse_train(model = "model.onnx")]
enum Net {
    A,
}

fn main() {}
