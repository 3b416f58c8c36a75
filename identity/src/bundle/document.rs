//! The SPIFFE bundle document: a JWK Set with two members of its own.
//!
//! Responsible for: reading and writing bundle documents, and the plain JWK Sets of the
//! Workload API.
//! Always holds: a key that is not understood is left out and reported, and spoils nothing
//! beside it (bundle specification section 4.1.3); what is written has `keys` as an array, no
//! `kid` on X.509 entries, and no member that the specification does not define.
//! Not here: the map of several trust domains (`bundle::map`), and deciding whether a document
//! is newer than another.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::{Bundle, JwtAuthority, JwtAuthorityError, X509Anchor};
use crate::jose::jwk::{Jwk, JwkError, JwkMembers};
use crate::json::{JsonError, Node, Object};
use crate::svid::x509::anchor::AnchorError;
use crate::trust_domain::TrustDomain;

/// The largest document that is read: some thousand authorities.
pub const DOCUMENT_MAX: usize = 4 << 20;
/// The most keys that one document may hold; far beyond any trust domain, and few enough to check
/// each of them.
pub const KEYS_MAX: usize = 4_096;
/// The longest refresh hint that is believed; a longer one is shortened to this.
pub const REFRESH_HINT_MAX: Duration = Duration::from_secs(365 * 86_400);
const X509_USE: &str = "x509-svid";
const JWT_USE: &str = "jwt-svid";
const WIT_USE: &str = "wit-svid";

/// Why a document as a whole cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The document is larger than 4 MiB.
    #[error("document has {length} bytes; at most 4194304 are read")]
    TooLarge {
        /// Its size.
        length: usize,
    },
    /// The bytes are not one JSON object.
    #[error("document is not a JSON object")]
    Json(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A name occurs twice at the top of the document.
    #[error("member {name:?} occurs twice")]
    Duplicate {
        /// Which name.
        name: String,
    },
    /// `keys` is missing or not an array.
    #[error("member \"keys\" is missing or not an array")]
    Keys,
    /// There are more than 4096 keys.
    #[error("document has {count} keys; at most 4096 are read")]
    TooManyKeys {
        /// How many there are.
        count: usize,
    },
    /// `spiffe_sequence` is not an unsigned 64-bit integer.
    #[error("member \"spiffe_sequence\" is not an unsigned 64-bit integer")]
    Sequence,
}

/// A key that was left out.
#[derive(Debug)]
pub struct SkippedKey {
    /// Its position in `keys`, from 0.
    pub index: usize,
    /// Why.
    pub reason: SkipReason,
}

/// Why a key was left out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SkipReason {
    /// The entry is not a JSON object.
    #[error("entry is not an object")]
    NotAnObject,
    /// A name occurs twice in the entry.
    #[error("member {name:?} occurs twice")]
    Duplicate {
        /// Which name.
        name: String,
    },
    /// `use` is missing, none of the values that SVID specifications define, or out of place.
    #[error("use is missing, unknown or out of place")]
    UnknownUse,
    /// The key itself is unknown or malformed.
    #[error("key cannot be used")]
    Key(#[source] JwkError),
    /// The key or its `kid` cannot be used for tokens.
    #[error("key cannot verify tokens")]
    Authority(#[source] JwtAuthorityError),
    /// An earlier key of the same use has the same `kid`.
    #[error("kid {kid:?} is taken by an earlier key")]
    DuplicateKid {
        /// The name.
        kid: String,
    },
    /// `x5c` is missing, empty or not standard base64.
    #[error("x5c is missing, empty or not base64")]
    X5c,
    /// The certificate is not an authority's.
    #[error("certificate cannot be an anchor")]
    Anchor(#[source] AnchorError),
    /// The certificate is for another key than the entry shows.
    #[error("certificate is for another key")]
    CertificateKey,
}

/// Which keys a JWK Set may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Keys of every use, which each must say.
    AllUses,
    /// JWT keys only, which therefore need not say so.
    JwtOnly,
}

impl Bundle {
    /// Reads a bundle document, leaving out keys that cannot be understood.
    ///
    /// # Errors
    /// When the document as a whole cannot be used. A document whose keys are all left out is an
    /// empty bundle, not an error: then nothing of the trust domain is valid.
    pub fn from_document(
        trust_domain: &TrustDomain,
        document: &[u8],
    ) -> Result<(Self, Vec<SkippedKey>), DocumentError> {
        let object = parse_object(document)?;
        let (mut bundle, skipped) = Self::from_object(trust_domain, &object)?;
        bundle.refresh_hint = object.get("spiffe_refresh_hint").and_then(refresh_hint);
        Ok((bundle, skipped))
    }

    /// Reads the plain JWK Set of JWT keys that the Workload API sends: `use` may be absent, and
    /// keys with another use than `jwt-svid` are left out (decision A-10).
    ///
    /// # Errors
    /// When the document as a whole cannot be used.
    pub fn from_workload_api_jwks(
        trust_domain: &TrustDomain,
        document: &[u8],
    ) -> Result<(Self, Vec<SkippedKey>), DocumentError> {
        let object = parse_object(document)?;
        let mut bundle = Self::empty(trust_domain.clone());
        let skipped = read_keys(&mut bundle, &object, Holds::JwtOnly)?;
        Ok((bundle, skipped))
    }

    /// Reads everything but the refresh hint, which a map of bundles must not look at.
    pub(super) fn from_object(
        trust_domain: &TrustDomain,
        object: &Object,
    ) -> Result<(Self, Vec<SkippedKey>), DocumentError> {
        if let Some(name) = object.duplicate() {
            return Err(DocumentError::Duplicate {
                name: name.to_owned(),
            });
        }
        let mut bundle = Self::empty(trust_domain.clone());
        bundle.sequence = sequence(object)?;
        let skipped = read_keys(&mut bundle, object, Holds::AllUses)?;
        Ok((bundle, skipped))
    }

    /// Writes the bundle document.
    #[must_use]
    pub fn to_document(&self) -> Vec<u8> {
        to_json(&Document::of(self, true))
    }

    /// Writes the plain JWK Set of the JWT keys for the Workload API.
    #[must_use]
    pub fn jwks_for_workload_api(&self) -> Vec<u8> {
        let keys = self
            .jwt
            .iter()
            .map(|authority| jwt_jwk(JWT_USE, authority))
            .collect();
        to_json(&Document {
            keys,
            spiffe_sequence: None,
            spiffe_refresh_hint: None,
        })
    }
}

pub(super) fn parse_object(document: &[u8]) -> Result<Object, DocumentError> {
    if document.len() > DOCUMENT_MAX {
        return Err(DocumentError::TooLarge {
            length: document.len(),
        });
    }
    Object::parse(document).map_err(|error| match error {
        JsonError::Duplicate { name } => DocumentError::Duplicate { name },
        other => DocumentError::Json(Box::new(other)),
    })
}

fn sequence(object: &Object) -> Result<Option<u64>, DocumentError> {
    match object.get("spiffe_sequence") {
        None | Some(Node::Null) => Ok(None),
        Some(Node::Number(number)) => Ok(Some(number.as_u64().ok_or(DocumentError::Sequence)?)),
        Some(_) => Err(DocumentError::Sequence),
    }
}

/// A hint that is not a positive integer is no hint: polling must go on, and not at 0 s.
fn refresh_hint(node: &Node) -> Option<Duration> {
    let Node::Number(number) = node else {
        return None;
    };
    let seconds = number.as_u64().filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds).min(REFRESH_HINT_MAX))
}

fn read_keys(
    bundle: &mut Bundle,
    object: &Object,
    holds: Holds,
) -> Result<Vec<SkippedKey>, DocumentError> {
    let Some(Node::Array(keys)) = object.get("keys") else {
        return Err(DocumentError::Keys);
    };
    if keys.len() > KEYS_MAX {
        return Err(DocumentError::TooManyKeys { count: keys.len() });
    }
    let mut skipped = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        if let Err(reason) = read_key(bundle, key, holds) {
            skipped.push(SkippedKey { index, reason });
        }
    }
    Ok(skipped)
}

fn read_key(bundle: &mut Bundle, key: &Node, holds: Holds) -> Result<(), SkipReason> {
    let Node::Object(key) = key else {
        return Err(SkipReason::NotAnObject);
    };
    if let Some(name) = key.duplicate() {
        return Err(SkipReason::Duplicate {
            name: name.to_owned(),
        });
    }
    let usage = match key.get("use") {
        None if holds == Holds::JwtOnly => JWT_USE,
        Some(Node::String(usage)) => usage,
        _ => return Err(SkipReason::UnknownUse),
    };
    if holds == Holds::JwtOnly && usage != JWT_USE {
        return Err(SkipReason::UnknownUse);
    }
    match usage {
        X509_USE => {
            let anchor = read_anchor(key)?;
            if !bundle.x509.contains(&anchor) {
                bundle.x509.push(anchor);
            }
        }
        JWT_USE => {
            let authority = read_authority(key, &bundle.jwt)?;
            bundle.jwt.push(authority);
        }
        WIT_USE => {
            let authority = read_authority(key, &bundle.wit)?;
            bundle.wit.push(authority);
        }
        _ => return Err(SkipReason::UnknownUse),
    }
    Ok(())
}

/// X509-SVID section 6.2: the first certificate counts, further ones are ignored.
fn read_anchor(key: &Object) -> Result<X509Anchor, SkipReason> {
    let public_key = Jwk::from_object(key).map_err(SkipReason::Key)?;
    let Some(Node::Array(certificates)) = key.get("x5c") else {
        return Err(SkipReason::X5c);
    };
    let Some(Node::String(certificate)) = certificates.first() else {
        return Err(SkipReason::X5c);
    };
    let certificate = STANDARD.decode(certificate).map_err(|_| SkipReason::X5c)?;
    let anchor = X509Anchor::parse(&certificate).map_err(SkipReason::Anchor)?;
    if *anchor.public_key() != public_key {
        return Err(SkipReason::CertificateKey);
    }
    Ok(anchor)
}

fn read_authority(key: &Object, earlier: &[JwtAuthority]) -> Result<JwtAuthority, SkipReason> {
    let public_key = Jwk::from_object(key).map_err(SkipReason::Key)?;
    let spki = public_key.to_spki().map_err(SkipReason::Key)?;
    let kid = key.text("kid").unwrap_or_default();
    if earlier.iter().any(|authority| authority.kid() == kid) {
        return Err(SkipReason::DuplicateKid {
            kid: kid.to_owned(),
        });
    }
    JwtAuthority::parse(kid, &spki).map_err(SkipReason::Authority)
}

/// A document as it is written; the order of members is that of this type.
#[derive(Serialize)]
pub(super) struct Document {
    keys: Vec<WrittenJwk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Serialize)]
struct WrittenJwk {
    #[serde(rename = "use")]
    usage: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(flatten)]
    key: JwkMembers,
    #[serde(skip_serializing_if = "Option::is_none")]
    x5c: Option<[String; 1]>,
}

impl Document {
    pub(super) fn of(bundle: &Bundle, with_hint: bool) -> Self {
        let x509 = bundle.x509.iter().map(x509_jwk);
        let jwt = bundle
            .jwt
            .iter()
            .map(|authority| jwt_jwk(JWT_USE, authority));
        let wit = bundle
            .wit
            .iter()
            .map(|authority| jwt_jwk(WIT_USE, authority));
        // The hint is whole seconds, and 0 would mean "poll all the time".
        let hint = bundle
            .refresh_hint
            .filter(|_| with_hint)
            .map(|hint| hint.as_secs().max(1));
        Self {
            keys: x509.chain(jwt).chain(wit).collect(),
            spiffe_sequence: bundle.sequence,
            spiffe_refresh_hint: hint,
        }
    }
}

fn x509_jwk(anchor: &X509Anchor) -> WrittenJwk {
    WrittenJwk {
        usage: X509_USE,
        kid: None,
        key: anchor.public_key().members(),
        x5c: Some([STANDARD.encode(&anchor.certificate)]),
    }
}

fn jwt_jwk(usage: &'static str, authority: &JwtAuthority) -> WrittenJwk {
    let kid = Some(authority.kid().to_owned());
    WrittenJwk {
        usage,
        kid,
        key: authority.public_key().members(),
        x5c: None,
    }
}

#[expect(
    clippy::expect_used,
    reason = "the types above hold only strings and numbers"
)]
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers are written to memory")
}
