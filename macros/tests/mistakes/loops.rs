use mest_macros::sparse_train;

#[sparse_train]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    for i in 0.. {}
    for i in x {}
    for _ in 0..9000000000000 {}
    linear(x, 10)
}

fn main() {}
