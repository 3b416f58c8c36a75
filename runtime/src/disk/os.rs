//! The machine's disk.
//!
//! Always holds: an acknowledged write is on the device, directory entry included, because every
//! call that creates, renames or removes syncs the folder too. Files are created with their mode
//! (never readable first and restricted later). Not here: redb's own durability, which is its.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use nix::fcntl::{Flock, FlockArg, PosixFadviseAdvice, posix_fadvise};

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
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(MODE_SECRET)
            .open(path)?;
        // Not only when it is new: an earlier append may have made it and failed before the folder
        // was synced.
        let was_empty = file.metadata()?.len() == 0;
        file.write_all(content)?;
        file.sync_data()?;
        if was_empty { sync_parent(path) } else { Ok(()) }
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        Ok(open(path)?.metadata()?.len())
    }

    fn read_from(&self, path: &Path, offset: u64, length_max: u64) -> io::Result<Vec<u8>> {
        let mut file = open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut content = Vec::new();
        file.take(length_max).read_to_end(&mut content)?;
        Ok(content)
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        if file.metadata()?.len() > length {
            file.set_len(length)?;
            file.sync_all()?;
        }
        Ok(())
    }

    fn create_dir_all(&self, path: &Path, mode: u32) -> io::Result<()> {
        create_directories(path, mode)
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
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE_SECRET)
            .open(path)?;
        if file.metadata()?.len() == 0 {
            sync_parent(path)?;
        }
        read_from_device(&file);
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

/// Lets the system forget the clean pages of a file. After a failed sync they are what was written
/// and not what is on the device, and a store that is opened again has to begin with the latter:
/// a later sync does not write them.
fn read_from_device(file: &File) {
    let all = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
    if let Err(error) = posix_fadvise(file, 0, 0, all) {
        tracing::debug!(%error, "the system keeps its pages of the file");
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

/// Creates what is missing of a folder's path, each with exactly this mode, durably.
pub(crate) fn create_directories(path: &Path, mode: u32) -> io::Result<()> {
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        if ancestor.as_os_str().is_empty() {
            break;
        }
        match std::fs::metadata(ancestor) {
            Ok(found) if found.is_dir() => break,
            Ok(_) if ancestor == path => return Err(io::ErrorKind::AlreadyExists.into()),
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(ancestor),
            Err(error) => return Err(error),
        }
    }
    for directory in missing.into_iter().rev() {
        match DirBuilder::new().mode(mode).create(directory) {
            Ok(()) => {
                // The creation mode is masked by the umask; this is exact.
                std::fs::set_permissions(directory, Permissions::from_mode(mode))?;
                sync_parent(directory)?;
            }
            // Somebody else made it in the meantime.
            Err(_) if directory.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_failed_replacement_leaves_everything_as_it_was() {
        let folder = folder();
        let path = folder.path().join("in the way");
        OsDisk.create_dir_all(&path.join("x"), 0o700).unwrap();
        // A folder cannot be replaced by a file, which shows only when renaming.
        OsDisk.write_atomic(&path, b"new", MODE_SECRET).unwrap_err();
        assert_eq!(OsDisk.list(folder.path()).unwrap(), ["in the way"]);
    }

    #[test]
    fn readers_see_the_old_or_the_new_content_while_many_write() {
        let folder = folder();
        let path = folder.path().join("state");
        OsDisk.write_atomic(&path, &[0; 4096], MODE_SECRET).unwrap();
        std::thread::scope(|scope| {
            for writer in 1..=4_u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        OsDisk
                            .write_atomic(path, &[writer; 4096], MODE_SECRET)
                            .unwrap();
                    }
                });
            }
            for _ in 0..200 {
                let content = OsDisk.read(&path).unwrap();
                assert_eq!(content.len(), 4096);
                assert!(content.iter().all(|byte| *byte == content[0]));
            }
        });
        assert_eq!(OsDisk.list(folder.path()).unwrap(), ["state"]);
    }

    #[test]
    fn a_link_to_a_folder_counts_as_the_folder() {
        let folder = folder();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        OsDisk.create_dir_all(&real, 0o700).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        OsDisk.create_dir_all(&link.join("a"), 0o750).unwrap();
        assert_eq!(OsDisk.metadata_mode(&real.join("a")).unwrap(), 0o750);
    }

    #[test]
    fn an_endless_device_is_not_read_whole() {
        let error = OsDisk.read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[tokio::test]
    async fn blocking_work_that_panics_is_an_error() {
        let disk: &dyn Disk = &OsDisk;
        disk.run(|| panic!("bad luck")).await.unwrap_err();
        assert_eq!(disk.run(|| 7).await.unwrap(), 7);
    }
}
