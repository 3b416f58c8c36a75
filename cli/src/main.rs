//! `mintmark`, the one binary people install.
//!
//! `main` turns an outcome into output and an exit code; every command is a file in `command/`.

mod args;
mod command;
mod connect;
mod consistency;
mod context;
mod duration;
mod error_index;
mod failure;
mod output;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;
use mintmark_runtime::host::Host;

use args::{Cli, Color, Command};
use context::Context;
use failure::{Exit, Failure};
use output::{Output, note};

/// The command line is not one that this program knows.
const WRONG_USAGE: &str = "MM-3004";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && !is_help(&error) => {
            note(&wrong_usage(&error));
            return ExitCode::from(Exit::Usage as u8);
        }
        Err(help) => {
            // Help and version are not errors; clap knows which stream and code they want.
            let _ = help.print();
            return ExitCode::from(u8::try_from(help.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    match cli.global.color {
        Color::Auto => {}
        Color::Always => anstream::ColorChoice::Always.write_global(),
        Color::Never => anstream::ColorChoice::Never.write_global(),
    }
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new("MM-3000", Exit::Failure, "cannot start").because(&e))
        .and_then(|runtime| runtime.block_on(run(cli)));
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) if failure.is_reader_left() => ExitCode::SUCCESS,
        Err(failure) => {
            note(&failure.to_string());
            ExitCode::from(failure.exit() as u8)
        }
    }
}

fn is_help(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// What clap says of a wrong command line: what, why, and the command to run next; with our code.
fn wrong_usage(error: &clap::Error) -> String {
    let text = error.render().ansi().to_string();
    let code = format!("error[{WRONG_USAGE}]:");
    text.replacen("error:", &code, 1).trim_end().to_owned()
}

async fn run(cli: Cli) -> Result<u8, Failure> {
    let context = Context {
        host: Host::os(),
        output: Output::new(cli.global.output),
        connect: cli.global.connect,
    };
    let context = &context;
    match cli.command {
        Command::Dev(args) => return command::dev::run(args, context).await,
        Command::Server(args) => return command::daemon::run(args, context).await,
        Command::Agent(args) => return command::agent::run(args, context).await,
        Command::Entry(args) => command::entry::run(args, context).await,
        Command::Token(args) => command::token::run(args, context).await,
        Command::Bundle(args) => command::bundle::run(args, context).await,
        Command::X509(args) => command::x509::run(args, context).await,
        Command::Jwt(args) => command::jwt::run(args, context).await,
        Command::Authority(args) => command::authority::run(args, context).await,
        Command::Cluster(args) => command::cluster::run(args, context).await,
        Command::Audit(args) => command::audit::run(args, context).await,
        Command::Explain(args) => command::explain::run(args, context).await,
        Command::Version => command::version::run(context),
        Command::Completions(args) => command::completions::run(&args, context),
    }
    .map(|()| 0)
}
