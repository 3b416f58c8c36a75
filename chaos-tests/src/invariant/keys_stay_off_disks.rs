//! P10 and invariant 28: no private key of a workload lies on any disk in the clear, the agent's or a
//! server's.

use std::collections::BTreeSet;

use super::{Invariant, Seen};

/// The property.
pub struct KeysStayOffDisks;

/// Bytes of a P-256 private key in PKCS#8 that are its own: the scalar begins here.
const SCALAR: std::ops::Range<usize> = 36..68;

impl Invariant for KeysStayOffDisks {
    fn name(&self) -> &'static str {
        "keys stay off disks"
    }

    fn at_end(&mut self, seen: Seen<'_>) -> Result<(), String> {
        // Looked for by their first eight bytes, which no other content has by chance.
        let keys: BTreeSet<[u8; 8]> = seen
            .world
            .oracle
            .received
            .iter()
            .filter_map(|one| one.private_key.get(SCALAR)?.get(..8)?.try_into().ok())
            .collect();
        // Nearly no place on a disk begins as a key does, and that is seen without looking it up.
        let mut begins = vec![false; 1 << 16];
        for [first, second, ..] in &keys {
            begins[beginning(*first, *second)] = true;
        }
        for (name, machine) in &seen.world.machines {
            for (path, content) in machine.disk().files() {
                let found = content.windows(8).any(|window| {
                    begins[beginning(window[0], window[1])]
                        && window
                            .try_into()
                            .is_ok_and(|window: [u8; 8]| keys.contains(&window))
                });
                if found {
                    return Err(format!(
                        "{} on {name} holds a workload's key",
                        path.display()
                    ));
                }
            }
        }
        Ok(())
    }
}

fn beginning(first: u8, second: u8) -> usize {
    usize::from(u16::from_be_bytes([first, second]))
}
