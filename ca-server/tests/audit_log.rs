//! The audit log of a server that runs, as its readers meet it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod state_support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ca_server::audit::AuditLog;
use ca_server::audit::committed::CommittedLog;
use ca_server::audit::sink::SinkMetrics;
use ca_server::audit::tail::{Chunk, TailRequest};
use ca_server::raft::{ClusterId, Consensus, NodeId, PeerAuth, RaftConfig};
use ca_server::state::State;
use futures_util::StreamExt as _;
use mintmark_identity::clock::Timestamp;
use mintmark_proto::mintmark::raft::v1::command::Body;
use mintmark_proto::mintmark::raft::v1::{CreateEntries, RecordDenial};
use mintmark_runtime::Host;
use mintmark_runtime::disk::MODE_DIRECTORY;
use mintmark_runtime::task::Tasks;
use mintmark_runtime::testing::MemoryHost;
use mintmark_runtime::tls::ClientConfigSource;
use mintmark_tlog::{Frontier, leaf_hash, verify_inclusion};
use rustls_pki_types::CertificateDer;
use state_support::{T0, by_server, entry, initialize, local};
use tokio_util::sync::CancellationToken;

const FOLDER: &str = "/data";
const SINK: &str = "/data/audit.jsonl";

/// A cluster of one has no peers.
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

/// One server, as far as the log goes.
struct Server {
    tasks: Tasks,
    consensus: Consensus<State>,
    audit: AuditLog,
}

impl Server {
    async fn start(host: &Host) -> Self {
        let tasks = Tasks::new();
        let config = RaftConfig::new(1, ClusterId([9; 16]), "one:7000", FOLDER);
        let consensus = Consensus::<State>::open(host, &config, Arc::new(NoPeers), &tasks);
        let consensus = consensus.await.unwrap();
        if !consensus.is_member() {
            consensus.bootstrap().await.unwrap();
        }
        let leaves = Arc::new(CommittedLog::new(consensus.clone()));
        let audit = AuditLog::start(host, leaves, Path::new(FOLDER), &tasks)
            .await
            .unwrap();
        audit.copy_to_file(host, Path::new(SINK), &SinkMetrics::default(), &tasks);
        Self {
            tasks,
            consensus,
            audit,
        }
    }

    async fn stop(self) {
        self.consensus.shutdown().await;
        let Self {
            tasks,
            consensus,
            audit,
        } = self;
        drop((consensus, audit));
        assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, [""; 0]);
    }

    async fn propose(&self, body: Body) {
        let actor = if matches!(body, Body::RecordDenial(_)) {
            by_server(1)
        } else {
            local()
        };
        let proposed = self.consensus.propose(body, actor, None).await.unwrap();
        assert_eq!(proposed.result.refusal, 0, "{}", proposed.result.detail);
    }

    fn size(&self) -> u64 {
        self.consensus.read(State::audit_size)
    }

    async fn all(&self) -> Vec<Chunk> {
        let stream = self
            .audit
            .log()
            .tail(TailRequest::default(), CancellationToken::new());
        stream.unwrap().map(Result::unwrap).collect().await
    }
}

fn host() -> MemoryHost {
    let memory = MemoryHost::new(Timestamp::from_unix_millis(T0), 1);
    memory
        .host()
        .disk
        .create_dir_all(Path::new(FOLDER), MODE_DIRECTORY)
        .unwrap();
    memory
}

fn denial(number: u64) -> Body {
    Body::RecordDenial(RecordDenial {
        action: "x509.issue".into(),
        subject: format!("spiffe://example.org/{number}"),
        reason: "test".into(),
    })
}

fn sink_indices(host: &Host) -> Vec<u64> {
    let file = host.disk.read(Path::new(SINK)).unwrap_or_default();
    let text = String::from_utf8(file).unwrap();
    let index = |line: &str| {
        let leaf: serde_json::Value = serde_json::from_str(line).unwrap();
        leaf["index"].as_u64().unwrap()
    };
    text.lines().map(index).collect()
}

/// Waits, in paused time, until the sink has the whole log.
async fn sink_has(host: &Host, size: u64) {
    let complete = async {
        while sink_indices(host).len() as u64 != size {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), complete)
        .await
        .expect("the sink follows");
    assert!(sink_indices(host).into_iter().eq(0..size));
}

#[tokio::test(start_paused = true)]
async fn every_committed_leaf_can_be_followed_proved_and_is_copied() {
    let memory = host();
    let host = memory.host();
    let server = Server::start(&host).await;
    server.propose(Body::InitializeCluster(initialize())).await;
    let request = TailRequest {
        follow: true,
        ..TailRequest::default()
    };
    let follower = server
        .audit
        .log()
        .tail(request, server.tasks.token())
        .unwrap();
    let mut follower = Box::pin(follower);
    let mut followed = Frontier::new();
    for number in 0..40 {
        server.propose(denial(number)).await;
        while followed.size() < server.size() {
            let chunk = follower.next().await.unwrap().unwrap();
            assert_eq!(chunk.first_index, followed.size());
            for leaf in &chunk.leaves {
                followed.push(leaf_hash(leaf));
            }
        }
    }
    let (size, root) = server
        .consensus
        .read(|state| (state.audit_size(), state.audit_root()));
    assert_eq!((followed.size(), followed.root()), (size, root));

    server.audit.hashes().reached(size).await;
    let leaves: Vec<_> = server
        .all()
        .await
        .into_iter()
        .flat_map(|chunk| chunk.leaves)
        .collect();
    for (index, leaf) in (0..).zip(&leaves) {
        let proof = server.audit.hashes().inclusion(index, size).await.unwrap();
        assert_eq!(proof.root, root);
        verify_inclusion(&leaf_hash(leaf), index, size, &proof.hashes, &root).unwrap();
    }
    sink_has(&host, size).await;
    drop(follower);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn after_restarts_the_copy_has_every_leaf_once_and_the_hashes_go_on() {
    let memory = host();
    let host = memory.host();
    for round in 0..4 {
        let server = Server::start(&host).await;
        if round == 0 {
            server.propose(Body::InitializeCluster(initialize())).await;
        }
        let name = format!("entry-{round}");
        let made = entry(&name, "/spire/server", &format!("/{name}"), &["unix:uid:1"]);
        server
            .propose(Body::CreateEntries(CreateEntries {
                entries: vec![made],
            }))
            .await;
        for number in 0..10 {
            server.propose(denial(number)).await;
        }
        // Some rounds end before the sink or the hashes have caught up.
        if round % 2 == 0 {
            sink_has(&host, server.size()).await;
            server.audit.hashes().reached(server.size()).await;
        }
        server.stop().await;
    }
    let server = Server::start(&host).await;
    sink_has(&host, 1 + 4 * 11).await;
    assert_eq!(server.size(), 1 + 4 * 11);
    server.audit.hashes().reached(server.size()).await;
    let proof = server
        .audit
        .hashes()
        .inclusion(0, server.size())
        .await
        .unwrap();
    assert_eq!(proof.root, server.consensus.read(State::audit_root));
    server.stop().await;
}
