//! `FetchJWTSVID` and `ValidateJWTSVID`.
//!
//! Responsible for: checking the requests, one token per identity of the caller, and verifying
//! a token with exactly the bundles that the caller may see. Always holds: an identity that is
//! not the caller's gets the same answer as one that does not exist (WLA-32); a token is handed
//! out only if the caller may have it at that moment, however long it was under way. Not here: caching
//! (`cache::tokens`), the rules of JWT-SVID (`mintmark_identity::svid::jwt`).

use std::{sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use mintmark_identity::{
    bundle::BundleSet,
    spiffe_id::SpiffeId,
    svid::jwt::{Audience, verify_jwt_svid},
};
use mintmark_proto::spiffe::workload::{
    Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
};
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::{Map, Value as Json};
use tonic::{Code, Status};

use crate::{
    cache::state::{Identity, State},
    code,
    issuer::IssuedToken,
    status,
    surface::{Caller, Surface},
};

/// How far clocks of issuer and verifier may be apart.
const LEEWAY: Duration = Duration::from_secs(10);
/// Claims that a token of any trust domain shows its verifier.
const SPIFFE_CLAIMS: [&str; 3] = ["sub", "aud", "exp"];

/// A checked `JWTSVIDRequest`.
#[derive(Debug)]
pub struct Asked {
    audience: Audience,
    spiffe_id: Option<SpiffeId>,
}

impl Asked {
    /// Checks the fields.
    ///
    /// # Errors
    /// `InvalidArgument` without an audience, or with a malformed SPIFFE ID (WLA-13).
    pub fn check(request: JwtsvidRequest) -> Result<Self, Status> {
        let audience = Audience::new(request.audience)
            .map_err(|error| status::malformed(&error.to_string()))?;
        let spiffe_id = match request.spiffe_id.as_str() {
            "" => None,
            text => Some(
                SpiffeId::parse(text)
                    .map_err(|error| status::malformed(&format!("spiffe_id: {error}")))?,
            ),
        };
        Ok(Self {
            audience,
            spiffe_id,
        })
    }
}

/// A token for each identity that was asked for.
///
/// # Errors
/// When the caller may have none of them, or no server issues one.
pub async fn fetch(
    surface: &Surface,
    mut caller: Caller,
    asked: &Asked,
) -> Result<JwtsvidResponse, Status> {
    let state = surface.cache.current();
    let mut identities = surface.entitled(&state, &caller)?;
    if let Some(id) = &asked.spiffe_id {
        identities.retain(|identity| identity.held.entry.spiffe_id == *id);
    }
    if identities.is_empty() {
        return Err(status::no_identity());
    }
    let tokens = identities
        .iter()
        .map(|identity| one(surface, identity, &asked.audience));
    let tokens = try_join_all(tokens).await?;
    if caller.is_stale() {
        surface.renew(&mut caller).await?;
    }
    // From here on nothing waits.
    let state = surface.cache.current();
    let now = surface.entitled(&state, &caller)?;
    let svids = identities.iter().zip(tokens);
    let svids = svids.map(|(identity, token)| hand_out(surface, &state, &now, identity, token));
    Ok(JwtsvidResponse {
        svids: svids.collect::<Result<_, _>>()?,
    })
}

/// Gives a token to its caller, unless it was taken back while it was under way.
fn hand_out(
    surface: &Surface,
    state: &State,
    now: &[Identity],
    asked: &Identity,
    token: IssuedToken,
) -> Result<Jwtsvid, Status> {
    let entry = &asked.held.entry;
    let still = |identity: &Identity| {
        identity.held.entry.id == entry.id && identity.held.arrival == asked.held.arrival
    };
    if !now.iter().any(still) {
        return Err(status::no_identity());
    }
    if state.tainted.contains_key(&token.authority_id) || token.expires_at <= surface.now() {
        surface.tokens.purge(state, surface.now());
        return Err(status::not_issued("its authority was tainted meanwhile"));
    }
    Ok(Jwtsvid {
        spiffe_id: entry.spiffe_id.to_string(),
        svid: token.token,
        hint: entry.hint.clone(),
    })
}

async fn one(
    surface: &Surface,
    identity: &Identity,
    audience: &Audience,
) -> Result<IssuedToken, Status> {
    let issuer = surface.issuer.as_ref();
    let issued = surface
        .tokens
        .get(issuer, &identity.held, audience, || surface.now())
        .await;
    issued.map_err(|error| {
        tracing::warn!(%error, entry_id = %identity.held.entry.id, "no JWT-SVID issued");
        status::not_issued(&error.to_string())
    })
}

/// Checks a `ValidateJWTSVIDRequest`.
///
/// # Errors
/// `InvalidArgument` when a field is empty (WLA-13).
pub fn check_validation(request: ValidateJwtsvidRequest) -> Result<(String, Audience), Status> {
    if request.svid.is_empty() {
        return Err(status::malformed("svid is empty"));
    }
    let audience =
        Audience::new([request.audience]).map_err(|error| status::malformed(&error.to_string()))?;
    Ok((request.svid, audience))
}

/// Verifies a token for the caller.
///
/// # Errors
/// `InvalidArgument` for a token that breaks any rule, `PermissionDenied` for a caller
/// without identity.
pub fn validate(
    surface: &Surface,
    caller: &Caller,
    token: &str,
    audience: &Audience,
    allowed_foreign_claims: &[String],
) -> Result<ValidateJwtsvidResponse, Status> {
    let state = surface.cache.current();
    let identities = surface.entitled(&state, caller)?;
    let mut visible: BundleSet = state.federated(&identities).into_values().collect();
    if let Some(own) = state.own_bundle() {
        visible.insert(Arc::clone(own));
    }
    let verified =
        verify_jwt_svid(token, audience, &visible, surface.now(), LEEWAY).map_err(|error| {
            let text = error.to_string();
            status::status(Code::InvalidArgument, code::TOKEN_INVALID, &text)
        })?;
    let foreign = !verified.spiffe_id.is_member_of(&state.trust_domain);
    let mut claims = verified.claims;
    if foreign {
        claims.retain(|name, _| {
            SPIFFE_CLAIMS.contains(&name.as_str()) || allowed_foreign_claims.contains(name)
        });
    }
    if let Some(Json::String(one)) = claims.get("aud") {
        let list = Json::Array(vec![Json::String(one.clone())]);
        claims.insert("aud".to_owned(), list);
    }
    Ok(ValidateJwtsvidResponse {
        spiffe_id: verified.spiffe_id.to_string(),
        claims: Some(to_struct(claims)),
    })
}

fn to_struct(claims: Map<String, Json>) -> Struct {
    Struct {
        fields: claims
            .into_iter()
            .map(|(name, value)| (name, to_value(value)))
            .collect(),
    }
}

/// The depth is bounded: the parser of the token bounds it.
fn to_value(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(list) => Kind::ListValue(ListValue {
            values: list.into_iter().map(to_value).collect(),
        }),
        Json::Object(members) => Kind::StructValue(to_struct(members)),
    };
    Value { kind: Some(kind) }
}
