//! Preparing and signing.
//!
//! Responsible for: the first stage of issuance, [`prepare_leaf`] and its kin, which fixes every
//! byte that an SVID will say; and the second, [`PreparedTbs::sign`].
//! Always holds: the hash that is committed between the stages is that of the bytes which are
//! then signed; what was signed is read back and both its signatures are verified before it is
//! handed out; a prepared certificate can be signed once.
//! Not here: whether it may be issued at all (the replicated state).

use der::Encode as _;
use der::asn1::BitString;
use sha2::{Digest as _, Sha256};

use super::authority::X509Authority;
use super::csr::{AllowedKey, KeyRefused};
use super::name::{CaSubject, LeafSubject, NameError};
use super::profile::{
    Draft, LintError, Profile, alternative_signature, build_tbs, can_be_written, lint,
    native_identifier,
};
use super::serial::Serial;
use super::structure::{CertificateError, CertificateParts, TbsParts, sequence};
use crate::authority::AuthorityKey;
use crate::entry::is_dns_name;
use crate::hybrid::pretbs::{pre_tbs, with_extension, without_alternative_signature};
use crate::hybrid::verify::{HybridError, verify_alternative};
use crate::key_manager::{KeyAlgorithm, KeyError, SignatureError, SigningKey, verify_signature};
use crate::spiffe_id::SpiffeId;
use crate::trust_domain::TrustDomain;
use crate::validity::Validity;

/// More DNS names than this are refused; a leaf must stay small enough for every handshake.
pub const DNS_NAMES_MAX: usize = 64;

/// What an X.509-SVID is to say. All of it comes from the issuer's records but the key, whose
/// possession was proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafRequest {
    /// Whose SVID it is.
    pub spiffe_id: SpiffeId,
    /// The workload's key, a DER SubjectPublicKeyInfo.
    pub public_key_spki: Vec<u8>,
    /// A fresh serial number.
    pub serial: Serial,
    /// Within that of the authority, in whole seconds.
    pub validity: Validity,
    /// DNS names to add to the SPIFFE ID.
    pub dns_names: Vec<String>,
    /// The subject; see [`LeafSubject::for_dns_names`] for the usual one.
    pub subject: LeafSubject,
}

/// What the certificate of an authority below another one is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntermediateRequest {
    /// The trust domain that it signs for.
    pub trust_domain: TrustDomain,
    /// The key of its native signatures, a DER SubjectPublicKeyInfo.
    pub public_key_spki: Vec<u8>,
    /// The key of its alternative signatures; below a hybrid authority it must have one.
    pub alternative_spki: Option<Vec<u8>>,
    /// A fresh serial number.
    pub serial: Serial,
    /// Within that of the authority above, in whole seconds.
    pub validity: Validity,
    /// The subject.
    pub subject: CaSubject,
}

/// Why a certificate cannot be prepared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// A leaf's SPIFFE ID needs a path (X509-SVID section 3.1).
    #[error("SPIFFE ID of a leaf has no path")]
    RootPath,
    /// The authority does not sign for this trust domain (X509-SVID section 3.2).
    #[error("authority does not sign for trust domain {0}")]
    ForeignTrustDomain(TrustDomain),
    /// The validity is empty, not in whole seconds, or beyond what X.509 can write.
    #[error("validity cannot be written in a certificate")]
    Validity,
    /// The certificate would be valid when its authority is not.
    #[error("validity is not within that of the authority")]
    OutlivesAuthority,
    /// A DNS name cannot stand in a certificate.
    #[error("{0:?} is not a DNS name")]
    DnsName(String),
    /// There are too many DNS names.
    #[error("more than {DNS_NAMES_MAX} DNS names")]
    TooManyDnsNames,
    /// The subject cannot be encoded.
    #[error("subject cannot be encoded")]
    Name(#[from] NameError),
    /// The public key may not be certified.
    #[error("public key may not be certified")]
    PublicKey(#[from] KeyRefused),
    /// The public key is the authority's own.
    #[error("public key is that of the authority")]
    AuthorityKey,
    /// An authority below a hybrid one has no alternative key, so nothing below it would verify.
    #[error("authority below a hybrid one needs an alternative key")]
    NoAlternativeKey,
    /// The authority's key is of a kind that we do not sign with.
    #[error("authority's key is of an unknown kind")]
    UnknownAuthorityKey,
    /// What was built breaks our own profile.
    #[error("prepared certificate breaks its profile")]
    Lint(#[from] LintError),
    /// The encoder refused.
    #[error("certificate cannot be encoded")]
    Encoding(#[from] der::Error),
}

/// Why a prepared certificate was not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The key is not that of the authority it was prepared for.
    #[error("key is not that of the authority")]
    WrongKey,
    /// The key failed.
    #[error("signing failed")]
    Key(#[from] KeyError),
    /// What was signed cannot be read back.
    #[error("signed certificate cannot be read back")]
    Unreadable(#[from] CertificateError),
    /// What was signed is not what was prepared.
    #[error("signed certificate differs from what was prepared")]
    Differs,
    /// The native signature does not verify: a fault of key, library or memory.
    #[error("native signature does not verify")]
    Native(#[from] SignatureError),
    /// The alternative signature does not verify: a fault of key, library or memory.
    #[error("alternative signature does not verify")]
    Alternative(#[from] HybridError),
    /// The encoder refused.
    #[error("certificate cannot be encoded")]
    Encoding(#[from] der::Error),
}

/// Prepares a leaf under `authority`.
///
/// # Errors
/// The rule that the request breaks.
pub fn prepare_leaf(
    request: &LeafRequest,
    authority: &X509Authority,
) -> Result<PreparedTbs, ProfileError> {
    if !request.spiffe_id.has_path() {
        return Err(ProfileError::RootPath);
    }
    if request.dns_names.len() > DNS_NAMES_MAX {
        return Err(ProfileError::TooManyDnsNames);
    }
    if let Some(name) = request.dns_names.iter().find(|name| !is_dns_name(name)) {
        return Err(ProfileError::DnsName(name.clone()));
    }
    AllowedKey::parse(&request.public_key_spki)?;
    let subject = request.subject.to_der()?;
    let profile = Profile::Leaf {
        dns_names: &request.dns_names,
    };
    let under = Under {
        authority,
        trust_domain: request.spiffe_id.trust_domain(),
        uri: request.spiffe_id.as_str(),
        serial: request.serial,
        validity: request.validity,
        subject: &subject,
        spki: &request.public_key_spki,
    };
    under.prepare(profile)
}

/// Prepares the certificate of an authority under another one.
///
/// # Errors
/// The rule that the request breaks.
pub fn prepare_intermediate(
    request: &IntermediateRequest,
    authority: &X509Authority,
) -> Result<PreparedTbs, ProfileError> {
    let alternative_spki = request.alternative_spki.as_deref();
    if authority.is_hybrid() && alternative_spki.is_none() {
        return Err(ProfileError::NoAlternativeKey);
    }
    if KeyAlgorithm::of_spki(&request.public_key_spki).is_none() {
        return Err(ProfileError::UnknownAuthorityKey);
    }
    let subject = request.subject.to_der(request.serial)?;
    let id = request.trust_domain.id();
    let under = Under {
        authority,
        trust_domain: &request.trust_domain,
        uri: id.as_str(),
        serial: request.serial,
        validity: request.validity,
        subject: &subject,
        spki: &request.public_key_spki,
    };
    under.prepare(Profile::Authority { alternative_spki })
}

/// What leaves and intermediates have in common.
struct Under<'a> {
    authority: &'a X509Authority,
    trust_domain: &'a TrustDomain,
    uri: &'a str,
    serial: Serial,
    validity: Validity,
    subject: &'a [u8],
    spki: &'a [u8],
}

impl Under<'_> {
    fn prepare(self, profile: Profile<'_>) -> Result<PreparedTbs, ProfileError> {
        let authority = self.authority;
        if authority
            .trust_domain()
            .is_some_and(|own| own != self.trust_domain)
        {
            return Err(ProfileError::ForeignTrustDomain(self.trust_domain.clone()));
        }
        let outer = authority.validity();
        if self.validity.not_before < outer.not_before || self.validity.not_after > outer.not_after
        {
            return Err(ProfileError::OutlivesAuthority);
        }
        if self.spki == authority.spki() {
            return Err(ProfileError::AuthorityKey);
        }
        let draft = Draft {
            profile,
            uri: self.uri,
            serial: self.serial,
            validity: self.validity,
            subject: self.subject,
            spki: self.spki,
            issuer: authority.subject(),
            issuer_key_id: Some(authority.key_id()),
            native: authority
                .native()
                .ok_or(ProfileError::UnknownAuthorityKey)?,
            alternative: authority.alternative(),
        };
        PreparedTbs::build(&draft, authority.spki(), authority.alternative_spki())
    }
}

/// A certificate whose every byte but the signatures is fixed.
#[derive(Debug)]
pub struct PreparedTbs {
    tbs: Vec<u8>,
    svid_hash: [u8; 32],
    native: KeyAlgorithm,
    issuer_spki: Vec<u8>,
    issuer_alternative_spki: Option<Vec<u8>>,
}

impl PreparedTbs {
    pub(crate) fn build(
        draft: &Draft<'_>,
        issuer_spki: &[u8],
        issuer_alternative_spki: Option<&[u8]>,
    ) -> Result<Self, ProfileError> {
        if !can_be_written(draft.validity) {
            return Err(ProfileError::Validity);
        }
        let tbs = build_tbs(draft)?;
        lint(&tbs, draft)?;
        Ok(Self {
            svid_hash: Sha256::digest(&tbs).into(),
            tbs,
            native: draft.native,
            issuer_spki: issuer_spki.to_vec(),
            issuer_alternative_spki: issuer_alternative_spki.map(<[u8]>::to_vec),
        })
    }

    /// What is committed before signing: SHA-256 of the TBSCertificate without the alternative
    /// signature. [`svid_hash_of_certificate`] finds it again in the certificate.
    #[must_use]
    pub const fn svid_hash(&self) -> [u8; 32] {
        self.svid_hash
    }

    /// The TBSCertificate without the alternative signature.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.tbs
    }

    /// Whether it will bear an alternative signature.
    #[must_use]
    pub const fn is_hybrid(&self) -> bool {
        self.issuer_alternative_spki.is_some()
    }

    /// Signs with the keys of the authority that it was prepared for, reads the result back and
    /// verifies it. Returns the certificate.
    ///
    /// # Errors
    /// [`SignError::WrongKey`]; anything else is a fault of key, library or memory.
    pub fn sign(self, key: &AuthorityKey) -> Result<Vec<u8>, SignError> {
        let alternative = key.alternative();
        if key.native().spki_der() != self.issuer_spki
            || alternative.map(SigningKey::spki_der) != self.issuer_alternative_spki.as_deref()
        {
            return Err(SignError::WrongKey);
        }
        let parts = TbsParts::parse(&self.tbs)?;
        let tbs = match alternative {
            None => self.tbs.clone(),
            Some(alternative) => {
                let signature = alternative.sign(&pre_tbs(&parts)?)?;
                with_extension(&parts, &alternative_signature(&signature)?)?
            }
        };
        let signature = BitString::from_bytes(&key.native().sign(&tbs)?)?.to_der()?;
        let certificate = sequence(&[&tbs, &native_identifier(self.native)?, &signature])?;
        self.check(&certificate)?;
        Ok(certificate)
    }

    /// Whether `certificate` is what was prepared, correctly signed.
    fn check(&self, certificate: &[u8]) -> Result<(), SignError> {
        let parts = CertificateParts::parse(certificate)?;
        if without_alternative_signature(&parts.tbs)? != self.tbs {
            return Err(SignError::Differs);
        }
        verify_signature(&self.issuer_spki, parts.tbs.der, parts.signature)?;
        if let Some(spki) = &self.issuer_alternative_spki {
            verify_alternative(&parts, spki)?;
        }
        Ok(())
    }
}

/// The hash that was committed before `certificate` was signed, as an auditor computes it: of
/// the TBSCertificate without extension 74.
///
/// # Errors
/// [`CertificateError`] if the bytes are not a certificate.
pub fn svid_hash_of_certificate(certificate: &[u8]) -> Result<[u8; 32], CertificateError> {
    let parts = CertificateParts::parse(certificate)?;
    Ok(Sha256::digest(without_alternative_signature(&parts.tbs)?).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::entropy::SystemEntropy;
    use crate::svid::x509::self_signed_authority;

    fn prepared(key: &AuthorityKey, path: &str) -> PreparedTbs {
        let now = Timestamp::from_unix_secs(1_795_518_000);
        let validity = Validity::issued_at(now, std::time::Duration::from_secs(3_600));
        let serial = || Serial::draw(&SystemEntropy);
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let subject = CaSubject::default();
        let root = self_signed_authority(&trust_domain, key, serial(), validity, &subject);
        let authority = X509Authority::parse(&root.unwrap()).unwrap();
        let leaf = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
        let request = LeafRequest {
            spiffe_id: SpiffeId::from_path(&trust_domain, path).unwrap(),
            public_key_spki: leaf.spki_der().to_vec(),
            serial: serial(),
            validity,
            dns_names: Vec::new(),
            subject: LeafSubject::default(),
        };
        prepare_leaf(&request, &authority).unwrap()
    }

    /// What `prepared` becomes when `key` signs it, checked by nobody.
    fn sign_unchecked(prepared: &PreparedTbs, key: &AuthorityKey, alternative: &[u8]) -> Vec<u8> {
        let parts = TbsParts::parse(&prepared.tbs).unwrap();
        let tbs = with_extension(&parts, &alternative_signature(alternative).unwrap()).unwrap();
        let signature = BitString::from_bytes(&key.native().sign(&tbs).unwrap()).unwrap();
        let algorithm = native_identifier(prepared.native).unwrap();
        sequence(&[&tbs, &algorithm, &signature.to_der().unwrap()]).unwrap()
    }

    #[test]
    fn a_signature_that_went_wrong_is_never_handed_out() {
        let key = AuthorityKey::generate(true).unwrap();
        let prepared = prepared(&key, "/w");
        let message = pre_tbs(&TbsParts::parse(&prepared.tbs).unwrap()).unwrap();
        let alternative = key.alternative().unwrap().sign(&message).unwrap();
        let good = sign_unchecked(&prepared, &key, &alternative);
        assert_eq!(prepared.check(&good), Ok(()));

        let mut faulty = alternative.clone();
        faulty[100] ^= 1;
        let faulty = sign_unchecked(&prepared, &key, &faulty);
        let error = SignError::Alternative(HybridError::Mismatch);
        assert_eq!(prepared.check(&faulty), Err(error));

        let other = AuthorityKey::generate(true).unwrap();
        let faulty = sign_unchecked(&prepared, &other, &alternative);
        let error = SignError::Native(SignatureError::Mismatch);
        assert_eq!(prepared.check(&faulty), Err(error));
    }

    #[test]
    fn what_was_not_prepared_is_never_handed_out() {
        let key = AuthorityKey::generate(true).unwrap();
        let (this, that) = (prepared(&key, "/this"), prepared(&key, "/that"));
        let signed = that.sign(&key).unwrap();
        assert_eq!(this.check(&signed), Err(SignError::Differs));
    }
}
