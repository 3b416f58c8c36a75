//! Unix sockets: binding them safely, and who is on the other side.
//!
//! Always holds: binding never destroys anything but a socket on which nobody answers, and a
//! dropped listener removes its socket only while it is still the one it made. Not here: what a
//! peer may do; callers decide that from [`Peer`].

use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::disk::os::create_directories;
use crate::network::{self, BoxStream, Listener, UnixMode};

pub mod peer;

pub use self::peer::{Liveness, Peer};

/// Longest path of a Unix socket on Linux: `sun_path` has 108 bytes, the last one is zero.
pub const SOCKET_PATH_LEN_MAX: usize = 107;

/// Connections that may wait for `accept`; the system's own maximum (4096) caps it.
const BACKLOG: u32 = 1024;

/// Why a Unix socket could not be bound. The path is part of every message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The path does not fit into a socket address: choose a shorter one.
    #[error("socket path has {length} bytes, at most {SOCKET_PATH_LEN_MAX} are possible: {}", path.display())]
    PathTooLong {
        /// The path that was asked for.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// The folder could not be made.
    #[error("cannot create the socket directory {}", path.display())]
    Directory {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something that is not a socket lies at the path; it is left alone.
    #[error("a file that is not a socket is in the way at {}", path.display())]
    NotASocket {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// Another process listens there.
    #[error("another process listens on {}", path.display())]
    InUse {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// A stale socket could not be examined or removed.
    #[error("cannot replace the socket {}", path.display())]
    Stale {
        /// The path that was asked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket could not be bound or its mode could not be set.
    #[error("cannot listen on the socket {}", path.display())]
    Bind {
        /// The path that was asked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl BindError {
    /// The nearest [`io::ErrorKind`], for callers that only map kinds.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::PathTooLong { .. } => io::ErrorKind::InvalidInput,
            Self::NotASocket { .. } => io::ErrorKind::AlreadyExists,
            Self::InUse { .. } => io::ErrorKind::AddrInUse,
            Self::Directory { source, .. }
            | Self::Stale { source, .. }
            | Self::Bind { source, .. } => source.kind(),
        }
    }
}

/// A bound Unix socket that names its peers.
pub struct UnixListener {
    #[expect(clippy::disallowed_types, reason = "this is where Unix sockets enter")]
    listener: tokio::net::UnixListener,
    file: SocketFile,
}

impl UnixListener {
    /// Binds `path`, creating missing parent folders, and sets the socket's mode.
    ///
    /// # Errors
    /// One [`BindError`] per cause. Nothing was changed except, possibly, created folders and a
    /// removed stale socket.
    pub async fn bind(path: &Path, mode: UnixMode) -> Result<Self, BindError> {
        let length = path.as_os_str().len();
        if length > SOCKET_PATH_LEN_MAX {
            return Err(BindError::PathTooLong {
                path: path.to_owned(),
                length,
            });
        }
        create_parent(path, mode.directory)?;
        remove_stale(path).await?;
        let failed = |source| BindError::Bind {
            path: path.to_owned(),
            source,
        };
        // Bound, then restricted, then listening: nobody can connect before the mode holds.
        let socket = tokio::net::UnixSocket::new_stream().map_err(failed)?;
        socket.bind(path).map_err(|source| {
            if source.kind() == io::ErrorKind::AddrInUse {
                in_use(path)
            } else {
                failed(source)
            }
        })?;
        let file = SocketFile::of(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode.socket))
            .map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        Ok(Self { listener, file })
    }
}

fn create_parent(path: &Path, mode: u32) -> Result<(), BindError> {
    let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    else {
        return Ok(());
    };
    create_directories(parent, mode).map_err(|source| BindError::Directory {
        path: parent.to_owned(),
        source,
    })?;
    if let Ok(found) = std::fs::metadata(parent)
        && is_exposed(found.mode(), found.uid(), nix::unistd::geteuid().as_raw())
    {
        let (path, mode) = (parent.display(), format!("{:o}", found.mode() & 0o7777));
        tracing::warn!(%path, mode, "others can replace the socket in this folder");
    }
    Ok(())
}

/// Whether somebody else than we and root can put another socket in the place of one in such a folder.
fn is_exposed(mode: u32, owner: u32, own: u32) -> bool {
    let foreign = owner != own && owner != 0;
    foreign || (mode & 0o022 != 0 && mode & 0o1000 == 0)
}

/// Removes a socket that nobody listens on. Only a refused connection proves that.
async fn remove_stale(path: &Path) -> Result<(), BindError> {
    let stale = |source| BindError::Stale {
        path: path.to_owned(),
        source,
    };
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(stale(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket {
            path: path.to_owned(),
        });
    }
    #[expect(clippy::disallowed_types, reason = "this is where Unix sockets enter")]
    let answer = tokio::net::UnixStream::connect(path).await;
    match answer {
        // A full backlog (`WouldBlock`) also means that somebody listens.
        Ok(_) => Err(in_use(path)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use(path)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            remove_file(path).map_err(stale)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(stale(error)),
    }
}

fn in_use(path: &Path) -> BindError {
    BindError::InUse {
        path: path.to_owned(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "sockets are files of this module"
)]
fn remove_file(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)
}

#[async_trait]
impl Listener for UnixListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, network::Peer)> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            match peer::of_socket(&stream) {
                Ok(peer) => return Ok((Box::new(stream), network::Peer::Unix(peer))),
                // Out of descriptors is our condition, and the caller backs off from it.
                Err(error) if is_exhaustion(&error) => return Err(error),
                // Anything else is the peer's: without credentials it is not served.
                Err(error) => tracing::debug!(%error, "peer credentials unavailable"),
            }
        }
    }

    fn local_address(&self) -> String {
        self.file.path.display().to_string()
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    use nix::errno::Errno;
    error.raw_os_error().is_some_and(|code| {
        matches!(
            Errno::from_raw(code),
            Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM
        )
    })
}

impl fmt::Debug for UnixListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixListener")
            .field("path", &self.file.path)
            .finish_non_exhaustive()
    }
}

/// The socket's directory entry; removed on drop if it is still the one we made.
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode);
        if ours {
            // Best effort: a socket left behind is recognised as stale by the next bind.
            let _ = remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests;
