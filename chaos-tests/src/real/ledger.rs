//! What a cluster acknowledged, and whether its audit log and its lists still say so.
//!
//! The promises by number are those of `docs/reliability.md`.

use std::collections::{BTreeMap, BTreeSet};

use mintmark_identity::clock::Timestamp;
use mintmark_identity::secret::SecretBytes;
use mintmark_workload_api::client::x509::X509Identity;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;

use super::collector::Held;

/// What was acknowledged to somebody, by whoever acknowledged it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Entries that were created and must be there.
    pub entries: BTreeSet<String>,
    /// Entries that were deleted and must not come back.
    pub deleted: BTreeSet<String>,
    /// Agents that were banned and must stay so.
    pub banned: BTreeSet<String>,
    /// SVIDs that left a server.
    pub released: BTreeMap<String, Held>,
    /// The leaves as they were read last.
    leaves: Vec<Value>,
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or("")
}

impl Ledger {
    /// Takes note of SVIDs that somebody was given.
    pub fn note(&mut self, held: impl IntoIterator<Item = Held>) {
        for one in held {
            self.released.entry(one.svid_hash.clone()).or_insert(one);
        }
    }

    /// Number of leaves that were read last.
    pub fn leaf_count(&self) -> usize {
        self.leaves.len()
    }

    /// The leaves that were read last.
    pub fn leaves(&self) -> &[Value] {
        &self.leaves
    }

    /// Takes the whole audit log, read after everything that is noted here, and holds it against that.
    ///
    /// # Panics
    /// When a promise is broken.
    pub fn check_log(&mut self, leaves: Vec<Value>) {
        assert!(
            leaves.starts_with(&self.leaves),
            "P7: the log that was read before is not the beginning of the log now"
        );
        self.leaves = leaves;
        self.every_released_svid_has_its_leaf();
        self.nothing_is_issued_after_a_denial();
        self.every_activation_has_its_ground();
    }

    /// P1.
    fn every_released_svid_has_its_leaf(&self) {
        let mut accepted: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for leaf in self.leaves.iter().filter(|leaf| is_accepted_issue(leaf)) {
            let hash = text(leaf, "/issuance/svid_hash");
            accepted.entry(hash).or_default().push(leaf);
        }
        for (hash, held) in &self.released {
            let found = accepted.get(hash.as_str()).map_or(&[][..], Vec::as_slice);
            let [leaf] = found else {
                panic!("P1: {} leaves for the released {held:?}", found.len());
            };
            assert_eq!(
                text(leaf, "/issuance/serial").trim_start_matches('0'),
                held.serial.trim_start_matches('0'),
                "P1: the leaf of {held:?} names another serial number"
            );
            assert_eq!(text(leaf, "/subject"), held.spiffe_id, "P2: {held:?}");
        }
    }

    /// P3, as the order of the log has it.
    fn nothing_is_issued_after_a_denial(&self) {
        let mut gone: BTreeSet<&str> = BTreeSet::new();
        for leaf in self.leaves.iter().filter(|leaf| is_accepted(leaf)) {
            match text(leaf, "/action") {
                "entry.delete" => drop(gone.insert(text(leaf, "/entry/entry_id"))),
                "entry.create" => drop(gone.remove(text(leaf, "/entry/entry_id"))),
                "agent.ban" | "agent.evict" => drop(gone.insert(text(leaf, "/subject"))),
                "agent.attest" => drop(gone.remove(text(leaf, "/subject"))),
                _ if is_accepted_issue(leaf) => {
                    for who in ["/issuance/entry_id", "/issuance/agent", "/subject"] {
                        let who = text(leaf, who);
                        assert!(
                            who.is_empty() || !gone.contains(who),
                            "P3: {who} is denied: {leaf}"
                        );
                    }
                }
                _ => {}
            }
        }
        for agent in &self.banned {
            assert!(gone.contains(agent.as_str()), "P3: {agent} is not banned");
        }
    }

    /// P6.
    fn every_activation_has_its_ground(&self) {
        let activated = self
            .leaves
            .iter()
            .filter(|leaf| is_accepted(leaf) && text(leaf, "/action") == "authority.activate");
        for leaf in activated {
            let missing = leaf["missing"].as_array().map_or(0, Vec::len);
            let reason = text(leaf, "/reason");
            let sound = match reason.split(',').next() {
                Some("acknowledged") => missing == 0,
                Some("deadline" | "cold_start") => {
                    missing == 0 || reason.contains(&format!("{missing} missing"))
                }
                _ => false,
            };
            assert!(sound, "P6: activated on no ground: {leaf}");
        }
    }

    /// P4: the entries that the cluster lists are those it acknowledged, and none that it gave up.
    ///
    /// # Panics
    /// When one is missing or came back.
    pub fn check_entries(&self, listed: &Value) {
        let listed: BTreeSet<String> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| text(entry, "/id").to_owned())
            .collect();
        let lost: Vec<_> = self.entries.difference(&listed).collect();
        assert!(lost.is_empty(), "P4: acknowledged and lost: {lost:?}");
        let back: Vec<_> = self.deleted.intersection(&listed).collect();
        assert!(back.is_empty(), "P3: deleted and back: {back:?}");
    }
}

/// An SVID as `mintmark x509 mint` printed it, verified.
///
/// # Errors
/// When a relying party would refuse it.
pub fn minted(printed: &Value, now: Timestamp) -> Result<Held, String> {
    let pem = |path| {
        let blocks = CertificateDer::pem_slice_iter(text(printed, path).as_bytes());
        let blocks = blocks.map(|block| block.map(|der| der.to_vec()));
        blocks
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())
    };
    let identity = X509Identity {
        spiffe_id: text(printed, "/spiffe_id")
            .parse()
            .map_err(|_| "no SPIFFE ID".to_owned())?,
        chain: pem("/certificate_pem")?,
        private_key: SecretBytes::from(Vec::new()),
        bundle: pem("/bundle_pem")?,
        hint: String::new(),
    };
    Held::verify(&identity, now)
}

fn is_accepted(leaf: &Value) -> bool {
    text(leaf, "/decision") == "accepted"
}

fn is_accepted_issue(leaf: &Value) -> bool {
    is_accepted(leaf) && leaf.get("issuance").is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn held(hash: &str) -> Held {
        Held {
            spiffe_id: "spiffe://example.org/w".to_owned(),
            serial: "0a".to_owned(),
            svid_hash: hash.to_owned(),
            not_after: Timestamp::from_unix_secs(2),
            seen_at: Timestamp::from_unix_secs(1),
        }
    }

    fn issued(hash: &str) -> Value {
        json!({"decision": "accepted", "action": "svid.issue", "subject": "spiffe://example.org/w",
               "issuance": {"svid_hash": hash, "serial": "0a", "entry_id": "e", "agent": "a"}})
    }

    fn denied(action: &str) -> Value {
        json!({"decision": "accepted", "action": action, "subject": "a", "entry": {"entry_id": "e"}})
    }

    fn activated(reason: &str, missing: &[&str]) -> Value {
        json!({"decision": "accepted", "action": "authority.activate", "reason": reason, "missing": missing})
    }

    fn check(released: &[&str], leaves: Vec<Value>) {
        let mut ledger = Ledger::default();
        ledger.note(released.iter().map(|hash| held(hash)));
        ledger.check_log(leaves);
    }

    #[test]
    fn a_sound_log_passes() {
        let leaves = vec![
            activated("cold_start", &[]),
            issued("x"),
            issued("unreleased"),
            denied("entry.delete"),
            activated("deadline, 1 missing", &["a"]),
        ];
        check(&["x"], leaves);
    }

    #[test]
    #[should_panic(expected = "P1: 0 leaves")]
    fn a_released_svid_without_a_leaf_is_found() {
        check(&["x"], vec![issued("y")]);
    }

    #[test]
    #[should_panic(expected = "P1: 2 leaves")]
    fn a_released_svid_with_two_leaves_is_found() {
        check(&["x"], vec![issued("x"), issued("x")]);
    }

    #[test]
    #[should_panic(expected = "P3: e is denied")]
    fn an_issuance_after_the_entry_was_deleted_is_found() {
        check(&[], vec![denied("entry.delete"), issued("x")]);
    }

    #[test]
    #[should_panic(expected = "P3: a is denied")]
    fn an_issuance_after_the_agent_was_banned_is_found() {
        check(&[], vec![denied("agent.ban"), issued("x")]);
    }

    #[test]
    #[should_panic(expected = "P6")]
    fn an_activation_that_hides_who_was_missing_is_found() {
        check(&[], vec![activated("acknowledged", &["a"])]);
    }

    #[test]
    #[should_panic(expected = "P7")]
    fn a_log_that_changed_is_found() {
        let mut ledger = Ledger::default();
        ledger.check_log(vec![issued("x")]);
        ledger.check_log(vec![issued("y"), issued("x")]);
    }

    #[test]
    #[should_panic(expected = "P4")]
    fn a_lost_entry_is_found() {
        let mut ledger = Ledger::default();
        ledger.entries.insert("e".to_owned());
        ledger.check_entries(&json!([{"id": "f"}]));
    }
}
