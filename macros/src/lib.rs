//! `#[sparse_train]`: a network compiled from ONNX while the program that uses it is built.

mod attribute;
mod expand;

use proc_macro::TokenStream;

/// Turns a unit struct into a sparse network compiled from an ONNX model.
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
/// `model` is a path relative to the crate's `Cargo.toml`; the network is compiled again when the file changes. Every other key is one of
/// the recipe's, spelled with `_`: numbers, strings, booleans and arrays of them, as in the TOML file. `runtime = path` names the runtime
/// crate where it is not reached through `mest`. All mistakes are reported at once, each on the token that is wrong.
#[proc_macro_attribute]
pub fn sparse_train(attribute: TokenStream, item: TokenStream) -> TokenStream {
    match expand::expand(attribute.into(), item.into()) {
        Ok(tokens) => tokens.into(),
        Err(error) => error.into_compile_error().into(),
    }
}
