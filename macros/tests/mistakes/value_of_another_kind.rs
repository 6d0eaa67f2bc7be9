use mest_macros::sparse_train;

#[sparse_train(batch = "many", lr = 1.0 / 8.0, nesterov = 3, std = 1, runtime = 3)]
fn net(x: Image<3, 8, 8>) -> Logits<10> {
    linear(x, 10)
}

fn main() {}
