//! Three servers: joining, issuing on each, and losing one.

use std::time::Duration;

use ca_server::RunningServer;
use ca_server::config::RawJoin;
use mintmark_proto::mintmark::agent::v1::server_message;
use mintmark_proto::mintmark::cluster::v1::{
    CreateServerTokenRequest, CreateServerTokenResponse, GetStatusRequest, Status,
};

use tokio_stream::StreamExt as _;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::*;
use crate::surface::{get, health_changes};

async fn server_token(server: &RunningServer) -> CreateServerTokenResponse {
    let request = CreateServerTokenRequest { ttl_seconds: 600 };
    cluster(server)
        .create_server_token(request)
        .await
        .unwrap()
        .into_inner()
}

fn joining(server: &RunningServer, made: &CreateServerTokenResponse, name: &str) -> Home {
    let mut home = Home::new();
    home.raw.name = Some(name.to_owned());
    home.raw.join = Some(RawJoin {
        address: server.api_address().to_owned(),
        token: Some(made.token.clone()),
        token_file: None,
        pin: hex::encode(&made.pin),
    });
    home
}

async fn join(server: &RunningServer, name: &str) -> (Home, RunningServer) {
    let mut home = joining(server, &server_token(server).await, name);
    let joined = home.ready().await;
    (home, joined)
}

async fn status(server: &RunningServer) -> Status {
    cluster(server)
        .get_status(GetStatusRequest {})
        .await
        .unwrap()
        .into_inner()
}

async fn voters(server: &RunningServer, count: usize) {
    eventually("everybody votes", || async {
        status(server)
            .await
            .members
            .iter()
            .filter(|member| member.voter)
            .count()
            == count
    })
    .await;
}

/// The same leaves on every server.
async fn same_log(servers: [&RunningServer; 3]) {
    eventually("the logs are equal", || async {
        let mut roots = Vec::new();
        for server in servers {
            let status = status(server).await;
            roots.push((status.audit_size, status.audit_root));
        }
        roots.iter().all(|root| *root == roots[0])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_issue_from_one_authority_into_one_log_and_survive_their_leader() {
    let mut first_home = Home::new();
    let first = first_home.ready().await;
    let (_second_home, second) = join(&first, "second").await;
    let (_third_home, third) = join(&second, "third").await;
    voters(&first, 3).await;
    same_log([&first, &second, &third]).await;

    let agent = Agent::new(&first).await;
    let entry = entry(&third, agent.id(), "/db").await;
    let anchor = verify(&first, &agent.issue(&entry.id, &Key::new()).await.unwrap()).await;
    for server in [&second, &third] {
        eventually("the entry is there", || async {
            server
                .services()
                .consensus
                .read(|state| state.entry_count() == 1)
        })
        .await;
        let channel = identified(server, &agent.svid).await;
        let chain = issue(channel, &entry.id, &Key::new()).await.unwrap();
        let verified = verify(&first, &chain).await;
        assert_eq!(
            verified.anchor_id, anchor.anchor_id,
            "one authority for the cluster"
        );
    }
    same_log([&first, &second, &third]).await;

    let log = leaves(&second).await;
    stop(first).await;
    let channel = identified(&second, &agent.svid).await;
    eventually("the others go on", || async {
        issue(channel.clone(), &entry.id, &Key::new()).await.is_ok()
    })
    .await;
    assert!(
        leaves(&third).await.starts_with(&log),
        "nothing that was committed is lost"
    );

    let first = first_home.ready().await;
    same_log([&first, &second, &third]).await;
    for server in [first, second, third] {
        stop(server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_all_servers_loses_nothing() {
    let mut first_home = Home::new();
    let first = first_home.ready().await;
    let (mut second_home, second) = join(&first, "second").await;
    let (mut third_home, third) = join(&first, "third").await;
    voters(&first, 3).await;
    let agent = Agent::new(&first).await;
    let entry = entry(&first, agent.id(), "/db").await;
    same_log([&first, &second, &third]).await;
    let log = leaves(&first).await;
    for server in [first, second, third] {
        stop(server).await;
    }
    let (third, first, second) =
        tokio::join!(third_home.ready(), first_home.ready(), second_home.ready());
    assert!(leaves(&third).await.starts_with(&log));
    let channel = identified(&third, &agent.svid).await;
    let chain = issue(channel, &entry.id, &Key::new()).await.unwrap();
    verify(&second, &chain).await;
    for server in [first, second, third] {
        stop(server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_on_one_server_holds_on_all() {
    use mintmark_proto::spire::agent::BanAgentRequest;
    use mintmark_proto::spire::agent::agent_client::AgentClient;
    let mut first_home = Home::new();
    let first = first_home.ready().await;
    let (_second_home, second) = join(&first, "second").await;
    let agent = Agent::new(&first).await;
    let entry = entry(&first, agent.id(), "/db").await;
    let ban = BanAgentRequest {
        id: Some(agent.wire_id()),
    };
    AgentClient::new(admin(&second))
        .ban_agent(ban)
        .await
        .unwrap();
    // The intent meets the ban in one log, whatever this server knew when it was asked.
    let refused = agent.issue(&entry.id, &Key::new()).await.unwrap_err();
    assert!(refused.message.starts_with("MM-1103"), "{refused:?}");
    stop(second).await;
    stop(first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_token_admits_one_server_and_no_agent() {
    let mut home = Home::new();
    let first = home.ready().await;
    let made = server_token(&first).await;
    let agent = attest(anonymous(&first).await, &made.token, &Key::new())
        .await
        .unwrap_err();
    assert_eq!(agent.code(), tonic::Code::PermissionDenied, "{agent:?}");
    let mut second_home = joining(&first, &made, "second");
    let second = second_home.ready().await;
    let error = joining(&first, &made, "third")
        .try_start()
        .await
        .unwrap_err();
    assert_eq!(error.code().to_string(), "MM-1010", "{error:?}");
    let agents_token = token(&first, None).await;
    let wrong = CreateServerTokenResponse {
        token: agents_token,
        ..made
    };
    let error = joining(&first, &wrong, "third")
        .try_start()
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 69);
    assert_eq!(
        status(&first).await.members.len(),
        2,
        "nobody else was admitted"
    );
    stop(second).await;
    stop(first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_pin_does_not_send_its_token() {
    let mut home = Home::new();
    let first = home.ready().await;
    let mut made = server_token(&first).await;
    let right = made.pin.clone();
    made.pin = vec![7; 32];
    let mut second_home = joining(&first, &made, "second");
    let error = second_home.try_start().await.unwrap_err();
    let text = mintmark_runtime::cause::chain(&error);
    assert!(text.contains("not the pinned one"), "{text}");
    // The token is still good: nobody saw it.
    second_home.raw.join.as_mut().unwrap().pin = hex::encode(right);
    let second = second_home.ready().await;
    stop(second).await;
    stop(first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_quorum_signs_nothing_and_says_that_it_is_stale() {
    let mut first_home = Home::new();
    let first = first_home.ready().await;
    let (_second_home, second) = join(&first, "second").await;
    voters(&first, 2).await;
    let agent = Agent::new(&first).await;
    let entry = entry(&first, agent.id(), "/db").await;
    agent.issue(&entry.id, &Key::new()).await.unwrap();
    stop(second).await;
    let before = leaves(&first).await.len();
    let refused = agent.issue(&entry.id, &Key::new()).await.unwrap_err();
    let unavailable = ["MM-1301", "MM-1302", "MM-1304"];
    assert!(
        unavailable
            .iter()
            .any(|code| refused.message.starts_with(code)),
        "{refused:?}"
    );
    assert_eq!(leaves(&first).await.len(), before);
    first.shutdown(Duration::ZERO).await;
}

/// Two servers, an agent of theirs, and then only the first of the two.
async fn half_a_cluster(
    before: impl AsyncFnOnce(&RunningServer, &Agent),
) -> (Home, RunningServer, Agent) {
    let mut first_home = Home::new();
    let first = first_home.ready().await;
    let (_second_home, second) = join(&first, "second").await;
    voters(&first, 2).await;
    let agent = Agent::new(&first).await;
    before(&first, &agent).await;
    stop(second).await;
    (first_home, first, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_quorum_tells_no_agent_to_discard_its_identity() {
    use mintmark_proto::spire::agent::agent_client::AgentClient;
    use mintmark_proto::spire::agent::{AgentX509svidParams, BanAgentRequest, RenewAgentRequest};
    let (_home, first, agent) = half_a_cluster(async |first, agent| {
        let id = Some(agent.wire_id());
        let mut admin = AgentClient::new(admin(first));
        admin.ban_agent(BanAgentRequest { id }).await.unwrap();
    })
    .await;
    // The ban may have been lifted since by servers that this one does not hear.
    let params = Some(AgentX509svidParams {
        csr: Key::new().csr,
    });
    let renewed = AgentClient::new(agent.channel.clone())
        .renew_agent(RenewAgentRequest { params })
        .await
        .unwrap_err();
    assert_eq!(renewed.code(), tonic::Code::Unavailable, "{renewed:?}");
    assert!(renewed.message().starts_with("MM-1304"), "{renewed:?}");
    first.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_quorum_answers_no_poll_from_what_it_last_knew() {
    use mintmark_proto::spire::bundle::GetBundleRequest;
    use mintmark_proto::spire::bundle::bundle_client::BundleClient;
    use mintmark_proto::spire::entry::GetAuthorizedEntriesRequest;
    use mintmark_proto::spire::entry::entry_client::EntryClient;
    let (_home, first, agent) = half_a_cluster(async |first, agent| {
        entry(first, agent.id(), "/db").await;
        let mut entries = EntryClient::new(agent.channel.clone());
        let listed = entries
            .get_authorized_entries(GetAuthorizedEntriesRequest::default())
            .await;
        assert_eq!(listed.unwrap().into_inner().entries.len(), 1);
    })
    .await;
    let stale = |status: tonic::Status| {
        status.code() == tonic::Code::Unavailable && status.message().starts_with("MM-1304")
    };
    eventually("polls are told to ask another server", || async {
        let entries = EntryClient::new(agent.channel.clone())
            .get_authorized_entries(GetAuthorizedEntriesRequest::default())
            .await;
        let bundle = BundleClient::new(agent.channel.clone())
            .get_bundle(GetBundleRequest::default())
            .await;
        entries.is_err_and(stale) && bundle.is_err_and(stale)
    })
    .await;
    // Whoever administers this very server may look at what it has.
    bundle(&first).await;
    first.shutdown(Duration::ZERO).await;
}

/// Waits until health is told so.
async fn told(
    health: &mut (impl tokio_stream::Stream<Item = ServingStatus> + Unpin),
    status: ServingStatus,
) {
    let waiting = async { while health.next().await.expect("the stream is kept") != status {} };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "{status:?} is not told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_quorum_is_not_ready_until_one_answers_again() {
    use ServingStatus::{NotServing, Serving};
    let mut first_home = Home::new();
    let first = first_home.ready().await;
    let (mut second_home, second) = join(&first, "second").await;
    voters(&first, 2).await;
    let mut health = health_changes(admin(&first)).await;
    told(&mut health, Serving).await;

    stop(second).await;
    told(&mut health, NotServing).await;
    eventually("it is not ready, and says for what", || async {
        let ready = get(&first, "/ready").await;
        ready.starts_with("HTTP/1.1 503") && ready.contains("\"quorum\"")
    })
    .await;
    assert!(get(&first, "/live").await.starts_with("HTTP/1.1 200"));

    let second = second_home.ready().await;
    told(&mut health, Serving).await;
    eventually("it is ready again", || async {
        get(&first, "/ready").await.starts_with("HTTP/1.1 200")
    })
    .await;
    stop(second).await;
    stop(first).await;
}

/// The messages of an agent's push stream, from its beginning on.
async fn push(agent: &Agent) -> impl tokio_stream::Stream<Item = server_message::Body> + Unpin {
    use mintmark_proto::mintmark::agent::v1::{AgentMessage, agent_message};
    let begin = AgentMessage {
        body: Some(agent_message::Body::Begin(agent_message::Begin {
            resume_from: None,
            version: "test".into(),
        })),
    };
    // The agent's half of the stream stays open.
    let messages = tokio_stream::once(begin).chain(tokio_stream::pending());
    let stream = agent.push().sync(messages).await.unwrap().into_inner();
    stream.map(|message| message.unwrap().body.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_lost_its_leader_says_so_on_streams_old_and_new() {
    let mut first_home = Home::new();
    let first = first_home.ready().await;
    let (_second_home, second) = join(&first, "second").await;
    voters(&first, 2).await;
    let agent = Agent::new(&first).await;
    let mut old = push(&agent).await;
    let begins = old.next().await;
    assert!(
        matches!(begins, Some(server_message::Body::Update(_))),
        "{begins:?}"
    );
    stop(second).await;
    let stale = async {
        loop {
            match old.next().await {
                Some(server_message::Body::Stale(_)) => return,
                Some(_) => {}
                None => panic!("the stream is kept"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, stale).await.unwrap();
    // An agent that seeks a better server must not mistake this one for it.
    let mut new = push(&agent).await;
    let begins = new.next().await;
    assert!(
        matches!(begins, Some(server_message::Body::Stale(_))),
        "{begins:?}"
    );
    first.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_is_wrong_issues_nothing_and_says_so_while_the_others_go_on() {
    const WRONG: Duration = Duration::from_secs(60);
    let mut first_home = Home::new();
    let first = first_home.ready().await;
    let (_second_home, second) = join(&first, "second").await;
    let (_third_home, third) = join(&second, "third").await;
    voters(&first, 3).await;
    let agent = Agent::new(&first).await;
    let entry = entry(&first, agent.id(), "/db").await;
    agent.issue(&entry.id, &Key::new()).await.unwrap();

    first_home.clock.advance(WRONG);
    let refused = agent.issue(&entry.id, &Key::new()).await.unwrap_err();
    assert!(refused.message.starts_with("MM-1314"), "{refused:?}");
    eventually("it is not ready", || async {
        first.pending().contains(&"clock")
    })
    .await;
    let shown = status(&first).await;
    assert_eq!(shown.clock, "skewed");
    assert!(shown.clock_offset_ms > 59_000, "{shown:?}");
    for server in [&second, &third] {
        let channel = identified(server, &agent.svid).await;
        eventually("the others issue", || async {
            issue(channel.clone(), &entry.id, &Key::new()).await.is_ok()
        })
        .await;
        assert_eq!(status(server).await.clock, "good");
        assert_eq!(status(server).await.cluster_time_ahead_ms / 5_000, 0);
    }

    first_home.clock.set_back(WRONG);
    eventually("it takes part again", || async {
        agent.issue(&entry.id, &Key::new()).await.is_ok()
    })
    .await;
    eventually("it is ready again", || async { first.pending().is_empty() }).await;
    same_log([&first, &second, &third]).await;
    for server in [first, second, third] {
        stop(server).await;
    }
}
