//! Small builders for this crate's own tests.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use mintmark_identity::{
    clock::Timestamp,
    entry::{EntryId, RegistrationEntry},
    selector::Selector,
    spiffe_id::SpiffeId,
    trust_domain::TrustDomain,
};

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
