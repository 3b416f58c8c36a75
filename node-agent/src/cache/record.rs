//! What the frames of the cache file say.
//!
//! Responsible for: turning the difference between two states into records, and records back
//! into a state. Always holds: replaying the records of all differences in order gives the last
//! state; a record that does not parse makes the whole file useless, never a wrong state.
//! Not here: encryption (`frames`), when to write (`keeper`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mintmark_identity::{
    bundle::{Bundle, BundleSet},
    clock::Timestamp,
    entry::{EntryId, RegistrationEntry},
    secret::SecretBytes,
    spiffe_id::SpiffeId,
    trust_domain::TrustDomain,
    validity::Validity,
};
use mintmark_proto::mintmark::state::v1 as pb;
use prost::Message;

use super::state::{CachedSvid, Defaults, IssuedFor, Position, State};

/// One frame: everything that changed at once.
#[derive(Clone, PartialEq, Message)]
pub struct Frame {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<EntryRecord>,
    #[prost(string, repeated, tag = "2")]
    removed_entries: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    bundles: Vec<BundleRecord>,
    #[prost(string, repeated, tag = "4")]
    removed_bundles: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    svids: Vec<SvidRecord>,
    #[prost(string, repeated, tag = "6")]
    removed_svids: Vec<String>,
    #[prost(message, optional, tag = "7")]
    general: Option<GeneralRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct EntryRecord {
    #[prost(message, optional, tag = "1")]
    entry: Option<pb::Entry>,
    #[prost(int64, tag = "2")]
    since_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
struct BundleRecord {
    #[prost(string, tag = "1")]
    trust_domain: String,
    #[prost(bytes = "vec", tag = "2")]
    document: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct SvidRecord {
    #[prost(string, tag = "1")]
    entry_id: String,
    #[prost(string, tag = "2")]
    spiffe_id: String,
    #[prost(string, repeated, tag = "3")]
    dns_names: Vec<String>,
    #[prost(uint64, tag = "4")]
    x509_svid_ttl_seconds: u64,
    #[prost(bytes = "vec", repeated, tag = "5")]
    chain: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "6")]
    key: Vec<u8>,
    #[prost(string, tag = "7")]
    serial: String,
    #[prost(string, tag = "8")]
    authority_id: String,
    #[prost(int64, tag = "9")]
    not_before_ms: i64,
    #[prost(int64, tag = "10")]
    not_after_ms: i64,
    #[prost(int64, tag = "11")]
    received_at_ms: i64,
    #[prost(int64, tag = "12")]
    renew_at_ms: i64,
    #[prost(uint64, tag = "13")]
    draw: u64,
    /// Empty when it is the same as `authority_id`.
    #[prost(string, tag = "14")]
    anchor_id: String,
}

impl std::fmt::Debug for SvidRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SvidRecord")
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Message)]
struct GeneralRecord {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(int64, tag = "3")]
    last_update_ms: i64,
    #[prost(uint64, tag = "4")]
    bundle_sequence: u64,
    #[prost(btree_map = "string, int64", tag = "5")]
    tainted: BTreeMap<String, i64>,
    #[prost(uint64, tag = "6")]
    x509_svid_ttl_seconds: u64,
    #[prost(uint64, tag = "7")]
    jwt_svid_ttl_seconds: u64,
    #[prost(bool, tag = "8")]
    hybrid: bool,
    #[prost(string, repeated, tag = "9")]
    servers: Vec<String>,
}

/// A record that is not one of ours.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a record of the cache is malformed: {0}")]
pub struct RecordError(&'static str);

fn seconds(ttl: Option<Duration>) -> u64 {
    ttl.map_or(0, |ttl| ttl.as_secs())
}

fn duration(seconds: u64) -> Option<Duration> {
    (seconds != 0).then(|| Duration::from_secs(seconds))
}

impl Frame {
    /// What is in `now` and was not, or was otherwise, in `before`. `None` when nothing is.
    #[must_use]
    pub fn between(before: &State, now: &State) -> Option<Self> {
        let mut frame = Self::default();
        if !Arc::ptr_eq(&before.entries, &now.entries) {
            frame.entries = now
                .entries
                .iter()
                .filter(|held| before.entries.get(&held.entry.id) != Some(held))
                .map(|held| EntryRecord {
                    entry: Some(pb::Entry::from(held.entry.as_ref())),
                    since_ms: held.since.unix_millis(),
                })
                .collect();
            frame.removed_entries = before
                .entries
                .iter()
                .filter(|held| now.entries.get(&held.entry.id).is_none())
                .map(|held| held.entry.id.to_string())
                .collect();
        }
        if !Arc::ptr_eq(&before.bundles, &now.bundles) {
            frame.diff_bundles(&before.bundles, &now.bundles);
        }
        if !Arc::ptr_eq(&before.svids, &now.svids) {
            frame.diff_svids(before, now);
        }
        let general = GeneralRecord::of(now);
        if GeneralRecord::of(before) != general {
            frame.general = Some(general);
        }
        (frame != Self::default()).then_some(frame)
    }

    fn diff_bundles(&mut self, before: &BundleSet, now: &BundleSet) {
        self.bundles = now
            .iter()
            .filter(|bundle| before.get(&bundle.trust_domain) != Some(bundle))
            .map(|bundle| BundleRecord {
                trust_domain: bundle.trust_domain.to_string(),
                document: bundle.to_document(),
            })
            .collect();
        self.removed_bundles = before
            .iter()
            .filter(|bundle| now.get(&bundle.trust_domain).is_none())
            .map(|bundle| bundle.trust_domain.to_string())
            .collect();
    }

    fn diff_svids(&mut self, before: &State, now: &State) {
        let same = |a: &Arc<CachedSvid>, b: &Arc<CachedSvid>| {
            Arc::ptr_eq(a, b) || (a.serial == b.serial && a.renew_at == b.renew_at)
        };
        self.svids = now
            .svids
            .iter()
            .filter(|(id, svid)| !before.svids.get(*id).is_some_and(|old| same(old, svid)))
            .map(|(_, svid)| SvidRecord::of(svid))
            .collect();
        self.removed_svids = before
            .svids
            .keys()
            .filter(|id| !now.svids.contains_key(*id))
            .map(EntryId::to_string)
            .collect();
    }

    /// Reads a frame and applies it.
    ///
    /// # Errors
    /// When it is malformed; the state is then of no use.
    pub fn replay(bytes: &[u8], state: &mut State, now: Timestamp) -> Result<(), RecordError> {
        let frame = Self::decode(bytes).map_err(|_| RecordError("frame"))?;
        for id in &frame.removed_entries {
            let id = EntryId::parse(id.as_str()).map_err(|_| RecordError("entry id"))?;
            Arc::make_mut(&mut state.entries).remove(&id);
            state.drop_svid(&id);
        }
        for id in &frame.removed_svids {
            state.drop_svid(&EntryId::parse(id.as_str()).map_err(|_| RecordError("entry id"))?);
        }
        for record in &frame.entries {
            let wire = record.entry.as_ref().ok_or(RecordError("entry"))?;
            let entry = RegistrationEntry::try_from(wire).map_err(|_| RecordError("entry"))?;
            state.restore_entry(entry, Timestamp::from_unix_millis(record.since_ms));
        }
        replay_bundles(&frame, state)?;
        for record in frame.svids {
            let svid = record.read()?;
            state.drop_svid(&svid.entry_id.clone());
            // An expired SVID, or one whose entry changed its identity, is simply left out.
            let _kept = state.restore_svid(svid, now);
        }
        if let Some(general) = frame.general {
            general.apply(state);
        }
        Ok(())
    }
}

fn replay_bundles(frame: &Frame, state: &mut State) -> Result<(), RecordError> {
    let bundles = Arc::make_mut(&mut state.bundles);
    for name in &frame.removed_bundles {
        bundles.remove(&TrustDomain::parse(name).map_err(|_| RecordError("trust domain"))?);
    }
    for record in &frame.bundles {
        let domain =
            TrustDomain::parse(&record.trust_domain).map_err(|_| RecordError("trust domain"))?;
        let (bundle, _skipped) =
            Bundle::from_document(&domain, &record.document).map_err(|_| RecordError("bundle"))?;
        bundles.insert(bundle);
    }
    Ok(())
}

impl SvidRecord {
    fn of(svid: &CachedSvid) -> Self {
        Self {
            entry_id: svid.entry_id.to_string(),
            spiffe_id: svid.issued_for.spiffe_id.to_string(),
            dns_names: svid.issued_for.dns_names.clone(),
            x509_svid_ttl_seconds: seconds(svid.issued_for.x509_svid_ttl),
            chain: svid.chain.clone(),
            key: svid.key.expose().to_vec(),
            serial: svid.serial.clone(),
            authority_id: svid.authority_id.clone(),
            not_before_ms: svid.validity.not_before.unix_millis(),
            not_after_ms: svid.validity.not_after.unix_millis(),
            received_at_ms: svid.received_at.unix_millis(),
            renew_at_ms: svid.renew_at.unix_millis(),
            draw: svid.draw,
            anchor_id: if svid.anchor_id == svid.authority_id {
                String::new()
            } else {
                svid.anchor_id.clone()
            },
        }
    }

    fn read(self) -> Result<CachedSvid, RecordError> {
        if self.chain.is_empty() {
            return Err(RecordError("chain"));
        }
        let spiffe_id = SpiffeId::parse(&self.spiffe_id).map_err(|_| RecordError("spiffe id"))?;
        let anchor_id = match self.anchor_id {
            same if same.is_empty() => self.authority_id.clone(),
            other => other,
        };
        Ok(CachedSvid {
            entry_id: EntryId::parse(self.entry_id).map_err(|_| RecordError("entry id"))?,
            issued_for: IssuedFor {
                spiffe_id,
                dns_names: self.dns_names,
                x509_svid_ttl: duration(self.x509_svid_ttl_seconds),
            },
            chain: self.chain,
            key: SecretBytes::new(self.key),
            serial: self.serial,
            authority_id: self.authority_id,
            anchor_id,
            validity: Validity {
                not_before: Timestamp::from_unix_millis(self.not_before_ms),
                not_after: Timestamp::from_unix_millis(self.not_after_ms),
            },
            received_at: Timestamp::from_unix_millis(self.received_at_ms),
            renew_at: Timestamp::from_unix_millis(self.renew_at_ms),
            draw: self.draw,
        })
    }
}

impl GeneralRecord {
    fn of(state: &State) -> Self {
        let position = state.position.unwrap_or_default();
        Self {
            epoch: position.epoch,
            index: position.index,
            last_update_ms: state.last_update.map_or(0, Timestamp::unix_millis),
            bundle_sequence: state.bundle_sequence,
            tainted: state
                .tainted
                .iter()
                .map(|(id, at)| (id.clone(), at.unix_millis()))
                .collect(),
            x509_svid_ttl_seconds: seconds(state.defaults.x509_svid_ttl),
            jwt_svid_ttl_seconds: seconds(state.defaults.jwt_svid_ttl),
            hybrid: state.defaults.hybrid,
            servers: state.defaults.servers.clone(),
        }
    }

    fn apply(self, state: &mut State) {
        let known = self.last_update_ms != 0;
        state.position = known.then_some(Position {
            epoch: self.epoch,
            index: self.index,
        });
        state.last_update = known.then(|| Timestamp::from_unix_millis(self.last_update_ms));
        state.bundle_sequence = self.bundle_sequence;
        let tainted = self.tainted.into_iter();
        state.tainted = Arc::new(
            tainted
                .map(|(id, at)| (id, Timestamp::from_unix_millis(at)))
                .collect(),
        );
        state.defaults = Defaults {
            x509_svid_ttl: duration(self.x509_svid_ttl_seconds),
            jwt_svid_ttl: duration(self.jwt_svid_ttl_seconds),
            hybrid: self.hybrid,
            servers: self.servers,
        };
    }
}
