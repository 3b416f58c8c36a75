//! Registration entries.
//!
//! Responsible for: [`RegistrationEntry`], the rule that a workload with these selectors on that
//! node has this identity, and the checks that an entry must pass before it is stored.
//! Always holds: an entry that passed [`RegistrationEntry::validate`] names only identities of
//! its own trust domain, and none of those set aside for servers and agents.
//! Not here: storing entries and deciding which of them an agent may see.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Timestamp;
use crate::selector::{Selector, Selectors};
use crate::spiffe_id::SpiffeId;
use crate::trust_domain::TrustDomain;

/// The longest entry id in bytes.
pub const ENTRY_ID_MAX: usize = 255;
/// The longest hint in bytes (SPIFFE Workload API section 5.2.1; bytes, decision A-27).
pub const HINT_MAX: usize = 1_024;
/// The longest TTL of an entry: what SPIRE's API can carry, an `int32` of seconds.
pub const ENTRY_TTL_MAX: Duration = Duration::from_secs(i32::MAX as u64);
/// The most selectors, DNS names or federated trust domains of one entry; bounds the work that
/// one entry can cause at every match, certificate and bundle push.
pub const ENTRY_LIST_MAX: usize = 256;

/// The id of a registration entry, unique in the trust domain.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(String);

/// The text cannot be an entry id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("entry id must be 1 to 255 bytes of A-Z, a-z, 0-9, '.', '-' and '_'")]
pub struct EntryIdError;

impl EntryId {
    /// Checks `text` and takes it as an id.
    ///
    /// # Errors
    /// When the text is empty, longer than 255 bytes or holds another character.
    pub fn parse(text: impl Into<String>) -> Result<Self, EntryIdError> {
        let text = text.into();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > ENTRY_ID_MAX || !text.bytes().all(allowed) {
            return Err(EntryIdError);
        }
        Ok(Self(text))
    }

    /// The text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryId({self})")
    }
}

impl FromStr for EntryId {
    type Err = EntryIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl std::borrow::Borrow<str> for EntryId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for EntryId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EntryId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Which workload, on which node, has which identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationEntry {
    /// Names the entry itself.
    pub id: EntryId,
    /// Rises by one at each change.
    pub revision: u64,
    /// The identity that the entry gives.
    pub spiffe_id: SpiffeId,
    /// The agent, node alias or server that may serve it.
    pub parent_id: SpiffeId,
    /// All of these must be found on the workload.
    pub selectors: Selectors,
    /// Lifetime of its X.509-SVIDs; `None` for the trust domain's default.
    pub x509_svid_ttl: Option<Duration>,
    /// Lifetime of its JWT-SVIDs; `None` for the trust domain's default.
    pub jwt_svid_ttl: Option<Duration>,
    /// Foreign trust domains whose bundles the workload receives.
    pub federates_with: BTreeSet<TrustDomain>,
    /// Whether the identity may administer the servers.
    pub admin: bool,
    /// Whether the identity may ask for an intermediate authority.
    pub downstream: bool,
    /// When the entry may be removed; a matter of tidiness, not of security.
    pub expires_at: Option<Timestamp>,
    /// DNS names of its X.509-SVIDs; the first also becomes the common name.
    pub dns_names: Vec<String>,
    /// Whether agents hand the SVID to a store instead of the Workload API.
    pub store_svid: bool,
    /// Operator's text that tells several identities of one workload apart.
    pub hint: String,
    /// When the entry was made.
    pub created_at: Timestamp,
    /// Whether agents fetch its X.509-SVID only when asked.
    pub disable_x509_svid_prefetch: bool,
    /// Whether its JWT-SVIDs carry a `jti`.
    pub jwt_svid_include_jti: bool,
}

/// The rule that an entry breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The SPIFFE ID belongs to another trust domain.
    #[error("SPIFFE ID {id} is not in trust domain {trust_domain}")]
    ForeignSpiffeId {
        /// The ID given.
        id: SpiffeId,
        /// The domain that stores the entry.
        trust_domain: TrustDomain,
    },
    /// The SPIFFE ID has no path, which a workload's must have.
    #[error("SPIFFE ID {id} has no path; a workload's ID needs one")]
    SpiffeIdWithoutPath {
        /// The ID given.
        id: SpiffeId,
    },
    /// The SPIFFE ID is set aside for servers and agents.
    #[error("SPIFFE ID {id} is reserved: /spire and all below it belong to servers and agents")]
    ReservedSpiffeId {
        /// The ID given.
        id: SpiffeId,
    },
    /// The parent ID belongs to another trust domain.
    #[error("parent ID {id} is not in trust domain {trust_domain}")]
    ForeignParentId {
        /// The ID given.
        id: SpiffeId,
        /// The domain that stores the entry.
        trust_domain: TrustDomain,
    },
    /// The parent ID has no path.
    #[error("parent ID {id} has no path; it must be an agent, a node alias or a server")]
    ParentIdWithoutPath {
        /// The ID given.
        id: SpiffeId,
    },
    /// There is no selector, so the entry would match everything.
    #[error("entry has no selector; at least one is needed")]
    NoSelector,
    /// The selectors of an entry for a store are of several kinds.
    #[error("selectors of an entry with store_svid must all be of one kind")]
    MixedStoreSelectors,
    /// A list is longer than 256.
    #[error("entry has {count} {what}; at most 256 are allowed")]
    TooMany {
        /// Which list.
        what: &'static str,
        /// Its length.
        count: usize,
    },
    /// A TTL is not a whole number of seconds from 1 to 2147483647.
    #[error("{which} must be a whole number of seconds, at least 1 and at most 2147483647")]
    Ttl {
        /// Which TTL.
        which: &'static str,
    },
    /// The entry federates with its own trust domain.
    #[error("entry federates with its own trust domain {trust_domain}")]
    FederatesWithSelf {
        /// The domain that stores the entry.
        trust_domain: TrustDomain,
    },
    /// A DNS name is malformed.
    #[error("{name:?} is not a DNS name")]
    DnsName {
        /// The name given.
        name: String,
    },
    /// The hint is longer than 1024 bytes.
    #[error("hint has {length} bytes; at most 1024 are allowed")]
    HintTooLong {
        /// The length found.
        length: usize,
    },
}

impl RegistrationEntry {
    /// Checks every rule that does not need other state.
    ///
    /// # Errors
    /// The first rule that the entry breaks.
    pub fn validate(&self, trust_domain: &TrustDomain) -> Result<(), EntryError> {
        self.validate_ids(trust_domain)?;
        self.validate_lists(trust_domain)?;
        validate_ttl("x509_svid_ttl", self.x509_svid_ttl)?;
        validate_ttl("jwt_svid_ttl", self.jwt_svid_ttl)?;
        if self.hint.len() > HINT_MAX {
            return Err(EntryError::HintTooLong {
                length: self.hint.len(),
            });
        }
        Ok(())
    }

    fn validate_ids(&self, trust_domain: &TrustDomain) -> Result<(), EntryError> {
        let (id, parent) = (self.spiffe_id.clone(), self.parent_id.clone());
        if !id.is_member_of(trust_domain) {
            return Err(EntryError::ForeignSpiffeId {
                id,
                trust_domain: trust_domain.clone(),
            });
        }
        if !id.has_path() {
            return Err(EntryError::SpiffeIdWithoutPath { id });
        }
        if id.is_reserved() {
            return Err(EntryError::ReservedSpiffeId { id });
        }
        if !parent.is_member_of(trust_domain) {
            let trust_domain = trust_domain.clone();
            return Err(EntryError::ForeignParentId {
                id: parent,
                trust_domain,
            });
        }
        if !parent.has_path() {
            return Err(EntryError::ParentIdWithoutPath { id: parent });
        }
        Ok(())
    }

    fn validate_lists(&self, trust_domain: &TrustDomain) -> Result<(), EntryError> {
        for (what, count) in [
            ("selectors", self.selectors.len()),
            ("DNS names", self.dns_names.len()),
            ("federated trust domains", self.federates_with.len()),
        ] {
            if count > ENTRY_LIST_MAX {
                return Err(EntryError::TooMany { what, count });
            }
        }
        let first = self.selectors.first().ok_or(EntryError::NoSelector)?;
        if self.store_svid
            && self
                .selectors
                .iter()
                .any(|other| other.kind() != first.kind())
        {
            return Err(EntryError::MixedStoreSelectors);
        }
        if self.federates_with.contains(trust_domain) {
            return Err(EntryError::FederatesWithSelf {
                trust_domain: trust_domain.clone(),
            });
        }
        match self.dns_names.iter().find(|name| !is_dns_name(name)) {
            Some(name) => Err(EntryError::DnsName { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// Whether a workload with the selectors `have` gets this identity: all of the entry's are
    /// among them.
    #[must_use]
    pub fn matches(&self, have: &Selectors) -> bool {
        !self.selectors.is_empty() && self.selectors.is_subset(have)
    }

    /// The entry's selectors that `have` lacks: why a workload did not match.
    #[must_use]
    pub fn missing(&self, have: &Selectors) -> Vec<Selector> {
        self.selectors.difference(have).cloned().collect()
    }
}

fn validate_ttl(which: &'static str, ttl: Option<Duration>) -> Result<(), EntryError> {
    let Some(ttl) = ttl else { return Ok(()) };
    let whole = ttl.subsec_nanos() == 0;
    if whole && (Duration::from_secs(1)..=ENTRY_TTL_MAX).contains(&ttl) {
        return Ok(());
    }
    Err(EntryError::Ttl { which })
}

/// Whether `name` may stand in a certificate as a DNS name: labels of letters, digits, hyphens
/// and underscores (which Kubernetes and others use), the first perhaps a lone asterisk.
#[must_use]
pub fn is_dns_name(name: &str) -> bool {
    let labels = match name.strip_prefix("*.") {
        // A wildcard for a whole top-level domain is refused by every verifier.
        Some(rest) if rest.contains('.') => rest,
        Some(_) => return false,
        None => name,
    };
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && labels.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn entry() -> RegistrationEntry {
        RegistrationEntry {
            id: EntryId::parse("e-1").unwrap(),
            revision: 0,
            spiffe_id: "spiffe://example.org/web".parse().unwrap(),
            parent_id: "spiffe://example.org/spire/agent/join_token/t"
                .parse()
                .unwrap(),
            selectors: [Selector::parse("unix:uid:1000").unwrap()].into(),
            x509_svid_ttl: None,
            jwt_svid_ttl: None,
            federates_with: BTreeSet::new(),
            admin: false,
            downstream: false,
            expires_at: None,
            dns_names: Vec::new(),
            store_svid: false,
            hint: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
        }
    }

    fn fault(change: impl FnOnce(&mut RegistrationEntry)) -> Result<(), EntryError> {
        let mut changed = entry();
        change(&mut changed);
        changed.validate(&domain())
    }

    #[test]
    fn a_plain_entry_is_valid() {
        assert_eq!(entry().validate(&domain()), Ok(()));
    }

    #[test]
    fn id_n4_an_entry_for_another_trust_domain_is_refused() {
        let foreign = fault(|e| e.spiffe_id = "spiffe://other.test/x".parse().unwrap());
        assert!(
            matches!(foreign, Err(EntryError::ForeignSpiffeId { .. })),
            "{foreign:?}"
        );
        let parent = fault(|e| e.parent_id = "spiffe://other.test/node".parse().unwrap());
        assert!(
            matches!(parent, Err(EntryError::ForeignParentId { .. })),
            "{parent:?}"
        );
    }

    #[test]
    fn id_n6_an_entry_for_the_trust_domain_itself_is_refused() {
        let bare = fault(|e| e.spiffe_id = "spiffe://example.org".parse().unwrap());
        assert!(
            matches!(bare, Err(EntryError::SpiffeIdWithoutPath { .. })),
            "{bare:?}"
        );
        let parent = fault(|e| e.parent_id = "spiffe://example.org".parse().unwrap());
        assert!(
            matches!(parent, Err(EntryError::ParentIdWithoutPath { .. })),
            "{parent:?}"
        );
    }

    #[test]
    fn id_n5_an_entry_that_federates_with_its_own_domain_is_refused() {
        let own = fault(|e| e.federates_with = [domain()].into());
        assert_eq!(
            own,
            Err(EntryError::FederatesWithSelf {
                trust_domain: domain()
            })
        );
    }

    #[test]
    fn an_entry_cannot_hand_out_a_reserved_identity() {
        for reserved in [
            "spiffe://example.org/spire",
            "spiffe://example.org/spire/server",
        ] {
            let refused = fault(|e| e.spiffe_id = reserved.parse().unwrap());
            assert!(
                matches!(refused, Err(EntryError::ReservedSpiffeId { .. })),
                "{reserved}"
            );
        }
        assert_eq!(
            fault(|e| e.spiffe_id = "spiffe://example.org/spirea".parse().unwrap()),
            Ok(())
        );
    }

    #[test]
    fn selectors_are_needed_bounded_and_of_one_kind_for_a_store() {
        assert_eq!(fault(|e| e.selectors.clear()), Err(EntryError::NoSelector));
        let many = |count: u32| {
            fault(|e| {
                e.selectors = (0..count)
                    .map(|n| Selector::new("k", n.to_string()).unwrap())
                    .collect();
            })
        };
        assert_eq!(many(256), Ok(()));
        assert_eq!(
            many(257),
            Err(EntryError::TooMany {
                what: "selectors",
                count: 257
            })
        );
        let mixed = |e: &mut RegistrationEntry| {
            e.selectors
                .insert(Selector::parse("docker:label:a").unwrap());
        };
        assert_eq!(fault(mixed), Ok(()));
        let stored = fault(|e| {
            mixed(e);
            e.store_svid = true;
        });
        assert_eq!(stored, Err(EntryError::MixedStoreSelectors));
    }

    #[test]
    fn ttls_are_whole_seconds_within_bounds() {
        for (ttl, good) in [
            (Duration::from_secs(1), true),
            (Duration::from_secs(30), true),
            (ENTRY_TTL_MAX, true),
            (Duration::ZERO, false),
            (Duration::from_millis(1_500), false),
            (ENTRY_TTL_MAX + Duration::from_secs(1), false),
        ] {
            assert_eq!(
                fault(|e| e.x509_svid_ttl = Some(ttl)).is_ok(),
                good,
                "{ttl:?}"
            );
            assert_eq!(
                fault(|e| e.jwt_svid_ttl = Some(ttl)).is_ok(),
                good,
                "{ttl:?}"
            );
        }
    }

    #[test]
    fn wla_55_a_hint_is_limited_in_bytes() {
        assert_eq!(fault(|e| e.hint = "é".repeat(512)), Ok(()));
        let long = fault(|e| e.hint = "é".repeat(513));
        assert_eq!(long, Err(EntryError::HintTooLong { length: 1_026 }));
    }

    #[test]
    fn dns_names_are_checked() {
        for good in [
            "a",
            "web.example.org",
            "*.example.org",
            "a_b.svc",
            "1.2",
            "WEB",
        ] {
            assert!(is_dns_name(good), "{good}");
        }
        let long = format!("{}.org", "a".repeat(64));
        let longest = [&*"a".repeat(63); 4].join(".");
        for bad in [
            "", ".", "a.", ".a", "a..b", "-a", "a-", "*", "*.org", "a.*.b", "a b", "é", &long,
        ] {
            assert!(!is_dns_name(bad), "{bad}");
        }
        assert_eq!(longest.len(), 255);
        assert!(!is_dns_name(&longest));
        let named = fault(|e| e.dns_names = vec!["ok".into(), "not ok".into()]);
        assert_eq!(
            named,
            Err(EntryError::DnsName {
                name: "not ok".into()
            })
        );
    }

    #[test]
    fn an_entry_id_is_short_and_plain() {
        for good in ["a", "A.b-c_9", &*"x".repeat(255)] {
            assert_eq!(EntryId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "é", "a\n", &*"x".repeat(256)] {
            assert_eq!(EntryId::parse(bad), Err(EntryIdError), "{bad:?}");
        }
    }

    #[test]
    fn an_entry_matches_when_none_of_its_selectors_is_missing() {
        let (uid, gid) = (
            Selector::parse("unix:uid:1000").unwrap(),
            Selector::parse("unix:gid:1").unwrap(),
        );
        let mut entry = entry();
        assert!(entry.matches(&[uid.clone(), gid.clone()].into()));
        entry.selectors.insert(gid.clone());
        assert!(!entry.matches(&[uid.clone()].into()));
        assert_eq!(entry.missing(&[uid].into()), [gid]);
        entry.selectors.clear();
        assert!(!entry.matches(&Selectors::new()));
    }

    proptest! {
        #[test]
        fn matching_is_having_nothing_missing(have in proptest::collection::btree_set("[a-d]", 0..4),
                                              want in proptest::collection::btree_set("[a-d]", 1..4)) {
            let selectors = |values: BTreeSet<String>| -> Selectors {
                values.into_iter().map(|v| Selector::new("k", v).unwrap()).collect()
            };
            let mut entry = entry();
            entry.selectors = selectors(want);
            let have = selectors(have);
            prop_assert_eq!(entry.matches(&have), entry.missing(&have).is_empty());
        }
    }
}
