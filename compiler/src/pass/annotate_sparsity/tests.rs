//! Which layers are sparse and why, on small graphs.

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
        ("fc2", LayerRequest { density: Some(0.5), scheme: Some(Scheme::Block { rows: 4, columns: 2 }), ..LayerRequest::default() }),
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
    let wrong = LayerRequest { density: Some(0.0), dense: Some(true), ..LayerRequest::default() };
    let layers = [("fc_2", sparse.clone()), ("w1", sparse.clone()), ("fc1", sparse), ("w3", wrong)];
    let request = SparsityRequest { density: f64::NAN, ..asked(&layers) };
    let errors: Vec<_> = annotate(&perceptron(""), &request).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "density NaN of the model: it must be more than 0 and at most 1",
            "layers.\"fc_2\": there is no layer 'fc_2' with weights; the nearest is layers.\"fc2\"",
            "layers.\"fc1\" and layers.\"w1\" name the same weight 'w1'; keep one of them",
            "density 0 of layer 'w3': it must be more than 0 and at most 1",
            "layers.\"w3\": dense and a density or scheme contradict each other; drop one of the two",
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
    let error = only_error(&perceptron("%t = transpose(%w1) {\"perm\":[1,0]} : [8, 8]\n%r = relu(%t) : [8, 8]  @\"norm\""), &request(0.25));
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
