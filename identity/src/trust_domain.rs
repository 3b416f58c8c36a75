//! Trust domain names.
//!
//! Responsible for: [`TrustDomain`], the name of one namespace of SPIFFE IDs.
//! Always holds: the name is 1 to 255 bytes of `a-z`, `0-9`, `.`, `-`, `_` (SPIFFE-ID
//! section 2.1); two names are the same domain exactly when their bytes are equal.
//! Not here: anything that would treat a name as a DNS name or an address. There is no look-up,
//! no IDNA and no suffix match, because the specification gives none of them a meaning.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::spiffe_id::{SpiffeId, SpiffeIdError};

/// The longest trust domain name in bytes (SPIFFE-ID section 2.3).
pub const TRUST_DOMAIN_MAX: usize = 255;

/// The name of a trust domain, such as `example.org`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare name.
    ///
    /// # Errors
    /// The rule that the name breaks. Upper case is refused, not folded (decision A-1).
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        check_name(name)?;
        Ok(Self(Arc::from(name)))
    }

    /// Parses a bare name or the trust domain of a SPIFFE ID, with or without a path: what an
    /// operator may type where a trust domain is asked for.
    ///
    /// # Errors
    /// The rule that the text breaks.
    pub fn from_id_or_name(text: &str) -> Result<Self, SpiffeIdError> {
        if text.contains(":/") {
            return SpiffeId::parse(text).map(|id| id.trust_domain().clone());
        }
        Self::parse(text)
    }

    /// The bare name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself, which has no path.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        SpiffeId::of_trust_domain(self)
    }

    /// Why peers written in Go cannot use this name although SPIFFE allows it; `None` for a
    /// name that looks like a DNS name.
    ///
    /// Go's X.509 parser refuses a certificate whose URI host has an empty or malformed label,
    /// so an operator should hear of it when the trust domain is named, not when a mesh fails.
    #[must_use]
    pub fn dns_like_warning(&self) -> Option<String> {
        let fault = self.0.split('.').find_map(|label| match label {
            "" => Some("has an empty label"),
            _ if label.len() > 63 => Some("has a label of more than 63 characters"),
            _ if label.contains('_') => Some("contains an underscore"),
            _ if label.starts_with('-') || label.ends_with('-') => {
                Some("has a label that starts or ends with a hyphen")
            }
            _ => None,
        })?;
        Some(format!(
            "trust domain {self} {fault}: SPIFFE allows it, but software that expects a DNS name \
             in certificates, such as programs written in Go, may refuse its SVIDs"
        ))
    }
}

/// Applies the rules of SPIFFE-ID section 2.1 to the part between `spiffe://` and the path.
pub(crate) fn check_name(name: &str) -> Result<(), SpiffeIdError> {
    if name.is_empty() {
        return Err(SpiffeIdError::MissingTrustDomain);
    }
    if name.len() > TRUST_DOMAIN_MAX {
        return Err(SpiffeIdError::TrustDomainTooLong { length: name.len() });
    }
    let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    match name.chars().find(|&c| !allowed(c)) {
        None => Ok(()),
        Some('%') => Err(SpiffeIdError::PercentEncoded),
        Some('@') => Err(SpiffeIdError::UserInfo),
        Some(':') => Err(SpiffeIdError::Port),
        Some('A'..='Z') => Err(SpiffeIdError::TrustDomainUpperCase),
        Some(character) => Err(SpiffeIdError::TrustDomainCharacter { character }),
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({self})")
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).map_err(serde::de::Error::custom)
    }
}
