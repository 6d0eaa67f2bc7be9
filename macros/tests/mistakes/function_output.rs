use mest_macros::sparse_train;

#[sparse_train]
fn none(x: Vector<4>) {
    linear(x, 10)
}

#[sparse_train]
fn vector(x: Vector<4>) -> Vector<10> {
    linear(x, 10)
}

#[sparse_train]
fn other(x: Vector<4>) -> Logits<10> {
    linear(x, 9)
}

#[sparse_train]
fn forgotten(x: Vector<4>) -> Logits<10> {
    let h = linear(x, 10);
}

#[sparse_train]
fn input(x: Vector<10>) -> Logits<10> {
    x
}

fn main() {}
