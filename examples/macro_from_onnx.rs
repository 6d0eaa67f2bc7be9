//! An ONNX model compiled into this program: no model file is read and nothing is compiled when it runs.
//!
//!     cargo run --release --example macro_from_onnx

use mest::runtime::data::Dataset;
use mest::runtime::train;
use mest::sparse_train;

/// A perceptron for 8x8 digits, 80 % sparse. `mestc zoo mlp --input 1x8x8 -o examples/models/digits_mlp.onnx` wrote the model.
#[sparse_train(model = "examples/models/digits_mlp.onnx", sparsity = 0.8, batch = 32, lr = 0.05, epochs = 8)]
struct Net;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = Dataset::load("digits")?;
    let mut net = Net::new(0);
    let report = train::fit(&mut net, &data, &Net::recipe(), None, false, &mut ())?;
    println!("test accuracy {:.3} after {} epochs", report.test_accuracy, report.epochs.len());
    std::fs::write(std::env::temp_dir().join("digits.onnx"), net.export_onnx())?;
    Ok(())
}
