//! A `redb` file whose records are sealed.
//!
//! Responsible for: opening a store through the disk seam and reading and writing
//! sealed records. Always holds: a failed commit closes the file for good; reads are
//! not affected by a writer; a file that power left while it was being made is made
//! anew, every other one that is not a store is refused. Not here: which tables there
//! are.

use std::io;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use mintmark_runtime::disk::Disk;
use mintmark_runtime::task::panic_message;
use redb::{
    Builder, Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition, TableError, WriteTransaction,
};

use super::StoreError;
use super::record;

/// A table from index to sealed record.
pub type IndexedTable = TableDefinition<'static, u64, &'static [u8]>;
/// A table from name to sealed record.
pub type NamedTable = TableDefinition<'static, &'static str, &'static [u8]>;

/// Page cache of one file. A server has three.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// How a commit reaches the disk; one way per file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// One sync. After a crash the whole file is checked, so the file has to stay small; if
    /// the last commit is not whole then, it counts as one that nobody was told of.
    OnePhase,
    /// Two syncs; reopening after a crash is immediate. For files with rare commits.
    TwoPhase,
}

/// How far a file is trusted when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Every page is checked. For files in which something that is gone is not missed: a
    /// flipped bit can hide records, and a record that is hidden has no checksum to fail.
    Checked,
    /// Pages are read when they are wanted. For files of any size whose readers know
    /// which records have to be there.
    AsRead,
}

/// `redb`'s mark at the start of a file, which it writes when the file is complete.
const MARK_LEN: u64 = 9;
/// Before, it writes into the first page only.
const FIRST_PAGE: usize = 4096;
/// A file without any record is not longer.
const UNMADE_LEN_MAX: u64 = 16 * 1024 * 1024;

/// True if the file is one that `redb` was making when power went. It refuses such a
/// file, and nothing was ever written to it: there is no mark, and no page but the first.
///
/// # Errors
/// When the disk does.
pub fn is_unmade(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
    let length = match disk.length(path) {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let is_blank = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    if length == 0 || length > UNMADE_LEN_MAX || !is_blank(&disk.read_from(path, 0, MARK_LEN)?) {
        return Ok(false);
    }
    Ok(disk.read(path)?.get(FIRST_PAGE..).is_none_or(is_blank))
}

/// One open file.
#[derive(Debug)]
pub struct SealedDatabase {
    file: &'static str,
    database: Database,
    commit: Commit,
    closed: AtomicBool,
}

impl SealedDatabase {
    /// Opens or creates the file. Blocks.
    ///
    /// # Errors
    /// When the file is locked, unreadable or not a store.
    pub fn open(
        disk: &dyn Disk,
        path: &Path,
        file: &'static str,
        commit: Commit,
        trust: Trust,
    ) -> Result<Self, StoreError> {
        let io = |source| StoreError::io(file, redb::StorageError::Io(source));
        if is_unmade(disk, path).map_err(io)? {
            tracing::info!(path = %path.display(), "making a file anew whose making was cut off");
            disk.remove_file(path).map_err(io)?;
        }
        let backend = disk.open_store(path).map_err(io)?;
        // On a file that rotted, the library may hit an assertion of its own before it finds the damage.
        // Nothing of it is kept then.
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| {
            Builder::new()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(trust == Trust::Checked)
                .create_with_backend(backend)
        }));
        let database = opened
            .map_err(|panic| {
                let found = format!("damaged: {}", panic_message(&*panic));
                StoreError::io(file, redb::StorageError::Corrupted(found))
            })?
            .map_err(|source| StoreError::io(file, source))?;
        Ok(Self {
            file,
            database,
            commit,
            closed: AtomicBool::new(false),
        })
    }

    /// Name of the file, for errors.
    #[must_use]
    pub fn file(&self) -> &'static str {
        self.file
    }

    /// Runs `work` in a transaction that is durable when this returns. Blocks.
    ///
    /// # Errors
    /// Those of `work`, and of the disk; then the file takes no further write.
    pub fn write<R>(
        &self,
        work: impl FnOnce(&Writing) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        self.write_with(Durability::Immediate, work)
    }

    /// As [`SealedDatabase::write`]. What is not written with [`Durability::Immediate`] is durable with
    /// the next transaction that is.
    ///
    /// # Errors
    /// As for [`SealedDatabase::write`].
    pub fn write_with<R>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Writing) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed { file: self.file });
        }
        let result = self.write_unguarded(durability, work);
        if result.is_err() {
            self.closed.store(true, Ordering::Release);
        }
        result
    }

    fn write_unguarded<R>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Writing) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let io = |source: redb::Error| StoreError::io(self.file, source);
        let mut transaction = self.database.begin_write().map_err(|e| io(e.into()))?;
        transaction
            .set_durability(durability)
            .map_err(|e| io(e.into()))?;
        transaction.set_quick_repair(self.commit == Commit::TwoPhase);
        let writing = Writing {
            file: self.file,
            transaction,
        };
        let result = work(&writing)?;
        writing.transaction.commit().map_err(|e| io(e.into()))?;
        Ok(result)
    }

    /// A consistent view. Blocks for as long as a page read.
    ///
    /// # Errors
    /// When the disk does.
    pub fn read(&self) -> Result<Reading, StoreError> {
        Ok(Reading {
            file: self.file,
            transaction: self
                .database
                .begin_read()
                .map_err(|source| StoreError::io(self.file, source))?,
        })
    }
}

/// A write transaction under way.
pub struct Writing {
    file: &'static str,
    transaction: WriteTransaction,
}

impl Writing {
    /// Writes the record of an index.
    ///
    /// # Errors
    /// When the disk does.
    pub fn put(&self, table: IndexedTable, index: u64, content: &[u8]) -> Result<(), StoreError> {
        self.put_all(table, std::iter::once((index, content)))
    }

    /// Writes the records of several indices.
    ///
    /// # Errors
    /// When the disk does.
    pub fn put_all<'c>(
        &self,
        table: IndexedTable,
        records: impl IntoIterator<Item = (u64, &'c [u8])>,
    ) -> Result<(), StoreError> {
        use redb::TableHandle;
        let mut open = self.transaction.open_table(table).map_err(self.io())?;
        for (index, content) in records {
            let sealed = record::seal(table.name(), &index.to_be_bytes(), content);
            open.insert(index, sealed.as_slice()).map_err(self.io())?;
        }
        Ok(())
    }

    /// Removes the records from `start` up to, not including, `end`.
    ///
    /// # Errors
    /// When the disk does.
    pub fn remove_range(
        &self,
        table: IndexedTable,
        start: u64,
        end: u64,
    ) -> Result<(), StoreError> {
        let mut open = self.transaction.open_table(table).map_err(self.io())?;
        open.retain_in(start..end, |_, _| false).map_err(self.io())
    }

    /// Writes the record of a name.
    ///
    /// # Errors
    /// When the disk does.
    pub fn put_named(
        &self,
        table: NamedTable,
        name: &str,
        content: &[u8],
    ) -> Result<(), StoreError> {
        use redb::TableHandle;
        let mut open = self.transaction.open_table(table).map_err(self.io())?;
        let sealed = record::seal(table.name(), name.as_bytes(), content);
        open.insert(name, sealed.as_slice()).map_err(self.io())?;
        Ok(())
    }

    fn io<E: Into<redb::Error>>(&self) -> impl Fn(E) -> StoreError {
        let file = self.file;
        move |source| StoreError::io(file, source)
    }
}

/// A consistent view of a file.
pub struct Reading {
    file: &'static str,
    transaction: ReadTransaction,
}

impl Reading {
    /// The record of a name.
    ///
    /// # Errors
    /// When the disk errs or the record is damaged.
    pub fn named(&self, table: NamedTable, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        use redb::TableHandle;
        let Some(open) = present(self.transaction.open_table(table), self.file)? else {
            return Ok(None);
        };
        let Some(found) = open.get(name).map_err(self.io())? else {
            return Ok(None);
        };
        self.unseal(
            table.name(),
            name.as_bytes(),
            || name.to_owned(),
            found.value(),
        )
        .map(Some)
    }

    /// All names of a table with their records, in order.
    ///
    /// # Errors
    /// When the disk errs or a record is damaged.
    pub fn all_named(&self, table: NamedTable) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        use redb::TableHandle;
        let Some(open) = present(self.transaction.open_table(table), self.file)? else {
            return Ok(Vec::new());
        };
        let mut out = Vec::new();
        for item in open.iter().map_err(self.io())? {
            let (name, found) = item.map_err(self.io())?;
            let name = name.value();
            let content = self.unseal(
                table.name(),
                name.as_bytes(),
                || name.to_owned(),
                found.value(),
            )?;
            out.push((name.to_owned(), content));
        }
        Ok(out)
    }

    /// The records from `start` up to, not including, `end`, until `keep_on` says no.
    ///
    /// # Errors
    /// When the disk errs or a record is damaged.
    pub fn range(
        &self,
        table: IndexedTable,
        start: u64,
        end: u64,
        mut keep_on: impl FnMut(u64, Vec<u8>) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        self.range_as_found(table, start, end, |index, content| keep_on(index, content?))
    }

    /// As [`Reading::range`]; what a damaged record gives is handed over as its error.
    ///
    /// # Errors
    /// When the disk errs, and those of `keep_on`.
    pub fn range_as_found(
        &self,
        table: IndexedTable,
        start: u64,
        end: u64,
        mut keep_on: impl FnMut(u64, Result<Vec<u8>, StoreError>) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        use redb::TableHandle;
        let Some(open) = present(self.transaction.open_table(table), self.file)? else {
            return Ok(());
        };
        for item in open.range(start..end).map_err(self.io())? {
            let (index, found) = item.map_err(self.io())?;
            let index = index.value();
            let content = self.unseal(
                table.name(),
                &index.to_be_bytes(),
                || index.to_string(),
                found.value(),
            );
            if !keep_on(index, content)? {
                break;
            }
        }
        Ok(())
    }

    /// First and last index of a table.
    ///
    /// # Errors
    /// When the disk does.
    pub fn bounds(&self, table: IndexedTable) -> Result<Option<(u64, u64)>, StoreError> {
        let Some(open) = present(self.transaction.open_table(table), self.file)? else {
            return Ok(None);
        };
        let first = open.first().map_err(self.io())?.map(|(key, _)| key.value());
        let last = open.last().map_err(self.io())?.map(|(key, _)| key.value());
        Ok(first.zip(last))
    }

    fn unseal(
        &self,
        table: &str,
        key: &[u8],
        name: impl FnOnce() -> String,
        sealed: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        match record::open(table, key, sealed) {
            Ok(content) => Ok(content.to_vec()),
            Err(damage) => Err(StoreError::Damaged {
                file: self.file,
                record: format!("{table}/{}", name()),
                damage,
            }),
        }
    }

    fn io<E: Into<redb::Error>>(&self) -> impl Fn(E) -> StoreError {
        let file = self.file;
        move |source| StoreError::io(file, source)
    }
}

/// A table that was never written to is an empty one.
fn present<T>(table: Result<T, TableError>, file: &'static str) -> Result<Option<T>, StoreError> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(source) => Err(StoreError::io(file, source)),
    }
}
