//! What must hold for any bytes at all that a local client sends.
//!
//! Responsible for the property of the target of HTTP/2, apart from the others because it is in
//! another crate. Not here: the fuzzer, and what a well-behaved client's bytes become.

use mintmark_runtime::grpc::authority::{AuthorityFilter, FilterError};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The limit of the servers.
const LIST_MAX: usize = 16 * 1024;

fn filter(bytes: &[u8], size: usize) -> (Vec<u8>, Result<(), FilterError>) {
    let (mut filter, mut out) = (AuthorityFilter::new(LIST_MAX), Vec::new());
    let end = bytes
        .chunks(size)
        .try_for_each(|piece| filter.push(piece, &mut out));
    (out, end)
}

/// How the bytes are cut changes nothing; in what comes out there is nothing left to replace;
/// other protocols pass.
pub fn authority_filter(data: &[u8]) {
    if !data.starts_with(PREFACE) && !PREFACE.starts_with(data) {
        assert_eq!(filter(data, usize::MAX), (data.to_vec(), Ok(())));
    }
    for bytes in [data, &[PREFACE, data].concat()] {
        let (out, end) = filter(bytes, usize::MAX);
        assert_eq!(filter(bytes, 1), (out.clone(), end));
        assert_eq!(filter(&out, usize::MAX), (out, Ok(())));
    }
}
