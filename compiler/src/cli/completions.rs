//! `mestc completions`: a script that completes commands and flags.

use super::Cli;
use super::failure::Failure;
use super::output::Output;
use clap::CommandFactory;

/// Prints a shell's completion script.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mestc completions bash > ~/.local/share/bash-completion/completions/mestc")]
pub(crate) struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mestc", &mut script);
    output.text(&String::from_utf8_lossy(&script))
}
