//! The process at the other end of a Unix socket.
//!
//! Responsible for uid, gid and pid as the kernel recorded them when the peer connected, and for
//! telling whether that very process still lives. Always holds: a pid is never trusted on its
//! own, since it can be reused: [`Peer::is_alive`] answers for the process that connected.
//! Not here: reading `/proc` for selectors; do that between two [`Peer::is_alive`] checks.

use std::fmt;
use std::io;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::Mode;

/// Tells whether one particular process still runs.
pub trait Liveness: Send + Sync + fmt::Debug {
    /// False once the process has exited, reaped or not. False when in doubt.
    fn is_alive(&self) -> bool;
}

/// A local process that connected to one of our sockets.
#[derive(Clone)]
pub struct Peer {
    /// Process id in our pid namespace; `None` when the peer is not visible from it.
    pub pid: Option<u32>,
    /// Effective user id at connect time.
    pub uid: u32,
    /// Effective group id at connect time.
    pub gid: u32,
    liveness: Arc<dyn Liveness>,
}

impl Peer {
    /// A peer with the given credentials; simulators and tests bring their own [`Liveness`].
    #[must_use]
    pub fn new(pid: Option<u32>, uid: u32, gid: u32, liveness: Arc<dyn Liveness>) -> Self {
        Self {
            pid,
            uid,
            gid,
            liveness,
        }
    }

    /// True while the process that connected still runs. Check it before *and after* using
    /// [`Peer::pid`] to look something up: the kernel hands out a pidfd for a dead peer too.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.liveness.is_alive()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("pid", &self.pid)
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid} uid {}", self.uid),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

/// Credentials and liveness of the process that connected `socket`.
pub(super) fn of_socket(socket: &impl AsFd) -> io::Result<Peer> {
    let credentials = getsockopt(&socket.as_fd(), sockopt::PeerCredentials)?;
    let pid = u32::try_from(credentials.pid())
        .ok()
        .filter(|pid| *pid != 0);
    let liveness: Arc<dyn Liveness> = match getsockopt(&socket.as_fd(), sockopt::PeerPidfd) {
        Ok(pidfd) => Arc::new(Pidfd(pidfd)),
        // Some kernels refuse a pidfd for a peer that is reaped already.
        Err(Errno::ESRCH | Errno::EINVAL | Errno::ENODATA) => Arc::new(Gone),
        // Older than Linux 6.5.
        Err(Errno::ENOPROTOOPT | Errno::EOPNOTSUPP) => match pid.map(ProcEntry::open) {
            Some(Ok(entry)) => Arc::new(entry),
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => Arc::new(Gone),
        },
        Err(error) => return Err(error.into()),
    };
    Ok(Peer::new(
        pid,
        credentials.uid(),
        credentials.gid(),
        liveness,
    ))
}

/// The kernel's handle of the process that connected (Linux 6.5 and later).
#[derive(Debug)]
struct Pidfd(OwnedFd);

impl Liveness for Pidfd {
    fn is_alive(&self) -> bool {
        // A pidfd becomes readable when its process exits, before it is reaped.
        let mut interest = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut interest, PollTimeout::ZERO), Ok(0))
    }
}

/// The peer was gone before we could take hold of it.
#[derive(Debug)]
struct Gone;

impl Liveness for Gone {
    fn is_alive(&self) -> bool {
        false
    }
}

/// An open `/proc/<pid>` folder: like a pidfd it stays with its process and answers `ESRCH`
/// once that is reaped, even if the pid is used again. The start time is kept as well, so that
/// a pid reused between connect and open is noticed when a later look finds another process.
#[derive(Debug)]
struct ProcEntry {
    folder: OwnedFd,
    start_time: u64,
}

impl ProcEntry {
    fn open(pid: u32) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = open(format!("/proc/{pid}").as_str(), flags, Mode::empty())?;
        let (_, start_time) = state_and_start_time(&folder)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Self { folder, start_time })
    }
}

impl Liveness for ProcEntry {
    fn is_alive(&self) -> bool {
        state_and_start_time(&self.folder)
            .is_some_and(|(state, start)| !matches!(state, 'Z' | 'X') && start == self.start_time)
    }
}

fn state_and_start_time(folder: &OwnedFd) -> Option<(char, u64)> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = openat(folder, "stat", flags, Mode::empty()).ok()?;
    let mut line = Vec::new();
    std::fs::File::from(file)
        .take(STAT_LEN_MAX)
        .read_to_end(&mut line)
        .ok()?;
    // A command name may hold any bytes.
    parse_stat(&String::from_utf8_lossy(&line))
}

/// One line of about 50 numbers and a name of 15 bytes; far below this.
const STAT_LEN_MAX: u64 = 4096;

/// State and start time: fields 3 and 22 of `/proc/<pid>/stat`, proc(5). The second field, the
/// command in parentheses, may itself contain spaces and parentheses, so the last `)` counts.
fn parse_stat(text: &str) -> Option<(char, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some((state, start_time))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn stat_is_read_past_a_hostile_command_name() {
        let text = "7 (a) Z 1 (b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 2";
        assert_eq!(parse_stat(text), Some(('S', 98765)));
        for bad in [
            "",
            "7 (a",
            "7 (a) S 1 2",
            "7 (a) S 1 7 7 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 x",
        ] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
    }

    /// Runs the same story against a kind of liveness: alive, killed but not reaped, reaped.
    fn dies(liveness: &dyn Liveness, child: &mut std::process::Child) {
        assert!(liveness.is_alive());
        child.kill().unwrap();
        nix::sys::wait::waitid(
            nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(child.id().cast_signed())),
            nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT,
        )
        .unwrap();
        assert!(!liveness.is_alive(), "a zombie is not alive");
        child.wait().unwrap();
        assert!(!liveness.is_alive());
    }

    fn child() -> std::process::Child {
        std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap()
    }

    #[test]
    fn a_proc_entry_notices_death_before_and_after_reaping() {
        let mut child = child();
        let entry = ProcEntry::open(child.id()).unwrap();
        dies(&entry, &mut child);
        assert_eq!(
            ProcEntry::open(child.id()).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn the_peer_of_a_socket_pair_is_this_process() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = of_socket(&a).unwrap();
        assert_eq!(peer.pid, Some(std::process::id()));
        assert_eq!(peer.uid, nix::unistd::getuid().as_raw());
        assert_eq!(peer.gid, nix::unistd::getgid().as_raw());
        assert!(peer.is_alive());
    }
}
