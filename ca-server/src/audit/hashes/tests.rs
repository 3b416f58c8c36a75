#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use mintmark_runtime::testing::MemoryDisk;
use mintmark_tlog::verify_inclusion;

use super::*;
use crate::audit::tail::fake::{FakeLog, leaf};

fn open(disk: &MemoryDisk) -> HashStore {
    HashStore::open(Arc::new(disk.clone()), Path::new("/hashes.redb")).unwrap()
}

fn keeper(log: &Arc<FakeLog>, hashes: &HashStore) -> HashKeeper {
    let leaves: Arc<dyn CommittedLeaves> = Arc::<FakeLog>::clone(log);
    HashKeeper::new(leaves, hashes.clone())
}

fn root(size: u64) -> Hash {
    let mut frontier = Frontier::new();
    for index in 0..size {
        frontier.push(leaf_hash(&leaf(index)));
    }
    frontier.root()
}

/// Sizes around the ends of tiles, and one with two levels of them.
const SIZES: [u64; 8] = [1, 2, 255, 256, 257, 300, 513, 70_000];

#[tokio::test]
async fn proofs_of_recorded_trees_verify() {
    let log = FakeLog::new(0);
    let disk = MemoryDisk::new();
    let hashes = open(&disk);
    for size in SIZES {
        log.append(size - log.head().size);
        keeper(&log, &hashes).catch_up().await.unwrap();
        assert_eq!(hashes.size(), size);
        for index in [0, size / 3, size / 2, size - 1] {
            let proof = hashes.inclusion(index, size).await.unwrap();
            assert_eq!(proof.root, root(size));
            let hash = leaf_hash(&leaf(index));
            verify_inclusion(&hash, index, size, &proof.hashes, &proof.root).unwrap();
        }
    }
    // Older trees too, also those whose last tiles grew since.
    for size in SIZES {
        let proof = hashes.inclusion(size - 1, size).await.unwrap();
        assert_eq!(proof.root, root(size), "{size}");
    }
}

#[tokio::test]
async fn hashes_outlive_a_restart_at_any_size() {
    let log = FakeLog::new(0);
    let disk = MemoryDisk::new();
    for size in SIZES {
        log.append(size - log.head().size);
        let hashes = open(&disk);
        keeper(&log, &hashes).catch_up().await.unwrap();
        drop(hashes);
    }
    let hashes = open(&disk);
    assert_eq!(hashes.size(), 70_000);
    let proof = hashes.inclusion(69_999, 70_000).await.unwrap();
    assert_eq!(proof.root, root(70_000));
}

#[tokio::test]
async fn leaf_hashes_come_as_they_were_recorded() {
    let log = FakeLog::new(600);
    let hashes = open(&MemoryDisk::new());
    keeper(&log, &hashes).catch_up().await.unwrap();
    log.alter(257, b"altered");
    for (start, end, expected) in [
        (0, 600, 0..600),
        (250, 520, 250..520),
        (590, 900, 590..600),
        (600, 700, 0..0),
    ] {
        let got = hashes.leaf_hashes(start, end).await.unwrap();
        let expected: Vec<Hash> = expected.map(|index| leaf_hash(&leaf(index))).collect();
        assert_eq!(got, expected, "{start}..{end}");
    }
}

#[tokio::test]
async fn what_does_not_exist_is_not_proved() {
    let log = FakeLog::new(5);
    let hashes = open(&MemoryDisk::new());
    keeper(&log, &hashes).catch_up().await.unwrap();
    let refused = hashes.inclusion(0, 6).await;
    assert!(
        matches!(refused, Err(HashesError::NotRecorded { size: 6 })),
        "{refused:?}"
    );
    for (index, size) in [(5, 5), (0, 0), (u64::MAX, 5)] {
        let refused = hashes.inclusion(index, size).await;
        assert!(matches!(refused, Err(HashesError::Proof(_))), "{refused:?}");
    }
}

/// Says that its root is another.
#[derive(Debug)]
struct Lying(Arc<FakeLog>);

#[async_trait]
impl CommittedLeaves for Lying {
    fn origin(&self) -> Option<String> {
        self.0.origin()
    }
    fn head(&self) -> Head {
        Head {
            root: [7; 32],
            ..self.0.head()
        }
    }
    async fn grown(&self, size: u64) {
        self.0.grown(size).await;
    }
    async fn read(&self, start: u64, end: u64, max: usize) -> Result<Vec<Bytes>, LeavesError> {
        self.0.read(start, end, max).await
    }
}

#[tokio::test]
async fn leaves_that_are_not_those_of_the_cluster_are_not_recorded() {
    let log = FakeLog::new(3);
    let hashes = open(&MemoryDisk::new());
    keeper(&log, &hashes).catch_up().await.unwrap();
    log.append(2);
    let keeper = HashKeeper::new(Arc::new(Lying(log)), hashes.clone());
    let refused = keeper.catch_up().await;
    assert!(
        matches!(refused, Err(HashesError::Diverged { size: 5 })),
        "{refused:?}"
    );
    assert_eq!(hashes.size(), 3);
    // It gives up by itself, instead of spinning.
    keeper.record().await;
}

#[tokio::test(start_paused = true)]
async fn recording_follows_the_log_and_waits_for_absent_leaves() {
    let log = FakeLog::new(2);
    let hashes = open(&MemoryDisk::new());
    let tasks = mintmark_runtime::task::Tasks::new();
    log.set_absent(Some(1));
    tasks.spawn("keeper", keeper(&log, &hashes).run(tasks.token()));
    tokio::time::sleep(RETRY_PAUSE * 3).await;
    assert_eq!(hashes.size(), 0);
    log.set_absent(None);
    hashes.reached(2).await;
    log.append(3);
    hashes.reached(5).await;
    assert!(tasks.shutdown(Duration::from_secs(1)).await.is_empty());
}

#[tokio::test]
async fn a_full_disk_stops_recording_and_nothing_else() {
    let log = FakeLog::new(2);
    let disk = MemoryDisk::new();
    let hashes = open(&disk);
    keeper(&log, &hashes).catch_up().await.unwrap();
    log.append(1);
    disk.set_full(true);
    assert!(matches!(
        keeper(&log, &hashes).catch_up().await,
        Err(HashesError::Store(_))
    ));
    assert_eq!(hashes.size(), 2);
    assert_eq!(hashes.leaf_hashes(0, 3).await.unwrap().len(), 2);
}
