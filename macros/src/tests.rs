//! Every rule of both forms: what is refused, on which token, with which hint; and what is not.

use crate::expand::expand;
use mestc::describe::vocabulary::LAYERS;
use proc_macro2::{Group, TokenStream, TokenTree};

fn tokens(text: &str) -> TokenStream {
    text.parse().unwrap_or_else(|error| panic!("{error} in `{text}`"))
}

/// Every error that an attribute over `item` is refused with: the tokens it stands on, and what it says.
fn refused(attribute: &str, item: &str) -> Vec<(String, String)> {
    let error = expand(tokens(attribute), tokens(item)).expect_err("it is refused");
    error.into_iter().map(|error| (error.span().source_text().unwrap_or_default(), error.to_string())).collect()
}

/// Checks that `item` is refused once for each of `expected`: on these tokens, saying this.
#[track_caller]
fn check(attribute: &str, item: &str, expected: &[(&str, &str)]) {
    let found = refused(attribute, item);
    let fits = |(place, what): &(&str, &str)| found.iter().any(|(at, why)| at == place && why.contains(what));
    assert!(found.len() == expected.len() && expected.iter().all(fits), "expected {expected:#?}\nfound {found:#?}");
}

/// Checks what a function's body is refused for; it reads `x: Image<3, 8, 8>`.
#[track_caller]
fn check_body(body: &str, expected: &[(&str, &str)]) {
    check("", &format!("fn net(x: Image<3, 8, 8>) -> Logits<10> {{ {body} linear(x, 10) }}"), expected);
}

#[track_caller]
fn accepted(attribute: &str, item: &str) -> String {
    match expand(tokens(attribute), tokens(item)) {
        Ok(items) => items.to_string(),
        Err(error) => panic!("{:#?}", error.into_iter().map(|error| error.to_string()).collect::<Vec<_>>()),
    }
}

/// `stream` with token number `at`, counted within groups, too, `times` times in its place.
fn repeated(stream: TokenStream, at: &mut isize, times: usize) -> TokenStream {
    let mut changed = TokenStream::new();
    for token in stream {
        let count = if *at == 0 { times } else { 1 };
        *at -= 1;
        let token = match token {
            TokenTree::Group(group) => TokenTree::from(Group::new(group.delimiter(), repeated(group.stream(), at, times))),
            other => other,
        };
        changed.extend(std::iter::repeat_n(token, count));
    }
    changed
}

#[test]
fn tokens_left_out_or_given_twice_never_panic() {
    let attribute = "sparsity = 0.5, batch = 4, scheme = \"block:2x1\", memory = \"64KiB\", stages = [0.25, 0.5]";
    let item = "pub fn net(x: Image<1, 4, 4>) -> Logits<2> {
        let block = |x, channels| relu(batch_norm(conv(x, channels, 3, stride = 1)) + x);
        let mut h = conv(x, 4, (3, 3), init = normal(0.01));
        for (i, channels) in [(0, 4), (1, 2 * 2)] {
            h = if i == 0 { block(h, channels) } else { -h };
        }
        linear(global_avg_pool(h), 2, name = \"head\")
    }";
    let (mut networks, mut refused) = (0, 0);
    for times in [0, 2] {
        for at in 0.. {
            // The attribute's tokens first, then the item's.
            let mut left = at;
            let attribute = repeated(tokens(attribute), &mut left, times);
            let item = repeated(tokens(item), &mut left, times);
            if left >= 0 {
                break;
            }
            *if expand(attribute, item).is_ok() { &mut networks } else { &mut refused } += 1;
        }
    }
    assert!(networks > 5 && refused > 200, "{networks} networks, {refused} refused");
}

mod structs {
    use super::{check, refused};

    #[test]
    fn a_missing_model_is_said() {
        check("sparsity = 0.9", "struct Net;", &[("", "the model is missing: write model = ")]);
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let model = r#"model = "../examples/models/digits_mlp.onnx", sparcity = 0.9"#;
        check(model, "struct Net;", &[("sparcity", "did you mean `sparsity`")]);
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        check(
            r#"model = 3, batch = "many", scheme = "block:0x1""#,
            "struct Net { weights: Vec<f32> }",
            &[
                ("3", "write the path of an ONNX file in quotes"),
                (r#""many""#, "batch"),
                (r#""block:0x1""#, "scheme"),
                ("{ weights: Vec<f32> }", "write a unit struct"),
                ("", "the model is missing"),
            ],
        );
    }

    #[test]
    fn a_key_is_given_once_and_is_a_literal() {
        let model = r#"model = "../examples/models/digits_mlp.onnx""#;
        check(&format!("{model}, batch = 8, batch = 16"), "struct Net;", &[("batch", "`batch` is given twice")]);
        check(&format!("{model}, lr = 1.0 / 8.0"), "struct Net;", &[("1.0 / 8.0", "write a number")]);
        check(&format!("{model}, std = 1"), "struct Net;", &[("1", "write true or false")]);
        check(&format!("{model}, runtime = 3"), "struct Net;", &[("3", "write the path of the runtime crate")]);
        check(&format!("{model}, batch"), "struct Net;", &[("batch", "`batch` has no `=`; write key = value")]);
        check(&format!("{model}, batch ="), "struct Net;", &[("batch", "`batch` has no value")]);
        check(
            &format!("{model}, batch, 3 = 4, lr = 0.1 0.2"),
            "struct Net;",
            &[("batch", "has no `=`"), ("3", "write key = value"), ("0.2", "write key = value")],
        );
    }

    #[test]
    fn values_out_of_range_name_the_nearest() {
        let model = r#"model = "../examples/models/digits_mlp.onnx""#;
        check(&format!("{model}, sparsity = 1.5"), "struct Net;", &[("1.5", "the nearest that works is")]);
        check(&format!("{model}, momentum = -0.5"), "struct Net;", &[("-0.5", "momentum = -0.5")]);
    }

    #[test]
    fn keys_that_cannot_be_read_hide_no_others() {
        let model = r#"model = "../examples/models/digits_mlp.onnx""#;
        check(
            &format!("{model}, sparcity = 0.9, batch = \"many\", momentum = -0.5, nesterov = 3"),
            "struct Net;",
            &[
                ("sparcity", "did you mean"),
                ("\"many\"", "write a whole number"),
                ("-0.5", "the nearest that works"),
                ("3", "write true or false"),
            ],
        );
    }

    #[test]
    fn the_item_is_a_unit_struct_or_a_function() {
        let model = r#"model = "../examples/models/digits_mlp.onnx""#;
        check(model, "struct Net<T>;", &[("<T>", "without parameters")]);
        check(model, "enum Net { A }", &[("enum Net { A }", "goes on a unit struct")]);
        let found = refused(model, "let net = 3;");
        assert!(matches!(&found[..], [(_, why)] if why.contains("goes on a unit struct")), "{found:?}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        check(r#"model = "no/such/model.onnx""#, "struct Net;", &[(r#""no/such/model.onnx""#, "no/such/model.onnx")]);
    }

    #[test]
    fn a_budget_that_is_not_met_stands_on_its_key() {
        let attribute = r#"model = "../examples/models/digits_mlp.onnx", memory = "1KiB""#;
        check(attribute, "struct Net;", &[(r#""1KiB""#, "memory = 1KiB")]);
    }
}

mod functions {
    use super::{LAYERS, accepted, check, check_body};

    #[test]
    fn a_network_becomes_a_type_named_after_its_function() {
        let items = accepted(
            "sparsity = 0.8, batch = 4",
            "/// Small.
            pub(crate) fn little_net(x: Image<1, 8, 8>) -> Logits<10> {
                let h = relu(batch_norm(conv(x, 8, 3, bias = false)));
                linear(global_avg_pool(h), 10)
            }",
        );
        assert!(items.contains("pub (crate) use __sparse_train_littlenet :: LittleNet"), "{}", &items[..300]);
        assert!(items.starts_with("# [doc = r\" Small.\"]") || items.starts_with("# [doc = \" Small.\"]"), "{}", &items[..100]);
    }

    #[test]
    fn without_std_memory_is_handed_in() {
        let items = accepted("batch = 4, std = false", "fn net(x: Vector<6>) -> Logits<2> { linear(x, 2) }");
        assert!(items.contains("fn over") && !items.contains("fn new") && !items.contains("std ::"), "it needs std");
    }

    #[test]
    fn values_make_the_loss_mse() {
        let items = accepted("batch = 4", "fn net(x: Vector<6>) -> Values<2> { linear(tanh(linear(x, 8)), 2) }");
        assert!(items.contains("\\\"loss\\\":\\\"mse\\\""), "no mse");
        check("loss = \"mse\"", "fn net(x: Vector<6>) -> Logits<2> { linear(x, 2) }", &[("\"mse\"", "return Values<2>")]);
        check(
            "loss = \"cross-entropy\"",
            "fn net(x: Vector<6>) -> Values<2> { linear(x, 2) }",
            &[("\"cross-entropy\"", "return Logits<2>")],
        );
    }

    #[test]
    fn the_examples_of_the_vocabulary_compile() {
        assert!(
            include_str!("../../docs/rust.md").contains(include_str!("vocabulary.md")),
            "docs/rust.md lacks the table of vocabulary.md"
        );
        for layer in LAYERS {
            let item = format!("fn net(x: Image<4, 9, 8>) -> Logits<3> {{ linear({}, 3) }}", layer.example);
            accepted("batch = 2", &item);
            let documented = include_str!("vocabulary.md");
            assert!(documented.contains(&format!("`{}`", layer.example)), "vocabulary.md lacks `{}`", layer.example);
            assert!(documented.contains(layer.meaning), "vocabulary.md lacks: {}", layer.meaning);
        }
    }

    #[test]
    fn bodies_are_plain_rust() {
        accepted(
            "batch = 4",
            "fn net(x: Image<3, 8, 8>) -> Logits<10> {
                let block = |x, channels, stride| {
                    let h = relu(batch_norm(conv(x, channels, 3, stride = stride, bias = false)));
                    let h = batch_norm(conv(h, channels, 3, bias = false));
                    let shortcut = if stride > 1 { conv(x, channels, 1, stride = stride) } else { x };
                    relu(h + shortcut)
                };
                let width = 4 << 1;
                let mut h = relu(conv(x, width, 3));
                for _ in 0..2 {
                    h = block(h, width, 1);
                }
                for (i, channels) in [(1, 2 * width), (2, width * 3)] {
                    h = block(h, channels, 2);
                    if i == 2 && !false { h += 0.5 * -h; } else { h = 1 - h; }
                }
                for channels in [width % 5, 9 >> 1] { h = conv(h, channels, 1); }
                for i in 1..=2 { h = concat(h, h / i); }
                let gate = sigmoid(linear(global_avg_pool(h), 16));
                linear(global_avg_pool(h * gate), 10, init = normal(0.01), name = \"head\")
            }",
        );
    }

    #[test]
    fn signatures_say_one_input_and_one_output() {
        let body = "{ linear(x, 10) }";
        let one = "a network has one input";
        check("", &format!("fn net() -> Logits<10> {body}"), &[("net", one)]);
        check("", &format!("fn net(x: Vector<4>, y: Vector<4>) -> Logits<10> {body}"), &[("x: Vector<4>, y: Vector<4>", one)]);
        check("", &format!("fn net(self) -> Logits<10> {body}"), &[("self", one)]);
        check("", &format!("fn net(x: Image<8, 8>) -> Logits<10> {body}"), &[("Image<8, 8>", "Image<channels, rows, columns>")]);
        check("", &format!("fn net(x: Image<1, 0, 8>) -> Logits<10> {body}"), &[("0", "a whole number of at least 1")]);
        check("", &format!("fn net(x: &[f32]) -> Logits<10> {body}"), &[("&[f32]", "Vector<elements>")]);
        check("", &format!("fn net((x, y): Vector<4>) -> Logits<10> {body}"), &[("(x, y)", "write a name")]);
        check("", &format!("fn net(x: Vector<4>) {body}"), &[("net", "the network's output is missing")]);
        check("", &format!("fn net(x: Vector<4>) -> Vector<10> {body}"), &[("Vector<10>", "`-> Logits<classes>`")]);
        check("", &format!("fn net<T>(x: Vector<4>) -> Logits<10> {body}"), &[("<T>", "write numbers")]);
        check("", &format!("async fn net(x: Vector<4>) -> Logits<10> {body}"), &[("async", "write a plain `fn`")]);
        check("model = \"m.onnx\"", &format!("fn net(x: Vector<4>) -> Logits<10> {body}"), &[("\"m.onnx\"", "leave the model out")]);
    }

    #[test]
    fn outputs_are_what_was_promised() {
        let net = |body: &str| format!("fn net(x: Vector<4>) -> Logits<10> {{ {body} }}");
        check("", &net("linear(x, 9)"), &[("linear(x, 9)", "this is Vector<9>, and the function promises Logits<10>")]);
        check("", &net("let h = linear(x, 10);"), &[("let h = linear(x, 10);", "write it last, without a semicolon")]);
        check("", &net(""), &[("net", "write it last")]);
        check("", &net("3"), &[("3", "write it last")]);
        check("", "fn net(x: Vector<10>) -> Logits<10> { x }", &[("x", "gives back what it is given")]);
    }

    #[test]
    fn unknown_names_have_a_nearest() {
        check_body("let h = cov(x, 8, 3);", &[("cov", "did you mean `conv`? it is written conv(x, channels, kernel, stride = ..")]);
        check_body("let h = relu(y);", &[("y", "`y` is not declared")]);
        check_body("let h = conv(x, 8, 3, strides = 2);", &[("strides", "did you mean `stride`?")]);
        check_body("let h = relu(x, slope = 2);", &[("slope", "it takes no named arguments")]);
    }

    #[test]
    fn arguments_are_of_their_kind() {
        check_body("let h = conv(x, 0, 3);", &[("0", "write a whole number of at least 1")]);
        check_body("let h = conv(x, 8, 3, padding = (1, 2, 3));", &[("(1, 2, 3)", "(rows, columns)")]);
        check_body("let h = conv(x, 8, 3, bias = 1);", &[("1", "write true or false")]);
        check_body("let h = conv(x, 8, 3, init = kaiming);", &[("kaiming", "write he, xavier, normal(0.01) or zeros")]);
        check_body("let h = conv(x, 8, 3, name = head);", &[("head", "is not declared")]);
        check_body("let h = dropout(x, 1.0);", &[("1.0", "from 0 up to, not including, 1")]);
        check_body("let h = conv(x, 8, x);", &[("x", "this is Image<3, 8, 8>")]);
        check_body("let h = relu(3);", &[("3", "relu reads a value of the network")]);
    }

    #[test]
    fn arguments_have_their_places() {
        check_body("let h = conv(x, 8);", &[("conv", "conv needs `kernel`")]);
        check_body("let h = conv(x, 8, 3, 2);", &[("2", "write stride = 2")]);
        check_body("let h = conv(x, 8, 3, kernel = 3);", &[("kernel", "`kernel` is given twice")]);
        check_body("let h = relu(x, 8);", &[("8", "relu takes no further argument")]);
        check_body("let h = relu();", &[("relu", "relu reads 1 value")]);
        check_body("let h = concat(x);", &[("concat", "concat reads 2 values")]);
        check_body("let h = conv(channels = 8, kernel = 3);", &[("channels = 8", "comes first")]);
    }

    #[test]
    fn shapes_that_do_not_fit_stand_on_their_argument() {
        check_body("let h = conv(x, 8, 3, groups = 2);", &[("2", "3 input channels can't be divided into 2 groups")]);
        check_body("let h = conv(x, 8, 11, padding = 0);", &[("11", "a window over 11 rows does not fit 8 rows")]);
        check_body("let h = max_pool(flatten(x), 2);", &[("flatten(x)", "an image is needed, and this is Vector<192>")]);
        check_body("let h = x + conv(x, 8, 3);", &[("x + conv(x, 8, 3)", "Image<3, 8, 8> and Image<8, 8, 8> have different shapes")]);
        check_body("let a = linear(x, 4, name = \"a\"); let b = linear(a, 4, name = \"a\");", &[("\"a\"", "another layer called `a`")]);
    }

    #[test]
    fn statements_are_those_of_a_description() {
        check_body("relu(x);", &[("relu(x)", "the result is not used")]);
        check_body("for _ in 0..2 { relu(x) }", &[("relu(x)", "the result is not used")]);
        check_body("let h = x; h = relu(h);", &[("h", "declare it `let mut h`")]);
        check_body("h = relu(x);", &[("h", "`h` is not declared")]);
        check_body("let mut h = x; h = 3;", &[("h", "can't become the whole number 3")]);
        check_body("let mut h = x; let f = |y| { h = y; y }; let z = f(x);", &[("h", "a closure can't change")]);
        check_body("let f = |y, n| linear(y, n); let z = f(x);", &[("f(x)", "`f` takes 2 arguments, and 1 are given")]);
        check_body("let h;", &[("let h;", "write a value")]);
        check_body("let h = for _ in 0..2 {};", &[("for _ in 0..2 {}", "this has no value")]);
        check_body("let (a, b) = x;", &[("(a, b)", "this pattern does not fit")]);
        check_body("println!(\"x\");", &[("println!(\"x\");", "macros are not run here")]);
        check_body("fn inner() {}", &[("fn inner() {}", "is a closure")]);
        check_body("let h = x.relu();", &[("relu", "write relu(x, ..)")]);
        check_body("while true {}", &[("while true {}", "loops have bounds")]);
        check_body("for i in 0.. {}", &[("0..", "write numbers that are known here")]);
        check_body("for i in x {}", &[("x", "write numbers that are known here")]);
        check_body("return x;", &[("return x", "without `return`")]);
        check_body("if x { }", &[("x", "a condition is true or false")]);
        check_body("let h = match 3 { _ => x };", &[("match 3 { _ => x }", "not part of a description")]);
        check_body("let n = 1 / 0;", &[("1 / 0", "no result")]);
        check_body("let n = 1 << 70;", &[("1 << 70", "no result")]);
        check_body("let n = true + 1;", &[("true + 1", "can't be computed with")]);
    }

    #[test]
    fn every_mistake_is_reported_once() {
        check_body(
            "let a = cov(x, 8, 3); let mut b = relu(a); for i in 0..5 { b = conv(b, 8, 0, strid = 2); b = relu(y); } let c = b + a;",
            &[("cov", "no layer"), ("strid", "did you mean `stride`"), ("y", "not declared")],
        );
    }

    #[test]
    fn endless_loops_end() {
        check_body("for _ in 0..9000000000000 {}", &[("0..9000000000000", "too many turns")]);
        check_body("let mut h = x; for _ in 0..20000 { h = relu(h); }", &[("relu", "more than 10000 layers")]);
    }
}
