//! The faults that are switched on by hand or by probability.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use chaos_tests::sim::disk::{Faults, Image, Latency, Operation, SimDisk, Survival};
use mintmark_runtime::disk::{Disk, MODE_SECRET};
use redb::StorageBackend;
use tokio::time::Instant;

const FILE: &str = "/file";

#[test]
fn a_full_disk_takes_what_fits_and_refuses_the_rest() {
    let disk = SimDisk::new(1);
    let path = Path::new(FILE);
    disk.append(path, &[1; 5000]).unwrap();
    assert_eq!(disk.used(), 8192);
    disk.set_capacity(Some(12_288));
    let error = disk.append(path, &[2; 8000]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(
        disk.length(path).unwrap(),
        12_288,
        "a part of it was written"
    );
    // A replacement needs space beside the old content, and leaves no trace when there is none.
    let error = disk.write_atomic(path, b"new", MODE_SECRET).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(disk.list(Path::new("/")).unwrap(), ["file"]);
    assert_eq!(disk.length(path).unwrap(), 12_288);
    disk.truncate(path, 5000).unwrap();
    disk.append(path, &[3; 100]).unwrap();
    assert_eq!(disk.coverage().full, 2);
    disk.set_capacity(None);
    disk.write_atomic(path, &[4; 100_000], MODE_SECRET).unwrap();
}

#[test]
fn a_failed_sync_may_lose_what_a_later_sync_does_not_write_either() {
    let outcome = |seed| {
        let disk = SimDisk::new(seed);
        let store = disk.open_store(Path::new(FILE)).unwrap();
        store.set_len(4096).unwrap();
        store.sync_data().unwrap();
        store.write(0, &[1; 4096]).unwrap();
        disk.fail_next(Operation::Sync, None);
        store.sync_data().unwrap_err();
        let mut read = [0; 4096];
        store.read(0, &mut read).unwrap();
        assert_eq!(read, [1; 4096], "the machine reads what it wrote");
        store.sync_data().unwrap();
        assert_eq!(disk.coverage().syncs_failed, 1);
        drop(store);
        let store = disk.open_store(Path::new(FILE)).unwrap();
        store.read(0, &mut read).unwrap();
        let on_platter = read == [1; 4096];
        disk.crash_with(Survival::Everything);
        assert_eq!(disk.files().remove(0).1 == vec![1; 4096], on_platter);
        on_platter
    };
    let kept = (0..60).filter(|seed| outcome(*seed)).count();
    assert!((10..50).contains(&kept), "{kept}");
}

#[test]
fn an_armed_error_hits_one_operation_of_one_file() {
    let disk = SimDisk::new(1);
    disk.fail_next(Operation::Write, Some(Path::new("/other")));
    disk.append(Path::new(FILE), b"1").unwrap();
    disk.append(Path::new("/other"), b"12").unwrap_err();
    disk.append(Path::new("/other"), b"3").unwrap();
    disk.fail_next(Operation::Rename, None);
    let path = Path::new(FILE);
    disk.write_atomic(path, b"2", MODE_SECRET).unwrap_err();
    assert_eq!(disk.read(path).unwrap(), b"1");
    assert_eq!(disk.list(Path::new("/")).unwrap(), ["file", "other"]);
    disk.fail_next(Operation::Read, None);
    disk.read(path).unwrap_err();
    assert_eq!(disk.coverage().errors, 3);
}

#[test]
fn an_append_to_a_file_that_a_failed_one_made_is_durable_with_its_name() {
    let disk = SimDisk::new(1);
    let path = Path::new(FILE);
    disk.fail_next(Operation::SyncFolder, None);
    disk.append(path, b"").unwrap_err();
    disk.append(path, b"content").unwrap();
    disk.crash_with(Survival::Nothing);
    assert_eq!(disk.restart().read(path).unwrap(), b"content");
}

#[test]
fn errors_come_as_often_as_they_should() {
    let disk = SimDisk::new(5);
    disk.set_faults(Faults {
        errors: BTreeMap::from([(Operation::Write, 0.2)]),
        only: Some(Path::new("/bad").to_owned()),
        ..Faults::default()
    });
    let failed = |path: &str| {
        (0..500)
            .filter(|_| disk.append(Path::new(path), b"x").is_err())
            .count()
    };
    assert_eq!(failed("/good"), 0);
    assert!((60..140).contains(&failed("/bad")));
    disk.set_faults(Faults::default());
    assert_eq!(failed("/bad"), 0);
}

#[test]
fn flipped_bits_are_read_until_they_are_written_over() {
    let disk = SimDisk::new(1);
    let path = Path::new(FILE);
    disk.append(path, &[0; 100]).unwrap();
    assert!(disk.flip_bit(path, 8 * 7 + 3));
    assert!(!disk.flip_bit(path, 800), "beyond the end");
    assert!(!disk.flip_bit(Path::new("/none"), 0));
    assert_eq!(disk.read(path).unwrap()[7], 8);
    assert_eq!(disk.coverage().flips_read, 1);
    disk.read_from(path, 8, 10).unwrap();
    assert_eq!(disk.coverage().flips_read, 1);
    disk.crash();
    let disk = disk.restart();
    assert_eq!(disk.read(path).unwrap()[7], 8, "it is on the platter");
    disk.write_atomic(path, &[0; 100], MODE_SECRET).unwrap();
    disk.read(path).unwrap();
    assert_eq!(disk.coverage().flips_read, 2);
    let flip = disk.flip_random_bit(None).unwrap();
    assert_eq!(flip.path, path);
    assert_eq!(
        disk.read(path).unwrap()[usize::try_from(flip.bit / 8).unwrap()].count_ones(),
        1
    );
}

#[test]
fn rot_comes_by_itself() {
    let disk = SimDisk::new(3);
    let path = Path::new(FILE);
    disk.append(path, &[0; 1000]).unwrap();
    disk.set_faults(Faults {
        rot: 0.1,
        ..Faults::default()
    });
    for _ in 0..200 {
        disk.read(path).unwrap();
    }
    let coverage = disk.coverage();
    assert!((5..50).contains(&coverage.bits_flipped), "{coverage:?}");
    assert!(coverage.flips_read > 50, "{coverage:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_disk_takes_simulated_time_and_no_other() {
    let disk = SimDisk::new(1);
    let before = Instant::now();
    let seam: &dyn Disk = &disk;
    assert_eq!(seam.run(|| 7).await.unwrap(), 7);
    assert_eq!(before.elapsed(), Duration::ZERO);
    disk.set_faults(Faults {
        latency: Some(Latency {
            min: Duration::from_secs(2),
            max: Duration::from_secs(5),
        }),
        ..Faults::default()
    });
    assert_eq!(seam.run(|| 8).await.unwrap(), 8);
    let took = before.elapsed();
    assert!((2..=5).contains(&took.as_secs()), "{took:?}");
    assert_eq!(disk.coverage().delays, 1);
}

#[test]
fn a_killed_process_loses_nothing_until_power_goes() {
    let disk = SimDisk::new(1);
    let store = disk.open_store(Path::new(FILE)).unwrap();
    let lock = disk.lock_exclusive(Path::new("/lock")).unwrap();
    store.set_len(10).unwrap();
    store.write(0, &[1; 10]).unwrap();
    disk.kill();
    store.write(0, &[2; 10]).unwrap_err();
    assert!(disk.read(Path::new(FILE)).is_err());
    let next = disk.restart();
    assert!(!disk.is_alive() && next.is_alive());
    assert!(disk.read(Path::new(FILE)).is_err(), "the old life is over");
    assert_eq!(next.read(Path::new(FILE)).unwrap(), [1; 10]);
    // The next life has the lock, and what is dropped of the old one does not take it away.
    let _lock = next.lock_exclusive(Path::new("/lock")).unwrap();
    let _store = next.open_store(Path::new(FILE)).unwrap();
    drop((lock, store));
    assert!(next.lock_exclusive(Path::new("/lock")).is_err());
    assert!(next.open_store(Path::new(FILE)).is_err());
    assert!(next.coverage().after_end >= 3);
    next.crash_with(Survival::Nothing);
    assert_eq!(next.restart().read(Path::new(FILE)).unwrap(), [0_u8; 0]);
}

#[test]
fn a_rolled_back_disk_is_as_it_was_and_a_replaced_one_is_empty() {
    let disk = SimDisk::new(1);
    let path = Path::new(FILE);
    disk.write_atomic(path, b"old", 0o644).unwrap();
    let image = disk.image();
    disk.write_atomic(path, b"new", MODE_SECRET).unwrap();
    disk.set_image(&image);
    assert!(!disk.is_alive());
    let disk = disk.restart();
    assert_eq!(disk.read(path).unwrap(), b"old");
    assert_eq!(disk.metadata_mode(path).unwrap(), 0o644);
    disk.set_image(&Image::default());
    let disk = disk.restart();
    assert_eq!(disk.list(Path::new("/")).unwrap(), [""; 0]);
}
