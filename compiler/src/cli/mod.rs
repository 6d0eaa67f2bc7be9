//! The command line: one file a subcommand, each with its arguments and what it prints.
//!
//! A subcommand is `fn run(args: &Args, output: &mut Output) -> Result<(), Failure>`; `Failure` carries the exit code.

mod bench;
#[cfg(test)]
mod book_tests;
mod compile;
mod completions;
mod engine;
mod eval;
mod export;
mod failure;
mod flags;
mod inspect;
mod model;
mod ops;
mod output;
mod plan;
mod report;
mod settle;
mod sweep;
mod train;
mod verify;
mod zoo;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use failure::Failure;
use output::{Color, Output, Style, paint};
use std::ffi::OsString;
use std::process::ExitCode;

/// Trains sparse neural networks with MEST, compiled from ONNX.
#[derive(Debug, Parser)]
#[command(name = "mestc", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Example:\n  mestc train                     train the built-in ResNet on the embedded digits\n\n\
    Exit codes: 0 done; 1 it ran and failed; 2 refused before running.")]
struct Cli {
    /// When to colour; NO_COLOR turns it off too.
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    color: Color,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Args),
    Compile(compile::Args),
    Plan(plan::Args),
    Inspect(inspect::Args),
    Bench(bench::Args),
    Verify(verify::Args),
    Eval(eval::Args),
    Export(export::Args),
    Report(report::Args),
    Sweep(sweep::Args),
    Zoo(zoo::Args),
    Ops(ops::Args),
    Completions(completions::Args),
}

impl Command {
    fn run(&self, output: &mut Output) -> Result<(), Failure> {
        match self {
            Command::Train(args) => train::run(args, output),
            Command::Compile(args) => compile::run(args, output),
            Command::Plan(args) => plan::run(args, output),
            Command::Inspect(args) => inspect::run(args, output),
            Command::Bench(args) => bench::run(args, output),
            Command::Verify(args) => verify::run(args, output),
            Command::Eval(args) => eval::run(args, output),
            Command::Export(args) => export::run(args, output),
            Command::Report(args) => report::run(args, output),
            Command::Sweep(args) => sweep::run(args, output),
            Command::Zoo(args) => zoo::run(args, output),
            Command::Ops(args) => ops::run(args, output),
            Command::Completions(args) => completions::run(args, output),
        }
    }
}

/// Parses the arguments, runs the command, and says what went wrong on standard error.
pub fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let command = Cli::command().color(color_of(&arguments));
    let cli = match command.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and errors of usage; a reader that went away needs neither.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match cli.command.run(&mut Output::new(cli.color)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(cli.color, &failure);
            ExitCode::from(failure.code())
        }
    }
}

fn complain(color: Color, failure: &Failure) {
    use std::io::Write;
    let mut stderr = std::io::stderr();
    let word = paint(color.applies(&stderr), Style::Red, "error:");
    // Where standard error is gone, the exit code alone must tell.
    let _ = writeln!(stderr, "{word} {failure}");
}

/// What `--color` says, before arguments are understood: messages about them are coloured too.
fn color_of(arguments: &[OsString]) -> clap::ColorChoice {
    let words: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let after = words.windows(2).find(|pair| pair[0] == "--color").map(|pair| pair[1]);
    match after.or_else(|| words.iter().find_map(|word| word.strip_prefix("--color="))) {
        Some("never") => clap::ColorChoice::Never,
        Some("always") => clap::ColorChoice::Always,
        _ => clap::ColorChoice::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{}", command.get_name());
        }
    }
}
