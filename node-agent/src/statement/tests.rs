#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::too_many_lines,
    reason = "tests"
)]

use std::time::Duration;

use mintmark_identity::{
    authority::AuthorityKey,
    bundle::X509Anchor,
    entropy::SystemEntropy,
    svid::x509::{CaSubject, Serial, self_signed_authority},
    validity::Validity,
};

use super::*;
use crate::testing::{at, domain};

struct Server {
    key: AuthorityKey,
    certificate: Vec<u8>,
}

impl Server {
    fn new() -> Self {
        let key = AuthorityKey::generate(true).unwrap();
        let certificate = certificate(&key);
        Self { key, certificate }
    }

    fn pin(&self) -> Pin {
        signed::pin(&X509Authority::parse(&self.certificate).unwrap()).unwrap()
    }

    fn statement(&self) -> Statement {
        let mut bundle = Bundle::empty(domain());
        bundle.x509 = vec![X509Anchor::parse(&self.certificate).unwrap()];
        Statement {
            trust_domain: domain().to_string(),
            epoch: 2,
            sequence: 5,
            nonce: b"nonce".to_vec(),
            bundle_document: bundle.to_document(),
            ..Statement::default()
        }
    }

    fn sign(&self, statement: &Statement) -> GetStatementResponse {
        let statement = statement.encode_to_vec();
        let signatures = signed::sign_statement(&self.key, &statement).unwrap();
        GetStatementResponse {
            native_signature: signatures.native,
            alternative_signature: signatures.alternative,
            trust_domain_key_certificate: self.certificate.clone(),
            statement,
        }
    }
}

fn certificate(key: &AuthorityKey) -> Vec<u8> {
    let validity = Validity::issued_at(at(100), Duration::from_secs(9_000));
    let serial = Serial::draw(&SystemEntropy);
    self_signed_authority(&domain(), key, serial, validity, &CaSubject::default()).unwrap()
}

fn check(
    response: &GetStatementResponse,
    pin: Option<Pin>,
    seen: (u64, u64),
) -> Result<VerifiedStatement, StatementError> {
    verify(response, b"nonce", &domain(), pin, seen)
}

#[test]
fn a_statement_by_the_pinned_key_is_believed_and_without_a_pin_the_key_is_learned() {
    let server = Server::new();
    let response = server.sign(&server.statement());
    for pin in [Some(server.pin()), None] {
        let verified = check(&response, pin, (2, 5)).unwrap();
        assert_eq!((verified.position, verified.pin), ((2, 5), server.pin()));
        assert_eq!(verified.bundle.x509.len(), 1);
    }
}

#[test]
fn whatever_is_wrong_with_it_a_statement_is_refused() {
    let (server, other) = (Server::new(), Server::new());
    let statement = server.statement();
    let changed = |change: fn(&mut Statement)| {
        let mut changed = statement.clone();
        change(&mut changed);
        server.sign(&changed)
    };
    let good = server.sign(&statement);
    let broken = |change: &dyn Fn(&mut GetStatementResponse)| {
        let mut broken = good.clone();
        change(&mut broken);
        broken
    };
    let foreign = other.sign(&statement);
    let cases = [
        ("another key", foreign.clone()),
        (
            "its certificate only",
            broken(&|r| r.trust_domain_key_certificate = other.certificate.clone()),
        ),
        (
            "no certificate",
            broken(&|r| r.trust_domain_key_certificate.clear()),
        ),
        (
            "native signature gone",
            broken(&|r| r.native_signature.clear()),
        ),
        (
            "alternative signature gone",
            broken(&|r| r.alternative_signature.clear()),
        ),
        (
            "alternative signature by another",
            broken(&|r| {
                r.alternative_signature = foreign.alternative_signature.clone();
            }),
        ),
        (
            "native signature by another",
            broken(&|r| r.native_signature = foreign.native_signature.clone()),
        ),
        ("content altered", broken(&|r| r.statement[3] ^= 1)),
        ("another nonce", changed(|s| s.nonce = b"other".to_vec())),
        (
            "another trust domain",
            changed(|s| s.trust_domain = "other.org".to_owned()),
        ),
        ("an older sequence", changed(|s| s.sequence = 4)),
        (
            "an older epoch",
            changed(|s| (s.epoch, s.sequence) = (1, 99)),
        ),
        ("no bundle", changed(|s| s.bundle_document.clear())),
        (
            "a bundle without authority",
            changed(|s| s.bundle_document = b"{\"keys\":[]}".to_vec()),
        ),
    ];
    for (what, response) in cases {
        let refused = check(&response, Some(server.pin()), (2, 5));
        assert!(
            matches!(
                refused,
                Err(StatementError::Refused { .. } | StatementError::Unsigned(_))
            ),
            "{what}: {refused:?}"
        );
        let told = refused.unwrap_err().to_string();
        assert!(told.starts_with("MM-2023: "), "{told}");
    }
}

#[test]
fn a_key_without_its_alternative_half_speaks_for_nobody() {
    let server = Server::new();
    let native = AuthorityKey::from_keys(
        mintmark_identity::key_manager::SigningKey::from_pkcs8(
            mintmark_identity::key_manager::KeyAlgorithm::EcP256,
            &server.key.native().to_pkcs8().unwrap(),
        )
        .unwrap(),
        None,
    )
    .unwrap();
    let mut stripped = server.sign(&server.statement());
    stripped.trust_domain_key_certificate = certificate(&native);
    let refused = check(&stripped, Some(server.pin()), (0, 0)).unwrap_err();
    let StatementError::Unsigned(why) = refused else {
        panic!("{refused}")
    };
    assert_eq!(why, signed::StatementError::NotHybrid);
}
