//! Judging the other side's certificates.
//!
//! Responsible for: rustls's two verifier traits over the one decision of `svid::x509`.
//! Always holds: chain first, authorisation last; the handshake signature is checked against
//! the same leaf; nothing is remembered between handshakes.
//! Not here: the rules themselves.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Authorizer, ClientAuth, SvidTrust, TrustDomainKeySource};
use crate::clock::Timestamp;
use crate::spiffe_id::SpiffeId;
use crate::svid::x509::peer::{PeerError, verify_peer_certificate};
use crate::svid::x509::verify::{Usage, X509SvidError, verify_x509_svid_with};

/// Why the other side was turned away; found inside the [`rustls::Error`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsRefusal {
    /// Its chain is nobody's X.509-SVID.
    #[error("peer did not present a valid X.509-SVID")]
    Svid(#[from] X509SvidError),
    /// Its chain is not that of a peer server.
    #[error("peer is not a server of this cluster")]
    Peer(#[from] PeerError),
    /// It is who it says, and not welcome.
    #[error("{0} is not authorized here")]
    Unauthorized(SpiffeId),
}

/// What chains must lead up to.
#[derive(Debug)]
pub(super) enum Trust {
    Bundles(SvidTrust),
    TrustDomainKey {
        trust_domain_key: Arc<dyn TrustDomainKeySource>,
        authorizer: Authorizer,
    },
}

impl Trust {
    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
        usage: Usage,
    ) -> Result<(), TlsRefusal> {
        let (id, authorizer) = match self {
            Self::Bundles(trust) => {
                let bundles = trust.bundles.bundles();
                let svid = verify_x509_svid_with(chain, &bundles, now, usage, &trust.policy)?;
                (svid.spiffe_id, &trust.authorizer)
            }
            Self::TrustDomainKey {
                trust_domain_key,
                authorizer,
            } => {
                let certificates = trust_domain_key.trust_domain_certificates();
                let peer = verify_peer_certificate(chain, &certificates, now, usage)?;
                let id = peer.name.spiffe_id().map_err(X509SvidError::SpiffeId)?;
                (id, authorizer)
            }
        };
        if authorizer.allows(&id) {
            Ok(())
        } else {
            Err(TlsRefusal::Unauthorized(id))
        }
    }
}

#[derive(Debug)]
pub(super) struct ChainVerifier {
    trust: Trust,
    client_auth: ClientAuth,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ChainVerifier {
    pub(super) fn new(trust: Trust, client_auth: ClientAuth, provider: &CryptoProvider) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self {
            trust,
            client_auth,
            algorithms,
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<(), Error> {
        let mut chain = Vec::with_capacity(intermediates.len().saturating_add(1));
        chain.push(CertificateDer::from(leaf.as_ref()));
        chain.extend(
            intermediates
                .iter()
                .map(|der| CertificateDer::from(der.as_ref())),
        );
        let now = Timestamp::UNIX_EPOCH.saturating_add(Duration::from_secs(now.as_secs()));
        self.trust.verify(&chain, now, usage).map_err(into_rustls)
    }
}

/// Keeps our reason inside the error, but for what has an alert of its own that helps the other
/// side more.
fn into_rustls(refusal: TlsRefusal) -> Error {
    let error = match &refusal {
        TlsRefusal::Svid(X509SvidError::Expired { .. }) => CertificateError::Expired,
        TlsRefusal::Svid(X509SvidError::UnknownAuthority(_)) => CertificateError::UnknownIssuer,
        TlsRefusal::Unauthorized(_) => CertificateError::ApplicationVerificationFailure,
        _ => CertificateError::Other(OtherError(Arc::new(refusal))),
    };
    Error::InvalidCertificate(error)
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now, Usage::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for ChainVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Bundles change, and clients have one identity anyway.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now, Usage::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
