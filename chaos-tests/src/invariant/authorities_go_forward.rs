//! Authorities go prepared, published, active, old, retired, or from anywhere to revoked; never back,
//! and a taint is never taken away (reliability reference, invariant 12). Of a kind, at most one is
//! active, and no two share a key (invariant 17). A kind of which one was active has an active one ever after:
//! the bundle always has something by which to verify what comes next.

use std::collections::{BTreeMap, BTreeSet};

use mintmark_proto::mintmark::state::v1::AuthorityState;

use super::{Invariant, Seen};

/// The property: on each server's life, where each authority was.
#[derive(Default)]
pub struct AuthoritiesGoForward {
    last: BTreeMap<(String, u64), BTreeMap<String, (AuthorityState, bool)>>,
    /// Kinds of which one was active.
    active: BTreeMap<(String, u64), BTreeSet<i32>>,
}

impl Invariant for AuthoritiesGoForward {
    fn name(&self) -> &'static str {
        "authorities go forward"
    }

    fn after_step(&mut self, seen: Seen<'_>) -> Result<(), String> {
        for (name, view) in seen.servers.changed() {
            let last = self.last.entry((name.clone(), view.life)).or_default();
            let mut keys = BTreeSet::new();
            let mut active = BTreeSet::new();
            for authority in &view.authorities {
                let now = (authority.state(), authority.tainted);
                let before = last.insert(authority.id.clone(), now);
                if before.is_some_and(|before| before.0 > now.0 || (before.1 && !now.1)) {
                    return Err(format!(
                        "on {name} {} went from {before:?} to {now:?}",
                        authority.id
                    ));
                }
                if !keys.insert(authority.public_key_spki.clone()) {
                    return Err(format!("on {name} {} has another's key", authority.id));
                }
                if now.0 == AuthorityState::Active && !active.insert(authority.kind) {
                    return Err(format!("on {name} two authorities of a kind are active"));
                }
            }
            let before = self.active.entry((name.clone(), view.life)).or_default();
            if let Some(kind) = before.difference(&active).next() {
                return Err(format!(
                    "on {name} no authority of kind {kind} is active any more"
                ));
            }
            *before = active;
        }
        Ok(())
    }
}
