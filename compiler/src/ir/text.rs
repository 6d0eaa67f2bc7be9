//! The text form: one node a line, in topological order, results last. [`parse`] reads what [`print()`] writes.
//!
//! ```text
//! graph "resnet8"
//! %input = input() {"shape":["N",3,8,8]} : [N, 3, 8, 8]
//! %conv1.weight = parameter() {"dims":[16,3,3,3],"role":"Trainable"} : [16, 3, 3, 3]  # 9f86d081884c7d65
//! %"/conv1/out" = convolution(%input, %conv1.weight) {"strides":[1,1],..} : [N, 16, 8, 8]  @"conv1"
//! %mean, %variance = batch_moments(%"/conv1/out") : [16], [16]  @"bn1"
//! output %logits
//! logits %logits
//! gradient %conv1.weight = %dw
//! update %bn1.running_mean = %next
//! ```
//!
//! Attributes are the payload's JSON, left out when there are none; the node's name is left out when it is its first output's.
//! Names of other characters than letters, digits, `_` and `.` are quoted as JSON strings. `#` begins a comment. A parameter's initial
//! value is not printed, only a hash of it, as a comment; a parsed parameter starts at zero.

use super::graph::{Graph, NodeId, Value, ValueInfo};
use super::{Dim, Shape, Tensor};
use crate::op::Op;
use std::collections::HashMap;
use std::fmt::Write;

/// The largest parameter that [`parse`] fills with zeros, in elements.
const LARGEST: usize = 1 << 28;

/// A line that is not in the text form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, and what was expected.
    pub what: String,
}

/// Prints `graph`; a graph with a cycle is printed in insertion order.
pub fn print(graph: &Graph) -> String {
    let mut text = format!("graph {}\n", quote(&graph.name));
    for id in graph.topological().unwrap_or_else(|_| graph.ids()) {
        text.push_str(&line(graph, id));
        text.push('\n');
    }
    let results = [("output", graph.output), ("logits", graph.logits)];
    for (keyword, value) in results.into_iter().filter_map(|(keyword, value)| Some((keyword, value?))) {
        let _ = writeln!(text, "{keyword} {}", value_name(graph, value));
    }
    for (keyword, results) in [("gradient", &graph.gradients), ("update", &graph.state_updates)] {
        for (&parameter, &value) in results {
            let parameter = value_name(graph, Value { node: parameter, output: 0 });
            let _ = writeln!(text, "{keyword} {parameter} = {}", value_name(graph, value));
        }
    }
    text
}

/// One node, without a line end.
fn line(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    let (keyword, attributes) = spell(&node.op);
    let names: Vec<_> = node.outputs.iter().map(|o| format!("%{}", plain_or_quoted(&o.name))).collect();
    let operands: Vec<_> = graph.inputs(id).into_iter().map(|v| value_name(graph, v)).collect();
    let shapes: Vec<_> = node.outputs.iter().map(|o| o.shape.to_string()).collect();
    let mut text = format!("{} = {keyword}({})", names.join(", "), operands.join(", "));
    if attributes != "{}" {
        let _ = write!(text, " {attributes}");
    }
    let _ = write!(text, " : {}", shapes.join(", "));
    if node.outputs.first().is_none_or(|first| first.name != node.name) {
        let _ = write!(text, "  @{}", quote(&node.name));
    }
    if let Some(initial) = graph.initial.get(&id) {
        let _ = write!(text, "  # {:016x}", hash(initial));
    }
    text
}

/// The op's keyword and its attributes as JSON, fields in declaration order.
pub(super) fn spell(op: &Op) -> (String, String) {
    // An externally tagged enum is `{"keyword":payload}`; payloads hold nothing that JSON cannot (no maps with odd keys), so this succeeds.
    let json = serde_json::to_string(op).unwrap_or_default();
    let inner = json.strip_prefix("{\"").and_then(|rest| rest.strip_suffix('}'));
    match inner.and_then(|inner| inner.split_once("\":")) {
        Some((keyword, attributes)) => (keyword.to_owned(), attributes.to_owned()),
        None => (op.operator().name().to_owned(), "{}".to_owned()),
    }
}

/// FNV-1a over the bits of the values: tells versions of a parameter apart, nothing more.
fn hash(tensor: &Tensor) -> u64 {
    let bytes = tensor.values.iter().flat_map(|v| v.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn value_name(graph: &Graph, value: Value) -> String {
    match graph.contains(value) {
        true => format!("%{}", plain_or_quoted(&graph.info(value).name)),
        false => "%\"\"".to_owned(),
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

fn plain_or_quoted(name: &str) -> String {
    if !name.is_empty() && name.chars().all(is_plain) { name.to_owned() } else { quote(name) }
}

fn quote(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

/// Reads the text form. Shapes are taken as written: [`super::validate`] compares them with what the operations give.
///
/// # Errors
/// The first line that does not follow it, reads a value before its line, or defines a name twice.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let mut parser = Parser { graph: Graph::default(), values: HashMap::new() };
    for (index, line) in text.lines().enumerate() {
        let mut cursor = Cursor { rest: line };
        parser.line(&mut cursor).map_err(|what| ParseError { line: index + 1, what })?;
    }
    Ok(parser.graph)
}

struct Parser {
    graph: Graph,
    values: HashMap<String, Value>,
}

impl Parser {
    fn line(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        if cursor.at_end() {
            return Ok(());
        }
        if cursor.next_is('%') {
            self.node(cursor)?;
        } else {
            let keyword = cursor.word();
            match keyword.as_str() {
                "graph" => self.graph.name = cursor.json()?,
                "output" => self.graph.output = Some(self.value(cursor)?),
                "logits" => self.graph.logits = Some(self.value(cursor)?),
                "gradient" | "update" => {
                    let parameter = self.value(cursor)?.node;
                    cursor.expect('=')?;
                    let value = self.value(cursor)?;
                    let results = if keyword == "gradient" { &mut self.graph.gradients } else { &mut self.graph.state_updates };
                    results.insert(parameter, value);
                }
                _ => {
                    return Err(format!(
                        "'{}' begins no line; expected %, graph, output, logits, gradient or update",
                        keyword + cursor.rest
                    ));
                }
            }
        }
        if cursor.at_end() { Ok(()) } else { Err(format!("'{}' is left over", cursor.rest)) }
    }

    fn node(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        let names = cursor.list(Cursor::name)?;
        cursor.expect('=')?;
        let keyword = cursor.word();
        cursor.expect('(')?;
        let inputs = if cursor.next_is(')') { vec![] } else { cursor.list(|cursor| self.value(cursor))? };
        cursor.expect(')')?;
        let attributes: serde_json::Value =
            if cursor.next_is('{') { cursor.json()? } else { serde_json::Value::Object(serde_json::Map::new()) };
        let tagged = serde_json::Value::Object([(keyword.clone(), attributes)].into_iter().collect());
        let op: Op = serde_json::from_value(tagged).map_err(|error| format!("operation '{keyword}': {error}"))?;
        cursor.expect(':')?;
        let shapes = cursor.list(Cursor::shape)?;
        if shapes.len() != names.len() {
            return Err(format!("{} outputs but {} shapes", names.len(), shapes.len()));
        }
        let name = if cursor.accept('@') { cursor.json()? } else { names[0].clone() };
        let initial = initial(&op)?;
        let outputs = names.into_iter().zip(shapes).map(|(name, shape)| ValueInfo { name, shape }).collect();
        let id = self.graph.add(name, op, &inputs, outputs);
        for value in self.graph.outputs(id) {
            let name = &self.graph.info(value).name;
            if self.values.insert(name.clone(), value).is_some() {
                return Err(format!("%{} is defined a second time; value names are unique", plain_or_quoted(name)));
            }
        }
        if let Some(initial) = initial {
            self.graph.initial.insert(id, initial.into());
        }
        Ok(())
    }

    fn value(&self, cursor: &mut Cursor<'_>) -> Result<Value, String> {
        let name = cursor.name()?;
        self.values.get(&name).copied().ok_or_else(|| format!("%{} is not defined above this line", plain_or_quoted(&name)))
    }
}

/// Zeros for a parameter, nothing for other ops.
fn initial(op: &Op) -> Result<Option<Tensor>, String> {
    let Op::Parameter(parameter) = op else { return Ok(None) };
    let elements = parameter.dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim)).filter(|&n| n <= LARGEST);
    match elements {
        Some(_) => Ok(Some(Tensor::full(&parameter.dims, 0.0))),
        None => Err(format!("a parameter of {:?} elements is too large; at most {LARGEST} are read", parameter.dims)),
    }
}

/// What is left of a line. Every method skips leading blanks.
struct Cursor<'a> {
    rest: &'a str,
}

impl Cursor<'_> {
    fn next_is(&mut self, c: char) -> bool {
        self.rest = self.rest.trim_start();
        self.rest.starts_with(c)
    }

    fn at_end(&mut self) -> bool {
        self.next_is('#') || self.rest.is_empty()
    }

    fn accept(&mut self, c: char) -> bool {
        let found = self.next_is(c);
        if found {
            self.rest = &self.rest[c.len_utf8()..];
        }
        found
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        if self.accept(c) { Ok(()) } else { Err(format!("expected '{c}' before '{}'", self.rest)) }
    }

    /// The longest run of plain characters, perhaps none.
    fn word(&mut self) -> String {
        self.rest = self.rest.trim_start();
        let (word, rest) = self.rest.split_at(self.rest.find(|c| !is_plain(c)).unwrap_or(self.rest.len()));
        self.rest = rest;
        word.to_owned()
    }

    fn name(&mut self) -> Result<String, String> {
        self.expect('%')?;
        if self.rest.starts_with('"') {
            return self.json();
        }
        let name = self.word();
        if name.is_empty() { Err(format!("expected a name after % before '{}'", self.rest)) } else { Ok(name) }
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, String> {
        let mut stream = serde_json::Deserializer::from_str(self.rest).into_iter();
        let value = stream.next().unwrap_or_else(|| Err(serde::de::Error::custom("nothing there")));
        let consumed = stream.byte_offset();
        let value = value.map_err(|error| format!("expected JSON before '{}': {error}", self.rest))?;
        self.rest = &self.rest[consumed..];
        Ok(value)
    }

    fn shape(&mut self) -> Result<Shape, String> {
        self.expect('[')?;
        if self.accept(']') {
            return Ok(Shape(vec![]));
        }
        let dims = self.list(|cursor| match cursor.word().as_str() {
            "N" => Ok(Dim::Batch),
            word => word.parse().map(Dim::Fixed).map_err(|_| format!("'{word}' is no extent; expected a number or N")),
        })?;
        self.expect(']')?;
        Ok(Shape(dims))
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        let mut items = vec![item(self)?];
        while self.accept(',') {
            items.push(item(self)?);
        }
        Ok(items)
    }
}

/// Attributes that may be infinite, which JSON has no number for: a number, `"inf"` or `"-inf"`. For `#[serde(with)]`.
pub mod bound {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Spelling {
        Finite(f32),
        Infinite(Sign),
    }

    #[derive(Serialize, Deserialize)]
    enum Sign {
        #[serde(rename = "inf")]
        Positive,
        #[serde(rename = "-inf")]
        Negative,
    }

    /// Writes `bound`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bound: &f32, serializer: S) -> Result<S::Ok, S::Error> {
        let spelling = match *bound {
            f32::INFINITY => Spelling::Infinite(Sign::Positive),
            f32::NEG_INFINITY => Spelling::Infinite(Sign::Negative),
            finite => Spelling::Finite(finite),
        };
        spelling.serialize(serializer)
    }

    /// Reads what [`serialize`] writes.
    ///
    /// # Errors
    /// Neither a number nor an infinity.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
        Ok(match Spelling::deserialize(deserializer)? {
            Spelling::Finite(bound) => bound,
            Spelling::Infinite(Sign::Positive) => f32::INFINITY,
            Spelling::Infinite(Sign::Negative) => f32::NEG_INFINITY,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::arbitrary::graphs;
    use proptest::prelude::*;

    const MODEL: &str = r#"graph "a model"
%input = input() {"shape":["N",3,8,8]} : [N, 3, 8, 8]
%conv.weight = parameter() {"dims":[4,3,3,3],"role":"Trainable"} : [4, 3, 3, 3]  # 18d5a81fd0af6325
%"/conv/out" = convolution(%input, %conv.weight) {"strides":[1,1],"dilations":[1,1],"pads":[1,1,1,1],"groups":1} : [N, 4, 8, 8]  @"conv"
%mean, %variance = batch_moments(%"/conv/out") : [4], [4]  @"bn"
%scale = constant() {"value":{"dims":[],"values":[0.1]}} : []
%p = mul(%"/conv/out", %scale) : [N, 4, 8, 8]
%y = clip(%p) {"low":-0.1,"high":"inf"} : [N, 4, 8, 8]
%running = parameter() {"dims":[4],"role":"State"} : [4]
%next = running_average(%running, %mean) {"momentum":0.9} : [4]
output %y
logits %"/conv/out"
gradient %conv.weight = %conv.weight
update %running = %next
"#;

    fn without_comments(text: &str) -> Vec<&str> {
        text.lines().map(|line| line.rsplit_once("  # ").map_or(line, |(code, _)| code)).collect()
    }

    #[test]
    fn prints_what_it_parsed() {
        let graph = parse(MODEL).unwrap();
        assert_eq!(without_comments(&print(&graph)), without_comments(MODEL));
        assert_eq!(graph.parameters().len(), 2);
        assert_eq!(*graph.initial[&graph.parameters()[0]], Tensor::full(&[4, 3, 3, 3], 0.0));
    }

    #[test]
    fn bounds_may_be_infinite() {
        for (low, high) in [(f32::NEG_INFINITY, 0.0), (0.1, f32::INFINITY), (f32::MIN, 6.0)] {
            let op = Op::from(crate::op::Clip { low, high });
            let (keyword, attributes) = spell(&op);
            let read: Op = serde_json::from_str(&format!("{{\"{keyword}\":{attributes}}}")).unwrap();
            assert_eq!(read, op);
        }
    }

    #[test]
    fn hash_follows_the_initial_value() {
        let mut graph = parse(MODEL).unwrap();
        let before = print(&graph);
        std::sync::Arc::make_mut(graph.initial.values_mut().next().unwrap()).values[5] = 1.0;
        let after = print(&graph);
        assert_ne!(before, after);
        assert_eq!(without_comments(&before), without_comments(&after));
    }

    #[test]
    fn empty_lines_and_comments_are_nothing() {
        let graph = parse("# a comment\n\n  %x = input() {\"shape\":[\"N\"]} : [N] # the end\n").unwrap();
        assert_eq!(graph.len(), 1);
    }

    #[test]
    fn errors_name_the_line_and_what_is_wrong() {
        let input = "%x = input() {\"shape\":[\"N\"]} : [N]";
        for (text, line, what) in [
            ("\n%x = rellu() : [N]", 2, "operation 'rellu'"),
            ("%y = relu(%x) : [N]", 1, "%x is not defined above"),
            (&format!("{input}\n{input}"), 2, "%x is defined a second time"),
            ("%x = input() : [N]", 1, "missing field `shape`"),
            ("%x = input() {\"shape\": : [N]", 1, "expected JSON"),
            (&format!("{input}, [N]"), 1, "1 outputs but 2 shapes"),
            (&format!("{input} more"), 1, "'more' is left over"),
            ("%x = input() {\"shape\":[\"N\"]} : [M]", 1, "'M' is no extent"),
            ("outputs %x", 1, "'outputs %x' begins no line"),
            ("%p = parameter() {\"dims\":[99999999999,99999999999],\"role\":\"State\"} : [1]", 1, "too large"),
            ("% = relu() : [N]", 1, "expected a name after %"),
            ("%x relu() : [N]", 1, "expected '=' before 'relu() : [N]'"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, line, "{error}");
            assert!(error.what.contains(what), "{error}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(graph in graphs()) {
            let text = print(&graph);
            let parsed = parse(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
            prop_assert_eq!(print(&parsed), text);
        }

        #[test]
        fn parse_never_panics(text in "[ %a-c\\[\\]{}\":=@#,()N0-9\n\\\\]{0,60}") {
            let _ = parse(&text);
        }
    }
}
