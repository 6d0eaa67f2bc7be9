//! Adapts a model that was trained elsewhere to data of its own: sparse training from an ONNX file, and back to one.
//!
//!     cargo run --release --example personalise

use mest::compiler::engine::jit::Jit;
use mest::compiler::{onnx, pipeline, settings};
use mest::runtime::data::{Dataset, Pixels, Split};
use mest::runtime::lanes::Isa;
use mest::runtime::network::Network;
use mest::runtime::recipe::Recipe;
use mest::runtime::sparse::state;
use mest::runtime::train;
use std::error::Error;

/// A model compiled as `recipe` says, at the start of its training.
fn network(model: &[u8], data: &Dataset, recipe: &Recipe) -> Result<Jit, Box<dyn Error>> {
    let compiled = pipeline::compile(&onnx::import_bytes(model, None)?, &settings::of_recipe(recipe, Some(data)))?;
    let mut net = Jit::new(compiled.program, Isa::best(), settings::threads(recipe))?;
    train::initialize(&mut net, recipe)?;
    Ok(net)
}

/// Somebody who writes digits lying on their side.
fn turned(split: &mut Split, [rows, columns]: [usize; 2]) {
    let Pixels::U8(pixels) = &mut split.pixels else { return };
    for image in pixels.chunks_exact_mut(rows * columns) {
        let upright = image.to_vec();
        for (i, pixel) in image.iter_mut().enumerate() {
            *pixel = upright[i % columns * columns + i / columns];
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let recipe = |pairs: &[(&str, &str)]| Recipe::default().with(pairs.iter().copied()).map_err(|errors| errors[0].clone());
    // Stands for a file that came from somewhere else.
    let data = Dataset::load("digits")?;
    let general = recipe(&[("policy", "dense"), ("epochs", "4"), ("batch", "32"), ("lr", "0.05")])?;
    let mut net = network(&std::fs::read("examples/models/digits_mlp.onnx")?, &data, &general)?;
    train::fit(&mut net, &data, &general, None, false, &mut ())?;
    let pretrained = state::export(net.manifest(), net.arena());

    // The weights of largest magnitude are what the sparse training begins with.
    let mut own = data.clone();
    let [_, rows, columns] = own.dims;
    turned(&mut own.train, [rows, columns]);
    turned(&mut own.test, [rows, columns]);
    let personal = recipe(&[("sparsity", "0.8"), ("epochs", "4"), ("batch", "32"), ("lr", "0.02")])?;
    let mut net = network(&pretrained, &own, &personal)?;
    let before = train::evaluate(&mut net, &own, &own.test, &personal)?.accuracy;
    let after = train::fit(&mut net, &own, &personal, None, false, &mut ())?.test_accuracy;
    println!("accuracy on one's own data: {before:.3} before, {after:.3} after, with a fifth of the weights");
    std::fs::write(std::env::temp_dir().join("personal.onnx"), state::export(net.manifest(), net.arena()))?;
    Ok(())
}
