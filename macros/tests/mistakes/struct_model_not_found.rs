use mest_macros::sparse_train;

#[sparse_train(model = "no/such/model.onnx", batch = 8)]
struct Net;

fn main() {}
