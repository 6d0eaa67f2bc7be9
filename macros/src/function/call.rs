//! Layers and closures applied to arguments.

use super::evaluate::Evaluator;
use super::value::{Block, Value};
use mest_runtime::recipe::nearest::nearest;
use mestc::describe::vocabulary::{Argument, Arguments, Inputs, Kind, LAYERS, Layer, Preset, layer};
use mestc::describe::{Init, Mistake, Tensor};
use proc_macro2::TokenStream;
use quote::ToTokens;
use std::collections::HashMap;
use syn::{Expr, ExprCall, Ident};

impl Evaluator<'_> {
    pub(super) fn call(&mut self, call: &ExprCall) -> Value {
        let name = match &*call.func {
            Expr::Path(path) => path.path.get_ident(),
            _ => None,
        };
        let Some(name) = name else { return self.refuse(&call.func, "write a layer's name") };
        let block = match self.find(&name.to_string()) {
            Some(Value::Block(block)) => Some(block.clone()),
            Some(Value::Unknown) => return Value::Unknown,
            _ => None,
        };
        match (block, layer(&name.to_string())) {
            (Some(block), _) => self.call_block(&block, call, name),
            (None, Some(layer)) => self.call_layer(layer, call, name),
            (None, None) => {
                let mut why = format!("there is no layer `{name}`");
                if let Some(near) = nearest(&name.to_string(), LAYERS.iter().map(|layer| layer.name)).and_then(layer) {
                    why += &format!(": did you mean `{}`? {}", near.name, near.usage());
                }
                self.refuse(name, why)
            }
        }
    }

    fn call_block(&mut self, block: &Block, call: &ExprCall, name: &Ident) -> Value {
        let mut arguments = Vec::new();
        for argument in &call.args {
            match argument {
                Expr::Assign(named) => {
                    arguments.push(self.refuse(&named.left, "closures take their arguments by position; leave the name out"));
                }
                positional => {
                    let value = self.expression(positional);
                    arguments.push(value);
                }
            }
        }
        if arguments.len() != block.parameters.len() {
            let why = format!("`{name}` takes {} arguments, and {} are given", block.parameters.len(), arguments.len());
            return self.refuse(call, why);
        }
        self.run(block, arguments)
    }

    fn call_layer(&mut self, layer: &Layer, call: &ExprCall, name: &Ident) -> Value {
        let mut places: HashMap<&'static str, TokenStream> = HashMap::new();
        let (mut inputs, mut given, mut sound) = (Vec::new(), Vec::new(), true);
        for (position, argument) in call.args.iter().enumerate() {
            if position == 0 || (layer.inputs == Inputs::Several && !matches!(argument, Expr::Assign(_))) {
                places.entry("x").or_insert_with(|| argument.to_token_stream());
                match self.tensor(argument, layer) {
                    Some(tensor) => inputs.push(tensor),
                    None => sound = false,
                }
                continue;
            }
            match self.argument(layer, position, argument, &places) {
                Some((name, place, value)) => {
                    places.insert(name, place);
                    given.push((name, value));
                }
                None => sound = false,
            }
        }
        let fewest = if layer.inputs == Inputs::One { 1 } else { 2 };
        if sound && inputs.len() < fewest {
            self.refuse(name, format!("{name} reads {fewest} value{}; {}", if fewest == 1 { "" } else { "s" }, layer.usage()));
            sound = false;
        }
        let say = |evaluator: &mut Self, mistake: Mistake| match mistake.argument.and_then(|argument| places.get(argument)) {
            Some(place) => evaluator.refuse(place, &mistake),
            None => evaluator.refuse(name, &mistake),
        };
        let arguments = match Arguments::new(layer, given) {
            Ok(arguments) => arguments,
            // An argument that was refused already is not missing.
            Err(mistakes) if sound => {
                mistakes.into_iter().for_each(|mistake| drop(say(self, mistake)));
                return Value::Unknown;
            }
            Err(_) => return Value::Unknown,
        };
        if !sound {
            return Value::Unknown;
        }
        match self.network.apply(layer, &inputs, &arguments) {
            Ok(tensor) => Value::Tensor(tensor),
            Err(mistake) => say(self, mistake),
        }
    }

    fn tensor(&mut self, expression: &Expr, layer: &Layer) -> Option<Tensor> {
        if let Expr::Assign(_) = expression {
            self.refuse(expression, format!("the value that the layer reads comes first; {}", layer.usage()));
            return None;
        }
        match self.expression(expression) {
            Value::Tensor(tensor) => Some(tensor),
            Value::Unknown => None,
            other => {
                self.refuse(
                    expression,
                    format!("{} reads a value of the network, and this is {}; {}", layer.name, other.kind(), layer.usage()),
                );
                None
            }
        }
    }

    /// The argument at `position`: its name, where it stands, its value.
    fn argument(
        &mut self,
        layer: &Layer,
        position: usize,
        argument: &Expr,
        places: &HashMap<&'static str, TokenStream>,
    ) -> Option<(&'static str, TokenStream, Argument)> {
        let (parameter, value) = match argument {
            Expr::Assign(named) => {
                let wanted = named.left.to_token_stream().to_string();
                let Some(parameter) = layer.parameters.iter().find(|parameter| parameter.name == wanted) else {
                    let near = nearest(&wanted, layer.parameters.iter().map(|parameter| parameter.name));
                    let hint = near.map_or_else(|| "it takes no named arguments".to_owned(), |near| format!("did you mean `{near}`?"));
                    self.refuse(&named.left, format!("{} has no argument `{wanted}`: {hint}", layer.name));
                    return None;
                };
                if places.contains_key(parameter.name) {
                    self.refuse(&named.left, format!("`{wanted}` is given twice; keep one"));
                    return None;
                }
                (parameter, &*named.right)
            }
            positional => match layer.parameters.get(position - 1) {
                Some(parameter) if parameter.default == Preset::Required && layer.inputs == Inputs::One => (parameter, positional),
                Some(parameter) => {
                    let text = positional.to_token_stream();
                    self.refuse(positional, format!("`{0}` is given by name: write {0} = {text}", parameter.name));
                    return None;
                }
                None => {
                    self.refuse(positional, format!("{} takes no further argument; {}", layer.name, layer.usage()));
                    return None;
                }
            },
        };
        self.value_of(parameter.kind, value).map(|result| (parameter.name, value.to_token_stream(), result))
    }

    /// The argument that `value` is, for a parameter of `kind`.
    fn value_of(&mut self, kind: Kind, value: &Expr) -> Option<Argument> {
        if kind == Kind::Init {
            return self.init(value).map(Argument::Init);
        }
        let evaluated = self.expression(value);
        let argument = match &evaluated {
            Value::Integer(value) => Some(Argument::Integer(*value)),
            Value::Number(value) => Some(Argument::Number(*value)),
            Value::Flag(flag) => Some(Argument::Flag(*flag)),
            Value::Text(text) => Some(Argument::Text(text.clone())),
            Value::Tuple(values) => match values[..] {
                [Value::Integer(rows), Value::Integer(columns)] => Some(Argument::Pair([rows, columns])),
                _ => None,
            },
            Value::Unknown => return None,
            _ => None,
        };
        if argument.is_none() {
            self.refuse(value, format!("this is {}; write {}", evaluated.kind(), kind.meaning()));
        }
        argument
    }

    fn init(&mut self, value: &Expr) -> Option<Init> {
        let init = match value {
            Expr::Path(path) => match path.path.get_ident().map(ToString::to_string).as_deref() {
                Some("he") => Some(Init::He),
                Some("xavier") => Some(Init::Xavier),
                Some("zeros") => Some(Init::Zeros),
                _ => None,
            },
            Expr::Call(call) if call.func.to_token_stream().to_string() == "normal" && call.args.len() == 1 => {
                match call.args.first().map(|deviation| self.expression(deviation)) {
                    Some(Value::Integer(deviation)) => Some(Init::Normal(deviation as f64)),
                    Some(Value::Number(deviation)) => Some(Init::Normal(deviation)),
                    _ => None,
                }
            }
            _ => None,
        };
        if init.is_none() {
            self.refuse(value, format!("write {}", Kind::Init.meaning()));
        }
        init
    }
}
