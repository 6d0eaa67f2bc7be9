//! The attribute's arguments: `model`, `runtime`, `std`, and the recipe's keys.

use crate::report::Report;
use mest_runtime::recipe::{Recipe, RecipeError};
use proc_macro2::{Span, TokenStream, TokenTree};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;
use syn::parse::{Parse, ParseStream};
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
        let is_key = matches!(error, RecipeError::Unknown { .. } | RecipeError::Twice { .. });
        let found = self.0.get(&canonical(key_of(error)));
        found.map_or_else(Span::call_site, |(key, value)| if is_key { *key } else { *value })
    }
}

struct Argument {
    key: Ident,
    value: Expr,
}

impl Parse for Argument {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        const FORM: &str = "write key = value, with commas between";
        let key: Ident = input.parse().map_err(|error| Error::new(error.span(), format!("{error}; {FORM}")))?;
        // At the end of the tokens a parser's error stands nowhere: these stand on the key.
        let lacks = |what: &str| Error::new(key.span(), format!("`{key}` has no {what}; {FORM}"));
        input.parse::<Option<Token![=]>>()?.ok_or_else(|| lacks("`=`"))?;
        if input.is_empty() {
            return Err(lacks("value"));
        }
        let value = input.parse()?;
        match input.is_empty() {
            true => Ok(Argument { key, value }),
            false => Err(input.error(FORM)),
        }
    }
}

/// The parts of `tokens` between commas.
fn split(tokens: TokenStream) -> Vec<TokenStream> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',');
    tokens.split(is_comma).filter(|part| !part.is_empty()).map(|part| part.iter().cloned().collect()).collect()
}

/// Reads the attribute's arguments; what is wrong with them goes to `report`.
pub(crate) fn read(tokens: TokenStream, report: &mut Report) -> Arguments {
    let mut read = Arguments { readable: true, ..Arguments::default() };
    for part in split(tokens) {
        let Argument { key, value } = match syn::parse2(part) {
            Ok(argument) => argument,
            Err(error) => {
                report.push(error);
                read.readable = false;
                continue;
            }
        };
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
                    read.spans.0.insert(canonical(&name), (key.span(), value.span()));
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
        let mut errors = Vec::new();
        let recipe = loop {
            match Recipe::from_map(keys.clone()) {
                Ok(recipe) => break recipe,
                // Without what is wrong the rest is read all the same, so that its mistakes are reported, too.
                Err(found) => {
                    let wrong: Vec<String> = found.iter().map(|error| canonical(key_of(error))).collect();
                    let before = keys.len();
                    keys.retain(|key, _| !wrong.contains(&canonical(key)));
                    errors.extend(found);
                    if keys.len() == before {
                        break Recipe::default();
                    }
                }
            }
        };
        let readable = errors.is_empty();
        let found = recipe.validate().err().unwrap_or_default();
        // What is said of a key that isn't given may come of one that couldn't be read.
        errors.extend(found.into_iter().filter(|error| readable || self.spans.0.contains_key(&canonical(key_of(error)))));
        errors.iter().for_each(|error| report.push(Error::new(self.spans.of(error), error)));
        errors.is_empty().then_some(recipe)
    }
}

/// The key that an error names.
fn key_of(error: &RecipeError) -> &str {
    match error {
        RecipeError::Unknown { key, .. } | RecipeError::Twice { key } | RecipeError::Kind { key, .. } | RecipeError::Value { key, .. } => {
            key
        }
    }
}

/// A key as recipes spell it.
fn canonical(key: &str) -> String {
    key.replace('_', "-")
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
