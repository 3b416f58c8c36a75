//! Registration entries.
//!
//! Responsible for: [`RegistrationEntry`](mintmark_identity::entry::RegistrationEntry)
//! in the replicated state and in SPIRE's API, with the masks of the latter.
//! Always holds: what `mintmark.state.v1` holds comes back unchanged; lists that
//! are sets are written in order, so that equal entries encode to equal bytes.
//! Not here: which entries are acceptable in a trust domain
//! (`RegistrationEntry::validate`).

mod spire;
mod state;

pub use spire::{
    entry_from_spire, entry_to_spire, mask_spire_entry, requested_entry, requested_id,
    updated_entry,
};
