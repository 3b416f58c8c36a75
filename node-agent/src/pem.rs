//! PEM text (RFC 7468).
//!
//! Responsible for: writing and reading the certificates and keys that Envoy and the trust
//! bundle file hold. Always holds: lines of 64 characters; what is between the markers is
//! strict base64. Not here: what is inside.

use base64::{Engine, engine::general_purpose::STANDARD};

/// Characters per line (RFC 7468 section 2).
const LINE: usize = 64;

/// One PEM block.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(LINE).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// The blocks with this label. `None` when a block has no end or is not base64.
#[must_use]
pub fn parse(label: &str, text: &str) -> Option<Vec<Vec<u8>>> {
    let (begin, end) = (
        format!("-----BEGIN {label}-----"),
        format!("-----END {label}-----"),
    );
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(&begin) {
        let (body, after) = after.split_once(&end)?;
        let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        blocks.push(STANDARD.decode(body).ok()?);
        rest = after;
    }
    Some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_without_end_or_with_other_characters_are_refused() {
        assert_eq!(parse("X", "-----BEGIN X-----\nAAAA\n"), None);
        assert_eq!(
            parse("X", "-----BEGIN X-----\nA!AA\n-----END X-----\n"),
            None
        );
        assert_eq!(parse("X", "no block"), Some(Vec::new()));
        assert_eq!(parse("X", &pem("Y", b"y")), Some(Vec::new()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
            let text: String = blocks.iter().map(|block| pem("CERTIFICATE", block)).collect();
            prop_assert!(text.lines().all(|line| line.len() <= LINE));
            prop_assert_eq!(parse("CERTIFICATE", &text), Some(blocks));
        }
    }
}
