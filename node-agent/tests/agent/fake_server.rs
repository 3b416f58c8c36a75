//! A server for agents to talk to: real gRPC over real TLS, an authority in memory, and a
//! history of updates that tests write.
//!
//! Always holds: what it issues verifies; positions only rise unless a test turns them back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mintmark_identity::{
    authority::AuthorityKey,
    bundle::{Bundle, BundleSet, JwtAuthority, X509Anchor},
    clock::{Clock, Timestamp},
    entropy::{SystemEntropy, draw_bytes},
    entry::RegistrationEntry,
    jose::JwsAlgorithm,
    key_manager::{KeyAlgorithm, SigningKey, spki_sha256, verify_signature},
    secret::SecretBytes,
    spiffe_id::SpiffeId,
    statement::sign_statement,
    svid::{
        jwt::{Audience, JwtClaims, jwt_signing_input},
        x509::{
            CaSubject, LeafRequest, LeafSubject, Serial, Usage, VerificationPolicy, VerifiedCsr,
            X509Authority, X509Svid, prepare_leaf, self_signed_authority, verify_x509_svid,
        },
    },
    tls::{Authorizer, BundleSource, ClientAuth, SvidTrust, server_config},
    trust_domain::TrustDomain,
    validity::Validity,
};
use mintmark_proto::{
    google::rpc::{ErrorInfo, Status as RpcStatus},
    mintmark::agent::v1::{
        self as pb, agent_message, agent_server, issue_x509_response, server_message,
    },
    spire::{
        agent::{
            AttestAgentRequest, AttestAgentResponse, agent_server as spire, attest_agent_request,
            attest_agent_response,
        },
        types,
    },
};
use mintmark_runtime::{
    Host,
    drain::{DrainTrigger, drain},
    grpc::{ConnectInfo, GrpcServer},
    network::Address,
    task::Tasks,
};
use node_agent::status::status;
use prost::{Message, Name};
use rustls_pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use tonic::{Code, Request, Response, Status, Streaming, service::Routes};

pub const DOMAIN: &str = "example.org";
pub const TOKEN: &str = "11111111-2222-4333-8444-555555555555";

pub fn domain() -> TrustDomain {
    TrustDomain::parse(DOMAIN).unwrap()
}

/// What the trust domain is like now.
pub struct Inner {
    pub entries: BTreeMap<String, RegistrationEntry>,
    pub federated: BTreeMap<TrustDomain, Bundle>,
    pub tainted: BTreeSet<String>,
    pub epoch: u64,
    pub history: Vec<pb::Update>,
    /// Updates below this are forgotten: a resuming agent gets everything.
    pub forgotten: u64,
    pub tokens: BTreeMap<String, Option<[u8; 32]>>,
    /// Keys by agent.
    pub agents: BTreeMap<String, Vec<[u8; 32]>>,
    pub nonces: BTreeMap<Vec<u8>, [u8; 32]>,
    pub acknowledged: Vec<(u64, u64)>,
    pub resumed_from: Vec<Option<(u64, u64)>>,
    /// Whether an agent that renews its own SVID gets no answer.
    pub is_silent_to_renewals: bool,
    pub authority: Arc<Authority>,
    pub old_anchors: Vec<Vec<u8>>,
    pub bundle_sequence: u64,
    pub x509_ttl: Duration,
    pub agent_ttl: Duration,
    pub jwt_ttl: Duration,
    /// Refuses to issue with this, for all or for one entry.
    pub refuse: BTreeMap<String, Status>,
    pub banned: bool,
    pub evicted: bool,
    /// Answers an attestation into the void this many times.
    pub lose_replies: usize,
    pub issued: Vec<(String, u64)>,
    pub servers: Vec<String>,
}

/// X.509 and JWT keys of one rotation.
pub struct Authority {
    pub key: AuthorityKey,
    pub x509: X509Authority,
    pub jwt: SigningKey,
    pub kid: String,
}

impl Authority {
    pub fn new(now: Timestamp, hybrid: bool) -> Self {
        let key = AuthorityKey::generate(hybrid).unwrap();
        let serial = Serial::draw(&SystemEntropy);
        let validity = Validity::issued_at(now, Duration::from_secs(86_400));
        let subject = CaSubject::default();
        let der = self_signed_authority(&domain(), &key, serial, validity, &subject).unwrap();
        let jwt = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
        let kid = hex::encode(draw_bytes::<8>(&SystemEntropy));
        Self {
            key,
            x509: X509Authority::parse(&der).unwrap(),
            jwt,
            kid,
        }
    }

    pub fn bundle(&self, sequence: u64) -> Bundle {
        let mut bundle = Bundle::empty(domain());
        bundle.x509 = vec![X509Anchor::parse(self.x509.certificate_der()).unwrap()];
        bundle.jwt = vec![JwtAuthority::parse(&self.kid, self.jwt.spki_der()).unwrap()];
        bundle.sequence = Some(sequence);
        bundle
    }

    pub fn leaf(&self, id: &SpiffeId, spki: &[u8], ttl: Duration, now: Timestamp) -> Vec<u8> {
        self.leaf_with_dns(id, spki, ttl, now, &[])
    }

    pub fn leaf_with_dns(
        &self,
        id: &SpiffeId,
        spki: &[u8],
        ttl: Duration,
        now: Timestamp,
        dns: &[String],
    ) -> Vec<u8> {
        let request = LeafRequest {
            spiffe_id: id.clone(),
            public_key_spki: spki.to_vec(),
            serial: Serial::draw(&SystemEntropy),
            validity: Validity::issued_at(now, ttl),
            dns_names: dns.to_vec(),
            subject: LeafSubject::for_dns_names(dns),
        };
        prepare_leaf(&request, &self.x509)
            .unwrap()
            .sign(&self.key)
            .unwrap()
    }

    pub fn token(&self, claims: &JwtClaims) -> String {
        let input = jwt_signing_input(claims, &self.kid, JwsAlgorithm::Es256).unwrap();
        let signature = self.jwt.sign_jws(input.bytes()).unwrap();
        input.attach(&signature)
    }
}

/// A handle of the trust domain that one or more servers share.
#[derive(Clone)]
pub struct World {
    pub inner: Arc<Mutex<Inner>>,
    pub changed: Arc<watch::Sender<u64>>,
    pub clock: Arc<dyn Clock>,
    pub trust_domain_key: Arc<(AuthorityKey, Vec<u8>)>,
    pub issue_calls: Arc<AtomicUsize>,
    pub jwt_calls: Arc<AtomicUsize>,
    pub gate: Arc<watch::Sender<bool>>,
    /// Of this server alone: it says that it has no leader.
    pub stale: Arc<AtomicBool>,
    /// Streams that this server alone was asked for.
    pub streams: Arc<AtomicUsize>,
    /// Of this server alone: it refuses every agent with this code.
    pub denies: Arc<Mutex<Option<&'static str>>>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

impl BundleSource for World {
    fn bundles(&self) -> Arc<BundleSet> {
        Arc::new([self.bundle()].into_iter().collect())
    }
}

impl World {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_authority(clock, false)
    }

    pub fn with_authority(clock: Arc<dyn Clock>, hybrid: bool) -> Self {
        let now = clock.now();
        let key = AuthorityKey::generate(true).unwrap();
        let serial = Serial::draw(&SystemEntropy);
        let validity = Validity::issued_at(now, Duration::from_secs(30 * 365 * 86_400));
        let certificate =
            self_signed_authority(&domain(), &key, serial, validity, &CaSubject::default());
        let inner = Inner {
            entries: BTreeMap::new(),
            federated: BTreeMap::new(),
            tainted: BTreeSet::new(),
            epoch: 1,
            history: Vec::new(),
            forgotten: 0,
            tokens: [(TOKEN.to_owned(), None)].into(),
            agents: BTreeMap::new(),
            nonces: BTreeMap::new(),
            acknowledged: Vec::new(),
            resumed_from: Vec::new(),
            is_silent_to_renewals: false,
            authority: Arc::new(Authority::new(now, hybrid)),
            old_anchors: Vec::new(),
            bundle_sequence: 1,
            x509_ttl: Duration::from_secs(3_600),
            agent_ttl: Duration::from_secs(3_600),
            jwt_ttl: Duration::from_secs(300),
            refuse: BTreeMap::new(),
            banned: false,
            evicted: false,
            lose_replies: 0,
            issued: Vec::new(),
            servers: Vec::new(),
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            changed: Arc::new(watch::Sender::new(0)),
            clock,
            trust_domain_key: Arc::new((key, certificate.unwrap())),
            issue_calls: Arc::default(),
            jwt_calls: Arc::default(),
            gate: Arc::new(watch::Sender::new(true)),
            stale: Arc::default(),
            streams: Arc::default(),
            denies: Arc::default(),
        }
    }

    /// The same trust domain as another server knows it.
    pub fn by_another_server(&self) -> Self {
        Self {
            stale: Arc::default(),
            streams: Arc::default(),
            denies: Arc::default(),
            ..self.clone()
        }
    }

    pub fn set_stale(&self, stale: bool) {
        self.stale.store(stale, Ordering::SeqCst);
        self.wake();
    }

    pub fn set_denies(&self, code: Option<&'static str>) {
        *self.denies.lock().unwrap() = code;
    }

    pub fn with<R>(&self, look: impl FnOnce(&mut Inner) -> R) -> R {
        look(&mut self.inner.lock().unwrap())
    }

    pub fn authority(&self) -> Arc<Authority> {
        self.with(|inner| Arc::clone(&inner.authority))
    }

    pub fn bundle(&self) -> Bundle {
        self.with(|inner| {
            let mut bundle = inner.authority.bundle(inner.bundle_sequence);
            let old = inner
                .old_anchors
                .iter()
                .map(|der| X509Anchor::parse(der).unwrap());
            bundle.x509.extend(old);
            bundle
        })
    }

    /// Appends an update to the history and wakes every stream. Returns its index.
    pub fn push(&self, update: pb::Update) -> u64 {
        let index = self.with(|inner| {
            let index = u64::try_from(inner.history.len()).unwrap() + 1;
            let position = Some(pb::Position {
                epoch: inner.epoch,
                index,
            });
            let tainted_authorities = inner.tainted.iter().cloned().collect();
            inner.history.push(pb::Update {
                position,
                tainted_authorities,
                ..update
            });
            index
        });
        self.changed.send_modify(|version| *version += 1);
        index
    }

    pub fn put_entry(&self, entry: RegistrationEntry) -> u64 {
        let wire = (&entry).into();
        self.with(|inner| inner.entries.insert(entry.id.to_string(), entry));
        self.push(pb::Update {
            entries: vec![wire],
            ..pb::Update::default()
        })
    }

    pub fn remove_entry(&self, id: &str) -> u64 {
        self.with(|inner| inner.entries.remove(id));
        self.push(pb::Update {
            removed_entry_ids: vec![id.to_owned()],
            ..pb::Update::default()
        })
    }

    pub fn put_federated(&self, bundle: Bundle) -> u64 {
        let wire = wire_bundle(&bundle);
        self.with(|inner| inner.federated.insert(bundle.trust_domain.clone(), bundle));
        self.push(pb::Update {
            bundles: vec![wire],
            ..pb::Update::default()
        })
    }

    pub fn remove_federated(&self, domain: &TrustDomain) -> u64 {
        self.with(|inner| inner.federated.remove(domain));
        let removed_bundles = vec![domain.to_string()];
        self.push(pb::Update {
            removed_bundles,
            ..pb::Update::default()
        })
    }

    /// A new authority; the old one stays in the bundle when `keep_old`.
    pub fn rotate_authority(&self, keep_old: bool) -> u64 {
        let fresh = Arc::new(Authority::new(self.clock.now(), false));
        self.with(|inner| {
            let old = std::mem::replace(&mut inner.authority, fresh);
            inner.old_anchors.clear();
            if keep_old {
                inner.old_anchors.push(old.x509.certificate_der().to_vec());
            }
            inner.bundle_sequence += 1;
        });
        self.push(pb::Update {
            bundles: vec![wire_bundle(&self.bundle())],
            ..pb::Update::default()
        })
    }

    /// The same authorities in a bundle of a higher sequence.
    pub fn republish_bundle(&self) -> u64 {
        self.with(|inner| inner.bundle_sequence += 1);
        self.push(pb::Update {
            bundles: vec![wire_bundle(&self.bundle())],
            ..pb::Update::default()
        })
    }

    pub fn taint(&self, authority_id: &str) -> u64 {
        self.with(|inner| inner.tainted.insert(authority_id.to_owned()));
        self.push(pb::Update::default())
    }

    /// Takes down what an agent says it serves.
    fn hear(&self, said: pb::AgentMessage) {
        if let Some(agent_message::Body::Acknowledge(ack)) = said.body {
            let index = ack.position.map_or(0, |at| at.index);
            self.with(|inner| inner.acknowledged.push((index, ack.bundle_sequence)));
            self.wake();
        }
    }

    pub fn wake(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    fn complete(&self) -> pb::Update {
        let own = wire_bundle(&self.bundle());
        self.with(|inner| pb::Update {
            position: Some(pb::Position {
                epoch: inner.epoch,
                index: u64::try_from(inner.history.len()).unwrap(),
            }),
            complete: true,
            entries: inner.entries.values().map(Into::into).collect(),
            bundles: std::iter::once(own)
                .chain(inner.federated.values().map(wire_bundle))
                .collect(),
            tainted_authorities: inner.tainted.iter().cloned().collect(),
            defaults: Some(pb::Defaults {
                servers: inner.servers.clone(),
                ..pb::Defaults::default()
            }),
            ..pb::Update::default()
        })
    }
}

pub fn wire_bundle(bundle: &Bundle) -> pb::Bundle {
    pb::Bundle {
        trust_domain: bundle.trust_domain.to_string(),
        document: bundle.to_document(),
        sequence: bundle.sequence.unwrap_or(0),
    }
}

/// One server of a world.
pub struct FakeServer {
    pub address: Address,
    tasks: Tasks,
    drain: DrainTrigger,
}

impl FakeServer {
    pub async fn start(world: &World) -> Self {
        Self::start_at(world, &"127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(world: &World, address: &Address) -> Self {
        let host = Host::os();
        let identity = server_svid(world);
        let trust = SvidTrust {
            bundles: Arc::new(world.clone()),
            policy: VerificationPolicy::default(),
            authorizer: Authorizer::any(),
        };
        let clock = Arc::clone(&world.clock);
        let make = move || {
            let identity = Arc::new(identity());
            Arc::new(
                server_config(
                    Arc::clone(&clock),
                    identity,
                    trust.clone(),
                    ClientAuth::Optional,
                )
                .unwrap(),
            )
        };
        let listener = host.network.listen(address).await.unwrap();
        let address = listener.local_address().parse().unwrap();
        let service = Service {
            world: world.clone(),
        };
        let routes = Routes::new(
            agent_server::AgentServer::new(service.clone()).max_decoding_message_size(64 << 20),
        )
        .add_service(spire::AgentServer::new(service));
        let (drain, watch) = drain();
        let tasks = Tasks::new();
        let server = GrpcServer::new(routes, Arc::clone(&host.entropy)).with_tls(Arc::new(make));
        let owner = tasks.clone();
        tasks.spawn("fake server", async move {
            server.serve(listener, &owner, watch).await
        });
        Self {
            address,
            tasks,
            drain,
        }
    }

    /// Ends at once, as a killed server does.
    pub async fn stop(self) {
        self.drain.start(Duration::ZERO);
        self.tasks.shutdown(Duration::ZERO).await;
    }
}

/// Makes the server's SVID by the authority of the moment.
fn server_svid(world: &World) -> impl Fn() -> Arc<X509Svid> + Send + Sync + 'static {
    let world = world.clone();
    move || {
        let key = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
        let id = SpiffeId::server_id(&domain());
        let now = world.clock.now();
        let leaf = world
            .authority()
            .leaf(&id, key.spki_der(), Duration::from_secs(3_600), now);
        let pkcs8 = SecretBytes::from(key.to_pkcs8().unwrap());
        Arc::new(X509Svid::new(vec![CertificateDer::from(leaf)], pkcs8).unwrap())
    }
}

#[derive(Clone)]
struct Service {
    world: World,
}

impl Service {
    /// The agent that calls, by its SVID.
    fn caller(&self, extensions: &tonic::Extensions) -> Result<SpiffeId, Status> {
        let info = extensions.get::<ConnectInfo>().unwrap();
        if let Some(code) = *self.world.denies.lock().unwrap() {
            return Err(denied(code));
        }
        if info.peer_certificates.is_empty() {
            return Err(status(
                Code::Unauthenticated,
                node_agent::code::SERVER_MISBEHAVED,
                "no SVID",
            ));
        }
        let bundles = self.world.bundles();
        let now = self.world.clock.now();
        let verified = verify_x509_svid(&info.peer_certificates, &bundles, now, Usage::Client)
            .map_err(|error| Status::unauthenticated(error.to_string()))?;
        Ok(verified.spiffe_id)
    }

    fn agent_svid(&self, id: &SpiffeId, csr: &[u8]) -> Result<pb::IssuedX509, Status> {
        let csr = VerifiedCsr::verify(csr).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let authority = self.world.authority();
        let (ttl, now) = (
            self.world.with(|inner| inner.agent_ttl),
            self.world.clock.now(),
        );
        let leaf = authority.leaf(id, csr.public_key_spki(), ttl, now);
        self.world.with(|inner| {
            inner
                .agents
                .entry(id.to_string())
                .or_default()
                .push(csr.spki_sha256());
        });
        Ok(pb::IssuedX509 {
            chain: vec![leaf],
            ..pb::IssuedX509::default()
        })
    }

    fn issue(&self, item: &pb::issue_x509_request::Item) -> Result<pb::IssuedX509, Status> {
        let (entry, refuse, ttl) = self.world.with(|inner| {
            let refuse = inner
                .refuse
                .get(&item.entry_id)
                .or_else(|| inner.refuse.get("*"));
            (
                inner.entries.get(&item.entry_id).cloned(),
                refuse.cloned(),
                inner.x509_ttl,
            )
        });
        if let Some(refuse) = refuse {
            return Err(refuse);
        }
        let entry = entry.ok_or_else(|| Status::not_found("no such entry"))?;
        if entry.revision != item.entry_revision {
            return Err(Status::aborted("the entry has another revision"));
        }
        let csr = VerifiedCsr::verify(&item.csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (ttl, now) = (entry.x509_svid_ttl.unwrap_or(ttl), self.world.clock.now());
        let authority = self.world.authority();
        let leaf = authority.leaf_with_dns(
            &entry.spiffe_id,
            csr.public_key_spki(),
            ttl,
            now,
            &entry.dns_names,
        );
        self.world.with(|inner| {
            inner
                .issued
                .push((item.entry_id.clone(), item.entry_revision))
        });
        Ok(pb::IssuedX509 {
            chain: vec![leaf],
            ..pb::IssuedX509::default()
        })
    }
}

/// As a server says that it does not accept an agent.
fn denied(code: &str) -> Status {
    let info = ErrorInfo {
        reason: code.to_owned(),
        domain: "mintmark".to_owned(),
        ..ErrorInfo::default()
    };
    let details = RpcStatus {
        details: vec![prost_types::Any {
            type_url: ErrorInfo::type_url(),
            value: info.encode_to_vec(),
        }],
        ..RpcStatus::default()
    };
    let details = details.encode_to_vec().into();
    Status::with_details(Code::PermissionDenied, "not accepted", details)
}

fn item(result: Result<pb::IssuedX509, Status>) -> issue_x509_response::Item {
    match result {
        Ok(svid) => issue_x509_response::Item {
            svid: Some(svid),
            ..Default::default()
        },
        Err(status) => issue_x509_response::Item {
            code: status.code().into(),
            message: status.message().to_owned(),
            ..Default::default()
        },
    }
}

type Messages<M> = tokio_stream::wrappers::ReceiverStream<Result<M, Status>>;

#[tonic::async_trait]
impl agent_server::Agent for Service {
    type SyncStream = Messages<pb::ServerMessage>;

    async fn get_statement(
        &self,
        request: Request<pb::GetStatementRequest>,
    ) -> Result<Response<pb::GetStatementResponse>, Status> {
        let (key, certificate) = &*self.world.trust_domain_key;
        let statement = pb::Statement {
            trust_domain: DOMAIN.to_owned(),
            epoch: self.world.with(|inner| inner.epoch),
            bundle_document: self.world.bundle().to_document(),
            sequence: self.world.with(|inner| inner.bundle_sequence),
            time_ms: self.world.clock.now().unix_millis(),
            nonce: request.into_inner().nonce,
            ..pb::Statement::default()
        };
        let statement = statement.encode_to_vec();
        let signatures = sign_statement(key, &statement).unwrap();
        Ok(Response::new(pb::GetStatementResponse {
            native_signature: signatures.native,
            alternative_signature: signatures.alternative,
            trust_domain_key_certificate: certificate.clone(),
            statement,
        }))
    }

    async fn get_resume_nonce(
        &self,
        request: Request<pb::GetResumeNonceRequest>,
    ) -> Result<Response<pb::GetResumeNonceResponse>, Status> {
        let info = request.extensions().get::<ConnectInfo>().unwrap();
        let exporter = info.tls_exporter.unwrap();
        let nonce = draw_bytes::<32>(&SystemEntropy).to_vec();
        self.world
            .with(|inner| inner.nonces.insert(nonce.clone(), exporter));
        Ok(Response::new(pb::GetResumeNonceResponse { nonce }))
    }

    async fn resume(
        &self,
        request: Request<pb::ResumeRequest>,
    ) -> Result<Response<pb::ResumeResponse>, Status> {
        let exporter = request
            .extensions()
            .get::<ConnectInfo>()
            .unwrap()
            .tls_exporter
            .unwrap();
        let request = request.into_inner();
        let known = self.world.with(|inner| {
            let bound = inner.nonces.remove(&request.nonce);
            let keys = inner
                .agents
                .get(&request.agent_id)
                .cloned()
                .unwrap_or_default();
            bound == Some(exporter) && keys.contains(&spki_sha256(&request.public_key_spki))
        });
        let csr_hash = {
            use sha2::Digest;
            sha2::Sha256::digest(&request.csr)
        };
        let signed = [
            b"mintmark-resume-v1\0".as_slice(),
            &exporter,
            &request.nonce,
            &csr_hash,
        ]
        .concat();
        let proven =
            verify_signature(&request.public_key_spki, &signed, &request.signature).is_ok();
        if !known || !proven {
            return Err(Status::permission_denied("not the agent's last key"));
        }
        let id = SpiffeId::parse(&request.agent_id).unwrap();
        let svid = self.agent_svid(&id, &request.csr)?;
        Ok(Response::new(pb::ResumeResponse { svid: Some(svid) }))
    }

    async fn sync(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        self.caller(request.extensions())?;
        let mut incoming = request.into_inner();
        let begin = incoming.message().await?.and_then(|message| message.body);
        let Some(agent_message::Body::Begin(begin)) = begin else {
            return Err(Status::invalid_argument("begin comes first"));
        };
        let from = begin.resume_from.map(|at| (at.epoch, at.index));
        self.world.with(|inner| inner.resumed_from.push(from));
        self.world.streams.fetch_add(1, Ordering::SeqCst);
        self.world.wake();
        let (outgoing, messages) = mpsc::channel(16);
        let world = self.world.clone();
        tokio::spawn(async move {
            let _ = serve_stream(world, from, outgoing, incoming).await;
        });
        Ok(Response::new(messages.into()))
    }

    async fn issue_x509(
        &self,
        request: Request<pb::IssueX509Request>,
    ) -> Result<Response<pb::IssueX509Response>, Status> {
        let caller = self.caller(request.extensions())?;
        self.world.issue_calls.fetch_add(1, Ordering::SeqCst);
        let request = request.into_inner();
        if !request.agent_csr.is_empty() {
            if self.world.with(|inner| inner.is_silent_to_renewals) {
                return std::future::pending().await;
            }
            let agent = Some(item(self.agent_svid(&caller, &request.agent_csr)));
            return Ok(Response::new(pb::IssueX509Response {
                items: Vec::new(),
                agent,
            }));
        }
        // A test may hold answers back.
        let mut gate = self.world.gate.subscribe();
        gate.wait_for(|open| *open)
            .await
            .map_err(|_| Status::aborted("gone"))?;
        assert!(request.items.len() <= 500, "a batch has at most 500 items");
        let items = request
            .items
            .iter()
            .map(|one| item(self.issue(one)))
            .collect();
        Ok(Response::new(pb::IssueX509Response { items, agent: None }))
    }

    async fn issue_jwt(
        &self,
        request: Request<pb::IssueJwtRequest>,
    ) -> Result<Response<pb::IssueJwtResponse>, Status> {
        self.caller(request.extensions())?;
        self.world.jwt_calls.fetch_add(1, Ordering::SeqCst);
        let request = request.into_inner();
        let (entry, refuse, ttl) = self.world.with(|inner| {
            let refuse = inner.refuse.get("*").cloned();
            (
                inner.entries.get(&request.entry_id).cloned(),
                refuse,
                inner.jwt_ttl,
            )
        });
        if let Some(refuse) = refuse {
            return Err(refuse);
        }
        let entry = entry.ok_or_else(|| Status::not_found("no such entry"))?;
        let now = self.world.clock.now();
        let claims = JwtClaims {
            spiffe_id: entry.spiffe_id,
            audience: Audience::new(request.audience).unwrap(),
            issued_at: now,
            expires_at: now.saturating_add(entry.jwt_svid_ttl.unwrap_or(ttl)),
            jti: entry
                .jwt_svid_include_jti
                .then(|| hex::encode(draw_bytes::<8>(&SystemEntropy))),
            issuer: None,
        };
        let token = self.world.authority().token(&claims);
        // The answer is made, and under way for as long as a test says.
        self.world.wake();
        let mut gate = self.world.gate.subscribe();
        gate.wait_for(|open| *open)
            .await
            .map_err(|_| Status::aborted("gone"))?;
        Ok(Response::new(pb::IssueJwtResponse {
            token,
            issued_at_ms: now.unix_millis(),
            expires_at_ms: claims.expires_at.unix_millis(),
            ..pb::IssueJwtResponse::default()
        }))
    }
}

fn message(body: server_message::Body) -> Result<pb::ServerMessage, Status> {
    Ok(pb::ServerMessage { body: Some(body) })
}

fn update(update: pb::Update) -> Result<pb::ServerMessage, Status> {
    message(server_message::Body::Update(update))
}

/// Sends everything or what is missing, then each update as it is pushed.
async fn serve_stream(
    world: World,
    from: Option<(u64, u64)>,
    outgoing: mpsc::Sender<Result<pb::ServerMessage, Status>>,
    mut incoming: Streaming<pb::AgentMessage>,
) -> Result<(), ()> {
    let mut changed = world.changed.subscribe();
    let (epoch, end) =
        world.with(|inner| (inner.epoch, u64::try_from(inner.history.len()).unwrap()));
    if from.is_some_and(|from| from > (epoch, end)) {
        let behind = Err(Status::failed_precondition(
            "this server is behind the agent",
        ));
        return outgoing.send(behind).await.map_err(|_| ());
    }
    let mut cursor = match from {
        Some((at, index)) if at == epoch && index >= world.with(|inner| inner.forgotten) => index,
        _ => {
            if !world.stale.load(Ordering::SeqCst) {
                let complete = world.complete();
                outgoing.send(update(complete)).await.map_err(|_| ())?;
            }
            end
        }
    };
    let mut told_stale = false;
    loop {
        let stale = world.stale.load(Ordering::SeqCst);
        let (banned, evicted, next) = world.with(|inner| {
            let next = inner.history.get(usize::try_from(cursor).unwrap()).cloned();
            (inner.banned, inner.evicted, next)
        });
        if banned || evicted {
            let denied = pb::Update {
                position: Some(pb::Position {
                    epoch,
                    index: cursor + 1,
                }),
                banned,
                evicted,
                ..pb::Update::default()
            };
            return outgoing.send(update(denied)).await.map_err(|_| ());
        }
        if stale != told_stale {
            told_stale = stale;
            let body = if stale {
                server_message::Body::Stale(pb::Stale { seconds: 2 })
            } else {
                server_message::Body::Fresh(pb::Fresh {})
            };
            outgoing.send(message(body)).await.map_err(|_| ())?;
        }
        if let Some(next) = next.filter(|_| !stale) {
            outgoing.send(update(next)).await.map_err(|_| ())?;
            cursor += 1;
            continue;
        }
        tokio::select! {
            changed = changed.changed() => changed.map_err(|_| ())?,
            said = incoming.message() => match said {
                Ok(Some(said)) => world.hear(said),
                _ => return Ok(()),
            },
            () = outgoing.closed() => return Ok(()),
        }
    }
}

#[tonic::async_trait]
impl spire::Agent for Service {
    async fn attest_agent(
        &self,
        request: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<tonic::codegen::BoxStream<AttestAgentResponse>>, Status> {
        let mut requests = request.into_inner();
        let step = requests.message().await?.and_then(|request| request.step);
        let Some(attest_agent_request::Step::Params(params)) = step else {
            return Err(Status::invalid_argument("params come first"));
        };
        let data = params.data.unwrap();
        assert_eq!(data.r#type, "join_token");
        let token = String::from_utf8(data.payload).unwrap();
        let csr = params.params.unwrap().csr;
        let key = VerifiedCsr::verify(&csr).unwrap().spki_sha256();
        let allowed = self.world.with(|inner| match inner.tokens.get_mut(&token) {
            None => false,
            Some(bound) => *bound.get_or_insert(key) == key,
        });
        if !allowed {
            return Err(Status::invalid_argument(
                "failed to attest: join token does not exist or has already been used",
            ));
        }
        let id = SpiffeId::agent_id(&domain(), "join_token", &token).unwrap();
        let svid = self.agent_svid(&id, &csr)?;
        let lose = self.world.with(|inner| {
            let lose = inner.lose_replies > 0;
            inner.lose_replies = inner.lose_replies.saturating_sub(1);
            lose
        });
        if lose {
            return Err(Status::unavailable("the reply was lost"));
        }
        let (outgoing, messages) = mpsc::channel(1);
        let result = attest_agent_response::Result {
            svid: Some(types::X509svid {
                cert_chain: svid.chain,
                id: Some((&id).into()),
                ..types::X509svid::default()
            }),
            reattestable: false,
        };
        let step = Some(attest_agent_response::Step::Result(result));
        outgoing
            .send(Ok(AttestAgentResponse { step }))
            .await
            .unwrap();
        let messages: Messages<AttestAgentResponse> = messages.into();
        Ok(Response::new(Box::pin(messages)))
    }
}
