//! The machine's disk.
//!
//! Always holds: an acknowledged write is on the device, directory entry included, because every
//! call that creates, renames or removes syncs the folder too. Files are created with their mode
//! (never readable first and restricted later). Not here: redb's own durability, which is its.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use nix::fcntl::{Flock, FlockArg};

use super::{Disk, DiskLock, MODE_SECRET, READ_LEN_MAX, StoreBackend};

/// [`Disk`] of the machine we run on.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

#[async_trait]
impl Disk for OsDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = open(path)?;
        let mut content = Vec::new();
        // One byte more than allowed tells "too large" from "exactly at the limit".
        file.take(READ_LEN_MAX.saturating_add(1))
            .read_to_end(&mut content)?;
        if u64::try_from(content.len()).unwrap_or(u64::MAX) > READ_LEN_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(content)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(open(path)?))
    }

    fn write_atomic(&self, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
        let temporary = temporary_beside(path)?;
        let written = write_new(&temporary, content, mode).and_then(|()| rename(&temporary, path));
        if let Err(error) = written {
            // The write failed; that error matters, not whether the clean-up worked.
            let _ = remove(&temporary);
            return Err(error);
        }
        sync_parent(path)
    }

    fn append(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let is_new = !path.try_exists()?;
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(MODE_SECRET)
            .open(path)?;
        file.write_all(content)?;
        file.sync_data()?;
        if is_new { sync_parent(path) } else { Ok(()) }
    }

    fn create_dir_all(&self, path: &Path, mode: u32) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(mode).create(path)?;
        sync_parent(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        remove(path)?;
        sync_parent(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn metadata_mode(&self, path: &Path) -> io::Result<u32> {
        Ok(std::fs::metadata(path)?.permissions().mode() & 0o7777)
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE_SECRET)
            .open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Box::new(FileLock { _lock: lock })),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    fn open_store(&self, path: &Path) -> io::Result<Box<dyn StoreBackend>> {
        let is_new = !path.try_exists()?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE_SECRET)
            .open(path)?;
        if is_new {
            sync_parent(path)?;
        }
        let backend = redb::backends::FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Box::new(backend))
    }

    async fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is where blocking threads enter"
        )]
        let finished = tokio::task::spawn_blocking(work).await;
        if let Err(error) = finished {
            tracing::error!(%error, "blocking work failed");
        }
    }
}

#[derive(Debug)]
struct FileLock {
    _lock: Flock<File>,
}

impl DiskLock for FileLock {}

#[expect(clippy::disallowed_methods, reason = "this is where files enter")]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[expect(clippy::disallowed_methods, reason = "this is where files enter")]
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

#[expect(clippy::disallowed_methods, reason = "this is where files enter")]
fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    // The creation mode is masked by the umask; this is exact.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

/// A name in the same folder (a rename must not cross file systems) that no other writer of
/// this or another process uses: `.name.<pid>.<n>.tmp`.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not the path of a file",
        ));
    };
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.{count}.tmp", std::process::id()));
    let path = path.with_file_name(temporary);
    // Left by a process of the same id that was killed; nobody else can own it.
    match remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(path),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => open(Path::new("."))?.sync_all(),
        Some(parent) => open(parent)?.sync_all(),
        None => Ok(()),
    }
}
