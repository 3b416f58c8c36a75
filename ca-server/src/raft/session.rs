//! Which other members this one has met, and whether they are who they were.
//!
//! Responsible for: refusing a member whose disk was wiped or rolled back, a foreign
//! cluster and a stranger, before openraft sees a message of theirs or they one of ours.
//! Always holds: calls pass only between two processes that have exchanged Hello since
//! both started; a member that presents another store, or a log that ends before what it
//! acknowledged to us, is refused for good, unless a later leader may have cut that off.
//! Not here: certificates ([`super::auth`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mintmark_proto::mintmark::raft::v1 as pb;
use thiserror::Error;
use tokio::sync::watch;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::config::ClusterId;
use super::convert;
use super::log_store::LogStore;
use super::type_config::{LogId, NodeId, Vote};
use crate::store::StoreError;

/// Version of the peers' protocol.
pub const PROTOCOL: u32 = 1;

const NODE: &str = "mintmark-node";
const CLUSTER: &str = "mintmark-cluster-bin";
const INCARNATION: &str = "mintmark-incarnation-bin";
const BOOT: &str = "mintmark-boot-bin";
const SESSION: &str = "mintmark-session-bin";
/// Tells a refusal apart from other failed preconditions.
const REFUSAL: &str = "mintmark-refusal";

/// 16 random bytes.
pub type Mark = [u8; 16];

/// Why a member is not spoken with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeerRefusal {
    /// Its certificate is not that member's, or it was removed.
    #[error("the certificate is not that of member {node}, or the member was removed")]
    NotAuthorized {
        /// Who it says it is.
        node: NodeId,
    },
    /// It belongs to another cluster.
    #[error("member {node} belongs to another cluster")]
    ForeignCluster {
        /// Who it says it is.
        node: NodeId,
    },
    /// At the address of one member answers another.
    #[error("member {found} answers where member {expected} should")]
    WrongNode {
        /// Who was called.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// The disk is another one, so what it had promised is forgotten.
    #[error(
        "member {node} has another store than before: its disk was wiped or replaced; \
         remove it and admit it under a new id"
    )]
    Wiped {
        /// The member.
        node: NodeId,
    },
    /// The log is shorter than what it acknowledged.
    #[error(
        "member {node} has lost log entries that it had acknowledged: its disk was rolled \
         back; remove it and admit it under a new id"
    )]
    RolledBack {
        /// The member.
        node: NodeId,
    },
    /// It speaks another version of the protocol.
    #[error("member {node} speaks version {found} of the peers' protocol")]
    Protocol {
        /// The member.
        node: NodeId,
        /// Its version.
        found: u32,
    },
    /// One of the two has restarted since they met.
    #[error("member {node} has to say hello first")]
    NoSession {
        /// The member.
        node: NodeId,
    },
    /// Metadata that every call carries is missing or malformed.
    #[error("{0} is missing or malformed")]
    Malformed(&'static str),
}

impl PeerRefusal {
    /// For the wire.
    pub fn into_status(self) -> Status {
        let (code, name) = match &self {
            Self::NotAuthorized { .. } => (Code::PermissionDenied, "not-authorized"),
            Self::ForeignCluster { .. } => (Code::FailedPrecondition, "foreign-cluster"),
            Self::WrongNode { .. } => (Code::FailedPrecondition, "wrong-node"),
            Self::Wiped { .. } => (Code::FailedPrecondition, "wiped"),
            Self::RolledBack { .. } => (Code::FailedPrecondition, "rolled-back"),
            Self::Protocol { .. } => (Code::FailedPrecondition, "protocol"),
            Self::NoSession { .. } => (Code::Aborted, "no-session"),
            Self::Malformed(_) => (Code::InvalidArgument, "malformed"),
        };
        let mut metadata = MetadataMap::new();
        metadata.insert(REFUSAL, MetadataValue::from_static(name));
        Status::with_metadata(code, self.to_string(), metadata)
    }
}

fn refused_as(status: &Status, name: &str) -> bool {
    let found = status.metadata().get(REFUSAL);
    found.is_some_and(|value| value.as_bytes() == name.as_bytes())
}

/// True if the answer asks for a Hello.
pub fn wants_hello(status: &Status) -> bool {
    refused_as(status, "no-session")
}

/// What the other side says about us.
pub fn expelled_by(status: &Status) -> Option<Expelled> {
    if refused_as(status, "wiped") {
        Some(Expelled::Wiped)
    } else if refused_as(status, "rolled-back") {
        Some(Expelled::RolledBack)
    } else {
        None
    }
}

/// A peer proves that this member's disk is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expelled {
    /// It is another one.
    Wiped,
    /// It has forgotten what it had acknowledged.
    RolledBack,
}

/// The one who speaks.
#[derive(Debug, Clone)]
pub struct Own {
    /// This member.
    pub node_id: NodeId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Its store.
    pub incarnation: Mark,
    /// Its process.
    pub boot: Mark,
}

#[derive(Debug, Default)]
struct Peer {
    memory: pb::PeerMemory,
    /// The process whose store and log were checked.
    met: Option<Mark>,
    /// `clock_ms` of its last answer.
    echo_ms: u64,
}

/// All members that were met. A clone shares them.
#[derive(Clone)]
pub struct Sessions(Arc<Shared>);

struct Shared {
    own: Own,
    log: LogStore,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    expelled: watch::Sender<Option<Expelled>>,
}

impl Sessions {
    /// With what the log remembers of other members.
    #[must_use]
    pub fn new(own: Own, log: LogStore) -> Self {
        let peers = log
            .peers()
            .into_iter()
            .map(|(node, memory)| {
                let peer = Peer {
                    memory,
                    ..Peer::default()
                };
                (node, peer)
            })
            .collect();
        Self(Arc::new(Shared {
            own,
            log,
            peers: Mutex::new(peers),
            expelled: watch::Sender::new(None),
        }))
    }

    /// The one who speaks.
    #[must_use]
    pub fn own(&self) -> &Own {
        &self.0.own
    }

    /// Set when a peer refuses this member for good.
    #[must_use]
    pub fn expelled(&self) -> watch::Receiver<Option<Expelled>> {
        self.0.expelled.subscribe()
    }

    /// Notes what a peer says about us.
    pub fn note_status(&self, status: &Status) {
        if let Some(why) = expelled_by(status) {
            self.0.expelled.send_if_modified(|now| {
                let first = now.is_none();
                now.get_or_insert(why);
                first
            });
        }
    }

    /// What we say of ourselves, in both directions.
    #[must_use]
    pub fn hello(&self, clock_ms: i64) -> pb::HelloRequest {
        let (last, vote) = self.0.log.standing();
        pb::HelloRequest {
            node_id: self.0.own.node_id,
            incarnation: self.0.own.incarnation.to_vec(),
            last_log_id: last.as_ref().map(convert::log_id_to_pb),
            protocol: PROTOCOL,
            clock_ms,
            boot: self.0.own.boot.to_vec(),
            vote: vote.as_ref().map(convert::vote_to_pb),
        }
    }

    /// Takes up a Hello (or the answer to one) of `node`.
    ///
    /// # Errors
    /// A refusal, or a log that cannot remember.
    pub async fn meet(&self, node: NodeId, hello: pb::HelloRequest) -> Result<(), MeetError> {
        if hello.protocol != PROTOCOL {
            let found = hello.protocol;
            return Err(PeerRefusal::Protocol { node, found }.into());
        }
        let boot = mark(&hello.boot, "boot")?;
        let incarnation = mark(&hello.incarnation, "incarnation")?;
        let last = convert::optional_log_id(hello.last_log_id)
            .map_err(|_| PeerRefusal::Malformed("last_log_id"))?;
        let vote = hello.vote.map(|vote| convert::vote_from_pb(Some(vote)));
        let vote = vote
            .transpose()
            .map_err(|_| PeerRefusal::Malformed("vote"))?;
        let is_new = {
            let mut peers = self.peers();
            match peers.get_mut(&node) {
                Some(peer) if !peer.memory.incarnation.is_empty() => {
                    peer.settle(&self.0.log);
                    peer.check(node, incarnation, boot, last, vote)?;
                    false
                }
                _ => true,
            }
        };
        if is_new {
            // Durably, or a wipe right after the first meeting would go unnoticed.
            let memory = pb::PeerMemory {
                incarnation: incarnation.to_vec(),
                ..pb::PeerMemory::default()
            };
            self.0.log.remember_peer(node, memory.clone(), true).await?;
            self.peers().entry(node).or_default().memory = memory;
        }
        let mut peers = self.peers();
        let peer = peers.entry(node).or_default();
        if peer.met != Some(boot) {
            peer.met = Some(boot);
            peer.echo_ms = 0;
        }
        Ok(())
    }

    /// The process of `node` that was met, if any.
    #[must_use]
    pub fn met(&self, node: NodeId) -> Option<Mark> {
        self.peers().get(&node)?.met
    }

    /// `node` may have restarted: it has to be met again.
    pub fn forget(&self, node: NodeId) {
        if let Some(peer) = self.peers().get_mut(&node) {
            peer.met = None;
        }
    }

    /// `node` said to this member, which led under `vote`, that it holds the log through `log_id`.
    ///
    /// # Errors
    /// When the log cannot remember.
    pub async fn acknowledged(
        &self,
        node: NodeId,
        log_id: LogId,
        vote: &Vote,
    ) -> Result<(), StoreError> {
        let memory = {
            let mut peers = self.peers();
            let Some(peer) = peers.get_mut(&node) else {
                return Ok(());
            };
            let before = peer.memory.clone();
            peer.settle(&self.0.log);
            peer.hear(log_id, vote);
            peer.settle(&self.0.log);
            peer.memory.boot = peer.met.map_or_else(Vec::new, Vec::from);
            if peer.memory == before {
                return Ok(());
            }
            peer.memory.clone()
        };
        self.0.log.remember_peer(node, memory, false).await
    }

    /// Notes and returns clocks of answers, see `AppendEntriesRequest.echo_ms`.
    pub fn note_clock(&self, node: NodeId, clock_ms: u64) {
        if let Some(peer) = self.peers().get_mut(&node) {
            peer.echo_ms = peer.echo_ms.max(clock_ms);
        }
    }

    /// The greatest clock that `node` told us.
    #[must_use]
    pub fn echo(&self, node: NodeId) -> u64 {
        self.peers().get(&node).map_or(0, |peer| peer.echo_ms)
    }

    /// Writes who speaks into a call (to the process `session`) or an answer.
    pub fn sign(&self, metadata: &mut MetadataMap, session: Option<Mark>) {
        let own = &self.0.own;
        metadata.insert(NODE, MetadataValue::from(own.node_id));
        metadata.insert_bin(
            CLUSTER,
            MetadataValue::from_bytes(own.cluster_id.as_bytes()),
        );
        metadata.insert_bin(INCARNATION, MetadataValue::from_bytes(&own.incarnation));
        metadata.insert_bin(BOOT, MetadataValue::from_bytes(&own.boot));
        if let Some(session) = session {
            metadata.insert_bin(SESSION, MetadataValue::from_bytes(&session));
        }
    }

    /// Who makes this call; for Hello no session is asked for.
    ///
    /// # Errors
    /// A refusal.
    pub fn caller(&self, metadata: &MetadataMap, is_hello: bool) -> Result<NodeId, PeerRefusal> {
        let node = self.speaker(metadata)?;
        if !is_hello {
            let session = binary(metadata, SESSION).ok();
            let own = session == Some(self.0.own.boot);
            if !own || self.met(node) != Some(binary(metadata, BOOT)?) {
                return Err(PeerRefusal::NoSession { node });
            }
        }
        Ok(node)
    }

    /// Checks that the answer comes from the process of `node` that was met (any process
    /// for the answer to a Hello).
    ///
    /// # Errors
    /// A refusal.
    pub fn check_answer(
        &self,
        node: NodeId,
        metadata: &MetadataMap,
        is_hello: bool,
    ) -> Result<(), PeerRefusal> {
        let found = self.speaker(metadata)?;
        if found != node {
            return Err(PeerRefusal::WrongNode {
                expected: node,
                found,
            });
        }
        if !is_hello && self.met(node) != Some(binary(metadata, BOOT)?) {
            return Err(PeerRefusal::NoSession { node });
        }
        Ok(())
    }

    fn speaker(&self, metadata: &MetadataMap) -> Result<NodeId, PeerRefusal> {
        let node = metadata
            .get(NODE)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .ok_or(PeerRefusal::Malformed(NODE))?;
        let cluster = binary(metadata, CLUSTER)?;
        if cluster != self.0.own.cluster_id.0 {
            return Err(PeerRefusal::ForeignCluster { node });
        }
        if node == self.0.own.node_id {
            // We call ourselves: an address is wrong, and openraft would panic on it.
            return Err(PeerRefusal::WrongNode {
                expected: 0,
                found: node,
            });
        }
        let incarnation = binary(metadata, INCARNATION)?;
        if let Some(peer) = self.peers().get(&node)
            && !peer.memory.incarnation.is_empty()
            && peer.memory.incarnation != incarnation
        {
            return Err(PeerRefusal::Wiped { node });
        }
        Ok(node)
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.0.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a Hello was not taken up.
#[derive(Debug, Error)]
pub enum MeetError {
    /// The peer is refused.
    #[error(transparent)]
    Refused(#[from] PeerRefusal),
    /// It cannot be remembered.
    #[error("the log cannot remember the peer")]
    Store(#[from] StoreError),
}

impl Peer {
    /// What it acknowledged to the last leadership of this member, and which that was.
    fn acknowledged(&self) -> Option<(LogId, Vote)> {
        let log_id = convert::log_id_from_pb(self.memory.acknowledged?).ok()?;
        let vote = convert::vote_from_pb(self.memory.vote).ok()?;
        Some((log_id, vote))
    }

    /// What it ever acknowledged and is known to be committed.
    fn committed(&self) -> Option<LogId> {
        convert::log_id_from_pb(self.memory.committed?).ok()
    }

    /// It holds the log through `log_id`, it says to the leadership `vote`.
    fn hear(&mut self, log_id: LogId, vote: &Vote) {
        let is_news = self
            .acknowledged()
            .is_none_or(|(held, led)| (vote.leader_id, log_id) > (led.leader_id, held));
        if is_news {
            self.memory.acknowledged = Some(convert::log_id_to_pb(&log_id));
            self.memory.vote = Some(convert::vote_to_pb(vote));
        }
    }

    /// Takes over what has been committed of what it acknowledged, as long as that stands in this
    /// member's log as it did then.
    fn settle(&mut self, log: &LogStore) {
        let Some((log_id, led)) = self.acknowledged() else {
            return;
        };
        let still_leads = log.vote().map(|vote| vote.leader_id) == Some(led.leader_id);
        if !still_leads && !log.holds(log_id) {
            return;
        }
        let committed = log.committed().min(Some(log_id)).max(self.committed());
        self.memory.committed = committed.as_ref().map(convert::log_id_to_pb);
    }

    /// True if a log that ends with `last`, under `vote`, lacks what was acknowledged.
    ///
    /// What is committed is never cut off. What is not, a later leader may have cut off, and the
    /// member has taken on that leader's vote before (Raft, section 5.3). A log whose place a snapshot
    /// takes stays on disk until the snapshot is there.
    fn has_lost(&self, last: Option<LogId>, vote: Option<Vote>) -> bool {
        let no_later_leader = |led: Vote| vote.is_none_or(|vote| vote.leader_id <= led.leader_id);
        last < self.committed()
            || self
                .acknowledged()
                .is_some_and(|(log_id, led)| last < Some(log_id) && no_later_leader(led))
    }

    fn check(
        &self,
        node: NodeId,
        incarnation: Mark,
        boot: Mark,
        last: Option<LogId>,
        vote: Option<Vote>,
    ) -> Result<(), PeerRefusal> {
        if self.memory.incarnation != incarnation {
            return Err(PeerRefusal::Wiped { node });
        }
        // A process that was met before cannot have lost anything, and may well have
        // acknowledged more than it knew of when it wrote this Hello, also to our last run:
        // a Hello may wait until we are there again.
        if self.met == Some(boot) || self.memory.boot == boot {
            return Ok(());
        }
        if self.has_lost(last, vote) {
            return Err(PeerRefusal::RolledBack { node });
        }
        if self
            .acknowledged()
            .is_some_and(|(log_id, _)| last < Some(log_id))
        {
            tracing::info!(
                node,
                "a later leader had this member cut off what it acknowledged"
            );
        }
        Ok(())
    }
}

fn mark(bytes: &[u8], field: &'static str) -> Result<Mark, PeerRefusal> {
    bytes.try_into().map_err(|_| PeerRefusal::Malformed(field))
}

fn binary(metadata: &MetadataMap, name: &'static str) -> Result<Mark, PeerRefusal> {
    let value = metadata.get_bin(name);
    let bytes = value.and_then(|value| value.to_bytes().ok());
    bytes
        .and_then(|bytes| bytes.as_ref().try_into().ok())
        .ok_or(PeerRefusal::Malformed(name))
}
