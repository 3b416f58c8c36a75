//! Chains that are somebody's X.509-SVID and chains that are nobody's, judged by the function
//! and in TLS handshakes in both directions.

use mintmark_identity::bundle::{Bundle, BundleSet, X509Anchor};
use mintmark_identity::key_manager::SigningKey;
use mintmark_identity::spiffe_id::SpiffeIdError;
use mintmark_identity::svid::x509::structure::CertificateError;
use mintmark_identity::svid::x509::{Usage, X509SvidError, verify_x509_svid};
use mintmark_identity::validity::Validity;
use rustls_pki_types::CertificateDer;

use crate::handshake::Judge;
use crate::pki::*;

const URI: &str = "spiffe://example.org/w";

/// `example.org` with its authority, `other.test` with its own, and a key for leaves.
struct World {
    home: Authority,
    other: Authority,
    leaf_key: SigningKey,
    judge: Judge,
}

impl World {
    fn new() -> Self {
        let home = Authority::new("example.org", false);
        let other = Authority::new("other.test", false);
        let judge = Judge::new(bundles([home.bundle(), other.bundle()]));
        Self {
            home,
            other,
            leaf_key: p256(),
            judge,
        }
    }

    fn good(&self) -> Forge {
        Forge::leaf(URI, &self.leaf_key)
    }

    fn judge(&self, leaf: &Forge) -> Result<String, X509SvidError> {
        self.judge_chain(&[&leaf.sign_by(&self.home)])
    }

    fn judge_chain(&self, certificates: &[&[u8]]) -> Result<String, X509SvidError> {
        let verified = self.judge.verify(&chain(certificates), &self.leaf_key)?;
        Ok(verified.spiffe_id.as_str().to_owned())
    }

    fn accepts(&self, leaf: &Forge) {
        assert_eq!(self.judge(leaf).as_deref(), Ok(URI));
    }

    fn refuses(&self, leaf: &Forge, why: &X509SvidError) {
        assert_eq!(self.judge(leaf).as_ref(), Err(why));
    }
}

#[test]
fn a_good_leaf_is_accepted() {
    let world = World::new();
    world.accepts(&world.good());
}

#[test]
fn x509_02_23_any_number_of_uri_names_but_one_is_refused() {
    let world = World::new();
    let with = |names: &[Vec<u8>]| world.good().replace(san(names));
    let oversize = format!("spiffe://example.org/{}", "x".repeat(2_048));
    for second in ["spiffe://example.org/v", "https://x", URI, &oversize] {
        world.refuses(&with(&[uri(URI), uri(second)]), &X509SvidError::SeveralUris);
        world.refuses(&with(&[uri(second), uri(URI)]), &X509SvidError::SeveralUris);
    }
    world.refuses(&with(&[dns("example.org")]), &X509SvidError::NoSpiffeId);
    world.refuses(
        &world.good().without("2.5.29.17"),
        &X509SvidError::NoSpiffeId,
    );
    let email = tlv(
        der::TagNumber(1).context_specific(false),
        &[b"a@example.org"],
    );
    let address = tlv(
        der::TagNumber(7).context_specific(false),
        &[&[127, 0, 0, 1]],
    );
    world.accepts(&with(&[
        dns("a.example.org"),
        email,
        uri(URI),
        address,
        dns("b.example.org"),
    ]));
}

#[test]
fn x509_08_a_signing_certificate_authenticates_nobody() {
    let world = World::new();
    // The authority itself, with its own key, on either side of a handshake.
    let own = world.home.certificate.certificate_der();
    let verdict = world.judge.verify(&chain(&[own]), world.home.key.native());
    assert!(matches!(verdict, Err(X509SvidError::NoPath)), "{verdict:?}");
    // Its certificate with a path in the SPIFFE ID, signed by itself and by the real one.
    let key = p256();
    let ca = Forge::ca("ca", &key).with(san(&[uri(URI)]));
    for der in [ca.sign_by(&world.home), ca.self_sign(&key)] {
        let verdict = world.judge.verify(&chain(&[&der]), &key);
        assert!(
            matches!(verdict, Err(X509SvidError::SigningCertificate)),
            "{verdict:?}"
        );
    }
}

#[test]
fn x509_09_an_intermediate_that_is_no_authority_is_refused() {
    let world = World::new();
    let key = p256();
    let good = Forge::ca("intermediate", &key);
    let below = |intermediate: &Forge| {
        let leaf = world.good().sign(&intermediate.subject, &key);
        world.judge_chain(&[&leaf, &intermediate.sign_by(&world.home)])
    };
    assert_eq!(below(&good).as_deref(), Ok(URI));
    let not = good.clone().replace(basic_constraints(false, None));
    assert!(
        matches!(below(&not), Err(X509SvidError::Path(_))),
        "{:?}",
        below(&not)
    );
    let without = good.without("2.5.29.19");
    assert!(
        matches!(below(&without), Err(X509SvidError::Path(_))),
        "{:?}",
        below(&without)
    );
}

#[test]
fn x509_10_a_leaf_without_basic_constraints_is_accepted_and_a_broken_one_is_not() {
    let world = World::new();
    world.accepts(&world.good().without("2.5.29.19"));
    let broken = world
        .good()
        .replace(extension("2.5.29.19", true, &[0x30, 0x01]));
    assert!(matches!(
        world.judge(&broken),
        Err(X509SvidError::Leaf(CertificateError::Extension { .. }))
    ));
    let broken = world
        .good()
        .replace(extension("2.5.29.15", true, &[0x04, 0x00]));
    assert!(matches!(
        world.judge(&broken),
        Err(X509SvidError::Leaf(CertificateError::Extension { .. }))
    ));
}

#[test]
fn x509_11_uri_name_constraints_fail_closed() {
    let world = World::new();
    let key = p256();
    let subtree = |number: u32, host: &str| {
        let base = tlv(
            der::TagNumber(6).context_specific(false),
            &[host.as_bytes()],
        );
        let subtrees = tlv(
            der::TagNumber(number).context_specific(true),
            &[&sequence(&[&base])],
        );
        extension("2.5.29.30", true, &sequence(&[&subtrees]))
    };
    for constraint in [
        subtree(0, "example.org"),
        subtree(0, "other.test"),
        subtree(1, "example.org"),
    ] {
        let intermediate = Forge::ca("constrained", &key).with(constraint);
        let leaf = world.good().sign(&intermediate.subject, &key);
        let verdict = world.judge_chain(&[&leaf, &intermediate.sign_by(&world.home)]);
        assert!(
            matches!(verdict, Err(X509SvidError::Path(_))),
            "{verdict:?}"
        );
    }
}

#[test]
fn x509_12_15_a_leaf_says_that_its_key_authenticates() {
    let world = World::new();
    world.refuses(
        &world.good().without("2.5.29.15"),
        &X509SvidError::NoKeyUsage,
    );
    let other = world.good().replace(key_usage(&[KEY_ENCIPHERMENT]));
    world.refuses(&other, &X509SvidError::NoDigitalSignature);
    world.accepts(
        &world
            .good()
            .replace(key_usage(&[DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, 4])),
    );
}

#[test]
fn x509_14_an_intermediate_may_sign_certificates() {
    let world = World::new();
    let key = p256();
    let good = Forge::ca("intermediate", &key);
    for intermediate in [
        good.clone().replace(key_usage(&[CRL_SIGN])),
        good.clone().replace(key_usage(&[DIGITAL_SIGNATURE])),
        good.without("2.5.29.15"),
    ] {
        let leaf = world.good().sign(&intermediate.subject, &key);
        let verdict = world.judge_chain(&[&leaf, &intermediate.sign_by(&world.home)]);
        assert_eq!(verdict, Err(X509SvidError::IntermediateKeyUsage));
    }
}

#[test]
fn x509_18_a_purpose_that_is_named_must_be_the_one_in_use() {
    let world = World::new();
    let judge = |leaf: &Forge, usage| {
        let chain = chain(&[&leaf.sign_by(&world.home)]);
        verify_x509_svid(&chain, &world.judge.bundles, NOW, usage).map(|_| ())
    };
    let only_client = world.good().replace(extended_key_usage(&[CLIENT_AUTH]));
    let only_server = world.good().replace(extended_key_usage(&[SERVER_AUTH]));
    let neither = world
        .good()
        .replace(extended_key_usage(&["1.3.6.1.5.5.7.3.3"]));
    let without = world.good().without("2.5.29.37");
    assert_eq!(judge(&only_client, Usage::Client), Ok(()));
    assert_eq!(
        judge(&only_client, Usage::Server),
        Err(X509SvidError::Purpose)
    );
    assert_eq!(judge(&only_server, Usage::Server), Ok(()));
    assert_eq!(
        judge(&only_server, Usage::Client),
        Err(X509SvidError::Purpose)
    );
    for usage in [Usage::Client, Usage::Server, Usage::Either] {
        assert_eq!(judge(&without, usage), Ok(()));
        assert_eq!(judge(&neither, usage), Err(X509SvidError::Purpose));
    }
    // In handshakes too.
    world.accepts(&only_client);
    world.accepts(&only_server);
    world.refuses(&neither, &X509SvidError::Purpose);
}

#[test]
fn x509_19_time_runs_through_leaf_intermediate_and_anchor() {
    let world = World::new();
    let expired = X509SvidError::Expired {
        not_after: mintmark_identity::clock::Timestamp::from_unix_secs(NOW.unix_secs() - 1),
    };
    let early = X509SvidError::NotYetValid {
        not_before: mintmark_identity::clock::Timestamp::from_unix_secs(NOW.unix_secs() + 1),
    };
    world.refuses(&world.good().valid(-10, -1), &expired);
    world.refuses(&world.good().valid(1, 10), &early);
    world.accepts(&world.good().valid(-10, 0));
    world.accepts(&world.good().valid(0, 10));
    let key = p256();
    for (from, to, why) in [(-10, -1, &expired), (1, 10, &early)] {
        let intermediate = Forge::ca("intermediate", &key).valid(from, to);
        let leaf = world.good().sign(&intermediate.subject, &key);
        let verdict = world.judge_chain(&[&leaf, &intermediate.sign_by(&world.home)]);
        assert_eq!(verdict.as_ref(), Err(why));
    }
    // webpki looks at no dates of anchors (L-10).
    for (from, to) in [(-10, -1), (1, 10)] {
        let root = Forge::ca("root", &key).valid(from, to);
        let verdict = under_anchor(&root, &key, &[&world.good().sign(&root.subject, &key)]);
        assert!(
            matches!(verdict, Err(X509SvidError::AnchorExpired { .. })),
            "{verdict:?}"
        );
    }
}

/// Judges a chain with nothing but this self-signed anchor in the bundle of `example.org`.
fn under_anchor(
    anchor: &Forge,
    key: &SigningKey,
    certificates: &[&[u8]],
) -> Result<(), X509SvidError> {
    let anchor = X509Anchor::parse(&anchor.self_sign(key)).unwrap();
    let bundles = bundles([bundle("example.org", vec![anchor])]);
    verify_x509_svid(&chain(certificates), &bundles, NOW, Usage::Either).map(|_| ())
}

#[test]
fn x509_19_signatures_and_issuers_are_checked() {
    let world = World::new();
    let unknown = X509SvidError::UnknownAuthority(td("example.org"));
    let key = p256();
    let leaf = world.good().sign(world.home.certificate.subject(), &key);
    assert_eq!(world.judge_chain(&[&leaf]), Err(X509SvidError::Signature));
    let leaf = world.good().sign(&name("nobody"), &key);
    assert_eq!(world.judge_chain(&[&leaf]), Err(unknown.clone()));
    let intermediate = Forge::ca("intermediate", &key);
    let leaf = world.good().sign(&intermediate.subject, &key);
    assert_eq!(
        world.judge_chain(&[&leaf]),
        Err(unknown),
        "missing intermediate"
    );
    let critical = world.good().with(extension("1.2.3.4", true, &[5, 0]));
    assert!(matches!(
        world.judge(&critical),
        Err(X509SvidError::Path(_))
    ));
    world.accepts(&world.good().with(extension("1.2.3.4", false, &[5, 0])));
}

#[test]
fn x509_19_n5_path_length_counts_for_intermediates_and_for_anchors() {
    let world = World::new();
    let keys = [p256(), p256(), p256()];
    let root = Forge::ca("root", &keys[0]);
    let limited = root.clone().replace(basic_constraints(true, Some(0)));
    let middle = Forge::ca("middle", &keys[1]);
    let direct = world.good().sign(&root.subject, &keys[0]);
    let below = world.good().sign(&middle.subject, &keys[1]);
    let signed_middle = middle.sign(&root.subject, &keys[0]);
    assert_eq!(under_anchor(&limited, &keys[0], &[&direct]), Ok(()));
    assert_eq!(
        under_anchor(&root, &keys[0], &[&below, &signed_middle]),
        Ok(())
    );
    let verdict = under_anchor(&limited, &keys[0], &[&below, &signed_middle]);
    assert!(
        matches!(verdict, Err(X509SvidError::PathTooLong { .. })),
        "{verdict:?}"
    );
    // An intermediate's own limit.
    let middle = middle.replace(basic_constraints(true, Some(0)));
    let low = Forge::ca("low", &keys[2]);
    let leaf = world.good().sign(&low.subject, &keys[2]);
    let low = low.sign(&middle.subject, &keys[1]);
    let verdict = under_anchor(
        &root,
        &keys[0],
        &[&leaf, &low, &middle.sign(&root.subject, &keys[0])],
    );
    assert!(
        matches!(verdict, Err(X509SvidError::Path(_))),
        "{verdict:?}"
    );
}

#[test]
fn x509_19_shape_and_size_of_the_chain_are_limited() {
    let world = World::new();
    let good = world.good().sign_by(&world.home);
    assert_eq!(world.judge_chain(&[]), Err(X509SvidError::EmptyChain));
    let mut trailing = good.clone();
    trailing.push(0);
    let verdict = world.judge_chain(&[&trailing]);
    assert!(matches!(
        verdict,
        Err(X509SvidError::Leaf(CertificateError::Malformed(_)))
    ));
    let sixteen = vec![good.as_slice(); 16];
    assert_eq!(
        world.judge_chain(&sixteen).as_deref(),
        Ok(URI),
        "extra certificates are unused"
    );
    let seventeen = vec![good.as_slice(); 17];
    let verdict = world.judge_chain(&seventeen);
    assert_eq!(verdict, Err(X509SvidError::ChainTooLong { length: 17 }));
    let huge = world
        .good()
        .with(extension("1.2.3.4", false, &vec![0; 17_000]));
    let huge = huge.sign_by(&world.home);
    assert!(matches!(
        world.judge_chain(&[&huge]),
        Err(X509SvidError::Leaf(CertificateError::TooLarge { .. }))
    ));
    assert!(matches!(
        world.judge_chain(&[&good, &huge]),
        Err(X509SvidError::Intermediate(
            CertificateError::TooLarge { .. }
        ))
    ));
}

#[test]
fn x509_19_garbage_and_doubled_extensions_are_refused() {
    let world = World::new();
    for garbage in [&b""[..], b"\x30\x00", b"not a certificate", &[0x30; 300]] {
        let chain = [CertificateDer::from(garbage)];
        let verdict = verify_x509_svid(&chain, &world.judge.bundles, NOW, Usage::Either);
        assert!(
            matches!(verdict, Err(X509SvidError::Leaf(_))),
            "{garbage:?}"
        );
    }
    let doubled = world.good().with(key_usage(&[DIGITAL_SIGNATURE]));
    assert!(matches!(
        world.judge(&doubled),
        Err(X509SvidError::Leaf(
            CertificateError::DuplicateExtension { .. }
        ))
    ));
}

#[test]
fn x509_19_the_signature_algorithm_is_the_one_that_was_signed() {
    let world = World::new();
    let tbs = world.good().tbs(world.home.certificate.subject());
    let signature = world.home.key.native().sign(&tbs).unwrap();
    let signature = der::asn1::BitString::from_bytes(&signature).unwrap();
    let signature = der::Encode::to_der(&signature).unwrap();
    let outer = sequence(&[&der::Encode::to_der(&oid("1.2.840.10045.4.3.3")).unwrap()]);
    let verdict = world.judge_chain(&[&sequence(&[&tbs, &outer, &signature])]);
    assert_eq!(
        verdict,
        Err(X509SvidError::Leaf(CertificateError::SignatureAlgorithm))
    );
}

#[test]
fn x509_19_intermediates_may_come_in_any_order_and_with_company() {
    let world = World::new();
    let (upper_key, lower_key) = (p256(), p256());
    let upper = Forge::ca("upper", &upper_key);
    let lower = Forge::ca("lower", &lower_key);
    let stranger = Forge::ca("stranger", &p256()).sign_by(&world.other);
    let leaf = world.good().sign(&lower.subject, &lower_key);
    let lower = lower.sign(&upper.subject, &upper_key);
    let upper = upper.sign_by(&world.home);
    let root = world.home.certificate.certificate_der();
    for order in [[&lower, &upper, &stranger], [&stranger, &upper, &lower]] {
        let [a, b, c] = order;
        assert_eq!(world.judge_chain(&[&leaf, a, b, c]).as_deref(), Ok(URI));
        assert_eq!(
            world.judge_chain(&[&leaf, a, b, c, root]).as_deref(),
            Ok(URI)
        );
    }
    let verified = world
        .judge
        .verify(&chain(&[&leaf, &lower, &upper]), &world.leaf_key)
        .unwrap();
    assert_eq!(verified.anchor_id, world.home.certificate.id());
    assert_ne!(verified.authority_id, verified.anchor_id);
}

#[test]
fn x509_20_signing_leaves_are_refused_on_both_sides() {
    let world = World::new();
    let refused = [
        (
            basic_constraints(true, None),
            X509SvidError::SigningCertificate,
        ),
        (
            key_usage(&[DIGITAL_SIGNATURE, KEY_CERT_SIGN]),
            X509SvidError::SigningKeyUsage,
        ),
        (
            key_usage(&[DIGITAL_SIGNATURE, CRL_SIGN]),
            X509SvidError::SigningKeyUsage,
        ),
    ];
    for (extension, why) in refused {
        world.refuses(&world.good().replace(extension), &why);
    }
    let bare = world
        .good()
        .replace(basic_constraints(true, None))
        .without("2.5.29.15");
    world.refuses(&bare, &X509SvidError::SigningCertificate);
}

#[test]
fn x509_21_the_uri_must_be_a_spiffe_id() {
    let world = World::new();
    for text in [
        "https://example.org/w",
        "sparfe://example.org/w",
        "spiffe:example.org/w",
        "",
    ] {
        let leaf = world.good().replace(san(&[uri(text)]));
        world.refuses(&leaf, &X509SvidError::SpiffeId(SpiffeIdError::WrongScheme));
    }
    let upper = world.good().replace(san(&[uri("SPIFFE://example.org/w")]));
    world.refuses(&upper, &X509SvidError::SpiffeId(SpiffeIdError::WrongScheme));
    let binary = tlv(
        der::TagNumber(6).context_specific(false),
        &[b"spiffe://example.org/\xff"],
    );
    assert!(matches!(
        world.judge(&world.good().replace(san(&[binary]))),
        Err(X509SvidError::Leaf(CertificateError::Extension { .. }))
    ));
}

#[test]
fn x509_22_the_spiffe_id_must_have_a_path() {
    let world = World::new();
    let root = world.good().replace(san(&[uri("spiffe://example.org")]));
    world.refuses(&root, &X509SvidError::NoPath);
    let slash = world.good().replace(san(&[uri("spiffe://example.org/")]));
    world.refuses(
        &slash,
        &X509SvidError::SpiffeId(SpiffeIdError::TrailingSlash),
    );
}

#[test]
fn x509_n1_a_bundle_without_x509_authorities_verifies_nothing() {
    let world = World::new();
    let leaf = chain(&[&world.good().sign_by(&world.home)]);
    let none = bundles([bundle("example.org", vec![])]);
    let verify = |bundles: &BundleSet| verify_x509_svid(&leaf, bundles, NOW, Usage::Either);
    assert_eq!(
        verify(&none),
        Err(X509SvidError::NoAuthorities(td("example.org")))
    );
    assert_eq!(
        verify(&BundleSet::new()),
        Err(X509SvidError::NoBundle(td("example.org")))
    );
    let others = bundles([world.other.bundle()]);
    assert_eq!(
        verify(&others),
        Err(X509SvidError::NoBundle(td("example.org")))
    );
}

#[test]
fn x509_n2_foreign_authorities_may_say_that_they_authenticate() {
    let world = World::new();
    let key = p256();
    let root =
        Forge::ca("root", &key).replace(key_usage(&[DIGITAL_SIGNATURE, KEY_CERT_SIGN, CRL_SIGN]));
    let leaf = world.good().sign(&root.subject, &key);
    assert_eq!(under_anchor(&root, &key, &[&leaf]), Ok(()));
}

#[test]
fn x509_n3_wla_n3_only_the_bundle_of_the_own_trust_domain_counts() {
    let world = World::new();
    let leaf = world.good().sign_by(&world.other);
    let unknown = X509SvidError::UnknownAuthority(td("example.org"));
    assert_eq!(world.judge_chain(&[&leaf]), Err(unknown));
    // Even if the right authority stands in the wrong bundle.
    let swapped = bundles([
        bundle("example.org", vec![world.other.anchor()]),
        bundle("other.test", vec![world.home.anchor()]),
    ]);
    let judge = Judge::new(swapped);
    let leaf = world.good().sign_by(&world.home);
    assert!(judge.verify(&chain(&[&leaf]), &world.leaf_key).is_err());
}

#[test]
fn x509_20_a_leaf_in_the_bundle_is_no_anchor() {
    let world = World::new();
    let leaf = world.good().sign_by(&world.home);
    assert!(X509Anchor::parse(&leaf).is_err());
    // Somebody smuggles it in behind the check (L-11).
    let mut smuggled = world.other.anchor();
    smuggled.certificate = leaf.clone();
    let bundles = bundles([bundle("example.org", vec![smuggled])]);
    let verdict = verify_x509_svid(&chain(&[&leaf]), &bundles, NOW, Usage::Either);
    assert_eq!(
        verdict,
        Err(X509SvidError::NoAuthorities(td("example.org")))
    );
}

#[test]
fn a_tainted_anchor_is_refused_only_where_the_policy_says_so() {
    let mut world = World::new();
    let mut anchor = world.home.anchor();
    anchor.tainted = true;
    let tainted = bundles([bundle("example.org", vec![anchor.clone()])]);
    world.judge.bundles = tainted;
    world.accepts(&world.good());
    world.judge.policy.refuse_tainted = true;
    let id = world.home.certificate.id().to_owned();
    world.refuses(&world.good(), &X509SvidError::AnchorTainted { id });
    // The same authority again, untainted, as between two updates: one good anchor is enough.
    anchor.tainted = false;
    world.judge.bundles = bundles([bundle("example.org", vec![world.home.anchor(), anchor])]);
    world.accepts(&world.good());
}

#[test]
fn the_time_is_the_callers() {
    let world = World::new();
    let leaf = chain(&[&world.home.issue("/w", &world.leaf_key)]);
    let Validity {
        not_before,
        not_after,
    } = Validity::issued_at(NOW, HOUR);
    let second = std::time::Duration::from_secs(1);
    let at = |now| verify_x509_svid(&leaf, &world.judge.bundles, now, Usage::Either);
    assert!(at(not_before).is_ok() && at(not_after).is_ok());
    assert_eq!(
        at(not_before.saturating_sub(second)),
        Err(X509SvidError::NotYetValid { not_before })
    );
    assert_eq!(
        at(not_after.saturating_add(second)),
        Err(X509SvidError::Expired { not_after })
    );
    let before_1970 = mintmark_identity::clock::Timestamp::from_unix_secs(-5);
    assert!(at(before_1970).is_err());
}

#[test]
fn x509_30_a_second_certificate_of_an_entry_verifies_nobody() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let world = World::new();
    let second = Authority::new("example.org", false);
    // The own bundle, as published, with another authority behind the first in its only entry.
    let document = world.home.bundle().to_document();
    let mut document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    let x5c = document["keys"][0]["x5c"].as_array_mut().unwrap();
    x5c.push(STANDARD.encode(second.certificate.certificate_der()).into());
    let (read, skipped) =
        Bundle::from_document(&td("example.org"), document.to_string().as_bytes()).unwrap();
    assert!(skipped.is_empty(), "{skipped:?}");
    let judge = Judge::new(bundles([read]));
    let verdict = |authority: &Authority| {
        let leaf = world.good().sign_by(authority);
        judge.verify(&chain(&[&leaf]), &world.leaf_key)
    };
    assert!(verdict(&world.home).is_ok());
    let unknown = X509SvidError::UnknownAuthority(td("example.org"));
    assert_eq!(verdict(&second).unwrap_err(), unknown);
}

#[test]
fn id_13_an_id_of_2048_bytes_authenticates_in_tls() {
    let world = World::new();
    for length in [2_047, 2_048] {
        let text = format!(
            "spiffe://example.org/{}",
            "a".repeat(length - "spiffe://example.org/".len())
        );
        let leaf = Forge::leaf(&text, &world.leaf_key);
        assert_eq!(world.judge(&leaf).as_deref(), Ok(text.as_str()));
    }
}

#[test]
fn id_14_an_id_of_2049_bytes_authenticates_nobody() {
    let world = World::new();
    let text = format!(
        "spiffe://example.org/{}",
        "a".repeat(2_049 - "spiffe://example.org/".len())
    );
    let long = X509SvidError::SpiffeId(SpiffeIdError::TooLong { length: 2_049 });
    world.refuses(&Forge::leaf(&text, &world.leaf_key), &long);
}

#[test]
fn tdb_09_an_emptied_bundle_ends_what_it_verified() {
    let world = World::new();
    world.accepts(&world.good());
    let emptied = Judge::new(bundles([
        Bundle::empty(td("example.org")),
        world.other.bundle(),
    ]));
    let leaf = world.good().sign_by(&world.home);
    let verdict = emptied.verify(&chain(&[&leaf]), &world.leaf_key);
    assert_eq!(
        verdict.unwrap_err(),
        X509SvidError::NoAuthorities(td("example.org"))
    );
}
