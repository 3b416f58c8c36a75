//! State-machine safety (Raft paper, figure 3): what a position of the log holds is the same on every
//! server, for ever. Seen through the size and root of the audit tree, the bundle's sequence and the sizes
//! of the other tables, which every command changes or leaves alone in one way only (reliability reference,
//! invariant 3).

use std::collections::BTreeMap;

use ca_server::state::Position;

use super::{Invariant, Seen};

type Fingerprint = (u64, Vec<u8>, u64, [usize; 4]);

/// The property, and what was seen at each position, on whichever server first.
#[derive(Default)]
pub struct EqualPositionEqualState {
    seen: BTreeMap<Position, (Fingerprint, String)>,
    last: BTreeMap<String, Position>,
}

impl Invariant for EqualPositionEqualState {
    fn name(&self) -> &'static str {
        "equal position, equal state"
    }

    fn after_step(&mut self, seen: Seen<'_>) -> Result<(), String> {
        for (name, view) in seen.servers.changed() {
            if self.last.insert(name.clone(), view.position) == Some(view.position) {
                continue;
            }
            let fingerprint = (
                view.audit_size,
                view.audit_root.clone(),
                view.bundle_sequence,
                view.table_sizes,
            );
            let (first, whose) = self
                .seen
                .entry(view.position)
                .or_insert_with(|| (fingerprint.clone(), name.clone()));
            if *first != fingerprint {
                return Err(format!(
                    "at {:?} {whose} has {} leaves, bundle {} and tables of {:?}, {name} has {}, {} and {:?}, \
                     root {}",
                    view.position,
                    first.0,
                    first.2,
                    first.3,
                    fingerprint.0,
                    fingerprint.2,
                    fingerprint.3,
                    if first.1 == fingerprint.1 {
                        "equal"
                    } else {
                        "different"
                    },
                ));
            }
        }
        Ok(())
    }
}
