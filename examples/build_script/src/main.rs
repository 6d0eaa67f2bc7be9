//! A network compiled by `build.rs`.
//!
//!     cargo run --release --manifest-path examples/build_script/Cargo.toml

use mest_runtime::data::Dataset;
use mest_runtime::train;

mod digits {
    include!(concat!(env!("OUT_DIR"), "/digits_mlp.rs"));
}

use digits::Net;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = Dataset::load("digits")?;
    let mut net = Net::new(0);
    let report = train::fit(&mut net, &data, &Net::recipe(), None, false, &mut ())?;
    println!("test accuracy {:.3} after {} epochs", report.test_accuracy, report.epochs.len());

    // A checkpoint, and another network that goes on from it.
    let file = std::env::temp_dir().join("build-script.mest");
    net.save(&file)?;
    let mut other = Net::new(1);
    other.load(&file)?;
    let image: Vec<f32> = (0..64).map(|i| i as f32 / 64.0).collect();
    assert_eq!(net.evaluate(&image, &[3]), other.evaluate(&image, &[3]));
    Ok(())
}
