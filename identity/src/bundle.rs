//! Trust bundles.
//!
//! Responsible for: [`Bundle`], the authorities of one trust domain, and [`BundleSet`], the
//! bundles that a verifier holds.
//! Always holds: a bundle knows its trust domain, which its document does not (bundle
//! specification section 3); an SVID is looked up in the bundle of the trust domain that it
//! names and nowhere else.
//! Not here: fetching bundles, and deciding which authority signs.

pub mod document;
pub mod map;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use der::{Reader as _, SliceReader};

use crate::clock::Timestamp;
use crate::jose::JwsAlgorithm;
use crate::jose::jwk::{Jwk, JwkError};
use crate::svid::x509::anchor::{self, AnchorError};
use crate::trust_domain::TrustDomain;

/// How often a bundle is fetched anew when it says nothing about it (bundle specification
/// section 6.1).
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(300);
/// The longest `kid` that is accepted: it names a key, it does not carry data.
pub const KID_MAX: usize = 1_024;

/// A certificate that X.509-SVIDs may chain up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Anchor {
    /// The certificate in DER.
    pub certificate: Vec<u8>,
    /// Whether the authority is being withdrawn: still trusted, no longer to be used.
    pub tainted: bool,
    public_key: Jwk,
    id: String,
}

impl X509Anchor {
    /// Checks that `certificate` is a signing certificate and takes it as an anchor.
    ///
    /// # Errors
    /// The rule that the certificate breaks.
    pub fn parse(certificate: &[u8]) -> Result<Self, AnchorError> {
        let (public_key, id) = anchor::check_anchor(certificate)?;
        Ok(Self {
            certificate: certificate.to_vec(),
            tainted: false,
            public_key,
            id,
        })
    }

    /// Takes apart certificates that follow each other without a separator, as the Workload API
    /// sends them. Nothing at all gives no anchors.
    ///
    /// # Errors
    /// The rule that the first bad certificate breaks.
    pub fn parse_concatenated(certificates: &[u8]) -> Result<Vec<Self>, AnchorError> {
        let mut reader = SliceReader::new(certificates).map_err(AnchorError::Malformed)?;
        let mut anchors = Vec::new();
        while !reader.is_finished() {
            let certificate = reader.tlv_bytes().map_err(AnchorError::Malformed)?;
            anchors.push(Self::parse(certificate)?);
        }
        Ok(anchors)
    }

    /// The subject key identifier in hexadecimal, as in [`VerifiedX509Svid::anchor_id`].
    ///
    /// [`VerifiedX509Svid::anchor_id`]: crate::svid::x509::VerifiedX509Svid::anchor_id
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The anchor's public key.
    #[must_use]
    pub const fn public_key(&self) -> &Jwk {
        &self.public_key
    }
}

/// A key that verifies JWT-SVIDs or WIT-SVIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtAuthority {
    /// When the key is of no more use; documents do not say.
    pub expires_at: Option<Timestamp>,
    /// Whether the authority is being withdrawn: still trusted, no longer to be used.
    pub tainted: bool,
    kid: String,
    spki: Vec<u8>,
    public_key: Jwk,
}

/// Why a key cannot verify tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtAuthorityError {
    /// The key id, by which tokens must name the key, is empty or too long.
    #[error("kid is missing, empty or longer than 1024 bytes")]
    Kid,
    /// The key itself is unknown or malformed.
    #[error("public key cannot be used")]
    PublicKey(#[source] JwkError),
    /// JWT-SVID section 2.1 has no signature algorithm for this kind of key.
    #[error("public key is of a kind that does not sign tokens")]
    KeyKind,
}

impl JwtAuthority {
    /// Checks a key id and a DER SubjectPublicKeyInfo and takes them as an authority.
    ///
    /// # Errors
    /// The rule that one of them breaks.
    pub fn parse(kid: &str, spki: &[u8]) -> Result<Self, JwtAuthorityError> {
        if !(1..=KID_MAX).contains(&kid.len()) {
            return Err(JwtAuthorityError::Kid);
        }
        let public_key = Jwk::from_spki(spki).map_err(JwtAuthorityError::PublicKey)?;
        if JwsAlgorithm::for_key(&public_key).is_none() {
            return Err(JwtAuthorityError::KeyKind);
        }
        let (kid, spki) = (kid.to_owned(), spki.to_vec());
        Ok(Self {
            expires_at: None,
            tainted: false,
            kid,
            spki,
            public_key,
        })
    }

    /// The name by which tokens refer to the key.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key as a DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn public_key_spki(&self) -> &[u8] {
        &self.spki
    }

    /// The public key.
    #[must_use]
    pub const fn public_key(&self) -> &Jwk {
        &self.public_key
    }
}

/// The authorities of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose authorities these are.
    pub trust_domain: TrustDomain,
    /// For X.509-SVIDs.
    pub x509: Vec<X509Anchor>,
    /// For JWT-SVIDs.
    pub jwt: Vec<JwtAuthority>,
    /// For WIT-SVIDs.
    pub wit: Vec<JwtAuthority>,
    /// Rises with each change.
    pub sequence: Option<u64>,
    /// How often to look for a change.
    pub refresh_hint: Option<Duration>,
}

impl Bundle {
    /// A bundle without authorities: nothing of this trust domain is valid.
    #[must_use]
    pub const fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509: Vec::new(),
            jwt: Vec::new(),
            wit: Vec::new(),
            sequence: None,
            refresh_hint: None,
        }
    }

    /// Whether there is no authority of any kind.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.x509.is_empty() && self.jwt.is_empty() && self.wit.is_empty()
    }

    /// Whether publishing this instead of `other` needs a new sequence number: anything but the
    /// number itself differs (bundle specification section 4.1.1).
    #[must_use]
    pub fn differs_from(&self, other: &Self) -> bool {
        self.trust_domain != other.trust_domain
            || self.x509 != other.x509
            || self.jwt != other.jwt
            || self.wit != other.wit
            || self.refresh_hint != other.refresh_hint
    }

    /// The JWT authority that tokens call `kid`.
    #[must_use]
    pub fn jwt_authority(&self, kid: &str) -> Option<&JwtAuthority> {
        self.jwt.iter().find(|authority| authority.kid() == kid)
    }

    /// The anchors' certificates, one after the other, as the Workload API sends them.
    #[must_use]
    pub fn x509_der_concat(&self) -> Vec<u8> {
        self.x509
            .iter()
            .flat_map(|anchor| anchor.certificate.iter().copied())
            .collect()
    }

    /// How long to wait before looking for a change.
    #[must_use]
    pub fn refresh_period(&self) -> Duration {
        self.refresh_hint.unwrap_or(DEFAULT_REFRESH)
    }

    fn shares_authority_with(&self, other: &Self) -> bool {
        let x509 = |mine: &X509Anchor| other.x509.iter().any(|o| o.public_key == mine.public_key);
        let keys = |mine: &JwtAuthority| {
            let theirs = other.jwt.iter().chain(&other.wit);
            theirs.into_iter().any(|o| o.public_key == mine.public_key)
        };
        self.x509.iter().any(x509) || self.jwt.iter().chain(&self.wit).any(keys)
    }
}

/// The bundles that a verifier trusts, each for its own trust domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BundleSet(BTreeMap<TrustDomain, Arc<Bundle>>);

impl BundleSet {
    /// A set without bundles: nothing verifies.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The bundle of a trust domain.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        self.0.get(trust_domain)
    }

    /// Adds a bundle under the trust domain that it belongs to; returns the one it replaces.
    pub fn insert(&mut self, bundle: impl Into<Arc<Bundle>>) -> Option<Arc<Bundle>> {
        let bundle = bundle.into();
        self.0.insert(bundle.trust_domain.clone(), bundle)
    }

    /// Drops the bundle of a trust domain.
    pub fn remove(&mut self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.0.remove(trust_domain)
    }

    /// All bundles, by the name of their trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.0.values()
    }

    /// How many bundles there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Another trust domain that has an authority's key in common with `bundle`.
    ///
    /// SPIFFE allows it but asks for great care (bundle specification section 6.2): warn whoever
    /// adds such a bundle. Our own verifiers keep trust domains apart all the same.
    #[must_use]
    pub fn sharing_authority_with(&self, bundle: &Bundle) -> Option<&TrustDomain> {
        let others = self
            .iter()
            .filter(|other| other.trust_domain != bundle.trust_domain);
        others
            .into_iter()
            .find(|other| other.shares_authority_with(bundle))
            .map(|other| &other.trust_domain)
    }
}

impl FromIterator<Arc<Bundle>> for BundleSet {
    fn from_iter<I: IntoIterator<Item = Arc<Bundle>>>(bundles: I) -> Self {
        Self(
            bundles
                .into_iter()
                .map(|bundle| (bundle.trust_domain.clone(), bundle))
                .collect(),
        )
    }
}

impl FromIterator<Bundle> for BundleSet {
    fn from_iter<I: IntoIterator<Item = Bundle>>(bundles: I) -> Self {
        bundles.into_iter().map(Arc::new).collect()
    }
}
