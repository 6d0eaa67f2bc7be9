//! From an imported model to a program: the passes in order, each "before" with its reason, the graph validated between them.

use crate::ir::validate::{Stage, Violation, validate};
use crate::ir::{Graph, Tensor};
use crate::onnx::{Imported, SPARSITY_KEY, sparsity_metadata, template};
use crate::op::Op;
use crate::pass::annotate_sparsity::{SparsityError, SparsityRequest, SparsityTable, annotate};
use crate::pass::attach_loss::{Loss, LossError, attach_loss};
use crate::pass::differentiate::{DifferentiateError, differentiate};
use crate::pass::freeze::{FreezeError, freeze};
use crate::pass::rematerialize::{Chain, Choice, rematerialize};
use crate::pass::specialize;
use crate::program::Program;
use crate::program::lower::{LowerError, Options, PeakDensity, STAGE_BYTES, lower};
use mest_runtime::manifest::{Element, Parameter};
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
    /// Whether gradients are read after a step: by a policy, or by somebody who compares them.
    pub keep_gradients: bool,
    /// How far above its budget mutation grows a layer: what slots are sized for.
    pub peak: PeakDensity,
    /// Workers whose scratch the plan counts.
    pub threads: usize,
    /// Names of parameters and nodes that stay as they are.
    pub frozen: Vec<String>,
    /// What is given for memory.
    pub levers: Levers,
    /// Pairs for the exported model's `metadata_props`.
    pub metadata: Vec<(String, String)>,
}

/// What each further part of a batch costs, as a share of the forward pass: weights and their gradients are gone through once more, and each
/// launch is shorter.
const MICRO_BATCH_SHARE: f64 = 0.04;

/// Seconds that one core takes to round the moments of an element, on the scale of the forward pass's estimate.
const ROUNDING_SECONDS: f64 = 5e-10;

/// What a program gives for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levers {
    /// Scratch a worker may stage rows in, in bytes.
    pub stage_bytes: usize,
    /// Bytes an example that activations may take while backward waits for them, about: what is beyond is computed again, or narrow. `None`
    /// keeps all.
    pub kept_bytes: Option<usize>,
    /// Whether activations may be kept narrow: backward then reads them rounded.
    pub narrow: bool,
    /// Parts of a batch, one computed after the other, their gradients summed; a divisor of its groups of lanes.
    pub micro_batches: usize,
    /// Whether the optimiser's state is stored as bf16, rounded stochastically.
    pub narrow_moments: bool,
}

impl Default for Levers {
    /// Everything for time.
    fn default() -> Self {
        Levers { stage_bytes: STAGE_BYTES, kept_bytes: None, narrow: false, micro_batches: 1, narrow_moments: false }
    }
}

/// A compiled model, with what it was compiled from.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// What engines run.
    pub program: Program,
    /// The differentiated training graph, without initial values: the program's template has them.
    pub training: Graph,
    /// The inference graph with its loss, without them, too.
    pub inference: Graph,
    /// What was made sparse, and why.
    pub sparsity: SparsityTable,
    /// What backward computes again or reads narrow, and what else is given for memory.
    pub recomputation: Recomputation,
}

/// What is given for memory: above all, what backward does not read as forward computed it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Recomputation {
    /// The nodes of each stretch that is computed again instead of kept, by name.
    pub stretches: Vec<Vec<String>>,
    /// Estimated time of that, as a share of the forward pass.
    pub share: f64,
    /// Values that are kept narrow, by name.
    pub narrow: Vec<String>,
    /// Estimated time of narrowing and widening, as a share of the forward pass.
    pub narrow_share: f64,
    /// Parts of a batch, one computed after the other.
    pub micro_batches: usize,
    /// Estimated time of rounding moments that are stored as bf16, as a share of the forward pass; `None` where they are f32.
    pub moment_share: Option<f64>,
}

impl Recomputation {
    /// Estimated time of everything, as a share of the forward pass.
    pub fn cost(&self) -> f64 {
        self.share + self.narrow_share + self.micro_batch_share() + self.moment_share.unwrap_or(0.0)
    }

    /// Estimated time of computing a batch in parts, as a share of the forward pass.
    pub fn micro_batch_share(&self) -> f64 {
        self.micro_batches.saturating_sub(1) as f64 * MICRO_BATCH_SHARE
    }
}

/// The model cannot be compiled.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CompileError {
    /// A batch without examples, or beyond what offsets can address.
    #[error("batch {0}: a step needs at least 1 and at most 65536 examples")]
    Batch(usize),
    /// A recipe that leaves nests to be timed, where nothing is.
    #[error(
        "autotune times candidates, which mestc does before it trains or compiles: `mestc plan MODEL --autotune --explain` says what is chosen; write that as \
         layers.\"NAME\".channel-blocks, and leave autotune out"
    )]
    Autotune,
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
    /// Parts of a batch that are not of the same size.
    #[error("a batch of {groups} groups of examples cannot be computed in {micro_batches} equal parts")]
    MicroBatches {
        /// Groups of lanes.
        groups: usize,
        /// Parts.
        micro_batches: usize,
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

/// Compiles `imported` for `settings`.
///
/// # Errors
/// Everything that is wrong with the request or unsupported in the model, by name.
pub fn compile(imported: &Imported, settings: &Settings) -> Result<Compiled, CompileError> {
    Prepared::new(imported, settings)?.compile(settings.levers)
}

/// A model as far as what is given for memory does not matter: differentiated and annotated, to be compiled with ever other [`Levers`].
#[derive(Clone, Debug)]
pub struct Prepared<'a> {
    imported: &'a Imported,
    settings: &'a Settings,
    training: Graph,
    inference: Graph,
    sparsity: SparsityTable,
    chain: Chain,
}

impl<'a> Prepared<'a> {
    /// Everything up to the choice of what backward keeps.
    ///
    /// # Errors
    /// What is wrong with the request, or has no gradient, by name.
    pub fn new(imported: &'a Imported, settings: &'a Settings) -> Result<Self, CompileError> {
        if !(1..=65536).contains(&settings.batch) {
            return Err(CompileError::Batch(settings.batch));
        }
        // Freeze before specialisation: a frozen batch normalization means the same in both phases.
        let mut model = imported.graph.clone();
        freeze(&mut model, &settings.frozen).map_err(CompileError::Freeze)?;
        let (training, inference) = graphs(&model, settings.loss)?;
        // Annotate after differentiation: whether a weight is trained decides what is stored for it.
        let sparsity = annotate(&training, &settings.sparsity).map_err(CompileError::Sparsity)?;
        let density = |id| sparsity.of_user(id).map_or(1.0, |layer| layer.nnz() as f64 / layer.units.weights() as f64);
        let chain = Chain::of(&training, density)?;
        Ok(Prepared { imported, settings, training, inference, sparsity, chain })
    }

    /// The program that gives `levers` for memory.
    ///
    /// # Errors
    /// A node that no kernel covers; a choice that cannot be had.
    pub fn compile(&self, levers: Levers) -> Result<Compiled, CompileError> {
        let Prepared { imported, settings, inference, .. } = self;
        let (mut training, mut sparsity) = (self.training.clone(), self.sparsity.clone());
        let (groups, micro_batches) = (self.groups(), levers.micro_batches);
        if micro_batches == 0 || !groups.is_multiple_of(micro_batches) {
            return Err(CompileError::MicroBatches { groups, micro_batches });
        }
        let mut recomputation = Recomputation { micro_batches, ..Recomputation::default() };
        if let Some(bytes) = levers.kept_bytes {
            // Rematerialize after annotation: what it costs to compute a layer again depends on its density.
            let choice = self.chain.choose(bytes, levers.narrow).ok_or(CompileError::KeptBytes { bytes })?;
            recomputation = Recomputation { micro_batches, ..self.recomputation(&choice) };
            for (node, again) in rematerialize(&mut training, &self.chain, &choice)? {
                sparsity.add_user(node, again);
            }
            check(&training, Stage::Differentiated, "rematerialize")?;
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
            keep_gradients: settings.keep_gradients,
            peak: settings.peak.clone(),
            threads: settings.threads,
            stage_bytes: levers.stage_bytes,
            micro_batches: levers.micro_batches,
            narrow_moments: levers.narrow_moments,
        };
        // Fusion, scheduling and the memory plan belong to lowering: they see what the tables say of each value.
        let program = lower(&training, inference, &sparsity, &options, template)?;
        recomputation.moment_share = self.moment_share(&program);
        let mut inference = inference.clone();
        training.initial.clear();
        inference.initial.clear();
        Ok(Compiled { program, training, inference, sparsity, recomputation })
    }

    /// Groups of lanes of a batch.
    pub fn groups(&self) -> usize {
        self.settings.batch.div_ceil(lanes(self.settings.batch))
    }

    /// Whether examples of a batch influence each other, so that parts of it compute something else.
    pub fn has_batch_statistics(&self) -> bool {
        self.training.ids().into_iter().any(|id| matches!(self.training.node(id).op, Op::BatchMoments(_)))
    }

    /// See [`Recomputation::moment_share`].
    fn moment_share(&self, program: &Program) -> Option<f64> {
        let first = |parameter: &Parameter| parameter.moments.first().filter(|slot| slot.element == Element::Bf16).map(|slot| slot.len);
        let rounded: Vec<usize> = program.manifest.parameters.iter().filter_map(first).collect();
        let forward = self.chain.seconds * self.settings.batch as f64;
        let seconds = rounded.iter().sum::<usize>() as f64 * ROUNDING_SECONDS;
        (!rounded.is_empty()).then_some(seconds / forward.max(f64::MIN_POSITIVE))
    }

    fn recomputation(&self, choice: &Choice) -> Recomputation {
        let of = |links: std::ops::RangeInclusive<usize>| self.chain.links[links].iter().flat_map(|link| &link.nodes);
        let names = |nodes: std::ops::RangeInclusive<usize>| of(nodes).map(|&id| self.training.node(id).name.clone()).collect();
        let stretches = choice.stretches.iter().map(|stretch| names(stretch.first..=stretch.last)).collect();
        let [share, narrow_share] = self.chain.shares(choice);
        let narrow = choice.narrow.iter().map(|&link| self.training.info(self.chain.links[link].end).name.clone()).collect();
        Recomputation { stretches, share, narrow, narrow_share, ..Recomputation::default() }
    }

    /// The fewest [`Levers::kept_bytes`] that the model can be compiled for, with values kept `narrow` or not, and as many as keep everything.
    ///
    /// # Errors
    /// There is no choice at all.
    pub fn kept_bytes_range(&self, narrow: bool) -> Result<(usize, usize), CompileError> {
        let (mut too_few, mut most) = (0, self.chain.kept_bytes().max(1));
        while self.chain.choose(most, narrow).is_none() {
            (too_few, most) = (most, most.checked_mul(2).ok_or(CompileError::KeptBytes { bytes: most })?);
        }
        let mut fewest = most;
        // To a part in 64: the search counts no finer than its buckets anyway.
        while fewest - too_few > fewest / 64 + 1 {
            let middle = too_few.midpoint(fewest);
            *if self.chain.choose(middle, narrow).is_some() { &mut fewest } else { &mut too_few } = middle;
        }
        Ok((fewest, most))
    }
}

fn check(graph: &Graph, stage: Stage, pass: &'static str) -> Result<(), CompileError> {
    validate(graph, stage).map_err(|violations| CompileError::Invalid { pass, violations })
}

/// The initial value of a parameter by name, as imported.
pub fn initial<'g>(graph: &'g Graph, name: &str) -> Option<&'g Tensor> {
    graph
        .parameters()
        .into_iter()
        .find(|&id| graph.node(id).outputs[0].name == name)
        .and_then(|id| graph.initial.get(&id))
        .map(AsRef::as_ref)
}
