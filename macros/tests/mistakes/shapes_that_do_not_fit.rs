use mest_macros::sparse_train;

#[sparse_train]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    let a = conv(x, 8, 3, groups = 2);
    let b = conv(x, 8, 11, padding = 0);
    let c = max_pool(flatten(x), 2);
    let d = x + conv(x, 8, 3);
    let e = linear(x, 4, name = "e");
    let f = linear(x, 4, name = "e");
    linear(x, 10)
}

fn main() {}
