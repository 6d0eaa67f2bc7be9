//! A network described in Rust and compiled into this program: there is no model file, and nothing is compiled when it runs.
//!
//!     cargo run --release --example macro_quickstart

use mest::runtime::data::Dataset;
use mest::runtime::train;
use mest::sparse_train;

/// A small residual network for 8x8 digits, 80 % sparse.
#[sparse_train(sparsity = 0.8, batch = 32, lr = 0.05, epochs = 4)]
fn digits_net(x: Image<1, 8, 8>) -> Logits<10> {
    let mut h = relu(batch_norm(conv(x, 16, 3, bias = false)));
    for channels in [16, 32] {
        h = relu(batch_norm(conv(h, channels, 3, bias = false)));
        h = relu(batch_norm(conv(h, channels, 3, bias = false)) + h);
    }
    linear(global_avg_pool(h), 10)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = Dataset::load("digits")?;
    let mut net = DigitsNet::new(0);
    let report = train::fit(&mut net, &data, &DigitsNet::recipe(), None, false, &mut ())?;
    println!("test accuracy {:.3} after {} epochs", report.test_accuracy, report.epochs.len());
    std::fs::write(std::env::temp_dir().join("digits_net.onnx"), net.export_onnx())?;
    Ok(())
}
