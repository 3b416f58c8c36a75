//! The joining side: from an address, a token and a pin to a place in the cluster.
//!
//! Always: the first connection verifies nobody and carries nothing secret; it fetches a statement,
//! which is believed only under the pinned trust-domain key and with the nonce that was sent. The token
//! goes over a second connection, whose server the statement's bundle verifies. What that server answers counts
//! only under the pinned key too: who holds a server's SVID and not that key gives nobody a place.

use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::bundle::{Bundle, BundleSet};
use mintmark_identity::clock::Timestamp;
use mintmark_identity::entropy::draw_bytes;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::statement::{StatementError, StatementSignatures, pin, verify_statement};
use mintmark_identity::svid::x509::peer::{PeerName, verify_peer_certificate};
use mintmark_identity::svid::x509::verify::VerificationPolicy;
use mintmark_identity::svid::x509::{Usage, VerifiedCsr, X509Authority};
use mintmark_identity::tls::bootstrap::unverified_client_config;
use mintmark_identity::tls::{Authorizer, SvidTrust, TlsConfigError, tls_client_config};
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::mintmark::agent::v1::agent_client::AgentClient;
use mintmark_proto::mintmark::agent::v1::{GetStatementRequest, GetStatementResponse, Statement};
use mintmark_proto::mintmark::cluster::v1::cluster_client::ClusterClient;
use mintmark_proto::mintmark::cluster::v1::{JoinRequest, JoinResponse};
use mintmark_runtime::cause::chain;
use mintmark_runtime::grpc::{ChannelOptions, Target, channel};
use mintmark_runtime::host::Host;
use mintmark_runtime::network::Address;
use prost::Message as _;
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tonic::transport::Channel;

/// A statement this much older or newer than our clock is not believed: nothing else tells a joiner
/// whether its clock is right.
const STATEMENT_AGE_MAX: Duration = Duration::from_secs(300);
/// Time for one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// Whom to join, and how to know them.
#[derive(Debug, Clone)]
pub struct Door {
    /// API address of a member.
    pub address: Address,
    /// Hash of the trust-domain key.
    pub pin: [u8; 32],
    /// The trust domain that this server is configured for.
    pub trust_domain: TrustDomain,
}

/// Why a server could not join.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A request failed.
    #[error("{address} does not answer {doing}: {}", .status.message())]
    Request {
        /// Who was asked.
        address: String,
        /// What for.
        doing: &'static str,
        /// The answer.
        status: Box<tonic::Status>,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsConfigError),
    /// The statement is not one of the pinned key.
    #[error("the statement of {address} is not to be believed")]
    Statement {
        /// Who sent it.
        address: String,
        /// Why.
        #[source]
        cause: StatementError,
    },
    /// The answer gives a place that is not one in the cluster of the pinned key.
    #[error("{address} gives no place in the cluster: {reason}")]
    Place {
        /// Who answered.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// The statement is signed well and is not an answer to us.
    #[error("the statement of {address} is not to be believed: {reason}")]
    Answer {
        /// Who sent it.
        address: String,
        /// Why.
        reason: String,
    },
}

impl JoinError {
    /// Whether the reason may be gone a moment later: nobody answered, or the answer was "not now".
    #[must_use]
    pub fn may_pass(&self) -> bool {
        // A failed connection is `Unavailable` or, when TLS ended it, `Unknown`.
        matches!(self, Self::Request { status, .. } if matches!(
            status.code(),
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::DeadlineExceeded
        ))
    }
}

/// Joins: the request goes out only after the statement was believed.
///
/// # Errors
/// Why not. Nothing was changed here; it can be tried again with the same key while the token lives.
pub async fn join(
    host: &Host,
    door: &Door,
    request: JoinRequest,
) -> Result<JoinResponse, JoinError> {
    let believed = believed(host, door).await?;
    let mut bundles = BundleSet::default();
    bundles.insert(believed.bundle);
    let trust = SvidTrust {
        bundles: Arc::new(Arc::new(bundles)),
        policy: VerificationPolicy::default(),
        authorizer: Authorizer::exactly(SpiffeId::server_id(&door.trust_domain)),
    };
    let tls = tls_client_config(Arc::clone(&host.clock), trust)?;
    let mut client = ClusterClient::new(connection(host, door, tls));
    let csr = request.peer_csr.clone();
    let answer = client.join(request);
    let answer = request_within(door, "the request to join", answer).await?;
    check_place(door, &believed.cluster_id, &csr, &answer, host.clock.now())?;
    Ok(answer)
}

/// Whether the place that was given is one in the cluster of the pinned key, for our own key.
fn check_place(
    door: &Door,
    cluster_id: &[u8],
    peer_csr: &[u8],
    answer: &JoinResponse,
    now: Timestamp,
) -> Result<(), JoinError> {
    let refused = |reason: String| JoinError::Place {
        address: door.address.to_string(),
        reason,
    };
    let key = &answer.trust_domain_key_certificate;
    let shown = X509Authority::parse(key).map_err(|e| refused(e.to_string()))?;
    if pin(&shown).map_err(|e| refused(e.to_string()))? != door.pin {
        return Err(refused("its trust-domain key is not the pinned one".into()));
    }
    if answer.cluster_id != cluster_id {
        return Err(refused("its cluster is not that of the statement".into()));
    }
    let given = [CertificateDer::from(answer.peer_certificate.as_slice())];
    let keys = std::slice::from_ref(key);
    let peer = verify_peer_certificate(&given, keys, now, Usage::Either)
        .map_err(|e| refused(format!("the peer certificate is not good: {}", chain(&e))))?;
    let name = PeerName {
        trust_domain: door.trust_domain.clone(),
        epoch: answer.epoch,
        node_id: answer.node_id,
    };
    if peer.name != name || answer.trust_domain != door.trust_domain.as_str() {
        return Err(refused("the peer certificate names another place".into()));
    }
    let own = VerifiedCsr::verify(peer_csr).map_err(|e| refused(e.to_string()))?;
    if peer.public_key_spki != own.public_key_spki() {
        return Err(refused("the peer certificate is for another key".into()));
    }
    Ok(())
}

/// What a statement says that is believed.
#[derive(Debug)]
struct Believed {
    bundle: Bundle,
    cluster_id: Vec<u8>,
}

async fn believed(host: &Host, door: &Door) -> Result<Believed, JoinError> {
    let tls = unverified_client_config(Arc::clone(&host.clock))?;
    let mut client = AgentClient::new(connection(host, door, tls));
    let nonce = draw_bytes::<32>(&*host.entropy);
    let asked = GetStatementRequest {
        nonce: nonce.to_vec(),
    };
    let answer = request_within(
        door,
        "the request for a statement",
        client.get_statement(asked),
    )
    .await?;
    believe(door, &answer, &nonce, host.clock.now())
}

/// Checks a statement and returns what matters of it.
fn believe(
    door: &Door,
    answer: &GetStatementResponse,
    nonce: &[u8],
    now: Timestamp,
) -> Result<Believed, JoinError> {
    let signatures = StatementSignatures {
        native: answer.native_signature.clone(),
        alternative: answer.alternative_signature.clone(),
    };
    let certificate = &answer.trust_domain_key_certificate;
    verify_statement(&door.pin, certificate, &answer.statement, &signatures).map_err(|cause| {
        JoinError::Statement {
            address: door.address.to_string(),
            cause,
        }
    })?;
    let refused = |reason: String| JoinError::Answer {
        address: door.address.to_string(),
        reason,
    };
    let statement = Statement::decode(answer.statement.as_slice())
        .map_err(|e| refused(format!("it cannot be read: {e}")))?;
    if statement.nonce != nonce {
        return Err(refused("it answers another request".to_owned()));
    }
    if statement.trust_domain != door.trust_domain.as_str() {
        let reason = format!(
            "it speaks for {}, not {}",
            statement.trust_domain, door.trust_domain
        );
        return Err(refused(reason));
    }
    let made = Timestamp::from_unix_millis(statement.time_ms);
    if now.since(made).max(made.since(now)) > STATEMENT_AGE_MAX {
        return Err(refused(format!(
            "it was made at {made}, and it is {now} here: set the clocks"
        )));
    }
    let (bundle, _skipped) = Bundle::from_document(&door.trust_domain, &statement.bundle_document)
        .map_err(|e| refused(format!("its bundle cannot be read: {e}")))?;
    Ok(Believed {
        bundle,
        cluster_id: statement.cluster_id,
    })
}

fn connection(host: &Host, door: &Door, tls: ClientConfig) -> Channel {
    let tls = Arc::new(tls);
    let target = Target::Tcp {
        address: door.address.clone(),
        tls: Some(Arc::new(move || Arc::clone(&tls))),
    };
    channel(Arc::clone(&host.network), target, ChannelOptions::default())
}

async fn request_within<T>(
    door: &Door,
    doing: &'static str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, JoinError> {
    let late = || Err(tonic::Status::deadline_exceeded("no answer in time"));
    let answer = tokio::time::timeout(REQUEST_LIMIT, call)
        .await
        .unwrap_or_else(|_| late());
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| JoinError::Request {
            address: door.address.to_string(),
            doing,
            status: Box::new(status),
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use mintmark_identity::entropy::SeededEntropy;
    use mintmark_identity::statement::sign_statement;

    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    use super::*;
    use crate::authority::trust_domain_key::TrustDomainKey;

    const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    struct Fixture {
        door: Door,
        key: TrustDomainKey,
    }

    fn fixture() -> Fixture {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let key = TrustDomainKey::generate(&trust_domain, NOW, &SeededEntropy::new(1)).unwrap();
        let pin = pin(&X509Authority::parse(key.certificate()).unwrap()).unwrap();
        let address = Address::parse("127.0.0.1:8081").unwrap();
        Fixture {
            door: Door {
                address,
                pin,
                trust_domain,
            },
            key,
        }
    }

    fn answer(key: &TrustDomainKey, change: impl FnOnce(&mut Statement)) -> GetStatementResponse {
        let mut statement = Statement {
            trust_domain: "example.org".into(),
            bundle_document: br#"{"keys":[]}"#.to_vec(),
            time_ms: NOW.unix_millis(),
            nonce: vec![7; 32],
            ..Statement::default()
        };
        change(&mut statement);
        let statement = statement.encode_to_vec();
        let signatures = sign_statement(key.key(), &statement).unwrap();
        GetStatementResponse {
            statement,
            native_signature: signatures.native,
            alternative_signature: signatures.alternative,
            trust_domain_key_certificate: key.certificate().to_vec(),
        }
    }

    /// An own key's request, and the place number 2 that a cluster under `key` gives it.
    fn place(key: &TrustDomainKey, spki: &[u8]) -> JoinResponse {
        let name = PeerName {
            trust_domain: TrustDomain::parse("example.org").unwrap(),
            epoch: 1,
            node_id: 2,
        };
        let peer_certificate = key.certify_peer(&name, spki, NOW, &SeededEntropy::new(3));
        JoinResponse {
            node_id: 2,
            cluster_id: vec![9; 16],
            trust_domain: "example.org".into(),
            peer_certificate: peer_certificate.unwrap(),
            trust_domain_key_certificate: key.certificate().to_vec(),
            epoch: 1,
            ..JoinResponse::default()
        }
    }

    #[test]
    fn a_place_counts_only_under_the_pinned_key_and_for_our_own() {
        let (f, other) = (fixture(), fixture_key());
        let own = KeyPair::generate().unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&own)
            .unwrap();
        let csr = csr.der().to_vec();
        let spki = own.subject_public_key_info();
        let check = |answer: &JoinResponse| check_place(&f.door, &[9; 16], &csr, answer, NOW);
        let good = place(&f.key, &spki);
        check(&good).unwrap();
        let foreign = KeyPair::generate().unwrap().subject_public_key_info();
        for (bad, why) in [
            (place(&other, &spki), "another key made it"),
            (
                JoinResponse {
                    trust_domain_key_certificate: f.key.certificate().to_vec(),
                    ..place(&other, &spki)
                },
                "another key made the certificate",
            ),
            (place(&f.key, &foreign), "another's key"),
            (
                JoinResponse {
                    node_id: 3,
                    ..good.clone()
                },
                "another number",
            ),
            (
                JoinResponse {
                    epoch: 2,
                    ..good.clone()
                },
                "another epoch",
            ),
            (
                JoinResponse {
                    cluster_id: vec![8; 16],
                    ..good.clone()
                },
                "another cluster",
            ),
            (
                JoinResponse {
                    trust_domain: "other.test".into(),
                    ..good.clone()
                },
                "another trust domain",
            ),
        ] {
            let refused = check(&bad).unwrap_err();
            assert!(matches!(refused, JoinError::Place { .. }), "{why}");
        }
    }

    #[test]
    fn a_fresh_statement_of_the_pinned_key_is_believed() {
        let f = fixture();
        assert!(believe(&f.door, &answer(&f.key, |_| {}), &[7; 32], NOW).is_ok());
    }

    #[test]
    fn replayed_foreign_and_stale_statements_are_not() {
        let f = fixture();
        let refuse = |answer: GetStatementResponse, nonce: &[u8], now| {
            believe(&f.door, &answer, nonce, now).unwrap_err()
        };
        refuse(answer(&f.key, |_| {}), &[8; 32], NOW);
        refuse(
            answer(&f.key, |s| s.trust_domain = "other.test".into()),
            &[7; 32],
            NOW,
        );
        let later = NOW.saturating_add(STATEMENT_AGE_MAX + Duration::from_secs(1));
        refuse(answer(&f.key, |_| {}), &[7; 32], later);
        let earlier = NOW.saturating_sub(STATEMENT_AGE_MAX + Duration::from_secs(1));
        refuse(answer(&f.key, |_| {}), &[7; 32], earlier);
        refuse(
            answer(&f.key, |s| s.bundle_document = b"{".to_vec()),
            &[7; 32],
            NOW,
        );
    }

    #[test]
    fn a_statement_by_another_key_or_with_one_bad_signature_is_not() {
        let f = fixture();
        let other = fixture_key();
        assert!(matches!(
            believe(&f.door, &answer(&other, |_| {}), &[7; 32], NOW),
            Err(JoinError::Statement {
                cause: StatementError::OtherKey { .. },
                ..
            })
        ));
        for half in [true, false] {
            let mut broken = answer(&f.key, |_| {});
            let signature = if half {
                &mut broken.native_signature
            } else {
                &mut broken.alternative_signature
            };
            let last = signature.last_mut().unwrap();
            *last ^= 1;
            assert!(
                believe(&f.door, &broken, &[7; 32], NOW).is_err(),
                "native {half}"
            );
        }
    }

    fn fixture_key() -> TrustDomainKey {
        fixture().key
    }
}
