use mest_macros::sparse_train;

#[sparse_train]
fn generic<T>(x: Vector<4>) -> Logits<10> {
    linear(x, 10)
}

#[sparse_train]
async fn later(x: Vector<4>) -> Logits<10> {
    linear(x, 10)
}

fn main() {}
