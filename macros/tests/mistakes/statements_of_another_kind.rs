use mest_macros::sparse_train;

#[sparse_train]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    relu(x);
    let h = x;
    h = relu(h);
    let g = h.relu();
    println!("x");
    fn inner() {}
    while true {}
    let m = match 3 { _ => x };
    return x;
}

fn main() {}
