#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::time::Duration;

use mintmark_identity::bundle::BundleSet;
use mintmark_identity::svid::x509::{Usage, verify_x509_svid};
use mintmark_proto::mintmark::audit::v1::Leaf;
use mintmark_proto::spire::svid::svid_server::Svid as _;
use prost::Message as _;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::CertificateDer;
use tonic::Code;

use super::*;
use crate::api::fixture::{Fixture, local, remote};
use crate::state::State;

fn csr(uris: &[&str]) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
    params.subject_alt_names = uris.iter().map(uri).collect();
    params.serialize_request(&key).unwrap().der().to_vec()
}

async fn last_leaf(fixture: &Fixture, action: &str) -> Leaf {
    let consensus = &fixture.services.consensus;
    let size = consensus.read(State::audit_size);
    let leaves = consensus.leaves(0..size, usize::MAX).await.unwrap();
    let mut leaves = leaves
        .iter()
        .rev()
        .map(|leaf| Leaf::decode(leaf.as_ref()).unwrap());
    leaves
        .find(|leaf| leaf.action == action)
        .expect("the leaf is there")
}

#[tokio::test(start_paused = true)]
async fn a_minted_certificate_verifies_and_its_leaf_says_who_minted() {
    for hybrid in [false, true] {
        let fixture = Fixture::issuing(hybrid).await;
        let service = SvidService(fixture.services.clone());
        let csr = csr(&["spiffe://example.org/web"]);
        let request = wire::MintX509svidRequest { csr, ttl: 600 };
        let svid = service
            .mint_x509svid(local(request))
            .await
            .unwrap()
            .into_inner()
            .svid
            .unwrap();
        let chain: Vec<_> = svid
            .cert_chain
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let mut bundles = BundleSet::new();
        bundles.insert(fixture.services.consensus.read(State::own_bundle).unwrap());
        let now = fixture.services.host.clock.now();
        let verified = verify_x509_svid(&chain, &bundles, now, Usage::Server).unwrap();
        assert_eq!(verified.spiffe_id.as_str(), "spiffe://example.org/web");
        assert_eq!(verified.hybrid, hybrid);
        assert_eq!(svid.expires_at, verified.validity.not_after.unix_secs());
        let leaf = last_leaf(&fixture, "x509.issue").await;
        let issuance = leaf.issuance.unwrap();
        assert_eq!(
            (leaf.actor.as_str(), leaf.decision.as_str()),
            ("local", "accepted")
        );
        assert_eq!(issuance.basis, "admin-mint");
        assert_eq!(hex::encode(issuance.serial), verified.serial);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_minted_is_refused_and_leaves_no_svid() {
    let fixture = Fixture::issuing(false).await;
    let service = SvidService(fixture.services.clone());
    let size = fixture.services.consensus.read(State::audit_size);
    let requests = [
        csr(&[]),
        csr(&["spiffe://example.org/a", "spiffe://example.org/b"]),
        csr(&["spiffe://other.org/web"]),
        csr(&["spiffe://example.org/spire/server"]),
        csr(&["https://example.org/web"]),
        b"no csr".to_vec(),
        Vec::new(),
    ];
    for csr in requests {
        let request = wire::MintX509svidRequest { csr, ttl: 0 };
        let refused = service.mint_x509svid(local(request)).await.unwrap_err();
        assert_eq!(
            refused.code(),
            Code::InvalidArgument,
            "{}",
            refused.message()
        );
    }
    let request = wire::MintX509svidRequest {
        csr: csr(&["spiffe://example.org/web"]),
        ttl: 0,
    };
    let refused = service.mint_x509svid(remote(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(fixture.services.consensus.read(State::audit_size), size);
}

#[tokio::test(start_paused = true)]
async fn a_minted_token_verifies_for_its_audience_only() {
    use mintmark_identity::svid::jwt::{Audience, verify_jwt_svid};
    let fixture = Fixture::issuing(false).await;
    let service = SvidService(fixture.services.clone());
    let id = types::Spiffeid {
        trust_domain: "example.org".into(),
        path: "/web".into(),
    };
    let mint = |audience: &[&str]| {
        let request = wire::MintJwtsvidRequest {
            id: Some(id.clone()),
            audience: audience.iter().map(|name| (*name).to_owned()).collect(),
            ttl: 60,
        };
        service.mint_jwtsvid(local(request))
    };
    let svid = mint(&["db"]).await.unwrap().into_inner().svid.unwrap();
    let mut bundles = BundleSet::new();
    bundles.insert(fixture.services.consensus.read(State::own_bundle).unwrap());
    let now = fixture.services.host.clock.now();
    let verify = |audience: &str| {
        let audience = Audience::new([audience.to_owned()]).unwrap();
        verify_jwt_svid(&svid.token, &audience, &bundles, now, Duration::ZERO)
    };
    assert_eq!(
        verify("db").unwrap().spiffe_id.as_str(),
        "spiffe://example.org/web"
    );
    assert!(verify("cache").is_err());
    assert_eq!(mint(&[]).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(
        last_leaf(&fixture, "jwt.issue")
            .await
            .issuance
            .unwrap()
            .basis,
        "admin-mint"
    );
}

#[tokio::test(start_paused = true)]
async fn while_the_clusters_time_is_ahead_nothing_is_issued_and_the_answer_says_how_long() {
    let fixture = Fixture::issuing(false).await;
    let service = SvidService(fixture.services.clone());
    let mint = || {
        let csr = csr(&["spiffe://example.org/web"]);
        service.mint_x509svid(local(wire::MintX509svidRequest { csr, ttl: 600 }))
    };
    // A clock that was wrong once, and is right again.
    fixture.clock.set(60);
    fixture.join("t", &[]).await;
    fixture.clock.set(0);
    let size = fixture.services.consensus.read(State::audit_size);
    let refused = mint().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().starts_with("MM-1315"), "{refused}");
    assert!(
        refused.message().contains("59.") || refused.message().contains("60."),
        "{refused}"
    );
    let now = fixture.services.consensus.read(State::audit_size);
    assert_eq!(now, size, "the log is not filled with denials");
    tokio::time::advance(Duration::from_secs(56)).await;
    mint().await.unwrap();
}
