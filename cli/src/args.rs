//! The command line: every command, its flags and its examples. Nothing is done here.

use clap::{Args, Parser, Subcommand};

use crate::command;
use crate::connect::Connect;
use crate::output::Format;

/// SPIFFE identities from a Raft-replicated authority.
#[derive(Debug, Parser)]
#[command(
    name = "mintmark",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  mintmark dev                                     a cluster to try, gone on Ctrl-C
  mintmark dev --exec -- ./run-tests.sh            run a command that has an identity
  mintmark entry create --parent-id spiffe://example.org/node/a \\
      --spiffe-id spiffe://example.org/web --selector unix:user:www-data
  mintmark x509 fetch --write /run/web/tls         SVID, key and bundle as files
  mintmark explain --pid 4711                      why this process has an identity, or has none
  mintmark audit verify                            check the whole log

Exit codes:
  0 done   1 failed   2 wrong usage or input   3 not found   4 denied   5 nobody answers, no quorum
  6 conflict   7 timed out, outcome unknown   8 checked, and the answer is no

Every error has a code (MM-…), explained in docs/errors.md."
)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// How data is printed.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        help_heading = "Output"
    )]
    pub output: Format,
    /// Colour: auto is off when the output is not a terminal, or NO_COLOR is set.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        help_heading = "Output"
    )]
    pub color: Color,
    /// How the daemons are found.
    #[command(flatten)]
    pub connect: Connect,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Color {
    /// On a terminal.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a cluster and an agent on this machine, to develop and test with.
    Dev(command::dev::DevArgs),
    /// Run a ca-server.
    #[command(subcommand)]
    Server(command::daemon::ServerCommand),
    /// Run a node agent; list, ban and evict agents.
    #[command(subcommand)]
    Agent(command::agent::AgentCommand),
    /// Register workloads.
    #[command(subcommand)]
    Entry(command::entry::EntryCommand),
    /// Make tokens with which nodes and servers join.
    #[command(subcommand)]
    Token(command::token::TokenCommand),
    /// Show the trust bundle.
    #[command(subcommand)]
    Bundle(command::bundle::BundleCommand),
    /// Fetch, mint, inspect and verify X.509-SVIDs.
    #[command(subcommand)]
    X509(command::x509::X509Command),
    /// Fetch, mint and validate JWT-SVIDs.
    #[command(subcommand)]
    Jwt(command::jwt::JwtCommand),
    /// Show the keys that sign, and withdraw one that others may know.
    #[command(subcommand)]
    Authority(command::authority::AuthorityCommand),
    /// Show the authorities and the members of the cluster.
    #[command(subcommand)]
    Cluster(command::cluster::ClusterCommand),
    /// Follow and verify the audit log.
    #[command(subcommand)]
    Audit(command::audit::AuditCommand),
    /// Say why a process, a user or a SPIFFE ID has an identity, or has none.
    Explain(command::explain::ExplainArgs),
    /// Print the version and what this binary was built with.
    Version,
    /// Print a completion script for a shell.
    Completions(command::completions::CompletionsArgs),
}

#[cfg(test)]
mod mentions;
