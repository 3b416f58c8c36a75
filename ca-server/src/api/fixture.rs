//! The services of one server in memory, for tests.
//!
//! Consensus is real, with one member. [`Fixture::new`] signs nothing, because no key is sealed for it;
//! [`Fixture::issuing`] has real keys, and its rotation job makes real authorities.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use mintmark_identity::clock::{Clock, Timestamp};
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::mintmark::raft::v1::{
    Actor, AttestNode, CommandResult, CreateJoinToken, InitializeCluster, Refusal, actor, command,
};
use mintmark_proto::mintmark::state::v1::{
    AuthorityKind, JoinToken, LogKey, PqMode, Selector, Server, Settings,
    TrustDomainKey as KeyRecord, WrappedDataKey,
};
use mintmark_runtime::Host;
use mintmark_runtime::disk::MODE_DIRECTORY;
use mintmark_runtime::grpc::ConnectInfo;
use mintmark_runtime::network::Peer;
use mintmark_runtime::task::Tasks;
use mintmark_runtime::testing::{ElapsedClock, MemoryHost, MemoryProcess};
use mintmark_runtime::tls::ClientConfigSource;
use mintmark_tlog::note::NoteSigner;
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use tonic::Request;

use super::resume::Nonces;
use super::{Limits, Services, Shared};
use crate::Consensus;
use crate::audit::AuditLog;
use crate::audit::committed::CommittedLog;
use crate::audit::denials::Denials;
use crate::authority::keyring::Keyring;
use crate::authority::rotation::Rotation;
use crate::authority::statement::trust_domain_pin;
use crate::authority::trust_domain_key::{TrustDomainKey, VAULT_RECORD};
use crate::fanout::Hub;
use crate::fanout::acknowledgements::Acknowledgements;
use crate::issuance::Issuer;
use crate::issuance::batch::Batcher;
use crate::metrics::Metrics;
use crate::raft::{ClusterId, NodeId, PeerAuth, RaftConfig};
use crate::vault::Vault;
use crate::vault::kek::KekSource;
use crate::vault::seal::SealKey;
use crate::vault::seal_record;
use crate::vault::wrap::WrapContext;

/// 2026-11-24T11:00:00Z.
pub(crate) const START: Timestamp = Timestamp::from_unix_millis(1_795_518_000_000);
const ORIGIN: &str = "example.org/audit/1";
const FOLDER: &str = "/data";

#[derive(Debug)]
struct NoPeers;

impl PeerAuth for NoPeers {
    fn authorize(&self, _node: NodeId, _certificates: &[CertificateDer<'static>]) -> bool {
        false
    }

    fn client_tls(&self, _node: NodeId) -> Option<ClientConfigSource> {
        None
    }
}

/// A server of the trust domain `example.org`.
pub(crate) struct Fixture {
    pub(crate) services: Services,
    pub(crate) clock: Arc<WrongClock>,
}

/// A clock that may be set wrong.
#[derive(Debug)]
pub(crate) struct WrongClock {
    right: ElapsedClock,
    seconds: AtomicI64,
}

impl WrongClock {
    /// By how many seconds it is ahead from now on.
    pub(crate) fn set(&self, seconds: i64) {
        self.seconds.store(seconds, Ordering::SeqCst);
    }
}

impl Clock for WrongClock {
    fn now(&self) -> Timestamp {
        let wrong = self.seconds.load(Ordering::SeqCst) * 1_000;
        Timestamp::from_unix_millis(self.right.now().unix_millis() + wrong)
    }
}

impl Fixture {
    /// A server that administers and does not sign.
    pub(crate) async fn new() -> Self {
        Self::founded(|_, _| initialize()).await
    }

    /// A server that signs.
    pub(crate) async fn issuing(hybrid: bool) -> Self {
        Self::issuing_with(|settings| {
            settings.pq = if hybrid { PqMode::Hybrid } else { PqMode::Off }.into();
        })
        .await
    }

    /// A server that signs, with other settings.
    pub(crate) async fn issuing_with(change: impl FnOnce(&mut Settings)) -> Self {
        let found = |host: &Host, vault: &Vault| {
            let mut body = initialize_with_keys(host, vault);
            change(body.settings.get_or_insert_default());
            body
        };
        let fixture = Self::founded(found).await;
        let mut applied = fixture.services.consensus.applied();
        let signs = |kind| {
            let services = &fixture.services;
            services
                .consensus
                .read(|state| state.active_authority(kind).is_some())
        };
        let ready = async {
            while !(signs(AuthorityKind::X509) && signs(AuthorityKind::Jwt)) {
                applied.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ready)
            .await
            .expect("authorities are made");
        fixture
    }

    async fn founded(make: impl FnOnce(&Host, &Vault) -> InitializeCluster) -> Self {
        let memory = MemoryHost::new(START, 7);
        let clock = Arc::new(WrongClock {
            right: memory.clock,
            seconds: AtomicI64::new(0),
        });
        let host = Host {
            clock: clock.clone(),
            ..memory.host()
        };
        let tasks = Tasks::new();
        host.disk
            .create_dir_all(Path::new(FOLDER), MODE_DIRECTORY)
            .unwrap();
        let config = RaftConfig::new(1, ClusterId([9; 16]), "one:7000", FOLDER);
        let consensus = Consensus::open(&host, &config, Arc::new(NoPeers), &tasks)
            .await
            .unwrap();
        consensus.bootstrap().await.unwrap();
        let kek = KekSource::File(Path::new("/data/kek").to_owned());
        let file = Path::new("/data/vault");
        let vault = Vault::open_or_create(&*host.disk, file, kek, &*host.entropy).unwrap();
        let body = make(&host, &vault);
        let keyring = Arc::new(Keyring::new(Arc::new(vault), 1));
        let leaves = Arc::new(CommittedLog::new(consensus.clone()));
        let audit = AuditLog::start(&host, leaves, Path::new(FOLDER), &tasks)
            .await
            .unwrap();
        let batcher = Batcher::start(consensus.clone(), 1, &tasks);
        let issuer = Issuer::new(
            host.clone(),
            consensus.clone(),
            Arc::clone(&keyring),
            batcher,
        );
        let rotation = Rotation::start(
            host.clone(),
            consensus.clone(),
            Arc::clone(&keyring),
            &tasks,
        );
        let services = Arc::new(Shared {
            issuer,
            hub: Hub::start(consensus.clone(), &tasks),
            acknowledgements: Acknowledgements::start(consensus.clone(), 1, &tasks),
            denials: Denials::start(consensus.clone(), 1, &tasks),
            nonces: Nonces::default(),
            limits: Limits::default(),
            metrics: Metrics::default(),
            started_at: host.clock.now(),
            host,
            consensus,
            keyring,
            audit,
            rotation,
            tasks,
        });
        let fixture = Self { services, clock };
        fixture.apply(command::Body::InitializeCluster(body)).await;
        fixture
    }

    /// Applies a command of the local administrator's, which must be accepted.
    pub(crate) async fn apply(&self, body: command::Body) -> CommandResult {
        let result = self.propose(actor::Kind::Local, body).await;
        assert_eq!(result.refusal(), Refusal::Unspecified, "{}", result.detail);
        result
    }

    /// Applies a command of somebody's.
    pub(crate) async fn propose(&self, kind: actor::Kind, body: command::Body) -> CommandResult {
        let actor = Actor {
            kind: kind.into(),
            ..Actor::default()
        };
        self.services
            .consensus
            .propose(body, actor, None)
            .await
            .unwrap()
            .result
    }

    /// Attests an agent by join token.
    pub(crate) async fn join(&self, token: &str, selectors: &[(&str, &str)]) -> SpiffeId {
        let agent = SpiffeId::parse(&format!(
            "spiffe://example.org/spire/agent/join_token/{token}"
        ));
        let agent = agent.unwrap();
        let token_sha256 = Sha256::digest(token.as_bytes()).to_vec();
        let expires_at_ms = START.unix_millis() + 600_000;
        let made = JoinToken {
            token_sha256: token_sha256.clone(),
            expires_at_ms,
            ..JoinToken::default()
        };
        let made = CreateJoinToken {
            token: Some(made),
            alias_entry: None,
        };
        self.apply(command::Body::CreateJoinToken(made)).await;
        let selector = |(kind, value): &(&str, &str)| Selector {
            kind: (*kind).to_owned(),
            value: (*value).to_owned(),
        };
        let attest = command::Body::AttestNode(AttestNode {
            agent_id: agent.to_string(),
            attestation_type: "join_token".into(),
            selectors: selectors.iter().map(selector).collect(),
            csr_spki_sha256: Sha256::digest(agent.as_str()).to_vec(),
            join_token_sha256: token_sha256,
            ..AttestNode::default()
        });
        let result = self.propose(actor::Kind::Nobody, attest).await;
        assert_eq!(result.refusal(), Refusal::Unspecified, "{}", result.detail);
        agent
    }
}

fn initialize() -> InitializeCluster {
    let signer = NoteSigner::from_seed(ORIGIN, &[7; 32]).unwrap();
    InitializeCluster {
        trust_domain: "example.org".into(),
        cluster_id: vec![9; 16],
        settings: Some(Settings {
            ca_ttl_seconds: 86_400,
            x509_svid_ttl_seconds: 3_600,
            jwt_svid_ttl_seconds: 300,
            agent_svid_ttl_seconds: 3_600,
            ..Settings::default()
        }),
        trust_domain_key: Some(KeyRecord {
            certificate: vec![1, 2, 3],
            spki_sha256: vec![4; 32],
            vault_record: "tdk".into(),
        }),
        log_key: Some(LogKey {
            public_key: signer.verifier().public_key().to_vec(),
            origin: ORIGIN.into(),
            vault_record: "log".into(),
        }),
        first_server: Some(Server {
            node_id: 1,
            name: "one".into(),
            incarnation: vec![5; 16],
            peer_address: "one:7000".into(),
            api_address: "one:8081".into(),
            peer_spki_sha256: vec![6; 32],
            peer_certificate: vec![1],
            vault_public_key: vec![2],
            issuing: true,
            admitted_at_ms: 0,
        }),
        epoch: 1,
        ..InitializeCluster::default()
    }
}

/// As [`initialize`], with keys that are sealed for this server.
fn initialize_with_keys(host: &Host, vault: &Vault) -> InitializeCluster {
    let entropy = host.entropy.as_ref();
    let mut body = initialize();
    let cluster_id: [u8; 16] = body.cluster_id.clone().try_into().unwrap();
    let data_key = SealKey::draw(entropy);
    let seal = |name: &str, bytes: &[u8]| {
        seal_record(&data_key, 1, &cluster_id, name, bytes, entropy).unwrap()
    };
    let domain = TrustDomain::parse("example.org").unwrap();
    let key = TrustDomainKey::generate(&domain, START, entropy).unwrap();
    body.trust_domain_key = Some(KeyRecord {
        certificate: key.certificate().to_vec(),
        spki_sha256: trust_domain_pin(key.certificate()).unwrap().to_vec(),
        vault_record: VAULT_RECORD.into(),
    });
    body.vault_records = vec![
        seal(VAULT_RECORD, &key.key().to_bytes().unwrap()),
        seal("log", &[7; 32]),
    ];
    let context = WrapContext {
        cluster_id: &cluster_id,
        version: 1,
    };
    let wrapped = vault
        .public_key()
        .wrap(&context, &data_key, entropy)
        .unwrap();
    body.wrapped_data_keys = vec![WrappedDataKey {
        node_id: 1,
        version: 1,
        wrapped,
    }];
    if let Some(server) = &mut body.first_server {
        server.vault_public_key = vault.public_key().as_bytes().to_vec();
    }
    body
}

/// A request over the private socket.
pub(crate) fn local<T>(message: T) -> Request<T> {
    from(message, Peer::Unix(MemoryProcess::new(1, 0, 0).peer()))
}

/// A request from somewhere, without a certificate.
pub(crate) fn remote<T>(message: T) -> Request<T> {
    from(
        message,
        Peer::Tcp(std::net::SocketAddr::from(([192, 0, 2, 1], 40_000))),
    )
}

fn from<T>(message: T, peer: Peer) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(ConnectInfo {
        peer,
        peer_certificates: Arc::new([]),
        tls_exporter: None,
    });
    request
}

/// A request of whoever holds this certificate chain.
pub(crate) fn holder<T>(message: T, chain: &[Vec<u8>]) -> Request<T> {
    let mut request = remote(message);
    if let Some(info) = request.extensions_mut().get_mut::<ConnectInfo>() {
        info.peer_certificates = chain
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect();
    }
    request
}
