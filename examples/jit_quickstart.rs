//! The compiler as a library: a model from the zoo, compiled in memory, trained on the embedded digits at 90 % sparsity.
//!
//!     cargo run --release --example jit_quickstart

use mest::compiler::engine::jit::Jit;
use mest::compiler::{onnx, pipeline, settings, zoo};
use mest::runtime::data::Dataset;
use mest::runtime::lanes::Isa;
use mest::runtime::recipe::Recipe;
use mest::runtime::train;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let model = zoo::build("resnet8", &zoo::ZooOptions { input: Some([1, 8, 8]), classes: Some(10), ..Default::default() })?;
    let imported = onnx::import_bytes(&model, None)?;
    let data = Dataset::load("digits")?;
    let recipe = Recipe::default().with([("sparsity", "0.9"), ("epochs", "4"), ("batch", "32")]).map_err(|errors| errors[0].clone())?;

    let compiled = pipeline::compile(&imported, &settings::of_recipe(&recipe, Some(&data)))?;
    for layer in &compiled.sparsity.layers {
        println!("{:32} {:>6} of {:>6} weights  {}", layer.name, layer.nnz(), layer.units.weights(), layer.reason);
    }
    let mut net = Jit::new(compiled.program, Isa::best(), settings::threads(&recipe))?;
    train::initialize(&mut net, &recipe)?;
    let report = train::fit(&mut net, &data, &recipe, None, false, &mut ())?;
    println!("test accuracy {:.3} after {} epochs", report.test_accuracy, recipe.epochs);
    Ok(())
}
