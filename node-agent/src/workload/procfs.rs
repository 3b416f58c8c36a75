//! What the system tells about a process and its accounts.
//!
//! Responsible for: the seam [`Proc`], its implementation over `/proc`, and parsing
//! `/proc/<pid>/status`. Always holds: an unreadable thing is an error with a reason, never an
//! empty answer. Not here: which selectors that makes (`unix`), and the certainty that the pid
//! still means the same process (`workload`).

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use mintmark_runtime::disk::Disk;
use nix::unistd::{Gid, Group, Uid, User};

/// The ids under which a process runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ids {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Which file an executable is; the same value means the same content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FileId {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last change of content, seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Last change of content or attributes, which nobody but root can set back.
    pub changed: (i64, i64),
}

/// An account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its primary group.
    pub gid: u32,
}

/// What the system knows. The calls block and are made from `Disk::run_blocking`.
pub trait Proc: Send + Sync + std::fmt::Debug {
    /// The ids of a process.
    ///
    /// # Errors
    /// When there is no such process or it may not be looked at.
    fn ids(&self, pid: u32) -> io::Result<Ids>;
    /// The path of its executable, as the kernel knows it.
    ///
    /// # Errors
    /// `PermissionDenied` for processes of other users, unless we are root.
    fn executable_path(&self, pid: u32) -> io::Result<PathBuf>;
    /// Which file its executable is.
    ///
    /// # Errors
    /// As for [`Proc::executable_path`].
    fn executable_id(&self, pid: u32) -> io::Result<FileId>;
    /// The content of its executable.
    ///
    /// # Errors
    /// As for [`Proc::executable_path`].
    fn open_executable(&self, pid: u32) -> io::Result<Box<dyn Read + Send>>;
    /// The account of a user id, if it has one.
    ///
    /// # Errors
    /// When the account database cannot be asked.
    fn user(&self, uid: u32) -> io::Result<Option<Account>>;
    /// The name of a group id, if it has one.
    ///
    /// # Errors
    /// When the account database cannot be asked.
    fn group_name(&self, gid: u32) -> io::Result<Option<String>>;
}

/// The machine's own `/proc` and account database.
#[derive(Clone, Debug)]
pub struct OsProc {
    disk: Arc<dyn Disk>,
    root: PathBuf,
}

impl OsProc {
    /// Reads below `/proc`.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self {
            disk,
            root: PathBuf::from("/proc"),
        }
    }

    fn path(&self, pid: u32, name: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(name)
    }
}

impl Proc for OsProc {
    fn ids(&self, pid: u32) -> io::Result<Ids> {
        let text = self.disk.read(&self.path(pid, "status"))?;
        parse_status(&text).ok_or_else(|| io::Error::other("/proc status is malformed"))
    }

    fn executable_path(&self, pid: u32) -> io::Result<PathBuf> {
        Ok(PathBuf::from(nix::fcntl::readlink(&self.path(pid, "exe"))?))
    }

    fn executable_id(&self, pid: u32) -> io::Result<FileId> {
        file_id(&self.path(pid, "exe"))
    }

    fn open_executable(&self, pid: u32) -> io::Result<Box<dyn Read + Send>> {
        self.disk.open_read(&self.path(pid, "exe"))
    }

    fn user(&self, uid: u32) -> io::Result<Option<Account>> {
        let user = User::from_uid(Uid::from_raw(uid))?;
        Ok(user.map(|user| Account {
            name: user.name,
            gid: user.gid.as_raw(),
        }))
    }

    fn group_name(&self, gid: u32) -> io::Result<Option<String>> {
        Ok(Group::from_gid(Gid::from_raw(gid))?.map(|group| group.name))
    }
}

fn file_id(path: &Path) -> io::Result<FileId> {
    let stat = nix::sys::stat::stat(path)?;
    Ok(FileId {
        device: stat.st_dev,
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: (stat.st_mtime, stat.st_mtime_nsec),
        changed: (stat.st_ctime, stat.st_ctime_nsec),
    })
}

/// Reads effective ids (the second column) and groups, proc_pid_status(5). The name in the
/// first line is the process's own choice; a line counts only with its exact key at the start,
/// and the kernel escapes line ends in the name.
#[must_use]
pub fn parse_status(text: &[u8]) -> Option<Ids> {
    let text = String::from_utf8_lossy(text);
    let line = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
    };
    let effective = |key: &str| line(key)?.split_ascii_whitespace().nth(1)?.parse().ok();
    let groups = line("Groups")?
        .split_ascii_whitespace()
        .map(str::parse)
        .collect::<Result<Vec<u32>, _>>()
        .ok()?;
    Some(Ids {
        uid: effective("Uid")?,
        gid: effective("Gid")?,
        groups,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATUS: &str = "Name:\tUid: 0 0\nUmask:\t0022\nState:\tS (sleeping)\nPid:\t7\n\
        Uid:\t1000\t1001\t1002\t1003\nGid:\t100\t101\t102\t103\nFDSize:\t64\nGroups:\t4 24 100 \n";

    #[test]
    fn effective_ids_and_groups_are_read_and_a_hostile_name_is_not() {
        let ids = parse_status(STATUS.as_bytes());
        assert_eq!(
            ids,
            Some(Ids {
                uid: 1001,
                gid: 101,
                groups: vec![4, 24, 100]
            })
        );
    }

    #[test]
    fn a_process_without_groups_has_none() {
        let text = STATUS.replace("Groups:\t4 24 100 \n", "Groups:\t \n");
        assert_eq!(
            parse_status(text.as_bytes()).map(|ids| ids.groups),
            Some(Vec::new())
        );
    }

    #[test]
    fn what_is_missing_or_malformed_gives_nothing() {
        for (from, to) in [
            ("Uid:\t1000\t1001", "Uid:\t1000"),
            ("Uid:\t1000\t1001", "Uid:\tx\ty"),
            ("Groups:\t4", "Groups:\t-4"),
            ("Groups", "Group"),
            ("Gid:", "Xid:"),
        ] {
            let text = STATUS.replacen(from, to, 1);
            let text = if from.starts_with("Uid") && to == "Uid:\t1000" {
                text.replace("\t1002\t1003", "")
            } else {
                text
            };
            assert_eq!(parse_status(text.as_bytes()), None, "{to}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_status(&text);
        }
    }
}
