//! A device's view: memory that is handed in, one thread, steps that allocate nothing, and masks that move while it learns.
//!
//!     cargo run --release --example on_device
//!
//! With `std = false` nothing here needs an operating system: the same network builds into a `#![no_std]` program that depends on
//! `mest-runtime` without default features. There the memory is a static array.

use mest::runtime::lanes::Isa;
use mest::runtime::mutation::{MutationConfig, Mutator, Progress, policy};
use mest::runtime::network::Network;
use mest::sparse_train;

/// Tells a rising signal of 32 samples from a falling one.
#[sparse_train(sparsity = 0.8, batch = 4, lr = 0.05, std = false)]
fn gesture(x: Vector<32>) -> Logits<2> {
    linear(relu(linear(x, 48)), 2)
}

const STEPS: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let memory: &'static mut [u8] = Box::leak(vec![0; Gesture::MEMORY_BYTES].into_boxed_slice());
    let mut net = Gesture::over(memory, 0, Isa::best())?;
    let mut mutator = Mutator::new(net.manifest(), MutationConfig::new(policy("mest-em")?), 0);
    let (mut samples, mut first, mut last) = ([0.0; 4 * 32], 0.0, 0.0);
    for step in 0..STEPS {
        net.mutate(&mut mutator, &Progress { epoch: step, epochs: STEPS, iteration: step, iterations: STEPS });
        for (i, sample) in samples.iter_mut().enumerate() {
            let (example, time) = (i / 32, (i % 32) as f32 / 32.0);
            let noise = ((step * 131 + i * 37) % 17) as f32 / 17.0 - 0.5;
            *sample = noise + if example % 2 == 0 { time } else { 1.0 - time };
        }
        last = net.step(&samples, &[0, 1, 0, 1]).loss;
        if step == 0 {
            first = last;
        }
    }
    println!("{} bytes; loss {first:.3} at the beginning, {last:.3} after {STEPS} steps", Gesture::MEMORY_BYTES);
    Ok(())
}
