//! PEM (RFC 7468): how certificates and keys stand in files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Wraps DER bytes as PEM, 64 characters a line.
pub fn encode(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

/// The certificates of a PEM text, in order; or of a DER file, as one.
pub fn certificates(
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, rustls_pki_types::pem::Error> {
    if bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateDer::from(bytes.to_vec())]);
    }
    CertificateDer::pem_slice_iter(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_the_same_bytes() {
        for length in [1_usize, 47, 48, 49, 500] {
            let der = vec![0x30_u8; length];
            let pem = encode("CERTIFICATE", &der);
            assert!(pem.lines().all(|line| line.len() <= 64));
            assert_eq!(
                certificates(pem.as_bytes()).unwrap()[0].as_ref(),
                der.as_slice()
            );
            assert_eq!(certificates(&der).unwrap()[0].as_ref(), der.as_slice());
        }
    }

    #[test]
    fn text_without_a_certificate_gives_none() {
        assert!(certificates(b"nothing here").unwrap().is_empty());
    }
}
