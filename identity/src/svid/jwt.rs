//! JWT-SVIDs.
//!
//! Responsible for: building the bytes that an authority signs, and verifying a token against
//! the bundle of the trust domain that it names.
//! Always holds: a token is judged by its algorithm before anything else in it is looked at; it
//! is good only for an audience that the verifier named, and an empty expectation cannot be
//! expressed.
//! Not here: holding keys. Signing happens between [`jwt_signing_input`] and
//! [`JwtSigningInput::attach`], wherever the key lives.

mod audience;
mod issue;
mod verify;

pub use self::audience::{AUDIENCE_MAX, AUDIENCE_VALUE_MAX, Audience, AudienceError};
pub use self::issue::{JwtClaims, JwtIssueError, JwtSigningInput, jwt_signing_input};
pub use self::verify::{
    JWT_LEEWAY_MAX, JWT_SVID_MAX, JwtSvidError, UnverifiedJwtSvid, VerifiedJwtSvid, verify_jwt_svid,
};
