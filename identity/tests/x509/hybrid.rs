//! Alternative signatures: those that hold, and every way around them that must not.

use der::Encode as _;
use der::asn1::BitString;
use mintmark_identity::authority::AuthorityKey;
use mintmark_identity::bundle::X509Anchor;
use mintmark_identity::hybrid::pretbs::{pre_tbs, without_alternative_signature};
use mintmark_identity::hybrid::verify::verify_alternative;
use mintmark_identity::hybrid::{
    ALT_SIGNATURE_ALGORITHM, ALT_SIGNATURE_VALUE, HybridError, SUBJECT_ALT_PUBLIC_KEY_INFO,
};
use mintmark_identity::key_manager::{KeyAlgorithm, SigningKey};
use mintmark_identity::svid::x509::prepare::{IntermediateRequest, prepare_intermediate};
use mintmark_identity::svid::x509::structure::{
    CertificateError, CertificateParts, PublicKeyParts, TbsParts,
};
use mintmark_identity::svid::x509::{
    CaSubject, Certificate, LeafSubject, Usage, VerifiedX509Svid, X509Authority, X509SvidError,
    prepare_leaf, verify_x509_svid,
};
use mintmark_identity::validity::Validity;
use proptest::prelude::*;

use crate::handshake::Judge;
use crate::pki::*;

const ML_DSA_44: &str = "2.16.840.1.101.3.4.3.17";
const ML_DSA_65: &str = "2.16.840.1.101.3.4.3.18";

fn ml_dsa() -> SigningKey {
    SigningKey::generate(KeyAlgorithm::MlDsa65).unwrap()
}

fn algorithm(which: &str) -> Vec<u8> {
    sequence(&[&oid(which).to_der().unwrap()])
}

fn named(which: &str) -> Vec<u8> {
    extension("2.5.29.73", false, &algorithm(which))
}

fn value(signature: &[u8]) -> Vec<u8> {
    let bits = BitString::from_bytes(signature).unwrap().to_der().unwrap();
    extension("2.5.29.74", false, &bits)
}

/// A hybrid authority and a key for leaves.
struct World {
    authority: Authority,
    leaf_key: SigningKey,
    judge: Judge,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new("example.org", true);
        let judge = Judge::new(bundles([authority.bundle()]));
        Self {
            authority,
            leaf_key: p256(),
            judge,
        }
    }

    fn alternative(&self) -> &SigningKey {
        self.authority.key.alternative().unwrap()
    }

    /// A leaf that we would issue, but for extension 74.
    fn unsigned(&self) -> Forge {
        Forge::leaf("spiffe://example.org/w", &self.leaf_key).with(named(ML_DSA_65))
    }

    fn pre_tbs(&self, leaf: &Forge) -> Vec<u8> {
        let tbs = leaf.tbs(self.authority.certificate.subject());
        pre_tbs(&TbsParts::parse(&tbs).unwrap()).unwrap()
    }

    /// `leaf` with an alternative signature by `key`, natively signed by the authority.
    fn sign(&self, leaf: &Forge, key: &SigningKey) -> Vec<u8> {
        let signature = key.sign(&self.pre_tbs(leaf)).unwrap();
        leaf.clone()
            .with(value(&signature))
            .sign_by(&self.authority)
    }

    fn judge(&self, certificates: &[&[u8]]) -> Result<VerifiedX509Svid, X509SvidError> {
        self.judge.verify(&chain(certificates), &self.leaf_key)
    }

    fn refuses(&self, leaf: &[u8], why: HybridError) {
        assert_eq!(self.judge(&[leaf]), Err(X509SvidError::Hybrid(why)));
    }
}

#[test]
fn a_leaf_with_both_signatures_is_accepted_and_known_as_hybrid() {
    let world = World::new();
    let forged = world.sign(&world.unsigned(), world.alternative());
    assert!(world.judge(&[&forged]).unwrap().hybrid);
    let issued = world.authority.issue("/w", &world.leaf_key);
    assert!(world.judge(&[&issued]).unwrap().hybrid);
}

#[test]
fn the_three_extensions_stand_where_they_should_and_are_not_critical() {
    let world = World::new();
    let leaf = world.authority.issue("/w", &world.leaf_key);
    let extensions = |der: &[u8]| -> Vec<(String, bool)> {
        let parts = CertificateParts::parse(der).unwrap();
        let extensions = parts.tbs.extensions.iter();
        extensions
            .map(|e| (e.oid.to_string(), e.critical))
            .collect()
    };
    let plain = |which: &str| (which.to_owned(), false);
    let authority = extensions(world.authority.certificate.certificate_der());
    let expected = [plain("2.5.29.72"), plain("2.5.29.73"), plain("2.5.29.74")];
    assert!(authority.ends_with(&expected), "{authority:?}");
    let leaf = extensions(&leaf);
    assert!(leaf.ends_with(&expected[1..]), "{leaf:?}");
    assert!(
        !leaf.contains(&expected[0]),
        "a leaf has no alternative key"
    );
}

#[test]
fn the_authority_proves_possession_of_its_alternative_key() {
    let world = World::new();
    let der = world.authority.certificate.certificate_der();
    let parts = CertificateParts::parse(der).unwrap();
    let spki = world.authority.certificate.alternative_spki().unwrap();
    verify_alternative(&parts, spki).unwrap();
}

#[test]
fn a_stripped_leaf_is_refused() {
    let world = World::new();
    // A forger who has the native key makes a classical leaf.
    let classical = Forge::leaf("spiffe://example.org/w", &world.leaf_key);
    let leaf = classical.sign_by(&world.authority);
    world.refuses(
        &leaf,
        HybridError::Missing {
            oid: ALT_SIGNATURE_ALGORITHM,
        },
    );
    let half = world.unsigned().sign_by(&world.authority);
    world.refuses(
        &half,
        HybridError::Missing {
            oid: ALT_SIGNATURE_VALUE,
        },
    );
    let good = world.sign(&world.unsigned(), world.alternative());
    let good = Certificate::parse(&good).unwrap();
    let signature = good
        .parts
        .tbs
        .extension(ALT_SIGNATURE_VALUE)
        .unwrap()
        .der
        .to_vec();
    let other_half = classical.with(signature).sign_by(&world.authority);
    world.refuses(
        &other_half,
        HybridError::Missing {
            oid: ALT_SIGNATURE_ALGORITHM,
        },
    );
}

#[test]
fn an_alternative_signature_that_was_altered_and_natively_signed_again_is_refused() {
    let world = World::new();
    let leaf = world.unsigned();
    let signature = world.alternative().sign(&world.pre_tbs(&leaf)).unwrap();
    for position in [0, 1_000, signature.len() - 1] {
        let mut altered = signature.clone();
        altered[position] ^= 1;
        let der = leaf.clone().with(value(&altered)).sign_by(&world.authority);
        world.refuses(&der, HybridError::Mismatch);
    }
    // The other way round: another leaf under the same alternative signature.
    let other = Forge::leaf("spiffe://example.org/admin", &world.leaf_key);
    let other = other.with(named(ML_DSA_65)).with(value(&signature));
    world.refuses(&other.sign_by(&world.authority), HybridError::Mismatch);
}

#[test]
fn an_alternative_signature_over_the_whole_tbs_is_refused() {
    let world = World::new();
    let leaf = world.unsigned();
    let tbs = leaf.tbs(world.authority.certificate.subject());
    assert_ne!(tbs, world.pre_tbs(&leaf));
    let signature = world.alternative().sign(&tbs).unwrap();
    let der = leaf.with(value(&signature)).sign_by(&world.authority);
    world.refuses(&der, HybridError::Mismatch);
}

#[test]
fn an_alternative_signature_by_another_issuer_is_refused() {
    let world = World::new();
    let der = world.sign(&world.unsigned(), &ml_dsa());
    world.refuses(&der, HybridError::Mismatch);
}

#[test]
fn the_algorithm_must_be_that_of_the_issuers_key() {
    let world = World::new();
    let leaf = Forge::leaf("spiffe://example.org/w", &world.leaf_key);
    let other = leaf.clone().with(named(ML_DSA_44));
    let der = world.sign(&other, world.alternative());
    world.refuses(&der, HybridError::AlgorithmMismatch);
    // The right algorithm with parameters, which RFC 9881 forbids.
    let null = sequence(&[&oid(ML_DSA_65).to_der().unwrap(), &[5, 0]]);
    let with_parameters = leaf.with(extension("2.5.29.73", false, &null));
    let der = world.sign(&with_parameters, world.alternative());
    world.refuses(&der, HybridError::AlgorithmMismatch);
}

#[test]
fn an_alternative_signature_of_the_wrong_shape_is_refused() {
    let world = World::new();
    let leaf = world.unsigned();
    let malformed = || HybridError::Malformed {
        oid: ALT_SIGNATURE_VALUE,
    };
    let signature = world.alternative().sign(&world.pre_tbs(&leaf)).unwrap();
    let mut longer = signature.clone();
    longer.push(0);
    for wrong in [&signature[1..], &longer, &[]] {
        let der = leaf.clone().with(value(wrong)).sign_by(&world.authority);
        world.refuses(&der, malformed());
    }
    let octets = der::asn1::OctetStringRef::new(&signature)
        .unwrap()
        .to_der()
        .unwrap();
    let unused = BitString::new(1, vec![0x80]).unwrap().to_der().unwrap();
    for wrong in [octets, unused, Vec::new()] {
        let wrong = extension("2.5.29.74", false, &wrong);
        let der = leaf.clone().with(wrong).sign_by(&world.authority);
        world.refuses(&der, malformed());
    }
}

#[test]
fn a_doubled_alternative_signature_is_refused() {
    let world = World::new();
    let leaf = world.unsigned();
    let signature = value(&world.alternative().sign(&world.pre_tbs(&leaf)).unwrap());
    let der = leaf
        .with(signature.clone())
        .with(signature)
        .sign_by(&world.authority);
    let oid = ALT_SIGNATURE_VALUE;
    let doubled = X509SvidError::Leaf(CertificateError::DuplicateExtension { oid });
    assert_eq!(world.judge(&[&der]), Err(doubled));
}

#[test]
fn critical_extensions_are_refused() {
    let world = World::new();
    let critical = extension("2.5.29.73", true, &algorithm(ML_DSA_65));
    let leaf = Forge::leaf("spiffe://example.org/w", &world.leaf_key).with(critical);
    let der = world.sign(&leaf, world.alternative());
    // The path builder, which does not know the extension, is the first to refuse it …
    assert!(matches!(world.judge(&[&der]), Err(X509SvidError::Path(_))));
    // … and the check of the alternative signature would, too.
    let spki = world.authority.certificate.alternative_spki().unwrap();
    let parts = CertificateParts::parse(&der).unwrap();
    let oid = ALT_SIGNATURE_ALGORITHM;
    assert_eq!(
        verify_alternative(&parts, spki),
        Err(HybridError::Critical { oid })
    );
}

#[test]
fn below_a_hybrid_anchor_every_intermediate_is_hybrid() {
    let world = World::new();
    let native = p256();
    let alternative = ml_dsa();
    let key = AuthorityKey::from_keys(native, Some(alternative)).unwrap();
    let request = IntermediateRequest {
        trust_domain: td("example.org"),
        public_key_spki: key.native().spki_der().to_vec(),
        alternative_spki: key.alternative().map(|key| key.spki_der().to_vec()),
        serial: serial(),
        validity: Validity::issued_at(NOW, HOUR),
        subject: CaSubject::default(),
    };
    let prepared = prepare_intermediate(&request, &world.authority.certificate).unwrap();
    let intermediate = prepared.sign(&world.authority.key).unwrap();
    let issuer = X509Authority::parse(&intermediate).unwrap();
    let below = |spiffe_id: &str| mintmark_identity::svid::x509::LeafRequest {
        spiffe_id: id(spiffe_id),
        public_key_spki: world.leaf_key.spki_der().to_vec(),
        serial: serial(),
        validity: Validity::issued_at(NOW, HOUR),
        dns_names: Vec::new(),
        subject: LeafSubject::default(),
    };
    let prepared = prepare_leaf(&below("spiffe://example.org/w"), &issuer).unwrap();
    let leaf = prepared.sign(&key).unwrap();
    let verified = world.judge(&[&leaf, &intermediate]).unwrap();
    assert!(verified.hybrid);
    assert_eq!(verified.authority_id, issuer.id());

    // A leaf that the intermediate signed natively only.
    let classical = Forge::leaf("spiffe://example.org/w", &world.leaf_key);
    let leaf = classical.sign(issuer.subject(), key.native());
    let missing = HybridError::Missing {
        oid: ALT_SIGNATURE_ALGORITHM,
    };
    assert_eq!(
        world.judge(&[&leaf, &intermediate]),
        Err(X509SvidError::Hybrid(missing.clone()))
    );

    // A forged intermediate without alternative signature, and one without alternative key.
    let forged_key = p256();
    let forged = Forge::ca("intermediate", &forged_key);
    let leaf = classical.sign(&forged.subject, &forged_key);
    let stripped = forged.sign_by(&world.authority);
    assert_eq!(
        world.judge(&[&leaf, &stripped]),
        Err(X509SvidError::Hybrid(missing))
    );
    let keyless = world.sign(&forged.with(named(ML_DSA_65)), world.alternative());
    assert_eq!(
        world.judge(&[&leaf, &keyless]),
        Err(X509SvidError::Hybrid(HybridError::IntermediateWithoutKey))
    );
}

#[test]
fn of_two_anchors_with_one_name_and_key_the_classical_one_is_no_way_around() {
    let world = World::new();
    let spki = world.authority.certificate.spki();
    let mut twin = Forge::ca("twin", world.authority.key.native());
    twin.subject = world.authority.certificate.subject().to_vec();
    assert_eq!(twin.spki, spki);
    let twin = X509Anchor::parse(&twin.self_sign(world.authority.key.native())).unwrap();
    let classical = Forge::leaf("spiffe://example.org/w", &world.leaf_key);
    let classical = chain(&[&classical.sign_by(&world.authority)]);
    let good = chain(&[&world.authority.issue("/w", &world.leaf_key)]);
    for anchors in [
        vec![world.authority.anchor(), twin.clone()],
        vec![twin.clone(), world.authority.anchor()],
    ] {
        let judge = Judge::new(bundles([bundle("example.org", anchors)]));
        let missing = HybridError::Missing {
            oid: ALT_SIGNATURE_ALGORITHM,
        };
        let verdict = judge.verify(&classical, &world.leaf_key);
        assert_eq!(verdict, Err(X509SvidError::Hybrid(missing)));
        assert!(judge.verify(&good, &world.leaf_key).unwrap().hybrid);
    }
    // The classical one alone demands nothing: who removes 72 has changed the bundle.
    let judge = Judge::new(bundles([bundle("example.org", vec![twin])]));
    assert!(!judge.verify(&classical, &world.leaf_key).unwrap().hybrid);
}

#[test]
fn a_trust_domain_can_refuse_its_classical_anchors_while_they_are_still_there() {
    let world = World::new();
    let old = Authority::new("example.org", false);
    let both = bundle("example.org", vec![old.anchor(), world.authority.anchor()]);
    let mut judge = Judge::new(bundles([both]));
    let by_old = chain(&[&old.issue("/w", &world.leaf_key)]);
    let by_new = chain(&[&world.authority.issue("/w", &world.leaf_key)]);
    assert!(!judge.verify(&by_old, &world.leaf_key).unwrap().hybrid);
    assert!(judge.verify(&by_new, &world.leaf_key).unwrap().hybrid);
    judge.policy.pq_required.insert(td("example.org"));
    let without = X509SvidError::Hybrid(HybridError::AnchorWithoutKey);
    assert_eq!(judge.verify(&by_old, &world.leaf_key), Err(without));
    assert!(judge.verify(&by_new, &world.leaf_key).unwrap().hybrid);
    // Other trust domains are not concerned.
    judge.policy.pq_required = [td("other.test")].into();
    assert!(judge.verify(&by_old, &world.leaf_key).is_ok());
}

#[test]
fn an_anchor_whose_alternative_key_cannot_be_used_is_no_anchor() {
    let key = p256();
    let with = |value: &[u8]| {
        let anchor = Forge::ca("root", &key).with(extension("2.5.29.72", false, value));
        X509Anchor::parse(&anchor.self_sign(&key)).is_ok()
    };
    assert!(with(ml_dsa().spki_der()));
    assert!(!with(&[0x30, 0x00]), "malformed must not pass for absent");
    assert!(!with(p256().spki_der()), "of an unknown kind");
}

#[test]
fn changing_any_byte_of_a_hybrid_leaf_is_noticed() {
    let world = World::new();
    let good = world.authority.issue("/w", &world.leaf_key);
    let verify =
        |der: &[u8]| verify_x509_svid(&chain(&[der]), &world.judge.bundles, NOW, Usage::Either);
    assert!(verify(&good).is_ok());
    for position in (0..good.len()).step_by(41) {
        let mut altered = good.clone();
        altered[position] ^= 1;
        assert!(verify(&altered).is_err(), "byte {position}");
    }
}

#[test]
fn both_halves_verify_with_independent_implementations() {
    use ml_dsa::signature::Verifier as _;
    use ml_dsa::{EncodedVerifyingKey, MlDsa65, Signature, VerifyingKey};
    use p256::ecdsa::DerSignature;

    let world = World::new();
    let leaf = world.authority.issue("/w", &world.leaf_key);
    let root = world.authority.certificate.certificate_der();
    for der in [&leaf, root] {
        let parts = CertificateParts::parse(der).unwrap();
        let native = PublicKeyParts::parse(world.authority.certificate.spki())
            .unwrap()
            .key;
        let native = p256::ecdsa::VerifyingKey::from_sec1_bytes(native).unwrap();
        let signature = DerSignature::from_bytes(parts.signature).unwrap();
        native.verify(parts.tbs.der, &signature).unwrap();

        let spki = world.authority.certificate.alternative_spki().unwrap();
        let key = PublicKeyParts::parse(spki).unwrap().key;
        let key = EncodedVerifyingKey::<MlDsa65>::try_from(key).unwrap();
        let key = VerifyingKey::<MlDsa65>::decode(&key);
        let bits = parts.tbs.extension(ALT_SIGNATURE_VALUE).unwrap().value;
        let bits = <BitString as der::Decode>::from_der(bits).unwrap();
        let signature = Signature::<MlDsa65>::try_from(bits.as_bytes().unwrap()).unwrap();
        let message = pre_tbs_again(der);
        key.verify(&message, &signature).unwrap();
        assert!(key.verify(&message[1..], &signature).is_err());
    }
}

/// The preTBSCertificate by other means: decoded by `x509-cert` and put together field by field.
fn pre_tbs_again(certificate: &[u8]) -> Vec<u8> {
    let certificate = <x509_cert::Certificate as der::Decode>::from_der(certificate).unwrap();
    let tbs = certificate.tbs_certificate();
    let kept = tbs.extensions().unwrap().iter();
    let kept: Vec<_> = kept
        .filter(|e| e.extn_id != ALT_SIGNATURE_VALUE)
        .cloned()
        .collect();
    sequence(&[
        &[0xa0, 3, 2, 1, 2],
        &tbs.serial_number().to_der().unwrap(),
        &tbs.issuer().to_der().unwrap(),
        &tbs.validity().to_der().unwrap(),
        &tbs.subject().to_der().unwrap(),
        &tbs.subject_public_key_info().to_der().unwrap(),
        &tlv(
            der::TagNumber(3).context_specific(true),
            &[&kept.to_der().unwrap()],
        ),
    ])
}

#[test]
fn unaware_verifiers_see_a_normal_certificate() {
    let world = World::new();
    let leaf = chain(&[&world.authority.issue("/w", &world.leaf_key)]);
    let root = chain(&[world.authority.certificate.certificate_der()]);
    let anchor = webpki::anchor_from_trusted_cert(&root[0]).unwrap();
    let leaf = webpki::EndEntityCert::try_from(&leaf[0]).unwrap();
    let seconds = u64::try_from(NOW.unix_secs()).unwrap();
    let now = rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let usage = webpki::KeyUsage::server_auth();
    let algorithms = [webpki::aws_lc_rs::ECDSA_P256_SHA256];
    leaf.verify_for_usage(&algorithms, &[anchor], &[], now, usage, None, None)
        .unwrap();
}

#[test]
fn extension_72_is_the_key_as_rfc_9881_writes_it() {
    let world = World::new();
    let der = world.authority.certificate.certificate_der();
    let parts = CertificateParts::parse(der).unwrap();
    let value = parts
        .tbs
        .extension(SUBJECT_ALT_PUBLIC_KEY_INFO)
        .unwrap()
        .value;
    let key = PublicKeyParts::parse(value).unwrap();
    assert_eq!(key.algorithm, algorithm(ML_DSA_65));
    assert_eq!(key.key, world.alternative().raw_public_key());
    assert_eq!(key.key.len(), 1_952);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_signed_is_found_again_in_any_certificate(
        path in "(/[a-z0-9]{1,20}){1,4}",
        dns_names in proptest::collection::vec("[a-z]{1,10}\\.[a-z]{2,5}", 0..5),
        life in 1_u64..3_600,
        empty_subject in any::<bool>(),
    ) {
        let world = World::new();
        let mut request = world.authority.request(&path, &world.leaf_key);
        request.validity = Validity::issued_at(NOW, std::time::Duration::from_secs(life));
        if !empty_subject {
            request.subject = LeafSubject::for_dns_names(&dns_names);
        } else {
            request.subject = LeafSubject::empty();
        }
        request.dns_names = dns_names;
        let prepared = prepare_leaf(&request, &world.authority.certificate).unwrap();
        let committed = prepared.bytes().to_vec();
        let signed_bytes = pre_tbs(&TbsParts::parse(&committed).unwrap()).unwrap();
        let leaf = prepared.sign(&world.authority.key).unwrap();
        let parts = CertificateParts::parse(&leaf).unwrap();
        prop_assert_eq!(pre_tbs(&parts.tbs).unwrap(), &signed_bytes[..]);
        prop_assert_eq!(pre_tbs_again(&leaf), signed_bytes);
        prop_assert_eq!(without_alternative_signature(&parts.tbs).unwrap(), committed);
        let chain = chain(&[&leaf]);
        let verified = verify_x509_svid(&chain, &world.judge.bundles, NOW, Usage::Either);
        prop_assert_eq!(verified.unwrap().spiffe_id, request.spiffe_id);
    }
}
