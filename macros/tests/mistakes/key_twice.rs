use mest_macros::sparse_train;

#[sparse_train(batch = 8, batch = 16)]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    linear(x, 10)
}

fn main() {}
