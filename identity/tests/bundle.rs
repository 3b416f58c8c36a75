//! The rules of trust bundles, one test per row of the conformance list and more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod fixture;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fixture::*;
use mintmark_identity::bundle::document::{DocumentError, SkipReason, SkippedKey};
use mintmark_identity::bundle::map::BundleMapError;
use mintmark_identity::bundle::{Bundle, BundleSet, JwtAuthority, JwtAuthorityError, X509Anchor};
use mintmark_identity::jose::JwsAlgorithm;
use mintmark_identity::jose::jwk::JwkError;
use mintmark_identity::spiffe_id::SpiffeIdError;
use mintmark_identity::svid::jwt::{JwtSvidError, verify_jwt_svid};
use mintmark_identity::svid::x509::anchor::{AnchorError, SigningCertificateError};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};
use serde_json::{Value, json};

/// A self-signed certificate; `change` spoils it.
fn certificate(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "root");
    change(&mut params);
    params.self_signed(key).unwrap().der().to_vec()
}

fn root() -> Vec<u8> {
    certificate(
        &KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        |_| {},
    )
}

fn anchor() -> X509Anchor {
    X509Anchor::parse(&root()).unwrap()
}

/// A bundle with two roots, keys of every kind for tokens, and numbers.
fn bundle() -> Bundle {
    let authority = |kid: &str, key: &Key| JwtAuthority::parse(kid, &key.spki()).unwrap();
    let mut bundle = Bundle::empty(domain("example.org"));
    bundle.x509 = vec![anchor(), anchor()];
    bundle.jwt = vec![
        authority("j1", p256()),
        authority("j2", p384()),
        authority("j3", p521()),
        authority("j4", rsa()),
    ];
    bundle.wit = vec![authority("w1", other_p256())];
    bundle.sequence = Some(7);
    bundle.refresh_hint = Some(Duration::from_secs(60));
    bundle
}

fn published(bundle: &Bundle) -> Value {
    serde_json::from_slice(&bundle.to_document()).unwrap()
}

fn keys(document: &Value) -> Vec<Value> {
    document["keys"].as_array().unwrap().clone()
}

fn keys_of_use(document: &Value, usage: &str) -> Vec<Value> {
    keys(document)
        .into_iter()
        .filter(|key| key["use"] == usage)
        .collect()
}

fn read(document: &Value) -> Result<(Bundle, Vec<SkippedKey>), DocumentError> {
    read_text(&document.to_string())
}

fn read_text(document: &str) -> Result<(Bundle, Vec<SkippedKey>), DocumentError> {
    Bundle::from_document(&domain("example.org"), document.as_bytes())
}

/// The good keys of `bundle()`, by use: one X.509 root and one JWT key.
fn good_x509() -> Value {
    keys_of_use(&published(&bundle()), "x509-svid")[0].clone()
}

fn good_jwt() -> Value {
    keys_of_use(&published(&bundle()), "jwt-svid")[0].clone()
}

/// Reads a good root and a good JWT key with `odd` between them; returns why `odd` was left out.
fn skipped(odd: &Value) -> SkipReason {
    skipped_text(&odd.to_string())
}

fn skipped_text(odd: &str) -> SkipReason {
    let document = format!(r#"{{"keys":[{},{odd},{}]}}"#, good_x509(), good_jwt());
    let (bundle, mut skipped) = read_text(&document).unwrap();
    assert_eq!((bundle.x509.len(), bundle.jwt.len()), (1, 1), "{odd}");
    let skip = skipped.pop().unwrap_or_else(|| panic!("accepted: {odd}"));
    assert_eq!((skip.index, skipped.len()), (1, 0), "{odd}");
    skip.reason
}

#[test]
fn a_bundle_survives_writing_and_reading() {
    let original = bundle();
    let (read, skipped) =
        Bundle::from_document(&original.trust_domain, &original.to_document()).unwrap();
    assert!(skipped.is_empty(), "{skipped:?}");
    assert_eq!(read, original);
    assert_eq!(read.to_document(), original.to_document());
}

#[test]
fn x509_24_use_is_x509_svid() {
    assert_eq!(keys_of_use(&published(&bundle()), "x509-svid").len(), 2);
}

#[test]
fn x509_25_an_x509_key_has_no_kid() {
    for key in keys_of_use(&published(&bundle()), "x509-svid") {
        assert!(key.get("kid").is_none());
    }
    // A consumer does not mind one.
    let (bundle, skipped) =
        read(&json!({"keys": [with(good_x509(), &json!({"kid": "k"}))]})).unwrap();
    assert_eq!((bundle.x509.len(), skipped.len()), (1, 0));
}

#[test]
fn x509_26_x5c_is_the_certificate_and_the_key_is_the_certificates() {
    for algorithm in [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ED25519,
    ] {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let certificate = certificate(&pair, |_| {});
        let mut bundle = Bundle::empty(domain("example.org"));
        bundle.x509.push(X509Anchor::parse(&certificate).unwrap());
        let key = keys(&published(&bundle))[0].clone();
        assert_eq!(
            STANDARD.decode(key["x5c"][0].as_str().unwrap()).unwrap(),
            certificate
        );
        let raw = pair.public_key_raw();
        let coordinate = |name: &str| {
            let text = key[name].as_str().unwrap();
            base64::engine::general_purpose::URL_SAFE_NO_PAD
                .decode(text)
                .unwrap()
        };
        if key["kty"] == "EC" {
            assert_eq!(raw[1..], [coordinate("x"), coordinate("y")].concat());
        } else {
            assert_eq!(
                (key["kty"].as_str(), raw),
                (Some("OKP"), coordinate("x").as_slice())
            );
        }
    }
    // Nor is an entry believed whose two keys differ.
    let mut mixed = good_x509();
    mixed["x5c"] = json!([STANDARD.encode(root())]);
    assert!(matches!(skipped(&mixed), SkipReason::CertificateKey));
}

#[test]
fn x509_27_each_authority_has_its_own_key_with_one_certificate() {
    let bundle = bundle();
    let keys = keys_of_use(&published(&bundle), "x509-svid");
    let certificates: Vec<Vec<u8>> = keys
        .iter()
        .map(|key| match key["x5c"].as_array().unwrap().as_slice() {
            [one] => STANDARD.decode(one.as_str().unwrap()).unwrap(),
            other => panic!("{} certificates", other.len()),
        })
        .collect();
    let authorities: Vec<Vec<u8>> = bundle.x509.iter().map(|a| a.certificate.clone()).collect();
    assert_eq!(
        certificates, authorities,
        "as many entries as authorities, each its own"
    );
}

#[test]
fn x509_29_an_entry_without_a_certificate_is_ignored() {
    for x5c in [
        Value::Null,
        json!([]),
        json!("AA=="),
        json!([1]),
        json!([""]),
        json!(["!"]),
    ] {
        let reason = skipped(&with(good_x509(), &json!({"x5c": x5c})));
        assert!(
            matches!(reason, SkipReason::X5c | SkipReason::Anchor(_)),
            "{x5c}: {reason:?}"
        );
    }
    // base64url and missing padding are other encodings than x5c's.
    let certificate = root();
    let url = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .encode([&certificate[..], &[0xFF; 4]].concat());
    assert!(matches!(
        skipped(&with(good_x509(), &json!({"x5c": [url]}))),
        SkipReason::X5c
    ));
}

#[test]
fn x509_30_certificates_after_the_first_are_ignored() {
    let (first, second) = (good_x509(), good_x509());
    let mut both = first.clone();
    both["x5c"] = json!([first["x5c"][0], second["x5c"][0], "garbage", 1]);
    let (bundle, skipped) = read(&json!({"keys": [both]})).unwrap();
    assert!(skipped.is_empty());
    assert_eq!(bundle.x509.len(), 1);
    let certificate = STANDARD.encode(&bundle.x509[0].certificate);
    assert_eq!(json!(certificate), first["x5c"][0]);
}

#[test]
fn x509_09_an_anchor_is_a_signing_certificate() {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let refused = |change: fn(&mut CertificateParams)| {
        X509Anchor::parse(&certificate(&pair, change)).unwrap_err()
    };
    assert!(matches!(
        refused(|p| p.is_ca = IsCa::NoCa),
        AnchorError::NotSigning(SigningCertificateError::NotAnAuthority)
    ));
    assert!(matches!(
        refused(|p| p.is_ca = IsCa::ExplicitNoCa),
        AnchorError::NotSigning(SigningCertificateError::NotAnAuthority)
    ));
    let no_sign = refused(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert!(matches!(
        no_sign,
        AnchorError::NotSigning(SigningCertificateError::NoKeyCertSign)
    ));
    assert!(matches!(
        X509Anchor::parse(b"garbage"),
        Err(AnchorError::Certificate(_))
    ));
    let trailing = [certificate(&pair, |_| {}), vec![0]].concat();
    assert!(matches!(
        X509Anchor::parse(&trailing),
        Err(AnchorError::Certificate(_))
    ));
}

#[test]
fn tdb_01_members_of_others_are_neither_needed_nor_minded() {
    let bare = json!({"keys": keys(&published(&bundle()))});
    let (read_bare, skipped) = read(&bare).unwrap();
    assert!(skipped.is_empty());
    assert_eq!((read_bare.sequence, read_bare.refresh_hint), (None, None));
    let mut more = published(&bundle());
    more["vendor_member"] = json!({"deep": [1, {"x": null}]});
    more["spiffe_something_new"] = json!(1);
    more["keys"][0]["vendor"] = json!({"a": 1});
    let (read_more, skipped) = read(&more).unwrap();
    assert!(skipped.is_empty());
    assert_eq!((read_more.x509.len(), read_more.jwt.len()), (2, 4));
}

#[test]
fn tdb_02_the_sequence_is_written_even_when_it_is_zero() {
    for sequence in [0, 1, u64::MAX] {
        let bundle = Bundle {
            sequence: Some(sequence),
            ..bundle()
        };
        assert_eq!(published(&bundle)["spiffe_sequence"], json!(sequence));
    }
}

#[test]
fn tdb_03_the_sequence_is_a_json_integer() {
    for bad in [
        json!("7"),
        json!(-1),
        json!(1.5),
        json!([7]),
        json!(true),
        json!(1e30),
    ] {
        let document = with(published(&bundle()), &json!({"spiffe_sequence": bad}));
        assert!(
            matches!(read(&document), Err(DocumentError::Sequence)),
            "{bad}"
        );
    }
    let beyond = r#"{"keys":[],"spiffe_sequence":18446744073709551616}"#;
    assert!(matches!(read_text(beyond), Err(DocumentError::Sequence)));
}

#[test]
fn tdb_04_any_change_of_content_needs_a_new_sequence() {
    let base = bundle();
    let later = Bundle {
        sequence: Some(8),
        ..base.clone()
    };
    assert!(!base.differs_from(&base) && !base.differs_from(&later));
    let changes: [fn(&mut Bundle); 6] = [
        |b| b.x509.push(anchor()),
        |b| drop(b.x509.pop()),
        |b| drop(b.jwt.pop()),
        |b| drop(b.wit.pop()),
        |b| b.refresh_hint = None,
        |b| b.jwt[0].tainted = true,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut changed = base.clone();
        change(&mut changed);
        assert!(base.differs_from(&changed), "change {index}");
    }
}

#[test]
fn tdb_05_the_refresh_hint_is_written() {
    assert_eq!(published(&bundle())["spiffe_refresh_hint"], json!(60));
    let none = Bundle {
        refresh_hint: None,
        ..bundle()
    };
    assert!(published(&none).get("spiffe_refresh_hint").is_none());
}

#[test]
fn tdb_06_the_refresh_hint_is_positive_whole_seconds() {
    for short in [
        Duration::ZERO,
        Duration::from_millis(300),
        Duration::from_millis(1_900),
    ] {
        let bundle = Bundle {
            refresh_hint: Some(short),
            ..bundle()
        };
        assert_eq!(published(&bundle)["spiffe_refresh_hint"], json!(1));
    }
    let hint = |hint: Value| {
        read(&json!({"keys": [], "spiffe_refresh_hint": hint}))
            .unwrap()
            .0
            .refresh_hint
    };
    assert_eq!(hint(json!(1)), Some(Duration::from_secs(1)));
    for none in [
        json!(0),
        json!(-5),
        json!(1.5),
        json!("60"),
        json!(null),
        json!([60]),
        json!(1e30),
    ] {
        assert_eq!(hint(none.clone()), None, "{none}");
    }
    let year = Some(Duration::from_secs(365 * 86_400));
    assert_eq!(hint(json!(1_u64 << 63)), year);
    assert_eq!(hint(json!(u64::MAX)), year);
}

#[test]
fn tdb_07_keys_is_an_array_and_never_null() {
    for bad in [
        "{}",
        r#"{"keys":null}"#,
        r#"{"keys":{}}"#,
        r#"{"keys":"x"}"#,
        r#"{"keys":1}"#,
    ] {
        assert!(matches!(read_text(bad), Err(DocumentError::Keys)), "{bad}");
    }
    for bad in ["", "null", "[]", "{", "keys"] {
        assert!(
            matches!(read_text(bad), Err(DocumentError::Json(_))),
            "{bad}"
        );
    }
    let (bundle, skipped) = read_text(r#"{"keys":[]}"#).unwrap();
    assert!(bundle.is_empty() && skipped.is_empty());
    let empty = Bundle::empty(domain("example.org"));
    assert_eq!(empty.to_document(), br#"{"keys":[]}"#);
    assert_eq!(empty.jwks_for_workload_api(), br#"{"keys":[]}"#);
}

#[test]
fn tdb_08_keys_that_are_not_understood_are_skipped() {
    for key in [
        json!({"kty": "AKP", "alg": "ML-DSA-65", "pub": "AA", "use": "jwt-svid", "kid": "k"}),
        json!({"kty": "OKP", "crv": "X25519", "x": "AA", "use": "jwt-svid", "kid": "k"}),
        json!({"kty": "oct", "k": "AA", "use": "jwt-svid", "kid": "k"}),
    ] {
        assert!(matches!(skipped(&key), SkipReason::Key(_)), "{key}");
    }
    assert!(matches!(
        skipped(&with(good_jwt(), &json!({"use": "foo-svid"}))),
        SkipReason::UnknownUse
    ));
    for garbage in [json!(1), json!("x"), json!(null), json!([]), json!([{}])] {
        assert!(
            matches!(skipped(&garbage), SkipReason::NotAnObject),
            "{garbage}"
        );
    }
    assert!(matches!(skipped(&json!({})), SkipReason::UnknownUse));
    let ed25519 = json!({
        "kty": "OKP", "crv": "Ed25519", "use": "jwt-svid", "kid": "k",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    });
    let reason = skipped(&ed25519);
    assert!(
        matches!(reason, SkipReason::Authority(JwtAuthorityError::KeyKind)),
        "{reason:?}"
    );
}

#[test]
fn tdb_08_malformed_parameters_are_skipped() {
    let key = |changes: Value| {
        let changes = with(json!({"kid": "odd"}), &changes);
        match skipped(&with(good_jwt(), &changes)) {
            SkipReason::Key(error) => error,
            other => panic!("{other:?}"),
        }
    };
    let x = good_jwt()["x"].as_str().unwrap().to_owned();
    for bad in [
        json!("!"),
        json!(""),
        json!(1),
        json!(format!("{x}AA")),
        json!(format!("{x}=")),
    ] {
        assert_eq!(key(json!({"x": bad})), JwkError::Member { member: "x" });
    }
    // The point (0, 0) and a swapped one are not on the curve; a key of another curve is not ours.
    let zero = "A".repeat(43);
    assert_eq!(key(json!({"x": zero, "y": zero})), JwkError::NotOnCurve);
    assert_eq!(
        key(json!({"crv": "P-384"})),
        JwkError::Member { member: "x" }
    );
    for crv in [json!("P-192"), json!("secp256k1"), json!("p-256"), json!(1)] {
        assert_eq!(key(json!({"crv": crv})), JwkError::UnknownCurve);
    }
    assert_eq!(key(json!({"d": x})), JwkError::Private { member: "d" });
    for (n, e) in [
        ("AQAB", "AQAB"),
        ("", "AQAB"),
        (&*"_".repeat(344), "AQ"),
        (&*"_".repeat(344), "Ag"),
    ] {
        let reason = key(json!({"kty": "RSA", "n": n, "e": e}));
        assert!(
            matches!(reason, JwkError::RsaParameters { .. }),
            "{n} {e}: {reason:?}"
        );
    }
    let huge = "_".repeat(1_400);
    let reason = key(json!({"kty": "RSA", "n": huge, "e": "AQAB"}));
    assert_eq!(reason, JwkError::RsaParameters { bits: 8_400 });
}

#[test]
fn tdb_09_an_empty_bundle_makes_every_svid_invalid() {
    let token = token(&json!({"kid": "j1"}), &json!({}));
    let verify = |bundle: Bundle| {
        let bundles: BundleSet = [bundle].into_iter().collect();
        verify_jwt_svid(&token, &audience("a"), &bundles, now(), Duration::ZERO)
    };
    assert!(verify(bundle()).is_ok());
    let unknown = r#"{"keys":[{"kty":"AKP","use":"jwt-svid","kid":"j1"}],"spiffe_sequence":8}"#;
    for document in [r#"{"keys":[]}"#, unknown] {
        let (empty, _) = read_text(document).unwrap();
        assert!(empty.is_empty());
        assert!(matches!(
            verify(empty),
            Err(JwtSvidError::UnknownKey { .. })
        ));
    }
}

#[test]
fn tdb_10_each_kind_of_svid_has_its_use() {
    let document = published(&bundle());
    for (usage, count) in [("x509-svid", 2), ("jwt-svid", 4), ("wit-svid", 1)] {
        assert_eq!(keys_of_use(&document, usage).len(), count, "{usage}");
    }
    assert_eq!(keys(&document).len(), 7);
}

#[test]
fn tdb_11_no_undefined_members_are_written() {
    let document = published(&bundle());
    let top: Vec<&String> = document.as_object().unwrap().keys().collect();
    assert_eq!(top, ["keys", "spiffe_refresh_hint", "spiffe_sequence"]);
    let known = ["kty", "use", "kid", "x5c", "crv", "x", "y", "n", "e"];
    for key in keys(&document) {
        for name in key.as_object().unwrap().keys() {
            assert!(known.contains(&name.as_str()), "{name}");
        }
    }
}

#[test]
fn tdb_12_every_key_has_a_kty() {
    let kinds: Vec<Value> = keys(&published(&bundle()))
        .iter()
        .map(|k| k["kty"].clone())
        .collect();
    assert_eq!(kinds, ["EC", "EC", "EC", "EC", "EC", "RSA", "EC"]);
}

#[test]
fn tdb_13_a_missing_or_unknown_kty_is_skipped() {
    for kty in [
        Value::Null,
        json!("AKP"),
        json!("ec"),
        json!(""),
        json!(1),
        json!(["EC"]),
    ] {
        for base in [good_jwt(), good_x509()] {
            let reason = skipped(&with(base, &json!({"kty": kty})));
            assert!(
                matches!(reason, SkipReason::Key(JwkError::UnknownKeyType)),
                "{kty}: {reason:?}"
            );
        }
    }
}

#[test]
fn tdb_14_every_key_has_a_use_in_lower_case() {
    for key in keys(&published(&bundle())) {
        assert!(["x509-svid", "jwt-svid", "wit-svid"].contains(&key["use"].as_str().unwrap()));
    }
}

#[test]
fn tdb_15_a_missing_or_unknown_use_is_skipped() {
    for usage in [
        Value::Null,
        json!("X509-SVID"),
        json!("Jwt-Svid"),
        json!("sig"),
        json!("enc"),
        json!(""),
        json!("jwt-svid "),
        json!(1),
        json!(["jwt-svid"]),
    ] {
        for base in [good_jwt(), good_x509()] {
            let reason = skipped(&with(base, &json!({"use": usage})));
            assert!(
                matches!(reason, SkipReason::UnknownUse),
                "{usage}: {reason:?}"
            );
        }
    }
}

#[test]
fn jwt_18_use_is_jwt_svid() {
    assert_eq!(keys_of_use(&published(&bundle()), "jwt-svid").len(), 4);
    let jwks: Value = serde_json::from_slice(&bundle().jwks_for_workload_api()).unwrap();
    assert_eq!(keys_of_use(&jwks, "jwt-svid").len(), 4);
}

#[test]
fn jwt_19_every_jwt_key_has_its_own_kid() {
    let kids: Vec<Value> = keys_of_use(&published(&bundle()), "jwt-svid")
        .iter()
        .map(|k| k["kid"].clone())
        .collect();
    assert_eq!(kids, ["j1", "j2", "j3", "j4"]);
    assert_eq!(
        JwtAuthority::parse("", &p256().spki()),
        Err(JwtAuthorityError::Kid)
    );
    assert_eq!(
        JwtAuthority::parse(&"k".repeat(1_025), &p256().spki()),
        Err(JwtAuthorityError::Kid)
    );
    for kid in [Value::Null, json!(""), json!(1), json!("k".repeat(1_025))] {
        let reason = skipped(&with(good_jwt(), &json!({"kid": kid})));
        assert!(
            matches!(reason, SkipReason::Authority(JwtAuthorityError::Kid)),
            "{reason:?}"
        );
    }
    // Of two keys of one name, the first stays: a later one cannot take its place.
    let (read, skipped) = read(&json!({"keys": [
        good_jwt(),
        with(keys_of_use(&published(&bundle()), "jwt-svid")[1].clone(), &json!({"kid": "j1"})),
    ]}))
    .unwrap();
    assert_eq!(
        read.jwt,
        [JwtAuthority::parse("j1", &p256().spki()).unwrap()]
    );
    assert!(matches!(&skipped[0].reason, SkipReason::DuplicateKid { kid } if kid == "j1"));
}

/// Decision A-10: `use` is sent; read from the Workload API it may be absent but not be wrong.
#[test]
fn jwt_18_a_key_set_of_the_workload_api_may_leave_out_the_use() {
    let read = |document: &Value| {
        let bytes = document.to_string();
        Bundle::from_workload_api_jwks(&domain("example.org"), bytes.as_bytes()).unwrap()
    };
    let without = with(good_jwt(), &json!({"use": null}));
    let (set, skipped) = read(&json!({"keys": [without]}));
    assert_eq!((set.jwt.len(), skipped.len()), (1, 0));
    let (set, skipped) = read(&json!({"keys": [good_jwt()]}));
    assert_eq!((set.jwt.len(), skipped.len()), (1, 0));
    let (set, skipped) = read(&published(&bundle()));
    assert_eq!(
        (set.jwt.len(), set.x509.len(), set.wit.len(), skipped.len()),
        (4, 0, 0, 3)
    );
    let (own, _) =
        Bundle::from_workload_api_jwks(&domain("example.org"), &bundle().jwks_for_workload_api())
            .unwrap();
    assert_eq!(own.jwt, bundle().jwt);
}

#[test]
fn tdb_16_a_map_has_trust_domains() {
    let read = |text: &str| BundleSet::from_map_document(text.as_bytes());
    let (empty, _) = read(r#"{"trust_domains":{}}"#).unwrap();
    assert!(empty.is_empty());
    assert_eq!(
        BundleSet::new().to_map_document(),
        br#"{"trust_domains":{}}"#
    );
    for bad in [
        "{}",
        r#"{"trust_domains":null}"#,
        r#"{"trust_domains":[]}"#,
        r#"{"keys":[]}"#,
    ] {
        assert!(
            matches!(read(bad), Err(BundleMapError::TrustDomains)),
            "{bad}"
        );
    }
    for bad in ["", "[]", "{"] {
        assert!(
            matches!(read(bad), Err(BundleMapError::Document(_))),
            "{bad}"
        );
    }
}

#[test]
fn tdb_17_a_map_has_each_trust_domain_once() {
    let mut set = BundleSet::new();
    assert!(set.insert(bundle()).is_none());
    assert!(set.insert(Bundle::empty(domain("other.test"))).is_none());
    assert!(set.insert(bundle()).is_some());
    let map: Value = serde_json::from_slice(&set.to_map_document()).unwrap();
    let names: Vec<&String> = map["trust_domains"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["example.org", "other.test"]);
    let (read, skipped) = BundleSet::from_map_document(&set.to_map_document()).unwrap();
    assert!(skipped.is_empty());
    assert_eq!(read.len(), 2);
    assert_eq!(read.get(&domain("example.org")).unwrap().jwt, bundle().jwt);
}

#[test]
fn tdb_18_a_map_with_a_trust_domain_twice_is_refused() {
    let twice = r#"{"trust_domains":{"example.com":{"keys":[]},"example.com":{"keys":[]}}}"#;
    let refused = BundleSet::from_map_document(twice.as_bytes());
    assert!(matches!(refused, Err(BundleMapError::Duplicate { name }) if name == "example.com"));
    for name in ["Example.com", "spiffe://example.com", "", "a b"] {
        let map = json!({"trust_domains": {name: {"keys": []}}}).to_string();
        let refused = BundleSet::from_map_document(map.as_bytes());
        assert!(
            matches!(refused, Err(BundleMapError::Name { .. })),
            "{name}: {refused:?}"
        );
    }
    let upper = BundleSet::from_map_document(br#"{"trust_domains":{"Example.com":{"keys":[]}}}"#);
    let Err(BundleMapError::Name { source, .. }) = upper else {
        panic!("{upper:?}")
    };
    assert_eq!(source, SpiffeIdError::TrustDomainUpperCase);
}

#[test]
fn tdb_19_bundles_in_a_map_have_no_refresh_hint() {
    let set: BundleSet = [bundle()].into_iter().collect();
    let map: Value = serde_json::from_slice(&set.to_map_document()).unwrap();
    let inner = &map["trust_domains"]["example.org"];
    assert!(inner.get("spiffe_refresh_hint").is_none() && inner.get("refresh_hint").is_none());
    assert_eq!(inner["spiffe_sequence"], 7);
}

/// Decision A-11: both spellings are ignored.
#[test]
fn tdb_20_refresh_hints_inside_a_map_are_ignored() {
    let map = br#"{"trust_domains":{"a":{"keys":[],"spiffe_refresh_hint":1,"refresh_hint":1}}}"#;
    let (set, _) = BundleSet::from_map_document(map).unwrap();
    assert_eq!(set.get(&domain("a")).unwrap().refresh_hint, None);
}

#[test]
fn tdb_21_duplicate_names_refuse_the_document_or_the_key() {
    for (text, twice) in [
        (r#"{"keys":[],"keys":[]}"#, "keys"),
        (
            r#"{"spiffe_sequence":1,"keys":[],"spiffe_sequence":2}"#,
            "spiffe_sequence",
        ),
        (r#"{"keys":[],"x":1,"\u0078":2}"#, "x"),
    ] {
        let refused = read_text(text);
        assert!(matches!(refused, Err(DocumentError::Duplicate { name }) if name == twice));
    }
    for (member, value) in [
        ("use", "\"jwt-svid\""),
        ("kty", "\"EC\""),
        ("kid", "\"x\""),
        ("x", "1"),
    ] {
        let key = good_jwt()
            .to_string()
            .replacen('{', &format!("{{\"{member}\":{value},"), 1);
        let reason = skipped_text(&key);
        assert!(
            matches!(&reason, SkipReason::Duplicate { name } if name == member),
            "{reason:?}"
        );
    }
    let inner = r#"{"trust_domains":{"a":{"keys":[],"keys":[]}}}"#;
    let refused = BundleSet::from_map_document(inner.as_bytes());
    assert!(
        matches!(refused, Err(BundleMapError::Bundle { .. })),
        "{refused:?}"
    );
}

#[test]
fn tdb_n1_the_whole_range_of_the_sequence_survives() {
    for sequence in [0, 1, (1 << 53) + 1, i64::MAX as u64 + 1, u64::MAX] {
        let bundle = Bundle {
            sequence: Some(sequence),
            ..Bundle::empty(domain("example.org"))
        };
        let (read, _) = Bundle::from_document(&bundle.trust_domain, &bundle.to_document()).unwrap();
        assert_eq!(read.sequence, Some(sequence));
    }
}

#[test]
fn tdb_n2_a_bundle_belongs_to_the_domain_it_was_read_for() {
    let document = bundle().to_document();
    assert!(
        !String::from_utf8(document.clone())
            .unwrap()
            .contains("example.org")
    );
    let (read, _) = Bundle::from_document(&domain("other.test"), &document).unwrap();
    assert_eq!(read.trust_domain, domain("other.test"));
    let set: BundleSet = [read].into_iter().collect();
    assert!(set.get(&domain("example.org")).is_none());
}

#[test]
fn tdb_n3_without_a_hint_a_bundle_is_fetched_every_five_minutes() {
    assert_eq!(bundle().refresh_period(), Duration::from_secs(60));
    assert_eq!(
        Bundle::empty(domain("a")).refresh_period(),
        Duration::from_secs(300)
    );
}

#[test]
fn tdb_n4_a_key_shared_by_two_domains_is_reported_and_keeps_them_apart() {
    let shared = bundle();
    let other = Bundle {
        trust_domain: domain("other.test"),
        ..shared.clone()
    };
    let mut set: BundleSet = [shared].into_iter().collect();
    assert_eq!(
        set.sharing_authority_with(&other),
        Some(&domain("example.org"))
    );
    assert_eq!(set.sharing_authority_with(&bundle()), None);
    let mut stranger = Bundle::empty(domain("other.test"));
    stranger.x509.push(anchor());
    assert_eq!(set.sharing_authority_with(&stranger), None);
    // A token of example.org is no good where only the other domain is trusted.
    set.remove(&domain("example.org"));
    set.insert(other);
    let token = token(&json!({"kid": "j1"}), &json!({}));
    let refused = verify_jwt_svid(&token, &audience("a"), &set, now(), Duration::ZERO);
    assert!(matches!(refused, Err(JwtSvidError::NoBundle { .. })));
}

#[test]
fn tdb_n5_a_map_is_the_whole_state_or_nothing() {
    let map = |domains: Value| json!({"trust_domains": domains}).to_string();
    let one_bad = map(json!({"good.test": {"keys": []}, "bad.test": {"keys": null}}));
    let refused = BundleSet::from_map_document(one_bad.as_bytes());
    assert!(
        matches!(&refused, Err(BundleMapError::Bundle { trust_domain, .. })
            if *trust_domain == domain("bad.test")),
        "{refused:?}"
    );
    let not_an_object = map(json!({"good.test": {"keys": []}, "bad.test": 1}));
    assert!(BundleSet::from_map_document(not_an_object.as_bytes()).is_err());
    let odd_key = map(json!({"good.test": {"keys": [{"kty": "AKP"}]}}));
    let (set, skipped) = BundleSet::from_map_document(odd_key.as_bytes()).unwrap();
    assert!(set.get(&domain("good.test")).unwrap().is_empty());
    assert_eq!(skipped[&domain("good.test")].len(), 1);
}

#[test]
fn a_document_is_bounded_in_bytes_and_keys() {
    let many = |count: usize| format!(r#"{{"keys":[{}]}}"#, vec!["1"; count].join(","));
    assert_eq!(read_text(&many(4_096)).unwrap().1.len(), 4_096);
    assert!(matches!(
        read_text(&many(4_097)),
        Err(DocumentError::TooManyKeys { count: 4_097 })
    ));
    let large = format!(r#"{{"keys":[],"x":"{}"}}"#, "y".repeat(4 << 20));
    assert!(matches!(
        read_text(&large),
        Err(DocumentError::TooLarge { .. })
    ));
}

#[test]
fn certificates_of_the_workload_api_follow_each_other() {
    let bundle = bundle();
    let anchors = X509Anchor::parse_concatenated(&bundle.x509_der_concat()).unwrap();
    assert_eq!(anchors, bundle.x509);
    assert!(X509Anchor::parse_concatenated(&[]).unwrap().is_empty());
    let mut cut = bundle.x509_der_concat();
    cut.pop();
    assert!(X509Anchor::parse_concatenated(&cut).is_err());
    let trailing = [bundle.x509_der_concat(), vec![0x05]].concat();
    assert!(X509Anchor::parse_concatenated(&trailing).is_err());
}

#[test]
fn every_kind_of_key_survives_the_way_through_a_document() {
    for algorithm in [
        JwsAlgorithm::Es256,
        JwsAlgorithm::Es384,
        JwsAlgorithm::Es512,
        JwsAlgorithm::Rs256,
    ] {
        let key = key_for(algorithm);
        let mut bundle = Bundle::empty(domain("example.org"));
        bundle
            .jwt
            .push(JwtAuthority::parse("k", &key.spki()).unwrap());
        let (read, _) = Bundle::from_document(&bundle.trust_domain, &bundle.to_document()).unwrap();
        // Byte for byte what the cryptographic library itself writes.
        assert_eq!(read.jwt[0].public_key_spki(), key.spki(), "{algorithm:?}");
    }
}

/// RFC 7515 appendix A.3: a public key and what it looks like, from outside this project.
#[test]
fn a_published_example_key_is_understood() {
    let key = json!({
        "kty": "EC", "crv": "P-256", "use": "jwt-svid", "kid": "rfc7515",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    });
    let (bundle, _) = read(&json!({"keys": [key]})).unwrap();
    let input = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt\
                 cGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode("DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q")
        .unwrap();
    let spki = bundle.jwt[0].public_key_spki();
    let verify = |message: &[u8]| JwsAlgorithm::Es256.verify(spki, message, &signature);
    assert!(verify(input.as_bytes()).is_ok());
    assert!(verify(b"something else").is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_without_panic(bytes in any::<Vec<u8>>()) {
        let _ = Bundle::from_document(&domain("example.org"), &bytes);
        let _ = Bundle::from_workload_api_jwks(&domain("example.org"), &bytes);
        let _ = BundleSet::from_map_document(&bytes);
        let _ = X509Anchor::parse_concatenated(&bytes);
        let _ = JwtAuthority::parse("k", &bytes);
    }

    #[test]
    fn a_damaged_document_is_read_or_refused_without_panic(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = bundle().to_document();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok((read, _)) = Bundle::from_document(&domain("example.org"), &bytes) {
            let (again, skipped) =
                Bundle::from_document(&domain("example.org"), &read.to_document()).unwrap();
            prop_assert_eq!(again, read);
            prop_assert!(skipped.is_empty());
        }
    }

    #[test]
    fn numbers_survive_writing_and_reading(sequence in any::<u64>(), hint in 1_u64..31_536_001) {
        let bundle = Bundle {
            sequence: Some(sequence),
            refresh_hint: Some(Duration::from_secs(hint)),
            ..Bundle::empty(domain("example.org"))
        };
        let (read, _) = Bundle::from_document(&bundle.trust_domain, &bundle.to_document()).unwrap();
        prop_assert_eq!(read, bundle);
    }
}
