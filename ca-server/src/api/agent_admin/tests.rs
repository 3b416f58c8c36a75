#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

use mintmark_identity::entropy::SeededEntropy;
use mintmark_proto::spire::types::selector_match::MatchBehavior;
use prost::Message as _;
use tonic::Code;

use super::*;
use crate::api::Services;
use crate::api::fixture::{Fixture, START, local, remote};

fn wire_id(path: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: "example.org".into(),
        path: path.into(),
    }
}

async fn names(services: &Services, filter: list_agents_request::Filter) -> Vec<String> {
    let request = wire::ListAgentsRequest {
        filter: Some(filter),
        ..wire::ListAgentsRequest::default()
    };
    let response = services
        .list_agents(local(request))
        .await
        .unwrap()
        .into_inner();
    let name = |agent: types::Agent| {
        agent
            .id
            .unwrap()
            .path
            .rsplit('/')
            .next()
            .unwrap()
            .to_owned()
    };
    response.agents.into_iter().map(name).collect()
}

fn code<T>(result: Result<Response<T>, Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}

async fn three_agents() -> Services {
    let fixture = Fixture::new().await;
    fixture.join("a", &[("k", "1")]).await;
    fixture.join("b", &[("k", "1"), ("k", "2")]).await;
    fixture.join("c", &[("k", "3")]).await;
    let request = wire::BanAgentRequest {
        id: Some(wire_id("/spire/agent/join_token/c")),
    };
    fixture.services.ban_agent(local(request)).await.unwrap();
    fixture.services
}

#[tokio::test(start_paused = true)]
async fn agents_are_found_by_selectors_ban_type_and_expiry() {
    type Filter = list_agents_request::Filter;
    let services = three_agents().await;
    let selectors = ["1", "2"].map(|value| types::Selector {
        r#type: "k".into(),
        value: value.into(),
    });
    for (mode, expected) in [
        (MatchBehavior::MatchExact, &["b"][..]),
        (MatchBehavior::MatchSubset, &["a", "b"]),
        (MatchBehavior::MatchSuperset, &["b"]),
        (MatchBehavior::MatchAny, &["a", "b"]),
    ] {
        let by = types::SelectorMatch {
            selectors: selectors.to_vec(),
            r#match: mode.into(),
        };
        let filter = Filter {
            by_selector_match: Some(by),
            ..Filter::default()
        };
        assert_eq!(names(&services, filter).await, expected, "{mode:?}");
    }
    let banned = |banned| Filter {
        by_banned: Some(banned),
        ..Filter::default()
    };
    assert_eq!(names(&services, banned(true)).await, ["c"]);
    assert_eq!(names(&services, banned(false)).await, ["a", "b"]);
    let of_type = |kind: &str| Filter {
        by_attestation_type: kind.into(),
        ..Filter::default()
    };
    assert_eq!(names(&services, of_type("join_token")).await.len(), 3);
    assert_eq!(names(&services, of_type("x509pop")).await, [""; 0]);
    let can = Filter {
        by_can_reattest: Some(true),
        ..Filter::default()
    };
    assert_eq!(names(&services, can).await, [""; 0]);
    let expiring = Filter {
        by_expires_before: "2026-11-24T11:00:00Z".into(),
        ..Filter::default()
    };
    assert_eq!(
        names(&services, expiring).await.len(),
        3,
        "none has an SVID"
    );
    let count = count_agents_request::Filter {
        by_banned: Some(false),
        ..Default::default()
    };
    let request = local(wire::CountAgentsRequest {
        filter: Some(count),
    });
    assert_eq!(
        services
            .count_agents(request)
            .await
            .unwrap()
            .into_inner()
            .count,
        2
    );
}

#[tokio::test(start_paused = true)]
async fn pages_of_agents_follow_each_other() {
    let services = three_agents().await;
    let page = async |page_token: &str| {
        let request = wire::ListAgentsRequest {
            page_size: 2,
            page_token: page_token.into(),
            output_mask: Some(types::AgentMask {
                banned: true,
                ..types::AgentMask::default()
            }),
            ..wire::ListAgentsRequest::default()
        };
        services
            .list_agents(local(request))
            .await
            .map(Response::into_inner)
    };
    let first = page("").await.unwrap();
    assert_eq!(first.agents.len(), 2);
    assert!(first.agents[0].selectors.is_empty() && first.agents[0].attestation_type.is_empty());
    let second = page(&first.next_page_token).await.unwrap();
    assert!(second.agents[0].banned && second.agents.len() == 1);
    assert_eq!(second.next_page_token, "");
    assert_eq!(
        page("nonsense").await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test(start_paused = true)]
async fn an_evicted_agent_is_gone_and_a_banned_one_is_shown_without_a_serial() {
    let services = three_agents().await;
    let get = |path: &str| {
        let request = wire::GetAgentRequest {
            id: Some(wire_id(path)),
            output_mask: None,
        };
        services.get_agent(local(request))
    };
    let banned = get("/spire/agent/join_token/c").await.unwrap().into_inner();
    assert!(banned.banned && banned.x509svid_serial_number.is_empty());
    let evict = |path: &str| {
        let request = wire::DeleteAgentRequest {
            id: Some(wire_id(path)),
        };
        services.delete_agent(local(request))
    };
    evict("/spire/agent/join_token/c").await.unwrap();
    assert_eq!(code(get("/spire/agent/join_token/c").await), Code::NotFound);
    assert_eq!(
        code(evict("/spire/agent/join_token/c").await),
        Code::NotFound
    );
    assert_eq!(code(evict("/web").await), Code::InvalidArgument);
    let nothing = wire::GetAgentRequest {
        id: None,
        output_mask: None,
    };
    assert_eq!(
        code(services.get_agent(local(nothing)).await),
        Code::InvalidArgument
    );
    let foreign = types::Spiffeid {
        trust_domain: "other.org".into(),
        path: "/spire/agent/x/y".into(),
    };
    let foreign = wire::BanAgentRequest { id: Some(foreign) };
    assert_eq!(
        code(services.ban_agent(local(foreign)).await),
        Code::InvalidArgument
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_is_known_to_who_asked_for_it_and_to_nobody_else() {
    let services = Fixture::new().await.services;
    let request = wire::CreateJoinTokenRequest {
        agent_id: Some(wire_id("/node-1")),
        ..wire::CreateJoinTokenRequest::default()
    };
    let token = services
        .create_join_token(local(request))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(token.value.len(), 36);
    assert_eq!(
        token.expires_at,
        START.saturating_add(TOKEN_TTL_DEFAULT).unix_secs()
    );
    let hash = join_token::token_sha256(token.value.as_bytes());
    let state = services.consensus.read(State::encode);
    let holds = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    assert!(holds(&state, &hash) && holds(&state, b"/node-1"));
    assert!(!holds(&state, token.value.as_bytes()));
    let size = services.consensus.read(State::audit_size);
    for leaf in services
        .consensus
        .leaves(0..size, usize::MAX)
        .await
        .unwrap()
    {
        assert!(!holds(&leaf, token.value.as_bytes()));
    }
    assert!(
        services.consensus.read(|state| state.entries().len() == 0),
        "nor an entry yet"
    );
}

fn make(request: &wire::CreateJoinTokenRequest) -> Result<NewToken, ApiError> {
    let domain = TrustDomain::parse("example.org").unwrap();
    NewToken::make(request, &domain, START, &SeededEntropy::new(1))
}

#[test]
fn a_token_may_be_chosen_and_its_life_too() {
    let ttl = 30 * 24 * 60 * 60;
    let request = wire::CreateJoinTokenRequest {
        ttl,
        token: "chosen-1".into(),
        agent_id: None,
    };
    let made = make(&request).unwrap();
    assert_eq!(made.value, "chosen-1");
    assert_eq!(
        made.record.expires_at_ms,
        START.unix_millis() + i64::from(ttl) * 1_000
    );
    let record = made.record.encode_to_vec();
    assert!(
        !record.windows(6).any(|part| part == b"chosen"),
        "all that leaves this server"
    );
}

#[test]
fn what_cannot_be_a_token_is_refused() {
    let request = wire::CreateJoinTokenRequest::default;
    let day = 24 * 60 * 60;
    let foreign = types::Spiffeid {
        trust_domain: "other.org".into(),
        path: "/n".into(),
    };
    let refused = [
        wire::CreateJoinTokenRequest {
            ttl: -1,
            ..request()
        },
        wire::CreateJoinTokenRequest {
            ttl: 30 * day + 1,
            ..request()
        },
        wire::CreateJoinTokenRequest {
            token: "a/b".into(),
            ..request()
        },
        wire::CreateJoinTokenRequest {
            token: "a b".into(),
            ..request()
        },
        wire::CreateJoinTokenRequest {
            token: "..".into(),
            ..request()
        },
        wire::CreateJoinTokenRequest {
            token: "x".repeat(256),
            ..request()
        },
        wire::CreateJoinTokenRequest {
            agent_id: Some(foreign),
            ..request()
        },
        wire::CreateJoinTokenRequest {
            agent_id: Some(wire_id("")),
            ..request()
        },
        wire::CreateJoinTokenRequest {
            agent_id: Some(wire_id("/spire/server")),
            ..request()
        },
    ];
    for request in refused {
        let error = make(&request).err().unwrap();
        assert_eq!(error.codes().1, Code::InvalidArgument, "{request:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_administrators_administer_and_only_agents_report() {
    let services = three_agents().await;
    let list = services
        .list_agents(remote(wire::ListAgentsRequest::default()))
        .await;
    assert_eq!(code(list), Code::PermissionDenied);
    let token = services
        .create_join_token(remote(wire::CreateJoinTokenRequest::default()))
        .await;
    assert_eq!(code(token), Code::PermissionDenied);
    let id = Some(wire_id("/spire/agent/join_token/a"));
    let ban = services
        .ban_agent(remote(wire::BanAgentRequest { id }))
        .await;
    assert_eq!(code(ban), Code::PermissionDenied);
    let report = services
        .post_status(local(wire::PostStatusRequest::default()))
        .await;
    assert_eq!(code(report), Code::PermissionDenied);
}

#[test]
fn both_spellings_of_a_time_are_read() {
    let spire = expires_before("2026-11-24 12:00:00 +0100 +01").unwrap();
    assert_eq!(spire, expires_before("2026-11-24T11:00:00Z").unwrap());
    assert_eq!(expires_before("").unwrap(), None);
    assert!(expires_before("tomorrow").is_err());
    assert!(expires_before("2026-11-24 12:00:00 +01é0 x").is_err());
}
