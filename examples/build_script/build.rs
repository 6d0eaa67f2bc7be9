//! Compiles the network before the program is.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    mestc::build::Config::new("../models/digits_mlp.onnx").recipe("recipe.toml").key("epochs", 6).compile()?;
    Ok(())
}
