//! P7: every server gives the same leaves; they are numbered without gaps, and hash up to the root that
//! the state holds.

use mintmark_tlog::{Frontier, leaf_hash};

use super::{Invariant, Seen};

/// The property.
pub struct AuditLogIsOne;

impl Invariant for AuditLogIsOne {
    fn name(&self) -> &'static str {
        "the audit log is one"
    }

    fn at_end(&mut self, seen: Seen<'_>) -> Result<(), String> {
        let logs = &seen.world.oracle.leaves;
        let shortest = logs.values().map(Vec::len).min().unwrap_or(0);
        let mut all = logs.iter();
        let Some((first, longest)) = all.next() else {
            return Err("nobody gave the log".to_owned());
        };
        for (name, leaves) in all {
            if leaves[..shortest] != longest[..shortest] {
                return Err(format!("{first} and {name} give different leaves"));
            }
        }
        for (name, leaves) in logs {
            let view = seen.servers.servers().get(name);
            let view = view.ok_or_else(|| format!("{name} does not run"))?;
            let mut tree = Frontier::default();
            for (index, leaf) in leaves.iter().enumerate() {
                let decoded = crate::oracle::decode(leaf);
                if decoded.index != index as u64 {
                    return Err(format!("{name} gives leaf {} at {index}", decoded.index));
                }
                tree.push(leaf_hash(leaf));
                let size = index as u64 + 1;
                if size == view.audit_size && tree.root().as_slice() != view.audit_root {
                    return Err(format!("the leaves of {name} do not hash up to its root"));
                }
            }
        }
        Ok(())
    }
}
