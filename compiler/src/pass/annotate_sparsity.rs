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
    /// Blocks of input channels that the forward pass goes through one after the other.
    pub channel_blocks: Option<usize>,
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
    /// Blocks of input channels that the forward pass goes through, where that is asked for.
    pub channel_blocks: Option<usize>,
    /// Why it is sparse or dense.
    pub reason: String,
}

impl LayerSparsity {
    /// The scheme, as the command line spells it; `dense` for a dense layer.
    pub fn scheme_name(&self) -> String {
        self.density.map_or_else(|| "dense".to_owned(), |density| self.units.scheme(density).to_string())
    }

    /// Blocks that the input channels can be cut into: as many as there are columns of units.
    pub fn most_channel_blocks(&self) -> usize {
        (self.units.matrix.inputs_per_group / self.units.block.columns.max(1)).max(1)
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

    /// Counts `again`, which repeats `user`, among the users of the same weight.
    pub fn add_user(&mut self, user: NodeId, again: NodeId) {
        if let Some(layer) = self.layers.iter_mut().find(|layer| layer.users.contains(&user)) {
            layer.users.push(again);
        }
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
    #[error("layers.\"{name}\": there is no layer '{name}' with weights; {}", .nearest.as_ref().map_or("the model has none".to_owned(), |name| format!("the nearest is layers.\"{name}\"")))]
    UnknownLayer {
        /// What was asked for.
        name: String,
        /// The name most like it.
        nearest: Option<String>,
    },
    /// Two requests for one weight.
    #[error("layers.\"{first}\" and layers.\"{second}\" name the same weight '{parameter}'; keep one of them")]
    NamedTwice {
        /// The weight.
        parameter: String,
        /// A name it was asked for under.
        first: String,
        /// Another.
        second: String,
    },
    /// Both dense and sparse.
    #[error("layers.\"{layer}\": dense and a density or scheme contradict each other; drop one of the two")]
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
    #[error(
        "weight '{layer}': scheme {scheme} cannot have density {density}; the nearest that it has is {nearest} (layers.\"{layer}\".density)"
    )]
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
    /// More blocks of channels than there are, or none.
    #[error("layers.\"{layer}\".channel-blocks = {asked}: the layer has {most} blocks of input channels, so write 1 to {most}; the nearest is {}", (*.asked).clamp(1, *.most))]
    ChannelBlocks {
        /// The weight.
        layer: String,
        /// What was asked for.
        asked: usize,
        /// How many there can be.
        most: usize,
    },
    /// The matrix does not divide into blocks.
    #[error(
        "weight '{layer}': {error}; or make this layer dense (layers.\"{layer}\".dense), or give it a scheme of its own (layers.\"{layer}\".scheme)"
    )]
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
        let decided = decide(graph, &rules, &weight, asked, request);
        match decided.and_then(|layer| with_channel_blocks(layer, asked)) {
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
    let (name, asked) = asked.unwrap_or(("", const { &LayerRequest { density: None, scheme: None, dense: None, channel_blocks: None } }));
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
    let (name, users) = (weight.name.clone(), weight.users.clone());
    LayerSparsity { name, parameter: weight.parameter, users, units, density, live, channel_blocks: None, reason }
}

/// `layer` with the blocks of channels that are asked for, if as many can be made.
fn with_channel_blocks(layer: LayerSparsity, asked: Option<Asked<'_>>) -> Result<LayerSparsity, SparsityError> {
    let asked = asked.and_then(|(_, asked)| asked.channel_blocks);
    let most = layer.most_channel_blocks();
    match asked {
        Some(asked) if !(1..=most).contains(&asked) => Err(SparsityError::ChannelBlocks { layer: layer.name, asked, most }),
        _ => Ok(LayerSparsity { channel_blocks: asked, ..layer }),
    }
}

/// The tallest block of outputs, up to 4, that divides a group: what the tiles compute a dense layer with.
pub(super) fn dense_block(matrix: &WeightMatrix) -> Block {
    let outputs = matrix.outputs / matrix.groups.max(1);
    let rows = [4, 2].into_iter().find(|&rows| outputs.is_multiple_of(rows)).unwrap_or(1);
    Block { rows, columns: 1 }
}

#[cfg(test)]
mod tests;
