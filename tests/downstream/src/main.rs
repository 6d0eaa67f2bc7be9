//! What a user writes: a network by the macro, trained on the digits; it fails below an accuracy of 0.95.

use mest::runtime::{data::Dataset, train};
use mest::sparse_train;

/// A residual network, 80 % sparse.
#[sparse_train(sparsity = 0.8, batch = 32, lr = 0.05, epochs = 8)]
fn digits_net(x: Image<1, 8, 8>) -> Logits<10> {
    let mut h = relu(batch_norm(conv(x, 16, 3, bias = false)));
    for _ in 0..2 {
        h = relu(batch_norm(conv(h, 16, 3, bias = false)) + h);
    }
    linear(max_pool(h, 2), 10)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let digits = Dataset::load("digits")?;
    let mut net = DigitsNet::new(0);
    let report = train::fit(&mut net, &digits, &DigitsNet::recipe(), None, false, &mut ())?;
    println!("test accuracy {:.3}", report.test_accuracy);
    if report.test_accuracy > 0.95 { Ok(()) } else { Err("the network did not learn the digits".into()) }
}
