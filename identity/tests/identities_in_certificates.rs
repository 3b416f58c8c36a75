//! The rules of SPIFFE-ID that show only where an ID stands in a certificate.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::sync::OnceLock;
use std::time::Duration;

use mintmark_identity::authority::AuthorityKey;
use mintmark_identity::bundle::{Bundle, BundleSet, X509Anchor};
use mintmark_identity::clock::Timestamp;
use mintmark_identity::entropy::SystemEntropy;
use mintmark_identity::key_manager::{KeyAlgorithm, SigningKey};
use mintmark_identity::spiffe_id::{SPIFFE_ID_MAX, SpiffeId};
use mintmark_identity::svid::x509::prepare::ProfileError;
use mintmark_identity::svid::x509::{
    CaSubject, Certificate, LeafRequest, LeafSubject, Serial, Usage, VerifiedX509Svid,
    X509Authority, X509SvidError, prepare_leaf, self_signed_authority, verify_x509_svid,
};
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_identity::validity::Validity;
use rustls_pki_types::CertificateDer;

const HOUR: Duration = Duration::from_secs(3_600);

/// An authority of one trust domain, and its key.
struct Root {
    domain: TrustDomain,
    key: AuthorityKey,
    certificate: Vec<u8>,
}

impl Root {
    fn of(name: &str) -> Self {
        let domain = TrustDomain::parse(name).unwrap();
        let key = AuthorityKey::generate(false).unwrap();
        let validity = Validity::issued_at(now(), 24 * HOUR);
        let serial = Serial::draw(&SystemEntropy);
        let subject = CaSubject::default();
        let certificate = self_signed_authority(&domain, &key, serial, validity, &subject).unwrap();
        Self {
            domain,
            key,
            certificate,
        }
    }

    fn bundle(&self) -> Bundle {
        let anchor = X509Anchor::parse(&self.certificate).unwrap();
        Bundle {
            x509: vec![anchor],
            ..Bundle::empty(self.domain.clone())
        }
    }

    fn leaf(&self, id: &SpiffeId) -> Result<Vec<u8>, ProfileError> {
        let workload = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
        let request = LeafRequest {
            spiffe_id: id.clone(),
            public_key_spki: workload.spki_der().to_vec(),
            serial: Serial::draw(&SystemEntropy),
            validity: Validity::issued_at(now(), HOUR),
            dns_names: Vec::new(),
            subject: LeafSubject::for_dns_names(&[]),
        };
        let authority = X509Authority::parse(&self.certificate).unwrap();
        Ok(prepare_leaf(&request, &authority)?.sign(&self.key).unwrap())
    }
}

fn root() -> &'static Root {
    static ROOT: OnceLock<Root> = OnceLock::new();
    ROOT.get_or_init(|| Root::of("example.org"))
}

fn now() -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000)
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn verify(leaf: &[u8], bundles: &BundleSet) -> Result<VerifiedX509Svid, X509SvidError> {
    verify_x509_svid(&[CertificateDer::from(leaf)], bundles, now(), Usage::Either)
}

fn own_bundle() -> BundleSet {
    [root().bundle()].into_iter().collect()
}

/// The only occurrence of `text` in `der`.
fn position(der: &[u8], text: &str) -> usize {
    let mut found = der
        .windows(text.len())
        .enumerate()
        .filter(|(_, w)| *w == text.as_bytes());
    let (at, _) = found.next().unwrap();
    assert!(found.next().is_none());
    at
}

#[test]
fn id_05_no_upper_case_stands_in_what_is_issued() {
    // The path may have upper case, and is the only part that keeps it.
    let leaf = root().leaf(&id("spiffe://example.org/Web")).unwrap();
    for (der, path) in [(&root().certificate, ""), (&leaf, "/Web")] {
        let certificate = Certificate::parse(der).unwrap();
        let [uri] = certificate.content.names.uris[..] else {
            panic!("one URI: {:?}", certificate.content.names.uris);
        };
        let rest = uri.strip_suffix(path).unwrap();
        assert!(!rest.contains(|c: char| c.is_ascii_uppercase()), "{uri}");
    }
    // Nothing spelt otherwise gets as far as an authority or a document.
    for spelt in ["Example.org", "EXAMPLE.ORG", "example.oRg"] {
        assert!(TrustDomain::parse(spelt).is_err(), "{spelt}");
        assert!(SpiffeId::parse(&format!("spiffe://{spelt}/w")).is_err());
    }
    let map: BundleSet = [root().bundle()].into_iter().collect();
    let document: serde_json::Value = serde_json::from_slice(&map.to_map_document()).unwrap();
    let domains = document["trust_domains"].as_object().unwrap();
    assert_eq!(domains.keys().collect::<Vec<_>>(), ["example.org"]);
}

#[test]
fn id_13_an_id_of_2048_bytes_goes_through_a_certificate() {
    for length in [SPIFFE_ID_MAX - 1, SPIFFE_ID_MAX] {
        let path = "a".repeat(length - "spiffe://example.org/".len());
        let long = id(&format!("spiffe://example.org/{path}"));
        let leaf = root().leaf(&long).unwrap();
        assert_eq!(verify(&leaf, &own_bundle()).unwrap().spiffe_id, long);
    }
}

/// Decision A-2: no trailing slash, although an example of the specification has one.
#[test]
fn id_16_an_authority_has_exactly_the_id_of_its_trust_domain() {
    let certificate = Certificate::parse(&root().certificate).unwrap();
    assert_eq!(certificate.content.names.uris, ["spiffe://example.org"]);
}

#[test]
fn id_17_an_authority_is_in_the_trust_domain_that_it_signs_for() {
    let certificate = Certificate::parse(&root().certificate).unwrap();
    let own = id(certificate.content.names.uris[0]);
    assert!(own.is_member_of(&root().domain));
    let foreign = root().leaf(&id("spiffe://other.test/w"));
    assert!(
        matches!(foreign, Err(ProfileError::ForeignTrustDomain(_))),
        "{foreign:?}"
    );
}

#[test]
fn id_18_the_id_of_an_authority_has_no_path() {
    let certificate = Certificate::parse(&root().certificate).unwrap();
    assert!(!id(certificate.content.names.uris[0]).has_path());
}

#[test]
fn id_19_a_changed_bit_of_name_or_key_is_noticed() {
    let leaf = root().leaf(&id("spiffe://example.org/w")).unwrap();
    let good = verify(&leaf, &own_bundle()).unwrap();
    let flip = |at: usize, bit: u8| {
        let mut changed = leaf.clone();
        changed[at] ^= bit;
        verify(&changed, &own_bundle())
    };
    // "/w" becomes "/v": still a good SPIFFE ID, but not what was signed.
    let name = position(&leaf, "spiffe://example.org/w") + "spiffe://example.org/".len();
    assert!(
        matches!(flip(name, 1), Err(X509SvidError::Signature)),
        "{:?}",
        flip(name, 1)
    );
    let key = leaf
        .windows(good.public_key_spki.len())
        .position(|window| window == good.public_key_spki)
        .unwrap();
    assert!(flip(key + good.public_key_spki.len() - 1, 1).is_err());
}

#[test]
fn id_20_a_certificate_without_a_spiffe_id_is_no_svid() {
    let web = rcgen::generate_simple_self_signed(["web.example.org".to_owned()]).unwrap();
    let refused = verify(web.cert.der(), &own_bundle());
    assert_eq!(refused, Err(X509SvidError::NoSpiffeId));
    assert!(matches!(
        verify(b"ssh-ed25519-cert", &own_bundle()),
        Err(X509SvidError::Leaf(_))
    ));
}

#[test]
fn id_n3_a_leaf_is_verified_by_the_bundle_of_its_own_domain_only() {
    // The same name, but another trust domain's operator made this authority.
    let impostor = Root::of("example.org");
    let confused = Bundle {
        trust_domain: TrustDomain::parse("other.test").unwrap(),
        ..impostor.bundle()
    };
    let both: BundleSet = [root().bundle(), confused].into_iter().collect();
    let leaf = impostor.leaf(&id("spiffe://example.org/w")).unwrap();
    assert!(verify(&leaf, &both).is_err());
    assert!(verify(&root().leaf(&id("spiffe://example.org/w")).unwrap(), &both).is_ok());
}

#[test]
fn id_n4_an_authority_asserts_only_about_its_own_domain() {
    for foreign in ["spiffe://other.test/x", "spiffe://example.org.evil.test/x"] {
        let refused = root().leaf(&id(foreign));
        assert!(
            matches!(refused, Err(ProfileError::ForeignTrustDomain(_))),
            "{foreign}"
        );
    }
}

#[test]
fn id_n6_a_leaf_for_a_trust_domain_is_not_issued() {
    let refused = root().leaf(&root().domain.id());
    assert!(
        matches!(refused, Err(ProfileError::RootPath)),
        "{refused:?}"
    );
}
