//! The push stream: what reaches an agent, when, and from where on.

use std::time::Duration;

use mintmark_proto::mintmark::agent::v1 as wire;
use mintmark_proto::mintmark::agent::v1::server_message::Body;
use mintmark_proto::spire::agent::agent_client::AgentClient;
use mintmark_proto::spire::agent::{BanAgentRequest, DeleteAgentRequest};
use mintmark_proto::spire::entry::BatchDeleteEntryRequest;
use mintmark_proto::spire::entry::entry_client::EntryClient;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::harness::*;

/// Well below the ten seconds after which a stream looks although nothing woke it, and far above what a
/// push takes on a busy machine: this tells a push from a look, and not how fast it is.
const PUSHED: Duration = Duration::from_secs(5);

struct Stream {
    send: mpsc::Sender<wire::AgentMessage>,
    receive: Streaming<wire::ServerMessage>,
}

impl Stream {
    async fn open(agent: &Agent, resume_from: Option<wire::Position>) -> Result<Self, Status> {
        let (send, messages) = mpsc::channel(8);
        let begin = wire::agent_message::Begin {
            resume_from,
            version: "test".into(),
        };
        send.send(message(wire::agent_message::Body::Begin(begin)))
            .await
            .unwrap();
        let receive = agent
            .push()
            .sync(ReceiverStream::new(messages))
            .await?
            .into_inner();
        Ok(Self { send, receive })
    }

    /// The next update, which must have been pushed.
    async fn next(&mut self) -> Result<wire::Update, Status> {
        let next = tokio::time::timeout(PUSHED, self.receive.next()).await;
        match next
            .expect("an update that is pushed")
            .expect("an open stream")?
            .body
        {
            Some(Body::Update(update)) => Ok(update),
            other => panic!("{other:?}"),
        }
    }

    async fn acknowledge(&self, update: &wire::Update) {
        let acknowledge = wire::agent_message::Acknowledge {
            position: update.position,
            bundle_sequence: update.bundles.first().map_or(0, |bundle| bundle.sequence),
        };
        let body = wire::agent_message::Body::Acknowledge(acknowledge);
        self.send.send(message(body)).await.unwrap();
    }
}

fn message(body: wire::agent_message::Body) -> wire::AgentMessage {
    wire::AgentMessage { body: Some(body) }
}

fn ids(update: &wire::Update) -> Vec<&str> {
    update
        .entries
        .iter()
        .map(|entry| entry.id.as_str())
        .collect()
}

async fn delete(server: &ca_server::RunningServer, id: &str) {
    let request = BatchDeleteEntryRequest {
        ids: vec![id.to_owned()],
    };
    EntryClient::new(admin(server))
        .batch_delete_entry(request)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_stream_brings_everything_and_then_each_change_as_it_commits() {
    let mut home = Home::new();
    let server = home.ready().await;
    let (agent, other) = (Agent::new(&server).await, Agent::new(&server).await);
    let first = entry(&server, agent.id(), "/a").await;
    let mut stream = Stream::open(&agent, None).await.unwrap();
    let begin = stream.next().await.unwrap();
    assert!(begin.complete);
    assert_eq!(ids(&begin), [first.id.as_str()]);
    assert_eq!(begin.bundles[0].trust_domain, TRUST_DOMAIN);
    let defaults = begin.defaults.as_ref().unwrap();
    assert_eq!(defaults.x509_svid_ttl_seconds, 3600);
    assert_eq!(defaults.servers, [server.api_address()]);

    // What is not for this agent does not wake it.
    entry(&server, other.id(), "/theirs").await;
    let second = entry(&server, agent.id(), "/b").await;
    let update = stream.next().await.unwrap();
    assert!(!update.complete);
    assert_eq!(ids(&update), [second.id.as_str()]);
    delete(&server, &first.id).await;
    let update = stream.next().await.unwrap();
    assert_eq!(update.removed_entry_ids, std::slice::from_ref(&first.id));
    assert!(update.position.unwrap().index > begin.position.unwrap().index);
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_resumes_where_it_was() {
    let mut home = Home::new();
    let server = home.ready().await;
    let (agent, other) = (Agent::new(&server).await, Agent::new(&server).await);
    let kept = entry(&server, agent.id(), "/kept").await;
    let gone = entry(&server, agent.id(), "/gone").await;
    let mut stream = Stream::open(&agent, None).await.unwrap();
    let begin = stream.next().await.unwrap();
    assert_eq!(ids(&begin).len(), 2);
    drop(stream);
    delete(&server, &gone.id).await;
    let new = entry(&server, agent.id(), "/new").await;
    let theirs = entry(&server, other.id(), "/theirs").await;
    delete(&server, &theirs.id).await;

    let mut stream = Stream::open(&agent, begin.position).await.unwrap();
    let update = stream.next().await.unwrap();
    assert!(!update.complete);
    assert_eq!(
        ids(&update),
        [new.id.as_str()],
        "{} was there before",
        kept.id
    );
    assert_eq!(
        update.removed_entry_ids,
        std::slice::from_ref(&gone.id),
        "and nothing of another agent's"
    );
    assert!(update.bundles.is_empty() && update.defaults.is_none());

    let position = update.position.unwrap();
    let ahead = wire::Position {
        index: position.index + 1_000_000,
        ..position
    };
    let mut refused = Stream::open(&agent, Some(ahead)).await.unwrap();
    let status = refused.next().await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().starts_with("MM-1309"), "{status:?}");
    let older = wire::Position {
        epoch: 0,
        index: position.index,
    };
    let mut stream = Stream::open(&agent, Some(older)).await.unwrap();
    let update = stream.next().await.unwrap();
    assert!(
        update.complete,
        "another epoch's position is no place to resume from"
    );
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_sends_everything_anew() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let listed = entry(&server, agent.id(), "/a").await;
    let mut stream = Stream::open(&agent, None).await.unwrap();
    let begin = stream.next().await.unwrap();
    stop(server).await;
    let server = home.ready().await;
    let agent = Agent {
        channel: identified(&server, &agent.svid).await,
        ..agent
    };
    let mut stream = Stream::open(&agent, begin.position).await.unwrap();
    let update = stream.next().await.unwrap();
    // The log may still remember what the agent has not seen; either way it ends up complete.
    assert!(update.complete || update.removed_entry_ids.is_empty());
    if update.complete {
        assert_eq!(ids(&update), [listed.id.as_str()]);
    }
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_and_an_eviction_are_pushed_to_the_agent_and_end_its_stream() {
    let mut home = Home::new();
    let server = home.ready().await;
    let (banned, evicted) = (Agent::new(&server).await, Agent::new(&server).await);
    let mut of_banned = Stream::open(&banned, None).await.unwrap();
    let mut of_evicted = Stream::open(&evicted, None).await.unwrap();
    of_banned.next().await.unwrap();
    of_evicted.next().await.unwrap();
    let mut admin = AgentClient::new(admin(&server));
    admin
        .ban_agent(BanAgentRequest {
            id: Some(banned.wire_id()),
        })
        .await
        .unwrap();
    let update = of_banned.next().await.unwrap();
    assert!(update.banned && !update.evicted);
    assert!(of_banned.receive.next().await.is_none(), "its last message");
    admin
        .delete_agent(DeleteAgentRequest {
            id: Some(evicted.wire_id()),
        })
        .await
        .unwrap();
    let update = of_evicted.next().await.unwrap();
    assert!(update.evicted && !update.banned);
    assert!(of_evicted.receive.next().await.is_none());
    let status = Stream::open(&banned, None).await.err().unwrap();
    assert!(status.message().starts_with("MM-1103"), "{status:?}");
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_is_recorded() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let mut stream = Stream::open(&agent, None).await.unwrap();
    let begin = stream.next().await.unwrap();
    stream.acknowledge(&begin).await;
    let sequence = begin.bundles[0].sequence;
    let (services, id) = (server.services().clone(), agent.id().clone());
    eventually("the acknowledgement is in the state", || async {
        services.consensus.read(|state| {
            let node = state.attested_node(&id).unwrap();
            node.acknowledged_bundle_sequence == sequence
                && node.streams
                && node.agent_version == "test"
        })
    })
    .await;
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_must_begin_with_begin() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let acknowledge = message(wire::agent_message::Body::Acknowledge(
        wire::agent_message::Acknowledge::default(),
    ));
    let messages = tokio_stream::iter([acknowledge]);
    let mut stream = agent.push().sync(messages).await.unwrap().into_inner();
    let status = stream.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let nobody = wire::agent_client::AgentClient::new(anonymous(&server).await)
        .sync(tokio_stream::iter([message(
            wire::agent_message::Body::Begin(Default::default()),
        )]))
        .await
        .unwrap_err();
    assert!(nobody.message().starts_with("MM-1101"), "{nobody:?}");
    stop(server).await;
}
