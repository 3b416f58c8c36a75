//! A cluster's state with a clock and short words for commands.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::sync::LazyLock;

use ca_server::state::{Applied, COMMAND_VERSION, State};
use mintmark_identity::clock::Timestamp;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::mintmark::audit::v1::Leaf;
use mintmark_proto::mintmark::raft::v1::actor::Kind;
use mintmark_proto::mintmark::raft::v1::command::Body;
use mintmark_proto::mintmark::raft::v1::intent::{
    AdminMint, AgentSubject, EntrySubject, Kind as IntentKind, ServerSubject, Subject,
};
use mintmark_proto::mintmark::raft::v1::{ActivateAuthority, ProveAuthority};
use mintmark_proto::mintmark::raft::v1::{
    Actor, AttestNode, Command, CommandResult, CreateEntries, InitializeCluster, Intent,
    IssueBatch, ItemResult, PrepareAuthority, PublishAuthority, Refusal, activate_authority,
};
use mintmark_proto::mintmark::state::v1::{
    Authority, AuthorityKind, Entry, LogKey, PqMode, Selector, Server, Settings, TrustDomainKey,
    VaultRecord,
};
use mintmark_tlog::note::NoteSigner;
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use sha2::{Digest as _, Sha256};

pub const TD: &str = "example.org";
pub const ORIGIN: &str = "example.org/audit/1";
/// 2026-11-24T11:00:00Z, in milliseconds.
pub const T0: i64 = 1_795_518_000_000;
pub const MINUTE: i64 = 60_000;
pub const HOUR: i64 = 60 * MINUTE;
pub const CA_TTL: i64 = 24 * HOUR;

/// Made-up key material: certificate and SPKI, of which tests need a few.
pub struct Material {
    pub certificate: Vec<u8>,
    pub spki: Vec<u8>,
}

static MATERIAL: LazyLock<Vec<Material>> = LazyLock::new(|| {
    (0..24)
        .map(|_| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            let certificate = params.self_signed(&key).unwrap().der().to_vec();
            use rcgen::PublicKeyData as _;
            Material {
                certificate,
                spki: key.subject_public_key_info(),
            }
        })
        .collect()
});

pub fn material(n: usize) -> &'static Material {
    &MATERIAL[n % MATERIAL.len()]
}

pub fn id(path: &str) -> String {
    format!("spiffe://{TD}{path}")
}

pub fn spiffe(path: &str) -> SpiffeId {
    SpiffeId::parse(&id(path)).unwrap()
}

pub fn sha(text: &str) -> Vec<u8> {
    Sha256::digest(text.as_bytes()).to_vec()
}

pub fn selector(text: &str) -> Selector {
    let (kind, value) = text.split_once(':').unwrap();
    Selector {
        kind: kind.into(),
        value: value.into(),
    }
}

pub fn selectors(texts: &[&str]) -> Vec<Selector> {
    let mut all: Vec<Selector> = texts.iter().map(|text| selector(text)).collect();
    all.sort_by(|a, b| (&a.kind, &a.value).cmp(&(&b.kind, &b.value)));
    all
}

pub fn entry(entry_id: &str, parent: &str, path: &str, with: &[&str]) -> Entry {
    Entry {
        id: entry_id.into(),
        spiffe_id: id(path),
        parent_id: id(parent),
        selectors: selectors(with),
        ..Entry::default()
    }
}

pub fn settings() -> Settings {
    Settings {
        ca_ttl_seconds: 24 * 3600,
        x509_svid_ttl_seconds: 3600,
        jwt_svid_ttl_seconds: 300,
        agent_svid_ttl_seconds: 3600,
        pq: PqMode::Off.into(),
        ..Settings::default()
    }
}

pub fn server(node_id: u64, name: &str) -> Server {
    Server {
        node_id,
        name: name.into(),
        incarnation: sha(name)[..16].to_vec(),
        peer_address: format!("{name}:7000"),
        api_address: format!("{name}:8081"),
        peer_spki_sha256: sha(&format!("peer {name}")),
        peer_certificate: vec![1],
        vault_public_key: vec![2],
        issuing: true,
        admitted_at_ms: 0,
    }
}

pub fn log_signer() -> NoteSigner {
    NoteSigner::from_seed(ORIGIN, &[7; 32]).unwrap()
}

pub fn initialize() -> InitializeCluster {
    InitializeCluster {
        trust_domain: TD.into(),
        cluster_id: vec![9; 16],
        settings: Some(settings()),
        trust_domain_key: Some(TrustDomainKey {
            certificate: vec![1, 2, 3],
            spki_sha256: sha("trust-domain key"),
            vault_record: "tdk".into(),
        }),
        log_key: Some(LogKey {
            public_key: log_signer().verifier().public_key().to_vec(),
            origin: ORIGIN.into(),
            vault_record: "log".into(),
        }),
        first_server: Some(server(1, "one")),
        vault_records: vec![record("log", 1)],
        wrapped_data_keys: Vec::new(),
        epoch: 1,
    }
}

pub fn record(name: &str, version: u32) -> VaultRecord {
    VaultRecord {
        name: name.into(),
        data_key_version: version,
        sealed: vec![0xee; 48],
    }
}

pub fn local() -> Actor {
    Actor {
        kind: Kind::Local.into(),
        ..Actor::default()
    }
}

pub fn nobody() -> Actor {
    Actor {
        kind: Kind::Nobody.into(),
        ..Actor::default()
    }
}

pub fn by_server(node_id: u64) -> Actor {
    Actor {
        kind: Kind::Server.into(),
        node_id,
        ..Actor::default()
    }
}

pub fn by_agent(path: &str) -> Actor {
    Actor {
        kind: Kind::Agent.into(),
        spiffe_id: id(path),
        ..Actor::default()
    }
}

pub fn by_admin(path: &str) -> Actor {
    Actor {
        kind: Kind::Admin.into(),
        spiffe_id: id(path),
        ..Actor::default()
    }
}

/// The path of an agent that joined with this token.
pub fn token_agent(token: &str) -> String {
    format!("/spire/agent/join_token/{token}")
}

/// State, log index and clock of a made-up cluster.
#[derive(Clone)]
pub struct Cluster {
    pub state: State,
    pub index: u64,
    pub now: i64,
    pub leaves: Vec<Vec<u8>>,
    pub serials: u64,
}

impl Cluster {
    /// Nothing applied yet.
    pub fn blank() -> Self {
        Self {
            state: State::new(),
            index: 0,
            now: T0,
            leaves: Vec::new(),
            serials: 0,
        }
    }

    /// Initialised, without authorities.
    pub fn new() -> Self {
        let mut cluster = Self::blank();
        cluster.accept(local(), Body::InitializeCluster(initialize()));
        cluster
    }

    /// With active authorities of X.509 (`x0`) and JWT (`j0`), and one agent,
    /// `/spire/agent/test/a`, with an SVID that has acknowledged the bundle.
    pub fn running() -> Self {
        let mut cluster = Self::new();
        cluster.start_authority("x0", AuthorityKind::X509, 0);
        cluster.start_authority("j0", AuthorityKind::Jwt, 1);
        cluster.join("/spire/agent/test/a", &["node:a"]);
        cluster
    }

    pub fn timestamp(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.now)
    }

    pub fn sleep(&mut self, millis: i64) {
        self.now += millis;
    }

    pub fn command(&self, actor: Actor, body: Body) -> Command {
        Command {
            version: COMMAND_VERSION,
            time_ms: self.now,
            actor: Some(actor),
            body: Some(body),
            ..Command::default()
        }
    }

    /// Applies any command at the next index and keeps its leaves.
    pub fn apply_command(&mut self, command: &Command) -> Applied {
        self.index += 1;
        let before = self.state.audit_size();
        assert_eq!(before, self.leaves.len() as u64, "every leaf was returned");
        let applied = self.state.apply(self.index, command);
        assert_eq!(applied.first_leaf_index, before);
        self.leaves.extend(applied.leaves.iter().cloned());
        assert_eq!(self.state.audit_size(), self.leaves.len() as u64);
        applied
    }

    pub fn apply(&mut self, actor: Actor, body: Body) -> Applied {
        let command = self.command(actor, body);
        self.apply_command(&command)
    }

    /// Applies a command that must be accepted, with all its items.
    pub fn accept(&mut self, actor: Actor, body: Body) -> Applied {
        let shown = format!("{body:?}");
        let applied = self.apply(actor, body);
        let result = &applied.result;
        assert_eq!(
            result.refusal(),
            Refusal::Unspecified,
            "{} of {shown}",
            result.detail
        );
        for item in &result.items {
            assert_eq!(
                item.refusal(),
                Refusal::Unspecified,
                "{} of {shown}",
                item.detail
            );
        }
        applied
    }

    /// Applies a command that must be refused as a whole, leaving one denial.
    pub fn refuse(&mut self, actor: Actor, body: Body, refusal: Refusal) -> CommandResult {
        let shown = format!("{body:?}");
        let before = self.without_traces();
        let applied = self.apply(actor, body);
        let result = applied.result.clone();
        assert_eq!(result.refusal(), refusal, "{} of {shown}", result.detail);
        assert!(!result.detail.is_empty(), "a refusal says why: {shown}");
        assert!(applied.events.is_empty(), "{:?}", applied.events);
        if refusal == Refusal::Stale {
            assert!(applied.leaves.is_empty(), "stale leaves no leaf");
        } else {
            let leaf = last_leaf(&applied);
            assert_eq!(leaf.decision, "denied");
            assert_eq!(leaf.reason, ca_server::state::refusal_code(refusal));
        }
        assert_eq!(
            self.without_traces(),
            before,
            "a refusal changes nothing: {shown}"
        );
        result
    }

    /// What the state says, without the audit tree and positions.
    fn without_traces(&self) -> mintmark_proto::mintmark::state::v1::Snapshot {
        let encoded = self.state.encode();
        let mut snapshot =
            mintmark_proto::mintmark::state::v1::Snapshot::decode(&*encoded).unwrap();
        snapshot.audit_frontier.clear();
        snapshot.recent_roots.clear();
        snapshot.idempotency.clear();
        snapshot.applied_index = 0;
        snapshot.command_time_ms = 0;
        snapshot
    }

    pub fn create(&mut self, entry: Entry) -> ItemResult {
        let body = Body::CreateEntries(CreateEntries {
            entries: vec![entry],
        });
        self.apply(local(), body).result.items.remove(0)
    }

    pub fn authority(&self, authority_id: &str, kind: AuthorityKind, n: usize) -> Authority {
        let material = material(n);
        Authority {
            id: authority_id.into(),
            kind: kind.into(),
            not_before_ms: self.now - 10_000,
            not_after_ms: self.now + CA_TTL,
            certificate: match kind {
                AuthorityKind::X509 => material.certificate.clone(),
                _ => Vec::new(),
            },
            public_key_spki: material.spki.clone(),
            ..Authority::default()
        }
    }

    pub fn prepare(&self, authority_id: &str, kind: AuthorityKind, n: usize) -> Body {
        Body::PrepareAuthority(PrepareAuthority {
            authority: Some(self.authority(authority_id, kind, n)),
            key: Some(record(&format!("authority/{authority_id}"), 1)),
            cold_start: false,
        })
    }

    pub fn start_authority(&mut self, authority_id: &str, kind: AuthorityKind, n: usize) {
        let prepare = self.prepare(authority_id, kind, n);
        self.accept(by_server(1), prepare);
        self.accept(by_server(1), publish(authority_id));
        self.accept(by_server(1), prove(authority_id, 1));
        let ground = match self.state.cold_start_needed(kind, self.timestamp()) {
            true => activate_authority::Ground::ColdStart,
            false => activate_authority::Ground::Acknowledged,
        };
        self.accept(by_server(1), activate(authority_id, ground));
    }

    pub fn attest(&self, path: &str, node_selectors: &[&str], key: &str) -> AttestNode {
        AttestNode {
            agent_id: id(path),
            attestation_type: path.split('/').nth(3).unwrap().into(),
            selectors: selectors(node_selectors),
            csr_spki_sha256: sha(key),
            join_token_sha256: Vec::new(),
            can_reattest: true,
            evidence_sha256: sha("evidence"),
        }
    }

    /// Attests an agent with key `<path> key`, gives it an SVID, acknowledges.
    pub fn join(&mut self, path: &str, node_selectors: &[&str]) {
        let attest = self.attest(path, node_selectors, &format!("{path} key"));
        self.accept(nobody(), Body::AttestNode(attest));
        let intent = self.agent_intent(path, &[], &format!("{path} key"));
        assert_eq!(self.issue(intent).refusal(), Refusal::Unspecified);
        let sequence = self.state.bundle_sequence();
        self.accept(by_server(1), acknowledge(path, sequence));
    }

    pub fn next_serial(&mut self) -> Vec<u8> {
        self.serials += 1;
        let mut serial = vec![0x11; 8];
        serial.extend_from_slice(&self.serials.to_be_bytes());
        serial
    }

    /// An X.509 intent that every rule allows, but for its subject.
    pub fn intent(&mut self, subject: Subject, spiffe_id: String) -> Intent {
        let second = self.now / 1000 * 1000;
        Intent {
            kind: IntentKind::X509.into(),
            subject: Some(subject),
            spiffe_id,
            requesting_agent: String::new(),
            spki_sha256: sha("workload key"),
            serial: self.next_serial(),
            svid_hash: sha("tbs"),
            profile_version: 1,
            authority_id: "x0".into(),
            not_before_ms: second - 10_000,
            not_after_ms: second + HOUR,
            audience_sha256: Vec::new(),
        }
    }

    pub fn entry_intent(&mut self, agent: &str, entry_id: &str) -> Intent {
        let entry_id_ = entry_id.parse().unwrap();
        let known = self.state.entry(&entry_id_).expect("the entry is there");
        let (revision, spiffe_id) = (known.revision, known.spiffe_id.to_string());
        let subject = Subject::Entry(EntrySubject {
            id: entry_id.into(),
            revision,
        });
        Intent {
            requesting_agent: id(agent),
            ..self.intent(subject, spiffe_id)
        }
    }

    pub fn agent_intent(&mut self, agent: &str, presented: &[u8], key: &str) -> Intent {
        let subject = Subject::Agent(AgentSubject {
            agent_id: id(agent),
            presented_serial: presented.to_vec(),
        });
        Intent {
            spki_sha256: sha(key),
            ..self.intent(subject, id(agent))
        }
    }

    pub fn server_intent(&mut self, node_id: u64) -> Intent {
        let subject = Subject::Server(ServerSubject { node_id });
        self.intent(subject, id("/spire/server"))
    }

    pub fn mint_intent(&mut self, path: &str) -> Intent {
        self.intent(Subject::AdminMint(AdminMint {}), id(path))
    }

    /// Issues one intent as a server's batch.
    pub fn issue(&mut self, intent: Intent) -> ItemResult {
        self.issue_by(by_server(1), intent)
    }

    pub fn issue_by(&mut self, actor: Actor, intent: Intent) -> ItemResult {
        let applied = self.apply(actor, batch(vec![intent]));
        assert_eq!(
            applied.result.refusal(),
            Refusal::Unspecified,
            "{}",
            applied.result.detail
        );
        applied.result.items[0].clone()
    }

    pub fn node(&self, path: &str) -> mintmark_proto::mintmark::state::v1::AttestedNode {
        self.state
            .attested_node(&spiffe(path))
            .expect("the agent is attested")
            .clone()
    }

    /// Every leaf so far, decoded.
    pub fn decoded_leaves(&self) -> Vec<Leaf> {
        self.leaves
            .iter()
            .map(|bytes| Leaf::decode(&**bytes).unwrap())
            .collect()
    }
}

pub fn batch(intents: Vec<Intent>) -> Body {
    Body::IssueBatch(IssueBatch { intents })
}

pub fn publish(authority_id: &str) -> Body {
    Body::PublishAuthority(PublishAuthority {
        authority_id: authority_id.into(),
    })
}

pub fn prove(authority_id: &str, node_id: u64) -> Body {
    let signature = vec![1; 70];
    Body::ProveAuthority(ProveAuthority {
        authority_id: authority_id.into(),
        node_id,
        signature,
    })
}

pub fn activate(authority_id: &str, ground: activate_authority::Ground) -> Body {
    Body::ActivateAuthority(ActivateAuthority {
        authority_id: authority_id.into(),
        ground: ground.into(),
    })
}

pub fn acknowledge(path: &str, sequence: u64) -> Body {
    acknowledge_by(path, sequence, true)
}

pub fn acknowledge_by(path: &str, sequence: u64, streams: bool) -> Body {
    use mintmark_proto::mintmark::raft::v1::AcknowledgeBundle;
    use mintmark_proto::mintmark::raft::v1::acknowledge_bundle::Acknowledgement;
    Body::AcknowledgeBundle(AcknowledgeBundle {
        acknowledgements: vec![Acknowledgement {
            agent_id: id(path),
            sequence,
            streams,
            version: "test".into(),
            ..Acknowledgement::default()
        }],
    })
}

/// The last leaf that a command appended.
pub fn last_leaf(applied: &Applied) -> Leaf {
    Leaf::decode(&**applied.leaves.last().expect("a leaf was appended")).unwrap()
}

/// All leaves that a command appended.
pub fn leaves(applied: &Applied) -> Vec<Leaf> {
    applied
        .leaves
        .iter()
        .map(|bytes| Leaf::decode(&**bytes).unwrap())
        .collect()
}
