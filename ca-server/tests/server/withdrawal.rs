//! An operator withdraws an authority: it is tainted, replaced, and revoked.

use ca_server::RunningServer;
use ca_server::api::IDEMPOTENCY_HEADER;
use mintmark_identity::svid::x509::verify::{Usage, verify_x509_svid};
use mintmark_proto::mintmark::cluster::v1::cluster_client::ClusterClient;
use mintmark_proto::mintmark::cluster::v1::{
    PrepareAuthorityRequest, RevokeAuthorityRequest, TaintAuthorityRequest,
};
use mintmark_proto::mintmark::state::v1::{Authority, AuthorityKind, AuthorityState};
use mintmark_proto::spire::svid::MintJwtsvidRequest;
use mintmark_proto::spire::svid::svid_client::SvidClient;
use mintmark_proto::spire::types;
use rustls_pki_types::CertificateDer;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::harness::*;

async fn taint_by(channel: Channel, id: &str) -> Result<Authority, Status> {
    let authority_id = id.to_owned();
    let answer = ClusterClient::new(channel)
        .taint_authority(TaintAuthorityRequest { authority_id })
        .await?;
    Ok(answer.into_inner().authority.unwrap())
}

async fn revoke_by(channel: Channel, id: &str) -> Result<Authority, Status> {
    let authority_id = id.to_owned();
    let answer = ClusterClient::new(channel)
        .revoke_authority(RevokeAuthorityRequest { authority_id })
        .await?;
    Ok(answer.into_inner().authority.unwrap())
}

fn says(refused: Result<Authority, Status>, grpc: Code, code: &str) {
    let status = refused.unwrap_err();
    assert_eq!(status.code(), grpc, "{status:?}");
    assert!(status.message().starts_with(code), "{status:?}");
}

fn active(server: &RunningServer, kind: AuthorityKind) -> Option<String> {
    server
        .services()
        .consensus
        .read(|state| state.active_authority(kind).map(|one| one.id.clone()))
}

/// Waits until another one signs, and returns it.
async fn successor(server: &RunningServer, kind: AuthorityKind, of: &str) -> String {
    eventually("another authority signs", || async {
        active(server, kind).is_some_and(|active| active != of)
    })
    .await;
    active(server, kind).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_withdrawn_authority_signed_is_replaced_and_then_verifies_nowhere() {
    let mut home = Home::new();
    let server = home.ready().await;
    let kind = AuthorityKind::X509;
    let first = active(&server, kind).unwrap();
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    let before = agent.issue(&entry.id, &Key::new()).await.unwrap();
    assert_eq!(verify(&server, &before).await.anchor_id, first);

    let early = revoke_by(admin(&server), &first).await;
    says(early, Code::FailedPrecondition, "MM-1215");
    let tainted = taint_by(admin(&server), &first).await.unwrap();
    assert!(tainted.tainted && tainted.id == first, "{tainted:?}");
    let twice = taint_by(admin(&server), &first).await;
    says(twice, Code::FailedPrecondition, "MM-1214");

    let second = successor(&server, kind, &first).await;
    let after = agent.issue(&entry.id, &Key::new()).await.unwrap();
    assert_eq!(verify(&server, &after).await.anchor_id, second);
    // Until it is revoked nothing breaks.
    assert_eq!(verify(&server, &before).await.anchor_id, first);

    let revoked = revoke_by(admin(&server), &first).await.unwrap();
    assert_eq!(revoked.state(), AuthorityState::Revoked);
    assert_eq!(bundle(&server).await.x509.len(), 1);
    assert_eq!(verify(&server, &after).await.anchor_id, second);
    let chain: Vec<_> = before
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let bundles = set(bundle(&server).await);
    let verified = verify_x509_svid(&chain, &bundles, now(&server), Usage::Either);
    assert!(verified.is_err(), "{verified:?}");
    for again in [
        revoke_by(admin(&server), &first).await,
        taint_by(admin(&server), &first).await,
    ] {
        says(again, Code::FailedPrecondition, "MM-1214");
    }

    let log = leaves(&server).await;
    let of_first = |action: &str, decision: &str, reason: &str| {
        log.iter().any(|leaf| {
            let what = (leaf.action.as_str(), leaf.decision.as_str());
            let who = (leaf.actor.as_str(), leaf.subject.as_str());
            what == (action, decision) && who == ("local", &first) && leaf.reason == reason
        })
    };
    assert!(of_first("authority.taint", "accepted", "tainted"));
    assert!(of_first("authority.revoke", "accepted", ""));
    assert!(of_first(
        "authority.revoke",
        "denied",
        "authority_not_tainted"
    ));
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_of_tokens_is_withdrawn_like_that_of_certificates() {
    let mut home = Home::new();
    let server = home.ready().await;
    let kind = AuthorityKind::Jwt;
    let first = active(&server, kind).unwrap();
    let x509 = active(&server, AuthorityKind::X509);
    // As long as a token of it is valid it stays in the bundle, unless it is revoked.
    let id = types::Spiffeid {
        trust_domain: TRUST_DOMAIN.to_owned(),
        path: "/db".to_owned(),
    };
    let mint = MintJwtsvidRequest {
        id: Some(id),
        audience: vec!["a".to_owned()],
        ttl: 0,
    };
    let minted = SvidClient::new(admin(&server)).mint_jwtsvid(mint).await;
    minted.unwrap();
    let taint = || {
        let authority_id = first.clone();
        let mut request = Request::new(TaintAuthorityRequest { authority_id });
        let key = "0123456789abcdef0123456789abcdef".parse().unwrap();
        request.metadata_mut().insert(IDEMPOTENCY_HEADER, key);
        request
    };
    let mut client = cluster(&server);
    client.taint_authority(taint()).await.unwrap();
    // The answer may have been lost, so the same request is granted again.
    let again = client.taint_authority(taint()).await.unwrap().into_inner();
    assert!(again.authority.unwrap().tainted);

    let second = successor(&server, kind, &first).await;
    assert_eq!(bundle(&server).await.jwt.len(), 2);
    revoke_by(admin(&server), &first).await.unwrap();
    let left = bundle(&server).await.jwt;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].kid(), second);
    assert_eq!(
        active(&server, AuthorityKind::X509),
        x509,
        "the other kind goes on"
    );
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_only_on_its_way_is_given_up_when_it_is_tainted() {
    let mut home = Home::new();
    let server = home.ready().await;
    let kind = AuthorityKind::X509;
    let first = active(&server, kind).unwrap();
    let prepare = PrepareAuthorityRequest { kind: kind.into() };
    let prepared = cluster(&server).prepare_authority(prepare).await.unwrap();
    let next = prepared.into_inner().authority_id;
    let tainted = taint_by(admin(&server), &next).await.unwrap();
    assert!(tainted.state() != AuthorityState::Active, "{tainted:?}");
    eventually("it is given up", || async {
        server.services().consensus.read(|state| {
            let next = state.authority(&next);
            next.is_some_and(|next| next.state() == AuthorityState::Retired)
        })
    })
    .await;
    assert_eq!(active(&server, kind), Some(first));
    says(
        revoke_by(admin(&server), &next).await,
        Code::FailedPrecondition,
        "MM-1214",
    );
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_private_socket_withdraws_and_only_what_there_is() {
    let mut home = Home::new();
    let server = home.ready().await;
    let first = active(&server, AuthorityKind::X509).unwrap();
    let agent = Agent::new(&server).await;
    for (channel, code) in [
        (anonymous(&server).await, "MM-1101"),
        (agent.channel.clone(), "MM-1102"),
    ] {
        let taint = taint_by(channel.clone(), &first).await;
        says(taint, Code::PermissionDenied, code);
        let revoke = revoke_by(channel, &first).await;
        says(revoke, Code::PermissionDenied, code);
    }
    for (id, grpc, code) in [
        ("none", Code::NotFound, "MM-1203"),
        ("", Code::InvalidArgument, "MM-1201"),
        // The whole ID is asked for: a part of it names nothing.
        (&first[..first.len() - 1], Code::NotFound, "MM-1203"),
    ] {
        says(taint_by(admin(&server), id).await, grpc, code);
        says(revoke_by(admin(&server), id).await, grpc, code);
    }
    let stands = |state: &ca_server::state::State| {
        let first = state.authority(&first).unwrap();
        (first.state(), first.tainted)
    };
    assert_eq!(
        server.services().consensus.read(stands),
        (AuthorityState::Active, false)
    );
    stop(server).await;
}
