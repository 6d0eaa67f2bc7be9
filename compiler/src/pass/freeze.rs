//! Marks parameters as frozen: no gradient is computed for them, so nothing that only such a gradient reads is computed or kept.

use crate::ir::Graph;
use crate::ir::graph::Role;
use crate::op::Op;
use mest_runtime::recipe::nearest::nearest;
use std::collections::BTreeSet;

/// A name that freezes nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("layers.\"{name}\".frozen: no learned parameter, and no node that reads one, has that name{}", .nearest.as_ref().map_or_else(String::new, |name| format!("; the nearest is '{name}'")))]
pub struct FreezeError {
    /// As asked.
    pub name: String,
    /// The name most like it.
    pub nearest: Option<String>,
}

/// Freezes what `names` name: a parameter, or all parameters that a node reads. A `*` stands for any text.
///
/// # Errors
/// Every name that fits nothing.
pub fn freeze(graph: &mut Graph, names: &[String]) -> Result<(), Vec<FreezeError>> {
    let (mut frozen, mut errors) = (BTreeSet::new(), vec![]);
    for name in names {
        let before = frozen.len();
        let mut known = vec![];
        for parameter in graph.parameters() {
            if !matches!(&graph.node(parameter).op, Op::Parameter(p) if p.role != Role::State) {
                continue;
            }
            let value = graph.outputs(parameter)[0];
            let readers = graph.uses(value).into_iter().map(|(node, _)| graph.node(node).name.as_str());
            let owned: Vec<&str> = readers.chain([graph.info(value).name.as_str()]).collect();
            if owned.iter().any(|owned| fits(name, owned)) {
                frozen.insert(parameter);
            }
            known.extend(owned);
        }
        if frozen.len() == before && !known.iter().any(|known| fits(name, known)) {
            errors.push(FreezeError { name: name.clone(), nearest: nearest(name, known.iter().copied()).map(str::to_owned) });
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    for id in frozen {
        if let Op::Parameter(parameter) = &mut graph.node_mut(id).op {
            parameter.role = Role::Frozen;
        }
    }
    Ok(())
}

/// Whether `name` is what `pattern` says, each `*` of which stands for any text.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(head) else { return false };
    (0..=name.len()).filter(|&at| name.is_char_boundary(at)).any(|at| fits(rest, &name[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;

    fn model() -> Graph {
        parse(
            r#"graph "m"
%x = input() {"shape":["N",8]} : [N, 8]
%fc1.weight = parameter() {"dims":[8,4],"role":"Trainable"} : [8, 4]
%fc2.weight = parameter() {"dims":[4,2],"role":"Trainable"} : [4, 2]
%h = linear(%x, %fc1.weight) : [N, 4]  @"fc1"
%y = linear(%h, %fc2.weight) : [N, 2]  @"fc2"
output %y
logits %y
"#,
        )
        .unwrap()
    }

    fn frozen(graph: &Graph) -> Vec<&str> {
        let frozen = |id: &crate::ir::NodeId| matches!(&graph.node(*id).op, Op::Parameter(p) if p.role == Role::Frozen);
        graph.parameters().into_iter().filter(frozen).map(|id| graph.node(id).outputs[0].name.as_str()).collect()
    }

    #[test]
    fn parameters_are_named_by_themselves_by_their_readers_or_by_patterns() {
        let cases: [(&str, &[&str]); 4] = [
            ("fc1.weight", &["fc1.weight"]),
            ("fc2", &["fc2.weight"]),
            ("fc*", &["fc1.weight", "fc2.weight"]),
            ("*2.w*t", &["fc2.weight"]),
        ];
        for (name, expected) in cases {
            let mut graph = model();
            freeze(&mut graph, &[name.to_owned()]).unwrap();
            assert_eq!(frozen(&graph), expected, "{name}");
        }
    }

    #[test]
    fn every_name_that_fits_nothing_is_told() {
        let mut graph = model();
        let errors = freeze(&mut graph, &["fc1".to_owned(), "fc3.weight".to_owned(), "conv*".to_owned()]).unwrap_err();
        assert_eq!(errors.len(), 2);
        assert!(errors[0].to_string().contains("fc3.weight") && errors[0].to_string().contains("nearest"), "{}", errors[0]);
        assert!(frozen(&graph).is_empty(), "nothing is frozen then");
    }
}
