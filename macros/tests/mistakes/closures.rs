use mest_macros::sparse_train;

#[sparse_train]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    let mut h = x;
    let f = |y| { h = y; y };
    let a = f(x);
    let g = |y, n| linear(y, n);
    let b = g(x);
    linear(x, 10)
}

fn main() {}
