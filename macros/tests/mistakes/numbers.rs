use mest_macros::sparse_train;

#[sparse_train]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    let n = 1 / 0;
    let n = 1 << 70;
    let n = true + 1;
    if x {}
    linear(x, 10)
}

fn main() {}
