//! Bundles survive each protocol, and a bad authority is named.
//!
//! Responsible for: the conversions of `convert::bundle`.
//! Always holds: a test fails when a field is forgotten, in either direction.
//! Not here: what the bundle document looks like (`mintmark_identity::bundle`).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::time::Duration;

use mintmark_identity::bundle::{Bundle, JwtAuthority, X509Anchor};
use mintmark_identity::clock::Timestamp;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::convert::bundle::{bundle_from_agent, bundle_to_agent, bundle_to_spire};
use mintmark_proto::convert::{ConvertError, Reason};
use mintmark_proto::mintmark::agent::v1 as agent;
use mintmark_proto::mintmark::state::v1 as state;
use mintmark_proto::spire::types;
use proptest::prelude::*;
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData};

fn certificate(is_ca: bool) -> Vec<u8> {
    let mut params = CertificateParams::default();
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    }
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

fn spki() -> Vec<u8> {
    KeyPair::generate().unwrap().subject_public_key_info()
}

fn anchor(tainted: bool) -> X509Anchor {
    let mut anchor = X509Anchor::parse(&certificate(true)).unwrap();
    anchor.tainted = tainted;
    anchor
}

fn authority(kid: &str, expires_at: Option<i64>, tainted: bool) -> JwtAuthority {
    let mut authority = JwtAuthority::parse(kid, &spki()).unwrap();
    authority.expires_at = expires_at.map(Timestamp::from_unix_secs);
    authority.tainted = tainted;
    authority
}

fn bundle() -> Bundle {
    Bundle {
        trust_domain: TrustDomain::parse("td.test").unwrap(),
        x509: vec![anchor(false), anchor(true)],
        jwt: vec![authority("a", Some(99), false), authority("b", None, true)],
        wit: vec![authority("w", Some(77), false)],
        sequence: Some(5 << 40),
        refresh_hint: Some(Duration::from_secs(300)),
    }
}

/// Through bytes, so that what is compared is what a peer would see.
fn resent<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

#[test]
fn a_bundle_survives_spires_api() {
    let original = bundle();
    let wire = resent(&bundle_to_spire(&original, None));
    assert_eq!(wire.trust_domain, "td.test");
    assert_eq!(Bundle::try_from(&wire).unwrap(), original);

    let empty = Bundle::empty(TrustDomain::parse("td.test").unwrap());
    let wire = resent(&bundle_to_spire(&empty, None));
    assert_eq!(Bundle::try_from(&wire).unwrap(), empty);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_numbers_of_a_bundle_survive(
        sequence in prop::option::of(1..=u64::MAX),
        hint in prop::option::of(1..=i64::MAX as u64),
    ) {
        let numbers = Bundle {
            sequence,
            refresh_hint: hint.map(Duration::from_secs),
            ..Bundle::empty(TrustDomain::parse("td.test").unwrap())
        };
        let wire = resent(&bundle_to_spire(&numbers, None));
        prop_assert_eq!(Bundle::try_from(&wire).unwrap(), numbers);
    }

    #[test]
    fn no_bundle_of_a_peer_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = types::Bundle::decode(bytes.as_slice()) {
            let _ = Bundle::try_from(&wire);
        }
        let wire = agent::Bundle {
            trust_domain: "td.test".into(),
            document: bytes,
            sequence: 0,
        };
        let _ = bundle_from_agent(&wire);
    }
}

#[test]
fn a_bundle_survives_the_way_to_an_agent_but_for_dates_and_taint() {
    let original = bundle();
    let wire = resent(&bundle_to_agent(&original));
    assert_eq!(wire.sequence, 5 << 40);
    let (received, skipped) = bundle_from_agent(&wire).unwrap();
    assert!(skipped.is_empty(), "{skipped:?}");
    assert_eq!(received.trust_domain, original.trust_domain);
    assert_eq!(received.sequence, original.sequence);
    assert_eq!(received.refresh_hint, original.refresh_hint);
    assert_eq!(received.x509_der_concat(), original.x509_der_concat());
    let keys = |authorities: &[JwtAuthority]| -> Vec<_> {
        let pair = |a: &JwtAuthority| (a.kid().to_owned(), a.public_key_spki().to_vec());
        authorities.iter().map(pair).collect()
    };
    assert_eq!(keys(&received.jwt), keys(&original.jwt));
    assert_eq!(keys(&received.wit), keys(&original.wit));
}

#[test]
fn an_agents_bundle_without_a_sequence_of_its_own_has_the_messages() {
    let document = br#"{"keys":[{"kty":"EC","use":"novel"}]}"#.to_vec();
    let mut wire = agent::Bundle {
        trust_domain: "other.test".into(),
        document,
        sequence: 9,
    };
    let (received, skipped) = bundle_from_agent(&wire).unwrap();
    assert_eq!((received.sequence, skipped.len()), (Some(9), 1));
    wire.sequence = 0;
    assert_eq!(bundle_from_agent(&wire).unwrap().0.sequence, None);
    wire.document = br#"{"keys":[],"spiffe_sequence":3}"#.to_vec();
    wire.sequence = 9;
    assert_eq!(bundle_from_agent(&wire).unwrap().0.sequence, Some(3));
}

#[test]
fn a_mask_shows_exactly_what_it_names() {
    type Row = (
        fn(&mut types::BundleMask),
        fn(&mut types::Bundle, &types::Bundle),
    );
    let rows: [Row; 5] = [
        (
            |m| m.x509_authorities = true,
            |b, f| {
                b.x509_authorities.clone_from(&f.x509_authorities);
            },
        ),
        (
            |m| m.jwt_authorities = true,
            |b, f| {
                b.jwt_authorities.clone_from(&f.jwt_authorities);
            },
        ),
        (
            |m| m.wit_authorities = true,
            |b, f| {
                b.wit_authorities.clone_from(&f.wit_authorities);
            },
        ),
        (
            |m| m.refresh_hint = true,
            |b, f| b.refresh_hint = f.refresh_hint,
        ),
        (
            |m| m.sequence_number = true,
            |b, f| {
                b.sequence_number = f.sequence_number;
            },
        ),
    ];
    let original = bundle();
    let full = bundle_to_spire(&original, None);
    for (set, copy) in rows {
        let mut mask = types::BundleMask::default();
        set(&mut mask);
        let bare = types::Bundle {
            trust_domain: full.trust_domain.clone(),
            ..Default::default()
        };
        let mut expected = bare.clone();
        copy(&mut expected, &full);
        assert_ne!(expected, bare);
        assert_eq!(bundle_to_spire(&original, Some(&mask)), expected);
    }
}

fn fault(change: impl FnOnce(&mut types::Bundle)) -> ConvertError {
    let mut wire = bundle_to_spire(&bundle(), None);
    change(&mut wire);
    Bundle::try_from(&wire).unwrap_err()
}

#[test]
fn each_bad_field_of_a_bundle_is_named() {
    for (field, spoil) in [
        (
            "trust_domain",
            (|b| b.trust_domain.clear()) as fn(&mut types::Bundle),
        ),
        ("x509_authorities[1].asn1", |b| {
            b.x509_authorities[1].asn1.clear()
        }),
        ("x509_authorities[0].asn1", |b| {
            b.x509_authorities[0].asn1.push(0)
        }),
        ("x509_authorities[0].asn1", |b| {
            b.x509_authorities[0].asn1 = certificate(false)
        }),
        ("jwt_authorities[0].key_id", |b| {
            b.jwt_authorities[0].key_id.clear()
        }),
        ("jwt_authorities[1].public_key", |b| {
            b.jwt_authorities[1].public_key = vec![0x30]
        }),
        ("jwt_authorities[1].expires_at", |b| {
            b.jwt_authorities[1].expires_at = -1
        }),
        ("wit_authorities[0].public_key", |b| {
            b.wit_authorities[0].public_key.clear()
        }),
        ("wit_authorities[0].expires_at", |b| {
            b.wit_authorities[0].expires_at = i64::MIN
        }),
        ("refresh_hint", |b| b.refresh_hint = -1),
    ] {
        let error = fault(spoil);
        assert_eq!(error.field, field, "{}", error.explain());
    }
}

#[test]
fn wit_37_a_kid_that_names_two_keys_is_refused() {
    let within = fault(|b| b.jwt_authorities[1].key_id = "a".into());
    assert_eq!(within.field, "jwt_authorities[1].key_id");
    assert!(matches!(within.reason, Reason::Duplicate), "{within:?}");
    let across = fault(|b| b.wit_authorities[0].key_id = "a".into());
    assert_eq!(across.field, "wit_authorities[0].key_id");
    let distinct = {
        let mut wire = bundle_to_spire(&bundle(), None);
        wire.wit_authorities[0].key_id = "A".into();
        wire
    };
    assert!(Bundle::try_from(&distinct).is_ok());
}

#[test]
fn one_field_may_hold_several_certificates() {
    let (one, two) = (certificate(true), certificate(true));
    let mut wire = bundle_to_spire(&bundle(), None);
    wire.x509_authorities = vec![types::X509Certificate {
        asn1: [one.clone(), two.clone()].concat(),
        tainted: true,
    }];
    let anchors = Bundle::try_from(&wire).unwrap().x509;
    assert_eq!(anchors.len(), 2);
    assert!(anchors.iter().all(|anchor| anchor.tainted));
    assert_eq!(anchors[0].certificate, one);
    assert_eq!(anchors[1].certificate, two);
}

#[test]
fn an_authority_of_the_state_becomes_one_of_a_bundle() {
    let record = state::Authority {
        id: "kid-1".into(),
        certificate: certificate(true),
        public_key_spki: spki(),
        not_after_ms: 5_500,
        tainted: true,
        ..Default::default()
    };
    let x509 = X509Anchor::try_from(&record).unwrap();
    assert_eq!(
        (x509.certificate, x509.tainted),
        (record.certificate.clone(), true)
    );
    let jwt = JwtAuthority::try_from(&record).unwrap();
    assert_eq!(jwt.kid(), "kid-1");
    assert_eq!(jwt.public_key_spki(), record.public_key_spki);
    assert_eq!(jwt.expires_at, Some(Timestamp::from_unix_millis(5_500)));
    assert!(jwt.tainted);

    let bad = |change: fn(&mut state::Authority)| {
        let mut record = record.clone();
        change(&mut record);
        record
    };
    let x509 = |record: &state::Authority| X509Anchor::try_from(record).unwrap_err().field;
    let jwt = |record: &state::Authority| JwtAuthority::try_from(record).unwrap_err().field;
    assert_eq!(x509(&bad(|a| a.certificate.clear())), "certificate");
    assert_eq!(jwt(&bad(|a| a.id.clear())), "id");
    assert_eq!(jwt(&bad(|a| a.public_key_spki.clear())), "public_key_spki");
    assert_eq!(jwt(&bad(|a| a.not_after_ms = -1)), "not_after_ms");
}

#[test]
fn a_document_that_cannot_be_used_is_named() {
    let mut wire = bundle_to_agent(&bundle());
    wire.document = b"[]".to_vec();
    let error = bundle_from_agent(&wire).unwrap_err();
    assert_eq!(error.field, "document");
    assert!(matches!(error.reason, Reason::Document(_)), "{error:?}");
    wire.trust_domain = "Upper".into();
    assert_eq!(bundle_from_agent(&wire).unwrap_err().field, "trust_domain");
}
