use mest_macros::sparse_train;

#[sparse_train]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    let h = conv(x, 8);
    let h = conv(x, 8, 3, 2);
    let h = conv(x, 8, 3, kernel = 3);
    let h = relu();
    let h = concat(x);
    linear(h, 10)
}

fn main() {}
