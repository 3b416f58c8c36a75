//! The state machine alone, fed with entries.

use std::path::Path;
use std::sync::Arc;

use mintmark_identity::entropy::SeededEntropy;
use mintmark_proto::mintmark::raft::v1 as pb;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, RaftSnapshotBuilder};

use super::disk::MemoryDisk;
use super::state::{Names, add};
use crate::raft::batch::Batch;
use crate::raft::machine::{Machine, MachineError};
use crate::raft::marks::Marks;
use crate::raft::type_config::{Entry, LogId};
use crate::raft::waiters::Waiters;
use crate::store::checkpoint::CheckpointStore;
use crate::store::leaves::LeafStore;

const TERM: u64 = 4;
const DIGEST_EVERY: u64 = 10;

async fn machine(disk: &MemoryDisk, waiters: &Waiters) -> Machine<Names> {
    let disk = Arc::new(disk.clone());
    let checkpoints = CheckpointStore::open(disk.clone(), Path::new("/state.redb")).unwrap();
    let leaves = LeafStore::open(disk, Path::new("/leaves.redb")).unwrap();
    let marks = Marks::new(1, DIGEST_EVERY);
    Machine::open(checkpoints, leaves, waiters.clone(), marks)
        .await
        .unwrap()
}

fn waiters() -> Waiters {
    Waiters::new(&SeededEntropy::new(1))
}

fn command(name: &str, term: u64) -> pb::Command {
    pb::Command {
        version: 1,
        term,
        body: Some(add(name)),
        ..Default::default()
    }
}

fn entry(index: u64, commands: Vec<pb::Command>) -> Entry {
    let (batch, _stage) = Batch::propose(&pb::CommandBatch { commands });
    Entry {
        log_id: LogId {
            leader_id: openraft::LeaderId::new(TERM, 1),
            index,
        },
        payload: EntryPayload::Normal(batch),
    }
}

#[tokio::test]
async fn a_command_for_another_term_is_void() {
    let waiters = waiters();
    let mut machine = machine(&MemoryDisk::default(), &waiters).await;
    let waiting = waiters.open();
    let void = pb::Command {
        ticket: waiting.ticket().to_vec(),
        ..command("void", TERM - 1)
    };
    let commands = vec![
        command("a", TERM),
        void,
        command("b", TERM),
        command("c", 0),
    ];
    let results = machine.apply([entry(1, commands)]).await.unwrap();
    let applied: Vec<bool> = results[0].0.iter().map(Option::is_some).collect();
    assert_eq!(applied, [true, false, true, true]);
    assert_eq!(machine.read(|state| state.names.clone()), ["a", "b", "c"]);
    assert_eq!(machine.read(|state| state.index), 3, "it has no number");
    let mut waiting = waiting;
    assert!(
        waiting.try_applied().is_none(),
        "nobody is told that it happened"
    );
}

#[tokio::test]
async fn a_command_of_a_newer_server_stops_the_machine() {
    let mut machine = machine(&MemoryDisk::default(), &waiters()).await;
    let newer = pb::Command {
        version: 2,
        ..command("newer", TERM)
    };
    let outcome = machine
        .apply([entry(1, vec![command("a", TERM), newer])])
        .await;
    assert!(outcome.is_err());
    let fault = machine.fault().unwrap();
    assert!(
        matches!(&*fault, MachineError::Newer(id) if id.index == 1),
        "{fault}"
    );
    let snapshot = machine.build_snapshot().await;
    assert!(snapshot.is_err(), "what was applied in part is not saved");
}

#[tokio::test]
async fn a_ticket_is_answered_once_and_only_by_its_own_run() {
    let waiters = waiters();
    let mut waiting = waiters.open();
    let mut machine = machine(&MemoryDisk::default(), &waiters).await;
    let mine = pb::Command {
        ticket: waiting.ticket().to_vec(),
        ..command("mine", TERM)
    };
    let of_an_earlier_run = pb::Command {
        ticket: vec![0; 16],
        ..command("earlier", TERM)
    };
    let commands = vec![of_an_earlier_run, mine.clone(), mine];
    machine.apply([entry(1, commands)]).await.unwrap();
    let applied = waiting.try_applied().unwrap();
    assert_eq!(applied.result.detail, "mine");
    assert_eq!(applied.position.index, 2);
}

#[tokio::test]
async fn a_snapshot_that_is_late_does_not_replace_a_newer_one() {
    let disk = MemoryDisk::default();
    let mut ahead = machine(&MemoryDisk::default(), &waiters()).await;
    for (index, name) in (1..).zip(["a", "b", "c"]) {
        ahead
            .apply([entry(index, vec![command(name, TERM)])])
            .await
            .unwrap();
    }
    let newer = ahead.build_snapshot().await.unwrap();

    let mut behind = machine(&disk, &waiters()).await;
    behind
        .apply([entry(1, vec![command("a", TERM)])])
        .await
        .unwrap();
    let old = behind.build_snapshot().await.unwrap();
    behind
        .install_snapshot(&newer.meta, newer.snapshot)
        .await
        .unwrap();
    assert_eq!(behind.read(|state| state.names.clone()), ["a", "b", "c"]);
    // As if its builder had been slow.
    behind.save(&old.meta, old.snapshot.0).await.unwrap();
    drop(behind);

    let mut reopened = machine(&disk, &waiters()).await;
    assert_eq!(reopened.read(|state| state.names.clone()), ["a", "b", "c"]);
    assert_eq!(reopened.leaves().first_missing(), Some((1, 3)));
    let current = reopened.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, newer.meta);
}
