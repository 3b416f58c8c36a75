//! Loading an SVID that was delivered: chain and key.

use mintmark_identity::key_manager::{KeyAlgorithm, SigningKey};
use mintmark_identity::secret::SecretBytes;
use mintmark_identity::svid::x509::X509SvidError;
use mintmark_identity::svid::x509::structure::CertificateError;
use mintmark_identity::svid::x509::x509_svid::{X509Svid, X509SvidLoadError};

use crate::pki::*;

const URI: &str = "spiffe://example.org/w";

fn load(certificates: &[&[u8]], key: &SigningKey) -> Result<X509Svid, X509SvidLoadError> {
    X509Svid::parse(
        &certificates.concat(),
        SecretBytes::from(key.to_pkcs8().unwrap()),
    )
}

#[test]
fn a_leaf_and_its_key_are_loaded() {
    for hybrid in [false, true] {
        let authority = Authority::new("example.org", hybrid);
        let key = p256();
        let leaf = authority.issue("/w", &key);
        let svid = load(&[&leaf], &key).unwrap();
        assert_eq!(svid.spiffe_id().as_str(), URI);
        assert_eq!(svid.chain_der_concat(), leaf);
        assert_eq!(svid.private_key().expose(), &key.to_pkcs8().unwrap()[..]);
        assert_eq!(svid.serial().len(), 32);
        let secret = hex::encode(svid.private_key().expose());
        assert!(!format!("{svid:?}").contains(&secret));
    }
}

#[test]
fn the_order_of_a_chain_is_kept() {
    let authority = Authority::new("example.org", false);
    let (key, middle_key) = (p256(), p256());
    let middle = Forge::ca("middle", &middle_key);
    let leaf = Forge::leaf(URI, &key).sign(&middle.subject, &middle_key);
    let middle = middle.sign_by(&authority);
    let svid = load(&[&leaf, &middle], &key).unwrap();
    assert_eq!(svid.chain(), chain(&[&leaf, &middle]));
}

#[test]
fn x509_n6_a_private_key_of_another_leaf_is_noticed_at_once() {
    let authority = Authority::new("example.org", false);
    let key = p256();
    let leaf = authority.issue("/w", &key);
    assert!(matches!(
        load(&[&leaf], &p256()),
        Err(X509SvidLoadError::KeyMismatch)
    ));
    let other_kind = SigningKey::generate(KeyAlgorithm::EcP384).unwrap();
    assert!(matches!(
        load(&[&leaf], &other_kind),
        Err(X509SvidLoadError::KeyMismatch)
    ));
    for garbage in [&b""[..], b"garbage", &key.to_pkcs8().unwrap()[..60]] {
        let loaded = X509Svid::parse(&leaf, SecretBytes::new(garbage.to_vec()));
        assert!(matches!(loaded, Err(X509SvidLoadError::PrivateKey)));
    }
}

#[test]
fn x509_22_a_leaf_without_path_is_not_loaded() {
    let key = p256();
    let issuer = p256();
    let leaf = Forge::leaf("spiffe://example.org", &key).sign(&name("ca"), &issuer);
    let loaded = load(&[&leaf], &key);
    assert!(matches!(
        loaded,
        Err(X509SvidLoadError::Leaf(X509SvidError::NoPath))
    ));
}

#[test]
fn leaves_that_nobody_would_accept_are_not_loaded() {
    let (key, issuer) = (p256(), p256());
    let good = Forge::leaf(URI, &key);
    let refusal = |leaf: Forge| match load(&[&leaf.sign(&name("ca"), &issuer)], &key) {
        Err(X509SvidLoadError::Leaf(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(load(&[&good.sign(&name("ca"), &issuer)], &key).is_ok());
    let ca = good.clone().replace(basic_constraints(true, None));
    assert_eq!(refusal(ca), X509SvidError::SigningCertificate);
    for signing in [KEY_CERT_SIGN, CRL_SIGN] {
        let leaf = good
            .clone()
            .replace(key_usage(&[DIGITAL_SIGNATURE, signing]));
        assert_eq!(refusal(leaf), X509SvidError::SigningKeyUsage);
    }
    let no_signature = good.clone().replace(key_usage(&[KEY_ENCIPHERMENT]));
    assert_eq!(refusal(no_signature), X509SvidError::NoDigitalSignature);
    assert_eq!(
        refusal(good.clone().without("2.5.29.17")),
        X509SvidError::NoSpiffeId
    );
    let two = good.clone().replace(san(&[uri(URI), uri("https://x")]));
    assert_eq!(refusal(two), X509SvidError::SeveralUris);
    for broken in ["2.5.29.19", "2.5.29.15"] {
        let leaf = good.clone().replace(extension(broken, true, &[0x30, 0x05]));
        assert!(matches!(
            refusal(leaf),
            X509SvidError::Leaf(CertificateError::Extension { .. })
        ));
    }
    let with_dns = good.replace(san(&[dns("a.example.org"), uri(URI)]));
    assert!(load(&[&with_dns.sign(&name("ca"), &issuer)], &key).is_ok());
}

#[test]
fn intermediates_that_may_not_sign_are_not_loaded() {
    let (key, middle_key) = (p256(), p256());
    let middle = Forge::ca("middle", &middle_key);
    let leaf = Forge::leaf(URI, &key).sign(&middle.subject, &middle_key);
    let with = |middle: Forge| load(&[&leaf, &middle.self_sign(&middle_key)], &key);
    assert!(with(middle.clone()).is_ok());
    for wrong in [
        middle.clone().replace(basic_constraints(false, None)),
        middle.clone().without("2.5.29.19"),
        middle.clone().replace(key_usage(&[CRL_SIGN])),
        middle.clone().without("2.5.29.15"),
    ] {
        assert!(matches!(
            with(wrong),
            Err(X509SvidLoadError::IntermediateNotSigning)
        ));
    }
    for broken in ["2.5.29.19", "2.5.29.15"] {
        let wrong = middle
            .clone()
            .replace(extension(broken, true, &[0x30, 0x05]));
        assert!(matches!(
            with(wrong),
            Err(X509SvidLoadError::Intermediate(_))
        ));
    }
}

#[test]
fn empty_overlong_and_broken_chains_are_not_loaded() {
    let (key, issuer) = (p256(), p256());
    let leaf = Forge::leaf(URI, &key).sign(&name("ca"), &issuer);
    let ca = Forge::ca("ca", &issuer).self_sign(&issuer);
    let leaf_error = |loaded| match loaded {
        Err(X509SvidLoadError::Leaf(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(leaf_error(load(&[], &key)), X509SvidError::EmptyChain);
    let mut sixteen: Vec<&[u8]> = vec![&leaf];
    sixteen.extend(std::iter::repeat_n(ca.as_slice(), 15));
    assert!(load(&sixteen, &key).is_ok());
    sixteen.push(&ca);
    assert_eq!(
        leaf_error(load(&sixteen, &key)),
        X509SvidError::ChainTooLong { length: 17 }
    );
    assert!(matches!(
        load(&[&leaf, b"rest"], &key),
        Err(X509SvidLoadError::Malformed(_))
    ));
    assert!(load(&[&leaf[1..]], &key).is_err());
}
