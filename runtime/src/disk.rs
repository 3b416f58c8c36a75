//! The disk seam: whole files, and the backend of a `redb` store.
//!
//! Responsible for the few file operations that daemons need. Always holds: what
//! [`Disk::write_atomic`] and [`Disk::append`] acknowledged survives a power cut; a reader of an
//! atomically written file sees the old or the new content, never a part. A simulated disk may
//! lose or tear whatever was *not* acknowledged, and nothing else. Not here: what the files mean.

use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::Path;

use async_trait::async_trait;
use redb::{BackendError, StorageBackend};

pub(crate) mod os;

pub use self::os::OsDisk;

/// Mode of a file that only its owner may read: keys, sealed state.
pub const MODE_SECRET: u32 = 0o600;
/// Mode of a file that everybody may read: bundles, certificates.
pub const MODE_PUBLIC: u32 = 0o644;
/// Mode of a folder that only its owner may enter.
pub const MODE_DIRECTORY: u32 = 0o700;

/// Longest file [`Disk::read`] returns, so that a wrong path (a device, a core dump) cannot
/// exhaust memory. State lives in stores, so files read whole are small.
pub const READ_LEN_MAX: u64 = 256 * 1024 * 1024;

/// Whole-file operations, locks and stores. The calls block; they are short, or are made from
/// [`Disk::run_blocking`].
#[async_trait]
pub trait Disk: Send + Sync + fmt::Debug {
    /// The whole content.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `FileTooLarge` beyond [`READ_LEN_MAX`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Opens a file to read it piece by piece (a workload's executable, say).
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>>;

    /// Replaces the content in one step and makes it durable, with exactly this mode.
    ///
    /// # Errors
    /// The old content is there then, or the new one if only making it durable failed; never a
    /// part. Temporary files never stay behind a running process.
    fn write_atomic(&self, path: &Path, content: &[u8], mode: u32) -> io::Result<()>;

    /// Appends and makes it durable; creates the file with [`MODE_SECRET`].
    ///
    /// # Errors
    /// The file may then end with a part of `content`.
    fn append(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Number of bytes of a file, of any size.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    fn length(&self, path: &Path) -> io::Result<u64> {
        io::copy(&mut self.open_read(path)?, &mut io::sink())
    }

    /// At most `length_max` bytes of a file of any size, from `offset` on: fewer where it ends.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    fn read_from(&self, path: &Path, offset: u64, length_max: u64) -> io::Result<Vec<u8>> {
        let mut file = self.open_read(path)?;
        io::copy(&mut io::Read::take(&mut file, offset), &mut io::sink())?;
        let mut content = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, length_max), &mut content)?;
        Ok(content)
    }

    /// Cuts a file down to `length` bytes, durably; a shorter one is left as it is.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        if self.length(path)? <= length {
            return Ok(());
        }
        let kept = self.read_from(path, 0, length)?;
        self.write_atomic(path, &kept, self.metadata_mode(path)?)
    }

    /// Creates a folder and its parents; new ones get `mode`, existing ones are left as they are.
    ///
    /// # Errors
    /// `AlreadyExists` (or `NotADirectory`) when a file is in the way.
    fn create_dir_all(&self, path: &Path, mode: u32) -> io::Result<()>;

    /// True if something is at the path.
    ///
    /// # Errors
    /// When the system cannot tell, for example without permission on the folder.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Removes a file, durably.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// The names in a folder, sorted; names that are not UTF-8 are not ours and are left out.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// The permission bits.
    ///
    /// # Errors
    /// `NotFound`.
    fn metadata_mode(&self, path: &Path) -> io::Result<u32>;

    /// Takes the exclusive lock of a file (created if missing) until the returned value is
    /// dropped or the process ends.
    ///
    /// # Errors
    /// `WouldBlock` when another process, or this one, holds it.
    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;

    /// Opens (or creates, mode [`MODE_SECRET`]) the file of a store, for
    /// `redb::Builder::create_with_backend`.
    ///
    /// # Errors
    /// As for opening a file for reading and writing.
    fn open_store(&self, path: &Path) -> io::Result<Box<dyn StoreBackend>>;

    /// Runs work that may block. The machine's disk uses a thread for it, a simulated one runs
    /// it in place. Prefer [`run`](trait.Disk.html#method.run), which returns a value.
    async fn run_blocking(&self, work: Box<dyn FnOnce() + Send>);
}

impl dyn Disk + '_ {
    /// Runs blocking work (see [`Disk::run_blocking`]) and returns its value.
    ///
    /// # Errors
    /// When the work panicked or the runtime is going away.
    pub async fn run<R, F>(&self, work: F) -> io::Result<R>
    where
        R: Send + 'static,
        F: FnOnce() -> R + Send + 'static,
    {
        let (send, receive) = tokio::sync::oneshot::channel();
        self.run_blocking(Box::new(move || {
            // The receiver is gone only if this call was cancelled; nobody wants the value then.
            let _ = send.send(work());
        }))
        .await;
        receive
            .await
            .map_err(|_| io::Error::other("blocking work did not finish"))
    }
}

/// An exclusive lock; dropping it releases the lock.
pub trait DiskLock: Send + Sync + fmt::Debug {}

/// A `redb` storage backend behind a box, so that a simulated disk can provide it.
pub trait StoreBackend: StorageBackend {}

impl<T: StorageBackend> StoreBackend for T {}

// Explicit delegation: a default body here would silently turn locking off.
impl StorageBackend for Box<dyn StoreBackend> {
    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        (**self).read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        (**self).set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        (**self).sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        (**self).write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        (**self).close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        (**self).try_lock_range(start, end)
    }
    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        (**self).try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        (**self).lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        (**self).lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        (**self).unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        (**self).query_lock_range(start, end)
    }
}
