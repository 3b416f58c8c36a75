//! What can go wrong between an application and its agent, and what to do about it.

use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::spiffe_id::SpiffeIdError;
use mintmark_identity::svid::jwt::JwtSvidError;
use mintmark_identity::svid::x509::verify::X509SvidError;

/// A failed call to the Workload API.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens at the address, or this user may not connect. Retry with back-off: agents start
    /// late and restart.
    #[error("no agent answers at {endpoint}")]
    NoAgent {
        /// The address that was tried.
        endpoint: String,
        /// Why it failed.
        #[source]
        cause: tonic::transport::Error,
    },
    /// The agent has no identity for this process. It may get one: retry with back-off, and drop what
    /// you hold.
    #[error("the agent has no identity for this process: {0}")]
    NoIdentity(String),
    /// The agent is starting, overloaded or cut off. Retry with back-off, and keep what you hold.
    #[error("the agent cannot answer now: {0}")]
    Unavailable(String),
    /// The request itself is wrong, or a token was refused. Do not retry.
    #[error("the agent refused the request: {0}")]
    Invalid(String),
    /// The agent does not offer this. Do not retry.
    #[error("the agent does not support this: {0}")]
    Unsupported(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The agent gave up on the call. Retry.
    #[error("the agent did not finish in time: {0}")]
    Late(String),
    /// The answer lacks something it must have, or holds something it must not: discard it and keep
    /// what you hold.
    #[error("the agent's answer is malformed: {field}: {reason}")]
    Malformed {
        /// Which field of the answer.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The stream ended without an error. Open it again.
    #[error("the agent closed the stream")]
    Closed,
    /// Anything else the agent said.
    #[error("the agent failed: {0}")]
    Other(Box<tonic::Status>),
}

impl ClientError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        !matches!(self, Self::Invalid(_) | Self::Unsupported(_))
    }

    /// Whether the agent says that this process is nobody: what it gave before is withdrawn.
    #[must_use]
    pub const fn is_no_identity(&self) -> bool {
        matches!(self, Self::NoIdentity(_))
    }

    /// Whether only this one answer is to be discarded, and the stream goes on.
    #[must_use]
    pub const fn is_malformed(&self) -> bool {
        matches!(self, Self::Malformed { .. })
    }

    pub(crate) fn malformed(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed {
            field,
            reason: reason.into(),
        }
    }

    pub(crate) fn id(field: &'static str, error: &SpiffeIdError) -> Self {
        Self::malformed(field, error.to_string())
    }
}

impl From<tonic::Status> for ClientError {
    fn from(status: tonic::Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            tonic::Code::PermissionDenied => Self::NoIdentity(message),
            tonic::Code::Unavailable => Self::Unavailable(message),
            tonic::Code::InvalidArgument => Self::Invalid(message),
            tonic::Code::DeadlineExceeded => Self::Late(message),
            tonic::Code::Unimplemented => Self::Unsupported(message),
            _ => Self::Other(Box::new(status)),
        }
    }
}

/// Why a source cannot give what was asked of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The agent refuses the request itself, or does not offer this. The source has ended: repeating it
    /// would not help.
    #[error("the agent refuses")]
    Refused(#[source] Arc<ClientError>),
    /// The agent gave nothing within the time for the first value.
    #[error("the agent gave nothing usable within {waited:?}")]
    NotReady {
        /// How long it was waited.
        waited: Duration,
        /// What failed last, if anything did.
        #[source]
        last: Option<Arc<ClientError>>,
    },
    /// The agent says that this process has no identity any more. The source goes on: it may get one.
    #[error("the agent withdrew the identity of this process")]
    Withdrawn(#[source] Arc<ClientError>),
    /// What is held is out of date, and nothing newer came: the agent is away, or cannot renew.
    #[error("the SVID expired at {not_after}, and the agent gave no newer one")]
    Expired {
        /// When.
        not_after: Timestamp,
    },
    /// No identity has this label.
    #[error("no identity has the hint {0:?}")]
    NoSuchHint(String),
    /// Somebody's chain is not an X.509-SVID that can be believed.
    #[error("the chain is no X.509-SVID that can be believed")]
    NotAnSvid(#[from] X509SvidError),
    /// Somebody's token is not a JWT-SVID that can be believed.
    #[error("the token is no JWT-SVID that can be believed")]
    NotAToken(#[from] JwtSvidError),
    /// A single call failed.
    #[error("the call to the agent failed")]
    Call(#[from] ClientError),
    /// The source's task has ended with its runtime.
    #[error("the source has stopped")]
    Stopped,
}

impl SourceError {
    /// Whether the same may succeed later without anybody changing this program.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotReady { .. } | Self::Withdrawn(_) | Self::Expired { .. } => true,
            Self::Call(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// Whether the agent says that this process is nobody.
    #[must_use]
    pub fn is_no_identity(&self) -> bool {
        match self {
            Self::Withdrawn(error) => error.is_no_identity(),
            Self::NotReady { last, .. } => last.as_ref().is_some_and(|last| last.is_no_identity()),
            Self::Call(error) => error.is_no_identity(),
            _ => false,
        }
    }

    /// Whether the agent will never answer this.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}
