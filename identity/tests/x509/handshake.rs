//! TLS handshakes in memory, and both ways of judging a chain at once.

use std::sync::Arc;

use mintmark_identity::bundle::BundleSet;
use mintmark_identity::clock::ManualClock;
use mintmark_identity::key_manager::SigningKey;
use mintmark_identity::svid::x509::{
    Usage, VerificationPolicy, VerifiedX509Svid, X509SvidError, verify_x509_svid_with,
};
use mintmark_identity::tls::{
    Authorizer, ClientAuth, SvidTrust, TlsRefusal, crypto_provider, mtls_client_config,
    server_config,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig,
    ServerConnection, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use crate::pki::{Authority, NOW, p256, svid};

/// What both ends saw of a handshake that succeeded.
pub struct Established {
    pub client: ClientConnection,
    pub server: ServerConnection,
}

/// Runs a handshake to its end; the error is that of the side that noticed first.
pub fn handshake(client: ClientConfig, server: ServerConfig) -> Result<Established, Error> {
    let name = ServerName::try_from("ignored.invalid").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
        let quiet = !client.wants_write() && !server.wants_write();
        if !client.is_handshaking() && !server.is_handshaking() && quiet {
            return Ok(Established { client, server });
        }
    }
    panic!("handshake does not end");
}

/// A server or client that presents what it is given and believes everything.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
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
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn certified(chain: &[CertificateDer<'static>], key: &SigningKey) -> Arc<SingleCertAndKey> {
    let pkcs8 = key.to_pkcs8().unwrap();
    let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_slice()));
    let key = any_supported_type(&pkcs8).unwrap();
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(
        chain.to_vec(),
        key,
    )))
}

/// A client that presents `chain`, whatever it is.
pub fn any_client(chain: &[CertificateDer<'static>], key: &SigningKey) -> ClientConfig {
    ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_client_cert_resolver(certified(chain, key))
}

/// A server that presents `chain`, whatever it is, and asks for nothing.
pub fn any_server(chain: &[CertificateDer<'static>], key: &SigningKey) -> ServerConfig {
    ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(certified(chain, key))
}

/// The honest other side of all judgements: somebody in a trust domain of its own.
pub struct Judge {
    pub bundles: BundleSet,
    pub policy: VerificationPolicy,
    pub now: mintmark_identity::clock::Timestamp,
}

impl Judge {
    pub fn new(bundles: BundleSet) -> Self {
        Self {
            bundles,
            policy: VerificationPolicy::default(),
            now: NOW,
        }
    }

    /// Judges by the function and by both TLS verifiers; they must agree.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'static>],
        key: &SigningKey,
    ) -> Result<VerifiedX509Svid, X509SvidError> {
        let judge =
            |usage| verify_x509_svid_with(chain, &self.bundles, self.now, usage, &self.policy);
        let verdict = judge(Usage::Either);
        if chain.is_empty() {
            return verdict;
        }
        assert_same(&judge(Usage::Client), &self.as_client(chain, key));
        assert_same(&judge(Usage::Server), &self.as_server(chain, key));
        verdict
    }

    /// Judges a client's chain in a handshake.
    pub fn as_client(
        &self,
        chain: &[CertificateDer<'static>],
        key: &SigningKey,
    ) -> Result<(), Error> {
        let home = Authority::new("judge.test", false);
        let own = p256();
        let own = svid(&[&home.issue("/judge", &own)], &own);
        let clock = Arc::new(ManualClock::new(self.now));
        let server = server_config(clock, Arc::new(own), self.trust(), ClientAuth::Required);
        handshake(any_client(chain, key), server.unwrap()).map(|_| ())
    }

    /// Judges a server's chain in a handshake.
    pub fn as_server(
        &self,
        chain: &[CertificateDer<'static>],
        key: &SigningKey,
    ) -> Result<(), Error> {
        let home = Authority::new("judge.test", false);
        let own = p256();
        let own = svid(&[&home.issue("/judge", &own)], &own);
        let clock = Arc::new(ManualClock::new(self.now));
        let client = mtls_client_config(clock, Arc::new(own), self.trust()).unwrap();
        handshake(client, any_server(chain, key)).map(|_| ())
    }

    pub fn trust(&self) -> SvidTrust {
        SvidTrust {
            bundles: Arc::new(Arc::new(self.bundles.clone())),
            policy: self.policy.clone(),
            authorizer: Authorizer::any(),
        }
    }
}

/// The refusal inside a TLS error, where it is kept.
pub fn refusal(error: &Error) -> Option<TlsRefusal> {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return None;
    };
    other.0.downcast_ref::<TlsRefusal>().cloned()
}

fn assert_same(verdict: &Result<VerifiedX509Svid, X509SvidError>, tls: &Result<(), Error>) {
    match (verdict, tls) {
        (Ok(_), Ok(())) => {}
        (Err(expected), Err(error)) => match refusal(error) {
            Some(TlsRefusal::Svid(found)) => assert_eq!(found, *expected),
            _ => assert!(
                matches!(
                    error,
                    Error::InvalidCertificate(
                        CertificateError::Expired | CertificateError::UnknownIssuer
                    )
                ),
                "{error:?}, but {expected:?}"
            ),
        },
        _ => panic!("function says {verdict:?}, TLS says {tls:?}"),
    }
}
