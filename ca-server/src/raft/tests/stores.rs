//! Checkpoints and leaves alone: crashes, damage, gaps.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mintmark_proto::mintmark::raft::v1 as pb;

use super::disk::{MemoryDisk, Unsynced};
use crate::store::StoreError;
use crate::store::checkpoint::CheckpointStore;
use crate::store::leaves::{LeafStore, ReadLeavesError};
use crate::store::record::Damage;

const STATE_PATH: &str = "/state.redb";
const LEAVES_PATH: &str = "/leaves.redb";

fn checkpoints(disk: &MemoryDisk) -> Result<CheckpointStore, StoreError> {
    CheckpointStore::open(Arc::new(disk.clone()), Path::new(STATE_PATH))
}

fn leaves(disk: &MemoryDisk) -> LeafStore {
    LeafStore::open(Arc::new(disk.clone()), Path::new(LEAVES_PATH)).unwrap()
}

fn head(id: &str) -> pb::CheckpointHead {
    pb::CheckpointHead {
        snapshot_id: id.to_owned(),
        ..Default::default()
    }
}

fn content(byte: u8) -> Bytes {
    // More than two pieces.
    vec![byte; 2_500_000].into()
}

fn leaf(index: u64) -> Vec<u8> {
    format!("leaf {index}").into_bytes()
}

fn leaf_range(start: u64, end: u64) -> Vec<Vec<u8>> {
    (start..end).map(leaf).collect()
}

fn fetched(start: u64, end: u64) -> Vec<Bytes> {
    leaf_range(start, end)
        .into_iter()
        .map(Bytes::from)
        .collect()
}

#[tokio::test]
async fn a_crash_leaves_the_old_checkpoint_or_the_new_one() {
    for unsynced in [Unsynced::Lost, Unsynced::EverySecond, Unsynced::LastTorn] {
        for k in 1.. {
            let context = format!("{unsynced:?}, failure at operation {k}");
            let disk = MemoryDisk::default();
            let store = checkpoints(&disk).unwrap();
            store.save(head("old"), content(1)).await.unwrap();
            disk.fail_after(k);
            let saved = store.save(head("new"), content(2)).await;
            if saved.is_err() {
                let again = store.save(head("again"), content(3)).await;
                assert!(matches!(again, Err(StoreError::Closed { .. })), "{context}");
            }
            drop(store);
            disk.crash(unsynced);
            let found = checkpoints(&disk).unwrap().load().await.unwrap().unwrap();
            let expected = match found.head.snapshot_id.as_str() {
                "old" if saved.is_err() => content(1),
                "new" => content(2),
                other => panic!("{context}: {other}"),
            };
            assert!(found.content == expected, "{context}");
            if saved.is_ok() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_damaged_checkpoint_is_named() {
    let disk = MemoryDisk::default();
    let store = checkpoints(&disk).unwrap();
    assert!(store.load().await.unwrap().is_none());
    store
        .save(head("x"), vec![7; 1_500_000].into())
        .await
        .unwrap();
    drop(store);
    disk.damage(Path::new(STATE_PATH), "pieces", 1);
    match checkpoints(&disk).unwrap().load().await {
        Err(StoreError::Damaged { record, damage, .. }) => {
            assert_eq!((record.as_str(), damage), ("pieces/1", Damage::Checksum));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn leaves_are_read_from_memory_and_disk_alike() {
    let disk = MemoryDisk::default();
    let store = leaves(&disk);
    store.append(0, leaf_range(0, 50)).await.unwrap();
    store.flush().await.unwrap();
    store.append(50, leaf_range(50, 70)).await.unwrap();
    assert_eq!(
        store.read(0, 70, usize::MAX).await.unwrap(),
        leaf_range(0, 70)
    );
    assert_eq!(
        store.read(45, 55, usize::MAX).await.unwrap(),
        leaf_range(45, 55)
    );
    assert_eq!(store.read(45, 55, 13).await.unwrap(), leaf_range(45, 47));
    assert_eq!(store.read(60, 60, 0).await.unwrap(), Vec::<Bytes>::new());
    drop(store);
    disk.crash(Unsynced::Lost);
    let store = leaves(&disk);
    assert_eq!(store.end(), 50, "the rest comes back with the log");
    // The replay brings some again, and must bring the same.
    store.append(40, leaf_range(40, 70)).await.unwrap();
    assert_eq!(
        store.read(0, 70, usize::MAX).await.unwrap(),
        leaf_range(0, 70)
    );
    let differs = store.append(69, vec![b"other".to_vec()]).await;
    assert!(
        matches!(differs, Err(StoreError::LeafDiffers { index: 69 })),
        "{differs:?}"
    );
}

#[tokio::test]
async fn fetched_leaves_are_read_only_after_they_were_accepted() {
    let disk = MemoryDisk::default();
    let store = leaves(&disk);
    store.append(0, leaf_range(0, 10)).await.unwrap();
    // A snapshot with 30 leaves, and then two commands.
    store.declare(30);
    store.append(30, leaf_range(30, 32)).await.unwrap();
    assert_eq!(store.first_missing(), Some((10, 30)));
    let absent = |read: Result<Vec<Bytes>, ReadLeavesError>| match read {
        Err(ReadLeavesError::Absent { first_absent }) => first_absent,
        other => panic!("{other:?}"),
    };
    assert_eq!(absent(store.read(0, 32, usize::MAX).await), 10);
    store.fill(10, fetched(10, 25)).await.unwrap();
    assert_eq!(store.first_missing(), Some((25, 30)));
    assert_eq!(
        absent(store.read(0, 32, usize::MAX).await),
        10,
        "not yet accepted"
    );
    store.reject_fetched().await.unwrap();
    assert_eq!(store.first_missing(), Some((10, 30)));
    store.fill(10, fetched(10, 30)).await.unwrap();
    drop(store);
    disk.crash(Unsynced::Lost);
    let store = leaves(&disk);
    assert_eq!(store.first_missing(), None);
    assert!(store.has_unverified(), "a crash accepts nothing");
    store.accept_fetched(32).await.unwrap();
    assert_eq!(
        store.read(0, 30, usize::MAX).await.unwrap(),
        leaf_range(0, 30)
    );
    // What is here is never overwritten by a peer.
    store
        .fill(0, vec![Bytes::from_static(b"other")])
        .await
        .unwrap();
    assert_eq!(
        store.read(0, 1, usize::MAX).await.unwrap(),
        leaf_range(0, 1)
    );
}

#[tokio::test]
async fn a_damaged_leaf_is_missing_and_comes_back() {
    let disk = MemoryDisk::default();
    let store = leaves(&disk);
    store.append(0, leaf_range(0, 50)).await.unwrap();
    store.flush().await.unwrap();
    drop(store);
    for index in [7, 8, 30] {
        disk.damage(Path::new(LEAVES_PATH), "leaves", index);
    }
    let store = leaves(&disk);
    assert_eq!(store.first_missing(), None, "nobody has looked yet");
    let read = store.read(0, 50, usize::MAX).await;
    let absent = matches!(read, Err(ReadLeavesError::Absent { first_absent: 7 }));
    assert!(absent, "{read:?}");
    assert_eq!(store.first_missing(), Some((7, 9)));
    let around = store.read(9, 30, usize::MAX).await;
    assert_eq!(around.unwrap(), leaf_range(9, 30), "all others are there");
    // One comes with the log, the others from a peer.
    store.append(8, leaf_range(8, 10)).await.unwrap();
    store.fill(7, fetched(7, 8)).await.unwrap();
    store.fill(30, fetched(30, 31)).await.unwrap();
    assert_eq!(store.first_missing(), None);
    store.accept_fetched(50).await.unwrap();
    drop(store);
    disk.crash(Unsynced::Lost);
    let whole = leaves(&disk).read(0, 50, usize::MAX).await;
    assert_eq!(whole.unwrap(), leaf_range(0, 50));
}

#[tokio::test]
async fn a_leaf_that_is_damaged_when_the_log_brings_it_again_is_replaced() {
    let disk = MemoryDisk::default();
    let store = leaves(&disk);
    store.append(0, leaf_range(0, 50)).await.unwrap();
    store.flush().await.unwrap();
    drop(store);
    disk.damage(Path::new(LEAVES_PATH), "leaves", 40);
    let store = leaves(&disk);
    store.append(35, leaf_range(35, 60)).await.unwrap();
    let whole = store.read(0, 60, usize::MAX).await;
    assert_eq!(whole.unwrap(), leaf_range(0, 60));
}

#[tokio::test]
async fn many_waiting_leaves_go_to_disk_by_themselves() {
    let disk = MemoryDisk::default();
    let store = leaves(&disk);
    let before = disk.syncs();
    for batch in 0..100 {
        let start = batch * 256;
        store
            .append(start, leaf_range(start, start + 256))
            .await
            .unwrap();
    }
    let syncs = disk.syncs() - before;
    assert!((1..=10).contains(&syncs), "{syncs} syncs for 25600 leaves");
}
