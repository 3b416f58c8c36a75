//! A disk in memory that fails and forgets as told.
//!
//! Writes that were not synced are lost by [`MemoryDisk::crash`]; the n-th write or sync
//! can be made to fail. After a failure the file is dead until the next crash, as after
//! a power cut.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use mintmark_runtime::disk::{Disk, DiskLock, StoreBackend};
use redb::{ReadableTable as _, StorageBackend};

/// What of the unsynced writes reaches the platter when power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    /// Nothing.
    Lost,
    /// Every second write.
    EverySecond,
    /// All but the last one, of which only the first half.
    LastTorn,
}

#[derive(Debug, Default)]
struct File {
    durable: Vec<u8>,
    now: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Faults {
    /// Operations (writes, syncs, changes of length) so far.
    operations: AtomicU64,
    syncs: AtomicU64,
    /// The operation that fails, counted from one; 0 for none.
    fail_at: AtomicU64,
    dead: AtomicBool,
}

/// A disk that lives as long as the test.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    stores: Arc<Mutex<BTreeMap<PathBuf, Arc<Mutex<File>>>>>,
    files: Arc<Mutex<BTreeMap<PathBuf, Vec<u8>>>>,
    locks: Arc<Mutex<Vec<PathBuf>>>,
    faults: Arc<Mutex<Arc<Faults>>>,
}

impl MemoryDisk {
    /// Power goes: unsynced writes are gone, open stores are dead, locks are free.
    pub fn crash(&self, unsynced: Unsynced) {
        self.faults
            .lock()
            .unwrap()
            .dead
            .store(true, Ordering::SeqCst);
        *self.faults.lock().unwrap() = Arc::default();
        self.locks.lock().unwrap().clear();
        for file in self.stores.lock().unwrap().values() {
            let mut file = file.lock().unwrap();
            let writes = std::mem::take(&mut file.unsynced);
            let mut platter = std::mem::take(&mut file.durable);
            let last = writes.len().saturating_sub(1);
            for (number, (offset, mut bytes)) in writes.into_iter().enumerate() {
                match unsynced {
                    Unsynced::Lost => continue,
                    Unsynced::EverySecond if number % 2 == 1 => continue,
                    Unsynced::LastTorn if number == last => bytes.truncate(bytes.len() / 2),
                    _ => {}
                }
                put(&mut platter, offset, &bytes);
            }
            file.now = platter.clone();
            file.durable = platter;
        }
    }

    /// A copy as a back-up has it: what is durable now.
    pub fn copy(&self) -> Self {
        let copy = Self::default();
        for (path, file) in self.stores.lock().unwrap().iter() {
            let durable = file.lock().unwrap().durable.clone();
            let file = File {
                now: durable.clone(),
                durable,
                unsynced: vec![],
            };
            let file = Arc::new(Mutex::new(file));
            copy.stores.lock().unwrap().insert(path.clone(), file);
        }
        *copy.files.lock().unwrap() = self.files.lock().unwrap().clone();
        copy
    }

    /// Lets the `n`-th operation from now fail, and all later ones.
    pub fn fail_after(&self, n: u64) {
        let faults = self.faults.lock().unwrap();
        let now = faults.operations.load(Ordering::SeqCst);
        faults.fail_at.store(now + n, Ordering::SeqCst);
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.faults.lock().unwrap().syncs.load(Ordering::SeqCst)
    }

    /// Flips a bit of a record by way of `redb`, whose checksums then fit: what is left to
    /// find it is the checksum of the record.
    pub fn damage(&self, path: &Path, table: &'static str, index: u64) {
        let backend = self.open_store(path).unwrap();
        let database = redb::Builder::new().create_with_backend(backend).unwrap();
        let table = redb::TableDefinition::<u64, &[u8]>::new(table);
        let writing = database.begin_write().unwrap();
        let mut open = writing.open_table(table).unwrap();
        let mut record = open.get(index).unwrap().unwrap().value().to_vec();
        *record.last_mut().unwrap() ^= 1;
        open.insert(index, record.as_slice()).unwrap();
        drop(open);
        writing.commit().unwrap();
    }

    /// Content of everything, to show that nothing changed.
    pub fn content(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let stores = self.stores.lock().unwrap();
        let stores = stores
            .iter()
            .map(|(path, file)| (path.clone(), file.lock().unwrap().now.clone()));
        let files = self.files.lock().unwrap().clone();
        stores.chain(files).collect()
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

#[derive(Debug)]
struct Backend {
    file: Arc<Mutex<File>>,
    faults: Arc<Faults>,
}

impl Backend {
    fn alive(&self) -> io::Result<()> {
        if self.faults.dead.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is gone"));
        }
        Ok(())
    }

    fn operation(&self) -> io::Result<()> {
        self.alive()?;
        let number = self.faults.operations.fetch_add(1, Ordering::SeqCst) + 1;
        let fail_at = self.faults.fail_at.load(Ordering::SeqCst);
        if fail_at != 0 && number >= fail_at {
            self.faults.dead.store(true, Ordering::SeqCst);
            return Err(io::Error::other("injected failure"));
        }
        Ok(())
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.alive()?;
        Ok(self.file.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.alive()?;
        let file = self.file.lock().unwrap();
        let offset = offset as usize;
        let from = file.now.get(offset..offset + out.len());
        let from = from.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        out.copy_from_slice(from);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operation()?;
        let mut file = self.file.lock().unwrap();
        file.now.resize(len as usize, 0);
        // The length is metadata that journals on its own; only shrinking matters here.
        file.durable.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.operation()?;
        self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        let mut file = self.file.lock().unwrap();
        file.durable = file.now.clone();
        file.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.operation()?;
        let mut file = self.file.lock().unwrap();
        put(&mut file.now, offset as usize, data);
        file.unsynced.push((offset as usize, data.to_vec()));
        Ok(())
    }
}

#[derive(Debug)]
struct Lock {
    path: PathBuf,
    locks: Arc<Mutex<Vec<PathBuf>>>,
}

impl DiskLock for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        self.locks.lock().unwrap().retain(|path| *path != self.path);
    }
}

#[async_trait]
impl Disk for MemoryDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let files = self.files.lock().unwrap();
        files
            .get(path)
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>> {
        Ok(Box::new(io::Cursor::new(self.read(path)?)))
    }

    fn write_atomic(&self, path: &Path, content: &[u8], _mode: u32) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        files.insert(path.to_owned(), content.to_vec());
        Ok(())
    }

    fn append(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        files.entry(path.to_owned()).or_default().extend(content);
        Ok(())
    }

    fn create_dir_all(&self, _path: &Path, _mode: u32) -> io::Result<()> {
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.files.lock().unwrap().contains_key(path)
            || self.stores.lock().unwrap().contains_key(path))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let removed = self.files.lock().unwrap().remove(path).is_some()
            || self.stores.lock().unwrap().remove(path).is_some();
        removed
            .then_some(())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, _path: &Path) -> io::Result<Vec<String>> {
        Ok(vec![])
    }

    fn metadata_mode(&self, _path: &Path) -> io::Result<u32> {
        Ok(0o600)
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut locks = self.locks.lock().unwrap();
        if locks.iter().any(|locked| locked == path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        locks.push(path.to_owned());
        Ok(Box::new(Lock {
            path: path.to_owned(),
            locks: Arc::clone(&self.locks),
        }))
    }

    fn open_store(&self, path: &Path) -> io::Result<Box<dyn StoreBackend>> {
        let mut stores = self.stores.lock().unwrap();
        let file = stores.entry(path.to_owned()).or_default();
        Ok(Box::new(Backend {
            file: Arc::clone(file),
            faults: Arc::clone(&self.faults.lock().unwrap()),
        }))
    }

    async fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}
