//! SPIFFE verifiable identity documents.
//!
//! Responsible for: building and verifying the document types that count as an SVID.
//! Always holds: only X.509- and JWT-SVIDs are understood; anything else that happens to carry
//! a SPIFFE ID has no way in (SPIFFE-ID section 3.3).
//! Not here: deciding who gets one, and keeping it fresh.

pub mod jwt;
pub mod x509;
