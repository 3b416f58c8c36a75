//! TLS between holders of X.509-SVIDs.
//!
//! Responsible for: rustls configurations in which certificates are judged by
//! `svid::x509::verify` alone, and own identity, bundles and time are read anew at each
//! handshake; so they rotate without rebuilding a configuration or a listener.
//! Always holds: TLS 1.3 only; no resumption and no tickets, because a resumed session would
//! skip the verifier; host names and addresses play no part; X25519MLKEM768 is the preferred
//! key exchange.
//! Not here: sockets and handshakes (`mintmark-runtime`).

pub mod bootstrap;
mod identity;
mod verifier;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::UnixTime;

use crate::bundle::BundleSet;
use crate::clock::Clock;
use crate::spiffe_id::SpiffeId;
use crate::svid::x509::verify::VerificationPolicy;
use crate::svid::x509::x509_svid::X509Svid;
use crate::trust_domain::TrustDomain;

use identity::CurrentSvid;
use verifier::{ChainVerifier, Trust};

pub use verifier::TlsRefusal;

/// Where the own identity comes from; asked at each handshake.
pub trait SvidSource: Send + Sync + fmt::Debug {
    /// The SVID to present now, if there is one.
    fn svid(&self) -> Option<Arc<X509Svid>>;
}

/// Where the bundles come from; asked at each handshake.
pub trait BundleSource: Send + Sync + fmt::Debug {
    /// The bundles to verify with now.
    fn bundles(&self) -> Arc<BundleSet>;
}

/// Where the certificates of the trust-domain key come from; asked at each handshake between
/// servers.
pub trait TrustDomainKeySource: Send + Sync + fmt::Debug {
    /// The certificates in DER: one, and two while the key is being succeeded.
    fn trust_domain_certificates(&self) -> Arc<Vec<Vec<u8>>>;
}

impl SvidSource for Arc<X509Svid> {
    fn svid(&self) -> Option<Arc<X509Svid>> {
        Some(Self::clone(self))
    }
}

impl BundleSource for Arc<BundleSet> {
    fn bundles(&self) -> Arc<BundleSet> {
        Self::clone(self)
    }
}

impl TrustDomainKeySource for Arc<Vec<Vec<u8>>> {
    fn trust_domain_certificates(&self) -> Arc<Vec<Vec<u8>>> {
        Self::clone(self)
    }
}

/// Which verified identities may be on the other end.
#[derive(Clone)]
pub struct Authorizer(Arc<dyn Fn(&SpiffeId) -> bool + Send + Sync>);

impl Authorizer {
    /// Whoever `decide` agrees to. It is asked after everything else has been verified.
    #[must_use]
    pub fn new(decide: impl Fn(&SpiffeId) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(decide))
    }

    /// Everybody whose SVID verifies.
    #[must_use]
    pub fn any() -> Self {
        Self::new(|_| true)
    }

    /// Exactly this identity.
    #[must_use]
    pub fn exactly(id: SpiffeId) -> Self {
        Self::new(move |other| *other == id)
    }

    /// Every member of this trust domain.
    #[must_use]
    pub fn member_of(trust_domain: TrustDomain) -> Self {
        Self::new(move |other| other.is_member_of(&trust_domain))
    }

    /// Whether this identity may be on the other end.
    #[must_use]
    pub fn allows(&self, id: &SpiffeId) -> bool {
        (self.0)(id)
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorizer(..)")
    }
}

/// Whether a client must show who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// A client may come without a certificate; one that it shows must verify.
    Optional,
    /// A client without a certificate is turned away.
    Required,
}

/// How the other side's SVID is judged.
#[derive(Debug, Clone)]
pub struct SvidTrust {
    /// The bundles.
    pub bundles: Arc<dyn BundleSource>,
    /// What is demanded beyond the rules.
    pub policy: VerificationPolicy,
    /// Who may be there.
    pub authorizer: Authorizer,
}

/// Why a configuration cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the TLS library refused the configuration")]
pub struct TlsConfigError(#[from] rustls::Error);

/// The configuration of a server that shows an SVID, and may ask for one.
///
/// # Errors
/// [`TlsConfigError`], never in practice.
pub fn server_config(
    clock: Arc<dyn Clock>,
    identity: Arc<dyn SvidSource>,
    trust: SvidTrust,
    client_auth: ClientAuth,
) -> Result<ServerConfig, TlsConfigError> {
    server(clock, identity, Trust::Bundles(trust), client_auth)
}

/// The configuration of a client that shows its SVID and demands one of the server.
///
/// # Errors
/// [`TlsConfigError`], never in practice.
pub fn mtls_client_config(
    clock: Arc<dyn Clock>,
    identity: Arc<dyn SvidSource>,
    trust: SvidTrust,
) -> Result<ClientConfig, TlsConfigError> {
    client(clock, Some(identity), Trust::Bundles(trust))
}

/// The configuration of a client that has no identity yet and demands an SVID of the server.
///
/// # Errors
/// [`TlsConfigError`], never in practice.
pub fn tls_client_config(
    clock: Arc<dyn Clock>,
    trust: SvidTrust,
) -> Result<ClientConfig, TlsConfigError> {
    client(clock, None, Trust::Bundles(trust))
}

/// The configuration of a server that accepts its peers of the cluster and nobody else. Both
/// sides' certificates chain up to the trust-domain key and are hybrid.
///
/// # Errors
/// [`TlsConfigError`], never in practice.
pub fn peer_server_config(
    clock: Arc<dyn Clock>,
    identity: Arc<dyn SvidSource>,
    trust_domain_key: Arc<dyn TrustDomainKeySource>,
    authorizer: Authorizer,
) -> Result<ServerConfig, TlsConfigError> {
    let trust = Trust::TrustDomainKey {
        trust_domain_key,
        authorizer,
    };
    server(clock, identity, trust, ClientAuth::Required)
}

/// The configuration of a server that connects to a peer of the cluster.
///
/// # Errors
/// [`TlsConfigError`], never in practice.
pub fn peer_client_config(
    clock: Arc<dyn Clock>,
    identity: Arc<dyn SvidSource>,
    trust_domain_key: Arc<dyn TrustDomainKeySource>,
    authorizer: Authorizer,
) -> Result<ClientConfig, TlsConfigError> {
    let trust = Trust::TrustDomainKey {
        trust_domain_key,
        authorizer,
    };
    client(clock, Some(identity), trust)
}

/// The cryptography that our configurations use.
#[must_use]
pub fn crypto_provider() -> Arc<CryptoProvider> {
    // With the feature `prefer-post-quantum`, X25519MLKEM768 comes first.
    Arc::new(aws_lc_rs::default_provider())
}

fn server(
    clock: Arc<dyn Clock>,
    identity: Arc<dyn SvidSource>,
    trust: Trust,
    client_auth: ClientAuth,
) -> Result<ServerConfig, TlsConfigError> {
    let provider = crypto_provider();
    let verifier = ChainVerifier::new(trust, client_auth, &provider);
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(CurrentSvid::new(identity)));
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

fn client(
    clock: Arc<dyn Clock>,
    identity: Option<Arc<dyn SvidSource>>,
    trust: Trust,
) -> Result<ClientConfig, TlsConfigError> {
    let provider = crypto_provider();
    // The demand for a client's certificate is the server's; here it is not looked at.
    let verifier = ChainVerifier::new(trust, ClientAuth::Required, &provider);
    let builder = ClientConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(CurrentSvid::new(identity))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // Names of hosts mean nothing here, so there is no need to tell the network.
    config.enable_sni = false;
    Ok(config)
}

/// Our clock as rustls wants it.
#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        // Before 1970 there is no time to tell, and every handshake fails.
        let seconds = u64::try_from(self.0.now().unix_secs()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}
