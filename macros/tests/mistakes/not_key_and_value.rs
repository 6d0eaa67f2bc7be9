use mest_macros::sparse_train;

#[sparse_train(batch, lr = , 3 = 4, epochs = 1 2)]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    linear(x, 10)
}

fn main() {}
