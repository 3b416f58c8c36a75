//! Letting a server in.
//!
//! Always: limits come first, then the proof of possession of the peer key; the token is consumed for
//! that very key by one command; the peer certificate names the id that the log assigned. A reply that
//! was lost can be asked for again by the same key.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use mintmark_identity::entropy::draw_token;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::statement::pin;
use mintmark_identity::svid::x509::peer::PeerName;
use mintmark_identity::svid::x509::{VerifiedCsr, X509Authority};
use mintmark_proto::mintmark::cluster::v1 as wire;
use mintmark_proto::mintmark::raft::v1::actor::Kind as ActorKind;
use mintmark_proto::mintmark::raft::v1::{Actor, AdmitServer, CreateJoinToken, command};
use mintmark_proto::mintmark::state::v1::{JoinToken, Server, WrappedDataKey};
use mintmark_runtime::failpoint::{Step, reach};
use mintmark_runtime::network::Address;

use crate::api::Shared;
use crate::api::status::ApiError;
use crate::authority::keyring::{KeyringError, SealedRecord};
use crate::state::State;
use crate::vault::wrap::{VaultPublicKey, WrapContext};

/// Longest and shortest life of a server token.
const TOKEN_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
const TOKEN_TTL_DEFAULT: Duration = Duration::from_secs(600);
/// Length of a store's incarnation.
const INCARNATION_LENGTH: usize = 16;
/// Longest token that is looked at.
const TOKEN_MAX: usize = 256;

/// Makes a token that admits one server.
///
/// # Errors
/// When the cluster does not take it.
pub async fn create_token(
    services: &Shared,
    actor: Actor,
    ttl_seconds: u64,
    idempotency: Option<[u8; 16]>,
) -> Result<wire::CreateServerTokenResponse, ApiError> {
    let ttl = match ttl_seconds {
        0 => TOKEN_TTL_DEFAULT,
        seconds => Duration::from_secs(seconds),
    };
    if ttl > TOKEN_TTL_MAX {
        return Err(ApiError::invalid(
            "ttl_seconds",
            format!("is more than {} s", TOKEN_TTL_MAX.as_secs()),
        ));
    }
    let (alias, pin) = services.consensus.read(server_identity)?;
    let token = draw_token(&*services.host.entropy);
    let now = services.host.clock.now();
    let expires_at_ms = now.saturating_add(ttl).unix_millis();
    let record = JoinToken {
        token_sha256: sha256(token.as_bytes()),
        expires_at_ms,
        // The servers' own ID marks a token for servers: no agent can use it.
        alias_spiffe_id: alias.to_string(),
        created_at_ms: now.unix_millis(),
        ..JoinToken::default()
    };
    let body = CreateJoinToken {
        token: Some(record),
        alias_entry: None,
    };
    services
        .propose(actor, command::Body::CreateJoinToken(body), idempotency)
        .await?;
    Ok(wire::CreateServerTokenResponse {
        token,
        pin,
        expires_at_ms,
    })
}

fn server_identity(state: &State) -> Result<(SpiffeId, Vec<u8>), ApiError> {
    let missing = || ApiError::NotReady("no cluster yet");
    let domain = state.trust_domain().ok_or_else(missing)?;
    let key = state.trust_domain_key().ok_or_else(missing)?;
    let authority = X509Authority::parse(&key.certificate)
        .map_err(|e| ApiError::Internal(format!("the trust-domain key's certificate: {e}")))?;
    let pin = pin(&authority).map_err(|e| ApiError::Internal(e.to_string()))?;
    Ok((SpiffeId::server_id(domain), pin.to_vec()))
}

/// A request to join, checked.
struct Candidate {
    server: Server,
    spki: Vec<u8>,
    vault_key: VaultPublicKey,
    token_sha256: Vec<u8>,
}

impl Candidate {
    fn check(request: wire::JoinRequest) -> Result<Self, ApiError> {
        if request.token.is_empty() || request.token.len() > TOKEN_MAX {
            return Err(ApiError::invalid("token", "is missing or too long"));
        }
        if request.incarnation.len() != INCARNATION_LENGTH {
            return Err(ApiError::invalid("incarnation", "does not have 16 bytes"));
        }
        let address = |field, text: &str| {
            Address::parse(text)
                .map(|_| ())
                .map_err(|e| ApiError::invalid(field, e))
        };
        address("peer_address", &request.peer_address)?;
        address("api_address", &request.api_address)?;
        let vault_key = VaultPublicKey::parse(&request.vault_public_key)
            .map_err(|e| ApiError::invalid("vault_public_key", e))?;
        let csr = VerifiedCsr::verify(&request.peer_csr).map_err(ApiError::Csr)?;
        Ok(Self {
            token_sha256: sha256(request.token.as_bytes()),
            spki: csr.public_key_spki().to_vec(),
            server: Server {
                name: request.name,
                incarnation: request.incarnation,
                peer_address: request.peer_address,
                api_address: request.api_address,
                peer_spki_sha256: csr.spki_sha256().to_vec(),
                vault_public_key: request.vault_public_key,
                issuing: true,
                ..Server::default()
            },
            vault_key,
        })
    }
}

/// What admission needs of the state.
struct Cluster {
    id: [u8; 16],
    epoch: u64,
    trust_domain: mintmark_identity::trust_domain::TrustDomain,
    key_certificate: Vec<u8>,
    key: SealedRecord,
    data_key: WrappedDataKey,
}

impl Cluster {
    fn read(state: &State, node_id: u64) -> Result<Self, ApiError> {
        let missing = || ApiError::NotReady("no cluster yet");
        let key = state.trust_domain_key().ok_or_else(missing)?;
        let data_key = state.wrapped_data_key(node_id);
        Ok(Self {
            id: state.cluster_id().ok_or_else(missing)?,
            epoch: state.epoch(),
            trust_domain: state.trust_domain().ok_or_else(missing)?.clone(),
            key_certificate: key.certificate.clone(),
            key: SealedRecord::find(state, node_id, &key.vault_record)?,
            data_key: data_key.ok_or(KeyringError::NotInitialized)?.clone(),
        })
    }
}

/// Admits a server. The caller has been limited by its address already.
///
/// # Errors
/// When the request is wrong, the token is, or this server is sealed.
pub async fn join(
    services: &Shared,
    request: wire::JoinRequest,
) -> Result<wire::JoinResponse, ApiError> {
    let candidate = Candidate::check(request)?;
    let own = services.keyring.node_id();
    let cluster = services.consensus.read(|state| Cluster::read(state, own))?;
    let wrapped = wrap(services, &cluster, &candidate.vault_key)?;
    let nobody = Actor {
        kind: ActorKind::Nobody.into(),
        ..Actor::default()
    };
    let admit = AdmitServer {
        server: Some(candidate.server.clone()),
        join_token_sha256: candidate.token_sha256.clone(),
        wrapped_data_key: Some(wrapped),
    };
    reach(Step::AdmissionWrapped);
    let admitted = services
        .propose(nobody, command::Body::AdmitServer(admit), None)
        .await?;
    let node_id = admitted.result.node_id;
    reach(Step::AdmissionCommitted);
    let certificate = certify(services, &cluster, &candidate, node_id)?;
    record_certificate(services, candidate, node_id, &certificate).await?;
    reach(Step::AdmissionRecorded);
    let servers = services
        .consensus
        .read(|state| state.servers().cloned().collect());
    Ok(wire::JoinResponse {
        node_id,
        cluster_id: cluster.id.to_vec(),
        trust_domain: cluster.trust_domain.to_string(),
        peer_certificate: certificate,
        trust_domain_key_certificate: cluster.key_certificate,
        epoch: cluster.epoch,
        servers,
    })
}

fn wrap(
    services: &Shared,
    cluster: &Cluster,
    recipient: &VaultPublicKey,
) -> Result<WrappedDataKey, ApiError> {
    let data_key = services.keyring.data_key(&cluster.id, &cluster.data_key)?;
    let context = WrapContext {
        cluster_id: &cluster.id,
        version: cluster.data_key.version,
    };
    let wrapped = recipient
        .wrap(&context, &data_key, &*services.host.entropy)
        .map_err(|e| ApiError::invalid("vault_public_key", e))?;
    Ok(WrappedDataKey {
        node_id: 0,
        version: cluster.data_key.version,
        wrapped,
    })
}

fn certify(
    services: &Shared,
    cluster: &Cluster,
    candidate: &Candidate,
    node_id: u64,
) -> Result<Vec<u8>, ApiError> {
    let name = PeerName {
        trust_domain: cluster.trust_domain.clone(),
        epoch: cluster.epoch,
        node_id,
    };
    let key = services
        .keyring
        .trust_domain_key(&cluster.key_certificate, &cluster.key)?;
    let now = services.host.clock.now();
    key.certify_peer(&name, &candidate.spki, now, &*services.host.entropy)
        .map_err(|e| ApiError::Internal(format!("the peer certificate: {e}")))
}

async fn record_certificate(
    services: &Shared,
    candidate: Candidate,
    node_id: u64,
    certificate: &[u8],
) -> Result<(), ApiError> {
    let server = Server {
        node_id,
        peer_certificate: certificate.to_vec(),
        ..candidate.server
    };
    let actor = Actor {
        kind: ActorKind::Server.into(),
        node_id: services.keyring.node_id(),
        ..Actor::default()
    };
    let admit = AdmitServer {
        server: Some(server),
        ..AdmitServer::default()
    };
    services
        .propose(actor, command::Body::AdmitServer(admit), None)
        .await?;
    Ok(())
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}
