//! `#[sparse_train]`: a network compiled while the program that uses it is built.

mod attribute;
mod expand;
mod function;
mod report;
#[cfg(test)]
mod tests;

use proc_macro::TokenStream;

/// Compiles a sparse network into the program: from an ONNX model, or from a function that describes it.
///
/// # From a model
///
/// On a unit struct, with the model's path relative to the crate's `Cargo.toml`. It is compiled again when the file changes.
///
/// ```ignore
/// #[mest::sparse_train(model = "models/digits.onnx", sparsity = 0.9, scheme = "block:4x1", batch = 32)]
/// struct Net;
///
/// let mut net = Net::new(0);
/// let report = net.step(&images, &labels);
/// std::fs::write("trained.onnx", net.export_onnx())?;
/// ```
///
/// Every key but `model`, `runtime` and `std` is one of the recipe's, spelled with `_`: numbers, strings, booleans and arrays of them, as in the
/// TOML file. `runtime = path` names the runtime crate where it is not reached through `mest`; `std = false` leaves out what needs `std` (`new`, `recipe`, `save`, `load`), and `Net::over` is
/// the constructor then, over memory that is handed in. All mistakes are reported at once, each on the
/// token that is wrong.
///
/// # From a function
///
/// On a function, which becomes a type named after it (`fn little_net` is `LittleNet`). Its body is run while the program is compiled, values being
/// the network's: no model file, the same compiler behind it, and `export_onnx` all the same.
///
/// ```ignore
/// #[mest::sparse_train(sparsity = 0.8, batch = 32)]
/// fn little_net(x: Image<1, 28, 28>) -> Logits<10> {
///     let block = |x, channels, stride| {
///         let h = relu(batch_norm(conv(x, channels, 3, stride = stride, bias = false)));
///         let h = batch_norm(conv(h, channels, 3, bias = false));
///         let shortcut = if stride > 1 { conv(x, channels, 1, stride = stride) } else { x };
///         relu(h + shortcut)
///     };
///     let mut h = relu(conv(x, 16, 3));
///     for _ in 0..3 {
///         h = block(h, 16, 1);
///     }
///     for channels in [32, 64] {
///         h = block(h, channels, 2);
///     }
///     linear(global_avg_pool(h), 10, init = normal(0.01), name = "head")
/// }
///
/// let mut net = LittleNet::new(0);
/// ```
///
/// - **Input and output.** `x: Image<channels, rows, columns>` or `x: Vector<elements>`; `-> Logits<classes>` for a classifier, or
///   `-> Values<elements>`, which is trained with `loss = "mse"`.
/// - **Layers** are the functions below. What must be given comes by position after the input, everything else by name: `stride = 2`. Kernel, stride,
///   padding and dilation are one number, or `(rows, columns)`.
/// - **Residuals** are `h + x`; `-`, `*` and `/` work too, with numbers as well: `0.5 * h`. A vector with an element for each channel of an
///   image is applied to each channel.
/// - **Loops** are `for _ in 0..3`, `for i in 1..=4` or `for (channels, stride) in [(16, 1), (32, 2)]`: bounds are known when the program is
///   compiled, and so are the conditions of `if`. Each turn adds layers of its own.
/// - **Blocks** of layers that are used more than once are closures, as `block` above. They can't change what is outside of them.
/// - **Initialisation** is `init = he` (normal, variance 2 / fan-in, the default), `xavier` (normal, variance 2 / (fan-in + fan-out)), `normal(deviation)`
///   or `zeros`; biases begin at 0. Values follow from the recipe's `seed`.
/// - **Names** of parameters are `conv1.weight`, `conv1.bias`, `linear1.weight`, .., counted in the order of the layers, or what `name = "head"`
///   says: `head.weight`. Exported models and checkpoints have them.
/// - **Padding** of convolutions is half of the kernel's reach unless given, which keeps the size at stride 1.
///
#[doc = include_str!("vocabulary.md")]
#[proc_macro_attribute]
pub fn sparse_train(attribute: TokenStream, item: TokenStream) -> TokenStream {
    match expand::expand(attribute.into(), item.into()) {
        Ok(tokens) => tokens.into(),
        Err(error) => error.into_compile_error().into(),
    }
}
