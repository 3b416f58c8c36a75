//! Making an authority, and showing that a server can use it.
//!
//! Always: a new authority's key is sealed before it leaves this module, and what is proposed can be
//! verified by whoever holds the bundle: the certificate is self-signed, a proof is a signature.
//!
//! Not here: when an authority is due (`rotation`), which transitions are allowed (`state::authorities`).

use std::time::Duration;

use mintmark_identity::authority::AuthorityKey;
use mintmark_identity::clock::Timestamp;
use mintmark_identity::entropy::Entropy;
use mintmark_identity::key_manager::{KeyError, verify_signature};
use mintmark_identity::svid::x509::authority::{AuthorityError, SelfSignError};
use mintmark_identity::svid::x509::{CaSubject, Serial, X509Authority, self_signed_authority};
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_identity::validity::Validity;
use mintmark_proto::mintmark::state::v1::{Authority, AuthorityKind, PqMode, Settings};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

/// What is signed to prove that a server can use a key.
const PROOF_CONTEXT: &[u8] = b"mintmark-authority-proof-v1\0";
/// A `kid` is this much of the hash of its key: short in every token, and no two are the same.
const KID_BYTES: usize = 16;

/// Why an authority cannot be made or proven.
#[derive(Debug, Error)]
pub enum LifecycleError {
    /// No key.
    #[error("the authority's key cannot be made or used")]
    Key(#[from] KeyError),
    /// No certificate.
    #[error("the authority's certificate cannot be made")]
    Certificate(#[from] SelfSignError),
    /// A certificate that cannot be read back.
    #[error("the authority's certificate cannot be read")]
    Unreadable(#[from] AuthorityError),
    /// A key that does not belong to the authority.
    #[error("the opened key is not that of authority {0}")]
    OtherKey(String),
    /// A kind that is not made here.
    #[error("authorities of this kind are not made")]
    Kind,
}

/// A new authority, with its key in the clear.
pub struct NewAuthority {
    /// As it will stand in the state.
    pub authority: Authority,
    /// To be sealed.
    pub key: Zeroizing<Vec<u8>>,
}

/// What a new authority is made from.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Its trust domain.
    pub trust_domain: &'a TrustDomain,
    /// The cluster's settings.
    pub settings: &'a Settings,
    /// X.509 or JWT.
    pub kind: AuthorityKind,
    /// The present.
    pub now: Timestamp,
}

/// Makes an authority.
///
/// # Errors
/// When a key or certificate cannot be made.
pub fn make(plan: &Plan<'_>, entropy: &dyn Entropy) -> Result<NewAuthority, LifecycleError> {
    let ttl = Duration::from_secs(plan.settings.ca_ttl_seconds);
    let validity = Validity::issued_at(plan.now, ttl);
    let hybrid = plan.kind == AuthorityKind::X509 && plan.settings.pq() == PqMode::Hybrid;
    let key = AuthorityKey::generate(hybrid)?;
    let (id, certificate) = match plan.kind {
        AuthorityKind::X509 => {
            let subject = if plan.settings.development {
                CaSubject::development()
            } else {
                CaSubject::default()
            };
            let serial = Serial::draw(entropy);
            let certificate =
                self_signed_authority(plan.trust_domain, &key, serial, validity, &subject)?;
            (
                X509Authority::parse(&certificate)?.id().to_owned(),
                certificate,
            )
        }
        AuthorityKind::Jwt => (kid(key.native().spki_der()), Vec::new()),
        AuthorityKind::Wit | AuthorityKind::Unspecified => return Err(LifecycleError::Kind),
    };
    let authority = Authority {
        vault_record: format!("authority-{id}"),
        id,
        kind: plan.kind.into(),
        not_before_ms: validity.not_before.unix_millis(),
        not_after_ms: validity.not_after.unix_millis(),
        certificate,
        public_key_spki: key.native().spki_der().to_vec(),
        hybrid,
        ..Authority::default()
    };
    Ok(NewAuthority {
        authority,
        key: key.to_bytes()?,
    })
}

fn kid(spki: &[u8]) -> String {
    let hash: [u8; 32] = Sha256::digest(spki).into();
    hex::encode(hash.get(..KID_BYTES).unwrap_or(&hash))
}

/// Signs as a proof that server `node_id` can use the key, and verifies the signature like somebody who
/// only has the authority's public half.
///
/// # Errors
/// When the key is not the authority's or does not sign.
pub fn prove(
    authority: &Authority,
    key: &AuthorityKey,
    node_id: u64,
) -> Result<Vec<u8>, LifecycleError> {
    let other = || LifecycleError::OtherKey(authority.id.clone());
    if key.is_hybrid() != authority.hybrid {
        return Err(other());
    }
    let message = [
        PROOF_CONTEXT,
        &node_id.to_be_bytes(),
        authority.id.as_bytes(),
    ]
    .concat();
    let signature = key.native().sign(&message)?;
    verify_signature(&authority.public_key_spki, &message, &signature).map_err(|_| other())?;
    if let Some(alternative) = key.alternative() {
        let parsed = X509Authority::parse(&authority.certificate)?;
        let spki = parsed.alternative_spki().ok_or_else(other)?;
        let alternative = alternative.sign(&message)?;
        verify_signature(spki, &message, &alternative).map_err(|_| other())?;
    }
    Ok(signature)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use mintmark_identity::entropy::SeededEntropy;

    use super::*;

    fn made(kind: AuthorityKind, pq: PqMode) -> NewAuthority {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let settings = Settings {
            ca_ttl_seconds: 3600,
            pq: pq.into(),
            development: true,
            ..Settings::default()
        };
        let now = Timestamp::from_unix_secs(1_790_000_000);
        let plan = Plan {
            trust_domain: &trust_domain,
            settings: &settings,
            kind,
            now,
        };
        make(&plan, &SeededEntropy::new(1)).unwrap()
    }

    #[test]
    fn an_authority_proves_its_own_key_and_no_other() {
        for (kind, pq) in [
            (AuthorityKind::X509, PqMode::Off),
            (AuthorityKind::X509, PqMode::Hybrid),
            (AuthorityKind::Jwt, PqMode::Hybrid),
        ] {
            let (one, other) = (made(kind, pq), made(kind, pq));
            assert_ne!(one.authority.id, other.authority.id);
            let key = AuthorityKey::from_bytes(&one.key).unwrap();
            assert!(!prove(&one.authority, &key, 1).unwrap().is_empty());
            let proven = prove(&other.authority, &key, 1);
            assert!(
                matches!(proven, Err(LifecycleError::OtherKey(id)) if id == other.authority.id)
            );
        }
    }

    #[test]
    fn only_x509_is_hybrid() {
        assert!(made(AuthorityKind::X509, PqMode::Hybrid).authority.hybrid);
        assert!(!made(AuthorityKind::X509, PqMode::Off).authority.hybrid);
        let jwt = made(AuthorityKind::Jwt, PqMode::Hybrid).authority;
        assert!(!jwt.hybrid && jwt.certificate.is_empty());
        assert_eq!(jwt.id.len(), 32);
    }

    #[test]
    fn half_a_hybrid_key_proves_nothing() {
        let hybrid = made(AuthorityKind::X509, PqMode::Hybrid);
        let classical = made(AuthorityKind::X509, PqMode::Off);
        let key = AuthorityKey::from_bytes(&classical.key).unwrap();
        assert!(prove(&hybrid.authority, &key, 1).is_err());
    }
}
