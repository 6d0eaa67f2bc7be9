use mest_macros::sparse_train;

#[sparse_train(model = 3, batch = "many", scheme = "block:0x1")]
struct Net {
    weights: Vec<f32>,
}

#[sparse_train(sparcity = 0.9)]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    let a = cov(x, 8, 3);
    let mut b = relu(a);
    for i in 0..5 {
        b = conv(b, 8, 0, strid = 2);
        b = relu(y);
    }
    let c = b + a;
    linear(c, 10)
}

fn main() {}
