//! One agent, one server, one directory; and the clients of the test itself.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use mintmark_identity::{
    clock::{Clock, SystemClock, Timestamp},
    entry::{EntryId, RegistrationEntry},
    selector::Selector,
    spiffe_id::SpiffeId,
};
use mintmark_proto::spiffe::workload::{
    X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use mintmark_runtime::{
    Host,
    disk::MODE_PUBLIC,
    grpc::{ChannelOptions, Target, channel},
};
use node_agent::{Agent, Config, RunningAgent, cache::state::State, config::Evidence};
use tempfile::TempDir;
use tonic::{
    Request, Status, Streaming, service::interceptor::InterceptedService, transport::Channel,
};

use crate::fake_server::{FakeServer, TOKEN, World, domain};

/// Nothing here takes longer, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A life for SVIDs that a test wants to see renewed by the agent's own timers. Renewal falls due at
/// 40 to 48 % of it, in real time for lack of another; what is left of it then is more than
/// [`PATIENCE`], so that a busy machine makes a test slow, but never sees an SVID expire.
pub const SHORT_LIFE: Duration = Duration::from_secs(40);
/// Shortly before the first moment at which an SVID of [`SHORT_LIFE`] falls due.
pub const NEARLY_DUE: Duration = Duration::from_millis(15_900);

/// The real time, set forward or back.
#[derive(Debug, Default)]
pub struct ShiftedClock(AtomicI64);

impl ShiftedClock {
    pub fn advance(&self, by: Duration) {
        self.0
            .fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(SystemClock.now().unix_millis() + self.0.load(Ordering::SeqCst))
    }
}

pub struct Bed {
    pub clock: Arc<ShiftedClock>,
    pub world: World,
    pub server: Option<FakeServer>,
    pub dir: TempDir,
    pub config: Config,
}

impl Bed {
    pub async fn new() -> Self {
        Self::with_pq(false).await
    }

    pub async fn with_pq(hybrid: bool) -> Self {
        let clock = Arc::new(ShiftedClock::default());
        let world = World::with_authority(Arc::clone(&clock) as Arc<dyn Clock>, hybrid);
        let server = FakeServer::start(&world).await;
        let dir = TempDir::with_prefix("mm").unwrap();
        let mut config = Config::in_dir(
            domain(),
            vec![server.address.clone()],
            &dir.path().join("agent"),
        );
        let bundle = dir.path().join("bundle.json");
        Host::os()
            .disk
            .write_atomic(&bundle, &world.bundle().to_document(), MODE_PUBLIC)
            .unwrap();
        config.trust_bundle_path = Some(bundle);
        config.evidence = Evidence::JoinToken(TOKEN.to_owned());
        config.push_splay = Duration::ZERO;
        Self {
            clock,
            world,
            server: Some(server),
            dir,
            config,
        }
    }

    pub fn host(&self) -> Host {
        Host {
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            ..Host::os()
        }
    }

    /// Starts the agent and waits until it has heard everything once.
    pub async fn start(&self) -> RunningAgent {
        let mut agent = self.launch().await;
        within(agent.ready()).await.unwrap();
        agent
    }

    /// Starts the agent and does not wait.
    pub async fn launch(&self) -> RunningAgent {
        Agent::start(self.host(), self.config.clone())
            .await
            .unwrap()
    }

    pub async fn stop_server(&mut self) {
        self.server.take().unwrap().stop().await;
    }

    pub async fn restart_server(&mut self) {
        let address = self.config.server_addresses[0].clone();
        self.server = Some(FakeServer::start_at(&self.world, &address).await);
    }

    pub fn socket(&self) -> PathBuf {
        self.config.socket_path.clone()
    }

    pub fn channel(&self) -> Channel {
        unix_channel(self.socket())
    }

    pub fn admin_channel(&self) -> Channel {
        unix_channel(self.config.admin_socket_path.clone())
    }

    pub fn client(&self) -> Client {
        SpiffeWorkloadApiClient::with_interceptor(self.channel(), with_header)
    }

    /// Opens `FetchX509SVID`.
    pub async fn x509(&self) -> Result<Streaming<X509svidResponse>, Status> {
        Ok(within(self.client().fetch_x509svid(X509svidRequest {}))
            .await?
            .into_inner())
    }

    /// The first message of `FetchX509SVID`.
    pub async fn first_x509(&self) -> Result<X509svidResponse, Status> {
        let mut stream = self.x509().await?;
        next(&mut stream).await
    }
}

pub type Client = SpiffeWorkloadApiClient<
    InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>,
>;

pub const fn header() -> fn(Request<()>) -> Result<Request<()>, Status> {
    add_header
}

fn add_header(mut request: Request<()>) -> Result<Request<()>, Status> {
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().unwrap());
    Ok(request)
}

#[expect(non_upper_case_globals, reason = "stands where a function would")]
const with_header: fn(Request<()>) -> Result<Request<()>, Status> = add_header;

pub fn unix_channel(path: PathBuf) -> Channel {
    let network = Arc::clone(&Host::os().network);
    channel(network, Target::Unix(path), ChannelOptions::default())
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("this takes too long")
}

/// The next message of a stream that must go on.
pub async fn next<M>(stream: &mut Streaming<M>) -> Result<M, Status> {
    within(stream.message())
        .await
        .map(|message| message.expect("the stream goes on"))
}

/// Whether a stream stays silent although everything that is under way has been dealt with.
pub async fn silent<M>(stream: &mut Streaming<M>) -> bool {
    // A message that is due would be sent in well under this time; a longer wait would only
    // make a wrong success rarer, never a right one wrong.
    tokio::time::timeout(Duration::from_millis(150), stream.message())
        .await
        .is_err()
}

pub async fn wait_state(agent: &RunningAgent, holds: impl Fn(&State) -> bool) -> Arc<State> {
    let mut states = agent.watch();
    let state = within(states.wait_for(|state| holds(state))).await.unwrap();
    Arc::clone(&state)
}

/// Waits until something is true of the world.
pub async fn wait_world(world: &World, holds: impl Fn(&mut crate::fake_server::Inner) -> bool) {
    let mut changes = world.changed.subscribe();
    let wait = async {
        while !world.with(&holds) {
            changes.changed().await.unwrap();
        }
    };
    within(wait).await;
}

pub fn my_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// An entry that matches this very process.
pub fn entry(id: &str, path: &str) -> RegistrationEntry {
    entry_for(id, path, &[&format!("unix:uid:{}", my_uid())])
}

pub fn entry_for(id: &str, path: &str, selectors: &[&str]) -> RegistrationEntry {
    RegistrationEntry {
        id: EntryId::parse(id).unwrap(),
        revision: 0,
        spiffe_id: SpiffeId::from_path(&domain(), path).unwrap(),
        parent_id: SpiffeId::agent_id(&domain(), "join_token", TOKEN).unwrap(),
        selectors: selectors
            .iter()
            .map(|text| Selector::parse(text).unwrap())
            .collect(),
        x509_svid_ttl: None,
        jwt_svid_ttl: None,
        federates_with: [].into(),
        admin: false,
        downstream: false,
        expires_at: None,
        dns_names: Vec::new(),
        store_svid: false,
        hint: String::new(),
        created_at: Timestamp::from_unix_secs(1_000),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    }
}

pub fn ids(response: &X509svidResponse) -> Vec<&str> {
    let prefix = "spiffe://example.org";
    response
        .svids
        .iter()
        .map(|svid| svid.spiffe_id.strip_prefix(prefix).unwrap())
        .collect()
}

/// Serial number of the leaf that comes first in a DER chain.
pub fn serial(chain: &[u8]) -> String {
    leaf(chain).serial
}

pub struct Leaf {
    pub serial: String,
    pub der: Vec<u8>,
}

/// Splits the leaf off a DER chain by its own length field.
pub fn leaf(chain: &[u8]) -> Leaf {
    let certificates = split_der(chain);
    let der = certificates[0].clone();
    let key = mintmark_identity::svid::x509::Certificate::parse(&der).unwrap();
    Leaf {
        serial: key.content.serial.clone(),
        der: der.clone(),
    }
}

/// Cuts concatenated DER elements.
pub fn split_der(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut elements = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[0], 0x30, "a SEQUENCE, so DER and no PEM");
        assert_eq!(bytes[1], 0x82, "two bytes of length");
        let length = 4 + usize::from(bytes[2]) * 256 + usize::from(bytes[3]);
        elements.push(bytes[..length].to_vec());
        bytes = &bytes[length..];
    }
    elements
}
