//! TLS towards servers.
//!
//! Responsible for: the two configurations of the agent: the usual one, in which the server
//! proves to be one and the agent shows its SVID if it has one; and one that verifies nothing,
//! for statements that prove themselves. Always holds: TLS 1.3; the usual one takes identity,
//! bundle and time anew for each handshake. Not here: the verifier (`mintmark_identity::tls`).

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use mintmark_identity::{
    clock::Clock,
    spiffe_id::SpiffeId,
    svid::x509::{VerificationPolicy, X509Svid},
    tls::{
        Authorizer, BundleSource, SvidSource, SvidTrust, TlsConfigError,
        bootstrap::unverified_client_config, mtls_client_config,
    },
    trust_domain::TrustDomain,
};
use mintmark_runtime::tls::ClientConfigSource;

/// The agent's own SVID as TLS presents it; none before attestation.
#[derive(Clone, Debug, Default)]
pub struct OwnSvid(Arc<ArcSwapOption<X509Svid>>);

impl OwnSvid {
    /// Presents this one from the next handshake on.
    pub fn set(&self, svid: Option<Arc<X509Svid>>) {
        self.0.store(svid);
    }
}

impl SvidSource for OwnSvid {
    fn svid(&self) -> Option<Arc<X509Svid>> {
        self.0.load_full()
    }
}

/// The usual configuration: the other side must be a server of this trust domain.
///
/// # Errors
/// When the TLS library refuses, which it never does in practice.
pub fn towards_servers(
    clock: Arc<dyn Clock>,
    own: OwnSvid,
    bundles: Arc<dyn BundleSource>,
    domain: &TrustDomain,
) -> Result<ClientConfigSource, TlsConfigError> {
    let trust = SvidTrust {
        bundles,
        policy: VerificationPolicy::default(),
        authorizer: Authorizer::exactly(SpiffeId::server_id(domain)),
    };
    let config = Arc::new(mtls_client_config(clock, Arc::new(own), trust)?);
    Ok(Arc::new(move || Arc::clone(&config)))
}

/// A configuration that takes anybody for a server. Nothing secret may be sent over it and
/// nothing believed that comes from it, unless it proves itself.
///
/// # Errors
/// When the TLS library refuses, which it never does in practice.
pub fn towards_anybody(clock: Arc<dyn Clock>) -> Result<ClientConfigSource, TlsConfigError> {
    let config = Arc::new(unverified_client_config(clock)?);
    Ok(Arc::new(move || Arc::clone(&config)))
}
