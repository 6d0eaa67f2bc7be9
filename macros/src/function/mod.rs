//! A function that describes a network: its signature, and from its body the model.
//!
//! The body is run at expansion, values being shapes and numbers known then; what the network computes comes out as ONNX.

mod arithmetic;
mod call;
mod evaluate;
mod value;

use crate::attribute::Arguments;
use crate::report::Report;
use evaluate::Evaluator;
use mest_runtime::recipe::Recipe;
use mestc::describe::Description;
use proc_macro2::Ident;
use quote::format_ident;
use syn::{Expr, FnArg, GenericArgument, ItemFn, Lit, Pat, PathArguments, ReturnType, Signature, Type};
use value::Value;

/// What a function describes.
pub(crate) struct Described {
    /// Name of the network's type: the function's, as types are written.
    pub(crate) net: Ident,
    /// How it is trained.
    pub(crate) recipe: Recipe,
    /// An ONNX file.
    pub(crate) model: Vec<u8>,
}

/// What a network's output is compared with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    /// A score a class.
    Logits(usize),
    /// Values to come close to.
    Values(usize),
}

/// Reads `item`; what is wrong with it, or with the recipe, goes to `report`.
pub(crate) fn describe(item: &ItemFn, arguments: &Arguments, report: &mut Report) -> Option<Described> {
    check_qualifiers(&item.sig, report);
    let (input, output) = (input(&item.sig, report), output(&item.sig, report));
    let values = matches!(output, Some(Output::Values(_)));
    let recipe = arguments.recipe(if values { &[("loss", "mse")] } else { &[] }, report);
    if let (Some(recipe), Some(output), Some(span)) = (&recipe, output, arguments.span("loss")) {
        let mse = recipe.loss == mest_runtime::recipe::Loss::Mse;
        match output {
            Output::Values(n) if !mse => {
                report.push(syn::Error::new(span, format!("Values<{n}> are trained with loss = \"mse\"; return Logits<{n}> for classes")));
            }
            Output::Logits(n) if mse => {
                report.push(syn::Error::new(
                    span,
                    format!("Logits<{n}> are trained with cross-entropy; return Values<{n}> for loss = \"mse\""),
                ));
            }
            _ => {}
        }
    }
    let (name, dims) = input?;
    let seed = recipe.as_ref().map_or(0, |recipe| recipe.seed);
    let (description, x) = match Description::new(&item.sig.ident.to_string(), &dims, seed) {
        Ok(begun) => begun,
        Err(mistake) => {
            report.at(&item.sig.inputs, mistake);
            return None;
        }
    };
    let mut evaluator = Evaluator::new(description, report);
    evaluator.declare(&name, Value::Tensor(x), false);
    let result = evaluator.body(&item.block);
    let network = evaluator.finish();
    let Value::Tensor(result) = result else {
        let last = item.block.stmts.last();
        let why = "the network's output is missing: write it last, without a semicolon";
        match (result, last) {
            // What went wrong has been said.
            (Value::Unknown, _) => {}
            (_, Some(last)) => report.at(last, why),
            (_, None) => report.at(&item.sig.ident, why),
        }
        return None;
    };
    let (expected, promise) = match output? {
        Output::Logits(n) => (n, format!("Logits<{n}>")),
        Output::Values(n) => (n, format!("Values<{n}>")),
    };
    if result.dims() != [expected] {
        let why = format!("this is {}, and the function promises {promise}; linear(x, {expected}) gives it", result.type_name());
        report.at(item.block.stmts.last(), why);
        return None;
    }
    let model = network.finish(&result).map_err(|mistake| report.at(item.block.stmts.last(), mistake)).ok()?;
    Some(Described { net: type_name(&item.sig.ident), recipe: recipe?, model })
}

/// `little_net` -> `LittleNet`
fn type_name(function: &Ident) -> Ident {
    let mut name = String::new();
    for word in function.to_string().split('_').filter(|word| !word.is_empty()) {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.extend(letters);
    }
    format_ident!("{name}", span = function.span())
}

fn check_qualifiers(signature: &Signature, report: &mut Report) {
    const PLAIN: &str = "the function is read, not called: write a plain `fn`";
    if let Some(token) = &signature.asyncness {
        report.at(token, PLAIN);
    }
    if let Some(token) = &signature.constness {
        report.at(token, PLAIN);
    }
    if let Some(abi) = &signature.abi {
        report.at(abi, PLAIN);
    }
    if !signature.generics.params.is_empty() {
        report.at(&signature.generics, "a network is compiled for one shape: write numbers instead of parameters");
    }
}

/// The input's name, and the extents of one example.
fn input(signature: &Signature, report: &mut Report) -> Option<(Ident, Vec<usize>)> {
    const ONE: &str = "a network has one input: `x: Image<channels, rows, columns>` or `x: Vector<elements>`";
    let mut inputs = signature.inputs.iter();
    let (Some(FnArg::Typed(input)), None) = (inputs.next(), inputs.next()) else {
        if signature.inputs.is_empty() {
            report.at(&signature.ident, ONE)
        } else {
            report.at(&signature.inputs, ONE)
        }
        return None;
    };
    let Pat::Ident(name) = &*input.pat else {
        report.at(&input.pat, "write a name");
        return None;
    };
    let (kind, extents) = extents(&input.ty, report)?;
    match (kind.as_str(), extents.len()) {
        ("Image", 3) | ("Vector", 1) => Some((name.ident.clone(), extents)),
        _ => {
            report.at(&input.ty, "write Image<channels, rows, columns> or Vector<elements>");
            None
        }
    }
}

fn output(signature: &Signature, report: &mut Report) -> Option<Output> {
    const RESULT: &str = "write `-> Logits<classes>` for a classifier, or `-> Values<elements>` for loss = \"mse\"";
    let ReturnType::Type(_, result) = &signature.output else {
        report.at(&signature.ident, format!("the network's output is missing: {RESULT}"));
        return None;
    };
    let (kind, extents) = extents(result, report)?;
    match (kind.as_str(), &extents[..]) {
        ("Logits", &[n]) => Some(Output::Logits(n)),
        ("Values", &[n]) => Some(Output::Values(n)),
        _ => {
            report.at(result, RESULT);
            None
        }
    }
}

/// `Name<1, 2, 3>`
fn extents(of: &Type, report: &mut Report) -> Option<(String, Vec<usize>)> {
    let segment = match of {
        Type::Path(path) => path.path.segments.last()?,
        other => {
            report.at(other, "write Image<channels, rows, columns>, Vector<elements>, Logits<classes> or Values<elements>");
            return None;
        }
    };
    let arguments = match &segment.arguments {
        PathArguments::AngleBracketed(arguments) => arguments.args.iter().collect(),
        _ => vec![],
    };
    let mut extents = Vec::new();
    for argument in arguments {
        let literal = match argument {
            GenericArgument::Const(Expr::Lit(literal)) => match &literal.lit {
                Lit::Int(int) => int.base10_parse().ok().filter(|extent| *extent > 0),
                _ => None,
            },
            _ => None,
        };
        match literal {
            Some(extent) => extents.push(extent),
            None => {
                report.at(argument, "write a whole number of at least 1");
                return None;
            }
        }
    }
    Some((segment.ident.to_string(), extents))
}
