//! A cluster in one process: real gRPC over a network in memory that can be cut, real
//! stores on disks in memory that can crash, time that jumps when everybody waits.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use mintmark_identity::clock::{Clock, Timestamp};
use mintmark_identity::entropy::SeededEntropy;
use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_runtime::Host;
use mintmark_runtime::disk::OsDisk;
use mintmark_runtime::drain::{DrainTrigger, drain};
use mintmark_runtime::network::{Address, BoxStream, Listener, Network, UnixMode};
use mintmark_runtime::task::Tasks;
use mintmark_runtime::testing::{ElapsedClock, MemoryNetwork};
use mintmark_runtime::tls::ClientConfigSource;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::disk::{MemoryDisk, Unsynced};
use super::state::{Names, add};
use crate::raft::{
    ClusterId, Consensus, NodeId, OpenError, PeerAuth, ProposeError, Proposed, RaftConfig,
    RaftStatus, Role,
};

pub const CLUSTER: ClusterId = ClusterId([5; 16]);
/// Longer than anything a healthy cluster needs; virtual.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Members whose certificate is not accepted.
#[derive(Debug, Default, Clone)]
pub struct Strangers(pub Arc<Mutex<BTreeSet<NodeId>>>);

impl PeerAuth for Strangers {
    fn authorize(&self, node: NodeId, _certificates: &[CertificateDer<'static>]) -> bool {
        !self.0.lock().unwrap().contains(&node)
    }

    fn client_tls(&self, _node: NodeId) -> Option<ClientConfigSource> {
        None
    }
}

/// Members that nobody reaches and that reach nobody.
#[derive(Debug, Default, Clone)]
pub struct Cuts(Arc<Mutex<BTreeSet<NodeId>>>);

impl Cuts {
    fn is_cut(&self, ends: (NodeId, NodeId)) -> bool {
        let cut = self.0.lock().unwrap();
        cut.contains(&ends.0) || cut.contains(&ends.1)
    }
}

#[derive(Debug)]
struct CutNetwork {
    own: NodeId,
    inner: MemoryNetwork,
    cuts: Cuts,
}

struct CutStream {
    ends: (NodeId, NodeId),
    inner: BoxStream,
    cuts: Cuts,
}

impl CutStream {
    fn check(&self) -> io::Result<()> {
        if self.cuts.is_cut(self.ends) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for CutStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for CutStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[async_trait]
impl Network for CutNetwork {
    async fn connect(&self, address: &Address) -> io::Result<BoxStream> {
        let host = address.host().trim_start_matches("node-");
        let ends = (self.own, host.parse().unwrap());
        if self.cuts.is_cut(ends) {
            return Err(io::ErrorKind::HostUnreachable.into());
        }
        Ok(Box::new(CutStream {
            ends,
            inner: self.inner.connect(address).await?,
            cuts: self.cuts.clone(),
        }))
    }

    async fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>> {
        self.inner.listen(address).await
    }

    async fn connect_unix(&self, path: &Path) -> io::Result<BoxStream> {
        self.inner.connect_unix(path).await
    }

    async fn listen_unix(&self, path: &Path, mode: UnixMode) -> io::Result<Box<dyn Listener>> {
        self.inner.listen_unix(path, mode).await
    }
}

/// A clock that may be set wrong while its member runs.
#[derive(Debug)]
struct WrongClock {
    right: ElapsedClock,
    seconds: Arc<AtomicI64>,
}

impl Clock for WrongClock {
    fn now(&self) -> Timestamp {
        let wrong = self.seconds.load(Ordering::SeqCst) * 1_000;
        Timestamp::from_unix_millis(self.right.now().unix_millis() + wrong)
    }
}

/// A running member.
pub struct Node {
    pub consensus: Consensus<Names>,
    pub tasks: Tasks,
    drain: DrainTrigger,
}

/// Members, running or not, and what they run on.
pub struct Cluster {
    pub nodes: BTreeMap<NodeId, Node>,
    pub disks: BTreeMap<NodeId, MemoryDisk>,
    pub cuts: Cuts,
    pub strangers: Strangers,
    /// Seconds that members' clocks are wrong by.
    pub skews: BTreeMap<NodeId, Arc<AtomicI64>>,
    pub snapshot_every: u64,
    /// Real files instead of disks in memory.
    pub files: Option<tempfile::TempDir>,
    network: MemoryNetwork,
    clock: ElapsedClock,
    starts: u64,
}

pub fn address(node: NodeId) -> String {
    format!("node-{node}:9000")
}

pub fn admin() -> pb::Actor {
    pb::Actor {
        kind: pb::actor::Kind::Local.into(),
        ..Default::default()
    }
}

impl Cluster {
    /// Nobody runs yet.
    pub fn new() -> Self {
        Self {
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            cuts: Cuts::default(),
            strangers: Strangers::default(),
            skews: BTreeMap::new(),
            snapshot_every: 10_000,
            files: None,
            network: MemoryNetwork::new(),
            clock: ElapsedClock::new(Timestamp::from_unix_secs(1_700_000_000)),
            starts: 0,
        }
    }

    /// Members 1 to `voters`, all voting.
    pub async fn of(voters: NodeId) -> Self {
        Self::new().with(voters).await
    }

    /// The same with other settings.
    pub async fn with(self, voters: NodeId) -> Self {
        let mut cluster = self;
        cluster.start(1).await;
        cluster.nodes[&1].consensus.bootstrap().await.unwrap();
        for node in 2..=voters {
            cluster.start(node).await;
            cluster.admit(node).await;
        }
        cluster
    }

    /// Adds a running member, as a voter.
    pub async fn admit(&self, node: NodeId) {
        let first = &self.nodes[&1].consensus;
        first.add_learner(node, &address(node)).await.unwrap();
        self.promote(node).await;
    }

    /// Promotes a learner as soon as it has caught up.
    pub async fn promote(&self, node: NodeId) {
        let first = &self.nodes[&1].consensus;
        let mut status = self.leader().consensus.status();
        tokio::time::timeout(PATIENCE, async {
            while first.promote(node).await.is_err() {
                tokio::select! {
                    changed = status.changed() => changed.unwrap(),
                    // Clocks change without the status.
                    () = tokio::time::sleep(Duration::from_millis(100)) => {}
                }
            }
        })
        .await
        .unwrap();
    }

    pub fn config(&self, node: NodeId) -> RaftConfig {
        let folder = match &self.files {
            Some(files) => files.path().join(node.to_string()),
            None => "/data".into(),
        };
        RaftConfig {
            snapshot_every: self.snapshot_every,
            entries_kept: self.snapshot_every / 10,
            ..RaftConfig::new(node, CLUSTER, address(node), folder)
        }
    }

    pub fn host(&mut self, node: NodeId) -> Host {
        self.starts += 1;
        Host {
            clock: Arc::new(WrongClock {
                right: self.clock,
                seconds: self.skew(node),
            }),
            entropy: Arc::new(SeededEntropy::new(self.starts * 1000 + node)),
            network: Arc::new(CutNetwork {
                own: node,
                inner: self.network.clone(),
                cuts: self.cuts.clone(),
            }),
            disk: match &self.files {
                Some(_) => Arc::new(OsDisk),
                None => Arc::new(self.disks.entry(node).or_default().clone()),
            },
        }
    }

    /// How many seconds a member's clock is wrong by.
    pub fn skew(&mut self, node: NodeId) -> Arc<AtomicI64> {
        Arc::clone(self.skews.entry(node).or_default())
    }

    /// Sets a member's clock wrong, or right again with 0.
    pub fn set_clock(&mut self, node: NodeId, seconds: i64) {
        self.skew(node).store(seconds, Ordering::SeqCst);
    }

    pub async fn try_start(&mut self, node: NodeId) -> Result<(), OpenError> {
        let host = self.host(node);
        let tasks = Tasks::new();
        let auth = Arc::new(self.strangers.clone());
        let consensus = Consensus::open(&host, &self.config(node), auth, &tasks).await?;
        let at = Address::parse(&address(node)).unwrap();
        let listener = host.network.listen(&at).await.unwrap();
        let (trigger, watch) = drain();
        let serving = consensus.clone();
        tasks.spawn("peers", async move {
            serving.serve_peers(listener, None, watch).await;
        });
        let running = Node {
            consensus,
            tasks,
            drain: trigger,
        };
        self.nodes.insert(node, running);
        Ok(())
    }

    pub async fn start(&mut self, node: NodeId) {
        self.try_start(node).await.unwrap();
    }

    /// Stops a member in order.
    pub async fn stop(&mut self, node: NodeId) {
        let running = self.nodes.remove(&node).unwrap();
        running.drain.start(Duration::ZERO);
        running.consensus.shutdown().await;
        running.tasks.shutdown(Duration::ZERO).await;
        running.tasks.all_ended().await;
    }

    /// Power goes.
    pub async fn crash(&mut self, node: NodeId, unsynced: Unsynced) {
        self.disks[&node].crash(unsynced);
        let running = self.nodes.remove(&node).unwrap();
        running.drain.start(Duration::ZERO);
        running.tasks.shutdown(Duration::ZERO).await;
        running.tasks.all_ended().await;
    }

    pub fn cut(&self, node: NodeId) {
        self.cuts.0.lock().unwrap().insert(node);
    }

    pub fn heal(&self) {
        self.cuts.0.lock().unwrap().clear();
    }

    /// The member that leads, as it says itself.
    pub fn leader(&self) -> &Node {
        let mut leaders: Vec<&Node> = self
            .nodes
            .values()
            .filter(|node| node.consensus.role() == Role::Leader)
            .collect();
        leaders.sort_by_key(|node| node.consensus.status().borrow().term);
        leaders.pop().expect("somebody leads")
    }

    /// Waits until all running members agree on a leader among them that is not cut off.
    pub async fn settled(&self) -> NodeId {
        tokio::time::timeout(PATIENCE, async {
            loop {
                let views: BTreeSet<Option<NodeId>> = self
                    .nodes
                    .iter()
                    .filter(|(id, _)| !self.cuts.0.lock().unwrap().contains(id))
                    .map(|(_, node)| node.consensus.leader())
                    .collect();
                if let Some(Some(leader)) = views.first()
                    && views.len() == 1
                    && self
                        .nodes
                        .get(leader)
                        .is_some_and(|node| node.consensus.role() == Role::Leader)
                {
                    return *leader;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("a leader")
    }

    /// Some running member that does not lead.
    pub async fn follower(&self) -> NodeId {
        let leader = self.settled().await;
        *self.nodes.keys().find(|node| **node != leader).unwrap()
    }

    pub async fn propose(&self, via: NodeId, name: &str) -> Result<Proposed, ProposeError> {
        let consensus = &self.nodes[&via].consensus;
        consensus.propose(add(name), admin(), None).await
    }

    /// Waits until every running member has all names.
    pub async fn all_have(&self, names: &[&str]) {
        for node in self.nodes.values() {
            has(&node.consensus, names).await;
        }
    }
}

/// Waits until the member has exactly these names.
pub async fn has(consensus: &Consensus<Names>, names: &[&str]) {
    let mut applied = consensus.applied();
    let reached = async {
        while consensus.read(|state| state.names != names) {
            applied.changed().await.unwrap();
        }
    };
    if tokio::time::timeout(PATIENCE, reached).await.is_err() {
        let found = consensus.read(|state| state.names.clone());
        panic!("{consensus:?} has {found:?}, not {names:?}");
    }
}

/// Waits until the status is as wanted.
pub async fn status_is(consensus: &Consensus<Names>, wanted: impl Fn(&RaftStatus) -> bool) {
    let mut status = consensus.status();
    let reached = tokio::time::timeout(PATIENCE, status.wait_for(|now| wanted(now))).await;
    assert!(reached.is_ok(), "{:?}", consensus.status().borrow());
}
