//! The disk itself: files, names, power, and the operations that change them.
//!
//! Responsible for: carrying out one operation, or as much of it as faults let happen. Always
//! holds: names that were created, renamed or removed are unsynced until their folder was synced,
//! and a power cut leaves a prefix of the unsynced ones (they are journaled in order); every draw
//! comes from the disk's own generators, one for power cuts and one for faults, in the order of
//! operations. Not here: which operations a call is made of ([`super`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mintmark_runtime::disk::MODE_SECRET;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::fault::{Coverage, Faults, Operation, Operations};
use super::file::File;
use super::survival::{CrashReport, Fate, Survival};

/// A file, whatever it is called now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder(u32),
    File(FileId),
}

type Names = BTreeMap<PathBuf, Node>;

/// A change of names.
#[derive(Debug, Clone)]
pub(super) enum NameChange {
    File(PathBuf, FileId),
    Folder(PathBuf, u32),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// A lock of a file, and of the store in a file, exclude only their own kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LockKind {
    File,
    Store,
}

/// An operation that changes something.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write {
        file: FileId,
        offset: u64,
        bytes: Vec<u8>,
    },
    SetLength {
        file: FileId,
        length: u64,
    },
    Sync {
        file: FileId,
    },
    Name(NameChange),
    SyncNames,
}

impl Change {
    pub fn write(file: FileId, offset: u64, bytes: &[u8]) -> Self {
        let bytes = bytes.to_vec();
        Self::Write {
            file,
            offset,
            bytes,
        }
    }

    fn operation(&self) -> Operation {
        match self {
            Self::Write { .. } => Operation::Write,
            Self::SetLength { .. } => Operation::SetLength,
            Self::Sync { .. } => Operation::Sync,
            Self::Name(NameChange::File(..)) => Operation::Create,
            Self::Name(NameChange::Folder(..)) => Operation::CreateFolder,
            Self::Name(NameChange::Rename(..)) => Operation::Rename,
            Self::Name(NameChange::Remove(_)) => Operation::Remove,
            Self::SyncNames => Operation::SyncFolder,
        }
    }
}

/// A bit that was flipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// The file.
    pub path: PathBuf,
    /// Counted from the lowest bit of the first byte.
    pub bit: u64,
}

/// A back-up of a disk: everything that was synced.
#[derive(Debug, Clone, Default)]
pub struct Image {
    folders: Vec<(PathBuf, u32)>,
    files: Vec<(PathBuf, u32, Vec<u8>)>,
}

/// An error that waits for its operation.
#[derive(Debug)]
pub(super) struct Armed {
    pub operation: Operation,
    pub path: Option<PathBuf>,
    /// Operations that succeed before it.
    pub skip: u64,
}

impl Armed {
    fn is_for(&self, operation: Operation, path: &Path) -> bool {
        self.operation == operation && self.path.as_deref().is_none_or(|wanted| wanted == path)
    }
}

/// What shall become of an operation.
enum Verdict {
    Proceed,
    Fail,
    LosePower,
}

#[derive(Debug)]
pub(super) struct Platter {
    life: u64,
    powered: bool,
    files: BTreeMap<FileId, File>,
    synced: Names,
    now: Names,
    pending: Vec<NameChange>,
    /// Open handles of this life.
    open: BTreeMap<FileId, u64>,
    locks: BTreeMap<(LockKind, PathBuf), u64>,
    next_id: u64,
    pub crash_at: Option<u64>,
    pub faults: Faults,
    pub armed: Vec<Armed>,
    pub capacity: Option<u64>,
    pub operations: Operations,
    pub coverage: Coverage,
    pub last_crash: Option<CrashReport>,
    fault_rng: SmallRng,
    crash_rng: SmallRng,
}

impl Platter {
    pub fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        Self {
            life: 0,
            powered: true,
            files: BTreeMap::new(),
            synced: Names::new(),
            now: Names::new(),
            pending: Vec::new(),
            open: BTreeMap::new(),
            locks: BTreeMap::new(),
            next_id: 0,
            crash_at: None,
            faults: Faults::default(),
            armed: Vec::new(),
            capacity: None,
            operations: Operations::default(),
            coverage: Coverage::default(),
            last_crash: None,
            fault_rng: SmallRng::seed_from_u64(rng.r#gen()),
            crash_rng: SmallRng::seed_from_u64(rng.r#gen()),
        }
    }

    // ---- lives ----

    pub fn is_alive(&self, life: u64) -> bool {
        self.powered && self.life == life
    }

    pub fn alive(&mut self, life: u64) -> io::Result<()> {
        if self.is_alive(life) {
            return Ok(());
        }
        self.coverage.after_end += 1;
        Err(no_power())
    }

    pub fn kill(&mut self) {
        if self.powered {
            self.powered = false;
            self.coverage.kills += 1;
            self.end_life();
        }
    }

    pub fn restart(&mut self) -> u64 {
        self.end_life();
        self.powered = true;
        self.life += 1;
        self.life
    }

    /// What belongs to the processes of a life goes with them.
    fn end_life(&mut self) {
        self.open.clear();
        self.locks.clear();
        self.crash_at = None;
        self.drop_nameless();
    }

    pub fn crash(&mut self, survival: Option<Survival>) -> Option<CrashReport> {
        if !self.powered {
            return None;
        }
        self.powered = false;
        self.end_life();
        let survival = survival.unwrap_or_else(|| Survival::draw(&mut self.crash_rng));
        let block = if self.crash_rng.gen_bool(0.5) {
            512
        } else {
            4096
        };
        let mut report = CrashReport {
            survival,
            block,
            operation: None,
            lost: 0,
            torn: 0,
            survived: 0,
            names_lost: 0,
        };
        self.coverage.crashes += 1;
        if !self.pending.is_empty() || self.files.values().any(File::is_dirty) {
            self.coverage.crashes_with_unsynced += 1;
        }
        report.names_lost = self.lose_names(survival);
        for file in self.files.values_mut() {
            let fate = Fate::draw(survival, block, file.pending(), &mut self.crash_rng);
            let settled = file.crash(&fate);
            report.lost += settled.lost;
            report.torn += settled.torn;
            report.survived += settled.survived;
        }
        self.drop_nameless();
        self.coverage.names_lost += report.names_lost;
        self.coverage.writes_lost += report.lost;
        self.coverage.writes_torn += report.torn;
        self.coverage.writes_survived += report.survived;
        self.last_crash = Some(report);
        Some(report)
    }

    fn lose_names(&mut self, survival: Survival) -> u64 {
        let pending = std::mem::take(&mut self.pending);
        let before = temporaries(&self.synced);
        let kept = match survival {
            Survival::Nothing => 0,
            Survival::Everything => pending.len(),
            _ => self.crash_rng.gen_range(0..=pending.len()),
        };
        for change in &pending[..kept] {
            apply(&mut self.synced, change);
        }
        self.now.clone_from(&self.synced);
        self.coverage.temporaries_left += temporaries(&self.now).saturating_sub(before);
        (pending.len() - kept) as u64
    }

    /// Forgets files that nothing leads to, nor would after a power cut.
    fn drop_nameless(&mut self) {
        let names = [&self.synced, &self.now].into_iter();
        let nodes = names.flat_map(|names| names.values());
        let named = nodes.filter_map(|node| match node {
            Node::File(file) => Some(*file),
            Node::Folder(_) => None,
        });
        let pending = self.pending.iter().filter_map(|change| match change {
            NameChange::File(_, file) => Some(*file),
            _ => None,
        });
        let named: BTreeSet<FileId> = named.chain(pending).collect();
        let open = &self.open;
        self.files
            .retain(|file, _| named.contains(file) || open.contains_key(file));
    }

    // ---- operations ----

    /// Carries out an operation.
    pub fn perform(&mut self, path: &Path, change: Change) -> io::Result<()> {
        match self.begin(change.operation(), path) {
            Verdict::Proceed => self.apply(change),
            Verdict::Fail => {
                self.fail(change);
                Err(injected())
            }
            Verdict::LosePower => {
                let number = self.operations.total() - 1;
                if let Some(happened) = self.part_of(change) {
                    // Whether it succeeds does not matter: nobody is told.
                    let _ = self.apply(happened);
                }
                self.crash_in_operation(number);
                Err(no_power())
            }
        }
    }

    /// Reads at most `length` bytes.
    pub fn read(
        &mut self,
        path: &Path,
        file: FileId,
        offset: u64,
        length: u64,
    ) -> io::Result<Vec<u8>> {
        match self.begin(Operation::Read, path) {
            Verdict::Proceed => {}
            Verdict::Fail => return Err(injected()),
            Verdict::LosePower => {
                self.crash_in_operation(self.operations.total() - 1);
                return Err(no_power());
            }
        }
        let (bytes, rotten) = self.files[&file].read(offset, length);
        self.coverage.flips_read += u64::from(rotten);
        Ok(bytes)
    }

    fn crash_in_operation(&mut self, number: u64) {
        self.coverage.crashes_in_operation += 1;
        if let Some(mut report) = self.crash(None) {
            report.operation = Some(number);
            self.last_crash = Some(report);
        }
    }

    fn begin(&mut self, operation: Operation, path: &Path) -> Verdict {
        let number = self.operations.total();
        self.operations.count(operation);
        if self.crash_at == Some(number) {
            return Verdict::LosePower;
        }
        let afflicted = self
            .faults
            .only
            .as_ref()
            .is_none_or(|only| path.starts_with(only));
        if self.faults.rot > 0.0 && afflicted && self.fault_rng.gen_bool(self.faults.rot) {
            let only = self.faults.only.clone();
            self.flip_random_bit(only.as_deref());
        }
        if self.shall_fail(operation, path, afflicted) {
            self.coverage.errors += 1;
            return Verdict::Fail;
        }
        Verdict::Proceed
    }

    fn shall_fail(&mut self, operation: Operation, path: &Path, afflicted: bool) -> bool {
        let mut due = false;
        self.armed.retain_mut(|armed| {
            if armed.is_for(operation, path) {
                due |= armed.skip == 0;
                armed.skip = armed.skip.wrapping_sub(1);
            }
            armed.skip != u64::MAX
        });
        if due {
            return true;
        }
        let probability = self.faults.errors.get(&operation).copied().unwrap_or(0.0);
        afflicted && probability > 0.0 && self.fault_rng.gen_bool(probability)
    }

    fn apply(&mut self, change: Change) -> io::Result<()> {
        match change {
            Change::Write {
                file,
                offset,
                bytes,
            } => self.write(file, offset, bytes),
            Change::SetLength { file, length } => {
                self.file(file).set_length(length);
                Ok(())
            }
            Change::Sync { file } => {
                self.file(file).sync();
                Ok(())
            }
            Change::Name(change) => {
                apply(&mut self.now, &change);
                self.pending.push(change);
                Ok(())
            }
            Change::SyncNames => {
                self.pending.clear();
                self.synced.clone_from(&self.now);
                self.drop_nameless();
                Ok(())
            }
        }
    }

    fn write(&mut self, file: FileId, offset: u64, mut bytes: Vec<u8>) -> io::Result<()> {
        let free = self.capacity.map(|all| all.saturating_sub(self.used()));
        let fitting = free.map_or(bytes.len(), |free| {
            self.file(file).fitting(offset, bytes.len(), free)
        });
        let fits = fitting == bytes.len();
        bytes.truncate(fitting);
        if fits || fitting > 0 {
            self.file(file).write(offset, bytes);
        }
        if fits {
            Ok(())
        } else {
            self.coverage.full += 1;
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    /// What happens in an operation that fails.
    fn fail(&mut self, change: Change) {
        match change {
            Change::Sync { file } => {
                self.coverage.syncs_failed += 1;
                self.drop_writes(file);
            }
            Change::SyncNames => self.coverage.syncs_failed += 1,
            Change::Write { .. } => {
                if let Some(part) = self.part_of(change) {
                    // It failed already.
                    let _ = self.apply(part);
                }
            }
            Change::SetLength { .. } | Change::Name(_) => {}
        }
    }

    /// After a failed sync the machine thinks that the writes are on the disk, some of which are
    /// not: it reads them until power goes, and no later sync writes them.
    fn drop_writes(&mut self, file: FileId) {
        let rng = &mut self.fault_rng;
        let survival = Survival::draw(rng);
        if let Some(file) = self.files.get_mut(&file) {
            let fate = Fate::draw(survival, 4096, file.pending(), rng);
            let settled = file.settle(&fate);
            self.coverage.writes_dropped += settled.lost + settled.torn;
        }
    }

    /// As much of an operation as happens before it is cut off: all, some or nothing.
    fn part_of(&mut self, change: Change) -> Option<Change> {
        let rng = &mut self.crash_rng;
        match (rng.gen_range(0..3), change) {
            (0, _) => None,
            (
                1,
                Change::Write {
                    file,
                    offset,
                    mut bytes,
                },
            ) => {
                bytes.truncate(rng.gen_range(0..=bytes.len()));
                Some(Change::Write {
                    file,
                    offset,
                    bytes,
                })
            }
            // Half a sync is what the crash leaves of the unsynced writes.
            (1, Change::Sync { .. } | Change::SyncNames) => None,
            (_, change) => Some(change),
        }
    }

    // ---- names ----

    fn is_folder(&self, path: &Path) -> bool {
        // The root, and the working directory of relative paths, always exist.
        path.parent().is_none() || matches!(self.now.get(path), Some(Node::Folder(_)))
    }

    pub fn exists(&self, path: &Path) -> bool {
        self.is_folder(path) || self.now.contains_key(path)
    }

    pub fn file_at(&self, path: &Path) -> io::Result<FileId> {
        match self.now.get(path) {
            Some(Node::File(file)) => Ok(*file),
            _ if self.is_folder(path) => Err(io::ErrorKind::IsADirectory.into()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub fn parent_exists(&self, path: &Path) -> io::Result<()> {
        let parent = path.parent().unwrap_or_else(|| Path::new(""));
        match self.now.get(parent) {
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            _ if self.is_folder(parent) => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Creates an empty file.
    pub fn create(&mut self, path: &Path, mode: u32) -> io::Result<FileId> {
        self.parent_exists(path)?;
        let file = FileId(self.draw_id());
        self.files.insert(file, File::new(mode));
        let change = NameChange::File(path.to_owned(), file);
        let created = self.perform(path, Change::Name(change));
        if created.is_err() {
            self.drop_nameless();
        }
        created.map(|()| file)
    }

    /// The file, created if missing.
    pub fn open_or_create(&mut self, path: &Path) -> io::Result<FileId> {
        match self.file_at(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(path, MODE_SECRET),
            found => found,
        }
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if self.is_folder(to) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let change = NameChange::Rename(from.to_owned(), to.to_owned());
        self.perform(from, Change::Name(change))
    }

    /// Removes a temporary file after a failure, if there still is one and power.
    pub fn discard(&mut self, temporary: &Path) {
        if self.powered && self.now.contains_key(temporary) {
            let change = NameChange::Remove(temporary.to_owned());
            // The first error matters, not this one.
            let _ = self.perform(temporary, Change::Name(change));
        }
    }

    /// As the machine's disk names them.
    pub fn temporary_beside(&mut self, path: &Path) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        let id = self.draw_id();
        name.push(format!(".{}.{id}.tmp", self.life));
        path.with_file_name(name)
    }

    /// The folders of a path that do not exist, outermost first.
    pub fn missing_folders(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut missing = Vec::new();
        for ancestor in path.ancestors() {
            match self.now.get(ancestor) {
                Some(Node::File(_)) if ancestor == path => {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                _ if self.is_folder(ancestor) => break,
                _ => missing.push(ancestor.to_owned()),
            }
        }
        missing.reverse();
        Ok(missing)
    }

    pub fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        if matches!(self.now.get(path), Some(Node::File(_))) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if !self.is_folder(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut names: Vec<String> = self
            .now
            .keys()
            .filter(|entry| entry.parent() == Some(path))
            .filter_map(|entry| entry.file_name()?.to_str().map(str::to_owned))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    pub fn mode(&self, path: &Path) -> io::Result<u32> {
        match self.now.get(path) {
            Some(Node::Folder(mode)) => Ok(*mode),
            _ => Ok(self.files[&self.file_at(path)?].mode),
        }
    }

    // ---- handles ----

    pub fn take_lock(&mut self, kind: LockKind, path: &Path) -> io::Result<u64> {
        let key = (kind, path.to_owned());
        if self.locks.contains_key(&key) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let id = self.draw_id();
        self.locks.insert(key, id);
        Ok(id)
    }

    pub fn release_lock(&mut self, kind: LockKind, path: &Path, id: u64) {
        let key = (kind, path.to_owned());
        if self.locks.get(&key) == Some(&id) {
            self.locks.remove(&key);
        }
    }

    pub fn open(&mut self, file: FileId) {
        *self.open.entry(file).or_default() += 1;
    }

    /// A store begins with what is on the platter: as the machine's disk does, it has clean pages
    /// forgotten, some of which an earlier life may have failed to sync.
    pub fn open_store(&mut self, file: FileId) {
        if !self.open.contains_key(&file) {
            self.file(file).reread();
        }
        self.open(file);
    }

    /// A handle of this life was closed.
    pub fn close(&mut self, life: u64, file: FileId) {
        if !self.is_alive(life) {
            return;
        }
        if let Some(handles) = self.open.get_mut(&file) {
            *handles -= 1;
            if *handles == 0 {
                self.open.remove(&file);
                self.drop_nameless();
            }
        }
    }

    // ---- what the simulation looks at and breaks ----

    pub fn length(&self, file: FileId) -> u64 {
        self.files[&file].length()
    }

    pub fn used(&self) -> u64 {
        self.files.values().map(File::used).sum()
    }

    pub fn draw_delay(&mut self) -> Option<Duration> {
        let latency = self.faults.latency?;
        self.coverage.delays += 1;
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (min, max) = (micros(latency.min), micros(latency.max));
        let drawn = self.fault_rng.gen_range(min..=max.max(min));
        Some(Duration::from_micros(drawn))
    }

    pub fn flip_bit(&mut self, path: &Path, bit: u64) -> bool {
        let Ok(file) = self.file_at(path) else {
            return false;
        };
        let flipped = self.file(file).flip(bit);
        self.coverage.bits_flipped += u64::from(flipped);
        flipped
    }

    pub fn flip_random_bit(&mut self, path: Option<&Path>) -> Option<Flip> {
        let candidates: Vec<(PathBuf, u64)> = self
            .now
            .iter()
            .filter(|(name, _)| path.is_none_or(|path| name.starts_with(path)))
            .filter_map(|(name, node)| match node {
                Node::File(file) => Some((name.clone(), self.files[file].synced().len() as u64)),
                Node::Folder(_) => None,
            })
            .filter(|(_, length)| *length > 0)
            .collect();
        let bits: u64 = candidates.iter().map(|(_, length)| length * 8).sum();
        if bits == 0 {
            return None;
        }
        let mut bit = self.fault_rng.gen_range(0..bits);
        for (path, length) in candidates {
            if bit < length * 8 {
                self.flip_bit(&path, bit);
                return Some(Flip { path, bit });
            }
            bit -= length * 8;
        }
        None
    }

    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let content = |file: &FileId| self.files[file].content().to_vec();
        self.now
            .iter()
            .filter_map(|(path, node)| match node {
                Node::File(file) => Some((path.clone(), content(file))),
                Node::Folder(_) => None,
            })
            .collect()
    }

    pub fn image(&self) -> Image {
        let mut image = Image::default();
        for (path, node) in &self.synced {
            match node {
                Node::Folder(mode) => image.folders.push((path.clone(), *mode)),
                Node::File(file) => {
                    let file = &self.files[file];
                    let content = file.synced().to_vec();
                    image.files.push((path.clone(), file.mode, content));
                }
            }
        }
        image
    }

    pub fn set_image(&mut self, image: &Image) {
        self.powered = false;
        self.end_life();
        self.pending.clear();
        self.files.clear();
        self.synced.clear();
        for (path, mode) in &image.folders {
            self.synced.insert(path.clone(), Node::Folder(*mode));
        }
        for (path, mode, content) in &image.files {
            let id = FileId(self.draw_id());
            self.files
                .insert(id, File::with_content(*mode, content.clone()));
            self.synced.insert(path.clone(), Node::File(id));
        }
        self.now.clone_from(&self.synced);
    }

    fn file(&mut self, file: FileId) -> &mut File {
        self.files
            .get_mut(&file)
            .expect("a file that is named or open is kept")
    }

    fn draw_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

fn apply(names: &mut Names, change: &NameChange) {
    match change {
        NameChange::File(path, file) => {
            names.insert(path.clone(), Node::File(*file));
        }
        NameChange::Folder(path, mode) => {
            names.insert(path.clone(), Node::Folder(*mode));
        }
        NameChange::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
        NameChange::Remove(path) => {
            names.remove(path);
        }
    }
}

/// Number of temporary files, as [`Platter::temporary_beside`] names them.
fn temporaries(names: &Names) -> u64 {
    let is_temporary = |path: &&PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with('.') && name.ends_with(".tmp"))
    };
    names.keys().filter(is_temporary).count() as u64
}

fn no_power() -> io::Error {
    io::Error::other("this disk has lost power")
}

fn injected() -> io::Error {
    io::Error::other("injected input/output error")
}
