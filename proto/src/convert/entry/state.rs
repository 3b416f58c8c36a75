//! Entries as records of the replicated state.
//!
//! Responsible for: `mintmark.state.v1.Entry`.
//! Always holds: every field of [`RegistrationEntry`] is written and read.
//! Not here: SPIRE's form (`spire.rs`).

use mintmark_identity::clock::Timestamp;
use mintmark_identity::entry::RegistrationEntry;

use crate::convert::ids::{domains_from_names, domains_to_names};
use crate::convert::ids::{entry_id, selectors_from_state, selectors_to_state, spiffe_id};
use crate::convert::{ConvertError, optional_seconds, optional_ttl, seconds};
use crate::mintmark::state::v1 as pb;

impl From<&RegistrationEntry> for pb::Entry {
    fn from(entry: &RegistrationEntry) -> Self {
        Self {
            id: entry.id.as_str().to_owned(),
            revision: entry.revision,
            spiffe_id: entry.spiffe_id.as_str().to_owned(),
            parent_id: entry.parent_id.as_str().to_owned(),
            selectors: selectors_to_state(&entry.selectors),
            x509_svid_ttl_seconds: entry.x509_svid_ttl.map_or(0, |ttl| ttl.as_secs()),
            jwt_svid_ttl_seconds: entry.jwt_svid_ttl.map_or(0, |ttl| ttl.as_secs()),
            federates_with: domains_to_names(&entry.federates_with),
            admin: entry.admin,
            downstream: entry.downstream,
            expires_at_seconds: entry.expires_at.map_or(0, Timestamp::unix_secs),
            dns_names: entry.dns_names.clone(),
            store_svid: entry.store_svid,
            hint: entry.hint.clone(),
            created_at_seconds: entry.created_at.unix_secs(),
            disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
            jwt_svid_include_jti: entry.jwt_svid_include_jti,
        }
    }
}

impl TryFrom<&pb::Entry> for RegistrationEntry {
    type Error = ConvertError;

    fn try_from(wire: &pb::Entry) -> Result<Self, Self::Error> {
        Ok(Self {
            id: entry_id("id", &wire.id)?,
            revision: wire.revision,
            spiffe_id: spiffe_id("spiffe_id", &wire.spiffe_id)?,
            parent_id: spiffe_id("parent_id", &wire.parent_id)?,
            selectors: selectors_from_state("selectors", &wire.selectors)?,
            x509_svid_ttl: optional_ttl(wire.x509_svid_ttl_seconds),
            jwt_svid_ttl: optional_ttl(wire.jwt_svid_ttl_seconds),
            federates_with: domains_from_names("federates_with", &wire.federates_with)?,
            admin: wire.admin,
            downstream: wire.downstream,
            expires_at: optional_seconds("expires_at_seconds", wire.expires_at_seconds)?,
            dns_names: wire.dns_names.clone(),
            store_svid: wire.store_svid,
            hint: wire.hint.clone(),
            created_at: seconds("created_at_seconds", wire.created_at_seconds)?,
            disable_x509_svid_prefetch: wire.disable_x509_svid_prefetch,
            jwt_svid_include_jti: wire.jwt_svid_include_jti,
        })
    }
}

impl TryFrom<pb::Entry> for RegistrationEntry {
    type Error = ConvertError;

    fn try_from(wire: pb::Entry) -> Result<Self, Self::Error> {
        Self::try_from(&wire)
    }
}
