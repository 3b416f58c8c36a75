//! The workload attestor `unix`: user, groups and executable of a process.
//!
//! Responsible for: the selectors `unix:{uid,user,gid,group,supplementary_gid,
//! supplementary_group,path,sha256}`, as SPIRE's attestor of that name gives them. Always holds:
//! what the agent may not read is left out and named; a hash is of exactly one file's content.
//! Not here: reading `/proc` (`procfs`).

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use aws_lc_rs::digest;
use mintmark_identity::selector::{Selector, Selectors};
use mintmark_runtime::disk::Disk;

use super::{
    attestor::{AttestError, Attested, Unreadable, WorkloadAttestor},
    procfs::{FileId, Ids, Proc},
};

/// Hashes that are remembered: one per distinct executable of a busy node.
const HASHES_MAX: usize = 1_024;

/// What the attestor looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnixOptions {
    /// Whether to find path and hash of the executable.
    pub discover_path: bool,
    /// Executables larger than this are not hashed; `None` for any size.
    pub hash_size_max: Option<u64>,
}

/// Larger executables are not hashed unless the configuration says so: a file with holes has any size
/// for nothing, and whoever runs it would keep the agent reading.
pub const HASH_SIZE_MAX: u64 = 1 << 30;

impl Default for UnixOptions {
    fn default() -> Self {
        Self {
            discover_path: true,
            hash_size_max: Some(HASH_SIZE_MAX),
        }
    }
}

/// The attestor.
#[derive(Clone, Debug)]
pub struct UnixAttestor {
    disk: Arc<dyn Disk>,
    looker: Looker,
}

#[derive(Clone, Debug)]
struct Looker {
    proc: Arc<dyn Proc>,
    options: UnixOptions,
    hashes: Arc<Mutex<BTreeMap<FileId, String>>>,
}

impl UnixAttestor {
    /// An attestor over this view of the system; `disk` runs its blocking calls.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, proc: Arc<dyn Proc>, options: UnixOptions) -> Self {
        Self {
            disk,
            looker: Looker {
                proc,
                options,
                hashes: Arc::default(),
            },
        }
    }
}

#[async_trait]
impl WorkloadAttestor for UnixAttestor {
    async fn attest(&self, pid: u32) -> Result<Attested, AttestError> {
        let looker = self.looker.clone();
        let unreadable = |error: &io::Error| AttestError::Unreadable {
            pid,
            reason: reason(error),
        };
        match self.disk.run(move || looker.look(pid)).await {
            Ok(Ok(attested)) => Ok(attested),
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(AttestError::Gone),
            Ok(Err(error)) | Err(error) => Err(unreadable(&error)),
        }
    }

    async fn describe_user(&self, uid: u32) -> Attested {
        let looker = self.looker.clone();
        let described = self.disk.run(move || {
            let mut found = Found::default();
            let gid = looker.user(uid, &mut found);
            if let Some(gid) = gid {
                looker.group("gid", "group", gid, &mut found);
            }
            found.0
        });
        described.await.unwrap_or_else(|error| Attested {
            selectors: Selectors::new(),
            unreadable: vec![Unreadable {
                selector: "unix".to_owned(),
                reason: reason(&error),
            }],
        })
    }
}

struct Found(Attested);

impl Default for Found {
    fn default() -> Self {
        Self(Attested {
            selectors: Selectors::new(),
            unreadable: Vec::new(),
        })
    }
}

impl Found {
    fn add(&mut self, key: &str, value: &str) {
        match Selector::new("unix", format!("{key}:{value}")) {
            Ok(selector) => {
                self.0.selectors.insert(selector);
            }
            Err(error) => self.missing(key, &error.to_string()),
        }
    }

    fn missing(&mut self, key: &str, reason: &str) {
        self.0.unreadable.push(Unreadable {
            selector: format!("unix:{key}"),
            reason: reason.to_owned(),
        });
    }
}

impl Looker {
    fn look(&self, pid: u32) -> io::Result<Attested> {
        let Ids { uid, gid, groups } = self.proc.ids(pid)?;
        let mut found = Found::default();
        self.user(uid, &mut found);
        self.group("gid", "group", gid, &mut found);
        for group in groups {
            self.group(
                "supplementary_gid",
                "supplementary_group",
                group,
                &mut found,
            );
        }
        if self.options.discover_path {
            self.executable(pid, &mut found);
        }
        Ok(found.0)
    }

    /// Adds uid and user; returns the account's primary group.
    fn user(&self, uid: u32, found: &mut Found) -> Option<u32> {
        found.add("uid", &uid.to_string());
        match self.proc.user(uid) {
            Ok(Some(account)) => {
                found.add("user", &account.name);
                return Some(account.gid);
            }
            Ok(None) => found.missing("user", &format!("uid {uid} has no account")),
            Err(error) => found.missing("user", &reason(&error)),
        }
        None
    }

    fn group(&self, id_key: &str, name_key: &str, gid: u32, found: &mut Found) {
        found.add(id_key, &gid.to_string());
        match self.proc.group_name(gid) {
            Ok(Some(name)) => found.add(name_key, &name),
            Ok(None) => found.missing(name_key, &format!("gid {gid} has no name")),
            Err(error) => found.missing(name_key, &reason(&error)),
        }
    }

    fn executable(&self, pid: u32, found: &mut Found) {
        match self.proc.executable_path(pid) {
            Ok(path) => match path.to_str() {
                // The kernel says so when the file was replaced or removed after the start.
                Some(path) if path.ends_with(" (deleted)") => {
                    found.missing("path", "the executable was deleted or replaced");
                }
                Some(path) => found.add("path", path),
                None => found.missing("path", "the path is not UTF-8"),
            },
            Err(error) => found.missing("path", &reason(&error)),
        }
        match self.hash(pid) {
            Ok(hash) => found.add("sha256", &hash),
            Err(error) => found.missing("sha256", &reason(&error)),
        }
    }

    fn hash(&self, pid: u32) -> io::Result<String> {
        let id = self.proc.executable_id(pid)?;
        if let Some(limit) = self.options.hash_size_max.filter(|limit| id.size > *limit) {
            let (size, text) = (id.size, "bytes, more than workload.hash_size_max");
            return Err(io::Error::other(format!("it has {size} {text} ({limit})")));
        }
        if let Some(hash) = self.remembered(id) {
            return Ok(hash);
        }
        let hash = sha256(self.proc.open_executable(pid)?, id.size)?;
        if self.proc.executable_id(pid)? != id {
            return Err(io::Error::other("the executable changed while it was read"));
        }
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if hashes.len() >= HASHES_MAX {
            hashes.pop_first();
        }
        hashes.insert(id, hash.clone());
        Ok(hash)
    }

    fn remembered(&self, id: FileId) -> Option<String> {
        self.hashes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }
}

/// Hashes exactly `size` bytes, so that a file that grows for ever ends.
fn sha256(mut content: impl io::Read, size: u64) -> io::Result<String> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0_u8; 64 << 10];
    let mut read = 0_u64;
    loop {
        let count = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        context.update(buffer.get(..count).unwrap_or_default());
        read = read.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if read > size {
            break;
        }
    }
    if read == size {
        Ok(hex::encode(context.finish()))
    } else {
        Err(io::Error::other("the executable changed while it was read"))
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "permission denied: run the agent as root, or with CAP_SYS_PTRACE and \
             CAP_DAC_READ_SEARCH, to see processes of other users"
                .to_owned()
        }
        io::ErrorKind::NotFound => "the process is gone".to_owned(),
        _ => error.to_string(),
    }
}
