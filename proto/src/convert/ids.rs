//! SPIFFE IDs, trust domains, entry IDs and selectors.
//!
//! Responsible for: SPIRE's two-part SPIFFE ID, and selectors of both protocols.
//! Always holds: nothing is folded or normalised to make it fit.
//! Not here: the rules themselves (`mintmark_identity::spiffe_id`, `::selector`).

use std::collections::BTreeSet;

use mintmark_identity::entry::EntryId;
use mintmark_identity::selector::{Selector, SelectorError, Selectors};
use mintmark_identity::spiffe_id::{SpiffeId, SpiffeIdError};
use mintmark_identity::trust_domain::TrustDomain;

use super::{ConvertError, each};
use crate::mintmark::state::v1 as state;
use crate::spire::types;

impl From<&SpiffeId> for types::Spiffeid {
    fn from(id: &SpiffeId) -> Self {
        Self {
            trust_domain: id.trust_domain().as_str().to_owned(),
            path: id.path().to_owned(),
        }
    }
}

impl TryFrom<&types::Spiffeid> for SpiffeId {
    type Error = ConvertError;

    /// An empty path gives the ID of the trust domain itself.
    fn try_from(wire: &types::Spiffeid) -> Result<Self, Self::Error> {
        let domain = trust_domain("trust_domain", &wire.trust_domain)?;
        Self::from_path(&domain, &wire.path).map_err(|error| ConvertError::new("path", error))
    }
}

/// Parses a SPIFFE ID written as one string.
pub(super) fn spiffe_id(field: &str, text: &str) -> Result<SpiffeId, ConvertError> {
    SpiffeId::parse(text).map_err(|error| ConvertError::new(field, error))
}

/// Parses the ID of an entry.
pub(super) fn entry_id(field: &str, text: &str) -> Result<EntryId, ConvertError> {
    EntryId::parse(text).map_err(|error| ConvertError::new(field, error))
}

/// A list of trust domains as a set.
pub(super) fn domains_from_names(
    field: &str,
    names: &[String],
) -> Result<BTreeSet<TrustDomain>, ConvertError> {
    each(field, names, |name| trust_domain("", name))
}

/// A set of trust domains as bare names, in order.
pub(super) fn domains_to_names(domains: &BTreeSet<TrustDomain>) -> Vec<String> {
    domains
        .iter()
        .map(|domain| domain.as_str().to_owned())
        .collect()
}

/// Parses a trust domain as SPIRE does: a bare name or an ID.
///
/// # Errors
/// [`ConvertError`] that names `field`.
pub fn trust_domain(field: &str, text: &str) -> Result<TrustDomain, ConvertError> {
    if text.is_empty() {
        return Err(ConvertError::new(field, SpiffeIdError::MissingTrustDomain));
    }
    TrustDomain::from_id_or_name(text).map_err(|error| ConvertError::new(field, error))
}

/// Makes a selector; `kind_field` is what the protocol calls its kind.
fn selector(kind_field: &str, kind: &str, value: &str) -> Result<Selector, ConvertError> {
    Selector::new(kind, value).map_err(|error| {
        let field = match error {
            SelectorError::EmptyValue | SelectorError::ValueTooLong { .. } => "value",
            _ => kind_field,
        };
        ConvertError::new(field, error)
    })
}

impl From<&Selector> for types::Selector {
    fn from(selector: &Selector) -> Self {
        Self {
            r#type: selector.kind().to_owned(),
            value: selector.value().to_owned(),
        }
    }
}

impl TryFrom<&types::Selector> for Selector {
    type Error = ConvertError;

    fn try_from(wire: &types::Selector) -> Result<Self, Self::Error> {
        selector("type", &wire.r#type, &wire.value)
    }
}

impl From<&Selector> for state::Selector {
    fn from(selector: &Selector) -> Self {
        Self {
            kind: selector.kind().to_owned(),
            value: selector.value().to_owned(),
        }
    }
}

impl TryFrom<&state::Selector> for Selector {
    type Error = ConvertError;

    fn try_from(wire: &state::Selector) -> Result<Self, Self::Error> {
        selector("kind", &wire.kind, &wire.value)
    }
}

/// Selectors of a SPIRE message, as a set.
///
/// # Errors
/// [`ConvertError`] that names `field` and the position.
pub fn selectors_from_spire(
    field: &str,
    wire: &[types::Selector],
) -> Result<Selectors, ConvertError> {
    each(field, wire, Selector::try_from)
}

/// A set of selectors for a SPIRE message, in order.
#[must_use]
pub fn selectors_to_spire(selectors: &Selectors) -> Vec<types::Selector> {
    selectors.iter().map(Into::into).collect()
}

/// Selectors of a state record, as a set.
///
/// # Errors
/// [`ConvertError`] that names `field` and the position.
pub fn selectors_from_state(
    field: &str,
    wire: &[state::Selector],
) -> Result<Selectors, ConvertError> {
    each(field, wire, Selector::try_from)
}

/// A set of selectors for a state record, in order.
#[must_use]
pub fn selectors_to_state(selectors: &Selectors) -> Vec<state::Selector> {
    selectors.iter().map(Into::into).collect()
}
