//! Verifying a JWT-SVID.
//!
//! Responsible for: everything between the text of a token and the identity that may be believed.
//! Always holds: the algorithm is checked before anything else (JWT-SVID section 4), no key is
//! looked up outside the bundle of the subject's trust domain, and only among its JWT keys; what
//! [`VerifiedJwtSvid`] says was covered by the signature.
//! Not here: remembering tokens. A token may be presented twice (JWT-SVID section 7.1).

use std::time::Duration;

use serde_json::{Map, Value};

use super::Audience;
use crate::bundle::{BundleSet, KID_MAX};
use crate::clock::Timestamp;
use crate::jose::{CompactError, CompactJws, JwsAlgorithm, JwsError};
use crate::json::{JsonError, Node, Object};
use crate::spiffe_id::{SpiffeId, SpiffeIdError};
use crate::trust_domain::TrustDomain;

/// The largest token that is looked at, in bytes.
pub const JWT_SVID_MAX: usize = 64 << 10;
/// The most that clocks may differ (JWT-SVID appendix A: "a small leeway").
pub const JWT_LEEWAY_MAX: Duration = Duration::from_secs(60);

/// Claims whose signature, audience and dates were found good.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VerifiedJwtSvid {
    /// Whose identity the token proves.
    pub spiffe_id: SpiffeId,
    /// All claims, those without a meaning in SPIFFE included; they are data, not authentication.
    pub claims: Map<String, Value>,
    /// From when on the token is worthless.
    pub expires_at: Timestamp,
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwtSvidError {
    /// The token is larger than 64 KiB.
    #[error("token has {length} bytes; at most 65536 are looked at")]
    TooLarge {
        /// Its size.
        length: usize,
    },
    /// The token is not a JWS in compact serialisation.
    #[error("token is not a JWT in compact serialisation")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// `alg` is missing or not allowed.
    #[error("alg is missing or not one of RS, ES or PS with 256, 384 or 512")]
    Algorithm,
    /// `typ` is present and neither `JWT` nor `JOSE`.
    #[error("typ is neither \"JWT\" nor \"JOSE\"")]
    Type,
    /// The header has `crit`: it demands an extension, and there is none that we know.
    #[error("header demands an extension by crit")]
    Critical,
    /// `kid` is missing, empty or too long.
    #[error("kid is missing, empty or longer than 1024 bytes")]
    KeyId,
    /// A claim that must be there is missing, or a claim is of the wrong type.
    #[error("claim {claim:?} is missing or malformed")]
    Claim {
        /// Which claim.
        claim: &'static str,
    },
    /// `sub` is not a SPIFFE ID.
    #[error("claim \"sub\" is not a SPIFFE ID")]
    Subject(#[source] SpiffeIdError),
    /// `sub` is the ID of a trust domain.
    #[error("claim \"sub\" is a SPIFFE ID without a path")]
    SubjectWithoutPath,
    /// There is no bundle for the subject's trust domain.
    #[error("no bundle for trust domain {trust_domain}")]
    NoBundle {
        /// The trust domain that the token names.
        trust_domain: TrustDomain,
    },
    /// The bundle has no JWT key of this name.
    #[error("trust domain {trust_domain} has no JWT key {kid:?}")]
    UnknownKey {
        /// The trust domain that the token names.
        trust_domain: TrustDomain,
        /// The key that the token names.
        kid: String,
    },
    /// The signature is not that key's.
    #[error("token is not signed by the key that it names")]
    Signature(#[source] JwsError),
    /// None of the recipients is the verifier.
    #[error("token is for another audience")]
    Audience,
    /// The token's time is over.
    #[error("token expired at {at}")]
    Expired {
        /// When.
        at: Timestamp,
    },
    /// The token's time has not come.
    #[error("token is not valid before {at}")]
    NotYetValid {
        /// When it will be.
        at: Timestamp,
    },
}

impl From<CompactError> for JwtSvidError {
    fn from(error: CompactError) -> Self {
        Self::Malformed(Box::new(error))
    }
}

impl From<JsonError> for JwtSvidError {
    fn from(error: JsonError) -> Self {
        Self::Malformed(Box::new(error))
    }
}

/// Verifies a token for `expected` recipients against `bundles`. Clocks may differ by `leeway`,
/// of which no more than 60 s are granted.
///
/// # Errors
/// The first rule that the token breaks. All of them mean the same: the caller is not who it says.
pub fn verify_jwt_svid(
    token: &str,
    expected: &Audience,
    bundles: &BundleSet,
    now: Timestamp,
    leeway: Duration,
) -> Result<VerifiedJwtSvid, JwtSvidError> {
    let (jws, header) = Header::of(token)?;
    let payload = jws.payload()?;
    let spiffe_id = subject(&payload)?;

    let trust_domain = spiffe_id.trust_domain();
    let bundle = bundles
        .get(trust_domain)
        .ok_or_else(|| JwtSvidError::NoBundle {
            trust_domain: trust_domain.clone(),
        })?;
    let authority = bundle
        .jwt_authority(&header.kid)
        .ok_or_else(|| JwtSvidError::UnknownKey {
            trust_domain: trust_domain.clone(),
            kid: header.kid.clone(),
        })?;
    header
        .algorithm
        .verify(
            authority.public_key_spki(),
            jws.signing_input(),
            &jws.signature()?,
        )
        .map_err(JwtSvidError::Signature)?;

    let audience = audience(&payload)?;
    if !audience.iter().any(|value| expected.contains(value)) {
        return Err(JwtSvidError::Audience);
    }
    let expires_at = check_dates(&payload, now, leeway.min(JWT_LEEWAY_MAX))?;
    Ok(VerifiedJwtSvid {
        spiffe_id,
        claims: payload.into_map()?,
        expires_at,
    })
}

/// A token whose signature nobody checked: what a workload may read from its own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnverifiedJwtSvid {
    /// Whose identity the token claims.
    pub spiffe_id: SpiffeId,
    /// For whom it claims to be.
    pub audience: Vec<String>,
    /// Which key is said to have signed it.
    pub kid: String,
    /// When it says that it was made.
    pub issued_at: Option<Timestamp>,
    /// When it says that it ends.
    pub expires_at: Timestamp,
}

impl UnverifiedJwtSvid {
    /// Reads a token without a bundle. Never decide by it who somebody is.
    ///
    /// # Errors
    /// When the token breaks a rule that can be seen without a key and a clock.
    pub fn parse(token: &str) -> Result<Self, JwtSvidError> {
        let (jws, header) = Header::of(token)?;
        jws.signature()?;
        let payload = jws.payload()?;
        let svid = Self {
            spiffe_id: subject(&payload)?,
            audience: audience(&payload)?.into_iter().map(str::to_owned).collect(),
            kid: header.kid,
            issued_at: date(&payload, "iat")?,
            expires_at: date(&payload, "exp")?.ok_or(JwtSvidError::Claim { claim: "exp" })?,
        };
        payload.into_map()?;
        Ok(svid)
    }
}

struct Header {
    algorithm: JwsAlgorithm,
    kid: String,
}

impl Header {
    /// Takes the token apart and judges its header, the algorithm first.
    fn of(token: &str) -> Result<(CompactJws<'_>, Self), JwtSvidError> {
        if token.len() > JWT_SVID_MAX {
            return Err(JwtSvidError::TooLarge {
                length: token.len(),
            });
        }
        let jws = CompactJws::parse(token)?;
        let header = jws.header()?;
        let algorithm = header.text("alg").and_then(JwsAlgorithm::from_name);
        let algorithm = algorithm.ok_or(JwtSvidError::Algorithm)?;
        match header.get("typ") {
            None => {}
            Some(Node::String(typ)) if typ == "JWT" || typ == "JOSE" => {}
            Some(_) => return Err(JwtSvidError::Type),
        }
        // Unknown members are ignored, but none may demand to be understood (decision A-7).
        if header.get("crit").is_some() {
            return Err(JwtSvidError::Critical);
        }
        let kid = header
            .text("kid")
            .filter(|kid| (1..=KID_MAX).contains(&kid.len()));
        let kid = kid.ok_or(JwtSvidError::KeyId)?.to_owned();
        header.into_map()?;
        Ok((jws, Self { algorithm, kid }))
    }
}

fn subject(payload: &Object) -> Result<SpiffeId, JwtSvidError> {
    let subject = payload
        .text("sub")
        .ok_or(JwtSvidError::Claim { claim: "sub" })?;
    let id = SpiffeId::parse(subject).map_err(JwtSvidError::Subject)?;
    if id.has_path() {
        Ok(id)
    } else {
        Err(JwtSvidError::SubjectWithoutPath)
    }
}

/// One text or an array of texts (RFC 7519 section 4.1.3); decision A-8.
fn audience(payload: &Object) -> Result<Vec<&str>, JwtSvidError> {
    let malformed = JwtSvidError::Claim { claim: "aud" };
    let values = match payload.get("aud") {
        Some(Node::String(value)) => vec![value.as_str()],
        Some(Node::Array(values)) => values
            .iter()
            .map(Node::text)
            .collect::<Option<_>>()
            .ok_or(malformed)?,
        _ => return Err(malformed),
    };
    if values.iter().all(|value| value.is_empty()) {
        return Err(JwtSvidError::Claim { claim: "aud" });
    }
    Ok(values)
}

fn check_dates(
    payload: &Object,
    now: Timestamp,
    leeway: Duration,
) -> Result<Timestamp, JwtSvidError> {
    let expires_at = date(payload, "exp")?.ok_or(JwtSvidError::Claim { claim: "exp" })?;
    if now >= expires_at.saturating_add(leeway) {
        return Err(JwtSvidError::Expired { at: expires_at });
    }
    let not_before = date(payload, "nbf")?;
    if let Some(at) = not_before.filter(|at| now.saturating_add(leeway) < *at) {
        return Err(JwtSvidError::NotYetValid { at });
    }
    date(payload, "iat")?;
    Ok(expires_at)
}

/// A NumericDate (RFC 7519 section 2): a number of seconds, perhaps with a fraction.
fn date(payload: &Object, claim: &'static str) -> Result<Option<Timestamp>, JwtSvidError> {
    let number = match payload.get(claim) {
        None => return Ok(None),
        Some(Node::Number(number)) => number,
        Some(_) => return Err(JwtSvidError::Claim { claim }),
    };
    if let Some(seconds) = number.as_i64() {
        return Ok(Some(Timestamp::from_unix_secs(seconds)));
    }
    let seconds = number.as_f64().ok_or(JwtSvidError::Claim { claim })?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float cast saturates; that is wanted"
    )]
    let millis = (seconds * 1_000.0).floor() as i64;
    Ok(Some(Timestamp::from_unix_millis(millis)))
}
