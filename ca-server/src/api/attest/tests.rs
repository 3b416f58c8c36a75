//! The life of an agent, from its token to its ban.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

use mintmark_proto::mintmark::raft::v1::CreateEntries;
use mintmark_proto::mintmark::state::v1::{Entry, Selector};
use mintmark_proto::spire::agent::agent_server::Agent as _;
use mintmark_proto::spire::entry as entry_wire;
use mintmark_proto::spire::entry::entry_server::Entry as _;
use mintmark_proto::spire::svid as svid_wire;
use mintmark_proto::spire::svid::svid_server::Svid as _;
use mintmark_proto::spire::types;
use rcgen::{CertificateParams, KeyPair};
use tonic::{Code, Status};

use super::*;
use crate::api::agent::AgentService;
use crate::api::entry::EntryService;
use crate::api::fixture::{Fixture, holder, local, remote};
use crate::api::svid::SvidService;

fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default()
        .serialize_request(key)
        .unwrap()
        .der()
        .to_vec()
}

async fn token(services: &Services) -> String {
    let request = local(wire::CreateJoinTokenRequest::default());
    services
        .create_join_token(request)
        .await
        .unwrap()
        .into_inner()
        .value
}

/// Attests with a token; the chain of the agent's SVID.
async fn attest_with(
    services: &Services,
    token: &str,
    key: &KeyPair,
) -> Result<Vec<Vec<u8>>, ApiError> {
    let (caller, permit) = services.permit(&remote(()), Action::AttestAgent).await?;
    let data = types::AttestationData {
        r#type: join_token::METHOD.into(),
        payload: token.as_bytes().to_vec(),
    };
    let params = wire::attest_agent_request::Params {
        data: Some(data),
        params: Some(wire::AgentX509svidParams { csr: csr(key) }),
    };
    let (signed, _) = attest(services, &caller, permit, params).await?;
    Ok(signed.chain)
}

async fn register(fixture: &Fixture, name: &str, parent: &str) {
    let entry = Entry {
        id: name.into(),
        spiffe_id: format!("spiffe://example.org/{name}"),
        parent_id: parent.into(),
        selectors: vec![Selector {
            kind: "unix".into(),
            value: "uid:1".into(),
        }],
        ..Entry::default()
    };
    let body = command::Body::CreateEntries(CreateEntries {
        entries: vec![entry],
    });
    let result = fixture.apply(body).await;
    assert_eq!(result.items[0].refusal, 0, "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn of_two_agents_with_one_token_exactly_one_wins() {
    let fixture = Fixture::issuing(false).await;
    let services = &fixture.services;
    let token = token(services).await;
    let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let outcomes = tokio::join!(
        attest_with(services, &token, &one),
        attest_with(services, &token, &other)
    );
    let (winner, loser) = match outcomes {
        (Ok(_), Err(error)) => (&one, error),
        (Err(error), Ok(_)) => (&other, error),
        both => panic!("exactly one wins: {both:?}"),
    };
    assert_eq!(loser.codes().1, Code::PermissionDenied, "{loser}");
    assert_eq!(loser.codes().0.to_string(), "MM-1208");
    // A lost reply: the same key may ask again.
    attest_with(services, &token, winner).await.unwrap();
    let unknown = attest_with(services, "no-such-token", &one)
        .await
        .unwrap_err();
    assert_eq!(unknown.codes().0.to_string(), "MM-1209");
}

/// An agent with one entry of its own, `web`, beside one of somebody else, `foreign`.
async fn agent_with_an_entry(fixture: &Fixture, key: &KeyPair) -> (String, Vec<Vec<u8>>) {
    let token = token(&fixture.services).await;
    let chain = attest_with(&fixture.services, &token, key).await.unwrap();
    let agent = format!("spiffe://example.org/spire/agent/join_token/{token}");
    register(fixture, "web", &agent).await;
    register(fixture, "foreign", "spiffe://example.org/elsewhere").await;
    (token, chain)
}

/// Asks for SVIDs of these entries.
async fn ask(
    services: &Services,
    chain: &[Vec<u8>],
    asked: Vec<(&str, Vec<u8>)>,
) -> Result<Vec<svid_wire::batch_new_x509svid_response::Result>, Status> {
    let params = asked
        .into_iter()
        .map(|(entry_id, csr)| svid_wire::NewX509svidParams {
            entry_id: entry_id.into(),
            csr,
        })
        .collect();
    let request = holder(svid_wire::BatchNewX509svidRequest { params }, chain);
    let service = SvidService(services.clone());
    let response = service.batch_new_x509svid(request).await?;
    Ok(response.into_inner().results)
}

#[tokio::test(start_paused = true)]
async fn an_agent_gets_what_it_may_serve_and_nothing_else() {
    let fixture = Fixture::issuing(false).await;
    let services = fixture.services.clone();
    let (_, chain) = agent_with_an_entry(&fixture, &KeyPair::generate().unwrap()).await;
    let request = holder(entry_wire::GetAuthorizedEntriesRequest::default(), &chain);
    let authorized = EntryService(services.clone())
        .get_authorized_entries(request)
        .await
        .unwrap()
        .into_inner()
        .entries;
    let ids: Vec<_> = authorized.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(ids, ["web"]);

    let workload = KeyPair::generate().unwrap();
    let asked = vec![
        ("web", csr(&workload)),
        ("foreign", csr(&workload)),
        ("web", vec![1]),
    ];
    let results = ask(&services, &chain, asked).await.unwrap();
    let codes: Vec<i32> = results
        .iter()
        .map(|result| result.status.as_ref().unwrap().code)
        .collect();
    assert_eq!(
        (codes[0], codes[2]),
        (0, Code::InvalidArgument as i32),
        "{results:?}"
    );
    assert!([Code::PermissionDenied as i32, Code::NotFound as i32].contains(&codes[1]));
    let id = results[0].svid.as_ref().unwrap().id.as_ref().unwrap();
    assert_eq!(
        id.path, "/web",
        "the entry's identity, whatever the CSR says"
    );
    let jwt = svid_wire::NewJwtsvidRequest {
        entry_id: "web".into(),
        audience: vec!["db".into()],
    };
    SvidService(services.clone())
        .new_jwtsvid(holder(jwt, &chain))
        .await
        .unwrap();

    // It administers nothing.
    let agents = AgentService(services);
    let list = agents
        .list_agents(holder(wire::ListAgentsRequest::default(), &chain))
        .await;
    assert_eq!(list.unwrap_err().code(), Code::PermissionDenied);
    agents
        .post_status(holder(wire::PostStatusRequest::default(), &chain))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_banned_agent_gets_nothing_and_does_not_come_back() {
    let fixture = Fixture::issuing(false).await;
    let services = fixture.services.clone();
    let (key, workload) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (token, chain) = agent_with_an_entry(&fixture, &key).await;
    ask(&services, &chain, vec![("web", csr(&workload))])
        .await
        .unwrap();
    let id = Some(types::Spiffeid {
        trust_domain: "example.org".into(),
        path: format!("/spire/agent/join_token/{token}"),
    });
    AgentService(services.clone())
        .ban_agent(local(wire::BanAgentRequest { id }))
        .await
        .unwrap();
    let refused = ask(&services, &chain, vec![("web", csr(&workload))])
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().starts_with("MM-1103: "),
        "{}",
        refused.message()
    );
    let again = attest_with(&services, &token, &key).await.unwrap_err();
    assert_eq!(again.codes().1, Code::PermissionDenied, "{again}");
}

#[tokio::test(start_paused = true)]
async fn a_renewed_svid_replaces_the_old_one_once_it_is_seen() {
    let fixture = Fixture::issuing(false).await;
    let services = fixture.services.clone();
    let key = KeyPair::generate().unwrap();
    let token = token(&services).await;
    let first = attest_with(&services, &token, &key).await.unwrap();
    let agents = AgentService(services.clone());
    let renew = |chain: &[Vec<u8>]| {
        let params = Some(wire::AgentX509svidParams {
            csr: csr(&KeyPair::generate().unwrap()),
        });
        agents.renew_agent(holder(wire::RenewAgentRequest { params }, chain))
    };
    let second = renew(&first)
        .await
        .unwrap()
        .into_inner()
        .svid
        .unwrap()
        .cert_chain;
    // The reply may have been lost: the old one still counts.
    let third = renew(&first)
        .await
        .unwrap()
        .into_inner()
        .svid
        .unwrap()
        .cert_chain;
    let entries = EntryService(services.clone());
    let ask = |chain: &[Vec<u8>]| {
        let request = holder(entry_wire::GetAuthorizedEntriesRequest::default(), chain);
        entries.get_authorized_entries(request)
    };
    assert!(ask(&third).await.is_ok());
    // What was never seen and replaced does not count.
    assert_eq!(
        ask(&second).await.unwrap_err().code(),
        Code::PermissionDenied
    );
}
