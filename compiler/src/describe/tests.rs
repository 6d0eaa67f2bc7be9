use super::vocabulary::{Argument, Arguments, Inputs, Kind, LAYERS, Preset, layer};
use super::{Binary, Description, Init, MOST_LAYERS, Mistake, Tensor};
use crate::ir::Shape;
use crate::onnx::import_bytes;
use crate::pass::attach_loss::Loss;
use crate::pipeline::graphs;

/// Applies a layer with these arguments, all of the right kind.
fn apply(network: &mut Description, name: &str, inputs: &[&Tensor], given: &[(&'static str, Argument)]) -> Result<Tensor, Mistake> {
    let layer = layer(name).expect("a layer of that name");
    let arguments = Arguments::new(layer, given.iter().cloned()).expect("arguments of the right kind");
    let inputs: Vec<Tensor> = inputs.iter().map(|&input| input.clone()).collect();
    network.apply(layer, &inputs, &arguments)
}

/// What a layer's required arguments may be.
fn plausible(kind: Kind) -> Argument {
    match kind {
        Kind::Count | Kind::Extents(_) => Argument::Integer(2),
        Kind::Number | Kind::Positive | Kind::Share => Argument::Number(0.25),
        Kind::Flag => Argument::Flag(true),
        Kind::Init => Argument::Init(Init::Zeros),
        Kind::Name => Argument::Text("layer".to_owned()),
    }
}

fn image() -> (Description, Tensor) {
    Description::new("net", &[4, 7, 6], 3).expect("a network may read that")
}

#[test]
fn import_finds_the_shapes_that_were_described() {
    for layer in LAYERS {
        let (mut network, x) = image();
        let required = layer.parameters.iter().filter(|parameter| parameter.default == Preset::Required);
        let mut given: Vec<_> = required.map(|parameter| (parameter.name, plausible(parameter.kind))).collect();
        if layer.name == "clip" {
            given = vec![("low", Argument::Integer(-1)), ("high", Argument::Number(0.5))];
        }
        let inputs = if layer.inputs == Inputs::One { vec![&x] } else { vec![&x, &x] };
        let y = apply(&mut network, layer.name, &inputs, &given).unwrap_or_else(|mistake| panic!("{}: {mistake}", layer.name));
        let (dims, file) = (y.dims().to_vec(), network.finish(&y).expect("it has a layer"));
        let imported = import_bytes(&file, None).unwrap_or_else(|report| panic!("{}: {report}", layer.name));
        let output = imported.graph.output.expect("it has an output");
        assert_eq!(*imported.graph.shape(output), Shape::batched(&dims), "{}", layer.name);
        graphs(&imported.graph, Loss::MeanSquaredError).unwrap_or_else(|error| panic!("{}: {error}", layer.name));
    }
}

#[test]
fn values_and_numbers_are_computed_with() {
    let (mut network, x) = image();
    let gate = apply(&mut network, "global_avg_pool", &[&x], &[]).expect("an image");
    let gate = apply(&mut network, "sigmoid", &[&gate], &[]).expect("anything");
    let mut y = network.binary(Binary::Mul, &gate, &x).expect("a factor a channel");
    assert_eq!(y.dims(), x.dims());
    for (operation, number, first) in
        [(Binary::Add, 1.0, false), (Binary::Sub, 1.0, true), (Binary::Mul, 0.5, false), (Binary::Div, 3.0, false)]
    {
        y = network.scalar(operation, &y, number, first).expect("a number");
    }
    let y = network.binary(Binary::Sub, &y, &x).expect("one shape");
    let imported = import_bytes(&network.finish(&y).expect("it has a layer"), None).expect("it imports");
    graphs(&imported.graph, Loss::MeanSquaredError).expect("it has gradients");
    let (mut network, x) = image();
    let v = apply(&mut network, "flatten", &[&x], &[]).expect("an image");
    let mistake = network.binary(Binary::Add, &x, &v).expect_err("168 elements are not 4 channels");
    assert!(mistake.to_string().contains("Image<4, 7, 6> and Vector<168>"), "{mistake}");
    assert!(network.scalar(Binary::Div, &x, 0.0, false).is_err());
    assert!(network.scalar(Binary::Mul, &x, 1e60, false).is_err());
}

#[test]
fn weights_have_the_spread_of_their_rule() {
    let spread = |init: Init| {
        let (mut network, x) = Description::new("net", &[64], 1).expect("a vector");
        let y =
            apply(&mut network, "linear", &[&x], &[("units", Argument::Integer(192)), ("init", Argument::Init(init))]).expect("a vector");
        let imported = import_bytes(&network.finish(&y).expect("it has a layer"), None).expect("it imports");
        let graph = &imported.graph;
        let weight = graph.parameters().into_iter().find(|&id| graph.node(id).name == "linear1.weight").expect("the weight");
        let values = &graph.initial[&weight].values;
        values.iter().map(|value| f64::from(value * value)).sum::<f64>() / values.len() as f64
    };
    for (init, variance) in [(Init::He, 2.0 / 64.0), (Init::Xavier, 2.0 / 256.0), (Init::Normal(0.5), 0.25)] {
        let found = spread(init);
        assert!((found / variance - 1.0).abs() < 0.05, "{init:?}: {found} is not {variance}");
    }
    assert_eq!(spread(Init::Zeros), 0.0);
}

#[test]
fn names_are_given_or_counted() {
    let (mut network, x) = image();
    let units = |name: Option<&str>| {
        let name = name.map(|name| ("name", Argument::Text(name.to_owned())));
        [("units", Argument::Integer(3))].into_iter().chain(name).collect::<Vec<_>>()
    };
    let a = apply(&mut network, "linear", &[&x], &units(None)).expect("counted");
    let b = apply(&mut network, "linear", &[&a], &units(Some("linear2"))).expect("given");
    let c = apply(&mut network, "linear", &[&b], &units(None)).expect("counted, past the one that is taken");
    for (name, wrong) in [("linear2", "another layer"), ("a b", "begin with a letter"), ("", "begin with a letter")] {
        let mistake = apply(&mut network, "linear", &[&c], &units(Some(name))).expect_err("refused");
        assert_eq!(mistake.argument, Some("name"));
        assert!(mistake.to_string().contains(wrong), "{mistake}");
    }
    let imported = import_bytes(&network.finish(&c).expect("it has a layer"), None).expect("it imports");
    let mut names: Vec<&str> = imported.graph.parameters().iter().map(|&id| imported.graph.node(id).name.as_str()).collect();
    names.sort_unstable();
    let expected = ["linear1.bias", "linear1.weight", "linear2.bias", "linear2.weight", "linear3.bias", "linear3.weight"];
    assert_eq!(names, expected);
}

#[test]
fn mistakes_name_their_argument() {
    let (mut network, x) = image();
    let mut refuse = |name: &str, given: &[(&'static str, Argument)]| apply(&mut network, name, &[&x], given).expect_err("it is refused");
    let integer = Argument::Integer;
    let conv = |given: &[(&'static str, Argument)]| [&[("channels", integer(6)), ("kernel", integer(3))], given].concat();
    assert_eq!(refuse("conv", &conv(&[("groups", integer(4))])).argument, Some("groups"));
    assert_eq!(refuse("conv", &conv(&[("padding", integer(0)), ("dilation", integer(4))])).argument, Some("kernel"));
    assert_eq!(refuse("conv", &[("channels", integer(i64::MAX)), ("kernel", integer(3))]).argument, Some("channels"));
    assert_eq!(refuse("conv", &[("channels", integer(6)), ("kernel", integer(i64::MAX))]).argument, Some("kernel"));
    assert_eq!(refuse("max_pool", &[("kernel", integer(2)), ("padding", integer(2))]).argument, Some("padding"));
    assert_eq!(refuse("max_pool", &[("kernel", integer(9))]).argument, Some("kernel"));
    assert_eq!(refuse("group_norm", &[("groups", integer(3))]).argument, Some("groups"));
    assert_eq!(refuse("clip", &[("low", integer(1)), ("high", integer(1))]).argument, Some("high"));
    let (mut network, x) = Description::new("net", &[9], 0).expect("a vector");
    let mistake = apply(&mut network, "max_pool", &[&x], &[("kernel", integer(2))]).expect_err("no image");
    assert_eq!(mistake.argument, Some("x"));
    assert!(network.finish(&x).is_err());
    assert!(Description::new("net", &[3, 0, 2], 0).is_err());
    assert!(Description::new("net", &[usize::MAX, 2], 0).is_err());
}

#[test]
fn arguments_are_checked_all_at_once() {
    let layer = layer("conv").expect("a layer");
    let given = [("kernel", Argument::Integer(0)), ("stride", Argument::Flag(true)), ("units", Argument::Integer(1))];
    let mistakes = Arguments::new(layer, given).expect_err("four mistakes");
    let named: Vec<_> = mistakes.iter().map(|mistake| mistake.argument).collect();
    assert_eq!(named, [Some("kernel"), Some("stride"), Some("units"), None]);
    assert!(mistakes[3].to_string().contains("conv needs `channels`"), "{}", mistakes[3]);
}

#[test]
fn loops_gone_wrong_are_stopped() {
    let (mut network, mut x) = Description::new("net", &[1], 0).expect("a vector");
    let mistake = loop {
        match apply(&mut network, "relu", &[&x], &[]) {
            Ok(y) => x = y,
            Err(mistake) => break mistake,
        }
    };
    assert!(mistake.to_string().contains(&MOST_LAYERS.to_string()), "{mistake}");
}
