//! Who was refused, and why, stands in the log; what was no request, or came too often, does not.

use std::time::Duration;

use ca_server::RunningServer;
use mintmark_proto::mintmark::audit::v1::Leaf;
use mintmark_proto::spire::agent::agent_client::AgentClient;
use mintmark_proto::spire::agent::{
    self, AgentX509svidParams, BanAgentRequest, DeleteAgentRequest, RenewAgentRequest,
    attest_agent_request,
};
use mintmark_proto::spire::types;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::*;

/// Waits for a leaf of a refusal, and returns the last one.
async fn denial(server: &RunningServer, action: &str, reason: &str) -> Leaf {
    let is_it = |leaf: &Leaf| {
        leaf.decision == "denied" && leaf.action == action && leaf.reason.contains(reason)
    };
    let looking = async {
        loop {
            if let Some(leaf) = leaves(server).await.into_iter().rev().find(is_it) {
                return leaf;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, looking).await;
    found.unwrap_or_else(|_| panic!("no leaf denies {action}: {reason}"))
}

async fn renew(channel: &Channel) -> Result<agent::RenewAgentResponse, Status> {
    let params = Some(AgentX509svidParams {
        csr: Key::new().csr,
    });
    let answer = AgentClient::new(channel.clone())
        .renew_agent(RenewAgentRequest { params })
        .await;
    answer.map(tonic::Response::into_inner)
}

fn says(status: &Status, code: &str) {
    assert!(status.message().starts_with(code), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_is_refused_stands_in_the_log_with_its_reason() {
    let mut home = Home::new();
    let server = home.ready().await;
    let (one, two) = (Agent::new(&server).await, Agent::new(&server).await);
    let of_two = entry(&server, two.id(), "/db").await;

    let refused = one.issue(&of_two.id, &Key::new()).await.unwrap_err();
    assert!(refused.message.starts_with("MM-1212"), "{refused:?}");
    let leaf = denial(&server, "x509.issue", "not_authorized").await;
    assert_eq!(leaf.subject, "spiffe://example.org/db");
    let issuance = leaf.issuance.unwrap();
    assert_eq!(issuance.agent, one.id().as_str());
    assert_eq!(issuance.entry_id, of_two.id);

    let mut admin = AgentClient::new(admin(&server));
    let ban = BanAgentRequest {
        id: Some(one.wire_id()),
    };
    admin.ban_agent(ban).await.unwrap();
    says(&renew(&one.channel).await.unwrap_err(), "MM-1103");
    let leaf = denial(&server, "agent.RenewAgent", "banned").await;
    assert_eq!(leaf.subject, one.id().as_str());

    let evict = DeleteAgentRequest {
        id: Some(two.wire_id()),
    };
    admin.delete_agent(evict).await.unwrap();
    says(&renew(&two.channel).await.unwrap_err(), "MM-1105");
    // Whose path has a token that nobody holds any more: it is committed, not written.
    let leaf = denial(&server, "agent.RenewAgent", "agent_not_attested").await;
    assert!(!leaf.subject.contains("join_token"), "{leaf:?}");
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_svid_ran_out_on_an_open_connection_is_nobody_any_more() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    agent.issue(&entry.id, &Key::new()).await.unwrap();
    home.advance(&server, Duration::from_secs(2 * 3_600)).await;
    let refused = renew(&agent.channel).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    says(&refused, "MM-1104");
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_wants_to_administer_stands_in_the_log() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    let key = Key::new();
    let chain = agent.issue(&entry.id, &key).await.unwrap();
    let workload = identified(&server, &key.svid(&chain)).await;
    let ban = BanAgentRequest {
        id: Some(agent.wire_id()),
    };
    let refused = AgentClient::new(workload).ban_agent(ban).await.unwrap_err();
    says(&refused, "MM-1102");
    let leaf = denial(&server, "agent.BanAgent", "not_authorized").await;
    assert_eq!(leaf.subject, "spiffe://example.org/db");
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_that_is_spent_unknown_or_expired_stands_in_the_log_without_itself() {
    let mut home = Home::new();
    let server = home.ready().await;
    let spent = token(&server, None).await;
    let expired = token(&server, None).await;
    attest(anonymous(&server).await, &spent, &Key::new())
        .await
        .unwrap();
    let tried = async |token: &str, code: &str| {
        let answer = attest(anonymous(&server).await, token, &Key::new()).await;
        let refused = answer.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        says(&refused, code);
    };
    tried(&spent, "MM-1208").await;
    let leaf = denial(&server, "agent.attest", "token_used").await;
    assert!(leaf.subject.ends_with(&spent), "{leaf:?}");
    tried("never-made", "MM-1209").await;
    let unknown = denial(&server, "agent.attest", "token_unknown").await;
    // A token lives for ten minutes here.
    home.advance(&server, Duration::from_secs(700)).await;
    tried(&expired, "MM-1209").await;
    let late = denial(&server, "agent.attest", "token_unknown").await;
    assert!(late.index > unknown.index);
    assert_eq!(late.actor, "nobody");
    let log = format!("{:?}", leaves(&server).await);
    for secret in ["never-made", &expired] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_is_refused_by_the_state_stands_in_the_log() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let made = entry(&server, agent.id(), "/db").await;
    let same = types::Entry {
        created_at: 0,
        revision_number: 0,
        ..made.clone()
    };
    let refused = try_entry(&server, same).await.unwrap_err();
    assert_eq!(refused.code, i32::from(Code::AlreadyExists), "{refused:?}");
    let leaf = denial(&server, "entry.create", "already_exists").await;
    assert_eq!(
        (leaf.subject.as_str(), leaf.actor.as_str()),
        (made.id.as_str(), "local")
    );
    stop(server).await;
}

/// One call of `AttestAgent` whose parameters are missing.
async fn attest_nothing(channel: Channel) -> Status {
    let params = attest_agent_request::Params::default();
    let step = Some(attest_agent_request::Step::Params(params));
    let requests = tokio_stream::iter([agent::AttestAgentRequest { step }]);
    let answer = AgentClient::new(channel).attest_agent(requests).await;
    match answer {
        Err(status) => status,
        Ok(stream) => stream.into_inner().message().await.unwrap_err(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_no_request_or_came_too_often_changes_nothing_and_is_not_in_the_log() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    let before = leaves(&server).await;

    let mut key = Key::new();
    *key.csr.last_mut().unwrap() ^= 1;
    let refused = agent.issue(&entry.id, &key).await.unwrap_err();
    assert!(refused.message.starts_with("MM-1207"), "{refused:?}");
    let refused = agent.issue("../etc", &Key::new()).await.unwrap_err();
    assert!(refused.message.starts_with("MM-1201"), "{refused:?}");
    let refused = agent.issue("no-such-entry", &Key::new()).await.unwrap_err();
    assert!(refused.message.starts_with("MM-1203"), "{refused:?}");
    let anonymous = anonymous(&server).await;
    says(&renew(&anonymous).await.unwrap_err(), "MM-1101");
    let path = attest(anonymous.clone(), "../../server", &Key::new()).await;
    says(&path.unwrap_err(), "MM-1201");

    // Whoever asks on and on is told to wait, before anything that he sends is looked at.
    let many = (0..300).map(|_| attest_nothing(anonymous.clone()));
    let answers = futures_util::future::join_all(many).await;
    let limited = |status: &Status| status.code() == Code::ResourceExhausted;
    let (limited, others): (Vec<_>, Vec<_>) = answers.into_iter().partition(limited);
    says(limited.first().expect("the limit is below this"), "MM-1107");
    for status in &others {
        says(status, "MM-1201");
    }
    // Refusals that are written later would be written by now, as this one is.
    let ban = BanAgentRequest {
        id: Some(agent.wire_id()),
    };
    let forbidden = AgentClient::new(agent.channel.clone()).ban_agent(ban).await;
    says(&forbidden.unwrap_err(), "MM-1102");
    denial(&server, "agent.BanAgent", "not_authorized").await;
    let after = leaves(&server).await;
    assert!(after.starts_with(&before));
    let actions: Vec<&str> = after[before.len()..]
        .iter()
        .map(|leaf| leaf.action.as_str())
        .collect();
    assert_eq!(actions, ["agent.BanAgent"]);
    stop(server).await;
}
