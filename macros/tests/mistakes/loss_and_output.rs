use mest_macros::sparse_train;

#[sparse_train(loss = "mse")]
fn classes(x: Vector<6>) -> Logits<2> {
    linear(x, 2)
}

#[sparse_train(loss = "cross-entropy")]
fn values(x: Vector<6>) -> Values<2> {
    linear(x, 2)
}

fn main() {}
