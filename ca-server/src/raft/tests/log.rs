//! The stores alone: openraft's suite, group commit, crashes and damage.

use std::path::Path;
use std::sync::Arc;

use mintmark_identity::entropy::SeededEntropy;
use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_runtime::disk::{Disk, OsDisk};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{EntryPayload, RaftLogReader};

use super::disk::{MemoryDisk, Unsynced};
use super::state::Names;
use crate::raft::batch::Batch;
use crate::raft::log_store::{LogStore, Owner};
use crate::raft::machine::Machine;
use crate::raft::marks::Marks;
use crate::raft::type_config::{Entry, LogId, StorageError, TypeConfig, Vote};
use crate::raft::waiters::Waiters;
use crate::store::StoreError;
use crate::store::checkpoint::CheckpointStore;
use crate::store::leaves::LeafStore;
use crate::store::record::Damage;

pub const LOG_PATH: &str = "/log.redb";

pub fn owner() -> Owner {
    Owner {
        cluster_id: vec![7; 16],
        node_id: 1,
        incarnation: [9; 16],
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: openraft::LeaderId::new(term, 1),
        index,
    }
}

pub fn entry(term: u64, index: u64) -> Entry {
    let payload = format!("content of entry {index} of term {term}");
    Entry {
        log_id: log_id(term, index),
        payload: EntryPayload::Normal(Batch::from_encoded(payload.into_bytes())),
    }
}

/// Opens the log; its writer ends when the log is dropped.
pub fn open_log(disk: &(impl Disk + Clone + 'static)) -> Result<LogStore, StoreError> {
    let (log, writer) = LogStore::open(Arc::new(disk.clone()), Path::new(LOG_PATH), &owner())?;
    tokio::spawn(writer.run());
    Ok(log)
}

pub async fn entries_of(log: &LogStore) -> Vec<Entry> {
    log.clone().try_get_log_entries(..).await.unwrap()
}

struct Stores {
    disk: fn() -> Arc<dyn Disk>,
}

impl StoreBuilder<TypeConfig, LogStore, Machine<Names>, tempfile::TempDir> for Stores {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine<Names>), StorageError> {
        let folder = tempfile::tempdir().unwrap();
        let disk = (self.disk)();
        let path = |name: &str| folder.path().join(name);
        let (log, writer) = LogStore::open(Arc::clone(&disk), &path("log.redb"), &owner()).unwrap();
        tokio::spawn(writer.run());
        let checkpoints = CheckpointStore::open(Arc::clone(&disk), &path("state.redb")).unwrap();
        let leaves = LeafStore::open(disk, &path("leaves.redb")).unwrap();
        let waiters = Waiters::new(&SeededEntropy::new(1));
        let machine = Machine::open(checkpoints, leaves, waiters, Marks::new(1, 5))
            .await
            .unwrap();
        Ok((folder, log, machine))
    }
}

#[test]
fn openrafts_storage_suite_passes_on_files() {
    let disk: fn() -> Arc<dyn Disk> = || Arc::new(OsDisk);
    Suite::test_all(Stores { disk }).unwrap();
}

#[test]
fn openrafts_storage_suite_passes_on_a_disk_in_memory() {
    let disk: fn() -> Arc<dyn Disk> = || Arc::new(MemoryDisk::default());
    Suite::test_all(Stores { disk }).unwrap();
}

#[tokio::test]
async fn appends_that_wait_together_share_a_sync() {
    let disk = MemoryDisk::default();
    let mut log = open_log(&disk).unwrap();
    let (syncs, commits) = (disk.syncs(), log.commits());
    let mut flushed = Vec::new();
    for index in 0..100 {
        let mut log = log.clone();
        flushed.push(tokio::spawn(async move {
            log.blocking_append([entry(1, index)]).await.unwrap();
        }));
    }
    for done in flushed {
        done.await.unwrap();
    }
    assert_eq!(entries_of(&log).await.len(), 100);
    assert!(log.commits() - commits < 10, "{} commits", log.commits());
    assert!(disk.syncs() - syncs < 20, "{} syncs", disk.syncs());
    log.save_vote(&Vote::new(1, 1)).await.unwrap();
}

#[tokio::test]
async fn entries_are_readable_before_they_are_durable() {
    let disk = MemoryDisk::default();
    let (log, writer) =
        LogStore::open(Arc::new(disk.clone()), Path::new(LOG_PATH), &owner()).unwrap();
    let mut appending = log.clone();
    // The writer does not run yet, so nothing can be durable.
    let append = tokio::spawn(async move { appending.blocking_append([entry(1, 0)]).await });
    while log.last_log_id().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(entries_of(&log).await, [entry(1, 0)]);
    assert!(!append.is_finished());
    assert_eq!(log.commits(), 0);
    tokio::spawn(writer.run());
    append.await.unwrap().unwrap();
    assert_eq!(log.commits(), 1);
}

#[tokio::test]
async fn a_new_owner_does_not_take_over_an_existing_log() {
    let disk = MemoryDisk::default();
    open_log(&disk).unwrap();
    let other = Owner {
        cluster_id: vec![8; 16],
        node_id: 2,
        incarnation: [3; 16],
    };
    let (log, _writer) = LogStore::open(Arc::new(disk), Path::new(LOG_PATH), &other).unwrap();
    assert_eq!(*log.owner(), owner());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_a_snapshot_overtook_holds_nothing_of_the_history_that_was_given_up() {
    let disk = MemoryDisk::default();
    let mut log = open_log(&disk).unwrap();
    let given_up = (0..=15).map(|index| entry(2, index));
    log.blocking_append(given_up).await.unwrap();
    log.purge(log_id(3, 12)).await.unwrap();
    assert_eq!(log.last_log_id(), Some(log_id(3, 12)));
    log.blocking_append([entry(3, 13)]).await.unwrap();
    log.close().await.unwrap();
    // A start checks every entry of the file.
    let log = open_log(&disk).unwrap();
    assert_eq!(log.purged(), Some(log_id(3, 12)));
    assert_eq!(entries_of(&log).await, [entry(3, 13)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_snapshot_takes_the_place_of_stays_on_disk_until_entries_follow() {
    let disk = MemoryDisk::default();
    let mut log = open_log(&disk).unwrap();
    let before: Vec<Entry> = (0..=15).map(|index| entry(2, index)).collect();
    log.blocking_append(before.clone()).await.unwrap();
    log.truncate(log_id(2, 9)).await.unwrap();
    log.purge(log_id(3, 12)).await.unwrap();
    // Everything else that makes the writer write, before the snapshot is saved.
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    let memory = pb::PeerMemory::default();
    log.remember_peer(2, memory, true).await.unwrap();
    log.close().await.unwrap();
    let log = open_log(&disk).unwrap();
    assert_eq!(log.purged(), None);
    assert_eq!(entries_of(&log).await, before);
    // And if it was saved, and nothing came after it:
    log.give_up_unless_holds(log_id(2, 12));
    assert_eq!(entries_of(&log).await, before);
    log.give_up_unless_holds(log_id(3, 12));
    assert_eq!(log.last_log_id(), Some(log_id(3, 12)));
    assert_eq!(entries_of(&log).await, []);
    // Also when it ends earlier, with a later leader.
    log.close().await.unwrap();
    let mut log = open_log(&disk).unwrap();
    log.give_up_unless_holds(log_id(1, 20));
    assert_eq!(log.last_log_id(), Some(log_id(1, 20)));
    log.blocking_append([entry(3, 21)]).await.unwrap();
    log.close().await.unwrap();
    let log = open_log(&disk).unwrap();
    assert_eq!(log.purged(), Some(log_id(1, 20)));
    assert_eq!(entries_of(&log).await, [entry(3, 21)]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_whose_entries_were_purged_gets_none_and_no_error() {
    let disk = MemoryDisk::default();
    let mut log = open_log(&disk).unwrap();
    log.blocking_append((0..=15).map(|index| entry(2, index)))
        .await
        .unwrap();
    log.purge(log_id(2, 9)).await.unwrap();
    let mut reader = log.clone();
    let mut read = async |start| reader.limited_get_log_entries(start, 16).await.unwrap();
    assert_eq!(read(5).await, [], "not those behind a gap");
    assert_eq!(read(9).await, []);
    assert_eq!(read(10).await.len(), 6);
}

/// What was acknowledged in a run that ended in a crash.
#[derive(Debug, Default, Clone)]
struct Acknowledged {
    vote: Option<Vote>,
    /// Entries that must be there, and the last one that may be.
    entries: Vec<Entry>,
    started: Vec<Entry>,
    /// A truncation began whose replacement was not acknowledged.
    cut: bool,
}

/// Votes, appends, replaces a tail, purges; notes what was acknowledged.
async fn run_until_failure(
    log: &mut LogStore,
    seen: &mut Acknowledged,
) -> Result<(), StorageError> {
    for term in [10, 20, 30] {
        let vote = Vote::new(term, 1);
        log.save_vote(&vote).await?;
        seen.vote = Some(vote);
        for _ in 0..4 {
            let index = seen.entries.len() as u64;
            let batch = [entry(term, index), entry(term, index + 1)];
            seen.started = seen.entries.clone();
            seen.started.extend(batch.clone());
            log.blocking_append(batch).await?;
            seen.entries = seen.started.clone();
        }
        let since = seen.entries.len() - 3;
        seen.cut = true;
        log.truncate(seen.entries[since].log_id).await?;
        let mut replaced = seen.entries[..since].to_vec();
        let new = entry(term + 5, since as u64);
        replaced.push(new.clone());
        seen.started = replaced.clone();
        let last = seen.entries.len();
        log.blocking_append([new]).await?;
        assert_ne!(last, replaced.len());
        seen.entries = replaced;
        seen.cut = false;
    }
    Ok(())
}

fn check(found: &[Entry], seen: &Acknowledged, context: &str) {
    // Everything acknowledged, perhaps followed by what was being written.
    let extended = found.starts_with(&seen.entries) && seen.started.starts_with(found);
    // Where a tail was being replaced: the old log or the new one, nothing between.
    let replaced = seen.cut && (found == seen.entries || found == seen.started);
    assert!(extended || replaced, "{context}: {found:?} of {seen:?}");
}

#[tokio::test]
async fn a_crash_at_any_write_loses_nothing_acknowledged() {
    for unsynced in [Unsynced::Lost, Unsynced::EverySecond, Unsynced::LastTorn] {
        let mut finished = false;
        for k in 1.. {
            let context = format!("{unsynced:?}, failure at operation {k}");
            let disk = MemoryDisk::default();
            let mut seen = Acknowledged::default();
            let mut log = open_log(&disk).unwrap();
            disk.fail_after(k);
            let outcome = run_until_failure(&mut log, &mut seen).await;
            if outcome.is_err() {
                assert!(log.fault().is_some(), "{context}");
                // After a failure nothing is taken any more.
                let again = log.save_vote(&Vote::new(99, 1)).await;
                assert!(again.is_err(), "{context}");
            }
            drop(log);
            disk.crash(unsynced);
            let mut log = open_log(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
            check(&entries_of(&log).await, &seen, &context);
            let vote = log.read_vote().await.unwrap();
            assert!(vote >= seen.vote, "{context}");
            // And it can be written again.
            log.save_vote(&Vote::new(99, 1)).await.unwrap();
            if outcome.is_ok() {
                finished = true;
                break;
            }
        }
        assert!(finished);
    }
}

#[tokio::test]
async fn damage_in_the_middle_stops_the_log_and_names_the_record() {
    let disk = MemoryDisk::default();
    let mut log = open_log(&disk).unwrap();
    let entries: Vec<Entry> = (0..20).map(|index| entry(1, index)).collect();
    log.blocking_append(entries).await.unwrap();
    log.close().await.unwrap();
    assert!(log.save_vote(&Vote::new(1, 1)).await.is_err());
    drop(log);
    // The writer's hold on the file ends with its task.
    tokio::task::yield_now().await;
    disk.damage(Path::new(LOG_PATH), "log", 7);
    match open_log(&disk).map(|_| ()) {
        Err(StoreError::Damaged { record, damage, .. }) => {
            assert_eq!((record.as_str(), damage), ("log/7", Damage::Checksum));
        }
        other => panic!("{other:?}"),
    }
}
