//! A file with one JSON document on each line.
//!
//! Always: a line is durable before the cursor (`<file>.cursor`) says so; the file never has an index
//! twice and never misses one. After a crash or a failure, lines that the cursor does not know are cut
//! off and written again: some of their blocks may never have reached the disk, though the machine
//! still reads them. The cursor also tells where to go on when the file is empty or gone, because
//! somebody rotated it; without a cursor the last line does. One process writes to a file
//! (`<file>.lock`).
//!
//! Not here: rotation. Move the file away, or truncate it: the next leaf goes to a new one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use mintmark_runtime::disk::{Disk, DiskLock, MODE_SECRET};
use mintmark_runtime::failpoint::{Step, reach};
use serde::{Deserialize, Serialize};

use super::{AuditSink, BATCH_LEAVES_MAX, LastLeaf, Resumption, SinkError, SinkLeaf};

/// Longer than any line: a leaf has at most 1023 bytes, and escaping makes six of one.
const LINE_LENGTH_MAX: u64 = 16 * 1024;
/// Lines that the cursor does not know are of one batch; before them stand a whole line and a part of
/// another.
const UNKNOWN_LENGTH_MAX: u64 = (BATCH_LEAVES_MAX + 2) * LINE_LENGTH_MAX;
/// Format of the cursor.
const CURSOR_VERSION: u32 = 1;

/// What the cursor file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    version: u32,
    /// Origin of the log.
    log: String,
    /// The first leaf that the file does not have.
    next: u64,
}

impl Cursor {
    fn new(origin: &str, next: u64) -> Self {
        Self {
            version: CURSOR_VERSION,
            log: origin.to_owned(),
            next,
        }
    }
}

/// The sink.
#[derive(Debug)]
pub struct FileSink {
    name: String,
    files: Arc<Files>,
    origin: String,
    lock: Option<Box<dyn DiskLock>>,
}

/// The files of one sink; all methods block.
#[derive(Debug)]
struct Files {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    cursor: PathBuf,
    lock: PathBuf,
}

impl FileSink {
    /// A sink that appends to `path`.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, path: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let files = Files {
            disk,
            path: path.to_owned(),
            cursor: beside(".cursor"),
            lock: beside(".lock"),
        };
        let name = format!("file:{}", path.display());
        Self {
            name,
            files: Arc::new(files),
            origin: String::new(),
            lock: None,
        }
    }

    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<R, SinkError> + Send + 'static,
    ) -> Result<R, SinkError> {
        let files = Arc::clone(&self.files);
        let finished = self.files.disk.run(move || work(&files)).await;
        finished.map_err(|error| failed(&self.files.path, error))?
    }
}

#[async_trait]
impl AuditSink for FileSink {
    fn name(&self) -> &str {
        &self.name
    }

    async fn resume(&mut self, origin: &str) -> Result<Resumption, SinkError> {
        if self.lock.is_none() {
            self.lock = Some(self.blocking(Files::take).await?);
        }
        self.origin = origin.to_owned();
        let origin = self.origin.clone();
        self.blocking(move |files| files.resume(&origin)).await
    }

    async fn deliver(&mut self, leaves: Vec<SinkLeaf>) -> Result<(), SinkError> {
        let Some(last) = leaves.last() else {
            return Ok(());
        };
        let next = last.index.saturating_add(1);
        let cursor = Cursor::new(&self.origin, next);
        self.blocking(move |files| files.append(&leaves, &cursor))
            .await
    }
}

impl Files {
    fn take(&self) -> Result<Box<dyn DiskLock>, SinkError> {
        self.disk
            .lock_exclusive(&self.lock)
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => SinkError::InUse {
                    what: self.path.display().to_string(),
                },
                _ => failed(&self.lock, error),
            })
    }

    fn resume(&self, origin: &str) -> Result<Resumption, SinkError> {
        let cursor = self.cursor()?;
        if let Some(cursor) = &cursor
            && cursor.log != origin
        {
            let (found, origin) = (cursor.log.clone(), origin.to_owned());
            return Err(SinkError::Foreign { found, origin });
        }
        let last = match &cursor {
            Some(cursor) => self.last_known(cursor.next)?,
            None => self.last_leaf()?,
        };
        let next = match (&last, cursor) {
            (Some(last), _) => last.index.saturating_add(1),
            (None, Some(cursor)) => cursor.next,
            (None, None) => {
                // From now on a line that was not finished is known to be ours.
                self.write_cursor(&Cursor::new(origin, 0))?;
                0
            }
        };
        Ok(Resumption { next, last })
    }

    fn cursor(&self) -> Result<Option<Cursor>, SinkError> {
        let Some(bytes) = present(self.disk.read(&self.cursor), &self.cursor)? else {
            return Ok(None);
        };
        let unusable = |problem| SinkError::Unusable {
            what: self.cursor.display().to_string(),
            problem,
        };
        let cursor: Cursor =
            serde_json::from_slice(&bytes).map_err(|_| unusable("it is not a cursor"))?;
        if cursor.version != CURSOR_VERSION {
            return Err(unusable("a newer server wrote it"));
        }
        Ok(Some(cursor))
    }

    /// The last leaf before `next`. What follows it is cut off, if it is ours.
    fn last_known(&self, next: u64) -> Result<Option<LastLeaf>, SinkError> {
        let Some(length) = present(self.disk.length(&self.path), &self.path)? else {
            return Ok(None);
        };
        let start = length.saturating_sub(UNKNOWN_LENGTH_MAX);
        let end = self.end(start, length)?;
        let mut known = start;
        let mut last = None;
        let mut unknown = false;
        let mut place = start;
        for (number, line) in end.split_inclusive(|byte| *byte == b'\n').enumerate() {
            place = place.saturating_add(line.len() as u64);
            match Line::of(line) {
                Line::Leaf(leaf) if leaf.index < next && !unknown => {
                    last = Some(leaf);
                    known = place;
                }
                Line::Leaf(leaf) if leaf.index < next => {
                    return Err(self.unusable("its lines are out of order"));
                }
                Line::Leaf(_) | Line::Torn => unknown = true,
                // The rest of a line that began before.
                _ if number == 0 && start > 0 => known = place,
                Line::Other => return Err(self.unusable("it holds something else")),
            }
        }
        if start > 0 && last.is_none() {
            return Err(self.unusable("its last line is longer than any of a leaf"));
        }
        if known < length {
            self.cut_off(known)?;
        }
        Ok(last)
    }

    /// The leaf on the last whole line, for a file without a cursor. A part of a line that follows it
    /// is cut off.
    fn last_leaf(&self) -> Result<Option<LastLeaf>, SinkError> {
        let Some(length) = present(self.disk.length(&self.path), &self.path)? else {
            return Ok(None);
        };
        // The end holds a whole line, its break, the break before it and a part of another line.
        let start = length.saturating_sub(LINE_LENGTH_MAX.saturating_mul(2));
        let end = self.end(start, length)?;
        let (whole, partial) = match end.iter().rposition(|byte| *byte == b'\n') {
            Some(line_break) => end.split_at(line_break.saturating_add(1)),
            None if start == 0 => end.split_at(0),
            None => return Err(self.unusable("its last line is longer than any of a leaf")),
        };
        let mut lines = whole.split_inclusive(|byte| *byte == b'\n');
        let last = match lines.next_back().map(Line::of) {
            Some(Line::Leaf(leaf)) => Some(leaf),
            Some(_) => return Err(self.unusable("its last line is not a leaf")),
            None => None,
        };
        if !partial.is_empty() {
            if last.is_none() {
                return Err(self.unusable("it holds something else"));
            }
            self.cut_off(length.saturating_sub(partial.len() as u64))?;
        }
        Ok(last)
    }

    fn end(&self, start: u64, length: u64) -> Result<Vec<u8>, SinkError> {
        self.disk
            .read_from(&self.path, start, length.saturating_sub(start))
            .map_err(|error| failed(&self.path, error))
    }

    fn cut_off(&self, length: u64) -> Result<(), SinkError> {
        tracing::info!(file = %self.path.display(), length, "cutting off unfinished lines");
        self.disk
            .truncate(&self.path, length)
            .map_err(|error| failed(&self.path, error))
    }

    fn append(&self, leaves: &[SinkLeaf], cursor: &Cursor) -> Result<(), SinkError> {
        let mut lines = Vec::new();
        for leaf in leaves {
            serde_json::to_writer(&mut lines, &leaf.document)
                .map_err(|error| failed(&self.path, error))?;
            lines.push(b'\n');
        }
        self.disk
            .append(&self.path, &lines)
            .map_err(|error| failed(&self.path, error))?;
        reach(Step::SinkAppended);
        self.write_cursor(cursor)?;
        reach(Step::SinkMoved);
        Ok(())
    }

    fn write_cursor(&self, cursor: &Cursor) -> Result<(), SinkError> {
        let cursor = serde_json::to_vec(cursor).map_err(|error| failed(&self.cursor, error))?;
        self.disk
            .write_atomic(&self.cursor, &cursor, MODE_SECRET)
            .map_err(|error| failed(&self.cursor, error))
    }

    fn unusable(&self, problem: &'static str) -> SinkError {
        SinkError::Unusable {
            what: self.path.display().to_string(),
            problem,
        }
    }
}

/// What stands on a line.
enum Line {
    Leaf(LastLeaf),
    /// Nothing, or a part of a leaf: power went while it was written. Blocks that never reached the
    /// disk read as zeros, which no leaf has.
    Torn,
    Other,
}

impl Line {
    /// The line with its break, if it has one.
    fn of(line: &[u8]) -> Self {
        match line.strip_suffix(b"\n") {
            None if line.len() as u64 <= LINE_LENGTH_MAX || line.contains(&0) => Self::Torn,
            None => Self::Other,
            Some(whole) => match serde_json::from_slice(whole) {
                Ok(leaf) => Self::Leaf(leaf),
                Err(_) if whole.contains(&0) => Self::Torn,
                Err(_) => Self::Other,
            },
        }
    }
}

/// What a file gives, unless there is no such file.
fn present<T>(read: io::Result<T>, path: &Path) -> Result<Option<T>, SinkError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, error)),
    }
}

fn failed(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SinkError {
    SinkError::Failed {
        what: path.display().to_string(),
        source: source.into(),
    }
}

#[cfg(test)]
mod tests;
