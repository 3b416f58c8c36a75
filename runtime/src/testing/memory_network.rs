//! A network in memory, with made-up local processes.
//!
//! Responsible for the behaviour of [`Network`] without sockets. Always holds: clones share their
//! listeners; a connection carries the credentials of the [`MemoryProcess`] that opened it.
//! Not here: delay, loss and partitions.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::network::{Address, BoxStream, Listener, Network, Peer, UnixMode};
use crate::unix::{self, Liveness, SOCKET_PATH_LEN_MAX};

/// [`Network`] in memory. A clone shares the listeners.
#[derive(Clone, Debug)]
pub struct MemoryNetwork {
    shared: Arc<Mutex<Shared>>,
    process: MemoryProcess,
}

/// A made-up local process: the one that connects through
/// [`MemoryNetwork::for_process`]. A clone is the same process.
#[derive(Clone, Debug)]
pub struct MemoryProcess {
    pid: u32,
    uid: u32,
    gid: u32,
    alive: Arc<Alive>,
}

#[derive(Debug)]
struct Alive(AtomicBool);

impl Liveness for Alive {
    fn is_alive(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl MemoryProcess {
    /// A running process.
    #[must_use]
    pub fn new(pid: u32, uid: u32, gid: u32) -> Self {
        Self {
            pid,
            uid,
            gid,
            alive: Arc::new(Alive(AtomicBool::new(true))),
        }
    }

    /// Ends the process: its peers see that at once. Its connections stay open, as they do when a
    /// dead process has passed its sockets on.
    pub fn kill(&self) {
        self.alive.0.store(false, Ordering::SeqCst);
    }

    /// How a listener sees this process.
    #[must_use]
    pub fn peer(&self) -> unix::Peer {
        let alive: Arc<dyn Liveness> = self.alive.clone();
        unix::Peer::new(Some(self.pid), self.uid, self.gid, alive)
    }
}

#[derive(Debug)]
struct Shared {
    listeners: BTreeMap<Key, Entry>,
    next_id: u64,
    next_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Tcp(Address),
    Unix(PathBuf),
}

#[derive(Clone, Debug)]
struct Entry {
    id: u64,
    queue: mpsc::Sender<(BoxedStream, Peer)>,
    /// Who made the socket, and its mode; only for Unix sockets.
    owner: u32,
    mode: u32,
}

/// The first port given out for port 0, and to clients: the dynamic range of RFC 6335.
const DYNAMIC_PORT_MIN: u16 = 49152;

/// Connections that wait to be accepted, as a kernel's default backlog.
const BACKLOG: usize = 128;

/// Bytes under way in each direction.
const BUFFER_LEN: usize = 64 * 1024;

type BoxedStream = tokio::io::DuplexStream;

impl Default for MemoryNetwork {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryNetwork {
    /// A network without listeners, used by process 1 of user 0.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Mutex::new(Shared {
                listeners: BTreeMap::new(),
                next_id: 0,
                next_port: DYNAMIC_PORT_MIN,
            })),
            process: MemoryProcess::new(1, 0, 0),
        }
    }

    /// The same network as used by another process.
    #[must_use]
    pub fn for_process(&self, process: &MemoryProcess) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            process: process.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    fn register(&self, key: Key, mode: u32) -> io::Result<MemoryListener> {
        let mut shared = self.lock();
        if shared.listeners.contains_key(&key) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (queue, accepted) = mpsc::channel(BACKLOG);
        let id = shared.next_id;
        shared.next_id = shared.next_id.wrapping_add(1);
        let owner = self.process.uid;
        shared.listeners.insert(
            key.clone(),
            Entry {
                id,
                queue,
                owner,
                mode,
            },
        );
        Ok(MemoryListener {
            shared: Arc::clone(&self.shared),
            key,
            id,
            accepted,
        })
    }

    async fn join(&self, entry: Entry, peer: Peer) -> io::Result<BoxStream> {
        let (ours, theirs) = tokio::io::duplex(BUFFER_LEN);
        entry
            .queue
            .send((theirs, peer))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(Box::new(ours))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn free_port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(DYNAMIC_PORT_MIN);
        port
    }
}

/// `localhost` and 127.0.0.1 are one place.
fn place(address: &Address) -> Address {
    if address.host() == "localhost" {
        SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())).into()
    } else {
        address.clone()
    }
}

#[async_trait]
impl Network for MemoryNetwork {
    async fn connect(&self, address: &Address) -> io::Result<BoxStream> {
        let (entry, port) = {
            let mut shared = self.lock();
            let entry = shared.listeners.get(&Key::Tcp(place(address))).cloned();
            (entry, shared.free_port())
        };
        let entry = entry.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        let peer = Peer::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        self.join(entry, peer).await
    }

    async fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>> {
        let mut address = place(address);
        if address.port() == 0 {
            let port = self.lock().free_port();
            address = Address::new(address.host(), port).map_err(io::Error::other)?;
        }
        let failed = |error: io::Error| {
            let message = format!("cannot listen on {address}");
            io::Error::new(error.kind(), message)
        };
        let listener = self
            .register(Key::Tcp(address.clone()), 0)
            .map_err(failed)?;
        Ok(Box::new(listener))
    }

    async fn connect_unix(&self, path: &Path) -> io::Result<BoxStream> {
        let entry = self
            .lock()
            .listeners
            .get(&Key::Unix(path.to_owned()))
            .cloned();
        let entry = entry.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let uid = self.process.uid;
        // Groups are left out: owner, everybody, and root.
        let write = if uid == entry.owner { 0o200 } else { 0o002 };
        if uid != 0 && entry.mode & write == 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.join(entry, Peer::Unix(self.process.peer())).await
    }

    async fn listen_unix(&self, path: &Path, mode: UnixMode) -> io::Result<Box<dyn Listener>> {
        let length = path.as_os_str().len();
        if length > SOCKET_PATH_LEN_MAX {
            let error = unix::BindError::PathTooLong {
                path: path.to_owned(),
                length,
            };
            return Err(io::Error::new(error.kind(), error));
        }
        let listener = self.register(Key::Unix(path.to_owned()), mode.socket);
        let listener = listener.map_err(|_| {
            let error = unix::BindError::InUse {
                path: path.to_owned(),
            };
            io::Error::new(error.kind(), error)
        })?;
        Ok(Box::new(listener))
    }
}

struct MemoryListener {
    shared: Arc<Mutex<Shared>>,
    key: Key,
    id: u64,
    accepted: mpsc::Receiver<(BoxedStream, Peer)>,
}

#[async_trait]
impl Listener for MemoryListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, Peer)> {
        match self.accepted.recv().await {
            Some((stream, peer)) => Ok((Box::new(stream), peer)),
            // The registration holds a sender for as long as this listener lives.
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn local_address(&self) -> String {
        match &self.key {
            Key::Tcp(address) => address.to_string(),
            Key::Unix(path) => path.display().to_string(),
        }
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        if shared.listeners.get(&self.key).map(|entry| entry.id) == Some(self.id) {
            shared.listeners.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_the_process_that_connected() {
        let network = MemoryNetwork::new();
        let path = Path::new("/run/agent.sock");
        let mut listener = network.listen_unix(path, UnixMode::PUBLIC).await.unwrap();
        let workload = MemoryProcess::new(4711, 1000, 100);
        let _stream = network
            .for_process(&workload)
            .connect_unix(path)
            .await
            .unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        let peer = peer.unix().unwrap().clone();
        assert_eq!((peer.pid, peer.uid, peer.gid), (Some(4711), 1000, 100));
        assert!(peer.is_alive());
        workload.kill();
        assert!(!peer.is_alive());
    }

    #[tokio::test(start_paused = true)]
    async fn a_private_socket_is_closed_to_other_users() {
        let owner = MemoryNetwork::new().for_process(&MemoryProcess::new(2, 1000, 1000));
        let path = Path::new("/run/admin.sock");
        let _listener = owner.listen_unix(path, UnixMode::PRIVATE).await.unwrap();
        owner.connect_unix(path).await.map(drop).unwrap();
        let other = owner.for_process(&MemoryProcess::new(3, 1001, 1000));
        let error = other.connect_unix(path).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let root = owner.for_process(&MemoryProcess::new(4, 0, 0));
        root.connect_unix(path).await.map(drop).unwrap();
    }
}
