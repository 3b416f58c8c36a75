//! Small builders for this crate's own tests.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeSet, sync::Arc};

use mintmark_identity::{
    bundle::Bundle,
    clock::Timestamp,
    entry::{EntryId, RegistrationEntry},
    secret::SecretBytes,
    selector::Selector,
    spiffe_id::SpiffeId,
    trust_domain::TrustDomain,
    validity::Validity,
};

use crate::cache::state::{BundleChange, CachedSvid, IssuedFor, Position, State, Update};

/// The trust domain of all tests here.
pub fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

/// An entry with a path below the trust domain and these selectors.
pub fn entry(id: &str, path: &str, selectors: &[&str]) -> RegistrationEntry {
    RegistrationEntry {
        id: EntryId::parse(id).unwrap(),
        revision: 0,
        spiffe_id: SpiffeId::from_path(&domain(), path).unwrap(),
        parent_id: SpiffeId::from_path(&domain(), "/spire/agent/join_token/t").unwrap(),
        selectors: selectors
            .iter()
            .map(|text| Selector::parse(text).unwrap())
            .collect(),
        x509_svid_ttl: None,
        jwt_svid_ttl: None,
        federates_with: BTreeSet::new(),
        admin: false,
        downstream: false,
        expires_at: None,
        dns_names: Vec::new(),
        store_svid: false,
        hint: String::new(),
        created_at: Timestamp::from_unix_secs(50),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    }
}

/// Seconds since 1970.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_secs(seconds)
}

/// An SVID for an entry that is valid for these seconds and due for renewal then.
pub fn svid(entry: &RegistrationEntry, from: i64, renew: i64, to: i64) -> CachedSvid {
    CachedSvid {
        entry_id: entry.id.clone(),
        issued_for: IssuedFor::of(entry),
        chain: vec![vec![0x30, 1, 2]],
        key: SecretBytes::new(vec![7; 40]),
        serial: format!("{}-{from}", entry.id),
        authority_id: "authority".to_owned(),
        anchor_id: "authority".to_owned(),
        validity: Validity {
            not_before: at(from),
            not_after: at(to),
        },
        received_at: at(from),
        renew_at: at(renew),
        draw: u64::MAX / 2,
    }
}

/// A first update with these entries and an empty own bundle.
pub fn first_update(entries: Vec<RegistrationEntry>) -> Update {
    Update {
        position: Position { epoch: 1, index: 1 },
        complete: true,
        entries,
        bundles: vec![BundleChange {
            bundle: Arc::new(Bundle::empty(domain())),
            sequence: 1,
        }],
        ..Update::default()
    }
}

/// The state after that update, at second 100.
pub fn state(entries: Vec<RegistrationEntry>) -> State {
    let mut state = State::new(domain());
    state.apply(first_update(entries), at(100)).unwrap();
    state
}

/// Puts an SVID into a state for the present arrival of its entry.
pub fn put(state: &mut State, svid: CachedSvid) {
    let arrival = state.entries.get(&svid.entry_id).unwrap().arrival;
    assert!(state.put_svid(Arc::new(svid), arrival));
}
