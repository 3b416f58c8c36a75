//! X.509-SVIDs: building and verifying.
//!
//! Responsible for: certificates of authorities, leaves and cluster peers, byte for byte; the
//! requests that ask for them; and the decision whether a chain of certificates is somebody's
//! X.509-SVID (X509-SVID, RFC 5280).
//! Always holds: building and signing are two steps, and the hash of what will be issued is
//! known after the first, before any key is touched. Every verifier in the system, TLS
//! included, decides through [`verify_x509_svid_with`].
//! Not here: who may have which SVID, and where keys come from.

pub mod anchor;
pub mod authority;
pub mod certificate;
pub mod csr;
pub mod name;
pub mod peer;
pub mod prepare;
mod profile;
pub mod serial;
pub mod structure;
pub mod verify;
pub mod x509_svid;

pub use authority::{X509Authority, self_signed_authority};
pub use certificate::Certificate;
pub use csr::VerifiedCsr;
pub use name::{CaSubject, LeafSubject};
pub use prepare::{LeafRequest, PreparedTbs, prepare_leaf, svid_hash_of_certificate};
pub use serial::Serial;
pub use verify::{
    Usage, VerificationPolicy, VerifiedX509Svid, X509SvidError, verify_x509_svid,
    verify_x509_svid_with,
};
pub use x509_svid::X509Svid;
