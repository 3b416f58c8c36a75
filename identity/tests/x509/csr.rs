//! Certificate signing requests: possession proved, limits before cryptography, names ignored.

use der::Encode as _;
use der::asn1::BitString;
use mintmark_identity::key_manager::{KeyAlgorithm, SigningKey};
use mintmark_identity::svid::x509::VerifiedCsr;
use mintmark_identity::svid::x509::certificate::Certificate;
use mintmark_identity::svid::x509::csr::{AllowedKey, CSR_MAX, CsrError, KeyRefused};
use mintmark_identity::svid::x509::structure::CertificateParts;
use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

use crate::pki::*;

fn tag(number: u32, constructed: bool) -> der::Tag {
    der::TagNumber(number).context_specific(constructed)
}

fn request(change: impl FnOnce(&mut CertificateParams), key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

fn rcgen_key(algorithm: &'static rcgen::SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

/// A request put together by hand.
struct Forgery {
    version: Vec<u8>,
    spki: Vec<u8>,
    attributes: Vec<Vec<u8>>,
    algorithm: Vec<u8>,
}

impl Forgery {
    fn new(key: &SigningKey) -> Self {
        Self {
            version: vec![2, 1, 0],
            spki: key.spki_der().to_vec(),
            attributes: Vec::new(),
            algorithm: ecdsa_sha256(),
        }
    }

    fn info(&self) -> Vec<u8> {
        let attributes: Vec<&[u8]> = self.attributes.iter().map(Vec::as_slice).collect();
        let attributes = tlv(tag(0, true), &attributes);
        sequence(&[&self.version, &sequence(&[]), &self.spki, &attributes])
    }

    fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let info = self.info();
        let signature = BitString::from_bytes(&key.sign(&info).unwrap()).unwrap();
        sequence(&[&info, &self.algorithm, &signature.to_der().unwrap()])
    }
}

#[test]
fn requests_with_keys_that_we_certify_are_accepted() {
    for (algorithm, expected) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, AllowedKey::EcP256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, AllowedKey::EcP384),
        (&rcgen::PKCS_RSA_SHA256, AllowedKey::Rsa { bits: 2_048 }),
    ] {
        let key = rcgen_key(algorithm);
        let csr = VerifiedCsr::verify(&request(|_| {}, &key)).unwrap();
        assert_eq!(csr.key(), expected);
        assert_eq!(
            csr.public_key_spki(),
            rcgen::PublicKeyData::subject_public_key_info(&key)
        );
    }
}

#[test]
fn keys_of_other_kinds_are_refused() {
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P521_SHA512] {
        let verdict = VerifiedCsr::verify(&request(|_| {}, &rcgen_key(algorithm)));
        assert_eq!(verdict.unwrap_err(), CsrError::Key(KeyRefused::Algorithm));
    }
}

#[test]
fn names_are_shown_and_nothing_more() {
    let key = rcgen_key(&rcgen::PKCS_ECDSA_P256_SHA256);
    let der = request(
        |params| {
            params.distinguished_name.push(DnType::CommonName, "root");
            params.subject_alt_names = vec![
                SanType::URI("spiffe://example.org/admin".try_into().unwrap()),
                SanType::DnsName("admin.example.org".try_into().unwrap()),
                SanType::IpAddress([127, 0, 0, 1].into()),
            ];
            params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        },
        &key,
    );
    let csr = VerifiedCsr::verify(&der).unwrap();
    let asked = csr.requested();
    assert!(asked.subject.contains("CN=root"), "{}", asked.subject);
    assert_eq!(asked.uris, ["spiffe://example.org/admin"]);
    assert_eq!(asked.dns_names, ["admin.example.org"]);
    assert_eq!(asked.others, 1);
    assert!(
        asked.extensions.contains(&oid("2.5.29.15")),
        "asks for keyUsage"
    );
}

#[test]
fn x509_16_a_request_for_keycertsign_is_not_honoured() {
    let key = rcgen_key(&rcgen::PKCS_ECDSA_P256_SHA256);
    let der = request(
        |params| {
            params.key_usages = vec![
                rcgen::KeyUsagePurpose::KeyCertSign,
                rcgen::KeyUsagePurpose::CrlSign,
            ];
        },
        &key,
    );
    let csr = VerifiedCsr::verify(&der).unwrap();
    let authority = Authority::new("example.org", false);
    let mut request = authority.request("/w", &p256());
    request.public_key_spki = csr.public_key_spki().to_vec();
    let prepared =
        mintmark_identity::svid::x509::prepare_leaf(&request, &authority.certificate).unwrap();
    let leaf = prepared.sign(&authority.key).unwrap();
    let usage = Certificate::parse(&leaf)
        .unwrap()
        .content
        .key_usage
        .unwrap();
    assert!(!usage.key_cert_sign() && !usage.crl_sign());
}

#[test]
fn possession_must_be_proved() {
    let key = p256();
    let good = Forgery::new(&key);
    assert!(VerifiedCsr::verify(&good.sign(&key)).is_ok());
    let stolen = good.sign(&p256());
    assert_eq!(
        VerifiedCsr::verify(&stolen).unwrap_err(),
        CsrError::Signature
    );
    let mut altered = good.sign(&key);
    let last = altered.len() - 1;
    altered[last] ^= 1;
    assert!(VerifiedCsr::verify(&altered).is_err());
    // The signature of one request under the contents of another.
    let mut other = Forgery::new(&key);
    other.attributes.push(sequence(&[
        &oid("1.2.3").to_der().unwrap(),
        &tlv(der::Tag::Set, &[]),
    ]));
    let donor = other.sign(&key);
    let mut reader = der::SliceReader::new(&donor).unwrap();
    let signature = der::Reader::sequence(&mut reader, |reader| {
        der::Reader::tlv_bytes(reader)?;
        der::Reader::tlv_bytes(reader)?;
        der::Reader::tlv_bytes(reader)
    })
    .unwrap();
    let swapped = sequence(&[&good.info(), &good.algorithm, signature]);
    assert_eq!(
        VerifiedCsr::verify(&swapped).unwrap_err(),
        CsrError::Signature
    );
}

#[test]
fn the_signature_algorithm_must_fit_the_key_and_be_safe() {
    let key = p256();
    for other in ["1.2.840.10045.4.1", "1.2.840.113549.1.1.5", "1.3.101.112"] {
        let mut forgery = Forgery::new(&key);
        forgery.algorithm = sequence(&[&oid(other).to_der().unwrap()]);
        let verdict = VerifiedCsr::verify(&forgery.sign(&key));
        assert_eq!(
            verdict.unwrap_err(),
            CsrError::SignatureAlgorithm,
            "{other}"
        );
    }
}

#[test]
fn size_shape_and_number_are_limited() {
    let key = p256();
    let mut forgery = Forgery::new(&key);
    let attribute = sequence(&[&oid("1.2.3").to_der().unwrap(), &tlv(der::Tag::Set, &[])]);
    forgery.attributes = vec![attribute.clone(); 16];
    assert!(VerifiedCsr::verify(&forgery.sign(&key)).is_ok());
    forgery.attributes = vec![attribute; 17];
    let verdict = VerifiedCsr::verify(&forgery.sign(&key));
    assert_eq!(verdict.unwrap_err(), CsrError::TooManyAttributes);

    let length = CSR_MAX + 1;
    let verdict = VerifiedCsr::verify(&vec![0x30; length]);
    assert_eq!(verdict.unwrap_err(), CsrError::TooLarge { length });

    let mut forgery = Forgery::new(&key);
    let mut trailing = forgery.sign(&key);
    trailing.push(0);
    assert!(matches!(
        VerifiedCsr::verify(&trailing),
        Err(CsrError::Malformed(_))
    ));
    forgery.version = vec![2, 1, 1];
    assert!(matches!(
        VerifiedCsr::verify(&forgery.sign(&key)),
        Err(CsrError::Malformed(_))
    ));
    for garbage in [
        &b""[..],
        b"\x30\x00",
        b"-----BEGIN CERTIFICATE REQUEST-----",
    ] {
        assert!(matches!(
            VerifiedCsr::verify(garbage),
            Err(CsrError::Malformed(_))
        ));
    }
}

#[test]
fn requested_extensions_that_cannot_be_read_are_refused() {
    let key = p256();
    let mut forgery = Forgery::new(&key);
    let twice = sequence(&[&san(&[dns("a")]), &san(&[dns("b")])]);
    let wish = oid("1.2.840.113549.1.9.14").to_der().unwrap();
    forgery.attributes = vec![sequence(&[&wish, &tlv(der::Tag::Set, &[&twice])])];
    let verdict = VerifiedCsr::verify(&forgery.sign(&key));
    assert!(
        matches!(verdict, Err(CsrError::Extensions(_))),
        "{verdict:?}"
    );
}

fn rsa(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let number = |bytes: &[u8]| der::asn1::UintRef::new(bytes).unwrap().to_der().unwrap();
    let key = sequence(&[&number(modulus), &number(exponent)]);
    let bits = BitString::from_bytes(&key).unwrap().to_der().unwrap();
    let algorithm = sequence(&[&oid("1.2.840.113549.1.1.1").to_der().unwrap(), &[5, 0]]);
    sequence(&[&algorithm, &bits])
}

#[test]
fn rsa_keys_are_measured_before_they_are_used() {
    let number = |bits: usize| {
        let mut bytes = vec![0xff; bits / 8];
        bytes[0] = 0x80;
        bytes
    };
    let parse = |bits, exponent: &[u8]| AllowedKey::parse(&rsa(&number(bits), exponent));
    for bits in [2_048, 3_072, 4_096] {
        assert_eq!(parse(bits, &[1, 0, 1]), Ok(AllowedKey::Rsa { bits }));
    }
    for bits in [1_024, 2_040, 4_104, 65_536] {
        assert_eq!(parse(bits, &[1, 0, 1]), Err(KeyRefused::RsaSize { bits }));
    }
    let mut short = number(2_048);
    short[0] = 0x7f;
    assert_eq!(
        AllowedKey::parse(&rsa(&short, &[1, 0, 1])),
        Err(KeyRefused::RsaSize { bits: 2_047 })
    );
    for exponent in [&[1][..], &[2], &[1, 0, 0], &[1, 0, 0, 0, 1]] {
        assert_eq!(
            parse(2_048, exponent),
            Err(KeyRefused::RsaExponent),
            "{exponent:?}"
        );
    }
    assert!(parse(2_048, &[3]).is_ok());
}

#[test]
fn points_must_be_whole_and_on_the_curve() {
    let key = p256();
    let parse = |raw: &[u8]| {
        let curve = [
            oid("1.2.840.10045.2.1").to_der().unwrap(),
            oid("1.2.840.10045.3.1.7").to_der().unwrap(),
        ];
        let bits = BitString::from_bytes(raw).unwrap().to_der().unwrap();
        sequence(&[&sequence(&[&curve[0], &curve[1]]), &bits])
    };
    let point = key.raw_public_key();
    assert_eq!(AllowedKey::parse(&parse(point)), Ok(AllowedKey::EcP256));
    let mut compressed = vec![2];
    compressed.extend_from_slice(&point[1..33]);
    for wrong in [&point[..64], &compressed, &[0], &[]] {
        assert_eq!(AllowedKey::parse(&parse(wrong)), Err(KeyRefused::Malformed));
    }
    let mut off = point.to_vec();
    off[64] ^= 1;
    let mut forgery = Forgery::new(&key);
    forgery.spki = parse(&off);
    assert_eq!(
        VerifiedCsr::verify(&forgery.sign(&key)).unwrap_err(),
        CsrError::Signature
    );
}

#[test]
fn a_request_signed_by_an_ml_dsa_key_is_refused_for_its_key() {
    let key = SigningKey::generate(KeyAlgorithm::MlDsa65).unwrap();
    let verdict = VerifiedCsr::verify(&Forgery::new(&key).sign(&key));
    assert_eq!(verdict.unwrap_err(), CsrError::Key(KeyRefused::Algorithm));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_without_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        prop_assert!(VerifiedCsr::verify(&bytes).is_err());
        let _ = Certificate::parse(&bytes);
    }

    #[test]
    fn altered_requests_and_certificates_are_handled_without_panic(
        position in 0_usize..4_000,
        mask in 1_u8..,
    ) {
        let key = p256();
        let mut forgery = Forgery::new(&key);
        let wish = oid("1.2.840.113549.1.9.14").to_der().unwrap();
        let names = sequence(&[&san(&[uri("spiffe://example.org/w"), dns("a.example.org")])]);
        forgery.attributes = vec![sequence(&[&wish, &tlv(der::Tag::Set, &[&names])])];
        let mut request = forgery.sign(&key);
        let length = request.len();
        request[position % length] ^= mask;
        prop_assert!(VerifiedCsr::verify(&request).is_err());

        let mut certificate = Authority::new("example.org", true).issue("/w", &key);
        let length = certificate.len();
        certificate[position % length] ^= mask;
        if let Ok(certificate) = Certificate::parse(&certificate) {
            let _ = certificate.is_self_issued();
        }
        if let Ok(parts) = CertificateParts::parse(&certificate) {
            let _ = mintmark_identity::hybrid::pretbs::pre_tbs(&parts.tbs);
        }
    }
}
