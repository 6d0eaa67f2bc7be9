use mest_macros::sparse_train;

#[sparse_train]
fn none() -> Logits<10> {
    linear(x, 10)
}

#[sparse_train]
fn two(x: Vector<4>, y: Vector<4>) -> Logits<10> {
    linear(x, 10)
}

#[sparse_train]
fn flat(x: Image<8, 8>) -> Logits<10> {
    linear(x, 10)
}

#[sparse_train]
fn empty(x: Image<1, 0, 8>) -> Logits<10> {
    linear(x, 10)
}

#[sparse_train]
fn slice(x: &[f32]) -> Logits<10> {
    linear(x, 10)
}

fn main() {}
