//! Random calls and crashes, against a model of what may be there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chaos_tests::sim::disk::{Coverage, SimDisk, Survival};
use mintmark_runtime::disk::{Disk, MODE_DIRECTORY, MODE_SECRET, StoreBackend};
use mintmark_runtime::testing::disk_conformance;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redb::StorageBackend;

#[tokio::test]
async fn the_simulated_disk_conforms() {
    let disk = SimDisk::new(1);
    let root = Path::new("/root");
    disk.create_dir_all(root, MODE_DIRECTORY).unwrap();
    disk_conformance(&disk, root).await;
}

const STORE: &str = "/store";
const NAMES: [&str; 3] = ["/a", "/b", "/c"];

#[derive(Debug, Clone)]
enum Step {
    Replace(usize, usize),
    Append(usize, usize),
    Remove(usize),
    Truncate(usize, usize),
    StoreWrite(u64, usize),
    StoreLength(u64),
    StoreSync,
    Crash,
    Kill,
    CrashSoon(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..3_usize, 0..9000_usize).prop_map(|(file, length)| Step::Replace(file, length)),
        3 => (0..3_usize, 0..3000_usize).prop_map(|(file, length)| Step::Append(file, length)),
        1 => (0..3_usize).prop_map(Step::Remove),
        1 => (0..3_usize, 0..4000_usize).prop_map(|(file, length)| Step::Truncate(file, length)),
        6 => (0..12_000_u64, 1..9000_usize).prop_map(|(at, length)| Step::StoreWrite(at, length)),
        2 => (0..20_000_u64).prop_map(Step::StoreLength),
        2 => Just(Step::StoreSync),
        1 => Just(Step::Crash),
        1 => Just(Step::Kill),
        2 => (0..12_u64).prop_map(Step::CrashSoon),
    ]
}

/// What may be found of the files that are written whole or appended to.
#[derive(Debug, Default, Clone)]
struct WholeFiles {
    sure: BTreeMap<PathBuf, Vec<u8>>,
}

/// What may be found of a store.
#[derive(Debug, Default, Clone)]
struct StoreModel {
    synced: Vec<u8>,
    /// Bytes that a place may have instead, since it was synced.
    since: BTreeMap<usize, BTreeSet<u8>>,
    now: Vec<u8>,
    lengths: BTreeSet<usize>,
}

impl StoreModel {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.now[offset..offset + bytes.len()].copy_from_slice(bytes);
        for (at, byte) in (offset..).zip(bytes) {
            self.since.entry(at).or_default().insert(*byte);
        }
    }

    fn set_length(&mut self, length: usize) {
        let before = self.now.len();
        self.now.resize(length, 0);
        self.lengths.insert(length);
        for at in before.min(length)..before.max(length) {
            self.since.entry(at).or_default().insert(0);
        }
    }

    fn sync(&mut self) {
        self.found(self.now.clone());
    }

    fn found(&mut self, content: Vec<u8>) {
        self.since.clear();
        self.lengths = BTreeSet::from([content.len()]);
        self.now.clone_from(&content);
        self.synced = content;
    }

    fn check(&self, found: &[u8]) {
        assert!(
            self.lengths.contains(&found.len()),
            "length {}",
            found.len()
        );
        for (at, byte) in found.iter().enumerate() {
            let as_synced = self.synced.get(at) == Some(byte);
            let since = self.since.get(&at);
            let written = since.is_some_and(|bytes| bytes.contains(byte));
            assert!(as_synced || written, "byte {at} is {byte}, of {since:?}");
        }
    }
}

struct Run {
    disk: SimDisk,
    store: Box<dyn StoreBackend>,
    files: WholeFiles,
    model: StoreModel,
    tag: u8,
    crashes: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        let store = disk.open_store(Path::new(STORE)).unwrap();
        let mut model = StoreModel::default();
        model.found(Vec::new());
        Self {
            disk,
            store,
            files: WholeFiles::default(),
            model,
            tag: 0,
            crashes: 0,
        }
    }

    /// Bytes that say which write they are of.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        self.tag = self.tag % 250 + 1;
        vec![self.tag; length]
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Replace(file, length) => {
                let (path, bytes) = (PathBuf::from(NAMES[file]), self.bytes(length));
                let before = self.files.sure.get(&path).cloned();
                let done = self.disk.write_atomic(&path, &bytes, MODE_SECRET);
                self.settle(&path, done.is_ok(), Some(bytes.clone()), |found| {
                    *found == before || *found == Some(bytes.clone())
                });
            }
            Step::Append(file, length) => {
                let (path, bytes) = (PathBuf::from(NAMES[file]), self.bytes(length));
                let before = self.files.sure.get(&path).cloned();
                let done = self.disk.append(&path, &bytes);
                let whole = [before.clone().unwrap_or_default(), bytes.clone()].concat();
                self.settle(&path, done.is_ok(), Some(whole), |found| match found {
                    None => before.is_none(),
                    Some(found) => {
                        let kept = before.clone().unwrap_or_default();
                        let added = found.strip_prefix(kept.as_slice());
                        added.is_some_and(|added| {
                            added.len() <= bytes.len()
                                && added.iter().all(|byte| [0, bytes[0]].contains(byte))
                        })
                    }
                });
            }
            Step::Remove(file) => {
                let path = PathBuf::from(NAMES[file]);
                let before = self.files.sure.get(&path).cloned();
                if before.is_some() {
                    let done = self.disk.remove_file(&path);
                    let may_be = |found: &Option<Vec<u8>>| found.is_none() || *found == before;
                    self.settle(&path, done.is_ok(), None, may_be);
                }
            }
            Step::Truncate(file, length) => {
                let path = PathBuf::from(NAMES[file]);
                if let Some(before) = self.files.sure.get(&path).cloned() {
                    let done = self.disk.truncate(&path, length as u64);
                    let after = before[..length.min(before.len())].to_vec();
                    self.settle(&path, done.is_ok(), Some(after.clone()), |found| {
                        *found == Some(before.clone()) || *found == Some(after.clone())
                    });
                }
            }
            Step::StoreWrite(offset, length) => self.store_write(offset, length),
            Step::StoreLength(length) => {
                // Before it is tried: it may have happened and not been acknowledged.
                self.model.set_length(usize::try_from(length).unwrap());
                let _ = self.store.set_len(length);
            }
            Step::StoreSync => {
                if self.store.sync_data().is_ok() {
                    self.model.sync();
                }
            }
            Step::Crash => drop(self.disk.crash()),
            Step::Kill => self.disk.kill(),
            Step::CrashSoon(in_operations) => {
                let now = self.disk.operations().total();
                self.disk.crash_at(now + in_operations);
            }
        }
        if !self.disk.is_alive() {
            self.next_life();
        }
    }

    fn store_write(&mut self, offset: u64, length: usize) {
        let now = self.model.now.len() as u64;
        let offset = offset.min(now);
        let length = length.min(usize::try_from(now - offset).unwrap());
        let bytes = self.bytes(length);
        self.model.write(usize::try_from(offset).unwrap(), &bytes);
        let _ = self.store.write(offset, &bytes);
    }

    /// After a call on a whole file: what it acknowledged is there, now and after a crash.
    fn settle(
        &mut self,
        path: &Path,
        acknowledged: bool,
        wanted: Option<Vec<u8>>,
        may_be: impl Fn(&Option<Vec<u8>>) -> bool,
    ) {
        let found = if acknowledged {
            wanted
        } else {
            assert!(!self.disk.is_alive(), "nothing else fails here");
            let files: BTreeMap<_, _> = self.disk.files().into_iter().collect();
            let found = files.get(path).cloned();
            assert!(
                may_be(&found),
                "{}: {:?}",
                path.display(),
                found.map(|f| f.len())
            );
            found
        };
        match found {
            Some(found) => self.files.sure.insert(path.to_owned(), found),
            None => self.files.sure.remove(path),
        };
    }

    fn next_life(&mut self) {
        assert!(self.store.len().is_err(), "an ended life does no I/O");
        let crashes = self.disk.coverage().crashes;
        let lost_power = crashes > self.crashes;
        self.crashes = crashes;
        self.disk = self.disk.restart();
        for (path, content) in &self.files.sure {
            assert_eq!(
                self.disk.read(path).unwrap(),
                *content,
                "{}",
                path.display()
            );
        }
        for name in NAMES {
            let sure = self.files.sure.contains_key(Path::new(name));
            assert_eq!(self.disk.exists(Path::new(name)).unwrap(), sure);
        }
        self.store = self.disk.open_store(Path::new(STORE)).unwrap();
        let length = self.store.len().unwrap();
        let mut content = vec![0; usize::try_from(length).unwrap()];
        self.store.read(0, &mut content).unwrap();
        self.model.check(&content);
        if lost_power {
            // A power cut settles it; what a killed process left may still be lost.
            self.model.found(content);
        } else {
            assert_eq!(content, self.model.now);
        }
    }
}

fn add(sum: &mut Coverage, one: Coverage) {
    sum.crashes += one.crashes;
    sum.crashes_in_operation += one.crashes_in_operation;
    sum.crashes_with_unsynced += one.crashes_with_unsynced;
    sum.kills += one.kills;
    sum.writes_lost += one.writes_lost;
    sum.writes_torn += one.writes_torn;
    sum.writes_survived += one.writes_survived;
    sum.names_lost += one.names_lost;
    sum.temporaries_left += one.temporaries_left;
}

#[test]
fn what_was_synced_is_there_and_what_is_there_was_written() {
    let mut runner = TestRunner::new_with_rng(
        Config {
            cases: 150,
            failure_persistence: None,
            ..Config::default()
        },
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let covered = std::cell::RefCell::new(Coverage::default());
    let steps = prop::collection::vec(step(), 1..60);
    runner
        .run(&(any::<u64>(), steps), |(seed, steps)| {
            let mut run = Run::new(seed);
            for step in steps {
                run.step(step);
            }
            run.disk.crash();
            run.next_life();
            add(&mut covered.borrow_mut(), run.disk.coverage());
            Ok(())
        })
        .unwrap();
    let covered = covered.into_inner();
    println!("{covered:?}");
    for (what, times) in [
        ("crashes in an operation", covered.crashes_in_operation),
        (
            "crashes with unsynced writes",
            covered.crashes_with_unsynced,
        ),
        ("lost writes", covered.writes_lost),
        ("torn writes", covered.writes_torn),
        ("surviving writes", covered.writes_survived),
        ("lost names", covered.names_lost),
        ("temporary files left", covered.temporaries_left),
        ("kills", covered.kills),
    ] {
        assert!(times >= 10, "{what}: only {times}");
    }
}

#[test]
fn one_seed_is_one_disk() {
    let run = |seed: u64| {
        let mut run = Run::new(seed);
        let mut images = Vec::new();
        for round in 0..30 {
            run.step(Step::StoreLength(9000));
            run.step(Step::StoreWrite(round * 100, 5000));
            run.step(Step::Append(0, 700));
            run.step(Step::CrashSoon(round % 7));
            run.step(Step::Replace(1, 3000));
            run.step(Step::Append(2, 900));
            run.step(Step::Crash);
            images.push(run.disk.files());
        }
        (images, run.disk.operations(), run.disk.coverage())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn each_kind_of_survival_is_what_it_says() {
    let leave = |survival: Survival, seed: u64| {
        let disk = SimDisk::new(seed);
        let store = disk.open_store(Path::new(STORE)).unwrap();
        store.set_len(8192).unwrap();
        store.sync_data().unwrap();
        for tag in 1..=4_u8 {
            store
                .write(u64::from(tag - 1) * 2048, &[tag; 2048])
                .unwrap();
        }
        let report = disk.crash_with(survival).unwrap();
        assert_eq!(report.lost + report.torn + report.survived, 4);
        (report, disk.files().remove(0).1)
    };
    for seed in 0..50 {
        assert_eq!(leave(Survival::Nothing, seed).1, vec![0; 8192]);
        let (report, content) = leave(Survival::Everything, seed);
        assert_eq!(report.survived, 4);
        assert!(!content.contains(&0));
        let (report, _) = leave(Survival::Subset, seed);
        assert!(
            report.torn == 0 || report.block == 4096,
            "whole writes, unless a block is shared"
        );
        let (report, _) = leave(Survival::Prefix, seed);
        assert!(report.torn <= 1 || report.block == 4096);
    }
    assert!((0..50).any(|seed| leave(Survival::Scattered, seed).0.torn > 0));
}
