//! SVIDs and join tokens.
//!
//! Responsible for: what SPIRE's API returns of an issuance.
//! Always holds: times are whole seconds, rounded towards the past, so that no
//! client believes an SVID to live longer than it does.
//! Not here: whether an SVID verifies (`mintmark_identity::svid`).

use mintmark_identity::clock::Timestamp;
use mintmark_identity::spiffe_id::SpiffeId;

use super::{ConvertError, Reason, required, seconds};
use crate::spire::types;

/// An X.509-SVID with what a client wants to know before it parses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509SvidRecord {
    /// DER certificates, leaf first; at least one.
    pub chain: Vec<Vec<u8>>,
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// When it ends.
    pub expires_at: Timestamp,
    /// The entry's hint; empty for none.
    pub hint: String,
}

/// A JWT-SVID with what a client wants to know before it parses it.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtSvidRecord {
    /// Compact JWS.
    pub token: String,
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// The entry's hint; empty for none.
    pub hint: String,
}

impl std::fmt::Debug for JwtSvidRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtSvidRecord")
            .field("spiffe_id", &self.spiffe_id)
            .field("expires_at", &self.expires_at)
            .field("issued_at", &self.issued_at)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

impl From<X509SvidRecord> for types::X509svid {
    fn from(svid: X509SvidRecord) -> Self {
        Self {
            cert_chain: svid.chain,
            id: Some((&svid.spiffe_id).into()),
            expires_at: svid.expires_at.unix_secs(),
            hint: svid.hint,
        }
    }
}

impl TryFrom<types::X509svid> for X509SvidRecord {
    type Error = ConvertError;

    fn try_from(wire: types::X509svid) -> Result<Self, Self::Error> {
        if wire.cert_chain.is_empty() {
            return Err(ConvertError::new("cert_chain", Reason::Missing));
        }
        if let Some(position) = wire.cert_chain.iter().position(Vec::is_empty) {
            let field = format!("cert_chain[{position}]");
            return Err(ConvertError::new(field, Reason::Missing));
        }
        Ok(Self {
            spiffe_id: required("id", wire.id.as_ref())?,
            expires_at: seconds("expires_at", wire.expires_at)?,
            chain: wire.cert_chain,
            hint: wire.hint,
        })
    }
}

impl From<JwtSvidRecord> for types::Jwtsvid {
    fn from(svid: JwtSvidRecord) -> Self {
        Self {
            token: svid.token,
            id: Some((&svid.spiffe_id).into()),
            expires_at: svid.expires_at.unix_secs(),
            issued_at: svid.issued_at.unix_secs(),
            hint: svid.hint,
        }
    }
}

impl TryFrom<types::Jwtsvid> for JwtSvidRecord {
    type Error = ConvertError;

    fn try_from(wire: types::Jwtsvid) -> Result<Self, Self::Error> {
        if wire.token.is_empty() {
            return Err(ConvertError::new("token", Reason::Missing));
        }
        Ok(Self {
            spiffe_id: required("id", wire.id.as_ref())?,
            expires_at: seconds("expires_at", wire.expires_at)?,
            issued_at: seconds("issued_at", wire.issued_at)?,
            token: wire.token,
            hint: wire.hint,
        })
    }
}

/// A join token as the API returns it: the only time that its value is shown.
#[must_use]
pub fn join_token_to_spire(value: &str, expires_at: Timestamp) -> types::JoinToken {
    types::JoinToken {
        value: value.to_owned(),
        expires_at: expires_at.unix_secs(),
    }
}
