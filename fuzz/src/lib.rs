//! What must hold for any bytes at all.
//!
//! Responsible for: one function per fuzz target, which panics when its property is broken.
//! Always holds: the functions are deterministic, so an input that failed once fails again.
//! Not here: the fuzzer. The same functions run over the seeds in ordinary tests.

use std::time::Duration;

use mintmark_identity::bundle::{Bundle, BundleSet, JwtAuthority, X509Anchor};
use mintmark_identity::clock::Timestamp;
use mintmark_identity::hybrid::pretbs::{pre_tbs, without_alternative_signature};
use mintmark_identity::secret::SecretBytes;
use mintmark_identity::selector::Selector;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::jwt::{Audience, UnverifiedJwtSvid, verify_jwt_svid};
use mintmark_identity::svid::x509::csr::AllowedKey;
use mintmark_identity::svid::x509::structure::{CertificateParts, TbsParts};
use mintmark_identity::svid::x509::{
    Certificate, Usage, VerifiedCsr, X509Authority, X509Svid, verify_x509_svid,
};
use mintmark_identity::trust_domain::TrustDomain;

/// A text that parses prints as itself and can be rebuilt from its parts; all ways to parse agree.
pub fn spiffe_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.to_string(), text);
        assert!(text.len() <= 2_048 && text.is_ascii());
        assert!(id.path().is_empty() || id.path().starts_with('/'));
        let domain = TrustDomain::parse(id.trust_domain().as_str());
        assert_eq!(domain.as_ref(), Ok(id.trust_domain()));
        assert_eq!(
            SpiffeId::from_path(id.trust_domain(), id.path()).as_ref(),
            Ok(&id)
        );
        let segments: Vec<&str> = id.path().split('/').skip(1).collect();
        assert_eq!(
            SpiffeId::from_segments(id.trust_domain(), &segments).as_ref(),
            Ok(&id)
        );
        assert_eq!(
            TrustDomain::from_id_or_name(text).as_ref(),
            Ok(id.trust_domain())
        );
    }
    if let Ok(domain) = TrustDomain::parse(text) {
        assert_eq!(domain.as_str(), text);
        assert_eq!(SpiffeId::parse(domain.id().as_str()), Ok(domain.id()));
    }
    if let Ok(selector) = Selector::parse(text) {
        assert_eq!(selector.to_string(), text);
    }
    if let Ok(instant) = text.parse::<Timestamp>() {
        assert_eq!(instant.to_string().parse(), Ok(instant));
    }
}

/// What was read and is written again is read without loss; no key of a bundle is unusable.
pub fn bundle_document(data: &[u8]) {
    let Ok(domain) = TrustDomain::parse("example.org") else {
        return;
    };
    for read in [Bundle::from_document, Bundle::from_workload_api_jwks] {
        let Ok((bundle, _)) = read(&domain, data) else {
            continue;
        };
        let again = Bundle::from_document(&domain, &bundle.to_document());
        assert!(again.is_ok_and(|(again, skipped)| again == bundle && skipped.is_empty()));
        let anchors = X509Anchor::parse_concatenated(&bundle.x509_der_concat());
        assert!(anchors.is_ok_and(|anchors| anchors == bundle.x509));
        for key in bundle.jwt.iter().chain(&bundle.wit) {
            let parsed = JwtAuthority::parse(key.kid(), key.public_key_spki());
            assert_eq!(parsed.as_ref(), Ok(key));
        }
    }
    if let Ok((set, _)) = BundleSet::from_map_document(data) {
        let again = BundleSet::from_map_document(&set.to_map_document());
        assert!(again.is_ok_and(|(again, _)| again == set));
    }
}

/// No bytes are a token of a key that never signed one, and reading without a key agrees with
/// what a verifier would look at.
pub fn jwt_svid(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (Ok(audience), Ok(domain)) = (Audience::new(["a"]), TrustDomain::parse("example.org"))
    else {
        return;
    };
    // The key of RFC 7515 appendix A.3, whose private half signed no SPIFFE ID.
    let keys = br#"{"keys":[{"kty":"EC","crv":"P-256","use":"jwt-svid","kid":"k",
        "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    let Ok((bundle, _)) = Bundle::from_document(&domain, keys) else {
        return;
    };
    let bundles: BundleSet = [bundle].into_iter().collect();
    let now = Timestamp::from_unix_secs(1_800_000_000);
    assert!(verify_jwt_svid(text, &audience, &bundles, now, Duration::ZERO).is_err());
    if let Ok(svid) = UnverifiedJwtSvid::parse(text) {
        assert!(svid.spiffe_id.has_path() && !svid.kid.is_empty());
        assert_eq!(text.matches('.').count(), 2);
    }
}

/// Nothing verifies under an authority but what it signed; leaving the alternative signature out
/// of a certificate leaves everything else as it was; nothing panics.
pub fn x509_svid(data: &[u8]) {
    const ROOT: &[u8] = include_bytes!("../seeds/x509_svid/root");
    const LEAF: &[u8] = include_bytes!("../seeds/x509_svid/leaf");
    let (Ok(domain), Ok(anchor), Ok(leaf)) = (
        TrustDomain::parse("example.org"),
        X509Anchor::parse(ROOT),
        CertificateParts::parse(LEAF),
    ) else {
        panic!("the seeds are good");
    };
    let mut bundle = Bundle::empty(domain);
    bundle.x509.push(anchor);
    let bundles: BundleSet = [bundle].into_iter().collect();
    let now = Timestamp::from_unix_secs(1_795_518_000);
    let chain = [data.into()];
    let verified = verify_x509_svid(&chain, &bundles, now, Usage::Either);
    assert!(verified.is_ok() || data != LEAF, "{verified:?}");
    if verified.is_ok() {
        let tbs = CertificateParts::parse(data).map(|parts| parts.tbs.der);
        assert_eq!(tbs, Ok(leaf.tbs.der));
    }
    let _ = X509Anchor::parse(data);
    let _ = X509Authority::parse(data);
    assert!(X509Svid::parse(data, SecretBytes::new(Vec::new())).is_err());
    if let Ok(certificate) = Certificate::parse(data) {
        let tbs = &certificate.parts.tbs;
        let (Ok(without), Ok(_)) = (without_alternative_signature(tbs), pre_tbs(tbs)) else {
            panic!("what was read can be written");
        };
        if without.len() == tbs.der.len() {
            assert_eq!(without, tbs.der);
        }
        let again = TbsParts::parse(&without);
        assert!(
            again.is_ok_and(|again| without_alternative_signature(&again) == Ok(without.clone()))
        );
    }
}

/// A request that is accepted is for a key that may be certified; nothing panics.
pub fn csr(data: &[u8]) {
    if let Ok(csr) = VerifiedCsr::verify(data) {
        assert_eq!(AllowedKey::parse(csr.public_key_spki()), Ok(csr.key()));
    }
    let _ = AllowedKey::parse(data);
}
