//! Why a server does not start, or ends.
//!
//! Always: each reason has a stable code and an exit code from sysexits, and leaves the data as they were.
//!
//! Not here: errors of requests (`api::status`).

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::api::routes::ReflectionError;
use crate::cluster::join::JoinError;
use crate::code::{self, Code};
use crate::config::LoadError;
use crate::raft::{OpenError, RaftFault};
use crate::store::StoreError;
use crate::vault::OpenVaultError;
use crate::vault::kek::KekError;

/// Why a server does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error("{}: the configuration cannot be used", code::CONFIG_INVALID)]
    Config(#[from] LoadError),
    /// A directory cannot be made or written.
    #[error("{}: directory {} cannot be used", code::DIRECTORY, path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process uses the data directory.
    #[error(
        "{}: data directory {} is in use by another server", code::DATA_DIR_LOCKED, path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The data directory is not this server's.
    #[error(
        "{}: data directory {} belongs to {found}, and the configuration says {expected}; nothing \
         was changed", code::DATA_DIR_FOREIGN, path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// The keys directory is another server's.
    #[error(
        "{}: the keys in {} are another server's: data directory {} belongs to {owner}; nothing was \
         changed", code::DATA_DIR_FOREIGN, keys.display(), data.display()
    )]
    ForeignKeys {
        /// The keys directory.
        keys: PathBuf,
        /// The data directory.
        data: PathBuf,
        /// Whose data they are.
        owner: String,
    },
    /// A file of this server's own cannot be read or written.
    #[error("{}: {} cannot be used: {problem}", code::VAULT_UNUSABLE, path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// An address or socket cannot be listened on.
    #[error("{}: cannot listen on {address}", code::CANNOT_LISTEN)]
    Listen {
        /// The address or path.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The vault cannot be opened.
    #[error("{code}: the vault cannot be opened", code = vault_code(.0))]
    Vault(#[from] OpenVaultError),
    /// The stores cannot be opened.
    #[error("{code}: the replicated log cannot be opened", code = open_code(.0))]
    Consensus(#[from] OpenError),
    /// A store beside the log cannot be opened.
    #[error("{}: a store cannot be opened", code::STORE)]
    Store(#[from] StoreError),
    /// The cluster could not be made.
    #[error("{code}: the cluster could not be made: {0}", code = code::INIT_FAILED)]
    Init(String),
    /// The cluster could not be joined.
    #[error("{}: the cluster could not be joined", code::JOIN_FAILED)]
    Join(#[from] JoinError),
    /// The cluster gave an answer that cannot be right.
    #[error("{code}: the cluster's answer cannot be used: {0}", code = code::JOIN_FAILED)]
    JoinAnswer(String),
    /// TLS or reflection could not be set up.
    #[error("{code}: {0}", code = code::TASK_FAILED)]
    Defect(String),
}

impl From<ReflectionError> for StartError {
    fn from(error: ReflectionError) -> Self {
        Self::Defect(error.to_string())
    }
}

impl From<mintmark_identity::tls::TlsConfigError> for StartError {
    fn from(error: mintmark_identity::tls::TlsConfigError) -> Self {
        Self::Defect(error.to_string())
    }
}

fn vault_code(error: &OpenVaultError) -> Code {
    match error {
        OpenVaultError::Kek(KekError::Wrong { .. }) => code::WRONG_KEK,
        _ => code::VAULT_UNUSABLE,
    }
}

fn open_code(error: &OpenError) -> Code {
    match error {
        OpenError::Locked { .. } => code::DATA_DIR_LOCKED,
        OpenError::ForeignCluster { .. } | OpenError::ForeignNode { .. } => code::DATA_DIR_FOREIGN,
        OpenError::Folder { .. } => code::DIRECTORY,
        _ => code::STORE,
    }
}

fn fault_code(fault: &RaftFault) -> Code {
    match fault {
        RaftFault::Diverged(_) => code::DIVERGED,
        RaftFault::Store(StoreError::Io { .. } | StoreError::Closed { .. }) => code::STORE_FAILED,
        _ => code::STORE,
    }
}

impl StartError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Config(_) => code::CONFIG_INVALID,
            Self::Directory { .. } => code::DIRECTORY,
            Self::Locked { .. } => code::DATA_DIR_LOCKED,
            Self::Foreign { .. } | Self::ForeignKeys { .. } => code::DATA_DIR_FOREIGN,
            Self::File { .. } => code::VAULT_UNUSABLE,
            Self::Listen { .. } => code::CANNOT_LISTEN,
            Self::Vault(error) => vault_code(error),
            Self::Consensus(error) => open_code(error),
            Self::Store(_) => code::STORE,
            Self::Init(_) => code::INIT_FAILED,
            Self::Join(_) | Self::JoinAnswer(_) => code::JOIN_FAILED,
            Self::Defect(_) => code::TASK_FAILED,
        }
    }

    /// The exit code of a process that fails with this, as `docs/errors.md` has it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        exit_code(self.code())
    }
}

fn exit_code(code: Code) -> u8 {
    match code {
        code::CONFIG_INVALID => 64,
        code::CANNOT_LISTEN | code::JOIN_FAILED => 69,
        code::DIRECTORY => 73,
        code::DIVERGED => 65,
        code::STORE | code::STORE_FAILED => 74,
        code::DATA_DIR_LOCKED => 75,
        code::WRONG_KEK => 77,
        code::DATA_DIR_FOREIGN | code::VAULT_UNUSABLE => 78,
        _ => 70,
    }
}

/// Why a server ended that was running.
#[derive(Debug, Error)]
pub enum RunError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Consensus ended.
    #[error("{}: this server can no longer take part in the cluster", fault_code(.0))]
    Consensus(#[source] RaftFault),
    /// The KEK that appeared is the wrong one.
    #[error("{}: the vault cannot be opened", code::WRONG_KEK)]
    Kek(#[source] KekError),
    /// A task panicked.
    #[error("{}: task {name} failed: {message}", code::TASK_FAILED)]
    Task {
        /// Which.
        name: &'static str,
        /// What it said.
        message: String,
    },
}

impl RunError {
    /// The exit code of a process that ends with this.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start(error) => error.exit_code(),
            Self::Consensus(fault) => exit_code(fault_code(fault)),
            Self::Kek(_) => exit_code(code::WRONG_KEK),
            Self::Task { .. } => exit_code(code::TASK_FAILED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/errors.md");

    #[test]
    fn exit_codes_are_the_documented_ones() {
        for code in code::ALL
            .iter()
            .take_while(|code| **code < code::UNAUTHENTICATED)
        {
            let row = format!("| {code} |");
            let line = DOCUMENT
                .lines()
                .find(|line| line.starts_with(&row))
                .unwrap_or_default();
            let exit = format!("({})", exit_code(*code));
            assert!(line.contains(&exit), "{line} lacks {exit}");
        }
    }
}
