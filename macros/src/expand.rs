//! From the attribute to the network's code: parse, import, compile, print.

use crate::attribute::{self, Arguments};
use mestc::engine::rust::{EmitOptions, emit_items};
use mestc::{budget, onnx, pipeline, settings};
use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use std::path::PathBuf;
use syn::{Error, Fields, ItemStruct, LitStr};

/// Expands the attribute over `item`.
///
/// # Errors
/// Every mistake in the attribute, on its token; what the model or the recipe is refused for.
pub(crate) fn expand(attribute: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let arguments = attribute::parse(attribute)?;
    let item = unit_struct(item)?;
    let path = model_path(&arguments.model);
    let program = compile(&arguments, &path)?;
    let (net, visibility, attributes) = (&item.ident, &item.vis, &item.attrs);
    let runtime = arguments.runtime.as_ref().map_or_else(|| quote!(::mest::runtime), |path| quote!(#path));
    let options = EmitOptions {
        runtime,
        net: net.clone(),
        source: arguments.model.value(),
        made_by: "#[sparse_train]".to_owned(),
        ..EmitOptions::new(&arguments.recipe)
    };
    let items = emit_items(&program, &options).map_err(|error| Error::new(net.span(), error))?;
    let module = format_ident!("__sparse_train_{}", net.to_string().to_lowercase(), span = Span::call_site());
    let tracked = LitStr::new(&path.to_string_lossy(), arguments.model.span());
    Ok(quote! {
        #(#attributes)*
        #visibility use #module::#net;

        #[doc(hidden)]
        #[allow(missing_docs, unused, unreachable_pub, clippy::all, clippy::pedantic, clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]
        mod #module {
            #items
            // The compiler rebuilds when the model's file changes.
            const _: &[u8] = include_bytes!(#tracked);
        }
    })
}

fn unit_struct(item: TokenStream) -> syn::Result<ItemStruct> {
    let item: ItemStruct = syn::parse2(item)
        .map_err(|error| Error::new(error.span(), format!("#[sparse_train] goes on a unit struct, `struct Net;` ({error})")))?;
    if !matches!(item.fields, Fields::Unit) {
        return Err(Error::new_spanned(&item.fields, "the network brings its own fields: write a unit struct, `struct Net;`"));
    }
    if !item.generics.params.is_empty() {
        return Err(Error::new_spanned(&item.generics, "a network is compiled for one model: write a unit struct without parameters"));
    }
    Ok(item)
}

/// The model's file; relative paths start at the crate's `Cargo.toml`.
fn model_path(model: &LitStr) -> PathBuf {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    folder.join(model.value())
}

fn compile(arguments: &Arguments, path: &std::path::Path) -> syn::Result<mestc::program::Program> {
    let model = |error: &dyn std::fmt::Display| Error::new(arguments.model.span(), error.to_string());
    let imported = onnx::import(path).map_err(|report| model(&report))?;
    let settings = settings::of_recipe(&arguments.recipe, None);
    let compiled = pipeline::compile(&imported, &settings).map_err(|error| model(&error))?;
    budget::check(&imported, &arguments.recipe, None, &compiled).map_err(|error| model(&error))?;
    Ok(compiled.program)
}

#[cfg(test)]
mod tests {
    use super::expand;
    use proc_macro2::TokenStream;

    /// Every message that an attribute over `item` is refused with.
    fn refused(attribute: &str, item: &str) -> Vec<String> {
        let parse = |text: &str| text.parse::<TokenStream>().expect("the test's tokens are tokens");
        let error = expand(parse(attribute), parse(item)).expect_err("it is refused");
        error.into_iter().map(|error| error.to_string()).collect()
    }

    #[test]
    fn a_missing_model_is_said() {
        let messages = refused("sparsity = 0.9", "struct Net;");
        assert!(matches!(&messages[..], [only] if only.contains("the model is missing")), "{messages:?}");
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let messages = refused(r#"model = "m.onnx", sparcity = 0.9"#, "struct Net;");
        assert!(matches!(&messages[..], [only] if only.contains("sparcity") && only.contains("did you mean `sparsity`")), "{messages:?}");
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let messages = refused(r#"model = 3, batch = "many", scheme = "block:0x1""#, "struct Net;");
        for wrong in ["model", "batch", "scheme"] {
            assert!(messages.iter().any(|message| message.contains(wrong)), "{wrong} is not in {messages:?}");
        }
    }

    #[test]
    fn a_key_is_given_once_and_is_a_literal() {
        let twice = refused(r#"model = "m.onnx", batch = 8, batch = 16"#, "struct Net;");
        assert!(twice.iter().any(|message| message.contains("`batch` is given twice")), "{twice:?}");
        let computed = refused(r#"model = "m.onnx", lr = 1.0 / 8.0"#, "struct Net;");
        assert!(computed.iter().any(|message| message.contains("write a number")), "{computed:?}");
    }

    #[test]
    fn the_item_is_a_unit_struct() {
        for item in ["struct Net { weights: Vec<f32> }", "struct Net<T>;", "fn net() {}"] {
            let messages = refused(r#"model = "m.onnx""#, item);
            assert!(messages.iter().any(|message| message.contains("unit struct")), "{item}: {messages:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let messages = refused(r#"model = "no/such/model.onnx""#, "struct Net;");
        assert!(matches!(&messages[..], [only] if only.contains("no/such/model.onnx")), "{messages:?}");
    }
}
