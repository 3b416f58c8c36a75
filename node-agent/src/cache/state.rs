//! Everything the agent serves from, as one value.
//!
//! Responsible for: how a server's update, a new SVID and a denial change that value. Always
//! holds: positions only rise; an SVID is held only for an entry that is held, and is for that
//! entry's SPIFFE ID; the authority that it leads to leaves the bundle only together with it; a
//! denied agent holds no SVID. Not here: when to issue (`plan`), disk
//! (`keeper`), the wire (`sync`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mintmark_identity::{
    bundle::{Bundle, BundleSet, X509Anchor},
    clock::Timestamp,
    entry::{EntryId, RegistrationEntry},
    secret::SecretBytes,
    selector::Selectors,
    spiffe_id::SpiffeId,
    trust_domain::TrustDomain,
    validity::Validity,
};
use mintmark_runtime::mutation::{self, Bug};

use super::entries::{Entries, Held};

/// A position in the trust domain's history, compared epoch first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Position {
    /// Rises at every restore of the trust domain.
    pub epoch: u64,
    /// Index in that epoch's log.
    pub index: u64,
}

/// The parts of an entry that an X.509-SVID is made from. When they change, so must the SVID.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IssuedFor {
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// DNS names in the certificate.
    pub dns_names: Vec<String>,
    /// The entry's wish for its lifetime.
    pub x509_svid_ttl: Option<Duration>,
}

impl IssuedFor {
    /// What this entry's SVID is made from.
    #[must_use]
    pub fn of(entry: &RegistrationEntry) -> Self {
        Self {
            spiffe_id: entry.spiffe_id.clone(),
            dns_names: entry.dns_names.clone(),
            x509_svid_ttl: entry.x509_svid_ttl,
        }
    }
}

/// An X.509-SVID of a workload, with its key.
#[derive(Clone, Debug)]
pub struct CachedSvid {
    /// The entry it was issued for.
    pub entry_id: EntryId,
    /// What of the entry it was made from.
    pub issued_for: IssuedFor,
    /// Certificates in DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The private key, PKCS#8 DER.
    pub key: SecretBytes,
    /// Certificate serial in hex.
    pub serial: String,
    /// Which authority signed it.
    pub authority_id: String,
    /// The authority in the bundle that the chain leads to.
    pub anchor_id: String,
    /// From when to when it holds.
    pub validity: Validity,
    /// When this agent received it.
    pub received_at: Timestamp,
    /// When to renew it: drawn once, when it was received.
    pub renew_at: Timestamp,
    /// The draw behind `renew_at`, which also spreads forced renewals.
    pub draw: u64,
}

/// What the trust domain tells every agent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Defaults {
    /// Lifetime of X.509-SVIDs whose entry says nothing.
    pub x509_svid_ttl: Option<Duration>,
    /// Lifetime of JWT-SVIDs whose entry says nothing.
    pub jwt_svid_ttl: Option<Duration>,
    /// Whether certificates carry the alternative signature.
    pub hybrid: bool,
    /// API addresses of the servers, to fail over to.
    pub servers: Vec<String>,
}

/// Why this agent may serve nothing any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// Banned: it may never attest again.
    Banned,
    /// Evicted: it may attest anew, with a new token.
    Evicted,
}

/// A bundle that changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BundleChange {
    /// The checked bundle.
    pub bundle: Arc<Bundle>,
    /// The position of this content among those of its trust domain.
    pub sequence: u64,
}

/// A server's update, checked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Update {
    /// Where in the trust domain's history this leaves the agent.
    pub position: Position,
    /// Whether it replaces all that the agent has.
    pub complete: bool,
    /// New and changed entries.
    pub entries: Vec<RegistrationEntry>,
    /// Entries this agent may no longer serve.
    pub removed_entries: Vec<EntryId>,
    /// New and changed bundles.
    pub bundles: Vec<BundleChange>,
    /// Trust domains whose bundle is gone.
    pub removed_bundles: Vec<TrustDomain>,
    /// Every tainted authority.
    pub tainted: BTreeSet<String>,
    /// Set when they changed.
    pub defaults: Option<Defaults>,
}

/// Why an update was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UpdateError {
    /// It is older than what the agent has seen.
    #[error("the update is at position {}/{}, before {}/{}", at.epoch, at.index, seen.epoch, seen.index)]
    Older {
        /// Position of the update.
        at: Position,
        /// Position of the agent.
        seen: Position,
    },
    /// It changes what the agent does not have.
    #[error("the first update is not complete")]
    NotComplete,
    /// Without its own bundle the agent cannot verify anybody.
    #[error("the update leaves no bundle for the agent's own trust domain")]
    NoOwnBundle,
}

/// What the agent serves from.
#[derive(Clone, Debug)]
pub struct State {
    /// This agent's trust domain.
    pub trust_domain: TrustDomain,
    /// Up to where it knows the trust domain's history; `None` before the first update.
    pub position: Option<Position>,
    /// When the last update came.
    pub last_update: Option<Timestamp>,
    /// The entries it may serve.
    pub entries: Arc<Entries>,
    /// Bundles, the own and the foreign.
    pub bundles: Arc<BundleSet>,
    /// Sequence of the own bundle.
    pub bundle_sequence: u64,
    /// Tainted authorities, and when the agent learned of each.
    pub tainted: Arc<BTreeMap<String, Timestamp>>,
    /// What the trust domain tells every agent.
    pub defaults: Defaults,
    /// X.509-SVIDs by entry.
    pub svids: Arc<BTreeMap<EntryId, Arc<CachedSvid>>>,
    /// Set when this agent may serve nothing any more.
    pub denied: Option<Denial>,
    /// Up to when ends of entries have been told to streams.
    pub told_until: Timestamp,
    next_arrival: u64,
}

/// An identity of one caller: the entry, and its SVID if there is one.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The entry that matched.
    pub held: Held,
    /// Its SVID, unless it is still being issued.
    pub svid: Option<Arc<CachedSvid>>,
}

impl State {
    /// The state before anything was heard.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            position: None,
            last_update: None,
            entries: Arc::default(),
            bundles: Arc::default(),
            bundle_sequence: 0,
            tainted: Arc::default(),
            defaults: Defaults::default(),
            svids: Arc::default(),
            denied: None,
            told_until: Timestamp::UNIX_EPOCH,
            next_arrival: 1,
        }
    }

    /// The bundle of the agent's own trust domain.
    #[must_use]
    pub fn own_bundle(&self) -> Option<&Arc<Bundle>> {
        self.bundles.get(&self.trust_domain)
    }

    /// Whether an authority with this id stands in the agent's own bundle.
    #[must_use]
    pub fn has_anchor(&self, id: &str) -> bool {
        let anchors = self.own_bundle().map_or(&[][..], |bundle| &bundle.x509);
        anchors.iter().any(|anchor| anchor.id() == id)
    }

    /// Epoch and sequence of the agent's own bundle: no statement that is older is believed.
    #[must_use]
    pub fn bundle_position(&self) -> (u64, u64) {
        let epoch = self.position.map_or(0, |position| position.epoch);
        (epoch, self.bundle_sequence)
    }

    /// What a caller with these selectors may have, in the order it is shown.
    #[must_use]
    pub fn identities(&self, have: &Selectors, now: Timestamp) -> Vec<Identity> {
        if self.denied.is_some() {
            return Vec::new();
        }
        let found = self.entries.matching(have, now);
        found
            .into_iter()
            .map(|held| {
                let svid = self.svids.get(&held.entry.id);
                let expired_too = mutation::is(Bug::ExpiredServed);
                let svid = svid.filter(|svid| now <= svid.validity.not_after || expired_too);
                let svid = svid.cloned();
                Identity { held, svid }
            })
            .collect()
    }

    /// The foreign bundles that these entries federate with, and only those (WLA-N4).
    #[must_use]
    pub fn federated(&self, identities: &[Identity]) -> BTreeMap<TrustDomain, Arc<Bundle>> {
        identities
            .iter()
            .flat_map(|identity| &identity.held.entry.federates_with)
            .filter(|domain| **domain != self.trust_domain)
            .filter_map(|domain| Some((domain.clone(), Arc::clone(self.bundles.get(domain)?))))
            .collect()
    }

    /// Applies a server's update.
    ///
    /// # Errors
    /// When the update is older than what the agent knows or leaves it unable to serve; nothing
    /// has changed then, and another server should be asked.
    pub fn apply(&mut self, update: Update, now: Timestamp) -> Result<(), UpdateError> {
        match self.position {
            Some(seen) if update.position < seen && !mutation::is(Bug::OlderUpdateTaken) => {
                return Err(UpdateError::Older {
                    at: update.position,
                    seen,
                });
            }
            None if !update.complete => return Err(UpdateError::NotComplete),
            _ => {}
        }
        let bundles = self.changed_bundles(&update)?;
        let before = std::mem::replace(&mut self.bundles, bundles);
        let own = &self.trust_domain;
        if let Some(change) = update
            .bundles
            .iter()
            .find(|b| b.bundle.trust_domain == *own)
        {
            self.bundle_sequence = change.sequence;
        }
        self.change_entries(&update, now);
        self.change_tainted(update.tainted, now);
        if let Some(defaults) = update.defaults {
            self.defaults = defaults;
        }
        self.position = Some(update.position);
        self.last_update = Some(now);
        self.drop_orphaned_svids();
        self.drop_unanchored_svids(&before);
        Ok(())
    }

    fn changed_bundles(&self, update: &Update) -> Result<Arc<BundleSet>, UpdateError> {
        if !update.complete && update.bundles.is_empty() && update.removed_bundles.is_empty() {
            return Ok(Arc::clone(&self.bundles));
        }
        let mut bundles = if update.complete {
            BundleSet::default()
        } else {
            (*self.bundles).clone()
        };
        for removed in &update.removed_bundles {
            bundles.remove(removed);
        }
        for change in &update.bundles {
            bundles.insert(Arc::clone(&change.bundle));
        }
        if bundles.get(&self.trust_domain).is_none() {
            return Err(UpdateError::NoOwnBundle);
        }
        Ok(Arc::new(bundles))
    }

    fn change_entries(&mut self, update: &Update, now: Timestamp) {
        if !update.complete && update.entries.is_empty() && update.removed_entries.is_empty() {
            return;
        }
        let forgets = !mutation::is(Bug::RemovalIgnored);
        let entries = Arc::make_mut(&mut self.entries);
        if update.complete && forgets {
            let named: BTreeSet<&EntryId> = update.entries.iter().map(|entry| &entry.id).collect();
            let gone: Vec<EntryId> = entries
                .iter()
                .filter(|held| !named.contains(&held.entry.id))
                .map(|held| held.entry.id.clone())
                .collect();
            for id in gone {
                entries.remove(&id);
            }
        }
        for id in update.removed_entries.iter().filter(|_| forgets) {
            entries.remove(id);
        }
        for entry in &update.entries {
            if entries.put(entry.clone(), now, self.next_arrival) {
                self.next_arrival = self.next_arrival.saturating_add(1);
            }
        }
    }

    fn change_tainted(&mut self, tainted: BTreeSet<String>, now: Timestamp) {
        if tainted.iter().eq(self.tainted.keys()) {
            return;
        }
        let since = |id: &String| self.tainted.get(id).copied().unwrap_or(now);
        self.tainted = Arc::new(
            tainted
                .into_iter()
                .map(|id| (id.clone(), since(&id)))
                .collect(),
        );
    }

    /// Drops SVIDs whose entry is gone or names another identity now.
    fn drop_orphaned_svids(&mut self) {
        let keeps = |entries: &Entries, svid: &CachedSvid| {
            entries
                .get(&svid.entry_id)
                .is_some_and(|held| held.entry.spiffe_id == svid.issued_for.spiffe_id)
        };
        if self.svids.values().all(|svid| keeps(&self.entries, svid)) {
            return;
        }
        let entries = Arc::clone(&self.entries);
        Arc::make_mut(&mut self.svids).retain(|_, svid| keeps(&entries, svid));
    }

    /// Drops SVIDs whose authority stood in the bundle before and does not now: no peer accepts them.
    fn drop_unanchored_svids(&mut self, before: &BundleSet) {
        let Some(before) = before.get(&self.trust_domain) else {
            return;
        };
        let ids = before.x509.iter().map(X509Anchor::id);
        let left: BTreeSet<&str> = ids.filter(|id| !self.has_anchor(id)).collect();
        let is_left = |svid: &CachedSvid| left.contains(svid.anchor_id.as_str());
        let count = self.svids.values().filter(|svid| is_left(svid)).count();
        if count > 0 {
            tracing::warn!(count, "dropping SVIDs whose authority left the bundle");
            Arc::make_mut(&mut self.svids).retain(|_, svid| !is_left(svid));
        }
    }

    /// Takes an SVID in, unless its entry is gone, was replaced since the SVID was asked for,
    /// or the agent is denied. Returns whether it was taken.
    pub fn put_svid(&mut self, svid: Arc<CachedSvid>, asked_at_arrival: u64) -> bool {
        let current = self.entries.get(&svid.entry_id).is_some_and(|held| {
            held.arrival == asked_at_arrival && held.entry.spiffe_id == svid.issued_for.spiffe_id
        });
        if self.denied.is_some() || !current {
            return false;
        }
        Arc::make_mut(&mut self.svids).insert(svid.entry_id.clone(), svid);
        true
    }

    /// Drops an SVID. Returns whether it was there.
    pub fn drop_svid(&mut self, id: &EntryId) -> bool {
        self.svids.contains_key(id) && Arc::make_mut(&mut self.svids).remove(id).is_some()
    }

    /// Forgets every SVID and entry: this agent is denied.
    pub fn deny(&mut self, denial: Denial) {
        if mutation::is(Bug::DenialIgnored) {
            return;
        }
        self.denied = Some(denial);
        self.entries = Arc::default();
        self.svids = Arc::default();
    }

    /// Takes back an entry that was read from the disk, with the moment it first arrived.
    pub fn restore_entry(&mut self, entry: RegistrationEntry, since: Timestamp) {
        if Arc::make_mut(&mut self.entries).put(entry, since, self.next_arrival) {
            self.next_arrival = self.next_arrival.saturating_add(1);
        }
    }

    /// Takes back an SVID that was read from the disk, if it is still of use.
    pub fn restore_svid(&mut self, svid: CachedSvid, now: Timestamp) -> bool {
        let current = self
            .entries
            .get(&svid.entry_id)
            .is_some_and(|held| held.entry.spiffe_id == svid.issued_for.spiffe_id);
        if !current || svid.validity.not_after < now {
            return false;
        }
        Arc::make_mut(&mut self.svids).insert(svid.entry_id.clone(), Arc::new(svid));
        true
    }
}

#[cfg(test)]
mod tests;
