//! What the compiler says of mistakes in `#[sparse_train]`: a file a rule, its messages beside it. `TRYBUILD=overwrite` blesses them.

/// Compiles with cargo, which takes minutes: only where `MEST_TEST_CARGO` says so.
#[test]
fn mistakes_are_reported_on_their_tokens() {
    if std::env::var_os("MEST_TEST_CARGO").is_none() {
        eprintln!("skipped: MEST_TEST_CARGO names no folder to build in");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/mistakes/*.rs");
}
