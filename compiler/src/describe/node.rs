//! Nodes and parameters under names of their own.

use super::vocabulary::Arguments;
use super::{Description, Init, Mistake, Tensor, checked};
use crate::zoo::builder::{Attribute, Fill};

impl Description {
    /// The next node of `op`, named after it.
    pub(super) fn node(&mut self, op: &'static str, inputs: &[&str], attributes: &[(&str, Attribute<'_>)], dims: Vec<usize>) -> Tensor {
        let name = self.numbered(op);
        self.node_named(op, &format!("{name}.output"), inputs, attributes, dims)
    }

    /// A node whose output is called `output`.
    pub(super) fn node_named(
        &mut self,
        op: &str,
        output: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute<'_>)],
        dims: Vec<usize>,
    ) -> Tensor {
        self.names.insert(output.to_owned());
        Tensor { name: self.model.node(op, output, inputs, attributes), dims }
    }

    /// `conv1`, `conv2`, ...
    fn numbered(&mut self, kind: &'static str) -> String {
        loop {
            let count = self.counts.entry(kind).or_default();
            *count += 1;
            let name = format!("{}{count}", kind.to_lowercase());
            if !self.names.contains(&name) && self.names.insert(name.clone()) {
                return name;
            }
        }
    }

    /// The name that a layer with weights was given, or the next of its kind.
    pub(super) fn layer_name(&mut self, kind: &'static str, arguments: &Arguments) -> Result<String, Mistake> {
        let Some(given) = arguments.text("name") else { return Ok(self.numbered(kind)) };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if !given.starts_with(|c: char| c.is_ascii_alphabetic()) || !given.chars().all(plain) {
            return Err(Mistake::of("name", format!("`{given}`"), "begin with a letter; letters, digits, `_` and `.` follow"));
        }
        if !self.names.insert(given.to_owned()) {
            let hint = "names are given once: in a loop, leave the name out";
            return Err(Mistake::of("name", format!("there is another layer called `{given}`"), hint));
        }
        Ok(given.to_owned())
    }

    /// A weight under the rule that the layer was given.
    pub(super) fn weight(&mut self, layer: &str, dims: &[usize], fans: [usize; 2], init: Init) -> Result<String, Mistake> {
        checked("x", dims)?;
        Ok(self.model.parameter(&format!("{layer}.weight"), dims, init.fill(fans)))
    }

    /// A vector of parameters that begins with one value.
    pub(super) fn vector(&mut self, layer: &str, suffix: &str, len: usize, value: f32) -> String {
        self.model.parameter(&format!("{layer}.{suffix}"), &[len], Fill::Constant(value))
    }

    /// Parameters of any shape that begin with one value.
    pub(super) fn filled(&mut self, name: &str, dims: &[usize], value: f32) -> String {
        self.model.parameter(name, dims, Fill::Constant(value))
    }

    /// A single number that is not learned.
    pub(super) fn constant(&mut self, kind: &'static str, value: f32) -> String {
        let name = self.numbered(kind);
        self.model.tensor(&name, &[], &[value])
    }

    /// A vector as an image of one pixel, which ONNX repeats over another image's pixels.
    pub(super) fn per_channel(&mut self, x: &Tensor) -> Tensor {
        let axes = self.numbered("axes");
        let axes = self.model.list(&axes, &[2, 3]);
        self.node("Unsqueeze", &[&x.name, &axes], &[], vec![x.dims[0], 1, 1])
    }
}
