//! `mintmark completions`: completion scripts.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::args::Cli;
use crate::context::Context;
use crate::failure::Failure;

/// `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  mintmark completions bash > /etc/bash_completion.d/mintmark")]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs, context: &Context) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mintmark", &mut script);
    context.output.raw(&String::from_utf8_lossy(&script))
}
