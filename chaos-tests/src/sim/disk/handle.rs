//! Open files: readers, locks and stores.
//!
//! Responsible for: what a life holds of the disk between two calls. Always holds: a handle of an
//! ended life does nothing, not even when it is dropped. Not here: what happens to bytes.

use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mintmark_runtime::disk::DiskLock;
use redb::{BackendError, StorageBackend};

use super::SimDisk;
use super::platter::{Change, FileId, LockKind};

/// Reads a file from its start.
pub(super) struct Reader {
    disk: SimDisk,
    file: FileId,
    path: PathBuf,
    position: u64,
}

impl Reader {
    pub fn new(disk: SimDisk, file: FileId, path: &Path) -> Self {
        Self {
            disk,
            file,
            path: path.to_owned(),
            position: 0,
        }
    }
}

impl io::Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut platter = self.disk.live()?;
        let bytes = platter.read(&self.path, self.file, self.position, out.len() as u64)?;
        out[..bytes.len()].copy_from_slice(&bytes);
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.disk.platter().close(self.disk.life, self.file);
    }
}

/// A lock that is held.
#[derive(Debug)]
pub(super) struct Held {
    disk: SimDisk,
    kind: LockKind,
    path: PathBuf,
    id: u64,
}

impl Held {
    pub fn new(disk: SimDisk, kind: LockKind, path: &Path, id: u64) -> Self {
        Self {
            disk,
            kind,
            path: path.to_owned(),
            id,
        }
    }
}

impl DiskLock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        let mut platter = self.disk.platter();
        platter.release_lock(self.kind, &self.path, self.id);
    }
}

/// One open store. It excludes others as a whole, so redb's own range locks always succeed.
#[derive(Debug)]
pub(super) struct Store {
    disk: SimDisk,
    file: FileId,
    path: PathBuf,
    held: Mutex<Option<Held>>,
}

impl Store {
    pub fn new(disk: SimDisk, file: FileId, path: &Path, held: Held) -> Self {
        Self {
            disk,
            file,
            path: path.to_owned(),
            held: Mutex::new(Some(held)),
        }
    }

    fn perform(&self, change: Change) -> io::Result<()> {
        self.disk.live()?.perform(&self.path, change)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.disk.platter().close(self.disk.life, self.file);
    }
}

impl StorageBackend for Store {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.live()?.length(self.file))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut platter = self.disk.live()?;
        let bytes = platter.read(&self.path, self.file, offset, out.len() as u64)?;
        if bytes.len() < out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.copy_from_slice(&bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let file = self.file;
        self.perform(Change::SetLength { file, length })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.perform(Change::Sync { file: self.file })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.perform(Change::write(self.file, offset, data))
    }

    fn close(&self) -> io::Result<()> {
        // Taken out first: dropping it takes the disk's lock.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = held.take();
        drop(held);
        drop(taken);
        Ok(())
    }

    fn try_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(
        &self,
        _start: Bound<u64>,
        _end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn lock_shared_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn unlock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(false)
    }
}
