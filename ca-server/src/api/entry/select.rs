//! Which entries a list is about.
//!
//! Always: a filter on an identity, a parent or a selector is answered from the state's index, and a
//! page begins after the last entry of the page before; both cost what they find, not what there is.
//!
//! Not here: pages (`api::filter`).

use std::collections::BTreeSet;

use mintmark_identity::entry::{EntryId, RegistrationEntry};
use mintmark_identity::selector::Selectors;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::convert::ids::{selectors_from_spire, trust_domain};
use mintmark_proto::spire::entry::{count_entries_request, list_entries_request};
use mintmark_proto::spire::types;

use crate::api::filter::SetMatch;
use crate::api::status::ApiError;
use crate::state::State;

/// What a list is narrowed to.
#[derive(Debug, Default)]
pub(super) struct Filter {
    spiffe_id: Option<SpiffeId>,
    parent_id: Option<SpiffeId>,
    selectors: Option<(SetMatch, Selectors)>,
    federates_with: Option<(SetMatch, BTreeSet<TrustDomain>)>,
    hint: Option<String>,
    downstream: Option<bool>,
}

/// Both messages of SPIRE's have the same fields.
macro_rules! read_fields {
    ($wire:expr) => {
        Filter {
            spiffe_id: id("by_spiffe_id", $wire.by_spiffe_id.as_ref())?,
            parent_id: id("by_parent_id", $wire.by_parent_id.as_ref())?,
            selectors: $wire.by_selectors.as_ref().map(selectors).transpose()?,
            federates_with: $wire.by_federates_with.as_ref().map(domains).transpose()?,
            hint: $wire.by_hint.clone().map(Into::into),
            downstream: $wire.by_downstream.map(Into::into),
        }
    };
}

impl Filter {
    /// Of a count.
    pub(super) fn of_count(wire: Option<&count_entries_request::Filter>) -> Result<Self, ApiError> {
        let Some(wire) = wire else {
            return Ok(Self::default());
        };
        Ok(read_fields!(wire))
    }

    /// Of a list.
    pub(super) fn of_list(wire: Option<&list_entries_request::Filter>) -> Result<Self, ApiError> {
        let Some(wire) = wire else {
            return Ok(Self::default());
        };
        Ok(read_fields!(wire))
    }

    /// The entries that pass, in order of their ids, from the first one after `after` on.
    pub(super) fn select<'a>(
        &'a self,
        state: &'a State,
        after: Option<&'a EntryId>,
    ) -> impl Iterator<Item = &'a RegistrationEntry> {
        let is_after =
            move |entry: &&RegistrationEntry| after.is_none_or(|after| entry.id > *after);
        self.candidates(state, after)
            .filter(is_after)
            .filter(|entry| self.passes(entry))
    }

    /// At least the entries that pass and come after `after`, in order.
    fn candidates<'a>(
        &'a self,
        state: &'a State,
        after: Option<&'a EntryId>,
    ) -> Box<dyn Iterator<Item = &'a RegistrationEntry> + 'a> {
        let needed = match &self.selectors {
            Some((SetMatch::Exact | SetMatch::Superset, asked)) => asked.first(),
            _ => None,
        };
        match (&self.spiffe_id, &self.parent_id, needed) {
            (Some(id), _, _) => Box::new(state.entries_by_spiffe_id(id)),
            (_, Some(parent), _) => Box::new(state.entries_by_parent(parent)),
            (_, _, Some(selector)) => Box::new(state.entries_by_selector(selector)),
            _ => Box::new(state.entries_after(after)),
        }
    }

    fn passes(&self, entry: &RegistrationEntry) -> bool {
        self.spiffe_id
            .as_ref()
            .is_none_or(|id| *id == entry.spiffe_id)
            && self
                .parent_id
                .as_ref()
                .is_none_or(|id| *id == entry.parent_id)
            && has(&self.selectors, &entry.selectors)
            && has(&self.federates_with, &entry.federates_with)
            && self.hint.as_ref().is_none_or(|hint| *hint == entry.hint)
            && self
                .downstream
                .is_none_or(|downstream| downstream == entry.downstream)
    }
}

fn has<T: Ord>(asked: &Option<(SetMatch, BTreeSet<T>)>, have: &BTreeSet<T>) -> bool {
    asked
        .as_ref()
        .is_none_or(|(mode, asked)| mode.matches(have, asked))
}

fn id(field: &'static str, wire: Option<&types::Spiffeid>) -> Result<Option<SpiffeId>, ApiError> {
    let id = wire.map(SpiffeId::try_from).transpose();
    id.map_err(|error| ApiError::Convert(error.within(field)))
}

fn selectors(wire: &types::SelectorMatch) -> Result<(SetMatch, Selectors), ApiError> {
    let asked = selectors_from_spire("by_selectors", &wire.selectors)?;
    if asked.is_empty() {
        return Err(ApiError::invalid("by_selectors", "names no selector"));
    }
    Ok((SetMatch::from_wire(wire.r#match)?, asked))
}

fn domains(
    wire: &types::FederatesWithMatch,
) -> Result<(SetMatch, BTreeSet<TrustDomain>), ApiError> {
    let names = wire.trust_domains.iter();
    let asked: BTreeSet<_> = names
        .map(|name| trust_domain("by_federates_with", name))
        .collect::<Result<_, _>>()?;
    if asked.is_empty() {
        return Err(ApiError::invalid(
            "by_federates_with",
            "names no trust domain",
        ));
    }
    Ok((SetMatch::from_wire(wire.r#match)?, asked))
}
