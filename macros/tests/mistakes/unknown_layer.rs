use mest_macros::sparse_train;

#[sparse_train]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    linear(cov(x, 8, 3), 10)
}

#[sparse_train]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    linear(relu(y), 10)
}

#[sparse_train]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    linear(conv(x, 8, 3, strides = 2), 10)
}

fn main() {}
