//! The authorities of the cluster: their keys, their life, and the key beneath them.
//!
//! Always: an authority belongs to the cluster, not to a server; what it is and which state it is in
//! stands in replicated state, its key lies sealed in the replicated vault, and this module only opens,
//! uses and proposes.
//!
//! Not here: which transitions are allowed (`state::authorities`), when one is due
//! (`mintmark_identity::rotation`), what is signed with an authority (`issuance`).

pub mod keyring;
pub mod lifecycle;
pub mod rotation;
pub mod statement;
pub mod trust_domain_key;
