//! Maps as nested `for` loops over vectors or floats.

use super::comment;
use super::kernel::Scope;
use crate::program::nest::{self, Nest};
use crate::program::{ChainOp, Map, MapOperand, Width};
use mest_runtime::manifest::Element;
use proc_macro2::{Ident, Literal, TokenStream};
use quote::{format_ident, quote};

/// The loops of `map`.
pub(super) fn statements(scope: &Scope<'_>, map: &Map) -> TokenStream {
    let Some(nest) = Nest::of(map) else { return TokenStream::new() };
    let extents: Vec<String> = map.extents.iter().map(usize::to_string).collect();
    let shape = if extents.is_empty() { "once".to_owned() } else { extents.join(" x ") };
    let printer = MapPrinter { scope, map, live: live_values(map), nest };
    let heading = comment(scope.comments, &format!("Element-wise, {shape}."));
    let body = printer.enter(0);
    // A block, since values of several maps share their names.
    quote!(#heading { #body })
}

/// Which chain values are read by a store, a sum, or a value that is.
pub(super) fn live_values(map: &Map) -> Vec<bool> {
    let loads = map.loads.len();
    let mut live = vec![false; loads + map.operations.len()];
    for (_, value) in map.stores.iter().chain(&map.sums) {
        live[*value] = true;
    }
    for (index, operation) in map.operations.iter().enumerate().rev() {
        if live[loads + index] {
            nest::operands(operation).into_iter().for_each(|operand| live[operand] = true);
        }
    }
    live
}

struct MapPrinter<'a> {
    scope: &'a Scope<'a>,
    map: &'a Map,
    nest: Nest,
    live: Vec<bool>,
}

fn value_name(value: usize) -> Ident {
    format_ident!("v{value}")
}

fn sum_name(sum: usize) -> Ident {
    format_ident!("s{sum}")
}

impl MapPrinter<'_> {
    fn enter(&self, depth: usize) -> TokenStream {
        let mut code: TokenStream = self.nest.values_at(depth).filter(|value| self.live[*value]).map(|value| self.value(value)).collect();
        if depth == self.nest.extents.len() {
            code.extend(self.writes());
            return code;
        }
        let registered: Vec<usize> = (0..self.map.sums.len()).filter(|&sum| self.nest.sum_depths[sum] == depth).collect();
        for &sum in &registered {
            let (name, old) = (sum_name(sum), self.load(&self.map.sums[sum].0, &self.nest.sums[sum]));
            code.extend(quote!(let mut #name = #old;));
        }
        let all = self.nest.loads.iter().chain(&self.nest.stores).chain(&self.nest.sums);
        let variable = if all.clone().any(|strides| strides[depth] != 0) {
            let ident = format_ident!("d{depth}");
            quote!(#ident)
        } else {
            quote!(_)
        };
        let (extent, inner) = (Literal::usize_unsuffixed(self.nest.extents[depth]), self.enter(depth + 1));
        code.extend(quote!(for #variable in 0..#extent { #inner }));
        for sum in registered {
            let name = sum_name(sum);
            code.extend(self.store(&self.map.sums[sum].0, &self.nest.sums[sum], &quote!(#name)));
        }
        code
    }

    fn writes(&self) -> TokenStream {
        let stores = self.map.stores.iter().zip(&self.nest.stores).map(|((operand, value), strides)| {
            let value = value_name(*value);
            self.store(operand, strides, &quote!(#value))
        });
        let sums = self.map.sums.iter().enumerate().map(|(sum, (operand, value))| {
            let (value, strides) = (value_name(*value), &self.nest.sums[sum]);
            let in_register = self.nest.sum_depths[sum] < self.nest.extents.len();
            let name = sum_name(sum);
            match (in_register, self.map.width) {
                (true, Width::Lanes) => quote!(#name = L::add(#name, #value);),
                (true, Width::Scalar) => quote!(#name += #value;),
                (false, Width::Lanes) => {
                    let old = self.load(operand, strides);
                    self.store(operand, strides, &quote!(L::add(#old, #value)))
                }
                (false, Width::Scalar) => {
                    let place = self.place(operand, strides);
                    quote!(*#place += #value;)
                }
            }
        });
        stores.chain(sums).collect()
    }

    fn place(&self, operand: &MapOperand, strides: &[usize]) -> TokenStream {
        let moves: Vec<(Ident, isize)> = strides
            .iter()
            .enumerate()
            .filter(|(_, stride)| **stride != 0)
            .map(|(dimension, stride)| (format_ident!("d{dimension}"), *stride as isize))
            .collect();
        self.scope.pointer(&operand.address, &moves)
    }

    fn load(&self, operand: &MapOperand, strides: &[usize]) -> TokenStream {
        let place = self.place(operand, strides);
        match (self.map.width, operand.splat) {
            (Width::Lanes, false) if self.scope.element(&operand.address) == Element::Bf16 => quote!(L::load_narrow(#place)),
            (Width::Lanes, false) => quote!(L::load(#place)),
            (Width::Lanes, true) => quote!(L::splat(*#place)),
            (Width::Scalar, _) => quote!(*#place),
        }
    }

    fn store(&self, operand: &MapOperand, strides: &[usize], value: &TokenStream) -> TokenStream {
        let place = self.place(operand, strides);
        match self.map.width {
            Width::Lanes if self.scope.element(&operand.address) == Element::Bf16 => quote!(L::store_narrow(#place, #value);),
            Width::Lanes => quote!(L::store(#place, #value);),
            Width::Scalar => quote!(*#place = #value;),
        }
    }

    fn value(&self, value: usize) -> TokenStream {
        let name = value_name(value);
        let expression = match value.checked_sub(self.map.loads.len()) {
            None => self.load(&self.map.loads[value], &self.nest.loads[value]),
            Some(operation) if self.map.width == Width::Lanes => lanes(&self.map.operations[operation]),
            Some(operation) => scalar(&self.map.operations[operation]),
        };
        quote!(let #name = #expression;)
    }
}

/// A float as Rust source.
pub(super) fn constant(value: f32) -> TokenStream {
    if value.is_finite() {
        let magnitude = Literal::f32_suffixed(value.abs());
        return if value.is_sign_negative() { quote!(-#magnitude) } else { quote!(#magnitude) };
    }
    if value.is_nan() {
        let bits = value.to_bits();
        return quote!(f32::from_bits(#bits));
    }
    if value > 0.0 { quote!(f32::INFINITY) } else { quote!(f32::NEG_INFINITY) }
}

fn lanes(operation: &ChainOp) -> TokenStream {
    let operands: Vec<Ident> = nest::operands(operation).into_iter().map(value_name).collect();
    let function = match *operation {
        ChainOp::Constant(value) => {
            let value = constant(value);
            return quote!(L::splat(#value));
        }
        ChainOp::Add(..) => quote!(add),
        ChainOp::Sub(..) => quote!(sub),
        ChainOp::Mul(..) => quote!(mul),
        ChainOp::Div(..) => quote!(div),
        ChainOp::Fma(..) => quote!(fma),
        ChainOp::Sqrt(_) => quote!(sqrt),
        ChainOp::SelectLess(..) => quote!(select_less),
        ChainOp::PowerOfTwo(_) => quote!(power_of_two),
        ChainOp::Exponent(_) => quote!(exponent),
        ChainOp::Significand(_) => quote!(significand),
    };
    quote!(L::#function(#(#operands),*))
}

fn scalar(operation: &ChainOp) -> TokenStream {
    let name = value_name;
    match *operation {
        ChainOp::Constant(value) => constant(value),
        ChainOp::Sqrt(a) => {
            let a = name(a);
            quote!(lanes::math::sqrt(#a))
        }
        ChainOp::PowerOfTwo(a) => bits(&quote!(power_of_two), a),
        ChainOp::Exponent(a) => bits(&quote!(exponent), a),
        ChainOp::Significand(a) => bits(&quote!(significand), a),
        ChainOp::Fma(a, b, c) => {
            let (a, b, c) = (name(a), name(b), name(c));
            quote!(lanes::math::multiply_add::<L>(#a, #b, #c))
        }
        ChainOp::SelectLess(a, b, c, d) => {
            let (a, b, c, d) = (name(a), name(b), name(c), name(d));
            quote!(if #a < #b { #c } else { #d })
        }
        ChainOp::Add(a, b) => infix(a, &quote!(+), b),
        ChainOp::Sub(a, b) => infix(a, &quote!(-), b),
        ChainOp::Mul(a, b) => infix(a, &quote!(*), b),
        ChainOp::Div(a, b) => infix(a, &quote!(/), b),
    }
}

fn bits(function: &TokenStream, a: usize) -> TokenStream {
    let a = value_name(a);
    quote!(lanes::math::#function(#a))
}

fn infix(a: usize, operator: &TokenStream, b: usize) -> TokenStream {
    let (a, b) = (value_name(a), value_name(b));
    quote!(#a #operator #b)
}
