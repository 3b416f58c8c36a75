//! JWT-SVIDs.

use std::collections::BTreeMap;

use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::jwt::UnverifiedJwtSvid;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::spiffe::workload as wire;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use serde_json::json;

use super::{Client, answer, checked_hint, first_of_each_hint, trust_domain};
use crate::error::ClientError;

/// A JWT-SVID as the agent sent it.
#[derive(Clone)]
pub struct JwtToken {
    /// Its subject: the agent named it, and the token says the same.
    pub spiffe_id: SpiffeId,
    /// The compact JWS. Whoever has it can use it until it expires.
    pub token: String,
    /// Operator's label; no security meaning.
    pub hint: String,
}

impl std::fmt::Debug for JwtToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtToken")
            .field("spiffe_id", &self.spiffe_id)
            .finish_non_exhaustive()
    }
}

/// What the agent says of a token that it found valid.
#[derive(Debug, Clone)]
pub struct ValidatedJwt {
    /// The subject.
    pub spiffe_id: SpiffeId,
    /// The claims.
    pub claims: serde_json::Map<String, serde_json::Value>,
}

impl Client {
    /// Fetches tokens for an audience: one for each identity of this process, or for the one named.
    ///
    /// # Errors
    /// What the agent answers; see [`ClientError`].
    pub async fn fetch_jwt(
        &mut self,
        audience: &[String],
        spiffe_id: Option<&SpiffeId>,
    ) -> Result<Vec<JwtToken>, ClientError> {
        let request = wire::JwtsvidRequest {
            audience: audience.to_vec(),
            spiffe_id: spiffe_id.map(ToString::to_string).unwrap_or_default(),
        };
        let response = answer(self.service.fetch_jwtsvid(request)).await?;
        if response.svids.is_empty() {
            return Err(ClientError::malformed("svids", "is empty"));
        }
        let tokens = response
            .svids
            .into_iter()
            .map(token)
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(asked) = spiffe_id
            && let Some(other) = tokens.iter().find(|token| token.spiffe_id != *asked)
        {
            let reason = format!("{} was not asked for", other.spiffe_id);
            return Err(ClientError::malformed("spiffe_id", reason));
        }
        Ok(first_of_each_hint(tokens, |token| &token.hint))
    }

    /// Has the agent validate a token for an audience. This is how tokens should be validated: the
    /// agent knows every bundle and every rule (Workload API, section 6.3).
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the token is not valid.
    pub async fn validate_jwt(
        &mut self,
        audience: &str,
        token: &str,
    ) -> Result<ValidatedJwt, ClientError> {
        let request = wire::ValidateJwtsvidRequest {
            audience: audience.to_owned(),
            svid: token.to_owned(),
        };
        let response = answer(self.service.validate_jwtsvid(request)).await?;
        let spiffe_id = response
            .spiffe_id
            .parse()
            .map_err(|e| ClientError::id("spiffe_id", &e))?;
        let claims = response
            .claims
            .ok_or_else(|| ClientError::malformed("claims", "is missing"))?;
        Ok(ValidatedJwt {
            spiffe_id,
            claims: self::claims(claims),
        })
    }

    /// The JWT bundles as they are now: a JWK set for each trust domain.
    ///
    /// # Errors
    /// What the agent answers; see [`ClientError`].
    pub async fn fetch_jwt_bundles(
        &mut self,
    ) -> Result<BTreeMap<TrustDomain, Vec<u8>>, ClientError> {
        self.watch_jwt_bundles().await?.next().await
    }

    /// Opens the stream of JWT bundles.
    ///
    /// # Errors
    /// What the agent answers; see [`ClientError`].
    pub async fn watch_jwt_bundles(&mut self) -> Result<JwtBundlesStream, ClientError> {
        let messages = self
            .service
            .fetch_jwt_bundles(wire::JwtBundlesRequest {})
            .await?
            .into_inner();
        Ok(JwtBundlesStream { messages })
    }
}

/// An open stream of JWT bundles.
#[derive(Debug)]
pub struct JwtBundlesStream {
    messages: tonic::Streaming<wire::JwtBundlesResponse>,
}

impl JwtBundlesStream {
    /// The next whole state, a JWK set for each trust domain; waits until something changes.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] for an answer to discard (the stream stays open), anything else when
    /// the stream ended.
    pub async fn next(&mut self) -> Result<BTreeMap<TrustDomain, Vec<u8>>, ClientError> {
        jwt_bundles(self.messages.message().await?.ok_or(ClientError::Closed)?)
    }
}

/// What a message of bundles says.
#[doc(hidden)]
pub fn jwt_bundles(
    message: wire::JwtBundlesResponse,
) -> Result<BTreeMap<TrustDomain, Vec<u8>>, ClientError> {
    if message.bundles.is_empty() {
        return Err(ClientError::malformed("bundles", "is empty"));
    }
    message
        .bundles
        .into_iter()
        .map(|(id, jwks)| Ok((trust_domain("bundles", &id)?, jwks)))
        .collect()
}

/// What an issued token says of itself.
#[doc(hidden)]
pub fn token(svid: wire::Jwtsvid) -> Result<JwtToken, ClientError> {
    let spiffe_id = svid
        .spiffe_id
        .parse()
        .map_err(|e| ClientError::id("spiffe_id", &e))?;
    if svid.svid.is_empty() {
        return Err(ClientError::malformed("svid", "is empty"));
    }
    let content = UnverifiedJwtSvid::parse(&svid.svid)
        .map_err(|error| ClientError::malformed("svid", error.to_string()))?;
    if content.spiffe_id != spiffe_id {
        return Err(ClientError::malformed(
            "spiffe_id",
            "is not the subject of the token",
        ));
    }
    Ok(JwtToken {
        spiffe_id,
        token: svid.svid,
        hint: checked_hint(svid.hint)?,
    })
}

/// Claims as JSON.
#[doc(hidden)]
#[must_use]
pub fn claims(fields: Struct) -> serde_json::Map<String, serde_json::Value> {
    fields
        .fields
        .into_iter()
        .map(|(name, value)| (name, json_value(value)))
        .collect()
}

/// Largest magnitude at which a double still holds every integer.
const EXACT_INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

fn json_value(value: Value) -> serde_json::Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(b)) => json!(b),
        // Numeric dates arrive as doubles; whole ones are printed as integers.
        #[expect(clippy::cast_possible_truncation, reason = "guarded: whole and exact")]
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < EXACT_INTEGER_MAX => {
            json!(n as i64)
        }
        Some(Kind::NumberValue(n)) => json!(n),
        Some(Kind::StringValue(s)) => json!(s),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json_value).collect(),
        Some(Kind::StructValue(fields)) => serde_json::Value::Object(claims(fields)),
    }
}
