//! The file on a disk that loses power at any operation and tears what was not synced.

use crate::sim::disk::{Coverage, Operation, SimDisk, Survival};

use super::*;

/// Batches of a life: small, of many blocks, small.
const BATCHES: [std::ops::Range<u64>; 4] = [0..2, 2..60, 60..61, 61..64];
const ALL: u64 = 64;

/// Delivers from where the file is until all is there or the disk fails. Returns what was
/// acknowledged.
async fn live(disk: &SimDisk) -> u64 {
    let mut sink = sink(disk);
    let Ok(resumption) = sink.resume(ORIGIN).await else {
        return 0;
    };
    let mut next = resumption.next;
    for end in BATCHES.map(|batch| batch.end) {
        if next < end {
            if sink.deliver(batch(next..end)).await.is_err() {
                return next;
            }
            next = end;
        }
    }
    next
}

/// What the file holds is what was acknowledged, whole, in order, once; and it goes on.
async fn check(disk: &SimDisk, acknowledged: u64, context: &str) {
    let mut sink = sink(disk);
    let next = sink.resume(ORIGIN).await;
    let next = next.unwrap_or_else(|e| panic!("{context}: {e:?}")).next;
    assert!(next >= acknowledged, "{context}: {next} of {acknowledged}");
    if disk.exists(Path::new(PATH)).unwrap() {
        assert!(text(disk) == lines(0..next), "{context}: not {next} lines");
    }
    if next < ALL {
        sink.deliver(batch(next..ALL)).await.unwrap();
    }
    assert!(text(disk) == lines(0..ALL), "{context}");
}

fn add_up(sum: &mut Coverage, one: Coverage) {
    sum.crashes_in_operation += one.crashes_in_operation;
    sum.writes_torn += one.writes_torn;
    sum.writes_lost += one.writes_lost;
    sum.writes_survived += one.writes_survived;
}

#[tokio::test]
async fn a_crash_at_any_operation_loses_no_line_and_doubles_none() {
    let whole = SimDisk::new(1);
    assert_eq!(live(&whole).await, ALL);
    let mut covered = Coverage::default();
    for operation in 0..whole.operations().total() {
        for seed in 0..40 {
            let context = format!("seed {seed}, crash at {operation}");
            let disk = SimDisk::new(seed * 1000 + operation);
            disk.crash_at(operation);
            let acknowledged = live(&disk).await;
            let disk = disk.restart();
            // Power goes again while it comes back.
            disk.crash_at(disk.operations().total() + seed % 8);
            let acknowledged = acknowledged.max(live(&disk).await);
            disk.crash();
            add_up(&mut covered, disk.coverage());
            check(&disk.restart(), acknowledged, &context).await;
        }
    }
    println!("{covered:?}");
    assert!(covered.writes_torn > 20, "{covered:?}");
    assert!(covered.writes_survived > 50, "{covered:?}");
}

#[tokio::test]
async fn a_line_whose_sync_failed_is_written_again() {
    for failing in 0..8 {
        for seed in 0..20 {
            let context = format!("seed {seed}, sync {failing} fails");
            let disk = SimDisk::new(seed);
            disk.fail_after(Operation::Sync, failing);
            let before = live(&disk).await;
            // The same process tries again, as its task does.
            let acknowledged = live(&disk).await.max(before);
            assert_eq!(acknowledged, ALL, "{context}");
            disk.crash_with(Survival::Nothing);
            check(&disk.restart(), acknowledged, &context).await;
        }
    }
}
