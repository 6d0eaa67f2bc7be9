//! The attribute's arguments: `model`, `runtime`, `std`, and the recipe's keys.

use crate::report::Report;
use mest_runtime::recipe::{Recipe, RecipeError};
use proc_macro2::{Span, TokenStream};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Error, Expr, Ident, Lit, LitStr, Path, Token, UnOp};

/// What the attribute says, as far as it can be read.
#[derive(Default)]
pub(crate) struct Arguments {
    /// The model's file, as written.
    pub(crate) model: Option<LitStr>,
    /// Path of the runtime crate, if given.
    pub(crate) runtime: Option<Path>,
    /// Whether the network may use `std`: threads, files, the recipe.
    pub(crate) std: Option<bool>,
    /// Whether keys and values could be told apart.
    pub(crate) readable: bool,
    /// Everything else, by key.
    keys: Map<String, Value>,
    spans: Spans,
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

/// Reads the attribute's arguments; what is wrong with them goes to `report`.
pub(crate) fn read(tokens: TokenStream, report: &mut Report) -> Arguments {
    let mut read = Arguments::default();
    let arguments = match Punctuated::<Argument, Token![,]>::parse_terminated.parse2(tokens) {
        Ok(arguments) => arguments,
        Err(error) => {
            report.push(Error::new(error.span(), format!("{error}; write key = value, with commas between")));
            return read;
        }
    };
    read.readable = true;
    for Argument { key, value } in arguments {
        let name = key.to_string();
        match (name.as_str(), &value) {
            ("model", Expr::Lit(literal)) if let Lit::Str(path) = &literal.lit => read.model = Some(path.clone()),
            ("model", _) => report.at(&value, "model: write the path of an ONNX file in quotes"),
            ("runtime", Expr::Path(path)) => read.runtime = Some(path.path.clone()),
            ("runtime", _) => report.at(&value, "runtime: write the path of the runtime crate, `::mest_runtime` say"),
            ("std", Expr::Lit(literal)) if let Lit::Bool(flag) = &literal.lit => read.std = Some(flag.value),
            ("std", _) => report.at(&value, "std: write true or false"),
            _ => match json(&value) {
                Ok(json) if !read.keys.contains_key(&name) => {
                    read.spans.0.insert(name.replace('_', "-"), (key.span(), value.span()));
                    read.keys.insert(name, json);
                }
                Ok(_) => report.at(&key, format!("`{name}` is given twice; keep one")),
                Err(error) => report.push(error),
            },
        }
    }
    read
}

impl Arguments {
    /// Where the value of the recipe's `key` stands, if it is given.
    pub(crate) fn span(&self, key: &str) -> Option<Span> {
        self.spans.0.get(key).map(|(_, value)| *value)
    }

    /// The recipe, `defaults` standing for keys that are not given; what is wrong with it goes to `report`.
    pub(crate) fn recipe(&self, defaults: &[(&str, &str)], report: &mut Report) -> Option<Recipe> {
        let mut keys = self.keys.clone();
        for (key, value) in defaults {
            keys.entry(*key).or_insert_with(|| Value::String((*value).to_owned()));
        }
        let recipe = Recipe::from_map(keys).and_then(|recipe| recipe.validate().map(|()| recipe));
        recipe.map_err(|errors| errors.iter().for_each(|error| report.push(Error::new(self.spans.of(error), error)))).ok()
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
