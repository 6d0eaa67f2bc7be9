//! From the attribute to the network's code: read, import, compile, print.

use crate::attribute::{self, Arguments};
use crate::function;
use crate::report::Report;
use mest_runtime::recipe::Recipe;
use mestc::budget::{self, BudgetError};
use mestc::engine::rust::{EmitOptions, StdItems, emit_items};
use mestc::onnx::{self, Imported};
use mestc::program::Program;
use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use std::path::PathBuf;
use syn::{Attribute, Error, Fields, Ident, Item, ItemStruct, LitStr, Visibility};

/// The type that takes the item's place.
struct Face<'a> {
    net: Ident,
    visibility: &'a Visibility,
    attributes: &'a [Attribute],
}

/// Expands the attribute over `item`.
///
/// # Errors
/// Every mistake in the attribute and in the item, on its token; what the model or the recipe is refused for.
pub(crate) fn expand(attribute: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    const GOES_ON: &str = "#[sparse_train] goes on a unit struct, `struct Net;`, or on a function that describes a network";
    let mut report = Report::default();
    let arguments = attribute::read(attribute, &mut report);
    match syn::parse2::<Item>(item) {
        Ok(Item::Struct(item)) => of_struct(&arguments, &item, report),
        Ok(Item::Fn(item)) => of_function(&arguments, &item, report),
        Ok(other) => {
            report.at(other, GOES_ON);
            Err(report.finish().err().unwrap_or_else(|| Error::new(Span::call_site(), GOES_ON)))
        }
        Err(error) => {
            report.push(Error::new(error.span(), format!("{GOES_ON} ({error})")));
            Err(report.finish().err().unwrap_or(error))
        }
    }
}

/// The form with a model's file.
fn of_struct(arguments: &Arguments, item: &ItemStruct, mut report: Report) -> syn::Result<TokenStream> {
    if !matches!(item.fields, Fields::Unit) {
        report.at(&item.fields, "the network brings its own fields: write a unit struct, `struct Net;`");
    }
    if !item.generics.params.is_empty() {
        report.at(&item.generics, "a network is compiled for one model: write a unit struct without parameters");
    }
    let recipe = arguments.recipe(&[], &mut report);
    if arguments.model.is_none() && arguments.readable {
        let why =
            "the model is missing: write model = \"path/to/model.onnx\", relative to Cargo.toml, or describe the network in a function";
        report.push(Error::new(Span::call_site(), why));
    }
    let imported = arguments.model.as_ref().and_then(|model| {
        let path = model_path(model);
        let adaptation = recipe.as_ref().map(onnx::Adaptation::of_recipe).unwrap_or_default();
        match onnx::import_adapted(&path, &adaptation) {
            Ok(imported) => Some((model, path, imported)),
            Err(error) => {
                report.push(Error::new(model.span(), error));
                None
            }
        }
    });
    report.finish()?;
    let (Some(recipe), Some((model, path, imported))) = (recipe, imported) else {
        return Err(Error::new(Span::call_site(), "the attribute cannot be read"));
    };
    let program = compile(&imported, &recipe, arguments, model.span())?;
    let face = Face { net: item.ident.clone(), visibility: &item.vis, attributes: &item.attrs };
    let tracked = std::iter::once(&path).chain(&imported.external).map(|path| LitStr::new(&path.to_string_lossy(), model.span()));
    // The compiler rebuilds when the model's files change.
    let tracked = quote!(#(const _: &[u8] = include_bytes!(#tracked);)*);
    items(arguments, &recipe, &program, &face, &model.value(), &tracked)
}

/// The form that describes the network.
fn of_function(arguments: &Arguments, item: &syn::ItemFn, mut report: Report) -> syn::Result<TokenStream> {
    if let Some(model) = &arguments.model {
        report.at(model, "a function describes the network itself: leave the model out, or put the attribute on a unit struct");
    }
    let described = function::describe(item, arguments, &mut report);
    report.finish()?;
    let Some(described) = described else {
        return Err(Error::new_spanned(&item.sig, "the function cannot be read"));
    };
    let place = item.sig.ident.span();
    let imported = onnx::import_bytes_adapted(&described.model, None, &onnx::Adaptation::of_recipe(&described.recipe))
        .map_err(|error| Error::new(place, error))?;
    let program = compile(&imported, &described.recipe, arguments, place)?;
    let face = Face { net: described.net, visibility: &item.vis, attributes: &item.attrs };
    let source = format!("fn {}", item.sig.ident);
    items(arguments, &described.recipe, &program, &face, &source, &TokenStream::new())
}

/// The model's file; relative paths start at the crate's `Cargo.toml`.
fn model_path(model: &LitStr) -> PathBuf {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    folder.join(model.value())
}

/// What the pipeline refuses stands on the limit that is not met, or else on the network, at `place`.
fn compile(imported: &Imported, recipe: &Recipe, arguments: &Arguments, place: Span) -> syn::Result<Program> {
    let refused = |error: BudgetError| {
        let limit = match &error {
            BudgetError::Compile(_) => None,
            BudgetError::Machine { key, .. } | BudgetError::Memory { key, .. } => Some(*key),
            BudgetError::AssertedPeak { .. } => Some("assert-peak"),
        };
        Error::new(limit.and_then(|key| arguments.span(key)).unwrap_or(place), error)
    };
    budget::compile(imported, recipe, None).map(|compiled| compiled.program).map_err(refused)
}

/// The network's module, and the type that comes out of it.
fn items(
    arguments: &Arguments,
    recipe: &Recipe,
    program: &Program,
    face: &Face<'_>,
    source: &str,
    tracked: &TokenStream,
) -> syn::Result<TokenStream> {
    let Face { net, visibility, attributes } = face;
    let runtime = arguments.runtime.as_ref().map_or_else(|| quote!(::mest::runtime), ToTokens::to_token_stream);
    let options = EmitOptions {
        runtime,
        net: net.clone(),
        source: source.to_owned(),
        made_by: "#[sparse_train]".to_owned(),
        std: if arguments.std == Some(false) { StdItems::Absent } else { StdItems::Present },
        ..EmitOptions::new(recipe)
    };
    let items = emit_items(program, &options).map_err(|error| Error::new(net.span(), error))?;
    let module = format_ident!("__sparse_train_{}", net.to_string().to_lowercase(), span = Span::call_site());
    Ok(quote! {
        #(#attributes)*
        #visibility use #module::#net;

        #[doc(hidden)]
        #[allow(missing_docs, unused, unreachable_pub, clippy::all, clippy::pedantic, clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]
        mod #module {
            #items
            #tracked
        }
    })
}
