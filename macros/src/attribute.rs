//! The attribute's arguments: `model`, `runtime`, and the recipe's keys.

use mest_runtime::recipe::{Recipe, RecipeError};
use proc_macro2::{Span, TokenStream};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Error, Expr, Ident, Lit, LitStr, Path, Token, UnOp};

/// What the attribute asks for.
pub(crate) struct Arguments {
    /// The model's file, as written.
    pub(crate) model: LitStr,
    /// Path of the runtime crate, if given.
    pub(crate) runtime: Option<Path>,
    /// Everything else.
    pub(crate) recipe: Recipe,
}

/// Where keys and values stand, by the key's spelling in recipes.
#[derive(Default)]
struct Spans(BTreeMap<String, (Span, Span)>);

impl Spans {
    /// The place of what a recipe error names; the whole attribute if it names no key of it.
    fn of(&self, error: &RecipeError) -> Span {
        let (key, is_key) = match error {
            RecipeError::Unknown { key, .. } | RecipeError::Twice { key } => (key, true),
            RecipeError::Kind { key, .. } | RecipeError::Value { key, .. } => (key, false),
        };
        let found = self.0.get(&key.replace('_', "-"));
        found.map_or_else(Span::call_site, |(key, value)| if is_key { *key } else { *value })
    }
}

struct Argument {
    key: Ident,
    value: Expr,
}

impl Parse for Argument {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let key = input.parse()?;
        input.parse::<Token![=]>()?;
        Ok(Argument { key, value: input.parse()? })
    }
}

/// Combines errors, so that all are reported.
#[derive(Default)]
struct Report(Option<Error>);

impl Report {
    /// Adds one.
    fn push(&mut self, error: Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            None => self.0 = Some(error),
        }
    }

    /// All of them, if any.
    fn finish(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Reads the attribute's arguments.
///
/// # Errors
/// Every mistake at once.
pub(crate) fn parse(tokens: TokenStream) -> syn::Result<Arguments> {
    let arguments = Punctuated::<Argument, Token![,]>::parse_terminated.parse2(tokens)?;
    let mut report = Report::default();
    let (mut model, mut runtime, mut map, mut spans) = (None, None, Map::new(), Spans::default());
    for Argument { key, value } in arguments {
        let name = key.to_string();
        match name.as_str() {
            "model" => match &value {
                Expr::Lit(literal) if matches!(literal.lit, Lit::Str(_)) => {
                    if let Lit::Str(path) = &literal.lit {
                        model = Some(path.clone());
                    }
                }
                _ => report.push(Error::new(value.span(), "model: write the path of an ONNX file in quotes")),
            },
            "runtime" => match &value {
                Expr::Path(path) => runtime = Some(path.path.clone()),
                _ => report.push(Error::new(value.span(), "runtime: write the path of the runtime crate, `::mest_runtime` say")),
            },
            _ => match json(&value) {
                Ok(json) if !map.contains_key(&name) => {
                    spans.0.insert(name.replace('_', "-"), (key.span(), value.span()));
                    map.insert(name, json);
                }
                Ok(_) => report.push(Error::new(key.span(), format!("`{name}` is given twice; keep one"))),
                Err(error) => report.push(error),
            },
        }
    }
    let recipe = Recipe::from_map(map).and_then(|recipe| recipe.validate().map(|()| recipe));
    let recipe = recipe.map_err(|errors| errors.iter().for_each(|error| report.push(Error::new(spans.of(error), error))));
    if model.is_none() {
        report.push(Error::new(Span::call_site(), "the model is missing: write model = \"path/to/model.onnx\", relative to Cargo.toml"));
    }
    report.finish()?;
    match (model, recipe) {
        (Some(model), Ok(recipe)) => Ok(Arguments { model, runtime, recipe }),
        _ => Err(Error::new(Span::call_site(), "the attribute cannot be read")),
    }
}

/// A literal, or an array of literals, as JSON.
fn json(value: &Expr) -> syn::Result<Value> {
    let number = |n: Option<Number>| n.map(Value::Number).ok_or_else(|| Error::new(value.span(), "this number is out of range"));
    match value {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => Ok(Value::String(text.value())),
            Lit::Bool(flag) => Ok(Value::Bool(flag.value)),
            Lit::Int(int) => Ok(Value::Number(int.base10_parse::<u64>()?.into())),
            Lit::Float(float) => number(Number::from_f64(float.base10_parse()?)),
            other => Err(Error::new(other.span(), "write a number, a string, true, false, or an array of these")),
        },
        Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => match json(&unary.expr)? {
            Value::Number(positive) => number(positive.as_f64().and_then(|v| Number::from_f64(-v))),
            _ => Err(Error::new(value.span(), "only a number can be negative")),
        },
        Expr::Array(array) => array.elems.iter().map(json).collect::<syn::Result<Vec<_>>>().map(Value::Array),
        other => Err(Error::new(other.span(), "write a number, a string, true, false, or an array of these")),
    }
}
