//! From an imported model to a program: the passes in order, each "before" with its reason, the graph validated between them.

use crate::ir::validate::{Stage, Violation, validate};
use crate::ir::{Graph, Tensor};
use crate::onnx::{Imported, SPARSITY_KEY, sparsity_metadata, template};
use crate::pass::annotate_sparsity::{SparsityError, SparsityRequest, SparsityTable, annotate};
use crate::pass::attach_loss::{Loss, LossError, attach_loss};
use crate::pass::differentiate::{DifferentiateError, differentiate};
use crate::pass::freeze::{FreezeError, freeze};
use crate::pass::rematerialize::{Chain, Stretch, rematerialize};
use crate::pass::specialize;
use crate::program::Program;
use crate::program::lower::{LowerError, Options, PeakDensity, lower};
use mest_runtime::optim::Optimizer;

/// What to compile a model for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Examples of a full step.
    pub batch: usize,
    /// What training minimises.
    pub loss: Loss,
    /// Update rule.
    pub optimizer: Optimizer,
    /// Whether gradients are clipped by their global norm.
    pub clip_norm: bool,
    /// Which layers are sparse, how much, in which scheme.
    pub sparsity: SparsityRequest,
    /// How far above its budget mutation grows a layer: what slots are sized for.
    pub peak: PeakDensity,
    /// Workers whose scratch the plan counts.
    pub threads: usize,
    /// Names of parameters and nodes that stay as they are.
    pub frozen: Vec<String>,
    /// Scratch a worker may stage rows in, in bytes.
    pub stage_bytes: usize,
    /// Bytes an example that activations may take while backward waits for them, about: what is beyond is computed again. `None` keeps all.
    pub kept_bytes: Option<usize>,
    /// Pairs for the exported model's `metadata_props`.
    pub metadata: Vec<(String, String)>,
}

/// A compiled model, with what it was compiled from.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// What engines run.
    pub program: Program,
    /// The differentiated training graph.
    pub training: Graph,
    /// The inference graph with its loss.
    pub inference: Graph,
    /// What was made sparse, and why.
    pub sparsity: SparsityTable,
    /// What backward computes again.
    pub recomputation: Recomputation,
}

/// What backward computes again instead of keeping it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recomputation {
    /// The nodes of each stretch, by name.
    pub stretches: Vec<Vec<String>>,
    /// Estimated time of it, as a share of the forward pass.
    pub share: f64,
}

/// The model cannot be compiled.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CompileError {
    /// A batch without examples, or beyond what offsets can address.
    #[error("batch {0}: a step needs at least 1 and at most 65536 examples")]
    Batch(usize),
    /// The loss does not fit the model.
    #[error(transparent)]
    Loss(#[from] LossError),
    /// Names to freeze that the model does not have, all of them.
    #[error("{}", lines(.0))]
    Freeze(Vec<FreezeError>),
    /// An operation without a gradient.
    #[error(transparent)]
    Differentiate(#[from] DifferentiateError),
    /// Layers that cannot be annotated as asked, all of them.
    #[error("{}", lines(.0))]
    Sparsity(Vec<SparsityError>),
    /// Fewer bytes for activations than any choice of what to compute again takes.
    #[error("activations cannot be kept within {bytes} bytes an example, whatever is computed again")]
    KeptBytes {
        /// The bytes.
        bytes: usize,
    },
    /// A node that no kernel covers.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// A pass broke the graph.
    #[error("internal error: {pass} left an invalid graph: {}", lines(.violations))]
    Invalid {
        /// The pass.
        pass: &'static str,
        /// What it broke.
        violations: Vec<Violation>,
    },
    /// The finished model file cannot be written.
    #[error("the trained model cannot be exported: {0}")]
    Template(String),
}

fn lines<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Examples a vector for a batch: as many as fill most of one.
pub fn lanes(batch: usize) -> usize {
    match batch {
        0..=4 => 4,
        5..=8 => 8,
        _ => 16,
    }
}

/// A pass over the whole graph, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pass {
    /// The model as imported.
    Import,
    /// Batch normalization and dropout as they are in training.
    Specialize,
    /// The loss.
    AttachLoss,
    /// Gradients.
    Differentiate,
}

/// The training graph of a model after `last`.
///
/// # Errors
/// A loss that does not fit, an operation without a gradient.
pub fn graph_after(model: &Graph, loss: Loss, last: Pass) -> Result<Graph, CompileError> {
    check(model, Stage::Imported, "import")?;
    if last == Pass::Import {
        return Ok(model.clone());
    }
    // Specialize before anything else: what batch normalization and dropout mean depends on the phase.
    let mut graph = specialize::training(model);
    check(&graph, Stage::Specialized, "specialize")?;
    if last >= Pass::AttachLoss {
        // The loss before differentiation: its gradient output is where reverse mode begins.
        attach_loss(&mut graph, loss)?;
        check(&graph, Stage::Specialized, "attach_loss")?;
    }
    if last >= Pass::Differentiate {
        differentiate(&mut graph)?;
        check(&graph, Stage::Differentiated, "differentiate")?;
    }
    Ok(graph)
}

/// The differentiated training graph and the inference graph of a model, both with their loss.
///
/// # Errors
/// A loss that does not fit, an operation without a gradient.
pub fn graphs(model: &Graph, loss: Loss) -> Result<(Graph, Graph), CompileError> {
    let training = graph_after(model, loss, Pass::Differentiate)?;
    let mut inference = specialize::inference(model);
    attach_loss(&mut inference, loss)?;
    check(&inference, Stage::Specialized, "specialize")?;
    Ok((training, inference))
}

/// As [`graphs`], with what `settings` freezes.
fn trained_graphs(imported: &Imported, settings: &Settings) -> Result<(Graph, Graph), CompileError> {
    // Freeze before specialisation: a frozen batch normalization means the same in both phases.
    let mut model = imported.graph.clone();
    freeze(&mut model, &settings.frozen).map_err(CompileError::Freeze)?;
    graphs(&model, settings.loss)
}

/// Compiles `imported` for `settings`.
///
/// # Errors
/// Everything that is wrong with the request or unsupported in the model, by name.
pub fn compile(imported: &Imported, settings: &Settings) -> Result<Compiled, CompileError> {
    if !(1..=65536).contains(&settings.batch) {
        return Err(CompileError::Batch(settings.batch));
    }
    let (mut training, inference) = trained_graphs(imported, settings)?;
    // Annotate after differentiation: whether a weight is trained decides what is stored for it.
    let mut sparsity = annotate(&training, &settings.sparsity).map_err(CompileError::Sparsity)?;
    let mut recomputation = Recomputation::default();
    if let Some(bytes) = settings.kept_bytes {
        // Rematerialize after annotation: what it costs to compute a layer again depends on its density.
        recomputation = recompute(&mut training, &sparsity, bytes)?;
        check(&training, Stage::Differentiated, "rematerialize")?;
        // The repeated nodes are users of their weights, too.
        sparsity = annotate(&training, &settings.sparsity).map_err(CompileError::Sparsity)?;
    }
    let parameters = training.parameters();
    let mut metadata = settings.metadata.clone();
    metadata.extend(sparsity_metadata(&sparsity).map(|value| (SPARSITY_KEY.to_owned(), value)));
    let template = template(&imported.source, &training, &parameters, &metadata).map_err(|e| CompileError::Template(e.to_string()))?;
    let options = Options {
        batch: settings.batch,
        lanes: lanes(settings.batch),
        optimizer: settings.optimizer,
        clip_norm: settings.clip_norm,
        peak: settings.peak.clone(),
        threads: settings.threads,
        stage_bytes: settings.stage_bytes,
    };
    // Fusion, scheduling and the memory plan belong to lowering: they see what the tables say of each value.
    let program = lower(&training, &inference, &sparsity, &options, template)?;
    Ok(Compiled { program, training, inference, sparsity, recomputation })
}

/// The forward pass of `training` as links, with the density of each layer.
fn chain(training: &Graph, sparsity: &SparsityTable) -> Result<Chain, CompileError> {
    let density = |id| sparsity.of_user(id).map_or(1.0, |layer| layer.nnz() as f64 / layer.units.weights() as f64);
    Ok(Chain::of(training, density)?)
}

/// Makes backward compute again what does not fit into `bytes` an example.
fn recompute(training: &mut Graph, sparsity: &SparsityTable, bytes: usize) -> Result<Recomputation, CompileError> {
    let chain = chain(training, sparsity)?;
    let stretches = chain.choose(bytes).ok_or(CompileError::KeptBytes { bytes })?;
    let names = |stretch: &Stretch| {
        let links = &chain.links[stretch.first..=stretch.last];
        links.iter().flat_map(|link| &link.nodes).map(|&id| training.node(id).name.clone()).collect()
    };
    let recomputation = Recomputation { stretches: stretches.iter().map(names).collect(), share: chain.share(&stretches) };
    rematerialize(training, &chain, &stretches)?;
    Ok(recomputation)
}

/// The fewest [`Settings::kept_bytes`] that `imported` can be compiled for, and as many as keep everything.
///
/// # Errors
/// As [`compile`].
pub fn kept_bytes_range(imported: &Imported, settings: &Settings) -> Result<(usize, usize), CompileError> {
    let (training, _) = trained_graphs(imported, settings)?;
    let sparsity = annotate(&training, &settings.sparsity).map_err(CompileError::Sparsity)?;
    let chain = chain(&training, &sparsity)?;
    let (mut too_few, mut most) = (0, chain.kept_bytes().max(1));
    while chain.choose(most).is_none() {
        (too_few, most) = (most, most.checked_mul(2).ok_or(CompileError::KeptBytes { bytes: most })?);
    }
    let mut fewest = most;
    // To a part in 64: the search counts no finer than its buckets anyway.
    while fewest - too_few > fewest / 64 + 1 {
        let middle = too_few.midpoint(fewest);
        *if chain.choose(middle).is_some() { &mut fewest } else { &mut too_few } = middle;
    }
    Ok((fewest, most))
}

fn check(graph: &Graph, stage: Stage, pass: &'static str) -> Result<(), CompileError> {
    validate(graph, stage).map_err(|violations| CompileError::Invalid { pass, violations })
}

/// The initial value of a parameter by name, as imported.
pub fn initial<'g>(graph: &'g Graph, name: &str) -> Option<&'g Tensor> {
    graph.parameters().into_iter().find(|&id| graph.node(id).outputs[0].name == name).and_then(|id| graph.initial.get(&id))
}
