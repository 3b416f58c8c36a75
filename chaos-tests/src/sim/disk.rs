//! A disk that forgets, tears, rots, fills up and fails, all from a seed.
//!
//! Responsible for: the disk seam ([`Disk`], and the backend of `redb` stores) on simulated
//! storage, and the switches by which a simulation breaks it. Always holds: what a call
//! acknowledged is there after any [`SimDisk::crash`] (unless a sync failed or a bit was flipped
//! on purpose); what is there was written at some time; a handle of an ended life does no I/O; the
//! same seed and the same calls give the same disk, byte by byte. What a call did *not*
//! acknowledge may be there wholly, partly or not at all.
//!
//! Every call is made of the operations that the machine's disk would make (see
//! `mintmark_runtime::disk::os`): replacing a file is create, write, sync, rename, sync of the
//! folder, and a crash can hit each of them ([`SimDisk::crash_at`]).
//!
//! Slowness: the calls are synchronous and run in the simulator's only thread, where waiting would
//! stop the whole world and not just the disk. So a delay is awaited (in simulated time) by
//! [`Disk::run_blocking`] before the work runs, once for the piece of work and not for each
//! operation in it; calls made outside `run_blocking` take no time.
//!
//! Not here: what the disk holds in its hands (`platter`), what a power cut leaves of unsynced
//! writes ([`survival`]), and disks that acknowledge a sync and forget it: for a member that was
//! rolled back there is [`SimDisk::image`].

pub mod fault;
mod file;
mod handle;
mod platter;
pub mod survival;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use mintmark_runtime::disk::{Disk, DiskLock, READ_LEN_MAX, StoreBackend};

pub use self::fault::{Coverage, Faults, Latency, Operation, Operations};
use self::handle::{Held, Reader, Store};
use self::platter::{Armed, Change, LockKind, NameChange, Platter};
pub use self::platter::{Flip, Image};
pub use self::survival::{CrashReport, Survival};

/// [`Disk`] in the simulator. A clone is the same disk, seen by the same life of its machine.
#[derive(Clone)]
pub struct SimDisk {
    platter: Arc<Mutex<Platter>>,
    life: u64,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk")
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

/// What a simulation does to the disk. These work from any handle, also of an ended life, and are
/// not operations.
impl SimDisk {
    /// An empty disk, powered, with a root folder.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            platter: Arc::new(Mutex::new(Platter::new(seed))),
            life: 0,
        }
    }

    /// Power goes, now: every handle is dead, and the seed decides what of the unsynced writes and
    /// names is left. Call it *before* dropping the host: `redb` writes when it is dropped, and a
    /// host that lost power writes nothing. Without power already, nothing happens.
    pub fn crash(&self) -> Option<CrashReport> {
        self.platter().crash(None)
    }

    /// As [`SimDisk::crash`], with a given kind of survival.
    pub fn crash_with(&self, survival: Survival) -> Option<CrashReport> {
        self.platter().crash(Some(survival))
    }

    /// The process is killed, now: every handle is dead, but the machine runs on, so whatever was
    /// written can be read by the next life, and is still unsynced.
    pub fn kill(&self) {
        self.platter().kill();
    }

    /// The operation of this number (counted over the whole life of the disk, from 0, as
    /// [`Operations::total`] does) is the one that power goes in. It may have happened wholly,
    /// partly or not at all.
    pub fn crash_at(&self, operation: u64) {
        self.platter().crash_at = Some(operation);
    }

    /// Takes back every [`SimDisk::crash_at`], [`SimDisk::fail_next`] and [`SimDisk::fail_after`]
    /// that has not happened.
    pub fn disarm(&self) {
        let mut platter = self.platter();
        platter.crash_at = None;
        platter.armed.clear();
    }

    /// The disk as the next life of its machine sees it. Handles of former lives are dead from now
    /// on; without a crash in between nothing is lost, as when a process is restarted.
    #[must_use]
    pub fn restart(&self) -> Self {
        let life = self.platter().restart();
        Self {
            platter: Arc::clone(&self.platter),
            life,
        }
    }

    /// True while this handle can do I/O.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.platter().is_alive(self.life)
    }

    /// What the last power cut left, if one happened.
    #[must_use]
    pub fn last_crash(&self) -> Option<CrashReport> {
        self.platter().last_crash
    }

    /// Which faults happen from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.platter().faults = faults;
    }

    /// Bytes that the disk holds, in blocks of 4096; no limit with `None`. A write that needs more
    /// fails with `StorageFull`, having written what still fitted.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.platter().capacity = bytes;
    }

    /// Bytes in use, in whole blocks.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.platter().used()
    }

    /// The next operation of this kind fails, once; with a path, the next on that file. For a
    /// rename the path is the temporary file's, so leave it out there.
    pub fn fail_next(&self, operation: Operation, path: Option<&Path>) {
        self.platter().armed.push(Armed {
            operation,
            path: path.map(Path::to_owned),
            skip: 0,
        });
    }

    /// After `skip` more operations of this kind, on whichever file, the next one fails, once.
    pub fn fail_after(&self, operation: Operation, skip: u64) {
        self.platter().armed.push(Armed {
            operation,
            path: None,
            skip,
        });
    }

    /// Flips a bit of a file's synced content: bit 0 is the lowest one of the first byte.
    /// False if the file has no such bit.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> bool {
        self.platter().flip_bit(path, bit)
    }

    /// Flips a bit somewhere in the synced content of this file, or of any, drawn from the seed.
    pub fn flip_random_bit(&self, path: Option<&Path>) -> Option<Flip> {
        self.platter().flip_random_bit(path)
    }

    /// Operations so far, by kind.
    #[must_use]
    pub fn operations(&self) -> Operations {
        self.platter().operations.clone()
    }

    /// Which faults became active so far.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.platter().coverage
    }

    /// Every file as the running machine reads it, sorted by path: for oracles.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.platter().files()
    }

    /// What would be there after a power cut that kills everything unsynced: a back-up.
    #[must_use]
    pub fn image(&self) -> Image {
        self.platter().image()
    }

    /// Puts a back-up in the place of everything: the disk was rolled back, or (with
    /// [`Image::default`]) replaced by an empty one. Every handle is dead.
    pub fn set_image(&self, image: &Image) {
        self.platter().set_image(image);
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> io::Result<MutexGuard<'_, Platter>> {
        let mut platter = self.platter();
        platter.alive(self.life)?;
        Ok(platter)
    }
}

#[async_trait]
impl Disk for SimDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut platter = self.live()?;
        let file = platter.file_at(path)?;
        let length = platter.length(file);
        if length > READ_LEN_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        platter.read(path, file, 0, length)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>> {
        let mut platter = self.live()?;
        let file = platter.file_at(path)?;
        platter.open(file);
        drop(platter);
        Ok(Box::new(Reader::new(self.clone(), file, path)))
    }

    fn write_atomic(&self, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
        if path.file_name().is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut platter = self.live()?;
        platter.parent_exists(path)?;
        let temporary = platter.temporary_beside(path);
        let written = write_new(&mut platter, &temporary, content, mode)
            .and_then(|()| platter.rename(&temporary, path));
        if let Err(error) = written {
            platter.discard(&temporary);
            return Err(error);
        }
        platter.perform(path, Change::SyncNames)
    }

    fn append(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut platter = self.live()?;
        let file = platter.open_or_create(path)?;
        let offset = platter.length(file);
        platter.perform(path, Change::write(file, offset, content))?;
        platter.perform(path, Change::Sync { file })?;
        if offset == 0 {
            platter.perform(path, Change::SyncNames)?;
        }
        Ok(())
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        let platter = self.live()?;
        Ok(platter.length(platter.file_at(path)?))
    }

    fn read_from(&self, path: &Path, offset: u64, length_max: u64) -> io::Result<Vec<u8>> {
        let mut platter = self.live()?;
        let file = platter.file_at(path)?;
        platter.read(path, file, offset, length_max)
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        let mut platter = self.live()?;
        let file = platter.file_at(path)?;
        if platter.length(file) > length {
            platter.perform(path, Change::SetLength { file, length })?;
            platter.perform(path, Change::Sync { file })?;
        }
        Ok(())
    }

    fn create_dir_all(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut platter = self.live()?;
        for folder in platter.missing_folders(path)? {
            let change = NameChange::Folder(folder.clone(), mode);
            platter.perform(&folder, Change::Name(change))?;
            platter.perform(&folder, Change::SyncNames)?;
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.live()?.exists(path))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut platter = self.live()?;
        platter.file_at(path)?;
        let change = NameChange::Remove(path.to_owned());
        platter.perform(path, Change::Name(change))?;
        platter.perform(path, Change::SyncNames)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.live()?.list(path)
    }

    fn metadata_mode(&self, path: &Path) -> io::Result<u32> {
        self.live()?.mode(path)
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut platter = self.live()?;
        platter.open_or_create(path)?;
        let id = platter.take_lock(LockKind::File, path)?;
        drop(platter);
        Ok(Box::new(Held::new(self.clone(), LockKind::File, path, id)))
    }

    fn open_store(&self, path: &Path) -> io::Result<Box<dyn StoreBackend>> {
        let mut platter = self.live()?;
        let file = platter.open_or_create(path)?;
        if platter.length(file) == 0 {
            platter.perform(path, Change::SyncNames)?;
        }
        let id = platter.take_lock(LockKind::Store, path)?;
        platter.open_store(file);
        drop(platter);
        let held = Held::new(self.clone(), LockKind::Store, path, id);
        Ok(Box::new(Store::new(self.clone(), file, path, held)))
    }

    async fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        let delay = self.platter().draw_delay();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        work();
    }
}

fn write_new(platter: &mut Platter, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let file = platter.create(path, mode)?;
    platter.perform(path, Change::write(file, 0, content))?;
    platter.perform(path, Change::Sync { file })
}
