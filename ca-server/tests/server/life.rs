//! One server: from nothing to a verified SVID that stands in the log, and after a restart.

use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::jwt::{Audience, verify_jwt_svid};
use mintmark_identity::svid::x509::svid_hash_of_certificate;
use mintmark_proto::spire::agent::agent_client::AgentClient;
use mintmark_proto::spire::agent::{AgentX509svidParams, CountAgentsRequest, RenewAgentRequest};
use mintmark_proto::spire::entry::CountEntriesRequest;
use mintmark_proto::spire::entry::entry_client::EntryClient;
use mintmark_proto::spire::svid::svid_client::SvidClient;
use mintmark_proto::spire::svid::{MintJwtsvidRequest, MintX509svidRequest, NewJwtsvidRequest};
use mintmark_proto::spire::types;

use crate::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_gets_a_verified_svid_that_stands_in_the_log_and_survives_a_restart() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    let key = Key::new();
    let chain = agent.issue(&entry.id, &key).await.unwrap();
    let verified = verify(&server, &chain).await;
    assert_eq!(verified.spiffe_id.as_str(), "spiffe://example.org/db");
    assert!(!verified.hybrid);

    let hash = svid_hash_of_certificate(&chain[0]).unwrap();
    let log = leaves(&server).await;
    let leaf = log
        .iter()
        .find(|leaf| leaf.issuance.as_ref().is_some_and(|i| i.svid_hash == hash))
        .expect("the SVID's leaf");
    let issuance = leaf.issuance.as_ref().unwrap();
    assert_eq!(
        (leaf.action.as_str(), leaf.decision.as_str()),
        ("x509.issue", "accepted")
    );
    assert_eq!(issuance.agent, agent.id().as_str());
    assert_eq!(issuance.entry_id, entry.id);
    assert_eq!(hex::encode(&issuance.serial), verified.serial);
    stop(server).await;

    let server = home.ready().await;
    let mut entries = EntryClient::new(admin(&server));
    let count = entries
        .count_entries(CountEntriesRequest::default())
        .await
        .unwrap();
    assert_eq!(count.into_inner().count, 1);
    let mut agents = AgentClient::new(admin(&server));
    let count = agents
        .count_agents(CountAgentsRequest::default())
        .await
        .unwrap();
    assert_eq!(count.into_inner().count, 1);
    // The authority is the same, so what was issued before still verifies, and the agent is known.
    verify(&server, &chain).await;
    let channel = identified(&server, &agent.svid).await;
    let again = issue(channel, &entry.id, &Key::new()).await.unwrap();
    verify(&server, &again).await;
    assert!(
        leaves(&server).await.starts_with(&log),
        "the log went on where it was"
    );
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_issued_verified_and_logged() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    let request = NewJwtsvidRequest {
        entry_id: entry.id.clone(),
        audience: vec!["spiffe://example.org/api".to_owned()],
    };
    let issued = SvidClient::new(agent.channel.clone())
        .new_jwtsvid(request)
        .await
        .unwrap();
    let svid = issued.into_inner().svid.unwrap();
    let audience = Audience::new(vec!["spiffe://example.org/api".to_owned()]).unwrap();
    let bundles = set(bundle(&server).await);
    let leeway = std::time::Duration::ZERO;
    let verified = verify_jwt_svid(&svid.token, &audience, &bundles, now(&server), leeway).unwrap();
    assert_eq!(verified.spiffe_id.as_str(), "spiffe://example.org/db");
    assert_eq!(svid.expires_at - svid.issued_at, 300, "SPIRE's default");
    let log = leaves(&server).await;
    let leaf = log
        .iter()
        .find(|leaf| leaf.action == "jwt.issue")
        .expect("a leaf");
    assert_eq!(leaf.subject, "spiffe://example.org/db");
    let text = format!("{log:?}");
    assert!(
        !text.contains("example.org/api"),
        "the log holds no audience"
    );
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_mints_and_the_leaf_says_so() {
    let mut home = Home::new();
    let server = home.ready().await;
    let key = Key::naming(Some("spiffe://example.org/minted"));
    let request = MintX509svidRequest {
        csr: key.csr.clone(),
        ttl: 60,
    };
    let minted = SvidClient::new(admin(&server))
        .mint_x509svid(request)
        .await
        .unwrap();
    let chain = minted.into_inner().svid.unwrap().cert_chain;
    let verified = verify(&server, &chain).await;
    assert_eq!(verified.spiffe_id.as_str(), "spiffe://example.org/minted");
    assert_eq!(
        verified.validity.lifetime().as_secs(),
        70,
        "with its backdate"
    );
    let id = types::Spiffeid {
        trust_domain: TRUST_DOMAIN.into(),
        path: "/minted".into(),
    };
    let request = MintJwtsvidRequest {
        id: Some(id),
        audience: vec!["a".into()],
        ttl: 0,
    };
    SvidClient::new(admin(&server))
        .mint_jwtsvid(request)
        .await
        .unwrap();
    let log = leaves(&server).await;
    let minted: Vec<_> = log
        .iter()
        .filter(|leaf| {
            leaf.issuance
                .as_ref()
                .is_some_and(|i| i.basis == "admin-mint")
        })
        .map(|leaf| (leaf.action.as_str(), leaf.actor.as_str()))
        .collect();
    assert_eq!(minted, [("x509.issue", "local"), ("jwt.issue", "local")]);

    for id in [
        "spiffe://other.org/a",
        "spiffe://example.org/spire/server",
        "spiffe://example.org",
    ] {
        let request = MintX509svidRequest {
            csr: Key::naming(Some(id)).csr,
            ttl: 0,
        };
        let refused = SvidClient::new(admin(&server))
            .mint_x509svid(request)
            .await
            .unwrap_err();
        assert_eq!(
            refused.code(),
            tonic::Code::InvalidArgument,
            "{id}: {refused:?}"
        );
    }
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_renews_and_the_old_svid_counts_until_the_new_one_was_seen() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let renew = |channel, key: &Key| {
        let params = Some(AgentX509svidParams {
            csr: key.csr.clone(),
        });
        async move {
            AgentClient::new(channel)
                .renew_agent(RenewAgentRequest { params })
                .await
        }
    };
    let second_key = Key::new();
    let renewed = renew(agent.channel.clone(), &second_key)
        .await
        .unwrap()
        .into_inner();
    let second = second_key.svid(&renewed.svid.unwrap().cert_chain);
    assert_eq!(second.spiffe_id(), agent.id());
    // The reply could have been lost: the first SVID still counts.
    renew(agent.channel.clone(), &second_key).await.unwrap();
    let second_key = Key::new();
    let renewed = renew(agent.channel.clone(), &second_key)
        .await
        .unwrap()
        .into_inner();
    let second = second_key.svid(&renewed.svid.unwrap().cert_chain);
    let second_channel = identified(&server, &second).await;
    let third_key = Key::new();
    renew(second_channel, &third_key).await.unwrap();
    // The second was seen, so the first is over.
    let refused = renew(agent.channel.clone(), &Key::new()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert!(refused.message().starts_with("MM-1106"), "{refused:?}");
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_svid_of_an_agent_is_over_once_it_did_anything_with_the_new_one() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    let renew = |channel, key: &Key| {
        let params = Some(AgentX509svidParams {
            csr: key.csr.clone(),
        });
        async move {
            AgentClient::new(channel)
                .renew_agent(RenewAgentRequest { params })
                .await
        }
    };
    let second_key = Key::new();
    let renewed = renew(agent.channel.clone(), &second_key).await.unwrap();
    let chain = renewed.into_inner().svid.unwrap().cert_chain;
    let second = identified(&server, &second_key.svid(&chain)).await;
    issue(second.clone(), &entry.id, &Key::new()).await.unwrap();
    // Whoever has a copy of the first key renews nothing with it any more.
    eventually("the first SVID is over", || async {
        match issue(agent.channel.clone(), &entry.id, &Key::new()).await {
            Ok(_) => false,
            Err(refused) => refused.message.starts_with("MM-1106"),
        }
    })
    .await;
    let refused = renew(agent.channel.clone(), &Key::new()).await.unwrap_err();
    assert!(refused.message().starts_with("MM-1106"), "{refused:?}");
    issue(second, &entry.id, &Key::new()).await.unwrap();
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alias_gives_entries_to_every_agent_that_it_covers() {
    let mut home = Home::new();
    let server = home.ready().await;
    let token = token(&server, Some("/nodes/a")).await;
    let key = Key::new();
    let svid = attest(anonymous(&server).await, &token, &key)
        .await
        .unwrap();
    let alias = SpiffeId::parse("spiffe://example.org/nodes/a").unwrap();
    let entry = entry(&server, &alias, "/web").await;
    let channel = identified(&server, &svid).await;
    let chain = issue(channel, &entry.id, &Key::new()).await.unwrap();
    assert_eq!(
        verify(&server, &chain).await.spiffe_id.as_str(),
        "spiffe://example.org/web"
    );
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hybrid_authorities_sign_what_both_halves_verify() {
    let mut home = Home::new();
    home.raw.settings.pq = Some("hybrid".to_owned());
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    let chain = agent.issue(&entry.id, &Key::new()).await.unwrap();
    let verified = verify(&server, &chain).await;
    assert!(verified.hybrid);
    stop(server).await;
}
