//! A kernel as a Rust function: `for` loops over constants around tile calls and maps.

use super::names::Names;
use super::{comment, map};
use crate::program::{Address, Affine, Base, ChainOp, Kernel, Map, Operand, Statement, Width};
use mest_runtime::manifest::Element;
use mest_runtime::tile::Tile;
use proc_macro2::{Ident, Literal, TokenStream};
use quote::{format_ident, quote};
use std::collections::BTreeSet;

/// What is printed for one kernel, and how its launches call it.
pub(super) struct KernelFunction {
    /// Its name.
    pub(super) name: Ident,
    /// The function.
    pub(super) item: TokenStream,
    /// Whether its last parameter but one is the scratch.
    pub(super) takes_scratch: bool,
}

/// The scope of one kernel's body.
pub(super) struct Scope<'a> {
    kernel: &'a Kernel,
    arguments: Vec<Ident>,
    /// Whether comments are printed.
    pub(super) comments: bool,
}

/// Prints `kernel` under `name`; `users` are the nodes that launch it.
pub(super) fn function(kernel: &Kernel, name: Ident, users: &[&str], comments: bool) -> KernelFunction {
    let mut used = Used::default();
    kernel.body.iter().for_each(|statement| used.statement(statement));
    let mut names = Names::reserving(&["scratch", "item", "items"]);
    let arguments: Vec<Ident> = kernel
        .arguments
        .iter()
        .enumerate()
        .map(|(i, (argument, _))| {
            let ident = names.value(argument);
            if used.arguments.contains(&i) { ident } else { format_ident!("_{ident}") }
        })
        .collect();
    let scope = Scope { kernel, arguments, comments };
    let parameters = scope.arguments.iter().zip(&kernel.arguments).map(|(ident, (_, element))| {
        let element = element_type(*element);
        quote!(#ident: *mut #element)
    });
    let scratch = used.scratch.then(|| quote!(scratch: *mut f32,));
    let decode = scope.decode(&used.variables);
    // A variable of one value is that value, whatever the item.
    let reads_item = kernel.domain.iter().enumerate().any(|(variable, &extent)| extent > 1 && used.variables.contains(&variable));
    let item = if reads_item { quote!(item) } else { quote!(_) };
    let body = scope.statements(&kernel.body, kernel.domain.len());
    let doc = doc(kernel, users);
    let allow = used.lints(kernel.arguments.len());
    let safety = comment(comments, "SAFETY: the compiler checked every address against its slot; items write to distinct places.");
    let item = quote! {
        #(#[doc = #doc])*
        #allow
        unsafe fn #name<L: Lanes>(#(#parameters,)* #scratch items: Range<usize>) {
            #safety
            unsafe {
                L::vectorize(#[inline(always)] || {
                    for #item in items {
                        #decode
                        #body
                    }
                });
            }
        }
    };
    KernelFunction { name, item, takes_scratch: used.scratch }
}

fn doc(kernel: &Kernel, users: &[&str]) -> Vec<String> {
    let items = match kernel.domain.as_slice() {
        [] => "One work item".to_owned(),
        domain => format!("Work items: {}", domain.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")),
    };
    let scratch = if kernel.scratch == 0 { String::new() } else { format!("; scratch: {} elements", kernel.scratch) };
    let mut doc = vec![format!(" {items}{scratch}.")];
    if !users.is_empty() {
        let names = users.iter().map(|user| format!("`{}`", user.replace('`', "'"))).collect::<Vec<_>>().join(", ");
        doc.push(format!(" Launched by {names}."));
    }
    doc
}

pub(super) fn element_type(element: Element) -> TokenStream {
    match element {
        Element::F32 => quote!(f32),
        Element::U32 => quote!(u32),
        Element::Bf16 => quote!(u16),
    }
}

impl Scope<'_> {
    /// `let i0 = ...;` for the variables that are read.
    fn decode(&self, used: &BTreeSet<usize>) -> TokenStream {
        let domain = &self.kernel.domain;
        let lines = domain.iter().enumerate().filter(|(variable, _)| used.contains(variable)).map(|(variable, &extent)| {
            let ident = variable_name(variable);
            let inner: usize = domain[variable + 1..].iter().product();
            let outer: usize = domain[..variable].iter().product();
            let (divisor, modulus) = (Literal::usize_unsuffixed(inner), Literal::usize_unsuffixed(extent));
            match (inner, outer) {
                _ if extent == 1 => quote!(let #ident = 0_isize;),
                (1, 1) => quote!(let #ident = item as isize;),
                (_, 1) => quote!(let #ident = (item / #divisor) as isize;),
                (1, _) => quote!(let #ident = (item % #modulus) as isize;),
                _ => quote!(let #ident = (item / #divisor % #modulus) as isize;),
            }
        });
        lines.collect()
    }

    fn statements(&self, body: &[Statement], variable: usize) -> TokenStream {
        let statement = |statement: &Statement| match statement {
            Statement::Loop { count, body } => {
                // A variable of the same number in another loop may be the one that is read.
                let mut here = Used::default();
                body.iter().for_each(|inner| here.statement(inner));
                let ident = if here.variables.contains(&variable) { variable_name(variable) } else { format_ident!("_") };
                let ident = if ident == "_" { quote!(_) } else { quote!(#ident) };
                let count = Literal::usize_unsuffixed(*count);
                let body = self.statements(body, variable + 1);
                quote!(for #ident in 0..#count { #body })
            }
            Statement::Tile { tile, operands } => self.tile(tile, operands),
            Statement::Map(map) => map::statements(self, map),
        };
        body.iter().map(statement).collect()
    }

    fn tile(&self, tile: &Tile, operands: &[Operand]) -> TokenStream {
        let name = format_ident!("{}", tile.name());
        let shape = format_ident!("{}", tile.shape_name());
        let fields = tile.fields().into_iter().map(|(field, value)| {
            let field = format_ident!("{field}");
            let value: TokenStream = value.parse().unwrap_or_else(|_| unreachable!("a shape prints its fields as Rust literals"));
            quote!(#field: #value)
        });
        let types = tile.operand_types();
        let operands = operands.iter().zip(types).map(|(operand, of)| match operand {
            Operand::Address(address) => self.pointer_as(address, of),
            Operand::Integer(value) if value.terms.is_empty() => isize_literal(value.constant),
            Operand::Integer(value) => {
                let expression = expression(&terms(value), value.constant);
                if of.contains("usize") { quote!((#expression) as usize) } else { expression }
            }
        });
        quote!(out_of_line::#name::<L>(&tile::#shape { #(#fields),* }, #(#operands),*);)
    }

    /// The address, as the pointer type that a tile takes.
    fn pointer_as(&self, address: &Address, of: &str) -> TokenStream {
        if address.base == Base::Null {
            return if of.contains("const") { quote!(core::ptr::null()) } else { quote!(core::ptr::null_mut()) };
        }
        let pointer = self.pointer(address, &[]);
        let same = of.contains(match self.element(address) {
            Element::F32 => "f32",
            Element::U32 => "u32",
            Element::Bf16 => "u16",
        });
        if same { pointer } else { quote!(#pointer.cast()) }
    }

    /// What lies at the address.
    pub(super) fn element(&self, address: &Address) -> Element {
        match address.base {
            Base::Argument(argument) => self.kernel.arguments[argument].1,
            Base::Scratch | Base::Null => Element::F32,
        }
    }

    /// The address moved by `moves`, (variable, coefficient) in elements.
    pub(super) fn pointer(&self, address: &Address, moves: &[(Ident, isize)]) -> TokenStream {
        let base = match address.base {
            Base::Argument(argument) => {
                let ident = &self.arguments[argument];
                quote!(#ident)
            }
            Base::Scratch => quote!(scratch),
            Base::Null => return quote!(core::ptr::null_mut()),
        };
        let mut sum = terms(&address.offset);
        sum.extend_from_slice(moves);
        match (sum.is_empty(), address.offset.constant) {
            (true, 0) => base,
            (true, constant) if constant > 0 => {
                let constant = isize_literal(constant);
                quote!(#base.add(#constant))
            }
            (_, constant) => {
                let offset = expression(&sum, constant);
                quote!(#base.offset(#offset))
            }
        }
    }
}

fn variable_name(variable: usize) -> Ident {
    format_ident!("i{variable}")
}

fn terms(affine: &Affine) -> Vec<(Ident, isize)> {
    affine.terms.iter().map(|&(variable, coefficient)| (variable_name(variable), coefficient)).collect()
}

fn isize_literal(value: isize) -> TokenStream {
    let magnitude = Literal::usize_unsuffixed(value.unsigned_abs());
    if value < 0 { quote!(-#magnitude) } else { quote!(#magnitude) }
}

/// `16 * i0 - i1 + 5`
fn expression(terms: &[(Ident, isize)], constant: isize) -> TokenStream {
    let mut sum = TokenStream::new();
    for (ident, coefficient) in terms {
        let magnitude = Literal::usize_unsuffixed(coefficient.unsigned_abs());
        let term = if coefficient.unsigned_abs() == 1 { quote!(#ident) } else { quote!(#magnitude * #ident) };
        sum = match (sum.is_empty(), *coefficient < 0) {
            (true, true) => quote!(-#term),
            (true, false) => term,
            (false, true) => quote!(#sum - #term),
            (false, false) => quote!(#sum + #term),
        };
    }
    let magnitude = Literal::usize_unsuffixed(constant.unsigned_abs());
    match (sum.is_empty(), constant) {
        (true, _) => isize_literal(constant),
        (false, 0) => sum,
        (false, ..0) => quote!(#sum - #magnitude),
        (false, _) => quote!(#sum + #magnitude),
    }
}

/// What a body reads, so that nothing is declared in vain.
#[derive(Default)]
struct Used {
    arguments: BTreeSet<usize>,
    variables: BTreeSet<usize>,
    scratch: bool,
    constants: bool,
    equal_operands: bool,
}

impl Used {
    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Loop { body, .. } => body.iter().for_each(|inner| self.statement(inner)),
            Statement::Tile { operands, .. } => operands.iter().for_each(|operand| match operand {
                Operand::Address(address) => self.address(address),
                Operand::Integer(value) => self.affine(value),
            }),
            Statement::Map(map) if map.extents.contains(&0) => {}
            Statement::Map(map) => self.map(map),
        }
    }

    fn map(&mut self, map: &Map) {
        let live = map::live_values(map);
        let loads = map.loads.iter().enumerate().filter(|(load, _)| live[*load]).map(|(_, operand)| operand);
        let written = map.stores.iter().chain(&map.sums).map(|(operand, _)| operand);
        loads.chain(written).for_each(|operand| self.address(&operand.address));
        for operation in &map.operations {
            self.constants |= matches!(operation, ChainOp::Constant(_));
            let scalar = map.width == Width::Scalar;
            let same = match operation {
                ChainOp::Sub(a, b) | ChainOp::Div(a, b) | ChainOp::SelectLess(a, b, _, _) => a == b,
                _ => false,
            };
            self.equal_operands |= scalar && same;
        }
    }

    fn address(&mut self, address: &Address) {
        match address.base {
            Base::Argument(argument) => {
                self.arguments.insert(argument);
            }
            Base::Scratch => self.scratch = true,
            Base::Null => return,
        }
        self.affine(&address.offset);
    }

    fn affine(&mut self, affine: &Affine) {
        self.variables.extend(affine.terms.iter().map(|(variable, _)| *variable));
    }

    /// What Clippy would say of code that people write.
    fn lints(&self, arguments: usize) -> TokenStream {
        let mut lints = TokenStream::new();
        if arguments + usize::from(self.scratch) + 1 > 7 {
            lints.extend(quote!(clippy::too_many_arguments,));
        }
        if self.constants {
            lints.extend(quote!(clippy::approx_constant,));
        }
        if self.equal_operands {
            lints.extend(quote!(clippy::eq_op, clippy::if_same_then_else,));
        }
        if lints.is_empty() { lints } else { quote!(#[allow(#lints)]) }
    }
}
