//! The rules of JWT-SVID, one test per row of the conformance list and more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod fixture;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use fixture::*;
use mintmark_identity::bundle::{Bundle, BundleSet, JwtAuthority};
use mintmark_identity::clock::Timestamp;
use mintmark_identity::jose::jwk::Jwk;
use mintmark_identity::jose::{JwsAlgorithm, JwsError};
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::jwt::{
    Audience, AudienceError, JwtClaims, JwtIssueError, JwtSvidError as E, UnverifiedJwtSvid,
    VerifiedJwtSvid, jwt_signing_input, verify_jwt_svid,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn verify(token: &str) -> Result<VerifiedJwtSvid, E> {
    verify_jwt_svid(token, &audience("a"), &bundles(), now(), Duration::ZERO)
}

fn verify_changed(header: &Value, claims: &Value) -> Result<VerifiedJwtSvid, E> {
    verify(&token(header, claims))
}

fn good_claims() -> JwtClaims {
    JwtClaims {
        spiffe_id: SpiffeId::parse("spiffe://example.org/w").unwrap(),
        audience: audience("a"),
        issued_at: now(),
        expires_at: now().saturating_add(Duration::from_secs(300)),
        jti: None,
        issuer: None,
    }
}

/// Issues as a server does, with the key that belongs to the algorithm.
fn issue(claims: &JwtClaims, kid: &str, algorithm: JwsAlgorithm) -> String {
    let input = jwt_signing_input(claims, kid, algorithm).unwrap();
    let signature = key_for(algorithm).sign(algorithm, input.bytes());
    input.attach(&signature)
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

macro_rules! assert_refused {
    ($result:expr, $error:pat $(, $($context:tt)+)?) => {
        match $result {
            Err($error) => {}
            other => panic!("expected {}, got {other:?}", stringify!($error)),
        }
    };
}

#[test]
fn a_good_token_is_accepted() {
    let svid = verify_changed(&json!({}), &json!({})).unwrap();
    assert_eq!(svid.spiffe_id.as_str(), "spiffe://example.org/w");
    assert_eq!(
        svid.expires_at,
        now().saturating_add(Duration::from_secs(300))
    );
}

#[test]
fn jwt_01_json_serialisation_is_refused() {
    let token = token(&json!({}), &json!({}));
    let parts: Vec<&str> = token.split('.').collect();
    let flattened =
        json!({"protected": parts[0], "payload": parts[1], "signature": parts[2]}).to_string();
    let general = json!({
        "payload": parts[1],
        "signatures": [{"protected": parts[0], "signature": parts[2]}],
    });
    for text in [flattened, general.to_string()] {
        assert_refused!(verify(&text), E::Malformed(_));
    }
}

#[test]
fn jwt_02_the_issuer_writes_no_other_header() {
    let header = part(&issue(&good_claims(), "ES256", JwsAlgorithm::Es256), 0);
    assert_eq!(
        header,
        json!({"alg": "ES256", "kid": "ES256", "typ": "JWT"})
    );
}

/// Decision A-7: other headers are not acted on, and `crit` refuses the token.
#[test]
fn jwt_02_the_verifier_does_not_act_on_other_headers() {
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"});
    for (name, value) in [
        ("jku", json!("https://evil.test/keys")),
        ("jwk", jwk),
        ("x5u", json!("https://evil.test/cert")),
        ("x5c", json!(["AA=="])),
        ("cty", json!("JWT")),
    ] {
        assert!(
            verify_changed(&json!({name: value}), &json!({})).is_ok(),
            "{name}"
        );
        // Nor does it help a token that the bundle's keys did not sign.
        let header = with(header(), &json!({name: value})).to_string();
        let forged = sign_raw(
            other_p256(),
            JwsAlgorithm::Es256,
            &header,
            &claims().to_string(),
        );
        assert_refused!(verify(&forged), E::Signature(_));
    }
    for crit in [
        json!(["exp"]),
        json!(["b64"]),
        json!([]),
        json!("x"),
        Value::Bool(false),
    ] {
        assert_refused!(
            verify_changed(&json!({"crit": crit}), &json!({})),
            E::Critical
        );
    }
}

#[test]
fn jwt_03_each_kind_of_key_signs_in_its_own_algorithm() {
    for (key, algorithm) in [
        (p256(), JwsAlgorithm::Es256),
        (p384(), JwsAlgorithm::Es384),
        (p521(), JwsAlgorithm::Es512),
        (rsa(), JwsAlgorithm::Rs256),
    ] {
        let key = Jwk::from_spki(&key.spki()).unwrap();
        assert_eq!(JwsAlgorithm::for_key(&key), Some(algorithm));
    }
    let ed25519 = hex::decode(format!("302a300506032b6570032100{}", "11".repeat(32))).unwrap();
    let key = Jwk::from_spki(&ed25519).unwrap();
    assert_eq!(JwsAlgorithm::for_key(&key), None);
    assert!(JwtAuthority::parse("k", &ed25519).is_err());
}

#[test]
fn jwt_04_all_nine_algorithms_verify() {
    for algorithm in JwsAlgorithm::ALL {
        let kid = match algorithm {
            JwsAlgorithm::Es256 | JwsAlgorithm::Es384 | JwsAlgorithm::Es512 => algorithm.name(),
            _ => "RS256",
        };
        let token = issue(&good_claims(), kid, algorithm);
        assert!(verify(&token).is_ok(), "{algorithm:?}");
        // Another algorithm's name over the same signature is no good.
        for other in JwsAlgorithm::ALL
            .into_iter()
            .filter(|other| *other != algorithm)
        {
            let input = jwt_signing_input(&good_claims(), kid, other).unwrap();
            let signature = key_for(algorithm).sign(algorithm, input.bytes());
            assert_refused!(verify(&input.attach(&signature)), E::Signature(_));
        }
    }
}

#[test]
fn jwt_04_every_other_algorithm_is_refused() {
    for name in [
        "none", "None", "", "HS256", "HS512", "EdDSA", "ES256K", "es256", "RS1", "ES256 ",
    ] {
        assert_refused!(
            verify_changed(&json!({"alg": name}), &json!({})),
            E::Algorithm
        );
    }
    for alg in [Value::Null, json!(1), json!(["ES256"])] {
        assert_refused!(
            verify_changed(&json!({"alg": alg}), &json!({})),
            E::Algorithm
        );
    }
    // "none" without a signature, as the attack is usually written.
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"ES256"}"#);
    let payload = URL_SAFE_NO_PAD.encode(claims().to_string());
    assert!(verify(&format!("{header}.{payload}.")).is_err());
}

#[test]
fn jwt_04_an_hmac_with_the_public_key_is_refused() {
    let header = with(header(), &json!({"alg": "HS256"})).to_string();
    let input = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims().to_string())
    );
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &p256().spki());
    let mac = aws_lc_rs::hmac::sign(&key, input.as_bytes());
    let forged = format!("{input}.{}", URL_SAFE_NO_PAD.encode(mac));
    assert_refused!(verify(&forged), E::Algorithm);
}

#[test]
fn jwt_04_the_algorithm_must_fit_the_key_of_that_name() {
    let mismatch = verify_changed(&json!({"kid": "RS256"}), &json!({}));
    let Err(E::Signature(JwsError::KeyMismatch { algorithm })) = mismatch else {
        panic!("{mismatch:?}");
    };
    assert_eq!(algorithm, JwsAlgorithm::Es256);
    let header = with(header(), &json!({"alg": "RS256"})).to_string();
    let token = sign_raw(rsa(), JwsAlgorithm::Rs256, &header, &claims().to_string());
    assert_refused!(verify(&token), E::Signature(JwsError::KeyMismatch { .. }));
    assert_refused!(
        verify_changed(&json!({"kid": "ES384"}), &json!({})),
        E::Signature(JwsError::KeyMismatch { .. })
    );
}

#[test]
fn jwt_05_typ_is_jwt_or_jose_or_absent() {
    for typ in [json!("JWT"), json!("JOSE"), Value::Null] {
        assert!(
            verify_changed(&json!({"typ": typ}), &json!({})).is_ok(),
            "{typ}"
        );
    }
    for typ in [
        json!("wit+jwt"),
        json!("at+jwt"),
        json!("jwt"),
        json!(""),
        json!(1),
        json!(["JWT"]),
    ] {
        assert_refused!(verify_changed(&json!({"typ": typ}), &json!({})), E::Type);
    }
}

#[test]
fn jwt_06_sub_is_the_spiffe_id() {
    let issued = part(&issue(&good_claims(), "ES256", JwsAlgorithm::Es256), 1);
    assert_eq!(issued["sub"], "spiffe://example.org/w");
    for sub in [
        Value::Null,
        json!(1),
        json!(["spiffe://example.org/w"]),
        json!({}),
    ] {
        assert_refused!(
            verify_changed(&json!({}), &json!({"sub": sub})),
            E::Claim { claim: "sub" }
        );
    }
    for sub in [
        "",
        "not-a-spiffe-id",
        "spiffe://example.org/a/",
        "SPIFFE://example.org/w",
    ] {
        assert_refused!(
            verify_changed(&json!({}), &json!({"sub": sub})),
            E::Subject(_)
        );
    }
    let bare = verify_changed(&json!({}), &json!({"sub": "spiffe://example.org"}));
    assert_refused!(bare, E::SubjectWithoutPath);
}

#[test]
fn jwt_06_a_token_for_a_trust_domain_is_not_issued() {
    let claims = JwtClaims {
        spiffe_id: domain("example.org").id(),
        ..good_claims()
    };
    let refused = jwt_signing_input(&claims, "k", JwsAlgorithm::Es256);
    assert_refused!(refused, JwtIssueError::SubjectWithoutPath { .. });
}

#[test]
fn jwt_07_an_audience_has_at_least_one_value() {
    let new = |values: &[&str]| Audience::new(values.iter().copied());
    assert_eq!(new(&[]), Err(AudienceError::Empty));
    assert_eq!(new(&[""]), Err(AudienceError::EmptyValue));
    assert_eq!(new(&["", ""]), Err(AudienceError::EmptyValue));
    assert_eq!(new(&["a", ""]), Err(AudienceError::EmptyValue));
    assert_eq!(new(&["b", "a", "b"]).unwrap().values(), ["b", "a"]);
    assert!(Audience::new((0..64).map(|n| n.to_string())).is_ok());
    let many = Audience::new((0..65).map(|n| n.to_string()));
    assert_eq!(many, Err(AudienceError::TooMany { count: 65 }));
    assert!(Audience::new(["x".repeat(2_048)]).is_ok());
    let long = Audience::new(["x".repeat(2_049)]);
    assert_eq!(long, Err(AudienceError::TooLong { length: 2_049 }));
}

/// Decision A-8: an array, also for one value.
#[test]
fn jwt_07_the_audience_is_issued_as_an_array() {
    let aud = |audience: Audience| {
        let claims = JwtClaims {
            audience,
            ..good_claims()
        };
        part(&issue(&claims, "ES256", JwsAlgorithm::Es256), 1)["aud"].clone()
    };
    assert_eq!(aud(audience("a")), json!(["a"]));
    assert_eq!(aud(Audience::new(["x", "a"]).unwrap()), json!(["x", "a"]));
}

#[test]
fn jwt_08_the_verifier_must_be_in_the_audience() {
    for aud in [
        json!("a"),
        json!(["a"]),
        json!(["x", "a"]),
        json!(["", "a"]),
    ] {
        assert!(
            verify_changed(&json!({}), &json!({"aud": aud})).is_ok(),
            "{aud}"
        );
    }
    for aud in [
        json!("A"),
        json!(["other"]),
        json!("aa"),
        json!("a "),
        json!(["ab", "A"]),
    ] {
        assert_refused!(
            verify_changed(&json!({}), &json!({"aud": aud})),
            E::Audience
        );
    }
    for aud in [
        Value::Null,
        json!([]),
        json!(""),
        json!([""]),
        json!(1),
        json!(["a", 1]),
        json!({}),
    ] {
        let refused = verify_changed(&json!({}), &json!({"aud": aud}));
        assert_refused!(refused, E::Claim { claim: "aud" });
    }
}

#[test]
fn jwt_08_any_of_the_verifiers_names_will_do() {
    let token = token(&json!({}), &json!({"aud": ["x", "b"]}));
    let verify = |names: &[&str]| {
        let expected = Audience::new(names.iter().copied()).unwrap();
        verify_jwt_svid(&token, &expected, &bundles(), now(), Duration::ZERO).is_ok()
    };
    assert!(verify(&["a", "b"]));
    assert!(verify(&["x"]));
    assert!(!verify(&["a", "c"]));
}

#[test]
fn jwt_09_wide_audiences_are_warned_about() {
    let warning = |values: &[&str]| {
        Audience::new(values.iter().copied())
            .unwrap()
            .scope_warning()
    };
    assert_eq!(warning(&["https://db.example.org"]), None);
    assert_eq!(warning(&["spiffe://example.org/db"]), None);
    assert!(warning(&["a", "b"]).is_some());
    assert!(warning(&["spiffe://example.org"]).is_some());
}

#[test]
fn jwt_10_exp_is_an_integer_in_the_future() {
    let claims = JwtClaims {
        issued_at: Timestamp::from_unix_millis(1_000_900),
        expires_at: Timestamp::from_unix_millis(1_300_900),
        ..good_claims()
    };
    let payload = part(&issue(&claims, "ES256", JwsAlgorithm::Es256), 1);
    assert_eq!(
        (&payload["iat"], &payload["exp"]),
        (&json!(1_000), &json!(1_300))
    );
    for expires_at in [
        claims.issued_at,
        Timestamp::from_unix_millis(1_000_950),
        Timestamp::UNIX_EPOCH,
    ] {
        let claims = JwtClaims {
            expires_at,
            ..claims.clone()
        };
        let refused = jwt_signing_input(&claims, "k", JwsAlgorithm::Es256);
        assert_refused!(refused, JwtIssueError::Lifetime { .. });
    }
}

#[test]
fn jwt_11_exp_is_required() {
    let with_exp = |exp: &Value| {
        let payload = match exp {
            Value::Null => claims()
                .to_string()
                .replace("\"exp\":1800000300", "\"exp\":null"),
            exp => with(claims(), &json!({"exp": exp})).to_string(),
        };
        verify(&sign_raw(
            p256(),
            JwsAlgorithm::Es256,
            &header().to_string(),
            &payload,
        ))
    };
    for exp in [
        Value::Null,
        json!("1800000300"),
        json!(true),
        json!([1_800_000_300]),
    ] {
        assert_refused!(with_exp(&exp), E::Claim { claim: "exp" });
    }
    assert_refused!(
        verify_changed(&json!({}), &json!({"exp": null})),
        E::Claim { claim: "exp" }
    );
    assert!(with_exp(&json!(1_800_000_300.5)).is_ok());
    assert!(with_exp(&json!(1.8e12)).is_ok());
    assert!(with_exp(&json!(1e300)).is_ok());
    assert_refused!(with_exp(&json!(1_799_999_999.9)), E::Expired { .. });
    assert_refused!(with_exp(&json!(-1)), E::Expired { .. });
    assert_refused!(with_exp(&json!(-1e300)), E::Expired { .. });
}

#[test]
fn jwt_12_the_algorithm_is_judged_before_anything_else() {
    let bad_alg = json!({"alg": "HS256", "typ": "at+jwt", "crit": [], "kid": 1});
    let foreign = json!({"sub": "spiffe://other.test/w", "aud": null, "exp": null});
    assert_refused!(verify_changed(&bad_alg, &foreign), E::Algorithm);
    // Not even the payload is decoded before.
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    assert_refused!(verify(&format!("{header}.!!.!!")), E::Algorithm);
}

#[test]
fn jwt_13_a_token_ends_at_exp_give_or_take_the_leeway() {
    let at_exp = now().saturating_add(Duration::from_secs(300));
    let token = token(&json!({}), &json!({}));
    let verify = |late: i64, leeway: u64| {
        let now = Timestamp::from_unix_millis(at_exp.unix_millis() + late);
        let leeway = Duration::from_secs(leeway);
        verify_jwt_svid(&token, &audience("a"), &bundles(), now, leeway)
    };
    assert!(verify(-1, 0).is_ok());
    assert_refused!(verify(0, 0), E::Expired { .. });
    assert_refused!(verify(1_000, 0), E::Expired { .. });
    assert!(verify(29_999, 30).is_ok());
    assert_refused!(verify(30_000, 30), E::Expired { .. });
}

#[test]
fn jwt_n3_no_more_than_a_minute_of_leeway_is_granted() {
    let at_exp = now().saturating_add(Duration::from_secs(300));
    let at_nbf = now();
    let token = token(&json!({}), &json!({"nbf": at_nbf.unix_secs()}));
    for asked in [60, 61, 3_600, u64::MAX] {
        let verify = |now| {
            let leeway = Duration::from_secs(asked);
            verify_jwt_svid(&token, &audience("a"), &bundles(), now, leeway)
        };
        let minute = Duration::from_secs(60);
        let millisecond = Duration::from_millis(1);
        let late = at_exp.saturating_add(minute);
        assert!(verify(late.saturating_sub(millisecond)).is_ok());
        assert_refused!(verify(late), E::Expired { .. });
        let early = at_nbf.saturating_sub(minute);
        assert!(verify(early).is_ok());
        let too_early = early.saturating_sub(millisecond);
        assert_refused!(verify(too_early), E::NotYetValid { .. });
    }
}

#[test]
fn jwt_13_nbf_is_honoured() {
    let nbf = |nbf: Value| token(&json!({}), &json!({"nbf": nbf}));
    assert!(verify(&nbf(json!(now().unix_secs()))).is_ok());
    assert_refused!(
        verify(&nbf(json!(now().unix_secs() + 1))),
        E::NotYetValid { .. }
    );
    assert_refused!(verify(&nbf(json!("0"))), E::Claim { claim: "nbf" });
    let early = nbf(json!(now().unix_secs() + 10));
    let leeway = Duration::from_secs(10);
    assert!(verify_jwt_svid(&early, &audience("a"), &bundles(), now(), leeway).is_ok());
    assert_refused!(
        verify_changed(&json!({}), &json!({"iat": "x"})),
        E::Claim { claim: "iat" }
    );
}

#[test]
fn jwt_14_only_a_token_with_both_aud_and_exp_passes() {
    for (aud, exp) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut changes = json!({});
        if !aud {
            changes["aud"] = Value::Null;
        }
        if !exp {
            changes["exp"] = Value::Null;
        }
        assert_eq!(verify_changed(&json!({}), &changes).is_ok(), aud && exp);
    }
}

#[test]
fn jwt_15_only_the_compact_serialisation_is_read() {
    let good = token(&json!({}), &json!({}));
    let parts: Vec<&str> = good.split('.').collect();
    assert_eq!(
        issue(&good_claims(), "ES256", JwsAlgorithm::Es256)
            .split('.')
            .count(),
        3
    );
    let payload = claims().to_string();
    // The padding must be there for these cases to mean anything.
    let padded = URL_SAFE.encode(header().to_string());
    assert!(padded.ends_with('='));
    let (h, p, s) = (parts[0], parts[1], parts[2]);
    let flip = |text: &str| -> String {
        let (rest, last) = text.split_at(text.len() - 1);
        format!("{rest}{}", if last == "A" { "B" } else { "A" })
    };
    for bad in [
        String::new(),
        ".".into(),
        "..".into(),
        "a.b".into(),
        format!("{h}.{p}"),
        format!("{h}.{p}."),
        format!(".{p}.{s}"),
        format!("{h}..{s}"),
        format!("{good}.x"),
        format!("{good}.{s}.{s}"),
        format!("{h}.{p}.{s}="),
        format!("{padded}.{p}.{s}"),
        format!(
            "{h}.{}.{s}",
            STANDARD_NO_PAD.encode("\u{fb}\u{ff}\u{fe}???>>>")
        ),
        format!("{}.{p}.{s}", URL_SAFE_NO_PAD.encode("not json")),
        format!("{}.{p}.{s}", URL_SAFE_NO_PAD.encode("[]")),
        format!("{h}.{}.{s}", URL_SAFE_NO_PAD.encode("{")),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{h}.{p}.{}", flip(s)),
    ] {
        assert!(verify(&bad).is_err(), "{bad}");
    }
    // Duplicate names, at the top and below, although signed by the right key.
    let sign = |header: &str, payload: &str| sign_raw(p256(), JwsAlgorithm::Es256, header, payload);
    let twice = |json: &str, extra: &str| json.replacen('{', &format!("{{{extra},"), 1);
    for (header, payload) in [
        (
            twice(&header().to_string(), r#""alg":"ES256""#),
            payload.clone(),
        ),
        (
            twice(&header().to_string(), r#""kid":"x""#),
            payload.clone(),
        ),
        (
            header().to_string(),
            twice(&payload, r#""sub":"spiffe://example.org/admin""#),
        ),
        (
            header().to_string(),
            twice(&payload, r#""x":{"y":1,"y":2}"#),
        ),
        (
            twice(&header().to_string(), r#""x":{"y":1,"y":2}"#),
            payload.clone(),
        ),
    ] {
        assert_refused!(verify(&sign(&header, &payload)), E::Malformed(_));
    }
}

#[test]
fn jwt_15_an_oversized_token_is_not_looked_at() {
    let large = token(&json!({}), &json!({"x": "y".repeat(64 << 10)}));
    assert_refused!(verify(&large), E::TooLarge { .. });
    assert!(verify_changed(&json!({}), &json!({"x": "y".repeat(40 << 10)})).is_ok());
}

#[test]
fn jwt_20_only_jwt_keys_verify_tokens() {
    let token = token(&json!({}), &json!({}));
    let keys = |usage: &str| {
        let mut bundle = Bundle::empty(domain("example.org"));
        bundle
            .jwt
            .push(JwtAuthority::parse("ES256", &p256().spki()).unwrap());
        let document = String::from_utf8(bundle.to_document()).unwrap();
        document.replace(r#""use":"jwt-svid","#, usage)
    };
    let verify = |document: String| {
        let (bundle, _) =
            Bundle::from_document(&domain("example.org"), document.as_bytes()).unwrap();
        let bundles: BundleSet = [bundle].into_iter().collect();
        verify_jwt_svid(&token, &audience("a"), &bundles, now(), Duration::ZERO)
    };
    assert!(verify(keys(r#""use":"jwt-svid","#)).is_ok());
    for usage in [
        r#""use":"wit-svid","#,
        r#""use":"x509-svid","#,
        r#""use":"sig","#,
        "",
    ] {
        assert_refused!(verify(keys(usage)), E::UnknownKey { .. });
    }
}

/// Decision A-6: as all references do, stricter than the text.
#[test]
fn jwt_n1_a_token_without_kid_is_refused_and_never_issued() {
    for kid in [Value::Null, json!(""), json!(1), json!("k".repeat(1_025))] {
        assert_refused!(verify_changed(&json!({"kid": kid}), &json!({})), E::KeyId);
    }
    for kid in ["", &*"k".repeat(1_025)] {
        let refused = jwt_signing_input(&good_claims(), kid, JwsAlgorithm::Es256);
        assert_refused!(refused, JwtIssueError::KeyId);
    }
    assert_refused!(
        verify_changed(&json!({"kid": "x"}), &json!({})),
        E::UnknownKey { .. }
    );
}

#[test]
fn jwt_n2_a_bundle_without_jwt_keys_verifies_no_token() {
    let bundles: BundleSet = [Bundle::empty(domain("example.org"))].into_iter().collect();
    let token = token(&json!({}), &json!({}));
    let refused = verify_jwt_svid(&token, &audience("a"), &bundles, now(), Duration::ZERO);
    assert_refused!(refused, E::UnknownKey { .. });
}

#[test]
fn jwt_n4_a_token_may_be_presented_twice() {
    let token = token(&json!({}), &json!({"jti": "once"}));
    assert!(verify(&token).is_ok());
    assert!(verify(&token).is_ok());
}

#[test]
fn jwt_n6_other_claims_are_data() {
    let extra = json!({"role": "admin", "nested": {"a": [1, null]}, "iss": "https://x"});
    let svid = verify_changed(&json!({}), &extra).unwrap();
    for name in ["role", "nested", "iss"] {
        assert_eq!(svid.claims.get(name), extra.get(name));
    }
    let claims = JwtClaims {
        jti: Some("t-1".into()),
        issuer: Some("https://oidc.example.org".into()),
        ..good_claims()
    };
    let svid = verify(&issue(&claims, "ES256", JwsAlgorithm::Es256)).unwrap();
    assert_eq!(svid.claims["jti"], "t-1");
    assert_eq!(svid.claims["iss"], "https://oidc.example.org");
    let plain = part(&issue(&good_claims(), "ES256", JwsAlgorithm::Es256), 1);
    assert!(plain.get("jti").is_none() && plain.get("iss").is_none());
}

#[test]
fn jwt_n7_a_wit_svid_is_not_a_jwt_svid() {
    let wit = verify_changed(
        &json!({"typ": "wit+jwt"}),
        &json!({"aud": null, "cnf": {"jwk": {"kty": "EC"}}}),
    );
    assert_refused!(wit, E::Type);
    let untyped = verify_changed(&json!({"typ": null}), &json!({"aud": null}));
    assert_refused!(untyped, E::Claim { claim: "aud" });
}

/// Trust domain confusion: the right signature under the wrong name.
#[test]
fn id_n3_a_token_is_verified_by_the_bundle_of_its_subjects_domain_only() {
    let other = {
        let mut bundle = Bundle::empty(domain("other.test"));
        bundle
            .jwt
            .push(JwtAuthority::parse("other", &other_p256().spki()).unwrap());
        bundle
    };
    let both: BundleSet = bundles()
        .iter()
        .map(|bundle| Bundle::clone(bundle))
        .chain([other])
        .collect();
    let verify = |token: &str| verify_jwt_svid(token, &audience("a"), &both, now(), Duration::ZERO);
    let sign = |key, kid: &str, sub: &str| {
        let header = with(header(), &json!({"kid": kid})).to_string();
        let claims = with(claims(), &json!({"sub": sub})).to_string();
        sign_raw(key, JwsAlgorithm::Es256, &header, &claims)
    };
    assert!(verify(&sign(other_p256(), "other", "spiffe://other.test/w")).is_ok());
    let confused = verify(&sign(other_p256(), "other", "spiffe://example.org/w"));
    assert_refused!(confused, E::UnknownKey { .. });
    let renamed = verify(&sign(other_p256(), "ES256", "spiffe://example.org/w"));
    assert_refused!(renamed, E::Signature(_));
    let unknown = verify(&sign(p256(), "ES256", "spiffe://third.test/w"));
    assert_refused!(unknown, E::NoBundle { .. });
}

#[test]
fn id_19_a_changed_bit_of_the_subject_is_noticed() {
    let token = token(&json!({}), &json!({}));
    let parts: Vec<&str> = token.split('.').collect();
    let mut payload = part(&token, 1);
    payload["sub"] = json!("spiffe://example.org/x");
    let payload = URL_SAFE_NO_PAD.encode(payload.to_string());
    assert_refused!(
        verify(&format!("{}.{payload}.{}", parts[0], parts[2])),
        E::Signature(_)
    );
}

#[test]
fn id_20_documents_that_are_not_an_svid_are_refused() {
    // An OIDC ID token: right key, right audience, a subject that is no SPIFFE ID.
    let oidc = verify_changed(
        &json!({}),
        &json!({"sub": "user@example.org", "iss": "https://idp"}),
    );
    assert_refused!(oidc, E::Subject(_));
    // An OAuth access token in JWT form.
    assert_refused!(
        verify_changed(&json!({"typ": "at+jwt"}), &json!({})),
        E::Type
    );
    // PASETO, CWT in hex, an SSH certificate.
    for text in [
        "v4.public.eyJzdWIiOiJzcGlmZmU6Ly9leGFtcGxlLm9yZy93In0",
        "d28443a10126a104524173796d6d657472696345434453413235365850",
        "ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQ",
    ] {
        assert!(verify(text).is_err(), "{text}");
        assert!(UnverifiedJwtSvid::parse(text).is_err(), "{text}");
    }
}

#[test]
fn the_svid_hash_can_be_recomputed_from_the_token() {
    use sha2::{Digest as _, Sha256};
    let input = jwt_signing_input(&good_claims(), "ES256", JwsAlgorithm::Es256).unwrap();
    let hash = input.svid_hash();
    let token = input.attach(&[1, 2, 3]);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    assert_eq!(hash, <[u8; 32]>::from(Sha256::digest(signed)));
    assert_eq!(URL_SAFE_NO_PAD.decode(signature).unwrap(), [1, 2, 3]);
}

#[test]
fn a_workload_reads_its_own_token_without_a_bundle() {
    let svid = UnverifiedJwtSvid::parse(&token(&json!({}), &json!({"aud": "x"}))).unwrap();
    assert_eq!(svid.spiffe_id.as_str(), "spiffe://example.org/w");
    assert_eq!(
        (svid.kid.as_str(), svid.audience),
        ("ES256", vec!["x".to_owned()])
    );
    assert_eq!(svid.issued_at, Some(now()));
    assert_eq!(
        svid.expires_at,
        now().saturating_add(Duration::from_secs(300))
    );
    let bad = token(&json!({"alg": "HS256"}), &json!({}));
    assert_refused!(UnverifiedJwtSvid::parse(&bad), E::Algorithm);
}

proptest! {
    #[test]
    fn any_text_is_refused_without_panic(text in ".{0,200}|[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){2}") {
        prop_assert!(verify(&text).is_err());
        let _ = UnverifiedJwtSvid::parse(&text);
    }

    #[test]
    fn a_good_token_with_any_one_character_changed_is_refused(
        at in any::<prop::sample::Index>(),
        to in prop::sample::select(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.".to_vec(),
        ),
    ) {
        let mut bytes = token(&json!({}), &json!({})).into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        prop_assert!(verify(&String::from_utf8(bytes).unwrap()).is_err());
    }

    #[test]
    fn what_is_issued_verifies_and_says_what_was_asked(
        path in "(/[A-Za-z0-9._-]{1,8}){1,3}",
        aud in prop::collection::vec("\\PC{1,20}", 1..4),
        ttl in 1_u64..100_000,
    ) {
        let Ok(spiffe_id) = SpiffeId::from_path(&domain("example.org"), &path) else {
            return Ok(());
        };
        let audience = Audience::new(aud).unwrap();
        let expires_at = now().saturating_add(Duration::from_secs(ttl));
        let claims = JwtClaims { spiffe_id, audience, expires_at, ..good_claims() };
        let token = issue(&claims, "ES256", JwsAlgorithm::Es256);
        let svid = verify_jwt_svid(&token, &claims.audience, &bundles(), now(), Duration::ZERO);
        let svid = svid.unwrap();
        prop_assert_eq!(svid.spiffe_id, claims.spiffe_id);
        prop_assert_eq!(svid.expires_at, expires_at);
    }
}

#[test]
fn id_13_14_a_subject_has_at_most_2048_bytes() {
    for (length, good) in [(2_047, true), (2_048, true), (2_049, false)] {
        let sub = format!(
            "spiffe://example.org/{}",
            "a".repeat(length - "spiffe://example.org/".len())
        );
        let verdict = verify_changed(&json!({}), &json!({"sub": sub}));
        assert_eq!(verdict.is_ok(), good, "{length}: {verdict:?}");
        if let Ok(svid) = verdict {
            let claims = JwtClaims {
                spiffe_id: svid.spiffe_id.clone(),
                ..good_claims()
            };
            let issued = issue(&claims, "ES256", JwsAlgorithm::Es256);
            assert_eq!(verify(&issued).unwrap().spiffe_id, svid.spiffe_id);
        }
    }
}
