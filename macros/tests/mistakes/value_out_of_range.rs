use mest_macros::sparse_train;

#[sparse_train(sparsity = 1.5, momentum = -0.5, scheme = "block:0x1")]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    linear(x, 10)
}

fn main() {}
