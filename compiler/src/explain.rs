//! Why the compiler did what it did: for every layer whether it is sparse and the rule that said so, the kernels it became, their tiles and how
//! they are divided among threads.

use crate::pass::annotate_sparsity::LayerSparsity;
use crate::pipeline::Compiled;
use crate::program::{Kernel, Program, Schedule, Statement};
use mest_runtime::manifest::StreamOrder;
use mest_runtime::network::Phase;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A few lines a layer, and a summary of what else a step runs.
pub fn explain(compiled: &Compiled) -> String {
    let mut text = String::new();
    let program = &compiled.program;
    let Some(schedule) = program.schedules.iter().find(|schedule| schedule.phase == Phase::Train) else { return text };
    for layer in &compiled.sparsity.layers {
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "{}: {}, {} of {} weights live", layer.name, layer.scheme_name(), layer.nnz(), layer.units.weights());
        let _ = writeln!(text, "  why       {}", layer.reason);
        if let Some(blocks) = channel_blocks(program, &layer.name) {
            let _ =
                writeln!(text, "  channels  {blocks} lists of input channels for each block of outputs: one list's inputs fit the cache");
        }
        for (pass, kernel, label) in kernels(compiled, schedule, layer) {
            let items: usize = kernel.domain.iter().product();
            let domain = kernel.domain.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
            let _ = writeln!(text, "  {pass:<8}  {} for {label}: {items} work items ({domain})", kernel.name);
            let tiles = tiles(kernel);
            if !tiles.is_empty() {
                let _ = writeln!(text, "            {}", tiles.join("; "));
            }
        }
    }
    summary(&mut text, compiled, schedule);
    memory(&mut text, compiled);
    text
}

/// Names that a line of text has room for.
const NAMES: usize = 12;

/// The first of `names`, and how many more there are.
fn list<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    let more = names.len().saturating_sub(NAMES);
    let shown = names[..names.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// What was done for memory, and what it costs.
fn memory(text: &mut String, compiled: &Compiled) {
    let program = &compiled.program;
    let recomputation = &compiled.recomputation;
    let percent = |share: f64| format!("about {:.0} % of the forward pass", share * 100.0);
    let in_place: Vec<&str> = program.slots.iter().filter(|slot| slot.in_place_of.is_some()).map(|slot| slot.name.as_str()).collect();
    if !in_place.is_empty() {
        let names = list(in_place.iter().copied());
        let _ = writeln!(text, "in place: {} results overwrite what they are computed from, at no cost: {names}", in_place.len());
    }
    if program.manifest.parameters.iter().all(|parameter| parameter.gradient.is_none()) {
        let _ = writeln!(
            text,
            "updates: each weight is updated once its gradient is final, at no cost: gradients of all layers never live together"
        );
    }
    if let Some(share) = recomputation.moment_share {
        let _ = writeln!(text, "moments: the optimiser's state is stored as bf16, rounded stochastically; {}", percent(share));
    }
    if recomputation.micro_batches > 1 {
        let (parts, cost) = (recomputation.micro_batches, percent(recomputation.micro_batch_share()));
        let _ = writeln!(text, "micro-batches: a batch is computed in {parts} parts, their gradients summed; {cost}");
    }
    if !recomputation.narrow.is_empty() {
        let (names, cost) = (list(recomputation.narrow.iter().map(String::as_str)), percent(recomputation.narrow_share));
        let _ = writeln!(text, "narrow: backward reads as bf16 what was kept up to {names}; {cost}");
    }
    if !recomputation.stretches.is_empty() {
        let (names, cost) = (list(recomputation.stretches.iter().flatten().map(String::as_str)), percent(recomputation.share));
        let _ = writeln!(text, "computed again: {names}; {cost}");
    }
}

/// Lists of input channels that a layer's forward pass is cut into, where there are several.
fn channel_blocks(program: &Program, name: &str) -> Option<usize> {
    let manifest = &program.manifest;
    let of_layer = |stream: &&mest_runtime::manifest::Stream| manifest.parameters[stream.parameter].name == name;
    let blocks = manifest.streams.iter().filter(of_layer).filter_map(|stream| match stream.order {
        StreamOrder::Forward { channel_blocks, .. } => Some(channel_blocks),
        StreamOrder::Backward { .. } => None,
    });
    blocks.max().filter(|&blocks| blocks > 1)
}

/// The kernels that a step launches for the nodes of a layer, each once.
fn kernels<'a>(compiled: &'a Compiled, schedule: &'a Schedule, layer: &LayerSparsity) -> Vec<(&'static str, &'a Kernel, &'a str)> {
    let users: Vec<&str> = layer.users.iter().map(|&user| compiled.training.node(user).name.as_str()).collect();
    let mut found: Vec<(&'static str, &Kernel, &str)> = Vec::new();
    for launch in &schedule.launches {
        let pass = if users.contains(&launch.label.as_str()) {
            "forward"
        } else if users.iter().any(|user| launch.label.strip_prefix(user).is_some_and(|rest| rest.starts_with(".gradient"))) {
            "backward"
        } else {
            continue;
        };
        let kernel = &compiled.program.kernels[launch.kernel];
        if !found.iter().any(|(_, other, _)| other.name == kernel.name) {
            found.push((pass, kernel, &launch.label));
        }
    }
    found
}

/// The distinct tiles of a kernel, with their shapes.
fn tiles(kernel: &Kernel) -> Vec<String> {
    fn collect(statements: &[Statement], found: &mut Vec<String>) {
        for statement in statements {
            match statement {
                Statement::Loop { body, .. } => collect(body, found),
                Statement::Map(_) => {}
                Statement::Tile { tile, .. } => {
                    let fields: Vec<String> = tile.fields().iter().map(|(name, value)| format!("{name} {value}")).collect();
                    let text = format!("{} ({})", tile.name(), fields.join(", "));
                    if !found.contains(&text) {
                        found.push(text);
                    }
                }
            }
        }
    }
    let mut found = Vec::new();
    collect(&kernel.body, &mut found);
    found
}

/// What the step is made of, and what was saved on the way.
fn summary(text: &mut String, compiled: &Compiled, schedule: &Schedule) {
    let program = &compiled.program;
    let mut families: BTreeMap<&str, usize> = BTreeMap::new();
    for launch in &schedule.launches {
        let name = program.kernels[launch.kernel].name.as_str();
        *families.entry(name.split(['_', '.']).next().unwrap_or(name)).or_default() += 1;
    }
    let families: Vec<String> = families.into_iter().map(|(family, count)| format!("{count} {family}")).collect();
    let nodes = compiled.training.len() - compiled.training.parameters().len();
    let _ = writeln!(
        text,
        "step: {nodes} graph nodes in {} launches of {} kernels: {}",
        schedule.launches.len(),
        program.kernels.len(),
        families.join(", ")
    );
    let fused = fused(compiled, schedule);
    if fused > 0 {
        let _ = writeln!(text, "fused: {fused} nodes have no launch of their own; another kernel computes them on its way over the memory");
    }
    let frozen: Vec<&str> =
        program.manifest.parameters.iter().filter(|p| p.role == mest_runtime::manifest::Role::Frozen).map(|p| p.name.as_ref()).collect();
    if !frozen.is_empty() {
        let _ = writeln!(text, "frozen: {} have neither gradient nor optimiser state", frozen.join(", "));
    }
}

/// Computed nodes that no launch is labelled with.
fn fused(compiled: &Compiled, schedule: &Schedule) -> usize {
    let graph = &compiled.training;
    let computed = graph.ids().into_iter().filter(|&id| !graph.inputs(id).is_empty());
    computed.filter(|&id| !schedule.launches.iter().any(|launch| launch.label == graph.node(id).name)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::import_bytes;
    use crate::zoo::{self, ZooOptions};
    use crate::{pipeline, settings};
    use mest_runtime::recipe::{LayerRecipe, Recipe};

    #[test]
    fn every_layer_has_its_reason_and_its_kernels() {
        let imported = import_bytes(&zoo::build("resnet8", &ZooOptions::default()).unwrap(), None).unwrap();
        let mut recipe = Recipe::default();
        let first = pipeline::compile(&imported, &settings::of_recipe(&recipe, None)).unwrap().sparsity.layers[0].name.clone();
        recipe.layers.insert(first.clone(), LayerRecipe { frozen: Some(true), ..Default::default() });
        let compiled = pipeline::compile(&imported, &settings::of_recipe(&recipe, None)).unwrap();
        let text = explain(&compiled);
        for layer in &compiled.sparsity.layers {
            assert!(text.contains(&format!("{}: {}", layer.name, layer.scheme_name())) && text.contains(&layer.reason), "{text}");
        }
        assert!(text.contains("frozen: it keeps all its weights"), "{text}");
        assert!(text.contains(&format!("frozen: {first} have neither gradient")), "{text}");
        let sparse = compiled.sparsity.layers.iter().filter(|layer| layer.density.is_some()).count();
        assert!(text.contains("in place: ") && text.contains("updates: each weight"), "{text}");
        assert!(text.matches("  backward").count() >= sparse && text.matches("spmm").count() >= sparse, "{text}");
    }

    #[test]
    fn what_memory_cost_is_named() {
        let imported = import_bytes(&zoo::build("resnet8", &ZooOptions::default()).unwrap(), None).unwrap();
        let of = |flags: &[(&str, &str)]| {
            let recipe = Recipe::default().with([("batch", "32"), ("threads", "2")]).unwrap().with(flags.iter().copied()).unwrap();
            explain(&crate::budget::compile(&imported, &recipe, None).unwrap())
        };
        let text = of(&[("memory", "15MiB")]);
        assert!(text.contains("computed again: ") && text.contains("% of the forward pass") && !text.contains("narrow: "), "{text}");
        let text = of(&[("memory", "15MiB"), ("allow", "bf16")]);
        assert!(text.contains("narrow: backward reads as bf16"), "{text}");
        let text = of(&[("memory", "8MiB"), ("allow", "bf16,split-bn")]);
        assert!(text.contains("micro-batches: a batch is computed in 2 parts"), "{text}");
        let text = of(&[("memory", "8MiB"), ("allow", "bf16,bf16-momentum,split-bn")]);
        assert!(!text.contains("moments: "), "what saves little is left alone: {text}");
        assert!(!of(&[]).contains("computed again"), "nothing without need");
    }
}
