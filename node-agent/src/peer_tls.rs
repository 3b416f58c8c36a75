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
        Authorizer, BundleSource, SvidSource, SvidTrust, TlsConfigError, crypto_provider,
        mtls_client_config,
    },
    trust_domain::TrustDomain,
};
use mintmark_runtime::tls::ClientConfigSource;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

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
pub fn towards_anybody() -> Result<ClientConfigSource, TlsConfigError> {
    let provider = crypto_provider();
    let verifier = Arc::new(Anybody(Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    let config = Arc::new(config);
    Ok(Arc::new(move || Arc::clone(&config)))
}

/// Believes that the other side is whoever it is; still checks that it holds its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
