#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::validity::Validity;
use mintmark_proto::mintmark::cluster::v1 as cluster_wire;
use mintmark_proto::mintmark::cluster::v1::cluster_server::Cluster as _;
use mintmark_proto::mintmark::raft::v1::{
    ActivateAuthority, CommandResult, CreateEntries, Intent, IssueBatch, RemoveServer,
    activate_authority::Ground, actor, command::Body, intent,
};
use mintmark_proto::mintmark::state::v1::{AuthorityKind, Entry, Selector};
use mintmark_proto::spire::svid::MintJwtsvidRequest;
use mintmark_proto::spire::svid::svid_server::Svid as _;
use mintmark_proto::spire::types::Spiffeid;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::api::accepted;
use crate::api::cluster::ClusterService;
use crate::api::fixture::{Fixture, local};
use crate::api::svid::SvidService;

/// What a caller is told of a command that the state refuses as a whole.
fn told(result: &CommandResult) -> (Code, Grpc, String) {
    let error = accepted(result).unwrap_err();
    let (code, grpc) = error.codes();
    let status = Status::from(error);
    assert_eq!(status.code(), grpc);
    (code, grpc, status.message().to_owned())
}

#[tokio::test(start_paused = true)]
async fn what_the_state_refuses_as_a_whole_has_its_code() {
    let fixture = Fixture::new().await;
    let last = Body::RemoveServer(RemoveServer { node_id: 1 });
    let refused = fixture.propose(actor::Kind::Local, last).await;
    let (code, grpc, text) = told(&refused);
    assert_eq!((code, grpc), (code::CONFLICT, Grpc::FailedPrecondition));
    assert!(text.starts_with("MM-1206: the last server"), "{text}");

    let intents = vec![Intent::default(); crate::state::INTENTS_MAX + 1];
    let many = Body::IssueBatch(IssueBatch { intents });
    let refused = fixture.propose(actor::Kind::Local, many).await;
    let (code, grpc, text) = told(&refused);
    assert_eq!((code, grpc), (code::LIMIT, Grpc::ResourceExhausted));
    assert!(text.starts_with("MM-1213: "), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_there_already_has_its_code() {
    let fixture = Fixture::new().await;
    let agent = fixture.join("a", &[]).await;
    let entry = Entry {
        id: "e".into(),
        spiffe_id: "spiffe://example.org/web".into(),
        parent_id: agent.to_string(),
        selectors: vec![Selector {
            kind: "unix".into(),
            value: "uid:1".into(),
        }],
        ..Entry::default()
    };
    let create = || {
        Body::CreateEntries(CreateEntries {
            entries: vec![entry.clone()],
        })
    };
    fixture.apply(create()).await;
    let again = fixture.propose(actor::Kind::Local, create()).await;
    let error = ApiError::Refused {
        refusal: again.items[0].refusal(),
        detail: again.items[0].detail.clone(),
    };
    let item = error.item();
    assert_eq!(item.code, i32::from(Grpc::AlreadyExists));
    assert!(item.message.starts_with("MM-1204: "), "{item:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_without_authorities_says_so() {
    let fixture = Fixture::new().await;
    let request = MintJwtsvidRequest {
        id: Some(Spiffeid {
            trust_domain: "example.org".into(),
            path: "/web".into(),
        }),
        audience: vec!["a".into()],
        ttl: 0,
    };
    let service = SvidService(fixture.services.clone());
    let status = service.mint_jwtsvid(local(request)).await.unwrap_err();
    assert_eq!(status.code(), Grpc::Unavailable);
    assert!(status.message().starts_with("MM-1305"), "{status:?}");
}

/// Accepts an attested agent's first SVID. Agents without one are not waited for.
async fn give_svid(fixture: &Fixture, agent: &SpiffeId) {
    let authority = fixture.services.consensus.read(|state| {
        let active = state.active_authority(AuthorityKind::X509);
        active.unwrap().id.clone()
    });
    let subject = intent::AgentSubject {
        agent_id: agent.to_string(),
        presented_serial: Vec::new(),
    };
    let now = fixture.services.host.clock.now();
    let validity = Validity::issued_at(now, Duration::from_secs(1_800));
    let intent = Intent {
        kind: intent::Kind::X509.into(),
        subject: Some(intent::Subject::Agent(subject)),
        spiffe_id: agent.to_string(),
        authority_id: authority,
        serial: vec![1; 16],
        svid_hash: vec![2; 32],
        spki_sha256: Sha256::digest(agent.as_str()).to_vec(),
        not_before_ms: validity.not_before.unix_millis(),
        not_after_ms: validity.not_after.unix_millis(),
        ..Intent::default()
    };
    let intents = vec![intent];
    let batch = Body::IssueBatch(IssueBatch { intents });
    let result = fixture.propose(actor::Kind::Nobody, batch).await;
    let item = &result.items[0];
    assert_eq!(item.refusal(), Refusal::Unspecified, "{}", item.detail);
}

#[tokio::test(start_paused = true)]
async fn a_second_authority_on_its_way_is_refused_and_so_is_one_that_nobody_acknowledged() {
    let fixture = Fixture::issuing(false).await;
    // It never acknowledges, so the next authority waits for it.
    let silent = fixture.join("silent", &[]).await;
    give_svid(&fixture, &silent).await;
    let service = ClusterService(fixture.services.clone());
    let prepare = || {
        let kind = AuthorityKind::X509.into();
        service.prepare_authority(local(cluster_wire::PrepareAuthorityRequest { kind }))
    };
    let prepared = prepare().await.unwrap().into_inner().authority_id;
    let status = prepare().await.unwrap_err();
    assert_eq!(status.code(), Grpc::FailedPrecondition);
    assert!(status.message().starts_with("MM-1313"), "{status:?}");

    let published = async {
        let mut applied = fixture.services.consensus.applied();
        let is_published = || {
            fixture.services.consensus.read(|state| {
                let authority = state.authority(&prepared);
                authority.is_some_and(|one| one.published_at_ms > 0)
            })
        };
        while !is_published() {
            applied.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), published)
        .await
        .expect("it is published");
    let activate = Body::ActivateAuthority(ActivateAuthority {
        authority_id: prepared.clone(),
        ground: Ground::Acknowledged.into(),
    });
    let refused = fixture.propose(actor::Kind::Local, activate).await;
    let (code, _, text) = told(&refused);
    assert_eq!(code, code::REFUSED);
    assert!(text.contains("not acknowledged"), "{text}");
}
