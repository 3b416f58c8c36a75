//! Trust bundles.
//!
//! Responsible for: [`Bundle`] and its authorities in SPIRE's API, in the
//! replicated state and in what node agents receive.
//! Always holds: an absent mask means every field; the trust domain is always
//! shown; a `kid` names one key of a bundle, of whatever kind.
//! Not here: the bundle document (`mintmark_identity::bundle::document`), and
//! which authorities of the state are in the bundle (`ca-server`).

use std::collections::BTreeSet;
use std::time::Duration;

use mintmark_identity::bundle::document::SkippedKey;
use mintmark_identity::bundle::{Bundle, JwtAuthority, X509Anchor};
use mintmark_identity::clock::Timestamp;

use super::ids::trust_domain;
use super::{ConvertError, Reason, each, optional_seconds};
use crate::mintmark::agent::v1 as agent;
use crate::mintmark::state::v1 as state;
use crate::spire::types;

impl From<&X509Anchor> for types::X509Certificate {
    fn from(anchor: &X509Anchor) -> Self {
        Self {
            asn1: anchor.certificate.clone(),
            tainted: anchor.tainted,
        }
    }
}

/// The anchors that one field of SPIRE's API holds: it may concatenate several
/// certificates.
///
/// # Errors
/// [`ConvertError`] that names `asn1`.
pub fn anchors_from_spire(wire: &types::X509Certificate) -> Result<Vec<X509Anchor>, ConvertError> {
    if wire.asn1.is_empty() {
        return Err(ConvertError::new("asn1", Reason::Missing));
    }
    let mut anchors = X509Anchor::parse_concatenated(&wire.asn1)
        .map_err(|error| ConvertError::new("asn1", error))?;
    for anchor in &mut anchors {
        anchor.tainted = wire.tainted;
    }
    Ok(anchors)
}

impl From<&JwtAuthority> for types::JwtKey {
    fn from(authority: &JwtAuthority) -> Self {
        Self {
            public_key: authority.public_key_spki().to_vec(),
            key_id: authority.kid().to_owned(),
            expires_at: authority.expires_at.map_or(0, Timestamp::unix_secs),
            tainted: authority.tainted,
        }
    }
}

impl From<&JwtAuthority> for types::WitKey {
    fn from(authority: &JwtAuthority) -> Self {
        let types::JwtKey {
            public_key,
            key_id,
            expires_at,
            tainted,
        } = authority.into();
        Self {
            public_key,
            key_id,
            expires_at,
            tainted,
        }
    }
}

impl TryFrom<&types::JwtKey> for JwtAuthority {
    type Error = ConvertError;

    fn try_from(wire: &types::JwtKey) -> Result<Self, Self::Error> {
        let mut authority =
            token_authority("key_id", &wire.key_id, "public_key", &wire.public_key)?;
        authority.expires_at = optional_seconds("expires_at", wire.expires_at)?;
        authority.tainted = wire.tainted;
        Ok(authority)
    }
}

impl TryFrom<&types::WitKey> for JwtAuthority {
    type Error = ConvertError;

    fn try_from(wire: &types::WitKey) -> Result<Self, Self::Error> {
        let mut authority =
            token_authority("key_id", &wire.key_id, "public_key", &wire.public_key)?;
        authority.expires_at = optional_seconds("expires_at", wire.expires_at)?;
        authority.tainted = wire.tainted;
        Ok(authority)
    }
}

impl TryFrom<&state::Authority> for X509Anchor {
    type Error = ConvertError;

    fn try_from(wire: &state::Authority) -> Result<Self, Self::Error> {
        let mut anchor = Self::parse(&wire.certificate)
            .map_err(|error| ConvertError::new("certificate", error))?;
        anchor.tainted = wire.tainted;
        Ok(anchor)
    }
}

impl TryFrom<&state::Authority> for JwtAuthority {
    type Error = ConvertError;

    fn try_from(wire: &state::Authority) -> Result<Self, Self::Error> {
        let spki = &wire.public_key_spki;
        let mut authority = token_authority("id", &wire.id, "public_key_spki", spki)?;
        authority.expires_at = match wire.not_after_ms {
            ..0 => return Err(ConvertError::new("not_after_ms", Reason::Negative)),
            0 => None,
            time => Some(Timestamp::from_unix_millis(time)),
        };
        authority.tainted = wire.tainted;
        Ok(authority)
    }
}

/// A bundle as the API shows it, with the fields of `mask`.
#[must_use]
pub fn bundle_to_spire(bundle: &Bundle, mask: Option<&types::BundleMask>) -> types::Bundle {
    let mut wire = types::Bundle {
        trust_domain: bundle.trust_domain.as_str().to_owned(),
        x509_authorities: bundle.x509.iter().map(Into::into).collect(),
        jwt_authorities: bundle.jwt.iter().map(Into::into).collect(),
        refresh_hint: bundle
            .refresh_hint
            .map_or(0, |hint| i64::try_from(hint.as_secs()).unwrap_or(i64::MAX)),
        sequence_number: bundle.sequence.unwrap_or(0),
        wit_authorities: bundle.wit.iter().map(Into::into).collect(),
    };
    if let Some(mask) = mask {
        mask_spire_bundle(&mut wire, mask);
    }
    wire
}

/// Empties the fields of `wire` that `mask` does not name.
pub fn mask_spire_bundle(wire: &mut types::Bundle, mask: &types::BundleMask) {
    if !mask.x509_authorities {
        wire.x509_authorities.clear();
    }
    if !mask.jwt_authorities {
        wire.jwt_authorities.clear();
    }
    if !mask.refresh_hint {
        wire.refresh_hint = 0;
    }
    if !mask.sequence_number {
        wire.sequence_number = 0;
    }
    if !mask.wit_authorities {
        wire.wit_authorities.clear();
    }
}

impl TryFrom<&types::Bundle> for Bundle {
    type Error = ConvertError;

    fn try_from(wire: &types::Bundle) -> Result<Self, Self::Error> {
        let anchors: Vec<Vec<X509Anchor>> = each(
            "x509_authorities",
            &wire.x509_authorities,
            anchors_from_spire,
        )?;
        let jwt: Vec<JwtAuthority> = each(
            "jwt_authorities",
            &wire.jwt_authorities,
            JwtAuthority::try_from,
        )?;
        let wit: Vec<JwtAuthority> = each(
            "wit_authorities",
            &wire.wit_authorities,
            JwtAuthority::try_from,
        )?;
        check_kids(&jwt, &wit)?;
        let refresh_hint = u64::try_from(wire.refresh_hint)
            .map_err(|_| ConvertError::new("refresh_hint", Reason::Negative))?;
        Ok(Self {
            trust_domain: trust_domain("trust_domain", &wire.trust_domain)?,
            x509: anchors.into_iter().flatten().collect(),
            jwt,
            wit,
            sequence: (wire.sequence_number != 0).then_some(wire.sequence_number),
            refresh_hint: (refresh_hint != 0).then(|| Duration::from_secs(refresh_hint)),
        })
    }
}

/// A bundle as a node agent receives it. The document does not say which
/// authorities are tainted; `Update.tainted_authorities` does.
#[must_use]
pub fn bundle_to_agent(bundle: &Bundle) -> agent::Bundle {
    agent::Bundle {
        trust_domain: bundle.trust_domain.as_str().to_owned(),
        document: bundle.to_document(),
        sequence: bundle.sequence.unwrap_or(0),
    }
}

/// The bundle that a node agent received, and the keys in it that it must do
/// without. A document that names no sequence has that of the message.
///
/// # Errors
/// [`ConvertError`] that names the field.
pub fn bundle_from_agent(wire: &agent::Bundle) -> Result<(Bundle, Vec<SkippedKey>), ConvertError> {
    let domain = trust_domain("trust_domain", &wire.trust_domain)?;
    let (mut bundle, skipped) = Bundle::from_document(&domain, &wire.document)
        .map_err(|error| ConvertError::new("document", error))?;
    let named = (wire.sequence != 0).then_some(wire.sequence);
    bundle.sequence = bundle.sequence.or(named);
    Ok((bundle, skipped))
}

/// Makes an authority; a fault is that of `kid_field` or of `key_field`.
fn token_authority(
    kid_field: &str,
    kid: &str,
    key_field: &str,
    spki: &[u8],
) -> Result<JwtAuthority, ConvertError> {
    use mintmark_identity::bundle::JwtAuthorityError;
    JwtAuthority::parse(kid, spki).map_err(|error| {
        let field = match error {
            JwtAuthorityError::Kid => kid_field,
            _ => key_field,
        };
        ConvertError::new(field, error)
    })
}

/// Refuses a `kid` that stands for two keys: a token would not say which.
fn check_kids(jwt: &[JwtAuthority], wit: &[JwtAuthority]) -> Result<(), ConvertError> {
    let mut seen = BTreeSet::new();
    for (field, authorities) in [("jwt_authorities", jwt), ("wit_authorities", wit)] {
        for (position, authority) in authorities.iter().enumerate() {
            if !seen.insert(authority.kid()) {
                let field = format!("{field}[{position}].key_id");
                return Err(ConvertError::new(field, Reason::Duplicate));
            }
        }
    }
    Ok(())
}
