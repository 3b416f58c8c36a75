//! SPIFFE Workload API, section by section.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use mintmark_identity::{
    bundle::{Bundle, JwtAuthority, X509Anchor},
    secret::SecretBytes,
    spiffe_id::SpiffeId,
    svid::{
        jwt::{Audience, JwtClaims, UnverifiedJwtSvid},
        x509::{Usage, X509Svid, verify_x509_svid},
    },
    trust_domain::TrustDomain,
};
use mintmark_proto::{
    mintmark::agent::v1 as pb,
    spiffe::workload::{
        JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, ValidateJwtsvidRequest,
        X509BundlesRequest, X509BundlesResponse,
    },
};
use node_agent::status::code_of;
use rustls_pki_types::CertificateDer;
use tonic::{Code, Status, Streaming};

use crate::{
    fake_server::Authority,
    harness::{
        Bed, entry, entry_for, ids, leaf, next, serial, silent, split_der, wait_state, wait_world,
        within,
    },
};

const OWN: &str = "spiffe://example.org";
const FOREIGN: &str = "spiffe://partner.test";

/// A bundle of another trust domain, and the authority behind it.
fn foreign(bed: &Bed) -> (Bundle, Authority) {
    let authority = Authority::new(mintmark_identity::clock::Clock::now(&*bed.clock), false);
    let domain = TrustDomain::parse("partner.test").unwrap();
    let mut bundle = Bundle::empty(domain);
    bundle.x509 = vec![X509Anchor::parse(authority.x509.certificate_der()).unwrap()];
    bundle.jwt = vec![JwtAuthority::parse(&authority.kid, authority.jwt.spki_der()).unwrap()];
    bundle.sequence = Some(7);
    (bundle, authority)
}

async fn x509_bundles(bed: &Bed) -> Streaming<X509BundlesResponse> {
    let answer = within(bed.client().fetch_x509_bundles(X509BundlesRequest {})).await;
    answer.unwrap().into_inner()
}

async fn jwt_bundles(bed: &Bed) -> Streaming<JwtBundlesResponse> {
    let answer = within(bed.client().fetch_jwt_bundles(JwtBundlesRequest {})).await;
    answer.unwrap().into_inner()
}

async fn fetch_jwt(bed: &Bed, audience: &[&str], id: &str) -> Result<Vec<Jwtsvid>, Status> {
    let audience = audience.iter().map(|text| (*text).to_owned()).collect();
    let request = JwtsvidRequest {
        audience,
        spiffe_id: id.to_owned(),
    };
    let answer = within(bed.client().fetch_jwtsvid(request)).await?;
    Ok(answer.into_inner().svids)
}

async fn validate(
    bed: &Bed,
    audience: &str,
    token: &str,
) -> Result<mintmark_proto::spiffe::workload::ValidateJwtsvidResponse, Status> {
    let request = ValidateJwtsvidRequest {
        audience: audience.to_owned(),
        svid: token.to_owned(),
    };
    Ok(within(bed.client().validate_jwtsvid(request))
        .await?
        .into_inner())
}

#[tokio::test]
async fn wla_01_07_all_five_methods_work_and_each_stream_begins_with_a_message() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    assert_eq!(ids(&bed.first_x509().await.unwrap()), ["/a"]);
    assert!(
        next(&mut x509_bundles(&bed).await)
            .await
            .unwrap()
            .bundles
            .contains_key(OWN)
    );
    assert!(
        next(&mut jwt_bundles(&bed).await)
            .await
            .unwrap()
            .bundles
            .contains_key(OWN)
    );
    let tokens = fetch_jwt(&bed, &["there"], "").await.unwrap();
    let valid = validate(&bed, "there", &tokens[0].svid).await.unwrap();
    assert_eq!(valid.spiffe_id, "spiffe://example.org/a");
}

#[tokio::test]
async fn wla_05_06_every_message_is_the_full_state_and_comes_only_on_change() {
    let bed = Bed::new().await;
    let (partner, _) = foreign(&bed);
    bed.world.put_federated(partner);
    for (id, path) in [("a", "/a"), ("b", "/b")] {
        let mut one = entry(id, path);
        one.federates_with = [TrustDomain::parse("partner.test").unwrap()].into();
        bed.world.put_entry(one);
    }
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 2).await;
    let mut stream = bed.x509().await.unwrap();
    let first = next(&mut stream).await.unwrap();
    assert_eq!(
        (ids(&first), first.federated_bundles.len()),
        (vec!["/a", "/b"], 1)
    );
    assert!(
        silent(&mut stream).await,
        "nothing changed, so nothing is sent"
    );
    // An update that changes nothing for this caller is no event either.
    bed.world
        .put_entry(entry_for("x", "/x", &["unix:uid:4294967294"]));
    wait_state(&agent, |state| state.svids.len() == 3).await;
    assert!(silent(&mut stream).await);
    let mut changed = entry("a", "/a");
    changed.revision = 1;
    changed.dns_names = vec!["a.example.org".to_owned()];
    changed.federates_with = [TrustDomain::parse("partner.test").unwrap()].into();
    bed.world.put_entry(changed);
    let second = next(&mut stream).await.unwrap();
    assert_eq!(
        (ids(&second), second.federated_bundles.len()),
        (vec!["/a", "/b"], 1)
    );
    assert_ne!(
        serial(&second.svids[0].x509_svid),
        serial(&first.svids[0].x509_svid)
    );
    assert_eq!(
        second.svids[1], first.svids[1],
        "the other SVID is the same as before"
    );
    bed.world.put_entry(entry("c", "/c"));
    assert_eq!(ids(&next(&mut stream).await.unwrap()), ["/a", "/b", "/c"]);
    bed.world.remove_entry("b");
    assert_eq!(ids(&next(&mut stream).await.unwrap()), ["/a", "/c"]);
}

#[tokio::test]
async fn wla_08_the_first_message_from_a_warm_cache_does_not_wait_for_the_splay() {
    let mut bed = Bed::new().await;
    bed.config.push_splay = Duration::from_secs(3_600);
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 1).await;
    let calls = bed.world.issue_calls.load(Ordering::SeqCst);
    // These do not wait an hour.
    bed.first_x509().await.unwrap();
    next(&mut x509_bundles(&bed).await).await.unwrap();
    assert_eq!(
        bed.world.issue_calls.load(Ordering::SeqCst),
        calls,
        "no server was asked"
    );
}

#[tokio::test]
async fn wla_13_empty_mandatory_fields_and_malformed_ids_are_invalid_arguments() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    let bad_ids = [
        "x",
        "spiffe://",
        "spiffe://Example.org/a",
        "spiffe://example.org/a/",
    ];
    let mut answers = vec![
        fetch_jwt(&bed, &[], "").await.map(|_| ()),
        fetch_jwt(&bed, &[""], "").await.map(|_| ()),
        fetch_jwt(&bed, &["a", ""], "").await.map(|_| ()),
        validate(&bed, "", "x").await.map(|_| ()),
        validate(&bed, "a", "").await.map(|_| ()),
    ];
    for id in bad_ids {
        answers.push(fetch_jwt(&bed, &["a"], id).await.map(|_| ()));
    }
    for (number, answer) in answers.into_iter().enumerate() {
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{number}: {status}");
        assert_eq!(code_of(&status).unwrap(), "MM-2002", "{number}: {status}");
    }
}

#[tokio::test]
async fn wla_15_16_n7_n11_the_svid_is_der_leaf_first_with_its_pkcs8_key_and_verifies() {
    for hybrid in [false, true] {
        let bed = Bed::with_pq(hybrid).await;
        let mut one = entry("a", "/a");
        one.dns_names = vec!["a.example.org".to_owned()];
        bed.world.put_entry(one);
        let _agent = bed.start().await;
        let response = bed.first_x509().await.unwrap();
        let svid = &response.svids[0];
        // Parsing it as one's own checks: leaf first, key in PKCS#8, key and leaf belong together.
        let key = SecretBytes::new(svid.x509_svid_key.clone());
        let own = X509Svid::parse(&svid.x509_svid, key).unwrap();
        assert_eq!(own.spiffe_id().as_str(), svid.spiffe_id);
        let mut bundle = Bundle::empty(TrustDomain::parse("example.org").unwrap());
        bundle.x509 = X509Anchor::parse_concatenated(&svid.bundle).unwrap();
        let bundles = [bundle].into_iter().collect();
        let chain: Vec<CertificateDer<'_>> = split_der(&svid.x509_svid)
            .into_iter()
            .map(CertificateDer::from)
            .collect();
        let now = mintmark_identity::clock::Clock::now(&*bed.clock);
        let verified = verify_x509_svid(&chain, &bundles, now, Usage::Either).unwrap();
        assert_eq!(verified.spiffe_id.as_str(), svid.spiffe_id);
        assert_eq!(verified.hybrid, hybrid);
    }
}

#[tokio::test]
async fn wla_18_n1_every_identity_has_its_own_entry_in_an_order_that_stays() {
    let bed = Bed::new().await;
    for (id, path, age) in [
        ("1", "/young", 3_000),
        ("2", "/old", 1_000),
        ("3", "/middle", 2_000),
    ] {
        let mut one = entry(id, path);
        one.created_at = mintmark_identity::clock::Timestamp::from_unix_secs(age);
        bed.world.put_entry(one);
    }
    let agent = bed.start().await;
    let first = bed.first_x509().await.unwrap();
    assert_eq!(ids(&first), ["/old", "/middle", "/young"]);
    agent.stop().await;
    let _again = bed.start().await;
    assert_eq!(
        bed.first_x509().await.unwrap(),
        first,
        "after a restart it is the same"
    );
}

#[tokio::test]
async fn wla_19_30_of_two_entries_with_one_hint_only_the_oldest_is_shown() {
    let bed = Bed::new().await;
    for (id, path, age, hint) in [
        ("a", "/late", 2_000, "internal"),
        ("b", "/early", 1_000, "internal"),
        ("c", "/none", 3_000, ""),
        ("d", "/none-too", 4_000, ""),
    ] {
        let mut one = entry(id, path);
        one.created_at = mintmark_identity::clock::Timestamp::from_unix_secs(age);
        one.hint = hint.to_owned();
        bed.world.put_entry(one);
    }
    let _agent = bed.start().await;
    let response = bed.first_x509().await.unwrap();
    assert_eq!(ids(&response), ["/early", "/none", "/none-too"]);
    assert_eq!(response.svids[0].hint, "internal");
    let tokens = fetch_jwt(&bed, &["x"], "").await.unwrap();
    let hints: Vec<&str> = tokens.iter().map(|token| token.hint.as_str()).collect();
    assert_eq!(hints, ["internal", "", ""]);
    assert_eq!(tokens[0].spiffe_id, "spiffe://example.org/early");
}

#[tokio::test]
async fn wla_24_34_n4_n5_bundles_are_the_own_and_those_that_the_entry_federates_with() {
    let bed = Bed::new().await;
    let (partner, authority) = foreign(&bed);
    bed.world.put_federated(partner);
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 1).await;
    let response = bed.first_x509().await.unwrap();
    assert!(
        response.federated_bundles.is_empty(),
        "the entry federates with nobody"
    );
    assert!(response.crl.is_empty());
    let mut x509 = x509_bundles(&bed).await;
    let mut jwt = jwt_bundles(&bed).await;
    let first = next(&mut x509).await.unwrap();
    assert_eq!(first.bundles.keys().collect::<Vec<_>>(), [OWN]);
    assert!(first.crl.is_empty());
    assert_eq!(
        first.bundles[OWN],
        bed.world.authority().x509.certificate_der()
    );
    assert_eq!(
        next(&mut jwt)
            .await
            .unwrap()
            .bundles
            .keys()
            .collect::<Vec<_>>(),
        [OWN]
    );
    let mut federating = entry("a", "/a");
    federating.revision = 1;
    federating.federates_with = [TrustDomain::parse("partner.test").unwrap()].into();
    bed.world.put_entry(federating);
    let both = next(&mut x509).await.unwrap();
    assert_eq!(both.bundles.keys().collect::<Vec<_>>(), [OWN, FOREIGN]);
    assert_eq!(both.bundles[FOREIGN], authority.x509.certificate_der());
    assert_eq!(
        next(&mut jwt)
            .await
            .unwrap()
            .bundles
            .keys()
            .collect::<Vec<_>>(),
        [OWN, FOREIGN]
    );
    bed.world
        .remove_federated(&TrustDomain::parse("partner.test").unwrap());
    assert_eq!(
        next(&mut x509)
            .await
            .unwrap()
            .bundles
            .keys()
            .collect::<Vec<_>>(),
        [OWN]
    );
    assert_eq!(
        next(&mut jwt)
            .await
            .unwrap()
            .bundles
            .keys()
            .collect::<Vec<_>>(),
        [OWN]
    );
}

#[tokio::test]
async fn wla_35_jwt_bundles_hold_jwt_keys_only_and_may_be_empty() {
    let bed = Bed::new().await;
    let (mut partner, _) = foreign(&bed);
    partner.wit = std::mem::take(&mut partner.jwt);
    assert_eq!((partner.x509.len(), partner.wit.len()), (1, 1));
    bed.world.put_federated(partner);
    let mut one = entry("a", "/a");
    one.federates_with = [TrustDomain::parse("partner.test").unwrap()].into();
    bed.world.put_entry(one);
    let agent = bed.start().await;
    let state = wait_state(&agent, |state| state.bundles.len() == 2).await;
    let held = state
        .bundles
        .get(&TrustDomain::parse("partner.test").unwrap());
    assert_eq!(
        held.unwrap().wit.len(),
        1,
        "the agent has the key that it must not send"
    );
    let bundles = next(&mut jwt_bundles(&bed).await).await.unwrap().bundles;
    let keys = |id: &str| -> Vec<serde_json::Value> {
        let document: serde_json::Value = serde_json::from_slice(&bundles[id]).unwrap();
        document["keys"].as_array().unwrap().clone()
    };
    assert_eq!(keys(FOREIGN).len(), 0, "it has X.509 and WIT keys");
    let own = keys(OWN);
    assert_eq!(own.len(), 1);
    assert_eq!(own[0]["kid"], bed.world.authority().kid);
    assert!(own[0].get("x5c").is_none());
}

#[tokio::test]
async fn wla_27_28_29_tokens_carry_the_audience_in_order_for_all_or_one_identity() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    bed.world.put_entry(entry("b", "/b"));
    let _agent = bed.start().await;
    let all = fetch_jwt(&bed, &["zebra", "ant", "zebra"], "")
        .await
        .unwrap();
    assert_eq!(all.len(), 2);
    for token in &all {
        let content = UnverifiedJwtSvid::parse(&token.svid).unwrap();
        assert_eq!(content.spiffe_id.as_str(), token.spiffe_id, "WLA-N11");
        assert_eq!(content.audience, ["zebra", "ant"]);
    }
    let one = fetch_jwt(&bed, &["zebra"], "spiffe://example.org/b")
        .await
        .unwrap();
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].spiffe_id, "spiffe://example.org/b");
}

#[tokio::test]
async fn wla_32_an_identity_of_somebody_else_and_one_that_does_not_exist_get_one_answer() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    bed.world
        .put_entry(entry_for("other", "/other", &["unix:uid:4294967294"]));
    let _agent = bed.start().await;
    let mut answers = BTreeSet::new();
    for id in [
        "spiffe://example.org/other",
        "spiffe://example.org/unknown",
        "spiffe://partner.test/a",
        "spiffe://example.org",
    ] {
        let status = fetch_jwt(&bed, &["x"], id).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{id}");
        answers.insert(status.message().to_owned());
    }
    assert_eq!(
        answers.len(),
        1,
        "the answers do not tell which identities exist"
    );
}

#[tokio::test]
async fn tokens_are_cached_per_audience_and_those_with_a_jti_are_not() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let mut unique = entry_for(
        "u",
        "/u",
        &[&format!("unix:uid:{}", crate::harness::my_uid())],
    );
    unique.jwt_svid_include_jti = true;
    bed.world.put_entry(unique);
    let _agent = bed.start().await;
    let calls = || bed.world.jwt_calls.load(Ordering::SeqCst);
    let first = fetch_jwt(&bed, &["x"], "spiffe://example.org/a")
        .await
        .unwrap();
    let again = fetch_jwt(&bed, &["x"], "spiffe://example.org/a")
        .await
        .unwrap();
    assert_eq!((first[0].svid == again[0].svid, calls()), (true, 1));
    fetch_jwt(&bed, &["y"], "spiffe://example.org/a")
        .await
        .unwrap();
    assert_eq!(calls(), 2);
    let one = fetch_jwt(&bed, &["x"], "spiffe://example.org/u")
        .await
        .unwrap();
    let two = fetch_jwt(&bed, &["x"], "spiffe://example.org/u")
        .await
        .unwrap();
    assert_ne!(one[0].svid, two[0].svid);
    assert_eq!(calls(), 4);
    // Past half of its life a token is fetched anew.
    bed.clock.advance(Duration::from_secs(151));
    let later = fetch_jwt(&bed, &["x"], "spiffe://example.org/a")
        .await
        .unwrap();
    assert_ne!(later[0].svid, first[0].svid);
}

#[tokio::test]
async fn a_token_that_arrives_after_its_entry_was_taken_back_is_not_handed_out() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 1).await;
    bed.world.gate.send_replace(false);
    let asked = fetch_jwt(&bed, &["x"], "");
    let denied = async {
        let calls = std::sync::Arc::clone(&bed.world.jwt_calls);
        wait_world(&bed.world, |_| calls.load(Ordering::SeqCst) == 1).await;
        let taken_back = bed.world.remove_entry("a");
        wait_world(&bed.world, |inner| {
            inner.acknowledged.iter().any(|(at, _)| *at == taken_back)
        })
        .await;
        bed.world.gate.send_replace(true);
    };
    let (token, ()) = tokio::join!(asked, denied);
    let status = token.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(agent.state().entries.is_empty());
}

#[tokio::test]
async fn a_cached_token_outlives_the_servers_but_not_itself() {
    let mut bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    let first = fetch_jwt(&bed, &["x"], "").await.unwrap();
    bed.stop_server().await;
    bed.clock.advance(Duration::from_secs(200));
    let old = fetch_jwt(&bed, &["x"], "").await.unwrap();
    assert_eq!(
        old[0].svid, first[0].svid,
        "half of its life is over, but nobody has a new one"
    );
    let status = fetch_jwt(&bed, &["uncached"], "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(code_of(&status).unwrap(), "MM-2009");
    bed.clock.advance(Duration::from_secs(101));
    let status = fetch_jwt(&bed, &["x"], "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test]
async fn wla_38_a_token_is_valid_for_its_audiences_until_it_ends() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    let token = fetch_jwt(&bed, &["here", "there"], "")
        .await
        .unwrap()
        .remove(0)
        .svid;
    let valid = validate(&bed, "there", &token).await.unwrap();
    let claims = valid.claims.unwrap().fields;
    for name in ["sub", "aud", "exp"] {
        assert!(claims.contains_key(name), "{name}");
    }
    let list = |value: &prost_types::Value| match &value.kind {
        Some(prost_types::value::Kind::ListValue(list)) => list.values.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(list(&claims["aud"]), 2);
    let number = matches!(
        claims["exp"].kind,
        Some(prost_types::value::Kind::NumberValue(_))
    );
    assert!(number, "exp is a number");

    bed.clock.advance(Duration::from_secs(400));
    let status = validate(&bed, "here", &token).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "expired: {status}");
}

#[tokio::test]
async fn wla_38_39_41_a_token_that_breaks_a_rule_is_refused_until_its_trust_domain_is_federated() {
    let bed = Bed::new().await;
    let (partner, authority) = foreign(&bed);
    bed.world.put_federated(partner);
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    let token = fetch_jwt(&bed, &["here"], "").await.unwrap().remove(0).svid;
    let now = mintmark_identity::clock::Clock::now(&*bed.clock);
    let foreign_claims = JwtClaims {
        spiffe_id: SpiffeId::parse("spiffe://partner.test/b").unwrap(),
        audience: Audience::new(["here"]).unwrap(),
        issued_at: now,
        expires_at: now.saturating_add(Duration::from_secs(60)),
        jti: None,
        issuer: Some("https://partner.test".to_owned()),
    };
    let foreign_token = authority.token(&foreign_claims);
    // Signed by the partner's key, but speaking of our trust domain (WLA-41).
    let stolen = JwtClaims {
        spiffe_id: SpiffeId::parse("spiffe://example.org/a").unwrap(),
        ..foreign_claims.clone()
    };
    let forged = authority.token(&stolen);
    let mut altered = token.clone();
    let last = altered.pop().unwrap();
    altered.push(if last == 'A' { 'B' } else { 'A' });
    for (what, audience, token) in [
        ("another audience", "elsewhere", token.as_str()),
        ("no token", "here", "x.y.z"),
        ("altered", "here", altered.as_str()),
        ("not federated", "here", foreign_token.as_str()),
        ("another domain's key", "here", forged.as_str()),
    ] {
        let status = validate(&bed, audience, token).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
        assert_eq!(code_of(&status).unwrap(), "MM-2008", "{what}");
        assert!(
            !status.message().contains(token),
            "{what}: the token is not repeated"
        );
    }
    let mut federating = entry("a", "/a");
    federating.revision = 1;
    federating.federates_with = [TrustDomain::parse("partner.test").unwrap()].into();
    bed.world.put_entry(federating);
    wait_state(&agent, |state| {
        state.entries.iter().all(|held| held.entry.revision == 1)
    })
    .await;
    let valid = validate(&bed, "here", &foreign_token).await.unwrap();
    assert_eq!(valid.spiffe_id, "spiffe://partner.test/b");
    let names: Vec<String> = valid.claims.unwrap().fields.into_keys().collect();
    assert_eq!(
        names,
        ["aud", "exp", "sub"],
        "foreign claims that are not SPIFFE's are left out"
    );
}

#[tokio::test]
async fn wla_n6_a_bundle_change_reaches_streams_with_a_splay_and_new_svids_without() {
    let mut bed = Bed::new().await;
    bed.config.push_splay = Duration::from_millis(30);
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    let mut bundles = x509_bundles(&bed).await;
    assert_eq!(
        split_der(&next(&mut bundles).await.unwrap().bundles[OWN]).len(),
        1
    );
    bed.world.rotate_authority(true);
    let both = next(&mut bundles).await.unwrap();
    assert_eq!(split_der(&both.bundles[OWN]).len(), 2);
    let mut stream = bed.x509().await.unwrap();
    next(&mut stream).await.unwrap();
    bed.world.put_entry(entry("b", "/b"));
    assert_eq!(ids(&next(&mut stream).await.unwrap()), ["/a", "/b"]);
}

#[tokio::test]
async fn wla_n9_a_stream_ends_with_permission_denied_when_the_last_entry_goes() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    let mut x509 = bed.x509().await.unwrap();
    let mut bundles = x509_bundles(&bed).await;
    let mut jwt = jwt_bundles(&bed).await;
    next(&mut x509).await.unwrap();
    next(&mut bundles).await.unwrap();
    next(&mut jwt).await.unwrap();
    bed.world.remove_entry("a");
    assert_eq!(
        within(x509.message()).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(
        within(bundles.message()).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(
        within(jwt.message()).await.unwrap_err().code(),
        Code::PermissionDenied
    );
}

#[tokio::test]
async fn an_entry_that_ends_by_time_ends_streams_without_a_word_from_a_server() {
    let bed = Bed::new().await;
    let now = mintmark_identity::clock::Clock::now(&*bed.clock);
    let mut one = entry("a", "/a");
    // Well before its SVID is renewed.
    one.expires_at = Some(now.saturating_add(Duration::from_secs(600)));
    bed.world.put_entry(one);
    let _agent = bed.start().await;
    let mut stream = bed.x509().await.unwrap();
    next(&mut stream).await.unwrap();
    // Nearly all of it; a push about nothing makes the agent look at the clock, and it waits for the
    // rest by itself.
    bed.clock.advance(Duration::from_secs(598));
    bed.world.push(pb::Update::default());
    let end = within(stream.message()).await.unwrap_err();
    assert_eq!(end.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_entry_that_lands_while_a_stream_waits_for_its_svid_is_served_at_once() {
    let bed = Bed::new().await;
    bed.world.gate.send_replace(false);
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    let mut stream = bed.x509().await.unwrap();
    assert!(
        silent(&mut stream).await,
        "entitled, but nothing is issued yet"
    );
    bed.world.gate.send_replace(true);
    assert_eq!(ids(&next(&mut stream).await.unwrap()), ["/a"]);
    let leaf = leaf(&bed.first_x509().await.unwrap().svids[0].x509_svid);
    assert!(!leaf.serial.is_empty() && !leaf.der.is_empty());
}

#[tokio::test]
async fn id_13_14_an_id_of_2048_bytes_goes_through_the_workload_api_and_2049_do_not() {
    let bed = Bed::new().await;
    let path = format!("/{}", "a".repeat(2_048 - "spiffe://example.org/".len()));
    bed.world.put_entry(entry("a", &path));
    let _agent = bed.start().await;
    let svid = bed.first_x509().await.unwrap().svids.remove(0);
    assert_eq!(svid.spiffe_id.len(), 2_048);
    let own = X509Svid::parse(&svid.x509_svid, SecretBytes::new(svid.x509_svid_key)).unwrap();
    assert_eq!(own.spiffe_id().as_str(), svid.spiffe_id);
    let tokens = fetch_jwt(&bed, &["x"], &svid.spiffe_id).await.unwrap();
    let valid = validate(&bed, "x", &tokens[0].svid).await.unwrap();
    assert_eq!(valid.spiffe_id, svid.spiffe_id);
    let longer = format!("{}a", svid.spiffe_id);
    let status = fetch_jwt(&bed, &["x"], &longer).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[tokio::test]
async fn id_15_before_there_is_an_authority_nothing_is_served_and_then_the_bundle_has_one() {
    let mut bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    bed.stop_server().await;
    let agent = bed.launch().await;
    let mut client = bed.client();
    let early = within(client.fetch_x509_bundles(X509BundlesRequest {})).await;
    assert_eq!(early.unwrap_err().code(), Code::Unavailable);
    let early = within(client.fetch_jwt_bundles(JwtBundlesRequest {})).await;
    assert_eq!(early.unwrap_err().code(), Code::Unavailable);
    bed.restart_server().await;
    wait_state(&agent, |state| state.svids.len() == 1).await;
    let bundles = next(&mut x509_bundles(&bed).await).await.unwrap().bundles;
    assert_eq!(split_der(&bundles[OWN]).len(), 1);
    let jwks = next(&mut jwt_bundles(&bed).await).await.unwrap().bundles;
    let jwks: serde_json::Value = serde_json::from_slice(&jwks[OWN]).unwrap();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 1);
}

/// Any header over any payload, signed by the trust domain's own key.
fn signed(bed: &Bed, header: &serde_json::Value, claims: &serde_json::Value) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
    let input = [header, claims]
        .map(|part| B64.encode(part.to_string()))
        .join(".");
    let signature = bed
        .world
        .authority()
        .jwt
        .sign_jws(input.as_bytes())
        .unwrap();
    format!("{input}.{}", B64.encode(signature))
}

#[tokio::test]
async fn wla_38_every_rule_of_jwt_svids_is_applied_to_a_token_of_the_right_key() {
    use serde_json::{Value, json};
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    let now = mintmark_identity::clock::Clock::now(&*bed.clock).unix_secs();
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": bed.world.authority().kid});
    let claims =
        json!({"sub": "spiffe://example.org/a", "aud": ["here"], "iat": now, "exp": now + 60});
    let with = |base: &Value, name: &str, value: &Value| {
        let mut changed = base.clone();
        changed
            .as_object_mut()
            .unwrap()
            .insert(name.to_owned(), value.clone());
        if value.is_null() {
            changed.as_object_mut().unwrap().remove(name);
        }
        changed
    };
    let good = signed(&bed, &header, &claims);
    assert!(validate(&bed, "here", &good).await.is_ok());
    let headers = [
        ("alg", json!("none")),
        ("alg", json!("HS256")),
        ("alg", json!("ES384")),
        ("alg", Value::Null),
        ("typ", json!("wit+jwt")),
        ("typ", json!("jwt")),
        ("kid", Value::Null),
        ("kid", json!("other")),
        ("crit", json!(["exp"])),
    ];
    let bodies = [
        ("sub", Value::Null),
        ("sub", json!("w")),
        ("sub", json!("spiffe://example.org")),
        ("sub", json!("spiffe://Example.org/a")),
        ("sub", json!("spiffe://other.test/a")),
        ("aud", Value::Null),
        ("aud", json!([])),
        ("aud", json!(["Here"])),
        ("exp", Value::Null),
        ("exp", json!("tomorrow")),
        ("exp", json!(now - 3_600)),
        ("nbf", json!(now + 3_600)),
        ("iat", json!("yesterday")),
    ];
    let headers = headers.map(|(name, value)| signed(&bed, &with(&header, name, &value), &claims));
    let bodies = bodies.map(|(name, value)| signed(&bed, &header, &with(&claims, name, &value)));
    let unsigned = format!("{}.", good.rsplit_once('.').unwrap().0);
    let parts: Vec<&str> = good.split('.').collect();
    let json_form = json!({"payload": parts[1], "protected": parts[0], "signature": parts[2]});
    let shapes = [
        unsigned,
        format!("{good}.x"),
        format!("{good}="),
        json_form.to_string(),
    ];
    for token in headers.iter().chain(&bodies).chain(&shapes) {
        let status = validate(&bed, "here", token).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{token}: {status}");
        assert_eq!(code_of(&status).unwrap(), "MM-2008", "{token}");
    }
}
