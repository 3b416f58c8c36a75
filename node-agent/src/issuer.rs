//! The seam between what needs SVIDs and the server that issues them.
//!
//! Responsible for: the words of that exchange. Always holds: an error says whether trying
//! again can help. Not here: the RPC (`server_client`), when to ask (`rotation`, `tokens`).

use async_trait::async_trait;
use mintmark_identity::{clock::Timestamp, entry::EntryId, svid::jwt::Audience};
use tonic::Code;

use crate::cache::entries::Held;

/// A request for one workload's X.509-SVID.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CsrItem {
    /// For which entry.
    pub entry_id: EntryId,
    /// The revision of it that this agent has.
    pub entry_revision: u64,
    /// The certificate signing request, DER.
    pub csr: Vec<u8>,
}

/// What a server issued: certificates in DER, leaf first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IssuedChain {
    /// The certificates.
    pub chain: Vec<Vec<u8>>,
}

/// A JWT-SVID that was issued and verified.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// The compact JWS.
    pub token: String,
    /// The key that signed it.
    pub authority_id: String,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedToken")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Why nothing was issued.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the server answered {code:?}: {message}")]
pub struct IssueError {
    /// The gRPC code.
    pub code: Code,
    /// What the server said.
    pub message: String,
}

impl IssueError {
    /// No server answered in time.
    #[must_use]
    pub fn no_answer() -> Self {
        Self {
            code: Code::Unavailable,
            message: "no server answered in time".to_owned(),
        }
    }

    /// A server answered what it may not.
    #[must_use]
    pub fn misbehaved(what: &str) -> Self {
        Self {
            code: Code::DataLoss,
            message: format!("{what} ({})", crate::code::SERVER_MISBEHAVED),
        }
    }

    /// Whether the server may answer otherwise soon, without anything being changed.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(
            self.code,
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Aborted
                | Code::Cancelled
                | Code::Internal
                | Code::Unknown
        )
    }
}

impl From<tonic::Status> for IssueError {
    fn from(status: tonic::Status) -> Self {
        Self {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }
}

/// Somebody who issues SVIDs for the entries of this agent.
#[async_trait]
pub trait Issuer: Send + Sync + std::fmt::Debug {
    /// Asks for X.509-SVIDs. The outer error concerns all of them, an inner one its item; the
    /// answers are in the order of the items.
    async fn issue_x509(
        &self,
        items: Vec<CsrItem>,
    ) -> Result<Vec<Result<IssuedChain, IssueError>>, IssueError>;

    /// Asks for a JWT-SVID; it is verified before it is returned.
    async fn issue_jwt(&self, held: &Held, audience: &Audience) -> Result<IssuedToken, IssueError>;
}
