//! How the agent's sockets say no.
//!
//! Responsible for: gRPC statuses with a stable code, in the text for people and as a
//! `google.rpc.ErrorInfo` for programs. Always holds: where SPIRE's clients compare text, its
//! words come first; nothing of the inside leaks. Not here: when to say no.

use std::{error::Error as _, io};

use mintmark_proto::google::rpc::{ErrorInfo, Status as RpcStatus};
use mintmark_runtime::cause::with_causes;
use prost::{Message, Name};
use rustls::{CertificateError, Error};
use tonic::{Code, Status};

use crate::code;

/// What a server says to an agent of which it has seen a newer SVID.
pub const NOT_ACTIVE: &str = "MM-1106";
/// Domain of our error details.
const DOMAIN: &str = "mintmark";

/// A status with a stable code behind the text.
#[must_use]
pub fn status(grpc: Code, code: code::Code, text: &str) -> Status {
    let message = format!("{text} ({code})");
    with_details(grpc, code, message)
}

fn with_details(grpc: Code, code: code::Code, message: String) -> Status {
    let info = ErrorInfo {
        reason: code.to_string(),
        domain: DOMAIN.to_owned(),
        ..ErrorInfo::default()
    };
    let any = prost_types::Any {
        type_url: ErrorInfo::type_url(),
        value: info.encode_to_vec(),
    };
    let details = RpcStatus {
        code: grpc.into(),
        message: message.clone(),
        details: vec![any],
    };
    Status::with_details(grpc, message, details.encode_to_vec().into())
}

/// A status with the causes that a transport hides behind its words.
#[must_use]
pub fn explain(status: &Status) -> String {
    let words = format!("{:?}: {}", status.code(), status.message());
    with_causes(words, status)
}

/// Whether a call failed because no authority that this agent knows signed the server's certificate.
#[must_use]
pub fn is_stranger(status: &Status) -> bool {
    let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
    let mut causes = std::iter::successors(status.source(), |error| (*error).source());
    causes.any(|cause| {
        let inner = match cause.downcast_ref::<io::Error>() {
            // Its own source is that of the error inside, which would be passed over.
            Some(error) => error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<Error>()),
            None => cause.downcast_ref::<Error>(),
        };
        inner == Some(&unknown)
    })
}

/// The stable code in a status that a server or an agent of ours sent.
#[must_use]
pub fn code_of(status: &Status) -> Option<String> {
    RpcStatus::decode(status.details())
        .ok()?
        .details
        .iter()
        .filter(|any| any.type_url == ErrorInfo::type_url())
        .filter_map(|any| ErrorInfo::decode(any.value.as_slice()).ok())
        .find(|info| info.domain == DOMAIN)
        .map(|info| info.reason)
}

/// The caller has no identity, or not the one it asked for: one answer for both, so that it
/// tells nothing about other workloads (WLA-32). SPIRE's phrase comes first: clients match it.
#[must_use]
pub fn no_identity() -> Status {
    let message = format!(
        "no identity issued ({}: no registration entry matches this process; \
         `mintmark explain --pid PID` shows why)",
        code::NO_IDENTITY_ISSUED
    );
    with_details(Code::PermissionDenied, code::NO_IDENTITY_ISSUED, message)
}

/// This agent may serve nothing any more.
#[must_use]
pub fn denied(denial: crate::cache::state::Denial) -> Status {
    let (code, what) = match denial {
        crate::cache::state::Denial::Banned => (code::AGENT_BANNED, "banned"),
        crate::cache::state::Denial::Evicted => (code::AGENT_EVICTED, "evicted"),
    };
    let message = format!("no identity issued ({code}: the trust domain has {what} this agent)");
    with_details(Code::PermissionDenied, code, message)
}

/// Nothing has been heard from a server yet.
#[must_use]
pub fn not_synced() -> Status {
    status(
        Code::Unavailable,
        code::NOT_SYNCED,
        "the agent has not heard from a server yet",
    )
}

/// A field of the request cannot be used.
#[must_use]
pub fn malformed(text: &str) -> Status {
    status(Code::InvalidArgument, code::REQUEST_MALFORMED, text)
}

/// What the caller asked for is not offered.
#[must_use]
pub fn not_supported(what: &str) -> Status {
    status(
        Code::Unimplemented,
        code::NOT_SUPPORTED,
        &format!("{what} is not offered"),
    )
}

/// The SVID is on its way.
#[must_use]
pub fn not_issued(problem: &str) -> Status {
    let text = format!("the SVID is not issued yet: {problem}");
    status(Code::Unavailable, code::SVID_NOT_ISSUED, &text)
}

/// The agent goes away.
#[must_use]
pub fn shutting_down() -> Status {
    status(
        Code::Unavailable,
        code::SHUTTING_DOWN,
        "the agent is shutting down",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn spires_phrase_comes_first_and_the_code_is_in_text_and_details() {
        let status = no_identity();
        assert!(status.message().starts_with("no identity issued (MM-2003"));
        assert_eq!(code_of(&status).unwrap(), "MM-2003");
        assert_eq!(status.code(), Code::PermissionDenied);
    }

    #[test]
    fn a_status_without_our_details_has_no_code() {
        assert_eq!(code_of(&Status::unavailable("x")), None);
        let garbage = Status::with_details(Code::Internal, "x", vec![1_u8, 2, 3].into());
        assert_eq!(code_of(&garbage), None);
    }
}
