//! Statements and expressions, run at expansion.

use super::arithmetic;
use super::value::{Block, Value};
use crate::report::Report;
use mestc::describe::Description;
use proc_macro2::Ident;
use quote::ToTokens;
use std::collections::HashMap;
use std::rc::Rc;
use syn::{BinOp, Expr, ExprAssign, ExprBinary, ExprClosure, ExprForLoop, ExprIf, Lit, Local, Pat, RangeLimits, Stmt, UnOp};

/// Expressions and turns of loops that are run at most: more is a loop gone wrong.
const MOST_STEPS: usize = 1 << 20;

/// A name's value.
#[derive(Clone)]
pub(super) struct Variable {
    value: Value,
    mutable: bool,
    /// Whether it belongs to what a block sees around itself.
    captured: bool,
}

/// The names of a pair of braces.
pub(super) type Scope = HashMap<String, Variable>;

/// Runs a function's body.
pub(super) struct Evaluator<'r> {
    pub(super) network: Description,
    pub(super) report: &'r mut Report,
    scopes: Vec<Scope>,
    steps: usize,
}

impl<'r> Evaluator<'r> {
    pub(super) fn new(network: Description, report: &'r mut Report) -> Self {
        Evaluator { network, report, scopes: vec![Scope::new()], steps: 0 }
    }

    /// The network as far as it was described.
    pub(super) fn finish(self) -> Description {
        self.network
    }

    pub(super) fn declare(&mut self, name: &Ident, value: Value, mutable: bool) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_string(), Variable { value, mutable, captured: false });
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<&Value> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name)).map(|variable| &variable.value)
    }

    /// Refuses what `tokens` say.
    pub(super) fn refuse(&mut self, tokens: impl ToTokens, why: impl std::fmt::Display) -> Value {
        self.report.at(tokens, why);
        Value::Unknown
    }

    /// Whether there is time for one more step.
    fn step(&mut self, tokens: impl ToTokens) -> bool {
        if self.network.is_full() {
            return false;
        }
        self.steps += 1;
        if self.steps == MOST_STEPS {
            self.report.at(tokens, "the loops take too many turns; check their bounds");
        }
        self.steps < MOST_STEPS
    }

    /// The value of a block of statements: that of its last expression, if no semicolon follows.
    pub(super) fn body(&mut self, block: &syn::Block) -> Value {
        self.scopes.push(Scope::new());
        let mut result = Value::Unit;
        for (index, statement) in block.stmts.iter().enumerate() {
            let last = index + 1 == block.stmts.len();
            match statement {
                Stmt::Local(local) => self.local(local),
                Stmt::Expr(expression, semicolon) => {
                    let value = self.expression(expression);
                    match value {
                        value if last && semicolon.is_none() => result = value,
                        // What went wrong has been said; what comes after is not missed.
                        Value::Unknown if last => result = Value::Unknown,
                        Value::Unit | Value::Unknown => {}
                        _ => drop(self.refuse(expression, "the result is not used: write `let h = ..;` or `h = ..;`, or leave it out")),
                    }
                }
                Stmt::Item(item) => {
                    self.refuse(
                        item,
                        "only layers stand here; a part that is used more than once is a closure: `let block = |x, channels| ..;`",
                    );
                }
                Stmt::Macro(call) => drop(self.refuse(call, "macros are not run here; write layers")),
            }
        }
        self.scopes.pop();
        result
    }

    fn local(&mut self, local: &Local) {
        let Some(init) = &local.init else {
            self.refuse(local, "write a value: `let h = ..;`");
            return;
        };
        if let Some((token, _)) = &init.diverge {
            self.refuse(token, "patterns always fit here; leave `else` out");
        }
        let value = self.expression(&init.expr);
        let value = match value {
            Value::Unit => self.refuse(&init.expr, "this has no value"),
            value => value,
        };
        self.bind(&local.pat, value);
    }

    /// Gives the names of `pattern` their values.
    pub(super) fn bind(&mut self, pattern: &Pat, value: Value) {
        match (pattern, value) {
            (Pat::Ident(name), value) if name.by_ref.is_none() && name.subpat.is_none() => {
                self.declare(&name.ident, value, name.mutability.is_some());
            }
            (Pat::Wild(_), _) => {}
            (Pat::Type(typed), value) => self.bind(&typed.pat, value),
            (Pat::Tuple(tuple), Value::Tuple(values)) if tuple.elems.len() == values.len() => {
                tuple.elems.iter().zip(values).for_each(|(pattern, value)| self.bind(pattern, value));
            }
            (Pat::Tuple(tuple), value) => {
                if !matches!(value, Value::Unknown) {
                    self.refuse(tuple, format!("this pattern does not fit {}", value.kind()));
                }
                tuple.elems.iter().for_each(|pattern| self.bind(pattern, Value::Unknown));
            }
            (other, _) => drop(self.refuse(other, "write a name, or names in parentheses")),
        }
    }

    pub(super) fn expression(&mut self, expression: &Expr) -> Value {
        if !self.step(expression) {
            return Value::Unknown;
        }
        match expression {
            Expr::Lit(literal) => self.literal(&literal.lit),
            Expr::Path(path) => match path.path.get_ident() {
                Some(name) => self.variable(name),
                None => self.refuse(path, "write a name that `let` has declared"),
            },
            Expr::Paren(inner) => self.expression(&inner.expr),
            Expr::Group(inner) => self.expression(&inner.expr),
            Expr::Block(block) if block.label.is_none() => self.body(&block.block),
            Expr::Tuple(tuple) => Value::Tuple(tuple.elems.iter().map(|element| self.expression(element)).collect()),
            Expr::Array(array) => Value::Array(array.elems.iter().map(|element| self.expression(element)).collect()),
            Expr::Unary(unary) => self.unary(&unary.op, &unary.expr, expression),
            Expr::Binary(binary) if arithmetic::assigns(&binary.op) => self.assign_with(binary),
            Expr::Binary(binary) => {
                let (a, b) = (self.expression(&binary.left), self.expression(&binary.right));
                self.binary(&binary.op, a, b, expression)
            }
            Expr::Assign(assign) => self.assign(assign),
            Expr::If(branch) => self.branch(branch),
            Expr::ForLoop(repeat) => self.repeat(repeat),
            Expr::Closure(closure) => self.closure(closure),
            Expr::Call(call) => self.call(call),
            Expr::MethodCall(call) => {
                let (method, receiver) = (&call.method, call.receiver.to_token_stream());
                self.refuse(method, format!("layers are functions: write {method}({receiver}, ..)"))
            }
            Expr::While(_) | Expr::Loop(_) => self.refuse(expression, "loops have bounds: write `for _ in 0..3 { .. }`"),
            Expr::Return(_) => self.refuse(expression, "write the result last, without `return` and semicolon"),
            Expr::Range(_) => self.refuse(expression, "ranges stand in `for` alone"),
            other => self.refuse(other, "this is not part of a description: write layers, operators, `let`, `if`, `for` and closures"),
        }
    }

    fn literal(&mut self, literal: &Lit) -> Value {
        let value = match literal {
            Lit::Int(int) => int.base10_parse().ok().map(Value::Integer),
            Lit::Float(float) => float.base10_parse().ok().filter(|value: &f64| value.is_finite()).map(Value::Number),
            Lit::Bool(flag) => Some(Value::Flag(flag.value)),
            Lit::Str(text) => Some(Value::Text(text.value())),
            _ => None,
        };
        value.unwrap_or_else(|| self.refuse(literal, "write a number, true or false, or a name in quotes"))
    }

    fn variable(&mut self, name: &Ident) -> Value {
        match self.find(&name.to_string()) {
            Some(value) => value.clone(),
            None => self.refuse(name, format!("`{name}` is not declared; write `let {name} = ..;` before")),
        }
    }

    fn unary(&mut self, operator: &UnOp, operand: &Expr, whole: &Expr) -> Value {
        let value = self.expression(operand);
        match (operator, value) {
            (_, Value::Unknown) => Value::Unknown,
            (UnOp::Neg(_), Value::Integer(value)) if let Some(negated) = value.checked_neg() => Value::Integer(negated),
            (UnOp::Neg(_), Value::Number(value)) => Value::Number(-value),
            (UnOp::Neg(_), value @ Value::Tensor(_)) => {
                let minus: BinOp = syn::parse_quote!(*);
                self.binary(&minus, value, Value::Number(-1.0), whole)
            }
            (UnOp::Not(_), Value::Flag(flag)) => Value::Flag(!flag),
            (_, value) => self.refuse(whole, format!("this operator does not go with {}", value.kind())),
        }
    }

    fn binary(&mut self, operator: &BinOp, a: Value, b: Value, whole: impl ToTokens) -> Value {
        let operation = arithmetic::operation(operator);
        let result = match (operation, &a, &b) {
            (_, Value::Unknown, _) | (_, _, Value::Unknown) => return Value::Unknown,
            (Some(operation), Value::Tensor(a), Value::Tensor(b)) => self.network.binary(operation, a, b),
            (Some(operation), Value::Tensor(x), Value::Integer(n)) => self.network.scalar(operation, x, *n as f64, false),
            (Some(operation), Value::Tensor(x), Value::Number(n)) => self.network.scalar(operation, x, *n, false),
            (Some(operation), Value::Integer(n), Value::Tensor(x)) => self.network.scalar(operation, x, *n as f64, true),
            (Some(operation), Value::Number(n), Value::Tensor(x)) => self.network.scalar(operation, x, *n, true),
            _ => return arithmetic::numbers(operator, &a, &b).unwrap_or_else(|why| self.refuse(whole, why)),
        };
        match result {
            Ok(tensor) => Value::Tensor(tensor),
            Err(mistake) => self.refuse(whole, mistake),
        }
    }

    fn assign_with(&mut self, ExprBinary { left, op, right, .. }: &ExprBinary) -> Value {
        let (a, b) = (self.expression(left), self.expression(right));
        let value = self.binary(op, a, b, right);
        self.set(left, value)
    }

    fn assign(&mut self, ExprAssign { left, right, .. }: &ExprAssign) -> Value {
        let value = self.expression(right);
        self.set(left, value)
    }

    /// Gives a variable another value.
    fn set(&mut self, place: &Expr, value: Value) -> Value {
        let name = match place {
            Expr::Path(path) => path.path.get_ident().map(ToString::to_string),
            _ => None,
        };
        let Some(name) = name else { return self.refuse(place, "only variables are given values") };
        let why = match self.scopes.iter_mut().rev().find_map(|scope| scope.get_mut(&name)) {
            None => format!("`{name}` is not declared; write `let mut {name} = ..;` before"),
            Some(Variable { captured: true, .. }) => "a closure can't change what is outside of it; let it give the value back".to_owned(),
            Some(Variable { mutable: false, .. }) => format!("`{name}` can't be changed: declare it `let mut {name}`"),
            Some(variable) if !variable.value.may_become(&value) => {
                format!("`{name}` is {}, and can't become {}", variable.value.kind(), value.kind())
            }
            Some(variable) => {
                variable.value = value;
                return Value::Unit;
            }
        };
        self.refuse(place, why)
    }

    fn branch(&mut self, branch: &ExprIf) -> Value {
        let taken = match self.expression(&branch.cond) {
            Value::Flag(flag) => flag,
            Value::Unknown => return Value::Unknown,
            other => {
                let why = format!("a condition is true or false, and this is {}: compare numbers, the loop's say", other.kind());
                return self.refuse(&branch.cond, why);
            }
        };
        match (&branch.else_branch, taken) {
            (_, true) => self.body(&branch.then_branch),
            (Some((_, other)), false) => self.expression(other),
            (None, false) => Value::Unit,
        }
    }

    fn repeat(&mut self, repeat: &ExprForLoop) -> Value {
        let Some(turns) = self.turns(&repeat.expr) else { return Value::Unknown };
        for value in turns {
            if !self.step(&repeat.expr) {
                return Value::Unknown;
            }
            self.scopes.push(Scope::new());
            self.bind(&repeat.pat, value);
            let result = self.body(&repeat.body);
            self.scopes.pop();
            if !matches!(result, Value::Unit | Value::Unknown) {
                self.refuse(repeat.body.stmts.last(), "the result is not used: write `h = ..;`");
            }
        }
        Value::Unit
    }

    /// What a loop goes over: `a..b`, `a..=b` or an array.
    fn turns(&mut self, over: &Expr) -> Option<Box<dyn Iterator<Item = Value>>> {
        const BOUNDS: &str = "write numbers that are known here: `0..3`, or an array, `[16, 32, 64]`";
        let Expr::Range(range) = over else {
            return match self.expression(over) {
                Value::Array(values) => Some(Box::new(values.into_iter())),
                Value::Unknown => None,
                _ => {
                    self.refuse(over, BOUNDS);
                    None
                }
            };
        };
        let (Some(start), Some(end)) = (&range.start, &range.end) else {
            self.refuse(range, BOUNDS);
            return None;
        };
        match (self.expression(start), self.expression(end)) {
            (Value::Integer(start), Value::Integer(end)) => match range.limits {
                RangeLimits::HalfOpen(_) => Some(Box::new((start..end).map(Value::Integer))),
                RangeLimits::Closed(_) => Some(Box::new((start..=end).map(Value::Integer))),
            },
            (Value::Unknown, _) | (_, Value::Unknown) => None,
            _ => {
                self.refuse(range, BOUNDS);
                None
            }
        }
    }

    fn closure(&mut self, closure: &ExprClosure) -> Value {
        let mut outside = self.scopes.clone();
        outside.iter_mut().flat_map(HashMap::values_mut).for_each(|variable| variable.captured = true);
        let parameters = closure.inputs.iter().cloned().collect();
        Value::Block(Rc::new(Block { parameters, body: (*closure.body).clone(), outside }))
    }

    /// Runs a closure over `arguments`, of which it takes as many.
    pub(super) fn run(&mut self, block: &Block, arguments: Vec<Value>) -> Value {
        let mut scopes = block.outside.clone();
        scopes.push(Scope::new());
        let caller = std::mem::replace(&mut self.scopes, scopes);
        block.parameters.iter().zip(arguments).for_each(|(pattern, value)| self.bind(pattern, value));
        let result = self.expression(&block.body);
        self.scopes = caller;
        result
    }
}
