use mest_macros::sparse_train;

#[sparse_train]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    let h = conv(x, 0, 3);
    let h = conv(x, 8, 3, padding = (1, 2, 3));
    let h = conv(x, 8, 3, bias = 1);
    let h = conv(x, 8, 3, init = kaiming);
    let h = dropout(x, 1.0);
    let h = relu(3);
    linear(h, 10)
}

fn main() {}
