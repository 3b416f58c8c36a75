//! A disk in memory.
//!
//! Responsible for the behaviour of [`Disk`] without files. Always holds: clones share their
//! content, so that a daemon can be "restarted" on the same disk. Not here: losing or tearing
//! writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use redb::BackendError;

use crate::disk::{Disk, DiskLock, MODE_SECRET, StoreBackend};

/// [`Disk`] in memory. A clone shares the content.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    files: BTreeMap<PathBuf, File>,
    directories: BTreeMap<PathBuf, u32>,
    locked: BTreeSet<PathBuf>,
    full: bool,
}

struct File {
    bytes: Bytes,
    mode: u32,
}

/// Shared with the open stores of the file.
type Bytes = Arc<Mutex<Vec<u8>>>;

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("files", &self.files.keys())
            .finish_non_exhaustive()
    }
}

impl MemoryDisk {
    /// An empty disk with a root folder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes every following write fail with `StorageFull`, or work again.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        lock(&self.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Content {
    fn is_directory(&self, path: &Path) -> bool {
        // The root, and the working directory of relative paths, always exist.
        path.parent().is_none() || self.directories.contains_key(path)
    }

    fn file(&self, path: &Path) -> io::Result<&File> {
        if self.is_directory(path) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        self.files
            .get(path)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The file, created if missing.
    fn create(&mut self, path: &Path, mode: u32) -> io::Result<&mut File> {
        if self.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.is_directory(path) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let parent = path.parent().unwrap_or_else(|| Path::new(""));
        if self.files.contains_key(parent) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if !self.is_directory(parent) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.files.entry(path.to_owned()).or_insert_with(|| File {
            bytes: Bytes::default(),
            mode,
        }))
    }

    /// Takes the lock `path` of a file or store.
    fn take(&mut self, path: PathBuf) -> io::Result<PathBuf> {
        if self.locked.insert(path.clone()) {
            Ok(path)
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
}

#[async_trait]
impl Disk for MemoryDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(lock(&self.lock().file(path)?.bytes).clone())
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>> {
        Ok(Box::new(io::Cursor::new(self.read(path)?)))
    }

    fn write_atomic(&self, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
        if path.file_name().is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut disk = self.lock();
        let file = disk.create(path, mode)?;
        // As a rename does: whoever has the old file open keeps it.
        file.bytes = Arc::new(Mutex::new(content.to_vec()));
        file.mode = mode;
        Ok(())
    }

    fn append(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut disk = self.lock();
        lock(&disk.create(path, MODE_SECRET)?.bytes).extend_from_slice(content);
        Ok(())
    }

    fn create_dir_all(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut disk = self.lock();
        for ancestor in path.ancestors() {
            if disk.files.contains_key(ancestor) {
                let kind = if ancestor == path {
                    io::ErrorKind::AlreadyExists
                } else {
                    io::ErrorKind::NotADirectory
                };
                return Err(kind.into());
            }
        }
        for ancestor in path.ancestors() {
            if !disk.is_directory(ancestor) {
                disk.directories.insert(ancestor.to_owned(), mode);
            }
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let disk = self.lock();
        Ok(disk.files.contains_key(path) || disk.is_directory(path))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.file(path)?;
        disk.files.remove(path);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let disk = self.lock();
        if disk.files.contains_key(path) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if !disk.is_directory(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut names: Vec<String> = disk
            .files
            .keys()
            .chain(disk.directories.keys())
            .filter(|entry| entry.parent() == Some(path))
            .filter_map(|entry| entry.file_name()?.to_str().map(str::to_owned))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    fn metadata_mode(&self, path: &Path) -> io::Result<u32> {
        let disk = self.lock();
        match disk.directories.get(path) {
            Some(mode) => Ok(*mode),
            None => Ok(disk.file(path)?.mode),
        }
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut disk = self.lock();
        disk.create(path, MODE_SECRET)?;
        let path = disk.take(path.to_owned())?;
        let disk = self.clone();
        Ok(Box::new(Held { disk, path }))
    }

    fn open_store(&self, path: &Path) -> io::Result<Box<dyn StoreBackend>> {
        let mut disk = self.lock();
        let bytes = Arc::clone(&disk.create(path, MODE_SECRET)?.bytes);
        // Another name than the file's own lock, which a store does not touch.
        let path = disk.take(path.join("store"))?;
        let held = Held {
            disk: self.clone(),
            path,
        };
        Ok(Box::new(Store {
            bytes,
            held: Mutex::new(Some(held)),
            disk: self.clone(),
        }))
    }

    async fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}

#[derive(Debug)]
struct Held {
    disk: MemoryDisk,
    path: PathBuf,
}

impl DiskLock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        self.disk.lock().locked.remove(&self.path);
    }
}

/// One open store. It excludes others as a whole, so redb's own range locks always succeed.
#[derive(Debug)]
struct Store {
    bytes: Bytes,
    held: Mutex<Option<Held>>,
    disk: MemoryDisk,
}

impl Store {
    fn writable(&self) -> io::Result<()> {
        if self.disk.lock().full {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }
}

fn range(offset: u64, length: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).map_err(io::Error::other)?;
    let end = start
        .checked_add(length)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(start..end)
}

impl redb::StorageBackend for Store {
    fn len(&self) -> io::Result<u64> {
        u64::try_from(lock(&self.bytes).len()).map_err(io::Error::other)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = lock(&self.bytes);
        let found = bytes
            .get(range(offset, out.len())?)
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable()?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        lock(&self.bytes).resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writable()?;
        let mut bytes = lock(&self.bytes);
        let place = bytes
            .get_mut(range(offset, data.len())?)
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        place.copy_from_slice(data);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        // Taken out first: dropping it takes the disk's lock.
        let held = lock(&self.held).take();
        drop(held);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_full_disk_refuses_writes_and_keeps_what_it_has() {
        let disk = MemoryDisk::new();
        let path = Path::new("/state");
        disk.write_atomic(path, b"old", MODE_SECRET).unwrap();
        disk.set_full(true);
        let error = disk.write_atomic(path, b"new", MODE_SECRET).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.append(path, b"new").unwrap_err().kind(), error.kind());
        assert_eq!(disk.read(path).unwrap(), b"old");
        disk.set_full(false);
        disk.append(path, b"er").unwrap();
        assert_eq!(disk.read(path).unwrap(), b"older");
    }

    #[test]
    fn a_clone_is_the_same_disk() {
        let disk = MemoryDisk::new();
        disk.clone()
            .write_atomic(Path::new("/a"), b"1", MODE_SECRET)
            .unwrap();
        assert_eq!(disk.read(Path::new("/a")).unwrap(), b"1");
    }
}
