//! A leaf of the audit log, as it is printed.

use mintmark_identity::clock::Timestamp;
use mintmark_proto::mintmark::audit::v1 as wire;
use prost::Message as _;
use serde::Serialize;

use crate::failure::{Exit, Failure};

/// One leaf. Fields that do not apply are left out.
#[derive(Debug, Serialize)]
pub struct LeafDocument {
    index: u64,
    log_index: u64,
    time: String,
    actor: String,
    action: String,
    subject: String,
    decision: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuance: Option<IssuanceDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attestation: Option<AttestationDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<EntryDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<AuthorityDocument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
struct IssuanceDocument {
    kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    serial: String,
    svid_hash: String,
    authority_id: String,
    not_before: String,
    not_after: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    spki_sha256: String,
    basis: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    entry_id: String,
    #[serde(skip_serializing_if = "is_zero")]
    entry_revision: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    agent: String,
    profile_version: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    audience_sha256: String,
}

#[derive(Debug, Serialize)]
struct AttestationDocument {
    method: String,
    spki_sha256: String,
    evidence_sha256: String,
    selectors: u32,
}

#[derive(Debug, Serialize)]
struct EntryDocument {
    entry_id: String,
    revision: u64,
    spiffe_id: String,
    parent_id: String,
    entry_sha256: String,
}

#[derive(Debug, Serialize)]
struct AuthorityDocument {
    authority_id: String,
    kind: String,
    from: String,
    to: String,
    public_key_sha256: String,
    bundle_sequence: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn time(millis: i64) -> String {
    Timestamp::from_unix_millis(millis).to_string()
}

impl LeafDocument {
    /// Decodes the leaf that stands at `index`; a leaf that names another place is refused.
    pub fn decode(index: u64, bytes: &[u8]) -> Result<Self, Failure> {
        let unreadable = |why: String| {
            Failure::new(
                "MM-3502",
                Exit::Unhealthy,
                format!("leaf {index} cannot be read"),
            )
            .why(why)
        };
        let leaf = wire::Leaf::decode(bytes).map_err(|e| unreadable(e.to_string()))?;
        if leaf.index != index {
            return Err(unreadable(format!(
                "it says that it is leaf {}",
                leaf.index
            )));
        }
        if leaf.encode_to_vec() != bytes {
            return Err(unreadable("its bytes are not in canonical form".to_owned()));
        }
        Ok(Self::new(leaf))
    }

    fn new(leaf: wire::Leaf) -> Self {
        Self {
            index: leaf.index,
            log_index: leaf.log_index,
            time: time(leaf.time_ms),
            actor: leaf.actor,
            action: leaf.action,
            subject: leaf.subject,
            decision: leaf.decision,
            reason: leaf.reason,
            issuance: leaf.issuance.map(|i| IssuanceDocument {
                kind: i.kind,
                serial: hex::encode(i.serial),
                svid_hash: hex::encode(i.svid_hash),
                authority_id: i.authority_id,
                not_before: time(i.not_before_ms),
                not_after: time(i.not_after_ms),
                spki_sha256: hex::encode(i.spki_sha256),
                basis: i.basis,
                entry_id: i.entry_id,
                entry_revision: i.entry_revision,
                agent: i.agent,
                profile_version: i.profile_version,
                audience_sha256: hex::encode(i.audience_sha256),
            }),
            attestation: leaf.attestation.map(|a| AttestationDocument {
                method: a.method,
                spki_sha256: hex::encode(a.spki_sha256),
                evidence_sha256: hex::encode(a.evidence_sha256),
                selectors: a.selectors,
            }),
            entry: leaf.entry.map(|e| EntryDocument {
                entry_id: e.entry_id,
                revision: e.revision,
                spiffe_id: e.spiffe_id,
                parent_id: e.parent_id,
                entry_sha256: hex::encode(e.entry_sha256),
            }),
            authority: leaf.authority.map(|a| AuthorityDocument {
                authority_id: a.authority_id,
                kind: a.kind,
                from: a.from,
                to: a.to,
                public_key_sha256: hex::encode(a.public_key_sha256),
                bundle_sequence: a.bundle_sequence,
            }),
            missing: leaf.missing,
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let mut line = format!(
            "{:>6}  {}  {:<8}  {:<18}  {}",
            self.index, self.time, self.decision, self.action, self.subject
        );
        if let Some(issuance) = &self.issuance {
            let what = if issuance.serial.is_empty() {
                &issuance.svid_hash
            } else {
                &issuance.serial
            };
            line.push_str(&format!("  {} until {}", short(what), issuance.not_after));
        }
        if let Some(authority) = &self.authority {
            line.push_str(&format!(
                "  {} {} → {}",
                authority.kind, authority.from, authority.to
            ));
        }
        if !self.reason.is_empty() {
            line.push_str(&format!("  ({})", self.reason));
        }
        line.push_str(&format!("  by {}", self.actor));
        line
    }
}

fn short(hex: &str) -> &str {
    hex.get(..16).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf() -> wire::Leaf {
        wire::Leaf {
            version: 1,
            index: 7,
            action: "entry.create".into(),
            decision: "accepted".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_leaf_at_another_place_is_refused() {
        let bytes = leaf().encode_to_vec();
        assert!(LeafDocument::decode(7, &bytes).is_ok());
        assert!(
            LeafDocument::decode(8, &bytes)
                .unwrap_err()
                .to_string()
                .contains("leaf 7")
        );
    }

    #[test]
    fn bytes_that_are_not_canonical_are_refused() {
        let mut bytes = leaf().encode_to_vec();
        // Field 1 once more: decodes to the same message, but is not what was logged.
        bytes.extend([0x08, 0x01]);
        assert!(
            LeafDocument::decode(7, &bytes)
                .unwrap_err()
                .to_string()
                .contains("canonical")
        );
        assert!(LeafDocument::decode(7, &[0xff]).is_err());
    }
}
