//! The stores of a member on a disk that loses power at any operation, tears what was not synced,
//! and rots: nothing acknowledged is lost, nothing damaged is taken for whole.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::entropy::SeededEntropy;
use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_runtime::Host;
use mintmark_runtime::disk::Disk;
use mintmark_runtime::task::Tasks;
use mintmark_runtime::testing::{ElapsedClock, MemoryNetwork};
use openraft::raft::AppendEntriesRequest;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{EntryPayload, RaftLogReader};

use super::harness::{CLUSTER, Strangers, address, admin, status_is};
use super::log::{LOG_PATH, entries_of, entry, open_log, owner};
use super::state::{Names, add};
use crate::raft::log_store::LogStore;
use crate::raft::type_config::{Entry, LogId, Snapshot, StorageError, Vote};
use crate::raft::{Consensus, OpenError, RaftConfig};
use crate::sim::disk::{Coverage, Faults, Image, Latency, Operation, SimDisk, Survival};
use crate::store::StoreError;

/// What was acknowledged of a log, and what may be there beside it.
#[derive(Debug, Default, Clone)]
struct Seen {
    vote: Option<Vote>,
    peers: u64,
    entries: Vec<Entry>,
    /// Other contents that the log may have: what was being written.
    instead: Vec<Vec<Entry>>,
    /// Entries below may be gone: a purge was asked for.
    purged: u64,
}

impl Seen {
    fn start(&mut self, next: Vec<Entry>) {
        self.instead.push(next);
    }

    fn acknowledge(&mut self) {
        if let Some(last) = self.instead.pop() {
            self.entries = last;
            self.instead.clear();
        }
    }

    fn check(&self, found: &[Entry], context: &str) {
        let first = found.first().map_or(0, |first| first.log_id.index);
        assert!(
            first <= self.purged,
            "{context}: {first} is purged, not {}",
            self.purged
        );
        let first = usize::try_from(first).unwrap();
        let held = std::iter::once(&self.entries)
            .chain(&self.instead)
            .any(|may_be| may_be.get(first..) == Some(found));
        // An append in two jobs may be there by half; it is a prefix of what was started.
        let partly = self.instead.last().is_some_and(|last| {
            last.starts_with(&self.entries)
                && found.len() + first >= self.entries.len()
                && last.get(first..first + found.len()) == Some(found)
        });
        let (all, may_be) = (self.entries.len(), self.instead.len());
        let last = found.last().map(|last| last.log_id);
        assert!(
            held || partly,
            "{context}: ends with {last:?}; {all} sure, {may_be} others"
        );
    }
}

fn memory(round: u64) -> pb::PeerMemory {
    pb::PeerMemory {
        incarnation: vec![u8::try_from(round).unwrap(); 16],
        ..Default::default()
    }
}

/// Three terms: a vote, appends, a tail that is replaced, a peer to remember, a purge.
async fn live(log: &mut LogStore, seen: &mut Seen) -> Result<(), StorageError> {
    for round in 1..=3_u64 {
        let vote = Vote::new(round * 10, 1);
        log.save_vote(&vote).await?;
        seen.vote = Some(vote);
        for _ in 0..2 {
            let next = seen.entries.len() as u64;
            let batch: Vec<Entry> = (next..next + 4).map(|i| entry(round * 10, i)).collect();
            seen.start([seen.entries.clone(), batch.clone()].concat());
            log.blocking_append(batch).await?;
            seen.acknowledge();
        }
        let since = seen.entries.len() - 3;
        log.truncate(seen.entries[since].log_id).await?;
        let replacement = entry(round * 10 + 5, since as u64);
        seen.start([&seen.entries[..since], std::slice::from_ref(&replacement)].concat());
        log.blocking_append([replacement]).await?;
        seen.acknowledge();
        if log.remember_peer(7, memory(round), true).await.is_err() {
            return Ok(());
        }
        seen.peers = round;
        seen.purged = seen.entries.len() as u64 - 4;
        log.purge(seen.entries[since - 5].log_id).await?;
    }
    log.save_vote(&Vote::new(90, 1)).await?;
    seen.vote = Some(Vote::new(90, 1));
    // The last one fails when the disk does; what it wrote is acknowledged by what came before.
    let _ = log.close().await;
    Ok(())
}

/// Lives on this disk until it ends or power goes.
async fn life(disk: &SimDisk) -> Seen {
    let mut seen = Seen::default();
    if let Ok(mut log) = open_log(disk) {
        let _ = live(&mut log, &mut seen).await;
    }
    settle().await;
    seen
}

/// Lets the log's writer come to its end, so that nothing holds the file.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

async fn check_log(disk: &SimDisk, seen: &Seen, context: &str) {
    let mut log = open_log(disk).unwrap_or_else(|error| panic!("{context}: {error:?}"));
    let found = entries_of(&log).await;
    seen.check(&found, context);
    assert!(log.read_vote().await.unwrap() >= seen.vote, "{context}");
    let peers = log.peers();
    let remembered = peers.first().map_or(0, |(_, memory)| memory.incarnation[0]);
    assert!(u64::from(remembered) >= seen.peers, "{context}: {peers:?}");
    drop(log);
    settle().await;
}

fn disk_of(image: &Image, seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.set_image(image);
    disk.restart()
}

fn add_up(sum: &mut Coverage, one: Coverage) {
    sum.crashes_in_operation += one.crashes_in_operation;
    sum.crashes_with_unsynced += one.crashes_with_unsynced;
    sum.writes_lost += one.writes_lost;
    sum.writes_torn += one.writes_torn;
}

#[tokio::test]
async fn a_crash_at_any_operation_of_the_log_loses_nothing_acknowledged() {
    let whole = SimDisk::new(1);
    life(&whole).await;
    let mut covered = Coverage::default();
    for operation in 0..whole.operations().total() {
        for seed in [operation, operation + 1_000_000] {
            let context = format!("seed {seed}, crash at {operation}");
            let disk = SimDisk::new(seed);
            disk.crash_at(operation);
            let seen = life(&disk).await;
            if !disk.is_alive() {
                add_up(&mut covered, disk.coverage());
                let disk = disk.restart();
                check_log(&disk, &seen, &context).await;
                // And it can be written again.
                let mut log = open_log(&disk).unwrap();
                log.save_vote(&Vote::new(99, 1)).await.unwrap();
            }
        }
    }
    println!("{covered:?}");
    assert!(covered.crashes_in_operation > 200, "{covered:?}");
    assert!(covered.writes_torn > 50, "{covered:?}");
}

#[tokio::test]
async fn a_crash_at_any_operation_of_the_recovery_loses_nothing_either() {
    let whole = SimDisk::new(1);
    life(&whole).await;
    let mut crashes = 0;
    for first in (0..whole.operations().total()).step_by(3) {
        let disk = SimDisk::new(first);
        disk.crash_at(first);
        let seen = life(&disk).await;
        if disk.is_alive() {
            continue;
        }
        let image = disk.image();
        for second in 0.. {
            let context = format!("crash at {first}, and at {second} of the recovery");
            let disk = disk_of(&image, first * 1000 + second);
            disk.crash_at(second);
            let opened = open_log(&disk).is_ok();
            settle().await;
            if disk.is_alive() {
                assert!(opened, "{context}");
                break;
            }
            crashes += 1;
            check_log(&disk.restart(), &seen, &context).await;
        }
    }
    println!("{crashes} crashes in recoveries");
    assert!(crashes > 500, "{crashes}");
}

#[tokio::test]
async fn after_a_failed_sync_the_log_takes_nothing_and_comes_back_with_what_it_acknowledged() {
    let whole = SimDisk::new(1);
    life(&whole).await;
    for number in 0..whole.operations().of(Operation::Sync) {
        for seed in 0..6 {
            let context = format!("seed {seed}, sync {number} failed");
            let disk = SimDisk::new(seed);
            let mut seen = Seen::default();
            if let Ok(mut log) = open_log(&disk) {
                disk.fail_after(Operation::Sync, number);
                let _ = live(&mut log, &mut seen).await;
            }
            settle().await;
            // The process is started anew on a machine that runs on, writes, and loses power.
            disk.kill();
            disk.disarm();
            let disk = disk.restart();
            let log = open_log(&disk);
            let mut log = log.unwrap_or_else(|error| panic!("{context}: {error:?}"));
            let mut after = entries_of(&log).await;
            seen.check(&after, &context);
            let next = log.last_log_id().map_or(0, |last| last.index + 1);
            let more: Vec<Entry> = (next..next + 6).map(|i| entry(70, i)).collect();
            after.extend(more.clone());
            log.blocking_append(more).await.unwrap();
            disk.crash();
            drop(log);
            settle().await;
            let log = open_log(&disk.restart());
            let log = log.unwrap_or_else(|error| panic!("{context}, then power: {error:?}"));
            assert_eq!(entries_of(&log).await, after, "{context}");
        }
    }
}

/// Everything that is read of a log.
async fn content(disk: &SimDisk) -> Result<(Vec<Entry>, Option<Vote>, usize), String> {
    let opened = catch_unwind(AssertUnwindSafe(|| open_log(disk)));
    let log = match opened {
        Ok(Ok(log)) => log,
        Ok(Err(error)) => return Err(format!("{error:?}")),
        Err(_) => return Err("panic".to_owned()),
    };
    let read = log.clone().try_get_log_entries(..).await;
    let read = read.map_err(|error| error.to_string());
    let vote = log.clone().read_vote().await.unwrap();
    let peers = log.peers().len();
    drop(log);
    settle().await;
    Ok((read?, vote, peers))
}

/// Bits of the file where anything is written.
fn written_bits(image: &Image) -> Vec<u64> {
    let disk = disk_of(image, 0);
    let file = disk.read(Path::new(LOG_PATH)).unwrap();
    (0_u64..)
        .zip(file.chunks(64))
        .filter(|(_, chunk)| chunk.iter().any(|byte| *byte != 0))
        .flat_map(|(number, _)| (number * 512)..(number + 1) * 512)
        .collect()
}

/// What flipping bits did.
#[derive(Debug, Default)]
struct Rot {
    refused: u64,
    harmless: u64,
    /// The last commit is gone, and nothing else.
    shorter: u64,
    panics: u64,
}

/// Flips bits all over the file, one at a time.
async fn rot(image: &Image, step: usize) -> Rot {
    let whole = content(&disk_of(image, 0)).await.unwrap();
    let mut rot = Rot::default();
    for bit in written_bits(image).iter().step_by(step) {
        let disk = disk_of(image, *bit);
        assert!(disk.flip_bit(Path::new(LOG_PATH), *bit));
        match content(&disk).await {
            Ok(found) if found == whole => rot.harmless += 1,
            Ok((found, vote, _)) => {
                let last = whole.0.len() - LAST_COMMIT..;
                assert!(
                    found == whole.0[..last.start] && vote == whole.1,
                    "bit {bit}"
                );
                rot.shorter += 1;
            }
            Err(error) if error == "panic" => rot.panics += 1,
            Err(_) => rot.refused += 1,
        }
    }
    println!("{rot:?}");
    assert!(rot.refused + rot.shorter > 100, "{rot:?}");
    assert_eq!(rot.panics, 0);
    rot
}

/// Entries of the last commit of [`written_log`].
const LAST_COMMIT: usize = 4;

fn many() -> Vec<Entry> {
    (0..60).map(|index| entry(3, index)).collect()
}

/// A log with entries of several commits.
async fn written_log(disk: &SimDisk) {
    let mut log = open_log(disk).unwrap();
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    log.remember_peer(2, memory(1), true).await.unwrap();
    for batch in many().chunks(7) {
        log.blocking_append(batch.to_vec()).await.unwrap();
    }
}

#[tokio::test]
async fn a_flipped_bit_is_refused_or_changes_nothing() {
    let disk = SimDisk::new(1);
    written_log(&disk).await;
    settle().await;
    assert_eq!(rot(&disk.image(), 61).await.shorter, 0);
}

/// After a power cut, a last commit that is damaged looks like one that was never whole: peers, who
/// know what was acknowledged, tell them apart. Nothing before it is ever lost in silence.
#[tokio::test]
async fn a_flipped_bit_after_a_crash_hides_the_last_commit_at_most() {
    let disk = SimDisk::new(1);
    written_log(&disk).await;
    disk.crash_with(Survival::Nothing);
    settle().await;
    assert!(rot(&disk.image(), 211).await.shorter > 0);
}

#[tokio::test]
async fn a_first_start_that_is_cut_off_anywhere_can_be_repeated() {
    let start = |disk: &SimDisk| open_log(disk).map(|log| *log.owner() == owner());
    let whole = SimDisk::new(1);
    assert!(start(&whole).unwrap());
    settle().await;
    for operation in 0..whole.operations().total() {
        for seed in 0..20 {
            let disk = SimDisk::new(seed * 1000 + operation);
            disk.crash_at(operation);
            let _ = start(&disk);
            settle().await;
            disk.crash();
            let context = format!("seed {seed}, crash at {operation}");
            let started = start(&disk.restart());
            assert!(
                started.unwrap_or_else(|error| panic!("{context}: {error:?}")),
                "{context}"
            );
            settle().await;
        }
    }
}

/// A member that is a cluster of its own, with everything that a server keeps on disk.
struct Member {
    consensus: Consensus<Names>,
    tasks: Tasks,
}

async fn start(disk: &SimDisk, seed: u64) -> Result<Member, OpenError> {
    let host = Host {
        clock: Arc::new(ElapsedClock::new(Timestamp::from_unix_secs(1_700_000_000))),
        entropy: Arc::new(SeededEntropy::new(seed)),
        network: Arc::new(MemoryNetwork::new()),
        disk: Arc::new(disk.clone()),
    };
    let config = RaftConfig {
        snapshot_every: 4,
        entries_kept: 2,
        ..RaftConfig::new(1, CLUSTER, address(1), "/data")
    };
    let tasks = Tasks::new();
    let auth = Arc::new(Strangers::default());
    match Consensus::open(&host, &config, auth, &tasks).await {
        Ok(consensus) => Ok(Member { consensus, tasks }),
        Err(error) => {
            tasks.shutdown(Duration::ZERO).await;
            Err(error)
        }
    }
}

impl Member {
    /// Becomes a cluster unless it is one, and proposes until the disk is gone. Returns the names
    /// that were acknowledged; one more may be there.
    async fn live(&self, disk: &SimDisk, names: &[String]) -> usize {
        let _ = self.consensus.bootstrap().await;
        for (done, name) in names.iter().enumerate() {
            let proposal = self.consensus.propose(add(name), admin(), None);
            tokio::pin!(proposal);
            loop {
                tokio::select! {
                    proposed = &mut proposal => match proposed {
                        Ok(_) => break,
                        Err(_) => return done,
                    },
                    () = tokio::time::sleep(Duration::from_millis(20)) => if !disk.is_alive() {
                        return done;
                    },
                }
            }
        }
        names.len()
    }

    async fn end(self) {
        self.consensus.shutdown().await;
        self.tasks.shutdown(Duration::ZERO).await;
        self.tasks.all_ended().await;
    }

    /// Waits until it leads, when it has applied all that it has.
    async fn leads(&self, context: &str) -> Vec<String> {
        let leads = async {
            while self
                .consensus
                .propose(add("last"), admin(), None)
                .await
                .is_err()
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let led = tokio::time::timeout(Duration::from_secs(60), leads).await;
        led.unwrap_or_else(|_| panic!("{context}: {:?}", self.consensus));
        self.names()
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_operation_of_a_member_loses_nothing_acknowledged() {
    let names: Vec<String> = (0..12).map(|number| format!("name {number}")).collect();
    let whole = SimDisk::new(1);
    let member = start(&whole, 1).await.unwrap();
    assert_eq!(member.live(&whole, &names).await, names.len());
    member.end().await;
    let all = whole.operations().total();
    let (mut crashes, mut partly) = (0, 0);
    for operation in (0..all).step_by(2) {
        let context = format!("crash at {operation} of {all}");
        let disk = SimDisk::new(operation);
        disk.crash_at(operation);
        let mut acknowledged = 0;
        if let Ok(member) = start(&disk, operation).await {
            acknowledged = member.live(&disk, &names).await;
            disk.crash();
            member.end().await;
        }
        disk.crash();
        crashes += disk.coverage().crashes_in_operation;
        // Power goes a second time while it comes back.
        let mut disk = disk.restart();
        disk.crash_at(disk.operations().total() + operation % 97);
        if let Ok(member) = start(&disk, operation + 1).await {
            tokio::time::sleep(Duration::from_secs(2)).await;
            disk.crash();
            member.end().await;
        }
        disk.crash();
        disk = disk.restart();
        let member = start(&disk, operation + 2).await;
        let member = member.unwrap_or_else(|error| panic!("{context}: {error:?}"));
        let _ = member.consensus.bootstrap().await;
        let mut found = member.leads(&context).await;
        assert_eq!(found.pop().as_deref(), Some("last"), "{context}");
        assert!(names.starts_with(&found), "{context}: {found:?}");
        assert!(
            found.len() >= acknowledged,
            "{context}: {found:?} of {acknowledged}"
        );
        partly += u64::from(found.len() > acknowledged);
        member.end().await;
    }
    println!("{crashes} crashes in {all} operations, {partly} commands that nobody was told of");
    assert!(crashes > 100, "{crashes}");
}

#[tokio::test]
async fn damage_that_opening_finds_is_an_error_that_says_so() {
    let disk = SimDisk::new(1);
    written_log(&disk).await;
    settle().await;
    let file = disk.read(Path::new(LOG_PATH)).unwrap();
    let needle = b"content of entry 30 ";
    // Some places are of pages that are not used any more.
    for (place, window) in (0_u64..).zip(file.windows(needle.len())) {
        if window == needle {
            disk.flip_bit(Path::new(LOG_PATH), place * 8);
        }
    }
    let error = open_log(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupted { .. }), "{error:?}");
    assert_eq!(error.to_string(), "log.redb is damaged");
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_is_gone_is_not_taken_for_an_empty_state() {
    let names: Vec<String> = (0..12).map(|number| format!("name {number}")).collect();
    let disk = SimDisk::new(1);
    let member = start(&disk, 1).await.unwrap();
    assert_eq!(member.live(&disk, &names).await, names.len());
    member.consensus.snapshot().await;
    status_is(&member.consensus, |now| now.snapshot_log_index >= Some(13)).await;
    member.consensus.purge().await;
    // What is purged reaches the disk with the next write.
    member
        .consensus
        .propose(add("one more"), admin(), None)
        .await
        .unwrap();
    member.end().await;
    disk.remove_file(Path::new("/data/state.redb")).unwrap();
    let error = start(&disk, 2)
        .await
        .err()
        .expect("half of the state is gone");
    assert!(
        matches!(error, OpenError::Store(StoreError::Missing { .. })),
        "{error:?}"
    );
}

/// Members that led after member 1, each in its term.
const OVERTAKEN: u64 = 50;
const LATER: u64 = 60;
const LATEST: u64 = 1000;

fn blanks(term: u64, indices: std::ops::Range<u64>) -> Vec<Entry> {
    let log_id = |index| LogId {
        leader_id: openraft::LeaderId::new(term, 3),
        index,
    };
    let blank = |index| Entry {
        log_id: log_id(index),
        payload: EntryPayload::Blank,
    };
    indices.map(blank).collect()
}

impl Member {
    /// What the leader of the term would send behind `prev`. False when this member has ended.
    async fn hear(&self, term: u64, prev: Option<LogId>, entries: Vec<Entry>) -> bool {
        let request = AppendEntriesRequest {
            vote: Vote::new_committed(term, 3),
            prev_log_id: prev,
            entries,
            leader_commit: prev,
        };
        let answered = self.consensus.parts().0.append_entries(request).await;
        answered.is_ok_and(|answer| answer.is_success())
    }

    /// Takes the snapshot and the entries behind it of the leader of the term, and meets peers
    /// meanwhile. False when this member has ended.
    async fn is_overtaken(&self, term: u64, snapshot: &Snapshot) -> bool {
        let (raft, log) = self.consensus.parts();
        let end = snapshot.meta.last_log_id;
        let next = end.map_or(0, |id| id.index) + 1;
        let reached = end.map(|id| id.index);
        // The leader looks for where their histories part. An assertion of the library, which is on in
        // tests only, wants that of a log that ends before the snapshot.
        let is_other = |id: &LogId| id.leader_id.term >= OVERTAKEN && Some(id.index) < reached;
        for _ in 0..100 {
            let Some(last) = log.last_log_id().filter(is_other) else {
                break;
            };
            let probe = blanks(term, last.index..last.index + 1).pop();
            let held = self.hear(term, probe.map(|entry| entry.log_id), Vec::new());
            if held.await || log.fault().is_some() {
                return false;
            }
        }
        let installing = async {
            let vote = Vote::new_committed(term, 3);
            let installed = raft.install_full_snapshot(vote, snapshot.clone()).await;
            installed.is_ok() && self.hear(term, end, blanks(term, next..next + 5)).await
        };
        let meeting = async {
            for round in 1..=12 {
                let _ = log.remember_peer(9, memory(round), true).await;
            }
        };
        tokio::join!(installing, meeting).0
    }

    fn names(&self) -> Vec<String> {
        self.consensus.read(|state| state.names.clone())
    }
}

/// A disk of which every piece of work takes its time, so that what runs side by side mixes.
fn slow(disk: &SimDisk) {
    let latency = Latency {
        min: Duration::ZERO,
        max: Duration::from_millis(5),
    };
    disk.set_faults(Faults {
        latency: Some(latency),
        ..Faults::default()
    });
}

/// A member that has applied some names, and behind them has so many entries that nobody committed. Their
/// leader is a later one than that of the snapshot's last entry.
async fn member_of_another_history(disk: &SimDisk, names: &[String], given_up: u64) -> Member {
    let member = start(disk, 3).await.unwrap();
    assert_eq!(member.live(disk, names).await, names.len());
    let end = member.consensus.parts().1.last_log_id();
    let next = end.map_or(0, |id| id.index) + 1;
    let given_up = blanks(OVERTAKEN, next..next + given_up);
    assert!(member.hear(OVERTAKEN, end, given_up).await);
    member
}

/// The log as it is on disk.
async fn log_of(disk: &SimDisk, context: &str) -> Vec<Entry> {
    let log = LogStore::open(
        Arc::new(disk.clone()),
        Path::new("/data/log.redb"),
        &owner(),
    );
    let (log, _writer) = log.unwrap_or_else(|error| panic!("{context}: {error:?}"));
    entries_of(&log).await
}

/// Starts a member that was stopped while a snapshot took the place of its log: it stands before it or
/// behind it, can be overtaken all the same, and has one history then, also on disk. True if the
/// snapshot was there and the log was still the old one.
async fn check_overtaken(
    disk: &SimDisk,
    snapshot: &Snapshot,
    names: &[String],
    context: &str,
) -> bool {
    let term = |entry: &Entry| entry.log_id.leader_id.term;
    let held = log_of(disk, context).await;
    let is_old = held.last().map(term) == Some(OVERTAKEN);
    let member = start(disk, 4).await;
    let member = member.unwrap_or_else(|error| panic!("{context}: {error:?}"));
    let found = member.names();
    let before = found.len() == 12 && names.starts_with(&found);
    assert!(before || found == names, "{context}: {found:?}");
    assert!(member.is_overtaken(LATEST, snapshot).await, "{context}");
    assert_eq!(member.names(), names, "{context}");
    member.end().await;
    let held = log_of(disk, context).await;
    assert_eq!(
        held.iter().map(term).collect::<Vec<_>>(),
        [LATEST; 5],
        "{context}"
    );
    let member = start(disk, 5).await;
    let member = member.unwrap_or_else(|error| panic!("{context}, again: {error:?}"));
    assert_eq!(member.names(), names, "{context}");
    member.end().await;
    is_old && found == names
}

/// Fewer than those that the snapshot has, and more.
const GIVEN_UP: [u64; 2] = [5, 60];

async fn snapshot_of(names: &[String]) -> Snapshot {
    let disk = SimDisk::new(2);
    let member = start(&disk, 2).await.unwrap();
    assert_eq!(member.live(&disk, names).await, names.len());
    let end = member.consensus.parts().1.last_log_id();
    member.consensus.snapshot().await;
    let reached = end.map(|id| id.index);
    status_is(&member.consensus, |now| now.snapshot_log_index >= reached).await;
    let snapshot = member.consensus.parts().0.get_snapshot().await.unwrap();
    member.end().await;
    snapshot.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_operation_while_a_snapshot_takes_the_place_of_the_log_can_be_got_over() {
    let names: Vec<String> = (0..40).map(|number| format!("name {number}")).collect();
    let snapshot = snapshot_of(&names).await;
    // Every second operation with each history, every operation with one.
    for (given_up, first) in GIVEN_UP.into_iter().zip([0, 1]) {
        let (mut crashes, mut between) = (0, 0);
        for operation in (first..).step_by(2) {
            let context = format!("{given_up} given up, crash at {operation}");
            let disk = SimDisk::new(operation);
            let member = member_of_another_history(&disk, &names[..12], given_up).await;
            slow(&disk);
            disk.crash_at(disk.operations().total() + operation);
            let done = member.is_overtaken(LATER, &snapshot).await;
            let is_alive = disk.is_alive();
            assert!(done || !is_alive, "{context}");
            disk.crash();
            member.end().await;
            let was = check_overtaken(&disk.restart(), &snapshot, &names, &context).await;
            between += u64::from(was);
            if is_alive {
                break;
            }
            crashes += 1;
        }
        println!("{crashes} crashes, {between} behind the snapshot with the old log");
        assert!(crashes > 30 && between > 2, "{crashes}, {between}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_can_be_stopped_while_a_snapshot_takes_the_place_of_its_log() {
    let names: Vec<String> = (0..40).map(|number| format!("name {number}")).collect();
    let snapshot = snapshot_of(&names).await;
    for given_up in GIVEN_UP {
        let (mut stopped, mut between) = (0, 0);
        for half_ms in (0..60).step_by(2) {
            let context = format!("{given_up} given up, stopped after {half_ms} half milliseconds");
            let disk = SimDisk::new(half_ms);
            let member = member_of_another_history(&disk, &names[..12], given_up).await;
            slow(&disk);
            let stop = tokio::time::sleep(Duration::from_micros(half_ms * 500));
            tokio::select! {
                done = member.is_overtaken(LATER, &snapshot) => assert!(done, "{context}"),
                () = stop => stopped += 1,
            }
            member.end().await;
            disk.kill();
            let was = check_overtaken(&disk.restart(), &snapshot, &names, &context).await;
            between += u64::from(was);
        }
        println!("{stopped} stops, {between} behind the snapshot with the old log");
        assert!(stopped > 10 && between > 0, "{stopped}, {between}");
    }
}
