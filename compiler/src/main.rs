//! `mestc`: the compiler's command line, see [`mestc::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    mestc::cli::run()
}
