//! What can go wrong between an application and its agent, and what to do about it.

use mintmark_identity::spiffe_id::SpiffeIdError;

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
    Timeout(std::time::Duration),
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
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Invalid(_) | Self::Unsupported(_))
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
            tonic::Code::Unimplemented => Self::Unsupported(message),
            _ => Self::Other(Box::new(status)),
        }
    }
}
