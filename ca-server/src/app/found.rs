//! Making a cluster: its keys, and its first command.
//!
//! Always: the keys are sealed before anything of them is proposed, and a start that was interrupted
//! begins anew, because nothing of a cluster is known to anybody before its first command is committed.
//!
//! Not here: the first authorities, which the rotation job makes.

use mintmark_identity::entropy::{draw_bytes, draw_secret};
use mintmark_identity::secret::SecretBytes;
use mintmark_identity::statement::pin;
use mintmark_identity::svid::x509::X509Authority;
use mintmark_identity::svid::x509::peer::PeerName;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_identity::validity::TtlPolicy;
use mintmark_proto::mintmark::raft::v1::{Actor, InitializeCluster, Refusal, actor, command};
use mintmark_proto::mintmark::state::v1::{
    LogKey, Server, Settings, TrustDomainKey as KeyRecord, VaultRecord, WrappedDataKey,
};
use mintmark_runtime::cause::chain;
use mintmark_runtime::host::Host;
use mintmark_tlog::note::NoteSigner;

use super::error::StartError;
use super::place::PeerKey;
use crate::Consensus;
use crate::authority::trust_domain_key::{TrustDomainKey, VAULT_RECORD};
use crate::config::Config;
use crate::vault::seal::SealKey;
use crate::vault::seal_record;
use crate::vault::wrap::{VaultPublicKey, WrapContext};

/// The first server.
pub const FOUNDER: u64 = 1;
/// The first epoch.
const EPOCH: u64 = 1;
/// The first version of the data key.
const DATA_KEY_VERSION: u32 = 1;
/// Vault record of the log's key.
const LOG_KEY_RECORD: &str = "log-key";
/// Bytes of an Ed25519 seed.
const SEED_BYTES: usize = 32;

/// What the founder is called and where it is reached.
#[derive(Debug, Clone)]
pub struct Founder {
    /// Tells its stores from those of one that was wiped.
    pub incarnation: [u8; 16],
    /// Where peers reach it.
    pub peer_address: String,
    /// Where agents reach it.
    pub api_address: String,
}

impl Founder {
    fn record(&self, config: &Config, peer_key: &PeerKey) -> Server {
        Server {
            node_id: FOUNDER,
            name: config.name.clone(),
            incarnation: self.incarnation.to_vec(),
            peer_address: self.peer_address.clone(),
            api_address: self.api_address.clone(),
            peer_spki_sha256: peer_key.verified().spki_sha256().to_vec(),
            issuing: true,
            ..Server::default()
        }
    }
}

/// A cluster that is about to be made.
pub struct Foundation {
    /// Certificate of its trust-domain key.
    pub key_certificate: Vec<u8>,
    /// The founder's peer certificate.
    pub peer_certificate: Vec<u8>,
    body: InitializeCluster,
}

impl Foundation {
    /// Makes and seals the keys.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn lay(
        host: &Host,
        config: &Config,
        cluster_id: [u8; 16],
        founder: &Founder,
        peer_key: &PeerKey,
        vault_key: &VaultPublicKey,
    ) -> Result<Self, StartError> {
        let failed = |error: &dyn std::error::Error| StartError::Init(chain(error));
        let (now, entropy) = (host.clock.now(), host.entropy.as_ref());
        let key = TrustDomainKey::generate(&config.trust_domain, now, entropy)
            .map_err(|error| failed(&error))?;
        let key_certificate = key.certificate().to_vec();
        let name = PeerName {
            trust_domain: config.trust_domain.clone(),
            epoch: EPOCH,
            node_id: FOUNDER,
        };
        let spki = peer_key.verified().public_key_spki();
        let peer_certificate = key
            .certify_peer(&name, spki, now, entropy)
            .map_err(|error| failed(&error))?;
        let authority = X509Authority::parse(&key_certificate).map_err(|error| failed(&error))?;
        let pin = pin(&authority).map_err(|error| failed(&error))?;

        let data_key = SealKey::draw(entropy);
        let seal = |name: &str, bytes: &[u8]| {
            seal_record(
                &data_key,
                DATA_KEY_VERSION,
                &cluster_id,
                name,
                bytes,
                entropy,
            )
            .map_err(|error| StartError::Init(chain(&error)))
        };
        let key_bytes = key.key().to_bytes().map_err(|error| failed(&error))?;
        let (log_key, log_record) = log_key(host, &config.trust_domain, &seal)?;
        let context = WrapContext {
            cluster_id: &cluster_id,
            version: DATA_KEY_VERSION,
        };
        let wrapped = vault_key
            .wrap(&context, &data_key, entropy)
            .map_err(|error| failed(&error))?;
        let body = InitializeCluster {
            trust_domain: config.trust_domain.to_string(),
            cluster_id: cluster_id.to_vec(),
            settings: Some(settings(config)),
            trust_domain_key: Some(KeyRecord {
                certificate: key_certificate.clone(),
                spki_sha256: pin.to_vec(),
                vault_record: VAULT_RECORD.to_owned(),
            }),
            log_key: Some(log_key),
            first_server: Some(Server {
                peer_certificate: peer_certificate.clone(),
                vault_public_key: vault_key.as_bytes().to_vec(),
                ..founder.record(config, peer_key)
            }),
            vault_records: vec![seal(VAULT_RECORD, &key_bytes)?, log_record],
            wrapped_data_keys: vec![WrappedDataKey {
                node_id: FOUNDER,
                version: DATA_KEY_VERSION,
                wrapped,
            }],
            epoch: EPOCH,
        };
        Ok(Self {
            key_certificate,
            peer_certificate,
            body,
        })
    }

    /// Writes the first command.
    ///
    /// # Errors
    /// When the log does not take it or the state refuses it.
    pub async fn propose(self, consensus: &Consensus) -> Result<(), StartError> {
        let actor = Actor {
            kind: actor::Kind::Server.into(),
            node_id: FOUNDER,
            ..Actor::default()
        };
        let body = command::Body::InitializeCluster(self.body);
        let proposed = consensus.propose(body, actor, None).await;
        let result = proposed
            .map_err(|error| StartError::Init(chain(&error)))?
            .result;
        match result.refusal() {
            Refusal::Unspecified => Ok(()),
            _ => Err(StartError::Init(result.detail)),
        }
    }
}

/// Seals a vault record of this name.
type Seal<'a> = dyn Fn(&str, &[u8]) -> Result<VaultRecord, StartError> + 'a;

fn log_key(
    host: &Host,
    trust_domain: &TrustDomain,
    seal: &Seal<'_>,
) -> Result<(LogKey, VaultRecord), StartError> {
    let entropy = host.entropy.as_ref();
    // Two logs of one trust domain never share an origin, whoever made them.
    let suffix = hex::encode(draw_bytes::<4>(entropy));
    let origin = format!("{trust_domain}/audit/{EPOCH}-{suffix}");
    let seed: SecretBytes = draw_secret(entropy, SEED_BYTES);
    let unusable = || StartError::Init("a log key cannot be made".to_owned());
    let bytes: &[u8; SEED_BYTES] = seed.expose().try_into().map_err(|_| unusable())?;
    let signer =
        NoteSigner::from_seed(&origin, bytes).map_err(|error| StartError::Init(chain(&error)))?;
    let key = LogKey {
        public_key: signer.verifier().public_key().to_vec(),
        origin,
        vault_record: LOG_KEY_RECORD.to_owned(),
    };
    Ok((key, seal(LOG_KEY_RECORD, seed.expose())?))
}

/// The settings that a new cluster begins with.
fn settings(config: &Config) -> Settings {
    // The configuration was checked by resolving this very request.
    let ttl = TtlPolicy::resolve(config.ttl).unwrap_or_default();
    Settings {
        ca_ttl_seconds: ttl.ca.as_secs(),
        x509_svid_ttl_seconds: ttl.x509_svid.as_secs(),
        jwt_svid_ttl_seconds: ttl.jwt_svid.as_secs(),
        agent_svid_ttl_seconds: ttl.agent_svid.as_secs(),
        pq: config.pq.unwrap_or_default().into(),
        jwt_issuer: config.jwt_issuer.clone().unwrap_or_default(),
        development: config.development,
        revision: 0,
    }
}
