//! Errors of the API, and the one place where they become gRPC statuses.
//!
//! Always: a status carries a stable code, says what and why, and names the next step; its details hold
//! the code as `google.rpc.ErrorInfo`, and SPIRE's `PermissionDeniedDetails` where an agent has to act on
//! it. Nothing secret is in a message.
//!
//! Not here: errors before the API is up (`app::error`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use mintmark_identity::svid::x509::csr::CsrError;
use mintmark_proto::convert::ConvertError;
use mintmark_proto::google::rpc::{ErrorInfo, RetryInfo, Status as RpcStatus};
use mintmark_proto::mintmark::raft::v1::Refusal;
use mintmark_proto::spire::types::{
    PermissionDeniedDetails, Status as ItemStatus, permission_denied_details::Reason,
};
use mintmark_runtime::cause::with_causes;
use prost::{Message, Name};
use thiserror::Error;
use tonic::{Code as Grpc, Status};

use crate::authority::keyring::KeyringError;
use crate::authority::rotation::RotationError;
use crate::authority::statement::MakeStatementError;
use crate::code::{self, Code};
use crate::issuance::IssueError;
use crate::issuance::batch::CommitError;
use crate::issuance::release::ReleaseError;
use crate::policy::{AgentDenial, Denied};
use crate::raft::ProposeError;

/// `domain` of our `ErrorInfo`.
pub const ERROR_DOMAIN: &str = "mintmark";

/// Why a request is not granted.
#[derive(Debug, Error)]
pub enum ApiError {
    /// Policy says no.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The caller asks too often.
    #[error("too many requests; wait {} ms", .wait.as_millis())]
    RateLimited {
        /// How long to wait.
        wait: Duration,
    },
    /// A field does not hold what it must.
    #[error("{field} {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A field of a message that has its own conversion.
    #[error("{}", .0.explain())]
    Convert(#[from] ConvertError),
    /// More than is taken at once.
    #[error("{what} is larger than {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How much is taken.
        limit: usize,
    },
    /// It does not exist.
    #[error("{what} does not exist")]
    NotFound {
        /// What.
        what: String,
    },
    /// The method is not offered.
    #[error("{what} is not offered: {instead}")]
    NotOffered {
        /// The method.
        what: &'static str,
        /// What to use instead.
        instead: &'static str,
    },
    /// The signing request is not acceptable.
    #[error("the certificate signing request is not acceptable: {0}")]
    Csr(#[source] CsrError),
    /// The SVID was not issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The log did not take the command.
    #[error("the cluster did not take the request: {0}")]
    Propose(#[source] ProposeError),
    /// The replicated state refused the command.
    #[error("{detail}")]
    Refused {
        /// On what ground.
        refusal: Refusal,
        /// In words.
        detail: String,
    },
    /// The rotation job did not make the step.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// A key cannot be used.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The agent must come back by attesting.
    #[error("this agent renews by attesting again")]
    MustReattest,
    /// The nonce of a resume.
    #[error("the nonce is unknown, used or expired")]
    Nonce,
    /// The proof of a resume.
    #[error("the agent cannot resume: {0}")]
    Resume(Cow<'static, str>),
    /// The caller is ahead.
    #[error("this server is behind the position that the caller has seen")]
    Behind,
    /// The answer could be outdated.
    #[error("this server has lost touch with the quorum")]
    Stale,
    /// Not yet.
    #[error("this server is not ready: {0}")]
    NotReady(&'static str),
    /// Not any more.
    #[error("this server is shutting down")]
    ShuttingDown,
    /// Outside the audit log.
    #[error("{what} is outside the log, which has {size} leaves")]
    AuditRange {
        /// The position.
        what: String,
        /// The size of the log.
        size: u64,
    },
    /// No checkpoint yet.
    #[error("no checkpoint is signed yet")]
    NoCheckpoint,
    /// Leaves that this server has not fetched yet.
    #[error("leaf {0} is not on this server yet")]
    LeavesMissing(u64),
    /// A defect.
    #[error("an internal error occurred: {0}")]
    Internal(String),
}

impl ApiError {
    /// A field that does not hold what it must.
    #[must_use]
    pub fn invalid(field: &'static str, problem: impl ToString) -> Self {
        Self::Invalid {
            field,
            problem: problem.to_string(),
        }
    }

    /// The stable code and its gRPC code.
    #[must_use]
    pub fn codes(&self) -> (Code, Grpc) {
        match self {
            Self::Denied(denied) => denied_codes(denied),
            Self::RateLimited { .. } => (code::RATE_LIMITED, Grpc::ResourceExhausted),
            Self::Invalid { .. } | Self::Convert(_) => {
                (code::INVALID_ARGUMENT, Grpc::InvalidArgument)
            }
            Self::TooLarge { .. } => (code::TOO_LARGE, Grpc::ResourceExhausted),
            Self::NotFound { .. } => (code::NOT_FOUND, Grpc::NotFound),
            Self::NotOffered { .. } => (code::NOT_OFFERED, Grpc::Unimplemented),
            Self::Csr(_) => (code::CSR_REFUSED, Grpc::InvalidArgument),
            Self::Issue(error) => issue_codes(error),
            Self::Propose(error) => propose_codes(error),
            Self::Refused { refusal, .. } => refusal_codes(*refusal),
            Self::Rotation(error) => rotation_codes(error),
            Self::Keyring(error) => keyring_codes(error),
            Self::MustReattest => (code::AGENT_MUST_REATTEST, Grpc::PermissionDenied),
            Self::Nonce => (code::NONCE_REFUSED, Grpc::FailedPrecondition),
            Self::Resume(_) => (code::RESUME_REFUSED, Grpc::PermissionDenied),
            Self::Behind => (code::BEHIND, Grpc::FailedPrecondition),
            Self::Stale => (code::STALE, Grpc::Unavailable),
            Self::NotReady(_) => (code::NOT_READY, Grpc::Unavailable),
            Self::ShuttingDown => (code::SHUTTING_DOWN, Grpc::Unavailable),
            Self::AuditRange { .. } => (code::AUDIT_RANGE, Grpc::OutOfRange),
            Self::NoCheckpoint => (code::NO_CHECKPOINT, Grpc::NotFound),
            Self::LeavesMissing(_) => (code::LEAVES_MISSING, Grpc::Unavailable),
            Self::Internal(_) => (code::INTERNAL, Grpc::Internal),
        }
    }

    /// What an agent of SPIRE's has to be told.
    fn reason(&self) -> Option<Reason> {
        let denial = match self {
            Self::Denied(Denied::Agent { source, .. }) => *source,
            Self::Denied(Denied::Lapsed { .. }) => AgentDenial::Expired,
            Self::MustReattest => return Some(Reason::AgentMustReattest),
            Self::Refused { refusal, .. }
            | Self::Issue(IssueError::Commit(CommitError::Refused { refusal, .. })) => {
                match refusal {
                    Refusal::Banned => AgentDenial::Banned,
                    Refusal::AgentNotAttested => AgentDenial::NotAttested,
                    Refusal::AgentSerial => AgentDenial::NotActive,
                    _ => return None,
                }
            }
            _ => return None,
        };
        Some(match denial {
            AgentDenial::Expired => Reason::AgentExpired,
            AgentDenial::NotAttested => Reason::AgentNotAttested,
            AgentDenial::NotActive => Reason::AgentNotActive,
            AgentDenial::Banned => Reason::AgentBanned,
        })
    }

    /// The text of the status: code, what, why.
    fn message(&self) -> String {
        let (code, _) = self.codes();
        // Causes of our own making are for the caller's eyes too.
        with_causes(format!("{code}: {self}"), self)
    }

    /// The status of one item of a batch.
    #[must_use]
    pub fn item(&self) -> ItemStatus {
        let (_, grpc) = self.codes();
        self.log();
        ItemStatus {
            code: grpc.into(),
            message: self.message(),
        }
    }

    fn log(&self) {
        let (code, grpc) = self.codes();
        match grpc {
            Grpc::Internal => tracing::error!(%code, error = %self.message(), "request failed"),
            Grpc::Unavailable => tracing::warn!(%code, error = %self.message(), "request failed"),
            _ => tracing::debug!(%code, error = %self.message(), "request refused"),
        }
    }

    fn details(&self) -> Vec<prost_types::Any> {
        let (code, _) = self.codes();
        let info = ErrorInfo {
            reason: code.to_string(),
            domain: ERROR_DOMAIN.to_owned(),
            metadata: BTreeMap::new().into_iter().collect(),
        };
        let mut details = vec![any(&info)];
        if let Some(reason) = self.reason() {
            details.push(any(&PermissionDeniedDetails {
                reason: reason.into(),
            }));
        }
        if let Self::RateLimited { wait } = self {
            let retry_delay = prost_types::Duration::try_from(*wait).ok();
            details.push(any(&RetryInfo { retry_delay }));
        }
        details
    }
}

fn any<M: Message + Name>(message: &M) -> prost_types::Any {
    // Clients look for the last part; the host is the customary one.
    let type_url = format!("type.googleapis.com/{}", M::full_name());
    prost_types::Any {
        type_url,
        value: message.encode_to_vec(),
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        error.log();
        let (_, grpc) = error.codes();
        let message = error.message();
        let packed = RpcStatus {
            code: grpc.into(),
            message: message.clone(),
            details: error.details(),
        };
        Self::with_details(grpc, message, packed.encode_to_vec().into())
    }
}

impl From<MakeStatementError> for ApiError {
    fn from(error: MakeStatementError) -> Self {
        match error {
            MakeStatementError::Keyring(error) => Self::Keyring(error),
            MakeStatementError::Sign(error) => Self::Internal(error.to_string()),
        }
    }
}

fn denied_codes(denied: &Denied) -> (Code, Grpc) {
    match denied {
        Denied::Unauthenticated { .. } => (code::UNAUTHENTICATED, Grpc::PermissionDenied),
        Denied::Forbidden { .. } => (code::DENIED, Grpc::PermissionDenied),
        Denied::Lapsed { .. } => (code::AGENT_EXPIRED, Grpc::PermissionDenied),
        Denied::Agent { source, .. } => {
            let code = match source {
                AgentDenial::Expired => code::AGENT_EXPIRED,
                AgentDenial::NotAttested => code::AGENT_NOT_ATTESTED,
                AgentDenial::NotActive => code::AGENT_NOT_ACTIVE,
                AgentDenial::Banned => code::AGENT_BANNED,
            };
            (code, Grpc::PermissionDenied)
        }
    }
}

fn issue_codes(error: &IssueError) -> (Code, Grpc) {
    match error {
        IssueError::NoEntry(_) => (code::NOT_FOUND, Grpc::NotFound),
        IssueError::Behind => (code::BEHIND, Grpc::Unavailable),
        IssueError::NotReady => (code::NOT_READY, Grpc::Unavailable),
        IssueError::ClusterTimeAhead(_) => (code::CLUSTER_TIME_AHEAD, Grpc::Unavailable),
        IssueError::ClockSkew(_) => (code::CLOCK_SKEW, Grpc::Unavailable),
        IssueError::NoAuthority(_) => (code::NO_AUTHORITY, Grpc::Unavailable),
        IssueError::Keyring(error) => keyring_codes(error),
        IssueError::Authority(_) => (code::INTERNAL, Grpc::Internal),
        IssueError::Profile(_) | IssueError::Claims(_) => {
            (code::INVALID_ARGUMENT, Grpc::InvalidArgument)
        }
        IssueError::Commit(error) => match error {
            CommitError::Refused { refusal, .. } => refusal_codes(*refusal),
            CommitError::Propose(error) => propose_codes(error),
            CommitError::Overloaded => (code::OVERLOADED, Grpc::ResourceExhausted),
            CommitError::ShuttingDown => (code::SHUTTING_DOWN, Grpc::Unavailable),
            CommitError::Mismatch { .. } => (code::INTERNAL, Grpc::Internal),
        },
        IssueError::Release(error) => match error {
            ReleaseError::ClockSkew(_) | ReleaseError::ClockUnknown => {
                (code::CLOCK_SKEW, Grpc::Unavailable)
            }
            ReleaseError::OutOfTouch(_) => (code::STALE, Grpc::Unavailable),
            ReleaseError::TooLate(_) => (code::TOO_LATE, Grpc::Unavailable),
            ReleaseError::DeniedMeanwhile(_) => (code::DENIED_MEANWHILE, Grpc::PermissionDenied),
            ReleaseError::Sign(_) | ReleaseError::SelfCheck(_) => {
                (code::SELF_CHECK, Grpc::Internal)
            }
        },
    }
}

fn rotation_codes(error: &RotationError) -> (Code, Grpc) {
    match error {
        RotationError::Keyring(error) => keyring_codes(error),
        RotationError::Propose(error) => propose_codes(error),
        RotationError::NotInitialized => (code::NOT_READY, Grpc::Unavailable),
        RotationError::Refused(_) => (code::REFUSED, Grpc::FailedPrecondition),
        RotationError::Lifecycle(_) => (code::INTERNAL, Grpc::Internal),
    }
}

fn keyring_codes(error: &KeyringError) -> (Code, Grpc) {
    match error {
        error if error.is_sealed() => (code::SEALED, Grpc::Unavailable),
        KeyringError::NotInitialized | KeyringError::NotAdmitted => {
            (code::NOT_READY, Grpc::Unavailable)
        }
        _ => (code::INTERNAL, Grpc::Internal),
    }
}

fn propose_codes(error: &ProposeError) -> (Code, Grpc) {
    match error {
        ProposeError::Unknown => (code::OUTCOME_UNKNOWN, Grpc::DeadlineExceeded),
        ProposeError::NoLeader => (code::NO_LEADER, Grpc::Unavailable),
        ProposeError::Overloaded => (code::OVERLOADED, Grpc::ResourceExhausted),
        ProposeError::ClockSkew(_) => (code::CLOCK_SKEW, Grpc::Unavailable),
        ProposeError::TooLarge => (code::TOO_LARGE, Grpc::ResourceExhausted),
        ProposeError::Stopped => (code::SHUTTING_DOWN, Grpc::Unavailable),
    }
}

fn refusal_codes(refusal: Refusal) -> (Code, Grpc) {
    match refusal {
        Refusal::NotFound => (code::NOT_FOUND, Grpc::NotFound),
        Refusal::AlreadyExists => (code::ALREADY_EXISTS, Grpc::AlreadyExists),
        Refusal::Invalid => (code::INVALID_ARGUMENT, Grpc::InvalidArgument),
        Refusal::Stale => (code::CONFLICT, Grpc::Aborted),
        Refusal::Banned => (code::AGENT_BANNED, Grpc::PermissionDenied),
        Refusal::TokenUnknown => (code::TOKEN_UNKNOWN, Grpc::PermissionDenied),
        Refusal::TokenUsed => (code::TOKEN_USED, Grpc::PermissionDenied),
        Refusal::NotAuthorized => (code::NOT_AUTHORIZED, Grpc::PermissionDenied),
        Refusal::Authority => (code::NO_AUTHORITY, Grpc::Unavailable),
        Refusal::SerialReused => (code::CONFLICT, Grpc::Aborted),
        Refusal::Clock => (code::CLOCK_SKEW, Grpc::Unavailable),
        Refusal::Conflict => (code::CONFLICT, Grpc::FailedPrecondition),
        Refusal::Limit => (code::LIMIT, Grpc::ResourceExhausted),
        Refusal::NotInitialized => (code::NOT_READY, Grpc::Unavailable),
        Refusal::NotAcknowledged => (code::REFUSED, Grpc::FailedPrecondition),
        Refusal::AgentNotAttested => (code::AGENT_NOT_ATTESTED, Grpc::PermissionDenied),
        Refusal::AgentSerial => (code::AGENT_NOT_ACTIVE, Grpc::PermissionDenied),
        Refusal::AuthorityState => (code::AUTHORITY_STATE, Grpc::FailedPrecondition),
        Refusal::AuthorityNotTainted => (code::AUTHORITY_NOT_TAINTED, Grpc::FailedPrecondition),
        Refusal::AuthorityInUse => (code::AUTHORITY_IN_USE, Grpc::FailedPrecondition),
        Refusal::Unspecified => (code::INTERNAL, Grpc::Internal),
    }
}

#[cfg(test)]
mod tests;
