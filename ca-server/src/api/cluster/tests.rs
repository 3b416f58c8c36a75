#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

use mintmark_proto::mintmark::cluster::v1::cluster_server::Cluster as _;
use mintmark_proto::mintmark::raft::v1::{AdmitServer, BanAgent, CreateEntries};
use mintmark_proto::mintmark::state::v1::{Entry, Selector, Server};
use tonic::Code;

use super::*;
use crate::api::fixture::{Fixture, START, local, remote};

fn selector(text: &str) -> Selector {
    let (kind, value) = text.split_once(':').unwrap();
    Selector {
        kind: kind.into(),
        value: value.into(),
    }
}

fn entry(name: &str, parent: &str, path: &str, with: &[&str]) -> Entry {
    Entry {
        id: name.into(),
        spiffe_id: format!("spiffe://example.org{path}"),
        parent_id: parent.into(),
        selectors: with.iter().map(|text| selector(text)).collect(),
        ..Entry::default()
    }
}

async fn create(fixture: &Fixture, entries: Vec<Entry>) {
    let result = fixture
        .apply(command::Body::CreateEntries(CreateEntries { entries }))
        .await;
    assert!(
        result.items.iter().all(|item| item.refusal == 0),
        "{result:?}"
    );
}

async fn explain(
    service: &ClusterService,
    spiffe_id: &str,
    selectors: &[&str],
) -> Vec<(String, Vec<String>, Vec<String>)> {
    let request = wire::ExplainEntriesRequest {
        spiffe_id: spiffe_id.into(),
        selectors: selectors.iter().map(|text| selector(text)).collect(),
    };
    let response = service
        .explain_entries(local(request))
        .await
        .unwrap()
        .into_inner();
    let shown = |found: wire::explain_entries_response::Match| {
        let missing = found
            .missing
            .iter()
            .map(|s| format!("{}:{}", s.kind, s.value))
            .collect();
        (found.entry.unwrap().id, missing, found.agents)
    };
    response.matches.into_iter().map(shown).collect()
}

#[tokio::test(start_paused = true)]
async fn the_status_is_that_of_this_server() {
    let fixture = Fixture::new().await;
    let service = ClusterService(fixture.services.clone());
    let status = service
        .get_status(local(wire::GetStatusRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.node_id, status.leader, status.role.as_str()),
        (1, 1, "leader")
    );
    assert_eq!(
        (status.trust_domain.as_str(), status.epoch),
        ("example.org", 1)
    );
    assert!(status.applied_index > 0 && status.applied_index <= status.last_log_index);
    assert_eq!(status.cluster_id, [9; 16]);
    assert!(!status.sealed);
    assert_eq!(status.started_at_ms, START.unix_millis());
    assert_eq!(
        status.audit_size,
        fixture.services.consensus.read(State::audit_size)
    );
    let [member] = &status.members[..] else {
        panic!("one member: {:?}", status.members)
    };
    assert!(member.voter && member.issuing);
    assert_eq!(
        (member.name.as_str(), member.matched_index),
        ("one", status.last_log_index)
    );
    assert_eq!(status.settings.unwrap().x509_svid_ttl_seconds, 3_600);
}

#[tokio::test(start_paused = true)]
async fn an_explanation_names_what_matches_what_is_near_and_who_serves() {
    let fixture = Fixture::new().await;
    let agent = fixture.join("a", &[("k", "1")]).await.to_string();
    let banned = fixture.join("b", &[("k", "1")]).await.to_string();
    fixture
        .apply(command::Body::BanAgent(BanAgent { agent_id: banned }))
        .await;
    let alias = "spiffe://example.org/nodes";
    create(
        &fixture,
        vec![
            entry(
                "alias",
                "spiffe://example.org/spire/server",
                "/nodes",
                &["k:1"],
            ),
            entry("web", alias, "/web", &["unix:uid:1", "unix:gid:1"]),
            entry("db", "spiffe://example.org/nowhere", "/db", &["unix:uid:1"]),
        ],
    )
    .await;
    let service = ClusterService(fixture.services.clone());
    let web = || ("web".to_owned(), Vec::new(), vec![agent.clone()]);
    assert_eq!(
        explain(&service, "spiffe://example.org/web", &[]).await,
        [web()]
    );
    let found = explain(&service, "", &["unix:uid:1"]).await;
    let db = || ("db".to_owned(), Vec::new(), Vec::new());
    let near = (
        "web".to_owned(),
        vec!["unix:gid:1".to_owned()],
        vec![agent.clone()],
    );
    assert_eq!(found, [db(), near.clone()], "the nearest first");
    assert_eq!(
        explain(&service, "spiffe://example.org/web", &["unix:uid:1"]).await,
        [near]
    );
    assert_eq!(
        explain(&service, "", &["unix:uid:1", "unix:gid:1"]).await,
        [db(), web()]
    );
    assert!(
        explain(&service, "spiffe://example.org/none", &[])
            .await
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn questions_that_ask_nothing_or_too_much_are_refused() {
    let service = ClusterService(Fixture::new().await.services);
    let ask = |spiffe_id: &str, selectors: Vec<Selector>| {
        let request = wire::ExplainEntriesRequest {
            spiffe_id: spiffe_id.into(),
            selectors,
        };
        let service = service.clone();
        async move {
            service
                .explain_entries(local(request))
                .await
                .unwrap_err()
                .code()
        }
    };
    assert_eq!(ask("", Vec::new()).await, Code::InvalidArgument);
    assert_eq!(ask("web", Vec::new()).await, Code::InvalidArgument);
    assert_eq!(
        ask("", vec![Selector::default()]).await,
        Code::InvalidArgument
    );
    assert_eq!(
        ask("", vec![selector("a:1"); 1_001]).await,
        Code::ResourceExhausted
    );
}

#[tokio::test(start_paused = true)]
async fn the_cluster_is_for_administrators() {
    let service = ClusterService(Fixture::new().await.services);
    let status = service.get_status(remote(wire::GetStatusRequest {})).await;
    assert_eq!(status.unwrap_err().code(), Code::PermissionDenied);
    let list = service
        .list_authorities(remote(wire::ListAuthoritiesRequest {}))
        .await;
    assert_eq!(list.unwrap_err().code(), Code::PermissionDenied);
    let prepare = service
        .prepare_authority(remote(wire::PrepareAuthorityRequest::default()))
        .await;
    assert_eq!(prepare.unwrap_err().code(), Code::PermissionDenied);
    let taint = service
        .taint_authority(remote(wire::TaintAuthorityRequest::default()))
        .await;
    assert_eq!(taint.unwrap_err().code(), Code::PermissionDenied);
    let revoke = service
        .revoke_authority(remote(wire::RevokeAuthorityRequest::default()))
        .await;
    assert_eq!(revoke.unwrap_err().code(), Code::PermissionDenied);
    let explain = service
        .explain_entries(remote(wire::ExplainEntriesRequest::default()))
        .await;
    assert_eq!(explain.unwrap_err().code(), Code::PermissionDenied);
    let kind = wire::PrepareAuthorityRequest { kind: 9 };
    let refused = service.prepare_authority(local(kind)).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let list = service
        .list_authorities(local(wire::ListAuthoritiesRequest {}))
        .await;
    assert!(list.unwrap().into_inner().authorities.is_empty());
}

#[tokio::test(start_paused = true)]
async fn authorities_follow_each_other_without_anybody_asking() {
    use mintmark_proto::mintmark::state::v1::AuthorityState;
    let fixture = Fixture::issuing_with(|settings| {
        settings.ca_ttl_seconds = 600;
        settings.x509_svid_ttl_seconds = 60;
        settings.jwt_svid_ttl_seconds = 60;
        settings.agent_svid_ttl_seconds = 60;
    })
    .await;
    let service = ClusterService(fixture.services.clone());
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        let now = fixture.services.host.clock.now();
        let list = service
            .list_authorities(local(wire::ListAuthoritiesRequest {}))
            .await;
        let list = list.unwrap().into_inner().authorities;
        for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
            let active: Vec<_> = list
                .iter()
                .filter(|authority| authority.kind() == kind)
                .filter(|authority| authority.state() == AuthorityState::Active)
                .collect();
            assert_eq!(active.len(), 1, "{list:?}");
            // There is always time for the longest leaf.
            assert!(
                active[0].not_after_ms - now.unix_millis() >= 60_000,
                "{list:?}"
            );
            seen.insert(active[0].id.clone());
        }
    }
    assert!(
        seen.len() >= 8,
        "2000 s of authorities that live 600 s: {seen:?}"
    );
    let list = service
        .list_authorities(local(wire::ListAuthoritiesRequest {}))
        .await;
    assert!(
        list.unwrap().into_inner().authorities.len() <= 12,
        "the old ones go"
    );
}

#[tokio::test(start_paused = true)]
async fn an_operator_prepares_an_authority_once() {
    let fixture = Fixture::issuing(false).await;
    let service = ClusterService(fixture.services.clone());
    let prepare = || {
        let kind = AuthorityKind::X509.into();
        service.prepare_authority(local(wire::PrepareAuthorityRequest { kind }))
    };
    let id = prepare().await.unwrap().into_inner().authority_id;
    let list = service
        .list_authorities(local(wire::ListAuthoritiesRequest {}))
        .await;
    let list = list.unwrap().into_inner();
    assert!(
        list.authorities.iter().any(|authority| authority.id == id),
        "{list:?}"
    );
    assert_eq!(
        prepare().await.unwrap_err().code(),
        Code::FailedPrecondition
    );
}

#[tokio::test(start_paused = true)]
async fn a_tainted_authority_is_not_revoked_before_another_took_its_place() {
    let fixture = Fixture::issuing(false).await;
    let service = ClusterService(fixture.services.clone());
    // It issues, and never proves that it can use a key: the next authority waits for it.
    let silent = Server {
        name: "two".into(),
        incarnation: vec![8; 16],
        peer_address: "two:7000".into(),
        api_address: "two:8081".into(),
        peer_spki_sha256: vec![8; 32],
        peer_certificate: vec![1],
        vault_public_key: vec![2],
        issuing: true,
        ..Server::default()
    };
    let admit = AdmitServer {
        server: Some(silent),
        ..AdmitServer::default()
    };
    fixture.apply(command::Body::AdmitServer(admit)).await;
    let active = || {
        let active = |state: &State| state.active_authority(AuthorityKind::X509).cloned();
        fixture.services.consensus.read(active).unwrap()
    };
    let authority_id = active().id;
    let revoke = || {
        let authority_id = authority_id.clone();
        service.revoke_authority(local(wire::RevokeAuthorityRequest { authority_id }))
    };
    let taint = wire::TaintAuthorityRequest {
        authority_id: authority_id.clone(),
    };
    let tainted = service.taint_authority(local(taint)).await.unwrap();
    assert!(tainted.into_inner().authority.unwrap().tainted);
    let refused = revoke().await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().starts_with("MM-1216"), "{refused:?}");

    let replaced = async {
        let mut applied = fixture.services.consensus.applied();
        while active().id == authority_id {
            applied.changed().await.unwrap();
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), replaced)
        .await
        .expect("it is replaced although a server is silent");
    assert!(!active().tainted);
    // Nothing that it signed is valid any more, so it was retired without anybody asking.
    let late = revoke().await.unwrap_err();
    assert!(late.message().starts_with("MM-1214"), "{late:?}");
}
