//! Building a JWT-SVID.
//!
//! Responsible for: the exact bytes that an authority signs for given claims.
//! Always holds: the header has `alg`, `kid` and `typ` and nothing else (JWT-SVID section 2);
//! `sub`, `aud`, `exp` and `iat` are always there, and dates are whole seconds.
//! Not here: deciding subject, audience and lifetime.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Audience;
use crate::bundle::KID_MAX;
use crate::clock::Timestamp;
use crate::jose::{self, JwsAlgorithm};
use crate::spiffe_id::SpiffeId;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtClaims {
    /// Whose identity it is.
    pub spiffe_id: SpiffeId,
    /// For whom it is.
    pub audience: Audience,
    /// When it is made.
    pub issued_at: Timestamp,
    /// From when on it is worthless.
    pub expires_at: Timestamp,
    /// Names this very token, where the entry wants one.
    pub jti: Option<String>,
    /// The issuer's URL, where the trust domain has one for OIDC.
    pub issuer: Option<String>,
}

/// The rule that claims break.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtIssueError {
    /// The subject is a trust domain, not a workload.
    #[error("SPIFFE ID {id} has no path; a token needs a workload's ID")]
    SubjectWithoutPath {
        /// The ID given.
        id: SpiffeId,
    },
    /// In whole seconds, the token would be worthless when it is made.
    #[error("token would expire at {expires_at}, not after {issued_at} when it is made")]
    Lifetime {
        /// When it is made.
        issued_at: Timestamp,
        /// When it would expire.
        expires_at: Timestamp,
    },
    /// The key id is empty or too long.
    #[error("key id is empty or longer than 1024 bytes")]
    KeyId,
}

/// What an authority has to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtSigningInput(String);

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    kid: &'a str,
    typ: &'static str,
}

#[derive(Serialize)]
struct Payload<'a> {
    aud: &'a [String],
    exp: i64,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<&'a str>,
    sub: &'a str,
}

/// Encodes header and claims as the bytes to sign by the key that tokens call `kid`.
///
/// # Errors
/// The rule that the claims break.
#[expect(
    clippy::expect_used,
    reason = "the types above hold only strings and numbers"
)]
pub fn jwt_signing_input(
    claims: &JwtClaims,
    kid: &str,
    algorithm: JwsAlgorithm,
) -> Result<JwtSigningInput, JwtIssueError> {
    if !claims.spiffe_id.has_path() {
        return Err(JwtIssueError::SubjectWithoutPath {
            id: claims.spiffe_id.clone(),
        });
    }
    if !(1..=KID_MAX).contains(&kid.len()) {
        return Err(JwtIssueError::KeyId);
    }
    let (iat, exp) = (claims.issued_at.unix_secs(), claims.expires_at.unix_secs());
    if exp <= iat {
        let (issued_at, expires_at) = (claims.issued_at, claims.expires_at);
        return Err(JwtIssueError::Lifetime {
            issued_at,
            expires_at,
        });
    }
    let header = Header {
        alg: algorithm.name(),
        kid,
        typ: "JWT",
    };
    let payload = Payload {
        aud: claims.audience.values(),
        exp,
        iat,
        iss: claims.issuer.as_deref(),
        jti: claims.jti.as_deref(),
        sub: claims.spiffe_id.as_str(),
    };
    let header = serde_json::to_vec(&header).expect("strings are written to memory");
    let payload = serde_json::to_vec(&payload).expect("strings are written to memory");
    Ok(JwtSigningInput(jose::encode_signing_input(
        &header, &payload,
    )))
}

impl JwtSigningInput {
    /// The bytes to sign.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// What the audit log records of the token: anyone who has the token can recompute it.
    #[must_use]
    pub fn svid_hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// The finished token; an ECDSA signature is `r || s`, as JWS wants it.
    #[must_use]
    pub fn attach(self, raw_signature: &[u8]) -> String {
        jose::attach_signature(&self.0, raw_signature)
    }
}
