//! The words and rules of a SPIFFE trust domain.
//!
//! Responsible for: SPIFFE IDs, selectors, registration entries, trust bundles, authorities,
//! X.509- and JWT-SVIDs, hybrid signatures, rotation arithmetic, and the seams through which
//! time, randomness and keys enter the rest of the system.
//!
//! Always holds: nothing here performs I/O, spawns a task or reads a global; every value that
//! came from outside is checked once, when it is parsed, and its type says so afterwards.
//!
//! Not here: wire formats (`mintmark-proto`), sockets and files (`mintmark-runtime`), and the
//! decision who may have which identity (`ca-server`).

pub mod authority;
pub mod bundle;
pub mod clock;
pub mod entropy;
pub mod entry;
pub mod hybrid;
pub mod jose;
mod json;
pub mod key_manager;
pub mod pem;
pub mod rotation;
pub mod secret;
pub mod selector;
pub mod spiffe_id;
pub mod statement;
pub mod svid;
pub mod testing;
pub mod tls;
pub mod trust_domain;
pub mod validity;
