#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::Mutex;

use mintmark_runtime::disk::StoreBackend;
use mintmark_runtime::testing::MemoryDisk;

use super::*;
use crate::audit::document::LeafDocument;
use crate::audit::tail::fake::leaf;

const ORIGIN: &str = "example.org/audit/1";
const PATH: &str = "/audit.jsonl";
const CURSOR: &str = "/audit.jsonl.cursor";

fn sink(disk: &(impl Disk + Clone + 'static)) -> FileSink {
    FileSink::new(Arc::new(disk.clone()), Path::new(PATH))
}

fn batch(indices: std::ops::Range<u64>) -> Vec<SinkLeaf> {
    indices
        .map(|index| {
            let document = LeafDocument::decode(index, &leaf(index)).unwrap();
            SinkLeaf { index, document }
        })
        .collect()
}

fn lines(indices: std::ops::Range<u64>) -> String {
    let line = |leaf: SinkLeaf| serde_json::to_string(&leaf.document).unwrap() + "\n";
    batch(indices).into_iter().map(line).collect()
}

fn text(disk: &impl Disk) -> String {
    String::from_utf8(disk.read(Path::new(PATH)).unwrap()).unwrap()
}

fn put(disk: &impl Disk, path: &str, content: &str) {
    disk.write_atomic(Path::new(path), content.as_bytes(), MODE_SECRET)
        .unwrap();
}

async fn next(disk: &MemoryDisk) -> Result<u64, SinkError> {
    sink(disk)
        .resume(ORIGIN)
        .await
        .map(|resumption| resumption.next)
}

#[tokio::test]
async fn leaves_become_lines_and_a_restart_goes_on() {
    let disk = MemoryDisk::new();
    let mut first = sink(&disk);
    assert_eq!(first.resume(ORIGIN).await.unwrap(), Resumption::default());
    first.deliver(batch(0..3)).await.unwrap();
    first.deliver(batch(3..4)).await.unwrap();
    first.deliver(Vec::new()).await.unwrap();
    drop(first);
    let mut second = sink(&disk);
    let resumption = second.resume(ORIGIN).await.unwrap();
    assert_eq!(resumption.next, 4);
    assert_eq!(resumption.last.unwrap().log_index, 13);
    second.deliver(batch(4..6)).await.unwrap();
    assert_eq!(text(&disk), lines(0..6));
    assert_eq!(disk.metadata_mode(Path::new(PATH)).unwrap(), MODE_SECRET);
}

/// Every state that a crash, an operator or a restore can leave behind.
#[tokio::test]
async fn after_a_crash_nothing_is_missing_and_nothing_twice() {
    let cursor = |next| Some(format!(r#"{{"version":1,"log":"{ORIGIN}","next":{next}}}"#));
    let (two, three) = (lines(0..2), lines(0..3));
    let torn = format!("{two}{}", &lines(2..3)[..40]);
    let unbroken = three.trim_end_matches('\n').to_owned();
    let cases = [
        ("nothing yet", None, None, 0, ""),
        ("before the first line", Some(""), cursor(0), 0, ""),
        (
            "in the first line",
            Some("{\"index\":0,\"lo"),
            cursor(0),
            0,
            "",
        ),
        (
            "between lines and cursor",
            Some(three.as_str()),
            cursor(2),
            2,
            &two,
        ),
        (
            "between the first lines and the cursor",
            Some(two.as_str()),
            cursor(0),
            0,
            "",
        ),
        ("in a later line", Some(torn.as_str()), cursor(2), 2, &two),
        (
            "before the last line break",
            Some(unbroken.as_str()),
            cursor(2),
            2,
            &two,
        ),
        ("all done", Some(two.as_str()), cursor(2), 2, &two),
        ("the cursor is lost", Some(two.as_str()), None, 2, &two),
        (
            "an older copy of the file",
            Some(two.as_str()),
            cursor(9),
            2,
            &two,
        ),
        ("the file was moved away", None, cursor(9), 9, ""),
        ("the file was emptied", Some(""), cursor(9), 9, ""),
    ];
    for (name, file, cursor, expected, kept) in cases {
        let disk = MemoryDisk::new();
        if let Some(content) = file {
            put(&disk, PATH, content);
        }
        if let Some(content) = cursor {
            put(&disk, CURSOR, &content);
        }
        goes_on(&disk, expected, kept, name).await;
    }
}

/// The sink keeps this of its file, and goes on with that leaf.
async fn goes_on(disk: &MemoryDisk, expected: u64, kept: &str, name: &str) {
    let mut sink = sink(disk);
    assert_eq!(sink.resume(ORIGIN).await.unwrap().next, expected, "{name}");
    sink.deliver(batch(expected..expected + 2)).await.unwrap();
    let lines = lines(expected..expected + 2);
    assert_eq!(text(disk), format!("{kept}{lines}"), "{name}");
}

#[tokio::test]
async fn blocks_that_never_reached_the_disk_are_cut_off_with_what_follows() {
    let two = lines(0..2);
    let holed = format!("{two}{}{}", "\0".repeat(512), &lines(2..9)[512..]);
    for (name, file, next, kept) in [
        ("after whole lines", holed.as_str(), 2, two.as_str()),
        ("from the start", "\0\0\0\0\n\0\0", 0, ""),
    ] {
        let disk = MemoryDisk::new();
        put(&disk, PATH, file);
        let cursor = format!(r#"{{"version":1,"log":"{ORIGIN}","next":{next}}}"#);
        put(&disk, CURSOR, &cursor);
        goes_on(&disk, next, kept, name).await;
    }
}

#[tokio::test]
async fn files_that_are_not_ours_are_left_alone() {
    let cursor = format!(r#"{{"version":1,"log":"{ORIGIN}","next":0}}"#);
    let long = "x".repeat(40_000);
    let after_a_leaf = format!("{}hello\n", lines(0..1));
    let cases = [
        ("no line break, no cursor", "PNG", None),
        ("text", "hello\nworld\n", None),
        (
            "text, with a cursor",
            "hello\nworld\n",
            Some(cursor.as_str()),
        ),
        ("JSON of another kind", "{\"a\":1}\n", None),
        (
            "text after a leaf",
            after_a_leaf.as_str(),
            Some(cursor.as_str()),
        ),
        ("an endless line", long.as_str(), Some(cursor.as_str())),
        (
            "a part of a line after text",
            "hello\nwor",
            Some(cursor.as_str()),
        ),
    ];
    for (name, content, cursor) in cases {
        let disk = MemoryDisk::new();
        put(&disk, PATH, content);
        if let Some(cursor) = cursor {
            put(&disk, CURSOR, cursor);
        }
        let refused = next(&disk).await;
        assert!(
            matches!(refused, Err(SinkError::Unusable { .. })),
            "{name}: {refused:?}"
        );
        assert_eq!(text(&disk), content, "{name}");
    }
}

#[tokio::test]
async fn a_cursor_of_another_log_or_format_is_refused() {
    let disk = MemoryDisk::new();
    put(
        &disk,
        CURSOR,
        r#"{"version":1,"log":"other.org/audit/1","next":3}"#,
    );
    let refused = next(&disk).await;
    assert!(
        matches!(&refused, Err(SinkError::Foreign { found, .. }) if found.starts_with("other"))
    );
    put(
        &disk,
        CURSOR,
        &format!(r#"{{"version":2,"log":"{ORIGIN}","next":3}}"#),
    );
    assert!(matches!(next(&disk).await, Err(SinkError::Unusable { .. })));
    put(&disk, CURSOR, "{");
    assert!(matches!(next(&disk).await, Err(SinkError::Unusable { .. })));
}

#[tokio::test]
async fn two_processes_do_not_write_one_file() {
    let disk = MemoryDisk::new();
    let mut first = sink(&disk);
    first.resume(ORIGIN).await.unwrap();
    assert!(matches!(next(&disk).await, Err(SinkError::InUse { .. })));
    first.resume(ORIGIN).await.unwrap();
    drop(first);
    assert_eq!(next(&disk).await.unwrap(), 0);
}

#[tokio::test]
async fn a_last_line_is_found_in_a_long_file() {
    let disk = MemoryDisk::new();
    put(&disk, PATH, &lines(0..5_000));
    assert!(disk.length(Path::new(PATH)).unwrap() > LINE_LENGTH_MAX * 4);
    assert_eq!(next(&disk).await.unwrap(), 5_000);
}

/// Writes a part of what it is told to, and then fails.
#[derive(Debug, Clone)]
struct Failing {
    disk: MemoryDisk,
    /// Bytes until appending fails; `None`: never.
    budget: Arc<Mutex<Option<usize>>>,
    cursor_fails: Arc<Mutex<bool>>,
}

#[async_trait]
impl Disk for Failing {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read(path)
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>> {
        self.disk.open_read(path)
    }
    fn write_atomic(&self, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
        if *self.cursor_fails.lock().unwrap() && path == Path::new(CURSOR) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.write_atomic(path, content, mode)
    }
    fn append(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let budget = self.budget.lock().unwrap().take();
        match budget {
            Some(budget) if budget < content.len() => {
                self.disk.append(path, &content[..budget])?;
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => self.disk.append(path, content),
        }
    }
    fn create_dir_all(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.disk.create_dir_all(path, mode)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }
    fn metadata_mode(&self, path: &Path) -> io::Result<u32> {
        self.disk.metadata_mode(path)
    }
    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.disk.lock_exclusive(path)
    }
    fn open_store(&self, path: &Path) -> io::Result<Box<dyn StoreBackend>> {
        self.disk.open_store(path)
    }
    async fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.disk.run_blocking(work).await;
    }
}

/// A disk that fills up at any byte of a batch, with or without a restart in between.
#[tokio::test]
async fn a_write_that_stops_anywhere_is_repaired() {
    let whole = lines(0..4);
    let second = lines(2..4).len();
    for budget in 0..second {
        for restart in [false, true] {
            let disk = Failing {
                disk: MemoryDisk::new(),
                budget: Arc::default(),
                cursor_fails: Arc::default(),
            };
            let mut open = sink(&disk);
            open.resume(ORIGIN).await.unwrap();
            open.deliver(batch(0..2)).await.unwrap();
            *disk.budget.lock().unwrap() = Some(budget);
            assert!(open.deliver(batch(2..4)).await.is_err());
            if restart {
                drop(open);
                open = sink(&disk);
            }
            let next = open.resume(ORIGIN).await.unwrap().next;
            assert!((2..4).contains(&next), "{budget}");
            open.deliver(batch(next..4)).await.unwrap();
            assert_eq!(
                text(&disk),
                whole,
                "after {budget} bytes, restart {restart}"
            );
        }
    }
}

#[tokio::test]
async fn a_cursor_that_cannot_be_written_costs_no_line() {
    let disk = Failing {
        disk: MemoryDisk::new(),
        budget: Arc::default(),
        cursor_fails: Arc::default(),
    };
    let mut sink = sink(&disk);
    sink.resume(ORIGIN).await.unwrap();
    *disk.cursor_fails.lock().unwrap() = true;
    assert!(sink.deliver(batch(0..2)).await.is_err());
    *disk.cursor_fails.lock().unwrap() = false;
    let next = sink.resume(ORIGIN).await.unwrap().next;
    sink.deliver(batch(next..3)).await.unwrap();
    assert_eq!(text(&disk), lines(0..3));
}

mod crashes;
