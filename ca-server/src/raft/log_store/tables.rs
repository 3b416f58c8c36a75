//! The tables of the log file.
//!
//! Responsible for: reading the file and checking all of it at start. Always holds: a
//! log that opens has an owner, entries without gaps whose leaders never go back, and
//! no damaged record. Not here: the order of writes ([`super::writer`]).

use std::collections::BTreeMap;

use mintmark_proto::mintmark::raft::v1 as pb;
use prost::Message;

use super::view::{View, weight};
use crate::raft::convert;
use crate::raft::type_config::{Entry, LogId, NodeId, Vote};
use crate::store::StoreError;
use crate::store::database::{IndexedTable, NamedTable, Reading, SealedDatabase};
use crate::store::record::Damage;

/// Name of the file in errors.
pub const LOG_FILE: &str = "log.redb";

pub const LOG: IndexedTable = IndexedTable::new("log");
pub const META: NamedTable = NamedTable::new("meta");
pub const PEERS: NamedTable = NamedTable::new("peers");

pub const OWNER: &str = "owner";
pub const VOTE: &str = "vote";
pub const PURGED: &str = "purged";
pub const COMMITTED: &str = "committed";

/// Whose store it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub cluster_id: Vec<u8>,
    /// The member.
    pub node_id: NodeId,
    /// Drawn when the store was made: a wiped one has another.
    pub incarnation: [u8; 16],
}

impl Owner {
    /// For disk.
    pub fn encode(&self) -> Vec<u8> {
        pb::StoreOwner {
            cluster_id: self.cluster_id.clone(),
            node_id: self.node_id,
            incarnation: self.incarnation.to_vec(),
        }
        .encode_to_vec()
    }

    /// From disk.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let owner = pb::StoreOwner::decode(bytes).map_err(|_| Damage::Content)?;
        Ok(Self {
            cluster_id: owner.cluster_id,
            node_id: owner.node_id,
            incarnation: owner.incarnation.try_into().map_err(|_| Damage::Content)?,
        })
    }
}

/// What was found, or made.
pub struct Opened {
    pub owner: Owner,
    pub view: View,
}

/// Reads the whole file, or makes an empty log.
pub fn load(database: &SealedDatabase, owner: &Owner) -> Result<Opened, StoreError> {
    let reading = database.read()?;
    let Some(found) = reading.named(META, OWNER)? else {
        if reading.bounds(LOG)?.is_some() {
            return Err(StoreError::Missing {
                file: LOG_FILE,
                record: format!("meta/{OWNER}"),
            });
        }
        database.write(|writing| writing.put_named(META, OWNER, &owner.encode()))?;
        return Ok(Opened {
            owner: owner.clone(),
            view: View::default(),
        });
    };
    let owner =
        Owner::decode(&found).map_err(|damage| damaged(&format!("meta/{OWNER}"), damage))?;
    let purged = meta(&reading, PURGED, |mark: pb::CommittedMark| {
        convert::optional_log_id(mark.log_id)
    })?
    .flatten();
    let (leaders, last) = check(&reading, purged)?;
    let view = View::opened(
        purged,
        leaders,
        last,
        meta(&reading, VOTE, |vote: pb::Vote| {
            convert::vote_from_pb(Some(vote))
        })?,
        meta(&reading, COMMITTED, |mark: pb::CommittedMark| {
            convert::optional_log_id(mark.log_id)
        })?
        .flatten(),
        peers(&reading)?,
    );
    Ok(Opened { owner, view })
}

/// The entries of a range, without gaps, at least one, and few more bytes than asked.
pub fn read(
    database: &SealedDatabase,
    start: u64,
    end: u64,
    bytes_max: usize,
) -> Result<Vec<Entry>, StoreError> {
    let mut entries = Vec::new();
    let mut bytes = 0_usize;
    let mut next = start;
    database.read()?.range(LOG, start, end, |index, content| {
        let entry = decode(index, next, &content)?;
        next = next.saturating_add(1);
        bytes = bytes.saturating_add(weight(&entry));
        entries.push(entry);
        Ok(bytes < bytes_max)
    })?;
    if next < end && bytes < bytes_max {
        return Err(missing(next));
    }
    Ok(entries)
}

pub fn encode_mark(log_id: Option<&LogId>) -> Vec<u8> {
    pb::CommittedMark {
        log_id: log_id.map(convert::log_id_to_pb),
    }
    .encode_to_vec()
}

pub fn encode_vote(vote: &Vote) -> Vec<u8> {
    convert::vote_to_pb(vote).encode_to_vec()
}

/// Walks over all entries; returns the first of every leader, and the last.
fn check(
    reading: &Reading,
    purged: Option<LogId>,
) -> Result<(BTreeMap<u64, LogId>, Option<LogId>), StoreError> {
    let first = purged.map_or(0, |purged| purged.index.saturating_add(1));
    let mut next = first;
    let mut leaders = BTreeMap::new();
    let mut last = purged;
    if let Some((lowest, _)) = reading.bounds(LOG)?
        && lowest < first
    {
        return Err(damaged(&format!("log/{lowest}"), Damage::Place));
    }
    reading.range(LOG, 0, u64::MAX, |index, content| {
        let entry = decode(index, next, &content)?;
        let leader = entry.log_id.leader_id;
        let before = last.map(|last: LogId| last.leader_id);
        if before > Some(leader) {
            return Err(damaged(&format!("log/{index}"), Damage::Place));
        }
        if index == first || before != Some(leader) {
            leaders.insert(index, entry.log_id);
        }
        last = Some(entry.log_id);
        next = next.saturating_add(1);
        Ok(true)
    })?;
    Ok((leaders, last))
}

fn decode(index: u64, expected: u64, content: &[u8]) -> Result<Entry, StoreError> {
    if index != expected {
        return Err(missing(expected));
    }
    let entry = pb::LogEntry::decode(content)
        .ok()
        .and_then(|entry| convert::entry_from_pb(entry).ok())
        .ok_or_else(|| damaged(&format!("log/{index}"), Damage::Content))?;
    if entry.log_id.index != index {
        return Err(damaged(&format!("log/{index}"), Damage::Place));
    }
    Ok(entry)
}

fn meta<M: Message + Default, T>(
    reading: &Reading,
    name: &str,
    convert: impl FnOnce(M) -> Result<T, convert::ConvertError>,
) -> Result<Option<T>, StoreError> {
    let Some(content) = reading.named(META, name)? else {
        return Ok(None);
    };
    let value = M::decode(content.as_slice())
        .ok()
        .and_then(|message| convert(message).ok());
    value
        .map(Some)
        .ok_or_else(|| damaged(&format!("meta/{name}"), Damage::Content))
}

fn peers(reading: &Reading) -> Result<BTreeMap<NodeId, pb::PeerMemory>, StoreError> {
    reading
        .all_named(PEERS)?
        .into_iter()
        .map(|(name, content)| {
            let node = name.parse().ok();
            let memory = pb::PeerMemory::decode(content.as_slice()).ok();
            node.zip(memory)
                .ok_or_else(|| damaged(&format!("peers/{name}"), Damage::Content))
        })
        .collect()
}

fn missing(index: u64) -> StoreError {
    StoreError::Missing {
        file: LOG_FILE,
        record: format!("log/{index}"),
    }
}

fn damaged(record: &str, damage: Damage) -> StoreError {
    StoreError::Damaged {
        file: LOG_FILE,
        record: record.to_owned(),
        damage,
    }
}
