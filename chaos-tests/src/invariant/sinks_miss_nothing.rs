//! A copy of the audit log has every leaf at least once, in order (reliability reference, invariant 6).
//! After the last whole line there may be a part of one, which the sink cuts off before it goes on.

use std::path::Path;

use mintmark_runtime::disk::Disk as _;

use super::{Invariant, Seen};
use crate::sim::disk::SimDisk;
use crate::sim::server::SINK;

/// The property.
pub struct SinksMissNothing;

/// How many leaves a copy has, from the first one on.
///
/// # Errors
/// When it misses one, or has something else.
pub fn copied(disk: &SimDisk) -> Result<u64, String> {
    let copy = match disk.read(Path::new(SINK)) {
        Ok(copy) => copy,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error.to_string()),
    };
    let whole = copy
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    let mut next = 0_u64;
    for line in copy[..whole]
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let leaf: serde_json::Value =
            serde_json::from_slice(line).map_err(|error| format!("a line is no leaf: {error}"))?;
        let index = leaf["index"].as_u64().ok_or("a line has no index")?;
        if index > next {
            return Err(format!("{index} follows {next} leaves"));
        }
        next = next.max(index + 1);
    }
    Ok(next)
}

impl Invariant for SinksMissNothing {
    fn name(&self) -> &'static str {
        "sinks miss nothing"
    }

    fn at_end(&mut self, seen: Seen<'_>) -> Result<(), String> {
        for (name, leaves) in &seen.world.oracle.leaves {
            let copied = copied(&seen.world.machines[name].disk());
            let copied = copied.map_err(|problem| format!("in the copy on {name}, {problem}"))?;
            if copied < leaves.len() as u64 {
                return Err(format!(
                    "the copy on {name} has {copied} of {} leaves",
                    leaves.len()
                ));
            }
        }
        Ok(())
    }
}
