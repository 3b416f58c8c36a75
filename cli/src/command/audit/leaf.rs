//! A leaf of the audit log, as it is printed: for people one line, for programs the document that servers
//! write into their copies of the log.

use ca_server::audit::document::{LeafDocument, leaf_at};
use mintmark_identity::clock::Timestamp;
use mintmark_proto::mintmark::audit::v1 as wire;

use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Characters of a serial or hash in a line.
const SHORT: usize = 16;

/// Decodes the leaf that stands at `index`; a leaf that names another place is refused.
pub fn decode(index: u64, bytes: &[u8]) -> Result<wire::Leaf, Failure> {
    leaf_at(index, bytes).map_err(|e| {
        let what = format!("leaf {index} cannot be read");
        Failure::new("MM-3502", Exit::Unhealthy, what).because(&e)
    })
}

/// Prints one leaf.
pub fn print(leaf: wire::Leaf, output: Output) -> Result<(), Failure> {
    let line = line(&leaf);
    output.stream(&LeafDocument::from(leaf), &line)
}

fn line(leaf: &wire::Leaf) -> String {
    let time = |millis| Timestamp::from_unix_millis(millis);
    let mut line = format!(
        "{:>6}  {}  {:<8}  {:<18}  {}",
        leaf.index,
        time(leaf.time_ms),
        leaf.decision,
        leaf.action,
        leaf.subject
    );
    if let Some(issuance) = &leaf.issuance {
        let what = if issuance.serial.is_empty() {
            &issuance.svid_hash
        } else {
            &issuance.serial
        };
        let what = hex::encode(what);
        let what = what.get(..SHORT).unwrap_or(&what);
        line.push_str(&format!("  {what} until {}", time(issuance.not_after_ms)));
    }
    if let Some(authority) = &leaf.authority {
        let (kind, from, to) = (&authority.kind, &authority.from, &authority.to);
        line.push_str(&format!("  {kind} {from} → {to}"));
    }
    if !leaf.reason.is_empty() {
        line.push_str(&format!("  ({})", leaf.reason));
    }
    line.push_str(&format!("  by {}", leaf.actor));
    line
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_leaf_at_another_place_is_refused() {
        let leaf = wire::Leaf {
            version: 1,
            index: 7,
            ..Default::default()
        };
        let bytes = leaf.encode_to_vec();
        assert_eq!(decode(7, &bytes).unwrap(), leaf);
        let refused = decode(8, &bytes).unwrap_err().to_string();
        assert!(refused.contains("leaf 7"), "{refused}");
    }

    #[test]
    fn a_line_says_what_when_and_by_whom() {
        let leaf = wire::Leaf {
            version: 1,
            index: 7,
            actor: "local".into(),
            action: "x509.issue".into(),
            subject: "spiffe://example.org/web".into(),
            decision: "accepted".into(),
            issuance: Some(wire::Issuance {
                serial: vec![0xab; 16],
                not_after_ms: 61_000,
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            line(&leaf),
            "     7  1970-01-01T00:00:00Z  accepted  x509.issue          spiffe://example.org/web  \
             abababababababab until 1970-01-01T00:01:01Z  by local"
        );
    }
}
