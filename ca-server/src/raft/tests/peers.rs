//! What a caller on the peers' port gets that does not play by the rules.

use futures_util::stream;
use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_proto::mintmark::raft::v1::snapshot_chunk::{Begin, Part};
use mintmark_runtime::grpc::{ChannelOptions, Target, channel};
use mintmark_runtime::network::Address;
use sha2::{Digest, Sha256};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use super::harness::{CLUSTER, Cluster, address};
use crate::raft::peers::Client;
use crate::raft::session::PROTOCOL;

/// A peer of member 1 that says what it likes.
struct Caller {
    client: Client,
    node: u64,
    cluster: [u8; 16],
    incarnation: [u8; 16],
    boot: [u8; 16],
    session: Option<[u8; 16]>,
}

impl Caller {
    fn new(cluster: &mut Cluster) -> Self {
        let target = Target::Tcp {
            address: Address::parse(&address(1)).unwrap(),
            tls: None,
        };
        let network = cluster.host(7).network;
        let client = Client::new(channel(network, target, ChannelOptions::default()));
        Self {
            client,
            node: 7,
            cluster: CLUSTER.0,
            incarnation: [1; 16],
            boot: [2; 16],
            session: None,
        }
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("mintmark-node", MetadataValue::from(self.node));
        let mut mark = |name: &'static str, mark: &[u8]| {
            metadata.insert_bin(name, MetadataValue::from_bytes(mark));
        };
        mark("mintmark-cluster-bin", &self.cluster);
        mark("mintmark-incarnation-bin", &self.incarnation);
        mark("mintmark-boot-bin", &self.boot);
        if let Some(session) = &self.session {
            mark("mintmark-session-bin", session);
        }
        request
    }

    async fn hello(&mut self, last: Option<pb::LogId>) -> Result<pb::HelloResponse, Status> {
        let request = self.request(pb::HelloRequest {
            node_id: self.node,
            incarnation: self.incarnation.to_vec(),
            last_log_id: last,
            protocol: PROTOCOL,
            clock_ms: 0,
            boot: self.boot.to_vec(),
            vote: None,
        });
        let answer = self.client.hello(request).await?.into_inner();
        self.session = Some(answer.boot.clone().try_into().unwrap());
        Ok(answer)
    }

    async fn read_index(&mut self) -> Result<u64, Status> {
        let request = self.request(pb::ReadIndexRequest {});
        Ok(self.client.read_index(request).await?.into_inner().index)
    }

    async fn snapshot(&mut self, parts: Vec<Part>) -> Status {
        let parts = parts
            .into_iter()
            .map(|part| pb::SnapshotChunk { part: Some(part) });
        let request = self.request(stream::iter(parts));
        self.client.install_snapshot(request).await.unwrap_err()
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_heard_without_saying_who_and_hello() {
    let mut cluster = Cluster::of(1).await;
    let mut caller = Caller::new(&mut cluster);
    let bare = caller.client.read_index(pb::ReadIndexRequest {}).await;
    assert_eq!(bare.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(caller.read_index().await.unwrap_err().code(), Code::Aborted);
    caller.hello(None).await.unwrap();
    caller.read_index().await.unwrap();
    // After either side's restart it has to be said again.
    caller.boot = [3; 16];
    assert_eq!(caller.read_index().await.unwrap_err().code(), Code::Aborted);
    caller.hello(None).await.unwrap();
    caller.session = Some([9; 16]);
    assert_eq!(caller.read_index().await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test(start_paused = true)]
async fn foreign_and_false_members_are_refused() {
    let mut cluster = Cluster::of(1).await;
    let mut caller = Caller::new(&mut cluster);
    caller.cluster = [0; 16];
    let foreign = caller.hello(None).await.unwrap_err();
    assert_eq!(foreign.code(), Code::FailedPrecondition);
    caller.cluster = CLUSTER.0;
    caller.node = 1;
    let itself = caller.hello(None).await.unwrap_err();
    assert_eq!(
        itself.code(),
        Code::FailedPrecondition,
        "a member cannot call itself"
    );
    caller.node = 7;
    cluster.strangers.0.lock().unwrap().insert(7);
    let stranger = caller.hello(None).await.unwrap_err();
    assert_eq!(stranger.code(), Code::PermissionDenied);
    cluster.strangers.0.lock().unwrap().clear();
    caller.hello(None).await.unwrap();
    caller.incarnation = [8; 16];
    let wiped = caller.hello(None).await.unwrap_err();
    assert_eq!(wiped.metadata().get("mintmark-refusal").unwrap(), "wiped");
    assert!(wiped.message().contains("wiped"), "{wiped}");
    assert_eq!(
        caller.read_index().await.unwrap_err().code(),
        Code::FailedPrecondition
    );
}

#[tokio::test(start_paused = true)]
async fn messages_that_make_no_sense_change_nothing() {
    let mut cluster = Cluster::of(1).await;
    cluster.propose(1, "a").await.unwrap();
    let mut caller = Caller::new(&mut cluster);
    caller.hello(None).await.unwrap();
    let request = caller.request(pb::AppendEntriesRequest::default());
    let empty = caller.client.append_entries(request).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
    let request = caller.request(pb::VoteRequest::default());
    let empty = caller.client.vote(request).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
    let request = caller.request(pb::ChangeMembershipRequest::default());
    let empty = caller.client.change_membership(request).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
    let request = caller.request(pb::ProposeRequest {
        command: vec![0xff; 9],
        deadline_ms: u64::MAX,
    });
    let garbled = caller.client.propose(request).await.unwrap_err();
    assert_eq!(garbled.code(), Code::InvalidArgument);
    let request = caller.request(pb::ProposeRequest {
        command: prost::Message::encode_to_vec(&pb::Command {
            proposer: 1,
            ..Default::default()
        }),
        deadline_ms: 1000,
    });
    let false_proposer = caller.client.propose(request).await.unwrap_err();
    assert_eq!(false_proposer.code(), Code::InvalidArgument);
    cluster.propose(1, "b").await.unwrap();
    cluster.all_have(&["a", "b"]).await;
}

fn head(length: u64, content: &[u8]) -> Part {
    let leader = Some(pb::LeaderId {
        term: 99,
        node_id: 7,
    });
    Part::Begin(Begin {
        vote: Some(pb::Vote {
            leader,
            committed: true,
        }),
        meta: Some(pb::SnapshotMeta {
            last_log_id: Some(pb::LogId { leader, index: 99 }),
            last_membership: Some(pb::StoredMembership {
                membership: Some(pb::Membership::default()),
                ..Default::default()
            }),
            snapshot_id: "x".into(),
            sha256: Sha256::digest(content).to_vec(),
            length,
        }),
    })
}

#[tokio::test(start_paused = true)]
async fn snapshots_are_bounded_and_checked_before_they_are_installed() {
    let mut cluster = Cluster::of(1).await;
    cluster.propose(1, "a").await.unwrap();
    let mut caller = Caller::new(&mut cluster);
    caller.hello(None).await.unwrap();
    let data = |bytes: &[u8]| Part::Data(bytes.to_vec());
    let cases = [
        (vec![data(b"no head")], Code::InvalidArgument),
        (vec![head(u64::MAX, b"")], Code::ResourceExhausted),
        (vec![head(3, b"abc"), data(b"ab")], Code::DataLoss),
        (vec![head(3, b"abc"), data(b"abcd")], Code::DataLoss),
        (vec![head(3, b"abc"), data(b"abd")], Code::DataLoss),
        (
            vec![head(3, b"abc"), head(3, b"abc")],
            Code::InvalidArgument,
        ),
    ];
    for (parts, code) in cases {
        assert_eq!(caller.snapshot(parts).await.code(), code);
    }
    cluster.propose(1, "b").await.unwrap();
    cluster.all_have(&["a", "b"]).await;
}
