//! Entries as SPIRE's API shows and accepts them.
//!
//! Responsible for: `spire.api.types.Entry` and `EntryMask`.
//! Always holds: an absent mask means every field; the ID is always shown and
//! never updated; `revision_number` and `created_at` are never taken from a
//! request, for the server alone decides them.
//! Not here: the replicated record (`state.rs`).

use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::entry::{EntryId, RegistrationEntry};

use crate::convert::ids::{domains_from_names, domains_to_names, entry_id};
use crate::convert::ids::{selectors_from_spire, selectors_to_spire};
use crate::convert::{ConvertError, Reason, optional_seconds, optional_ttl, required, seconds};
use crate::spire::types;
use crate::spire::types::entry::AdditionalAttributes;

/// The ID that the caller of a creation chose; `None`: the server draws one.
///
/// # Errors
/// [`ConvertError`] that names `id`.
pub fn requested_id(wire: &types::Entry) -> Result<Option<EntryId>, ConvertError> {
    (!wire.id.is_empty())
        .then(|| entry_id("id", &wire.id))
        .transpose()
}

/// The entry that a creation asks for, named `id` and dated `created_at`. Its
/// revision is 0.
///
/// # Errors
/// [`ConvertError`] that names the field.
pub fn requested_entry(
    wire: &types::Entry,
    id: EntryId,
    created_at: Timestamp,
) -> Result<RegistrationEntry, ConvertError> {
    let attributes = wire.additional_attributes.unwrap_or_default();
    Ok(RegistrationEntry {
        id,
        revision: 0,
        spiffe_id: required("spiffe_id", wire.spiffe_id.as_ref())?,
        parent_id: required("parent_id", wire.parent_id.as_ref())?,
        selectors: selectors_from_spire("selectors", &wire.selectors)?,
        x509_svid_ttl: ttl("x509_svid_ttl", wire.x509_svid_ttl)?,
        jwt_svid_ttl: ttl("jwt_svid_ttl", wire.jwt_svid_ttl)?,
        federates_with: domains_from_names("federates_with", &wire.federates_with)?,
        admin: wire.admin,
        downstream: wire.downstream,
        expires_at: optional_seconds("expires_at", wire.expires_at)?,
        dns_names: wire.dns_names.clone(),
        store_svid: wire.store_svid,
        hint: wire.hint.clone(),
        created_at,
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
    })
}

/// An entry that a server shows, with its ID, revision and date.
///
/// # Errors
/// [`ConvertError`] that names the field.
pub fn entry_from_spire(wire: &types::Entry) -> Result<RegistrationEntry, ConvertError> {
    let id = entry_id("id", &wire.id)?;
    let created_at = seconds("created_at", wire.created_at)?;
    let revision = u64::try_from(wire.revision_number)
        .map_err(|_| ConvertError::new("revision_number", Reason::Negative))?;
    Ok(RegistrationEntry {
        revision,
        ..requested_entry(wire, id, created_at)?
    })
}

/// An entry as the API shows it, with the fields of `mask`.
#[must_use]
pub fn entry_to_spire(entry: &RegistrationEntry, mask: Option<&types::EntryMask>) -> types::Entry {
    let mut wire = types::Entry {
        id: entry.id.as_str().to_owned(),
        spiffe_id: Some((&entry.spiffe_id).into()),
        parent_id: Some((&entry.parent_id).into()),
        selectors: selectors_to_spire(&entry.selectors),
        x509_svid_ttl: ttl_seconds(entry.x509_svid_ttl),
        federates_with: domains_to_names(&entry.federates_with),
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at: entry.expires_at.map_or(0, Timestamp::unix_secs),
        dns_names: entry.dns_names.clone(),
        revision_number: i64::try_from(entry.revision).unwrap_or(i64::MAX),
        store_svid: entry.store_svid,
        jwt_svid_ttl: ttl_seconds(entry.jwt_svid_ttl),
        hint: entry.hint.clone(),
        created_at: entry.created_at.unix_secs(),
        additional_attributes: attributes(entry),
    };
    if let Some(mask) = mask {
        mask_spire_entry(&mut wire, mask);
    }
    wire
}

/// Empties the fields of `wire` that `mask` does not name.
pub fn mask_spire_entry(wire: &mut types::Entry, mask: &types::EntryMask) {
    let mut masked = types::Entry {
        id: std::mem::take(&mut wire.id),
        revision_number: keep(wire.revision_number, mask.revision_number),
        created_at: keep(wire.created_at, mask.created_at),
        ..types::Entry::default()
    };
    copy_masked(&mut masked, wire, mask);
    *wire = masked;
}

/// The entry after an update: `current` with the fields of `mask` taken from
/// `update`. Its revision stays for the server to raise.
///
/// # Errors
/// [`ConvertError`] that names the field. A field that the mask leaves out is not
/// looked at.
pub fn updated_entry(
    current: &RegistrationEntry,
    update: &types::Entry,
    mask: Option<&types::EntryMask>,
) -> Result<RegistrationEntry, ConvertError> {
    let mut merged = entry_to_spire(current, None);
    copy_masked(&mut merged, &mut update.clone(), mask.unwrap_or(&ALL));
    Ok(RegistrationEntry {
        revision: current.revision,
        ..requested_entry(&merged, current.id.clone(), current.created_at)?
    })
}

/// The mask that an absent one stands for.
const ALL: types::EntryMask = types::EntryMask {
    spiffe_id: true,
    parent_id: true,
    selectors: true,
    x509_svid_ttl: true,
    federates_with: true,
    admin: true,
    downstream: true,
    expires_at: true,
    dns_names: true,
    revision_number: true,
    store_svid: true,
    jwt_svid_ttl: true,
    hint: true,
    created_at: true,
    additional_attributes: true,
};

/// Moves the fields that a caller may set and `mask` names.
fn copy_masked(to: &mut types::Entry, from: &mut types::Entry, mask: &types::EntryMask) {
    take(&mut to.spiffe_id, &mut from.spiffe_id, mask.spiffe_id);
    take(&mut to.parent_id, &mut from.parent_id, mask.parent_id);
    take(&mut to.selectors, &mut from.selectors, mask.selectors);
    take(
        &mut to.x509_svid_ttl,
        &mut from.x509_svid_ttl,
        mask.x509_svid_ttl,
    );
    take(
        &mut to.jwt_svid_ttl,
        &mut from.jwt_svid_ttl,
        mask.jwt_svid_ttl,
    );
    take(
        &mut to.federates_with,
        &mut from.federates_with,
        mask.federates_with,
    );
    take(&mut to.admin, &mut from.admin, mask.admin);
    take(&mut to.downstream, &mut from.downstream, mask.downstream);
    take(&mut to.expires_at, &mut from.expires_at, mask.expires_at);
    take(&mut to.dns_names, &mut from.dns_names, mask.dns_names);
    take(&mut to.store_svid, &mut from.store_svid, mask.store_svid);
    take(&mut to.hint, &mut from.hint, mask.hint);
    take(
        &mut to.additional_attributes,
        &mut from.additional_attributes,
        mask.additional_attributes,
    );
}

fn take<T: Default>(to: &mut T, from: &mut T, named: bool) {
    if named {
        *to = std::mem::take(from);
    }
}

fn keep<T: Default>(value: T, named: bool) -> T {
    if named { value } else { T::default() }
}

fn ttl(field: &str, seconds: i32) -> Result<Option<Duration>, ConvertError> {
    let seconds = u64::try_from(seconds).map_err(|_| ConvertError::new(field, Reason::Negative))?;
    Ok(optional_ttl(seconds))
}

/// A TTL beyond what the message can say is said as the longest that it can.
fn ttl_seconds(ttl: Option<Duration>) -> i32 {
    ttl.map_or(0, |ttl| i32::try_from(ttl.as_secs()).unwrap_or(i32::MAX))
}

/// Absent when it would say nothing.
fn attributes(entry: &RegistrationEntry) -> Option<AdditionalAttributes> {
    let attributes = AdditionalAttributes {
        disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
        jwt_svid_include_jti: entry.jwt_svid_include_jti,
    };
    (attributes != AdditionalAttributes::default()).then_some(attributes)
}
