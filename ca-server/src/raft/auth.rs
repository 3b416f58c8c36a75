//! Who may speak as which member.
//!
//! Responsible for: the seam to peer certificates. Always holds: a call is looked at
//! only if [`PeerAuth::authorize`] says that its certificate is that member's. Not here:
//! how certificates are made and verified.

use std::fmt;

use mintmark_runtime::tls::ClientConfigSource;
use rustls_pki_types::CertificateDer;

use super::type_config::NodeId;

/// Knows the members' certificates.
pub trait PeerAuth: Send + Sync + fmt::Debug {
    /// True if who presented these certificates (leaf first, accepted by the TLS
    /// verifier, none without TLS) is this member and has not been removed.
    fn authorize(&self, node: NodeId, certificates: &[CertificateDer<'static>]) -> bool;

    /// TLS for connections to this member, whose verifier accepts nobody else; `None`
    /// for plain text, which only a test may answer.
    fn client_tls(&self, node: NodeId) -> Option<ClientConfigSource>;
}
