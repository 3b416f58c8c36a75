//! `redb` on the simulated disk: a crash at every operation, and again at every operation of the
//! recovery, loses nothing that was acknowledged and leaves nothing half done.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use chaos_tests::sim::disk::{Coverage, Image, SimDisk};
use mintmark_runtime::disk::Disk;
use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError,
};

const STORE: &str = "/store";
const TABLE: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("records");
const COMMITS: u64 = 6;

/// How a store makes a commit durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phases {
    One,
    Two,
}

#[derive(Debug, Default)]
struct Repairs(Rc<Cell<u64>>);

impl Repairs {
    fn open(&self, disk: &SimDisk) -> Result<Database, String> {
        let backend = disk.open_store(Path::new(STORE));
        let backend = backend.map_err(|error| error.to_string())?;
        let repairs = Rc::clone(&self.0);
        Builder::new()
            .set_repair_callback(move |_| repairs.set(repairs.get() + 1))
            .create_with_backend(backend)
            .map_err(|error| format!("{error:?}"))
    }
}

type Records = BTreeMap<u64, Vec<u8>>;

/// What the store holds after so many commits: each one adds a record that needs pages of its own,
/// changes one that all share, and some remove an older one.
fn records(commits: u64) -> Records {
    let mut records = Records::new();
    for commit in 1..=commits {
        for (key, value) in written(commit) {
            match value {
                Some(value) => records.insert(key, value),
                None => records.remove(&key),
            };
        }
    }
    records
}

fn written(commit: u64) -> Vec<(u64, Option<Vec<u8>>)> {
    let byte = u8::try_from(commit).unwrap();
    let mut written = vec![
        (0, Some(vec![byte; 100])),
        (commit, Some(vec![byte; 5000])),
        (1000 + commit, Some(vec![byte; 30])),
    ];
    if commit.is_multiple_of(3) {
        written.push((commit - 2, None));
    }
    written
}

fn commit(database: &Database, number: u64, phases: Phases) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate).unwrap();
    transaction.set_quick_repair(phases == Phases::Two);
    {
        let mut table = transaction.open_table(TABLE)?;
        for (key, value) in written(number) {
            match value {
                Some(value) => drop(table.insert(key, value.as_slice())?),
                None => drop(table.remove(key)?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn read(database: &Database) -> Records {
    try_read(database).unwrap()
}

fn try_read(database: &Database) -> Result<Records, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(TABLE) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Records::new()),
        Err(error) => return Err(error.into()),
    };
    let mut records = Records::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        records.insert(key.value(), value.value().to_vec());
    }
    Ok(records)
}

/// Commits until the disk fails; returns how many were acknowledged.
fn run(disk: &SimDisk, phases: Phases) -> u64 {
    let Ok(database) = Repairs::default().open(disk) else {
        return 0;
    };
    for number in 1..=COMMITS {
        if commit(&database, number, phases).is_err() {
            return number - 1;
        }
    }
    COMMITS
}

/// The number of commits that the store holds.
fn commits_in(found: &Records, context: &str) -> u64 {
    let held = (0..=COMMITS).find(|commits| records(*commits) == *found);
    held.unwrap_or_else(|| panic!("{context}: {:?} is of no commit", found.keys()))
}

fn operations_of_a_run(phases: Phases) -> u64 {
    let disk = SimDisk::new(0);
    assert_eq!(run(&disk, phases), COMMITS);
    disk.operations().total()
}

/// True if the file is one that `redb` was making when power went: it refuses it, and nothing was
/// acknowledged. Whoever opens a store has to know such a file (`SealedDatabase` does).
fn is_unmade(error: &str) -> bool {
    error.contains("magic number mismatch")
}

fn disk_of(image: &Image, seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.set_image(image);
    disk.restart()
}

/// Crashes at each operation of recovering this disk, then recovers.
fn crash_in_recovery(image: &Image, held: u64, seed: u64, context: &str) -> Coverage {
    let mut covered = Coverage::default();
    for operation in 0.. {
        let disk = disk_of(image, seed + operation);
        disk.crash_at(operation);
        let repairs = Repairs::default();
        if let Ok(database) = repairs.open(&disk) {
            // What is read now may be acknowledged by others; it must stay.
            match try_read(&database) {
                Ok(found) => assert_eq!(commits_in(&found, context), held, "{context}"),
                Err(error) => assert!(!disk.is_alive(), "{context}: {error}"),
            }
        }
        if disk.is_alive() {
            break;
        }
        let disk = disk.restart();
        let context = format!("{context}, and at {operation} of the recovery");
        match repairs.open(&disk) {
            Ok(database) => {
                assert_eq!(commits_in(&read(&database), &context), held, "{context}");
            }
            Err(error) => assert!(held == 0 && is_unmade(&error), "{context}: {error}"),
        }
        let coverage = disk.coverage();
        covered.crashes_in_operation += coverage.crashes_in_operation;
        covered.writes_torn += coverage.writes_torn;
        covered.writes_lost += coverage.writes_lost;
    }
    covered
}

fn crash_everywhere(phases: Phases) {
    let (mut repairs, mut crashes, mut unacknowledged) = (0, 0, 0);
    let mut covered = Coverage::default();
    for operation in 0..operations_of_a_run(phases) {
        let seed = 1000 * operation;
        let context = format!("{phases:?}, seed {seed}, crash at {operation}");
        let disk = SimDisk::new(seed);
        disk.crash_at(operation);
        let acknowledged = run(&disk, phases);
        if disk.is_alive() {
            // The last operations are those of closing, which an earlier end does not reach.
            continue;
        }
        crashes += 1;
        covered.writes_torn += disk.coverage().writes_torn;
        covered.writes_lost += disk.coverage().writes_lost;
        let image = disk.image();
        let disk = disk.restart();
        let repair = Repairs::default();
        let database = match repair.open(&disk) {
            Ok(database) => database,
            Err(error) if is_unmade(&error) && acknowledged == 0 => continue,
            Err(error) => panic!("{context}: {error}"),
        };
        let held = commits_in(&read(&database), &context);
        let allowed = acknowledged..=acknowledged + 1;
        assert!(
            allowed.contains(&held),
            "{context}: {held} of {acknowledged}"
        );
        unacknowledged += held - acknowledged;
        repairs += u64::from(repair.0.get() > 0);
        // It goes on as if nothing had happened.
        for number in held + 1..=COMMITS {
            commit(&database, number, phases).unwrap();
        }
        assert_eq!(read(&database), records(COMMITS), "{context}");
        drop(database);
        let again = crash_in_recovery(&image, held, seed, &context);
        crashes += again.crashes_in_operation;
        covered.writes_torn += again.writes_torn;
        covered.writes_lost += again.writes_lost;
    }
    println!(
        "{phases:?}: {crashes} crashes, {repairs} repairs, {unacknowledged} commits that nobody was told of; {covered:?}"
    );
    assert!(crashes > 100, "{crashes}");
    assert!(
        covered.writes_torn > 20 && covered.writes_lost > 100,
        "{covered:?}"
    );
    match phases {
        Phases::One => assert!(repairs > 20, "recovery was not put to the test: {repairs}"),
        // Quick repair reads the saved allocator state instead of walking through the file.
        Phases::Two => assert!(repairs < 20, "{repairs}"),
    }
}

#[test]
fn a_crash_at_any_operation_of_one_phase_commits_loses_nothing() {
    crash_everywhere(Phases::One);
}

#[test]
fn a_crash_at_any_operation_of_two_phase_commits_loses_nothing() {
    crash_everywhere(Phases::Two);
}

/// The disk must be dead before a store is dropped, or closing it hides what a crash does.
#[test]
fn a_store_that_is_dropped_after_the_crash_writes_nothing() {
    let disk = SimDisk::new(7);
    let database = Repairs::default().open(&disk).unwrap();
    commit(&database, 1, Phases::One).unwrap();
    disk.crash();
    let (image, operations) = (disk.files(), disk.operations());
    drop(database);
    assert_eq!((disk.files(), disk.operations()), (image, operations));
    assert!(disk.coverage().after_end > 0, "it tried");
    let repairs = Repairs::default();
    repairs.open(&disk.restart()).unwrap();
    assert!(repairs.0.get() > 0);
}
