//! Decides for every weight whether it is sparse, under which scheme, and how many units it is budgeted.
//!
//! A weight matrix is a parameter that Convolution or Linear multiplies by, perhaps through Transpose and Reshape, whose effect is folded
//! into the matrix's strides: masks and values live in the parameter's own layout. A parameter has one mask, so it must be one matrix:
//! one used in two orientations, or also read element by element, is refused.
//!
//! Sparse unless told otherwise is every weight matrix but these, whose few weights matter most (a first Linear *is* sparse: it holds most
//! of an MLP):
//!
//! - the first convolution;
//! - the last layer with weights, the classifier;
//! - depthwise kernels;
//! - frozen weights;
//! - 1x1 convolutions, perhaps followed by batch normalization, on an Add whose other operand comes by a longer path from the value that
//!   the convolution reads: projections on a shortcut.
//!
//! Where the distribution is Erdos-Renyi-Kernel, layers without a density of their own share what the model's density gives them.
//!
//! A request for one layer overrides these rules, and a given mask overrides everything. At density 1 a layer is dense. A dense layer is
//! stored as blocks with every unit live, so that the same tiles compute it.

use super::erk;
use super::weight_view::{NoMatrix, View};
use crate::ir::graph::Role;
use crate::ir::{Graph, NodeId, Value};
use crate::op::Op;
use mest_runtime::manifest::{Block, Patterns, WeightMatrix};
use mest_runtime::recipe::Distribution;
use mest_runtime::sparse::scheme::SchemeError;
use mest_runtime::sparse::{Scheme, Units};
use std::collections::{BTreeMap, HashMap};

/// How far densities may be apart and still be one.
const SAME_DENSITY: f64 = 1e-9;

/// What is asked of the whole model and of single layers.
#[derive(Clone, Debug, PartialEq)]
pub struct SparsityRequest {
    /// Share of weights that sparse layers keep, in `(0, 1]`; 1 makes every layer dense.
    pub density: f64,
    /// How the density is spread over the layers that have none of their own.
    pub distribution: Distribution,
    /// What their masks keep or drop as one.
    pub scheme: Scheme,
    /// Patterns of kernels, where the scheme has them.
    pub patterns: Patterns,
    /// Requests for single layers, by the name of the parameter or of the node.
    pub layers: BTreeMap<String, LayerRequest>,
    /// Masks to start from, by parameter, one entry an element in ONNX order: such a parameter is unstructured, at its mask's density.
    pub masks: BTreeMap<String, Vec<bool>>,
}

/// What is asked of one layer; `None` leaves the model's choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerRequest {
    /// Share of weights to keep, in `(0, 1]`. Makes the layer sparse.
    pub density: Option<f64>,
    /// What its mask keeps or drops as one. Makes the layer sparse.
    pub scheme: Option<Scheme>,
    /// Dense, or sparse although the rules say dense.
    pub dense: Option<bool>,
}

/// One weight matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSparsity {
    /// The parameter's name.
    pub name: String,
    /// The parameter.
    pub parameter: NodeId,
    /// The Convolution and Linear nodes that multiply by it, in topological order.
    pub users: Vec<NodeId>,
    /// The matrix and its division into units, in the parameter's own layout.
    pub units: Units,
    /// Share of weights kept; `None` for a dense layer.
    pub density: Option<f64>,
    /// Units budgeted; all of them in a dense layer.
    pub live: usize,
    /// Why it is sparse or dense.
    pub reason: String,
}

impl LayerSparsity {
    /// The scheme, as the command line spells it; `dense` for a dense layer.
    pub fn scheme_name(&self) -> String {
        self.density.map_or_else(|| "dense".to_owned(), |density| self.units.scheme(density).to_string())
    }

    /// Weights budgeted.
    pub fn nnz(&self) -> usize {
        self.live * self.units.elements()
    }
}

/// Every weight matrix, in topological order of its first user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SparsityTable {
    /// One entry a parameter.
    pub layers: Vec<LayerSparsity>,
}

impl SparsityTable {
    /// The entry of a parameter node.
    pub fn of_parameter(&self, parameter: NodeId) -> Option<&LayerSparsity> {
        self.layers.iter().find(|layer| layer.parameter == parameter)
    }

    /// The entry of the weight that a Convolution or Linear node multiplies by.
    pub fn of_user(&self, user: NodeId) -> Option<&LayerSparsity> {
        self.layers.iter().find(|layer| layer.users.contains(&user))
    }
}

/// A request that does not fit the model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SparsityError {
    /// A name that no layer bears.
    #[error("there is no layer '{name}' with weights; {}", .nearest.as_ref().map_or("the model has none".to_owned(), |name| format!("the nearest name is '{name}'")))]
    UnknownLayer {
        /// What was asked for.
        name: String,
        /// The name most like it.
        nearest: Option<String>,
    },
    /// Two requests for one weight.
    #[error("'{first}' and '{second}' name the same weight '{parameter}'; keep one of them")]
    NamedTwice {
        /// The weight.
        parameter: String,
        /// A name it was asked for under.
        first: String,
        /// Another.
        second: String,
    },
    /// Both dense and sparse.
    #[error("layer '{layer}' is asked to be dense and to have a density or scheme; drop one of the two")]
    Contradiction {
        /// The name it was asked for under.
        layer: String,
    },
    /// A density outside of its range.
    #[error("density {density} of {of}: it must be more than 0 and at most 1")]
    Density {
        /// The model, or a layer by name.
        of: String,
        /// What was asked for.
        density: f64,
    },
    /// A density that the scheme can't have.
    #[error("weight '{layer}': scheme {scheme} cannot have density {density}; the nearest that it has is {nearest}")]
    SchemeDensity {
        /// The weight.
        layer: String,
        /// Its scheme.
        scheme: Scheme,
        /// What was asked for.
        density: f64,
        /// What would do.
        nearest: f64,
    },
    /// The matrix does not divide into blocks.
    #[error("weight '{layer}': {error}; or make this layer dense, or give it a scheme of its own")]
    Scheme {
        /// The weight.
        layer: String,
        /// What does not divide, and what would.
        error: SchemeError,
    },
    /// Two matrices in one parameter.
    #[error("parameter '{parameter}' is read in two orientations, by '{first}' and by '{second}'; one mask cannot serve both: untie them")]
    TwoOrientations {
        /// The parameter.
        parameter: String,
        /// A node that multiplies by it.
        first: String,
        /// Another, which sees a different matrix.
        second: String,
    },
    /// A weight that something else reads, too.
    #[error(
        "parameter '{parameter}' is a weight matrix and also read by '{reader}' ({op}); a weight can only be multiplied by: untie them"
    )]
    AlsoElementwise {
        /// The parameter.
        parameter: String,
        /// The node that reads it otherwise.
        reader: String,
        /// Its operation.
        op: &'static str,
    },
    /// A weight that is no parameter.
    #[error("layer '{layer}' multiplies by '{value}', which {op} computes; a weight must be a parameter, at most transposed or reshaped")]
    Computed {
        /// The layer.
        layer: String,
        /// The value that is computed.
        value: String,
        /// What computes it.
        op: &'static str,
    },
    /// A view without strides.
    #[error("layer '{layer}' reads its weight through '{value}', whose elements lie at no fixed strides; store the weight as it is used")]
    Scattered {
        /// The layer.
        layer: String,
        /// The view.
        value: String,
    },
    /// A mask of another size.
    #[error("the mask of '{parameter}' has {entries} entries for {elements} weights")]
    MaskLength {
        /// The parameter.
        parameter: String,
        /// Entries of the mask.
        entries: usize,
        /// Elements of the parameter.
        elements: usize,
    },
    /// A mask that keeps nothing.
    #[error("the mask of '{parameter}' keeps no weight; it must keep one at least")]
    EmptyMask {
        /// The parameter.
        parameter: String,
    },
}

/// Decides the sparsity of every weight of `graph`, before or after differentiation.
///
/// # Errors
/// Everything that is wrong with the request, and every weight that cannot have one mask, at once.
pub fn annotate(graph: &Graph, request: &SparsityRequest) -> Result<SparsityTable, Vec<SparsityError>> {
    let mut errors = vec![];
    let weights = weights(graph, &mut errors);
    let requests = requests(graph, &weights, request, &mut errors);
    let rules = Rules::of(graph);
    let mut table = SparsityTable::default();
    let mut sharing = vec![];
    for weight in weights {
        let asked = requests.get(&weight.parameter).copied();
        match decide(graph, &rules, &weight, asked, request) {
            Ok(layer) => {
                let of_scheme = layer.density.is_some_and(|density| layer.units.scheme(density).density().is_some());
                let own = of_scheme || asked.is_some_and(|(_, asked)| asked.density.is_some()) || request.masks.contains_key(&weight.name);
                if layer.density.is_some() && !own {
                    sharing.push(table.layers.len());
                }
                table.layers.push(layer);
            }
            Err(error) => errors.push(error),
        }
    }
    if request.distribution == Distribution::Erk && errors.is_empty() {
        erk::share(graph, &mut table, &sharing, request.density);
    }
    if errors.is_empty() { Ok(table) } else { Err(errors) }
}

/// A parameter that is multiplied by.
struct Weight {
    parameter: NodeId,
    name: String,
    matrix: WeightMatrix,
    users: Vec<NodeId>,
}

fn is_layer(op: &Op) -> bool {
    matches!(op, Op::Convolution(_) | Op::Linear(_))
}

/// Whether `op` reads a weight matrix as its operand `position`.
fn reads_weight(op: &Op, position: usize) -> bool {
    let backward =
        matches!(op, Op::ConvolutionBackward(_) | Op::ConvolutionWeightGradient(_) | Op::LinearBackward(_) | Op::LinearWeightGradient(_));
    position == 1 && (backward || is_layer(op))
}

fn layers(graph: &Graph) -> Vec<NodeId> {
    let order = graph.topological().unwrap_or_else(|_| graph.ids());
    order.into_iter().filter(|&id| is_layer(&graph.node(id).op)).collect()
}

fn name_of(graph: &Graph, parameter: NodeId) -> String {
    graph.info(Value { node: parameter, output: 0 }).name.clone()
}

/// Every weight matrix in topological order of its first user.
fn weights(graph: &Graph, errors: &mut Vec<SparsityError>) -> Vec<Weight> {
    let mut weights: Vec<Weight> = vec![];
    for layer in layers(graph) {
        let (parameter, matrix) = match matrix_of(graph, layer) {
            Ok(found) => found,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        match weights.iter_mut().find(|weight| weight.parameter == parameter) {
            Some(weight) if weight.matrix == matrix => weight.users.push(layer),
            Some(weight) => errors.push(SparsityError::TwoOrientations {
                parameter: weight.name.clone(),
                first: graph.node(weight.users[0]).name.clone(),
                second: graph.node(layer).name.clone(),
            }),
            None => weights.push(Weight { parameter, name: name_of(graph, parameter), matrix, users: vec![layer] }),
        }
    }
    errors.extend(weights.iter().filter_map(|weight| other_reader(graph, weight)));
    weights
}

/// The parameter that a layer multiplies by, and how.
fn matrix_of(graph: &Graph, layer: NodeId) -> Result<(NodeId, WeightMatrix), SparsityError> {
    let name = || graph.node(layer).name.clone();
    let Some(&operand) = graph.inputs(layer).get(1) else {
        return Err(SparsityError::Computed { layer: name(), value: String::new(), op: "nothing" });
    };
    let view = View::of(graph, operand).map_err(|no_matrix| match no_matrix {
        NoMatrix::Computed(value) => SparsityError::Computed {
            layer: name(),
            value: graph.info(value).name.clone(),
            op: graph.node(value.node).op.operator().name(),
        },
        NoMatrix::Scattered(value) => SparsityError::Scattered { layer: name(), value: graph.info(value).name.clone() },
    })?;
    let matrix = match &graph.node(layer).op {
        Op::Convolution(convolution) => view.convolution(convolution.groups),
        _ => view.linear(),
    };
    let matrix = matrix.ok_or_else(|| SparsityError::Scattered { layer: name(), value: graph.info(operand).name.clone() })?;
    Ok((view.parameter, matrix))
}

/// A node that reads the weight, or a view of it, other than as a weight.
fn other_reader(graph: &Graph, weight: &Weight) -> Option<SparsityError> {
    let mut views = vec![Value { node: weight.parameter, output: 0 }];
    while let Some(view) = views.pop() {
        for (reader, position) in graph.uses(view) {
            match &graph.node(reader).op {
                Op::Reshape(_) | Op::Transpose(_) => views.push(Value { node: reader, output: 0 }),
                op if reads_weight(op, position) => {}
                op => {
                    let (reader, op) = (graph.node(reader).name.clone(), op.operator().name());
                    return Some(SparsityError::AlsoElementwise { parameter: weight.name.clone(), reader, op });
                }
            }
        }
    }
    None
}

/// A request for one weight and the name it came under.
type Asked<'a> = (&'a str, &'a LayerRequest);

/// The requests by parameter; reports names that fit nothing and numbers out of range.
fn requests<'a>(
    graph: &Graph,
    weights: &[Weight],
    request: &'a SparsityRequest,
    errors: &mut Vec<SparsityError>,
) -> BTreeMap<NodeId, Asked<'a>> {
    let check = |of: String, density: f64| (!(density > 0.0 && density <= 1.0)).then_some(SparsityError::Density { of, density });
    errors.extend(check("the model".to_owned(), request.density));
    let mut found: BTreeMap<NodeId, Asked<'a>> = BTreeMap::new();
    for (name, layer) in &request.layers {
        errors.extend(layer.density.and_then(|density| check(format!("layer '{name}'"), density)));
        if layer.dense == Some(true) && (layer.density.is_some() || layer.scheme.is_some()) {
            errors.push(SparsityError::Contradiction { layer: name.clone() });
        }
        let by_node = |weight: &&Weight| weight.users.iter().any(|&user| graph.node(user).name == *name);
        match weights.iter().find(|weight| weight.name == *name).or_else(|| weights.iter().find(by_node)) {
            None => errors.push(unknown(graph, weights, name)),
            Some(weight) => {
                if let Some((first, _)) = found.insert(weight.parameter, (name, layer)) {
                    errors.push(SparsityError::NamedTwice {
                        parameter: weight.name.clone(),
                        first: first.to_owned(),
                        second: name.clone(),
                    });
                }
            }
        }
    }
    for (name, mask) in &request.masks {
        match weights.iter().find(|weight| weight.name == *name) {
            Some(weight) => errors.extend(wrong_mask(weight, mask)),
            // A mask that keeps everything asks for nothing.
            None if mask.iter().all(|&keep| keep) && graph.parameters().into_iter().any(|id| name_of(graph, id) == *name) => {}
            None => errors.push(unknown(graph, weights, name)),
        }
    }
    found
}

fn wrong_mask(weight: &Weight, mask: &[bool]) -> Option<SparsityError> {
    let (parameter, elements) = (weight.name.clone(), elements(&weight.matrix));
    if mask.len() != elements {
        return Some(SparsityError::MaskLength { parameter, entries: mask.len(), elements });
    }
    (!mask.contains(&true)).then_some(SparsityError::EmptyMask { parameter })
}

fn elements(matrix: &WeightMatrix) -> usize {
    matrix.outputs * matrix.inputs_per_group * matrix.kernel_rows * matrix.kernel_width
}

fn unknown(graph: &Graph, weights: &[Weight], name: &str) -> SparsityError {
    let users = weights.iter().flat_map(|weight| &weight.users).map(|&user| graph.node(user).name.as_str());
    let names = weights.iter().map(|weight| weight.name.as_str()).chain(users);
    let nearest = names.min_by_key(|candidate| edits(candidate, name)).map(str::to_owned);
    SparsityError::UnknownLayer { name: name.to_owned(), nearest }
}

/// Insertions, deletions and substitutions between two names.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Which layers are dense by rule.
struct Rules {
    first_convolution: Option<NodeId>,
    last: Option<NodeId>,
    shortcuts: BTreeMap<NodeId, NodeId>,
}

impl Rules {
    fn of(graph: &Graph) -> Self {
        let layers = layers(graph);
        let is_convolution = |&&id: &&NodeId| matches!(graph.node(id).op, Op::Convolution(_));
        Rules {
            first_convolution: layers.iter().find(is_convolution).copied(),
            last: layers.last().copied(),
            shortcuts: layers.iter().filter_map(|&id| Some((id, shortcut(graph, id)?))).collect(),
        }
    }

    /// Why `weight` is dense by rule, if it is.
    fn dense(&self, graph: &Graph, weight: &Weight) -> Option<String> {
        let matrix = &weight.matrix;
        if matrix.groups > 1 && matrix.inputs_per_group == 1 {
            return Some("depthwise kernels are dense".to_owned());
        }
        weight.users.iter().find_map(|user| {
            if self.first_convolution == Some(*user) {
                return Some("the first convolution is dense".to_owned());
            }
            if self.last == Some(*user) {
                return Some("the last layer with weights is dense".to_owned());
            }
            let add = self.shortcuts.get(user)?;
            Some(format!("a 1x1 convolution on the shortcut to '{}' is dense", graph.node(*add).name))
        })
    }
}

/// The Add that a 1x1 convolution projects a shortcut to, if it does.
fn shortcut(graph: &Graph, layer: NodeId) -> Option<NodeId> {
    let inputs = graph.inputs(layer);
    let (&x, &weight) = (inputs.first()?, inputs.get(1)?);
    if !matches!(graph.node(layer).op, Op::Convolution(_)) || graph.shape(weight).fixed().get(2..) != Some(&[1, 1]) {
        return None;
    }
    let result = Value { node: layer, output: 0 };
    let is_norm = |op: &Op| matches!(op, Op::BatchNormalization(_) | Op::Normalize(_));
    let norms = graph.uses(result).into_iter().filter(|&(node, position)| position == 0 && is_norm(&graph.node(node).op));
    let ends: Vec<_> = std::iter::once(result).chain(norms.map(|(node, _)| Value { node, output: 0 })).collect();
    let lengths = path_lengths(graph, x);
    ends.into_iter().find_map(|end| {
        graph.uses(end).into_iter().map(|(add, _)| add).filter(|&add| matches!(graph.node(add).op, Op::Add(_))).find(|&add| {
            let others = graph.inputs(add).into_iter().filter(|&other| other != end);
            others.into_iter().any(|other| lengths.get(&other) > lengths.get(&end))
        })
    })
}

/// Nodes on the longest path from `from` to each value that depends on it. The batch's moments are part of a normalization, no path.
fn path_lengths(graph: &Graph, from: Value) -> HashMap<Value, usize> {
    let mut lengths = HashMap::from([(from, 0)]);
    for id in graph.topological().unwrap_or_default() {
        if matches!(graph.node(id).op, Op::BatchMoments(_)) {
            continue;
        }
        if let Some(longest) = graph.inputs(id).iter().filter_map(|input| lengths.get(input).copied()).max() {
            lengths.extend(graph.outputs(id).into_iter().map(|output| (output, longest + 1)));
        }
    }
    lengths
}

/// Applies masks, then the request for the layer, then the rules.
fn decide(
    graph: &Graph,
    rules: &Rules,
    weight: &Weight,
    asked: Option<Asked<'_>>,
    request: &SparsityRequest,
) -> Result<LayerSparsity, SparsityError> {
    if let Some(mask) = request.masks.get(&weight.name) {
        let live = mask.iter().filter(|&&keep| keep).count();
        let density = live as f64 / mask.len().max(1) as f64;
        let units = Units::new(weight.matrix, Block { rows: 1, columns: 1 });
        return Ok(layer(weight, units, Some(density), live, "its mask is given".to_owned()));
    }
    let (name, asked) = asked.unwrap_or(("", const { &LayerRequest { density: None, scheme: None, dense: None } }));
    let asked_sparse = asked.dense == Some(false) || asked.density.is_some() || asked.scheme.is_some();
    let scheme = asked.scheme.unwrap_or(request.scheme);
    let density = asked.density.or(scheme.density().filter(|_| request.density < 1.0)).unwrap_or(request.density);
    let dense = if asked.dense == Some(true) {
        Some(format!("asked to be dense by '{name}'"))
    } else if density == 1.0 {
        Some("its density is 1".to_owned())
    } else if asked_sparse {
        None
    } else if matches!(&graph.node(weight.parameter).op, Op::Parameter(parameter) if parameter.role == Role::Frozen) {
        Some("frozen: it keeps all its weights".to_owned())
    } else {
        rules.dense(graph, weight)
    };
    if let Some(reason) = dense {
        let units = Units::new(weight.matrix, dense_block(&weight.matrix));
        return Ok(layer(weight, units, None, units.count(), reason));
    }
    let units =
        scheme.fit(&weight.matrix, request.patterns).map_err(|error| SparsityError::Scheme { layer: weight.name.clone(), error })?;
    let largest = scheme.density().unwrap_or_else(|| units.largest_density());
    if density > largest + SAME_DENSITY || scheme.density().is_some_and(|own| density < own - SAME_DENSITY) {
        return Err(SparsityError::SchemeDensity { layer: weight.name.clone(), scheme, density, nearest: largest });
    }
    let reason = if asked_sparse { format!("asked to be sparse by '{name}'") } else { "sparse by default".to_owned() };
    Ok(layer(weight, units, Some(density), units.budget(density), reason))
}

fn layer(weight: &Weight, units: Units, density: Option<f64>, live: usize, reason: String) -> LayerSparsity {
    LayerSparsity { name: weight.name.clone(), parameter: weight.parameter, users: weight.users.clone(), units, density, live, reason }
}

/// The tallest block of outputs, up to 4, that divides a group: what the tiles compute a dense layer with.
pub(super) fn dense_block(matrix: &WeightMatrix) -> Block {
    let outputs = matrix.outputs / matrix.groups.max(1);
    let rows = [4, 2].into_iter().find(|&rows| outputs.is_multiple_of(rows)).unwrap_or(1);
    Block { rows, columns: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;

    /// A residual network: stem, block with a projected shortcut, depthwise layer, classifier.
    const RESIDUAL: &str = r#"
%x = input() {"shape":["N",3,8,8]} : [N, 3, 8, 8]
%stem.w = parameter() {"dims":[4,3,3,3],"role":"Trainable"} : [4, 3, 3, 3]
%a.w = parameter() {"dims":[8,4,3,3],"role":"Trainable"} : [8, 4, 3, 3]
%b.w = parameter() {"dims":[8,8,1,1],"role":"Trainable"} : [8, 8, 1, 1]
%s.w = parameter() {"dims":[8,4,1,1],"role":"Trainable"} : [8, 4, 1, 1]
%d.w = parameter() {"dims":[8,1,3,3],"role":"Trainable"} : [8, 1, 3, 3]
%fc.w = parameter() {"dims":[10,8],"role":"Trainable"} : [10, 8]
%v = parameter() {"dims":[8],"role":"State"} : [8]
%stem = convolution(%x, %stem.w) {"strides":[1,1],"dilations":[1,1],"pads":[1,1,1,1],"groups":1} : [N, 4, 8, 8]
%a = convolution(%stem, %a.w) {"strides":[1,1],"dilations":[1,1],"pads":[1,1,1,1],"groups":1} : [N, 8, 8, 8]
%b = convolution(%a, %b.w) {"strides":[1,1],"dilations":[1,1],"pads":[0,0,0,0],"groups":1} : [N, 8, 8, 8]
%bn = batch_normalization(%b, %v, %v, %v, %v) {"epsilon":0.1,"momentum":0.9} : [N, 8, 8, 8]
%s = convolution(%stem, %s.w) {"strides":[1,1],"dilations":[1,1],"pads":[0,0,0,0],"groups":1} : [N, 8, 8, 8]
%sn = batch_normalization(%s, %v, %v, %v, %v) {"epsilon":0.1,"momentum":0.9} : [N, 8, 8, 8]
%sum = add(%bn, %sn) : [N, 8, 8, 8]
%d = convolution(%sum, %d.w) {"strides":[1,1],"dilations":[1,1],"pads":[1,1,1,1],"groups":8} : [N, 8, 8, 8]
%m = reduce_mean(%d) {"axes":[2,3],"keep_dims":false} : [N, 8]
%fc.t = transpose(%fc.w) {"perm":[1,0]} : [8, 10]
%y = linear(%m, %fc.t) : [N, 10]  @"classifier"
output %y
logits %y
"#;

    /// Three linear layers 8 -> 8 -> 8 -> 4; `lines` may read the weights in other ways.
    fn perceptron(lines: &str) -> Graph {
        let text = r#"
%x = input() {"shape":["N",8]} : [N, 8]
%w1 = parameter() {"dims":[8,8],"role":"Trainable"} : [8, 8]
%w2 = parameter() {"dims":[8,8],"role":"Trainable"} : [8, 8]
%w3 = parameter() {"dims":[8,4],"role":"Trainable"} : [8, 4]
%h1 = linear(%x, %w1) : [N, 8]  @"fc1"
%h2 = linear(%h1, %w2) : [N, 8]  @"fc2"
"#;
        parse(&format!("{text}{lines}\n%y = linear(%h2, %w3) : [N, 4]  @\"fc3\"\noutput %y\nlogits %y\n")).unwrap()
    }

    fn request(density: f64) -> SparsityRequest {
        let (distribution, scheme) = (Distribution::Uniform, Scheme::Unstructured);
        SparsityRequest { density, distribution, scheme, patterns: Patterns::default(), layers: BTreeMap::new(), masks: BTreeMap::new() }
    }

    fn asked(layers: &[(&str, LayerRequest)]) -> SparsityRequest {
        SparsityRequest { layers: layers.iter().map(|(name, layer)| ((*name).to_owned(), layer.clone())).collect(), ..request(0.25) }
    }

    fn summary(table: &SparsityTable) -> Vec<String> {
        table.layers.iter().map(|l| format!("{} {} {}: {}", l.name, l.scheme_name(), l.nnz(), l.reason)).collect()
    }

    fn only_error(graph: &Graph, request: &SparsityRequest) -> String {
        let errors = annotate(graph, request).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].to_string()
    }

    const DEFAULTS: [&str; 6] = [
        "stem.w dense 108: the first convolution is dense",
        "a.w unstructured 29: sparse by default",
        "b.w unstructured 6: sparse by default",
        "s.w dense 32: a 1x1 convolution on the shortcut to 'sum' is dense",
        "d.w dense 72: depthwise kernels are dense",
        "fc.w dense 80: the last layer with weights is dense",
    ];

    #[test]
    fn erk_shares_the_density_among_layers_without_their_own() {
        let graph = parse(RESIDUAL).unwrap();
        let own = LayerRequest { density: Some(0.5), ..Default::default() };
        let sparse = LayerRequest { dense: Some(false), ..Default::default() };
        let erk = |layers: &[(&str, LayerRequest)]| {
            let table = annotate(&graph, &SparsityRequest { distribution: Distribution::Erk, ..asked(layers) }).unwrap();
            table.layers.into_iter().map(|layer| (layer.name.clone(), (layer.density, layer.nnz()))).collect::<BTreeMap<_, _>>()
        };
        // 288 and 64 weights, sums of extents 18 and 18: 88 live weights, 44 each.
        let table = erk(&[]);
        assert_eq!((table["a.w"], table["b.w"]), ((Some(44.0 / 288.0), 44), (Some(44.0 / 64.0), 44)));
        assert_eq!(table["stem.w"].0, None, "dense by rule as ever");
        // 80 weights of a linear layer, sum 18 without a kernel: 108 live weights, 36 each.
        let with_classifier = erk(&[("fc.w", sparse.clone())]);
        assert_eq!(["a.w", "b.w", "fc.w"].map(|name| with_classifier[name].1), [36, 36, 36]);
        let table = erk(&[("a.w", own), ("s.w", sparse)]);
        assert_eq!((table["a.w"].1, table["b.w"].1 + table["s.w"].1), (144, 24), "a.w keeps its own density");
    }

    #[test]
    fn rules_of_a_residual_network() {
        let graph = parse(RESIDUAL).unwrap();
        assert_eq!(summary(&annotate(&graph, &request(0.1)).unwrap()), DEFAULTS);
    }

    #[test]
    fn rules_hold_through_specialization_and_differentiation() {
        use crate::pass::{attach_loss, differentiate, specialize};
        let mut graph = specialize::training(&parse(RESIDUAL).unwrap());
        assert_eq!(summary(&annotate(&graph, &request(0.1)).unwrap()), DEFAULTS);
        attach_loss::attach_loss(&mut graph, attach_loss::Loss::CrossEntropy { smoothing: 0.0 }).unwrap();
        differentiate::differentiate(&mut graph).unwrap();
        assert_eq!(summary(&annotate(&graph, &request(0.1)).unwrap()), DEFAULTS);
    }

    #[test]
    fn a_projection_beside_an_equal_path_is_no_shortcut() {
        let graph = RESIDUAL
            .replace("%b = convolution(%a,", "%b = convolution(%stem,")
            .replace("[8,8,1,1]", "[8,4,1,1]")
            .replace("[8, 8, 1, 1]", "[8, 4, 1, 1]");
        let table = annotate(&parse(&graph).unwrap(), &request(0.5)).unwrap();
        assert!(summary(&table).contains(&"s.w unstructured 16: sparse by default".to_owned()), "{:?}", summary(&table));
    }

    #[test]
    fn a_first_linear_layer_is_sparse() {
        let table = annotate(&perceptron(""), &request(0.25)).unwrap();
        assert_eq!(
            summary(&table),
            [
                "w1 unstructured 16: sparse by default",
                "w2 unstructured 16: sparse by default",
                "w3 dense 32: the last layer with weights is dense"
            ]
        );
    }

    #[test]
    fn views_are_folded_into_strides() {
        let graph = parse(RESIDUAL).unwrap();
        let table = annotate(&graph, &request(0.1)).unwrap();
        let classifier = table.of_user(graph.ids()[graph.len() - 1]).unwrap();
        let matrix = classifier.units.matrix;
        assert_eq!((matrix.outputs, matrix.inputs_per_group, matrix.output_stride, matrix.input_stride), (10, 8, 8, 1));
        assert_eq!(classifier.units.block, Block { rows: 2, columns: 1 });
        assert_eq!(table.of_parameter(classifier.parameter), Some(classifier));
        let depthwise = table.layers[4].units;
        assert_eq!((depthwise.matrix.groups, depthwise.block.rows, depthwise.matrix.kernel_rows), (8, 1, 3));
    }

    #[test]
    fn layers_are_overridden_by_parameter_or_node() {
        let layers = [
            ("w1", LayerRequest { dense: Some(true), ..LayerRequest::default() }),
            ("fc2", LayerRequest { density: Some(0.5), scheme: Some(Scheme::Block { rows: 4, columns: 2 }), dense: None }),
            ("w3", LayerRequest { dense: Some(false), ..LayerRequest::default() }),
        ];
        assert_eq!(
            summary(&annotate(&perceptron(""), &asked(&layers)).unwrap()),
            [
                "w1 dense 64: asked to be dense by 'w1'",
                "w2 block:4x2 32: asked to be sparse by 'fc2'",
                "w3 unstructured 8: asked to be sparse by 'w3'"
            ]
        );
        let full = [("w2", LayerRequest { density: Some(1.0), ..LayerRequest::default() })];
        assert!(summary(&annotate(&perceptron(""), &asked(&full)).unwrap())[1].ends_with("its density is 1"));
    }

    #[test]
    fn mistakes_in_requests_are_named_all_at_once() {
        let sparse = LayerRequest { density: Some(0.5), ..LayerRequest::default() };
        let wrong = LayerRequest { density: Some(0.0), dense: Some(true), scheme: None };
        let layers = [("fc_2", sparse.clone()), ("w1", sparse.clone()), ("fc1", sparse), ("w3", wrong)];
        let request = SparsityRequest { density: f64::NAN, ..asked(&layers) };
        let errors: Vec<_> = annotate(&perceptron(""), &request).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "density NaN of the model: it must be more than 0 and at most 1",
                "there is no layer 'fc_2' with weights; the nearest name is 'fc2'",
                "'fc1' and 'w1' name the same weight 'w1'; keep one of them",
                "density 0 of layer 'w3': it must be more than 0 and at most 1",
                "layer 'w3' is asked to be dense and to have a density or scheme; drop one of the two",
            ]
        );
    }

    #[test]
    fn blocks_must_divide_unless_overridden() {
        let graph = parse(RESIDUAL).unwrap();
        let blocks = SparsityRequest { scheme: Scheme::Block { rows: 16, columns: 4 }, ..request(0.1) };
        let errors = annotate(&graph, &blocks).unwrap_err();
        assert_eq!(errors.len(), 2, "dense layers need not divide: {errors:?}");
        assert!(errors[0].to_string().starts_with("weight 'a.w': scheme 'block:16x4' does not fit 8 outputs"), "{}", errors[0]);
        assert!(errors[0].to_string().contains("block:8x4"), "{}", errors[0]);
        let own = LayerRequest { scheme: Some(Scheme::Block { rows: 8, columns: 4 }), ..LayerRequest::default() };
        let dense = LayerRequest { dense: Some(true), ..LayerRequest::default() };
        let layers = [("a".to_owned(), own), ("b".to_owned(), dense)].into_iter().collect();
        let table = annotate(&graph, &SparsityRequest { layers, ..blocks }).unwrap();
        assert_eq!(summary(&table)[1], "a.w block:8x4 32: asked to be sparse by 'a'");
    }

    #[test]
    fn schemes_round_to_what_they_can_keep() {
        let graph = parse(RESIDUAL).unwrap();
        let of = |scheme: &str, density: f64| {
            let table = annotate(&graph, &SparsityRequest { scheme: scheme.parse().unwrap(), ..request(density) }).unwrap();
            summary(&table)[1..3]
                .iter()
                .map(|line| line.split(':').take(if scheme.starts_with("nm") { 3 } else { 1 }).collect::<Vec<_>>().join(":"))
                .collect::<Vec<_>>()
        };
        // 8 outputs of 4 inputs, 3x3; 8 outputs of 8 inputs, 1x1.
        assert_eq!(of("pattern", 0.25), ["a.w pattern 64", "b.w pattern 16"]);
        assert_eq!(of("fanin", 0.2), ["a.w fanin 56", "b.w fanin 16"]);
        assert_eq!(of("channel", 0.3), ["a.w channel 72", "b.w channel 16"]);
        assert_eq!(of("nm:1:4", 0.1), ["a.w nm:1:4 72", "b.w nm:1:4 16"]);
        let out = annotate(&graph, &SparsityRequest { scheme: Scheme::OutputChannel, ..request(0.3) }).unwrap();
        assert_eq!((out.layers[1].nnz(), out.layers[2].nnz()), (72, 16));
        let dense = SparsityRequest { scheme: Scheme::Pattern, ..request(0.5) };
        let errors = annotate(&graph, &dense).unwrap_err();
        assert_eq!(errors.len(), 1, "the 1x1 kernels have no cells to leave out: {errors:?}");
        assert!(
            errors[0].to_string().contains("'a.w': scheme pattern cannot have density 0.5; the nearest that it has is 0.444"),
            "{errors:?}"
        );
        let spans = SparsityRequest { scheme: "nm:2:16".parse().unwrap(), ..request(0.125) };
        let errors = annotate(&graph, &spans).unwrap_err();
        assert!(errors[0].to_string().contains("weight 'a.w'") && errors[0].to_string().contains("nm:1:4"), "{}", errors[0]);
    }

    #[test]
    fn given_masks_decide_alone() {
        let mut mask = vec![false; 32];
        mask[3] = true;
        mask[30] = true;
        let everything = vec![true; 8];
        let layers = [("w3", LayerRequest { dense: Some(true), ..LayerRequest::default() })];
        let mut request = asked(&layers);
        request.masks = [("w3".to_owned(), mask)].into_iter().collect();
        let graph = perceptron("%bias = parameter() {\"dims\":[8],\"role\":\"Trainable\"} : [8]");
        let table = annotate(&graph, &request).unwrap();
        assert_eq!(summary(&table)[2], "w3 unstructured 2: its mask is given");
        assert_eq!(table.layers[2].density, Some(2.0 / 32.0));
        request.masks.insert("bias".to_owned(), everything);
        assert!(annotate(&graph, &request).is_ok());
        request.masks.insert("w1".to_owned(), vec![true; 3]);
        assert_eq!(only_error(&graph, &request), "the mask of 'w1' has 3 entries for 64 weights");
        request.masks.insert("w1".to_owned(), vec![false; 64]);
        assert!(only_error(&graph, &request).contains("'w1' keeps no weight"));
        request.masks.remove("w1");
        request.masks.insert("w4".to_owned(), vec![true]);
        assert!(only_error(&graph, &request).contains("no layer 'w4'"));
    }

    #[test]
    fn a_tied_weight_has_one_mask() {
        let table = annotate(&perceptron("%h3 = linear(%h2, %w1) : [N, 8]  @\"again\""), &request(0.25)).unwrap();
        assert_eq!(table.layers[0].users.len(), 2);
    }

    #[test]
    fn two_orientations_are_refused() {
        let twice = perceptron("%t = transpose(%w1) {\"perm\":[1,0]} : [8, 8]\n%h3 = linear(%h2, %t) : [N, 8]  @\"again\"");
        let error = only_error(&twice, &request(0.25));
        assert!(error.starts_with("parameter 'w1' is read in two orientations, by 'fc1' and by 'again'"), "{error}");
    }

    #[test]
    fn a_weight_that_is_read_element_by_element_is_refused() {
        let error =
            only_error(&perceptron("%t = transpose(%w1) {\"perm\":[1,0]} : [8, 8]\n%r = relu(%t) : [8, 8]  @\"norm\""), &request(0.25));
        assert!(error.starts_with("parameter 'w1' is a weight matrix and also read by 'norm' (relu)"), "{error}");
    }

    #[test]
    fn a_computed_weight_is_refused() {
        let lines = "%v = parameter() {\"dims\":[8,8],\"role\":\"Trainable\"} : [8, 8]\n%scaled = add(%v, %v) : [8, 8]\n%h3 = linear(%h2, %scaled) : [N, 8]  @\"fc\"";
        let error = only_error(&perceptron(lines), &request(0.25));
        assert!(error.starts_with("layer 'fc' multiplies by 'scaled', which add computes"), "{error}");
    }

    #[test]
    fn a_weight_without_strides_is_refused() {
        let lines = r#"%v = parameter() {"dims":[4,16],"role":"Trainable"} : [4, 16]
%t = transpose(%v) {"perm":[1,0]} : [16, 4]
%r = reshape(%t) {"shape":[8,8]} : [8, 8]
%h3 = linear(%h2, %r) : [N, 8]  @"fc"
"#;
        let error = only_error(&perceptron(lines), &request(0.25));
        assert!(error.starts_with("layer 'fc' reads its weight through 'r'"), "{error}");
    }

    #[test]
    fn edit_distance() {
        assert_eq!((edits("", "abc"), edits("conv1", "conv1"), edits("fc_2", "fc2"), edits("kitten", "sitting")), (3, 0, 1, 3));
    }
}
