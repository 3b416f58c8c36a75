//! Servers and agents for the tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ca_server::config::{Config, RawConfig};
use ca_server::{RunningServer, Server, StartError};
use mintmark_identity::bundle::{Bundle, BundleSet};
use mintmark_identity::clock::{Clock, SystemClock, Timestamp};
use mintmark_identity::secret::SecretBytes;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::x509::{
    Usage, VerificationPolicy, VerifiedX509Svid, X509Svid, verify_x509_svid,
};
use mintmark_identity::tls::{Authorizer, SvidTrust, mtls_client_config, tls_client_config};
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::mintmark::agent::v1::agent_client::AgentClient as PushClient;
use mintmark_proto::mintmark::audit::v1::audit_client::AuditClient;
use mintmark_proto::mintmark::audit::v1::{Leaf, TailRequest};
use mintmark_proto::mintmark::cluster::v1::cluster_client::ClusterClient;
use mintmark_proto::spire::agent::agent_client::AgentClient;
use mintmark_proto::spire::agent::{self, attest_agent_request, attest_agent_response};
use mintmark_proto::spire::bundle::GetBundleRequest;
use mintmark_proto::spire::bundle::bundle_client::BundleClient;
use mintmark_proto::spire::entry::BatchCreateEntryRequest;
use mintmark_proto::spire::entry::entry_client::EntryClient;
use mintmark_proto::spire::svid::svid_client::SvidClient;
use mintmark_proto::spire::svid::{BatchNewX509svidRequest, NewX509svidParams};
use mintmark_proto::spire::types;
use mintmark_runtime::grpc::{ChannelOptions, Target, channel};
use mintmark_runtime::host::Host;
use mintmark_runtime::network::Address;
use prost::Message as _;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use tokio_stream::StreamExt as _;
use tonic::Status;
use tonic::transport::Channel;

pub const TRUST_DOMAIN: &str = "example.org";
/// Far beyond what anything here takes, so that a hang is a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The machine's clock, set forward as far as a test says.
#[derive(Debug, Default)]
pub struct TestClock(AtomicI64);

impl TestClock {
    pub fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap();
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl TestClock {
    /// Sets it back.
    pub fn set_back(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap();
        self.0.fetch_sub(millis, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let now = SystemClock.now().unix_millis();
        Timestamp::from_unix_millis(now + self.0.load(Ordering::SeqCst))
    }
}

/// A clock that is ahead of another. A server's own SVID lives an hour and falls due before half of
/// it is over, so one that holds for less than this is being renewed, and one that holds longer outlasts
/// every test.
#[derive(Debug)]
struct Ahead(Arc<dyn Clock>);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        self.0.now().saturating_add(Duration::from_secs(20 * 60))
    }
}

/// A directory for one server, which outlives its restarts.
pub struct Home {
    pub directory: TempDir,
    pub raw: RawConfig,
    pub clock: Arc<TestClock>,
}

impl Home {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut raw = RawConfig {
            trust_domain: TRUST_DOMAIN.to_owned(),
            data_dir: directory.path().join("data"),
            ..RawConfig::default()
        };
        raw.listen.api = Some("127.0.0.1:0".to_owned());
        raw.listen.peer = Some("127.0.0.1:0".to_owned());
        raw.listen.admin_socket = Some(directory.path().join("admin.sock"));
        raw.listen.http = Some("127.0.0.1:0".to_owned());
        Self {
            directory,
            raw,
            clock: Arc::default(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn config(&self) -> Config {
        self.raw.check(&|_| None).unwrap()
    }

    pub async fn start(&mut self) -> RunningServer {
        let server = self.try_start().await.unwrap();
        // A restart is reached where it was before.
        self.raw.listen.api = Some(server.api_address().to_owned());
        self.raw.listen.peer = Some(server.peer_address().to_owned());
        server
    }

    /// Sets the clock forward, and waits until the server shows a certificate that is valid then
    /// and for some time to come. Valid at this moment is not enough: a jump by about the life of
    /// a certificate leaves it a fraction of a second, and the next connection finds it expired.
    pub async fn advance(&self, server: &RunningServer, by: Duration) {
        self.clock.advance(by);
        let clock = Arc::new(Ahead(Arc::clone(&server.services().host.clock)));
        eventually("the server's own certificate is fresh", || async {
            let mut client = BundleClient::new(anonymous_at(server, clock.clone()).await);
            client.get_bundle(GetBundleRequest::default()).await.is_ok()
        })
        .await;
    }

    pub fn host(&self) -> Host {
        let clock: Arc<dyn Clock> = self.clock.clone();
        Host {
            clock,
            ..Host::os()
        }
    }

    pub async fn try_start(&self) -> Result<RunningServer, StartError> {
        Server::start(self.host(), self.config()).await
    }

    pub async fn ready(&mut self) -> RunningServer {
        let server = self.start().await;
        let ready = tokio::time::timeout(PATIENCE, server.ready()).await;
        ready.unwrap_or_else(|_| panic!("not ready: {:?}", server.pending()));
        server
    }
}

pub async fn stop(server: RunningServer) {
    server.shutdown(Duration::from_secs(1)).await;
}

/// A channel to the private socket.
pub fn admin(server: &RunningServer) -> Channel {
    admin_at(server.admin_socket())
}

pub fn admin_at(socket: &Path) -> Channel {
    let target = Target::Unix(socket.to_owned());
    channel(Host::os().network, target, ChannelOptions::default())
}

pub async fn bundle(server: &RunningServer) -> Bundle {
    let mut client = BundleClient::new(admin(server));
    let wire = client
        .get_bundle(GetBundleRequest::default())
        .await
        .unwrap()
        .into_inner();
    Bundle::try_from(&wire).unwrap()
}

pub fn set(bundle: Bundle) -> BundleSet {
    let mut set = BundleSet::new();
    set.insert(bundle);
    set
}

fn trust(bundles: BundleSet) -> SvidTrust {
    let domain = TrustDomain::parse(TRUST_DOMAIN).unwrap();
    SvidTrust {
        bundles: Arc::new(Arc::new(bundles)),
        policy: VerificationPolicy::default(),
        authorizer: Authorizer::exactly(SpiffeId::server_id(&domain)),
    }
}

/// A channel without an identity; the server is verified.
pub async fn anonymous(server: &RunningServer) -> Channel {
    anonymous_at(server, server.services().host.clock.clone()).await
}

async fn anonymous_at(server: &RunningServer, clock: Arc<dyn Clock>) -> Channel {
    let tls = tls_client_config(clock, trust(set(bundle(server).await))).unwrap();
    tcp(server.api_address(), tls)
}

/// A channel with an identity.
pub async fn identified(server: &RunningServer, svid: &Arc<X509Svid>) -> Channel {
    let trust = trust(set(bundle(server).await));
    let clock = server.services().host.clock.clone();
    let tls = mtls_client_config(clock, Arc::new(Arc::clone(svid)), trust).unwrap();
    tcp(server.api_address(), tls)
}

fn tcp(address: &str, tls: rustls::ClientConfig) -> Channel {
    let tls = Arc::new(tls);
    let address = Address::parse(address).unwrap();
    let target = Target::Tcp {
        address,
        tls: Some(Arc::new(move || Arc::clone(&tls))),
    };
    channel(Host::os().network, target, ChannelOptions::default())
}

/// A key and a request for it.
pub struct Key {
    pub pkcs8: Vec<u8>,
    pub csr: Vec<u8>,
}

impl Key {
    pub fn new() -> Self {
        Self::naming(None)
    }

    /// A request that asks for a name.
    pub fn naming(id: Option<&str>) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Self::of(&key, id)
    }

    pub fn of(key: &KeyPair, id: Option<&str>) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(id) = id {
            params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        }
        let csr = params.serialize_request(key).unwrap().der().to_vec();
        Self {
            pkcs8: key.serialize_der(),
            csr,
        }
    }

    pub fn svid(&self, chain: &[Vec<u8>]) -> Arc<X509Svid> {
        let chain = chain.iter().cloned().map(CertificateDer::from).collect();
        Arc::new(X509Svid::new(chain, SecretBytes::from(self.pkcs8.clone())).unwrap())
    }
}

pub async fn token(server: &RunningServer, alias: Option<&str>) -> String {
    let agent_id = alias.map(|path| types::Spiffeid {
        trust_domain: TRUST_DOMAIN.to_owned(),
        path: path.to_owned(),
    });
    let request = agent::CreateJoinTokenRequest {
        ttl: 600,
        agent_id,
        ..Default::default()
    };
    let made = AgentClient::new(admin(server))
        .create_join_token(request)
        .await;
    made.unwrap().into_inner().value
}

/// Attests by join token.
pub async fn attest(channel: Channel, token: &str, key: &Key) -> Result<Arc<X509Svid>, Status> {
    let params = attest_agent_request::Params {
        data: Some(types::AttestationData {
            r#type: "join_token".to_owned(),
            payload: token.as_bytes().to_vec(),
        }),
        params: Some(agent::AgentX509svidParams {
            csr: key.csr.clone(),
        }),
    };
    let step = Some(attest_agent_request::Step::Params(params));
    let requests = tokio_stream::iter([agent::AttestAgentRequest { step }]);
    let response = AgentClient::new(channel).attest_agent(requests).await?;
    let answer = response.into_inner().next().await.expect("an answer")?;
    match answer.step {
        Some(attest_agent_response::Step::Result(result)) => {
            Ok(key.svid(&result.svid.unwrap().cert_chain))
        }
        other => panic!("{other:?}"),
    }
}

/// An attested agent.
pub struct Agent {
    pub svid: Arc<X509Svid>,
    pub channel: Channel,
}

impl Agent {
    pub async fn new(server: &RunningServer) -> Self {
        let token = token(server, None).await;
        let key = Key::new();
        let svid = attest(anonymous(server).await, &token, &key).await.unwrap();
        let channel = identified(server, &svid).await;
        Self { svid, channel }
    }

    pub fn id(&self) -> &SpiffeId {
        self.svid.spiffe_id()
    }

    pub fn wire_id(&self) -> types::Spiffeid {
        self.id().into()
    }

    pub async fn issue(&self, entry: &str, key: &Key) -> Result<Vec<Vec<u8>>, types::Status> {
        issue(self.channel.clone(), entry, key).await
    }

    pub fn push(&self) -> PushClient<Channel> {
        PushClient::new(self.channel.clone())
    }
}

pub async fn issue(
    channel: Channel,
    entry: &str,
    key: &Key,
) -> Result<Vec<Vec<u8>>, types::Status> {
    let params = vec![NewX509svidParams {
        entry_id: entry.to_owned(),
        csr: key.csr.clone(),
    }];
    let response = SvidClient::new(channel)
        .batch_new_x509svid(BatchNewX509svidRequest { params })
        .await;
    let mut results = match response {
        Ok(response) => response.into_inner().results,
        Err(status) => {
            let message = status.message().to_owned();
            return Err(types::Status {
                code: status.code().into(),
                message,
            });
        }
    };
    assert_eq!(results.len(), 1);
    let result = results.remove(0);
    match result.svid {
        Some(svid) => Ok(svid.cert_chain),
        None => Err(result.status.unwrap()),
    }
}

/// Creates an entry for a workload under an agent.
pub async fn entry(server: &RunningServer, parent: &SpiffeId, path: &str) -> types::Entry {
    let asked = types::Entry {
        spiffe_id: Some(types::Spiffeid {
            trust_domain: TRUST_DOMAIN.to_owned(),
            path: path.to_owned(),
        }),
        parent_id: Some(parent.into()),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1000".into(),
        }],
        ..types::Entry::default()
    };
    try_entry(server, asked).await.unwrap()
}

pub async fn try_entry(
    server: &RunningServer,
    asked: types::Entry,
) -> Result<types::Entry, types::Status> {
    let request = BatchCreateEntryRequest {
        entries: vec![asked],
        output_mask: None,
    };
    let mut client = EntryClient::new(admin(server));
    let mut results = client
        .batch_create_entry(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    let result = results.remove(0);
    let status = result.status.unwrap();
    if status.code == 0 {
        Ok(result.entry.unwrap())
    } else {
        Err(status)
    }
}

/// Verifies a chain as a relying party that has the server's bundle now.
pub async fn verify(server: &RunningServer, chain: &[Vec<u8>]) -> VerifiedX509Svid {
    let chain: Vec<_> = chain
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    verify_x509_svid(
        &chain,
        &set(bundle(server).await),
        now(server),
        Usage::Either,
    )
    .unwrap()
}

pub fn now(server: &RunningServer) -> Timestamp {
    server.services().host.clock.now()
}

/// All leaves.
pub async fn leaves(server: &RunningServer) -> Vec<Leaf> {
    let mut client = AuditClient::new(admin(server));
    let mut stream = client
        .tail(TailRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut leaves = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.unwrap().leaves;
        leaves.extend(
            chunk
                .iter()
                .map(|leaf| Leaf::decode(leaf.as_slice()).unwrap()),
        );
    }
    leaves
}

pub fn cluster(server: &RunningServer) -> ClusterClient<Channel> {
    ClusterClient::new(admin(server))
}

/// Asks again until `what` holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "not so after {PATIENCE:?}: {what}");
}
