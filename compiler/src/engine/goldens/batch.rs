/// What a step learns from: `examples` of `inputs` elements, a label for each, two values for each.
struct Examples {
    input: Vec<f32>,
    labels: Vec<u32>,
    values: Vec<f32>,
}

/// Those of step `step`.
fn examples(step: usize, examples: usize, inputs: usize) -> Examples {
    let numbers = |count: usize| (0..count).map(|index| ((index * 37 + step * 11) % 64) as f32 / 32.0 - 1.0).collect();
    let labels = (0..examples).map(|example| ((example + step) % 2) as u32).collect();
    Examples { input: numbers(examples * inputs), labels, values: numbers(2 * examples) }
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
