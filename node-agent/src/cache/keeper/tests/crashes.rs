//! The sealed cache on a disk that loses power at any operation and tears what was not synced.

use crate::sim::disk::{Coverage, Operation, SimDisk, Survival};

use super::*;

fn sim_disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir_all(Path::new("/data"), 0o700).unwrap();
    disk
}

/// A history whose frames take several blocks.
fn long_history() -> Vec<State> {
    let mut states = history();
    let mut state = states[2].clone();
    for round in 0..4_i64 {
        let mut big = svid(&one("c"), 130 + round, 500, 1_100);
        big.chain = vec![vec![u8::try_from(round).unwrap(); 3000]; 2];
        put(&mut state, big);
        states.push(state.clone());
    }
    states
}

/// What a life said of the cache.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    /// The last state that was kept, and the last one that may be.
    kept: Option<usize>,
    started: Option<usize>,
}

/// Keeps one state after the other until the disk is gone.
async fn live(disk: &SimDisk, states: &[State]) -> Said {
    let mut said = Said::default();
    let (mut keeper, _) = open(disk);
    for (number, state) in states.iter().enumerate() {
        said.started = Some(number);
        if keeper.keep(state).await.is_err() {
            break;
        }
        if *keeper.kept().borrow() == Kept::of(state) && disk.is_alive() {
            said.kept = Some(number);
        }
    }
    said
}

fn which(state: &State, states: &[State]) -> Option<usize> {
    let found = picture(state);
    states.iter().position(|other| picture(other) == found)
}

async fn check(disk: &SimDisk, said: Said, states: &[State], context: &str) {
    let (mut keeper, state) = open(disk);
    let found = which(&state, states);
    let torn = said.kept.is_none() && state.position.is_none();
    let held = found.is_some() && (found == said.kept || found == said.started);
    assert!(held || torn, "{context}: {found:?} of {said:?}");
    // It goes on from there, and what it keeps now is read back.
    for state in &states[said.kept.unwrap_or(0)..] {
        keeper.keep(state).await.unwrap();
    }
    same(&open(disk).1, states.last().unwrap());
}

#[tokio::test]
async fn a_crash_at_any_operation_costs_nothing_that_was_kept() {
    let states = long_history();
    let whole = sim_disk(1);
    let before = whole.operations().total();
    live(&whole, &states).await;
    let mut covered = Coverage::default();
    for operation in before..whole.operations().total() {
        for seed in 0..30 {
            let context = format!("seed {seed}, crash at {operation}");
            let disk = sim_disk(seed * 1000 + operation);
            disk.crash_at(operation);
            let said = live(&disk, &states).await;
            disk.crash();
            let disk = disk.restart();
            // Power goes again while the cache is read and what was torn is cut off.
            disk.crash_at(disk.operations().total() + seed % 6);
            drop(open(&disk));
            disk.crash();
            covered.writes_torn += disk.coverage().writes_torn;
            covered.writes_survived += disk.coverage().writes_survived;
            let disk = disk.restart();
            check(&disk, said, &states, &context).await;
        }
    }
    println!("{covered:?}");
    assert!(covered.writes_torn > 20, "{covered:?}");
    assert!(covered.writes_survived > 20, "{covered:?}");
}

#[tokio::test]
async fn a_write_that_fails_costs_nothing_that_is_said_to_be_kept() {
    let states = history();
    for operation in [
        Operation::Write,
        Operation::Sync,
        Operation::Rename,
        Operation::SyncFolder,
    ] {
        for number in 0..6 {
            let disk = sim_disk(number);
            disk.fail_after(operation, number);
            live(&disk, &states).await;
            disk.crash_with(Survival::Nothing);
            let (_, state) = open(&disk.restart());
            same(&state, states.last().unwrap());
        }
    }
}
