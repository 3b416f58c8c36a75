//! What we issue.

use mintmark_identity::clock::Timestamp;
use mintmark_identity::svid::x509::authority::{AuthorityError, SelfSignError};
use mintmark_identity::svid::x509::prepare::{
    IntermediateRequest, ProfileError, SignError, prepare_intermediate,
};
use mintmark_identity::svid::x509::{
    CaSubject, Certificate, LeafSubject, Usage, VerifiedCsr, X509Authority, prepare_leaf,
    self_signed_authority, svid_hash_of_certificate, verify_x509_svid,
};
use mintmark_identity::validity::Validity;
use rcgen::{CertificateParams, KeyPair, SanType};
use sha2::{Digest as _, Sha256};

use crate::pki::*;

const LEAF_KEY_USAGE: &str = "2.5.29.15";
const SAN: &str = "2.5.29.17";
const CONSTRAINTS: &str = "2.5.29.19";

fn critical(certificate: &Certificate<'_>, which: &str) -> Option<bool> {
    certificate
        .parts
        .tbs
        .extension(oid(which))
        .map(|extension| extension.critical)
}

#[test]
fn what_we_issue_we_verify() {
    for hybrid in [false, true] {
        let authority = Authority::new("example.org", hybrid);
        let leaf = authority.issue("/w", &p256());
        let bundles = bundles([authority.bundle()]);
        for usage in [Usage::Client, Usage::Server, Usage::Either] {
            let svid = verify_x509_svid(&chain(&[&leaf]), &bundles, NOW, usage).unwrap();
            assert_eq!(svid.spiffe_id.as_str(), "spiffe://example.org/w");
            assert_eq!(svid.hybrid, hybrid);
            assert_eq!(svid.authority_id, authority.certificate.id());
            assert_eq!(svid.anchor_id, svid.authority_id);
        }
    }
}

#[test]
fn x509_01_a_leaf_has_the_one_uri_of_its_registration_whatever_the_request_says() {
    let authority = Authority::new("example.org", false);
    let wishes: [&[&str]; 3] = [
        &[],
        &["spiffe://example.org/admin"],
        &["spiffe://example.org/admin", "https://example.org/"],
    ];
    for uris in wishes {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        let request = params.serialize_request(&key).unwrap();
        let csr = VerifiedCsr::verify(request.der()).unwrap();
        assert_eq!(
            csr.requested().uris,
            uris,
            "shown to those who look for mistakes"
        );
        let mut request = authority.request("/w", &p256());
        request.public_key_spki = csr.public_key_spki().to_vec();
        let prepared = prepare_leaf(&request, &authority.certificate).unwrap();
        let leaf = prepared.sign(&authority.key).unwrap();
        let leaf = Certificate::parse(&leaf).unwrap();
        assert_eq!(leaf.content.names.uris, ["spiffe://example.org/w"]);
    }
}

#[test]
fn x509_03_a_leaf_for_the_trust_domain_itself_is_refused() {
    let authority = Authority::new("example.org", false);
    let mut request = authority.request("/w", &p256());
    request.spiffe_id = id("spiffe://example.org");
    assert_eq!(
        prepare_leaf(&request, &authority.certificate).unwrap_err(),
        ProfileError::RootPath
    );
    request.spiffe_id = id("spiffe://example.org/w");
    assert!(prepare_leaf(&request, &authority.certificate).is_ok());
}

#[test]
fn x509_04_the_san_is_critical_exactly_when_the_subject_is_empty() {
    let authority = Authority::new("example.org", false);
    let mut request = authority.request("/w", &p256());
    for (subject, expected) in [
        (LeafSubject::empty(), true),
        (LeafSubject::default(), false),
    ] {
        request.subject = subject;
        let prepared = prepare_leaf(&request, &authority.certificate).unwrap();
        let leaf = prepared.sign(&authority.key).unwrap();
        assert_eq!(
            critical(&Certificate::parse(&leaf).unwrap(), SAN),
            Some(expected)
        );
    }
}

#[test]
fn x509_05_07_an_authority_carries_the_id_of_the_trust_domain_it_signs_for() {
    for hybrid in [false, true] {
        let authority = Authority::new("example.org", hybrid);
        let certificate = Certificate::parse(authority.certificate.certificate_der()).unwrap();
        assert_eq!(certificate.content.names.uris, ["spiffe://example.org"]);
        assert_eq!(
            authority.certificate.trust_domain(),
            Some(&td("example.org"))
        );
        let mut request = authority.request("/w", &p256());
        request.spiffe_id = id("spiffe://other.test/w");
        assert_eq!(
            prepare_leaf(&request, &authority.certificate).unwrap_err(),
            ProfileError::ForeignTrustDomain(td("other.test"))
        );
    }
}

#[test]
fn x509_06_an_intermediate_has_no_path_and_one_with_a_path_is_not_loaded() {
    let authority = Authority::new("example.org", false);
    let request = intermediate_request(&p256(), None);
    let prepared = prepare_intermediate(&request, &authority.certificate).unwrap();
    let der = prepared.sign(&authority.key).unwrap();
    let intermediate = X509Authority::parse(&der).unwrap();
    assert_eq!(intermediate.trust_domain(), Some(&td("example.org")));
    let names = Certificate::parse(&der)
        .unwrap()
        .content
        .names
        .uris
        .join(" ");
    assert_eq!(names, "spiffe://example.org");

    let key = p256();
    let forge = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| uri(name)).collect();
        X509Authority::parse(
            &Forge::ca("upstream", &key)
                .with(san(&names))
                .self_sign(&key),
        )
    };
    assert_eq!(
        forge(&["spiffe://example.org/ca"]).unwrap_err(),
        AuthorityError::Path
    );
    assert!(matches!(
        forge(&["https://example.org"]),
        Err(AuthorityError::SpiffeId(_))
    ));
    let two = ["spiffe://example.org", "spiffe://other.test"];
    assert_eq!(forge(&two).unwrap_err(), AuthorityError::SeveralUris);
    let upstream = X509Authority::parse(&Forge::ca("upstream", &key).self_sign(&key)).unwrap();
    assert_eq!(
        upstream.trust_domain(),
        None,
        "an upstream root knows nothing of SPIFFE"
    );
}

fn intermediate_request(
    key: &mintmark_identity::key_manager::SigningKey,
    alternative: Option<&mintmark_identity::key_manager::SigningKey>,
) -> IntermediateRequest {
    IntermediateRequest {
        trust_domain: td("example.org"),
        public_key_spki: key.spki_der().to_vec(),
        alternative_spki: alternative.map(|key| key.spki_der().to_vec()),
        serial: serial(),
        validity: Validity::issued_at(NOW, HOUR),
        subject: CaSubject::default(),
    }
}

#[test]
fn x509_09_12_13_14_n2_n4_usage_and_constraints_of_all_that_signs() {
    for hybrid in [false, true] {
        let authority = Authority::new("example.org", hybrid);
        let native = p256();
        let alternative = mintmark_identity::key_manager::SigningKey::generate(
            mintmark_identity::key_manager::KeyAlgorithm::MlDsa65,
        )
        .unwrap();
        let request = intermediate_request(&native, hybrid.then_some(&alternative));
        let prepared = prepare_intermediate(&request, &authority.certificate).unwrap();
        let intermediate = prepared.sign(&authority.key).unwrap();
        for der in [authority.certificate.certificate_der(), &intermediate] {
            let certificate = Certificate::parse(der).unwrap();
            assert!(certificate.content.is_ca());
            assert_eq!(critical(&certificate, CONSTRAINTS), Some(true));
            assert_eq!(critical(&certificate, LEAF_KEY_USAGE), Some(true));
            let usage = certificate.content.key_usage.unwrap();
            assert!(usage.key_cert_sign() && usage.crl_sign());
            assert_eq!(
                usage.0.bits().count_ones(),
                2,
                "N2: nothing that is a leaf's"
            );
            assert_eq!(certificate.content.extended_key_usage, None, "N4: no EKU");
            assert_eq!(
                critical(&certificate, "2.5.29.30"),
                None,
                "11: no name constraints"
            );
        }
    }
}

#[test]
fn x509_10_12_13_15_16_17_18_usage_and_constraints_of_a_leaf() {
    for hybrid in [false, true] {
        let authority = Authority::new("example.org", hybrid);
        let leaf = authority.issue("/w", &p256());
        let leaf = Certificate::parse(&leaf).unwrap();
        let constraints = leaf.content.basic_constraints.as_ref().unwrap();
        assert!(!constraints.ca && constraints.path_len_constraint.is_none());
        assert_eq!(critical(&leaf, CONSTRAINTS), Some(true));
        assert_eq!(critical(&leaf, LEAF_KEY_USAGE), Some(true));
        let usage = leaf.content.key_usage.unwrap();
        assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
        let purposes = leaf.content.extended_key_usage.as_deref();
        assert_eq!(purposes, Some(&[oid(SERVER_AUTH), oid(CLIENT_AUTH)][..]));
        assert_eq!(critical(&leaf, "2.5.29.37"), Some(false));
        let issuer = Certificate::parse(authority.certificate.certificate_der()).unwrap();
        assert_eq!(leaf.content.authority_key_id, issuer.content.subject_key_id);
        assert!(leaf.content.authority_key_id.is_some());
    }
}

#[test]
fn x509_28_the_published_certificate_is_self_signed() {
    for hybrid in [false, true] {
        let authority = Authority::new("example.org", hybrid);
        let certificate = Certificate::parse(authority.certificate.certificate_der()).unwrap();
        assert!(certificate.is_self_issued());
        let parts = &certificate.parts;
        let (spki, tbs) = (authority.certificate.spki(), parts.tbs.der);
        mintmark_identity::key_manager::verify_signature(spki, tbs, parts.signature).unwrap();
    }
}

#[test]
fn x509_n6_a_request_for_a_key_that_is_not_the_leafs_gets_no_further_than_the_authority() {
    let authority = Authority::new("example.org", false);
    let other = Authority::new("example.org", false);
    let prepared = || {
        let request = authority.request("/w", &p256());
        prepare_leaf(&request, &authority.certificate).unwrap()
    };
    assert_eq!(
        prepared().sign(&other.key).unwrap_err(),
        SignError::WrongKey
    );
    let hybrid = Authority::new("example.org", true);
    assert_eq!(
        prepared().sign(&hybrid.key).unwrap_err(),
        SignError::WrongKey
    );
    assert!(prepared().sign(&authority.key).is_ok());
}

#[test]
fn the_hash_is_known_before_signing_and_found_in_the_certificate() {
    for hybrid in [false, true] {
        let authority = Authority::new("example.org", hybrid);
        let request = authority.request("/w", &p256());
        let prepared = prepare_leaf(&request, &authority.certificate).unwrap();
        let committed = prepared.svid_hash();
        assert_eq!(committed[..], Sha256::digest(prepared.bytes())[..]);
        let leaf = prepared.sign(&authority.key).unwrap();
        assert_eq!(svid_hash_of_certificate(&leaf).unwrap(), committed);
        let tbs = Certificate::parse(&leaf).unwrap().parts.tbs.der;
        assert_eq!(Sha256::digest(tbs)[..] == committed[..], !hybrid);
        let again = prepare_leaf(&request, &authority.certificate).unwrap();
        assert_eq!(again.svid_hash(), committed, "same request, same bytes");
    }
}

#[test]
fn dns_names_follow_the_id_and_bad_ones_are_refused() {
    let authority = Authority::new("example.org", false);
    let mut request = authority.request("/w", &p256());
    request.dns_names = vec!["db.example.org".to_owned(), "*.db.example.org".to_owned()];
    request.subject = LeafSubject::for_dns_names(&request.dns_names);
    let prepared = prepare_leaf(&request, &authority.certificate).unwrap();
    let leaf = prepared.sign(&authority.key).unwrap();
    let leaf = Certificate::parse(&leaf).unwrap();
    assert_eq!(
        leaf.content.names.dns_names,
        ["db.example.org", "*.db.example.org"]
    );
    for bad in ["", "a b", "-a", "a\0b", "*.org", "ä.example.org"] {
        request.dns_names = vec![bad.to_owned()];
        assert_eq!(
            prepare_leaf(&request, &authority.certificate).unwrap_err(),
            ProfileError::DnsName(bad.to_owned())
        );
    }
    request.dns_names = vec!["a.example.org".to_owned(); 65];
    let error = prepare_leaf(&request, &authority.certificate).unwrap_err();
    assert_eq!(error, ProfileError::TooManyDnsNames);
}

#[test]
fn a_leaf_stays_within_its_authority_and_within_what_x509_can_write() {
    let authority = Authority::new("example.org", false);
    let outer = authority.certificate.validity();
    let mut request = authority.request("/w", &p256());
    let second = std::time::Duration::from_secs(1);
    request.validity = outer;
    assert!(
        prepare_leaf(&request, &authority.certificate).is_ok(),
        "the whole life"
    );
    let outlives = [
        Validity {
            not_after: outer.not_after.saturating_add(second),
            ..outer
        },
        Validity {
            not_before: outer.not_before.saturating_sub(second),
            ..outer
        },
    ];
    for validity in outlives {
        request.validity = validity;
        let error = prepare_leaf(&request, &authority.certificate).unwrap_err();
        assert_eq!(error, ProfileError::OutlivesAuthority);
    }
    let millis = Timestamp::from_unix_millis(NOW.unix_millis() + 1);
    let unwritable = [
        Validity {
            not_before: NOW,
            not_after: NOW,
        },
        Validity {
            not_before: millis,
            not_after: outer.not_after,
        },
        Validity {
            not_before: outer.not_before,
            not_after: millis,
        },
    ];
    for validity in unwritable {
        request.validity = validity;
        let error = prepare_leaf(&request, &authority.certificate).unwrap_err();
        assert_eq!(error, ProfileError::Validity);
    }
}

#[test]
fn dates_are_utc_time_until_2049_and_generalized_time_from_2050() {
    let last = Timestamp::from_unix_secs(2_524_607_999);
    let first = Timestamp::from_unix_secs(2_524_608_000);
    let key = mintmark_identity::authority::AuthorityKey::generate(false).unwrap();
    let validity = Validity {
        not_before: last,
        not_after: first,
    };
    let authority = Authority::with_key("example.org", key, validity);
    let der = authority.certificate.certificate_der();
    let validity = Certificate::parse(der).unwrap().parts.tbs.validity;
    let expected = [
        &b"\x30\x20\x17\x0d491231235959Z"[..],
        b"\x18\x0f20500101000000Z",
    ]
    .concat();
    assert_eq!(validity, expected);
    assert_eq!(authority.certificate.validity().not_after, first);

    let beyond = Validity {
        not_before: NOW,
        not_after: Timestamp::from_unix_secs(253_402_300_800),
    };
    let key = mintmark_identity::authority::AuthorityKey::generate(false).unwrap();
    let subject = CaSubject::default();
    let error = self_signed_authority(&td("example.org"), &key, serial(), beyond, &subject);
    assert!(matches!(
        error,
        Err(SelfSignError::Profile(ProfileError::Validity))
    ));
}

#[test]
fn keys_that_may_not_be_certified_are_refused_when_a_leaf_is_prepared() {
    use mintmark_identity::key_manager::{KeyAlgorithm, SigningKey};
    use mintmark_identity::svid::x509::csr::KeyRefused;

    let authority = Authority::new("example.org", false);
    let mut request = authority.request("/w", &p256());
    request.public_key_spki = authority.certificate.spki().to_vec();
    let error = prepare_leaf(&request, &authority.certificate).unwrap_err();
    assert_eq!(
        error,
        ProfileError::AuthorityKey,
        "else the leaf's owner were the authority"
    );
    for kind in [KeyAlgorithm::Ed25519, KeyAlgorithm::MlDsa65] {
        request.public_key_spki = SigningKey::generate(kind).unwrap().spki_der().to_vec();
        let error = prepare_leaf(&request, &authority.certificate).unwrap_err();
        assert_eq!(error, ProfileError::PublicKey(KeyRefused::Algorithm));
    }
    request.public_key_spki.push(0);
    let error = prepare_leaf(&request, &authority.certificate).unwrap_err();
    assert_eq!(error, ProfileError::PublicKey(KeyRefused::Malformed));
}

#[test]
fn below_a_hybrid_authority_an_intermediate_needs_an_alternative_key() {
    let authority = Authority::new("example.org", true);
    let request = intermediate_request(&p256(), None);
    let error = prepare_intermediate(&request, &authority.certificate).unwrap_err();
    assert_eq!(error, ProfileError::NoAlternativeKey);
}

#[test]
fn a_development_authority_says_so_in_its_subject() {
    let key = mintmark_identity::authority::AuthorityKey::generate(false).unwrap();
    let validity = Validity::issued_at(NOW, DAY);
    let subject = CaSubject::development();
    let der = self_signed_authority(&td("dev.test"), &key, serial(), validity, &subject).unwrap();
    let authority = X509Authority::parse(&der).unwrap();
    let name = mintmark_identity::svid::x509::name::display_name(authority.subject());
    assert!(name.contains("DEV"), "{name}");
}
