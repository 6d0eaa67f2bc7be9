use mest_macros::sparse_train;

#[sparse_train(model = "model.onnx")]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    linear(x, 10)
}

fn main() {}
