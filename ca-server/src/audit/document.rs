//! A leaf as a JSON document, for people and for the programs that collect logs.
//!
//! Always: the names are those that `mintmark audit tail -o json` prints; times are RFC 3339 in UTC,
//! bytes are lower-case hexadecimal digits; what does not apply is left out. Everything that the leaf says
//! is in its document, so that whoever has the documents can compute the leaves' bytes and with them the
//! tree, without asking a server.
//!
//! Not here: canonical bytes (the message's encoding), which alone count for the tree.

use mintmark_identity::clock::Timestamp;
use mintmark_proto::mintmark::audit::v1 as wire;
use prost::Message as _;
use serde::Serialize;
use thiserror::Error;

use super::sink::LastLeaf;

/// A leaf that cannot be shown.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// Its bytes are no leaf.
    #[error("audit leaf {index} cannot be decoded")]
    Bytes {
        /// Where it stands.
        index: u64,
        /// What is wrong with the bytes.
        source: prost::DecodeError,
    },
    /// It says that it stands somewhere else.
    #[error("audit leaf {index} says that it is leaf {claimed}")]
    Place {
        /// Where it stands.
        index: u64,
        /// What it says.
        claimed: u64,
    },
    /// Its bytes mean a leaf, and are not the ones that a leaf of this meaning has in the log.
    #[error("audit leaf {index} is not in canonical form")]
    Form {
        /// Where it stands.
        index: u64,
    },
}

/// The leaf that these bytes are, and that stands at `index`.
///
/// # Errors
/// When the bytes are no leaf, or the one of another place, or not canonical.
pub fn leaf_at(index: u64, bytes: &[u8]) -> Result<wire::Leaf, DocumentError> {
    let leaf =
        wire::Leaf::decode(bytes).map_err(|source| DocumentError::Bytes { index, source })?;
    if leaf.index != index {
        return Err(DocumentError::Place {
            index,
            claimed: leaf.index,
        });
    }
    if leaf.encode_to_vec() != bytes {
        return Err(DocumentError::Form { index });
    }
    Ok(leaf)
}

/// One leaf.
#[derive(Debug, Serialize)]
pub struct LeafDocument {
    version: u32,
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
    #[serde(skip_serializing_if = "String::is_empty")]
    request_sha256: String,
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
    /// The document of the leaf that stands at `index`.
    ///
    /// # Errors
    /// As [`leaf_at`].
    pub fn decode(index: u64, bytes: &[u8]) -> Result<Self, DocumentError> {
        leaf_at(index, bytes).map(Into::into)
    }

    /// Whether this is the leaf that a sink has at the end.
    #[must_use]
    pub fn identifies(&self, last: &LastLeaf) -> bool {
        (self.index, self.log_index, &self.time) == (last.index, last.log_index, &last.time)
    }
}

impl From<wire::Leaf> for LeafDocument {
    fn from(leaf: wire::Leaf) -> Self {
        Self {
            version: leaf.version,
            index: leaf.index,
            log_index: leaf.log_index,
            time: time(leaf.time_ms),
            actor: leaf.actor,
            action: leaf.action,
            subject: leaf.subject,
            decision: leaf.decision,
            reason: leaf.reason,
            issuance: leaf.issuance.map(Into::into),
            attestation: leaf.attestation.map(Into::into),
            entry: leaf.entry.map(Into::into),
            authority: leaf.authority.map(Into::into),
            request_sha256: hex::encode(leaf.request_sha256),
            missing: leaf.missing,
        }
    }
}

impl From<wire::Issuance> for IssuanceDocument {
    fn from(part: wire::Issuance) -> Self {
        Self {
            kind: part.kind,
            serial: hex::encode(part.serial),
            svid_hash: hex::encode(part.svid_hash),
            authority_id: part.authority_id,
            not_before: time(part.not_before_ms),
            not_after: time(part.not_after_ms),
            spki_sha256: hex::encode(part.spki_sha256),
            basis: part.basis,
            entry_id: part.entry_id,
            entry_revision: part.entry_revision,
            agent: part.agent,
            profile_version: part.profile_version,
            audience_sha256: hex::encode(part.audience_sha256),
        }
    }
}

impl From<wire::Attestation> for AttestationDocument {
    fn from(part: wire::Attestation) -> Self {
        Self {
            method: part.method,
            spki_sha256: hex::encode(part.spki_sha256),
            evidence_sha256: hex::encode(part.evidence_sha256),
            selectors: part.selectors,
        }
    }
}

impl From<wire::EntryChange> for EntryDocument {
    fn from(part: wire::EntryChange) -> Self {
        Self {
            entry_id: part.entry_id,
            revision: part.revision,
            spiffe_id: part.spiffe_id,
            parent_id: part.parent_id,
            entry_sha256: hex::encode(part.entry_sha256),
        }
    }
}

impl From<wire::AuthorityChange> for AuthorityDocument {
    fn from(part: wire::AuthorityChange) -> Self {
        Self {
            authority_id: part.authority_id,
            kind: part.kind,
            from: part.from,
            to: part.to,
            public_key_sha256: hex::encode(part.public_key_sha256),
            bundle_sequence: part.bundle_sequence,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn shown(leaf: &wire::Leaf) -> String {
        let document = LeafDocument::decode(leaf.index, &leaf.encode_to_vec()).unwrap();
        serde_json::to_string(&document).unwrap()
    }

    #[test]
    fn the_names_are_those_of_the_command_line() {
        let issuance = wire::Issuance {
            kind: "x509".into(),
            serial: vec![0x0a, 0xff],
            svid_hash: vec![1],
            authority_id: "ca".into(),
            not_before_ms: 1_000,
            not_after_ms: 61_000,
            basis: "entry".into(),
            entry_id: "web".into(),
            entry_revision: 2,
            profile_version: 1,
            ..wire::Issuance::default()
        };
        let leaf = wire::Leaf {
            version: 1,
            index: 7,
            log_index: 9,
            time_ms: 1_500,
            actor: "local".into(),
            action: "x509.issue".into(),
            subject: "spiffe://example.org/web".into(),
            decision: "accepted".into(),
            issuance: Some(issuance),
            request_sha256: vec![3],
            ..wire::Leaf::default()
        };
        assert_eq!(
            shown(&leaf),
            concat!(
                r#"{"version":1,"index":7,"log_index":9,"time":"1970-01-01T00:00:01.500Z","actor":"local","#,
                r#""action":"x509.issue","subject":"spiffe://example.org/web","#,
                r#""decision":"accepted","issuance":{"kind":"x509","serial":"0aff","#,
                r#""svid_hash":"01","authority_id":"ca","not_before":"1970-01-01T00:00:01Z","#,
                r#""not_after":"1970-01-01T00:01:01Z","basis":"entry","entry_id":"web","#,
                r#""entry_revision":2,"profile_version":1},"request_sha256":"03"}"#,
            )
        );
    }

    #[test]
    fn a_line_break_in_a_leaf_stays_inside_its_line() {
        let leaf = wire::Leaf {
            subject: "a\n{\"index\":8}".into(),
            ..wire::Leaf::default()
        };
        assert_eq!(shown(&leaf).lines().count(), 1);
    }

    #[test]
    fn other_bytes_and_other_places_are_refused() {
        let leaf = wire::Leaf {
            version: 1,
            index: 7,
            ..wire::Leaf::default()
        }
        .encode_to_vec();
        assert!(matches!(
            LeafDocument::decode(8, &leaf),
            Err(DocumentError::Place {
                index: 8,
                claimed: 7
            })
        ));
        assert!(matches!(
            LeafDocument::decode(7, &[0xff]),
            Err(DocumentError::Bytes { index: 7, .. })
        ));
        // Field 1 once more: it means the same leaf, and is not what was logged.
        let twice = [leaf.as_slice(), &[0x08, 0x01]].concat();
        assert!(matches!(
            LeafDocument::decode(7, &twice),
            Err(DocumentError::Form { index: 7 })
        ));
    }
}
