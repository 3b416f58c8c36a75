//! Putting a member together.
//!
//! Responsible for: opening the stores, making the parts, and starting what runs.
//! Always holds: everything of ours that runs is in the process's tasks; openraft's own
//! tasks end with [`Consensus::shutdown`] or the last handle. Not here: what the parts
//! do.

use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::entropy::{draw_bytes, draw_u64};
use mintmark_runtime::Host;
use mintmark_runtime::failpoint::{Step, reach};
use mintmark_runtime::task::Tasks;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Consensus, Inner};
use crate::raft::auth::PeerAuth;
use crate::raft::backfill::Backfill;
use crate::raft::compare::{Comparer, yield_on_skew};
use crate::raft::config::RaftConfig;
use crate::raft::log_store::LogStore;
use crate::raft::machine::Machine;
use crate::raft::marks::Marks;
use crate::raft::membership::MembershipChanges;
use crate::raft::network::Links;
use crate::raft::open::{OpenError, Stores, open_stores};
use crate::raft::peers::Peers;
use crate::raft::propose::{Batcher, Pending, Proposer};
use crate::raft::read_index::{ReadIndex, Resumed};
use crate::raft::replicated_state::ReplicatedState;
use crate::raft::runtime::SeededRuntime;
use crate::raft::session::{Own, Sessions};
use crate::raft::status::{Agreement, StatusWatch};
use crate::raft::type_config::Raft;
use crate::raft::waiters::Waiters;
use crate::store::StoreError;
use crate::store::checkpoint::{HEAD_RECORD, STATE_FILE};

/// Time for a Hello when this member starts.
const GREET_TIMEOUT: Duration = Duration::from_secs(2);

impl<S: ReplicatedState> Consensus<S> {
    /// Opens the stores and takes part. A member that is new stays silent until it
    /// bootstraps a cluster or is added to one.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(
        host: &Host,
        config: &RaftConfig,
        auth: Arc<dyn PeerAuth>,
        tasks: &Tasks,
    ) -> Result<Self, OpenError> {
        let timing = config.openraft()?;
        let stores = stores(host, config).await?;
        reach(Step::StoresOpened);
        let (checkpoints, leaves) = (stores.checkpoints, stores.leaves);
        let waiters = Waiters::new(&*host.entropy);
        let agreement = Agreement::new(config, &host.clock);
        let Agreement {
            quorum,
            clocks,
            marks,
        } = agreement.clone();
        let machine = Machine::open(checkpoints, leaves, waiters.clone(), marks.clone()).await?;
        reach(Step::StateRestored);
        let (log, writer) = (stores.log, stores.writer);
        match_checkpoint(&log, &machine)?;
        // The failure is noted in the log's view and in every answer.
        tasks.spawn("raft log writer", async move { drop(writer.run().await) });
        let peers = peers(host, config, &auth, &log);
        let resumed = Resumed::of(&log, config.node_id);
        let links = Links {
            peers: peers.clone(),
            quorum: quorum.clone(),
        };
        let new = Raft::new(config.node_id, timing, links, log.clone(), machine.clone());
        let raft = SeededRuntime::scope(draw_u64(&*host.entropy), new).await;
        let raft = raft.map_err(|error| match (log.fault(), machine.fault()) {
            (Some(fault), _) => OpenError::Store(fault),
            (None, Some(fault)) => OpenError::Replay(fault),
            (None, None) => OpenError::Consensus(error.to_string()),
        })?;
        reach(Step::LogReplayed);
        let (status, keep) = StatusWatch::follow(raft.metrics(), machine.position(), agreement);
        tasks.spawn("raft status", keep);
        let (proposer, pending) = Proposer::new(
            config,
            waiters,
            peers.clone(),
            status.clone(),
            machine.progress(),
            (clocks.clone(), marks.fault()),
        );
        let membership = MembershipChanges::new(
            config.node_id,
            raft.clone(),
            peers.clone(),
            status.clone(),
            clocks.clone(),
            machine.leaves().clone(),
        );
        let consensus = Self(Arc::new(Inner {
            config: config.clone(),
            reads: ReadIndex::new(raft.clone(), resumed),
            raft,
            machine,
            log,
            peers,
            quorum,
            clocks,
            marks,
            status,
            proposer,
            membership,
            auth,
            host: host.clone(),
            tasks: tasks.clone(),
            _lock: stores.lock,
        }));
        consensus.start(pending);
        Ok(consensus)
    }

    fn start(&self, pending: mpsc::Receiver<Pending>) {
        let inner = &self.0;
        let tasks = &inner.tasks;
        let batcher = Batcher {
            raft: inner.raft.clone(),
            tasks: tasks.clone(),
            clocks: inner.clocks.clone(),
            pending,
            progress: inner.machine.progress(),
        };
        tasks.spawn("raft batcher", batcher.run());
        let backfill = Backfill {
            machine: inner.machine.clone(),
            peers: inner.peers.clone(),
            status: inner.status.clone(),
            stop: tasks.token(),
        };
        tasks.spawn("audit leaf backfill", backfill.run());
        let watch_over = until(tasks.token(), inner.membership.clone().watch_over());
        tasks.spawn("raft membership", watch_over);
        let greet_all = greet_all(inner.peers.clone(), inner.status.clone());
        tasks.spawn("raft greeting", until(tasks.token(), greet_all));
        let comparer = Comparer {
            peers: inner.peers.clone(),
            status: inner.status.clone(),
            clocks: inner.clocks.clone(),
            marks: inner.marks.clone(),
            stop: tasks.token(),
        };
        tasks.spawn("raft comparing", comparer.run());
        let yielding = yield_on_skew(inner.raft.clone(), inner.clocks.clone(), tasks.token());
        tasks.spawn("raft clock", yielding);
        let halt = halt_when_diverged(inner.raft.clone(), inner.marks.clone());
        tasks.spawn("raft divergence", until(tasks.token(), halt));
    }
}

/// Purge never passes the last durable checkpoint; so if the log starts behind it, the checkpoint
/// is gone. The library would say that entries are missing, which sends an operator to the wrong file.
/// If the log has not caught up with a checkpoint that came as a snapshot, it does now.
fn match_checkpoint<S: ReplicatedState>(
    log: &LogStore,
    machine: &Machine<S>,
) -> Result<(), OpenError> {
    let applied = machine.progress().borrow().applied;
    if log.purged().map(|id| id.index) > applied.map(|id| id.index) {
        return Err(OpenError::Store(StoreError::Missing {
            file: STATE_FILE,
            record: HEAD_RECORD.to_owned(),
        }));
    }
    if let Some(applied) = applied {
        log.give_up_unless_holds(applied);
    }
    Ok(())
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// Ends consensus at once when the state is wrong, whoever else still runs: a wrong state answers no
/// read, and is written to no checkpoint.
async fn halt_when_diverged(raft: Raft, marks: Marks) {
    let mut fault = marks.fault();
    if fault.wait_for(Option::is_some).await.is_ok() {
        tracing::error!("the replicated state differs between members; this server stops");
        // A panic in the library was reported when it happened.
        let _ = raft.shutdown().await;
    }
}

async fn stores(host: &Host, config: &RaftConfig) -> Result<Stores, OpenError> {
    let (its_host, its_config) = (host.clone(), config.clone());
    let open = move || open_stores(&its_host, &its_config);
    let opened = host.disk.run(open).await;
    opened.map_err(|source| OpenError::Folder {
        folder: config.folder.clone(),
        source,
    })?
}

fn peers(host: &Host, config: &RaftConfig, auth: &Arc<dyn PeerAuth>, log: &LogStore) -> Peers {
    let own = Own {
        node_id: config.node_id,
        cluster_id: config.cluster_id,
        incarnation: log.owner().incarnation,
        boot: draw_bytes(&*host.entropy),
    };
    Peers::new(
        Arc::clone(&host.network),
        Arc::clone(auth),
        Arc::clone(&host.clock),
        Sessions::new(own, log.clone()),
    )
}

/// Says Hello to every member once, so that a disk that was rolled back is found out
/// before it is asked to vote.
async fn greet_all(peers: Peers, status: StatusWatch) {
    let own = peers.sessions().own().node_id;
    let mut changes = status.subscribe();
    let known = changes.wait_for(|now| !now.members.is_empty()).await;
    let Ok(now) = known.map(|now| now.clone()) else {
        return;
    };
    for node in now.members.keys().filter(|node| **node != own) {
        if peers.sessions().met(*node).is_none()
            && let Some(remote) = now.remote(*node)
            && let Err(error) = peers.greet(&remote, GREET_TIMEOUT).await
        {
            tracing::debug!(%error, "a member was not reached at start");
        }
    }
}
