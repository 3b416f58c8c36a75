//! PEM (RFC 7468): how certificates and keys stand in files.
//!
//! Responsible for: writing one block, and reading the certificates of a text.
//! Always holds: what is written has lines of 64 characters and is read back to the same bytes; a text
//! with a block that has no end, or that is not base64, is refused whole.
//! Not here: what the bytes mean (`svid::x509`, `bundle`), and files (`mintmark-runtime`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{Error, PemObject as _};

/// The label of a certificate.
pub const CERTIFICATE: &str = "CERTIFICATE";
/// The label of a private key in PKCS#8.
pub const PRIVATE_KEY: &str = "PRIVATE KEY";

/// Characters per line (RFC 7468 section 2).
const LINE: usize = 64;

/// The text is not PEM.
#[derive(Debug, thiserror::Error)]
#[error("a PEM block is not complete or not base64")]
pub struct PemError(#[source] Error);

/// One block with this label around DER bytes.
#[must_use]
pub fn encode(label: &str, der: &[u8]) -> String {
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

/// Blocks of certificates, one after the other.
#[must_use]
pub fn encode_certificates<C: AsRef<[u8]>>(chain: impl IntoIterator<Item = C>) -> String {
    chain
        .into_iter()
        .map(|der| encode(CERTIFICATE, der.as_ref()))
        .collect()
}

/// The certificates of a text, in order; blocks of other kinds are passed over.
///
/// # Errors
/// [`PemError`] when any block is damaged.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    CertificateDer::pem_slice_iter(text)
        .map(|der| der.map_err(PemError))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks_without_end_or_with_other_characters_are_refused() {
        let whole = encode(CERTIFICATE, b"a certificate");
        for damaged in [
            "-----BEGIN CERTIFICATE-----\nAAAA\n",
            "-----BEGIN CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nA!AA\n-----END CERTIFICATE-----\n",
        ] {
            assert!(certificates(damaged.as_bytes()).is_err(), "{damaged}");
            let after_another = format!("{whole}{damaged}");
            assert!(certificates(after_another.as_bytes()).is_err(), "{damaged}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_passed_over() {
        assert!(certificates(b"no block").unwrap().is_empty());
        let text = format!(
            "the key\n{}the chain\n{}",
            encode(PRIVATE_KEY, b"key"),
            encode(CERTIFICATE, b"leaf")
        );
        let found = certificates(text.as_bytes()).unwrap();
        assert_eq!(found, [CertificateDer::from(b"leaf".to_vec())]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            chain in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)
        ) {
            let text = encode_certificates(&chain);
            prop_assert!(text.lines().all(|line| line.len() <= LINE));
            let read = certificates(text.as_bytes()).unwrap();
            let read: Vec<Vec<u8>> = read.iter().map(|der| der.to_vec()).collect();
            prop_assert_eq!(read, chain);
        }
    }
}
